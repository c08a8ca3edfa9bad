//! What did the user ask of `ch-convert` and of those that it replaced: `ch-builder2tar`, `ch-builder2squash`,
//! `ch-tar2dir`, `ch-dir2squash`? Arguments → [`Conversion`]; the programs' manual pages say what they mean.
//!
//! Deliberately absent: the builders Docker and Podman, which are other programs. What they save can be converted.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser};

use super::table::Value::{Flag, Print, Required};
use super::table::{self, Answer, Entry, Row, one_of, row};
use super::{Options, help};
use crate::error::{Error, Result};

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Invocation {
    Help(String),
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

/// The programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Convert,
    BuilderToTar,
    BuilderToSquash,
    TarToDir,
    DirToSquash,
}

use Program::{BuilderToSquash, BuilderToTar, Convert, DirToSquash, TarToDir};

impl Program {
    pub const ALL: [Program; 5] = [Convert, BuilderToTar, BuilderToSquash, TarToDir, DirToSquash];

    pub fn by_name(name: &str) -> Option<Program> {
        Self::ALL.into_iter().find(|program| program.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Convert => "ch-convert",
            BuilderToTar => "ch-builder2tar",
            BuilderToSquash => "ch-builder2squash",
            TarToDir => "ch-tar2dir",
            DirToSquash => "ch-dir2squash",
        }
    }

    pub fn usage(self) -> &'static str {
        match self {
            Convert => "ch-convert [OPTION...] IN OUT",
            BuilderToTar => "ch-builder2tar [-b BUILDER] [--nocompress] IMAGE OUTDIR",
            BuilderToSquash => "ch-builder2squash [-b BUILDER] IMAGE OUTDIR [ARG...]",
            TarToDir => "ch-tar2dir TARBALL DIR",
            DirToSquash => "ch-dir2squash DIR OUTDIR [ARG...]",
        }
    }

    pub fn about(self) -> &'static str {
        match self {
            Convert => {
                "Convert an image from one format to another.\n\n\
                 Formats: ch-image (an image in the storage directory), dir, squash, tar. Told by names: *.sqfs,\n\
                 *.squash, *.squashfs; *.tar, *.tar.gz, *.tgz; what begins with / or ./ is a directory, all else an\n\
                 image in the storage directory."
            }
            BuilderToTar => {
                "Write an image of the storage directory to OUTDIR/IMAGE.tar.gz (with --nocompress: .tar), / in its\n\
                 name as %."
            }
            BuilderToSquash => {
                "Write an image of the storage directory to OUTDIR/IMAGE.sqfs, / in its name as %.\n\
                 ARGs are those of mksquashfs: -comp, -Xcompression-level, -b, -noappend."
            }
            TarToDir => "Unpack the image in TARBALL to DIR/NAME; NAME is that of TARBALL without its suffix.",
            DirToSquash => {
                "Write the image in DIR to OUTDIR/NAME.sqfs; NAME is the last component of DIR.\n\
                 ARGs are those of mksquashfs: -comp, -Xcompression-level, -b, -noappend."
            }
        }
    }

    /// Whether an operand may be an image in storage.
    pub(super) fn takes_image(self) -> bool {
        match self {
            Convert | BuilderToTar | BuilderToSquash => true,
            TarToDir | DirToSquash => false,
        }
    }

    /// Its options, for completions and manual pages.
    pub(super) fn entries(self) -> Vec<Entry> {
        TABLE.iter().filter(|row| row.applies(Some(&self))).map(Row::entry).collect()
    }

    fn help(self) -> String {
        let mut text = format!("Usage: {}\n\n{}\n\n", self.usage(), self.about());
        help::rows(&mut text, TABLE, |row| row.applies(Some(&self)));
        text
    }
}

const TABLE: &[Row<Given, Program>] = &[
    row(
        Some('b'),
        "builder",
        &[BuilderToTar, BuilderToSquash, TarToDir, DirToSquash],
        Required("BUILDER", |_, v| builder(&v)),
        "where the image is: ch-image",
    ),
    row(None, "nocompress", &[BuilderToTar], Flag(|g| g.compressed = false), "don't compress the tarball"),
    one_of(
        &["ch-image", "dir", "squash", "tar"],
        row(
            Some('i'),
            "in-fmt",
            &[Convert],
            Required("FMT", |g, v| {
                g.input = Some(format(&v)?);
                Ok(())
            }),
            "format of IN",
        ),
    ),
    one_of(
        &["ch-image", "dir", "squash", "tar"],
        row(
            Some('o'),
            "out-fmt",
            &[Convert],
            Required("FMT", |g, v| {
                g.output = Some(format(&v)?);
                Ok(())
            }),
            "format of OUT",
        ),
    ),
    row(Some('n'), "dry-run", &[Convert], Flag(|g| g.dry_run = true), "say what would be done, and exit"),
    row(
        None,
        "no-clobber",
        &[Convert],
        Flag(|g| g.options.overwrite = false),
        "fail if OUT exists, instead of replacing it",
    ),
    row(
        Some('s'),
        "storage",
        &[],
        Required("DIR", |g, v| {
            g.options.storage = Some(v.into());
            Ok(())
        }),
        "storage directory",
    ),
    row(None, "tmp", &[Convert], Required("DIR", |_, _| Ok(())), "accepted; nothing is written there"),
    row(Some('q'), "quiet", &[Convert], Flag(|g| g.quiet = true), "say less"),
    row(
        Some('v'),
        "verbose",
        &[],
        Flag(|g| g.options.verbose = g.options.verbose.saturating_add(1)),
        "say more (can be repeated)",
    ),
    row(Some('h'), "help", &[], Print(Answer::Help), "print this help and exit"),
    row(None, "version", &[], Print(Answer::Version), "print the version and exit"),
];

/// `args` without the program's name.
pub fn parse(program: Program, args: impl IntoIterator<Item = OsString>) -> Result<Invocation> {
    let given = match read(program, args)? {
        Words::Help => return Ok(Invocation::Help(program.help())),
        Words::Version => return Ok(Invocation::Version),
        Words::Given(given) => *given,
    };
    let Given { mut options, operands, rest, input, output, dry_run, quiet, compressed } = given;
    let [from, to] = <[OsString; 2]>::try_from(operands).map_err(|_| {
        Error::usage(format!("{}: expected two operands", program.name())).hint(format!("usage: {}", program.usage()))
    })?;
    squashfs_arguments(&mut options, &rest)?;
    let end = |format, name: OsString| End { format, name };
    let inside = |dir: OsString, name: &[u8], suffix: &str| {
        let mut name = name.to_vec();
        name.extend(suffix.as_bytes());
        PathBuf::from(dir).join(OsStr::from_bytes(&name)).into_os_string()
    };
    let (from, to) = match program {
        BuilderToTar => {
            let out = inside(to, &flat(&from), if compressed { ".tar.gz" } else { ".tar" });
            (end(Format::Image, from), end(Format::Tarball, out))
        }
        BuilderToSquash => {
            let out = inside(to, &flat(&from), ".sqfs");
            (end(Format::Image, from), end(Format::SquashFs, out))
        }
        TarToDir => {
            let out = inside(to, stem(&from)?, "");
            (end(Format::Tarball, from), end(Format::Directory, out))
        }
        DirToSquash => {
            let out = inside(to, stem(&from)?, ".sqfs");
            (end(Format::Directory, from), end(Format::SquashFs, out))
        }
        Convert => (end(input.unwrap_or(infer(&from)), from), end(output.unwrap_or(infer(&to)), to)),
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

fn read(program: Program, args: impl IntoIterator<Item = OsString>) -> Result<Words> {
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
    while let Some(arg) = parser.next().map_err(table::usage)? {
        let row = match arg {
            Arg::Value(word) => {
                given.operands.push(word);
                if given.operands.len() == 2 && matches!(program, BuilderToSquash | DirToSquash) {
                    given.rest.extend(parser.raw_args().map_err(table::usage)?);
                    break;
                }
                continue;
            }
            Arg::Short(_) | Arg::Long(_) => table::find(TABLE, Some(&program), &arg)?
                .ok_or_else(|| table::usage(arg.unexpected()).hint(format!("see: {} --help", program.name())))?,
        };
        match table::apply(row, &mut parser, &mut given)? {
            None => {}
            Some(Answer::Help) => return Ok(Words::Help),
            Some(Answer::Version | Answer::Dependencies) => return Ok(Words::Version),
        }
    }
    Ok(Words::Given(Box::new(given)))
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
        parse(Program::by_name(program.to_str().unwrap()).unwrap(), words)
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
