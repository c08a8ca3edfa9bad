//! The program against the scripted registry: what a person sees, and what nobody may see.

use std::time::Duration;

use crate::harness::registry::{Ended, Guard, How, Registry, Reply, Server, TokenRules, ranged, sha256};
use crate::harness::{Site, image};

/// `user:secretpassword`
const LOGIN: &str = "dXNlcjpzZWNyZXRwYXNzd29yZA==";
const PASSWORD: &str = "secretpassword";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image of one plain layer with one file of so many bytes; returns the layer.
fn hold(registry: &Registry, repository: &str, size: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for name in ["bin/", "dev/", "usr/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        tar.append_data(&mut header, name, &[][..]).unwrap();
    }
    let content: Vec<u8> = (0..size).map(|i| (i * 7 + i / 251) as u8).collect();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size as u64);
    tar.append_data(&mut header, "usr/file", &content[..]).unwrap();
    let layer = tar.into_inner().unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha256(&layer)]},
    });
    let config = config.to_string().into_bytes();
    let descriptor = |media_type: &str, bytes: &[u8]| serde_json::json!({"mediaType": media_type, "digest": registry.blob(repository, bytes), "size": bytes.len()});
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    registry.manifest(repository, "1", MANIFEST, manifest.to_string().as_bytes());
    layer
}

/// O04: at the highest verbosity, with tokens, redirects to signed URLs and a password.
#[test]
fn secrets_are_in_no_log() {
    let (site, registry) = (Site::new(), Registry::start());
    let layer = hold(&registry, "a/b", 1000);
    registry.guard(Guard::Token(TokenRules {
        login: LOGIN.into(),
        anonymous: vec![],
        life: 300,
        key: "token".into(),
        ended: Ended::default(),
    }));
    let store = Server::start(move |seen| ranged(seen, &layer).header("Set-Cookie", "session=secretcookie"));
    let signed = store.url("/blob?X-Amz-Signature=secretsignature&X-Amz-Expires=1");
    let digest = sha256(&registry.with(|c| c.blobs.values().max_by_key(|b| b.len()).unwrap().clone()));
    registry.intercept(move |seen, _| {
        let wanted = seen.path().ends_with(&digest) && seen.header("authorization").is_some();
        wanted.then(|| Reply::redirect(307, signed.clone()))
    });
    let done = site
        .run("pull")
        .args(["-v", "-v", "-v"])
        .arg(registry.name("a/b:1"))
        .env("CH_IMAGE_USERNAME", "user")
        .env("CH_IMAGE_PASSWORD", PASSWORD)
        .env("HTTPS_PROXY", "http://proxyuser:secretproxy@proxy.invalid:1")
        .success();
    let said = format!("{}{}", done.stdout, done.stderr);
    assert!(said.contains("authorization: Bearer REDACTED"), "nothing was logged: {said}");
    assert!(said.contains("X-Amz-Signature=REDACTED"), "{said}");
    for secret in [PASSWORD, LOGIN, "secretsignature", "secretcookie", "secretproxy", "token1", "token2"] {
        assert!(!said.contains(secret), "{secret} is in: {said}");
    }
    assert!(store.seen().iter().all(|s| s.header("authorization").is_none()));
}

/// M02, M04: nothing of a layer that is not what the manifest says gets a name.
#[test]
fn wrong_layers_leave_no_image() {
    let check = |how: fn(Vec<u8>) -> Reply, want: &str| {
        let (site, registry) = (Site::new(), Registry::start());
        let layer = hold(&registry, "a/b", 1000);
        let (digest, mut wrong) = (sha256(&layer), layer);
        wrong[600] ^= 1;
        registry.intercept(move |seen, _| seen.path().ends_with(&digest).then(|| how(wrong.clone())));
        site.run("pull").arg(registry.name("a/b:1")).stderr_has(want).failure();
        assert_eq!(site.images(), Vec::<String>::new());
    };
    check(|bytes| Reply::new(200).body(bytes), "digest");
    check(|bytes| Reply::new(200).body(&bytes[1..]), "where the manifest says");
    check(|_| Reply::new(404), "is missing");
    check(|_| Reply::new(200).header("Content-Type", "text/html").body("<html>"), "not a registry (text/html)");
}

/// A connection that breaks on the way costs only what was on its way.
#[test]
fn a_broken_download_goes_on() {
    let (site, registry) = (Site::new(), Registry::start());
    let layer = hold(&registry, "a/b", 600_000);
    let digest = sha256(&layer);
    registry.intercept(move |seen, _| {
        let first = seen.path().ends_with(&digest) && seen.header("range").is_none();
        first.then(|| ranged(seen, &layer).how(How::Cut(400_000)))
    });
    site.run("pull").arg(registry.name("a/b:1")).limit(Duration::from_secs(60)).success();
    let ranges: Vec<_> = registry.server.seen().iter().filter_map(|s| s.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, ["bytes=400000-"]);
    assert_eq!(site.images().len(), 1);
}

#[test]
fn absent_images_are_named_in_full() {
    let (site, registry) = (Site::new(), Registry::start());
    let name = registry.name("a/b:9");
    site.run("pull").arg(&name).stderr_has(&format!("error: not in registry: {name}\n")).failure();
    site.import(image::small(), "base");
    site.build("out", &format!("FROM base\nCOPY --from={name} /a /b\n"))
        .stderr_has(&format!(
            ": line 2: COPY: no stage is named {name}, so it is taken for an image: not in registry: {name}\n"
        ))
        .failure();
    let want = format!("error: SITE/context/Dockerfile: line 1: FROM: not in registry: {name}\n");
    for jobs in ["1", "2"] {
        site.build("out", &format!("FROM {name}\n")).args(["--jobs", jobs]).stderr_has(&want).failure();
    }
    // 401 for ever says nothing about what is there.
    registry.guard(Guard::Basic(LOGIN.into()));
    let want = format!("error: login required: {name}: the registry answered 401 Unauthorized\nhint: log in: set CH_");
    site.run("pull").arg(&name).stderr_has(&want).failure();
}

/// Nobody waits without knowing for what.
#[test]
fn waits_are_told() {
    let (site, registry) = (Site::new(), Registry::start());
    hold(&registry, "a/b", 1000);
    let tries = std::sync::atomic::AtomicUsize::new(0);
    registry.intercept(move |seen, _| {
        let first = seen.path().contains("/manifests/") && tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        first.then(|| Reply::new(503))
    });
    let done = site.run("pull").arg(registry.name("a/b:1")).success();
    let line = done.stderr.lines().find(|line| line.contains("trying again")).unwrap();
    assert!(
        line.contains("503 ") && line.contains("; trying again in ") && line.ends_with(" s (try 2 of 6)"),
        "{line}"
    );
}

/// Refusals name the way out.
#[test]
fn refusals_have_hints() {
    let (site, registry) = (Site::new(), Registry::start());
    hold(&registry, "a/b", 1000);
    let name = registry.name("a/b:1");
    site.run("pull").arg(&name).success();
    let check = |path: &'static str, status: u16, args: &[&str], want: &str| {
        registry.intercept(move |seen, _| seen.path().contains(path).then(|| Reply::new(status)));
        let done = site.run(args[0]).args(&args[1..]).failure();
        assert!(done.stderr.lines().last().unwrap().starts_with(&format!("hint: {want}")), "{}", done.stderr);
    };
    check(
        "/v2/d/e/manifests/",
        403,
        &["pull", &registry.name("d/e:1")],
        "if it is about rights: log in as somebody who",
    );
    check("/v2/c/blobs/uploads/", 405, &["push", &name, &registry.name("c:1")], "the registry may be read-only");
    check("/v2/e/", 507, &["push", &name, &registry.name("e:1")], "the registry itself fails; its log tells why");
    let by_digest = format!("{}@{}", registry.name("c:1"), sha256(b""));
    check("/nothing/", 500, &["push", &name, &by_digest], "push to a tag: ");

    let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    registry.manifest("a/b", "2", "application/vnd.oci.image.index.v1+json", index.as_bytes());
    check("/nothing/", 500, &["pull", &registry.name("a/b:2")], "nothing in its index is an image for Linux");

    let half = "warning: CH_IMAGE_USERNAME is set, but CH_IMAGE_PASSWORD is not: neither is used\n";
    site.run("pull").arg(&name).env("CH_IMAGE_USERNAME", "user").stderr_has(half).success();
}
