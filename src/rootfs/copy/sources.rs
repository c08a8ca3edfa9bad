//! Which files and directories do the sources of a COPY name?

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;

use super::{Fate, Sources};
use crate::error::{Error, Result, bail};
use crate::glob;
use crate::rootfs::metadata::open_dir;
use crate::rootfs::resolve::{join, parts};
use crate::rootfs::root::{Last, Root, show};
use crate::sys::file::{self, Kind, O_DIRECTORY, O_RDONLY, Stat};

/// One source, links followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Path from the root as it was named or matched.
    pub named: Vec<u8>,
    /// Where that leads: path from the root without links.
    pub path: Vec<u8>,
    pub is_dir: bool,
    /// `--parents`: where below the destination it goes, without the last component.
    pub below: Vec<u8>,
}

impl Item {
    /// The last component of the source as named; empty for the root.
    pub fn name(&self) -> &[u8] {
        parts(&self.named).next_back().filter(|name| *name != b"..").unwrap_or_default()
    }
}

/// All sources, in the order in which they are copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub items: Vec<Item>,
}

/// Finds the sources. One that is not there, or a wildcard that matches nothing, is an error, before anything is copied.
pub fn plan(sources: &Sources) -> Result<Plan> {
    if sources.patterns.is_empty() {
        bail!("can't COPY: must specify at least one source");
    }
    let mut items = Vec::new();
    for pattern in sources.patterns {
        let (before, mut ignored) = (items.len(), false);
        // rsync's mark of where the kept path starts.
        let dropped = match pattern.find("/./") {
            Some(at) if sources.parents => parts(&pattern.as_bytes()[..at]).count(),
            _ => 0,
        };
        for named in expand(sources, pattern).map_err(|e| failed(e, pattern))? {
            match item(sources, named, dropped, pattern)? {
                Found::Item(item) => items.push(item),
                Found::Ignored => ignored = true,
                Found::Nothing => {}
            }
        }
        if items.len() == before {
            let e = Error::new(format!("can't copy: not found: {}", crate::log::escape(pattern)));
            return Err(if ignored { e.hint("it is excluded by .dockerignore") } else { e });
        }
    }
    Ok(Plan { items })
}

fn failed(e: io::Error, path: &str) -> Error {
    let path = crate::log::escape(path);
    match e.raw_os_error() {
        Some(libc::EXDEV) => Error::new(format!("can't COPY from outside context: {path}")),
        Some(libc::ENOENT | libc::ENOTDIR) => Error::new(format!("can't copy: not found: {path}")),
        _ => Error::from(e).context(format!("can't copy: {path}")),
    }
}

enum Found {
    Item(Item),
    Nothing,
    /// Something that is left out.
    Ignored,
}

fn item(sources: &Sources, named: Vec<u8>, dropped: usize, pattern: &str) -> Result<Found> {
    let shown = if glob::has_magic(pattern) { show(&named) } else { pattern.to_owned() };
    let place = sources.root.place(&named, Last::Follow).map_err(|e| failed(e, &shown))?;
    let Some(stat) = place.stat().map_err(|e| failed(e, &shown))? else { return Ok(Found::Nothing) };
    let path = place.path();
    for path in [&named, &path] {
        let fate = if parts(path).next().is_none() {
            Fate::Keep
        } else {
            (sources.ignore)(&String::from_utf8_lossy(&parts(path).collect::<Vec<_>>().join(&b'/')), stat.is_dir())
        };
        if fate == Fate::Skip || (fate == Fate::EnterOnly && !stat.is_dir()) {
            return Ok(Found::Ignored);
        }
    }
    if !matches!(stat.kind, Kind::File | Kind::Dir) {
        bail!("can't COPY: unknown file type: {}", crate::log::escape(pattern));
    }
    let mut below: Vec<&[u8]> = Vec::new();
    if sources.parents {
        below = parts(&named).skip(dropped).filter(|part| *part != b"..").collect();
        below.pop();
    }
    let below = below.join(&b'/');
    Ok(Found::Item(Item { path, is_dir: stat.is_dir(), below, named }))
}

/// Paths that a pattern matches, sorted. A name without wildcards is itself, whether it exists or not.
fn expand(sources: &Sources, pattern: &str) -> io::Result<BTreeSet<Vec<u8>>> {
    let components: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let mut paths = BTreeSet::from([Vec::new()]);
    for (at, component) in components.iter().enumerate() {
        let last = at + 1 == components.len();
        let mut next = BTreeSet::new();
        for base in paths {
            if sources.parents && *component == "**" {
                below(sources.root, base, &mut next)?;
            } else if !glob::has_magic(component) {
                next.insert(join(&base, component.as_bytes()));
            } else {
                for (name, stat) in names(sources.root, &base)? {
                    let fits = glob::Pattern::new(component).matches(&String::from_utf8_lossy(&name));
                    if fits && (last || matches!(stat.kind, Kind::Dir | Kind::Symlink)) {
                        next.insert(join(&base, &name));
                    }
                }
            }
        }
        paths = next;
    }
    Ok(paths)
}

/// A directory and all directories below it, for `**`.
fn below(root: &Root, base: Vec<u8>, found: &mut BTreeSet<Vec<u8>>) -> io::Result<()> {
    let mut todo = vec![base];
    while let Some(path) = todo.pop() {
        for (name, stat) in names(root, &path)? {
            if stat.is_dir() {
                todo.push(join(&path, &name));
            }
        }
        found.insert(path);
    }
    Ok(())
}

/// Names of a directory; none if it is not there or is no directory.
fn names(root: &Root, path: &[u8]) -> io::Result<Vec<(Vec<u8>, Stat)>> {
    let dir = match root.open_at(path, O_RDONLY | O_DIRECTORY) {
        Ok(dir) => dir,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let dir = open_dir(dir.as_fd(), b".")?;
    let mut list = Vec::new();
    for name in file::names(dir.as_fd())? {
        if let Some(stat) = file::look(dir.as_fd(), &name.bytes)? {
            list.push((name.bytes, stat));
        }
    }
    Ok(list)
}
