//! `export`: an image leaves storage as one file. Its input is what `push` sends: the merged view of the layers, without
//! a merged tree on disk and without a mount. What depends on the format is in a file of its own.

mod format;
mod squashfs;
mod target;

use std::fs::File;
use std::io::{self, IsTerminal, Seek, SeekFrom};
use std::path::Path;
use std::time::Instant;

use super::list::bytes;
use super::owners::{self, Which};
use super::push::source_date_epoch;
use super::{Host, layers};
use crate::cli::Options;
use crate::container;
use crate::container::ledger::Ledger;
use crate::error::{Context, Error, Result};
use crate::oci::reference::ImageRef;
use crate::rootfs::Stack;
use crate::storage::{Access, Storage};
use crate::{info, verbose, warning};
use format::Format;
use squashfs::{Source, Written};
use target::{Existing, Target};

/// Standard output.
const STDOUT: &str = "-";

pub fn export(host: &Host, options: &Options, image: &str, path: &Path) -> Result<()> {
    let begun = Instant::now();
    let reference = ImageRef::parse(image)?;
    let format = Format::of(path, options)?;
    // As for push: what a build left unreadable is no obstacle inside a user namespace.
    if let Err(e) = container::enter() {
        verbose!("exporting without a user namespace: {e}");
    }
    let storage = host.storage(Access::Write)?;
    let image = storage.image(&reference)?.ok_or_else(|| {
        Error::new(format!("can't export: no image {reference}")).hint("ch-image list shows what there is")
    })?;
    info!("exporting:    {reference}");
    info!("destination:  {}", path.display());
    let ledger = match options.ownership {
        true => owners::of(&storage, &image.layers, Which::All)?.unwrap_or_default(),
        false => Ledger::new(),
    };
    if options.ownership && ledger.is_empty() {
        warning!("--ownership: no owners are recorded in this image; build it with --force=notify");
    }
    let stack = Stack::open(&layers::trees(&storage, &image.layers))?;
    let source = Source { stack: &stack, owners: owners::for_archive(&ledger), not_after: source_date_epoch()? };
    let write = |out: &File| match format {
        Format::SquashFs(packing) => squashfs::write(&source, packing, out),
    };
    let written = match path.as_os_str() == STDOUT {
        true => to_stdout(&storage, write)?,
        false => {
            let existing = if options.overwrite { Existing::Replace } else { Existing::Keep };
            let target = Target::new(path, existing)?;
            let written = write(target.file()).context(|| format!("can't write {}", path.display()))?;
            target.finish()?;
            written
        }
    };
    report(&written, begun);
    info!("done");
    Ok(())
}

/// A packed image is written from several places: it is made whole in storage, then copied.
fn to_stdout(storage: &Storage, write: impl FnOnce(&File) -> Result<Written>) -> Result<Written> {
    let failed = || "can't write to standard output";
    if io::stdout().is_terminal() {
        return Err(Error::new("can't write to standard output: it is a terminal").hint("name a file, or use a pipe"));
    }
    let draft = storage.draft()?;
    let path = draft.path().join("image");
    let made = File::options().read(true).write(true).create_new(true).open(&path);
    let mut file = made.context(|| format!("can't make {}", path.display()))?;
    let written = write(&file).context(failed)?;
    file.seek(SeekFrom::Start(0)).context(failed)?;
    io::copy(&mut file, &mut io::stdout().lock()).context(failed)?;
    io::Write::flush(&mut io::stdout()).context(failed)?;
    Ok(written)
}

fn report(written: &Written, begun: Instant) {
    if written.skipped > 0 {
        verbose!("ignored {} sockets, devices and/or FIFOs", written.skipped);
    }
    let ratio = written.content as f64 / written.bytes.max(1) as f64;
    info!(
        "written:      {} ({} files, {} of content, ratio {ratio:.2}) in {:.1} s",
        bytes(written.bytes),
        written.files,
        bytes(written.content),
        begun.elapsed().as_secs_f64()
    );
}
