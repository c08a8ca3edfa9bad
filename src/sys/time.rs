//! Local time, for log lines; a thread's own, for tests.

use std::mem::MaybeUninit;
use std::time::{SystemTime, UNIX_EPOCH};

/// `2026-11-23T03:51:36.049`, in the local time zone.
pub fn local_iso_millis() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Of the type that localtime_r wants: `libc::time_t` is deprecated where it is about to grow (musl).
    let seconds = now.as_secs() as _;
    let mut tm = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid for the call; `tm` is plain data and stays zero if the call fails.
    let tm = unsafe {
        libc::localtime_r(&seconds, tm.as_mut_ptr());
        tm.assume_init()
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}",
        tm.tm_year + 1900,
        tm.tm_mon + 1,
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec,
        now.subsec_millis()
    )
}

/// For how long this thread has had a processor: the same, whatever else the machine does.
#[cfg(test)]
pub fn of_this_thread() -> std::time::Duration {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is valid for the call; `time` is plain data and stays zero if the call fails.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr());
        time.assume_init()
    };
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
