//! Any bytes as a packed image: all of it is read, or refused.
#![no_main]
#![allow(dead_code)]

use std::io;

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/compress/mod.rs"]
mod compress;
#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/squashfs/mod.rs"]
mod squashfs;
#[path = "../../../src/tree.rs"]
mod tree;

use squashfs::{Reader, Source};
use tree::{Kind, Tree};

struct Bytes(Vec<u8>);

impl Source for Bytes {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = start.checked_add(out.len()).and_then(|end| self.0.get(start..end));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.0.len() as u64
    }
}

fn read(data: &[u8]) -> error::Result<()> {
    let reader = Reader::open(Bytes(data.to_vec()))?;
    let (mut left, mut buffer, mut steps) = (vec![reader.root()], vec![0; 1 << 17], 0);
    while let Some(id) = left.pop() {
        let attributes = reader.attributes(id)?;
        let _ = reader.xattrs(id);
        match attributes.kind {
            Kind::Dir => left.extend(reader.list(id, 0, 100)?.iter().map(|name| name.id)),
            Kind::File => {
                let mut at = 0;
                while let Ok(Some((start, end))) = reader.next_data(id, at) {
                    let n = (end - start).min(buffer.len() as u64) as usize;
                    let Ok(n) = reader.read_at(id, start, &mut buffer[..n]) else { break };
                    assert!(n > 0);
                    at = start + n as u64;
                    steps += 1;
                    if steps > 200 {
                        break;
                    }
                }
            }
            Kind::Symlink => assert!(!reader.read_link(id)?.is_empty()),
            Kind::Special => {}
        }
        steps += 1;
        if steps > 1000 {
            break;
        }
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = read(data);
});
