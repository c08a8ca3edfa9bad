//! What this machine cannot show is skipped, but never silently: a line on standard error says what and why,
//! and where `CH_TEST_MUST_RUN=1` is set (in CI and `make check`) a skip is a failure.

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;

/// Says that the running test is skipped. Call it through `skip!` or `needs!`, which also return.
pub fn note(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("?");
    let must_run = env::var("CH_TEST_MUST_RUN").is_ok_and(|v| v == "1");
    assert!(!must_run, "CH_TEST_MUST_RUN=1, but {test} can't run: {why}");
    say(&format!("SKIPPED {test}: {why}"));
}

/// Straight to the descriptor: the test runner would swallow what eprintln! says.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The first directory of `$PATH` (and the administrator's directories, which users often lack) that has `program`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = env::split_paths(&path).collect();
    places.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    places.into_iter().map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Leaves the test, visibly.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        $crate::harness::skip::note(&format!($($why)*));
        return;
    }};
}

/// Leaves the test, visibly, unless all these programs are installed.
#[macro_export]
macro_rules! needs {
    ($($program:expr),+) => {
        for program in [$($program),+] {
            if $crate::harness::skip::find(program).is_none() {
                $crate::skip!("{program} is not installed");
            }
        }
    };
}
