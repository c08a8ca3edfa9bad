//! Which variables are set, and to what? (A.10)
//!
//! ENV and ARG share one table and the later instruction wins, but only ENV goes into the image: so both lists are
//! kept, and an ARG knows whether an ENV after it hides it.

use std::collections::{HashMap, HashSet};

use crate::error::{Result, bail};

/// The PATH of an image that has none (A.10 no. 6).
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of all names and values together; what a kernel passes to a program is less.
const MAX_SIZE: usize = 16 << 20;

/// Build arguments that need no ARG: they reach RUN, but neither expansion nor history (A.10 no. 5).
pub const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Names with values in the order in which they were first set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    entries: Vec<(String, String)>,
    index: HashMap<String, usize>,
    size: usize,
}

impl Table {
    /// Replaces in place or appends.
    pub fn set(&mut self, name: &str, value: String) -> Result<()> {
        self.size = self.size.saturating_add(name.len() + value.len());
        match self.index.get(name) {
            Some(&at) => {
                self.size -= name.len() + self.entries[at].1.len();
                self.entries[at].1 = value;
            }
            None => {
                self.index.insert(name.to_owned(), self.entries.len());
                self.entries.push((name.to_owned(), value));
            }
        }
        if self.size > MAX_SIZE {
            bail!("variables take more than {MAX_SIZE} bytes");
        }
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|&at| self.entries[at].1.as_str())
    }

    pub fn entries(&self) -> &[(String, String)] {
        &self.entries
    }
}

/// What holds for the whole build: `--build-arg` and the variables before the first FROM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Globals {
    build_args: Table,
    values: Table,
}

impl Globals {
    /// With predefined variables; a build argument wins over each.
    pub fn new(build_args: &[(String, String)], predefined: &[(&str, String)]) -> Result<Globals> {
        let mut globals = Globals::default();
        for (name, value) in build_args {
            globals.build_args.set(name, value.clone())?;
        }
        for (name, value) in predefined {
            let value = globals.build_args.get(name).unwrap_or(value).to_owned();
            globals.values.set(name, value)?;
        }
        Ok(globals)
    }

    pub fn lookup(&self, name: &str) -> Option<String> {
        self.values.get(name).map(str::to_owned)
    }

    pub fn build_arg(&self, name: &str) -> Option<&str> {
        self.build_args.get(name)
    }

    pub fn build_args(&self) -> &[(String, String)] {
        self.build_args.entries()
    }

    /// An ARG before the first FROM; `default` is expanded.
    pub fn declare(&mut self, name: &str, default: Option<String>) -> Result<()> {
        match self.build_args.get(name).map(str::to_owned).or(default) {
            Some(value) => self.values.set(name, value),
            None => Ok(()),
        }
    }
}

/// The variables of a stage at one point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    env: Table,
    args: Table,
    /// ARGs that an ENV after them hides.
    hidden: HashSet<String>,
}

impl Scope {
    /// Begins with an image's environment; PATH is added if there is none.
    pub fn of_image(env: &[(String, String)]) -> Result<Scope> {
        let mut scope = Scope::default();
        for (name, value) in env {
            scope.env.set(name, value.clone())?;
        }
        if scope.env.get("PATH").is_none() {
            scope.env.set("PATH", DEFAULT_PATH.to_owned())?;
        }
        Ok(scope)
    }

    pub fn lookup(&self, name: &str) -> Option<String> {
        self.value(name).map(str::to_owned)
    }

    fn value(&self, name: &str) -> Option<&str> {
        let arg = self.args.get(name).filter(|_| !self.hidden.contains(name));
        arg.or_else(|| self.env.get(name))
    }

    pub fn set_env(&mut self, name: &str, value: String) -> Result<()> {
        if self.args.get(name).is_some() {
            self.hidden.insert(name.to_owned());
        }
        self.env.set(name, value)
    }

    /// The value of an ARG: build argument, else its expanded default, else the global value; `None` leaves the
    /// variable as it is.
    pub fn declare(&mut self, name: &str, default: Option<String>, globals: &Globals) -> Result<Option<String>> {
        let value = globals.build_arg(name).map(str::to_owned).or(default).or_else(|| globals.lookup(name));
        if let Some(value) = &value {
            self.args.set(name, value.clone())?;
            self.hidden.remove(name);
        }
        Ok(value)
    }

    /// What the image keeps.
    pub fn env(&self) -> &[(String, String)] {
        self.env.entries()
    }

    /// What RUN sees: ENV and declared ARGs; build arguments that are proxies.
    pub fn run_env(&self, globals: &Globals) -> Vec<(String, String)> {
        let names = self.env.entries().iter().map(|(name, _)| name);
        let only_args = self.args.entries().iter().map(|(name, _)| name).filter(|name| self.env.get(name).is_none());
        let value = |name: &String| (name.clone(), self.value(name).unwrap_or_default().to_owned());
        let mut all: Vec<(String, String)> = names.chain(only_args).map(value).collect();
        let proxies = globals.build_args().iter().filter(|(name, _)| PROXIES.contains(&name.as_str()));
        all.extend(proxies.filter(|(name, _)| self.value(name).is_none()).cloned());
        all
    }

    /// Declared ARGs with their current values, in the order of their declaration.
    pub fn args(&self) -> Vec<(&str, &str)> {
        let names = self.args.entries().iter().map(|(name, _)| name.as_str());
        names.map(|name| (name, self.value(name).unwrap_or_default())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    #[test]
    fn later_instruction_wins() {
        let globals = Globals::new(&[("B".into(), "arg".into())], &[]).unwrap();
        let mut scope = Scope::of_image(&[("A".into(), "0".into())]).unwrap();
        scope.set_env("A", "1".into()).unwrap();
        assert_eq!(scope.declare("A", text("2"), &globals).unwrap(), text("2"));
        assert_eq!(scope.lookup("A"), text("2"));
        assert_eq!(scope.env()[0], ("A".to_owned(), "1".to_owned()));
        assert_eq!(scope.run_env(&globals)[0], ("A".to_owned(), "2".to_owned()));
        scope.set_env("A", "3".into()).unwrap();
        assert_eq!((scope.lookup("A"), scope.args()), (text("3"), vec![("A", "3")]));
        assert_eq!(scope.declare("A", None, &globals).unwrap(), None);
        assert_eq!(scope.lookup("A"), text("3"));
        assert_eq!(scope.declare("B", text("x"), &globals).unwrap(), text("arg"));
        assert_eq!(scope.declare("C", None, &globals).unwrap(), None);
        assert_eq!(scope.lookup("C"), None);
    }

    #[test]
    fn globals_reach_a_stage_through_arg() {
        let mut globals =
            Globals::new(&[("P".into(), "mine".into())], &[("P", "theirs".into()), ("Q", "q".into())]).unwrap();
        globals.declare("G", text("g")).unwrap();
        globals.declare("P", text("default")).unwrap();
        globals.declare("N", None).unwrap();
        let mut scope = Scope::default();
        let check = |scope: &mut Scope, name: &str, default, want: Option<&str>| {
            assert_eq!(scope.lookup(name), None, "{name}");
            assert_eq!(scope.declare(name, default, &globals).unwrap().as_deref(), want, "{name}");
            assert_eq!(scope.lookup(name).as_deref(), want, "{name}");
        };
        check(&mut scope, "G", None, Some("g"));
        check(&mut scope, "P", None, Some("mine"));
        check(&mut scope, "Q", None, Some("q"));
        check(&mut scope, "N", None, None);
        let mut scope = Scope::default();
        check(&mut scope, "G", text("own"), Some("own"));
    }

    #[test]
    fn proxies_reach_only_run() {
        let globals = Globals::new(&[("http_proxy".into(), "p".into()), ("x".into(), "y".into())], &[]).unwrap();
        let scope = Scope::of_image(&[]).unwrap();
        assert_eq!(scope.lookup("http_proxy"), None);
        assert!(scope.args().is_empty());
        let want = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned()), ("http_proxy".to_owned(), "p".to_owned())];
        assert_eq!(scope.run_env(&globals), want);
    }

    #[test]
    fn size_is_limited() {
        let mut table = Table::default();
        for _ in 0..100 {
            table.set("same", "x".repeat(1 << 20)).unwrap();
        }
        let all = (0..100).try_for_each(|n| table.set(&n.to_string(), "x".repeat(1 << 20)));
        assert!(all.unwrap_err().to_string().contains("more than"));
    }
}
