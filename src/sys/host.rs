//! What machine is this?

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;

use super::cvt;

/// uname(2)
pub struct Uname {
    /// `x86_64`, `aarch64` …
    pub machine: String,
    /// `6.1.0-13-amd64`
    pub release: String,
    pub node: String,
}

/// uname(2)
pub fn uname() -> io::Result<Uname> {
    let mut buf = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: `buf` is valid for writing.
    cvt(unsafe { libc::uname(buf.as_mut_ptr()) })?;
    // SAFETY: the call succeeded and filled it; it is plain data in any case.
    let u = unsafe { buf.assume_init() };
    let text = |field: &[libc::c_char]| {
        // SAFETY: the kernel ends each field with a NUL within its array.
        unsafe { CStr::from_ptr(field.as_ptr()) }.to_string_lossy().into_owned()
    };
    Ok(Uname { machine: text(&u.machine), release: text(&u.release), node: text(&u.nodename) })
}
