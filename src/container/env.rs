//! What does a command find in its environment?
//!
//! For RUN the caller makes the environment whole; ch-run takes the caller's own and changes it as told. Names and
//! values are bytes: what the host has in its environment need not be UTF-8.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::error::{Context, Result, bail};
use crate::log::escape;
use crate::sys::pattern;

pub type Environment = Vec<(OsString, OsString)>;

/// Adds what ch-run adds: `:/bin` to a `PATH` without it, and `CH_RUNNING`.
pub fn finish(env: &mut Environment) {
    set(env, OsStr::new("CH_RUNNING"), OsStr::new("Weird Al Yankovic"));
    add_bin(env);
}

/// Distributions that moved /bin below /usr keep a link; the others need it for their shell.
pub fn add_bin(env: &mut Environment) {
    match env.iter_mut().find(|(name, _)| name == "PATH") {
        Some((_, path)) => {
            if !path.as_bytes().split(|&b| b == b':').any(|dir| dir == b"/bin") {
                path.push(if path.is_empty() { "/bin" } else { ":/bin" });
            }
        }
        None => env.push(("PATH".into(), "/bin".into())),
    }
}

/// Sets a variable, in the place of one of the same name.
pub fn set(env: &mut Environment, name: &OsStr, value: &OsStr) {
    match env.iter_mut().find(|(n, _)| n == name) {
        Some((_, v)) => *v = value.to_owned(),
        None => env.push((name.to_owned(), value.to_owned())),
    }
}

/// Whether `$NAME` in values is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expand {
    Yes,
    No,
}

/// Does what one `--set-env` with a value or a line of a file says: `NAME=VALUE`, the value perhaps in single quotes.
pub fn assign(env: &mut Environment, text: &OsStr, expand: Expand) -> Result<()> {
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
        Expand::Yes => expanded(env, value),
        Expand::No => value.to_owned(),
    };
    set(env, OsStr::from_bytes(name), &OsString::from_vec(value));
    Ok(())
}

/// The value is a list with colons; an item that begins with `$` is the value of that variable. An item that becomes
/// empty by this is dropped with its colon.
fn expanded(env: &Environment, value: &[u8]) -> Vec<u8> {
    let mut items: Vec<&[u8]> = Vec::new();
    for item in value.split(|&b| b == b':') {
        match item.strip_prefix(b"$") {
            Some(name) if !name.is_empty() => {
                let value = env.iter().find(|(n, _)| n.as_bytes() == name).map_or(&b""[..], |(_, v)| v.as_bytes());
                if !value.is_empty() {
                    items.push(value);
                }
            }
            Some(_) | None => items.push(item),
        }
    }
    items.join(&b':')
}

/// Every line of a file of assignments.
pub fn assign_lines(env: &mut Environment, file: &[u8], expand: Expand, origin: &str) -> Result<()> {
    for (i, line) in file.split(|&b| b == b'\n').enumerate() {
        if !line.is_empty() {
            assign(env, OsStr::from_bytes(line), expand).context(|| format!("{origin}:{}", i + 1))?;
        }
    }
    Ok(())
}

/// Removes every variable whose name fits a shell pattern.
pub fn unset(env: &mut Environment, glob: &OsStr) -> Result<()> {
    let Ok(glob) = CString::new(glob.as_bytes()) else { bail!("NUL in a pattern") };
    env.retain(|(name, _)| !CString::new(name.as_bytes()).is_ok_and(|name| pattern::matches(&glob, &name)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(text: &str) -> Environment {
        text.split_whitespace().map(|w| w.split_once('=').unwrap()).map(|(n, v)| (n.into(), v.into())).collect()
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
            let got = assign(&mut env, OsStr::new(text), expand).ok();
            let got = got.map(|()| env.iter().find(|(n, _)| n == "X").unwrap().1.to_str().unwrap().to_owned());
            assert_eq!(got.as_deref(), want, "{text}");
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
            unset(&mut got, OsStr::new(glob)).unwrap();
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
        let e = assign_lines(&mut env(""), b"A=1\n\nB\n", Expand::Yes, "file").unwrap_err();
        assert_eq!(e.to_string(), "file:3: can't parse variable: no equals sign: B");
    }
}
