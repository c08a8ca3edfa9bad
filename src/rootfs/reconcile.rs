//! What does a layer need from the layers below it? The pass after unpacking in overlay form, cheap, lowest layer first.
//!
//! Unpacked alone, a layer does not know (1) mode and times of directories that it uses without describing them, the
//! root directory too, (2) that such a directory is a symbolic link below (`var/run -> /run`): what it put there belongs
//! where the link leads, (3) files that it links to, (4) which names an opaque root directory hides, (5) which whiteouts
//! hide nothing. Here each is set right, with the merged view of the layers below and this one, so that overlayfs then
//! shows what applying the layers one by one to a tree would give.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::links::PendingLink;
use super::metadata::{OPAQUE, open_dir, set_opaque, set_times};
use super::owners::{Owners, Told, nobody};
use super::remove::remove_at;
use super::resolve::{self, Followed, is_below, join, parts, split};
use super::root::{Last, Root, show};
use super::stack::{Found, Node, Stack};
use super::tree::{copy_content, copy_xattrs};
use super::unpack::{Unpacked, within_limits};
use crate::error::{Context, Error, Result, bail};
use crate::sys::file::{self, Kind, O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY, Stat, Time};

/// [`reconcile_owned`], where nobody asks for owners.
pub fn reconcile(unpacked: &mut Unpacked, root: &Root, lower: &Stack) -> Result<Option<u64>> {
    reconcile_owned(unpacked, root, lower, &mut nobody)
}

/// Sets a layer right that was unpacked in overlay form into `root`; `lower` are the layers below it, themselves
/// reconciled. Nothing to do for the plain form. What [`super::fingerprint`] would say; `None` if only reading can tell.
pub fn reconcile_owned(
    unpacked: &mut Unpacked,
    root: &Root,
    lower: &Stack,
    owners: &mut Owners,
) -> Result<Option<u64>> {
    if lower.is_empty() && unpacked.links.is_empty() && unpacked.whiteouts.is_empty() {
        return Ok(unpacked.content);
    }
    let mut work = Settle {
        root,
        lower,
        merged: lower.with(root.try_clone()?),
        top: lower.len(),
        implied: std::mem::take(&mut unpacked.implied),
        whiteouts: std::mem::take(&mut unpacked.whiteouts),
        opaque: std::mem::take(&mut unpacked.opaque),
        deepest: unpacked.deepest,
        longest: unpacked.longest,
        times: HashMap::new(),
        trail: Vec::new(),
        content: unpacked.content,
        owners,
    };
    work.run(unpacked).context(|| unpacked.label.clone())?;
    Ok(work.content)
}

/// Makes the root directory of a new layer like that of the layer below, since overlayfs shows the topmost.
pub fn inherit_root(tree: &Path, below: &Path) -> Result<()> {
    let root = Root::open(tree)?;
    let like = take_after(root.as_fd(), Root::open(below)?.as_fd())?;
    Ok(file::futimens(root.as_fd(), like.mtime)?)
}

/// Gives a directory the mode and the attributes of another; the time is for later, when nothing changes it any more.
fn take_after(mine: BorrowedFd, theirs: BorrowedFd) -> Result<Stat> {
    let stat = file::fstat(theirs)?;
    copy_xattrs(theirs, mine)?;
    file::fchmod(mine, stat.mode)?;
    Ok(stat)
}

struct Settle<'a, 'o> {
    root: &'a Root,
    lower: &'a Stack,
    /// The layers below and this one.
    merged: Stack,
    /// Index of this layer.
    top: usize,
    implied: BTreeSet<Vec<u8>>,
    whiteouts: BTreeSet<Vec<u8>>,
    opaque: BTreeSet<Vec<u8>>,
    /// Of the paths in this layer: most components, most bytes.
    deepest: usize,
    longest: usize,
    times: HashMap<Vec<u8>, (u64, Time)>,
    /// The directories down to the one that was looked up last, while this layer has the same ones.
    trail: Vec<Node>,
    /// As in [`Unpacked`].
    content: Option<u64>,
    owners: &'a mut Owners<'o>,
}

impl Settle<'_, '_> {
    fn run(&mut self, unpacked: &Unpacked) -> Result<()> {
        if unpacked.root_opaque {
            self.hide_root()?;
        }
        if !unpacked.root_described {
            let mine = self.root.as_fd();
            let like =
                self.lower.top().map_or_else(|| Ok(file::fstat(mine)?), |below| take_after(mine, below.as_fd()))?;
            self.times.insert(Vec::new(), (file::fstat(mine)?.ino, like.mtime));
        }
        while let Some(path) = self.implied.pop_first() {
            self.implied_dir(&path).context(|| format!("directory {}", show(&path)))?;
        }
        self.drop_idle_whiteouts()?;
        for PendingLink { name, target, overtaken } in &unpacked.links {
            self.link(name, target, *overtaken).context(|| format!("member {}", show(name)))?;
        }
        set_times(self.root, &self.times)
    }

    /// overlayfs always merges root directories; so every name below is hidden by itself.
    fn hide_root(&mut self) -> Result<()> {
        let root = self.root.as_fd();
        let stat = file::fstat(root)?;
        for (name, _) in self.lower.list(&self.lower.root())? {
            match file::look(root, &name)? {
                None => file::whiteout(root, &name)?,
                Some(stat) if stat.is_dir() => {
                    self.implied.remove(&name);
                    set_opaque(open_dir(root, &name)?.as_fd())?;
                }
                Some(_) => {}
            }
        }
        self.times.insert(Vec::new(), (stat.ino, stat.mtime));
        Ok(())
    }

    /// A directory that the layer uses without describing it takes after the one below.
    fn implied_dir(&mut self, path: &[u8]) -> Result<()> {
        let (parent, _) = split(path);
        let Some(node) = self.node(parent)? else { return Ok(()) };
        let below: Vec<usize> = node.layers.iter().copied().filter(|layer| *layer != self.top).collect();
        match self.merged.find_in(&below, path)? {
            None => Ok(()),
            Some(Found::Dir(dir, stat)) => {
                let mine = self.open(path)?;
                take_after(mine.as_fd(), self.merged.open_dir_in(dir.layers[0], path)?.as_fd())?;
                let ino = file::fstat(mine.as_fd())?.ino;
                self.times.insert(path.to_vec(), (ino, stat.mtime));
                self.tell(path, Told::AsIn(dir.layers[0], path.to_vec()))
            }
            Some(Found::Other(layer, stat)) if stat.kind == Kind::Symlink => {
                let target = file::readlinkat(self.merged.layer(layer).as_fd(), path)?;
                self.through_link(path, &target)
            }
            Some(Found::Other(..)) => bail!("not a directory in the lower layers"),
        }
    }

    fn tell(&mut self, path: &[u8], told: Told) -> Result<()> {
        (self.owners)(path, told).context(|| "can't record owners")
    }

    /// The merged directory with this path without links.
    fn node(&mut self, path: &[u8]) -> Result<Option<Node>> {
        while self.trail.last().is_some_and(|known| !is_below(&known.path, path)) {
            self.trail.pop();
        }
        let mut node = self.trail.last().cloned().unwrap_or_else(|| self.merged.root());
        for name in parts(&path[node.path.len()..]) {
            match self.merged.find(&node, name)? {
                Some(Found::Dir(next, _)) => node = next,
                _ => return Ok(None),
            }
            self.trail.push(node.clone());
        }
        Ok(Some(node))
    }

    /// Moves what the layer put below a link of a lower layer to where the link leads.
    fn through_link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let base = if target.starts_with(b"/") { &[][..] } else { split(path).0 };
        let to = self.canonical(base, target).context(|| format!("is a link to {} below", show(target)))?;
        if is_below(path, &to) {
            return Err(io::Error::from_raw_os_error(libc::ELOOP).into());
        }
        self.trail.clear();
        self.drop_markers(path)?;
        let parent = split(path).0.to_vec();
        self.keep_time(&parent)?;
        if self.drop_empty(path)? {
            return Ok(());
        }
        within_limits(&to, self.deepest - parts(path).count().min(self.deepest), self.longest)?;
        self.ensure(&to)?;
        self.merge(path, &to)?;
        self.tell(path, Told::Moved(to.clone()))?;
        move_paths(&mut self.implied, path, &to);
        let dir = resolve::reopen(self.root.as_fd(), &parent)?;
        self.trail.clear();
        remove_at(dir.as_fd(), split(path).1)
    }

    /// Below a link there is nothing that a marker could mean.
    fn drop_markers(&mut self, path: &[u8]) -> Result<()> {
        for name in take_below(&mut self.whiteouts, path) {
            let Some(dir) = self.mine(split(&name).0)? else { continue };
            if file::look(dir.as_fd(), split(&name).1)?.is_some_and(|stat| stat.kind == Kind::Whiteout) {
                self.keep_time(split(&name).0)?;
                file::unlinkat(dir.as_fd(), split(&name).1)?;
            }
        }
        for name in take_below(&mut self.opaque, path) {
            let Some(dir) = self.mine(&name)? else { continue };
            let dir = open_dir(dir.as_fd(), b".")?;
            if file::fgetxattr(dir.as_fd(), OPAQUE)?.is_some() {
                file::fremovexattr(dir.as_fd(), OPAQUE)?;
            }
        }
        Ok(())
    }

    /// Removes directories that the layer uses without describing them, and that hold nothing (any more), from `path`
    /// down. `true`: that one, too.
    fn drop_empty(&mut self, path: &[u8]) -> Result<bool> {
        let mut gone = false;
        // `path` itself is no longer in the set: it comes last.
        let below: Vec<Vec<u8>> = below(&self.implied, path).into_iter().cloned().collect();
        for dir in below.into_iter().rev().chain([path.to_vec()]) {
            let Some(holder) = self.mine(split(&dir).0)? else { continue };
            let empty = file::names(open_dir(holder.as_fd(), split(&dir).1)?.as_fd())?.is_empty();
            gone = empty;
            if empty {
                self.keep_time(split(&dir).0)?;
                file::rmdirat(holder.as_fd(), split(&dir).1)?;
                self.implied.remove(&dir);
            }
        }
        Ok(gone)
    }

    /// A directory of this layer; `None` if the layer replaced it later.
    fn mine(&self, path: &[u8]) -> io::Result<Option<OwnedFd>> {
        match resolve::reopen(self.root.as_fd(), path) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => Ok(None),
            done => done.map(Some),
        }
    }

    /// Moves all names of the directory `from` of this layer into `to`; directories on both sides merge.
    fn merge(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        let mut todo = vec![(from.to_vec(), to.to_vec())];
        while let Some((from, to)) = todo.pop() {
            self.keep_time(&to)?;
            let (source, target) = (self.open(&from)?, self.open(&to)?);
            if file::fgetxattr(source.as_fd(), OPAQUE)?.is_some() {
                set_opaque(target.as_fd())?;
            }
            for name in file::names(source.as_fd())? {
                let name = name.bytes;
                let stat = file::lstatat(source.as_fd(), &name)?;
                match file::look(target.as_fd(), &name)? {
                    Some(other) if other.is_dir() && stat.is_dir() => {
                        let (from, to) = (join(&from, &name), join(&to, &name));
                        // Whichever of the two the layer describes.
                        if !self.implied.contains(&from) {
                            self.implied.remove(&to);
                            file::fchmod(open_dir(target.as_fd(), &name)?.as_fd(), stat.mode)?;
                            self.times.insert(to.clone(), (other.ino, stat.mtime));
                        } else if !self.implied.contains(&to) {
                            self.implied.remove(&from);
                        }
                        todo.push((from, to));
                        continue;
                    }
                    Some(_) => {
                        self.content = None;
                        self.tell(&join(&to, &name), Told::Gone)?;
                        remove_at(target.as_fd(), &name)?;
                    }
                    None => {}
                }
                file::renameat(source.as_fd(), &name, target.as_fd(), &name)?;
            }
        }
        Ok(())
    }

    /// Removes whiteouts of what is not there below. In a directory that this layer alone has, overlayfs would list them.
    fn drop_idle_whiteouts(&mut self) -> Result<()> {
        let mut parent: Option<(Vec<u8>, Vec<usize>)> = None;
        for path in std::mem::take(&mut self.whiteouts) {
            let (dir, name) = split(&path);
            if parent.as_ref().is_none_or(|(known, _)| known != dir) {
                let layers = self.node(dir)?.map(|node| node.layers).unwrap_or_default();
                parent = Some((dir.to_vec(), layers.iter().copied().filter(|layer| *layer != self.top).collect()));
            }
            let below = parent.as_ref().map(|(_, layers)| layers.as_slice()).unwrap_or_default();
            if self.merged.find_in(below, &path)?.is_some() {
                continue;
            }
            let Some(holder) = self.mine(dir)? else { continue };
            if file::look(holder.as_fd(), name)?.is_some_and(|stat| stat.kind == Kind::Whiteout) {
                self.keep_time(dir)?;
                file::unlinkat(holder.as_fd(), name)?;
            }
        }
        Ok(())
    }

    /// A hard link to a file that this layer did not have: the file is copied up, then linked. If `overtaken`, the layer
    /// has another one of that name by now.
    fn link(&mut self, name: &[u8], target: &[u8], overtaken: bool) -> Result<()> {
        self.content = None;
        let absent = || Error::new(format!("hard link target not found: {}", show(target)));
        let (stack, spot) = match self.merged.spot(target, Last::Keep)? {
            Some(spot) if spot.found.is_some() && !overtaken => (&self.merged, spot),
            // Hidden by this very layer, which did so after the link.
            _ => match self.lower.spot(target, Last::Keep)? {
                Some(spot) if spot.found.is_some() => (self.lower, spot),
                _ => return Err(absent()),
            },
        };
        let hidden = std::ptr::eq(stack, self.lower);
        let from = join(&spot.dir.path, &spot.name);
        let (layer, stat) = match spot.found {
            Some(Found::Other(layer, stat)) => (layer, stat),
            Some(Found::Dir(..)) => bail!("hard link to a directory: {}", show(target)),
            None => return Err(absent()),
        };
        let (parent, last) = split(name);
        let parent = self.canonical(&[], parent)?;
        let dir = self.ensure(&parent)?;
        let to = join(&parent, last);
        if hidden {
            self.clear_name(&dir, last, None)?;
            self.tell(&to, Told::AsIn(layer, from.clone()))?;
            return self.copy_up(layer, &from, &stat, &dir, last);
        }
        if layer != self.top {
            let source = self.ensure(split(&from).0)?;
            self.copy_up(layer, &from, &stat, &source, &spot.name)?;
            self.tell(&from, Told::AsIn(layer, from.clone()))?;
        }
        if from == to {
            return Ok(());
        }
        let stat = file::lstatat(self.root.as_fd(), &from)?;
        if self.clear_name(&dir, last, Some(&stat))? {
            let source = resolve::reopen(self.root.as_fd(), split(&from).0)?;
            file::linkat(source.as_fd(), &spot.name, dir.as_fd(), last)?;
            self.tell(&to, Told::Link(from))?;
        }
        Ok(())
    }

    /// Makes room for a link; `false` if the name is that file already.
    fn clear_name(&self, dir: &OwnedFd, name: &[u8], same: Option<&Stat>) -> Result<bool> {
        match (file::look(dir.as_fd(), name)?, same) {
            (None, _) => Ok(true),
            (Some(stat), Some(same)) if (stat.dev, stat.ino) == (same.dev, same.ino) => Ok(false),
            (Some(stat), _) if stat.is_dir() => bail!("is used as a directory, but is a hard link"),
            (Some(_), _) => Ok(file::unlinkat(dir.as_fd(), name).map(|()| true)?),
        }
    }

    fn copy_up(&self, layer: usize, from: &[u8], stat: &Stat, dir: &OwnedFd, name: &[u8]) -> Result<()> {
        let source = self.merged.layer(layer).as_fd();
        match stat.kind {
            Kind::Symlink => {
                file::symlinkat(&file::readlinkat(source, from)?, dir.as_fd(), name)?;
                Ok(file::utimensat(dir.as_fd(), name, stat.mtime)?)
            }
            Kind::File => {
                let source = self.merged.open_in(layer, from)?;
                let copy = file::openat(dir.as_fd(), name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)?;
                let copy = File::from(copy);
                copy_content(&source, &copy, stat)?;
                copy_xattrs(source.as_fd(), copy.as_fd())?;
                file::fchmod(copy.as_fd(), stat.mode)?;
                Ok(file::futimens(copy.as_fd(), stat.mtime)?)
            }
            Kind::Dir | Kind::Whiteout | Kind::Special => bail!("hard link to something that is not a file"),
        }
    }

    /// `path`, seen from `base`, without links in the merged view; what is missing counts as directories to be made.
    fn canonical(&self, base: &[u8], path: &[u8]) -> Result<Vec<u8>> {
        let mut todo: VecDeque<Vec<u8>> = parts(base).chain(parts(path)).map(<[u8]>::to_vec).collect();
        // Directories from the root down to where we are; `None` where there is none yet.
        let mut trail = vec![Some(self.merged.root())];
        let mut here = Vec::new();
        let mut links = Followed::default();
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                here = split(&here).0.to_vec();
                trail.truncate(trail.len().saturating_sub(1).max(1));
                continue;
            }
            let found = match trail.last() {
                Some(Some(node)) => self.merged.find(node, &name)?,
                Some(None) | None => None,
            };
            let next = join(&here, &name);
            match found {
                Some(Found::Other(layer, stat)) if stat.kind == Kind::Symlink => {
                    let target = file::readlinkat(self.merged.layer(layer).as_fd(), &next)?;
                    links.add(&target)?;
                    if target.starts_with(b"/") {
                        trail.truncate(1);
                        here.clear();
                    }
                    for part in parts(&target).rev() {
                        todo.push_front(part.to_vec());
                    }
                    continue;
                }
                Some(Found::Other(..)) => bail!("{} is not a directory", show(&next)),
                Some(Found::Dir(node, _)) => trail.push(Some(node)),
                None => trail.push(None),
            }
            within_limits(&next, 1, 1)?;
            here = next;
        }
        Ok(here)
    }

    /// Makes the directory `path` (without links) in this layer where missing, each part after the one below.
    fn ensure(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let mut here = Vec::new();
        let mut dir = resolve::reopen(self.root.as_fd(), b"")?;
        for name in parts(path) {
            let next = join(&here, name);
            match file::look(dir.as_fd(), name)? {
                Some(stat) if stat.is_dir() => {}
                found => {
                    let below = match self.node(&here)? {
                        Some(node) => self.merged.find(&node, name)?,
                        None => None,
                    };
                    self.keep_time(&here)?;
                    self.trail.clear();
                    let whited = found.is_some();
                    if whited {
                        file::unlinkat(dir.as_fd(), name)?;
                    }
                    file::mkdirat(dir.as_fd(), name, 0o700)?;
                    let made = open_dir(dir.as_fd(), name)?;
                    let ino = file::fstat(made.as_fd())?.ino;
                    let (mut mode, mut mtime) = (0o755, Time::default());
                    if whited {
                        set_opaque(made.as_fd())?;
                    } else if let Some(Found::Dir(node, stat)) = below {
                        let theirs = self.merged.open_dir_in(node.layers[0], &next)?;
                        copy_xattrs(theirs.as_fd(), made.as_fd())?;
                        (mode, mtime) = (stat.mode, stat.mtime);
                        self.tell(&next, Told::AsIn(node.layers[0], next.clone()))?;
                    }
                    file::fchmod(made.as_fd(), mode)?;
                    self.times.insert(next.clone(), (ino, mtime));
                }
            }
            dir = resolve::step(dir.as_fd(), name)?;
            here = next;
        }
        self.keep_time(path)?;
        Ok(dir)
    }

    fn open(&self, path: &[u8]) -> io::Result<OwnedFd> {
        open_dir(resolve::reopen(self.root.as_fd(), path)?.as_fd(), b".")
    }

    /// Remembers the time of a directory of this layer before names are made in it.
    fn keep_time(&mut self, path: &[u8]) -> io::Result<()> {
        let stat = file::fstat(resolve::reopen(self.root.as_fd(), path)?.as_fd())?;
        self.times.entry(path.to_vec()).or_insert((stat.ino, stat.mtime));
        Ok(())
    }
}

/// Paths of a set that are `dir` or below it.
fn below<'a>(paths: &'a BTreeSet<Vec<u8>>, dir: &'a [u8]) -> Vec<&'a Vec<u8>> {
    let paths = paths.range(dir.to_vec()..).take_while(|path| path.starts_with(dir));
    paths.filter(|path| is_below(dir, path)).collect()
}

fn take_below(paths: &mut BTreeSet<Vec<u8>>, dir: &[u8]) -> Vec<Vec<u8>> {
    let taken: Vec<Vec<u8>> = below(paths, dir).into_iter().cloned().collect();
    for path in &taken {
        paths.remove(path);
    }
    taken
}

/// Renames the directory `from` to `to` in a set of paths.
fn move_paths(paths: &mut BTreeSet<Vec<u8>>, from: &[u8], to: &[u8]) {
    for old in take_below(paths, from) {
        paths.insert(join(to, old[from.len()..].strip_prefix(b"/").unwrap_or_default()));
    }
}
