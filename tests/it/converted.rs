//! The original's names for what `export` and `import` do: `ch-convert` and those that it replaced.

use std::fs;

use crate::harness::{Run, Site, image, in_each_mode};

/// A site with an image `a/small`.
fn prepare(site: &Site) {
    site.import(image::small(), "small");
    site.build("a/small", "FROM small\nENV OURS=yes\n").success();
    fs::create_dir(site.path("out")).unwrap();
}

fn program(site: &Site, name: &str) -> Run {
    site.program(name).env("CH_IMAGE_STORAGE", site.storage())
}

/// As the tutorial of the original has it: build, pack, unpack where it is to run, run.
#[test]
fn the_workflow_of_the_manual_page() {
    in_each_mode(|site| {
        prepare(site);
        let images = site.images();
        program(site, "ch-builder2tar").args(["-b", "ch-image", "a/small", "out"]).success();
        assert_eq!(&fs::read(site.path("out/a%small.tar.gz")).unwrap()[..2], [0x1f, 0x8b]);
        program(site, "ch-tar2dir").args(["out/a%small.tar.gz", "out"]).success();
        program(site, "ch-builder2squash").args(["a/small", "out", "-comp", "gzip", "-noappend"]).success();
        program(site, "ch-dir2squash").args(["out/a%small", "."]).success();
        // Nothing stays in storage that was not there.
        assert_eq!(site.images(), images);
        for made in ["./out/a%small", "./out/a%small.sqfs", "./a%small.sqfs"] {
            let run = site.ch_run_with(&["--set-env", "--no-mount"], made).args(["/bin/sh", "-c", "echo $OURS"]);
            run.stdout("yes\n").success();
        }
        program(site, "ch-builder2tar").args(["--nocompress", "a/small", "out"]).success();
        assert_eq!(&fs::read(site.path("out/a%small.tar")).unwrap()[257..262], b"ustar");
    });
}

#[test]
fn formats_are_told_by_names() {
    let site = Site::new();
    prepare(&site);
    let convert = |args: &[&str]| program(&site, "ch-convert").args(args);
    convert(&["-n", "a/small", "x.sqfs"]).stderr_has("output:  squash    x.sqfs\n").success();
    assert!(!site.path("x.sqfs").exists());
    convert(&["-q", "a/small", "x.sqfs"]).stderr("").success();
    convert(&["--no-clobber", "a/small", "x.sqfs"]).stderr_has("exists already").failure();
    convert(&["a/small", "x.sqfs"]).success();
    convert(&["x.sqfs", "./x"]).success();
    convert(&["./x", "x.tar"]).success();
    convert(&["x.tar", "back"]).success();
    convert(&["--no-clobber", "x.tar", "back"]).stderr_has("not replaced per --no-clobber: back").failure();
    site.ch_run_with(&["--set-env"], "back").args(["/bin/sh", "-c", "echo $OURS"]).stdout("yes\n").success();
    convert(&["-i", "podman", "x", "./y"]).stderr_has("hint: save it there (docker save, podman save)").usage();
    convert(&["--help"]).stdout_has("Usage: ch-convert").success();
}
