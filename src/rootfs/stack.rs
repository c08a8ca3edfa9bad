//! What does a stack of layers show? The merged view, without any mount or namespace.
//!
//! The same rules as overlayfs: of several layers with a name the top one counts; directories merge down to an opaque
//! one, a whiteout or something that is no directory; the root directory always merges. Every directory of a [`Node`]
//! was seen to be one. Layers never change, but a directory that is pushed may, by the hand of others: where something
//! is opened, a link on the way is an error.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::marks::Marks;
use super::metadata::OPAQUE;
use super::resolve::{Followed, join, parts, reopen, split};
use super::root::{Last, Root, show};
use crate::error::{Context, Result, bail};
use crate::sys::file::{self, Kind, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, Stat};

/// Layer directories, the lowest first. One whole tree (plain form, or a mounted merge) is a stack of one.
#[derive(Debug)]
pub struct Stack {
    layers: Vec<Rc<Layer>>,
    memo: Option<Rc<RefCell<Memo>>>,
    /// So many of the lowest layers are in the memo.
    known: usize,
}

#[derive(Debug)]
struct Layer {
    root: Root,
    marks: Marks,
}

/// Where a layer is, and what it hides besides what its directory says.
#[derive(Clone, Debug)]
pub struct LayerDir {
    pub tree: PathBuf,
    pub marks: Marks,
}

/// What paths stand for, found once: in so many of the lowest layers. When more come on top, only those are asked.
#[derive(Debug, Default)]
struct Memo {
    seen: HashMap<Vec<u8>, (usize, Seen)>,
    bytes: usize,
}

/// Bytes that a memo may take; then it begins anew.
const MAX_MEMO: usize = 16 << 20;

impl Memo {
    fn keep(&mut self, path: &[u8], layers: usize, seen: &Seen) {
        let size = |seen: &Seen| match seen {
            Seen::Nothing | Seen::Other(..) => 0,
            Seen::Dir(layers, _) => layers.len() * size_of::<usize>(),
        };
        self.bytes = self.bytes.saturating_add(size(seen));
        match self.seen.insert(path.to_vec(), (layers, seen.clone())) {
            Some((_, before)) => self.bytes = self.bytes.saturating_sub(size(&before)),
            None => self.bytes = self.bytes.saturating_add(path.len() + 250),
        }
        if self.bytes > MAX_MEMO {
            *self = Memo::default();
        }
    }
}

/// What a path stands for in some layers.
#[derive(Clone, Debug)]
enum Seen {
    Nothing,
    /// The layers that have it, the top one first, and what that one says.
    Dir(Rc<[usize]>, Stat),
    Other(usize, Stat),
}

/// Something in the merged view.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Path from the root, without links; empty for the root.
    pub path: PathBuf,
    /// What it is; of a merged directory, what its top layer says.
    pub stat: Stat,
}

/// A directory of the merged view.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub path: Vec<u8>,
    /// Layers that have it, the top one first.
    pub layers: Rc<[usize]>,
}

/// What a name stands for in the merged view.
pub(super) enum Found {
    Dir(Node, Stat),
    /// Anything else, with the layer that has it.
    Other(usize, Stat),
}

impl Found {
    pub fn stat(&self) -> &Stat {
        match self {
            Found::Dir(_, stat) | Found::Other(_, stat) => stat,
        }
    }
}

/// Where a path leads; its last component may be missing.
pub(super) struct Spot {
    pub dir: Node,
    /// Empty: the directory itself, which then is the root.
    pub name: Vec<u8>,
    pub found: Option<Found>,
}

impl Stack {
    /// Layers from the lowest to the top one.
    pub fn new(layers: Vec<Root>) -> Stack {
        let mut stack = Stack { layers: Vec::new(), memo: None, known: 0 };
        layers.into_iter().for_each(|root| stack.add(root, Marks::default()));
        stack
    }

    fn add(&mut self, root: Root, marks: Marks) {
        self.layers.push(Rc::new(Layer { root, marks }));
    }

    /// Looks nothing up twice. For layers that do not change any more, also those that are pushed later.
    pub fn remembering(self) -> Stack {
        let known = self.layers.len();
        Stack { memo: Some(Rc::default()), known, ..self }
    }

    /// Puts a layer on top.
    pub fn push(&mut self, layer: Root) {
        self.add(layer, Marks::default());
        self.known = self.layers.len();
    }

    /// This stack with a layer on top, which may still change. No descriptor is opened for what is below.
    pub(super) fn with(&self, layer: Root) -> Stack {
        let mut stack = Stack { layers: self.layers.clone(), memo: self.memo.clone(), known: self.known };
        stack.add(layer, Marks::default());
        stack
    }

    pub(super) fn top(&self) -> Option<&Root> {
        self.layers.last().map(|layer| &layer.root)
    }

    pub fn open(paths: &[PathBuf]) -> Result<Stack> {
        Ok(Stack::new(paths.iter().map(|path| Root::open(path)).collect::<Result<_>>()?))
    }

    pub fn of(dirs: &[LayerDir]) -> Result<Stack> {
        let mut stack = Stack::new(Vec::new());
        dirs.iter().try_for_each(|dir| Root::open(&dir.tree).map(|root| stack.add(root, dir.marks.clone())))?;
        Ok(stack)
    }

    pub fn len(&self) -> usize {
        self.layers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// What is at `path`, links on the way followed inside the root; `None` if nothing.
    pub fn lookup(&self, path: &Path, last: Last) -> Result<Option<Entry>> {
        let bytes = path.as_os_str().as_bytes();
        let spot = self.spot(bytes, last).context(|| format!("can't look at {}", show(bytes)))?;
        Ok(spot.and_then(|spot| {
            let path = join(&spot.dir.path, &spot.name);
            let stat = *spot.found.as_ref()?.stat();
            Some(Entry { path: to_path(if spot.name.is_empty() { spot.dir.path } else { path }), stat })
        }))
    }

    /// Names of a directory with what they stand for, sorted by bytes; `None` if there is no such directory.
    #[cfg(test)]
    pub fn read_dir(&self, path: &Path) -> Result<Option<Vec<(OsString, Stat)>>> {
        let bytes = path.as_os_str().as_bytes();
        let list = || -> io::Result<_> {
            let Some(Spot { found: Some(Found::Dir(node, _)), .. }) = self.spot(bytes, Last::Follow)? else {
                return Ok(None);
            };
            self.list(&node).map(Some)
        };
        let list = list().context(|| format!("can't read directory {}", show(bytes)))?;
        Ok(list.map(|list| list.into_iter().map(|(name, found)| (OsString::from_vec(name), *found.stat())).collect()))
    }

    /// Names of a directory, links followed; none if there is no such directory.
    pub fn names(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let bytes = path.as_os_str().as_bytes();
        let list = || -> io::Result<_> {
            match self.spot(bytes, Last::Follow)? {
                Some(Spot { found: Some(Found::Dir(node, _)), .. }) => self.list(&node),
                Some(_) | None => Ok(BTreeMap::new()),
            }
        };
        let list = list().context(|| format!("can't read directory {}", show(bytes)))?;
        Ok(list.into_keys().map(to_path).collect())
    }

    /// Opens a regular file for reading, links followed; `None` if there is nothing.
    pub fn open_file(&self, path: &Path) -> Result<Option<File>> {
        let bytes = path.as_os_str().as_bytes();
        let open = || -> Result<_> {
            let Some(Spot { dir, name, found: Some(found) }) = self.spot(bytes, Last::Follow)? else {
                return Ok(None);
            };
            match found {
                Found::Other(layer, stat) if stat.kind == Kind::File => {
                    Ok(Some(self.open_in(layer, &join(&dir.path, &name))?))
                }
                Found::Other(..) | Found::Dir(..) => bail!("not a regular file"),
            }
        };
        open().context(|| format!("can't open {}", show(bytes)))
    }

    /// A file's content, at most `limit` bytes (else an error); `None` if there is nothing.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open_file(path)? else { return Ok(None) };
        let mut content = Vec::new();
        file.take(limit.saturating_add(1))
            .read_to_end(&mut content)
            .context(|| format!("can't read {}", path.display()))?;
        if content.len() as u64 > limit {
            bail!("can't read {}: more than {limit} bytes", show(path.as_os_str().as_bytes()));
        }
        Ok(Some(content))
    }

    /// The target of a symbolic link; `None` if there is none at `path`.
    #[cfg(test)]
    pub fn readlink(&self, path: &Path) -> Result<Option<PathBuf>> {
        let bytes = path.as_os_str().as_bytes();
        let read = || -> io::Result<_> {
            match self.spot(bytes, Last::Keep)? {
                Some(Spot { dir, name, found: Some(Found::Other(layer, stat)) }) if stat.kind == Kind::Symlink => {
                    file::readlinkat(self.layer(layer).as_fd(), &join(&dir.path, &name)).map(Some)
                }
                _ => Ok(None),
            }
        };
        Ok(read().context(|| format!("can't read link {}", show(bytes)))?.map(to_path))
    }

    pub(super) fn layer(&self, index: usize) -> &Root {
        &self.layers[index].root
    }

    pub(super) fn root(&self) -> Node {
        Node { path: Vec::new(), layers: (0..self.layers.len()).rev().collect() }
    }

    /// What `name` stands for in a merged directory.
    pub(super) fn find(&self, node: &Node, name: &[u8]) -> io::Result<Option<Found>> {
        self.find_in(&node.layers, &join(&node.path, name))
    }

    /// What `path` stands for in the layers of its parent, top first, with or without the topmost layer of the stack.
    pub(super) fn find_in(&self, layers: &[usize], path: &[u8]) -> io::Result<Option<Found>> {
        let Some(memo) = &self.memo else { return Ok(found(self.search(layers, path, Seen::Nothing)?, path)) };
        let (new, known) = layers.split_at(layers.iter().take_while(|layer| **layer >= self.known).count());
        let mut below = Seen::Nothing;
        if !known.is_empty() {
            let (count, seen) = memo.borrow().seen.get(path).cloned().unwrap_or((0, Seen::Nothing));
            let (since, before) = known.split_at(known.iter().take_while(|layer| **layer >= count).count());
            // Layers that came since hide either all of the parent that was there before, or nothing of it.
            let before = if before.is_empty() { Seen::Nothing } else { seen };
            below = self.search(since, path, before)?;
            if count < self.known {
                memo.borrow_mut().keep(path, self.known, &below);
            }
        }
        Ok(found(self.search(new, path, below)?, path))
    }

    /// What `path` stands for in these layers, top first, on top of what it is below them. Its parents are directories
    /// in each of them.
    fn search(&self, layers: &[usize], path: &[u8], below: Seen) -> io::Result<Seen> {
        let mut dirs = Vec::new();
        let mut top = None;
        let mut hidden = false;
        for (at, layer) in layers.iter().enumerate() {
            let Layer { root, marks } = self.layers[*layer].as_ref();
            if marks.is_gone(path) {
                hidden = true;
                break;
            }
            let Some(stat) = file::look(root.as_fd(), path)? else { continue };
            if !stat.is_dir() {
                if dirs.is_empty() && stat.kind != Kind::Whiteout {
                    return Ok(Seen::Other(*layer, stat));
                }
                hidden = true;
                break;
            }
            dirs.push(*layer);
            top.get_or_insert(stat);
            let last = at + 1 == layers.len() && matches!(below, Seen::Nothing);
            if !last && self.is_opaque(*layer, path)? {
                hidden = true;
                break;
            }
        }
        let below = if hidden { Seen::Nothing } else { below };
        Ok(match (top, below) {
            (None, below) => below,
            (Some(top), Seen::Nothing | Seen::Other(..)) => Seen::Dir(dirs.into(), top),
            (Some(top), Seen::Dir(more, _)) => Seen::Dir(dirs.into_iter().chain(more.iter().copied()).collect(), top),
        })
    }

    /// All names of a merged directory.
    pub(super) fn list(&self, node: &Node) -> io::Result<BTreeMap<Vec<u8>, Found>> {
        let mut list = BTreeMap::new();
        for (at, layer) in node.layers.iter().enumerate() {
            let dir = self.open_dir_in(*layer, &node.path)?;
            for name in file::names(dir.as_fd())? {
                if list.contains_key(&name.bytes) {
                    continue;
                }
                let path = join(&node.path, &name.bytes);
                let found = found(self.search(&node.layers[at..], &path, Seen::Nothing)?, &path);
                list.insert(name.bytes, found);
            }
            for name in self.layers[*layer].marks.gone_in(&node.path) {
                list.entry(name.clone()).or_insert(None);
            }
        }
        Ok(list.into_iter().filter_map(|(name, found)| Some((name, found?))).collect())
    }

    pub(super) fn open_in(&self, layer: usize, path: &[u8]) -> io::Result<File> {
        self.open_without_links(layer, path, O_RDONLY | O_NONBLOCK).map(File::from)
    }

    pub(super) fn open_dir_in(&self, layer: usize, path: &[u8]) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        self.open_without_links(layer, path, O_RDONLY | O_DIRECTORY)
    }

    fn open_without_links(&self, layer: usize, path: &[u8], flags: i32) -> io::Result<OwnedFd> {
        let root = self.layer(layer).as_fd();
        let resolve = file::RESOLVE_BENEATH | file::RESOLVE_NO_SYMLINKS;
        if let Some(fd) = file::openat2(root, path, flags | O_NOFOLLOW, 0, resolve)? {
            return Ok(fd);
        }
        let (parent, name) = split(path);
        file::openat(reopen(root, parent)?.as_fd(), name, flags | O_NOFOLLOW, 0)
    }

    /// The target of a link that was seen there.
    pub(super) fn link_in(&self, layer: usize, path: &[u8]) -> io::Result<Vec<u8>> {
        let (parent, name) = split(path);
        file::readlinkat(reopen(self.layer(layer).as_fd(), parent)?.as_fd(), name)
    }

    pub(super) fn is_opaque(&self, layer: usize, path: &[u8]) -> io::Result<bool> {
        if self.layers[layer].marks.is_opaque(path) {
            return Ok(true);
        }
        let dir = self.open_dir_in(layer, path)?;
        Ok(file::fgetxattr(dir.as_fd(), OPAQUE)?.as_deref() == Some(b"y"))
    }

    /// Follows a path. `None` if a directory on the way is missing or is none.
    pub(super) fn spot(&self, path: &[u8], last: Last) -> io::Result<Option<Spot>> {
        let mut todo: VecDeque<Vec<u8>> = parts(path).map(<[u8]>::to_vec).collect();
        let mut links = Followed::default();
        let mut trail = vec![self.root()];
        loop {
            let here = trail.last().cloned().unwrap_or_else(|| self.root());
            let Some(name) = todo.pop_front() else {
                let layer = here.layers.first().copied().unwrap_or_default();
                let dir = self.open_dir_in(layer, &here.path)?;
                let found = Some(Found::Dir(here.clone(), file::fstat(dir.as_fd())?));
                let (parent, name) = split(&here.path);
                let dir = trail.iter().rev().find(|node| node.path == parent).cloned().unwrap_or_else(|| self.root());
                return Ok(Some(Spot { dir, name: name.to_vec(), found }));
            };
            if name == b".." {
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            match self.find(&here, &name)? {
                Some(Found::Other(layer, stat))
                    if stat.kind == Kind::Symlink && (last == Last::Follow || !todo.is_empty()) =>
                {
                    let target = file::readlinkat(self.layer(layer).as_fd(), &join(&here.path, &name))?;
                    links.add(&target)?;
                    if target.starts_with(b"/") {
                        trail.truncate(1);
                    }
                    for part in parts(&target).rev() {
                        todo.push_front(part.to_vec());
                    }
                }
                Some(Found::Dir(node, _)) => trail.push(node),
                found if todo.is_empty() => return Ok(Some(Spot { dir: here, name, found })),
                _ => return Ok(None),
            }
        }
    }
}

fn found(seen: Seen, path: &[u8]) -> Option<Found> {
    match seen {
        Seen::Nothing => None,
        Seen::Dir(layers, stat) => Some(Found::Dir(Node { path: path.to_vec(), layers }, stat)),
        Seen::Other(layer, stat) => Some(Found::Other(layer, stat)),
    }
}

fn to_path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}
