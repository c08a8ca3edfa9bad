//! `--force`: privileged system calls of RUN seem to succeed (manual page, "Privilege model"; facts A8).
//!
//! `seccomp` and `notify` need nothing in the image. `fakeroot` installs fakeroot(1) before the first RUN that needs it
//! and puts it in front of commands that install packages; what it does is said line by line.

use std::cell::{Cell, OnceCell};
use std::path::Path;

use super::announce;
use super::cache::Inputs;
use super::run::{Command, Failure, interrupted};
use super::stage::Stage;
use crate::cli::{Force as Mode, Options};
use crate::container::force::{self as distributions, Config};
use crate::container::ledger::Ledger;
use crate::container::{Emulation, Network};
use crate::error::{Error, Result};
use crate::{info, verbose, warning};

/// Largest file that is read to recognise a distribution, bytes.
const MAX_SIGN: u64 = 1 << 20;

/// What the command line says, and what came of it in the whole build.
pub struct Force {
    mode: Option<Mode>,
    detect: bool,
    modified: Cell<usize>,
    /// A RUN ran without a workaround that there is for it.
    would_help: Cell<bool>,
    /// A stage was looked at and nothing fitted.
    nothing_fits: Cell<bool>,
}

/// Words to run and variables to add.
type Prepared = (Vec<String>, Vec<(String, String)>);

/// What holds for one stage.
#[derive(Default)]
pub struct OfStage {
    config: OnceCell<&'static Config>,
    ready: Cell<bool>,
}

impl Force {
    pub fn new(options: &Options) -> Force {
        Force {
            mode: options.force,
            detect: !options.no_force_detect,
            modified: Cell::new(0),
            would_help: Cell::new(false),
            nothing_fits: Cell::new(false),
        }
    }

    /// How the kernel is to be talked out of refusing.
    pub fn emulation(&self) -> Emulation {
        match self.mode {
            Some(Mode::Seccomp) => Emulation::Seccomp,
            Some(Mode::Notify) => Emulation::Notify,
            Some(Mode::Fakeroot | Mode::None) | None => Emulation::None,
        }
    }

    /// What a RUN's line shows after the keyword.
    pub fn mark(&self) -> &'static str {
        match self.mode {
            Some(Mode::Seccomp) => ".seccomp",
            Some(Mode::Notify) => ".notify",
            Some(Mode::Fakeroot) => ".fakeroot",
            Some(Mode::None) | None => "",
        }
    }

    /// After FROM: which distribution is it?
    pub fn look_at(&self, stage: &Stage) {
        match self.mode {
            Some(Mode::Seccomp | Mode::Notify | Mode::None) => return,
            Some(Mode::Fakeroot) | None => {}
        }
        if !self.detect {
            verbose!("not detecting --force config, per --no-force-detect");
            return;
        }
        let read = |path: &str| {
            let inside = Path::new(path.trim_start_matches('/'));
            let bytes = stage.tree.read(stage.build.storage, inside, MAX_SIGN).ok().flatten()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        match (distributions::detect(&read), self.mode) {
            (Some(config), mode) => {
                let verb = if mode.is_some() { "will use" } else { "available" };
                info!("{verb} --force: {}: {}", config.tag, config.name);
                let _ = stage.force.config.set(config);
            }
            (None, Some(_)) => {
                warning!("--force not available (no suitable config found)");
                self.nothing_fits.set(true);
            }
            (None, None) => verbose!("--force not available (no suitable config found)"),
        }
    }

    /// Before a RUN: makes the image ready if need be. The words to run instead, and what else its environment needs.
    pub fn prepare(&self, stage: &mut Stage, argv: &[String]) -> Result<Prepared> {
        let unchanged = Ok((argv.to_vec(), Vec::new()));
        let Some(&config) = stage.force.config.get() else { return unchanged };
        if !config.needs_injection(argv) {
            verbose!("workarounds: RUN: instruction doesn't need injection");
            return unchanged;
        }
        if self.mode != Some(Mode::Fakeroot) {
            self.would_help.set(true);
            verbose!("workarounds: RUN: available here with --force");
            return unchanged;
        }
        if stage.force.ready.replace(true) {
            verbose!("workarounds: init: already initialized");
        } else {
            for (n, init) in config.init.iter().enumerate() {
                initialise(stage, n + 1, init.check, init.command)?;
            }
        }
        let words: Vec<String> = config.prefix.iter().map(|w| w.to_string()).chain(argv.iter().cloned()).collect();
        info!("workarounds: RUN: new command: {}", announce::list(&words));
        self.modified.set(self.modified.get() + 1);
        let env = distributions::ENVIRONMENT.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Ok((words, env))
    }

    /// Before the error of a failed RUN: would `--force` have helped?
    pub fn advise(&self) {
        match self.mode {
            Some(Mode::Fakeroot) if self.nothing_fits.get() => {
                info!("build failed: --force specified, but no suitable config found");
            }
            Some(_) => {}
            None if !self.detect => {}
            None if self.would_help.get() => info!("build failed: --force may fix it"),
            None => info!("build failed: current version of --force wouldn't help"),
        }
    }

    /// A way out after a failed RUN, if there is one.
    pub fn hint(&self) -> Option<&'static str> {
        (self.mode.is_none() && self.would_help.get())
            .then_some("try --force=seccomp, which needs nothing in the image (or --force, which installs fakeroot)")
    }

    /// How many RUN were modified.
    pub fn modified(&self) -> usize {
        self.modified.get()
    }

    /// In a process for one stage: what it modified is counted by the others.
    pub fn forget_modified(&self) {
        self.modified.set(0);
    }

    /// Counts what another process modified.
    pub fn add_modified(&self, n: usize) {
        self.modified.set(self.modified.get() + n);
    }

    /// At the end of the build.
    pub fn conclude(&self) {
        if self.mode == Some(Mode::Fakeroot) {
            match self.modified.get() {
                0 => warning!("--force specified, but nothing to do"),
                n => info!("--force: init OK & modified {n} RUN instructions"),
            }
        }
    }
}

/// One step that makes fakeroot available: a layer of its own, cached like any other.
fn initialise(stage: &mut Stage, n: usize, check: &str, command: &str) -> Result<()> {
    let shell = |text: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()];
    let env = stage.environment();
    let mut inputs = Inputs::new(stage.tree.top(), &format!("workarounds init step {n}"));
    inputs.add("check", check);
    inputs.add("command", command);
    for (name, value) in &env {
        inputs.add(format!("env {name}"), value);
    }
    let storage = stage.build.storage;
    if let Some(id) = storage.step(&inputs.id()).filter(|_| stage.build.may_reuse()) {
        info!("workarounds: init step {n}: using existing layer");
        stage.tree.reuse(storage, id)?;
        return Ok(());
    }
    let binds = stage.build.binds.clone();
    let run = |root: &Path, text: &str, ledger: &mut Ledger| {
        let command = Command {
            argv: shell(text),
            env: env.clone(),
            cwd: "/".to_owned(),
            binds: binds.clone(),
            tmpfs: Vec::new(),
            network: Network::Host,
            emulation: Emulation::None,
        };
        command.run(root, ledger)
    };
    let id = inputs.id();
    let created_by = format!("workarounds: {command}");
    stage.tree.change(storage, id, &created_by, inputs.into_pairs(), |root, ledger| {
        info!("workarounds: init step {n}: checking: $ {check}");
        match run(root, check, ledger) {
            Ok(()) => {
                info!("workarounds: init step {n}: exit code 0, step not needed");
                return Ok(());
            }
            Err(Failure::Exited(code)) => verbose!("workarounds: init step {n}: exit code {code}"),
            Err(Failure::Interrupted(signal)) => return Err(interrupted(signal)),
            Err(Failure::NotRun(e)) => return Err(e),
        }
        info!("workarounds: init step {n}: $ {command}");
        match run(root, command, ledger) {
            Ok(()) => Ok(()),
            Err(Failure::Exited(code)) => Err(Error::new(format!("workarounds: init step {n} failed with {code}"))
                .hint("--force=seccomp needs nothing in the image")),
            Err(Failure::Interrupted(signal)) => Err(interrupted(signal)),
            Err(Failure::NotRun(e)) => Err(e),
        }
    })
}
