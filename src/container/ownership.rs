//! Who owns what in an image, when on disk everything is the user's? A record by path, kept with the layer.
//!
//! Only what differs is here: owner and group other than root, set-id bits (which never stand on disk, where they would
//! give the user's rights to others), device nodes, file capabilities.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::str::FromStr;

use crate::error::{Context, Error, Result, bail};

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
///
/// Its text is a log, so that layers of any size can be told of while they are unpacked: what a line says goes for the
/// lines before it, too.
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

    /// Nothing is known of a path any more, nor of what is below it.
    pub fn forget(&mut self, path: &[u8]) {
        self.entries.remove(clean(path));
        self.take_below(path);
    }

    /// The same for what is below it alone.
    fn take_below(&mut self, path: &[u8]) -> Vec<(Vec<u8>, Owner)> {
        let prefix = below(path);
        let mut rest = self.entries.split_off(&prefix);
        let end = rest.keys().find(|path| !path.starts_with(&prefix)).cloned();
        if let Some(end) = end {
            self.entries.append(&mut rest.split_off(&end));
        }
        rest.into_iter().collect()
    }

    /// A file has another name.
    pub fn link(&mut self, target: &[u8], path: &[u8]) {
        match self.entries.get(clean(target)).cloned() {
            Some(owner) => self.set(path, owner),
            None => drop(self.entries.remove(clean(path))),
        }
    }

    /// A directory has another name, with all below it.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) {
        let (from, to) = (clean(from), clean(to));
        let own = self.entries.remove(from);
        let moved = self.take_below(from);
        let prefix = below(to);
        if let Some(owner) = own {
            self.set(to, owner);
        }
        for (path, owner) in moved {
            self.set(&[prefix.as_slice(), &path[below(from).len()..]].concat(), owner);
        }
    }

    /// The first path after this one that something is known of; `None`: the first of all.
    pub fn next(&self, after: Option<&[u8]>) -> Option<&[u8]> {
        let start = after.map_or(Bound::Unbounded, |path| Bound::Excluded(path.to_vec()));
        self.entries.range((start, Bound::Unbounded)).next().map(|(path, _)| path.as_slice())
    }

    /// The first path after all those below a directory.
    pub fn next_outside(&self, dir: &[u8]) -> Option<&[u8]> {
        let mut end = below(dir);
        // The byte after the slash.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        self.entries.range(end..).next().map(|(path, _)| path.as_slice())
    }

    /// Does what a line of its text says.
    pub fn apply(&mut self, line: &str) -> Result<()> {
        match line.split(' ').collect::<Vec<_>>()[..] {
            [GONE, path] => self.forget(&unescape(path)?),
            [LINK, target, path] => self.link(&unescape(target)?, &unescape(path)?),
            [MOVED, from, to] => self.rename(&unescape(from)?, &unescape(to)?),
            _ => {
                let (path, owner) = parse_line(line)?;
                self.set(&path, owner);
            }
        }
        Ok(())
    }

    /// In the order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Owner)> {
        self.entries.iter().map(|(path, owner)| (path.as_slice(), owner))
    }
}

const GONE: &str = "gone";
const LINK: &str = "link";
const MOVED: &str = "moved";

/// A line of a ledger's text, without its end.
pub enum Line<'a> {
    Is(&'a [u8], &'a Owner),
    Gone(&'a [u8]),
    /// Target and path.
    Link(&'a [u8], &'a [u8]),
    /// Where from and where to.
    Moved(&'a [u8], &'a [u8]),
}

/// What all paths below this one begin with.
fn below(path: &[u8]) -> Vec<u8> {
    let path = clean(path);
    if path.is_empty() { Vec::new() } else { [path, b"/"].concat() }
}

fn clean(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&b| b != b'/').unwrap_or(path.len());
    let end = path.iter().rposition(|&b| b != b'/').map_or(start, |at| at + 1);
    &path[start..end]
}

/// One line for each path: `UID GID BITS DEVICE CAPABILITY PATH`, `-` for none, the path with `%XX` for what is not
/// plain ASCII. Layers say as well `gone PATH`, `link TARGET PATH`, `moved FROM TO`.
impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.entries.iter().try_for_each(|(path, owner)| writeln!(f, "{}", Line::Is(path, owner)))
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Line::Is(path, owner) => write!(f, "{owner} {}", Escaped(path)),
            Line::Gone(path) => write!(f, "{GONE} {}", Escaped(path)),
            Line::Link(target, path) => write!(f, "{LINK} {} {}", Escaped(target), Escaped(path)),
            Line::Moved(from, to) => write!(f, "{MOVED} {} {}", Escaped(from), Escaped(to)),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {} {:o} ", self.uid, self.gid, self.bits)?;
        match self.device {
            None => f.write_str("-")?,
            Some(Device { kind: DeviceKind::Character, number }) => write!(f, "c{number}")?,
            Some(Device { kind: DeviceKind::Block, number }) => write!(f, "b{number}")?,
        }
        match &self.capability {
            None => f.write_str(" -"),
            Some(value) => {
                f.write_str(" ")?;
                value.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|&byte| match byte {
            b'%' | 0..=b' ' | 0x7f.. => write!(f, "%{byte:02x}"),
            _ => write!(f, "{}", byte as char),
        })
    }
}

impl FromStr for Ledger {
    type Err = Error;

    fn from_str(text: &str) -> Result<Ledger> {
        let mut ledger = Ledger::new();
        for (i, line) in text.lines().enumerate() {
            ledger.apply(line).context(|| format!("ownership ledger, line {}", i + 1))?;
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
    fn later_lines_go_for_earlier_ones() {
        let check = |lines: &str, want: &str| {
            let text = lines.replace(", ", "\n");
            assert_eq!(text.parse::<Ledger>().unwrap().to_string().trim_end().replace('\n', ", "), want, "{lines}");
        };
        check("5 0 0 - - a, 0 0 0 - - a", "");
        check("5 0 0 - - , 6 0 0 - - a", "5 0 0 - - , 6 0 0 - - a");
        check("1 0 0 - - a, 2 0 0 - - a/b, 3 0 0 - - a-b, 4 0 0 - - ab, gone a", "3 0 0 - - a-b, 4 0 0 - - ab");
        check("1 0 0 - - a/b, 2 0 0 - - b, gone a/b/c", "1 0 0 - - a/b, 2 0 0 - - b");
        check("1 0 0 - - a, link a b, 2 0 0 - - c, link none c", "1 0 0 - - a, 1 0 0 - - b");
        check("1 0 0 - - a/b/c, 2 0 0 - - a/b, 3 0 0 - - d/c, moved a/b d", "2 0 0 - - d, 1 0 0 - - d/c");
        check(
            "1 0 0 - - top, 2 0 0 - - top/a/b, 3 0 0 - - top/c, moved top ",
            "1 0 0 - - , 2 0 0 - - a/b, 3 0 0 - - c",
        );
    }

    #[test]
    fn what_comes_after_a_path() {
        let ledger: Ledger = "1 0 0 - - a\n1 0 0 - - a/b".parse().unwrap();
        assert_eq!(ledger.next(None), Some(&b"a"[..]));
        assert_eq!(ledger.next(Some(b"a")), Some(&b"a/b"[..]));
        assert_eq!(ledger.next(Some(b"a0")), None);
        let ledger: Ledger = "1 0 0 - - a-\n1 0 0 - - a/b\n1 0 0 - - a/c\n1 0 0 - - a0".parse().unwrap();
        assert_eq!(ledger.next_outside(b"a"), Some(&b"a0"[..]));
        assert_eq!(ledger.next_outside(b"a0"), None);
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
