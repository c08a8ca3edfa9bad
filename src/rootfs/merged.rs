//! What is in the merged view of layers, from the root down? Told step by step, for whoever writes it into a file of
//! another kind. `pack` has its own walk, since it can tell differences, too.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::pack::xattrs_of;
use super::resolve::{join, split};
use super::root::show;
use super::stack::{Found, Stack};
use crate::error::{Context, Result};
use crate::sys::file::{self, Kind, Stat};

/// A name in the merged view.
#[derive(Debug)]
pub struct Item {
    /// From the root, without leading slash; empty for the root.
    pub path: Vec<u8>,
    /// Of a directory, what its top layer says.
    pub stat: Stat,
    layer: usize,
}

/// The same for all names of a file.
pub type ItemId = (usize, u64, u64);

impl Item {
    pub fn name(&self) -> &[u8] {
        split(&self.path).1
    }

    pub fn id(&self) -> ItemId {
        (self.layer, self.stat.dev, self.stat.ino)
    }

    /// Opens a regular file.
    pub fn open(&self, stack: &Stack) -> io::Result<File> {
        stack.open_in(self.layer, &self.path)
    }

    /// Where a symbolic link leads.
    pub fn target(&self, stack: &Stack) -> io::Result<Vec<u8>> {
        file::readlinkat(stack.layer(self.layer).as_fd(), &self.path)
    }

    /// Attributes of a directory that belong to the image.
    pub fn dir_xattrs(&self, stack: &Stack) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        xattrs_of(stack.open_dir_in(self.layer, &self.path)?.as_fd())
    }
}

/// Attributes of a file that belong to the image.
pub fn file_xattrs(file: &File) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    xattrs_of(file.as_fd())
}

pub enum Step {
    /// Into a directory: what comes next is in it.
    Enter(Item),
    /// Out of the directory that was entered last.
    Leave,
    Leaf(Item),
}

/// A walk through the merged view: names of a directory come in the order of their bytes.
pub struct Merged<'a> {
    stack: &'a Stack,
    levels: Vec<std::collections::btree_map::IntoIter<Vec<u8>, Found>>,
    paths: Vec<Vec<u8>>,
    begun: bool,
}

impl<'a> Merged<'a> {
    pub fn new(stack: &'a Stack) -> Merged<'a> {
        Merged { stack, levels: Vec::new(), paths: Vec::new(), begun: false }
    }

    /// `None` at the end.
    pub fn step(&mut self) -> Result<Option<Step>> {
        if !self.begun {
            self.begun = true;
            let root = self.stack.root();
            let Some(&layer) = root.layers.first() else { crate::error::bail!("image has no layers") };
            let stat = file::fstat(self.stack.layer(layer).as_fd())?;
            self.levels.push(self.stack.list(&root).context(|| "can't read the root directory")?.into_iter());
            self.paths.push(Vec::new());
            return Ok(Some(Step::Enter(Item { path: Vec::new(), stat, layer })));
        }
        let (Some(level), Some(path)) = (self.levels.last_mut(), self.paths.last()) else { return Ok(None) };
        let Some((name, found)) = level.next() else {
            self.levels.pop();
            self.paths.pop();
            return Ok(Some(Step::Leave));
        };
        let path = join(path, &name);
        match found {
            Found::Other(layer, stat) => Ok(Some(Step::Leaf(Item { path, stat, layer }))),
            Found::Dir(node, stat) => {
                let list = self.stack.list(&node).context(|| format!("can't read directory {}", show(&path)))?;
                let layer = node.layers.first().copied().unwrap_or_default();
                self.levels.push(list.into_iter());
                self.paths.push(path.clone());
                Ok(Some(Step::Enter(Item { path, stat, layer })))
            }
        }
    }
}

/// What a walk would tell, in numbers.
#[derive(Debug, Default)]
pub struct Survey {
    /// Names that are no directories.
    pub files: u64,
    /// Content of files, in bytes, each file once.
    pub bytes: u64,
    /// How many names the files have that may have several.
    names: HashMap<ItemId, u32>,
}

impl Survey {
    pub fn of(stack: &Stack) -> Result<Survey> {
        let mut survey = Survey::default();
        let mut merged = Merged::new(stack);
        while let Some(step) = merged.step()? {
            crate::sys::signal::check()?;
            let Step::Leaf(item) = step else { continue };
            if !matches!(item.stat.kind, Kind::File | Kind::Symlink) {
                continue;
            }
            survey.files += 1;
            let mut is_first = true;
            if item.stat.nlink > 1 {
                let names = survey.names.entry(item.id()).or_default();
                *names += 1;
                is_first = *names == 1;
            }
            if is_first && item.stat.kind == Kind::File {
                survey.bytes = survey.bytes.saturating_add(item.stat.size);
            }
        }
        Ok(survey)
    }

    /// Names of a file in the merged view.
    pub fn names(&self, item: &Item) -> u32 {
        self.names.get(&item.id()).copied().unwrap_or(1)
    }
}
