//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?` and literal characters (A.8).
//!
//! Matched without backtracking: between two `*` the earliest (for the longest match: the latest) place is always
//! right; a piece with a newline has only one place, because `*` and `?` do not match newlines. Finding a piece is
//! quadratic at worst, so the number of comparisons is limited.

use std::fmt;

/// Longest result, bytes.
pub const MAX_RESULT: usize = 1 << 20;

/// Comparisons that one operation may make.
const MAX_COST: usize = 1 << 26;

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`
    One,
    /// `*`
    Any,
}

#[derive(Debug)]
pub struct Pattern(Vec<Token>);

/// At which end of a value a pattern must match.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Start,
    End,
}

impl Side {
    pub fn of(start: bool) -> Side {
        if start { Side::Start } else { Side::End }
    }
}

/// The limit on comparisons was reached.
#[derive(Debug)]
pub struct TooCostly;

impl fmt::Display for TooCostly {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("pattern takes too long to match")
    }
}

impl Pattern {
    /// `\*`, `\?`, `\\` are literal; `\}` and `\/` mean `}` and `/`; no other character may be escaped.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                // Two in a row match what one does.
                '*' if tokens.last() == Some(&Token::Any) => continue,
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Token::Literal(c),
                    Some(c) => return Err(format!("invalid escape \\{c} in a pattern")),
                    None => return Err("invalid escape \\ at the end of a pattern".to_owned()),
                },
                c => Token::Literal(c),
            });
        }
        Ok(Pattern(tokens))
    }

    /// `value` without the shortest or longest match at its start.
    pub fn trim_start<'v>(&self, value: &'v str, longest: bool) -> Result<&'v str, TooCostly> {
        let chars: Vec<char> = value.chars().collect();
        let length = self.forward().at_start(&chars, longest)?;
        Ok(&value[bytes(&chars[..length.unwrap_or(0)])..])
    }

    /// `value` without the shortest or longest match at its end.
    pub fn trim_end<'v>(&self, value: &'v str, longest: bool) -> Result<&'v str, TooCostly> {
        let chars: Vec<char> = value.chars().rev().collect();
        let length = self.backward().at_start(&chars, longest)?;
        Ok(&value[..value.len() - bytes(&chars[..length.unwrap_or(0)])])
    }

    /// The first match, or all, exchanged for `replacement`; `None` if there is none.
    pub fn replace(&self, value: &str, replacement: &str, all: bool) -> Result<Option<String>, TooCostly> {
        let chars: Vec<char> = value.chars().collect();
        let mut matcher = self.forward();
        let (mut result, mut at, mut last_end, mut found) = (String::new(), 0, None, false);
        while at <= chars.len() {
            let length = matcher.at_start(&chars[at..], true)?;
            // An empty match right after another match is none.
            let length = length.filter(|&length| length > 0 || last_end != Some(at));
            if let Some(length) = length {
                result += replacement;
                if result.len() > MAX_RESULT {
                    return Err(TooCostly);
                }
                at += length;
                (last_end, found) = (Some(at), true);
                if !all {
                    break;
                }
                if length > 0 {
                    continue;
                }
            }
            result.extend(chars.get(at));
            at += 1;
        }
        result.extend(chars.get(at..).unwrap_or_default());
        Ok(found.then_some(result))
    }

    /// The longest match at one end, exchanged for `replacement`; `None` if there is none.
    pub fn replace_at(&self, value: &str, replacement: &str, side: Side) -> Result<Option<String>, TooCostly> {
        let (mut matcher, chars): (_, Vec<char>) = match side {
            Side::Start => (self.forward(), value.chars().collect()),
            Side::End => (self.backward(), value.chars().rev().collect()),
        };
        let Some(length) = matcher.at_start(&chars, true)? else { return Ok(None) };
        let cut = bytes(&chars[..length]);
        Ok(Some(match side {
            Side::Start => format!("{replacement}{}", &value[cut..]),
            Side::End => format!("{}{replacement}", &value[..value.len() - cut]),
        }))
    }

    fn forward(&self) -> Matcher<'_> {
        Matcher { tokens: self.0.iter().collect(), cost: 0 }
    }

    fn backward(&self) -> Matcher<'_> {
        Matcher { tokens: self.0.iter().rev().collect(), cost: 0 }
    }
}

fn bytes(chars: &[char]) -> usize {
    chars.iter().map(|c| c.len_utf8()).sum()
}

struct Matcher<'a> {
    tokens: Vec<&'a Token>,
    cost: usize,
}

impl Matcher<'_> {
    /// Length of the match at the start of `text`.
    fn at_start(&mut self, text: &[char], longest: bool) -> Result<Option<usize>, TooCostly> {
        let tokens = std::mem::take(&mut self.tokens);
        let result = self.walk(&tokens, text, longest);
        self.tokens = tokens;
        result
    }

    fn walk(&mut self, tokens: &[&Token], text: &[char], longest: bool) -> Result<Option<usize>, TooCostly> {
        let mut pieces = tokens.split(|t| **t == Token::Any);
        let Some(first) = pieces.next() else { return Ok(Some(0)) };
        if !self.fits(first, text, 0)? {
            return Ok(None);
        }
        let mut at = first.len();
        let pieces: Vec<&[&Token]> = pieces.collect();
        let Some((last, middle)) = pieces.split_last() else { return Ok(Some(at)) };
        for piece in middle {
            match self.find(piece, text, at)? {
                Some(found) => at = found + piece.len(),
                None => return Ok(None),
            }
        }
        if !longest {
            return Ok(self.find(last, text, at)?.map(|found| found + last.len()));
        }
        // The latest place that a `*` can reach: it does not cross a newline.
        let mut best = None;
        let reach = text[at..].iter().position(|&c| c == '\n').map_or(text.len(), |n| at + n);
        for place in (at..=reach).rev() {
            if self.fits(last, text, place)? {
                best = Some(place + last.len());
                break;
            }
        }
        Ok(best)
    }

    /// The earliest place of `piece` at or after `at` that a `*` can reach.
    fn find(&mut self, piece: &[&Token], text: &[char], at: usize) -> Result<Option<usize>, TooCostly> {
        for place in at..=text.len() {
            if self.fits(piece, text, place)? {
                return Ok(Some(place));
            }
            if text.get(place) == Some(&'\n') {
                break;
            }
        }
        Ok(None)
    }

    fn fits(&mut self, piece: &[&Token], text: &[char], at: usize) -> Result<bool, TooCostly> {
        let Some(text) = text.get(at..at + piece.len()) else { return Ok(false) };
        self.cost += 1;
        for (token, &c) in piece.iter().zip(text) {
            self.cost += 1;
            let equal = match token {
                Token::Literal(literal) => *literal == c,
                Token::One => c != '\n',
                Token::Any => false,
            };
            if !equal {
                return if self.cost > MAX_COST { Err(TooCostly) } else { Ok(false) };
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether all of `text` matches, by trial.
    fn matches(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            (['*', rest @ ..], [c, after @ ..]) => matches(rest, text) || (*c != '\n' && matches(pattern, after)),
            (['*', rest @ ..], []) => matches(rest, text),
            (['?', rest @ ..], [c, after @ ..]) => *c != '\n' && matches(rest, after),
            ([p, rest @ ..], [c, after @ ..]) => p == c && matches(rest, after),
            (_, []) => false,
        }
    }

    /// The n-th text over an alphabet.
    fn text(of: &[char], mut n: usize) -> Vec<char> {
        let mut text = Vec::new();
        while n > 0 {
            text.push(of[(n - 1) % of.len()]);
            n = (n - 1) / of.len();
        }
        text
    }

    #[test]
    fn short_patterns_match_what_trial_finds() {
        let values: Vec<Vec<char>> = (0..121).map(|n| text(&['a', 'b', '\n'], n)).collect();
        for n in 0..781 {
            let chars = text(&['a', 'b', '*', '?', '\n'], n);
            let pattern = Pattern::parse(&chars.iter().collect::<String>()).unwrap();
            for value in &values {
                let string: String = value.iter().collect();
                let starts: Vec<usize> = (0..=value.len()).filter(|&n| matches(&chars, &value[..n])).collect();
                let ends: Vec<usize> = (0..=value.len()).rev().filter(|&n| matches(&chars, &value[n..])).collect();
                let check = |got: Result<&str, TooCostly>, want: &[char]| {
                    assert_eq!(got.unwrap(), want.iter().collect::<String>(), "{chars:?} {value:?}");
                };
                check(pattern.trim_start(&string, false), &value[starts.first().copied().unwrap_or(0)..]);
                check(pattern.trim_start(&string, true), &value[starts.last().copied().unwrap_or(0)..]);
                check(pattern.trim_end(&string, false), &value[..ends.first().copied().unwrap_or(value.len())]);
                check(pattern.trim_end(&string, true), &value[..ends.last().copied().unwrap_or(value.len())]);
                let first = (0..=value.len()).find_map(|from| {
                    let longest = (from..=value.len()).rev().find(|&to| matches(&chars, &value[from..to]));
                    longest.map(|to| (from, to))
                });
                let want = first.map(|(from, to)| [&value[..from], &['X'], &value[to..]].concat().iter().collect());
                assert_eq!(pattern.replace(&string, "X", false).unwrap(), want, "{chars:?} {value:?}");
            }
        }
    }
}
