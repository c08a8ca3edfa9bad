//! `doctor`: what does this machine offer, what follows, and what to ask the administrator for? One page.
//!
//! Nothing is asked over the network and nothing is left behind; what can be tried is tried, not guessed.

mod machine;
mod network;
mod place;
mod settings;

use serde_json::json;

use super::{Host, print};
use crate::cli::Options;
use crate::error::{Error, Result};

/// How a finding stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// Works, but slower or with less.
    Limited,
    /// Something that the program is for does not work.
    Bad,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Good => "good",
            State::Limited => "limited",
            State::Bad => "bad",
        }
    }
}

struct Finding {
    about: &'static str,
    state: State,
    what: String,
    /// What follows, and what the user can do; empty if all is well.
    then: String,
    /// What to ask the administrator for.
    ask: String,
}

impl Finding {
    fn good(about: &'static str, what: impl Into<String>) -> Finding {
        Finding { about, state: State::Good, what: what.into(), then: String::new(), ask: String::new() }
    }

    fn limited(about: &'static str, what: impl Into<String>, then: impl Into<String>) -> Finding {
        Finding { state: State::Limited, then: then.into(), ..Finding::good(about, what) }
    }

    fn bad(about: &'static str, what: impl Into<String>, then: impl Into<String>) -> Finding {
        Finding { state: State::Bad, then: then.into(), ..Finding::good(about, what) }
    }

    fn ask(self, ask: impl Into<String>) -> Finding {
        Finding { ask: ask.into(), ..self }
    }

    fn text(&self) -> String {
        let mut text = format!("{:8} {}: {}\n", self.state.name(), self.about, self.what);
        if !self.then.is_empty() {
            text.push_str(&format!("         so: {}\n", self.then));
        }
        if !self.ask.is_empty() {
            text.push_str(&format!("         ask the administrator: {}\n", self.ask));
        }
        text.lines().map(|line| format!("{}\n", crate::log::escape(line))).collect()
    }
}

pub fn doctor(host: &Host, options: &Options) -> Result<()> {
    let mut findings = machine::findings();
    match host.storage_path() {
        Ok(storage) => findings.extend(place::findings(&storage)),
        Err(e) => findings.push(Finding::bad("storage directory", e.to_string(), e.get_hint().unwrap_or_default())),
    }
    findings.extend(network::findings(options));
    findings.extend(settings::findings());
    if options.json {
        let list: Vec<_> = findings
            .iter()
            .map(|f| json!({"about": f.about, "state": f.state.name(), "what": f.what, "then": f.then, "ask": f.ask}))
            .collect();
        print(&format!("{:#}\n", serde_json::Value::Array(list)))?;
    } else {
        let count = |state: State| findings.iter().filter(|f| f.state == state).count();
        let sum = [State::Good, State::Limited, State::Bad].map(|state| format!("{} {}", count(state), state.name()));
        print(&format!("{}{}\n", findings.iter().map(Finding::text).collect::<String>(), sum.join(", ")))?;
    }
    match findings.iter().filter(|f| f.state == State::Bad).count() {
        0 => Ok(()),
        _ => Err(Error::new("this machine lacks what some commands need")
            .hint("the lines above that begin with \"bad\" say what and who can help")),
    }
}
