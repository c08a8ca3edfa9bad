//! `delete`: the name goes at once, then what nothing else needs.

use super::Host;
use crate::error::{Error, Result};
use crate::log::info;
use crate::oci::reference::ImageRef;
use crate::storage::{Access, Storage};

pub fn delete(host: &Host, images: &[String]) -> Result<()> {
    let references = images.iter().map(|text| ImageRef::parse(text)).collect::<Result<Vec<_>>>()?;
    let storage = host.storage(Access::Write)?;
    let mut missing = Vec::new();
    for reference in &references {
        let _lock = storage.lock_image(reference)?;
        if storage.delete_image(reference)? {
            info!("deleting image: {reference}");
            delete_stages(&storage, reference)?;
        } else {
            missing.push(reference.to_string());
        }
    }
    storage.free_unused()?;
    match missing.is_empty() {
        true => Ok(()),
        false => {
            Err(Error::new(format!("{} image not found", missing.join(", "))).hint("ch-image list shows what there is"))
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
