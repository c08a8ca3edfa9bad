//! Image configuration (OCI image specification, "Image Configuration"; Docker's additions are kept).
//!
//! The document is kept whole; typed access is for what we act on. Unknown keys survive pull, build and push.

use serde_json::{Map, Value, json};

use super::arch::Arch;
use super::digest::Digest;
use super::json;
use crate::error::{Context, Result, bail};

/// An image configuration. `value` is always an object.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    value: Map<String, Value>,
}

impl Default for Config {
    fn default() -> Config {
        Config { value: Map::new() }
    }
}

impl Config {
    pub fn parse(bytes: &[u8]) -> Result<Config> {
        let config = Config::from_value(json::parse(bytes).context(|| "invalid image configuration")?)?;
        config.check().context(|| "invalid image configuration")?;
        Ok(config)
    }

    /// What would become a wrong file, environment or message later is refused here.
    pub fn check(&self) -> Result<()> {
        let text = |key: &str| self.value.get(key).and_then(Value::as_str);
        if let Some(name) = text("architecture").filter(|name| !name.is_empty()) {
            Arch::checked(name, text("variant"))?;
        }
        let env = self.run("Env").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for entry in env {
            match entry.as_str() {
                Some(entry) if entry.contains('\0') => bail!("Env: NUL in {}", json::shown(entry)),
                Some(_) => {}
                None => bail!("Env: not text: {}", json::shown(&entry.to_string())),
            }
        }
        self.diff_ids().map(drop)
    }

    pub fn from_value(value: Value) -> Result<Config> {
        match value {
            Value::Object(value) => Ok(Config { value }),
            _ => bail!("invalid image configuration: not an object"),
        }
    }

    pub fn to_value(&self) -> Value {
        Value::Object(self.value.clone())
    }

    pub fn to_json(&self) -> Vec<u8> {
        self.to_value().to_string().into_bytes()
    }

    /// `None` if the document does not say.
    pub fn arch(&self) -> Option<Arch> {
        let name = self.value.get("architecture")?.as_str().filter(|s| !s.is_empty())?;
        Some(Arch::from_parts(name, self.value.get("variant").and_then(Value::as_str)))
    }

    pub fn set_arch(&mut self, arch: &Arch) {
        self.value.insert("architecture".into(), arch.family().into());
        match arch.variant() {
            Some(v) => drop(self.value.insert("variant".into(), v.into())),
            None => drop(self.value.remove("variant")),
        }
        self.value.insert("os".into(), "linux".into());
    }

    /// Digests of the uncompressed layers, lowest first; `None` if the document has none (legacy).
    pub fn diff_ids(&self) -> Result<Option<Vec<Digest>>> {
        let Some(list) = self.value.get("rootfs").and_then(|r| r.get("diff_ids")).and_then(Value::as_array) else {
            return Ok(None);
        };
        let parse = |v: &Value| v.as_str().unwrap_or("").parse();
        list.iter().map(parse).collect::<Result<Vec<_>>>().map(Some).context(|| "diff_ids")
    }

    /// The same for an image of so many layers: another number of them is an error.
    pub fn diff_ids_of(&self, layers: usize) -> Result<Option<Vec<Digest>>> {
        let ids = self.diff_ids()?;
        match &ids {
            Some(ids) if ids.len() != layers => {
                bail!("invalid image configuration: {} diff_ids for {layers} layers", ids.len())
            }
            _ => Ok(ids),
        }
    }

    pub fn set_diff_ids(&mut self, ids: &[Digest]) {
        let ids: Vec<String> = ids.iter().map(Digest::to_string).collect();
        self.value.insert("rootfs".into(), json!({"type": "layers", "diff_ids": ids}));
    }

    pub fn history(&self) -> &[Value] {
        self.value.get("history").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    pub fn set_history(&mut self, history: Vec<Value>) {
        self.value.insert("history".into(), Value::Array(history));
    }

    /// A top-level key (`created`, `author`, `comment`).
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key)
    }

    /// Sets a top-level key; null removes it.
    pub fn set(&mut self, key: &str, value: Value) {
        match value {
            Value::Null => drop(self.value.remove(key)),
            value => drop(self.value.insert(key.into(), value)),
        }
    }

    /// A key of the inner `config` object: `Env`, `Cmd`, `Labels` …
    pub fn run(&self, key: &str) -> Option<&Value> {
        self.value.get("config")?.get(key).filter(|v| !v.is_null())
    }

    /// Sets a key of the inner `config` object; null removes it.
    pub fn set_run(&mut self, key: &str, value: Value) {
        let inner = self.value.entry("config").or_insert_with(|| json!({}));
        if !inner.is_object() {
            *inner = json!({});
        }
        if let Some(inner) = inner.as_object_mut() {
            match value {
                Value::Null => drop(inner.remove(key)),
                value => drop(inner.insert(key.into(), value)),
            }
        }
    }

    /// `Env` as pairs, in order; entries without `=` have an empty value.
    pub fn env(&self) -> Vec<(String, String)> {
        let list = self.run("Env").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        list.iter()
            .filter_map(Value::as_str)
            .map(|s| s.split_once('=').map_or((s.to_owned(), String::new()), |(k, v)| (k.to_owned(), v.to_owned())))
            .collect()
    }

    pub fn set_env(&mut self, env: &[(String, String)]) {
        let list: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        self.set_run("Env", if list.is_empty() { Value::Null } else { json!(list) });
    }

    /// `WorkingDir`, or `/`.
    pub fn working_dir(&self) -> &str {
        self.run("WorkingDir").and_then(Value::as_str).filter(|s| !s.is_empty()).unwrap_or("/")
    }

    /// A list of strings such as `Cmd`, `Entrypoint`, `Shell`, `OnBuild`; empty if absent.
    pub fn run_list(&self, key: &str) -> Vec<String> {
        let list = self.run(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Keys of an object such as `Volumes`, `ExposedPorts`, in order.
    pub fn run_keys(&self, key: &str) -> Vec<String> {
        self.run(key).and_then(Value::as_object).map_or(Vec::new(), |m| m.keys().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused() {
        let check = |text: &str, want: &str| {
            let e = Config::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(e.starts_with("invalid image configuration: ") && e.contains(want) && e.len() < 200, "{e}");
        };
        check("[]", "not an object");
        check("null", "not an object");
        check("{", "invalid JSON");
        check(r#"{"config":{},"config":{}}"#, "twice");
        // M21
        check(r#"{"config":{"Env":["A=\u0000"]}}"#, "NUL in \"A=\\0\"");
        check(r#"{"config":{"Env":[1]}}"#, "Env: not text: \"1\"");
        // M25
        check(r#"{"architecture":"a/../b"}"#, "invalid architecture");
        check(r#"{"architecture":"\u001b[31m"}"#, "invalid architecture: \"\\u{1b}[31m\"");
        check(&format!(r#"{{"architecture":"{}"}}"#, "x".repeat(10_000)), "invalid architecture");
        check(r#"{"architecture":"arm","variant":"v7\n"}"#, "invalid variant");
        check(r#"{"rootfs":{"diff_ids":["sha256:x"]}}"#, "diff_ids: ");
        check(r#"{"rootfs":{"diff_ids":[7]}}"#, "diff_ids: ");
        check(&format!("{{\"x\":\"{}\"}}", "x".repeat(5 << 20)), "too large");
    }

    /// M21, M22, M24: odd values are kept as they are; whoever uses them looks at them.
    #[test]
    fn what_is_kept() {
        let text = r#"{"architecture":"arm","variant":"v7","os":"linux","x-odd":[1,{"y":null}],
            "config":{"Env":["PATH=/bin","A=b=c","NL=a\nb","BARE","=empty","LD_PRELOAD=x","A=2"],
            "WorkingDir":"../../..","User":"4294967296","Volumes":{"../../../../tmp/x":{}},"Cmd":["a","b"]}}"#;
        let config = Config::parse(text.as_bytes()).unwrap();
        let env = config.env();
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(
            env,
            [
                pair("PATH", "/bin"),
                pair("A", "b=c"),
                pair("NL", "a\nb"),
                pair("BARE", ""),
                pair("", "empty"),
                pair("LD_PRELOAD", "x"),
                pair("A", "2")
            ]
        );
        assert_eq!(config.arch().map(|a| a.to_string()).as_deref(), Some("arm/v7"));
        assert_eq!(config.working_dir(), "../../..");
        assert_eq!(config.run_keys("Volumes"), ["../../../../tmp/x"]);
        assert_eq!(config.run_list("Cmd"), ["a", "b"]);
        assert_eq!(Config::parse(&config.to_json()).unwrap(), config);
        assert_eq!(config.get("x-odd"), Some(&json!([1, {"y": null}])));
        // Of the wrong type: as if absent.
        let odd = Config::parse(br#"{"architecture":7,"config":[],"history":{},"rootfs":[]}"#).unwrap();
        assert_eq!((odd.arch(), odd.env().len(), odd.history().len()), (None, 0, 0));
        assert_eq!(odd.diff_ids().unwrap(), None);
    }

    /// M14
    #[test]
    fn as_many_diff_ids_as_layers() {
        let mut config = Config::parse(b"{}").unwrap();
        assert_eq!(config.diff_ids_of(3).unwrap(), None);
        config.set_diff_ids(&[Digest::of(b"a"), Digest::of(b"b")]);
        assert_eq!(config.diff_ids_of(2).unwrap().map(|ids| ids.len()), Some(2));
        for wrong in [0, 1, 3] {
            let e = config.diff_ids_of(wrong).unwrap_err().to_string();
            assert_eq!(e, format!("invalid image configuration: 2 diff_ids for {wrong} layers"));
        }
    }
}
