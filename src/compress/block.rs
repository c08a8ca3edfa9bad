//! What is in a compressed block? One table of algorithms, each a block in, a block out.
//!
//! The longest that a block may become is always known beforehand, so that nothing hostile can make more of it.
//! Deliberately absent: lzma and xz (recognized, so that messages name them).

use std::fmt;

use super::{lz4, lzo, zlib, zstd};

/// How a block is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    Zlib,
    Lzo,
    Lz4,
    Zstd,
}

impl Algorithm {
    /// The levels that it can be written with; `None`: it has none.
    pub fn levels(self) -> Option<(i32, i32)> {
        match self {
            Algorithm::Zlib => Some((1, 9)),
            Algorithm::Zstd => Some((1, 22)),
            Algorithm::Lz4 | Algorithm::Lzo => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Algorithm::Zlib => "gzip",
            Algorithm::Lzo => "lzo",
            Algorithm::Lz4 => "lz4",
            Algorithm::Zstd => "zstd",
        })
    }
}

/// What decompressing can run into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damaged;

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("compressed data is damaged")
    }
}

/// Compresses blocks; its memory is used again for each.
pub enum Compressor {
    /// Every block stays as it is.
    Stored,
    Zlib(zlib::Deflate),
    Lz4(lz4::Table),
    Zstd(zstd::Encoder),
}

impl Compressor {
    /// `None`: not stored, but as it is said. Of [`Algorithm::Lzo`] there is no compressor.
    pub fn new(how: Option<(Algorithm, i32)>) -> Option<Compressor> {
        Some(match how {
            None => Compressor::Stored,
            Some((Algorithm::Zlib, level)) => Compressor::Zlib(zlib::Deflate::new(level)),
            Some((Algorithm::Lz4, _)) => Compressor::Lz4(lz4::Table::default()),
            Some((Algorithm::Zstd, level)) => Compressor::Zstd(zstd::Encoder::new(level)?),
            Some((Algorithm::Lzo, _)) => return None,
        })
    }

    /// Compresses `plain` into `packed` (which is emptied before); `false` if it would not become smaller.
    pub fn compress(&mut self, plain: &[u8], packed: &mut Vec<u8>) -> bool {
        packed.clear();
        let made = match self {
            Compressor::Stored => return false,
            Compressor::Zlib(engine) => engine.compress(plain, packed),
            Compressor::Lz4(table) => table.compress(plain, packed),
            Compressor::Zstd(engine) => engine.compress(plain, packed),
        };
        made && packed.len() < plain.len()
    }
}

/// Decompresses blocks of one algorithm; its memory is used again for each.
pub enum Decompressor {
    Zlib(zlib::Inflate),
    Lzo,
    Lz4,
    Zstd(zstd::Decoder),
}

impl Decompressor {
    /// `None` if there is no memory for it.
    pub fn new(algorithm: Algorithm) -> Option<Decompressor> {
        Some(match algorithm {
            Algorithm::Zlib => Decompressor::Zlib(zlib::Inflate::default()),
            Algorithm::Lzo => Decompressor::Lzo,
            Algorithm::Lz4 => Decompressor::Lz4,
            Algorithm::Zstd => Decompressor::Zstd(zstd::Decoder::new()?),
        })
    }

    /// Decompresses a block into the beginning of `out`; how long it is. Longer than `out` is an error.
    pub fn decompress(&mut self, packed: &[u8], out: &mut [u8]) -> Result<usize, Damaged> {
        match self {
            // To some it would be a block without content.
            _ if packed.is_empty() => Err(Damaged),
            Decompressor::Zlib(engine) => engine.decompress(packed, out),
            Decompressor::Lzo => lzo::decompress(packed, out),
            Decompressor::Lz4 => lz4::decompress(packed, out),
            Decompressor::Zstd(engine) => engine.decompress(packed, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text-like, then noise, then zeros.
    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        };
        (0..length)
            .map(|i| match i / 5000 % 3 {
                0 => b"the quick brown fox jumps over the lazy dog "[i * i % 977 % 44],
                1 => next(),
                _ => 0,
            })
            .collect()
    }

    #[test]
    fn blocks_come_back() {
        for (algorithm, levels) in
            [(Algorithm::Zlib, &[1, 6, 9][..]), (Algorithm::Lz4, &[0]), (Algorithm::Zstd, &[1, 3, 15, 22])]
        {
            for level in levels {
                let mut engine = Compressor::new(Some((algorithm, *level))).unwrap();
                let mut back = Decompressor::new(algorithm).unwrap();
                let (mut packed, mut again) = (Vec::new(), Vec::new());
                for length in [4096, 8192, 20_000, 131_072] {
                    let plain = sample(length);
                    assert!(engine.compress(&plain, &mut packed), "{algorithm} {level} {length}");
                    engine.compress(&sample(1000), &mut again);
                    engine.compress(&plain, &mut again);
                    assert_eq!(packed, again, "{algorithm} {level}: the same bytes each time");
                    let mut out = vec![1; length];
                    assert_eq!(back.decompress(&packed, &mut out), Ok(length), "{algorithm} {level} {length}");
                    assert_eq!(out, plain, "{algorithm} {level} {length}");
                    assert_eq!(back.decompress(&packed, &mut out[..length - 1]), Err(Damaged), "{algorithm} {level}");
                    assert_eq!(back.decompress(&packed, &mut vec![1; length + 9]), Ok(length));
                }
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_said() {
        let noise: Vec<u8> = sample(20_000)[5000..9000].to_vec();
        let mut packed = Vec::new();
        for how in [None, Some((Algorithm::Zlib, 9)), Some((Algorithm::Lz4, 0)), Some((Algorithm::Zstd, 3))] {
            let mut engine = Compressor::new(how).unwrap();
            for plain in [&noise[..], b"x", b""] {
                assert!(!engine.compress(plain, &mut packed), "{how:?} {}", plain.len());
            }
        }
    }

    /// Any bytes: an error or something that fits, never a panic.
    #[test]
    fn damaged_blocks_are_errors() {
        let plain = sample(30_000);
        for algorithm in [Algorithm::Zlib, Algorithm::Lz4, Algorithm::Zstd, Algorithm::Lzo] {
            let mut packed = lzo::SAMPLE.0.to_vec();
            if let Some(mut engine) = Compressor::new(Some((algorithm, 3))) {
                engine.compress(&plain, &mut packed);
            }
            let mut back = Decompressor::new(algorithm).unwrap();
            let mut out = vec![0; 30_000];
            for cut in 0..packed.len().min(600) {
                let got = back.decompress(&packed[..cut], &mut out);
                assert!(got.is_err() || algorithm == Algorithm::Lz4, "{algorithm}: cut at {cut}");
            }
            for at in 0..packed.len().min(2000) {
                for bit in [1, 16, 128] {
                    let mut bad = packed.clone();
                    bad[at] ^= bit;
                    if let Ok(n) = back.decompress(&bad, &mut out) {
                        assert!(n <= out.len());
                    }
                }
            }
        }
    }
}
