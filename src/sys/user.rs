//! Who is this user, by name?

use std::ffi::{CStr, OsStr, c_char};
use std::mem::MaybeUninit;

/// What the system knows of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    pub name: String,
    pub full_name: String,
    pub home: String,
}

/// getpwuid_r(3); `None` if the user has no entry, or one that cannot be read.
pub fn user(uid: u32) -> Option<User> {
    let mut entry = MaybeUninit::<libc::passwd>::zeroed();
    let mut buf = vec![0 as c_char; 16 << 10];
    let mut found = std::ptr::null_mut();
    // SAFETY: `entry`, `buf` (of the length passed) and `found` are valid for writing.
    unsafe { libc::getpwuid_r(uid, entry.as_mut_ptr(), buf.as_mut_ptr(), buf.len(), &mut found) };
    if found.is_null() {
        return None;
    }
    // SAFETY: `found` is not null, so `entry` is filled; its strings lie in `buf`, which is alive.
    unsafe {
        let entry = entry.assume_init();
        Some(User { name: text(entry.pw_name), full_name: text(entry.pw_gecos), home: text(entry.pw_dir) })
    }
}

/// What to call a user: as `$USER` says (`variable`), else as the system does, else by number.
pub fn name(variable: Option<&OsStr>, uid: u32) -> String {
    let said = variable.filter(|name| !name.is_empty()).map(|name| name.to_string_lossy().into_owned());
    said.or_else(|| user(uid).map(|user| user.name)).unwrap_or_else(|| uid.to_string())
}

/// The number that stands for every user whom this user namespace does not know (user_namespaces(7)); `None` if it
/// knows all.
pub fn unknown() -> Option<u32> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let known: u64 = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum();
    if known >= u64::from(u32::MAX) {
        return None;
    }
    let number = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    Some(number.and_then(|text| text.trim().parse().ok()).unwrap_or(65534))
}

/// getgrgid_r(3): the name of a group.
pub fn group(gid: u32) -> Option<String> {
    let mut entry = MaybeUninit::<libc::group>::zeroed();
    // Groups of clusters can have thousands of members.
    let mut buf = vec![0 as c_char; 1 << 20];
    let mut found = std::ptr::null_mut();
    // SAFETY: `entry`, `buf` (of the length passed) and `found` are valid for writing.
    unsafe { libc::getgrgid_r(gid, entry.as_mut_ptr(), buf.as_mut_ptr(), buf.len(), &mut found) };
    if found.is_null() {
        return None;
    }
    // SAFETY: `found` is not null, so `entry` is filled; its strings lie in `buf`, which is alive.
    Some(unsafe { text(entry.assume_init().gr_name) })
}

/// # Safety
/// `s` is null or a NUL-terminated string that lives for the call.
unsafe fn text(s: *const c_char) -> String {
    if s.is_null() {
        return String::new();
    }
    // SAFETY: not null; the rest is the caller's promise.
    unsafe { CStr::from_ptr(s) }.to_string_lossy().into_owned()
}
