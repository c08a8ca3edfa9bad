//! Files that become one layer: a directory, a tarball, or a packed image.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use super::{Input, Packed, Tally};
use crate::cmd::Host;
use crate::cmd::progress::{CountedReader, Progress};
use crate::cmd::pull::whole;
use crate::cmd::readahead::ahead;
use crate::compress::Codec;
use crate::compress::stream::{Decoder, Proof};
use crate::container::{self, Maker};
use crate::error::{Context, Error, Result};
use crate::image::layers::Held;
use crate::image::{ch_layer, layers, owners};
use crate::log::{info, warning};
use crate::oci;
use crate::oci::config::Config;
use crate::oci::digest::{Digest, Hashing};
use crate::oci::reference::ImageRef;
use crate::oci::saved::{DOCKER_DOCUMENT, LAYOUT_INDEX, LAYOUT_MARK};
use crate::rootfs::{self, Limits, Root, Unpacked};
use crate::storage::{Draft, Image, LayerId, LayerInfo, LayerKind, Owners, Storage, TableWriter};

/// Largest `/ch/metadata.json`, bytes.
const MAX_METADATA: u64 = 1 << 20;

pub fn import(host: &Host, storage: &Storage, input: &Input, reference: ImageRef) -> Result<(Image, Tally)> {
    let Input { path, shown } = input;
    let draft = layers::new_tree(storage)?;
    let tree = draft.path().join("tree");
    let mut owners = TableWriter::new(&draft);
    let mut is_packed = false;
    let (mut held, name, tally) = if path.is_dir() {
        storage.refuse_within(path)?;
        let copied =
            rootfs::copy_tree(path, &tree, Some(storage.inode()?)).context(|| format!("can't import {shown}"))?;
        if copied.skipped > 0 {
            info!("ignored {} sockets, devices and/or FIFOs", copied.skipped);
        }
        // On this machine all is the user's: the directory cannot tell.
        let tally = Tally { read: copied.bytes, entries: copied.files, content: copied.bytes };
        (Held { size: copied.bytes, content: None }, None, tally)
    } else {
        let file = fs::File::open(path).context(|| format!("can't open {shown}"))?;
        let read = file.metadata().context(|| format!("can't open {shown}"))?.len();
        let failed = || format!("cannot open: {shown}");
        // Of the same bytes comes the same layer, and another one if they are understood otherwise.
        let progress = Progress::new("importing", Some(read));
        let (unpacked, name) = match Packed::of(&file).context(failed)? {
            Some(packed) => {
                is_packed = true;
                let mut told = |path: &[u8], told| owners::write(&mut owners, path, &told, &mut owners::alone);
                let (unpacked, digest) =
                    packed.unpack(&tree, &mut told, &mut progress.part(shown, Some(read))).context(failed)?;
                (unpacked, format!("import squashfs 2 {digest}"))
            }
            None => {
                refuse_codec(&file, input)?;
                let (unpacked, digest) = unpack(
                    CountedReader { inner: file, part: progress.part(shown, Some(read)) },
                    input,
                    &tree,
                    &mut owners,
                )?;
                (unpacked, format!("import 1 {digest}"))
            }
        };
        if unpacked.ignored_devices > 0 {
            info!("ignored {} devices and/or FIFOs", unpacked.ignored_devices);
        }
        let tally = Tally { read, entries: unpacked.entries, content: unpacked.bytes };
        (Held { size: unpacked.bytes, content: unpacked.content }, Some(name), tally)
    };
    let root = Root::open(&tree)?;
    if !layers::looks_like_image(&root)? {
        refuse_saved(&tree, shown)?;
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
    let id = store(storage, draft, held, name, owners, shown)?;
    Ok((Image::new(reference, vec![id], config), tally))
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
fn refuse_saved(tree: &Path, shown: &str) -> Result<()> {
    let root = Root::open(tree)?;
    let has = |name: &str| root.read(Path::new(name), MAX_METADATA).ok().flatten();
    let is_docker = has(DOCKER_DOCUMENT).is_some_and(|text| matches!(oci::saved::parse(&text), Ok(Some(_))));
    if !is_docker && (has(LAYOUT_MARK).is_none() || has(LAYOUT_INDEX).is_none()) {
        return Ok(());
    }
    Err(Error::new(format!("can't import {shown}: a saved image, but in a directory of the archive, or damaged"))
        .hint("unpack the archive and import the directory that has index.json or manifest.json in it"))
}

/// What was unpacked, and its digest.
fn unpack(
    file: CountedReader<fs::File>,
    input: &Input,
    tree: &Path,
    owners: &mut TableWriter,
) -> Result<(Unpacked, Digest)> {
    let Input { path, shown } = input;
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

/// Tells what to do about a tarball that is compressed in a way that is not read here.
fn refuse_codec(file: &fs::File, input: &Input) -> Result<()> {
    let mut start = [0; 6];
    let n =
        std::os::unix::fs::FileExt::read_at(file, &mut start, 0).context(|| format!("can't read {}", input.shown))?;
    let (name, program) = match Codec::sniff(&start[..n]) {
        Codec::Xz => ("xz", "xz"),
        Codec::Bzip2 => ("bzip2", "bzip2"),
        Codec::Gzip | Codec::Zstd | Codec::Plain => return Ok(()),
    };
    let file = if input.is_stdin() { "FILE" } else { &input.shown };
    Err(Error::new(format!("can't import {}: {name} compression is not supported", input.shown))
        .hint(format!("decompress it on the way: {program} -dc {file} | ch-image import - NAME")))
}

/// The same file has the same name each time, so that what was built on it stays cached.
fn store(
    storage: &Storage,
    draft: Draft,
    held: Held,
    name: Option<String>,
    owners: TableWriter,
    shown: &str,
) -> Result<LayerId> {
    let made_by = format!("import {shown}");
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
