//! Layers: directories that never change once they have their name.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::files::{open_file, read_file};
use super::handle::{Draft, Storage};
use super::locks::{self, LayerClaim};
use super::owners::Owners;
use crate::compress::crc32;
use crate::error::{Context, Error, Result, bail};
use crate::log::{debug, warning};
use crate::oci::digest::Digest;
use crate::oci::json as strict;
use crate::rootfs;
use crate::sys::file::{self, O_DIRECTORY, O_NOFOLLOW, O_PATH};
use crate::sys::fs::{Lock, Wait};

/// Name of a layer: chain ID if it came from a registry, else digest of all that could change its result.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LayerId(Digest);

impl LayerId {
    pub fn new(digest: Digest) -> LayerId {
        LayerId(digest)
    }

    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

impl std::str::FromStr for LayerId {
    type Err = crate::error::Error;

    fn from_str(s: &str) -> Result<LayerId> {
        Digest::from_hex(s).map(LayerId)
    }
}

/// What a layer is, and so what may become of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayerKind {
    /// Pulled or imported.
    Base,
    /// Made by an instruction: a cached step.
    Step,
    /// What the manual page wants in every image (`/ch`, mount points).
    Meta,
    /// A whole image that `ch-run -w` writes into.
    Tree,
    /// What its parent and all below it show together (plain mode). It can be made again.
    Whole,
}

impl LayerKind {
    const ALL: [(LayerKind, &'static str); 5] = [
        (LayerKind::Base, "base"),
        (LayerKind::Step, "step"),
        (LayerKind::Meta, "meta"),
        (LayerKind::Tree, "tree"),
        (LayerKind::Whole, "whole"),
    ];
}

/// What is known about a layer; kept beside its tree.
#[derive(Clone, PartialEq, Debug)]
pub struct LayerInfo {
    pub parent: Option<LayerId>,
    pub kind: LayerKind,
    /// Bytes of its files.
    pub size: u64,
    /// [`rootfs::fingerprint`] of its tree, for `fsck --deep`. If `None`, committing finds it out, unless that would
    /// take long.
    pub content: Option<u64>,
    /// Instruction or blob that made it, for people.
    pub created_by: String,
    /// What its name was computed from (`name`, `value`), for `build --why`.
    pub inputs: Vec<(String, String)>,
    pub owners: Owners,
}

impl LayerInfo {
    fn to_json(&self) -> Value {
        let kind = LayerKind::ALL.iter().find(|(k, _)| *k == self.kind).map_or("", |(_, name)| name);
        let (ledger, owners) = self.owners.to_json();
        json!({
            "parent": self.parent.map(|p| p.to_string()),
            "kind": kind,
            // Files with holes may look longer.
            "size": self.size.min(MAX_SIZE),
            "content": self.content.map(|content| format!("{content:016x}")),
            "created_by": self.created_by,
            "inputs": self.inputs,
            "ledger": ledger,
            "owners": owners,
        })
    }

    fn from_json(value: &Value) -> Result<LayerInfo> {
        let text = |key: &str| value[key].as_str().unwrap_or("").to_owned();
        let kind = text("kind");
        let Some((kind, _)) = LayerKind::ALL.iter().find(|(_, name)| *name == kind) else {
            bail!("unknown kind {kind:?}");
        };
        let pair = |p: &Value| Some((p[0].as_str()?.to_owned(), p[1].as_str()?.to_owned()));
        let Some(size) = value["size"].as_u64().filter(|&n| n <= MAX_SIZE) else {
            bail!("no valid size: {}", strict::shown(&value["size"].to_string()));
        };
        Ok(LayerInfo {
            parent: value["parent"].as_str().map(str::parse).transpose()?,
            kind: *kind,
            size,
            content: value["content"].as_str().and_then(|hex| u64::from_str_radix(hex, 16).ok()),
            created_by: text("created_by"),
            inputs: value["inputs"].as_array().map_or(Vec::new(), |list| list.iter().filter_map(pair).collect()),
            owners: Owners::from_json(&value["ledger"], &value["owners"])?,
        })
    }
}

/// No layer has more bytes, and the sum of all can be had.
const MAX_SIZE: u64 = 1 << 50;
/// Trees with more than this are not read when they are committed, bytes: it would take seconds.
pub(super) const READ_AT_COMMIT: u64 = 1 << 30;
/// Marker of a layer that is not yet known to be on disk; contains the boot ID.
const UNSYNCED: &str = "unsynced";

impl Storage {
    pub(super) fn layer_path(&self, id: &LayerId) -> PathBuf {
        self.path().join("layers").join(id.to_string())
    }

    /// The layer's directory as it is mounted. It exists if [`Storage::has_layer`] says so.
    pub fn layer_tree(&self, id: &LayerId) -> PathBuf {
        self.layer_path(id).join("tree")
    }

    /// Whether the layer is there and whole. One that a power cut may have hollowed is thrown away.
    pub fn has_layer(&self, id: &LayerId) -> bool {
        let path = self.layer_path(id);
        if !is_dir(&path) || !is_dir(&path.join("tree")) {
            return false;
        }
        if !self.is_hollow(&path) {
            return true;
        }
        // Readers leave everything as it is.
        if self.lock().is_some() {
            warning!("layer {id} was not yet on disk when this machine went down: dropping it");
            if let Err(e) = self.drop_hollow(&path) {
                warning!("{e}");
            }
        }
        false
    }

    /// Whether it has the marker of another boot, or one that was lost itself.
    fn is_hollow(&self, layer: &Path) -> bool {
        match read_file(&layer.join(UNSYNCED)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Ok(boot) => boot != self.boot().as_bytes() || boot.is_empty(),
            Err(_) => true,
        }
    }

    /// Another process may have dropped it meanwhile and made it anew: one at a time, and looked at again.
    fn drop_hollow(&self, layer: &Path) -> Result<()> {
        let place = self.path().join("layers");
        let failed = || format!("can't lock {}", place.display());
        let dir = File::open(&place).context(failed)?;
        locks::flock(&dir, Lock::Exclusive, Wait::Yes).context(failed)?;
        if self.is_hollow(layer) { self.discard(layer) } else { Ok(()) }
    }

    pub fn layer_info(&self, id: &LayerId) -> Result<LayerInfo> {
        let path = self.layer_path(id).join("layer.json");
        let read = || -> Result<LayerInfo> {
            let record = read_json(&path)?.ok_or_else(|| Error::new(format!("no {}", path.display())))?;
            LayerInfo::from_json(&record)
        };
        read().map_err(|e| {
            e.context(format!("damaged layer {id}"))
                .hint("ch-image fsck names the images that have it; with --repair it pulls again what was pulled, and drops others")
        })
    }

    /// Differs when a layer is made again under its old name, since steps may give other files and times each time.
    /// `None` for a tree that was written to, and for what cannot be read.
    pub fn layer_stamp(&self, id: &LayerId) -> Option<String> {
        let info = self.layer_info(id).ok()?;
        if info.kind == LayerKind::Tree && info.content.is_none() {
            return None;
        }
        let meta = self.layer_tree(id).symlink_metadata().ok()?;
        Some(format!("{}:{}.{} {:?}", meta.ino(), meta.ctime(), meta.ctime_nsec(), info.content))
    }

    /// Remembers that the layer was used now (garbage collection goes by last use).
    pub fn touch_layer(&self, id: &LayerId) {
        let path = self.layer_path(id).join("layer.json");
        if let Err(e) = open_file(&path).and_then(|f| f.set_modified(SystemTime::now())) {
            debug!("can't touch {}: {e}", path.display());
        }
    }

    /// Last use, seconds since 1970.
    pub fn layer_used(&self, id: &LayerId) -> u64 {
        let modified = fs::metadata(self.layer_path(id).join("layer.json")).and_then(|m| m.modified());
        modified.ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or(Duration::ZERO).as_secs()
    }

    /// Gives a draft (with its directory `tree`) the name `id`. If another process was faster, its layer is used.
    ///
    /// The layer survives a killed process from now on, a power cut only after [`Storage::secure`].
    pub fn commit_layer(&self, draft: Draft, id: &LayerId, info: &LayerInfo) -> Result<()> {
        let failed = || format!("can't store layer {id}");
        let mut info = info.clone();
        // A whole tree is compared with what it was made of; if it is large, its size.
        if info.kind == LayerKind::Whole && info.size > READ_AT_COMMIT {
            info.size = tree_size(&draft.path().join("tree"));
        }
        if info.content.is_none() && info.size <= READ_AT_COMMIT && info.kind != LayerKind::Whole {
            // What cannot be read now cannot be checked later.
            info.content = rootfs::fingerprint(&draft.path().join("tree")).ok();
        }
        write_new(&draft.path().join("layer.json"), &record(&info.to_json())).context(failed)?;
        write_new(&draft.path().join(locks::IN_USE), b"").context(failed)?;
        if self.durable {
            write_new(&draft.path().join(UNSYNCED), self.boot().as_bytes()).context(failed)?;
        }
        let path = self.layer_path(id);
        if draft.keep(&path).context(failed)? || self.has_layer(id) {
            return Ok(());
        }
        // What has the name is no layer.
        self.discard(&path).context(failed)?;
        match draft.keep(&path).context(failed)? || self.has_layer(id) {
            true => Ok(()),
            false => bail!("can't store layer {id}: something else is at {}", path.display()),
        }
    }

    /// The layer's files are going to change (a whole tree that is written to): what they held counts no more.
    pub fn forget_content(&self, id: &LayerId) -> Result<()> {
        let info = LayerInfo { content: None, ..self.layer_info(id)? };
        self.write_file(&self.layer_path(id).join("layer.json"), &record(&info.to_json()))
    }

    /// Tells whether anything has been written to a tree since: of every file the name, the inode, and all that writing,
    /// renaming and changing modes change.
    pub fn tree_stamp(&self, id: &LayerId) -> String {
        let (mut sum, mut count) = (0_u64, 0_u64);
        visit(&self.layer_tree(id), |path, meta| {
            let name = path.file_name().unwrap_or_default().as_bytes();
            let (mtime, ctime) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
            let text = format!("{name:?} {} {:o} {} {mtime:?} {ctime:?}", meta.ino(), meta.mode(), meta.len());
            let hash = Digest::of(text.as_bytes()).hex();
            sum = sum.wrapping_add(u64::from_str_radix(hash.get(..16).unwrap_or_default(), 16).unwrap_or(0));
            count += 1;
        });
        format!("{count} {sum:016x}")
    }

    /// Makes layers durable: after this a power cut cannot hurt them.
    pub(super) fn secure(&self, ids: &[LayerId]) -> Result<()> {
        let fresh: Vec<PathBuf> =
            ids.iter().map(|id| self.layer_path(id).join(UNSYNCED)).filter(|p| p.exists()).collect();
        if !fresh.is_empty() {
            self.sync()?;
            for marker in &fresh {
                match fs::remove_file(marker) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(e).context(|| format!("can't remove {}", marker.display()));
                    }
                    _ => {}
                }
            }
            // A marker that came back after a power cut would have its layer thrown away.
            for layer in fresh.iter().filter_map(|marker| marker.parent()) {
                self.sync_dir(layer)?;
            }
        }
        Ok(())
    }

    /// All layers with a well-formed name.
    pub fn layers(&self) -> Result<Vec<LayerId>> {
        let path = self.path().join("layers");
        let entries = fs::read_dir(&path).context(|| format!("can't read {}", path.display()))?;
        Ok(entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
    }

    /// The right to do that is given back as soon as nobody can use the layer any more: a file in it that is open would
    /// keep it on NFS.
    pub(super) fn remove_layer(&self, id: &LayerId, right: Option<LayerClaim>) -> Result<()> {
        self.discard_and_release(&self.layer_path(id), right)
    }
}

/// A link to a directory is none.
fn is_dir(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
}

pub(super) fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(content)
}

/// What stands between a record and its checksum, which is in the record for whoever knows nothing of it.
const SUM: &[u8] = b",\"sum\":\"";

/// A record as it is written, not empty: with a checksum at its end. A bit that flips in a text leaves it a text.
pub(super) fn record(value: &Value) -> Vec<u8> {
    let mut bytes = value.to_string().into_bytes();
    let sum = format!("{:08x}\"}}", crc32::update(0, &bytes));
    bytes.pop();
    [&bytes, SUM, sum.as_bytes()].concat()
}

/// Whether a record is as it was written. One that has no checksum, as of earlier versions, is taken as it is.
fn is_as_written(bytes: &[u8]) -> bool {
    let sum = bytes.strip_suffix(b"\"}").and_then(|all| all.split_last_chunk::<8>());
    let Some((body, sum)) = sum.and_then(|(all, sum)| Some((all.strip_suffix(SUM)?, sum))) else { return true };
    format!("{:08x}", crc32::update(crc32::update(0, body), b"}")).as_bytes() == sum
}

/// Reads one of our JSON files, whatever it has become (a FIFO never blocks us).
/// `None` if there is none.
pub(super) fn read_json(path: &Path) -> Result<Option<Value>> {
    let failed = || format!("can't read {}", path.display());
    let file = match open_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.context(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(strict::MAX_DOCUMENT as u64 * 2).read_to_end(&mut bytes).context(failed)?;
    if !is_as_written(&bytes) {
        bail!("{} does not match its checksum", path.display());
    }
    strict::parse(&bytes).map(Some).context(failed)
}

/// Bytes of the files below `tree`. What cannot be read does not count: this is for people.
pub fn tree_size(tree: &Path) -> u64 {
    let mut bytes = 0u64;
    visit(tree, |_, meta| bytes = more(bytes, meta));
    bytes
}

/// Makes a tree that a step has left fit to be kept, and measures it: setuid and setgid bits would lend the user's own
/// rights to whoever can reach the file.
pub fn seal(tree: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut failure = None;
    visit(tree, |path, meta| {
        bytes = more(bytes, meta);
        let mode = meta.permissions().mode();
        if mode & SET_ID != 0 && (meta.is_file() || meta.is_dir()) {
            let strip = fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777 & !SET_ID));
            failure = strip.context(|| format!("can't change the mode of {}", path.display())).err().or(failure.take());
        }
    });
    failure.map_or(Ok(bytes), Err)
}

/// Two files with holes are enough for more than 64 bits; no record has more than [`MAX_SIZE`].
fn more(bytes: u64, meta: &fs::Metadata) -> u64 {
    bytes.saturating_add(if meta.is_file() { meta.len() } else { 0 }).min(MAX_SIZE)
}

const SET_ID: u32 = 0o6000;

/// Directories with a longer path are named by a descriptor, since a tree may be deeper than a path can be long.
const LONG_PATH: usize = 2048;

/// All names below `tree`; links are not followed.
fn visit(tree: &Path, mut see: impl FnMut(&Path, &fs::Metadata)) {
    let mut todo: Vec<(Option<Rc<OwnedFd>>, PathBuf)> = vec![(None, tree.to_owned())];
    while let Some((mut base, mut dir)) = todo.pop() {
        let flags = O_PATH | O_DIRECTORY | O_NOFOLLOW;
        if dir.as_os_str().len() > LONG_PATH
            && let Ok(fd) = file::openat(file::CWD, dir.as_os_str().as_bytes(), flags, 0)
        {
            dir = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            base = Some(Rc::new(fd));
        }
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            let path = entry.path();
            see(&path, &meta);
            if meta.is_dir() {
                todo.push((base.clone(), path));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On file systems that allow it, a hostile or careless file with a hole makes a layer of petabytes.
    #[test]
    fn sizes_that_are_no_room() {
        let info = |size| LayerInfo {
            parent: None,
            kind: LayerKind::Base,
            size,
            content: None,
            created_by: String::new(),
            inputs: Vec::new(),
            owners: Owners::AsBelow,
        };
        for size in [0, MAX_SIZE, MAX_SIZE + 1, u64::MAX] {
            let read = LayerInfo::from_json(&info(size).to_json()).unwrap();
            assert_eq!(read, info(size.min(MAX_SIZE)));
        }
        // What fsck measures later is what was recorded.
        let tree = std::env::temp_dir().join(format!("ch-sizes-{}", std::process::id()));
        fs::create_dir(&tree).unwrap();
        for n in 0..130 {
            File::create(tree.join(n.to_string())).unwrap().set_len(10 << 40).unwrap();
        }
        let measured = tree_size(&tree);
        fs::remove_dir_all(&tree).unwrap();
        assert_eq!(measured, MAX_SIZE);
    }
}
