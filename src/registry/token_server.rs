//! May this token server see a secret of that registry's user?

use super::url::{self, Origin, Scheme, Url};
use crate::error::{Error, Result, bail};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Anonymous,
    Secret,
}

pub fn check(registry: &Origin, realm: &str, purpose: Purpose) -> Result<Url> {
    let host = &registry.endpoint;
    let shown = crate::log::escape(realm).into_owned();
    let url =
        Url::parse(realm).map_err(|e| e.context(format!("registry {host} names an invalid token server {shown:?}")))?;
    let theirs = &url.origin().endpoint;
    if theirs.is_loopback() && !host.is_loopback() {
        bail!("registry {host} names a token server on this machine: {theirs}");
    }
    // Plain HTTP only where the registry itself speaks it, on this machine.
    let plain_is_fine = registry.scheme == Scheme::Http && theirs.is_loopback();
    if url.origin().scheme == Scheme::Http && !plain_is_fine {
        bail!("registry {host} names a token server without TLS: {url}");
    }
    if purpose == Purpose::Secret && !belongs(&host.host, &theirs.host) {
        return Err(Error::new(format!(
            "registry {host} wants the user name and password sent to {theirs}, which is not known to belong to it"
        ))
        .hint("check the spelling of the registry's name"));
    }
    Ok(url)
}

/// Whether the token server `theirs` evidently belongs to `registry`.
fn belongs(registry: &str, theirs: &str) -> bool {
    const PAIRS: &[(&str, &str)] = &[
        ("registry-1.docker.io", "auth.docker.io"),
        ("registry.gitlab.com", "gitlab.com"),
        ("docker.io", "auth.docker.io"),
    ];
    if registry == theirs
        || PAIRS.contains(&(registry, theirs))
        || (url::is_loopback(registry) && url::is_loopback(theirs))
    {
        return true;
    }
    if registry.contains(':') || registry.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return false;
    }
    let Some((_, parent)) = registry.split_once('.') else { return false };
    let below = theirs == parent || theirs.strip_suffix(parent).is_some_and(|front| front.ends_with('.'));
    below && !is_public_suffix(parent)
}

/// Domains under which anybody can have a name. Not the whole public list: what matters is that neither a top-level
/// domain, nor its usual second level (`co.uk`, `ac.jp`), nor a big hoster passes for one owner.
fn is_public_suffix(domain: &str) -> bool {
    const SECOND: &[&str] = &["ac", "co", "com", "edu", "gob", "gov", "govt", "mil", "ne", "net", "or", "org", "sch"];
    const HOSTERS: &[&str] = &[
        "amazonaws.com",
        "appspot.com",
        "azurecontainerapps.io",
        "azurecr.io",
        "azurewebsites.net",
        "cloudapp.net",
        "cloudfront.net",
        "deno.dev",
        "duckdns.org",
        "firebaseapp.com",
        "fly.dev",
        "github.io",
        "gitlab.io",
        "googleapis.com",
        "herokuapp.com",
        "jfrog.io",
        "netlify.app",
        "ngrok-free.app",
        "ngrok.app",
        "ngrok.io",
        "nip.io",
        "on.aws",
        "onrender.com",
        "pages.dev",
        "pkg.dev",
        "r2.dev",
        "run.app",
        "sslip.io",
        "trycloudflare.com",
        "vercel.app",
        "web.app",
        "windows.net",
        "workers.dev",
    ];
    match domain.split_once('.') {
        None => true,
        Some((second, top)) if !top.contains('.') => {
            (top.len() == 2 && SECOND.contains(&second)) || HOSTERS.contains(&domain)
        }
        Some(_) => HOSTERS.iter().any(|h| domain.strip_suffix(h).is_some_and(|front| front.ends_with('.'))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Endpoint;

    #[test]
    fn realms_that_may_see_a_password() {
        let check_both = |registry: &str, realm: &str, anonymous: bool, secret: bool| {
            let endpoint = crate::registry::url::parse_host_port(registry, 443).unwrap();
            let scheme = if endpoint.is_loopback() { Scheme::Http } else { Scheme::Https };
            let origin = Origin::new(scheme, &endpoint);
            assert_eq!(super::check(&origin, realm, Purpose::Anonymous).is_ok(), anonymous, "{registry} {realm}");
            assert_eq!(super::check(&origin, realm, Purpose::Secret).is_ok(), secret, "{registry} {realm} with secret");
        };
        check_both("quay.io", "https://quay.io/v2/auth", true, true);
        check_both("registry-1.docker.io", "https://auth.docker.io/token", true, true);
        check_both("registry.gitlab.com", "https://gitlab.com/jwt/auth", true, true);
        check_both("registry.site.edu:5050", "https://gitlab.site.edu/jwt/auth", true, true);
        check_both("registry.site.edu", "https://site.edu/jwt/auth", true, true);
        check_both("r.hpc.site.edu", "https://auth.hpc.site.edu/", true, true);
        check_both("registry.site.edu", "https://evil.example/t", true, false);
        check_both("registry.site.edu", "https://notsite.edu/t", true, false);
        check_both("registry.site.edu", "https://site.edu.evil.example/t", true, false);
        check_both("ghrc.io", "https://ghcr.io/token", true, false);
        check_both("a.io", "https://b.io/t", true, false);
        check_both("a.co.uk", "https://b.co.uk/t", true, false);
        check_both("a.ac.jp", "https://b.ac.jp/t", true, false);
        check_both("a.azurecr.io", "https://b.azurecr.io/t", true, false);
        check_both("a.eu.azurecr.io", "https://b.eu.azurecr.io/t", true, false);
        check_both("a.jfrog.io", "https://b.jfrog.io/t", true, false);
        check_both("a.jfrog.io", "https://a.jfrog.io/t", true, true);
        check_both("10.1.2.3", "https://10.1.2.4/t", true, false);
        check_both("10.1.2.3:5000", "https://10.1.2.3:5001/t", true, true);
        check_both("registry.site.edu", "http://registry.site.edu/t", false, false);
        check_both("registry.site.edu", "https://127.0.0.1:1/t", false, false);
        check_both("registry.site.edu", "https://localhost/t", false, false);
        check_both("registry.site.edu", "file:///etc/passwd", false, false);
        check_both("registry.site.edu", "", false, false);
        check_both("127.0.0.1:5000", "http://127.0.0.1:5001/t", true, true);
        check_both("127.0.0.1:5000", "http://evil.example/t", false, false);
        check_both("localhost:5000", "http://127.0.0.1:5001/t", true, true);
    }

    #[test]
    fn refusals_name_both_hosts() {
        let origin = Origin::new(Scheme::Https, &Endpoint::new("r.example", 443));
        let e = check(&origin, "https://evil.test/t", Purpose::Secret).err().unwrap().to_string();
        assert!(e.contains("r.example:443") && e.contains("evil.test:443"), "{e}");
    }
}
