//! Many processes in one storage directory, killed at random: all is sound afterwards. And signals that people send.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Site, image, in_each_mode};

/// Numbers that look random enough; the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn many_processes_share_storage() {
    let site = Site::new();
    site.import(image::small(), "base");
    site.write("context/file", "data\n");
    for i in 0..4 {
        site.write(
            &format!("context/Dockerfile.{i}"),
            &format!("FROM base\nCOPY file /file{}\nRUN echo {i} >/made\nRUN rm /file{}\n", i % 2, i % 2),
        );
    }
    let until = Instant::now() + Duration::from_secs(15);
    let (rounds, killed) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for n in 0..12u64 {
            let (site, rounds, killed) = (&site, &rounds, &killed);
            scope.spawn(move || {
                let mut dice = Dice(n);
                while Instant::now() < until {
                    let i = dice.roll(4);
                    let run = match dice.roll(10) {
                        0..=3 => {
                            let file = site.path(&format!("context/Dockerfile.{i}"));
                            site.run("build").args(["-t", &format!("out{i}"), "-f"]).arg(file).arg(site.path("context"))
                        }
                        4 => site.run("delete").arg(format!("out{i}")),
                        5 => site.run("import").arg(image::small()).arg("base"),
                        6 => site.run("import").arg(image::small()).arg(format!("other{i}")),
                        7 => site.run("delete").arg(format!("other{i}")),
                        8 => site.run("gc"),
                        _ => site.run("list"),
                    };
                    rounds.fetch_add(1, Ordering::Relaxed);
                    let done = if dice.roll(3) == 0 {
                        killed.fetch_add(1, Ordering::Relaxed);
                        run.killed_after(Duration::from_millis(dice.roll(300)))
                    } else {
                        run.limit(Duration::from_secs(120)).finish()
                    };
                    let expected = match done.status.code() {
                        Some(0) => true,
                        Some(1) => done.stderr.contains("image not found"),
                        _ => done.status.signal() == Some(9),
                    };
                    assert!(expected, "{}\n{}", done.status, done.stderr);
                }
            });
        }
    });
    assert!(rounds.load(Ordering::Relaxed) > 30 && killed.load(Ordering::Relaxed) > 5);
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

/// SIGINT, SIGTERM, SIGHUP at any time: over within two seconds, by that signal or with 128 and its number.
#[test]
fn signals_end_it_soon() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("context/file", &"data\n".repeat(50_000));
        for (n, (signal, number)) in [("INT", 2), ("TERM", 15), ("HUP", 1)].iter().enumerate() {
            for delay in [30, 120, 400] {
                let dockerfile = format!("FROM base\nCOPY file /{n}{delay}\nRUN echo {n}{delay} && sleep 20\n");
                let mut building = site.build("out", &dockerfile).start();
                thread::sleep(Duration::from_millis(delay));
                let pid = building.child.id().to_string();
                Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
                let since = Instant::now();
                while building.is_alive() {
                    assert!(since.elapsed() < Duration::from_secs(2), "SIG{signal} after {delay} ms: still running");
                    thread::sleep(Duration::from_millis(5));
                }
                let done = building.into_done(&[]);
                let by_it = done.status.signal() == Some(*number) || done.status.code() == Some(128 + number);
                assert!(by_it, "SIG{signal} after {delay} ms: {}\n{}", done.status, done.stderr);
                assert!(!site.images().contains(&"out:latest".to_owned()));
                site.run("fsck").success();
            }
        }
        site.build("out", "FROM base\nCOPY file /\n").success();
    });
}
