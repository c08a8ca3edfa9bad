//! Registries with ways of their own: where uploads go, which documents they take, how they say that a token has run
//! out, and what they have lost. And what a push leaves at home.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::registry::{Ended, Guard, Registry, Reply, Server, TokenRules};
use crate::harness::{Site, hold, image, in_each_mode};

/// `user:pass`
const LOGIN: &str = "dXNlcjpwYXNz";

fn with_base() -> (Site, Registry, String) {
    let (site, registry) = (Site::new(), Registry::start());
    site.import(image::small(), "base");
    let name = registry.name("a/b:1");
    (site, registry, name)
}

/// Addresses signed for GET answer HEAD with 403; and storage that answers us nothing at all is not the registry's no.
#[test]
fn storage_that_answers_no_head() {
    for get in [206, 403] {
        let (site, registry, name) = with_base();
        let store = Server::start(move |seen| Reply::new(if seen.method == "HEAD" { 403 } else { get }).body("x"));
        let to = store.url("/s3?X-Amz-Signature=secret");
        registry.intercept(move |seen, content| {
            let is_there = content.blobs.keys().any(|(_, digest)| seen.path().ends_with(digest.as_str()));
            is_there.then(|| Reply::redirect(307, to.clone()))
        });
        site.run("push").args(["base", &name]).stderr_has("\ndone\n").success();
        assert!(store.lines().iter().any(|line| line.starts_with("HEAD")), "{:?}", store.lines());
        assert_eq!(store.lines().iter().filter(|line| line.starts_with("GET")).count(), 2);
    }
    // The storage may be at the registry itself.
    let (site, registry, name) = with_base();
    registry.intercept(|seen, content| {
        let is_there = content.blobs.keys().any(|(_, digest)| seen.path().ends_with(digest.as_str()));
        match (seen.path().starts_with("/s3/"), seen.method.as_str()) {
            (true, "HEAD") => Some(Reply::new(403)),
            (true, _) => Some(Reply::new(206).body("x")),
            (false, _) => is_there.then(|| Reply::redirect(307, format!("/s3{}?X-Amz-Signature=s", seen.path()))),
        }
    });
    site.run("push").args(["base", &name]).stderr_has("\ndone\n").success();
    // The registry's own word counts.
    let (site, registry, name) = with_base();
    registry.intercept(|seen, _| (seen.method == "HEAD" && seen.path().contains("/blobs/")).then(|| Reply::new(403)));
    site.run("push").args(["base", &name]).stderr_has("403 Forbidden").failure();
}

/// 307: the same request there, with the user's name on it only at the registry itself.
#[test]
fn uploads_are_sent_on() {
    let (site, registry, name) = with_base();
    registry.guard(Guard::Basic(LOGIN.into()));
    let moved = |seen: &crate::harness::registry::Seen| seen.target.contains("moved");
    registry.intercept(move |seen, _| {
        let known = seen.header("authorization").is_some();
        let sent_on = matches!(seen.method.as_str(), "POST" | "PUT") && known && !moved(seen);
        let join = if seen.target.contains('?') { '&' } else { '?' };
        sent_on.then(|| Reply::redirect(307, format!("{}{join}moved=1", seen.target)))
    });
    let push =
        || site.run("push").args(["base", &name]).env("CH_IMAGE_USERNAME", "user").env("CH_IMAGE_PASSWORD", "pass");
    push().stderr_has("\ndone\n").success();
    let sent_on: Vec<String> =
        registry.server.seen().into_iter().filter(|seen| moved(seen)).map(|seen| seen.method).collect();
    for method in ["POST", "PUT"] {
        assert!(sent_on.iter().filter(|sent| *sent == method).count() >= 2, "{sent_on:?}");
    }

    let elsewhere = Server::start(|_| Reply::new(404));
    let (site, registry, name) = with_base();
    registry.guard(Guard::Basic(LOGIN.into()));
    let to = elsewhere.url("/v2/a/b/blobs/uploads/");
    registry.intercept(move |seen, _| {
        let known = seen.header("authorization").is_some();
        (seen.method == "POST" && known).then(|| Reply::redirect(307, to.clone()))
    });
    let push = site.run("push").args(["base", &name]).env("CH_IMAGE_USERNAME", "user").env("CH_IMAGE_PASSWORD", "pass");
    push.stderr_has("can't start an upload").failure();
    assert!(!elsewhere.seen().is_empty());
    assert!(elsewhere.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

fn media_types(registry: &Registry) -> Vec<String> {
    let (kind, bytes) = registry.with(|content| content.manifests[&("a/b".to_owned(), "1".to_owned())].clone());
    let manifest: Value = serde_json::from_slice(&bytes).unwrap();
    let named = [&manifest["mediaType"], &manifest["config"]["mediaType"], &manifest["layers"][0]["mediaType"]];
    let named = named.map(|text| text.as_str().unwrap().to_owned());
    assert_eq!(kind, named[0]);
    named.to_vec()
}

const DOCKER: [&str; 3] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];
const OCI: [&str; 3] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
];

#[test]
fn manifests_of_either_kind() {
    for (status, body) in [(415, ""), (400, r#"{"errors":[{"code":"MANIFEST_INVALID","message":"no"}]}"#)] {
        for (refused, taken, format) in [(DOCKER, OCI, "docker"), (OCI, DOCKER, "oci")] {
            let (site, registry, name) = with_base();
            registry.intercept(move |seen, _| {
                let unfit = seen.method == "PUT" && seen.header("content-type") == Some(refused[0]);
                unfit.then(|| Reply::new(status).header("Content-Type", "application/json").body(body))
            });
            let other = if format == "oci" { "docker" } else { "oci" };
            let hint = format!("hint: the registry may take another kind of manifest: --format={other}\n");
            site.run("push").args(["--format", format, "base", &name]).stderr_has(&hint).failure();
            site.run("push").args(["base", &name]).success();
            assert_eq!(media_types(&registry), taken);
            site.run("push").args(["--format", other, "base", &name]).success();
            assert_eq!(media_types(&registry), taken);
            site.run("pull").arg(&name).success();
        }
    }
    let site = Site::new();
    site.run("push")
        .args(["--format", "x", "base"])
        .stderr_has("unknown format \"x\"\nhint: formats: oci, docker\n")
        .usage();
}

/// In words (400), or without a challenge (401): one new token, one more try.
#[test]
fn tokens_that_run_out() {
    let rules = TokenRules {
        login: LOGIN.into(),
        anonymous: vec!["pull".into()],
        life: 300,
        key: "token".into(),
        ended: Ended::default(),
    };
    let expired = "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"Your authorization token has expired.\"}]}";
    for (status, body) in [(401, "token expired"), (400, expired)] {
        for (wrong, right) in [("Bearer token1", true), ("Bearer ", false)] {
            let (site, registry) = (Site::new(), Registry::start());
            let layer = hold::marked("x");
            hold::image(&registry, "a", "1", &hold::config(Some("amd64"), &[&layer]), &[&layer]);
            registry.guard(Guard::Token(rules.clone()));
            registry.intercept(move |seen, _| {
                let given = seen.header("authorization").unwrap_or("");
                let over = seen.path().contains("/blobs/") && given.starts_with(wrong);
                over.then(|| Reply::new(status).body(body))
            });
            let pull = site.run("pull").args(["--arch", "yolo", &registry.name("a:1")]);
            match right {
                true => pull.success(),
                false => pull.stderr_has(&format!("{status} ")).failure(),
            };
            let tokens = registry.server.lines().iter().filter(|line| line.contains("/token")).count();
            assert!(if right { tokens == 2 } else { tokens <= 4 }, "{:?}", registry.server.lines());
        }
    }
}

#[test]
fn manifests_that_a_registry_has_lost() {
    let (site, registry) = (Site::new(), Registry::start());
    let entry = hold::entry(&registry, "a", "amd64");
    let digest = entry["digest"].as_str().unwrap().to_owned();
    hold::index(&registry, "a", "1", vec![entry]);
    registry.with(|content| content.manifests.retain(|(_, name), _| *name != digest && name != "unnamed"));
    let name = registry.name("a:1");
    let want = format!(
        "error: {name}: its index names manifest {digest}, which the registry does not have\n\
         hint: it was deleted there, or never pushed; whoever owns the image can push it again\n"
    );
    site.run("pull").args(["--arch", "amd64", &name]).stderr_has(&want).failure();
}

/// Names in the one layer of `a/b:1`.
fn names(site: &Site, registry: &Registry) -> Vec<String> {
    let (_, bytes) = registry.with(|content| content.manifests[&("a/b".to_owned(), "1".to_owned())].clone());
    let manifest: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let layer = registry.with(|content| content.blobs[&("a/b".to_owned(), digest)].clone());
    fs::write(site.path("layer.tar.gz"), layer).unwrap();
    let done = site.program("tar").args(["-tzf", "layer.tar.gz"]).success();
    let names = done.stdout.lines().map(|name| name.trim_start_matches("./").trim_end_matches('/').to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

/// Mount points and `/ch` are for running here; whoever pulls the image gets them anew.
#[test]
fn only_what_was_copied_is_pushed() {
    in_each_mode(|site| {
        let registry = Registry::start();
        let name = registry.name("a/b:1");
        site.write("context/f", "x\n");
        site.build("x", "FROM scratch\nCOPY f /f\nENV A=b\n").success();
        site.run("push").args(["x", &name]).success();
        assert_eq!(names(site, &registry), ["f"]);
        // Pulled, pushed, built upon: no more each time.
        site.run("pull").arg(&name).success();
        site.run("push").args(["--no-cache", &name]).success();
        assert_eq!(names(site, &registry), ["f"]);
        site.build("y", &format!("FROM {name}\nCOPY f /mnt/0/g\n")).success();
        site.run("push").args(["y", &name]).success();
        assert_eq!(names(site, &registry), ["f", "mnt", "mnt/0", "mnt/0/g"]);
        // What an image has of its own stays, and a tree is the same there and back.
        site.import(image::small(), "small");
        site.run("push").args(["small", &name]).success();
        assert!(["dev", "proc", "tmp", "home"].iter().all(|own| names(site, &registry).iter().any(|n| n == own)));
        assert!(!names(site, &registry).iter().any(|n| n == "ch" || n == "mnt"));
        site.run("pull").args(["--no-cache", &name]).success();
        site.tree(&name).assert_same(&site.tree("small"), "there and back");
        site.ch_run(&name).args(["sh", "-c", "ls -d /ch /mnt/9"]).stdout("/ch\n/mnt/9\n").success();
        // The same of a directory.
        let directory = site.path("unpacked");
        site.run("pull").arg(&name).arg(&directory).success();
        site.run("push").arg("--image").arg(&directory).arg(&name).success();
        assert!(!names(site, &registry).iter().any(|n| n == "ch" || n == "mnt"));
    });
}

#[test]
fn an_interrupted_push_says_so() {
    let site = Site::new();
    let large = image::make("interrupted.tar", |image| {
        ["bin", "dev", "usr"].iter().for_each(|dir| image.dir(dir, 0o755));
        let noise: Vec<u8> = (0..48_000_000u32).map(|i| (i.wrapping_mul(i ^ 0x9e37) >> 11) as u8).collect();
        image.file("usr/large", 0o644, &noise);
    });
    site.import(&large, "large");
    let (registry, begun) = (Registry::start(), Arc::new(AtomicBool::new(false)));
    let note = begun.clone();
    registry.intercept(move |seen, _| {
        // The last request before packing.
        if seen.method == "POST" {
            note.store(true, Ordering::SeqCst);
        }
        None
    });
    let push = site.heeding_signals().args(["push", "large", &registry.name("a:1")]);
    let mut running = push.start();
    while !begun.load(Ordering::SeqCst) {
        assert!(running.is_alive());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &running.child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let done = running.into_done(&[]);
    assert_eq!(done.status.code(), Some(130), "{}", done.stderr);
    assert!(done.stderr.contains("interrupted by"), "{}", done.stderr);
}
