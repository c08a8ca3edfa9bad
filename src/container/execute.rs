//! Doing the steps: one loop, which neither allocates nor panics, since it runs between fork and exec.

use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use super::mountpoint::Target;
use super::output::Ends;
use super::step::{Access, Make, Program, Step};
use crate::error::io_text;
use crate::log::warning;
use crate::sys::mount::{
    self, BIND, FdPath, Kind, MOVE, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY, RECURSIVE, REMOUNT, Unmount,
};
use crate::sys::namespace::{self, NEW_USER};
use crate::sys::process::{self, Dumpable, Fork};
use crate::sys::seccomp::{self, Instruction, Listener};
use crate::sys::signal::{self, Mask};

/// What the loop needs besides the steps.
pub struct Execution<'a> {
    pub root: Option<OwnedFd>,
    /// /dev/null, opened on the host.
    pub null: &'a OwnedFd,
    /// Does not return: the part of a process that waits for its child.
    pub init: &'a dyn Fn(process::Pid),
    pub announce: &'a dyn Fn() -> io::Result<()>,
    /// Stays open until the exec.
    pub keep: &'a OwnedFd,
    /// Becomes standard output and error.
    pub output: Option<&'a Ends>,
    /// Takes the listener of a recording filter to the parent.
    pub socket: Option<&'a OwnedFd>,
}

/// Does the steps. Returns only if one fails: which, and why.
pub fn execute_all(steps: &[Step], execution: &mut Execution) -> (usize, io::Error) {
    for (i, step) in steps.iter().enumerate() {
        if let Err(e) = execution.perform(step) {
            return (i, e);
        }
    }
    // The last step is the exec, which does not return without an error.
    (steps.len(), io::Error::from_raw_os_error(libc::EINVAL))
}

impl Execution<'_> {
    fn perform(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Stub { .. } | Step::Place(_) | Step::FilePlace(_) => Ok(()),
            Step::Root(path) => {
                mount::mount(Some(path), path, None, BIND | RECURSIVE, None)?;
                self.root = Some(mount::open_path(path)?);
                Ok(())
            }
            Step::Bind { source, target, access, make } => {
                let at = self.open(target, *make)?;
                mount::mount(Some(source), FdPath::of(&at).as_c(), None, BIND | RECURSIVE, None)?;
                match access {
                    Access::Write => Ok(()),
                    // Opened again: the descriptor stands for what is below the new mount.
                    Access::Read => read_only(&self.open(target, Make::Nothing)?, Depth::Below),
                    Access::Names => read_only(&self.open(target, Make::Nothing)?, Depth::This),
                }
            }
            Step::Proc(target) => {
                let at = self.open(target, Make::Nothing)?;
                let at = FdPath::of(&at);
                match mount::mount(Some(c"proc"), at.as_c(), Some(c"proc"), NO_SUID | NO_DEV | NO_EXEC, None) {
                    // With our own processes in it, and others of the user; the kernel protects those that hide and
                    // those of other user namespaces.
                    Err(e) if e.raw_os_error() == Some(libc::EPERM) && process::dumpable()? == Dumpable::No => {
                        mount::mount(Some(c"/proc"), at.as_c(), None, BIND | RECURSIVE, None)?;
                        read_only(&self.open(target, Make::Nothing)?, Depth::Below)
                    }
                    done => done,
                }
            }
            Step::KernelReadOnly(target) => {
                let proc = self.open(target, Make::Nothing)?;
                for name in [c"sys", c"sysrq-trigger", c"irq", c"bus", c"fs"] {
                    let Ok(place) = mount::open_place(&proc, name) else { continue };
                    let path = FdPath::of(&place);
                    mount::mount(Some(path.as_c()), path.as_c(), None, BIND, None)?;
                    read_only(&mount::open_place(&proc, name)?, Depth::This)?;
                }
                Ok(())
            }
            Step::Tmpfs { target, options } => {
                let at = self.open(target, Make::Directories)?;
                let at = FdPath::of(&at);
                mount::mount(Some(c"none"), at.as_c(), Some(c"tmpfs"), NO_SUID | NO_DEV, Some(options))
            }
            Step::Mark { target, name } => {
                let at = self.open(target, Make::Nothing)?;
                let flags = NO_SUID | NO_DEV | NO_EXEC | READ_ONLY;
                mount::mount(Some(name), FdPath::of(&at).as_c(), Some(c"tmpfs"), flags, Some(c"size=4k,nr_inodes=1"))
            }
            Step::Put { scratch, target, content } => self.put(scratch, target, content),
            Step::RootReadOnly => read_only(self.root()?, Depth::This),
            Step::LoopbackUp => namespace::loopback_up(),
            Step::Pivot => self.pivot(),
            Step::Identity { maps, .. } => {
                namespace::unshare(NEW_USER)?;
                maps.write()
            }
            Step::Directory(path) => change_directory(path),
            Step::DirectoryOrRoot(path, advice) => change_directory(path).or_else(|e| {
                // Only who becomes the command does this, so nothing is forked that may not allocate.
                let (path, cause) = (crate::log::escape(&path.to_string_lossy()).into_owned(), io_text(&e));
                warning!("can't begin in {path}, the image's working directory: {cause}: beginning in /{advice}");
                process::chdir(c"/")
            }),
            Step::Init => {
                if let Fork::Parent(child) = process::fork(0)? {
                    (self.init)(child);
                }
                Ok(())
            }
            Step::Announce => (self.announce)(),
            Step::Session => process::new_session(),
            Step::Umask(mask) => {
                process::umask(*mask);
                Ok(())
            }
            Step::NoInput => process::replace(self.null, 0),
            Step::Output => self.output.map_or(Ok(()), |ends| {
                process::replace(&ends.out, 1)?;
                process::replace(&ends.error, 2)
            }),
            Step::CloseDescriptors => {
                self.root = None;
                let keep = self.keep.as_raw_fd();
                process::close_all_but(&[keep, self.socket.map_or(keep, |s| s.as_raw_fd())])
            }
            Step::DefaultSignals => {
                for signal in DEFAULTS {
                    signal::set_default(*signal)?;
                }
                Mask::empty().set().map(drop)
            }
            Step::NoNewPrivileges => process::no_new_privileges(),
            Step::Pretend(filter) => seccomp::install(filter, Listener::None).map(drop),
            Step::Record(filter) => self.record(filter),
            Step::Watch(filter) => match (self.socket, seccomp::install(filter, Listener::New)) {
                (Some(socket), Ok(Some(listener))) => seccomp::send_descriptor(socket, &listener),
                // Somebody else listens already, or the kernel is too old.
                _ => Ok(()),
            },
            Step::Execute(program) => Err(execute(program)),
        }
    }

    fn record(&self, filter: &[Instruction]) -> io::Result<()> {
        match (self.socket, seccomp::install(filter, Listener::New)?) {
            (Some(socket), Some(listener)) => seccomp::send_descriptor(socket, &listener),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    fn root(&self) -> io::Result<&OwnedFd> {
        self.root.as_ref().ok_or(io::Error::from_raw_os_error(libc::EBADF))
    }

    /// Opens a target one component at a time, so that none can be a link, and enters what is mounted on the way.
    fn open(&self, target: &Target, make: Make) -> io::Result<OwnedFd> {
        let mut here: Option<OwnedFd> = None;
        for (i, part) in target.parts().iter().enumerate() {
            let dir = here.as_ref().unwrap_or(self.root()?);
            let next = match mount::open_place(dir, part) {
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) && make != Make::Nothing => {
                    let last = i + 1 == target.parts().len();
                    match make {
                        Make::File if last => drop(mount::create_file(dir, part)?),
                        Make::File | Make::Directories | Make::Nothing => mount::make_directory(dir, part)?,
                    }
                    mount::open_place(dir, part)?
                }
                found => found?,
            };
            if mount::kind(&next)? == Kind::Link {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            here = Some(next);
        }
        // A target is never the root itself.
        here.ok_or(io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// The file lives in a tmpfs that is taken out of the tree at once and stays alive by being bound.
    fn put(&self, scratch: &Target, target: &Target, content: &[u8]) -> io::Result<()> {
        let below = self.open(scratch, Make::Nothing)?;
        let options = c"mode=755,size=16m,nr_inodes=4";
        mount::mount(Some(c"none"), FdPath::of(&below).as_c(), Some(c"tmpfs"), NO_SUID | NO_DEV, Some(options))?;
        let tmpfs = self.open(scratch, Make::Nothing)?;
        let file = mount::create_file(&tmpfs, c"file")?;
        let file = std::fs::File::from(file);
        (&file).write_all(content)?;
        let at = self.open(target, Make::Nothing)?;
        mount::mount(Some(FdPath::of(&file).as_c()), FdPath::of(&at).as_c(), None, BIND, None)?;
        drop(file);
        mount::unmount(FdPath::of(&tmpfs).as_c(), Unmount::Detach)
    }

    fn pivot(&mut self) -> io::Result<()> {
        process::chdir(FdPath::of(self.root()?).as_c())?;
        self.root = None;
        match namespace::pivot_root(c".", c".") {
            // Where the host's root is the initial RAM disk (diskless nodes), the kernel refuses: move over it.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                mount::mount(Some(c"."), c"/", None, MOVE, None)?;
                namespace::chroot(c".")?;
            }
            done => {
                done?;
                // Both roots are here now, the old one on top.
                mount::unmount(c".", Unmount::Detach)?;
            }
        }
        process::chdir(c"/")
    }
}

fn change_directory(path: &CStr) -> io::Result<()> {
    process::chdir(path)?;
    if process::cwd_is_inside_root()? { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EXDEV)) }
}

/// Those that the Rust runtime ignores or that we handle: what is ignored would stay so after the exec.
const DEFAULTS: &[libc::c_int] =
    &[libc::SIGPIPE, libc::SIGXFSZ, libc::SIGINT, libc::SIGTERM, libc::SIGQUIT, libc::SIGTSTP, libc::SIGCONT];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    This,
    /// And all mounts below, where the kernel can.
    Below,
}

fn read_only(at: &OwnedFd, depth: Depth) -> io::Result<()> {
    let path = FdPath::of(at);
    if depth == Depth::Below && mount::set_read_only(path.as_c()).is_ok() {
        return Ok(());
    }
    let flags = mount::flags(at)?;
    mount::mount(None, path.as_c(), None, REMOUNT | BIND | READ_ONLY | flags, None)
}

fn execute(program: &Program) -> io::Error {
    let mut worst = io::Error::from_raw_os_error(libc::ENOENT);
    for path in &program.candidates {
        let e = process::execve(path, &program.argv, &program.env);
        match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => worst = e,
            _ => return e,
        }
    }
    worst
}
