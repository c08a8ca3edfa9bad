//! Who owns what in an image, when on disk everything is the user's? A record by path, kept with the layer.
//!
//! Only what differs is here: owner and group other than root, set-id bits (which never stand on disk, where they would
//! give the user's rights to others), device nodes, file capabilities.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::bail;
use crate::error::{Context, Error, Result};

/// What a file has been made to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    /// `S_ISUID` and `S_ISGID`, nothing else.
    pub bits: u32,
    pub device: Option<Device>,
    /// The value of `security.capability`.
    pub capability: Option<Vec<u8>>,
}

/// A device node; on disk an empty file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    pub kind: DeviceKind,
    /// As in `st_rdev`.
    pub number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    Character,
    Block,
}

impl Owner {
    /// Root's, with nothing special about it.
    pub fn is_plain(&self) -> bool {
        *self == Owner::default()
    }
}

/// By path from the root, without a leading slash. The whole truth about a tree, not a difference between layers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    entries: BTreeMap<Vec<u8>, Owner>,
}

impl Ledger {
    pub fn new() -> Ledger {
        Ledger::default()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub fn get(&self, path: &[u8]) -> Option<&Owner> {
        self.entries.get(clean(path))
    }

    /// A plain owner is as good as none.
    pub fn set(&mut self, path: &[u8], owner: Owner) {
        if owner.is_plain() {
            self.entries.remove(clean(path));
        } else {
            self.entries.insert(clean(path).to_owned(), owner);
        }
    }

    /// In the order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Owner)> {
        self.entries.iter().map(|(path, owner)| (path.as_slice(), owner))
    }
}

fn clean(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&b| b != b'/').unwrap_or(path.len());
    let end = path.iter().rposition(|&b| b != b'/').map_or(start, |at| at + 1);
    &path[start..end]
}

/// One line for each path: `UID GID BITS DEVICE CAPABILITY PATH`, `-` for none, the path with `%XX` for what is not
/// plain ASCII.
impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (path, owner) in &self.entries {
            write!(f, "{} {} {:o} ", owner.uid, owner.gid, owner.bits)?;
            match owner.device {
                None => f.write_str("-")?,
                Some(Device { kind: DeviceKind::Character, number }) => write!(f, "c{number}")?,
                Some(Device { kind: DeviceKind::Block, number }) => write!(f, "b{number}")?,
            }
            match &owner.capability {
                None => f.write_str(" - ")?,
                Some(value) => {
                    f.write_str(" ")?;
                    value.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                    f.write_str(" ")?;
                }
            }
            for &byte in path {
                match byte {
                    b'%' | 0..=b' ' | 0x7f.. => write!(f, "%{byte:02x}")?,
                    _ => write!(f, "{}", byte as char)?,
                }
            }
            f.write_str("\n")?;
        }
        Ok(())
    }
}

impl FromStr for Ledger {
    type Err = Error;

    fn from_str(text: &str) -> Result<Ledger> {
        let mut ledger = Ledger::new();
        for (i, line) in text.lines().enumerate() {
            let (path, owner) = parse_line(line).context(|| format!("ownership ledger, line {}", i + 1))?;
            ledger.set(&path, owner);
        }
        Ok(ledger)
    }
}

fn parse_line(line: &str) -> Result<(Vec<u8>, Owner)> {
    let fields: Vec<&str> = line.split(' ').collect();
    let &[uid, gid, bits, device, capability, path] = fields.as_slice() else { bail!("not six fields") };
    let number = |text: &str| text.parse::<u32>().map_err(|_| Error::new(format!("not a number: {text:?}")));
    let bits = u32::from_str_radix(bits, 8).map_err(|_| Error::new(format!("not an octal number: {bits:?}")))?;
    if bits & !0o6000 != 0 {
        bail!("not set-id bits: {bits:o}");
    }
    let device = match device.split_at_checked(1) {
        Some(("-", "")) => None,
        Some((kind @ ("c" | "b"), number)) => {
            let kind = if kind == "c" { DeviceKind::Character } else { DeviceKind::Block };
            let number = number.parse().map_err(|_| Error::new(format!("not a device number: {number:?}")))?;
            Some(Device { kind, number })
        }
        _ => bail!("not a device: {device:?}"),
    };
    let capability = if capability == "-" { None } else { Some(hex(capability)?) };
    let owner = Owner { uid: number(uid)?, gid: number(gid)?, bits, device, capability };
    Ok((unescape(path)?, owner))
}

fn hex(text: &str) -> Result<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()),
        _ => bail!("not hexadecimal: {text:?}"),
    }
}

fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            path.push(byte);
            continue;
        }
        let Some(code) = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok()) else {
            bail!("bad path: {text:?}")
        };
        path.extend(hex(code)?);
        rest = &rest[2..];
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let mut ledger = Ledger::new();
        ledger.set(b"/usr/bin/ssh-agent", Owner { gid: 101, bits: 0o2000, ..Owner::default() });
        ledger.set(b"a b%\n\xff", Owner { uid: 4_294_967_294, gid: 7, ..Owner::default() });
        let device = Some(Device { kind: DeviceKind::Block, number: 2049 });
        ledger.set(b"dev/sda1", Owner { gid: 6, device, ..Owner::default() });
        ledger.set(b"bin/ping", Owner { capability: Some(vec![1, 0xab]), ..Owner::default() });
        ledger.set(b"plain", Owner::default());
        let text = ledger.to_string();
        let want = "4294967294 7 0 - - a%20b%25%0a%ff\n0 0 0 - 01ab bin/ping\n0 6 0 b2049 - dev/sda1\n\
                    0 101 2000 - - usr/bin/ssh-agent\n";
        assert_eq!(text, want);
        assert_eq!(text.parse::<Ledger>().unwrap(), ledger);
    }

    #[test]
    fn bad_lines() {
        let check = |line: &str, want: &str| {
            let e = line.parse::<Ledger>().unwrap_err();
            assert_eq!(e.to_string(), format!("ownership ledger, line 1: {want}"), "{line}");
        };
        check("0 0 0 - -", "not six fields");
        check("x 0 0 - - p", "not a number: \"x\"");
        check("0 -1 0 - - p", "not a number: \"-1\"");
        check("0 0 4755 - - p", "not set-id bits: 4755");
        check("0 0 9 - - p", "not an octal number: \"9\"");
        check("0 0 0 d - p", "not a device: \"d\"");
        check("0 0 0 é - p", "not a device: \"é\"");
        check("0 0 0 cx - p", "not a device number: \"x\"");
        check("0 0 0 - abc p", "not hexadecimal: \"abc\"");
        check("0 0 0 - - p%4", "bad path: \"p%4\"");
        check("0 0 0 - - p%zz", "not hexadecimal: \"zz\"");
    }
}
