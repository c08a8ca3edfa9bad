//! Root emulation: each call that the filters know, hostile callers, and what the ledger says in the end.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{can_stack, isolated, out, output, tree, words};
use crate::container::inode_owners::{Record, follow};
use crate::container::ownership::{Device, DeviceKind, Ledger, Owner};
use crate::container::{
    Emulation, Obstacle, Overlay, Seen, Spec, Status, Tmp, Watch, can_record, enter, filter, run_recorded, watch,
};
use crate::sys::process::{self, Ended, Fork};
use crate::sys::seccomp::{self, Instruction, Listener};

/// A program that makes the calls which shells and busybox cannot; made once by the C compiler.
fn prober(dir: &Path) -> Option<PathBuf> {
    let source = dir.join("probe.c");
    let program = dir.join("probe");
    fs::write(&source, include_str!("probe.c")).unwrap();
    let made = Command::new("cc").args(["-static", "-pthread", "-O1", "-w", "-o"]).arg(&program).arg(&source).status();
    if made.is_ok_and(|status| status.success()) {
        return Some(program);
    }
    assert!(std::env::var_os("CH_TEST_MUST_RUN").is_none(), "needs a C compiler with a static library");
    println!("SKIPPED: needs a C compiler with a static library");
    None
}

#[test]
fn privileged_calls_are_emulated() {
    isolated("emulation::privileged_calls_are_emulated", |dir| {
        let Some(program) = prober(dir) else { return };
        let root = tree(dir);
        fs::copy(program, root.join("bin/probe")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let check = |mode: Emulation, script: &str, want: &str| {
            let mut spec = Spec::new(&root, Vec::new());
            spec.emulation = mode;
            assert_eq!(output(&mut spec, script).1, want, "{mode:?}: {script}");
        };
        use Emulation::{None as No, Notify, Seccomp};
        let refused = "chown: Invalid argument\n";
        check(No, "probe chown file 5 6", refused);
        for mode in [Seccomp, Notify] {
            for call in ["chown", "lchown", "fchown", "fchownat"] {
                check(mode, &format!("probe {call} file 5 6"), "ok\n");
            }
            check(mode, "probe capset", "ok\n");
            check(mode, "probe setgroups", "ok\n");
            check(mode, "probe xattr file security.selinux x", "ok\n");
            check(mode, "probe xattr file trusted.x x", "ok\n");
            check(mode, "rm -f dev0; probe mknod dev0 c 1 3", "ok\n");
            check(mode, "rm -f pipe; probe mknod pipe p 0 0; test -p pipe && echo pipe; rm pipe", "ok\npipe\n");
            // Real in each mode: it is what cp -p and sed -i change permissions with.
            for make in ["echo > new", "mkdir new", "probe mknod new p 0 0"] {
                let script =
                    format!("rm -rf new; {make} > /dev/null; chmod 700 new; probe acl new 754; stat -c %a new");
                check(mode, &script, "ok\n754\n");
            }
            // The second set*id by what is no root any more.
            let again = if mode == Notify { "setuid: Operation not permitted\n" } else { "ok\n" };
            check(mode, "probe setuid 5 setuid 0", again);
            check(mode, "probe setresuid 5 setresuid 5", "ok\n");
        }
        let get = |mode: Emulation| {
            if mode == Notify { "7 7 7 / 9 9 9 / 7 7 9 9 / 1 2 3\n" } else { "0 0 0 / 0 0 0 / 0 0 0 0 /" }
        };
        check(Notify, "probe become", get(Notify));
        check(Notify, "probe peer", "1 5 6 12 1\n");
        let mut spec = Spec::new(&root, Vec::new());
        spec.emulation = Seccomp;
        assert!(output(&mut spec, "probe become").1.starts_with(get(Seccomp)));
    });
}

#[test]
fn what_was_asked_for_is_recorded() {
    isolated("emulation::what_was_asked_for_is_recorded", |dir| {
        let Some(program) = prober(dir) else { return };
        enter().unwrap();
        let lower = tree(dir);
        fs::copy(program, lower.join("bin/probe")).unwrap();
        for name in ["a", "b", "c", "d", "gone"] {
            fs::write(lower.join(name), name).unwrap();
        }
        symlink("chown", lower.join("bin/x")).unwrap();
        for tool in ["chown", "chmod", "mv", "ln", "cp", "tar", "su", "find"] {
            let _ = symlink("busybox", lower.join("bin").join(tool));
        }
        for plain in [false, true] {
            let (upper, work, at) = (dir.join("upper"), dir.join("work"), dir.join("at"));
            for path in [&upper, &work, &at] {
                fs::create_dir_all(path).unwrap();
            }
            let overlay =
                (!plain).then(|| Overlay::mount(std::slice::from_ref(&lower), Some((&upper, &work)), &at).unwrap());
            let root = if plain { &lower } else { &at };
            let mut ledger = Ledger::new();
            let mut spec = Spec::new(root, Vec::new());
            (spec.emulation, spec.tmp) = (Emulation::Notify, Tmp::Host);
            let mut check = |script: &str, shown: &str, want: &str| {
                let out = out();
                spec.argv = words(&["/bin/sh", "-c", &format!("{{ {script}\n}} > {} 2>&1", out.display())]);
                spec.env = vec![("PATH".into(), "/bin".into())];
                assert_eq!(run_recorded(&spec, &mut ledger).unwrap().0, Status::Exited(0), "{script}");
                let text = fs::read_to_string(&out).unwrap();
                fs::remove_file(&out).unwrap();
                assert_eq!(text, shown, "plain {plain}: {script}");
                assert_eq!(ledger.to_string(), want, "plain {plain}: {script}");
            };
            check("chown 5:6 a; stat -c '%u:%g %a' a; chown 0:0 b", "5:6 644\n", "5 6 0 - - a\n");
            // The record lasts until the next run, and follows the file.
            check(
                "stat -c %u:%g a; mv a a2; stat -c %u:%g a2; echo > a; stat -c %u a",
                "5:6\n5:6\n0\n",
                "5 6 0 - - a2\n",
            );
            check("chmod 4755 a2; stat -c %a a2; mkdir -p x/y; mv a2 x/y/a", "4755\n", "5 6 4000 - - x/y/a\n");
            check("chmod 0755 x/y/a; stat -c %a x/y/a", "755\n", "5 6 0 - - x/y/a\n");
            check("chmod 6711 x/y/a; chown :8 x/y/a; stat -c %a:%g x/y/a", "711:8\n", "5 8 0 - - x/y/a\n");
            check("chown -R 1:2 x; rm x/y/a; rm gone; chown 0:0 x", "", "1 2 0 - - x/y\n");
            check("chown 0 x/y; chown :0 /x/y", "", "");
            check("cd x; chown 3:4 ../b; ln -s /b l; chown 5 l; chown -h 6 l", "", "5 0 0 - - b\n6 0 0 - - x/l\n");
            check("cp -p b b2; rm x/l; rm b", "", "5 0 0 - - b2\n");
            check("ln b2 b3; chown 9 b2", "", "9 0 0 - - b2\n9 0 0 - - b3\n");
            check(
                "rm b2 b3; probe mknod dev0 b 8 1; ls -ln dev0 | tr -s ' ' | tr -d , | grep -o '.* 8 1'",
                "ok\nbrw-r--r-- 1 0 0 8 1\n",
                "0 0 0 b2049 - dev0\n",
            );
            check("rm dev0; probe xattr c security.capability abcd", "ok\n", "0 0 0 - 61626364 c\n");
            check(
                "probe getxattr c security.capability; probe getxattr d security.capability",
                "abcd\n(none)\n",
                "0 0 0 - 61626364 c\n",
            );
            check(
                "probe listxattr c; probe listxattr d; probe removexattr c security.capability; probe listxattr c",
                "security.capability\n\nok\n\n",
                "",
            );
            check("probe removexattr c security.capability || true", "removexattr: No data available\n", "");
            check("probe xattr c security.capability abcd", "ok\n", "0 0 0 - 61626364 c\n");
            check("chown 0 c; probe xattr c user.x 1", "ok\n", "");
            // Files of the host are none of the image's.
            check("echo > /tmp/ch-mine; chown 5 /tmp/ch-mine; stat -c %u /tmp/ch-mine; rm /tmp/ch-mine", "5\n", "");
            check("probe fdlink d 2755; stat -c %a d", "ok\n2755\n", "0 0 2000 - - d\n");
            check("rm d; (exec 9>d; chown 7 /proc/self/fd/9 && stat -L -c %u /dev/fd/9)", "7\n", "7 0 0 - - d\n");
            check("chown 8 d; probe chroot / chown d 5 5; stat -c %u d", "ok\n5\n", "5 5 0 - - d\n");
            check(
                "cd /etc; chown 4 /proc/self/cwd/../d; chown 3 /proc/self/root/c; stat -c %u /proc/self/cwd/../d",
                "4\n",
                "3 0 0 - - c\n4 5 0 - - d\n",
            );
            check("chown 0:0 /c /d", "", "");
            // A directory may pass on its group.
            check(
                "mkdir s; chown 5:6 s; chmod 2755 s; cd s; echo > f; mkdir e; echo > e/g; ln -s f l; \
                 probe mknod n c 1 3; chown 0 e; echo >> f; mv f /f2; chmod 755 /s; echo > o; stat -c %a e",
                "ok\n2755\n",
                "0 6 0 - - f2\n5 6 0 - - s\n0 6 2000 - - s/e\n0 6 0 - - s/e/g\n0 6 0 - - s/l\n0 6 0 c259 - s/n\n",
            );
            check("rm -r s f2", "", "");
            // A name that goes while another stays; a file that had none.
            check(
                "ln d e; chown 7 d; rm d; mv e d; probe hostile tmpfile",
                "ok\n",
                "7 0 0 - - d\n5 6 0 - - was-nameless\n",
            );
            check("chown 0:0 was-nameless", "", "7 0 0 - - d\n");
            // The host's /tmp can be given to root and opened to all, whoever has it.
            check("chown 0:0 /tmp && chmod 1777 /tmp && chown 0:0 d", "", "");
            check("chown 0:0 d; chown 5 /none/x 2>&1 || true", "chown: /none/x: No such file or directory\n", "");
            // On disk nothing of all this.
            let stat = fs::metadata(root.join("d")).unwrap();
            assert_eq!(stat.permissions().mode() & 0o7000, 0);
            if let Some(overlay) = overlay {
                overlay.unmount().unwrap();
            }
        }
    });
}

#[test]
fn hostile_callers_get_an_answer() {
    isolated("emulation::hostile_callers_get_an_answer", |dir| {
        let Some(program) = prober(dir) else { return };
        let root = tree(dir);
        fs::copy(program, root.join("bin/probe")).unwrap();
        symlink("busybox", root.join("bin/true")).unwrap();
        for name in ["file", "a", "b"] {
            fs::write(root.join(name), "").unwrap();
        }
        let mut spec = Spec::new(&root, Vec::new());
        for what in ["threads", "vfork", "signals", "flip", "dying", "deep", "deleted", "tmpfile", "pipe", "bad"] {
            spec.emulation = Emulation::Notify;
            assert_eq!(output(&mut spec, &format!("probe hostile {what}")).1, "ok\n", "{what}");
        }
        for name in ["a", "b"] {
            let mode = fs::metadata(root.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o6000, 0, "{name}: {mode:o}");
        }
        if cfg!(target_arch = "x86_64") {
            for mode in [Emulation::Seccomp, Emulation::Notify] {
                spec.emulation = mode;
                assert_eq!(output(&mut spec, "probe hostile x32").1, "x32: Function not implemented\n");
                // Nothing at all where the kernel runs no 32-bit programs.
                let text = output(&mut spec, "probe hostile int80").1;
                assert!(text == "ok\n" || !text.contains("int80:"), "{mode:?}: {text}");
            }
        }
    });
}

/// A file that a process makes while emulated as another user is that user's, as where users are real.
#[test]
fn believed_users_own_what_they_make() {
    isolated("emulation::believed_users_own_what_they_make", |dir| {
        let Some(program) = prober(dir) else { return };
        let root = tree(dir);
        fs::copy(program, root.join("bin/probe")).unwrap();
        fs::write(root.join("roots"), "").unwrap();
        let mut ledger = Ledger::new();
        let mut spec = Spec::new(&root, words(&["/bin/probe", "makes"]));
        spec.emulation = Emulation::Notify;
        assert_eq!(run_recorded(&spec, &mut ledger).unwrap().0, Status::Exited(0));
        let made = ["dir", "dir/creat", "dir/link", "dir/sub", "dir/sub/file", "made"];
        assert_eq!(ledger.to_string(), made.map(|path| format!("5 6 0 - - {path}\n")).concat());
        let mode = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(["dir", "dir/creat", "dir/sub", "made"].map(mode), [0o750, 0o440, 0o1750, 0o640]);
        assert_eq!(fs::read_to_string(root.join("dir/link")).unwrap(), "x");
    });
}

/// Calls that are newer than the C library: as their older forms, or not there.
#[test]
fn newer_calls_are_as_the_older_ones() {
    isolated("emulation::newer_calls_are_as_the_older_ones", |dir| {
        let Some(program) = prober(dir) else { return };
        let root = tree(dir);
        fs::copy(program, root.join("bin/probe")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let mut spec = Spec::new(&root, Vec::new());
        spec.emulation = Emulation::Seccomp;
        // Before Linux 6.6 and 6.13 the kernel has none of them; what is pretended succeeds all the same.
        let text = output(&mut spec, "probe xattrs-at file security.capability").1;
        assert!(["-1  0  -1\n", "-1  -1  -1\n"].contains(&text.as_str()), "{text}");
        let mut ledger = Ledger::new();
        spec.emulation = Emulation::Notify;
        spec.argv = words(&["/bin/probe", "xattrs-at", "file", "security.capability"]);
        spec.env.clear();
        let (status, _) = run_recorded(&spec, &mut ledger).unwrap();
        assert_eq!((status, ledger.len()), (Status::Exited(0), 0));
        let text = output(&mut spec, "probe xattrs-at file security.capability").1;
        assert_eq!(text, "4 1234 20 security.capability -1\n");
        let text = output(&mut spec, "probe fchmodat2 file 4711; stat -c %a file").1;
        assert!(["ok\n4711\n", "fchmodat2: Function not implemented\n644\n"].contains(&text.as_str()), "{text}");
    });
}

/// Steps without recording move and remove what was recorded before.
#[test]
fn the_ledger_follows_the_files() {
    isolated("emulation::the_ledger_follows_the_files", |dir| {
        let root = tree(dir);
        for name in ["a", "b", "c", "d"] {
            fs::write(root.join(name), name).unwrap();
        }
        symlink("busybox", root.join("bin/mv")).unwrap();
        let mut ledger: Ledger =
            "1 1 0 - - a\n2 2 0 - - b\n3 3 0 - - c\n4 4 0 - - d\n5 5 0 - - none\n6 6 0 - - \n".parse().unwrap();
        let mut spec = Spec::new(&root, words(&["/bin/sh", "-c", "mv a etc/a; rm b; echo > b; rm c; echo more >> d"]));
        spec.env = vec![("PATH".into(), "/bin".into())];
        for mode in [Emulation::None, Emulation::Seccomp] {
            spec.emulation = mode;
            assert_eq!(run_recorded(&spec, &mut ledger).unwrap().0, Status::Exited(0));
            assert_eq!(ledger.to_string(), "6 6 0 - - \n4 4 0 - - d\n1 1 0 - - etc/a\n", "{mode:?}");
            spec.argv = words(&["/bin/sh", "-c", "exit 0"]);
        }
    });
}

/// overlayfs gives a lower file of several names another number when it is changed through one of them.
#[test]
fn a_lower_file_of_several_names_keeps_its_owner() {
    isolated("emulation::a_lower_file_of_several_names_keeps_its_owner", |dir| {
        enter().unwrap();
        if !can_stack(dir) {
            return;
        }
        let lower = tree(dir);
        symlink("busybox", lower.join("bin/chown")).unwrap();
        fs::write(lower.join("a"), "a").unwrap();
        fs::hard_link(lower.join("a"), lower.join("b")).unwrap();
        let (upper, work, at) = (dir.join("upper"), dir.join("work"), dir.join("at"));
        for path in [&upper, &work, &at] {
            fs::create_dir(path).unwrap();
        }
        let overlay = Overlay::mount(std::slice::from_ref(&lower), Some((&upper, &work)), &at).unwrap();
        let mut spec = Spec::new(&at, words(&["/bin/sh", "-c", "chown 5:6 a; echo more >> a"]));
        spec.env = vec![("PATH".into(), "/bin".into())];
        spec.emulation = Emulation::Notify;
        let mut ledger = Ledger::new();
        assert_eq!(run_recorded(&spec, &mut ledger).unwrap().0, Status::Exited(0));
        assert_eq!(ledger.to_string(), "5 6 0 - - a\n5 6 0 - - b\n");
        overlay.unmount().unwrap();
    });
}

/// Loading the record takes longer than a command that moves all files at once.
#[test]
fn commands_begin_when_the_record_is_there() {
    isolated("emulation::commands_begin_when_the_record_is_there", |dir| {
        let root = tree(dir);
        let _ = symlink("busybox", root.join("bin/mv"));
        fs::create_dir(root.join("many")).unwrap();
        let (mut ledger, mut want) = (Ledger::new(), Ledger::new());
        let owner = Owner { uid: 5, gid: 6, ..Owner::default() };
        for i in 0..5000 {
            fs::write(root.join(format!("many/{i}")), "").unwrap();
            ledger.set(format!("many/{i}").as_bytes(), owner.clone());
            want.set(format!("moved/{i}").as_bytes(), owner.clone());
        }
        let mut spec = Spec::new(&root, words(&["/bin/mv", "many", "moved"]));
        spec.env = vec![("PATH".into(), "/bin".into())];
        assert_eq!(run_recorded(&spec, &mut ledger).unwrap().0, Status::Exited(0));
        assert_eq!(ledger.to_string(), want.to_string());
    });
}

#[test]
fn more_files_than_descriptors() {
    isolated("emulation::more_files_than_descriptors", |dir| {
        let root = tree(dir);
        let _ = symlink("busybox", root.join("bin/chown"));
        let _ = symlink("busybox", root.join("bin/mv"));
        let many = root.join("many");
        fs::create_dir(&many).unwrap();
        for i in 0..200 {
            fs::write(many.join(i.to_string()), "").unwrap();
        }
        let mut spec = Spec::new(&root, words(&["/bin/sh", "-c", "chown -R 5:6 many; mv many moved; chown 7 moved/7"]));
        spec.env = vec![("PATH".into(), "/bin".into())];
        spec.emulation = Emulation::Notify;
        crate::sys::trace::limit_descriptors_for_tests(200);
        let mut ledger = Ledger::new();
        assert_eq!(run_recorded(&spec, &mut ledger).unwrap().0, Status::Exited(0));
        assert_eq!(ledger.len(), 201);
        assert_eq!(ledger.get(b"/moved/199"), Some(&Owner { uid: 5, gid: 6, ..Owner::default() }));
        assert_eq!(ledger.get(b"moved/7"), Some(&Owner { uid: 7, gid: 6, ..Owner::default() }));
        let device = Some(Device { kind: DeviceKind::Character, number: 0 });
        assert_ne!(ledger.get(b"moved"), Some(&Owner { device, ..Owner::default() }));
        // Two at once, as for COPY --from, leave room for others.
        let before = ledger.to_string();
        let source = Record::new(&root, &ledger);
        let write = |_: &mut Record| {
            fs::write(root.join("other"), "").unwrap();
            Ok(())
        };
        follow(&root, &mut ledger, write).unwrap();
        drop(source);
        assert_eq!(ledger.to_string(), before);
        // New files get the numbers of those that are gone.
        let again = "rm -r moved; mkdir new; for i in 0 1 2 3 4 5 6 7 8 9; do for j in 0 1 2 3 4 5 6 7 8 9; do \
                     echo > new/$i$j; mkdir new/d$i$j; ln -s x new/l$i$j; done; done";
        spec.argv = words(&["/bin/sh", "-c", again]);
        let _ = symlink("busybox", root.join("bin/ln"));
        assert_eq!(run_recorded(&spec, &mut ledger).unwrap().0, Status::Exited(0));
        assert_eq!(ledger.to_string(), "");
        assert_eq!(fs::read_dir(root.join("new")).unwrap().count(), 300);
    });
}

/// The kernel allows a new /proc in a container only where nothing hides a part of the old one.
#[test]
fn sandboxes_can_mount_their_own_proc() {
    isolated("emulation::sandboxes_can_mount_their_own_proc", |dir| {
        let root = tree(dir);
        fs::create_dir(root.join("etc/apt")).unwrap();
        let mut spec = Spec::new(&root, Vec::new());
        for mode in [Emulation::None, Emulation::Seccomp, Emulation::Notify] {
            spec.emulation = mode;
            let nested = "busybox unshare -U -r -m -p -f busybox mount -t proc proc /mnt/0 && echo mounted";
            assert_eq!(output(&mut spec, nested).1, "mounted\n", "{mode:?}");
        }
        spec.emulation = Emulation::Seccomp;
        assert_eq!(output(&mut spec, "cat $APT_CONFIG").1, "APT::Sandbox::User \"root\";\n");
    });
}

/// Seen is what the kernel refuses, whoever asks, and nothing else; the calls are what they are without.
#[test]
fn refused_calls_are_seen() {
    isolated("emulation::refused_calls_are_seen", |dir| {
        let root = tree(dir);
        let seen = |watch, script: &str| {
            let mut spec = Spec { watch, ..Spec::new(&root, Vec::new()) };
            spec.argv = words(&["/bin/sh", "-c", script]);
            spec.env = vec![("PATH".into(), "/bin".into())];
            let (status, seen) = run_recorded(&spec, &mut Ledger::new()).unwrap();
            assert_eq!(status, Status::Exited(0), "{script}");
            seen
        };
        let check = |script: &str, want| assert_eq!(seen(Watch::Chown, script), want, "{script}");
        check("touch /f; chown 0:0 /f && chown 0 /f && chgrp 0 /f && chown -h 0 /f", Seen::Nothing);
        check("(for i in 1 2 3; do ! chown 5 /f 2>/dev/null & done; wait)", Seen::RefusedChown);
        check("chown 0:7 /f 2>&1 | grep -q 'Invalid argument'", Seen::RefusedChown);
        check("! chown -h 5 /f", Seen::RefusedChown);
        check("exec 2>/dev/null; ! chown 5 /f; chown 0 /f", Seen::RefusedChown);
        assert_eq!(seen(Watch::Nothing, "! chown 5 /f"), Seen::Unknown);
    });
}

/// A process tree has one listener: who watches makes way for who records.
#[test]
fn watching_makes_way() {
    isolated("emulation::watching_makes_way", |_| {
        let machine = filter::HERE.unwrap();
        let (socket, theirs) = process::socket_pair().unwrap();
        let Fork::Parent(child) = process::fork(0).unwrap() else {
            drop(socket);
            process::no_new_privileges().unwrap();
            let listener = seccomp::install(&watch::program(machine), Listener::New).unwrap().unwrap();
            seccomp::send_descriptor(&theirs, &listener).unwrap();
            drop((listener, theirs));
            process::exit(if can_record() == Ok(()) { 0 } else { 1 })
        };
        drop(theirs);
        let mut watcher = watch::Watcher::new(machine, socket);
        while let Some(fd) = watcher.waits_for() {
            let ready = process::poll(&[fd], None).unwrap()[0];
            watcher.take(ready).unwrap();
        }
        assert_eq!(watcher.seen(), Seen::Unknown);
        assert_eq!(process::wait(child).unwrap(), Ended::Exited(0));
    });
}

#[test]
fn recording_may_be_impossible() {
    isolated("emulation::recording_may_be_impossible", |_| {
        assert_eq!(can_record(), Ok(()));
        // As within another build that records: its listener answers nothing here, since nothing is trapped.
        let finish = |value| Instruction { code: 6, if_true: 0, if_false: 0, value };
        process::no_new_privileges().unwrap();
        let allow = finish(libc::SECCOMP_RET_ALLOW);
        let outer = seccomp::install(&[allow], Listener::New).unwrap();
        assert_eq!(can_record(), Err(Obstacle::Supervised));
        drop(outer);
        // As on an old kernel: no seccomp(2), whose number is in the first word of what the filter sees.
        let load = Instruction { code: 0x20, if_true: 0, if_false: 0, value: 0 };
        let number = libc::SYS_seccomp as u32;
        let is_it = Instruction { code: 0x15, if_true: 0, if_false: 1, value: number };
        let refuse = finish(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
        seccomp::install(&[load, is_it, refuse, allow], Listener::None).unwrap();
        assert_eq!(can_record(), Err(Obstacle::Kernel));
    });
}
