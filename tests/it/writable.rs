//! Can a command write where the image must not change: into memory (`--write-fake`), into a directory (`--overlay`)?

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::run::Run;
use crate::harness::{Site, Tree, image, wait_for};

/// The same image in all forms: a name, a directory, a packed file.
fn forms(site: &Site) -> Vec<PathBuf> {
    site.import(image::small(), "base");
    site.build(
        "made",
        "FROM base\nRUN mkdir -p /data/inner && echo old >/data/inner/file && ln -s file /data/inner/link\n",
    )
    .success();
    let (dir, packed) = (site.path("dir"), site.path("made.sqfs"));
    site.run("export").args(["--format=dir", "made"]).arg(&dir).success();
    site.run("export").arg("made").arg(&packed).success();
    vec!["made".into(), dir, packed]
}

fn run(site: &Site, options: &[&str], image: &Path, script: &str) -> Run {
    site.ch_run_with(options, image.to_str().unwrap()).args(["sh", "-c", script])
}

/// All that can be done to a tree.
const CHANGE: &str = "cd /data && echo new >new && echo more >>inner/file && chmod 700 inner/file && mv inner moved && \
    rm moved/link && mkdir inner && ls inner && ln moved/file twin && rm -r /mnt && mkdir /mnt && \
    ln -s x y && cat moved/file twin && ls /mnt | wc -l";
const CHANGED: &str = "old\nmore\nold\nmore\n0\n";

#[test]
fn what_is_written_is_forgotten() {
    crate::packed_runs::needs_fuse!();
    let site = Site::new();
    for image in forms(&site) {
        for options in [&["-W"][..], &["--write-fake=64m"], &["-W", "-u0", "-g0"]] {
            run(&site, options, &image, CHANGE).stdout(CHANGED).stderr("").success();
            run(&site, &[], &image, "cat /data/inner/link; ls /data").stdout("old\ninner\n").success();
        }
        let full = "dd if=/dev/zero of=/data/x bs=1000 count=3000 2>/dev/null; echo $?";
        run(&site, &["--write-fake=1m"], &image, full).stdout("1\n").success();
        let root = "stat -c %a /; touch /new && ls -d /new";
        run(&site, &["-W"], &image, root).stdout("755\n/new\n").success();
    }
}

#[test]
fn what_is_written_is_kept_in_a_directory() {
    crate::packed_runs::needs_fuse!();
    let site = Site::new();
    for image in forms(&site) {
        let dir = site.path("kept");
        let options = ["--overlay", dir.to_str().unwrap()];
        run(&site, &options, &image, CHANGE).stdout(CHANGED).stderr("").success();
        run(&site, &options, &image, "cd /data && ls && cat new && stat -c %a moved/file")
            .stdout("inner\nmoved\nnew\ntwin\ny\nnew\n700\n")
            .success();
        run(&site, &[], &image, "cat /data/inner/link; ls /data").stdout("old\ninner\n").success();
        crate::harness::site::remove(&dir);
    }
}

/// Two containers that write into one directory would destroy it; processes of one container may.
#[test]
fn a_directory_is_written_by_one_container() {
    crate::packed_runs::needs_fuse!();
    let site = Site::new();
    let image = forms(&site).pop().unwrap();
    let dir = site.path("kept");
    let options = ["--overlay", dir.to_str().unwrap()];
    let joined = ["--overlay", dir.to_str().unwrap(), "--join-tag=x"];
    let script = |name: &str| format!("touch /of-{name} ~/{name}; until test -e ~/end; do sleep 0.05; done");
    let has_begun = |name: &str| wait_for(name, || site.path("home").join(name).exists());
    let first = run(&site, &joined, &image, &script("first")).start();
    has_begun("first");
    let refused = "error: can't use the overlay directory SITE/kept: another container is using it\n\
                   hint: wait for its end, or use another directory; peers share one with --join\n";
    run(&site, &options, &image, "true").stderr(refused).ch_run_failure();
    let second = run(&site, &joined, &image, &script("second")).start();
    has_begun("second");
    // Also when the one that mounted it has ended.
    let mut first = first;
    first.kill();
    run(&site, &options, &image, "true").stderr(refused).ch_run_failure();
    site.write("home/end", "");
    assert_eq!(second.into_done(&[]).stderr, "");
    let all = "ls -d /of-*";
    wait_for("the lock", || run(&site, &options, &image, all).finish().stdout == "/of-first\n/of-second\n");
}

/// Places to mount on that the image lacks.
#[test]
fn binds_and_homes_over_any_image() {
    crate::packed_runs::needs_fuse!();
    let site = Site::new();
    site.write("data/file", "from the host\n");
    let data = site.path("data");
    let bind = |to: &str| format!("{}{to}", data.display());
    for image in forms(&site) {
        for more in [&[][..], &["-W"]] {
            let check = |options: &[&str], script: &str, stdout: &str| {
                let all: Vec<&str> = options.iter().chain(more).copied().collect();
                run(&site, &all, &image, script).stdout(stdout).stderr("").success();
            };
            check(&["-b", &bind(":/new/place")], "cat /new/place/file", "from the host\n");
            let write = "touch /new/place/x 2>/dev/null && rm /new/place/x || echo refused";
            check(&["-b", &bind(":/new/place")], write, "");
            check(&["-b", &bind(":/new/place:ro")], write, "refused\n");
            check(&["--home"], "cd && pwd && touch x && rm x", "/home/tester\n");
        }
        fs::write(site.path("data/x"), "").unwrap();
    }
    // Who says both writes, and the image stays as it is.
    run(&site, &["-w", "-W"], "made".as_ref(), "touch /usr/new").success();
    run(&site, &[], "made".as_ref(), "test ! -e /usr/new").success();
}

/// A directory stays what it is, and so does the storage directory.
#[test]
fn nothing_below_changes() {
    let site = Site::new();
    site.import(image::small(), "base");
    let dir = site.path("dir");
    site.run("export").args(["--format=dir", "base"]).arg(&dir).success();
    let before = (Tree::of_dir(&dir), Tree::of_dir(&site.storage().join("layers")));
    for image in [PathBuf::from("base"), dir.clone()] {
        let script = "echo x >/etc/group; rm -rf /bin /usr /etc 2>/dev/null; true";
        run(&site, &["-W", "-b", "/usr:/new"], &image, script).finish();
    }
    Tree::of_dir(&dir).assert_same(&before.0, "the directory");
    Tree::of_dir(&site.storage().join("layers")).assert_same(&before.1, "the layers");
}
