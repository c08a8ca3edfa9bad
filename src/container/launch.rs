//! Running a command to its end, or becoming it.
//!
//! [`run_recorded`] makes one child in new mount and PID namespaces. As their process 1 it does the mounts, starts the command, reaps
//! orphans and, when the command ends, tells how through a pipe and exits, whereupon the kernel kills all that is
//! left. If this process dies, so does that one, and with it everything else.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::answerer::Answerer;
use super::execute::{Execution, execute_all};
use super::inode_owners::Record;
use super::mountpoint::{self, Made};
use super::output::Output;
use super::ownership::Ledger;
use super::setup::{Extras, Role, plan};
use super::step::Step;
use super::supervisor::Supervisor;
use super::watch::{Seen, Watcher};
use super::{Emulation, Network, Overlay, Spec, Tmp, enter, filter};
use crate::error::{Context, Error, Result};
use crate::log::debug;
use crate::sys::namespace::{NEW_MOUNT, NEW_NETWORK, NEW_PID};
use crate::sys::process::{self, Dumpable, Ended, Fork, Pid, Ready, Want};
use crate::sys::signal::{self, Catcher, Mask};

/// Exit codes for a command that can't be executed, as shells have them.
pub const NOT_EXECUTABLE: u8 = 126;
pub const NOT_FOUND: u8 = 127;

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Exited(u8),
    /// By a signal that was none of ours.
    Signaled(i32),
    /// This process was asked to stop by that signal, and stopped the command.
    Interrupted(i32),
}

/// How long a command that is asked to stop has for it.
const GRACE: Duration = Duration::from_millis(1000);

/// Runs the command to its end; no process of it survives. `ledger` tells what the tree's files have been made to be
/// before, and afterwards what they are; [`Emulation::Notify`] adds to it. Says what was seen of what [`Spec::watch`] is
/// about.
pub fn run_recorded(spec: &Spec, ledger: &mut Ledger) -> Result<(Status, Seen)> {
    enter()?;
    let steps = plan(spec, Role::Run, Extras::Wanted)?;
    log(&steps);
    let _made = make_places(spec, &steps)?;
    let null = null()?;
    let (reader, writer) = io::pipe().context(|| "can't make a pipe")?;
    let writer = OwnedFd::from(writer);
    let record = spec.emulation == Emulation::Notify;
    let watched = filter::HERE.filter(|_| steps.iter().any(|step| matches!(step, Step::Watch(_))));
    let (socket, child_socket) = process::socket_pair().context(|| "can't make a socket pair")?;
    let (gate, opened) = io::pipe().context(|| "can't make a pipe")?;
    let (mut output, ends) = Output::new().context(|| "can't make a pipe")?;
    let (mut signals, noted) = io::pipe().context(|| "can't make a pipe")?;
    let catcher = Catcher::new(noted.into(), CAUGHT).context(|| "can't handle signals")?;
    let network = if spec.network == Network::None { NEW_NETWORK } else { 0 };
    // No handler of ours shall run in the child.
    let mask = Mask::all().set().context(|| "can't block signals")?;
    let child = match process::fork(NEW_MOUNT | NEW_PID | network) {
        Ok(Fork::Child) => {
            drop((socket, opened));
            wait_for_end_of(gate);
            drop(reader);
            let init = |command: Pid| init(command, &writer);
            let (output, socket) = (Some(&ends), (record || watched.is_some()).then_some(&child_socket));
            let state =
                Execution { root: None, null: &null, init: &init, announce: &|| Ok(()), keep: &writer, output, socket };
            first_process(&steps, state)
        }
        Ok(Fork::Parent(child)) => Ok(child),
        Err(e) => Err(e),
    };
    mask.set().context(|| "can't unblock signals")?;
    let child = child.map_err(|e| cannot_start(&e, spec.network))?;
    drop((writer, ends, child_socket));
    // The gate opens when the files were looked for where they are before the command.
    let (mut answerer, mut own, mut watcher) = (None, None, None);
    let mut begun = Ok(());
    if record {
        let mask = Mask::all().set().context(|| "can't block signals")?;
        let supervisor = || {
            let mut supervisor = Supervisor::new(&spec.root, ledger);
            if let Some(user) = &spec.run_as {
                supervisor.begin_as(child, user);
            }
            supervisor
        };
        let started = Answerer::start(supervisor, socket, opened);
        mask.set().context(|| "can't unblock signals")?;
        begun = started.map(|started| answerer = Some(started)).context(|| "root emulation: can't start a process");
    } else {
        // Nothing is recorded, but what was may be moved and removed.
        own = (!ledger.is_empty()).then(|| Record::new(&spec.root, ledger));
        watcher = watched.map(|machine| Watcher::new(machine, socket));
        drop(opened);
    }
    let observers = (answerer.as_mut(), watcher.as_mut());
    let mut told = begun.and_then(|()| listen(child, reader, &mut signals, observers, &mut output));
    if told.is_err() {
        // Its calls would wait for an answer for ever.
        let _ = process::kill(child, libc::SIGKILL);
    }
    let ended = wait_for_all(child, &mut signals);
    if let Ok(told) = &mut told {
        hear_the_rest(told, &mut signals, answerer.as_mut(), &mut output)?;
    }
    drop(catcher);
    if let Some(record) = own {
        *ledger = record.finish();
    }
    if let (Some(answerer), Ok(Told { interrupted: None, .. })) = (&answerer, &told) {
        *ledger = answerer.ledger()?;
        debug!("root emulation: {} entries", ledger.len());
    }
    let status = match (told?, ended?) {
        (Told { interrupted: Some(signal), .. }, _) => Status::Interrupted(signal),
        (Told { word: Some(Word::Failed(step, errno)), .. }, _) => return Err(failure(&steps, step, errno)),
        (Told { word: Some(Word::Ended(status)), .. }, _) => match Ended::of(status) {
            Ended::Exited(code) => Status::Exited(code),
            Ended::Signaled(n) => Status::Signaled(n),
        },
        // Process 1 itself was killed: out of memory, or by someone on the host.
        (Told { word: None, .. }, Ended::Signaled(n)) => Status::Signaled(n),
        (Told { word: None, .. }, Ended::Exited(code)) => {
            return Err(Error::new(format!("the command's first process ended early with {code}")));
        }
    };
    Ok((status, watcher.map_or(Seen::Unknown, |watcher| watcher.seen())))
}

/// Becomes the command: returns only if that fails. No PID namespace, nothing is waited for.
pub fn exec(spec: &Spec) -> Result<Infallible> {
    exec_announced(spec, &|| Ok(()))
}

/// As [`exec`]; calls `announce` when the container stands.
pub fn exec_announced(spec: &Spec, announce: &dyn Fn() -> io::Result<()>) -> Result<Infallible> {
    enter()?;
    become_it(spec, Role::ChRun, announce)
}

/// Becomes the command within the container that this process has joined.
pub fn exec_joined(spec: &Spec) -> Result<Infallible> {
    become_it(spec, Role::Joined, &|| Ok(()))
}

fn become_it(spec: &Spec, role: Role, announce: &dyn Fn() -> io::Result<()>) -> Result<Infallible> {
    let mut steps = plan(spec, role, Extras::Wanted)?;
    let mut places = None;
    if !spec.writable {
        places = match give_places(spec, &steps) {
            Ok(places) => places,
            Err(e) => {
                // Where the kernel can't do it, an image without them is what it always was.
                debug!("container: {e}");
                steps = plan(spec, role, Extras::LeftOut)?;
                give_places(spec, &steps)?
            }
        };
    }
    if places.is_some() {
        // The same targets, which exist now.
        steps = plan(spec, role, Extras::Wanted)?;
    }
    log(&steps);
    let _made = make_places(spec, &steps)?;
    let null = null()?;
    let mut state =
        Execution { root: None, null: &null, init: &|_| {}, announce, keep: &null, output: None, socket: None };
    let (step, e) = execute_all(&steps, &mut state);
    let errno = e.raw_os_error().unwrap_or(libc::EIO);
    let error = failure(&steps, step, errno);
    Err(match (steps.get(step), errno) {
        (Some(Step::Execute(_)), libc::ENOENT | libc::ENOTDIR) => error.with_code(NOT_FOUND),
        (Some(Step::Execute(_)), _) => error.with_code(NOT_EXECUTABLE),
        _ => error,
    })
}

fn log(steps: &[Step]) {
    for step in steps {
        debug!("container: {step}");
    }
}

/// What there has to be to mount on: in the tree, and in directories of the host.
fn make_places(spec: &Spec, steps: &[Step]) -> Result<(Made, Made)> {
    let (mut made, mut shared) = (Made::default(), Made::default());
    if spec.tmp == Tmp::Image
        && let Ok(tmp) = mountpoint::locate(&spec.root, Path::new("/tmp"))
    {
        made.make_open(&spec.root, &tmp)?;
    }
    for step in steps {
        if let Some((target, shape)) = step.place() {
            made.make(&spec.root, target, shape)?;
        }
        if let Step::Stub { within, target, shape } = step {
            shared.make_shared(within, target, *shape)?;
        }
    }
    Ok((made, shared))
}

/// What is missing in a tree that is not written to: made in memory, and seen beneath the tree. `None` if nothing is.
fn give_places(spec: &Spec, steps: &[Step]) -> Result<Option<(Overlay, Made)>> {
    let missing: Vec<_> = steps.iter().filter_map(Step::place).filter(|(target, _)| !target.exists()).collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let mut made = Made::default();
    let overlay = Overlay::with_places(&spec.root, &mut |places| {
        missing.iter().try_for_each(|(target, shape)| made.make(places, &target.absent(), *shape))
    });
    let failed = |e: Error| {
        let mut names: Vec<String> = missing.iter().map(|(target, _)| target.to_string()).collect();
        names.dedup();
        let names = names.join(" ");
        e.context(format!("the image has no {names} to mount on"))
            .hint("mount on what exists in it, such as /mnt/0; or use --write-fake, with which what is missing is made in memory")
    };
    overlay.map(|overlay| Some((overlay, made))).map_err(failed)
}

fn null() -> Result<OwnedFd> {
    let file = OpenOptions::new().read(true).open("/dev/null").context(|| "can't open /dev/null")?;
    Ok(file.into())
}

fn cannot_start(e: &io::Error, network: Network) -> Error {
    let error = Error::from(io::Error::from_raw_os_error(e.raw_os_error().unwrap_or(libc::EIO)))
        .context("can't start a process in new namespaces");
    match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EUSERS) if network == Network::None => error.hint(
            "the limits are user.max_pid_namespaces, user.max_mnt_namespaces and user.max_net_namespaces (sysctl): ask the administrator",
        ),
        Some(libc::ENOSPC | libc::EUSERS) => error
            .hint("the limits are user.max_pid_namespaces and user.max_mnt_namespaces (sysctl): ask the administrator"),
        Some(libc::EAGAIN) => error.hint("too many processes: see ulimit -u"),
        _ => error,
    }
}

fn failure(steps: &[Step], step: usize, errno: i32) -> Error {
    let cause = Error::from(io::Error::from_raw_os_error(errno));
    let Some(step) = steps.get(step) else { return cause.context("can't run a command") };
    let error = cause.context(format!("can't {step}"));
    match step.hint(errno) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

// --- The parent -----------------------------------------------------------------------------------------------

/// The signals that ask us to stop, and the terminal's to pause.
const CAUGHT: &[libc::c_int] = &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGTSTP];

/// What came through the pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    Failed(usize, i32),
    Ended(i32),
}

const WORD: usize = 12;

impl Word {
    fn encode(self) -> [u8; WORD] {
        let (kind, a, b) = match self {
            Word::Failed(step, errno) => (0_u32, step as u32, errno),
            Word::Ended(status) => (1, 0, status),
        };
        let mut bytes = [0; WORD];
        bytes[..4].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&a.to_ne_bytes());
        bytes[8..].copy_from_slice(&b.to_ne_bytes());
        bytes
    }

    fn decode(bytes: [u8; WORD]) -> Word {
        let [k0, k1, k2, k3, a0, a1, a2, a3, b0, b1, b2, b3] = bytes;
        let b = i32::from_ne_bytes([b0, b1, b2, b3]);
        match u32::from_ne_bytes([k0, k1, k2, k3]) {
            0 => Word::Failed(u32::from_ne_bytes([a0, a1, a2, a3]) as usize, b),
            _ => Word::Ended(b),
        }
    }
}

#[derive(Default)]
struct Told {
    word: Option<Word>,
    interrupted: Option<i32>,
}

/// Waits for the end of the command, passing on signals, and what it says.
fn listen(
    child: Pid,
    mut reader: PipeReader,
    signals: &mut PipeReader,
    (mut answerer, mut watcher): (Option<&mut Answerer>, Option<&mut Watcher>),
    output: &mut Output,
) -> Result<Told> {
    let mut told = Told::default();
    let mut deadline: Option<Instant> = None;
    loop {
        let wait = deadline.map(|d| d.saturating_duration_since(Instant::now()).as_millis() as i32);
        // Something has to stand in the third place.
        let answers = answerer.as_ref().and_then(|answerer| answerer.waits_for());
        let third = answers.or(watcher.as_ref().and_then(|watcher| watcher.waits_for())).unwrap_or(signals.as_fd());
        let mut fds = [reader.as_fd(), signals.as_fd(), third].map(|fd| (fd, Want::Read)).to_vec();
        fds.extend(output.waits_for());
        let ready = process::poll_each(&fds, wait).context(|| "can't wait for a command")?;
        if let Some(answerer) = &mut answerer
            && answerer.waits_for().is_some()
            && ready[2] != Ready::No
        {
            answerer.take()?;
        }
        if let Some(watcher) = &mut watcher
            && watcher.waits_for().is_some()
            && ready[2] != Ready::No
        {
            watcher.take(ready[2]).context(|| "can't watch a command")?;
        }
        output.pass_on(&ready[3..]);
        if ready[0] != Ready::No {
            let mut bytes = [0; WORD];
            match reader.read_exact(&mut bytes) {
                Ok(()) => told.word = told.word.or(Some(Word::decode(bytes))),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // The end of the pipe: process 1 is gone.
                Err(_) => return Ok(told),
            }
            continue;
        }
        if ready[1] == Ready::Yes {
            let mut byte = [0];
            if signals.read(&mut byte).is_ok_and(|n| n == 1) {
                let signal = i32::from(byte[0]);
                if signal == libc::SIGTSTP {
                    pause(child);
                } else if told.interrupted.replace(signal).is_some() {
                    deadline = Some(Instant::now());
                } else {
                    // It may have ended already.
                    let _ = process::kill(child, signal);
                    deadline = Some(Instant::now() + GRACE);
                }
            }
        }
        if deadline.is_some_and(|d| d <= Instant::now()) {
            let _ = process::kill(child, libc::SIGKILL);
            deadline = None;
        }
    }
}

/// Waits until no process of the command is left. One that waits for a file system which does not answer can't be
/// ended; then a signal ends the wait.
fn wait_for_all(child: Pid, signals: &mut PipeReader) -> Result<Ended> {
    let failed = || "can't wait for a child";
    loop {
        if let Some(ended) = process::wait_or_signal(child).context(failed)? {
            return Ok(ended);
        }
        let mut byte = [0];
        if process::poll(&[signals.as_fd()], Some(0)).context(failed)?.first() == Some(&Ready::Yes)
            && signals.read(&mut byte).is_ok_and(|n| n == 1)
        {
            match i32::from(byte[0]) {
                libc::SIGTSTP => drop(process::kill(process::pid(), libc::SIGSTOP)),
                signal => {
                    signal::request(signal);
                    let e =
                        Error::new("a process of RUN can't be ended: it waits for a file system that does not answer");
                    return Err(e.with_code(u8::try_from(128 + signal).unwrap_or(1)));
                }
            }
        }
    }
}

/// When the command and all that it started are gone: passes on what they said, and hears what was recorded. Who was asked
/// to stop does not wait for others.
fn hear_the_rest(
    told: &mut Told,
    signals: &mut PipeReader,
    mut answerer: Option<&mut Answerer>,
    output: &mut Output,
) -> Result<()> {
    output.end();
    loop {
        let report = answerer.as_ref().and_then(|answerer| answerer.waits_for());
        let mut fds = vec![(signals.as_fd(), Want::Read)];
        fds.extend(report.map(|report| (report, Want::Read)));
        let own = fds.len();
        fds.extend(output.waits_for());
        if fds.len() == 1 {
            return Ok(());
        }
        let wait = told.interrupted.map(|_| 0);
        let ready = process::poll_each(&fds, wait).context(|| "can't wait for the rest of a command")?;
        let mut byte = [0];
        if ready[0] == Ready::Yes && signals.read(&mut byte).is_ok_and(|n| n == 1) {
            match i32::from(byte[0]) {
                libc::SIGTSTP => drop(process::kill(process::pid(), libc::SIGSTOP)),
                signal => told.interrupted = Some(signal),
            }
        } else if wait.is_some() && ready.iter().all(|ready| *ready == Ready::No) {
            return Ok(());
        }
        if let Some(answerer) = &mut answerer
            && own == 2
            && ready[1] != Ready::No
        {
            answerer.take()?;
        }
        output.pass_on(&ready[own..]);
    }
}

/// Ctrl-Z: the command has a session of its own, so the terminal stops only us.
fn pause(child: Pid) {
    let _ = process::kill(child, libc::SIGTSTP);
    let _ = process::kill(process::pid(), libc::SIGSTOP);
    let _ = process::kill(child, libc::SIGCONT);
}

// --- Process 1 ------------------------------------------------------------------------------------------------

/// The child: does the steps, becomes process 1 on the way. Neither allocates nor returns.
fn first_process(steps: &[Step], mut state: Execution) -> ! {
    let pipe = state.keep;
    // Commands run as the same user: they shall not look into this copy of our memory.
    if process::set_dumpable(Dumpable::No).is_err() || process::die_with_parent().is_err() || process::is_orphaned(pipe)
    {
        process::exit(1);
    }
    let (step, e) = execute_all(steps, &mut state);
    tell(pipe, Word::Failed(step, e.raw_os_error().unwrap_or(libc::EIO)));
    process::exit(1)
}

/// Waits until nobody can write to the pipe any more.
fn wait_for_end_of(mut pipe: PipeReader) {
    while pipe.read(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::Interrupted) {}
}

fn tell(pipe: &OwnedFd, word: Word) {
    // If nobody listens any more, there is nobody to tell.
    let _ = pipe.try_clone().and_then(|fd| File::from(fd).write_all(&word.encode()));
}

fn init(command: Pid, pipe: &OwnedFd) {
    use std::os::fd::AsRawFd;
    let _ = process::close_all_but(&[pipe.as_raw_fd()]);
    for signal in CAUGHT.iter().chain(&[libc::SIGCONT]) {
        let _ = signal::set_handler(*signal, spread);
    }
    let _ = Mask::empty().set();
    loop {
        match process::wait_any() {
            Ok((pid, status)) if pid == command => {
                tell(pipe, Word::Ended(status));
                process::exit(0)
            }
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
            Err(_) => process::exit(1),
        }
    }
}

/// What reaches process 1 goes to all others.
extern "C" fn spread(signal: i32) {
    let signal = if signal == libc::SIGTSTP { libc::SIGSTOP } else { signal };
    let _ = process::kill(-1, signal);
}
