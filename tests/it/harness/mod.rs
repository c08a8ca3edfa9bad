//! What tests are made of: a site (isolated storage), a run of the program, images, registries, trees to compare.

pub mod archive;
pub mod cluster;
pub mod daemon;
pub mod dialogue;
pub mod hold;
pub mod image;
pub mod registry;
pub mod run;
pub mod server;
pub mod site;
pub mod skip;
pub mod tokens;
pub mod tree;
pub mod wait;

pub use run::Run;
pub use server::Server;
pub use site::{Mode, PROGRAMS, Site, in_each_mode};
pub use tree::Tree;
pub use wait::wait_for;
