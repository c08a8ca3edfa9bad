//! Many processes in one storage directory, killed at random: all is sound afterwards.
//!
//! A dozen processes for a quarter of a minute; `CH_TEST_SOAK=SECONDS` makes it twenty for that long.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::registry::Registry;
use crate::harness::{Mode, Site, image};

/// Numbers that look random enough; the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Seconds that are asked for, if any.
fn soak() -> Option<u64> {
    std::env::var("CH_TEST_SOAK").ok().map(|seconds| seconds.parse().expect("CH_TEST_SOAK"))
}

#[test]
fn many_processes_share_storage() {
    share(&Site::new());
}

/// The same where an image is one tree, which is changed and copied.
#[test]
fn many_processes_share_plain_storage() {
    if soak().is_some() {
        share(&Site::of(Mode::Plain));
    }
}

fn share(site: &Site) {
    let registry = Registry::start();
    let pulled = registry.name("a/b:1");
    site.import(image::small(), "base");
    site.run("push").args(["base", &pulled]).success();
    site.write("context/file", "data\n");
    for i in 0..4 {
        site.write(
            &format!("context/Dockerfile.{i}"),
            &format!("FROM base\nCOPY file /file{}\nRUN echo {i} >/made\nRUN rm /file{}\n", i % 2, i % 2),
        );
    }
    let (processes, seconds) = soak().map_or((12, 15), |seconds| (20, seconds));
    let until = Instant::now() + Duration::from_secs(seconds);
    let (rounds, killed) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for n in 0..processes {
            let (rounds, killed, pulled, registry) = (&rounds, &killed, &pulled, &registry);
            scope.spawn(move || {
                let mut dice = Dice(n);
                let too_few = || rounds.load(Ordering::Relaxed) <= 30 || killed.load(Ordering::Relaxed) <= 5;
                while Instant::now() < until || too_few() {
                    let i = dice.roll(4);
                    let run = match dice.roll(16) {
                        0..=3 => {
                            let file = site.path(&format!("context/Dockerfile.{i}"));
                            site.run("build").args(["-t", &format!("out{i}"), "-f"]).arg(file).arg(site.path("context"))
                        }
                        4 => site.run("delete").arg(format!("out{i}")),
                        5 => site.run("import").arg(image::small()).arg("base"),
                        6 => site.run("import").arg(image::small()).arg(format!("other{i}")),
                        7 => site.run("delete").arg(format!("other{i}")),
                        8 => site.run("gc"),
                        9 | 10 => site.run("pull").arg(pulled),
                        11 => site.run("delete").arg(pulled),
                        12 => site.run("push").args(["base", &registry.name(&format!("a/c:{i}"))]),
                        13 => site.run("fsck"),
                        14 => site.ch_run("base").arg("true"),
                        _ => site.run("list"),
                    };
                    rounds.fetch_add(1, Ordering::Relaxed);
                    let done = if dice.roll(3) == 0 {
                        killed.fetch_add(1, Ordering::Relaxed);
                        run.killed_after(Duration::from_millis(dice.roll(300)))
                    } else {
                        run.finish()
                    };
                    let expected = match done.status.code() {
                        Some(0) => true,
                        Some(1) => done.stderr.contains("image not found"),
                        _ => done.status.signal() == Some(9),
                    };
                    assert!(expected, "{}\n{}{}", done.status, done.stdout, done.stderr);
                }
            });
        }
    });
    site.run("fsck").arg("--deep").success();
    for i in 0..4 {
        let file = site.path(&format!("context/Dockerfile.{i}"));
        site.run("build").args(["-t", &format!("out{i}"), "-f"]).arg(file).arg(site.path("context")).success();
        site.ch_run(&format!("out{i}")).args(["cat", "/made"]).stdout(&format!("{i}\n")).success();
    }
    site.run("fsck").arg("--deep").success();
    site.run("gc").success();
    site.run("fsck").arg("--deep").success();
}
