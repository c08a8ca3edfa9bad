//! What is written, by the options and the name of the file? Pure: text in, values out.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::cli::Options;
use crate::cmd::compression::{ZSTD_LEVEL, algorithm, encoding};
use crate::compress::Algorithm;
use crate::compress::encoder::Encoding;
use crate::error::{Error, Result};

/// What is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Format {
    SquashFs(Packing),
    Stream(Stream),
    Tree(Tree),
}

/// A file that is written from its beginning to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stream {
    /// `None`: not compressed.
    Tarball(Option<Encoding>),
    Saved(Saved),
}

/// A directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tree {
    Directory,
    Layout(Saved),
}

/// How other programs save images.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Docker,
    Oci,
}

/// An image as other programs save it, and under which name (`None`: its own).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    pub kind: Kind,
    /// Of its layer; `None`: not compressed.
    pub encoding: Option<Encoding>,
    pub name: Option<String>,
}

/// How it is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packing {
    /// Algorithm and level; `None`: not at all.
    pub compress: Option<(Algorithm, i32)>,
    pub block_size: u32,
}

const BLOCK_SIZE: u32 = 128 << 10;
const HINT: &str = "PATH ends in .sqfs, .tar, .tar.gz, .tar.zst or / (a directory), or is docker-archive:FILE, oci-archive:FILE or oci:DIR; or say --format";
const FORMATS: &str = "formats: squashfs, tar, dir, docker-archive, oci-archive, oci";

impl Format {
    /// The format, and the path without what only tells the format. `is_empty_dir`: such a directory is there.
    pub fn of(path: &Path, is_empty_dir: bool, options: &Options) -> Result<(Format, PathBuf)> {
        let (word, rest, tag) = match options.export_format.as_deref() {
            Some(format) => (format, path.to_owned(), None),
            None => match prefixed(path) {
                Some((word, rest, tag)) => (word, PathBuf::from(rest), tag.map(str::to_owned)),
                None => (by_name(path, is_empty_dir)?, path.to_owned(), None),
            },
        };
        let name = rest.file_name().unwrap_or_default().as_bytes();
        let told = if name.ends_with(b"gz") {
            Some(Encoding::Gzip)
        } else if name.ends_with(b"zst") {
            Some(Encoding::Zstd(ZSTD_LEVEL))
        } else {
            None
        };
        let gzip = Some(Encoding::Gzip);
        let saved = |kind, encoding| Saved { kind, encoding, name: tag };
        let format = match word {
            "squashfs" => Format::SquashFs(packing(options)?),
            "tar" => Format::Stream(Stream::Tarball(archive(options, told)?)),
            "docker-archive" => Format::Stream(Stream::Saved(saved(Kind::Docker, archive(options, None)?))),
            "oci-archive" => Format::Stream(Stream::Saved(saved(Kind::Oci, archive(options, gzip)?))),
            "oci" => Format::Tree(Tree::Layout(saved(Kind::Oci, archive(options, gzip)?))),
            "dir" if options.compress.is_some() => {
                return Err(Error::usage("--compress: a directory is not compressed"));
            }
            "dir" => Format::Tree(Tree::Directory),
            other => {
                return Err(Error::usage(format!("--format: unknown format {other:?}")).hint(FORMATS));
            }
        };
        if !matches!(format, Format::SquashFs(_)) && options.block_size.is_some() {
            return Err(Error::usage("--block-size: only packed images (SquashFS) have blocks"));
        }
        if matches!(format, Format::Tree(_)) && rest.as_os_str() == "-" {
            return Err(Error::usage("a directory can't be written to standard output"));
        }
        Ok((format, rest))
    }

    /// An error unless several images go into one such file or directory.
    pub fn takes_several(&self) -> Result<()> {
        match self {
            Format::Stream(Stream::Saved(Saved { name, .. })) | Format::Tree(Tree::Layout(Saved { name, .. })) => {
                match name {
                    None => Ok(()),
                    Some(name) => {
                        Err(Error::usage(format!("one name for several images: {name:?}")).hint("leave it out"))
                    }
                }
            }
            Format::SquashFs(_) | Format::Stream(Stream::Tarball(_)) | Format::Tree(Tree::Directory) => {
                Err(Error::usage("several images go into a Docker or OCI archive or layout alone")
                    .hint("docker-archive:FILE, oci-archive:FILE and oci:DIR are such"))
            }
        }
    }
}

/// Whether such a path names something else than an image directory: what `pull` writes by way of an export.
pub fn is_packed(path: &Path) -> bool {
    prefixed(path).is_some() || by_name(path, false).is_ok_and(|word| word != "dir")
}

/// `WORD:PATH[:TAG]`
fn prefixed(path: &Path) -> Option<(&str, &str, Option<&str>)> {
    let (word, rest) = path.to_str()?.split_once(':')?;
    let word = ["docker-archive", "oci-archive", "oci"].into_iter().find(|known| *known == word)?;
    match rest.split_once(':') {
        Some((path, tag)) if !tag.is_empty() => Some((word, path, Some(tag))),
        _ => Some((word, rest, None)),
    }
}

fn by_name(path: &Path, is_empty_dir: bool) -> Result<&'static str> {
    let whole = path.as_os_str().as_bytes();
    let ends = |list: &[&[u8]]| list.iter().any(|ending| whole.ends_with(ending));
    if whole.ends_with(b"/") || is_empty_dir {
        return Ok("dir");
    }
    if ends(&[b".sqfs", b".squashfs", b".sqsh"]) {
        return Ok("squashfs");
    }
    if ends(&[b".tar", b".tar.gz", b".tgz", b".tar.zst", b".tzst"]) {
        return Ok("tar");
    }
    let shown = crate::log::escape(&path.to_string_lossy()).into_owned();
    Err(Error::usage(format!("can't tell from its name what {shown} is to be")).hint(HINT))
}

fn packing(options: &Options) -> Result<Packing> {
    let compress = options.compress.as_deref().map_or(Ok(Some((Algorithm::Zstd, ZSTD_LEVEL))), algorithm)?;
    let block_size = options.block_size.as_deref().map_or(Ok(BLOCK_SIZE), block_size)?;
    Ok(Packing { compress, block_size })
}

fn archive(options: &Options, usual: Option<Encoding>) -> Result<Option<Encoding>> {
    options.compress.as_deref().map_or(Ok(usual), encoding)
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
        Format::of(Path::new(path), false, &options).map(|(format, _)| format)
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
    fn archives_and_directories() {
        let check = |path: &str, is_empty_dir, want: Format, rest: &str| {
            let got = Format::of(Path::new(path), is_empty_dir, &Options::default()).unwrap();
            assert_eq!(got, (want, PathBuf::from(rest)), "{path}");
        };
        let tarball = |encoding| Format::Stream(Stream::Tarball(encoding));
        let saved = |kind, encoding, name: Option<&str>| Saved { kind, encoding, name: name.map(str::to_owned) };
        check("a.tar", false, tarball(None), "a.tar");
        check("a.b/c.tar.gz", false, tarball(Some(Encoding::Gzip)), "a.b/c.tar.gz");
        check("a.tgz", false, tarball(Some(Encoding::Gzip)), "a.tgz");
        check("a.tar.zst", false, tarball(Some(Encoding::Zstd(3))), "a.tar.zst");
        check("a/", false, Format::Tree(Tree::Directory), "a/");
        check("a.tar", true, Format::Tree(Tree::Directory), "a.tar");
        let docker = |name| Format::Stream(Stream::Saved(saved(Kind::Docker, None, name)));
        check("docker-archive:a", false, docker(None), "a");
        check("docker-archive:/a/b.tar:c:1", false, docker(Some("c:1")), "/a/b.tar");
        check(
            "oci-archive:a:1",
            false,
            Format::Stream(Stream::Saved(saved(Kind::Oci, Some(Encoding::Gzip), Some("1")))),
            "a",
        );
        check("oci:a", false, Format::Tree(Tree::Layout(saved(Kind::Oci, Some(Encoding::Gzip), None))), "a");
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
