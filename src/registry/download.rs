//! What does a web server have? Files for ADD, over the same connections, proxies and certificates as registries, but
//! without any credentials.

use std::io::{self, Read};
use std::sync::Arc;

use ureq::BodyReader;

use super::auth::next_hop;
use super::http::{Failure, Http, Method, Payload, Request, Response, Timeouts};
use super::net::Network;
use super::retry::{self, Policy};
use super::settings::Settings;
use super::url::Url;
use crate::error::{Error, Result};

const MAX_REDIRECTS: usize = 10;

/// What a server says to tell versions of a file apart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Validators {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
}

pub enum Answer {
    /// The file is what it was when it had the given validators.
    Unchanged,
    Is(Download),
}

/// A file under way. Reading fails if it ends before the length that the server promised.
pub struct Download {
    pub validators: Validators,
    /// `Last-Modified`, seconds since 1970.
    pub time: Option<u64>,
    pub length: Option<u64>,
    body: BodyReader<'static>,
}

impl Read for Download {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.body.read(buf)
    }
}

pub struct Web {
    http: Http,
    policy: Policy,
}

impl Web {
    pub fn new(settings: &Settings, policy: Policy) -> Result<Web> {
        let timeouts = Timeouts::default();
        let network = Network {
            proxies: settings.proxies.clone(),
            verified: settings.trust.config()?,
            unverified: None,
            connect_timeout: timeouts.connect,
        };
        Ok(Web { http: Http::new(Arc::new(network), timeouts, 1), policy })
    }

    /// Asks for a file; with validators, only if it has changed. Statuses that may pass are tried again.
    pub fn get(&self, url: &str, known: Option<&Validators>) -> Result<Answer> {
        let url = Url::parse(url)?;
        let mut headers = Vec::new();
        if let Some(known) = known {
            let conditions = [("if-none-match", &known.etag), ("if-modified-since", &known.last_modified)];
            headers.extend(conditions.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        }
        let mut tried = 0;
        loop {
            tried += 1;
            match self.follow(&url, &headers) {
                Ok(response) if response.status == 304 && known.is_some() => {
                    response.finish();
                    return Ok(Answer::Unchanged);
                }
                Ok(response) if response.status == 200 => return Ok(Answer::Is(download(response))),
                Ok(response) if retry::is_transient(response.status) => {
                    let asked = response.retry_after();
                    self.policy.again(tried, asked, response.into_plain_error())?
                }
                Ok(response) => return Err(response.into_plain_error()),
                Err(Failure::Passing(error)) => self.policy.again(tried, None, error)?,
                Err(Failure::Busy(error, asked)) => self.policy.again(tried, asked, error)?,
                Err(Failure::Unreached(error)) => self.policy.with_stranger().again(tried, None, error)?,
                Err(Failure::Lasting(error)) => return Err(error),
            }
        }
    }

    fn follow(&self, url: &Url, headers: &[(&'static str, String)]) -> Result<Response, Failure> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let request = Request { method: Method::Get, url: &url, headers, authorization: None };
            let response = self.http.send(request, Payload::None)?;
            match next_hop(&response).map_err(Failure::Lasting)? {
                None => return Ok(response),
                Some(next) => {
                    response.finish();
                    url = next;
                }
            }
        }
        Err(Failure::Lasting(Error::new(format!("more than {MAX_REDIRECTS} redirects")).context(url.to_string())))
    }
}

fn download(response: Response) -> Download {
    let text = |name: &str| response.header(name).map(str::trim).filter(|v| !v.is_empty()).map(str::to_owned);
    let validators = Validators { etag: text("etag"), last_modified: text("last-modified") };
    let time = validators.last_modified.as_deref().and_then(retry::http_date);
    Download { time, validators, length: response.length(), body: response.into_body() }
}
