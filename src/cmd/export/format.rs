//! What is written, by the options and the name of the file? Pure: text in, values out.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::cli::Options;
use crate::compress::Algorithm;
use crate::error::{Error, Result};

/// What the file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    SquashFs(Packing),
}

/// How it is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packing {
    /// Algorithm and level; `None`: not at all.
    pub compress: Option<(Algorithm, i32)>,
    pub block_size: u32,
}

const BLOCK_SIZE: u32 = 128 << 10;
/// As mksquashfs is often told to: twice the time buys 3 %.
const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: i32 = 6;
const HINT: &str = "PATH ends in .sqfs, .squashfs or .sqsh; or say --format=squashfs";

impl Format {
    pub fn of(path: &Path, options: &Options) -> Result<Format> {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let is_squashfs = match options.export_format.as_deref() {
            Some("squashfs") => true,
            Some(other) => {
                return Err(Error::usage(format!("--format: unknown format {other:?}")).hint("formats: squashfs"));
            }
            None => [&b".sqfs"[..], b".squashfs", b".sqsh"].iter().any(|ending| name.ends_with(ending)),
        };
        if !is_squashfs {
            let shown = crate::log::escape(&path.to_string_lossy()).into_owned();
            return Err(Error::usage(format!("can't tell from its name what {shown} is to be")).hint(HINT));
        }
        let compress = options.compress.as_deref().map_or(Ok(Some((Algorithm::Zstd, ZSTD_LEVEL))), algorithm)?;
        let block_size = options.block_size.as_deref().map_or(Ok(BLOCK_SIZE), block_size)?;
        Ok(Format::SquashFs(Packing { compress, block_size }))
    }
}

/// `ALG[:LEVEL]`
fn algorithm(text: &str) -> Result<Option<(Algorithm, i32)>> {
    let (name, level) = match text.split_once(':') {
        Some((name, level)) => (name, Some(level)),
        None => (text, None),
    };
    let (algorithm, default) = match name {
        "zstd" => (Algorithm::Zstd, ZSTD_LEVEL),
        "gzip" | "zlib" => (Algorithm::Zlib, GZIP_LEVEL),
        "lz4" => (Algorithm::Lz4, 0),
        "none" if level.is_none() => return Ok(None),
        "none" => return Err(Error::usage("--compress: none has no levels")),
        _ => {
            return Err(Error::usage(format!("--compress: unknown algorithm {name:?}"))
                .hint("algorithms: zstd (default), gzip, lz4, none"));
        }
    };
    let Some(level) = level else { return Ok(Some((algorithm, default))) };
    let Some((least, most)) = algorithm.levels() else {
        return Err(Error::usage(format!("--compress: {name} has no levels")));
    };
    match level.parse() {
        Ok(level) if (least..=most).contains(&level) => Ok(Some((algorithm, level))),
        _ => Err(Error::usage(format!("--compress: {name} has levels {least} to {most}, not {level:?}"))),
    }
}

/// Bytes, or with `K` or `M`.
fn block_size(text: &str) -> Result<u32> {
    let upper = text.to_ascii_uppercase();
    let (number, factor) = match (upper.strip_suffix('K'), upper.strip_suffix('M')) {
        (Some(number), _) => (number, 1 << 10),
        (_, Some(number)) => (number, 1 << 20),
        (None, None) => (upper.as_str(), 1),
    };
    let size = number.parse::<u32>().ok().and_then(|n| n.checked_mul(factor));
    size.filter(|n| n.is_power_of_two() && (4 << 10..=1 << 20).contains(n))
        .ok_or_else(|| Error::usage(format!("--block-size: {text:?} is no power of two from 4K to 1M")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, format: Option<&str>, compress: Option<&str>, block: Option<&str>) -> Result<Format> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let options = Options {
            export_format: own(format),
            compress: own(compress),
            block_size: own(block),
            ..Options::default()
        };
        Format::of(Path::new(path), &options)
    }

    #[test]
    fn formats() {
        let check = |path, format, want: Result<(), &str>| {
            let got = of(path, format, None, None);
            let default = Packing { compress: Some((Algorithm::Zstd, 3)), block_size: 131_072 };
            assert_eq!(got.map_err(|e| e.to_string()), want.map(|()| Format::SquashFs(default)).map_err(str::to_owned));
        };
        check("a.sqfs", None, Ok(()));
        check("/x/a.squashfs", None, Ok(()));
        check("a.sqsh", None, Ok(()));
        check("a.tar", Some("squashfs"), Ok(()));
        check("-", Some("squashfs"), Ok(()));
        check("-", None, Err("can't tell from its name what - is to be"));
        check("a.sqfs/x", None, Err("can't tell from its name what a.sqfs/x is to be"));
        check("a.sqfs", Some("zip"), Err("--format: unknown format \"zip\""));
    }

    #[test]
    fn packings() {
        let check = |compress, block, want: Result<Packing, &str>| {
            let got = of("x.sqfs", None, compress, block).map_err(|e| (e.to_string(), e.exit_code()));
            assert_eq!(got, want.map(Format::SquashFs).map_err(|e| (e.to_owned(), 2)));
        };
        let ok = |compress, block_size| Ok(Packing { compress, block_size });
        let block = 131_072;
        check(Some("zstd"), None, ok(Some((Algorithm::Zstd, 3)), block));
        check(Some("zstd:22"), Some("1M"), ok(Some((Algorithm::Zstd, 22)), 1 << 20));
        check(Some("gzip:9"), Some("4096"), ok(Some((Algorithm::Zlib, 9)), 4096));
        check(Some("gzip"), Some("64k"), ok(Some((Algorithm::Zlib, 6)), 65_536));
        check(Some("lz4"), None, ok(Some((Algorithm::Lz4, 0)), block));
        check(Some("none"), None, ok(None, block));
        check(Some("zstd:0"), None, Err("--compress: zstd has levels 1 to 22, not \"0\""));
        check(Some("zstd:"), None, Err("--compress: zstd has levels 1 to 22, not \"\""));
        check(Some("gzip:10"), None, Err("--compress: gzip has levels 1 to 9, not \"10\""));
        check(Some("lz4:1"), None, Err("--compress: lz4 has no levels"));
        check(Some("none:1"), None, Err("--compress: none has no levels"));
        check(Some("xz"), None, Err("--compress: unknown algorithm \"xz\""));
        for bad in ["0", "2K", "3M", "100K", "2M", "x", "", "K", "99999999999M", "-4K"] {
            let want = format!("--block-size: {bad:?} is no power of two from 4K to 1M");
            check(None, Some(bad), Err(&want));
        }
    }
}
