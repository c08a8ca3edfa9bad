//! Which certificates are trusted (H13, H14): certificates of all kinds of wrong, made with openssl, on a small TLS server.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{CertificateError, ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::registry::settings::Settings;
use crate::registry::tls::{self, Trust};

/// Certificates by name, made once a process; `None` where openssl is missing (said once).
pub fn certificates() -> Option<&'static Path> {
    static DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    DIR.get_or_init(make).as_deref()
}

fn make() -> Option<PathBuf> {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(std::env::var_os("CH_TEST_MUST_RUN").is_none(), "openssl is not installed");
        let _ = writeln!(std::io::stderr(), "SKIPPED: TLS tests: openssl is not installed");
        return None;
    }
    // `target/tmp`, wherever the target directory is: this program is `target/debug/deps/…`.
    let program = std::env::current_exe().unwrap();
    let target = program.ancestors().nth(3).unwrap();
    let dir = target.join(format!("tmp/{}-certificates", std::process::id()));
    // Of a process that had this number before.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let script = r#"
        key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
        ca() { # NAME EXTENSIONS…
            key "$1"; n=$1; shift
            openssl req -x509 -new -key "$n.key" -days 30 -subj "/CN=$n" -out "$n.pem" \
                -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign "$@"
        }
        leaf() { # NAME CA SAN OPTIONS…
            key "$1"; n=$1; c=$2; san=$3; shift 3
            openssl req -new -key "$n.key" -subj /CN=leaf -out "$n.csr"
            printf 'basicConstraints=CA:FALSE\nsubjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$san" >"$n.ext"
            openssl x509 -req -in "$n.csr" -CA "$c.pem" -CAkey "$c.key" -CAcreateserial -extfile "$n.ext" -out "$n.pem" "$@"
        }
        ca site
        ca other
        ca constrained -addext 'nameConstraints=critical,permitted;DNS:example.org,permitted;IP:10.0.0.0/255.0.0.0'
        leaf good site IP:127.0.0.1,DNS:localhost -days 30
        leaf stranger other IP:127.0.0.1 -days 30
        leaf wrong-name site DNS:registry.example.org -days 30
        leaf outside constrained IP:127.0.0.1,DNS:localhost -days 30
        leaf sha1 site IP:127.0.0.1 -days 30 -sha1
        leaf expired site IP:127.0.0.1 -days -1
        key self
        openssl req -x509 -new -key self.key -days 30 -subj /CN=self -addext subjectAltName=IP:127.0.0.1 -out self.pem
        key twin
        openssl req -x509 -new -key twin.key -days 30 -subj /CN=self -addext subjectAltName=IP:127.0.0.1 -out twin.pem
        key past; openssl req -new -key past.key -subj /CN=past -out past.csr
        printf 'basicConstraints=CA:TRUE\nsubjectAltName=IP:127.0.0.1\n' >past.ext
        openssl x509 -req -in past.csr -signkey past.key -extfile past.ext -out past.pem -days -1
        mkdir hashed; cp site.pem hashed/site.crt; printf 'no certificate' >hashed/README
    "#;
    let made = Command::new("sh").args(["-ec", script]).current_dir(&dir).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some(dir)
}

/// Answers each request on a TLS connection with these bytes.
fn tls_server(dir: &Path, leaf: &str, answer: String) -> String {
    let chain: Vec<_> = CertificateDer::pem_file_iter(dir.join(format!("{leaf}.pem"))).unwrap().flatten().collect();
    let key = PrivateKeyDer::from_pem_file(dir.join(format!("{leaf}.key"))).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (config, answer) = (config.clone(), answer.clone());
            std::thread::spawn(move || drop(converse(stream.unwrap(), config, &answer)));
        }
    });
    name
}

fn converse(stream: TcpStream, config: Arc<ServerConfig>, answer: &str) -> std::io::Result<()> {
    let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if tls.read(&mut byte)? == 0 {
                return Ok(());
            }
            request.push(byte[0]);
        }
        tls.write_all(answer.as_bytes())?;
        tls.flush()?;
    }
}

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

fn trusting(trust: Trust) -> Options {
    Options { settings: Settings { trust, ..Settings::default() }, ..hasty() }
}

fn site(dir: &Path) -> Trust {
    Trust { file: Some(dir.join("site.pem")), ..Trust::default() }
}

/// The error of a pull from there; empty if it worked.
fn pull(server: &str, options: Options) -> String {
    let client = match Client::new(&endpoint(server), options, Arc::new(Anonymous)) {
        Ok(client) => client,
        Err(e) => return e.to_string(),
    };
    match client.manifest("a/b", "1", Accept::Any) {
        Ok(fetched) => {
            assert_eq!(fetched.unwrap().bytes, b"{}");
            String::new()
        }
        Err(e) => e.to_string(),
    }
}

/// H13
#[test]
fn certificates_that_are_refused() {
    let Some(dir) = certificates() else { return };
    let check = |leaf: &str, trust: Trust, want: &str| {
        let server = tls_server(dir, leaf, FINE.into());
        let e = pull(&server, trusting(trust));
        match want {
            "" => assert_eq!(e, "", "{leaf}"),
            want => assert!(e.contains(want) && e.contains(&server), "{leaf}: {e}"),
        }
    };
    let constrained = || Trust { file: Some(dir.join("constrained.pem")), ..Trust::default() };
    check("good", site(dir), "");
    check("stranger", site(dir), "not signed by an authority that this machine trusts");
    check("wrong-name", site(dir), "certificate is for another host name: registry.example.org");
    check("expired", site(dir), "certificate has expired");
    check("sha1", site(dir), "certificate refused");
    check("outside", constrained(), "certificate refused");
    check("self", site(dir), "certificate is self-signed");
}

/// What `openssl req -x509` makes is its own authority: good for a server if it is trusted itself, and right otherwise.
#[test]
fn self_signed_certificates() {
    let Some(dir) = certificates() else { return };
    let trust = |name: &str| trusting(Trust { extra: Some(dir.join(format!("{name}.pem"))), ..site(dir) });
    let server = tls_server(dir, "self", FINE.into());
    assert_eq!(pull(&server, trust("self")), "");
    assert!(pull(&server, trust("other")).contains("certificate is self-signed"));
    let elsewhere = server.replace("127.0.0.1", "localhost");
    assert!(pull(&elsewhere, trust("self")).contains("certificate is for another host name: 127.0.0.1"));
    // The same name, another key.
    assert!(pull(&tls_server(dir, "twin", FINE.into()), trust("self")).contains("certificate is self-signed"));
    assert!(pull(&tls_server(dir, "past", FINE.into()), trust("past")).contains("certificate has expired"));
    // The same for what somebody signed who is not trusted.
    assert_eq!(pull(&tls_server(dir, "stranger", FINE.into()), trust("stranger")), "");
    // Others are still verified beside it.
    assert_eq!(pull(&tls_server(dir, "good", FINE.into()), trust("self")), "");
    assert!(pull(&tls_server(dir, "stranger", FINE.into()), trust("self")).contains("not signed by an authority"));
}

#[test]
fn how_long_ago() {
    let check = |seconds: u64, want: &str| {
        let at = |n| UnixTime::since_unix_epoch(Duration::from_secs(n));
        let reason =
            CertificateError::ExpiredContext { time: at(2_000_000_000 + seconds), not_after: at(2_000_000_000) };
        let e = tls::explain(&rustls::Error::InvalidCertificate(reason));
        assert_eq!(e.to_string(), format!("certificate has expired {want} ago"));
    };
    check(59, "0 h");
    check(47 * 3600, "47 h");
    check(400 * 86400, "400 d");
}

/// The places where a site's authority may be named.
#[test]
fn sources_of_trust() {
    let Some(dir) = certificates() else { return };
    let server = tls_server(dir, "good", FINE.into());
    let path = |name: &str| dir.join(name);
    let works = |trust: Trust| pull(&server, trusting(trust));
    assert_eq!(works(site(dir)), "");
    assert_eq!(works(Trust { dirs: vec![path("absent"), path("hashed")], ..Trust::default() }), "");
    assert_eq!(works(Trust { extra: Some(path("site.pem")), ..Trust::default() }), "");
    let both = Trust { extra: Some(path("site.pem")), file: Some(path("other.pem")), ..Trust::default() };
    assert_eq!(works(both), "");
    assert!(works(Trust::default()).contains("not signed by an authority"));
    assert!(works(Trust { file: Some(path("other.pem")), ..Trust::default() }).contains("not signed by an authority"));
    let e = works(Trust { file: Some(path("absent")), ..Trust::default() });
    assert!(e.starts_with("$SSL_CERT_FILE: /") && e.ends_with("can't read: No such file or directory"), "{e}");
    let e = works(Trust { extra: Some(path("hashed/README")), ..Trust::default() });
    assert!(e.starts_with("--ca /") && e.ends_with("no certificates in it (PEM is expected)"), "{e}");
    assert!(works(Trust { extra: Some(dir.into()), ..Trust::default() }).ends_with("not a file of certificates"));
}

/// H14
#[test]
fn unverified_is_one_registry_only() {
    let Some(dir) = certificates() else { return };
    let unverified = || Options { tls_verify: false, ..hasty() };
    for leaf in ["good", "stranger", "wrong-name", "expired", "self", "outside"] {
        assert_eq!(pull(&tls_server(dir, leaf, FINE.into()), unverified()), "", "{leaf}");
    }
    let other = tls_server(dir, "good", FINE.into());
    let redirect = format!("HTTP/1.1 302 Found\r\nLocation: https://{other}/x\r\nContent-Length: 0\r\n\r\n");
    let first = tls_server(dir, "self", redirect);
    let e = pull(&first, unverified());
    assert!(e.contains(&format!("can't connect to {other}: certificate is not signed")), "{e}");
}

/// H02: never from TLS to plain text, not even on this machine.
#[test]
fn no_downgrade() {
    let Some(dir) = certificates() else { return };
    let plain = Server::start(|_| crate::registry::scripted::Reply::new(200).body("{}"));
    let redirect = format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", plain.url("/x?t=secret"));
    let e = pull(&tls_server(dir, "good", redirect), trusting(site(dir)));
    assert!(e.contains("redirect from https to http refused") && !e.contains("secret"), "{e}");
    let realm = plain.url("/token");
    let challenge =
        format!("HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"{realm}\"\r\nContent-Length: 0\r\n\r\n");
    let e = pull(&tls_server(dir, "good", challenge), trusting(site(dir)));
    assert!(e.contains("token server without TLS"), "{e}");
    assert!(plain.lines().is_empty());
}

/// A server that speaks TLS 1.0 only, one that never finishes the handshake, one that sends an alert.
#[test]
fn handshakes_that_fail() {
    let check = |bytes: &'static [u8], patience: Duration, want: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 2048]).and_then(|_| stream.write_all(bytes));
                // Held open until the client gives up.
                std::thread::spawn(move || stream.read(&mut [0]));
            }
        });
        let mut options = hasty();
        options.timeouts.connect = patience;
        let e = pull(&name, options);
        assert!(e.contains(want), "{want}: {e}");
    };
    check(b"", Duration::from_millis(200), "no answer to the TLS handshake");
    // Alert: protocol version.
    check(b"\x15\x03\x01\x00\x02\x02\x46", PATIENCE, "ProtocolVersion");
    // ServerHello of TLS 1.0.
    const HELLO: &[u8] = &[
        0x16, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
        7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 47, 0,
    ];
    check(HELLO, PATIENCE, "can't connect to");
}

/// A TLS server that says `{}` to everything.
pub fn fine_server(dir: &Path) -> String {
    tls_server(dir, "good", FINE.into())
}
