//! A site's certificates in RUN: where the network is inspected, nothing in it can be downloaded without them.
//!
//! What the user names for us (`--ca`, `$SSL_CERT_FILE`) is added to the public authorities that the image has, or the
//! host's where the image has none. RUN finds all of them in one file that is no part of the image, by the variables that
//! most programs heed, and in the image's own bundles for those that heed none (apt, wget). They are no input of the step:
//! its result shall not depend on the site.
//!
//! Nothing is mounted over the image's bundles: packages of certificates rename new ones over them, which a mount forbids
//! (EBUSY). For the command they are longer than in the image ([`Amended`]); what it makes of them is the image's.
//! Deliberately absent: a bundle where the image has none, since the result of a command could depend on that.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::error::{Context, Result};
use crate::rootfs::{Amended, Root, Stack};

/// Where RUN finds them.
pub const PLACE: &str = "/ch/ca-certificates.crt";
const VARIABLES: [&str; 6] =
    ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS"];
/// Where distributions keep theirs: Debian, Alpine and Arch, Red Hat, SUSE, others.
const BUNDLES: [&str; 6] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "var/lib/ca-certificates/ca-bundle.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
];
/// Largest bundle, bytes.
const MOST: u64 = 16 << 20;
/// What precedes the site's certificates in a bundle, so that they are told from those of the image.
const HEAD: &str = "\n# Of the site where the image is built, for RUN only: not part of the image.\n";

/// What the user named; `None` without any.
pub fn of_site(file: Option<&Path>, variable: Option<OsString>) -> Result<Option<Vec<u8>>> {
    // We can do without it until a registry is asked.
    let mut all = variable.filter(|file| !file.is_empty()).and_then(|file| fs::read(file).ok()).unwrap_or_default();
    if let Some(file) = file {
        append(&mut all, &fs::read(file).context(|| format!("can't read {} (--ca)", file.display()))?);
    }
    Ok(Some(all).filter(|all| !all.is_empty()))
}

/// The bundles that an image has, with the site's certificates for the time of a command.
pub fn amend(site: &[u8], tree: &Stack) -> Amended {
    Amended::new(tree, &BUNDLES, addition(site))
}

/// All that RUN shall trust in this tree, whose bundles may be amended.
pub fn bundle(site: &[u8], tree: &Root, host: &Root) -> Vec<u8> {
    let find = |root: &Root| BUNDLES.iter().find_map(|path| root.read(Path::new(path), MOST).ok().flatten());
    let mut all = find(tree).or_else(|| find(host)).unwrap_or_default();
    let addition = addition(site);
    if !all.ends_with(&addition) {
        all.extend_from_slice(&addition);
    }
    all
}

fn addition(site: &[u8]) -> Vec<u8> {
    let mut text = HEAD.as_bytes().to_vec();
    append(&mut text, site);
    append(&mut text, b"");
    text
}

/// Variables that a Dockerfile's own take precedence of.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    VARIABLES.iter().map(|name| (name.to_string(), PLACE.to_owned()))
}

fn append(all: &mut Vec<u8>, more: &[u8]) {
    if all.last().is_some_and(|&byte| byte != b'\n') {
        all.push(b'\n');
    }
    all.extend_from_slice(more);
}
