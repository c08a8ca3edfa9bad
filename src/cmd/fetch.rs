//! How do layers get here? Several at a time, verified while they arrive, continued where an earlier download stopped.
//!
//! No order is promised among layers, so nothing here knows what lies below a layer: `pull` puts that right afterwards.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::list::bytes;
use super::progress::{Part, Progress};
use super::readahead::{ahead, start};
use super::remote::Remote;
use crate::compress::stream::{Decoder, Proof};
use crate::error::{Context, Error, Result};
use crate::image::{layers, owners};
use crate::log::{info, verbose, warning};
use crate::oci::digest::{Digest, Hashing};
use crate::oci::manifest::Descriptor;
use crate::oci::size::total;
use crate::registry::blob::BlobReader;
use crate::rootfs::{self, Form, Limits, Room, Root, Unpacked};
use crate::storage::{Draft, Ingest, Storage, TableWriter};
use crate::sys::fs::{mount_point, space};
use crate::sys::signal;

/// Most layers under way at a time: enough to keep two or three cores and a network busy.
const WORKERS: usize = 4;

/// Where layers come from, where they go, and as what.
pub struct Fetcher<'a> {
    /// In the order in which to ask.
    pub places: &'a [Remote],
    pub storage: &'a Storage,
    pub no_cache: bool,
    /// Plain: blobs alone, since layers have to be applied in order. Overlay: each is unpacked into its own draft.
    pub form: Form,
    /// For what all layers say of names.
    pub room: Room,
}

/// A layer as it was downloaded.
pub enum Bytes {
    /// Now. It has no name yet.
    Ingest(Ingest),
    /// Before. Open, since it may lose its name at any time.
    Blob(File),
}

impl Bytes {
    /// All of them, from the start.
    pub fn reader(&self) -> Result<Box<dyn Read + Send>> {
        Ok(match self {
            Bytes::Ingest(ingest) => Box::new(ingest.reader()?),
            Bytes::Blob(file) => {
                let mut file = file.try_clone().context(|| "can't read a blob")?;
                file.rewind().context(|| "can't read a blob")?;
                Box::new(file)
            }
        })
    }

    /// What has to be published.
    pub fn into_ingest(self) -> Option<Ingest> {
        match self {
            Bytes::Ingest(ingest) => Some(ingest),
            Bytes::Blob(_) => None,
        }
    }
}

/// What a worker made of a layer.
pub struct Fetched {
    pub bytes: Bytes,
    /// Only where layers are unpacked side by side.
    pub unpacked: Option<Apart>,
}

/// A layer that is unpacked, and knows nothing yet of those below it.
pub struct Apart {
    pub draft: Draft,
    pub unpacked: Unpacked,
    pub diff_id: Digest,
    pub owners: TableWriter,
}

impl Fetcher<'_> {
    /// Before hours of downloading: an error where not even the downloads find room on the file system.
    fn check_space(&self, descriptors: &[Descriptor], here: &[bool]) -> Result<()> {
        let wanted = descriptors.iter().zip(here).filter(|(_, here)| !**here).map(|(descriptor, _)| descriptor);
        // One that stands there several times is downloaded once.
        let missing: HashMap<Digest, u64> = wanted
            .filter(|layer| self.storage.blob(&layer.digest, layer.size).is_none())
            .map(|layer| (layer.digest, layer.size.saturating_sub(self.storage.arrived(&layer.digest))))
            .collect();
        let needed = total(missing.into_values());
        let dir = File::open(self.storage.path()).context(|| "can't open the storage directory")?;
        // What the file system does not say is no reason to give up.
        let Ok(now) = space(&dir) else { return Ok(()) };
        if needed <= now.free {
            return Ok(());
        }
        let place = mount_point(&dir).unwrap_or_else(|| self.storage.path().to_owned());
        let (needed, free) = (bytes(needed), bytes(now.free));
        Err(Error::new(format!("not enough space: {needed} to download, {free} free on {}", place.display())).hint(
            "unpacked, layers commonly take 2 to 3 times as much besides; free space with \"ch-image gc\" or \"ch-image \
             delete\", or use another storage directory",
        ))
    }

    /// Gets the layers that are not `here`, a few at a time, largest first.
    pub fn fetch_all(
        &self,
        descriptors: &[Descriptor],
        here: &[bool],
        diff_ids: Option<&[Digest]>,
    ) -> Result<Vec<Option<Fetched>>> {
        let total = descriptors.len();
        let mut order: Vec<usize> = Vec::new();
        let mut to_download = 0u64;
        for (i, descriptor) in descriptors.iter().enumerate() {
            let cached = here[i] || !self.no_cache && self.storage.blob(&descriptor.digest, descriptor.size).is_some();
            let how = if cached { "using existing file" } else { "downloading" };
            info!("{}: {how}", label(i, total, descriptor));
            // A layer that stands twice in a manifest is fetched once; unpacked twice, since its place differs.
            if !here[i] {
                order.push(i);
            }
            if !cached {
                to_download = to_download.saturating_add(descriptor.size);
            }
        }
        self.check_space(descriptors, here)?;
        order.sort_by_key(|&i| std::cmp::Reverse(descriptors[i].size));
        let results: Vec<Mutex<Option<Result<Fetched>>>> = descriptors.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let progress = Progress::new("downloading", Some(to_download));
        let work = || {
            while let Some(&i) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let want = diff_ids.map(|ids| ids[i]);
                let label = label(i, total, &descriptors[i]);
                let result = self.fetch(&descriptors[i], &label, want, &progress, &stop);
                if result.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                *results[i].lock().unwrap_or_else(|e| e.into_inner()) = Some(result);
            }
        };
        thread::scope(|scope| {
            // As many helpers as there may be; this thread works, too.
            let _ = (1..WORKERS.min(order.len())).try_for_each(|_| start(scope, work));
            work();
        });
        let results: Vec<Option<Result<Fetched>>> =
            results.into_iter().map(|m| m.into_inner().unwrap_or_else(|e| e.into_inner())).collect();
        // Of several failures, the one that was not caused by stopping.
        let mut stopped = None;
        let mut fetched = Vec::new();
        for result in results {
            match result {
                None => fetched.push(None),
                Some(Ok(f)) => fetched.push(Some(f)),
                Some(Err(e)) if e.to_string().ends_with(STOPPED) => stopped = Some(e),
                Some(Err(e)) => return Err(e),
            }
        }
        match stopped {
            Some(e) => Err(e),
            None => Ok(fetched),
        }
    }

    /// One layer: download and verify; in overlay form unpack at the same time.
    fn fetch(
        &self,
        descriptor: &Descriptor,
        label: &str,
        want: Option<Digest>,
        progress: &Progress,
        stop: &AtomicBool,
    ) -> Result<Fetched> {
        if let Some(file) = self.storage.blob(&descriptor.digest, descriptor.size).filter(|_| !self.no_cache) {
            match self.use_blob(file, descriptor, label, want) {
                Ok(fetched) => return Ok(fetched),
                Err(Reuse::Fatal(e)) => return Err(e),
                Err(Reuse::Damaged) => {
                    warning!("{label}: damaged in storage, downloading again");
                    self.storage.drop_blob(&descriptor.digest)?;
                }
            }
        }
        let mut ingest = self.storage.ingest(&descriptor.digest, descriptor.size)?;
        if self.no_cache {
            ingest.restart()?;
        }
        loop {
            let arrived = ingest.offset();
            let unpacked = self.receive(&mut ingest, descriptor, label, want, progress, stop);
            if arrived > 0 && ingest.is_complete() && !ingest.is_right() {
                // After a power cut it may be zeros; the registry is not to blame.
                warning!("{label}: the partial download is damaged, downloading again");
                ingest.restart()?;
                continue;
            }
            if ingest.is_complete() {
                ingest.finish().context(|| label.to_owned())?;
            }
            return Ok(Fetched { bytes: Bytes::Ingest(ingest), unpacked: unpacked? });
        }
    }

    /// Downloads what is missing; in overlay form unpacks all of it.
    fn receive(
        &self,
        ingest: &mut Ingest,
        descriptor: &Descriptor,
        label: &str,
        want: Option<Digest>,
        progress: &Progress,
        stop: &AtomicBool,
    ) -> Result<Option<Apart>> {
        let arrived = ingest.offset();
        if arrived > 0 {
            verbose!("{label}: continuing after {arrived} bytes");
        }
        let mut part = progress.part(label, Some(descriptor.size));
        part.begin_at(arrived);
        let before = ingest.reader()?.take(arrived);
        let rest = Relay { places: self.places, descriptor, at: arrived, now: None, failed: None };
        let mut arriving = before.chain(Tee { source: rest, ingest, part, stop });
        match self.form {
            Form::Plain => io::copy(&mut arriving, &mut io::sink()).context(|| label.to_owned()).map(|_| None),
            Form::Overlay => {
                let result = self.unpack(&mut arriving, label, want);
                // Bad content may be the fault of bad bytes: that is the error to show.
                if result.is_err() && !stop.load(Ordering::Relaxed) {
                    io::copy(&mut arriving, &mut io::sink()).context(|| label.to_owned())?;
                }
                result.map(Some)
            }
        }
    }

    /// Unpacks a layer into a draft of its own.
    fn unpack(&self, source: impl Read + Send, label: &str, want: Option<Digest>) -> Result<Apart> {
        let draft = layers::new_tree(self.storage)?;
        let root = Root::open(&draft.path().join("tree"))?;
        root.forget_time()?;
        let mut owners = TableWriter::new(&draft);
        let (unpacked, diff_id) = apply(source, (&root, self.form), label, want, &mut owners, &self.room)?;
        owners.pause()?;
        Ok(Apart { draft, unpacked, diff_id, owners })
    }

    /// Unpacks a blob that is in storage, verifying it again on the way.
    fn use_blob(
        &self,
        file: fs::File,
        descriptor: &Descriptor,
        label: &str,
        want: Option<Digest>,
    ) -> Result<Fetched, Reuse> {
        let mut hashed = Hashing::new(file);
        let result = match self.form {
            Form::Plain => Ok(None),
            Form::Overlay => self.unpack(&mut hashed, label, want).map(Some),
        };
        io::copy(&mut hashed, &mut io::sink()).context(|| label.to_owned())?;
        let (file, hasher) = hashed.into_parts();
        if hasher.digest() != descriptor.digest {
            return Err(Reuse::Damaged);
        }
        Ok(Fetched { bytes: Bytes::Blob(file), unpacked: result? })
    }
}

enum Reuse {
    Damaged,
    Fatal(Error),
}

impl From<Error> for Reuse {
    fn from(e: Error) -> Reuse {
        Reuse::Fatal(e)
    }
}

const STOPPED: &str = "stopped, since another layer failed";

/// A blob from the first place that has it; where one fails, the next goes on. What the last one says is final.
struct Relay<'a> {
    places: &'a [Remote],
    descriptor: &'a Descriptor,
    at: u64,
    now: Option<BlobReader<'a>>,
    failed: Option<Error>,
}

impl Relay<'_> {
    fn read_here(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let reader = match (&mut self.now, self.places) {
            (Some(reader), _) => reader,
            (None, [Remote { client, repository }, ..]) => {
                self.now.insert(client.blob(repository, self.descriptor, self.at)?)
            }
            (None, []) => return Err(Error::new("no registry").into()),
        };
        reader.read(buf)
    }
}

impl Read for Relay<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = &self.failed {
            return Err(error.clone().into());
        }
        loop {
            let error = match self.read_here(buf) {
                Ok(n) => {
                    self.at += n as u64;
                    return Ok(n);
                }
                Err(e) => e.downcast::<Error>().unwrap_or_else(Error::from),
            };
            match self.places {
                [mirror, rest @ ..] if !rest.is_empty() => {
                    verbose!("mirror {mirror}: {error}");
                    (self.places, self.now) = (rest, None);
                }
                _ => {
                    self.failed = Some(error.clone());
                    return Err(error.into());
                }
            }
        }
    }
}

/// Keeps what comes from the network.
struct Tee<'a, R> {
    source: R,
    ingest: &'a mut Ingest,
    part: Part<'a>,
    stop: &'a AtomicBool,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::new(STOPPED).into());
        }
        signal::check()?;
        let n = self.source.read(buf)?;
        self.ingest.write_all(&buf[..n])?;
        self.part.add(n as u64);
        Ok(n)
    }
}

/// Unpacks a layer's bytes, whatever their compression; checks the digest of what is inside. Reading, inflating and
/// writing each have a thread.
pub fn apply(
    source: impl Read + Send,
    (root, form): (&Root, Form),
    label: &str,
    want: Option<Digest>,
    owners: &mut TableWriter,
    room: &Room,
) -> Result<(Unpacked, Digest)> {
    let limits = Limits { room: room.clone(), ..Limits::of(root)? };
    thread::scope(|scope| {
        let failed = || label.to_owned();
        let proof = want.map_or(Proof::Crc, |_| Proof::Digest);
        let decoder = Decoder::new(ahead(scope, source).context(failed)?, proof).context(failed)?;
        let mut tar = Hashing::new(ahead(scope, decoder).context(failed)?);
        let mut told = |path: &[u8], told| owners::write(owners, path, &told, &mut owners::alone);
        let unpacked = rootfs::unpack_owned(&mut tar, root, form, label, &limits, &mut told)?;
        // What follows the archive's end belongs to the digests, too.
        io::copy(&mut tar, &mut io::sink()).context(|| label.to_owned())?;
        let got = tar.hasher().digest();
        match want {
            Some(want) if want != got => Err(Error::new(format!(
                "{label}: content differs from the image's configuration: diff ID {got} instead of {want}"
            ))),
            _ => Ok((unpacked, got)),
        }
    })
}

pub fn label(i: usize, total: usize, descriptor: &Descriptor) -> String {
    format!("layer {}/{total}: {}", i + 1, descriptor.digest.short())
}
