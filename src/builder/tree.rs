//! The image under construction: a stack of layers, on which the next step leaves another one.
//!
//! In overlay mode a step gets the layers mounted, and what it writes is the layer. In plain mode it gets a whole tree
//! ([`super::grown`]), and what it changed becomes the layer. Names and records of layers are the same.

use std::fs;
use std::path::{Path, PathBuf};

use super::ca;
use super::cache_key::Inputs;
use super::grown::Grown;
use crate::container::ownership::Ledger;
use crate::container::{self, MAX_LAYERS, Overlay};
use crate::error::{Context, Error, Result};
use crate::image::owners::Which;
use crate::image::{layers, owners};
use crate::log::verbose;
use crate::oci::config::Config;
use crate::rootfs::{self, Amended, Entry, Last, Root, Stack};
use crate::storage::{Draft, Image, LayerId, LayerInfo, LayerKind, Mode, Owners, Storage, seal};

#[derive(Default)]
pub struct Tree {
    ids: Vec<LayerId>,
    /// To whom its files belong; `None` if nobody asks: steps then follow nothing, and what they make is root's.
    ledger: Option<Ledger>,
    /// Plain mode: the whole tree, once a step had to be done.
    grown: Option<Grown>,
}

impl Tree {
    /// An image without files.
    pub fn empty() -> Tree {
        Tree { ledger: Some(Ledger::new()), ..Tree::default() }
    }

    /// Begins with an image, whose layers it shares.
    pub fn of(storage: &Storage, image: &Image, which: Which) -> Result<Tree> {
        let ledger = owners::of(storage, &image.layers, which)?;
        image.layers.iter().for_each(|id| storage.touch_layer(id));
        Ok(Tree { ids: image.layers.clone(), ledger, grown: None })
    }

    /// From here on it is known whose the files are: something is about to be recorded.
    pub fn know_owners(&mut self, storage: &Storage) -> Result<()> {
        if self.ledger.is_none() {
            self.ledger = owners::of(storage, &self.ids, Which::All)?;
        }
        Ok(())
    }

    /// Name of the topmost layer; `None` without any.
    pub fn top(&self) -> Option<&LayerId> {
        self.ids.last()
    }

    /// Takes a finished layer as the next one.
    pub fn reuse(&mut self, storage: &Storage, id: LayerId) -> Result<()> {
        storage.touch_layer(&id);
        let info = storage.layer_info(&id)?;
        self.ids.push(id);
        match &mut self.ledger {
            Some(ledger) => owners::add(storage, ledger, &id, &info)?,
            None => self.ledger = owners::of(storage, &self.ids, Which::IfRecorded)?,
        }
        Ok(())
    }

    /// Changes the tree: `change` gets it whole. What it leaves is the layer that `name` then names, with all that it
    /// depends on; if it fails nothing is left. `certificates` of the site are in the tree's bundles meanwhile.
    pub fn change<T, E: From<Error>>(
        &mut self,
        storage: &Storage,
        created_by: &str,
        certificates: Option<&[u8]>,
        name: impl FnOnce(&T) -> Inputs,
        change: impl FnOnce(&Path, &mut Ledger) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut ledger = self.ledger.clone().unwrap_or_default();
        let (draft, value) = match storage.mode() {
            Mode::Overlay => mounted(storage, &self.ids, certificates, |tree| change(tree, &mut ledger))?,
            Mode::Plain => {
                let fits = self.grown.take().filter(|grown| grown.shows(&self.ids));
                let mut grown = fits.map_or_else(|| Grown::new(storage, &self.ids), Ok)?;
                let done = grown.change(storage, certificates, |tree| change(tree, &mut ledger))?;
                self.grown = Some(grown);
                done
            }
        };
        let inputs = name(&value);
        let id = inputs.id();
        let owners = match &self.ledger {
            None => Owners::ROOT,
            Some(before) if *before == ledger => Owners::AsBelow,
            Some(_) => Owners::of_all(&draft, ledger.to_string())?,
        };
        let info = LayerInfo {
            parent: self.ids.last().copied(),
            kind: LayerKind::Step,
            size: seal(&draft.path().join("tree"))?,
            content: None,
            created_by: created_by.to_owned(),
            inputs: inputs.into_pairs(),
            owners,
        };
        storage.commit_layer(draft, &id, &info)?;
        self.ledger = self.ledger.take().map(|_| ledger);
        self.ids.push(id);
        if let Some(grown) = &mut self.grown {
            grown.show(&self.ids);
        }
        Ok(value)
    }

    fn stack(&self, storage: &Storage) -> Result<Stack> {
        Stack::of(&storage.layer_dirs(&self.ids)?)
    }

    /// What a path is, links followed within the tree. Needs no mount.
    pub fn lookup(&self, storage: &Storage, path: &Path) -> Result<Option<Entry>> {
        self.stack(storage)?.lookup(path, Last::Follow)
    }

    /// A file's content, links followed within the tree; `None` if it is not there.
    pub fn read(&self, storage: &Storage, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.stack(storage)?.read(path, limit)
    }

    /// Ends the work: layers of an image with this configuration.
    pub fn finish(mut self, storage: &Storage, config: &Config) -> Result<Vec<LayerId>> {
        let grown = self.grown.take().filter(|grown| grown.shows(&self.ids));
        self.ids.push(layers::meta(storage, &self.ids, config)?);
        if let Some(grown) = grown {
            grown.keep(storage, &self.ids, config)?;
        }
        Ok(self.ids)
    }
}

/// Overlay mode: what `change` writes into the mounted layers, as the tree of a draft.
fn mounted<T, E: From<Error>>(
    storage: &Storage,
    ids: &[LayerId],
    certificates: Option<&[u8]>,
    change: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<(Draft, T), E> {
    container::enter()?;
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
    let value = change(&at("mount"))?;
    overlay.unmount()?;
    if let Some(amended) = &amended {
        amended.take_back(&Root::open(&at("tree"))?)?;
        rootfs::remove_tree(&at("amended"))?;
    }
    for name in ["work", "mount"] {
        rootfs::remove_tree(&at(name))?;
    }
    Ok((draft, value))
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
