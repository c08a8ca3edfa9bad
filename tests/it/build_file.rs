//! Where the Dockerfile and what lies beside it are found, and what is said of a bad one before any work.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::wait::meanwhile;
use crate::harness::{Site, image, in_each_mode};

/// What only the values show is refused by a dry run and by a build, with file, line and keyword; stages that are not
/// needed may hold what they like.
#[test]
fn late_errors_come_before_any_work() {
    let site = Site::new();
    let check = |lines: &str, want: &str| {
        let text = format!("FROM scratch AS unused\nENV a=${{\nFROM scratch\n{lines}\n");
        site.build("x", &text).arg("--parse-only").stdout("").stderr("").success();
        let want = format!("error: SITE/context/Dockerfile: {want}");
        site.build("x", &text).arg("--dry-run").stderr_has(&want).failure();
    };
    check("COPY --from=UPPER:bad: a b", "line 4: COPY: image ref syntax, char 7: UPPER:bad:");
    check("RUN --mount=from=x@y,target=/m true", "line 4: RUN: image ref syntax, char 3: x@y");
    check("RUN --mount=target=/ true", "line 4: RUN: --mount=target=/: target may not be /");
    check("EXPOSE 65536", "line 4: EXPOSE: invalid port");
    check("STOPSIGNAL nonsense", "line 4: STOPSIGNAL: invalid signal");
    check("COPY --chmod=888 a b", "line 4: COPY: invalid mode");
    check("COPY http://a/b c", "line 4: COPY: source is a URL");
    check("ENV a=${b:?missing}", "line 4: ENV: can't expand ${b:?missing}: b: missing");
    check("COPY --from=7 a b", "line 4: COPY: no stage has the number 7");
    check("COPY --from=z a b\nFROM scratch AS z\nFROM scratch\nCOPY --from=1 a b", "line 4: COPY: stage z needs to be");
    check("COPY --from=z a b\nFROM scratch AS z\nCOPY --from=1 a b", "line 4: COPY: circular dependency");
    check("FROM --platform=a/b/c/d x", "line 4: FROM: invalid platform");
    check("FROM Upper", "line 4: FROM: image ref syntax, at end: Upper");
    site.build("x", "FROM y AS z\nFROM scratch\nCOPY --from=z a b\nCOPY --from=docker.io/library/x:latest a b\n")
        .arg("--dry-run")
        .stderr_has("error: output image ref same as FROM: docker.io/library/x:latest\n")
        .failure();
    assert!(!site.storage().exists());
}

/// Whoever can write to the context may put links in the way at any moment: what is outside never comes in.
#[test]
fn a_context_that_is_swapped_meanwhile() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("outside/file", "secret\n");
        site.write("context/d/file", "public\n");
        let (dir, aside) = (site.path("context/d"), site.path("context/aside"));
        let builds = AtomicU64::new(0);
        // First as fast as can be, to hit every moment; then slower, so that on every machine each state is met.
        let pause = || thread::sleep(Duration::from_micros(100 * builds.load(Ordering::Relaxed).pow(2).min(2_000)));
        let swap = |_| {
            fs::rename(&dir, &aside).unwrap();
            symlink("../outside", &dir).unwrap();
            pause();
            fs::remove_file(&dir).unwrap();
            fs::rename(&aside, &dir).unwrap();
            pause();
        };
        meanwhile(swap, || {
            let (mut taken, mut refused) = (0, 0);
            while (taken < 3 || refused < 3 || taken + refused < 20) && taken + refused < 300 {
                let copy = ["COPY d /x/", "ADD d/file /x/file", "RUN --mount=target=/m,rw mkdir /x; cp /m/d/file /x/"];
                let text = format!("FROM base\n{}\nRUN cat /x/file\n", copy[(taken + refused) % 3]);
                let build = site.build("out", &text).arg("--rebuild").finish();
                match build.status.code() {
                    Some(0) => taken += 1,
                    _ => refused += 1,
                }
                builds.fetch_add(1, Ordering::Relaxed);
                assert!(!build.stdout.contains("secret"), "{}{}", build.stdout, build.stderr);
            }
            assert!(taken > 0 && refused > 0, "{taken} {refused}");
        });
    });
}

#[test]
fn names_and_links() {
    let site = Site::new();
    site.import(image::small(), "base");
    site.write("context/Dockerfile", "FROM base\nCOPY . /srv/\n");
    site.write("context/kept", "");
    site.write("context/left-out", "");
    site.write("context/elsewhere", "left-out\nelsewhere\nDockerfile\n.dockerignore\n");
    symlink("elsewhere", site.path("context/.dockerignore")).unwrap();
    // The name is the link's, not that of the directory behind it.
    symlink("context", site.path("My Link")).unwrap();
    site.run("build").arg(site.path("My Link")).stderr_has("grown in 2 instructions: mylink").success();
    let tree = site.tree("mylink");
    assert!(tree.0.contains_key("srv/kept") && !tree.0.contains_key("srv/left-out"));
    fs::rename(site.path("context/Dockerfile"), site.path("context/Dockerfile.@FOO.bar")).unwrap();
    let file = site.path("context/Dockerfile.@FOO.bar");
    site.run("build").arg("-f").arg(file).arg(site.path("context")).stderr_has("instructions: foo.bar").success();
}

/// What lies in a context may be somebody else's: no FIFO is waited for, and no line of a file outside is shown. A
/// file that `-f` names is the user's own choice.
#[test]
fn odd_files_in_a_context() {
    let site = Site::new();
    site.import(image::small(), "base");
    site.write("secret", "FROM base\nPASSWORD=x\n[a-\n");
    let make = |kind: &str, name: &str| {
        let path = site.path("context").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        match kind {
            "fifo" => drop(site.program("mkfifo").arg(&path).success()),
            "out" => symlink("../secret", &path).unwrap(),
            "deep" => symlink("../../secret", &path).unwrap(),
            "absolute" => symlink(site.path("secret"), &path).unwrap(),
            text => drop(site.write(&format!("context/{name}"), text)),
        }
    };
    let build = || site.run("build").args(["-t", "x"]);
    let check = |file: Option<&str>, want: &str| {
        let run = match file {
            Some(file) => build().arg("-f").arg(site.path(file)),
            None => build(),
        };
        let done = run.arg(site.path("context")).stderr_lacks("PASSWORD").failure();
        assert!(done.stderr.contains(want), "{want:?} is not in {}", done.stderr);
    };
    let outside = "it is a link that leads out of SITE/context\nhint: copy the file there; of a Dockerfile, -f may name \
                   the other place\n";
    for name in ["Dockerfile", "Containerfile", "dockerfile"] {
        make("fifo", name);
        check(None, &format!("error: can't read SITE/context/{name}: can't open {name}: not a regular file\n"));
        for kind in ["out", "absolute"] {
            make(kind, name);
            check(None, &format!("error: can't read SITE/context/{name}: {outside}"));
        }
        fs::remove_file(site.path("context").join(name)).unwrap();
    }
    make("FROM base\nCOPY kept /kept\n", "docker/Dockerfile");
    make("", "kept");
    symlink("docker/Dockerfile", site.path("context/Dockerfile")).unwrap();
    let ignores = [
        (None, ".dockerignore", "out"),
        (None, ".containerignore", "out"),
        (None, "Dockerfile.dockerignore", "out"),
        (Some("context/docker/Dockerfile"), "docker/Dockerfile.dockerignore", "deep"),
    ];
    for (file, name, out) in ignores {
        for kind in [out, "absolute"] {
            make(kind, name);
            check(file, &format!("error: can't read SITE/context/{name}: {outside}"));
        }
        make("fifo", name);
        check(file, &format!("error: can't read SITE/context/{name}: can't open {name}: not a regular file\n"));
        fs::remove_file(site.path("context").join(name)).unwrap();
    }
    symlink("../elsewhere", site.path("context/docker/Dockerfile.dockerignore")).unwrap();
    make("kept\n", "elsewhere");
    let file = site.path("context/docker/Dockerfile");
    build().arg("-f").arg(&file).arg(site.path("context")).stderr_has("it is excluded by .dockerignore").failure();
    build().arg(site.path("context")).success();
    // The user's own choice.
    fs::rename(&file, site.path("named")).unwrap();
    symlink("../named", site.path("context/Dockerfile.link")).unwrap();
    build().arg("-f").arg(site.path("context/Dockerfile.link")).arg(site.path("context")).success();
    site.program("mkfifo").arg(site.path("pipe")).success();
    let text = fs::read(site.path("named")).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| fs::write(site.path("pipe"), text).unwrap());
        build().arg("-f").arg(site.path("pipe")).arg(site.path("context")).success();
    });
}

/// An editor's or a file system monitor's socket in the context is in nobody's way.
#[test]
fn sockets_in_a_context_are_left_out() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("context/d/file", "text\n");
        let _socket = UnixListener::bind(site.path("context/d/socket")).unwrap();
        let text = "FROM base\nCOPY . /all/\nADD d /d/\nRUN --mount=target=/m,rw cat /m/d/file && find /all /d | \
                    grep -v Dockerfile | sort\nFROM base\nCOPY --from=0 /all /all\n";
        let found = "text\n/all\n/all/d\n/all/d/file\n/d\n/d/file\n";
        let ignored = "COPY: ignored 1 sockets, devices and/or FIFOs\n";
        site.build("out", text).stdout(found).stderr_has(ignored).success();
        site.write("context/.dockerignore", "d/socket\n");
        site.build("out", text).stderr_lacks("ignored").success();
        let named = site.build("out", "FROM base\nCOPY d/sock* /x\n");
        fs::remove_file(site.path("context/.dockerignore")).unwrap();
        named.stderr_has("line 2: COPY: can't COPY: unknown file type: d/sock*\n").failure();
    });
}
