//! What went wrong, for people: a chain of contexts and a way out.
//!
//! Outermost context first, root cause last; they are joined with `: `. What a caller branches on is a value in
//! its own type, never an `Error` that is taken apart again.

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, as it is shown: `error: OUTER: …: CAUSE`, then `hint: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Outermost first.
    chain: Vec<String>,
    hint: Option<String>,
    /// Lines shown after the message, as they are (a source excerpt with a caret).
    detail: Option<String>,
    code: u8,
    /// A file system or a quota is full, or a file may not become so large.
    lacks_space: bool,
}

impl Error {
    pub fn new(cause: impl Into<String>) -> Error {
        Error { chain: vec![cause.into()], hint: None, detail: None, code: 1, lacks_space: false }
    }

    /// Wrong usage of the command line: exit code 2.
    pub fn usage(cause: impl Into<String>) -> Error {
        Error { code: 2, ..Error::new(cause) }
    }

    /// Puts a context in front.
    pub fn context(mut self, outer: impl Into<String>) -> Error {
        self.chain.insert(0, outer.into());
        self
    }

    /// The way out. The innermost hint wins: it knows most.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Says more beside the way out.
    pub fn note(mut self, more: impl fmt::Display) -> Error {
        self.hint = Some(self.hint.map_or(more.to_string(), |hint| format!("{more}; {hint}")));
        self
    }

    pub fn lacks_space(&self) -> bool {
        self.lacks_space
    }

    pub fn detail(mut self, lines: impl Into<String>) -> Error {
        self.detail = Some(lines.into());
        self
    }

    /// The same with all of its texts changed.
    pub fn map_texts(self, change: impl Fn(&str) -> String) -> Error {
        let one = |text: Option<String>| text.map(|text| change(&text));
        let chain = self.chain.iter().map(|text| change(text)).collect();
        Error { chain, hint: one(self.hint), detail: one(self.detail), ..self }
    }

    /// Exit code of the process; 1 unless said otherwise.
    pub fn with_code(mut self, code: u8) -> Error {
        self.code = code;
        self
    }

    pub fn exit_code(&self) -> u8 {
        self.code
    }

    pub fn get_hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub fn get_detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    /// Without a path: prefer [`Context::context`], which names one.
    fn from(e: std::io::Error) -> Error {
        let lacks_space = matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG));
        let error = Error { lacks_space, ..Error::new(io_text(&e)) };
        match e.raw_os_error().and_then(way_out) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// What to do where the cause is the same whatever was being done.
fn way_out(errno: i32) -> Option<&'static str> {
    match errno {
        libc::ENOSPC => Some(
            "df -h and df -i tell which file system is full; ch-image gc removes what no image needs; \
             --storage or CH_IMAGE_STORAGE names a storage directory elsewhere",
        ),
        libc::EDQUOT => Some(
            "quota -s tells your limits (on Lustre: lfs quota); ch-image gc removes what no image needs; \
             --storage or CH_IMAGE_STORAGE names a storage directory elsewhere",
        ),
        libc::EIO => Some("the disk or file server fails; ch-image fsck --deep tells what is damaged"),
        libc::EMFILE => Some("the limit of open files is too low: ulimit -n 1024"),
        libc::EFBIG => Some("a file would be larger than the limit (see ulimit -f) or than the file system allows"),
        _ => None,
    }
}

impl From<Error> for std::io::Error {
    fn from(e: Error) -> std::io::Error {
        std::io::Error::other(e)
    }
}

/// The text of an I/O error without Rust's `(os error N)`.
pub fn io_text(e: &std::io::Error) -> String {
    let text = e.to_string();
    match text.find(" (os error ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

/// Names the thing that an operation was about: `open(p).context(|| format!("can't open {}", p.display()))?`.
pub trait Context<T> {
    fn context<S: Into<String>>(self, outer: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<S: Into<String>>(self, outer: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.context(outer()))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context<S: Into<String>>(self, outer: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| {
            // An error of ours that travelled through a `Read` keeps its chain and hint.
            let inner = match e.downcast::<Error>() {
                Ok(ours) => ours,
                Err(e) => Error::from(e),
            };
            inner.context(outer())
        })
    }
}

/// Returns an [`Error`] with a formatted cause.
macro_rules! bail {
    ($($arg:tt)*) => { return Err($crate::error::Error::new(format!($($arg)*))) };
}
pub(crate) use bail;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_reads_from_outside_in() {
        let e = Error::new("root").context("middle").context("outer").hint("inner").hint("late");
        assert_eq!(e.to_string(), "outer: middle: root");
        assert_eq!(e.get_hint(), Some("inner"));
    }

    #[test]
    fn io_errors_keep_ours() {
        let inner = Error::new("digest mismatch").hint("pull again");
        let io: std::io::Error = inner.into();
        let outer = Err::<(), _>(io).context(|| "can't read layer").unwrap_err();
        assert_eq!(outer.to_string(), "can't read layer: digest mismatch");
        assert_eq!(outer.get_hint(), Some("pull again"));
        let plain = std::io::Error::from_raw_os_error(2);
        assert_eq!(io_text(&plain), "No such file or directory");
    }
}
