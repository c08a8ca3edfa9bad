//! `gc`: removes cached steps, layers and downloads that no image needs.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Host, list};
use crate::cli::Options;
use crate::error::{Error, Result};
use crate::log::info;
use crate::storage::{Access, Keep, KeepBlobs};

pub fn gc(host: &Host, options: &Options) -> Result<()> {
    let keep = options.keep.as_deref().map_or(Ok(Keep::Nothing), parse_keep)?;
    let access = if options.dry_run { Access::Read } else { Access::Exclusive };
    let Some(storage) = host.existing_storage(access)? else {
        info!("nothing to remove: no storage directory");
        return Ok(());
    };
    let garbage = storage.garbage(keep, host.keep_blobs())?;
    if !options.dry_run {
        storage.collect(&garbage)?;
    }
    let verb = if options.dry_run { "would remove" } else { "removed" };
    let others = match garbage.others {
        0 => String::new(),
        n => format!(", {} of them caches and unfinished downloads", list::bytes(n)),
    };
    let stages = match garbage.stages.len() {
        0 => String::new(),
        n => format!("{n} stages of builds, "),
    };
    let (layers, blobs) = (garbage.layers.len(), garbage.blobs.len());
    info!("{verb} {stages}{layers} layers and {blobs} blobs: {}{others}", list::bytes(garbage.bytes));
    Ok(())
}

/// The value of `$CH_IMAGE_BLOBS`: `keep`, `drop` or a size.
pub fn parse_keep_blobs(text: &str) -> Result<KeepBlobs> {
    match (text, parse_keep(text)) {
        ("" | "keep", _) => Ok(KeepBlobs::All),
        ("drop", _) => Ok(KeepBlobs::UpTo(0)),
        (_, Ok(Keep::Size(limit))) => Ok(KeepBlobs::UpTo(limit)),
        (_, Ok(Keep::Nothing | Keep::Since(_)) | Err(_)) => {
            let e = Error::new(format!("CH_IMAGE_BLOBS: unknown value: {text:?}"));
            Err(e.hint("keep (the default), drop, or a size such as 10G"))
        }
    }
}

/// `10G`, `500M` (bytes) or `7d`, `12h`, `30m` (age): small letters are times.
fn parse_keep(text: &str) -> Result<Keep> {
    let wrong = || {
        Error::usage(format!("--keep: neither a size nor an age: {text:?}"))
            .hint("sizes: 500M, 10G, 1T; ages: 30m, 12h, 7d, 4w")
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let times = |factor: u64| number.checked_mul(factor).ok_or_else(wrong);
    let since = |seconds: u64| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Keep::Since(now.saturating_sub(seconds))
    };
    match &text[digits.len()..] {
        "" | "B" => Ok(Keep::Size(number)),
        "K" | "KiB" => times(1 << 10).map(Keep::Size),
        "M" | "MiB" => times(1 << 20).map(Keep::Size),
        "G" | "GiB" => times(1 << 30).map(Keep::Size),
        "T" | "TiB" => times(1 << 40).map(Keep::Size),
        "s" => Ok(since(number)),
        "m" => times(60).map(since),
        "h" => times(3600).map(since),
        "d" => times(86400).map(since),
        "w" => times(7 * 86400).map(since),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_told_apart() {
        assert_eq!(parse_keep("10G").unwrap(), Keep::Size(10 << 30));
        assert_eq!(parse_keep("500M").unwrap(), Keep::Size(500 << 20));
        assert!(matches!(parse_keep("7d"), Ok(Keep::Since(t)) if t > 0));
        for (text, want) in [("keep", KeepBlobs::All), ("drop", KeepBlobs::UpTo(0)), ("2K", KeepBlobs::UpTo(2048))] {
            assert_eq!(parse_keep_blobs(text).unwrap(), want, "{text}");
        }
        assert!(parse_keep_blobs("7d").is_err() && parse_keep_blobs("all").is_err());
        for bad in ["", "G", "1.5G", "-1d", "7x", "99999999999999T"] {
            assert_eq!(parse_keep(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
