//! Does `ch-run` run commands in images as its manual page says?

use std::fs;

use crate::harness::{Tree, image, in_each_mode};

#[test]
fn options() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("data/file", "from the host\n");
        let env = site.write("env", "A=1\nB=two words\n");
        let check = |options: &[&str], script: &str, stdout: &str| {
            let run = site.ch_run_with(options, "base").args(["sh", "-c", script]);
            run.env("HOSTVAR", "seen").stdout(stdout).success();
        };
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
        check(&["-w"], "touch /etc/written && ls /etc/written", "/etc/written\n");
        check(&[], "touch /etc/refused 2>/dev/null || echo read-only", "read-only\n");
    });
}

/// The exit code is the command's; what cannot be run says why.
#[test]
fn exit_codes() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.ch_run("base").arg("true").stdout("").stderr("").success();
        site.ch_run("base").args(["sh", "-c", "exit 42"]).code(42);
        // As a shell sees it: ch-run becomes the command, so the signal is its own.
        let script = "ch-run base -- sh -c 'kill -9 $$'; echo $?";
        let path = format!("{}:/usr/bin:/bin", site.path("bin").display());
        site.program("sh")
            .args(["-c", script])
            .env("PATH", path)
            .env("CH_IMAGE_STORAGE", site.storage())
            .stdout("137\n")
            .success();
        site.ch_run("base").arg("nonexistent").stderr_has("nonexistent").failure();
        site.ch_run("nix").arg("true").stderr_has("nix").failure();
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
            .failure();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "the directory is left alone");
        site.program("tar").arg("-C").arg(&dir).arg("-xpf").arg(image::small()).success();
        run("hello").stdout("inside\n").success();
        run("./hello").stdout("inside\n").success();
        run("./hell").stderr_has("hell: not a directory").failure();
        run("hell").stderr_has("image not found: hell\n").failure();
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
            site.ch_run_with(options, ".").arg("ls").current_dir(&home).stderr(error).failure();
            assert_eq!(fs::read_dir(&home).unwrap().count(), 1);
        }
        let layers = site.storage().join("layers");
        let before = Tree::of_dir(&layers);
        let has = "layers has none of bin, dev, usr";
        site.ch_run(".").arg("ls").current_dir(&layers).stderr_has(has).failure();
        let layer = fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path();
        for dir in [&layers, &layer.join("tree")] {
            let run = site.ch_run_with(&["-w"], ".").arg("ls").current_dir(dir);
            run.stderr_has("it belongs to the storage directory SITE/storage\nhint: run the image by its name")
                .failure();
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
                site.program(copy.to_str().unwrap()).arg(option).stdout("").stderr(&refusal).failure();
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
