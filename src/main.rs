//! ch-image: builds, pulls, pushes and runs container images with no privilege at all.

mod builder;
mod cli;
mod cmd;
mod compat;
mod compress;
mod container;
mod device;
mod dockerfile;
mod error;
mod fuse;
mod glob;
mod image;
mod log;
mod nearest;
mod oci;
mod registry;
mod rootfs;
mod site;
mod squashfs;
mod storage;
mod sys;
mod tree;

use std::process::ExitCode;

use cli::Invocation;
use cli::convert_args::Program;
use error::{Error, Result};

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let called = std::path::Path::new(&name).file_name().unwrap_or_default().to_owned();
    let result = refuse_privilege(&called).and_then(|()| match called.to_str() {
        Some("ch-run") => cmd::ch_run::run(args.collect()),
        name => match name.and_then(Program::by_name) {
            Some(program) => cmd::convert::run(program, args.collect()),
            None => cli::parse(args).and_then(dispatch),
        },
    });
    match result.map_err(|e| if called == "ch-run" { cmd::ch_run::fault(e) } else { e }) {
        Ok(code) => code,
        Err(e) => {
            log::error(&e);
            let stopped = sys::signal::requested().and_then(|signal| u8::try_from(128 + signal).ok());
            ExitCode::from(stopped.unwrap_or(e.exit_code()))
        }
    }
}

/// Before anything else, so that nothing is done with rights that the caller does not have.
fn refuse_privilege(called: &std::ffi::OsStr) -> Result<()> {
    if !sys::process::is_privileged_start() {
        return Ok(());
    }
    let name = if called == "ch-run" { "ch-run" } else { "ch-image" };
    Err(Error::new(format!("{name} must not be set-id or have file capabilities"))
        .hint("it needs no privilege: chmod u-s,g-s; setcap -r"))
}

fn dispatch(what: Invocation) -> Result<ExitCode> {
    match what {
        Invocation::Print(text) => cmd::print(&text)?,
        Invocation::NoArguments(help) => return Err(Error::new("no arguments").detail(help)),
        Invocation::Dependencies => return cmd::dependencies(),
        Invocation::ChRun(words) => return cmd::ch_run::run(words).map_err(cmd::ch_run::fault),
        Invocation::Run(options, command) => cmd::run(&options, command)?,
    }
    Ok(ExitCode::SUCCESS)
}
