//! Into which pieces do an instruction's arguments fall? (A.5)

use super::lines::{is_blank, is_separator};

/// Splits at separators; quotes mean nothing.
pub fn words(text: &str) -> Vec<String> {
    text.split(is_separator).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Splits once at a run of separators.
pub fn split_once(text: &str) -> Option<(&str, &str)> {
    let (first, rest) = text.split_once(is_separator)?;
    Some((first, rest.trim_start_matches(is_separator)))
}

/// Splits at blanks outside quotes. Quotes and escapes stay; an escape at the very end is dropped; a quote may stay
/// open. Offsets of the words come along.
pub fn quoted_words(text: &str, escape: char) -> Vec<(&str, usize)> {
    let mut words = Vec::new();
    let (mut start, mut end, mut quote) = (None, text.len(), None);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && is_blank(c) {
            words.extend(start.take().map(|start| (&text[start..at], start)));
            continue;
        }
        start.get_or_insert(at);
        match quote {
            // Takes what is escaped along; at the very end there is nothing, and the mark is dropped.
            _ if c == escape && quote != Some('\'') => end = chars.next().map_or(at, |_| end),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(mark) if c == mark => quote = None,
            _ => {}
        }
    }
    words.extend(start.filter(|&start| start < end).map(|start| (&text[start..end], start)));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted() {
        let check = |text: &str, want: &[&str]| {
            let words: Vec<&str> = quoted_words(text, '\\').into_iter().map(|(word, _)| word).collect();
            assert_eq!(words, want, "{text}");
        };
        check("", &[]);
        check("a b\tc", &["a", "b", "c"]);
        check("a='b c' d", &["a='b c'", "d"]);
        check("a=\"b c\" d", &["a=\"b c\"", "d"]);
        check("a=b\\ c d", &["a=b\\ c", "d"]);
        check("a=\"b\\\" c\" d", &["a=\"b\\\" c\"", "d"]);
        check("a='b\\' c' d", &["a='b\\'", "c' d"]);
        check("a='b c", &["a='b c"]);
        check("a\\", &["a"]);
        check("a \\", &["a"]);
        check("a\\\\", &["a\\\\"]);
        check("a\u{a0}b", &["a", "b"]);
    }

    #[test]
    fn plain() {
        assert_eq!(words(" a 'b  c'\u{b}d "), ["a", "'b", "c'", "d"]);
        assert_eq!(words("a\u{a0}b"), ["a\u{a0}b"]);
        assert_eq!(split_once("a \t b c "), Some(("a", "b c ")));
        assert_eq!(split_once("a"), None);
    }
}
