//! One stage as it grows: what an instruction means for the image.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::announce::{self, Cache};
use super::cache_key::{AGAIN, Inputs, MEANWHILE};
use super::config::{self, to_image};
use super::fakeroot::Distribution;
use super::secret::Author;
use super::tree::Tree;
use super::{Build, Session, copy, run, workdir};
use crate::container::Emulation;
use crate::container::ownership::Ledger;
use crate::dockerfile::ast::{Instruction, Kind};
use crate::dockerfile::conceal::conceal;
use crate::dockerfile::plan::at;
use crate::dockerfile::state::{Action, State, Step};
use crate::error::{Context, Error, Result};
use crate::log::{info, warning};
use crate::oci::config::Config;
use crate::oci::reference::ImageRef;
use crate::storage::{Image, LayerId};
use crate::sys;

pub struct Stage<'b> {
    pub build: &'b Build<'b>,
    /// Number in the Dockerfile, from 0.
    pub index: usize,
    pub tree: Tree,
    pub state: State,
    /// The base's configuration, whose other keys are kept.
    config: Config,
    /// Name of the base image, for `list`.
    base: Option<String>,
    /// Triggers that the base brought.
    triggers: Vec<Instruction>,
    /// What `--force=fakeroot` knows about the base.
    pub distribution: Option<&'static Distribution>,
    /// Its steps of initialisation are done, or were looked at without `--force`.
    pub fakeroot_ready: bool,
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

/// A step that makes a layer, decided but not done.
pub struct Work {
    /// All that the result depends on.
    pub inputs: Inputs,
    /// The line that announces it.
    pub shown: String,
    pub trust: Trust,
}

/// Whose certificates are in the image's bundles during a step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    Image,
    /// Those of the site as well, if the user named some.
    Site,
}

impl<'b> Stage<'b> {
    pub fn scratch(build: &'b Build<'b>, index: usize) -> Result<Stage<'b>> {
        let mut config = Config::default();
        config.set_arch(&build.request.arch);
        let state = State::of_image(&[], Default::default(), build.dockerfile.escape)?;
        let tree = Tree::empty();
        Ok(Stage::new(build, index, tree, (state, config)))
    }

    pub fn of_image(build: &'b Build<'b>, index: usize, image: &Image) -> Result<Stage<'b>> {
        let mut config = image.config.clone();
        let (state, triggers) = config::begin(&config, build.dockerfile.escape)?;
        config.set_run("OnBuild", serde_json::Value::Null);
        let tree = Tree::of(build.storage, image, build.request.force.owners())?;
        let base = Some(image.reference.storage_name());
        Ok(Stage { base, triggers, ..Stage::new(build, index, tree, (state, config)) })
    }

    pub fn of_stage(build: &'b Build<'b>, index: usize, base: &Finished, triggers: &[String]) -> Result<Stage<'b>> {
        let mut config = base.image.config.clone();
        config.set_run("OnBuild", serde_json::Value::Null);
        let tree = Tree::of(build.storage, &base.image, build.request.force.owners())?;
        let state = State::of_stage(&base.state);
        let (base, triggers) = (base.image.base.clone(), config::parse_triggers(triggers)?);
        Ok(Stage { base, triggers, ..Stage::new(build, index, tree, (state, config)) })
    }

    fn new(build: &'b Build<'b>, index: usize, tree: Tree, (state, config): (State, Config)) -> Stage<'b> {
        Stage {
            build,
            index,
            tree,
            state,
            config,
            base: None,
            triggers: Vec::new(),
            distribution: None,
            fakeroot_ready: false,
        }
    }

    /// Takes the triggers of the base (ONBUILD): they run first. Messages say the line of FROM.
    pub fn take_triggers(&mut self, line: usize) -> Vec<Instruction> {
        std::mem::take(&mut self.triggers).into_iter().map(|trigger| Instruction { line, ..trigger }).collect()
    }

    pub fn execute(&mut self, session: &mut Session, instruction: &Instruction, author: Author) -> Result<()> {
        sys::signal::check()?;
        let step = self.state.step(instruction, self.build.globals()).context(|| &self.build.file)?;
        let build = self.build;
        let place = || format!("{}: {}", build.file, at(instruction.line, instruction.keyword()));
        let layered = match &step.action {
            Action::Nothing => {
                self.announce_settings(session, instruction, &step);
                false
            }
            Action::Run(run) => {
                run::run(self, session, run, &step, (author, &place))?;
                true
            }
            Action::Copy(copy) => {
                copy::copy(self, session, copy, &step).context(place)?;
                true
            }
            Action::Directory(path) => workdir::workdir(self, session, path, &step).context(place)?,
        };
        self.remember(&step, layered);
        Ok(())
    }

    fn announce_settings(&self, session: &mut Session, instruction: &Instruction, step: &Step) {
        for text in announce::texts(instruction, step, &self.state) {
            session.announce(Cache::Miss, &text);
        }
        if let Kind::User(_) = &instruction.kind {
            match self.build.request.force.emulation() {
                Emulation::Notify => {}
                Emulation::None | Emulation::Seccomp => info!(
                    "USER is recorded but not applied during build: RUN runs as root in the container and as you on the host"
                ),
            }
        }
    }

    /// Stores the state so far under the stage's own name, to look inside after a failure.
    pub fn keep(&mut self) -> Result<ImageRef> {
        let tree = std::mem::replace(&mut self.tree, Tree::empty());
        let reference = self.build.stage_reference(self.index)?;
        let config = to_image(&self.config, &self.state);
        let layers = tree.finish(self.build.storage, &config)?;
        let mut image = Image::new(reference.clone(), layers, config);
        image.base.clone_from(&self.base);
        self.build.storage.commit_image(&image, Vec::new())?;
        Ok(reference)
    }

    /// Makes a layer: taken from the cache (`None`), or by `change`, which gets the tree, done now.
    pub fn layer<T, E: From<Error>>(
        &mut self,
        session: &mut Session,
        work: Work,
        step: &Step,
        change: impl FnOnce(&mut Session, &Path, &mut Ledger) -> Result<(Validity, T), E>,
    ) -> Result<Option<T>, E> {
        let storage = self.build.storage;
        let Work { inputs, shown, trust } = work;
        let site = self.build.request.ca.as_deref().filter(|_| trust == Trust::Site);
        let key = inputs.id();
        if self.reuse(session, &key, &shown)? {
            return Ok(None);
        }
        session.announce(Cache::Miss, &shown);
        if self.build.request.why {
            info!("    why: {}", conceal(&self.why(&inputs)));
        }
        // A step that is done again gets a layer of its own: images that have the old one must not change.
        let again = !self.build.request.reuse && storage.step(&key).is_some();
        let name = |(validity, _): &(Validity, T)| step_name(inputs, validity, again, step.keyword);
        let change = |tree: &Path, ledger: &mut Ledger| change(session, tree, ledger);
        let (validity, value) = self.tree.change(storage, &step.created_by, site, name, change)?;
        if let (true, Validity::Lasting, Some(id)) = (again, validity, self.tree.top()) {
            storage.set_step(&key, id)?;
        }
        Ok(Some(value))
    }

    /// Why a step is not taken from the cache.
    fn why(&self, inputs: &Inputs) -> String {
        if self.build.request.reuse { inputs.why(self.build.storage) } else { "asked for".to_owned() }
    }

    /// ENV and ARG as RUN sees them.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.state.scope.run_env(self.build.globals())
    }

    /// Takes the step of that name if it is there.
    pub fn reuse(&mut self, session: &mut Session, key: &LayerId, shown: &str) -> Result<bool> {
        if !self.build.request.reuse {
            return Ok(false);
        }
        let Some(id) = self.build.storage.step(key) else { return Ok(false) };
        session.announce(Cache::Hit, shown);
        self.tree.reuse(self.build.storage, id)?;
        Ok(true)
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
        let layers = self.tree.finish(self.build.storage, &config)?;
        let mut image = Image::new(reference, layers, config);
        image.base = self.base;
        Ok(Finished { image, state: self.state })
    }
}

/// What names the layer in the end: other builds may take a result only if it is what its inputs say.
fn step_name(mut inputs: Inputs, validity: &Validity, again: bool, keyword: &str) -> Inputs {
    if again {
        inputs.make_unique(AGAIN);
    }
    if let Validity::Once(changes) = validity {
        let changes = if changes.is_empty() { String::new() } else { format!(": {changes}") };
        warning!("{keyword}: source files changed during the step{changes}; not caching it");
        inputs.make_unique(MEANWHILE);
    }
    inputs
}

/// A path of the image without its leading slash.
pub fn inside(path: &str) -> PathBuf {
    PathBuf::from(path.trim_start_matches('/'))
}
