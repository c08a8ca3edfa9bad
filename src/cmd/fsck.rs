//! `fsck`: says what is damaged in storage, and drops it if asked to.

use super::{Host, print};
use crate::cli::Options;
use crate::error::{Error, Result};
use crate::info;
use crate::storage::{Access, Damage, Depth};

pub fn fsck(host: &Host, options: &Options) -> Result<()> {
    let access = if options.repair { Access::Exclusive } else { Access::Read };
    let Some(storage) = host.existing_storage(access)? else {
        info!("no storage directory: {}", host.storage_path()?.display());
        return Ok(());
    };
    let depth = if options.deep { Depth::Contents } else { Depth::Records };
    let damage = storage.check(depth)?;
    let mut text = String::new();
    for item in &damage {
        text.push_str(&format!("{}\n", crate::log::escape(&item.to_string())));
    }
    print(&text)?;
    if options.repair {
        storage.repair(&damage)?;
        info!("dropped {} damaged things; what they belong to can be pulled or built again", damage.len());
        return Ok(());
    }
    let real = damage.iter().filter(|d| !matches!(d, Damage::Foreign(_))).count();
    match real {
        0 => {
            info!("storage is sound: {}", storage.path().display());
            Ok(())
        }
        n => Err(Error::new(format!("{n} damaged things in {}", storage.path().display()))
            .hint("ch-image fsck --repair drops them; then pull or build again")),
    }
}
