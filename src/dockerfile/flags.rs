//! Which flags does an instruction have? `--name=value` words before its arguments (A.4).

use super::diagnostic::{SyntaxError, nearest};

/// A flag as written, quotes and escapes removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    word: String,
    /// Offset in the logical line.
    at: usize,
}

/// What a flag's value is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// May be empty, which is as if it were not there.
    Text,
    /// May be repeated.
    List,
    Bool,
}

/// An instruction's flags, checked against its table.
pub struct Flags(Vec<(&'static str, String, usize)>);

/// Splits flags from the front of `text`, which begins at offset `base` of its logical line. Returns the flags and the
/// offset in `text` of what follows.
pub fn split(text: &str, base: usize, escape: char) -> (Vec<Flag>, usize) {
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}').len();
        if !text[at..].starts_with("--") {
            return (flags, at);
        }
        let (word, length) = read_word(&text[at..], escape);
        let ends = word == "--";
        if !ends {
            flags.push(Flag { word, at: base + at });
        }
        at += length;
        if ends {
            return (flags, at);
        }
    }
}

/// One word up to an unquoted blank.
fn read_word(text: &str, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_ascii_whitespace() || c == '\u{b}' => return (word, at),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(mark) if c == mark => quote = None,
            _ if c == escape => word.extend(chars.next().map(|(_, literal)| literal)),
            _ => word.push(c),
        }
    }
    (word, text.len())
}

/// Checks flags against the table of an instruction.
pub fn check(keyword: &str, flags: Vec<Flag>, table: &[(&'static str, Type)]) -> Result<Flags, SyntaxError> {
    let mut checked: Vec<(&'static str, String, usize)> = Vec::new();
    for Flag { word, at } in flags {
        let (given, value) = match word[2..].split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&word[2..], None),
        };
        let Some(&(name, kind)) = table.iter().find(|(name, _)| *name == given) else {
            return Err(unknown(keyword, given, at, table));
        };
        if kind != Type::List && checked.iter().any(|(seen, ..)| *seen == name) {
            return Err(SyntaxError::instr(at, format!("{keyword}: repeated option --{name}")));
        }
        let value = match (kind, value) {
            (Type::Bool, None) => "true".to_owned(),
            (Type::Bool, Some(value)) => match value.to_ascii_lowercase().as_str() {
                lower @ ("true" | "false") => lower.to_owned(),
                _ => {
                    let message = format!("{keyword}: expected --{name}, --{name}=true or --{name}=false");
                    return Err(SyntaxError::instr(at, message));
                }
            },
            (Type::Text | Type::List, Some(value)) => value.to_owned(),
            (Type::Text | Type::List, None) => {
                let message = format!("{keyword}: expected a value: --{name}=VALUE");
                return Err(SyntaxError::instr(at, message));
            }
        };
        checked.push((name, value, at));
    }
    Ok(Flags(checked))
}

fn unknown(keyword: &str, given: &str, at: usize, table: &[(&'static str, Type)]) -> SyntaxError {
    let error = SyntaxError::instr(at, format!("{keyword}: invalid option --{given}"));
    let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
    match nearest(given, &names) {
        Some(name) if table.iter().any(|&(n, kind)| n == name && kind == Type::Bool) => {
            error.hint(format!("did you mean --{name}?"))
        }
        Some(name) => error.hint(format!("did you mean --{name}=?")),
        None if names.is_empty() => {
            error.hint(format!("{keyword} has no options; write -- before an argument that begins with --"))
        }
        None => error.hint(format!("options of {keyword}: --{}", names.join(" --"))),
    }
}

impl Flags {
    /// A text; `None` also if it is empty.
    pub fn text(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(n, value, _)| *n == name && !value.is_empty()).map(|(_, value, _)| value.clone())
    }

    pub fn list(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, ..)| *n == name).map(|(_, value, _)| value.clone()).collect()
    }

    pub fn bool(&self, name: &str) -> Option<bool> {
        self.0.iter().find(|(n, ..)| *n == name).map(|(_, value, _)| value == "true")
    }

    /// Offset of the flag in the logical line.
    pub fn at(&self, name: &str) -> usize {
        self.0.iter().find(|(n, ..)| *n == name).map_or(0, |(.., at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting() {
        let check = |text: &str, want: &[&str], rest: &str| {
            let (flags, at) = split(text, 0, '\\');
            let words: Vec<&str> = flags.iter().map(|f| f.word.as_str()).collect();
            assert_eq!((words.as_slice(), &text[at..]), (want, rest), "{text}");
        };
        check("", &[], "");
        check("a --b", &[], "a --b");
        check("--a=b  --c d", &["--a=b", "--c"], "d");
        check("\t--a\tb", &["--a"], "b");
        check("-a", &[], "-a");
        check("--", &[], "");
        check("-- --a", &[], " --a");
        check("--a -- b", &["--a"], " b");
        check("---", &["---"], "");
        check("--a='b c'\"d 'e\" f", &["--a=b cd 'e"], "f");
        check("--a=b\\ c\\\\ d", &["--a=b c\\"], "d");
        check("--a='b\\'c' d", &["--a=b'c"], "d");
        check("--a='b c", &["--a=b c"], "");
        check("--a\\", &["--a"], "");
        check("'--a' b", &[], "'--a' b");
        check("--'' b", &[], " b");
        check("--a\u{a0}b c", &["--a\u{a0}b"], "c");
        check("--é=\\é x", &["--é=é"], "x");
    }

    #[test]
    fn checking() {
        let table = [("from", Type::Text), ("exclude", Type::List), ("link", Type::Bool)];
        let check = |text: &str, want: Result<&str, &str>| {
            let got = super::check("COPY", split(text, 0, '\\').0, &table);
            let shown = got.map(|f| f.0.iter().map(|(n, v, _)| format!("{n}={v} ")).collect::<String>());
            match (shown, want) {
                (Ok(got), Ok(want)) => assert_eq!(got.trim_end(), want, "{text}"),
                (Err(e), Err(want)) => {
                    assert_eq!((e.message.as_str(), e.level), (want, super::super::diagnostic::Level::Instr), "{text}")
                }
                (got, want) => panic!("{text}: {got:?} {want:?}"),
            }
        };
        check("--from=a --exclude=b --exclude= --link x", Ok("from=a exclude=b exclude= link=true"));
        check("--link=FALSE", Ok("link=false"));
        check("--from=", Ok("from="));
        check("--from=a=b", Ok("from=a=b"));
        check("--link=", Err("COPY: expected --link, --link=true or --link=false"));
        check("--link=1", Err("COPY: expected --link, --link=true or --link=false"));
        check("--from", Err("COPY: expected a value: --from=VALUE"));
        check("--exclude x", Err("COPY: expected a value: --exclude=VALUE"));
        check("--from=a --from=b", Err("COPY: repeated option --from"));
        check("--From=a", Err("COPY: invalid option --From"));
        check("--x", Err("COPY: invalid option --x"));
        check("---", Err("COPY: invalid option ---"));
    }

    #[test]
    fn hints() {
        let table = [("from", Type::Text), ("link", Type::Bool)];
        let check = |text: &str, table: &[(&'static str, Type)], want: &str| {
            let hint = super::check("COPY", split(text, 0, '\\').0, table).err().and_then(|m| m.hint);
            assert_eq!(hint.as_deref(), Some(want), "{text}");
        };
        check("--form=a", &table, "did you mean --from=?");
        check("--lnik", &table, "did you mean --link?");
        check("--whatever", &table, "options of COPY: --from --link");
        check("--whatever", &[], "COPY has no options; write -- before an argument that begins with --");
    }
}
