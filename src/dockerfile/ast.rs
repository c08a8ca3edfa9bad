//! What a Dockerfile says, as a tree: nothing expanded, nothing looked up.
//!
//! Texts that are expanded later ([`super::eval`]) still hold their quotes and escapes.

use std::ops::Range;

use super::duration;

/// A whole file that has no fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// `\` or a back-tick.
    pub escape: char,
    /// ARGs before the first FROM.
    pub globals: Vec<Instruction>,
    /// In order; empty if the file has only ARGs.
    pub stages: Vec<Stage>,
    pub warnings: Vec<Warning>,
}

/// Something odd that is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// From 1.
    pub line: usize,
    pub message: String,
}

/// A FROM and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub from: From,
    /// Line of the FROM, from 1.
    pub line: usize,
    /// The FROM's logical line.
    pub text: String,
    pub span: Range<usize>,
    pub instructions: Vec<Instruction>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    pub platform: Option<String>,
    pub image: String,
    /// Lower case unless it holds a variable.
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// First line, from 1.
    pub line: usize,
    /// In the source without its byte order mark, bytes; heredoc bodies included.
    pub span: Range<usize>,
    /// The logical line, trimmed.
    pub text: String,
    pub kind: Kind,
}

impl Instruction {
    /// Upper case.
    pub fn keyword(&self) -> &'static str {
        self.kind.keyword()
    }
}

/// The largest ones are boxed, so that the others stay small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Add(Box<Add>),
    Arg(Vec<Arg>),
    Cmd(Command),
    Copy(Box<Copy>),
    Entrypoint(Command),
    Env(Pairs),
    Expose(Vec<String>),
    Healthcheck(Healthcheck),
    Label(Pairs),
    Maintainer(String),
    Onbuild(Onbuild),
    Run(Run),
    Shell(Vec<String>),
    Stopsignal(String),
    User(String),
    Volume(List),
    Workdir(String),
}

impl Kind {
    pub fn keyword(&self) -> &'static str {
        match self {
            Kind::Add(_) => "ADD",
            Kind::Arg(_) => "ARG",
            Kind::Cmd(_) => "CMD",
            Kind::Copy(_) => "COPY",
            Kind::Entrypoint(_) => "ENTRYPOINT",
            Kind::Env(_) => "ENV",
            Kind::Expose(_) => "EXPOSE",
            Kind::Healthcheck(_) => "HEALTHCHECK",
            Kind::Label(_) => "LABEL",
            Kind::Maintainer(_) => "MAINTAINER",
            Kind::Onbuild(_) => "ONBUILD",
            Kind::Run(_) => "RUN",
            Kind::Shell(_) => "SHELL",
            Kind::Stopsignal(_) => "STOPSIGNAL",
            Kind::User(_) => "USER",
            Kind::Volume(_) => "VOLUME",
            Kind::Workdir(_) => "WORKDIR",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A text for the shell; empty if nothing was written.
    Shell(String),
    Exec(Vec<String>),
}

/// A list that was written as JSON or as words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum List {
    Json(Vec<String>),
    Words(Vec<String>),
}

impl List {
    pub fn items(&self) -> &[String] {
        match self {
            List::Json(items) | List::Words(items) => items,
        }
    }
}

/// `NAME=value …` or the legacy form `NAME value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pairs {
    Words(Vec<(String, String)>),
    Legacy(String, String),
}

impl Pairs {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let (words, legacy): (&[(String, String)], _) = match self {
            Pairs::Words(words) => (words, None),
            Pairs::Legacy(name, value) => (&[], Some((name.as_str(), value.as_str()))),
        };
        words.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(legacy)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    pub name: String,
    /// Text after the `=`, if there is one.
    pub default: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    /// Some part of the name was quoted: the body is not expanded.
    pub quoted: bool,
    /// `<<-`
    pub strip_tabs: bool,
    /// Lines with their line ends, as in the file.
    pub body: String,
}

impl Heredoc {
    /// The body without leading tabs if `<<-` says so.
    pub fn content(&self) -> String {
        match self.strip_tabs {
            true => self.body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect(),
            false => self.body.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The values of `--mount`, unread but for their form.
    pub mounts: Vec<String>,
    pub network: Option<Network>,
    pub security: Option<Security>,
    pub devices: Vec<String>,
    pub command: Command,
    pub heredocs: Vec<Heredoc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Default,
    None,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    Sandbox,
    Insecure,
}

/// What COPY and ADD share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    pub sources: Vec<Source>,
    pub destination: String,
    /// Whether the arguments were JSON.
    pub json: bool,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    pub link: bool,
    pub exclude: Vec<String>,
    /// All of the instruction, also those that no source names.
    pub heredocs: Vec<Heredoc>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Path(String),
    /// The argument as written and the index of its heredoc.
    Heredoc(String, usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub from: Option<String>,
    pub parents: bool,
    pub transfer: Transfer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    pub checksum: Option<String>,
    pub keep_git_dir: Option<bool>,
    pub unpack: Option<bool>,
    pub transfer: Transfer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    None,
    Check(Check),
}

/// Times in nanoseconds; 0 where not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i64,
    pub command: Command,
}

impl Check {
    /// The options that were given, as they are written: name and value.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let times = [
            ("interval", self.interval),
            ("timeout", self.timeout),
            ("start-period", self.start_period),
            ("start-interval", self.start_interval),
        ];
        let given = times.into_iter().filter(|(_, time)| *time != 0);
        let mut options: Vec<_> = given.map(|(name, time)| (name, duration::show(time))).collect();
        options.extend((self.retries != 0).then(|| ("retries", self.retries.to_string())));
        options
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// What the image configuration stores: the instruction in one line, bodies of heredocs after it.
    pub trigger: String,
    /// Its first word, upper case.
    pub keyword: String,
}
