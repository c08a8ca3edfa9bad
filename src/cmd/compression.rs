//! What does `--compress` ask for? Pure: text in, values out.

use crate::compress::Algorithm;
use crate::compress::encoder::Encoding;
use crate::error::{Error, Result};

/// As mksquashfs is often told to: twice the time buys 3 %.
pub const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: i32 = 6;

/// How an archive or a layer is compressed, by the value of `--compress`; `None`: not at all.
pub fn encoding(text: &str) -> Result<Option<Encoding>> {
    let hint = "gzip, zstd[:LEVEL] or none";
    match algorithm(text) {
        Ok(None) => Ok(None),
        Ok(Some((Algorithm::Zstd, level))) => Ok(Some(Encoding::Zstd(level))),
        Ok(Some((Algorithm::Zlib, _))) if !text.contains(':') => Ok(Some(Encoding::Gzip)),
        Ok(Some((Algorithm::Zlib, _))) => {
            Err(Error::usage("--compress: gzip has no levels here (only in SquashFS)").hint(hint))
        }
        Ok(Some((Algorithm::Lz4 | Algorithm::Lzo, _))) => {
            Err(Error::usage(format!("--compress: archives can't be compressed with {text:?}")).hint(hint))
        }
        Err(e) => Err(e),
    }
}

/// `ALG[:LEVEL]`
pub fn algorithm(text: &str) -> Result<Option<(Algorithm, i32)>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_compressed_as_asked() {
        let check = |text: &str, want: Result<Option<Encoding>, &str>| {
            assert_eq!(encoding(text).map_err(|e| e.to_string()), want.map_err(str::to_owned), "{text}");
        };
        check("none", Ok(None));
        check("gzip", Ok(Some(Encoding::Gzip)));
        check("zstd", Ok(Some(Encoding::Zstd(3))));
        check("zstd:19", Ok(Some(Encoding::Zstd(19))));
        check("zstd:99", Err("--compress: zstd has levels 1 to 22, not \"99\""));
        check("gzip:9", Err("--compress: gzip has no levels here (only in SquashFS)"));
        check("lz4", Err("--compress: archives can't be compressed with \"lz4\""));
        check("xz", Err("--compress: unknown algorithm \"xz\""));
    }
}
