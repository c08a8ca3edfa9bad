//! File trees as values, so that two of them are compared file by file: type, mode, size, content, link, time.
//!
//! A tree comes from a directory or from a tarball. Owners are left out: one user's trees have one owner.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<String, Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// Permission bits with set-id and sticky; 0o777 for symlinks, whose mode means nothing.
    pub mode: u32,
    /// Seconds.
    pub mtime: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Dir,
    /// `same_as`: the first name, in order, of the file that this is another hard link of.
    File {
        size: u64,
        sha256: String,
        same_as: Option<String>,
    },
    Symlink(String),
    /// Device, FIFO or socket.
    Special,
}

impl Tree {
    pub fn of_dir(dir: &Path) -> Tree {
        let mut tree = Tree::default();
        let mut inodes = BTreeMap::new();
        tree.add(dir, "", &mut inodes);
        tree
    }

    fn add(&mut self, dir: &Path, prefix: &str, inodes: &mut BTreeMap<(u64, u64), String>) {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap_or_else(|e| panic!("can't read {}: {e}", dir.display()))
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        for name in names {
            let path = dir.join(&name);
            let key = format!("{prefix}{}", escape(name.as_bytes()));
            let meta = path.symlink_metadata().unwrap();
            let mut mode = meta.mode() & 0o7777;
            let kind = if meta.is_dir() {
                Kind::Dir
            } else if meta.is_symlink() {
                mode = 0o777;
                Kind::Symlink(escape(fs::read_link(&path).unwrap().as_os_str().as_bytes()))
            } else if meta.is_file() {
                let same_as = inodes.get(&(meta.dev(), meta.ino())).cloned();
                if meta.nlink() > 1 && same_as.is_none() {
                    inodes.insert((meta.dev(), meta.ino()), key.clone());
                }
                let (size, sha256) = hash(File::open(&path).unwrap_or_else(|e| panic!("can't open {key}: {e}")));
                Kind::File { size, sha256, same_as }
            } else {
                Kind::Special
            };
            let is_dir = kind == Kind::Dir;
            self.0.insert(key.clone(), Entry { kind, mode, mtime: meta.mtime() });
            if is_dir {
                self.add(&path, &format!("{key}/"), inodes);
            }
        }
    }

    /// Of a tarball, plain or gzip.
    pub fn of_tarball(path: &Path) -> Tree {
        let mut gzip = Command::new("gzip").arg("-dcf").arg(path).stdout(Stdio::piped()).spawn().unwrap();
        let tree = Tree::of_tar(gzip.stdout.take().unwrap());
        assert!(gzip.wait().unwrap().success(), "gzip -dcf {}", path.display());
        tree
    }

    pub fn of_tar(tar: impl Read) -> Tree {
        let mut tree = Tree::default();
        let mut links = Vec::new();
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let key = tidy_name(&escape(&entry.path_bytes()));
            if key.is_empty() {
                continue;
            }
            let link = entry.link_name_bytes().map(|bytes| escape(&bytes));
            let header = entry.header();
            let (mut mode, mtime) = (header.mode().unwrap() & 0o7777, header.mtime().unwrap() as i64);
            let kind = match header.entry_type() {
                tar::EntryType::Directory => Kind::Dir,
                tar::EntryType::Symlink => {
                    mode = 0o777;
                    Kind::Symlink(link.unwrap())
                }
                tar::EntryType::Link => {
                    links.push((key, tidy_name(&link.unwrap())));
                    continue;
                }
                kind if kind.is_file() => {
                    let (size, sha256) = hash(&mut entry);
                    Kind::File { size, sha256, same_as: None }
                }
                _ => Kind::Special,
            };
            tree.0.insert(key, Entry { kind, mode, mtime });
        }
        tree.link(links);
        // The reader stops at the end mark; a pipe's writer wants to be read to its end.
        let _ = io::copy(&mut archive.into_inner(), &mut io::sink());
        tree
    }

    /// Hard links become entries of their own, which name the first of their kind in order.
    fn link(&mut self, links: Vec<(String, String)>) {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, target) in links {
            let entry = self.0.get(&target).unwrap_or_else(|| panic!("link {name} to {target}, which is not there"));
            self.0.insert(name.clone(), entry.clone());
            let of = groups.iter().find(|(_, names)| names.contains(&target)).map(|(key, _)| key.clone());
            groups.entry(of.unwrap_or_else(|| target.clone())).or_insert_with(|| vec![target]).push(name);
        }
        for mut names in groups.into_values() {
            names.sort();
            for name in &names[1..] {
                if let Some(Entry { kind: Kind::File { same_as, .. }, .. }) = self.0.get_mut(name) {
                    *same_as = Some(names[0].clone());
                }
            }
        }
    }

    /// Without everything at or below these paths.
    pub fn without(mut self, paths: &[&str]) -> Tree {
        self.0.retain(|key, _| {
            !paths.iter().any(|p| key == p || key.strip_prefix(p).is_some_and(|r| r.starts_with('/')))
        });
        self
    }

    /// What the manual page (PULL) makes of an image: no devices, modes of at least rwx------ and rw-------, no set-id
    /// bits.
    pub fn unprivileged(mut self) -> Tree {
        self.0.retain(|_, entry| entry.kind != Kind::Special);
        for entry in self.0.values_mut() {
            match entry.kind {
                Kind::Dir => entry.mode = entry.mode & 0o1777 | 0o700,
                Kind::File { .. } => entry.mode = entry.mode & 0o1777 | 0o600,
                Kind::Symlink(_) | Kind::Special => {}
            }
        }
        self
    }

    /// Directories without their times: what was put into them later changes those.
    pub fn without_dir_times(mut self) -> Tree {
        self.0.values_mut().filter(|entry| entry.kind == Kind::Dir).for_each(|entry| entry.mtime = 0);
        self
    }

    #[track_caller]
    pub fn assert_same(&self, other: &Tree, what: &str) {
        let differences = self.differences(other);
        let shown = differences.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
        assert!(differences.is_empty(), "{what}: {} differences, for instance\n{shown}", differences.len());
    }

    pub fn differences(&self, other: &Tree) -> Vec<String> {
        let mut keys: Vec<&String> = self.0.keys().chain(other.0.keys()).collect();
        keys.sort();
        keys.dedup();
        let mut found = Vec::new();
        for key in keys {
            match (self.0.get(key), other.0.get(key)) {
                (Some(a), Some(b)) if a != b => found.push(format!("{key}:\n  - {a:?}\n  + {b:?}")),
                (Some(a), None) => found.push(format!("{key}:\n  - {a:?}\n  + nothing")),
                (None, Some(b)) => found.push(format!("{key}:\n  - nothing\n  + {b:?}")),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        found
    }
}

fn hash(mut from: impl Read) -> (u64, String) {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut size = 0;
    loop {
        match from.read(&mut buffer).unwrap() {
            0 => break,
            n => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
        }
    }
    (size, hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// File names need not be UTF-8.
fn escape(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(name) => name.to_owned(),
        Err(_) => name
            .iter()
            .map(|&b| if b.is_ascii_graphic() { (b as char).to_string() } else { format!("\\x{b:02x}") })
            .collect(),
    }
}

/// `./a/b/` is `a/b`.
fn tidy_name(name: &str) -> String {
    name.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

/// The two readers of this file agree, and `tar` is the judge.
#[test]
fn a_tarball_and_its_directory_are_the_same() {
    let site = super::Site::new();
    for tarball in [super::image::small(), super::image::odd()] {
        let dir = site.path(tarball.file_name().unwrap().to_str().unwrap()).with_extension("dir");
        fs::create_dir(&dir).unwrap();
        site.program("tar").arg("-C").arg(&dir).arg("-xpf").arg(tarball).success();
        let mut tree = Tree::of_tarball(tarball);
        if dir.join("etc/hidden").exists() {
            // Readable for the owner, so that the test need not be root.
            let hidden = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(dir.join("etc/hidden"), hidden).unwrap();
            tree.0.get_mut("etc/hidden").unwrap().mode = 0o600;
        }
        // tar sets the time of a directory when it first leaves it, and this tarball comes back to some.
        Tree::of_dir(&dir).without_dir_times().assert_same(&tree.without_dir_times(), "unpacked by tar");
    }
}
