//! Which servers are trusted? Root certificates from where distributions keep them, and what a refusal means.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Context, Error, Result, bail};
use crate::log::debug;

/// Bundles of the distributions, first found wins: Debian, Arch, Gentoo; RHEL 7 and later, Fedora; RHEL 6; SUSE;
/// Alpine and the BSDs; older SUSE; OpenELEC.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/var/lib/ca-certificates/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
];
/// Where only single files are kept.
const DIRECTORIES: &[&str] = &["/etc/ssl/certs", "/etc/pki/tls/certs"];
/// Largest bundle read, bytes (Mozilla's is 220 KiB).
const MAX_BUNDLE: u64 = 16 << 20;

/// Where root certificates come from.
#[derive(Clone, Default, Debug)]
pub struct Trust {
    /// `--ca FILE`: in addition to the others.
    pub extra: Option<PathBuf>,
    /// `$SSL_CERT_FILE`: instead of the system's.
    pub file: Option<PathBuf>,
    /// `$SSL_CERT_DIR`: instead of the system's; may be several, separated by `:`.
    pub dirs: Vec<PathBuf>,
}

impl Trust {
    /// The configuration for ordinary, verified connections.
    pub fn config(&self) -> Result<Arc<ClientConfig>> {
        let (roots, _) = self.roots()?;
        let config = match roots.store.is_empty() {
            true => builder()?.with_root_certificates(roots.store).with_no_client_auth(),
            false => {
                let verifier = Arc::new(Trusted::new(roots)?);
                builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
            }
        };
        Ok(Arc::new(finish(config)))
    }

    /// How many root certificates there are, and where they come from, for people.
    pub fn describe(&self) -> Result<(usize, String)> {
        let (roots, places) = self.roots()?;
        Ok((roots.store.len(), places.join(", ")))
    }

    fn roots(&self) -> Result<(Roots, Vec<String>)> {
        let mut roots = Roots { store: RootCertStore::empty(), whole: Vec::new() };
        let mut places = Vec::new();
        if let Some(file) = &self.file {
            add_file(&mut roots, file).context(|| format!("$SSL_CERT_FILE: {}", file.display()))?;
            places.push(format!("{} ($SSL_CERT_FILE)", file.display()));
        }
        for dir in &self.dirs {
            add_directory(&mut roots, dir);
            places.push(format!("{} ($SSL_CERT_DIR)", dir.display()));
        }
        if self.file.is_none() && self.dirs.is_empty() {
            places.push(add_system(&mut roots));
        }
        if let Some(file) = &self.extra {
            add_file(&mut roots, file).context(|| format!("--ca {}", file.display()))?;
            places.push(format!("{} (--ca)", file.display()));
        }
        debug!("TLS: {} root certificates from {}", roots.store.len(), places.join(", "));
        Ok((roots, places))
    }
}

/// Certificates that are trusted: as authorities, and whole.
struct Roots {
    store: RootCertStore,
    whole: Vec<CertificateDer<'static>>,
}

/// The configuration for the one registry that `--tls-no-verify` is about.
pub fn unverified() -> Result<Arc<ClientConfig>> {
    let provider = rustls::crypto::ring::default_provider();
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let verifier = Arc::new(Anyone { schemes });
    let config = builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Ok(Arc::new(finish(config)))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(e.to_string()).context("can't set up TLS"))
}

fn finish(mut config: ClientConfig) -> ClientConfig {
    // Some reverse proxies insist on an answer that they know.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Where they come from.
fn add_system(roots: &mut Roots) -> String {
    for bundle in BUNDLES {
        match add_file(roots, Path::new(bundle)) {
            Ok(n) if n > 0 => return (*bundle).to_owned(),
            Ok(_) | Err(_) => continue,
        }
    }
    for dir in DIRECTORIES {
        if add_directory(roots, Path::new(dir)) > 0 {
            return (*dir).to_owned();
        }
    }
    roots.store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    "this program itself, since the system has none".to_owned()
}

/// How many certificates were added. One that cannot be used (there are such in bundles) is passed over.
fn add_file(roots: &mut Roots, path: &Path) -> Result<usize> {
    let about = fs::metadata(path).context(|| "can't read")?;
    if !about.is_file() || about.len() > MAX_BUNDLE {
        bail!("not a file of certificates");
    }
    let text = fs::read(path).context(|| "can't read")?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text).filter_map(|c| c.ok()).collect();
    if certificates.is_empty() {
        bail!("no certificates in it (PEM is expected)");
    }
    roots.whole.extend(certificates.iter().map(|c| c.clone().into_owned()));
    let (added, _) = roots.store.add_parsable_certificates(certificates);
    if added == 0 {
        bail!("no usable certificate in it");
    }
    Ok(added)
}

fn add_directory(roots: &mut Roots, dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().filter_map(|entry| add_file(roots, &entry.path()).ok()).sum()
}

/// Believes whom the authorities vouch for. And a server whose certificate is itself one that is trusted, whoever
/// signed it: what `openssl req -x509` makes is marked as an authority, and private registries have such. Name, time
/// and key are checked like any other's.
#[derive(Debug)]
struct Trusted {
    usual: Arc<WebPkiServerVerifier>,
    whole: Vec<CertificateDer<'static>>,
}

impl Trusted {
    fn new(roots: Roots) -> Result<Trusted> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots.store), provider).build();
        let usual = usual.map_err(|e| Error::new(e.to_string()).context("can't set up TLS"))?;
        Ok(Trusted { usual, whole: roots.whole })
    }
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer,
        intermediates: &[CertificateDer],
        server_name: &ServerName,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            // That it is valid now was found out before.
            Err(rustls::Error::InvalidCertificate(reason))
                if (is_authority(&reason) || reason == CertificateError::UnknownIssuer)
                    && self.whole.iter().any(|trusted| trusted == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

fn is_authority(reason: &CertificateError) -> bool {
    matches!(reason, CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity"))
}

/// Believes everyone; signatures are not looked at either, since any key will do.
struct Anyone {
    schemes: Vec<SignatureScheme>,
}

impl fmt::Debug for Anyone {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Anyone")
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer,
        _intermediates: &[CertificateDer],
        _server_name: &ServerName,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

const EXPIRED: &str = "check this machine's clock Else the registry needs a new certificate; \
                       --tls-no-verify does without";

/// `DnsName("registry.example.org")`, `IpAddress(10.0.0.1)`: what is in the parentheses.
fn bare_name(shown: &str) -> &str {
    let inner = shown.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(shown);
    inner.trim_matches('"')
}

/// Why a handshake failed, in words, with the way out where there is one.
pub fn explain(e: &rustls::Error) -> Error {
    let trust = "if the site has its own certificate authority, name its certificate with --ca FILE or $SSL_CERT_FILE";
    match e {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer => {
                Error::new("certificate is not signed by an authority that this machine trusts").hint(trust)
            }
            CertificateError::Expired => Error::new("certificate has expired").hint(EXPIRED),
            CertificateError::ExpiredContext { time, not_after } => {
                let hours = time.as_secs().saturating_sub(not_after.as_secs()) / 3600;
                let since = if hours < 48 { format!("{hours} h") } else { format!("{} d", hours / 24) };
                Error::new(format!("certificate has expired {since} ago")).hint(EXPIRED)
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Error::new("certificate is not valid yet").hint("check this machine's clock")
            }
            CertificateError::NotValidForName => {
                Error::new("certificate is for another host name").hint("name the registry as its certificate does")
            }
            CertificateError::NotValidForNameContext { presented, .. } => match presented.is_empty() {
                true => Error::new("certificate names no host (subjectAltName)").hint("the registry needs another one"),
                false => {
                    let names: Vec<_> = presented.iter().map(|name| bare_name(name)).collect();
                    let names = crate::log::escape(&names.join(", ")).into_owned();
                    Error::new(format!("certificate is for another host name: {names}"))
                        .hint("name the registry as its certificate does")
                }
            },
            reason if is_authority(reason) => {
                Error::new("certificate is self-signed").hint("to trust it, name the certificate with --ca FILE")
            }
            other => Error::new(format!("certificate refused: {}", rustls::Error::InvalidCertificate(other.clone()))),
        },
        rustls::Error::AlertReceived(alert) => Error::new(format!("TLS refused by the server: {alert:?}")),
        rustls::Error::PeerIncompatible(why) => {
            Error::new(format!("server does not speak TLS 1.2 or 1.3 as we do: {why:?}"))
        }
        rustls::Error::InvalidMessage(_) => Error::new("server does not speak TLS")
            .hint("plain HTTP is used only for registries on this machine; ssh -L 5000:HOST:PORT forwards another one"),
        other => Error::new(format!("TLS: {other}")),
    }
}
