//! What is there to do before a command runs? One step each, as plain data: what it is called, on what it mounts, and
//! what an error of the kernel means there.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::enter::Maps;
use super::mountpoint::{Shape, Target};
use crate::log::escape;
use crate::sys::process::Words;
use crate::sys::seccomp::Instruction;

/// One thing to do, with everything that it needs made ready.
#[derive(Debug)]
pub enum Step {
    /// A place in a directory of the host, to mount on. Made beforehand, so that it can be removed afterwards.
    Stub {
        within: PathBuf,
        target: Target,
        shape: Shape,
    },
    /// Makes the tree a mount of its own.
    Root(CString),
    Bind {
        source: CString,
        target: Target,
        access: Access,
        make: Make,
    },
    /// A fresh /proc for this PID namespace; the host's, read-only, where the kernel refuses (its own is partly covered).
    Proc(Target),
    /// What sets the kernel itself in that /proc.
    KernelReadOnly(Target),
    Tmpfs {
        target: Target,
        options: CString,
    },
    /// An empty mount with a name.
    Mark {
        target: Target,
        name: CString,
    },
    /// A small file over an existing one; `scratch` is a directory that is not mounted on yet.
    Put {
        scratch: Target,
        target: Target,
        content: Vec<u8>,
    },
    RootReadOnly,
    LoopbackUp,
    /// The tree becomes the root directory, the host's goes.
    Pivot,
    /// User and group other than 0, by a user namespace within ours.
    Identity {
        uid: u32,
        gid: u32,
        maps: Maps,
    },
    Directory(CString),
    /// A file in the tree, to put another over. Made beforehand.
    FilePlace(Target),
    /// A directory in the tree, to begin in. Made beforehand.
    Place(Target),
    /// The image's working directory; `/` and a warning with that advice if it is not to be had.
    DirectoryOrRoot(CString, &'static str),
    /// From here on in a child; this process reaps what is orphaned and ends when that child ends.
    Init,
    /// Tells peers that the container stands.
    Announce,
    Session,
    Umask(u32),
    NoInput,
    /// Standard output and error are pipes to the parent.
    Output,
    CloseDescriptors,
    DefaultSignals,
    NoNewPrivileges,
    /// Privileged calls succeed without doing anything.
    Pretend(Vec<Instruction>),
    /// Privileged calls are trapped and recorded.
    Record(Vec<Instruction>),
    /// Calls that give files away are trapped and go on, if that is possible.
    Watch(Vec<Instruction>),
    Execute(Program),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Write,
    /// Nor anything below.
    Read,
    /// Names cannot be made or removed; devices work, and what is mounted below stays as it is.
    Names,
}

/// What to do when a component of a target is missing in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Make {
    Nothing,
    /// Make directories: the target lies in a tmpfs of ours.
    Directories,
    /// The same, and in the end a file.
    File,
}

/// The command, found by trying each candidate in turn.
#[derive(Debug)]
pub struct Program {
    pub candidates: Vec<CString>,
    pub argv: Words,
    pub env: Words,
}

impl Step {
    /// The place in the tree that this step mounts on, and what has to be there.
    pub fn place(&self) -> Option<(&Target, Shape)> {
        match self {
            Step::Bind { target, make: Make::Nothing, source, .. } => {
                let dir = Path::new(OsStr::from_bytes(source.as_bytes())).is_dir();
                Some((target, if dir { Shape::Directory } else { Shape::File }))
            }
            Step::Bind { .. } => None,
            Step::Proc(target) | Step::Tmpfs { target, .. } | Step::Mark { target, .. } | Step::Place(target) => {
                Some((target, Shape::Directory))
            }
            Step::FilePlace(target) => Some((target, Shape::File)),
            Step::Put { scratch, .. } => Some((scratch, Shape::Directory)),
            Step::Stub { .. }
            | Step::Root(_)
            | Step::KernelReadOnly(_)
            | Step::RootReadOnly
            | Step::LoopbackUp
            | Step::Pivot
            | Step::Identity { .. }
            | Step::Directory(_)
            | Step::DirectoryOrRoot(..)
            | Step::Init
            | Step::Announce
            | Step::Session
            | Step::Umask(_)
            | Step::NoInput
            | Step::Output
            | Step::CloseDescriptors
            | Step::DefaultSignals
            | Step::NoNewPrivileges
            | Step::Pretend(_)
            | Step::Record(_)
            | Step::Watch(_)
            | Step::Execute(_) => None,
        }
    }

    /// The way out, where an errno has a known meaning.
    pub fn hint(&self, errno: i32) -> Option<String> {
        let text = match (self, errno) {
            (Step::Directory(_), libc::ENOENT) => {
                "the working directory does not exist in the image: ch-run --cd / begins elsewhere"
            }
            (Step::Directory(_), libc::ENOTDIR) => "the working directory is not a directory in the image",
            (Step::Execute(_), libc::ENOEXEC) => "not a program of this machine: other architecture, or no #! line",
            (Step::Execute(_), libc::EACCES) => "it is not executable: chmod +x",
            (Step::Execute(_), libc::E2BIG) => {
                "one argument may have 128 KiB, and all together not much more: put what is longer into a script"
            }
            (Step::Execute(program), libc::ENOENT) => return Some(not_found(program)),
            (Step::Pretend(_), libc::EINVAL | libc::ENOSYS) => "this kernel has no seccomp filters (Linux 3.17)",
            (Step::Record(_), _) => "--force=seccomp wants less of the kernel",
            (Step::Init, libc::EAGAIN) => "too many processes: see ulimit -u",
            (Step::Identity { .. }, libc::ENOSPC | libc::EUSERS) => {
                "another user than 0 needs a second user namespace: the limit is user.max_user_namespaces"
            }
            (Step::Bind { .. }, libc::ELOOP) => "the target became a symbolic link",
            (Step::Root(_) | Step::Bind { .. }, libc::ENOSPC) => "too many mounts: the limit is fs.mount-max",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// A command without a slash was looked for in several places.
fn not_found(program: &Program) -> String {
    let or = "or it is there, but its interpreter (#! line, dynamic loader) is not";
    let is_path =
        program.argv.strings().first().is_none_or(|command| command.is_empty() || command.as_bytes().contains(&b'/'));
    if is_path {
        return format!("it is not there; {or}");
    }
    let directory = |path: &CString| {
        Some(escape(&Path::new(OsStr::from_bytes(path.as_bytes())).parent()?.to_string_lossy()).into_owned())
    };
    let places: Vec<String> = program.candidates.iter().filter_map(directory).collect();
    format!("not found in PATH, which is {}; {or}", places.join(":"))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Step::Stub { within, target, .. } => write!(f, "make {target} in {} to mount on", within.display()),
            Step::Root(path) => write!(f, "mount {} as root", shown(path)),
            Step::Bind { source, target, access, .. } => {
                let how = match access {
                    Access::Write => "",
                    Access::Read | Access::Names => " read-only",
                };
                write!(f, "bind {} at {target}{how}", shown(source))
            }
            Step::Proc(target) => write!(f, "mount proc at {target}"),
            Step::KernelReadOnly(target) => write!(f, "make the kernel's settings in {target} read-only"),
            Step::Tmpfs { target, options } => write!(f, "mount a tmpfs at {target} ({})", shown(options)),
            Step::Mark { target, name } => write!(f, "mark {target} as {}", shown(name)),
            Step::Put { target, .. } => write!(f, "put a file over {target}"),
            Step::RootReadOnly => f.write_str("make the root read-only"),
            Step::LoopbackUp => f.write_str("set the loopback interface up"),
            Step::Pivot => f.write_str("change the root directory"),
            Step::Identity { uid, gid, .. } => write!(f, "become user {uid} and group {gid}"),
            Step::FilePlace(target) => write!(f, "make {target} to put a file over"),
            Step::Place(target) => write!(f, "make {target} to begin in"),
            Step::DirectoryOrRoot(path, _) => write!(f, "change the directory to {}, else /", shown(path)),
            Step::Directory(path) => write!(f, "change the directory to {}", shown(path)),
            Step::Init => f.write_str("start a child"),
            Step::Announce => f.write_str("let peers in"),
            Step::Session => f.write_str("start a session"),
            Step::Umask(mask) => write!(f, "set the umask to {mask:03o}"),
            Step::NoInput => f.write_str("take the input from /dev/null"),
            Step::Output => f.write_str("hand the output to the parent"),
            Step::CloseDescriptors => f.write_str("close descriptors"),
            Step::DefaultSignals => f.write_str("set the signals to their defaults"),
            Step::NoNewPrivileges => f.write_str("forbid new privileges"),
            Step::Pretend(_) => f.write_str("pretend privileged calls"),
            Step::Record(_) => f.write_str("record privileged calls"),
            Step::Watch(_) => f.write_str("watch for chown"),
            Step::Execute(program) => match program.argv.strings().first() {
                Some(command) => write!(f, "execve(2): {}", shown(command)),
                None => f.write_str("execve(2)"),
            },
        }
    }
}

fn shown(s: &CString) -> String {
    escape(&s.to_string_lossy()).into_owned()
}
