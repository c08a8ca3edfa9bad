//! Where is the storage directory, is it safe to use, and how is it made and emptied?
//!
//! It is made in place: a marker goes into the empty directory first and away when the version file has its name. A
//! directory with the marker and without a version is one that we began; the next command goes on with it. So it may
//! be a mount point, or lie where we may make nothing beside it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::ancestors::{self, WAY_OUT, owner};
use super::files::open_file;
use super::locks::{self, StorageLock};
use super::{Storage, lockfile};
use crate::error::{Context, Error, Result};
use crate::log::info;
use crate::sys::fs::{self as sysfs, Lock, Wait, egid};
use crate::{rootfs, sys};

const MAGIC: &str = "ch-image storage";
pub(super) const FORMAT: u32 = 1;
/// Images first: they are what names the rest, and go first when the directory is emptied.
///
/// `img` and `dlcache` are what programs look for that know storage directories of Charliecloud (Nextflow): an entry for
/// each image, and nothing.
const DIRECTORIES: [&str; 10] =
    ["images", "img", "dlcache", "layers", "blobs/sha256", "ingest", "locks", "cache", "tmp", "trash"];
const FILES: [&str; 4] = ["version", "lock", UNFINISHED, lockfile::NAME];
/// Stands in a directory that is being made.
const UNFINISHED: &str = ".unfinished";
const NO_VERSION: &str =
    "its version file is missing or not ours: use another directory with --storage or CH_IMAGE_STORAGE";

/// How images lie in this storage directory; probed once, when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Layers side by side, stacked by overlayfs.
    Overlay,
    /// One whole tree an image, where overlayfs cannot be had.
    Plain,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Mode::Overlay => "overlay",
            Mode::Plain => "plain",
        }
    }
}

/// `$CH_IMAGE_STORAGE`, else `/var/tmp/$USER/ch-image` (manual page, "Storage directory"). Without `$USER`, which cron and
/// batch systems may not set, the user's name or number.
pub fn default_path(from_environment: Option<&OsStr>, user: Option<&OsStr>) -> Result<PathBuf> {
    if let Some(path) = from_environment.filter(|p| !p.is_empty()) {
        return Ok(path.into());
    }
    let user = sys::user::name(user, sysfs::euid());
    if user.contains('/') || user.starts_with('.') || user.chars().any(char::is_control) {
        return Err(Error::new(format!("$USER is not a user name: {user:?}"))
            .hint("name a storage directory with --storage or CH_IMAGE_STORAGE"));
    }
    Ok(Path::new("/var/tmp").join(user).join("ch-image"))
}

/// What there is.
pub(super) enum Found {
    /// Nothing, an empty directory, or one that we began to make.
    Nothing,
    Storage(PathBuf, Mode),
}

pub(super) fn look(path: &Path) -> Result<Found> {
    let Some(place) = check(path)? else { return Ok(Found::Nothing) };
    match read_version(&place)? {
        Some(mode) => Ok(Found::Storage(place, mode)),
        None if is_empty(&place)? || has_marker(&place) => Ok(Found::Nothing),
        // Between the two looks another process may have finished it.
        None => match read_version(&place)? {
            Some(mode) => Ok(Found::Storage(place, mode)),
            None => Err(Error::new(format!("{} not a builder storage", place.display())).hint(NO_VERSION)),
        },
    }
}

/// The path if there is a directory and it is safe to use: ours, and writable by nobody else.
fn check(path: &Path) -> Result<Option<PathBuf>> {
    let shown = path.display();
    let failed = || format!("can't use storage directory {shown}");
    let way_out = |e: Error| e.hint(WAY_OUT);
    check_parent(path)?;
    let link = match path.symlink_metadata() {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return check_missing(path).map(|()| None),
        Err(e) => return Err(e).context(failed).map_err(way_out),
    };
    if link.is_symlink() && link.uid() != sysfs::euid() {
        return Err(Error::new(format!(
            "storage directory is another user's symbolic link: {shown} ({})",
            owner(link.uid())
        ))
        .hint(WAY_OUT));
    }
    let path = fs::canonicalize(path).context(failed).map_err(way_out)?;
    let meta = path.symlink_metadata().context(failed).map_err(way_out)?;
    if !meta.is_dir() {
        return Err(Error::new(format!("storage directory is not a directory: {shown}")).hint(WAY_OUT));
    }
    if meta.uid() != sysfs::euid() {
        return Err(Error::new(format!("storage directory belongs to someone else: {shown} ({})", owner(meta.uid())))
            .hint(WAY_OUT));
    }
    if meta.permissions().mode() & 0o022 != 0 {
        return Err(Error::new(format!(
            "storage directory is writable by others: {shown} (mode {:04o})",
            meta.permissions().mode() & 0o7777
        ))
        .hint(format!("chmod 700 {shown}, or {WAY_OUT}")));
    }
    if let Some(parent) = path.parent() {
        ancestors::check(&path, parent)?;
    }
    Ok(Some(path))
}

/// A storage directory of others, which is only looked into. Whoever may write it decides what we run: whose it is, the
/// user or the site has decided by naming it, but nobody else may exchange it.
pub(super) fn look_shared(path: &Path) -> Result<Found> {
    let failed = || format!("can't use store {}", path.display());
    let place = match fs::canonicalize(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        other => other.context(failed)?,
    };
    for dir in place.ancestors() {
        let meta = dir.symlink_metadata().context(failed)?;
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o002 != 0 && (mode & 0o1000 == 0 || dir == place) {
            return Err(Error::new(format!("everybody may write {} (mode {mode:04o})", dir.display()))
                .context(failed())
                .hint("ask its owner for: chmod o-w; or leave it out of CH_IMAGE_STORES and of the settings"));
        }
    }
    let mode =
        read_version(&place).context(failed)?.ok_or_else(|| Error::new("not a storage directory").context(failed()))?;
    Ok(Found::Storage(place, mode))
}

/// Where it would be made.
fn check_missing(path: &Path) -> Result<()> {
    let mut above = path.ancestors().skip(1);
    match above.find_map(|dir| fs::canonicalize(dir).ok()) {
        Some(real) => ancestors::check(path, &real),
        None => Ok(()),
    }
}

/// An error if there is a directory that is not safe to use, or it would be made in such a place. For commands that
/// enter a user namespace before they open it: there, others can't be told from root.
pub fn check_place(path: &Path) -> Result<()> {
    check(path).map(drop)
}

/// Anybody can make `/var/tmp/$USER` before its user does.
fn check_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent().filter(|p| p.starts_with("/var/tmp") && *p != Path::new("/var/tmp")) else {
        return Ok(());
    };
    let Ok(meta) = parent.symlink_metadata() else { return Ok(()) };
    let mode = meta.permissions().mode();
    let what = if meta.is_symlink() {
        "is a symbolic link".to_owned()
    } else if meta.uid() != sysfs::euid() {
        "belongs to someone else".to_owned()
    } else if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        format!("is writable by others: mode {:04o}", mode & 0o7777)
    } else {
        return Ok(());
    };
    Err(Error::new(format!("{} {what} ({})", parent.display(), owner(meta.uid()))).hint(WAY_OUT))
}

/// The storage directory of ours that a directory lies in, if any.
pub fn around(path: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(path).ok()?;
    let is_ours = |dir: &Path| {
        let text = version_text(dir).ok().flatten();
        text.is_some_and(|text| text.lines().next() == Some(MAGIC))
    };
    real.ancestors().find(|dir| is_ours(dir)).map(Path::to_owned)
}

fn is_empty(path: &Path) -> Result<bool> {
    let entries = fs::read_dir(path).context(|| format!("can't read storage directory {}", path.display()));
    let mut entries = entries.map_err(|e| e.hint(WAY_OUT))?;
    Ok(entries.next().is_none())
}

fn has_marker(place: &Path) -> bool {
    place.join(UNFINISHED).symlink_metadata().is_ok_and(|meta| meta.is_file())
}

/// `None` if there is no such file.
fn version_text(place: &Path) -> Result<Option<String>> {
    let file = place.join("version");
    let mut bytes = Vec::new();
    match open_file(&file).and_then(|f| f.take(4096).read_to_end(&mut bytes)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.context(|| format!("can't read {}", file.display())).map_err(|e| e.hint(NO_VERSION))?,
    };
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn read_version(place: &Path) -> Result<Option<Mode>> {
    let Some(text) = version_text(place)? else { return Ok(None) };
    let mut lines = text.lines();
    let magic = lines.next();
    let format = lines.next().and_then(|l| l.strip_prefix("format ")).and_then(|n| n.parse::<u32>().ok());
    let mode = lines.next();
    match (magic, format, mode) {
        (Some(MAGIC), Some(FORMAT), Some("mode overlay")) => Ok(Some(Mode::Overlay)),
        (Some(MAGIC), Some(FORMAT), Some("mode plain")) => Ok(Some(Mode::Plain)),
        (Some(MAGIC), Some(n), _) if n != FORMAT => Err(incompatible(place, n, lines.find_map(made_by))),
        (Some(number), None, None) if is_charliecloud(place, number) => Err(Error::new(format!(
            "{} is a storage directory of Charliecloud (format {number}), which ch-image can't read",
            place.display()
        ))
        .hint(WAY_OUT)),
        _ => Err(Error::new(format!("{} not a builder storage", place.display())).hint(NO_VERSION)),
    }
}

fn made_by(line: &str) -> Option<&str> {
    line.strip_prefix("made by ").filter(|by| !by.is_empty() && by.len() < 100)
}

fn incompatible(place: &Path, format: u32, by: Option<&str>) -> Error {
    let age = if format > FORMAT { "a newer" } else { "an older" };
    let by = by.map_or(format!("{age} ch-image"), |by| format!("{age} version, {}", crate::log::escape(by)));
    Error::new(format!("incompatible storage directory v{format}: {}: it was made by {by}", place.display()))
        .hint(format!("use that version (this one has format {FORMAT}), or {WAY_OUT}"))
}

/// Charliecloud writes nothing but the number of its format.
fn is_charliecloud(place: &Path, text: &str) -> bool {
    let has = |name: &str| place.join(name).symlink_metadata().is_ok_and(|meta| meta.is_dir());
    text.trim().parse::<u32>().is_ok() && has("img") && (has("dlcache") || has("ulcache"))
}

/// Makes the directory, or finishes one that was begun.
pub(super) fn make(path: &Path, probe: &dyn Fn(&Path) -> Result<Mode>) -> Result<()> {
    let failed = || format!("can't initialize storage directory {}", path.display());
    let missing = path.symlink_metadata().is_err();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.context(failed).map_err(|e| e.hint(WAY_OUT))?;
    // Meanwhile somebody else may have made it.
    let place = check(path)?.ok_or_else(|| Error::new("it vanished")).context(failed)?;
    // Others who make it at the same time wait for the first.
    let marker = locks::open(&place.join(UNFINISHED)).context(failed)?;
    locks::flock(&marker, Lock::Exclusive, Wait::Yes).context(failed)?;
    if read_version(&place)?.is_some() {
        let _ = fs::remove_file(place.join(UNFINISHED));
        return Ok(());
    }
    leave_group(&place);
    check_directories(&place)?;
    complete(&place).context(failed)?;
    locks::open(&place.join("lock"))?;
    write_version(&place, probe).context(failed)?;
    if missing && let Some(parent) = place.parent() {
        // Where it cannot be synced, the directory is no less there.
        let _ = File::open(parent).and_then(|dir| dir.sync_all());
    }
    info!("initializing storage directory: v{FORMAT} {}", path.display());
    Ok(())
}

/// In a project's directory (setgid) all that is made belongs to the project's group. That group does not exist in a
/// user namespace, and overlayfs can't copy up what belongs to it.
fn leave_group(place: &Path) {
    let Ok(meta) = place.metadata() else { return };
    if meta.gid() != egid() || meta.mode() & 0o2000 != 0 {
        // Where it can't be changed, the probe will find out what follows.
        let _ = std::os::unix::fs::chown(place, None, Some(egid()));
        let _ = fs::set_permissions(place, fs::Permissions::from_mode(0o700));
    }
}

/// Makes the directories that are missing.
pub(super) fn complete(place: &Path) -> io::Result<()> {
    for name in DIRECTORIES {
        let path = place.join(name);
        if path.symlink_metadata().is_err() {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        }
    }
    Ok(())
}

/// Where one is a link, files of somebody else would be taken for ours, and removed.
pub(super) fn check_directories(place: &Path) -> Result<()> {
    for name in DIRECTORIES.iter().flat_map(|name| [name.split('/').next().unwrap_or(name), name]) {
        let path = place.join(name);
        if path.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
            return Err(Error::new(format!("storage directory is damaged: not a directory: {}", path.display()))
                .hint("move it elsewhere: an empty directory is then made in its place"));
        }
    }
    Ok(())
}

/// Finds out the mode; after this the directory is one of ours.
fn write_version(place: &Path, probe: &dyn Fn(&Path) -> Result<Mode>) -> Result<()> {
    let failed = || format!("can't write {}/version", place.display());
    // What a probe that was killed has left would be in this one's way.
    rootfs::remove_tree(&place.join("probe"))?;
    let by = env!("CARGO_PKG_VERSION");
    let version = format!("{MAGIC}\nformat {FORMAT}\nmode {}\nmade by ch-image {by}\n", probe(place)?.name());
    let new = place.join("tmp/version");
    rootfs::remove_tree(&new)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).context(failed)?;
    file.write_all(version.as_bytes()).and_then(|()| file.sync_all()).context(failed)?;
    fs::rename(&new, place.join("version")).context(failed)?;
    File::open(place).and_then(|dir| dir.sync_all()).context(failed)?;
    let _ = fs::remove_file(place.join(UNFINISHED));
    Ok(())
}

impl Storage {
    /// Deletes everything that is ours and makes the directory anew.
    pub fn reset(path: &Path, probe: &dyn Fn(&Path) -> Result<Mode>) -> Result<()> {
        let not_ours = || {
            Error::new(format!("{} not a builder storage", path.display()))
                .hint("ch-image only deletes directories that it made; ch-image storage-path tells which one is meant")
        };
        let place = check(path)?.ok_or_else(not_ours)?;
        match version_text(&place)? {
            Some(text) if text.lines().next() == Some(MAGIC) => {}
            None if has_marker(&place) => return make(path, probe),
            _ => return Err(not_ours()),
        }
        let _lock = StorageLock::take(&place, Lock::Exclusive)?;
        check_directories(&place)?;
        locks::refuse_in_use(&place)?;
        complete(&place).context(|| format!("can't reset {}", place.display()))?;
        // Out of sight first, images before what they name: whenever we are killed, what is left is whole.
        let mut moved = 0;
        for name in DIRECTORIES.iter().filter(|name| **name != "trash") {
            let dir = place.join(name);
            for entry in fs::read_dir(&dir).context(|| format!("can't read {}", dir.display()))? {
                let from = entry.context(|| format!("can't read {}", dir.display()))?.path();
                let to = place.join("trash").join(format!("reset-{}-{moved}", std::process::id()));
                moved += 1;
                rootfs::remove_tree(&to)?;
                fs::rename(&from, &to).context(|| format!("can't remove {}", from.display()))?;
            }
        }
        write_version(&place, probe)?;
        info!("initializing storage directory: v{FORMAT} {}", path.display());
        let mut failure = None;
        for entry in fs::read_dir(place.join("trash")).into_iter().flatten().flatten() {
            failure = rootfs::remove_tree(&entry.path()).err().or(failure);
        }
        match failure {
            Some(e) => Err(e),
            None => report_foreign(&place),
        }
    }
}

fn report_foreign(place: &Path) -> Result<()> {
    let ours = |name: &str| {
        let of_lock = name.strip_prefix(lockfile::NAME).is_some_and(|rest| rest.starts_with('.'));
        of_lock || FILES.contains(&name) || DIRECTORIES.iter().any(|d| d.split('/').next() == Some(name))
    };
    let foreign: Vec<String> = fs::read_dir(place)
        .context(|| format!("can't read {}", place.display()))?
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| !ours(name))
        .collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let names = crate::log::escape(&foreign.join(" ")).into_owned();
    Err(Error::new(format!("not created by ch-image, left in place in {}: {names}", place.display()))
        .hint("move it elsewhere"))
}
