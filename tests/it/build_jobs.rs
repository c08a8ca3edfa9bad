//! `--jobs`: the same image and the same numbers as one stage after another, in less time; and all ends together.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::harness::wait::{endless, running};
use crate::harness::{Tree, image, in_each_mode, wait_for};

const STAGES: &str = "ARG who=world\n\
    FROM base AS common\nENV A=1 B=2\nARG who\nWORKDIR /w\nONBUILD RUN echo triggered >trigger\n\
    FROM common AS One\nRUN echo one $who $(cat trigger) >f; echo said; echo complained >&2\n\
    FROM common\nRUN echo two $A >f\n\
    FROM base AS unused\nRUN exit 1\n\
    FROM one\nCOPY --from=2 /w/f /copy\nRUN --mount=from=common,target=/m cat f /copy >/all; printf 'no end of line'\n";

fn files(tree: &Tree) -> Vec<String> {
    tree.0.iter().map(|(name, entry)| format!("{name} {:o} {:?}", entry.mode, entry.kind)).collect()
}

#[test]
fn stages_side_by_side() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let alone = site.build("out", STAGES).success();
        let expected = files(&site.tree("out"));
        site.run("delete").arg("out").success();
        let log = site.path("log");
        let build = || site.build("out", STAGES).args(["--rebuild", "--jobs", "3"]);
        let done = build().stdout_has("[one] said\n").stdout_has("[stage 4] no end of line\n").success();
        assert_eq!(files(&site.tree("out")), expected);
        assert!(done.stderr.contains("[one] complained\n"), "{}", done.stderr);
        let end = "grown in 16 instructions: out\n";
        assert!(alone.stderr.ends_with(end) && done.stderr.ends_with(end), "{}\n{}", alone.stderr, done.stderr);
        // Every line of a stage has its name, and every instruction its number.
        let numbered = |text: &str| {
            let of_line =
                |line: &str| Some(line.trim_start().replace("* ", " ")).filter(|l| l.starts_with(char::is_numeric));
            let mut lines: Vec<String> = text.lines().filter_map(of_line).collect();
            lines.sort();
            lines
        };
        let named = |line: &str| {
            line.split_once("] ").filter(|(name, _)| name.starts_with('[')).map(|(_, rest)| rest.to_owned())
        };
        let unnamed: String = done.stderr.lines().map(|line| named(line).unwrap_or(line.into()) + "\n").collect();
        assert_eq!(numbered(&unnamed), numbered(&alone.stderr));
        let without: Vec<&str> = done.stderr.lines().filter(|line| named(line).is_none()).collect();
        assert_eq!(without, ["  1 ARG who=world", end.trim_end()]);
        // What goes to a log file has the name there.
        build().env("CH_LOG_FILE", &log).success();
        let log = fs::read_to_string(log).unwrap();
        assert!(log.contains("[one]  10 RUN ") && log.contains("[stage 4]  16 RUN "), "{log}");
        assert_eq!(fs::read_dir(site.storage().join("tmp")).unwrap().count(), 0);
    });
}

/// Each of two stages waits until the other has begun.
#[test]
fn stages_at_the_same_time() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        fs::create_dir(site.path("bound")).unwrap();
        let meet = |own: &str, other: &str| {
            format!("RUN touch /mnt/0/{own}; until test -e /mnt/0/{other}; do sleep 0.1; done\n")
        };
        let dockerfile = format!(
            "FROM base AS a\n{}FROM base AS b\n{}FROM base\nCOPY --from=a /etc/passwd /1\nCOPY --from=b /etc/passwd /2\n",
            meet("a", "b"),
            meet("b", "a")
        );
        site.build("out", &dockerfile)
            .args(["--jobs", "2", "--bind", &format!("{}:/mnt/0", site.path("bound").display())])
            .limit(Duration::from_secs(300))
            .success();
        assert!(site.tree("out").0.contains_key("2"));
    });
}

#[test]
fn one_failure_ends_all() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let dockerfile = "FROM base AS good\nRUN sleep 6000\nFROM base AS bad\nRUN exit 5\n\
                          FROM base\nCOPY --from=good / /\nCOPY --from=bad / /\n";
        site.build("out", dockerfile)
            .args(["--jobs", "2"])
            .stderr_has("\nerror: stage bad: build failed: RUN command exited with 5\n")
            .stderr_has(": RUN: the command was: ['/bin/sh', '-c', 'exit 5']\n")
            .stderr_has("\nhint: ")
            .stderr_lacks("error: stage good")
            .failure();
        assert!(!site.images().contains(&"out:latest".to_owned()));
        assert_eq!(fs::read_dir(site.storage().join("tmp")).unwrap().count(), 0);
    });
}

#[test]
fn a_signal_ends_all() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        fs::create_dir(site.path("bound")).unwrap();
        let endless = endless();
        let wait = |n: u32| format!("FROM base AS s{n}\nRUN touch /mnt/0/{n}; {endless}\n");
        let dockerfile = format!("{}{}FROM base\nCOPY --from=s1 / /\nCOPY --from=s2 / /\n", wait(1), wait(2));
        let bind = format!("{}:/mnt/0", site.path("bound").display());
        for (signal, code) in [("TERM", Some(143)), ("KILL", None)] {
            site.write("context/Dockerfile", &dockerfile);
            let build = site.heeding_signals().args(["build", "-t", "out", "--jobs", "4", "--bind", &bind]);
            let building = build.arg(site.path("context")).start();
            wait_for("both stages to begin", || fs::read_dir(site.path("bound")).unwrap().count() == 2);
            let pid = building.child.id().to_string();
            assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
            let done = building.into_done(&[]);
            assert_eq!(done.status.code(), code, "{}", done.stderr);
            // Neither workers nor commands.
            let here = site.path("").display().to_string();
            wait_for("all to end", || running(|line| line.contains(&here) || line.contains(&endless)).is_empty());
            fs::remove_file(site.path("bound/1")).unwrap();
            fs::remove_file(site.path("bound/2")).unwrap();
        }
    });
}

/// What the triggers of a base image want of the file's stages and of `--build-arg`.
#[test]
fn triggers_of_a_base_image() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.build(
            "on",
            "FROM base\nONBUILD ARG v\nONBUILD COPY --from=made /made /copy\nONBUILD RUN echo $v >>/copy\n",
        )
        .success();
        for jobs in ["1", "2"] {
            site.build("out", "FROM base AS made\nRUN echo made >/made\nFROM on\nRUN cat /copy\n")
                .args(["--rebuild", "--build-arg", "v=2", "--jobs", jobs])
                .stdout_has("made\n")
                .success();
            site.ch_run("out").args(["cat", "/copy"]).stdout("made\n2\n").success();
        }
    });
}
