//! Images that a Dockerfile names: taken from storage, or pulled.

use super::Build;
use crate::dockerfile::plan::{Origin, at};
use crate::dockerfile::platform::Platform;
use crate::error::{Context, Result, bail};
use crate::image::layers;
use crate::log::{verbose, warning};
use crate::oci::arch::{Arch, Wanted};
use crate::oci::reference::ImageRef;
use crate::storage::Image;

impl Build<'_> {
    /// The image of the FROM in that line.
    pub(super) fn image_of_from(&self, name: &str, platform: Option<&Platform>, line: usize) -> Result<Image> {
        self.base_image(name, platform).context(|| format!("{}: {}", self.file, at(line, "FROM")))
    }

    /// An image that COPY or a mount names.
    pub(super) fn named_image(&self, name: &str) -> Result<Image> {
        self.base_image(name, None).context(|| format!("no stage is named {name}, so it is taken for an image"))
    }

    /// An image of storage, pulled if it is not there, or not for the platform that FROM asks for.
    fn base_image(&self, name: &str, platform: Option<&Platform>) -> Result<Image> {
        let reference = ImageRef::parse_strict(name)?;
        if reference.storage_name() == self.request.reference.storage_name() {
            bail!("output image ref same as FROM: {reference}");
        }
        let wanted = match platform {
            Some(Platform { arch, variant, .. }) => Wanted::Arch(Arch::from_parts(arch, Some(variant))),
            None => self.request.wanted.clone(),
        };
        let unfit = |image: &Image| -> Option<String> {
            if !image.layers.iter().all(|id| self.storage.has_layer(id)) {
                return Some("lacks layers".to_owned());
            }
            match (&wanted, platform.and(image.config.arch())) {
                (Wanted::Arch(wanted), Some(have)) if !wanted.accepts(&have) => {
                    Some(format!("is for {have}, not {wanted}"))
                }
                _ => None,
            }
        };
        // Also with --no-cache, as with the original: nothing needs to be downloaded.
        match self.storage.image(&reference)? {
            None => verbose!("base image not found, pulling"),
            Some(image) => match unfit(&image) {
                Some(why) => warning!("image {reference} {why}: pulling it again"),
                None => {
                    verbose!("base image found: {reference}");
                    return layers::frozen(self.storage, image);
                }
            },
        }
        let _lock = self.storage.lock_image(&reference)?;
        // Whoever had the lock may have pulled it.
        if let Some(image) = self.storage.image(&reference)?.filter(|image| unfit(image).is_none()) {
            return layers::frozen(self.storage, image);
        }
        self.registry.pull(&reference, &wanted)
    }

    /// What names the content of a stage or image: its topmost layer. Empty for the context.
    pub(super) fn identity(&self, session: &super::Session, origin: &Origin) -> Result<String> {
        let image = match origin {
            Origin::Context | Origin::Scratch => return Ok(String::new()),
            Origin::Stage(n) => session.stage(*n)?.image.clone(),
            Origin::Image(name) => self.named_image(name)?,
        };
        Ok(image.layers.last().map_or(String::new(), ToString::to_string))
    }
}
