//! In what order do things happen? One file per subcommand.
//!
//! Only this directory and `builder` know that registries, storage and file trees have to do with each other.

mod base_layers;
mod build;
pub mod ch_run;
mod compression;
pub mod convert;
mod delete;
mod destination;
mod devices;
mod doctor;
mod driver;
mod export;
mod features;
mod fetch;
mod fsck;
mod gc;
mod host;
mod import;
mod inspect;
mod list;
mod packed_image;
mod probe;
mod progress;
mod pull;
mod push;
mod push_layer;
mod readahead;
mod remote;
mod run_settings;
mod secrets;
mod similar;
mod tag;
mod unpacked_image;

use std::process::ExitCode;

use crate::cli::{Command, Options};
use crate::error::{Context, Result};
use crate::log;
use crate::storage::Storage;

pub use host::Host;

/// Runs a subcommand.
pub fn run(options: &Options, command: Command) -> Result<()> {
    let host = Host::new(options)?;
    carry_out(&host, options, command).map_err(|e| host.name_full(e))
}

fn carry_out(host: &Host, options: &Options, command: Command) -> Result<()> {
    match command {
        Command::Build { context } => build::build(host, options, &context),
        Command::Delete { images } => delete::delete(host, &images),
        Command::Doctor => doctor::doctor(host, options),
        Command::Export { images, path } => export::export(host, options, &images, &path),
        Command::Fsck => fsck::fsck(host, options),
        Command::Gc => gc::gc(host, options),
        Command::List { image: None } => list::storage(host, options),
        Command::List { image: Some(image) } => list::details_of(host, options, &image),
        Command::Import { path, image } => import::import(host, options, &path, &image),
        Command::Inspect { image } => inspect::inspect(host, options, &image),
        Command::History { image } => inspect::history(host, options, &image),
        Command::Tag { image, name } => tag::tag(host, &image, &name, tag::Old::Keep),
        Command::Rename { image, name } => tag::tag(host, &image, &name, tag::Old::Drop),
        Command::Load { path, image } => import::load(host, options, &path, image.as_deref()),
        Command::Pull { image, directory } => pull::pull(host, options, &image, directory.as_deref()),
        Command::Push { image, destination } => push::push(host, options, &image, destination.as_deref()),
        Command::Reset => Storage::reset(&host.storage_path()?, &probe::mode),
        Command::StoragePath => print(&format!("{}\n", host.storage_path()?.display())),
    }
}

/// `--dependencies`: reports what is missing on standard output.
pub fn dependencies() -> Result<ExitCode> {
    match crate::container::can_enter() {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(e) => {
            print(&format!("missing dependency: user namespaces: {e}\n"))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Writes a result to standard output. A reader that has seen enough (`| head`) is no failure.
pub fn print(text: &str) -> Result<()> {
    match log::out(text) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context(|| "can't write to standard output"),
    }
}
