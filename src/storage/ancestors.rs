//! Can anybody else exchange what a path leads to? Whoever may rename a directory on the way can put another in its
//! place, and what we then remove or write by name is not ours. So every directory from the root down has to belong to
//! us or to root, and to be writable by nobody else, unless the sticky bit keeps them from renaming what is ours.
//!
//! In a user namespace that knows only some users, all others look like one: whose a directory is can't be told then.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::error::{Context, Error, Result};
use crate::sys::{fs as sysfs, user};

pub(super) const WAY_OUT: &str = "use another directory with --storage or CH_IMAGE_STORAGE";

/// Whose something is. In a user namespace of ours nobody else has a number: they are all the overflow user.
pub(super) fn owner(uid: u32) -> String {
    match uid {
        uid if uid == sysfs::euid() => "yours".to_owned(),
        65534 => "another user's".to_owned(),
        uid => format!("owner: user {uid}"),
    }
}

/// Why a directory can't be trusted to keep a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Risk {
    /// Its owner is somebody else.
    Owner,
    /// Others may write in it.
    Mode,
}

/// `unknown`: the number that stands for all users whom this user namespace does not know.
fn risk(uid: u32, mode: u32, me: u32, unknown: Option<u32>) -> Option<Risk> {
    if uid != me && uid != 0 && Some(uid) != unknown {
        return Some(Risk::Owner);
    }
    (mode & 0o022 != 0 && mode & 0o1000 == 0).then_some(Risk::Mode)
}

/// An error if others can exchange one of these directories: `real`, which has no links in it, and those above it.
pub(super) fn check(storage: &Path, real: &Path) -> Result<()> {
    let (me, unknown) = (sysfs::euid(), user::unknown());
    for dir in real.ancestors() {
        let meta = dir.symlink_metadata().context(|| format!("can't use storage directory {}", storage.display()));
        let meta = meta.map_err(|e| e.hint(WAY_OUT))?;
        let mode = meta.permissions().mode() & 0o7777;
        let Some(risk) = risk(meta.uid(), mode, me, unknown) else { continue };
        let (shown, whose) = (dir.display(), owner(meta.uid()));
        let who = match risk {
            Risk::Owner => format!("{shown} belongs to someone else"),
            Risk::Mode => format!("{shown} is writable by others"),
        };
        let hint = match risk {
            Risk::Owner => WAY_OUT.to_owned(),
            Risk::Mode if meta.uid() == me => format!("chmod +t {shown} keeps it shared and safe; or {WAY_OUT}"),
            Risk::Mode => format!("ask its owner for: chmod +t {shown}; or {WAY_OUT}"),
        };
        return Err(Error::new(format!(
            "others could exchange the storage directory {}: {who} ({whose}, mode {mode:04o})",
            storage.display()
        ))
        .hint(hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_could_exchange_a_directory() {
        let check = |uid: u32, mode: u32, want: Option<Risk>| {
            assert_eq!(risk(uid, mode, 1000, Some(65534)), want, "user {uid}, mode {mode:04o}");
        };
        check(0, 0o755, None);
        check(1000, 0o700, None);
        check(0, 0o1777, None);
        check(1000, 0o3775, None);
        check(65534, 0o755, None);
        check(1000, 0o775, Some(Risk::Mode));
        check(1000, 0o702, Some(Risk::Mode));
        check(0, 0o2775, Some(Risk::Mode));
        check(65534, 0o777, Some(Risk::Mode));
        check(1001, 0o755, Some(Risk::Owner));
        check(1001, 0o1777, Some(Risk::Owner));
        assert_eq!(risk(65534, 0o755, 1000, None), Some(Risk::Owner));
    }
}
