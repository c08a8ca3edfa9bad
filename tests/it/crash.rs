//! Kill -9 at any moment, then the same command again: it works, and nothing half-made is ever listed.

use std::fs;
use std::time::Duration;

use crate::harness::wait::{endless, runs};
use crate::harness::{Server, Site, Tree, image, in_each_mode, wait_for};
use crate::{needs, skip};

/// Moments at which to kill something that takes `whole` when it is left alone.
fn moments(whole: Duration, count: u32) -> impl Iterator<Item = Duration> {
    (1..=count).map(move |i| whole * i / (count + 1))
}

/// What a kill left: no image of this name, or the whole of it (the kill came between the name and the exit).
fn whole_or_unlisted(site: &Site, name: &str, expected: &[String], moment: Duration) {
    if site.images().iter().any(|listed| listed == name) {
        assert_eq!(content(&site.tree(name)), expected, "listed after a kill at {moment:?}");
    }
}

#[test]
fn killed_pull() {
    needs!("docker-registry", "openssl");
    let Some(debian) = image::debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    in_each_mode(|site| {
        let server = Server::start();
        let name = server.name("debian:1");
        site.import(&debian, "debian");
        site.run("push").args(["debian", &name]).env("SSL_CERT_FILE", server.ca()).success();
        let pull = |site: &Site| site.run("pull").arg(&name).env("SSL_CERT_FILE", server.ca());
        let fresh = Site::of(site.mode());
        let whole = pull(&fresh).success().elapsed;
        let expected = fresh.tree(&name);

        // The same storage all along: each pull begins with what the one before left.
        let again = Site::of(site.mode());
        for moment in moments(whole, 3) {
            pull(&again).killed_after(moment);
            whole_or_unlisted(&again, &name, &content(&expected), moment);
            pull(&again).success();
            again.tree(&name).assert_same(&expected, &format!("killed after {moment:?}, pulled again"));
            again.run("delete").arg(&name).success();
            if moment > whole / 2 {
                // Downloads may be kept by delete; from here on begin with none.
                again.run("reset").success();
            }
        }
    });
}

#[test]
fn killed_build() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("context/file", &"data\n".repeat(100_000));
        let steps: String = (0..12)
            .map(|i| format!("RUN cat /file /file >/made{i} && touch /made{i}.done\nCOPY file /copy{i}\n"))
            .collect();
        let dockerfile = format!("FROM base\nCOPY file /\n{steps}");
        let fresh = Site::of(site.mode());
        fresh.import(image::small(), "base");
        fresh.write("context/file", &"data\n".repeat(100_000));
        let whole = fresh.build("out", &dockerfile).success().elapsed;
        let expected = content(&fresh.tree("out"));

        for moment in moments(whole, 10) {
            site.build("out", &dockerfile).killed_after(moment);
            whole_or_unlisted(site, "out:latest", &expected, moment);
            site.build("out", &dockerfile).success();
            assert_eq!(content(&site.tree("out")), expected, "killed after {moment:?}, built again");
            site.run("reset").success();
            site.import(image::small(), "base");
        }
    });
}

/// Names and content; the times of made files differ between builds.
fn content(tree: &Tree) -> Vec<String> {
    tree.0.iter().map(|(name, entry)| format!("{name} {:o} {:?}", entry.mode, entry.kind)).collect()
}

/// What RUN started dies with the builder.
#[test]
fn nothing_keeps_running() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let (one, other) = (endless(), endless());
        let mut building = site.build("out", &format!("FROM base\nRUN {one} & {other}\n")).start();
        wait_for("RUN to begin", || runs(&one) && runs(&other));
        building.kill();
        wait_for("what RUN started to end", || !runs(&one) && !runs(&other));
    });
}

/// What a crash left is swept by a later command.
#[test]
fn leftovers_are_swept() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let endless = endless();
        let mut building = site.build("out", &format!("FROM base\nRUN echo begun; {endless}\n")).start();
        wait_for("RUN to begin", || runs(&endless));
        building.kill();
        wait_for("what RUN started to end", || !runs(&endless));
        site.run("list").success();
        site.build("other", "FROM base\nRUN true\n").success();
        for dir in ["tmp", "trash"] {
            let left: Vec<_> = fs::read_dir(site.storage().join(dir))
                .map(|d| d.flatten().map(|e| e.path()).collect())
                .unwrap_or_default();
            assert!(left.is_empty(), "left in {dir}: {left:?}");
        }
    });
}
