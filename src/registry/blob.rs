//! Reading a blob: a `Read` of exactly the bytes that its descriptor promises, over as many connections as it takes.
//!
//! Content is not verified here: the caller hashes, because it may begin in the middle. Each new try asks the
//! registry again, since a signed URL of its storage may have run out.

use std::io::{self, Read};

use ureq::BodyReader;

use super::auth::Scope;
use super::client::{Call, Client, not_html};
use super::http::{Failure, Method, Response, sort_io};
use super::url::Url;
use crate::error::{Context, Error, Result, bail};
use crate::log::verbose;
use crate::oci::digest::Digest;
use crate::oci::json::MAX_DOCUMENT;
use crate::oci::manifest::Descriptor;

/// Progress after which failures are forgiven: a bad network is not a dead one.
const FORGIVEN_AFTER: u64 = 64 << 10;

/// Bytes `offset..size` of a blob. An error that it returns is final and is one of ours.
pub struct BlobReader<'a> {
    client: &'a Client,
    url: Url,
    scope: Scope,
    digest: Digest,
    size: u64,
    /// Bytes handed out, counted from the beginning of the blob.
    at: u64,
    body: Option<BodyReader<'static>>,
    /// How many bytes that the caller has already come first, from a server that starts over.
    behind: u64,
    etag: Option<String>,
    range: Ranges,
    failures: u32,
    /// Where the last failure was.
    failed_at: u64,
}

/// Whether a blob is in a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    Here,
    Absent,
    /// The registry's storage, to which it redirects, gives no answer.
    Untold,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ranges {
    Trusted,
    /// The server answers ranges with other bytes than asked for: read from the beginning and drop what we have.
    Broken,
}

impl Client {
    /// Opens a blob at `offset`. No request is made if that is its end.
    pub fn blob(&self, repository: &str, descriptor: &Descriptor, offset: u64) -> Result<BlobReader<'_>> {
        let digest = descriptor.digest;
        if offset > descriptor.size {
            bail!("blob {digest}: offset {offset} is past its size {}", descriptor.size);
        }
        let mut reader = BlobReader {
            client: self,
            url: self.url(&format!("/v2/{repository}/blobs/{digest}"))?,
            scope: Scope::pull(repository),
            digest,
            size: descriptor.size,
            at: offset,
            body: None,
            behind: 0,
            etag: None,
            range: Ranges::Trusted,
            failures: 0,
            failed_at: offset,
        };
        if offset < descriptor.size {
            reader.open()?;
        }
        Ok(reader)
    }

    /// A whole small blob (a configuration), verified.
    pub fn blob_bytes(&self, repository: &str, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.size > MAX_DOCUMENT as u64 {
            bail!("blob {} too large: {} bytes (limit {MAX_DOCUMENT})", descriptor.digest, descriptor.size);
        }
        let mut bytes = Vec::with_capacity(descriptor.size as usize);
        self.blob(repository, descriptor, 0)?.read_to_end(&mut bytes).context(|| "can't download")?;
        let got = Digest::of(&bytes);
        if got != descriptor.digest {
            bail!("digest mismatch: expected {} but got {got}", descriptor.digest);
        }
        Ok(bytes)
    }

    /// Whether the registry is known to have a blob.
    pub fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        Ok(self.look_for_blob(repository, digest)? == Presence::Here)
    }

    /// Whether the registry has a blob, as far as it tells.
    pub fn look_for_blob(&self, repository: &str, digest: &Digest) -> Result<Presence> {
        let url = self.url(&format!("/v2/{repository}/blobs/{digest}"))?;
        let scope = Scope::push(repository);
        let ask = |method, headers: &[(&'static str, String)]| {
            self.perform(&Call { method, url: &url, scope: &scope, headers, bytes: None })
        };
        let mut response = ask(Method::Head, &[])?;
        let is_storage = |response: &Response| response.url != url;
        // An address of the registry's storage may be signed for GET alone.
        if matches!(response.status, 405 | 501) || is_storage(&response) && !matches!(response.status, 200 | 404) {
            response.finish();
            response = ask(Method::Get, &[("range", "bytes=0-0".to_owned())])?;
        }
        match response.status {
            // 416: an empty blob has no first byte.
            200 | 206 | 416 => Ok(Presence::Here),
            404 => Ok(Presence::Absent),
            // The registry itself did not refuse: it knows of the blob, and its storage does not talk to us.
            _ if is_storage(&response) => {
                verbose!("{}", response.into_error());
                Ok(Presence::Untold)
            }
            401 => Err(self.denied(response)),
            _ => Err(response.into_error()),
        }
    }
}

impl BlobReader<'_> {
    /// Asks for the bytes from here on, until `body` begins with them, or with those before them.
    fn open(&mut self) -> Result<()> {
        // Twice at most: with a range, then without.
        for _ in 0..2 {
            let ranged = self.at > 0 && self.range == Ranges::Trusted;
            let range = [("range", format!("bytes={}-", self.at))];
            let headers = if ranged { &range[..] } else { &[] };
            let call = Call { method: Method::Get, url: &self.url, scope: &self.scope, headers, bytes: None };
            let response = self.client.perform(&call)?;
            match response.status {
                200 => {
                    not_html(&response)?;
                    self.check_length(&response, self.size)?;
                    self.etag = self.etag.take().or(response.header("etag").map(str::to_owned));
                    (self.body, self.behind) = (Some(response.into_body()), self.at);
                    return Ok(());
                }
                206 if ranged && self.is_what_we_asked(&response) => {
                    self.check_length(&response, self.size - self.at)?;
                    (self.body, self.behind) = (Some(response.into_body()), 0);
                    return Ok(());
                }
                206 | 416 if ranged => {
                    verbose!("blob {}: wrong answer to a range: starting over", self.digest.short());
                    self.range = Ranges::Broken;
                }
                401 => return Err(self.client.denied(response)),
                404 => return Err(response.into_error().context(format!("blob {} is missing", self.digest))),
                _ => return Err(response.into_error()),
            }
        }
        bail!("blob {}: the server answers with other ranges than asked for", self.digest)
    }

    fn is_what_we_asked(&self, response: &Response) -> bool {
        let want = format!("bytes {}-{}/{}", self.at, self.size - 1, self.size);
        let range = response.header("content-range").map(str::trim);
        let same = match (&self.etag, response.header("etag")) {
            (Some(before), Some(now)) => before == now,
            _ => true,
        };
        range == Some(&want) && same
    }

    fn check_length(&self, response: &Response, want: u64) -> Result<()> {
        match response.length() {
            Some(n) if n != want => {
                bail!("blob {}: server sends {n} bytes where the manifest says {want}", self.digest)
            }
            _ => Ok(()),
        }
    }

    /// At the end: nothing more may come.
    fn finish(&mut self) -> io::Result<()> {
        let Some(mut body) = self.body.take() else { return Ok(()) };
        match body.read(&mut [0]) {
            // All bytes are here; how the connection ends does not matter.
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => {
                Err(Error::new(format!("blob {} is longer than the {} bytes promised", self.digest, self.size)).into())
            }
        }
    }

    /// After a break: waits and opens again, or gives up.
    fn resume(&mut self, failure: Failure) -> Result<()> {
        self.body = None;
        let error = match failure {
            Failure::Passing(error) | Failure::Busy(error, _) | Failure::Unreached(error) => error,
            Failure::Lasting(error) => return Err(error.context(format!("blob {}", self.digest))),
        };
        if self.at >= self.failed_at.saturating_add(FORGIVEN_AFTER) {
            self.failures = 0;
        }
        self.failed_at = self.at;
        self.failures += 1;
        if self.failures > self.client.policy.retries {
            let about = format!("blob {}: gave up at byte {} of {}", self.digest, self.at, self.size);
            return Err(error.context(about));
        }
        self.client.policy.pause(self.failures, None, &error)?;
        self.open()
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let left = self.size - self.at;
            if left == 0 {
                self.finish()?;
                return Ok(0);
            }
            let wanted = if self.behind > 0 { self.behind } else { left };
            let room = buf.len().min(usize::try_from(wanted).unwrap_or(usize::MAX));
            let failure = match &mut self.body {
                None => Failure::Passing(Error::new("not connected")),
                Some(body) => match body.read(&mut buf[..room]) {
                    Ok(0) => Failure::Passing(Error::new("connection closed by the server")),
                    Ok(n) if self.behind > 0 => {
                        self.behind -= n as u64;
                        continue;
                    }
                    Ok(n) => {
                        self.at += n as u64;
                        return Ok(n);
                    }
                    Err(e) => sort_io(e),
                },
            };
            self.resume(failure)?;
        }
    }
}
