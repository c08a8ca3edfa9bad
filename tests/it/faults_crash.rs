//! The program is killed at, or refused, one system call after the other (strace injects that): what is in storage
//! stays sound, and the same command then works.
//!
//! A sample of the calls of each class, unless `CH_TEST_EXHAUSTIVE=1` asks for each in turn (half an hour and more).

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::harness::registry::{Registry, sha256};
use crate::harness::run::Done;
use crate::harness::{Mode, Run, Site, image, in_each_mode};
use crate::{needs, skip};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// System calls that change what is on disk, and those that open: at which of them to strike in overlay mode, and in
/// plain mode. What lies between two changes leaves the same behind as the second. Names that an architecture doesn't
/// have are left out by the question mark.
const CALLS: &[(&str, &[u32], &[u32])] = &[
    ("?rename,renameat,renameat2,?link,linkat,?symlink,symlinkat", &[1, 2, 3, 4, 5, 7], &[1, 2, 3, 4, 5, 7]),
    ("?mkdir,mkdirat,?unlink,unlinkat,?rmdir", &[1, 2, 4, 9, 20], &[2, 6, 14, 30]),
    ("?open,openat,openat2", &[12, 40, 90], &[60, 120]),
    ("fsync,syncfs,write,?pwrite64,ftruncate", &[1, 3, 8, 20], &[2, 5, 12, 24]),
    ("fchmod,?chmod,fchmodat,utimensat,setxattr,fsetxattr,mknodat,flock", &[1, 4, 11], &[3, 9, 20]),
    ("mount,umount2,clone,?fork,?vfork,unshare,execve", &[1, 2, 4], &[2]),
];

/// Every `when` in turn, or those of the table.
fn moments(mode: Mode, sample: &'static (&str, &[u32], &[u32])) -> Box<dyn Iterator<Item = u32>> {
    if std::env::var_os("CH_TEST_EXHAUSTIVE").is_some() {
        return Box::new(1..);
    }
    Box::new(if mode == Mode::Overlay { sample.1 } else { sample.2 }.iter().copied())
}

fn tiny(name: &str, content: &str) -> std::path::PathBuf {
    image::make(name, |image| {
        ["bin", "dev", "usr", "etc"].iter().for_each(|dir| image.dir(dir, 0o755));
        image.file("etc/file", 0o644, content.as_bytes());
        image.symlink("etc/link", "file");
    })
}

/// A registry with an image of two layers, `a/b:1`.
fn registry() -> Registry {
    let registry = Registry::start();
    let layers: Vec<Vec<u8>> =
        [("crash-1.tar", "one\n"), ("crash-2.tar", "two\n")].map(|(n, c)| fs::read(tiny(n, c)).unwrap()).into();
    let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let descriptor = |media_type: &str, bytes: &[u8]| serde_json::json!({"mediaType": media_type, "digest": registry.blob("a/b", bytes), "size": bytes.len()});
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(|bytes| descriptor(layer, bytes)).collect::<Vec<_>>(),
    });
    registry.manifest("a/b", "1", MANIFEST, manifest.to_string().as_bytes());
    registry
}

/// A command with what makes it have something to do.
struct Case {
    prepare: fn(&Site, &str),
    command: fn(&Site, &str) -> Vec<String>,
}

const CASES: &[Case] = &[
    Case {
        // From nothing: the storage directory is made, too.
        prepare: |site, _| crate::harness::site::remove(&site.storage()),
        command: |_, _| {
            let tarball = tiny("crash-1.tar", "one\n").display().to_string();
            vec!["import".into(), tarball, "imported".into()]
        },
    },
    Case {
        prepare: |site, _| {
            if site.storage().exists() {
                site.run("reset").success();
            }
        },
        command: |_, name| vec!["pull".into(), "-a".into(), "amd64".into(), name.into()],
    },
    Case {
        prepare: |site, name| {
            site.run("pull").args(["-a", "amd64", name]).success();
            site.run("gc").success();
            site.write("context/Dockerfile", &format!("FROM {name}\nCOPY file /etc/\nWORKDIR /usr/new\n"));
            site.write("context/file", &format!("{:?}\n", std::time::Instant::now()));
        },
        command: |site, _| vec!["build".into(), "-t".into(), "out".into(), site.path("context").display().to_string()],
    },
    Case {
        prepare: |site, name| drop(site.run("pull").args(["-a", "amd64", name]).success()),
        command: |_, name| vec!["push".into(), name.into(), name.replace("a/b:1", "c/d:2")],
    },
    Case {
        prepare: |site, name| drop(site.run("pull").args(["-a", "amd64", name]).success()),
        command: |_, name| vec!["delete".into(), name.into()],
    },
    Case {
        prepare: |site, name| {
            site.run("pull").args(["-a", "amd64", name]).success();
            site.write("context/file", &format!("{:?}\n", std::time::Instant::now()));
            site.build("other", &format!("FROM {name}\nCOPY file /etc/\nCOPY file /usr/\n")).success();
            site.run("delete").arg("other").success();
        },
        command: |_, _| vec!["gc".into()],
    },
    Case {
        prepare: |site, name| drop(site.run("pull").args(["-a", "amd64", name]).success()),
        command: |_, _| vec!["reset".into()],
    },
    Case {
        prepare: |site, _| {
            if !site.images().contains(&"base:latest".to_owned()) {
                site.import(image::small(), "base");
            }
            site.run("gc").success();
            let run = format!("RUN echo {:?} >/made; mkdir /new; rm /etc/group\n", std::time::Instant::now());
            site.write("context/Dockerfile", &format!("FROM base\n{run}COPY file /new/\n"));
        },
        command: |site, _| vec!["build".into(), "-t".into(), "out".into(), site.path("context").display().to_string()],
    },
    Case {
        prepare: |site, name| {
            site.run("pull").args(["-a", "amd64", name]).success();
            let blobs = fs::read_dir(site.storage().join("blobs/sha256")).unwrap().flatten();
            blobs.for_each(|blob| fs::write(blob.path(), "damaged").unwrap());
        },
        command: |_, _| vec!["fsck".into(), "--deep".into(), "--repair".into()],
    },
];

fn strace(site: &Site, inject: &str, command: &[String]) -> Run {
    // From the fork on, so that not the dynamic linker of this build is what is struck first.
    let log = site.path("strace.log");
    let program = site.path("bin/ch-image");
    let run = site.program("strace").args(["-f", "-qq", "-o"]).arg(log).args(["-e", &format!("inject={inject}")]);
    run.arg(program).args(command).env("CH_IMAGE_STORAGE", site.storage()).limit(Duration::from_secs(300))
}

/// Nothing of what is listed or kept is half-made.
#[track_caller]
fn sound(site: &Site, what: &str) {
    let done = site.run("fsck").arg("--deep").finish();
    assert!(done.status.success(), "after {what}:\n{}{}", done.stdout, done.stderr);
    let done = site.run("list").finish();
    assert!(done.status.success() && !done.stdout.contains("damaged"), "after {what}:\n{}{}", done.stdout, done.stderr);
}

fn can_trace() -> bool {
    Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success())
}

#[test]
fn killed_at_any_call() {
    needs!("strace");
    if !can_trace() {
        skip!("strace may not trace here");
    }
    let registry = registry();
    let name = registry.name("a/b:1");
    in_each_mode(|site| {
        let mut struck = 0;
        for case in CASES {
            // What the rounds of one case leave would make those of the next ever longer.
            crate::harness::site::remove(&site.storage());
            for sample in CALLS {
                for moment in moments(site.mode(), sample) {
                    if !killed_at(site, case, &name, sample.0, moment) {
                        break;
                    }
                    struck += 1;
                }
            }
        }
        assert!(struck > 40, "only {struck} blows hit");
    });
}

/// `false` if the command made fewer such calls.
fn killed_at(site: &Site, case: &Case, name: &str, calls: &str, moment: u32) -> bool {
    (case.prepare)(site, name);
    let command = (case.command)(site, name);
    let what = format!("kill at {calls} number {moment} of {command:?}");
    let done = strace(site, &format!("{calls}:signal=KILL:when={moment}"), &command).finish();
    // A reset that was cut off leaves what it has not come to: the next one removes it.
    // A repair that was cut off has not come to all damage.
    if !["reset", "fsck"].contains(&command[0].as_str()) {
        sound(site, &what);
    }
    let again = site.bare().args(&command).finish();
    // What was deleted before the blow cannot be deleted again.
    let gone = command[0] == "delete" && again.stderr.contains("image not found");
    assert!(again.status.success() || gone, "{what}, then again:\n{}", again.stderr);
    sound(site, &format!("{what}, then again"));
    let left: Vec<_> = fs::read_dir(site.storage().join("tmp")).unwrap().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{what}, then again: left behind: {left:?}");
    !done.status.success()
}

/// No wrong success and no panic when the kernel refuses.
#[test]
fn refused_calls_are_errors() {
    needs!("strace");
    if !can_trace() {
        skip!("strace may not trace here");
    }
    let (site, registry) = (Site::new(), registry());
    let name = registry.name("a/b:1");
    let refusals = [
        ("write:error=ENOSPC:when=4+", true),
        ("fsync:error=EIO:when=1", true),
        ("fsync:error=EDQUOT:when=3", true),
        ("syncfs:error=EIO:when=1", true),
        ("?rename,renameat,renameat2:error=EIO:when=2", true),
        ("?rename,renameat,renameat2:error=ESTALE:when=1+", true),
        ("?mkdir,mkdirat:error=ENOSPC:when=3+", true),
        ("openat:error=EMFILE:when=60+", false),
        ("openat:error=EINTR:when=50", false),
        ("write:error=EINTR:when=7", false),
        ("fchmod:error=EROFS:when=1", false),
        ("renameat2:error=EINVAL", false),
        ("openat2:error=ENOSYS", false),
    ];
    for (refusal, must_fail) in refusals {
        for case in &CASES[..4] {
            (case.prepare)(&site, &name);
            let command = (case.command)(&site, &name);
            let what = format!("{refusal} of {command:?}");
            let done = strace(&site, refusal, &command).finish();
            told(&done, &what);
            // A push writes nothing that lasts; what a build needs, the pull has stored.
            if must_fail && command[0] == "pull" {
                assert_eq!(done.status.code(), Some(1), "{what}:\n{}", done.stderr);
                assert!(!site.images().contains(&name), "{what}");
            }
            sound(&site, &what);
            let made = match command[0].as_str() {
                "import" => Some("imported:latest"),
                "pull" => Some(name.as_str()),
                "build" => Some("out:latest"),
                _ => None,
            };
            if done.status.success()
                && let Some(made) = made
            {
                assert!(site.images().iter().any(|image| image == made), "{what} made no {made}");
            }
            site.bare().args(&command).success();
        }
    }
}

/// Ended with a message of ours.
#[track_caller]
fn told(done: &Done, what: &str) {
    let code = done.status.code();
    assert!(code == Some(0) || code == Some(1), "{what}: {}\n{}", done.status, done.stderr);
    assert!(!done.stderr.contains("panicked"), "{what}:\n{}", done.stderr);
}

/// Where the file system has no locks, one process after the other works in storage, also after a crash of one.
#[test]
fn without_flock_one_at_a_time() {
    needs!("strace");
    if !can_trace() {
        skip!("strace may not trace here");
    }
    let (site, registry) = (Site::new(), registry());
    let name = registry.name("a/b:1");
    let no_locks = |command: &[String]| strace(&site, "flock:error=ENOLCK", command);
    let pull: Vec<String> = ["pull", "-a", "amd64", &name].map(str::to_owned).into();
    let done = no_locks(&pull).success();
    assert_eq!(done.stderr.matches("has no file locks").count(), 1, "{}", done.stderr);
    site.write("context/Dockerfile", &format!("FROM {name}\nCOPY Dockerfile /etc/\n"));
    let context = site.path("context").display().to_string();
    let running: Vec<_> = (0..4)
        .map(|i| {
            let log = site.path(&format!("strace-{i}.log"));
            let run =
                site.program("strace").args(["-f", "-qq", "-o"]).arg(log).args(["-e", "inject=flock:error=ENOLCK"]);
            let tag = format!("out{i}");
            run.arg(site.path("bin/ch-image"))
                .args(["build", "-t", &tag, &context])
                .env("CH_IMAGE_STORAGE", site.storage())
                .start()
        })
        .collect();
    for run in running {
        let done = run.into_done(&[]);
        assert!(done.status.success(), "{}", done.stderr);
    }
    assert_eq!(site.images().len(), 5);
    // The holder is killed while it holds.
    let kill = [("flock:error=ENOLCK"), ("fsync:signal=KILL:when=2")];
    let log = site.path("strace.log");
    let mut run = site.program("strace").args(["-f", "-qq", "-o"]).arg(log);
    for inject in kill {
        run = run.args(["-e", &format!("inject={inject}")]);
    }
    site.write("context/new", "new\n");
    site.write("context/Dockerfile", &format!("FROM {name}\nCOPY new /etc/\n"));
    let run = run.arg(site.path("bin/ch-image")).args(["build", "-t", "killed"]).arg(site.path("context"));
    let done = run.env("CH_IMAGE_STORAGE", site.storage()).finish();
    assert!(!done.status.success(), "{}", done.stderr);
    assert!(site.storage().join("lock.owner").exists());
    no_locks(&["delete".into(), "out0".into()]).success();
    assert!(!site.storage().join("lock.owner").exists());
    sound(&site, "work without locks");
}
