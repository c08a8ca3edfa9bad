//! A place of its own for each test: storage, home, scratch files, in one directory that goes away with the test.
//!
//! It stays if the test fails, and says where. It lies below the target directory, which is on a disk: overlay mode
//! wants a file system with user attributes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::run::Run;
use super::tree::Tree;

/// How the storage directory keeps images (the manual page knows nothing of it; see src/README.md).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Overlay,
    Plain,
}

pub struct Site {
    dir: PathBuf,
    mode: Mode,
}

/// The names of the program.
pub const PROGRAMS: [&str; 7] =
    ["ch-image", "ch-run", "ch-convert", "ch-builder2tar", "ch-builder2squash", "ch-tar2dir", "ch-dir2squash"];

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Site {
    /// In overlay mode, unless the whole suite is forced to plain.
    pub fn new() -> Site {
        Site::of(modes()[0])
    }

    pub fn of(mode: Mode) -> Site {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = scratch().join(format!("{}-site-{n}", std::process::id()));
        fs::create_dir_all(dir.join("home")).unwrap();
        fs::create_dir_all(dir.join("bin")).unwrap();
        for name in PROGRAMS {
            std::os::unix::fs::symlink(program(), dir.join("bin").join(name)).unwrap();
        }
        Site { dir, mode }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn storage(&self) -> PathBuf {
        self.path("storage")
    }

    /// Writes a scratch file (with its directories) and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// `ch-image SUBCOMMAND` here, in this site's environment and nothing else of the caller's.
    pub fn run(&self, subcommand: &str) -> Run {
        self.bare().arg(subcommand)
    }

    /// `ch-image` without a subcommand.
    pub fn bare(&self) -> Run {
        self.program("ch-image").env("CH_IMAGE_STORAGE", self.storage())
    }

    /// `ch-image` that heeds signals, even if whoever started the tests ignores some (nohup, a shell's `&`): such stay
    /// ignored.
    pub fn heeding_signals(&self) -> Run {
        let run = self.program("env").arg("--default-signal").arg(self.path("bin/ch-image"));
        run.env("CH_IMAGE_STORAGE", self.storage())
    }

    /// `ch-run IMAGE -- ` and so on.
    pub fn ch_run(&self, image: &str) -> Run {
        self.ch_run_with(&[], image)
    }

    /// `ch-run OPTION... IMAGE -- ` and so on.
    pub fn ch_run_with(&self, options: &[&str], image: &str) -> Run {
        self.program("ch-run").env("CH_IMAGE_STORAGE", self.storage()).args(options).arg(image).arg("--")
    }

    /// A build of the site's directory `context`, whose Dockerfile is this text.
    pub fn build(&self, tag: &str, dockerfile: &str) -> Run {
        self.write("context/Dockerfile", dockerfile);
        self.run("build").args(["-t", tag]).arg(self.path("context"))
    }

    /// A program of the site's `bin` or of the machine, in the site's environment.
    pub fn program(&self, name: &str) -> Run {
        let own = self.dir.join("bin").join(name);
        let path = if own.exists() { own } else { super::skip::find(name).expect("installed") };
        let mut run = Run::of(&path).hide(self.dir.to_str().unwrap(), "SITE");
        run.clear_env();
        run = run.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        run = run.env("HOME", self.path("home")).env("USER", "tester").env("LANG", "C.UTF-8");
        run = run.current_dir(&self.dir);
        if self.mode == Mode::Plain { run.env("CH_IMAGE_TEST_MODE", "plain") } else { run }
    }

    /// Imports an image tarball.
    pub fn import(&self, tarball: &Path, name: &str) {
        self.run("import").arg(tarball).arg(name).success();
    }

    /// Files of an image in storage, as a command in it sees them, without what `ch-run` itself puts over them and
    /// without what every image is given (the manual page's mount points and metadata).
    pub fn tree(&self, image: &str) -> Tree {
        let tar = self.path("tree.tar");
        let tops = "ls -A | grep -vxE 'ch|dev|home|mnt|proc|sys|tmp'";
        self.ch_run_with(&["--no-home", "--no-passwd"], image)
            .args(["sh", "-c", &format!("cd / && tar -cf - $({tops})")])
            .into_file(&tar)
            .success();
        Tree::of_tarball(&tar).without(Self::GIVEN)
    }

    /// Paths that images have or get from us, so that trees are compared without them.
    pub const GIVEN: &[&str] =
        &["ch", "dev", "etc/hosts", "etc/machine-id", "etc/resolv.conf", "home", "mnt", "proc", "sys", "tmp"];

    /// Runs a script where `/st` of the site is a tmpfs with these options, which is the storage directory; `$CH` is the
    /// program, `$DIR` the site. `None`: users may not mount here.
    pub fn on_tmpfs(&self, options: &str, script: &str) -> Option<Run> {
        fs::create_dir_all(self.path("st")).unwrap();
        let can = self.program("unshare").args(["-Urm", "mount", "-t", "tmpfs", "tmpfs"]).arg(self.path("st")).finish();
        if !can.status.success() {
            return None;
        }
        let script = format!("set -u; mount -t tmpfs -o {options} tmpfs $DIR/st\n{script}");
        let run = self.program("unshare").args(["-Urm", "sh", "-c", &script]).env("DIR", self.path(""));
        Some(run.env("CH", self.path("bin/ch-image")).env("CH_IMAGE_STORAGE", self.path("st")))
    }

    /// Names of all images in storage, as `list` prints them, without the architecture.
    pub fn images(&self) -> Vec<String> {
        let done = self.run("list").success();
        done.stdout.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let left = mounts.lines().find(|line| line.contains(self.dir.to_str().unwrap()));
        if std::thread::panicking() || left.is_some() {
            super::skip::say(&format!("left for you to look at: {}", self.dir.display()));
            assert!(std::thread::panicking(), "left mounted: {}", left.unwrap());
            return;
        }
        remove(&self.dir);
    }
}

/// Images hold directories that their owner may not enter; `remove_dir_all` gives up there. Never crosses a mount: if
/// one were left behind by mistake, the machine's own /dev could be what is removed.
pub fn remove(dir: &Path) {
    let open = ["-xdev", "-type", "d", "!", "-perm", "-u=rwx", "-exec", "chmod", "u+rwx", "{}", ";"];
    let _ = Command::new("find").arg(dir).args(open).stderr(std::process::Stdio::null()).status();
    let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(dir).status();
}

/// The directory for everything that tests write.
pub fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        let dir = PathBuf::from(std::env::var_os("CH_TEST_TMPDIR").unwrap_or(env!("CARGO_TARGET_TMPDIR").into()));
        fs::create_dir_all(&dir).unwrap();
        sweep(&dir);
        dir
    })
}

/// Removes what earlier runs left: names begin with the process that made them. This one has made nothing yet: what
/// bears its number is of another that had it before.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let made_by = name.split('-').next().and_then(|pid| pid.parse::<u32>().ok());
        let is_gone = |pid: u32| pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists();
        if made_by.is_some_and(is_gone) {
            remove(&entry.path());
        }
    }
}

/// A path below /tmp where nothing is, whatever others left there.
pub fn in_tmp(name: &str) -> PathBuf {
    let paths = (0..).map(|n| Path::new("/tmp").join(format!("{name}-{}-{n}", std::process::id())));
    paths.into_iter().find(|path| path.symlink_metadata().is_err()).unwrap()
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        std::env::var_os("CH_TEST_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_ch-image").into(), PathBuf::from)
    })
}

fn modes() -> &'static [Mode] {
    if std::env::var("CH_TEST_FORCE_PLAIN").is_ok_and(|v| v == "1") {
        &[Mode::Plain]
    } else {
        &[Mode::Overlay, Mode::Plain]
    }
}

/// Runs a test once in each storage mode that this machine has.
pub fn in_each_mode(test: impl Fn(&Site)) {
    for &mode in modes() {
        if mode == Mode::Overlay && !has_overlay() {
            super::skip::note("no overlay mode on this kernel or file system");
            continue;
        }
        test(&Site::of(mode));
    }
}

/// Whether a storage directory made here, with nothing said about its mode, is one of layers. (In plain mode, which is
/// forced, it must not be.)
pub fn has_overlay() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let version = |mode| {
            let site = Site::of(mode);
            let tarball =
                super::image::make("probe.tar", |image| ["bin", "dev", "usr"].iter().for_each(|d| image.dir(d, 0o755)));
            site.import(&tarball, "probe");
            fs::read_to_string(site.storage().join("version")).unwrap()
        };
        assert!(version(Mode::Plain).contains("plain"), "CH_IMAGE_TEST_MODE=plain has no effect");
        version(Mode::Overlay).contains("overlay")
    })
}
