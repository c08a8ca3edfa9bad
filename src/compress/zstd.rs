//! zstd frames (RFC 8878), by the reference library: one block in, one frame out, whose window is no larger than the
//! block (kernels that mount SquashFS insist on that).

use zstd_safe::{CCtx, DCtx, compress_bound};

use super::Damaged;

pub struct Encoder {
    context: CCtx<'static>,
    level: i32,
}

impl Encoder {
    /// `None` if there is no memory for it.
    pub fn new(level: i32) -> Option<Encoder> {
        Some(Encoder { context: CCtx::try_create()?, level })
    }

    /// `false` if it becomes longer than `plain`.
    pub fn compress(&mut self, plain: &[u8], packed: &mut Vec<u8>) -> bool {
        packed.reserve(plain.len());
        self.context.compress(packed, plain, self.level).is_ok()
    }
}

impl Encoder {
    /// A frame of whatever length, in place of what is in `packed`; `false` if there is no memory for it.
    pub fn frame(&mut self, plain: &[u8], packed: &mut Vec<u8>) -> bool {
        packed.clear();
        packed.reserve(compress_bound(plain.len()));
        self.context.compress(packed, plain, self.level).is_ok()
    }
}

pub struct Decoder {
    context: DCtx<'static>,
}

impl Decoder {
    pub fn new() -> Option<Decoder> {
        Some(Decoder { context: DCtx::try_create()? })
    }

    pub fn decompress(&mut self, packed: &[u8], out: &mut [u8]) -> Result<usize, Damaged> {
        self.context.decompress(out, packed).map_err(|_| Damaged)
    }
}
