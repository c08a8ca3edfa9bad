//! `import`: an image directory, a tarball, a saved or a packed image becomes an image. Files are told by content.

mod packed;
mod saved;

pub use packed::Packed;

use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use self::saved::Operand;
use super::Host;
use super::pull::whole;
use super::readahead::ahead;
use super::remote;
use crate::cli::Options;
use crate::compress::stream::{Decoder, Proof};
use crate::container::{self, Maker};
use crate::error::{Context, Error, Result};
use crate::image::layers::Held;
use crate::image::{ch_layer, layers, owners};
use crate::log::{info, warning};
use crate::oci;
use crate::oci::arch::Wanted;
use crate::oci::config::Config;
use crate::oci::digest::{Digest, Hashing};
use crate::oci::reference::ImageRef;
use crate::oci::saved::{DOCKER_DOCUMENT, LAYOUT_INDEX, LAYOUT_MARK, Wish};
use crate::rootfs::{self, Bundle, Limits, Root, Unpacked};
use crate::storage::{Access, Draft, Image, LayerId, LayerInfo, LayerKind, Owners, Storage, TableWriter};

/// Largest `/ch/metadata.json`, bytes.
const MAX_METADATA: u64 = 1 << 20;

/// `load`: the name is that in the archive, unless one is said.
pub fn load(host: &Host, options: &Options, path: &Path, image: Option<&str>) -> Result<()> {
    let shown = path.display();
    let name = match image {
        Some(image) => image.to_owned(),
        None => {
            let storage = host.storage(Access::Write)?;
            let mut file = fs::File::open(path).context(|| format!("can't open {shown}"))?;
            let name = saved::first_name(&mut file, &storage).context(|| format!("can't import {shown}"))?;
            name.ok_or_else(|| {
                Error::new(format!("no name of an image in {shown}"))
                    .hint(format!("say one: ch-image import {shown} NAME"))
            })?
        }
    };
    import(host, options, path, &name)
}

pub fn import(host: &Host, options: &Options, path: &Path, image: &str) -> Result<()> {
    let reference = ImageRef::parse(image)?;
    let operand = Operand::parse(path);
    let path = operand.path.as_path();
    let shown = path.display();
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::new(format!("can't copy: not found: {shown}")));
        }
        Err(e) => return Err(e).context(|| format!("can't import {shown}")),
    };
    if !meta.is_dir() && !meta.is_file() {
        return Err(Error::new(format!("can't import {shown}: neither a directory nor a regular file")));
    }
    let storage = host.storage(Access::Write)?;
    let _lock = storage.lock_image(&reference)?;
    info!("importing:    {shown}");
    info!("destination:  {reference}");
    let wanted = remote::wanted(host, options);
    let image =
        match saved_image(&storage, &operand, &reference, &wanted).context(|| format!("can't import {shown}"))? {
            Some((layers, mut config)) => {
                if config.arch().is_none() {
                    config.set_arch(host.arch());
                }
                Image::new(reference, layers, config)
            }
            None => tree(host, &storage, path, reference)?,
        };
    storage.commit_image(&image, Vec::new())?;
    storage.free_unused()?;
    info!("done");
    Ok(())
}

/// Layers and configuration of an image that a program has saved; `None` if it is no such thing.
fn saved_image(
    storage: &Storage,
    operand: &Operand,
    reference: &ImageRef,
    wanted: &Wanted,
) -> Result<Option<(Vec<LayerId>, Config)>> {
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
        Some((bundle, found)) => Ok(Some((found.store(bundle, storage)?, found.config))),
        None if operand.format.is_some() => Err(Error::new("there is no saved image of that format in it")),
        None => Ok(None),
    }
}

/// A directory or tarball of files.
fn tree(host: &Host, storage: &Storage, path: &Path, reference: ImageRef) -> Result<Image> {
    let shown = path.display();
    let draft = layers::new_tree(storage)?;
    let tree = draft.path().join("tree");
    let mut owners = TableWriter::new(&draft);
    let mut is_packed = false;
    let (mut held, name) = if path.is_dir() {
        storage.refuse_within(path)?;
        let copied =
            rootfs::copy_tree(path, &tree, Some(storage.inode()?)).context(|| format!("can't import {shown}"))?;
        if copied.skipped > 0 {
            info!("ignored {} sockets, devices and/or FIFOs", copied.skipped);
        }
        // On this machine all is the user's: the directory cannot tell.
        (Held { size: copied.bytes, content: None }, None)
    } else {
        let file = fs::File::open(path).context(|| format!("can't open {shown}"))?;
        let failed = || format!("cannot open: {shown}");
        // Of the same bytes comes the same layer, and another one if they are understood otherwise.
        let (unpacked, name) = match Packed::of(&file).context(failed)? {
            Some(packed) => {
                is_packed = true;
                let mut told = |path: &[u8], told| owners::write(&mut owners, path, &told, &mut owners::alone);
                let (unpacked, digest) = packed.unpack(&tree, &mut told).context(failed)?;
                (unpacked, format!("import squashfs 2 {digest}"))
            }
            None => {
                let (unpacked, digest) = unpack(file, path, &tree, &mut owners)?;
                (unpacked, format!("import 1 {digest}"))
            }
        };
        if unpacked.ignored_devices > 0 {
            info!("ignored {} devices and/or FIFOs", unpacked.ignored_devices);
        }
        (Held { size: unpacked.bytes, content: unpacked.content }, Some(name))
    };
    let root = Root::open(&tree)?;
    if !layers::looks_like_image(&root)? {
        refuse_saved(&tree, path)?;
        warning!("{shown} does not look like an image: it lacks bin, dev or usr");
    }
    let mut config = match root.read(Path::new(ch_layer::METADATA), MAX_METADATA) {
        Ok(Some(bytes)) => ch_layer::restore(&bytes).context(|| format!("can't import {shown}"))?,
        Ok(None) => foreign(&tree, is_packed).context(|| format!("can't import {shown}"))?,
        Err(e) => return Err(e).context(|| format!("can't import {shown}")),
    };
    if config.arch().is_none() {
        config.set_arch(host.arch());
    }
    held.add(&layers::add_meta(&root, &config)?);
    let id = store(storage, draft, held, name, owners, path)?;
    Ok(Image::new(reference, vec![id], config))
}

/// The configuration of an image that Apptainer or enroot has made, as far as its files say it.
fn foreign(tree: &Path, is_packed: bool) -> Result<Config> {
    let foreign = container::foreign_configuration(tree)?;
    let mut config = Config::default();
    match foreign.maker {
        Some(Maker::Apptainer) => info!("image of Apptainer: its environment and runscript become ENV and ENTRYPOINT"),
        // Other systems have an /etc/rc, too.
        Some(Maker::Enroot) if is_packed => {
            info!("image of enroot: its environment, directory and /etc/rc become ENV, WORKDIR and ENTRYPOINT");
        }
        Some(Maker::Enroot) | None => return Ok(config),
    }
    config.set_env(&foreign.variables()?);
    if !foreign.entrypoint.is_empty() {
        config.set_run("Entrypoint", foreign.entrypoint.into());
    }
    if let Some(cwd) = foreign.cwd {
        config.set_run("WorkingDir", cwd.into());
    }
    if !foreign.labels.is_empty() {
        config.set_run("Labels", foreign.labels.into_iter().collect());
    }
    config.check()?;
    Ok(config)
}

/// Saved images that are packed in a way that nobody expects are no root file system.
fn refuse_saved(tree: &Path, path: &Path) -> Result<()> {
    let root = Root::open(tree)?;
    let has = |name: &str| root.read(Path::new(name), MAX_METADATA).ok().flatten();
    let is_docker = has(DOCKER_DOCUMENT).is_some_and(|text| matches!(oci::saved::parse(&text), Ok(Some(_))));
    if !is_docker && (has(LAYOUT_MARK).is_none() || has(LAYOUT_INDEX).is_none()) {
        return Ok(());
    }
    Err(Error::new(format!(
        "can't import {}: a saved image, but in a directory of the archive, or damaged",
        path.display()
    ))
    .hint("unpack the archive and import the directory that has index.json or manifest.json in it"))
}

/// What was unpacked, and its digest.
fn unpack(file: fs::File, path: &Path, tree: &Path, owners: &mut TableWriter) -> Result<(Unpacked, Digest)> {
    let shown = path.display();
    let root = Root::open(tree)?;
    let limits = Limits::of(&root)?;
    let label = path.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    let label = crate::log::escape(label.split('.').next().unwrap_or("")).into_owned();
    thread::scope(|scope| {
        let failed = || format!("cannot open: {shown}");
        let decoder = Decoder::new(ahead(scope, file).context(failed)?, Proof::Crc).context(failed)?;
        let mut tar = Hashing::new(ahead(scope, decoder).context(failed)?);
        let mut told = |path: &[u8], told| owners::write(owners, path, &told, &mut owners::alone);
        let (unpacked, enclosed) = rootfs::import_tar(&mut tar, &root, &label, &limits, &mut told).context(failed)?;
        io::copy(&mut tar, &mut io::sink()).context(failed)?;
        if enclosed {
            info!("layers: single enclosing directory, using its contents");
        }
        Ok((unpacked, tar.hasher().digest()))
    })
}

/// The same file has the same name each time, so that what was built on it stays cached.
fn store(
    storage: &Storage,
    draft: Draft,
    held: Held,
    name: Option<String>,
    owners: TableWriter,
    path: &Path,
) -> Result<LayerId> {
    let made_by = format!("import {}", path.display());
    let Some(name) = name else {
        return layers::store_tree(storage, draft, held, &made_by, whole(owners)?);
    };
    let id = LayerId::new(Digest::of(name.as_bytes()));
    if !storage.has_layer(&id) {
        let kind = LayerKind::Base;
        let info = LayerInfo {
            parent: None,
            kind,
            size: held.size,
            content: held.content,
            created_by: made_by,
            inputs: Vec::new(),
            owners: Owners::Own(owners.finish()?),
        };
        storage.commit_layer(draft, &id, &info)?;
    }
    Ok(id)
}
