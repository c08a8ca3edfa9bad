//! What the user is told while the program works: one line, one fact, on standard error or in `$CH_LOG_FILE`.
//!
//! Results that scripts read are not chatter; they go through [`out`], the only place that writes to standard output.
//! Deliberately absent: levels per module, structured output. Text from outside is escaped with [`escape`].

use std::borrow::Cow;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::error::Error;

/// `Info` is 0, each `-v` raises the level by one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    Info = 0,
    Verbose = 1,
    Debug = 2,
    Trace = 3,
}

static LEVEL: AtomicU8 = AtomicU8::new(0);
static QUIET: AtomicBool = AtomicBool::new(false);
static FESTOON: AtomicBool = AtomicBool::new(false);
static PLAIN: AtomicBool = AtomicBool::new(false);
/// A live line stands on the terminal and has to be cleared before the next message.
static LIVE: Mutex<bool> = Mutex::new(false);
static FILE: OnceLock<File> = OnceLock::new();
/// Who speaks, in `$CH_LOG_FILE`; see [`set_speaker`].
static SPEAKER: OnceLock<String> = OnceLock::new();

/// No chatter at all; warnings and errors remain.
pub fn set_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Neither live lines nor colour, also on a terminal (`--progress plain`).
pub fn set_plain() {
    PLAIN.store(true, Ordering::Relaxed);
}

/// Whether lines on standard error have colour: on a terminal, unless `$NO_COLOR` is set; wherever `$CLICOLOR_FORCE` is.
fn is_coloured() -> bool {
    static COLOURED: OnceLock<bool> = OnceLock::new();
    let is_set = |name: &str, not: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != not);
    let wanted =
        || is_set("CLICOLOR_FORCE", "0") || !is_set("NO_COLOR", "") && !is_dumb() && io::stderr().is_terminal();
    !PLAIN.load(Ordering::Relaxed) && *COLOURED.get_or_init(wanted)
}

/// A terminal that obeys nothing.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

pub fn set_level(level: u8) {
    LEVEL.store(level.min(Level::Trace as u8), Ordering::Relaxed);
}

pub fn enabled(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed) && !QUIET.load(Ordering::Relaxed)
}

/// PID and time before each line (`CH_LOG_FESTOON`).
pub fn set_festoon(on: bool) {
    FESTOON.store(on, Ordering::Relaxed);
}

/// Chatter goes to `file` from now on (`CH_LOG_FILE`).
pub fn set_file(file: File) {
    // Only the first call counts; there is one command line.
    let _ = FILE.set(file);
}

/// Several processes write to one log file: this one's lines begin with `name`. (What goes to standard error gets its
/// name from whoever reads it.)
pub fn set_speaker(name: &str) {
    let _ = SPEAKER.set(name.to_owned());
}

/// Whether live lines may be drawn: chatter goes to a terminal, undecorated.
pub fn is_live() -> bool {
    let is_decorated =
        FESTOON.load(Ordering::Relaxed) || PLAIN.load(Ordering::Relaxed) || QUIET.load(Ordering::Relaxed);
    FILE.get().is_none() && !is_decorated && !is_dumb() && io::stderr().is_terminal()
}

pub fn message(level: Level, text: &dyn Display) {
    if enabled(level) {
        let colour = match level {
            Level::Info => "33",
            Level::Verbose => "38;5;14",
            Level::Debug | Level::Trace => "38;5;6",
        };
        write_line(colour, &text.to_string());
    }
}

pub fn warn(text: &dyn Display) {
    write_line("31", &format!("warning: {text}"));
}

/// Shows a failure: message, excerpt, hint. Also on standard error if there is a log file: nobody looks there for why a
/// command has failed.
pub fn error(e: &Error) {
    let hint = e.get_hint().map(|text| format!("hint: {text}"));
    let lines = [("1;31", Some(format!("error: {e}"))), ("0", e.get_detail().map(str::to_owned)), ("33", hint)];
    for (colour, text) in lines {
        let Some(text) = text else { continue };
        write_line(colour, &text);
        if FILE.get().is_some() {
            write_to_stderr(&escaped(&text));
        }
    }
}

/// Replaces the live line (without a newline). Call only if [`is_live`]; an empty text clears it.
pub fn live(text: &str) {
    let mut standing = LIVE.lock().unwrap_or_else(|e| e.into_inner());
    // The terminal going away is no reason to stop working.
    let _ = write!(io::stderr().lock(), "\r\x1b[K{text}");
    *standing = !text.is_empty();
}

/// Writes a result to standard output, as it is. Errors (such as a full disk) are the caller's to report.
pub fn out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Passes on what another process wrote to its standard output or error, as it is.
pub fn relay(stream: Stream, bytes: &[u8]) {
    // Whoever listened is gone, which is no reason to stop working.
    let _ = match stream {
        Stream::Out => io::stdout().lock().write_all(bytes).and_then(|()| io::stdout().flush()),
        Stream::Error => io::stderr().lock().write_all(bytes),
    };
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    Out,
    Error,
}

/// Makes text from outside safe to show: control, C1 and bidirectional-override characters become `\x1b`, `\u{202e}`.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\t' => safe.push_str("\\t"),
            c if is_unsafe(c) && (c as u32) < 0x100 => safe.push_str(&format!("\\x{:02x}", c as u32)),
            c if is_unsafe(c) => safe.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Whatever came from outside into a message: no terminal obeys it.
fn escaped(text: &str) -> String {
    text.split('\n').map(escape).collect::<Vec<_>>().join("\n")
}

fn write_to_stderr(text: &str) {
    // A lost message is no reason to stop working.
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

fn write_line(colour: &str, text: &str) {
    let text = &escaped(text);
    let mut standing = LIVE.lock().unwrap_or_else(|e| e.into_inner());
    let mut line = String::with_capacity(text.len() + 48);
    if *standing {
        line.push_str("\r\x1b[K");
        *standing = false;
    }
    let festoon = if FESTOON.load(Ordering::Relaxed) {
        format!("{:5} {}  ", std::process::id(), crate::sys::time::local_iso_millis())
    } else {
        String::new()
    };
    let coloured = FILE.get().is_none() && is_coloured();
    let speaker = FILE.get().and(SPEAKER.get()).map_or("", String::as_str);
    if coloured {
        line.push_str(&format!("{festoon}\x1b[{colour}m{text}\x1b[0m\n"));
    } else {
        line.push_str(&format!("{festoon}{speaker}{text}\n"));
    }
    // One write a line, so that lines of several processes do not mix. A lost log is no reason to stop working.
    let _ = match FILE.get() {
        Some(file) => (&*file).write_all(line.as_bytes()),
        None => io::stderr().lock().write_all(line.as_bytes()),
    };
}

macro_rules! info {
    ($($arg:tt)*) => { $crate::log::message($crate::log::Level::Info, &format_args!($($arg)*)) };
}
pub(crate) use info;

macro_rules! verbose {
    ($($arg:tt)*) => { $crate::log::message($crate::log::Level::Verbose, &format_args!($($arg)*)) };
}
pub(crate) use verbose;

macro_rules! debug {
    ($($arg:tt)*) => { $crate::log::message($crate::log::Level::Debug, &format_args!($($arg)*)) };
}
pub(crate) use debug;

macro_rules! trace {
    ($($arg:tt)*) => { $crate::log::message($crate::log::Level::Trace, &format_args!($($arg)*)) };
}
pub(crate) use trace;

macro_rules! warning {
    ($($arg:tt)*) => { $crate::log::warn(&format_args!($($arg)*)) };
}
pub(crate) use warning;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_shows_what_terminals_obey() {
        assert_eq!(escape("plain ü 漢"), "plain ü 漢");
        assert_eq!(escape("a\x1b[31mb\r\n"), "a\\x1b[31mb\\x0d\\n");
        assert_eq!(escape("x\u{202e}y\u{9b}z\x7f"), "x\\u{202e}y\\x9bz\\x7f");
    }
}
