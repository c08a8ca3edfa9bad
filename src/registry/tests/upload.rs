//! Uploads: the three manners, what breaks, and where secrets stay.

use std::cell::Cell;
use std::io::{Cursor, Read};

use super::*;
use crate::error::Result;
use crate::oci::manifest::OCI_MANIFEST;
use crate::registry::auth::Access;
use crate::registry::credential_sources::{CredentialSources, Given, Prompt, Sources};
use crate::registry::scripted::{Ended, Guard, How, Reply, TokenRules};

fn push(client: &Client, bytes: &[u8]) -> Result<u64> {
    let sent = Cell::new(0);
    let mut open = || -> Result<Box<dyn Read>> { Ok(Box::new(Cursor::new(bytes.to_vec()))) };
    client.upload_blob("a/b", &Digest::of(bytes), bytes.len() as u64, &mut open, &|n| sent.set(n))?;
    Ok(sent.get())
}

/// Methods in order.
fn methods(server: &Server) -> Vec<String> {
    server.seen().iter().map(|s| s.method.clone()).collect()
}

#[track_caller]
fn stored(registry: &Registry, bytes: &[u8]) {
    let key = ("a/b".to_owned(), Digest::of(bytes).to_string());
    assert!(registry.with(|c| c.blobs.get(&key).is_some_and(|b| b == bytes)), "not stored");
}

#[test]
fn in_one_piece() {
    for size in [0, 1, 1_000_000] {
        let (registry, bytes) = (Registry::start(), noise(size));
        let client = client(&registry.server);
        assert!(!client.has_blob("a/b", &Digest::of(&bytes)).unwrap());
        registry.server.forget();
        assert_eq!(push(&client, &bytes).unwrap(), size as u64);
        stored(&registry, &bytes);
        assert!(client.has_blob("a/b", &Digest::of(&bytes)).unwrap());
        assert_eq!(methods(&registry.server), ["POST", "PUT", "HEAD"]);
        let put = &registry.server.seen()[1];
        assert_eq!(put.query("_state"), ["secretstate"]);
        assert_eq!(put.query("digest"), [Digest::of(&bytes).to_string()]);
        assert_eq!(put.header("content-length"), Some(size.to_string().as_str()));
    }
}

/// R15: registries that do not take a single PUT.
#[test]
fn by_patch() {
    for status in [400, 404, 405, 415, 501] {
        let (registry, bytes) = (Registry::start(), noise(100_000));
        registry.first(1, "PUT", Reply::new(status));
        push(&client(&registry.server), &bytes).unwrap();
        stored(&registry, &bytes);
        assert_eq!(methods(&registry.server), ["POST", "PUT", "POST", "PATCH", "PUT"]);
    }
}

/// RFC 9110, section 10.1.1: what does not know `Expect: 100-continue` says 417, and gets the same without.
#[test]
fn without_asking_first() {
    let (registry, bytes) = (Registry::start(), noise(1 << 20));
    registry.intercept(|seen, _| seen.header("expect").is_some().then(|| Reply::new(417)));
    push(&client(&registry.server), &bytes).unwrap();
    stored(&registry, &bytes);
    assert_eq!(methods(&registry.server), ["POST", "PUT", "POST", "PUT"]);
    registry.intercept(|seen, _| (seen.method == "PUT").then(|| Reply::new(417)));
    assert!(push(&client(&registry.server), &bytes).unwrap_err().to_string().contains("417"));
}

/// A proxy in front of the registry limits the size of requests.
#[test]
fn in_pieces() {
    let (registry, bytes) = (Registry::start(), noise(70 << 20));
    registry.intercept(|seen, _| (seen.body.len() > 40 << 20).then(|| Reply::new(413)));
    push(&client(&registry.server), &bytes).unwrap();
    stored(&registry, &bytes);
    let seen = registry.server.seen();
    let ranges: Vec<_> = seen.iter().filter_map(|s| s.header("content-range")).collect();
    assert_eq!(ranges, ["0-33554431", "33554432-67108863", "67108864-73400319"]);
    assert_eq!(methods(&registry.server), ["POST", "PUT", "POST", "PATCH", "PATCH", "PATCH", "PUT"]);
}

#[test]
fn broken_uploads_start_over() {
    for broken in [Reply::new(0).how(How::Close), Reply::new(503), Reply::new(500).header("Retry-After", "0")] {
        let (registry, bytes) = (Registry::start(), noise(100_000));
        registry.first(2, "PUT", broken);
        push(&client(&registry.server), &bytes).unwrap();
        stored(&registry, &bytes);
        assert_eq!(methods(&registry.server), ["POST", "PUT", "HEAD", "POST", "PUT", "HEAD", "POST", "PUT"]);
    }
    // The answer was lost, not the upload.
    let (registry, bytes) = (Registry::start(), noise(1000));
    let client = client(&registry.server);
    registry.first(1, "PUT", Reply::new(0).how(How::Close));
    let digest = Digest::of(&bytes).to_string();
    registry.first(1, "HEAD", Reply::new(200));
    push(&client, &bytes).unwrap();
    assert!(methods(&registry.server).iter().filter(|m| *m == "PUT").count() == 1, "{digest}");
}

/// An upload, or a piece of it, that the registry has lost.
#[test]
fn lost_uploads_start_over() {
    for status in [404, 416] {
        let (registry, bytes) = (Registry::start(), noise(100_000));
        registry.first(1, "PUT", Reply::new(405));
        registry.first(1, "PATCH", Reply::new(status));
        push(&client(&registry.server), &bytes).unwrap();
        stored(&registry, &bytes);
        assert_eq!(methods(&registry.server), ["POST", "PUT", "POST", "PATCH", "HEAD", "POST", "PATCH", "PUT"]);
    }
}

/// Before long work: the first upload to that repository goes where it was begun, if that is still known there.
#[test]
fn uploads_begun_beforehand() {
    let (registry, bytes) = (Registry::start(), noise(1000));
    let client = client(&registry.server);
    client.begin_upload("a/b").unwrap();
    push(&client, &bytes).unwrap();
    stored(&registry, &bytes);
    assert_eq!(methods(&registry.server), ["POST", "PUT"]);
    registry.server.forget();
    client.begin_upload("a/b").unwrap();
    registry.first(1, "PUT", Reply::new(404));
    push(&client, b"after a long time").unwrap();
    stored(&registry, b"after a long time");
    assert_eq!(methods(&registry.server), ["POST", "PUT", "POST", "PATCH", "PUT"]);
    // Another repository's, and one whose place is signed by somebody else, are left to run out.
    registry.server.forget();
    client.begin_upload("a/c").unwrap();
    push(&client, b"elsewhere").unwrap();
    registry.first(1, "POST", Reply::new(202).header("Location", "http://127.0.0.1:1/x"));
    client.begin_upload("a/b").unwrap();
    push(&client, b"here").unwrap();
    stored(&registry, b"here");
    assert_eq!(methods(&registry.server), ["POST", "POST", "PUT", "POST", "POST", "PUT"]);
    registry.first(1, "POST", Reply::new(401));
    let e = client.begin_upload("a/b").unwrap_err();
    assert!(e.get_hint().unwrap().contains("CH_IMAGE_USERNAME"), "{e}");
}

#[test]
fn uploads_that_are_refused() {
    let check = |reply: Reply, part: &str, want: &str| {
        let registry = Registry::start();
        registry.first(99, part, reply);
        let e = push(&client(&registry.server), b"x").unwrap_err().to_string();
        assert!(e.contains(want), "{e}");
    };
    check(Reply::new(403).body("quota"), "PUT", "403 Forbidden: quota");
    check(Reply::new(403).body("read only"), "POST", "can't start an upload: POST http://");
    check(Reply::new(202), "POST", "gave no upload location");
    check(Reply::new(202).header("Location", "file:///x"), "POST", "invalid upload location");
    check(Reply::new(503), "POST", "gave up after 3 tries");
    check(Reply::redirect(302, "/v2/elsewhere"), "POST", "can't follow a redirect of an upload");
    check(Reply::redirect(307, "/v2/elsewhere"), "POST", "more than 10 redirects");
    check(Reply::new(500), "PUT", "gave up after 3 tries");
    // The registry got something else than we sent.
    let digest_invalid = r#"{"errors":[{"code":"DIGEST_INVALID","message":"digest differs"}]}"#;
    check(Reply::new(400).body(digest_invalid), "P", "DIGEST_INVALID digest differs");
}

#[test]
fn errors_of_the_source_are_not_the_networks() {
    struct Bad(u64);
    impl Read for Bad {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::from_raw_os_error(5));
            }
            self.0 -= 1;
            buf[0] = 1;
            Ok(1)
        }
    }
    let registry = Registry::start();
    let client = client(&registry.server);
    let digest = Digest::of(b"");
    let mut opened = 0;
    let mut open = || -> Result<Box<dyn Read>> {
        opened += 1;
        Ok(Box::new(Bad(3)))
    };
    let e = client.upload_blob("a/b", &digest, 10, &mut open, &|_| {}).unwrap_err().to_string();
    assert_eq!(e, "can't read what is to be uploaded: Input/output error");
    assert_eq!(opened, 1);
    let mut short = || -> Result<Box<dyn Read>> { Ok(Box::new(Cursor::new(b"abc"))) };
    let e = client.upload_blob("a/b", &digest, 10, &mut short, &|_| {}).unwrap_err().to_string();
    assert_eq!(e, "only 3 of 10 bytes are there");
}

/// H10
#[test]
fn a_place_elsewhere_sees_no_secret() {
    let store = Server::start(|_| Reply::new(201));
    let registry = Registry::start();
    registry.guard(Guard::Basic(LOGIN.into()));
    let to = store.url("/upload?sig=secret");
    registry.intercept(move |seen, _| {
        let post = seen.method == "POST" && seen.header("authorization").is_some();
        post.then(|| Reply::new(202).header("Location", to.clone()))
    });
    push(&client_with(&registry.server, hasty(), login(&registry.server)), b"bytes").unwrap();
    let seen = store.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].body, b"bytes");
    assert!(seen[0].header("authorization").is_none());
    assert_eq!(seen[0].query("sig"), ["secret"]);
}

#[test]
fn mounts() {
    let registry = Registry::start();
    registry.blob("base", b"layer");
    let client = client(&registry.server);
    let digest = Digest::of(b"layer");
    assert!(client.mount_blob("a/b", &digest, "base"));
    stored(&registry, b"layer");
    assert!(!client.mount_blob("a/b", &Digest::of(b"other"), "base"));
    // A registry that says "created" and has nothing.
    registry.first(1, "mount=", Reply::new(201));
    assert!(!client.mount_blob("a/c", &digest, "base"));
    // One that knows no mounts, forbids this one, or fails.
    for (times, status) in [(1, 202), (1, 404), (1, 405), (1, 403), (3, 500)] {
        registry.first(times, "mount=", Reply::new(status).header("Location", "/x"));
        assert!(!client.mount_blob("a/b", &digest, "base"));
    }
}

/// The token of a mount is for two repositories.
#[test]
fn mounts_with_tokens() {
    let rules = TokenRules {
        login: LOGIN.into(),
        anonymous: vec!["pull".into()],
        life: 300,
        key: "token".into(),
        ended: Ended::default(),
    };
    let registry = Registry::start();
    registry.guard(Guard::Token(rules));
    registry.blob("base", b"layer");
    let client = client_with(&registry.server, hasty(), login(&registry.server));
    assert!(client.mount_blob("a/b", &Digest::of(b"layer"), "base"));
    let asked = registry.server.seen().iter().find(|s| s.path() == "/token").unwrap().query("scope");
    assert_eq!(asked, ["repository:a/b:pull,push", "repository:base:pull"]);
}

/// The login is good, but not for the repository to mount from: nothing is mounted, and all else goes on.
#[test]
fn mounts_of_what_is_private() {
    let tokens = TokenRules {
        login: LOGIN.into(),
        anonymous: vec!["pull".into()],
        life: 300,
        key: "token".into(),
        ended: Ended::default(),
    };
    for guard in [Guard::Token(tokens), Guard::Basic(LOGIN.into())] {
        let registry = Registry::start();
        let refusal = match &guard {
            Guard::Token(_) => Reply::new(403),
            _ => Reply::new(401).header("WWW-Authenticate", "Basic realm=\"r\""),
        };
        registry.guard(guard);
        registry.intercept(move |seen, _| seen.line().contains("private").then(|| refusal.clone()));
        let logins = CredentialSources::new(Sources {
            given: Given {
                login: Some(user()),
                registries: vec![endpoint(&registry.server.name())],
                elsewhere: "not for others",
            },
            files: Vec::new(),
            prompt: Prompt::Never,
        });
        let logins = Arc::new(logins);
        let client = client_with(&registry.server, hasty(), logins.clone());
        client.authorize("a/b", Access::Push).unwrap();
        assert!(!client.mount_blob("a/b", &Digest::of(b"layer"), "private"));
        assert!(logins.known(client.endpoint()).unwrap().is_some());
        push(&client, b"layer").unwrap();
        stored(&registry, b"layer");
    }
}

/// R13: a token that runs out between the beginning and the end of an upload.
#[test]
fn tokens_that_run_out_meanwhile() {
    let ended = Ended::default();
    let rules =
        TokenRules { login: LOGIN.into(), anonymous: vec![], life: 0, key: "token".into(), ended: ended.clone() };
    let registry = Registry::start();
    registry.guard(Guard::Token(rules));
    registry.intercept(move |seen, _| {
        if seen.method == "PUT" {
            ended.end("token1");
        }
        None
    });
    push(&client_with(&registry.server, hasty(), login(&registry.server)), &noise(1000)).unwrap();
    stored(&registry, &noise(1000));
}

#[test]
fn manifests() {
    let registry = Registry::start();
    let client = client(&registry.server);
    let digest = client.put_manifest("a/b", "1", OCI_MANIFEST, b"{}").unwrap();
    assert_eq!(digest, Digest::of(b"{}"));
    let put = &registry.server.seen()[0];
    assert_eq!((put.line().as_str(), put.header("content-type")), ("PUT /v2/a/b/manifests/1", Some(OCI_MANIFEST)));
    assert_eq!(client.manifest("a/b", "1", Accept::Any).unwrap().unwrap().bytes, b"{}");
    registry.first(2, "PUT", Reply::new(502));
    client.put_manifest("a/b", "2", OCI_MANIFEST, b"{}").unwrap();
    let check = |reply: Reply, want: &str| {
        registry.first(1, "PUT", reply);
        let e = client.put_manifest("a/b", "3", OCI_MANIFEST, b"{}").unwrap_err().to_string();
        assert!(e.contains(want), "{e}");
    };
    check(Reply::new(400).body(r#"{"errors":[{"code":"MANIFEST_INVALID"}]}"#), "400 Bad Request: MANIFEST_INVALID");
    check(Reply::new(201).header("Docker-Content-Digest", Digest::of(b"x").to_string()), "registry stored manifest");
}
