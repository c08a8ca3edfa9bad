//! What extended attributes has an inode?

use super::super::layout::{Place, XATTR_ELSEWHERE, XATTR_ENTRY, XATTR_PREFIXES};
use super::{Reader, Source};
use crate::error::{Context, Result, bail};

const MAX_VALUE: usize = 64 << 10;
/// Names and values of one inode, in bytes.
const MAX_ALL: usize = 1 << 20;
const MAX_COUNT: u32 = 4096;

impl<S: Source> Reader<S> {
    pub(super) fn pairs(&self, number: u32) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.read_pairs(number).context(|| format!("extended attributes {number}"))
    }

    fn read_pairs(&self, number: u32) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let Some((pairs, count, list)) = self.xattr_table else { bail!("the file system has none") };
        if number >= count {
            bail!("the file system has {count}");
        }
        let entry: [u8; XATTR_ENTRY] = self.entry(list, u64::from(number))?;
        let (place, rest) = entry.split_at(8);
        let place = Place::of(place.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)));
        let count = rest[..4].iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte));
        if count > MAX_COUNT {
            bail!("{count} attributes");
        }
        let mut cursor = self.cursor((pairs, list), place)?;
        let mut all = 0;
        let mut found = Vec::new();
        for _ in 0..count {
            let (kind, length) = (cursor.u16()?, usize::from(cursor.u16()?));
            let Some(prefix) = XATTR_PREFIXES.get(usize::from(kind & !XATTR_ELSEWHERE)) else {
                bail!("type {kind:#x}")
            };
            if length == 0 || length + prefix.len() > 255 {
                bail!("name of {length} bytes");
            }
            let name = [prefix, cursor.bytes(length)?.as_slice()].concat();
            if name.contains(&0) {
                bail!("name with a NUL");
            }
            let mut size = cursor.u32()?;
            let mut elsewhere = None;
            if kind & XATTR_ELSEWHERE != 0 {
                if size != 8 {
                    bail!("place of a value with {size} bytes");
                }
                let mut there = self.cursor((pairs, list), Place::of(cursor.u64()?))?;
                size = there.u32()?;
                elsewhere = Some(there);
            }
            all = usize::saturating_add(all, length).saturating_add(size as usize);
            if size as usize > MAX_VALUE || all > MAX_ALL {
                bail!("value of {size} bytes");
            }
            let value = elsewhere.as_mut().unwrap_or(&mut cursor).bytes(size as usize)?;
            found.push((name, value));
        }
        Ok(found)
    }
}
