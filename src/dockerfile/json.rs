//! Is this text a JSON array of strings? (A.6)
//!
//! Written by hand because lone surrogates must become U+FFFD, because a valid array of other things has to be told
//! from what is no JSON, and because nesting must not use the stack. `\$` is no JSON, but the original takes it (its
//! example `exhaustive` has it): it stays as it is, and keeps the `$` from meaning a variable.

/// Deepest nesting of what still counts as JSON.
const MAX_DEPTH: usize = 10_000;

#[derive(Debug, PartialEq, Eq)]
pub enum Array {
    /// An array of strings: the exec form.
    Strings(Vec<String>),
    /// An array with other elements: an error.
    Others,
    /// No array at all: the other form.
    No,
}

pub fn array(text: &str) -> Array {
    if !text.starts_with('[') {
        return Array::No;
    }
    let mut reader = Reader { text, at: 0 };
    match reader.read_array() {
        Some(_) if reader.text.len() > reader.at => Array::No,
        Some(elements) => elements.map_or(Array::Others, Array::Strings),
        None => Array::No,
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn accept(&mut self, token: u8) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    fn accept_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// The whole text; the inner `None` if an element is no string. An explicit stack holds the open brackets.
    fn read_array(&mut self) -> Option<Option<Vec<String>>> {
        let mut strings = Some(Vec::new());
        let mut open = Vec::new();
        // Whether a value may, or must, come next.
        let (mut may, mut must) = (true, true);
        loop {
            self.accept_blanks();
            if may {
                match self.peek()? {
                    b @ (b'[' | b'{') => {
                        self.at += 1;
                        if !open.is_empty() {
                            strings = None;
                        }
                        open.push(b);
                        if open.len() > MAX_DEPTH {
                            return None;
                        }
                        (may, must) = (true, false);
                        if b == b'{' {
                            may = self.read_key()?;
                            must = may;
                        }
                        continue;
                    }
                    b'"' => match (self.read_string()?, &mut strings) {
                        (string, Some(strings)) if open.len() == 1 => strings.push(string),
                        _ => strings = None,
                    },
                    b']' if !must => {}
                    _ => {
                        self.read_scalar()?;
                        strings = None;
                    }
                }
                (may, must) = (false, false);
                continue;
            }
            match (self.peek()?, open.last()?) {
                (b',', b'[') => {
                    self.at += 1;
                    (may, must) = (true, true);
                }
                (b',', _) => {
                    self.at += 1;
                    if !self.read_key()? {
                        return None;
                    }
                    (may, must) = (true, true);
                }
                (b']', b'[') | (b'}', b'{') => {
                    self.at += 1;
                    open.pop();
                    if open.is_empty() {
                        self.accept_blanks();
                        return Some(strings);
                    }
                }
                _ => return None,
            }
        }
    }

    /// A key and its colon; false if the object ends here.
    fn read_key(&mut self) -> Option<bool> {
        self.accept_blanks();
        if self.peek() == Some(b'}') {
            return Some(false);
        }
        self.read_string()?;
        self.accept_blanks();
        self.accept(b':').then_some(true)
    }

    fn read_scalar(&mut self) -> Option<()> {
        for word in ["true", "false", "null"] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Some(());
            }
        }
        self.accept(b'-');
        if !self.accept(b'0') {
            self.read_digits()?;
        }
        if self.accept(b'.') {
            self.read_digits()?;
        }
        if self.accept(b'e') || self.accept(b'E') {
            let _ = self.accept(b'+') || self.accept(b'-');
            self.read_digits()?;
        }
        Some(())
    }

    fn read_digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn read_string(&mut self) -> Option<String> {
        if !self.accept(b'"') {
            return None;
        }
        let mut string = String::new();
        loop {
            let rest = &self.text[self.at..];
            let run = rest.find(|c: char| c == '"' || c == '\\' || c < ' ')?;
            string += &rest[..run];
            self.at += run + 1;
            match rest.as_bytes()[run] {
                b'"' => return Some(string),
                b'\\' if self.accept(b'$') => string += "\\$",
                b'\\' => string.push(self.read_escape()?),
                _ => return None,
            }
        }
    }

    fn read_escape(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(match c {
            b'"' | b'\\' | b'/' => c as char,
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.read_unit()?,
            _ => return None,
        })
    }

    /// After `\u`: one UTF-16 unit, or two that belong together.
    fn read_unit(&mut self) -> Option<char> {
        let first = self.read_hex()?;
        let after = self.at;
        if (0xd800..0xdc00).contains(&first) && self.text[after..].starts_with("\\u") {
            self.at += 2;
            let second = self.read_hex()?;
            if (0xdc00..0xe000).contains(&second) {
                return char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
            }
            self.at = after;
        }
        Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn read_hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::print;

    #[test]
    fn arrays() {
        let strings = |text: &str, want: &[&str]| match array(text) {
            Array::Strings(got) => {
                assert_eq!(got, want, "{text}");
                assert_eq!(array(&print::array(&got)), Array::Strings(got), "{text}");
            }
            other => panic!("{text}: {other:?}"),
        };
        strings("[]", &[]);
        strings("[ ]", &[]);
        strings("[\"a\"]", &["a"]);
        strings("[ \"a\" ,\t\"b c\" ] \n", &["a", "b c"]);
        strings(r#"["\"\\\/\b\f\n\r\t\u00e9"]"#, &["\"\\/\u{8}\u{c}\n\r\té"]);
        strings(
            r#"["\ud83d\ude00","\ud83d","\ud83dx","\ud83d\u0041","\ude00\ud83d"]"#,
            &["😀", "\u{fffd}", "\u{fffd}x", "\u{fffd}A", "\u{fffd}\u{fffd}"],
        );
        strings(r#"["\$", "a\${x}\\$y", "\\\$"]"#, &["\\$", "a\\${x}\\$y", "\\\\$"]);
        for others in [
            "[1]",
            "[null]",
            "[true,\"a\"]",
            "[[\"a\"]]",
            "[{}]",
            "[{\"a\":1, \"b\" : [ ] }]",
            "[-0.5e+3]",
            "[\"a\",[]]",
        ] {
            assert_eq!(array(others), Array::Others, "{others}");
        }
        for no in [
            "",
            "a",
            "{}",
            "[",
            "[a]",
            "['a']",
            "[\"a\",]",
            "[,]",
            "[\"a\" \"b\"]",
            "[\"a\"] x",
            "[\"a\"]]",
            "[01]",
            "[.5]",
            "[\"a\n\"]",
            "[\"\\x\"]",
            "[\"\\u12\"]",
            "[\"a]",
            "[1,]",
            "[{]",
            "[{\"a\"}]",
            "[{\"a\":}]",
            "[{,}]",
            "[}",
            "[ -d x ]",
            "[{\"a\":1,}]",
            "[\"\\ud83d\\u12\"]",
            "[tru]",
            "[\"é\\",
            "[-]",
            "[1e]",
        ] {
            assert_eq!(array(no), Array::No, "{no}");
        }
        assert_eq!(array(&"[".repeat(1_000_000)), Array::No);
        let deep = |n: usize| array(&format!("{}{}", "[".repeat(n), "]".repeat(n)));
        assert_eq!((deep(10_000), deep(10_001)), (Array::Others, Array::No));
    }
}
