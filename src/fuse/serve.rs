//! The loop: a request is read, answered, and the next one read, until the kernel has unmounted the tree.
//!
//! As long as one process asks for names and attributes, one thread answers: a second one that waits for work would be
//! woken again and again on another processor. So it is while the command starts, too. Later, who is about to decompress
//! much, or finds that requests had to wait lately, leaves the queue to another thread, which is started if there is none;
//! there are never more than processors that this process may use. Threads that are not needed sleep where the kernel does
//! not wake them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, Scope};

use super::answer::{Answerer, Outcome};
use super::buffer::Buffer;
use super::protocol::{self, Operation, Range};
use crate::error::Error;
use crate::sys::fuse;
use crate::sys::process::{self, Pid, Ready};

/// The kernel refuses to write requests into less than 8 KiB.
const REQUEST: usize = 16 << 10;
/// From this size on, a read is likely to decompress a block of its own.
const LARGE_READ: u32 = 32 << 10;
/// So many requests one thread answers at first: a command has begun after 70 or so, and handing each of them to another
/// thread takes longer than answering it.
const ALONE: u64 = 128;
/// So many requests are shared out after one that had to wait.
const SHARED: u32 = 64;
/// Each may hold three blocks of 1 MiB; together with what is kept decoded that is less than 48 MiB.
const MAX_THREADS: usize = 12;

/// What the threads share.
pub struct Service<'t> {
    pub answerer: Answerer<'t>,
    pub log: Log,
    pub counts: Counts,
    turn: Mutex<Turn>,
    wake: Condvar,
}

struct Turn {
    /// Somebody reads the queue, or is on the way there.
    is_read: bool,
    /// Threads asleep, how many of them are to wake up.
    asleep: usize,
    called: usize,
    /// Requests that are shared out.
    shared: u32,
    /// Threads, and how many there may be.
    threads: usize,
    most: usize,
}

impl<'t> Service<'t> {
    pub fn new(answerer: Answerer<'t>, log: Log) -> Service<'t> {
        let most = thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS);
        let turn = Turn { is_read: true, asleep: 0, called: 0, shared: 0, threads: 1, most };
        Service { answerer, log, counts: Counts::default(), turn: Mutex::new(turn), wake: Condvar::new() }
    }

    /// Returns when the tree is unmounted.
    pub fn run(&self, device: &File) {
        thread::scope(|scope| self.work(scope, device));
    }

    fn work<'s>(&'s self, scope: &'s Scope<'s, '_>, device: &'s File) {
        let own = if self.turn().threads > 1 { fuse::another(device).ok() } else { None };
        let own = own.as_ref().unwrap_or(device);
        let mut request = vec![0; REQUEST];
        let mut reply = Buffer::new();
        let only_one = self.turn().most == 1;
        loop {
            let is_alone = only_one || self.counts.requests.load(Ordering::Relaxed) < ALONE;
            let had_to_wait = !is_alone && more_waits(own);
            let length = match (&*own).read(&mut request) {
                Ok(length) => length,
                // ENOENT: the process that asked was killed meanwhile.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::ENOENT)) => continue,
                Err(_) => {
                    // Unmounted (ENODEV). The other threads sleep or find the same.
                    self.counts.write();
                    process::exit(0)
                }
            };
            let request = request.get(..length).and_then(protocol::parse);
            let is_large = |operation| matches!(operation, Operation::Read(Range { size, .. }) if size >= LARGE_READ);
            let is_long = request.is_some_and(|request| is_large(request.operation));
            self.leave_queue(scope, device, had_to_wait, is_long && !is_alone);
            if let Some(request) = request {
                self.reply(&request, &mut reply, own);
            }
            self.return_to_queue();
        }
    }

    fn reply(&self, request: &protocol::Request, reply: &mut Buffer, mut device: &File) {
        self.counts.add();
        reply.clear();
        let error = match self.answerer.answer(request, reply) {
            Outcome::Done => None,
            Outcome::Refused(errno) => Some(errno),
            Outcome::Failed(e) => {
                self.log.failed(&e);
                Some(libc::EIO)
            }
            Outcome::Silent => return,
        };
        // Whoever has asked may be gone (ENOENT).
        let _ = device.write(reply.finish(request.unique, error));
    }

    fn turn(&self) -> std::sync::MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that somebody reads the queue meanwhile, if that is of use.
    fn leave_queue<'s>(&'s self, scope: &'s Scope<'s, '_>, device: &'s File, had_to_wait: bool, is_long: bool) {
        let mut turn = self.turn();
        turn.is_read = false;
        turn.shared = if had_to_wait { SHARED } else { turn.shared.saturating_sub(1) };
        if turn.most == 1 || !(is_long || turn.shared > 0) {
            return;
        }
        if turn.asleep > turn.called {
            turn.called += 1;
            turn.is_read = true;
            self.wake.notify_one();
        } else if turn.threads < turn.most {
            turn.threads += 1;
            turn.is_read = true;
            drop(turn);
            if thread::Builder::new().stack_size(1 << 20).spawn_scoped(scope, || self.work(scope, device)).is_err() {
                let mut turn = self.turn();
                turn.threads -= 1;
                turn.most = turn.threads;
                turn.is_read = false;
            }
        }
    }

    fn return_to_queue(&self) {
        let mut turn = self.turn();
        if turn.is_read {
            turn.asleep += 1;
            while turn.called == 0 {
                turn = self.wake.wait(turn).unwrap_or_else(PoisonError::into_inner);
            }
            turn.called -= 1;
            turn.asleep -= 1;
            // On behalf of this thread.
            return;
        }
        turn.is_read = true;
    }
}

fn more_waits(device: &File) -> bool {
    matches!(process::poll(&[device.as_fd()], Some(0)).as_deref(), Ok([Ready::Yes]))
}

/// Where the user hears of an image that can't be read: once, on the standard error of the command. It is opened for
/// that line only, so that nobody who waits for the end of a pipe waits for this process.
pub struct Log {
    pub command: Pid,
    pub image: String,
    told: AtomicBool,
}

impl Log {
    pub fn new(command: Pid, image: String) -> Log {
        Log { command, image, told: AtomicBool::new(false) }
    }

    fn failed(&self, e: &Error) {
        if self.told.swap(true, Ordering::Relaxed) {
            return;
        }
        let user = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user"));
        let pid = self.command.to_string();
        // Not somebody else, who has got its number since.
        if !matches!((user("self"), user(&pid)), (Ok(own), Ok(of_command)) if own == of_command) {
            return;
        }
        // By its path only where the kernel has nothing better: that of a socket, or of root's pipe, can't be opened.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let by_path = || OpenOptions::new().append(true).custom_flags(flags).open(format!("/proc/{pid}/fd/2"));
        if let Ok(mut to) = process::descriptor_of(self.command, 2).map(File::from).or_else(|_| by_path()) {
            let cause = crate::log::escape(&e.to_string()).into_owned();
            let _ = writeln!(to, "warning: {}: can't be read: {cause}: commands get I/O errors", self.image);
        }
    }
}

/// How many requests there were, for tests: written to the file that `$CH_TEST_FUSE_COUNT` names.
#[derive(Default)]
pub struct Counts {
    requests: AtomicU64,
    file: Option<File>,
}

impl Counts {
    pub fn into(file: Option<File>) -> Counts {
        Counts { requests: AtomicU64::new(0), file }
    }

    fn add(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn write(&self) {
        if let Some(mut file) = self.file.as_ref() {
            let _: io::Result<()> = writeln!(file, "{}", self.requests.load(Ordering::Relaxed));
        }
    }
}
