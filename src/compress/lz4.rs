//! LZ4's block format, by lz4_flex.

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};

use super::Damaged;

/// Room for the longest that a block can become.
#[derive(Default)]
pub struct Table {
    room: Vec<u8>,
}

impl Table {
    pub fn compress(&mut self, plain: &[u8], packed: &mut Vec<u8>) -> bool {
        let most = get_maximum_output_size(plain.len());
        if self.room.len() < most {
            self.room.resize(most, 0);
        }
        match compress_into(plain, &mut self.room) {
            Ok(made) => {
                packed.extend_from_slice(&self.room[..made]);
                true
            }
            Err(_) => false,
        }
    }
}

pub fn decompress(packed: &[u8], out: &mut [u8]) -> Result<usize, Damaged> {
    decompress_into(packed, out).map_err(|_| Damaged)
}
