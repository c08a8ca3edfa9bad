//! Where does what a command says go? Through pipes, to our standard output and error.
//!
//! So it holds nothing of ours by these: `echo x >/dev/stdout` opens the pipe again, and not the log of the build, which it
//! would empty, nor a socket, which can't be opened; and what is typed at the terminal is not for it. There is one pipe where
//! both go to the same place, so that the order stays.
//!
//! Nothing here waits: [`super::launch`] waits, for this and for signals. At the end only what is in the pipes counts: whoever
//! has been given the other end of one, and lives on elsewhere, keeps nobody waiting.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::file::{self, Kind};
use crate::sys::process::{self, Ready, Want};

/// What is read at once.
const PIECE: usize = 64 << 10;
/// What can be written without waiting, once a pipe or terminal is ready at all (`PIPE_BUF`).
const AT_ONCE: usize = 4096;
/// More is in no pipe (fs.pipe-max-size).
const MOST: usize = 1 << 20;

/// The command's ends: its standard output and its standard error.
pub struct Ends {
    pub out: OwnedFd,
    pub error: OwnedFd,
}

/// Our ends.
pub struct Output {
    streams: Vec<Stream>,
}

struct Stream {
    /// `None`: nobody can write any more.
    pipe: Option<PipeReader>,
    to: File,
    /// What has been read and not been written, from `begin` on.
    held: Vec<u8>,
    begin: usize,
    at_once: usize,
}

impl Output {
    pub fn new() -> io::Result<(Output, Ends)> {
        let (out, error) = (io::stdout(), io::stderr());
        let (first, writer) = Stream::new(out.as_fd())?;
        if is_same(out.as_fd(), error.as_fd()) {
            let again = writer.try_clone()?;
            return Ok((Output { streams: vec![first] }, Ends { out: writer.into(), error: again.into() }));
        }
        let (second, other) = Stream::new(error.as_fd())?;
        Ok((Output { streams: vec![first, second] }, Ends { out: writer.into(), error: other.into() }))
    }

    /// What to wait for, one for each stream that is not done.
    pub fn waits_for(&self) -> Vec<(BorrowedFd<'_>, Want)> {
        self.streams.iter().filter_map(Stream::waits_for).collect()
    }

    /// Goes on with those that are ready. One answer for each that [`Output::waits_for`] named.
    pub fn pass_on(&mut self, ready: &[Ready]) {
        let mut ready = ready.iter();
        for stream in &mut self.streams {
            if stream.waits_for().is_some() && ready.next().is_some_and(|ready| *ready != Ready::No) {
                stream.pass_on();
            }
        }
    }

    /// When nobody is left that should write: takes what the pipes hold. What remains is to write that.
    pub fn end(&mut self) {
        self.streams.iter_mut().for_each(Stream::end);
    }
}

impl Stream {
    fn new(to: BorrowedFd) -> io::Result<(Stream, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        // Whoever opens it by way of /proc may read what we were about to.
        process::set_nonblocking(&reader)?;
        let to = File::from(to.try_clone_to_owned()?);
        let is_file = file::fstat(to.as_fd())?.kind == Kind::File;
        let at_once = if is_file { PIECE } else { AT_ONCE };
        Ok((Stream { pipe: Some(reader), to, held: Vec::new(), begin: 0, at_once }, writer))
    }

    fn waits_for(&self) -> Option<(BorrowedFd<'_>, Want)> {
        if self.begin < self.held.len() {
            return Some((self.to.as_fd(), Want::Write));
        }
        self.pipe.as_ref().map(|pipe| (pipe.as_fd(), Want::Read))
    }

    fn pass_on(&mut self) {
        if self.begin < self.held.len() {
            self.write();
        } else {
            self.read();
        }
    }

    /// Whatever goes wrong (a full disk, nobody listens any more), the command goes on.
    fn write(&mut self) {
        let end = self.held.len().min(self.begin + self.at_once);
        match self.to.write(&self.held[self.begin..end]) {
            Ok(n) => self.begin += n,
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(_) => self.begin = self.held.len(),
        }
        if self.begin == self.held.len() {
            self.held.clear();
            self.begin = 0;
        }
    }

    /// Whether there may be more.
    fn read(&mut self) -> bool {
        let Some(pipe) = &mut self.pipe else { return false };
        let had = self.held.len();
        self.held.resize(had + PIECE, 0);
        let done = pipe.read(&mut self.held[had..]);
        self.held.truncate(had + *done.as_ref().unwrap_or(&0));
        match done {
            Ok(1..) => return true,
            Err(e) if e.kind() == ErrorKind::Interrupted => return true,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => self.pipe = None,
        }
        false
    }

    fn end(&mut self) {
        let limit = self.held.len() + MOST;
        while self.held.len() < limit && self.read() {}
        self.pipe = None;
    }
}

fn is_same(a: BorrowedFd, b: BorrowedFd) -> bool {
    match (file::fstat(a), file::fstat(b)) {
        (Ok(a), Ok(b)) => (a.dev, a.ino) == (b.dev, b.ino),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_was_said_is_passed_on() {
        let (to, mut listener) = UnixStream::pair().unwrap();
        let (mut stream, mut writer) = Stream::new(to.as_fd()).unwrap();
        drop(to);
        writer.write_all(b"one").unwrap();
        assert!(stream.waits_for().is_some_and(|(_, want)| want == Want::Read));
        stream.pass_on();
        assert!(stream.waits_for().is_some_and(|(_, want)| want == Want::Write));
        stream.pass_on();
        writer.write_all(b"two").unwrap();
        // The other end stays open.
        stream.end();
        stream.pass_on();
        assert!(stream.waits_for().is_none());
        drop(stream);
        let mut text = String::new();
        listener.read_to_string(&mut text).unwrap();
        assert_eq!(text, "onetwo");
    }

    #[test]
    fn nobody_listens() {
        let (to, listener) = UnixStream::pair().unwrap();
        let (mut stream, mut writer) = Stream::new(to.as_fd()).unwrap();
        drop(listener);
        for _ in 0..3 {
            writer.write_all(&[0; 1000]).unwrap();
            stream.pass_on();
            stream.pass_on();
            assert!(stream.held.is_empty() && stream.pipe.is_some());
        }
        drop(writer);
        stream.pass_on();
        assert!(stream.waits_for().is_none());
    }
}
