//! Documents from outside, read strictly: bounded in size and depth, no repeated keys, nothing before or after.
//!
//! Repeated keys are where two readers of one document disagree (the registry checks one `layers`, we unpack the
//! other). serde_json keeps the last and says nothing, so the text is looked at once more after parsing.

use std::collections::HashSet;

use serde_json::Value;

use crate::error::{Context, Error, Result, bail};

/// Largest manifest, index or configuration, bytes (containers/image has the same).
pub const MAX_DOCUMENT: usize = 4 << 20;
/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 64;
/// How much of a wrong value an error message shows, characters.
const MAX_SHOWN: usize = 80;

/// Parses a document of at most [`MAX_DOCUMENT`] bytes.
pub fn parse(bytes: &[u8]) -> Result<Value> {
    if bytes.len() > MAX_DOCUMENT {
        bail!("JSON document too large: {} bytes (limit {MAX_DOCUMENT})", bytes.len());
    }
    check_depth(bytes)?;
    let value = serde_json::from_slice(bytes).map_err(|e| Error::new(e.to_string())).context(|| "invalid JSON")?;
    check_keys(bytes)?;
    Ok(value)
}

/// A value for an error message: quoted, with control characters escaped, not long.
pub fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn check_depth(bytes: &[u8]) -> Result<()> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &b in bytes {
        match b {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            bail!("JSON nested more than {MAX_DEPTH} deep");
        }
    }
    Ok(())
}

/// `bytes` is valid JSON, so a string before a colon is a key of the innermost object.
fn check_keys(bytes: &[u8]) -> Result<()> {
    let mut open: Vec<HashSet<String>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' => open.push(HashSet::new()),
            b'}' => drop(open.pop()),
            b'"' => {
                let end = string_end(bytes, at);
                let is_key = bytes[end..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b':');
                if is_key && let Some(keys) = open.last_mut() {
                    // Decoded, because `"\u006cayers"` is `"layers"`.
                    let key: String = serde_json::from_slice(&bytes[at..end]).unwrap_or_default();
                    if keys.contains(&key) {
                        bail!("invalid JSON: key {} twice in one object", shown(&key));
                    }
                    keys.insert(key);
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Just past the closing quote of the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// M10 to M13
    #[test]
    fn strictness() {
        let check = |text: &[u8], fine: bool| {
            let shown = String::from_utf8_lossy(&text[..text.len().min(40)]).into_owned();
            assert_eq!(parse(text).is_ok(), fine, "{shown}")
        };
        check(br#" {"a":[1,{"a":2}],"b":{"a":"a","b":"\"a\":"}} "#, true);
        check(br#"{"a\"":1,"a":2}"#, true);
        check(br#"[{"a":1},{"a":1}]"#, true);
        check(br#"{"layers":[],"layers":[]}"#, false);
        check(br#"{"layers":[],"x":{"y":[{}]},"layers" :[]}"#, false);
        check(br#"{"x":[{"a":1,"b":"{","a":2}]}"#, false);
        check(br#"{"\u006cayers":[],"layers":[]}"#, false);
        check(br#"{"a":"\ud83d\ude00"}"#, true);
        check(br#"{"a":"\ud83d"}"#, false);
        check(b"\xef\xbb\xbf{}", false);
        check(b"{} x", false);
        check(b"{}{}", false);
        check(b"{}\0", false);
        check(b"{\"a\":\"\0\"}", false);
        check(b"{\"a\":\"\xff\"}", false);
        check(b"{\"a\":NaN}", false);
        check(b"{\"a\":1e999}", false);
        check(b"{\"a\":Infinity}", false);
        check(b"{'a':1}", false);
        check(b"{\"a\":1,}", false);
        check(b"", false);
        check(b"\"unclosed", false);
        check(b"\"unclosed\\", false);
        check("[".repeat(64).as_bytes(), false);
        check(format!("{}{}", "[".repeat(64), "]".repeat(64)).as_bytes(), true);
        check(format!("{}{}", "[".repeat(65), "]".repeat(65)).as_bytes(), false);
        check("[".repeat(100_000).as_bytes(), false);
        check("{\"a\":".repeat(100_000).as_bytes(), false);
        check(format!("\"{}\"", "[".repeat(1000)).as_bytes(), true);
        check(&[b' '; MAX_DOCUMENT + 1], false);
        check(&[&[b' '; MAX_DOCUMENT - 2], &b"{}"[..]].concat(), true);
    }

    #[test]
    fn wrong_values_are_shown_short_and_escaped() {
        assert_eq!(shown("a\x1b"), "\"a\\u{1b}\"");
        assert_eq!(shown(&"é".repeat(1000)).chars().count(), MAX_SHOWN + 3);
    }
}
