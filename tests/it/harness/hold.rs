//! Images in the scripted registry, made by hand: what nobody pushes but somebody serves.

use serde_json::{Value, json};

use super::registry::{Registry, sha256};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A layer of small files; `name/` is a directory.
pub fn layer(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        let is_dir = name.ends_with('/');
        header.set_entry_type(if is_dir { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_mode(if is_dir { 0o755 } else { 0o644 });
        header.set_mtime(super::image::MTIME);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// The least that passes for an image, and a file that says which one it is.
pub fn marked(mark: &str) -> Vec<u8> {
    layer(&[("bin/", b""), ("dev/", b""), ("usr/", b""), ("usr/mark", mark.as_bytes())])
}

pub fn config(arch: Option<&str>, layers: &[&[u8]]) -> Value {
    let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
    let mut config = json!({"os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    if let Some(arch) = arch {
        config["architecture"] = arch.into();
    }
    config
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
}

/// Puts a manifest of uncompressed layers under a tag and returns its descriptor.
pub fn image(registry: &Registry, repository: &str, tag: &str, config: &Value, layers: &[&[u8]]) -> Value {
    let config = config.to_string().into_bytes();
    registry.blob(repository, &config);
    let describe = |layer: &&[u8]| {
        registry.blob(repository, layer);
        descriptor("application/vnd.oci.image.layer.v1.tar", layer)
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, &config),
        "layers": layers.iter().map(describe).collect::<Vec<_>>(),
    });
    let bytes = manifest.to_string().into_bytes();
    registry.manifest(repository, tag, OCI_MANIFEST, &bytes);
    descriptor(OCI_MANIFEST, &bytes)
}

/// The same with the platform that an index says: `arm/v7`; `unknown` is what attestations have.
pub fn entry(registry: &Registry, repository: &str, arch: &str) -> Value {
    let (name, variant) = arch.split_once('/').map_or((arch, None), |(name, variant)| (name, Some(variant)));
    let layer = marked(arch);
    let mut entry = image(registry, repository, "unnamed", &config(Some(name), &[&layer]), &[&layer]);
    entry["platform"] = json!({"architecture": name, "os": if arch == "unknown" { "unknown" } else { "linux" }});
    if let Some(variant) = variant {
        entry["platform"]["variant"] = variant.into();
    }
    entry
}

/// Puts an index under a tag and returns its descriptor.
pub fn index(registry: &Registry, repository: &str, tag: &str, entries: Vec<Value>) -> Value {
    let bytes = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).to_string().into_bytes();
    registry.manifest(repository, tag, OCI_INDEX, &bytes);
    descriptor(OCI_INDEX, &bytes)
}
