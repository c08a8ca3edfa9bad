//! The table of options, and where their values go.

use std::ffi::OsString;
use std::path::PathBuf;

use super::Sub::{self, Build, Doctor, Export, Fsck, Gc, History, Inspect, List, Load, Pull, Push, Save};
use super::generate;
use super::table::Value::{Flag, Optional, Print, Required};
use super::table::{Answer, Row, one_of, row};
use crate::error::{Error, Result};

/// Root emulation asked for by `--force[=MODE]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    Fakeroot,
    Seccomp,
    Notify,
    None,
}

impl Force {
    pub fn parse(mode: &str) -> Result<Force> {
        match mode {
            "fakeroot" => Ok(Force::Fakeroot),
            "seccomp" => Ok(Force::Seccomp),
            "notify" => Ok(Force::Notify),
            "none" => Ok(Force::None),
            other => Err(Error::usage(format!("unknown mode {other:?}"))
                .hint("modes: fakeroot (default), seccomp, notify, none")),
        }
    }
}

/// Kind of the documents that a push makes (`--format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Docker,
    Oci,
}

/// How a build shows what it does (`--progress`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Progress {
    /// Live lines on a terminal.
    #[default]
    Auto,
    /// Lines that stay, in order, without colour.
    Plain,
}

/// Everything that can be said by options, before it means anything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options {
    pub generate: Option<String>,
    pub arch: Option<String>,
    pub auth: bool,
    pub ca: Option<PathBuf>,
    pub no_cache: bool,
    pub password_many: bool,
    pub password_stdin: bool,
    pub storage: Option<PathBuf>,
    pub tls_no_verify: bool,
    pub verbose: u8,
    pub quiet: bool,
    // build
    pub pull: bool,
    pub labels: Vec<String>,
    /// Options of Docker that have no meaning here.
    pub ignored: Vec<&'static str>,
    pub progress: Progress,
    pub binds: Vec<String>,
    pub build_args: Vec<String>,
    pub dry_run: bool,
    pub file: Option<OsString>,
    pub force: Option<Force>,
    pub jobs: Option<usize>,
    pub no_force_detect: bool,
    pub parse_only: bool,
    pub rebuild: bool,
    pub secrets: Vec<String>,
    pub ssh: Vec<String>,
    pub tags: Vec<String>,
    pub target: Option<String>,
    pub why: bool,
    // list
    pub all: bool,
    pub long: bool,
    pub json: bool,
    // pull
    pub last_layer: Option<usize>,
    // push
    pub format: Option<Format>,
    pub image: Option<PathBuf>,
    pub layers: bool,
    pub ownership: bool,
    // export
    pub block_size: Option<String>,
    pub compress: Option<String>,
    pub export_format: Option<String>,
    pub overwrite: bool,
    // gc, fsck
    pub field: Option<String>,
    pub input: Option<PathBuf>,
    pub output: Option<PathBuf>,
    pub keep: Option<String>,
    pub deep: bool,
    pub repair: bool,
}

/// Common options first, then by subcommand; in each group by name.
pub(crate) const TABLE: &[Row<Options, Sub>] = &[
    row(Some('h'), "help", &[], Print(Answer::Help), "print help (after a subcommand: its own) and exit"),
    row(
        None,
        "dependencies",
        &[],
        Print(Answer::Dependencies),
        "report what this machine lacks, if anything, and exit",
    ),
    row(
        None,
        "version",
        &[],
        Print(Answer::Version),
        "print the version and exit; with -v also commit, target, and crates with their licences",
    ),
    one_of(
        generate::PAGES,
        row(
            None,
            "generate",
            &[],
            Required("PAGE", |o, v| put(&mut o.generate, text(v))),
            "print a manual page (man, man:ch-run, …), completions (bash, zsh, fish) or a bill of materials (sbom: CycloneDX), and exit",
        ),
    ),
    one_of(
        &["yolo", "host", "amd64", "arm64/v8", "ppc64le", "riscv64"],
        row(
            Some('a'),
            "arch",
            &[],
            Required("ARCH", |o, v| put(&mut o.arch, text(v))),
            "architecture of pulled images: yolo, host (default) or a name such as arm64/v8",
        ),
    ),
    row(None, "auth", &[], Flag(|o| o.auth = true), "authenticate at once instead of trying anonymously first"),
    row(None, "ca", &[], Required("FILE", |o, v| path(&mut o.ca, v)), "trust the certificates in FILE (PEM) as well"),
    row(None, "no-cache", &[], Flag(|o| o.no_cache = true), "download everything needed, ignoring the cache"),
    row(
        None,
        "password-many",
        &[],
        Flag(|o| o.password_many = true),
        "ask for the password each time a registry wants it",
    ),
    row(
        None,
        "password-stdin",
        &[],
        Flag(|o| o.password_stdin = true),
        "read the registry password from standard input",
    ),
    row(
        Some('s'),
        "storage",
        &[],
        Required("DIR", |o, v| path(&mut o.storage, v)),
        "storage directory (default $CH_IMAGE_STORAGE or /var/tmp/$USER/ch-image)",
    ),
    row(
        None,
        "tls-no-verify",
        &[],
        Flag(|o| o.tls_no_verify = true),
        "don't verify TLS certificates of the registry (insecure)",
    ),
    row(
        Some('v'),
        "verbose",
        &[],
        Flag(|o| o.verbose = o.verbose.saturating_add(1)),
        "print extra chatter; can be repeated",
    ),
    row(Some('q'), "quiet", &[], Flag(|o| o.quiet = true), "print results, warnings and errors alone"),
    row(
        Some('b'),
        "bind",
        &[Build],
        Required("SRC[:DST]", |o, v| push(&mut o.binds, v)),
        "mount SRC at DST (default: the same path) during RUN; can be repeated",
    ),
    row(
        None,
        "build-arg",
        &[Build],
        Required("KEY[=VALUE]", |o, v| push(&mut o.build_args, v)),
        "set the ARG KEY (default: from the environment); can be repeated",
    ),
    row(
        Some('f'),
        "file",
        &[Build],
        Required("DOCKERFILE", |o, v| {
            o.file = Some(v);
            Ok(())
        }),
        "Dockerfile (default: CONTEXT/Dockerfile); - for standard input",
    ),
    one_of(
        &["fakeroot", "seccomp", "notify", "none"],
        row(
            None,
            "force",
            &[Build],
            Optional("MODE", |o, v| {
                o.force = Some(force(v)?);
                Ok(())
            }),
            "make privileged system calls of RUN seem to succeed: fakeroot (default), seccomp, notify, none",
        ),
    ),
    row(
        None,
        "jobs",
        &[Build],
        Required("N", |o, v| number(&mut o.jobs, v)),
        "build up to N independent stages at the same time",
    ),
    row(Some('n'), "dry-run", &[Build, Gc], Flag(|o| o.dry_run = true), "say what would be done, do nothing"),
    row(
        None,
        "no-force-detect",
        &[Build],
        Flag(|o| o.no_force_detect = true),
        "don't try to detect whether --force would help",
    ),
    row(
        None,
        "parse-only",
        &[Build, Pull],
        Flag(|o| o.parse_only = true),
        "stop after parsing the Dockerfile or image reference",
    ),
    row(None, "rebuild", &[Build], Flag(|o| o.rebuild = true), "run all steps again, but keep downloads"),
    row(
        None,
        "secret",
        &[Build],
        Required("id=ID,src=FILE|env=VAR", |o, v| push(&mut o.secrets, v)),
        "secret for RUN --mount=type=secret; can be repeated",
    ),
    row(
        None,
        "ssh",
        &[Build],
        Required("ID[=SOCKET]", |o, v| push(&mut o.ssh, v)),
        "agent socket for RUN --mount=type=ssh; can be repeated",
    ),
    row(
        Some('t'),
        "tag",
        &[Build],
        Required("TAG", |o, v| push(&mut o.tags, v)),
        "name of the image (default: from the Dockerfile's or the context's name); can be repeated",
    ),
    row(
        None,
        "target",
        &[Build],
        Required("STAGE", |o, v| put(&mut o.target, text(v))),
        "build up to this stage (default: the last)",
    ),
    row(
        None,
        "label",
        &[Build],
        Required("KEY=VALUE", |o, v| push(&mut o.labels, v)),
        "add a label to the image; can be repeated",
    ),
    row(
        None,
        "network",
        &[Build],
        Required("host|default", |o, v| {
            if !["host", "default"].contains(&text(v)?.as_str()) {
                o.ignored.push("--network");
            }
            Ok(())
        }),
        "network of RUN, which is that of the host",
    ),
    row(
        None,
        "platform",
        &[Build],
        Required("linux/ARCH", |o, v| put(&mut o.arch, platform(v))),
        "the same as --arch, with the words of Docker: linux/arm64",
    ),
    one_of(
        &["auto", "plain"],
        row(
            None,
            "progress",
            &[Build],
            Required("auto|plain", |o, v| {
                o.progress = progress(v)?;
                Ok(())
            }),
            "live lines on a terminal (auto, default), or none and no colour (plain)",
        ),
    ),
    row(None, "pull", &[Build], Flag(|o| o.pull = true), "ask the registry for newer base images"),
    row(None, "rm", &[Build], Flag(|_| {}), "accepted, as Docker's: nothing is left behind anyway"),
    row(None, "load", &[Build], Flag(|_| {}), "accepted, as Docker's: the image is in storage anyway"),
    row(
        None,
        "no-cache-filter",
        &[Build],
        Required("STAGE", |o, _| {
            o.ignored.push("--no-cache-filter");
            Ok(())
        }),
        "accepted and ignored, with a warning: --rebuild runs all steps again",
    ),
    row(None, "why", &[Build], Flag(|o| o.why = true), "say for each step that is not cached what has changed"),
    row(Some('a'), "all", &[List], Flag(|o| o.all = true), "show stages of builds (NAME/_stageN), too"),
    row(Some('l'), "long", &[List], Flag(|o| o.long = true), "show size, age, base and layers"),
    row(None, "json", &[List, Doctor, Inspect, History], Flag(|o| o.json = true), "print JSON"),
    row(
        None,
        "last-layer",
        &[Pull],
        Required("N", |o, v| number(&mut o.last_layer, v)),
        "unpack only N layers, leaving an incomplete image (for debugging)",
    ),
    one_of(
        &["oci", "docker"],
        row(
            None,
            "format",
            &[Push],
            Required("oci|docker", |o, v| {
                o.format = Some(format(v)?);
                Ok(())
            }),
            "kind of manifest (default: docker, and oci where the registry does not take that or with --layers)",
        ),
    ),
    row(
        None,
        "image",
        &[Push],
        Required("DIR", |o, v| path(&mut o.image, v)),
        "push the unpacked image at DIR instead of one in the storage directory",
    ),
    row(
        None,
        "layers",
        &[Push],
        Flag(|o| o.layers = true),
        "keep the base image's own layers and push only ours on top",
    ),
    row(
        None,
        "ownership",
        &[Push, Export, Pull],
        Flag(|o| o.ownership = true),
        "keep the owners and set-id bits that --force=notify recorded, instead of root:root and none",
    ),
    row(
        None,
        "block-size",
        &[Export, Pull],
        Required("SIZE", |o, v| put(&mut o.block_size, text(v))),
        "size of compressed blocks: 4K to 1M, a power of two (default 128K)",
    ),
    one_of(
        &["zstd", "gzip", "lz4", "none"],
        row(
            None,
            "compress",
            &[Export, Pull, Push],
            Required("ALG[:LEVEL]", |o, v| put(&mut o.compress, text(v))),
            "SquashFS: zstd (default), gzip, lz4 or none; archives and pushed layers: gzip (default of layers) or zstd; \
             levels: zstd 1 to 22, gzip 1 to 9",
        ),
    ),
    one_of(
        &["squashfs", "tar", "dir", "docker-archive", "oci-archive", "oci"],
        row(
            None,
            "format",
            &[Export],
            Required("FORMAT", |o, v| put(&mut o.export_format, text(v))),
            "what is written, whatever PATH is called: squashfs, tar, dir, docker-archive, oci-archive, oci",
        ),
    ),
    row(None, "overwrite", &[Export, Pull], Flag(|o| o.overwrite = true), "replace a file that exists"),
    row(
        None,
        "format",
        &[Inspect],
        Required("FIELD", |o, v| put(&mut o.field, text(v))),
        "print one field, such as digest or config.Env",
    ),
    row(Some('i'), "input", &[Load], Required("FILE", |o, v| path(&mut o.input, v)), "the archive (default: PATH)"),
    row(
        Some('o'),
        "output",
        &[Save],
        Required("FILE", |o, v| path(&mut o.output, v)),
        "the file to write (default: standard output)",
    ),
    row(
        None,
        "keep",
        &[Gc],
        Required("SIZE|AGE", |o, v| put(&mut o.keep, text(v))),
        "keep what was used most recently, up to SIZE (10G) or younger than AGE (7d)",
    ),
    row(None, "deep", &[Fsck], Flag(|o| o.deep = true), "read every blob and file"),
    row(None, "repair", &[Fsck], Flag(|o| o.repair = true), "drop what is damaged, pull again what was pulled"),
];

fn text(v: OsString) -> Result<String> {
    v.into_string().map_err(|v| Error::usage(format!("not valid UTF-8: {v:?}")))
}

/// `linux/arm64/v8`, as `--arch` has it.
fn platform(value: OsString) -> Result<String> {
    let text = text(value)?;
    match text.strip_prefix("linux/") {
        Some(arch) if !arch.contains(',') => Ok(arch.to_owned()),
        Some(_) => {
            Err(Error::usage("one platform at a time").hint("build each with a name of its own, as in -t app:arm64"))
        }
        None => {
            Err(Error::usage(format!("not a platform of Linux: {text:?}")).hint("such as linux/amd64, linux/arm64/v8"))
        }
    }
}

fn progress(value: OsString) -> Result<Progress> {
    match text(value)?.as_str() {
        "auto" | "tty" => Ok(Progress::Auto),
        "plain" | "rawjson" | "quiet" => Ok(Progress::Plain),
        other => Err(Error::usage(format!("unknown kind {other:?}")).hint("kinds: auto, plain")),
    }
}

fn put(slot: &mut Option<String>, value: Result<String>) -> Result<()> {
    *slot = Some(value?);
    Ok(())
}

fn path(slot: &mut Option<PathBuf>, value: OsString) -> Result<()> {
    if value.is_empty() {
        return Err(Error::usage("empty path"));
    }
    *slot = Some(value.into());
    Ok(())
}

fn push(list: &mut Vec<String>, value: OsString) -> Result<()> {
    list.push(text(value)?);
    Ok(())
}

fn number(slot: &mut Option<usize>, value: OsString) -> Result<()> {
    let value = text(value)?;
    let parsed = value.parse().ok().filter(|&n| n > 0);
    *slot = Some(parsed.ok_or_else(|| Error::usage(format!("not a positive number: {value:?}")))?);
    Ok(())
}

fn format(value: OsString) -> Result<Format> {
    match text(value)?.as_str() {
        "docker" => Ok(Format::Docker),
        "oci" => Ok(Format::Oci),
        other => Err(Error::usage(format!("unknown format {other:?}")).hint("formats: oci, docker")),
    }
}

fn force(value: Option<OsString>) -> Result<Force> {
    value.map(text).transpose()?.map_or(Ok(Force::Fakeroot), |mode| Force::parse(&mode))
}
