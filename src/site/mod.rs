//! What have the site and the user set once and for all? Three files, the later ones over the earlier ones:
//! the site's in /etc, the user's own, and the one that `$CH_RUN_CONF` names.
//!
//! Deliberately absent: scripts, conditions, and files that others than the user and root may write.

mod parse;

use std::env;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result, bail};
use crate::sys::{fs::euid, user};
pub use parse::Word;
use parse::{Line, Value};

const OF_THE_SITE: &str = "/etc/ch-image/ch-run.conf";
const OF_THE_USER: &str = "ch-image/ch-run.conf";
/// Largest file, bytes.
const MAX_FILE: u64 = 1 << 20;

/// A setting, with where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub file: PathBuf,
    line: Line,
}

impl fmt::Display for Setting {
    /// `FILE:LINE`
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line.number)
    }
}

impl Setting {
    pub fn word(&self) -> Word {
        self.line.word
    }

    pub fn module(&self) -> Option<&str> {
        self.line.module.as_deref()
    }

    /// `None` if it is about a variable that the caller has not.
    pub fn value(&self) -> Option<&str> {
        match &self.line.value {
            Value::Is(text) => Some(text),
            Value::Lacks(..) => None,
        }
    }

    /// For people: the value, and what keeps it from being used.
    pub fn shown(&self) -> String {
        let (text, lacking) = match &self.line.value {
            Value::Is(text) => (text, String::new()),
            Value::Lacks(text, name) => (text, format!(" (not used: ${name} is not set)")),
        };
        let module = self.module().map_or(String::new(), |name| format!("[{name}] "));
        format!("{module}{} {text}{lacking}", self.word().name())
    }
}

/// What all files say, in order.
#[derive(Debug, Default)]
pub struct Settings {
    all: Vec<Setting>,
}

impl Settings {
    pub fn load() -> Result<Settings> {
        let mut settings = Settings::default();
        for (path, need) in files() {
            let Some(text) = read(&path, need)? else { continue };
            let lines = parse::parse(&text, &crate::log::escape(&path.display().to_string()), &variable)?;
            settings.all.extend(lines.into_iter().map(|line| Setting { file: path.clone(), line }));
        }
        Ok(settings)
    }

    pub fn all(&self) -> &[Setting] {
        &self.all
    }

    /// What always holds, then these bundles in this order.
    pub fn with(&self, modules: &[String]) -> Result<Vec<&Setting>> {
        let mut wanted: Vec<&Setting> = self.all.iter().filter(|setting| setting.module().is_none()).collect();
        for name in modules {
            let before = wanted.len();
            wanted.extend(self.all.iter().filter(|setting| setting.module() == Some(name)));
            if wanted.len() == before {
                return Err(self.no_such(name));
            }
        }
        Ok(wanted)
    }

    fn no_such(&self, name: &str) -> Error {
        let mut known: Vec<&str> = self.all.iter().filter_map(Setting::module).collect();
        known.sort_unstable();
        known.dedup();
        let hint = match known.is_empty() {
            true => "no settings file has a [NAME]; ch-image doctor shows the files".to_owned(),
            false => format!("there are: {}", known.join(" ")),
        };
        Error::new(format!("no such module: {}", crate::log::escape(name))).hint(hint)
    }

    /// Storage directories of others, in the order in which to look into them.
    pub fn stores(&self) -> impl Iterator<Item = &str> {
        self.all.iter().filter(|setting| setting.word() == Word::Store).filter_map(Setting::value)
    }

    /// The last one that says where storage is.
    pub fn storage(&self) -> Option<&Setting> {
        self.all.iter().rfind(|setting| setting.word() == Word::Storage && setting.value().is_some())
    }
}

/// Whether a file has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Named,
    IfThere,
}

fn files() -> Vec<(PathBuf, Need)> {
    let path = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let configuration = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
    let own = configuration.map(|dir| (dir.join(OF_THE_USER), Need::IfThere));
    let named = path("CH_RUN_CONF").map(|path| (path, Need::Named));
    [(PathBuf::from(OF_THE_SITE), Need::IfThere)].into_iter().chain(own).chain(named).collect()
}

/// The files that would be read, whether they are there or not.
pub fn places() -> Vec<PathBuf> {
    files().into_iter().map(|(path, _)| path).collect()
}

fn variable(name: &str) -> Option<String> {
    let value = env::var_os(name);
    // Which cron and batch systems may not set.
    if name == "USER" {
        return Some(user::name(value.as_deref(), euid()));
    }
    value?.into_string().ok()
}

/// The text; `None` if there is no file and there need not be one.
fn read(path: &Path, need: Need) -> Result<Option<String>> {
    let shown = path.display();
    let failed = || format!("can't read settings {shown}");
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Err(e) if is_missing(&e) && need == Need::IfThere => return Ok(None),
        other => other.context(failed),
    };
    let file = file.map_err(|e| match need {
        Need::Named => e.hint("$CH_RUN_CONF names this file"),
        Need::IfThere => e,
    })?;
    refuse_foreign(&file, path)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).context(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::new("larger than 1 MiB").context(failed()));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| Error::new("not UTF-8 text").context(failed()))
}

fn is_missing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whoever may write the file may give our commands any environment, and any file in the place of any other.
fn refuse_foreign(file: &File, path: &Path) -> Result<()> {
    let shown = path.display();
    let meta = file.metadata().context(|| format!("can't read settings {shown}"))?;
    if !meta.is_file() {
        bail!("not a file of settings: {shown}: not a regular file");
    }
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    match risk(owner, mode, euid(), user::unknown()) {
        None => Ok(()),
        Some(Risk::Owner) => Err(Error::new(format!("settings {shown} belong to somebody else (user {owner})"))
            .hint("only root's and your own are used; ch-run --no-conf does without")),
        Some(Risk::Mode) => {
            Err(Error::new(format!("settings {shown} are writable by others (owner: user {owner}, mode {mode:04o})"))
                .hint(format!("chmod go-w {shown}; ch-run --no-conf does without")))
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Risk {
    Owner,
    Mode,
}

/// `unknown`: the number that stands for all users whom this user namespace does not know. Root may let a group of
/// administrators write.
fn risk(owner: u32, mode: u32, me: u32, unknown: Option<u32>) -> Option<Risk> {
    let is_roots = owner == 0 || Some(owner) == unknown;
    if !is_roots && owner != me {
        return Some(Risk::Owner);
    }
    let others = if is_roots { 0o002 } else { 0o022 };
    (mode & others != 0).then_some(Risk::Mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_write_a_file() {
        let check = |owner: u32, mode: u32, want: Option<Risk>| {
            assert_eq!(risk(owner, mode, 1000, Some(65534)), want, "user {owner}, mode {mode:04o}");
        };
        check(0, 0o644, None);
        check(0, 0o664, None);
        check(0, 0o666, Some(Risk::Mode));
        check(1000, 0o644, None);
        check(1000, 0o664, Some(Risk::Mode));
        check(1000, 0o602, Some(Risk::Mode));
        check(65534, 0o644, None);
        check(1001, 0o600, Some(Risk::Owner));
        check(1001, 0o666, Some(Risk::Owner));
        assert_eq!(risk(65534, 0o644, 1000, None), Some(Risk::Owner));
    }

    #[test]
    fn bundles_are_asked_for() {
        let line = |number: usize, module: Option<&str>| Setting {
            file: "f".into(),
            line: Line { number, module: module.map(str::to_owned), word: Word::Bind, value: Value::Is(String::new()) },
        };
        let settings = Settings {
            all: vec![line(1, None), line(2, Some("a")), line(3, Some("b")), line(4, Some("a")), line(5, None)],
        };
        let check = |modules: &[&str], want: &[&str]| {
            let modules: Vec<String> = modules.iter().map(|name| (*name).to_owned()).collect();
            let got: Vec<String> = settings.with(&modules).unwrap().iter().map(|setting| setting.to_string()).collect();
            assert_eq!(got, want, "{modules:?}");
        };
        check(&[], &["f:1", "f:5"]);
        check(&["a"], &["f:1", "f:5", "f:2", "f:4"]);
        check(&["b", "a"], &["f:1", "f:5", "f:3", "f:2", "f:4"]);
        let e = settings.with(&["c".to_owned()]).unwrap_err();
        assert_eq!((e.to_string().as_str(), e.get_hint()), ("no such module: c", Some("there are: a b")));
    }
}
