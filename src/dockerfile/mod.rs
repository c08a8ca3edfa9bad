//! What does the file say? Pure: text in, typed values out.
//!
//! [`parse`] reads a file into a tree or all its faults; nothing else of this directory runs before that is done.

pub mod ast;
pub mod chmod;
mod csv;
pub mod dump;
pub mod duration;
mod expansion;
pub mod fault;
mod flags;
mod heredoc;
pub mod history;
pub mod ignore;
mod instruction;
mod json;
mod lines;
pub mod mount;
mod parse;
pub mod path;
mod pattern;
pub mod plan;
pub mod platform;
pub mod port;
pub mod remote;
pub mod scope;
mod shape;
pub mod signal;
pub mod state;
mod uses;
pub mod words;

pub use parse::{parse, parse_trigger};

#[cfg(test)]
mod golden_tests;
#[cfg(any(test, fuzzing))]
pub mod print;
#[cfg(test)]
mod sweep_tests;
