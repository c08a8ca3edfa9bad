//! What does an instruction do, given all that came before it? (A.9, A.11, A.13, A.16, A.20)
//!
//! [`State`] is what a stage knows at one point: variables, directory, shell, the image configuration so far.
//! [`State::step`] expands one instruction, checks what could not be checked before, takes its effects on the
//! configuration over, and says what is left to be done with files: nothing touches any here.

use std::collections::HashSet;

use super::ast::{
    Add, Arg, Command, Copy, Healthcheck, Heredoc, Instruction, Kind, Network, Pairs, Run, Security, Source, Transfer,
};
use super::chmod::Chmod;
use super::ignore::Patterns;
use super::mount_flag::{self, Mount};
use super::plan::{at, expand, expand_from, word_error};
use super::remote::{self, Remote};
use super::scope::{Globals, Scope};
use super::words;
use super::{heredoc, history, path, port, signal};
use crate::error::{Context, Error, Result, bail};

/// The part of an image configuration that a Dockerfile can say, besides `Env` (which is [`Scope::env`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub workdir: String,
    pub user: String,
    /// What shell forms are given to.
    pub shell: Vec<String>,
    /// Whether `shell` was set by an image or an instruction, and so belongs into the configuration.
    pub shell_set: bool,
    pub cmd: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    /// CMD was used.
    pub args_escaped: bool,
    pub labels: Vec<(String, String)>,
    /// `80/tcp`
    pub exposed_ports: Vec<String>,
    pub volumes: Vec<String>,
    pub stop_signal: Option<String>,
    pub healthcheck: Option<Healthcheck>,
    pub onbuild: Vec<String>,
    pub author: Option<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            workdir: "/".to_owned(),
            user: String::new(),
            shell: vec!["/bin/sh".to_owned(), "-c".to_owned()],
            shell_set: false,
            cmd: None,
            entrypoint: None,
            args_escaped: false,
            labels: Vec::new(),
            exposed_ports: Vec::new(),
            volumes: Vec::new(),
            stop_signal: None,
            healthcheck: None,
            onbuild: Vec::new(),
            author: None,
        }
    }
}

/// A stage at one point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub scope: Scope,
    pub config: Config,
    escape: char,
    /// CMD was set in this stage, so that ENTRYPOINT leaves it alone.
    cmd_set: bool,
}

/// One instruction, evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub keyword: &'static str,
    /// For the history.
    pub created_by: String,
    /// Whether the history entry has no layer. ONBUILD has no entry at all: `created_by` is empty.
    pub empty_layer: bool,
    pub action: Action,
}

/// What is left to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The configuration was all.
    Nothing,
    Run(RunStep),
    Copy(CopyStep),
    /// Make this directory (mode 0755) if it is not there.
    Directory(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStep {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub workdir: String,
    pub user: String,
    pub mounts: Vec<Mount>,
    pub network: Network,
    pub security: Security,
    pub devices: Vec<String>,
    /// A script outside the image that `argv` names: mode 0755 in /dev/pipes.
    pub script: Option<File>,
}

/// A file that the Dockerfile itself brings along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// One path component.
    pub name: String,
    pub content: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyStep {
    pub is_add: bool,
    /// Stage, image or number; see [`super::plan::Plan::origin`].
    pub from: Option<String>,
    /// As written, expanded. COPY has only local ones.
    pub sources: Vec<Remote>,
    /// Copied after the sources; mode 0644 unless `chmod` says otherwise.
    pub files: Vec<File>,
    /// As written, expanded.
    pub destination: String,
    /// Absolute and clean, with a slash at the end if it must be a directory.
    pub target: String,
    pub chown: Option<String>,
    pub chmod: Option<Chmod>,
    pub parents: bool,
    pub exclude: Patterns,
    pub checksum: Option<String>,
    pub unpack: Option<bool>,
}

impl State {
    /// At the beginning of a stage on an image (or on scratch, with no environment and the default configuration).
    pub fn of_image(env: &[(String, String)], config: Config, escape: char) -> Result<State> {
        Ok(State { scope: Scope::of_image(env)?, config, escape, cmd_set: false })
    }

    /// At the beginning of a stage on another stage: everything is inherited, ARGs too; triggers are not.
    pub fn of_stage(base: &State) -> State {
        let config = Config { onbuild: Vec::new(), ..base.config.clone() };
        State { scope: base.scope.clone(), config, escape: base.escape, cmd_set: false }
    }

    /// Evaluates an instruction and takes over what it changes.
    pub fn step(&mut self, instruction: &Instruction, globals: &Globals) -> Result<Step> {
        self.evaluate(&instruction.kind, globals).context(|| at(instruction.line, instruction.keyword()))
    }

    fn evaluate(&mut self, kind: &Kind, globals: &Globals) -> Result<Step> {
        let keyword = kind.keyword();
        let (created_by, action) = match kind {
            Kind::Add(add) => self.add(add)?,
            Kind::Arg(args) => (self.arg(args, globals)?, Action::Nothing),
            Kind::Cmd(command) => (self.cmd(command), Action::Nothing),
            Kind::Copy(copy) => self.copy(copy, globals)?,
            Kind::Entrypoint(command) => (self.entrypoint(command), Action::Nothing),
            Kind::Env(pairs) => (self.env(pairs)?, Action::Nothing),
            Kind::Expose(ports) => (self.expose(ports)?, Action::Nothing),
            Kind::Healthcheck(healthcheck) => {
                self.config.healthcheck = Some(healthcheck.clone());
                (history::healthcheck(healthcheck), Action::Nothing)
            }
            Kind::Label(pairs) => (self.label(pairs)?, Action::Nothing),
            Kind::Maintainer(name) => {
                self.config.author = Some(name.clone());
                (format!("{keyword} {name}"), Action::Nothing)
            }
            Kind::Onbuild(onbuild) => {
                self.config.onbuild.push(onbuild.trigger.clone());
                (String::new(), Action::Nothing)
            }
            Kind::Run(run) => self.run(run, globals)?,
            Kind::Shell(words) => {
                self.config.shell = self.exec(words)?;
                self.config.shell_set = true;
                (history::list(keyword, &self.config.shell), Action::Nothing)
            }
            Kind::Stopsignal(text) => {
                let text = self.expand(text)?;
                signal::check(&text)?;
                self.config.stop_signal = Some(text.clone());
                (format!("{keyword} {text}"), Action::Nothing)
            }
            Kind::User(text) => {
                self.config.user = self.expand(text)?;
                (format!("{keyword} {}", self.config.user), Action::Nothing)
            }
            Kind::Volume(list) => (self.volume(list.items())?, Action::Nothing),
            Kind::Workdir(text) => self.workdir(text)?,
        };
        let empty_layer = action == Action::Nothing;
        Ok(Step { keyword, created_by, empty_layer, action })
    }

    fn expand(&self, text: &str) -> Result<String> {
        expand(text, self.escape, &|name| self.scope.lookup(name))
    }

    fn expand_pairs(&self, pairs: &Pairs) -> Result<Vec<(String, String)>> {
        pairs.iter().map(|(name, value)| Ok((self.expand(name)?, self.expand(value)?))).collect()
    }

    /// An exec form of RUN or SHELL (A.20).
    fn exec(&self, words: &[String]) -> Result<Vec<String>> {
        let expand =
            |word: &String| words::expand_known(word, &|name| self.scope.lookup(name)).map_err(|e| word_error(word, e));
        words.iter().map(expand).collect()
    }

    /// A command that is stored: nothing is expanded.
    fn stored(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Shell(text) => self.config.shell.iter().chain([text]).cloned().collect(),
            Command::Exec(words) => words.clone(),
        }
    }

    fn cmd(&mut self, command: &Command) -> String {
        let words = self.stored(command);
        let text = history::quoted("CMD", &words);
        self.config.cmd = Some(words).filter(|words| !words.is_empty());
        self.config.args_escaped = true;
        self.cmd_set = true;
        text
    }

    fn entrypoint(&mut self, command: &Command) -> String {
        let words = self.stored(command);
        let text = history::quoted("ENTRYPOINT", &words);
        self.config.entrypoint = Some(words).filter(|words| !words.is_empty());
        if !self.cmd_set {
            self.config.cmd = None;
        }
        text
    }

    fn arg(&mut self, args: &[Arg], globals: &Globals) -> Result<String> {
        let mut shown = Vec::new();
        for arg in args {
            // A default that is not used is not evaluated either.
            let default = arg.default.as_deref().filter(|_| globals.build_arg(&arg.name).is_none());
            let default = default.map(|text| self.expand(text)).transpose()?;
            shown.push((arg.name.clone(), self.scope.declare(&arg.name, default, globals)?));
        }
        Ok(history::args(&shown))
    }

    fn env(&mut self, pairs: &Pairs) -> Result<String> {
        let pairs = self.expand_pairs(pairs)?;
        for (name, value) in &pairs {
            self.scope.set_env(name, value.clone())?;
        }
        Ok(history::pairs("ENV", &pairs))
    }

    fn label(&mut self, pairs: &Pairs) -> Result<String> {
        let pairs = self.expand_pairs(pairs)?;
        self.add_labels(&pairs);
        Ok(history::pairs("LABEL", &pairs))
    }

    /// Later values of the same label win.
    pub fn add_labels(&mut self, pairs: &[(String, String)]) {
        for (name, value) in pairs {
            match self.config.labels.iter_mut().find(|(known, _)| known == name) {
                Some((_, old)) => old.clone_from(value),
                None => self.config.labels.push((name.clone(), value.clone())),
            }
        }
    }

    fn expose(&mut self, texts: &[String]) -> Result<String> {
        let mut sorted: Vec<&String> = texts.iter().collect();
        sorted.sort();
        let mut ports: Vec<String> = Vec::new();
        for text in sorted {
            let words = words::expand_words(text, self.escape, &|name| self.scope.lookup(name));
            for word in words.map_err(|e| word_error(text, e))? {
                ports.extend(port::parse(&word)?);
            }
        }
        let mut seen = HashSet::new();
        ports.retain(|port| seen.insert(port.clone()));
        let known: HashSet<String> = self.config.exposed_ports.iter().cloned().collect();
        self.config.exposed_ports.extend(ports.iter().filter(|port| !known.contains(*port)).cloned());
        Ok(history::list("EXPOSE", &ports))
    }

    fn volume(&mut self, texts: &[String]) -> Result<String> {
        let volumes = texts.iter().map(|text| self.expand(text)).collect::<Result<Vec<String>>>()?;
        for volume in &volumes {
            if volume.is_empty() {
                bail!("path is empty");
            }
            if !self.config.volumes.contains(volume) {
                self.config.volumes.push(volume.clone());
            }
        }
        Ok(history::list("VOLUME", &volumes))
    }

    fn workdir(&mut self, text: &str) -> Result<(String, Action)> {
        let to = self.expand(text)?;
        self.config.workdir = path::workdir(&self.config.workdir, &to);
        let directory = path::clean(&self.config.workdir);
        let action = if directory == "/" { Action::Nothing } else { Action::Directory(directory) };
        Ok((format!("WORKDIR {}", self.config.workdir), action))
    }

    fn run(&self, run: &Run, globals: &Globals) -> Result<(String, Action)> {
        let mut script = None;
        let argv = match &run.command {
            Command::Exec(words) => self.exec(words)?,
            Command::Shell(text) => {
                let text = match &run.heredocs.as_slice() {
                    [] => text.clone(),
                    heredocs => shell_text(text, heredocs, &mut script),
                };
                self.config.shell.iter().chain([&text]).cloned().collect()
            }
        };
        let mounts =
            run.mounts.iter().map(|text| mount_flag::parse(text, &self.config.workdir, &|value| self.expand(value)));
        let step = RunStep {
            env: self.scope.run_env(globals),
            workdir: self.config.workdir.clone(),
            user: self.config.user.clone(),
            mounts: mounts.collect::<Result<Vec<Mount>>>()?,
            network: run.network.unwrap_or(Network::Default),
            security: run.security.unwrap_or(Security::Sandbox),
            devices: run.devices.clone(),
            script,
            argv,
        };
        Ok((history::run(&step.argv, &self.scope.args()), Action::Run(step)))
    }

    fn copy(&self, copy: &Copy, globals: &Globals) -> Result<(String, Action)> {
        let mut step = self.transfer(&copy.transfer)?;
        for source in &step.sources {
            match source {
                Remote::Local(_) => {}
                Remote::Url(_) => {
                    return Err(Error::new(format!("source is a URL: {source}")).hint("ADD can download"));
                }
                Remote::Git(_) => bail!("source is a Git repository: {source}"),
            }
        }
        let from = copy.from.as_deref();
        step.from = from.map(|from| expand_from(from, self.escape, &self.scope, globals)).transpose()?;
        step.parents = copy.parents;
        Ok((copied("COPY", &step), Action::Copy(step)))
    }

    fn add(&self, add: &Add) -> Result<(String, Action)> {
        let mut step = self.transfer(&add.transfer)?;
        step.is_add = true;
        for source in &step.sources {
            if let Remote::Local(path) = source
                && path.contains("://")
            {
                return Err(Error::new(format!("not supported: {path}: only http and https"))
                    .hint("download it in a RUN, or before the build into the context"));
            }
        }
        step.checksum =
            add.checksum.as_deref().map(|text| self.expand(text)).transpose()?.filter(|text| !text.is_empty());
        if let Some(checksum) = &step.checksum {
            check_checksum(checksum, &step)?;
        }
        step.unpack = add.unpack;
        Ok((copied("ADD", &step), Action::Copy(step)))
    }

    fn transfer(&self, transfer: &Transfer) -> Result<CopyStep> {
        let mut sources = Vec::new();
        let mut files = Vec::new();
        for source in &transfer.sources {
            match source {
                Source::Path(text) => sources.push(remote::classify(&self.expand(text)?)),
                Source::Heredoc(_, index) => files.push(self.inline(&transfer.heredocs[*index])?),
            }
        }
        let destination = self.expand(&transfer.destination)?;
        let optional = |text: &Option<String>| match text {
            Some(text) => self.expand(text).map(|text| Some(text).filter(|text| !text.is_empty())),
            None => Ok(None),
        };
        Ok(CopyStep {
            is_add: false,
            from: None,
            sources,
            files,
            target: path::destination(&self.config.workdir, &destination),
            destination,
            chown: optional(&transfer.chown)?,
            chmod: optional(&transfer.chmod)?.map(|text| Chmod::parse(&text)).transpose()?,
            parents: false,
            exclude: Patterns::of(transfer.exclude.iter().map(String::as_str))?,
            checksum: None,
            unpack: None,
        })
    }

    /// The file that a heredoc of COPY or ADD becomes.
    fn inline(&self, heredoc: &Heredoc) -> Result<File> {
        let content = heredoc.content();
        let content = match heredoc.quoted {
            true => content,
            false => {
                words::expand_body(&content, &|name| self.scope.lookup(name)).map_err(|e| word_error("heredoc", e))?
            }
        };
        Ok(File { name: file_name(&heredoc.name)?, content })
    }
}

/// The text for the shell of a RUN with heredocs (A.7 no. 5).
fn shell_text(text: &str, heredocs: &[Heredoc], script: &mut Option<File>) -> String {
    if let (Ok(Some(_)), [heredoc, ..]) = (heredoc::marker(text), heredocs) {
        let content = heredoc.content();
        let Some(name) = file_name(&heredoc.name).ok().filter(|_| content.starts_with("#!")) else { return content };
        let path = format!("/dev/pipes/{name}");
        *script = Some(File { name, content });
        return path;
    }
    let mut full = text.to_owned();
    for heredoc in heredocs {
        full += "\n";
        full += &heredoc.body;
        full += &heredoc.name;
    }
    full
}

/// The last component of a heredoc's name, which becomes a file.
fn file_name(name: &str) -> Result<String> {
    match path::base(name) {
        "" | "." | ".." => bail!("can't name a file after heredoc {name:?}"),
        base => Ok(base.to_owned()),
    }
}

fn check_checksum(checksum: &str, step: &CopyStep) -> Result<()> {
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let [source] = step.sources.as_slice() else { bail!("--checksum needs exactly one source") };
    if !step.files.is_empty() {
        bail!("--checksum needs exactly one source");
    }
    match source {
        Remote::Url(_) => match checksum.split_once(':') {
            Some(("sha256", digits)) if digits.len() == 64 && hex(digits) => Ok(()),
            _ => bail!("expected --checksum=sha256: and 64 hexadecimal digits, not {checksum:?}"),
        },
        Remote::Git(_) if !checksum.is_empty() && checksum.len() <= 64 && hex(checksum) => Ok(()),
        Remote::Git(_) => bail!("expected --checksum=COMMIT, not {checksum:?}"),
        Remote::Local(_) => bail!("--checksum is only for a URL or a Git repository"),
    }
}

/// `COPY --chown=u --chmod=m a <<b dest # buildkit`
fn copied(keyword: &str, step: &CopyStep) -> String {
    let mut text = keyword.to_owned();
    if step.parents {
        text += " --parents";
    }
    if let Some(chown) = &step.chown {
        text += &format!(" --chown={chown}");
    }
    if let Some(chmod) = &step.chmod {
        text += &format!(" --chmod={chmod}");
    }
    for source in &step.sources {
        text += &format!(" {source}");
    }
    for file in &step.files {
        text += &format!(" <<{}", file.name);
    }
    format!("{text} {} # buildkit", step.destination)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
