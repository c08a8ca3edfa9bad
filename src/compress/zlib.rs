//! zlib (RFC 1950), by miniz_oxide.

use miniz_oxide::deflate::core::deflate_flags::{TDEFL_GREEDY_PARSING_FLAG, TDEFL_WRITE_ZLIB_HEADER};
use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, TDEFLStatus, compress};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::DecompressorOxide;
use miniz_oxide::inflate::core::decompress;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};

use super::Damaged;

pub struct Deflate {
    core: Box<CompressorOxide>,
}

impl Deflate {
    pub fn new(level: i32) -> Deflate {
        Deflate { core: Box::new(CompressorOxide::new(TDEFL_WRITE_ZLIB_HEADER | effort(level))) }
    }

    /// `false` if it becomes longer than `plain`.
    pub fn compress(&mut self, plain: &[u8], packed: &mut Vec<u8>) -> bool {
        self.core.reset();
        packed.resize(plain.len(), 0);
        let (status, _, made) = compress(&mut self.core, plain, packed, TDEFLFlush::Finish);
        packed.truncate(made);
        status == TDEFLStatus::Done
    }
}

/// How many earlier places are tried for each match, and whether the first that fits is taken: so that each level takes no
/// longer than zlib's of that number, and what it makes is at most 2 % larger (a Debian tree in blocks of 128 KiB).
/// miniz_oxide's own levels are 9 % larger at 1 and take a sixth longer from 3 to 7.
fn effort(level: i32) -> u32 {
    match level {
        ..=1 => 2 | TDEFL_GREEDY_PARSING_FLAG,
        2 => 4 | TDEFL_GREEDY_PARSING_FLAG,
        3 => 12 | TDEFL_GREEDY_PARSING_FLAG,
        4 => 8,
        5 => 20,
        6 => 64,
        7 => 112,
        8 => 512,
        9.. => 768,
    }
}

#[derive(Default)]
pub struct Inflate {
    core: Box<DecompressorOxide>,
}

impl Inflate {
    pub fn decompress(&mut self, packed: &[u8], out: &mut [u8]) -> Result<usize, Damaged> {
        self.core.init();
        let flags = TINFL_FLAG_PARSE_ZLIB_HEADER | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        match decompress(&mut self.core, packed, out, 0, flags) {
            (TINFLStatus::Done, _, made) => Ok(made),
            _ => Err(Damaged),
        }
    }
}
