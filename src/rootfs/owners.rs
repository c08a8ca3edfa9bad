//! To whom do the files of an archive belong? Told while it is unpacked, since on disk everything is the user's; and what
//! a layer does to the files of the layers below, of which the same was told before.

use std::io;
use std::os::fd::AsFd;

use super::marks::Marks;
use super::metadata::{OPAQUE, open_dir};
use super::resolve::{join, split};
use super::root::Root;
use super::tar_reader::{Member, Type};
use crate::sys::file::{self, Kind};

/// The attribute that gives a program capabilities (capabilities(7)).
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// Owner and group, and what on disk no file has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    pub uid: u32,
    pub gid: u32,
    /// `S_ISUID`, `S_ISGID`
    pub bits: u32,
    /// A device node, which is an empty file on disk: whether a block device, major, minor.
    pub device: Option<(bool, u32, u32)>,
    /// The value of `security.capability`.
    pub capability: Option<Vec<u8>>,
}

impl Ownership {
    /// What is not on disk of a member.
    pub(super) fn of(member: &Member) -> Ownership {
        let has_bits = matches!(member.kind, Type::File | Type::Dir);
        let capability = member.xattrs.iter().find(|(name, _)| name == CAPABILITY);
        Ownership {
            uid: member.uid,
            gid: member.gid,
            bits: if has_bits { member.mode & 0o6000 } else { 0 },
            device: None,
            capability: capability.filter(|_| member.kind == Type::File).map(|(_, value)| value.clone()),
        }
    }

    /// Root's, with nothing special about it.
    pub fn is_plain(&self) -> bool {
        *self == Ownership::default()
    }
}

/// What is told of a path (from the root, without links), one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Is(Ownership),
    /// Root's, with nothing special about it, and nothing of that path was there before.
    New,
    /// Another name of the file with this path.
    Link(Vec<u8>),
    /// Neither it nor anything below it is there any more.
    Gone,
    /// It is now at this path, with all below it.
    Moved(Vec<u8>),
    /// As the layer of this number, of those below, has it at this path.
    AsIn(usize, Vec<u8>),
}

/// Takes what is told.
pub type Owners<'o> = dyn FnMut(&[u8], Told) -> io::Result<()> + 'o;

/// For those who do not care.
pub fn nobody(_: &[u8], _: Told) -> io::Result<()> {
    Ok(())
}

/// What becomes of a path of the layers below when another layer lies on top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It can be seen as before.
    Stays,
    /// So can everything in this directory, which the layer does not have.
    AllStay(Vec<u8>),
    /// The layer has a directory that is merged with it.
    Merged,
    /// Something else is there, or nothing.
    Hidden,
}

/// A layer that lies on top. Paths asked for in order cost one look for each directory.
pub struct Cover<'r> {
    root: &'r Root,
    marks: &'r Marks,
    /// The directory last looked at and those above it, as far as the layer has them, and what becomes of what is in them.
    trail: Vec<(Vec<u8>, Fate)>,
}

impl<'r> Cover<'r> {
    pub fn new(root: &'r Root, marks: &'r Marks) -> Cover<'r> {
        Cover { root, marks, trail: Vec::new() }
    }

    /// What becomes of `path`. The root directory is always merged.
    pub fn fate(&mut self, path: &[u8]) -> io::Result<Fate> {
        if path.is_empty() {
            return Ok(Fate::Merged);
        }
        match self.within(split(path).0)? {
            Fate::Stays => {}
            reconciled => return Ok(reconciled),
        }
        Ok(match file::look(self.root.as_fd(), path)? {
            None if self.marks.is_gone(path) => Fate::Hidden,
            None => Fate::Stays,
            Some(stat) if stat.is_dir() && !self.is_opaque(path)? => Fate::Merged,
            Some(_) => Fate::Hidden,
        })
    }

    /// What becomes of what is in the directory `dir`: `Stays` if its names have to be asked for one by one.
    fn within(&mut self, dir: &[u8]) -> io::Result<Fate> {
        while let Some((known, _)) = self.trail.last() {
            if dir.strip_prefix(known.as_slice()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/') {
                break;
            }
            self.trail.pop();
        }
        let (mut here, mut fate) = self.trail.last().cloned().unwrap_or((Vec::new(), Fate::Stays));
        for name in super::resolve::parts(&dir[here.len()..]) {
            if fate != Fate::Stays {
                break;
            }
            here = join(&here, name);
            fate = match file::look(self.root.as_fd(), &here)? {
                None if self.marks.is_gone(&here) => Fate::Hidden,
                None => Fate::AllStay(here.clone()),
                Some(stat) if stat.kind == Kind::Dir && !self.is_opaque(&here)? => Fate::Stays,
                Some(_) => Fate::Hidden,
            };
            self.trail.push((here.clone(), fate.clone()));
        }
        Ok(fate)
    }

    fn is_opaque(&self, path: &[u8]) -> io::Result<bool> {
        if self.marks.is_opaque(path) {
            return Ok(true);
        }
        let dir = open_dir(self.root.as_fd(), path)?;
        Ok(file::fgetxattr(dir.as_fd(), OPAQUE)?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scratch, Tar};
    use super::super::{Form, Limits, unpack};
    use super::*;

    #[test]
    fn what_a_layer_does_to_those_below() {
        let scratch = Scratch::new();
        let root = scratch.root("root");
        let tar = Tar::of("a/ a/f=1 a/.wh.gone= file=1 link->a op/.wh..wh..opq= op/new=1 .wh.dir=");
        unpack(&mut &tar[..], &root, Form::Overlay, "l", &Limits::none()).unwrap();
        let marks = Marks::default();
        let mut cover = Cover::new(&root, &marks);
        for (path, want) in [
            ("", Fate::Merged),
            ("a", Fate::Merged),
            ("a/f", Fate::Hidden),
            ("a/f/below", Fate::Hidden),
            ("a/gone", Fate::Hidden),
            ("a/other", Fate::Stays),
            ("a/sub/x", Fate::AllStay(b"a/sub".to_vec())),
            ("a/sub/y/z", Fate::AllStay(b"a/sub".to_vec())),
            ("a-b", Fate::Stays),
            ("dir/x", Fate::Hidden),
            ("file", Fate::Hidden),
            ("link", Fate::Hidden),
            ("link/f", Fate::Hidden),
            ("op", Fate::Hidden),
            ("op/old", Fate::Hidden),
            ("zz/y", Fate::AllStay(b"zz".to_vec())),
        ] {
            assert_eq!(cover.fate(path.as_bytes()).unwrap(), want, "{path}");
        }
    }
}
