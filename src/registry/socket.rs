//! A connection: plain TCP or TLS, whose waiting ends when the program is asked to stop; and why there is none.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use super::Endpoint;
use crate::error::{Error, io_text};
use crate::sys::signal::{self, LOOK};

/// Read ahead of TLS, so that a record takes one system call instead of five.
const READ_AHEAD: usize = 64 << 10;

/// Why there is no connection.
#[derive(Debug)]
pub struct Unreachable {
    pub error: Error,
    pub kind: Trouble,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Trying again may help.
    Passing,
    /// The same, and nobody was found: no address, or none where anybody listens.
    Unreached,
    /// It will not.
    Lasting,
    /// Something answers, but it does not speak TLS.
    NotTls,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for Unreachable {}

pub fn passing(error: Error) -> Unreachable {
    Unreachable { error, kind: Trouble::Passing }
}

pub fn unreached(error: Error) -> Unreachable {
    Unreachable { error, kind: Trouble::Unreached }
}

pub fn lasting(error: Error) -> Unreachable {
    Unreachable { error, kind: Trouble::Lasting }
}

pub fn unresolved(endpoint: &Endpoint, e: &io::Error) -> Unreachable {
    let text = io_text(e);
    let cause = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    let error = Error::new(cause).context(format!("can't find host {:?}", endpoint.host));
    // getaddrinfo(3) EAI_AGAIN, as glibc and musl word it.
    let again = cause.contains("Temporary failure") || cause.contains("Try again");
    let error =
        error.hint("check the name, and whether this machine reaches the internet directly (if not, set HTTPS_PROXY)");
    if again { unreached(error) } else { lasting(error) }
}

/// A TCP connection that reads ahead, and whose waiting ends when the program is asked to stop.
pub struct Plain {
    pub tcp: TcpStream,
    /// How long to wait for the other side; while a connection is being made, ureq's time-outs do not apply yet.
    pub read_limit: Option<Duration>,
    pub write_limit: Option<Duration>,
    ahead: Vec<u8>,
    /// Unread part of `ahead`.
    from: usize,
    to: usize,
}

impl Plain {
    pub fn new(tcp: TcpStream, limit: Duration) -> io::Result<Plain> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(LOOK))?;
        tcp.set_write_timeout(Some(LOOK))?;
        Ok(Plain { tcp, read_limit: Some(limit), write_limit: Some(limit), ahead: Vec::new(), from: 0, to: 0 })
    }

    /// Whether something was read ahead that nobody has asked for yet.
    pub fn has_more(&self) -> bool {
        self.from != self.to
    }
}

/// Repeats a call that waits at most [`LOOK`] until it has done something, or the limit is reached.
fn patiently(limit: Option<Duration>, mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    let mut waited = Duration::ZERO;
    loop {
        match call() {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                waited += LOOK;
                if limit.is_some_and(|limit| waited >= limit) {
                    return Err(e);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
        signal::check()?;
    }
}

impl Read for Plain {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.from == self.to {
            if buf.len() >= READ_AHEAD {
                return patiently(self.read_limit, || self.tcp.read(buf));
            }
            self.ahead.resize(READ_AHEAD, 0);
            (self.from, self.to) = (0, patiently(self.read_limit, || self.tcp.read(&mut self.ahead))?);
        }
        let n = buf.len().min(self.to - self.from);
        buf[..n].copy_from_slice(&self.ahead[self.from..self.from + n]);
        self.from += n;
        Ok(n)
    }
}

pub enum Socket {
    Plain(Plain),
    /// Recursive, because a proxy may be spoken to over TLS.
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Socket {
    pub fn plain(&self) -> &Plain {
        match self {
            Socket::Plain(plain) => plain,
            Socket::Tls(stream) => stream.sock.plain(),
        }
    }

    pub fn plain_mut(&mut self) -> &mut Plain {
        match self {
            Socket::Plain(plain) => plain,
            Socket::Tls(stream) => stream.sock.plain_mut(),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(plain) => plain.read(buf),
            Socket::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(plain) => patiently(plain.write_limit, || plain.tcp.write(buf)),
            Socket::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Socket::Plain(plain) => plain.tcp.flush(),
            Socket::Tls(stream) => stream.flush(),
        }
    }
}
