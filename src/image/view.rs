//! The tree of an image in storage, to be read: its layers mounted as one, or its whole tree.

use std::path::{Path, PathBuf};

use super::{layers, whole};
use crate::container::{self, Overlay};
use crate::error::Result;
use crate::storage::{Draft, LayerId, Storage};

/// A tree to look into: mounted as long as this lives.
pub struct View {
    path: PathBuf,
    // Unmounted before its mount point goes.
    _overlay: Option<Overlay>,
    _draft: Option<Draft>,
}

impl View {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The tree of a finished image, to be read.
pub fn view(storage: &Storage, ids: &[LayerId]) -> Result<View> {
    if let Some(id) = layers::own_tree(storage, ids).map_or_else(|| whole::tree(storage, ids), |id| Ok(Some(id)))? {
        return Ok(View { path: storage.layer_tree(&id), _overlay: None, _draft: None });
    }
    let trees = layers::trees(storage, ids);
    container::enter()?;
    let draft = storage.draft()?;
    let overlay = Overlay::mount(&trees, None, draft.path())?;
    Ok(View { path: draft.path().to_owned(), _overlay: Some(overlay), _draft: Some(draft) })
}
