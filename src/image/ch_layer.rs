//! What every image has besides its layers (manual page: "Pull"; F5): mount points, `/ch/environment`,
//! `/ch/metadata.json`, the directories of VOLUME.
//!
//! It is made as a tar archive and goes the way of every layer, so that odd trees (`/etc` a symbolic link) are handled
//! in one place.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Context, Result};
use crate::log::verbose;
use crate::oci::config::Config;
use crate::rootfs::{Last, Stack};
use crate::sys::file::{Kind, Time};

const DIRECTORIES: [&str; 20] = [
    "bin", "dev", "etc", "home", "mnt", "proc", "sys", "tmp", "usr", "mnt/0", "mnt/1", "mnt/2", "mnt/3", "mnt/4",
    "mnt/5", "mnt/6", "mnt/7", "mnt/8", "mnt/9", "ch",
];
const EMPTY_FILES: [&str; 2] = ["etc/hosts", "etc/resolv.conf"];
/// Seconds since 1970, by which it is known again; nothing that others make is likely to have it.
const GIVEN_TIME: u64 = 1;
const ENVIRONMENT: &str = "ch/environment";
pub const METADATA: &str = "ch/metadata.json";

/// A tar archive of what the image lacks. `has` says whether a path (relative to the root) is there, whatever it is.
pub fn archive(config: &Config, has: &dyn Fn(&Path) -> bool) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let failed = || "can't make metadata";
    let mut made: HashSet<PathBuf> = HashSet::new();
    let volumes = config.run_keys("Volumes").into_iter().filter_map(|v| inside(&v));
    for path in DIRECTORIES.into_iter().map(PathBuf::from).chain(volumes) {
        if made.contains(&path) || has(&path) {
            continue;
        }
        let mut header = header(0, if path == Path::new("tmp") { 0o1777 } else { 0o755 });
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, &path, std::io::empty()).context(failed)?;
        made.insert(path);
    }
    let metadata = metadata(config);
    let environment = environment(config);
    let empty = EMPTY_FILES.into_iter().filter(|p| !has(Path::new(p))).map(|p| (p, ""));
    for (path, content) in empty.chain([(ENVIRONMENT, environment.as_str()), (METADATA, metadata.as_str())]) {
        tar.append_data(&mut header(content.len(), 0o644), path, content.as_bytes()).context(failed)?;
    }
    tar.into_inner().context(failed)
}

fn header(size: usize, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_mtime(GIVEN_TIME);
    header
}

/// A path of a VOLUME, relative to the root; `..` cannot climb out. In an archive, some names would be whiteouts.
fn inside(volume: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in Path::new(volume).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let hides = path.iter().any(|name| name.as_bytes().starts_with(b".wh."));
    (!path.as_os_str().is_empty() && !hides).then_some(path)
}

/// What [`archive`] put into a whole tree and nothing else was added to, relative to the root: told by its time.
pub fn given(tree: &Stack) -> Result<Vec<PathBuf>> {
    let time = Time { sec: GIVEN_TIME as i64, nsec: 0 };
    let kind = |path: &Path| {
        let stat = tree.lookup(path, Last::Keep).ok().flatten().map(|entry| entry.stat);
        // A later configuration went into the same directory.
        stat.filter(|stat| stat.mtime == time || path == Path::new("ch")).map(|stat| stat.kind)
    };
    // What lies in others comes before them.
    let all = EMPTY_FILES.into_iter().chain([ENVIRONMENT, METADATA]).chain(DIRECTORIES.into_iter().rev());
    let mut given: Vec<PathBuf> = Vec::new();
    for path in all.map(Path::new) {
        let is_ours = match kind(path) {
            Some(Kind::Dir) => tree.names(path)?.iter().all(|name| given.contains(&path.join(name))),
            Some(Kind::File) => true,
            Some(Kind::Symlink | Kind::Whiteout | Kind::Special) | None => false,
        };
        if is_ours {
            given.push(path.to_owned());
        }
    }
    Ok(given)
}

/// Sorted `K=V` lines. A value with a line break would add lines, so it is left out.
fn environment(config: &Config) -> String {
    let sorted: BTreeMap<String, String> = config.env().into_iter().collect();
    let mut text = String::new();
    for (key, value) in sorted {
        if key.contains('\n') || value.contains('\n') {
            verbose!("not in /ch/environment, since it has a line break: {}", crate::log::escape(&key));
            continue;
        }
        text.push_str(&format!("{key}={value}\n"));
    }
    if text.is_empty() { "\n".to_owned() } else { text }
}

/// As the original writes it (JSON, indented, keys sorted), and the whole configuration under `config`, so that an
/// exported image comes back as it was.
fn metadata(config: &Config) -> String {
    let shell = config.run_list("Shell");
    let shell = if shell.is_empty() { vec!["/bin/sh".to_owned(), "-c".to_owned()] } else { shell };
    let value = json!({
        "arch": config.arch().map(|a| a.as_str().to_owned()),
        "cwd": config.working_dir(),
        "env": config.env().into_iter().map(|(k, v)| (k, v.into())).collect::<Map<String, Value>>(),
        "labels": config.run("Labels").cloned().unwrap_or(json!({})),
        "shell": shell,
        "volumes": config.run_keys("Volumes"),
        "config": config.get("config").cloned().unwrap_or(json!({})),
    });
    let mut text = serde_json::to_string_pretty(&value).unwrap_or_default();
    text.push('\n');
    text
}

/// Configuration of an imported image from its `/ch/metadata.json`.
pub fn restore(bytes: &[u8]) -> Result<Config> {
    let read = || -> Result<Config> {
        let config = configuration(&crate::oci::json::parse(bytes)?);
        config.check()?;
        Ok(config)
    };
    read().context(|| format!("/{METADATA}"))
}

fn configuration(value: &Value) -> Config {
    let mut config = Config::default();
    if let Some(arch) = value["arch"].as_str() {
        config.set_arch(&crate::oci::arch::Arch::new(arch));
    }
    if let Some(inner) = value["config"].as_object() {
        config.set("config", Value::Object(inner.clone()));
        return config;
    }
    if let Some(env) = value["env"].as_object() {
        let pairs: Vec<(String, String)> =
            env.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect();
        config.set_env(&pairs);
    }
    if let Some(cwd) = value["cwd"].as_str().filter(|c| *c != "/") {
        config.set_run("WorkingDir", cwd.into());
    }
    if let Some(labels) = value["labels"].as_object().filter(|l| !l.is_empty()) {
        config.set_run("Labels", Value::Object(labels.clone()));
    }
    if let Some(shell) = value["shell"].as_array() {
        config.set_run("Shell", Value::Array(shell.clone()));
    }
    if let Some(volumes) = value["volumes"].as_array().filter(|v| !v.is_empty()) {
        let keys = volumes.iter().filter_map(|v| Some((v.as_str()?.to_owned(), json!({})))).collect();
        config.set_run("Volumes", Value::Object(keys));
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(archive: Vec<u8>) -> Vec<String> {
        let mut tar = tar::Archive::new(&archive[..]);
        tar.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn only_what_is_missing() {
        let mut config = Config::default();
        config.set_run("Volumes", json!({"/data": {}, "../../../../tmp/x": {}, "/.wh.bin": {}, "/a/.wh..wh..opq": {}}));
        let all = names(archive(&config, &|_| false).unwrap());
        for want in ["dev", "mnt/9", "ch", "data", "tmp/x", "etc/resolv.conf", "ch/environment", "ch/metadata.json"] {
            assert!(all.iter().any(|n| n == want), "{want}: {all:?}");
        }
        assert!(!all.iter().any(|n| n.contains(".wh.")), "{all:?}");
        assert_eq!(names(archive(&config, &|_| true).unwrap()), ["ch/environment", "ch/metadata.json"]);
    }

    /// What is quadratic takes minutes.
    #[test]
    fn many_volumes_take_no_time() {
        let volumes: Map<String, Value> = (0..20_000).map(|n| (format!("/volumes/{n}"), json!({}))).collect();
        let mut config = Config::default();
        config.set_run("Volumes", Value::Object(volumes));
        let start = crate::sys::time::of_this_thread();
        assert!(archive(&config, &|_| false).unwrap().len() > 20_000 * 512);
        let took = crate::sys::time::of_this_thread() - start;
        assert!(took.as_secs() < 10, "{took:?}");
    }

    #[test]
    fn metadata_comes_back() {
        let mut config = Config::default();
        config.set_env(&[("B".into(), "2".into()), ("A".into(), "x\ny".into())]);
        config.set_run("WorkingDir", "/w".into());
        config.set_run("Cmd", json!(["a"]));
        assert_eq!(environment(&config), "B=2\n");
        assert_eq!(environment(&Config::default()), "\n");
        assert_eq!(restore(metadata(&config).as_bytes()).unwrap(), config);
        let original = br#"{"arch": "amd64", "cwd": "/w", "env": {"A": "1"}, "labels": {}, "shell": ["/bin/sh", "-c"], "volumes": ["/v"]}"#;
        let restored = restore(original).unwrap();
        assert_eq!((restored.working_dir(), restored.run_keys("Volumes")), ("/w", vec!["/v".to_owned()]));
        assert_eq!(restored.env(), [("A".to_owned(), "1".to_owned())]);
        assert_eq!(restored.arch().unwrap().as_str(), "amd64");
        for bad in [
            r#"{"config": {"Env": ["A=\u0000"]}}"#,
            r#"{"config": {"Env": [1]}}"#,
            r#"{"env": {"A": "\u0000"}}"#,
            r#"{"arch": "\u001b[31m"}"#,
        ] {
            assert!(restore(bad.as_bytes()).unwrap_err().to_string().starts_with("/ch/metadata.json: "), "{bad}");
        }
    }
}
