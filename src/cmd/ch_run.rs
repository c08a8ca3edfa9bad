//! `ch-run`: becomes a command in an image.
//!
//! A name means an image in storage before a directory in the current one: after `ch-image build -t hello hello` both
//! are there, and the image is meant. `./hello` is always the directory.
//!
//! A named image in overlay mode is a stack of layers that never change. With `-w` the command writes into a new layer,
//! which becomes part of the image when the command ends; so then this process waits instead of becoming the command.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::layers;
use crate::cli::ch_run::{self, Invocation};
use crate::container::Overlay;
use crate::container::ch_run::{Image as Root, Request, become_command};
use crate::error::{Context, Error, Result};
use crate::oci::digest::Digest;
use crate::oci::reference::ImageRef;
use crate::storage::{self, Access, Draft, Image, LayerId, LayerInfo, LayerKind, Mode, Storage};
use crate::sys::process::{self, Ended, Fork};
use crate::{log, rootfs, sys};

pub fn run(args: Vec<OsString>) -> Result<ExitCode> {
    let (mut request, verbosity) = match ch_run::parse(args)? {
        Invocation::Help => return super::print(ch_run::HELP).map(|()| ExitCode::SUCCESS),
        Invocation::Version => {
            return super::print(&format!("{}\n", env!("CARGO_PKG_VERSION"))).map(|()| ExitCode::SUCCESS);
        }
        Invocation::Run { request, verbosity } => (request, verbosity),
    };
    log::set_level(verbosity);
    super::secrets::take_from_environment();
    // Registries' passwords are not the command's business.
    let host = env::vars_os().filter(|(name, _)| !super::secrets::is_secret(name)).collect();
    let by_name = match directory(&request)? {
        Some(path) => {
            if request.writable {
                refuse_stored(&path)?;
            }
            request.image = path.into();
            false
        }
        None => true,
    };
    if request.writable && by_name && request.join.is_none() {
        return write_and_keep(&request, host);
    }
    match become_command(&request, host, &mount)? {}
}

/// The directory that the request means, absolute; `None` if it is a name in storage.
fn directory(request: &Request) -> Result<Option<PathBuf>> {
    let path = Path::new(&request.image);
    let said = path.is_absolute() || path.starts_with(".") || path.starts_with("..");
    if !said && (!path.is_dir() || is_stored(request)) {
        return Ok(None);
    }
    let shown = path.display();
    // A directory of some other purpose is not used by accident: missing mount points would be made in it.
    if !said && !["bin", "dev", "usr"].iter().any(|name| path.join(name).is_dir()) {
        let e = format!("no image {shown} in storage, and the directory {shown} has none of bin, dev, usr");
        return Err(Error::new(e).hint(format!("ch-image list shows the images; ./{shown} means the directory")));
    }
    std::path::absolute(path).context(|| format!("can't open image {shown}")).map(Some)
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
    let Ok(Some(storage)) = Storage::open_existing(&path, Access::Read) else { return false };
    !matches!(storage.image(&reference), Ok(None))
}

fn storage_path(request: &Request) -> Result<PathBuf> {
    let path = match &request.storage {
        Some(path) => path.clone(),
        None => {
            let variable = env::var_os("CH_IMAGE_STORAGE");
            storage::default_path(variable.as_deref(), env::var_os("USER").as_deref())?
        }
    };
    std::path::absolute(&path).context(|| format!("can't use storage directory {}", path.display()))
}

/// The image that the request names, and its storage.
fn find(request: &Request, access: Access) -> Result<(Storage, Image)> {
    let name = request.image.to_string_lossy();
    let reference = ImageRef::parse(&name)?;
    let path = storage_path(request)?;
    let missing = || {
        Error::new(format!("image not found: {}", log::escape(&name)))
            .hint(format!("neither a directory nor an image in {}; ch-image list shows what there is", path.display()))
    };
    let storage = Storage::open_existing(&path, access)?.ok_or_else(missing)?;
    let image = storage.image(&reference)?.ok_or_else(missing)?;
    Ok((storage, image))
}

fn root(image: &Image, root: PathBuf, overlay: Option<Overlay>) -> Root {
    Root { root, overlay, env: Some(image.config.env()), cwd: Some(image.config.working_dir().into()) }
}

/// Mounts a named image, read-only.
fn mount(request: &Request) -> Result<Root> {
    let (storage, image) = find(request, Access::Read)?;
    let trees = layers::trees(&storage, &image.layers);
    if let (Mode::Plain, [tree]) = (storage.mode(), &trees[..]) {
        return Ok(root(&image, tree.clone(), None));
    }
    // Any directory serves as the mount point: the mount is seen by nobody else. That of the images changes least.
    let at = storage.path().join("images");
    let overlay = Overlay::mount(&trees, None, &at)?;
    Ok(root(&image, at, Some(overlay)))
}

fn write_and_keep(request: &Request, host: Vec<(OsString, OsString)>) -> Result<ExitCode> {
    let (storage, mut image) = find(request, Access::Write)?;
    let _lock = storage.lock_image(&image.reference)?;
    // The caller's mask is for the command, not for what we make.
    let mask = process::umask(0o022);
    let draft = storage.draft()?;
    for name in ["tree", "work", "mount"] {
        fs::create_dir(draft.path().join(name))
            .context(|| format!("can't make {name} in {}", draft.path().display()))?;
    }
    let plain = storage.mode() == Mode::Plain;
    if plain {
        image.layers.iter().try_for_each(|id| storage.forget_content(id))?;
    }
    // What the terminal sends goes to the command, too; we outlive it.
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        sys::signal::set_ignored(signal).context(|| "can't ignore signals")?;
    }
    let too_many = |e: Error| e.hint("too many processes: see ulimit -u");
    let ended = match process::fork(0).context(|| "can't fork").map_err(too_many)? {
        Fork::Child => {
            for signal in [libc::SIGINT, libc::SIGQUIT] {
                // They were the default a moment ago.
                let _ = sys::signal::set_default(signal);
            }
            process::umask(mask);
            let trees = layers::trees(&storage, &image.layers);
            let resolve = |_: &Request| {
                if plain {
                    let tree = trees.first().cloned().ok_or_else(|| Error::new("damaged image: no tree"))?;
                    return Ok(root(&image, tree, None));
                }
                let at = |name: &str| draft.path().join(name);
                let overlay = Overlay::mount(&trees, Some((&at("tree"), &at("work"))), &at("mount"))?;
                Ok(root(&image, at("mount"), Some(overlay)))
            };
            match become_command(request, host, &resolve) {
                Ok(never) => match never {},
                Err(e) => {
                    log::error(&e);
                    process::exit(i32::from(e.exit_code()))
                }
            }
        }
        Fork::Parent(pid) => process::wait(pid).context(|| "can't wait for the command")?,
    };
    if !plain {
        keep(&storage, &mut image, draft)?;
    }
    Ok(match ended {
        Ended::Exited(code) => ExitCode::from(code),
        Ended::Signaled(n) => ExitCode::from(u8::try_from(128 + n).unwrap_or(1)),
    })
}

/// What the command wrote becomes the image's top layer, if it wrote anything.
fn keep(storage: &Storage, image: &mut Image, draft: Draft) -> Result<()> {
    let tree = draft.path().join("tree");
    let written = fs::read_dir(&tree).context(|| format!("can't read {}", tree.display()))?.next().is_some();
    if !written {
        return Ok(());
    }
    for name in ["work", "mount"] {
        rootfs::remove_tree(&draft.path().join(name))?;
    }
    let parent = image.layers.last().copied();
    let name = format!("ch-run {} {}", draft.path().display(), storage.boot());
    let id = LayerId::new(Digest::of(format!("{name} {:?}", std::time::SystemTime::now()).as_bytes()));
    let info = LayerInfo {
        parent,
        kind: LayerKind::Base,
        size: storage::seal(&tree)?,
        content: None,
        created_by: "ch-run -w".into(),
        inputs: Vec::new(),
        ledger: serde_json::Value::Null,
    };
    storage.commit_layer(draft, &id, &info)?;
    image.layers.push(id);
    storage.commit_image(image, Vec::new())
}
