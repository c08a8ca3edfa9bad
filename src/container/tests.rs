//! Commands in a tree made of this machine's static busybox.
//!
//! Namespaces can only be entered by a process without threads, and the test runner has some: each test runs itself
//! again as a process of its own, whose only other thread is asleep when it forks.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::overlay::MAX_LAYERS;
use super::ownership::Ledger;
use super::*;
use crate::sys::process::{self, Ended, Fork};

mod emulation;

const MARK: &str = "CH_TEST_ISOLATED";

fn run(spec: &Spec) -> crate::error::Result<Status> {
    run_recorded(spec, &mut Ledger::new()).map(|(status, _)| status)
}

/// Runs `body` in a process of its own. `name` is the test's, below this module.
fn isolated(name: &str, body: impl FnOnce(&Path)) {
    if !Path::new("/bin/busybox").exists() || can_enter().is_err() {
        assert!(std::env::var_os("CH_TEST_MUST_RUN").is_none(), "needs /bin/busybox and user namespaces");
        println!("SKIPPED: {name}: needs /bin/busybox and user namespaces");
        return;
    }
    let full = format!("container::tests::{name}");
    if std::env::var_os(MARK).is_none() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &full, "--test-threads=1", "--nocapture"])
            .env(MARK, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    pause(20);
    while !others_are_asleep() {
        pause(1);
    }
    if let Fork::Parent(pid) = process::fork(0).unwrap() {
        assert_eq!(process::wait(pid).unwrap(), Ended::Exited(0));
        return;
    }
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| within(name, body)));
    process::exit(if done.is_ok() { 0 } else { 1 })
}

fn pause(millis: u64) {
    std::thread::sleep(std::time::Duration::from_millis(millis));
}

/// Whether no other thread of this process can have a lock for which a forked child would wait for ever.
fn others_are_asleep() -> bool {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path().join("stat"));
    let awake = tasks.filter(|stat| !fs::read_to_string(stat).unwrap_or_default().contains(") S "));
    awake.count() == 1
}

fn within(name: &str, body: impl FnOnce(&Path)) {
    // Not in /tmp, which commands see.
    let dir = Path::new("/var/tmp").join(format!("ch-container-{}-{}", std::process::id(), name));
    // Of a process that had this number before.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    body(&dir);
    fs::remove_dir_all(&dir).unwrap();
}

/// A tree with a shell and some tools.
fn tree(at: &Path) -> PathBuf {
    let root = at.join("root");
    for dir in ["bin", "dev", "etc", "proc", "sys", "tmp", "home", "mnt/0"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for file in ["hosts", "resolv.conf", "passwd", "group"] {
        fs::write(root.join("etc").join(file), "").unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for tool in [
        "sh", "ls", "cat", "id", "echo", "test", "sleep", "ps", "kill", "mount", "umount", "pwd", "readlink", "mkdir",
        "rm", "chmod", "env", "grep", "tr", "stat", "touch", "setsid", "wc",
    ] {
        symlink("busybox", root.join("bin").join(tool)).unwrap();
    }
    root
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Where commands write for us: in the host's /tmp, which they see.
fn out() -> PathBuf {
    Path::new("/tmp").join(format!("ch-out-{}-{}", crate::sys::fs::euid(), std::process::id()))
}

/// A command that ends long after the test, and that nobody else runs.
fn endless() -> String {
    format!("sleep {}", 100_000 + std::process::id())
}

/// Whether this command runs; a shell that has it within a longer argument does not count.
fn runs(command: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| line.strip_suffix(b"\0").is_some_and(|line| line == command.replace(' ', "\0").as_bytes()))
}

/// A RUN whose shell script writes to a file of the host; returns what it wrote.
fn output(spec: &mut Spec, script: &str) -> (Status, String) {
    let out = out();
    let target = out.display();
    spec.argv = words(&["/bin/sh", "-c", &format!("{{ {script}\n}} > {target} 2>&1")]);
    spec.env = vec![("PATH".into(), "/bin".into())];
    spec.tmp = Tmp::Host;
    let status = run(spec).unwrap();
    let text = fs::read_to_string(&out).unwrap_or_default();
    let _ = fs::remove_file(&out);
    (status, text)
}

#[test]
fn a_command_runs() {
    isolated("a_command_runs", |dir| {
        let mut spec = Spec::new(tree(dir), Vec::new());
        let (status, text) = output(&mut spec, "id -u; id -g; echo $$; pwd; echo $PATH; ls /proc/self/fd; exit 7");
        assert_eq!(status, Status::Exited(7));
        // ls has the directory itself open as 3.
        assert_eq!(text, "0\n0\n2\n/\n/bin\n0\n1\n2\n3\n");
        let (status, _) = output(&mut spec, "kill -9 $$");
        assert_eq!(status, Status::Signaled(9));
    });
}

/// Whether overlayfs can be had here; says so if not.
fn can_stack(dir: &Path) -> bool {
    let [lower, upper, work, at] = ["lower", "upper", "work", "at"].map(|name| dir.join("probe").join(name));
    for path in [&lower, &upper, &work, &at] {
        fs::create_dir_all(path).unwrap();
    }
    let done = Overlay::mount(std::slice::from_ref(&lower), Some((&upper, &work)), &at).and_then(Overlay::unmount);
    if let Err(e) = &done {
        assert!(std::env::var_os("CH_TEST_MUST_RUN").is_none(), "needs overlayfs: {e}");
        println!("SKIPPED: needs overlayfs: {e}");
    }
    done.is_ok()
}

#[test]
fn layers_become_one_tree() {
    isolated("layers_become_one_tree", |dir| {
        enter().unwrap();
        if !can_stack(dir) {
            return;
        }
        let at = dir.join("at");
        fs::create_dir(&at).unwrap();
        let layer = |i: usize| {
            let layer = dir.join(format!("layers, with: odd \\ names/{i}"));
            fs::create_dir_all(&layer).unwrap();
            fs::write(layer.join(format!("f{i}")), i.to_string()).unwrap();
            fs::write(layer.join("top"), i.to_string()).unwrap();
            layer
        };
        for n in [0, 1, 2, 60, 300, MAX_LAYERS] {
            let layers: Vec<_> = (0..n).map(layer).collect();
            let (upper, work) = (dir.join("upper"), dir.join("work"));
            for write in [false, true] {
                fs::create_dir_all(&upper).unwrap();
                fs::create_dir_all(&work).unwrap();
                let overlay = Overlay::mount(&layers, write.then_some((&upper, &work)), &at).unwrap();
                let mut names: Vec<_> =
                    fs::read_dir(&at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
                names.sort();
                let mut want: Vec<_> = (0..n).map(|i| format!("f{i}")).collect();
                want.extend((n > 0).then(|| "top".into()));
                want.sort();
                assert_eq!(names, want, "{n} layers");
                if n > 0 {
                    assert_eq!(fs::read_to_string(at.join("top")).unwrap(), (n - 1).to_string());
                }
                assert_eq!(fs::write(at.join("new"), "").is_ok(), write, "{n} layers");
                overlay.unmount().unwrap();
                assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
                assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "the kernel's work directory is gone");
                assert_eq!(upper.join("new").exists(), write);
                fs::remove_dir_all(&upper).unwrap();
            }
        }
        assert!(Overlay::mount(&vec![at.clone(); 500], None, &at).unwrap_err().to_string().contains("too many layers"));
        assert!(Overlay::mount(&[dir.join("none")], None, &at).unwrap_err().to_string().contains("none: No such file"));
    });
}

/// Everything below a directory: names, types, link targets.
fn listing(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            all.push(format!("{} {:o} {}", path.display(), meta.permissions().mode(), meta.len()));
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
    all.sort();
    all
}

#[test]
fn mount_points_that_are_links_stay_inside() {
    isolated("mount_points_that_are_links_stay_inside", |dir| {
        let outside = dir.join("outside");
        fs::create_dir_all(outside.join("dev")).unwrap();
        let before = listing(&outside);
        let link = |root: &Path, name: &str, to: &str| {
            let _ = fs::remove_dir_all(root.join(name));
            let _ = fs::remove_file(root.join(name));
            symlink(to, root.join(name)).unwrap();
        };
        let check = |name: &str, to: &str, script: &str, want: &str| {
            let root = tree(dir);
            link(&root, name, to);
            let whole = listing(&root);
            let (status, text) = output(&mut Spec::new(&root, Vec::new()), script);
            assert_eq!((status, text.as_str()), (Status::Exited(0), want), "{name} -> {to}");
            assert_eq!(listing(&root), whole, "{name} -> {to}: what was made to mount on is gone");
            assert_eq!(listing(&outside), before, "{name} -> {to}");
            fs::remove_dir_all(&root).unwrap();
        };
        let out = outside.to_str().unwrap();
        let probe = "test -c /dev/null && test -e /proc/1/stat && test -d /sys/kernel && echo ok";
        check("etc", "/mnt/0", probe, "ok\n");
        check("etc", out, probe, "ok\n");
        check("dev", "../../../../mnt/new", "test -c /mnt/new/null && echo ok", "ok\n");
        check("dev", out, "test -c /dev/null && echo ok", "ok\n");
        check("proc", "mnt/0", "test -e /mnt/0/self/stat && echo ok", "ok\n");
        check("sys", "/a/b/c", "test -d /a/b/c/kernel && echo ok", "ok\n");
        check("tmp", "/var/tmp/x", "test -d /var/tmp/x && echo ok", "ok\n");
        check("etc/resolv.conf", "../run/systemd/stub.conf", "test -f /run/systemd/stub.conf && echo ok", "ok\n");
        check("etc/resolv.conf", "/proc/self/environ", probe, "ok\n");
        check("etc/hosts", "hosts", probe, "ok\n");

        let refuse = |change: &dyn Fn(&Path), want: &str| {
            let root = tree(dir);
            change(&root);
            let spec = Spec { tmp: Tmp::Host, ..Spec::new(&root, words(&["/bin/sh"])) };
            let e = run(&spec).unwrap_err();
            assert!(e.to_string().contains(want), "{e} should be {want}");
            fs::remove_dir_all(&root).unwrap();
        };
        refuse(&|root| link(root, "dev", "/"), "/dev is the root directory of the image");
        refuse(&|root| link(root, "proc", "proc"), "can't find /proc in the image: too many symbolic links");
        refuse(&|root| link(root, "sys", "bin/busybox"), "the source is a directory, the target no directory");
        refuse(&|root| link(root, "sys", "bin/busybox/x"), "/bin/busybox: not a directory");
        refuse(&|root| link(root, "tmp", "/dev/there/is/no/such"), "/dev/there/is/no/such lies within the host's /dev");
    });
}

#[test]
fn binds_appear_where_they_should() {
    isolated("binds_appear_where_they_should", |dir| {
        let root = tree(dir);
        let source = dir.join("source");
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::write(source.join("file"), "content").unwrap();
        symlink(dir.join("source"), root.join("link-out")).unwrap();
        symlink("mnt/0", root.join("link-in")).unwrap();
        let before = listing(&root);
        let check = |target: &str, what: &str, script: &str, want: &str| {
            let mut spec = Spec::new(&root, Vec::new());
            spec.binds = vec![Bind::new(source.join(what), target)];
            assert_eq!(output(&mut spec, script).1, want, "{what} at {target}");
            spec.binds[0].read_only = true;
            assert_eq!(output(&mut spec, script).1, want, "{what} at {target}, read-only");
            let (status, text) = output(&mut spec, &format!("touch {target} {target}/new"));
            assert!(status == Status::Exited(1) && text.contains("Read-only file system"), "{text}");
            assert_eq!(listing(&root), before);
        };
        check("/mnt/0", "", "cat /mnt/0/file", "content");
        check("/new/deep/place", "", "cat /new/deep/place/file", "content");
        check("/new/file", "file", "cat /new/file", "content");
        check("/link-in", "", "cat /mnt/0/file", "content");
        check("/link-in/../1/x", "", "cat /mnt/1/x/file", "content");
        check("../../mnt/0", "", "cat /mnt/0/file", "content");
        check("/etc/hosts", "file", "cat /etc/hosts", "content");
        // An absolute link is one within the image: its place on the host is not touched.
        check("/link-out/x", "", &format!("cat {}/x/file", source.display()), "content");
        assert!(!source.join("x").exists());

        let mut spec = Spec::new(&root, Vec::new());
        spec.binds = vec![Bind::new(&source, "/mnt/0"), Bind::new(source.join("file"), "/mnt/0/sub")];
        let e = run(&Spec { argv: words(&["/bin/sh"]), ..spec.clone() }).unwrap_err();
        assert!(e.to_string().ends_with("the source is no directory, the target a directory"), "{e}");
        spec.binds[1] = Bind::new("/etc", "/mnt/0/sub");
        assert_eq!(output(&mut spec, "test -f /mnt/0/sub/passwd && echo ok").1, "ok\n");
        spec.binds[1] = Bind::new("/etc", "/mnt/0/none");
        let e = run(&Spec { argv: words(&["/bin/sh"]), ..spec.clone() }).unwrap_err();
        assert!(e.to_string().contains("where none does not exist"), "{e}");
        spec.binds = vec![Bind::new(dir.join("missing"), "/mnt/0")];
        let e = run(&Spec { argv: words(&["/bin/sh"]), ..spec.clone() }).unwrap_err();
        assert!(e.to_string().contains("missing: No such file or directory"), "{e}");
    });
}

#[test]
fn nothing_of_the_host_is_seen_and_nothing_survives() {
    isolated("nothing_of_the_host_is_seen_and_nothing_survives", |dir| {
        let mut spec = Spec::new(tree(dir), Vec::new());
        // Descriptors that were left open for children.
        let leak = fs::File::open("/").unwrap();
        let leaked = leak.as_fd().try_clone_to_owned().unwrap();
        process::replace(&leaked, 77).unwrap();
        assert_eq!(output(&mut spec, "ls /proc/self/fd | tr '\\n' ' '").1, "0 1 2 3 ");
        assert_eq!(output(&mut spec, "readlink /proc/self/fd/0").1, "/dev/null\n");
        // Process 1 is a copy of this one; its memory is closed even to "root".
        let (_, text) = output(&mut spec, "cat /proc/1/environ; cat /proc/1/mem; ls /proc/1/root/; true");
        assert_eq!(text.matches("Permission denied").count(), 3, "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
        let processes: u32 = output(&mut spec, "ls /proc | grep -c '^[0-9]*$'").1.trim().parse().unwrap();
        assert!((3..8).contains(&processes), "{processes}");
        let text = output(&mut spec, "touch /dev/new; touch /sys/new; echo x > /dev/null && echo ok").1;
        assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
        assert!(text.ends_with("ok\n"), "{text}");
        let endless = endless();
        let script = format!("(setsid sh -c 'trap \"\" TERM HUP INT; {endless}; true' &)");
        assert_eq!(
            output(&mut spec, &format!("{script}; kill -9 -1")).0,
            Status::Exited(0),
            "it does not reach its tracee"
        );
        assert!(!runs(&endless));
        let wait = "until ps -o args | grep -q '^sleep 1'; do true; done";
        assert_eq!(output(&mut spec, &format!("{script}; {wait}")).0, Status::Exited(0), "what stays behind is ended");
        assert!(!runs(&endless));
        assert_eq!(output(&mut spec, "grep -c . /proc/net/dev").1.trim().parse::<u32>().unwrap() > 3, has_network());
        spec.network = Network::None;
        assert_eq!(output(&mut spec, "grep -c . /proc/net/dev").1, "3\n");
        assert_eq!(output(&mut spec, "cat /sys/class/net/lo/flags 2>&1 || true").1.trim(), "0x9");
    });
}

fn has_network() -> bool {
    fs::read_to_string("/proc/net/dev").unwrap().lines().count() > 3
}

#[test]
fn a_tree_that_is_ruined_can_be_used_again() {
    isolated("a_tree_that_is_ruined_can_be_used_again", |dir| {
        let mut spec = Spec::new(tree(dir), Vec::new());
        let check = |spec: &mut Spec, script: &str| {
            output(spec, script);
            assert_eq!(output(spec, "echo ok").1, "ok\n", "{script}");
        };
        check(&mut spec, "chmod 000 / /etc /bin /mnt");
        check(&mut spec, "umount -l /proc; umount -l /dev; umount -l /tmp");
        check(&mut spec, "umount /etc/hosts; echo changed > /etc/hosts");
        check(&mut spec, "mkdir -p /a/b; chmod 000 /a/b /a; cd /a/b");
        // Only what belongs to the tree: /dev and /tmp are the host's.
        check(&mut spec, "rm -rf /mnt /home /etc");
        assert!(spec.root.join("bin/sh").exists());
        fs::set_permissions(&spec.root, fs::Permissions::from_mode(0o755)).unwrap();
        // A thread keeps its rights from before it was a user of its own: only now.
        for dir in ["bin", "a"] {
            fs::set_permissions(spec.root.join(dir), fs::Permissions::from_mode(0o755)).unwrap();
        }
    });
}

#[test]
fn failures_are_sentences() {
    isolated("failures_are_sentences", |dir| {
        let root = tree(dir);
        fs::write(root.join("bin/text"), "no program").unwrap();
        fs::write(root.join("bin/script"), "#!/no/such\n").unwrap();
        fs::set_permissions(root.join("bin/script"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(root.join("bin/garbage"), [0x7f, b'E', b'L', b'F', 9, 9, 9]).unwrap();
        fs::set_permissions(root.join("bin/garbage"), fs::Permissions::from_mode(0o755)).unwrap();
        let check = |change: &dyn Fn(&mut Spec), want: &str, hint: &str| {
            let mut spec = Spec::new(&root, words(&["/bin/sh", "-c", "exit 0"]));
            spec.env = vec![("PATH".into(), "/nowhere:/bin".into())];
            change(&mut spec);
            let e = run(&spec).unwrap_err();
            assert_eq!(e.to_string(), want);
            assert!(e.get_hint().unwrap_or_default().contains(hint), "{want}: {:?}", e.get_hint());
        };
        let argv = |word: &'static str| move |spec: &mut Spec| spec.argv = words(&[word]);
        check(
            &argv("none"),
            "can't execve(2): none: No such file or directory",
            "not found in PATH, which is /nowhere:/bin; ",
        );
        check(&argv("/none"), "can't execve(2): /none: No such file or directory", "it is not there; ");
        check(&argv(""), "can't execve(2): : No such file or directory", "");
        check(&argv("text"), "can't execve(2): text: Permission denied", "chmod +x");
        check(&argv("/etc"), "can't execve(2): /etc: Permission denied", "");
        check(&argv("script"), "can't execve(2): script: No such file or directory", "its interpreter");
        check(&argv("garbage"), "can't execve(2): garbage: Exec format error", "other architecture");
        check(&|s| s.argv.clear(), "no command to run", "");
        check(&|s| s.argv = vec!["a\0b".into()], "NUL in a\\x00b", "");
        check(&|s| s.env.push(("A=B".into(), "".into())), "bad name of an environment variable: \"A=B\"", "");
        check(
            &|s| s.cwd = "/none".into(),
            "can't change the directory to /none: No such file or directory",
            "does not exist in the image",
        );
        check(&|s| s.cwd = "/bin/sh".into(), "can't change the directory to /bin/sh: Not a directory", "");
        check(
            &|s| s.root = "/none".into(),
            "can't bind /dev at /dev: can't find /dev in the image: /none: No such file or directory",
            "",
        );
    });
}

#[test]
fn a_working_directory_cannot_lead_out() {
    isolated("a_working_directory_cannot_lead_out", |dir| {
        let mut spec = Spec::new(tree(dir), Vec::new());
        for (cwd, want) in [("/mnt/0", "/mnt/0\n"), ("../../..", "/\n"), ("/proc/self/cwd", "/\n"), ("mnt", "/mnt\n")] {
            spec.cwd = cwd.into();
            assert_eq!(output(&mut spec, "pwd").1, want, "{cwd}");
        }
        for fd in 3..20 {
            spec.cwd = format!("/proc/self/fd/{fd}").into();
            spec.argv = words(&["/bin/sh", "-c", "test -e /bin/busybox && ! test -e /usr/bin"]);
            assert!(!matches!(run(&spec), Ok(status) if status != Status::Exited(0)), "{fd}");
        }
    });
}

#[test]
fn signals_stop_it() {
    isolated("signals_stop_it", |dir| {
        let root = tree(dir);
        // The time from the first signal, which comes when the script has said something, to the end.
        let check = |signals: &[i32], script: &str| {
            let (me, out, sent) = (process::pid(), out(), dir.join("sent"));
            let killer = match process::fork(0).unwrap() {
                Fork::Child => {
                    while fs::read(&out).unwrap_or_default().is_empty() {
                        pause(5);
                    }
                    fs::write(&sent, "").unwrap();
                    for signal in signals {
                        process::kill(me, *signal).unwrap();
                        pause(100);
                    }
                    process::exit(0)
                }
                Fork::Parent(pid) => pid,
            };
            let want = Status::Interrupted(signals[0]);
            assert_eq!(output(&mut Spec::new(&root, Vec::new()), script).0, want, "{signals:?}: {script}");
            let time = fs::metadata(&sent).unwrap().modified().unwrap().elapsed().unwrap_or_default();
            assert!(time.as_secs() < 300, "{time:?}");
            process::wait(killer).unwrap();
            time
        };
        use libc::{SIGHUP, SIGINT, SIGTERM};
        enter().unwrap();
        // Whoever started the tests may ignore some (nohup, a shell's `&`), and we would leave it so.
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            crate::sys::signal::set_default(signal).unwrap();
        }
        check(&[SIGTERM], "echo; sleep 600");
        check(&[SIGINT], "echo; sleep 600; sleep 600");
        check(&[SIGHUP], "trap 'exit 0' HUP; echo; sleep 600 & wait");
        // Those that will not hear are killed after a second, or at the second signal: sooner, unless the machine is busy.
        check(&[SIGTERM], "trap '' TERM; echo; sleep 600");
        let mut times = (0..10).map(|_| check(&[SIGTERM, SIGTERM], "trap '' TERM; echo; sleep 600"));
        assert!(times.any(|time| time.as_secs() < 1), "never sooner");
    });
}

#[test]
fn it_dies_with_us() {
    isolated("it_dies_with_us", |dir| {
        let root = tree(dir);
        let endless = endless();
        let runner = match process::fork(0).unwrap() {
            Fork::Child => {
                let mut spec = Spec::new(&root, words(&["/bin/sh", "-c", &endless]));
                spec.env = vec![("PATH".into(), "/bin".into())];
                let _ = run(&spec);
                process::exit(0)
            }
            Fork::Parent(pid) => pid,
        };
        while !runs(&endless) {
            pause(5);
        }
        process::kill(runner, libc::SIGKILL).unwrap();
        process::wait(runner).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while runs(&endless) {
            assert!(std::time::Instant::now() < until, "it survives");
            pause(5);
        }
    });
}

/// ch-run with these options and words, in a process of its own; its status, and what it wrote to `out` in the tree.
fn ch_run(root: &Path, line: &str) -> (Ended, String) {
    let mut args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    let image = args.iter().position(|a| a == "IMG").unwrap();
    args[image] = root.into();
    let failure = std::env::temp_dir().join(format!("ch-failure-{}", process::pid()));
    let pid = match process::fork(0).unwrap() {
        Fork::Child => {
            let crate::cli::ch_run_args::Invocation::Run { request, .. } =
                crate::cli::ch_run_args::parse(args).unwrap()
            else {
                panic!("not a command")
            };
            let host = [("PATH", "/bin"), ("USER", "me"), ("HOME", "/etc")].map(|(n, v)| (n.into(), v.into())).to_vec();
            let image = request::Image::directory(Path::new(&request.image)).unwrap();
            let Err(e) = request::become_command(&request, host, image, super::inject::Inject::nothing());
            // The tree may have become the root by now.
            fs::write(&failure, e.to_string()).unwrap();
            process::exit(99)
        }
        Fork::Parent(pid) => pid,
    };
    let ended = process::wait(pid).unwrap();
    let text = fs::read_to_string(root.join("out")).or(fs::read_to_string(&failure)).unwrap_or_default();
    let _ = fs::remove_file(root.join("out"));
    let _ = fs::remove_file(&failure);
    (ended, text)
}

#[test]
fn ch_run_becomes_the_command() {
    isolated("ch_run_becomes_the_command", |dir| {
        let root = tree(dir);
        fs::create_dir_all(root.join("ch")).unwrap();
        fs::write(root.join("ch/environment"), "FOO=bar\nBAZ='a b'\nPATH=/x:$PATH\n").unwrap();
        // The script's output goes into the image, where it can be written, or into its /tmp.
        fs::write(root.join("bin/run"), "#!/bin/sh\n{ eval \"$@\"; } > /out 2>&1\n").unwrap();
        fs::set_permissions(root.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
        let check = |line: &str, want: &str| {
            let (ended, text) = ch_run(&root, line);
            assert_eq!((ended, text.as_str()), (Ended::Exited(0), want), "{line}");
        };
        let (uid, gid) = (crate::sys::fs::euid(), crate::sys::fs::egid());
        check("-w IMG -- run id -u", &format!("{uid}\n"));
        check("-w IMG -- run id -g", &format!("{gid}\n"));
        check("-w -u0 -g5 IMG -- run id -u", "0\n");
        check("-w -u 7 -g5 IMG -- run id -g", "5\n");
        let name = crate::sys::user::user(uid).unwrap().name;
        check("-w -u 7 IMG -- run id -un", &format!("{name}\n"));
        check("-w --no-passwd -u7 IMG -- run wc -c </etc/passwd", "0\n");
        check("-w IMG -- run grep -c root /etc/passwd", "1\n");
        check("-w IMG -- run echo $HOME", "/home/me\n");
        check("-w IMG -- run ls /home", "me\n");
        check("-w IMG -- run test -f /home/me/passwd && echo yes", "yes\n");
        check("-w --no-home IMG -- run echo $HOME", "/etc\n");
        check("-w --no-home IMG -- run ls /home", "");
        check("-w IMG -- run echo $CH_RUNNING", "Weird Al Yankovic\n");
        check("-w --env host --set-env IMG -- run echo $FOO $BAZ $PATH", "bar a b /x:/bin\n");
        check(
            "-w IMG -- run echo $FOO $BAZ ${PATH%sbin:/usr/bin:*}",
            "bar a b /x:/usr/local/sbin:/usr/local/bin:/usr/\n",
        );
        check("-w --set-env --env-no-expand --set-env=PATH=/bin IMG -- run echo $PATH", "/bin\n");
        check("-w --env host --set-env=PATH=/y:$PATH --unset-env US* IMG -- run echo $PATH $USER", "/y:/bin\n");
        check("-w --cd /mnt/0 IMG -- run pwd", "/mnt/0\n");
        check("-w -b /etc:/mnt/0 IMG -- run test -f /mnt/0/passwd && echo yes", "yes\n");
        check("-w -t IMG -- run ls /tmp", "");
        check("-w -t --join --join-ct=1 IMG -- run ls /tmp", "");
        // No process namespace: MPI and batch systems know their children.
        let (_, text) = ch_run(&root, "-w IMG -- run echo $PPID");
        assert_eq!(text, format!("{}\n", process::pid()));
        assert_eq!(ch_run(&root, "IMG -- sh -c exit\\ 7").0, Ended::Exited(127));
        assert_eq!(ch_run(&root, "IMG -- test -e /nothing").0, Ended::Exited(1));
        assert_eq!(ch_run(&root, "IMG -- touch /new").0, Ended::Exited(1));
        assert!(!root.join("new").exists());
        let fails =
            |line: &str, want: &str| assert_eq!(ch_run(&root, line), (Ended::Exited(99), want.into()), "{line}");
        fails("IMG -- nothing", "can't execve(2): nothing: No such file or directory");
        fails("--cd /none IMG -- ls", "can't change the directory to /none: No such file or directory");
        fails("--set-env=/none IMG -- ls", "can't read /none: No such file or directory");
        fails("-b /none:/mnt/0 IMG -- ls", "can't bind /none at /mnt/0: /none: No such file or directory");
    });
}

#[test]
fn peers_share_a_container() {
    isolated("peers_share_a_container", |dir| {
        let root = tree(dir);
        let tag = format!("test{}", process::pid());
        let peers: Vec<_> = (0..5)
            .map(|i| {
                let request = {
                    let mut request = request::Request::new(root.clone().into());
                    // The container lasts as long as somebody is in it: until all have come.
                    let script = format!(
                        "{{ readlink /proc/self/ns/mnt; readlink /proc/self/ns/user; }} > /out{i}; \
                         until test -e /out0 -a -e /out1 -a -e /out2 -a -e /out3 -a -e /out4; do sleep 0.1; done"
                    );
                    (request.home, request.writable) = (false, true);
                    request.argv = words(&["/bin/sh", "-c", &script]);
                    request.join = Some(request::Join { count: Some(5), tag: Some(tag.clone().into()), pid: None });
                    request
                };
                match process::fork(0).unwrap() {
                    Fork::Child => {
                        let image = request::Image::directory(&root).unwrap();
                        let Err(e) =
                            request::become_command(&request, Vec::new(), image, super::inject::Inject::nothing());
                        fs::write(root.join(format!("out{i}")), e.to_string()).unwrap();
                        process::exit(99)
                    }
                    Fork::Parent(pid) => pid,
                }
            })
            .collect();
        let texts: Vec<_> = (0..5)
            .zip(peers)
            .map(|(i, pid)| {
                assert_eq!(
                    process::wait(pid).unwrap(),
                    Ended::Exited(0),
                    "{:?}",
                    fs::read_to_string(root.join(format!("out{i}")))
                );
                fs::read_to_string(root.join(format!("out{i}"))).unwrap()
            })
            .collect();
        assert!(texts[0].starts_with("mnt:[") && texts.iter().all(|t| *t == texts[0]), "{texts:?}");
        let left = fs::read_dir("/dev/shm")
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(&tag));
        assert_eq!(left.count(), 0);
    });
}
