//! Which mode does a storage directory's file system allow? Tried, not guessed.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::container::{self, Overlay};
use crate::error::{Context, Error, Result, bail};
use crate::log::verbose;
use crate::rootfs;
use crate::storage::Mode;
use crate::sys::process::{self, Ended, Fork};

/// Mode for a storage directory at `path` (which exists and is ours). `CH_IMAGE_TEST_MODE=plain` is for tests.
///
/// It is for good; so where nothing can be tried (too many processes, say), that is an error and not plain mode.
pub fn mode(path: &Path) -> Result<Mode> {
    if std::env::var_os("CH_IMAGE_TEST_MODE").is_some_and(|m| m == "plain") {
        return Ok(Mode::Plain);
    }
    Ok(match overlay(path)? {
        None => Mode::Overlay,
        Some(why) => {
            verbose!("no overlayfs for us: {why}");
            Mode::Plain
        }
    })
}

/// Why overlayfs can't be had in this directory; `None` if it can. Tried in a child, since entering a user namespace
/// cannot be undone.
pub fn overlay(path: &Path) -> Result<Option<String>> {
    let place = path.join("probe");
    let tried = prepare(&place).and_then(|()| in_child(&place));
    let removed = rootfs::remove_tree(&place);
    let tried = tried?;
    removed.map(|()| tried)
}

/// What any file system allows; if it fails, a disk or a quota is full.
fn prepare(place: &Path) -> Result<()> {
    let make = |name: &str| {
        let dir = place.join(name);
        fs::create_dir(&dir).context(|| format!("can't make {}", dir.display()))
    };
    ["", "lower", "lower/dir", "lower/dir/sub", "upper", "work", "mount"].into_iter().try_for_each(make)?;
    let file = place.join("lower/file");
    fs::write(&file, "x").context(|| format!("can't write {}", file.display()))?;
    // As many as the attempt makes, and more: what it is refused then is not for want of room.
    let spare = |n: u32| format!("spare{n}");
    (0..16).try_for_each(|n| make(&spare(n)))?;
    (0..16).try_for_each(|n| rootfs::remove_tree(&place.join(spare(n))))
}

fn in_child(place: &Path) -> Result<Option<String>> {
    let (reader, mut writer) = io::pipe().context(|| "can't make a pipe")?;
    let too_many = |e: Error| e.hint("too many processes: see ulimit -u");
    let ended = match process::fork(0).context(|| "can't fork").map_err(too_many)? {
        // No threads exist yet, so the child may allocate.
        Fork::Child => process::exit(match try_overlay(place) {
            Ok(()) => 0,
            Err(e) => {
                // If it is lost, the exit code still tells.
                let _ = write!(writer, "{e}");
                1
            }
        }),
        Fork::Parent(pid) => {
            drop(writer);
            process::wait(pid).context(|| "can't wait for a child")?
        }
    };
    let mut why = String::new();
    reader.take(4096).read_to_string(&mut why).context(|| "can't read from a child")?;
    match ended {
        Ended::Exited(0) => Ok(None),
        Ended::Exited(_) => Ok(Some(why)),
        // How some sandboxes refuse system calls.
        Ended::Signaled(libc::SIGSYS) => Ok(Some("a system call is forbidden here (SIGSYS)".to_owned())),
        Ended::Signaled(signal) => bail!("can't try overlayfs: signal {signal} ended the attempt"),
    }
}

/// The real operations: remove a directory of a lower layer and make it again (a whiteout, then an opaque directory, which
/// needs `user.*` attributes: tmpfs has them only from Linux 6.6 on), rename, unmount.
fn try_overlay(place: &Path) -> Result<()> {
    container::enter()?;
    let at = |name: &str| place.join(name);
    let overlay = Overlay::mount(&[at("lower")], Some((&at("upper"), &at("work"))), &at("mount"))?;
    fs::remove_dir_all(at("mount/dir")).context(|| "can't remove a directory of a lower layer")?;
    fs::create_dir(at("mount/dir")).context(|| "can't make a removed directory again")?;
    fs::rename(at("mount/file"), at("mount/dir/file")).context(|| "can't rename")?;
    let seen = fs::read_dir(at("mount/dir")).context(|| "can't read a directory")?.count();
    if seen != 1 {
        bail!("a directory made again shows what was removed");
    }
    overlay.unmount()
}
