//! How is a command isolated?
//!
//! A [`Spec`] says what the command shall see; [`setup::plan`] turns it into a list of steps, plain data with `Display`;
//! one loop ([`execute`]) does them, in a child that must not allocate and reports the step that failed and its errno.
//! [`run_recorded`] is for RUN: a child, waited for, with a PID namespace so that nothing survives it. [`exec`] is for ch-run:
//! this process becomes the command, as MPI launchers and batch systems want.
//!
//! Deliberately absent: seccomp as a defence (a command runs as the user, with the host's network; a mount namespace is
//! no security boundary), cgroups, the UTS and IPC namespaces.

mod answerer;
mod credentials;
mod display;
mod emulate_create;
mod enter;
mod env;
mod execute;
mod filter;
mod foreign;
mod identity;
mod inherit;
pub mod inject;
mod inode_owners;
mod join;
mod launch;
mod launcher;
mod metadata;
mod mountpoint;
mod output;
mod overlay;
pub mod ownership;
mod probe;
pub mod request;
mod setup;
mod step;
mod supervisor;
mod tracee;
mod variables;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;

pub use enter::{can_enter, enter, invoker, separate};
pub use env::{finish as finish_environment, set as set_variable};
pub use foreign::Maker;
pub use inode_owners::{Record, follow};
pub use launch::{NOT_EXECUTABLE, NOT_FOUND, Status, exec, run_recorded};
pub use metadata::foreign as foreign_configuration;
pub use overlay::{MAX_LAYERS, Overlay};
pub use probe::{Obstacle, can_record};
pub use watch::Seen;

/// What a command shall see, and as whom.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The tree, as this process sees it (an [`Overlay`]'s place, or a directory).
    pub root: PathBuf,
    pub writable: bool,
    /// User and group as the command sees them; on the host it is always the caller.
    pub uid: u32,
    pub gid: u32,
    /// Within the tree.
    pub cwd: PathBuf,
    pub no_cwd: NoDirectory,
    /// Mounted after the standard ones: in this order by [`exec`]; by [`run_recorded`] so that none hides another.
    pub binds: Vec<Bind>,
    pub tmpfs: Vec<Tmpfs>,
    /// Path and content of files that lie over those of the tree.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// The whole environment. `PATH` in it says where the command is looked for.
    pub env: Vec<(OsString, OsString)>,
    pub argv: Vec<OsString>,
    pub network: Network,
    pub tmp: Tmp,
    pub home: Option<Home>,
    /// If said, /etc/passwd and /etc/group name the user and group that the command has.
    pub account: Option<Account>,
    pub stdin: Stdin,
    pub emulation: Emulation,
    pub watch: Watch,
    /// The name of a mount by which peers find the container.
    pub mark: Option<String>,
    /// The emulated user that the command starts as, with [`Emulation::Notify`]. `None`, and otherwise: root.
    pub run_as: Option<ImageUser>,
}

/// A user of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Spec {
    /// As RUN wants it: `ch-run -w -u0 -g0 --no-home --no-passwd`, but with the image's /tmp.
    pub fn new(root: impl Into<PathBuf>, argv: Vec<OsString>) -> Spec {
        Spec {
            root: root.into(),
            writable: true,
            uid: 0,
            gid: 0,
            cwd: PathBuf::from("/"),
            no_cwd: NoDirectory::Fail,
            binds: Vec::new(),
            tmpfs: Vec::new(),
            files: Vec::new(),
            env: Vec::new(),
            argv,
            network: Network::Host,
            tmp: Tmp::Image,
            home: None,
            account: None,
            stdin: Stdin::Null,
            emulation: Emulation::None,
            watch: Watch::Nothing,
            mark: None,
            run_as: None,
        }
    }
}

/// What to do where the working directory is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoDirectory {
    Fail,
    /// Make it, or if that is not possible begin in the root directory.
    MakeOrBeginInRoot,
}

/// What the command's user and group are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub user: String,
    pub full_name: String,
    pub home: String,
    pub group: String,
}

/// A file or directory of the host, seen in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    pub source: PathBuf,
    /// Within the tree. Made if it is not there, and removed again after [`run_recorded`].
    pub target: PathBuf,
    pub read_only: bool,
    pub need: Need,
    pub within: Within,
}

/// What becomes of a target that lies within a bind, where it is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// An error: what is bound stays as it is.
    Refused,
    /// It is made in the bind's source, and removed again after [`run_recorded`].
    Made,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It is an error if it cannot be done.
    Always,
    /// Left out if the source is not there; the target is made.
    IfSource,
    /// Left out if either is not there.
    IfBoth,
}

impl Bind {
    pub fn new(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Bind {
        let (source, target) = (source.into(), target.into());
        Bind { source, target, read_only: false, need: Need::Always, within: Within::Refused }
    }
}

/// A file system in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// Within the tree.
    pub target: PathBuf,
    /// Bytes; the kernel's default (half of the memory) if not said.
    pub size: Option<u64>,
    pub mode: u32,
}

/// The user's home directory, seen at `/home/USER`; the rest of /home is hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    pub source: PathBuf,
    pub user: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Host,
    /// A network of its own with nothing but loopback.
    None,
}

/// What is at /tmp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tmp {
    Host,
    /// What the tree has there; made for the command if there is nothing.
    Image,
    /// A tmpfs.
    Private,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    Null,
    Inherit,
}

/// What becomes of system calls that only a real root may make (chown, mknod, setuid, …).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulation {
    /// They fail.
    None,
    /// They do nothing and succeed.
    Seccomp,
    /// They do nothing, succeed and are recorded; later calls see what was recorded.
    Notify,
}

/// Which calls are looked at by [`run_recorded`], without [`Emulation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    Nothing,
    /// Those that give a file to somebody else.
    Chown,
}

#[cfg(test)]
mod tests;
