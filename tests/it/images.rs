//! Are images kept, listed, deleted as the manual page says?

use std::fs;
use std::process::Command;

use crate::harness::{Tree, image, in_each_mode};

#[test]
fn import_list_run_delete() {
    in_each_mode(|site| {
        site.run("list").stdout("").success();
        site.run("import").arg(image::small()).arg("base").stdout("").stderr_has("done\n").success();
        site.run("import").arg(image::small()).arg("registry.example.com:5000/a/b:1.2").success();
        let arch = site.run("list").success().stdout;
        let arch = arch.lines().next().unwrap().split(' ').next_back().unwrap().to_owned();
        let list = format!("base:latest {arch}\nregistry.example.com:5000/a/b:1.2 {arch}\n");
        site.run("list").stdout(&list).stderr("").success();
        site.ch_run("base").args(["sh", "-c", "echo $((6 * 7)); exit 3"]).stdout("42\n").code(3);
        site.run("delete").arg("base").stderr("deleting image: base\n").success();
        assert_eq!(site.images(), ["registry.example.com:5000/a/b:1.2"]);
        site.ch_run("base").arg("true").stderr_has("base").ch_run_failure();
        site.run("delete")
            .arg("base")
            .stdout("")
            .stderr("error: base image not found\nhint: ch-image list shows what there is\n")
            .failure();
        // The same layer under another name is still whole.
        site.ch_run("registry.example.com:5000/a/b:1.2").args(["sh", "-c", "echo here"]).stdout("here\n").success();
    });
}

#[test]
fn imported_trees_are_the_same() {
    in_each_mode(|site| {
        let source = Tree::of_tarball(image::small()).unprivileged().without(crate::harness::Site::GIVEN);
        let check = |name: &str| {
            // Making the standard mount points changes the times of these directories.
            let (tree, source) = (site.tree(name).without(&["etc"]), source.clone().without(&["etc"]));
            // tar doesn't restore the times of directories that a tarball comes back to.
            match name {
                "plain" | "gzip" => tree.assert_same(&source, name),
                _ => tree.without_dir_times().assert_same(&source.without_dir_times(), name),
            }
        };
        site.import(image::small(), "plain");
        check("plain");

        let gzip = site.path("image.tar.gz");
        site.program("gzip").arg("-nc").arg(image::small()).into_file(&gzip).success();
        site.import(&gzip, "gzip");
        check("gzip");

        let dir = site.path("unpacked");
        fs::create_dir(&dir).unwrap();
        site.program("tar").arg("-C").arg(&dir).arg("-xpf").arg(image::small()).success();
        site.import(&dir, "dir");
        check("dir");

        // "A standard tarball with one top-level directory."
        let one_top = site.path("top.tar");
        site.program("tar").arg("-C").arg(site.path("")).arg("-cf").arg(&one_top).arg("unpacked").success();
        site.import(&one_top, "one-top");
        check("one-top");
    });
}

/// Modes, links, names, sizes that make trees hard to copy. The image has no shell: its tree is looked at by way of a
/// build that copies it.
#[test]
fn odd_trees_are_the_same() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.import(image::odd(), "odd");
        site.build(
            "both",
            "FROM odd AS odd\nFROM base\nCOPY --from=odd / /odd/\nRUN tar -C /odd -cf /odd.tar bin etc shut usr\n",
        )
        .success();
        let tar = site.path("odd.tar");
        site.ch_run("both").args(["cat", "/odd.tar"]).into_file(&tar).success();
        let left_out = ["etc/hosts", "etc/resolv.conf", "etc/machine-id"];
        let expected = Tree::of_tarball(image::odd()).unprivileged().without(&["dev"]).without_dir_times();
        Tree::of_tarball(&tar).without(&left_out).without_dir_times().assert_same(&expected, "odd");
    });
}

#[test]
fn what_cannot_be_imported() {
    in_each_mode(|site| {
        site.run("import").args(["/nonexistent/x.tar", "x"]).stderr_has("/nonexistent/x.tar").failure();
        let garbage = site.write("garbage.tar", &"not a tarball ".repeat(100));
        site.run("import").arg(&garbage).arg("x").stderr_has("SITE/garbage.tar").failure();
        let bytes = fs::read(image::small()).unwrap();
        let cut = site.path("cut.tar");
        fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
        site.run("import").arg(&cut).arg("x").stderr_has("SITE/cut.tar").failure();
        site.run("import").arg(image::small()).arg("UPPER:case:wrong").stderr_has("UPPER:case:wrong").failure();
        assert_eq!(site.images(), [""; 0]);
    });
}

#[test]
fn reset_removes_only_what_is_ours() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.run("reset").success();
        assert_eq!(site.images(), [""; 0]);
        site.import(image::small(), "base");
        assert_eq!(site.images(), ["base:latest"]);

        let foreign = site.write("foreign/thesis.tex", "years of work");
        let dir = foreign.parent().unwrap();
        site.run("reset").arg("-s").arg(dir).stderr_has("SITE/foreign").failure();
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "years of work");
        site.run("list").arg("-s").arg(dir).stderr_has("SITE/foreign").failure();
    });
}

#[test]
fn deleting_frees_the_space() {
    in_each_mode(|site| {
        let size = || {
            let du = Command::new("du").arg("-sk").arg(site.storage()).output().unwrap();
            String::from_utf8(du.stdout).unwrap().split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        site.import(image::small(), "base");
        site.run("delete").arg("base").success();
        let empty = size();
        site.import(image::small(), "base");
        let full = size();
        assert!(full > empty + 500, "an image takes {} KiB", full - empty);
        site.run("delete").arg("base").success();
        assert!(size() < empty + 100, "{} KiB are left of {full}", size() - empty);
    });
}
