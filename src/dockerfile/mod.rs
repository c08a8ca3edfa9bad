//! What does the file say? Pure: text in, typed values out.
//!
//! [`parse`] reads a file into a tree or all its faults; nothing else of this directory runs before that is done.

pub mod ast;
pub mod chmod;
pub mod conceal;
mod csv;
pub mod diagnostic;
pub mod dump;
pub mod duration;
mod expansion;
mod flags;
mod heredoc;
pub mod history;
pub mod ignore;
mod instruction;
mod json;
mod lines;
pub mod mount_flag;
mod parse;
pub mod path;
mod pattern;
pub mod plan;
pub mod platform;
pub mod port;
pub mod remote;
pub mod scope;
pub mod signal;
mod split;
mod stage_deps;
pub mod state;
pub mod words;

pub use parse::{parse, parse_trigger};

#[cfg(test)]
mod golden_tests;
#[cfg(any(test, fuzzing))]
pub mod print;
#[cfg(test)]
mod sweep_tests;
