//! How is a file inside an image reached? From a descriptor of the image's root, never by joining strings.
//!
//! `openat2(2)` with `RESOLVE_IN_ROOT` where the kernel has it, else the walk of `resolve.rs`. Paths may be absolute or
//! relative and mean the same: the root is `/`.

use std::ffi::OsStr;
use std::fs::File;
#[cfg(test)]
use std::io::Write;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Context, Result, bail};
use crate::log;
use crate::sys::file::{self, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, Stat, Time};
#[cfg(test)]
use crate::sys::file::{O_CREAT, O_EXCL, O_WRONLY};

use super::resolve::{self, Fail, Make, Place};
pub use super::resolve::{Bounds, Last};

/// The root directory of a tree.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    bounds: Bounds,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A path from inside an image, fit to be shown: escaped, and the middle of a very long one left out.
pub fn show(path: &[u8]) -> String {
    const LONG: usize = 300;
    if path.len() <= LONG {
        return log::escape(&String::from_utf8_lossy(path)).into_owned();
    }
    format!("{}…{}", show(&path[..LONG / 2]), show(&path[path.len() - LONG / 4..]))
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

impl Root {
    /// Opens a directory of the host; links in `path` are followed as usual.
    pub fn open(path: &Path) -> Result<Root> {
        let here = file::openat(file::CWD, bytes(path), O_RDONLY | O_DIRECTORY, 0);
        Ok(Root { fd: here.context(|| format!("can't open directory {}", path.display()))?, bounds: Bounds::InRoot })
    }

    /// Takes a directory that is open already (not with `O_PATH`).
    pub fn from_fd(fd: OwnedFd) -> Root {
        Root { fd, bounds: Bounds::InRoot }
    }

    /// Gives the directory the time of those that no archive describes, so that a tree does not tell when it was unpacked.
    pub fn forget_time(&self) -> Result<()> {
        Ok(file::futimens(self.fd.as_fd(), Time::default())?)
    }

    /// The same directory, where leaving it is an error (build contexts).
    pub fn beneath(self) -> Root {
        Root { bounds: Bounds::Beneath, ..self }
    }

    pub fn try_clone(&self) -> Result<Root> {
        Ok(Root { fd: self.fd.try_clone()?, bounds: self.bounds })
    }

    /// Where `path` leads, without links; the last component need not exist.
    pub fn resolve(&self, path: &Path, last: Last) -> Result<PathBuf> {
        let place = self.place(bytes(path), last).context(|| format!("can't resolve {}", show(bytes(path))))?;
        Ok(PathBuf::from(OsStr::from_bytes(&place.path())))
    }

    /// What is there; `None` if nothing.
    pub fn stat(&self, path: &Path, last: Last) -> Result<Option<Stat>> {
        let found = match self.place(bytes(path), last) {
            Ok(place) => place.stat(),
            Err(e) => Err(e),
        };
        match found {
            Ok(stat) => Ok(stat),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
            Err(e) => Err(e).context(|| format!("can't look at {}", show(bytes(path)))),
        }
    }

    /// Whether `path` ends outside, by links or `..` (only [`Root::beneath`]).
    pub fn leads_out(&self, path: &Path) -> bool {
        matches!(self.place(bytes(path), Last::Follow), Err(e) if e.raw_os_error() == Some(libc::EXDEV))
    }

    /// Opens a directory, following links.
    pub fn open_dir(&self, path: &Path) -> Result<OwnedFd> {
        self.open_at(bytes(path), O_RDONLY | O_DIRECTORY)
            .context(|| format!("can't open directory {}", show(bytes(path))))
    }

    /// Opens a regular file for reading, following links. A FIFO or device is an error, at once.
    pub fn open_file(&self, path: &Path) -> Result<File> {
        let file = self
            .open_at(bytes(path), O_RDONLY | O_NONBLOCK)
            .map(File::from)
            .context(|| format!("can't open {}", show(bytes(path))))?;
        if !file.metadata()?.is_file() {
            bail!("can't open {}: not a regular file", show(bytes(path)));
        }
        Ok(file)
    }

    /// Opens whatever is there as a place (`O_PATH`), following links.
    pub fn open_place(&self, path: &Path) -> Result<OwnedFd> {
        self.open_at(bytes(path), O_PATH).context(|| format!("can't open {}", show(bytes(path))))
    }

    /// The same of a link itself, if the path ends in one.
    pub fn open_itself(&self, path: &Path) -> Result<OwnedFd> {
        self.open_at(bytes(path), O_PATH | O_NOFOLLOW).context(|| format!("can't open {}", show(bytes(path))))
    }

    /// A file's content, at most `limit` bytes (else an error); `None` if there is nothing.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        if self.stat(path, Last::Follow)?.is_none() {
            return Ok(None);
        }
        let mut content = Vec::new();
        self.open_file(path)?
            .take(limit.saturating_add(1))
            .read_to_end(&mut content)
            .context(|| format!("can't read {}", show(bytes(path))))?;
        if content.len() as u64 > limit {
            bail!("can't read {}: more than {limit} bytes", show(bytes(path)));
        }
        Ok(Some(content))
    }

    /// Makes a new file in a directory that exists, removing a file or link that is there.
    #[cfg(test)]
    pub fn create(&self, path: &Path, mode: u32) -> Result<File> {
        let make = || {
            let place = self.place(bytes(path), Last::Keep)?;
            let dir = place.dir.fd.as_fd();
            if place.stat()?.is_some() {
                file::unlinkat(dir, &place.name)?;
            }
            let made = file::openat(dir, &place.name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)?;
            file::fchmod(made.as_fd(), mode)?;
            Ok(File::from(made))
        };
        make().map_err(|e: io::Error| e).context(|| format!("can't create {}", show(bytes(path))))
    }

    /// [`Root::create`] with content, making missing directories (0755).
    #[cfg(test)]
    pub fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.mkdir_all(parent, 0o755)?;
        }
        self.create(path, mode)?.write_all(content).context(|| format!("can't write {}", show(bytes(path))))
    }

    /// Makes a directory and those above it where missing (with this mode), following links; those that exist stay.
    pub fn mkdir_all(&self, path: &Path, mode: u32) -> Result<OwnedFd> {
        let dir = resolve::start(self.as_fd())
            .and_then(|from| resolve::walk(self.as_fd(), from, bytes(path), self.bounds, &mut Make(mode)))
            .and_then(|dir| file::openat(dir.fd.as_fd(), b".", O_RDONLY | O_DIRECTORY, 0));
        dir.context(|| format!("can't make directory {}", show(bytes(path))))
    }

    /// Makes a symbolic link in a directory that exists.
    #[cfg(test)]
    pub fn symlink(&self, target: &Path, path: &Path) -> Result<()> {
        self.place(bytes(path), Last::Keep)
            .and_then(|place| file::symlinkat(bytes(target), place.dir.fd.as_fd(), &place.name))
            .context(|| format!("can't make symbolic link {}", show(bytes(path))))
    }

    /// Removes a name, a directory with all below it; nothing there is fine.
    #[cfg(test)]
    pub fn remove(&self, path: &Path) -> Result<()> {
        let gone = self.place(bytes(path), Last::Keep);
        match gone {
            Ok(place) => super::remove::remove_at(place.dir.fd.as_fd(), &place.name)
                .context(|| format!("can't remove {}", show(bytes(path)))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e).context(|| format!("can't remove {}", show(bytes(path)))),
        }
    }

    /// Names of a directory, sorted.
    pub fn names(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let dir = self.open_dir(path)?;
        let mut names: Vec<PathBuf> = file::names(dir.as_fd())
            .context(|| format!("can't read directory {}", show(bytes(path))))?
            .into_iter()
            .map(|name| PathBuf::from(std::ffi::OsString::from_vec(name.bytes)))
            .collect();
        names.sort();
        Ok(names)
    }

    pub(super) fn place(&self, path: &[u8], last: Last) -> io::Result<Place> {
        resolve::place(self.as_fd(), path, self.bounds, last, &mut Fail)
    }

    /// Opens what `path` leads to, following links.
    pub(super) fn open_at(&self, path: &[u8], flags: i32) -> io::Result<OwnedFd> {
        let resolve = match self.bounds {
            Bounds::InRoot => file::RESOLVE_IN_ROOT,
            Bounds::Beneath => file::RESOLVE_BENEATH,
        } | file::RESOLVE_NO_MAGICLINKS;
        // Beneath, an absolute path of the caller's means one below the root; only links may not be absolute.
        let path = match path.iter().position(|b| *b != b'/') {
            Some(at) => &path[at..],
            None => b".",
        };
        match file::openat2(self.as_fd(), path, flags, 0, resolve) {
            Ok(Some(fd)) => return Ok(fd),
            Ok(None) => {}
            // Longer than the kernel takes at once: walk.
            Err(e) if e.raw_os_error() == Some(libc::ENAMETOOLONG) => {}
            Err(e) => return Err(e),
        }
        let place = self.place(path, Last::Follow)?;
        file::openat(place.dir.fd.as_fd(), &place.name, flags | O_NOFOLLOW, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::testing::Scratch;

    #[test]
    fn paths_stay_inside() {
        let scratch = Scratch::new();
        let root = scratch.root("root");
        root.mkdir_all(Path::new("run/lock"), 0o755).unwrap();
        root.write(Path::new("/run/x"), b"in", 0o640).unwrap();
        std::fs::write(scratch.path("x"), "out").unwrap();
        for (target, link) in [
            ("/run", "abs"),
            ("../../run", "up"),
            ("abs", "chain"),
            ("loop", "loop"),
            ("/proc/self/root", "magic"),
            ("../../../x", "escape"),
        ] {
            root.symlink(Path::new(target), Path::new(link)).unwrap();
        }
        let check = |path: &str, expected: Option<&str>| {
            let read = root.read(Path::new(path), 100).unwrap_or(Some(b"error".to_vec()));
            assert_eq!(read.map(|b| String::from_utf8(b).unwrap()).as_deref(), expected, "{path}");
        };
        check("abs/x", Some("in"));
        check("up/x", Some("in"));
        check("chain/x", Some("in"));
        check("/../../run/x", Some("in"));
        check("abs/../run/lock/../x", Some("in"));
        check("loop", Some("error"));
        check("loop/x", Some("error"));
        check("magic/etc/passwd", None);
        check("escape", None);
        check("run", Some("error"));
        assert_eq!(root.resolve(Path::new("chain/../abs/y"), Last::Follow).unwrap(), Path::new("run/y"));
        assert_eq!(root.resolve(Path::new("abs"), Last::Keep).unwrap(), Path::new("abs"));
        assert_eq!(root.resolve(Path::new("abs"), Last::Follow).unwrap(), Path::new("run"));
        assert_eq!(root.resolve(Path::new("/"), Last::Follow).unwrap(), Path::new(""));

        root.mkdir_all(Path::new("up/new/deep"), 0o711).unwrap();
        assert_eq!(root.stat(Path::new("run/new"), Last::Keep).unwrap().unwrap().mode, 0o711);
        root.remove(Path::new("up/new")).unwrap();
        assert_eq!(root.stat(Path::new("run/new"), Last::Keep).unwrap(), None);
        assert_eq!(std::fs::read_to_string(scratch.path("x")).unwrap(), "out");

        let root = root.beneath();
        for path in ["abs/x", "up/x", "escape", "magic/etc/passwd"] {
            assert!(root.open_file(Path::new(path)).is_err(), "{path}");
            assert!(root.resolve(Path::new(path), Last::Follow).is_err(), "{path}");
        }
        assert!(root.open_file(Path::new("/run/x")).is_ok());
    }
}
