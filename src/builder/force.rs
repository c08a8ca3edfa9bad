//! `--force`: privileged system calls of RUN seem to succeed (manual page, "Privilege model"; F8).
//!
//! `seccomp` and `notify` need nothing in the image. `fakeroot` installs fakeroot(1) before the first RUN that needs it
//! and puts it in front of commands that install packages; what it does is said line by line.

use std::path::Path;

use super::cache_key::Inputs;
use super::fakeroot::{self, Init};
use super::run::{Failure, TMP, ending, execute, interrupted, shell};
use super::stage::Stage;
use super::{Session, announce, ca, mounts};
use crate::container::{self, Emulation, Obstacle, Seen, Watch};
use crate::dockerfile::conceal::conceal;
use crate::error::{Error, Result};
use crate::image::owners::Which;
use crate::log::{info, verbose, warning};

/// Largest file that is read to recognise a distribution, bytes.
const MAX_SIGN: u64 = 1 << 20;

/// `--force[=MODE]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Fakeroot,
    Seccomp,
    Notify,
    None,
}

/// What the command line says.
pub struct Force {
    mode: Option<Mode>,
    /// Whether to look for what `--force` could do (`--no-force-detect`).
    detect: bool,
}

/// What came of it in the whole build.
#[derive(Default)]
pub struct Observed {
    /// How many RUN were modified.
    pub modified: usize,
    /// The last RUN ran without a workaround that there is for it.
    would_help: bool,
    /// The last RUN asked for what `--force=seccomp` grants, but fakeroot is not put before it.
    seccomp_would_help: bool,
    /// A stage was looked at and nothing fitted.
    nothing_fits: bool,
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

impl Force {
    /// The mode that was asked for, or the one that the kernel allows instead.
    pub fn new(mode: Option<Mode>, detect: bool) -> Force {
        Force { mode: mode.map(possible), detect }
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

    /// Before a RUN: makes the image ready if need be. The words to run instead, and what else its environment needs.
    pub fn prepare(&self, stage: &mut Stage, session: &mut Session, argv: &[String]) -> Result<Prepared> {
        let mut prepared = Prepared { argv: argv.to_vec(), env: Vec::new(), would: None };
        let distribution = stage.distribution;
        let of_unknown = distribution.is_none() && fakeroot::installs_packages(argv);
        // Earlier ones have succeeded.
        session.force.would_help = false;
        session.force.seccomp_would_help = of_unknown || fakeroot::seems_privileged(argv);
        let Some(distribution) = distribution else { return Ok(prepared) };
        if !distribution.needs_injection(argv) {
            verbose!("workarounds: init: instruction doesn't need injection");
            verbose!("workarounds: RUN: instruction doesn't need injection");
            return Ok(prepared);
        }
        let init = if stage.fakeroot_ready { &[] } else { distribution.init };
        if self.mode != Some(Mode::Fakeroot) {
            session.force.would_help = true;
            prepared.would = Some(init);
            return Ok(prepared);
        }
        if std::mem::replace(&mut stage.fakeroot_ready, true) {
            verbose!("workarounds: init: already initialized");
        } else {
            for (n, init) in init.iter().enumerate() {
                initialise(stage, n + 1, init)?;
            }
        }
        prepared.argv.splice(0..0, distribution.prefix.iter().map(|w| w.to_string()));
        prepared.env = fakeroot::ENVIRONMENT.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        info!("workarounds: RUN: new command: {}", conceal(&announce::list(&prepared.argv)));
        session.force.modified += 1;
        Ok(prepared)
    }

    /// Before the error of a failed RUN: would `--force` have helped?
    pub fn advise(&self, observed: &Observed) {
        match self.mode {
            Some(Mode::Fakeroot) if observed.nothing_fits => {
                info!("build failed: --force specified, but no suitable config found");
            }
            Some(_) => {}
            None if !self.detect => {}
            None if observed.would_help => info!("build failed: --force may fix it"),
            None if observed.seccomp_would_help => info!("build failed: --force=seccomp may fix it"),
            // It has to do with something else.
            None => {}
        }
    }

    /// Whether to look for what the kernel refuses a RUN, and advise. Nobody hears of it who does not want advice.
    pub fn watch(&self, prepared: &Prepared) -> Watch {
        let advises = match self.mode {
            Some(Mode::Fakeroot) => prepared.env.is_empty(),
            None => self.detect,
            Some(Mode::Seccomp | Mode::Notify | Mode::None) => false,
        };
        if advises { Watch::Chown } else { Watch::Nothing }
    }

    /// After a RUN that succeeded: does its image lack what the kernel refused?
    pub fn warn_of_refusals(&self, prepared: &Prepared, seen: Seen) {
        let what = match seen {
            _ if self.watch(prepared) == Watch::Nothing => return,
            Seen::RefusedChown => {
                "files could not be given to another user or group (chown), though the command succeeded"
            }
            Seen::Unknown if fakeroot::makes_home(&prepared.argv) => {
                "useradd can't give a new home directory to its user, and may have left it incomplete"
            }
            Seen::Unknown | Seen::Nothing => return,
        };
        warning!("RUN: {what}: use --force=seccomp or --force=notify");
    }

    /// A way out after a failed RUN, if there is one.
    pub fn hint(&self, observed: &Observed) -> Option<&'static str> {
        match self.mode {
            None if observed.would_help => {
                Some("try --force=seccomp, which needs nothing in the image (or --force, which installs fakeroot)")
            }
            None if self.detect && observed.seccomp_would_help => Some("try --force=seccomp"),
            _ => None,
        }
    }

    /// At the end of the build.
    pub fn conclude(&self, observed: &Observed) {
        if self.mode == Some(Mode::Fakeroot) {
            match observed.modified {
                0 => warning!("--force specified, but nothing to do"),
                n => info!("--force: init OK & modified {n} RUN instructions"),
            }
        }
    }
}

impl Stage<'_> {
    /// After FROM: which distribution is it?
    pub fn detect_distribution(&mut self, observed: &mut Observed) {
        let force = &self.build.request.force;
        match force.mode {
            Some(Mode::Seccomp | Mode::Notify | Mode::None) => return,
            Some(Mode::Fakeroot) | None => {}
        }
        if !force.detect {
            verbose!("not detecting --force config, per --no-force-detect");
            return;
        }
        let read = |path: &str| {
            let inside = Path::new(path.trim_start_matches('/'));
            let bytes = self.tree.read(self.build.storage, inside, MAX_SIGN).ok().flatten()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        match (fakeroot::detect(&read), force.mode) {
            (Some(config), mode) => {
                match mode {
                    Some(_) => info!("will use --force: {}: {}", config.tag, config.name),
                    // Which RUN it is for is said there.
                    None => verbose!("available --force: {}: {}", config.tag, config.name),
                }
                self.distribution = Some(config);
            }
            (None, Some(_)) => {
                warning!("--force not available (no suitable config found)");
                observed.nothing_fits = true;
            }
            (None, None) => verbose!("--force not available (no suitable config found)"),
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
    if let Some(id) = storage.step(&inputs.id()).filter(|_| stage.build.request.reuse) {
        info!("workarounds: init step {n}: using existing layer");
        stage.tree.reuse(storage, id)?;
        return Ok(());
    }
    let build = stage.build;
    let certificates = build.request.ca.as_deref();
    let env: Vec<_> = certificates.iter().flat_map(|_| ca::variables()).chain(env).collect();
    let created_by = format!("workarounds: {}", init.command);
    stage.tree.change(
        storage,
        &created_by,
        certificates,
        |()| inputs,
        |root, ledger| {
            let mut mounted = mounts::Prepared::default();
            mounted.trust(build, root)?;
            let binds: Vec<_> = build.request.binds.iter().chain(&mounted.binds).cloned().collect();
            let mut run = |text: &str| execute(&shell(root, text, &env, &binds), ledger).map(drop);
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
