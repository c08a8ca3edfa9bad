//! Images for tests: a small one of this machine's own shell and tools, one with odd files, and the real Debian.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::site::scratch;
use super::skip::find;

/// All made files carry this time.
pub const MTIME: u64 = 1_700_000_000;

/// What the small image offers besides the shell's own commands.
const TOOLS: &[&str] = &[
    "sh", "cat", "chmod", "cp", "env", "false", "find", "grep", "head", "id", "ln", "ls", "mkdir", "mv", "readlink",
    "rm", "sed", "sleep", "sort", "stat", "tar", "touch", "tr", "true", "uname", "wc",
];

/// A tarball of a base image: busybox if a static one is installed, else this machine's tools with their libraries.
pub fn small() -> &'static Path {
    static SMALL: OnceLock<PathBuf> = OnceLock::new();
    SMALL.get_or_init(|| make("small.tar", Image::small))
}

/// A tarball with what makes trees hard to copy: modes, links of all kinds, names, times, sizes.
pub fn odd() -> &'static Path {
    static ODD: OnceLock<PathBuf> = OnceLock::new();
    ODD.get_or_init(|| {
        make("odd.tar", |image| {
            for dir in ["bin", "dev", "usr", "etc", "shut", "shut/inner"] {
                image.dir(dir, 0o755);
            }
            image.file("shut/inner/file", 0o400, b"not for all\n");
            image.file("etc/empty", 0o644, b"");
            image.file("etc/setuid", 0o4755, b"#!/bin/true\n");
            image.file("etc/hidden", 0o000, b"nobody reads me\n");
            image.file("etc/a name with  blanks, ünïcödé and\ttab", 0o644, b"x");
            image.file(&format!("etc/{}", "long".repeat(50)), 0o644, b"long name\n");
            image.file(
                "etc/large",
                0o640,
                &(0..3_000_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect::<Vec<_>>(),
            );
            image.file("etc/.wh", 0o644, b"not a whiteout\n");
            image.hard_link("etc/twin", "etc/large");
            image.symlink("etc/absolute", "/etc/passwd");
            image.symlink("etc/dangling", "../nowhere");
            image.symlink("etc/up", "../../../../../../etc/passwd");
            image.symlink("etc/loop", "loop");
            image.dir("etc/sticky", 0o1777);
        })
    })
}

/// The real Debian image: `$CH_TEST_DEBIAN_TARBALL`, or what `.ci/run` keeps on this machine.
pub fn debian() -> Option<PathBuf> {
    let told = std::env::var_os("CH_TEST_DEBIAN_TARBALL").map(PathBuf::from);
    if let Some(path) = &told {
        assert!(path.is_file(), "CH_TEST_DEBIAN_TARBALL: no such file: {}", path.display());
    }
    told.or_else(|| Some(PathBuf::from("/var/cache/ch-image-ci/debian.tar.gz")).filter(|path| path.is_file()))
}

/// Makes a tarball, and never leaves half of one under its name, even if several tests make the same at a time.
pub fn make(name: &str, fill: impl FnOnce(&mut Image)) -> PathBuf {
    let path = scratch().join(format!("{}-{name}", std::process::id()));
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let unfinished = path.with_extension(format!("unfinished-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    let mut image = Image { tar: tar::Builder::new(File::create(&unfinished).unwrap()), done: BTreeSet::new() };
    fill(&mut image);
    image.tar.into_inner().unwrap().sync_all().unwrap();
    fs::rename(&unfinished, &path).unwrap();
    path
}

/// An image tarball being written.
pub struct Image {
    tar: tar::Builder<File>,
    done: BTreeSet<String>,
}

impl Image {
    /// What the small image has.
    pub fn small(&mut self) {
        for dir in ["bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin", "var"] {
            self.dir(dir, 0o755);
        }
        self.dir("tmp", 0o1777);
        self.dir("var/tmp", 0o1777);
        self.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
        self.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n");
        match busybox() {
            Some(busybox) => {
                self.copy(&busybox, "bin/busybox");
                for applet in applets(&busybox) {
                    self.symlink(&format!("bin/{applet}"), "busybox");
                }
            }
            None => self.tools(),
        }
    }

    pub fn dir(&mut self, name: &str, mode: u32) {
        self.add(name, tar::EntryType::Directory, mode, &[]);
    }

    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.add(name, tar::EntryType::Regular, mode, content);
    }

    pub fn symlink(&mut self, name: &str, target: &str) {
        self.link(name, tar::EntryType::Symlink, target);
    }

    pub fn hard_link(&mut self, name: &str, target: &str) {
        self.link(name, tar::EntryType::Link, target);
    }

    /// A file of this machine, with the mode that it has here.
    pub fn copy(&mut self, from: &Path, name: &str) {
        let content = fs::read(from).unwrap_or_else(|e| panic!("can't read {}: {e}", from.display()));
        self.file(name, 0o755, &content);
    }

    fn add(&mut self, name: &str, kind: tar::EntryType, mode: u32, content: &[u8]) {
        if !self.done.insert(name.to_owned()) {
            return;
        }
        let mut header = header(kind, mode);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, name, content).unwrap();
    }

    fn link(&mut self, name: &str, kind: tar::EntryType, target: &str) {
        if self.done.insert(name.to_owned()) {
            self.tar.append_link(&mut header(kind, 0o777), name, target).unwrap();
        }
    }

    fn tools(&mut self) {
        for tool in TOOLS {
            let path = find(tool).unwrap_or_else(|| panic!("this machine has no {tool}"));
            self.copy_with_libraries(&path, &format!("bin/{tool}"));
        }
    }

    /// A program or library of this machine, and what it needs at the paths where this machine has it.
    pub fn copy_with_libraries(&mut self, from: &Path, name: &str) {
        self.copy(from, name);
        for library in libraries(from) {
            self.copy_in_place(&library);
        }
    }

    /// All files of a directory of this machine, with the libraries that they need, at the same path.
    pub fn copy_files(&mut self, dir: &Path) {
        for entry in fs::read_dir(dir).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            let path = entry.path();
            let is_library = path.to_string_lossy().contains(".so");
            self.copy_in_place(&path);
            for library in is_library.then(|| libraries(&path)).into_iter().flatten() {
                self.copy_in_place(&library);
            }
        }
    }

    fn copy_in_place(&mut self, file: &Path) {
        let name = file.to_str().unwrap().trim_start_matches('/').to_owned();
        for (i, _) in name.match_indices('/') {
            self.dir(&name[..i], 0o755);
        }
        self.copy(file, &name);
    }
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(MTIME);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

fn busybox() -> Option<PathBuf> {
    find("busybox").filter(|path| libraries(path).is_empty())
}

fn applets(busybox: &Path) -> Vec<String> {
    let list = Command::new(busybox).arg("--list").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    list.lines().filter(|applet| *applet != "busybox").map(str::to_owned).collect()
}

/// What `ldd` names: the dynamic loader and the libraries of a program, none for a static one.
pub fn libraries(program: &Path) -> Vec<PathBuf> {
    let ldd: io::Result<_> = Command::new("ldd").arg(program).output();
    let text = String::from_utf8(ldd.expect("ldd").stdout).unwrap();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}
