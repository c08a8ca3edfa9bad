//! Are a tree's files still what they were? One number of all their content, kept with a layer and compared by `fsck`.
//!
//! Against decay, not against malice: an attacker who can write here can write the number, too. So the hash is the
//! cheapest that notices every changed byte: one multiplication for eight bytes, ten times the speed of SHA-256, which
//! is what makes it affordable while unpacking. Files are added up in any order, whatever their names; a file with
//! several names counts once.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::dir_stack::DirStack;
use super::holes::{self, ZEROS};
use super::merged::{Merged, Step};
use super::metadata::open_dir;
use super::root::{Root, show};
use super::stack::Stack;
use crate::error::{Context, Result};
use crate::sys::file::{self, Kind, O_NOFOLLOW, O_NONBLOCK, O_RDONLY};
use crate::sys::signal;

const LANES: usize = 4;
const BLOCK: usize = 8 * LANES;
/// Odd, with bits everywhere: multiplying by it loses nothing.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of one file's bytes, in pieces of any size.
pub(super) struct FileSum {
    lanes: [u64; LANES],
    /// Bytes that do not fill a block yet.
    rest: [u8; BLOCK],
    length: u64,
}

impl FileSum {
    pub(super) fn new() -> FileSum {
        FileSum { lanes: [1, 2, 3, 4], rest: [0; BLOCK], length: 0 }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        let held = self.length as usize % BLOCK;
        self.length += bytes.len() as u64;
        if held > 0 {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - held));
            self.rest[held..held + now.len()].copy_from_slice(now);
            if held + now.len() < BLOCK {
                return;
            }
            let block = self.rest;
            self.block(&block);
            bytes = later;
        }
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        blocks.iter().for_each(|block| self.block(block));
        self.rest[..rest.len()].copy_from_slice(rest);
    }

    /// As many zeros.
    pub(super) fn zeros(&mut self, count: u64) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            signal::check()?;
            let n = left.min(ZEROS.len() as u64);
            self.update(&ZEROS[..n as usize]);
            left -= n;
        }
        Ok(())
    }

    fn block(&mut self, block: &[u8; BLOCK]) {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in self.lanes.iter_mut().zip(words) {
            *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(29);
        }
    }

    /// Never 0: an empty file counts, too.
    pub(super) fn finish(mut self) -> u64 {
        let held = self.length as usize % BLOCK;
        if held > 0 {
            self.rest[held..].fill(0);
            let block = self.rest;
            self.block(&block);
        }
        let mix = |sum: u64, lane: &u64| (sum ^ lane).wrapping_mul(FACTOR).rotate_left(31);
        let sum = self.lanes.iter().fold(self.length, mix);
        (sum ^ sum >> 32).wrapping_mul(FACTOR) | 1
    }
}

/// The hash of the file `name`.
pub(super) fn of_file(dir: BorrowedFd, name: &[u8]) -> Result<u64> {
    let mut work = Reading { sum: 0, several: HashSet::new(), buffer: vec![0; 64 << 10] };
    work.file(dir, name)?;
    Ok(work.sum)
}

/// A hash of the file `name`, as it lies on disk: of a hole only the length counts, which takes no time.
pub(super) fn of_data(dir: BorrowedFd, name: &[u8], buffer: &mut [u8]) -> Result<u64> {
    let file = File::from(file::openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0)?);
    let mut sum = FileSum::new();
    holes::read(&file, u64::MAX, buffer, &mut |zeros, bytes| {
        if zeros > 0 {
            sum.update(&zeros.to_le_bytes());
        }
        sum.update(bytes);
        io::Result::Ok(())
    })?;
    Ok(sum.finish())
}

/// The number for the tree at `dir`, by reading every file in it.
pub fn fingerprint(dir: &Path) -> Result<u64> {
    let root = Root::open(dir)?;
    let mut work = Reading { sum: 0, several: HashSet::new(), buffer: vec![0; 256 << 10] };
    let mut dir_stack = DirStack::new();
    // Of each directory on the way down: those in it that are still to be read.
    let mut levels = Vec::new();
    let failed = || format!("can't read {}", dir.display());
    dir_stack.push(open_dir(root.as_fd(), b".").context(failed)?).context(failed)?;
    levels.push(work.level(&dir_stack).context(failed)?);
    while let Some(subdirs) = levels.last_mut() {
        match subdirs.pop() {
            Some(name) => {
                let next = dir_stack.here().and_then(|here| open_dir(here, &name));
                let next = next.context(|| show(&name)).context(failed)?;
                dir_stack.push(next).context(failed)?;
                levels.push(work.level(&dir_stack).context(failed)?);
            }
            None => {
                levels.pop();
                dir_stack.pop().context(failed)?;
            }
        }
    }
    Ok(work.sum)
}

/// The same for what a stack of layers shows.
pub fn fingerprint_merged(stack: &Stack) -> Result<u64> {
    let mut work = Reading { sum: 0, several: HashSet::new(), buffer: vec![0; 256 << 10] };
    let mut merged = Merged::new(stack);
    let mut several = HashSet::new();
    while let Some(step) = merged.step()? {
        let Step::Leaf(item) = step else { continue };
        if item.stat.kind == Kind::File && (item.stat.nlink == 1 || several.insert(item.id())) {
            let file = item.open(stack).context(|| show(&item.path))?;
            work.read(&file).context(|| show(&item.path))?;
        }
    }
    Ok(work.sum)
}

struct Reading {
    sum: u64,
    /// Files with several names that were read, by device and inode.
    several: HashSet<(u64, u64)>,
    buffer: Vec<u8>,
}

impl Reading {
    /// Reads the files of the directory where we are; its directories.
    fn level(&mut self, dir_stack: &DirStack) -> Result<Vec<Vec<u8>>> {
        let here = dir_stack.here()?;
        let mut subdirs = Vec::new();
        for name in file::names(here)? {
            match name.kind {
                Some(Kind::Dir) => subdirs.push(name.bytes),
                Some(Kind::Symlink | Kind::Whiteout | Kind::Special) => {}
                Some(Kind::File) | None => {
                    let stat = file::lstatat(here, &name.bytes)?;
                    match stat.kind {
                        Kind::Dir => subdirs.push(name.bytes),
                        Kind::File if stat.nlink > 1 && !self.several.insert((stat.dev, stat.ino)) => {}
                        Kind::File => self.file(here, &name.bytes)?,
                        Kind::Symlink | Kind::Whiteout | Kind::Special => {}
                    }
                }
            }
        }
        Ok(subdirs)
    }

    fn file(&mut self, dir: BorrowedFd, name: &[u8]) -> Result<()> {
        let fd = file::openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0).context(|| show(name))?;
        self.read(&File::from(fd)).context(|| show(name))
    }

    fn read(&mut self, file: &File) -> io::Result<()> {
        let mut sum = FileSum::new();
        holes::read(file, u64::MAX, &mut self.buffer, &mut |zeros, bytes| {
            sum.zeros(zeros)?;
            sum.update(bytes);
            io::Result::Ok(())
        })?;
        self.sum = self.sum.wrapping_add(sum.finish());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(pieces: &[&[u8]]) -> u64 {
        let mut sum = FileSum::new();
        pieces.iter().for_each(|piece| sum.update(piece));
        sum.finish()
    }

    #[test]
    fn pieces_do_not_matter_and_every_bit_does() {
        let data: Vec<u8> = (0..200u32).map(|n| (n * 31 % 251) as u8).collect();
        let whole = sum(&[&data]);
        for at in 0..data.len() {
            assert_eq!(sum(&[&data[..at], &data[at..]]), whole, "cut at {at}");
            assert_eq!(sum(&[&data[..at], &data[at..at + 1], &data[at + 1..]]), whole, "cut at {at}");
            let mut other = data.clone();
            for bit in 0..8 {
                other[at] ^= 1 << bit;
                assert_ne!(sum(&[&other]), whole, "byte {at}, bit {bit}");
                other[at] ^= 1 << bit;
            }
        }
        // Zeros and lengths.
        let zeros = [0; 100];
        let mut seen: Vec<u64> = (0..100).map(|n| sum(&[&zeros[..n]])).chain([whole]).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 101);
    }
}
