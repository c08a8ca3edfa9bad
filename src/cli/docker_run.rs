//! `run` and `shell` of `ch-image`: what Docker's options mean in words of `ch-run`. Pure: words in, words out.
//!
//! As with Docker, the command may write anywhere and what it wrote is forgotten, the home directory is not mounted, and
//! words after the image are arguments of its ENTRYPOINT.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use lexopt::{Arg, Parser};

use super::table::Value::{Flag, Optional, Print, Required};
use super::table::{self, Answer, Entry, Row, row};
use super::{Invocation, Sub, Subcommand, help};
use crate::error::{Error, Result};

/// There are no subcommands below.
#[derive(PartialEq)]
enum Never {}

/// Words for `ch-run`, as far as they are known.
#[derive(Default)]
struct Given {
    options: Vec<OsString>,
    entrypoint: Option<OsString>,
}

const TABLE: &[Row<Given, Never>] = &[
    row(
        Some('e'),
        "env",
        &[],
        Required("VAR[=VALUE]", |g, v| push(g, "--env", &v)),
        "set a variable, or pass on the caller's; can be repeated",
    ),
    row(
        None,
        "entrypoint",
        &[],
        Required("PROG", |g, v| {
            g.entrypoint = Some(v);
            Ok(())
        }),
        "run PROG instead of the image's ENTRYPOINT",
    ),
    row(
        Some('i'),
        "interactive",
        &[],
        Optional("t", |_, v| match v {
            None => Ok(()),
            Some(v) if v == "t" => Ok(()),
            Some(v) => Err(Error::usage(format!("-i: unexpected: {}", crate::log::escape(&v.to_string_lossy())))),
        }),
        "accepted, also as -it: the command has your terminal anyway",
    ),
    row(None, "rm", &[], Flag(|_| {}), "accepted: nothing is left behind anyway"),
    row(Some('t'), "tty", &[], Flag(|_| {}), "accepted: the command has your terminal anyway"),
    row(
        Some('u'),
        "user",
        &[],
        Required("UID[:GID]", |g, v| {
            let (user, group) = split(&v);
            push(g, "--uid", user)?;
            group.map_or(Ok(()), |group| push(g, "--gid", group))
        }),
        "run as this user",
    ),
    row(
        Some('v'),
        "volume",
        &[],
        Required("SRC:DST[:ro]", |g, v| push(g, "--bind", &v)),
        "mount SRC at DST; can be repeated",
    ),
    row(Some('w'), "workdir", &[], Required("DIR", |g, v| push(g, "--cd", &v)), "initial working directory"),
    row(
        Some('s'),
        "storage",
        &[],
        Required("DIR", |g, v| push(g, "--storage", &v)),
        "storage directory, where images are found by name",
    ),
    row(Some('h'), "help", &[], Print(Answer::Help), "print this help and exit"),
];

/// Its options, for help, completions and manual pages.
pub(super) fn entries() -> Vec<Entry> {
    TABLE.iter().map(Row::entry).collect()
}

/// What `ch-run` is to do. `words` are those after the subcommand.
pub(super) fn parse(
    sub: &Subcommand,
    storage: Option<OsString>,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Invocation> {
    let mut given = Given::default();
    if let Some(storage) = storage {
        push(&mut given, "--storage", &storage)?;
    }
    let mut parser = Parser::from_args(words);
    let image = loop {
        let row = match parser.next().map_err(table::usage)? {
            None => {
                return Err(Error::usage(format!("{}: missing operand: IMAGE", sub.name))
                    .hint(format!("usage: ch-image {} {}", sub.name, sub.operands)));
            }
            Some(Arg::Value(image)) => break image,
            Some(arg) => table::find(TABLE, None, &arg)?.ok_or_else(|| unknown(sub, arg))?,
        };
        let said = table::apply(row, &mut parser, &mut given).map_err(|e| e.context(format!("--{}", row.long)))?;
        if said.is_some() {
            return Ok(Invocation::Print(help::of(sub)));
        }
    };
    let mut command: Vec<OsString> = parser.raw_args().map_err(table::usage)?.collect();
    if command.first().is_some_and(|first| first == "--") {
        command.remove(0);
    }
    let mut all: Vec<OsString> = ["--write-fake", "--no-home"].map(OsString::from).to_vec();
    match (given.entrypoint, sub.kind, command.is_empty()) {
        (Some(program), _, _) => all.push(joined("--entrypoint", &program)),
        (None, Sub::Shell, true) => {
            command =
                ["/bin/sh", "-c", "command -v bash >/dev/null && exec bash; exec sh"].map(OsString::from).to_vec();
        }
        (None, Sub::Shell, false) => {}
        // The image's own command.
        (None, _, true) => {}
        (None, _, false) => all.push("--entrypoint".into()),
    }
    all.extend(given.options);
    all.extend([image, "--".into()]);
    all.extend(command);
    Ok(Invocation::ChRun(all))
}

fn unknown(sub: &Subcommand, arg: Arg<'_>) -> Error {
    let text = match &arg {
        Arg::Long(name) => format!("--{name}"),
        Arg::Short(letter) => format!("-{letter}"),
        Arg::Value(_) => String::new(),
    };
    let e = Error::usage(format!("unknown option: {text}"));
    match table::nearest_option(TABLE, None, &text) {
        Some(near) => e.hint(format!("did you mean --{near}?")),
        None => e.hint(format!("ch-image {} --help lists the options; ch-run has more", sub.name)),
    }
}

fn push(given: &mut Given, option: &str, value: &OsStr) -> Result<()> {
    given.options.push(joined(option, value));
    Ok(())
}

fn joined(option: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(option);
    word.push("=");
    word.push(value);
    word
}

/// `UID:GID`
fn split(text: &OsStr) -> (&OsStr, Option<&OsStr>) {
    let bytes = text.as_bytes();
    match bytes.iter().position(|&b| b == b':') {
        Some(at) => (OsStr::from_bytes(&bytes[..at]), Some(OsStr::from_bytes(&bytes[at + 1..]))),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::subcommand;

    #[test]
    fn dockers_words_as_those_of_ch_run() {
        let run = |line: &str| {
            let mut words = line.split(' ').map(OsString::from);
            let sub = subcommand::by_name(&words.next().unwrap().to_string_lossy()).unwrap();
            parse(sub, None, words)
        };
        let check = |line: &str, want: &str| match run(line) {
            Ok(Invocation::ChRun(words)) => assert_eq!(words.join(OsStr::new(" ")), want, "{line}"),
            other => panic!("{line}: {other:?}"),
        };
        check("run img", "--write-fake --no-home img --");
        check("run -it --rm img sh -c x", "--write-fake --no-home --entrypoint img -- sh -c x");
        check(
            "run -i -t -v /a:/b:ro -e A=b -w /x img",
            "--write-fake --no-home --bind=/a:/b:ro --env=A=b --cd=/x img --",
        );
        check("run --entrypoint /p img a --help", "--write-fake --no-home --entrypoint=/p img -- a --help");
        check("run -u 1:2 -s S img", "--write-fake --no-home --uid=1 --gid=2 --storage=S img --");
        check("run img -- a -- b", "--write-fake --no-home --entrypoint img -- a -- b");
        check("shell img", "--write-fake --no-home img -- /bin/sh -c command -v bash >/dev/null && exec bash; exec sh");
        assert_eq!(run("run").unwrap_err().to_string(), "run: missing operand: IMAGE");
        assert_eq!(run("run --privileged img").unwrap_err().to_string(), "unknown option: --privileged");
    }
}
