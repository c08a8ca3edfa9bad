//! How does an image become one layer's archive? The merged view, written in PAX form, the same bytes each time.
//!
//! Members are `./…`, names of a directory sorted by bytes, owners root:root (the user's own mean nothing elsewhere),
//! setuid and setgid bits dropped (manual page, "push"), times in whole seconds. A record is used only for
//! what the old header cannot say. Sockets, devices and FIFOs are left out; overlayfs's own attributes too.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use tar::{EntryType, Header};

use super::diff::{Below, Change, Changes};
use super::holes::{self, ZEROS};
use super::metadata::{OVERLAY_XATTRS, PLAIN_MODE};
use super::owners::Ownership;
use super::pax::write_record;
use super::resolve::{join, split};
use super::root::show;
use super::stack::{Found, Node, Stack};
use crate::error::{Context, Error, Result, bail};
use crate::sys::file::{self, Kind, Stat};
use crate::sys::signal;
use std::os::unix::ffi::OsStrExt;

/// What the old header's 11 octal digits hold.
const MAX_OCTAL: u64 = 0o77_777_777_777;
/// What its 7 octal digits for an owner hold.
const MAX_OLD_ID: u32 = 0o7_777_777;

#[derive(Clone, Debug, Default)]
pub struct PackOptions {
    /// No member is newer than this (`SOURCE_DATE_EPOCH`), in seconds since 1970.
    pub clamp_mtime: Option<i64>,
    /// Paths (from the root, without leading slash) that are left out with all below them.
    pub exclude: Vec<PathBuf>,
    /// Paths (from the root, without leading slash) that are not root's, or are more than they look like.
    pub owners: HashMap<Vec<u8>, Ownership>,
    /// Of these those that lower layers have otherwise.
    pub marked: Vec<Vec<u8>>,
    /// Only what differs from so many of the lowest layers, as the layer that goes on top of them: what was removed
    /// becomes `.wh.NAME` and `.wh..wh..opq` (OCI image specification 1.1, "Layer").
    pub above: usize,
}

/// What an archive holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    pub entries: u64,
    /// Content of files, in bytes.
    pub bytes: u64,
    /// Sockets, devices and FIFOs.
    pub skipped: u64,
}

/// Writes the merged view of `stack` as one archive.
pub fn pack(stack: &Stack, out: &mut dyn Write, options: &PackOptions) -> Result<Packed> {
    let mut work = Pack {
        stack,
        out,
        changes: Changes::new(stack, options.above, options.marked.iter()),
        options,
        packed: Packed::default(),
        links: HashMap::new(),
        buf: vec![0; 256 << 10],
    };
    work.run()?;
    Ok(work.packed)
}

struct Pack<'a> {
    stack: &'a Stack,
    out: &'a mut dyn Write,
    options: &'a PackOptions,
    changes: Changes<'a>,
    packed: Packed,
    /// Files with several names: the first one's path.
    links: HashMap<(usize, u64, u64), Vec<u8>>,
    buf: Vec<u8>,
}

/// One member to be written.
struct Entry<'e> {
    /// Without `./`.
    path: &'e [u8],
    kind: EntryType,
    mode: u32,
    mtime: i64,
    size: u64,
    target: &'e [u8],
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pack<'_> {
    fn run(&mut self) -> Result<()> {
        let root = self.stack.root();
        let Some(top) = root.layers.first() else { bail!("image has no layers") };
        let stat = file::fstat(self.stack.layer(*top).as_fd())?;
        self.dir(&root, &stat)?;
        let below = self.changes.root();
        let mut levels = vec![self.changes.list(&root, below.as_ref())?.into_iter()];
        let mut paths = vec![root.path];
        while let (Some(level), Some(path)) = (levels.last_mut(), paths.last()) {
            let Some((name, change)) = level.next() else {
                levels.pop();
                paths.pop();
                continue;
            };
            let path = join(path, &name);
            if self.options.exclude.iter().any(|excluded| excluded.as_os_str().as_bytes() == path) {
                continue;
            }
            let pushed = match change {
                Change::Is(..) if name.starts_with(b".wh.") => Err(reserved()),
                Change::Gone => self.marker(&path).map(|()| None),
                Change::Is(Found::Other(layer, stat), _) => self.leaf(layer, &path, &stat).map(|()| None),
                Change::Is(Found::Dir(node, stat), below) => self.merged_dir(&node, &stat, below).map(Some),
            };
            if let Some(list) = pushed.context(|| format!("can't archive {}", show(&path)))? {
                levels.push(list.into_iter());
                paths.push(path);
            }
        }
        self.write(&[0; 1024])?;
        self.out.flush().context(|| "can't write archive")
    }

    fn merged_dir(&mut self, node: &Node, stat: &Stat, below: Below) -> Result<Vec<(Vec<u8>, Change)>> {
        self.dir(node, stat)?;
        let below = match below {
            Below::Nothing => None,
            Below::Dir(below) => Some(below),
            Below::Hidden => {
                self.marker(&join(&node.path, b".wh..opq"))?;
                None
            }
        };
        Ok(self.changes.list(node, below.as_ref())?)
    }

    /// `.wh.NAME`: an empty file.
    fn marker(&mut self, path: &[u8]) -> Result<()> {
        let (dir, name) = split(path);
        self.entry(Entry {
            path: &join(dir, &[b".wh.", name].concat()),
            kind: EntryType::Regular,
            mode: 0o644,
            mtime: 0,
            size: 0,
            target: b"",
            xattrs: Vec::new(),
        })
    }

    fn dir(&mut self, node: &Node, stat: &Stat) -> Result<()> {
        let dir = self.stack.open_dir_in(node.layers.first().copied().unwrap_or_default(), &node.path)?;
        let xattrs = xattrs_of(dir.as_fd())?;
        self.entry(Entry {
            path: &node.path,
            kind: EntryType::Directory,
            mode: stat.mode & PLAIN_MODE,
            mtime: stat.mtime.sec,
            size: 0,
            target: b"",
            xattrs,
        })
    }

    fn leaf(&mut self, layer: usize, path: &[u8], stat: &Stat) -> Result<()> {
        let kind = match stat.kind {
            Kind::Symlink => EntryType::Symlink,
            Kind::File => EntryType::Regular,
            Kind::Dir | Kind::Whiteout | Kind::Special => {
                self.packed.skipped += 1;
                return Ok(());
            }
        };
        let mut entry = Entry {
            path,
            kind,
            mode: stat.mode & PLAIN_MODE,
            mtime: stat.mtime.sec,
            size: 0,
            target: b"",
            xattrs: Vec::new(),
        };
        let id = (layer, stat.dev, stat.ino);
        if stat.nlink > 1 {
            if let Some(first) = self.links.get(&id) {
                let target = join(b".", first);
                return self.entry(Entry { kind: EntryType::Link, target: &target, ..entry });
            }
            self.links.insert(id, path.to_vec());
        }
        if kind == EntryType::Symlink {
            let target = self.stack.link_in(layer, path)?;
            return self.entry(Entry { mode: 0o777, target: &target, ..entry });
        }
        if self.options.owners.get(path).is_some_and(|owner| owner.device.is_some()) {
            return self.entry(entry);
        }
        let file = self.stack.open_in(layer, path)?;
        entry.xattrs = xattrs_of(file.as_fd())?;
        entry.size = stat.size;
        self.entry(entry)?;
        self.content(&file, stat)
    }

    fn content(&mut self, file: &File, stat: &Stat) -> Result<()> {
        // Holes become zeros: "sparse files SHOULD NOT be used" in layers (OCI image specification, "Layer").
        let mut buf = std::mem::take(&mut self.buf);
        let read = holes::read(file, stat.size, &mut buf, &mut |zeros, bytes| -> Result<()> {
            self.zeros(zeros)?;
            self.write(bytes)
        })?;
        self.buf = buf;
        if read < stat.size {
            bail!("file became shorter while it was read");
        }
        self.packed.bytes = self.packed.bytes.saturating_add(stat.size);
        self.pad(stat.size)
    }

    fn zeros(&mut self, size: u64) -> Result<()> {
        let mut left = size;
        while left > 0 {
            signal::check()?;
            let n = left.min(ZEROS.len() as u64) as usize;
            self.write(&ZEROS[..n])?;
            left -= n as u64;
        }
        Ok(())
    }

    fn entry(&mut self, mut entry: Entry) -> Result<()> {
        let own = Ownership::default();
        // A link has them, too: some readers give the file what its last name says.
        let owner = self.options.owners.get(entry.path).unwrap_or(&own);
        entry.mode |= owner.bits;
        entry.xattrs.extend(owner.capability.clone().map(|value| (b"security.capability".to_vec(), value)));
        let mut path = join(b".", entry.path);
        if entry.kind == EntryType::Directory && !path.ends_with(b"/") {
            path.push(b'/');
        }
        if path.len() > 4096 {
            bail!("path is longer than 4096 bytes");
        }
        let mtime = self.options.clamp_mtime.map_or(entry.mtime, |most| entry.mtime.min(most));
        let mut records = Vec::new();
        let mut header = Header::new_ustar();
        // Not `Header::set_path`, which cleans paths.
        if !set_name(&mut header, &path) {
            write_record(&mut records, b"path", &path);
        }
        if !header.as_ustar_mut().is_some_and(|ustar| put(&mut ustar.linkname, entry.target)) {
            write_record(&mut records, b"linkpath", entry.target);
        }
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        for (id, key) in [(owner.uid, &b"uid"[..]), (owner.gid, b"gid")] {
            if id > MAX_OLD_ID {
                write_record(&mut records, key, id.to_string().as_bytes());
            }
        }
        header.set_uid(u64::from(owner.uid.min(MAX_OLD_ID)));
        header.set_gid(u64::from(owner.gid.min(MAX_OLD_ID)));
        if let Some(ustar) = header.as_ustar_mut() {
            // Names are in the image's own files; a wrong one would win over the number.
            if owner.uid == 0 {
                put(&mut ustar.uname, b"root");
            }
            if owner.gid == 0 {
                put(&mut ustar.gname, b"root");
            }
        }
        if let Some((is_block, major, minor)) = owner.device.filter(|_| entry.kind != EntryType::Link) {
            header.set_entry_type(if is_block { EntryType::Block } else { EntryType::Char });
            header.set_device_major(major).and_then(|()| header.set_device_minor(minor)).context(|| "device number")?;
        }
        match u64::try_from(mtime).ok().filter(|t| *t <= MAX_OCTAL) {
            Some(mtime) => header.set_mtime(mtime),
            None => {
                header.set_mtime(0);
                write_record(&mut records, b"mtime", mtime.to_string().as_bytes());
            }
        }
        if entry.size <= MAX_OCTAL {
            header.set_size(entry.size);
        } else {
            header.set_size(0);
            write_record(&mut records, b"size", entry.size.to_string().as_bytes());
        }
        for (name, value) in &entry.xattrs {
            write_record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        header.set_cksum();
        self.records(&records)?;
        self.packed.entries += 1;
        self.write(header.as_bytes())
    }

    fn records(&mut self, records: &[u8]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        set_name(&mut header, b"././@PaxHeader");
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.write(header.as_bytes())?;
        self.write(records)?;
        self.pad(records.len() as u64)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let n = (size.wrapping_neg() % 512) as usize;
        self.write(&[0; 512][..n])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).context(|| "can't write archive")
    }
}

/// Every reader of layers would take such a file for a whiteout, and remove something else.
fn reserved() -> Error {
    Error::new("in a layer, a name that begins with .wh. says that a file is removed")
        .hint("rename or remove it in the image, then push again")
}

/// Puts text into a header field; `false` if it does not fit.
fn put(field: &mut [u8], text: &[u8]) -> bool {
    if text.len() > field.len() {
        return false;
    }
    field[..text.len()].copy_from_slice(text);
    true
}

/// Name field, or prefix and name cut at a slash; `false` if it fits neither way, or if readers could take the bytes
/// for another character set.
fn set_name(header: &mut Header, path: &[u8]) -> bool {
    let Some(ustar) = header.as_ustar_mut() else { return false };
    if put(&mut ustar.name, path) {
        return true;
    }
    let cut = (1..path.len().min(156))
        .rev()
        .find(|at| path[*at] == b'/' && *at + 1 < path.len() && path.len() - at - 1 <= 100);
    let whole = match cut {
        Some(at) => put(&mut ustar.prefix, &path[..at]) && put(&mut ustar.name, &path[at + 1..]),
        None => false,
    };
    if !whole {
        let n = path.len().min(100);
        put(&mut ustar.name, &path[..n]);
    }
    whole
}

/// `user.*` attributes but overlayfs's own, in the order of their names.
pub(super) fn xattrs_of(fd: std::os::fd::BorrowedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = Vec::new();
    for name in file::flistxattr(fd)? {
        if name.starts_with(b"user.")
            && !name.starts_with(OVERLAY_XATTRS)
            && let Some(value) = file::fgetxattr(fd, &name)?
        {
            list.push((name, value));
        }
    }
    list.sort();
    Ok(list)
}
