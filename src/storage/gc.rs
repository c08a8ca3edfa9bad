//! What may go: layers and blobs that no image needs.

use std::collections::HashSet;

use super::layers::tree_size;
use super::{Image, KeepBlobs, LayerId, LayerKind, Mode, Storage};
use crate::error::Result;
use crate::log::{debug, verbose};
use crate::oci::digest::Digest;
use crate::oci::reference::ImageRef;
use crate::oci::size::total;
use crate::sys::signal;

/// How much of the cache stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    Nothing,
    /// Up to so many bytes, most recently used first.
    Size(u64),
    /// What was used since then (seconds since 1970).
    Since(u64),
}

/// What garbage collection removes (or would).
#[derive(Default, Debug, PartialEq)]
pub struct Garbage {
    /// Stages of builds: to look inside after a failure.
    pub stages: Vec<ImageRef>,
    pub layers: Vec<LayerId>,
    pub blobs: Vec<Digest>,
    pub bytes: u64,
    /// Of them, in caches (mounts of RUN, files of ADD) and unfinished downloads, which go all at once.
    pub others: u64,
}

/// Directories that are emptied.
const EMPTIED: [&str; 2] = ["ingest", "cache"];

impl Storage {
    /// Frees layers that neither an image nor a cached step needs, unless another process is at work (then the next
    /// one does it). The last thing that a command does in storage, since the lock may be lost by asking for more.
    pub fn free_unused(&self) -> Result<()> {
        self.free(&|_| true)
    }

    /// The same of whole trees alone: what the images were before a build is in their layers, which are the cache.
    pub fn free_whole_trees(&self) -> Result<()> {
        let is_whole = |id: &LayerId| self.layer_info(id).is_ok_and(|info| info.kind == LayerKind::Whole);
        if self.mode() == Mode::Plain { self.free(&is_whole) } else { Ok(()) }
    }

    fn free(&self, fits: &dyn Fn(&LayerId) -> bool) -> Result<()> {
        let Some(lock) = self.lock() else { return Ok(()) };
        if !lock.upgrade()? {
            verbose!("storage directory in use: layers are freed later");
            return Ok(());
        }
        let used = self.used_layers()?;
        self.remove_layers(self.layers()?.into_iter().filter(|id| !used.contains(id) && fits(id)).collect())
    }

    /// Removes these layers, but none that a command is running in: it goes with the next command after that has ended.
    fn remove_layers(&self, ids: Vec<LayerId>) -> Result<()> {
        let mut in_use: HashSet<LayerId> = HashSet::new();
        for id in self.children_first(ids) {
            signal::check()?;
            if in_use.contains(&id) {
                continue;
            }
            let Some(right) = self.claim_layer(&id) else {
                verbose!("layer {id} is in use: it is freed later");
                in_use.extend(self.chain(&id));
                continue;
            };
            debug!("freeing layer {id}");
            self.remove_layer(&id, Some(right))?;
        }
        Ok(())
    }

    /// In an order in which none is ever without what is below it.
    pub(super) fn children_first(&self, mut ids: Vec<LayerId>) -> Vec<LayerId> {
        ids.sort_by_cached_key(|id| std::cmp::Reverse(self.chain(id).len()));
        ids
    }

    /// What [`Storage::collect`] would remove.
    pub fn garbage(&self, keep: Keep, keep_blobs: KeepBlobs) -> Result<Garbage> {
        let goes = |image: &Image| image.stage().is_some() && !matches!(keep, Keep::Since(time) if image.made >= time);
        let (stages, images): (Vec<Image>, Vec<Image>) = self.images()?.into_iter().flatten().partition(goes);
        let mut used: HashSet<LayerId> = images.iter().flat_map(|image| self.layers_of(image)).collect();
        for id in self.layers()? {
            if !used.contains(&id) && self.claim_layer(&id).is_none() {
                used.extend(self.chain(&id));
            }
        }
        let mut unused: Vec<(u64, LayerId)> =
            self.layers()?.into_iter().filter(|id| !used.contains(id)).map(|id| (self.layer_used(&id), id)).collect();
        // Most recently used first; a layer is kept only with its parents.
        unused.sort_by(|a, b| b.cmp(a));
        let mut kept = used;
        let mut kept_bytes = 0u64;
        let stages = stages.into_iter().map(|image| image.reference).collect();
        let mut garbage = Garbage { stages, ..Garbage::default() };
        for (last_use, id) in unused {
            if kept.contains(&id) {
                continue;
            }
            let chain: Vec<LayerId> = self.chain(&id).into_iter().filter(|l| !kept.contains(l)).collect();
            let bytes = total(chain.iter().map(|l| self.layer_info(l).map_or(0, |i| i.size)));
            // Nothing is gained by the tree of an image without a name.
            let is_whole = self.layer_info(&id).is_ok_and(|info| info.kind == LayerKind::Whole);
            let keeps = match keep {
                _ if is_whole => false,
                Keep::Nothing => false,
                Keep::Size(limit) => kept_bytes.saturating_add(bytes) <= limit,
                Keep::Since(time) => last_use >= time,
            };
            if keeps {
                kept_bytes = kept_bytes.saturating_add(bytes);
                kept.extend(chain);
            } else {
                garbage.bytes = total([garbage.bytes, self.layer_info(&id).map_or(0, |i| i.size)]);
                garbage.layers.push(id);
            }
        }
        garbage.layers.retain(|l| !kept.contains(l));
        let needed = self.used_blobs()?;
        garbage.blobs = self.blobs()?.into_iter().filter(|b| !needed.contains(b)).collect();
        garbage.blobs.extend(self.excess_blobs(keep_blobs, &[])?);
        garbage.others = total(EMPTIED.iter().map(|name| tree_size(&self.path().join(name))));
        let blobs = total(garbage.blobs.iter().map(|b| self.blob_size(b)));
        garbage.bytes = total([garbage.bytes, garbage.others, blobs]);
        Ok(garbage)
    }

    /// Removes it. The storage directory must be open with [`super::Access::Exclusive`].
    pub fn collect(&self, garbage: &Garbage) -> Result<()> {
        for stage in &garbage.stages {
            self.delete_image(stage)?;
        }
        self.remove_layers(garbage.layers.clone())?;
        for blob in &garbage.blobs {
            signal::check()?;
            self.drop_blob(blob)?;
        }
        for name in EMPTIED {
            for entry in std::fs::read_dir(self.path().join(name)).into_iter().flatten().flatten() {
                self.discard(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Layers of all images and cached steps, with everything below them.
    fn used_layers(&self) -> Result<HashSet<LayerId>> {
        let mut used: HashSet<LayerId> = HashSet::new();
        for image in self.images()?.into_iter().flatten() {
            used.extend(self.layers_of(&image));
        }
        for id in self.layers()? {
            if self.layer_info(&id).is_ok_and(|info| info.kind == LayerKind::Step) {
                used.extend(self.chain(&id));
            }
        }
        Ok(used)
    }

    /// Layers of an image, with its whole tree.
    fn layers_of(&self, image: &Image) -> Vec<LayerId> {
        image.layers.iter().copied().chain(self.name_of_whole(&image.layers)).collect()
    }

    /// The layer and its parents.
    pub(super) fn chain(&self, id: &LayerId) -> Vec<LayerId> {
        let mut chain = vec![*id];
        let mut at = *id;
        // A damaged record could name its own child as parent.
        let mut seen = HashSet::from([at]);
        while let Some(parent) = self.layer_info(&at).ok().and_then(|i| i.parent) {
            if !seen.insert(parent) {
                break;
            }
            chain.push(parent);
            at = parent;
        }
        chain
    }

    fn used_blobs(&self) -> Result<HashSet<Digest>> {
        let mut used = HashSet::new();
        for image in self.images()?.into_iter().flatten() {
            if let Some(source) = image.source {
                used.extend(source.blobs());
            }
        }
        Ok(used)
    }
}
