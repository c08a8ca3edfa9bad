//! One stage as it grows: what an instruction means for the image.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Build;
use super::announce::{self, Cache};
use super::ca;
use super::cache::{AGAIN, Inputs, MEANWHILE};
use super::config::{self, to_image};
use super::force::{self, OfStage};
use super::image_users::{self, Known};
use super::mounts::{Mounts, SCRIPTS};
use super::run::{Command, Failure, HOME, PASSED, TMP, cause, ending, interrupted, variables};
use super::secret::Author;
use super::tree::Tree;
use crate::container::ownership::Ledger;
use crate::container::{self, Emulation, Network};
use crate::dockerfile::ast::{self, Instruction, Kind};
use crate::dockerfile::plan::at;
use crate::dockerfile::state::{Action, RunStep, State, Step};
use crate::error::{Context, Error, Result};
use crate::oci::config::Config;
use crate::oci::reference::ImageRef;
use crate::rootfs::Root;
use crate::storage::{Image, LayerId, Mode};
use crate::{info, sys, warning};

pub struct Stage<'b> {
    pub build: &'b Build<'b>,
    /// Number in the Dockerfile, from 0.
    pub index: usize,
    pub tree: Tree,
    state: State,
    /// The base's configuration, whose other keys are kept.
    config: Config,
    /// Name of the base image, for `list`.
    base: Option<String>,
    /// Triggers that the base brought.
    triggers: Vec<Instruction>,
    pub force: OfStage,
}

/// Whether the result of a step is what its inputs say, so that other builds may take it.
pub enum Validity {
    Lasting,
    /// What it took changed meanwhile; how, as far as that can be said.
    Once(String),
}

impl From<Option<String>> for Validity {
    fn from(changes: Option<String>) -> Validity {
        changes.map_or(Validity::Lasting, Validity::Once)
    }
}

/// A stage that is done.
pub struct Finished {
    pub image: Image,
    pub state: State,
}

impl<'b> Stage<'b> {
    pub fn scratch(build: &'b Build<'b>, index: usize) -> Result<Stage<'b>> {
        let mut config = Config::default();
        config.set_arch(&build.arch());
        let state = State::of_image(&[], Default::default(), build.escape)?;
        let tree = Tree::empty(build.storage)?;
        Ok(Stage { build, index, tree, state, config, base: None, triggers: Vec::new(), force: OfStage::default() })
    }

    pub fn of_image(build: &'b Build<'b>, index: usize, image: &Image) -> Result<Stage<'b>> {
        let mut config = image.config.clone();
        let (state, triggers) = config::begin(&config, build.escape)?;
        config.set_run("OnBuild", serde_json::Value::Null);
        let tree = Tree::of(build.storage, image, build.force.owners())?;
        let base = Some(image.reference.storage_name());
        Ok(Stage { build, index, tree, state, config, base, triggers, force: OfStage::default() })
    }

    pub fn of_stage(build: &'b Build<'b>, index: usize, base: &Finished, triggers: &[String]) -> Result<Stage<'b>> {
        let mut config = base.image.config.clone();
        config.set_run("OnBuild", serde_json::Value::Null);
        let tree = Tree::of(build.storage, &base.image, build.force.owners())?;
        let state = State::of_stage(&base.state);
        let (base, triggers) = (base.image.base.clone(), config::parse_triggers(triggers)?);
        Ok(Stage { build, index, tree, state, config, base, triggers, force: OfStage::default() })
    }

    /// Takes the triggers of the base (ONBUILD): they run first. Messages say the line of FROM.
    pub fn take_triggers(&mut self, line: usize) -> Vec<Instruction> {
        std::mem::take(&mut self.triggers).into_iter().map(|trigger| Instruction { line, ..trigger }).collect()
    }

    pub fn execute(&mut self, instruction: &Instruction, author: Author) -> Result<()> {
        sys::signal::check()?;
        let step = self.state.step(instruction, &self.build.globals).context(|| &self.build.file)?;
        let build = self.build;
        let place = || format!("{}: {}", build.file, at(instruction.line, instruction.keyword()));
        let layered = match &step.action {
            Action::Nothing => {
                self.announce_settings(instruction, &step);
                false
            }
            Action::Run(run) => {
                let mounts = Mounts::new(build, self.index, run, author).context(place)?;
                self.run(run, &mounts, &step, &place)?
            }
            Action::Copy(copy) => super::copy::copy(self, copy, &step).context(place)?,
            Action::Directory(path) => self.workdir(path, &step).context(place)?,
        };
        self.remember(&step, layered);
        Ok(())
    }

    fn announce_settings(&self, instruction: &Instruction, step: &Step) {
        for text in announce::texts(instruction, step, &self.state) {
            self.announce(Cache::Miss, &text);
        }
        if let Kind::User(_) = &instruction.kind {
            match self.build.force.emulation() {
                Emulation::Notify => {}
                Emulation::None | Emulation::Seccomp => info!(
                    "USER is recorded but not applied during build: RUN runs as root in the container and as you on the host"
                ),
            }
        }
    }

    fn workdir(&mut self, path: &str, step: &Step) -> Result<bool> {
        let workdir = self.state.config.workdir.clone();
        let inside = Path::new(path.trim_start_matches('/')).to_owned();
        if let Some(entry) = self.tree.lookup(self.build.storage, &inside)? {
            self.announce(Cache::Hit, &format!("WORKDIR {workdir}"));
            if !entry.stat.is_dir() {
                return Err(Error::new(format!("{workdir}: not a directory in the image")));
            }
            return Ok(false);
        }
        let mut inputs = Inputs::new(self.tree.top(), "WORKDIR");
        inputs.add("path", path);
        // As with Docker: it belongs to the user.
        let user = self.state.config.user.clone();
        let has_user = self.build.force.emulation() == Emulation::Notify && !user.is_empty();
        if has_user {
            inputs.add("user", &user);
        }
        self.layer(inputs, step, &format!("WORKDIR {workdir}"), |tree, ledger| {
            let root = Root::open(tree)?;
            let missing = image_users::missing_directories(&root, &inside)?;
            root.mkdir_all(&inside, 0o755)?;
            if has_user {
                let owner = Known::of(&root)?.owner(&user)?;
                container::follow(tree, ledger, |record| image_users::give(&root, &missing, owner, record))?;
            }
            Ok(Validity::Lasting)
        })
    }

    fn run(&mut self, run: &RunStep, mounts: &Mounts, step: &Step, place: &dyn Fn() -> String) -> Result<bool> {
        if run.security == ast::Security::Insecure {
            warning!("not supported, ignored: RUN --security=insecure");
        }
        if !run.devices.is_empty() {
            warning!("not supported, ignored: RUN --device: RUN sees the host's /dev");
        }
        let emulation = self.build.force.emulation();
        let words: Vec<String> = match &run.script {
            None => run.argv.clone(),
            Some(_) => run.argv.iter().map(|word| word.replacen("/dev/pipes", SCRIPTS, 1)).collect(),
        };
        let prepared = self.build.force.prepare(self, &words)?;
        let network = match run.network {
            ast::Network::Default | ast::Network::Host => Network::Host,
            ast::Network::None => Network::None,
        };
        let mut inputs = Inputs::new(self.tree.top(), &format!("RUN {}", announce::list(&prepared.argv)));
        for (name, value) in run.env.iter().filter(|(name, _)| !PASSED.contains(&name.as_str())) {
            inputs.add(format!("env {name}"), value);
        }
        if run.env.iter().all(|(name, _)| name != "HOME") {
            inputs.add("env HOME", HOME);
        }
        inputs.add("cwd", &run.workdir);
        inputs.add("network", format!("{network:?}"));
        inputs.add("emulation", format!("{emulation:?}"));
        let user = run.user.as_str();
        let has_user = emulation == Emulation::Notify && !user.is_empty();
        if has_user {
            inputs.add("user", user);
        }
        for bind in &self.build.binds {
            inputs.add("bind", format!("{}:{}", bind.source.display(), bind.target.display()));
        }
        inputs.add(TMP.0, TMP.1);
        mounts.add_to(&mut inputs);
        let shown = format!("RUN{} {}", self.build.force.mark(), announce::list(&run.argv));
        let mut failure = None;
        let mut checked = false;
        let build = self.build;
        let result = self.layer(inputs, step, &shown, |root, ledger| {
            // An image may name a working directory that it does not have; Docker, too, makes it then.
            Root::open(root)?.mkdir_all(&inside(&run.workdir), 0o755)?;
            let user = match has_user {
                true => Some(Known::of(&Root::open(root)?)?.resolve_user(user)?).filter(|user| !user.is_root()),
                false => None,
            };
            let mut mounted = mounts.prepare(build)?;
            mounted.trust(build, root)?;
            let env = variables(&run.env).chain(mounted.env.clone()).chain(variables(&prepared.env));
            let command = Command {
                argv: prepared.argv.clone(),
                env: build.ca.iter().flat_map(|_| ca::variables()).chain(env).collect(),
                cwd: run.workdir.clone(),
                binds: build.binds.iter().chain(&mounted.binds).cloned().collect(),
                tmpfs: mounted.tmpfs.clone(),
                network,
                emulation,
                user,
                author: mounts.author,
            };
            let told = prepared.tell(&mut |text| force::shell(text, &run.env, &build.binds).run(root, ledger));
            told.and_then(|tested| {
                checked = tested;
                command.run(root, ledger)
            })
            .map_err(|f| {
                let error = failed(&f);
                failure = Some(f);
                error
            })?;
            build.force.warn_of_homes(&prepared);
            Ok(mounts.meanwhile(build).into())
        });
        if checked {
            self.force.ready.set(true);
        }
        match (result, failure) {
            (Err(e), Some(Failure::Exited(code))) => {
                self.build.force.advise();
                Err(self.explain_failure(e, code, &run.argv, place))
            }
            (Err(e), Some(Failure::Interrupted(_))) => Err(e),
            (other, _) => other.context(place),
        }
    }

    /// How to look inside after a failed RUN: the state before it is kept as an image.
    fn explain_failure(&mut self, e: Error, code: i32, argv: &[String], place: &dyn Fn() -> String) -> Error {
        let tree = match Tree::empty(self.build.storage) {
            Ok(empty) => std::mem::replace(&mut self.tree, empty),
            Err(_) => return e,
        };
        let e = e.detail(format!("{}: the command was: {}", place(), crate::log::escape(&announce::list(argv))));
        let keep = || -> Result<ImageRef> {
            let reference = self.build.stage_reference(self.index)?;
            let config = to_image(&self.config, &self.state);
            let layers = tree.finish(self.build.storage, &config, &reference.to_string())?;
            let mut image = Image::new(reference.clone(), layers, config);
            image.base.clone_from(&self.base);
            self.build.storage.commit_image(&image, Vec::new())?;
            Ok(reference)
        };
        // A plain tree is changed in place.
        let when = if self.build.storage.mode() == Mode::Plain { "as the command left it" } else { "as it was before" };
        let mut ways: Vec<String> = self.build.force.hint().map(str::to_owned).into_iter().collect();
        let cause = cause(code).map_or(String::new(), |cause| format!("{cause}; "));
        match keep() {
            Ok(reference) => {
                let storage =
                    self.build.options.storage.as_ref().map_or(String::new(), |s| format!("-s {} ", s.display()));
                ways.push(format!("look inside the image {when}: ch-run {storage}{reference} -- /bin/sh"));
            }
            Err(other) => warning!("can't keep the stage for a look inside: {other}"),
        }
        if ways.is_empty() && cause.is_empty() { e } else { e.hint(format!("{cause}{}", ways.join("; or "))) }
    }

    /// A step that makes a layer: taken from the cache, or done now. Always `true`: there is a layer.
    pub fn layer(
        &mut self,
        inputs: Inputs,
        step: &Step,
        shown: &str,
        change: impl FnOnce(&Path, &mut Ledger) -> Result<Validity>,
    ) -> Result<bool> {
        let storage = self.build.storage;
        let key = inputs.id();
        if self.reuse(&key, shown)? {
            return Ok(true);
        }
        let fresh = !self.build.may_reuse();
        self.announce(Cache::Miss, shown);
        if self.build.options.why {
            let why = match self.tree.is_cached() {
                _ if fresh => "asked for".to_owned(),
                true => inputs.why(storage),
                false => "the storage directory is plain: nothing is cached".to_owned(),
            };
            info!("    why: {why}");
        }
        // A step that is done again gets a layer of its own: images that have the old one must not change.
        let again = fresh && storage.step(&key).is_some();
        let name = |validity: &Validity| {
            let mut inputs = inputs;
            if again {
                inputs.make_unique(AGAIN);
            }
            if let Validity::Once(changes) = validity {
                let changes = if changes.is_empty() { String::new() } else { format!(": {changes}") };
                warning!("{}: source files changed during the step{changes}; not caching it", step.keyword);
                inputs.make_unique(MEANWHILE);
            }
            inputs
        };
        let validity = self.tree.change(storage, &step.created_by, name, change)?;
        if let (true, Validity::Lasting, Some(id)) = (again, validity, self.tree.top()) {
            storage.set_step(&key, id)?;
        }
        Ok(true)
    }

    /// ENV and ARG as RUN sees them.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.state.scope.run_env(&self.build.globals)
    }

    /// Takes the step of that name if it is there.
    pub fn reuse(&mut self, key: &LayerId, shown: &str) -> Result<bool> {
        if !self.build.may_reuse() || !self.tree.is_cached() {
            return Ok(false);
        }
        let Some(id) = self.build.storage.step(key) else { return Ok(false) };
        self.announce(Cache::Hit, shown);
        self.tree.reuse(self.build.storage, id)?;
        Ok(true)
    }

    pub fn announce(&self, cache: Cache, text: &str) {
        info!("{}", announce::line(self.build.count(), cache, text));
    }

    /// The history entry (A.16).
    fn remember(&mut self, step: &Step, layered: bool) {
        if step.created_by.is_empty() {
            return;
        }
        let mut entry = json!({"created_by": step.created_by});
        if step.empty_layer || !layered {
            entry["empty_layer"] = true.into();
        }
        let mut history = self.config.history().to_vec();
        history.push(entry);
        self.config.set_history(history);
    }

    pub fn finish(self, reference: ImageRef) -> Result<Finished> {
        let config = to_image(&self.config, &self.state);
        let layers = self.tree.finish(self.build.storage, &config, &reference.to_string())?;
        let mut image = Image::new(reference, layers, config);
        image.base = self.base;
        Ok(Finished { image, state: self.state })
    }
}

fn failed(failure: &Failure) -> Error {
    match failure {
        Failure::Exited(code) => Error::new(format!("build failed: RUN command {}", ending(*code))),
        Failure::Interrupted(signal) => interrupted(*signal),
        Failure::NotRun(e) => e.clone(),
    }
}

/// A path of the image without its leading slash.
pub fn inside(path: &str) -> PathBuf {
    PathBuf::from(path.trim_start_matches('/'))
}
