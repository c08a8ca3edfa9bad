//! What do archives of saved images say: `docker save`, and layouts of the OCI image specification?
//!
//! Which of several images is meant is decided here, too, by their names.

use serde_json::Value;

use super::digest::Digest;
use super::json;
use super::manifest::MAX_LAYERS;
use super::reference::ImageRef;
use crate::error::{Context, Error, Result, bail};

/// The document of a Docker archive.
pub const DOCKER_DOCUMENT: &str = "manifest.json";
/// The documents of a layout.
pub const LAYOUT_INDEX: &str = "index.json";
pub const LAYOUT_MARK: &str = "oci-layout";

/// One image of a Docker archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Where its configuration is in the archive.
    pub config: String,
    /// `NAME:TAG`
    pub tags: Vec<String>,
    /// Where its layers are, lowest first.
    pub layers: Vec<String>,
}

/// Reads `manifest.json`. `None`: it is another program's file of that name.
pub fn parse(bytes: &[u8]) -> Result<Option<Vec<Saved>>> {
    let value = json::parse(bytes).context(|| DOCKER_DOCUMENT)?;
    let Some(list) = value.as_array().filter(|list| list.iter().all(is_image)) else { return Ok(None) };
    list.iter().map(image).collect::<Result<_>>().map(Some).context(|| DOCKER_DOCUMENT)
}

fn is_image(value: &Value) -> bool {
    value.get("Config").is_some() && value.get("Layers").is_some()
}

fn image(value: &Value) -> Result<Saved> {
    let Some(config) = value["Config"].as_str() else { bail!("Config is no name") };
    let saved =
        Saved { config: config.to_owned(), tags: strings(&value["RepoTags"])?, layers: strings(&value["Layers"])? };
    if saved.layers.len() > MAX_LAYERS {
        bail!("{} layers (limit {MAX_LAYERS})", saved.layers.len());
    }
    Ok(saved)
}

/// A list of strings; null is an empty one.
fn strings(value: &Value) -> Result<Vec<String>> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let list = value.as_array().and_then(|list| list.iter().map(text).collect());
    list.ok_or_else(|| Error::new(format!("not a list of strings: {}", json::shown(&value.to_string()))))
}

/// Whether a member of this name may come first in an archive of saved images. Root file systems have none like it.
pub fn is_saved_name(name: &str) -> bool {
    let mut parts = name.split('/').filter(|part| !part.is_empty() && *part != ".");
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    let is_hex = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    match (first, second) {
        (DOCKER_DOCUMENT | LAYOUT_INDEX | LAYOUT_MARK | "repositories" | "blobs", None) | ("blobs", Some("sha256")) => {
            true
        }
        (name, None) => is_hex(name.strip_suffix(".json").or(name.strip_suffix(".tar")).unwrap_or(name)),
        (name, Some(inner)) => is_hex(name) && ["VERSION", "json", "layer.tar"].contains(&inner),
    }
}

/// The digest that a name stands for: `HEX.json`, `HEX.tar`, `blobs/sha256/HEX`; `None` if it stands for none.
pub fn digest_of_name(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next().unwrap_or_default();
    let hex = last.strip_suffix(".json").or(last.strip_suffix(".tar")).unwrap_or(last);
    Digest::from_hex(hex).ok()
}

/// Which image is meant?
#[derive(Clone, Copy)]
pub enum Wish<'w> {
    /// The one of this name or tag; another is an error.
    Named(&'w str),
    /// One that is called like this, if there are several.
    Like(&'w ImageRef),
}

/// The place of the image that is meant, in a list of each image's names. An archive without images is an error.
pub fn pick(images: &[Vec<&str>], wish: Wish) -> Result<usize> {
    let position = |fits: &dyn Fn(&str) -> bool| images.iter().position(|names| names.iter().any(|name| fits(name)));
    if images.is_empty() {
        bail!("there is no image in it");
    }
    match wish {
        Wish::Named(wanted) => {
            let same = |name: &str| name == wanted || is_same(name, wanted) || tag(name) == Some(wanted);
            position(&same).ok_or_else(|| {
                let mut have: Vec<&str> = images.iter().flatten().copied().collect();
                have.dedup();
                let have: Vec<String> = have.into_iter().map(json::shown).collect();
                let hint = if have.is_empty() {
                    "its images have no names".into()
                } else {
                    format!("it has: {}", have.join(" "))
                };
                Error::new(format!("no image of the name {} is in it", json::shown(wanted))).hint(hint)
            })
        }
        Wish::Like(reference) => {
            let wanted = reference.storage_name();
            Ok(position(&|name| is_same(name, &wanted)).unwrap_or(0))
        }
    }
}

/// Whether two names mean the same image.
fn is_same(a: &str, b: &str) -> bool {
    let full = |text: &str| ImageRef::parse_strict(text).map(|name| name.canonical_remote());
    matches!((full(a), full(b)), (Ok(a), Ok(b)) if a == b)
}

/// The tag of a whole name.
fn tag(name: &str) -> Option<&str> {
    name.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents() {
        let saved = |config: &str, tags: &[&str], layers: &[&str]| Saved {
            config: config.into(),
            tags: tags.iter().map(|tag| tag.to_string()).collect(),
            layers: layers.iter().map(|layer| layer.to_string()).collect(),
        };
        let check = |text: &str, want: Option<Vec<Saved>>| assert_eq!(parse(text.as_bytes()).unwrap(), want, "{text}");
        check(
            r#"[{"Config": "c.json", "RepoTags": ["x:1", "y"], "Layers": ["a", "b"], "LayerSources": {}}]"#,
            Some(vec![saved("c.json", &["x:1", "y"], &["a", "b"])]),
        );
        check(r#"[{"Config": "c", "RepoTags": null, "Layers": null}]"#, Some(vec![saved("c", &[], &[])]));
        check("[]", Some(Vec::new()));
        check("{}", None);
        check(r#"{"name": "app"}"#, None);
        check(r#"[{"Config": "c"}]"#, None);
        check("[1]", None);
        let refused = |text: &str, want: &str| {
            let e = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(e.starts_with("manifest.json: ") && e.contains(want), "{text}: {e}");
        };
        refused("[", "invalid JSON");
        refused(r#"[{"Config": 1, "Layers": []}]"#, "Config is no name");
        refused(r#"[{"Config": "c", "Layers": [1]}]"#, "not a list of strings");
        refused(r#"[{"Config": "c", "Layers": "a"}]"#, "not a list of strings");
        refused(&format!(r#"[{{"Config": "c", "Layers": [{}"a"]}}]"#, r#""a","#.repeat(500)), "501 layers");
    }

    #[test]
    fn names_in_archives() {
        let hex = "0123456789abcdef".repeat(4);
        for name in ["manifest.json", "./index.json", "oci-layout", "repositories", "blobs/", "blobs/sha256/x"] {
            assert!(is_saved_name(name), "{name}");
        }
        for form in ["H.json", "./H.tar", "H/", "H/layer.tar", "H/VERSION", "H/json"] {
            assert!(is_saved_name(&form.replace('H', &hex)), "{form}");
        }
        for name in
            ["", "bin/", "etc/passwd", "manifest.json/x", "blobs/x", "x.json", "abc/layer.tar", "usr/index.json"]
        {
            assert!(!is_saved_name(name), "{name}");
        }
        assert!(!is_saved_name(&format!("{hex}/bin")));
        let digest = Digest::from_hex(&hex).unwrap();
        for form in ["H", "H.json", "H.tar", "blobs/sha256/H"] {
            assert_eq!(digest_of_name(&form.replace('H', &hex)), Some(digest), "{form}");
        }
        assert_eq!(digest_of_name("layer.tar"), None);
    }

    #[test]
    fn which_image() {
        let images = vec![vec!["docker.io/library/a:1"], vec!["b:2", "b:latest"], vec![], vec!["3"], vec!["x/c:2"]];
        let named = |name: &str| pick(&images, Wish::Named(name)).ok();
        assert_eq!(
            ["a:1", "docker.io/library/a:1", "1", "b:2", "b", "2", "3", "c", "4"].map(named),
            [Some(0), Some(0), Some(0), Some(1), Some(1), Some(1), Some(3), None, None]
        );
        let like = |name: &str| pick(&images, Wish::Like(&ImageRef::parse(name).unwrap())).unwrap();
        assert_eq!(["a:1", "b", "x/c:2", "other", "b:3"].map(like), [0, 1, 4, 0, 0]);
        assert_eq!(pick(&[], Wish::Named("a")).unwrap_err().to_string(), "there is no image in it");
        let e = pick(&[vec!["a:1"], vec!["b"]], Wish::Named("c\u{1b}")).unwrap_err();
        assert_eq!(e.to_string(), "no image of the name \"c\\u{1b}\" is in it");
        assert_eq!(e.get_hint(), Some("it has: \"a:1\" \"b\""));
    }
}
