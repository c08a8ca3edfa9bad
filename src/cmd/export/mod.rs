//! `export`: an image leaves storage. Its input is what `push` sends: the merged view of the layers, without a mount.
//! What depends on the format is in a file of its own.

mod directory;
mod format;
mod saved;
mod squashfs;
mod tarball;
mod target;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

use super::destination::Destination;
use super::list::bytes;
use super::push::source_date_epoch;
use super::{Host, similar};
use crate::cli::Options;
use crate::container;
use crate::container::ownership::Ledger;
use crate::error::{Context, Error, Result};
use crate::image::owners::{self, Which};
use crate::log::{info, verbose, warning};
use crate::oci::arch::Arch;
use crate::oci::config::Config;
use crate::oci::reference::ImageRef;
use crate::oci::size::total;
use crate::rootfs::{LayerDir, PackOptions, Packed, Stack, Survey};
use crate::storage::{Access, Image, Storage};
use crate::sys;
use format::{Format, Packing, Stream, Tree};
use squashfs::Source;
use target::{Existing, Target};

/// Standard output.
const STDOUT: &str = "-";

/// The image, and what is wanted of it.
pub struct Input<'a> {
    pub host: &'a Host,
    pub storage: &'a Storage,
    pub reference: &'a ImageRef,
    pub config: &'a Config,
    /// Lowest first.
    pub layers: Vec<LayerDir>,
    pub pack: PackOptions,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    pub bytes: u64,
    /// Names that are no directories.
    pub files: u64,
    /// Content of files, in bytes, each file once.
    pub content: u64,
    /// Sockets, devices and FIFOs, which are left out.
    pub skipped: u64,
}

impl Input<'_> {
    pub fn arch(&self) -> Arch {
        self.config.arch().unwrap_or_else(|| self.host.arch().clone())
    }
}

impl Written {
    fn of(packed: &Packed) -> Written {
        Written { bytes: 0, files: packed.entries, content: packed.bytes, skipped: packed.skipped }
    }
}

pub use format::is_packed;

pub fn export(host: &Host, options: &Options, images: &[String], path: &Path) -> Result<()> {
    let references = images.iter().map(|image| ImageRef::parse(image)).collect::<Result<Vec<_>>>()?;
    // Within a namespace, others look like root.
    host.check_storage_place()?;
    // As for push: what a build left unreadable is no obstacle inside a user namespace.
    if let Err(e) = container::enter() {
        verbose!("exporting without a user namespace: {e}");
    }
    let storage = host.storage(Access::Write)?;
    let find = |reference: ImageRef| {
        let image = storage.image(&reference)?.ok_or_else(|| {
            Error::new(format!("can't export: no image {reference}")).hint(similar::hint(&storage, &reference))
        })?;
        // As the user names it.
        Ok(Image { reference, ..image })
    };
    let images = references.into_iter().map(find).collect::<Result<Vec<_>>>()?;
    export_images(host, options, &storage, &images, path)?;
    info!("done");
    Ok(())
}

/// Refuses a file that exists before an image is downloaded for it.
pub fn check(options: &Options, path: &Path) -> Result<()> {
    match Format::of(path, false, options)? {
        (Format::SquashFs(_) | Format::Stream(_), path) if path.as_os_str() != STDOUT => {
            Target::new(&path, existing(options)).map(drop)
        }
        (Format::SquashFs(_) | Format::Stream(_), _) => Ok(()),
        (Format::Tree(tree), path) => refuse_used(&tree, &path, options),
    }
}

/// A directory that has something in it is replaced only if that is asked for, an OCI layout never.
fn refuse_used(tree: &Tree, path: &Path, options: &Options) -> Result<()> {
    let is_used = std::fs::read_dir(path).is_ok_and(|mut list| list.next().is_some());
    if !is_used || (options.overwrite && matches!(tree, Tree::Directory)) {
        return Ok(());
    }
    let e = Error::new(format!("can't write {}: exists already", path.display()));
    Err(match tree {
        Tree::Directory => e.hint("--overwrite replaces an image directory"),
        Tree::Layout(_) => e.hint("name a directory that does not exist or is empty"),
    })
}

fn existing(options: &Options) -> Existing {
    if options.overwrite { Existing::Replace } else { Existing::Keep }
}

/// Writes images of storage: one, or several into what holds several. No other thread may run.
pub fn export_images(host: &Host, options: &Options, storage: &Storage, images: &[Image], path: &Path) -> Result<()> {
    let begun = Instant::now();
    let is_empty_dir = std::fs::read_dir(path).is_ok_and(|mut list| list.next().is_none());
    let (format, path) = Format::of(path, is_empty_dir, options)?;
    let path = path.as_path();
    if images.len() > 1 {
        format.takes_several()?;
    }
    images.iter().for_each(|image| info!("exporting:    {}", image.reference));
    info!("destination:  {}", path.display());
    let inputs = images.iter().map(|image| input(host, options, storage, image)).collect::<Result<Vec<_>>>()?;
    let Some(first) = inputs.first() else { return Ok(()) };
    let written = match (&format, path.as_os_str() == STDOUT) {
        (Format::Tree(tree), _) => to_directory(&inputs, tree, path, options)?,
        (Format::SquashFs(packing), true) => to_stdout(storage, |out| packed(first, *packing, out))?,
        (Format::Stream(stream), true) => {
            refuse_terminal()?;
            let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
            streamed(&inputs, stream, &mut out).context(|| "can't write to standard output")?
        }
        (Format::SquashFs(_) | Format::Stream(_), false) => to_file(&inputs, &format, path, options)?,
    };
    report(&written, begun);
    Ok(())
}

fn input<'a>(host: &'a Host, options: &Options, storage: &'a Storage, image: &'a Image) -> Result<Input<'a>> {
    let ledger = match options.ownership {
        true => owners::of(storage, &image.layers, Which::All)?.unwrap_or_default(),
        false => Ledger::new(),
    };
    if options.ownership && ledger.is_empty() {
        warning!("--ownership: no owners are recorded in {}; build it with --force=notify", image.reference);
    }
    let pack = PackOptions {
        clamp_mtime: source_date_epoch()?,
        owners: owners::for_archive(&ledger),
        ..PackOptions::default()
    };
    let layers = storage.layer_dirs(&image.layers)?;
    Ok(Input { host, storage, reference: &image.reference, config: &image.config, layers, pack })
}

fn packed(input: &Input, packing: Packing, out: &File) -> Result<Written> {
    let stack = Stack::of(&input.layers)?;
    let source = Source { stack: &stack, owners: input.pack.owners.clone(), not_after: input.pack.clamp_mtime };
    squashfs::write(&source, packing, out)
}

/// Of what does not hold several images, the first.
fn first<'i, 'a>(inputs: &'i [Input<'a>]) -> Result<&'i Input<'a>> {
    inputs.first().ok_or_else(|| Error::new("no image to export"))
}

fn streamed(inputs: &[Input], format: &Stream, out: &mut dyn Write) -> Result<Written> {
    match format {
        Stream::Tarball(encoding) => tarball::write(first(inputs)?, *encoding, out),
        Stream::Saved(saved) => saved.archive(inputs, out),
    }
}

fn to_file(inputs: &[Input], format: &Format, path: &Path, options: &Options) -> Result<Written> {
    let target = Target::new(path, existing(options))?;
    let written = match format {
        Format::SquashFs(packing) => packed(first(inputs)?, *packing, target.file()),
        Format::Stream(stream) => streamed(inputs, stream, &mut BufWriter::with_capacity(1 << 20, target.file())),
        Format::Tree(_) => Err(Error::new("not a file")),
    };
    let done = || target.file().metadata().map_or(0, |meta| meta.len());
    let written = written.map_err(|e| not_written(e, inputs, path, done()))?;
    target.finish()?;
    Ok(written)
}

/// Made beside its place, then moved there.
fn to_directory(inputs: &[Input], tree: &Tree, path: &Path, options: &Options) -> Result<Written> {
    refuse_used(tree, path, options)?;
    let place = Destination::claim(path, first(inputs)?.storage)?;
    let root = place.root()?;
    let written = match tree {
        Tree::Directory => directory::write(first(inputs)?, &root),
        Tree::Layout(saved) => saved.layout(inputs, &root),
    };
    let written = written.map_err(|e| not_written(e, inputs, path, 0))?;
    sys::fs::syncfs(&root).context(|| format!("can't write {}", path.display()))?;
    place.finish()?;
    Ok(written)
}

/// If there was no room: how much was written, and how much there is at most.
fn not_written(e: Error, inputs: &[Input], path: &Path, done: u64) -> Error {
    let failed = format!("can't write {}", path.display());
    let survey = |input: &Input| Ok(Survey::of(&Stack::of(&input.layers)?)?.bytes);
    match e.lacks_space().then(|| inputs.iter().map(survey).collect::<Result<Vec<u64>>>()) {
        Some(Ok(sizes)) => {
            let begun = if done > 0 { format!("{} written, ", bytes(done)) } else { String::new() };
            let what = if sizes.len() > 1 { "the images have" } else { "the image has" };
            e.context(format!("{failed}: {begun}{what} {} of files", bytes(total(sizes))))
        }
        Some(Err(_)) | None => e.context(failed),
    }
}

fn refuse_terminal() -> Result<()> {
    match io::stdout().is_terminal() {
        true => Err(Error::new("can't write to standard output: it is a terminal").hint("name a file, or use a pipe")),
        false => Ok(()),
    }
}

/// Counts what it writes.
struct Counting<'w> {
    out: &'w mut dyn Write,
    bytes: u64,
}

impl Write for Counting<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.bytes = self.bytes.saturating_add(n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A packed image is written from several places: it is made whole in storage, then copied.
fn to_stdout(storage: &Storage, write: impl FnOnce(&File) -> Result<Written>) -> Result<Written> {
    let failed = || "can't write to standard output";
    refuse_terminal()?;
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
