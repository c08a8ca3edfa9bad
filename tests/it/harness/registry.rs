//! A registry in this process, on 127.0.0.1 over plain HTTP, that can be told to misbehave.
//!
//! Two layers: [`Server`] answers whatever a closure says, down to raw bytes, stalls and cuts, and keeps what it saw;
//! [`Registry`] is a small honest registry on top of it (manifests, blobs, ranges, uploads, Basic and Bearer), whose
//! answers can be replaced one by one with [`Registry::intercept`]. Shared by the program's unit tests and the
//! integration tests: standard library and sha2 only.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query, as on the request line.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    /// All values of a key of the query, decoded.
    pub fn query(&self, key: &str) -> Vec<String> {
        let query = self.target.split_once('?').map_or("", |(_, q)| q);
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(k, _)| *k == key).map(|(_, v)| percent_decode(v)).collect()
    }

    /// `GET /v2/…`
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

/// What is answered, and how it travels.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub how: How,
}

#[derive(Clone, Debug)]
pub enum How {
    /// With its length.
    Whole,
    /// In chunks of so many bytes.
    Chunked(usize),
    /// Without a length: the end of the connection is the end of the body.
    UntilClose,
    /// The length of the whole is announced, but the connection is cut (reset) after so many bytes of the body.
    Cut(usize),
    /// The same, but nothing more comes and nothing is closed.
    Stall(usize),
    /// So many bytes at a time with a pause before each.
    Drip(usize, Duration),
    /// These bytes instead of an HTTP answer; then the connection is closed.
    Raw(Vec<u8>),
    /// No answer at all.
    Close,
    /// An announced length that differs from the body's.
    Announce(u64),
}

impl Reply {
    pub fn new(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Vec::new(), how: How::Whole }
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Reply {
        self.body = body.into();
        self
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn how(mut self, how: How) -> Reply {
        self.how = how;
        self
    }

    pub fn raw(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply::new(0).how(How::Raw(bytes.into()))
    }

    pub fn redirect(status: u16, to: impl Into<String>) -> Reply {
        Reply::new(status).header("Location", to)
    }
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
        Server::start_on("127.0.0.1:0", Arc::new(handler))
    }

    fn start_on(at: &str, handler: Arc<Handler>) -> Server {
        let listener = TcpListener::bind(at).unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
            stop: Arc::default(),
        };
        let (seen, connections, stop) = (server.seen.clone(), server.connections.clone(), server.stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                connections.fetch_add(1, Ordering::SeqCst);
                let (handler, seen, stop) = (handler.clone(), seen.clone(), stop.clone());
                std::thread::spawn(move || drop(serve(stream.unwrap(), &*handler, &seen, &stop)));
            }
        });
        server
    }

    /// `127.0.0.1:PORT`
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// `GET /v2/…` of all requests, in order.
    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    pub fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(stream: TcpStream, handler: &Handler, seen: &Mutex<Vec<Seen>>, stop: &AtomicBool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    if stream.peek(&mut first)? == 1 && first[0] == 0x16 {
        // A TLS handshake: say what web servers say, so that the client knows.
        return (&stream)
            .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n");
    }
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read_request(&mut reader, &stream)? {
        let head = request.method == "HEAD";
        seen.lock().unwrap().push(request.clone());
        let reply = handler(&request);
        if !write_reply(&stream, &reply, head, stop)? {
            break;
        }
    }
    stream.shutdown(Shutdown::Both)
}

fn read_request(reader: &mut BufReader<TcpStream>, mut stream: &TcpStream) -> std::io::Result<Option<Seen>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let (method, target) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Seen { method, target, headers, body: Vec::new() };
    if request.header("expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if let Some(length) = request.header("content-length") {
        request.body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut request.body)?;
    } else if request.header("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            request.body.extend(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    }
    Ok(Some(request))
}

/// Whether the connection may serve again.
fn write_reply(mut stream: &TcpStream, reply: &Reply, head: bool, stop: &AtomicBool) -> std::io::Result<bool> {
    let mut text = format!("HTTP/1.1 {} Whatever\r\n", reply.status);
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    match &reply.how {
        How::Raw(bytes) => {
            stream.write_all(bytes)?;
            return Ok(false);
        }
        How::Close => return Ok(false),
        How::Chunked(_) => text.push_str("Transfer-Encoding: chunked\r\n"),
        How::UntilClose => text.push_str("Connection: close\r\n"),
        How::Announce(n) => text.push_str(&format!("Content-Length: {n}\r\n")),
        How::Whole | How::Cut(_) | How::Stall(_) | How::Drip(..) => {
            // A HEAD says the length of what GET would give.
            let own = reply.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-length"));
            if !own {
                text.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
            }
        }
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes())?;
    if head || matches!(reply.status, 204 | 304) {
        return Ok(true);
    }
    let body = &reply.body;
    match reply.how {
        How::Whole => stream.write_all(body)?,
        How::Announce(n) => {
            stream.write_all(body)?;
            return Ok(n == body.len() as u64);
        }
        How::Chunked(size) => {
            for chunk in body.chunks(size) {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                stream.write_all(chunk)?;
                stream.write_all(b"\r\n")?;
            }
            stream.write_all(b"0\r\n\r\n")?;
        }
        How::UntilClose => {
            stream.write_all(body)?;
            return Ok(false);
        }
        How::Cut(n) => {
            stream.write_all(&body[..n.min(body.len())])?;
            return Ok(false);
        }
        How::Stall(n) => {
            stream.write_all(&body[..n.min(body.len())])?;
            while !stop.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
            return Ok(false);
        }
        How::Drip(size, pause) => {
            for part in body.chunks(size) {
                std::thread::sleep(pause);
                stream.write_all(part)?;
            }
        }
        How::Raw(_) | How::Close => return Ok(false),
    }
    Ok(true)
}

pub fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

pub fn percent_decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            b'+' => out.push(b' '),
            b => out.push(b),
        }
    }
    String::from_utf8(out).unwrap()
}

/// How the registry wants to be convinced.
#[derive(Clone, Debug, Default)]
pub enum Guard {
    #[default]
    Open,
    /// `Authorization: Basic`, this value after `Basic `.
    Basic(String),
    /// A token server at `/token` of the same server.
    Token(TokenRules),
}

#[derive(Clone, Debug)]
pub struct TokenRules {
    /// Base 64 of `user:password`; the anonymous get `anonymous` only.
    pub login: String,
    /// What the anonymous may do: actions such as `pull`.
    pub anonymous: Vec<String>,
    /// Seconds; 0: the reply does not say and tokens live for ever.
    pub life: u64,
    /// Key of the reply.
    pub key: String,
    /// Tokens that are no longer worth anything, whatever the reply said.
    pub ended: Ended,
}

#[derive(Clone, Debug, Default)]
pub struct Ended(Arc<Mutex<Vec<String>>>);

impl Ended {
    /// `token1` is the first that was issued.
    pub fn end(&self, token: &str) {
        self.0.lock().unwrap().push(token.to_owned());
    }

    fn has(&self, token: &str) -> bool {
        self.0.lock().unwrap().iter().any(|t| t == token)
    }
}

#[derive(Default)]
pub struct Content {
    /// (repository, tag or digest) → (media type, bytes)
    pub manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    /// (repository, digest) → bytes
    pub blobs: BTreeMap<(String, String), Vec<u8>>,
    uploads: BTreeMap<String, Vec<u8>>,
    /// Token → scopes
    tokens: BTreeMap<String, Vec<String>>,
    counter: u64,
}

type Interceptor = Box<dyn Fn(&Seen, &Content) -> Option<Reply> + Send + Sync>;

/// An honest registry, except where told otherwise.
pub struct Registry {
    pub server: Server,
    content: Arc<Mutex<Content>>,
    interceptors: Arc<Mutex<Vec<Interceptor>>>,
    guard: Arc<Mutex<Guard>>,
}

impl Registry {
    pub fn start() -> Registry {
        let content: Arc<Mutex<Content>> = Arc::default();
        let interceptors: Arc<Mutex<Vec<Interceptor>>> = Arc::default();
        let guard: Arc<Mutex<Guard>> = Arc::default();
        let (c, i, g) = (content.clone(), interceptors.clone(), guard.clone());
        let server = Server::start(move |seen| {
            let mut content = c.lock().unwrap();
            let replaced = i.lock().unwrap().iter().find_map(|f| f(seen, &content));
            let guard = g.lock().unwrap().clone();
            replaced.unwrap_or_else(|| content.answer(seen, &guard))
        });
        Registry { server, content, interceptors, guard }
    }

    pub fn guard(&self, guard: Guard) {
        *self.guard.lock().unwrap() = guard;
    }

    /// The first interceptor that returns a reply decides.
    pub fn intercept(&self, f: impl Fn(&Seen, &Content) -> Option<Reply> + Send + Sync + 'static) {
        self.interceptors.lock().unwrap().push(Box::new(f));
    }

    /// Replaces the answers to the first `n` requests whose line contains `part`.
    pub fn first(&self, n: usize, part: &str, reply: Reply) {
        let (left, part) = (AtomicUsize::new(n), part.to_owned());
        self.intercept(move |seen, _| {
            let hit = seen.line().contains(&part);
            let taken = hit && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
            taken.then(|| reply.clone())
        });
    }

    /// `127.0.0.1:PORT/REST`
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.server.name())
    }

    /// Puts a blob; returns its digest.
    pub fn blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        self.content.lock().unwrap().blobs.insert((repository.to_owned(), digest.clone()), bytes.to_vec());
        digest
    }

    /// Puts a manifest under a tag and its digest; returns the digest.
    pub fn manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let mut content = self.content.lock().unwrap();
        for name in [tag, &digest] {
            let entry = (media_type.to_owned(), bytes.to_vec());
            content.manifests.insert((repository.to_owned(), name.to_owned()), entry);
        }
        digest
    }

    pub fn with<T>(&self, f: impl FnOnce(&mut Content) -> T) -> T {
        f(&mut self.content.lock().unwrap())
    }
}

impl Content {
    /// The next token is `token1` again.
    pub fn forget_tokens(&mut self) {
        self.tokens.clear();
        self.counter = 0;
    }

    pub fn answer(&mut self, seen: &Seen, guard: &Guard) -> Reply {
        let path = seen.path().to_owned();
        if path == "/token" {
            return self.token(seen, guard);
        }
        if let Some(refusal) = self.refuse(seen, guard) {
            return refusal;
        }
        if path == "/v2/" {
            return Reply::new(200).body("{}");
        }
        let Some(rest) = path.strip_prefix("/v2/") else { return Reply::new(404) };
        if let Some((repository, reference)) = rest.split_once("/manifests/") {
            return self.manifests(seen, repository, reference);
        }
        if let Some((repository, upload)) = rest.split_once("/blobs/uploads/") {
            return self.upload(seen, repository, upload);
        }
        match rest.split_once("/blobs/") {
            Some((repository, digest)) => self.blob(seen, repository, digest),
            None => Reply::new(404),
        }
    }

    fn token(&mut self, seen: &Seen, guard: &Guard) -> Reply {
        let Guard::Token(rules) = guard else { return Reply::new(404) };
        let login = match seen.header("authorization") {
            None => false,
            Some(value) if value == format!("Basic {}", rules.login) => true,
            Some(_) => return Reply::new(401).body("bad credentials"),
        };
        let asked = seen.query("scope");
        let allowed = |scope: &String| {
            let actions = scope.rsplit(':').next().unwrap();
            login || actions.split(',').all(|a| rules.anonymous.iter().any(|b| a == b))
        };
        let granted: Vec<String> = asked.into_iter().filter(allowed).collect();
        if granted.is_empty() && !login {
            return Reply::new(401).body("who are you?");
        }
        self.counter += 1;
        let token = format!("token{}", self.counter);
        self.tokens.insert(token.clone(), granted);
        let life = if rules.life > 0 { format!(",\"expires_in\":{}", rules.life) } else { String::new() };
        Reply::new(200)
            .header("Content-Type", "application/json")
            .body(format!("{{\"{}\":\"{token}\"{life}}}", rules.key))
    }

    fn refuse(&self, seen: &Seen, guard: &Guard) -> Option<Reply> {
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        match guard {
            Guard::Open => None,
            Guard::Basic(login) => {
                let good = seen.header("authorization") == Some(&format!("Basic {login}"));
                let challenge = "Basic realm=\"test\"";
                (!good).then(|| Reply::new(401).header("WWW-Authenticate", challenge).body(body))
            }
            Guard::Token(rules) => {
                let rest = seen.path().strip_prefix("/v2/").unwrap_or("");
                let cut = ["/manifests/", "/blobs/"].iter().find_map(|part| rest.split_once(part));
                let repository = cut.map_or("", |(repository, _)| repository);
                let write = !matches!(seen.method.as_str(), "GET" | "HEAD");
                let need = if write { "push" } else { "pull" };
                let token = seen.header("authorization").and_then(|v| v.strip_prefix("Bearer "));
                let token = token.filter(|token| !rules.ended.has(token));
                let good = token.and_then(|t| self.tokens.get(t)).is_some_and(|scopes| {
                    let fits = |scope: &String| {
                        let mut parts = scope.rsplitn(2, ':');
                        let actions = parts.next().unwrap();
                        parts.next() == Some(&format!("repository:{repository}"))
                            && actions.split(',').any(|a| a == need)
                    };
                    repository.is_empty() || scopes.iter().any(fits)
                });
                let host = seen.header("host").unwrap_or("");
                let scope = match repository {
                    "" => String::new(),
                    name => format!(",scope=\"repository:{name}:{}\"", if write { "pull,push" } else { "pull" }),
                };
                let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"test\"{scope}");
                (!good).then(|| Reply::new(401).header("WWW-Authenticate", challenge).body(body))
            }
        }
    }

    fn manifests(&mut self, seen: &Seen, repository: &str, reference: &str) -> Reply {
        let key = (repository.to_owned(), reference.to_owned());
        if seen.method == "PUT" {
            let digest = sha256(&seen.body);
            let media_type = seen.header("content-type").unwrap_or("").to_owned();
            for name in [reference.to_owned(), digest.clone()] {
                self.manifests.insert((repository.to_owned(), name), (media_type.clone(), seen.body.clone()));
            }
            return Reply::new(201).header("Docker-Content-Digest", digest);
        }
        match self.manifests.get(&key) {
            None => Reply::new(404).body(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
            Some((media_type, bytes)) => Reply::new(200)
                .header("Content-Type", media_type)
                .header("Docker-Content-Digest", sha256(bytes))
                .body(bytes.clone()),
        }
    }

    fn blob(&self, seen: &Seen, repository: &str, digest: &str) -> Reply {
        let Some(bytes) = self.blobs.get(&(repository.to_owned(), digest.to_owned())) else {
            return Reply::new(404).body(r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#);
        };
        ranged(seen, bytes)
    }

    fn upload(&mut self, seen: &Seen, repository: &str, upload: &str) -> Reply {
        if seen.method == "POST" {
            if let (Some(digest), Some(from)) = (seen.query("mount").first(), seen.query("from").first())
                && let Some(bytes) = self.blobs.get(&(from.clone(), digest.clone())).cloned()
            {
                self.blobs.insert((repository.to_owned(), digest.clone()), bytes);
                return Reply::new(201);
            }
            self.counter += 1;
            let name = format!("u{}", self.counter);
            self.uploads.insert(name.clone(), Vec::new());
            return Reply::new(202)
                .header("Location", format!("/v2/{repository}/blobs/uploads/{name}?_state=secretstate"));
        }
        let Some(sofar) = self.uploads.get_mut(upload) else { return Reply::new(404) };
        sofar.extend(&seen.body);
        let length = sofar.len();
        if seen.method == "PATCH" {
            return Reply::new(202)
                .header("Location", format!("/v2/{repository}/blobs/uploads/{upload}?_state=s{length}"))
                .header("Range", format!("0-{}", length.saturating_sub(1)));
        }
        let bytes = self.uploads.remove(upload).unwrap();
        let wanted = seen.query("digest").first().cloned().unwrap_or_default();
        if sha256(&bytes) != wanted {
            return Reply::new(400).body(r#"{"errors":[{"code":"DIGEST_INVALID","message":"digest differs"}]}"#);
        }
        self.blobs.insert((repository.to_owned(), wanted.clone()), bytes);
        Reply::new(201).header("Docker-Content-Digest", wanted)
    }
}

/// 200 or 206 of these bytes, as asked.
pub fn ranged(seen: &Seen, bytes: &[u8]) -> Reply {
    let range = seen.header("range").and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-'));
    let Some((from, to)) = range else {
        return Reply::new(200).header("Content-Type", "application/octet-stream").body(bytes);
    };
    let from: usize = from.parse().unwrap();
    let to: usize = to.parse().unwrap_or(bytes.len() - 1).min(bytes.len() - 1);
    if from > to {
        return Reply::new(416);
    }
    Reply::new(206).header("Content-Range", format!("bytes {from}-{to}/{}", bytes.len())).body(&bytes[from..=to])
}
