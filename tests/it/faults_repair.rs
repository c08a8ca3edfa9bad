//! What a disk, a power cut or a strange clock has done to storage: it is found, it is named, and it goes away.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::registry::Registry;
use crate::harness::wait::{endless, runs, wait_for};
use crate::harness::{Site, hold, image, in_each_mode};
use crate::needs;

/// A registry with an image that has a shell, and its name.
fn registry(site: &Site) -> (Registry, String) {
    let registry = Registry::start();
    let name = registry.name("a/b:1");
    site.import(image::small(), "base");
    site.run("push").args(["base", &name]).success();
    site.run("delete").arg("base").success();
    (registry, name)
}

/// The file of an image as it lies in storage.
fn stored(site: &Site, image: &str, path: &str) -> PathBuf {
    let records = fs::read_dir(site.storage().join("images")).unwrap().flatten();
    let records = records.map(|e| serde_json::from_slice::<Value>(&fs::read(e.path()).unwrap()).unwrap());
    let record = records.into_iter().find(|record| record["name"] == image).expect(image);
    let layers = record["layers"].as_array().unwrap().iter();
    let trees = layers.map(|id| site.storage().join("layers").join(id.as_str().unwrap()).join("tree"));
    trees.map(|tree| tree.join(path)).find(|file| file.is_file()).expect(path)
}

/// Changes what a file holds and leaves its times as they were, as a failing disk does.
fn rot(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn changed_files_are_found() {
    in_each_mode(|site| {
        let (_registry, name) = registry(site);
        let dockerfile = format!("FROM {name}\nRUN cat /etc/passwd /etc/group >/made\nCOPY file /copied\n");
        site.write("context/file", "some text\n");
        let check = |what: &str, image: &str, path: &str, damage: &dyn Fn(&Path)| {
            site.run("pull").arg(&name).success();
            site.build("built", &dockerfile).success();
            site.run("fsck").arg("--deep").stdout("").success();
            let image = if image == "pulled" { name.as_str() } else { "built:latest" };
            damage(&stored(site, image, path));
            site.run("fsck").stdout("").success();
            site.run("fsck").arg("--deep").stdout_has(&format!("image {image}")).failure();
            // What was pulled is pulled again; what was built is to be built again: that is no success.
            let repair = site.run("fsck").args(["--deep", "--repair"]).stdout_has(&format!("image {image}"));
            // What was built stands on what was pulled.
            repair.stderr_has("error: dropped, to be built or imported again: built").failure();
            site.run("fsck").args(["--deep", "--repair"]).stdout("").success();
            assert!(site.images().contains(&name), "{what}");
            site.ch_run(&name).args(["grep", "-c", "root:x:0:0", "/etc/passwd"]).stdout("1\n").success();
            site.run("fsck").arg("--deep").stdout("").success();
            site.build("built", &dockerfile).success();
            site.ch_run("built").args(["grep", "-c", "root:x:0:0", "/made"]).stdout("1\n").success();
        };
        let flip: &dyn Fn(&Path) = &|path| rot(path, |bytes| bytes[0] ^= 1);
        check("flipped bit", "pulled", "etc/passwd", flip);
        check("flipped bit", "built", "made", flip);
        check("flipped bit", "built", "copied", flip);
        check("zeros", "pulled", "etc/passwd", &|path| rot(path, |bytes| bytes.fill(0)));
        check("empty", "built", "made", &|path| rot(path, Vec::clear));
        check("gone", "pulled", "etc/group", &|path| fs::remove_file(path).unwrap());
    });
}

/// A repair waits for nobody and takes nothing from under a command: also where it is a lower layer that is damaged.
#[test]
fn images_in_use_are_not_repaired() {
    in_each_mode(|site| {
        let (_registry, name) = registry(site);
        site.run("pull").arg(&name).success();
        site.build("built", &format!("FROM {name}\nRUN touch /made\n")).success();
        let sleep = endless();
        let mut running = site.ch_run("built").args(sleep.split(' ')).start();
        wait_for("the command", || runs(&sleep));
        rot(&stored(site, "built:latest", "etc/passwd"), |bytes| bytes[0] ^= 1);
        let repair = || site.run("fsck").args(["--deep", "--repair"]).stdout_has("image built");
        repair()
            .stderr_has(
                "error: can't repair built:latest: a command runs in it\nhint: end what ch-run has started, then try again\n",
            )
            .failure();
        site.ch_run("built").args(["test", "-e", "/made"]).success();
        running.kill();
        repair().stderr_has("error: dropped, to be built or imported again: built").failure();
        site.run("fsck").args(["--deep"]).stdout("").success();
    });
}

/// A bit of a record, wherever it flips: the checksum says so, also in texts that mean as much as before.
#[test]
fn changed_records_are_found() {
    let site = Site::new();
    let (_registry, name) = registry(&site);
    site.run("pull").arg(&name).success();
    let image = fs::read_dir(site.storage().join("images")).unwrap().next().unwrap().unwrap().path();
    let layers = fs::read_dir(site.storage().join("layers")).unwrap().map(|e| e.unwrap().path().join("layer.json"));
    for record in [image].into_iter().chain(layers) {
        let right = fs::read(&record).unwrap();
        // But in the name of the checksum itself.
        for at in (0..right.len() - 20).step_by(11).chain(right.len() - 10..right.len() - 2) {
            rot(&record, |bytes| bytes[at] ^= 4);
            site.run("fsck").stdout_has("image ").failure();
            fs::write(&record, &right).unwrap();
        }
    }
    site.run("fsck").arg("--deep").stdout("").success();
}

/// Where the registry is out of reach, the repair says what is missing; nothing half-made stays.
#[test]
fn repair_without_the_registry() {
    let site = Site::new();
    let (registry, name) = registry(&site);
    site.run("pull").arg(&name).success();
    rot(&stored(&site, &name, "etc/passwd"), |bytes| bytes[0] ^= 1);
    registry.with(|content| content.manifests.clear());
    let missing = format!("error: dropped and not yet pulled again: {name}\n");
    site.run("fsck").args(["--deep", "--repair"]).stderr_has(&missing).failure();
    assert_eq!(site.images(), [""; 0]);
    site.run("fsck").arg("--deep").stdout("").success();
}

/// What RUN writes to a whole tree (ch-run -w) is no damage.
#[test]
fn writing_is_no_damage() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.ch_run_with(&["-w"], "base").args(["sh", "-c", "echo x >>/etc/passwd"]).success();
        site.run("fsck").arg("--deep").stdout("").success();
        // Nor is what even its owner may not read.
        site.build("shut", "FROM base\nRUN mkdir /a && echo x >/a/b && chmod 000 /a/b /a\n").success();
        site.run("fsck").arg("--deep").stdout("").success();
    });
}

/// Blobs that are no longer what their names say: never used, never waited for, replaced.
#[test]
fn damaged_blobs_are_replaced() {
    in_each_mode(|site| {
        let (_registry, name) = registry(site);
        let outside = site.write("outside", "precious");
        let check = |what: &str, damage: &dyn Fn(&Path)| {
            site.run("pull").arg(&name).success();
            site.run("delete").arg(&name).success();
            for blob in fs::read_dir(site.storage().join("blobs/sha256")).unwrap().flatten() {
                damage(&blob.path());
            }
            site.run("pull").arg(&name).success();
            site.ch_run(&name).arg("true").success();
            site.run("fsck").arg("--deep").stdout("").success();
            for blob in fs::read_dir(site.storage().join("blobs/sha256")).unwrap().flatten() {
                damage(&blob.path());
            }
            site.run("fsck").arg("--deep").stdout_has("blob sha256:").failure();
            site.run("fsck").args(["--deep", "--repair"]).success();
            site.run("fsck").arg("--deep").stdout("").success();
            assert_eq!(fs::read_to_string(&outside).unwrap(), "precious", "{what}");
        };
        check("flipped", &|path| rot(path, |bytes| bytes[0] ^= 1));
        check("empty", &|path| fs::write(path, "").unwrap());
        check("link", &|path| (fs::remove_file(path).unwrap(), symlink(&outside, path).unwrap()).1);
        check("directory", &|path| (fs::remove_file(path).unwrap(), fs::create_dir(path).unwrap()).1);
        check("FIFO", &|path| {
            fs::remove_file(path).unwrap();
            site.program("mkfifo").arg(path).success();
        });
    });
}

/// After a power cut: files of zeros, layers that had no time to reach the disk, sessions of another boot.
#[test]
fn what_a_reboot_leaves() {
    in_each_mode(|site| {
        let registry = Registry::start();
        let layer = hold::layer(&[("bin/", b""), ("dev/", b""), ("usr/", b""), ("usr/large", &[b'x'; 300_000])]);
        hold::image(&registry, "a", "1", &hold::config(Some("amd64"), &[&layer]), &[&layer]);
        let name = registry.name("a:1");
        let pull = || site.run("pull").args(["-a", "amd64", &name]);
        let large = || fs::read(stored(site, &name, "usr/large")).unwrap();
        pull().success();

        // Downloads: part zeros, all zeros, too long.
        let digest = crate::harness::registry::sha256(&layer);
        let ingest = site.storage().join("ingest").join(digest.strip_prefix("sha256:").unwrap());
        for (length, told) in [(100_000, "damaged, downloading again"), (layer.len(), "done"), (400_000, "done")] {
            site.run("delete").arg(&name).success();
            site.run("gc").success();
            fs::write(&ingest, vec![0; length]).unwrap();
            pull().stderr_has(told).stderr_lacks("error").success();
            assert_eq!(large(), [b'x'; 300_000], "{length} zeros");
        }
        // What is right is used: no byte comes twice.
        site.run("delete").arg(&name).success();
        site.run("gc").success();
        fs::write(&ingest, &layer[..200_000]).unwrap();
        registry.server.forget();
        pull().stderr_lacks("damaged").success();
        let seen = registry.server.seen();
        assert!(seen.iter().any(|seen| seen.header("range") == Some("bytes=200000-")), "{:?}", registry.server.lines());

        // A session of another boot, with and without its lock.
        for lock in [true, false] {
            let session = site.storage().join("tmp/01234567-1-0");
            fs::create_dir_all(session.join("0/tree/dir")).unwrap();
            if lock {
                fs::write(session.join("lock"), "").unwrap();
            }
            site.run("delete").arg("nothing").failure();
            assert!(!session.exists());
        }

        // Layers that bear the mark of another boot, or one that was lost itself.
        for mark in ["01234567-0000-0000-0000-000000000000", ""] {
            let tree = stored(site, &name, "usr/large");
            let layer = tree.parent().unwrap().parent().unwrap().parent().unwrap();
            fs::write(layer.join("unsynced"), mark).unwrap();
            fs::write(&tree, "").unwrap();
            site.run("list").stdout_has(&name).success();
            site.run("fsck").stdout_has(&format!("image {name}")).failure();
            pull().stderr_has("was not yet on disk").success();
            assert_eq!(large(), [b'x'; 300_000], "mark {mark:?}");
        }
        site.run("fsck").arg("--deep").stdout("").success();
    });
}

/// No decision goes by the clock, but for how old what is kept may be.
#[test]
fn clocks_that_jump() {
    needs!("find", "touch");
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("context/file", "text\n");
        let dockerfile = "FROM base\nCOPY file /file\nRUN cat /file >/made\n";
        for date in ["1970-01-01", "2099-12-31"] {
            site.build("out", dockerfile).success();
            let found = site.program("find").arg(site.storage()).args(["-exec", "touch", "-h", "-d", date, "{}", "+"]);
            found.success();
            site.run("list").arg("-l").stdout_has("out:latest").success();
            site.run("fsck").arg("--deep").stdout("").success();
            let done = site.build("out", dockerfile).success();
            let again = done.stderr.lines().any(|line| line.contains("RUN") && !line.contains('*'));
            assert!(!again, "{date}: {}", done.stderr);
            site.run("gc").args(["--keep", "1d"]).success();
            site.ch_run("out").args(["cat", "/made"]).stdout("text\n").success();
        }
    });
}

/// A storage directory as this version's first release makes it: read and used for ever, or upgraded.
#[test]
fn storage_of_format_1() {
    needs!("tar");
    let site = Site::new();
    site.program("tar").arg("-xf").arg(golden()).success();
    for mode in ["overlay", "plain"] {
        let storage = site.path(mode);
        let run = |command: &str| site.run(command).env("CH_IMAGE_STORAGE", &storage);
        run("list").stdout("base:latest (amd64)\nmade:latest (amd64)\n").success();
        run("fsck").arg("--deep").stdout("").success();
        let registry = Registry::start();
        run("push").args(["made", &registry.name("made:1")]).success();
        let dir = site.path("unpacked");
        run("pull").args(["-a", "amd64", &registry.name("made:1")]).arg(&dir).success();
        let mut text = String::new();
        File::open(dir.join("usr/copied")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "format 1\n");
        crate::harness::site::remove(&dir);
        site.write("context/Dockerfile", "FROM made\nCOPY Dockerfile /usr/\n");
        run("build").args(["-t", "next"]).arg(site.path("context")).success();
        run("delete").args(["base", "made", "next"]).success();
        run("gc").success();
        assert_eq!(fs::read_dir(storage.join("layers")).unwrap().count(), 0);
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/storage-1.tar")
}
