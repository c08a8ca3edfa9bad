//! Which devices are there, and what does a container need for them?
//!
//! Pure: bytes in, plain data out. CDI documents (Container Device Interface 1.1, SPEC.md) say which devices there are
//! and by which [`Edits`] a container gets them; [`select`] picks what was asked for. Who reads the files is `cmd/devices`.
//!
//! [`loader`] says how programs of the image find the libraries.
//!
//! Deliberately absent: hooks, which are programs that a runtime would run; what they are for is known by their names, or
//! they are named in a warning. And owners and modes of device nodes: a user gets the host's nodes, as they are.

pub mod cdi;
pub mod drivers;
pub mod elf;
pub mod hook;
pub mod ld_cache;
pub mod loader;
pub mod select;
pub mod yaml;

use hook::Hook;

/// What is changed of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    pub nodes: Vec<Node>,
    pub mounts: Vec<Mount>,
    /// In the order given.
    pub env: Vec<(String, String)>,
    pub hooks: Vec<Hook>,
    /// What was asked for and can't be done.
    pub ignored: Vec<String>,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub host: String,
    /// In the container.
    pub path: String,
}

/// A file or directory of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub host: String,
    /// In the container.
    pub path: String,
    pub read_only: bool,
}

impl Edits {
    /// Adds those of another device; what both want is done once.
    pub fn add(&mut self, other: &Edits) {
        extend(&mut self.nodes, &other.nodes);
        extend(&mut self.mounts, &other.mounts);
        self.env.extend(other.env.iter().cloned());
        extend(&mut self.hooks, &other.hooks);
        extend(&mut self.ignored, &other.ignored);
    }
}

fn extend<T: Clone + PartialEq>(all: &mut Vec<T>, more: &[T]) {
    for one in more {
        if !all.contains(one) {
            all.push(one.clone());
        }
    }
}
