//! An image as other programs save it: a Docker archive (`docker load`, `podman load`), or a layout of the OCI image
//! specification, as a directory or an archive; or several of them in one. One layer each, as `push` sends it.
//!
//! What is in it is a list of names and contents; then a short loop writes them. A Docker archive has its layer as it is
//! (that is what every reader of such takes), the others have it compressed.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;

use serde_json::json;

use super::format::{Kind, Saved};
use super::{Counting, Input, Written};
use crate::cmd::progress::{Counted, Progress};
use crate::cmd::push;
use crate::cmd::push_layer::{Blob, tar_into};
use crate::compress::encoder::Encoding;
use crate::error::{Context, Error, Result};
use crate::log::verbose;
use crate::oci::digest::{Digest, Hashing};
use crate::oci::manifest::{
    Descriptor, Manifest, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_LAYER_TAR, OCI_LAYER_ZSTD, OCI_MANIFEST,
};
use crate::oci::saved::{DOCKER_DOCUMENT, LAYOUT_INDEX, LAYOUT_MARK};
use crate::oci::size::total;
use crate::rootfs::{self, Root, Stack};
use crate::storage::Draft;
use crate::sys::file::{self, O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY};

/// A file of the archive or layout.
struct Part {
    name: String,
    content: Content,
}

enum Content {
    Bytes(Vec<u8>),
    /// That of the image with this number.
    Layer(usize),
}

/// The layer, packed into a draft, which goes with it.
struct Layer {
    file: File,
    blob: Blob,
    written: Written,
    _draft: Draft,
}

impl Saved {
    /// As one archive.
    pub fn archive(&self, inputs: &[Input], out: &mut dyn Write) -> Result<Written> {
        let mut layers = self.pack_all(inputs)?;
        let mut tar = tar::Builder::new(Counting { out, bytes: 0 });
        let header = |mode: u32| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(mode);
            header.set_size(0);
            let time = inputs.first().and_then(|input| input.pack.clamp_mtime);
            header.set_mtime(time.unwrap_or(0).max(0) as u64);
            header
        };
        // skopeo wants to give away directories that have no member of their own, which users may not.
        let directories = match self.kind {
            Kind::Docker => &[][..],
            Kind::Oci => &["blobs/", "blobs/sha256/"],
        };
        for name in directories {
            let mut header = header(0o755);
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, name, io::empty()).context(|| format!("can't write {name}"))?;
        }
        for part in self.parts(inputs, &layers)? {
            let failed = || format!("can't write {}", part.name);
            let mut header = header(0o644);
            header.set_size(part.content.size(&layers));
            tar.append_data(&mut header, &part.name, part.content.open(&mut layers)?).context(failed)?;
        }
        let mut counting = tar.into_inner().context(|| "can't write the archive")?;
        counting.flush().context(|| "can't write the archive")?;
        Ok(Written { bytes: counting.bytes, ..of_all(&layers) })
    }

    /// As files of an empty directory.
    pub fn layout(&self, inputs: &[Input], root: &Root) -> Result<Written> {
        let mut layers = self.pack_all(inputs)?;
        let mut bytes = 0u64;
        for part in self.parts(inputs, &layers)? {
            let failed = || format!("can't write {}", part.name);
            let (dir, name) = part.name.rsplit_once('/').unwrap_or(("", &part.name));
            let dir = root.mkdir_all(Path::new(dir), 0o755)?;
            let flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
            let mut file = File::from(file::openat(dir.as_fd(), name.as_bytes(), flags, 0o644).context(failed)?);
            let n = io::copy(&mut part.content.open(&mut layers)?, &mut file).context(failed)?;
            bytes = bytes.saturating_add(n);
        }
        Ok(Written { bytes, ..of_all(&layers) })
    }

    /// All there is, in order: documents first, so that a reader soon knows what it has.
    fn parts(&self, inputs: &[Input], layers: &[Layer]) -> Result<Vec<Part>> {
        let bytes = |name: String, bytes: Vec<u8>| Part { name, content: Content::Bytes(bytes) };
        let of = |kind: &str, bytes: &[u8]| descriptor(kind, Digest::of(bytes), bytes.len() as u64);
        let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let (mut entries, mut each) = (Vec::new(), Vec::new());
        for (number, (input, Layer { blob: layer, .. })) in inputs.iter().zip(layers).enumerate() {
            let mut config = push::portable(input.host, input.config);
            config.set_diff_ids(&[layer.diff_id]);
            config.set_history(vec![json!({"created_by": "ch-image export", "comment": "flattened"})]);
            let config = config.to_json();
            match self.kind {
                Kind::Docker => {
                    let names = (format!("{}.json", Digest::of(&config).hex()), format!("{}.tar", layer.diff_id.hex()));
                    entries.push(json!({"Config": names.0, "RepoTags": self.tag(input), "Layers": [names.1]}));
                    each.extend([bytes(names.0, config), Part { name: names.1, content: Content::Layer(number) }]);
                }
                Kind::Oci => {
                    let manifest = Manifest {
                        media_type: OCI_MANIFEST.to_owned(),
                        config: of(OCI_CONFIG, &config),
                        layers: vec![descriptor(self.layer_type(), layer.digest, layer.size)],
                    };
                    let manifest = manifest.to_json();
                    entries.push(self.entry(input, &of(OCI_MANIFEST, &manifest), inputs.len() > 1));
                    each.extend([
                        bytes(blob(&Digest::of(&manifest)), manifest),
                        bytes(blob(&Digest::of(&config)), config),
                        Part { name: blob(&layer.digest), content: Content::Layer(number) },
                    ]);
                }
            }
        }
        let mut parts = match self.kind {
            Kind::Docker => vec![bytes(DOCKER_DOCUMENT.to_owned(), json!(entries).to_string().into_bytes())],
            Kind::Oci => {
                let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
                let mark = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
                vec![
                    bytes(LAYOUT_MARK.to_owned(), mark),
                    bytes(LAYOUT_INDEX.to_owned(), index.to_string().into_bytes()),
                ]
            }
        };
        // What several images have, or what happens to be a document and a layer, is there once.
        let mut names = HashSet::new();
        parts.extend(each.into_iter().filter(|part| names.insert(part.name.clone())));
        Ok(parts)
    }

    fn layer_type(&self) -> &'static str {
        match self.encoding {
            None => OCI_LAYER_TAR,
            Some(Encoding::Gzip) => OCI_LAYER_GZIP,
            Some(Encoding::Zstd(_)) => OCI_LAYER_ZSTD,
        }
    }

    /// What the index says of an image: its tag, or the whole name among several images.
    fn entry(&self, input: &Input, manifest: &Descriptor, is_one_of_several: bool) -> serde_json::Value {
        let mut entry = json!({
            "mediaType": manifest.media_type,
            "digest": manifest.digest.to_string(),
            "size": manifest.size,
            "platform": {"os": "linux", "architecture": input.arch().family()},
        });
        if let Some(variant) = input.arch().variant() {
            entry["platform"]["variant"] = variant.into();
        }
        let own = match is_one_of_several {
            true => input.reference.storage_name(),
            false => input.reference.version(),
        };
        let name = self.name.clone().or((!input.reference.has_digest()).then_some(own));
        if let Some(name) = name {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        entry
    }

    /// The names that a Docker archive gives to its image.
    fn tag(&self, input: &Input) -> serde_json::Value {
        match &self.name {
            Some(name) => json!([name]),
            None if input.reference.has_digest() => json!(null),
            None => json!([input.reference.storage_name()]),
        }
    }

    fn pack_all(&self, inputs: &[Input]) -> Result<Vec<Layer>> {
        inputs.iter().map(|input| self.pack(input)).collect()
    }

    fn pack(&self, input: &Input) -> Result<Layer> {
        let stack = Stack::of(&input.layers)?;
        let draft = input.storage.draft()?;
        let path = draft.path().join("layer");
        let made = File::options().read(true).write(true).create_new(true).open(&path);
        let out = BufWriter::with_capacity(1 << 20, made.context(|| format!("can't make {}", path.display()))?);
        let progress = Progress::new("packing", None);
        let part = progress.part("layer", None);
        let failed = || "can't pack the image";
        let (packed, blob, file) = match self.encoding {
            Some(encoding) => {
                let mut tar = Counted { inner: tar_into(out, encoding), part };
                let packed = rootfs::pack(&stack, &mut tar, &input.pack).context(failed)?;
                let (encoder, content) = tar.inner.into_parts();
                let (file, blob) = encoder.finish().context(failed)?.into_parts();
                (packed, Blob { diff_id: content.digest(), digest: blob.digest(), size: blob.size() }, file)
            }
            None => {
                let mut tar = Counted { inner: Hashing::new(out), part };
                let packed = rootfs::pack(&stack, &mut tar, &input.pack).context(failed)?;
                let (file, blob) = tar.inner.into_parts();
                (packed, Blob { diff_id: blob.digest(), digest: blob.digest(), size: blob.size() }, file)
            }
        };
        let file = file.into_inner().map_err(|e| e.into_error()).context(failed)?;
        if packed.skipped > 0 {
            verbose!("ignored {} sockets, devices and/or FIFOs", packed.skipped);
        }
        Ok(Layer { file, blob, written: Written::of(&packed), _draft: draft })
    }
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.to_owned(), digest, size }
}

fn of_all(layers: &[Layer]) -> Written {
    let of = |part: fn(&Written) -> u64| total(layers.iter().map(|layer| part(&layer.written)));
    Written { bytes: 0, files: of(|w| w.files), content: of(|w| w.content), skipped: of(|w| w.skipped) }
}

impl Content {
    fn size(&self, layers: &[Layer]) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Layer(number) => layers[*number].blob.size,
        }
    }

    fn open<'c>(&'c self, layers: &'c mut [Layer]) -> Result<Box<dyn Read + 'c>> {
        match self {
            Content::Bytes(bytes) => Ok(Box::new(&bytes[..])),
            Content::Layer(number) => {
                let file = &mut layers[*number].file;
                file.rewind().map_err(Error::from)?;
                Ok(Box::new(file))
            }
        }
    }
}
