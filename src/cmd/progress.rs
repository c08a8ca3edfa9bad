//! How far is it? On a terminal one live line for all that is under way, redrawn at most ten times a second; in a batch
//! job a plain line now and then. What ends quickly says nothing.
//!
//! Whoever moves bytes draws: no thread of its own, so nothing is redrawn while nothing moves.

use std::io::{self, Read, Write};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::list::bytes;
use crate::log::info;
use crate::{log, sys};

const REDRAW: Duration = Duration::from_millis(100);
/// Between plain lines, and before the first.
const REPORT: Duration = Duration::from_secs(10);
const BAR: usize = 20;

pub struct Progress {
    /// `downloading`
    verb: &'static str,
    /// Bytes of everything; `None` if that is not known beforehand.
    total: Option<u64>,
    /// Columns of the terminal; `None`: plain lines.
    width: Option<usize>,
    state: Mutex<State>,
}

struct State {
    done: u64,
    /// Bytes per second, smoothed.
    rate: f64,
    /// Of the last line drawn or, if plain, printed; and what was done then.
    drawn: Instant,
    drawn_done: u64,
}

/// One of the things that are under way.
pub struct Part<'p> {
    progress: &'p Progress,
    label: String,
    size: Option<u64>,
    done: u64,
}

impl Progress {
    pub fn new(verb: &'static str, total: Option<u64>) -> Progress {
        let state = State { done: 0, rate: 0.0, drawn: Instant::now(), drawn_done: 0 };
        let width = log::is_live().then(|| sys::tty::width(io::stderr()).unwrap_or(80));
        Progress { verb, total, width, state: Mutex::new(state) }
    }

    pub fn part(&self, label: &str, size: Option<u64>) -> Part<'_> {
        Part { progress: self, label: label.to_owned(), size, done: 0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.width.is_some() {
            log::live("");
        }
    }
}

impl Part<'_> {
    /// So many bytes were there already: they count, but not as speed.
    pub fn begin_at(&mut self, done: u64) {
        self.done = done;
        let mut state = self.progress.state();
        state.done = state.done.saturating_add(done);
        state.drawn_done = state.drawn_done.saturating_add(done);
    }

    pub fn add(&mut self, n: u64) {
        self.set(self.done.saturating_add(n));
    }

    /// So many bytes in all; fewer than before if it began anew.
    pub fn set(&mut self, done: u64) {
        let mut state = self.progress.state();
        state.done = state.done.saturating_add(done).saturating_sub(self.done);
        self.done = done;
        let elapsed = state.drawn.elapsed();
        if elapsed < if self.progress.width.is_some() { REDRAW } else { REPORT } {
            return;
        }
        let rate = state.done.saturating_sub(state.drawn_done) as f64 / elapsed.as_secs_f64();
        state.rate = if state.rate == 0.0 { rate } else { state.rate * 0.9 + rate * 0.1 };
        (state.drawn, state.drawn_done) = (Instant::now(), state.done);
        let Progress { verb, total, width, .. } = self.progress;
        match width {
            Some(width) => log::live(&live(verb, state.done, *total, state.rate, *width)),
            None => info!("{}: {verb}: {}", self.label, amount(self.done, self.size)),
        }
    }
}

/// Counts what is read.
pub struct CountedReader<'p, R> {
    pub inner: R,
    pub part: Part<'p>,
}

impl<R: Read> Read for CountedReader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        sys::signal::check()?;
        let n = self.inner.read(buf)?;
        self.part.add(n as u64);
        Ok(n)
    }
}

/// Counts what is written.
pub struct Counted<'p, W> {
    pub inner: W,
    pub part: Part<'p>,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        sys::signal::check()?;
        let n = self.inner.write(buf)?;
        self.part.add(n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// `83.5/900.0 MiB (9%)`, or `83.5 MiB` of who knows how many.
fn amount(done: u64, total: Option<u64>) -> String {
    let Some(total) = total.filter(|total| *total > 0) else { return bytes(done) };
    let whole = bytes(total);
    let (number, unit) = whole.split_once(' ').unwrap_or((&whole, "B"));
    let power = ["B", "KiB", "MiB", "GiB", "TiB"].iter().position(|u| *u == unit).unwrap_or(0);
    let done_in_unit = done as f64 / 1024f64.powi(power as i32);
    let digits = usize::from(power > 0);
    format!("{done_in_unit:.digits$}/{number} {unit} ({}%)", percent(done, total))
}

fn percent(done: u64, total: u64) -> u64 {
    (u128::from(done) * 100 / u128::from(total.max(1))).min(100) as u64
}

/// The live line; what does not fit the terminal is left out, so that it stays one line.
fn live(verb: &str, done: u64, total: Option<u64>, rate: f64, width: usize) -> String {
    let mut pieces = vec![format!("{verb}: {}", amount(done, total))];
    if rate >= 1.0 {
        pieces.push(format!("{}/s", bytes(rate as u64)));
        if let Some(total) = total {
            let left = (total.saturating_sub(done) as f64 / rate).ceil() as u64;
            pieces.push(format!("{} left", clock(left)));
        }
    }
    while pieces.len() > 1 && pieces.join(", ").len() >= width {
        pieces.pop();
    }
    let mut line = pieces.join(", ");
    line.truncate(width.saturating_sub(1));
    if let Some(total) = total
        && line.len() + BAR + 4 < width
    {
        let full = percent(done, total) as usize * BAR / 100;
        line.push_str(&format!(" [{}{}]", "#".repeat(full), "-".repeat(BAR - full)));
    }
    line
}

/// `7 s`, `1:06 min`, `2:30 h`
fn clock(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02} min", seconds / 60, seconds % 60),
        _ => format!("{}:{:02} h", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        let mib = |n: f64| (n * 1024.0 * 1024.0) as u64;
        assert_eq!(amount(mib(83.5), Some(mib(900.0))), "83.5/900.0 MiB (9%)");
        assert_eq!(amount(mib(83.5), Some(mib(83.5))), "83.5/83.5 MiB (100%)");
        assert_eq!(amount(5, Some(10)), "5/10 B (50%)");
        assert_eq!(amount(mib(83.5), None), "83.5 MiB");
        assert_eq!(amount(7, Some(0)), "7 B");
        assert_eq!(amount(u64::MAX, Some(u64::MAX)), "16777216.0/16777216.0 TiB (100%)");
    }

    #[test]
    fn live_lines_fit() {
        let check = |width, want: &str| assert_eq!(live("downloading", 256 << 20, Some(1 << 30), 8e6, width), want);
        check(90, "downloading: 0.2/1.0 GiB (25%), 7.6 MiB/s, 1:41 min left [#####---------------]");
        check(80, "downloading: 0.2/1.0 GiB (25%), 7.6 MiB/s, 1:41 min left");
        check(50, "downloading: 0.2/1.0 GiB (25%), 7.6 MiB/s");
        check(35, "downloading: 0.2/1.0 GiB (25%)");
        check(11, "downloadin");
        assert_eq!(live("preparing", 1 << 20, None, 1024.0, 80), "preparing: 1.0 MiB, 1.0 KiB/s");
        assert_eq!(live("preparing", 1 << 20, None, 0.0, 80), "preparing: 1.0 MiB");
    }

    #[test]
    fn parts_add_up() {
        let progress = Progress::new("downloading", Some(100));
        let (mut a, mut b) = (progress.part("a", Some(50)), progress.part("b", Some(50)));
        a.begin_at(20);
        a.add(10);
        b.set(30);
        // It began anew.
        b.set(5);
        assert_eq!(progress.state().done, 35);
        assert_eq!((a.done, b.done), (30, 5));
    }
}
