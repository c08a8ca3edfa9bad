//! Directories that others can exchange while they are used, and images that are removed while they run.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::harness::registry::Registry;
use crate::harness::wait::{endless, meanwhile, runs, wait_for};
use crate::harness::{Site, Tree, hold, image, in_each_mode};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Where others may rename the storage directory or one above it, nothing is removed, made or read by name.
#[test]
fn storage_that_others_could_exchange() {
    let site = Site::new();
    let storage = site.path("shared/mine/storage");
    site.write("context/Dockerfile", "FROM base\n");
    site.write("shared/mine/file", "");
    let run = |args: &[&str]| site.bare().args(args).env("CH_IMAGE_STORAGE", &storage);
    let tarball = image::small().display().to_string();
    for mode in [0o2775, 0o777, 0o702] {
        chmod(&site.path("shared"), mode);
        let refused = |run: crate::harness::Run, storage: &str| {
            let error = format!(
                "error: others could exchange the storage directory SITE/shared/mine/storage: SITE/shared is writable by \
                 others (yours, mode {mode:04o})\nhint: chmod +t SITE/shared keeps it shared and safe; or use another \
                 directory with --storage or CH_IMAGE_STORAGE\n"
            );
            run.stderr(&error.replace("SITE/shared/mine/storage:", &format!("{storage}:")))
        };
        let before = Tree::of_dir(&site.path("shared"));
        let commands: &[&[&str]] = &[
            &["import", &tarball, "base"],
            &["build", "-t", "x", "context"],
            &["delete", "base"],
            &["push", "base"],
            &["gc"],
            &["fsck", "--deep"],
            &["list"],
            &["reset"],
        ];
        for command in commands {
            refused(run(command), "SITE/shared/mine/storage").failure();
        }
        refused(site.ch_run("base").arg("true").env("CH_IMAGE_STORAGE", &storage), "SITE/shared/mine/storage")
            .ch_run_failure();
        Tree::of_dir(&site.path("shared")).assert_same(&before, "the directory afterwards");
        if !storage.exists() {
            // As it was before somebody opened it to others. A link in a safe place helps nothing.
            chmod(&site.path("shared"), 0o3775);
            run(commands[0]).success();
            symlink(&storage, site.path("link")).unwrap();
            chmod(&site.path("shared"), mode);
        }
        let link = site.path("link");
        refused(site.run("list").env("CH_IMAGE_STORAGE", &link), "SITE/shared/mine/storage").failure();
        for command in commands {
            refused(run(command), "SITE/shared/mine/storage").failure();
        }
    }
    chmod(&site.path("shared"), 0o3775);
    run(&["list"]).stdout_has("base:latest").success();
}

/// `pull REF DIR` writes into the directory that it made, whatever has come to its place; what it can't be sure of stays.
#[test]
fn the_directory_of_a_pull_is_exchanged() {
    let (site, registry) = (Site::new(), Registry::start());
    let layer = hold::marked("new");
    hold::image(&registry, "a", "1", &hold::config(None, &[&layer]), &[&layer]);
    let outside = site.path("outside");
    let precious = site.write("outside/usr/mark", "precious");
    fs::create_dir(outside.join("bin")).unwrap();
    fs::create_dir(outside.join("dev")).unwrap();
    let before = Tree::of_dir(&outside);
    let place = site.path("place");
    fs::create_dir(&place).unwrap();
    let exchange = |n: usize| {
        for entry in fs::read_dir(&place).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with(".ch-image-") && !entry.path().is_symlink() {
                let aside = place.join(format!("aside-{n}"));
                let _ = fs::rename(entry.path(), &aside).and_then(|()| symlink(&outside, entry.path()));
            }
        }
    };
    meanwhile(exchange, || {
        for _ in 0..10 {
            let done = site.run("pull").arg(registry.name("a:1")).arg(place.join("dir")).finish();
            assert!(
                done.status.success() || done.stderr.contains("somebody has exchanged directories at SITE/place/dir"),
                "{}",
                done.stderr
            );
        }
    });
    Tree::of_dir(&outside).assert_same(&before, "what was put in its place");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    // Nor is a link at the place itself followed, and storage is no place.
    symlink(&outside, place.join("link")).unwrap();
    let run = site.run("pull").arg(registry.name("a:1")).arg(place.join("link"));
    run.stderr_has("exists but does not appear to be an image").failure();
    let run = site.run("pull").arg(registry.name("a:1")).arg(site.storage().join("layers/x"));
    run.stderr_has("it is in the storage directory").failure();
}

/// What a killed `pull REF DIR` leaves is removed by the next one, and there is always a whole image or the old one.
#[test]
fn a_killed_pull_to_a_directory_leaves_nothing() {
    let (site, registry) = (Site::new(), Registry::start());
    let layer = hold::marked("new");
    hold::image(&registry, "a", "1", &hold::config(None, &[&layer]), &[&layer]);
    let place = site.path("place");
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let pull = || site.run("pull").arg(registry.name("a:1")).arg(place.join("dir"));
    pull().success();
    let mut left = 0;
    for _ in 0..20 {
        let mut running = pull().start();
        while running.is_alive() && names().len() < 2 {}
        running.kill();
        left += names().len() - 1;
        assert_eq!(fs::read_to_string(place.join("dir/usr/mark")).unwrap(), "new");
    }
    assert!(left > 0, "none was killed in time");
    // Of another machine it can't be told whether it is gone.
    fs::create_dir(place.join(".ch-image-elsewhere.invalid-1-0")).unwrap();
    pull().success();
    assert_eq!(names(), [".ch-image-elsewhere.invalid-1-0", "dir"]);
    // File systems that can't exchange two names: killed between two renames.
    fs::rename(place.join("dir"), place.join(".ch-image-old-dir")).unwrap();
    let run = site.run("pull").arg(registry.name("a:2")).arg(place.join("dir"));
    run.failure();
    assert_eq!(fs::read_to_string(place.join("dir/usr/mark")).unwrap(), "new");
    pull().success();
    assert_eq!(names(), [".ch-image-elsewhere.invalid-1-0", "dir"]);
}

/// Another directory in the context's place is none of it, whatever wants files of it: a mount no less than a copy.
#[test]
fn the_context_is_exchanged() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("secret/key", "private");
        for step in
            ["RUN --mount=type=bind,target=/m cat /m/key", "RUN --mount=type=bind,rw,target=/m cat /m/key", "COPY . /"]
        {
            let signal = site.path("signal");
            let _ = fs::remove_dir_all(&signal);
            fs::create_dir(&signal).unwrap();
            let wait = "RUN touch /mnt/0/ready; until test -e /mnt/0/go; do sleep 0.05; done";
            let text = format!("FROM base\n{wait}; echo '{step}'\n{step}\n");
            let context = site.write("context/Dockerfile", &text);
            let context = context.parent().unwrap();
            let running = site.run("build").args(["-t", "x", "--bind"]).arg(format!("{}:/mnt/0", signal.display()));
            let running = running.arg(context).start();
            wait_for("the first step", || signal.join("ready").exists());
            fs::rename(context, site.path("aside")).unwrap();
            symlink(site.path("secret"), context).unwrap();
            fs::write(signal.join("go"), "").unwrap();
            let done = running.into_done(&[]);
            assert!(!done.stdout.contains("private"), "{}{}", done.stdout, done.stderr);
            let error = "another directory has come to the context's place";
            assert!(!done.status.success() && done.stderr.contains(error), "{}{}", done.stdout, done.stderr);
            fs::remove_file(context).unwrap();
            fs::rename(site.path("aside"), context).unwrap();
        }
    });
}

/// Files of the user stay out of the image where somebody else's directory is pushed, and parts of it become links to
/// the user's own.
#[test]
fn a_directory_is_exchanged_while_it_is_pushed() {
    let (site, registry) = (Site::new(), Registry::start());
    site.write("secret/key", "-private-");
    for dir in ["bin", "dev", "usr"] {
        fs::create_dir_all(site.path("dir").join(dir)).unwrap();
    }
    for n in 0..200 {
        site.write(&format!("dir/usr/d{n}/key"), "public");
    }
    let exchange = |n: usize| {
        let dir = site.path(&format!("dir/usr/d{}", n % 200));
        let aside = site.path("aside");
        fs::rename(&dir, &aside).unwrap();
        symlink(site.path("secret"), &dir).unwrap();
        fs::remove_file(&dir).unwrap();
        fs::rename(&aside, &dir).unwrap();
    };
    meanwhile(exchange, || {
        for n in 0..5 {
            let name = registry.name(&format!("a:{n}"));
            let done = site.run("push").arg("--image").arg(site.path("dir")).arg(&name).finish();
            if done.status.success() {
                let to = site.path(&format!("pulled{n}"));
                site.run("pull").arg(&name).arg(&to).success();
                site.program("grep").args(["-r", "-e", "-private-"]).arg(&to).stdout("").code(1);
            }
        }
    });
}

/// What a command runs in stays until it ends, whoever deletes the image: also where storage can only be read.
#[test]
fn images_in_use_are_not_removed() {
    in_each_mode(|site| {
        for remove in ["delete", "gc", "import"] {
            site.import(image::small(), "base");
            let signal = site.path("signal");
            let _ = fs::remove_dir_all(&signal);
            fs::create_dir(&signal).unwrap();
            let bind = format!("{}:/mnt/0", signal.display());
            let script = "touch /mnt/0/ready; until test -e /mnt/0/go; do sleep 0.05; done; cat /etc/passwd >/dev/null && \
                          ls /bin/busybox /usr/bin /bin | grep -c . >/dev/null && echo there";
            let running = site.ch_run_with(&["-b", &bind], "base").args(["sh", "-c", script]).start();
            wait_for("the command", || signal.join("ready").exists());
            site.run("reset").stderr_has("a command runs in one of its images").failure();
            match remove {
                "delete" => drop(site.run("delete").arg("base").success()),
                "import" => site.import(image::odd(), "base"),
                _ => {
                    fs::remove_file(site.storage().join("images/base+latest.json")).unwrap();
                    site.run("gc").success();
                }
            }
            let layers = || fs::read_dir(site.storage().join("layers")).unwrap().count();
            let before = layers();
            fs::write(signal.join("go"), "").unwrap();
            let done = running.into_done(&[]);
            assert_eq!((done.stdout.as_str(), done.status.code()), ("there\n", Some(0)), "{remove}: {}", done.stderr);
            // Then it goes.
            site.run("gc").success();
            assert!(layers() < before, "{remove}");
            site.run("fsck").success();
            site.run("reset").success();
        }
    });
}

/// The lock is the command's: neither what it leaves behind nor what ended before keeps an image for ever.
#[test]
fn a_killed_command_keeps_nothing() {
    let site = Site::new();
    site.import(image::small(), "base");
    let sleep = endless();
    let mut running = site.ch_run("base").args(sleep.split(' ')).start();
    wait_for("the command", || runs(&sleep));
    running.kill();
    site.run("delete").arg("base").success();
    assert_eq!(fs::read_dir(site.storage().join("layers")).unwrap().count(), 0);
}
