//! Scratch directories for the tests of this directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::root::Root;

/// A directory that goes when it is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Where storage is, too. /tmp may be a tmpfs, which has no user attributes before Linux 6.6.
        let parent = std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("ch-rootfs-{}-{n}", std::process::id()));
            match std::fs::create_dir(&path) {
                // Of a process that had this number before.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => break made.map(|()| Scratch(path)).unwrap(),
            }
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A directory in it, made if missing, as a root.
    pub fn root(&self, name: &str) -> Root {
        let path = self.path(name);
        if !path.exists() {
            std::fs::create_dir(&path).unwrap();
        }
        Root::open(Path::new(&path)).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test that fails has more to say than this.
        let _ = super::remove::remove_tree(&self.0);
    }
}

/// A tree in words, sorted by path: `d/`, `f=text`, `l->target`; modes other than 755 and 644 as `@mode`.
pub fn listing(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt;
    let mut words = Vec::new();
    let mut todo = vec![(dir.to_path_buf(), String::new())];
    let root = std::fs::symlink_metadata(dir).unwrap().permissions().mode() & 0o7777;
    assert_eq!(root & 0o700, 0o700);
    while let Some((path, shown)) = todo.pop() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{shown}{}", entry.file_name().to_string_lossy());
            let stat = entry.path().symlink_metadata().unwrap();
            let mode = stat.permissions().mode() & 0o7777;
            let at = |usual: u32| if mode == usual { String::new() } else { format!("@{mode:o}") };
            words.push(if stat.is_symlink() {
                format!("{name}->{}", std::fs::read_link(entry.path()).unwrap().display())
            } else if stat.is_dir() {
                todo.push((entry.path(), format!("{name}/")));
                format!("{name}/{}", at(0o755))
            } else if stat.is_file() {
                let text = std::fs::read(entry.path()).unwrap();
                format!("{name}={}{}", String::from_utf8_lossy(&text), at(0o644))
            } else {
                format!("{name}!")
            });
        }
    }
    words.sort();
    words
}

/// The same of a merged view.
pub fn stack_listing(stack: &super::Stack) -> Vec<String> {
    use crate::sys::file::Kind;
    let mut words = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for (name, stat) in stack.read_dir(&dir).unwrap().unwrap() {
            let path = dir.join(name);
            let name = path.to_string_lossy().into_owned();
            let at = |usual: u32| if stat.mode == usual { String::new() } else { format!("@{:o}", stat.mode) };
            words.push(match stat.kind {
                Kind::Symlink => format!("{name}->{}", stack.readlink(&path).unwrap().unwrap().display()),
                Kind::Dir => format!("{name}/{}", at(0o755)),
                Kind::File => {
                    let text = stack.read(&path, 1 << 20).unwrap().unwrap();
                    format!("{name}={}{}", String::from_utf8_lossy(&text), at(0o644))
                }
                Kind::Whiteout | Kind::Special => format!("{name}!"),
            });
            if stat.is_dir() {
                todo.push(path);
            }
        }
    }
    words.sort();
    words
}

/// Makes archives, also wrong ones.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    /// From words in order: `d/`, `f=text`, `l->target`, `h=>target`, `c!` (a device); `@mode` behind.
    pub fn of(words: &str) -> Vec<u8> {
        let mut tar = Tar::default();
        for word in words.split_whitespace() {
            let (word, mode) = match word.rsplit_once('@') {
                Some((word, mode)) => (word, u32::from_str_radix(mode, 8).ok()),
                None => (word, None),
            };
            if let Some((name, target)) = word.split_once("=>") {
                tar.add(b'1', name, target, b"", mode.unwrap_or(0o644));
            } else if let Some((name, target)) = word.split_once("->") {
                tar.add(b'2', name, target, b"", 0o777);
            } else if let Some((name, text)) = word.split_once('=') {
                tar.add(b'0', name, "", text.as_bytes(), mode.unwrap_or(0o644));
            } else if let Some(name) = word.strip_suffix('!') {
                tar.add(b'3', name, "", b"", 0o644);
            } else {
                tar.add(b'5', word, "", b"", mode.unwrap_or(0o755));
            }
        }
        tar.end()
    }

    /// One member; a long name or target goes into a PAX header.
    pub fn add(&mut self, flag: u8, name: &str, target: &str, data: &[u8], mode: u32) -> &mut Tar {
        let mut pax = Vec::new();
        if name.len() > 100 {
            super::pax::write_record(&mut pax, b"path", name.as_bytes());
        }
        if target.len() > 100 {
            super::pax::write_record(&mut pax, b"linkpath", target.as_bytes());
        }
        if !pax.is_empty() {
            self.pax(&pax);
        }
        let mut header = Tar::header(flag, name.as_bytes(), data.len() as u64);
        let n = target.len().min(100);
        header[157..157 + n].copy_from_slice(&target.as_bytes()[..n]);
        header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        self.block(header).data(data)
    }

    pub fn pax(&mut self, records: &[u8]) -> &mut Tar {
        self.block(Tar::header(b'x', b"PaxHeader", records.len() as u64)).data(records)
    }

    /// A ustar header without checksum; [`Tar::block`] adds it.
    pub fn header(flag: u8, name: &[u8], size: u64) -> [u8; 512] {
        let mut header = [0; 512];
        let n = name.len().min(100);
        header[..n].copy_from_slice(&name[..n]);
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[136..148].copy_from_slice(b"07346545007\0");
        header[156] = flag;
        header[257..265].copy_from_slice(b"ustar\x0000");
        header
    }

    pub fn block(&mut self, mut header: [u8; 512]) -> &mut Tar {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self
    }

    pub fn data(&mut self, data: &[u8]) -> &mut Tar {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn end(&mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        std::mem::take(&mut self.0)
    }
}
