//! A program on a terminal, and somebody in front of it: what it shows is waited for, then something is typed.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::site::Site;
use super::skip::find;

pub struct Dialogue {
    child: Child,
    typed: ChildStdin,
    arriving: Receiver<Vec<u8>>,
    /// All that was shown.
    pub shown: String,
    /// Up to where it was waited for.
    seen: usize,
}

impl Dialogue {
    /// `ch-image WORDS…` of this site. The caller says `needs!("script")` first.
    pub fn start(site: &Site, words: &[&str], env: &[(&str, &str)]) -> Dialogue {
        let mut command = Command::new(find("script").unwrap());
        command.env_clear().envs(env.iter().copied());
        command.env("PATH", "/usr/bin:/bin").env("HOME", site.path("home")).env("USER", "tester");
        command.env("CH_IMAGE_STORAGE", site.storage()).env("SHELL", "/bin/sh");
        let program = site.path("bin/ch-image");
        command.args(["-qefc", &format!("{} {}", program.display(), words.join(" ")), "/dev/null"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).current_dir(site.path(""));
        let mut child = command.spawn().unwrap();
        let (typed, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, arriving) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Dialogue { child, typed, arriving, shown: String::new(), seen: 0 }
    }

    /// Waits until this is shown, after what was waited for before.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> &mut Dialogue {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.shown[self.seen..].find(text) {
                self.seen += at + text.len();
                return self;
            }
            match self.arriving.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("never shown: {text:?}; but {:?}", self.shown),
            }
        }
    }

    /// Types this and Enter.
    pub fn say(&mut self, text: &str) -> &mut Dialogue {
        self.typed.write_all(format!("{text}\n").as_bytes()).unwrap();
        self
    }

    /// Waits for the end: all that was shown, and the exit code.
    pub fn end(mut self) -> (String, i32) {
        while let Ok(bytes) = self.arriving.recv_timeout(Duration::from_secs(120)) {
            self.shown.push_str(&String::from_utf8_lossy(&bytes));
        }
        let status = self.child.wait().unwrap();
        (self.shown, status.code().unwrap())
    }
}
