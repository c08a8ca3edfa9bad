//! Storage directories that somebody else made, damaged or put into odd places; odd surroundings of the process.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use crate::harness::{Mode, Site, image, in_each_mode};
use crate::{needs, skip};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn only_file(dir: &Path) -> std::path::PathBuf {
    fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
}

/// What must not be used is refused by name, and stays as it was.
#[test]
fn odd_storage_directories_are_refused() {
    let site = Site::new();
    let check = |name: &str, make: &dyn Fn(&Path), want: &str| {
        let path = site.path(name);
        make(&path);
        for command in [&["list"][..], &["delete", "x"], &["reset"]] {
            site.bare().args(command).env("CH_IMAGE_STORAGE", &path).stderr_has(want).failure();
        }
    };
    let with = |name: &'static str, text: &'static str| {
        move |path: &Path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join(name), text).unwrap();
        }
    };
    check("file", &|p| fs::write(p, "").unwrap(), "SITE/file");
    check("foreign", &with("thesis.tex", "x"), "not a builder storage");
    check("fake", &with("version", "2.1\n"), "not a builder storage");
    check(
        "linked",
        &|p| (fs::create_dir(p).unwrap(), symlink("/proc/version", p.join("version")).unwrap()).1,
        "hint: ",
    );
    check("open", &|p| (fs::create_dir(p).unwrap(), chmod(p, 0o777)).1, "writable by others: SITE/open (mode 0777)");
    check("group", &|p| (fs::create_dir(p).unwrap(), chmod(p, 0o770)).1, "mode 0770");
    check(
        "other",
        &|p| symlink("/proc", p).unwrap(),
        if uid() == 0 { "not a builder storage" } else { "owner: user 0" },
    );
    assert_eq!(fs::read_to_string(site.path("foreign/thesis.tex")).unwrap(), "x");

    // A version of later: only reset may touch it.
    let future = site.path("future");
    with("version", "ch-image storage\nformat 99\nmode overlay\n")(&future);
    site.run("list").env("CH_IMAGE_STORAGE", &future).stderr_has("incompatible storage directory v99").failure();
    fs::write(future.join("version"), "ch-image storage\nformat 99\nmode overlay\nmade by ch-image 9.9\n").unwrap();
    let way_out = "use another directory with --storage or CH_IMAGE_STORAGE\n";
    let error = format!(
        "error: incompatible storage directory v99: SITE/future: it was made by a newer version, ch-image 9.9\n\
         hint: use that version (this one has format 1), or {way_out}"
    );
    site.run("list").env("CH_IMAGE_STORAGE", &future).stderr(&error).failure();
    site.run("reset").env("CH_IMAGE_STORAGE", &future).success();
    let charliecloud = site.path("charliecloud");
    with("version", "3\n")(&charliecloud);
    ["img", "dlcache", "ulcache"].iter().for_each(|name| fs::create_dir(charliecloud.join(name)).unwrap());
    let error = format!(
        "error: SITE/charliecloud is a storage directory of Charliecloud (format 3), which ch-image can't read\n\
         hint: {way_out}"
    );
    site.run("list").env("CH_IMAGE_STORAGE", &charliecloud).stderr(&error).failure();
    // A place that can't be read says how to use another one, whatever is wanted there.
    fs::create_dir(site.path("locked")).unwrap();
    chmod(&site.path("locked"), 0o000);
    if uid() != 0 {
        for command in [&["list"][..], &["pull", "localhost:1/x"], &["delete", "x"]] {
            let run = site.bare().args(command).env("CH_IMAGE_STORAGE", site.path("locked/st"));
            run.stderr_has("SITE/locked/st: Permission denied\nhint: ").stderr_has(way_out).failure();
        }
    }
    chmod(&site.path("locked"), 0o755);
    // An empty directory is adopted, also where nothing may be made beside it.
    fs::create_dir_all(site.path("shut/empty")).unwrap();
    chmod(&site.path("shut"), 0o555);
    site.run("import").arg(image::small()).arg("x").env("CH_IMAGE_STORAGE", site.path("shut/empty")).success();
    chmod(&site.path("shut"), 0o755);

    for user in ["../../x", "a/b", "..", "a\nb"] {
        let run = site.run("list").env("USER", user).env_remove("CH_IMAGE_STORAGE");
        run.stderr_has("$USER is not a user name").failure();
    }
    // Without $USER, as cron and batch systems start programs, the system knows the name.
    let name = site.program("id").arg("-un").success().stdout;
    let path = format!("/var/tmp/{}/ch-image\n", name.trim());
    site.run("storage-path").env_remove("USER").env_remove("CH_IMAGE_STORAGE").stdout(&path).success();
    site.run("storage-path").env("USER", "").env_remove("CH_IMAGE_STORAGE").stdout(&path).success();
    // What anybody could have put there before its user did.
    let user = format!("ch-test-{}", std::process::id());
    let place = Path::new("/var/tmp").join(&user);
    let refused = |want: &str| {
        for command in [&["list"][..], &["import", image::small().to_str().unwrap(), "x"], &["reset"]] {
            let run = site.bare().args(command).env("USER", &user).env_remove("CH_IMAGE_STORAGE");
            run.stderr_has(&format!("error: {} {want}", place.display())).failure();
        }
    };
    symlink(site.path("home"), &place).unwrap();
    refused("is a symbolic link");
    fs::remove_file(&place).unwrap();
    fs::create_dir(&place).unwrap();
    chmod(&place, 0o777);
    refused("is writable by others: mode 0777");
    fs::remove_dir(&place).unwrap();
    assert_eq!(fs::read_dir(site.path("home")).unwrap().count(), 0);
    // The home of a user of this machine: somebody else's name.
    if uid() != 0 && Path::new("/var/tmp/root").symlink_metadata().is_ok() {
        let run = site.run("list").env("USER", "root").env_remove("CH_IMAGE_STORAGE");
        run.stderr_has("/var/tmp/root").failure();
    }
}

fn uid() -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap())
}

/// A damaged image is told as such; the others work; delete removes it and nothing that it points at.
#[test]
fn damage_stays_where_it_is() {
    in_each_mode(|site| {
        site.import(image::small(), "good");
        let outside = site.write("outside/precious", "precious");
        let check = |what: &str, damage: &dyn Fn(&Path)| {
            site.import(image::odd(), "bad");
            let record = site.storage().join("images/bad+latest.json");
            assert!(record.is_file(), "{}", record.display());
            fs::remove_file(&record).unwrap();
            damage(&record);
            let list = site.run("list").finish();
            assert!(list.stdout.contains("good:latest"), "{what}: {}{}", list.stdout, list.stderr);
            site.run("fsck").stdout_has("image bad").failure();
            site.ch_run("good").arg("true").success();
            site.run("delete").arg("bad").success();
            site.run("fsck").success();
            assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
        };
        check("empty", &|p| fs::write(p, "").unwrap());
        check("not JSON", &|p| fs::write(p, "{\"name\": \"bad\", \"layers\": [").unwrap());
        check("deep", &|p| fs::write(p, "[".repeat(100_000)).unwrap());
        check("large", &|p| fs::File::create(p).unwrap().set_len(1 << 30).unwrap());
        check("link", &|p| symlink(outside.parent().unwrap(), p).unwrap());
        check("directory", &|p| fs::create_dir(p).unwrap());
        check("copy", &|p| {
            fs::copy(site.storage().join("images/good+latest.json"), p).unwrap();
        });
    });
}

/// A part of storage that leads elsewhere, or is no directory: refused by name, and what it leads to stays.
#[test]
fn parts_that_are_no_directories() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let outside = site.write("outside/precious", "precious");
        site.write("context/Dockerfile", "FROM base\nCOPY Dockerfile /\n");
        let tarball = image::small().display().to_string();
        let commands: &[&[&str]] =
            &[&["import", &tarball, "x"], &["build", "-t", "x", "context"], &["gc"], &["fsck"], &["reset"], &["list"]];
        let aside = site.path("aside");
        for name in
            ["images", "img", "dlcache", "layers", "blobs", "blobs/sha256", "ingest", "locks", "cache", "tmp", "trash"]
        {
            let part = site.storage().join(name);
            let check = |make: &dyn Fn()| {
                fs::rename(&part, &aside).unwrap();
                make();
                let error =
                    format!("error: storage directory is damaged: not a directory: SITE/storage/{name}\nhint: ");
                for command in commands {
                    site.bare().args(*command).limit(Duration::from_secs(20)).stderr_has(&error).failure();
                }
                assert_eq!(fs::read_dir(site.path("outside")).unwrap().count(), 1, "{name}");
                assert_eq!(fs::read_to_string(&outside).unwrap(), "precious", "{name}");
                fs::remove_file(&part).unwrap();
                fs::rename(&aside, &part).unwrap();
            };
            check(&|| symlink(outside.parent().unwrap(), &part).unwrap());
            check(&|| drop(site.program("mkfifo").arg(&part).success()));
        }
        // Files that would be waited for.
        site.run("build").args(["-t", "x", "context"]).success();
        let files = site.program("find").arg(site.storage()).args(["-name", "layer.json", "-o", "-path", "*/cache/*"]);
        for file in files.success().stdout.lines().map(|line| line.replace("SITE", site.path("").to_str().unwrap())) {
            fs::remove_file(&file).unwrap();
            site.program("mkfifo").arg(&file).success();
        }
        site.run("build").args(["-t", "x", "context"]).limit(Duration::from_secs(20)).finish();
        site.run("fsck").arg("--repair").limit(Duration::from_secs(20)).stdout_has("damaged layer").failure();
        site.run("fsck").arg("--deep").success();
    });
}

/// A copy of what holds the storage directory is without it; of what is in it there is none. Neither goes on for ever.
#[test]
fn storage_in_the_way() {
    in_each_mode(|site| {
        let base = image::small().display().to_string();
        let run = |args: &[&str]| {
            let run = site.bare().args(args).env("CH_IMAGE_STORAGE", site.path("around/storage"));
            run.limit(Duration::from_secs(60))
        };
        site.write("around/bin/file", "x");
        site.write("around/Dockerfile", "FROM base\nCOPY . /all/\nRUN ls /all\n");
        run(&["import", &base, "base"]).success();
        run(&["build", "-t", "built", "around"]).stdout("Dockerfile\nbin\n").success();
        run(&["import", "around", "imported"]).success();
        site.write("context/Dockerfile", "FROM imported AS from\nFROM base\nCOPY --from=from / /all/\nRUN ls /all\n");
        let list = run(&["build", "-t", "listed", "context"]).success().stdout;
        assert!(list.contains("bin\n") && !list.contains("storage"), "{list}");
        for inside in ["storage", "storage/tmp"] {
            let dir = format!("around/{inside}");
            let error = "it is in the storage directory\nhint: copy what you need of it elsewhere first\n";
            run(&["import", &dir, "x"]).stderr_has(error).failure();
            run(&["build", "-t", "x", "-f", "around/Dockerfile", &dir]).stderr_has(error).failure();
        }
        for foreign in ["/", "home", "."] {
            run(&["reset", "-s", foreign]).stderr_has("error: ").failure();
        }
        run(&["fsck", "--deep"]).success();
    });
}

/// Layers that are gone or are no layers: found, dropped, made again.
#[test]
fn fsck_repairs() {
    let site = Site::new();
    let check = |damage: &dyn Fn(&Path)| {
        site.import(image::small(), "base");
        site.run("reset").success();
        site.import(image::small(), "base");
        damage(&only_file(&site.storage().join("layers")));
        site.run("fsck").stdout_has("image base").failure();
        site.run("fsck").arg("--repair").stderr_has("dropped, to be built or imported again: base").failure();
        site.run("fsck").arg("--deep").success();
        site.import(image::small(), "base");
        site.ch_run("base").arg("true").success();
    };
    check(&|layer| fs::remove_dir_all(layer).unwrap());
    check(&|layer| fs::rename(layer.join("tree"), layer.join("elsewhere")).unwrap());
    check(&|layer| fs::write(layer.join("layer.json"), "{}").unwrap());
    check(&|layer| {
        let record = fs::read_to_string(layer.join("layer.json")).unwrap();
        fs::write(layer.join("layer.json"), record.replace("\"size\":", "\"size\":9999999999999")).unwrap();
        site.run("list").arg("-l").stdout_has("base").success();
    });
    check(&|layer| {
        fs::remove_dir_all(layer).unwrap();
        symlink("/proc", layer).unwrap();
    });
}

/// Files that RUN made setuid don't lie about as such.
#[test]
fn no_set_id_bits_on_disk() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let run = "FROM base\nRUN cp /bin/cat /mine; chmod 6755 /mine; mkdir /d; chmod 2775 /d; ls -l /mine >/seen\n";
        site.build("out", run).success();
        site.program("find").arg(site.storage()).args(["-perm", "/6000"]).stdout("").success();
        site.ch_run("out").args(["stat", "-c", "%a", "/mine"]).stdout("755\n").success();
        // Nor where no path reaches.
        let run = "FROM base\nRUN n=$(printf %0200d 1); for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do \
                   mkdir $n; cd ./$n; done; mkdir -p $n/$n/$n; cp /bin/cat $n/$n/$n/deep; chmod 4755 $n/$n/$n/deep\n";
        site.build("deep", run).arg("--force=none").success();
        let find = site.program("find").arg(site.storage()).args(["-name", "deep", "-printf", "%m\n"]);
        // In plain mode it is in the whole tree, too.
        let want = if site.mode() == Mode::Plain { "755\n755\n" } else { "755\n" };
        find.stdout(want).success();
    });
}

/// Whatever the caller's surroundings are: it works, or says what is wrong.
#[test]
fn odd_surroundings() {
    needs!("sh");
    let site = Site::new();
    site.import(image::small(), "base");
    let sh = |script: &str| {
        let run = site.program("sh").args(["-c", script]).env("CH", site.path("bin/ch-image"));
        let run = run.env("CH_IMAGE_STORAGE", site.storage()).env("DIR", site.path("")).env("SMALL", image::small());
        run.env("CR", site.path("bin/ch-run"))
    };
    for umask in ["000", "777"] {
        let script = format!("umask {umask}; $CH -s $DIR/st{umask} import $SMALL x && $CH -s $DIR/st{umask} list");
        sh(&script).stdout_has("x:latest").success();
        let made = fs::metadata(site.path(&format!("st{umask}"))).unwrap().permissions().mode() & 0o7777;
        assert_eq!(made, 0o700, "umask {umask}");
        // The command has the caller's mask; what is made for it has not.
        let script = format!("umask {umask}; $CR -s $DIR/st{umask} -w x -- sh -c umask && $CH -s $DIR/st{umask} reset");
        sh(&script).stdout(&format!("0{umask}\n")).success();
    }
    let before = fs::read(site.storage().join("images/base+latest.json")).unwrap();
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        sh(&format!("$CH import $SMALL closed {closed}; $CH list")).stdout_has("closed:latest").success();
        sh("$CH fsck --deep").success();
    }
    assert_eq!(fs::read(site.storage().join("images/base+latest.json")).unwrap(), before);
    sh("$CH list | head -c 1").stdout("b").stderr("").success();
    sh("$CH list >/dev/full").stderr_has("No space left on device").failure();
    sh("mkdir $DIR/gone; cd $DIR/gone; rmdir $DIR/gone; $CH list").stdout_has("base").success();
    sh("ulimit -f 100; $CH import $SMALL limited").stderr_has("File too large").failure();
    sh("$CH fsck --deep").success();
    symlink(site.path("home/.bashrc"), site.path("log-link")).unwrap();
    sh("mkfifo $DIR/log-fifo").success();
    for log in ["log-link", "log-fifo"] {
        let run = sh("$CH list").env("CH_LOG_FILE", site.path(log));
        run.stderr_has(&format!("SITE/{log}")).failure();
    }
    assert!(!site.path("home/.bashrc").exists());
}

/// The mode of a storage directory is for good; what is only short at the moment does not decide it.
#[test]
fn a_shortage_decides_no_mode() {
    needs!("prlimit");
    let site = Site::new();
    let short = site.program("prlimit").arg("--nproc=1").arg(site.path("bin/ch-image")).args(["import"]);
    let short = short.arg(image::small()).arg("base").env("CH_IMAGE_STORAGE", site.storage()).finish();
    if short.status.success() {
        skip!("this user has no limit of processes, or overlayfs is not tried");
    }
    let want = "can't fork: Resource temporarily unavailable\nhint: too many processes: see ulimit -u\n";
    assert!(short.stderr.ends_with(want), "{}", short.stderr);
    site.import(image::small(), "base");
    site.run("reset").success();
}

/// What only reads works where nothing can be written; the rest says so at once.
#[test]
fn read_only_storage() {
    needs!("unshare");
    let (site, registry) = (Site::new(), crate::harness::registry::Registry::start());
    site.import(image::small(), "base");
    let script = "mount --bind $ST $ST && mount -o remount,bind,ro $ST && exec \"$@\"";
    let run = |args: &[&str]| {
        let run = site.program("unshare").args(["-Urm", "sh", "-c", script, "sh"]).arg(site.path("bin/ch-image"));
        run.args(args).env("ST", site.storage()).env("CH_IMAGE_STORAGE", site.storage())
    };
    if !run(&["storage-path"]).finish().status.success() {
        skip!("no bind mounts in a user namespace");
    }
    run(&["list"]).stdout_has("base:latest").success();
    run(&["fsck"]).success();
    run(&["push", "base", &registry.name("a/b:1")]).success();
    for args in [&["delete", "base"][..], &["import", image::small().to_str().unwrap(), "x"], &["gc"], &["reset"]] {
        run(args).stderr_has("Read-only file system").failure();
    }
    let seen = registry.server.seen().len();
    run(&["pull", &registry.name("a/b:1")]).stderr_has("Read-only file system").failure();
    assert_eq!(registry.server.seen().len(), seen, "asked the registry first");
}
