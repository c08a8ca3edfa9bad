//! Which paths of the context does .dockerignore (or `--exclude`) leave out? (A.15)
//!
//! A pattern is a small automaton that reads a path once, whatever its stars: time is at most the product of both
//! lengths, and patterns without wildcards, the usual ones, are compared as texts. A path is left out with any of its
//! ancestors, so the automaton is asked at every slash.

use crate::error::{Error, Result, bail};

/// A list of patterns; the last that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// `!`
    includes: bool,
    pattern: Pattern,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Plain(String),
    Tokens(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`
    One,
    /// `*`
    Run,
    /// `[…]`: negated or not, ranges.
    Class(bool, Vec<(char, char)>),
    /// `**` before something else: nothing, or whole components. The next token is [`Token::Inside`].
    Components,
    Inside,
    /// `**` at the end, or before a plain suffix.
    Anything,
}

impl Patterns {
    /// Reads a .dockerignore file.
    pub fn parse(bytes: &[u8]) -> Result<Patterns> {
        let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
        Patterns::of(text.lines().filter(|line| !line.starts_with('#')))
    }

    /// From single patterns, as `--exclude` gives them.
    pub fn of<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Patterns> {
        let mut rules = Vec::new();
        for line in lines {
            let text = line.trim();
            if text.is_empty() {
                continue;
            }
            let (includes, text) = match text.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, text),
            };
            if text.is_empty() {
                bail!("invalid ignore pattern: {line:?}");
            }
            let clean = super::path::clean(text);
            let clean = clean.strip_prefix('/').unwrap_or(&clean);
            if !clean.is_empty() {
                let error = || Error::new(format!("invalid ignore pattern: {line:?}"));
                rules.push(Rule { includes, pattern: Pattern::parse(clean).ok_or_else(error)? });
            }
        }
        Ok(Patterns(rules))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a path, relative to the root without a leading slash, is left out.
    pub fn excludes(&self, path: &str) -> bool {
        let mut states = States::default();
        let deciding = self.0.iter().rev().find(|rule| rule.pattern.matches(path, &mut states));
        deciding.is_some_and(|rule| !rule.includes)
    }

    /// Whether something below a directory that is left out may be taken in again.
    pub fn may_include_below(&self, directory: &str) -> bool {
        let mut states = States::default();
        self.0.iter().any(|rule| rule.includes && rule.pattern.may_match_below(directory, &mut states))
    }
}

impl Pattern {
    /// `None` if brackets or escapes are malformed.
    fn parse(text: &str) -> Option<Pattern> {
        if !text.contains(['*', '?', '[', '\\']) {
            return Some(Pattern::Plain(text.to_owned()));
        }
        if let Some(suffix) = text.strip_prefix("**").filter(|s| !s.is_empty() && !s.starts_with('/'))
            && !suffix.contains(['*', '?', '[', '\\'])
        {
            let literals = suffix.chars().map(Token::Literal);
            return Some(Pattern::Tokens(std::iter::once(Token::Anything).chain(literals).collect()));
        }
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '*' if rest.starts_with('*') => {
                    rest = rest[1..].strip_prefix('/').unwrap_or(&rest[1..]);
                    match rest.is_empty() {
                        true => tokens.push(Token::Anything),
                        false => tokens.extend([Token::Components, Token::Inside]),
                    }
                }
                '*' => tokens.push(Token::Run),
                '?' => tokens.push(Token::One),
                '[' => {
                    let (class, after) = parse_class(rest)?;
                    tokens.push(class);
                    rest = after;
                }
                '\\' => {
                    let literal = rest.chars().next()?;
                    tokens.push(Token::Literal(literal));
                    rest = &rest[literal.len_utf8()..];
                }
                c => tokens.push(Token::Literal(c)),
            }
        }
        Some(Pattern::Tokens(tokens))
    }

    /// Whether the path or an ancestor of it matches.
    fn matches(&self, path: &str, states: &mut States) -> bool {
        match self {
            Pattern::Plain(text) => {
                path.strip_prefix(text.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Pattern::Tokens(tokens) => {
                states.start(tokens);
                for c in path.chars() {
                    if c == '/' && states.accepts(tokens) {
                        return true;
                    }
                    if !states.read(tokens, c) {
                        return false;
                    }
                }
                states.accepts(tokens)
            }
        }
    }

    fn may_match_below(&self, directory: &str, states: &mut States) -> bool {
        match self {
            Pattern::Plain(text) => text.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/')),
            Pattern::Tokens(tokens) => {
                states.start(tokens);
                directory.chars().chain(['/']).all(|c| states.read(tokens, c))
            }
        }
    }
}

/// After `[`; returns what follows `]`.
fn parse_class(text: &str) -> Option<(Token, &str)> {
    let (negated, mut rest) = match text.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut ranges = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(']').filter(|_| !ranges.is_empty()) {
            return Some((Token::Class(negated, ranges), after));
        }
        let low;
        (low, rest) = class_char(rest)?;
        let mut high = low;
        if let Some(after) = rest.strip_prefix('-') {
            (high, rest) = class_char(after)?;
        }
        ranges.push((low, high));
    }
}

fn class_char(text: &str) -> Option<(char, &str)> {
    let text = match text.strip_prefix('\\') {
        Some(escaped) => escaped,
        None if text.starts_with(['-', ']']) => return None,
        None => text,
    };
    let c = text.chars().next()?;
    Some((c, &text[c.len_utf8()..]))
}

/// The tokens that may come next, each once, in order.
#[derive(Default)]
struct States {
    now: Vec<usize>,
    next: Vec<usize>,
}

impl States {
    fn start(&mut self, tokens: &[Token]) {
        self.now.clear();
        add(&mut self.now, tokens, 0);
    }

    fn accepts(&self, tokens: &[Token]) -> bool {
        self.now.last() == Some(&tokens.len())
    }

    /// Whether anything can still match.
    fn read(&mut self, tokens: &[Token], c: char) -> bool {
        self.next.clear();
        for &state in &self.now {
            let Some(token) = tokens.get(state) else { continue };
            match token {
                Token::Literal(literal) if *literal == c => add(&mut self.next, tokens, state + 1),
                Token::One if c != '/' => add(&mut self.next, tokens, state + 1),
                Token::Class(negated, ranges) if c != '/' => {
                    if ranges.iter().any(|&(low, high)| low <= c && c <= high) != *negated {
                        add(&mut self.next, tokens, state + 1);
                    }
                }
                Token::Run if c != '/' => add(&mut self.next, tokens, state),
                Token::Anything => add(&mut self.next, tokens, state),
                Token::Inside => {
                    add(&mut self.next, tokens, state);
                    if c == '/' {
                        add(&mut self.next, tokens, state + 1);
                    }
                }
                Token::Literal(_) | Token::One | Token::Class(..) | Token::Run | Token::Components => {}
            }
        }
        std::mem::swap(&mut self.now, &mut self.next);
        !self.now.is_empty()
    }
}

/// Adds a state and those that need no character to get to. States come in increasing order, so that a state that is
/// there already is among the last ones.
fn add(states: &mut Vec<usize>, tokens: &[Token], state: usize) {
    if states.iter().rev().take_while(|&&s| s >= state).any(|&s| s == state) {
        return;
    }
    let at = states.len() - states.iter().rev().take_while(|&&s| s > state).count();
    states.insert(at, state);
    match tokens.get(state) {
        Some(Token::Run | Token::Anything) => add(states, tokens, state + 1),
        Some(Token::Components) => {
            add(states, tokens, state + 1);
            add(states, tokens, state + 2);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Patterns {
        Patterns::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn single_patterns() {
        let check = |pattern: &str, yes: &[&str], no: &[&str]| {
            let patterns = of(pattern);
            yes.iter().for_each(|path| assert!(patterns.excludes(path), "{pattern} {path}"));
            no.iter().for_each(|path| assert!(!patterns.excludes(path), "{pattern} {path}"));
        };
        check("a", &["a", "a/b", "a/b/c"], &["b", "b/a", "ab", "aa/b"]);
        check("/a", &["a", "a/b"], &["b/a"]);
        check("a/", &["a", "a/b"], &["b/a"]);
        check("  a//b/../c/  ", &["a/c", "a/c/d"], &["a", "a/b"]);
        check("a b", &["a b"], &["a"]);
        check("*", &["a", "a/b", ".x"], &[]);
        check("*/a", &["x/a", "x/a/b"], &["a", "x/y/a"]);
        check("*.md", &["a.md", ".md", "a.md/x"], &["x/a.md"]);
        check("a?c", &["abc", "aéc"], &["ac", "a/c", "abbc"]);
        check("a*c", &["ac", "abbc"], &["ab/c"]);
        check("**", &["a", "a/b"], &[]);
        check("**/x", &["x", "a/x", "a/b/x", "a/x/b"], &["ax", "a/bx"]);
        check("**/*.md", &["x.md", "a/b/x.md"], &["x.mdx"]);
        check("**.md", &["x.md", "a/b/x.md", ".md"], &["x.mdx"]);
        check("a/**", &["a/b", "a/b/c"], &["a", "ab"]);
        check("a/**/b", &["a/b", "a/x/b", "a/x/y/b", "a/b/c"], &["ab", "a/xb"]);
        check("**/a/**/b", &["a/b", "x/a/y/b"], &["x/b"]);
        check("a**b", &["ab", "ax/b"], &["axb"]);
        check("[a-c]x", &["ax", "cx"], &["dx", "x"]);
        check("[^a]x", &["bx"], &["ax", "/x"]);
        check("[\\]x]y", &["]y", "xy"], &["y"]);
        check("\\*", &["*"], &["a"]);
        check("#a", &[], &["a", "#a"]);
        check(" #a", &["#a"], &["a"]);
        check("\u{feff}a", &["a"], &[]);
        check("a\r\nb\r\n", &["a", "b"], &[]);
        check(".", &[], &["a"]);
        check("/", &[], &["a"]);
        check("../a", &[], &["a"]);
        check("", &[], &["a"]);
    }

    #[test]
    fn last_match_wins() {
        let check = |text: &str, path: &str, want: bool| assert_eq!(of(text).excludes(path), want, "{text:?} {path}");
        check("*\n!a", "a", false);
        check("*\n!a", "b", true);
        check("*\n! a ", "a/b", false);
        check("!a\n*", "a", true);
        check("a\n!a/b\na/b/c", "a/b", false);
        check("a\n!a/b\na/b/c", "a/b/c", true);
        check("a\n!a/b\na/b/c", "a/x", true);
        check("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true);
        check("*.md\n!README*.md\nREADME-secret.md", "README.md", false);
        check("**/node_modules\n!keep/node_modules", "keep/node_modules/x", false);
    }

    #[test]
    fn excluded_directories_are_entered_if_need_be() {
        let check =
            |text: &str, path: &str, want: bool| assert_eq!(of(text).may_include_below(path), want, "{text:?} {path}");
        check("*", "a", false);
        check("*\n!b", "a", false);
        check("*\n!a/b", "a", true);
        check("*\n!a/b", "a/b", false);
        check("*\n!**/x", "a", true);
        check("*\n!a/*/c", "a/b", true);
        check("*\n!a/*/c", "b", false);
        check("*\n!*.md", "a", false);
    }

    #[test]
    fn malformed_patterns() {
        for bad in ["[", "[a", "a\\", "[]", "[a-]", "!", "! ", "[^]"] {
            assert!(Patterns::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// The rules of A.15 no. 3 as they are written, by trial.
    fn matches(pattern: &[char], path: &[char]) -> bool {
        match (pattern, path) {
            ([], path) => path.is_empty(),
            (['*', '*'] | ['*', '*', '/'], _) => true,
            (['*', '*', rest @ ..], _) => {
                let rest = rest.strip_prefix(&['/']).unwrap_or(rest);
                matches(rest, path) || (1..=path.len()).any(|n| path[n - 1] == '/' && matches(rest, &path[n..]))
            }
            (['*', rest @ ..], [c, after @ ..]) => matches(rest, path) || (*c != '/' && matches(pattern, after)),
            (['*', rest @ ..], []) => matches(rest, path),
            (['?', rest @ ..], [c, after @ ..]) => *c != '/' && matches(rest, after),
            ([p, rest @ ..], [c, after @ ..]) => p == c && matches(rest, after),
            (_, []) => false,
        }
    }

    /// All texts of at most so many of these characters.
    fn all(of: &[char], most: usize) -> Vec<String> {
        let mut texts = vec![String::new()];
        let mut start = 0;
        for _ in 0..most {
            let end = texts.len();
            for at in start..end {
                texts.extend(of.iter().map(|c| format!("{}{c}", texts[at])).collect::<Vec<_>>());
            }
            start = end;
        }
        texts
    }

    #[test]
    fn short_patterns_match_what_the_rules_say() {
        let paths = all(&['a', 'b', '/'], 4);
        let is_path = |p: &&String| !p.is_empty() && !p.starts_with('/') && !p.ends_with('/') && !p.contains("//");
        let paths: Vec<&String> = paths.iter().filter(is_path).collect();
        for text in all(&['a', '*', '?', '/'], 5) {
            let clean = super::super::path::clean(&text);
            let clean: Vec<char> = clean.strip_prefix('/').unwrap_or(&clean).chars().collect();
            // A plain text after leading stars is a suffix.
            let suffix =
                clean.strip_prefix(&['*', '*']).filter(|s| !s.is_empty() && !s.contains(&'*') && !s.contains(&'?'));
            let wanted = |path: &str| {
                let path: Vec<char> = path.chars().collect();
                match suffix {
                    Some(['/', name @ ..]) if path == name => true,
                    Some(suffix) => path.ends_with(suffix),
                    None => !clean.is_empty() && matches(&clean, &path),
                }
            };
            for path in &paths {
                let ancestors = path.match_indices('/').map(|(at, _)| &path[..at]);
                let want = ancestors.chain([path.as_str()]).any(wanted);
                assert_eq!(of(&text).excludes(path), want, "{text} {path}");
            }
        }
    }

    #[test]
    fn a_hundred_thousand_paths() {
        let patterns = of("*\n!src\n**/*.o\n**/target\n!**/keep.o\nsrc/**/a*b*c*d\n*.tmp\n[a-z]*/x?");
        let excluded = (0..100_000).filter(|n| {
            let path = format!("src/dir{}/sub{}/file{n}.{}", n % 100, n % 10, if n % 2 == 0 { "o" } else { "c" });
            patterns.excludes(&path)
        });
        assert_eq!(excluded.count(), 50_000);
    }

    #[test]
    fn stars_do_not_multiply() {
        let patterns = of(&format!("{}b", "a*".repeat(200)));
        assert!(!patterns.excludes(&"a".repeat(4000)));
        let patterns = of(&format!("{}b", "**/a/".repeat(200)));
        assert!(!patterns.excludes(&"a/".repeat(2000)));
    }
}
