//! The storage directory and its file system.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::cmd::{list, probe};
use crate::container;
use crate::error::io_text;
use crate::storage::{Access, Mode, Storage};
use crate::sys::file;
use crate::sys::fs::{self as sysfs, Lock, Wait};

/// File systems by their number in statfs(2).
const KINDS: &[(i64, &str)] = &[
    (0xef53, "ext4"),
    (0x5846_5342, "XFS"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x6969, "NFS"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0xff53_4d42, "CIFS"),
    (0x794c_7630, "overlayfs"),
    (0x6573_5546, "FUSE"),
    (0x4d44, "vfat"),
    (0x2fc1_2fc1, "ZFS"),
];
const NETWORK: &[&str] = &["NFS", "Lustre", "GPFS", "BeeGFS", "CIFS"];
const ELSEWHERE: &str = "use a local disk (--storage or $CH_IMAGE_STORAGE)";
/// Less than this is little, bytes and inodes.
const LITTLE: (u64, u64) = (1 << 30, 50_000);

pub fn findings(storage: &Path) -> Vec<Finding> {
    let place = nearest(storage);
    let mut findings = vec![directory(storage), space(&place)];
    match Trial::new(&place) {
        Ok(trial) => findings.extend([overlay(storage, &trial), attributes(&trial), locks(&trial)]),
        Err(e) => {
            let then = format!("images can be listed and pushed, no more; {ELSEWHERE}");
            findings.push(Finding::bad("writing", format!("not possible in {}: {e}", place.display()), then));
        }
    }
    findings
}

/// The directory that exists: storage itself or the nearest one above it.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// A directory to try things in; it goes away.
struct Trial(PathBuf);

impl Trial {
    fn new(place: &Path) -> Result<Trial, String> {
        let path = place.join(format!(".ch-image-doctor-{}", std::process::id()));
        fs::create_dir(&path).map_err(|e| io_text(&e))?;
        Ok(Trial(path))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // What is left in it after a failed trial is told by the finding.
        let _ = crate::rootfs::remove_tree(&self.0);
    }
}

fn directory(storage: &Path) -> Finding {
    let about = "storage directory";
    let shown = storage.display();
    match Storage::open_existing(storage, Access::Read) {
        _ if exposed(storage).is_some() => {
            let parent = exposed(storage).unwrap_or_default();
            Finding::limited(
                about,
                format!("{shown}: everybody may write to {}", parent.display()),
                "others can put a directory of theirs in its place: chmod o-w, or use another (--storage)",
            )
        }
        Ok(None) => Finding::good(about, format!("{shown} does not exist yet; it is made when needed")),
        Ok(Some(found)) => {
            let images = found.images().map_or(0, |images| images.len());
            let mode = match found.mode() {
                Mode::Overlay => "overlay",
                Mode::Plain => "plain",
            };
            Finding::good(about, format!("{shown} has {images} images, {mode} mode"))
        }
        Err(e) => Finding::bad(about, e.to_string(), e.get_hint().unwrap_or(ELSEWHERE)),
    }
}

/// A directory above it in which everybody can rename what is ours.
fn exposed(storage: &Path) -> Option<PathBuf> {
    let open = |dir: &&Path| fs::metadata(dir).is_ok_and(|m| m.is_dir() && m.permissions().mode() & 0o1002 == 0o002);
    storage.ancestors().skip(1).find(open).map(Path::to_owned)
}

fn space(place: &Path) -> Finding {
    let about = "file system";
    let dir = File::open(place);
    let looked = dir.and_then(|dir| Ok((sysfs::space(&dir)?, sysfs::mounted(&dir)?)));
    let (space, mounted) = match looked {
        Ok(looked) => looked,
        Err(e) => return Finding::bad(about, format!("{}: {}", place.display(), io_text(&e)), ELSEWHERE),
    };
    let kind = KINDS.iter().find(|(magic, _)| *magic == space.magic).map_or("another kind", |(_, name)| name);
    let inodes = if space.inodes == 0 { "uncounted".to_owned() } else { space.free_inodes.to_string() };
    let what = format!("{} is on {kind}, {} free, {inodes} inodes free", place.display(), list::bytes(space.free));
    if mounted.read_only {
        return Finding::limited(about, format!("{what}, read-only"), "images can be listed and pushed, no more");
    }
    if NETWORK.contains(&kind) {
        let then = format!("many small files are slow there, and overlayfs is not possible: {ELSEWHERE}");
        return Finding::limited(about, what, then);
    }
    if space.free < LITTLE.0 || space.inodes > 0 && space.free_inodes < LITTLE.1 {
        let then = format!("large images don't fit: make room (ch-image gc), or {ELSEWHERE}");
        return Finding::limited(about, what, then).ask("more space, or a higher quota");
    }
    match mounted.no_exec {
        true => Finding::limited(
            about,
            format!("{what}, mounted noexec"),
            format!("RUN and ch-run work only where overlayfs does: {ELSEWHERE}"),
        ),
        false => Finding::good(about, what),
    }
}

fn overlay(storage: &Path, trial: &Trial) -> Finding {
    let about = "overlayfs";
    let recorded = Storage::open_existing(storage, Access::Read).ok().flatten().map(|found| found.mode());
    let then = "plain storage: steps are cached as differences, FROM and ch-run copy whole trees: slower, and larger";
    match probe::overlay(&trial.0) {
        Ok(None) if recorded == Some(Mode::Plain) => Finding::limited(
            about,
            "works, but the storage directory was made when it did not",
            "another one, made now, would use it (--storage or $CH_IMAGE_STORAGE)",
        ),
        Ok(None) => Finding::good(about, "works: layers are shared, steps are cached"),
        Ok(Some(why)) if recorded == Some(Mode::Overlay) => Finding::bad(
            about,
            format!("no longer works: {why}"),
            format!("images of this storage directory can't be used here: {ELSEWHERE}"),
        ),
        // That is a finding of its own.
        Ok(Some(why)) if container::can_enter().is_err() => {
            Finding::limited(about, format!("not possible: {why}"), then)
        }
        Ok(Some(why)) => Finding::limited(about, format!("not possible: {why}"), format!("{then}: {ELSEWHERE}"))
            .ask("Linux 5.11 or later, and a local file system with user attributes"),
        Err(e) => Finding::limited(about, e.to_string(), then),
    }
}

fn attributes(trial: &Trial) -> Finding {
    let about = "file attributes";
    let tried = File::open(&trial.0).and_then(|dir| file::fsetxattr(dir.as_fd(), b"user.ch-image", b"y"));
    match tried {
        Ok(()) => Finding::good(about, "user.* attributes are kept"),
        Err(e) => Finding::limited(
            about,
            format!("no user.* attributes: {}", io_text(&e)),
            format!("overlayfs can't be used, and attributes of images are lost: {ELSEWHERE}"),
        )
        .ask("the mount option user_xattr; on tmpfs, Linux 6.6 or later"),
    }
}

fn locks(trial: &Trial) -> Finding {
    let about = "locks";
    match File::open(&trial.0).and_then(|dir| sysfs::flock(&dir, Lock::Exclusive, Wait::No)) {
        Ok(_) => Finding::good(about, "flock works: many processes can share the storage directory"),
        Err(e) => {
            let what = format!("no flock: {}", io_text(&e));
            let then = format!("one process at a time uses the storage directory, others wait: {ELSEWHERE}");
            Finding::limited(about, what, then).ask("the mount option flock (Lustre), or local_lock=flock (NFS)")
        }
    }
}
