//! What do the sources hold? One digest for the build cache: paths, types, modes, contents, targets of links.
//!
//! Which files are one (hard links) counts, times and attributes do not. Files are hashed by several threads, a batch at
//! a time, so that memory is bounded; what the memo knows is not read at all. Of large files only those parts count
//! that are not all zeros, so that their holes are not read either.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::memo::{Memo, raw};
use super::visit::{Step, visit};
use super::{Plan, Sources};
use crate::error::{Context, Error, Result};
use crate::oci::digest::{Digest, Hasher};
use crate::rootfs::holes::{self, ZEROS};
use crate::rootfs::resolve::{self, split};
use crate::rootfs::root::{Root, show};
use crate::sys::file::{self, Kind, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, Stat};

/// A batch is hashed when it has so many files or bytes.
const BATCH_FILES: usize = 2048;
const BATCH_BYTES: u64 = 256 << 20;
/// Below this, another thread costs more than it saves.
const WORTH_FILES: usize = 64;
const WORTH_BYTES: u64 = 4 << 20;

/// From this size on a file is hashed without its zeros.
const LARGE: u64 = 64 << 20;

/// So many files and directories are told apart.
const MOST_LISTED: usize = 100;

/// What sources hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Of all.
    pub digest: Digest,
    /// Path of each file, link and directory, and what it is: kind, mode and digest. Empty if there are many.
    pub files: Vec<(String, String)>,
    /// Of what tells that a file was touched: if it is the same later, nothing has changed meanwhile.
    pub stamp: Digest,
}

/// What [`super::apply`] would copy. `threads`: at most so many hash.
pub fn contents(plan: &Plan, sources: &Sources, memo: &mut Memo, threads: usize) -> Result<Contents> {
    let mut work = Work {
        root: sources.root,
        memo,
        threads,
        sum: Hasher::default(),
        stamp: Hasher::default(),
        batch: Vec::new(),
        bytes: 0,
        count: 0,
        files: Vec::new(),
        seen: 0,
        links: HashMap::new(),
    };
    for item in &plan.items {
        work.text(b"source", &[item.name(), &item.below, if item.is_dir { b"d" } else { b"f" }]);
        // Directories that count only if something in them does.
        let mut waiting: Vec<Vec<Entry>> = Vec::new();
        visit(sources, item, &mut |step| {
            match step {
                Step::Enter { name, path, stat, kept, .. } => {
                    waiting.push(vec![Entry::of(b"dir", stat, name, b"").at(path)]);
                    if kept {
                        work.take(&mut waiting)?;
                    }
                }
                Step::Leave => {
                    if waiting.pop().is_some_and(|entry| entry.is_empty()) {
                        work.push(Entry { fields: vec![b"up".to_vec()], path: Vec::new(), file: None, digest: None })?;
                    }
                }
                Step::Leaf { dir, name, path, stat } => match stat.kind {
                    Kind::File => {
                        work.take(&mut waiting)?;
                        work.stamp(stat);
                        let mut entry = Entry::of(b"file", stat, name, work.same_as(stat).as_bytes()).at(path);
                        entry.digest = work.memo.find(stat);
                        entry.file = Some((path.to_vec(), *stat)).filter(|_| entry.digest.is_none());
                        work.push(entry)?;
                    }
                    Kind::Symlink => {
                        work.take(&mut waiting)?;
                        // A link has no mode of its own.
                        let plain = Stat { mode: 0, ..*stat };
                        work.push(Entry::of(b"link", &plain, name, &file::readlinkat(dir, name)?).at(path))?;
                    }
                    // Not copied either.
                    Kind::Dir | Kind::Whiteout | Kind::Special => {}
                },
            }
            Ok(())
        })?;
    }
    work.flush()?;
    let files = if work.count > MOST_LISTED { Vec::new() } else { work.files };
    Ok(Contents { digest: work.sum.digest(), files, stamp: work.stamp.digest() })
}

struct Work<'a> {
    root: &'a Root,
    memo: &'a mut Memo,
    threads: usize,
    sum: Hasher,
    stamp: Hasher,
    batch: Vec<Entry>,
    bytes: u64,
    /// Files, links and directories so far.
    count: usize,
    files: Vec<(String, String)>,
    /// Files so far.
    seen: usize,
    /// Those with several names, by device and inode: how many files came before.
    links: HashMap<(u64, u64), usize>,
}

struct Entry {
    fields: Vec<Vec<u8>>,
    /// From the sources' root; empty for what is none.
    path: Vec<u8>,
    /// A file still to be hashed.
    file: Option<(Vec<u8>, Stat)>,
    digest: Option<[u8; 32]>,
}

impl Entry {
    fn of(kind: &[u8], stat: &Stat, name: &[u8], more: &[u8]) -> Entry {
        let mode = format!("{:o}", stat.mode).into_bytes();
        let fields = vec![kind.to_vec(), mode, name.to_vec(), more.to_vec()];
        Entry { fields, path: Vec::new(), file: None, digest: None }
    }

    fn at(self, path: &[u8]) -> Entry {
        Entry { path: path.to_vec(), ..self }
    }
}

impl Work<'_> {
    /// Lengths come first, so that no two lists of fields give the same bytes.
    fn text(&mut self, kind: &[u8], fields: &[&[u8]]) {
        let entry = Entry {
            fields: std::iter::once(kind).chain(fields.iter().copied()).map(<[u8]>::to_vec).collect(),
            path: Vec::new(),
            file: None,
            digest: None,
        };
        self.batch.push(entry);
    }

    /// Which of the files before is this one by another name? Empty if none.
    fn same_as(&mut self, stat: &Stat) -> String {
        let before = self.seen;
        self.seen += 1;
        if stat.nlink < 2 {
            return String::new();
        }
        match self.links.entry((stat.dev, stat.ino)) {
            Occupied(first) => first.get().to_string(),
            Vacant(new) => {
                new.insert(before);
                String::new()
            }
        }
    }

    fn stamp(&mut self, stat: &Stat) {
        // No inode: some file systems (sshfs) give a file another one any time.
        let times = [stat.mtime, stat.ctime].map(|time| [time.sec as u64, u64::from(time.nsec)]);
        let fields = times.iter().flatten().chain([&stat.size]);
        fields.for_each(|field| self.stamp.update(&field.to_le_bytes()));
    }

    /// Counts directories that waited for content.
    fn take(&mut self, waiting: &mut [Vec<Entry>]) -> Result<()> {
        for entry in waiting.iter_mut().flat_map(std::mem::take) {
            self.push(entry)?;
        }
        Ok(())
    }

    fn push(&mut self, entry: Entry) -> Result<()> {
        self.bytes = self.bytes.saturating_add(entry.file.as_ref().map_or(0, |(_, stat)| stat.size));
        self.batch.push(entry);
        if self.batch.len() >= BATCH_FILES || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.hash()?;
        for entry in self.batch.drain(..) {
            self.sum.update(&(entry.fields.len() as u64).to_le_bytes());
            for field in &entry.fields {
                self.sum.update(&(field.len() as u64).to_le_bytes());
                self.sum.update(field);
            }
            self.sum.update(&entry.digest.unwrap_or_default());
            if !entry.path.is_empty() {
                self.count += 1;
                if self.count <= MOST_LISTED {
                    let [kind, mode] = [0, 1].map(|n| String::from_utf8_lossy(&entry.fields[n]));
                    let own = Digest::of(&[&entry.fields[3], &entry.digest.unwrap_or_default()[..]].concat());
                    self.files.push((show(&entry.path), format!("{kind} {mode} {own}")));
                }
            }
            if let (Some((_, stat)), Some(digest)) = (&entry.file, entry.digest) {
                self.memo.keep(stat, digest);
            }
        }
        self.bytes = 0;
        Ok(())
    }

    /// Hashes the batch's files.
    fn hash(&mut self) -> Result<()> {
        let mut todo: Vec<&mut Entry> = self.batch.iter_mut().filter(|entry| entry.file.is_some()).collect();
        let worth = todo.len() >= WORTH_FILES || self.bytes >= WORTH_BYTES;
        let threads = if worth { self.threads.min(todo.len()).max(1) } else { 1 };
        let root = self.root;
        if threads == 1 {
            let mut buf = vec![0; 256 << 10];
            return todo.iter_mut().try_for_each(|entry| hash_one(root, entry, &mut buf));
        }
        let next = AtomicUsize::new(0);
        let cells: Vec<std::sync::Mutex<&mut Entry>> = todo.into_iter().map(std::sync::Mutex::new).collect();
        let work = || -> Result<()> {
            let mut buf = vec![0; 256 << 10];
            while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                hash_one(root, &mut cell.lock().unwrap_or_else(|e| e.into_inner()), &mut buf)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            // Where no thread is to be had, this one does it all.
            let helpers: Vec<_> = (1..threads)
                .map_while(|_| thread::Builder::new().name("hash".into()).spawn_scoped(scope, work).ok())
                .collect();
            let mine = work();
            helpers.into_iter().fold(mine, |result, helper| {
                result.and(helper.join().unwrap_or_else(|_| Err(Error::new("hashing thread failed"))))
            })
        })
    }
}

fn hash_one(root: &Root, entry: &mut Entry, buf: &mut [u8]) -> Result<()> {
    let Some((path, _)) = &entry.file else { return Ok(()) };
    let mut hash = || -> Result<Digest> {
        let (parent, name) = split(path);
        let dir = resolve::reopen(root.as_fd(), parent)?;
        let file = File::from(file::openat(dir.as_fd(), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0)?);
        let size = file::fstat(file.as_fd())?.size;
        let mut hasher = Hasher::default();
        if size >= LARGE {
            // Parts of equal size, each with its place: no two files have the same.
            hasher.update(format!("parts of {} of {size}", buf.len()).as_bytes());
        }
        let mut at = 0u64;
        // If it changes meanwhile, its stamp tells.
        holes::read(&file, u64::MAX, buf, &mut |zeros, bytes| -> Result<()> {
            if size < LARGE {
                (0..zeros.div_ceil(ZEROS.len() as u64)).for_each(|n| {
                    hasher.update(&ZEROS[..(zeros - n * ZEROS.len() as u64).min(ZEROS.len() as u64) as usize]);
                });
                hasher.update(bytes);
            } else if !holes::is_zero(bytes) {
                hasher.update(&(at + zeros).to_le_bytes());
                hasher.update(bytes);
            }
            at += zeros + bytes.len() as u64;
            Ok(())
        })?;
        Ok(hasher.digest())
    };
    entry.digest = Some(raw(&hash().context(|| format!("can't copy {}", show(path)))?));
    Ok(())
}
