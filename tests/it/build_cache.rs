//! Which steps run again, and what remains of those that did not end well?

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use crate::harness::site::in_tmp;
use crate::harness::wait::{endless, meanwhile, runs};
use crate::harness::{Site, image, in_each_mode, wait_for};

/// In overlay mode, where there is a cache, with a small base image.
fn with_cache(test: impl Fn(&Site)) {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        test(site);
    });
}

fn layers(site: &Site) -> usize {
    fs::read_dir(site.storage().join("layers")).unwrap().count()
}

/// What a stage gives counts, not how it came about.
#[test]
fn copies_from_stages_go_by_content() {
    with_cache(|site| {
        let build = || {
            site.build(
                "out",
                "FROM base AS first\nCOPY src /src\nRUN cut -c1 /src/word >/letter; ln -s letter /link\n\
                 FROM base\nCOPY --from=first /letter /link /x/\nRUN echo ran; cat /x/letter /x/link\n",
            )
        };
        site.write("context/src/word", "apple\n");
        build().stdout("ran\na\na\n").success();
        build().stdout("").stderr_has("  5* COPY").success();
        site.write("context/src/word", "avocado\n");
        build().stdout("").stderr_has("  2 COPY").stderr_has("  3 RUN").stderr_has("  5* COPY").success();
        build().stdout("").stderr_has("  5* COPY").success();
        site.write("context/src/word", "banana\n");
        build().stdout("ran\nb\nb\n").stderr_has("  5 COPY").success();
        site.write("context/src/word", "apple\n");
        build().stdout("").success();
    });
}

/// The mark `*` says that a step was found in the cache, and nothing else.
#[test]
fn nothing_is_marked_in_a_first_build() {
    with_cache(|site| {
        let build = || site.build("out", "FROM base\nWORKDIR /\nWORKDIR /new\nCOPY file .\nRUN true\n");
        site.write("context/file", "");
        let first = build().stderr_has("  2 WORKDIR /\n  3 WORKDIR /new\n").success();
        assert!(!first.stderr.contains("* "), "{}", first.stderr);
        build().stderr_has("  2 WORKDIR /\n  3* WORKDIR /new\n  4* COPY").success();
    });
}

#[test]
fn why_a_step_ran() {
    with_cache(|site| {
        site.write("context/file", "1\n");
        let build = |arg: &str, text: &str| {
            site.build("out", "FROM base\nARG a\nRUN echo $a >/a\nCOPY file /\n")
                .args(["--why", "--build-arg", arg])
                .stderr_has(text)
                .success()
        };
        build("a=1", "    why: nothing like it in the cache\n");
        let said = build("a=1", "  3* RUN").stderr;
        assert!(!said.contains("why:"), "{said}");
        build("a=2", "    why: changed: env a (1 → 2)\n");
        site.write("context/file", "2\n");
        build("a=2", "    why: changed: content of file\n");
        fs::set_permissions(site.path("context/file"), fs::Permissions::from_mode(0o755)).unwrap();
        build("a=2", "    why: changed: mode of file (644 → 755)\n");
        let bound = || site.build("out", "FROM base\nRUN --mount=type=bind,target=/m ls /m\n").arg("--why");
        fs::create_dir(site.path("context/d")).unwrap();
        bound().success();
        fs::set_permissions(site.path("context/d"), fs::Permissions::from_mode(0o700)).unwrap();
        bound().stderr_has("    why: changed: mode of d (755 → 700)\n").success();
        site.write("context/file", "3\n");
        bound().stderr_has("    why: changed: content of file\n").success();
        fs::remove_dir(site.path("context/d")).unwrap();
        std::os::unix::fs::symlink("file", site.path("context/d")).unwrap();
        bound().stderr_has("    why: changed: type of d (dir → link)\n").success();
        let from_stage = "FROM base AS first\nCOPY file /\nFROM base\nRUN --mount=from=first,target=/m cat /m/file\n";
        site.build("out", from_stage).success();
        site.write("context/file", "4\n");
        site.build("out", from_stage).arg("--why").stderr_has("    why: changed: content of first\n").success();
        site.build("out", "FROM base\nARG a\nRUN echo $a >/a\n")
            .args(["--rebuild", "--why", "--build-arg", "a=2"])
            .stderr_has("    why: asked for\n")
            .success();
    });
}

/// Whether names are of one file shows in the image, so it counts.
#[test]
fn hard_links_count() {
    with_cache(|site| {
        site.write("context/a", "1\n");
        site.write("context/b", "1\n");
        let build = || site.build("out", "FROM base\nCOPY a b /d/\n");
        build().success();
        fs::remove_file(site.path("context/b")).unwrap();
        fs::hard_link(site.path("context/a"), site.path("context/b")).unwrap();
        build().stderr_has("  2 COPY").success();
        site.ch_run("out").args(["sh", "-c", "test /d/a -ef /d/b"]).success();
    });
}

/// The context may change while a step takes files from it. Then nobody else gets what the step made.
#[test]
fn files_that_change_meanwhile() {
    with_cache(|site| {
        let changes = |command: &str, said: &str| {
            site.write("context/file", "old\n");
            let dockerfile = format!("FROM base\nRUN --mount=type=bind,target=/m {command}\n");
            let build = || {
                let bind = format!("{}:/mnt/0", site.path("context").display());
                site.build("out", &dockerfile).args(["--why", "--bind", &bind])
            };
            let warning = format!("warning: RUN: source files changed during the step{said}; not caching it\n");
            build().stdout("new\n").stderr_has(&warning).success();
            site.write("context/file", "old\n");
            let why = "    why: changed: files while they were taken\n";
            build().stdout("new\n").stderr_has("  2 RUN").stderr_has(why).success();
        };
        changes("echo new >/mnt/0/file; cat /m/file", ": content of file");
        changes("echo new >/mnt/0/file; cat /m/file; echo old >/mnt/0/file", "");
        changes("mv /mnt/0/file /mnt/0/f; echo new; cp /m/f /mnt/0/file; rm /mnt/0/f", "");
    });
}

#[test]
fn copies_of_a_changing_file_are_no_others() {
    with_cache(|site| {
        let build = || site.build("out", "FROM base\nCOPY file /\n").success();
        let copied = || site.ch_run("out").args(["cat", "/file"]).success().stdout;
        for round in 0..4 {
            let text = |n: usize| format!("{round} {}\n", n % 2);
            site.write("context/file", &text(0));
            let swap = |n| fs::rename(site.write("new", &text(n)), site.path("context/file")).unwrap();
            meanwhile(swap, build);
            for n in 0..2 {
                site.write("context/file", &text(n));
                build();
                assert_eq!(copied(), text(n));
            }
        }
    });
}

/// A step that is done again is a new layer: images made of the old one do not change.
#[test]
fn rebuilding_leaves_other_images_alone() {
    with_cache(|site| {
        let dockerfile = "FROM base\nRUN cat /proc/sys/kernel/random/uuid >/id\nRUN cp /id /copy\n";
        let id = |name: &str| site.ch_run(name).args(["cat", "/copy"]).success().stdout;
        site.build("one", dockerfile).success();
        let old = id("one");
        site.build("two", dockerfile).success();
        assert_eq!(id("two"), old);
        site.build("two", dockerfile).arg("--rebuild").stderr_has("  2 RUN").success();
        let new = id("two");
        assert_ne!(new, old);
        assert_eq!(id("one"), old);
        site.build("three", dockerfile).stderr_has("  2* RUN").stderr_has("  3* RUN").success();
        assert_eq!(id("three"), new, "the cache has the newer one");
    });
}

#[test]
fn a_killed_build_goes_on_where_it_was() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        fs::create_dir(site.path("bound")).unwrap();
        let endless = endless();
        let build = || {
            let dockerfile = "FROM base\nRUN echo done >/first\n\
                              RUN echo half >/second; touch /mnt/0/begun; test -e /mnt/0/go || ENDLESS; cat /first\n";
            let dockerfile = dockerfile.replace("ENDLESS", &endless);
            site.build("out", &dockerfile).arg("--bind").arg(format!("{}:/mnt/0", site.path("bound").display()))
        };
        let mut running = build().start();
        wait_for("RUN to begin", || runs(&endless));
        running.kill();
        wait_for("what RUN started to end", || !runs(&endless));
        assert!(!site.images().iter().any(|name| name.starts_with("out")), "{:?}", site.images());
        site.write("bound/go", "");
        build().stdout("done\n").stderr_has("  2* RUN").success();
        let left: Vec<_> = fs::read_dir(site.storage().join("tmp")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn a_failed_run_can_be_looked_into() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let done = site
            .build("out", "FROM base\nENV A=1\nRUN echo stands >/before\nRUN touch /after; exit 3\n")
            .stderr_has("error: build failed: RUN command exited with 3\n")
            .stderr_has("the command was: ['/bin/sh', '-c', 'touch /after; exit 3']\n")
            .failure();
        let command = done.stderr.split("ch-run ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        site.ch_run(&command).args(["cat", "/before"]).stdout("stands\n").success();
        site.ch_run(&command).args(["test", "-e", "/after"]).failure();
        assert!(!site.images().iter().any(|name| name == "out" || name == "out:latest"));
        site.run("import").arg(image::small()).args(["base", "-s", "elsewhere"]).success();
        let chown = site.build("out", "FROM base\nRUN chown 1:1 /etc/passwd\n").stderr_has("=seccomp may fix it\n");
        chown.stderr_has("hint: try --force=seccomp; or look inside the image as ").failure();
        site.build("out", "FROM base\nRUN chown 1:1 /etc/passwd\n").arg("--force=seccomp").success();
        let failed = site.build("out", "FROM base\nRUN false\n").args(["-s", "elsewhere"]);
        failed.stderr_has(": ch-run -s elsewhere out/_stage0:latest -- /bin/sh\n").failure();
    });
}

/// The stage that a failed build leaves to be looked into is not in the way: neither of `list`, nor of the disk's space.
#[test]
fn stages_of_failed_builds_do_not_stay() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let fail = || {
            site.build("out", "FROM base\nRUN echo half >/half; exit 3\n").failure();
            site.run("list").arg("-a").stdout_has("out/_stage0:latest (").success();
            assert!(!site.images().iter().any(|name| name.contains("_stage")));
            assert!(!site.run("list").arg("--json").success().stdout.contains("_stage"));
            site.run("list").args(["--json", "--all"]).stdout_has("out/_stage0:latest").success();
        };
        let has_stage = || site.run("list").arg("--all").success().stdout.contains("_stage");
        fail();
        // Of another image it stays.
        site.build("other", "FROM base\nRUN true\n").success();
        assert!(has_stage());
        site.build("out", "FROM base\nRUN echo whole >/whole\n").success();
        assert!(!has_stage());
        fail();
        site.run("gc").arg("--keep=1d").success();
        assert!(has_stage());
        site.run("gc").arg("-n").stderr_has("would remove 1 stages of builds, ").success();
        assert!(has_stage());
        site.run("gc").stderr_has("removed 1 stages of builds, ").success();
        assert!(!has_stage());
        fail();
        site.run("delete").arg("out").success();
        assert!(!has_stage());
        site.run("fsck").arg("--deep").success();
        // The letter means the architecture everywhere else.
        site.run("list").args(["--arch", "s390x"]).stdout_has("base:latest").success();
    });
}

/// Builds with steps in common do each of them at least once, and none spoils another's.
#[test]
fn builds_side_by_side() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write(
            "context/Dockerfile",
            "FROM base\nCOPY . /srv/\nRUN echo 1 >/one\nRUN cat /one /one >/two\nWORKDIR /w\nRUN echo 3 >three\n",
        );
        (0..50).for_each(|n| drop(site.write(&format!("context/files/{n}"), &format!("{n}\n"))));
        thread::scope(|scope| {
            for n in 0..6 {
                scope.spawn(move || {
                    let tag = format!("out{n}");
                    for _ in 0..3 {
                        let run = site.run("build").args(["-t", &tag]).arg(site.path("context"));
                        if n == 5 {
                            run.arg("--rebuild").success()
                        } else {
                            run.success()
                        };
                    }
                });
            }
        });
        let first = site.tree("out0");
        assert!(first.0.contains_key("srv/files/49") && first.0.contains_key("w/three"));
        for n in 1..6 {
            let names = |tree: &crate::harness::Tree| tree.0.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&site.tree(&format!("out{n}"))), names(&first));
        }
    });
}

#[test]
fn garbage_is_what_no_image_needs() {
    with_cache(|site| {
        site.build("out", "FROM base\nRUN echo 1 >/f\nRUN --mount=type=cache,target=/c echo x >/c/x\n").success();
        site.build("out", "FROM base\nRUN echo 2 >/f\n").success();
        let before = layers(site);
        let said = site.run("gc").arg("--dry-run").success().stderr;
        assert!(said.starts_with("would remove 3 layers"), "{said}");
        assert_eq!(layers(site), before);
        site.run("gc").args(["--keep", "1G"]).stderr_has("removed 0 layers").success();
        site.build("out", "FROM base\nRUN echo 1 >/f\n").stderr_has("  2* RUN").success();
        site.build("out", "FROM base\nRUN echo 2 >/f\n").stderr_has("  2* RUN").success();
        site.run("gc").args(["--keep", "1h"]).stderr_has("removed 0 layers").success();
        site.run("gc").stderr_has("removed ").success();
        assert!(layers(site) < before);
        assert_eq!(fs::read_dir(site.storage().join("cache")).unwrap().count(), 0, "cache mounts are gone");
        site.ch_run("out").args(["cat", "/f"]).stdout("2\n").success();
        site.build("out", "FROM base\nRUN echo 2 >/f\n").stderr_has("  2* RUN").success();
        site.build("out", "FROM base\nRUN echo 1 >/f\n").stderr_has("  2 RUN").success();
    });
}

const SECRET: &str = "hunter2-do-not-keep";

/// A secret is for one instruction: not for a layer, a log, the name of a step, or another instruction.
#[test]
fn secrets_stay_secret() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let file = site.write("token", SECRET);
        let log = site.path("log");
        let build = |and: &str| {
            let dockerfile = format!(
                "FROM base\nRUN --mount=type=secret,id=a --mount=type=secret,id=b,env=TOKEN wc -c </run/secrets/a; \
                 test \"$TOKEN\" = \"$(cat /run/secrets/a)\" && echo same\n\
                 RUN cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c 'hunte[r]2'; \
                 ls /run/secrets; env | grep TOKEN; {and}\n"
            );
            let run = site.build("out", &dockerfile).args(["-v", "-v", "-v"]);
            run.args(["--secret", &format!("id=a,src={}", file.display()), "--secret", "id=b,env=VALUE"])
                .env("VALUE", SECRET)
                .env("CH_IMAGE_PASSWORD", SECRET)
                .env("CH_LOG_FILE", &log)
        };
        let done = build("true").success();
        assert_eq!(done.stdout, "19\nsame\n0\n", "{}", done.stderr);
        let failed = build("exit 1").failure();
        for text in [done.stderr, failed.stderr, failed.stdout, fs::read_to_string(&log).unwrap()] {
            assert!(!text.contains(SECRET), "{text}");
        }
        assert_eq!(holders(&site.storage()), Vec::<String>::new());
    });
}

/// Whatever their bytes.
#[test]
fn secrets_are_bytes() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let build = |value: &[u8]| {
            let file = site.path("secret");
            fs::write(&file, value).unwrap();
            let mount = "--mount=type=secret,id=v --mount=type=secret,id=f,env=F";
            site.build("out", &format!("FROM base\nRUN {mount} test \"$(cat /run/secrets/v)\" = \"$F\"; echo $?\n"))
                .args(["--secret", "id=v,env=V", "--secret", &format!("id=f,src={}", file.display())])
                .arg("--rebuild")
                .env("V", OsStr::from_bytes(b"a\xffb"))
        };
        build(b"a\xffb").stdout("0\n").success();
        build(b"a\0b").stderr_has(": line 2: RUN: secret f has a NUL byte, so it can't be a variable\n").failure();
    });
}

/// Even where commands see the storage directory: below the host's /tmp, when that is bound.
#[test]
fn secrets_go_with_their_instruction() {
    let site = Site::new();
    let file = site.write("token", SECRET);
    let storage = in_tmp("ch-image-secrets").display().to_string();
    site.run("import").arg(image::small()).arg("base").env("CH_IMAGE_STORAGE", &storage).success();
    let dockerfile = format!(
        "FROM base\nRUN --mount=type=secret,id=a test -f /run/secrets/a\n\
         RUN test -d {storage}/tmp && for f in {storage}/tmp/*/*/secret; do test ! -e $f || cat $f; done\n"
    );
    let build = site.build("out", &dockerfile).args(["--secret", &format!("id=a,src={}", file.display())]);
    build.args(["--bind", "/tmp"]).env("CH_IMAGE_STORAGE", &storage).stdout("").success();
    assert_eq!(fs::read_dir(format!("{storage}/tmp")).unwrap().count(), 0, "left behind");
    site.program("rm").args(["-rf", &storage]).success();
}

/// Files below a directory that hold the secret.
fn holders(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(holders(&path));
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap();
            if bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

/// What RUN can reach: its own environment, three descriptors, and the agent that it was given.
#[test]
fn nothing_of_the_caller_is_in_reach() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let socket = site.path("agent");
        let _listener = UnixListener::bind(&socket).unwrap();
        site.build(
            "out",
            "FROM base\nRUN for file in /proc/self/fd/*; do test ! -e $file || echo ${file##*/}; done\n\
             RUN test -r /proc/1/environ && cat /proc/1/environ; echo hidden\n\
             RUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo agent\n\
             RUN test -z \"$SSH_AUTH_SOCK\" && echo no agent\n",
        )
        .args(["--ssh", &format!("default={}", socket.display())])
        .env("CH_IMAGE_USERNAME", "me")
        .env("CH_IMAGE_PASSWORD", SECRET)
        .stdout("0\n1\n2\nhidden\nagent\nno agent\n")
        .success();
    });
}

/// An agent that has its socket in the host's /tmp can be reached all the same, and is not in the way of what empties /tmp.
#[test]
fn agents_in_tmp_are_in_reach_all_the_same() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let agent = in_tmp("ch-agent").display().to_string();
        let _listener = UnixListener::bind(&agent).unwrap();
        let look = "FROM base\nRUN rm -rf /tmp/* && test -S \"$SSH_AUTH_SOCK\" && echo agent || echo none\n";
        for (path, want) in [(agent.as_str(), "agent\n"), ("/tmp", "none\n"), ("/tmp/../tmp", "none\n"), ("", "none\n")]
        {
            site.build("out", look).arg("--rebuild").env("SSH_AUTH_SOCK", path).stdout(want).success();
        }
        site.build("next", "FROM out\nRUN ls -A /tmp; test -e /ch/ssh-agent || echo gone\n").stdout("gone\n").success();
        // With the host's /tmp it is where the variable says.
        let look = format!("FROM base\nRUN test $SSH_AUTH_SOCK = {agent} && test -S {agent}\n");
        site.build("out", &look).args(["--bind", "/tmp"]).env("SSH_AUTH_SOCK", &agent).success();
        std::fs::remove_file(&agent).unwrap();
    });
}

/// A cache mount that begins with what a stage has begins anew when the stage has something else.
#[test]
fn cache_mounts_go_with_their_seed() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let build = |text: &str| {
            site.write("context/file", text);
            let mount = "--mount=type=cache,id=c,from=first,target=/c";
            let dockerfile = format!("FROM base AS first\nCOPY file /\nFROM base\nRUN {mount} cat /c/file\n");
            site.build("out", &dockerfile).stdout(text)
        };
        build("1\n").success();
        build("2\n").success();
    });
}

/// `sharing=locked` waits; private ones get a directory of their own.
#[test]
fn cache_mounts_are_shared_as_they_say() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        fs::create_dir(site.path("bound")).unwrap();
        // Those that are to be there at the same time wait for each other.
        let run = |n: usize, sharing: &str| {
            let meanwhile = match sharing {
                "locked" => "sleep 0.5",
                _ => "until test -e /mnt/0/0 && test -e /mnt/0/1 && test -e /mnt/0/2; do sleep 0.1; done",
            };
            let dockerfile = format!(
                "FROM base\nRUN --mount=type=cache,id={sharing},target=/c,sharing={sharing} test -e /c/busy && echo busy; \
                 touch /c/busy /mnt/0/{n}; {meanwhile}; rm /c/busy\n"
            );
            site.write(&format!("df{sharing}{n}"), &dockerfile);
            site.run("build")
                .args(["-t", &format!("{sharing}{n}"), "-f"])
                .arg(site.path(&format!("df{sharing}{n}")))
                .arg("--bind")
                .arg(format!("{}:/mnt/0", site.path("bound").display()))
                .arg(site.path("home"))
                .success()
                .stdout
        };
        for (sharing, wanted) in [("locked", ""), ("private", "")] {
            let said: Vec<String> = thread::scope(|scope| {
                let runs: Vec<_> = (0..3).map(|n| scope.spawn(move || run(n, sharing))).collect();
                runs.into_iter().map(|run| run.join().unwrap()).collect()
            });
            assert!(said.iter().all(|text| text == wanted), "{sharing}: {said:?}");
            (0..3).for_each(|n| fs::remove_file(site.path("bound").join(n.to_string())).unwrap());
        }
        let mounts = fs::read_dir(site.storage().join("cache")).unwrap().flatten();
        let names: Vec<_> =
            mounts.map(|e| e.file_name().into_string().unwrap()).filter(|n| n.starts_with("mount-")).collect();
        assert!(names.len() == 4 && names.iter().all(|n| !n.contains("locked") && !n.contains("private")), "{names:?}");
    });
}
