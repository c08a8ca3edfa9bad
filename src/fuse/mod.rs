//! How is a read-only tree mounted without privilege? By answering the kernel's requests for it on /dev/fuse.
//!
//! `protocol` is the layout of requests and replies (include/uapi/linux/fuse.h of Linux), `answer` turns one request into
//! one reply and touches nothing but the tree, `serve` is the loop, in as many threads as there is work for.
//!
//! Nothing in the tree ever changes, so the kernel may keep all that it was told, for ever: names, the absence of names,
//! attributes, link targets, lists of directories, data. Opening and closing need no request at all. A node is named by
//! a number that is derived from its place in the tree, so nothing is remembered here and nothing has to be forgotten.
//!
//! Deliberately absent: writing, locks, notifications, the passthrough and io_uring modes (both are root's).

mod answer;
mod buffer;
mod mount;
mod protocol;
mod serve;

#[cfg(test)]
mod tests;

pub use mount::{Mounting, advice, can_open};
