//! How does a read-only tree of another kind (a packed image) become a directory? Copied name by name into an empty one.
//!
//! The tree comes from strangers, but has no paths: only names without `/`, put into directories made here and held by
//! descriptor. So nothing can lead outside. What it must not be as a whole is seen here: a directory in two places, two
//! things with one number. Devices are ignored, permissions are as after unpacking an archive, and owners are told.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;

use super::dir_stack::DirStack;
use super::file_pool::{Copying, Job, Pool, Queue};
use super::limits::Limits;
use super::metadata::{PLAIN_MODE, open_dir, set_xattrs};
use super::owners::{CAPABILITY, Owners, Ownership, Told};
use super::resolve::{join, reopen, split};
use super::root::{Root, show};
use super::unpack::{CHECK_ENTRIES, MAX_DEPTH, MAX_PATH, Unpacked};
use crate::error::{Context, Result, bail};
use crate::sys::file::{self, O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY, Time};
use crate::sys::signal;
use crate::tree::{Attributes, Id, Kind, Name, Tree};

const RECORD: &str = "can't record owners";
/// Names that are asked for at once.
const NAMES: usize = 512;

/// Copies `tree` into the empty directory `root`; `owners` is told to whom its files belong. Nothing is synced.
pub fn plant(tree: &dyn Tree, root: &Root, limits: &Limits, owners: &mut Owners) -> Result<Unpacked> {
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    plant_with(tree, root, limits, owners, threads)
}

fn plant_with(tree: &dyn Tree, root: &Root, limits: &Limits, owners: &mut Owners, threads: usize) -> Result<Unpacked> {
    limits.check(root)?;
    let (copying, queue) = (Copying::new(tree, root, limits), Queue::default());
    let walked = thread::scope(|scope| {
        let mut work = Plant {
            tree,
            root,
            limits,
            owners,
            report: Unpacked::default(),
            seen: Seen::default(),
            links: HashMap::new(),
            pool: copying.start(scope, &queue, threads),
        };
        let walked = work.run();
        // Files before the place where it failed count.
        work.pool.flush().and(walked).map(|()| work.report)
    });
    // A file that failed comes before what was seen behind it.
    let totals = copying.finish()?;
    Ok(Unpacked { bytes: totals.bytes, content: totals.content, ..walked? })
}

struct Plant<'a, 'p, 'o> {
    tree: &'a dyn Tree,
    root: &'a Root,
    limits: &'a Limits,
    owners: &'a mut Owners<'o>,
    report: Unpacked,
    seen: Seen,
    /// Where the first name of each file is that has several: what it is in the tree, and the path.
    links: HashMap<u64, (Id, Vec<u8>)>,
    pool: Pool<'p, 'a>,
}

/// A directory that is being filled.
struct Level {
    id: Id,
    path: Vec<u8>,
    attributes: Attributes,
    names: std::vec::IntoIter<Name>,
    next: u64,
}

impl Plant<'_, '_, '_> {
    fn run(&mut self) -> Result<()> {
        let mut dir_stack = DirStack::new();
        dir_stack.push(open_dir(self.root.as_fd(), b".")?)?;
        let root = self.tree.root();
        let attributes = self.tree.attributes(root)?;
        self.tell(root, &attributes, b"")?;
        let mut levels = vec![self.level(root, Vec::new(), attributes)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = self.next_name(level)? else {
                self.finish_dir(dir_stack.here()?, level).context(|| show(&level.path))?;
                levels.pop();
                dir_stack.pop()?;
                continue;
            };
            let path = join(&level.path, &name.bytes);
            if path.len() > MAX_PATH || levels.len() >= MAX_DEPTH {
                bail!("{}: deeper than {MAX_DEPTH} directories or {MAX_PATH} bytes", show(&path));
            }
            let entered = self.name(dir_stack.here()?, &name, &path).context(|| show(&path))?;
            if let Some(attributes) = entered {
                dir_stack.push(open_dir(dir_stack.here()?, &name.bytes)?)?;
                levels.push(self.level(name.id, path, attributes)?);
            }
        }
        Ok(())
    }

    fn level(&mut self, id: Id, path: Vec<u8>, attributes: Attributes) -> Result<Level> {
        if !self.seen.insert(attributes.number) {
            bail!("{}: inode {} is in the tree twice", show(&path), attributes.number);
        }
        Ok(Level { id, path, attributes, names: Vec::new().into_iter(), next: 0 })
    }

    fn next_name(&self, level: &mut Level) -> Result<Option<Name>> {
        if let Some(name) = level.names.next() {
            return Ok(Some(name));
        }
        let names = self.tree.list(level.id, level.next, NAMES).context(|| show(&level.path))?;
        level.next = names.last().map_or(level.next, |last| last.next);
        level.names = names.into_iter();
        Ok(level.names.next())
    }

    fn finish_dir(&self, dir: BorrowedFd, level: &Level) -> Result<()> {
        set_xattrs(dir, &self.tree.xattrs(level.id)?)?;
        file::fchmod(dir, level.attributes.mode & PLAIN_MODE | 0o700)?;
        Ok(file::futimens(dir, time(&level.attributes))?)
    }

    /// Makes what a name stands for; of a directory, it is to be filled then.
    fn name(&mut self, dir: BorrowedFd, name: &Name, path: &[u8]) -> Result<Option<Attributes>> {
        signal::check()?;
        self.report.entries += 1;
        if self.report.entries.is_multiple_of(CHECK_ENTRIES) {
            self.limits.check(self.root)?;
        }
        let attributes = self.tree.attributes(name.id)?;
        if attributes.kind != name.kind {
            bail!("inode {} is not what its directory says", attributes.number);
        }
        if attributes.kind == Kind::Dir {
            file::mkdirat(dir, &name.bytes, 0o700)?;
            self.tell(name.id, &attributes, path)?;
            return Ok(Some(attributes));
        }
        if attributes.kind == Kind::Special {
            self.report.ignored_devices += 1;
            return Ok(None);
        }
        if attributes.links > 1 {
            if let Some((id, first)) = self.links.get(&attributes.number) {
                if *id != name.id {
                    bail!("inode {} is in the tree twice", attributes.number);
                }
                let (parent, last) = split(first);
                let parent = reopen(self.root.as_fd(), parent)?;
                file::linkat(parent.as_fd(), last, dir, &name.bytes)?;
                (self.owners)(path, Told::Link(first.clone())).context(|| RECORD)?;
                return Ok(None);
            }
            self.limits.room.take(path.len())?;
            self.links.insert(attributes.number, (name.id, path.to_vec()));
        }
        if !self.seen.insert(attributes.number) {
            bail!("inode {} is in the tree twice", attributes.number);
        }
        self.tell(name.id, &attributes, path)?;
        match attributes.kind {
            Kind::Symlink => {
                file::symlinkat(&self.tree.read_link(name.id)?, dir, &name.bytes)?;
                file::utimensat(dir, &name.bytes, time(&attributes))?;
            }
            Kind::File => self.file(dir, name, attributes, path)?,
            Kind::Dir | Kind::Special => {}
        }
        Ok(None)
    }

    /// Tells what is not on disk.
    fn tell(&mut self, id: Id, attributes: &Attributes, path: &[u8]) -> Result<()> {
        let (uid, gid) = self.tree.owner(id)?;
        let bits = match attributes.kind {
            Kind::File | Kind::Dir => attributes.mode & 0o6000,
            Kind::Symlink | Kind::Special => 0,
        };
        let mut capability = None;
        if attributes.kind == Kind::File && self.tree.has_xattrs() {
            let xattrs = self.tree.xattrs(id)?;
            capability = xattrs.into_iter().find(|(name, _)| name == CAPABILITY).map(|(_, value)| value);
        }
        let owner = Ownership { uid, gid, bits, device: None, capability };
        (self.owners)(path, Told::Is(owner)).context(|| RECORD)
    }

    fn file(&mut self, dir: BorrowedFd, name: &Name, attributes: Attributes, path: &[u8]) -> Result<()> {
        let file = File::from(file::openat(dir, &name.bytes, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)?);
        self.pool.submit(Job { file, id: name.id, attributes, path: path.to_vec() })
    }
}

fn time(attributes: &Attributes) -> Time {
    Time { sec: attributes.mtime, nsec: 0 }
}

/// Numbers that were seen; most trees count from 1 without gaps.
#[derive(Default)]
struct Seen {
    few: Vec<u64>,
    others: HashSet<u64>,
}

impl Seen {
    /// Numbers below this take a bit each.
    const FEW: u64 = 1 << 24;

    /// `false` if it was there before.
    fn insert(&mut self, number: u64) -> bool {
        if number >= Seen::FEW {
            return self.others.insert(number);
        }
        let (word, bit) = ((number / 64) as usize, 1u64 << (number % 64));
        if self.few.len() <= word {
            self.few.resize(word + 1, 0);
        }
        let is_new = self.few[word] & bit == 0;
        self.few[word] |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::checksum::fingerprint;
    use crate::rootfs::owners::nobody;
    use crate::rootfs::testing::{Scratch, listing};

    /// A tree that is told in words: `ID:NUMBER:KIND:LINKS:NAME=ID,…` of a directory, `…:TEXT` of others.
    struct InWords(Vec<Node>);

    struct Node {
        kind: Kind,
        number: u64,
        links: u32,
        names: Vec<(Vec<u8>, Id, Kind)>,
        text: Vec<u8>,
    }

    fn dir(number: u64, names: &[(&str, Id, Kind)]) -> Node {
        let names = names.iter().map(|(name, id, kind)| (name.as_bytes().to_vec(), *id, *kind)).collect();
        Node { kind: Kind::Dir, number, links: 2, names, text: Vec::new() }
    }

    fn leaf(kind: Kind, number: u64, links: u32, text: &str) -> Node {
        Node { kind, number, links, names: Vec::new(), text: text.as_bytes().to_vec() }
    }

    impl Tree for InWords {
        fn root(&self) -> Id {
            0
        }

        fn attributes(&self, id: Id) -> Result<Attributes> {
            let Node { kind, number, links, text, .. } = &self.0[id as usize];
            let size = text.len() as u64;
            Ok(Attributes {
                kind: *kind,
                format: 0,
                device: 0,
                mode: if *kind == Kind::Dir { 0o6755 } else { 0o6644 },
                mtime: 7,
                links: *links,
                size,
                number: *number,
            })
        }

        /// Root's, but for those whose number says otherwise.
        fn owner(&self, id: Id) -> Result<(u32, u32)> {
            let number = self.0[id as usize].number as u32;
            Ok(if number > 1000 { (number, 7) } else { (0, 0) })
        }

        fn has_xattrs(&self) -> bool {
            true
        }

        fn size(&self) -> u64 {
            0
        }

        fn look_up(&self, _: Id, _: &[u8]) -> Result<Option<Name>> {
            Ok(None)
        }

        fn list(&self, dir: Id, from: u64, most: usize) -> Result<Vec<Name>> {
            let names = self.0[dir as usize].names.iter().enumerate().skip(from as usize).take(most);
            Ok(names
                .map(|(n, (bytes, id, kind))| Name { bytes: bytes.clone(), id: *id, kind: *kind, next: n as u64 + 1 })
                .collect())
        }

        fn read_link(&self, id: Id) -> Result<Vec<u8>> {
            Ok(self.0[id as usize].text.clone())
        }

        fn read_at(&self, id: Id, offset: u64, out: &mut [u8]) -> Result<usize> {
            if self.0[id as usize].text == b"damaged" {
                bail!("block 7");
            }
            out.copy_from_slice(&self.0[id as usize].text[offset as usize..][..out.len()]);
            Ok(out.len())
        }

        fn next_data(&self, id: Id, offset: u64) -> Result<Option<(u64, u64)>> {
            // What is written as blanks is a hole.
            let text = &self.0[id as usize].text;
            let start = text.iter().skip(offset as usize).position(|byte| *byte != b' ').map(|n| n as u64 + offset);
            let end = |start| text.iter().skip(start as usize).position(|byte| *byte == b' ');
            Ok(start.map(|start| (start, end(start).map_or(text.len() as u64, |n| start + n as u64))))
        }

        fn xattrs(&self, id: Id) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
            let is_capable = self.0[id as usize].text == b"capable";
            Ok(is_capable.then(|| (CAPABILITY.to_vec(), vec![1, 2])).into_iter().collect())
        }
    }

    /// The same whatever the number of threads.
    fn planted(nodes: Vec<Node>) -> Result<(String, Unpacked)> {
        let tree = InWords(nodes);
        let planted = |threads| {
            let scratch = Scratch::new();
            let root = scratch.root("root");
            let unpacked = plant_with(&tree, &root, &Limits::none(), &mut nobody, threads)?;
            let content = fingerprint(&scratch.path("root"))?;
            assert_eq!(unpacked.content, Some(content));
            Ok((listing(&scratch.path("root")).join(" "), unpacked))
        };
        let alone = planted(1);
        let told = |planted: &Result<_>| format!("{planted:?}");
        for threads in [2, 5, 100] {
            assert_eq!(told(&planted(threads)), told(&alone), "{threads} threads");
        }
        alone
    }

    #[test]
    fn trees_are_copied() {
        use Kind::{Dir, File, Special, Symlink};
        let root = [
            ("d", 1, Dir),
            ("f", 2, File),
            ("holes", 3, File),
            ("l", 4, Symlink),
            ("null", 5, Special),
            ("twin", 2, File),
        ];
        let nodes = vec![
            dir(1, &root),
            dir(2, &[("again", 2, File), (".wh.f", 6, File)]),
            leaf(File, 3, 3, "text"),
            leaf(File, 4, 1, "   a  "),
            leaf(Symlink, 5, 1, "/no/where"),
            leaf(Special, 6, 1, ""),
            leaf(File, 7, 1, "kept"),
        ];
        let (names, unpacked) = planted(nodes).unwrap();
        let want = "d/ d/.wh.f=kept d/again=text f=text holes=\0\0\0a\0\0 l->/no/where twin=text";
        assert_eq!(names, want);
        assert_eq!((unpacked.bytes, unpacked.ignored_devices), (14, 1));
    }

    #[test]
    fn owners_are_told() {
        use Kind::{Dir, File, Special, Symlink};
        let names =
            [("c", 4, File), ("d", 1, Dir), ("f", 2, File), ("l", 3, Symlink), ("null", 5, Special), ("twin", 2, File)];
        let tree = InWords(vec![
            dir(1, &names),
            dir(1001, &[]),
            leaf(File, 1002, 2, "x"),
            leaf(Symlink, 1003, 1, "to"),
            leaf(File, 5, 1, "capable"),
            leaf(Special, 6, 1, ""),
        ]);
        let scratch = Scratch::new();
        let mut told = Vec::new();
        let mut tell = |path: &[u8], what: Told| {
            told.push((String::from_utf8_lossy(path).into_owned(), what));
            Ok(())
        };
        plant_with(&tree, &scratch.root("root"), &Limits::none(), &mut tell, 1).unwrap();
        let is = |uid, gid, bits, capability| Told::Is(Ownership { uid, gid, bits, device: None, capability });
        let want = [
            ("", is(0, 0, 0o6000, None)),
            ("c", is(0, 0, 0o6000, Some(vec![1, 2]))),
            ("d", is(1001, 7, 0o6000, None)),
            ("f", is(1002, 7, 0o6000, None)),
            ("l", is(1003, 7, 0, None)),
            ("twin", Told::Link(b"f".to_vec())),
        ];
        assert_eq!(told, want.map(|(path, what)| (path.to_owned(), what)));
    }

    /// What fails is told of the first file in the order of the tree, whoever copies it.
    #[test]
    fn the_first_error_is_told() {
        use Kind::File;
        let names: Vec<String> = (0..200).map(|n| format!("f{n:03}")).collect();
        let files: Vec<_> = names.iter().enumerate().map(|(n, name)| (name.as_str(), n as u64 + 1, File)).collect();
        let mut nodes = vec![dir(1, &files)];
        nodes.extend((0..200).map(|n| leaf(File, n + 2, 1, if n % 50 == 49 { "damaged" } else { "x" })));
        let error = planted(nodes).map(drop).map_err(|e| e.to_string());
        assert_eq!(error, Err("f049: block 7".to_owned()));
    }

    #[test]
    fn what_is_no_tree_is_an_error() {
        use Kind::{Dir, File, Symlink};
        let check = |nodes: Vec<Node>, want: &str| {
            assert_eq!(planted(nodes).map(|(names, _)| names).map_err(|e| e.to_string()), Err(want.to_owned()));
        };
        check(vec![dir(1, &[("d", 0, Dir)])], "d: inode 1 is in the tree twice");
        check(vec![dir(1, &[("a", 1, Dir)]), dir(2, &[("b", 1, Dir)])], "a/b: inode 2 is in the tree twice");
        check(vec![dir(1, &[("a", 1, Dir), ("b", 1, Dir)]), dir(2, &[])], "b: inode 2 is in the tree twice");
        let file = |number, links| leaf(File, number, links, "x");
        let two = [("a", 1, File), ("b", 2, File)];
        check(vec![dir(1, &two), file(2, 1), file(2, 1)], "b: inode 2 is in the tree twice");
        check(vec![dir(1, &two), file(2, 2), file(2, 2)], "b: inode 2 is in the tree twice");
        check(vec![dir(1, &two), file(1 << 40, 1), file(1 << 40, 1)], "b: inode 1099511627776 is in the tree twice");
        // Two names, although it says one.
        check(vec![dir(1, &[("a", 1, File), ("b", 1, File)]), file(2, 1)], "b: inode 2 is in the tree twice");
        check(vec![dir(1, &[("a", 1, File)]), file(1, 1)], "a: inode 1 is in the tree twice");
        check(vec![dir(1, &[("a", 1, Dir)]), file(2, 1)], "a: inode 2 is not what its directory says");
        check(vec![dir(1, &[("a", 1, Symlink)]), dir(2, &[])], "a: inode 2 is not what its directory says");
        let deep: Vec<Node> = (0..600).map(|n| dir(n + 1, &[("d", n + 1, Dir)])).collect();
        let want = format!("{}: deeper than 512 directories or 4096 bytes", show(&["d"; 512].join("/").into_bytes()));
        check(deep, &want);
    }
}
