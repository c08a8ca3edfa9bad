//! What does an image say about how it wants to be run? Read from its tree, which is mounted by then.
//!
//! Ours say it in /ch/metadata.json, which has the OCI configuration; see [`foreign`] for those of others.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::foreign::{self, Files, Foreign};
use super::mountpoint;
use crate::error::{Context, Error, Result, bail};

const METADATA: &str = "/ch/metadata.json";

/// Where to begin; `None` if the image does not say.
pub fn working_directory(root: &Path) -> Result<Option<PathBuf>> {
    let metadata = read(root)?;
    let cwd = match metadata {
        Value::Null => start(root)?.cwd,
        _ => metadata.get("cwd").and_then(Value::as_str).map(str::to_owned),
    };
    Ok(cwd.filter(|cwd| !cwd.is_empty()).map(PathBuf::from))
}

/// The variables of its configuration; none if it has none.
pub fn environment(root: &Path) -> Result<Vec<(String, String)>> {
    let metadata = read(root)?;
    let pairs = metadata["config"]["Env"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(pairs.filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// What is put before the words of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entrypoint {
    /// Nothing; without words, the image's own command is run.
    Unsaid,
    /// The image's, as other container tools do. Without words, its CMD comes next.
    OfImage,
    /// A program; the image's CMD is not for it. Nothing if it is empty.
    Program(OsString),
}

/// What to run.
pub fn command(root: &Path, entrypoint: &Entrypoint, words: &[OsString]) -> Result<Vec<OsString>> {
    let program = match entrypoint {
        Entrypoint::Unsaid if !words.is_empty() => None,
        Entrypoint::Unsaid | Entrypoint::OfImage => {
            let metadata = read(root).map_err(|e| e.hint("--entrypoint=PROGRAM does without it"))?;
            return own_command(&own(root, &metadata)?, words);
        }
        Entrypoint::Program(program) => Some(program).filter(|program| !program.is_empty()),
    };
    let all: Vec<OsString> = program.into_iter().chain(words).cloned().collect();
    if all.is_empty() { Err(none("no command given")) } else { Ok(all) }
}

fn none(text: &str) -> Error {
    Error::usage(text).hint("see: ch-run --help")
}

/// The image's ENTRYPOINT and CMD.
#[derive(Debug, Default, PartialEq, Eq)]
struct Own {
    entrypoint: Vec<OsString>,
    cmd: Vec<OsString>,
}

fn own(root: &Path, metadata: &Value) -> Result<Own> {
    let words = |key: &str| {
        let list = metadata["config"][key].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(OsString::from).collect()
    };
    let own = Own { entrypoint: words("Entrypoint"), cmd: words("Cmd") };
    if own != Own::default() {
        return Ok(own);
    }
    Ok(Own { entrypoint: start(root)?.entrypoint.into_iter().map(OsString::from).collect(), ..own })
}

fn own_command(own: &Own, words: &[OsString]) -> Result<Vec<OsString>> {
    let rest = if words.is_empty() { &own.cmd } else { words };
    let all: Vec<OsString> = own.entrypoint.iter().chain(rest).cloned().collect();
    if all.is_empty() { Err(none("no command given, and the image has none of its own")) } else { Ok(all) }
}

/// Nothing (`Value::Null`) if the image has no such file.
fn read(root: &Path) -> Result<Value> {
    let target = mountpoint::locate(root, Path::new(METADATA))?;
    if !target.exists() {
        return Ok(Value::Null);
    }
    let failed = || format!("can't read {METADATA} of the image");
    let text = read_limited(&target.host_path(root)).context(failed)?;
    serde_json::from_slice(&text).map_err(|e| Error::new(e.to_string())).context(failed)
}

/// What the files say that Apptainer or enroot have put into the image.
pub fn foreign(root: &Path) -> Result<Foreign> {
    let all = Files {
        scripts: scripts(root)?,
        labels: text(root, foreign::LABELS)?,
        environment: text(root, foreign::ENVIRONMENT)?,
        ..of_start(root)?
    };
    Ok(Foreign::of(&all))
}

/// The same, but only how it is started.
fn start(root: &Path) -> Result<Foreign> {
    of_start(root).map(|files| Foreign::of(&files))
}

fn of_start(root: &Path) -> Result<Files> {
    let has_runscript = find(root, foreign::RUNSCRIPT).is_some();
    // It is not read where it does not matter.
    let rc = if has_runscript { None } else { text(root, foreign::RC)? };
    Ok(Files { has_runscript, rc, ..Files::default() })
}

/// The scripts of Apptainer's environment, in the order in which it runs them.
fn scripts(root: &Path) -> Result<Option<Vec<String>>> {
    let dir =
        mountpoint::locate(root, Path::new(foreign::SCRIPTS)).ok().filter(|found| found.exists() && found.is_dir());
    let Some(dir) = dir else { return Ok(None) };
    let failed = || format!("can't read {} of the image", foreign::SCRIPTS);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir.host_path(root)).context(failed)? {
        names.push(entry.context(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let scripts = names.iter().filter(|name| name.ends_with(".sh"));
    let texts = scripts.map(|name| text(root, &format!("{}/{name}", foreign::SCRIPTS)));
    Ok(Some(texts.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect()))
}

/// A file of the image; `None` if it has none of that name, or a directory.
fn text(root: &Path, path: &str) -> Result<Option<String>> {
    let Some(file) = find(root, path) else { return Ok(None) };
    let bytes = read_limited(&file).context(|| format!("can't read {path} of the image"))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Where it is on the host.
fn find(root: &Path, path: &str) -> Option<PathBuf> {
    let found = mountpoint::locate(root, Path::new(path)).ok().filter(|found| found.exists() && !found.is_dir());
    found.map(|found| found.host_path(root))
}

/// A regular file that is not larger than 1 MiB. (What a FIFO is in an image nobody would ever write to.)
pub fn read_limited(path: &Path) -> Result<Vec<u8>> {
    const LIMIT: u64 = 1 << 20;
    let mut text = Vec::new();
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        bail!("not a regular file");
    }
    file.take(LIMIT + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LIMIT {
        bail!("larger than 1 MiB");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entrypoints_and_words() {
        let dir = std::env::temp_dir();
        let check = |config: Value, entrypoint: Entrypoint, words: &[&str], want: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let own = own(&dir, &json!({ "config": config })).unwrap();
            let got = match entrypoint {
                Entrypoint::Program(_) => command(&dir, &entrypoint, &words),
                Entrypoint::Unsaid if !words.is_empty() => command(&dir, &entrypoint, &words),
                Entrypoint::Unsaid | Entrypoint::OfImage => own_command(&own, &words),
            };
            assert_eq!(got.unwrap_or_default(), want, "{config} {entrypoint:?} {words:?}");
        };
        let both = || json!({"Entrypoint": ["/e", "x"], "Cmd": ["a", "b"]});
        use Entrypoint::{OfImage, Program, Unsaid};
        check(both(), Unsaid, &[], &["/e", "x", "a", "b"]);
        check(both(), Unsaid, &["c"], &["c"]);
        check(both(), OfImage, &[], &["/e", "x", "a", "b"]);
        check(both(), OfImage, &["c"], &["/e", "x", "c"]);
        check(both(), Program("p".into()), &[], &["p"]);
        check(both(), Program("p".into()), &["c"], &["p", "c"]);
        check(both(), Program("".into()), &["c"], &["c"]);
        check(both(), Program("".into()), &[], &[]);
        check(json!({}), Unsaid, &[], &[]);
        check(json!({"Cmd": ["a", "b"]}), Unsaid, &[], &["a", "b"]);
        check(json!({"Cmd": ["a", "b"]}), OfImage, &["c"], &["c"]);
        check(json!({"Entrypoint": null, "Cmd": "x"}), Unsaid, &[], &[]);
        assert_eq!(own(&dir, &Value::Null).unwrap(), Own::default());
    }
}
