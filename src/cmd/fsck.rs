//! `fsck`: says what is damaged in storage; if asked to, drops it and pulls again what was pulled. It succeeds only if
//! every image is there afterwards.

use super::pull::Puller;
use super::remote::{Named, Remotes};
use super::{Host, print};
use crate::cli::Options;
use crate::container;
use crate::error::{Error, Result};
use crate::log::{info, verbose, warning};
use crate::storage::{Access, Damage, Depth, Image, Storage};

pub fn fsck(host: &Host, options: &Options) -> Result<()> {
    let access = if options.repair { Access::Exclusive } else { Access::Read };
    let depth = if options.deep { Depth::Contents } else { Depth::Records };
    host.check_storage_place()?;
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
            info!("no damage found: {place}");
            Ok(())
        }
        n if options.repair => {
            let (pulled, lost) = damaged_images(&storage, &found)?;
            storage.repair(&found)?;
            info!("dropped damaged objects: {}", things(n));
            let remotes = (!pulled.is_empty()).then(|| Remotes::new(options, Named::Storage)).transpose();
            let again = |image: &Image| match &remotes {
                Ok(Some(remotes)) => Puller { host, options, storage: &storage, remotes }.again(image),
                Ok(None) => Ok(()),
                Err(e) => Err(e.clone()),
            };
            restore(&again, &pulled, &lost)
        }
        n => Err(Error::new(format!("{} damaged in {place}", things(n)))
            .hint("ch-image fsck --repair drops what is damaged, and pulls again what was pulled")),
    }
}

fn things(n: usize) -> String {
    format!("{n} {}", if n == 1 { "thing" } else { "things" })
}

/// Damaged images that were pulled, and the names of those that only a person can make again.
fn damaged_images(storage: &Storage, found: &[Damage]) -> Result<(Vec<Image>, Vec<String>)> {
    let images: Vec<Image> = storage.images()?.into_iter().flatten().collect();
    let (mut pulled, mut lost) = (Vec::new(), Vec::new());
    for damage in found {
        let Damage::Image(name, _) = damage else { continue };
        let is_this = |image: &&Image| image.reference.file_name().is_ok_and(|own| own == *name);
        match images.iter().find(is_this) {
            Some(image) if image.source.is_some() => pulled.push(image.clone()),
            Some(image) => lost.push(image.reference.to_string()),
            // Its record is damaged: nobody knows where it came from.
            None => lost.push(crate::log::escape(&name.replace('%', "/").replace('+', ":")).into_owned()),
        }
    }
    Ok((pulled, lost))
}

/// Pulls what was pulled; says what could not be had again.
fn restore(again: &dyn Fn(&Image) -> Result<()>, pulled: &[Image], lost: &[String]) -> Result<()> {
    let mut missing = Vec::new();
    for image in pulled {
        if let Err(e) = again(image) {
            warning!("can't pull {} again: {e}", image.reference);
            missing.push(image.reference.to_string());
        }
    }
    let missing = (missing.join(", "), "dropped and not yet pulled again");
    let lost = (lost.join(", "), "dropped, to be built or imported again");
    let left: Vec<String> = [&missing, &lost]
        .iter()
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, what)| format!("{what}: {names}"))
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    let error = Error::new(left.join("; "));
    Err(match missing.0.is_empty() {
        true => error,
        false => error.hint("the next ch-image pull of it goes on from what is in storage"),
    })
}
