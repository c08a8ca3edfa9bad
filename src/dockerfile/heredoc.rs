//! Which words of a line begin a heredoc? (A.7)

use super::ast::Heredoc;
use super::diagnostic::SyntaxError;
use super::lines::Lines;
use super::words::{self, WordError};

/// `<<NAME`, `<<-NAME`, `3<<"NAME"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    pub name: String,
    /// Some part of the name is quoted.
    pub quoted: bool,
    pub strip_tabs: bool,
}

/// The heredoc that a raw word begins, if it does. A name that cannot be read is an error.
pub fn marker(word: &str) -> Result<Option<Marker>, WordError> {
    let Some(rest) = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<") else {
        return Ok(None);
    };
    let (strip_tabs, tail) = match rest.strip_prefix('-') {
        Some(tail) => (true, tail),
        None => (false, rest),
    };
    if tail.contains('<') {
        return Ok(None);
    }
    let (raw, plain) = (words::raw_words(tail)?, words::plain_words(tail)?);
    let ([raw], [name]) = (raw.as_slice(), plain.as_slice()) else { return Ok(None) };
    let marks = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(Marker { name: name.clone(), quoted: marks(raw) != marks(name), strip_tabs }))
}

/// What to do where the end of a heredoc is not found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Refuse,
    /// In RUN: the name may end at a shell operator, or `<<` may not have been meant as a heredoc at all (A.7 no. 7).
    Bend,
}

/// The heredocs that a logical line begins, their bodies taken from the lines that follow. `offset` is where in the
/// line a mistake is shown.
pub fn take(line: &str, lines: &mut Lines, missing: Missing) -> Result<Vec<Heredoc>, SyntaxError> {
    if !line.contains("<<") {
        return Ok(Vec::new());
    }
    // A line that cannot be read as words has no heredocs.
    let words = words::raw_words(line).unwrap_or_default();
    let start = lines.mark();
    // Copied only when all are found: otherwise a file of false ones would be copied for each.
    let mut found = Vec::new();
    let at = line.find("<<").unwrap_or(0);
    for word in &words {
        let marker =
            marker(word).map_err(|e| SyntaxError::ast(at, format!("malformed heredoc {word}: {}", e.message)))?;
        let Some(mut marker) = marker else { continue };
        if let Some(body) = lines.take_body(&marker.name, marker.strip_tabs) {
            found.push((marker, body));
            continue;
        }
        let operator = marker.name.find([';', '|', '&', '(', ')', '<', '>']);
        let Some(operator) = operator.filter(|_| missing == Missing::Bend) else {
            let hint = format!("end it with a line that holds nothing but {}", marker.name);
            return Err(SyntaxError::ast(at, format!("unterminated heredoc: expected {}", marker.name)).hint(hint));
        };
        marker.name.truncate(operator);
        match lines.take_body(&marker.name, marker.strip_tabs).filter(|_| operator > 0) {
            Some(body) => found.push((marker, body)),
            None => {
                lines.reset(start);
                return Ok(Vec::new());
            }
        }
    }
    let heredoc = |(Marker { name, quoted, strip_tabs }, body): (Marker, &str)| Heredoc {
        name,
        quoted,
        strip_tabs,
        body: body.to_owned(),
    };
    Ok(found.into_iter().map(heredoc).collect())
}

/// The word of a heredoc that a line seems to begin with `<<- WORD`: shells take the blank, Dockerfiles do not (A.7 no. 2).
pub fn spaced_word(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("<<-")?;
    let word = after.strip_prefix([' ', '\t'])?.split_ascii_whitespace().next()?;
    (!before.ends_with('<') && word.starts_with(|c: char| c.is_alphanumeric() || "_'\"".contains(c))).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::super::lines::Source;
    use super::*;

    #[test]
    fn spaced_words() {
        let check = |line: &str, want: Option<&str>| assert_eq!(spaced_word(line), want, "{line}");
        check("RUN cat <<- EOF", Some("EOF"));
        check("RUN cat <<- \t'E F' >x", Some("'E"));
        check("COPY <<-\tEOF /x", Some("EOF"));
        check("RUN cat <<-EOF", None);
        check("RUN cat << EOF", None);
        check("RUN cat <<<- x", None);
        check("RUN echo $((1 <<- 2))", Some("2))"));
        check("RUN cat <<-", None);
        check("RUN cat <<- >x", None);
    }

    #[test]
    fn markers() {
        let check = |word: &str, want: Option<(&str, bool, bool)>| {
            let got = marker(word).unwrap();
            let got = got.as_ref().map(|m| (m.name.as_str(), m.quoted, m.strip_tabs));
            assert_eq!(got, want, "{word}");
        };
        check("<<EOF", Some(("EOF", false, false)));
        check("<<-EOF", Some(("EOF", false, true)));
        check("<< EOF", Some(("EOF", false, false)));
        check("<<- EOF", Some(("EOF", false, true)));
        check("3<<EOF", Some(("EOF", false, false)));
        check("<<'one two'", Some(("one two", true, false)));
        check("<<E\"O\"F", Some(("EOF", true, false)));
        check("<<\\EOF", Some(("EOF", false, false)));
        check("<<\\'EOF", Some(("'EOF", false, false)));
        check("<<$X", Some(("$X", false, false)));
        check("<<${X}", Some(("${X}", false, false)));
        check("<<file.txt", Some(("file.txt", false, false)));
        check("<<--EOF", Some(("-EOF", false, true)));
        check("<<", None);
        check("<<-", None);
        check("<<''", None);
        check("<<<X", None);
        check("<<A<<B", None);
        check("<<A B", None);
        check("a<<X", None);
        check("\"<<X\"", None);
        check("<X", None);
        check("12", None);
        check("<<\\\"X", Some(("\"X", false, false)));
        check("<< -X", Some(("-X", false, false)));
        check("<<- X", Some(("X", false, true)));
        check("<<\"a\"'b'", Some(("ab", true, false)));
        check("<<'$X'", Some(("$X", true, false)));
        check("<<\\$X", Some(("$X", false, false)));
        for malformed in ["<<\"X", "<<'X", "<<${X", "<<${X:-\"a"] {
            assert!(marker(malformed).is_err(), "{malformed}");
        }
    }

    #[test]
    fn bodies() {
        let check = |line: &str, file: &str, missing: Missing, want: &str, rest: &str| {
            let source = Source::new(file.as_bytes());
            let mut lines = Lines::new(&source, '\\');
            let shown = match take(line, &mut lines, missing) {
                Ok(found) => found.iter().map(|h| format!("{}:{};", h.name, h.body.escape_debug())).collect(),
                Err(error) => error.message,
            };
            assert_eq!(
                (shown.as_str(), lines.next_logical().map_or(String::new(), |l| l.text).as_str()),
                (want, rest),
                "{line}"
            );
        };
        use Missing::{Bend, Refuse};
        check("RUN cat <<A <<'B C'", "a\nA\nb\nB C\nr", Refuse, "A:a\\n;B C:b\\n;", "r");
        check("RUN cat <<-A", "\ta\n\tA\nr", Refuse, "A:\\ta\\n;", "r");
        check("RUN cat <<A", "A\r\nr", Refuse, "A:;", "r");
        check("RUN cat <<A", "A \nr", Bend, "unterminated heredoc: expected A", "A ");
        check("RUN cat <<A; x", "a\nA\nr", Bend, "A:a\\n;", "r");
        check("RUN cat <<A; x", "a\nA;\nr", Bend, "A;:a\\n;", "r");
        check("RUN cat <<A; cat <<B;", "a\nA\nb\nB\nr", Bend, "A:a\\n;B:b\\n;", "r");
        check("RUN cat <<A; cat <<B;", "a\nA\nb\nr", Bend, "", "a");
        check("RUN cat <<A>out", "a\nA\nr", Bend, "A:a\\n;", "r");
        check("COPY <<A; x", "a\nA\nr", Refuse, "unterminated heredoc: expected A;", "a");
        check("RUN echo $((1 << 2))", "r", Bend, "", "r");
        check("RUN echo $((1<<2))", "r", Bend, "", "r");
        check("RUN echo 'it <<X", "r", Bend, "", "r");
        check("RUN (cat <<(x", "r", Bend, "", "r");
        check("RUN cat <<${X:-'a b'}", "r", Bend, "malformed heredoc <<${X:-'a: unterminated single quote", "r");
        check("RUN cat <<${X:-a}", "a\n${X:-a}\nr", Bend, "${X:-a}:a\\n;", "r");
        check("RUN cat <<- A", "r", Bend, "", "r");
        check("RUN cat <<\"A\";", "a\nA\nr", Bend, "A:a\\n;", "r");
        check("RUN cat <<A<<B", "r", Bend, "", "r");
        check("RUN cat <<A", "a\n\tA\nA", Bend, "A:a\\n\\tA\\n;", "");
    }

    #[test]
    fn tabs() {
        let heredoc =
            |strip_tabs| Heredoc { name: "X".into(), quoted: false, strip_tabs, body: "\t\ta\tb\n \tc\n\t\n".into() };
        assert_eq!(heredoc(true).content(), "a\tb\n \tc\n\n");
        assert_eq!(heredoc(false).content(), "\t\ta\tb\n \tc\n\t\n");
    }
}
