//! What an export leaves when it is killed, stopped or refused something at one system call or another (strace injects
//! that): the whole under its name, or nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::run::Done;
use crate::harness::{Site, Tree, image};
use crate::{needs, skip};

/// Operands, with `OUT` for the directory; what appears there.
const FORMATS: &[(&str, &str)] = &[
    ("OUT/x.sqfs", "x.sqfs"),
    ("OUT/x.tar.gz", "x.tar.gz"),
    ("docker-archive:OUT/x", "x"),
    ("oci-archive:OUT/x", "x"),
    ("oci:OUT/x", "x"),
    ("OUT/x/", "x"),
];
/// System calls that change what is there, or that read what is packed; at which of them to strike.
const CALLS: &[(&str, &[u32])] = &[
    ("write,?pwrite64", &[4, 6, 7, 9, 14]),
    ("?rename,renameat,renameat2,?link,linkat", &[1, 2, 3]),
    ("fsync,syncfs,fchmod,lseek", &[1, 2, 4]),
    ("openat,?mkdir,mkdirat", &[40, 60, 90]),
];

fn can_trace() -> bool {
    Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success())
}

fn prepared() -> Site {
    let site = Site::new();
    let tarball = image::make("export-faults.tar", |image| {
        ["bin", "dev", "usr", "etc"].iter().for_each(|dir| image.dir(dir, 0o755));
        let text: String = (0..60_000).map(|n| format!("{n}\n")).collect();
        image.file("etc/file", 0o644, text.as_bytes());
        image.symlink("etc/link", "file");
    });
    site.import(&tarball, "base");
    site
}

/// An export into an empty directory, which is returned, too.
fn export(site: &Site, inject: Option<&str>, operand: &str) -> (Done, PathBuf) {
    let out = site.path("out");
    crate::harness::site::remove(&out);
    fs::create_dir(&out).unwrap();
    let operand = operand.replace("OUT", &out.display().to_string());
    let run = match inject {
        None => site.run("export"),
        Some(inject) => site
            .program("strace")
            .args(["-f", "-qq", "-o"])
            .arg(site.path("strace.log"))
            .args(["-e", &format!("inject={inject}")])
            .arg(site.path("bin/ch-image"))
            .arg("export")
            .env("CH_IMAGE_STORAGE", site.storage())
            .limit(Duration::from_secs(300)),
    };
    (run.args(["base", &operand]).finish(), out)
}

/// Bytes of a file, or all of a directory but times.
fn content(path: &Path) -> Vec<u8> {
    match path.is_dir() {
        true => {
            let tree = Tree::of_dir(path);
            let lines = tree.0.iter().map(|(name, entry)| format!("{name} {:o} {:?}\n", entry.mode, entry.kind));
            lines.collect::<String>().into_bytes()
        }
        false => fs::read(path).unwrap(),
    }
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn killed_exports_leave_nothing_half_made() {
    needs!("strace");
    if !can_trace() {
        skip!("strace may not trace here");
    }
    let site = prepared();
    for (operand, name) in FORMATS {
        let (done, out) = export(&site, None, operand);
        assert!(done.status.success(), "{operand}: {}", done.stderr);
        let whole = content(&out.join(name));
        let mut struck = 0;
        for (calls, moments) in CALLS {
            for moment in *moments {
                let (done, out) = export(&site, Some(&format!("{calls}:signal=KILL:when={moment}")), operand);
                let what = format!("{operand}: kill at {calls} number {moment}");
                let is_there = out.join(name).exists();
                assert!(!is_there || content(&out.join(name)) == whole, "{what}");
                if done.status.success() {
                    assert!(is_there, "{what}");
                    break;
                }
                struck += 1;
            }
        }
        assert!(struck > 4, "{operand}: only {struck} blows hit");
    }
}

/// The error says what failed, and nothing is left, not even a temporary name.
#[test]
fn failed_exports_leave_nothing() {
    needs!("strace");
    if !can_trace() {
        skip!("strace may not trace here");
    }
    let site = prepared();
    for (operand, name) in FORMATS {
        let is_file = !matches!(*operand, "oci:OUT/x" | "OUT/x/");
        // The first writes enter a user namespace and say what begins.
        let written = if *operand == "OUT/x/" { ("pwrite64", 2) } else { ("write", 6) };
        for (inject, told) in [
            (format!("{}:error=ENOSPC:when={}", written.0, written.1), "No space left on device"),
            (format!("{}:error=EDQUOT:when={}", written.0, written.1), "quota exceeded"),
            ("write:signal=TERM:when=4".to_owned(), "interrupted by signal 15"),
            (format!("{}:error=EIO", if is_file { "fsync" } else { "syncfs" }), "Input/output error"),
        ] {
            let (done, out) = export(&site, Some(&inject), operand);
            let what = format!("{operand}: {inject}: {}", done.stderr);
            assert!(!done.status.success(), "{what}");
            assert!(done.stderr.contains(told) || done.stderr.to_lowercase().contains(told), "{what}");
            if inject.contains("ENOSPC") || inject.contains("EDQUOT") {
                assert!(done.stderr.contains(" the image has 340.9 KiB of files: "), "{what}");
            }
            assert_eq!(names(&out), Vec::<String>::new(), "{what}");
            assert!(fs::read_dir(site.storage().join("tmp")).unwrap().next().is_none(), "{what}");
        }
        let (done, out) = export(&site, None, operand);
        assert!(done.status.success() && out.join(name).exists(), "{operand}: {}", done.stderr);
    }
}
