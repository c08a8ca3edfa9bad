//! How does what a command has changed in a whole tree become a layer? Copies of what changed or appeared, with the
//! directories that it is in; what went is marked.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::marks::Marks;
use super::metadata::{PLAIN_MODE, open_dir};
use super::resolve::{join, parts, reopen, split};
use super::root::{Root, show};
use super::snapshot::{Change, Snapshot, Which};
use super::stack::Stack;
use super::tree::{copy_file, copy_xattrs};
use crate::error::{Context, Result};
use crate::sys::file::{self, Kind, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, Stat};
use crate::sys::signal;

/// Fills the empty directory `layer` with what differs in `tree` between the two; what the layer hides is returned.
/// `below`: what the tree showed before.
pub fn keep(before: &Snapshot, after: &Snapshot, tree: &Root, below: &Stack, layer: &Root) -> Result<Marks> {
    let mut work =
        Keep { tree, below, layer, marks: Marks::default(), made: BTreeSet::new(), links: HashMap::new(), here: None };
    for change in after.changes_since(before) {
        signal::check()?;
        work.carry_out(&change)?;
    }
    work.finish_directories()?;
    Ok(work.marks)
}

struct Keep<'a> {
    tree: &'a Root,
    below: &'a Stack,
    layer: &'a Root,
    marks: Marks,
    /// Directories that the layer has.
    made: BTreeSet<Vec<u8>>,
    /// Files with several names, by inode: where the layer has the first one.
    links: HashMap<u64, Vec<u8>>,
    /// The directory that was used last, of the tree and of the layer.
    here: Option<(Vec<u8>, OwnedFd, OwnedFd)>,
}

impl Keep<'_> {
    fn carry_out(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Gone(path) => self.marks.add_gone(path),
            Change::Dir(path, which) => {
                self.directory(path)?;
                if *which == Which::Another {
                    self.marks.add_opaque(path);
                }
            }
            Change::Other(path, stat) => self.leaf(path, stat).context(|| format!("can't copy {}", show(path)))?,
            Change::Perhaps(path, stat) => {
                if !self.is_as_before(path).context(|| format!("can't read {}", show(path)))? {
                    self.leaf(path, stat).context(|| format!("can't copy {}", show(path)))?;
                }
            }
        }
        Ok(())
    }

    /// Makes a directory of the layer and those that it is in, if they are not there.
    fn directory(&mut self, path: &[u8]) -> Result<()> {
        let mut here = Vec::new();
        for name in parts(path) {
            here = join(&here, name);
            if self.made.insert(here.clone()) {
                let parent = reopen(self.layer.as_fd(), split(&here).0)?;
                file::mkdirat(parent.as_fd(), name, 0o700)
                    .context(|| format!("can't make directory {}", show(&here)))?;
            }
        }
        Ok(())
    }

    fn leaf(&mut self, path: &[u8], stat: &Stat) -> Result<()> {
        let (dir, name) = split(path);
        if self.here.as_ref().is_none_or(|(known, ..)| known != dir) {
            self.directory(dir)?;
            let (from, to) = (reopen(self.tree.as_fd(), dir)?, reopen(self.layer.as_fd(), dir)?);
            self.here = Some((dir.to_vec(), from, to));
        }
        let Some((_, from, to)) = &self.here else { return Ok(()) };
        if stat.nlink > 1 {
            if let Some(first) = self.links.get(&stat.ino) {
                let dir = reopen(self.layer.as_fd(), split(first).0)?;
                return Ok(file::linkat(dir.as_fd(), split(first).1, to.as_fd(), name)?);
            }
            self.links.insert(stat.ino, path.to_vec());
        }
        match stat.kind {
            Kind::File => copy_file(from.as_fd(), name, stat, to.as_fd(), name)?,
            Kind::Symlink => {
                file::symlinkat(&file::readlinkat(from.as_fd(), name)?, to.as_fd(), name)?;
                file::utimensat(to.as_fd(), name, stat.mtime)?;
            }
            // Not copied; nor is what was there before to be seen.
            Kind::Special | Kind::Whiteout => self.marks.add_gone(path),
            Kind::Dir => {}
        }
        Ok(())
    }

    fn is_as_before(&self, path: &[u8]) -> Result<bool> {
        use std::os::unix::ffi::OsStrExt;
        let (dir, name) = split(path);
        let dir = reopen(self.tree.as_fd(), dir)?;
        let mut now = File::from(file::openat(dir.as_fd(), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0)?);
        let Some(mut before) = self.below.open_file(Path::new(std::ffi::OsStr::from_bytes(path)))? else {
            return Ok(false);
        };
        Ok(have_same_xattrs(&before, &now)? && have_same_content(&mut before, &mut now)?)
    }

    /// Modes and times last: then nothing more is made in them.
    fn finish_directories(&self) -> Result<()> {
        for path in self.made.iter().rev().chain([&Vec::new()]) {
            let finish = || -> Result<()> {
                let open = |root: &Root| open_dir(reopen(root.as_fd(), path)?.as_fd(), b".");
                let (from, to) = (open(self.tree)?, open(self.layer)?);
                let stat = file::fstat(from.as_fd())?;
                copy_xattrs(from.as_fd(), to.as_fd())?;
                file::fchmod(to.as_fd(), stat.mode & PLAIN_MODE)?;
                Ok(file::futimens(to.as_fd(), stat.mtime)?)
            };
            finish().context(|| format!("can't copy directory {}", show(path)))?;
        }
        Ok(())
    }
}

fn have_same_xattrs(a: &File, b: &File) -> Result<bool> {
    let mut both = [super::file_xattrs(a)?, super::file_xattrs(b)?];
    both.iter_mut().for_each(|list| list.sort());
    Ok(both[0] == both[1])
}

fn have_same_content(a: &mut File, b: &mut File) -> Result<bool> {
    const PIECE: u64 = 256 << 10;
    loop {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        Read::by_ref(a).take(PIECE).read_to_end(&mut one)?;
        Read::by_ref(b).take(PIECE).read_to_end(&mut other)?;
        if one != other {
            return Ok(false);
        }
        if one.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::super::stack::LayerDir;
    use super::super::testing::{Scratch, listing, stack_listing};
    use super::super::{copy_merged, copy_tree};
    use super::*;

    fn mode(path: PathBuf, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn before(scratch: &Scratch) -> PathBuf {
        let tree = scratch.path("before");
        for dir in ["keep/deep", "gone/sub", "again", "becomes-file", "touched"] {
            fs::create_dir_all(tree.join(dir)).unwrap();
        }
        for name in ["keep/deep/a", "keep/same", "gone/sub/f", "again/old", "becomes-file/x", "becomes-dir", "changed"]
        {
            fs::write(tree.join(name), name).unwrap();
        }
        fs::write(tree.join("chmod"), "").unwrap();
        fs::write(tree.join("linked"), "two names").unwrap();
        fs::hard_link(tree.join("linked"), tree.join("keep/linked")).unwrap();
        symlink("old", tree.join("link")).unwrap();
        tree
    }

    fn change(tree: &Path) {
        fs::remove_dir_all(tree.join("gone")).unwrap();
        fs::remove_file(tree.join("keep/same")).unwrap();
        // The old directory goes last: otherwise the file system may give the new one its inode number.
        fs::rename(tree.join("again"), tree.join("old")).unwrap();
        fs::create_dir(tree.join("again")).unwrap();
        fs::remove_dir_all(tree.join("old")).unwrap();
        fs::write(tree.join("again/new"), "new").unwrap();
        fs::remove_dir_all(tree.join("becomes-file")).unwrap();
        fs::write(tree.join("becomes-file"), "file").unwrap();
        fs::remove_file(tree.join("becomes-dir")).unwrap();
        fs::create_dir(tree.join("becomes-dir")).unwrap();
        fs::write(tree.join("becomes-dir/f"), "f").unwrap();
        // Of the same length, and the time is set back.
        let time = tree.join("changed").metadata().unwrap().modified().unwrap();
        fs::write(tree.join("changed"), "CHANGED").unwrap();
        File::options().write(true).open(tree.join("changed")).unwrap().set_modified(time).unwrap();
        mode(tree.join("chmod"), 0o4711);
        mode(tree.join("touched"), 0o700);
        fs::write(tree.join("linked"), "one content").unwrap();
        fs::remove_file(tree.join("link")).unwrap();
        symlink("new", tree.join("link")).unwrap();
        fs::create_dir_all(tree.join("new/dir")).unwrap();
        fs::write(tree.join("new/dir/one"), "1").unwrap();
        fs::hard_link(tree.join("new/dir/one"), tree.join("new/two")).unwrap();
    }

    #[test]
    fn what_is_kept_makes_the_tree_again() {
        let scratch = Scratch::new();
        let lower = before(&scratch);
        let (tree, layer, again) = (scratch.root("tree"), scratch.root("layer"), scratch.root("again"));
        copy_tree(&lower, &scratch.path("tree"), None).unwrap();
        let known = Snapshot::take(&tree).unwrap();
        known.settle(&scratch.path("")).unwrap();
        change(&scratch.path("tree"));
        let now = Snapshot::take(&tree).unwrap();
        let below = Stack::open(std::slice::from_ref(&lower)).unwrap();
        let marks = keep(&known, &now, &tree, &below, &layer).unwrap();
        // Nothing but what changed, without set-id bits.
        assert_eq!(
            listing(&scratch.path("layer")),
            [
                "again/",
                "again/new=new",
                "becomes-dir/",
                "becomes-dir/f=f",
                "becomes-file=file",
                "changed=CHANGED",
                "chmod=@711",
                "keep/",
                "keep/linked=one content",
                "link->new",
                "linked=one content",
                "new/",
                "new/dir/",
                "new/dir/one=1",
                "new/two=1",
                "touched/@700",
            ]
        );
        assert_eq!(
            String::from_utf8_lossy(&marks.to_text())
                .lines()
                .filter(|line| !line.starts_with("sum"))
                .collect::<Vec<_>>(),
            ["gone gone", "gone keep/same", "opaque again", "opaque becomes-dir"]
        );
        let dirs = [(lower, Marks::default()), (scratch.path("layer"), marks)];
        let stack = Stack::of(&dirs.map(|(tree, marks)| LayerDir { tree, marks })).unwrap();
        assert_eq!(stack_listing(&stack), listing(&scratch.path("tree")));
        let bytes = copy_merged(&stack, &again).unwrap();
        assert_eq!(listing(&scratch.path("again")), listing(&scratch.path("tree")));
        assert_eq!(bytes, now.bytes());
        for name in ["", "again", "keep", "keep/deep/a", "changed", "new/dir", "link"] {
            let time = |tree: &str| {
                let stat = scratch.path(tree).join(name).symlink_metadata().unwrap();
                (stat.mtime(), stat.mtime_nsec())
            };
            assert_eq!(time("again"), time("tree"), "{name}");
        }
        let inode = |name: &str| scratch.path("again").join(name).metadata().unwrap().ino();
        assert_eq!((inode("linked"), inode("new/two")), (inode("keep/linked"), inode("new/dir/one")));
        let prints = [super::super::fingerprint_merged(&stack), super::super::fingerprint(&scratch.path("tree"))];
        let [merged, whole] = prints.map(Result::unwrap);
        assert_eq!(merged, whole);
        assert_eq!(now.changes_since(&now), []);
    }

    /// What was done to a file tells that it may be another; what it holds tells that it is not.
    #[test]
    fn files_that_only_look_changed() {
        let scratch = Scratch::new();
        let lower = before(&scratch);
        let (tree, layer) = (scratch.root("tree"), scratch.root("layer"));
        copy_tree(&lower, &scratch.path("tree"), None).unwrap();
        let known = Snapshot::take(&tree).unwrap();
        known.settle(&scratch.path("")).unwrap();
        let at = |name: &str| scratch.path("tree").join(name);
        mode(at("changed"), 0o600);
        mode(at("changed"), 0o644);
        let time = at("keep/same").metadata().unwrap().modified().unwrap();
        fs::write(at("keep/same"), "keep/same").unwrap();
        File::options().write(true).open(at("keep/same")).unwrap().set_modified(time).unwrap();
        let now = Snapshot::take(&tree).unwrap();
        let below = Stack::open(&[lower]).unwrap();
        assert_eq!(now.changes_since(&known).len(), 2);
        assert!(keep(&known, &now, &tree, &below, &layer).unwrap().is_empty());
        assert!(listing(&scratch.path("layer")).is_empty());
    }
}
