//! Who gets to see a name and a password: the registry that they are for, and nobody else (H01 to H12).

use super::*;
use crate::oci::manifest::OCI_MANIFEST;
use crate::registry::auth::Access;
use crate::registry::scripted::{Ended, Guard, Reply, TokenRules};

fn token_rules() -> TokenRules {
    TokenRules {
        login: LOGIN.into(),
        anonymous: vec!["pull".into()],
        life: 300,
        key: "token".into(),
        ended: Ended::default(),
    }
}

fn guarded(guard: Guard) -> Registry {
    let registry = Registry::start();
    registry.manifest("a/b", "1", OCI_MANIFEST, b"{}");
    registry.guard(guard);
    registry
}

fn authorizations(server: &Server) -> Vec<String> {
    server.seen().iter().filter_map(|s| s.header("authorization").map(str::to_owned)).collect()
}

fn pull(client: &Client) -> Result<bool, String> {
    client.manifest("a/b", "1", Accept::Any).map(|f| f.is_some()).map_err(|e| e.to_string())
}

#[test]
fn basic() {
    let registry = guarded(Guard::Basic(LOGIN.into()));
    let client = client_with(&registry.server, hasty(), login(&registry.server));
    assert_eq!(pull(&client), Ok(true));
    assert_eq!(pull(&client), Ok(true));
    // Anonymous first, then with the password, and from then on at once.
    let used: Vec<_> = registry.server.seen().iter().map(|s| s.header("authorization").is_some()).collect();
    assert_eq!(used, [false, true, true]);

    let wrong = Login::Password { user: "user".into(), password: "wrong".into() };
    let table = Arc::new(Table::default().with(&endpoint(&registry.server.name()), wrong));
    let client = client_with(&registry.server, hasty(), table.clone());
    registry.server.forget();
    let e = pull(&client).unwrap_err();
    assert_eq!(e, format!("login failed: {} refused the user name and password", registry.server.name()));
    assert_eq!(registry.server.lines().len(), 2);
    // It is not offered again.
    assert!(table.find(&endpoint(&registry.server.name())).unwrap().is_none());
}

#[test]
fn anonymous_token() {
    for (life, key) in [(300, "token"), (0, "access_token")] {
        let registry = guarded(Guard::Token(TokenRules { key: key.into(), life, ..token_rules() }));
        let client = client_with(&registry.server, hasty(), login(&registry.server));
        assert_eq!(pull(&client), Ok(true));
        assert_eq!(pull(&client), Ok(true));
        assert_eq!(
            registry.server.lines(),
            [
                "GET /v2/a/b/manifests/1",
                "GET /token?service=test&scope=repository:a/b:pull",
                "GET /v2/a/b/manifests/1",
                "GET /v2/a/b/manifests/1",
            ]
        );
        assert_eq!(authorizations(&registry.server), ["Bearer token1", "Bearer token1"]);
    }
}

#[test]
fn token_for_somebody() {
    // The token server refuses the anonymous.
    let registry = guarded(Guard::Token(TokenRules { anonymous: vec![], ..token_rules() }));
    let with_login = client_with(&registry.server, hasty(), login(&registry.server));
    assert_eq!(pull(&with_login), Ok(true));
    assert_eq!(authorizations(&registry.server), [format!("Basic {LOGIN}"), "Bearer token1".into()]);
    // Nobody to be: not there, for us.
    assert_eq!(pull(&client(&registry.server)), Ok(false));
    // --auth: no anonymous try at the token server.
    let registry = guarded(Guard::Token(token_rules()));
    let options = Options { first: First::Login, ..hasty() };
    assert_eq!(pull(&client_with(&registry.server, options, login(&registry.server))), Ok(true));
    assert_eq!(authorizations(&registry.server), [format!("Basic {LOGIN}"), "Bearer token1".into()]);
    // A wrong password.
    let wrong = Login::Password { user: "user".into(), password: "wrong".into() };
    let table = Arc::new(Table::default().with(&endpoint(&registry.server.name()), wrong));
    let options = Options { first: First::Login, ..hasty() };
    let e = pull(&client_with(&registry.server, options, table)).unwrap_err();
    assert!(e.starts_with("login failed: 127.0.0.1:"), "{e}");
}

/// Registries that give the anonymous a token and then refuse it (Docker Hub, for private images).
#[test]
fn anonymous_token_that_is_not_enough() {
    let registry = guarded(Guard::Token(token_rules()));
    registry.intercept(|seen, _| {
        let weak = seen.header("authorization") == Some("Bearer token1");
        weak.then(|| {
            let host = seen.header("host").unwrap();
            Reply::new(401).header("WWW-Authenticate", format!("Bearer realm=\"http://{host}/token\",service=\"test\""))
        })
    });
    assert_eq!(pull(&client_with(&registry.server, hasty(), login(&registry.server))), Ok(true));
    assert_eq!(
        authorizations(&registry.server),
        ["Bearer token1".to_owned(), format!("Basic {LOGIN}"), "Bearer token2".to_owned()]
    );
}

/// H08
#[test]
fn refused_for_ever() {
    for guard in ["Basic realm=\"x\"", "Bearer realm=\"http://HOST/token\",service=\"s\""] {
        let server = Server::start(move |seen| match seen.path() {
            "/token" => Reply::new(200).body("{\"token\":\"t\"}"),
            _ => Reply::new(401).header("WWW-Authenticate", guard.replace("HOST", seen.header("host").unwrap())),
        });
        let result = pull(&client_with(&server, hasty(), login(&server)));
        assert_ne!(result, Ok(true));
        let asked = server.lines().iter().filter(|l| l.contains("/v2/")).count();
        assert!(asked <= 3, "{:?}", server.lines());
    }
}

/// H01, H02
#[test]
fn redirects_take_no_secret_along() {
    let store = Server::start(|_| Reply::new(200).header("Content-Type", OCI_MANIFEST).body("{}"));
    let to = store.url("/x");
    let registry = guarded(Guard::Basic(LOGIN.into()));
    let hop = to.clone();
    registry.intercept(move |seen, _| {
        let redirect = Reply::redirect(302, hop.clone()).header("Set-Cookie", "session=secret");
        seen.header("authorization").is_some().then_some(redirect)
    });
    // Same host, other port.
    assert_eq!(pull(&client_with(&registry.server, hasty(), login(&registry.server))), Ok(true));
    let seen = store.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].header("authorization").is_none() && seen[0].header("cookie").is_none(), "{seen:?}");

    // And back again: the secret is the registry's.
    let back = registry.server.url("/v2/a/b/manifests/1");
    let third = Server::start(move |_| Reply::redirect(307, back.clone()));
    let via = guarded(Guard::Basic(LOGIN.into()));
    let to = third.url("/y");
    let own = via.server.url("/v2/a/b/manifests/2");
    via.manifest("a/b", "2", OCI_MANIFEST, b"[]");
    let bounce = Server::start(move |_| Reply::redirect(307, own.clone()));
    let at = bounce.url("/z");
    via.intercept(move |seen, _| seen.path().ends_with("/1").then(|| Reply::redirect(307, at.clone())));
    let client = client_with(&via.server, hasty(), login(&via.server));
    assert_eq!(client.manifest("a/b", "1", Accept::Any).unwrap().unwrap().bytes, b"[]");
    assert!(authorizations(&bounce).is_empty());
    drop((third, to));
}

/// H03
#[test]
fn redirects_that_go_nowhere() {
    let check = |location: &'static str, want: &str| {
        let server = Server::start(move |_| Reply::redirect(302, location));
        let e = pull(&client(&server)).unwrap_err();
        assert!(e.contains(want), "{location}: {e}");
        assert!(!e.contains("secret"), "{e}");
        server.lines().len()
    };
    assert_eq!(check("/again", "more than 10 redirects"), 11);
    assert_eq!(check("file:///etc/passwd", "invalid redirect: unsupported URL scheme \"file\""), 1);
    assert_eq!(check("ftp://h/", "invalid redirect"), 1);
    assert_eq!(check("", "invalid redirect: empty URL"), 1);
    assert_eq!(check("http://h x/", "invalid redirect"), 1);
    let server = Server::start(|_| Reply::new(302));
    assert!(pull(&client(&server)).unwrap_err().ends_with("redirect without a location"));

    let registry = guarded(Guard::Open);
    registry.manifest("a/b", "moved", OCI_MANIFEST, b"{}");
    for location in ["moved", "/v2/a/b/manifests/moved", "http://user:secret@HOST/v2/a/b/manifests/moved"] {
        let location = location.replace("HOST", &registry.server.name());
        registry.first(1, "manifests/1", Reply::redirect(301, location));
        registry.server.forget();
        assert_eq!(pull(&client(&registry.server)), Ok(true));
        assert!(authorizations(&registry.server).is_empty(), "user information became a password");
    }
}

/// H04, H05
#[test]
fn token_servers_elsewhere() {
    let check = |realm: &str, want: &str| {
        let realm = realm.to_owned();
        let server = Server::start(move |_| {
            Reply::new(401).header("WWW-Authenticate", format!("Bearer realm=\"{realm}\",service=\"s&scope=x\""))
        });
        let options = Options { first: First::Login, ..hasty() };
        let e = pull(&client_with(&server, options, login(&server))).unwrap_err();
        assert!(e.contains(&server.name()) && e.contains(want), "{e}");
    };
    check("https://evil.example/token", "evil.example:443, which is not known to belong to it");
    check("http://evil.example/token", "token server without TLS");
    check("file:///etc/passwd", "invalid token server");
}

/// H05: what the registry says cannot add parameters.
#[test]
fn parameters_are_encoded() {
    let server = Server::start(|seen| match seen.path() {
        "/token" => Reply::new(200).body("{\"token\":\"t\"}"),
        _ if seen.header("authorization").is_some() => Reply::new(404),
        _ => {
            let host = seen.header("host").unwrap();
            let challenge =
                format!("Bearer realm=\"http://{host}/token?x=1\",service=\"s&account=root\",scope=\"a&b=c\"");
            Reply::new(401).header("WWW-Authenticate", challenge)
        }
    });
    assert_eq!(pull(&client(&server)), Ok(false));
    assert_eq!(
        server.lines()[1],
        "GET /token?x=1&service=s%26account%3Droot&scope=repository:a/b:pull&scope=a%26b%3Dc"
    );
}

/// H06
#[test]
fn token_server_that_redirects() {
    let other = Server::start(|_| Reply::new(200).body("{\"token\":\"other\"}"));
    let registry = guarded(Guard::Token(TokenRules { anonymous: vec![], ..token_rules() }));
    let to = other.url("/elsewhere");
    registry.intercept(move |seen, _| {
        (seen.path() == "/token" && seen.header("authorization").is_some()).then(|| Reply::redirect(307, to.clone()))
    });
    let _ = pull(&client_with(&registry.server, hasty(), login(&registry.server)));
    assert!(!other.lines().is_empty());
    assert!(authorizations(&other).is_empty());
}

/// H07
#[test]
fn odd_tokens() {
    let check = |reply: Reply, want: &str| {
        let server = Server::start(move |seen| match seen.path() {
            "/token" => reply.clone(),
            _ => Reply::new(401)
                .header("WWW-Authenticate", format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap())),
        });
        let e = pull(&client(&server)).unwrap_err();
        assert!(e.contains(want), "{e}");
    };
    check(Reply::new(200).body(vec![b' '; 2 << 20]), "answer too long (limit 1048576 bytes)");
    check(Reply::new(200).body("{\"token\":\"a\\r\\nX: y\"}"), "no token may have");
    check(Reply::new(200).body("{\"token\":null}"), "no token in it");
    check(Reply::new(200).body("<html>"), "invalid JSON");
    check(Reply::new(400).body("no such service"), "can't get a token");
    // Of two, the one with the older name.
    let server = Server::start(|seen| match seen.path() {
        "/token" => Reply::new(200).body("{\"access_token\":\"b\",\"token\":\"a\"}"),
        _ if seen.header("authorization") == Some("Bearer a") => Reply::new(200).body("{}"),
        _ => Reply::new(401)
            .header("WWW-Authenticate", format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap())),
    });
    assert_eq!(pull(&client(&server)), Ok(true));
}

/// H09
#[test]
fn odd_challenges() {
    let check = |challenge: String| {
        let server = Server::start(move |_| Reply::new(401).header("WWW-Authenticate", challenge.clone()));
        assert_ne!(pull(&client_with(&server, hasty(), login(&server))), Ok(true));
        assert!(authorizations(&server).is_empty());
    };
    check("Negotiate".into());
    check("Bearer realm=\"http://unclosed".into());
    check(String::new());
    check("x".repeat(1 << 20));
}

/// H11: credentials for one registry are not offered to another.
#[test]
fn two_registries() {
    let (mine, other) = (guarded(Guard::Basic(LOGIN.into())), guarded(Guard::Basic(LOGIN.into())));
    let credentials = login(&mine.server);
    assert_eq!(pull(&client_with(&mine.server, hasty(), credentials.clone())), Ok(true));
    assert_eq!(pull(&client_with(&other.server, hasty(), credentials)), Ok(false));
    assert!(authorizations(&other.server).is_empty());
}

/// R13: tokens that run out, by their own word and without it.
#[test]
fn tokens_run_out() {
    let bytes = noise(200_000);
    // The server's word: renewed before use, without a 401 in between.
    let registry = guarded(Guard::Token(TokenRules { life: 1, ..token_rules() }));
    let client = client(&registry.server);
    assert_eq!(pull(&client), Ok(true));
    std::thread::sleep(Duration::from_millis(950));
    registry.server.forget();
    assert_eq!(pull(&client), Ok(true));
    assert_eq!(registry.server.lines().len(), 2, "{:?}", registry.server.lines());
    // Against its word, in the middle of a blob.
    let ended = Ended::default();
    let registry = guarded(Guard::Token(TokenRules { ended: ended.clone(), ..token_rules() }));
    registry.blob("a/b", &bytes);
    let cut = bytes.clone();
    registry.intercept(move |seen, _| {
        let first = seen.header("authorization") == Some("Bearer token1") && seen.header("range").is_none();
        (first && seen.path().contains("/blobs/")).then(|| {
            ended.end("token1");
            Reply::new(200).body(cut.clone()).how(crate::registry::scripted::How::Cut(100_000))
        })
    });
    let client = super::client(&registry.server);
    let mut got = Vec::new();
    std::io::Read::read_to_end(&mut client.blob("a/b", &descriptor(&bytes), 0).unwrap(), &mut got).unwrap();
    assert!(got == bytes);
    let renewals = registry.server.lines().iter().filter(|l| l.contains("/token")).count();
    assert_eq!(renewals, 2);
}

/// A token server is as busy as anybody else.
#[test]
fn token_servers_that_are_busy() {
    let registry = guarded(Guard::Token(token_rules()));
    registry.first(1, "/token", Reply::new(429).header("Retry-After", "1000000"));
    let (mut options, limit) = (hasty(), Duration::from_millis(400));
    options.policy.server_ceiling = limit;
    let start = std::time::Instant::now();
    assert_eq!(pull(&client_with(&registry.server, options, Arc::new(Anonymous))), Ok(true));
    assert!(start.elapsed() >= limit);
}

#[test]
fn many_threads_ask_for_one_token() {
    let registry = guarded(Guard::Token(token_rules()));
    let client = client(&registry.server);
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| assert_eq!(pull(&client), Ok(true)));
        }
    });
    assert_eq!(registry.server.lines().iter().filter(|l| l.contains("/token")).count(), 1);
}

/// Before a push is packed: is there a password, and is it right?
#[test]
fn authorized_beforehand() {
    for guard in [Guard::Basic(LOGIN.into()), Guard::Token(token_rules())] {
        let registry = guarded(guard);
        let with_login = client_with(&registry.server, hasty(), login(&registry.server));
        with_login.authorize("a/b", Access::Push).unwrap();
        registry.server.forget();
        with_login.put_manifest("a/b", "2", OCI_MANIFEST, b"{}").unwrap();
        assert_eq!(registry.server.lines(), ["PUT /v2/a/b/manifests/2"]);
    }
    let registry = guarded(Guard::Basic(LOGIN.into()));
    let e = client(&registry.server).authorize("a/b", Access::Push).unwrap_err();
    assert!(e.to_string().contains("401") && e.get_hint().unwrap().contains("CH_IMAGE_USERNAME"), "{e}");
    client(&guarded(Guard::Open).server).authorize("a/b", Access::Push).unwrap();
}

#[test]
fn identity_tokens() {
    let registry = guarded(Guard::Token(token_rules()));
    registry.intercept(|seen, _| {
        (seen.method == "POST" && seen.path() == "/token").then(|| {
            let body = String::from_utf8(seen.body.clone()).unwrap();
            assert!(body.contains("grant_type=refresh_token") && body.contains("refresh_token=re%26fresh"), "{body}");
            Reply::new(403)
        })
    });
    let table = Table::default().with(&endpoint(&registry.server.name()), Login::IdentityToken("re&fresh".into()));
    let options = Options { first: First::Login, ..hasty() };
    let e = pull(&client_with(&registry.server, options, Arc::new(table))).unwrap_err();
    assert!(e.starts_with("login failed"), "{e}");
    assert!(authorizations(&registry.server).is_empty());
}
