//! An image as a packed image: the merged view of its layers goes straight into the file.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::super::progress::{Part, Progress};
use super::Written;
use super::format::Packing;
use crate::error::{Context, Result, bail};
use crate::rootfs::{Item, ItemId, Merged, Ownership, Stack, Step, Survey, file_xattrs};
use crate::squashfs::{Attributes, Content, Node, Options, Special, Writer};
use crate::sys::file::{self, Kind, Stat};
use crate::sys::signal;

/// What the image is, and what is wanted of it.
pub struct Source<'a> {
    pub stack: &'a Stack,
    /// By path: what is not root's, or is more than it looks like.
    pub owners: HashMap<Vec<u8>, Ownership>,
    /// No file is newer than this, seconds since 1970; and the file system is made then.
    pub not_after: Option<i64>,
}

pub fn write(source: &Source, packing: Packing, out: &File) -> Result<Written> {
    let survey = Survey::of(source.stack)?;
    let options = Options {
        compress: packing.compress,
        block_size: packing.block_size,
        threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
        time: source.not_after.map(|time| time.clamp(0, i64::from(u32::MAX)) as u32),
    };
    let progress = Progress::new("packing", Some(survey.bytes));
    let part = progress.part("image", Some(survey.bytes));
    let writer = Writer::new(out, options)?;
    let mut work = Export { source, survey: &survey, writer, part, links: HashMap::new(), written: Written::default() };
    let mut merged = Merged::new(source.stack);
    while let Some(step) = merged.step()? {
        signal::check()?;
        match step {
            Step::Enter(item) => work.enter(&item).context(|| shown(&item))?,
            Step::Leave => work.writer.leave()?,
            Step::Leaf(item) => work.leaf(&item).context(|| shown(&item))?,
        }
    }
    let (_, summary) = work.writer.finish()?;
    Ok(Written { bytes: summary.bytes, content: survey.bytes, ..work.written })
}

fn shown(item: &Item) -> String {
    format!("can't pack {}", crate::log::escape(&String::from_utf8_lossy(&item.path)))
}

struct Export<'a> {
    source: &'a Source<'a>,
    survey: &'a Survey,
    writer: Writer<&'a File>,
    part: Part<'a>,
    /// Files that have several names.
    links: HashMap<ItemId, Node>,
    written: Written,
}

impl Export<'_> {
    fn enter(&mut self, item: &Item) -> Result<()> {
        let attributes = self.attributes(item, item.dir_xattrs(self.source.stack)?);
        self.writer.enter(item.name(), &attributes)
    }

    fn leaf(&mut self, item: &Item) -> Result<()> {
        match item.stat.kind {
            Kind::File | Kind::Symlink => {}
            Kind::Dir | Kind::Whiteout | Kind::Special => {
                self.written.skipped += 1;
                return Ok(());
            }
        }
        self.written.files += 1;
        let names = self.survey.names(item);
        if names > 1
            && let Some(node) = self.links.get(&item.id())
        {
            return self.writer.link(item.name(), *node);
        }
        let node = self.first(item, names)?;
        if names > 1 {
            self.links.insert(item.id(), node);
        }
        Ok(())
    }

    /// What stands under the first of so many names.
    fn first(&mut self, item: &Item, names: u32) -> Result<Node> {
        let stack = self.source.stack;
        if item.stat.kind == Kind::Symlink {
            let attributes = Attributes { mode: 0o777, ..self.attributes(item, Vec::new()) };
            return self.writer.symlink(item.name(), &attributes, names, &item.target(stack)?);
        }
        if let Some((is_block, major, minor)) = self.source.owners.get(&item.path).and_then(|owner| owner.device) {
            let device = if is_block { Special::Block(major, minor) } else { Special::Char(major, minor) };
            let attributes = self.attributes(item, Vec::new());
            return self.writer.special(item.name(), &attributes, names, device);
        }
        let file = item.open(stack)?;
        let attributes = self.attributes(item, file_xattrs(&file)?);
        let mut open = Open { file, stat: &item.stat, part: &mut self.part };
        self.writer.file(item.name(), &attributes, names, item.stat.size, &mut open)
    }

    fn attributes(&self, item: &Item, mut xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Attributes {
        let own = Ownership::default();
        let owner = self.source.owners.get(&item.path).unwrap_or(&own);
        if let Some(value) = &owner.capability {
            xattrs.insert(0, (b"security.capability".to_vec(), value.clone()));
        }
        Attributes {
            // Set-id bits that a tree has on disk lend somebody's rights: they are nobody's here.
            mode: item.stat.mode & 0o1777 | owner.bits,
            uid: owner.uid,
            gid: owner.gid,
            mtime: self.source.not_after.map_or(item.stat.mtime.sec, |most| item.stat.mtime.sec.min(most)),
            xattrs,
        }
    }
}

/// A file of a layer.
struct Open<'o, 'p> {
    file: File,
    stat: &'o Stat,
    part: &'o mut Part<'p>,
}

impl Content for Open<'_, '_> {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        signal::check()?;
        if let Err(e) = self.file.read_exact_at(out, offset) {
            if e.kind() == std::io::ErrorKind::UnexpectedEof {
                bail!("file became shorter while it was read");
            }
            return Err(e).context(|| "can't read");
        }
        self.part.add(out.len() as u64);
        Ok(())
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<(u64, u64)>> {
        // Only a file that takes less room than its size is asked for holes.
        if self.stat.allocated >= self.stat.size {
            return Ok(Some((offset, self.stat.size)));
        }
        Ok(file::next_data(&self.file, offset, self.stat.size)?)
    }
}
