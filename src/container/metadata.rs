//! What does an image say about how it wants to be run? Read from its tree, which is mounted by then.
//!
//! Ours say it in /ch/metadata.json, which has the OCI configuration. Those of Apptainer have a program that runs the
//! image's command, those of enroot a shell script.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::mountpoint;
use crate::error::{Context, Error, Result, bail};

const METADATA: &str = "/ch/metadata.json";
const RUNSCRIPT: &str = "/.singularity.d/runscript";
const SCRIPTS: &str = "/.singularity.d/env";
const RC: &str = "/etc/rc";
const ENVIRONMENT: &str = "/etc/environment";

/// Where to begin; `None` if the image does not say.
pub fn working_directory(root: &Path) -> Result<Option<PathBuf>> {
    let metadata = read(root)?;
    Ok(metadata.get("cwd").and_then(Value::as_str).filter(|cwd| !cwd.is_empty()).map(PathBuf::from))
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
            return own_command(&own(root, &metadata), words);
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

fn own(root: &Path, metadata: &Value) -> Own {
    let words = |key: &str| {
        let list = metadata["config"][key].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(OsString::from).collect()
    };
    let own = Own { entrypoint: words("Entrypoint"), cmd: words("Cmd") };
    let has =
        |path: &str| mountpoint::locate(root, Path::new(path)).is_ok_and(|found| found.exists() && !found.is_dir());
    if own != Own::default() {
        own
    } else if has(RUNSCRIPT) {
        Own { entrypoint: vec![RUNSCRIPT.into()], ..own }
    } else if has(RC) {
        Own { entrypoint: vec!["/bin/sh".into(), RC.into()], ..own }
    } else {
        own
    }
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

/// Assignments `NAME=VALUE` of an image that has no /ch/environment: what the scripts of Apptainer's images export, or
/// /etc/environment, where enroot has them. `None` if it has neither.
pub fn foreign_environment(root: &Path) -> Result<Option<Vec<String>>> {
    let there = |path: &str| mountpoint::locate(root, Path::new(path)).ok().filter(|found| found.exists());
    let Some(scripts) = there(SCRIPTS).filter(|found| found.is_dir()) else {
        return there(ENVIRONMENT)
            .map(|_| read_inside(root, Path::new(ENVIRONMENT)).map(|text| assigned(&text)))
            .transpose();
    };
    let names = fs::read_dir(scripts.host_path(root)).context(|| format!("can't read {SCRIPTS} of the image"))?;
    let mut names: Vec<OsString> = names.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    let mut all = Vec::new();
    for name in names.iter().filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "sh")) {
        all.extend(exported(&read_inside(root, &Path::new(SCRIPTS).join(name))?));
    }
    Ok(Some(all))
}

/// The lines of a file as pam_env(8) reads it: `NAME=VALUE`, perhaps with `export`, quotes and comments.
fn assigned(text: &str) -> Vec<String> {
    let assignment = |line: &str| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let unquoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
        is_name.then(|| format!("{name}={unquoted}"))
    };
    text.lines().filter_map(assignment).collect()
}

fn read_inside(root: &Path, path: &Path) -> Result<String> {
    let failed = || format!("can't read {} of the image", path.display());
    let text = read_limited(&mountpoint::locate(root, path)?.host_path(root)).context(failed)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What the lines `export NAME=VALUE` of a script say. Only plain values and defaults (`${NAME:-"VALUE"}`): it is not run.
fn exported(script: &str) -> Vec<String> {
    let assignment = |line: &str| -> Option<String> {
        let (name, value) = line.trim().strip_prefix("export ")?.split_once('=')?;
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let quoted = |text: &str| text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).map(str::to_owned);
        let value = quoted(value).unwrap_or_else(|| value.to_owned());
        let default = value.strip_prefix(&format!("${{{name}:-")).and_then(|rest| rest.strip_suffix('}'));
        let value = default.map_or(value.clone(), |default| quoted(default).unwrap_or_else(|| default.to_owned()));
        let is_plain =
            !value.contains(['`', '(', '{']) && (value.starts_with('\'') || !value.contains(['"', ';', '&']));
        (is_name && is_plain).then(|| format!("{name}={value}"))
    };
    script.lines().filter_map(assignment).collect()
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
    fn exports_are_read_from_scripts() {
        let check = |line: &str, want: &[&str]| assert_eq!(exported(line), want, "{line}");
        check("export PATH=\"/usr/bin:/bin\"", &["PATH=/usr/bin:/bin"]);
        check("  export A=\"${A:-\"b c\"}\"", &["A=b c"]);
        check("export A=b\nexport C='d e'\n# export X=y\nX=y", &["A=b", "C='d e'"]);
        check("export PATH=/opt/bin:$PATH", &["PATH=/opt/bin:$PATH"]);
        check("export A=$(date)\nexport B=`date`\nexport =x\nexport a-b=x\nexport D=${E%x}\nexport F=1; exit", &[]);
    }

    #[test]
    fn lines_of_pam_are_read() {
        let check = |text: &str, want: &[&str]| assert_eq!(assigned(text), want, "{text}");
        check("PATH=\"/usr/bin:/bin\"\n", &["PATH=/usr/bin:/bin"]);
        check("# A=b\n\nexport A=b\nB='c d'\nC=two words\nD=\nno\n=x\na b=c", &["A=b", "B='c d'", "C=two words", "D="]);
    }

    #[test]
    fn entrypoints_and_words() {
        let dir = std::env::temp_dir();
        let check = |config: Value, entrypoint: Entrypoint, words: &[&str], want: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let own = own(&dir, &json!({ "config": config }));
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
        assert_eq!(own(&dir, &Value::Null), Own::default());
    }
}
