//! Text of a Dockerfile as it may be shown: URLs anywhere in it without passwords and tokens.
//!
//! Each character that is hidden becomes a star, so that columns stay what they are. Variables are shown: what is named
//! is no secret. Sources of ADD, which are URLs as a whole, have [`super::remote::shown`], which guesses less.

/// Parts of the names of parameters whose values are secrets.
const SECRET: [&str; 8] = ["auth", "credential", "key", "passw", "pwd", "secret", "sig", "token"];

pub fn conceal(text: &str) -> String {
    let mut shown: Vec<char> = text.chars().collect();
    let mut at = 0;
    while let Some(found) = shown[at..].windows(3).position(|three| three == [':', '/', '/']) {
        let start = at + found + 3;
        let is_end = |c: &char| c.is_whitespace() || c.is_control() || "'\"`<>\\".contains(*c);
        let end = shown[start..].iter().position(is_end).map_or(shown.len(), |length| start + length);
        hide_user(&mut shown[start..end]);
        hide_parameters(&mut shown[start..end]);
        at = start;
    }
    shown.into_iter().collect()
}

/// `user:password@`, or a token alone; of an URL from its host on.
fn hide_user(url: &mut [char]) {
    let host_end = url.iter().position(|c| "/?#".contains(*c)).unwrap_or(url.len());
    let at_sign = |part: &[char]| part.iter().rposition(|c| *c == '@');
    let is_port = |part: &[char]| {
        let port = part.rsplit(|c| *c == ':').next().unwrap_or_default();
        port.iter().all(|c| c.is_ascii_digit() || *c == ']')
    };
    let is_odd = url[..host_end].contains(&':') && !is_port(&url[..host_end]);
    // A password with a slash in it.
    let Some(end) = at_sign(&url[..host_end]).or_else(|| at_sign(url).filter(|_| is_odd)) else { return };
    let password = url[..end].iter().position(|c| *c == ':').map_or(0, |colon| colon + 1);
    let is_name = url[..end] == ['g', 'i', 't'];
    if !is_name && url[password] != '$' {
        hide(&mut url[..end]);
    }
}

fn hide_parameters(url: &mut [char]) {
    let Some(query) = url.iter().position(|c| *c == '?') else { return };
    for pair in url[query + 1..].split_mut(|c| "&#;".contains(*c)) {
        let Some(equals) = pair.iter().position(|c| *c == '=') else { continue };
        let name: String = pair[..equals].iter().collect::<String>().to_ascii_lowercase();
        let value = &mut pair[equals + 1..];
        let is_known = value.first().is_none_or(|c| *c == '$') || value.iter().copied().eq("REDACTED".chars());
        if !is_known && SECRET.iter().any(|part| name.contains(part)) {
            hide(value);
        }
    }
}

fn hide(part: &mut [char]) {
    part.fill('*');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_columns_stay() {
        let check = |text: &str, want: &str| {
            assert_eq!(conceal(text), want, "{text}");
            assert_eq!(text.chars().count(), want.chars().count());
        };
        check("ADD https://me:pw@h/a /b", "ADD https://*****@h/a /b");
        check("curl 'https://tökén@h:1/a@b' ftp://a:b@h", "curl 'https://*****@h:1/a@b' ftp://***@h");
        check("http://u:p/w@h/x", "http://*****@h/x");
        check("http://u:p@w@h/x?a=b@c", "http://*****@h/x?a=b@c");
        check("http://h:80/@scope/x http://[::1]:80/a@b", "http://h:80/@scope/x http://[::1]:80/a@b");
        check("ssh://git@h/x git@h:a/b", "ssh://git@h/x git@h:a/b");
        check("https://u:$TOKEN@h https://$USER@h", "https://u:$TOKEN@h https://$USER@h");
        check(
            "http://h/a?page=2&X-Amz-Signature=ab&access_token=c#d",
            "http://h/a?page=2&X-Amz-Signature=**&access_token=*#d",
        );
        check("http://h/?token=REDACTED&key=$K&sig=", "http://h/?token=REDACTED&key=$K&sig=");
        check("://@ ://:@ a://", "://@ ://*@ a://");
        check("http://a:b@c://d:e@f", "http://***@c://***@f");
        check("no URL, me:pw@h", "no URL, me:pw@h");
    }
}
