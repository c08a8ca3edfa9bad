//! `delete`: the name goes at once, then what nothing else needs.

use super::{Host, similar};
use crate::error::{Error, Result};
use crate::log::info;
use crate::oci::reference::ImageRef;
use crate::storage::{Access, Storage};

pub fn delete(host: &Host, images: &[String]) -> Result<()> {
    let references = images.iter().map(|text| ImageRef::parse(text)).collect::<Result<Vec<_>>>()?;
    let storage = host.storage(Access::Write)?;
    let mut missing: Vec<&ImageRef> = Vec::new();
    for reference in &references {
        let _lock = storage.lock_image(reference)?;
        if storage.delete_image(reference)? {
            info!("deleting image: {reference}");
            delete_stages(&storage, reference)?;
        } else {
            missing.push(reference);
        }
    }
    storage.free_unused()?;
    match missing.first() {
        None => Ok(()),
        Some(first) => {
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            Err(Error::new(format!("{} image not found", names.join(", "))).hint(similar::hint(&storage, first)))
        }
    }
}

/// Stages of builds are not listed, and go with their image.
fn delete_stages(storage: &Storage, reference: &ImageRef) -> Result<()> {
    for image in storage.images()?.into_iter().flatten() {
        let Some(n) = image.stage() else { continue };
        if reference.stage(n)?.storage_name() == image.reference.storage_name() {
            storage.delete_image(&image.reference)?;
        }
    }
    Ok(())
}
