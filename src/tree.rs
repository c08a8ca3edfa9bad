//! What can be asked of a read-only tree? Whoever has one answers these; whoever copies or serves one asks them.

use crate::error::Result;

/// Names something in a tree, as long as the tree is open.
pub type Id = u64;

/// What something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    /// Device, FIFO, socket.
    Special,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    pub kind: Kind,
    /// The same in more detail: the file type bits of `st_mode` (inode(7)).
    pub format: u32,
    /// Of a device: its number, as the kernel encodes it in 32 bits.
    pub device: u32,
    /// Permission bits with setuid, setgid and sticky: 12 bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Names that it has, at least.
    pub links: u32,
    /// Of a file: bytes.
    pub size: u64,
    /// The same for all names of the same thing, and for nothing else.
    pub number: u64,
}

/// One name of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name {
    /// Neither empty, nor `.` or `..`; without `/` and NUL; at most 255 bytes.
    pub bytes: Vec<u8>,
    pub id: Id,
    pub kind: Kind,
    /// Where a list goes on behind it.
    pub next: u64,
}

/// Any thread may ask. An error says which inode or block is damaged.
pub trait Tree: Send + Sync {
    fn root(&self) -> Id;

    fn attributes(&self, id: Id) -> Result<Attributes>;

    /// User and group that it belongs to.
    fn owner(&self, id: Id) -> Result<(u32, u32)>;

    /// `None` if the directory has no such name.
    fn look_up(&self, dir: Id, name: &[u8]) -> Result<Option<Name>>;

    /// Names of a directory in the order of their bytes, at most `most`, from the beginning (0) or behind another one;
    /// none at its end.
    fn list(&self, dir: Id, from: u64, most: usize) -> Result<Vec<Name>>;

    /// The target of a symbolic link.
    fn read_link(&self, id: Id) -> Result<Vec<u8>>;

    /// Bytes of a file from `offset` on: as many as there are, until `out` is full.
    fn read_at(&self, id: Id, offset: u64, out: &mut [u8]) -> Result<usize>;

    /// The next stretch of a file that is no hole, at or after `offset`: start and end; `None` if only a hole follows.
    fn next_data(&self, id: Id, offset: u64) -> Result<Option<(u64, u64)>>;

    /// Whether anything in it may have extended attributes.
    fn has_xattrs(&self) -> bool;

    /// What it occupies where it is kept, in bytes.
    fn size(&self) -> u64;

    /// Names and values of extended attributes.
    fn xattrs(&self, id: Id) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;
}
