//! Does a name match a wildcard pattern, as Python's `glob` sees it? (manual page, COPY)
//!
//! One path component only; who walks directories splits patterns at slashes. There is no escape character: `[*]` is a
//! literal star. A name that begins with a dot is matched only by a pattern that begins with one.

/// A pattern for one component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    tokens: Vec<Token>,
    /// The pattern begins with a literal dot.
    hidden: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(char),
    One,
    Run,
    /// Whether it is negated, and its ranges.
    Class(bool, Vec<(char, char)>),
}

/// Whether a pattern has wildcards at all.
pub fn has_magic(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

impl Pattern {
    /// Every text is a pattern: a bracket that is never closed is a literal.
    pub fn new(pattern: &str) -> Pattern {
        let chars: Vec<char> = pattern.chars().collect();
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(&c) = chars.get(at) {
            at += 1;
            match c {
                '*' if tokens.last() == Some(&Token::Run) => {}
                '*' => tokens.push(Token::Run),
                '?' => tokens.push(Token::One),
                '[' => match class(&chars[at..]) {
                    Some((class, length)) => {
                        tokens.push(class);
                        at += length;
                    }
                    None => tokens.push(Token::Literal('[')),
                },
                c => tokens.push(Token::Literal(c)),
            }
        }
        Pattern { tokens, hidden: pattern.starts_with('.') }
    }

    pub fn matches(&self, name: &str) -> bool {
        if name.starts_with('.') && !self.hidden {
            return false;
        }
        let name: Vec<char> = name.chars().collect();
        let (mut token, mut at) = (0, 0);
        // The last star, and where in the name what follows it was tried last.
        let mut star: Option<(usize, usize)> = None;
        while at < name.len() {
            match self.tokens.get(token) {
                Some(Token::Run) => {
                    star = Some((token, at));
                    token += 1;
                }
                Some(single) if single.fits(name[at]) => {
                    token += 1;
                    at += 1;
                }
                _ => {
                    let Some((star_token, tried)) = star else { return false };
                    star = Some((star_token, tried + 1));
                    (token, at) = (star_token + 1, tried + 1);
                }
            }
        }
        self.tokens[token..].iter().all(|rest| *rest == Token::Run)
    }
}

/// After `[`: the class and its length with the closing bracket, which may also be its first member.
fn class(chars: &[char]) -> Option<(Token, usize)> {
    let negated = chars.first() == Some(&'!');
    let start = usize::from(negated);
    let end = start + 1 + chars.get(start + 1..)?.iter().position(|&c| c == ']')?;
    let members = &chars[start..end];
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < members.len() {
        match members[at..] {
            [low, '-', high, ..] => {
                ranges.push((low, high));
                at += 3;
            }
            _ => {
                ranges.push((members[at], members[at]));
                at += 1;
            }
        }
    }
    Some((Token::Class(negated, ranges), end + 1))
}

impl Token {
    fn fits(&self, c: char) -> bool {
        match self {
            Token::Literal(literal) => *literal == c,
            Token::One => true,
            Token::Run => false,
            Token::Class(negated, ranges) => ranges.iter().any(|&(low, high)| low <= c && c <= high) != *negated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |pattern: &str, yes: &[&str], no: &[&str]| {
            let compiled = Pattern::new(pattern);
            yes.iter().for_each(|name| assert!(compiled.matches(name), "{pattern} {name}"));
            no.iter().for_each(|name| assert!(!compiled.matches(name), "{pattern} {name}"));
        };
        check("", &[""], &["a"]);
        check("abc", &["abc"], &["ab", "abcd"]);
        check("*", &["a", "abc", ""], &[".a"]);
        check(".*", &[".a", "."], &["a"]);
        check("*.txt", &["a.txt"], &[".txt", "a.txtx"]);
        check("?", &["a", "é"], &["", "ab", "."]);
        check("a*b*c", &["abc", "axbxc", "abbcc"], &["ab", "abcd"]);
        check("a**c", &["ac", "abc"], &[]);
        check("[abc]", &["a", "b"], &["d", "", "ab"]);
        check("[a-c]x", &["ax"], &["dx"]);
        check("[!a-c]", &["d", "!"], &["a"]);
        check("[]]", &["]"], &["["]);
        check("[!]]", &["a"], &["]"]);
        check("[]-a]", &["]", "_", "a"], &["b"]);
        check("[a-]", &["a", "-"], &["b"]);
        check("[-a]", &["a", "-"], &["b"]);
        check("[z-a]", &[], &["m", "z", "a"]);
        check("[", &["["], &["a"]);
        check("[a", &["[a"], &["a"]);
        check("[!", &["[!"], &["a"]);
        check("[]", &["[]"], &["a"]);
        check("[*]", &["*"], &["a"]);
        check("[.]a", &[], &[".a"]);
        check("\\*", &["\\a"], &["*"]);
        check("[^a]", &["^", "a"], &["b"]);
    }

    #[test]
    fn magic() {
        assert!(has_magic("a*") && has_magic("a?") && has_magic("[a") && !has_magic("a\\]{b}"));
    }

    #[test]
    fn stars_do_not_multiply() {
        assert!(!Pattern::new(&format!("{}b", "a*".repeat(1000))).matches(&"a".repeat(4000)));
    }
}
