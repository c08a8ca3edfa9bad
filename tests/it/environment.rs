//! What does a command of `ch-run` find in its environment?

use std::fs;

use crate::ch_run::forms;
use crate::harness::{Run, Site, image, in_each_mode};

/// Sorted, without what shells add.
fn variables(run: Run) -> String {
    let done = run.args(["sh", "-c", "env | grep -vE '^(_|PWD|SHLVL|OLDPWD|CH_IMAGE_.*)=' | sort"]).success();
    done.stdout.lines().collect::<Vec<_>>().join(" ")
}

/// The image's variables apply without being asked for, in whatever form it is run.
#[test]
fn the_images_variables_apply() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let script = "FROM base\nENV PATH=/opt/bin:/bin A=image Q='$x' HOME=/root SLURM_NODEID=7\n\
                      RUN mkdir -p /opt/bin && printf '#!/bin/sh\\necho mine\\n' >/opt/bin/own && chmod 755 /opt/bin/own\n";
        site.build("own", script).success();
        for image in forms(site, "own") {
            let image = image.to_str().unwrap();
            let check = |options: &[&str], want: &str| {
                let run = site.ch_run_with(options, image).env("A", "host").env("B", "host").env("TERM", "vt100");
                let run = run.env("SLURM_NODEID", "1").env("PYTHONPATH", "/none").env("LD_PRELOAD", "");
                assert_eq!(variables(run), want, "{options:?} {image}");
            };
            let path = "PATH=/opt/bin:/bin";
            let rest = "CH_RUNNING=Weird Al Yankovic HOME=/home/tester LANG=C.UTF-8";
            check(&[], &format!("A=image B=host {rest} {path} Q=$x SLURM_NODEID=1 TERM=vt100 USER=tester"));
            check(&["--env", "clean"], &format!("A=image {rest} {path} Q=$x SLURM_NODEID=1 TERM=vt100 USER=tester"));
            check(
                &["--env=clean", "-e", "[BP]*", "-e", "C='x'", "--env", "D=$A"],
                &format!(
                    "A=image B=host C='x' {rest2} PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
                     PYTHONPATH=/none Q=$x SLURM_NODEID=1 TERM=vt100 USER=tester",
                    rest2 = rest.replace("HOME", "D=$A HOME")
                ),
            );
            check(
                &["--env", "host"],
                &format!(
                    "A=host B=host {rest} LD_PRELOAD= PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
                     PYTHONPATH=/none SLURM_NODEID=1 TERM=vt100 USER=tester"
                ),
            );
            check(&["--unset-env=*", "-e", "PATH=/bin"], "CH_RUNNING=Weird Al Yankovic PATH=/bin");
            check(
                &["--no-home", "--unset-env=[!HC]*", "-e", "PATH=/bin"],
                "CH_RUNNING=Weird Al Yankovic HOME=/root PATH=/bin",
            );
            site.ch_run(image).arg("own").stdout("mine\n").stderr("").success();
            let none = "not found in PATH, which is /opt/bin:/bin; ";
            site.ch_run(image).arg("none").stderr_has(none).code(127);
            // Scripts for the original find what they have always found, and hear nothing.
            for version in ["0.25", "0.40"] {
                let run = |options: &[&str]| {
                    let run = site.ch_run_with(options, image).env("CH_COMPAT", version).env("A", "host");
                    run.env("LD_LIBRARY_PATH", "/none").args(["sh", "-c", "echo $A,$Q,$LD_LIBRARY_PATH"]).stderr("")
                };
                run(&[]).stdout("host,,/none\n").success();
                run(&["--set-env", "--env-no-expand"]).stdout("image,$x,/none\n").success();
                run(&["--env", "image"]).stdout("image,$x,\n").success();
            }
        }
    });
}

/// Where the host's programs find their libraries says nothing about the image.
#[test]
fn what_breaks_programs_of_an_image() {
    let site = Site::new();
    site.import(image::small(), "base");
    let run = |options: &[&str]| {
        let run = site.ch_run_with(options, "base").args(["sh", "-c", "echo $LD_LIBRARY_PATH,$PYTHONNOUSERSITE"]);
        let lib = format!("{}:/opt/cray/lib", site.path("lib").display());
        run.env("LD_LIBRARY_PATH", lib).env("PYTHONNOUSERSITE", "1")
    };
    run(&[]).stdout(",1\n").stderr("").success();
    run(&["--env", "clean"]).stdout(",\n").stderr("").success();
    let missing =
        |path: &str| format!("warning: LD_LIBRARY_PATH of the host names {path}, which is not in the container\n");
    let kept = "SITE/lib:/opt/cray/lib,1\n";
    run(&["--env", "host"]).stdout(kept).stderr(&missing("SITE/lib")).success();
    run(&["-e", "LD_*"]).stdout(kept).stderr(&missing("SITE/lib")).success();
    // What is bound is there.
    fs::create_dir(site.path("lib")).unwrap();
    let bind = format!("{0}:{0}", site.path("lib").display());
    run(&["-W", "-b", &bind, "-e", "LD_*"]).stdout(kept).stderr(&missing("/opt/cray/lib")).success();
}

/// `-v` says of each variable where it came from, and no values.
#[test]
fn origins_are_told() {
    let site = Site::new();
    site.import(image::small(), "base");
    site.build("own", "FROM base\nENV A=image\n").success();
    let file = site.write("env", "X=1\nY=2\n");
    let file = format!("--set-env={}", file.display());
    let run = site.ch_run_with(&["-v", "-e", "E=secret", "--set-env=S=1", &file], "own").arg("true");
    let done = run.env("LD_PRELOAD", "").env("SECRET", "secret").success();
    let lines: Vec<_> = done.stderr.lines().filter(|line| line.starts_with("environment: ")).collect();
    let want = [
        "environment: from --env: E",
        "environment: from --set-env: S",
        "environment: from SITE/env:1: X",
        "environment: from SITE/env:2: Y",
        "environment: from ch-run: CH_RUNNING HOME",
        "environment: from the host: CH_IMAGE_STORAGE LANG SECRET USER",
        "environment: from the image: A PATH",
        "environment: left out: LD_PRELOAD",
    ];
    assert_eq!(lines, want);
    assert!(!done.stderr.contains("secret"), "{}", done.stderr);
}

/// `env -0 >FILE` keeps values with line breaks.
#[test]
fn files_with_nul() {
    let site = Site::new();
    site.import(image::small(), "base");
    let file = site.write("env", "A=one\ntwo\0B=$A\0");
    let file = format!("--set-env0={}", file.display());
    let script = ["sh", "-c", "echo \"$A|$B\""];
    site.ch_run_with(&[&file], "base").args(script).stdout("one\ntwo|one\ntwo\n").success();
    site.ch_run_with(&["--env-no-expand", &file], "base").args(script).stdout("one\ntwo|$A\n").success();
    site.ch_run_with(&["--set-env0=B=b"], "base").args(script).stdout("|b\n").success();
}
