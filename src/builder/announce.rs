//! The line that announces an instruction (F6): number, cache mark, keyword, options, what it does.

use crate::dockerfile::ast::{Instruction, Kind};
use crate::dockerfile::conceal::conceal;
use crate::dockerfile::state::{Action, CopyStep, State, Step};
use crate::log::escape;

/// Whether the step's result was there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cache {
    /// `  4* RUN …`
    Hit,
    /// `  4 RUN …`
    Miss,
}

/// `  4 RUN ['/bin/sh', '-c', 'echo test1a']`
pub fn line(number: usize, cache: Cache, text: &str) -> String {
    let mark = if cache == Cache::Hit { "*" } else { "" };
    format!("{number:3}{mark} {}", escape(&conceal(text)))
}

/// What an instruction does, as far as `state`, which it has changed already, says. One line a variable, as the
/// original does.
pub fn texts(instruction: &Instruction, step: &Step, state: &State) -> Vec<String> {
    let current = |name: &str| state.scope.lookup(name);
    match (&step.action, &instruction.kind) {
        (Action::Run(run), _) => vec![format!("RUN {}", list(&run.argv))],
        (Action::Copy(copy), _) => vec![transfer(copy, step.keyword)],
        (_, Kind::Workdir(_)) => vec![format!("WORKDIR {}", state.config.workdir)],
        // A name that is not set now was itself expanded.
        (_, Kind::Env(pairs)) if pairs.iter().all(|(name, _)| current(name).is_some()) => {
            let value = |name: &str| quoted(&current(name).unwrap_or_default());
            pairs.iter().map(|(name, _)| format!("ENV {name}={}", value(name))).collect()
        }
        (_, Kind::Arg(args)) => {
            let one = |name: &str| match current(name) {
                Some(value) => format!("ARG {name}={}", quoted(&value)),
                None => format!("ARG {name}"),
            };
            args.iter().map(|arg| one(&arg.name)).collect()
        }
        (_, Kind::Shell(_)) => vec![format!("SHELL {}", list(&state.config.shell))],
        // As in the image's history, so that variables are seen expanded. ONBUILD has no entry there.
        (_, Kind::Onbuild(onbuild)) => vec![format!("ONBUILD {}", onbuild.trigger)],
        _ => vec![step.created_by.clone()],
    }
}

/// `COPY --from=x ['a', 'b'] -> '/dst'`
pub fn transfer(what: &CopyStep, keyword: &str) -> String {
    let mut text = keyword.to_owned();
    if let Some(from) = &what.from {
        text.push_str(&format!(" --from={from}"));
    }
    let mut sources: Vec<String> = what.sources.iter().map(ToString::to_string).collect();
    sources.extend(what.files.iter().map(|f| format!("<<{}", f.name)));
    format!("{text} {} -> {}", list(&sources), quoted(&what.destination))
}

/// A list as the original shows it: `['a', 'b']`.
pub fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|s| quoted(s)).collect();
    format!("[{}]", items.join(", "))
}

/// A string as Python would write it: single quotes unless the text has one and no double quote.
pub fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_like_the_original() {
        let run = format!("RUN {}", list(&["/bin/sh".into(), "-c".into(), "echo test1a".into()]));
        assert_eq!(line(13, Cache::Miss, &run), " 13 RUN ['/bin/sh', '-c', 'echo test1a']");
        assert_eq!(line(1, Cache::Hit, "FROM 00_tiny"), "  1* FROM 00_tiny");
    }

    #[test]
    fn quoting() {
        let check = |text: &str, want: &str| assert_eq!(quoted(text), want);
        check("a", "'a'");
        check("it's", "\"it's\"");
        check("'\"", "'\\'\"'");
        check("a\nb\\", "'a\\nb\\\\'");
    }
}
