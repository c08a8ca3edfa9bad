//! How is data compressed and decompressed? Blocks of packed images (`block`) and streams of layers and archives
//! (`stream`, `encoder`). The only users of the engines.

pub mod block;
mod codec;
pub mod crc32;
pub mod encoder;
mod gunzip;
mod input;
mod lz4;
mod lzo;
pub mod stream;
#[cfg(test)]
mod stream_tests;
mod zlib;
mod zstd;
mod zstd_frames;

pub use block::{Algorithm, Compressor, Damaged, Decompressor};
pub use codec::Codec;
