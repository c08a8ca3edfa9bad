//! Where is what kept? The storage directory: layout, commit rules, locks.
//!
//! ```text
//! version        magic, format number, mode
//! lock           flock: shared to use, exclusive to reset or collect garbage; without flock(2): lock.owner
//! blobs/sha256/  as downloaded; a name here is a proof of content
//! ingest/        downloads under way; resumable after a crash
//! layers/<id>/   tree/ (the unpacked directory), layer.json, owners if its files are not all root's, and in plain mode
//!                marks if it hides something
//! images/*.json  layers in order, configuration, where from; the rename of this file is the commit
//! locks/         one flock per image name
//! tmp/           everything unfinished, flocked by its owner; swept when its owner is gone
//! trash/         renamed-away trees, deleted afterwards (mostly they go to tmp/)
//! cache/         RUN --mount=type=cache directories and the digests of context files
//! ```
//!
//! Data before names: a layer is moved to its name while it still carries a marker with this boot's ID; one `syncfs`
//! before an image's commit covers all of them, then the markers go. After a power cut a marker of another boot says
//! that the layer may be hollow, and it is thrown away. A killed process loses nothing, since the boot is the same.
//! On tmpfs nothing is synced.
//!
//! Deliberately absent: a database. Each fact has one file.

mod ancestors;
mod blobs;
mod caches;
mod files;
mod fsck;
mod gc;
mod handle;
mod images;
mod init;
mod layers;
mod lockfile;
mod locks;
mod owners;
mod whole;

pub use blobs::{Ingest, KeepBlobs};
pub use fsck::{Damage, Depth};
pub use gc::Keep;
pub use handle::{Access, Draft, Storage};
pub use images::{Image, Source};
pub use init::{Mode, around, check_place, default_path};
pub use layers::{LayerId, LayerInfo, LayerKind, seal};
pub use owners::{Owners, TableWriter};
