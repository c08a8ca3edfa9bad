//! zstd streams (RFC 8878): frame after frame, skippable frames skipped (layers of the zstd:chunked kind have both).

use std::io::{self, Read};

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::gzip::{Input, damaged, truncated};

/// Largest window that is decoded; `zstd --ultra --long` asks for more, images do not.
const MAX_WINDOW: u64 = 64 << 20;
/// Decoded bytes collected before they are handed out.
const STEP: usize = 256 << 10;

pub(super) struct Frames {
    decoder: FrameDecoder,
    inside: bool,
    done: bool,
}

impl Frames {
    pub(super) fn new() -> Frames {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        Frames { decoder, inside: false, done: false }
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
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(out);
            }
            if self.decoder.is_finished() {
                self.inside = false;
                continue;
            }
            self.decoder.decode_blocks(&mut *input, BlockDecodingStrategy::UptoBytes(STEP)).map_err(|e| failed(&e))?;
        }
    }

    fn next_frame<R: Read>(&mut self, input: &mut Input<R>) -> io::Result<()> {
        match *input.peek(8)? {
            [] => self.done = true,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                self.decoder.reset(&mut *input).map_err(|e| failed(&e))?;
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
}

fn failed(e: &dyn std::fmt::Display) -> io::Error {
    damaged(&e.to_string())
}
