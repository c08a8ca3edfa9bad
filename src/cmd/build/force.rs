//! `--force`: privileged system calls of RUN seem to succeed (manual page, "Privilege model"; F8).
//!
//! `seccomp` and `notify` need nothing in the image. `fakeroot` installs fakeroot(1) before the first RUN that needs it
//! and puts it in front of commands that install packages; what it does is said line by line.

use std::cell::{Cell, OnceCell};
use std::path::Path;

use super::announce;
use super::cache::Inputs;
use super::run::{Command, Failure, TMP, ending, interrupted, variables};
use super::secret::Author;
use super::stage::Stage;
use crate::cli::{Force as Mode, Options};
use crate::container::force::{self as distributions, Config, Init};
use crate::container::{self, Bind, Emulation, Network, Obstacle};
use crate::error::{Error, Result};
use crate::image::owners::Which;
use crate::{info, verbose, warning};

/// Largest file that is read to recognise a distribution, bytes.
const MAX_SIGN: u64 = 1 << 20;

/// What the command line says, and what came of it in the whole build.
pub struct Force {
    mode: Option<Mode>,
    detect: bool,
    modified: Cell<usize>,
    /// The last RUN ran without a workaround that there is for it.
    would_help: Cell<bool>,
    /// The last RUN asked for what `--force=seccomp` grants, but fakeroot is not put before it.
    seccomp_would_help: Cell<bool>,
    /// A stage was looked at and nothing fitted.
    nothing_fits: Cell<bool>,
}

/// What becomes of a RUN.
pub struct Prepared {
    pub argv: Vec<String>,
    /// Variables to add.
    pub env: Vec<(String, String)>,
    /// `--force` would do something here: the checks to make before it, to say what.
    would: Option<&'static [Init]>,
}

impl Prepared {
    /// Before a RUN that is done as it stands: says what `--force` would do. Whether checks were made for that.
    pub fn tell(&self, run: &mut Run) -> Result<bool, Failure> {
        let Some(checks) = self.would else { return Ok(false) };
        for (n, init) in checks.iter().enumerate() {
            if is_needed(n + 1, init, run)? {
                info!("workarounds: init step {}: no --force, skipping", n + 1);
            }
        }
        if checks.is_empty() {
            verbose!("workarounds: init: already initialized");
        }
        info!("workarounds: RUN: available here with --force");
        Ok(!checks.is_empty())
    }
}

/// Runs a text with the shell, in the tree as it is.
pub type Run<'r> = dyn FnMut(&str) -> Result<(), Failure> + 'r;

fn is_needed(n: usize, init: &Init, run: &mut Run) -> Result<bool, Failure> {
    info!("workarounds: init step {n}: checking: $ {}", init.check);
    match run(init.check) {
        Ok(()) => {
            info!("workarounds: init step {n}: exit code 0, step not needed");
            Ok(false)
        }
        Err(Failure::Exited(code)) => {
            verbose!("workarounds: init step {n}: {}", ending(code));
            Ok(true)
        }
        Err(other) => Err(other),
    }
}

/// The mode that the kernel allows.
fn possible(mode: Mode) -> Mode {
    let why = match (mode, container::can_record()) {
        (Mode::Notify, Err(Obstacle::Supervised)) => {
            "another one supervises this process already (a build in a build?)"
        }
        (Mode::Notify, Err(Obstacle::Kernel)) => "this kernel can't notify of system calls (Linux 5.6)",
        (Mode::Notify, Ok(())) | (Mode::Fakeroot | Mode::Seccomp | Mode::None, _) => return mode,
    };
    warning!("--force=notify: {why}: using --force=seccomp, which records no owners");
    Mode::Seccomp
}

/// What holds for one stage.
#[derive(Default)]
pub struct OfStage {
    config: OnceCell<&'static Config>,
    /// The steps of initialisation are done, or were looked at without `--force`.
    pub ready: Cell<bool>,
}

impl Force {
    pub fn new(options: &Options) -> Force {
        Force {
            mode: options.force.map(possible),
            detect: !options.no_force_detect,
            modified: Cell::new(0),
            would_help: Cell::new(false),
            seccomp_would_help: Cell::new(false),
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

    /// Whether it matters to whom the base's layers give their files.
    pub fn owners(&self) -> Which {
        match self.emulation() {
            Emulation::Notify => Which::All,
            Emulation::None | Emulation::Seccomp => Which::IfRecorded,
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
        let mut prepared = Prepared { argv: argv.to_vec(), env: Vec::new(), would: None };
        let config = stage.force.config.get().copied();
        let of_unknown = config.is_none() && distributions::installs_packages(argv);
        // Earlier ones have succeeded.
        self.would_help.set(false);
        self.seccomp_would_help.set(of_unknown || distributions::seems_privileged(argv));
        let Some(config) = config else { return Ok(prepared) };
        if !config.needs_injection(argv) {
            verbose!("workarounds: init: instruction doesn't need injection");
            verbose!("workarounds: RUN: instruction doesn't need injection");
            return Ok(prepared);
        }
        let init = if stage.force.ready.get() { &[] } else { config.init };
        if self.mode != Some(Mode::Fakeroot) {
            self.would_help.set(true);
            prepared.would = Some(init);
            return Ok(prepared);
        }
        if stage.force.ready.replace(true) {
            verbose!("workarounds: init: already initialized");
        } else {
            for (n, init) in init.iter().enumerate() {
                initialise(stage, n + 1, init)?;
            }
        }
        prepared.argv.splice(0..0, config.prefix.iter().map(|w| w.to_string()));
        prepared.env = distributions::ENVIRONMENT.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        info!("workarounds: RUN: new command: {}", announce::list(&prepared.argv));
        self.modified.set(self.modified.get() + 1);
        Ok(prepared)
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
            None if self.seccomp_would_help.get() => info!("build failed: --force=seccomp may fix it"),
            // It has to do with something else.
            None => {}
        }
    }

    /// After a RUN that succeeded: does its image lack what the kernel refused? Nobody hears of it who does not want
    /// advice.
    pub fn warn_of_homes(&self, prepared: &Prepared) {
        let is_refused = match self.mode {
            Some(Mode::Fakeroot) => prepared.env.is_empty(),
            None => self.detect,
            Some(Mode::Seccomp | Mode::Notify | Mode::None) => false,
        };
        if is_refused && distributions::makes_home(&prepared.argv) {
            warning!(
                "RUN: useradd can't give a new home directory to its user, and may have left it incomplete: use --force=seccomp or --force=notify"
            );
        }
    }

    /// A way out after a failed RUN, if there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self.mode {
            None if self.would_help.get() => {
                Some("try --force=seccomp, which needs nothing in the image (or --force, which installs fakeroot)")
            }
            None if self.detect && self.seccomp_would_help.get() => Some("try --force=seccomp"),
            _ => None,
        }
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
fn initialise(stage: &mut Stage, n: usize, init: &Init) -> Result<()> {
    let env = stage.environment();
    let mut inputs = Inputs::new(stage.tree.top(), &format!("workarounds init step {n}"));
    inputs.add("check", init.check);
    inputs.add("command", init.command);
    inputs.add(TMP.0, TMP.1);
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
    let created_by = format!("workarounds: {}", init.command);
    stage.tree.change(
        storage,
        &created_by,
        |()| inputs,
        |root, ledger| {
            let mut run = |text: &str| shell(text, &env, &binds).run(root, ledger);
            let done = is_needed(n, init, &mut run).and_then(|needed| match needed {
                true => {
                    info!("workarounds: init step {n}: $ {}", init.command);
                    run(init.command)
                }
                false => Ok(()),
            });
            match done {
                Ok(()) => Ok(()),
                Err(Failure::Exited(code)) => Err(Error::new(format!("workarounds: init step {n} {}", ending(code)))
                    .hint("--force=seccomp needs nothing in the image")),
                Err(Failure::Interrupted(signal)) => Err(interrupted(signal)),
                Err(Failure::NotRun(e)) => Err(e),
            }
        },
    )
}

/// A command of ours, without emulation.
pub fn shell(text: &str, env: &[(String, String)], binds: &[Bind]) -> Command {
    Command {
        argv: ["/bin/sh", "-c", text].map(str::to_owned).to_vec(),
        env: variables(env).collect(),
        cwd: "/".to_owned(),
        binds: binds.to_vec(),
        tmpfs: Vec::new(),
        network: Network::Host,
        emulation: Emulation::None,
        user: None,
        // It needs no agent.
        author: Author::BaseImage,
    }
}
