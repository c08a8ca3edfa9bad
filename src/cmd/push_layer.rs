//! The layer that a push makes, as a blob: packed, compressed and hashed in one go into a draft. Its digest has to be
//! known first, since most pushes need no upload.
//!
//! What came of it is noted under all that decides the bytes. If the registry still has that blob, or can take it from
//! another of its repositories, then nothing is packed at all. A note is trusted only as far as it spares work: a
//! registry that has no such blob gets what is packed now.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::PathBuf;

use super::progress::{Counted, Progress};
use crate::compress::encoder::{Encoder, Encoding};
use crate::error::{Context, Result};
use crate::log::{debug, info, verbose};
use crate::oci::digest::{Digest, Hashing};
use crate::registry::Client;
use crate::rootfs::{self, LayerDir, PackOptions, Root, Stack};
use crate::storage::{Draft, LayerId, Storage};

/// Part of every key. The number is raised when the same tree packs to other bytes (a test tells).
const FORMAT: &str = concat!("packed 2 by ", env!("CARGO_PKG_VERSION"));
/// Repositories that a note names.
const PLACES: usize = 8;

/// A layer as a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blob {
    pub diff_id: Digest,
    pub digest: Digest,
    pub size: u64,
}

/// Where its bytes are.
enum Bytes {
    /// Deleted with the value.
    Draft(Draft),
    /// Where they have to go, already; how they came there.
    There(String),
}

/// What is packed.
pub enum Files {
    /// Layers in storage, lowest first.
    Layers(Vec<LayerDir>),
    Directory(Root),
}

impl Files {
    fn stack(&self) -> Result<Stack> {
        match self {
            Files::Layers(dirs) => Stack::of(dirs),
            Files::Directory(root) => Ok(Stack::new(vec![root.try_clone()?])),
        }
    }
}

pub struct Packed {
    pub blob: Blob,
    bytes: Bytes,
}

impl Packed {
    /// Of a blob that the registry has: how so.
    pub fn is_there(&self) -> Option<&str> {
        match &self.bytes {
            Bytes::There(how) => Some(how),
            Bytes::Draft(_) => None,
        }
    }

    pub fn open(&self) -> Result<Box<dyn Read>> {
        match &self.bytes {
            Bytes::Draft(draft) => {
                let path = file(draft);
                Ok(Box::new(File::open(&path).context(|| format!("can't open {}", path.display()))?))
            }
            Bytes::There(_) => Ok(Box::new(std::io::empty())),
        }
    }
}

fn file(draft: &Draft) -> PathBuf {
    draft.path().join("layer")
}

/// A layer to be made.
pub struct Plan<'a> {
    pub storage: &'a Storage,
    /// Lowest first.
    pub files: &'a Files,
    pub options: PackOptions,
    pub encoding: Encoding,
    /// Its number, of as many.
    pub number: usize,
    /// What decides its bytes, see [`key`]; `None`: nothing is recorded, and no record is used.
    pub key: Option<Digest>,
}

impl Plan<'_> {
    /// Packs the layer for a repository of a registry, unless what is known of it spares that.
    pub fn carry_out(self, client: &Client, repository: &str) -> Result<Packed> {
        let n = self.number;
        info!("layer {n}/{n}: gathering");
        let note = self.key.and_then(|key| PushRecord::read(self.storage, &key));
        let there = note.as_ref().map(|note| note.find(client, repository)).transpose()?.flatten();
        let packed = match (&note, there) {
            (Some(note), Some(how)) => {
                info!("layer {n}/{n}: preparing");
                verbose!("layer {n}/{n}: packed before: {}", note.blob.digest);
                Packed { blob: note.blob, bytes: Bytes::There(how) }
            }
            _ => {
                client.begin_upload(repository)?;
                self.pack()?
            }
        };
        let Some(key) = self.key else { return Ok(packed) };
        let here = format!("{}/{repository}", client.endpoint());
        let mut places = vec![here.clone()];
        match note {
            Some(note) if note.blob == packed.blob => {
                places.extend(note.places.into_iter().filter(|place| *place != here).take(PLACES - 1));
            }
            Some(note) => verbose!("layer {n}/{n}: was {} when it was packed before", note.blob.digest),
            None => {}
        }
        PushRecord { blob: packed.blob, places }.write(self.storage, &key);
        Ok(packed)
    }

    fn pack(&self) -> Result<Packed> {
        let n = self.number;
        let stack = self.files.stack()?;
        info!("layer {n}/{n}: preparing");
        let draft = self.storage.draft()?;
        let path = file(&draft);
        let out = File::create_new(&path).context(|| format!("can't make {}", path.display()))?;
        let progress = Progress::new("preparing", None);
        let part = progress.part(&format!("layer {n}/{n}"), None);
        let failed = || "can't pack the image";
        let mut tar = Counted { inner: tar_into(BufWriter::with_capacity(1 << 20, out), self.encoding), part };
        let packed = rootfs::pack(&stack, &mut tar, &self.options).context(failed)?;
        if packed.skipped > 0 {
            verbose!("layer {n}/{n}: ignored {} sockets, devices and/or FIFOs", packed.skipped);
        }
        let (encoder, content) = tar.inner.into_parts();
        let (mut file, blob) = encoder.finish().context(failed)?.into_parts();
        file.flush().context(failed)?;
        let blob = Blob { diff_id: content.digest(), digest: blob.digest(), size: blob.size() };
        Ok(Packed { blob, bytes: Bytes::Draft(draft) })
    }
}

/// The archive goes in, the blob comes out; both are hashed.
pub fn tar_into<W: Write>(out: W, encoding: Encoding) -> Hashing<Encoder<Hashing<W>>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    Hashing::new(Encoder::new(Hashing::new(out), encoding, threads))
}

/// All that decides the bytes of a layer made of an image's layers. `owners` is the record that goes with it, if any.
/// `None` if they may change unseen.
pub fn key(
    storage: &Storage,
    layers: &[LayerId],
    owners: Option<String>,
    options: &PackOptions,
    encoding: Encoding,
) -> Option<Digest> {
    let mut text = format!("{FORMAT}\nabove {}\nnot after {:?}\n", options.above, options.clamp_mtime);
    if let Encoding::Zstd(level) = encoding {
        text.push_str(&format!("zstd {level}\n"));
    }
    for id in layers {
        text.push_str(&format!("layer {id} {}\n", storage.layer_stamp(id)?));
    }
    text.push_str(&owners.map_or("no owners".to_owned(), |owners| format!("owners\n{owners}")));
    Some(Digest::of(text.as_bytes()))
}

/// What came of a layer.
#[derive(PartialEq, Eq, Debug)]
struct PushRecord {
    blob: Blob,
    /// Repositories that it was pushed to, the latest first: `HOST:PORT/REPOSITORY`.
    places: Vec<String>,
}

impl PushRecord {
    fn read(storage: &Storage, key: &Digest) -> Option<PushRecord> {
        PushRecord::parse(key, &storage.packed_note(&key.hex())?)
    }

    fn write(&self, storage: &Storage, key: &Digest) {
        let text = self.text(key);
        if storage.packed_note(&key.hex()).as_ref() == Some(&text) {
            return;
        }
        // Without it the next push packs again.
        if let Err(e) = storage.set_packed_note(&key.hex(), text.as_bytes()) {
            debug!("{e}");
        }
    }

    /// The last line is a digest of all before it, and of what it is about: a diff ID that has decayed would make an
    /// image that nobody can pull.
    fn text(&self, key: &Digest) -> String {
        let Blob { diff_id, digest, size } = self.blob;
        let text =
            format!("{diff_id} {digest} {size}\n{}", self.places.iter().map(|p| format!("{p}\n")).collect::<String>());
        format!("{text}{}\n", Digest::of(format!("{key}\n{text}").as_bytes()))
    }

    fn parse(key: &Digest, text: &str) -> Option<PushRecord> {
        let mut lines = text.lines();
        let mut words = lines.next()?.split(' ');
        let mut digest = || words.next()?.parse().ok();
        let (diff_id, digest) = (digest()?, digest()?);
        let blob = Blob { diff_id, digest, size: words.next()?.parse().ok()? };
        let mut places: Vec<String> = lines.map(str::to_owned).collect();
        places.pop();
        let note = PushRecord { blob, places };
        (note.text(key) == text).then_some(note)
    }

    /// How the blob came to be in the repository: it is there, or it was mounted from another one. `None` if it is not.
    fn find(&self, client: &Client, repository: &str) -> Result<Option<String>> {
        let digest = &self.blob.digest;
        if client.has_blob(repository, digest)? {
            return Ok(Some("already present".to_owned()));
        }
        let prefix = format!("{}/", client.endpoint());
        let mut others = self.places.iter().filter_map(|place| place.strip_prefix(&prefix));
        match others.find(|other| *other != repository) {
            Some(other) if client.mount_blob(repository, digest, other) => Ok(Some(format!("mounted from {other}"))),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    #[test]
    fn notes_are_whole_or_none() {
        let blob = Blob { diff_id: digest("a"), digest: digest("b"), size: 123 };
        let key = digest("key");
        for places in [vec![], vec!["127.0.0.1:5000/a/b".to_owned(), "[::1]:443/c".to_owned()]] {
            let note = PushRecord { blob, places };
            let text = note.text(&key);
            assert_eq!(PushRecord::parse(&key, &text), Some(note));
            assert_eq!(PushRecord::parse(&digest("other"), &text), None);
            for at in 0..text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1;
                assert_eq!(PushRecord::parse(&key, &String::from_utf8(bytes).unwrap()), None, "byte {at}");
                assert_eq!(PushRecord::parse(&key, &text[..at]), None, "cut at {at}");
            }
        }
    }

    /// What was noted by another version of this program must still be what it would pack. If this fails for a reason,
    /// raise the number in `FORMAT`, and write down the new digests.
    #[test]
    fn bytes_are_those_of_this_format() {
        let scratch = std::env::temp_dir().join(format!("ch-packed-{}", std::process::id()));
        let tree = scratch.join("tree");
        std::fs::create_dir_all(tree.join("etc")).unwrap();
        let text: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
        for (name, content) in [("etc/long", text.as_str()), ("etc/empty", ""), (&"n".repeat(200), "long name")] {
            std::fs::write(tree.join(name), content).unwrap();
            std::fs::set_permissions(tree.join(name), PermissionsExt::from_mode(0o644)).unwrap();
        }
        symlink("etc/long", tree.join("link")).unwrap();
        std::fs::hard_link(tree.join("etc/long"), tree.join("twin")).unwrap();
        for dir in [tree.clone(), tree.join("etc")] {
            std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let stack = Stack::open(&[tree]).unwrap();
        let mut tar = tar_into(std::io::sink(), Encoding::Gzip);
        let options = PackOptions { clamp_mtime: Some(1_000_000_000), ..PackOptions::default() };
        rootfs::pack(&stack, &mut tar, &options).unwrap();
        let (encoder, content) = tar.into_parts();
        let (_, blob) = encoder.finish().unwrap().into_parts();
        std::fs::remove_dir_all(&scratch).unwrap();
        assert!(FORMAT.starts_with("packed 2 by "));
        let want = [
            "afbb8b4ec8dd003813bfc5166971747e1fda39444adb705fd52ac1b7ec8b7513",
            "0d1b2d86144f642d4a95de6ad42f8c98af1fcdabe4b5d364e7d7c4cb216035c5",
        ];
        assert_eq!([content.digest().hex(), blob.digest().hex()], want);
    }
}
