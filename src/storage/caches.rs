//! What only saves time: directories of `RUN --mount=type=cache`, digests of context files, steps done again, files
//! that ADD downloaded, what a push packed.
//!
//! All of it lies below `cache/` and may be lost at any time.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::files::read_file;
use super::{LayerId, Storage, locks};
use crate::error::{Context, Result};
use crate::log::debug;
use crate::oci::digest::Digest;
use crate::sys::fs::{Lock, Wait};

impl Storage {
    fn cache_path(&self, name: &str) -> PathBuf {
        self.path().join("cache").join(name)
    }

    /// What cannot be read is as good as lost.
    fn read_cache(&self, name: &str) -> Option<Vec<u8>> {
        read_file(&self.cache_path(name)).ok()
    }

    /// The layer of a cached step: the one of that name, unless it was done again since.
    pub fn step(&self, key: &LayerId) -> Option<LayerId> {
        let again = self.read_cache(&format!("step-{key}"));
        let again = again.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
        again.into_iter().chain([*key]).find(|id| self.has_layer(id))
    }

    /// Says that the step was done again.
    pub fn set_step(&self, key: &LayerId, id: &LayerId) -> Result<()> {
        self.write_file(&self.cache_path(&format!("step-{key}")), id.to_string().as_bytes())
    }

    /// The directory number `n` of a cache mount, and the file to lock for it. `name` is a digest.
    pub fn cache_mount(&self, name: &str, n: usize) -> Result<(PathBuf, File)> {
        let path = self.cache_path(&format!("mount-{name}-{n}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(e).context(|| format!("can't make {}", path.display()));
            }
            _ => {}
        }
        let lock = locks::open(&path.join("lock"))?;
        Ok((path, lock))
    }

    /// `false` if another has it and we are not to wait.
    pub fn lock_cache_mount(&self, lock: &File, wait: bool) -> Result<bool> {
        let wait = if wait { Wait::Yes } else { Wait::No };
        locks::flock(lock, Lock::Exclusive, wait).context(|| "can't lock a cache mount")
    }

    /// Digests of a context's files, as [`Storage::set_memo`] got them; empty if there are none.
    pub fn memo(&self, context: &str) -> Vec<u8> {
        self.read_cache(&format!("memo-{context}")).unwrap_or_default()
    }

    /// What is known of a download; `url` is a digest.
    pub fn web_note(&self, url: &str) -> Option<Vec<u8>> {
        self.read_cache(&format!("web-{url}"))
    }

    pub fn set_web_note(&self, url: &str, note: &[u8]) -> Result<()> {
        self.write_file(&self.cache_path(&format!("web-{url}")), note)
    }

    /// Where a downloaded file of this digest is, or would be. What has this name has this content.
    pub fn web_file(&self, digest: &Digest) -> PathBuf {
        self.cache_path(&format!("file-{}", digest.hex()))
    }

    /// Gives a downloaded file its name.
    pub fn keep_web_file(&self, file: &Path, digest: &Digest) -> Result<()> {
        self.replace(file, &self.web_file(digest))
    }

    /// What came of packing a layer; `key` is a digest.
    pub fn packed_note(&self, key: &str) -> Option<String> {
        String::from_utf8(self.read_cache(&format!("packed-{key}"))?).ok()
    }

    pub fn set_packed_note(&self, key: &str, note: &[u8]) -> Result<()> {
        self.write_file(&self.cache_path(&format!("packed-{key}")), note)
    }

    pub fn set_memo(&self, context: &str, bytes: &[u8]) {
        // Without it the next build reads the files again.
        if let Err(e) = self.write_file(&self.cache_path(&format!("memo-{context}")), bytes) {
            debug!("{e}");
        }
    }
}
