//! What does a CDI file say? JSON or YAML → [`Document`] (Container Device Interface, SPEC.md, versions 0.x and 1.x).
//!
//! What a later version adds is not known, and not in the way.

use serde_json::Value;

use super::hook::hook;
use super::{Edits, Mount, Node, yaml};
use crate::error::{Context, Error, Result, bail};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// `vendor/class`, such as `nvidia.com/gpu`.
    pub kind: String,
    /// With every device of this document.
    pub edits: Edits,
    pub devices: Vec<Device>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    pub edits: Edits,
}

/// How it is written, which the name of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
}

impl Format {
    /// `None` if a file of such a name is no CDI file.
    pub fn of(name: &str) -> Option<Format> {
        match name.rsplit_once('.') {
            Some((_, "json")) => Some(Format::Json),
            Some((_, "yaml")) => Some(Format::Yaml),
            Some(_) | None => None,
        }
    }
}

pub fn parse(bytes: &[u8], format: Format) -> Result<Document> {
    let value = match format {
        Format::Json => serde_json::from_slice(bytes).map_err(|e| Error::new(e.to_string()))?,
        Format::Yaml => yaml::parse(str::from_utf8(bytes).map_err(|_| Error::new("not UTF-8"))?)?,
    };
    if !value.is_object() {
        bail!("not a CDI file: no mapping of names to values");
    }
    match text(&value, "cdiVersion")? {
        Some(version) if version.starts_with("0.") || version.starts_with("1.") => {}
        Some(version) => bail!("cdiVersion: {version:?} is not known"),
        None => bail!("not a CDI file: no cdiVersion"),
    }
    let kind = text(&value, "kind")?.ok_or_else(|| Error::new("kind: missing"))?;
    if !is_kind(kind) {
        bail!("kind: not of the form vendor/class: {kind:?}");
    }
    let mut devices: Vec<Device> = Vec::new();
    for (i, device) in list(&value, "devices")?.iter().enumerate() {
        let place = || format!("devices[{i}]");
        let name = text(device, "name").context(place)?.ok_or_else(|| Error::new("name: missing").context(place()))?;
        if !is_name(name) {
            return Err(Error::new(format!("not a name of a device: {name:?}")).context(place()));
        }
        if devices.iter().any(|earlier| earlier.name == name) {
            return Err(Error::new(format!("{name:?} is there twice")).context(place()));
        }
        devices.push(Device { name: name.to_owned(), edits: edits(device).context(place)? });
    }
    Ok(Document { kind: kind.to_owned(), edits: edits(&value)?, devices })
}

/// `vendor/class`, both of letters, digits, `_`, `-`, the vendor with `.`, too.
pub fn is_kind(text: &str) -> bool {
    let is_word = |word: &str, more: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    text.split_once('/').is_some_and(|(vendor, class)| is_word(vendor, "_-.") && is_word(class, "_-"))
}

/// Letters, digits, and `_`, `-`, `.`, `:` within.
pub fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(is_plain) && text.ends_with(is_plain) && text.chars().all(|c| is_plain(c) || "_-.:".contains(c))
}

fn edits(owner: &Value) -> Result<Edits> {
    let Some(value) = owner.get("containerEdits").filter(|value| !value.is_null()) else {
        return Ok(Edits::default());
    };
    read_edits(value).context(|| "containerEdits")
}

fn read_edits(value: &Value) -> Result<Edits> {
    if !value.is_object() {
        bail!("no mapping of names to values");
    }
    let mut edits = Edits::default();
    for (i, node) in list(value, "deviceNodes")?.iter().enumerate() {
        edits.nodes.push(read_node(node).context(|| format!("deviceNodes[{i}]"))?);
    }
    for (i, mount) in list(value, "mounts")?.iter().enumerate() {
        match read_mount(mount).context(|| format!("mounts[{i}]"))? {
            Some(mount) => edits.mounts.push(mount),
            None => edits.ignored.push("mounts that bind nothing of the host".to_owned()),
        }
    }
    for variable in strings(value, "env")? {
        match variable.split_once('=') {
            Some((name, value)) if !name.is_empty() => edits.env.push((name.to_owned(), value.to_owned())),
            Some(_) | None => bail!("env: not NAME=VALUE: {variable:?}"),
        }
    }
    for (i, one) in list(value, "hooks")?.iter().enumerate() {
        let place = || format!("hooks[{i}]");
        let path = text(one, "path").context(place)?.unwrap_or_default();
        edits.hooks.push(hook(path, &strings(one, "args").context(place)?));
    }
    for name in ["intelRdt", "netDevices"] {
        if value.get(name).is_some_and(|value| !value.is_null()) {
            edits.ignored.push(name.to_owned());
        }
    }
    Ok(edits)
}

fn read_node(value: &Value) -> Result<Node> {
    let path = path(value, "path")?.ok_or_else(|| Error::new("path: missing"))?;
    Ok(Node { host: self::path(value, "hostPath")?.unwrap_or_else(|| path.clone()), path })
}

/// `None` for what is no bind.
fn read_mount(value: &Value) -> Result<Option<Mount>> {
    let options = strings(value, "options")?;
    if !matches!(text(value, "type")?, None | Some("" | "none" | "bind")) {
        return Ok(None);
    }
    let required = |name: &str| path(value, name)?.ok_or_else(|| Error::new(format!("{name}: missing")));
    let read_only = options.iter().any(|option| option == "ro");
    Ok(Some(Mount { host: required("hostPath")?, path: required("containerPath")?, read_only }))
}

fn path(value: &Value, name: &str) -> Result<Option<String>> {
    let Some(text) = text(value, name)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    if !text.starts_with('/') || text.contains('\0') {
        bail!("{name}: not an absolute path: {text:?}");
    }
    Ok(Some(text.to_owned()))
}

fn text<'a>(value: &'a Value, name: &str) -> Result<Option<&'a str>> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => bail!("{name}: not text"),
    }
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a [Value]> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => bail!("{name}: not a list"),
    }
}

fn strings(value: &Value, name: &str) -> Result<Vec<String>> {
    let items = list(value, name)?.iter().map(|item| match item {
        Value::String(text) => Ok(text.clone()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            bail!("{name}: not a list of texts")
        }
    });
    items.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::hook::{Hook, Link};

    #[test]
    fn both_formats_say_the_same() {
        let json = r#"{
            "cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "annotations": {},
            "devices": [{"name": "0", "containerEdits": {"deviceNodes": [
                {"path": "/dev/nvidia0", "major": 195, "permissions": "rw"},
                {"path": "/dev/b", "hostPath": "/dev/a"}]}}, {"name": "GPU-1a:2"}],
            "containerEdits": {
                "env": ["NVIDIA_VISIBLE_DEVICES=void", "E="],
                "mounts": [{"hostPath": "/l", "containerPath": "/m", "options": ["ro", "nosuid"]},
                    {"hostPath": "/w", "containerPath": "/w"}, {"type": "tmpfs", "containerPath": "/t", "hostPath": "x"}],
                "hooks": [{"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook",
                    "args": ["nvidia-cdi-hook", "create-symlinks", "--link", "l.1::/m/l"]}],
                "intelRdt": {"closID": "x"}}}"#;
        let yaml = "---\ncdiVersion: 0.6.0\nkind: nvidia.com/gpu\nannotations: {}\n\
            devices:\n- containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n      major: 195\n      permissions: rw\n    - path: /dev/b\n      hostPath: /dev/a\n  name: \"0\"\n- name: GPU-1a:2\n\
            containerEdits:\n  env:\n  - NVIDIA_VISIBLE_DEVICES=void\n  - E=\n  mounts:\n  - hostPath: /l\n    containerPath: /m\n    options:\n    - ro\n    - nosuid\n  - hostPath: /w\n    containerPath: /w\n  - type: tmpfs\n    hostPath: x\n    containerPath: /t\n\
            \x20 hooks:\n  - hookName: createContainer\n    path: /usr/bin/nvidia-cdi-hook\n    args:\n    - nvidia-cdi-hook\n    - create-symlinks\n    - --link\n    - l.1::/m/l\n  intelRdt:\n    closID: x\n";
        let node = |host: &str, path: &str| Node { host: host.into(), path: path.into() };
        let mount = |host: &str, path: &str, read_only| Mount { host: host.into(), path: path.into(), read_only };
        let zero =
            Edits { nodes: vec![node("/dev/nvidia0", "/dev/nvidia0"), node("/dev/a", "/dev/b")], ..Edits::default() };
        let want = Document {
            kind: "nvidia.com/gpu".into(),
            edits: Edits {
                mounts: vec![mount("/l", "/m", true), mount("/w", "/w", false)],
                env: vec![("NVIDIA_VISIBLE_DEVICES".into(), "void".into()), ("E".into(), String::new())],
                hooks: vec![Hook::Links(vec![Link { to: "l.1".into(), path: "/m/l".into() }])],
                ignored: vec!["mounts that bind nothing of the host".into(), "intelRdt".into()],
                ..Edits::default()
            },
            devices: vec![
                Device { name: "0".into(), edits: zero },
                Device { name: "GPU-1a:2".into(), edits: Edits::default() },
            ],
        };
        assert_eq!(parse(json.as_bytes(), Format::Json).unwrap(), want);
        assert_eq!(parse(yaml.as_bytes(), Format::Yaml).unwrap(), want);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let check = |text: &str, want: &str| {
            assert_eq!(parse(text.as_bytes(), Format::Yaml).unwrap_err().to_string(), want, "{text}");
        };
        let begin = "cdiVersion: 1.0.0\nkind: a.b/c\n";
        let with = |rest: &str| format!("{begin}{rest}");
        check("", "not a CDI file: no mapping of names to values");
        check("kind: a/b", "not a CDI file: no cdiVersion");
        check("cdiVersion: 2.0.0", "cdiVersion: \"2.0.0\" is not known");
        check("cdiVersion: 0.5.0", "kind: missing");
        check("cdiVersion: 0.5.0\nkind: gpu", "kind: not of the form vendor/class: \"gpu\"");
        check("cdiVersion: 0.5.0\nkind: ../x", "kind: not of the form vendor/class: \"../x\"");
        check(&with("devices: x"), "devices: not a list");
        check(&with("devices:\n- x"), "devices[0]: name: missing");
        check(&with("devices:\n- name: a\n- name: -b"), "devices[1]: not a name of a device: \"-b\"");
        check(&with("devices:\n- name: a\n- name: a"), "devices[1]: \"a\" is there twice");
        check(&with("containerEdits: x"), "containerEdits: no mapping of names to values");
        check(&with("containerEdits:\n  env:\n  - x"), "containerEdits: env: not NAME=VALUE: \"x\"");
        check(&with("containerEdits:\n  env:\n  - =x"), "containerEdits: env: not NAME=VALUE: \"=x\"");
        check(
            &with("devices:\n- name: a\n  containerEdits:\n    deviceNodes:\n    - path: dev"),
            "devices[0]: containerEdits: deviceNodes[0]: path: not an absolute path: \"dev\"",
        );
        check(
            &with("containerEdits:\n  mounts:\n  - hostPath: /x"),
            "containerEdits: mounts[0]: containerPath: missing",
        );
        check(&with("containerEdits:\n  hooks:\n  - args: x"), "containerEdits: hooks[0]: args: not a list");
        let json = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        assert_eq!(
            parse(json.as_bytes(), Format::Json).unwrap_err().to_string(),
            "recursion limit exceeded at line 1 column 128"
        );
        assert_eq!(parse(b"\xff", Format::Yaml).unwrap_err().to_string(), "not UTF-8");
    }

    #[test]
    fn names_of_files() {
        let check = |name: &str, want: Option<Format>| assert_eq!(Format::of(name), want, "{name}");
        check("nvidia.yaml", Some(Format::Yaml));
        check("a.b.json", Some(Format::Json));
        check("nvidia.yaml~", None);
        check("json", None);
        check("x.yml", None);
    }
}
