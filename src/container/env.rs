//! What does a command find in its environment?
//!
//! For RUN the caller makes the environment whole; ch-run puts it together of the host's and the image's (`inherit`) and
//! changes it as told. Names and values are bytes: what the host has in its environment need not be UTF-8.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::error::{Context, Error, Result, bail};
use crate::log::escape;
use crate::sys::pattern;

pub type Environment = Vec<(OsString, OsString)>;

/// Adds what ch-run adds: `:/bin` to a `PATH` without it, and `CH_RUNNING`.
pub fn finish(env: &mut Environment) {
    set(env, OsStr::new("CH_RUNNING"), OsStr::new("Weird Al Yankovic"));
    add_bin(env);
}

/// Distributions that moved /bin below /usr keep a link; the others need it for their shell.
fn add_bin(env: &mut Environment) {
    match env.iter_mut().find(|(name, _)| name == "PATH") {
        Some((_, path)) => *path = with_bin(path),
        None => env.push(("PATH".into(), "/bin".into())),
    }
}

fn with_bin(path: &OsStr) -> OsString {
    let mut path = path.to_owned();
    if !path.as_bytes().split(|&b| b == b':').any(|dir| dir == b"/bin") {
        path.push(if path.is_empty() { "/bin" } else { ":/bin" });
    }
    path
}

/// Sets a variable, in the place of one of the same name.
pub fn set(env: &mut Environment, name: &OsStr, value: &OsStr) {
    match env.iter_mut().find(|(n, _)| n == name) {
        Some((_, v)) => *v = value.to_owned(),
        None => env.push((name.to_owned(), value.to_owned())),
    }
}

/// A variable of ch-run's command, and where its value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    pub name: OsString,
    pub value: OsString,
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Host,
    Image,
    /// ch-run itself.
    Program,
    /// An option, or a place in a file.
    Said(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Origin::Host => f.write_str("the host"),
            Origin::Image => f.write_str("the image"),
            Origin::Program => f.write_str("ch-run"),
            Origin::Said(text) => f.write_str(&escape(text)),
        }
    }
}

/// Puts directories before those that a variable lists.
pub fn put_first(env: &mut Environment, name: &str, directories: &[String]) {
    if directories.is_empty() {
        return;
    }
    let mut value = OsString::from(directories.join(":"));
    if let Some((_, old)) = env.iter().find(|(n, old)| n == name && !old.is_empty()) {
        value.push(":");
        value.push(old);
    }
    set(env, OsStr::new(name), &value);
}

/// Whether `$NAME` in values is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expand {
    Yes,
    No,
}

/// An environment in the making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables(Vec<Variable>);

impl Variables {
    pub fn list(&self) -> &[Variable] {
        &self.0
    }

    pub fn into_list(self) -> Vec<Variable> {
        self.0
    }

    pub fn get(&self, name: &OsStr) -> Option<&OsStr> {
        self.0.iter().find(|variable| variable.name == name).map(|variable| variable.value.as_os_str())
    }

    /// In the place of one of the same name.
    pub fn set(&mut self, name: &OsStr, value: &OsStr, origin: &Origin) {
        let new = Variable { name: name.to_owned(), value: value.to_owned(), origin: origin.clone() };
        match self.0.iter_mut().find(|variable| variable.name == name) {
            Some(variable) => *variable = new,
            None => self.0.push(new),
        }
    }

    /// See [`add_bin`].
    pub fn add_bin(&mut self) {
        match self.0.iter_mut().find(|variable| variable.name == "PATH") {
            Some(path) => path.value = with_bin(&path.value),
            None => self.set(OsStr::new("PATH"), OsStr::new("/bin"), &Origin::Program),
        }
    }

    /// Does what one `--set-env` with a value or a line of a file says: `NAME=VALUE`, the value perhaps in single quotes.
    pub fn assign(&mut self, text: &OsStr, expand: Expand, origin: &Origin) -> Result<()> {
        let bytes = text.as_bytes();
        let Some(at) = bytes.iter().position(|&b| b == b'=') else {
            bail!("can't parse variable: no equals sign: {}", escape(&text.to_string_lossy()));
        };
        let (name, value) = (&bytes[..at], &bytes[at + 1..]);
        if name.is_empty() {
            bail!("can't parse variable: empty name: {}", escape(&text.to_string_lossy()));
        }
        let value = match value {
            [b'\'', inner @ .., b'\''] => inner,
            value => value,
        };
        let value = match expand {
            Expand::Yes => self.expanded(value),
            Expand::No => value.to_owned(),
        };
        self.set(OsStr::from_bytes(name), &OsString::from_vec(value), origin);
        Ok(())
    }

    /// The value is a list with colons; an item that begins with `$` is the value of that variable. An item that becomes
    /// empty by this is dropped with its colon.
    fn expanded(&self, value: &[u8]) -> Vec<u8> {
        let mut items: Vec<&[u8]> = Vec::new();
        for item in value.split(|&b| b == b':') {
            match item.strip_prefix(b"$") {
                Some(name) if !name.is_empty() => {
                    let value = self.get(OsStr::from_bytes(name)).map_or(&b""[..], |value| value.as_bytes());
                    if !value.is_empty() {
                        items.push(value);
                    }
                }
                Some(_) | None => items.push(item),
            }
        }
        items.join(&b':')
    }

    /// Every assignment of a file, where `end` ends each.
    pub fn assign_all(&mut self, file: &[u8], end: u8, expand: Expand, path: &str) -> Result<()> {
        for (i, line) in file.split(|&b| b == end).enumerate() {
            let at = format!("{path}:{}", i + 1);
            if !line.is_empty() {
                let done = self.assign(OsStr::from_bytes(line), expand, &Origin::Said(at.clone()));
                done.context(|| at)?;
            }
        }
        Ok(())
    }

    /// Removes every variable whose name fits a shell pattern.
    pub fn unset(&mut self, glob: &OsStr) -> Result<()> {
        let glob = pattern(glob)?;
        self.0.retain(|variable| !fits(&glob, &variable.name));
        Ok(())
    }
}

/// A shell pattern for names of variables.
pub fn pattern(glob: &OsStr) -> Result<CString> {
    CString::new(glob.as_bytes()).map_err(|_| Error::new("NUL in a pattern"))
}

pub fn fits(glob: &CStr, name: &OsStr) -> bool {
    CString::new(name.as_bytes()).is_ok_and(|name| pattern::matches(glob, &name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(text: &str) -> Variables {
        let mut all = Variables::default();
        for (name, value) in text.split_whitespace().map(|word| word.split_once('=').unwrap()) {
            all.set(name.as_ref(), value.as_ref(), &Origin::Host);
        }
        all
    }

    #[test]
    fn path_has_bin() {
        let check = |path: Option<&str>, want: &str| {
            let mut env = path.map(|p| vec![("PATH".into(), p.into())]).unwrap_or_default();
            finish(&mut env);
            let got = env.iter().find(|(n, _)| n == "PATH").map(|(_, v)| v.to_str().unwrap());
            assert_eq!(got, Some(want), "{path:?}");
            assert!(env.contains(&("CH_RUNNING".into(), "Weird Al Yankovic".into())));
        };
        check(None, "/bin");
        check(Some(""), "/bin");
        check(Some("/bin"), "/bin");
        check(Some("/usr/bin"), "/usr/bin:/bin");
        check(Some("/usr/bin:/bin"), "/usr/bin:/bin");
        check(Some("/bin:/usr/bin"), "/bin:/usr/bin");
        check(Some("/usr/binary:/binx"), "/usr/binary:/binx:/bin");
    }

    #[test]
    fn assignments() {
        let check = |text: &str, expand: Expand, want: Option<&str>| {
            let mut env = env("A=1 B=2 E=");
            let got = env.assign(OsStr::new(text), expand, &Origin::Image).ok();
            let got = got.map(|()| env.get("X".as_ref()).unwrap().to_str().unwrap());
            assert_eq!(got, want, "{text}");
        };
        check("X=y", Expand::Yes, Some("y"));
        check("X=", Expand::Yes, Some(""));
        check("X=a=b", Expand::Yes, Some("a=b"));
        check("X='y z'", Expand::Yes, Some("y z"));
        check("X=''", Expand::Yes, Some(""));
        check("X='", Expand::Yes, Some("'"));
        check("X=\"y\"", Expand::Yes, Some("\"y\""));
        check("X=$A", Expand::Yes, Some("1"));
        check("X=$A", Expand::No, Some("$A"));
        check("X=/x:$A:$B", Expand::Yes, Some("/x:1:2"));
        check("X=$E:/x:$NO", Expand::Yes, Some("/x"));
        check("X=:$A:", Expand::Yes, Some(":1:"));
        check("X=$E", Expand::Yes, Some(""));
        check("X=a$A", Expand::Yes, Some("a$A"));
        check("X=$", Expand::Yes, Some("$"));
        check("X='$A'", Expand::Yes, Some("1"));
        check("X", Expand::Yes, None);
        check("=X", Expand::Yes, None);
    }

    #[test]
    fn patterns_unset() {
        let check = |glob: &str, want: &str| {
            let mut got = env("FOO=1 BAR=2 FOOD=3");
            got.unset(OsStr::new(glob)).unwrap();
            assert_eq!(got, env(want), "{glob}");
        };
        check("*", "");
        check("FOO", "BAR=2 FOOD=3");
        check("FOO*", "BAR=2");
        check("[!F]*", "FOO=1 FOOD=3");
        check("F?O", "BAR=2 FOOD=3");
        check("", "FOO=1 BAR=2 FOOD=3");
    }

    #[test]
    fn a_bad_line_is_named() {
        let e = env("").assign_all(b"A=1\n\nB\n", b'\n', Expand::Yes, "file").unwrap_err();
        assert_eq!(e.to_string(), "file:3: can't parse variable: no equals sign: B");
    }
}
