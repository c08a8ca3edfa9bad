//! A pattern list and a path, split at the first NUL; also a Python glob.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/dockerfile/mod.rs"]
mod dockerfile;
#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/glob.rs"]
mod glob;

fuzz_target!(|bytes: &[u8]| {
    let Some(at) = bytes.iter().position(|&b| b == 0) else { return };
    let path = String::from_utf8_lossy(&bytes[at + 1..]);
    glob::Pattern::new(&String::from_utf8_lossy(&bytes[..at])).matches(&path);
    let Ok(patterns) = dockerfile::ignore::Patterns::parse(&bytes[..at]) else { return };
    patterns.excludes(&path);
    patterns.may_include_below(&path);
});
