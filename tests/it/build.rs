//! Does a Dockerfile give the image that it says? The basic instructions, in both storage modes, on a small image.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::harness::{image, in_each_mode};

/// An image may name a working directory that it does not have.
#[test]
fn a_working_directory_that_is_missing() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let text = "FROM base\nWORKDIR /work/deep\nRUN rm -r /work\nRUN pwd\n";
        site.build("out", text).stdout("/work/deep\n").success();
        site.build("gone", "FROM base\nWORKDIR /work\nRUN rm -r /work\n").success();
        site.ch_run("gone").arg("pwd").stdout("/work\n").stderr("").success();
        site.ch_run_with(&["--cd", "/"], "gone").arg("pwd").stdout("/\n").success();
    });
}

#[test]
fn every_basic_instruction() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("context/one", "one\n");
        site.write("context/tree/two", "two\n");
        site.write("context/tree/sub/three", "three\n");
        fs::set_permissions(site.path("context/tree/two"), fs::Permissions::from_mode(0o750)).unwrap();
        let done = site
            .build(
                "out",
                "# a comment\n\
                 FROM base AS first\n\
                 ARG who=nobody\n\
                 ENV GREETING=\"hello $who\" PLAIN=1\n\
                 WORKDIR /work/deep\n\
                 RUN echo \"$GREETING\" >said && \\\n    pwd >>said\n\
                 RUN [\"sh\", \"-c\", \"echo exec form >>said\"]\n\
                 SHELL [\"/bin/sh\", \"-e\", \"-c\"]\n\
                 RUN echo shell >>said\n\
                 FROM base\n\
                 COPY one /etc/one.conf\n\
                 COPY tree /srv/tree/\n\
                 COPY --from=first /work/deep/said /work/\n\
                 COPY --from=0 /work/deep/said /etc/passwd /many/\n\
                 WORKDIR /work\n\
                 ENV LAST=1\n\
                 RUN id -u && id -g && cat said\n",
            )
            .args(["--build-arg", "who=world"])
            .stdout("0\n0\nhello world\n/work/deep\nexec form\nshell\n")
            .success();
        assert!(done.stderr.ends_with("grown in 17 instructions: out\n"), "{}", done.stderr);
        let tree = site.tree("out");
        assert_eq!(tree.0["srv/tree/two"].mode, 0o750);
        assert!(tree.0.contains_key("srv/tree/sub/three"));
        assert_eq!(tree.0["many/said"].kind, tree.0["work/said"].kind);
        assert!(tree.0.contains_key("many/passwd") && tree.0.contains_key("etc/one.conf"));
        assert!(!tree.0.contains_key("work/deep"), "a file of the first stage");
        let environment = site.ch_run("out").args(["cat", "/ch/environment"]).success().stdout;
        let option = format!("--set-env={}", site.write("environment", &environment).display());
        site.ch_run_with(&[&option], "out").args(["sh", "-c", "echo $LAST-$PLAIN"]).stdout("1-\n").success();
    });
}

/// The base stays as it was, and files that a step removes are gone.
#[test]
fn steps_change_only_their_own_image() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let before = site.tree("base");
        site.build(
            "out",
            "FROM base\nRUN rm /etc/group && echo x >>/etc/passwd && rm -r /var && mkdir /var && touch /var/new\n",
        )
        .success();
        site.tree("base").assert_same(&before, "base after the build");
        let after = site.tree("out");
        assert!(!after.0.contains_key("etc/group"));
        assert!(!after.0.contains_key("var/tmp"), "a directory made anew shows what was below it");
        assert!(after.0.contains_key("var/new"));
    });
}

/// Nothing changed: nothing runs. Something changed: what depends on it runs.
#[test]
fn the_cache_knows_what_matters() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let file = site.write("context/file", "1\n");
        let dockerfile = "FROM base\nARG a=1\nRUN echo first\nCOPY file /\nRUN cat /file\n";
        let check = |why: &str, arg: &str, stdout: &str| {
            site.build("out", dockerfile).args(["--build-arg", arg]).stdout(stdout).success();
            site.ch_run("out").args(["sh", "-c", "ls /file"]).stdout("/file\n").success();
            assert!(site.images().contains(&"out:latest".to_owned()), "{why}");
        };
        check("nothing is cached", "a=1", "first\n1\n");
        check("all is cached", "a=1", "");
        fs::write(&file, "2\n").unwrap();
        check("a file changed", "a=1", "2\n");
        fs::write(&file, "1\n").unwrap();
        check("and changed back", "a=1", "");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        check("its mode changed", "a=1", "1\n");
        check("an argument changed", "a=2", "first\n1\n");
        site.build("other", dockerfile).args(["--build-arg", "a=2"]).stdout("").success();
        site.build("out", dockerfile).args(["--rebuild", "--build-arg", "a=2"]).stdout("first\n1\n").success();
    });
}

#[test]
fn failures_name_their_cause() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let check = |dockerfile: &str, code: i32, message: &str| {
            site.build("out", dockerfile).stderr_has("error: ").stderr_has(message).code(code);
            assert!(!site.images().contains(&"out:latest".to_owned()), "after {dockerfile:?}");
        };
        check("FROM base\nRUN exit 7\n", 1, "RUN command exited with 7");
        check("FROM base\nRUN [\"/nonexistent\"]\n", 1, "/nonexistent");
        check("FROM base\nCOPY nix /\n", 1, "nix");
        check("FROM base\nCOPY ../outside /\n", 1, "../outside");
        check("FROM base\nCOPY --from=9 /x /\n", 1, "9");
        check("RUN true\n", 1, "first instruction must be ARG or FROM");
        check("", 1, "no instructions");
        check("FROM base\nBREW coffee\n", 1, "BREW");
        site.run("build").args(["-t", "x", "/nonexistent"]).stderr_has("/nonexistent").failure();
    });
}

/// RUN gets the environment that the manual page promises and nothing else of the caller's.
#[test]
fn environment_of_run() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let done = site
            .build("out", "FROM base\nENV MINE=1\nRUN env\n")
            .env("HTTPS_PROXY", "http://proxy.example.com:3128")
            .env("no_proxy", "localhost")
            .env("SSH_AUTH_SOCK", "/tmp/agent")
            .env("SECRET_TOKEN", "hunter2")
            .env("HOME", site.path("home"))
            .env("CH_IMAGE_PASSWORD", "hunter2")
            .success();
        let lines: Vec<&str> = done.stdout.lines().collect();
        for line in [
            "MINE=1",
            "HTTPS_PROXY=http://proxy.example.com:3128",
            "no_proxy=localhost",
            "SSH_AUTH_SOCK=/tmp/agent",
            "TAR_OPTIONS=--no-same-owner",
            "HOME=/root",
            "PATH=/ch/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ] {
            assert!(lines.contains(&line), "no {line:?} in {lines:#?}");
        }
        assert!(!done.stdout.contains("hunter2") && !done.stdout.contains("CH_IMAGE"), "{}", done.stdout);
        // And none of it in the image.
        let text = site.ch_run("out").args(["cat", "/ch/environment"]).success().stdout;
        assert!(text.contains("MINE=1\n") && !text.contains("PROXY") && !text.contains("SSH_AUTH"), "{text}");
        assert!(!text.contains("HOME="), "{text}");
        site.build("out", "FROM base\nENV HOME=/h\nRUN echo $HOME\n").stdout("/h\n").success();
    });
}

/// RUN does what `ch-run -w -u0 -g0` does: processes of its own, the host's devices, nothing to read on standard input.
#[test]
fn isolation_of_run() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.build(
            "out",
            "FROM base\n\
             RUN echo own processes $(($(ls /proc | grep -c '^[0-9]') < 10))\n\
             RUN cat && echo end of input\n\
             RUN echo data >/dev/null && head -c 3 /dev/zero | wc -c\n\
             RUN test -d /sys/kernel && echo sys\n",
        )
        .stdin("not for you\n")
        .stdout("own processes 1\nend of input\n3\nsys\n")
        .limit(Duration::from_secs(60))
        .success();
    });
}

#[test]
fn names_of_images() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let check = |words: &[&str], name: &str| {
            site.run("build").args(words).stderr_has(&format!("grown in 1 instructions: {name}\n")).success();
            let listed = format!("{name}:latest");
            assert!(site.images().contains(&listed), "{listed} is not in {:?}", site.images());
        };
        site.write("Some.Dir/Dockerfile", "FROM base\n");
        site.write("Some.Dir/Dockerfile.@foo.bar", "FROM base\n");
        site.write("Some.Dir/baz.@qux.dockerfile", "FROM base\n");
        check(&["-t", "tagged", "Some.Dir"], "tagged");
        check(&["-f", "Some.Dir/Dockerfile.@foo.bar", "Some.Dir"], "foo.bar");
        check(&["-f", "Some.Dir/baz.@qux.dockerfile", "Some.Dir"], "baz.qux");
        check(&["Some.Dir"], "some.dir");
        site.run("build").args(["-t", "stdin", "-f", "-", "Some.Dir"]).stdin("FROM base\n").success();
        assert!(site.images().contains(&"stdin:latest".to_owned()));
    });
}
