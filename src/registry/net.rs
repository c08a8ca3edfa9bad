//! How do bytes get there? Names to addresses, addresses tried in turn, proxies, TLS.
//!
//! Names are resolved on the calling thread: ureq's own resolver starts a thread, and a process with a second thread
//! cannot enter a user namespace. Time-outs are per step (connect, each read, each write), never for a whole transfer.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::Endpoint;
use super::proxy::{Kind, Proxies, Proxy};
use super::socket::{Plain, Socket, Trouble, Unreachable, lasting, passing, unreached, unresolved};
use super::url::{Origin, Scheme};
use super::{proxy_handshake, tls};
use crate::error::{Error, io_text};
use crate::log::{debug, trace};

/// Everything that is needed to reach a host.
pub struct Network {
    pub proxies: Proxies,
    pub verified: Arc<ClientConfig>,
    /// The one host whose certificate is not verified (`--tls-no-verify`), and the configuration for it.
    pub unverified: Option<(Endpoint, Arc<ClientConfig>)>,
    /// For one address; others of the same host get the same again.
    pub connect_timeout: Duration,
}

/// A connection and what has to be done to the requests on it.
pub struct Line {
    pub socket: Socket,
    pub absolute: Option<Absolute>,
}

/// Plain HTTP through a proxy: the request line names the origin (RFC 9112, section 3.2.2). ureq knows no such form,
/// so the first line is rewritten on its way; such a connection carries one request only, which keeps that simple.
pub struct Absolute {
    origin: String,
    login: Option<String>,
    done: bool,
}

impl Absolute {
    pub fn new(origin: &Origin, proxy: &Proxy) -> Absolute {
        Absolute { origin: origin.to_string(), login: proxy_handshake::authorization(proxy), done: false }
    }

    /// `output` begins with `METHOD /path HTTP/1.1\r\n`.
    pub fn rewrite(&mut self, output: &[u8]) -> Option<Vec<u8>> {
        if std::mem::replace(&mut self.done, true) {
            return None;
        }
        let space = output.iter().position(|&b| b == b' ')? + 1;
        let end = output.windows(2).position(|w| w == b"\r\n")? + 2;
        let mut text = output[..space].to_vec();
        text.extend(self.origin.as_bytes());
        text.extend(&output[space..end]);
        if let Some(login) = &self.login {
            text.extend(format!("Proxy-Authorization: {login}\r\n").bytes());
        }
        text.extend(&output[end..]);
        Some(text)
    }
}

impl Network {
    /// A connection over which requests to `origin` can be sent.
    pub fn open(&self, origin: &Origin) -> Result<Line, Unreachable> {
        let target = &origin.endpoint;
        let Some(proxy) = self.proxies.choose(origin) else {
            let socket = Socket::Plain(dial(target, self.connect_timeout)?);
            return Ok(Line { socket: self.secure(socket, origin)?, absolute: None });
        };
        debug!("{target}: through proxy {proxy}");
        let about = |u: Unreachable| Unreachable { error: u.error.context(format!("proxy {proxy}")), ..u };
        let mut socket = Socket::Plain(dial(&proxy.endpoint, self.connect_timeout).map_err(about)?);
        if proxy.kind == Kind::Https {
            let own = Origin::new(Scheme::Https, &proxy.endpoint);
            socket = self.secure(socket, &own).map_err(about)?;
        }
        match proxy.kind {
            Kind::Socks(names) => proxy_handshake::socks(&mut socket, proxy, target, names).map_err(about)?,
            Kind::Http | Kind::Https if origin.scheme == Scheme::Https => {
                proxy_handshake::connect(&mut socket, proxy, target).map_err(about)?
            }
            Kind::Http | Kind::Https => {
                return Ok(Line { socket, absolute: Some(Absolute::new(origin, proxy)) });
            }
        }
        Ok(Line { socket: self.secure(socket, origin)?, absolute: None })
    }

    /// TLS, if the origin wants it.
    fn secure(&self, socket: Socket, origin: &Origin) -> Result<Socket, Unreachable> {
        if origin.scheme == Scheme::Http {
            return Ok(socket);
        }
        let endpoint = &origin.endpoint;
        let about = |e: Error| e.context(format!("can't connect to {endpoint}"));
        let config = match &self.unverified {
            Some((host, config)) if host == endpoint => config,
            _ => &self.verified,
        };
        let name = match ServerName::try_from(endpoint.host.clone()) {
            Ok(name) => name,
            Err(_) => return Err(lasting(about(Error::new(format!("not a DNS name: {:?}", endpoint.host))))),
        };
        let session = ClientConnection::new(config.clone(), name).map_err(|e| lasting(about(tls::explain(&e))))?;
        let mut stream = StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            if let Err(e) = stream.conn.complete_io(&mut stream.sock) {
                return Err(handshake_failure(e, about));
            }
        }
        trace!("TLS to {endpoint}: {:?}", stream.conn.protocol_version());
        Ok(Socket::Tls(Box::new(stream)))
    }

    /// Whether a TLS handshake with `endpoint` gets so far that something there speaks TLS. Sends no secret.
    pub fn speaks_tls(&self, endpoint: &Endpoint) -> Result<bool, Unreachable> {
        match self.open(&Origin::new(Scheme::Https, endpoint)) {
            Ok(_) => Ok(true),
            Err(e) if e.kind == Trouble::NotTls => Ok(false),
            // A bad certificate is TLS, too; the real request says what is wrong with it.
            Err(e) if e.kind == Trouble::Lasting => Ok(true),
            Err(e) => Err(e),
        }
    }
}

fn handshake_failure(e: io::Error, about: impl Fn(Error) -> Error) -> Unreachable {
    if let Some(reason) = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        let kind = match reason {
            rustls::Error::InvalidMessage(_) => Trouble::NotTls,
            _ => Trouble::Lasting,
        };
        return Unreachable { error: about(tls::explain(reason)), kind };
    }
    match e.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            let error = Error::new("connection closed during the TLS handshake");
            Unreachable { error: about(error), kind: Trouble::NotTls }
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            passing(about(Error::new("no answer to the TLS handshake")))
        }
        _ => passing(about(Error::from(e))),
    }
}

/// The addresses of a host, families alternating (the resolver's first choice first), each tried in turn.
fn dial(endpoint: &Endpoint, timeout: Duration) -> Result<Plain, Unreachable> {
    let about = |e: Error| e.context(format!("can't connect to {endpoint}"));
    let addresses = match (endpoint.host.as_str(), endpoint.port).to_socket_addrs() {
        Ok(addresses) => alternate(addresses.collect()),
        Err(e) => return Err(unresolved(endpoint, &e)),
    };
    let mut last = Error::new("host name has no address");
    for address in &addresses {
        match TcpStream::connect_timeout(address, timeout) {
            Ok(stream) => {
                trace!("connected to {endpoint} at {address}");
                return Plain::new(stream, timeout).map_err(|e| passing(about(e.into())));
            }
            Err(e) => {
                debug!("{endpoint}: {address}: {}", io_text(&e));
                last = match e.kind() {
                    io::ErrorKind::ConnectionRefused => Error::new(io_text(&e))
                        .hint("connection refused: check the port, and whether the server is running"),
                    io::ErrorKind::TimedOut => Error::new(format!("no answer within {} s", timeout.as_secs())),
                    _ => Error::new(io_text(&e)),
                };
            }
        }
    }
    if addresses.len() > 1 {
        last = last.context(format!("{} addresses tried, the last one", addresses.len()));
    }
    Err(unreached(about(last)))
}

fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().copied() else { return addresses };
    let (like_first, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first.is_ipv6());
    let (mut a, mut b) = (like_first.into_iter(), others.into_iter());
    let mut mixed = Vec::new();
    loop {
        let before = mixed.len();
        mixed.extend(a.next());
        mixed.extend(b.next());
        if mixed.len() == before || mixed.len() >= 16 {
            return mixed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate() {
        let check = |all: &[&str], want: &[&str]| {
            let parse = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
            assert_eq!(alternate(parse(all)), parse(want));
        };
        let (a, b, c) = ("[::1]:1", "[::2]:1", "[::3]:1");
        check(&[], &[]);
        check(&[a, b, c, "1.1.1.1:1", "2.2.2.2:1"], &[a, "1.1.1.1:1", b, "2.2.2.2:1", c]);
        check(&["1.1.1.1:1", a, b], &["1.1.1.1:1", a, b]);
        let many: Vec<SocketAddr> = (0..99).map(|n| SocketAddr::from(([10, 0, 0, n], 1))).collect();
        assert!((16..=17).contains(&alternate(many).len()));
    }
}
