//! How is a text read whose quotes, escapes and variables are to be resolved? (A.8)
//!
//! One pass from left to right, by recursive descent: `${x:-w}` recurses for `w`, at most [`MAX_DEPTH`] deep. What the
//! pass may produce is bounded ([`MAX_RESULT`]), and so is all the work on the way ([`MAX_WORK`]), because `w` is read
//! (and expanded) also where it is then thrown away.

use super::pattern::{self, MAX_RESULT, Pattern};

/// Deepest nesting of `${…}` inside `${…}`.
pub const MAX_DEPTH: usize = 64;
/// Bytes that one expansion may produce in all its parts together.
const MAX_WORK: usize = 16 << 20;

/// Where a word cannot be expanded and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordError {
    pub message: String,
    /// Byte offset in the text.
    pub at: usize,
}

/// Value of a variable; `None` if it is not set.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a text is read as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One word.
    Word,
    /// A list of words.
    Words,
    /// The body of a heredoc.
    Body,
    /// Words as they are written.
    Raw,
    /// Words without quotes and escapes, with variables as they are written.
    Plain,
}

impl Mode {
    /// Whether `'` and `"` quote.
    fn quotes(self) -> bool {
        self != Mode::Body
    }

    /// Whether quotes and escapes stay in the result.
    fn keeps(self) -> bool {
        self == Mode::Raw
    }

    /// Whether unset variables stay as they are written.
    fn keeps_unset(self) -> bool {
        matches!(self, Mode::Raw | Mode::Plain)
    }
}

/// The result so far, as one text and split.
#[derive(Default)]
pub struct Words {
    pub whole: String,
    done: Vec<String>,
    word: String,
    /// Whether to split at all; whole texts need no list.
    split: bool,
}

impl Words {
    fn push(&mut self, text: &str) {
        self.whole += text;
        if self.split {
            self.word += text;
        }
    }

    /// Blanks in `text` end the word.
    fn push_splitting(&mut self, text: &str) {
        self.whole += text;
        if !self.split {
            return;
        }
        for c in text.chars() {
            match c.is_whitespace() {
                true => self.end_word(),
                false => self.word.push(c),
            }
        }
    }

    fn end_word(&mut self) {
        if !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
        }
    }

    pub fn finish(mut self) -> Vec<String> {
        self.end_word();
        self.done
    }
}

/// What becomes of escape characters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    Remove,
    /// For the reader of patterns.
    Keep,
}

/// The reading of one text, from left to right.
pub struct Pass<'a> {
    text: &'a str,
    pub at: usize,
    escape: char,
    mode: Mode,
    lookup: Lookup<'a>,
    work: usize,
}

impl<'a> Pass<'a> {
    pub fn new(text: &'a str, escape: char, mode: Mode, lookup: Lookup<'a>) -> Pass<'a> {
        Pass { text, at: 0, escape, mode, lookup, work: 0 }
    }

    pub fn read_all(mut self) -> Result<Words, WordError> {
        self.read_until(None, Escapes::Remove, 0)
    }

    fn error<T>(&self, at: usize, message: impl Into<String>) -> Result<T, WordError> {
        Err(WordError { message: message.into(), at })
    }

    fn peek(&self) -> Option<char> {
        // ASCII, the usual case, needs no decoding.
        match self.text.as_bytes().get(self.at) {
            Some(&b) if b < 0x80 => Some(b as char),
            Some(_) => self.text[self.at..].chars().next(),
            None => None,
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn accept(&mut self, token: char) -> bool {
        let found = self.peek() == Some(token);
        self.at += if found { token.len_utf8() } else { 0 };
        found
    }

    fn account(&mut self, bytes: usize) -> Result<(), WordError> {
        self.work = self.work.saturating_add(bytes);
        // Every line of a file may be looked at, so that has to end sooner: each byte counts once for each level.
        let limit = if self.mode.keeps_unset() { MAX_DEPTH * (self.text.len() + MAX_DEPTH) } else { MAX_WORK };
        match self.work > limit.min(MAX_WORK) {
            true => self.error(self.at, "expansion takes too much work"),
            false => Ok(()),
        }
    }

    /// Reads to the unquoted character `stop`, which is taken, or to the end.
    fn read_until(&mut self, stop: Option<char>, escapes: Escapes, depth: usize) -> Result<Words, WordError> {
        let start = self.at;
        let mut words =
            Words { split: depth == 0 && !matches!(self.mode, Mode::Word | Mode::Body), ..Words::default() };
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.next();
                return Ok(words);
            }
            let before = words.whole.len();
            match c {
                '\'' if self.mode.quotes() => words.push(self.read_single_quoted()?),
                '"' if self.mode.quotes() => words.push(&self.read_double_quoted(escapes, depth)?),
                '$' => {
                    let value = self.read_dollar(depth)?;
                    words.push_splitting(&value);
                }
                '<' if self.mode == Mode::Raw && depth == 0 && self.text[self.at..].starts_with("<<") => {
                    words.push(self.take_heredoc_marker());
                }
                c if c == self.escape => {
                    self.next();
                    if self.mode.keeps() || escapes == Escapes::Keep {
                        words.push(c.encode_utf8(&mut [0; 4]));
                    }
                    match self.next() {
                        Some(literal) => words.push(literal.encode_utf8(&mut [0; 4])),
                        None => break,
                    }
                }
                _ => {
                    let run = self.take_ordinary(stop);
                    words.push_splitting(run);
                }
            }
            check_size(words.whole.len(), self.at)?;
            self.account(words.whole.len() - before)?;
        }
        match stop {
            Some(stop) => self.error(start, format!("missing {stop:?}")),
            None => Ok(words),
        }
    }

    /// A run of characters that mean nothing: at least one.
    fn take_ordinary(&mut self, stop: Option<char>) -> &'a str {
        let start = self.at;
        self.next();
        let special = |c: char| matches!(c, '\'' | '"' | '$' | '<') || c == self.escape || Some(c) == stop;
        let rest = &self.text[self.at..];
        self.at += rest.find(special).unwrap_or(rest.len());
        &self.text[start..self.at]
    }

    fn take_heredoc_marker(&mut self) -> &'a str {
        let start = self.at;
        let after = &self.text[self.at + 2..];
        self.at += 2 + (after.len() - after.trim_start_matches(['\t', '\r', ' ']).len());
        &self.text[start..self.at]
    }

    fn read_single_quoted(&mut self) -> Result<&'a str, WordError> {
        let start = self.at;
        match self.text[start + 1..].find('\'') {
            Some(length) => {
                self.at = start + 1 + length + 1;
                let marks = usize::from(!self.mode.keeps());
                Ok(&self.text[start + marks..self.at - marks])
            }
            None => self.error(start, "unterminated single quote"),
        }
    }

    fn read_double_quoted(&mut self, escapes: Escapes, depth: usize) -> Result<String, WordError> {
        let start = self.at;
        let keep = self.mode.keeps() || escapes == Escapes::Keep;
        let mut result = String::new();
        self.next();
        if self.mode.keeps() {
            result.push('"');
        }
        loop {
            match self.peek() {
                None => return self.error(start, "unterminated double quote"),
                Some('"') => break,
                Some('$') => result += &self.read_dollar(depth)?,
                Some(c) if c == self.escape => {
                    self.next();
                    let special = self.peek().filter(|&c| c == '"' || c == '$' || c == self.escape);
                    if keep || special.is_none() {
                        result.push(c);
                    }
                    if let Some(literal) = special {
                        result.push(literal);
                        self.next();
                    }
                }
                Some(c) => {
                    result.push(c);
                    self.next();
                }
            }
            check_size(result.len(), self.at)?;
        }
        self.next();
        if self.mode.keeps() {
            result.push('"');
        }
        Ok(result)
    }

    pub fn read_dollar(&mut self, depth: usize) -> Result<String, WordError> {
        let start = self.at;
        self.accept('$');
        if self.accept('{') {
            return self.read_braced(start, depth);
        }
        let name = self.read_name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        match self.value(name) {
            Some(value) => {
                self.account(value.len())?;
                Ok(value)
            }
            None if self.mode.keeps_unset() => Ok(self.text[start..self.at].to_owned()),
            None => Ok(String::new()),
        }
    }

    /// Digits, one special parameter, or letters, digits and `_`; empty if there is none of these.
    pub fn read_name(&mut self) -> &'a str {
        let start = self.at;
        match self.peek() {
            Some(c) if c.is_ascii_digit() => {
                while self.peek().is_some_and(|c| c.is_ascii_digit()) {
                    self.next();
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                self.next();
            }
            _ => {
                while self.peek().is_some_and(|c| c.is_alphabetic() || c.is_ascii_digit() || c == '_') {
                    self.next();
                }
            }
        }
        &self.text[start..self.at]
    }

    /// Positional and special parameters are never set.
    pub fn value(&self, name: &str) -> Option<String> {
        match name.chars().next() {
            Some(c) if c == '_' || c.is_alphabetic() => (self.lookup)(name),
            _ => None,
        }
    }

    /// After `${`.
    fn read_braced(&mut self, start: usize, depth: usize) -> Result<String, WordError> {
        if depth >= MAX_DEPTH {
            return self.error(start, format!("variables nested more than {MAX_DEPTH} deep"));
        }
        match self.peek() {
            None => return self.error(start, "missing '}'"),
            Some('{' | '}' | ':') => return self.error(start, "expected a variable name after ${"),
            Some(_) => {}
        }
        let name = self.read_name();
        let value = self.value(name);
        if let Some(value) = &value {
            self.account(value.len())?;
        }
        let modifier_at = self.at;
        let result = match self.next() {
            None => return self.error(start, "missing '}'"),
            Some('}') => value.clone().unwrap_or_default(),
            Some(':') => match self.next() {
                Some(c @ ('-' | '+' | '?')) => {
                    let set = value.clone().filter(|v| !v.is_empty());
                    self.read_default(start, name, c, set, depth)?
                }
                Some(c) => return self.error(modifier_at, format!("unsupported modifier :{c} in ${{{name}…}}")),
                None => return self.error(start, "missing '}'"),
            },
            Some(c @ ('-' | '+' | '?')) => self.read_default(start, name, c, value.clone(), depth)?,
            Some(c @ ('#' | '%')) => self.read_trim(start, c, value.as_deref(), depth)?,
            Some('/') => self.read_replace(start, value.as_deref(), depth)?,
            Some(c) => return self.error(modifier_at, format!("unsupported modifier {c} in ${{{name}…}}")),
        };
        match value {
            None if self.mode.keeps_unset() => Ok(self.text[start..self.at].to_owned()),
            _ => Ok(result),
        }
    }

    /// A part of `${…}` up to `stop`, expanded.
    fn read_part(&mut self, start: usize, stop: char, escapes: Escapes, depth: usize) -> Result<String, WordError> {
        match self.read_until(Some(stop), escapes, depth + 1) {
            Ok(words) => Ok(words.whole),
            Err(e) if e.message.starts_with("missing") => self.error(start, format!("missing {stop:?}")),
            Err(e) => Err(e),
        }
    }

    fn read_default(
        &mut self,
        start: usize,
        name: &str,
        modifier: char,
        value: Option<String>,
        depth: usize,
    ) -> Result<String, WordError> {
        let word = self.read_part(start, '}', Escapes::Remove, depth)?;
        match (modifier, value) {
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            ('-', None) => Ok(word),
            // `?`: not in a text that is only looked at.
            (_, None) if self.mode.keeps_unset() => Ok(String::new()),
            (_, None) if word.is_empty() => self.error(start, format!("{name}: is not set")),
            (_, None) => self.error(start, format!("{name}: {word}")),
        }
    }

    fn read_trim(&mut self, start: usize, side: char, value: Option<&str>, depth: usize) -> Result<String, WordError> {
        let longest = self.accept(side);
        let at = self.at;
        let text = self.read_part(start, '}', Escapes::Keep, depth)?;
        let Some(value) = self.to_match(value) else { return Ok(String::new()) };
        let pattern = self.pattern(at, &text)?;
        let trimmed = match side {
            '#' => pattern.trim_start(value, longest),
            _ => pattern.trim_end(value, longest),
        };
        trimmed.map(str::to_owned).or_else(|costly| self.error(start, costly.to_string()))
    }

    /// `${v/p/r}`, `${v//p/r}`; also `${v/p}`, which removes, and the anchors `${v/#p/r}` and `${v/%p/r}` where the
    /// plain reading finds nothing (A.19).
    fn read_replace(&mut self, start: usize, value: Option<&str>, depth: usize) -> Result<String, WordError> {
        let all = self.accept('/');
        let at = self.at;
        let (text, replacement) = match self.read_pattern_and_replacement(start, depth) {
            Ok(both) => both,
            Err(missing) if missing.message.starts_with("missing") => {
                // Counted: nested ones that end nowhere would be read twice as often with each level.
                self.account(self.at - at + MAX_DEPTH)?;
                self.at = at;
                let text = self.read_part(start, '}', Escapes::Keep, depth).map_err(|_| missing)?;
                (text, String::new())
            }
            Err(e) => return Err(e),
        };
        let Some(value) = self.to_match(value) else { return Ok(String::new()) };
        let pattern = self.pattern(at, &text)?;
        let replaced = match pattern.replace(value, &replacement, all) {
            Ok(None) if !all && text.len() > 1 && text.starts_with(['#', '%']) => {
                let side = pattern::Side::of(text.starts_with('#'));
                self.pattern(at, &text[1..])?.replace_at(value, &replacement, side)
            }
            replaced => replaced,
        };
        let replaced = replaced.or_else(|costly| self.error(start, costly.to_string()))?;
        let result = replaced.unwrap_or_else(|| value.to_owned());
        check_size(result.len(), self.at)?;
        self.account(result.len())?;
        Ok(result)
    }

    fn read_pattern_and_replacement(&mut self, start: usize, depth: usize) -> Result<(String, String), WordError> {
        let text = self.read_part(start, '/', Escapes::Keep, depth)?;
        Ok((text, self.read_part(start, '}', Escapes::Keep, depth)?))
    }

    /// What a pattern is matched against: an unset variable is empty, in a text that is only looked at it is nothing.
    fn to_match<'v>(&self, value: Option<&'v str>) -> Option<&'v str> {
        value.or((!self.mode.keeps_unset()).then_some(""))
    }

    fn pattern(&self, at: usize, text: &str) -> Result<Pattern, WordError> {
        Pattern::parse(text).or_else(|message| self.error(at, message))
    }
}

pub fn check_size(size: usize, at: usize) -> Result<(), WordError> {
    match size > MAX_RESULT {
        true => Err(WordError { message: format!("expansion is longer than {MAX_RESULT} bytes"), at }),
        false => Ok(()),
    }
}
