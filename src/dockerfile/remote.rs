//! Where does a source of ADD come from? (A.13 no. 7)

use std::fmt;

/// A source, by its text alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// A path in the context or in the tree of `--from`.
    Local(String),
    Url(String),
    Git(Git),
}

/// A repository, and which part of it at which commit; empty where not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Git {
    /// As written.
    text: String,
    pub repository: String,
    pub reference: String,
    pub directory: String,
}

/// For people: see [`shown`].
impl fmt::Display for Git {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&shown(&self.text))
    }
}

/// For people: see [`shown`].
impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Remote::Local(text) | Remote::Url(text) => f.write_str(&shown(text)),
            Remote::Git(git) => git.fmt(f),
        }
    }
}

/// Query keys whose values are no secret.
const SHOWN: &[&str] = &["branch", "checksum", "commit", "digest", "ref", "subdir", "tag"];

/// A source without what may be a secret in a URL: user information, and what the query says but for harmless keys.
pub fn shown(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (front, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = front.split_at(front.find('/').unwrap_or(front.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    // A password with a slash in it: where the host begins is anybody's guess.
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    let mut shown = match port.trim_end_matches(']').bytes().all(|b| b.is_ascii_hexdigit()) {
        true => format!("{scheme}://{host}{path}"),
        false => format!("{scheme}://REDACTED"),
    };
    for (i, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        shown.push(if i == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((key, _)) if !SHOWN.contains(&key) => shown.push_str(&format!("{key}=REDACTED")),
            Some(_) => shown.push_str(pair),
            None => shown.push_str("REDACTED"),
        }
    }
    let is_git = matches!(classify(text), Remote::Git(_));
    match (fragment.is_empty(), is_git) {
        (true, _) => {}
        (false, true) => shown.push_str(&format!("#{fragment}")),
        (false, false) => shown.push_str("#REDACTED"),
    }
    shown
}

pub fn classify(text: &str) -> Remote {
    let lower = text.to_ascii_lowercase();
    let http = lower.starts_with("http://") || lower.starts_with("https://");
    if text.starts_with("git@") && text.contains(':') || lower.starts_with("git://") || lower.starts_with("ssh://") {
        return Remote::Git(git(text));
    }
    let path = &text[..text.find(['#', '?']).unwrap_or(text.len())];
    match http {
        true if path.ends_with(".git") => Remote::Git(git(text)),
        true => Remote::Url(text.to_owned()),
        false => Remote::Local(text.to_owned()),
    }
}

/// Takes apart `REPOSITORY[?ref=REF&subdir=DIR][#REF[:DIR]]`.
fn git(text: &str) -> Git {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (repository, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
    let mut git = Git {
        text: text.to_owned(),
        repository: repository.to_owned(),
        reference: reference.to_owned(),
        directory: directory.to_owned(),
    };
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match key {
            "ref" | "branch" | "tag" | "commit" if git.reference.is_empty() => git.reference = value.to_owned(),
            "subdir" if git.directory.is_empty() => git.directory = value.to_owned(),
            _ => {}
        }
    }
    git
}

/// The name of the file that a URL gives when the destination is a directory; empty if its path ends in a slash.
pub fn file_name(url: &str) -> &str {
    let path = &url[..url.find(['#', '?']).unwrap_or(url.len())];
    let after_scheme = path.split_once("://").map_or(path, |(_, rest)| rest);
    match after_scheme.split_once('/') {
        Some((_, path)) => path.rsplit('/').next().unwrap_or_default(),
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let check = |text: &str, want: &str| assert_eq!(shown(text), want, "{text}");
        check("https://me:pw@h/a?token=x", "https://h/a?token=REDACTED");
        check("https://token@h:8080/a#b", "https://h:8080/a#REDACTED");
        check("http://h/a@b", "http://h/a@b");
        check("http://[::1]:80/a", "http://[::1]:80/a");
        check("http://[::1]/a", "http://[::1]/a");
        check("https://me:p/w@h/a", "https://REDACTED");
        check("https://me:p#w@h/a", "https://REDACTED#REDACTED");
        check("https://me:p@w@h/a?secret", "https://h/a?REDACTED");
        check("https://h/a?digest=1&sig=2&&=3", "https://h/a?digest=1&sig=REDACTED&=REDACTED");
        check("https://u:p@h/a.git?ref=v1&key=k#main:d", "https://h/a.git?ref=v1&key=REDACTED#main:d");
        check("ftp://u:p@h/a", "ftp://h/a");
        check("git@h:a/b.git#x", "git@h:a/b.git#x");
        check("a/b@c", "a/b@c");
    }

    #[test]
    fn sources() {
        let check = |text: &str, want: &str| {
            let got = match classify(text) {
                Remote::Local(path) => format!("local {path}"),
                Remote::Url(url) => format!("url {}", file_name(&url)),
                Remote::Git(git) => format!("git {} {} {}", git.repository, git.reference, git.directory),
            };
            assert_eq!(got, want, "{text}");
        };
        check("a/b", "local a/b");
        check("github.com/a/b", "local github.com/a/b");
        check("ftp://a/b", "local ftp://a/b");
        check("http://h/a/b.tar?x=/y", "url b.tar");
        check("HTTPS://h", "url ");
        check("https://h/a/", "url ");
        check("https://h/a.git", "git https://h/a.git  ");
        check("https://h/a.git#v1:sub/d", "git https://h/a.git v1 sub/d");
        check("https://h/a.git?ref=v1&subdir=d", "git https://h/a.git v1 d");
        check("https://h/a.gitx", "url a.gitx");
        check("git@h:a/b.git#x", "git git@h:a/b.git x ");
        check("git://h/a", "git git://h/a  ");
        check("ssh://u@h/a", "git ssh://u@h/a  ");
        check("git@h", "local git@h");
    }
}
