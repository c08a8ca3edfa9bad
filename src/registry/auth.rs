//! Who are we, for this registry? Challenges, token servers, and the rules on where a secret may go.
//!
//! Anonymous first, as the manual page says; a name and password only when that does not do. A password goes to the
//! registry itself, or to a token server that the registry names *and* that evidently belongs to it (same host, a
//! known pair, a common parent domain); otherwise we stop and name both hosts. Private addresses are not blocked:
//! registries of computing centres live on them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::challenge::{Challenge, choose};
use super::credentials::{Credentials, Login};
use super::http::{Authorization, Failure, Http, Method, Payload, Request, Response};
use super::token_server::{self, Purpose};
use super::url::{self, Origin, Scheme, Url};
use crate::error::{Error, Result, bail};
use crate::log::{debug, verbose};
use crate::oci::json;

/// Largest token reply, bytes.
const MAX_TOKEN_REPLY: usize = 1 << 20;
const MAX_REDIRECTS: usize = 10;
/// Life of a token whose server does not say (Docker token specification).
const DEFAULT_LIFE: u64 = 60;

/// What we want to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Scope {
    pub repository: String,
    pub access: Access,
    /// A second repository that is read from (cross-repository mount).
    pub from: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    Pull,
    Push,
}

impl Scope {
    pub fn pull(repository: &str) -> Scope {
        Scope { repository: repository.to_owned(), access: Access::Pull, from: None }
    }

    pub fn push(repository: &str) -> Scope {
        Scope { repository: repository.to_owned(), access: Access::Push, from: None }
    }

    /// Whether a refusal may be about the second repository alone: then it says nothing about name and password.
    fn is_favour(&self) -> bool {
        self.from.is_some()
    }

    /// As token servers want it.
    fn texts(&self) -> Vec<String> {
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let mut texts = vec![format!("repository:{}:{actions}", self.repository)];
        texts.extend(self.from.iter().map(|from| format!("repository:{from}:pull")));
        texts
    }
}

/// Whether to try without a name and password first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum First {
    Anonymous,
    /// `--auth`
    Login,
}

pub struct Auth {
    registry: Origin,
    credentials: Arc<dyn Credentials>,
    first: First,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the registry's last challenge asked for.
    challenge: Option<Challenge>,
    /// A login was used, and is used from now on.
    level: Level,
    basic: Option<Authorization>,
    tokens: HashMap<Scope, Token>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Debug)]
enum Level {
    #[default]
    Anonymous,
    Login,
}

struct Token {
    authorization: Authorization,
    level: Level,
    good_until: Instant,
    /// It has opened a door: if it fails later it has run out, and the same may be asked for again.
    proven: bool,
}

/// What a 401 is answered with.
pub enum Answer {
    /// Try again: [`Auth::current`] has it now.
    Retry,
    /// There is nothing (else) that we could offer.
    GiveUp,
}

impl Auth {
    pub fn new(registry: Origin, credentials: Arc<dyn Credentials>, first: First) -> Auth {
        Auth { registry, credentials, first, state: Mutex::default() }
    }

    /// What to send along unasked. A token that has run out is renewed here, before a long upload finds out.
    pub fn current(&self, http: &Http, scope: &Scope) -> Result<Option<Authorization>, Failure> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(basic) = &state.basic {
            return Ok(Some(basic.clone()));
        }
        let Some(token) = state.tokens.get(scope) else { return Ok(None) };
        if token.good_until > Instant::now() {
            return Ok(Some(token.authorization.clone()));
        }
        debug!("token has run out: asking for another");
        let level = token.level;
        state.tokens.remove(scope);
        match self.fetch(http, &mut state, scope, level)? {
            Some(authorization) => Ok(Some(authorization)),
            None => Ok(None),
        }
    }

    /// A request with this was not answered with 401.
    pub fn proven(&self, scope: &Scope, with: &Authorization) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(token) = state.tokens.get_mut(scope).filter(|t| t.authorization == *with) {
            token.proven = true;
        }
    }

    /// After a 401 from the registry to a request that had `failed` with it.
    pub fn answer(
        &self,
        http: &Http,
        response: &Response,
        scope: &Scope,
        failed: Option<&Authorization>,
    ) -> Result<Answer, Failure> {
        // Held while the token is fetched: other threads wait for it, and nobody is prompted twice.
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let known = state.basic.as_ref().or(state.tokens.get(scope).map(|t| &t.authorization));
        if let Some(known) = known
            && Some(known) != failed
        {
            return Ok(Answer::Retry);
        }
        let texts: Vec<&str> = response.headers("www-authenticate").collect();
        // Some say nothing when a token has run out: then the last challenge holds.
        let before = || state.challenge.clone().filter(|_| failed.is_some());
        let Some(challenge) = choose(&texts).or_else(before) else {
            verbose!("{}: 401 without a challenge that we understand", self.registry.endpoint);
            return Ok(Answer::GiveUp);
        };
        if scope.is_favour() && state.basic.is_some() {
            return Ok(Answer::GiveUp);
        }
        let refused = state.tokens.remove(scope);
        let basic_refused = state.basic.take().is_some();
        state.challenge = Some(challenge.clone());
        let authorization = match challenge {
            Challenge::Basic if basic_refused => return Err(self.refused("the user name and password")),
            Challenge::Basic => {
                let login = self.login()?;
                let Some(Login::Password { user, password }) = login else { return Ok(Answer::GiveUp) };
                let authorization = Authorization::basic(&user, &password);
                state.basic = Some(authorization.clone());
                state.level = Level::Login;
                Some(authorization)
            }
            Challenge::Bearer { .. } => match refused {
                None => self.fetch_first(http, &mut state, scope)?,
                Some(token) if token.proven => self.fetch(http, &mut state, scope, token.level)?,
                Some(Token { level: Level::Anonymous, .. }) => self.fetch(http, &mut state, scope, Level::Login)?,
                // Refused although fresh, as who we are: there is nothing more to say.
                Some(Token { level: Level::Login, .. }) => None,
            },
        };
        Ok(authorization.map_or(Answer::GiveUp, |_| Answer::Retry))
    }

    /// The first token for a scope: anonymous if that may do, else as somebody.
    fn fetch_first(&self, http: &Http, state: &mut State, scope: &Scope) -> Result<Option<Authorization>, Failure> {
        let wants_login = self.first == First::Login || state.level == Level::Login || scope.access == Access::Push;
        if wants_login && let Some(authorization) = self.fetch(http, state, scope, Level::Login)? {
            return Ok(Some(authorization));
        }
        if let Some(authorization) = self.fetch(http, state, scope, Level::Anonymous)? {
            return Ok(Some(authorization));
        }
        if wants_login { Ok(None) } else { self.fetch(http, state, scope, Level::Login) }
    }

    /// `None`: refused to the anonymous, nobody to ask for a name, or only a favour.
    fn fetch(
        &self,
        http: &Http,
        state: &mut State,
        scope: &Scope,
        level: Level,
    ) -> Result<Option<Authorization>, Failure> {
        let Some(Challenge::Bearer { realm, service, scopes }) = state.challenge.clone() else { return Ok(None) };
        let login = match level {
            Level::Anonymous => None,
            Level::Login => match self.login()? {
                Some(login) => Some(login),
                None => return Ok(None),
            },
        };
        let purpose = if login.is_some() { Purpose::Secret } else { Purpose::Anonymous };
        let realm = token_server::check(&self.registry, &realm, purpose).map_err(Failure::Lasting)?;
        let scopes = merge(scope.texts(), scopes);
        let asked = Instant::now();
        let reply = ask(http, &realm, service.as_deref(), &scopes, login.as_ref())?;
        let bytes = match reply.status {
            200 => reply.bytes(MAX_TOKEN_REPLY)?,
            401 | 403 if login.is_none() || scope.is_favour() => {
                reply.finish();
                return Ok(None);
            }
            401 | 403 => {
                debug!("{}", reply.into_error());
                return Err(self.refused("the user name and password"));
            }
            status if super::retry::is_transient(status) => {
                let asked = reply.retry_after();
                return Err(Failure::Busy(reply.into_error(), asked));
            }
            _ => return Err(Failure::Lasting(reply.into_error().context("can't get a token"))),
        };
        let (authorization, life) = read_token(&bytes)
            .map_err(|e| Failure::Lasting(e.context(format!("invalid answer of token server {}", realm.origin()))))?;
        // A tenth early, so that a token does not run out on its way.
        let good_until = asked + life.mul_f64(0.9);
        state.level = state.level.max(level);
        let token = Token { authorization: authorization.clone(), level, good_until, proven: false };
        state.tokens.insert(scope.clone(), token);
        Ok(Some(authorization))
    }

    /// After "not found" or "forbidden" to somebody anonymous: uses a login that is known for this registry without
    /// asking anybody. Whether there is one that was not used before.
    pub fn introduce(&self, http: &Http, scope: &Scope) -> Result<bool, Failure> {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if state.level == Level::Login {
            return Ok(false);
        }
        let Some(login) = self.credentials.known(&self.registry.endpoint).map_err(Failure::Lasting)? else {
            return Ok(false);
        };
        match (&state.challenge, login) {
            (Some(Challenge::Bearer { .. }), _) => match self.fetch(http, &mut state, scope, Level::Login) {
                Ok(authorization) => Ok(authorization.is_some()),
                // What the anonymous were told stands.
                Err(failure) => {
                    verbose!("{}", failure.into_error());
                    Ok(false)
                }
            },
            (Some(Challenge::Basic) | None, Login::Password { user, password }) => {
                state.basic = Some(Authorization::basic(&user, &password));
                state.level = Level::Login;
                Ok(true)
            }
            (Some(Challenge::Basic) | None, Login::IdentityToken(_)) => Ok(false),
        }
    }

    fn login(&self) -> Result<Option<Login>, Failure> {
        self.credentials.find(&self.registry.endpoint).map_err(Failure::Lasting)
    }

    fn refused(&self, what: &str) -> Failure {
        self.credentials.refused(&self.registry.endpoint);
        let error = Error::new(format!("login failed: {} refused {what}", self.registry.endpoint));
        Failure::Lasting(error.hint(
            "where they are given for this registry, CH_IMAGE_USERNAME and CH_IMAGE_PASSWORD come first, then files such \
             as ~/.docker/config.json (-v tells which)",
        ))
    }
}

impl Auth {
    pub fn registry(&self) -> &Origin {
        &self.registry
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Auth({})", self.registry)
    }
}

/// Asks a token server. A redirect to another origin is followed without the secret.
fn ask(
    http: &Http,
    realm: &Url,
    service: Option<&str>,
    scopes: &[String],
    login: Option<&Login>,
) -> Result<Response, Failure> {
    if let Some(Login::IdentityToken(token)) = login {
        let form = [
            ("grant_type", "refresh_token"),
            ("service", service.unwrap_or("")),
            ("client_id", "ch-image"),
            ("scope", &scopes.join(" ")),
            ("refresh_token", &**token),
        ];
        let form: Vec<String> = form.iter().map(|(k, v)| format!("{k}={}", url::encode(v))).collect();
        return http.send(
            Request {
                method: Method::Post,
                url: realm,
                headers: &[("content-type", "application/x-www-form-urlencoded".into())],
                authorization: None,
            },
            Payload::Bytes(form.join("&").as_bytes()),
        );
    }
    let authorization = match login {
        Some(Login::Password { user, password }) => Some(Authorization::basic(user, password)),
        _ => None,
    };
    let mut url = realm.clone();
    if let Some(service) = service {
        url = url.with_query("service", service);
    }
    for scope in scopes {
        url = url.with_query("scope", scope);
    }
    for _ in 0..=MAX_REDIRECTS {
        let own = url.origin() == realm.origin();
        let response = http.send(
            Request {
                method: Method::Get,
                url: &url,
                headers: &[],
                authorization: authorization.as_ref().filter(|_| own),
            },
            Payload::None,
        )?;
        match next_hop(&response).map_err(Failure::Lasting)? {
            Some(next) => url = next,
            None => return Ok(response),
        }
        response.finish();
    }
    Err(Failure::Lasting(Error::new(format!("more than {MAX_REDIRECTS} redirects")).context(realm.to_string())))
}

/// Where a redirect leads; `None` if the answer is none. Never from TLS to plain text.
pub fn next_hop(response: &Response) -> Result<Option<Url>> {
    if !matches!(response.status, 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let from = &response.url;
    let Some(location) = response.header("location") else {
        bail!("{from}: redirect without a location");
    };
    let next = from.join(location).map_err(|e| e.context(format!("{from}: invalid redirect")))?;
    forbid_downgrade(from, &next)?;
    Ok(Some(next))
}

pub fn forbid_downgrade(from: &Url, to: &Url) -> Result<()> {
    match (from.origin().scheme, to.origin().scheme) {
        (Scheme::Https, Scheme::Http) => bail!("{from}: redirect from https to http refused: {to}"),
        _ => Ok(()),
    }
}

/// `token`, else `access_token`; `expires_in` in seconds.
fn read_token(bytes: &[u8]) -> Result<(Authorization, Duration)> {
    let value = json::parse(bytes)?;
    let text = |key: &str| value.get(key).and_then(|v| v.as_str()).filter(|s| !s.is_empty());
    let Some(token) = text("token").or_else(|| text("access_token")) else { bail!("no token in it") };
    let seconds = value.get("expires_in").and_then(|v| v.as_u64()).filter(|&s| s > 0).unwrap_or(DEFAULT_LIFE);
    Ok((Authorization::bearer(token)?, Duration::from_secs(seconds.min(86_400))))
}

/// Ours, and what the registry asked for beyond them.
fn merge(mut ours: Vec<String>, theirs: Vec<String>) -> Vec<String> {
    for scope in theirs {
        let covered = |own: &String| {
            own == &scope || {
                // `repository:x:pull` is part of `repository:x:pull,push`.
                let (name, actions) = scope.rsplit_once(':').unwrap_or((&scope, ""));
                own.rsplit_once(':')
                    .is_some_and(|(n, have)| n == name && actions.split(',').all(|a| have.split(',').any(|h| h == a)))
            }
        };
        if !ours.iter().any(covered) {
            ours.push(scope);
        }
    }
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let check = |text: &str, want: Option<u64>| {
            assert_eq!(read_token(text.as_bytes()).ok().map(|(_, life)| life.as_secs()), want, "{text}")
        };
        check(r#"{"token":"t","expires_in":300}"#, Some(300));
        check(r#"{"access_token":"t"}"#, Some(60));
        check(r#"{"token":"t","expires_in":-1}"#, Some(60));
        check(r#"{"token":"t","expires_in":1e99}"#, Some(60));
        check(r#"{"token":"t","expires_in":999999999999}"#, Some(86_400));
        check(r#"{"token":null}"#, None);
        check(r#"{"token":""}"#, None);
        check(r#"{"token":"a\r\nX: y"}"#, None);
        check(r#"{"token":7}"#, None);
        check("[]", None);
        check("<html>", None);
        let both = read_token(br#"{"token":"first","access_token":"second"}"#).unwrap().0;
        assert!(both == Authorization::bearer("first").unwrap());
    }

    #[test]
    fn scopes_merge() {
        let check = |theirs: &[&str], want: &[&str]| {
            let ours = Scope { from: Some("base".into()), ..Scope::push("x") }.texts();
            assert_eq!(merge(ours, theirs.iter().map(|s| (*s).to_owned()).collect()), want)
        };
        check(&["repository:x:pull"], &["repository:x:pull,push", "repository:base:pull"]);
        check(&[], &["repository:x:pull,push", "repository:base:pull"]);
        check(&["repository:x:delete"], &["repository:x:pull,push", "repository:base:pull", "repository:x:delete"]);
        check(&["odd"], &["repository:x:pull,push", "repository:base:pull", "odd"]);
    }
}
