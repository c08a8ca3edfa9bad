//! Through a proxy (H20): tunnels, refusals, absolute requests, SOCKS; passwords on the wire only.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;

use super::certificates::certificates;
use super::*;
use crate::registry::net::Network;
use crate::registry::proxy::Proxies;
use crate::registry::scripted::Reply;
use crate::registry::socket::Trouble;
use crate::registry::tls;
use crate::registry::ureq_transport::{Dialer, NoResolver};
use crate::registry::url::{Origin, Scheme, Url};

/// A proxy that reads a request head, answers, and on 200 joins the client with `target`.
fn proxy(answer: &'static str, target: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let heads = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, target, heads) = (stream.unwrap(), target.clone(), heads.clone());
            std::thread::spawn(move || {
                let head = read_head(&mut stream);
                heads.lock().unwrap().push(head.clone());
                stream.write_all(answer.as_bytes()).unwrap();
                if answer.starts_with("HTTP/1.1 200") {
                    join(stream, TcpStream::connect(target).unwrap());
                }
            });
        }
    });
    (name, seen)
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn join(a: TcpStream, b: TcpStream) {
    let (mut a2, mut b2) = (a.try_clone().unwrap(), b.try_clone().unwrap());
    let (mut a, mut b) = (a, b);
    std::thread::spawn(move || std::io::copy(&mut a, &mut b));
    let _ = std::io::copy(&mut b2, &mut a2);
}

fn through(value: &str) -> Proxies {
    let get = |name: &str| (name == "ALL_PROXY").then(|| value.to_owned());
    Proxies::from_vars(&get).unwrap()
}

/// What `registry.example:443` says through this proxy (it exists only there).
fn pull(value: &str) -> Result<(), String> {
    let mut options = hasty();
    options.settings.proxies = through(value);
    options.tls_verify = false;
    let client = Client::new(&endpoint("registry.example"), options, Arc::new(Anonymous)).unwrap();
    client.manifest("a/b", "1", Accept::Any).map(drop).map_err(|e| e.to_string())
}

#[test]
fn tunnels() {
    let Some(dir) = certificates() else { return };
    let server = super::certificates::fine_server(dir);
    let (name, seen) = proxy("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n", server.clone());
    assert_eq!(pull(&format!("http://{name}")), Ok(()));
    assert_eq!(pull(&format!("http://us%40er:pa%3Ass@{name}")), Ok(()));
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0], "CONNECT registry.example:443 HTTP/1.1\r\nHost: registry.example:443\r\n\r\n");
    assert!(seen[1].contains("Proxy-Authorization: Basic dXNAZXI6cGE6c3M=\r\n"), "{}", seen[1]);
}

#[test]
fn refusals() {
    let check = |answer: &'static str, want: &str, tries: usize| {
        let (name, seen) = proxy(answer, String::new());
        let e = pull(&format!("http://user:secret@{name}")).unwrap_err();
        assert!(e.contains(&format!("proxy {name}: {want}")) && !e.contains("secret"), "{e}");
        assert_eq!(seen.lock().unwrap().len(), tries, "{e}");
    };
    let wants = "proxy wants a user name and password: HTTP/1.1 407 Proxy Authentication Required";
    check("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", wants, 1);
    check("HTTP/1.1 403 For\x1bbidden\r\n\r\n", "no tunnel to registry.example:443: HTTP/1.1 403 For\\x1bbidden", 1);
    check("HTTP/1.1 502 Bad Gateway\r\n\r\n", "no tunnel to registry.example:443: HTTP/1.1 502 Bad Gateway", 3);
    check("HTTP/1.1 302 Found\r\nLocation: http://login/\r\n\r\n", "no tunnel to", 1);
    check("SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP proxy (invalid answer to CONNECT)", 1);
    let e = pull(&format!("http://user:secret@{NOBODY}")).unwrap_err();
    assert!(e.contains(&format!("proxy {NOBODY}: can't connect to {NOBODY}: Connection refused")), "{e}");
}

/// Plain HTTP names its origin to the proxy; a connection carries one request.
#[test]
fn absolute_requests() {
    let server = Server::start(|_| Reply::new(200).body("{}"));
    let network = Network {
        proxies: through(&format!("http://user:pass@{}", server.name())),
        verified: tls::Trust::default().config().unwrap(),
        unverified: None,
        connect_timeout: PATIENCE,
    };
    let agent = ureq::Agent::with_parts(ureq::config::Config::default(), Dialer(Arc::new(network)), NoResolver);
    for _ in 0..2 {
        let url = Url::parse("http://store.example/x?y=1").unwrap().expose();
        let mut answer = agent.get(url).call().unwrap();
        assert_eq!(answer.body_mut().read_to_vec().unwrap(), b"{}");
    }
    assert_eq!(server.lines(), ["GET http://store.example:80/x?y=1", "GET http://store.example:80/x?y=1"]);
    let seen = &server.seen()[0];
    assert_eq!(seen.header("proxy-authorization"), Some("Basic dXNlcjpwYXNz"));
    assert_eq!(seen.header("host"), Some("store.example"));
    assert_eq!(server.connections(), 2);
}

/// A SOCKS 5 proxy that plays a script: bytes to read, bytes to send.
fn socks(script: Vec<(usize, Vec<u8>)>, target: Option<String>) -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
    let heard = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            heard.lock().unwrap().clear();
            for (n, reply) in &script {
                let mut bytes = vec![0; *n];
                if stream.read_exact(&mut bytes).is_err() {
                    break;
                }
                heard.lock().unwrap().extend(&bytes);
                stream.write_all(reply).unwrap();
            }
            if let Some(target) = target.clone() {
                std::thread::spawn(move || join(stream, TcpStream::connect(target).unwrap()));
            }
        }
    });
    (name, seen)
}

#[test]
fn socks5() {
    let Some(dir) = certificates() else { return };
    let server = super::certificates::fine_server(dir);
    let connect = [&b"\x05\x01\x00\x03\x10registry.example"[..], &443u16.to_be_bytes()].concat();
    let done = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    let script = vec![(3, b"\x05\x00".to_vec()), (connect.len(), done.clone())];
    let (name, seen) = socks(script, Some(server.clone()));
    assert_eq!(pull(&format!("socks5h://{name}")), Ok(()));
    assert_eq!(*seen.lock().unwrap(), [&b"\x05\x01\x00"[..], &connect].concat());

    let script = vec![(4, b"\x05\x02".to_vec()), (11, b"\x01\x00".to_vec()), (connect.len(), done)];
    let (name, seen) = socks(script, Some(server));
    assert_eq!(pull(&format!("socks5h://user:pass@{name}")), Ok(()));
    assert_eq!(*seen.lock().unwrap(), [&b"\x05\x02\x00\x02\x01\x04user\x04pass"[..], &connect].concat());

    let check = |script: Vec<(usize, Vec<u8>)>, login: &str, want: &str| {
        let (name, _) = socks(script, None);
        let e = pull(&format!("socks5h://{login}{name}")).unwrap_err();
        assert!(e.contains(want) && !e.contains("secret"), "{e}");
    };
    let refused = b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    check(
        vec![(3, b"\x05\x00".to_vec()), (connect.len(), refused)],
        "",
        "no connection to registry.example:443: connection refused",
    );
    check(vec![(3, b"\x05\xff".to_vec())], "", "wants a user name and password");
    check(
        vec![(4, b"\x05\x02".to_vec()), (13, b"\x01\x01".to_vec())],
        "user:secret@",
        "refused the user name and password",
    );
    check(vec![(3, b"HT".to_vec())], "", "not a SOCKS 5 proxy");
}

/// Our own machine is reached directly, whatever the variables say.
#[test]
fn never_for_loopback() {
    let registry = Registry::start();
    let mut options = hasty();
    options.settings.proxies = through("http://no-such-proxy.invalid:1");
    let client = client_with(&registry.server, options, Arc::new(Anonymous));
    assert!(client.manifest("a/b", "1", Accept::Any).unwrap().is_none());
}

#[test]
fn tls_is_told_from_plain_text() {
    let server = Server::start(|_| Reply::new(200));
    let network = Network {
        proxies: Proxies::default(),
        verified: tls::Trust::default().config().unwrap(),
        unverified: None,
        connect_timeout: PATIENCE,
    };
    let there = endpoint(&server.name());
    assert!(!network.speaks_tls(&there).unwrap());
    let failed = network.open(&Origin::new(Scheme::Https, &there)).err().unwrap();
    assert_eq!(failed.kind, Trouble::NotTls);
    assert!(server.lines().is_empty());
}
