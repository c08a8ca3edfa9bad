//! Which layers of a registry does an image stand on? For `push --layers`, which leaves them as they are.
//!
//! Layers from a registry are named by their chain ID, so the pulled image that an image was built from is recognized by
//! the names of its lowest layers: nothing has to be recorded when it is built, and it may be a base of a base.
//! In plain mode they are one layer, whose name says as much.

use serde_json::Value;

use super::remote;
use crate::error::Result;
use crate::image::layers;
use crate::oci::config::Config;
use crate::oci::digest::Digest;
use crate::oci::manifest::{Descriptor, OCI_LAYER_GZIP};
use crate::oci::reference::ImageRef;
use crate::registry::Endpoint;
use crate::storage::{Image, LayerId, LayerKind, Mode, Source, Storage};

pub struct Base {
    /// Where it was pulled from.
    pub reference: ImageRef,
    /// Lowest first, as an OCI manifest names them.
    pub layers: Vec<Descriptor>,
    /// Layers in storage that hold the same.
    pub stored: usize,
    pub diff_ids: Vec<Digest>,
    /// What its configuration tells of these layers; empty if it does not add up.
    pub history: Vec<Value>,
}

impl Base {
    /// `None` if the image's lowest layers are not all layers of one image that is in storage and was pulled. Of
    /// several names for it, one at the registry `near` is preferred.
    pub fn of(storage: &Storage, image: &Image, near: &Endpoint) -> Result<Option<Base>> {
        let mut ids = Vec::new();
        for id in &image.layers {
            if storage.layer_info(id)?.kind != LayerKind::Base {
                break;
            }
            ids.push(*id);
        }
        if ids.is_empty() {
            return Ok(None);
        }
        let mut found: Option<Base> = None;
        // What is damaged is no base.
        for pulled in storage.images()?.into_iter().flatten() {
            let Some(source) = pulled.source else { continue };
            let Some(base) = Base::from(storage, source, &pulled.config, &ids) else { continue };
            if remote::endpoint(&base.reference) == *near {
                return Ok(Some(base));
            }
            found.get_or_insert(base);
        }
        Ok(found)
    }

    fn from(storage: &Storage, source: Source, of_image: &Config, ids: &[LayerId]) -> Option<Base> {
        let config = Config::parse(&storage.blob_bytes(&source.config)?).ok()?;
        let diff_ids = config.diff_ids().ok()??;
        let names = match storage.mode() {
            Mode::Overlay => layers::chain(&diff_ids),
            Mode::Plain => vec![layers::base_name(&diff_ids, of_image)],
        };
        if names != ids || source.layers.len() != diff_ids.len() {
            return None;
        }
        let told = config.history().iter().filter(|entry| entry["empty_layer"] != true).count();
        Some(Base {
            reference: ImageRef::parse(&source.reference).ok()?,
            history: if told == diff_ids.len() { config.history().to_vec() } else { Vec::new() },
            layers: source.layers.into_iter().map(|l| Descriptor { media_type: oci(&l.media_type), ..l }).collect(),
            stored: ids.len(),
            diff_ids,
        })
    }
}

/// The type by which an OCI manifest names a layer: the same bytes, another word.
fn oci(media_type: &str) -> String {
    match media_type.strip_prefix("application/vnd.docker.image.rootfs.") {
        Some(rest) if rest.ends_with("tar.zstd") => "application/vnd.oci.image.layer.v1.tar+zstd".to_owned(),
        Some(rest) if rest.ends_with("tar") => "application/vnd.oci.image.layer.v1.tar".to_owned(),
        None if media_type.starts_with("application/vnd.oci.image.layer.") => {
            // Nothing is left with somebody else: what is pushed is all there.
            media_type.replace("layer.nondistributable.", "layer.")
        }
        Some(_) | None => OCI_LAYER_GZIP.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::oci;

    #[test]
    fn types() {
        let check =
            |docker: &str, want: &str| assert_eq!(oci(docker), format!("application/vnd.oci.image.layer.{want}"));
        check("application/vnd.docker.image.rootfs.diff.tar.gzip", "v1.tar+gzip");
        check("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "v1.tar+gzip");
        check("application/vnd.docker.image.rootfs.diff.tar", "v1.tar");
        check("application/vnd.docker.image.rootfs.diff.tar.zstd", "v1.tar+zstd");
        check("application/vnd.oci.image.layer.v1.tar+zstd", "v1.tar+zstd");
        check("application/vnd.oci.image.layer.nondistributable.v1.tar", "v1.tar");
        check("", "v1.tar+gzip");
    }
}
