//! What surrounds the command: environment, architecture, storage directory.

use std::env;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{gc, probe, secrets};
use crate::cli::{Options, Progress};
use crate::error::{Context, Error, Result};
use crate::log::verbose;
use crate::oci::arch::Arch;
use crate::site::{Setting, Settings};
use crate::storage::{self, Access, KeepBlobs, Storage};
use crate::sys::process::Dumpable;
use crate::{log, sys};

/// What was being written is removed before anybody looks, so a little is free again.
const NEARLY_FULL: u64 = 64 << 20;

/// The surroundings, read once.
pub struct Host {
    arch: Arch,
    storage: Option<PathBuf>,
    keep_blobs: KeepBlobs,
}

impl Host {
    /// Sets up the log, too: `CH_LOG_FILE`, `CH_LOG_FESTOON`, `-v`.
    pub fn new(options: &Options) -> Result<Host> {
        secrets::take_from_environment();
        // What RUN starts is the same user, and where it must see our processes (see `Step::Proc`), it shall not reach
        // our memory, descriptors and root directory. Before any other process exists: those inherit it.
        sys::process::set_dumpable(Dumpable::No).context(|| "can't hide this process from others")?;
        // What is made here has modes of its own; a strange mask (000, 777) would only be in the way.
        sys::process::umask(0o022);
        // Too large a file is then an error like others (EFBIG). What RUN starts gets the default back.
        sys::signal::set_ignored(libc::SIGXFSZ).context(|| "can't ignore a signal")?;
        sys::signal::note_requests().context(|| "can't handle signals")?;
        let mut level = options.verbose;
        log::set_festoon(env::var_os("CH_LOG_FESTOON").is_some());
        if let Some(path) = env::var_os("CH_LOG_FILE").filter(|p| !p.is_empty()) {
            let shown = PathBuf::from(&path);
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path)
                .context(|| format!("can't open log file {} ($CH_LOG_FILE)", shown.display()))?;
            let kind = file.metadata().context(|| format!("can't read log file {}", shown.display()))?.file_type();
            // /dev/null is a way to say nothing.
            if !kind.is_file() && !kind.is_char_device() {
                return Err(Error::new(format!("not a regular file: {} ($CH_LOG_FILE)", shown.display())));
            }
            log::set_file(file);
            level = level.max(1);
        }
        log::set_level(level);
        if options.quiet {
            log::set_quiet();
        }
        if options.progress == Progress::Plain {
            log::set_plain();
        }
        verbose!("verbose level: {level}");
        let machine = sys::host::uname().context(|| "can't determine this machine's architecture")?.machine;
        verbose!("host architecture from uname: {machine}");
        let arch = Arch::from_uname(&machine).unwrap_or_else(|| Arch::new(machine));
        verbose!("host architecture for registry: {arch}");
        let keep_blobs = env::var_os("CH_IMAGE_BLOBS").unwrap_or_default();
        let keep_blobs = gc::parse_keep_blobs(&keep_blobs.to_string_lossy())?;
        Ok(Host { arch, storage: options.storage.clone(), keep_blobs })
    }

    /// This machine's architecture as registries call it.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// How much of the layers as they were downloaded stays (`$CH_IMAGE_BLOBS`).
    pub fn keep_blobs(&self) -> KeepBlobs {
        self.keep_blobs
    }

    /// Where the storage directory is, or would be; absolute.
    pub fn storage_path(&self) -> Result<PathBuf> {
        storage_place(self.storage.as_deref(), Settings::load)
    }

    /// Names the full file system, if that is the storage directory's or the current directory's.
    fn full(&self) -> Option<PathBuf> {
        let places = [self.storage_path().ok(), Some(PathBuf::from("."))];
        places.into_iter().flatten().find_map(|path| {
            let file = path.ancestors().find_map(|place| File::open(place).ok())?;
            let space = sys::fs::space(&file).ok()?;
            let is_full = space.free < NEARLY_FULL || space.inodes > 0 && space.free_inodes == 0;
            sys::fs::mount_point(&file).filter(|_| is_full)
        })
    }

    /// An error of a full disk says which one, as far as that can be told.
    pub fn name_full(&self, e: Error) -> Error {
        match e.lacks_space().then(|| self.full()).flatten() {
            Some(place) => e.note(format!("full: the file system {}", place.display())),
            None => e,
        }
    }

    /// For commands that enter a user namespace before they open the storage directory.
    pub fn check_storage_place(&self) -> Result<()> {
        storage::check_place(&self.storage_path()?)
    }

    /// Opens the storage directory; makes it if it does not exist.
    pub fn storage(&self, access: Access) -> Result<Storage> {
        Storage::open(&self.storage_path()?, access, &probe::mode)
    }

    /// Opens the storage directory if there is one.
    pub fn existing_storage(&self, access: Access) -> Result<Option<Storage>> {
        Storage::open_existing(&self.storage_path()?, access)
    }
}

/// Where the storage directory is: what an option says, else `$CH_IMAGE_STORAGE`, else the settings, else the usual place.
/// Absolute.
pub fn storage_place(said: Option<&Path>, settings: impl FnOnce() -> Result<Settings>) -> Result<PathBuf> {
    let path = match said.map(Path::to_owned).or(storage_variable()) {
        Some(path) => path,
        None => match settings()?.storage().and_then(Setting::value) {
            Some(path) => path.into(),
            None => storage::default_path(None, env::var_os("USER").as_deref())?,
        },
    };
    std::path::absolute(&path).context(|| format!("can't use storage directory {}", path.display()))
}

pub fn storage_variable() -> Option<PathBuf> {
    env::var_os("CH_IMAGE_STORAGE").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Storage directories of others, to look into after one's own: those of `$CH_IMAGE_STORES`, else those of the settings.
pub fn stores(settings: &Settings) -> Vec<PathBuf> {
    let split = |list: OsString| env::split_paths(&list).filter(|path| path.is_absolute()).collect();
    env::var_os("CH_IMAGE_STORES").map_or_else(|| settings.stores().map(PathBuf::from).collect(), split)
}
