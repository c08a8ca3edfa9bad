//! What can be asked of a registry? Manifests here; blobs in [`super::blob`], uploads in [`super::upload`]
//! (OCI distribution specification 1.1; Docker Registry HTTP API V2).
//!
//! One client per registry, shared by threads: connections, tokens and the answer to "TLS or not" are kept in it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::Endpoint;
use super::auth::{Access, Answer, Auth, First, Scope, next_hop};
use super::credentials::Credentials;
use super::http::{Authorization, Failure, Http, Method, Payload, Request, Response, Timeouts};
use super::net::Network;
use super::retry::{self, Policy};
use super::settings::Settings;
use super::tls;
use super::url::{Origin, Scheme, Url};
use crate::error::{Error, Result, bail};
use crate::log::{debug, verbose};
use crate::oci::digest::Digest;
use crate::oci::json::MAX_DOCUMENT;
use crate::oci::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

const MAX_REDIRECTS: usize = 10;
/// Questions and answers about who we are before a 401 counts.
const MAX_AUTH_ROUNDS: usize = 2;

/// How to talk to one registry.
#[derive(Clone, Debug)]
pub struct Options {
    /// False with `--tls-no-verify`: for this registry, never for where it redirects to.
    pub tls_verify: bool,
    pub settings: Settings,
    pub first: First,
    pub policy: Policy,
    pub timeouts: Timeouts,
    /// Idle connections kept per host: at least the number of threads.
    pub connections: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            tls_verify: true,
            settings: Settings::default(),
            first: First::Anonymous,
            policy: Policy::default(),
            timeouts: Timeouts::default(),
            connections: 8,
        }
    }
}

/// Which documents are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accept {
    /// An index if there is one, else a manifest.
    Any,
    /// A single image; the registry chooses if it holds an index.
    Image,
}

impl Accept {
    fn header(self) -> String {
        match self {
            Accept::Any => [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].join(", "),
            Accept::Image => [OCI_MANIFEST, DOCKER_MANIFEST].join(", "),
        }
    }
}

/// A document as it came, and its digest, which was computed here.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub bytes: Vec<u8>,
    pub digest: Digest,
    pub content_type: Option<String>,
}

/// An upload that the registry has agreed to.
pub(super) struct Begun {
    pub(super) repository: String,
    pub(super) place: Url,
    /// Smallest piece.
    pub(super) minimum: u64,
}

pub struct Client {
    endpoint: Endpoint,
    network: Arc<Network>,
    http: Http,
    credentials: Arc<dyn Credentials>,
    first: First,
    pub(super) policy: Policy,
    auth: OnceLock<Auth>,
    /// Held while it is found out whether a loopback registry speaks TLS.
    probing: Mutex<()>,
    /// Whether anybody has, yet.
    answered: AtomicBool,
    /// Repositories whose last question was answered with 401.
    unknown_to: Mutex<HashSet<String>>,
    pub(super) begun: Mutex<Option<Begun>>,
}

/// What came of a manifest.
pub enum Offer {
    Taken(Digest),
    /// The registry does not take documents of this type, in its words.
    Unfit(Error),
}

/// One operation: a URL, who may do it, what to send. Repeated as a whole when it fails.
pub(super) struct Call<'a> {
    pub method: Method,
    pub url: &'a Url,
    pub scope: &'a Scope,
    pub headers: &'a [(&'static str, String)],
    pub bytes: Option<&'a [u8]>,
}

impl Client {
    pub fn new(endpoint: &Endpoint, options: Options, credentials: Arc<dyn Credentials>) -> Result<Client> {
        let unverified = match options.tls_verify {
            true => None,
            false => Some((endpoint.clone(), tls::unverified()?)),
        };
        let network = Arc::new(Network {
            proxies: options.settings.proxies.clone(),
            verified: options.settings.trust.config()?,
            unverified,
            connect_timeout: options.timeouts.connect,
        });
        Ok(Client {
            endpoint: endpoint.clone(),
            http: Http::new(network.clone(), options.timeouts, options.connections),
            network,
            credentials,
            first: options.first,
            policy: options.policy,
            auth: OnceLock::new(),
            probing: Mutex::new(()),
            answered: AtomicBool::new(false),
            unknown_to: Mutex::default(),
            begun: Mutex::new(None),
        })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether the last `None` about this repository was a 401 and not a 404.
    pub fn wants_login(&self, repository: &str) -> bool {
        self.unknown_to.lock().unwrap_or_else(|e| e.into_inner()).contains(repository)
    }

    /// How the user can log in here.
    pub fn advice(&self) -> String {
        self.credentials.advice(&self.endpoint)
    }

    /// The error of a 401.
    pub(super) fn denied(&self, response: Response) -> Error {
        response.into_error().hint(self.advice())
    }

    /// Gets whatever is needed to do this later: asks for the password *before* long work. Nothing to do is fine.
    pub fn authorize(&self, repository: &str, access: Access) -> Result<()> {
        let scope = Scope { repository: repository.to_owned(), access, from: None };
        let url = self.url("/v2/")?;
        let response =
            self.perform(&Call { method: Method::Get, url: &url, scope: &scope, headers: &[], bytes: None })?;
        match response.status {
            401 => Err(self.denied(response)),
            // Anything else: what matters is said when it matters.
            _ => {
                response.finish();
                Ok(())
            }
        }
    }

    /// The manifest or index of a tag or digest; `None` if the registry has none, or none for us (see
    /// [`Client::wants_login`]).
    pub fn manifest(&self, repository: &str, reference: &str, accept: Accept) -> Result<Option<Fetched>> {
        let Some(response) = self.ask_manifest(Method::Get, repository, reference, accept)? else { return Ok(None) };
        let content_type = response.content_type();
        let claimed = claimed_digest(&response);
        let about = format!("{}: {repository}: manifest {reference}", self.endpoint);
        let bytes = match response.bytes(MAX_DOCUMENT) {
            Ok(bytes) => bytes,
            Err(failure) => return Err(failure.into_error()),
        };
        let digest = Digest::of(&bytes);
        let wanted = if reference.contains(':') { Some(reference.parse::<Digest>()?) } else { claimed };
        if let Some(wanted) = wanted.filter(|w| *w != digest) {
            return Err(Error::new(format!("digest mismatch: expected {wanted} but got {digest}")).context(about));
        }
        Ok(Some(Fetched { bytes, digest, content_type }))
    }

    /// The digest of what a tag names now, by the cheapest request that the registry understands.
    pub fn head_manifest(&self, repository: &str, reference: &str, accept: Accept) -> Result<Option<Digest>> {
        if let Some(response) = self.ask_manifest_or_refuse(Method::Head, repository, reference, accept)? {
            match (response.status, claimed_digest(&response)) {
                (200, Some(digest)) => return Ok(Some(digest)),
                (404, _) => return Ok(None),
                _ => debug!("{}: HEAD tells no digest: asking for the manifest", self.endpoint),
            }
        }
        Ok(self.manifest(repository, reference, accept)?.map(|fetched| fetched.digest))
    }

    /// Uploads a manifest under a tag or digest.
    pub fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: &[u8]) -> Result<Digest> {
        match self.offer_manifest(repository, reference, media_type, bytes)? {
            Offer::Taken(digest) => Ok(digest),
            Offer::Unfit(error) => Err(error),
        }
    }

    /// The same; that the registry does not take such a document is no failure.
    pub fn offer_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: &[u8]) -> Result<Offer> {
        let url = self.url(&format!("/v2/{repository}/manifests/{reference}"))?;
        let headers = [("content-type", media_type.to_owned())];
        let scope = Scope::push(repository);
        let call = Call { method: Method::Put, url: &url, scope: &scope, headers: &headers, bytes: Some(bytes) };
        let mut response = self.perform(&call)?;
        let digest = Digest::of(bytes);
        let is_unfit = match response.status {
            415 => true,
            400 | 406 | 422 => {
                let words = response.peek();
                ["MANIFEST_INVALID", "UNSUPPORTED"].iter().any(|code| words.contains(code))
            }
            _ => false,
        };
        if is_unfit {
            return Ok(Offer::Unfit(response.into_error()));
        }
        match response.status {
            200..=202 => {}
            401 => return Err(self.denied(response)),
            _ => return Err(response.into_error()),
        }
        if let Some(theirs) = claimed_digest(&response).filter(|d| *d != digest) {
            bail!("{}: registry stored manifest {theirs} instead of {digest}", self.endpoint);
        }
        response.finish();
        Ok(Offer::Taken(digest))
    }

    fn ask_manifest(
        &self,
        method: Method,
        repository: &str,
        reference: &str,
        accept: Accept,
    ) -> Result<Option<Response>> {
        let Some(response) = self.ask_manifest_or_refuse(method, repository, reference, accept)? else {
            return Ok(None);
        };
        match response.status {
            200 => {}
            404 => {
                response.finish();
                return Ok(None);
            }
            _ => return Err(response.into_error()),
        }
        not_html(&response)?;
        Ok(Some(response))
    }

    /// `None`: 401 although we said all that we could. Registries say that of images that they do not have, too.
    fn ask_manifest_or_refuse(
        &self,
        method: Method,
        repository: &str,
        reference: &str,
        accept: Accept,
    ) -> Result<Option<Response>> {
        let url = self.url(&format!("/v2/{repository}/manifests/{reference}"))?;
        let headers = [("accept", accept.header())];
        let scope = Scope::pull(repository);
        let call = Call { method, url: &url, scope: &scope, headers: &headers, bytes: None };
        let mut response = self.perform(&call)?;
        // What is private, some registries hide from the anonymous.
        if matches!(response.status, 403 | 404)
            && self.auth().map_err(Failure::into_error)?.introduce(&self.http, &scope).map_err(Failure::into_error)?
        {
            debug!("{}: {}: asking again with a login", self.endpoint, response.status);
            response.finish();
            response = self.perform(&call)?;
        }
        let mut unknown_to = self.unknown_to.lock().unwrap_or_else(|e| e.into_inner());
        if response.status != 401 {
            unknown_to.remove(repository);
            return Ok(Some(response));
        }
        verbose!("{}", response.into_error());
        unknown_to.insert(repository.to_owned());
        Ok(None)
    }

    /// Does a call, with patience: see [`Policy`].
    pub(super) fn perform(&self, call: &Call) -> Result<Response> {
        let mut tried = 0;
        loop {
            tried += 1;
            match self.attempt(call) {
                Ok(response) if retry::is_transient(response.status) => {
                    let asked = response.retry_after();
                    let hint = hint_for(response.status, &self.endpoint);
                    let error = response.into_error();
                    let error = hint.into_iter().fold(error, |e, hint| e.hint(hint));
                    self.policy.again(tried, asked, error)?;
                }
                Ok(response) => return Ok(response),
                Err(failure) => self.again(tried, failure)?,
            }
        }
    }

    /// After failure number `n` in a row: waits, or gives up.
    fn again(&self, n: u32, failure: Failure) -> Result<()> {
        match failure {
            Failure::Unreached(error) if !self.answered.load(Ordering::Relaxed) => {
                self.policy.with_stranger().again(n, None, error)
            }
            Failure::Unreached(error) | Failure::Passing(error) => self.policy.again(n, None, error),
            Failure::Busy(error, asked) => self.policy.again(n, asked, error),
            Failure::Lasting(error) => Err(error),
        }
    }

    /// One attempt: authentication and redirects, no retry.
    fn attempt(&self, call: &Call) -> Result<Response, Failure> {
        let mut url = call.url.clone();
        let mut rounds = 0;
        let mut hops = 0;
        loop {
            let payload = call.bytes.map_or(Payload::None, Payload::Bytes);
            let (mut response, used) = self.send(call.method, &url, call.scope, call.headers, payload)?;
            let refused = response.status == 401 || has_expired(&mut response, call.method, used.as_ref());
            if refused && self.is_own(&url)? && rounds < MAX_AUTH_ROUNDS {
                rounds += 1;
                match self.auth()?.answer(&self.http, &response, call.scope, used.as_ref())? {
                    Answer::Retry => {
                        response.finish();
                        continue;
                    }
                    Answer::GiveUp => return Ok(response),
                }
            }
            let Some(next) = next_hop(&response).map_err(Failure::Lasting)? else { return Ok(response) };
            hops += 1;
            if hops > MAX_REDIRECTS {
                let error = Error::new(format!("more than {MAX_REDIRECTS} redirects"));
                return Err(Failure::Lasting(error.context(call.url.to_string())));
            }
            // 307 and 308 mean the same request there; the others a GET.
            let is_upload = matches!(call.method, Method::Put | Method::Patch | Method::Post);
            if is_upload && !matches!(response.status, 307 | 308) {
                return Err(Failure::Lasting(response.into_error().context("can't follow a redirect of an upload")));
            }
            debug!("redirect to {next}");
            response.finish();
            url = next;
        }
    }

    /// One exchange, with our name on it if it goes to the registry itself. Also says what was sent for a name.
    pub(super) fn send(
        &self,
        method: Method,
        url: &Url,
        scope: &Scope,
        headers: &[(&'static str, String)],
        payload: Payload,
    ) -> Result<(Response, Option<Authorization>), Failure> {
        let authorization = if self.is_own(url)? { self.auth()?.current(&self.http, scope)? } else { None };
        let request = Request { method, url, headers, authorization: authorization.as_ref() };
        let response = self.http.send(request, payload)?;
        self.answered.store(true, Ordering::Relaxed);
        if let Some(used) = authorization.as_ref().filter(|_| response.status != 401) {
            self.auth()?.proven(scope, used);
        }
        Ok((response, authorization))
    }

    /// Answers a 401 to a request that cannot be repeated by [`Client::perform`].
    pub(super) fn reauthorize(
        &self,
        response: &Response,
        scope: &Scope,
        failed: Option<&Authorization>,
    ) -> Result<Answer, Failure> {
        self.auth()?.answer(&self.http, response, scope, failed)
    }

    pub(super) fn is_own(&self, url: &Url) -> Result<bool, Failure> {
        Ok(*url.origin() == self.origin()?)
    }

    /// A URL at the registry; `path` begins with `/`.
    pub(super) fn url(&self, path: &str) -> Result<Url> {
        let mut tried = 0;
        loop {
            match self.origin() {
                Ok(origin) => return origin.url(path),
                Err(failure) => {
                    tried += 1;
                    self.again(tried, failure)?;
                }
            }
        }
    }

    fn origin(&self) -> Result<Origin, Failure> {
        Ok(self.auth()?.registry().clone())
    }

    /// Made once it is known how the registry speaks: TLS, except that a registry on this machine may not.
    fn auth(&self) -> Result<&Auth, Failure> {
        if let Some(auth) = self.auth.get() {
            return Ok(auth);
        }
        let _only_one = self.probing.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(auth) = self.auth.get() {
            return Ok(auth);
        }
        let mut scheme = Scheme::Https;
        if self.endpoint.is_loopback() {
            let tls = self.network.speaks_tls(&self.endpoint).map_err(Failure::from)?;
            if !tls {
                verbose!("{}: no TLS there; using plain HTTP, since it is on this machine", self.endpoint);
                scheme = Scheme::Http;
            }
        }
        let auth = Auth::new(Origin::new(scheme, &self.endpoint), self.credentials.clone(), self.first);
        Ok(self.auth.get_or_init(|| auth))
    }
}

/// Whether this is how some registries say that a token has run out (400 instead of 401, in words; HEAD has none).
pub(super) fn has_expired(response: &mut Response, method: Method, used: Option<&Authorization>) -> bool {
    if response.status != 400 || !used.is_some_and(Authorization::is_bearer) {
        return false;
    }
    let words = response.peek().to_ascii_lowercase();
    method == Method::Head || words.contains("token") && words.contains("expired")
}

/// `Docker-Content-Digest`, if it is one that we understand.
fn claimed_digest(response: &Response) -> Option<Digest> {
    response.header("docker-content-digest")?.trim().parse().ok()
}

/// A login page of a captive portal or of a web server that is no registry.
pub(super) fn not_html(response: &Response) -> Result<()> {
    match response.content_type().as_deref() {
        Some(html @ ("text/html" | "application/xhtml+xml")) => {
            let error = Error::new(format!("not a registry ({html})")).context(response.url.to_string());
            Err(error.hint("is the name right, and does this network want you to log in first?"))
        }
        _ => Ok(()),
    }
}

fn hint_for(status: u16, endpoint: &Endpoint) -> Option<String> {
    let docker = endpoint.is_docker_hub();
    match status {
        429 if docker => Some("Docker Hub allows more pulls to users who log in: see --auth".to_owned()),
        429 => Some("the registry limits the rate of requests; logging in may raise the limit: see --auth".to_owned()),
        _ => None,
    }
}
