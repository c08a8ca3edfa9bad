//! Through whom is a host reached? The proxy variables in all their forms, as a table and a lookup.
//!
//! Which variable counts: `https_proxy` for TLS origins, `http_proxy` for plain ones, `all_proxy` where those are not
//! set; lower case wins, as in curl. Our own machine is never reached through a proxy, as in Go. Proxy passwords are
//! in this type and on the wire, nowhere else: `Debug` and `Display` do not show them.

use std::fmt;
use std::net::IpAddr;

use super::Endpoint;
use super::url::{self, Origin, Scheme};
use crate::error::{Error, Result, bail};

#[derive(Clone, Default, Debug)]
pub struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    direct: Vec<Exception>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub kind: Kind,
    pub endpoint: Endpoint,
    /// User and password.
    pub login: Option<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Plain HTTP to the proxy.
    Http,
    /// TLS to the proxy.
    Https,
    /// SOCKS 5; `Local` resolves names itself (`socks5:`), `Remote` lets the proxy do it (`socks5h:`).
    Socks(Names),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Names {
    Local,
    Remote,
}

/// One entry of `no_proxy`.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Exception {
    All,
    /// The domain itself and all below it.
    Domain(String, Option<u16>),
    Net(IpAddr, u8),
    Address(IpAddr, Option<u16>),
}

impl Proxies {
    /// `get` looks up a variable of the environment.
    pub fn from_vars(get: &dyn Fn(&str) -> Option<String>) -> Result<Proxies> {
        let first = |names: &[&'static str]| -> Result<Option<Proxy>> {
            for name in names {
                match get(name).filter(|v| !v.trim().is_empty()) {
                    Some(value) => {
                        return Proxy::parse(value.trim()).map(Some).map_err(|e| e.context(format!("${name}")));
                    }
                    None => continue,
                }
            }
            Ok(None)
        };
        let list = ["no_proxy", "NO_PROXY"].iter().find_map(|name| get(name).filter(|v| !v.trim().is_empty()));
        let list = list.unwrap_or_default();
        Ok(Proxies {
            https: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?,
            http: first(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])?,
            direct: list.split([',', ' ']).filter_map(Exception::parse).collect(),
        })
    }

    /// The proxies in use, without names and passwords: `https by way of proxy.example.com:3128`.
    pub fn describe(&self) -> Vec<String> {
        let of = |scheme: &str, proxy: &Option<Proxy>| {
            proxy.as_ref().map(|proxy| format!("{scheme} by way of {}", proxy.endpoint))
        };
        of("https", &self.https).into_iter().chain(of("http", &self.http)).collect()
    }

    /// `None`: go there directly.
    pub fn choose(&self, origin: &Origin) -> Option<&Proxy> {
        let proxy = match origin.scheme {
            Scheme::Https => self.https.as_ref(),
            Scheme::Http => self.http.as_ref(),
        }?;
        let direct = origin.endpoint.is_loopback() || self.direct.iter().any(|e| e.covers(&origin.endpoint));
        (!direct).then_some(proxy)
    }
}

impl Proxy {
    /// `[SCHEME://][USER[:PASSWORD]@]HOST[:PORT][/]`. Errors do not repeat the text: it may hold a password.
    fn parse(text: &str) -> Result<Proxy> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let (kind, port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Kind::Http, 80),
            "https" => (Kind::Https, 443),
            "socks5" => (Kind::Socks(Names::Local), 1080),
            "socks5h" | "socks" => (Kind::Socks(Names::Remote), 1080),
            other => {
                return Err(Error::new(format!("unknown kind of proxy: {other:?}"))
                    .hint("supported: http://, https://, socks5:// and socks5h://"));
            }
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or("");
        let (login, host) = match rest.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, rest),
        };
        let endpoint = url::parse_host_port(host, port)?;
        let login = match login {
            None => None,
            Some(login) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                Some((decode(user)?, decode(password)?))
            }
        };
        Ok(Proxy { kind, endpoint, login })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.endpoint)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Proxy({:?} {})", self.kind, self.endpoint)
    }
}

fn decode(text: &str) -> Result<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| (b as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            bail!("invalid percent-encoding in user or password");
        };
        out.push((high * 16 + low) as u8);
    }
    match String::from_utf8(out) {
        Ok(text) if !text.contains(['\r', '\n', '\0']) => Ok(text),
        _ => bail!("invalid character in user or password"),
    }
}

impl Exception {
    fn parse(text: &str) -> Option<Exception> {
        let text = text.trim().to_ascii_lowercase();
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Exception::All);
        }
        if let Some((net, bits)) = text.split_once('/')
            && let (Ok(net), Ok(bits)) = (bare(net).parse::<IpAddr>(), bits.parse())
        {
            return Some(Exception::Net(net, bits));
        }
        if let Ok(address) = bare(&text).parse() {
            return Some(Exception::Address(address, None));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (text.as_str(), None),
        };
        if let Ok(address) = bare(name).parse() {
            return Some(Exception::Address(address, port));
        }
        let name = name.strip_prefix('*').unwrap_or(name);
        let name = name.trim_start_matches('.').trim_end_matches('.');
        (!name.is_empty()).then(|| Exception::Domain(name.to_owned(), port))
    }

    fn covers(&self, endpoint: &Endpoint) -> bool {
        let host = endpoint.host.trim_end_matches('.');
        let port_fits = |port: &Option<u16>| port.is_none_or(|p| p == endpoint.port);
        match self {
            Exception::All => true,
            Exception::Domain(name, port) => {
                let below = || host.strip_suffix(name.as_str()).is_some_and(|front| front.ends_with('.'));
                port_fits(port) && (host == name || below())
            }
            Exception::Address(address, port) => port_fits(port) && host.parse() == Ok(*address),
            Exception::Net(net, bits) => host.parse().is_ok_and(|address| in_net(address, *net, *bits)),
        }
    }
}

/// `[::1]` as `::1`.
fn bare(text: &str) -> &str {
    text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text)
}

fn in_net(address: IpAddr, net: IpAddr, bits: u8) -> bool {
    let (a, b, width) = match (address, net) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(u32::from(a)), u128::from(u32::from(b)), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), 128),
        _ => return false,
    };
    match u32::from(bits) {
        bits if bits > width => false,
        0 => true,
        bits => a >> (width - bits) == b >> (width - bits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(vars: &[(&str, &str)]) -> Proxies {
        let get = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Proxies::from_vars(&get).unwrap()
    }

    fn chosen(proxies: &Proxies, url: &str) -> Option<String> {
        let url = crate::registry::url::Url::parse(url).unwrap();
        proxies.choose(url.origin()).map(|p| format!("{:?}", p))
    }

    #[test]
    fn per_scheme() {
        let check = |vars: &[(&str, &str)], url: &str, want: Option<&str>| {
            assert_eq!(chosen(&proxies(vars), url).as_deref(), want, "{vars:?} {url}")
        };
        check(&[], "https://h/", None);
        check(&[("HTTPS_PROXY", "http://p:3128")], "https://h/", Some("Proxy(Http p:3128)"));
        check(&[("HTTPS_PROXY", "http://p:3128")], "http://h/", None);
        check(&[("http_proxy", "p:8080")], "http://h/", Some("Proxy(Http p:8080)"));
        check(&[("http_proxy", "p:8080")], "https://h/", None);
        check(&[("https_proxy", "a"), ("HTTPS_PROXY", "b")], "https://h/", Some("Proxy(Http a:80)"));
        check(&[("https_proxy", ""), ("HTTPS_PROXY", "b")], "https://h/", Some("Proxy(Http b:80)"));
        check(&[("ALL_PROXY", "socks5h://p")], "https://h/", Some("Proxy(Socks(Remote) p:1080)"));
        check(&[("ALL_PROXY", "https://p"), ("http_proxy", "q")], "http://h/", Some("Proxy(Http q:80)"));
        check(&[("ALL_PROXY", "https://p")], "https://h/", Some("Proxy(Https p:443)"));
        check(&[("ALL_PROXY", "http://p")], "http://localhost:5000/", None);
        check(&[("ALL_PROXY", "http://p")], "http://127.0.0.1:5000/", None);
        check(&[("HTTPS_PROXY", "http://[fd00::1]:3128/")], "https://h/", Some("Proxy(Http [fd00::1]:3128)"));
    }

    #[test]
    fn passwords_are_decoded_and_never_shown() {
        let all = proxies(&[("HTTPS_PROXY", "http://us%40er:s%3Acret@p:1/")]);
        let proxy = all.https.as_ref().unwrap();
        assert_eq!(proxy.login, Some(("us@er".into(), "s:cret".into())));
        assert!(!format!("{all:?} {proxy}").contains("cret"));
        for bad in ["http://u:sec%0dret@p", "gopher://u:secret@p", "http://u:secret@p:x", "http://u:sec%zzret@p"] {
            let get = |name: &str| (name == "ALL_PROXY").then(|| bad.to_owned());
            let message = Proxies::from_vars(&get).unwrap_err().to_string();
            assert!(message.starts_with("$ALL_PROXY: ") && !message.contains("sec"), "{message}");
        }
    }

    #[test]
    fn exceptions() {
        let check = |list: &str, url: &str, direct: bool| {
            let all = proxies(&[("ALL_PROXY", "http://p"), ("NO_PROXY", list)]);
            assert_eq!(chosen(&all, url).is_none(), direct, "{list:?} {url}");
        };
        check("*", "https://h/", true);
        check("example.org", "https://example.org/", true);
        check("example.org", "https://a.example.org/", true);
        check("example.org", "https://badexample.org/", false);
        check(".example.org", "https://a.example.org/", true);
        check(".example.org", "https://example.org/", true);
        check("*.example.org", "https://a.example.org/", true);
        check("EXAMPLE.org", "https://a.Example.Org/", true);
        check("h:5000", "https://h:5000/", true);
        check("h:5000", "https://h/", false);
        check("a, h", "https://h/", true);
        check("a h", "https://h/", true);
        check("10.0.0.0/8", "https://10.1.2.3/", true);
        check("10.0.0.0/8", "https://11.1.2.3/", false);
        check("10.0.0.0/8", "https://h10.example/", false);
        check("0.0.0.0/0", "https://1.2.3.4/", true);
        check("10.0.0.0/33", "https://10.0.0.0/", false);
        check("192.168.1.1", "https://192.168.1.1:5000/", true);
        check("192.168.1.1:443", "https://192.168.1.1:5000/", false);
        check("fd00::/8", "https://[fd12::1]/", true);
        check("[fd00::1]:443", "https://[fd00::1]/", true);
        check("fd00::1", "https://[fd00::1]/", true);
        check("", "https://h/", false);
        check(",,", "https://h/", false);
        let all = proxies(&[("ALL_PROXY", "http://p"), ("no_proxy", ""), ("NO_PROXY", "h")]);
        assert_eq!(chosen(&all, "https://h/"), None);
    }
}
