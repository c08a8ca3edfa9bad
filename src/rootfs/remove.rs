//! How is a tree removed? All of it, nothing else.
//!
//! By descriptors, so that no name is looked up twice in a path that changes; without recursion, for trees thousands
//! of levels deep; directories that may not be read or searched get their owner's permission first. A symbolic link
//! is removed, not followed; a mount point is left alone, for what is mounted there is not the tree's.
//! What cannot be removed is reported after all the rest is gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::dir_stack::DirStack;
use super::root::show;
use crate::error::{Context, Error, Result, bail, io_text};
use crate::sys::file::{self, Kind, O_DIRECTORY, O_NOFOLLOW, O_PATH, O_RDONLY};

/// Removes a directory and all below it; a file or link at `dir` itself too. Nothing there is fine.
pub fn remove_tree(dir: &Path) -> Result<()> {
    let Some(name) = dir.file_name() else { bail!("can't remove {}: not a name in a directory", dir.display()) };
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = match file::openat(file::CWD, parent.as_os_str().as_bytes(), O_RDONLY | O_DIRECTORY, 0) {
        Ok(fd) => fd,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).context(|| format!("can't open directory {}", parent.display())),
    };
    remove_at(parent.as_fd(), name.as_bytes()).context(|| format!("can't remove {}", dir.display()))
}

/// Removes all that is in a directory that is open (not with `O_PATH`), then its name, if the name is still its own.
pub fn remove_opened(parent: BorrowedFd, name: &[u8], dir: BorrowedFd) -> Result<()> {
    let stat = file::fstat(dir)?;
    if stat.mode & 0o700 != 0o700 {
        file::fchmod(dir, 0o700)?;
    }
    let mut failure = None;
    for entry in file::names(dir)? {
        failure = failure.or(remove_at(dir, &entry.bytes).err());
    }
    if let Some(e) = failure {
        return Err(e.context(format!("can't remove {}", show(name))));
    }
    match file::look(parent, name)? {
        Some(found) if (found.dev, found.ino) == (stat.dev, stat.ino) => {
            file::rmdirat(parent, name).context(|| format!("can't remove {}", show(name)))
        }
        Some(_) | None => Ok(()),
    }
}

/// Removes `name` in `dir`, whatever it is. Nothing there is fine.
pub(super) fn remove_at(dir: BorrowedFd, name: &[u8]) -> Result<()> {
    let mut sweep = Sweep { parent: dir, dir_stack: DirStack::new(), levels: Vec::new(), left: 0, first: None };
    match file::look(dir, name)? {
        None => return Ok(()),
        Some(stat) if !stat.is_dir() => return Ok(file::unlinkat(dir, name)?),
        Some(_) => {}
    }
    sweep.run(name)?;
    match sweep.first {
        None => Ok(()),
        Some(first) if sweep.left > 1 => Err(first.context(format!("{} names left", sweep.left))),
        Some(first) => Err(first),
    }
}

struct Level {
    name: Vec<u8>,
    subdirs: Vec<Vec<u8>>,
}

struct Sweep<'a> {
    parent: BorrowedFd<'a>,
    dir_stack: DirStack,
    levels: Vec<Level>,
    left: u64,
    first: Option<Error>,
}

impl Sweep<'_> {
    fn run(&mut self, top: &[u8]) -> io::Result<()> {
        self.enter(top)?;
        while let Some(level) = self.levels.last_mut() {
            if let Some(name) = level.subdirs.pop() {
                self.enter(&name)?;
                continue;
            }
            let name = std::mem::take(&mut level.name);
            self.levels.pop();
            self.dir_stack.pop()?;
            let parent = if self.levels.is_empty() { self.parent } else { self.dir_stack.here()? };
            if let Err(e) = file::rmdirat(parent, &name) {
                // Not empty: what is left in it has been told already.
                let told = self.left > 0 && matches!(e.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST));
                if !told {
                    self.fail(&name, e);
                }
            }
        }
        Ok(())
    }

    /// Opens a directory where we are, removes what is no directory in it, and goes there.
    fn enter(&mut self, name: &[u8]) -> io::Result<()> {
        let parent = if self.levels.is_empty() { self.parent } else { self.dir_stack.here()? };
        let fd = match open(parent, name) {
            Ok(fd) => fd,
            Err(e) => {
                self.fail(name, e);
                return Ok(());
            }
        };
        let found = match file::names(fd.as_fd()) {
            Ok(found) => found,
            Err(e) => {
                self.fail(name, e);
                return Ok(());
            }
        };
        self.levels.push(Level { name: name.to_vec(), subdirs: Vec::new() });
        let mut subdirs = Vec::new();
        for entry in found {
            if entry.kind == Some(Kind::Dir) {
                subdirs.push(entry.bytes);
                continue;
            }
            match file::unlinkat(fd.as_fd(), &entry.bytes) {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                Err(e) if e.raw_os_error() == Some(libc::EISDIR) => subdirs.push(entry.bytes),
                Err(e) => self.fail(&entry.bytes, e),
            }
        }
        if let Some(level) = self.levels.last_mut() {
            level.subdirs = subdirs;
        }
        self.dir_stack.push(fd)
    }

    fn fail(&mut self, name: &[u8], e: io::Error) {
        self.left += 1;
        if self.first.is_none() {
            let mut path = Vec::new();
            for part in self.levels.iter().map(|level| level.name.as_slice()).chain([name]) {
                path.extend_from_slice(part);
                path.push(b'/');
            }
            path.pop();
            let cause = match e.raw_os_error() {
                Some(libc::EXDEV | libc::EBUSY) => "is a mount point".to_owned(),
                _ => io_text(&e),
            };
            self.first = Some(Error::new(cause).context(show(&path)));
        }
    }
}

/// Opens a directory to empty it; EXDEV at a mount point.
fn open(parent: BorrowedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let fd = match open_once(parent, name, O_RDONLY) {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => {
            // Not by name: by now it may be another's, or a link.
            file::chmod_place(open_once(parent, name, O_PATH)?.as_fd(), 0o700)?;
            open_once(parent, name, O_RDONLY)?
        }
        done => done?,
    };
    let stat = file::fstat(fd.as_fd())?;
    if stat.mode & 0o700 != 0o700 {
        file::fchmod(fd.as_fd(), 0o700)?;
    }
    Ok(fd)
}

fn open_once(parent: BorrowedFd, name: &[u8], how: i32) -> io::Result<OwnedFd> {
    let flags = how | O_DIRECTORY | O_NOFOLLOW;
    if let Some(fd) = file::openat2(parent, name, flags, 0, file::RESOLVE_NO_XDEV | file::RESOLVE_NO_SYMLINKS)? {
        return Ok(fd);
    }
    // Without openat2(2), bind mounts of the same file system are not seen; other file systems are.
    let fd = file::openat(parent, name, flags, 0)?;
    if file::fstat(fd.as_fd())?.dev != file::fstat(parent)?.dev {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::rootfs::testing::Scratch;

    #[test]
    fn deep_and_forbidden_trees_go_links_stay_untouched() {
        let scratch = Scratch::new();
        let outside = scratch.path("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("keep"), "keep").unwrap();
        let tree = scratch.path("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), "").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink(&outside, scratch.path("toplink")).unwrap();
        let mut fd = file::openat(file::CWD, tree.as_os_str().as_bytes(), O_RDONLY | O_DIRECTORY, 0).unwrap();
        for _ in 0..3000 {
            file::mkdirat(fd.as_fd(), b"d", 0o755).unwrap();
            fd = file::openat(fd.as_fd(), b"d", O_RDONLY | O_DIRECTORY, 0).unwrap();
        }
        for (dir, mode) in [("a/b", 0o000), ("a", 0o500)] {
            fs::set_permissions(tree.join(dir), fs::Permissions::from_mode(mode)).unwrap();
        }
        remove_tree(&tree).unwrap();
        remove_tree(&scratch.path("toplink")).unwrap();
        remove_tree(&scratch.path("nothing/at/all")).unwrap();
        assert!(!tree.exists());
        assert!(scratch.path("toplink").symlink_metadata().is_err());
        assert_eq!(fs::read_to_string(outside.join("keep")).unwrap(), "keep");
        assert!(remove_tree(Path::new("/")).is_err());
    }

    #[test]
    fn permissions_are_given_to_what_was_opened() {
        let scratch = Scratch::new();
        let mode = |name: &str| fs::symlink_metadata(scratch.path(name)).unwrap().permissions().mode() & 0o777;
        for name in ["mine", "other"] {
            fs::create_dir(scratch.path(name)).unwrap();
            fs::set_permissions(scratch.path(name), fs::Permissions::from_mode(0o000)).unwrap();
        }
        let parent = file::openat(file::CWD, scratch.path("").as_os_str().as_bytes(), O_RDONLY, 0).unwrap();
        let opened = open_once(parent.as_fd(), b"mine", O_PATH).unwrap();
        // Meanwhile somebody puts a link in its place.
        fs::rename(scratch.path("mine"), scratch.path("moved")).unwrap();
        symlink("other", scratch.path("mine")).unwrap();
        file::chmod_place(opened.as_fd(), 0o700).unwrap();
        assert!(open_once(parent.as_fd(), b"mine", O_PATH).is_err());
        let link = file::openat(parent.as_fd(), b"mine", O_PATH | O_NOFOLLOW, 0).unwrap();
        assert!(file::chmod_place(link.as_fd(), 0o700).is_err());
        assert_eq!((mode("moved"), mode("other")), (0o700, 0));
    }

    #[test]
    fn mount_points_stay() {
        let scratch = Scratch::new();
        for dir in ["outside", "tree/a/mount", "tree/b"] {
            fs::create_dir_all(scratch.path(dir)).unwrap();
        }
        for file in ["outside/keep", "tree/a/file", "tree/b/file"] {
            fs::write(scratch.path(file), "").unwrap();
        }
        // A bind mount of the same file system: its device number tells nothing.
        let script = "mount --bind \"$1/outside\" \"$1/tree/a/mount\" && exec \"$2\" --exact --ignored rootfs::remove::tests::in_namespace";
        let done = std::process::Command::new("unshare")
            .args(["-Urm", "sh", "-c", script, "sh"])
            .arg(scratch.path(""))
            .arg(std::env::current_exe().unwrap())
            .env("CH_TEST_TREE", scratch.path("tree"))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&done.stdout);
        if !told.contains("running 1 test") {
            assert!(std::env::var_os("CH_TEST_MUST_RUN").is_none(), "no mounts in a user namespace");
            eprintln!("skipped: no mounts in a user namespace");
            return;
        }
        assert!(done.status.success(), "{told}");
        assert!(scratch.path("outside/keep").exists() && scratch.path("tree/a/mount").exists());
        assert!(!scratch.path("tree/a/file").exists() && !scratch.path("tree/b").exists());
    }

    #[test]
    #[ignore = "run by mount_points_stay, in a namespace"]
    fn in_namespace() {
        let tree = std::env::var_os("CH_TEST_TREE").unwrap();
        let e = remove_tree(Path::new(&tree)).unwrap_err().to_string();
        assert!(e.contains("tree/a/mount: is a mount point"), "{e}");
    }
}
