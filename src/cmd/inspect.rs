//! `inspect`, `history`: all that is known about an image in storage; nobody else is asked.

use serde_json::{Value, json};

use super::list::{self, age, bytes};
use super::{Host, print, similar};
use crate::cli::Options;
use crate::error::{Error, Result};
use crate::image::owners::{self, Which};
use crate::log::escape;
use crate::oci::reference::ImageRef;
use crate::oci::size::total;
use crate::storage::{Access, Image, LayerKind, Storage};

/// The image and its storage.
fn find(host: &Host, image: &str) -> Result<(Storage, Image)> {
    let reference = ImageRef::parse(image)?;
    let missing = || Error::new(format!("{reference} image not found"));
    let storage =
        host.existing_storage(Access::Read)?.ok_or_else(|| missing().hint("ch-image list shows what there is"))?;
    let image = storage.image(&reference)?.ok_or_else(|| missing().hint(similar::hint(&storage, &reference)))?;
    Ok((storage, image))
}

pub fn inspect(host: &Host, options: &Options, image: &str) -> Result<()> {
    let (storage, image) = find(host, image)?;
    let document = document(&storage, &image);
    if let Some(field) = &options.field {
        return print(&format!("{}\n", plain(select(&document, field)?)));
    }
    if options.json {
        return print(&format!("{document:#}\n"));
    }
    let mut text = String::new();
    let mut line = |label: &str, value: &str| text.push_str(&format!("{:14}{}\n", format!("{label}:"), escape(value)));
    let top = |key: &str| plain(&document[key]);
    for (label, key) in [("name", "name"), ("architecture", "arch"), ("base", "base"), ("digest", "digest")] {
        line(label, &top(key));
    }
    line("size", &bytes(document["size"].as_u64().unwrap_or(0)));
    line("age", &age(list::seconds_since(image.made)));
    line("ownership", &top("ownership"));
    if let Some(config) = document["config"].as_object() {
        for (key, value) in config {
            match value {
                Value::Array(list) if key == "Env" => list.iter().for_each(|item| line(key, &plain(item))),
                Value::Null => {}
                Value::Object(map) if map.is_empty() => {}
                Value::String(text) if text.is_empty() => {}
                _ => line(key, &plain(value)),
            }
        }
    }
    text.push_str("layers, topmost first:\n");
    text.push_str(&layers(&document));
    print(&text)
}

pub fn history(host: &Host, options: &Options, image: &str) -> Result<()> {
    let (storage, image) = find(host, image)?;
    let document = document(&storage, &image);
    if options.json {
        return print(&format!("{:#}\n", document["layers"]));
    }
    print(&layers(&document))
}

/// A line for each layer, topmost first: name, size, what made it.
fn layers(document: &Value) -> String {
    let all = document["layers"].as_array().cloned().unwrap_or_default();
    let line = |layer: &Value| {
        let id: String = plain(&layer["id"]).chars().take(12).collect();
        let size = bytes(layer["size"].as_u64().unwrap_or(0));
        format!("  {id}  {size:>10}  {}\n", escape(&plain(&layer["created_by"])))
    };
    all.iter().rev().map(line).collect()
}

fn document(storage: &Storage, image: &Image) -> Value {
    let infos: Vec<_> = image.layers.iter().map(|id| (id, storage.layer_info(id).ok())).collect();
    let kind = |kind: LayerKind| match kind {
        LayerKind::Base => "base",
        LayerKind::Step => "step",
        LayerKind::Meta => "metadata",
        LayerKind::Tree => "tree",
        LayerKind::Whole => "whole",
    };
    let layers: Vec<Value> = infos
        .iter()
        .map(|(id, info)| {
            json!({
                "id": id.to_string(),
                "kind": info.as_ref().map(|info| kind(info.kind)),
                "size": info.as_ref().map(|info| info.size),
                "created_by": info.as_ref().map(|info| info.created_by.clone()),
            })
        })
        .collect();
    let ledger = owners::of(storage, &image.layers, Which::All).ok().flatten();
    let is_recorded = ledger.is_some_and(|ledger| !ledger.is_empty());
    let source = image.source.as_ref();
    json!({
        "name": image.reference.storage_name(),
        "arch": image.config.arch().map(|arch| arch.as_str().to_owned()),
        "base": image.base.clone().or(source.map(|source| source.reference.clone())),
        "digest": source.map(|source| source.top.to_string()),
        "manifest": source.map(|source| source.manifest.to_string()),
        "made": image.made,
        "size": total(infos.iter().map(|(_, info)| info.as_ref().map_or(0, |info| info.size))),
        "ownership": if is_recorded { "recorded" } else { "all root:root" },
        "config": image.config.get("config").cloned().unwrap_or_else(|| json!({})),
        "layers": layers,
    })
}

/// A field by its path (`config.Env`), also in Docker's braces (`{{.Config.Env}}`); upper and lower case are the same.
fn select<'v>(document: &'v Value, field: &str) -> Result<&'v Value> {
    let path = field.trim().trim_start_matches("{{").trim_end_matches("}}").trim().trim_start_matches("json ").trim();
    let mut value = document;
    for word in path.split('.').filter(|word| !word.is_empty()) {
        let key = |map: &'v serde_json::Map<String, Value>| {
            map.iter().find(|(key, _)| key.eq_ignore_ascii_case(word)).map(|(_, value)| value)
        };
        let found = match value {
            Value::Object(map) => key(map),
            Value::Array(list) => word.parse().ok().and_then(|at: usize| list.get(at)),
            _ => None,
        };
        value = found.ok_or_else(|| {
            let keys: Vec<&str> =
                value.as_object().into_iter().flat_map(|map| map.keys()).map(String::as_str).collect();
            Error::usage(format!("--format: no field {} in it", escape(word)))
                .hint(format!("fields: {}", keys.join(" ")))
        })?;
    }
    Ok(value)
}

/// As a shell wants it: text without quotes, nothing as `-`, the rest as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let document = json!({"name": "a", "config": {"Env": ["A=b"], "Cmd": null}, "size": 3});
        let check = |field: &str, want: &str| assert_eq!(plain(select(&document, field).unwrap()), want, "{field}");
        check("name", "a");
        check("{{.Name}}", "a");
        check("{{ .Config.Env }}", "[\"A=b\"]");
        check("{{json .Config.Env}}", "[\"A=b\"]");
        check("config.env.0", "A=b");
        check("config.cmd", "-");
        check("size", "3");
        let e = select(&document, "config.nix").unwrap_err();
        assert_eq!((e.to_string().as_str(), e.get_hint()), ("--format: no field nix in it", Some("fields: Cmd Env")));
    }
}
