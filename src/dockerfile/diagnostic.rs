//! What is wrong with a Dockerfile, where, and what might have been meant?
//!
//! A [`SyntaxError`] is made while one logical line is read and knows a place in it; a [`Diagnostic`] is what people see: line,
//! column, the line itself with a caret. All faults of a file are found before any work starts; the first is the error,
//! some further ones are listed.

use std::fmt::Write as _;

use super::conceal::conceal;
use crate::error::Error;

/// Further faults that are listed after the first.
const MAX_FURTHER: usize = 10;
/// Characters of a line shown on either side of the column.
const WINDOW: usize = 39;

/// How far reading got (A, head): no tree, or a tree with a malformed instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ast,
    Instr,
}

/// A fault in one logical line; `at` is a byte offset in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    pub level: Level,
    pub at: usize,
    pub message: String,
    pub hint: Option<String>,
}

impl SyntaxError {
    /// No tree can be built.
    pub fn ast(at: usize, message: impl Into<String>) -> SyntaxError {
        SyntaxError { level: Level::Ast, at, message: message.into(), hint: None }
    }

    /// The instruction is malformed.
    pub fn instr(at: usize, message: impl Into<String>) -> SyntaxError {
        SyntaxError { level: Level::Instr, at, message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> SyntaxError {
        self.hint = Some(hint.into());
        self
    }
}

/// A fault in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub level: Level,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub col: usize,
    /// Of the source, bytes.
    pub offset: usize,
    pub message: String,
    pub hint: Option<String>,
    /// The line and a caret below it; empty for a file without instructions.
    pub excerpt: String,
}

/// The error for a file that does not parse. `file` is its name as the user gave it, `-` for standard input.
pub fn error(file: &str, diagnostics: &[Diagnostic]) -> Error {
    let Some((first, further)) = diagnostics.split_first() else {
        return Error::new(format!("can't parse: {file}"));
    };
    if first.excerpt.is_empty() {
        return Error::new(format!("{}: {file}", first.message));
    }
    let mut detail = first.excerpt.clone();
    for diagnostic in further.iter().take(MAX_FURTHER) {
        let _ = write!(detail, "\nalso: {file}:{},{}: {}", diagnostic.line, diagnostic.col, diagnostic.message);
    }
    if further.len() > MAX_FURTHER {
        let _ = write!(detail, "\nalso: {} more", further.len() - MAX_FURTHER);
    }
    let error =
        Error::new(format!("can't parse: {file}:{},{}: {}", first.line, first.col, first.message)).detail(detail);
    match &first.hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// A line with its number and a caret below column `col`; of a long line the part around it.
pub fn excerpt(line: usize, text: &str, col: usize) -> String {
    let start = col.saturating_sub(1 + WINDOW);
    let shown: String = conceal(text).chars().skip(start).take(2 * WINDOW + 1).map(visible).collect();
    let number = format!("{line:>5}");
    let blanks = " ".repeat(col - 1 - start);
    format!("{number} | {}\n{} | {blanks}^", shown.trim_end(), " ".repeat(number.len()))
}

/// One column wide and harmless on a terminal.
fn visible(c: char) -> char {
    match c {
        '\t' | '\r' => ' ',
        c if c.is_control() => '\u{fffd}',
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    }
}

/// The candidate that `word` was most likely meant to be, if any is near.
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let limit = if word.len() <= 3 { 1 } else { 2 };
    let scored = candidates.iter().map(|&candidate| (distance(&word, &candidate.to_ascii_lowercase()), candidate));
    scored.filter(|&(distance, _)| distance <= limit).min_by_key(|&(distance, _)| distance).map(|(_, found)| found)
}

/// Edit distance with exchanges of neighbours; long words are far from everything.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(32).collect(), b.chars().take(32).collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let best = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    let exchanged = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                    if exchanged { best.min(rows[i - 2][j - 2] + 1) } else { best }
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

/// The level of a file's faults: the worst one. Other builders' verdicts, which tests compare with, say no more.
#[cfg(test)]
pub fn level(diagnostics: &[Diagnostic]) -> Option<Level> {
    diagnostics.iter().map(|diagnostic| diagnostic.level).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words() {
        let words = ["FROM", "RUN", "COPY", "ENV", "ENTRYPOINT"];
        let check = |word: &str, want: Option<&str>| assert_eq!(nearest(word, &words), want, "{word}");
        check("FORM", Some("FROM"));
        check("copi", Some("COPY"));
        check("RUNN", Some("RUN"));
        check("ENTRIPOINT", Some("ENTRYPOINT"));
        check("apt-get", None);
        check("", None);
        check(&"x".repeat(100_000), None);
    }

    #[test]
    fn excerpts_show_the_column() {
        assert_eq!(excerpt(12, "COPY\ta\u{202e}b", 6), "   12 | COPY a\u{fffd}b\n      |      ^");
        let long = format!("{}X{}", "a".repeat(1000), "b".repeat(1000));
        let shown = excerpt(1, &long, 1001);
        let (top, bottom) = shown.split_once('\n').unwrap();
        assert_eq!(top.chars().nth(bottom.find('^').unwrap()), Some('X'));
        assert!(top.len() < 100);
        assert_eq!(excerpt(1, "", 1), "    1 | \n      | ^");
    }
}
