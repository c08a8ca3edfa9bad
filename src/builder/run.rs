//! RUN: a command in the tree under construction.
//!
//! [`decide`] says what the step depends on and changes nothing but what `--force=fakeroot` has to install before;
//! [`Running::perform`] mounts, runs and unmounts.

use std::ffi::OsString;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use super::announce;
use super::cache_key::Inputs;
use super::force::Prepared;
use super::image_users::{Known, ResolvedUser};
use super::mounts::{Mounts, SCRIPTS};
use super::secret::Author;
use super::stage::{Stage, Trust, Validity, Work, inside};
use super::{Build, Session, ca};
use crate::container::ownership::Ledger;
use crate::container::{self, Bind, Emulation, Need, Network, Seen, Spec, Status};
use crate::dockerfile::ast;
use crate::dockerfile::scope::DEFAULT_PATH;
use crate::dockerfile::state::{RunStep, Step};
use crate::error::{Context, Error, Result};
use crate::log::warning;
use crate::rootfs::Root;
use crate::sys::{self, signal};

/// Variables of the host that RUN sees and that never cause a cache miss (manual page, "Variable substitution"). Others than
/// `dockerfile::scope::PROXIES`, which are build arguments of that name: this list is what the cache key leaves out.
const PASSED: [&str; 9] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSH_AUTH_SOCK",
];
/// Not passed to a trigger that came with an image: whoever has the socket is the user at other machines.
const AGENT: &str = "SSH_AUTH_SOCK";
/// The predefined PATH of the manual page; where an image says nothing of its own.
const CH_PATH: &str = "/ch/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Of root, as with Docker: without it `git config --global`, Go and `. $HOME/.cargo/env` fail.
pub const HOME: &str = "/root";

/// Where RUN finds the caller's SSH agent. Not in the image's /tmp: a mount there would be in the way of `rm -rf /tmp/*`.
const AGENT_PLACE: &str = "/ch/ssh-agent";

/// For the names of steps: earlier versions had steps of the same commands that saw the host's /tmp.
pub const TMP: (&str, &str) = ("/tmp", "the image's");

/// The end of a build that was asked to stop.
pub fn interrupted(signal: i32) -> Error {
    Error::new(format!("interrupted by signal {signal}")).with_code(u8::try_from(128 + signal).unwrap_or(1))
}

/// How a command ended that did not succeed: its exit code, or minus the signal.
pub fn ending(code: i32) -> String {
    match code {
        0.. => format!("exited with {code}"),
        _ => format!("was killed by {}", signal::named(-code)),
    }
}

/// What a bad end may come from, where the number tells. A shell says 128 and the signal that ended its command.
fn cause(code: i32) -> Option<String> {
    let killed = "the kernel kills so when memory runs out; so do batch systems at a job's limit";
    match code {
        -9 => Some(format!("out of memory? {killed}")),
        137 => Some(format!("137 = 128 + 9: one of its processes was killed by {}; {killed}", signal::named(9))),
        129..=159 => {
            Some(format!("{code} may mean that one of its processes was killed by {}", signal::named(code - 128)))
        }
        _ => None,
    }
}

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// Its exit code, or minus the signal that ended it.
    Exited(i32),
    Interrupted(i32),
    NotRun(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::NotRun(e)
    }
}

/// Does RUN. `place` names the instruction in errors.
pub fn run(
    stage: &mut Stage,
    session: &mut Session,
    run: &RunStep,
    step: &Step,
    (author, place): (Author, &dyn Fn() -> String),
) -> Result<()> {
    let mounts = Mounts::new(stage.build, session, stage.index, (run, author)).context(place)?;
    let (work, running) = decide(stage, session, run, mounts)?;
    let build = stage.build;
    match stage.layer(session, work, step, |session, tree, ledger| running.perform(build, session, tree, ledger)) {
        Ok(checked) => {
            stage.fakeroot_ready |= checked == Some(true);
            Ok(())
        }
        Err(Failure::Exited(code)) => {
            build.request.force.advise(&session.force);
            Err(explain(stage, session, code, &run.argv, place))
        }
        Err(Failure::Interrupted(signal)) => Err(interrupted(signal)),
        Err(Failure::NotRun(e)) => Err(e).context(place),
    }
}

/// A RUN, decided.
struct Running<'r> {
    run: &'r RunStep,
    mounts: Mounts,
    prepared: Prepared,
    /// USER, where it is applied.
    user: Option<&'r str>,
}

fn decide<'r>(
    stage: &mut Stage,
    session: &mut Session,
    run: &'r RunStep,
    mounts: Mounts,
) -> Result<(Work, Running<'r>)> {
    if run.security == ast::Security::Insecure {
        warning!("not supported, ignored: RUN --security=insecure");
    }
    if !run.devices.is_empty() {
        warning!("not supported, ignored: RUN --device: RUN sees the host's /dev");
    }
    let words: Vec<String> = match &run.script {
        None => run.argv.clone(),
        Some(_) => run.argv.iter().map(|word| word.replacen("/dev/pipes", SCRIPTS, 1)).collect(),
    };
    let build = stage.build;
    let prepared = build.request.force.prepare(stage, session, &words)?;
    let emulation = build.request.force.emulation();
    let user = Some(run.user.as_str()).filter(|user| emulation == Emulation::Notify && !user.is_empty());
    let mut inputs = Inputs::new(stage.tree.top(), &format!("RUN {}", announce::list(&prepared.argv)));
    for (name, value) in run.env.iter().filter(|(name, _)| !PASSED.contains(&name.as_str())) {
        inputs.add(format!("env {name}"), value);
    }
    if run.env.iter().all(|(name, _)| name != "HOME") {
        inputs.add("env HOME", HOME);
    }
    inputs.add("cwd", &run.workdir);
    inputs.add("network", format!("{:?}", network(run)));
    inputs.add("emulation", format!("{emulation:?}"));
    if let Some(user) = user {
        inputs.add("user", user);
    }
    for bind in &build.request.binds {
        inputs.add("bind", format!("{}:{}", bind.source.display(), bind.target.display()));
    }
    inputs.add(TMP.0, TMP.1);
    mounts.add_to(&mut inputs);
    let shown = format!("RUN{} {}", build.request.force.mark(), announce::list(&run.argv));
    Ok((Work { inputs, shown, trust: Trust::Site }, Running { run, mounts, prepared, user }))
}

fn network(run: &RunStep) -> Network {
    match run.network {
        ast::Network::Default | ast::Network::Host => Network::Host,
        ast::Network::None => Network::None,
    }
}

impl Running<'_> {
    /// Whether what `--force` would install was looked for.
    fn perform(
        &self,
        build: &Build,
        session: &mut Session,
        tree: &Path,
        ledger: &mut Ledger,
    ) -> Result<(Validity, bool), Failure> {
        let Running { run, mounts, prepared, user } = self;
        let root = Root::open(tree)?;
        // An image may name a working directory that it does not have; Docker, too, makes it then.
        root.mkdir_all(&inside(&run.workdir), 0o755)?;
        let user = user.map(|user| Known::of(&root)?.resolve_user(user)).transpose()?.filter(|user| !user.is_root());
        let mut mounted = mounts.prepare(build, session)?;
        mounted.trust(build, tree)?;
        let binds = &build.request.binds;
        let checked = prepared.tell(&mut |text| execute(&shell(tree, text, &run.env, binds), ledger).map(drop))?;
        let mut spec = Spec::new(tree, prepared.argv.iter().map(OsString::from).collect());
        spec.cwd = PathBuf::from(&run.workdir);
        spec.binds = binds.iter().chain(&mounted.binds).cloned().collect();
        spec.tmpfs.clone_from(&mounted.tmpfs);
        spec.network = network(run);
        spec.emulation = build.request.force.emulation();
        spec.watch = build.request.force.watch(prepared);
        let site: Vec<_> = build.request.ca.iter().flat_map(|_| ca::variables()).collect();
        let env =
            variables(&site).chain(variables(&run.env)).chain(mounted.env.clone()).chain(variables(&prepared.env));
        surround(&mut spec, &env.collect::<Vec<_>>(), user, mounts.author);
        let seen = execute(&spec, ledger)?;
        build.request.force.warn_of_refusals(prepared, seen);
        Ok((mounts.meanwhile(build, session).into(), checked))
    }
}

/// ENV and ARG as a command gets them.
fn variables(env: &[(String, String)]) -> impl Iterator<Item = (String, OsString)> {
    env.iter().map(|(name, value)| (name.clone(), value.into()))
}

/// Gives a command its user and what the host lends to it: the environment of the manual page (predefined, passed, then
/// `env`: what the Dockerfile says), and the caller's SSH agent.
fn surround(spec: &mut Spec, env: &[(String, OsString)], user: Option<ResolvedUser>, author: Author) {
    let agent = std::env::var_os(AGENT).filter(|path| lends_agent(Path::new(path), env, &spec.binds, author));
    if let Some(socket) = &agent {
        spec.binds.push(Bind { need: Need::IfSource, ..Bind::new(socket, AGENT_PLACE) });
    }
    for name in PASSED.into_iter().filter(|name| author == Author::User || *name != AGENT) {
        let value = if name == AGENT && agent.is_some() { Some(AGENT_PLACE.into()) } else { std::env::var_os(name) };
        if let Some(value) = value {
            container::set_variable(&mut spec.env, name.as_ref(), &value);
        }
    }
    container::set_variable(&mut spec.env, "PATH".as_ref(), CH_PATH.as_ref());
    let home = user.as_ref().map_or(HOME, |user| &user.home);
    container::set_variable(&mut spec.env, "HOME".as_ref(), home.as_ref());
    // Where owners are recorded, tar may say them.
    if spec.emulation != Emulation::Notify {
        container::set_variable(&mut spec.env, "TAR_OPTIONS".as_ref(), "--no-same-owner".as_ref());
    }
    for (name, value) in env.iter().filter(|(name, value)| !(name == "PATH" && value == DEFAULT_PATH)) {
        container::set_variable(&mut spec.env, name.as_ref(), value);
    }
    container::finish_environment(&mut spec.env);
    spec.run_as = user.map(|user| user.ids);
}

/// Whether RUN is given the caller's agent: one with its socket in the host's /tmp, which `ch-run` would show; not where
/// the Dockerfile names another, or the host's /tmp is there.
fn lends_agent(path: &Path, env: &[(String, OsString)], binds: &[Bind], author: Author) -> bool {
    author == Author::User
        && path.starts_with("/tmp")
        && !path.components().any(|part| part == Component::ParentDir)
        && path.metadata().is_ok_and(|data| data.file_type().is_socket())
        && !env.iter().any(|(name, _)| name == AGENT)
        && !binds.iter().any(|bind| path.starts_with(&bind.target) && bind.source == bind.target)
}

/// A command of ours in the tree at `root`, without emulation. It needs no agent.
pub fn shell(root: &Path, text: &str, env: &[(String, String)], binds: &[Bind]) -> Spec {
    let mut spec = Spec::new(root, ["/bin/sh", "-c", text].map(OsString::from).to_vec());
    spec.binds = binds.to_vec();
    surround(&mut spec, &variables(env).collect::<Vec<_>>(), None, Author::BaseImage);
    spec
}

/// Runs a command to its end. `ledger`: what root emulation recorded before, and what it did now.
pub fn execute(spec: &Spec, ledger: &mut Ledger) -> Result<Seen, Failure> {
    let (status, seen) = container::run_recorded(spec, ledger)?;
    match status {
        Status::Exited(0) => Ok(seen),
        Status::Exited(code) => Err(Failure::Exited(i32::from(code))),
        Status::Signaled(signal) => Err(Failure::Exited(-signal)),
        Status::Interrupted(signal) => {
            // The command is dead; now we are meant.
            sys::signal::request(signal);
            Err(Failure::Interrupted(signal))
        }
    }
}

/// A RUN that failed: how to look inside. The state before it is kept as an image.
fn explain(stage: &mut Stage, session: &Session, code: i32, argv: &[String], place: &dyn Fn() -> String) -> Error {
    let request = &stage.build.request;
    let e = Error::new(format!("build failed: RUN command {}", ending(code))).detail(format!(
        "{}: the command was: {}",
        place(),
        crate::log::escape(&announce::list(argv))
    ));
    let mut ways: Vec<String> = request.force.hint(&session.force).map(str::to_owned).into_iter().collect();
    match stage.keep() {
        Ok(reference) => {
            let storage = request.storage_option.as_ref().map_or(String::new(), |s| format!("-s {} ", s.display()));
            ways.push(format!("look inside the image as it was before: ch-run {storage}{reference} -- /bin/sh"));
        }
        Err(other) => warning!("can't keep the stage for a look inside: {other}"),
    }
    let cause = cause(code).map_or(String::new(), |cause| format!("{cause}; "));
    if ways.is_empty() && cause.is_empty() { e } else { e.hint(format!("{cause}{}", ways.join("; or "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        let check = |code: i32, want: &str, why: &str| {
            assert_eq!(ending(code), want);
            assert!(cause(code).unwrap_or_default().contains(why), "{code}: {:?}", cause(code));
            assert_eq!(cause(code).is_some(), !why.is_empty(), "{code}");
        };
        check(3, "exited with 3", "");
        check(255, "exited with 255", "");
        check(-9, "was killed by signal 9 (SIGKILL)", "out of memory?");
        check(-11, "was killed by signal 11 (SIGSEGV)", "");
        check(-40, "was killed by signal 40", "");
        check(137, "exited with 137", "killed by signal 9 (SIGKILL); the kernel");
        check(139, "exited with 139", "killed by signal 11 (SIGSEGV)");
    }
}
