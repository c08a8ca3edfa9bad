//! Where do names and passwords come from? What was given for one registry, the files of Docker and Podman, their
//! credential helpers, the terminal; in this order.
//!
//! A file's entry counts for exactly the host and port that it names: an entry for `ghcr.io` says nothing to
//! `ghrc.io`. Helpers are other people's programs: they run only if a file names them, and see none of our secrets.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};

use serde_json::Value;

use super::credentials::{Credentials, Login};
use super::{Endpoint, url};
use crate::error::{Context, Error, Result, bail};
use crate::log::{verbose, warning};
use crate::oci::{base64, json};
use crate::sys::secret::Secret;
use crate::sys::tty;

/// Largest file of credentials, bytes.
const MAX_FILE: u64 = 1 << 20;
/// Longest answer of a helper or a person, bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// Whether somebody at a terminal may be asked, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prompt {
    Never,
    /// The answer is remembered for the life of the process.
    Once,
    /// `--password-many`
    EachTime,
}

/// What the environment or standard input gives.
#[derive(Debug)]
pub struct Given {
    pub login: Option<Login>,
    /// For these alone.
    pub registries: Vec<Endpoint>,
    /// Why others don't get it.
    pub elsewhere: &'static str,
}

#[derive(Debug)]
pub struct Sources {
    pub given: Given,
    /// Docker's and Podman's files; absent ones are passed over.
    pub files: Vec<PathBuf>,
    pub prompt: Prompt,
}

pub struct CredentialSources {
    sources: Sources,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    answers: HashMap<Endpoint, Login>,
    /// Registries that refused what was given or found; only a person can say something new.
    refused: HashSet<Endpoint>,
}

impl CredentialSources {
    pub fn new(sources: Sources) -> CredentialSources {
        CredentialSources { sources, state: Mutex::default() }
    }
}

impl CredentialSources {
    fn look(&self, state: &State, endpoint: &Endpoint) -> Result<Option<Login>> {
        if let Some(login) = state.answers.get(endpoint) {
            return Ok(Some(login.clone()));
        }
        if state.refused.contains(endpoint) {
            return Ok(None);
        }
        if let Some(login) = self.sources.given.login.as_ref().filter(|_| self.is_given(endpoint)) {
            return Ok(Some(login.clone()));
        }
        for file in &self.sources.files {
            let found = in_file(file, endpoint).context(|| format!("can't use {}", file.display()))?;
            if let Some(login) = found {
                verbose!("{endpoint}: user name and password from {}", file.display());
                return Ok(Some(login));
            }
        }
        Ok(None)
    }

    fn is_given(&self, endpoint: &Endpoint) -> bool {
        self.sources.given.registries.contains(endpoint)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Credentials for CredentialSources {
    fn known(&self, endpoint: &Endpoint) -> Result<Option<Login>> {
        self.look(&self.state(), endpoint)
    }

    fn find(&self, endpoint: &Endpoint) -> Result<Option<Login>> {
        // Held while a person types: two threads do not ask at once.
        let mut state = self.state();
        let known = self.look(&state, endpoint)?;
        if known.is_some() || self.sources.prompt == Prompt::Never {
            return Ok(known);
        }
        let login = ask(endpoint)?;
        if let (Prompt::Once, Some(login)) = (self.sources.prompt, &login) {
            state.answers.insert(endpoint.clone(), login.clone());
        }
        Ok(login)
    }

    fn refused(&self, endpoint: &Endpoint) {
        let mut state = self.state();
        state.answers.remove(endpoint);
        state.refused.insert(endpoint.clone());
    }

    fn advice(&self, endpoint: &Endpoint) -> String {
        let file = "a credentials file such as ~/.docker/config.json (docker login, podman login)";
        match self.is_given(endpoint) {
            true => format!("log in: set CH_IMAGE_USERNAME and CH_IMAGE_PASSWORD, run on a terminal, or use {file}"),
            false => format!("log in with {file}: {}", self.sources.given.elsewhere),
        }
    }
}

/// Asks at the terminal of this process, wherever its streams go. `None` if it has none.
/// Says for whom it is: a Dockerfile may have named the registry.
fn ask(endpoint: &Endpoint) -> Result<Option<Login>> {
    let Ok(terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") else { return Ok(None) };
    let mut reader = BufReader::new(terminal.try_clone().context(|| "can't read from the terminal")?);
    let mut line = |prompt: &str| -> std::io::Result<String> {
        (&terminal).write_all(prompt.as_bytes())?;
        let mut text = String::new();
        reader.by_ref().take(MAX_ANSWER).read_line(&mut text)?;
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
        Ok(text)
    };
    let user = line(&format!("\nregistry {endpoint} wants to know who you are\nUsername: "))
        .context(|| "can't read from the terminal")?;
    let password = tty::without_echo(&terminal, || line("Password: "));
    let password = password.and_then(|read| read).context(|| "can't read a password from the terminal")?;
    if user.is_empty() {
        bail!("no user name given");
    }
    Ok(Some(Login::Password { user, password: password.into() }))
}

/// The first line of standard input (`--password-stdin`).
pub fn password_from(input: &mut dyn Read) -> Result<Secret> {
    let mut text = String::new();
    let read = input.take(MAX_ANSWER).read_to_string(&mut text);
    let text = Secret::from(text);
    read.context(|| "can't read a password from standard input")?;
    match text.lines().next() {
        None | Some("") => bail!("no password on standard input"),
        Some(password) => Ok(password.into()),
    }
}

fn in_file(path: &Path, endpoint: &Endpoint) -> Result<Option<Login>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Ok(None),
        Err(e) => return Err(e.into()),
        // A FIFO would make us wait.
        Ok(about) if !about.is_file() => bail!("not a file"),
        Ok(about) if about.len() > MAX_FILE => bail!("too large: {} bytes (limit {MAX_FILE})", about.len()),
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let document = json::parse(&bytes)?;
    if let Some(helper) = helper_for(&document, endpoint)
        && let Some(login) = run_helper(&helper.0, &helper.1)
    {
        return Ok(Some(login));
    }
    entry_for(&document, endpoint)
}

fn entry_for(document: &Value, endpoint: &Endpoint) -> Result<Option<Login>> {
    let Some(entries) = document.get("auths").and_then(Value::as_object) else { return Ok(None) };
    for (_, entry) in entries.iter().filter(|(key, _)| names(key, endpoint)) {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|s| !s.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Login::IdentityToken(token.into())));
        }
        if let Some(auth) = text("auth") {
            // The text itself is a secret: it is not repeated.
            let wrong = || Error::new(format!("invalid \"auth\" of {endpoint}"));
            let bytes = base64::decode(auth.trim()).map_err(|_| wrong())?;
            let plain = Secret::from(String::from_utf8(bytes).map_err(|_| wrong())?);
            let (user, password) = plain.split_once(':').ok_or_else(wrong)?;
            // Docker pads with NUL.
            let password = password.trim_end_matches('\0');
            return Ok(Some(Login::Password { user: user.to_owned(), password: password.into() }));
        }
        if let (Some(user), Some(password)) = (text("username"), text("password")) {
            return Ok(Some(Login::Password { user: user.to_owned(), password: password.into() }));
        }
    }
    Ok(None)
}

/// Name of the helper, and what to ask it for.
fn helper_for(document: &Value, endpoint: &Endpoint) -> Option<(String, String)> {
    let own = document.get("credHelpers").and_then(Value::as_object).and_then(|map| {
        let (key, name) = map.iter().find(|(key, _)| names(key, endpoint))?;
        Some((name.as_str()?.to_owned(), key.clone()))
    });
    own.or_else(|| {
        let store = document.get("credsStore")?.as_str().filter(|s| !s.is_empty())?;
        // A store is asked only for what Docker has put there: `docker login` leaves an empty entry.
        let key = document.get("auths")?.as_object()?.keys().find(|key| names(key, endpoint))?;
        Some((store.to_owned(), key.clone()))
    })
}

/// `docker-credential-NAME get` (Docker credential helper protocol). What fails there is as if nothing were known.
fn run_helper(name: &str, server: &str) -> Option<Login> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        warning!("credential helper ignored: invalid name {}", json::shown(name));
        return None;
    }
    let program = format!("docker-credential-{name}");
    let child = Command::new(&program)
        .arg("get")
        .env_remove("CH_IMAGE_USERNAME")
        .env_remove("CH_IMAGE_PASSWORD")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => {
            warning!("credential helper {program}: {}", crate::error::io_text(&e));
            return None;
        }
    };
    // A helper that does not read its input says so by its exit code.
    drop(child.stdin.take().map(|mut stdin| stdin.write_all(server.as_bytes())));
    let mut reply = Vec::new();
    let read = child.stdout.take().map(|stdout| stdout.take(MAX_ANSWER).read_to_end(&mut reply));
    let success = child.wait().is_ok_and(|status| status.success());
    if !success || !matches!(read, Some(Ok(_))) {
        verbose!("credential helper {program} knows nothing of {server}");
        return None;
    }
    let value = json::parse(&reply).ok()?;
    let secret = value.get("Secret")?.as_str().filter(|s| !s.is_empty()).map(Secret::from)?;
    match value.get("Username").and_then(Value::as_str).unwrap_or("") {
        "<token>" => Some(Login::IdentityToken(secret)),
        user => Some(Login::Password { user: user.to_owned(), password: secret }),
    }
}

/// Whether a key of a file means this registry: `HOST[:PORT]`, perhaps as a URL with the path of the API.
/// Keys of a part of a registry (`quay.io/team`) do not: a token for the whole must not come from them.
fn names(key: &str, endpoint: &Endpoint) -> bool {
    let rest = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !matches!(path.trim_end_matches('/'), "" | "v1" | "v2") {
        return false;
    }
    let Ok(named) = url::parse_host_port(host, 443) else { return false };
    named.is_same_registry(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str) -> Endpoint {
        url::parse_host_port(name, 443).unwrap()
    }

    /// H12, and all ways to write a host.
    #[test]
    fn keys() {
        let check = |key: &str, host: &str, want: bool| assert_eq!(names(key, &endpoint(host)), want, "{key} {host}");
        check("ghcr.io", "ghcr.io", true);
        check("ghcr.io", "ghrc.io", false);
        check("GHCR.io", "ghcr.io", true);
        check("https://ghcr.io", "ghcr.io", true);
        check("https://ghcr.io/v2/", "ghcr.io", true);
        check("https://index.docker.io/v1/", "registry-1.docker.io", true);
        check("docker.io", "registry-1.docker.io", true);
        check("docker.io", "evil-docker.io", false);
        check("localhost:5000", "localhost:5000", true);
        check("localhost:5000", "localhost:5001", false);
        check("localhost", "localhost:5000", false);
        check("quay.io/team", "quay.io", false);
        check("quay.io.evil.example", "quay.io", false);
        check("https://user@quay.io", "quay.io", false);
        check("", "quay.io", false);
    }

    #[test]
    fn entries() {
        let show = |login: Login| match login {
            Login::Password { user, password } => format!("{user} {}", &*password),
            Login::IdentityToken(token) => format!("token {}", &*token),
        };
        let check = |entry: &str, want: Result<Option<&str>, &str>| {
            let document = json::parse(format!("{{\"auths\":{{\"r.example\":{entry}}}}}").as_bytes()).unwrap();
            let got = entry_for(&document, &endpoint("r.example")).map(|l| l.map(show)).map_err(|e| e.to_string());
            assert_eq!(got, want.map(|l| l.map(str::to_owned)).map_err(str::to_owned), "{entry}");
        };
        check(r#"{"auth":"dXNlcjpwYXNz"}"#, Ok(Some("user pass")));
        check(r#"{"auth":"dXNlcjpwOmE6c3M="}"#, Ok(Some("user p:a:ss")));
        check(r#"{"auth":"dXNlcjpwYXNzAAA="}"#, Ok(Some("user pass")));
        check(r#"{"auth":"x","identitytoken":"t"}"#, Ok(Some("token t")));
        check(r#"{"username":"u","password":"p"}"#, Ok(Some("u p")));
        check("{}", Ok(None));
        check("7", Ok(None));
        check(r#"{"auth":""}"#, Ok(None));
        let invalid = Err("invalid \"auth\" of r.example:443");
        check(r#"{"auth":"~secret~"}"#, invalid);
        check(r#"{"auth":"bm9jb2xvbg=="}"#, invalid);
        check(r#"{"auth":"/////w=="}"#, invalid);
    }

    #[test]
    fn helpers() {
        let check = |text: &str, want: Option<(&str, &str)>| {
            let found = helper_for(&json::parse(text.as_bytes()).unwrap(), &endpoint("r.example"));
            assert_eq!(found, want.map(|(a, b)| (a.to_owned(), b.to_owned())), "{text}");
        };
        check(r#"{"credHelpers":{"r.example":"ecr"}}"#, Some(("ecr", "r.example")));
        check(r#"{"credHelpers":{"other":"ecr"}}"#, None);
        check(r#"{"credsStore":"pass","auths":{"https://r.example":{}}}"#, Some(("pass", "https://r.example")));
        check(r#"{"credsStore":"pass","auths":{}}"#, None);
        check(r#"{"credsStore":"pass"}"#, None);
        check(r#"{"credHelpers":{"r.example":7}}"#, None);
        for bad in ["../../bin/sh", "a b", "", "a;b", "no-such-helper-exists"] {
            assert!(run_helper(bad, "r.example").is_none());
        }
    }

    #[test]
    fn order_and_refusal() {
        let dir = std::env::temp_dir().join(format!("ch-logins-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("config.json");
        fs::write(&file, r#"{"auths":{"a.example":{"auth":"dTpw"},"b.example":{"auth":"dTpw"}}}"#).unwrap();
        let (a, b, c) = (endpoint("a.example"), endpoint("b.example"), endpoint("c.example"));
        let given = Login::Password { user: "given".into(), password: "x".into() };
        let logins = CredentialSources::new(Sources {
            given: Given { login: Some(given.clone()), registries: vec![a.clone()], elsewhere: "not for others" },
            files: vec![dir.join("absent"), file.clone()],
            prompt: Prompt::Never,
        });
        let from_file = Login::Password { user: "u".into(), password: "p".into() };
        assert_eq!(logins.find(&a).unwrap(), Some(given));
        assert_eq!(logins.find(&b).unwrap(), Some(from_file));
        assert_eq!(logins.find(&c).unwrap(), None);
        assert!(logins.advice(&a).contains("set CH_IMAGE_USERNAME"));
        assert!(logins.advice(&b).ends_with(": not for others"));
        logins.refused(&a);
        assert_eq!(logins.find(&a).unwrap(), None);
        assert!(logins.find(&b).unwrap().is_some());
        let bad = |path: PathBuf| {
            let given = Given { login: None, registries: Vec::new(), elsewhere: "" };
            let sources = Sources { given, files: vec![path], prompt: Prompt::Never };
            CredentialSources::new(sources).find(&c).map(|l| l.is_some()).map_err(|e| e.to_string())
        };
        assert!(bad(dir.clone()).unwrap_err().ends_with("not a file"));
        fs::write(&file, "not JSON, secret").unwrap();
        let e = bad(file.clone()).unwrap_err();
        assert!(e.starts_with("can't use /") && !e.contains("secret"), "{e}");
        fs::write(&file, " \n").unwrap();
        assert_eq!(bad(file), Ok(false));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn standard_input() {
        let read = |text: &str| password_from(&mut text.as_bytes()).map_err(|e| e.to_string());
        assert_eq!(read("secret\nmore\n").as_deref(), Ok("secret"));
        assert_eq!(read("secret").as_deref(), Ok("secret"));
        assert_eq!(read("se cret\r\n").as_deref(), Ok("se cret"));
        assert_eq!(read("\n"), Err("no password on standard input".into()));
    }
}
