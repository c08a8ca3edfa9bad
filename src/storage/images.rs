//! Images: one small file each, whose rename is the commit.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::blobs::Ingest;
use super::layers::{read_json, record};
use super::{LayerId, Storage};
use crate::error::{Context, Error, Result};
use crate::log::debug;
use crate::oci::config::Config;
use crate::oci::digest::Digest;
use crate::oci::manifest::Descriptor;
use crate::oci::reference::ImageRef;

/// Where an image was pulled from.
#[derive(Clone, PartialEq, Debug)]
pub struct Source {
    /// Canonical remote reference.
    pub reference: String,
    /// Digest of what the tag named: index or manifest.
    pub top: Digest,
    /// Digest of the image's manifest.
    pub manifest: Digest,
    pub config: Digest,
    /// Layer blobs, lowest first.
    pub layers: Vec<Descriptor>,
}

/// An image in storage.
#[derive(Clone, PartialEq, Debug)]
pub struct Image {
    pub reference: ImageRef,
    /// Lowest first.
    pub layers: Vec<LayerId>,
    pub config: Config,
    /// Set if the image was pulled.
    pub source: Option<Source>,
    /// Name of the image that it was built from.
    pub base: Option<String>,
    /// Seconds since 1970.
    pub made: u64,
}

impl Image {
    pub fn new(reference: ImageRef, layers: Vec<LayerId>, config: Config) -> Image {
        let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Image { reference, layers, config, source: None, base: None, made }
    }

    /// If it is a stage of a build (`NAME/_stageN`, A.20, "stages"): its number.
    pub fn stage(&self) -> Option<usize> {
        let name = self.reference.storage_name();
        let path = match name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => path,
            _ => &name,
        };
        let digits = path.rsplit_once('/')?.1.strip_prefix("_stage")?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    }

    fn to_json(&self) -> Value {
        json!({
            "format": 1,
            "name": self.reference.storage_name(),
            "layers": self.layers.iter().map(LayerId::to_string).collect::<Vec<_>>(),
            "config": self.config.to_value(),
            "source": self.source.as_ref().map(Source::to_json),
            "base": self.base,
            "made": self.made,
        })
    }

    fn from_json(value: &Value) -> Result<Image> {
        let name = value["name"].as_str().ok_or_else(|| Error::new("no name"))?;
        let layers = value["layers"].as_array().ok_or_else(|| Error::new("no layers"))?;
        Ok(Image {
            reference: ImageRef::parse(name)?,
            layers: layers.iter().map(|l| l.as_str().unwrap_or("").parse()).collect::<Result<_>>()?,
            config: Config::from_value(value["config"].clone())?,
            source: if value["source"].is_null() { None } else { Some(Source::from_json(&value["source"])?) },
            base: value["base"].as_str().map(str::to_owned),
            made: value["made"].as_u64().unwrap_or(0),
        })
    }
}

impl Source {
    /// All blobs that were downloaded.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Digest> {
        [self.top, self.manifest, self.config].into_iter().chain(self.layers.iter().map(|layer| layer.digest))
    }

    fn to_json(&self) -> Value {
        let layer = |d: &Descriptor| json!({"mediaType": d.media_type, "size": d.size, "digest": d.digest.to_string()});
        json!({
            "reference": self.reference,
            "top": self.top.to_string(),
            "manifest": self.manifest.to_string(),
            "config": self.config.to_string(),
            "layers": self.layers.iter().map(layer).collect::<Vec<_>>(),
        })
    }

    fn from_json(value: &Value) -> Result<Source> {
        let digest = |key: &str| value[key].as_str().unwrap_or("").parse::<Digest>();
        let layers = value["layers"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(Source {
            reference: value["reference"].as_str().unwrap_or("").to_owned(),
            top: digest("top")?,
            manifest: digest("manifest")?,
            config: digest("config")?,
            layers: layers.iter().map(Descriptor::parse).collect::<Result<_>>()?,
        })
    }
}

impl Storage {
    fn image_path(&self, reference: &ImageRef) -> Result<PathBuf> {
        Ok(self.path().join("images").join(format!("{}.json", reference.file_name()?)))
    }

    /// `None` if there is no image of that name.
    pub fn image(&self, reference: &ImageRef) -> Result<Option<Image>> {
        let path = self.image_path(reference)?;
        let read = || read_json(&path)?.map(|value| Image::from_json(&value)).transpose();
        read().map_err(|e| {
            e.context(format!("damaged image {reference}"))
                .hint(format!("ch-image fsck tells more; pull, build or import {reference} again to replace it"))
        })
    }

    /// All images, sorted by name; a damaged one is its name and what is wrong.
    pub fn images(&self) -> Result<Vec<Result<Image, (String, Error)>>> {
        let path = self.path().join("images");
        let mut names: Vec<String> = fs::read_dir(&path)
            .context(|| format!("can't read {}", path.display()))?
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.strip_suffix(".json").map(str::to_owned))
            .collect();
        names.sort();
        let read = |name: String| {
            // One that is deleted while we look is none.
            let value = read_json(&path.join(format!("{name}.json"))).transpose()?;
            let image = value.and_then(|value| Image::from_json(&value));
            Some(match image.and_then(|image| Ok((image.reference.file_name()?, image))) {
                Ok((own, image)) if own == name => Ok(image),
                Ok((own, _)) => Err((name, Error::new(format!("it is a copy of {own}")))),
                Err(e) => Err((name, e)),
            })
        };
        let mut images: Vec<_> = names.into_iter().filter_map(read).collect();
        let key = |i: &Result<Image, (String, Error)>| match i {
            Ok(image) => image.reference.storage_name(),
            Err((name, _)) => name.clone(),
        };
        images.sort_by_key(key);
        Ok(images)
    }

    /// Commits an image: everything that it names is made durable first, `blobs` that were downloaded for it included.
    pub fn commit_image(&self, image: &Image, blobs: Vec<Ingest>) -> Result<()> {
        let path = self.image_path(&image.reference)?;
        let failed = || format!("can't store image {}", image.reference);
        self.secure(&image.layers).context(failed)?;
        self.publish(blobs).context(failed)?;
        // Built again from the cache: it is what it was, and as old.
        if self
            .image(&image.reference)
            .ok()
            .flatten()
            .is_none_or(|old| Image { made: old.made, ..image.clone() } != old)
        {
            self.sync_dir(&self.path().join("layers")).context(failed)?;
            self.write_file(&path, &record(&image.to_json())).context(failed)?;
        }
        if image.stage().is_none() {
            self.make_entry(&image.reference)?;
        }
        Ok(())
    }

    /// `img/NAME`, which is there as long as the image is: a link to its record. Scripts look for it, none of ours do.
    fn make_entry(&self, reference: &ImageRef) -> Result<()> {
        let name = reference.file_name()?;
        match symlink(format!("../images/{name}.json"), self.path().join("img").join(&name)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => debug!("can't make img/{name}: {e}"),
            Ok(()) | Err(_) => {}
        }
        Ok(())
    }

    /// Removes the name; `false` if there is none. The layers go with [`Storage::free_unused`].
    pub fn delete_image(&self, reference: &ImageRef) -> Result<bool> {
        let path = self.image_path(reference)?;
        match fs::remove_file(&path) {
            Ok(()) => {
                // One that stays leads nowhere, and so is not there for those who look for it.
                let _ = fs::remove_file(self.path().join("img").join(reference.file_name()?));
                self.sync_dir(&self.path().join("images"))?;
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            // Not a file, whatever it is.
            Err(_) => self.discard(&path).map(|()| true).context(|| format!("can't delete image {reference}")),
        }
    }
}
