//! `ch-run --device`, `--gpu`: which files describe devices, and what does a container get of the host for those that were asked for?
//!
//! What of it the image can use is decided when it is mounted: `driver`.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::driver;
use crate::container::inject::{Devices, Inject};
use crate::device::Edits;
use crate::device::cdi::{self, Format};
use crate::device::drivers::{self, Found};
use crate::device::hook::Hook;
use crate::device::ld_cache;
use crate::device::select::{self, Source, Wanted};
use crate::error::{Context, Error, Result, bail};
use crate::log::{escape, warning};

/// Later ones count more.
const DIRECTORIES: &str = "/etc/cdi:/var/run/cdi";
const VARIABLE: &str = "CH_RUN_CDI_DIRS";
/// Kinds that `--gpu` means.
const GPUS: &[&str] = &["nvidia.com/gpu", "amd.com/gpu"];
/// Machines with many devices have CDI files of 200 KiB.
const LARGEST: u64 = 8 << 20;

/// What the devices need that were asked for.
pub fn inject(devices: &Devices) -> Result<Inject> {
    let mut wanted = wanted(devices)?;
    if wanted.is_empty() && !devices.gpu {
        return Ok(Inject::nothing());
    }
    let directories = directories(devices.dirs.as_deref())?;
    let sources = read(&directories);
    let gpus = GPUS.iter().filter(|kind| devices.gpu && select::kinds(&sources).iter().any(|known| known == *kind));
    let gpus: Vec<Wanted> = gpus.map(|kind| Wanted::Kind((*kind).to_owned())).collect();
    let is_found_by_lists = devices.gpu && gpus.is_empty();
    wanted.extend(gpus);
    let mut selection = select::select(&sources, &wanted)?;
    let mut if_missing = Vec::new();
    if is_found_by_lists {
        let found = gpu_driver();
        if found.names.is_empty() {
            warn_of_none(&sources);
        }
        selection.edits.add(&found.edits);
        selection.names.extend(found.names);
        if_missing = found.if_missing;
    }
    warn_about(&selection.edits);
    if devices.all && selection.names.is_empty() {
        let names: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
        warning!("--devices: no CDI file in {} names any device", names.join(", "));
    }
    for mount in selection.edits.mounts.iter().filter(|mount| fs::metadata(&mount.host).is_err()) {
        // What is only there while a service runs, a program may well do without.
        if is_library(&mount.host) {
            let what = format!("can't use {}: {} does not exist", selection.names.join(", "), mount.host);
            return Err(Error::new(what).hint(
                "the CDI file is of another version of the driver; the administrator makes it anew with: nvidia-ctk cdi generate",
            ));
        }
    }
    Ok(driver::inject(selection, if_missing))
}

/// The driver of the machine's GPUs as far as it is known by lists.
pub fn gpu_driver() -> Found {
    let cache = read_file(Path::new(driver::CACHE)).and_then(|bytes| ld_cache::parse(&bytes)).unwrap_or_default();
    drivers::find(&cache, &|path| fs::metadata(path).is_ok())
}

fn warn_of_none(sources: &[Source]) {
    let broken = sources.iter().find_map(|source| Some((&source.path, source.document.as_ref().err()?)));
    match broken {
        Some((path, e)) => warning!("--gpu: no driver found, and {path} can't be read: {e}"),
        None => warning!("--gpu: this machine has no driver of a GPU: no CDI file, no libcuda.so.1, no /dev/kfd"),
    }
}

/// Whether a CDI file says anything about this device.
pub fn is_known(name: &str, devices: &Devices) -> bool {
    let sources = directories(devices.dirs.as_deref()).map(|directories| read(&directories));
    let known = |sources: Vec<Source>| Some(select::select(&sources, &[Wanted::parse(name)?]));
    sources.ok().and_then(known).is_some_and(|found| found.is_ok())
}

fn wanted(devices: &Devices) -> Result<Vec<Wanted>> {
    let mut wanted: Vec<Wanted> = devices.all.then_some(Wanted::All).into_iter().collect();
    for name in &devices.named {
        match Wanted::parse(name) {
            Some(parsed) => wanted.push(parsed),
            None => bail!("not a device: {name}"),
        }
    }
    Ok(wanted)
}

/// Where CDI files are, the least important first.
pub fn directories(option: Option<&OsStr>) -> Result<Vec<PathBuf>> {
    let variable = env::var_os(VARIABLE).filter(|value| !value.is_empty());
    let told = option.or(variable.as_deref());
    let list = told.unwrap_or(OsStr::new(DIRECTORIES)).as_bytes().split(|&b| b == b':').filter(|name| !name.is_empty());
    let list: Vec<PathBuf> = list.map(|name| PathBuf::from(OsStr::from_bytes(name))).collect();
    // The standard ones need not be there.
    if told.is_some() {
        for path in &list {
            let meta = fs::metadata(path).context(|| format!("can't read CDI directory {}", path.display()))?;
            if !meta.is_dir() {
                bail!("can't read CDI directory {}: not a directory", path.display());
            }
        }
    }
    Ok(list)
}

/// The CDI files of these directories, in the order of their names.
pub fn read(directories: &[PathBuf]) -> Vec<Source> {
    let mut sources = Vec::new();
    for (rank, directory) in directories.iter().enumerate() {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(format) = Format::of(&name) else { continue };
            let document = read_file(&path).and_then(|bytes| cdi::parse(&bytes, format));
            sources.push(Source { path: escape(&path.to_string_lossy()).into_owned(), rank, document });
        }
    }
    sources
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    // A FIFO would keep us waiting.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        bail!("not a regular file");
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        bail!("larger than 8 MiB");
    }
    Ok(bytes)
}

pub fn is_library(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.ends_with(".so") || name.contains(".so.")
}

/// What is not there on the host, or can't be done.
fn warn_about(edits: &Edits) {
    let nodes = edits.nodes.iter().map(|node| &node.host);
    let mounts = edits.mounts.iter().map(|mount| &mount.host).filter(|host| !is_library(host));
    let missing: Vec<&str> =
        nodes.chain(mounts).filter(|path| fs::metadata(path).is_err()).map(String::as_str).collect();
    if !missing.is_empty() {
        warning!("devices: this machine has no {}", missing.join(" "));
    }
    let unknown = edits.hooks.iter().filter_map(|hook| match hook {
        Hook::Unknown(name) => Some(name.as_str()),
        Hook::UpdateCache { .. } | Hook::Links(_) | Hook::CudaCompat { .. } | Hook::Nothing => None,
    });
    let unknown: Vec<&str> = unknown.collect();
    if !unknown.is_empty() {
        warning!("devices: hooks are not run: {}", unknown.join(", "));
    }
    if !edits.ignored.is_empty() {
        warning!("devices: can't be done without privilege: {}", edits.ignored.join(", "));
    }
}
