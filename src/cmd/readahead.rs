//! Streams that run in a thread of their own, ahead of their reader, with bounded memory.
//!
//! Reading a socket, inflating and writing a tree each keep one core busy; put behind one another with [`ahead`] they
//! overlap. Buffers go round: nothing is allocated once the stream runs (musl's allocator is slow under threads).

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};

use crate::error::{Error, Result};
use crate::sys::signal;

/// Buffers on the way between two threads, and bytes in each.
const DEPTH: usize = 8;
const BUFFER: usize = 256 << 10;

/// What `source` reads, read ahead of time. An error of the source arrives in its place.
pub struct ReadAhead {
    full: Receiver<io::Result<(Vec<u8>, usize)>>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    end: usize,
    done: bool,
}

/// Starts reading. The thread ends with the source, or once the returned reader is dropped.
pub fn ahead<'scope, R: Read + Send + 'scope>(scope: &'scope Scope<'scope, '_>, mut source: R) -> Result<ReadAhead> {
    let (to_reader, full) = sync_channel::<io::Result<(Vec<u8>, usize)>>(DEPTH);
    let (empty, returned) = sync_channel::<Vec<u8>>(DEPTH);
    let work = move || {
        let mut made = 0;
        loop {
            let mut buffer = match returned.try_recv() {
                Ok(buffer) => buffer,
                Err(_) if made < DEPTH => {
                    made += 1;
                    vec![0; BUFFER]
                }
                Err(_) => match returned.recv() {
                    Ok(buffer) => buffer,
                    Err(_) => return,
                },
            };
            let message = fill(&mut source, &mut buffer).map(|n| (buffer, n));
            let last = !matches!(message, Ok((_, n)) if n > 0);
            if to_reader.send(message).is_err() || last {
                return;
            }
        }
    };
    start(scope, work)?;
    Ok(ReadAhead { full, empty, current: Vec::new(), at: 0, end: 0, done: false })
}

/// Starts a thread. (`Scope::spawn` panics where there are too many.)
pub fn start<'scope>(scope: &'scope Scope<'scope, '_>, work: impl FnOnce() + Send + 'scope) -> Result<()> {
    match Builder::new().spawn_scoped(scope, work) {
        Ok(_) => Ok(()),
        Err(e) => {
            Err(Error::from(e).context("can't start a thread").hint("too many processes, or no memory: see ulimit -a"))
        }
    }
}

/// Reads until the buffer is full or the source ends.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        signal::check()?;
        match source.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(m) => n += m,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

impl Read for ReadAhead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end && !self.done {
            if !self.current.is_empty() {
                // The source may have ended; then nobody wants the buffer.
                let _ = self.empty.try_send(std::mem::take(&mut self.current));
            }
            match self.full.recv() {
                Ok(Ok((_, 0))) => self.done = true,
                Ok(Ok((buffer, n))) => (self.current, self.at, self.end) = (buffer, 0, n),
                Ok(Err(e)) => {
                    self.done = true;
                    return Err(e);
                }
                Err(_) => return Err(io::Error::other("the reading thread stopped")),
            }
        }
        if self.done {
            return Ok(0);
        }
        let n = buf.len().min(self.end - self.at);
        buf[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_arrive_in_order() {
        let data: Vec<u8> = (0..5_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
        let mut got = Vec::new();
        std::thread::scope(|s| ahead(s, &data[..]).unwrap().read_to_end(&mut got)).unwrap();
        assert!(got == data);
    }

    #[test]
    fn errors_arrive_and_early_drops_end_the_thread() {
        struct Broken(u32);
        impl Read for Broken {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 > 3 { Err(io::Error::other("cut")) } else { Ok(buf.len().min(10)) }
            }
        }
        std::thread::scope(|s| {
            let e = ahead(s, Broken(0)).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(e.to_string(), "cut");
            let mut one = [0; 1];
            ahead(s, io::repeat(7)).unwrap().read_exact(&mut one).unwrap();
            assert_eq!(one, [7]);
        });
    }
}
