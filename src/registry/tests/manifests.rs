//! Manifests: what is found, what is refused, what counts as "not there".

use super::*;
use crate::oci::manifest::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::registry::scripted::{How, Reply};

fn fetch(server: &Server, reference: &str) -> Result<Option<String>, String> {
    let fetched = client(server).manifest("a/b", reference, Accept::Any);
    fetched.map(|f| f.map(|f| String::from_utf8(f.bytes).unwrap())).map_err(|e| e.to_string())
}

#[test]
fn by_tag_and_digest() {
    let registry = Registry::start();
    let digest = registry.manifest("a/b", "1.0", OCI_INDEX, b"{\"x\":1}");
    let client = client(&registry.server);
    let fetched = client.manifest("a/b", "1.0", Accept::Any).unwrap().unwrap();
    assert_eq!(fetched.bytes, b"{\"x\":1}");
    assert_eq!(fetched.digest.to_string(), digest);
    assert_eq!(fetched.content_type.as_deref(), Some(OCI_INDEX));
    assert!(client.manifest("a/b", &digest, Accept::Any).unwrap().is_some());
    assert!(client.manifest("a/b", "2.0", Accept::Any).unwrap().is_none());
    assert_eq!(client.head_manifest("a/b", "1.0", Accept::Any).unwrap().unwrap().to_string(), digest);
    assert!(client.head_manifest("a/b", "2.0", Accept::Any).unwrap().is_none());
    // One for the question whether TLS is spoken, one for all else.
    assert_eq!(registry.server.connections(), 2);
    let seen = registry.server.seen();
    assert!(seen.iter().all(|s| s.header("accept").unwrap().contains(DOCKER_MANIFEST)));
    assert!(seen.iter().all(|s| s.header("authorization").is_none()));
    assert!(seen[0].header("user-agent").unwrap().starts_with("ch-image/"));
}

/// M01, and the same for what the server itself promises of a tag.
#[test]
fn digests_are_checked_before_anything_else() {
    let other = Digest::of(b"other").to_string();
    let server = Server::start(|_| Reply::new(200).body("not even JSON"));
    let e = fetch(&server, &other).unwrap_err();
    assert!(e.contains("digest mismatch: expected sha256:d9298a"), "{e}");
    let server = Server::start(move |_| Reply::new(200).header("Docker-Content-Digest", &other).body("{}"));
    let e = fetch(&server, "latest").unwrap_err();
    assert!(e.contains("digest mismatch"), "{e}");
    // A digest that we do not know is not compared.
    let server = Server::start(|_| Reply::new(200).header("Docker-Content-Digest", "sha512:00").body("{}"));
    assert_eq!(fetch(&server, "latest"), Ok(Some("{}".into())));
}

/// M10
#[test]
fn size_is_limited() {
    for how in [How::Whole, How::Chunked(1 << 16), How::UntilClose] {
        let reply = Reply::new(200).header("Content-Type", OCI_MANIFEST).body(vec![b' '; 5 << 20]).how(how);
        let server = Server::start(move |_| reply.clone());
        let e = fetch(&server, "latest").unwrap_err();
        assert!(e.ends_with("answer too long (limit 4194304 bytes)"), "{e}");
    }
}

/// H18
#[test]
fn a_login_page_is_no_registry() {
    let page = Reply::new(200).header("Content-Type", "text/html; charset=utf-8").body("<html>Log in!</html>");
    let server = Server::start(move |_| page.clone());
    let e = fetch(&server, "latest").unwrap_err();
    assert!(e.ends_with("not a registry (text/html)"), "{e}");
    let server = Server::start(|_| Reply::new(204).body("body"));
    assert!(fetch(&server, "latest").unwrap_err().contains("204"));
}

/// H21
#[test]
fn refusals_speak_with_the_servers_words() {
    let check = |reply: Reply, want: &str| {
        let server = Server::start(move |_| reply.clone());
        let e = fetch(&server, "latest").unwrap_err();
        let want = want.replace("SERVER", &server.name());
        assert!(e.starts_with(&format!("GET http://{}/v2/a/b/manifests/latest: {want}", server.name())), "{e}");
        assert!(e.len() < 4400, "{}", e.len());
        // No retry: these do not pass.
        assert_eq!(server.lines().len(), 1);
    };
    let denied = r#"{"errors":[{"code":"DENIED","message":"not for \u001b[31myou"}]}"#;
    check(Reply::new(403).body(denied), "403 Forbidden: DENIED not for \\x1b[31myou");
    check(Reply::new(400).body("bad \x1b[31m thing"), "400 Bad Request: bad \\x1b[31m thing");
    check(Reply::new(403).body(vec![b'x'; 1 << 20]), "403 Forbidden: xxx");
    check(Reply::new(403).header("Content-Type", "text/html").body("<html>"), "403 Forbidden");
    check(Reply::new(418), "418");
}

/// 401 without a way to answer it is "not there", as the manual page has it, with a hint.
#[test]
fn refused_to_the_anonymous() {
    let server = Server::start(|_| Reply::new(401).header("WWW-Authenticate", "Basic realm=\"x\""));
    let client = client(&server);
    assert!(client.manifest("a/b", "latest", Accept::Any).unwrap().is_none());
    assert!(client.wants_login("a/b"));
    assert!(client.head_manifest("a/b", "latest", Accept::Any).unwrap().is_none());
}

#[test]
fn head_falls_back_to_get() {
    for status in [405, 501, 200] {
        let registry = Registry::start();
        let digest = registry.manifest("a/b", "1", OCI_MANIFEST, b"{}");
        // 200 without a digest is no help, either.
        registry.first(9, "HEAD", Reply::new(status));
        let client = client(&registry.server);
        assert_eq!(client.head_manifest("a/b", "1", Accept::Image).unwrap().unwrap().to_string(), digest);
    }
}

/// A registry on this machine without TLS is found out by a handshake, once.
#[test]
fn plain_http_on_loopback_only() {
    let registry = Registry::start();
    registry.manifest("a/b", "1", OCI_MANIFEST, b"{}");
    let client = client(&registry.server);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| assert!(client.manifest("a/b", "1", Accept::Any).unwrap().is_some()));
        }
    });
    assert!(registry.server.connections() <= 5, "{}", registry.server.connections());
}

#[test]
fn nobody_listens() {
    let client = Client::new(&endpoint(NOBODY), hasty(), Arc::new(Anonymous)).unwrap();
    let e = client.manifest("a/b", "1", Accept::Any).unwrap_err().to_string();
    assert_eq!(e, format!("gave up after 3 tries: can't connect to {NOBODY}: Connection refused"));
    let client = Client::new(&Endpoint::new("no-such-host.invalid", 443), hasty(), Arc::new(Anonymous)).unwrap();
    let e = client.manifest("a/b", "1", Accept::Any).unwrap_err();
    assert!(e.to_string().contains("can't find host \"no-such-host.invalid\""), "{e}");
    assert!(e.get_hint().unwrap().contains("HTTPS_PROXY"));
}

/// A wrong port is found out soon; with a registry that answered before, we are patient.
#[test]
fn patience_is_for_those_who_answered() {
    let patient = || Options { policy: Policy { retries: 4, ..hasty().policy }, ..hasty() };
    let client = Client::new(&endpoint(NOBODY), patient(), Arc::new(Anonymous)).unwrap();
    let e = client.manifest("a/b", "1", Accept::Any).unwrap_err().to_string();
    assert_eq!(e, format!("gave up after 3 tries: can't connect to {NOBODY}: Connection refused"));

    let registry = Registry::start();
    registry.manifest("a/b", "1", OCI_MANIFEST, b"{}");
    // Connections are not kept, so that nothing is left of it.
    registry.intercept(|seen, _| seen.path().ends_with("/1").then(|| Reply::new(404).how(How::UntilClose)));
    let name = registry.server.name();
    let client = Client::new(&endpoint(&name), patient(), Arc::new(Anonymous)).unwrap();
    assert!(client.manifest("a/b", "1", Accept::Any).unwrap().is_none());
    drop(registry);
    let e = client.manifest("a/b", "1", Accept::Any).unwrap_err().to_string();
    // Refused, or reset while the listener is still going away.
    assert!(e.starts_with("gave up after 5 tries: "), "{e}");
}

/// A name with addresses of both families, of which one answers: `localhost` is such, and nothing listens on `::1`.
#[test]
fn addresses_are_tried_in_turn() {
    use std::net::ToSocketAddrs;
    let registry = Registry::start();
    registry.manifest("a/b", "1", OCI_MANIFEST, b"{}");
    let port = registry.server.address.port();
    let client = Client::new(&Endpoint::new("localhost", port), hasty(), Arc::new(Anonymous)).unwrap();
    assert!(client.manifest("a/b", "1", Accept::Any).unwrap().is_some());
    // All fail: the message says how many there were.
    let both = ("localhost", port).to_socket_addrs().unwrap().count() > 1;
    let client = Client::new(&Endpoint::new("localhost", 1), hasty(), Arc::new(Anonymous)).unwrap();
    let e = client.manifest("a/b", "1", Accept::Any).unwrap_err().to_string();
    let tried = if both { "2 addresses tried, the last one: " } else { "" };
    assert_eq!(e, format!("gave up after 3 tries: can't connect to localhost:1: {tried}Connection refused"));
}
