//! What does the kernel ask? Bytes → [`Request`]; numbers are in this machine's byte order.

/// Of a request: length, operation, its number, node, user, group, process, length of extensions.
const HEADER: usize = 40;

/// The kernel's name for the root directory.
pub const ROOT: u64 = 1;

/// What the kernel says that it can do, and we that we want (`FUSE_…` in fuse.h).
pub mod flags {
    pub const ASYNC_READ: u32 = 1;
    pub const READDIRPLUS: u32 = 1 << 13;
    pub const NO_OPEN: u32 = 1 << 17;
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    pub const MAX_PAGES: u32 = 1 << 22;
    pub const CACHE_SYMLINKS: u32 = 1 << 23;
    pub const NO_OPENDIR: u32 = 1 << 24;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// The reply carries the same.
    pub unique: u64,
    pub node: u64,
    pub operation: Operation<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation<'a> {
    Init {
        major: u32,
        minor: u32,
        readahead: u32,
        flags: u32,
    },
    LookUp(&'a [u8]),
    Attributes,
    ReadLink,
    Open,
    Read(Range),
    OpenDirectory,
    List(Range, Detail),
    Release,
    FileSystem,
    Xattr {
        name: &'a [u8],
        size: u32,
    },
    XattrNames {
        size: u32,
    },
    /// The kernel wants no reply.
    Silent,
    /// Whatever else, which a read-only tree does not need.
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    pub offset: u64,
    pub size: u32,
}

/// Of a list of names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    Names,
    /// With what a look-up of each would say.
    Attributes,
}

/// `None` if it is no whole request.
pub fn parse(bytes: &[u8]) -> Option<Request<'_>> {
    let length = u32_at(bytes, 0)? as usize;
    if length != bytes.len() {
        return None;
    }
    let (opcode, unique, node) = (u32_at(bytes, 4)?, u64_at(bytes, 8)?, u64_at(bytes, 16)?);
    let body = bytes.get(HEADER..)?;
    let range = || Some(Range { offset: u64_at(body, 8)?, size: u32_at(body, 16)? });
    let operation = match opcode {
        1 => Operation::LookUp(name(body)?),
        // FORGET, INTERRUPT, BATCH_FORGET.
        2 | 36 | 42 => Operation::Silent,
        3 => Operation::Attributes,
        5 => Operation::ReadLink,
        14 => Operation::Open,
        15 => Operation::Read(range()?),
        17 => Operation::FileSystem,
        // RELEASE, RELEASEDIR, DESTROY.
        18 | 29 | 38 => Operation::Release,
        22 => Operation::Xattr { size: u32_at(body, 0)?, name: name(body.get(8..)?)? },
        23 => Operation::XattrNames { size: u32_at(body, 0)? },
        26 => Operation::Init {
            major: u32_at(body, 0)?,
            minor: u32_at(body, 4)?,
            readahead: u32_at(body, 8)?,
            flags: u32_at(body, 12)?,
        },
        27 => Operation::OpenDirectory,
        28 => Operation::List(range()?, Detail::Names),
        44 => Operation::List(range()?, Detail::Attributes),
        _ => Operation::Other,
    };
    Some(Request { unique, node, operation })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Up to the NUL that ends it.
fn name(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some(&bytes[..end])
}
