//! Which files were hashed before and did not change since? So that an unchanged context is looked at, not read.
//!
//! A file counts as unchanged if device, inode, size and both times are what they were. A file that changed less than
//! two seconds before it was hashed is not remembered: it could change again within the same tick of the clock.
//! The memo is a mere accelerator: lost or damaged, it is empty.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::oci::digest::Digest;
use crate::sys::file::Stat;

const MAGIC: &[u8; 8] = b"ch-memo1";
const FIELDS: usize = 7;
const RECORD: usize = FIELDS * 8 + 32;
/// Entries kept beside those used this time.
const MAX_OLD: usize = 200_000;
const SETTLED_SECONDS: i64 = 2;

type Key = [u64; FIELDS];

#[derive(Default)]
pub struct Memo {
    known: HashMap<Key, [u8; 32]>,
    used: HashMap<Key, [u8; 32]>,
    changed: bool,
}

impl Memo {
    /// What [`Memo::to_bytes`] gave; empty if these are no such bytes.
    pub fn parse(bytes: &[u8]) -> Memo {
        let Some(rest) = bytes.strip_prefix(MAGIC) else { return Memo::default() };
        let (records, rest) = rest.as_chunks::<RECORD>();
        if !rest.is_empty() {
            return Memo::default();
        }
        let known = records.iter().map(|record| {
            let (fields, digest) = record.split_at(FIELDS * 8);
            let mut key = [0; FIELDS];
            for (field, bytes) in key.iter_mut().zip(fields.as_chunks::<8>().0) {
                *field = u64::from_le_bytes(*bytes);
            }
            let mut value = [0; 32];
            value.copy_from_slice(digest);
            (key, value)
        });
        Memo { known: known.collect(), ..Memo::default() }
    }

    /// To be kept until the next time.
    pub fn to_bytes(&self) -> Vec<u8> {
        let old = self.known.iter().filter(|(key, _)| !self.used.contains_key(*key)).take(MAX_OLD);
        let mut bytes = MAGIC.to_vec();
        for (key, digest) in self.used.iter().chain(old) {
            for field in key {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
            bytes.extend_from_slice(digest);
        }
        bytes
    }

    /// Whether there is anything new to be kept since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn find(&mut self, stat: &Stat) -> Option<[u8; 32]> {
        let key = key(stat);
        let digest = *self.known.get(&key).or_else(|| self.used.get(&key))?;
        self.used.insert(key, digest);
        Some(digest)
    }

    pub(super) fn keep(&mut self, stat: &Stat, digest: [u8; 32]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs() as i64);
        if stat.ctime.sec.max(stat.mtime.sec) + SETTLED_SECONDS < now {
            self.used.insert(key(stat), digest);
            self.changed = true;
        }
    }
}

fn key(stat: &Stat) -> Key {
    [
        stat.dev,
        stat.ino,
        stat.size,
        stat.mtime.sec as u64,
        u64::from(stat.mtime.nsec),
        stat.ctime.sec as u64,
        u64::from(stat.ctime.nsec),
    ]
}

/// The bytes of a digest.
pub(super) fn raw(digest: &Digest) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digest.hex().as_bytes().as_chunks::<2>().0) {
        let digit = |c: u8| (c as char).to_digit(16).unwrap_or_default() as u8;
        *byte = digit(pair[0]) << 4 | digit(pair[1]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::{Kind, Time};

    fn stat(ino: u64, sec: i64) -> Stat {
        let time = Time { sec, nsec: 7 };
        Stat {
            dev: 1,
            ino,
            kind: Kind::File,
            mode: 0,
            uid: 0,
            nlink: 1,
            size: 5,
            allocated: 0,
            mtime: time,
            ctime: time,
        }
    }

    #[test]
    fn what_was_kept_is_found_again() {
        let mut memo = Memo::default();
        assert!(!memo.take_changed());
        memo.keep(&stat(1, 1000), [1; 32]);
        memo.keep(&stat(2, 1000), [2; 32]);
        // It may change again within the same tick.
        memo.keep(&stat(3, i64::from(u32::MAX) * 4), [3; 32]);
        assert!(memo.take_changed() && !memo.take_changed());
        let bytes = memo.to_bytes();
        let mut memo = Memo::parse(&bytes);
        assert_eq!(memo.find(&stat(1, 1000)), Some([1; 32]));
        assert_eq!(memo.find(&stat(2, 1000)), Some([2; 32]));
        assert_eq!(memo.find(&stat(3, i64::from(u32::MAX) * 4)), None);
        assert_eq!(memo.find(&stat(1, 1001)), None);
        assert_eq!(memo.find(&Stat { size: 6, ..stat(1, 1000) }), None);
        assert_eq!(memo.find(&Stat { mode: 0o777, ..stat(1, 1000) }), Some([1; 32]));
        for damaged in [&bytes[1..], &bytes[..bytes.len() - 1], b"", b"ch-memo1x"] {
            assert_eq!(Memo::parse(damaged).find(&stat(1, 1000)), None);
        }
    }

    #[test]
    fn raw_inverts_hex() {
        let digest = Digest::of(b"x");
        let hex: String = raw(&digest).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, digest.hex());
    }
}
