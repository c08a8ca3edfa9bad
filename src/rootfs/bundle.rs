//! Files of somebody's tar archive or directory, read by their names in any order: how saved images travel.
//!
//! An archive is read once to see where everything is; its members are then read in place. Links in an archive are
//! followed by us, within it; in a directory by `resolve.rs`. Only regular files have content: what is a FIFO or device
//! is an error, and nothing is waited for. Deliberately absent: sparse members (nobody saves images so).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::limits::Limits;
use super::resolve::{join, parts, split};
use super::root::{Last, Root, show};
use super::tar_reader::{Member, TarReader, Type};
use super::unpack::checked;
use crate::error::{Context, Error, Result, bail};
use crate::sys::file::Kind;

/// Most members of an archive: 500 layers of a hundred images have fewer.
const MAX_MEMBERS: usize = 1 << 18;
/// Links from one to the next.
const MAX_LINKS: usize = 8;
/// After so many bytes it is checked whether enough is free.
const CHECK_BYTES: u64 = 64 << 20;

pub enum Bundle {
    /// What leads out of it is an error.
    Dir(Root),
    Tar(File, BTreeMap<Vec<u8>, Place>),
}

/// What an archive has by a name.
#[derive(Debug)]
pub enum Place {
    /// Where its bytes begin, and how many there are.
    File(u64, u64),
    /// Another name in the archive.
    Link(Vec<u8>),
    Dir,
    /// Device, FIFO, sparse file.
    Other,
}

/// The bytes of one file.
pub struct Part<'b> {
    file: PartFile<'b>,
    pub size: u64,
}

enum PartFile<'b> {
    Whole(File),
    Range { file: &'b File, at: u64, left: u64 },
}

impl Read for Part<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.file {
            PartFile::Whole(file) => file.read(buf),
            PartFile::Range { file, at, left } => {
                let most = usize::try_from(*left).map_or(buf.len(), |left| left.min(buf.len()));
                let n = file.read_at(&mut buf[..most], *at)?;
                if n == 0 && most > 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "archive is truncated"));
                }
                *at += n as u64;
                *left -= n as u64;
                Ok(n)
            }
        }
    }
}

/// The name of the first member that is not the top itself; `None` if there is none, or this is no archive.
pub fn first_name(tar: &mut dyn Read) -> Option<Vec<u8>> {
    let mut members = TarReader::new(tar);
    loop {
        let member = members.next_member().ok()??;
        if parts(&member.name).next().is_some() {
            return Some(member.name);
        }
    }
}

/// Copies an archive to a file, as far as room is left where `root` is: what is compressed can only be read in order.
pub fn spool(tar: &mut dyn Read, file: &mut File, root: &Root) -> Result<()> {
    let limits = Limits::of(root)?;
    loop {
        limits.check(root)?;
        let n = io::copy(&mut tar.take(CHECK_BYTES), file)?;
        if n < CHECK_BYTES {
            return Ok(file.flush()?);
        }
    }
}

impl Bundle {
    pub fn of_dir(root: Root) -> Bundle {
        Bundle::Dir(root.beneath())
    }

    /// Finds the members of an archive that is not compressed.
    pub fn of_tar(mut file: File) -> Result<Bundle> {
        let mut found = BTreeMap::new();
        let mut members = TarReader::new(&mut file);
        while let Some(member) = members.next_member()? {
            let start = members.position();
            add(&mut found, &member, start).context(|| format!("member {}", show(&member.name)))?;
        }
        Ok(Bundle::Tar(file, found))
    }

    /// Opens a file; `None` if there is nothing of that name. `Last::Keep`: a link is an error.
    pub fn open(&self, name: &str, last: Last) -> Result<Option<Part<'_>>> {
        self.find(name, last).context(|| show(name.as_bytes()))
    }

    /// A file's content, if it is not longer than `limit` bytes.
    pub fn read(&self, name: &str, last: Last, limit: usize) -> Result<Option<Vec<u8>>> {
        let Some(part) = self.open(name, last)? else { return Ok(None) };
        if part.size > limit as u64 {
            bail!("{}: more than {limit} bytes", show(name.as_bytes()));
        }
        let mut content = Vec::new();
        part.take(limit as u64 + 1).read_to_end(&mut content).context(|| show(name.as_bytes()))?;
        Ok(Some(content))
    }

    fn find(&self, name: &str, last: Last) -> Result<Option<Part<'_>>> {
        let path = checked(name.as_bytes())?;
        match self {
            Bundle::Dir(root) => {
                let path = Path::new(name);
                match root.stat(path, last)? {
                    None => Ok(None),
                    Some(stat) if stat.kind == Kind::File => {
                        let file = root.open_file(path)?;
                        let size = file.metadata()?.len();
                        Ok(Some(Part { file: PartFile::Whole(file), size }))
                    }
                    Some(stat) if stat.kind == Kind::Symlink => bail!("a symbolic link is refused here"),
                    Some(_) => bail!("not a regular file"),
                }
            }
            Bundle::Tar(file, members) => {
                let mut name = path.join(&b'/');
                for _ in 0..=MAX_LINKS {
                    match members.get(&name) {
                        None => return Ok(None),
                        Some(Place::File(at, size)) => {
                            let range = PartFile::Range { file, at: *at, left: *size };
                            return Ok(Some(Part { file: range, size: *size }));
                        }
                        Some(Place::Link(_)) if last == Last::Keep => bail!("a link is refused here"),
                        Some(Place::Link(target)) => name = target.clone(),
                        Some(Place::Dir | Place::Other) => bail!("not a regular file"),
                    }
                }
                Err(Error::new("links lead in a circle, or too far"))
            }
        }
    }
}

fn add(found: &mut BTreeMap<Vec<u8>, Place>, member: &Member, start: u64) -> Result<()> {
    let path = checked(&member.name)?.join(&b'/');
    let place = match member.kind {
        Type::File if member.sparse.is_some() => Place::Other,
        Type::File => Place::File(start, member.size),
        Type::Dir => Place::Dir,
        Type::Symlink => Place::Link(target(split(&path).0, &member.target)?),
        Type::Hardlink => Place::Link(target(b"", &member.target)?),
        Type::Special => Place::Other,
    };
    if path.is_empty() || matches!((&place, found.get(&path)), (Place::Dir, Some(Place::Dir))) {
        return Ok(());
    }
    // Which one counts, readers do not agree on.
    if found.insert(path, place).is_some() {
        bail!("there twice");
    }
    if found.len() > MAX_MEMBERS {
        bail!("more than {MAX_MEMBERS} members");
    }
    Ok(())
}

/// Where a link leads: a path in the archive.
fn target(dir: &[u8], target: &[u8]) -> Result<Vec<u8>> {
    if target.starts_with(b"/") {
        bail!("link to an absolute path: {}", show(target));
    }
    let mut path: Vec<&[u8]> = parts(dir).collect();
    for part in parts(target) {
        match part {
            b".." if path.pop().is_none() => bail!("link that leads out of the archive: {}", show(target)),
            b".." => {}
            name => path.push(name),
        }
    }
    Ok(path.iter().fold(Vec::new(), |path, name| join(&path, name)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::rootfs::testing::{Scratch, Tar};

    fn shown(bundle: &Bundle, name: &str, last: Last) -> String {
        match bundle.read(name, last, 100) {
            Ok(Some(bytes)) => String::from_utf8(bytes).unwrap(),
            Ok(None) => "nothing".to_owned(),
            Err(e) => format!("error: {e}"),
        }
    }

    fn of(words: &str) -> Result<Bundle> {
        let scratch = Scratch::new();
        let path = scratch.path("tar");
        File::create(&path).unwrap().write_all(&Tar::of(words)).unwrap();
        Bundle::of_tar(File::open(path).unwrap())
    }

    #[test]
    fn members_by_name() {
        let check = |words: &str, name: &str, expected: &str| {
            assert_eq!(shown(&of(words).unwrap(), name, Last::Follow), expected, "{words} {name}");
        };
        check("a=1 d/ d/b=22 ./c=333", "a", "1");
        check("a=1 d/ d/b=22 ./c=333", "./d//b", "22");
        check("a=1 d/ d/b=22 ./c=333", "c", "333");
        check("a=1 d/ d/b=22 ./c=333", "/d", "error: /d: not a regular file");
        check("a=1", "b", "nothing");
        check("a=1", "a/b", "nothing");
        check("a=1", "../a", "error: ../a: path with '..' is refused");
        check("d/l->../e/f e/f=1", "d/l", "1");
        check("d/l->./f d/f=1", "d/l", "1");
        check("f=1 d/l=>f", "d/l", "1");
        check("l->nowhere", "l", "nothing");
        check("a->b b->c c->a", "a", "error: a: links lead in a circle, or too far");
        check("a->a", "a", "error: a: links lead in a circle, or too far");
        check("c!", "c", "error: c: not a regular file");
        check(&format!("a={}", "x".repeat(101)), "a", "error: a: more than 100 bytes");
        assert_eq!(shown(&of("l->f f=1").unwrap(), "l", Last::Keep), "error: l: a link is refused here");
        let refused = |words: &str, expected: &str| assert_eq!(of(words).err().unwrap().to_string(), expected);
        refused("l->../x", "member l: link that leads out of the archive: ../x");
        refused("d/l->/etc/passwd", "member d/l: link to an absolute path: /etc/passwd");
        refused("a=1 ./a=2", "member ./a: there twice");
        refused("a=1 a/", "member a/: there twice");
        refused("../a=1", "member ../a: path with '..' is refused");
    }

    #[test]
    fn files_by_name() {
        let scratch = Scratch::new();
        std::fs::write(scratch.path("outside"), "secret").unwrap();
        let root = scratch.root("root");
        let dir = scratch.path("root");
        std::fs::write(dir.join("f"), "1").unwrap();
        std::fs::create_dir(dir.join("d")).unwrap();
        symlink("f", dir.join("l")).unwrap();
        symlink("../outside", dir.join("out")).unwrap();
        symlink("..", dir.join("up")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.join("s")).unwrap();
        let bundle = Bundle::of_dir(root);
        let check = |name: &str, last: Last, want: &str| assert_eq!(shown(&bundle, name, last), want, "{name}");
        check("f", Last::Keep, "1");
        check("l", Last::Follow, "1");
        check("l", Last::Keep, "error: l: a symbolic link is refused here");
        check("none", Last::Follow, "nothing");
        check("d", Last::Follow, "error: d: not a regular file");
        check("s", Last::Follow, "error: s: not a regular file");
        check("../outside", Last::Follow, "error: ../outside: path with '..' is refused");
        for (name, last) in [("out", Last::Follow), ("up/outside", Last::Keep), ("up/outside", Last::Follow)] {
            assert!(shown(&bundle, name, last).starts_with("error: "), "{name}");
        }
    }

    #[test]
    fn archives_are_known_by_their_first_name() {
        let check = |words: &str, want: Option<&str>| {
            assert_eq!(first_name(&mut &Tar::of(words)[..]), want.map(|name| name.as_bytes().to_vec()), "{words}");
        };
        check("./ ./a/", Some("./a/"));
        check("a=1 b=2", Some("a"));
        check("./", None);
        check("", None);
        assert_eq!(first_name(&mut &b"no archive"[..]), None);
    }
}
