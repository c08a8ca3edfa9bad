//! What `--parse-only` and `--dry-run` say, and that they do nothing.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::registry::{How, Reply, Server, sha256};
use crate::harness::{Site, image, in_each_mode};

#[test]
fn parse_only() {
    let site = Site::new();
    site.build("x", "FROM nowhere/base AS a\nRUN true\n").arg("--parse-only").stdout("").stderr("").success();
    site.build("x", "FROM nowhere/base AS a\nRUN true\n")
        .args(["--parse-only", "-v"])
        .stdout_has("(dockerfile\n  (stage (from \"nowhere/base\"")
        .stdout_has("(run ")
        .success();
    site.build("x", "FROM base\nRUM true\n").arg("--parse-only").stdout("").stderr_has("unknown instruction").failure();
    site.build("x", "# nothing\n").arg("--parse-only").stderr_has("no instructions").failure();
    assert!(!site.storage().exists());
}

#[test]
fn dry_run() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.build("on", "FROM base\nENV A=1\nWORKDIR /w\nONBUILD RUN echo $A\n").success();
        let images = site.images();
        site.build(
            "x",
            "ARG v=9\nFROM on AS first\nARG who\nCOPY one ${A}/\nRUN [\"echo\", \"$who\"]\n\
             FROM nowhere.invalid/a:$v\nRUN never\nFROM first AS last\nENV B=${A}2\nUSER me\nWORKDIR sub\n",
        )
        .args(["--dry-run", "--build-arg", "who=world"])
        .stdout(
            "stage 0 (first): from image on, in storage\n\
             \x20 RUN ['/bin/sh', '-c', 'echo $A']\n\
             \x20 ARG who='world'\n\
             \x20 COPY ['one'] -> '1/'\n\
             \x20 RUN ['echo', 'world']\n\
             stage 2 (last), the target: from stage 0\n\
             \x20 ENV B='12'\n\
             \x20 USER me\n\
             \x20 WORKDIR /w/sub\n\
             stage 1: not needed: nowhere.invalid/a:$v\n",
        )
        .success();
        site.build("x", "FROM nowhere.invalid/a\n")
            .arg("--dry-run")
            .stdout("stage 0, the target: from image nowhere.invalid/a, to be pulled: nowhere.invalid:443/a:latest\n")
            .success();
        assert_eq!(site.images(), images);
    });
}

/// ADD of URLs: name, mode and time; asked for again only whether it changed; `--checksum`.
#[test]
fn downloads() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let version = Arc::new(AtomicUsize::new(1));
        let (now, told) = (version.clone(), AtomicBool::new(false));
        let server = Server::start(move |seen| {
            let n = now.load(Ordering::Relaxed);
            let tag = format!("\"v{n}\"");
            match seen.path() {
                "/moved" => Reply::redirect(302, "/dir/file%20name?x=1"),
                "/cut" => Reply::new(200).body("half of it").how(How::Cut(4)),
                "/nix" => Reply::new(404),
                "/own" => Reply::redirect(302, "file:///etc/passwd"),
                "/busy" if !told.swap(true, Ordering::Relaxed) => Reply::new(429).header("Retry-After", "3"),
                _ if seen.header("if-none-match") == Some(&tag) => Reply::new(304),
                _ => Reply::new(200)
                    .header("ETag", tag)
                    .header("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")
                    .body(format!("version {n}\n")),
            }
        });
        let url = |path: &str| server.url(path);
        let build = |line: &str| {
            site.build("out", &format!("FROM base\nADD {line}\nRUN stat -c '%n %a %Y' /srv/*; cat /srv/*\n"))
        };
        let plain = format!("{} /srv/", url("/dir/file%20name?x=1"));
        build(&plain).stdout("/srv/file name 600 1700000000\nversion 1\n").success();
        server.forget();
        let again = build(&plain).success();
        assert_eq!(again.stdout, "");
        assert!(again.stderr.contains("  2* ADD"), "{}", again.stderr);
        assert_eq!(server.seen().len(), 1, "asked once whether it changed");
        version.store(2, Ordering::Relaxed);
        build(&plain).stdout("/srv/file name 600 1700000000\nversion 2\n").success();
        build(&format!("--chmod=755 {} /srv/x", url("/moved"))).stdout("/srv/x 755 1700000000\nversion 2\n").success();
        // A checksum that was met is not asked for again, and one that is not met is an error.
        let sum = sha256(b"version 2\n");
        let checked = format!("--checksum=sha256:{} {} /srv/y", sum.trim_start_matches("sha256:"), url("/other"));
        build(&checked).stdout("/srv/y 600 1700000000\nversion 2\n").success();
        server.forget();
        build(&checked).arg("--rebuild").success();
        assert_eq!(server.seen().len(), 0);
        // Nor is what has decayed in storage taken for it.
        let kept = site.storage().join(format!("cache/file-{}", sum.trim_start_matches("sha256:")));
        fs::write(kept, "decayed 2\n").unwrap();
        build(&checked).arg("--rebuild").stdout("/srv/y 600 1700000000\nversion 2\n").success();
        let wrong = format!("--checksum=sha256:{} {} /srv/y", "0".repeat(64), url("/other"));
        build(&wrong).stderr_has("digest mismatch").failure();
        build(&format!("{} /srv/", url("/nix"))).stderr_has("404").failure();
        let busy = build(&format!("{} /srv/", url("/busy")));
        busy.stdout("/srv/busy 600 1700000000\nversion 2\n").stderr_has("again in 3").success();
        build(&format!("{} /srv/x", url("/own")))
            .stderr_has("invalid redirect: unsupported URL scheme \"file\"")
            .failure();
        build(&format!("{} /srv/", url("/dir/"))).stderr_has("no name for the file").failure();
        build(&format!("{} /srv/named", url("/dir/"))).stdout("/srv/named 600 1700000000\nversion 2\n").success();
    });
}
