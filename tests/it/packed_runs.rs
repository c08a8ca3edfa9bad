//! Do packed images run as they are (`ch-run FILE`), and does their server end when it should?

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::harness::run::Run;
use crate::harness::{Site, image, in_each_mode, wait_for};

/// Leaves the test, visibly, where packed images can't be mounted.
macro_rules! needs_fuse {
    () => {
        if let Err(e) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
            $crate::skip!("/dev/fuse can't be opened: {e} (as root: chmod 0666 /dev/fuse)");
        }
    };
}
pub(crate) use needs_fuse;

/// A packed image of the tarball.
pub fn packed(site: &Site, tarball: &Path, options: &[&str]) -> PathBuf {
    let path = site.path("image.sqfs");
    site.import(tarball, "base");
    site.run("export").args(["--overwrite"]).args(options).arg("base").arg(&path).success();
    path
}

fn run(site: &Site, image: &Path, script: &str) -> Run {
    site.ch_run(image.to_str().unwrap()).args(["sh", "-c", script])
}

/// The processes that serve this image: they have ch-run's command line.
pub fn servers(image: &Path) -> Vec<i32> {
    assert!(image.is_absolute(), "{image:?} may stand in the command line of any process");
    let is_meant = |pid: &i32| {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let line = String::from_utf8_lossy(&read("cmdline")).into_owned();
        line.contains(image.to_str().unwrap()) && !String::from_utf8_lossy(&read("stat")).contains(") Z ")
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_meant).collect()
}

pub fn assert_no_server(image: &Path) {
    wait_for("the server's end", || servers(image).is_empty());
}

/// A command that writes `begun` and goes on when there is a file `end`, in the site's home directory.
fn waiting(then: &str) -> String {
    format!("cd && touch begun && until test -e end; do sleep 0.05; done; {then}")
}

fn has_begun(site: &Site) {
    wait_for("the command's begin", || site.path("home/begun").exists());
}

/// A Dockerfile that makes what trees can have.
const ODD: &str = r#"FROM base
RUN mkdir -p /odd/many /odd/sticky && cd /odd && chmod 1777 sticky && chmod 4711 /bin/true && \
    i=0; while [ $i -lt 700 ]; do echo $i >many/$i-a-name-that-is-not-short; i=$((i+1)); done; \
    ln -s ../odd/many way && ln -s /nowhere dangling && echo one >first && ln first second && \
    dd if=/dev/urandom of=large bs=1000 count=3000 2>/dev/null && \
    dd if=/dev/zero of=hole bs=1 count=1 seek=5000000 2>/dev/null && chmod 600 large && : >empty
"#;

#[test]
fn a_packed_image_is_a_tree_like_others() {
    needs_fuse!();
    let site = Site::new();
    site.import(image::small(), "base");
    site.build("odd", ODD).success();
    let want = site.tree("odd");
    for options in [&[][..], &["--compress=gzip", "--block-size=4K"], &["--compress=lz4", "--block-size=1M"]] {
        let image = site.path("image.sqfs");
        site.run("export").arg("--overwrite").args(options).arg("odd").arg(&image).success();
        site.tree(image.to_str().unwrap()).assert_same(&want, &format!("{options:?}"));
        let again = "cd /odd && cat large first | cat - large >/dev/null && find . | wc -l && stat -c %h first";
        run(&site, &image, again).stdout("710\n2\n").success();
        assert_no_server(&image);
    }
}

#[test]
fn what_runs_is_the_command_in_its_place() {
    needs_fuse!();
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.build("made", "FROM base\nENV A=b\nRUN mkdir /opt\nWORKDIR /opt\n").success();
        let image = site.path("made.sqfs");
        site.run("export").arg("made").arg(&image).success();
        let shown = image.to_str().unwrap();
        let in_image = |options: &[&str], script: &str| site.ch_run_with(options, shown).args(["sh", "-c", script]);
        in_image(&[], "pwd; echo \"<$A>\"").stdout("/opt\n<b>\n").stderr("").success();
        in_image(&["--set-env"], "echo $A").stdout("b\n").success();
        in_image(&["-u0", "-g0"], "id -u; stat -c %u /etc").stdout("0\n0\n").success();
        in_image(&[], "touch /etc/x 2>/dev/null || echo read-only").stdout("read-only\n").success();
        in_image(&["-b", "/usr:/new/place"], "test -d /new/place/bin && echo there").stdout("there\n").success();
        in_image(&["-b", "/:/host"], "test -d /host/usr && echo there").stdout("there\n").success();
        // Whatever is bound, the image is mounted over none of it.
        in_image(
            &["-b", "/:/host", "-b", "/var/tmp:/mnt/0"],
            "test -d /host/usr && test -d /host/var/tmp && echo there",
        )
        .stdout("there\n")
        .success();
        in_image(&[], "exit 7").code(7);
        in_image(&[], "grep ' / ' /proc/mounts | grep -c 'fuse ro,nosuid,nodev'").stdout("1\n").success();
        site.ch_run("./made.sqfs").arg("true").stderr("").success();
        site.ch_run("made.sqfs").arg("true").stderr("").success();
        site.ch_run_with(&["-w"], shown)
            .arg("true")
            .stderr_has("a packed image never changes\nhint: ")
            .ch_run_failure();
        let text = site.write("text", "no image");
        let error = "error: not an image: SITE/text is neither SquashFS nor SIF\n\
                     hint: an archive becomes an image by: ch-image import; an image becomes a SquashFS file by: ch-image export\n";
        site.ch_run(text.to_str().unwrap()).arg("true").stderr(error).ch_run_failure();
        let cut = site.path("cut.sqfs");
        fs::write(&cut, &fs::read(&image).unwrap()[..10_000]).unwrap();
        site.ch_run(cut.to_str().unwrap()).arg("true").stderr_has("truncated").ch_run_failure();
        assert_no_server(&image);
    });
}

/// As batch systems want it: no child that the command does not know, no open pipe, no signal of the terminal.
#[test]
fn the_command_knows_nothing_of_its_server() {
    needs_fuse!();
    let site = Site::new();
    let image = packed(&site, image::small(), &[]);
    let command = run(&site, &image, &waiting("cat /etc/group >/dev/null")).start();
    has_begun(&site);
    let pid = command.child.id();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "sh\n", "ch-run has become the command");
    let found = servers(&image);
    assert_eq!(found.len(), 1);
    let status = fs::read_to_string(format!("/proc/{}/status", found[0])).unwrap();
    assert!(!status.contains(&format!("PPid:\t{pid}\n")), "{status}");
    let stat = fs::read_to_string(format!("/proc/{}/stat", found[0])).unwrap();
    let session = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().to_owned();
    assert_ne!(
        session,
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .unwrap()
            .rsplit_once(") ")
            .unwrap()
            .1
            .split(' ')
            .nth(3)
            .unwrap()
    );
    for signal in ["TERM", "INT", "HUP", "USR1"] {
        site.program("kill").args(["-s", signal, &found[0].to_string()]).success();
    }
    site.write("home/end", "");
    assert_eq!(command.into_done(&[]).status.code(), Some(0));
    assert_no_server(&image);
}

/// The server stays for those whom the command has left behind, and ends with the last of them.
#[test]
fn the_last_process_ends_the_server() {
    needs_fuse!();
    let site = Site::new();
    let image = packed(&site, image::small(), &[]);
    let left = "(cd; until test -e end; do sleep 0.05; done; cat /etc/group >out; mv out done) >/dev/null 2>&1 &";
    run(&site, &image, left).stdout("").stderr("").success();
    assert_eq!(servers(&image).len(), 1);
    site.write("home/end", "");
    wait_for("what was left behind", || site.path("home/done").exists());
    assert!(fs::read_to_string(site.path("home/done")).unwrap().contains("root"));
    assert_no_server(&image);
}

#[test]
fn whoever_is_killed_leaves_nothing() {
    needs_fuse!();
    let site = Site::new();
    let image = packed(&site, image::small(), &[]);
    for round in 0..10 {
        let mut command = run(&site, &image, &waiting("")).start();
        if round % 2 == 0 {
            has_begun(&site);
        }
        command.kill();
        site.write("home/end", "");
        assert_no_server(&image);
        let _ = fs::remove_file(site.path("home/begun"));
        fs::remove_file(site.path("home/end")).unwrap();
    }
}

/// Without its server a command gets errors, and never waits.
#[test]
fn a_killed_server_is_an_error() {
    needs_fuse!();
    let site = Site::new();
    let image = packed(&site, image::small(), &[]);
    for round in 0..5 {
        let command = run(&site, &image, &waiting("echo /etc/* 2>&1; read x </etc/group; echo $?")).start();
        has_begun(&site);
        for pid in servers(&image) {
            site.program("kill").args(["-9", &pid.to_string()]).success();
        }
        assert_no_server(&image);
        site.write("home/end", "");
        let done = command.into_done(&[]);
        // What the shell needs is in memory or not: it says so, or is ended by it.
        let failed = done.stderr.contains("not connected") || !done.status.success();
        assert!(failed, "round {round}: {} {}", done.stdout, done.stderr);
        for name in ["begun", "end"] {
            fs::remove_file(site.path("home").join(name)).unwrap();
        }
    }
}

#[test]
fn an_image_that_is_written_to_is_an_error() {
    needs_fuse!();
    let site = Site::new();
    site.import(image::small(), "base");
    site.build("made", "FROM base\nRUN dd if=/dev/urandom of=/large bs=1000 count=3000 2>/dev/null\n").success();
    let image = site.path("made.sqfs");
    site.run("export").arg("made").arg(&image).success();
    let replaced = run(&site, &image, &waiting("dd if=/large bs=1000 2>/dev/null | wc -c")).start();
    has_begun(&site);
    // By another file of that name: the one that is mounted is as it was.
    let copy = site.path("copy");
    fs::copy(&image, &copy).unwrap();
    fs::rename(&copy, &image).unwrap();
    site.write("home/end", "");
    let done = replaced.into_done(&[]);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("3000000\n", ""));
    for name in ["begun", "end"] {
        fs::remove_file(site.path("home").join(name)).unwrap();
    }
    let read = "cat /large >/dev/null; echo $?; cat /large >/dev/null; echo $?";
    let cut = run(&site, &image, &waiting(read)).start();
    has_begun(&site);
    File::options().write(true).open(&image).unwrap().set_len(5000).unwrap();
    site.write("home/end", "");
    let done = cut.into_done(&[]);
    let said = format!("warning: image {}: can't be read: ", image.display());
    assert_eq!(done.stdout, "1\n1\n", "{} {}", done.stderr, done.status);
    assert!(done.stderr.matches(&said).count() == 1, "{}", done.stderr);
    assert_no_server(&image);
}

/// What was seen once costs no request any more.
#[test]
fn the_kernel_asks_once() {
    needs_fuse!();
    let site = Site::new();
    site.import(image::small(), "base");
    site.build("odd", ODD).success();
    let image = site.path("image.sqfs");
    site.run("export").arg("odd").arg(&image).success();
    let look = "find /odd /etc -xdev -exec stat -c %n {} + >/dev/null; cat /odd/many/* /odd/large /odd/first >/dev/null; \
                ls -R /odd >/dev/null; readlink /odd/way >/dev/null; test -e /odd/none || true;";
    let requests = |script: &str| -> u32 {
        let file = site.path("requests");
        run(&site, &image, script).env("CH_TEST_FUSE_COUNT", &file).success();
        wait_for("the count", || fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')));
        fs::read_to_string(&file).unwrap().trim().parse().unwrap()
    };
    let once = requests(look);
    assert!(once > 20, "{once}");
    assert_eq!(requests(&format!("{look} {look} {look}")), once);
}

/// What is in a directory for the user's unpacked images.
fn unpacked(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Unpacked once for all who use it at the same time, and removed by the last one.
#[test]
fn an_image_that_is_not_mounted_is_unpacked() {
    let site = Site::new();
    site.import(image::small(), "base");
    site.build("odd", ODD).success();
    let image = site.path("odd.sqfs");
    site.run("export").arg("odd").arg(&image).success();
    let dir = site.path("tmpdir");
    fs::create_dir(&dir).unwrap();
    let run = |script: &str| {
        let run = site.ch_run_with(&["--no-mount"], image.to_str().unwrap()).args(["sh", "-c", script]);
        run.env("TMPDIR", &dir)
    };
    for round in 0..2 {
        let first = run(&waiting("cat /odd/second; touch /odd/x 2>/dev/null || echo read-only")).start();
        has_begun(&site);
        let [name] = &unpacked(&dir)[..] else { panic!("{:?}", unpacked(&dir)) };
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&dir.join(name).metadata().unwrap().permissions()) & 0o777,
            0o700
        );
        run("find /odd | wc -l; stat -c %h /odd/first; pwd").stdout("710\n2\n/\n").stderr("").success();
        assert_eq!(unpacked(&dir).len(), 1);
        site.write("home/end", "");
        let done = first.into_done(&[]);
        let said =
            format!("unpacking image {} into {} (as --no-mount asks for)\n", image.display(), dir.join(name).display());
        assert_eq!((done.stdout.as_str(), done.stderr), ("one\nread-only\n", said), "round {round}");
        wait_for("the removal", || unpacked(&dir).is_empty());
        for name in ["begun", "end"] {
            fs::remove_file(site.path("home").join(name)).unwrap();
        }
    }
    // Several at once, of which one is killed (nobody waits for the end of those who use it); what is left behind keeps the tree.
    let left = "(cd; until test -e end; do sleep 0.05; done; cat /odd/second >out; mv out done) >/dev/null 2>&1 & cat /odd/first";
    let mut all: Vec<_> = (0..4).map(|_| run(left).start()).collect();
    all.remove(0).kill();
    for one in all {
        assert_eq!(one.into_done(&[]).stdout, "one\n");
    }
    assert_eq!(unpacked(&dir).len(), 1);
    site.write("home/end", "");
    wait_for("what was left behind", || site.path("home/done").exists());
    wait_for("the removal", || unpacked(&dir).is_empty());
    assert_no_server(&image);
}

/// What others have made in /tmp is not used, and what was left by one that was killed goes with the next one.
#[test]
fn unpacked_images_are_the_users_own() {
    let site = Site::new();
    let image = packed(&site, image::small(), &[]);
    let dir = site.path("tmpdir");
    fs::create_dir(&dir).unwrap();
    let run = |script: &str| {
        let run = site.ch_run_with(&["--no-mount"], image.to_str().unwrap()).args(["sh", "-c", script]);
        run.env("TMPDIR", &dir)
    };
    let command = run(&waiting("")).start();
    has_begun(&site);
    let name = unpacked(&dir).remove(0);
    for pid in servers(&image) {
        site.program("kill").args(["-9", &pid.to_string()]).success();
    }
    site.write("home/end", "");
    assert_eq!(command.into_done(&[]).status.code(), Some(0));
    assert_eq!(unpacked(&dir).concat(), name, "nobody has removed it");
    let prefix = name.rsplit_once('.').unwrap().0;
    let old = dir.join(format!("{prefix}.old"));
    fs::create_dir(&old).unwrap();
    fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    run("true").stderr("").success();
    wait_for("the removal", || unpacked(&dir).is_empty());
    // One that others can look into.
    fs::create_dir(dir.join(&name)).unwrap();
    let refused =
        format!("SITE/tmpdir/{name} belongs to somebody else, or others may use it\nhint: $TMPDIR says where");
    run("true").stderr_has(&refused).ch_run_failure();
    run("true").env("TMPDIR", site.path("none")).stderr_has("hint: $TMPDIR says where it is unpacked").ch_run_failure();
}

#[test]
fn without_the_device_it_is_said_whom_to_ask() {
    crate::needs!("unshare");
    let site = Site::new();
    let image = packed(&site, image::small(), &[]);
    fs::create_dir(site.path("tmpdir")).unwrap();
    let hidden = "mount -t tmpfs none /mnt && touch /mnt/null && mount --bind /dev/null /mnt/null && mount -n --move /mnt /dev && exec";
    let script = format!("{hidden} ch-run --no-home $IMAGE -- sh -c 'echo inside'");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", site.path("bin").display());
    let run = |script: &str| {
        let run = site.program("unshare").args(["-Urm", "sh", "-c", script]).env("PATH", &path);
        run.env("IMAGE", &image).env("TMPDIR", site.path("tmpdir"))
    };
    let has = "(/dev/fuse can't be opened: No such file or directory; ask the administrator for: modprobe fuse)\n";
    run(&script).stdout("inside\n").stderr_has(has).success();
    wait_for("the removal", || unpacked(&site.path("tmpdir")).is_empty());
    let page = run(&format!("{hidden} ch-image doctor")).finish().stdout;
    let said = "limited  /dev/fuse: No such file or directory\n         so: ch-run unpacks packed images into SITE/tmpdir first\n         \
                ask the administrator: modprobe fuse\n";
    assert!(page.contains(said), "{page}");
}

/// Damaged anywhere, an image is an error or another image, and nobody waits for ever.
#[test]
fn damaged_images_keep_nobody_waiting() {
    needs_fuse!();
    let site = Site::new();
    let image = packed(&site, image::small(), &["--compress=none"]);
    let whole = fs::read(&image).unwrap();
    let script = "find / -xdev -type f -exec cat {} + >/dev/null; ls -lR /bin /etc /usr >/dev/null";
    // The tables are at the end: 64 places there, and in the header.
    let tables = whole.len() - 16_000.min(whole.len() - 96);
    let places = (0..96).step_by(3).chain((tables..whole.len()).step_by((whole.len() - tables).div_ceil(64)));
    for (n, place) in places.enumerate() {
        let mut bytes = whole.clone();
        bytes[place] ^= [0xff, 0x01, 0x80, 0x10][n % 4];
        fs::write(&image, bytes).unwrap();
        let run = site.ch_run_with(&["--no-home"], image.to_str().unwrap()).args(["sh", "-c", script]);
        let done = run.limit(std::time::Duration::from_secs(60)).finish();
        assert!(!done.stderr.contains("panicked"), "byte {place}: {}", done.stderr);
        assert_no_server(&image);
    }
}

#[test]
fn the_server_needs_little_memory() {
    needs_fuse!();
    let site = Site::new();
    site.import(image::small(), "base");
    let random = "RUN for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/large$i bs=1000 count=4000 2>/dev/null; done";
    site.build("large", &format!("FROM base\n{random}\n")).success();
    let image = site.path("image.sqfs");
    site.run("export").args(["--block-size=1M", "large"]).arg(&image).success();
    let read = "for i in 1 2 3 4 5 6 7 8; do cat /large$i >/dev/null & done; wait; ";
    let command = run(&site, &image, &format!("{read}{}", waiting(""))).start();
    has_begun(&site);
    let [server] = servers(&image)[..] else { panic!("one server") };
    let status = fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let peak: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak <= 48 << 10, "{peak} KiB");
    site.write("home/end", "");
    assert_eq!(command.into_done(&[]).status.code(), Some(0));
    assert_no_server(&image);
}
