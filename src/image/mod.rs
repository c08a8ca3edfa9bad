//! What is an image in storage? A stack of layers, or one whole tree; whose its files are; the directory `/ch`.
//!
//! What commands and the builder do to images alike. Nothing here knows of registries, archives' formats or Dockerfiles.

pub mod ch_layer;
pub mod layers;
pub mod owners;
mod view;
pub mod whole;

pub use view::{View, view};
