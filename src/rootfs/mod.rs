//! How does an image lie on disk?
//!
//! `root` and `walk`: safe paths. `members` and `pax`: what an archive says. `unpack`, `parents`, `settle`: an archive as a layer
//! (overlay form) or applied to a tree (plain form). `stack`: the merged view of layers, without a mount. `pack`: that
//! view as an archive; `changes`: the part of it that lower layers lack. `merged`: that view step by step. `plant`: a
//! read-only tree of another kind as a directory. `copy`: COPY and ADD. `tree`, `remove`: whole trees. `import`: somebody's
//! tarball. `bundle`: files of an archive by their names. `content`: one number that tells whether files are what they were.
//! `holes`: what is zeros.
//! Nothing here syncs to disk, knows of names of images, or asks the network.

mod bundle;
mod changes;
mod content;
pub mod copy;
mod holes;
mod import;
mod ladder;
mod limits;
mod links;
mod marks;
mod members;
mod merged;
mod owners;
mod pack;
mod parents;
mod pax;
mod plant;
mod remove;
mod root;
mod settle;
mod sparse;
mod stack;
mod tree;
mod unpack;
mod walk;
mod whiteouts;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod testing;

pub use bundle::{Bundle, first_name, spool};
pub use content::fingerprint;
pub use import::import_tar;
pub use limits::{Limits, Room};
pub use merged::{Item, ItemId, Merged, Step, Survey, file_xattrs};
pub use owners::{Cover, Fate, Ownership, Told};
pub use pack::{PackOptions, Packed, pack};
pub use plant::plant;
pub use remove::{remove_opened, remove_tree};
pub use root::{Last, Root};
pub use settle::{inherit_root, settle, settle_owned};
pub use stack::{Entry, Stack};
pub use tree::copy_tree;
pub use unpack::{Form, Unpacked, unpack, unpack_owned};
