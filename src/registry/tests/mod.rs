//! Bad servers and networks (rows M, H and R of tests/README.md), against the scripted registry.

mod certificates;
mod framing;
mod manifests;
mod proxies;
mod secrets;
mod servers;
mod transfer;
mod upload;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::auth::First;
use super::client::{Client, Options};
use super::credentials::{Credentials, Login};
use super::http::Timeouts;
use super::retry::Policy;
use super::scripted::{Registry, Server};
use super::url;
use super::{Accept, Endpoint};
use crate::error::Result;
use crate::oci::digest::Digest;
use crate::oci::manifest::Descriptor;

/// Pauses of milliseconds, so that giving up is quick. A server of these tests that does answer is waited for, however
/// busy the machine is.
fn hasty() -> Options {
    Options {
        policy: Policy {
            retries: 2,
            base: Duration::from_millis(5),
            ceiling: Duration::from_millis(20),
            server_ceiling: PATIENCE,
        },
        timeouts: Timeouts { connect: PATIENCE, stall: PATIENCE, answer: PATIENCE, commit: PATIENCE },
        ..Options::default()
    }
}

/// Where nobody listens, and nobody will who takes a free port.
const NOBODY: &str = "127.0.0.1:1";

const PATIENCE: Duration = Duration::from_secs(60);

fn endpoint(name: &str) -> Endpoint {
    url::parse_host_port(name, 443).unwrap()
}

fn client(server: &Server) -> Client {
    client_with(server, hasty(), Arc::new(Anonymous))
}

fn client_with(server: &Server, options: Options, credentials: Arc<dyn Credentials>) -> Client {
    Client::new(&endpoint(&server.name()), options, credentials).unwrap()
}

fn login(server: &Server) -> Arc<dyn Credentials> {
    Arc::new(Table::default().with(&endpoint(&server.name()), user()))
}

fn user() -> Login {
    Login::Password { user: "user".into(), password: "pass".into() }
}

/// Knows nothing.
struct Anonymous;

impl Credentials for Anonymous {
    fn known(&self, _endpoint: &Endpoint) -> Result<Option<Login>> {
        Ok(None)
    }

    fn refused(&self, _endpoint: &Endpoint) {}

    fn advice(&self, _endpoint: &Endpoint) -> String {
        "log in: set CH_IMAGE_USERNAME and CH_IMAGE_PASSWORD".to_owned()
    }
}

/// A fixed table.
#[derive(Default)]
struct Table {
    logins: Mutex<HashMap<Endpoint, Login>>,
}

impl Table {
    fn with(self, endpoint: &Endpoint, login: Login) -> Table {
        self.logins.lock().unwrap_or_else(|e| e.into_inner()).insert(endpoint.clone(), login);
        self
    }
}

impl Credentials for Table {
    fn known(&self, endpoint: &Endpoint) -> Result<Option<Login>> {
        Ok(self.logins.lock().unwrap_or_else(|e| e.into_inner()).get(endpoint).cloned())
    }

    fn refused(&self, endpoint: &Endpoint) {
        self.logins.lock().unwrap_or_else(|e| e.into_inner()).remove(endpoint);
    }

    fn advice(&self, _endpoint: &Endpoint) -> String {
        "log in: set CH_IMAGE_USERNAME and CH_IMAGE_PASSWORD".to_owned()
    }
}

/// `user:pass`
const LOGIN: &str = "dXNlcjpwYXNz";

fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor { media_type: String::new(), digest: Digest::of(bytes), size: bytes.len() as u64 }
}

/// Bytes that differ from place to place.
fn noise(n: usize) -> Vec<u8> {
    let mut x = 1u32;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    (0..n).map(|_| next()).collect()
}
