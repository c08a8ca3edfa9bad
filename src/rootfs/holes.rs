//! What of a file is nothing but zeros? Holes are not read, and long runs of zeros are not written.
//!
//! A file may be much longer than what is in it: `/var/log/lastlog` has a place for every user ID. Reading such a file
//! byte by byte takes hours, writing it fills the disk.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crate::sys::{file, signal};

/// Zeros are looked for in blocks of so many bytes, which file systems have, too.
const BLOCK: usize = 4 << 10;
/// Shorter runs are written: a hole there would save less than it costs. Of 64 KiB of zeros, wherever they begin, so much
/// is in whole blocks.
const SHORTEST: u64 = (60 << 10) as u64;

pub(super) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|first| *first == 0) && bytes.chunks(ZEROS.len()).all(|part| *part == ZEROS[..part.len()])
}

/// Is told of the zeros before a stretch, and of its bytes.
type Take<'t, E> = &'t mut dyn FnMut(u64, &[u8]) -> Result<(), E>;

/// Reads a file from its beginning, `size` bytes or up to its end. Of each stretch `take` gets the zeros that precede it
/// as a hole, and its bytes, at most as many as `buffer` holds. Returns how much there was.
pub(super) fn read<E: From<io::Error>>(file: &File, size: u64, buffer: &mut [u8], take: Take<E>) -> Result<u64, E> {
    // Asking for holes costs two calls; only a file that takes less room than its size can have some.
    let stat = file::fstat(file.as_fd())?;
    let sparse = stat.allocated < stat.size;
    let (mut at, mut known) = (0u64, if sparse { 0 } else { size });
    while at < size {
        signal::check()?;
        let mut start = at;
        if at >= known {
            match file::next_data(file, at, size)? {
                Some((data, end)) => (start, known) = (data - data % buffer.len() as u64, end),
                None => break,
            }
            start = start.max(at);
        }
        let want = usize::try_from(size - start).unwrap_or(usize::MAX).min(buffer.len());
        let n = fill(file, start, &mut buffer[..want])?;
        take(start - at, &buffer[..n])?;
        at = start + n as u64;
        if n < want {
            return Ok(at);
        }
    }
    if at < size {
        let end = file::fstat(file.as_fd())?.size.min(size);
        take(end.saturating_sub(at), &[])?;
        at = at.max(end);
    }
    Ok(at)
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &File, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read_at(&mut buffer[n..], at + n as u64) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// Writes a new file from its beginning, and leaves out long runs of zeros.
pub(super) struct Writer<'f> {
    file: &'f File,
    /// How far the file has come, with the zeros that are not written yet.
    at: u64,
    zeros: u64,
    /// Its length on disk.
    end: u64,
}

impl<'f> Writer<'f> {
    pub fn new(file: &'f File) -> Writer<'f> {
        Writer { file, at: 0, zeros: 0, end: 0 }
    }

    /// What comes next is at `offset`; a hole before it.
    pub fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        self.reconcile()?;
        self.at = offset;
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let zeros = self.blocks(rest).take_while(|block| is_zero(block)).map(<[u8]>::len).sum::<usize>();
            self.at += zeros as u64;
            self.zeros += zeros as u64;
            rest = &rest[zeros..];
            let data = self.data(rest);
            if data > 0 {
                self.reconcile()?;
                self.put(&rest[..data])?;
            }
            rest = &rest[data..];
        }
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.reconcile()?;
        if self.end < self.at { self.file.set_len(self.at) } else { Ok(()) }
    }

    /// Cut where the blocks of the file begin.
    fn blocks<'b>(&self, bytes: &'b [u8]) -> impl Iterator<Item = &'b [u8]> {
        let first = (BLOCK - self.at as usize % BLOCK).min(bytes.len());
        let (first, rest) = bytes.split_at(first);
        std::iter::once(first).chain(rest.chunks(BLOCK))
    }

    /// How many bytes come before a long run of zeros, or before zeros that may go on.
    fn data(&self, bytes: &[u8]) -> usize {
        let (mut data, mut zeros) = (0, 0);
        for block in self.blocks(bytes) {
            if is_zero(block) {
                zeros += block.len();
            } else {
                data += zeros + block.len();
                zeros = 0;
            }
            if zeros as u64 >= SHORTEST {
                break;
            }
        }
        data
    }

    /// Writes the zeros that were seen last, unless they are a hole.
    fn reconcile(&mut self) -> io::Result<()> {
        let zeros = std::mem::take(&mut self.zeros);
        if zeros < SHORTEST {
            self.at -= zeros;
            self.put(&ZEROS[..zeros as usize])?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !bytes.is_empty() {
            self.file.write_all_at(bytes, self.at)?;
            self.at += bytes.len() as u64;
            self.end = self.at;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::rootfs::testing::Scratch;

    /// `a` is data, `0` are zeros: so many bytes of each.
    fn content(pieces: &[(u8, usize)]) -> Vec<u8> {
        pieces.iter().flat_map(|(byte, n)| std::iter::repeat_n(if *byte == b'0' { 0 } else { *byte }, *n)).collect()
    }

    #[test]
    fn long_runs_of_zeros_are_holes_and_holes_are_zeros() {
        const KIB: usize = 1 << 10;
        let check = |pieces: &[(u8, usize)], most: usize| {
            let want = content(pieces);
            for step in [1000, 4096, 50_001, 256 * KIB] {
                let scratch = Scratch::new();
                let file = File::options().read(true).write(true).create_new(true).open(scratch.path("f")).unwrap();
                let mut writer = Writer::new(&file);
                want.chunks(step).for_each(|part| writer.write(part).unwrap());
                writer.finish().unwrap();
                assert!(std::fs::read(scratch.path("f")).unwrap() == want, "{pieces:?} in steps of {step}");
                let allocated = file.metadata().unwrap().blocks() as usize * 512;
                assert!(allocated <= most, "{pieces:?} in steps of {step} takes {allocated} bytes");
                // And reading leaves nothing out.
                let (mut got, mut read_at_all) = (Vec::new(), 0);
                let size = read(&file, want.len() as u64, &mut [0; 64 * KIB], &mut |zeros, bytes| {
                    got.resize(got.len() + zeros as usize, 0);
                    got.extend_from_slice(bytes);
                    read_at_all += bytes.len();
                    io::Result::Ok(())
                });
                assert!(got == want && size.unwrap() == want.len() as u64, "{pieces:?}");
                assert!(read_at_all <= most + 256 * KIB, "{pieces:?}: {read_at_all} bytes read");
            }
        };
        check(&[], 0);
        check(&[(b'a', 10)], 8 * KIB);
        check(&[(b'a', 10), (b'0', 5000), (b'b', 1)], 16 * KIB);
        check(&[(b'0', 64 * KIB)], 8 * KIB);
        check(&[(b'0', 10 << 20)], 8 * KIB);
        for before in [1, 100, 4095, 4096, 4097, 300_000] {
            let room = before + 24 * KIB;
            check(&[(b'a', before), (b'0', 64 * KIB), (b'b', 1)], room);
            check(&[(b'a', before), (b'0', 3 << 20), (b'b', 70), (b'0', 1 << 20)], room);
            check(&[(b'0', 64 * KIB + before), (b'b', 1)], 24 * KIB);
        }
    }

    #[test]
    fn a_file_that_is_shorter_than_it_was_is_told() {
        let scratch = Scratch::new();
        std::fs::write(scratch.path("f"), "abc").unwrap();
        let file = File::options().write(true).read(true).open(scratch.path("f")).unwrap();
        let all = |size| read(&file, size, &mut [0; 16], &mut |_, _| io::Result::Ok(())).unwrap();
        assert_eq!((all(2), all(3), all(4)), (2, 3, 3));
        file.set_len(1 << 20).unwrap();
        assert_eq!((all(1 << 20), all(1 << 21)), (1 << 20, 1 << 20));
    }
}
