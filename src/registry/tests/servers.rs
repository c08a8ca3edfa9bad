//! Debian's `docker-registry`, with TLS and with passwords: do our assumptions about registries hold for a real one?

use std::fs;
use std::io::{Cursor, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::certificates::certificates;
use super::*;
use crate::error::Result;
use crate::oci::manifest::{Document, Manifest, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::registry::auth::Access;
use crate::registry::settings::Settings;
use crate::registry::tls::Trust;

const PROGRAM: &str = "/usr/bin/docker-registry";
/// `user` and `pass`, bcrypt.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K\n";

struct Real {
    child: Child,
    dir: PathBuf,
    name: String,
}

impl Real {
    /// `None`, said aloud, where it cannot be had.
    fn start(auth: &str) -> Option<(Real, &'static Path)> {
        let certificates = certificates()?;
        if !Path::new(PROGRAM).exists() {
            assert!(std::env::var_os("CH_TEST_MUST_RUN").is_none(), "docker-registry is not installed");
            let _ = writeln!(std::io::stderr(), "SKIPPED: {PROGRAM} is not installed");
            return None;
        }
        // Somebody else may take the free port before the server does.
        let real = (0..5).find_map(|_| Real::try_to_start(auth, certificates));
        Some((real.expect("docker-registry does not start"), certificates))
    }

    fn try_to_start(auth: &str, certificates: &Path) -> Option<Real> {
        let name = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let dir = certificates.join(name.replace(':', "-"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
        let auth = auth.replace("DIR", dir.to_str().unwrap());
        let (leaf, key) = (certificates.join("good.pem"), certificates.join("good.key"));
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {dir:?}}}}}\n\
             http: {{addr: \"{name}\", tls: {{certificate: {leaf:?}, key: {key:?}}}}}\n{auth}"
        );
        fs::write(dir.join("config.yml"), config).unwrap();
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(dir.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut real = Real { child, dir, name };
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && real.child.try_wait().unwrap().is_none() {
            if TcpStream::connect(&real.name).is_ok() {
                return Some(real);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    fn client(&self, certificates: &Path, credentials: Arc<dyn Credentials>) -> Client {
        let trust = Trust { file: Some(certificates.join("site.pem")), ..Trust::default() };
        let options = Options { settings: Settings { trust, ..Settings::default() }, ..Options::default() };
        Client::new(&endpoint(&self.name), options, credentials).unwrap()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// An image goes there and comes back.
fn round_trip(client: &Client) -> Result<()> {
    let (layer, config) = (noise(3_000_000), b"{\"architecture\":\"amd64\"}".to_vec());
    client.authorize("some/image", Access::Push)?;
    for bytes in [&layer, &config] {
        let digest = Digest::of(bytes);
        assert!(!client.has_blob("some/image", &digest)?);
        let mut open = || -> Result<Box<dyn Read>> { Ok(Box::new(Cursor::new(bytes.clone()))) };
        client.upload_blob("some/image", &digest, bytes.len() as u64, &mut open, &|_| {})?;
        assert!(client.has_blob("some/image", &digest)?);
    }
    assert!(client.mount_blob("some/other", &Digest::of(&layer), "some/image"));
    assert!(client.has_blob("some/other", &Digest::of(&layer))?);
    let manifest = Manifest {
        media_type: OCI_MANIFEST.into(),
        config: Descriptor { media_type: OCI_CONFIG.into(), ..descriptor(&config) },
        layers: vec![Descriptor { media_type: OCI_LAYER_GZIP.into(), ..descriptor(&layer) }],
    };
    let bytes = manifest.to_json();
    assert!(client.head_manifest("some/image", "1", Accept::Any)?.is_none());
    let digest = client.put_manifest("some/image", "1", OCI_MANIFEST, &bytes)?;
    assert_eq!(client.head_manifest("some/image", "1", Accept::Any)?, Some(digest));
    let fetched = client.manifest("some/image", "1", Accept::Any)?.unwrap();
    assert_eq!((&fetched.bytes, fetched.digest), (&bytes, digest));
    let parsed = Document::parse(&fetched.bytes, fetched.content_type.as_deref())?;
    assert_eq!(parsed, Document::Manifest(manifest.clone()));
    assert_eq!(client.blob_bytes("some/image", &manifest.config)?, config);
    for offset in [0, 1_234_567] {
        let mut got = Vec::new();
        client.blob("some/image", &manifest.layers[0], offset)?.read_to_end(&mut got)?;
        assert!(got == layer[offset as usize..], "offset {offset}");
    }
    assert!(client.manifest("no/such", "1", Accept::Any)?.is_none());
    Ok(())
}

#[test]
fn with_tls() {
    let Some((real, certificates)) = Real::start("") else { return };
    round_trip(&real.client(certificates, Arc::new(Anonymous))).unwrap();
    let stranger = Client::new(&endpoint(&real.name), Options::default(), Arc::new(Anonymous)).unwrap();
    let e = stranger.manifest("some/image", "1", Accept::Any).unwrap_err();
    assert!(e.to_string().contains("not signed by an authority"), "{e}");
    assert!(e.get_hint().unwrap().contains("SSL_CERT_FILE"));
    let unverified = Options { tls_verify: false, ..Options::default() };
    let unverified = Client::new(&endpoint(&real.name), unverified, Arc::new(Anonymous)).unwrap();
    assert!(unverified.manifest("some/image", "1", Accept::Any).unwrap().is_some());
}

#[test]
fn with_passwords() {
    let auth = "auth: {htpasswd: {realm: test, path: \"DIR/htpasswd\"}}\n";
    let Some((real, certificates)) = Real::start(auth) else { return };
    let with = |password: &str| -> Arc<dyn Credentials> {
        let login = Login::Password { user: "user".into(), password: password.into() };
        Arc::new(Table::default().with(&endpoint(&real.name), login))
    };
    round_trip(&real.client(certificates, with("pass"))).unwrap();
    let e = round_trip(&real.client(certificates, with("wrong"))).unwrap_err().to_string();
    assert_eq!(e, format!("login failed: {} refused the user name and password", real.name));
    let e = round_trip(&real.client(certificates, Arc::new(Anonymous))).unwrap_err().to_string();
    assert!(e.contains("401 Unauthorized: UNAUTHORIZED authentication required"), "{e}");
}
