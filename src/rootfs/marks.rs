//! What does a layer hide, where its file system can't say it? Whiteouts and opaque directories, in a file beside the
//! layer: character devices 0:0 and user attributes can't be had everywhere (NFS, tmpfs before Linux 6.6).

use std::collections::{BTreeMap, BTreeSet};

use super::resolve::{join, split};
use crate::compress::crc32;
use crate::error::{Error, Result, bail};

/// Paths are from the layer's root, without links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// What is not there any more: names by directory.
    gone: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    /// Directories that show nothing of the layers below.
    opaque: BTreeSet<Vec<u8>>,
}

impl Marks {
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.opaque.is_empty()
    }

    pub(super) fn add_gone(&mut self, path: &[u8]) {
        let (dir, name) = split(path);
        self.gone.entry(dir.to_vec()).or_default().insert(name.to_vec());
    }

    pub(super) fn add_opaque(&mut self, path: &[u8]) {
        self.opaque.insert(path.to_vec());
    }

    pub(super) fn is_gone(&self, path: &[u8]) -> bool {
        // Most layers hide nothing.
        !self.gone.is_empty() && self.gone.get(split(path).0).is_some_and(|names| names.contains(split(path).1))
    }

    /// Names of this directory that are gone.
    pub(super) fn gone_in(&self, dir: &[u8]) -> impl Iterator<Item = &Vec<u8>> {
        self.gone.get(dir).into_iter().flatten()
    }

    pub(super) fn is_opaque(&self, path: &[u8]) -> bool {
        self.opaque.contains(path)
    }

    /// One line each, and a checksum in the last one.
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut line = |word: &[u8], path: &[u8]| {
            text.extend_from_slice(word);
            for byte in path {
                match byte {
                    b'\n' => text.extend_from_slice(b"\\n"),
                    b'\\' => text.extend_from_slice(b"\\\\"),
                    other => text.push(*other),
                }
            }
            text.push(b'\n');
        };
        for (dir, names) in &self.gone {
            names.iter().for_each(|name| line(GONE, &join(dir, name)));
        }
        self.opaque.iter().for_each(|path| line(OPAQUE, path));
        let sum = format!("{SUM}{:08x}\n", crc32::update(0, &text));
        text.extend_from_slice(sum.as_bytes());
        text
    }

    pub fn parse(text: &[u8]) -> Result<Marks> {
        let Some((body, sum)) = text.len().checked_sub(SUM.len() + 9).map(|at| text.split_at(at)) else {
            bail!("too short");
        };
        if sum != format!("{SUM}{:08x}\n", crc32::update(0, body)).as_bytes() {
            bail!("does not match its checksum");
        }
        let mut marks = Marks::default();
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if let Some(path) = line.strip_prefix(GONE) {
                marks.add_gone(&unescape(path)?);
            } else if let Some(path) = line.strip_prefix(OPAQUE) {
                marks.add_opaque(&unescape(path)?);
            } else {
                bail!("a line of no known kind");
            }
        }
        Ok(marks)
    }
}

const GONE: &[u8] = b"gone ";
const OPAQUE: &[u8] = b"opaque ";
const SUM: &str = "sum ";

fn unescape(text: &[u8]) -> Result<Vec<u8>> {
    let mut path = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        path.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b'\\') => b'\\',
                Some(_) | None => return Err(Error::new("a path with an unknown escape")),
            },
            other => *other,
        });
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let mut marks = Marks::default();
        assert_eq!(Marks::parse(&marks.to_text()).unwrap(), marks);
        for path in [&b"a"[..], b"dir/b", b"dir/c", b"dir/new\nline", b"dir/back\\slash", b"dir/\\n", b"not \xff utf-8"]
        {
            marks.add_gone(path);
        }
        marks.add_opaque(b"dir/opaque\n");
        let text = marks.to_text();
        assert_eq!(Marks::parse(&text).unwrap(), marks);
        assert!(marks.is_gone(b"dir/b") && !marks.is_gone(b"dir") && !marks.is_gone(b"dir/b/c"));
        assert!(marks.is_opaque(b"dir/opaque\n") && !marks.is_opaque(b""));
        assert_eq!(marks.gone_in(b"dir").count(), 5);
        assert_eq!(marks.gone_in(b"").count(), 2);
        for at in 0..text.len() {
            let mut other = text.clone();
            other[at] ^= 1;
            assert!(Marks::parse(&other).is_err(), "byte {at}");
            assert!(Marks::parse(&text[..at]).is_err(), "cut at {at}");
        }
    }
}
