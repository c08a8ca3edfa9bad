//! What did the user ask for? The command line as data: for each program a table of options makes the parser and the help.
//!
//! [`parse`] is pure: arguments in, [`Invocation`] out. What depends on the environment is a parameter.

pub mod ch_run_args;
mod ch_run_values;
pub mod convert_args;
mod crates;
mod docker_run;
mod generate;
mod help;
mod options;
mod parse;
mod subcommand;
mod table;

use std::ffi::OsString;
use std::path::PathBuf;

pub use options::{Force, Format, Options, Progress};
pub use parse::parse;
pub(crate) use subcommand::{SUBCOMMANDS, Sub, Subcommand};

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
    /// What `ch-run` does, with these words.
    ChRun(Vec<OsString>),
}

/// A subcommand with its operands.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Build { context: OsString },
    Delete { images: Vec<String> },
    Doctor,
    Export { images: Vec<String>, path: PathBuf },
    Fsck,
    Gc,
    Import { path: PathBuf, image: String },
    History { image: String },
    Inspect { image: String },
    List { image: Option<String> },
    Load { path: PathBuf, image: Option<String> },
    Pull { image: String, directory: Option<PathBuf> },
    Push { image: String, destination: Option<String> },
    Rename { image: String, name: String },
    Reset,
    StoragePath,
    Tag { image: String, name: String },
}
