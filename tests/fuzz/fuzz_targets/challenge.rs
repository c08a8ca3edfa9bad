//! Any text as `WWW-Authenticate`.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/registry/challenge.rs"]
mod challenge;

fuzz_target!(|text: &str| {
    let lines: Vec<&str> = text.split('\n').collect();
    challenge::choose(&lines);
});
