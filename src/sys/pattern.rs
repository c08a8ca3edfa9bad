//! Shell patterns, as the C library matches them.

use std::ffi::CStr;

/// fnmatch(3) without flags: `*`, `?`, `[…]`, backslash.
pub fn matches(pattern: &CStr, text: &CStr) -> bool {
    // SAFETY: both strings are NUL-terminated and outlive the call.
    unsafe { fnmatch(pattern.as_ptr(), text.as_ptr(), 0) == 0 }
}

unsafe extern "C" {
    fn fnmatch(pattern: *const libc::c_char, text: *const libc::c_char, flags: libc::c_int) -> libc::c_int;
}
