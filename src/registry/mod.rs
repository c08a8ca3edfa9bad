//! How do I talk to a server? Hands out readers and documents; writes no files, prints no progress.
//!
//! Layers, each of which knows only the one below: [`client`] (operations of the registry protocol), [`auth`] (who are
//! we), [`http`] (one exchange under our limits), [`net`] (addresses, proxies, TLS). What comes from the environment
//! and from configuration files comes through [`settings`], so that tests need neither.
//!
//! Deliberately absent: async (a few threads suffice), HTTP/2, the catalogue, deletion, foreign layer `urls`
//! (fetching what a manifest names is how CVE-2020-15157 leaked credentials).

use std::fmt;

pub mod auth;
pub mod blob;
pub mod challenge;
pub mod client;
pub mod credential_sources;
pub mod credentials;
pub mod download;
pub mod http;
pub mod mirrors;
pub mod net;
pub mod proxy;
pub mod proxy_handshake;
pub mod retry;
pub mod settings;
pub mod socket;
pub mod tls;
pub mod token_server;
pub mod upload;
pub mod ureq_transport;
pub mod url;

pub use client::{Accept, Client, Fetched, Options};

/// A registry: host name or address, and port. `Display` is `host:port`, IPv6 addresses in brackets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Endpoint {
    /// Without brackets.
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    pub fn new(host: &str, port: u16) -> Endpoint {
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        Endpoint { host: host.to_ascii_lowercase(), port }
    }

    /// Whether this is Docker Hub, which has several names.
    pub fn is_docker_hub(&self) -> bool {
        self.port == 443 && matches!(self.host.as_str(), "docker.io" | "index.docker.io" | "registry-1.docker.io")
    }

    /// Whether both are the same registry, by whatever name.
    pub fn is_same_registry(&self, other: &Endpoint) -> bool {
        self == other || self.is_docker_hub() && other.is_docker_hub()
    }

    /// Whether this is our own machine: the only place where plain HTTP is spoken.
    pub fn is_loopback(&self) -> bool {
        url::is_loopback(&self.host)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
#[path = "../../tests/it/harness/registry.rs"]
mod scripted;
#[cfg(test)]
mod tests;
