//! What does a stack show that its lower layers do not? Decides what goes into an archive of the upper ones.
//!
//! The merged view and that of the lower layers alone are walked side by side: what a name stands for decides, not the
//! form in which the upper layers say so. Without lower layers everything is a change.

use std::collections::HashSet;
use std::io;

use super::resolve::{join, split};
use super::stack::{Found, Node, Stack};

/// A name that differs.
pub enum Change {
    Is(Found, Below),
    Gone,
}

/// What the lower layers have where the merged view has a directory.
pub enum Below {
    /// No directory.
    Nothing,
    /// One that is merged into it.
    Dir(Node),
    /// One that is not.
    Hidden,
}

pub struct Changes<'a> {
    stack: &'a Stack,
    /// Lower layers.
    count: usize,
    /// Paths that count as changed wherever they are, and the directories above them.
    marked: HashSet<Vec<u8>>,
}

impl<'a> Changes<'a> {
    pub fn new<'m>(stack: &'a Stack, count: usize, marked: impl Iterator<Item = &'m Vec<u8>>) -> Changes<'a> {
        let mut all = HashSet::new();
        for path in marked.filter(|_| count > 0) {
            let mut path = path.as_slice();
            while !path.is_empty() && all.insert(path.to_vec()) {
                path = split(path).0;
            }
        }
        Changes { stack, count, marked: all }
    }

    /// The root of the lower layers, if there are any.
    pub fn root(&self) -> Option<Node> {
        (self.count > 0).then(|| Node { path: Vec::new(), layers: (0..self.count).rev().collect() })
    }

    /// Names of a directory that differ from those of the lower layers' directory `below`: first those that are gone.
    pub fn list(&self, node: &Node, below: Option<&Node>) -> io::Result<Vec<(Vec<u8>, Change)>> {
        let merged = self.stack.list(node)?;
        let Some(below) = below else {
            return Ok(merged.into_iter().map(|(name, found)| (name, Change::Is(found, Below::Nothing))).collect());
        };
        let mut old = self.stack.list(below)?;
        let mut changes: Vec<(Vec<u8>, Change)> =
            old.keys().filter(|name| !merged.contains_key(*name)).map(|name| (name.clone(), Change::Gone)).collect();
        for (name, found) in merged {
            let (top, bottom) = match &found {
                Found::Dir(node, _) => (node.layers.first().copied(), node.layers.last().copied()),
                Found::Other(layer, _) => (Some(*layer), None),
            };
            if top.is_none_or(|top| top < self.count) && !self.marked.contains(&join(&node.path, &name)) {
                continue;
            }
            let below = match old.remove(&name) {
                Some(Found::Dir(below, _)) if bottom.is_some_and(|bottom| bottom < self.count) => Below::Dir(below),
                Some(Found::Dir(..)) => Below::Hidden,
                Some(Found::Other(..)) | None => Below::Nothing,
            };
            changes.push((name, Change::Is(found, below)));
        }
        Ok(changes)
    }
}
