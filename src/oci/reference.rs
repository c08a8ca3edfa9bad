//! Which image is meant? References `[HOST[:PORT]/][PATH/…]NAME[:TAG][@sha256:HEX]`.
//!
//! One text has two readings, because the first component may be a host or part of the path. Both are tried; the first
//! component is a host if it has a dot, a port or an upper-case letter, is `localhost` or an IPv6 address in brackets.
//! Of two failures the one that got further is shown, so the position is the first character that no reading can take.
//!
//! Three names come out of a reference: what the registry is asked for ([`ImageRef::registry`],
//! [`ImageRef::repository`]), what the image is called in storage ([`ImageRef::storage_name`]: equal images have equal
//! names) and the name of its file there ([`ImageRef::file_name`]: `/` is `%`, `:` is `+`).
//!
//! A URL scheme (`docker://`, `https://`) is taken and means nothing: there is only https.
//!
//! Deliberately absent: digests other than SHA-256, international host names.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::digest::Digest;
use crate::error::{Error, Result, bail};

/// Where Docker Hub's registry answers.
pub const HUB: &str = "registry-1.docker.io";
/// Names under which people know Docker Hub.
const HUB_ALIASES: [&str; 3] = [HUB, "docker.io", "index.docker.io"];
const HTTPS: u16 = 443;
/// Host and path together, bytes (distribution specification).
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;
/// Longest file name that storage makes of a reference, bytes; it appends a suffix.
const MAX_FILE_NAME: usize = 200;
const HINT: &str = "write [HOST[:PORT]/][PATH/]NAME[:TAG][@sha256:DIGEST], e.g. debian:bookworm or registry.example.com:5000/group/app:1.2";

/// A reference to an image, as it was written: nothing filled in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageRef {
    host: Option<String>,
    port: Option<u16>,
    path: Vec<String>,
    name: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Whose grammar a reference follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grammar {
    /// What the command line takes: components may begin and end with `_`, hold `..`, and so on.
    Local,
    /// The distribution specification, as Docker checks it.
    Distribution,
}

impl ImageRef {
    /// Reads a reference; `%` stands for `/` and `+` for `:`, so that names of files in storage are accepted too.
    pub fn parse(text: &str) -> Result<ImageRef> {
        read(&without_scheme(&text.replace('%', "/").replace('+', ":")), Grammar::Local)
    }

    /// Reads a reference as Docker does in a Dockerfile: the stricter grammar of the distribution specification.
    pub fn parse_strict(text: &str) -> Result<ImageRef> {
        read(text, Grammar::Distribution)
    }

    /// As written, without brackets around an IPv6 address.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Whether Docker Hub serves this image.
    pub fn is_hub(&self) -> bool {
        match &self.host {
            None => true,
            Some(host) => {
                self.port.unwrap_or(HTTPS) == HTTPS && HUB_ALIASES.iter().any(|alias| alias.eq_ignore_ascii_case(host))
            }
        }
    }

    /// Host and port to talk to. The host of an IPv6 address has no brackets.
    pub fn registry(&self) -> (String, u16) {
        match &self.host {
            Some(host) if !self.is_hub() => (host.to_ascii_lowercase(), self.port.unwrap_or(HTTPS)),
            _ => (HUB.to_owned(), HTTPS),
        }
    }

    /// Path and name as the registry knows them: `library/debian`.
    pub fn repository(&self) -> String {
        match self.path.is_empty() {
            true if self.is_hub() => format!("library/{}", self.name),
            true => self.name.clone(),
            false => format!("{}/{}", self.path.join("/"), self.name),
        }
    }

    pub fn has_digest(&self) -> bool {
        self.digest.is_some()
    }

    /// What to ask the registry for: the digest if there is one, else the tag, else `latest`.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// With nothing left out: `registry-1.docker.io:443/library/debian:buster`.
    pub fn canonical_remote(&self) -> String {
        let (host, port) = self.registry();
        format!("{}:{port}/{}{}", bracketed(&host), self.repository(), self.suffix())
    }

    /// The name that a stage of a build of this image has.
    pub fn stage(&self, number: usize) -> Result<ImageRef> {
        let name = self.storage_name();
        let (path, version) = match name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path.to_owned(), format!(":{tag}")),
            _ => (name.clone(), String::new()),
        };
        let path = path.split('@').next().unwrap_or(&path);
        ImageRef::parse(&format!("{path}/_stage{number}{version}"))
    }

    /// The one text under which storage keeps this image: `docker.io/library/alpine` is `alpine:latest`.
    pub fn storage_name(&self) -> String {
        let mut full = String::new();
        if let (Some(host), false) = (&self.host, self.is_hub()) {
            let lower = host.to_ascii_lowercase();
            // Without its upper case or its port, such a host would read as a path.
            let stands_alone = is_host(&lower, None);
            full += &bracketed(if stands_alone { &lower } else { host });
            match self.port {
                Some(HTTPS) if stands_alone => {}
                Some(port) => full += &format!(":{port}"),
                None => {}
            }
            full.push('/');
        }
        let path = match self.path.as_slice() {
            [library] if library == "library" && self.is_hub() => &[],
            path => path,
        };
        for component in path {
            full += component;
            full.push('/');
        }
        full + &self.name + &self.suffix()
    }

    /// The storage name as the name of a file: injective, no `/` or `:`. Too long a name is an error.
    pub fn file_name(&self) -> Result<String> {
        let name = encode(&self.storage_name());
        if name.len() > MAX_FILE_NAME {
            bail!("image name too long for storage: {} characters (limit {MAX_FILE_NAME}): {self}", name.len());
        }
        Ok(name)
    }

    /// What `pull --parse-only` prints.
    pub fn parse_report(&self) -> String {
        let quoted = |s: &str| format!("'{s}'");
        let or_none = |s: Option<String>| s.unwrap_or_else(|| "None".to_owned());
        let path: Vec<String> = self.path.iter().map(|c| quoted(c)).collect();
        format!(
            "as string:    {self}\nfor filename: {}\nfields:\n  host    {}\n  port    {}\n  path    [{}]\n  name    {}\n  tag     {}\n  digest  {}\n",
            encode(&self.to_string()),
            or_none(self.host.as_deref().map(quoted)),
            or_none(self.port.map(|p| p.to_string())),
            path.join(", "),
            quoted(&self.name),
            or_none(self.tag.as_deref().map(quoted)),
            or_none(self.digest.map(|d| quoted(&d.hex()))),
        )
    }

    /// Tag and digest; without either, the default tag.
    fn suffix(&self) -> String {
        match (&self.tag, &self.digest) {
            (None, None) => ":latest".to_owned(),
            (Some(tag), None) => format!(":{tag}"),
            (None, Some(digest)) => format!("@{digest}"),
            (Some(tag), Some(digest)) => format!(":{tag}@{digest}"),
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(host) = &self.host {
            f.write_str(&bracketed(host))?;
            if let Some(port) = self.port {
                write!(f, ":{port}")?;
            }
            f.write_str("/")?;
        }
        for component in &self.path {
            write!(f, "{component}/")?;
        }
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<ImageRef> {
        ImageRef::parse(text)
    }
}

/// Name of the image that `build` makes if `-t` does not say (manual page, `-t`). `dockerfile` is the path of the
/// Dockerfile, `context` the absolute path of the context directory.
pub fn tag_from_name(dockerfile: &str, context: &str) -> Result<String> {
    let last = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let file = last(dockerfile);
    let context = context.trim_end_matches('/');
    let directory = if context.is_empty() { "root".to_owned() } else { last(context) };
    let candidates = [file.strip_prefix("Dockerfile."), file.strip_suffix(".dockerfile"), Some(&directory)];
    for candidate in candidates.into_iter().flatten() {
        let name = inferred(candidate);
        if !name.is_empty() {
            return Ok(format!("{name}:latest"));
        }
    }
    Err(Error::new(format!("can't infer image name from {dockerfile} and {directory}")).hint("use -t NAME"))
}

/// Lower case, invalid characters stripped, also those that may not come first.
fn inferred(text: &str) -> String {
    let valid: String = text.to_lowercase().chars().filter(|c| c.is_ascii() && is_inner(*c as u8)).collect();
    valid.trim_start_matches(['.', '-']).to_owned()
}

fn encode(text: &str) -> String {
    text.replace('/', "%").replace(':', "+")
}

/// IPv6 addresses are the only hosts with colons.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Whether a first component is a host rather than part of the path.
fn is_host(host: &str, port: Option<u16>) -> bool {
    port.is_some() || host == "localhost" || host.bytes().any(|b| b == b'.' || b == b':' || b.is_ascii_uppercase())
}

/// A reference as other programs and browsers have it: `docker://NAME`, `https://HOST/NAME`, pages of Docker Hub.
fn without_scheme(text: &str) -> String {
    let hub = "https://hub.docker.com/";
    if let Some(page) = text.strip_prefix(hub).and_then(|rest| rest.strip_prefix("_/").or(rest.strip_prefix("r/"))) {
        return page.trim_end_matches('/').to_owned();
    }
    match (text.strip_prefix("docker://"), text.strip_prefix("https://").and_then(|rest| rest.split_once('/'))) {
        (Some(rest), _) => rest.to_owned(),
        // Without dot or port it would be part of a path.
        (None, Some((host, path))) if !is_host(host, None) && !host.contains([':', '[']) => {
            format!("{host}:443/{path}")
        }
        (None, Some((host, path))) => format!("{host}/{path}"),
        (None, None) => text.to_owned(),
    }
}

fn read(text: &str, grammar: Grammar) -> Result<ImageRef> {
    let with_host = Reader { text, at: 0, grammar }.parse_with_host();
    let without = Reader { text, at: 0, grammar }.parse_remote(None, None);
    // `my_.site/x` must not be looked for on Docker Hub because its host is malformed.
    let first = text.split_once('/').map_or("", |(first, _)| first);
    let at = match (with_host, without) {
        (Ok(image), _) if is_host(image.host.as_deref().unwrap_or_default(), image.port) => return checked(image),
        (Err(at), Ok(_)) if first.contains(['.', ':']) => at,
        (_, Ok(image)) => return checked(image),
        (Ok(_), Err(at)) => at,
        (Err(a), Err(b)) => a.max(b),
    };
    let place = match text.get(at..) {
        None | Some("") => "at end".to_owned(),
        Some(_) => format!("char {}", text[..at].chars().count() + 1),
    };
    let error = Error::new(format!("image ref syntax, {place}: {text}"));
    Err(match text.get(at..).and_then(|rest| rest.bytes().next()) {
        Some(b) if b.is_ascii_uppercase() => error.hint(format!("NAME and PATH are in lower case; {HINT}")),
        // Up to its end it could be a host.
        None if !text.contains([':', '@']) && text.bytes().any(|b| b.is_ascii_uppercase()) => {
            error.hint(format!("NAME and PATH are in lower case; {HINT}"))
        }
        Some(b'/') if text[..at].ends_with(':') => error.hint(format!("without a scheme such as https://; {HINT}")),
        _ => error.hint(HINT),
    })
}

fn checked(image: ImageRef) -> Result<ImageRef> {
    let path: usize = image.path.iter().map(|c| c.len() + 1).sum();
    let length = image.host.as_ref().map_or(0, |h| h.len() + 1) + path + image.name.len();
    if length > MAX_NAME {
        bail!("image name too long: {length} characters (limit {MAX_NAME}): {image}");
    }
    Ok(image)
}

fn is_inner(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-')
}

/// Reads from left to right. A failure is the byte offset of the first character that cannot be taken.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    grammar: Grammar,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn accept(&mut self, token: u8) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, token: u8) -> Result<(), usize> {
        if self.accept(token) { Ok(()) } else { Err(self.at) }
    }

    /// Takes what `ok` allows; nothing taken is a failure.
    fn expect_run(&mut self, ok: impl Fn(u8) -> bool) -> Result<&str, usize> {
        let start = self.at;
        while self.peek().is_some_and(&ok) {
            self.at += 1;
        }
        if self.at == start { Err(start) } else { Ok(&self.text[start..self.at]) }
    }

    fn parse_with_host(mut self) -> Result<ImageRef, usize> {
        let host = if self.accept(b'[') { self.parse_address()? } else { self.parse_host()? };
        let port = if self.accept(b':') { Some(self.parse_port()?) } else { None };
        self.expect(b'/')?;
        self.parse_remote(Some(host), port)
    }

    fn parse_address(&mut self) -> Result<String, usize> {
        let address = self.expect_run(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.')?.to_owned();
        match address.parse::<Ipv6Addr>() {
            Ok(_) => self.expect(b']').map(|()| address),
            Err(_) => Err(self.at),
        }
    }

    /// Labels of letters, digits and inner `-` (and `_`, which some site's own names have).
    fn parse_host(&mut self) -> Result<String, usize> {
        let start = self.at;
        loop {
            if !self.peek().is_some_and(|b| b.is_ascii_alphanumeric()) {
                return Err(self.at);
            }
            let underscore = self.grammar == Grammar::Local;
            self.expect_run(|b| b.is_ascii_alphanumeric() || b == b'-' || (underscore && b == b'_'))?;
            if !self.text.as_bytes()[self.at - 1].is_ascii_alphanumeric() {
                return Err(self.at);
            }
            if !self.accept(b'.') {
                return Ok(self.text[start..self.at].to_owned());
            }
        }
    }

    fn parse_port(&mut self) -> Result<u16, usize> {
        let start = self.at;
        let digits = self.expect_run(|b| b.is_ascii_digit())?;
        match digits.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(start),
        }
    }

    fn parse_remote(mut self, host: Option<String>, port: Option<u16>) -> Result<ImageRef, usize> {
        let mut path = vec![self.parse_component()?];
        while self.accept(b'/') {
            path.push(self.parse_component()?);
        }
        let name = path.pop().ok_or(self.at)?;
        let tag = if self.accept(b':') { Some(self.parse_tag()?) } else { None };
        let digest = if self.accept(b'@') { Some(self.parse_digest()?) } else { None };
        if self.at < self.text.len() {
            return Err(self.at);
        }
        Ok(ImageRef { host, port, path, name, tag, digest })
    }

    fn parse_component(&mut self) -> Result<String, usize> {
        let start = self.at;
        if self.grammar == Grammar::Local {
            if self.peek().is_some_and(|b| b == b'.' || b == b'-') {
                return Err(self.at);
            }
            return self.expect_run(is_inner).map(str::to_owned);
        }
        loop {
            self.expect_run(|b| b.is_ascii_lowercase() || b.is_ascii_digit())?;
            let _ = match self.peek() {
                Some(b'.') => self.accept(b'.'),
                Some(b'_') => self.accept(b'_') && self.accept(b'_'),
                Some(b'-') => self.expect_run(|b| b == b'-').is_ok(),
                _ => return Ok(self.text[start..self.at].to_owned()),
            };
        }
    }

    fn parse_tag(&mut self) -> Result<String, usize> {
        let start = self.at;
        if self.peek().is_some_and(|b| b == b'.' || b == b'-') {
            return Err(self.at);
        }
        let tag = self.expect_run(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))?;
        if tag.len() > MAX_TAG { Err(start + MAX_TAG) } else { Ok(tag.to_owned()) }
    }

    fn parse_digest(&mut self) -> Result<Digest, usize> {
        for token in *b"sha256:" {
            self.expect(token)?;
        }
        let start = self.at;
        let hex = self.expect_run(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))?;
        match Digest::from_hex(hex) {
            Ok(digest) => Ok(digest),
            Err(_) => Err(self.at.min(start + 64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// As they are copied from other programs and from a browser.
    #[test]
    fn schemes_are_taken() {
        let check = |text: &str, want: &str| {
            assert_eq!(ImageRef::parse(text).map(|image| image.storage_name()), Ok(want.to_owned()), "{text}");
        };
        check("docker://debian", "debian:latest");
        check("docker://example.org/a:1", "example.org/a:1");
        check("https://example.org:5000/a/b:1", "example.org:5000/a/b:1");
        check("https://host/a", "host:443/a:latest");
        check("https://hub.docker.com/_/debian", "debian:latest");
        check("https://hub.docker.com/r/user/app/", "user/app:latest");
    }

    #[test]
    fn references_and_their_names() {
        // written | canonical remote | storage name | file name
        let check = |text: &str, remote: &str, storage: &str, file: &str| {
            let text = text.replace("HEX", HEX);
            let image = ImageRef::parse(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(image.to_string(), text.replace('%', "/").replace('+', ":"), "{text}");
            assert_eq!(image.canonical_remote(), remote.replace("HEX", HEX), "{text}");
            assert_eq!(image.storage_name(), storage.replace("HEX", HEX), "{text}");
            assert_eq!(image.file_name().unwrap(), file.replace("HEX", HEX), "{text}");
            let again = ImageRef::parse(&image.storage_name()).unwrap();
            assert_eq!(again.storage_name(), image.storage_name(), "{text}");
            assert_eq!(again.canonical_remote(), image.canonical_remote(), "{text}");
            assert_eq!(ImageRef::parse(&image.file_name().unwrap()).unwrap(), again, "{text}");
        };
        let hub = "registry-1.docker.io:443";
        check("alpine", &format!("{hub}/library/alpine:latest"), "alpine:latest", "alpine+latest");
        check("alpine:3.9", &format!("{hub}/library/alpine:3.9"), "alpine:3.9", "alpine+3.9");
        check("a/b", &format!("{hub}/a/b:latest"), "a/b:latest", "a%b+latest");
        check("a%b+1", &format!("{hub}/a/b:1"), "a/b:1", "a%b+1");
        check("docker.io/alpine", &format!("{hub}/library/alpine:latest"), "alpine:latest", "alpine+latest");
        check("docker.io/library/alpine", &format!("{hub}/library/alpine:latest"), "alpine:latest", "alpine+latest");
        check("index.docker.io/a/b:c", &format!("{hub}/a/b:c"), "a/b:c", "a%b+c");
        check("registry-1.docker.io:443/x", &format!("{hub}/library/x:latest"), "x:latest", "x+latest");
        check("library/alpine", &format!("{hub}/library/alpine:latest"), "alpine:latest", "alpine+latest");
        check("docker.io:5000/x", "docker.io:5000/x:latest", "docker.io:5000/x:latest", "docker.io+5000%x+latest");
        check("localhost/x", "localhost:443/x:latest", "localhost/x:latest", "localhost%x+latest");
        check("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest", "localhost+5000%x+latest");
        check(
            "localhost+5000%00_tiny",
            "localhost:5000/00_tiny:latest",
            "localhost:5000/00_tiny:latest",
            "localhost+5000%00_tiny+latest",
        );
        check("localhost:5000", &format!("{hub}/library/localhost:5000"), "localhost:5000", "localhost+5000");
        check("quay.io/a/b/c", "quay.io:443/a/b/c:latest", "quay.io/a/b/c:latest", "quay.io%a%b%c+latest");
        check("Quay.IO:443/a", "quay.io:443/a:latest", "quay.io/a:latest", "quay.io%a+latest");
        check("host:443/a", "host:443/a:latest", "host:443/a:latest", "host+443%a+latest");
        check("Path/name", "path:443/name:latest", "Path/name:latest", "Path%name+latest");
        check("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest", "[++1]+5000%x+latest");
        check("[FE80::1]/x", "[fe80::1]:443/x:latest", "[fe80::1]/x:latest", "[fe80++1]%x+latest");
        check("a@sha256:HEX", &format!("{hub}/library/a@sha256:HEX"), "a@sha256:HEX", "a@sha256+HEX");
        check("a:b@sha256:HEX", &format!("{hub}/library/a:b@sha256:HEX"), "a:b@sha256:HEX", "a+b@sha256+HEX");
        check(
            "xn--e1afmkfd.xn--p1ai/x",
            "xn--e1afmkfd.xn--p1ai:443/x:latest",
            "xn--e1afmkfd.xn--p1ai/x:latest",
            "xn--e1afmkfd.xn--p1ai%x+latest",
        );
        check("_a/b_", &format!("{hub}/_a/b_:latest"), "_a/b_:latest", "_a%b_+latest");
    }

    #[test]
    fn errors_say_where() {
        let check = |text: &str, want: &str| {
            let text = text.replace("HEX", HEX);
            let e = ImageRef::parse(&text).expect_err(&text);
            assert_eq!(
                e.to_string(),
                format!("image ref syntax, {want}: {}", text.replace('%', "/").replace('+', ":"))
            );
            assert!(e.get_hint().is_some_and(|h| h.contains("NAME")), "{text}");
            assert!(!text.contains("Upper") || e.get_hint().unwrap().contains("lower case"), "{text}");
            assert!(!text.contains("://") || e.get_hint().unwrap().contains("scheme"), "{text}");
        };
        check("", "at end");
        check("name*", "char 5");
        check("name:", "at end");
        check("name/", "at end");
        check("name@", "at end");
        check("Upper", "at end");
        check("example.org/Upper/a", "char 13");
        check("http://example.org/a", "char 6");
        check("name@sha256:", "at end");
        check("name@sha256:abc", "at end");
        check("name@sha256:HEX0", "char 77");
        check("name@sha512:abc", "char 9");
        check("name@sha256:HEX:tag", "char 77");
        check(":tag", "char 1");
        check("@sha256:HEX", "char 1");
        check("/name", "char 1");
        check("a//b", "char 3");
        check("a%%b", "char 3");
        check("../x", "char 1");
        check("./x", "char 1");
        check("x/../y", "char 3");
        check("-rf", "char 1");
        check("Name", "at end");
        check("Name:tag", "char 6");
        check("A/B", "char 3");
        check("a/B", "char 3");
        check("host:99999/x", "char 11");
        check("host:0/x", "char 7");
        check("host:/x", "char 6");
        check("my_.site/x", "char 4");
        check("a-.b/x", "char 3");
        check("[::1]", "at end");
        check("[::g]/x", "char 4");
        check("[1.2.3.4]/x", "char 9");
        check("a b", "char 2");
        check("né", "char 2");
        check("a:.b", "char 3");
        check(&format!("a:{}", "t".repeat(129)), "char 131");
    }

    #[test]
    fn long_names_are_refused() {
        let long = |n: usize| ImageRef::parse(&"a".repeat(n));
        assert_eq!(long(300).unwrap_err().to_string().split(':').next(), Some("image name too long"));
        assert!(long(255).unwrap().file_name().unwrap_err().to_string().contains("limit 200"));
        assert!(long(150).unwrap().file_name().is_ok());
    }

    #[test]
    fn strict_grammar() {
        let check = |text: &str, ok: bool| assert_eq!(ImageRef::parse_strict(text).is_ok(), ok, "{text}");
        for good in ["a", "a.b", "a_b", "a__b", "a---b", "a.b/c", "a/b/c:t", "h:5/x", "localhost/x", "A/b", "a:B.c"] {
            check(good, true);
        }
        for bad in ["a..b", "a_", "_a", "a-", "a___b", "a._b", "a%b", "a+b", "h_h.x/a", "A", "a:", "a@b", "", "a/"] {
            check(bad, false);
        }
    }

    #[test]
    fn report() {
        let image = ImageRef::parse(&format!("h:5/a/b/n:t@sha256:{HEX}")).unwrap();
        let want = "as string:    h:5/a/b/n:t@sha256:HEX\nfor filename: h+5%a%b%n+t@sha256+HEX\nfields:\n  host    'h'\n  port    5\n  path    ['a', 'b']\n  name    'n'\n  tag     't'\n  digest  'HEX'\n";
        assert_eq!(image.parse_report(), want.replace("HEX", HEX));
        let want = "as string:    n\nfor filename: n\nfields:\n  host    None\n  port    None\n  path    []\n  name    'n'\n  tag     None\n  digest  None\n";
        assert_eq!(ImageRef::parse("n").unwrap().parse_report(), want);
    }

    #[test]
    fn inferred_names() {
        let check = |file: &str, context: &str, want: &str| {
            let name = tag_from_name(file, context).unwrap();
            assert_eq!(name, want, "{file} {context}");
            ImageRef::parse(&name).unwrap();
        };
        check("Dockerfile.@FOO.bar", "/c", "foo.bar:latest");
        check("x/y/Dockerfile.foo", "/c", "foo:latest");
        check("baz.@QUX.dockerfile", "/c", "baz.qux:latest");
        check("Dockerfile.dockerfile", "/c", "dockerfile:latest");
        check("Dockerfile", "/a/b/My Dir", "mydir:latest");
        check("Dockerfile", "/a/.hidden/", "hidden:latest");
        check("-", "/a/b", "b:latest");
        check("Dockerfile.", "/a/b", "b:latest");
        check("Dockerfile.@@", "/a/b", "b:latest");
        check("Dockerfile", "/", "root:latest");
        check("x/Dockerfile", "//", "root:latest");
        check("dockerfile.foo", "/c", "c:latest");
        assert!(tag_from_name("Dockerfile", "/@").is_err());
    }
}
