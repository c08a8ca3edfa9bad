//! What did the user ask for? The command line as data: for each program a table of options makes the parser and the help.
//!
//! [`parse`] is pure: arguments in, [`Invocation`] out. What depends on the environment is a parameter.

pub mod ch_run_args;
pub mod convert_args;
mod help;
mod options;
mod parse;
mod table;

use std::ffi::OsString;
use std::path::PathBuf;

pub use options::{Force, Format, Options};
pub use parse::parse;

/// What the process is to do.
#[derive(Debug, PartialEq)]
pub enum Invocation {
    /// Text for standard output, then success.
    Print(String),
    /// No arguments at all: help on standard error, exit code 1 (F1).
    NoArguments(String),
    /// `--dependencies`: a static binary has none; the kernel is asked.
    Dependencies,
    Run(Box<Options>, Command),
}

/// A subcommand with its operands.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Build { context: OsString },
    Delete { images: Vec<String> },
    Doctor,
    Export { image: String, path: PathBuf },
    Fsck,
    Gc,
    Import { path: PathBuf, image: String },
    List { image: Option<String> },
    Pull { image: String, directory: Option<PathBuf> },
    Push { image: String, destination: Option<String> },
    Reset,
    StoragePath,
}

/// A subcommand without its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sub {
    Build,
    Delete,
    Doctor,
    Export,
    Fsck,
    Gc,
    Import,
    List,
    Pull,
    Push,
    Reset,
    StoragePath,
}

/// What is said of a subcommand.
pub(crate) struct Subcommand {
    pub kind: Sub,
    pub name: &'static str,
    pub operands: &'static str,
    pub help: &'static str,
}

pub(crate) const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand {
        kind: Sub::Build,
        name: "build",
        operands: "CONTEXT",
        help: "build an image from a Dockerfile; CONTEXT is the root of COPY and ADD, or - for none",
    },
    Subcommand {
        kind: Sub::Delete,
        name: "delete",
        operands: "IMAGE_REF...",
        help: "delete images from the storage directory",
    },
    Subcommand {
        kind: Sub::Doctor,
        name: "doctor",
        operands: "",
        help: "say what this machine offers and what to ask the administrator",
    },
    Subcommand {
        kind: Sub::Export,
        name: "export",
        operands: "IMAGE_REF PATH",
        help: "write an image into one file (.sqfs, .tar, docker-archive:FILE, oci-archive:FILE) or a directory (DIR/, oci:DIR)",
    },
    Subcommand { kind: Sub::Fsck, name: "fsck", operands: "", help: "check the storage directory" },
    Subcommand {
        kind: Sub::Gc,
        name: "gc",
        operands: "",
        help: "remove cached layers and downloads that no image needs",
    },
    Subcommand {
        kind: Sub::Import,
        name: "import",
        operands: "PATH IMAGE_REF",
        help: "copy a directory, a tarball, a saved (docker save, OCI) or packed image into the storage directory",
    },
    Subcommand {
        kind: Sub::List,
        name: "list",
        operands: "[IMAGE_REF]",
        help: "list images, or tell what is known about one",
    },
    Subcommand {
        kind: Sub::Pull,
        name: "pull",
        operands: "IMAGE_REF [PATH]",
        help: "pull an image from a registry into the storage directory, into a directory PATH, or into one file (as export names it)",
    },
    Subcommand { kind: Sub::Push, name: "push", operands: "IMAGE_REF [DEST_REF]", help: "push an image to a registry" },
    Subcommand {
        kind: Sub::Reset,
        name: "reset",
        operands: "",
        help: "delete all images and caches of the storage directory",
    },
    Subcommand { kind: Sub::StoragePath, name: "storage-path", operands: "", help: "print the storage directory" },
];
