//! What does an image say about how it wants to be run? Read from its tree, which is mounted by then.
//!
//! Ours say it in /ch/metadata.json, which has the OCI configuration. Those of Apptainer have a program that runs the
//! image's command, those of enroot a shell script.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::mountpoint;
use crate::error::{Context, Error, Result, bail};

const METADATA: &str = "/ch/metadata.json";
const RUNSCRIPT: &str = "/.singularity.d/runscript";
const RC: &str = "/etc/rc";

/// Where to begin; `None` if the image does not say.
pub fn working_directory(root: &Path) -> Result<Option<PathBuf>> {
    let metadata = read(root)?;
    Ok(metadata.get("cwd").and_then(Value::as_str).filter(|cwd| !cwd.is_empty()).map(PathBuf::from))
}

/// The image's own command: ENTRYPOINT and CMD.
pub fn command(root: &Path) -> Result<Vec<OsString>> {
    let own = own_command(&read(root)?);
    if !own.is_empty() {
        return Ok(own.into_iter().map(OsString::from).collect());
    }
    let has =
        |path: &str| mountpoint::locate(root, Path::new(path)).is_ok_and(|found| found.exists() && !found.is_dir());
    if has(RUNSCRIPT) {
        return Ok(vec![RUNSCRIPT.into()]);
    }
    if has(RC) {
        return Ok(vec!["/bin/sh".into(), RC.into()]);
    }
    Err(Error::usage("no command given, and the image has none of its own").hint("see: ch-run --help"))
}

fn own_command(metadata: &Value) -> Vec<String> {
    let words = |key: &str| metadata["config"][key].as_array().into_iter().flatten().filter_map(Value::as_str);
    words("Entrypoint").chain(words("Cmd")).map(str::to_owned).collect()
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

/// A file that is not larger than 1 MiB.
pub fn read_limited(path: &Path) -> Result<Vec<u8>> {
    const LIMIT: u64 = 1 << 20;
    let mut text = Vec::new();
    File::open(path)?.take(LIMIT + 1).read_to_end(&mut text)?;
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
    fn entrypoint_and_command_are_one() {
        let check = |config: Value, want: &[&str]| assert_eq!(own_command(&json!({ "config": config })), want);
        check(json!({}), &[]);
        check(json!({"Cmd": ["a", "b"]}), &["a", "b"]);
        check(json!({"Entrypoint": ["/e"], "Cmd": ["a"]}), &["/e", "a"]);
        check(json!({"Entrypoint": null, "Cmd": "x"}), &[]);
        assert_eq!(own_command(&Value::Null), Vec::<String>::new());
    }
}
