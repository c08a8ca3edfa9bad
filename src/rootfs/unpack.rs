//! How does a layer's archive become a directory? One member after the other, in time proportional to their number.
//!
//! Two forms. *Overlay*: the directory holds only what the layer says, whiteouts as character devices 0:0, opaque
//! directories by attribute; nothing is known of lower layers, so that layers unpack in parallel; `reconcile.rs` mends
//! afterwards what depends on them. *Plain*: the archive is applied to a whole tree, and whiteouts delete.
//!
//! Parents are walked from the root's descriptor and every link on the way is read by us; metadata is set through the
//! descriptor of what was just made; the last component of a path is never followed. So a layer can name nothing
//! outside, whatever links it brings. Devices are ignored, permissions are raised so that an ordinary user can work with the
//! tree, setuid and setgid bits are dropped (manual page, "pull"); these and owners are told to whom it may concern.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::checksum::{self, FileSum};
use super::holes::Writer;
use super::limits::Limits;
use super::links::PendingLink;
use super::metadata::{PLAIN_MODE, open_dir, set_opaque, set_xattrs};
use super::owners::{Owners, Ownership, Told, nobody};
use super::parents::Last;
use super::remove::remove_at;
use super::resolve::{self, Dir};
use super::root::{Root, show};
use super::tar_reader::{Member, TarReader, Type};
use super::whiteouts::Ours;
use crate::error::{Context, Result, bail};
use crate::oci::digest::Digest;
use crate::sys::file::{self, Kind, O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY, Stat};

/// A file of at most so many bytes that is replaced is read, to know what is left; else all is read, if it must be.
const READ_AGAIN: u64 = 1 << 20;
pub(super) const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;
pub(super) const MAX_DEPTH: usize = 512;
/// After so many bytes or members it is checked whether enough is free.
pub(super) const CHECK_BYTES: u64 = 64 << 20;
pub(super) const CHECK_ENTRIES: u64 = 1 << 14;
/// Mode of directories that an archive uses without saying anything of them.
pub(super) const IMPLIED_MODE: u32 = 0o755;

/// How a layer lies on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The diff alone, in overlayfs form (`userxattr`).
    Overlay,
    /// Applied to a whole tree.
    Plain,
}

/// What came of an archive; `reconcile` needs it.
#[derive(Debug, Default)]
pub struct Unpacked {
    /// Content of files, in bytes, holes included.
    pub bytes: u64,
    /// Members, whiteouts included.
    pub entries: u64,
    /// Devices and FIFOs, which are not made.
    pub ignored_devices: u64,
    /// What [`super::fingerprint`] would say of the files that the archive brought; `None` if only reading can tell, or
    /// if files went that were there before. In plain form archives add up.
    pub content: Option<u64>,
    pub(super) label: String,
    /// Directories that the archive uses but does not describe (overlay form).
    pub(super) implied: BTreeSet<Vec<u8>>,
    /// Hard links to what this layer does not have (overlay form).
    pub(super) links: Vec<PendingLink>,
    /// Names that this layer hides (overlay form).
    pub(super) whiteouts: BTreeSet<Vec<u8>>,
    /// Directories that are opaque because a marker says so (overlay form).
    pub(super) opaque: BTreeSet<Vec<u8>>,
    /// Components and bytes of the longest paths.
    pub(super) deepest: usize,
    pub(super) longest: usize,
    /// The layer hides all names that lower layers have in the root directory (overlay form).
    pub(super) root_opaque: bool,
    /// The archive says what the root directory is like.
    pub root_described: bool,
}

/// [`unpack_owned`], where nobody asks for owners.
pub fn unpack(tar: &mut dyn Read, root: &Root, form: Form, label: &str, limits: &Limits) -> Result<Unpacked> {
    unpack_owned(tar, root, form, label, limits, &mut nobody)
}

/// Unpacks an archive (not compressed) into `root`. `label` stands before every message: `layer 1/3: c54d940`.
/// All input is read, also what follows the archive's end. Nothing is synced.
pub fn unpack_owned(
    tar: &mut dyn Read,
    root: &Root,
    form: Form,
    label: &str,
    limits: &Limits,
    owners: &mut Owners,
) -> Result<Unpacked> {
    let mut work = Unpack::new(root, form, limits, owners).context(|| label.to_owned())?;
    let mut members = TarReader::new(tar);
    while let Some(member) = members.next_member().context(|| label.to_owned())? {
        work.member(&member, &mut members).context(|| format!("{label}: member {}", show(&member.name)))?;
    }
    work.finish(label).context(|| label.to_owned())
}

/// A member's path as components. Leading `/` and `./` mean the root; `..` is refused.
pub(super) fn checked(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.len() > MAX_PATH {
        bail!("path is longer than {MAX_PATH} bytes");
    }
    let parts: Vec<&[u8]> = resolve::parts(path).collect();
    if parts.len() > MAX_DEPTH {
        bail!("path is deeper than {MAX_DEPTH} directories");
    }
    if parts.iter().any(|part| part.len() > MAX_NAME) {
        bail!("name is longer than {MAX_NAME} bytes");
    }
    if parts.contains(&&b".."[..]) {
        bail!("path with '..' is refused");
    }
    Ok(parts)
}

/// Whether a tree may have the directory `path` (without links), with `depth` more components of `length` bytes below.
pub(super) fn within_limits(path: &[u8], depth: usize, length: usize) -> Result<()> {
    if path.len() + length > MAX_PATH || resolve::parts(path).count() + depth > MAX_DEPTH {
        bail!("links lead deeper than {MAX_DEPTH} directories or {MAX_PATH} bytes");
    }
    Ok(())
}

pub(super) type Id = (u64, u64);

pub(super) fn id(stat: &Stat) -> Id {
    (stat.dev, stat.ino)
}

pub(super) struct Unpack<'a, 'o> {
    pub(super) root: &'a Root,
    pub(super) form: Form,
    pub(super) limits: &'a Limits,
    owners: &'a mut Owners<'o>,
    pub(super) report: Unpacked,
    pub(super) last: Option<Last>,
    /// `None` if nothing was there before: whiteouts then mean nothing.
    pub(super) ours: Option<Ours>,
    /// Where each pending hard link stands in `report.links`.
    pub(super) pending: BTreeMap<Arc<[u8]>, usize>,
    /// Where those with a target stand.
    pub(super) targets: HashMap<Arc<[u8]>, Vec<usize>>,
    /// Digests of the paths of devices, which were not made.
    pub(super) ignored: HashSet<Digest>,
    unchecked: u64,
    pub(super) steps: u64,
}

impl<'a, 'o> Unpack<'a, 'o> {
    fn new(root: &'a Root, form: Form, limits: &'a Limits, owners: &'a mut Owners<'o>) -> Result<Unpack<'a, 'o>> {
        let fresh = form == Form::Overlay || file::names(root.as_fd())?.is_empty();
        let work = Unpack {
            root,
            form,
            limits,
            owners,
            report: Unpacked { content: Some(0), ..Unpacked::default() },
            last: None,
            ours: if fresh { None } else { Some(Ours::default()) },
            pending: BTreeMap::new(),
            targets: HashMap::new(),
            ignored: HashSet::new(),
            unchecked: 0,
            steps: 0,
        };
        limits.check(root)?;
        Ok(work)
    }

    fn member(&mut self, member: &Member, members: &mut TarReader) -> Result<()> {
        self.report.entries += 1;
        if self.report.entries.is_multiple_of(CHECK_ENTRIES) {
            self.limits.check(self.root)?;
        }
        let parts = checked(&member.name)?;
        let Some((name, parents)) = parts.split_last() else { return self.root_entry(member) };
        if let Some(marker) = parts.iter().find(|part| part.starts_with(b".wh.")) {
            return self.marker(marker, name, parents);
        }
        if member.kind == Type::Special {
            self.report.ignored_devices += 1;
            if self.ignored.insert(Digest::of(&parts.join(&b'/'))) {
                self.limits.room.take(0)?;
            }
            return Ok(());
        }
        let parent = self.parent(parents)?;
        let length = parent.path.len() + 1 + name.len();
        self.report.longest = self.report.longest.max(length);
        match member.kind {
            Type::Dir => self.dir(&parent, name, member)?,
            Type::File => self.file(&parent, name, member, members)?,
            Type::Symlink => self.symlink(&parent, name, member)?,
            Type::Hardlink => return self.hardlink(&parent, name, member),
            Type::Special => {}
        }
        self.made(&parent, name);
        let owner = Ownership::of(member);
        // A directory tells for itself.
        if member.kind == Type::Dir {
            return Ok(());
        }
        // What was there before is told to be gone.
        self.tell(&resolve::join(&parent.path, name), if owner.is_plain() { Told::New } else { Told::Is(owner) })
    }

    /// Says to whom something belongs now.
    pub(super) fn tell(&mut self, path: &[u8], told: Told) -> Result<()> {
        (self.owners)(path, told).context(|| "can't record owners")
    }

    fn root_entry(&mut self, member: &Member) -> Result<()> {
        if member.kind != Type::Dir {
            bail!("the root is not a directory");
        }
        self.leave()?;
        file::fchmod(self.root.as_fd(), member.mode & PLAIN_MODE | 0o700)?;
        self.report.root_described = true;
        file::futimens(self.root.as_fd(), member.mtime)?;
        self.tell(b"", Told::Is(Ownership::of(member)))
    }

    fn mine(&mut self, fd: BorrowedFd) -> io::Result<()> {
        if let Some(ours) = &mut self.ours {
            ours.ids.insert(id(&file::fstat(fd)?));
        }
        Ok(())
    }

    fn dir(&mut self, parent: &Dir, name: &[u8], member: &Member) -> Result<()> {
        let path = resolve::join(&parent.path, name);
        let at = parent.fd.as_fd();
        // What the directory comes in place of.
        let mut replaced = None;
        let made = loop {
            match file::mkdirat(at, name, 0o700) {
                Ok(()) => break true,
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
                Err(e) => return Err(e.into()),
            }
            let stat = file::lstatat(at, name)?;
            if stat.is_dir() {
                break false;
            }
            self.clear_way(parent, name)?;
            replaced = Some(stat.kind);
        };
        let fd = open_dir(at, name)?;
        let stat = file::fstat(fd.as_fd())?;
        if let Some(ours) = &mut self.ours {
            ours.described.insert(id(&stat));
            if made {
                ours.cleared.insert(id(&stat));
            }
        }
        self.mine(fd.as_fd())?;
        self.report.implied.remove(&path);
        // What was replaced had hidden the lower directory; it stays hidden.
        match replaced {
            Some(Kind::Whiteout) if self.form == Form::Overlay => self.hide_below(fd.as_fd(), path.clone())?,
            Some(_) if self.form == Form::Overlay => {
                self.report.opaque.remove(&path);
                set_opaque(fd.as_fd())?;
            }
            Some(_) | None => {}
        }
        set_xattrs(fd.as_fd(), &member.xattrs)?;
        file::fchmod(fd.as_fd(), member.mode & PLAIN_MODE | 0o700)?;
        file::futimens(fd.as_fd(), member.mtime)?;
        let owner = Ownership::of(member);
        self.tell(&path, if made && owner.is_plain() { Told::New } else { Told::Is(owner) })
    }

    fn file(&mut self, parent: &Dir, name: &[u8], member: &Member, members: &mut TarReader) -> Result<()> {
        let at = parent.fd.as_fd();
        let flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
        let fd = match file::openat(at, name, flags, 0o600) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                self.clear_way(parent, name)?;
                file::openat(at, name, flags, 0o600)?
            }
            done => done?,
        };
        let file = File::from(fd);
        self.mine(file.as_fd())?;
        let mut sum = FileSum::new();
        let mut writer = Writer::new(&file);
        match &member.sparse {
            None => self.content(&mut writer, members, u64::MAX, &mut sum)?,
            Some(map) => {
                let before = self.report.bytes;
                for (offset, length) in map {
                    writer.skip_to(*offset)?;
                    self.content(&mut writer, members, *length, &mut sum)?;
                }
                writer.skip_to(member.size)?;
                // Holes count as what they look like: so long are they read, if they must be.
                self.report.bytes = before.saturating_add(member.size);
                self.report.content = None;
            }
        }
        writer.finish()?;
        self.report.content = self.report.content.map(|content| content.wrapping_add(sum.finish()));
        set_xattrs(file.as_fd(), &member.xattrs)?;
        file::fchmod(file.as_fd(), member.mode & PLAIN_MODE | 0o600)?;
        Ok(file::futimens(file.as_fd(), member.mtime)?)
    }

    /// Copies the next `length` stored bytes, or all that are left.
    fn content(&mut self, file: &mut Writer, members: &mut TarReader, length: u64, sum: &mut FileSum) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let chunk = members.chunk_of(left)?;
            if chunk.is_empty() {
                break;
            }
            file.write(chunk)?;
            sum.update(chunk);
            let n = chunk.len() as u64;
            left -= n;
            self.report.bytes = self.report.bytes.saturating_add(n);
            self.unchecked += n;
            if self.report.bytes > self.limits.max_bytes {
                bail!("archive has more than {} bytes of content", self.limits.max_bytes);
            }
            if self.unchecked >= CHECK_BYTES {
                self.limits.check(self.root)?;
                self.unchecked = 0;
            }
        }
        Ok(())
    }

    fn symlink(&mut self, parent: &Dir, name: &[u8], member: &Member) -> Result<()> {
        let at = parent.fd.as_fd();
        match file::symlinkat(&member.target, at, name) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                self.clear_way(parent, name)?;
                file::symlinkat(&member.target, at, name)?;
            }
            done => done?,
        }
        if let Some(ours) = &mut self.ours {
            ours.ids.insert(id(&file::lstatat(at, name)?));
        }
        Ok(file::utimensat(at, name, member.mtime)?)
    }

    /// Removes what stands where a member is to be made.
    pub(super) fn clear_way(&mut self, parent: &Dir, name: &[u8]) -> Result<()> {
        let at = parent.fd.as_fd();
        self.tell(&resolve::join(&parent.path, name), Told::Gone)?;
        match file::look(at, name)? {
            None => return Ok(()),
            Some(stat) if stat.is_dir() => {
                // What was in it was counted.
                self.report.content = None;
                let path = resolve::join(&parent.path, name);
                let inside = |known: &[u8]| resolve::is_below(&path, known);
                let known = self.report.implied.range(path.clone()..).take_while(|known| known.starts_with(&path));
                for known in known.filter(|known| inside(known)).cloned().collect::<Vec<_>>() {
                    self.report.implied.remove(&known);
                }
                let known =
                    self.pending.range(Arc::from(&path[..])..).take_while(|(known, _)| known.starts_with(&path));
                for known in known.map(|(known, _)| known).filter(|known| inside(known)).cloned().collect::<Vec<_>>() {
                    self.pending.remove(&known);
                }
                self.look_again();
                remove_at(at, name)?;
            }
            Some(stat) => {
                if stat.kind == Kind::Symlink {
                    self.look_again();
                } else {
                    self.uncount(at, name, &stat)?;
                }
                file::unlinkat(at, name)?;
            }
        }
        Ok(())
    }

    /// A file that was counted goes.
    fn uncount(&mut self, dir: BorrowedFd, name: &[u8], stat: &Stat) -> Result<()> {
        let is_short = stat.kind == Kind::File && stat.nlink == 1 && stat.size <= READ_AGAIN;
        self.report.content = match self.report.content.filter(|_| is_short) {
            None => None,
            Some(content) => Some(content.wrapping_sub(checksum::of_file(dir, name)?)),
        };
        Ok(())
    }

    fn finish(mut self, label: &str) -> Result<Unpacked> {
        self.leave()?;
        let links = std::mem::take(&mut self.report.links);
        let pending = &self.pending;
        self.report.links = links
            .into_iter()
            .enumerate()
            .filter(|(at, link)| pending.get(&link.name) == Some(at))
            .map(|(_, link)| link)
            .collect();
        self.report.label = label.to_owned();
        Ok(self.report)
    }
}
