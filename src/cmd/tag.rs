//! `tag`, `rename`: the same image under another name.

use super::{Host, similar};
use crate::error::{Error, Result};
use crate::image::layers;
use crate::log::info;
use crate::oci::reference::ImageRef;
use crate::storage::{Access, Image};

/// What becomes of the old name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Old {
    Keep,
    Drop,
}

pub fn tag(host: &Host, from: &str, to: &str, old: Old) -> Result<()> {
    let (from, to) = (ImageRef::parse(from)?, ImageRef::parse(to)?);
    if from.storage_name() == to.storage_name() {
        return Err(Error::usage(format!("the same name twice: {from}")));
    }
    let storage = host.storage(Access::Write)?;
    // In the order of their names, so that two of us can't wait for each other.
    let mut both = [&from, &to];
    both.sort_by_key(|reference| reference.storage_name());
    let _locks = both.into_iter().map(|reference| storage.lock_image(reference)).collect::<Result<Vec<_>>>()?;
    let image = storage
        .image(&from)?
        .ok_or_else(|| Error::new(format!("{from} image not found")).hint(similar::hint(&storage, &from)))?;
    let image = match old {
        Old::Drop => image,
        // What is written into one name's image must not be seen in the other's.
        Old::Keep => layers::frozen(&storage, image)?,
    };
    storage.commit_image(&Image { reference: to.clone(), ..image }, Vec::new())?;
    if old == Old::Drop {
        storage.delete_image(&from)?;
    }
    // What the new name meant before.
    storage.free_unused()?;
    match old {
        Old::Keep => info!("also named: {to}"),
        Old::Drop => info!("renamed: {from} to {to}"),
    }
    Ok(())
}
