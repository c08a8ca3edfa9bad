//! Real servers: Debian's `docker-registry`, and what stands before registries: nginx, squid. With TLS by a private CA.
//!
//! The in-process registry (`registry.rs`) is for faults; these are for "does it work with what people run".

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::daemon::{Daemon, name_of};
use super::site;

pub struct Server {
    daemon: Daemon,
}

/// How a registry wants to be convinced.
pub enum Guard<'a> {
    Open,
    /// `user` and `pass`.
    Passwords,
    Tokens(&'a super::tokens::Tokens),
}

/// `user` and `pass`, bcrypt.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K\n";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    Tls,
    Plain,
}

impl Server {
    /// The caller says `needs!("docker-registry", "openssl")` first.
    pub fn start() -> Server {
        Server::of(Talk::Tls, &Guard::Open)
    }

    pub fn of(talk: Talk, guard: &Guard) -> Server {
        let daemon = Daemon::start("docker-registry", |dir, port| {
            fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
            let tls = match talk {
                Talk::Tls => format!(
                    "  tls: {{certificate: {:?}, key: {:?}}}\n",
                    certificates().join("leaf.pem"),
                    certificates().join("leaf.key")
                ),
                Talk::Plain => String::new(),
            };
            let guard = match guard {
                Guard::Open => String::new(),
                Guard::Passwords => format!("auth: {{htpasswd: {{realm: test, path: {:?}}}}}\n", dir.join("htpasswd")),
                Guard::Tokens(tokens) => tokens.configuration(),
            };
            let config = format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {dir:?}}}, delete: {{enabled: true}}}}\n\
                 http:\n  addr: 127.0.0.1:{port}\n{tls}{guard}"
            );
            fs::write(dir.join("config.yml"), config).unwrap();
            vec!["serve".into(), dir.join("config.yml").into()]
        });
        Server { daemon }
    }

    pub fn address(&self) -> String {
        self.daemon.address()
    }

    pub fn port(&self) -> u16 {
        self.daemon.port()
    }

    /// The full reference of an image on this server.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address())
    }

    /// The private CA's certificate, for `SSL_CERT_FILE`.
    pub fn ca(&self) -> PathBuf {
        ca()
    }
}

/// The private CA's certificate.
pub fn ca() -> PathBuf {
    certificates().join("ca.pem")
}

/// nginx as a site has it before its registry: ends TLS, wants a password (`user`, `pass`), passes on the rest.
/// `more` is for its configuration; `access` of its directory is a line for each answer: method, status, bytes, range.
/// The caller says `needs!("nginx", "openssl")` first.
pub fn reverse_proxy(registry: &Server, more: &str) -> Daemon {
    let (to, tls) = (registry.address(), certificates());
    let (leaf, key) = (tls.join("leaf.pem"), tls.join("leaf.key"));
    Daemon::start("nginx", |dir, port| {
        fs::write(dir.join("htpasswd"), "user:{PLAIN}pass\n").unwrap();
        let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .concat();
        let config = format!(
            "daemon off; master_process off; pid pid; error_log stderr warn;\n\
             events {{ worker_connections 64; }}\n\
             http {{\n{places}\
             log_format short '$request_method $status $body_bytes_sent $http_range';\naccess_log access short;\n\
             server {{\nlisten 127.0.0.1:{port} ssl; ssl_certificate {leaf:?}; ssl_certificate_key {key:?};\n\
             auth_basic test; auth_basic_user_file {:?};\n\
             location /v2/ {{\nproxy_pass http://{to}; proxy_set_header Host $http_host;\n\
             proxy_set_header X-Forwarded-Proto https; proxy_request_buffering off;\n{more}\n}}\n}}\n}}\n",
            dir.join("htpasswd"),
        );
        fs::write(dir.join("nginx.conf"), config).unwrap();
        vec!["-p".into(), dir.into(), "-e".into(), "stderr".into(), "-c".into(), dir.join("nginx.conf").into()]
    })
}

/// squid as the only way out: wants a name and a password (`user`, `se:cret`), and alone can resolve the names
/// `registry.test` and `files.test`, which are this machine. `access` of its directory is a line for each request.
/// The caller says `needs!("squid", "openssl")` first.
pub fn forward_proxy() -> Daemon {
    Daemon::start("squid", |dir, port| {
        let hash = Command::new("openssl").args(["passwd", "-apr1", "se:cret"]).output().unwrap();
        fs::write(dir.join("passwd"), format!("user:{}", String::from_utf8(hash.stdout).unwrap())).unwrap();
        fs::write(dir.join("hosts"), "127.0.0.1 registry.test files.test\n").unwrap();
        let shown = dir.display();
        let config = format!(
            "http_port 127.0.0.1:{port}\npid_filename none\ncache deny all\ncache_log {shown}/log\n\
             logformat short %rm %ru %>Hs %un\naccess_log stdio:{shown}/access short\nbuffered_logs off\n\
             coredump_dir none\nnetdb_filename none\npinger_enable off\nshutdown_lifetime 0 seconds\n\
             hosts_file {shown}/hosts\nauth_param basic program {} {shown}/passwd\n\
             auth_param basic children 1 startup=1\n\
             acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\n",
            SQUID_LOGIN
        );
        fs::write(dir.join("squid.conf"), config).unwrap();
        vec!["-N".into(), "-n".into(), name_of(dir).into(), "-f".into(), dir.join("squid.conf").into()]
    })
}

/// squid's helper that reads a file of passwords.
const SQUID_LOGIN: &str = "/usr/lib/squid/basic_ncsa_auth";

/// A CA and a leaf for 127.0.0.1, localhost and registry.test, made once a process. (A certificate that is its own CA is
/// refused as a server's by rustls, even when trusted.)
pub fn certificates() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = site::scratch().join(format!("{}-tls", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let script = "\
            openssl ecparam -name prime256v1 -genkey -noout -out ca.key && \
            openssl req -x509 -new -key ca.key -days 2 -subj '/CN=test CA' -out ca.pem \
                -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign && \
            openssl ecparam -name prime256v1 -genkey -noout -out leaf.key && \
            openssl req -new -key leaf.key -subj /CN=localhost -out leaf.csr && \
            printf 'basicConstraints=CA:FALSE\\nsubjectAltName=IP:127.0.0.1,DNS:localhost,DNS:registry.test\\nextendedKeyUsage=serverAuth\\n' >ext && \
            openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out leaf.pem && \
            openssl req -x509 -newkey rsa:2048 -nodes -keyout tokens.key -days 2 -subj '/CN=test tokens' -out tokens.pem && \
            openssl x509 -in tokens.pem -outform DER | openssl base64 -A >tokens.x5c";
        let made = Command::new("sh").args(["-ec", script]).current_dir(&dir).output().unwrap();
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        dir
    })
}
