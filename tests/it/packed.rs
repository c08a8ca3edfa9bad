//! Do images leave storage as packed images (SquashFS), which others read, and come back? Do we read those of others?

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::{Site, Tree, image, in_each_mode, wait_for};
use crate::needs;

const COMPRESSORS: &[&str] = &["zstd", "zstd:19", "gzip", "gzip:9", "lz4", "none"];

fn source() -> Tree {
    Tree::of_tarball(image::odd()).unprivileged().without(Site::GIVEN).without_dir_times()
}

fn export(site: &Site, image: &str, path: &Path, options: &[&str]) {
    site.run("export").args(options).arg(image).arg(path).stdout("").stderr_has("done\n").success();
}

/// What unsquashfs makes of it.
fn unsquashed(site: &Site, packed: &Path) -> Tree {
    let dir = site.path("unsquashed");
    crate::harness::site::remove(&dir);
    site.program("unsquashfs").args(["-no-progress", "-d"]).arg(&dir).arg(packed).success();
    Tree::of_dir(&dir)
}

#[test]
fn exported_images_are_what_others_read() {
    needs!("unsquashfs");
    in_each_mode(|site| {
        site.import(image::odd(), "odd");
        for compressor in COMPRESSORS {
            for block in ["4K", "128K", "1M"] {
                let packed = site.path("odd.sqfs");
                export(site, "odd", &packed, &["--overwrite", "--compress", compressor, "--block-size", block]);
                let tree = unsquashed(site, &packed).without(Site::GIVEN).without_dir_times();
                tree.assert_same(&source(), &format!("{compressor}, blocks of {block}"));
            }
        }
    });
}

#[test]
fn exported_images_come_back() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.build(
            "made",
            "FROM base\nENV A=b\nWORKDIR /opt\nCMD [\"echo\", \"x\"]\nRUN echo made >made; rm /bin/wc\n",
        )
        .success();
        let packed = site.path("made.sqfs");
        export(site, "made", &packed, &[]);
        site.import(&packed, "back");
        site.tree("back").assert_same(&site.tree("made"), "imported again");
        let config = |name: &str| {
            let metadata = site.ch_run(name).args(["cat", "/ch/metadata.json", "/ch/environment"]).success().stdout;
            assert!(metadata.contains("\"cwd\": \"/opt\"") && metadata.contains("A=b"), "{metadata}");
            metadata
        };
        assert_eq!(config("back"), config("made"));
        // The same file again is the same image, and what comes of that the same file.
        let again = site.path("again.squashfs");
        export(site, "back", &again, &[]);
        assert!(fs::read(&packed).unwrap() == fs::read(&again).unwrap(), "exported, imported, exported");
        site.import(&packed, "back");
        assert_eq!(site.images(), ["back:latest", "base:latest", "made:latest"]);
        site.run("fsck").arg("--deep").success();
    });
}

#[test]
fn the_same_image_gives_the_same_bytes() {
    needs!("taskset");
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let all = site.path("all.sqfs");
        export(site, "base", &all, &[]);
        let one = site.path("one.sqfs");
        let alone = site.program("taskset").args(["-c", "0"]).arg(site.path("bin/ch-image"));
        alone.env("CH_IMAGE_STORAGE", site.storage()).args(["export", "base"]).arg(&one).success();
        assert!(fs::read(&all).unwrap() == fs::read(&one).unwrap(), "another number of processors");
        let dated = site.path("dated.sqfs");
        site.run("export").arg("base").arg(&dated).env("SOURCE_DATE_EPOCH", "86400").success();
        needs!("unsquashfs");
        site.program("unsquashfs").arg("-s").arg(&dated).stdout_has("Fri Jan  2 00:00:00 1970").success();
        let tree = unsquashed(site, &dated);
        assert!(tree.0.values().all(|entry| entry.mtime <= 86400), "newer than SOURCE_DATE_EPOCH");
    });
}

#[test]
fn standard_output_takes_a_packed_image() {
    let site = Site::new();
    site.import(image::small(), "base");
    let (named, piped) = (site.path("base.sqsh"), site.path("piped"));
    export(&site, "base", &named, &[]);
    site.run("export").args(["base", "-", "--format=squashfs"]).into_file(&piped).success();
    assert!(fs::read(&named).unwrap() == fs::read(&piped).unwrap());
    assert_eq!(fs::read_dir(site.storage().join("tmp")).unwrap().count(), 0);
}

#[test]
fn nothing_is_overwritten_unasked() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let there = site.write("there.sqfs", "precious");
        site.run("export")
            .arg("base")
            .arg(&there)
            .stdout("")
            .stderr(
                "exporting:    base\ndestination:  SITE/there.sqfs\n\
                 error: can't write SITE/there.sqfs: exists already\nhint: --overwrite replaces it\n",
            )
            .failure();
        assert_eq!(fs::read_to_string(&there).unwrap(), "precious");
        export(site, "base", &there, &["--overwrite"]);
        site.import(&there, "back");
        assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o7777, 0o644);
        let check = |path: &str, message: &str| {
            site.run("export").args(["base", path, "--overwrite"]).stderr_has(message).failure();
        };
        // An empty directory would be taken for an image directory to be made.
        fs::create_dir_all(site.path("dir.sqfs/sub")).unwrap();
        check("dir.sqfs", "error: can't write dir.sqfs: exists and is not a regular file\n");
        check("nowhere/x.sqfs", "error: can't write nowhere/x.sqfs: can't open directory nowhere: No such file");
        site.run("export").args(["nix", "x.sqfs"]).stderr_has("error: can't export: no image nix\n").failure();
        site.run("export").args(["base", "x"]).stderr_has("can't tell from its name what x is to be").usage();
        assert!(!site.path("x.sqfs").exists() && !site.path("x").exists());
    });
}

/// A limit of the file's size stands for a full disk; a signal comes while it is written. Nothing is left, whatever it is.
#[test]
fn what_is_not_finished_is_not_there() {
    needs!("prlimit", "setsid");
    in_each_mode(|site| {
        let large = image::make("large.tar", |image| {
            ["bin", "dev", "usr"].iter().for_each(|dir| image.dir(dir, 0o755));
            let text: String = (0..3_000_000u64).map(|n| format!("{:x}\n", n * n)).collect();
            image.file("usr/text", 0o644, text.as_bytes());
        });
        site.import(&large, "large");
        let out = site.path("out");
        fs::create_dir(&out).unwrap();
        let path = out.join("x.sqfs");
        let limited = site.program("prlimit").arg("--fsize=1000000").arg(site.path("bin/ch-image"));
        limited
            .env("CH_IMAGE_STORAGE", site.storage())
            .args(["export", "large", "--compress=none"])
            .arg(&path)
            .stderr_has("error: can't write SITE/out/x.sqfs: ")
            .stderr_has(" written, the image has 33.0 MiB of files: ")
            .stderr_has("File too large\nhint: a file would be larger than the limit (see ulimit -f) or than the file system allows\n")
            .failure();
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "after too large a file");
        for signal in [2, 9, 15] {
            let mut running = site
                .heeding_signals()
                .args(["export", "large", "--compress=zstd:22", "--block-size=1M"])
                .arg(&path)
                .start();
            // Its file has no name yet: it is seen by those who compress.
            let tasks = format!("/proc/{}/task", running.child.id());
            let writes = || {
                let tasks = fs::read_dir(&tasks).into_iter().flatten().flatten();
                tasks
                    .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
                    .any(|name| name == "compress\n")
            };
            wait_for("the file to be written", writes);
            let kill = site.program("kill").arg(format!("-{signal}")).arg(running.child.id().to_string());
            kill.success();
            while running.is_alive() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            assert!(!running.into_done(&[]).status.success());
            assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "after signal {signal}");
        }
    });
}

#[test]
fn owners_go_along_if_asked() {
    needs!("unsquashfs");
    let site = Site::new();
    site.import(image::small(), "base");
    let dockerfile = "FROM base\nRUN touch /a /b && chown 1000:2000 /a && chmod 4755 /a && mknod /n c 1 3\n";
    site.build("owned", dockerfile).arg("--force=notify").success();
    let line = |options: &[&str], name: &str| {
        let packed = site.path("owned.sqfs");
        export(&site, "owned", &packed, &[&["--overwrite"], options].concat());
        let list = site.program("unsquashfs").arg("-lln").arg(&packed).success().stdout;
        let line = list.lines().find(|line| line.ends_with(&format!("squashfs-root/{name}"))).unwrap().to_owned();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line(&[], "a"), "-rwxr-xr-x 0/0");
    assert_eq!(line(&["--ownership"], "a"), "-rwsr-xr-x 1000/2000");
    assert_eq!(line(&["--ownership"], "b"), "-rw-r--r-- 0/0");
    assert_eq!(line(&["--ownership"], "n"), "crw-r--r-- 0/0");
    // They mean nothing to an import.
    site.import(&site.path("owned.sqfs"), "back");
    site.ch_run("back").args(["stat", "-c", "%a", "/a"]).stdout("755\n").success();
    site.ch_run("back").args(["test", "-e", "/n"]).failure();
}

/// What mksquashfs makes with these options of SITE/image, which is made at first: all that makes trees hard to copy.
fn squashed(site: &Site, name: &str, options: &[&str]) -> PathBuf {
    let (dir, packed) = (site.path("image"), site.path(name));
    if !dir.exists() {
        fs::create_dir(&dir).unwrap();
        for tarball in [image::small(), image::odd()] {
            site.program("tar").arg("-C").arg(&dir).arg("-xpf").arg(tarball).success();
        }
        let hidden = dir.join("etc/hidden");
        fs::set_permissions(hidden, PermissionsExt::from_mode(0o600)).unwrap();
        for (name, size) in [("sparse", 5_000_000), ("tail", 300_001)] {
            let file = fs::File::create(dir.join("usr").join(name)).unwrap();
            file.set_len(size).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"in the middle", size / 2).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(image::MTIME);
            file.set_modified(time).unwrap();
        }
        // More names than go below one header, or into a block of the listing.
        fs::create_dir(dir.join("usr/many")).unwrap();
        (0..3000).for_each(|n| fs::write(dir.join(format!("usr/many/{n}")), format!("{}\n", n % 7)).unwrap());
    }
    let _ = fs::remove_file(&packed);
    site.program("mksquashfs").arg(&dir).arg(&packed).args(["-no-progress", "-quiet"]).args(options).success();
    packed
}

#[test]
fn we_read_what_mksquashfs_makes() {
    needs!("mksquashfs");
    in_each_mode(|site| {
        for options in [
            "-comp gzip",
            "-comp zstd",
            "-comp lz4",
            "-comp lz4 -Xhc",
            "-comp lzo",
            "-comp lzo -b 1M -noD",
            "-comp gzip -b 4K",
            "-comp zstd -b 1M -no-fragments",
            "-comp gzip -noI -noD -noF -noX",
            "-comp gzip -always-use-fragments -nopad",
            "-comp lz4 -no-duplicates -no-exports -no-xattrs",
            "-comp zstd -no-sparse -noId",
        ] {
            let packed = squashed(site, "others.sqsh", &options.split(' ').collect::<Vec<_>>());
            site.import(&packed, "others");
            site.tree("others").without_dir_times().without(&["etc"]).assert_same(
                &Tree::of_dir(&site.path("image"))
                    .unprivileged()
                    .without(Site::GIVEN)
                    .without_dir_times()
                    .without(&["etc"]),
                options,
            );
        }
    });
}

/// A SIF file as Apptainer makes it: a header, descriptors, a definition file, then the system.
fn sif(system: &[u8], file_system: i32) -> Vec<u8> {
    const DESCRIPTOR: usize = 585;
    let (data, mut bytes) = (8192u64, vec![0; 8192]);
    let definition = b"bootstrap: docker\n";
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"#!/usr/bin/env run-singularity\n");
    put(32, b"SIF_MAGIC\x0001\x0002\0");
    // Free and all descriptors, where they are.
    for (at, n) in [(80, 46u64), (88, 48), (96, 128), (104, 48 * 585), (112, data)] {
        put(at, &n.to_le_bytes());
    }
    let start = data + definition.len() as u64;
    for (n, kind, offset, size) in
        [(0, 0x4001i32, data, definition.len() as u64), (1, 0x4004, start, system.len() as u64)]
    {
        let at = 128 + n * DESCRIPTOR;
        put(at, &kind.to_le_bytes());
        put(at + 4, &[1]);
        put(at + 17, &offset.to_le_bytes());
        put(at + 25, &size.to_le_bytes());
        put(at + 201, &file_system.to_le_bytes());
        put(at + 205, &2i32.to_le_bytes());
    }
    bytes.extend(definition);
    bytes.extend(system);
    bytes
}

#[test]
fn sif_files_are_run() {
    crate::packed_runs::needs_fuse!();
    let site = Site::new();
    let packed = crate::packed_runs::packed(&site, image::small(), &["--compress=gzip"]);
    let system = fs::read(packed).unwrap();
    fs::write(site.path("image.sif"), sif(&system, 1)).unwrap();
    site.tree("./image.sif").assert_same(&site.tree("base"), "a SIF file as it is");
    fs::write(site.path("ext3.sif"), sif(&system, 2)).unwrap();
    let error = "the SIF file has an ext3 file system, which is not supported (only SquashFS)";
    site.ch_run("./ext3.sif").arg("true").stderr_has(error).ch_run_failure();
}

#[test]
fn sif_files_are_imported() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let packed = site.path("base.sqfs");
        export(site, "base", &packed, &["--compress=gzip"]);
        let system = fs::read(&packed).unwrap();
        let file = site.path("image.sif");
        fs::write(&file, sif(&system, 1)).unwrap();
        site.import(&file, "sif");
        site.tree("sif").assert_same(&site.tree("base"), "from a SIF file");
        let check = |bytes: &[u8], want: &str| {
            fs::write(&file, bytes).unwrap();
            site.run("import").arg(&file).arg("bad").stderr_has(want).failure();
        };
        check(
            &sif(&system, 2),
            "image.sif: the SIF file has an ext3 file system, which is not supported (only SquashFS)",
        );
        check(&sif(&system, 5), "image.sif: the SIF file has an encrypted file system, which is not supported");
        let whole = sif(&system, 1);
        check(&whole[..whole.len() / 2], "image.sif: the SIF file is truncated: its system has ");
        check(&whole[..1000], "image.sif: damaged SIF file: descriptors: ");
        let mut none = whole.clone();
        none[128 + 585 + 4] = 0;
        check(&none, "image.sif: the SIF file has no system partition");
        assert_eq!(site.images(), ["base:latest", "sif:latest"]);
    });
}

/// How Apptainer's and enroot's images are to be run is known after an import, and the same when they are run as they are.
#[test]
fn images_of_others_keep_their_command() {
    needs!("mksquashfs");
    crate::packed_runs::needs_fuse!();
    in_each_mode(|site| {
        let dir = site.path("image");
        let make = |files: &[(&str, &str)]| {
            crate::harness::site::remove(&dir);
            fs::create_dir(&dir).unwrap();
            site.program("tar").arg("-C").arg(&dir).arg("-xpf").arg(image::small()).success();
            for (name, text) in files {
                let file = site.write(&format!("image/{name}"), text);
                fs::set_permissions(file, PermissionsExt::from_mode(0o755)).unwrap();
            }
            let packed = site.path("packed.sqsh");
            let _ = fs::remove_file(&packed);
            site.program("mksquashfs")
                .arg(&dir)
                .arg(&packed)
                .args(["-no-progress", "-quiet", "-comp", "gzip"])
                .success();
            packed
        };
        let config = |name: &str| {
            let mut config = crate::build_cases::document(site, name)["config"]["config"].clone();
            config.sort_all_objects();
            config.to_string()
        };
        let packed = make(&[
            (".singularity.d/env/01-base.sh", "#!/bin/sh\n# Copyright\n"),
            (
                ".singularity.d/env/10-docker2singularity.sh",
                "export PATH=\"/opt/bin:/bin\"\nexport A=\"${A:-\"x y\"}\"\n",
            ),
            (".singularity.d/env/90-environment.sh", "export B=$A:c\nexport HERE=$(pwd)\n"),
            (".singularity.d/labels.json", "{\"org.label-schema.name\": \"theirs\"}"),
            (".singularity.d/runscript", "#!/bin/sh\necho \"run $B $#\"\n"),
        ]);
        let file = site.path("theirs.sif");
        fs::write(&file, sif(&fs::read(&packed).unwrap(), 1)).unwrap();
        site.run("import").arg(&file).arg("apptainer").stderr_has("image of Apptainer: its environment").success();
        assert_eq!(
            config("apptainer"),
            "{\"Entrypoint\":[\"/.singularity.d/runscript\"],\"Env\":[\"PATH=/opt/bin:/bin\",\"A=x y\",\"B=x y:c\"],\
             \"Labels\":{\"org.label-schema.name\":\"theirs\"}}"
        );
        for name in ["apptainer", "./theirs.sif"] {
            site.ch_run(name).stdout("run x y:c 0\n").success();
            site.ch_run(name).args(["sh", "-c", "echo $B"]).stdout("x y:c\n").success();
            site.ch_run_with(&["--entrypoint"], name).arg("d").stdout("run x y:c 1\n").success();
        }
        // It is a base like others.
        site.build("next", "FROM apptainer\nRUN echo $B\n").stdout("x y:c\n").success();
        make(&[
            ("etc/environment", "PATH=/usr/bin:/bin\nA=x y\n"),
            (
                "etc/rc",
                "mkdir -p \"/opt/w\" 2> /dev/null\ncd \"/opt/w\" && unset OLDPWD || exit 1\necho \"rc $PWD $A $#\"\n",
            ),
            ("opt/w/file", ""),
        ]);
        site.run("import").arg(site.path("packed.sqsh")).arg("enroot").stderr_has("image of enroot: ").success();
        assert_eq!(
            config("enroot"),
            "{\"Entrypoint\":[\"/bin/sh\",\"/etc/rc\"],\"Env\":[\"PATH=/usr/bin:/bin\",\"A=x y\"],\"WorkingDir\":\"/opt/w\"}"
        );
        for name in ["enroot", "./packed.sqsh"] {
            site.ch_run(name).stdout("rc /opt/w x y 0\n").success();
            site.ch_run(name).arg("pwd").stdout("/opt/w\n").success();
        }
        // Only of a packed image: a directory may be that of any system.
        site.import(&dir, "directory");
        assert_eq!(config("directory"), "null");
    });
}

#[test]
fn damaged_packed_images_are_errors() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let packed = site.path("base.sqfs");
        export(site, "base", &packed, &[]);
        let whole = fs::read(&packed).unwrap();
        let bad = site.path("bad.sqfs");
        let check = |bytes: &[u8], want: &str| {
            fs::write(&bad, bytes).unwrap();
            let want = format!("error: cannot open: SITE/bad.sqfs: {want}");
            site.run("import").arg(&bad).arg("bad").stderr_has(&want).failure().stderr
        };
        check(&whole[..whole.len() / 2], "the file is truncated: it has ");
        check(&whole[..60], "not a SquashFS file: too short\n");
        let mut flipped = whole.clone();
        // The first block, behind superblock and options. (SquashFS has no checksums: not everything is seen.)
        flipped[102..106].fill(0);
        let told = check(&flipped, "bin/");
        assert!(told.ends_with(": block at 102: compressed data is damaged\n"), "{told}");
        flipped = whole.clone();
        flipped[20] = 4;
        check(&flipped, "xz compression is not supported\nhint: supported: gzip, lzo, lz4, zstd; ");
        assert_eq!(site.images(), ["base:latest"]);
        assert_eq!(fs::read_dir(site.storage().join("tmp")).unwrap().count(), 0);
    });
}
