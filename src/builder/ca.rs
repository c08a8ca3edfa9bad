//! A site's certificates in RUN: where the network is inspected, nothing in it can be downloaded without them.
//!
//! What the user names for us (`--ca`, `$SSL_CERT_FILE`) is added to the public authorities that the image has, or the
//! host's where the image has none. RUN finds all of them in one file that is no part of the image, by the variables that
//! most programs heed. They are no input of the step: its result shall not depend on the site.
//!
//! Deliberately absent: a mount over the distribution's own bundle. Packages of certificates rename a new one over it,
//! which a mount forbids (EBUSY), and so could not be installed.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::error::{Context, Result};
use crate::rootfs::Root;

/// Where RUN finds them.
pub const PLACE: &str = "/ch/ca-certificates.crt";
const VARIABLES: [&str; 6] =
    ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS"];
/// Where distributions keep theirs: Debian and Alpine, Red Hat, SUSE, others.
const BUNDLES: [&str; 5] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "var/lib/ca-certificates/ca-bundle.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
];
/// Largest bundle, bytes.
const MOST: u64 = 16 << 20;

/// What the user named; `None` without any.
pub fn of_site(file: Option<&Path>, variable: Option<OsString>) -> Result<Option<Vec<u8>>> {
    // We can do without it until a registry is asked.
    let mut all = variable.filter(|file| !file.is_empty()).and_then(|file| fs::read(file).ok()).unwrap_or_default();
    if let Some(file) = file {
        append(&mut all, &fs::read(file).context(|| format!("can't read {} (--ca)", file.display()))?);
    }
    Ok(Some(all).filter(|all| !all.is_empty()))
}

/// All that RUN shall trust in this tree.
pub fn bundle(site: &[u8], tree: &Root, host: &Root) -> Vec<u8> {
    let find = |root: &Root| BUNDLES.iter().find_map(|path| root.read(Path::new(path), MOST).ok().flatten());
    let mut all = find(tree).or_else(|| find(host)).unwrap_or_default();
    append(&mut all, site);
    all
}

/// Variables that a Dockerfile's own take precedence of.
pub fn variables() -> impl Iterator<Item = (String, OsString)> {
    VARIABLES.iter().map(|name| (name.to_string(), PLACE.into()))
}

fn append(all: &mut Vec<u8>, more: &[u8]) {
    if all.last().is_some_and(|&byte| byte != b'\n') {
        all.push(b'\n');
    }
    all.extend_from_slice(more);
}
