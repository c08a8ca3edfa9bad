//! Who else has these images? A small file maps registries, or parts of them, to mirrors that are tried first.
//!
//! One rule a line, `#` begins a comment: what is asked for, then the mirrors in the order in which to try them.
//!
//! ```text
//! docker.io            mirror.site.edu:5000
//! docker.io/library    mirror.site.edu:5000/hub   other.site.edu
//! ```
//!
//! The longest rule that fits wins; what it names is replaced by the mirror. The registry itself comes last. A mirror
//! is trusted with nothing: digests are verified whoever serves them, and credentials are its own.

use std::path::Path;

use super::{Endpoint, url};
use crate::error::{Context, Result, bail};

const OF_THE_SITE: &str = "/etc/ch-image/mirrors";
/// Largest file, bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where a repository may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub endpoint: Endpoint,
    /// May be empty in a rule, never in an answer.
    pub repository: String,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Mirrors {
    rules: Vec<(Place, Vec<Place>)>,
}

impl Mirrors {
    /// The table that was named has to be there; without one, the site's counts, if there is any.
    pub fn load(named: Option<&Path>) -> Result<Mirrors> {
        let path = named.unwrap_or(Path::new(OF_THE_SITE));
        match std::fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => return Ok(Mirrors::default()),
            Ok(about) if !about.is_file() || about.len() > MAX_FILE => {
                bail!("{}: not a table of mirrors", path.display())
            }
            Ok(_) | Err(_) => {}
        }
        let text = std::fs::read_to_string(path).context(|| format!("can't read {}", path.display()));
        let text = text.map_err(|e| match named {
            Some(_) => e.hint("$CH_IMAGE_MIRRORS names this table of mirrors"),
            None => e,
        })?;
        Mirrors::parse(&text, &path.display().to_string())
    }

    /// `name` is for messages.
    pub fn parse(text: &str, name: &str) -> Result<Mirrors> {
        let mut rules: Vec<(Place, Vec<Place>)> = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let about = || format!("{name}:{}", i + 1);
            let words: Vec<&str> = line.split('#').next().unwrap_or("").split_whitespace().collect();
            let [asked, mirrors @ ..] = &words[..] else { continue };
            let asked = place(asked).context(about)?;
            if mirrors.is_empty() {
                return Err(crate::error::Error::new("no mirror named").context(about()));
            }
            let same = |other: &Place| {
                other.repository == asked.repository && other.endpoint.is_same_registry(&asked.endpoint)
            };
            if rules.iter().any(|(other, _)| same(other)) {
                return Err(crate::error::Error::new("a second rule for the same").context(about()));
            }
            let mirrors: Result<Vec<_>> = mirrors.iter().map(|m| place(m)).collect();
            rules.push((asked, mirrors.context(about)?));
        }
        Ok(Mirrors { rules })
    }

    /// Where to look, in order; the last is the registry itself.
    pub fn lookup(&self, endpoint: &Endpoint, repository: &str) -> Vec<Place> {
        let fitting = self.rules.iter().filter_map(|(asked, mirrors)| {
            let rest = below(repository, &asked.repository).filter(|_| asked.endpoint.is_same_registry(endpoint))?;
            Some((asked.repository.len(), rest, mirrors))
        });
        let own = Place { endpoint: endpoint.clone(), repository: repository.to_owned() };
        let mut places = Vec::new();
        if let Some((_, rest, mirrors)) = fitting.max_by_key(|(length, ..)| *length) {
            for mirror in mirrors {
                let front = &mirror.repository;
                let repository = match (front.is_empty(), rest.is_empty()) {
                    (true, true) => continue,
                    (true, false) => rest.to_owned(),
                    (false, true) => front.clone(),
                    (false, false) => format!("{front}/{rest}"),
                };
                places.push(Place { endpoint: mirror.endpoint.clone(), repository });
            }
        }
        places.retain(|place| place.repository != own.repository || !place.endpoint.is_same_registry(endpoint));
        places.push(own);
        places
    }
}

/// What is left of `repository` below `prefix`, by whole components.
fn below<'a>(repository: &'a str, prefix: &str) -> Option<&'a str> {
    if prefix.is_empty() || repository == prefix {
        return repository.strip_prefix(prefix);
    }
    repository.strip_prefix(prefix)?.strip_prefix('/')
}

/// `HOST[:PORT][/PATH]`
fn place(text: &str) -> Result<Place> {
    let (host, path) = text.split_once('/').unwrap_or((text, ""));
    let plain = |part: &str| {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        !part.is_empty() && part != "." && part != ".." && part.chars().all(fine)
    };
    let path = path.trim_end_matches('/');
    if !path.is_empty() && !path.split('/').all(plain) {
        bail!("invalid path: {path:?}");
    }
    Ok(Place { endpoint: url::parse_host_port(host, 443)?, repository: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked_up(table: &str, host: &str, repository: &str) -> Vec<String> {
        let mirrors = Mirrors::parse(table, "mirrors").unwrap();
        let places = mirrors.lookup(&url::parse_host_port(host, 443).unwrap(), repository);
        places.iter().map(|p| format!("{}/{}", p.endpoint, p.repository)).collect()
    }

    #[test]
    fn longest_rule_wins_and_the_registry_is_last() {
        let table = "# site mirrors\n\
            hub.example            m:5000          # all of it\n\
            hub.example/library    m:5000/hub  n   \n\
            \n\
            hub.example:444        o\n";
        let check = |host: &str, repository: &str, want: &[&str]| {
            assert_eq!(looked_up(table, host, repository), want, "{host} {repository}")
        };
        check("hub.example", "a/b", &["m:5000/a/b", "hub.example:443/a/b"]);
        check("hub.example", "library/x", &["m:5000/hub/x", "n:443/x", "hub.example:443/library/x"]);
        check("hub.example", "library", &["m:5000/hub", "hub.example:443/library"]);
        check("hub.example", "libraryx/y", &["m:5000/libraryx/y", "hub.example:443/libraryx/y"]);
        check("hub.example:444", "x", &["o:443/x", "hub.example:444/x"]);
        check("other.example", "x", &["other.example:443/x"]);
        for asked in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
            let table = format!("{asked}  m:5000\n{asked}/library  n index.docker.io\n");
            for host in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
                let check = |repository: &str, mirror: &str| {
                    let want = [mirror.to_owned(), format!("{host}:443/{repository}")];
                    assert_eq!(looked_up(&table, host, repository), want, "{asked} {host}")
                };
                check("a/b", "m:5000/a/b");
            }
            assert_eq!(looked_up(&table, "docker.io:444", "a/b"), ["docker.io:444/a/b"]);
        }
        assert_eq!(looked_up("h h", "h", "x"), ["h:443/x"]);
        assert_eq!(looked_up("", "h", "x"), ["h:443/x"]);
    }

    #[test]
    fn errors_name_the_line() {
        let check = |table: &str, want: &str| {
            assert_eq!(Mirrors::parse(table, "/etc/m").unwrap_err().to_string(), want, "{table}")
        };
        check("\nh\n", "/etc/m:2: no mirror named");
        check("h m\nh n", "/etc/m:2: a second rule for the same");
        check("docker.io/a m\nregistry-1.docker.io/a n", "/etc/m:2: a second rule for the same");
        check("h:x m", "/etc/m:1: invalid port: \"x\"");
        check("h m/../x", "/etc/m:1: invalid path: \"../x\"");
        check("h https://m", "/etc/m:1: invalid path: \"/m\"");
        check("h/UP m", "/etc/m:1: invalid path: \"UP\"");
    }

    #[test]
    fn no_file_no_mirrors() {
        assert!(Mirrors::load(Some(Path::new("/no/such/file"))).is_err());
        assert!(Mirrors::load(Some(Path::new("/"))).is_err());
    }
}
