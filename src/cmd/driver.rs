//! How does an image use the host's driver? Files of the host become binds, and the image's dynamic loader finds the libraries.
//!
//! Libraries are read on the host, before the container: there they are. The C library is that of the mounted image.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use crate::container::Bind;
use crate::container::inject::{Inject, Injection, Inside};
use crate::device::elf::{self, Elf, HERE};
use crate::device::ld_cache;
use crate::device::loader::{self, Binary, ImageLoader, Libc, Loading, Refused};
use crate::device::select::Selection;
use crate::device::{Edits, Node};
use crate::error::{Error, Result};
use crate::log::{escape, verbose, warning};

pub const CACHE: &str = "/etc/ld.so.cache";
/// Where images of NVIDIA have libraries of a driver that is newer than what they need at least.
const COMPAT: &str = "/usr/local/cuda/compat";
/// Without it nothing of the driver is of use.
const MAIN_LIBRARY: &str = "libcuda.so.";

/// Gives a container what was selected; of the libraries named, only what the image does not have itself.
pub fn inject(selection: Selection, if_missing: Vec<String>) -> Inject {
    let exists = |path: &str| fs::metadata(path).is_ok();
    let Selection { mut edits, names } = selection;
    edits.mounts.retain(|mount| exists(&mount.host));
    edits.nodes.retain(|node| exists(&node.host));
    let binaries: Vec<Binary> = edits.mounts.iter().filter_map(|mount| binary(&mount.host)).collect();
    let nodes = edits.nodes.iter().map(|node| &node.host);
    let sources = edits.mounts.iter().map(|mount| &mount.host).chain(nodes).map(PathBuf::from).collect();
    Inject {
        sources,
        decide: Box::new(move |inside| {
            edits.mounts.retain(|mount| !is_own(&mount.path, &if_missing, inside));
            decide(&names, edits, &binaries, inside)
        }),
    }
}

fn decide(names: &[String], edits: Edits, binaries: &[Binary], inside: &Inside) -> Result<Injection> {
    let image = image_loader(&edits, inside);
    let loading = loader::plan(&edits, binaries, &image);
    refuse(names, &loading.refused)?;
    if !inside.is_joined {
        say(names, &edits, &loading);
        if image.libc == Libc::Musl && !loading.library_path.is_empty() {
            warning!("devices: the image has musl: libraries of the driver, which are made for glibc, may not load");
        }
    }
    let nodes = edits.nodes.iter().filter(|node| !is_given(node)).map(|node| Bind::new(&node.host, &node.path));
    let mounts = loading.mounts.iter();
    let mounts = mounts.map(|mount| Bind { read_only: mount.read_only, ..Bind::new(&mount.host, &mount.path) });
    Ok(Injection {
        binds: nodes.chain(mounts).collect(),
        env: edits.env,
        files: loading.cache.into_iter().map(|cache| (CACHE.into(), cache)).collect(),
        library_path: loading.library_path,
    })
}

/// An error if what counts can't be loaded, a warning about the rest.
fn refuse(names: &[String], refused: &[Refused]) -> Result<()> {
    let shown = |one: &Refused| {
        let name = escape(&one.name).into_owned();
        format!("{name} needs {}, and the image's C library has no more than {}", escape(&one.needs), escape(&one.has))
    };
    if let Some(main) = refused.iter().find(|one| one.name.starts_with(MAIN_LIBRARY)) {
        let what = format!("can't use {} in this image: {}", names.join(", "), shown(main));
        return Err(Error::new(what).hint("use an image of a newer distribution"));
    }
    if let Some(first) = refused.first() {
        let more = if refused.len() > 1 { format!(" (and {} more)", refused.len() - 1) } else { String::new() };
        warning!("devices: left out: {}{more}", shown(first));
    }
    Ok(())
}

fn say(names: &[String], edits: &Edits, loading: &Loading) {
    let (names, env) = (names.join(", "), edits.env.len());
    let (nodes, mounts) = (edits.nodes.len(), loading.mounts.len());
    let cache = match (&loading.cache, loading.library_path.as_slice()) {
        (Some(_), _) => format!(", {CACHE}"),
        (None, []) => String::new(),
        (None, path) => format!(", LD_LIBRARY_PATH={}", path.join(":")),
    };
    verbose!("devices: {names}: {nodes} device nodes, {mounts} files and directories, {env} variables{cache}");
}

/// A container has the host's /dev.
fn is_given(node: &Node) -> bool {
    let path = Path::new(&node.path);
    node.host == node.path && path.starts_with("/dev") && !path.components().any(|part| part == Component::ParentDir)
}

fn binary(host: &str) -> Option<Binary> {
    // A FIFO would keep us waiting.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(host).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    Some(Binary { host: host.to_owned(), elf: elf_of(&file)? })
}

fn elf_of(file: &File) -> Option<Elf> {
    elf::read(&|offset, len| {
        let mut block = vec![0; len];
        let read = file.read_at(&mut block, offset).ok()?;
        block.truncate(read);
        Some(block)
    })
}

fn image_loader(edits: &Edits, inside: &Inside) -> ImageLoader {
    let cache = inside.open(CACHE).and_then(|file| {
        let mut bytes = Vec::new();
        // Those of distributions have 20 to 200 KiB.
        file.take(8 << 20).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    });
    let libc = libc(inside, cache.as_deref());
    let mut compat = Vec::new();
    if let Some(driver) = loader::driver(edits) {
        let names = inside.names(COMPAT);
        if loader::is_newer(&names, &driver) {
            let paths = names.iter().map(|name| format!("{COMPAT}/{name}"));
            let named = paths.filter_map(|path| Some((elf_of(&inside.open(&path)?)?.soname?, path)));
            compat.extend(named);
        }
    }
    ImageLoader { libc, cache, compat }
}

/// Whether the image has this library itself, and uses that.
fn is_own(path: &str, if_missing: &[String], inside: &Inside) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    if_missing.iter().any(|one| one == name)
        && directories().iter().any(|directory| inside.open(&format!("{directory}/{name}")).is_some())
}

/// Where images have libraries of this machine.
fn directories() -> Vec<String> {
    let triplet = HERE.triplet;
    let all = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(str::to_owned);
    all.into_iter().chain([format!("/lib/{triplet}"), format!("/usr/lib/{triplet}")]).collect()
}

/// The C library for programs of this machine.
fn libc(inside: &Inside, cache: Option<&[u8]>) -> Libc {
    const NAME: &str = "libc.so.6";
    let cached =
        cache.and_then(|bytes| ld_cache::parse(bytes).ok()).and_then(|cache| cache.find(NAME).map(str::to_owned));
    for path in cached.into_iter().chain(directories().into_iter().map(|directory| format!("{directory}/{NAME}"))) {
        let Some(elf) = inside.open(&path).and_then(|file| elf_of(&file)) else { continue };
        if elf.defines.iter().any(|name| name.starts_with("GLIBC_")) {
            return Libc::Glibc { defines: elf.defines };
        }
    }
    if inside.open(HERE.musl_loader).is_some() { Libc::Musl } else { Libc::None }
}
