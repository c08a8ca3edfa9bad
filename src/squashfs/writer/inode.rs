//! An inode as bytes: the short form where it says all, else the long one.

use super::super::layout::{DOTS, Kind, LONG, NO_FRAGMENT, NO_XATTRS, Special, device};
use super::content::Stored;
use super::directory::Listing;

/// What every inode has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    pub mode: u16,
    /// Numbers in the table of IDs.
    pub uid: u16,
    pub gid: u16,
    pub mtime: u32,
    pub xattrs: u32,
    /// The inode's number.
    pub number: u32,
}

impl Head {
    fn bytes(&self, kind: Kind, is_long: bool) -> Vec<u8> {
        let kind = kind as u16 + if is_long { LONG } else { 0 };
        let mut out = Vec::with_capacity(64);
        for n in [kind, self.mode, self.uid, self.gid] {
            out.extend(n.to_le_bytes());
        }
        put(&mut out, &[self.mtime, self.number]);
        out
    }
}

fn put(out: &mut Vec<u8>, numbers: &[u32]) {
    for n in numbers {
        out.extend(n.to_le_bytes());
    }
}

pub fn dir(head: &Head, listing: &Listing, links: u32, parent: u32) -> Vec<u8> {
    // A listing that can be added to this is checked when it is written.
    let size = listing.size.saturating_add(DOTS);
    let block = listing.place.block as u32;
    let is_long = size > u32::from(u16::MAX) || head.xattrs != NO_XATTRS || !listing.index.is_empty();
    let mut out = head.bytes(Kind::Dir, is_long);
    if !is_long {
        put(&mut out, &[block, links]);
        out.extend((size as u16).to_le_bytes());
        out.extend(listing.place.offset.to_le_bytes());
        put(&mut out, &[parent]);
        return out;
    }
    // So many that it cannot be said: what is left is searched from the last one said.
    let index = &listing.index[..listing.index.len().min(usize::from(u16::MAX))];
    put(&mut out, &[links, size, block, parent]);
    out.extend((index.len() as u16).to_le_bytes());
    out.extend(listing.place.offset.to_le_bytes());
    put(&mut out, &[head.xattrs]);
    for entry in index {
        put(&mut out, &[entry.offset, entry.block, entry.name.len() as u32 - 1]);
        out.extend_from_slice(&entry.name);
    }
    out
}

pub fn file(head: &Head, size: u64, links: u32, stored: &Stored) -> Vec<u8> {
    let (start, holes) = (stored.start(), stored.holes());
    let (fragment, offset) = stored.fragment().unwrap_or((NO_FRAGMENT, 0));
    let fits = start <= u64::from(u32::MAX) && size <= u64::from(u32::MAX);
    let is_long = !fits || holes > 0 || links > 1 || head.xattrs != NO_XATTRS;
    let mut out = head.bytes(Kind::File, is_long);
    if is_long {
        for n in [start, size, holes] {
            out.extend(n.to_le_bytes());
        }
        put(&mut out, &[links, fragment, offset, head.xattrs]);
    } else {
        put(&mut out, &[start as u32, fragment, offset, size as u32]);
    }
    stored.with_words(|words| put(&mut out, words));
    out
}

pub fn symlink(head: &Head, links: u32, target: &[u8]) -> Vec<u8> {
    let is_long = head.xattrs != NO_XATTRS;
    let mut out = head.bytes(Kind::Symlink, is_long);
    put(&mut out, &[links, target.len() as u32]);
    out.extend_from_slice(target);
    if is_long {
        put(&mut out, &[head.xattrs]);
    }
    out
}

pub fn special(head: &Head, links: u32, what: Special) -> Vec<u8> {
    let (kind, number) = match what {
        Special::Block(major, minor) => (Kind::Block, Some(device(major, minor))),
        Special::Char(major, minor) => (Kind::Char, Some(device(major, minor))),
        Special::Fifo => (Kind::Fifo, None),
        Special::Socket => (Kind::Socket, None),
    };
    let is_long = head.xattrs != NO_XATTRS;
    let mut out = head.bytes(kind, is_long);
    put(&mut out, &[links]);
    put(&mut out, number.as_slice());
    if is_long {
        put(&mut out, &[head.xattrs]);
    }
    out
}
