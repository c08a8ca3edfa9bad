//! Where do the sources go, and how? (Manual page, "COPY", 1 to 5.)

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use super::visit::{Step, visit};
use super::{Item, Plan, Sources};
use crate::compress::Codec;
use crate::compress::stream::{Decoder, Proof};
use crate::error::{Context, Error, Result, bail};
use crate::log::warning;
use crate::rootfs::dir_stack::DirStack;
use crate::rootfs::limits::Limits;
use crate::rootfs::metadata::{PLAIN_MODE, open_dir};
use crate::rootfs::owners::Told;
use crate::rootfs::remove::remove_at;
use crate::rootfs::resolve::{self, Make, Missing, join, parts, split};
use crate::rootfs::root::{Bounds, Last, Root, show};
use crate::rootfs::tar_reader::is_header;
use crate::rootfs::tree::{Copied, copy_content, copy_xattrs};
use crate::rootfs::unpack::{Form, unpack_owned};
use crate::sys::file::{self, Kind, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY, Stat};

/// Mode of directories that a destination needs and that were not there.
const MADE_MODE: u32 = 0o755;

/// Whether tar archives among the sources are unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Archives {
    /// COPY.
    Keep,
    /// ADD.
    Unpack,
}

/// Where to, and how.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub root: &'a Root,
    /// From the root, joined with WORKDIR already; a final `/` or `/.` counts.
    pub path: &'a str,
    /// `--chmod`: from a mode and whether it is a directory's to another mode.
    pub chmod: Option<&'a dyn Fn(u32, bool) -> u32>,
    pub archives: Archives,
    /// Is told of everything that is made from a source: what that is, and the copy's place.
    pub made: Option<Made<'a>>,
    /// Is told to whom the members of archives belong.
    pub archived: Option<&'a dyn Archived>,
}

/// Takes what archives say of owners, see [`Told`].
pub trait Archived {
    /// Of a member of an archive that is being unpacked into `dir`.
    fn told(&self, dir: BorrowedFd, path: &[u8], told: Told) -> io::Result<()>;

    /// All of it is unpacked.
    fn unpacked(&self, dir: BorrowedFd) -> Result<()>;
}

impl<'a> Target<'a> {
    /// Everything as COPY does it.
    pub fn new(root: &'a Root, path: &'a str) -> Target<'a> {
        Target { root, path, chmod: None, archives: Archives::Keep, made: None, archived: None }
    }
}

pub type Made<'a> = &'a dyn Fn(&Stat, BorrowedFd, &[u8]) -> io::Result<()>;

/// Copies the sources.
pub fn run(plan: &Plan, sources: &Sources, target: &Target) -> Result<Copied> {
    let mut work = Run { sources, target, copied: Copied::default(), links: HashMap::new() };
    let archives: Vec<bool> = plan.items.iter().map(|item| work.is_archive(item)).collect::<Result<_>>()?;
    let path = target.path.as_bytes();
    let named_dir = path.is_empty() || path.ends_with(b"/") || path == b"." || path.ends_with(b"/.");
    let first_dir = plan.items.first().is_some_and(|item| item.is_dir);
    if let ([only], false) = (&plan.items[..], named_dir || first_dir || sources.parents || archives.contains(&true)) {
        work.named(only)?;
        return Ok(work.copied);
    }
    let (dir, is_new) = work.destination()?;
    for (item, archive) in plan.items.iter().zip(archives) {
        if archive {
            work.unpack(item, &dir)?;
        } else if item.is_dir {
            let dir = work.below(&dir, item, true)?;
            work.contents(item, dir)?;
        } else {
            let dir = work.below(&dir, item, false)?;
            work.single(item, &dir, item.name())?;
        }
    }
    // As BuildKit: a directory that is copied to a new name is made with that mode itself. Last, since it may shut us out.
    if let Some(chmod) = target.chmod.filter(|_| is_new && first_dir && !sources.parents) {
        file::fchmod(dir.as_fd(), chmod(MADE_MODE, true) & 0o7777)?;
    }
    Ok(work.copied)
}

struct Run<'a> {
    sources: &'a Sources<'a>,
    target: &'a Target<'a>,
    copied: Copied,
    /// Files with several names, by device and inode: where the first copy is.
    links: HashMap<(u64, u64), Spot>,
}

/// A name in the destination: below a directory that stays open, so that many of them need no more descriptors.
struct Spot {
    base: Rc<OwnedFd>,
    dir: Vec<u8>,
    name: Vec<u8>,
    /// Device and inode.
    id: (u64, u64),
}

/// A directory below a source while it is copied.
struct Frame {
    name: Vec<u8>,
    stat: Stat,
    /// Its source, until its attributes are copied.
    source: Option<OwnedFd>,
    made: bool,
}

impl Run<'_> {
    fn failed(&self, e: io::Error) -> Error {
        let path = show(self.target.path.as_bytes());
        match e.raw_os_error() {
            Some(libc::ENOTDIR) => Error::new(format!("can't COPY: not a directory: {path}")),
            _ => Error::from(e).context(format!("can't COPY to {path}")),
        }
    }

    /// The destination as a directory, made with its parents where missing; `true`: it was missing.
    fn destination(&self) -> Result<(OwnedFd, bool)> {
        let root = self.target.root.as_fd();
        let mut making = Noting(Vec::new());
        resolve::start(root)
            .and_then(|from| resolve::walk(root, from, self.target.path.as_bytes(), Bounds::InRoot, &mut making))
            .and_then(|dir| Ok((open_dir(dir.fd.as_fd(), b".")?, dir.path == making.0 && !dir.path.is_empty())))
            .map_err(|e| self.failed(e))
    }

    /// A single file whose destination does not look like a directory: it may be one nevertheless.
    fn named(&mut self, item: &Item) -> Result<()> {
        let root = self.target.root.as_fd();
        let path = self.target.path.as_bytes();
        let place = resolve::place(root, path, Bounds::InRoot, Last::Follow, &mut Make(MADE_MODE));
        let place = place.map_err(|e| self.failed(e))?;
        if place.stat()?.is_some_and(|stat| stat.is_dir()) {
            let dir = file::openat(place.dir.fd.as_fd(), &place.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0)?;
            return self.single(item, &dir, item.name());
        }
        let dir = open_dir(place.dir.fd.as_fd(), b".")?;
        self.single(item, &dir, &place.name)
    }

    /// `--parents`: the directory below the destination that keeps the source's path.
    fn below(&self, dir: &OwnedFd, item: &Item, itself: bool) -> Result<OwnedFd> {
        let mut path = item.below.clone();
        if itself && self.sources.parents {
            path = join(&path, item.name());
        }
        let mut here = dir.try_clone()?;
        let mut source = parts(&item.named).rev().skip(usize::from(!itself)).count();
        source -= parts(&path).count().min(source);
        for name in parts(&path) {
            source += 1;
            let made = self.make_dir(here.as_fd(), name).map_err(|e| self.failed(e))?;
            here = open_dir(here.as_fd(), name)?;
            if made {
                let named = parts(&item.named).take(source).collect::<Vec<_>>().join(&b'/');
                if let Some(stat) = self.sources.root.place(&named, Last::Follow)?.stat()? {
                    file::fchmod(here.as_fd(), self.mode(&stat))?;
                    self.tell(&stat, here.as_fd(), b".")?;
                }
            }
        }
        Ok(here)
    }

    /// Makes a directory below the destination; what is there and is none gives way. `false`: it was there.
    fn make_dir(&self, dir: BorrowedFd, name: &[u8]) -> io::Result<bool> {
        match file::mkdirat(dir, name, 0o700) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            done => return done.map(|()| true),
        }
        if file::lstatat(dir, name)?.is_dir() {
            return Ok(false);
        }
        file::unlinkat(dir, name)?;
        file::mkdirat(dir, name, 0o700)?;
        Ok(true)
    }

    fn mode(&self, stat: &Stat) -> u32 {
        match self.target.chmod {
            Some(chmod) => chmod(stat.mode, stat.is_dir()) & 0o7777,
            None => stat.mode & PLAIN_MODE,
        }
    }

    fn tell(&self, source: &Stat, dir: BorrowedFd, name: &[u8]) -> io::Result<()> {
        self.target.made.map_or(Ok(()), |made| made(source, dir, name))
    }

    /// A file as a name in a directory.
    fn single(&mut self, item: &Item, to: &OwnedFd, name: &[u8]) -> Result<()> {
        let base = Rc::new(to.try_clone()?);
        visit(self.sources, item, &mut |step| match step {
            Step::Leaf { dir, name: source, stat, .. } => {
                if file::look(to.as_fd(), name)?.is_some_and(|there| there.is_dir()) {
                    bail!("can't COPY: is a directory: {}", show(name));
                }
                self.leaf(dir, source, stat, to.as_fd(), name, &base, &[])
            }
            Step::Enter { .. } | Step::Leave => Ok(()),
        })
    }

    /// What is in a directory, into a directory.
    fn contents(&mut self, item: &Item, to: OwnedFd) -> Result<()> {
        let base = Rc::new(to.try_clone()?);
        let mut dir_stack = DirStack::new();
        dir_stack.push(to)?;
        let mut frames: Vec<Frame> = Vec::new();
        visit(self.sources, item, &mut |step| {
            match step {
                Step::Enter { name, stat, dir, kept, .. } => {
                    let source = Some(dir.try_clone_to_owned()?);
                    frames.push(Frame { name: name.to_vec(), stat: *stat, source, made: false });
                    if kept {
                        self.make_frames(&mut frames, &mut dir_stack)?;
                    }
                }
                Step::Leave => {
                    if let Some(Frame { made: true, stat, .. }) = frames.pop() {
                        // Time last: then nothing more is made in it.
                        let here = dir_stack.here()?;
                        file::fchmod(here, self.mode(&stat))?;
                        file::futimens(here, stat.mtime)?;
                        dir_stack.pop()?;
                    }
                }
                Step::Leaf { dir, name, stat, .. } => {
                    if matches!(stat.kind, Kind::File | Kind::Symlink) {
                        self.make_frames(&mut frames, &mut dir_stack)?;
                    }
                    self.leaf(dir, name, stat, dir_stack.here()?, name, &base, &frames)?;
                }
            }
            Ok(())
        })
    }

    /// Makes the directories entered and not yet made.
    fn make_frames(&self, frames: &mut [Frame], dir_stack: &mut DirStack) -> Result<()> {
        for frame in frames.iter_mut().filter(|frame| !frame.made) {
            let here = dir_stack.here()?;
            let is_new = self.make_dir(here, &frame.name)?;
            let dir = open_dir(here, &frame.name)?;
            if is_new {
                self.tell(&frame.stat, dir.as_fd(), b".")?;
            }
            if let Some(source) = frame.source.take() {
                copy_xattrs(source.as_fd(), dir.as_fd())?;
            }
            dir_stack.push(dir)?;
            frame.made = true;
        }
        Ok(())
    }

    /// A file or link; what has its name gives way. `frames` lead from `base` to `to`.
    #[expect(clippy::too_many_arguments, reason = "where from, what, where to: each once")]
    fn leaf(
        &mut self,
        from: BorrowedFd,
        name: &[u8],
        stat: &Stat,
        to: BorrowedFd,
        copy: &[u8],
        base: &Rc<OwnedFd>,
        frames: &[Frame],
    ) -> Result<()> {
        match stat.kind {
            Kind::File => {}
            Kind::Symlink => {
                let target = file::readlinkat(from, name)?;
                make_way(to, copy, || file::symlinkat(&target, to, copy))?;
                file::utimensat(to, copy, stat.mtime)?;
                return Ok(self.tell(stat, to, copy)?);
            }
            // A source that is one was refused; below a directory they are left out, as when images are unpacked.
            Kind::Dir | Kind::Whiteout | Kind::Special => {
                self.copied.skipped += 1;
                return Ok(());
            }
        }
        if stat.nlink > 1
            && let Some(first) = self.links.get(&(stat.dev, stat.ino))
        {
            let dir = resolve::reopen(first.base.as_fd(), &first.dir)?;
            let is_first = |stat: Option<Stat>| stat.is_some_and(|stat| (stat.dev, stat.ino) == first.id);
            if is_first(file::look(to, copy)?) {
                // The same name once more.
                return Ok(());
            }
            // Another source may have replaced it since.
            if is_first(file::look(dir.as_fd(), &first.name)?) {
                return make_way(to, copy, || file::linkat(dir.as_fd(), &first.name, to, copy));
            }
        }
        let source = File::from(file::openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0)?);
        let flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
        let made = File::from(make_way(to, copy, || file::openat(to, copy, flags, 0o600))?);
        copy_content(&source, &made, stat)?;
        copy_xattrs(source.as_fd(), made.as_fd())?;
        file::fchmod(made.as_fd(), self.mode(stat))?;
        file::futimens(made.as_fd(), stat.mtime)?;
        self.tell(stat, to, copy)?;
        self.copied.files += 1;
        self.copied.bytes = self.copied.bytes.saturating_add(stat.size);
        if stat.nlink > 1 {
            let dir = frames.iter().map(|frame| frame.name.as_slice()).collect::<Vec<_>>().join(&b'/');
            let id = file::fstat(made.as_fd()).map(|made| (made.dev, made.ino))?;
            self.links.insert((stat.dev, stat.ino), Spot { base: base.clone(), dir, name: copy.to_vec(), id });
        }
        Ok(())
    }

    /// Whether a source is to be unpacked: by its content.
    fn is_archive(&self, item: &Item) -> Result<bool> {
        if self.target.archives == Archives::Keep || item.is_dir {
            return Ok(false);
        }
        let mut file = self.open(item)?;
        let mut magic = [0; 6];
        let n = file.read(&mut magic).context(|| show(&item.named))?;
        let name = String::from_utf8_lossy(item.name()).to_lowercase();
        let named = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        if matches!(Codec::sniff(&magic[..n]), Codec::Xz | Codec::Bzip2) {
            if named(&[".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tbz"]) {
                return Err(Error::new(format!(
                    "can't ADD: xz and bzip2 archives are not supported: {}",
                    show(&item.named)
                ))
                .hint("compress it with gzip or zstd, or COPY it and unpack it with RUN"));
            }
            warning!(
                "xz and bzip2 are not supported: copied without looking for an archive in it: {}",
                show(&item.named)
            );
            return Ok(false);
        }
        match begins_as_archive(self.open(item)?) {
            Err(e) if named(&[".tar.gz", ".tgz", ".tar.zst", ".tzst"]) => {
                Err(e).context(|| format!("can't ADD {}", show(&item.named)))
            }
            // What is no archive after all, or a damaged one, is copied as it is.
            Err(_) => Ok(false),
            done => done,
        }
    }

    fn open(&self, item: &Item) -> Result<File> {
        let (parent, name) = split(&item.path);
        let open = || -> io::Result<OwnedFd> {
            let dir = resolve::reopen(self.sources.root.as_fd(), parent)?;
            file::openat(dir.as_fd(), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0)
        };
        open().map(File::from).context(|| format!("can't open {}", show(&item.named)))
    }

    fn unpack(&mut self, item: &Item, dir: &OwnedFd) -> Result<()> {
        let root = Root::from_fd(dir.try_clone()?);
        let limits = Limits::of(&root)?;
        let label = format!("can't ADD {}", show(&item.named));
        let mut tar = Decoder::new(self.open(item)?, Proof::Crc).context(|| label.clone())?;
        let before = file::fstat(dir.as_fd())?;
        let archived = self.target.archived;
        let mut tell = |path: &[u8], told| archived.map_or(Ok(()), |all| all.told(dir.as_fd(), path, told));
        let unpacked = unpack_owned(&mut tar, &root, Form::Plain, &label, &limits, &mut tell)?;
        archived.map_or(Ok(()), |all| all.unpacked(dir.as_fd())).context(|| label)?;
        // What the archive says of `./` is about the directory where it was made, not about this one.
        file::fchmod(dir.as_fd(), before.mode)?;
        file::futimens(dir.as_fd(), before.mtime)?;
        self.copied.files += unpacked.entries;
        self.copied.bytes = self.copied.bytes.saturating_add(unpacked.bytes);
        self.copied.skipped += unpacked.ignored_devices;
        Ok(())
    }
}

fn begins_as_archive(file: File) -> Result<bool> {
    let mut decoder = Decoder::new(file, Proof::Crc)?;
    let mut start = [0; 512];
    let mut have = 0;
    while have < start.len() {
        match decoder.read(&mut start[have..])? {
            0 => return Ok(false),
            n => have += n,
        }
    }
    Ok(is_header(&start))
}

/// Makes missing directories, and keeps the path of the last one.
struct Noting(Vec<u8>);

impl Missing for Noting {
    fn make(&mut self, dir: BorrowedFd, name: &[u8], path: &[u8], found: Option<Stat>) -> io::Result<()> {
        Make(MADE_MODE).make(dir, name, path, found)?;
        self.0 = path.to_vec();
        Ok(())
    }
}

/// Makes something, after removing what has its name.
fn make_way<T>(dir: BorrowedFd, name: &[u8], make: impl Fn() -> io::Result<T>) -> Result<T> {
    match make() {
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
            remove_at(dir, name)?;
            Ok(make()?)
        }
        done => Ok(done?),
    }
}
