//! Streams: what others write is read, what we write is read by others, damage is an error.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

use super::encoder::{Encoder, Encoding, GZIP_CHUNK as CHUNK};
use super::gunzip::MAX_TEXT;
use super::stream::{Decoder, Proof};

/// Text-like and noisy stretches, longer than a chunk.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut out = Vec::with_capacity(length + 64);
    while out.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match state >> 30 {
            0 => out.extend_from_slice(b"the quick brown fox jumps over the lazy dog\n"),
            1 => out.extend_from_slice(&state.to_le_bytes()),
            2 => out.extend(std::iter::repeat_n((state >> 8) as u8, (state >> 16) as usize & 0x1ff)),
            _ => out.extend_from_slice(format!("{state} ").as_bytes()),
        }
    }
    out.truncate(length);
    out
}

fn filter(program: &str, args: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    let mut stdin = child.stdin.take()?;
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().ok()?;
    feeder.join().unwrap().ok()?;
    output.status.success().then_some(output.stdout)
}

fn gzip(data: &[u8], threads: usize, piece: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), Encoding::Gzip, threads);
    for piece in data.chunks(piece) {
        encoder.write_all(piece).unwrap();
    }
    encoder.finish().unwrap()
}

/// Reads in pieces of odd sizes from a source that returns odd sizes.
fn gunzip(data: &[u8]) -> Result<Vec<u8>, String> {
    struct Dribble<'a>(&'a [u8], usize);
    impl Read for Dribble<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.1 = self.1 * 5 % 70_001 + 1;
            let n = buf.len().min(self.1);
            self.0.read(&mut buf[..n])
        }
    }
    let mut out = Vec::new();
    let read = Decoder::new(Dribble(data, 7), Proof::Crc).and_then(|mut decoder| decoder.read_to_end(&mut out));
    read.map_err(|e| e.to_string())?;
    Ok(out)
}

#[test]
fn what_others_write_is_read() {
    for length in [0, 1, 1000, 300_000, 3 << 20] {
        let data = sample(length);
        for (program, args) in [
            ("gzip", &["-1"][..]),
            ("gzip", &["-9"]),
            ("pigz", &["-p3"]),
            ("pigz", &["-i", "-p2"]),
            ("zstd", &["-q"]),
            ("zstd", &["-q", "-19", "-T2"]),
        ] {
            let Some(packed) = filter(program, args, &data) else {
                eprintln!("skipped: no {program}");
                continue;
            };
            assert!(gunzip(&packed).as_ref() == Ok(&data), "{program} {args:?} {length}");
            // Several members or frames, one of them empty, and zstd's skippable ones.
            let empty = filter(program, args, b"").unwrap();
            let mut twice = [&packed[..], &empty, &packed].concat();
            if program == "zstd" {
                twice.extend_from_slice(b"\x53\x2a\x4d\x18\x03\0\0\0abc");
            } else {
                twice.extend_from_slice(&[0; 700]);
            }
            assert!(gunzip(&twice) == Ok([&data[..], &data].concat()), "{program} twice {length}");
        }
        assert!(gunzip(&data).as_ref() == Ok(&data), "plain {length}");
    }
}

#[test]
fn what_we_write_is_read_and_does_not_depend_on_threads() {
    // With chunks of zeros alone, and almost.
    let mut holes = sample(9 * CHUNK + 5);
    holes[CHUNK..4 * CHUNK].fill(0);
    holes[3 * CHUNK - 1] = 1;
    holes[5 * CHUNK - 7..].fill(0);
    let lengths = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17].into_iter().map(sample);
    for data in lengths.chain([holes]) {
        let length = data.len();
        let packed = gzip(&data, 1, 10_000_000);
        assert!(packed == gzip(&data, 4, 4093), "{length}");
        assert!(gunzip(&packed).as_ref() == Ok(&data), "{length}");
        match filter("gzip", &["-dc"], &packed) {
            Some(theirs) => assert!(theirs == data, "{length}"),
            None => eprintln!("skipped: no gzip"),
        }
    }
    let noise: Vec<u8> = sample(CHUNK).iter().enumerate().map(|(i, b)| b ^ ((i * i) >> 3) as u8).collect();
    assert!(gunzip(&gzip(&noise, 2, 1 << 16)).as_ref() == Ok(&noise));
}

#[test]
fn zstd_that_we_write() {
    for length in [0, 1, 2 << 20, (5 << 20) + 17] {
        let data = sample(length);
        let zstd = |threads: usize, piece: usize| {
            let mut encoder = Encoder::new(Vec::new(), Encoding::Zstd(3), threads);
            for piece in data.chunks(piece) {
                encoder.write_all(piece).unwrap();
            }
            encoder.finish().unwrap()
        };
        let packed = zstd(1, 10_000_000);
        assert!(packed == zstd(3, 4093), "{length}");
        assert!(gunzip(&packed).as_ref() == Ok(&data), "{length}");
        match filter("zstd", &["-dc"], &packed) {
            Some(theirs) => assert!(theirs == data, "{length}"),
            None => eprintln!("skipped: no zstd"),
        }
    }
}

#[test]
fn damage_is_an_error() {
    let data = sample(200_000);
    let packed = gzip(&data, 2, 1 << 20);
    for cut in [1, 2, 9, 10, 11, 100, packed.len() / 2, packed.len() - 9, packed.len() - 8, packed.len() - 1] {
        assert!(gunzip(&packed[..cut]).is_err() || cut == 1, "{cut}");
    }
    for at in [packed.len() - 1, packed.len() - 5] {
        let mut bad = packed.clone();
        bad[at] ^= 1;
        assert!(gunzip(&bad).is_err(), "{at}");
    }
    // Where a digest says more, the CRC is not looked at; the length is.
    let by_digest = |bytes: &[u8]| {
        let mut out = Vec::new();
        Decoder::new(bytes, Proof::Digest).and_then(|mut decoder| decoder.read_to_end(&mut out)).map(|_| out)
    };
    let mut bad = packed.clone();
    bad[packed.len() - 5] ^= 1;
    assert!(by_digest(&bad).unwrap() == data);
    bad[packed.len() - 1] ^= 1;
    assert!(by_digest(&bad).is_err());
    assert!(gunzip(&[&packed[..], b"x"].concat()).unwrap_err().contains("garbage"));
    assert!(gunzip(b"\x1f\x8b\x07\0\0\0\0\0\0\0").is_err());
    let endless = [&b"\x1f\x8b\x08\x08\0\0\0\0\0\0"[..], &vec![b'n'; MAX_TEXT * 2]].concat();
    assert!(gunzip(&endless).unwrap_err().contains("too long"));
    assert!(gunzip(b"BZh91AY&SY").unwrap_err().contains("bzip2"));
    assert!(gunzip(b"\xfd7zXZ\0\0").unwrap_err().contains("xz"));
}

#[test]
fn mutations_never_panic_or_hang() {
    let data = sample(20_000);
    let mut streams = vec![gzip(&data, 1, 1 << 20)];
    streams.extend(filter("zstd", &["-q"], &data));
    let mut state = 7u32;
    for stream in streams {
        for _ in 0..3000 {
            let mut bad = stream.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (state >> 8) as usize % bad.len();
                bad[at] = state as u8;
            }
            let mut out = Vec::new();
            // Either is fine; it must end, and without a panic.
            let _ = Decoder::new(&bad[..], Proof::Crc).and_then(|decoder| decoder.take(10 << 20).read_to_end(&mut out));
        }
    }
}
