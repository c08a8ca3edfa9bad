//! An option is a row of data: parsing, help, manual pages and completions are made from it, for each of the programs.
//!
//! Long options may be shortened as long as they stay unambiguous.

use std::ffi::OsString;

use lexopt::{Arg, Parser};

use crate::error::{Error, Result};
use crate::nearest::nearest;

/// An option of a program whose options are kept in a `T` and whose subcommands are `S`.
pub(crate) struct Row<T: 'static, S: 'static> {
    pub short: Option<char>,
    pub long: &'static str,
    /// Subcommands that take it; empty: all (a common option).
    pub of: &'static [S],
    pub value: Value<T>,
    pub help: &'static str,
    /// Other names, which are taken but not shown; those of one letter are short options.
    pub also: &'static [&'static str],
    /// Values that it may have, as far as they can be listed.
    pub words: &'static [&'static str],
}

/// What completions and manual pages say of an option.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub short: Option<char>,
    pub long: &'static str,
    pub takes: Takes,
    pub help: &'static str,
    pub words: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Nothing,
    Required(&'static str),
    /// Only in the form `--option=VALUE`.
    Optional(&'static str),
}

/// How an option takes its value, and where it goes.
pub(crate) enum Value<T> {
    Flag(fn(&mut T)),
    Required(&'static str, fn(&mut T, OsString) -> Result<()>),
    /// Only in the form `--option=VALUE`.
    Optional(&'static str, fn(&mut T, Option<OsString>) -> Result<()>),
    /// Something is printed, and that is all.
    Print(Answer),
}

/// What is printed for the options that only ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Help,
    Version,
    Dependencies,
}

pub(crate) const fn row<T, S>(
    short: Option<char>,
    long: &'static str,
    of: &'static [S],
    value: Value<T>,
    help: &'static str,
) -> Row<T, S> {
    Row { short, long, of, value, help, also: &[], words: &[] }
}

/// The row with other names, which are not shown. (A function, not a method: closures in the row have their types from it.)
pub(crate) const fn also<T, S>(names: &'static [&'static str], mut row: Row<T, S>) -> Row<T, S> {
    row.also = names;
    row
}

/// The row with the values that its option may have.
pub(crate) const fn one_of<T, S>(words: &'static [&'static str], mut row: Row<T, S>) -> Row<T, S> {
    row.words = words;
    row
}

impl<T, S: PartialEq> Row<T, S> {
    pub fn entry(&self) -> Entry {
        let takes = match self.value {
            Value::Flag(_) | Value::Print(_) => Takes::Nothing,
            Value::Required(name, _) => Takes::Required(name),
            Value::Optional(name, _) => Takes::Optional(name),
        };
        Entry { short: self.short, long: self.long, takes, help: self.help, words: self.words }
    }

    pub fn applies(&self, sub: Option<&S>) -> bool {
        self.of.is_empty() || sub.is_some_and(|sub| self.of.contains(sub))
    }

    pub fn has_short(&self, letter: char) -> bool {
        self.short == Some(letter) || self.also.iter().any(|name| is_letter(name, letter))
    }

    fn has_long(&self, name: &str) -> bool {
        self.long == name || self.also.iter().any(|also| also.len() > 1 && *also == name)
    }
}

impl Entry {
    /// As help shows it: `-s, --storage DIR`.
    pub fn shown(&self) -> String {
        let short = self.short.map_or("    ".to_owned(), |c| format!("-{c}, "));
        let value = match self.takes {
            Takes::Nothing => String::new(),
            Takes::Required(name) => format!(" {name}"),
            Takes::Optional(name) => format!("[={name}]"),
        };
        format!("{short}--{}{value}", self.long)
    }
}

fn is_letter(name: &str, letter: char) -> bool {
    let mut letters = name.chars();
    letters.next() == Some(letter) && letters.next().is_none()
}

/// The row that an option on the command line means; `None` if it is unknown.
pub(crate) fn find<T, S: PartialEq>(
    table: &'static [Row<T, S>],
    sub: Option<&S>,
    arg: &Arg<'_>,
) -> Result<Option<&'static Row<T, S>>> {
    let rows = table.iter().filter(|row| row.applies(sub));
    // What a subcommand means by a name comes before what all mean by it.
    match arg {
        Arg::Short(letter) => Ok(rows.filter(|row| row.has_short(*letter)).max_by_key(|row| !row.of.is_empty())),
        Arg::Long(name) => {
            let exact = rows.clone().filter(|row| row.has_long(name)).max_by_key(|row| !row.of.is_empty());
            let begun: Vec<_> = rows.filter(|row| row.long.starts_with(name)).collect();
            match (exact, &begun[..]) {
                (Some(row), _) => Ok(Some(row)),
                (None, []) => Ok(None),
                (None, [row]) => Ok(Some(row)),
                (None, several) => {
                    let names: Vec<String> = several.iter().map(|row| format!("--{}", row.long)).collect();
                    Err(Error::usage(format!("ambiguous option: --{name}"))
                        .hint(format!("could be {}", names.join(", "))))
                }
            }
        }
        Arg::Value(_) => Ok(None),
    }
}

/// The long option that was probably meant. Only if none has this very name, be it one of another subcommand.
pub(crate) fn nearest_option<T, S: PartialEq>(
    table: &'static [Row<T, S>],
    sub: Option<&S>,
    option: &str,
) -> Option<&'static str> {
    let name = option.strip_prefix("--").filter(|name| table.iter().all(|row| row.long != *name))?;
    nearest(name, table.iter().filter(|row| row.applies(sub)).map(|row| row.long))
}

/// Takes the option's value, if it has one, and puts it where it belongs.
pub(crate) fn apply<T, S>(row: &Row<T, S>, parser: &mut Parser, target: &mut T) -> Result<Option<Answer>> {
    match row.value {
        Value::Flag(set) => set(target),
        Value::Required(_, set) => set(target, parser.value().map_err(usage)?)?,
        Value::Optional(_, set) => set(target, parser.optional_value())?,
        Value::Print(answer) => return Ok(Some(answer)),
    }
    Ok(None)
}

pub(crate) fn usage(e: lexopt::Error) -> Error {
    Error::usage(crate::log::escape(&e.to_string()))
}
