//! A real registry: Debian's `docker-registry` on a free port of the loopback device, with TLS by a private CA.
//!
//! The in-process registry (`registry.rs`) is for faults; this one is for "does it work with what people run".

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::site;
use super::skip::find;

pub struct Server {
    child: Child,
    dir: PathBuf,
    port: u16,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Server {
    /// The caller says `needs!("docker-registry", "openssl")` first.
    pub fn start() -> Server {
        // Somebody else may take the free port before the server does.
        (0..5).find_map(|_| Server::try_start()).expect("docker-registry starts")
    }

    fn try_start() -> Option<Server> {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = site::scratch().join(format!("{}-server-{n}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let tls = certificates();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {dir:?}}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n  tls: {{certificate: {:?}, key: {:?}}}\n",
            tls.join("leaf.pem"),
            tls.join("leaf.key"),
        );
        fs::write(dir.join("config.yml"), config).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        // The kernel ends the server with the test, even if the test is killed.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(find("docker-registry").expect("docker-registry is installed"))
            .arg("serve")
            .arg(dir.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until && child.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(Server { child, dir, port });
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The full reference of an image on this server.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address())
    }

    /// The private CA's certificate, for `SSL_CERT_FILE`.
    pub fn ca(&self) -> PathBuf {
        certificates().join("ca.pem")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        site::remove(&self.dir);
    }
}

/// A CA and a leaf for 127.0.0.1 and localhost, made once a process. (A certificate that is its own CA is refused as a
/// server's by rustls, even when trusted.)
fn certificates() -> &'static Path {
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
            printf 'basicConstraints=CA:FALSE\\nsubjectAltName=IP:127.0.0.1,DNS:localhost\\nextendedKeyUsage=serverAuth\\n' >ext && \
            openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out leaf.pem";
        let made = Command::new("sh").args(["-ec", script]).current_dir(&dir).output().unwrap();
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        dir
    })
}
