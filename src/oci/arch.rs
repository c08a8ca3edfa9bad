//! Architectures: what `uname -m` says, what registries say, and one string for both (manual page, `--arch`).

use std::fmt;

use super::json;
use crate::error::{Result, bail};

/// `amd64`, `arm/v7`, `arm64/v8`: architecture and, after a slash, variant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Arch(String);

impl Arch {
    /// As named on the command line or in an index; no translation.
    pub fn new(name: impl Into<String>) -> Arch {
        Arch(name.into())
    }

    pub fn from_parts(architecture: &str, variant: Option<&str>) -> Arch {
        match variant {
            Some(v) if !v.is_empty() => Arch(format!("{architecture}/{v}")),
            _ => Arch(architecture.to_owned()),
        }
    }

    /// From a document: what no architecture is called (control characters, slashes, novels) is refused.
    pub fn checked(architecture: &str, variant: Option<&str>) -> Result<Arch> {
        let plain = |s: &str| s.len() <= 64 && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if architecture.is_empty() || !plain(architecture) {
            bail!("invalid architecture: {}", json::shown(architecture));
        }
        if let Some(variant) = variant.filter(|v| !plain(v)) {
            bail!("invalid variant of architecture {architecture}: {}", json::shown(variant));
        }
        Ok(Arch::from_parts(architecture, variant))
    }

    /// The registry's name for what `uname -m` prints; `None` if we know of none.
    pub fn from_uname(machine: &str) -> Option<Arch> {
        let name = match machine {
            "x86_64" => "amd64",
            "aarch64" | "armv8l" => "arm64/v8",
            "armv5l" => "arm/v5",
            "armv6l" => "arm/v6",
            "armv7l" | "aarch32" => "arm/v7",
            "i386" | "i486" | "i586" | "i686" => "386",
            "mips64le" => "mips64le",
            "ppc64le" => "ppc64le",
            "s390x" => "s390x",
            "riscv64" => "riscv64",
            "loongarch64" => "loong64",
            _ => return None,
        };
        Some(Arch(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the variant: what an image configuration calls `architecture`.
    pub fn family(&self) -> &str {
        self.0.split('/').next().unwrap_or("")
    }

    pub fn variant(&self) -> Option<&str> {
        self.0.split_once('/').map(|(_, variant)| variant)
    }

    /// Whether `other` is this architecture, where an absent variant matches any
    /// (images for `arm64` are indexed both with and without `v8`).
    pub fn accepts(&self, other: &Arch) -> bool {
        self.family() == other.family()
            && match (self.variant(), other.variant()) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which architecture of an image to take (manual page, `--arch`).
#[derive(Clone, PartialEq, Debug)]
pub enum Wanted {
    /// What the registry gives.
    Yolo,
    Arch(Arch),
}

impl Wanted {
    pub fn name(&self) -> &str {
        match self {
            Wanted::Yolo => "yolo",
            Wanted::Arch(arch) => arch.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_match_when_absent() {
        let check = |a: &str, b: &str, want: bool| assert_eq!(Arch::new(a).accepts(&Arch::new(b)), want, "{a} {b}");
        check("amd64", "amd64", true);
        check("arm64/v8", "arm64", true);
        check("arm64", "arm64/v8", true);
        check("arm/v7", "arm/v6", false);
        check("amd64", "386", false);
    }
}
