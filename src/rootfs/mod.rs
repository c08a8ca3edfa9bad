//! How does an image lie on disk?
//!
//! `root` and `resolve`: safe paths. `tar_reader` and `pax`: what an archive says. `unpack`, `parents`, `reconcile`: an archive as a layer
//! (overlay form) or applied to a tree (plain form). `stack`: the merged view of layers, without a mount. `pack`: that
//! view as an archive; `changes`: the part of it that lower layers lack. `merged`: that view step by step. `plant`: a
//! read-only tree of another kind as a directory. `copy`: COPY and ADD. `tree`, `remove`: whole trees. `merge`: that view as a whole tree.
//! `snapshot`, `keep`: what a command changed in one, as a layer; `marks`: what that hides. `import`: somebody's
//! tarball. `bundle`: files of an archive by their names. `content`: one number that tells whether files are what they were.
//! `holes`: what is zeros. `amend`: files that are longer for one command.
//! Nothing here syncs to disk, knows of names of images, or asks the network.

mod amend;
mod bundle;
mod checksum;
pub mod copy;
mod diff;
mod dir_stack;
mod file_pool;
mod holes;
mod import;
mod keep;
mod limits;
mod links;
mod marks;
mod merge;
mod merged;
mod metadata;
mod owners;
mod pack;
mod parents;
mod pax;
mod plant;
mod reconcile;
mod remove;
mod resolve;
mod root;
mod snapshot;
mod sparse;
mod stack;
mod tar_reader;
mod tree;
mod unpack;
mod whiteouts;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod testing;

pub use amend::Amended;
pub use bundle::{Bundle, first_name, spool};
pub use checksum::{fingerprint, fingerprint_merged};
pub use import::import_tar;
pub use keep::keep;
pub use limits::{Limits, Room};
pub use marks::Marks;
pub use merge::copy_merged;
pub use merged::{Item, ItemId, Merged, Step, Survey, file_xattrs};
pub use owners::{Cover, Fate, Owners as TellOwners, Ownership, Told, nobody as tell_nobody};
pub use pack::{PackOptions, Packed, pack};
pub use plant::plant;
pub use reconcile::{inherit_root, reconcile, reconcile_owned};
pub use remove::{remove_opened, remove_tree};
pub use root::{Last, Root};
pub use snapshot::Snapshot;
pub use stack::{Entry, LayerDir, Stack};
pub use tree::copy_tree;
pub use unpack::{Form, Unpacked, unpack, unpack_owned};
