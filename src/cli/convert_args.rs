//! What did the user ask of `ch-convert` and of those that it replaced: `ch-builder2tar`, `ch-builder2squash`,
//! `ch-tar2dir`, `ch-dir2squash`? Arguments → [`Conversion`]; the programs' manual pages say what they mean.
//!
//! Deliberately absent: the builders Docker and Podman, which are other programs. What they save can be converted.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser};

use super::Options;
use crate::error::{Error, Result};

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Invocation {
    Help(&'static str),
    Version,
    Convert(Box<Conversion>),
}

/// From where to where.
#[derive(Debug, PartialEq)]
pub struct Conversion {
    pub from: End,
    pub to: End,
    /// What is said besides, as `import` and `export` have it.
    pub options: Options,
    /// Say what would be done.
    pub dry_run: bool,
    pub quiet: bool,
}

/// One end of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub format: Format,
    pub name: OsString,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An image in the storage directory.
    Image,
    Directory,
    Tarball,
    SquashFs,
}

const CONVERT: &str = "\
Usage: ch-convert [OPTION...] IN OUT

Convert an image from one format to another.

Formats: ch-image (an image in the storage directory), dir, squash, tar. Told by names: *.sqfs, *.squash, *.squashfs;
*.tar, *.tar.gz, *.tgz; what begins with / or ./ is a directory, all else an image in the storage directory.

  -i, --in-fmt FMT       format of IN
  -o, --out-fmt FMT      format of OUT
  -n, --dry-run          say what would be done, and exit
      --no-clobber       fail if OUT exists, instead of replacing it
  -s, --storage DIR      storage directory
      --tmp DIR          accepted; nothing is written there
  -q, --quiet            say less
  -v, --verbose          say more (can be repeated)
  -h, --help             print this help and exit
      --version          print the version and exit
";
const BUILDER2TAR: &str = "\
Usage: ch-builder2tar [-b BUILDER] [--nocompress] IMAGE OUTDIR

Write an image of the storage directory to OUTDIR/IMAGE.tar.gz (with --nocompress: .tar), / in its name as %.
";
const BUILDER2SQUASH: &str = "\
Usage: ch-builder2squash [-b BUILDER] IMAGE OUTDIR [ARG...]

Write an image of the storage directory to OUTDIR/IMAGE.sqfs, / in its name as %.
ARGs are those of mksquashfs: -comp, -Xcompression-level, -b, -noappend.
";
const TAR2DIR: &str = "\
Usage: ch-tar2dir TARBALL DIR

Unpack the image in TARBALL to DIR/NAME; NAME is that of TARBALL without its suffix.
";
const DIR2SQUASH: &str = "\
Usage: ch-dir2squash DIR OUTDIR [ARG...]

Write the image in DIR to OUTDIR/NAME.sqfs; NAME is the last component of DIR.
ARGs are those of mksquashfs: -comp, -Xcompression-level, -b, -noappend.
";

/// The programs, by their names.
pub const PROGRAMS: [&str; 5] = ["ch-convert", "ch-builder2tar", "ch-builder2squash", "ch-tar2dir", "ch-dir2squash"];

/// `program` is one of [`PROGRAMS`]; `args` without it.
pub fn parse(program: &str, args: impl IntoIterator<Item = OsString>) -> Result<Invocation> {
    let help = match program {
        "ch-builder2tar" => BUILDER2TAR,
        "ch-builder2squash" => BUILDER2SQUASH,
        "ch-tar2dir" => TAR2DIR,
        "ch-dir2squash" => DIR2SQUASH,
        _ => CONVERT,
    };
    let given = match read(program, args)? {
        Words::Help => return Ok(Invocation::Help(help)),
        Words::Version => return Ok(Invocation::Version),
        Words::Given(given) => *given,
    };
    let Given { mut options, operands, rest, input, output, dry_run, quiet, compressed } = given;
    let [from, to] = <[OsString; 2]>::try_from(operands)
        .map_err(|_| Error::usage(format!("{program}: expected two operands")).hint(usage_of(help)))?;
    squashfs_arguments(&mut options, &rest)?;
    let end = |format, name: OsString| End { format, name };
    let inside = |dir: OsString, name: &[u8], suffix: &str| {
        let mut name = name.to_vec();
        name.extend(suffix.as_bytes());
        PathBuf::from(dir).join(OsStr::from_bytes(&name)).into_os_string()
    };
    let (from, to) = match program {
        "ch-builder2tar" => {
            let out = inside(to, &flat(&from), if compressed { ".tar.gz" } else { ".tar" });
            (end(Format::Image, from), end(Format::Tarball, out))
        }
        "ch-builder2squash" => {
            let out = inside(to, &flat(&from), ".sqfs");
            (end(Format::Image, from), end(Format::SquashFs, out))
        }
        "ch-tar2dir" => {
            let out = inside(to, stem(&from)?, "");
            (end(Format::Tarball, from), end(Format::Directory, out))
        }
        "ch-dir2squash" => {
            let out = inside(to, stem(&from)?, ".sqfs");
            (end(Format::Directory, from), end(Format::SquashFs, out))
        }
        _ => (end(input.unwrap_or(infer(&from)), from), end(output.unwrap_or(infer(&to)), to)),
    };
    if from.format == to.format {
        return Err(Error::usage("input and output are of the same format").hint("-i and -o say formats"));
    }
    Ok(Invocation::Convert(Box::new(Conversion { from, to, options, dry_run, quiet })))
}

enum Words {
    Help,
    Version,
    Given(Box<Given>),
}

struct Given {
    options: Options,
    operands: Vec<OsString>,
    /// Arguments of mksquashfs.
    rest: Vec<OsString>,
    input: Option<Format>,
    output: Option<Format>,
    dry_run: bool,
    quiet: bool,
    compressed: bool,
}

fn read(program: &str, args: impl IntoIterator<Item = OsString>) -> Result<Words> {
    let usage = |e: lexopt::Error| Error::usage(crate::log::escape(&e.to_string()).into_owned());
    let is_convert = program == "ch-convert";
    let mut given = Given {
        // The original replaces what is there.
        options: Options { overwrite: true, ..Options::default() },
        operands: Vec::new(),
        rest: Vec::new(),
        input: None,
        output: None,
        dry_run: false,
        quiet: false,
        compressed: true,
    };
    let mut parser = Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Words::Help),
            Arg::Long("version") => return Ok(Words::Version),
            Arg::Short('v') | Arg::Long("verbose") => given.options.verbose = given.options.verbose.saturating_add(1),
            Arg::Short('b') | Arg::Long("builder") if !is_convert => builder(&parser.value().map_err(usage)?)?,
            Arg::Long("nocompress") if program == "ch-builder2tar" => given.compressed = false,
            Arg::Short('i') | Arg::Long("in-fmt") if is_convert => {
                given.input = Some(format(&parser.value().map_err(usage)?)?);
            }
            Arg::Short('o') | Arg::Long("out-fmt") if is_convert => {
                given.output = Some(format(&parser.value().map_err(usage)?)?);
            }
            Arg::Short('n') | Arg::Long("dry-run") if is_convert => given.dry_run = true,
            Arg::Long("no-clobber") if is_convert => given.options.overwrite = false,
            Arg::Short('s') | Arg::Long("storage") => {
                given.options.storage = Some(parser.value().map_err(usage)?.into());
            }
            Arg::Long("tmp") if is_convert => drop(parser.value().map_err(usage)?),
            Arg::Short('q') | Arg::Long("quiet") if is_convert => given.quiet = true,
            Arg::Value(word) => {
                given.operands.push(word);
                if given.operands.len() == 2 && program.ends_with("2squash") {
                    given.rest.extend(parser.raw_args().map_err(usage)?);
                    break;
                }
            }
            Arg::Short(_) | Arg::Long(_) => {
                return Err(usage(arg.unexpected()).hint(format!("see: {program} --help")));
            }
        }
    }
    Ok(Words::Given(Box::new(given)))
}

/// The first line of a help text, for a hint.
fn usage_of(help: &str) -> String {
    let line = help.lines().next().unwrap_or_default();
    format!("usage: {}", line.trim_start_matches("Usage: "))
}

fn builder(name: &OsStr) -> Result<()> {
    match name.to_str() {
        Some("ch-image") => Ok(()),
        _ => Err(other_program(name)),
    }
}

fn other_program(name: &OsStr) -> Error {
    Error::usage(format!("not supported: images of {}", crate::log::escape(&name.to_string_lossy())))
        .hint("save it there (docker save, podman save), then: ch-image import FILE NAME")
}

fn format(word: &OsStr) -> Result<Format> {
    match word.to_str() {
        Some("ch-image") => Ok(Format::Image),
        Some("dir") => Ok(Format::Directory),
        Some("tar") => Ok(Format::Tarball),
        Some("squash") => Ok(Format::SquashFs),
        Some("docker" | "podman") => Err(other_program(word)),
        _ => Err(Error::usage(format!("unknown format: {}", crate::log::escape(&word.to_string_lossy())))
            .hint("formats: ch-image dir squash tar")),
    }
}

fn infer(name: &OsStr) -> Format {
    let bytes = name.as_bytes();
    let last = Path::new(name).file_name().unwrap_or_default().as_bytes();
    let ends = |list: &[&[u8]]| list.iter().any(|ending| last.ends_with(ending));
    if ends(&[b".sqfs", b".squash", b".squashfs"]) {
        Format::SquashFs
    } else if ends(&[b".tar", b".tgz", b".tar.gz", b".tar.xz", b".tar.zst"]) {
        Format::Tarball
    } else if bytes.starts_with(b"/") || bytes.starts_with(b"./") {
        Format::Directory
    } else {
        Format::Image
    }
}

/// An image's name as that of a file.
fn flat(image: &OsStr) -> Vec<u8> {
    image.as_bytes().iter().map(|&byte| if byte == b'/' { b'%' } else { byte }).collect()
}

/// The last component, without the suffix of a tarball.
fn stem(path: &OsStr) -> Result<&[u8]> {
    let name = Path::new(path).file_name().map(OsStr::as_bytes);
    let name = name.ok_or_else(|| Error::usage(format!("no name for the image in {}", path.display())))?;
    let suffixes: [&[u8]; 5] = [b".tar.gz", b".tar.xz", b".tar.zst", b".tgz", b".tar"];
    Ok(suffixes.iter().find_map(|suffix| name.strip_suffix(*suffix)).filter(|stem| !stem.is_empty()).unwrap_or(name))
}

/// Arguments of mksquashfs that mean something here.
fn squashfs_arguments(options: &mut Options, args: &[OsString]) -> Result<()> {
    let mut words = args.iter().map(|word| word.to_string_lossy().into_owned());
    let (mut algorithm, mut level) = (None, None);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| Error::usage(format!("{word}: missing value")));
        match word.as_str() {
            "-comp" => algorithm = Some(value()?),
            "-Xcompression-level" => level = Some(value()?),
            "-b" => options.block_size = Some(value()?),
            "-noappend" | "-no-progress" => {}
            _ => {
                return Err(Error::usage(format!("not supported: {}", crate::log::escape(&word)))
                    .hint("arguments of mksquashfs that are: -comp -Xcompression-level -b -noappend"));
            }
        }
    }
    options.compress = match (algorithm, level) {
        (None, None) => None,
        (algorithm, None) => algorithm,
        // mksquashfs compresses with gzip if not told otherwise.
        (algorithm, Some(level)) => Some(format!("{}:{level}", algorithm.as_deref().unwrap_or("gzip"))),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Invocation> {
        let mut words = line.split(' ').map(OsString::from);
        let program = words.next().unwrap_or_default();
        parse(program.to_str().unwrap(), words)
    }

    #[test]
    fn command_lines() {
        let check = |line: &str, from: (Format, &str), to: (Format, &str)| match run(line) {
            Ok(Invocation::Convert(c)) => {
                assert_eq!((c.from.format, c.from.name.to_str().unwrap()), from, "{line}");
                assert_eq!((c.to.format, c.to.name.to_str().unwrap()), to, "{line}");
            }
            other => panic!("{line}: {other:?}"),
        };
        use Format::{Directory, Image, SquashFs, Tarball};
        check("ch-convert a/b:1 ./x", (Image, "a/b:1"), (Directory, "./x"));
        check("ch-convert -i ch-image --storage s a x.squashfs", (Image, "a"), (SquashFs, "x.squashfs"));
        check("ch-convert /d.tar.gz a", (Tarball, "/d.tar.gz"), (Image, "a"));
        check("ch-convert -o dir x.sqfs y", (SquashFs, "x.sqfs"), (Directory, "y"));
        check("ch-builder2tar -b ch-image a/b o", (Image, "a/b"), (Tarball, "o/a%b.tar.gz"));
        check("ch-builder2tar --nocompress a o", (Image, "a"), (Tarball, "o/a.tar"));
        check("ch-builder2squash a o -noappend -b 1M", (Image, "a"), (SquashFs, "o/a.sqfs"));
        check("ch-tar2dir x/a%b.tar.gz o", (Tarball, "x/a%b.tar.gz"), (Directory, "o/a%b"));
        check("ch-dir2squash x/a/ o", (Directory, "x/a/"), (SquashFs, "o/a.sqfs"));
    }

    #[test]
    fn arguments_of_mksquashfs() {
        let check = |line: &str, compress: Option<&str>, block: Option<&str>| match run(line) {
            Ok(Invocation::Convert(c)) => {
                assert_eq!(
                    (c.options.compress.as_deref(), c.options.block_size.as_deref()),
                    (compress, block),
                    "{line}"
                );
            }
            other => panic!("{line}: {other:?}"),
        };
        check("ch-builder2squash a o", None, None);
        check("ch-builder2squash a o -comp lz4 -b 256K", Some("lz4"), Some("256K"));
        check("ch-builder2squash a o -comp zstd -Xcompression-level 9", Some("zstd:9"), None);
        check("ch-dir2squash a o -Xcompression-level 9", Some("gzip:9"), None);
    }

    #[test]
    fn what_is_refused() {
        let check = |line: &str, want: &str| {
            let e = run(line).unwrap_err();
            assert_eq!((e.to_string().as_str(), e.exit_code()), (want, 2), "{line}");
        };
        check("ch-convert a", "ch-convert: expected two operands");
        check("ch-convert a b", "input and output are of the same format");
        check("ch-convert -i docker a x.tar", "not supported: images of docker");
        check("ch-convert -i zip a x.tar", "unknown format: zip");
        check("ch-builder2tar -b podman a o", "not supported: images of podman");
        check("ch-builder2squash a o -all-root", "not supported: -all-root");
        check("ch-builder2squash a o -comp", "-comp: missing value");
        check("ch-tar2dir .. o", "no name for the image in ..");
    }
}
