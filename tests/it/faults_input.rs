//! Bad input of every kind through the real program: an error of ours, never a panic or a signal, and storage is as it
//! was.

use std::fs;
use std::os::unix::fs::symlink;

use crate::harness::registry::{Registry, Reply, sha256};
use crate::harness::run::Done;
use crate::harness::{Run, Site, image};

#[track_caller]
fn refused(run: Run, what: &str) -> Done {
    let done = run.limit(std::time::Duration::from_secs(60)).finish();
    let code = done.status.code();
    assert!(matches!(code, Some(1 | 2)), "{what}: {}\n{}", done.status, done.stderr);
    assert!(done.stderr.contains("error: ") && !done.stderr.contains("panicked"), "{what}:\n{}", done.stderr);
    assert!(!done.stderr.contains('\x1b') && !done.stdout.contains('\x1b'), "{what}: escape codes");
    done
}

#[test]
fn bad_input_is_an_error() {
    let site = Site::new();
    site.import(image::small(), "base");
    references(&site);
    options(&site);
    dockerfiles(&site);
    archives(&site);
    documents(&site);
    // The base is as it was, and nothing half-made has the name that all of these asked for.
    let images = site.images();
    assert!(images.contains(&"base:latest".to_owned()) && !images.contains(&"bad:latest".to_owned()), "{images:?}");
    site.run("fsck").arg("--deep").success();
}

fn references(site: &Site) {
    let long = "a".repeat(300);
    let bad = [
        "",
        " ",
        "a//b",
        "../x",
        "A/B",
        "host:99999/x",
        "x@sha256:zz",
        "x@md5:00",
        ":",
        "a:b:c",
        "a b",
        "/",
        "a/",
        "é",
        "x:\x1b[31m",
        "[::1",
        "x@",
        &long,
    ];
    for name in bad {
        refused(site.run("pull").args(["--", name]), name);
        refused(site.run("delete").args(["--", name]), name);
        refused(site.build(name, "FROM base\n"), name);
    }
}

fn options(site: &Site) {
    let bad: &[&[&str]] = &[
        &["--nonsense"],
        &["nonsense"],
        &["pull"],
        &["pull", "a", "b", "c"],
        &["pull", "--last-layer", "-1", "a"],
        &["pull", "--last-layer", "99999999999999999999", "a"],
        &["build", "--build-arg", "=", "."],
        &["build", "--jobs", "x", "."],
        &["build", "--bind", ":", "."],
        &["build", "/nonexistent"],
        &["build", "-f", "/dev/zero", "."],
        &["build", "-f", "/dev", "."],
        &["build", "--target", "\u{1b}[31m", "."],
        &["gc", "--keep", "1Z"],
        &["list", "--arch"],
        &["list", "-s", ""],
        &["import", "/dev/zero", "x"],
        &["import", "/dev/null", "x"],
    ];
    site.write("Dockerfile", "FROM base\n");
    for args in bad {
        refused(site.bare().args(*args), &format!("{args:?}"));
    }
}

fn dockerfiles(site: &Site) {
    let nested = format!("FROM base\nENV a={}x{}\n", "${b:-".repeat(10_000), "}".repeat(10_000));
    let growing = format!("FROM base\nENV a=0123456789\n{}", "ENV a=$a$a$a$a$a$a$a$a$a$a\n".repeat(9));
    let long = format!("FROM base\nRUN {}\n", "x".repeat(9 << 20));
    site.write("context/file", "");
    site.program("mkfifo").arg(site.path("context/fifo")).success();
    let bad = [
        "",
        "\0",
        "FROM",
        "FROM \u{1b}[31m",
        "RUN true",
        "FROM base\nCOPY\n",
        "FROM base\nCOPY <<X /\n",
        "FROM base\nCOPY [ /\n",
        "FROM base\nCOPY ../../etc/passwd /\n",
        "FROM base\nCOPY --from=99 a b\n",
        "FROM base\nCOPY --chmod=99999999999 a b\n",
        "FROM base\nRUN --mount=type=cache,id=../../x\n",
        "FROM base\nRUN --mount=type=bind,source=../..,target=/x true\n",
        "FROM base\nRUN --mount=type=bind,rw,source=fifo,target=/x true\n",
        "FROM base\nENV\n",
        "FROM base\nENV a=${\n",
        "FROM base\nENV a=${b:?no}\n",
        "FROM base\nHEALTHCHECK x\n",
        "FROM base\nEXPOSE 99999999999\n",
        "FROM base\nWORKDIR /bin/sh\n",
        "FROM base\nADD http:// /\n",
        "FROM base\nADD https://127.0.0.1:1/x /\n",
        "FROM base AS 9\n",
        "FROM --platform=\u{7} base\n",
        &nested,
        &growing,
        &long,
    ];
    for text in bad {
        let shown: String = text.chars().take(60).collect();
        refused(site.build("bad", text), &shown);
    }
    // Ignore files without an end, and one that nobody writes to.
    let ignore = site.path("context/.dockerignore");
    let all = || refused(site.build("bad", "FROM base\nCOPY . /all/\n"), "ignore file");
    fs::write(&ignore, "x\n".repeat(5 << 20)).unwrap();
    assert!(all().stderr.contains(".dockerignore is larger than 8 MiB"));
    fs::remove_file(&ignore).unwrap();
    symlink("/dev/zero", &ignore).unwrap();
    assert!(all().stderr.contains(".dockerignore: it is a link that leads out of "));
    fs::remove_file(&ignore).unwrap();
    site.program("mkfifo").arg(&ignore).success();
    assert!(all().stderr.contains(".dockerignore: not a regular file"));
    fs::remove_file(&ignore).unwrap();
    // Not text at all.
    fs::write(site.path("context/Dockerfile"), b"FROM base\nENV a=\xff\xfe\nRUN \xc3\n").unwrap();
    let done = site.run("build").args(["-t", "bad"]).arg(site.path("context")).finish();
    assert!(matches!(done.status.code(), Some(1 | 2)), "{}\n{}", done.status, done.stderr);
}

/// Cuts, changed bytes and lies of the small image's tarball.
fn archives(site: &Site) {
    let good = fs::read(image::make("tiny.tar", |image| {
        ["bin", "dev", "usr"].iter().for_each(|dir| image.dir(dir, 0o755));
        image.file("usr/file", 0o644, &[7; 3000]);
        image.symlink("usr/link", "file");
    }))
    .unwrap();
    let tarball = site.path("bad.tar");
    for cut in [1, 100, 511, 513, 1600, 2500, 4000] {
        fs::write(&tarball, &good[..cut]).unwrap();
        refused(site.run("import").arg(&tarball).arg("bad"), &format!("cut at {cut}"));
    }
    // The third header (usr/): name, mode, size, time, check sum, type, target, magic.
    for (at, byte) in [(0, 0x80), (100, b'z'), (124, 0xff), (136, b'!'), (148, b'9'), (257, b'X')] {
        let mut bytes = good.clone();
        bytes[1024 + at] = byte;
        fs::write(&tarball, &bytes).unwrap();
        refused(site.run("import").arg(&tarball).arg("bad"), &format!("byte {at} is {byte:#x}"));
    }
    for start in [&b"\x1f\x8b\x08\x00garbage"[..], b"\x28\xb5\x2f\xfdgarbage", b"BZh9garbage", b"\xfd7zXZ\0garbage"] {
        fs::write(&tarball, start).unwrap();
        refused(site.run("import").arg(&tarball).arg("bad"), &format!("{start:?}"));
    }
}

fn documents(site: &Site) {
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let zero = sha256(b"");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let large = format!("{{\"schemaVersion\":2,\"x\":\"{}\"}}", "x".repeat(5 << 20));
    let layers = |layer: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{manifest}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{zero}","size":0}},"layers":[{layer}]}}"#
        )
    };
    let one = |digest: &str, size: &str| {
        format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{size}}}"#)
    };
    let layer = |digest: &str, size: &str| layers(&one(digest, size));
    let bad = [
        "".to_owned(),
        "null".into(),
        "{}".into(),
        "\u{feff}{}".into(),
        "{\"schemaVersion\":1}".into(),
        deep,
        large,
        layers(""),
        layer("sha256:../../../x", "1"),
        layer("sha256:", "1"),
        layer(&zero, "-1"),
        layer(&zero, "1.5"),
        layer(&zero, "9223372036854775808"),
        layer(&zero, "\"1\""),
        // Their sum has no room in 64 bits.
        layers(&vec![one(&zero, "4611686018427387903"); 5].join(",")),
        layers("null"),
        format!("{} garbage", layers("")),
        layers("").replace("\"layers\"", "\"manifests\":[],\"layers\""),
        layers("").replace("\"layers\":[]", "\"layers\":[],\"layers\":[]"),
    ];
    for text in &bad {
        let (registry, body) = (Registry::start(), text.clone());
        registry.intercept(move |seen, _| {
            let reply = Reply::new(200).header("Content-Type", manifest).body(body.clone());
            seen.path().contains("/manifests/").then_some(reply)
        });
        registry.blob("a/b", b"");
        let shown: String = text.chars().take(200).collect();
        refused(site.run("pull").arg(registry.name("a/b:1")), &shown);
    }
}
