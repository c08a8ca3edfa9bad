//! Waiting until something is so, instead of for a time that should do: machines may be slow.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for any machine. Nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(120);

#[track_caller]
pub fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Does the first again and again, with the number of the round, until the second has ended, be it by a panic.
pub fn meanwhile<T>(again: impl Fn(usize) + Send, work: impl FnOnce() -> T) -> T {
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| (0..).take_while(|_| !over.load(Ordering::Relaxed)).for_each(again));
        work()
    })
}

/// A command that ends long after the test, and that nobody else runs.
pub fn endless() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("sleep {}.{:04}", 100_000 + std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Whether this command runs; a shell that has it within a longer argument does not count.
pub fn runs(command: &str) -> bool {
    !running(|line| line == command).is_empty()
}

/// The command lines of this machine's processes that are meant.
pub fn running(is_meant: impl Fn(&str) -> bool) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " "));
    lines.filter(|line| is_meant(line)).collect()
}
