//! ADD of URLs: files of web servers, kept in storage so that the next build only asks whether they changed.
//!
//! With `--checksum` a file that was downloaded once is never asked for again. Without, the server is asked each time
//! whether what it sent (`ETag`, `Last-Modified`) still holds, as Docker does.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Build;
use crate::dockerfile::remote;
use crate::error::{Context, Error, Result};
use crate::log::info;
use crate::oci::digest::{Digest, Hasher, Hashing};
use crate::registry::download::{Answer, Download, Validators, Web};
use crate::registry::retry::Policy;
use crate::registry::settings::Settings;
use crate::storage::Draft;

/// Largest file that is downloaded, bytes.
const MAX_DOWNLOAD: u64 = 16 << 30;

/// A file of a web server, as far as it matters before it is needed.
pub struct WebFile {
    url: String,
    /// The name that it gets in a directory.
    pub name: String,
    /// By `--checksum`, or as it was downloaded.
    digest: Digest,
    time: Option<u64>,
    /// Whether it was downloaded from this URL already.
    is_here: bool,
}

impl WebFile {
    /// Finds out what the file is; downloads it unless its content is given (`sha256:…`) or known.
    pub fn find(build: &Build, url: &str, checksum: Option<&str>) -> Result<WebFile> {
        let failed = || format!("can't ADD {}", shown(url));
        let name = decode(remote::file_name(url)).context(failed)?;
        let key = Digest::of(url.as_bytes()).hex();
        let note = build.storage.web_note(&key).filter(|_| build.request.reuse_downloads);
        let note = note.and_then(|bytes| Note::parse(&bytes)).filter(|n| build.storage.web_file(&n.digest).is_file());
        if let Some(checksum) = checksum {
            let digest = checksum.parse::<Digest>().context(failed)?;
            let note = note.filter(|n| n.digest == digest);
            let (time, is_here) = (note.as_ref().and_then(|n| n.time), note.is_some());
            return Ok(WebFile { url: url.to_owned(), name, digest, time, is_here });
        }
        let note = match (ask(url, note.as_ref().map(|n| &n.validators)).context(failed)?, note) {
            (Answer::Is(download), _) => save(build, url, download).context(failed)?,
            (Answer::Unchanged, Some(note)) => note,
            (Answer::Unchanged, None) => return Err(Error::new("the server sent no data").context(failed())),
        };
        Ok(WebFile { url: url.to_owned(), name, digest: note.digest, time: note.time, is_here: true })
    }

    /// What the result depends on.
    pub fn identity(&self) -> String {
        self.digest.to_string()
    }

    /// A directory with nothing but the file, under its name, mode 0600.
    pub fn place(&self, build: &Build) -> Result<Draft> {
        let failed = || format!("can't ADD {}", shown(&self.url));
        let mut time = self.time;
        // It may have decayed since.
        if !self.is_here || !holds(&build.storage.web_file(&self.digest), &self.digest) {
            let Answer::Is(download) = ask(&self.url, None).context(failed)? else {
                return Err(Error::new("the server sent no data").context(failed()));
            };
            let note = save(build, &self.url, download).context(failed)?;
            let got = note.digest;
            time = note.time;
            if got != self.digest {
                return Err(Error::new(format!("digest mismatch: expected {} but got {got}", self.digest))
                    .context(failed())
                    .hint("the file does not match --checksum: find out who changed it"));
            }
        }
        let draft = build.storage.draft()?;
        let path = draft.path().join(if self.name.is_empty() { "file" } else { &self.name });
        fs::copy(build.storage.web_file(&self.digest), &path).context(failed)?;
        let set = || {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            let time = UNIX_EPOCH.checked_add(Duration::from_secs(time.unwrap_or(0))).unwrap_or(UNIX_EPOCH);
            File::options().write(true).open(&path)?.set_modified(time)
        };
        set().context(failed)?;
        Ok(draft)
    }
}

/// What was downloaded from a URL last time.
struct Note {
    validators: Validators,
    digest: Digest,
    time: Option<u64>,
}

impl Note {
    fn parse(bytes: &[u8]) -> Option<Note> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let validators = Validators { etag: text("etag"), last_modified: text("last-modified") };
        Some(Note { validators, digest: text("digest")?.parse().ok()?, time: value["time"].as_u64() })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let Validators { etag, last_modified } = &self.validators;
        let digest = self.digest.to_string();
        json!({"etag": etag, "last-modified": last_modified, "digest": digest, "time": self.time}).to_string().into()
    }
}

fn ask(url: &str, known: Option<&Validators>) -> Result<Answer> {
    let settings = Settings::from_vars(&|name| std::env::var(name).ok())?;
    Web::new(&settings, Policy::default())?.get(url, known)
}

fn save(build: &Build, url: &str, mut download: Download) -> Result<Note> {
    info!("downloading:  {}", shown(url));
    let too_long = || Error::new(format!("larger than {} GiB", MAX_DOWNLOAD >> 30));
    if download.length.is_some_and(|n| n > MAX_DOWNLOAD) {
        return Err(too_long());
    }
    let draft = build.storage.draft()?;
    let path = draft.path().join("file");
    let mut file = File::create_new(&path).context(|| format!("can't make {}", path.display()))?;
    let mut hasher = Hasher::default();
    let mut buf = vec![0; 256 << 10];
    let mut size = 0u64;
    loop {
        let n = download.read(&mut buf)?;
        if n == 0 {
            break;
        }
        size = size.saturating_add(n as u64);
        if size > MAX_DOWNLOAD {
            return Err(too_long());
        }
        hasher.update(&buf[..n]);
        file.write_all(&buf[..n]).context(|| format!("can't write {}", path.display()))?;
    }
    file.sync_all().context(|| format!("can't write {}", path.display()))?;
    let note = Note { validators: download.validators.clone(), digest: hasher.digest(), time: download.time };
    build.storage.keep_web_file(&path, &note.digest)?;
    build.storage.set_web_note(&Digest::of(url.as_bytes()).hex(), &note.to_bytes())?;
    Ok(note)
}

fn holds(file: &Path, digest: &Digest) -> bool {
    let Ok(file) = File::open(file) else { return false };
    let mut hashed = Hashing::new(file);
    io::copy(&mut hashed, &mut io::sink()).is_ok() && hashed.hasher().digest() == *digest
}

/// A URL as people may see it.
fn shown(url: &str) -> String {
    crate::log::escape(&remote::shown(url)).into_owned()
}

/// The file's name as the URL encodes it (RFC 3986, section 2.1).
fn decode(name: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let byte = digits.filter(|_| *first == b'%').and_then(|d| u8::from_str_radix(d, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    match String::from_utf8(bytes) {
        Ok(name) if !matches!(name.as_str(), "." | "..") && !name.contains(['/', '\0']) => Ok(name),
        _ => Err(Error::new(format!("can't name a file after it: {name:?}"))
            .hint("name the file in the destination, which must not end in a slash")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |name: &str, want: Option<&str>| assert_eq!(decode(name).ok().as_deref(), want, "{name}");
        check("a.tar", Some("a.tar"));
        check("a%20b%2B", Some("a b+"));
        check("100%", Some("100%"));
        check("%zz", Some("%zz"));
        check("%2e%2e", None);
        check("a%2Fb", None);
        check("a%00", None);
        check("%ff", None);
    }
}
