//! Starting the process that serves, and mounting what it serves.
//!
//! The command keeps this process; a grandchild serves, so that a command that waits for all of its children does not
//! wait for it. It stays outside the mount namespace that has the mount: when the last process in there ends, whichever
//! that is, the kernel unmounts the tree, and reading the device fails.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use super::answer::Answerer;
use super::serve::{Counts, Log, Service};
use crate::error::{Context, Error, Result};
use crate::sys::detach;
use crate::sys::fs::c_path;
use crate::sys::fuse;
use crate::sys::mount::{self, NO_DEV, NO_SUID, READ_ONLY};
use crate::sys::process;
use crate::tree::Tree;

/// Whether a tree can be mounted here, as far as the device tells.
pub fn can_open() -> io::Result<()> {
    fuse::open().map(drop)
}

/// What to ask the administrator for, where it can't.
pub fn advice(e: &io::Error) -> &'static str {
    match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => "modprobe fuse",
        _ => "chmod 0666 /dev/fuse (as udev makes it)",
    }
}

/// A tree to be mounted.
pub struct Mounting<'t> {
    pub tree: &'t dyn Tree,
    /// Descriptors that the tree needs.
    pub keep: Vec<RawFd>,
    /// To whom all of it belongs, as seen in the user namespace.
    pub owner: (u32, u32),
    /// What it is called in messages.
    pub name: String,
}

/// A process that is ready to serve. It ends if this is dropped, or this process ends, before the tree is mounted.
pub struct Server {
    device: File,
    begin: PipeWriter,
    owner: (u32, u32),
    name: String,
}

impl Mounting<'_> {
    /// Call it in the user namespace, in a process with one thread. The tree is mounted in another mount namespace.
    pub fn start(self) -> Result<Server> {
        let failed = || format!("can't mount {}", self.name);
        let device = fuse::open().context(|| fuse::DEVICE).context(failed)?;
        let (wait, begin) = io::pipe().context(failed)?;
        let counts = std::env::var_os("CH_TEST_FUSE_COUNT").and_then(|path| File::create(path).ok());
        let command = process::pid();
        let mut keep = self.keep.clone();
        keep.extend([device.as_raw_fd(), wait.as_raw_fd()]);
        keep.extend(counts.as_ref().map(AsRawFd::as_raw_fd));
        detach::start(&keep, || {
            self.serve(&device, wait, counts, command);
            0
        })
        .context(|| "can't start a process")
        .context(failed)?;
        Ok(Server { device, begin, owner: self.owner, name: self.name })
    }

    fn serve(&self, device: &File, mut wait: PipeReader, counts: Option<File>, command: process::Pid) {
        // Before it is mounted, the device can't be read.
        let mut byte = [0];
        loop {
            match wait.read(&mut byte) {
                Ok(1) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return,
            }
        }
        drop(wait);
        let answerer = Answerer::new(self.tree, self.owner);
        let mut service = Service::new(answerer, Log::new(command, self.name.clone()));
        service.counts = Counts::into(counts);
        service.run(device);
    }
}

impl Server {
    /// Mounts the tree over the directory `at`, in this process's mount namespace: not that in which it was started.
    pub fn mount(mut self, at: &Path) -> Result<()> {
        let failed = || format!("can't mount {}", self.name);
        let at = c_path(at).context(failed)?;
        // All processes of the user namespace may use it, whatever groups they have; the kernel checks the modes.
        let (fd, (uid, gid)) = (self.device.as_raw_fd(), self.owner);
        let options = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid},allow_other,default_permissions");
        let options = CString::new(options).map_err(|_| Error::new("NUL in mount options"))?;
        let flags = NO_SUID | NO_DEV | READ_ONLY;
        let mounted = mount::mount(Some(c"ch-run"), &at, Some(c"fuse"), flags, Some(&options));
        mounted
            .context(failed)
            .map_err(|e| e.hint("this needs Linux 4.18; with --no-mount the image is unpacked instead"))?;
        self.begin.write_all(&[1]).context(failed)
    }
}
