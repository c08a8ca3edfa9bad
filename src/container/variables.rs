//! What is the environment of ch-run's command? Reads what [`inherit`] decides by, and tells what it has decided.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::env::{Environment, Expand, Variable};
use super::inherit::{self, Edit, OfImage, Preset, Sources};
use super::metadata::{self, read_limited};
use super::request::{Change, Request};
use super::{Home, mountpoint};
use crate::error::{Context, Error, Result};
use crate::log::{escape, verbose, warning};

const FILE: &str = "/ch/environment";

/// The container, as far as it is known before the command runs.
pub struct Container<'a> {
    pub root: &'a Path,
    /// Lines of its configuration; what the tree says if `None`.
    pub env: Option<&'a [(String, String)]>,
    pub home: Option<&'a Home>,
    pub uid: u32,
    /// It was made by another process, and this one is in it already.
    pub is_joined: bool,
}

pub fn environment(request: &Request, host: Environment, container: &Container) -> Result<Environment> {
    let image = of_image(container)?;
    let edits = request.changes.iter().map(|change| edit(change, image.as_deref())).collect::<Result<Vec<_>>>()?;
    let sources = Sources {
        host,
        image: image.unwrap_or_default(),
        home: container.home.map(|home| format!("/home/{}", home.user)),
        uid: container.uid,
        has: &|path| has(request, container, path),
    };
    let expand = if request.expand { Expand::Yes } else { Expand::No };
    let composed = inherit::compose(request.preset.unwrap_or(Preset::Image), &sources, &edits, expand)?;
    for (name, path) in &composed.doubtful {
        let (name, path) = (name.to_string_lossy(), path.to_string_lossy());
        warning!("{} of the host names {}, which is not in the container", escape(&name), escape(&path));
    }
    tell(&composed.variables);
    if !composed.left_out.is_empty() {
        verbose!("environment: left out: {}", names(composed.left_out.iter()));
    }
    Ok(composed.variables.into_iter().map(|variable| (variable.name, variable.value)).collect())
}

/// Without values: there may be secrets among them.
fn tell(variables: &[Variable]) {
    let mut origins: Vec<String> = variables.iter().map(|variable| variable.origin.to_string()).collect();
    origins.sort();
    origins.dedup();
    for origin in origins {
        let of_it = variables.iter().filter(|variable| variable.origin.to_string() == origin);
        verbose!("environment: from {origin}: {}", names(of_it.map(|variable| &variable.name)));
    }
}

fn names<'a>(names: impl Iterator<Item = &'a OsString>) -> String {
    let mut names: Vec<String> = names.map(|name| escape(&name.to_string_lossy()).into_owned()).collect();
    names.sort();
    names.join(" ")
}

/// `None` if the image says nothing about it.
fn of_image(container: &Container) -> Result<Option<Vec<OfImage>>> {
    if let Some(pairs) = container.env {
        return Ok(Some(pairs.iter().map(|(name, value)| OfImage::Exact(name.into(), value.into())).collect()));
    }
    let target = mountpoint::locate(container.root, Path::new(FILE))?;
    if !target.exists() {
        let lines = metadata::foreign(container.root)?.env;
        return Ok(lines.map(|lines| lines.into_iter().map(|line| OfImage::Line(line.into())).collect()));
    }
    let text = read_limited(&target.host_path(container.root)).context(|| format!("can't read {FILE} of the image"));
    let text = text.map_err(|e| e.hint("--env host does without the image's environment"))?;
    // Without a configuration that can be read, lines are lines.
    Ok(Some(of_file(&text, metadata::environment(container.root).unwrap_or_default())))
}

/// The file has what the configuration says, and perhaps more by now. What has line breaks is in the configuration alone.
fn of_file(text: &[u8], configured: Vec<(String, String)>) -> Vec<OfImage> {
    let mut configured: BTreeMap<Vec<u8>, (String, String)> =
        configured.into_iter().map(|(name, value)| (format!("{name}={value}").into_bytes(), (name, value))).collect();
    let lines = text.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    let of_line = |line: &[u8]| match configured.remove(line) {
        Some((name, value)) => OfImage::Exact(name.into(), value.into()),
        None => OfImage::Line(OsStr::from_bytes(line).to_owned()),
    };
    let mut all: Vec<OfImage> = lines.map(of_line).collect();
    let left = configured.into_values().filter(|(_, value)| value.contains('\n'));
    all.extend(left.map(|(name, value)| OfImage::Exact(name.into(), value.into())));
    all
}

/// The change, with all that has to be read for it.
fn edit(change: &Change, image: Option<&[OfImage]>) -> Result<Edit> {
    Ok(match change {
        Change::SetImage => Edit::Image(lines(image)?),
        Change::SetFile { path, end } => {
            let text = read_limited(path).context(|| format!("can't read {}", path.display()))?;
            Edit::Lines { text, end: *end, path: path.display().to_string() }
        }
        Change::Assign(text) => Edit::Assign { text: text.clone(), origin: "--set-env".to_owned() },
        Change::Set { name, value, origin } => {
            Edit::Set { name: name.clone(), value: value.clone(), origin: origin.clone() }
        }
        Change::FromHost(glob) => Edit::FromHost { glob: glob.clone() },
        Change::Unset(glob) => Edit::Unset { glob: glob.clone() },
    })
}

fn lines(image: Option<&[OfImage]>) -> Result<Vec<OsString>> {
    let line = |variable: &OfImage| match variable {
        OfImage::Exact(name, value) => joined(name, value),
        OfImage::Line(line) => line.clone(),
    };
    image.map(|image| image.iter().map(line).collect()).ok_or_else(|| {
        Error::new(format!("can't read {FILE} of the image: there is no such file"))
            .hint("it has no environment of its own; without --set-env it runs")
    })
}

fn joined(name: &OsStr, value: &OsStr) -> OsString {
    let mut line = name.to_owned();
    line.push("=");
    line.push(value);
    line
}

/// Whether a path of the host's environment will be there in the container.
fn has(request: &Request, container: &Container, path: &Path) -> bool {
    if container.is_joined {
        return path.exists();
    }
    let bound = |source: &Path, target: &Path| path.strip_prefix(target).ok().map(|rest| source.join(rest).exists());
    let mut binds = request.binds.iter().rev().filter_map(|bind| bound(&bind.source, &bind.target));
    let home = container.home.and_then(|home| bound(&home.source, &Path::new("/home").join(&home.user)));
    let is_host = |dir: &str| path.starts_with(dir) && !(dir == "/tmp" && request.private_tmp);
    let of_host = ["/dev", "/proc", "/sys", "/tmp"].iter().any(|dir| is_host(dir)).then(|| path.exists());
    let in_image = || mountpoint::locate(container.root, path).is_ok_and(|target| target.exists());
    binds.next().or(home).or(of_host).unwrap_or_else(in_image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_configurations_agree() {
        let check = |text: &str, configured: &[(&str, &str)], want: &[OfImage]| {
            let configured = configured.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            assert_eq!(of_file(text.as_bytes(), configured), want, "{text}");
        };
        let exact = |name: &str, value: &str| OfImage::Exact(name.into(), value.into());
        let line = |text: &str| OfImage::Line(text.into());
        check("\n", &[], &[]);
        check("A='q'\nB=$A\n", &[("A", "'q'"), ("B", "$A")], &[exact("A", "'q'"), exact("B", "$A")]);
        check("A='q'\nB=$A\n", &[("A", "q")], &[line("A='q'"), line("B=$A")]);
        check("A=b\n", &[("A", "b"), ("M", "1\n2"), ("GONE", "x")], &[exact("A", "b"), exact("M", "1\n2")]);
    }
}
