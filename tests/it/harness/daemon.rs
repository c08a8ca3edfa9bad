//! Servers of other people on free ports of the loopback device: started, waited for, ended with the test.

use std::ffi::OsString;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::site;
use super::skip::find;
use super::wait::wait_for;

pub struct Daemon {
    child: Child,
    program: &'static str,
    args: Vec<OsString>,
    dir: PathBuf,
    port: u16,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Daemon {
    /// `configure` writes what the program needs into its directory and returns its arguments. The caller says
    /// `needs!` first.
    pub fn start(program: &'static str, configure: impl Fn(&Path, u16) -> Vec<OsString>) -> Daemon {
        // Somebody else may take the free port before the server does.
        let mut tries = (0..5).filter_map(|_| {
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let dir = site::scratch().join(format!("{}-server-{n}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let args = configure(&dir, port);
            let child = run(program, &args, &dir);
            let mut daemon = Daemon { child, program, args, dir, port };
            daemon.answers().then_some(daemon)
        });
        tries.next().unwrap_or_else(|| panic!("{program} does not start"))
    }

    fn answers(&mut self) -> bool {
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until && self.child.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Breaks all its connections.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// After `kill`: on the same port, with what it had.
    pub fn again(&mut self) {
        self.child = run(self.program, &self.args, &self.dir);
        assert!(self.answers(), "{} does not start again", self.program);
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What is in a file that it writes, once that has come to what is looked for: a server may write down what it
    /// has done after it was done.
    #[track_caller]
    pub fn has_written(&self, name: &str, done: impl Fn(&str) -> bool) -> String {
        wait_for(&format!("{} to write {name}", self.program), || done(&self.read(name)));
        self.read(name)
    }

    /// A file that it wrote.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            super::skip::say(&format!("{}: {}", self.program, self.read("log")));
        }
        let name = format!("{}-", name_of(&self.dir));
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&name) {
                let _ = fs::remove_file(entry.path());
            }
        }
        site::remove(&self.dir);
    }
}

/// A name for what a server keeps outside of its directory, such as squid's shared memory, which outlives it.
pub fn name_of(dir: &Path) -> String {
    dir.file_name().unwrap().to_string_lossy().chars().filter(char::is_ascii_alphanumeric).collect()
}

fn run(program: &str, args: &[OsString], dir: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    // The kernel ends the server with the test, even if the test is killed.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(find(program).unwrap_or_else(|| panic!("{program} is not installed")))
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
