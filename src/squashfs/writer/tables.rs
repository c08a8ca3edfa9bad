//! Inodes, directories and what is looked up by number: built while the data is written, put behind it at the end.

use std::collections::HashMap;
use std::io::Write;

use super::super::layout::{FRAGMENT_ENTRY, Kind, NO_TABLE, Place, Special, Superblock};
use super::content::Stored;
use super::directory::{self, Entry};
use super::inode::{self, Head};
use super::metadata::{self, Table};
use super::xattrs::Xattrs;
use super::{Attributes, Node, Output};
use crate::compress::Compressor;
use crate::error::{Result, bail};

/// What is no directory.
pub enum Body {
    File { size: u64, links: u32, stored: Stored },
    Symlink { links: u32, target: Vec<u8> },
    Special { links: u32, what: Special },
}

impl Body {
    pub fn kind(&self) -> Kind {
        match self {
            Body::File { .. } => Kind::File,
            Body::Symlink { .. } => Kind::Symlink,
            Body::Special { what: Special::Block(..), .. } => Kind::Block,
            Body::Special { what: Special::Char(..), .. } => Kind::Char,
            Body::Special { what: Special::Fifo, .. } => Kind::Fifo,
            Body::Special { what: Special::Socket, .. } => Kind::Socket,
        }
    }
}

/// A directory that is not finished.
struct Level {
    name: Vec<u8>,
    head: Head,
    entries: Vec<Entry>,
    subdirs: u32,
}

pub struct Tables {
    engine: Compressor,
    inodes: Table,
    directories: Table,
    xattrs: Xattrs,
    ids: Vec<u32>,
    id_numbers: HashMap<u32, u16>,
    /// Where each inode is, by its number less one.
    places: Vec<u64>,
    numbers: u32,
    levels: Vec<Level>,
    root: Option<Place>,
    newest: u32,
}

impl Tables {
    pub fn new(engine: Compressor) -> Tables {
        Tables {
            engine,
            inodes: Table::default(),
            directories: Table::default(),
            xattrs: Xattrs::default(),
            ids: Vec::new(),
            id_numbers: HashMap::new(),
            places: Vec::new(),
            numbers: 0,
            levels: Vec::new(),
            root: None,
            newest: 0,
        }
    }

    /// Inodes that have a number.
    pub fn count(&self) -> u32 {
        self.numbers
    }

    /// The newest time, seconds since 1970.
    pub fn newest(&self) -> u32 {
        self.newest
    }

    pub fn has_xattrs(&self) -> bool {
        !self.xattrs.is_empty()
    }

    /// What every inode has, with the next number.
    pub fn head(&mut self, attributes: &Attributes) -> Result<Head> {
        let Some(number) = self.numbers.checked_add(1).filter(|n| *n < u32::MAX) else {
            bail!("too many files for SquashFS");
        };
        let mtime = attributes.mtime.clamp(0, i64::from(u32::MAX)) as u32;
        let head = Head {
            mode: (attributes.mode & 0o7777) as u16,
            uid: self.id(attributes.uid)?,
            gid: self.id(attributes.gid)?,
            mtime,
            xattrs: self.xattrs.number(&attributes.xattrs, &mut self.engine)?,
            number,
        };
        self.numbers = number;
        self.newest = self.newest.max(mtime);
        Ok(head)
    }

    fn id(&mut self, id: u32) -> Result<u16> {
        if let Some(number) = self.id_numbers.get(&id) {
            return Ok(*number);
        }
        // Their count, too, is a number of 16 bits.
        let Some(number) = u16::try_from(self.ids.len()).ok().filter(|n| *n < u16::MAX) else {
            bail!("more than {} different owners and groups: too many for SquashFS", u16::MAX);
        };
        self.ids.push(id);
        self.id_numbers.insert(id, number);
        Ok(number)
    }

    pub fn enter(&mut self, name: Vec<u8>, head: Head) {
        self.levels.push(Level { name, head, entries: Vec::new(), subdirs: 0 });
    }

    pub fn leaf(&mut self, name: Vec<u8>, head: &Head, body: &Body) -> Result<()> {
        let bytes = match body {
            Body::File { size, links, stored } => inode::file(head, *size, *links, stored),
            Body::Symlink { links, target } => inode::symlink(head, *links, target),
            Body::Special { links, what } => inode::special(head, *links, *what),
        };
        let place = self.write_inode(head.number, &bytes);
        self.add(Entry { name, place, number: head.number, kind: body.kind() })
    }

    pub fn link(&mut self, name: Vec<u8>, node: Node) -> Result<()> {
        let place = self.places.get(node.number as usize - 1).copied().unwrap_or_default();
        self.add(Entry { name, place: Place::of(place), number: node.number, kind: node.kind })
    }

    pub fn leave(&mut self) -> Result<()> {
        let Some(mut level) = self.levels.pop() else { bail!("no directory to leave") };
        let listing = directory::write(&mut level.entries, &mut self.directories, &mut self.engine)?;
        let number = level.head.number;
        // The root's parent is a number that no inode has.
        let parent = self.levels.last().map_or(self.numbers + 1, |parent| parent.head.number);
        let bytes = inode::dir(&level.head, &listing, level.subdirs + 2, parent);
        let place = self.write_inode(number, &bytes);
        let Some(parent) = self.levels.last_mut() else {
            self.root = Some(place);
            return Ok(());
        };
        parent.subdirs += 1;
        self.add(Entry { name: level.name, place, number, kind: Kind::Dir })
    }

    fn write_inode(&mut self, number: u32, bytes: &[u8]) -> Place {
        let place = self.inodes.place();
        self.inodes.write(bytes, &mut self.engine);
        if self.places.len() < number as usize {
            self.places.resize(number as usize, 0);
        }
        self.places[number as usize - 1] = place.reference();
        place
    }

    fn add(&mut self, entry: Entry) -> Result<()> {
        match self.levels.last_mut() {
            Some(level) => level.entries.push(entry),
            None => bail!("only directories have names in them"),
        }
        Ok(())
    }

    /// Writes all tables. What it says of them is in the superblock; the rest of that is zeros.
    pub fn finish<W: Write>(&mut self, fragments: &[u8], out: &mut Output<W>) -> Result<Superblock> {
        let Some(root) = self.root.filter(|_| self.levels.is_empty()) else { bail!("the tree is not complete") };
        let inode_table = std::mem::take(&mut self.inodes).finish(out, &mut self.engine)?;
        let directory_table = std::mem::take(&mut self.directories).finish(out, &mut self.engine)?;
        let fragment_table = match fragments.is_empty() {
            true => NO_TABLE,
            false => metadata::write_list(fragments, out, &mut self.engine)?,
        };
        let exports: Vec<u8> = self.places.iter().flat_map(|place| place.to_le_bytes()).collect();
        let export_table = metadata::write_list(&exports, out, &mut self.engine)?;
        let ids: Vec<u8> = self.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let id_table = metadata::write_list(&ids, out, &mut self.engine)?;
        let xattr_table = std::mem::take(&mut self.xattrs).finish(out, &mut self.engine)?;
        Ok(Superblock {
            inodes: self.numbers,
            time: 0,
            block_size: 0,
            fragments: (fragments.len() / FRAGMENT_ENTRY) as u32,
            compressor: 0,
            flags: 0,
            ids: self.ids.len() as u16,
            root: root.reference(),
            bytes_used: out.position,
            id_table,
            xattr_table,
            inode_table,
            directory_table,
            fragment_table,
            export_table,
        })
    }
}
