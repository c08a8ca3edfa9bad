//! zstd streams (RFC 8878): frame after frame, skippable frames skipped (layers of the zstd:chunked kind have both).
//!
//! A frame says how far it looks back, and the decoder takes as much memory at once. Layers are decoded side by side:
//! together their windows never take more than the largest one alone may.

use std::io::{self, Read};
use std::sync::{Condvar, Mutex};

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::input::{Input, damaged, truncated};
use crate::error::Error;

/// Largest window that is decoded, and all of them together; `zstd --ultra --long` asks for more, images do not.
const MAX_WINDOW: u64 = 1 << MAX_WINDOW_LOG;
const MAX_WINDOW_LOG: u32 = 25;
/// A frame of four bytes can say 128 KiB of zeros. From here on content may be so many times as large as what it is
/// decoded from, and no more: what gzip can reach, so that nobody waits longer than for that.
const FREE: u64 = 1 << 30;
const MOST_TIMES: u64 = 1032;
pub(super) struct Frames {
    /// `None` before the first frame.
    decoder: Option<DCtx<'static>>,
    /// For the largest window that the decoder has had.
    share: Share,
    inside: bool,
    done: bool,
    /// Bytes handed out.
    made: u64,
}

impl Frames {
    pub(super) fn new() -> Frames {
        Frames { decoder: None, share: Share(0), inside: false, done: false, made: 0 }
    }

    pub(super) fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if self.done {
                return Ok(0);
            }
            if !self.inside {
                self.next_frame(input)?;
                continue;
            }
            let n = self.decode(input, out)?;
            if n > 0 {
                self.made = self.made.saturating_add(n as u64);
                if self.made > input.taken.saturating_mul(MOST_TIMES).saturating_add(FREE) {
                    return Err(inflated());
                }
                return Ok(n);
            }
        }
    }

    /// Goes on with the frame; how much was decoded, which may be nothing.
    fn decode<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> io::Result<usize> {
        let Some(decoder) = &mut self.decoder else { return Err(no_memory()) };
        let mut source = InBuffer::around(input.fill()?);
        let mut room = OutBuffer::around(out);
        let left = decoder.decompress_stream(&mut room, &mut source).map_err(failed)?;
        let (used, made) = (source.pos(), room.pos());
        input.consume(used);
        if left == 0 {
            self.inside = false;
        } else if used == 0 && made == 0 {
            return Err(truncated());
        }
        Ok(made)
    }

    fn next_frame<R: Read>(&mut self, input: &mut Input<R>) -> io::Result<()> {
        match *input.peek(MAX_HEADER)? {
            [] => self.done = true,
            [0x28, 0xb5, 0x2f, 0xfd, ref header @ ..] => {
                let window = window(header).ok_or_else(truncated)?;
                self.make_room(window)?;
                self.inside = true;
            }
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d, ..] => {
                input.consume(8);
                let length = u64::from(u32::from_le_bytes([a, b, c, d]));
                if io::copy(&mut input.take(length), &mut io::sink())? != length {
                    return Err(truncated());
                }
            }
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => return Err(truncated()),
            _ => return Err(damaged("garbage after the end")),
        }
        Ok(())
    }

    /// Waits until others need so little that this window fits.
    fn make_room(&mut self, window: u64) -> io::Result<()> {
        if window > MAX_WINDOW {
            let asked = format!("zstd window of {} MiB is too large (limit {} MiB)", window >> 20, MAX_WINDOW >> 20);
            let error = Error::new(asked).hint("compress it without --ultra and --long");
            return Err(error.into());
        }
        if window > self.share.0 {
            // Nothing is held while waiting, or two decoders could wait for each other.
            self.decoder = None;
            self.share = Share(0);
            self.share = Share::take(window);
        }
        if self.decoder.is_none() {
            let mut decoder = DCtx::try_create().ok_or_else(no_memory)?;
            decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(failed)?;
            self.decoder = Some(decoder);
        }
        Ok(())
    }
}

/// Longest header of a frame, with its magic number.
const MAX_HEADER: usize = 18;

/// The window that a frame's header (without the magic number) asks for, in bytes; `None` if there is more to it.
fn window(header: &[u8]) -> Option<u64> {
    let (&descriptor, rest) = header.split_first()?;
    if descriptor & 0x20 == 0 {
        let (exponent, mantissa) = (u32::from(rest.first()? >> 3), u64::from(rest.first()? & 7));
        let base = 1u64 << (10 + exponent);
        return Some(base + base / 8 * mantissa);
    }
    // A single segment: all of the content, whose size stands behind the dictionary's number.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let mut bytes = [0; 8];
    bytes[..length].copy_from_slice(rest.get(dictionary..dictionary + length)?);
    let size = u64::from_le_bytes(bytes);
    Some(if length == 2 { size.saturating_add(256) } else { size })
}

/// So many bytes of the memory for windows; given back when dropped.
struct Share(u64);

static USED: Mutex<u64> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

impl Share {
    fn take(bytes: u64) -> Share {
        let used = USED.lock().unwrap_or_else(|e| e.into_inner());
        let crowded = |used: &mut u64| used.saturating_add(bytes) > MAX_WINDOW;
        let mut used = FREED.wait_while(used, crowded).unwrap_or_else(|e| e.into_inner());
        *used = used.saturating_add(bytes);
        Share(bytes)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.0 > 0 {
            *USED.lock().unwrap_or_else(|e| e.into_inner()) -= self.0;
            FREED.notify_all();
        }
    }
}

fn inflated() -> io::Error {
    Error::new(format!("zstd data is more than {MOST_TIMES} times as large when decoded"))
        .hint("if it is meant to be, compress it with gzip")
        .into()
}

fn no_memory() -> io::Error {
    io::ErrorKind::OutOfMemory.into()
}

fn failed(code: usize) -> io::Error {
    damaged(&get_error_name(code).to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::super::stream::{Decoder, Proof};
    use super::*;

    #[test]
    fn windows() {
        let check = |header: &[u8], want: Option<u64>| assert_eq!(window(header), want, "{header:?}");
        check(&[0, 0], Some(1 << 10));
        check(&[0, 0x69], Some((8 << 20) + (1 << 20)));
        check(&[0x04, 0xf8], Some(1 << 41));
        check(&[0x20, 200], Some(200));
        check(&[0x63, 1, 2, 3, 4, 0, 1], Some(512));
        check(&[0xa1, 9, 0, 0, 0, 2], Some(2 << 24));
        check(&[0xe0, 255, 255, 255, 255, 255, 255, 255, 255], Some(u64::MAX));
        check(&[], None);
        check(&[0], None);
        check(&[0xe0, 1, 2, 3], None);
    }

    /// Blocks of four bytes that say 128 KiB each.
    #[test]
    fn what_unpacks_to_very_much_is_an_error() {
        let repeat = |last: u32| (((128 << 10) << 3) | 1 << 1 | last).to_le_bytes()[..3].to_vec();
        let frame = |blocks: usize| {
            let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
            (1..blocks).for_each(|_| frame.extend([&repeat(0)[..], &[0]].concat()));
            [&frame[..], &repeat(1), &[0]].concat()
        };
        let decoded = |frame: &[u8]| {
            let mut decoder = Decoder::new(frame, Proof::Digest).unwrap();
            io::copy(&mut decoder, &mut io::sink()).map_err(|e| e.to_string())
        };
        assert_eq!(decoded(&frame(1000)), Ok(1000 * (128 << 10)));
        let error = decoded(&frame(60_000)).unwrap_err();
        assert!(error.contains("1032 times as large"), "{error}");
    }

    /// Each way to read gives all of it; the checksums that frames have are compared.
    #[test]
    fn frames_follow_frames() {
        let plain: Vec<u8> = (0..300_000u32).flat_map(|n| (n % 1000 * n % 7).to_le_bytes()).collect();
        let packed = |plain: &[u8]| {
            let mut packed = Vec::with_capacity(plain.len() + 1000);
            let mut encoder = zstd_safe::CCtx::create();
            encoder.set_parameter(zstd_safe::CParameter::ChecksumFlag(true)).unwrap();
            encoder.compress2(&mut packed, plain).unwrap();
            packed
        };
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        let (front, back) = plain.split_at(500_000);
        let stream = [&skipped[..], &packed(front), &packed(b""), &skipped, &packed(back), &skipped].concat();
        let decoded = |stream: &[u8], size: usize| {
            let (mut decoder, mut out, mut part) = (Decoder::new(stream, Proof::Crc)?, Vec::new(), vec![0; size]);
            loop {
                match decoder.read(&mut part)? {
                    0 => return Ok::<_, io::Error>(out),
                    n => out.extend_from_slice(&part[..n]),
                }
            }
        };
        for size in [977, 128 << 10, 4 << 20] {
            assert!(decoded(&stream, size).unwrap() == plain, "reads of {size}");
        }
        let mut bad = stream.clone();
        let last = stream.len() - skipped.len() - 1;
        bad[last] ^= 1;
        assert!(decoded(&bad, 1 << 16).is_err(), "checksum");
        assert!(decoded(&stream[..last], 1 << 16).is_err(), "cut");
    }

    /// More decoders than fit at once, each with a small frame, then a large one.
    #[test]
    fn decoders_wait_for_each_other() {
        let frame = |window: u8, byte: u8| {
            // One last block that repeats a byte 1000 times.
            let block = (1000u32 << 3 | 1 << 1 | 1).to_le_bytes();
            [&[0x28, 0xb5, 0x2f, 0xfd, 0, window << 3][..], &block[..3], &[byte]].concat()
        };
        let stream = [frame(3, b'a'), frame(14, b'b'), frame(15, b'c'), frame(0, b'd')].concat();
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let mut out = Vec::new();
                    Decoder::new(&stream[..], Proof::Crc).unwrap().read_to_end(&mut out).unwrap();
                    assert_eq!(out, [[b'a'; 1000], [b'b'; 1000], [b'c'; 1000], [b'd'; 1000]].concat());
                });
            }
        });
        let e = Decoder::new(&frame(16, b'x')[..], Proof::Crc).unwrap().read_to_end(&mut Vec::new());
        assert!(e.unwrap_err().to_string().contains("zstd window of 64 MiB is too large"));
    }
}
