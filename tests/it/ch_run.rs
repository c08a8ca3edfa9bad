//! Does `ch-run` run commands in images as its manual page says?

use std::fs;
use std::path::PathBuf;

use crate::harness::{Site, Tree, image, in_each_mode};

/// The same image in all forms that ch-run takes: a name, a directory, a packed file (which is mounted, so only where
/// that is possible).
pub fn forms(site: &Site, name: &str) -> Vec<PathBuf> {
    let (dir, packed) = (site.path("form"), site.path("form.sqfs"));
    for (format, path) in [("dir", &dir), ("squashfs", &packed)] {
        site.run("export").args(["--overwrite", "--format", format, name]).arg(path).success();
    }
    vec![name.into(), dir, packed]
}

#[test]
fn options() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("data/file", "from the host\n");
        let env = site.write("env", "A=1\nB=two words\n");
        let all = forms(site, "base");
        let check_in = |images: &[PathBuf], options: &[&str], script: &str, stdout: &str| {
            for image in images {
                let run = site.ch_run_with(options, image.to_str().unwrap()).args(["sh", "-c", script]);
                run.env("HOSTVAR", "seen").stdout(stdout).success();
            }
        };
        let check = |options: &[&str], script: &str, stdout: &str| check_in(&all, options, script, stdout);
        let data = site.path("data");
        let bind = |to: &str| format!("{}{to}", data.display());
        check(&[], "echo $HOSTVAR", "seen\n");
        check(&["-u0", "-g0"], "id -u; id -g", "0\n0\n");
        check(&["--uid=17", "--gid=18"], "id -u; id -g", "17\n18\n");
        check(&["-c", "/usr"], "pwd", "/usr\n");
        check(&["--cd=/etc"], "pwd", "/etc\n");
        check(&["-b", &bind(":/mnt/3")], "cat /mnt/3/file", "from the host\n");
        check(
            &["-b", &bind(":/mnt/0"), "-b", &bind(":/mnt/1")],
            "cat /mnt/0/file /mnt/1/file",
            "from the host\nfrom the host\n",
        );
        check(&["--set-env=X=y"], "echo $X", "y\n");
        check(&[&format!("--set-env={}", env.display())], "echo \"$A $B\"", "1 two words\n");
        check(&["--unset-env=HOST*"], "echo \"<$HOSTVAR>\"", "<>\n");
        check(&["--unset-env=*", "--set-env=K=1"], "echo \"<$HOSTVAR>$K\"", "<>1\n");
        check(&["-t"], "ls -A /tmp", "");
        // Without the packed one, which never changes.
        check_in(&all[..2], &["-w"], "touch /etc/written && ls /etc/written", "/etc/written\n");
        check(&[], "touch /etc/refused 2>/dev/null || echo read-only", "read-only\n");
    });
}

/// The exit code is the command's; what cannot be run says why.
#[test]
fn exit_codes() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        for image in forms(site, "base") {
            let image = image.to_str().unwrap();
            site.ch_run(image).arg("true").stdout("").stderr("").success();
            site.ch_run(image).args(["sh", "-c", "exit 42"]).code(42);
            // As a shell sees it: ch-run becomes the command, so the signal is its own.
            let script = format!("ch-run {image} -- sh -c 'kill -9 $$'; echo $?");
            let path = format!("{}:/usr/bin:/bin", site.path("bin").display());
            site.program("sh")
                .args(["-c", &script])
                .env("PATH", path)
                .env("CH_IMAGE_STORAGE", site.storage())
                .stdout("137\n")
                .success();
            let hint = "hint: not found in PATH, which is /none:/bin; or it is there, but its interpreter (#! line, dynamic loader) is not";
            let none = format!("error: can't execve(2): none: No such file or directory\n{hint}\n");
            site.ch_run_with(&["--set-env=PATH=/none:/bin"], image).arg("none").stderr(&none).code(127);
            site.ch_run(image).arg("/none").stderr_has("hint: it is not there; or ").code(127);
            site.ch_run(image).arg("/etc").stderr_has("Permission denied").code(126);
            for (version, own, not_found) in [("0.25", 1, 1), ("0.40", 31, 49), ("", 125, 127)] {
                site.ch_run(image).arg("none").env("CH_COMPAT", version).code(not_found);
                site.ch_run_with(&["-b", "/nowhere"], image).arg("true").env("CH_COMPAT", version).code(own);
            }
            let wrong = "error: $CH_COMPAT is no version: 1\nhint: 0.25 and 0.40 are known; without it, things are as README.md says\n";
            site.ch_run(image).arg("true").env("CH_COMPAT", "1").stderr(wrong).ch_run_failure();
        }
        site.ch_run("nix").arg("true").stderr_has("nix").ch_run_failure();
        site.ch_run_with(&["--nonsense"], "base").arg("true").ch_run_failure();
        site.ch_run_with(&["--nonsense"], "base").arg("true").env("CH_COMPAT", "0.25").usage();
    });
}

/// `--set-env` finds the environment of images that Apptainer or enroot has made.
#[test]
fn environments_of_others() {
    let site = Site::new();
    let dir = site.path("dir");
    fs::create_dir(&dir).unwrap();
    site.program("tar").arg("-C").arg(&dir).arg("-xpf").arg(image::small()).success();
    let run = || site.ch_run_with(&["--set-env"], "./dir").args(["sh", "-c", "echo \"$A|$B\""]);
    run().stderr_has("can't read /ch/environment of the image").ch_run_failure();
    site.write("dir/etc/environment", "A=b\nB=two words\n");
    run().stdout("b|two words\n").stderr("").success();
    site.write(
        "dir/.singularity.d/env/10-docker2singularity.sh",
        "#!/bin/sh\nexport A=\"${A:-\"first\"}\"\nexport B=x\n",
    );
    site.write("dir/.singularity.d/env/90-environment.sh", "# Custom\nexport B=$A:y\n");
    run().stdout("first|first:y\n").stderr("").success();
    // A FIFO, which nobody will ever write to.
    let script = "mkdir dir/ch && mkfifo dir/ch/environment";
    site.program("sh").args(["-c", script]).success();
    run().stderr_has("can't read /ch/environment of the image: not a regular file").ch_run_failure();
}

/// Without a command it is the image's own.
#[test]
fn the_images_own_command() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.build("own", "FROM base\nENTRYPOINT [\"echo\", \"a b\"]\nCMD [\"c\"]\n").success();
        for image in forms(site, "own") {
            site.ch_run(image.to_str().unwrap()).stdout("a b c\n").stderr("").success();
            let run = |options: &[&str]| site.ch_run_with(options, image.to_str().unwrap());
            run(&[]).args(["echo", "d"]).stdout("d\n").success();
            run(&["--entrypoint"]).stdout("a b c\n").success();
            run(&["--entrypoint"]).args(["d", "e"]).stdout("a b d e\n").success();
            run(&["--entrypoint=/bin/echo"]).stdout("\n").success();
            run(&["--entrypoint=/bin/echo"]).arg("d").stdout("d\n").success();
            run(&["--entrypoint="]).args(["echo", "d"]).stdout("d\n").success();
            run(&["--entrypoint="]).stderr("error: no command given\nhint: see: ch-run --help\n").ch_run_failure();
        }
        let none = "error: no command given, and the image has none of its own\nhint: see: ch-run --help\n";
        for image in forms(site, "base") {
            site.ch_run(image.to_str().unwrap()).stderr(none).ch_run_failure();
        }
        // What Apptainer's and enroot's images have instead.
        site.build("enroot", "FROM base\nRUN echo 'echo rc $#' >/etc/rc\n").success();
        let script = "RUN mkdir /.singularity.d && printf '#!/bin/sh\\necho runscript\\n' >/.singularity.d/runscript && \
                      chmod 755 /.singularity.d/runscript\n";
        site.build("apptainer", &format!("FROM base\n{script}")).success();
        site.ch_run(forms(site, "enroot")[2].to_str().unwrap()).stdout("rc 0\n").success();
        let image = forms(site, "enroot").remove(2);
        site.ch_run_with(&["--entrypoint"], image.to_str().unwrap()).args(["a", "b"]).stdout("rc 2\n").success();
        site.ch_run(forms(site, "apptainer")[2].to_str().unwrap()).stdout("runscript\n").success();
    });
}

/// It begins where `--cd` says, else in the image's WORKDIR, else in the root directory.
#[test]
fn the_directory_to_begin_in() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.build("own", "FROM base\nWORKDIR /usr/own\n").success();
        for (name, want) in [("base", "/\n"), ("own", "/usr/own\n")] {
            for image in forms(site, name) {
                let image = image.to_str().unwrap();
                site.ch_run(image).arg("pwd").stdout(want).stderr("").success();
                site.ch_run_with(&["--cd", "/etc"], image).arg("pwd").stdout("/etc\n").stderr("").success();
                site.ch_run_with(&["-c", "/none"], image).arg("pwd").stderr_has("directory to /none").ch_run_failure();
            }
        }
        // A directory that says nothing that can be read.
        site.write("form/ch/metadata.json", "{");
        site.ch_run("./form").arg("pwd").stderr_has("hint: --cd says where to begin\n").ch_run_failure();
        site.ch_run_with(&["-c", "/etc"], "./form").arg("pwd").stdout("/etc\n").success();
    });
}

/// An image may be a directory anywhere, and stays as it is.
#[test]
fn a_directory_as_image() {
    in_each_mode(|site| {
        let dir = site.path("dir");
        fs::create_dir(&dir).unwrap();
        site.program("tar").arg("-C").arg(&dir).arg("-xpf").arg(image::small()).success();
        let before = Tree::of_dir(&dir);
        site.ch_run(dir.to_str().unwrap()).args(["sh", "-c", "echo inside"]).stdout("inside\n").success();
        Tree::of_dir(&dir).without_dir_times().assert_same(&before.without_dir_times(), "the directory afterwards");
    });
}

/// In a directory where `ch-image build -t hello hello` was said, there is both an image and a directory of that name.
#[test]
fn a_name_is_an_image_before_it_is_a_directory() {
    in_each_mode(|site| {
        site.import(image::small(), "hello");
        let run = |name: &str| site.ch_run(name).args(["sh", "-c", "echo inside"]);
        let dir = site.path("hello");
        fs::create_dir(&dir).unwrap();
        run("hello").stdout("inside\n").success();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "the directory is left alone");
        site.run("delete").arg("hello").success();
        run("hello")
            .stderr_has("no image hello in storage, and the directory hello has none of bin, dev, usr")
            .ch_run_failure();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "the directory is left alone");
        site.program("tar").arg("-C").arg(&dir).arg("-xpf").arg(image::small()).success();
        run("hello").stdout("inside\n").success();
        run("./hello").stdout("inside\n").success();
        run("./hell").stderr_has("hell: not a directory").ch_run_failure();
        run("hell").stderr_has("image not found: hell\n").ch_run_failure();
    });
}

/// Without `-w` nothing is written into a directory: what it lacks to be mounted on is not made in it.
#[test]
fn nothing_is_written_without_write() {
    in_each_mode(|site| {
        let dir = site.path("dir");
        fs::create_dir(&dir).unwrap();
        site.program("tar").arg("-C").arg(&dir).arg("-xpf").arg(image::small()).success();
        for name in ["dev", "home", "mnt", "proc", "sys", "tmp"] {
            if dir.join(name).exists() {
                fs::remove_dir_all(dir.join(name)).unwrap();
            }
        }
        site.write("data/file", "from the host\n");
        let before = Tree::of_dir(&dir);
        let script =
            "test -e /proc/self/exe -a -d /sys -a -c /dev/null -a -d /home/tester -a -d /tmp && cat /new/place/file";
        let bind = format!("{}:/new/place", site.path("data").display());
        let run = site.ch_run_with(&["-b", &bind], "./dir").args(["sh", "-c", script]);
        run.stdout("from the host\n").stderr("").success();
        let write = "touch /bin/x /etc/x /x 2>/dev/null; ls -d /bin/x /etc/x /x 2>/dev/null; echo done";
        site.ch_run("./dir").args(["sh", "-c", write]).stdout("done\n").success();
        Tree::of_dir(&dir).assert_same(&before, "the directory afterwards");
        // An image in storage is no different.
        site.import(image::small(), "base");
        let files = || site.program("find").arg(site.storage().join("layers")).success().stdout;
        let before = files();
        let run = site.ch_run_with(&["-b", &bind], "base").args(["sh", "-c", "cat /new/place/file"]);
        run.stdout("from the host\n").success();
        assert_eq!(files(), before);
    });
}

/// What is no image is refused before anything is made in it, and storage's own trees are not written into by path.
#[test]
fn what_is_no_image_stays_as_it_is() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("home/thesis.tex", "x");
        let error = "error: not an image: SITE/home has none of bin, dev, usr\n\
                     hint: name an image in storage (ch-image list shows them), or a directory that holds one\n";
        for options in [&[][..], &["-w"]] {
            let home = site.path("home");
            site.ch_run_with(options, ".").arg("ls").current_dir(&home).stderr(error).ch_run_failure();
            assert_eq!(fs::read_dir(&home).unwrap().count(), 1);
        }
        let layers = site.storage().join("layers");
        let before = Tree::of_dir(&layers);
        let has = "layers has none of bin, dev, usr";
        site.ch_run(".").arg("ls").current_dir(&layers).stderr_has(has).ch_run_failure();
        let layer = fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path();
        for dir in [&layers, &layer.join("tree")] {
            let run = site.ch_run_with(&["-w"], ".").arg("ls").current_dir(dir);
            run.stderr_has("it belongs to the storage directory SITE/storage\nhint: run the image by its name")
                .ch_run_failure();
        }
        Tree::of_dir(&layers).assert_same(&before, "the layers afterwards");
    });
}

/// Not even `--version` is answered by a program that has rights of somebody else's, or gives away its own.
#[test]
fn set_id_bits_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let site = crate::harness::Site::new();
    for name in ["ch-image", "ch-run"] {
        let copy = site.path(&format!("copy/{name}"));
        fs::create_dir_all(site.path("copy")).unwrap();
        fs::copy(site.path("bin").join(name), &copy).unwrap();
        for bit in [0o4000, 0o2000] {
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755 | bit)).unwrap();
            let refusal = format!(
                "error: {name} must not be set-id or have file capabilities\n\
                 hint: it needs no privilege: chmod u-s,g-s; setcap -r\n"
            );
            for option in ["--version", "--help", "--no-such-option"] {
                let code = if name == "ch-run" { 125 } else { 1 };
                site.program(copy.to_str().unwrap()).arg(option).stdout("").stderr(&refusal).code(code);
            }
        }
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        site.program(copy.to_str().unwrap()).arg("--version").success();
    }
}

/// Cron and batch systems may not set $USER.
#[test]
fn without_a_user_name_in_the_environment() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let name = site.program("id").arg("-un").success().stdout;
        let home = format!("/home/{}\n", name.trim());
        let run = || site.ch_run("base").args(["sh", "-c", "echo $HOME"]);
        run().env_remove("USER").stdout(&home).stderr("").success();
        run().env("USER", "").stdout(&home).stderr("").success();
        run().env("USER", "alice").stdout("/home/alice\n").stderr("").success();
        site.build("out", "FROM base\nRUN true\n").env_remove("USER").success();
    });
}

/// `-w` writes into the image, any number of times, and makes no layers of what is written.
#[test]
fn written_again_and_again() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.run("import").arg(image::small()).arg("other").success();
        let layers = || fs::read_dir(site.storage().join("layers")).unwrap().count();
        let write = |n: usize| {
            let script = format!("test $(cat /log 2>/dev/null || echo 0) = {} && echo {n} >/log", n - 1);
            site.ch_run_with(&["-w"], "base").args(["sh", "-c", &script])
        };
        write(1).stderr("").success();
        let after_one = layers();
        for n in 2..20 {
            write(n).stderr("").success();
        }
        assert_eq!(layers(), after_one);
        site.ch_run("base").args(["cat", "/log"]).stdout("19\n").success();
        // What shared its layers is as it was.
        site.ch_run("other").args(["test", "-e", "/log"]).code(1);
        site.build("built", "FROM base\nRUN cp /log /copy\n").success();
        site.ch_run("built").args(["cat", "/copy"]).stdout("19\n").success();
        site.run("fsck").arg("--deep").success();
        site.run("gc").success();
        site.ch_run("base").args(["cat", "/log"]).stdout("19\n").success();
        site.ch_run("built").args(["cat", "/log"]).stdout("19\n").success();
        site.run("delete").args(["base", "other", "built"]).success();
        site.run("gc").success();
        assert_eq!(layers(), 0);
    });
}

/// Of an image that is written to, a build takes what it holds at that time, and finds its steps again as long as nothing
/// is written.
#[test]
fn builds_on_an_image_that_is_written_to() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let write = |text: &str| {
            let script = format!("echo {text} >/text");
            site.ch_run_with(&["-w"], "base").args(["sh", "-c", &script]).success();
        };
        let build = || site.build("out", "FROM base\nRUN cp /text /copy\nCOPY --from=base /text /again\n").success();
        let check = |text: &str| {
            let want = format!("{text}\n").repeat(3);
            site.ch_run("out").args(["cat", "/text", "/copy", "/again"]).stdout(&want).success();
        };
        write("one");
        build();
        check("one");
        let again = build();
        let cached = again.stderr.lines().filter(|line| line.contains('*')).count();
        assert_eq!(cached, 2, "{}", again.stderr);
        write("two");
        check("one");
        build();
        check("two");
        site.run("fsck").arg("--deep").success();
    });
}

/// Several commands may write into one image at the same time, and others read it; nobody waits.
#[test]
fn several_write_at_once() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        // Each goes on only when all are there.
        let script =
            |n: usize| format!("echo {n} >/in{n}; until test -e /in0 -a -e /in1 -a -e /in2; do sleep 0.05; done");
        let all: Vec<_> =
            (0..3).map(|n| site.ch_run_with(&["-w"], "base").args(["sh", "-c", &script(n)]).start()).collect();
        all.into_iter().for_each(|run| assert_eq!(run.into_done(&[]).status.code(), Some(0)));
        site.ch_run("base").args(["cat", "/in0", "/in1", "/in2"]).stdout("0\n1\n2\n").success();
        // A reader sees what is written while it runs.
        let reader = site.ch_run("base").args(["sh", "-c", "until test -e /now; do sleep 0.05; done"]).start();
        site.ch_run_with(&["-w"], "base").args(["touch", "/now"]).success();
        assert_eq!(reader.into_done(&[]).status.code(), Some(0));
    });
}

/// What was written stays, however the command ends: it is the command that the caller started, and nothing else is left.
#[test]
fn a_killed_command_leaves_what_it_wrote() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let script = "echo $$ >/pid; echo text >/text; until test -e /never; do sleep 0.05; done";
        let mut run = site.ch_run_with(&["-w"], "base").args(["sh", "-c", script]).start();
        let written = || site.ch_run("base").args(["cat", "/text"]).finish().stdout == "text\n";
        crate::harness::wait_for("the command to write", written);
        let pid = site.ch_run("base").args(["cat", "/pid"]).success().stdout;
        assert!(run.is_alive());
        run.kill();
        run.into_done(&[]);
        assert!(!std::path::Path::new("/proc").join(pid.trim()).exists(), "{pid}");
        site.ch_run("base").args(["cat", "/text"]).stdout("text\n").success();
        site.ch_run_with(&["-w"], "base")
            .args(["sh", "-c", "echo more >>/text; cat /text"])
            .stdout("text\nmore\n")
            .success();
        site.run("fsck").success();
    });
}

/// Only `--cd` is strict. What the image says is made, or if that can't be, the command begins in the root directory.
#[test]
fn working_directories_that_are_missing() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.build("app", "FROM base\nRUN mkdir -p /home/app\nWORKDIR /home/app\n").success();
        let told = "warning: can't begin in /home/app, the image's working directory: No such file or directory: \
                    beginning in /; --no-home shows what the image has in /home\n";
        for options in [&[][..], &["-w"], &[]] {
            let run = site.ch_run_with(options, "app").arg("pwd").stdout("/\n");
            run.stderr_has(told).success();
        }
        for image in ["app".into(), forms(site, "app").remove(2)] {
            let image = image.to_str().unwrap();
            site.ch_run(image).arg("pwd").stderr(told).success();
            site.ch_run_with(&["--no-home"], image).arg("pwd").stdout("/home/app\n").stderr("").success();
        }
        let strict = "can't change the directory to /home/app: No such file or directory\n\
                      hint: the working directory does not exist in the image: ch-run --cd / begins elsewhere\n";
        site.ch_run_with(&["--cd", "/home/app"], "app").arg("pwd").stdout("").stderr_has(strict).ch_run_failure();
        site.build("gone", "FROM base\nWORKDIR /srv/app\nRUN rm -r /srv/app\n").success();
        for image in ["gone".into(), forms(site, "gone").remove(2)] {
            site.ch_run(image.to_str().unwrap()).arg("pwd").stdout("/srv/app\n").stderr("").success();
        }
        site.ch_run_with(&["-w"], "gone").args(["sh", "-c", "pwd; echo x >file"]).stdout("/srv/app\n").success();
        site.ch_run("gone").args(["cat", "file"]).stdout("x\n").success();
        site.ch_run_with(&["--cd", "/srv/none"], "gone").arg("pwd").stdout("").stderr_has("/srv/none").ch_run_failure();
        site.build("file", "FROM base\nWORKDIR /srv/app\nRUN rmdir /srv/app && touch /srv/app\n").success();
        let told = "warning: can't begin in /srv/app, the image's working directory: Not a directory: beginning in /\n";
        site.ch_run("file").arg("pwd").stdout("/\n").stderr(told).success();
    });
}

/// Images of systems that run have links for name service that lead to what only a running system has.
#[test]
fn links_for_name_service_that_lead_nowhere() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let host = fs::read_to_string("/etc/resolv.conf").unwrap();
        let hosts = fs::read_to_string("/etc/hosts").unwrap();
        let tar = site.path("linked.tar");
        let script = format!(
            "mkdir t && tar -C t -xf {} && cd t/etc && rm -f resolv.conf hosts && \
             ln -s ../run/systemd/resolve/stub-resolv.conf resolv.conf && ln -s /no/such/hosts hosts && \
             tar -C .. -cf {} .",
            image::small().display(),
            tar.display()
        );
        site.program("sh").args(["-c", &script]).success();
        site.import(&tar, "linked");
        let packed = forms(site, "linked").remove(2);
        let tree = site.path("t");
        let before = Tree::of_dir(&tree);
        let dir = tree.to_str().unwrap();
        let packed = packed.to_str().unwrap();
        for (options, image) in
            [(&[][..], packed), (&[], "linked"), (&[], dir), (&["-w"], "linked"), (&[], "linked"), (&["-w"], dir)]
        {
            if options.is_empty() && image == dir {
                Tree::of_dir(&tree).assert_same(&before, "a directory that is not written to");
            }
            let run = site.ch_run_with(options, image).args(["cat", "/etc/resolv.conf", "/etc/hosts"]);
            run.stdout(&format!("{host}{hosts}")).success();
        }
        site.build("out", "FROM linked\nRUN cat /etc/resolv.conf /etc/hosts\n")
            .stdout(&format!("{host}{hosts}"))
            .success();
    });
}

/// Users whom only a directory service knows are called as $USER says; whom nobody knows has a number.
#[test]
fn users_whom_only_a_directory_service_knows() {
    in_each_mode(|site| {
        let run = |user: Option<&str>, script: &str| {
            let run = site.program("unshare").env("CH_IMAGE_STORAGE", site.storage());
            let run = run.args(["-U", "--map-user=54321", "--map-group=54322"]).arg(site.path("bin/ch-run"));
            let run = run.args(["base", "--", "sh", "-c", script]);
            match user {
                Some(user) => run.env("USER", user),
                None => run.env_remove("USER"),
            }
        };
        site.import(image::small(), "base");
        let script =
            "id -un; grep -c charlie /etc/passwd /etc/group; grep :54321: /etc/passwd; grep :54322: /etc/group; echo ~";
        let none = "/etc/passwd:0\n/etc/group:0\n";
        let want = |name: &str, home: &str| {
            format!("{name}\n{none}{name}:x:54321:54322::/home/{home}:/bin/sh\n54322:x:54322:\n/home/{home}\n")
        };
        run(Some("alice"), script).stdout(&want("alice", "alice")).stderr("").success();
        run(None, script).stdout(&want("54321", "54321")).stderr("").success();
        // What would be another field, or line.
        let script = "id -un; grep -c . /etc/passwd; cut -d: -f6 /etc/passwd | tail -1";
        run(Some("a:b"), script).stdout("54321\n3\n/\n").success();
        run(Some("a\nroot::0:0::/:/bin/sh"), script).stdout("").stderr_has("not a user name").ch_run_failure();
    });
}

/// Programs that open a window find the key to the display where its variable says.
#[test]
fn the_key_to_the_display_comes_along() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let key = site.write("run/xauth_1", "key\n").display().to_string();
        let display = |options: &[&str], image: &str, display: &str| {
            let run = site.ch_run_with(options, image).env("DISPLAY", display).env("XAUTHORITY", &key);
            run.args(["sh", "-c", "cat $XAUTHORITY 2>/dev/null || echo none"]).stderr("")
        };
        for image in forms(site, "base") {
            let image = image.to_str().unwrap();
            display(&[], image, ":0").stdout("key\n").success();
            display(&["-W", "--env", "clean"], image, ":0").stdout("key\n").success();
            display(&["-t"], image, "localhost:10.0").stdout("key\n").success();
            display(&[], image, "").stdout("none\n").success();
        }
        // Nothing is left in the image.
        display(&["-w"], "base", ":0").stdout("none\n").success();
        fs::remove_file(&key).unwrap();
        display(&[], "base", ":0").stdout("none\n").success();
    });
}
