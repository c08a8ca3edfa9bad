//! Manifests and indexes of both families (OCI image specification 1.1; Docker image manifest version 2, schema 2).

use serde_json::{Value, json};

use super::arch::Arch;
use super::base64;
use super::digest::Digest;
use super::json;
use crate::error::{Context, Error, Result, bail};

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const OCI_LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Most layers of an image (overlayfs stacks at most 500).
pub const MAX_LAYERS: usize = 500;

/// What a manifest says of a blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// One image: a configuration and its layers, lowest first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    pub media_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// One entry of an index: an image for a platform. Entries for other systems than Linux and attestations are left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub descriptor: Descriptor,
    /// `None` if the index does not say.
    pub arch: Option<Arch>,
    /// What the image is called, in the index of a layout: a whole reference, or only a tag.
    pub name: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Index {
    pub entries: Vec<Entry>,
}

/// What a registry answers when asked for a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Document {
    Index(Index),
    Manifest(Manifest),
}

impl Document {
    /// Reads a document. `content_type` is what the server calls it, if anything; a contradiction is an error
    /// (CVE-2021-41190).
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document> {
        Document::parse_value(&json::parse(bytes)?, content_type).context(|| "invalid manifest")
    }

    fn parse_value(value: &Value, content_type: Option<&str>) -> Result<Document> {
        if value.get("schemaVersion").and_then(Value::as_u64) == Some(1) || value.get("fsLayers").is_some() {
            return Err(Error::new("Docker schema 1 manifests are not supported")
                .hint("push the image again with a tool of this decade, for example: skopeo copy --format v2s2"));
        }
        let has_manifests = value.get("manifests").is_some();
        let has_layers = value.get("layers").is_some() || value.get("config").is_some();
        if has_manifests && has_layers {
            bail!("document is both an index and an image manifest");
        }
        let own = value.get("mediaType").and_then(Value::as_str);
        let claimed = content_type.filter(|t| kind_of(t).is_some());
        if let (Some(own), Some(claimed)) = (own, claimed)
            && kind_of(own) != kind_of(claimed)
        {
            bail!("server says {} but the document says {}", json::shown(claimed), json::shown(own));
        }
        let wanted = if has_manifests { Kind::Index } else { Kind::Manifest };
        if let Some(media_type) = own.or(claimed)
            && kind_of(media_type) != Some(wanted)
        {
            let shown = json::shown(media_type);
            bail!("not a container image, or not in the form that its media type {shown} says");
        }
        if has_manifests {
            return Index::parse(value).map(Document::Index);
        }
        if !has_layers {
            bail!("neither an index nor an image manifest");
        }
        let media_type = own.or(claimed).unwrap_or(OCI_MANIFEST);
        Manifest::parse(value, media_type).map(Document::Manifest)
    }
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Kind {
    Index,
    Manifest,
}

fn kind_of(media_type: &str) -> Option<Kind> {
    match media_type.split(';').next().unwrap_or("").trim() {
        OCI_INDEX | DOCKER_LIST => Some(Kind::Index),
        OCI_MANIFEST | DOCKER_MANIFEST => Some(Kind::Manifest),
        _ => None,
    }
}

impl Index {
    fn parse(value: &Value) -> Result<Index> {
        let Some(list) = value["manifests"].as_array() else { bail!("\"manifests\" is not an array") };
        let mut entries = Vec::new();
        for item in list {
            let platform = &item["platform"];
            let os = platform["os"].as_str();
            // Attestations (SBOM, provenance) say unknown/unknown and carry a reference type.
            if os.is_some_and(|os| os != "linux") || item["annotations"].get("vnd.docker.reference.type").is_some() {
                continue;
            }
            let arch = match platform["architecture"].as_str() {
                Some(name) => Some(Arch::checked(name, platform["variant"].as_str())?),
                None => None,
            };
            // containerd and Docker write the whole name beside the tag.
            let named =
                |key: &str| item["annotations"].get(key).and_then(Value::as_str).filter(|name| !name.is_empty());
            let name = named("io.containerd.image.name").or(named("org.opencontainers.image.ref.name"));
            entries.push(Entry { descriptor: Descriptor::parse(item)?, arch, name: name.map(str::to_owned) });
        }
        Ok(Index { entries })
    }
}

impl Manifest {
    fn parse(value: &Value, media_type: &str) -> Result<Manifest> {
        if !value["config"].is_object() {
            bail!("no configuration");
        }
        let config = Descriptor::parse(&value["config"]).context(|| "config")?;
        let artifact = value["artifactType"].as_str().filter(|t| !t.is_empty());
        if let Some(other) = artifact.or((!is_config(&config.media_type)).then_some(&config.media_type)) {
            let error = Error::new(format!("not a container image but an artifact of type {}", json::shown(other)));
            return Err(error.hint("the tool that it is for can fetch it, such as helm, oras or cosign"));
        }
        let Some(list) = value["layers"].as_array() else { bail!("\"layers\" is not an array") };
        if list.len() > MAX_LAYERS {
            bail!("{} layers (limit {MAX_LAYERS})", list.len());
        }
        let layers: Result<Vec<_>> =
            list.iter().enumerate().map(|(i, item)| parse_layer(item).context(|| format!("layer {}", i + 1))).collect();
        Ok(Manifest { media_type: media_type.to_owned(), config, layers: layers? })
    }

    /// The document as it is pushed.
    pub fn to_json(&self) -> Vec<u8> {
        let descriptor =
            |d: &Descriptor| json!({"mediaType": d.media_type, "size": d.size, "digest": d.digest.to_string()});
        let document = json!({
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": descriptor(&self.config),
            "layers": self.layers.iter().map(descriptor).collect::<Vec<_>>(),
        });
        document.to_string().into_bytes()
    }
}

/// What images use for their configuration. Old tools leave the type out or say nothing with it.
fn is_config(media_type: &str) -> bool {
    let plain = media_type.split(';').next().unwrap_or("").trim();
    matches!(plain, OCI_CONFIG | DOCKER_CONFIG | "application/octet-stream" | "application/json" | "")
}

/// How it is compressed is told by the content, not by the label; whether it is a layer at all, by the label.
fn parse_layer(value: &Value) -> Result<Descriptor> {
    let layer = Descriptor::parse(value)?;
    let name = layer.media_type.as_str();
    let families = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];
    let plain = ["", "application/octet-stream", "application/x-tar", "application/gzip", "application/x-gzip"];
    if !families.iter().any(|f| name.starts_with(f)) && !plain.contains(&name) {
        bail!("not a layer of a container image but of type {}", json::shown(name));
    }
    if name.ends_with("+encrypted") {
        bail!("encrypted layers are not supported");
    }
    Ok(layer)
}

impl Descriptor {
    /// Foreign `urls` are not looked at: a blob comes from its registry or not at all (CVE-2020-15157).
    pub fn parse(value: &Value) -> Result<Descriptor> {
        let Some(digest) = value["digest"].as_str() else { bail!("descriptor without digest") };
        let digest: Digest = digest.parse()?;
        let Some(size) = value["size"].as_u64().filter(|&n| n < 1 << 62) else {
            bail!("descriptor {digest} without valid size: {}", json::shown(&value["size"].to_string()));
        };
        if let Some(data) = value["data"].as_str() {
            let bytes = base64::decode(data).context(|| format!("descriptor {digest}: data"))?;
            if bytes.len() as u64 != size || Digest::of(&bytes) != digest {
                bail!("descriptor {digest}: inline data does not match digest and size");
            }
        }
        let media_type = value["mediaType"].as_str().unwrap_or("").to_owned();
        Ok(Descriptor { media_type, digest, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    /// A descriptor of `hello`.
    fn descriptor(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": DIGEST, "size": 5})
    }

    fn manifest(layers: usize) -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG),
            "layers": vec![descriptor(OCI_LAYER_GZIP); layers],
        })
    }

    fn index(entries: Value) -> Value {
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    }

    /// With the value at a JSON pointer replaced; null removes it.
    fn with(mut document: Value, pointer: &str, value: Value) -> Value {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match document.pointer_mut(parent).unwrap() {
            Value::Object(map) if value.is_null() => drop(map.remove(key)),
            Value::Object(map) => drop(map.insert(key.to_owned(), value)),
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
            other => panic!("{other}"),
        }
        document
    }

    #[track_caller]
    fn refused(document: &Value, content_type: Option<&str>, want: &str) {
        let e = Document::parse(document.to_string().as_bytes(), content_type).unwrap_err().to_string();
        assert!(e.contains(want), "{e}");
        assert!(e.len() < 300, "{e}");
    }

    fn accepted(document: &Value, content_type: Option<&str>) -> Document {
        Document::parse(document.to_string().as_bytes(), content_type).unwrap_or_else(|e| panic!("{e}: {document}"))
    }

    #[test]
    fn both_families() {
        let docker = json!({
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": descriptor(DOCKER_CONFIG),
            "layers": [descriptor(DOCKER_LAYER_GZIP)],
        });
        for document in [manifest(1), docker] {
            for content_type in [None, Some("application/json"), Some("text/plain; charset=utf-8")] {
                let Document::Manifest(manifest) = accepted(&document, content_type) else { panic!("{document}") };
                assert_eq!(manifest.layers.len(), 1);
                assert_eq!(manifest.config.size, 5);
                let again = Document::parse(&manifest.to_json(), None).unwrap();
                assert_eq!(again, Document::Manifest(manifest));
            }
        }
        // M17: parameters of media types.
        accepted(&manifest(1), Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"));
        // OCI allows the type to be absent.
        accepted(&with(manifest(1), "/mediaType", Value::Null), Some(OCI_MANIFEST));
        accepted(&with(manifest(1), "/mediaType", Value::Null), None);
    }

    #[test]
    fn platforms_of_an_index() {
        let entry = |platform: Value| with(descriptor(OCI_MANIFEST), "/platform", platform);
        let attestation = json!({"vnd.docker.reference.type": "attestation-manifest"});
        let document = index(json!([
            entry(json!({"os": "linux", "architecture": "amd64"})),
            entry(json!({"os": "linux", "architecture": "arm", "variant": "v7"})),
            entry(json!({"os": "windows", "architecture": "amd64", "os.version": "10.0"})),
            entry(json!({"os": "unknown", "architecture": "unknown"})),
            with(descriptor(OCI_MANIFEST), "/annotations", attestation),
            descriptor(OCI_INDEX),
        ]));
        let Document::Index(index) = accepted(&document, Some(OCI_INDEX)) else { panic!() };
        let archs: Vec<_> = index.entries.iter().map(|e| e.arch.as_ref().map(Arch::as_str)).collect();
        assert_eq!(archs, [Some("amd64"), Some("arm/v7"), None]);
        assert_eq!(
            index.entries.iter().map(|e| kind_of(&e.descriptor.media_type) == Some(Kind::Index)).collect::<Vec<_>>(),
            [false, false, true]
        );
    }

    /// M05
    #[test]
    fn sizes() {
        for bad in
            [json!(-1), json!(1.5), json!(5.0), json!(1u64 << 63), json!("5"), json!(null), json!([5]), json!(1e300)]
        {
            refused(&with(manifest(1), "/layers/0/size", bad.clone()), None, "layer 1: descriptor");
            refused(&with(manifest(1), "/config/size", bad), None, "config: descriptor");
        }
        refused(&with(manifest(1), "/layers/0/size", json!("x".repeat(100_000))), None, "without valid size");
    }

    /// M06
    #[test]
    fn digests() {
        let hex = &DIGEST[7..];
        for bad in [
            "sha256:../../../x".to_owned(),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}", &hex[1..]),
            "sha256:".to_owned(),
            "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            format!("sha512:{hex}{hex}"),
            "x".repeat(1 << 20),
        ] {
            refused(&with(manifest(1), "/layers/0/digest", json!(bad)), None, "digest");
        }
        refused(&with(manifest(1), "/layers/0/digest", json!(null)), None, "layer 1: descriptor without digest");
        refused(&with(manifest(1), "/layers/0/digest", json!(5)), None, "layer 1: descriptor without digest");
    }

    /// M07, M08
    #[test]
    fn confusion_of_kinds() {
        let both = with(manifest(1), "/manifests", json!([]));
        refused(&both, None, "both an index and an image manifest");
        refused(&with(index(json!([])), "/layers", json!([])), None, "both an index and an image manifest");
        refused(&with(index(json!([])), "/config", json!({})), None, "both an index and an image manifest");
        refused(&manifest(1), Some(OCI_INDEX), "server says");
        refused(&manifest(1), Some(DOCKER_LIST), "server says");
        refused(&index(json!([])), Some(OCI_MANIFEST), "server says");
        refused(&with(manifest(1), "/mediaType", json!(OCI_INDEX)), None, "media type");
        refused(&with(manifest(1), "/mediaType", Value::Null), Some(OCI_INDEX), "media type");
        refused(&with(index(json!([])), "/mediaType", json!(OCI_MANIFEST)), None, "media type");
        refused(&json!({"schemaVersion": 2}), None, "neither an index nor an image manifest");
        refused(&json!([]), None, "neither an index nor an image manifest");
        refused(&json!("x"), None, "neither an index nor an image manifest");
        refused(&with(manifest(1), "/layers", json!({})), None, "not an array");
        refused(&index(json!({})), None, "not an array");
    }

    /// M14, the manifest's part
    #[test]
    fn no_configuration() {
        refused(&with(manifest(1), "/config", Value::Null), None, "no configuration");
        refused(&with(manifest(1), "/config", json!([])), None, "no configuration");
        refused(&with(manifest(1), "/config", json!({})), None, "config: descriptor without digest");
    }

    /// M16
    #[test]
    fn numbers_of_layers() {
        for n in [0, 1, MAX_LAYERS] {
            accepted(&manifest(n), None);
        }
        refused(&manifest(MAX_LAYERS + 1), None, "501 layers (limit 500)");
    }

    /// M17
    #[test]
    fn other_artifacts() {
        let layer = |t: &str| with(manifest(1), "/layers/0/mediaType", json!(t));
        let config = |t: &str| with(manifest(1), "/config/mediaType", json!(t));
        refused(&layer("application/vnd.dev.cosign.simplesigning.v1+json"), None, "cosign.simplesigning");
        refused(&layer("application/vnd.in-toto+json"), None, "in-toto");
        refused(&layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), None, "encrypted");
        refused(&layer(&"x".repeat(100_000)), None, "of type");
        refused(
            &config("application/vnd.cncf.helm.config.v1+json"),
            None,
            "artifact of type \"application/vnd.cncf.helm",
        );
        refused(&with(manifest(0), "/artifactType", json!("text/x-sbom")), None, "artifact of type \"text/x-sbom\"");
        refused(
            &with(manifest(1), "/mediaType", json!("application/vnd.oci.artifact.manifest.v1+json")),
            None,
            "artifact",
        );
        for known in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            DOCKER_LAYER_GZIP,
            "",
        ] {
            accepted(&layer(known), None);
        }
        let old = json!({"schemaVersion": 1, "name": "x", "fsLayers": [{"blobSum": DIGEST}]});
        refused(&old, Some("application/vnd.docker.distribution.manifest.v1+prettyjws"), "schema 1");
    }

    /// M19: they are data, nobody follows them.
    #[test]
    fn foreign_urls_are_ignored() {
        let document = with(manifest(1), "/layers/0/urls", json!(["http://169.254.169.254/latest"]));
        let Document::Manifest(manifest) = accepted(&document, None) else { panic!() };
        assert!(!format!("{manifest:?}").contains("169.254"));
    }

    /// M20
    #[test]
    fn inline_data() {
        accepted(&with(manifest(1), "/config/data", json!("aGVsbG8=")), None);
        refused(&with(manifest(1), "/config/data", json!("aGVsbG8h")), None, "inline data does not match");
        refused(&with(manifest(1), "/layers/0/data", json!("aGVsbGE=")), None, "layer 1: descriptor");
        refused(&with(manifest(1), "/layers/0/data", json!("~")), None, "invalid base64");
    }

    /// M25, the index's part
    #[test]
    fn architectures() {
        for bad in ["a/b", "\x1b[31m", "", &"x".repeat(10_000), "amd64 "] {
            let entry = with(descriptor(OCI_MANIFEST), "/platform", json!({"os": "linux", "architecture": bad}));
            refused(&index(json!([entry])), None, "invalid architecture");
        }
    }
}
