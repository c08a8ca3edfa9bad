//! What people, terminals and batch systems send: the program ends soon, with 128 and the signal's number, and what it
//! has downloaded is not lost. And limits of the kind that ulimit sets.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::registry::{How, Registry, ranged};
use crate::harness::run::{Done, Running};
use crate::harness::{Site, hold, image, in_each_mode, wait_for};
use crate::needs;

const SIGNALS: &[(&str, i32)] = &[("INT", 2), ("TERM", 15), ("HUP", 1), ("QUIT", 3)];
/// The promise is two seconds; most keep it, whatever else the machine does.
const SOON: Duration = Duration::from_secs(2);

fn send(running: &Running, signal: &str) {
    Command::new("kill").args([&format!("-{signal}"), &running.child.id().to_string()]).status().unwrap();
}

/// Long before what it does would end.
#[track_caller]
fn ends(mut running: Running, what: &str) -> Done {
    let since = Instant::now();
    while running.is_alive() {
        assert!(since.elapsed() < Duration::from_secs(120), "{what}: still running");
        thread::sleep(Duration::from_millis(5));
    }
    running.into_done(&[])
}

fn left_in_tmp(site: &Site) -> usize {
    fs::read_dir(site.storage().join("tmp")).unwrap().count()
}

/// At any time of a build.
#[test]
fn signals_end_it_soon() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("context/file", &"data\n".repeat(50_000));
        let mut times = Vec::new();
        for (signal, number) in SIGNALS {
            for delay in [30, 120, 400] {
                let dockerfile =
                    format!("FROM base\nCOPY file /{number}{delay}\nRUN echo {number}{delay}; sleep 6000\n");
                site.write("context/Dockerfile", &dockerfile);
                let build = site.heeding_signals().args(["build", "-t", "out"]).arg(site.path("context"));
                let building = build.start();
                thread::sleep(Duration::from_millis(delay));
                send(&building, signal);
                let since = Instant::now();
                let what = format!("SIG{signal} after {delay} ms");
                let done = ends(building, &what);
                times.push(since.elapsed());
                // Before the first line of the program the signal does what it does to all.
                let early = std::os::unix::process::ExitStatusExt::signal(&done.status) == Some(*number);
                let by_it = done.status.code() == Some(128 + number);
                assert!(by_it || early && done.stderr.is_empty(), "{what}: {}\n{}", done.status, done.stderr);
                assert!(!site.images().contains(&"out:latest".to_owned()));
                site.run("fsck").success();
            }
        }
        times.sort();
        assert!(times[times.len() / 2] < SOON, "{times:?}");
        site.build("out", "FROM base\nCOPY file /\n").success();
        assert_eq!(left_in_tmp(site), 0);
    });
}

/// In the middle of a download: the next pull goes on where this one stopped.
#[test]
fn interrupted_downloads_go_on() {
    in_each_mode(|site| {
        let registry = Registry::start();
        let layer = hold::layer(&[("bin/", b""), ("dev/", b""), ("usr/", b""), ("usr/large", &[b'x'; 3_000_000])]);
        hold::image(&registry, "a", "1", &hold::config(Some("amd64"), &[&layer]), &[&layer]);
        let name = registry.name("a:1");
        let pull = || site.heeding_signals().args(["pull", "-a", "amd64", &name]);
        let slow = layer.clone();
        let digest = crate::harness::registry::sha256(&layer);
        let path = digest.clone();
        registry.intercept(move |seen, _| {
            let first = seen.path().ends_with(&path) && seen.header("range").is_none();
            first.then(|| ranged(seen, &slow).how(How::Stall(1_000_000)))
        });
        let ingest = site.storage().join("ingest").join(digest.strip_prefix("sha256:").unwrap());
        let arrived = || fs::metadata(&ingest).map_or(0, |m| m.len());
        let mut cleaned_up = 0;
        for (n, (signal, number)) in SIGNALS.iter().cycle().enumerate() {
            // Cleaning up may take longer than it is given, but not always.
            if n >= SIGNALS.len() && cleaned_up > 0 {
                break;
            }
            assert!(n < 10 * SIGNALS.len(), "always ended before cleaning up");
            let pulling = pull().start();
            wait_for("a part of the layer", || arrived() > 100_000);
            send(&pulling, signal);
            let done = ends(pulling, signal);
            assert_eq!(done.status.code(), Some(128 + number), "SIG{signal}: {}", done.stderr);
            if done.stderr.contains(&format!("interrupted by signal {number}\n")) {
                cleaned_up += 1;
                assert_eq!(left_in_tmp(site), 0, "SIG{signal}: {}", done.stderr);
            }
            let kept = arrived();
            assert!(kept > 100_000, "SIG{signal}: only {kept} bytes kept");
            registry.server.forget();
            pull().success();
            let range = format!("bytes={kept}-");
            let seen = registry.server.seen();
            assert!(seen.iter().any(|seen| seen.header("range") == Some(&range)), "{:?}", registry.server.lines());
            assert_eq!(left_in_tmp(site), 0);
            site.run("delete").arg(&name).success();
            site.run("gc").success();
        }
    });
}

/// A RUN that does not want to end; somebody who does not want to wait; Ctrl-Z.
#[test]
fn stubborn_and_impatient() {
    let site = Site::new();
    site.import(image::small(), "base");
    let begun = |name: &str| {
        let begun = site.path("begun").join(name);
        fs::create_dir_all(begun.parent().unwrap()).unwrap();
        begun
    };
    let start = |name: &str, command: &str| {
        let dockerfile = format!("FROM base\nRUN touch /mnt/0/{name}; {command}\n");
        site.write("context/Dockerfile", &dockerfile);
        let bind = format!("{}:/mnt/0", site.path("begun").display());
        let run = site.heeding_signals().args(["build", "-b", &bind, "-t", "out"]).arg(site.path("context"));
        let file = begun(name);
        let running = run.start();
        wait_for("RUN to begin", || file.exists());
        running
    };
    let stubborn = "trap '' INT TERM HUP QUIT; while true; do sleep 1; done";
    for (name, times) in [("once", 1), ("twice", 2)] {
        let building = start(name, stubborn);
        for _ in 0..times {
            send(&building, "INT");
            thread::sleep(Duration::from_millis(50));
        }
        let done = ends(building, name);
        assert_eq!(done.status.code(), Some(130), "{name}: {}", done.stderr);
        site.run("fsck").success();
    }
    // Nor does one that waits for another need its second.
    let holding = start("holding", "until test -e /mnt/0/released; do sleep 0.1; done");
    let (dir, log) = (site.path("context"), site.path("log"));
    let run = site.heeding_signals().args(["build", "-t", "out"]).arg(dir).env("CH_LOG_FILE", &log);
    let waiting = run.start();
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let state = format!("/proc/{}/stat", waiting.child.id());
    let sleeps = || fs::read_to_string(&state).unwrap_or_default().contains(") S ");
    wait_for("it to wait", || said().contains("waiting for process") && sleeps());
    send(&waiting, "INT");
    let done = ends(waiting, "waiting");
    assert_eq!(done.status.code(), Some(130), "{}", said());
    assert!(said().contains("out+latest: interrupted by signal 2"), "{}", said());
    fs::write(begun("released"), "").unwrap();
    assert!(holding.into_done(&[]).status.success());
    let go_on = begun("go-on");
    let building = start("paused", "until test -e /mnt/0/go-on; do sleep 0.1; done; echo done >/made");
    let state = format!("/proc/{}/stat", building.child.id());
    let is_stopped = || fs::read_to_string(&state).unwrap_or_default().contains(") T ");
    send(&building, "TSTP");
    wait_for("the program to stop", is_stopped);
    send(&building, "CONT");
    fs::write(go_on, "").unwrap();
    let done = building.into_done(&[]);
    assert!(done.status.success(), "{}", done.stderr);
    site.ch_run("out").args(["cat", "/made"]).stdout("done\n").success();
}

const LIMITS: [&str; 10] = [
    "--nofile=5",
    "--nofile=9",
    "--nofile=16",
    "--as=8000000",
    "--as=20000000",
    "--as=60000000",
    "--nproc=1",
    "--fsize=0",
    "--fsize=20000",
    "--stack=1000000",
];

/// Whatever the limit: done, or an error of ours; never a panic, a signal or a broken image.
#[test]
fn limits_are_errors() {
    needs!("sh", "prlimit");
    in_each_mode(|site| {
        let registry = Registry::start();
        site.import(image::small(), "base");
        site.run("push").args(["base", &registry.name("a:1")]).success();
        site.write("context/Dockerfile", "FROM base\nRUN cat /etc/passwd >/made\nCOPY Dockerfile /copied\n");
        let commands = [
            format!("pull {}", registry.name("a:1")),
            "build --rebuild -t out context".to_owned(),
            format!("push base {}", registry.name("b:1")),
            format!("import {} other", image::small().display()),
            "list".to_owned(),
            "fsck --deep".to_owned(),
            "gc".to_owned(),
        ];
        let mut refused = 0;
        for limit in LIMITS {
            for command in &commands {
                let run = site.program("prlimit").arg(limit).arg(site.path("bin/ch-image")).args(command.split(' '));
                let done = run.env("CH_IMAGE_STORAGE", site.storage()).limit(Duration::from_secs(120)).finish();
                let what = format!("{limit}; {command}: {}\n{}", done.status, done.stderr);
                // Past a limit, the program may not even be loaded (127, or a signal of the dynamic linker's).
                if done.stderr.contains("error while loading shared libraries") || is_not_loaded(&done) {
                    continue;
                }
                assert!(matches!(done.status.code(), Some(0 | 1)), "{what}");
                assert!(!done.stderr.contains("panicked"), "{what}");
                assert!(done.status.success() || done.stderr.contains("error: "), "{what}");
                refused += u32::from(!done.status.success());
                site.run("fsck").arg("--deep").success();
            }
        }
        assert!(refused > 10, "only {refused} runs met a limit");
        for command in &commands {
            site.bare().args(command.split(' ')).success();
        }
        let spin = "FROM base\nRUN while true; do true; done\n";
        site.write("context/Dockerfile", spin);
        let script = "ulimit -t 1 && exec $CH build -t spin context";
        let run = site.program("sh").args(["-c", script]).env("CH", site.path("bin/ch-image"));
        run.env("CH_IMAGE_STORAGE", site.storage()).stderr_has("error: ").failure();
        site.run("fsck").arg("--deep").success();
    });
}

/// Ended before `main`: prlimit could not start it, or the kernel or the loader could not.
fn is_not_loaded(done: &Done) -> bool {
    let not_started = matches!(done.status.code(), Some(126 | 127)) && done.stderr.starts_with("prlimit: ");
    not_started || done.status.code().is_none() && done.stderr.is_empty()
}
