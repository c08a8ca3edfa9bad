//! zlib (RFC 1950), by miniz_oxide.

use miniz_oxide::deflate::core::{
    CompressorOxide, TDEFLFlush, TDEFLStatus, compress, create_comp_flags_from_zip_params,
};
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
        // A positive number of window bits asks for zlib's framing.
        Deflate { core: Box::new(CompressorOxide::new(create_comp_flags_from_zip_params(level, 15, 0))) }
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
