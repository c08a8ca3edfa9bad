//! What does a text become when its quotes, escapes and variables are resolved? (A.8)
//!
//! Five ways of reading share one pass over the text (`expansion.rs`) and differ in a few properties ([`Mode`]): one
//! word, a list of words, the body of a heredoc, the elements of an exec form, and the raw words in which heredocs are
//! looked for.

pub use super::expansion::{Lookup, WordError};
use super::expansion::{Mode, Pass, Words, check_size};
use super::pattern::MAX_RESULT;

/// One word: the result keeps its blanks.
pub fn expand(text: &str, escape: char, lookup: Lookup) -> Result<String, WordError> {
    // Most texts have nothing to expand.
    if !text.contains(['$', '\'', '"', escape]) && text.len() <= MAX_RESULT {
        return Ok(text.to_owned());
    }
    Pass::new(text, escape, Mode::Word, lookup).read_all().map(|words| words.whole)
}

/// A list of words: unquoted blanks, also those that come out of variables, split; empty words vanish.
pub fn expand_words(text: &str, escape: char, lookup: Lookup) -> Result<Vec<String>, WordError> {
    Pass::new(text, escape, Mode::Words, lookup).read_all().map(Words::finish)
}

/// The body of a heredoc with an unquoted name, for COPY and ADD: quotes are ordinary characters (A.7 no. 6).
pub fn expand_body(text: &str, lookup: Lookup) -> Result<String, WordError> {
    Pass::new(text, '\\', Mode::Body, lookup).read_all().map(|words| words.whole)
}

/// The raw words of a line in which heredocs are looked for: quotes and escapes stay, `<<` takes the blanks after it
/// along (A.7 no. 2).
pub fn raw_words(text: &str) -> Result<Vec<String>, WordError> {
    Pass::new(text, '\\', Mode::Raw, &|_| None).read_all().map(Words::finish)
}

/// Like [`raw_words`], with quotes and escapes removed; variables stay as they are written.
pub fn plain_words(text: &str) -> Result<Vec<String>, WordError> {
    Pass::new(text, '\\', Mode::Plain, &|_| None).read_all().map(Words::finish)
}

/// An element of an exec form (A.20): only variables that are set are replaced. All else stays as it is, also what
/// looks like an error: exec forms often hold a script for a shell, with variables of its own.
pub fn expand_known(text: &str, lookup: Lookup) -> Result<String, WordError> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['$', '\\']) {
        result += &rest[..at];
        rest = &rest[at..];
        let taken = match rest.strip_prefix('\\') {
            // An escaped `$` stays escaped, for the shell.
            Some(after) => 1 + after.chars().next().map_or(0, char::len_utf8),
            None => match known(rest, lookup) {
                Some((length, value)) => {
                    result += &value;
                    rest = &rest[length..];
                    0
                }
                None => 1,
            },
        };
        result += &rest[..taken];
        rest = &rest[taken..];
        check_size(result.len(), text.len() - rest.len())?;
    }
    result += rest;
    check_size(result.len(), text.len())?;
    Ok(result)
}

/// Expands the variable that `text` begins with if it is set; the length is that of the text it replaces.
fn known(text: &str, lookup: Lookup) -> Option<(usize, String)> {
    let mut pass = Pass::new(text, '\\', Mode::Word, lookup);
    let braced = usize::from(text[1..].starts_with('{'));
    pass.at = 1 + braced;
    let name = pass.read_name().to_owned();
    pass.value(&name)?;
    pass.at = 1;
    let value = pass.read_dollar(0).ok()?;
    Some((pass.at, value))
}

/// Whether a text that is not expanded elsewhere holds a variable: a `$` with something after it (A.9, A.19).
pub fn has_variable(text: &str) -> bool {
    text.find('$').is_some_and(|at| at + 1 < text.len())
}

#[cfg(test)]
#[path = "words_tests.rs"]
mod tests;
