//! What the user is told where it could mislead: causes, ways out, and what was done after all.

use crate::harness::registry::Registry;
use crate::harness::{Site, image, in_each_mode};

fn with_base() -> Site {
    let site = Site::new();
    site.import(image::small(), "base");
    site
}

#[test]
fn failures_name_their_cause_alone() {
    let site = with_base();
    let build = |text: &str| site.build("out", &format!("FROM base\n{text}\n"));
    build("RUN exit 7")
        .stderr_lacks("--force")
        .stderr_has("error: build failed: RUN command exited with 7\n")
        .failure();
    build("RUN kill -9 $$")
        .stderr_has("error: build failed: RUN command was killed by signal 9 (SIGKILL)\n")
        .stderr_has("hint: out of memory? ")
        .failure();
    build("RUN sh -c 'kill -9 $$'; exit 137")
        .stderr_has("error: build failed: RUN command exited with 137\n")
        .stderr_has("hint: 137 = 128 + 9: one of its processes was killed by signal 9 (SIGKILL); ")
        .failure();
    // A step before it that --force may have helped has succeeded.
    build("RUN chown 0:0 /etc/passwd\nRUN exit 7").stderr_lacks("--force").failure();
}

/// Before any work, whoever would take it: the file, or a trigger of the base image.
#[test]
fn build_arguments_that_nobody_takes() {
    let site = with_base();
    let build = |text: &str| site.build("out", text).args(["--build-arg", "A=1", "--build-arg", "B=2"]);
    let want = "error: --build-arg: not consumed: B\nhint: no ARG of the Dockerfile has this name\n";
    build("FROM base\nARG A\nRUN echo $A\n").stdout("").stderr_has(want).failure();
    build("FROM scratch\nARG A\n").arg("--jobs=2").stderr_has(want).failure();
    assert_eq!(site.images(), ["base:latest"]);
    site.build("trigger", "FROM base\nONBUILD ARG B\nONBUILD RUN echo $B\n").success();
    build("FROM trigger\nARG A\nRUN echo $A\n").stdout("2\n1\n").success();
}

#[test]
fn images_have_the_names_that_were_said() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.build("a", "FROM base\nRUN echo x >/made\n")
            .args(["-t", "b/c:1"])
            .stderr_has("also named: b/c:1\n")
            .success();
        assert_eq!(site.images(), ["a:latest", "b/c:1", "base:latest"]);
        site.run("delete").arg("a").success();
        site.ch_run("b/c:1").args(["cat", "/made"]).stdout("x\n").success();
        let done = site.run("build").arg("-").stdin("FROM base\n").failure();
        assert!(done.stderr.ends_with("has one\nhint: say -t NAME\n"), "{}", done.stderr);
        site.run("build").args(["-t", "d", "-"]).stdin("FROM base\n").success();
        site.build("e", "FROM base\n").args(["-t", "base"]).stderr_has("output image ref same as FROM").failure();
        assert_eq!(site.images(), ["b/c:1", "base:latest", "d:latest"]);
    });
}

/// Its registry is gone; what is here is known.
#[test]
fn details_of_what_is_here() {
    let site = with_base();
    let registry = Registry::start();
    let name = registry.name("a:1");
    site.run("push").args(["base", &name]).success();
    site.run("pull").arg(&name).success();
    drop(registry);
    let done = site.run("list").arg(&name).stderr_has("warning: can't ask the registry: ").success();
    let tail: Vec<&str> = done.stdout.lines().skip(1).filter(|line| !line.starts_with("host arch")).collect();
    let want = [
        "in local storage:    yes",
        &format!("full remote ref:     {name}"),
        "available remotely:  unknown",
        "remote arch-aware:   unknown",
        "archs available:     unknown",
    ];
    assert_eq!(tail, want);
    site.run("list").args(["--json", &name]).stdout_has("\"available\": null").success();
    site.run("delete").arg(&name).success();
    site.run("list").arg(&name).failure();
}

/// What is freed is counted, also that which is neither layer nor blob.
#[test]
fn freed_bytes_are_counted() {
    let site = with_base();
    let text = "FROM base\nRUN --mount=type=cache,target=/c head -c 3000000 /dev/zero | tr '\\0' x >/c/x\n";
    site.build("out", text).success();
    for (verb, options) in [("would remove", &["-n"][..]), ("removed", &[])] {
        let done = site.run("gc").args(options).success();
        let line = done.stderr.lines().last().unwrap();
        assert!(line.starts_with(verb) && line.ends_with(" 2.9 MiB of them caches and unfinished downloads"), "{line}");
    }
}
