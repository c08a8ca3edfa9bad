//! Do peers share a container (`ch-run --join`)? One for each group: user, job, step, image and options.

use std::fs;
use std::path::Path;

use crate::harness::run::{Run, Running};
use crate::harness::{Site, image, in_each_mode, wait_for};

/// A peer in the site's home directory, which is the same in all containers.
fn peer(site: &Site, options: &[&str], image: &str, script: &str) -> Run {
    let all: Vec<&str> = ["--join"].iter().chain(options).copied().collect();
    site.ch_run_with(&all, image).args(["sh", "-c", &format!("cd && {script}")])
}

const NAMESPACES: &str = "readlink /proc/self/ns/user; readlink /proc/self/ns/mnt";

/// A peer that writes its namespaces to `name` and stays until there is a file `end`.
fn staying(site: &Site, options: &[&str], image: &str, name: &str) -> Run {
    let script = format!("{{ {NAMESPACES}; }} >.{name} && mv .{name} {name}; until test -e end; do sleep 0.05; done");
    peer(site, options, image, &script)
}

fn text(site: &Site, name: &str) -> String {
    let path = site.path("home").join(name);
    wait_for(name, || path.exists());
    fs::read_to_string(path).unwrap()
}

fn end(site: &Site, all: Vec<Running>) {
    site.write("home/end", "");
    for run in all {
        let done = run.into_done(&[]);
        assert_eq!((done.status.code(), done.stderr.as_str()), (Some(0), ""));
    }
    fs::remove_file(site.path("home/end")).unwrap();
}

/// No file is left of a group. (Those of unit tests have their name.)
fn assert_nothing_left() {
    let entries = fs::read_dir("/dev/shm").unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let left: Vec<String> = names.filter(|name| name.starts_with("ch-run") && !name.contains("test")).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn peers_of_a_group_share_a_container() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.import(image::small(), "other");
        let slurm = |run: Run, job: &str, step: &str| run.env("SLURM_JOB_ID", job).env("SLURM_STEP_ID", step);
        let cases: &[(&str, &[&str], &str, &str, &str)] = &[
            ("a0", &[], "base", "1", "0"),
            ("a1", &[], "base", "1", "0"),
            ("a2", &[], "base:latest", "1", "0"),
            ("a3", &["--join-ct=2"], "base", "1", "0"),
            ("job", &[], "base", "2", "0"),
            ("step", &[], "base", "1", "1"),
            ("image", &[], "other", "1", "0"),
            ("user", &["-u0"], "base", "1", "0"),
            ("tmp", &["-t"], "base", "1", "0"),
            ("bind", &["-b", "/usr:/mnt/0"], "base", "1", "0"),
            ("t0", &["--join-tag=t/1"], "base", "1", "0"),
            ("t1", &["--join-tag=t/1"], "base", "2", "7"),
        ];
        let start = |(name, options, image, job, step): &(&str, &[&str], &str, &str, &str)| {
            slurm(staying(site, options, image, name), job, step).start()
        };
        let all: Vec<_> = cases.iter().map(start).collect();
        let found: Vec<_> = cases.iter().map(|(name, ..)| (*name, text(site, name))).collect();
        end(site, all);
        let group = |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
        for (a, of_a) in &found {
            for (b, of_b) in &found {
                assert_eq!(of_a == of_b, group(a) == group(b), "{a} {b}: {found:?}");
            }
        }
        assert_nothing_left();
    });
}

/// Without a launcher those are peers that have the same parent; each starts where the image says, with its environment.
#[test]
fn peers_find_what_the_first_one_does() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.build("out", "FROM base\nRUN mkdir /work\nWORKDIR /work\nENV A=1\n").success();
        let first = staying(site, &[], "out", "first").start();
        text(site, "first");
        let show = || site.ch_run_with(&["--join", "--set-env"], "out").args(["sh", "-c", "echo $A; pwd; cat ~/first"]);
        let namespaces = text(site, "first");
        show().stdout(&format!("1\n/work\n{namespaces}")).stderr("").success();
        let inside = site.ch_run_with(&["--join"], "out").args(["sh", "-c", NAMESPACES]);
        inside.stdout(&namespaces).success();
        // The image is another one now, the container is not.
        site.build("out", "FROM base\nRUN echo new >/new\n").success();
        site.ch_run_with(&["--join"], "out").args(["cat", "/new"]).stdout("new\n").success();
        end(site, vec![first]);
    });
}

/// Ranks that have nothing to do: the first may be gone before the second one looks.
#[test]
fn short_peers_at_once() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        for round in 0..8 {
            let all: Vec<_> = (0..6).map(|_| peer(site, &["--join-ct=6"], "base", "echo here").start()).collect();
            for run in all {
                let done = run.into_done(&[]);
                let all = (done.status.code(), done.stdout.as_str(), done.stderr.as_str());
                assert_eq!(all, (Some(0), "here\n", ""), "round {round}");
            }
            assert_nothing_left();
        }
    });
}

/// The container lives as long as somebody is in it, whoever that is.
#[test]
fn killed_peers() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let mut first = staying(site, &[], "base", "first").start();
        let namespaces = text(site, "first");
        let mut second = staying(site, &[], "base", "second").start();
        assert_eq!(text(site, "second"), namespaces);
        first.kill();
        let mut third = staying(site, &[], "base", "third").start();
        assert_eq!(text(site, "third"), namespaces);
        let pids: Vec<u32> = [&first, &second, &third].iter().map(|run| run.child.id()).collect();
        second.kill();
        third.kill();
        // What they had started looks for the end now and then.
        site.write("home/end", "");
        wait_for("their children", || !pids.iter().any(|pid| Path::new("/proc").join(pid.to_string()).exists()));
        fs::remove_file(site.path("home/end")).unwrap();
        assert_nothing_left();
        let fourth = staying(site, &[], "base", "fourth").start();
        text(site, "fourth");
        end(site, vec![fourth]);
        assert_nothing_left();
    });
}

/// A first peer that can't make its container, or has no such command, keeps nobody waiting.
#[test]
fn a_first_peer_that_fails() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let run = |command: &str| site.ch_run_with(&["--join"], "base").arg(command);
        let all: Vec<_> = (0..6).map(|n| run(if n % 2 == 0 { "/none" } else { "true" }).start()).collect();
        for (n, run) in all.into_iter().enumerate() {
            assert_eq!(run.into_done(&[]).status.code(), Some(if n % 2 == 0 { 127 } else { 0 }), "{n}");
        }
        site.ch_run_with(&["--join-ct=0"], "base").arg("true").stderr_has("must be at least 1").ch_run_failure();
        site.ch_run_with(&["--join-pid=999999999"], "base").arg("true").stderr_has("no such process").ch_run_failure();
        assert_nothing_left();
    });
}

/// One of several that a launcher has started.
fn rank(run: Run, launcher: &str, n: usize) -> Run {
    let n = n.to_string();
    match launcher {
        "slurm" => run.env("SLURM_JOB_ID", "1").env("SLURM_STEP_ID", "0").env("SLURM_PROCID", n),
        "openmpi" => run.env("PMIX_NAMESPACE", "prte@1").env("OMPI_COMM_WORLD_RANK", n),
        "hydra" => run.env("PMI_RANK", n),
        "pals" => run.env("PALS_APID", "a").env("PALS_RANKID", n),
        _ => run,
    }
}

/// Whatever the image is, all ranks of a step on a node share one container without being asked to: a packed image is
/// mounted once.
#[test]
fn ranks_share_a_container() {
    crate::packed_runs::needs_fuse!();
    let site = Site::new();
    let image = crate::packed_runs::packed(&site, image::small(), &[]);
    let shown = image.to_str().unwrap();
    let start = |options: &[&str], image: &str, launcher: &str, n: usize| {
        let script = format!("cd && {{ {NAMESPACES}; }} >.{n} && mv .{n} {n}; until test -e end; do sleep 0.05; done");
        rank(site.ch_run_with(options, image).args(["sh", "-c", &script]), launcher, n).start()
    };
    let check = |options: &[&str], image: &str, launcher: &str, want: usize| {
        let all: Vec<_> = (0..4).map(|n| start(options, image, launcher, n)).collect();
        let found: Vec<String> = (0..4).map(|n| text(&site, &n.to_string())).collect();
        let different: std::collections::HashSet<&String> = found.iter().collect();
        assert_eq!(different.len(), want, "{options:?} {image} {launcher}");
        if image == shown {
            assert_eq!(crate::packed_runs::servers(image.as_ref()).len(), want, "{options:?} {launcher}");
        }
        end(&site, all);
        for n in 0..4 {
            fs::remove_file(site.path("home").join(n.to_string())).unwrap();
        }
        // Only files have servers, and only a whole path tells theirs from any other process.
        if image == shown {
            crate::packed_runs::assert_no_server(image.as_ref());
        }
    };
    for launcher in ["slurm", "openmpi", "hydra", "pals"] {
        check(&[], shown, launcher, 1);
    }
    check(&["--no-join"], shown, "slurm", 4);
    check(&[], shown, "none", 4);
    check(&["--join"], shown, "none", 1);
    let dir = site.path("dir");
    site.run("export").args(["--format", "dir", "base"]).arg(&dir).success();
    // The first time, one copies and the others say that they wait.
    site.ch_run_with(&["-w"], "base").arg("true").success();
    for image in ["base", dir.to_str().unwrap()] {
        check(&[], image, "none", 4);
        check(&["--no-join"], image, "slurm", 4);
        for launcher in ["slurm", "openmpi", "hydra", "pals"] {
            check(&[], image, launcher, 1);
        }
        for options in [&["-w"][..], &["-W"]] {
            check(options, image, "slurm", 1);
        }
    }
    check(&["--overlay", site.path("kept").to_str().unwrap()], "base", "slurm", 1);
    assert_nothing_left();
}

/// Ranks of one step with another image or other options, or on another node, have their own container: also those of two
/// jobs of one user at once.
#[test]
fn other_ranks_have_their_own_container() {
    let site = Site::new();
    site.import(image::small(), "base");
    site.build("other", "FROM base\nRUN echo other >/name\n").success();
    let start = |name: &str, options: &[&str], image: &str, (job, node): (&str, &str)| {
        let script =
            format!("cd && {{ {NAMESPACES}; }} >.{name} && mv .{name} {name}; until test -e end; do sleep 0.05; done");
        let run = rank(site.ch_run_with(options, image).args(["sh", "-c", &script]), "slurm", 0);
        run.env("SLURM_JOB_ID", job).env("SLURM_NODEID", node).start()
    };
    let all = vec![
        start("a0", &[], "base", ("1", "0")),
        start("a1", &["--set-env=A=b", "--cd", "/usr"], "base", ("1", "0")),
        start("image", &[], "other", ("1", "0")),
        start("tmp", &["-t"], "base", ("1", "0")),
        start("write", &["-W"], "base", ("1", "0")),
        start("node", &[], "base", ("1", "1")),
        start("job", &[], "base", ("2", "0")),
    ];
    let names = ["a1", "image", "tmp", "write", "node", "job"];
    let found: Vec<String> = names.iter().map(|name| text(&site, name)).collect();
    let different: std::collections::HashSet<&String> = found.iter().collect();
    assert_eq!(different.len(), names.len(), "{found:?}");
    assert_eq!(text(&site, "a0"), found[0]);
    end(&site, all);
    assert_nothing_left();
}

/// A rank that is killed, the first one included and at any moment, neither holds up nor breaks the others.
#[test]
fn killed_ranks() {
    crate::packed_runs::needs_fuse!();
    let site = Site::new();
    let packed = crate::packed_runs::packed(&site, image::small(), &[]);
    for round in 0..30 {
        let image = if round % 3 == 0 { Path::new("base") } else { packed.as_path() };
        let start = |n: usize| {
            let run = site.ch_run(image.to_str().unwrap()).args(["sh", "-c", "cat /etc/group | wc -l"]);
            rank(run, "slurm", n).start()
        };
        let mut first = start(0);
        let others: Vec<_> = (1..4).map(start).collect();
        std::thread::sleep(std::time::Duration::from_micros(600 * round));
        first.kill();
        for other in others {
            let done = other.into_done(&[]);
            assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("3\n", ""), "round {round}");
        }
        crate::packed_runs::assert_no_server(&packed);
    }
    assert_nothing_left();
}
