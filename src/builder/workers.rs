//! `--jobs N`: stages that do not need each other grow at the same time, each in a process of its own.
//!
//! A worker is a fork of this process. It grows one stage and commits it to storage, where this process and later workers
//! find it; its output comes through pipes, and each line gets the stage's name. Processes and not threads: a
//! command in a container is forked, waited for and interrupted by a process that does nothing else meanwhile.
//!
//! All that the Dockerfile names is pulled before the first worker starts. So it is known then what each stage begins
//! with, and the instructions have the numbers that they have one after another.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use serde_json::{Value, json};

use super::force::Observed;
use super::run::interrupted;
use super::stage::Finished;
use super::{Build, Session, announce, config, schedule};
use crate::container;
use crate::dockerfile::ast::Instruction;
use crate::dockerfile::plan::{Base, Origin};
use crate::dockerfile::state::State;
use crate::error::{Context, Error, Result};
use crate::log::{self, Stream};
use crate::sys::process::{self, Ended, Fork, Pid, Ready};
use crate::sys::signal::{Catcher, Mask};

/// A longer line of a stage's output is cut, so that it need not be held.
const MAX_LINE: usize = 64 << 10;

/// Grows all stages that the target needs, at most `jobs` at a time.
pub fn run(build: &Build, session: &mut Session, jobs: usize) -> Result<()> {
    let mut waiting = prepare(build, session)?;
    let (signals, noted) = io::pipe().context(|| "can't make a pipe")?;
    let catcher = Catcher::new(noted.into(), CAUGHT).context(|| "can't handle signals")?;
    let mut crew = Crew { build, session, catcher: Some(catcher), signals, workers: Vec::new(), failure: None };
    loop {
        while crew.failure.is_none() && crew.workers.len() < jobs {
            let is_ready = |job: &Job| job.needs.iter().all(|&stage| crew.session.is_finished(stage));
            let Some(at) = waiting.iter().position(is_ready) else { break };
            crew.start(waiting.remove(at))?;
        }
        if crew.workers.is_empty() {
            let Some(failure) = crew.failure else { return Ok(()) };
            // Of workers that a signal ended at once.
            build.storage.sweep();
            return Err(failure);
        }
        crew.listen()?;
    }
}

/// A stage to be grown.
struct Job {
    index: usize,
    /// Instructions before it.
    number: usize,
    /// Stages that have to be finished before.
    needs: Vec<usize>,
    /// What it will know in the end.
    state: State,
}

/// What is known of a stage before anything is done.
struct Outlook {
    /// `None`: it stands on another stage.
    state: Option<State>,
    triggers: Vec<Instruction>,
    needs: Vec<usize>,
}

/// Pulls what has to be pulled, and counts.
fn prepare(build: &Build, session: &mut Session) -> Result<Vec<Job>> {
    let dockerfile = build.dockerfile;
    let mut outlooks: Vec<Option<Outlook>> = dockerfile.stages.iter().map(|_| None).collect();
    let mut needed = vec![build.plan.target];
    while let Some(index) = needed.pop() {
        if outlooks[index].is_none() {
            let outlook = look(build, index)?;
            needed.extend(&outlook.needs);
            outlooks[index] = Some(outlook);
        }
    }
    let mut jobs: Vec<Job> = Vec::new();
    for (index, outlook) in outlooks.into_iter().enumerate() {
        let Some(Outlook { state, triggers, needs }) = outlook else { continue };
        let of_stage = |n: usize| jobs.iter().find(|job| job.index == n).map(|job| State::of_stage(&job.state));
        let base = match build.plan.stages[index].base {
            Base::Stage(n) => of_stage(n),
            Base::Scratch | Base::Image(_) => None,
        };
        let mut state = match (state, base) {
            (Some(state), _) | (None, Some(state)) => state,
            (None, None) => State::of_image(&[], Default::default(), build.dockerfile.escape)?,
        };
        let number = session.number;
        let mut lines = 1;
        for instruction in triggers.iter().chain(&dockerfile.stages[index].instructions) {
            let step = state.step(instruction, build.globals())?;
            lines += announce::texts(instruction, &step, &state).len();
        }
        session.number = number + lines;
        jobs.push(Job { index, number, needs, state });
    }
    Ok(jobs)
}

fn look(build: &Build, index: usize) -> Result<Outlook> {
    let planned = &build.plan.stages[index];
    let mut needs = Vec::new();
    let (state, triggers) = match &planned.base {
        Base::Scratch => (None, Vec::new()),
        Base::Stage(n) => {
            needs.push(*n);
            (None, config::parse_triggers(&planned.triggers)?)
        }
        Base::Image(name) => {
            let line = build.dockerfile.stages[index].line;
            let image = build.image_of_from(name, planned.platform.as_ref(), line)?;
            let (state, triggers) = config::begin(&image.config, build.dockerfile.escape)?;
            (Some(state), triggers)
        }
    };
    for origin in schedule::origins(build, index, &triggers)? {
        match origin {
            Origin::Stage(n) => needs.push(n),
            Origin::Image(name) => drop(build.named_image(&name)?),
            Origin::Context | Origin::Scratch => {}
        }
    }
    Ok(Outlook { state, triggers, needs })
}

/// The signals that ask us to stop, and the terminal's to pause. A second one of the former ends all at once.
const CAUGHT: &[libc::c_int] = &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGTSTP];

struct Crew<'b> {
    build: &'b Build<'b>,
    session: &'b mut Session,
    /// `None` in a worker.
    catcher: Option<Catcher>,
    signals: PipeReader,
    workers: Vec<Worker>,
    /// Why no more stages are begun.
    failure: Option<Error>,
}

/// A process that grows a stage.
struct Worker {
    job: Job,
    name: String,
    pid: Pid,
    output: [Lines; 2],
    /// Gives a document in the end, see [`report`].
    report: Option<PipeReader>,
    told: Vec<u8>,
}

impl Crew<'_> {
    fn start(&mut self, job: Job) -> Result<()> {
        let name = match &self.build.plan.stages[job.index].name {
            Some(name) => name.clone(),
            None => format!("stage {}", job.index),
        };
        let pipe = || io::pipe().context(|| "can't make a pipe");
        let ((out, to_out), (error, to_error), (report, to_report)) = (pipe()?, pipe()?, pipe()?);
        // No handler of ours shall run in the worker.
        let mask = Mask::all().set().context(|| "can't block signals")?;
        let forked = process::fork_whole();
        if let Ok(Fork::Child) = forked {
            self.catcher = None;
            self.workers.clear();
            let _ = mask.set();
            drop((out, error, report));
            self.work(&job, &name, (to_out, to_error), to_report);
        }
        mask.set().context(|| "can't unblock signals")?;
        let Fork::Parent(pid) = forked.context(|| "can't start a process")? else { process::exit(1) };
        let prefix = format!("[{name}] ");
        let output = [Lines::new(out, &prefix, Stream::Out), Lines::new(error, &prefix, Stream::Error)];
        self.workers.push(Worker { job, name, pid, output, report: Some(report), told: Vec::new() });
        Ok(())
    }

    /// The worker's whole life.
    fn work(&mut self, job: &Job, name: &str, output: (PipeWriter, PipeWriter), report: PipeWriter) -> ! {
        let begin = || -> Result<()> {
            let failed = || "can't set up a process";
            process::die_with_parent().context(failed)?;
            process::new_group().context(failed)?;
            process::replace(std::fs::File::open("/dev/null").context(failed)?, 0).context(failed)?;
            process::replace(&output.0, 1).and_then(|()| process::replace(&output.1, 2)).context(failed)?;
            drop(output);
            container::separate()?;
            log::set_speaker(&format!("[{name}] "));
            self.build.storage.begin_child();
            self.session.number = job.number;
            self.session.force = Observed::default();
            Ok(())
        };
        if process::is_orphaned(&report) {
            process::exit(1);
        }
        let done = begin().and_then(|()| schedule::grow(self.build, self.session, job.index));
        self.build.storage.end_session();
        let document = match done {
            Ok(()) => json!({"modified": self.session.force.modified}),
            Err(e) => {
                json!({"error": e.to_string(), "detail": e.get_detail(), "hint": e.get_hint(), "code": e.exit_code()})
            }
        };
        // If nobody listens any more, there is nobody to tell.
        let _ = (&report).write_all(document.to_string().as_bytes());
        process::exit(0)
    }

    /// Waits for signals and what workers say; takes leave of those that have ended.
    fn listen(&mut self) -> Result<()> {
        let mut fds: Vec<BorrowedFd> = vec![self.signals.as_fd()];
        fds.extend(self.workers.iter().flat_map(Worker::waits_for));
        let ready = process::poll(&fds, None).context(|| "can't wait for stages")?;
        let mut later = ready.iter().skip(1).map(|ready| *ready != Ready::No);
        for worker in &mut self.workers {
            worker.take(&mut later);
        }
        if ready.first() == Some(&Ready::Yes) {
            let mut byte = [0];
            if self.signals.read(&mut byte).is_ok_and(|n| n == 1) {
                self.signal(i32::from(byte[0]));
            }
        }
        let is_over = |worker: &mut Worker| worker.waits_for().next().is_none();
        for worker in self.workers.extract_if(.., is_over).collect::<Vec<_>>() {
            if let Err(e) = self.end(worker) {
                // The others' own failures come of their being stopped.
                if self.failure.is_none() {
                    self.failure = Some(e);
                    self.pass_on(libc::SIGTERM);
                }
            }
        }
        Ok(())
    }

    /// The stage is finished, or why it is not.
    fn end(&mut self, worker: Worker) -> Result<()> {
        let Worker { job, name, pid, told, .. } = worker;
        let failed = || format!("stage {}", name.trim_start_matches("stage "));
        let ended = process::wait(pid).context(failed)?;
        let document: Value = serde_json::from_slice(&told).unwrap_or_default();
        if let Some(n) = document["modified"].as_u64() {
            self.session.force.modified += n as usize;
            let reference = self.build.reference_of(job.index)?;
            let image = self.build.storage.image(&reference)?;
            let image = image.ok_or_else(|| Error::new("its image is gone").context(failed()))?;
            let finished = Finished { image, state: job.state };
            self.session.finished.insert(job.index, Rc::new(finished));
            return Ok(());
        }
        let text = |key: &str| document[key].as_str().map(str::to_owned);
        let Some(message) = text("error") else {
            return Err(Error::new(match ended {
                Ended::Signaled(n) => format!("its process was killed by {}", crate::sys::signal::named(n)),
                Ended::Exited(code) => format!("its process ended early with {code}"),
            })
            .context(failed()));
        };
        let code = document["code"].as_u64().and_then(|code| u8::try_from(code).ok());
        let mut error = Error::new(message).context(failed()).with_code(code.unwrap_or(1));
        if let Some(detail) = text("detail") {
            error = error.detail(detail);
        }
        Err(text("hint").into_iter().fold(error, |error, hint| error.hint(hint)))
    }

    fn signal(&mut self, signal: i32) {
        if signal == libc::SIGTSTP {
            self.pass_on(libc::SIGTSTP);
            let _ = process::kill(process::pid(), libc::SIGSTOP);
            self.pass_on(libc::SIGCONT);
        } else if self.failure.is_some() {
            self.pass_on(libc::SIGKILL);
        } else {
            self.failure = Some(interrupted(signal));
            self.pass_on(signal);
        }
    }

    fn pass_on(&self, signal: i32) {
        for worker in &self.workers {
            // It may have ended already.
            let _ = process::kill(worker.pid, signal);
        }
    }
}

impl Worker {
    fn waits_for(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let report = self.report.as_ref().map(AsFd::as_fd);
        self.output.iter().filter_map(|lines| lines.pipe.as_ref().map(AsFd::as_fd)).chain(report)
    }

    /// `ready` says of each that it waits for whether there is something.
    fn take(&mut self, ready: &mut impl Iterator<Item = bool>) {
        for lines in self.output.iter_mut().filter(|lines| lines.pipe.is_some()) {
            if ready.next() == Some(true) {
                lines.take();
            }
        }
        if self.report.is_some() && ready.next() == Some(true) {
            let more = read(&mut self.report);
            self.told.extend(more);
        }
    }
}

/// Output of a stage, on its way to ours line by line.
struct Lines {
    pipe: Option<PipeReader>,
    prefix: Vec<u8>,
    to: Stream,
    begun: Vec<u8>,
}

impl Lines {
    fn new(pipe: PipeReader, prefix: &str, to: Stream) -> Lines {
        Lines { pipe: Some(pipe), prefix: prefix.as_bytes().to_vec(), to, begun: Vec::new() }
    }

    fn take(&mut self) {
        let more = read(&mut self.pipe);
        self.begun.extend(more);
        let is_last = self.pipe.is_none() || self.begun.len() > MAX_LINE;
        let mut text = Vec::new();
        let whole =
            if is_last { self.begun.len() } else { self.begun.iter().rposition(|&b| b == b'\n').map_or(0, |n| n + 1) };
        for line in self.begun[..whole].split_inclusive(|&b| b == b'\n') {
            text.extend(&self.prefix);
            text.extend(line);
        }
        if text.last().is_some_and(|&b| b != b'\n') {
            text.push(b'\n');
        }
        self.begun.drain(..whole);
        if !text.is_empty() {
            log::relay(self.to, &text);
        }
    }
}

/// What a pipe has now; `None` is left of it at its end.
fn read(pipe: &mut Option<PipeReader>) -> Vec<u8> {
    let mut bytes = vec![0; 16 << 10];
    let n = match pipe.as_mut().map(|pipe| pipe.read(&mut bytes)) {
        Some(Ok(n)) => n,
        Some(Err(e)) if e.kind() == io::ErrorKind::Interrupted => return Vec::new(),
        Some(Err(_)) | None => 0,
    };
    if n == 0 {
        *pipe = None;
    }
    bytes.truncate(n);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines() {
        let (pipe, mut writer) = io::pipe().unwrap();
        let mut lines = Lines::new(pipe, "[a] ", Stream::Out);
        writer.write_all(b"one\ntw").unwrap();
        lines.take();
        assert_eq!(lines.begun, b"tw");
        writer.write_all(b"o\n").unwrap();
        lines.take();
        assert!(lines.begun.is_empty() && lines.pipe.is_some());
        writer.write_all(b"no end").unwrap();
        drop(writer);
        lines.take();
        lines.take();
        assert!(lines.begun.is_empty() && lines.pipe.is_none());
    }
}
