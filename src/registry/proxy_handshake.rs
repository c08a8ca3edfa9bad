//! How does a proxy pass us on? HTTP CONNECT and SOCKS 5, spoken over a connection to the proxy.

use std::io::{self, Read, Write};
use std::net::{IpAddr, ToSocketAddrs};

use super::Endpoint;
use super::proxy::{Names, Proxy};
use super::socket::{Socket, Unreachable, lasting, passing, unresolved};
use crate::error::Error;
use crate::oci::base64;

/// Longest answer of a proxy to CONNECT, bytes.
const MAX_CONNECT_REPLY: usize = 16 << 10;

/// HTTP CONNECT (RFC 9110, section 9.3.6).
pub fn connect(socket: &mut Socket, proxy: &Proxy, target: &Endpoint) -> Result<(), Unreachable> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(value) = authorization(proxy) {
        request.push_str(&format!("Proxy-Authorization: {value}\r\n"));
    }
    request.push_str("\r\n");
    let failed = |e: io::Error| passing(Error::from(e));
    socket.write_all(request.as_bytes()).and_then(|()| socket.flush()).map_err(failed)?;
    let mut reply = Vec::new();
    // Byte by byte: what follows the blank line belongs to the tunnel. `Plain` reads ahead, so this is cheap.
    while !reply.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        let n = socket.read(&mut byte).map_err(failed)?;
        if n == 0 || reply.len() >= MAX_CONNECT_REPLY {
            return Err(passing(Error::new("invalid answer to CONNECT")));
        }
        reply.push(byte[0]);
    }
    let line = String::from_utf8_lossy(reply.split(|&b| b == b'\r').next().unwrap_or(&[])).into_owned();
    let status = line.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok());
    let Some(status) = status.filter(|_| line.starts_with("HTTP/1.")) else {
        return Err(lasting(Error::new("not an HTTP proxy (invalid answer to CONNECT)")));
    };
    let says = crate::log::escape(&line).into_owned();
    match status {
        200..=299 => Ok(()),
        407 => Err(lasting(
            Error::new(format!("proxy wants a user name and password: {says}"))
                .hint("put them into the proxy variable: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"),
        )),
        // The proxy could not reach the host just now, or is overloaded.
        502..=504 | 429 => Err(passing(Error::new(format!("no tunnel to {target}: {says}")))),
        _ => Err(lasting(Error::new(format!("no tunnel to {target}: {says}")))),
    }
}

pub fn authorization(proxy: &Proxy) -> Option<String> {
    let (user, password) = proxy.login.as_ref()?;
    Some(format!("Basic {}", base64::encode(format!("{user}:{password}").as_bytes())))
}

/// SOCKS 5 with and without user and password (RFC 1928, RFC 1929).
pub fn socks(socket: &mut Socket, proxy: &Proxy, target: &Endpoint, names: Names) -> Result<(), Unreachable> {
    let failed = |e: io::Error| passing(Error::from(e).context("SOCKS"));
    let odd = || lasting(Error::new("not a SOCKS 5 proxy (invalid answer)"));
    let methods: &[u8] = if proxy.login.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
    socket.write_all(methods).map_err(failed)?;
    let mut reply = [0; 2];
    socket.read_exact(&mut reply).map_err(failed)?;
    match (reply, &proxy.login) {
        ([5, 0], _) => {}
        ([5, 2], Some((user, password))) => {
            let (Ok(user_len), Ok(password_len)) = (u8::try_from(user.len()), u8::try_from(password.len())) else {
                return Err(lasting(Error::new("SOCKS user or password longer than 255 bytes")));
            };
            let message = [&[1, user_len], user.as_bytes(), &[password_len], password.as_bytes()].concat();
            socket.write_all(&message).map_err(failed)?;
            socket.read_exact(&mut reply).map_err(failed)?;
            if reply[1] != 0 {
                return Err(lasting(Error::new("proxy refused the user name and password")));
            }
        }
        ([5, _], _) => return Err(lasting(Error::new("proxy wants a user name and password"))),
        _ => return Err(odd()),
    }
    let mut address: Option<IpAddr> = target.host.parse().ok();
    if address.is_none() && names == Names::Local {
        let found = (target.host.as_str(), target.port).to_socket_addrs();
        address = found.map_err(|e| unresolved(target, &e))?.next().map(|a| a.ip());
    }
    let mut request = vec![5, 1, 0];
    match address {
        Some(IpAddr::V4(v4)) => request.extend([&[1], &v4.octets()[..]].concat()),
        Some(IpAddr::V6(v6)) => request.extend([&[4], &v6.octets()[..]].concat()),
        None => request.extend([&[3, target.host.len() as u8], target.host.as_bytes()].concat()),
    }
    request.extend(target.port.to_be_bytes());
    socket.write_all(&request).map_err(failed)?;
    let mut head = [0; 4];
    socket.read_exact(&mut head).map_err(failed)?;
    let [5, status, _, kind] = head else { return Err(odd()) };
    if status != 0 {
        let why = match status {
            2 => "not allowed by its rules",
            3 => "network unreachable",
            4 => "host unreachable",
            5 => "connection refused",
            _ => "general failure",
        };
        return Err(passing(Error::new(format!("no connection to {target}: {why}"))));
    }
    let rest = match kind {
        1 => 4,
        4 => 16,
        3 => {
            let mut length = [0];
            socket.read_exact(&mut length).map_err(failed)?;
            usize::from(length[0])
        }
        _ => return Err(odd()),
    };
    let mut bound = [0; 257];
    socket.read_exact(&mut bound[..rest + 2]).map_err(failed)
}
