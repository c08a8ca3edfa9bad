//! Is what is kept still what it was? Finds damage and drops what is damaged; nothing else is ever repaired, since
//! everything can be pulled or built again.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;

use super::layers::READ_AT_COMMIT;
use super::locks::LayerClaim;
use super::{LayerId, LayerInfo, LayerKind, Storage};
use crate::error::{Error, Result};
use crate::oci::digest::{Digest, Hashing};
use crate::rootfs::{self, Stack};
use crate::sys::signal;

/// Whether contents are read, or only names and records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    Records,
    Contents,
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Debug)]
pub enum Damage {
    Layer(LayerId, String),
    Blob(Digest, String),
    /// File name without `.json`, and why.
    Image(String, String),
    /// Something in the directory that we did not put there; left alone.
    Foreign(String),
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Damage::Layer(id, why) => write!(f, "layer {id}: {why}"),
            Damage::Blob(digest, why) => write!(f, "blob {digest}: {why}"),
            Damage::Image(name, why) => write!(f, "image {}: {why}", name.replace('%', "/").replace('+', ":")),
            Damage::Foreign(path) => write!(f, "not created by ch-image: {path}"),
        }
    }
}

impl Storage {
    /// Looks at everything.
    pub fn check(&self, depth: Depth) -> Result<Vec<Damage>> {
        let mut found = Vec::new();
        self.check_layers(depth, &mut found)?;
        self.check_blobs(depth, &mut found)?;
        self.name_users(&mut found)?;
        let bad: Vec<LayerId> =
            found.iter().filter_map(|d| if let Damage::Layer(id, _) = d { Some(*id) } else { None }).collect();
        for image in self.images()? {
            match image {
                Err((name, e)) => found.push(Damage::Image(name, e.to_string())),
                Ok(image) => {
                    let is_missing = |id: &LayerId| bad.contains(id) || !self.has_layer(id);
                    let missing = image.layers.iter().find(|id| is_missing(id));
                    // It may have been deleted or replaced while we looked, or pulled again.
                    let same = || matches!(self.image(&image.reference), Ok(Some(now)) if now == image);
                    if let Some(id) = missing.filter(|id| same() && is_missing(id)) {
                        let name = image.reference.file_name()?;
                        found.push(Damage::Image(name, format!("its layer {id} is missing or damaged")));
                    }
                }
            }
        }
        Ok(found)
    }

    fn check_layers(&self, depth: Depth, found: &mut Vec<Damage>) -> Result<()> {
        let place = self.path().join("layers");
        for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(id) = name.parse::<LayerId>() else {
                found.push(Damage::Foreign(entry.path().display().to_string()));
                continue;
            };
            // What was freed while we looked is no damage.
            let mut damage = |why: &str| {
                if entry.path().symlink_metadata().is_ok() {
                    found.push(Damage::Layer(id, why.to_owned()));
                }
            };
            if !self.has_layer(&id) {
                damage("it has no tree");
                continue;
            }
            match self.layer_info(&id) {
                Err(e) => damage(&e.to_string()),
                Ok(info) => {
                    let is_orphan = || info.parent.is_some_and(|parent| !self.has_layer(&parent));
                    // Both may have been freed while we looked, and made again.
                    if is_orphan() && self.has_layer(&id) && is_orphan() {
                        damage("the layer below it is missing");
                    } else if let Err(e) = self
                        .read_owners(&id, &info.owners, &mut |_| Ok(()))
                        .and_then(|()| self.layer_marks(&id).map(drop))
                    {
                        damage(&e.to_string());
                    } else if depth == Depth::Contents {
                        signal::check()?;
                        if let Some(why) = self.changed_content(&id, &info) {
                            damage(&why);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// What is wrong with the layer's files.
    fn changed_content(&self, id: &LayerId, info: &LayerInfo) -> Option<String> {
        let tree = self.layer_tree(id);
        if info.kind == LayerKind::Whole && info.size <= READ_AT_COMMIT {
            return match self.is_merged_view(id) {
                Ok(true) => None,
                Ok(false) => Some("its files are not what they were".to_owned()),
                Err(e) => Some(e.to_string()),
            };
        }
        match info.content.map(|content| (content, rootfs::fingerprint(&tree))) {
            Some((content, Ok(now))) => (content != now).then(|| "its files are not what they were".to_owned()),
            Some((_, Err(e))) => Some(e.to_string()),
            // Too large to be read when it was made.
            None if matches!(info.kind, LayerKind::Step | LayerKind::Whole) => {
                let size = super::layers::tree_size(&tree);
                (size != info.size).then(|| format!("its files have {size} bytes instead of {}", info.size))
            }
            None => None,
        }
    }

    /// Whether a whole tree has the files of the layers below it.
    fn is_merged_view(&self, id: &LayerId) -> Result<bool> {
        let mut below = self.chain(id);
        below.reverse();
        below.pop();
        let stack = Stack::of(&self.layer_dirs(&below)?)?;
        Ok(rootfs::fingerprint_merged(&stack)? == rootfs::fingerprint(&self.layer_tree(id))?)
    }

    fn check_blobs(&self, depth: Depth, found: &mut Vec<Damage>) -> Result<()> {
        for digest in self.blobs()? {
            signal::check()?;
            // It may be freed and downloaded again between the two calls.
            let open = || self.blob(&digest, self.blob_size(&digest));
            let Some(file) = open().or_else(open) else {
                if !self.blob_exists(&digest) {
                    continue;
                }
                found.push(Damage::Blob(digest, "not a regular file".to_owned()));
                continue;
            };
            if depth == Depth::Contents {
                let mut hashed = Hashing::new(file);
                match io::copy(&mut hashed, &mut io::sink()) {
                    Err(e) => found.push(Damage::Blob(digest, crate::error::io_text(&e))),
                    Ok(_) if hashed.hasher().digest() != digest => {
                        found.push(Damage::Blob(digest, "its content is another".to_owned()));
                    }
                    Ok(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Says of damaged blobs which images were made of them. The images are unpacked, so they are none the worse.
    fn name_users(&self, found: &mut [Damage]) -> Result<()> {
        let images: Vec<_> = self.images()?.into_iter().flatten().collect();
        for damage in found {
            let Damage::Blob(digest, why) = damage else { continue };
            let users = images.iter().filter(|image| {
                let source = image.source.as_ref();
                source.is_some_and(|s| s.blobs().any(|blob| blob == *digest))
            });
            let names: Vec<String> = users.map(|image| image.reference.storage_name()).collect();
            if !names.is_empty() {
                why.push_str(&format!(" (downloaded for {})", names.join(", ")));
            }
        }
        Ok(())
    }

    /// Drops what is damaged. The storage directory must be open with [`super::Access::Exclusive`]. An error, and nothing is
    /// dropped, if a command runs in a damaged image: its files would vanish.
    pub fn repair(&self, damage: &[Damage]) -> Result<()> {
        let mut bad = HashSet::new();
        bad.extend(damage.iter().filter_map(|d| if let Damage::Layer(id, _) = d { Some(*id) } else { None }));
        // What stands on a dropped layer can't be used without it, and may have taken over its damage.
        let falls = |id: &LayerId| self.chain(id).iter().any(|below| bad.contains(below) || !self.has_layer(below));
        let fallen: HashSet<LayerId> = self.layers()?.into_iter().filter(falls).collect();
        let layers: Vec<LayerId> = fallen.union(&bad).copied().collect();
        let rights = layers.iter().map(|id| Ok((*id, self.claim_damaged(id)?))).collect::<Result<HashMap<_, _>>>();
        let mut rights = rights?;
        for damage in damage {
            match damage {
                Damage::Blob(digest, _) => self.discard(&self.path().join("blobs/sha256").join(digest.hex()))?,
                Damage::Image(name, _) => self.discard(&self.path().join("images").join(format!("{name}.json")))?,
                Damage::Layer(..) | Damage::Foreign(_) => {}
            }
        }
        self.children_first(layers).iter().try_for_each(|id| self.remove_layer(id, rights.remove(id)))
    }

    fn claim_damaged(&self, id: &LayerId) -> Result<LayerClaim> {
        if let Some(right) = self.claim_layer(id) {
            return Ok(right);
        }
        let images = self.images()?;
        let user = images.iter().flatten().find(|image| self.place_of(image) == Some(*id));
        let name = user.map_or_else(|| "an image that was deleted".to_owned(), |image| image.reference.to_string());
        Err(Error::new(format!("can't repair {name}: a command runs in it"))
            .hint("end what ch-run has started, then try again"))
    }
}
