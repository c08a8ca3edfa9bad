//! How do layers become one tree? By overlayfs, mounted by ourselves inside our user namespace.
//!
//! Layers are named to the kernel as `/proc/self/fd/N`: no character in a path has to be escaped, and the whole
//! option string, limited to a page, holds about 220 of them. For deeper stacks a child changes its directory to
//! /proc/self/fd and names them `N`, which is enough for the kernel's limit of 500.
//!
//! Below every stack without an upper directory lies an empty tmpfs: overlayfs wants two layers, and only within a stack
//! are whiteouts and opaque marks of the lowest layer interpreted and not shown.

use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::log::warning;
use crate::sys::file;
use crate::sys::fs::{Lock, Wait, c_path, flock, keep_on_exec};
use crate::sys::mount::{self, NO_DEV, NO_SUID, READ_ONLY, Unmount};
use crate::sys::process::{self, Ended, Fork};

/// The kernel's limit (`OVL_MAX_STACK`).
pub const MAX_LAYERS: usize = 499;

/// A mounted stack of layers. Unmounted when dropped.
#[derive(Debug)]
pub struct Overlay {
    at: PathBuf,
    work: Option<PathBuf>,
    /// How many mounts lie on `at`: the hidden empty layer and the stack.
    mounts: usize,
}

impl Overlay {
    /// Mounts `layers`, lowest first, at the directory `at`: read-only, or writing to `upper.0` (with the empty
    /// directory `upper.1` of the same file system as the kernel's workplace). Needs [`super::enter`].
    pub fn mount(layers: &[PathBuf], upper: Option<(&Path, &Path)>, at: &Path) -> Result<Overlay> {
        if layers.len() > MAX_LAYERS {
            return Err(Error::new(format!("too many layers to mount: {} (at most {MAX_LAYERS})", layers.len())).hint(
                "make one tree of the image: ch-run -w IMAGE -- true; in a Dockerfile, join RUN instructions with &&",
            ));
        }
        let context = || format!("can't mount {} layers at {}", layers.len(), at.display());
        let mut overlay = Overlay { at: at.to_owned(), work: upper.map(|(_, work)| work.to_owned()), mounts: 0 };
        overlay.stack(layers, upper).context(context)?;
        Ok(overlay)
    }

    /// Mounts over a directory what it holds, read-only, with what `make` puts into an empty directory where the tree has
    /// nothing: places to mount on, and nothing is written into the tree.
    pub fn with_places(tree: &Path, make: &mut dyn FnMut(&Path) -> Result<()>) -> Result<Overlay> {
        let at = c_path(tree).context(|| tree.display().to_string())?;
        let mut overlay = Overlay { at: tree.to_owned(), work: None, mounts: 0 };
        let below = mount::open_path(&at).context(|| format!("can't open {}", tree.display()))?;
        mount::mount(Some(c"none"), &at, Some(c"tmpfs"), NO_SUID | NO_DEV, Some(c"size=1m,mode=755"))
            .context(|| "can't mount a tmpfs")?;
        overlay.mounts += 1;
        let places = tree.join("places");
        fs::create_dir(&places).context(|| format!("can't make {}", places.display()))?;
        make(&places)?;
        let places = c_path(&places).and_then(|path| mount::open_path(&path)).context(|| "can't open a tmpfs")?;
        let lower = [below, places];
        let options = options("", "/proc/self/fd/", &lower, None)?;
        mount::mount(Some(c"none"), &at, Some(c"overlay"), NO_SUID | NO_DEV | READ_ONLY, Some(&options))
            .map_err(|e| explain(&e))?;
        overlay.mounts += 1;
        Ok(overlay)
    }

    /// Mounts over a directory what it holds, or `layers` (lowest first), such that it can be written to: what is written
    /// is kept in memory, up to `size` (as tmpfs(5) takes it), and forgotten with the last process.
    pub fn in_memory(layers: Option<&[PathBuf]>, size: &str, at: &Path) -> Result<Overlay> {
        let mut overlay = Overlay { at: at.to_owned(), work: None, mounts: 0 };
        let lower = lower(layers, at)?;
        let c_at = c_path(at).context(|| at.display().to_string())?;
        let options = CString::new(format!("size={size},mode=755")).map_err(|_| Error::new("NUL in mount options"))?;
        mount::mount(Some(c"none"), &c_at, Some(c"tmpfs"), NO_SUID | NO_DEV, Some(&options))
            .context(|| format!("can't mount a tmpfs of size {size}"))?;
        overlay.mounts += 1;
        let upper = Uppers::make(at, &lower)?;
        if file::setxattr_place(upper.work.as_fd(), b"user.test", b"y").is_err() {
            warning!(
                "this kernel's tmpfs has no user extended attributes (Linux 6.6 has): with --write-fake, directories of \
                 the image can't be renamed, nor made again once they are removed; --overlay DIR on a local disk can"
            );
        }
        overlay.over(&lower, &upper, Durability::None)?;
        Ok(overlay)
    }

    fn over(&mut self, lower: &[OwnedFd], upper: &Uppers, durability: Durability) -> Result<()> {
        let at = c_path(&self.at).context(|| self.at.display().to_string())?;
        mount_layers(&at, lower, Some(upper), durability)
            .context(|| format!("can't mount {} writable", self.at.display()))?;
        self.mounts += 1;
        Ok(())
    }

    fn stack(&mut self, layers: &[PathBuf], upper: Option<(&Path, &Path)>) -> Result<()> {
        let at = c_path(&self.at).context(|| self.at.display().to_string())?;
        let open = |path: &Path| {
            let c = c_path(path).context(|| path.display().to_string())?;
            mount::open_path(&c).context(|| format!("can't open {}", path.display()))
        };
        let mut lower = layers.iter().rev().map(|layer| open(layer)).collect::<Result<Vec<_>>>()?;
        if layers.is_empty() || upper.is_none() {
            mount::mount(Some(c"none"), &at, Some(c"tmpfs"), NO_SUID | NO_DEV, Some(c"size=4k,nr_inodes=4,mode=755"))
                .context(|| "can't mount a tmpfs")?;
            self.mounts += 1;
            for name in ["1", "2"].iter().take(if lower.is_empty() && upper.is_none() { 2 } else { 1 }) {
                let empty = self.at.join(name);
                fs::create_dir(&empty).context(|| format!("can't make {}", empty.display()))?;
                lower.push(open(&empty)?);
            }
        }
        let upper = match upper {
            Some((upper, work)) => Some(Uppers { upper: open(upper)?, work: open(work)? }),
            None => None,
        };
        // Otherwise unmounting writes the whole file system's dirty data to disk, 10 ms and more a step. Nothing relies
        // on that: an image is synced as a whole when it gets its name.
        mount_layers(&at, &lower, upper.as_ref(), Durability::None)?;
        self.mounts += 1;
        Ok(())
    }

    /// Unmounts, and removes what the kernel leaves in the work directory.
    pub fn unmount(mut self) -> Result<()> {
        let at = c_path(&self.at).context(|| self.at.display().to_string())?;
        // A process that was just killed may hold it for a moment.
        let mut tries = 0;
        while let Err(e) = mount::unmount(&at, Unmount::Now) {
            tries += 1;
            if e.raw_os_error() != Some(libc::EBUSY) || tries > 40 {
                return Err(e).context(|| format!("can't unmount {}", self.at.display()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.mounts -= 1;
        self.release();
        Ok(())
    }

    /// What cannot be undone here is undone when the process ends, with its namespace.
    fn release(&mut self) {
        if let Ok(at) = c_path(&self.at) {
            while self.mounts > 0 {
                let _ = mount::unmount(&at, Unmount::Detach);
                self.mounts -= 1;
            }
        }
        if let Some(work) = self.work.take() {
            for name in ["work", "index"] {
                clear(&work.join(name));
            }
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.release();
    }
}

/// What is written goes to `upper`; the kernel works in `work`.
struct Uppers {
    upper: OwnedFd,
    work: OwnedFd,
}

impl Uppers {
    /// In `dir`, made if they are not there; the root directory has the mode of the lower one.
    fn make(dir: &Path, lower: &[OwnedFd]) -> Result<Uppers> {
        let open = |name: &str| -> Result<(OwnedFd, bool)> {
            let path = dir.join(name);
            let failed = || format!("can't make {}", path.display());
            let is_new = match fs::create_dir(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
                done => done.map(|()| true).context(failed)?,
            };
            let opened = c_path(&path).and_then(|path| mount::open_path(&path)).context(failed)?;
            Ok((opened, is_new))
        };
        let ((upper, is_new), (work, _)) = (open("upper")?, open("work")?);
        if is_new && let Some(top) = lower.first() {
            let mode = file::fstat(top.as_fd()).context(|| "can't look at the image")?.mode & 0o7777;
            file::chmod_place(upper.as_fd(), mode).context(|| "can't set the mode of the root directory")?;
        }
        Ok(Uppers { upper, work })
    }
}

/// The directory of `--overlay`. It may be used by one container at a time: by the first process, which mounts it, and by
/// those that enter that container. All of them hold a lock, and what they start inherits it.
pub struct Kept {
    dir: PathBuf,
    lock: File,
}

impl Kept {
    /// Makes the directory if it is not there.
    pub fn open(dir: &Path) -> Result<Kept> {
        let failed = || format!("can't use the overlay directory {}", dir.display());
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e).context(failed),
            Ok(()) | Err(_) => {}
        }
        let lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("lock"))
            .context(failed)?;
        Ok(Kept { dir: dir.to_owned(), lock })
    }

    /// Of one that has joined a container, or of the first.
    pub fn lock(&mut self, has_joined: bool) -> Result<()> {
        let failed = || format!("can't use the overlay directory {}", self.dir.display());
        let take = |lock| flock(&self.lock, lock, Wait::No).context(failed);
        // Who gets it alone is the only one; shared, those who join can have it, too.
        if !((has_joined || take(Lock::Exclusive)?) && take(Lock::Shared)?) {
            return Err(Error::new("another container is using it")
                .context(failed())
                .hint("wait for its end, or use another directory; peers share one with --join"));
        }
        keep_on_exec(&self.lock).context(failed)
    }

    /// Mounts over a directory what it holds, or `layers` (lowest first); what is written is kept.
    pub fn mount(&self, layers: Option<&[PathBuf]>, at: &Path) -> Result<Overlay> {
        let mut overlay = Overlay { at: at.to_owned(), work: None, mounts: 0 };
        let lower = lower(layers, at)?;
        let upper = Uppers::make(&self.dir, &lower)?;
        overlay
            .over(&lower, &upper, Durability::Disk)
            .context(|| format!("overlay directory {}", self.dir.display()))?;
        Ok(overlay)
    }
}

/// What lies below, highest first.
fn lower(layers: Option<&[PathBuf]>, tree: &Path) -> Result<Vec<OwnedFd>> {
    let open = |path: &Path| {
        let c = c_path(path).context(|| path.display().to_string())?;
        mount::open_path(&c).context(|| format!("can't open {}", path.display()))
    };
    match layers {
        Some(layers) => layers.iter().rev().map(|layer| open(layer)).collect(),
        None => Ok(vec![open(tree)?]),
    }
}

/// Whether what is written has to reach the disk at fsync(2), and when it is unmounted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Durability {
    None,
    Disk,
}

fn mount_layers(at: &CStr, lower: &[OwnedFd], upper: Option<&Uppers>, durability: Durability) -> Result<()> {
    let flags = NO_SUID | NO_DEV | if upper.is_none() { READ_ONLY } else { 0 };
    let try_with = |more: &str| -> Result<io::Result<()>> {
        let long = options(more, "/proc/self/fd/", lower, upper)?;
        if long.as_bytes().len() < PAGE {
            return Ok(mount::mount(Some(c"none"), at, Some(c"overlay"), flags, Some(&long)));
        }
        Ok(mount_beside_fds(at, flags, &options(more, "", lower, upper)?))
    };
    let is_volatile = upper.is_some() && durability == Durability::None;
    let mut done = try_with(if is_volatile { "volatile," } else { "" })?;
    if is_volatile && done.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL)) {
        // Older kernels do not know it.
        done = try_with("")?;
    }
    done.map_err(|e| explain(&e))
}

const PAGE: usize = 4096;

fn options(more: &str, prefix: &str, lower: &[OwnedFd], upper: Option<&Uppers>) -> Result<CString> {
    // No index: hard links of lower layers would otherwise be tied to this very stack.
    let mut text = format!("userxattr,index=off,{more}");
    if let Some(Uppers { upper, work }) = upper {
        let (upper, work) = (upper.as_raw_fd(), work.as_raw_fd());
        let _ = write!(text, "upperdir={prefix}{upper},workdir={prefix}{work},");
    }
    text.push_str("lowerdir=");
    for (i, fd) in lower.iter().enumerate() {
        let _ = write!(text, "{}{prefix}{}", if i == 0 { "" } else { ":" }, fd.as_raw_fd());
    }
    CString::new(text).map_err(|_| Error::new("NUL in mount options"))
}

/// Mounts from within /proc/self/fd, in a child: the directory of this process belongs to all of its threads.
fn mount_beside_fds(at: &CStr, flags: u64, options: &CStr) -> io::Result<()> {
    if options.to_bytes().len() >= PAGE {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    match process::fork(0)? {
        Fork::Child => {
            let done = process::chdir(c"/proc/self/fd")
                .and_then(|()| mount::mount(Some(c"none"), at, Some(c"overlay"), flags, Some(options)));
            process::exit(done.err().map_or(0, |e| e.raw_os_error().unwrap_or(libc::EIO)))
        }
        Fork::Parent(pid) => match process::wait(pid)? {
            Ended::Exited(0) => Ok(()),
            Ended::Exited(errno) => Err(io::Error::from_raw_os_error(i32::from(errno))),
            Ended::Signaled(n) => Err(io::Error::other(format!("the child that mounts was killed by signal {n}"))),
        },
    }
}

fn explain(e: &io::Error) -> Error {
    let error = Error::from(io::Error::from_raw_os_error(e.raw_os_error().unwrap_or(libc::EIO)));
    match e.raw_os_error() {
        Some(libc::EPERM) => error.hint("overlayfs in a user namespace needs Linux 5.11, or Ubuntu's or RHEL 8.5's kernel"),
        Some(libc::ENODEV) => error.hint("this kernel has no overlayfs: ask the administrator for: modprobe overlay"),
        Some(libc::EINVAL) => error.hint(
            "the file system may be unfit for overlayfs (NFS, Lustre, or without user xattrs), or the kernel be older than 5.11",
        ),
        Some(libc::ELOOP) => error.hint("a layer occurs twice, or lies within another"),
        _ => error,
    }
}

/// Removes a directory of the kernel's, which may have no permission bits.
fn clear(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if fs::remove_dir(dir).is_ok() || dir.symlink_metadata().is_err() {
        return;
    }
    // What remains is swept with the temporary directory that it lies in.
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    let _ = fs::remove_dir_all(dir);
}
