//! Plain storage: how does an image of several layers become the one tree that commands run in?
//!
//! From the nearest whole tree that there is and the layers above it, in one go: what upper layers hide is not copied
//! first.

use super::layers::new_tree;
use crate::container;
use crate::error::{Context, Result};
use crate::log::verbose;
use crate::rootfs::{Root, Stack, copy_merged};
use crate::storage::{Draft, LayerId, LayerInfo, LayerKind, Owners, Storage};

/// The image's whole tree: found, or made and kept.
pub fn tree(storage: &Storage, ids: &[LayerId]) -> Result<Option<LayerId>> {
    let Some(name) = storage.name_of_whole(ids) else { return Ok(None) };
    if !storage.has_layer(&name) {
        let draft = new_tree(storage)?;
        let bytes = copy(storage, ids, &draft)?;
        keep(storage, draft, ids, bytes)?;
    }
    Ok(Some(name))
}

/// Copies what these layers show to the tree of a draft. Bytes of its files.
pub fn copy(storage: &Storage, ids: &[LayerId], draft: &Draft) -> Result<u64> {
    see_all();
    let to = draft.path().join("tree");
    copy_merged(&nearest(storage, ids)?, &Root::open(&to)?).context(|| format!("can't copy to {}", to.display()))
}

/// Directories that a build left unreadable are no obstacle inside a user namespace; where there is none, most images
/// can be read all the same.
pub fn see_all() {
    if let Err(e) = container::enter() {
        verbose!("without a user namespace: {e}");
    }
}

/// The layers, as many of the lower ones as possible in one whole tree.
fn nearest(storage: &Storage, ids: &[LayerId]) -> Result<Stack> {
    let whole = |count: usize| Some((count, storage.whole_tree(&ids[..count])?));
    let layers: Vec<LayerId> = match (2..=ids.len()).rev().find_map(whole) {
        Some((count, whole)) => [&[whole], &ids[count..]].concat(),
        None => ids.to_vec(),
    };
    Stack::of(&storage.layer_dirs(&layers)?)
}

/// Makes the tree of a draft the whole tree of these layers, which it shows.
pub fn keep(storage: &Storage, draft: Draft, ids: &[LayerId], bytes: u64) -> Result<()> {
    let (Some(name), [.., top]) = (storage.name_of_whole(ids).filter(|_| ids.len() > 1), ids) else { return Ok(()) };
    let info = LayerInfo {
        parent: Some(*top),
        kind: LayerKind::Whole,
        size: bytes,
        content: None,
        created_by: "whole tree".into(),
        inputs: Vec::new(),
        owners: Owners::AsBelow,
    };
    storage.commit_layer(draft, &name, &info)
}
