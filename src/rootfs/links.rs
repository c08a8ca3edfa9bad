//! What does a hard link in an archive mean? The file that had the target's name when the link was made.
//!
//! In overlay form that may be a file of lower layers, of which nothing is known yet: such a link is pending until
//! `reconcile.rs` makes it. If the layer makes its target later, the link still means what was there before.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::metadata::{OPAQUE, open_dir};
use super::owners::Told;
use super::resolve::{self, Dir, Fail, Missing};
use super::root::{Bounds, Last, show};
use super::tar_reader::Member;
use super::unpack::{Form, Unpack, checked, id};
use crate::error::{Context, Error, Result, bail};
use crate::oci::digest::Digest;
use crate::sys::file::{self, Kind, Stat};

/// A hard link to what this layer does not have (overlay form).
#[derive(Debug)]
pub(super) struct PendingLink {
    pub name: Arc<[u8]>,
    pub target: Arc<[u8]>,
    /// The layer makes its target later: it means what lower layers have.
    pub overtaken: bool,
}

/// What a pending link takes in memory besides its names, bytes.
const EACH: usize = 250;

impl Unpack<'_, '_> {
    pub(super) fn hardlink(&mut self, parent: &Dir, name: &[u8], member: &Member) -> Result<()> {
        let target = checked(&member.target).context(|| format!("hard link target {}", show(&member.target)))?;
        let target = target.join(&b'/');
        let absent = || Error::new(format!("hard link target not found: {}", show(&member.target)));
        if self.ignored.contains(&Digest::of(&target)) {
            self.report.ignored_devices += 1;
            return Ok(());
        }
        let root = self.root;
        let place = resolve::place(root.as_fd(), &target, Bounds::InRoot, Last::Keep, &mut Paced(self));
        let found = match &place {
            Ok(place) => place.stat()?,
            Err(_) => None,
        };
        match (place, found, self.form) {
            (Ok(_), Some(stat), _) if stat.is_dir() => bail!("hard link to a directory: {}", show(&member.target)),
            (Ok(place), Some(stat), _) if stat.kind != Kind::Whiteout => {
                let at = parent.fd.as_fd();
                match file::look(at, name)? {
                    Some(same) if id(&same) == id(&stat) => return Ok(()),
                    Some(_) => self.clear_way(parent, name)?,
                    None => {}
                }
                file::linkat(place.dir.fd.as_fd(), &place.name, at, name).map_err(|e| match e.raw_os_error() {
                    Some(libc::ENOENT) => absent(),
                    _ => e.into(),
                })?;
                if let Some(ours) = &mut self.ours
                    && !ours.ids.contains(&id(&stat))
                {
                    ours.links.insert(resolve::join(&parent.path, name));
                }
                self.made(parent, name);
                self.tell(&resolve::join(&parent.path, name), Told::Link(place.path()))
            }
            (_, _, Form::Plain) | (_, Some(_), _) => Err(absent()),
            (place, _, Form::Overlay) => {
                let real = place.map_or_else(|_| target.clone(), |place| place.path());
                if !self.pending.contains_key(&target[..]) && self.is_hidden(&real)? {
                    return Err(absent());
                }
                if matches!(file::look(parent.fd.as_fd(), name)?, Some(stat) if stat.kind != Kind::Whiteout) {
                    self.clear_way(parent, name)?;
                }
                self.link_later(&resolve::join(&parent.path, name), &target)
            }
        }
    }

    /// Whether this layer, as far as it has come, hides what lower layers have at `path`, which it does not have itself.
    fn is_hidden(&mut self, path: &[u8]) -> Result<bool> {
        if self.report.root_opaque {
            return Ok(true);
        }
        let mut dir = resolve::start(self.root.as_fd())?.fd;
        for name in resolve::parts(path) {
            self.step()?;
            match file::look(dir.as_fd(), name)? {
                Some(stat) if stat.is_dir() => dir = open_dir(dir.as_fd(), name)?,
                // Where a link leads in lower layers is not known yet.
                found => return Ok(found.is_some_and(|stat| stat.kind != Kind::Symlink)),
            }
            if file::fgetxattr(dir.as_fd(), OPAQUE)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn link_later(&mut self, name: &[u8], target: &[u8]) -> Result<()> {
        self.limits.room.take(name.len() + target.len() + EACH)?;
        let (target, overtaken) = match self.pending.get(target).map(|at| &self.report.links[*at]) {
            Some(other) => (other.target.clone(), other.overtaken),
            None => {
                (self.targets.get_key_value(target).map_or_else(|| target.into(), |(known, _)| known.clone()), false)
            }
        };
        let name: Arc<[u8]> = name.into();
        let at = self.report.links.len();
        self.targets.entry(target.clone()).or_default().push(at);
        self.pending.insert(name.clone(), at);
        self.report.links.push(PendingLink { name, target, overtaken });
        Ok(())
    }

    /// A pending link of this name is none any more, and those to it mean what was there before.
    pub(super) fn made(&mut self, parent: &Dir, name: &[u8]) {
        if self.pending.is_empty() {
            return;
        }
        let path = resolve::join(&parent.path, name);
        self.pending.remove(&path[..]);
        for at in self.targets.remove(&path[..]).unwrap_or_default() {
            self.report.links[at].overtaken = true;
        }
    }
}

/// Nothing is made; each step is counted.
struct Paced<'u, 'a, 'o>(&'u mut Unpack<'a, 'o>);

impl Missing for Paced<'_, '_, '_> {
    fn make(&mut self, dir: BorrowedFd, name: &[u8], path: &[u8], found: Option<Stat>) -> io::Result<()> {
        Fail.make(dir, name, path, found)
    }

    fn step(&mut self) -> io::Result<()> {
        self.0.step()
    }
}
