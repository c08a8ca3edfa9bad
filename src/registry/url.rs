//! Where does a request go, and is that still the same place? URLs of the two schemes that we speak.
//!
//! Secrets belong to an [`Origin`]. A URL of this type holds no user information, no fragment and no character that
//! could end a header line; `Display` hides what a log must not show, so an unredacted URL has to be asked for.

use std::fmt;
use std::net::IpAddr;

use super::Endpoint;
use crate::error::{Result, bail};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    Http,
    Https,
}

/// What a secret may be bound to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Origin {
    pub scheme: Scheme,
    pub endpoint: Endpoint,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Url {
    origin: Origin,
    /// Begins with `/`; visible ASCII.
    path: String,
    /// Without `?`.
    query: Option<String>,
}

/// Query keys whose values are worth reading in a log and are no secret.
const SHOWN: &[&str] = &["digest", "from", "mount", "n", "scope", "service"];
/// Longest URL that is followed (signed URLs reach 3 KiB).
const MAX_URL: usize = 16 << 10;

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

impl Origin {
    pub fn new(scheme: Scheme, endpoint: &Endpoint) -> Origin {
        Origin { scheme, endpoint: endpoint.clone() }
    }

    /// `path` begins with `/`, is made by us, and may have a query.
    pub fn url(&self, path: &str) -> Result<Url> {
        Url::from_parts(self.clone(), path)
    }
}

impl Url {
    /// Absolute `http` and `https` URLs. User information is dropped, as is the fragment.
    pub fn parse(text: &str) -> Result<Url> {
        let Some((scheme, rest)) = text.split_once("://") else { bail!("not an absolute URL") };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => bail!("unsupported URL scheme {other:?}"),
        };
        Url::after_scheme(scheme, rest)
    }

    /// What a `Location` header means, seen from here (RFC 3986, section 5).
    pub fn join(&self, location: &str) -> Result<Url> {
        let location = location.trim();
        if location.is_empty() {
            bail!("empty URL");
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Url::after_scheme(self.origin.scheme, rest);
        }
        if location.starts_with('/') {
            return Url::from_parts(self.origin.clone(), location);
        }
        if location.starts_with('?') {
            return Url::from_parts(self.origin.clone(), &format!("{}{location}", self.path));
        }
        let first = location.split(['/', '?', '#']).next().unwrap_or("");
        if first.contains(':') {
            return Url::parse(location);
        }
        let mut folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut rest = location;
        loop {
            if let Some(below) = rest.strip_prefix("./") {
                rest = below;
            } else if let Some(beside) = rest.strip_prefix("../") {
                folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
                rest = beside;
            } else {
                return Url::from_parts(self.origin.clone(), &format!("{folder}/{rest}"));
            }
        }
    }

    fn after_scheme(scheme: Scheme, rest: &str) -> Result<Url> {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let host_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let endpoint = match parse_host_port(host_port, scheme.default_port()) {
            // What is taken for the host may be a part of a password with a slash in it.
            Err(_) if rest.contains('@') => bail!("invalid host name or port"),
            parsed => parsed?,
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Url::from_parts(Origin { scheme, endpoint }, &path)
    }

    fn from_parts(origin: Origin, path: &str) -> Result<Url> {
        let path = path.split('#').next().unwrap_or("");
        if path.len() > MAX_URL {
            bail!("URL of {} bytes (limit {MAX_URL})", path.len());
        }
        if let Some(bad) = path.chars().find(|c| !c.is_ascii_graphic()) {
            bail!("URL with character {bad:?}");
        }
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (path, None),
        };
        Ok(Url { origin, path: path.to_owned(), query })
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// With `key=value` added, the value encoded.
    pub fn with_query(mut self, key: &str, value: &str) -> Url {
        let query = self.query.get_or_insert_default();
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(&format!("{key}={}", encode(value)));
        self
    }

    /// The whole URL, secrets included: for the wire, not for people.
    pub fn expose(&self) -> String {
        let query = self.query.as_ref().map_or(String::new(), |q| format!("?{q}"));
        format!("{}{}{query}", self.origin, self.path)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.endpoint)
    }
}

/// For people: values of the query are hidden unless known to be harmless (signed URLs are passwords).
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)?;
        for (i, pair) in self.query.iter().flat_map(|q| q.split('&')).enumerate() {
            let separator = if i == 0 { '?' } else { '&' };
            match pair.split_once('=') {
                Some((key, _)) if !SHOWN.contains(&key) => write!(f, "{separator}{key}=REDACTED")?,
                Some(_) => write!(f, "{separator}{pair}")?,
                // A bare word may be a key or a secret.
                None => write!(f, "{separator}REDACTED")?,
            }
        }
        Ok(())
    }
}

/// `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT`.
pub fn parse_host_port(text: &str, default_port: u16) -> Result<Endpoint> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((host, after)) = rest.split_once(']') else { bail!("host without closing bracket: {text:?}") };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                bail!("invalid IPv6 address: {host:?}");
            }
            (host, after.strip_prefix(':').or(if after.is_empty() { None } else { Some(after) }))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if host.is_empty() || host.len() > 253 || (!text.starts_with('[') && !host.chars().all(plain)) {
        bail!("invalid host name: {host:?}");
    }
    let port = match port {
        None | Some("") => default_port,
        Some(p) if p.bytes().all(|b| b.is_ascii_digit()) => match p.parse() {
            Ok(p) if p > 0 => p,
            _ => bail!("invalid port: {p:?}"),
        },
        Some(p) => bail!("invalid port: {p:?}"),
    };
    Ok(Endpoint::new(host, port))
}

pub fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback()),
        Ok(IpAddr::V4(v4)) => v4.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Percent-encoding of all but the unreserved characters (RFC 3986, section 2.3) and `/`, `:`, `,`, which are
/// legal in a query and common in scopes and digests.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b',' => {
                out.push(b as char)
            }
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_and_refuse() {
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(Url::parse(text).ok().map(|u| u.expose()).as_deref(), want, "{text:?}")
        };
        check("https://h/p", Some("https://h:443/p"));
        check("HTTPS://H.Example/P?q=1#f", Some("https://h.example:443/P?q=1"));
        check("http://h:8080", Some("http://h:8080/"));
        check("https://h?q", Some("https://h:443/?q"));
        check("https://a:b@h/x", Some("https://h:443/x"));
        check("https://[::1]:5000/x", Some("https://[::1]:5000/x"));
        check("file:///etc/passwd", None);
        check("ftp://h/", None);
        check("https:///x", None);
        check("https://h:0/", None);
        check("https://h:99999/", None);
        check("https://h:-1/", None);
        check("https://h/\r\nX: y", None);
        check("https://h/ü", None);
        check("https://h x/", None);
        check("https://[::1/x", None);
        check("https://[x]/", None);
        check("https://h%00/", None);
        check("mailto:x", None);
        check("", None);
    }

    #[test]
    fn locations_are_relative_to_the_request() {
        let base = Url::parse("https://r.example:5000/v2/a/blobs/uploads/?x=1").unwrap();
        let check = |location: &str, want: Option<&str>| {
            assert_eq!(base.join(location).ok().map(|u| u.expose()).as_deref(), want, "{location:?}")
        };
        check("/v2/b?_state=s", Some("https://r.example:5000/v2/b?_state=s"));
        check("uuid", Some("https://r.example:5000/v2/a/blobs/uploads/uuid"));
        check("./uuid?x=../y", Some("https://r.example:5000/v2/a/blobs/uploads/uuid?x=../y"));
        check("../uploads/uuid", Some("https://r.example:5000/v2/a/blobs/uploads/uuid"));
        check("../../../../../../b", Some("https://r.example:5000/b"));
        check("?y=2", Some("https://r.example:5000/v2/a/blobs/uploads/?y=2"));
        check("//other/x", Some("https://other:443/x"));
        check("http://other/x", Some("http://other:80/x"));
        check(" https://u:p@other/x ", Some("https://other:443/x"));
        check("file:///etc/passwd", None);
        check("javascript:alert(1)", None);
        check("", None);
        check("/a b", None);
    }

    #[test]
    fn people_see_no_secrets() {
        let url = Url::parse("https://s3/x?X-Amz-Signature=abc&digest=sha256:1&plain&token=t").unwrap();
        assert_eq!(
            url.to_string(),
            "https://s3:443/x?X-Amz-Signature=REDACTED&digest=sha256:1&REDACTED&token=REDACTED"
        );
    }

    #[test]
    fn query_values_cannot_add_keys() {
        let url = Url::parse("https://a/t?x=1").unwrap().with_query("service", "s&scope=evil r");
        assert_eq!(url.expose(), "https://a:443/t?x=1&service=s%26scope%3Devil%20r");
    }

    #[test]
    fn loopback() {
        for yes in ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["128.0.0.1", "localhost.example", "::2", "127.0.0.1.example", "10.0.0.1"] {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
