//! One exchange: a request, an answer, our limits. No redirect is followed and no secret is added here.
//!
//! An answer of any status is a value. What fails is sorted into what may pass and what will not, because that is
//! the only question the layers above ask.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ureq::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use ureq::http::{HeaderMap, Request as HttpRequest};
use ureq::{Agent, BodyReader, SendBody, Timeout};

use super::net::Network;
use super::retry;
use super::socket::{Trouble, Unreachable};
use super::ureq_transport::{Dialer, NoResolver};
use super::url::Url;
use crate::error::{Error, Result, io_text};
use crate::log;
use crate::log::{debug, trace};
use crate::oci::json;
use crate::sys::secret::Secret;

/// Largest block of headers, bytes.
const MAX_HEADERS: usize = 64 << 10;
/// How much of an error's text is read, and how much of it is shown.
const MAX_ERROR_READ: u64 = 64 << 10;
const MAX_ERROR_SHOWN: usize = 4 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
        }
    }
}

/// The value of an `Authorization` header. Does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(Secret);

impl Authorization {
    pub fn basic(user: &str, password: &str) -> Authorization {
        let both = Secret::from(format!("{user}:{password}"));
        let encoded = Secret::from(crate::oci::base64::encode(both.as_bytes()));
        Authorization(Secret::from(format!("Basic {}", &*encoded)))
    }

    pub fn is_bearer(&self) -> bool {
        self.0.starts_with("Bearer ")
    }

    /// Fails on what could end a header line.
    pub fn bearer(token: &str) -> Result<Authorization> {
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::new("token is empty or has characters that no token may have"));
        }
        Ok(Authorization(Secret::from(format!("Bearer {token}"))))
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let scheme = self.0.split(' ').next().unwrap_or("");
        write!(f, "{scheme} REDACTED")
    }
}

/// What is sent along.
pub enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    /// Exactly so many bytes.
    Stream(u64, &'a mut dyn Read),
}

pub struct Request<'a> {
    pub method: Method,
    pub url: &'a Url,
    pub headers: &'a [(&'static str, String)],
    pub authorization: Option<&'a Authorization>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Broken or silent connections: worth another try.
    Passing(Error),
    /// Whoever was to answer is busy: the same, and how long to wait if that was said.
    Busy(Error, Option<Duration>),
    /// No connection at all: worth another try, but not many where nobody has ever answered.
    Unreached(Error),
    Lasting(Error),
}

impl Failure {
    pub fn into_error(self) -> Error {
        match self {
            Failure::Passing(e) | Failure::Busy(e, _) | Failure::Unreached(e) | Failure::Lasting(e) => e,
        }
    }

    pub fn context(self, outer: impl Into<String>) -> Failure {
        match self {
            Failure::Passing(e) => Failure::Passing(e.context(outer)),
            Failure::Busy(e, asked) => Failure::Busy(e.context(outer), asked),
            Failure::Unreached(e) => Failure::Unreached(e.context(outer)),
            Failure::Lasting(e) => Failure::Lasting(e.context(outer)),
        }
    }
}

impl From<Unreachable> for Failure {
    fn from(unreachable: Unreachable) -> Failure {
        match unreachable.kind {
            Trouble::Passing => Failure::Passing(unreachable.error),
            Trouble::Unreached => Failure::Unreached(unreachable.error),
            Trouble::Lasting | Trouble::NotTls => Failure::Lasting(unreachable.error),
        }
    }
}

/// How long a step may take. Never a whole transfer.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// One address.
    pub connect: Duration,
    /// Without a byte in either direction.
    pub stall: Duration,
    /// From the last byte of a request to the last of the answer's headers.
    pub answer: Duration,
    /// The same after an upload: storage behind registries copies gigabytes before it answers.
    pub commit: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            answer: Duration::from_secs(60),
            commit: Duration::from_secs(900),
        }
    }
}

pub struct Http {
    agent: Agent,
    timeouts: Timeouts,
}

impl Http {
    /// `connections` is how many may be kept for later.
    pub fn new(network: Arc<Network>, timeouts: Timeouts, connections: usize) -> Http {
        let config = ureq::config::Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("ch-image/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .max_response_header_size(MAX_HEADERS)
            .max_idle_connections(2 * connections)
            .max_idle_connections_per_host(connections)
            .timeout_per_read(Some(timeouts.stall))
            .timeout_per_write(Some(timeouts.stall))
            .timeout_recv_response(Some(timeouts.answer))
            .build();
        Http { agent: Agent::with_parts(config, Dialer(network), NoResolver), timeouts }
    }

    pub fn send(&self, request: Request, payload: Payload) -> Result<Response, Failure> {
        let name = format!("{} {}", request.method.as_str(), request.url);
        debug!("{name}");
        let answer = self.exchange(&request, payload);
        let answer = answer.map_err(|e| sort(e).context(name.clone()))?;
        let (parts, body) = answer.into_parts();
        debug!("{name}: {}", parts.status);
        for (key, value) in &parts.headers {
            trace!("  {key}: {}", shown_header(key.as_str(), value.as_bytes()));
        }
        check_framing(&parts.headers).map_err(|e| Failure::Lasting(e.context(name.clone())))?;
        Ok(Response {
            status: parts.status.as_u16(),
            reason: parts.status.canonical_reason().unwrap_or("").to_owned(),
            headers: parts.headers,
            body: body.into_reader(),
            url: request.url.clone(),
            name,
            peeked: None,
        })
    }

    fn exchange(&self, request: &Request, payload: Payload) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut builder = HttpRequest::builder().method(request.method.as_str()).uri(request.url.expose());
        for (key, value) in request.headers {
            trace!("  {key}: {value}");
            builder = builder.header(*key, value);
        }
        if let Some(authorization) = request.authorization {
            trace!("  authorization: {authorization:?}");
            builder = builder.header("authorization", &*authorization.0);
        }
        match payload {
            Payload::None if matches!(request.method, Method::Get | Method::Head) => {
                self.agent.run(builder.body(()).map_err(ureq::Error::Http)?)
            }
            Payload::None => self.agent.run(builder.body(&[][..]).map_err(ureq::Error::Http)?),
            Payload::Bytes(bytes) => self.run_patiently(builder.body(bytes).map_err(ureq::Error::Http)?),
            Payload::Stream(size, reader) => {
                let body = SendBody::from_reader(reader);
                self.run_patiently(builder.header(CONTENT_LENGTH, size).body(body).map_err(ureq::Error::Http)?)
            }
        }
    }

    fn run_patiently<S: ureq::AsSendBody>(
        &self,
        request: HttpRequest<S>,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let request = self
            .agent
            .configure_request(request)
            .timeout_per_read(Some(self.timeouts.commit))
            .timeout_recv_response(Some(self.timeouts.commit))
            .build();
        self.agent.run(request)
    }
}

pub struct Response {
    pub status: u16,
    reason: String,
    headers: HeaderMap,
    body: BodyReader<'static>,
    /// Where the answer came from.
    pub url: Url,
    /// `GET https://…`, for messages.
    name: String,
    /// What [`Response::peek`] has read of the body.
    peeked: Option<Vec<u8>>,
}

impl Response {
    /// `None` if absent or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All values of a header that may be repeated.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).iter().filter_map(|v| v.to_str().ok())
    }

    /// Length of the body if the server says it.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// How long to wait before another try, if the server says it.
    pub fn retry_after(&self) -> Option<Duration> {
        retry::retry_after(self.header("retry-after")?, SystemTime::now())
    }

    /// Media type without parameters, lower case.
    pub fn content_type(&self) -> Option<String> {
        let value = self.header("content-type")?;
        Some(value.split(';').next().unwrap_or("").trim().to_ascii_lowercase())
    }

    /// The whole body, if it is not longer than `limit` bytes.
    pub fn bytes(self, limit: usize) -> Result<Vec<u8>, Failure> {
        let too_long =
            |name: &str| Failure::Lasting(Error::new(format!("answer too long (limit {limit} bytes)")).context(name));
        if self.length().is_some_and(|n| n > limit as u64) {
            return Err(too_long(&self.name));
        }
        let mut bytes = Vec::new();
        let mut body = self.body.take(limit as u64 + 1);
        body.read_to_end(&mut bytes).map_err(|e| sort_io(e).context(self.name.clone()))?;
        if bytes.len() > limit {
            return Err(too_long(&self.name));
        }
        Ok(bytes)
    }

    pub fn into_body(self) -> BodyReader<'static> {
        self.body
    }

    /// Reads what is left of a short body, so that the connection can serve again.
    pub fn finish(self) {
        // A body that cannot be drained costs a connection, nothing else.
        let _ = io::copy(&mut self.body.take(MAX_ERROR_READ), &mut io::sink());
    }

    /// The beginning of a refusal's body, which is shown by [`Response::into_error`] all the same.
    pub fn peek(&mut self) -> String {
        if self.peeked.is_none() {
            let mut bytes = Vec::new();
            // The status is the message; the text is an extra.
            let _ = (&mut self.body).take(MAX_ERROR_READ).read_to_end(&mut bytes);
            self.peeked = Some(bytes);
        }
        String::from_utf8_lossy(self.peeked.as_deref().unwrap_or_default()).into_owned()
    }

    /// What a registry refused, in its own words as far as they are safe to show.
    pub fn into_error(self) -> Error {
        let status = self.status;
        let error = self.into_plain_error();
        match status {
            403 => error.hint(
                "if it is about rights: log in as somebody who may do that; a login for each registry comes from a file \
                 such as ~/.docker/config.json, one for the registry of the command line also from CH_IMAGE_USERNAME \
                 and CH_IMAGE_PASSWORD",
            ),
            500 | 507 => error.hint("the registry itself fails; its log tells why, often a full disk"),
            405 => error.hint("the registry may be read-only, or a mirror of another one"),
            _ => error,
        }
    }

    /// The same of any server.
    pub fn into_plain_error(mut self) -> Error {
        let head = format!("{} {}", self.status, self.reason);
        let html = self.content_type().is_some_and(|t| t == "text/html");
        self.peek();
        let bytes = self.peeked.take().unwrap_or_default();
        let text = if html { String::new() } else { said(&bytes) };
        let cause = match text.is_empty() {
            true => head.trim_end().to_owned(),
            false => format!("{}: {text}", head.trim_end()),
        };
        Error::new(cause).context(self.name)
    }
}

/// The message in an error body: `{"errors":[{"code":…,"message":…}]}` (OCI distribution specification), or its text.
fn said(bytes: &[u8]) -> String {
    let structured = json::parse(bytes).ok().and_then(|value| {
        let list = value.get("errors")?.as_array()?;
        let texts: Vec<String> = list
            .iter()
            .map(|e| {
                let part = |key: &str| e.get(key).and_then(|v| v.as_str()).unwrap_or("");
                format!("{} {}", part("code"), part("message")).trim().to_owned()
            })
            .filter(|text| !text.is_empty())
            .collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    });
    let text = structured.unwrap_or_else(|| String::from_utf8_lossy(bytes).trim().to_owned());
    let escaped = log::escape(&text);
    match escaped.char_indices().nth(MAX_ERROR_SHOWN) {
        Some((end, _)) => format!("{}…", &escaped[..end]),
        None => escaped.into_owned(),
    }
}

/// Contradictory framing is how answers are smuggled (RFC 9112, section 6.3): refused, even where ureq would choose.
fn check_framing(headers: &HeaderMap) -> Result<()> {
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    let encodings: Vec<_> = headers.get_all(TRANSFER_ENCODING).iter().collect();
    if lengths > 1 {
        return Err(Error::new("invalid HTTP answer: several Content-Length headers"));
    }
    if lengths > 0 && !encodings.is_empty() {
        return Err(Error::new("invalid HTTP answer: both Content-Length and Transfer-Encoding"));
    }
    match encodings[..] {
        [] => Ok(()),
        [one] if one.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Error::new("invalid HTTP answer: unknown Transfer-Encoding")),
    }
}

/// Headers for the eye: locations and challenges may hold secrets in their URLs, cookies are secrets.
fn shown_header(key: &str, value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    match key {
        "set-cookie" | "authorization" | "proxy-authorization" => "REDACTED".to_owned(),
        "location" => match text.split_once('?') {
            Some((front, _)) => format!("{}?REDACTED", log::escape(front)),
            None => log::escape(&text).into_owned(),
        },
        _ => log::escape(&text).into_owned(),
    }
}

/// Sorts an error of reading a body.
pub fn sort_io(e: io::Error) -> Failure {
    sort(ureq::Error::from(e))
}

fn sort(e: ureq::Error) -> Failure {
    match e {
        ureq::Error::Other(inner) => match inner.downcast::<Unreachable>() {
            Ok(unreachable) => Failure::from(*unreachable),
            Err(other) => Failure::Lasting(Error::new(other.to_string())),
        },
        ureq::Error::Timeout(Timeout::RecvResponse) => Failure::Passing(Error::new("server is too slow to answer")),
        ureq::Error::Timeout(_) => Failure::Passing(Error::new("connection stalled")),
        ureq::Error::Io(e) => Failure::Passing(match e.kind() {
            io::ErrorKind::UnexpectedEof => Error::new("connection closed by the server"),
            _ => match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(tls) => super::tls::explain(tls),
                None => Error::new(io_text(&e)),
            },
        }),
        ureq::Error::Protocol(e) => Failure::Lasting(Error::new(format!("invalid HTTP answer: {e}"))),
        ureq::Error::LargeResponseHeader(..) => {
            Failure::Lasting(Error::new(format!("invalid HTTP answer: headers exceed {MAX_HEADERS} bytes")))
        }
        other => Failure::Lasting(Error::new(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_are_short_and_safe() {
        let check = |body: &str, want: &str| assert_eq!(said(body.as_bytes()), want, "{body}");
        check(r#"{"errors":[{"code":"DENIED","message":"no"},{"code":"X"}]}"#, "DENIED no; X");
        check(r#"{"errors":[]}"#, r#"{"errors":[]}"#);
        check("plain \x1b[31mred\n", "plain \\x1b[31mred");
        check("", "");
        assert_eq!(said(&[b'x'; 10_000]).chars().count(), MAX_ERROR_SHOWN + 1);
    }

    #[test]
    fn headers_hide_secrets() {
        assert_eq!(shown_header("location", b"https://s3/x?X-Amz-Signature=abc"), "https://s3/x?REDACTED");
        assert_eq!(shown_header("set-cookie", b"id=1"), "REDACTED");
        assert_eq!(shown_header("content-type", b"a\x1bb"), "a\\x1bb");
        assert_eq!(format!("{:?}", Authorization::basic("u", "secret")), "Basic REDACTED");
    }

    #[test]
    fn tokens_cannot_end_a_header() {
        for bad in ["", "a\r\nX: y", "a b", "a\0", "ü"] {
            assert!(Authorization::bearer(bad).is_err(), "{bad:?}");
        }
        assert!(Authorization::bearer("eyJ.a-b_c~+/=").is_ok());
    }
}
