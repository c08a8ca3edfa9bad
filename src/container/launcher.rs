//! Which directories of the host do launchers and batch systems name to a command, and how does it get at them?
//!
//! `$TMPDIR` is the job's own place, often on a disk of the node; a PMIx library finds its server by files in
//! `$PMIX_SERVER_TMPDIR`, below Slurm's spool directory. Each is bound at its own path, unless it is there already or
//! would hide something of the image. A `$TMPDIR` that is not there would make mktemp(1) fail: then it is unset.
//! Deliberately absent: /run/munge, which lets a command act for the user in the batch system: `-b /run/munge`.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::env::Environment;
use super::mountpoint;
use super::{Bind, Need};

const TMPDIR: &str = "TMPDIR";
const NAMES: [&str; 2] = [TMPDIR, "PMIX_SERVER_TMPDIR"];
/// Bound from the host whatever the options are.
const ALWAYS_THERE: [&str; 3] = ["/dev", "/proc", "/sys"];

/// The container, as far as it matters here.
pub struct Container<'a> {
    pub root: &'a Path,
    /// It has a /tmp of its own.
    pub private_tmp: bool,
    /// Whether a directory to mount on would stay in the image, or in what is kept of the container.
    pub keeps_places: bool,
}

/// What is to become of one directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    There,
    Bound,
    Hidden,
}

/// Variables and the directories of the host that they name.
fn named(host: &Environment) -> impl Iterator<Item = (&'static str, &Path)> {
    let value = |name: &str| host.iter().find(|(known, _)| known == name).map(|(_, value)| Path::new(value));
    NAMES.iter().filter_map(move |name| Some((*name, value(name)?)))
}

/// Those directories, for who must not hide them before they are bound.
pub fn directories(host: &Environment) -> Vec<PathBuf> {
    named(host).map(|(_, path)| path.to_owned()).filter(|path| path.is_absolute()).collect()
}

/// What to bind, and without the variables that name what the command won't find.
pub fn bind_named(host: Environment, container: &Container) -> (Environment, Vec<Bind>) {
    let fates: Vec<_> = named(&host).map(|(name, path)| (name, path.to_owned(), fate(name, path, container))).collect();
    let need = if container.keeps_places { Need::IfBoth } else { Need::IfSource };
    let bound = fates.iter().filter(|(_, _, fate)| *fate == Fate::Bound);
    let binds = bound.map(|(_, path, _)| Bind { need, ..Bind::new(path, path) }).collect();
    let hidden = fates.iter().any(|(name, _, fate)| *name == TMPDIR && *fate == Fate::Hidden);
    (if hidden { without_tmpdir(host) } else { host }, binds)
}

/// For one that has joined a container, and sees what is in it.
pub fn of_joined(host: Environment) -> Environment {
    let is_there = named(&host).all(|(name, path)| name != TMPDIR || path.is_dir());
    if is_there { host } else { without_tmpdir(host) }
}

fn without_tmpdir(host: Environment) -> Environment {
    host.into_iter().filter(|(name, _): &(OsString, OsString)| name != TMPDIR).collect()
}

fn fate(name: &str, path: &Path, container: &Container) -> Fate {
    let is_plain = path.is_absolute() && path.components().all(|part| !matches!(part, Component::ParentDir));
    if !is_plain || path.parent().is_none() || !path.is_dir() {
        return Fate::Hidden;
    }
    if ALWAYS_THERE.iter().any(|there| path.starts_with(there)) {
        return Fate::There;
    }
    if path.starts_with("/tmp") {
        return match (container.private_tmp, name) {
            (false, _) => Fate::There,
            // That is what was asked for.
            (true, TMPDIR) => Fate::Hidden,
            (true, _) => Fate::Bound,
        };
    }
    let Ok(target) = mountpoint::locate(container.root, path) else { return Fate::Hidden };
    let is_free = if target.exists() {
        path == Path::new("/var/tmp") || is_empty(&target.host_path(container.root))
    } else {
        !container.keeps_places
    };
    if is_free { Fate::Bound } else { Fate::Hidden }
}

fn is_empty(dir: &Path) -> bool {
    dir.read_dir().is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn each_directory_has_its_fate() {
        let base = std::env::temp_dir().join(format!("ch-launcher-test-{}", std::process::id()));
        // Where the tests may lie; the host's directories are below a place that no image has.
        let (root, host) = (base.join("image"), PathBuf::from("/var"));
        for dir in ["usr", "var/tmp", "var/lib/full/x", "var/cache"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        let check = |name: &str, path: &Path, private_tmp: bool, keeps_places: bool, want: Fate| {
            let container = Container { root: &root, private_tmp, keeps_places };
            assert_eq!(fate(name, path, &container), want, "{name} {path:?} {private_tmp} {keeps_places}");
        };
        let pmix = "PMIX_SERVER_TMPDIR";
        check(TMPDIR, Path::new("/tmp"), false, false, Fate::There);
        check(TMPDIR, Path::new("/tmp"), true, false, Fate::Hidden);
        check(pmix, Path::new("/tmp"), true, false, Fate::Bound);
        check(TMPDIR, Path::new("/dev/shm"), false, false, Fate::There);
        check(TMPDIR, Path::new("/nowhere"), false, false, Fate::Hidden);
        check(TMPDIR, Path::new("/"), false, false, Fate::Hidden);
        check(TMPDIR, Path::new("var"), false, false, Fate::Hidden);
        check(TMPDIR, Path::new("/var/../var"), false, false, Fate::Hidden);
        check(TMPDIR, &host.join("tmp"), false, false, Fate::Bound);
        check(TMPDIR, &host.join("cache"), false, false, Fate::Bound);
        check(TMPDIR, &host.join("cache"), false, true, Fate::Bound);
        // The image has something there.
        check(TMPDIR, &host.join("lib"), false, false, Fate::Hidden);
        // The image has nothing there.
        check(TMPDIR, &host.join("log"), false, false, Fate::Bound);
        check(TMPDIR, &host.join("log"), false, true, Fate::Hidden);
        check(pmix, &host.join("log"), false, false, Fate::Bound);
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn only_tmpdir_is_unset() {
        let host = |names: &[&str]| -> Environment { names.iter().map(|n| (n.into(), "/nowhere".into())).collect() };
        let container = Container { root: Path::new("/"), private_tmp: false, keeps_places: false };
        let all = ["A", "TMPDIR", "PMIX_SERVER_TMPDIR"];
        assert_eq!(bind_named(host(&all), &container), (host(&["A", "PMIX_SERVER_TMPDIR"]), Vec::new()));
        assert_eq!(of_joined(host(&all)), host(&["A", "PMIX_SERVER_TMPDIR"]));
        assert_eq!(of_joined(host(&["A"])), host(&["A"]));
        assert_eq!(directories(&host(&all)), [PathBuf::from("/nowhere"), PathBuf::from("/nowhere")]);
    }
}
