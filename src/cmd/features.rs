//! `ch-run --feature`: what is there? Asked by scripts, who get the exit code alone.

use std::fs::File;
use std::os::fd::AsFd;

use crate::cli::ch_run_args::Feature;
use crate::container;
use crate::sys::file::{self, CWD, O_RDWR, O_TMPFILE};
use crate::sys::host::uname;

/// Exit code for one that is not.
pub const ABSENT: u8 = 87;

pub fn has(feature: Feature) -> bool {
    match feature {
        // Patterns are those of fnmatch(3), without extensions.
        Feature::Extglob => false,
        // Of builds alone.
        Feature::Seccomp => false,
        // Where they can't be mounted, they are unpacked.
        Feature::Squash => true,
        Feature::Overlayfs => {
            container::can_enter().is_ok() && uname().is_ok_and(|uname| is_since(&uname.release, 5, 11))
        }
        Feature::TmpfsXattrs => {
            let made = file::openat(CWD, b"/dev/shm", O_RDWR | O_TMPFILE, 0o600).map(File::from);
            made.is_ok_and(|file| file::fsetxattr(file.as_fd(), b"user.ch-image", b"1").is_ok())
        }
    }
}

/// Whether a kernel's release (`6.1.0-13-amd64`) is that version or a later one.
fn is_since(release: &str, major: u32, minor: u32) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        let check = |release: &str, want: bool| assert_eq!(is_since(release, 5, 11), want, "{release}");
        check("5.11.0", true);
        check("6.1.0-13-amd64", true);
        check("5.10.0-26-amd64", false);
        check("4.18.0-513.el8.x86_64", false);
        check("5", false);
        check("", false);
    }
}
