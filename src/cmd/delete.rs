//! `delete`: the name goes at once, then what nothing else needs.

use super::{Host, similar};
use crate::error::{Error, Result};
use crate::glob::{Pattern, has_magic};
use crate::log::{escape, info};
use crate::oci::reference::ImageRef;
use crate::storage::{Access, Storage};

pub fn delete(host: &Host, images: &[String]) -> Result<()> {
    let wanted = images.iter().map(|text| Wanted::parse(text)).collect::<Result<Vec<_>>>()?;
    let storage = host.storage(Access::Write)?;
    let references = found(&wanted, &storage)?;
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

/// What an operand names.
#[derive(Debug, PartialEq)]
enum Wanted {
    One(ImageRef),
    /// All whose names fit.
    Fitting {
        glob: String,
        pattern: Pattern,
    },
}

impl Wanted {
    /// No name of an image has wildcards, but for IPv6 addresses in brackets.
    fn parse(text: &str) -> Result<Wanted> {
        match ImageRef::parse(text) {
            Err(_) if has_magic(text) => Ok(Wanted::Fitting { glob: text.to_owned(), pattern: Pattern::new(text) }),
            parsed => parsed.map(Wanted::One),
        }
    }

    /// With `:latest` or without, as `list` shows it.
    fn fits(pattern: &Pattern, name: &str) -> bool {
        pattern.matches(name) || name.strip_suffix(":latest").is_some_and(|short| pattern.matches(short))
    }
}

/// The images that are meant, each once.
fn found(wanted: &[Wanted], storage: &Storage) -> Result<Vec<ImageRef>> {
    let mut all: Vec<ImageRef> = Vec::new();
    let mut add = |reference: &ImageRef| {
        if !all.iter().any(|known| known.storage_name() == reference.storage_name()) {
            all.push(reference.clone());
        }
    };
    for wanted in wanted {
        match wanted {
            Wanted::One(reference) => add(reference),
            Wanted::Fitting { glob, pattern } => {
                let images = storage.images()?.into_iter().flatten().filter(|image| image.stage().is_none());
                let fitting: Vec<_> =
                    images.filter(|image| Wanted::fits(pattern, &image.reference.storage_name())).collect();
                if fitting.is_empty() {
                    return Err(Error::new(format!("no image fits {}", escape(glob)))
                        .hint("ch-image list shows what there is; nothing was deleted"));
                }
                fitting.iter().for_each(|image| add(&image.reference));
            }
        }
    }
    Ok(all)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_no_names() {
        let check = |text: &str, name: &str, want: bool| {
            let Wanted::Fitting { pattern, .. } = Wanted::parse(text).unwrap() else { panic!("{text}") };
            assert_eq!(Wanted::fits(&pattern, name), want, "{text} {name}");
        };
        check("*", "a/b:1", true);
        check("hell?", "hello:latest", true);
        check("hell?", "hello:1", false);
        check("h*:[12]", "hello:1", true);
        check("h*:[12]", "hello:3", false);
        check("*/b:*", "quay.io/a/b:1", true);
        for one in ["a", "a:1", "[::1]:5000/a"] {
            assert_eq!(Wanted::parse(one).unwrap(), Wanted::One(ImageRef::parse(one).unwrap()), "{one}");
        }
        assert!(Wanted::parse("a b").is_err());
    }
}
