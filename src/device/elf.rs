//! What does a library call itself, which versions of the C library does it need, which does it define?
//!
//! Only files of this machine, with 64 bits. Read by program headers, which stripping leaves (System V ABI; the versions as in the
//! Linux Standard Base), by a function, so that libraries of 100 MB are not read whole.

/// What this machine is called in places.
pub struct Machine {
    /// `e_machine`.
    elf: u16,
    /// In the dynamic loader's cache: a library for glibc, and which.
    pub cache_flags: u32,
    /// The directories of Debian and its kin.
    pub triplet: &'static str,
    pub musl_loader: &'static str,
}

const fn machine(elf: u16, cache_flags: u32, triplet: &'static str, musl_loader: &'static str) -> Machine {
    Machine { elf, cache_flags, triplet, musl_loader }
}

#[cfg(target_arch = "x86_64")]
pub const HERE: Machine = machine(62, 0x0303, "x86_64-linux-gnu", "/lib/ld-musl-x86_64.so.1");
#[cfg(target_arch = "aarch64")]
pub const HERE: Machine = machine(183, 0x0a03, "aarch64-linux-gnu", "/lib/ld-musl-aarch64.so.1");
#[cfg(target_arch = "riscv64")]
pub const HERE: Machine = machine(243, 0x1003, "riscv64-linux-gnu", "/lib/ld-musl-riscv64.so.1");
#[cfg(target_arch = "powerpc64")]
pub const HERE: Machine = machine(21, 0x0503, "powerpc64le-linux-gnu", "/lib/ld-musl-powerpc64le.so.1");
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "powerpc64")))]
pub const HERE: Machine = machine(0, 3, "", "");

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elf {
    pub soname: Option<String>,
    /// Names of versions such as `GLIBC_2.34`, without those that are only welcome.
    pub needs: Vec<String>,
    pub defines: Vec<String>,
}

/// Reads up to so many bytes at an offset of the file.
pub type ReadAt<'a> = &'a dyn Fn(u64, usize) -> Option<Vec<u8>>;

const BLOCK: usize = 64 << 10;
const LONGEST: usize = 256;
const WEAK: u16 = 2;

/// `None` if it is no program or library of this machine.
pub fn read(read_at: ReadAt) -> Option<Elf> {
    let header = read_at(0, 64)?;
    let data = if cfg!(target_endian = "little") { 1 } else { 2 };
    if !header.starts_with(&[0x7f, b'E', b'L', b'F', 2, data]) || half(&header, 18)? != HERE.elf {
        return None;
    }
    let count = usize::from(half(&header, 56)?);
    if half(&header, 54)? != 56 {
        return None;
    }
    let table = read_at(long(&header, 32)?, count * 56)?;
    let segments: Vec<Segment> = table.chunks_exact(56).filter_map(segment).collect();
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == 2) else { return Some(Elf::default()) };
    let table = read_at(dynamic.offset, usize::try_from(dynamic.size).ok()?.min(BLOCK))?;
    let file = File { read_at, segments: &segments, table: &table };
    Some(file.elf().unwrap_or_default())
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

fn segment(bytes: &[u8]) -> Option<Segment> {
    Some(Segment { kind: word(bytes, 0)?, offset: long(bytes, 8)?, address: long(bytes, 16)?, size: long(bytes, 32)? })
}

struct File<'a> {
    read_at: ReadAt<'a>,
    segments: &'a [Segment],
    /// Of the dynamic section.
    table: &'a [u8],
}

impl File<'_> {
    fn elf(&self) -> Option<Elf> {
        let strings = self.offset(self.tag(5)?)?;
        let text = |at: u32| self.text(strings, u64::from(at));
        let soname = self.tag(14).and_then(|at| self.text(strings, at));
        let mut elf = Elf { soname, ..Elf::default() };
        if let Some(block) = self.block(0x6fff_fffe) {
            for (at, count) in list(&block, 12, |entry| (word(&block, entry + 8), half(&block, entry + 2))) {
                let mut at = at;
                for _ in 0..count {
                    let (Some(flags), Some(name)) = (half(&block, at + 4), word(&block, at + 8)) else { break };
                    if flags & WEAK == 0 {
                        elf.needs.extend(text(name).filter(|name| name.starts_with("GLIBC_")));
                    }
                    let Some(next) = word(&block, at + 12).filter(|next| *next != 0) else { break };
                    at = at.saturating_add(next as usize);
                }
            }
        }
        if let Some(block) = self.block(0x6fff_fffc) {
            for (at, _) in list(&block, 16, |entry| (word(&block, entry + 12), half(&block, entry + 6))) {
                elf.defines.extend(word(&block, at).and_then(text));
            }
        }
        Some(elf)
    }

    fn tag(&self, tag: u64) -> Option<u64> {
        let mut entries = self.table.chunks_exact(16).map(|entry| (long(entry, 0), long(entry, 8)));
        entries.find(|(found, _)| *found == Some(tag)).and_then(|(_, value)| value)
    }

    /// What a tag points to, up to some length.
    fn block(&self, tag: u64) -> Option<Vec<u8>> {
        (self.read_at)(self.offset(self.tag(tag)?)?, BLOCK)
    }

    fn offset(&self, address: u64) -> Option<u64> {
        let holds = |segment: &&Segment| {
            segment.kind == 1 && address >= segment.address && address - segment.address < segment.size
        };
        let segment = self.segments.iter().find(holds)?;
        segment.offset.checked_add(address - segment.address)
    }

    fn text(&self, strings: u64, at: u64) -> Option<String> {
        let bytes = (self.read_at)(strings.checked_add(at)?, LONGEST)?;
        let end = bytes.iter().position(|&b| b == 0)?;
        String::from_utf8(bytes[..end].to_vec()).ok()
    }
}

/// The entries of a list of versions: where the names of each are, and how many. Where the next entry is, is the number at
/// the end of each, whose place that of its names says.
fn list(block: &[u8], next_at: usize, entry: impl Fn(usize) -> (Option<u32>, Option<u16>)) -> Vec<(usize, u16)> {
    let (mut found, mut at) = (Vec::new(), 0_usize);
    // An entry takes no less than 16 bytes; whoever goes back in the list has no end.
    for _ in 0..block.len() / 16 {
        let (Some(names), Some(count)) = entry(at) else { break };
        found.push((at.saturating_add(names as usize), count));
        let Some(next) = word(block, at + next_at).filter(|next| *next != 0) else { break };
        at = at.saturating_add(next as usize);
    }
    found
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn half(from: &[u8], at: usize) -> Option<u16> {
    bytes(from, at).map(u16::from_ne_bytes)
}

fn word(from: &[u8], at: usize) -> Option<u32> {
    bytes(from, at).map(u32::from_ne_bytes)
}

fn long(from: &[u8], at: usize) -> Option<u64> {
    bytes(from, at).map(u64::from_ne_bytes)
}

/// The first version of the C library that is needed and not there.
pub fn lacking<'a>(needs: &'a [String], has: &[String]) -> Option<&'a str> {
    let newest = has.iter().filter_map(|name| number(name)).max();
    let is_there = |need: &str| match number(need) {
        Some(number) => newest.is_some_and(|newest| number <= newest),
        None => has.iter().any(|name| name == need),
    };
    let missing = needs.iter().filter(|need| !is_there(need));
    missing.max_by_key(|need| number(need)).map(String::as_str)
}

/// The newest one, as it is shown.
pub fn newest(versions: &[String]) -> Option<&str> {
    versions.iter().filter(|name| number(name).is_some()).max_by_key(|name| number(name)).map(String::as_str)
}

/// `GLIBC_2.2.5` → 2, 2, 5.
fn number(version: &str) -> Option<[u32; 3]> {
    let mut parts = [0; 3];
    for (i, part) in version.strip_prefix("GLIBC_")?.split('.').enumerate() {
        *parts.get_mut(i)? = part.parse().ok()?;
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Option<Elf> {
        read(&|at, len| {
            let from = usize::try_from(at).ok()?.min(bytes.len());
            Some(bytes[from..from.saturating_add(len).min(bytes.len())].to_vec())
        })
    }

    /// The C library of this machine, if it is glibc: found as the loader finds it.
    fn libc() -> Option<Vec<u8>> {
        let cache = crate::device::ld_cache::parse(&std::fs::read("/etc/ld.so.cache").ok()?).unwrap();
        std::fs::read(cache.find("libc.so.6")?).ok()
    }

    #[test]
    fn a_real_library() {
        let Some(libc) = libc() else { return };
        let elf = of(&libc).unwrap();
        assert_eq!(elf.soname.as_deref(), Some("libc.so.6"));
        assert!(elf.defines.iter().any(|name| name == "GLIBC_2.17"), "{elf:?}");
        assert_eq!(lacking(&["GLIBC_2.17".into()], &elf.defines), None);
    }

    #[test]
    fn damage_makes_it_say_less() {
        assert_eq!(of(b""), None);
        assert_eq!(of(b"#!/bin/sh\n"), None);
        let Some(libc) = libc() else { return };
        let libc = &libc[..libc.len().min(200_000)];
        for at in (0..1200).chain((1200..libc.len()).step_by(97)) {
            let mut bytes = libc.to_vec();
            bytes[at] ^= 0xff;
            let _ = of(&bytes);
            if at % 10 == 0 {
                let _ = of(&bytes[..at]);
            }
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let check = |needs: &[&str], has: &[&str], want: Option<&str>| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            assert_eq!(lacking(&owned(needs), &owned(has)), want, "{needs:?} {has:?}");
        };
        let debian_11 = ["libc.so.6", "GLIBC_2.2.5", "GLIBC_2.4", "GLIBC_2.31", "GLIBC_PRIVATE"];
        check(&["GLIBC_2.2.5", "GLIBC_2.17"], &debian_11, None);
        check(&["GLIBC_2.34"], &debian_11, Some("GLIBC_2.34"));
        check(&["GLIBC_2.38", "GLIBC_2.34", "GLIBC_2.3"], &debian_11, Some("GLIBC_2.38"));
        check(&["GLIBC_ABI_DT_RELR"], &debian_11, Some("GLIBC_ABI_DT_RELR"));
        check(&["GLIBC_PRIVATE"], &debian_11, None);
        check(&["GLIBC_2.17"], &[], Some("GLIBC_2.17"));
        assert_eq!(newest(&debian_11.map(str::to_owned)), Some("GLIBC_2.31"));
    }
}
