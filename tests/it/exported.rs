//! Do images leave storage as tarballs, directories, Docker archives and OCI layouts, which others read, and come back?

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Site, Tree, image, in_each_mode};
use crate::{needs, skip};

fn source() -> Tree {
    Tree::of_tarball(image::odd()).unprivileged().without(Site::GIVEN).without_dir_times()
}

const DOCKERFILE: &str = "FROM odd\nENV OURS=yes\nWORKDIR /etc\nCMD [\"true\"]\nLABEL a=b\n";

/// The image in storage: its configuration, as `import` may restore it, and its files.
fn check(site: &Site, name: &str) {
    let document = crate::build_cases::document(site, name);
    let config = &document["config"]["config"];
    assert!(config["Env"].as_array().unwrap().contains(&"OURS=yes".into()), "{name}: {document}");
    assert_eq!(
        (&config["WorkingDir"], &config["Cmd"][0], &config["Labels"]["a"]),
        (&"/etc".into(), &"true".into(), &"b".into())
    );
}

#[test]
fn every_format_comes_back() {
    in_each_mode(|site| {
        site.import(image::odd(), "odd");
        site.build("ours", DOCKERFILE).success();
        let at = |name: &str| site.path(name).display().to_string();
        let operands = [
            at("a.tar"),
            at("a.tar.gz"),
            at("a.tgz"),
            at("a.tar.zst"),
            at("directory/"),
            format!("docker-archive:{}", at("docker")),
            format!("docker-archive:{}:x:1", at("docker-named")),
            format!("oci-archive:{}", at("oci")),
            format!("oci-archive:{}:1", at("oci-named")),
            format!("oci:{}", at("layout")),
            format!("oci:{}:1", at("layout-named")),
        ];
        for operand in &operands {
            site.run("export").args(["ours", operand]).stdout("").stderr_has("written:").success();
            site.run("import").args([operand, "back"]).success();
            check(site, "back");
            let out = site.path("back.tar");
            site.run("export").args(["--overwrite", "back"]).arg(&out).success();
            let tree = Tree::of_tarball(&out).without(Site::GIVEN).without_dir_times();
            tree.assert_same(&source(), operand);
            // Nothing is overwritten that is not to be.
            site.run("export").args(["ours", operand]).stderr_has("exists already").failure();
        }
        for (operand, magic) in [(at("a.tar.zst"), "28b52ffd"), (at("a.tgz"), "1f8b0800"), (at("a.tar"), "")] {
            let start = fs::read(&operand).unwrap();
            let shown: String = start.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            assert!(shown.starts_with(magic), "{operand}: {shown}");
        }
        let zstd = format!("oci-archive:{}", at("oci-zstd"));
        site.run("export").args(["--compress", "zstd:9", "ours", &zstd]).success();
        site.run("import").args([&zstd, "back"]).success();
        check(site, "back");
        // The same bytes each time, whatever they are written to.
        let bytes = |name: &str| fs::read(site.path(name)).unwrap();
        for (format, name) in [("tar", "a.tar"), ("docker-archive", "docker"), ("oci-archive", "oci")] {
            let run = site.run("export").args(["--format", format, "ours", "-"]).into_file(&site.path("out"));
            run.success();
            assert!(bytes("out") == bytes(name), "{format}");
        }
        // Into an empty directory that is there; and what is left out of its place stays.
        fs::create_dir(site.path("empty")).unwrap();
        site.run("export").arg("ours").arg(site.path("empty")).success();
        assert!(site.path("empty/etc/large").exists());
        site.run("export").args(["--overwrite", "ours", &at("directory/")]).success();
        assert_eq!(fs::metadata(site.path("a.tar")).unwrap().permissions().mode() & 0o777, 0o644);
        let left: Vec<_> = fs::read_dir(site.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".ch-image")), "{left:?}");
    });
}

/// `import -`: whatever it is, it may come through a pipe; so tarballs can be decompressed by others.
#[test]
fn standard_input_is_imported() {
    needs!("xz", "bzip2");
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let at = |name: &str| site.path(name).display().to_string();
        let program = at("bin/ch-image");
        let pipe = |script: &str| {
            let script = script.replace("ch-image", &program);
            site.program("sh").args(["-c", &script]).env("CH_IMAGE_STORAGE", site.storage())
        };
        for operand in ["plain.tar", "packed.tar.gz", "image.sqfs", "docker-archive:docker"] {
            site.run("export").args(["base", operand]).success();
        }
        let whole = site.tree("base");
        for file in ["plain.tar", "packed.tar.gz", "image.sqfs", "docker"] {
            pipe(&format!("cat {file} | ch-image import - back"))
                .stderr_has("importing:    standard input\n")
                .success();
            site.tree("back").assert_same(&whole, file);
        }
        pipe("ch-image import - back <plain.tar").stderr_has("read:         ").success();
        site.tree("back").assert_same(&whole, "a file");
        // What the error advises works.
        for (program, ending) in [("xz", "xz"), ("bzip2", "bz2")] {
            site.program(program).args(["-k", "plain.tar"]).success();
            let file = format!("plain.tar.{ending}");
            let advice = format!("{program} -dc {file} | ch-image import - NAME");
            let error = format!(
                "error: can't import {file}: {program} compression is not supported\nhint: decompress it on the way: {advice}\n"
            );
            site.run("import").args([&file, "x"]).stderr_has(&error).failure();
            pipe(&format!("cat {file} | ch-image import - x"))
                .stderr_has("-dc FILE | ch-image import - NAME\n")
                .failure();
            pipe(&advice.replace("NAME", "back")).success();
            site.tree("back").assert_same(&whole, program);
        }
        pipe("ch-image import - x </dev/null").stderr_has("standard input: it is empty\n").failure();
        pipe("head -c 5000 image.sqfs | ch-image import - x").stderr_has("cannot open: standard input: ").failure();
        // It waits for what comes, but not when it is asked to stop.
        let script = "mkfifo fifo; exec 3<>fifo; ch-image import - x <fifo 2>/dev/null & \
                      until ls $CH_IMAGE_STORAGE/tmp/*/*/input >/dev/null 2>&1; do :; done; kill -TERM $!; wait $!; echo $?; rm fifo";
        pipe(script).limit(std::time::Duration::from_secs(60)).stdout("143\n").success();
        assert_eq!(site.images(), ["back:latest", "base:latest"]);
        assert_eq!(fs::read_dir(site.storage().join("tmp")).unwrap().count(), 0);
    });
}

#[test]
fn exports_that_cannot_be() {
    let site = Site::new();
    site.import(image::small(), "base");
    let check = |args: &[&str], want: &str| {
        site.run("export").args(args).stderr_has(want).usage();
    };
    check(&["base", "x"], "can't tell from its name what x is to be");
    check(&["--format", "zip", "base", "x"], "--format: unknown format \"zip\"");
    check(&["--format", "dir", "base", "-"], "a directory can't be written to standard output");
    check(&["--compress", "lz4", "base", "x.tar"], "archives can't be compressed with \"lz4\"");
    check(&["--block-size", "4K", "base", "x.tar"], "only packed images (SquashFS) have blocks");
    site.run("export").args(["base", "no/x.tar"]).stderr_has("can't open directory").failure();
    site.run("export").args(["none", "x.tar"]).stderr_has("can't export: no image none").failure();
    site.write("file", "");
    site.run("export").args(["base", "oci:file"]).failure();
    assert!(!site.path("x.tar").exists());
}

#[test]
fn others_read_what_we_export() {
    needs!("skopeo", "umoci");
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let text = "FROM base\nENV OURS=yes\nWORKDIR /opt\nRUN echo made >made\n";
        site.build("ours", text).success();
        let at = |name: &str| site.path(name).display().to_string();
        let docker = format!("docker-archive:{}", at("docker.tar"));
        let (archive, layout) = (format!("oci-archive:{}", at("oci.tar")), format!("oci:{}:1", at("layout")));
        for operand in [&docker, &archive, &layout] {
            site.run("export").args(["ours", operand]).success();
            let inspected = site.program("skopeo").args(["inspect", operand]).success().stdout;
            assert!(inspected.contains("OURS=yes"), "{operand}: {inspected}");
        }
        let theirs = Tree::of_tarball(image::small()).unprivileged().without(Site::GIVEN).without(&["etc"]);
        for (n, operand) in [&docker, &archive, &layout].into_iter().enumerate() {
            let copy = format!("{}:1", at(&format!("copy-{n}")));
            site.program("skopeo").args(["copy", "-q", operand, &format!("oci:{copy}")]).success();
            let bundle = site.path(&format!("bundle-{n}"));
            site.program("umoci").args(["unpack", "--rootless", "--image", &copy]).arg(&bundle).success();
            let tree = Tree::of_dir(&bundle.join("rootfs")).without(Site::GIVEN).without(&["etc"]);
            assert!(tree.0.contains_key("opt/made"), "{operand}");
            tree.without(&["opt"]).assert_same(&theirs, operand);
        }
        site.run("export").args(["ours", &at("directory/")]).success();
        site.ch_run("./directory").args(["cat", "/opt/made"]).stdout("made\n").success();
    });
}

const EXPORTS: &str = "set -eu; mkdir $DIR/$OUT; cd $DIR/$OUT
for image in odd blocks; do
    $CH import $DIR/$image.tar $image
    for file in $image.sqfs $image.tar.gz $image.tar.zst docker-archive:$image-docker oci-archive:$image-oci; do
        $CH export $image $file
    done
done";

/// Neither when it is written, nor the number of processors, nor the file system of the storage directory.
#[test]
fn nothing_but_the_image_decides_the_bytes() {
    needs!("taskset", "unshare");
    // Large enough for several threads.
    let blocks = image::make("blocks.tar", |image| {
        ["bin", "dev", "usr"].iter().for_each(|dir| image.dir(dir, 0o755));
        let text: String = (0..400_000u64).map(|n| format!("{:x}\n", n * n)).collect();
        image.file("usr/text", 0o644, text.as_bytes());
    });
    in_each_mode(|site| {
        fs::copy(image::odd(), site.path("odd.tar")).unwrap();
        fs::copy(&blocks, site.path("blocks.tar")).unwrap();
        let on_disk = |program: &str, args: &[&str], out: &str| {
            let run = site.program(program).args(args).args(["sh", "-c", EXPORTS]).env("OUT", out);
            let run = run.env("DIR", site.path("")).env("CH", site.path("bin/ch-image"));
            run.env("CH_IMAGE_STORAGE", site.storage()).success();
        };
        on_disk("env", &[], "first");
        on_disk("env", &[], "again");
        on_disk("taskset", &["-c", &crate::registry_push::one_processor()], "alone");
        let Some(run) = site.on_tmpfs("mode=700,size=256m", EXPORTS) else { skip!("no tmpfs in a user namespace") };
        run.env("OUT", "tmpfs").success();
        let mut files: Vec<_> = fs::read_dir(site.path("first")).unwrap().map(|e| e.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files.len(), 10);
        for file in &files {
            let content = |out: &str| fs::read(site.path(out).join(file)).unwrap();
            let first = content("first");
            for other in ["again", "alone", "tmpfs"] {
                assert!(first == content(other), "{}: {other}", file.display());
            }
        }
    });
}
