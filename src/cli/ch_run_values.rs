//! Values of ch-run's options that are words of their own.

use std::ffi::{OsStr, OsString};

use crate::container::request::Upper;
use crate::error::{Error, Result};

/// What scripts ask for (`--feature`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Patterns such as `+(a|b)` in `--unset-env`.
    Extglob,
    /// `--seccomp`.
    Seccomp,
    /// Packed images.
    Squash,
    /// `--write-fake`, `--overlay`.
    Overlayfs,
    /// Attributes of users on a tmpfs, without which `--write-fake` can't rename or remake directories of an image.
    TmpfsXattrs,
}

pub(super) fn feature(word: &OsStr) -> Result<Feature> {
    match word.to_str() {
        Some("extglob") => Ok(Feature::Extglob),
        Some("overlayfs") => Ok(Feature::Overlayfs),
        Some("seccomp") => Ok(Feature::Seccomp),
        Some("squash") => Ok(Feature::Squash),
        Some("tmpfs-xattrs") => Ok(Feature::TmpfsXattrs),
        Some(_) | None => {
            Err(wrong(&format!("--feature: unknown feature: {}", crate::log::escape(&word.to_string_lossy()))))
        }
    }
}

/// A number of bytes, or of KiB, MiB, GiB, or percent of the memory.
pub(super) fn memory(size: Option<OsString>) -> Result<Upper> {
    let text = size.as_ref().map_or("12%".into(), |size| size.to_string_lossy());
    let digits = text.strip_suffix(['k', 'm', 'g', 'K', 'M', 'G', '%']).unwrap_or(&text);
    let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten();
    match number {
        Some(1..=0xff_ffff_ffff) => Ok(Upper::Memory(text.into_owned())),
        Some(_) | None => Err(wrong(&format!("--write-fake: not a size: {}", crate::log::escape(&text)))),
    }
}

fn wrong(text: &str) -> Error {
    Error::usage(text).hint("see: ch-run --help")
}
