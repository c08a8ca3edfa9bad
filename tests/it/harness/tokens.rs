//! A token server (Docker token specification) whose signatures `docker-registry` believes: JWT, RS256, made by openssl.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::registry::{self, Reply, Seen};
use super::server::certificates;

/// Anybody may pull; `user` with `pass` may push, too.
pub struct Tokens {
    pub server: registry::Server,
}

/// `user:pass`
const LOGIN: &str = "Basic dXNlcjpwYXNz";

impl Tokens {
    /// The caller says `needs!("openssl")` first.
    pub fn start() -> Tokens {
        Tokens { server: registry::Server::start(answer) }
    }

    /// What the registry's configuration says of it.
    pub fn configuration(&self) -> String {
        format!(
            "auth: {{token: {{realm: {:?}, service: test, issuer: tests, rootcertbundle: {:?}}}}}\n",
            self.server.url("/token"),
            certificates().join("tokens.pem")
        )
    }
}

fn answer(seen: &Seen) -> Reply {
    let actions = match seen.header("authorization") {
        None => &["pull"][..],
        Some(LOGIN) => &["pull", "push"],
        Some(_) => return Reply::new(401).body("bad credentials"),
    };
    let access: Vec<Value> = seen.query("scope").iter().filter_map(|scope| grant(scope, actions)).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "tests", "sub": "", "aud": "test", "nbf": now - 5, "iat": now, "exp": now + 300, "jti": "1", "access": access,
    });
    Reply::new(200)
        .header("Content-Type", "application/json")
        .body(json!({"token": sign(&claims), "expires_in": 300}).to_string())
}

/// `repository:NAME:pull,push`, as far as it is allowed.
fn grant(scope: &str, allowed: &[&str]) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, asked) = rest.rsplit_once(':')?;
    let granted: Vec<&str> = asked.split(',').filter(|action| allowed.contains(action)).collect();
    Some(json!({"type": kind, "name": name, "actions": granted}))
}

fn sign(claims: &Value) -> String {
    let x5c = std::fs::read_to_string(certificates().join("tokens.x5c")).unwrap();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [x5c]});
    let script = "\
        url() { openssl base64 -A | tr '+/' '-_' | tr -d =; }\n\
        text=$(printf %s \"$1\" | url).$(printf %s \"$2\" | url)\n\
        printf %s.%s \"$text\" \"$(printf %s \"$text\" | openssl dgst -sha256 -sign tokens.key | url)\"";
    let made = Command::new("sh")
        .args(["-ec", script, "sh", &header.to_string(), &claims.to_string()])
        .current_dir(certificates())
        .output()
        .unwrap();
    String::from_utf8(made.stdout).unwrap()
}
