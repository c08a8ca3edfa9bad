//! What do the lines of a settings file say? Text in, settings out; line numbers in errors.
//!
//! One setting a line: a word and what it is about. `[NAME]` begins a bundle, which holds only where `--module NAME` asks
//! for it. `$NAME` and `${NAME}` stand for variables of the caller, `$$` for a dollar sign.

use crate::error::{Context, Error, Result, bail};

/// What a line is about. Options of ch-run of the same names explain the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Bind,
    Env,
    UnsetEnv,
    Device,
    /// A storage directory that is only looked into.
    Store,
    /// The storage directory where nothing else says it.
    Storage,
}

const WORDS: &[(&str, Word)] = &[
    ("bind", Word::Bind),
    ("env", Word::Env),
    ("unset-env", Word::UnsetEnv),
    ("device", Word::Device),
    ("store", Word::Store),
    ("storage", Word::Storage),
];

impl Word {
    pub fn name(self) -> &'static str {
        WORDS.iter().find(|(_, word)| *word == self).map_or("", |(name, _)| name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// From 1.
    pub number: usize,
    /// The bundle that it belongs to; `None`: it always holds.
    pub module: Option<String>,
    pub word: Word,
    pub value: Value,
}

/// What the word is about, as far as the caller's variables are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Is(String),
    /// As it was written, and the variable that is missing.
    Lacks(String, String),
}

/// All settings of the file `name`. An error begins with the name and the number of the line.
pub fn parse(text: &str, name: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    let mut module = None;
    for (i, line) in text.lines().enumerate() {
        let number = i + 1;
        let at = || format!("{name}:{number}");
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            module = Some(bundle(rest).context(at)?);
            continue;
        }
        let setting = setting(line, module.is_some(), variable).context(at);
        let (word, value) = setting?;
        lines.push(Line { number, module: module.clone(), word, value });
    }
    Ok(lines)
}

/// The name, after the bracket.
fn bundle(rest: &str) -> Result<String> {
    let name = rest.strip_suffix(']').map(str::trim).filter(|name| !name.is_empty());
    let is_name = |name: &&str| name.chars().all(|c| c.is_ascii_alphanumeric() || "_.+-".contains(c));
    match name.filter(is_name) {
        Some(name) => Ok(name.to_owned()),
        None => bail!("not [NAME] of a bundle: [{}", crate::log::escape(rest)),
    }
}

fn setting(line: &str, is_in_module: bool, variable: &dyn Fn(&str) -> Option<String>) -> Result<(Word, Value)> {
    let (name, text) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let text = text.trim();
    let Some((_, word)) = WORDS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = WORDS.iter().map(|(name, _)| *name).collect();
        return Err(Error::new(format!("no such setting: {}", crate::log::escape(name)))
            .hint(format!("there are: {}", known.join(", "))));
    };
    if text.is_empty() {
        bail!("{name}: what it is about is missing");
    }
    if is_in_module && matches!(word, Word::Store | Word::Storage) {
        bail!("{name} can't be in a bundle: it is for ch-image, too");
    }
    Ok((*word, expand(text, variable)?))
}

/// Puts in the caller's variables.
fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Value> {
    let mut all = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        all.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            all.push('$');
            rest = after;
            continue;
        }
        let (name, after) = match rest.strip_prefix('{') {
            Some(inner) => inner.split_once('}').unwrap_or(("", rest)),
            None => {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
                rest.split_at(end)
            }
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(Error::new(format!("not a variable: ${}", crate::log::escape(rest)))
                .hint("$NAME and ${NAME} stand for variables, $$ for a dollar sign"));
        }
        let Some(value) = variable(name) else { return Ok(Value::Lacks(text.to_owned(), name.to_owned())) };
        all.push_str(&value);
        rest = after;
    }
    all.push_str(rest);
    Ok(Value::Is(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<String> {
        match name {
            "USER" => Some("me".to_owned()),
            "A_1" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn lines() {
        let check = |text: &str, want: &[(usize, Option<&str>, Word, &str)]| {
            let got = parse(text, "f", &variable).unwrap();
            let want: Vec<Line> = want
                .iter()
                .map(|(number, module, word, value)| Line {
                    number: *number,
                    module: module.map(str::to_owned),
                    word: *word,
                    value: Value::Is((*value).to_owned()),
                })
                .collect();
            assert_eq!(got, want, "{text}");
        };
        check("", &[]);
        check("\n # bind /x\n\t\n", &[]);
        check("bind /opt/site", &[(1, None, Word::Bind, "/opt/site")]);
        check("  bind\t /a b:/c:ro \r\n", &[(1, None, Word::Bind, "/a b:/c:ro")]);
        check("env A=b # c", &[(1, None, Word::Env, "A=b # c")]);
        check("storage /scratch/$USER/ch", &[(1, None, Word::Storage, "/scratch/me/ch")]);
        check("store /a\nstore /b", &[(1, None, Word::Store, "/a"), (2, None, Word::Store, "/b")]);
        check(
            "unset-env X*\n[mpi]\nbind /m\n[ c++-2.0 ]\nenv B",
            &[
                (1, None, Word::UnsetEnv, "X*"),
                (3, Some("mpi"), Word::Bind, "/m"),
                (5, Some("c++-2.0"), Word::Env, "B"),
            ],
        );
    }

    #[test]
    fn variables() {
        let check = |text: &str, want: Result<&str, &str>| {
            let got = expand(text, &variable).unwrap();
            let want = match want {
                Ok(value) => Value::Is(value.to_owned()),
                Err(name) => Value::Lacks(text.to_owned(), name.to_owned()),
            };
            assert_eq!(got, want, "{text}");
        };
        check("$USER", Ok("me"));
        check("/a/${USER}x/$A_1-$EMPTY.", Ok("/a/mex/one-."));
        check("A=$$USER$$", Ok("A=$USER$"));
        check("/$NO/$USER", Err("NO"));
        check("/${NO}", Err("NO"));
        check("$USERx", Err("USERx"));
    }

    #[test]
    fn wrong_lines_are_named() {
        let check = |text: &str, want: &str| {
            assert_eq!(parse(text, "f", &variable).unwrap_err().to_string(), format!("f:{want}"), "{text}")
        };
        check("bind /a\nbound /b", "2: no such setting: bound");
        check("Bind /a", "1: no such setting: Bind");
        check("bind", "1: bind: what it is about is missing");
        check("\nenv  ", "2: env: what it is about is missing");
        check("[a", "1: not [NAME] of a bundle: [a");
        check("[]", "1: not [NAME] of a bundle: []");
        check("[a b]", "1: not [NAME] of a bundle: [a b]");
        check("[a]\nstorage /x", "2: storage can't be in a bundle: it is for ch-image, too");
        check("bind /$", "1: not a variable: $");
        check("bind /$(id)", "1: not a variable: $(id)");
        check("bind /${a", "1: not a variable: ${a");
        check("bind /${a-b}", "1: not a variable: ${a-b}");
        check("b\u{1b}[0m", "1: no such setting: b\\x1b[0m");
    }
}
