//! Any bytes as a compressed stream: what can be inflated is inflated alike whatever the sizes of reads.
#![no_main]
#![allow(dead_code)]

use std::io::Read;

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/compress"]
mod compress {
    pub mod codec;
    mod crc32;
    mod gunzip;
    mod input;
    pub mod stream;
    mod zstd_frames;
}

use compress::stream::{Decoder, Proof};

fn inflate(data: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut decoder = Decoder::new(data, Proof::Crc).ok()?;
    let (mut all, mut part) = (Vec::new(), vec![0; size]);
    while all.len() < 1 << 20 {
        match decoder.read(&mut part).ok()? {
            0 => return Some(all),
            n => all.extend_from_slice(&part[..n]),
        }
    }
    None
}

fuzz_target!(|data: &[u8]| {
    if let (Some(a), Some(b)) = (inflate(data, 1 << 16), inflate(data, 977)) {
        assert_eq!(a, b);
    }
});
