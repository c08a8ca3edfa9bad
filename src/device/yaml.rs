//! What does a YAML file say? The part of the language in which CDI files are written.
//!
//! Block mappings and sequences, plain and quoted scalars, `{}` and `[]`. Every scalar is text (`name: 0` is the name "0",
//! as for whoever reads CDI files by their JSON types), but for `null`. Whatever else YAML has (anchors, tags, text of several lines,
//! flow collections, several documents) is an error that names the line, never a guess.

use std::collections::VecDeque;

use serde_json::{Map, Value};

use crate::error::{Error, Result, bail};

const MAX_DEPTH: usize = 64;

struct Line<'a> {
    number: usize,
    indent: usize,
    /// Without indentation and what follows the last character that is no blank.
    text: &'a str,
}

/// Parses one document.
pub fn parse(text: &str) -> Result<Value> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser { lines: lines(text)? };
    if parser.lines.is_empty() {
        return Ok(Value::Null);
    }
    let value = parser.block(0)?;
    match parser.lines.front() {
        None => Ok(value),
        Some(line) => Err(wrong(line.number, "the indentation fits nothing above")),
    }
}

fn wrong(line: usize, what: &str) -> Error {
    Error::new(format!("line {line}: {what}"))
}

fn unsupported(line: usize, what: &str) -> Error {
    wrong(line, &format!("{what} in YAML: not supported"))
        .hint("nvidia-ctk writes files that can be read; JSON can be read, too")
}

fn lines(text: &str) -> Result<VecDeque<Line<'_>>> {
    let mut lines = VecDeque::new();
    let mut has_begun = false;
    for (i, line) in text.lines().enumerate() {
        let number = i + 1;
        let body = line.trim_start_matches(' ');
        let (indent, text) = (line.len() - body.len(), body.trim_end());
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if text.starts_with('\t') {
            return Err(wrong(number, "a tab in the indentation: YAML wants blanks"));
        }
        if indent == 0 && text == "..." {
            break;
        }
        if indent == 0 && (text == "---" || text.starts_with("--- ")) {
            if has_begun || text != "---" {
                return Err(unsupported(number, "several documents, or one that begins beside ---,"));
            }
            has_begun = true;
            continue;
        }
        has_begun = true;
        if indent == 0 && text.starts_with('%') {
            return Err(unsupported(number, "a directive (%)"));
        }
        lines.push_back(Line { number, indent, text });
    }
    Ok(lines)
}

struct Parser<'a> {
    lines: VecDeque<Line<'a>>,
}

impl<'a> Parser<'a> {
    /// Whatever begins in the line that comes next.
    fn block(&mut self, depth: usize) -> Result<Value> {
        let Some(Line { number, indent, text }) = self.lines.front() else { return Ok(Value::Null) };
        let (number, indent, text) = (*number, *indent, *text);
        if depth > MAX_DEPTH {
            return Err(wrong(number, &format!("nested deeper than {MAX_DEPTH}")));
        }
        if after_dash(text).is_some() {
            self.sequence(indent, depth)
        } else if key(number, text)?.is_some() {
            self.mapping(indent, depth)
        } else {
            self.lines.pop_front();
            scalar(number, text)
        }
    }

    fn sequence(&mut self, indent: usize, depth: usize) -> Result<Value> {
        let mut items = Vec::new();
        while let Some(line) = self.lines.front_mut()
            && line.indent == indent
            && let Some(rest) = after_dash(line.text)
        {
            if rest.is_empty() {
                self.lines.pop_front();
                items.push(self.nested(indent + 1, depth)?);
                continue;
            }
            // What stands beside the dash is the first line of a block that is indented as far as that.
            line.indent += line.text.len() - rest.len();
            line.text = rest;
            items.push(self.block(depth + 1)?);
            self.ends_at(indent)?;
        }
        Ok(Value::Array(items))
    }

    fn mapping(&mut self, indent: usize, depth: usize) -> Result<Value> {
        let mut map = Map::new();
        while let Some(&Line { number, indent: this, text }) = self.lines.front()
            && this == indent
            && after_dash(text).is_none()
        {
            let Some((name, rest)) = key(number, text)? else {
                return Err(wrong(number, "no \"name: value\", as the lines above are"));
            };
            self.lines.pop_front();
            let value = if !rest.is_empty() {
                scalar(number, rest)?
            } else if self.lines.front().is_some_and(|next| next.indent == indent && after_dash(next.text).is_some()) {
                // The dashes of a sequence may stand below the first character of its name.
                self.sequence(indent, depth + 1)?
            } else {
                self.nested(indent + 1, depth)?
            };
            self.ends_at(indent)?;
            if map.insert(name.clone(), value).is_some() {
                return Err(wrong(number, &format!("{name:?} is there twice")));
            }
        }
        Ok(Value::Object(map))
    }

    /// A block that is indented at least so far; nothing otherwise.
    fn nested(&mut self, least: usize, depth: usize) -> Result<Value> {
        match self.lines.front() {
            Some(line) if line.indent >= least => self.block(depth + 1),
            Some(_) | None => Ok(Value::Null),
        }
    }

    fn ends_at(&self, indent: usize) -> Result<()> {
        match self.lines.front() {
            Some(line) if line.indent > indent => {
                Err(wrong(line.number, "the indentation fits nothing above, or text goes on in a second line"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// What follows the dash of an item.
fn after_dash(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('-')?;
    if rest.is_empty() || rest.starts_with(' ') { Some(without_comment(rest.trim_start())) } else { None }
}

/// What begins with `#` is a comment, and not what is left of a line.
fn without_comment(text: &str) -> &str {
    if text.starts_with('#') { "" } else { text }
}

/// `name: value` or `name:`; `None` if the line is none.
fn key(number: usize, text: &str) -> Result<Option<(String, &str)>> {
    if text.starts_with(['"', '\'']) {
        let (name, rest) = quoted(number, text)?;
        let Some(rest) = rest.trim_start().strip_prefix(':') else { return Ok(None) };
        if !rest.is_empty() && !rest.starts_with(' ') {
            return Ok(None);
        }
        return Ok(Some((name, without_comment(rest.trim_start()))));
    }
    let plain = uncommented(text);
    let at = match plain.find(": ") {
        Some(at) => at,
        None if plain.ends_with(':') => plain.len() - 1,
        None => return Ok(None),
    };
    let name = plain[..at].trim_end();
    refuse(number, name)?;
    if name == "<<" || name.is_empty() {
        return Err(unsupported(number, "a name that is merged or empty"));
    }
    Ok(Some((name.to_owned(), without_comment(text[at + 1..].trim_start()))))
}

/// A plain scalar ends before a comment, which a blank precedes.
fn uncommented(text: &str) -> &str {
    text.find(" #").map_or(text, |at| text[..at].trim_end())
}

fn scalar(number: usize, text: &str) -> Result<Value> {
    if text.starts_with(['"', '\'']) {
        let (value, rest) = quoted(number, text)?;
        let rest = rest.trim_start();
        if !rest.is_empty() && !rest.starts_with('#') {
            return Err(wrong(number, "something follows the closing quote"));
        }
        return Ok(Value::String(value));
    }
    let plain = uncommented(text);
    match plain {
        "{}" => return Ok(Value::Object(Map::new())),
        "[]" => return Ok(Value::Array(Vec::new())),
        "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        _ => {}
    }
    refuse(number, plain)?;
    if plain.contains(": ") || plain.ends_with(':') {
        return Err(wrong(number, "a second colon: text with \": \" in it wants quotes"));
    }
    if plain.starts_with("- ") || plain == "-" {
        return Err(wrong(number, "an item of a sequence beside its name: it wants a line of its own"));
    }
    Ok(Value::String(plain.to_owned()))
}

/// What a plain scalar can't begin with, because it means something else.
fn refuse(number: usize, text: &str) -> Result<()> {
    let what = match text.chars().next() {
        Some('&' | '*') => "an anchor or alias (&, *)",
        Some('!') => "a tag (!)",
        Some('|' | '>') => "text of several lines (|, >)",
        Some('{' | '[' | '}' | ']' | ',') => "a flow collection ({}, [])",
        Some('?') if text == "?" || text.starts_with("? ") => "a complex name (?)",
        Some('%' | '@' | '`') => "a reserved character (%, @, `)",
        Some(_) | None => return Ok(()),
    };
    Err(unsupported(number, what))
}

/// A quoted scalar at the beginning, and what follows it.
fn quoted(number: usize, text: &str) -> Result<(String, &str)> {
    let is_double = text.starts_with('"');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if is_double => return Ok((value, &text[at + 1..])),
            '\\' if is_double => value.push(escaped(number, &mut || chars.next().map(|(_, c)| c))?),
            '\'' if !is_double => {
                if chars.next_if(|(_, next)| *next == '\'').is_none() {
                    return Ok((value, &text[at + 1..]));
                }
                value.push('\'');
            }
            c => value.push(c),
        }
    }
    Err(wrong(number, "no closing quote in this line"))
}

/// What follows a backslash.
fn escaped(number: usize, next: &mut dyn FnMut() -> Option<char>) -> Result<char> {
    let Some(c) = next() else { bail!("line {number}: no closing quote in this line") };
    let digits = match c {
        '0' => return Ok('\0'),
        'a' => return Ok('\u{7}'),
        'b' => return Ok('\u{8}'),
        't' => return Ok('\t'),
        'n' => return Ok('\n'),
        'v' => return Ok('\u{b}'),
        'f' => return Ok('\u{c}'),
        'r' => return Ok('\r'),
        'e' => return Ok('\u{1b}'),
        ' ' | '"' | '/' | '\\' => return Ok(c),
        'N' => return Ok('\u{85}'),
        '_' => return Ok('\u{a0}'),
        'L' => return Ok('\u{2028}'),
        'P' => return Ok('\u{2029}'),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => return Err(wrong(number, &format!("an unknown escape: \\{c}"))),
    };
    let mut code = 0_u32;
    for _ in 0..digits {
        let digit = next().and_then(|c| c.to_digit(16));
        let Some(digit) = digit else { bail!("line {number}: \\{c} wants {digits} hexadecimal digits") };
        code = code.wrapping_mul(16).wrapping_add(digit);
    }
    char::from_u32(code).ok_or_else(|| wrong(number, &format!("\\{c}: no such character")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values() {
        let check = |text: &str, want: Value| assert_eq!(parse(text), Ok(want), "{text}");
        check("", Value::Null);
        check("---\n# nothing\n", Value::Null);
        check("a: b", json!({"a": "b"}));
        check("---\na: b\n...\nwhatever: [", json!({"a": "b"}));
        check("\u{feff}a: b\r\nc: d\r\n", json!({"a": "b", "c": "d"}));
        check("a:\n  b: c\n  d:\n    e: f\ng: h\n", json!({"a": {"b": "c", "d": {"e": "f"}}, "g": "h"}));
        check("a:\n- b\n- c\nd: e\n", json!({"a": ["b", "c"], "d": "e"}));
        check("a:\n  - b\n  - c\nd: e\n", json!({"a": ["b", "c"], "d": "e"}));
        check("- a: b\n  c:\n  - d\n- e: f\n", json!([{"a": "b", "c": ["d"]}, {"e": "f"}]));
        check("-   a: b\n    c: d\n-\n  e\n-\n- - f\n  - g\n", json!([{"a": "b", "c": "d"}, "e", null, ["f", "g"]]));
        check("a: {}\nb: []\nc:\nd: null\ne: ~\n", json!({"a": {}, "b": [], "c": null, "d": null, "e": null}));
        check("a: 0\nb: true\nc: 0.5.0\nd: yes\n", json!({"a": "0", "b": "true", "c": "0.5.0", "d": "yes"}));
        check("- lib.so.1::/usr/lib/lib.so\n- a:b\n- a#b\n", json!(["lib.so.1::/usr/lib/lib.so", "a:b", "a#b"]));
        check("a: b # c\nd: # e\n  f: g\n# h\n", json!({"a": "b", "d": {"f": "g"}}));
        check("- # a\n  b: c\n", json!([{"b": "c"}]));
        check(
            "a: \"0\"\n'b c': 'it''s'\n\"d:\": \"e: f # g\" # h\n",
            json!({"a": "0", "b c": "it's", "d:": "e: f # g"}),
        );
        check(r#"a: "\x41\u00e4\U0001f600\n\"\\\/""#, json!({"a": "Aä😀\n\"\\/"}));
        check("a b: c d\n", json!({"a b": "c d"}));
        check("text", json!("text"));
        check("- -x\n- --y=z\n", json!(["-x", "--y=z"]));
    }

    #[test]
    fn what_is_not_read_is_named_with_its_line() {
        let check = |text: &str, want: &str| assert_eq!(parse(text).unwrap_err().to_string(), want, "{text}");
        check("a: &x b", "line 1: an anchor or alias (&, *) in YAML: not supported");
        check("a: b\nc: *x", "line 2: an anchor or alias (&, *) in YAML: not supported");
        check("a: !!str b", "line 1: a tag (!) in YAML: not supported");
        check("a: |\n  b\n", "line 1: text of several lines (|, >) in YAML: not supported");
        check("a: >-\n  b\n", "line 1: text of several lines (|, >) in YAML: not supported");
        check("a: [b]", "line 1: a flow collection ({}, []) in YAML: not supported");
        check("{a: b}", "line 1: a flow collection ({}, []) in YAML: not supported");
        check("a: @b", "line 1: a reserved character (%, @, `) in YAML: not supported");
        check("%YAML 1.2\n---\na: b", "line 1: a directive (%) in YAML: not supported");
        check("a: b\n---\nc: d", "line 2: several documents, or one that begins beside ---, in YAML: not supported");
        check("? a\n: b", "line 1: a complex name (?) in YAML: not supported");
        check("<<: x", "line 1: a name that is merged or empty in YAML: not supported");
        check("a: b\na: c", "line 2: \"a\" is there twice");
        check("a:\n\tb: c", "line 2: a tab in the indentation: YAML wants blanks");
        check("a: b\n  c: d", "line 2: the indentation fits nothing above, or text goes on in a second line");
        check("a: b\n  c", "line 2: the indentation fits nothing above, or text goes on in a second line");
        check("a:\n    b: c\n  d: e", "line 3: the indentation fits nothing above, or text goes on in a second line");
        check("  a: b\nc: d", "line 2: the indentation fits nothing above");
        check("a: b\nc", "line 2: no \"name: value\", as the lines above are");
        check("- a\nb: c", "line 2: the indentation fits nothing above");
        check("a: b: c", "line 1: a second colon: text with \": \" in it wants quotes");
        check("a: - b", "line 1: an item of a sequence beside its name: it wants a line of its own");
        check("a: \"b", "line 1: no closing quote in this line");
        check("a: 'b\n  c'", "line 1: no closing quote in this line");
        check("a: 'b' c", "line 1: something follows the closing quote");
        check(r#"a: "\q""#, "line 1: an unknown escape: \\q");
        check(r#"a: "\ud800""#, "line 1: \\u: no such character");
        check(r#"a: "\u12""#, "line 1: \\u wants 4 hexadecimal digits");
        check("a: \"\\", "line 1: no closing quote in this line");
        check(&"- ".repeat(100), "line 1: nested deeper than 64");
    }

    /// Everything of five pieces of what YAML is made of is read or refused, in a time that grows with the text.
    #[test]
    fn nothing_makes_it_panic() {
        const PIECES: [&str; 14] = ["a", ":", " ", "\n", "- ", "\"", "'", "#", "\\", "{}", "  ", "---", "ä", "\t"];
        let mut text = String::new();
        for n in 0..PIECES.len().pow(5) {
            text.clear();
            let mut rest = n;
            for _ in 0..5 {
                text.push_str(PIECES[rest % PIECES.len()]);
                rest /= PIECES.len();
            }
            let _ = parse(&text);
        }
        let _ = parse(&"a:\n ".repeat(100_000));
        let _ = parse(&"- \n".repeat(100_000));
        let deep: String = (0..10_000).map(|i| format!("{}a:\n", " ".repeat(i % 500))).collect();
        let _ = parse(&deep);
    }
}
