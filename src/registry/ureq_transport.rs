//! What ureq reads and writes: our connections in the form that it wants.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

use super::Endpoint;
use super::net::{Line, Network};
use super::socket::Socket;
use super::url::{Origin, Scheme};

/// What ureq reads and writes.
struct Wire {
    line: Line,
    buffers: LazyBuffers,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Wire")
    }
}

fn timed_out(e: io::Error, timeout: &NextTimeout) -> ureq::Error {
    match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ureq::Error::Timeout(timeout.reason),
        _ => ureq::Error::Io(e),
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write();
        self.line.socket.plain_mut().write_limit = timeout.not_zero().map(|d| *d);
        let output = &self.buffers.output()[..amount];
        let rewritten = self.line.absolute.as_mut().and_then(|a| a.rewrite(output));
        let output = rewritten.as_deref().unwrap_or(output);
        let socket = &mut self.line.socket;
        socket.write_all(output).and_then(|()| socket.flush()).map_err(|e| timed_out(e, &timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = timeout.for_read();
        self.line.socket.plain_mut().read_limit = timeout.not_zero().map(|d| *d);
        let read = self.line.socket.read(self.buffers.input_append_buf());
        let n = read.map_err(|e| timed_out(e, &timeout))?;
        self.buffers.input_appended(n);
        Ok(n > 0)
    }

    /// Whether another request may be sent: nothing unread, and the peer has not closed.
    fn is_open(&mut self) -> bool {
        let plain = self.line.socket.plain();
        if self.line.absolute.is_some() || plain.has_more() {
            return false;
        }
        let tcp = &plain.tcp;
        let quiet = tcp.set_nonblocking(true).is_ok()
            && matches!(tcp.peek(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
        tcp.set_nonblocking(false).is_ok() && quiet
    }

    fn is_tls(&self) -> bool {
        matches!(self.line.socket, Socket::Tls(_))
    }
}

/// Our network as ureq's connector.
pub struct Dialer(pub Arc<Network>);

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Dialer")
    }
}

impl Connector for Dialer {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        let scheme = if details.needs_tls() { Scheme::Https } else { Scheme::Http };
        let bad = || ureq::Error::BadUri("no host or port".into());
        let host = details.uri.host().ok_or_else(bad)?;
        // Our URLs always name the port.
        let port = details.uri.port_u16().ok_or_else(bad)?;
        let origin = Origin::new(scheme, &Endpoint::new(host, port));
        let line = self.0.open(&origin).map_err(|e| ureq::Error::Other(Box::new(e)))?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Box::new(Wire { line, buffers })))
    }
}

/// Resolves nothing: [`Dialer`] does it, once it knows whether a proxy is to be asked instead.
#[derive(Debug)]
pub struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        _uri: &ureq::http::Uri,
        _config: &ureq::config::Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}
