//! The image under construction: a stack of layers, or (plain mode) one tree that is changed in place.

use std::fs;
use std::path::{Path, PathBuf};

use super::ca;
use super::cache_key::Inputs;
use crate::container::ownership::Ledger;
use crate::container::{self, MAX_LAYERS, Overlay};
use crate::error::{Context, Error, Result};
use crate::image::owners::Which;
use crate::image::{layers, owners};
use crate::log::verbose;
use crate::oci::config::Config;
use crate::rootfs::{self, Amended, Entry, Last, Root, Stack};
use crate::storage::{Draft, Image, LayerId, LayerInfo, LayerKind, Owners, Storage, seal};

pub struct Tree {
    files: Files,
    /// To whom its files belong; `None` if nobody asks: steps then follow nothing, and what they make is root's.
    ledger: Option<Ledger>,
}

enum Files {
    Stack(Vec<LayerId>),
    Plain { draft: Draft },
}

impl Tree {
    /// An image without files.
    pub fn empty(storage: &Storage) -> Result<Tree> {
        let files = match storage.mode() {
            crate::storage::Mode::Overlay => Files::Stack(Vec::new()),
            crate::storage::Mode::Plain => Files::Plain { draft: layers::new_tree(storage)? },
        };
        Ok(Tree { files, ledger: Some(Ledger::new()) })
    }

    /// Begins with an image: shares its layers, or copies its tree.
    pub fn of(storage: &Storage, image: &Image, which: Which) -> Result<Tree> {
        let ledger = owners::of(storage, &image.layers, which)?;
        match storage.mode() {
            crate::storage::Mode::Overlay => {
                image.layers.iter().for_each(|id| storage.touch_layer(id));
                Ok(Tree { files: Files::Stack(image.layers.clone()), ledger })
            }
            crate::storage::Mode::Plain => {
                let draft = layers::new_tree(storage)?;
                for id in &image.layers {
                    rootfs::copy_tree(&storage.layer_tree(id), &draft.path().join("tree"), None)
                        .context(|| format!("can't copy image {}", image.reference))?;
                }
                // Nothing tells later which files a step has changed in place.
                Ok(Tree { files: Files::Plain { draft }, ledger: Some(ledger.unwrap_or_default()) })
            }
        }
    }

    /// From here on it is known whose the files are: something is about to be recorded.
    pub fn know_owners(&mut self, storage: &Storage) -> Result<()> {
        if let (None, Files::Stack(ids)) = (&self.ledger, &self.files) {
            self.ledger = owners::of(storage, ids, Which::All)?;
        }
        Ok(())
    }

    /// Name of the topmost layer; `None` without any, and in plain mode.
    pub fn top(&self) -> Option<&LayerId> {
        match &self.files {
            Files::Stack(ids) => ids.last(),
            Files::Plain { .. } => None,
        }
    }

    /// Takes a finished layer as the next one.
    pub fn reuse(&mut self, storage: &Storage, id: LayerId) -> Result<()> {
        if let Files::Stack(ids) = &mut self.files {
            storage.touch_layer(&id);
            let info = storage.layer_info(&id)?;
            ids.push(id);
            self.ledger = match &mut self.ledger {
                Some(ledger) => {
                    owners::add(storage, ledger, &id, &info)?;
                    return Ok(());
                }
                None => owners::of(storage, ids, Which::IfRecorded)?,
            };
        }
        Ok(())
    }

    /// Changes the tree: `change` gets it mounted. What it leaves is the layer that `name` then names, with all that it
    /// depends on; if it fails nothing is left (in plain mode the tree is not usable any more). `certificates` of the site
    /// are in the tree's bundles meanwhile.
    pub fn change<T, E: From<Error>>(
        &mut self,
        storage: &Storage,
        created_by: &str,
        certificates: Option<&[u8]>,
        name: impl FnOnce(&T) -> Inputs,
        change: impl FnOnce(&Path, &mut Ledger) -> Result<T, E>,
    ) -> Result<T, E> {
        match &mut self.files {
            Files::Plain { draft, .. } => {
                let tree = draft.path().join("tree");
                let ledger = self.ledger.get_or_insert_with(Ledger::new);
                let Some(site) = certificates else { return change(&tree, ledger) };
                // For files that only root may write.
                container::enter()?;
                let amended = ca::amend(site, &Stack::open(std::slice::from_ref(&tree))?);
                if amended.is_empty() {
                    return change(&tree, ledger);
                }
                amended.change(&Root::open(&tree)?)?;
                let done = change(&tree, ledger);
                // A failed step's tree is kept for a look inside.
                amended.take_back(&Root::open(&tree)?)?;
                done
            }
            Files::Stack(ids) => {
                container::enter()?;
                let mut ledger = self.ledger.clone().unwrap_or_default();
                let draft = storage.draft()?;
                let at = |name: &str| draft.path().join(name);
                for name in ["tree", "work", "mount"] {
                    fs::create_dir(at(name)).context(|| format!("can't make {}", at(name).display()))?;
                }
                let mut lower = layers::trees(storage, ids);
                if let Some(below) = lower.last() {
                    rootfs::inherit_root(&at("tree"), below)?;
                }
                let amended = amend(certificates, &lower, &at("amended"))?;
                lower.extend(amended.iter().map(|_| at("amended")));
                let overlay = Overlay::mount(&lower, Some((&at("tree"), &at("work"))), &at("mount"))?;
                let value = change(&at("mount"), &mut ledger)?;
                overlay.unmount()?;
                if let Some(amended) = &amended {
                    amended.take_back(&Root::open(&at("tree"))?)?;
                    rootfs::remove_tree(&at("amended"))?;
                }
                for name in ["work", "mount"] {
                    rootfs::remove_tree(&at(name))?;
                }
                let inputs = name(&value);
                let id = inputs.id();
                let owners = match &self.ledger {
                    None => Owners::ROOT,
                    Some(before) if *before == ledger => Owners::AsBelow,
                    Some(_) => Owners::of_all(&draft, ledger.to_string())?,
                };
                let info = LayerInfo {
                    parent: ids.last().copied(),
                    kind: LayerKind::Step,
                    size: seal(&at("tree"))?,
                    content: None,
                    created_by: created_by.to_owned(),
                    inputs: inputs.into_pairs(),
                    owners,
                };
                storage.commit_layer(draft, &id, &info)?;
                self.ledger = self.ledger.take().map(|_| ledger);
                ids.push(id);
                Ok(value)
            }
        }
    }

    fn trees(&self, storage: &Storage) -> Vec<PathBuf> {
        match &self.files {
            Files::Plain { draft, .. } => vec![draft.path().join("tree")],
            Files::Stack(ids) => layers::trees(storage, ids),
        }
    }

    /// Whether steps are layers that may be found in the cache.
    pub fn is_cached(&self) -> bool {
        matches!(self.files, Files::Stack(_))
    }

    /// What a path is, links followed within the tree. Needs no mount.
    pub fn lookup(&self, storage: &Storage, path: &Path) -> Result<Option<Entry>> {
        let trees = self.trees(storage);
        Stack::open(&trees)?.lookup(path, Last::Follow)
    }

    /// A file's content, links followed within the tree; `None` if it is not there.
    pub fn read(&self, storage: &Storage, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let trees = self.trees(storage);
        Stack::open(&trees)?.read(path, limit)
    }

    /// Ends the work: layers of an image with this configuration.
    pub fn finish(self, storage: &Storage, config: &Config, name: &str) -> Result<Vec<LayerId>> {
        match self.files {
            Files::Stack(mut ids) => {
                ids.push(layers::meta(storage, &ids, config)?);
                Ok(ids)
            }
            Files::Plain { draft } => {
                // In the end, since the tree may be large. Where there is no namespace, nothing has made such bits.
                let size = seal(&draft.path().join("tree"))?;
                layers::add_meta(&Root::open(&draft.path().join("tree"))?, config)?;
                let owners = owners::whole(&draft, self.ledger)?;
                Ok(vec![layers::store_tree(storage, draft, layers::Held { size, content: None }, name, owners)?])
            }
        }
    }
}

/// Makes a directory that is a layer above these, with the site's certificates in the bundles of the image. `None` if it
/// has no bundles.
fn amend(certificates: Option<&[u8]>, lower: &[PathBuf], dir: &Path) -> Result<Option<Amended>> {
    let Some(site) = certificates else { return Ok(None) };
    if lower.len() >= MAX_LAYERS {
        verbose!("too many layers for certificates in the image's own bundles");
        return Ok(None);
    }
    let below = Stack::open(lower)?;
    let amended = ca::amend(site, &below);
    if amended.is_empty() {
        return Ok(None);
    }
    fs::create_dir(dir).context(|| format!("can't make {}", dir.display()))?;
    amended.make_layer(&below, &Root::open(dir)?)?;
    Ok(Some(amended))
}
