//! Command lines that other people's scripts have for newer versions of Charliecloud (0.26 to 0.40): they work as they are.

use std::fs;

use crate::harness::registry::Registry;
use crate::harness::{Site, hold, image, in_each_mode};
use crate::needs;

/// An image with a shell, in a registry; its name there.
fn held(registry: &Registry, rest: &str) -> String {
    let layer = fs::read(image::small()).unwrap();
    let (repository, tag) = rest.split_once(':').unwrap();
    hold::image(registry, repository, tag, &hold::config(None, &[&layer]), &[&layer]);
    registry.name(rest)
}

/// A word that is no path is a name, where 0.25 has a directory.
#[test]
fn pull_under_another_name() {
    in_each_mode(|site| {
        let registry = Registry::start();
        let name = held(&registry, "a/tool:1.0");
        let pull = |words: &[&str]| site.run("pull").args(["-a", "yolo"]).args(words);
        pull(&[&name, "tool"]).stderr_has("destination:      tool\n").success();
        assert_eq!(site.images(), ["tool:latest"]);
        site.ch_run("tool").arg("true").success();
        // It is known where it came from: what is current is not pulled again.
        pull(&[&name, "tool"]).stderr_has("image is current").success();
        pull(&[&name, "x/y:2"]).success();
        assert_eq!(site.images(), ["tool:latest", "x/y:2"]);
        pull(&[&name, "./dir"]).success();
        pull(&[&name, "dir2"]).env("CH_COMPAT", "0.25").success();
        for dir in ["dir", "dir2"] {
            assert!(site.path(dir).join("bin").is_dir(), "{dir}");
        }
        pull(&[&name, "No Name"]).stderr_has("image ref syntax, char 3: No Name").failure();
        assert_eq!(site.images(), ["tool:latest", "x/y:2"]);
    });
}

#[test]
fn delete_by_wildcards() {
    let site = Site::new();
    site.import(image::small(), "one");
    for name in ["two", "three:3", "x/two:2"] {
        site.build(name, "FROM one\n").success();
    }
    site.run("delete").arg("nothing*").stderr_has("error: no image fits nothing*\n").failure();
    site.run("delete").args(["t*", "nothing*"]).failure();
    assert_eq!(site.images(), ["one:latest", "three:3", "two:latest", "x/two:2"]);
    site.run("delete").args(["t?o", "*:3", "three:3"]).success();
    assert_eq!(site.images(), ["one:latest", "x/two:2"]);
    site.run("delete").arg("*").success();
    assert!(site.images().is_empty());
}

/// Options of ch-run that only ask, or that have nothing to do here.
#[test]
fn features_and_mount_points() {
    let site = Site::new();
    site.import(image::small(), "base");
    let feature = |name: &str| site.program("ch-run").args(["--feature", name]).stdout("").stderr("");
    feature("squash").success();
    feature("extglob").code(87);
    feature("seccomp").code(87);
    for name in ["overlayfs", "tmpfs-xattrs"] {
        let code = feature(name).finish().status.code();
        assert!([Some(0), Some(87)].contains(&code), "{name}: {code:?}");
    }
    let unknown = site.program("ch-run").arg("--feature=x").stderr_has("--feature: unknown feature: x");
    unknown.ch_run_failure();
    site.ch_run_with(&["-m", "/var/tmp/mnt"], "base").arg("true").success();
    site.ch_run_with(&["--mount=/var/tmp/mnt"], "base").arg("true").success();
}

/// What Nextflow writes into a task's script for Charliecloud, with its cache directory; it asks for these names there.
#[test]
fn nextflow_runs_unchanged() {
    needs!("bash");
    crate::packed_runs::needs_fuse!();
    let (site, registry) = (Site::new(), Registry::start());
    let remote = held(&registry, "biocontainers/tool:1.0--h1_0");
    let entry = remote.replace(':', "+").replace('/', "%");
    fs::create_dir(site.path("work")).unwrap();
    let bash = |script: &str| {
        let script = script.replace("CACHE", site.path("cache").to_str().unwrap()).replace("NAME", &entry);
        let path = format!("{}:/usr/bin:/bin", site.path("bin").display());
        let bash = site.program("bash").args(["-euc", &script]).env("PATH", path);
        bash.env("CH_IMAGE_STORAGE", site.path("cache"))
            .env("NXF_TASK_WORKDIR", site.path("work"))
            .env("NXF_DEBUG", "0")
    };
    // A directory that exists without these is refused.
    bash(&format!("unset CH_IMAGE_STORAGE; ch-image pull -s CACHE {remote} > /dev/null")).success();
    bash("test -e CACHE/img && test -e CACHE/dlcache && test -e CACHE/img/NAME").success();
    let task = "-b \"$NXF_TASK_WORKDIR\"  IMAGE -- /bin/sh -c 'echo \"$A|$NXF_DEBUG|${HOME_OF_HOST-}|$(pwd)\"; echo out >out; SCRIPT'";
    let run = |options: &str, image: &str, script: &str| {
        let line = format!(
            "ch-run --unset-env=\"*\" -c \"$NXF_TASK_WORKDIR\" --set-env {options}--set-env=A=b ${{NXF_DEBUG:+--set-env=NXF_DEBUG=$NXF_DEBUG}} {task}"
        );
        line.replace("IMAGE", image).replace("SCRIPT", script)
    };
    let says = "b|0||SITE/work\n";
    let check = |script: String| {
        let _ = fs::remove_file(site.path("work/out"));
        bash(&script).env("HOME_OF_HOST", "leaked").stdout(says).success();
        assert_eq!(fs::read_to_string(site.path("work/out")).unwrap(), "out\n");
    };
    // With writeFake: by name, written to and forgotten; -w or not.
    for options in ["--write-fake -w ", "--write-fake "] {
        check(run(options, "NAME", "touch /usr/new && test ! -e /usr/seen"));
        check(run(options, "CACHE/img/NAME", "touch /usr/seen"));
    }
    // Without: a copy in the task's directory, as a directory or a packed image.
    let copy = "ch-convert -i ch-image --storage CACHE NAME \"$NXF_TASK_WORKDIR\"/container_NAME";
    check(format!("{copy} && {}", run("-w ", "\"$NXF_TASK_WORKDIR\"/container_NAME", "touch /usr/new")));
    assert!(site.path(&format!("work/container_{entry}/usr/new")).exists());
    check(format!("{copy}.squashfs && {}", run("", "\"$NXF_TASK_WORKDIR\"/container_NAME.squashfs", "true")));
    // An image that is deleted is not there for Nextflow either.
    bash("ch-image -s CACHE delete NAME && test ! -e CACHE/img/NAME").success();
}
