//! `import`: an image directory, a tarball, a saved or a packed image becomes an image. Files are told by content.

mod files;
mod packed;
mod saved;
mod stdin;

pub use packed::Packed;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use self::saved::Operand;
use super::list::bytes;
use super::{Host, remote};
use crate::cli::Options;
use crate::error::{Context, Error, Result};
use crate::image::layers;
use crate::log::info;
use crate::oci::arch::Wanted;
use crate::oci::config::Config;
use crate::oci::reference::ImageRef;
use crate::oci::saved::Wish;
use crate::rootfs::{Bundle, Root};
use crate::storage::{Access, Image, LayerId, Storage};

/// Standard input.
const STDIN: &str = "-";

/// `load`: all images of the archive, under the names that they have there, or one under the name that is said.
pub fn load(host: &Host, options: &Options, path: &Path, image: Option<&str>) -> Result<()> {
    if let Some(image) = image {
        return import(host, options, path, image);
    }
    let shown = path.display();
    let storage = host.storage(Access::Write)?;
    let mut file = fs::File::open(path).context(|| format!("can't open {shown}"))?;
    let names = saved::names(&mut file, &storage).context(|| format!("can't import {shown}"))?;
    if names.is_empty() {
        return Err(Error::new(format!("no name of an image in {shown}"))
            .hint(format!("say one: ch-image import {shown} NAME")));
    }
    drop(storage);
    names.iter().try_for_each(|name| import(host, options, path, name))
}

pub fn import(host: &Host, options: &Options, path: &Path, image: &str) -> Result<()> {
    let begun = Instant::now();
    let reference = ImageRef::parse(image)?;
    let mut operand = Operand::parse(path);
    let is_stdin = operand.path.as_os_str() == STDIN;
    if !is_stdin {
        check(&operand.path)?;
    }
    let storage = host.storage(Access::Write)?;
    let _lock = storage.lock_image(&reference)?;
    let shown = if is_stdin { "standard input".to_owned() } else { operand.path.display().to_string() };
    info!("importing:    {shown}");
    info!("destination:  {reference}");
    let spooled = is_stdin.then(|| stdin::spool(&storage)).transpose()?;
    if let Some(spooled) = &spooled {
        operand.path = spooled.path();
    }
    let input = Input { path: operand.path.clone(), shown };
    let failed = || format!("can't import {}", input.shown);
    let wanted = remote::wanted(host, options);
    let (image, tally) = match saved_image(&storage, &operand, &reference, &wanted).context(failed)? {
        Some((layers, tally, mut config)) => {
            if config.arch().is_none() {
                config.set_arch(host.arch());
            }
            (Image::new(reference, layers, config), tally)
        }
        None => files::import(host, &storage, &input, reference)?,
    };
    storage.commit_image(&image, Vec::new())?;
    storage.free_unused()?;
    tally.report(begun);
    info!("done");
    Ok(())
}

/// What is imported: where it lies, and what messages call it.
struct Input {
    path: PathBuf,
    shown: String,
}

impl Input {
    fn is_stdin(&self) -> bool {
        self.path.as_os_str() != self.shown.as_str()
    }
}

/// What was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Bytes, perhaps compressed.
    pub read: u64,
    pub entries: u64,
    /// Content of files, in bytes.
    pub content: u64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.read = self.read.saturating_add(other.read);
        self.entries = self.entries.saturating_add(other.entries);
        self.content = self.content.saturating_add(other.content);
    }

    fn report(&self, begun: Instant) {
        // All layers were there.
        if self.read == 0 {
            return;
        }
        let ratio = self.content as f64 / self.read as f64;
        let (read, content) = (bytes(self.read), bytes(self.content));
        let seconds = begun.elapsed().as_secs_f64();
        info!(
            "read:         {read} ({} entries, {content} of content, ratio {ratio:.2}) in {seconds:.1} s",
            self.entries
        );
    }
}

/// Before storage is made for it.
fn check(path: &Path) -> Result<()> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() || meta.is_file() => Ok(()),
        Ok(_) => Err(Error::new(format!("can't import {shown}: neither a directory nor a regular file"))
            .hint("ch-image import - NAME reads standard input")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::new(format!("can't copy: not found: {shown}"))),
        Err(e) => Err(e).context(|| format!("can't import {shown}")),
    }
}

/// Layers and configuration of an image that a program has saved; `None` if it is no such thing.
fn saved_image(
    storage: &Storage,
    operand: &Operand,
    reference: &ImageRef,
    wanted: &Wanted,
) -> Result<Option<(Vec<LayerId>, Tally, Config)>> {
    let wish = operand.tag.map_or(Wish::Like(reference), Wish::Named);
    let path = operand.path.as_path();
    let opened = if path.is_dir() {
        // A whole root file system may have files of any name.
        let root = Root::open(path)?;
        (!layers::looks_like_image(&root)?).then(|| (Bundle::of_dir(root), None))
    } else {
        let mut file = fs::File::open(path)?;
        if operand.format.is_none() && Packed::of(&file)?.is_some() {
            return Ok(None);
        }
        saved::open_file(&mut file, storage)?
    };
    let found = match &opened {
        Some((bundle, _)) => saved::find(bundle, operand.format, wish, wanted)?.map(|found| (bundle, found)),
        None => None,
    };
    match found {
        Some((bundle, found)) => {
            let (layers, tally) = found.store(bundle, storage)?;
            Ok(Some((layers, tally, found.config)))
        }
        None if operand.format.is_some() => Err(Error::new("there is no saved image of that format in it")),
        None => Ok(None),
    }
}
