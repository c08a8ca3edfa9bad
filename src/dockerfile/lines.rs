//! Which lines belong together? Source text → logical lines and the bodies of heredocs (A.1 to A.3).
//!
//! A logical line remembers where each of its pieces came from, so that an offset in it can be shown as line and column
//! of the file. The source keeps its text once; everything else is as big as the logical lines.
//!
//! Bytes that are not UTF-8 become U+FFFD, as they do in the builders that store JSON.

use std::collections::HashMap;
use std::ops::Range;

/// Longest Dockerfile, bytes.
pub const MAX_SOURCE: usize = 8 << 20;

/// Text with the offsets of its lines.
pub struct Source {
    text: String,
    /// Offset of each line's first byte.
    starts: Vec<usize>,
}

impl Source {
    /// A byte order mark at the very start is dropped.
    pub fn new(bytes: &[u8]) -> Source {
        let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).into_owned();
        let mut starts = vec![0];
        starts.extend(text.bytes().enumerate().filter(|&(_, b)| b == b'\n').map(|(at, _)| at + 1));
        if starts.last() == Some(&text.len()) {
            starts.pop();
        }
        Source { text, starts }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    fn lines(&self) -> usize {
        self.starts.len()
    }

    /// A line (from 0) with its line end.
    fn raw(&self, line: usize) -> &str {
        let end = self.starts.get(line + 1).copied().unwrap_or(self.text.len());
        &self.text[self.starts[line]..end]
    }

    /// A line (from 0) without its line end.
    pub fn line(&self, line: usize) -> &str {
        if line < self.lines() { self.raw(line).trim_end_matches(['\r', '\n']) } else { "" }
    }

    /// Line and column of a byte offset, both from 0, the column in characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|&start| start <= offset).saturating_sub(1);
        let start = self.starts.get(line).copied().unwrap_or(0);
        (line, self.text.get(start..offset).map_or(0, |before| before.chars().count()))
    }
}

/// Where a part of a logical line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// Offset in the logical line.
    at: usize,
    /// Offset in the source.
    source: usize,
    length: usize,
}

/// An instruction's text with continuations joined.
#[derive(Debug)]
pub struct Logical {
    pub text: String,
    first: Piece,
    /// Those of continuation lines: most logical lines have none.
    further: Vec<Piece>,
    /// First line, from 0.
    pub line: usize,
    /// In the source, bytes: from the first character to the end of the last line.
    pub span: Range<usize>,
    /// Number (from 0) of the first empty line inside, which ought not to be there.
    pub empty_line: Option<usize>,
}

impl Logical {
    /// Offset in the source of an offset in the text. The end belongs to the last piece.
    pub fn source_at(&self, at: usize) -> usize {
        let index = self.further.partition_point(|piece| piece.at <= at);
        let piece = index.checked_sub(1).map_or(&self.first, |index| &self.further[index]);
        piece.source + (at - piece.at).min(piece.length)
    }
}

/// Reads a source from the first line to the last.
pub struct Lines<'a> {
    source: &'a Source,
    /// Next line, from 0.
    next: usize,
    escape: char,
    ends: Option<Ends<'a>>,
}

/// Which lines hold a text, in order: where heredocs may end. Made when the first heredoc is met; without it, a file
/// of heredocs that end nowhere would be searched to its end for each.
struct Ends<'a> {
    exact: HashMap<&'a str, Vec<usize>>,
    /// Leading tabs cut.
    untabbed: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Ends<'a> {
    fn of(source: &'a Source) -> Ends<'a> {
        let mut ends = Ends { exact: HashMap::new(), untabbed: HashMap::new() };
        for line in 0..source.lines() {
            let text = source.line(line);
            ends.exact.entry(text).or_default().push(line);
            ends.untabbed.entry(text.trim_start_matches('\t')).or_default().push(line);
        }
        ends
    }
}

impl<'a> Lines<'a> {
    pub fn new(source: &'a Source, escape: char) -> Lines<'a> {
        Lines { source, next: 0, escape, ends: None }
    }

    /// The next logical line; comments and empty lines before it are skipped.
    pub fn next_logical(&mut self) -> Option<Logical> {
        loop {
            let line = self.take()?;
            let raw = self.source.line(line);
            let first = raw.trim_start_matches(is_blank);
            if !first.is_empty() && !first.starts_with('#') {
                let offset = self.source.starts[line] + raw.len() - first.len();
                return Some(self.continue_from(line, first, offset));
            }
        }
    }

    fn continue_from(&mut self, line: usize, text: &str, offset: usize) -> Logical {
        let kept = self.without_continuation(text);
        let piece = kept.unwrap_or(text);
        let first = Piece { at: 0, source: offset, length: piece.len() };
        let span = offset..offset + text.len();
        let mut logical = Logical { text: piece.to_owned(), first, further: Vec::new(), line, span, empty_line: None };
        let mut continues = kept.is_some();
        while continues {
            let Some(line) = self.take() else { break };
            let text = self.source.line(line);
            let trimmed = text.trim_start_matches(is_blank);
            if trimmed.is_empty() {
                logical.empty_line.get_or_insert(line);
            } else if !trimmed.starts_with('#') {
                continues = self.add(&mut logical, text, self.source.starts[line]);
            }
        }
        logical
    }

    /// Appends a line; whether the next one belongs to it as well.
    fn add(&self, logical: &mut Logical, text: &str, offset: usize) -> bool {
        let kept = self.without_continuation(text);
        let piece = kept.unwrap_or(text);
        logical.further.push(Piece { at: logical.text.len(), source: offset, length: piece.len() });
        logical.text += piece;
        logical.span.end = offset + text.len();
        kept.is_some()
    }

    /// The part before a continuation mark: one escape, not preceded by another, with blanks after it at most.
    fn without_continuation<'t>(&self, text: &'t str) -> Option<&'t str> {
        let before = text.trim_end_matches([' ', '\t']).strip_suffix(self.escape)?;
        if before.ends_with(self.escape) { None } else { Some(before) }
    }

    /// The body of a heredoc: raw lines up to one that is `name`; after it goes on what follows. `None`, and nothing
    /// taken, if there is no such line.
    pub fn take_body(&mut self, name: &str, strip_tabs: bool) -> Option<&'a str> {
        let start = self.next;
        let ends = self.ends.get_or_insert_with(|| Ends::of(self.source));
        let lines = if strip_tabs { ends.untabbed.get(name)? } else { ends.exact.get(name)? };
        let end = *lines.get(lines.partition_point(|&line| line < start))?;
        self.next = end + 1;
        Some(&self.source.text[self.source.starts[start]..self.source.starts[end]])
    }

    /// Offset of the end of the last line taken, without its line end.
    pub fn taken_to(&self) -> usize {
        match self.next.checked_sub(1) {
            Some(line) => self.source.starts[line] + self.source.line(line).len(),
            None => 0,
        }
    }

    /// Where reading stands, to return there.
    pub fn mark(&self) -> usize {
        self.next
    }

    pub fn reset(&mut self, mark: usize) {
        self.next = mark;
    }

    /// Reads no further.
    pub fn stop(&mut self) {
        self.next = self.source.lines();
    }

    fn take(&mut self) -> Option<usize> {
        let line = self.next;
        self.next += usize::from(line < self.source.lines());
        (line < self.source.lines()).then_some(line)
    }
}

/// Unicode white space (A.1 no. 3).
pub fn is_blank(c: char) -> bool {
    c.is_whitespace()
}

/// What separates words inside arguments (A.1 no. 3).
pub fn is_separator(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logical(text: &str) -> Vec<String> {
        let source = Source::new(text.as_bytes());
        let mut lines = Lines::new(&source, '\\');
        let mut found = Vec::new();
        while let Some(line) = lines.next_logical() {
            for (at, c) in line.text.char_indices() {
                assert!(source.text()[line.source_at(at)..].starts_with(c), "{text:?} at {at}");
            }
            assert!(line.source_at(line.text.len()) <= line.span.end);
            assert!(line.span.end <= source.text().len());
            found.push(line.text);
        }
        found
    }

    #[test]
    fn logical_lines() {
        let check = |text: &str, want: &[&str]| assert_eq!(logical(text), want, "{text:?}");
        check("", &[]);
        check("\n\n", &[]);
        check("# a\n  # b\n\u{a0}#c", &[]);
        check("a\nb", &["a", "b"]);
        check("\u{feff}a\n", &["a"]);
        check("  a  \r\n\tb\r\r\n", &["a  ", "b"]);
        check("a \\\n  b", &["a   b"]);
        check("a \\ \t\r\nb", &["a b"]);
        check("a\\\r\nb", &["ab"]);
        check("FR\\\nOM x", &["FROM x"]);
        check("a \\\\\nb", &["a \\\\", "b"]);
        check("a \\\\\\\nb", &["a \\\\\\", "b"]);
        check("a \\\n# c \\\n  # d\nb\nc", &["a b", "c"]);
        check("a \\\n\n \t\nb", &["a b"]);
        check("a \\\n\\\n \\\nb", &["a  b"]);
        check("a \\", &["a "]);
        check("a \\\n\n", &["a "]);
        check("\\\na", &["a"]);
        check("\\", &[""]);
        check("a \\x\nb", &["a \\x", "b"]);
        check("a \\\u{a0}\nb", &["a \\\u{a0}", "b"]);
        check("é\\\né", &["éé"]);
    }

    #[test]
    fn empty_lines_inside_are_noticed() {
        let source = Source::new(b"a \\\n# c\n\nb\nc");
        let mut lines = Lines::new(&source, '\\');
        assert_eq!(lines.next_logical().unwrap().empty_line, Some(2));
        assert_eq!(lines.next_logical().unwrap().empty_line, None);
    }

    #[test]
    fn bodies() {
        let source = Source::new(b"x\n  a\\\r\n# b\r\n\tEND \n\tEND\r\ny\nEND");
        let body = |name: &str, tabs: bool| {
            let mut lines = Lines::new(&source, '\\');
            lines.next_logical();
            let body = lines.take_body(name, tabs).map(str::to_owned);
            (body, lines.next_logical().map(|l| l.text))
        };
        assert_eq!(body("END", true), (Some("  a\\\r\n# b\r\n\tEND \n".into()), Some("y".into())));
        assert_eq!(body("END", false), (Some("  a\\\r\n# b\r\n\tEND \n\tEND\r\ny\n".into()), None));
        assert_eq!(body("NO", true), (None, Some("a\tEND ".into())));
    }

    #[test]
    fn positions() {
        let source = Source::new("äb\nc".as_bytes());
        let check = |offset: usize, want: (usize, usize)| assert_eq!(source.position(offset), want, "{offset}");
        check(0, (0, 0));
        check(2, (0, 1));
        check(3, (0, 2));
        check(4, (1, 0));
        check(5, (1, 1));
        check(99, (1, 1));
    }
}
