//! Blobs: files whose name proves their content. Downloads under way, which survive crashes.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::SystemTime;

use super::files::open_file;
use super::{Storage, locks};
use crate::error::{Context, Error, Result, bail};
use crate::log::debug;
use crate::oci::digest::{Digest, Hasher};
use crate::oci::manifest::Descriptor;
use crate::sys::fs::{Lock, Wait};

/// How much of the layers as they were downloaded stays once they are unpacked (`$CH_IMAGE_BLOBS`). They are wanted again
/// only by `push --layers` to another registry, and where layers are applied anew (plain mode, `pull REF DIR`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepBlobs {
    All,
    /// Up to so many bytes, those that came last.
    UpTo(u64),
}

impl KeepBlobs {
    /// Which of these blobs (digest, bytes, when it was written) go.
    fn excess(self, mut blobs: Vec<(Digest, u64, SystemTime)>) -> Vec<Digest> {
        let KeepBlobs::UpTo(limit) = self else { return Vec::new() };
        blobs.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.0.hex().cmp(&b.0.hex())));
        let mut kept = 0u64;
        let mut goes = |(digest, size, _): (Digest, u64, SystemTime)| {
            let Some(with) = kept.checked_add(size).filter(|with| *with <= limit) else { return Some(digest) };
            kept = with;
            None
        };
        blobs.drain(..).filter_map(&mut goes).collect()
    }
}

/// A download: what has arrived so far, hashed. Only one process has it at a time.
pub struct Ingest {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    digest: Digest,
    size: u64,
    /// When the file was last changed, once all has arrived.
    finished: Option<SystemTime>,
}

/// Reads a download from its start, whatever name the file has by now.
pub struct IngestReader {
    file: File,
    at: u64,
}

impl Read for IngestReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Storage {
    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.hex())
    }

    /// The blob if it is here with this size. Its content was right when it got its name; whoever cares hashes again.
    pub fn blob(&self, digest: &Digest, size: u64) -> Option<File> {
        let file = open_file(&self.blob_path(digest)).ok()?;
        let meta = file.metadata().ok()?;
        (meta.is_file() && meta.len() == size).then_some(file)
    }

    /// A small blob's content (manifest, configuration), verified; `None` if it is not here or damaged.
    pub fn blob_bytes(&self, digest: &Digest) -> Option<Vec<u8>> {
        let file = open_file(&self.blob_path(digest)).ok()?;
        let mut bytes = Vec::new();
        file.take(crate::oci::json::MAX_DOCUMENT as u64 + 1).read_to_end(&mut bytes).ok()?;
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }

    /// Stores a small blob, also in place of a damaged one.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.blob_bytes(&digest).is_none() {
            self.write_file(&self.blob_path(&digest), bytes)?;
        }
        Ok(digest)
    }

    /// Removes a blob that turned out to be damaged.
    pub fn drop_blob(&self, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => self.discard(&path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.context(|| format!("can't remove {}", path.display())),
        }
    }

    /// Bytes that an earlier download of it has left, unchecked.
    pub fn arrived(&self, digest: &Digest) -> u64 {
        let path = self.path().join("ingest").join(digest.hex());
        path.symlink_metadata().map_or(0, |meta| meta.len())
    }

    /// Begins or goes on with a download. Waits if another process is at it.
    pub fn ingest(&self, digest: &Digest, size: u64) -> Result<Ingest> {
        let path = self.path().join("ingest").join(digest.hex());
        let failed = || format!("can't open {}", path.display());
        let file = loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path);
            let file = match file {
                Err(e) if matches!(e.raw_os_error(), Some(libc::EISDIR | libc::ELOOP | libc::ENXIO)) => {
                    self.discard(&path)?;
                    continue;
                }
                other => other.context(failed)?,
            };
            locks::flock(&file, Lock::Exclusive, Wait::Yes).context(failed)?;
            // Whoever had it may have published or removed it: then it is not ours to write any more.
            if locks::is_still(&file, &path) {
                break file;
            }
        };
        let mut ingest = Ingest { path, file, hasher: Hasher::default(), digest: *digest, size, finished: None };
        ingest.rehash_partial()?;
        Ok(ingest)
    }

    /// Makes finished downloads durable and gives them their names. What another process has taken over since it was
    /// finished is left to that one: blobs only save time.
    pub fn publish(&self, blobs: Vec<Ingest>) -> Result<()> {
        let mut whole = Vec::new();
        for blob in blobs {
            let path = &blob.path;
            let locked = locks::flock(&blob.file, Lock::Exclusive, Wait::No);
            if locked.context(|| format!("can't lock {}", path.display()))? && blob.is_as_finished() {
                if self.durable {
                    blob.file.sync_all().context(|| format!("can't write {} to disk", path.display()))?;
                }
                whole.push(blob);
            }
        }
        for blob in &whole {
            self.replace(&blob.path, &self.blob_path(&blob.digest))?;
        }
        if whole.is_empty() { Ok(()) } else { self.sync_dir(&self.path().join("blobs/sha256")) }
    }

    /// Layers as they were downloaded that are more than is to be kept: those of images, and `others`.
    pub(super) fn excess_blobs(&self, keep: KeepBlobs, others: &[Descriptor]) -> Result<Vec<Digest>> {
        if keep == KeepBlobs::All {
            return Ok(Vec::new());
        }
        // Of manifests and configurations each is needed.
        let sources = self.images()?.into_iter().flatten().filter_map(|image| image.source);
        let mut layers: HashSet<Digest> = others.iter().map(|layer| layer.digest).collect();
        layers.extend(sources.flat_map(|source| source.layers).map(|layer| layer.digest));
        let here = |digest: Digest| {
            let meta = self.blob_path(&digest).symlink_metadata().ok()?;
            Some((digest, meta.len(), meta.modified().ok()?))
        };
        Ok(keep.excess(layers.into_iter().filter_map(here).collect()))
    }

    /// Removes them. Whoever is reading one goes on: the file stays until it is closed.
    pub fn trim_blobs(&self, keep: KeepBlobs, others: &[Descriptor]) -> Result<()> {
        for digest in self.excess_blobs(keep, others)? {
            debug!("removing blob {digest} ($CH_IMAGE_BLOBS)");
            self.drop_blob(&digest)?;
        }
        Ok(())
    }

    pub(super) fn blobs(&self) -> Result<Vec<Digest>> {
        let path = self.path().join("blobs/sha256");
        let entries = fs::read_dir(&path).context(|| format!("can't read {}", path.display()))?;
        Ok(entries.flatten().filter_map(|e| Digest::from_hex(e.file_name().to_str()?).ok()).collect())
    }

    pub(super) fn blob_exists(&self, digest: &Digest) -> bool {
        self.blob_path(digest).symlink_metadata().is_ok()
    }

    /// Bytes of a blob; 0 if it is not there.
    pub(super) fn blob_size(&self, digest: &Digest) -> u64 {
        self.blob_path(digest).symlink_metadata().map_or(0, |m| m.len())
    }
}

impl Ingest {
    /// Bytes that are here already.
    pub fn offset(&self) -> u64 {
        self.hasher.size()
    }

    pub fn is_complete(&self) -> bool {
        self.hasher.size() == self.size
    }

    /// Whether what is here is what was asked for.
    pub fn is_right(&self) -> bool {
        self.is_complete() && self.hasher.digest() == self.digest
    }

    fn rehash_partial(&mut self) -> Result<()> {
        let meta = self.file.metadata().context(|| format!("can't read {}", self.path.display()))?;
        if !meta.is_file() {
            bail!("not a regular file: {}", self.path.display());
        }
        if meta.len() > self.size {
            return self.restart();
        }
        let mut buf = vec![0; 256 << 10];
        loop {
            let n = self.file.read(&mut buf).context(|| format!("can't read {}", self.path.display()))?;
            if n == 0 {
                break;
            }
            self.hasher.update(&buf[..n]);
        }
        // Whole but wrong (a power cut may leave zeros): from the beginning.
        if self.is_complete() && !self.is_right() { self.restart() } else { Ok(()) }
    }

    /// Forgets what has arrived.
    pub fn restart(&mut self) -> Result<()> {
        self.hasher = Hasher::default();
        let file = &mut self.file;
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .map(drop)
            .context(|| format!("can't truncate {}", self.path.display()))
    }

    /// A fresh handle for reading from the start.
    pub fn reader(&self) -> Result<IngestReader> {
        let file = self.file.try_clone().context(|| format!("can't open {}", self.path.display()))?;
        Ok(IngestReader { file, at: 0 })
    }

    /// Whether this is still what was checked, under its name.
    fn is_as_finished(&self) -> bool {
        let now = self.file.metadata().and_then(|meta| Ok((meta.len(), meta.modified()?)));
        let same = now.is_ok_and(|(size, modified)| size == self.size && Some(modified) == self.finished);
        same && locks::is_still(&self.file, &self.path)
    }

    /// Says that everything has arrived: checks size and digest, lets other processes have it. If the content is
    /// wrong, it is removed.
    pub fn finish(&mut self) -> Result<()> {
        if !self.is_right() {
            let message = if self.is_complete() {
                format!("blob {}: digest mismatch: content is {}", self.digest, self.hasher.digest())
            } else {
                format!("blob {}: expected {} bytes but got {}", self.digest, self.size, self.hasher.size())
            };
            self.restart()?;
            // Nobody else can be using it: we have the lock.
            let _ = fs::remove_file(&self.path);
            return Err(Error::new(message).hint("the registry or something on the way changed the data; try again"));
        }
        let modified = self.file.metadata().and_then(|meta| meta.modified());
        self.finished = Some(modified.context(|| format!("can't read {}", self.path.display()))?);
        locks::unlock(&self.file).context(|| format!("can't unlock {}", self.path.display()))
    }
}

impl Write for Ingest {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.hasher.size().saturating_add(buf.len() as u64) > self.size {
            return Err(Error::new(format!("blob {}: more than {} bytes", self.digest, self.size)).into());
        }
        let n = self.file.write(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_stay() {
        let digest = |name: &str| Digest::of(name.as_bytes());
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let blobs = || vec![(digest("old"), 10, at(1)), (digest("new"), 30, at(3)), (digest("mid"), u64::MAX, at(2))];
        let check = |keep: KeepBlobs, want: &[&str]| {
            assert_eq!(keep.excess(blobs()), want.iter().map(|name| digest(name)).collect::<Vec<_>>(), "{keep:?}");
        };
        check(KeepBlobs::All, &[]);
        check(KeepBlobs::UpTo(0), &["new", "mid", "old"]);
        check(KeepBlobs::UpTo(29), &["new", "mid"]);
        check(KeepBlobs::UpTo(30), &["mid", "old"]);
        check(KeepBlobs::UpTo(40), &["mid"]);
        check(KeepBlobs::UpTo(u64::MAX), &["mid"]);
    }
}
