//! One request → one reply, by asking the tree and nobody else.

use std::sync::atomic::{AtomicU32, Ordering};

use super::buffer::Buffer;
use super::protocol::{Detail, Operation, ROOT, Range, Request, flags};
use crate::error::Error;
use crate::tree::{Attributes, Id, Name, Tree};

/// What is true stays true: seconds (68 years).
const FOR_EVER: u64 = i32::MAX as u64;
/// Of the protocol: what this program was written for, and the oldest whose structures look like that (Linux 4.2).
const MAJOR: u32 = 7;
const MINOR: u32 = 38;
const OLDEST: u32 = 23;
/// The largest read: 1 MiB in pages of 4 KiB.
const MAX_PAGES: u16 = 256;
const MAX_READ: u32 = 1 << 20;
const WANTED: u32 = flags::ASYNC_READ
    | flags::READDIRPLUS
    | flags::NO_OPEN
    | flags::PARALLEL_DIROPS
    | flags::MAX_PAGES
    | flags::CACHE_SYMLINKS
    | flags::NO_OPENDIR;
/// Of an opened file: what is cached stays, lists of directories are cached.
const KEEP_CACHE: u32 = 1 << 1;
const CACHE_DIR: u32 = 1 << 3;
/// In front of a directory's names, `.` and `..`.
const DOTS: u64 = 2;

/// A mounted tree.
pub struct Answerer<'t> {
    tree: &'t dyn Tree,
    /// To whom all belongs. As in an image that is unpacked: there is nobody else in the user namespace.
    owner: (u32, u32),
    /// What the kernel can do.
    kernel: AtomicU32,
    has_xattrs: bool,
}

#[derive(Debug)]
pub enum Outcome {
    Done,
    /// No such name, wrong buffer, not offered: an errno.
    Refused(i32),
    /// The tree can't be read.
    Failed(Error),
    /// No reply is wanted.
    Silent,
}

impl From<Result<(), Error>> for Outcome {
    fn from(done: Result<(), Error>) -> Outcome {
        done.map_or_else(Outcome::Failed, |()| Outcome::Done)
    }
}

impl<'t> Answerer<'t> {
    pub fn new(tree: &'t dyn Tree, owner: (u32, u32)) -> Answerer<'t> {
        Answerer { tree, owner, kernel: AtomicU32::new(0), has_xattrs: tree.has_xattrs() }
    }

    /// Puts the reply into `out`, which is empty.
    pub fn answer(&self, request: &Request, out: &mut Buffer) -> Outcome {
        let id = self.id(request.node);
        match request.operation {
            Operation::Init { major, minor, readahead, flags } => self.init((major, minor), readahead, flags, out),
            Operation::LookUp(name) => self.look_up(id, name, out).into(),
            Operation::Attributes => self.attributes(id, out).into(),
            Operation::ReadLink => self.tree.read_link(id).map(|target| out.put(&target)).into(),
            Operation::Open => self.open(flags::NO_OPEN, KEEP_CACHE, out),
            Operation::OpenDirectory => self.open(flags::NO_OPENDIR, KEEP_CACHE | CACHE_DIR, out),
            Operation::Read(Range { offset, size }) => {
                let room = out.room(size.min(MAX_READ) as usize);
                let read = self.tree.read_at(id, offset, room);
                read.map(|n| out.keep(n)).into()
            }
            Operation::List(range, detail) => self.list(id, range, detail, out).into(),
            Operation::Release => Outcome::Done,
            Operation::FileSystem => {
                self.file_system(out);
                Outcome::Done
            }
            // Where none has any, the kernel remembers that and asks no more.
            Operation::Xattr { .. } | Operation::XattrNames { .. } if !self.has_xattrs => {
                Outcome::Refused(libc::ENOSYS)
            }
            Operation::Xattr { name, size } => match self.tree.xattrs(id) {
                Ok(all) => match all.into_iter().find(|(known, _)| known == name) {
                    Some((_, value)) => sized(&value, size, out),
                    None => Outcome::Refused(libc::ENODATA),
                },
                Err(e) => Outcome::Failed(e),
            },
            Operation::XattrNames { size } => match self.tree.xattrs(id) {
                Ok(all) => {
                    let names: Vec<u8> = all.into_iter().flat_map(|(name, _)| [name, vec![0]].concat()).collect();
                    sized(&names, size, out)
                }
                Err(e) => Outcome::Failed(e),
            },
            Operation::Silent => Outcome::Silent,
            Operation::Other => Outcome::Refused(libc::ENOSYS),
        }
    }

    fn init(&self, (major, minor): (u32, u32), readahead: u32, offered: u32, out: &mut Buffer) -> Outcome {
        if major < MAJOR || (major == MAJOR && minor < OLDEST) {
            return Outcome::Refused(libc::EPROTO);
        }
        self.kernel.store(offered, Ordering::Relaxed);
        out.u32(MAJOR);
        // Of a later protocol the kernel takes that as an offer, and asks again.
        out.u32(if major > MAJOR { MINOR } else { minor.min(MINOR) });
        out.u32(readahead);
        out.u32(offered & WANTED);
        // Requests at a time, and when that is called congestion.
        out.u16(64);
        out.u16(48);
        // The largest write, which must not be less.
        out.u32(4096);
        // Granularity of times, ns.
        out.u32(1);
        out.u16(MAX_PAGES);
        out.put(&[0; 34]);
        Outcome::Done
    }

    /// The kernel that may be told so does not ask again.
    fn open(&self, need: u32, flags: u32, out: &mut Buffer) -> Outcome {
        if self.kernel.load(Ordering::Relaxed) & need != 0 {
            return Outcome::Refused(libc::ENOSYS);
        }
        out.u64(0);
        out.u32(flags);
        out.u32(0);
        Outcome::Done
    }

    fn look_up(&self, dir: Id, name: &[u8], out: &mut Buffer) -> Result<(), Error> {
        match self.tree.look_up(dir, name)? {
            Some(Name { id, .. }) => self.entry(id, &self.tree.attributes(id)?, out),
            // Node 0 says that there is nothing, and for how long.
            None => {
                out.put(&[0; 16]);
                out.u64(FOR_EVER);
                out.put(&[0; ENTRY - 24]);
            }
        }
        Ok(())
    }

    fn attributes(&self, id: Id, out: &mut Buffer) -> Result<(), Error> {
        let attributes = self.tree.attributes(id)?;
        out.u64(FOR_EVER);
        out.u64(0);
        self.put_attributes(&attributes, out);
        Ok(())
    }

    fn entry(&self, id: Id, attributes: &Attributes, out: &mut Buffer) {
        out.u64(self.node(id));
        out.u64(0);
        out.u64(FOR_EVER);
        out.u64(FOR_EVER);
        out.u64(0);
        self.put_attributes(attributes, out);
    }

    fn put_attributes(&self, a: &Attributes, out: &mut Buffer) {
        out.u64(a.number);
        out.u64(a.size);
        out.u64(a.size.div_ceil(512));
        for _ in 0..3 {
            out.u64(a.mtime as u64);
        }
        for _ in 0..3 {
            out.u32(0);
        }
        out.u32(a.format | a.mode);
        out.u32(a.links);
        out.u32(self.owner.0);
        out.u32(self.owner.1);
        out.u32(a.device);
        out.u32(0);
        out.u32(0);
    }

    fn list(&self, dir: Id, range: Range, detail: Detail, out: &mut Buffer) -> Result<(), Error> {
        let most = range.size.min(MAX_READ) as usize;
        let mut from = range.offset;
        let number = self.tree.attributes(dir)?.number;
        for (at, name) in [(0, b".".as_slice()), (1, b"..")] {
            if from == at {
                from = at + 1;
                let dot = Listed { name, number, next: from, kind: libc::DT_DIR.into(), of: None };
                if !self.put_name(&dot, detail, out, most) {
                    return Ok(());
                }
            }
        }
        let smallest = name_size(1) + if detail == Detail::Attributes { ENTRY } else { 0 };
        let count = (most.saturating_sub(out.len()) / smallest).clamp(1, 512);
        for name in self.tree.list(dir, from - DOTS, count)? {
            // Who looks at it is told what is wrong with it.
            let attributes = self.tree.attributes(name.id).ok();
            let of = attributes.as_ref().map(|attributes| (name.id, attributes));
            let (number, kind) = attributes.as_ref().map_or((name.id, 0), |a| (a.number, a.format >> 12));
            let next = name.next.saturating_add(DOTS);
            if !self.put_name(&Listed { name: &name.bytes, number, next, kind, of }, detail, out, most) {
                break;
            }
        }
        Ok(())
    }

    /// `false` if there is no room for it.
    fn put_name(&self, listed: &Listed, detail: Detail, out: &mut Buffer, most: usize) -> bool {
        let before = out.len();
        match (detail, listed.of) {
            (Detail::Names, _) => {}
            (Detail::Attributes, Some((id, attributes))) => self.entry(id, attributes, out),
            // Node 0: nothing is said about it.
            (Detail::Attributes, None) => out.put(&[0; ENTRY]),
        }
        let length = listed.name.len();
        out.u64(listed.number);
        out.u64(listed.next);
        out.u32(length as u32);
        out.u32(listed.kind);
        out.put(listed.name);
        out.put(&[0; 8][..name_size(length) - NAME - length]);
        let fits = out.len() <= most;
        if !fits {
            out.truncate(before);
        }
        fits
    }

    fn file_system(&self, out: &mut Buffer) {
        const BLOCK: u32 = 4096;
        out.u64(self.tree.size().div_ceil(u64::from(BLOCK)));
        for _ in 0..4 {
            out.u64(0);
        }
        for n in [BLOCK, 255, BLOCK, 0] {
            out.u32(n);
        }
        out.put(&[0; 24]);
    }

    /// Places in the tree and what the kernel calls them. 0 and 1 have a meaning of their own.
    fn node(&self, id: Id) -> u64 {
        if id == self.tree.root() { ROOT } else { id.wrapping_add(2) }
    }

    fn id(&self, node: u64) -> Id {
        if node == ROOT { self.tree.root() } else { node.wrapping_sub(2) }
    }
}

/// A name in a list.
struct Listed<'a> {
    name: &'a [u8],
    number: u64,
    /// Where the list goes on behind it.
    next: u64,
    /// `DT_…`
    kind: u32,
    of: Option<(Id, &'a Attributes)>,
}

/// Sizes of the kernel's structures: what a look-up says, and a name in a list without its bytes.
const ENTRY: usize = 128;
const NAME: usize = 24;

fn name_size(length: usize) -> usize {
    (NAME + length).next_multiple_of(8)
}

/// An extended attribute, or with 0 how long it is.
fn sized(value: &[u8], size: u32, out: &mut Buffer) -> Outcome {
    if size == 0 {
        out.u32(value.len() as u32);
        out.u32(0);
    } else if value.len() > size as usize {
        return Outcome::Refused(libc::ERANGE);
    } else {
        out.put(value);
    }
    Outcome::Done
}
