//! A packed image, unpacked for as long as it is in use: `ch-run FILE` where it can't be mounted.
//!
//! The tree lies in `$TMPDIR`, or /tmp, in a directory of this user's that is named by what identifies the file: its
//! beginning, and where it is, its size and its times, which nobody can give to another file. All processes that use it
//! share a lock, which what they start inherits. Whoever gets the lock alone removes the tree; that is what a process of
//! ours waits for that each of them leaves behind. What is left by one that was killed the next one finds and removes.

use std::env;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::import::Packed;
use super::progress::Progress;
use crate::error::{Context, Error, Result, bail};
use crate::log::{self, info};
use crate::oci::digest::Digest;
use crate::rootfs::{remove_tree, tell_nobody};
use crate::squashfs::Source;
use crate::sys::detach;
use crate::sys::fs::{Lock, Wait, euid, flock, keep_on_exec, unlock};
use crate::sys::process::{self, Ended, Fork};

/// In the directory: the tree, and what says that all of it is there.
const TREE: &str = "tree";
const COMPLETE: &str = "complete";
/// Locked by who makes the tree.
const MAKING: &str = "making";
const WHERE: &str = "$TMPDIR says where it is unpacked";
/// How often it is removed or made by others before that is strange.
const TRIES: usize = 1000;

/// Where such directories are.
pub fn place() -> PathBuf {
    env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
}

/// The tree of this image. It stays until this process, and all that it becomes or starts, have ended.
pub fn tree(packed: &Packed, meta: &Metadata, name: &str, reason: &str) -> Result<PathBuf> {
    let failed = || format!("can't unpack {name}");
    let place = std::path::absolute(place()).context(failed)?;
    let prefix = format!("ch-run.{}.", euid());
    let dir = place.join(format!("{prefix}{}", &identity(packed, meta).context(failed)?.hex()[..32]));
    sweep(&place, &prefix, &dir);
    for _ in 0..TRIES {
        let lock = open(&dir).context(failed).map_err(|e| e.hint(WHERE))?;
        flock(&lock, Lock::Shared, Wait::Yes).context(failed)?;
        if !is_still(&lock, &dir) {
            // The last one who used it has removed it just now.
            continue;
        }
        if let Err(e) = complete(packed, &dir, &format!("unpacking {name} into {} ({reason})", dir.display())) {
            if matches!(flock(&lock, Lock::Exclusive, Wait::No), Ok(true)) {
                let _ = remove_tree(&dir);
            }
            return Err(e.context(failed()).hint(WHERE));
        }
        keep_on_exec(&lock).context(failed)?;
        leave_remover(&dir).context(failed)?;
        return Ok(dir.join(TREE));
    }
    Err(Error::new(format!("{} is removed again and again", dir.display())).context(failed()))
}

/// Unpacks the image, unless that is done; one process does it, the others wait.
fn complete(packed: &Packed, dir: &Path, line: &str) -> Result<()> {
    let path = dir.join(MAKING);
    let failed = || path.display().to_string();
    let turn = File::options().write(true).create(true).truncate(false).open(&path).context(failed)?;
    flock(&turn, Lock::Exclusive, Wait::Yes).context(failed)?;
    if dir.join(COMPLETE).exists() {
        return Ok(());
    }
    info!("{line}");
    unpack_apart(packed, &dir.join(TREE))?;
    File::create_new(dir.join(COMPLETE)).map(drop).context(|| dir.join(COMPLETE).display().to_string())
}

fn identity(packed: &Packed, meta: &Metadata) -> Result<Digest> {
    let mut head = [0; 96];
    packed.read_at(0, &mut head)?;
    let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    let text = format!("{} {} {} {times:?} {head:?}", meta.dev(), meta.ino(), meta.size());
    Ok(Digest::of(text.as_bytes()))
}

/// Makes the directory if it is not there. /tmp is everybody's: one that others have made, or can look into, is refused.
fn open(dir: &Path) -> Result<File> {
    let context = || dir.display().to_string();
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e).context(context),
        Ok(()) | Err(_) => {}
    }
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(dir);
    let opened = opened.context(context)?;
    let meta = opened.metadata().context(context)?;
    if meta.uid() != euid() || meta.mode() & 0o077 != 0 {
        bail!("{} belongs to somebody else, or others may use it", dir.display());
    }
    Ok(opened)
}

/// Whether the directory still has its name.
fn is_still(lock: &File, dir: &Path) -> bool {
    let inode = |meta: Metadata| (meta.dev(), meta.ino());
    let there = dir.symlink_metadata().map(inode).ok();
    there.is_some() && lock.metadata().map(inode).ok() == there
}

/// In a process of its own, which has threads; this one will enter a user namespace.
fn unpack_apart(packed: &Packed, tree: &Path) -> Result<()> {
    if tree.exists() {
        remove_tree(tree)?;
    }
    fs::create_dir(tree).context(|| tree.display().to_string())?;
    match process::fork_whole().context(|| "can't fork")? {
        Fork::Child => {
            let done = process::die_with_parent().context(|| "can't set a signal").and_then(|()| {
                process::umask(0o022);
                let progress = Progress::new("unpacking", Some(packed.size()));
                let mut part = progress.part("image", Some(packed.size()));
                packed.try_clone()?.unpack(tree, &mut tell_nobody, &mut part).map(drop)
            });
            process::exit(done.err().map_or(0, |e| {
                log::error(&e);
                i32::from(e.exit_code())
            }))
        }
        Fork::Parent(pid) => match process::wait(pid).context(|| "can't wait for a child")? {
            Ended::Exited(0) => Ok(()),
            Ended::Exited(_) => Err(Error::new("see the error above")),
            Ended::Signaled(n) => Err(Error::new(format!("killed by signal {n}"))),
        },
    }
}

/// Removes what nobody uses.
fn sweep(place: &Path, prefix: &str, but: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let dir = entry.path();
        let is_ours = entry.file_name().to_string_lossy().starts_with(prefix);
        if is_ours && dir != but && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let Ok(lock) = open(&dir) else { continue };
            if matches!(flock(&lock, Lock::Exclusive, Wait::No), Ok(true)) && !is_root_of_any(&dir) {
                let _ = remove_tree(&dir);
            }
        }
    }
}

/// Starts a process that removes the directory when nobody uses it any more.
fn leave_remover(dir: &Path) -> Result<()> {
    // Opened anew: the lock belongs to what was opened, not to the process.
    let own = open(dir)?;
    let dir = dir.to_owned();
    detach::start(&[own.as_raw_fd()], move || {
        loop {
            if !matches!(flock(&own, Lock::Exclusive, Wait::Yes), Ok(true)) || !is_still(&own, &dir) {
                return 0;
            }
            if !is_root_of_any(&dir) {
                return i32::from(remove_tree(&dir).is_err());
            }
            // A daemon that has closed all of its descriptors.
            let _ = unlock(&own);
            thread::sleep(Duration::from_secs(1));
        }
    })
    .context(|| "can't start a process")
}

/// Whether the tree is the root directory of a process.
fn is_root_of_any(dir: &Path) -> bool {
    let Ok(tree) = dir.join(TREE).metadata() else { return false };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut roots = entries.filter_map(|entry| entry.path().join("root").metadata().ok());
    roots.any(|root| (root.dev(), root.ino()) == (tree.dev(), tree.ino()))
}
