//! How does a file of an image hold more for one command than it does afterwards? Text is added to it before, and taken
//! out again afterwards, whatever the command did: so nothing of it stays in the image.
//!
//! Of layers, a layer above them holds the longer files ([`Amended::make_layer`]): what the command removes, replaces or
//! changes is then in its own layer, as ever. A whole tree is changed in place. Nothing is mounted over a file, which
//! would forbid replacing it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::dir_stack::DirStack;
use super::metadata::{PLAIN_MODE, open_dir};
use super::resolve::{join, reopen, split};
use super::root::{Last, Root, show};
use super::stack::Stack;
use crate::error::{Context, Result};
use crate::sys::file::{self, Kind, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDWR, O_WRONLY, Stat};

/// Largest file that is amended, bytes.
const MAX_FILE: u64 = 16 << 20;
/// Largest file in which the text is looked for, bytes.
const MAX_RESULT: u64 = 64 << 20;

pub struct Amended {
    /// Occurs nowhere by chance.
    text: Vec<u8>,
    files: Vec<Amendment>,
}

struct Amendment {
    /// Without links.
    path: PathBuf,
    /// Before.
    stat: Stat,
}

impl Amendment {
    fn size(&self, text: &[u8]) -> u64 {
        self.stat.size.saturating_add(text.len() as u64)
    }
}

/// A directory under way: its path, and what is left to do in it.
struct Level {
    path: Vec<u8>,
    subdirs: Vec<Vec<u8>>,
}

impl Amended {
    /// Those of these paths at which there are files: text is to be added at their ends.
    pub fn new(tree: &Stack, paths: &[&str], text: Vec<u8>) -> Amended {
        let mut files: Vec<Amendment> = Vec::new();
        for path in paths {
            // What cannot be looked up is left alone, like what is no file.
            let Ok(Some(found)) = tree.lookup(Path::new(path), Last::Follow) else { continue };
            let is_fit = found.stat.kind == Kind::File && found.stat.size <= MAX_FILE;
            if is_fit && !files.iter().any(|file| file.path == found.path) {
                files.push(Amendment { path: found.path, stat: found.stat });
            }
        }
        Amended { text, files }
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Fills an empty directory as a layer that holds the longer files. `below`: what they are looked up in.
    pub fn make_layer(&self, below: &Stack, layer: &Root) -> Result<()> {
        let mut dirs = BTreeSet::new();
        for Amendment { path, stat } in &self.files {
            let failed = || format!("can't amend {}", path.display());
            let mut content = below.read(path, MAX_FILE)?.unwrap_or_default();
            content.extend_from_slice(&self.text);
            let (parent, name) = split(path.as_os_str().as_bytes());
            let parent = Path::new(std::ffi::OsStr::from_bytes(parent));
            let dir = layer.mkdir_all(parent, 0o700)?;
            let new = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
            let mut file = File::from(file::openat(dir.as_fd(), name, new, 0o600).context(failed)?);
            file.write_all(&content).context(failed)?;
            file::fchmod(file.as_fd(), stat.mode & PLAIN_MODE).context(failed)?;
            file::futimens(file.as_fd(), stat.mtime).context(failed)?;
            dirs.extend(parent.ancestors().filter(|dir| !dir.as_os_str().is_empty()).map(Path::to_owned));
        }
        // Each before the one that it is in: the topmost layer says what a directory is like.
        for path in dirs.iter().rev() {
            let Some(like) = below.lookup(path, Last::Keep)? else { continue };
            let dir = layer.open_dir(path)?;
            let done = file::fchmod(dir.as_fd(), like.stat.mode & PLAIN_MODE)
                .and_then(|()| file::futimens(dir.as_fd(), like.stat.mtime));
            done.context(|| format!("can't amend {}", path.display()))?;
        }
        Ok(())
    }

    /// Makes the files of a whole tree longer.
    pub fn change(&self, tree: &Root) -> Result<()> {
        for Amendment { path, stat } in &self.files {
            let (parent, name) = split(path.as_os_str().as_bytes());
            let amend = || {
                let dir = reopen(tree.as_fd(), parent)?;
                let mut file = File::from(file::openat(dir.as_fd(), name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK, 0)?);
                file.seek(SeekFrom::End(0))?;
                file.write_all(&self.text)?;
                file::futimens(file.as_fd(), stat.mtime)
            };
            amend().context(|| format!("can't amend {}", path.display()))?;
        }
        Ok(())
    }

    /// Takes the text out of what a command has left: the layer that it made, or the whole tree. Out of those files, and of
    /// what is a copy of one.
    pub fn take_back(&self, tree: &Root) -> Result<()> {
        let mut dirs = DirStack::new();
        dirs.push(open_dir(tree.as_fd(), b".")?)?;
        let mut levels = vec![self.clean(dirs.here()?, Vec::new())?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.subdirs.pop() else {
                levels.pop();
                dirs.pop()?;
                continue;
            };
            let path = join(&level.path, &name);
            dirs.push(open_dir(dirs.here()?, &name).context(|| format!("can't open directory {}", show(&path)))?)?;
            levels.push(self.clean(dirs.here()?, path)?);
        }
        Ok(())
    }

    fn clean(&self, dir: BorrowedFd, path: Vec<u8>) -> Result<Level> {
        let mut level = Level { path, subdirs: Vec::new() };
        let failed = |path: &[u8]| format!("can't look at {}", show(path));
        for name in file::names(dir).context(|| failed(&level.path))? {
            if !matches!(name.kind, None | Some(Kind::File | Kind::Dir)) {
                continue;
            }
            let path = join(&level.path, &name.bytes);
            if name.kind == Some(Kind::Dir) {
                level.subdirs.push(name.bytes);
                continue;
            }
            let stat = file::lstatat(dir, &name.bytes).context(|| failed(&path))?;
            match stat.kind {
                Kind::Dir => level.subdirs.push(name.bytes),
                Kind::File if self.concerns(&path, &stat) => {
                    self.clean_file(dir, &name.bytes, &stat).context(|| format!("can't clean {}", show(&path)))?;
                }
                Kind::File | Kind::Symlink | Kind::Whiteout | Kind::Special => {}
            }
        }
        Ok(level)
    }

    fn concerns(&self, path: &[u8], stat: &Stat) -> bool {
        let is_one = |file: &Amendment| file.path.as_os_str().as_bytes() == path || file.size(&self.text) == stat.size;
        stat.size <= MAX_RESULT && self.files.iter().any(is_one)
    }

    fn clean_file(&self, dir: BorrowedFd, name: &[u8], stat: &Stat) -> io::Result<()> {
        let mut file = File::from(file::openat(dir, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK, 0)?);
        let mut content = Vec::new();
        Read::by_ref(&mut file).take(MAX_RESULT).read_to_end(&mut content)?;
        let Some(rest) = without(&content, &self.text) else { return Ok(()) };
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&rest)?;
        file.set_len(rest.len() as u64)?;
        file::futimens(file.as_fd(), stat.mtime)
    }
}

/// `content` without any `text` in it; `None` if there is none.
fn without(content: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    let first = *text.first()?;
    let mut rest = Vec::new();
    let (mut from, mut at) = (0, 0);
    let mut is_found = false;
    while let Some(next) = content[at..].iter().position(|byte| *byte == first) {
        at += next;
        if content[at..].starts_with(text) {
            rest.extend_from_slice(&content[from..at]);
            at += text.len();
            (from, is_found) = (at, true);
        } else {
            at += 1;
        }
    }
    rest.extend_from_slice(&content[from..]);
    is_found.then_some(rest)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::rootfs::testing::{Scratch, listing};

    const TEXT: &[u8] = b"\n# added\n";

    #[test]
    fn text_is_taken_out() {
        let check = |content: &str, want: Option<&str>| {
            assert_eq!(without(content.as_bytes(), b"[ab]").as_deref(), want.map(str::as_bytes), "{content}");
        };
        check("", None);
        check("[[a", None);
        check("[ab]", Some(""));
        check("x[ab]y[ab][ab", Some("xy[ab"));
        check("[[ab]]", Some("[]"));
    }

    fn tree(scratch: &Scratch, name: &str) -> PathBuf {
        let tree = scratch.path(name);
        fs::create_dir_all(tree.join("etc/d")).unwrap();
        for (name, content) in [("etc/d/one", "1"), ("etc/d/two", "22"), ("etc/other", "other")] {
            fs::write(tree.join(name), content).unwrap();
        }
        symlink("d/one", tree.join("etc/link")).unwrap();
        fs::set_permissions(tree.join("etc/d/two"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(tree.join("etc/d"), fs::Permissions::from_mode(0o711)).unwrap();
        tree
    }

    const PATHS: [&str; 6] = ["etc/link", "etc/d/one", "etc/d/two", "etc/no", "etc", "etc/d/one/x"];

    #[test]
    fn a_layer_holds_what_is_amended_and_no_more() {
        let scratch = Scratch::new();
        let below = Stack::open(&[tree(&scratch, "tree")]).unwrap();
        let amended = Amended::new(&below, &PATHS, TEXT.to_vec());
        let layer = scratch.root("layer");
        amended.make_layer(&below, &layer).unwrap();
        let want = ["etc/", "etc/d/@711", "etc/d/one=1\n# added\n", "etc/d/two=22\n# added\n@640"];
        assert_eq!(listing(&scratch.path("layer")), want);
        for name in ["etc", "etc/d", "etc/d/one"] {
            let time =
                |tree: &str| scratch.path(tree).join(name).metadata().map(|m| (m.mtime(), m.mtime_nsec())).unwrap();
            assert_eq!(time("layer"), time("tree"), "{name}");
        }
        assert!(Amended::new(&below, &["etc/no"], TEXT.to_vec()).is_empty());
    }

    #[test]
    fn nothing_stays() {
        let scratch = Scratch::new();
        let path = tree(&scratch, "tree");
        let before = listing(&path);
        let root = Root::open(&path).unwrap();
        let amended = Amended::new(&Stack::open(std::slice::from_ref(&path)).unwrap(), &PATHS, TEXT.to_vec());
        let inode = || path.join("etc/d/one").metadata().map(|m| (m.ino(), m.mtime(), m.mtime_nsec())).unwrap();
        let was = inode();
        amended.change(&root).unwrap();
        assert_eq!(fs::read(path.join("etc/link")).unwrap(), b"1\n# added\n");
        amended.take_back(&root).unwrap();
        assert_eq!((listing(&path), inode()), (before, was));
        // A command has changed one, replaced another, and copied both.
        amended.change(&root).unwrap();
        fs::create_dir(path.join("deep")).unwrap();
        fs::copy(path.join("etc/d/one"), path.join("deep/copy")).unwrap();
        let longer = [&fs::read(path.join("etc/d/one")).unwrap()[..], b"mine"].concat();
        fs::write(path.join("etc/d/one"), longer).unwrap();
        fs::remove_file(path.join("etc/d/two")).unwrap();
        fs::write(path.join("etc/d/two"), "new").unwrap();
        amended.take_back(&root).unwrap();
        let want = ["deep/", "deep/copy=1", "etc/", "etc/d/@711", "etc/d/one=1mine", "etc/d/two=new"];
        assert_eq!(listing(&path)[..6], want);
    }
}
