//! Where does the dynamic loader of glibc find libraries? Its cache, `/etc/ld.so.cache`, is read and written.
//!
//! The format is `glibc-ld.so.cache1.1` (glibc: sysdeps/generic/dl-cache.h), alone or behind one of `ld.so-1.7.0`; written
//! alone, as every glibc since 2.2 reads it. A header, entries in descending order, the texts they point to, and an extension
//! that names the subdirectories for better processors.

use std::cmp::Ordering;

use super::elf::HERE;
use crate::error::{Error, Result};

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
const HEADER: usize = 48;
const ENTRY: usize = 24;
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const HWCAPS_TAG: u32 = 1;
const LONGEST: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As programs ask for it: `libc.so.6`.
    pub name: String,
    pub path: String,
    /// Kind of library and processor.
    pub flags: u32,
    pub os_version: u32,
    /// What the processor must have.
    pub hwcap: u64,
}

impl Entry {
    /// A library for this machine.
    pub fn new(name: impl Into<String>, path: impl Into<String>) -> Entry {
        Entry { name: name.into(), path: path.into(), flags: HERE.cache_flags, os_version: 0, hwcap: 0 }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cache {
    pub entries: Vec<Entry>,
    /// Names of subdirectories, to which entries refer by number.
    hwcaps: Vec<String>,
}

pub fn parse(bytes: &[u8]) -> Result<Cache> {
    parse_at(bytes).ok_or_else(|| Error::new("not a cache of the dynamic loader, or damaged"))
}

fn parse_at(bytes: &[u8]) -> Option<Cache> {
    let bytes = if bytes.starts_with(OLD_MAGIC) {
        let count = number(bytes, OLD_HEADER - 4)? as usize;
        let end = count.checked_mul(OLD_ENTRY)?.checked_add(OLD_HEADER)?;
        bytes.get(end.checked_next_multiple_of(8)?..)?
    } else {
        bytes
    };
    if !bytes.starts_with(MAGIC) {
        return None;
    }
    let count = number(bytes, 20)? as usize;
    let end = count.checked_mul(ENTRY)?.checked_add(HEADER)?;
    let table = bytes.get(HEADER..end)?;
    let mut entries = Vec::new();
    for entry in table.chunks_exact(ENTRY) {
        // What no program can ask for is left out.
        let (Some(name), Some(path)) = (text(bytes, number(entry, 4)?), text(bytes, number(entry, 8)?)) else {
            continue;
        };
        let hwcap = u64::from_ne_bytes(entry.get(16..24)?.try_into().ok()?);
        entries.push(Entry { name, path, flags: number(entry, 0)?, os_version: number(entry, 12)?, hwcap });
    }
    Some(Cache { entries, hwcaps: hwcaps(bytes).unwrap_or_default() })
}

fn hwcaps(bytes: &[u8]) -> Option<Vec<String>> {
    let at = number(bytes, 32)? as usize;
    if at == 0 || number(bytes, at)? != EXTENSION_MAGIC {
        return None;
    }
    let sections = bytes.get(at.checked_add(8)?..)?.chunks_exact(16).take(number(bytes, at.checked_add(4)?)? as usize);
    for section in sections {
        if number(section, 0)? == HWCAPS_TAG {
            let (from, length) = (number(section, 8)? as usize, number(section, 12)? as usize);
            let list = bytes.get(from..from.checked_add(length)?)?;
            return list.chunks_exact(4).map(|offset| text(bytes, number(offset, 0)?)).collect();
        }
    }
    None
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn text(bytes: &[u8], at: u32) -> Option<String> {
    let rest = bytes.get(at as usize..)?;
    let rest = &rest[..rest.len().min(LONGEST)];
    let end = rest.iter().position(|&b| b == 0)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

impl Cache {
    /// These are found before all others, and others of the same names not at all.
    pub fn put_first(&mut self, entries: Vec<Entry>) {
        self.entries.retain(|old| !entries.iter().any(|new| new.name == old.name && new.flags == old.flags));
        self.entries.splice(0..0, entries);
    }

    /// Where a library for this machine is.
    pub fn find(&self, name: &str) -> Option<&str> {
        let is_ours = |entry: &&Entry| entry.name == name && entry.flags == HERE.cache_flags;
        self.entries.iter().filter(is_ours).min_by_key(|entry| entry.hwcap).map(|entry| entry.path.as_str())
    }

    /// The file.
    pub fn write(&self) -> Vec<u8> {
        let mut sorted: Vec<&Entry> = self.entries.iter().collect();
        // Those that are equal stay in their order.
        sorted.sort_by(|a, b| compare(b.name.as_bytes(), a.name.as_bytes()));
        let strings_at = HEADER + ENTRY * sorted.len();
        let mut strings = Vec::new();
        let mut add = |text: &str| {
            let at = (strings_at + strings.len()) as u32;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at.to_ne_bytes()
        };
        let mut table = Vec::new();
        for entry in &sorted {
            table.extend_from_slice(&entry.flags.to_ne_bytes());
            table.extend_from_slice(&add(&entry.name));
            table.extend_from_slice(&add(&entry.path));
            table.extend_from_slice(&entry.os_version.to_ne_bytes());
            table.extend_from_slice(&entry.hwcap.to_ne_bytes());
        }
        let hwcaps: Vec<u8> = self.hwcaps.iter().flat_map(|name| add(name)).collect();
        let strings_len = strings.len() as u32;
        strings.resize(strings.len().next_multiple_of(4) + (4 - strings_at % 4) % 4, 0);
        let extension_at = if hwcaps.is_empty() { 0 } else { (strings_at + strings.len()) as u32 };
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&(sorted.len() as u32).to_ne_bytes());
        file.extend_from_slice(&strings_len.to_ne_bytes());
        let endian: u8 = if cfg!(target_endian = "little") { 2 } else { 3 };
        file.extend_from_slice(&[endian, 0, 0, 0]);
        file.extend_from_slice(&extension_at.to_ne_bytes());
        file.resize(HEADER, 0);
        file.append(&mut table);
        file.append(&mut strings);
        if extension_at > 0 {
            for word in [EXTENSION_MAGIC, 1, HWCAPS_TAG, 0, extension_at + 24, hwcaps.len() as u32] {
                file.extend_from_slice(&word.to_ne_bytes());
            }
            file.extend_from_slice(&hwcaps);
        }
        file
    }
}

/// As the loader compares names when it searches: digits as numbers (glibc: `_dl_cache_libcmp`).
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(x), other) => match (x.is_ascii_digit(), other.is_some_and(u8::is_ascii_digit)) {
                (true, true) => {
                    let order = leading_number(&mut a).cmp(&leading_number(&mut b));
                    if order != Ordering::Equal {
                        return order;
                    }
                }
                (true, false) => return Ordering::Greater,
                (false, true) => return Ordering::Less,
                (false, false) => match other {
                    None => return Ordering::Greater,
                    Some(y) if x != y => return x.cmp(y),
                    Some(_) => (a, b) = (&a[1..], &b[1..]),
                },
            },
        }
    }
}

fn leading_number(text: &mut &[u8]) -> i32 {
    let mut value = 0_i32;
    while let [digit @ b'0'..=b'9', rest @ ..] = *text {
        value = value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'));
        *text = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Cache {
        let mut better = Entry::new("libm.so.6", "/lib/glibc-hwcaps/x86-64-v3/libm.so.6");
        better.hwcap = (1 << 62) | 1;
        let entries = vec![
            Entry::new("libm.so.10", "/lib/libm.so.10"),
            better,
            Entry::new("libm.so.6", "/lib/libm.so.6"),
            Entry { flags: 3, ..Entry::new("libc.so.6", "/lib32/libc.so.6") },
            Entry::new("libc.so.6", "/lib/libc.so.6"),
        ];
        Cache { entries, hwcaps: vec!["x86-64-v2".into(), "x86-64-v3".into()] }
    }

    #[test]
    fn what_is_written_is_read() {
        let cache = sample();
        assert_eq!(parse(&cache.write()).unwrap(), cache);
        assert_eq!(parse(&Cache::default().write()).unwrap(), Cache::default());
        let mut old = OLD_MAGIC.to_vec();
        old.push(0);
        old.extend_from_slice(&1_u32.to_ne_bytes());
        old.extend_from_slice(&[0; OLD_ENTRY + 4]);
        old.extend(cache.write());
        assert_eq!(parse(&old).unwrap(), cache);
        assert_eq!(cache.find("libm.so.6"), Some("/lib/libm.so.6"));
        assert_eq!(cache.find("libm.so"), None);
    }

    /// This machine's own is as the one that we would write of its entries, but for the order of equal names.
    #[test]
    fn ldconfig_writes_the_same() {
        let Ok(bytes) = std::fs::read("/etc/ld.so.cache") else { return };
        let cache = parse(&bytes).unwrap();
        assert!(cache.find("libc.so.6").is_some(), "{cache:?}");
        let names = |cache: &Cache| cache.entries.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&parse(&cache.write()).unwrap()), names(&cache));
    }

    #[test]
    fn ours_come_first() {
        let mut cache = sample();
        cache.put_first(vec![Entry::new("libm.so.6", "/ours"), Entry::new("libcuda.so.1", "/cuda")]);
        let read = parse(&cache.write()).unwrap();
        let all: Vec<_> = read.entries.iter().map(|entry| (entry.name.as_str(), entry.path.as_str())).collect();
        let want = [
            ("libm.so.10", "/lib/libm.so.10"),
            ("libm.so.6", "/ours"),
            ("libcuda.so.1", "/cuda"),
            ("libc.so.6", "/lib32/libc.so.6"),
            ("libc.so.6", "/lib/libc.so.6"),
        ];
        assert_eq!(all, want);
    }

    #[test]
    fn names_in_the_loaders_order() {
        let check = |a: &str, b: &str, want: Ordering| {
            assert_eq!(compare(a.as_bytes(), b.as_bytes()), want, "{a} {b}");
            assert_eq!(compare(b.as_bytes(), a.as_bytes()), want.reverse(), "{b} {a}");
        };
        check("libc.so.6", "libc.so.6", Ordering::Equal);
        check("libc.so.10", "libc.so.6", Ordering::Greater);
        check("libc.so", "libc.so.6", Ordering::Less);
        check("lib1", "liba", Ordering::Greater);
        check("lib1", "lib", Ordering::Greater);
        check("libb", "liba", Ordering::Greater);
        check("", "", Ordering::Equal);
    }

    #[test]
    fn damage_is_an_error_or_less_entries() {
        let whole = sample().write();
        for end in 0..whole.len() {
            let _ = parse(&whole[..end]);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = parse(&bytes);
            }
        }
        assert_eq!(parse(b"").unwrap_err().to_string(), "not a cache of the dynamic loader, or damaged");
    }
}
