//! One run of a program as a sentence: what is said to it, what it must answer.
//!
//! ```ignore
//! site.run("delete").arg("nix").stderr("error: nix image not found\n").failure();
//! ```
//! Whole output is compared where the output is ours alone; `_has` where a library or kernel has its say in it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub struct Run {
    command: Command,
    stdin: Option<Vec<u8>>,
    output: Option<PathBuf>,
    limit: Duration,
    hidden: Vec<(String, String)>,
    expected: Vec<Expected>,
}

enum Expected {
    Stdout(String),
    Stderr(String),
    StdoutHas(String),
    StderrHas(String),
    StderrLacks(String),
}

/// What a finished run said; the site's directory and the like are replaced by their names.
#[derive(Debug)]
pub struct Done {
    pub stdout: String,
    pub stderr: String,
    pub status: ExitStatus,
    pub elapsed: Duration,
}

impl Run {
    pub fn of(program: &Path) -> Run {
        let mut command = Command::new(program);
        // Its own process group, so that a time-out ends whatever it started.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let limit = Duration::from_secs(600);
        Run { command, stdin: None, output: None, limit, hidden: Vec::new(), expected: Vec::new() }
    }

    pub fn clear_env(&mut self) {
        self.command.env_clear();
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Run {
        self.command.arg(arg);
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Run {
        self.command.args(args);
        self
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(key, value);
        self
    }

    pub fn env_remove(mut self, key: &str) -> Run {
        self.command.env_remove(key);
        self
    }

    pub fn current_dir(mut self, dir: &Path) -> Run {
        self.command.current_dir(dir);
        self
    }

    pub fn stdin(mut self, text: &str) -> Run {
        self.stdin = Some(text.into());
        self
    }

    /// Sends standard output to a file: it is data, not text.
    pub fn into_file(mut self, file: &Path) -> Run {
        self.output = Some(file.to_owned());
        self
    }

    /// Past this time the run is killed and the test fails. 10 minutes unless told.
    pub fn limit(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    /// Replaces text that changes from run to run (paths, ports) in the output before it is compared.
    pub fn hide(mut self, text: &str, by: &str) -> Run {
        self.hidden.push((text.into(), by.into()));
        self
    }

    pub fn stdout(mut self, text: &str) -> Run {
        self.expected.push(Expected::Stdout(text.into()));
        self
    }

    pub fn stderr(mut self, text: &str) -> Run {
        self.expected.push(Expected::Stderr(text.into()));
        self
    }

    pub fn stdout_has(mut self, text: &str) -> Run {
        self.expected.push(Expected::StdoutHas(text.into()));
        self
    }

    pub fn stderr_has(mut self, text: &str) -> Run {
        self.expected.push(Expected::StderrHas(text.into()));
        self
    }

    pub fn stderr_lacks(mut self, text: &str) -> Run {
        self.expected.push(Expected::StderrLacks(text.into()));
        self
    }

    pub fn success(self) -> Done {
        self.code(0)
    }

    /// The program's own "it went wrong".
    pub fn failure(self) -> Done {
        self.code(1)
    }

    /// What ch-run itself could not do.
    pub fn ch_run_failure(self) -> Done {
        self.code(125)
    }

    /// Wrong usage.
    pub fn usage(self) -> Done {
        self.code(2)
    }

    pub fn code(mut self, code: i32) -> Done {
        let expected = std::mem::take(&mut self.expected);
        let sentence = format!("{:?}", self.command);
        let done = self.finish();
        let told = format!(
            "{sentence}\n-- {} after {:?}, stdout:\n{}-- stderr:\n{}--",
            done.status, done.elapsed, done.stdout, done.stderr
        );
        assert_eq!(done.status.code(), Some(code), "exit code of {told}");
        for e in expected {
            match e {
                Expected::Stdout(text) => assert_eq!(done.stdout, text, "stdout of {told}"),
                Expected::Stderr(text) => assert_eq!(done.stderr, text, "stderr of {told}"),
                Expected::StdoutHas(text) => assert!(done.stdout.contains(&text), "no {text:?} in stdout of {told}"),
                Expected::StderrHas(text) => assert!(done.stderr.contains(&text), "no {text:?} in stderr of {told}"),
                Expected::StderrLacks(text) => assert!(!done.stderr.contains(&text), "{text:?} in stderr of {told}"),
            }
        }
        done
    }

    /// Runs to the end, expecting nothing.
    pub fn finish(self) -> Done {
        let (hidden, limit) = (self.hidden.clone(), self.limit);
        let mut running = self.start();
        let until = running.since + limit;
        while running.is_alive() {
            if Instant::now() > until {
                running.kill();
                panic!("no end within {limit:?}: process {}", running.child.id());
            }
            thread::sleep(Duration::from_millis(2));
        }
        running.into_done(&hidden)
    }

    /// Runs and is killed after this time, unless it has ended by itself.
    pub fn killed_after(self, time: Duration) -> Done {
        let hidden = self.hidden.clone();
        let mut running = self.start();
        while running.is_alive() && running.since.elapsed() < time {
            thread::sleep(Duration::from_micros(500));
        }
        running.kill();
        running.into_done(&hidden)
    }

    /// Starts and returns at once; for runs that are to be interrupted.
    pub fn start(mut self) -> Running {
        self.command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        self.command.stdout(match &self.output {
            Some(file) => Stdio::from(File::create(file).unwrap()),
            None => Stdio::piped(),
        });
        self.command.stderr(Stdio::piped());
        let since = Instant::now();
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("can't run {:?}: {e}", self.command));
        if let (Some(text), Some(mut pipe)) = (self.stdin.take(), child.stdin.take()) {
            // A program may well end without reading all of it.
            thread::spawn(move || drop(pipe.write_all(&text)));
        }
        let out = child.stdout.take().map(collect);
        let err = child.stderr.take().map(collect);
        Running { child, since, out, err, ended: None }
    }
}

type Collector = thread::JoinHandle<Vec<u8>>;

/// A program under way, until `kill`, `into_done` or the end of the test.
pub struct Running {
    pub child: Child,
    since: Instant,
    out: Option<Collector>,
    err: Option<Collector>,
    ended: Option<(ExitStatus, Duration)>,
}

impl Running {
    pub fn is_alive(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap().map(|status| (status, self.since.elapsed()));
        }
        self.ended.is_none()
    }

    /// SIGKILL to the program alone, as the out-of-memory killer or a batch system does; what it started must look
    /// after itself.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        self.ended.get_or_insert((status, self.since.elapsed()));
    }

    pub fn into_done(mut self, hidden: &[(String, String)]) -> Done {
        let (status, elapsed) = match self.ended {
            Some(ended) => ended,
            None => (self.child.wait().unwrap(), self.since.elapsed()),
        };
        self.ended = Some((status, elapsed));
        let text = |collector: Option<Collector>| {
            let bytes = collector.map(|c| c.join().unwrap()).unwrap_or_default();
            let mut text = String::from_utf8_lossy(&bytes).into_owned();
            for (from, to) in hidden {
                text = text.replace(from, to);
            }
            text
        };
        Done { stdout: text(self.out.take()), stderr: text(self.err.take()), status, elapsed }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
        }
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> Collector {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}
