//! `ch-run`: becomes a command in an image.
//!
//! A name means an image in storage before a directory in the current one: after `ch-image build -t hello hello` both
//! are there, and the image is meant. `./hello` is always the directory.
//!
//! An image is run as it lies in storage: a stack of layers that never change, or one whole tree. With `-w` the command
//! writes into the image; so the first time its layers, which other images and the build cache share, are copied to a
//! tree of its own. From then on it is a directory like others: any number of commands write into it, and others read
//! it, at the same time, and what they have written stays, however they end.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{devices, features, host, packed_image, run_settings, similar};
use crate::cli::ch_run_args::{self, Invocation};
use crate::compat::{Compat, compat};
use crate::container::request::{Image as Root, Place, Preset, Request, become_command};
use crate::container::{NOT_EXECUTABLE, NOT_FOUND};
use crate::error::{Context, Error, Result};
use crate::image::{layers, whole};
use crate::log;
use crate::log::info;
use crate::oci::reference::ImageRef;
use crate::site::Settings;
use crate::storage::{self, Access, Image, Mode, Storage};
use crate::sys::process::{self, Ended, Fork};

/// Copying an image of so many bytes may take seconds.
const LARGE: u64 = 512 << 20;

pub fn run(args: Vec<OsString>) -> Result<ExitCode> {
    let (mut request, verbosity) = match ch_run_args::parse(args)? {
        Invocation::Help => return super::print(&ch_run_args::help()).map(|()| ExitCode::SUCCESS),
        Invocation::Version => {
            return super::print(&format!("{}\n", env!("CARGO_PKG_VERSION"))).map(|()| ExitCode::SUCCESS);
        }
        Invocation::Feature(feature) => {
            return Ok(if features::has(feature) { ExitCode::SUCCESS } else { ExitCode::from(features::ABSENT) });
        }
        Invocation::Run { request, verbosity } => (request, verbosity),
    };
    log::set_level(verbosity);
    if let Some((storage, name)) = entry(&request) {
        (request.storage, request.image) = (Some(storage), name);
    }
    let settings = if request.settings { Settings::load()? } else { Settings::default() };
    run_settings::apply(&mut request, &settings)?;
    request.stores = host::stores(&settings);
    request.preset = request.preset.or(usual_preset(compat()?));
    super::secrets::take_from_environment();
    // Registries' passwords are not the command's business.
    let host = env::vars_os().filter(|(name, _)| !super::secrets::is_secret(name)).collect();
    let devices = devices::inject(&request.devices)?;
    let image = match directory(&request)? {
        // Whose container is entered has its image already.
        _ if request.join.as_ref().is_some_and(|join| join.pid.is_some()) => Root::here(),
        Some(path) if path.is_file() => {
            if request.writable {
                return Err(read_only(&path));
            }
            packed_image::image(&path, request.no_mount)?
        }
        Some(path) => {
            if request.writable {
                refuse_stored(&path)?;
            }
            Root::directory(&path)?
        }
        None => {
            // Before the user namespace, where others can't be told from root.
            storage::check_place(&storage_path(&request)?)?;
            match find_shared(&request)? {
                Some((storage, image)) => stored_elsewhere(&request, &storage, &image)?,
                None => {
                    if let Some(code) = prepare(&request)? {
                        return Ok(code);
                    }
                    stored(&request)?
                }
            }
        }
    };
    match become_command(&request, host, image, devices)? {}
}

/// What the environment begins with if nothing is said. Charliecloud leaves it to `--set-env` to ask for the image's.
fn usual_preset(compat: Compat) -> Option<Preset> {
    match compat {
        Compat::None => None,
        Compat::V025 | Compat::V040 => Some(Preset::Original),
    }
}

/// The error with the exit code that callers of ch-run expect: Docker's, who tells what it could not do itself (125)
/// from a command that can't be executed (126) or is not there (127), or that of the version in `$CH_COMPAT`.
pub fn fault(e: Error) -> Error {
    let code = fault_code(e.exit_code(), compat().unwrap_or(Compat::None));
    e.with_code(code)
}

fn fault_code(code: u8, compat: Compat) -> u8 {
    match (compat, code) {
        (Compat::None, 1 | 2) => 125,
        (Compat::V025, NOT_EXECUTABLE | NOT_FOUND) => 1,
        (Compat::V040, 1 | 2) => 31,
        (Compat::V040, NOT_EXECUTABLE | NOT_FOUND) => 49,
        (Compat::None | Compat::V025 | Compat::V040, code) => code,
    }
}

/// The directory or packed image that the request means, absolute; `None` if it is a name in storage.
fn directory(request: &Request) -> Result<Option<PathBuf>> {
    let path = Path::new(&request.image);
    let said = path.is_absolute() || path.starts_with(".") || path.starts_with("..");
    if !said && (!(path.is_dir() || path.is_file()) || is_stored(request)) {
        return Ok(None);
    }
    let shown = path.display();
    // A directory of some other purpose is not used by accident: missing mount points would be made in it.
    if !said && path.is_dir() && !["bin", "dev", "usr"].iter().any(|name| path.join(name).is_dir()) {
        let e = format!("no image {shown} in storage, and the directory {shown} has none of bin, dev, usr");
        return Err(Error::new(e).hint(format!("ch-image list shows the images; ./{shown} means the directory")));
    }
    std::path::absolute(path).context(|| format!("can't open image {shown}")).map(Some)
}

/// The storage directory and the image whose entry there (`img/NAME`) the request names by its path.
fn entry(request: &Request) -> Option<(PathBuf, OsString)> {
    let path = Path::new(&request.image);
    let (dir, name) = (path.parent()?, path.file_name()?);
    if dir.file_name()? != "img" || !path.is_symlink() {
        return None;
    }
    let storage = storage::around(dir)?;
    (fs::canonicalize(dir).ok()? == storage.join("img")).then(|| (storage, name.to_owned()))
}

/// What `-w` would write into.
fn read_only(path: &Path) -> Error {
    Error::new(format!("can't write into {}: a packed image never changes", path.display()))
        .hint("--write-fake lets the command write and forgets it, --overlay DIR keeps what it wrote; ch-image import makes an image in storage of it")
}

/// Layers never change: other images are made of them, too.
fn refuse_stored(path: &Path) -> Result<()> {
    let Some(storage) = storage::around(path) else { return Ok(()) };
    let (shown, storage) = (path.display(), storage.display());
    Err(Error::new(format!("can't write into {shown}: it belongs to the storage directory {storage}"))
        .hint(format!("run the image by its name: ch-image -s {storage} list shows the images")))
}

/// Whether there is an image of that name, be it damaged.
fn is_stored(request: &Request) -> bool {
    let Ok(reference) = ImageRef::parse(&request.image.to_string_lossy()) else { return false };
    let Ok(path) = storage_path(request) else { return false };
    let own = Storage::open_existing(&path, Access::Read).ok().flatten();
    own.is_some_and(|storage| !matches!(storage.image(&reference), Ok(None)))
        || matches!(shared(request, &reference), Ok(Some(_)) | Err(_))
}

/// The image of that name in the first store of others that has one.
fn shared(request: &Request, reference: &ImageRef) -> Result<Option<(Storage, Image)>> {
    for path in &request.stores {
        let failed = || format!("store {}", path.display());
        let Some(storage) = Storage::open_shared(path)? else { continue };
        if let Some(image) = storage.image(reference).context(failed)? {
            return Ok(Some((storage, image)));
        }
    }
    Ok(None)
}

/// Whether the image is that of a store of others: one's own storage has none of that name.
fn find_shared(request: &Request) -> Result<Option<(Storage, Image)>> {
    if request.stores.is_empty() {
        return Ok(None);
    }
    let reference = ImageRef::parse(&request.image.to_string_lossy())?;
    let own = Storage::open_existing(&storage_path(request)?, Access::Read)?;
    match own.map(|storage| storage.image(&reference)).transpose()?.flatten() {
        Some(_) => Ok(None),
        None => shared(request, &reference),
    }
}

/// An image of others, ready to be mounted: nothing of it is locked, and nothing made for it.
fn stored_elsewhere(request: &Request, storage: &Storage, image: &Image) -> Result<Root> {
    let shown = storage.path().display();
    if request.writable {
        return Err(Error::new(format!(
            "can't write into {}: it is in {shown}, a store of others",
            log::escape(&request.image.to_string_lossy())
        ))
        .hint("--write-fake lets the command write and forgets it, --overlay DIR keeps what it wrote"));
    }
    root(storage, image).map_err(|e| match storage.mode() {
        Mode::Plain => e.hint(format!("{shown} keeps whole trees, which its owner makes by running the image once")),
        Mode::Overlay => e,
    })
}

fn storage_path(request: &Request) -> Result<PathBuf> {
    host::storage_place(request.storage.as_deref(), || Ok(Settings::default()))
}

/// The image that the request names, and its storage.
fn find(request: &Request, access: Access) -> Result<(Storage, Image)> {
    let name = request.image.to_string_lossy();
    let reference = ImageRef::parse(&name)?;
    let path = storage_path(request)?;
    let missing = |hint: &str| {
        Error::new(format!("image not found: {}", log::escape(&name)))
            .hint(format!("neither a directory nor an image in {}; {hint}", path.display()))
    };
    let storage = Storage::open_existing(&path, access)?.ok_or_else(|| missing("ch-image list shows what there is"))?;
    let image = storage.image(&reference)?.ok_or_else(|| missing(&similar::hint(&storage, &reference)))?;
    Ok((storage, image))
}

/// A named image, ready to be mounted.
fn stored(request: &Request) -> Result<Root> {
    let (storage, found) = find(request, Access::Read)?;
    // For as long as the command runs, which this process becomes.
    let image = storage.keep_in_use(&|| storage.image(&found.reference))?.unwrap_or(found);
    root(&storage, &image)
}

fn root(storage: &Storage, image: &Image) -> Result<Root> {
    let place = match layers::whole(storage, &image.layers) {
        Some(id) => Place::Tree(storage.layer_tree(&id)),
        None if storage.mode() == Mode::Plain => {
            return Err(Error::new(format!("image {} was replaced meanwhile", image.reference)).hint("try again"));
        }
        // Any directory serves as the mount point: the mount is seen by nobody else. That of the images changes least.
        None => Place::Stack { layers: layers::trees(storage, &image.layers), at: storage.path().join("images") },
    };
    let layers: Vec<String> = image.layers.iter().map(ToString::to_string).collect();
    Ok(Root {
        place,
        identity: format!("{} {} {}", storage.path().display(), image.reference, layers.join(" ")),
        env: Some(image.config.env()),
        cwd: Some(image.config.working_dir().into()),
    })
}

/// Makes the tree that the command needs, unless it is there: the image's own, to write into; in plain mode, a whole one.
/// In a process of its own: it enters a namespace and holds locks, while this one becomes the command. The exit code, if
/// that failed.
fn prepare(request: &Request) -> Result<Option<ExitCode>> {
    let (storage, image) = find(request, Access::Read)?;
    if has_tree(request, &storage, &image) {
        return Ok(None);
    }
    drop(storage);
    let too_many = |e: Error| e.hint("too many processes: see ulimit -u");
    let ended = match process::fork(0).context(|| "can't fork").map_err(too_many)? {
        Fork::Child => {
            let done = process::die_with_parent().context(|| "can't set a signal").and_then(|()| copy(request));
            process::exit(done.err().map_or(0, |e| {
                log::error(&e);
                i32::from(e.exit_code())
            }))
        }
        Fork::Parent(pid) => process::wait(pid).context(|| "can't wait for a child")?,
    };
    Ok(match ended {
        Ended::Exited(0) => None,
        Ended::Exited(code) => Some(ExitCode::from(fault_code(code, compat()?))),
        Ended::Signaled(n) => Some(ExitCode::from(u8::try_from(128 + n).unwrap_or(1))),
    })
}

fn has_tree(request: &Request, storage: &Storage, image: &Image) -> bool {
    match (request.writable, storage.mode()) {
        (true, _) => {
            let own = layers::own_tree(storage, &image.layers);
            own.is_some_and(|id| storage.layer_info(&id).is_ok_and(|info| info.content.is_none()))
        }
        (false, Mode::Overlay) => true,
        (false, Mode::Plain) => layers::whole(storage, &image.layers).is_some(),
    }
}

fn copy(request: &Request) -> Result<()> {
    let (storage, image) = find(request, Access::Write)?;
    // The caller's mask is for the command, not for what we make.
    process::umask(0o022);
    let _lock = storage.lock_image(&image.reference)?;
    // Whoever had the lock may have done it.
    let (_, mut image) = find(request, Access::Read)?;
    if has_tree(request, &storage, &image) {
        return Ok(());
    }
    // What takes its time is said; otherwise only the command is heard.
    let sizes = image.layers.iter().map(|id| storage.layer_info(id).map_or(0, |info| info.size));
    let is_large = sizes.fold(0, u64::saturating_add) >= LARGE;
    let name = log::escape(&request.image.to_string_lossy()).into_owned();
    if !request.writable {
        if is_large {
            info!("copying image {name} to run in it");
        }
        return whole::tree(&storage, &image.layers).map(drop);
    }
    let tree = match layers::own_tree(&storage, &image.layers) {
        Some(tree) => tree,
        None => {
            if is_large {
                info!("copying image {name} to write into it");
            }
            layers::flatten(&storage, &image)?
        }
    };
    storage.forget_content(&tree)?;
    image.layers = vec![tree];
    storage.commit_image(&image, Vec::new())
}
