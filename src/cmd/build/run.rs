//! RUN: a command in the tree under construction.

use std::ffi::OsString;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use super::image_users::ResolvedUser;
use super::secret::Author;
use crate::container::ownership::Ledger;
use crate::container::{self, Bind, Emulation, Need, Network, Spec, Status, Tmpfs};
use crate::dockerfile::scope::DEFAULT_PATH;
use crate::error::{Error, Result};
use crate::sys::{self, signal};

/// Variables of the host that RUN sees and that never cause a cache miss (manual page, "Variable substitution").
pub const PASSED: [&str; 9] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSH_AUTH_SOCK",
];
/// Not passed to a trigger that came with an image: whoever has the socket is the user at other machines.
const AGENT: &str = "SSH_AUTH_SOCK";
/// The predefined PATH of the manual page; where an image says nothing of its own.
const CH_PATH: &str = "/ch/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Of root, as with Docker: without it `git config --global`, Go and `. $HOME/.cargo/env` fail.
pub const HOME: &str = "/root";

/// Where RUN finds the caller's SSH agent. Not in the image's /tmp: a mount there would be in the way of `rm -rf /tmp/*`.
const AGENT_PLACE: &str = "/ch/ssh-agent";

/// For the names of steps: earlier versions had steps of the same commands that saw the host's /tmp.
pub const TMP: (&str, &str) = ("/tmp", "the image's");

/// The end of a build that was asked to stop.
pub fn interrupted(signal: i32) -> Error {
    Error::new(format!("interrupted by signal {signal}")).with_code(u8::try_from(128 + signal).unwrap_or(1))
}

/// How a command ended that did not succeed: its exit code, or minus the signal.
pub fn ending(code: i32) -> String {
    match code {
        0.. => format!("exited with {code}"),
        _ => format!("was killed by {}", signal::named(-code)),
    }
}

/// What a bad end may come from, where the number tells. A shell says 128 and the signal that ended its command.
pub fn cause(code: i32) -> Option<String> {
    let killed = "the kernel kills so when memory runs out; so do batch systems at a job's limit";
    match code {
        -9 => Some(format!("out of memory? {killed}")),
        137 => Some(format!("137 = 128 + 9: one of its processes was killed by {}; {killed}", signal::named(9))),
        129..=159 => {
            Some(format!("{code} may mean that one of its processes was killed by {}", signal::named(code - 128)))
        }
        _ => None,
    }
}

/// A command with all that it sees.
pub struct Command {
    pub argv: Vec<String>,
    /// ENV, ARG, and secrets, which may be any bytes.
    pub env: Vec<(String, OsString)>,
    pub cwd: String,
    pub binds: Vec<Bind>,
    pub tmpfs: Vec<Tmpfs>,
    pub network: Network,
    pub emulation: Emulation,
    /// The emulated user it runs as, if not root.
    pub user: Option<ResolvedUser>,
    pub author: Author,
}

/// ENV and ARG as a command gets them.
pub fn variables(env: &[(String, String)]) -> impl Iterator<Item = (String, OsString)> {
    env.iter().map(|(name, value)| (name.clone(), value.into()))
}

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// Its exit code, or minus the signal that ended it.
    Exited(i32),
    Interrupted(i32),
    NotRun(Error),
}

impl Command {
    /// The environment of the manual page: predefined, passed, then what the Dockerfile says.
    pub fn environment(&self, host: &dyn Fn(&str) -> Option<OsString>) -> Vec<(OsString, OsString)> {
        let mut env: Vec<(OsString, OsString)> = Vec::new();
        let is_theirs = |name: &&str| self.author == Author::User || *name != AGENT;
        for name in PASSED.into_iter().filter(is_theirs) {
            if let Some(value) = host(name) {
                container::set_variable(&mut env, name.as_ref(), &value);
            }
        }
        container::set_variable(&mut env, "PATH".as_ref(), CH_PATH.as_ref());
        let home = self.user.as_ref().map_or(HOME, |user| &user.home);
        container::set_variable(&mut env, "HOME".as_ref(), home.as_ref());
        // Where owners are recorded, tar may say them.
        if self.emulation != Emulation::Notify {
            container::set_variable(&mut env, "TAR_OPTIONS".as_ref(), "--no-same-owner".as_ref());
        }
        for (name, value) in &self.env {
            if name == "PATH" && value == DEFAULT_PATH {
                continue;
            }
            container::set_variable(&mut env, name.as_ref(), value);
        }
        container::finish_environment(&mut env);
        env
    }

    /// Whether RUN is given the caller's agent: one with its socket in the host's /tmp, which `ch-run` would show; not where
    /// the Dockerfile names another, or the host's /tmp is there.
    fn lends_agent(&self, path: &Path) -> bool {
        self.author == Author::User
            && path.starts_with("/tmp")
            && !path.components().any(|part| part == Component::ParentDir)
            && path.metadata().is_ok_and(|data| data.file_type().is_socket())
            && !self.env.iter().any(|(name, _)| name == AGENT)
            && !self.binds.iter().any(|bind| path.starts_with(&bind.target) && bind.source == bind.target)
    }

    /// `ledger`: what root emulation recorded before, and what it did now.
    pub fn run(&self, root: &Path, ledger: &mut Ledger) -> Result<(), Failure> {
        let mut spec = Spec::new(root, self.argv.iter().map(OsString::from).collect());
        spec.cwd = PathBuf::from(&self.cwd);
        spec.binds = self.binds.clone();
        spec.tmpfs = self.tmpfs.clone();
        let agent = std::env::var_os(AGENT).filter(|path| self.lends_agent(Path::new(path)));
        if let Some(socket) = &agent {
            spec.binds.push(Bind { need: Need::IfSource, ..Bind::new(socket, AGENT_PLACE) });
        }
        spec.network = self.network;
        spec.emulation = self.emulation;
        spec.run_as = self.user.as_ref().map(|user| user.ids.clone());
        spec.env = self.environment(&|name| match name {
            AGENT if agent.is_some() => Some(AGENT_PLACE.into()),
            _ => std::env::var_os(name),
        });
        match container::run_recorded(&spec, ledger) {
            Ok(Status::Exited(0)) => Ok(()),
            Ok(Status::Exited(code)) => Err(Failure::Exited(i32::from(code))),
            Ok(Status::Signaled(signal)) => Err(Failure::Exited(-signal)),
            Ok(Status::Interrupted(signal)) => {
                // The command is dead; now we are meant.
                sys::signal::request(signal);
                Err(Failure::Interrupted(signal))
            }
            Err(e) => Err(Failure::NotRun(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        let check = |code: i32, want: &str, why: &str| {
            assert_eq!(ending(code), want);
            assert!(cause(code).unwrap_or_default().contains(why), "{code}: {:?}", cause(code));
            assert_eq!(cause(code).is_some(), !why.is_empty(), "{code}");
        };
        check(3, "exited with 3", "");
        check(255, "exited with 255", "");
        check(-9, "was killed by signal 9 (SIGKILL)", "out of memory?");
        check(-11, "was killed by signal 11 (SIGSEGV)", "");
        check(-40, "was killed by signal 40", "");
        check(137, "exited with 137", "killed by signal 9 (SIGKILL); the kernel");
        check(139, "exited with 139", "killed by signal 11 (SIGSEGV)");
    }
}
