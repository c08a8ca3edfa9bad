//! Storage without overlayfs: images are the same there, and so is the cache; whole trees are made when they are needed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::harness::{Mode, Site, image, in_each_mode};

/// Everything that a step can do to a tree.
const STEPS: &str = "FROM base\n\
    RUN mkdir -p /d/sub /gone/sub && echo 1 >/d/a && echo 2 >/d/sub/b && echo 3 >/gone/sub/c && ln -s a /d/link\n\
    RUN rm -r /gone && echo 4 >>/d/a && rm /d/link && ln -s sub /d/link && chmod 700 /d/sub && rm /etc/group\n\
    RUN rm -r /d/sub && mkdir /d/sub && echo 5 >/d/sub/new && mv /d/a /d/moved && ln /d/moved /d/again\n\
    RUN mkdir /x && echo 6 >/x/f && rm -r /x && touch /x && rm -r /var && mkdir -m 750 /var && echo 7 >/var/new\n\
    COPY file /d/sub/\n\
    WORKDIR /made/by/workdir\n\
    RUN mv /d /e && echo 8 >/e/sub/new\n";

fn layers(site: &Site, image: &str) -> Vec<String> {
    let list: serde_json::Value = serde_json::from_str(&site.run("list").arg("--json").success().stdout).unwrap();
    let image = list.as_array().unwrap().iter().find(|entry| entry["name"] == image).unwrap();
    image["layers"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

fn stored(site: &Site) -> BTreeSet<String> {
    let entries = fs::read_dir(site.storage().join("layers")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn kind(site: &Site, id: &str) -> String {
    let record = fs::read(site.storage().join("layers").join(id).join("layer.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&record).unwrap()["kind"].as_str().unwrap().to_owned()
}

/// The whole trees in storage.
fn whole_trees(site: &Site) -> Vec<PathBuf> {
    let ids = stored(site).into_iter().filter(|id| kind(site, id) == "whole");
    ids.map(|id| site.storage().join("layers").join(id)).collect()
}

fn build(site: &Site, name: &str) {
    site.import(image::small(), "base");
    site.write("context/file", "copied\n");
    site.build(name, STEPS).success();
}

#[test]
fn images_and_steps_are_the_same_in_each_mode() {
    let found = RefCell::new(Vec::new());
    in_each_mode(|site| {
        build(site, "out");
        let mut tree = site.tree("out");
        // When it was made.
        tree.0.values_mut().for_each(|entry| entry.mtime = 0);
        found.borrow_mut().push((tree, layers(site, "out:latest")));
        site.run("fsck").arg("--deep").stdout("").success();
    });
    let found = found.into_inner();
    for other in &found[1..] {
        other.0.assert_same(&found[0].0, "plain and overlay");
        assert_eq!(other.1, found[0].1);
    }
}

/// Nothing is copied when nothing has to be done, and what is missing is made when it is wanted.
#[test]
fn whole_trees_are_made_when_they_are_needed() {
    let site = Site::of(Mode::Plain);
    build(&site, "out");
    let whole = whole_trees(&site);
    assert_eq!(whole.len(), 1);
    let inode = |path: &PathBuf| path.join("tree").metadata().unwrap().ino();
    let before = (stored(&site), inode(&whole[0]));
    let tree = site.tree("out");
    let cached = |name: &str| {
        let done = site.build(name, STEPS).success();
        assert_eq!(done.stderr.lines().filter(|line| line.contains("* ")).count(), 7, "{}", done.stderr);
    };
    cached("out");
    assert_eq!((stored(&site), inode(&whole[0])), before);
    // Another name for the same.
    cached("other");
    site.run("delete").arg("out").success();
    assert_eq!((stored(&site), inode(&whole[0])), before);
    // Without a name there is no tree, but the steps are there.
    site.run("delete").arg("other").success();
    assert_eq!((whole_trees(&site), stored(&site).len()), (Vec::new(), before.0.len() - 2));
    cached("out");
    assert!(whole_trees(&site).is_empty());
    site.tree("out").assert_same(&tree, "without a whole tree");
    site.ch_run("out").args(["cat", "/e/sub/new", "/e/moved"]).stdout("8\n1\n4\n").success();
    assert_eq!((stored(&site), whole_trees(&site).len()), (before.0, 1));
    site.ch_run("out").args(["cat", "/e/sub/new"]).stdout("8\n").success();
    // Whoever needs files of a stage makes it, too.
    fs::remove_dir_all(&whole_trees(&site)[0]).unwrap();
    site.build("copy", "FROM base\nCOPY --from=out /e /f\nRUN cat /f/sub/new\n").stdout("8\n").success();
    site.run("fsck").arg("--deep").stdout("").success();
    site.run("gc").success();
    site.run("fsck").arg("--deep").stdout("").success();
}

/// A step in the middle that is new is done on what those before it have left, not on what came of the last build.
#[test]
fn a_change_in_the_middle() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let build = |middle: &str| {
            let text =
                format!("FROM base\nRUN echo one >/one\nRUN {middle}\nRUN echo three >/three; ls / | grep two; true\n");
            site.build("out", &text)
        };
        build("echo 2 >/two-a").stdout("two-a\n").success();
        build("echo 2 >/two-b; cat /one").stdout("one\ntwo-b\n").stderr_has("  2* RUN").stderr_has("  3 RUN").success();
        site.ch_run("out").args(["sh", "-c", "cat /one /two* /three"]).stdout("one\n2\nthree\n").success();
        build("echo 2 >/two-a").stdout("").stderr_has("  4* RUN").success();
        site.ch_run("out").args(["sh", "-c", "ls / | grep two"]).stdout("two-a\n").success();
        // What a failed step did is forgotten.
        let failing = "FROM base\nRUN echo one >/one\nRUN rm /one; false\n";
        site.build("out", failing).stderr_has("  2* RUN").failure();
        site.build("out", "FROM base\nRUN echo one >/one\nRUN cat /one\n").stdout("one\n").success();
        site.run("fsck").arg("--deep").stdout("").success();
    });
}

/// A damaged whole tree is found and made again; nothing is lost.
#[test]
fn damaged_whole_trees_are_made_again() {
    let site = Site::of(Mode::Plain);
    build(&site, "out");
    fs::write(whole_trees(&site)[0].join("tree/e/sub/new"), "9\n").unwrap();
    site.run("fsck").stdout("").success();
    site.run("fsck").arg("--deep").stdout_has(": its files are not what they were\n").failure();
    site.run("fsck").args(["--deep", "--repair"]).success();
    assert_eq!(whole_trees(&site), Vec::<PathBuf>::new());
    site.ch_run("out").args(["cat", "/e/sub/new"]).stdout("8\n").success();
    // So is what a layer hides.
    let marks = layers(&site, "out:latest").into_iter().map(|id| site.storage().join("layers").join(id).join("marks"));
    let marks = marks.into_iter().find(|path| path.exists()).unwrap();
    let text = String::from_utf8(fs::read(&marks).unwrap()).unwrap();
    fs::write(&marks, text.replacen("gone ", "gone x", 1)).unwrap();
    site.run("fsck").stdout_has("marks: does not match its checksum").stdout_has("image out:latest").failure();
}
