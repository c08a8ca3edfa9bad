//! From arguments to an [`Invocation`].
//!
//! Common options stand before or after the subcommand; if both, those after win outright (F1). Long options
//! may be shortened as long as they stay unambiguous.

use std::ffi::OsString;

use lexopt::{Arg, Parser};

use super::options::{Options, Row, TABLE, Value};
use super::{Command, Invocation, SUBCOMMANDS, Subcommand, help};
use crate::error::{Error, Result};

/// `args` without the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation> {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.is_empty() {
        return Ok(Invocation::NoArguments(help::general()));
    }
    let mut parser = Parser::from_args(args);
    let mut options = Options::default();
    let mut sub: Option<&Subcommand> = None;
    let mut operands: Vec<OsString> = Vec::new();
    let mut verbose_before = 0;
    while let Some(arg) = parser.next().map_err(usage)? {
        let row = match arg {
            Arg::Short('h') => return Ok(print_help(sub)),
            Arg::Short(c) => TABLE
                .iter()
                .filter(|r| r.short == Some(c) && applies(r, sub))
                // What a subcommand means by a letter comes before what all mean by it.
                .max_by_key(|r| !r.of.is_empty())
                .ok_or_else(|| unknown(&format!("-{c}"), sub))?,
            Arg::Long(name) => match find_long(name, sub)? {
                Long::Help => return Ok(print_help(sub)),
                Long::Version => return Ok(Invocation::Print(format!("{}\n", env!("CARGO_PKG_VERSION")))),
                Long::Dependencies => return Ok(Invocation::Dependencies),
                Long::Row(row) => row,
            },
            Arg::Value(word) if sub.is_none() => {
                sub = Some(find_subcommand(&word)?);
                verbose_before = std::mem::take(&mut options.verbose);
                continue;
            }
            Arg::Value(word) => {
                operands.push(word);
                continue;
            }
        };
        let name = row.long;
        let set = match row.value {
            Value::None(set) => {
                set(&mut options);
                continue;
            }
            Value::Required(_, set) => parser.value().map_err(usage).and_then(|v| set(&mut options, v)),
            Value::Optional(_, set) => set(&mut options, parser.optional_value()),
        };
        set.map_err(|e| e.context(format!("--{name}")))?;
    }
    let Some(sub) = sub else {
        return Err(Error::usage("no subcommand").hint("ch-image --help lists them"));
    };
    if options.verbose == 0 {
        options.verbose = verbose_before;
    }
    if options.force.is_some() && options.no_force_detect {
        return Err(Error::usage("--force and --no-force-detect are incompatible"));
    }
    let command = command(sub, operands)?;
    Ok(Invocation::Run(Box::new(options), command))
}

fn print_help(sub: Option<&Subcommand>) -> Invocation {
    Invocation::Print(sub.map_or_else(help::general, help::of))
}

enum Long {
    Help,
    Version,
    Dependencies,
    Row(&'static Row),
}

fn applies(row: &Row, sub: Option<&Subcommand>) -> bool {
    row.of.is_empty() || sub.is_some_and(|s| row.of.contains(&s.name))
}

fn find_long(name: &str, sub: Option<&Subcommand>) -> Result<Long> {
    let fixed = [("help", Long::Help), ("version", Long::Version), ("dependencies", Long::Dependencies)];
    let rows = TABLE.iter().filter(|r| applies(r, sub)).map(|r| (r.long, Long::Row(r)));
    let mut found: Vec<(&str, Long)> = fixed.into_iter().chain(rows).filter(|(n, _)| n.starts_with(name)).collect();
    if let Some(exact) = found.iter().position(|(n, _)| *n == name) {
        return Ok(found.swap_remove(exact).1);
    }
    match found.len() {
        0 => Err(unknown(&format!("--{name}"), sub)),
        1 => Ok(found.swap_remove(0).1),
        _ => {
            let names: Vec<String> = found.iter().map(|(n, _)| format!("--{n}")).collect();
            Err(Error::usage(format!("ambiguous option: --{name}")).hint(format!("could be {}", names.join(", "))))
        }
    }
}

fn unknown(option: &str, sub: Option<&Subcommand>) -> Error {
    let of: Vec<&str> = TABLE
        .iter()
        .filter(|r| option == format!("--{}", r.long) || r.short.is_some_and(|c| option == format!("-{c}")))
        .flat_map(|r| r.of.iter().copied())
        .collect();
    let e = Error::usage(format!("unknown option: {option}"));
    match (sub, of.is_empty()) {
        (None, false) => e.hint(format!("it is an option of {}: put it after the subcommand", of.join(", "))),
        (Some(_), false) => e.hint(format!("it is an option of {}", of.join(", "))),
        (None, true) => e.hint("ch-image --help lists the options"),
        (Some(sub), true) => e.hint(format!("ch-image {} --help lists the options", sub.name)),
    }
}

fn find_subcommand(word: &OsString) -> Result<&'static Subcommand> {
    SUBCOMMANDS.iter().find(|s| *word == *s.name).ok_or_else(|| {
        let names: Vec<&str> = SUBCOMMANDS.iter().map(|s| s.name).collect();
        Error::usage(format!("unknown subcommand: {}", crate::log::escape(&word.to_string_lossy())))
            .hint(format!("subcommands: {}", names.join(" ")))
    })
}

fn command(sub: &Subcommand, operands: Vec<OsString>) -> Result<Command> {
    let mut words = operands.into_iter();
    let mut next = |what: &str| {
        words.next().ok_or_else(|| {
            Error::usage(format!("{}: missing operand: {what}", sub.name))
                .hint(format!("usage: ch-image {} {}", sub.name, sub.operands))
        })
    };
    let text = |v: OsString| v.into_string().map_err(|v| Error::usage(format!("not valid UTF-8: {v:?}")));
    let command = match sub.name {
        "build" => Command::Build { context: next("CONTEXT")? },
        "delete" => {
            let mut images = vec![text(next("IMAGE_REF")?)?];
            for word in words.by_ref() {
                images.push(text(word)?);
            }
            Command::Delete { images }
        }
        "doctor" => Command::Doctor,
        "export" => Command::Export { image: text(next("IMAGE_REF")?)?, path: next("PATH")?.into() },
        "fsck" => Command::Fsck,
        "gc" => Command::Gc,
        "import" => Command::Import { path: next("PATH")?.into(), image: text(next("IMAGE_REF")?)? },
        "list" => Command::List { image: words.next().map(text).transpose()? },
        "pull" => Command::Pull { image: text(next("IMAGE_REF")?)?, directory: words.next().map(Into::into) },
        "push" => Command::Push { image: text(next("IMAGE_REF")?)?, destination: words.next().map(text).transpose()? },
        "reset" => Command::Reset,
        "storage-path" => Command::StoragePath,
        other => unreachable!("subcommand without a row: {other}"),
    };
    match words.next() {
        Some(extra) => {
            let forced = if sub.name == "build" { "; give --force its mode with =, as in --force=seccomp" } else { "" };
            Err(Error::usage(format!("{}: extra operand: {extra:?}", sub.name))
                .hint(format!("usage: ch-image {} {}{forced}", sub.name, sub.operands)))
        }
        None => Ok(command),
    }
}

fn usage(e: lexopt::Error) -> Error {
    Error::usage(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> (Options, Command) {
        match parse(line.split_whitespace().map(OsString::from)) {
            Ok(Invocation::Run(options, command)) => (*options, command),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn common_options_stand_on_both_sides() {
        assert_eq!(run("-vv list -v").0.verbose, 1);
        assert_eq!(run("-vv list").0.verbose, 2);
        assert_eq!(run("list -vvv").0.verbose, 3);
        assert_eq!(run("-s a list -s b").0.storage, Some("b".into()));
        assert_eq!(run("--stor=x list").0.storage, Some("x".into()));
    }

    #[test]
    fn usage_errors() {
        let check = |line: &str, want: &str| {
            let e = parse(line.split_whitespace().map(OsString::from)).unwrap_err();
            assert_eq!((e.to_string().as_str(), e.exit_code()), (want, 2), "{line}");
        };
        check("frobnicate", "unknown subcommand: frobnicate");
        check("list --frob", "unknown option: --frob");
        check("-t x build .", "unknown option: -t");
        check("build", "build: missing operand: CONTEXT");
        check("list a b", "list: extra operand: \"b\"");
        check("build --force=maybe .", "--force: unknown mode \"maybe\"");
        check("pull --last-layer=0 x", "--last-layer: not a positive number: \"0\"");
        check("build --force --no-force-detect .", "--force and --no-force-detect are incompatible");
        check("build --no .", "ambiguous option: --no");
        check("-v", "no subcommand");
    }

    #[test]
    fn operands() {
        assert_eq!(run("pull a b").1, Command::Pull { image: "a".into(), directory: Some("b".into()) });
        assert_eq!(run("delete a b").1, Command::Delete { images: vec!["a".into(), "b".into()] });
        assert_eq!(run("build --force -t x .").0.force, Some(super::super::Force::Fakeroot));
        assert_eq!(run("build --force=seccomp .").0.force, Some(super::super::Force::Seccomp));
    }

    #[test]
    fn help_names_every_option() {
        let mut all = help::general();
        SUBCOMMANDS.iter().for_each(|s| all.push_str(&help::of(s)));
        for row in TABLE {
            assert!(all.contains(&format!("--{}", row.long)), "{}", row.long);
        }
        assert_eq!(parse(["-h".into()]), Ok(Invocation::Print(help::general())));
    }
}
