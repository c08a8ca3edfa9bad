//! From arguments to an [`Invocation`].
//!
//! Common options stand before or after the subcommand; if both, those after win outright (F1). Long options
//! may be shortened as long as they stay unambiguous.

use std::ffi::OsString;
use std::iter;

use lexopt::{Arg, Parser};

use super::options::{Options, TABLE};
use super::table::{self, Answer, Row};
use super::{Command, Invocation, SUBCOMMANDS, Sub, Subcommand, crates, docker_run, generate, help, subcommand};
use crate::error::{Error, Result};
use crate::nearest::nearest;

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
    // `-v` may come after it.
    let mut is_version = false;
    while let Some(arg) = parser.next().map_err(table::usage)? {
        let kind = sub.map(|sub| sub.kind);
        let row = match arg {
            Arg::Value(word) if sub.is_none() => {
                sub = Some(find_subcommand(&word)?);
                if let Some(sub) = sub.filter(|sub| matches!(sub.kind, Sub::Run | Sub::Shell)) {
                    let storage = options.storage.take().map(Into::into);
                    return docker_run::parse(sub, storage, parser.raw_args().map_err(table::usage)?);
                }
                verbose_before = std::mem::take(&mut options.verbose);
                continue;
            }
            Arg::Value(word) => {
                operands.push(word);
                continue;
            }
            Arg::Short(_) | Arg::Long(_) => {
                table::find(TABLE, kind.as_ref(), &arg)?.ok_or_else(|| unknown(&arg, sub))?
            }
        };
        match table::apply(row, &mut parser, &mut options).map_err(|e| e.context(format!("--{}", row.long)))? {
            None => {}
            Some(Answer::Help) => return Ok(Invocation::Print(sub.map_or_else(help::general, help::of))),
            Some(Answer::Version) => is_version = true,
            Some(Answer::Dependencies) => return Ok(Invocation::Dependencies),
        }
    }
    if is_version {
        return Ok(Invocation::Print(crates::version(options.verbose > 0 || verbose_before > 0)));
    }
    if let Some(page) = &options.generate {
        return generate::page(page).map(Invocation::Print);
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
    invocation(sub, options, operands)
}

fn unknown(option: &Arg<'_>, sub: Option<&Subcommand>) -> Error {
    let (option, rows): (String, Vec<&Row<Options, Sub>>) = match *option {
        Arg::Short(letter) => (format!("-{letter}"), TABLE.iter().filter(|row| row.has_short(letter)).collect()),
        Arg::Long(name) => (format!("--{name}"), TABLE.iter().filter(|row| row.long == name).collect()),
        Arg::Value(_) => (String::new(), Vec::new()),
    };
    let kinds: Vec<Sub> = rows.iter().flat_map(|row| row.of.iter().copied()).collect();
    let of: Vec<&str> = SUBCOMMANDS.iter().filter(|s| kinds.contains(&s.kind)).map(|s| s.name).collect();
    let e = Error::usage(format!("unknown option: {option}"));
    let kind = sub.map(|sub| sub.kind);
    if let Some(near) = table::nearest_option(TABLE, kind.as_ref(), &option) {
        return e.hint(format!("did you mean --{near}?"));
    }
    match (sub, of.is_empty()) {
        (None, false) => e.hint(format!("it is an option of {}: put it after the subcommand", of.join(", "))),
        (Some(_), false) => e.hint(format!("it is an option of {}", of.join(", "))),
        (None, true) => e.hint("ch-image --help lists the options"),
        (Some(sub), true) => e.hint(format!("ch-image {} --help lists the options", sub.name)),
    }
}

fn find_subcommand(word: &OsString) -> Result<&'static Subcommand> {
    let text = word.to_string_lossy();
    subcommand::by_name(&text).ok_or_else(|| {
        let error = Error::usage(format!("unknown subcommand: {}", crate::log::escape(&text)));
        let names = SUBCOMMANDS.iter().flat_map(|sub| sub.also.iter().copied().chain([sub.name]));
        match (subcommand::elsewhere(&text), nearest(&text, names)) {
            (Some(answer), _) => error.hint(answer),
            (None, Some(name)) => error.hint(format!("did you mean {name}? ch-image help lists the subcommands")),
            (None, None) => {
                let names: Vec<&str> = SUBCOMMANDS.iter().map(|sub| sub.name).collect();
                error.hint(format!("subcommands: {}", names.join(" ")))
            }
        }
    })
}

/// What to do about the subcommand, now that all words are known.
fn invocation(sub: &'static Subcommand, mut options: Options, operands: Vec<OsString>) -> Result<Invocation> {
    let mut words = operands.into_iter();
    let mut next = |what: &str| {
        words.next().ok_or_else(|| {
            Error::usage(format!("{}: missing operand: {what}", sub.name))
                .hint(format!("usage: ch-image {} {}", sub.name, sub.operands))
        })
    };
    let text = |v: OsString| v.into_string().map_err(|v| Error::usage(format!("not valid UTF-8: {v:?}")));
    let archive = options.input.take();
    if sub.kind == Sub::Save {
        options.export_format.get_or_insert_with(|| "docker-archive".to_owned());
    }
    let output = options.output.clone().unwrap_or_else(|| "-".into());
    let is_verbose = options.verbose > 0;
    let run = |command| Invocation::Run(Box::new(options), command);
    let print = Invocation::Print;
    let invocation = match sub.kind {
        Sub::Build => run(Command::Build { context: next("CONTEXT")? }),
        Sub::Delete => {
            let first = next("IMAGE_REF")?;
            run(Command::Delete { images: iter::once(first).chain(words.by_ref()).map(text).collect::<Result<_>>()? })
        }
        Sub::Doctor => run(Command::Doctor),
        Sub::Export => {
            let mut all = vec![next("IMAGE_REF")?, next("PATH")?];
            all.extend(words.by_ref());
            let path = all.pop().unwrap_or_default().into();
            run(Command::Export { images: all.into_iter().map(text).collect::<Result<_>>()?, path })
        }
        Sub::Fsck => run(Command::Fsck),
        Sub::Gc => run(Command::Gc),
        Sub::Help => {
            let of = words.next().map(|word| find_subcommand(&word)).transpose()?;
            print(of.map_or_else(help::general, help::of))
        }
        Sub::Import => run(Command::Import { path: next("PATH")?.into(), image: text(next("IMAGE_REF")?)? }),
        Sub::History => run(Command::History { image: text(next("IMAGE_REF")?)? }),
        Sub::Inspect => run(Command::Inspect { image: text(next("IMAGE_REF")?)? }),
        Sub::Load => {
            let path = archive.map_or_else(|| next("PATH").map(Into::into), Ok)?;
            run(Command::Load { path, image: words.next().map(text).transpose()? })
        }
        Sub::Rename => run(Command::Rename { image: text(next("IMAGE_REF")?)?, name: text(next("NAME")?)? }),
        Sub::Save => {
            let all = iter::once(next("IMAGE_REF")?).chain(words.by_ref());
            run(Command::Export { images: all.map(text).collect::<Result<_>>()?, path: output })
        }
        Sub::Tag => run(Command::Tag { image: text(next("IMAGE_REF")?)?, name: text(next("NAME")?)? }),
        // They have options of their own and were seen to before.
        Sub::Run | Sub::Shell => docker_run::parse(sub, None, words.by_ref())?,
        Sub::List => run(Command::List { image: words.next().map(text).transpose()? }),
        Sub::Pull => run(Command::Pull { image: text(next("IMAGE_REF")?)?, directory: words.next().map(Into::into) }),
        Sub::Push => {
            run(Command::Push { image: text(next("IMAGE_REF")?)?, destination: words.next().map(text).transpose()? })
        }
        Sub::Reset => run(Command::Reset),
        Sub::StoragePath => run(Command::StoragePath),
        Sub::Version => print(crates::version(is_verbose)),
    };
    match words.next() {
        Some(extra) => {
            let forced =
                if sub.kind == Sub::Build { "; give --force its mode with =, as in --force=seccomp" } else { "" };
            Err(Error::usage(format!("{}: extra operand: {extra:?}", sub.name))
                .hint(format!("usage: ch-image {} {}{forced}", sub.name, sub.operands)))
        }
        None => Ok(invocation),
    }
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
    fn words_of_other_programs() {
        assert_eq!(run("rmi a").1, Command::Delete { images: vec!["a".into()] });
        assert_eq!(run("images").1, Command::List { image: None });
        let build = |line: &str| run(&format!("build {line} .")).0;
        assert_eq!(build("--platform linux/arm64/v8").arch, Some("arm64/v8".into()));
        assert_eq!(build("--label a=b --label c=").labels, ["a=b", "c="]);
        assert_eq!(build("--rm --load --network host").ignored, Vec::<&str>::new());
        assert_eq!(build("--network none --no-cache-filter x").ignored, ["--network", "--no-cache-filter"]);
        let check = |line: &str, hint: &str| {
            let e = parse(line.split_whitespace().map(OsString::from)).unwrap_err();
            assert_eq!((e.get_hint(), e.exit_code()), (Some(hint), 2), "{line}");
        };
        check("buid .", "did you mean build? ch-image help lists the subcommands");
        check("build --tagg x .", "did you mean --tag?");
        check("list --tag", "it is an option of build");
        check(
            "prune",
            "ch-image gc removes what no image needs, gc -n says how much that is; ch-image list -l shows sizes",
        );
        check("build --platform windows/amd64 .", "such as linux/amd64, linux/arm64/v8");
        check("build --platform linux/amd64,linux/arm64 .", "build each with a name of its own, as in -t app:arm64");
        check("build --progress=loud .", "kinds: auto, plain");
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
        for sub in SUBCOMMANDS {
            let help = Ok(Invocation::Print(help::of(sub)));
            for name in sub.also.iter().chain([&sub.name]) {
                assert_eq!(parse([name.into(), "--help".into()]), help, "{name}");
                assert_eq!(parse(["help".into(), name.into()]), help, "{name}");
            }
        }
    }

    /// What help shows can be typed, and shows the subcommand that it is an example of.
    #[test]
    fn examples_are_right() {
        for sub in SUBCOMMANDS {
            for (line, _) in sub.examples {
                assert!(line.split(' ').any(|word| word == sub.name), "{line}");
                let parsed = parse(line.split(' ').map(OsString::from));
                assert!(
                    matches!(parsed, Ok(Invocation::Run(..) | Invocation::Print(_) | Invocation::ChRun(_))),
                    "{line}: {parsed:?}"
                );
            }
        }
    }
}
