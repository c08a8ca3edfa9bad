//! What does `RUN --mount=…` mount? (A.14)
//!
//! Read twice: when the file is parsed only the form is checked, because values may hold variables; when the
//! instruction is evaluated, values are expanded and everything is checked. The order of keys matters: what may follow
//! depends on the `type` read so far.

use super::diagnostic::nearest;
use super::{csv, path};
use crate::error::{Error, Result, bail};

/// One mount, with all defaults filled in. Targets are absolute and clean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// Of the context, or of the stage or image `from`. What is written is discarded.
    Bind { from: Option<String>, source: String, target: String, read_only: bool },
    /// A directory that outlives the build; empty at first, or what `from` and `source` say.
    Cache {
        id: String,
        from: Option<String>,
        source: Option<String>,
        target: String,
        read_only: bool,
        sharing: Sharing,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// Size in bytes.
    Tmpfs { target: String, size: Option<u64>, read_only: bool },
    /// A file, a variable of the environment, or both.
    Secret { id: String, target: Option<String>, env: Option<String>, mode: u32, uid: u32, gid: u32, required: bool },
    /// The socket of an agent.
    Ssh { id: String, target: Option<String>, mode: u32, uid: u32, gid: u32, required: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    Shared,
    Private,
    Locked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Type {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Type::Bind => "bind",
            Type::Cache => "cache",
            Type::Tmpfs => "tmpfs",
            Type::Secret => "secret",
            Type::Ssh => "ssh",
        }
    }
}

const TYPES: [Type; 5] = [Type::Bind, Type::Cache, Type::Tmpfs, Type::Secret, Type::Ssh];
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "ro",
    "readonly",
    "rw",
    "readwrite",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];
/// Other builders' options, which change nothing here (A.19).
const IGNORED: [&str; 8] =
    ["z", "u", "relabel", "tmpcopyup", "notmpcopyup", "bind-propagation", "chown", "bind-nonrecursive"];

/// What can be checked before variables are known: quoting, and that `from` has no variable.
pub fn check_form(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("RUN --mount: expected KEY=VALUE".to_owned());
    }
    for field in csv::fields(text).map_err(|e| format!("RUN --mount: {e}"))? {
        let Some((key, value)) = field.split_once('=') else { continue };
        if key.eq_ignore_ascii_case("from") && value.find('$').is_some_and(|at| at + 1 < value.len()) {
            return Err(format!("RUN --mount: no variables in from={value}; name a stage with FROM … AS instead"));
        }
    }
    Ok(())
}

/// The stage or image that a mount names, if any.
pub fn from(text: &str) -> Option<String> {
    last(text, &["from"])
}

/// The last value of a key by any of its names; none if it is empty.
fn last(text: &str, keys: &[&str]) -> Option<String> {
    let fields = csv::fields(text).ok()?;
    let mut backwards = fields.iter().rev().filter_map(|field| field.split_once('='));
    let last = backwards.find(|(key, _)| keys.iter().any(|name| key.eq_ignore_ascii_case(name)));
    last.map(|(_, value)| value.to_owned()).filter(|value| !value.is_empty())
}

/// Options as they were written, before defaults.
#[derive(Default)]
struct Options {
    kind: Type,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: Option<bool>,
    id: Option<String>,
    sharing: Option<Sharing>,
    required: bool,
    size: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

/// Reads a mount. `expand` resolves variables; targets are relative to `workdir`.
pub fn parse(text: &str, workdir: &str, expand: &dyn Fn(&str) -> Result<String>) -> Result<Mount> {
    let name = |e: Error| e.context(format!("--mount={text}"));
    let mut options = Options::default();
    for field in csv::fields(text).map_err(|e| name(Error::new(e)))? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let value = match value {
            Some(value) if key != "from" => Some(expand(value).map_err(name)?),
            value => value.map(str::to_owned),
        };
        options.set(&key, value).map_err(name)?;
    }
    options.finish(workdir).map_err(name)
}

impl Options {
    fn set(&mut self, key: &str, value: Option<String>) -> Result<()> {
        let secret = matches!(self.kind, Type::Secret | Type::Ssh);
        let Some(value) = value else {
            match key {
                "ro" | "readonly" => self.read_only = Some(true),
                "rw" | "readwrite" => self.read_only = Some(false),
                "required" if secret => self.required = true,
                key if IGNORED.contains(&key) => {}
                key => bail!("expected {key}=VALUE"),
            }
            return Ok(());
        };
        let filled = (!value.is_empty()).then(|| value.clone());
        match key {
            "type" => self.kind = parse_type(&value)?,
            "from" => self.from = filled,
            "source" | "src" => self.source = filled,
            "target" | "dst" | "destination" => self.target = filled,
            "ro" | "readonly" => self.read_only = Some(parse_bool(key, &value)?),
            "rw" | "readwrite" => self.read_only = Some(!parse_bool(key, &value)?),
            "required" if secret => self.required = parse_bool(key, &value)?,
            "size" if self.kind == Type::Tmpfs => self.size = Some(parse_size(&value)?),
            "id" => self.id = filled,
            "sharing" => self.sharing = Some(parse_sharing(&value)?),
            "mode" => self.mode = Some(parse_number(key, &value, 8)?),
            "uid" => self.uid = Some(parse_number(key, &value, 10)?),
            "gid" => self.gid = Some(parse_number(key, &value, 10)?),
            "env" => self.env = filled,
            "required" => bail!("{key} is only for type=secret and type=ssh, which must come before it"),
            "size" => bail!("{key} is only for type=tmpfs, which must come before it"),
            key if IGNORED.contains(&key) => {}
            key => {
                let error = Error::new(format!("unknown option {key}"));
                return Err(match nearest(key, &KEYS) {
                    Some(near) => error.hint(format!("did you mean {near}=?")),
                    None => error.hint(format!("options: {}", KEYS.join(" "))),
                });
            }
        }
        Ok(())
    }

    fn finish(self, workdir: &str) -> Result<Mount> {
        let kind = self.kind.name();
        let owned = matches!(self.kind, Type::Cache | Type::Secret | Type::Ssh);
        if !owned && (self.mode.is_some() || self.uid.is_some() || self.gid.is_some()) {
            bail!("mode, uid and gid are not for type={kind}");
        }
        if self.sharing.is_some() && self.kind != Type::Cache {
            bail!("sharing is only for type=cache");
        }
        if self.env.is_some() && self.kind != Type::Secret {
            bail!("env is only for type=secret");
        }
        let target = self.target.as_deref().map(|target| path::absolute(workdir, target));
        match self.kind {
            Type::Bind | Type::Cache | Type::Tmpfs => self.finish_directory(target),
            Type::Secret => self.finish_secret(target),
            Type::Ssh => {
                if self.source.is_some() {
                    bail!("source is not for type=ssh");
                }
                Ok(Mount::Ssh {
                    id: self.id.unwrap_or_else(|| "default".to_owned()),
                    target: target.filter(|target| target != "/"),
                    mode: self.mode.unwrap_or(0o600),
                    uid: self.uid.unwrap_or(0),
                    gid: self.gid.unwrap_or(0),
                    required: self.required,
                })
            }
        }
    }

    fn finish_directory(self, target: Option<String>) -> Result<Mount> {
        let target = match target {
            Some(target) if target != "/" => target,
            Some(_) => bail!("target may not be /"),
            None => bail!("expected target=PATH"),
        };
        let read_only = self.read_only.unwrap_or(self.kind == Type::Bind);
        Ok(match self.kind {
            Type::Cache => Mount::Cache {
                id: self.id.unwrap_or_else(|| target.clone()),
                from: self.from,
                source: self.source,
                target,
                read_only,
                sharing: self.sharing.unwrap_or(Sharing::Shared),
                mode: self.mode.unwrap_or(0o755),
                uid: self.uid.unwrap_or(0),
                gid: self.gid.unwrap_or(0),
            },
            Type::Tmpfs => Mount::Tmpfs { target, size: self.size, read_only },
            Type::Bind | Type::Secret | Type::Ssh => Mount::Bind {
                from: self.from,
                source: self.source.unwrap_or_else(|| "/".to_owned()),
                target,
                read_only,
            },
        })
    }

    fn finish_secret(self, target: Option<String>) -> Result<Mount> {
        if self.from.is_some() {
            bail!("from is not for type=secret");
        }
        if self.source.is_some() && self.id.is_some() {
            bail!("expected id or source, not both");
        }
        let base = target.as_deref().map(path::base).filter(|base| !base.is_empty()).map(str::to_owned);
        let Some(id) = self.id.or(self.source).or(base) else { bail!("expected id=NAME") };
        let target = match (target, &self.env) {
            (Some(target), _) => Some(target),
            (None, None) => Some(format!("/run/secrets/{}", path::base(&id))),
            (None, Some(_)) => None,
        };
        Ok(Mount::Secret {
            id,
            target,
            env: self.env,
            mode: self.mode.unwrap_or(0o400),
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
            required: self.required,
        })
    }
}

fn parse_type(value: &str) -> Result<Type> {
    match TYPES.iter().find(|kind| kind.name().eq_ignore_ascii_case(value)) {
        Some(kind) => Ok(*kind),
        None => Err(Error::new(format!("unknown type {value}")).hint("types: bind cache tmpfs secret ssh")),
    }
}

fn parse_sharing(value: &str) -> Result<Sharing> {
    match value.to_ascii_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => bail!("expected sharing=shared, private or locked, not {value}"),
    }
}

fn parse_bool(key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => bail!("expected {key}=true or {key}=false, not {value}"),
    }
}

fn parse_number(key: &str, value: &str, radix: u32) -> Result<u32> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    match u32::from_str_radix(value, radix) {
        Ok(number) if digits => Ok(number),
        _ if radix == 8 => bail!("expected an octal number: {key}={value}"),
        _ => bail!("expected a number: {key}={value}"),
    }
}

/// `64m`, `1.5GiB`, `1024`: powers of 1024, any case.
fn parse_size(value: &str) -> Result<u64> {
    let lower = value.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let unit = match lower[end..].trim_start() {
        "" | "b" => Some(0),
        unit => match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(unit) {
            "k" => Some(10),
            "m" => Some(20),
            "g" => Some(30),
            "t" => Some(40),
            "p" => Some(50),
            _ => None,
        },
    };
    let (whole, fraction) = lower[..end].split_once('.').unwrap_or((&lower[..end], "0"));
    let size = unit.and_then(|unit: u32| {
        let scale = 1u64 << unit;
        let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
        let fraction: f64 = format!("0.{fraction}").parse().ok()?;
        whole.checked_add((fraction * scale as f64) as u64)
    });
    size.ok_or_else(|| Error::new(format!("expected a size such as 64m: size={value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Mount> {
        parse(text, "/w", &|value| Ok(value.replace("$V", "val")))
    }

    #[test]
    fn mounts() {
        let check = |text: &str, want: Mount| assert_eq!(read(text).unwrap(), want, "{text}");
        let bind = |from: Option<&str>, source: &str, target: &str, read_only| Mount::Bind {
            from: from.map(str::to_owned),
            source: source.to_owned(),
            target: target.to_owned(),
            read_only,
        };
        check("target=/a", bind(None, "/", "/a", true));
        check("type=bind,dst=a/../b,rw", bind(None, "/", "/w/b", false));
        check("TYPE=Bind,From=x,SRC=s,Destination=/d,ro=false", bind(Some("x"), "s", "/d", false));
        check("source=$V,target=/$V,from=$", bind(Some("$"), "val", "/val", true));
        check("\"target=/a,b\",Z,relabel=shared,U,bind-propagation=x", bind(None, "/", "/a,b", true));
        let cache = |id: &str, target: &str, read_only, sharing, mode, uid| Mount::Cache {
            id: id.to_owned(),
            from: None,
            source: None,
            target: target.to_owned(),
            read_only,
            sharing,
            mode,
            uid,
            gid: 0,
        };
        check("type=cache,target=/a/", cache("/a", "/a", false, Sharing::Shared, 0o755, 0));
        check(
            "type=cache,target=a,id=i,sharing=LOCKED,mode=0700,uid=5,ro",
            cache("i", "/w/a", true, Sharing::Locked, 0o700, 5),
        );
        check(
            "type=tmpfs,target=/t,size=1.5k",
            Mount::Tmpfs { target: "/t".into(), size: Some(1536), read_only: false },
        );
        let secret = |id: &str, target: Option<&str>, env: Option<&str>, required| Mount::Secret {
            id: id.to_owned(),
            target: target.map(str::to_owned),
            env: env.map(str::to_owned),
            mode: 0o400,
            uid: 0,
            gid: 0,
            required,
        };
        check("type=secret,id=s", secret("s", Some("/run/secrets/s"), None, false));
        check("type=secret,source=s,required", secret("s", Some("/run/secrets/s"), None, true));
        check("type=secret,target=/x/y,required=true", secret("y", Some("/x/y"), None, true));
        check("type=secret,id=s,target=/", secret("s", Some("/"), None, false));
        check("type=secret,id=s,env=E", secret("s", None, Some("E"), false));
        check("type=secret,id=s,env=E,target=t", secret("s", Some("/w/t"), Some("E"), false));
        check(
            "type=ssh",
            Mount::Ssh { id: "default".into(), target: None, mode: 0o600, uid: 0, gid: 0, required: false },
        );
    }

    #[test]
    fn refused() {
        let check = |text: &str, want: &str| {
            let e = read(text).expect_err(text).to_string();
            assert!(e.contains(want) && e.starts_with("--mount="), "{text}: {e}");
        };
        check("", "expected =VALUE");
        check("type=cache", "expected target");
        check("target=/", "may not be /");
        check("target=..", "may not be /");
        check("target=", "expected target");
        check("type=volume,target=/a", "unknown type volume");
        check("target=/a,x=y", "unknown option x");
        check("target=/a,x", "expected x=VALUE");
        check("target=/a,ro=maybe", "expected ro=true");
        check("target=/a,required", "expected required=VALUE");
        check("target=/a,required=true", "only for type=secret");
        check("size=1,type=tmpfs,target=/a", "only for type=tmpfs");
        check("type=tmpfs,target=/a,size=x", "expected a size");
        check("type=tmpfs,target=/a,size=99999999999p", "expected a size");
        check("type=tmpfs,target=/a,mode=1", "not for type=tmpfs");
        check("target=/a,uid=1", "not for type=bind");
        check("type=cache,target=/a,mode=9", "octal");
        check("type=cache,target=/a,uid=-1", "number");
        check("type=cache,target=/a,sharing=x", "sharing");
        check("target=/a,sharing=shared", "only for type=cache");
        check("target=/a,env=E", "only for type=secret");
        check("type=secret", "expected id");
        check("type=secret,id=a,source=b", "not both");
        check("type=secret,id=a,from=b", "from is not");
        check("type=ssh,source=b", "source is not");
        check("a\"b", "quotes");
    }

    #[test]
    fn forms() {
        for good in ["x", "from=a,$b=c", "from=$", "target=$x", "from=a$"] {
            assert_eq!(check_form(good), Ok(()), "{good}");
        }
        for bad in ["", "from=$a", "FROM=a$b", "x\"", "\"from=${a}\",b"] {
            assert!(check_form(bad).is_err(), "{bad}");
        }
        assert_eq!(from("type=cache,from=a,From=b"), Some("b".into()));
        assert_eq!(from("from=,x"), None);
    }
}
