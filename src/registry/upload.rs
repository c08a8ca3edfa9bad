//! Uploading blobs: one PUT where the registry takes it, PATCH and PUT where it does not, pieces where it is limited.
//!
//! A broken upload starts over from its first byte: how much the registry kept is known only to some of them.

use std::io::{self, Read};
use std::sync::MutexGuard;

use super::auth::{Answer, Scope, forbid_downgrade, next_hop};
use super::client::{Begun, Call, Client, has_expired};
use super::http::{Failure, Method, Payload, Response};
use super::retry;
use super::url::Url;
use crate::error::{Context, Error, Result, bail};
use crate::log::{debug, verbose};
use crate::oci::digest::Digest;

/// Bytes per request if the whole is too large for a proxy in front of the registry (nginx and CDNs limit that); an
/// eighth of it each time that it is still too much, down to half of nginx's default limit.
const PIECE: u64 = 32 << 20;
const SMALLEST_PIECE: u64 = 512 << 10;
/// From so many bytes on, the server is asked whether it wants them before they go out (RFC 9110, section 10.1.1). A
/// refusal that comes while they do closes the connection, and is lost.
const WORTH_ASKING: u64 = 256 << 10;

const MAX_REDIRECTS: usize = 10;

/// How the bytes are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    /// POST, PUT (OCI distribution specification, "POST then PUT").
    Whole,
    /// POST, PATCH, PUT: what Docker does.
    Patch,
    /// POST, several PATCH of so many bytes, PUT.
    Pieces(u64),
}

/// How an attempt ended, if not with an error that lasts.
enum Outcome {
    Done,
    /// The registry cannot do it in this manner.
    Other(Manner, Error),
    Again(Error, Option<std::time::Duration>),
    /// Something between does not know `Expect`: it wants the same without (RFC 9110, section 10.1.1).
    Unasked(Error),
}

/// What is uploaded.
struct Source<'a> {
    digest: &'a Digest,
    size: u64,
    open: &'a mut dyn FnMut() -> Result<Box<dyn Read>>,
    progress: &'a dyn Fn(u64),
    /// Whether the server may be asked before the bytes go out.
    asks: bool,
}

impl Source<'_> {
    /// Those of a request with so many of its bytes.
    fn headers(&self, length: u64) -> Vec<(&'static str, String)> {
        let mut headers = vec![("content-type", "application/octet-stream".to_owned())];
        if self.asks && length >= WORTH_ASKING {
            headers.push(("expect", "100-continue".to_owned()));
        }
        headers
    }
}

impl Client {
    /// Makes a blob of `from_repository` appear in `repository` without a transfer. False if it has to be uploaded, for
    /// whatever reason: that the other repository may not be read (any more), say, is no failure of a push.
    pub fn mount_blob(&self, repository: &str, digest: &Digest, from_repository: &str) -> bool {
        let mount = || -> Result<bool> {
            let url = self.url(&format!("/v2/{repository}/blobs/uploads/"))?;
            let url = url.with_query("mount", &digest.to_string()).with_query("from", from_repository);
            let scope = Scope { from: Some(from_repository.to_owned()), ..Scope::push(repository) };
            let call = Call { method: Method::Post, url: &url, scope: &scope, headers: &[], bytes: None };
            let response = self.perform(&call)?;
            debug!("mount of {} from {from_repository}: {}", digest.short(), response.status);
            let mounted = response.status == 201;
            // An upload that was begun instead is left to run out: cancelling costs a request and is not understood by all.
            response.finish();
            // As after an upload: one that says "created" and has nothing is worth one question (F10).
            Ok(mounted && self.has_blob(repository, digest)?)
        };
        mount().unwrap_or_else(|e| {
            verbose!("can't mount {} from {from_repository}: {e}", digest.short());
            false
        })
    }

    /// Begins an upload, for whichever blob comes first. Shows *before* long work that we may push: many registries let
    /// everybody read, and ask only here who we are.
    pub fn begin_upload(&self, repository: &str) -> Result<()> {
        let begun = self.start_upload(repository)?;
        // A place elsewhere is signed, and may run out meanwhile.
        let own = self.url("/")?.origin().clone();
        *self.begun() = begun.filter(|begun| *begun.place.origin() == own);
        Ok(())
    }

    fn begun(&self) -> MutexGuard<'_, Option<Begun>> {
        self.begun.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// `None`: the registry says that there is nothing to be uploaded.
    fn start_upload(&self, repository: &str) -> Result<Option<Begun>> {
        let url = self.url(&format!("/v2/{repository}/blobs/uploads/"))?;
        let scope = Scope::push(repository);
        let call = Call { method: Method::Post, url: &url, scope: &scope, headers: &[], bytes: None };
        let response = self.perform(&call)?;
        match response.status {
            202 => {}
            // Some registries know from the digest of a mount or from deduplication that they have it.
            201 => return Ok(None),
            401 => return Err(self.denied(response)),
            _ => return Err(response.into_error().context("can't start an upload")),
        }
        let minimum = response.header("oci-chunk-min-length").and_then(|v| v.trim().parse().ok()).unwrap_or(0);
        let place = location(&response, &response.url)?;
        response.finish();
        Ok(Some(Begun { repository: repository.to_owned(), place, minimum }))
    }

    /// Uploads a blob that the registry does not have. `open` gives its bytes from the beginning, once per try;
    /// `progress` is told how many are on their way (and begins again with each try).
    pub fn upload_blob(
        &self,
        repository: &str,
        digest: &Digest,
        size: u64,
        open: &mut dyn FnMut() -> Result<Box<dyn Read>>,
        progress: &dyn Fn(u64),
    ) -> Result<()> {
        let mut source = Source { digest, size, open, progress, asks: true };
        let mut manner = Manner::Whole;
        let mut tried = 0;
        loop {
            let (error, asked) = match self.upload_once(repository, &mut source, manner)? {
                Outcome::Done => return Ok(()),
                Outcome::Other(other, error) => {
                    verbose!("{error}; trying another way of uploading");
                    manner = other;
                    continue;
                }
                Outcome::Unasked(_) if source.asks => {
                    source.asks = false;
                    continue;
                }
                Outcome::Unasked(error) => return Err(error),
                Outcome::Again(error, asked) => (error, asked),
            };
            tried += 1;
            self.policy.again(tried, asked, error).context(|| format!("blob {digest}"))?;
            // The connection may have broken after the registry had it all.
            if self.has_blob(repository, digest)? {
                return Ok(());
            }
        }
    }

    fn upload_once(&self, repository: &str, source: &mut Source, manner: Manner) -> Result<Outcome> {
        let scope = Scope::push(repository);
        let begun = self.begun().take().filter(|begun| begun.repository == repository);
        let begun = begun.map_or_else(|| self.start_upload(repository), |begun| Ok(Some(begun)))?;
        let Some(Begun { mut place, minimum, .. }) = begun else { return Ok(Outcome::Done) };
        let mut reader = Counting::new(source)?;
        if manner == Manner::Whole {
            let mut last = place.with_query("digest", &source.digest.to_string());
            let headers = source.headers(source.size);
            for _ in 0..MAX_REDIRECTS {
                let payload = Payload::Stream(source.size, &mut reader);
                let sent = self.send_upload(Method::Put, &last, &scope, &headers, payload);
                let response = match sent {
                    Ok(response) if matches!(response.status, 307 | 308) => response,
                    other => return self.judge(other, reader.failed, manner),
                };
                let Some(next) = next_hop(&response)? else { break };
                response.finish();
                last = next;
                reader = Counting::new(source)?;
            }
            bail!("{last}: more than {MAX_REDIRECTS} redirects of an upload");
        }
        let piece = match manner {
            Manner::Pieces(size) => size.max(minimum),
            Manner::Whole | Manner::Patch => u64::MAX,
        };
        while reader.sent < source.size {
            let from = reader.sent;
            let length = piece.min(source.size - from);
            let mut headers = source.headers(length);
            if let Manner::Pieces(_) = manner {
                headers.push(("content-range", format!("{from}-{}", from + length - 1)));
            }
            let mut part = (&mut reader).take(length);
            let payload = Payload::Stream(length, &mut part);
            let sent = self.send_upload(Method::Patch, &place, &scope, &headers, payload);
            let response = match sent {
                Ok(response) if matches!(response.status, 200..=204) => response,
                other => return self.judge(other, reader.failed, manner),
            };
            place = location(&response, &place)?;
            response.finish();
        }
        let last = place.with_query("digest", &source.digest.to_string());
        let sent = self.send_upload(Method::Put, &last, &scope, &[], Payload::None);
        self.judge(sent, None, manner)
    }

    /// One request of an upload. Who we are is settled by the POST before it, and a token that runs out is renewed
    /// before it is used; a 401 all the same is answered for the next try.
    fn send_upload(
        &self,
        method: Method,
        url: &Url,
        scope: &Scope,
        headers: &[(&'static str, String)],
        payload: Payload,
    ) -> Result<Response, Failure> {
        let (mut response, used) = self.send(method, url, scope, headers, payload)?;
        let refused = response.status == 401 || has_expired(&mut response, method, used.as_ref());
        if refused
            && self.is_own(url)?
            && let Answer::Retry = self.reauthorize(&response, scope, used.as_ref())?
        {
            return Err(Failure::Passing(response.into_error()));
        }
        Ok(response)
    }

    /// What an answer to an upload's request means.
    fn judge(&self, sent: Result<Response, Failure>, local: Option<Error>, manner: Manner) -> Result<Outcome> {
        if let Some(error) = local {
            return Err(error);
        }
        let response = match sent {
            Ok(response) => response,
            Err(Failure::Passing(error) | Failure::Unreached(error)) => return Ok(Outcome::Again(error, None)),
            Err(Failure::Busy(error, asked)) => return Ok(Outcome::Again(error, asked)),
            Err(Failure::Lasting(error)) => return Err(error),
        };
        match response.status {
            200..=204 => {
                response.finish();
                Ok(Outcome::Done)
            }
            401 => Err(self.denied(response)),
            417 => Ok(Outcome::Unasked(response.into_error())),
            413 => match manner {
                Manner::Whole | Manner::Patch => Ok(Outcome::Other(Manner::Pieces(PIECE), response.into_error())),
                Manner::Pieces(size) if size > SMALLEST_PIECE => {
                    Ok(Outcome::Other(Manner::Pieces(size / 8), response.into_error()))
                }
                Manner::Pieces(_) => Err(response.into_error()),
            },
            400 | 404 | 405 | 411 | 415 | 501 if manner == Manner::Whole => {
                Ok(Outcome::Other(Manner::Patch, response.into_error()))
            }
            // The upload, or a part of it, is not known any more.
            404 | 416 => Ok(Outcome::Again(response.into_error(), None)),
            status if retry::is_transient(status) => {
                let asked = response.retry_after();
                Ok(Outcome::Again(response.into_error(), asked))
            }
            _ => Err(response.into_error()),
        }
    }
}

/// Where the upload goes on: `Location`, perhaps on another host, which then sees no secret of ours.
fn location(response: &Response, from: &Url) -> Result<Url> {
    let Some(text) = response.header("location") else { bail!("{from}: registry gave no upload location") };
    let url = from.join(text).map_err(|e| e.context(format!("{from}: invalid upload location")))?;
    forbid_downgrade(from, &url)?;
    Ok(url)
}

/// Counts what goes out, stops at the size promised, and keeps an error of reading apart from those of the network.
struct Counting<'a> {
    inner: Box<dyn Read>,
    sent: u64,
    size: u64,
    progress: &'a dyn Fn(u64),
    failed: Option<Error>,
}

impl<'a> Counting<'a> {
    fn new(source: &mut Source<'a>) -> Result<Counting<'a>> {
        Ok(Counting { inner: (source.open)()?, sent: 0, size: source.size, progress: source.progress, failed: None })
    }
}

impl Read for Counting<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = buf.len().min(usize::try_from(self.size - self.sent).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let error = match self.inner.read(&mut buf[..room]) {
            Ok(0) => Error::new(format!("only {} of {} bytes are there", self.sent, self.size)),
            Ok(n) => {
                self.sent += n as u64;
                (self.progress)(self.sent);
                return Ok(n);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => match Err::<(), _>(e).context(|| "can't read what is to be uploaded") {
                Ok(()) => return Ok(0),
                Err(error) => error,
            },
        };
        self.failed = Some(error.clone());
        Err(error.into())
    }
}
