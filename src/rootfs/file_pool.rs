//! Who copies the content of files while a read-only tree becomes a directory? A bounded pool of threads, each a file at
//! a time: decoding and writing take most of the time, and files do not depend on one another.
//!
//! The error that is told is that of the first file that failed, in the order of the tree, whoever copied it.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard};
use std::thread::{Builder, Scope};

use super::checksum::FileSum;
use super::limits::Limits;
use super::metadata::{PLAIN_MODE, set_xattrs};
use super::root::{Root, show};
use super::unpack::CHECK_BYTES;
use crate::error::{Context, Error, Result, bail};
use crate::sys::file::{self, Time};
use crate::sys::signal;
use crate::tree::{Attributes, Id, Tree};

/// Threads at most: each has a buffer.
const MOST_THREADS: usize = 8;
/// Batches of files that wait, and files in each: all of them are open.
const QUEUE: usize = 8;
const BATCH: usize = 8;
/// Bytes that are copied at once; a multiple of every block size.
const BUFFER: usize = 1 << 20;
/// Bytes in holes that are summed up, of all files together: a file of nothing may say any size.
const SUMMED_HOLES: u64 = 1 << 30;

/// A file that was made, and is empty.
pub struct Job {
    pub file: File,
    pub id: Id,
    pub attributes: Attributes,
    pub path: Vec<u8>,
}

/// What all files together have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    pub bytes: u64,
    /// Sum of the sums of all; `None` if there is more in holes than is summed up.
    pub content: Option<u64>,
}

/// What those who copy share.
pub struct Copying<'a> {
    tree: &'a dyn Tree,
    root: &'a Root,
    limits: &'a Limits,
    /// Bytes since the free space was looked at.
    unchecked: AtomicU64,
    /// Bytes in holes that may still be summed up.
    holes: AtomicU64,
    totals: Mutex<Totals>,
    failed: AtomicBool,
    /// The first file that failed, by its number.
    error: Mutex<Option<(u64, Error)>>,
}

/// Takes files. Dropped when there are no more.
pub struct Pool<'c, 'a> {
    copying: &'c Copying<'a>,
    /// Without threads, the caller's copies.
    queue: Option<SyncSender<Batch>>,
    batch: Vec<Job>,
    buffer: Vec<u8>,
    submitted: u64,
}

/// Number of the first file, and files that are behind one another.
type Batch = (u64, Vec<Job>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl<'a> Copying<'a> {
    pub fn new(tree: &'a dyn Tree, root: &'a Root, limits: &'a Limits) -> Copying<'a> {
        Copying {
            tree,
            root,
            limits,
            unchecked: AtomicU64::new(0),
            holes: AtomicU64::new(SUMMED_HOLES),
            totals: Mutex::new(Totals { bytes: 0, content: Some(0) }),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
        }
    }

    /// `queue` is what the threads share, and lives as long as they do.
    pub fn start<'s>(&'s self, scope: &'s Scope<'s, '_>, queue: &'s Queue, threads: usize) -> Pool<'s, 'a> {
        let (sender, receiver) = sync_channel(QUEUE);
        *locked(&queue.0) = Some(receiver);
        // One alone would only be in the way.
        let wanted = if threads < 2 { 0 } else { threads.min(MOST_THREADS) };
        let spawn = |_: &usize| Builder::new().name("copy".into()).spawn_scoped(scope, || self.work(queue)).is_ok();
        let started = (0..wanted).take_while(spawn).count();
        Pool {
            copying: self,
            queue: (started > 0).then_some(sender),
            batch: Vec::new(),
            buffer: if started > 0 { Vec::new() } else { vec![0; BUFFER] },
            submitted: 0,
        }
    }

    fn work(&self, queue: &Queue) {
        let mut buffer = vec![0; BUFFER];
        while let Some((first, batch)) = queue.next() {
            // What was taken after this was submitted after this, too.
            if self.failed.load(Ordering::Relaxed) {
                continue;
            }
            for (number, job) in (first..).zip(batch) {
                if let Err(e) = self.copy(&job, &mut buffer).context(|| show(&job.path)) {
                    self.fail(number, e);
                    break;
                }
            }
        }
    }

    fn fail(&self, number: u64, e: Error) {
        let mut first = locked(&self.error);
        if first.as_ref().is_none_or(|(earlier, _)| number < *earlier) {
            *first = Some((number, e));
        }
        self.failed.store(true, Ordering::Relaxed);
    }

    /// What was copied, once all is.
    pub fn finish(self) -> Result<Totals> {
        match self.error.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some((_, e)) => Err(e),
            None => Ok(self.totals.into_inner().unwrap_or_else(|e| e.into_inner())),
        }
    }

    fn copy(&self, job: &Job, buffer: &mut [u8]) -> Result<()> {
        let Job { file, id, attributes, .. } = job;
        self.content(file, *id, attributes.size, buffer)?;
        set_xattrs(file.as_fd(), &self.tree.xattrs(*id)?)?;
        file::fchmod(file.as_fd(), attributes.mode & PLAIN_MODE | 0o600)?;
        Ok(file::futimens(file.as_fd(), Time { sec: attributes.mtime, nsec: 0 })?)
    }

    fn content(&self, file: &File, id: Id, size: u64, buffer: &mut [u8]) -> Result<()> {
        let mut sum = Some(FileSum::new());
        let mut at = 0;
        while at < size
            && let Some((start, end)) = self.tree.next_data(id, at)?
        {
            sum = self.hole(sum, start.saturating_sub(at))?;
            at = start;
            while at < end {
                signal::check()?;
                let want = (end - at).min(buffer.len() as u64) as usize;
                let n = self.tree.read_at(id, at, &mut buffer[..want])?;
                if n == 0 {
                    bail!("has only {at} bytes of {size}");
                }
                file.write_all_at(&buffer[..n], at)?;
                if let Some(sum) = &mut sum {
                    sum.update(&buffer[..n]);
                }
                at += n as u64;
                self.count(n as u64)?;
            }
        }
        if at < size {
            sum = self.hole(sum, size - at)?;
            file.set_len(size)?;
        }
        let mut totals = locked(&self.totals);
        totals.content = totals.content.zip(sum).map(|(all, sum)| all.wrapping_add(sum.finish()));
        totals.bytes = totals.bytes.saturating_add(size);
        Ok(())
    }

    /// The sum with so many zeros behind it. `None` if that would take long: then the tree is read, if it must be.
    fn hole(&self, sum: Option<FileSum>, bytes: u64) -> Result<Option<FileSum>> {
        let less = |left: u64| left.checked_sub(bytes);
        let Some(mut sum) = sum.filter(|_| self.holes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok())
        else {
            return Ok(None);
        };
        sum.zeros(bytes)?;
        Ok(Some(sum))
    }

    fn count(&self, bytes: u64) -> Result<()> {
        if self.unchecked.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) >= CHECK_BYTES {
            self.unchecked.store(0, Ordering::Relaxed);
            self.limits.check(self.root)?;
        }
        Ok(())
    }
}

/// Files on their way to the threads.
#[derive(Default)]
pub struct Queue(Mutex<Option<Receiver<Batch>>>);

impl Queue {
    /// `None` at the end.
    fn next(&self) -> Option<Batch> {
        locked(&self.0).as_ref()?.recv().ok()
    }
}

impl Pool<'_, '_> {
    /// Copies a file, now or soon. An error may be that of one before. After the last one, call [`Pool::flush`].
    pub fn submit(&mut self, job: Job) -> Result<()> {
        if self.queue.is_none() {
            return self.copying.copy(&job, &mut self.buffer);
        }
        // What takes long does not wait for others.
        let is_large = job.attributes.size >= BUFFER as u64;
        self.batch.push(job);
        if is_large || self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Hands over what is left.
    pub fn flush(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let first = self.submitted;
        self.submitted += batch.len() as u64;
        let Some(queue) = self.queue.as_ref().filter(|_| !batch.is_empty()) else { return Ok(()) };
        // Which error it was, `Copying::finish` tells.
        if self.copying.failed.load(Ordering::Relaxed) || queue.send((first, batch)).is_err() {
            bail!("another file can't be copied");
        }
        Ok(())
    }
}
