//! Plain mode: the whole tree in which the steps of a stage are done, one after the other.
//!
//! It is copied when the first step has to be done, and is the image's whole tree in the end. What a step has changed in
//! it is copied to a layer: the layer is never a link to what the next step may write into.

use std::path::Path;

use super::ca;
use crate::error::{Error, Result};
use crate::image::{layers, whole};
use crate::oci::config::Config;
use crate::rootfs::{self, Root, Snapshot, Stack};
use crate::storage::{Draft, LayerId, Storage};

pub struct Grown {
    draft: Draft,
    /// Layers that it shows, lowest first.
    layers: Vec<LayerId>,
    /// What is known of it.
    known: Snapshot,
}

impl Grown {
    pub fn new(storage: &Storage, layers: &[LayerId]) -> Result<Grown> {
        whole::see_all();
        let draft = layers::new_tree(storage)?;
        if !layers.is_empty() {
            whole::copy(storage, layers, &draft)?;
        }
        let known = Snapshot::take(&Root::open(&draft.path().join("tree"))?)?;
        Ok(Grown { draft, layers: layers.to_vec(), known })
    }

    pub fn shows(&self, layers: &[LayerId]) -> bool {
        self.layers == layers
    }

    /// What was changed has a name now.
    pub fn show(&mut self, layers: &[LayerId]) {
        self.layers = layers.to_vec();
    }

    /// Lets `change` change it. What that did, as the tree of a draft. If it fails, the tree is of no use any more.
    pub fn change<T, E: From<Error>>(
        &mut self,
        storage: &Storage,
        certificates: Option<&[u8]>,
        change: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<(Draft, T), E> {
        let path = self.draft.path().join("tree");
        let root = Root::open(&path)?;
        self.known.settle(self.draft.path())?;
        let amended = match certificates {
            Some(site) => Some(ca::amend(site, &Stack::open(std::slice::from_ref(&path))?)),
            None => None,
        };
        let amended = amended.filter(|amended| !amended.is_empty());
        amended.as_ref().map_or(Ok(()), |amended| amended.change(&root))?;
        let value = change(&path)?;
        amended.as_ref().map_or(Ok(()), |amended| amended.take_back(&root))?;
        let now = Snapshot::take(&root)?;
        let kept = layers::new_tree(storage)?;
        let below = Stack::of(&storage.layer_dirs(&self.layers)?)?;
        let marks = rootfs::keep(&self.known, &now, &root, &below, &Root::open(&kept.path().join("tree"))?)?;
        storage.add_marks(&kept, &marks)?;
        self.known = now;
        Ok((kept, value))
    }

    /// Makes it the whole tree of a finished image: these layers, the topmost of which is for its configuration.
    pub fn keep(self, storage: &Storage, layers: &[LayerId], config: &Config) -> Result<()> {
        layers::add_meta(&Root::open(&self.draft.path().join("tree"))?, config)?;
        whole::keep(storage, self.draft, layers, self.known.bytes())
    }
}
