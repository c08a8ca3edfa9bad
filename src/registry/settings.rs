//! What the environment says about networks and passwords: read in one place, handed on as plain values.

use std::path::PathBuf;

use super::proxy::Proxies;
use super::tls::Trust;
use crate::error::Result;

#[derive(Clone, Default, Debug)]
pub struct Settings {
    pub proxies: Proxies,
    pub trust: Trust,
    /// Where names and passwords may be kept, in the order in which to look.
    pub credential_files: Vec<PathBuf>,
    /// The table of mirrors that was named; else the site's counts ([`super::mirrors::Mirrors::load`]).
    pub mirrors: Option<PathBuf>,
}

impl Settings {
    /// `get` looks up a variable; the caller passes the process environment or, in tests, a table.
    pub fn from_vars(get: &dyn Fn(&str) -> Option<String>) -> Result<Settings> {
        let path = |name: &str| get(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let dirs = get("SSL_CERT_DIR").unwrap_or_default();
        let dirs = dirs.split(':').filter(|d| !d.is_empty()).map(PathBuf::from).collect();
        let home = path("HOME");
        let in_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
        let docker = path("DOCKER_CONFIG").or_else(|| in_home(".docker"));
        let credential_files = [
            path("REGISTRY_AUTH_FILE"),
            path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
            path("XDG_CONFIG_HOME").or_else(|| in_home(".config")).map(|dir| dir.join("containers/auth.json")),
            docker.map(|dir| dir.join("config.json")),
        ];
        Ok(Settings {
            proxies: Proxies::from_vars(get)?,
            trust: Trust { extra: None, file: path("SSL_CERT_FILE"), dirs },
            credential_files: credential_files.into_iter().flatten().collect(),
            mirrors: path("CH_IMAGE_MIRRORS"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let settings = |vars: &[(&str, &str)]| {
            let get = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            Settings::from_vars(&get).unwrap()
        };
        let files = |vars: &[(&str, &str)]| {
            let files = settings(vars).credential_files;
            files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(files(&[]), Vec::<String>::new());
        assert_eq!(files(&[("HOME", "/h")]), ["/h/.config/containers/auth.json", "/h/.docker/config.json"]);
        assert_eq!(
            files(&[("REGISTRY_AUTH_FILE", "/a"), ("XDG_RUNTIME_DIR", "/r"), ("DOCKER_CONFIG", "/d")]),
            ["/a", "/r/containers/auth.json", "/d/config.json"]
        );
        let trust = settings(&[("SSL_CERT_FILE", ""), ("SSL_CERT_DIR", "/a::/b")]).trust;
        assert_eq!((trust.file, trust.dirs), (None, vec![PathBuf::from("/a"), PathBuf::from("/b")]));
        assert_eq!(settings(&[("CH_IMAGE_MIRRORS", "")]).mirrors, None);
        assert_eq!(settings(&[("CH_IMAGE_MIRRORS", "/m")]).mirrors, Some(PathBuf::from("/m")));
    }
}
