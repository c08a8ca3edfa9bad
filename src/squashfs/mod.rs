//! What is in a packed image? SquashFS 4.0: one file with a read-only tree, which the kernel mounts.
//!
//! Bytes in, bytes out: nothing here knows of storage, images or commands. `layout` is the format as types, `writer`
//! makes such a file from a tree that is told name by name, `reader` answers for one, and trusts no number in it.
//! The format is that of the kernel's documentation (filesystems/squashfs.rst). Deliberately absent: versions
//! before 4.0, lzma and xz.

mod layout;
mod reader;
mod writer;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

pub use layout::Special;
pub use reader::{Reader, Source};
pub use writer::{Attributes, Content, Node, Options, Writer};
