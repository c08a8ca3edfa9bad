//! Image configuration ⇄ what a Dockerfile says about it.

use serde_json::{Map, Value, json};

use crate::dockerfile::ast::{Check, Command, Healthcheck, Instruction};
use crate::dockerfile::plan::trigger_error;
use crate::dockerfile::state::{self, State};
use crate::dockerfile::{self, history};
use crate::error::Result;
use crate::oci::config::Config;

/// A stage that begins with an image: what it knows then, and the image's triggers, to be executed first.
pub fn begin(config: &Config, escape: char) -> Result<(State, Vec<Instruction>)> {
    let mut known = from_image(config);
    let triggers = std::mem::take(&mut known.onbuild);
    Ok((State::of_image(&config.env(), known, escape)?, parse_triggers(&triggers)?))
}

pub fn parse_triggers(texts: &[String]) -> Result<Vec<Instruction>> {
    let parse = |text: &String| dockerfile::parse_trigger(text).map_err(|faults| trigger_error(text, &faults));
    texts.iter().map(parse).collect()
}

/// What the base image says, in the Dockerfile's terms.
pub fn from_image(config: &Config) -> state::Config {
    let mut known = state::Config::default();
    let list = |key: &str| Some(config.run_list(key)).filter(|l| !l.is_empty());
    let text = |key: &str| config.run(key).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
    known.workdir = config.working_dir().to_owned();
    known.user = text("User").unwrap_or_default();
    if let Some(shell) = list("Shell") {
        known.shell = shell;
        known.shell_set = true;
    }
    known.cmd = list("Cmd");
    known.entrypoint = list("Entrypoint");
    known.args_escaped = config.run("ArgsEscaped").and_then(Value::as_bool).unwrap_or(false);
    if let Some(labels) = config.run("Labels").and_then(Value::as_object) {
        known.labels = labels.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_owned())).collect();
    }
    known.exposed_ports = config.run_keys("ExposedPorts");
    known.volumes = config.run_keys("Volumes");
    known.stop_signal = text("StopSignal");
    known.healthcheck = config.run("Healthcheck").and_then(healthcheck);
    known.onbuild = config.run_list("OnBuild");
    known.author = config.get("author").and_then(Value::as_str).map(str::to_owned);
    known
}

/// The configuration of the image that a stage has become; keys that we know nothing of stay as the base has them.
pub fn to_image(base: &Config, state: &State) -> Config {
    let mut config = base.clone();
    let known = &state.config;
    let list = |l: &Option<Vec<String>>| l.as_ref().map_or(Value::Null, |l| json!(l));
    let text = |s: &str| if s.is_empty() { Value::Null } else { json!(s) };
    let keys = |l: &[String]| {
        let map: Map<String, Value> = l.iter().map(|k| (k.clone(), json!({}))).collect();
        if map.is_empty() { Value::Null } else { Value::Object(map) }
    };
    config.set_env(state.scope.env());
    config.set_run("WorkingDir", text(&known.workdir));
    config.set_run("User", text(&known.user));
    config.set_run("Shell", if known.shell_set { json!(known.shell) } else { Value::Null });
    config.set_run("Cmd", list(&known.cmd));
    config.set_run("Entrypoint", list(&known.entrypoint));
    config.set_run("ArgsEscaped", if known.args_escaped { json!(true) } else { Value::Null });
    let labels: Map<String, Value> = known.labels.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    config.set_run("Labels", if labels.is_empty() { Value::Null } else { Value::Object(labels) });
    config.set_run("ExposedPorts", keys(&known.exposed_ports));
    config.set_run("Volumes", keys(&known.volumes));
    config.set_run("StopSignal", known.stop_signal.as_deref().map_or(Value::Null, text));
    config.set_run("OnBuild", if known.onbuild.is_empty() { Value::Null } else { json!(known.onbuild) });
    config.set_run("Healthcheck", known.healthcheck.as_ref().map_or(Value::Null, healthcheck_json));
    if let Some(author) = &known.author {
        config.set("author", json!(author));
    }
    config
}

fn healthcheck_json(health: &Healthcheck) -> Value {
    let mut value = json!({"Test": history::test(health)});
    if let Healthcheck::Check(check) = health {
        let times = [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
            ("Retries", check.retries),
        ];
        for (key, n) in times.into_iter().filter(|(_, n)| *n != 0) {
            value[key] = n.into();
        }
    }
    value
}

fn healthcheck(value: &Value) -> Option<Healthcheck> {
    let words: Vec<String> = value["Test"].as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let number = |key: &str| value[key].as_i64().unwrap_or(0);
    let command = match words.split_first()? {
        (kind, _) if kind == "NONE" => return Some(Healthcheck::None),
        (kind, rest) if kind == "CMD-SHELL" => Command::Shell(rest.concat()),
        (_, rest) => Command::Exec(rest.to_vec()),
    };
    Some(Healthcheck::Check(Check {
        interval: number("Interval"),
        timeout: number("Timeout"),
        start_period: number("StartPeriod"),
        start_interval: number("StartInterval"),
        retries: number("Retries"),
        command,
    }))
}
