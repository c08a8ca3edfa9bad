//! Requests as the kernel writes them, and what is answered.

use super::answer::{Answerer, Outcome};
use super::buffer::Buffer;
use super::protocol::{self, Operation};
use crate::error::{Error, Result};
use crate::tree::{Attributes, Id, Kind, Name, Tree};

/// `/` (0) with `file` (7, twelve bytes), `gone` (8, whose inode is damaged), `link` (9).
struct Small;

const NAMES: [(&[u8], Id, Kind); 3] = [(b"file", 7, Kind::File), (b"gone", 8, Kind::File), (b"link", 9, Kind::Symlink)];

impl Tree for Small {
    fn root(&self) -> Id {
        0
    }

    fn attributes(&self, id: Id) -> Result<Attributes> {
        let (kind, format, mode, size) = match id {
            0 => (Kind::Dir, libc::S_IFDIR, 0o755, 0),
            7 => (Kind::File, libc::S_IFREG, 0o4640, 12),
            9 => (Kind::Symlink, libc::S_IFLNK, 0o777, 4),
            _ => return Err(Error::new("damaged")),
        };
        Ok(Attributes { kind, format, device: 0, mode, mtime: -5, links: 2, size, number: id + 100 })
    }

    fn owner(&self, _: Id) -> Result<(u32, u32)> {
        Ok((0, 0))
    }

    fn look_up(&self, _: Id, name: &[u8]) -> Result<Option<Name>> {
        let found = NAMES.iter().find(|(known, ..)| *known == name);
        Ok(found.map(|(bytes, id, kind)| Name { bytes: bytes.to_vec(), id: *id, kind: *kind, next: 0 }))
    }

    fn list(&self, _: Id, from: u64, most: usize) -> Result<Vec<Name>> {
        let names = NAMES.iter().enumerate().skip(from as usize).take(most);
        let name = |(n, (bytes, id, kind)): (usize, &(&[u8], Id, Kind))| Name {
            bytes: bytes.to_vec(),
            id: *id,
            kind: *kind,
            next: n as u64 + 1,
        };
        Ok(names.map(name).collect())
    }

    fn read_link(&self, _: Id) -> Result<Vec<u8>> {
        Ok(b"file".to_vec())
    }

    fn read_at(&self, _: Id, offset: u64, out: &mut [u8]) -> Result<usize> {
        let rest = b"hello, world".get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn next_data(&self, _: Id, _: u64) -> Result<Option<(u64, u64)>> {
        Ok(None)
    }

    fn has_xattrs(&self) -> bool {
        true
    }

    fn size(&self) -> u64 {
        5000
    }

    fn xattrs(&self, _: Id) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(vec![(b"user.a".to_vec(), b"one".to_vec()), (b"user.b".to_vec(), Vec::new())])
    }
}

/// A request as it comes.
fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in [40 + body.len() as u32, opcode] {
        bytes.extend(n.to_ne_bytes());
    }
    for n in [77, node] {
        bytes.extend(n.to_ne_bytes());
    }
    bytes.extend([0; 16]);
    bytes.extend(body);
    bytes
}

fn words(all: &[u32]) -> Vec<u8> {
    all.iter().flat_map(|n| n.to_ne_bytes()).collect()
}

fn range(offset: u64, size: u32) -> Vec<u8> {
    [&0_u64.to_ne_bytes()[..], &offset.to_ne_bytes(), &words(&[size, 0, 0, 0, 0, 0])].concat()
}

/// The body of a reply, or an errno.
fn ask(answerer: &Answerer, opcode: u32, node: u64, body: &[u8]) -> std::result::Result<Vec<u8>, i32> {
    let bytes = request(opcode, node, body);
    let request = protocol::parse(&bytes).unwrap();
    let mut out = Buffer::new();
    let error = match answerer.answer(&request, &mut out) {
        Outcome::Done => None,
        Outcome::Refused(errno) => Some(errno),
        Outcome::Failed(_) => Some(libc::EIO),
        Outcome::Silent => Some(0),
    };
    let reply = out.finish(request.unique, error);
    assert_eq!(reply[..4], (reply.len() as u32).to_ne_bytes());
    assert_eq!(reply[8..16], 77_u64.to_ne_bytes());
    error.map_or_else(|| Ok(reply[16..].to_vec()), Err)
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn answerer() -> Answerer<'static> {
    Answerer::new(&Small, (1000, 100))
}

#[test]
fn names_are_looked_up_once() {
    let answerer = answerer();
    let found = ask(&answerer, 1, 1, b"file\0").unwrap();
    assert_eq!(found.len(), 128);
    assert_eq!((number(&found, 0), number(&found, 16) > 1 << 30, number(&found, 24) > 1 << 30), (9, true, true));
    let attributes = ask(&answerer, 3, 9, &[0; 16]).unwrap();
    assert_eq!((attributes.len(), &attributes[16..]), (104, &found[40..]));
    // Number, size, blocks of 512; mode, links, owner, group.
    assert_eq!([0, 8, 16].map(|at| number(&attributes, 16 + at)), [107, 12, 1]);
    assert_eq!([60, 64, 68, 72].map(|at| word(&attributes, 16 + at)), [0o104640, 2, 1000, 100]);
    assert_eq!(number(&attributes, 16 + 32) as i64, -5);
    let none = ask(&answerer, 1, 1, b"none\0").unwrap();
    assert_eq!((none.len(), number(&none, 0), number(&none, 16) > 1 << 30), (128, 0, true));
    assert_eq!(ask(&answerer, 1, 1, b"gone\0"), Err(libc::EIO));
    assert_eq!(ask(&answerer, 3, 1, &[0; 16]).map(|a| word(&a, 16 + 60)), Ok(0o40755));
}

/// Whether it is told in one go or name by name.
#[test]
fn lists_go_on_where_they_ended() {
    let answerer = answerer();
    let names = |opcode: u32, size: u32, head: usize| {
        let (mut offset, mut all) = (0, Vec::new());
        loop {
            let list = ask(&answerer, opcode, 1, &range(offset, size)).unwrap();
            assert!(list.len() <= size as usize);
            let mut at = 0;
            while at < list.len() {
                let (number, length) = (number(&list, at + head), word(&list, at + head + 16) as usize);
                offset = u64::from_ne_bytes(list[at + head + 8..at + head + 16].try_into().unwrap());
                let name = String::from_utf8(list[at + head + 24..at + head + 24 + length].to_vec()).unwrap();
                let node = if head > 0 { u64::from_ne_bytes(list[at..at + 8].try_into().unwrap()) } else { 0 };
                all.push((name, number, word(&list, at + head + 20), node));
                at += head + (24 + length).next_multiple_of(8);
            }
            if list.is_empty() {
                return all;
            }
        }
    };
    let want = |plus: bool| {
        let node = |n: u64| if plus { n } else { 0 };
        let all = [
            (".", 100, 4, 0),
            ("..", 100, 4, 0),
            ("file", 107, 8, node(9)),
            ("gone", 8, 0, 0),
            ("link", 109, 10, node(11)),
        ];
        all.map(|(name, number, kind, node)| (name.to_owned(), number, kind, node)).to_vec()
    };
    for size in [32, 64, 100, 4096] {
        assert_eq!(names(28, size, 0), want(false), "{size}");
        assert_eq!(names(44, size + 128, 128), want(true), "{size}");
    }
    assert_eq!(ask(&answerer, 28, 1, &range(0, 16)), Ok(Vec::new()));
}

#[test]
fn files_links_and_attributes_are_read() {
    let answerer = answerer();
    let read = |offset, size| ask(&answerer, 15, 9, &range(offset, size)).unwrap();
    assert_eq!(
        (read(0, 5), read(7, 1 << 20), read(12, 9), read(u64::MAX, 9)),
        (b"hello".to_vec(), b"world".to_vec(), vec![], vec![])
    );
    assert_eq!(ask(&answerer, 5, 11, &[]), Ok(b"file".to_vec()));
    let xattr = |name: &[u8], size| ask(&answerer, 22, 9, &[&words(&[size, 0]), name].concat());
    assert_eq!(xattr(b"user.a\0", 3), Ok(b"one".to_vec()));
    assert_eq!(xattr(b"user.a\0", 0), Ok(words(&[3, 0])));
    assert_eq!(xattr(b"user.a\0", 2), Err(libc::ERANGE));
    assert_eq!(xattr(b"user.c\0", 9), Err(libc::ENODATA));
    assert_eq!(ask(&answerer, 23, 9, &words(&[99, 0])), Ok(b"user.a\0user.b\0".to_vec()));
    assert_eq!(ask(&answerer, 17, 1, &[]).map(|all| (all.len(), number(&all, 0))), Ok((80, 2)));
}

/// What the kernel offers is accepted, no more; open and opendir are needless where it can do without.
#[test]
fn both_sides_agree_at_the_beginning() {
    let init = |minor: u32, flags: u32| {
        let answerer = answerer();
        let body = [words(&[7, minor, 131_072, flags]), vec![0; 48]].concat();
        let reply = ask(&answerer, 26, 0, &body);
        let opened = [14, 27].map(|opcode| ask(&answerer, opcode, 9, &[0; 8]).map(|reply| word(&reply, 8)));
        (reply, opened)
    };
    let (reply, opened) = init(45, u32::MAX);
    let reply = reply.unwrap();
    assert_eq!((reply.len(), word(&reply, 0), word(&reply, 4), word(&reply, 8)), (64, 7, 38, 131_072));
    assert_eq!(opened, [Err(libc::ENOSYS), Err(libc::ENOSYS)]);
    // Linux 4.18.
    let (reply, opened) = init(27, 1 << 17 | 1 << 18);
    let reply = reply.unwrap();
    assert_eq!((word(&reply, 4), word(&reply, 12)), (27, 1 << 17 | 1 << 18));
    assert_eq!(opened, [Err(libc::ENOSYS), Ok(0b1010)]);
    assert_eq!(init(22, 0).0, Err(libc::EPROTO));
}

#[test]
fn the_rest_is_refused_or_passed_over() {
    let answerer = answerer();
    for opcode in [2, 36, 42] {
        assert_eq!(ask(&answerer, opcode, 9, &[0; 16]), Err(0), "{opcode}");
    }
    for opcode in [18, 29, 38] {
        assert_eq!(ask(&answerer, opcode, 9, &[0; 24]), Ok(Vec::new()), "{opcode}");
    }
    for opcode in [4, 9, 16, 25, 34, 46, 52, 4096] {
        assert_eq!(ask(&answerer, opcode, 9, &[0; 24]), Err(libc::ENOSYS), "{opcode}");
    }
}

/// Cut anywhere, it is no request; a name has to end.
#[test]
fn broken_requests_are_none() {
    let whole = request(15, 9, &range(5, 6));
    let parsed = protocol::parse(&whole).unwrap();
    assert!(matches!(parsed.operation, Operation::Read(protocol::Range { offset: 5, size: 6 })));
    for length in 0..whole.len() {
        assert_eq!(protocol::parse(&whole[..length]), None);
    }
    assert_eq!(protocol::parse(&request(15, 9, &[0; 19])), None);
    assert_eq!(protocol::parse(&request(1, 1, b"name")), None);
    assert_eq!(protocol::parse(&request(22, 1, &words(&[0, 0]))), None);
    assert_eq!(protocol::parse(&request(26, 1, &words(&[7, 38, 0]))), None);
}
