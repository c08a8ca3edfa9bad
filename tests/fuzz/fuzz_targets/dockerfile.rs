//! Any bytes as a Dockerfile: parsed, printed and parsed again, planned, evaluated.
#![no_main]
#![allow(dead_code)]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/dockerfile/mod.rs"]
mod dockerfile;
#[path = "../../../src/error.rs"]
mod error;

use dockerfile::plan::{Options, plan};
use dockerfile::platform::Platform;
use dockerfile::state::{Config, State};
use dockerfile::{dump, diagnostic, parse, print};

fuzz_target!(|bytes: &[u8]| {
    let file = match parse(bytes) {
        Ok(file) => file,
        Err(faults) => {
            diagnostic::error("Dockerfile", &faults);
            return;
        }
    };
    let printed = print::print(&file);
    let again = parse(printed.as_bytes()).expect("what is printed parses");
    assert_eq!(dump::dump(&file), dump::dump(&again));
    let linux = Platform::linux("amd64", "");
    let build_args = [("B".to_owned(), "b".to_owned())];
    let options = Options { target: None, build_args: &build_args, build_platform: linux.clone(), target_platform: linux };
    let Ok(plan) = plan(&file, &options) else { return };
    for &index in &plan.order {
        let env = [("A".to_owned(), "a/b c.d\n\\*".to_owned())];
        let Ok(mut state) = State::of_image(&env, Config::default(), file.escape) else { continue };
        for instruction in &file.stages[index].instructions {
            let _ = state.step(instruction, &plan.globals);
        }
    }
});
