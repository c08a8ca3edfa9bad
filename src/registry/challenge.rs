//! What does a 401 ask for? The `WWW-Authenticate` header, in its many forms.

/// A parsed `WWW-Authenticate`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scopes: Vec<String> },
}

/// The best of the challenges: Bearer before Basic.
pub fn choose(texts: &[&str]) -> Option<Challenge> {
    let all: Vec<Challenge> = texts.iter().flat_map(|text| parse_challenges(text)).collect();
    all.iter().find(|c| matches!(c, Challenge::Bearer { .. })).or(all.first()).cloned()
}

/// Challenges of one header (RFC 9110, section 11.6.1). What is malformed ends the list; what went before counts.
fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let word_end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end);
        if word.is_empty() {
            break;
        }
        let after = after.trim_start_matches([' ', '\t']);
        match after.strip_prefix('=') {
            Some(value) => {
                let Some((value, after)) = parse_value(value.trim_start_matches([' ', '\t'])) else { break };
                let Some((_, parameters)) = found.last_mut() else { break };
                parameters.push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            None => {
                found.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    found.into_iter().filter_map(|(scheme, parameters)| to_challenge(&scheme, parameters)).collect()
}

fn to_challenge(scheme: &str, parameters: Vec<(String, String)>) -> Option<Challenge> {
    let get = |key: &str| parameters.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            let scopes = parameters.iter().filter(|(k, _)| k == "scope");
            let scopes = scopes.flat_map(|(_, v)| v.split_ascii_whitespace()).map(str::to_owned).collect();
            Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scopes })
        }
        _ => None,
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A token or a quoted string, and what follows.
fn parse_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let check = |text: &str, want: &str| assert_eq!(format!("{:?}", choose(&[text])), want, "{text}");
        let bearer = |realm: &str, service: &str, scopes: &str| {
            format!("Some(Bearer {{ realm: {realm:?}, service: {service}, scopes: {scopes} }})")
        };
        check("Basic realm=\"x\"", "Some(Basic)");
        check("basic", "Some(Basic)");
        check(
            "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:x:pull,push repository:y:pull\"",
            &bearer("https://a/t", "Some(\"s\")", "[\"repository:x:pull,push\", \"repository:y:pull\"]"),
        );
        check("Bearer realm=https://a/t , service = s", &bearer("https://a/t", "Some(\"s\")", "[]"));
        check("Basic realm=\"x\", Bearer realm=\"https://a/t\"", &bearer("https://a/t", "None", "[]"));
        check("Bearer realm=\"https://a/t\", Basic realm=\"x\"", &bearer("https://a/t", "None", "[]"));
        check("Negotiate, NTLM, Basic realm=x", "Some(Basic)");
        check("Bearer realm=\"a\\\"b\"", &bearer("a\"b", "None", "[]"));
        check("Bearer service=\"no realm\"", "None");
        check("Bearer realm=\"unclosed", "None");
        check("Basic, Bearer realm=\"unclosed", "Some(Basic)");
        check("Digest realm=\"x\", nonce=\"y\"", "None");
        check("", "None");
        check(",,,", "None");
        check("=\"x\"", "None");
        check("\u{fc}", "None");
        assert_eq!(choose(&["Basic", "Bearer realm=r"]).map(|c| c != Challenge::Basic), Some(true));
        assert_eq!(choose(&[&"x=".repeat(1 << 19)]), None);
    }
}
