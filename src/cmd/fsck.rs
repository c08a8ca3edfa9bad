//! `fsck`: says what is damaged in storage; if asked to, drops it and pulls again what was pulled.

use super::{Host, print, pull};
use crate::cli::Options;
use crate::container;
use crate::error::{Error, Result};
use crate::storage::{Access, Damage, Depth, Image, Storage};
use crate::{info, verbose, warning};

pub fn fsck(host: &Host, options: &Options) -> Result<()> {
    let access = if options.repair { Access::Exclusive } else { Access::Read };
    let depth = if options.deep { Depth::Contents } else { Depth::Records };
    // RUN may have left files that their owner may not read.
    if options.deep
        && let Err(e) = container::enter()
    {
        verbose!("reading without a user namespace: {e}");
    }
    let Some(storage) = host.existing_storage(access)? else {
        info!("no storage directory: {}", host.storage_path()?.display());
        return Ok(());
    };
    let found = storage.check(depth)?;
    let text: String = found.iter().map(|item| format!("{}\n", crate::log::escape(&item.to_string()))).collect();
    print(&text)?;
    let damaged = found.iter().filter(|d| !matches!(d, Damage::Foreign(_))).count();
    let place = storage.path().display();
    match damaged {
        0 => {
            info!("storage is sound: {place}");
            Ok(())
        }
        n if options.repair => {
            let images = damaged_images(&storage, &found)?;
            storage.repair(&found)?;
            info!("dropped what is damaged: {}", things(n));
            restore(host, options, &storage, &images)
        }
        n => Err(Error::new(format!("{} damaged in {place}", things(n)))
            .hint("ch-image fsck --repair drops what is damaged, and pulls again what was pulled")),
    }
}

fn things(n: usize) -> String {
    format!("{n} {}", if n == 1 { "thing" } else { "things" })
}

/// Images of which only the record is left whole.
fn damaged_images(storage: &Storage, found: &[Damage]) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    for image in storage.images()?.into_iter().flatten() {
        let name = image.reference.file_name()?;
        if found.iter().any(|d| matches!(d, Damage::Image(damaged, _) if *damaged == name)) {
            images.push(image);
        }
    }
    Ok(images)
}

/// Pulls what was pulled; of the rest, says that it has to be built.
fn restore(host: &Host, options: &Options, storage: &Storage, images: &[Image]) -> Result<()> {
    let (pulled, built): (Vec<&Image>, Vec<&Image>) = images.iter().partition(|image| image.source.is_some());
    for image in &built {
        warning!("build or import it again: {}", image.reference);
    }
    let mut missing = Vec::new();
    for image in pulled {
        if let Err(e) = pull::again(host, options, storage, image) {
            warning!("can't pull {} again: {e}", image.reference);
            missing.push(image.reference.to_string());
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Error::new(format!("dropped and not yet pulled again: {}", missing.join(", ")))
            .hint("the next ch-image pull of it goes on from what is in storage")),
    }
}
