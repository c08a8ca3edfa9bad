//! `ch-convert` and those that it replaced: an image from one format into another, by way of storage.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Host, delete, export, import, print};
use crate::cli::Options;
use crate::cli::convert_args::{self, Conversion, End, Format, Invocation, Program};
use crate::error::{Error, Result};
use crate::log::{self, info};
use crate::oci::reference::ImageRef;
use crate::storage::Access;

pub fn run(program: Program, args: Vec<std::ffi::OsString>) -> Result<ExitCode> {
    match convert_args::parse(program, args)? {
        Invocation::Help(text) => print(&text)?,
        Invocation::Version => print(&format!("{}\n", env!("CARGO_PKG_VERSION")))?,
        Invocation::Convert(conversion) => {
            if conversion.quiet {
                log::set_quiet();
            }
            let host = Host::new(&conversion.options)?;
            convert(&host, &conversion).map_err(|e| host.name_full(e))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn convert(host: &Host, conversion: &Conversion) -> Result<()> {
    let Conversion { from, to, options, dry_run, quiet: _ } = conversion;
    info!("input:   {:8}  {}", word(from.format), from.name.display());
    info!("output:  {:8}  {}", word(to.format), to.name.display());
    if *dry_run {
        return Ok(());
    }
    match (from.format, to.format) {
        (Format::Image, _) => write(host, options, &text(&from.name)?, to),
        (_, Format::Image) => {
            let name = text(&to.name)?;
            refuse_known(host, options, &name)?;
            import::import(host, options, Path::new(&from.name), &name)
        }
        _ => {
            // Between two files it stands in storage for a while, under a name that nobody else has.
            let name = format!("ch-convert-{}", std::process::id());
            import::import(host, options, Path::new(&from.name), &name)?;
            let written = write(host, options, &name, to);
            // Also if that failed, whose error says more.
            let deleted = delete::delete(host, std::slice::from_ref(&name));
            written.and(deleted)
        }
    }
}

fn write(host: &Host, options: &Options, image: &str, to: &End) -> Result<()> {
    let format = match to.format {
        Format::Directory => "dir",
        Format::Tarball => "tar",
        Format::SquashFs | Format::Image => "squashfs",
    };
    let options = Options { export_format: Some(format.to_owned()), ..options.clone() };
    export::export(host, &options, &[image.to_owned()], &PathBuf::from(&to.name))
}

/// `--no-clobber`
fn refuse_known(host: &Host, options: &Options, name: &str) -> Result<()> {
    let reference = ImageRef::parse(name)?;
    if options.overwrite || host.storage(Access::Write)?.image(&reference)?.is_none() {
        return Ok(());
    }
    Err(Error::new(format!("exists in storage, not replaced per --no-clobber: {reference}")))
}

fn text(name: &OsStr) -> Result<String> {
    name.to_str().map(str::to_owned).ok_or_else(|| Error::usage(format!("not valid UTF-8: {}", name.display())))
}

fn word(format: Format) -> &'static str {
    match format {
        Format::Image => "ch-image",
        Format::Directory => "dir",
        Format::Tarball => "tar",
        Format::SquashFs => "squash",
    }
}
