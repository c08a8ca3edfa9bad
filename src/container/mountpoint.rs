//! Where in a tree does something get mounted?
//!
//! An image may have symbolic links anywhere, /dev, /etc and /tmp included. A target is resolved as the command would
//! see it, with the tree as root, to a list of plain components; whoever mounts opens these one by one and
//! follows nothing. What is missing is made beforehand, by descriptor, and removed afterwards if it is still the very inode
//! that was made and nobody put anything in.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use crate::error::{Context, Error, Result, bail};
use crate::sys::file::{self, O_NOFOLLOW, O_PATH};
use crate::sys::fs::{Lock, Wait, euid, flock};

/// Links followed on the way to one target, as in the kernel.
const MAX_LINKS: usize = 40;

/// A place in a tree: components with nothing to follow in them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    parts: Vec<CString>,
    /// How many of them exist.
    present: usize,
    /// Of the last one, if it exists.
    is_dir: bool,
}

impl Target {
    pub fn parts(&self) -> &[CString] {
        &self.parts
    }

    pub fn exists(&self) -> bool {
        self.present == self.parts.len()
    }

    pub fn is_dir(&self) -> bool {
        self.is_dir
    }

    /// Whether this lies at or below `other`.
    pub fn is_within(&self, other: &Target) -> bool {
        self.parts.starts_with(&other.parts)
    }

    /// The path below `other`, which it lies within.
    pub fn below(&self, other: &Target) -> PathBuf {
        self.parts[other.parts.len().min(self.parts.len())..].iter().map(|p| OsStr::from_bytes(p.as_bytes())).collect()
    }

    /// The same place for a process that has the tree at `root`.
    pub fn host_path(&self, root: &Path) -> PathBuf {
        let parts = self.parts.iter().map(|p| OsStr::from_bytes(p.as_bytes()));
        std::iter::once(root.as_os_str()).chain(parts).collect()
    }

    /// The same place in a tree where nothing of it exists.
    pub fn absent(&self) -> Target {
        Target { parts: self.parts.clone(), present: 0, is_dir: false }
    }

    /// The same place, which exists by other means (in what is mounted above it).
    pub fn present_elsewhere(mut self, is_dir: bool) -> Target {
        self.present = self.parts.len();
        self.is_dir = is_dir;
        self
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.parts.is_empty() {
            return f.write_str("/");
        }
        for part in &self.parts {
            write!(f, "/{}", crate::log::escape(&part.to_string_lossy()))?;
        }
        Ok(())
    }
}

/// Resolves `path` within the tree at `root`.
pub fn locate(root: &Path, path: &Path) -> Result<Target> {
    find(root, path).context(|| format!("can't find {} in the image", path.display()))
}

fn find(root: &Path, path: &Path) -> Result<Target> {
    let mut todo: VecDeque<OsString> = components(path)?;
    let mut links = 0;
    // Directories from the root down to where we are.
    let mut dirs = vec![place(root, 0).context(|| root.display().to_string())?];
    let mut parts: Vec<CString> = Vec::new();
    let mut missing: Vec<CString> = Vec::new();
    let mut ends = false;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            match missing.pop() {
                Some(_) => {}
                None if ends => bail!("{}: not a directory", shown(&parts)),
                None if dirs.len() > 1 => {
                    dirs.pop();
                    parts.pop();
                }
                None => {}
            }
            continue;
        }
        let c_name = CString::new(name.as_bytes()).map_err(|_| Error::new("NUL in a path"))?;
        if !missing.is_empty() {
            missing.push(c_name);
            continue;
        }
        if ends {
            bail!("{}: not a directory", shown(&parts));
        }
        let Some(here) = dirs.last() else { bail!("lost the root") };
        let inside = fd_path(here).join(&name);
        let found = match place(&inside, O_NOFOLLOW) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                missing.push(c_name);
                continue;
            }
            Err(e) => return Err(e).context(|| format!("{}/{}", shown(&parts), name.display())),
        };
        let kind = found.metadata().context(|| name.display().to_string())?.file_type();
        if kind.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                bail!("too many symbolic links");
            }
            let to = fs::read_link(&inside).context(|| name.display().to_string())?;
            if to.is_absolute() {
                dirs.truncate(1);
                parts.clear();
            }
            for part in components(&to)?.into_iter().rev() {
                todo.push_front(part);
            }
            continue;
        }
        parts.push(c_name);
        if kind.is_dir() {
            dirs.push(found);
        } else {
            ends = true;
        }
    }
    let present = parts.len();
    parts.append(&mut missing);
    Ok(Target { is_dir: !ends && present == parts.len(), present, parts })
}

fn components(path: &Path) -> Result<VecDeque<OsString>> {
    if path.as_os_str().len() >= libc::PATH_MAX as usize {
        bail!("path too long");
    }
    Ok(path
        .components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect())
}

/// Not by `OpenOptions`: musl counts `O_PATH` among the access modes, which those drop from `custom_flags`.
fn place(path: &Path, flags: i32) -> io::Result<File> {
    file::openat(file::CWD, path.as_os_str().as_bytes(), O_PATH | flags, 0).map(File::from)
}

/// Names below this path are names below the open directory, whatever became of its own name.
fn fd_path(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

fn shown(parts: &[CString]) -> String {
    let names: Vec<_> = parts.iter().map(|p| crate::log::escape(&p.to_string_lossy()).into_owned()).collect();
    format!("/{}", names.join("/"))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    Directory,
    File,
}

/// What was made in a tree to be mounted on; removed when dropped.
#[derive(Default)]
pub struct Made {
    made: Vec<(File, OsString, (u64, u64), Shape)>,
    /// Locked by all who mount on them: removing a place would take the others' mounts away.
    in_use: Vec<File>,
}

impl Made {
    /// Makes what is missing of `target` in the tree at `root`.
    pub fn make(&mut self, root: &Path, target: &Target, shape: Shape) -> Result<()> {
        if target.exists() {
            return Ok(());
        }
        let failed = || format!("can't make {target} in the image to mount on");
        self.make_parts(root, target, shape).context(failed).map(drop)
    }

    /// Makes a directory that all may write to, as /tmp is.
    pub fn make_open(&mut self, root: &Path, target: &Target) -> Result<()> {
        if target.exists() {
            return Ok(());
        }
        let failed = || format!("can't make {target} in the image");
        let dir = self.make_parts(root, target, Shape::Directory).context(failed)?;
        file::chmod_place(dir.as_fd(), 0o1777).context(failed)
    }

    /// As `make`, in a directory of the host that other builds use at the same time.
    pub fn make_shared(&mut self, dir: &Path, target: &Target, shape: Shape) -> Result<()> {
        let failed = || format!("can't make {} to mount on", target.host_path(dir).display());
        for _ in 0..100 {
            self.make_parts(dir, &target.absent(), shape).context(failed)?;
            let path = target.host_path(dir);
            let flags = O_NOFOLLOW | libc::O_NONBLOCK;
            // What we may not open belongs to somebody else, who does not look for locks.
            let Ok(place) = OpenOptions::new().read(true).custom_flags(flags).open(&path) else { return Ok(()) };
            // And who could keep us waiting for ever.
            if place.metadata().map_or(true, |meta| meta.uid() != euid()) {
                return Ok(());
            }
            flock(&place, Lock::Shared, Wait::Yes).context(failed)?;
            let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
            if let (Ok(locked), Ok(there)) = (place.metadata(), path.symlink_metadata())
                && same(locked, there)
            {
                self.in_use.push(place);
                return Ok(());
            }
            // Another build removed it just now.
        }
        Err(Error::new("somebody removes it again and again").context(failed()))
    }

    fn make_parts(&mut self, root: &Path, target: &Target, shape: Shape) -> Result<File> {
        let mut here = place(root, 0).context(|| root.display().to_string())?;
        for (i, part) in target.parts.iter().enumerate() {
            let name = OsString::from_vec(part.as_bytes().to_vec());
            let path = fd_path(&here).join(&name);
            let last = i + 1 == target.parts.len();
            let this = if last { shape } else { Shape::Directory };
            // Another target may have made it since.
            let there = path.symlink_metadata().is_ok();
            let new = !there && i >= target.present;
            if new {
                match this {
                    Shape::Directory => fs::create_dir(&path),
                    Shape::File => {
                        OpenOptions::new().write(true).create_new(true).custom_flags(O_NOFOLLOW).open(&path).map(drop)
                    }
                }
                .map_err(with_hint)?;
            }
            let next = place(&path, O_NOFOLLOW).context(|| name.display().to_string())?;
            if new {
                let meta = next.metadata().context(|| name.display().to_string())?;
                self.made.push((here, name, (meta.dev(), meta.ino()), this));
            }
            here = next;
        }
        Ok(here)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.in_use.iter().any(|place| !matches!(flock(place, Lock::Exclusive, Wait::No), Ok(true))) {
            return;
        }
        for (dir, name, id, shape) in self.made.drain(..).rev() {
            let path = fd_path(&dir).join(&name);
            let Ok(meta) = path.symlink_metadata() else { continue };
            if (meta.dev(), meta.ino()) != id {
                continue;
            }
            // A file that somebody wrote to and a directory that is not empty have become part of the image.
            let _ = match shape {
                Shape::Directory => fs::remove_dir(&path),
                Shape::File if meta.len() == 0 => fs::remove_file(&path),
                Shape::File => Ok(()),
            };
        }
    }
}

fn with_hint(e: io::Error) -> Error {
    let read_only = e.raw_os_error() == Some(libc::EROFS);
    let error = Error::from(e);
    if read_only {
        error
            .hint("the image is read-only: mount on a directory that exists in it, such as /mnt/0, or use --write-fake")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_of_other_users_are_not_waited_for() {
        // Root's, unless this is root.
        let dir = Path::new("/usr");
        if dir.metadata().unwrap().uid() == euid() {
            return;
        }
        let held = File::open(dir).unwrap();
        flock(&held, Lock::Exclusive, Wait::Yes).unwrap();
        let target = locate(Path::new("/"), dir).unwrap();
        Made::default().make_shared(Path::new("/"), &target, Shape::Directory).unwrap();
    }
}
