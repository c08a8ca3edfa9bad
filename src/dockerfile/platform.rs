//! For which platform? `linux/arm64/v8`, `linux`, `arm64` (A.11 FROM --platform; containerd's platform strings).

use std::fmt;

use crate::error::{Error, Result, bail};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    /// As in `windows(10.0.17763)`; usually empty.
    pub os_version: String,
    pub arch: String,
    /// Empty if there is none.
    pub variant: String,
}

const SYSTEMS: [&str; 14] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "solaris",
    "windows",
];
const ARCHITECTURES: [&str; 18] = [
    "386", "amd64", "amd64p32", "arm", "arm64", "armbe", "arm64be", "loong64", "mips", "mips64", "mips64le", "mipsle",
    "ppc64", "ppc64le", "riscv64", "s390x", "sparc64", "wasm",
];

impl Platform {
    /// What is left out is taken from `default`.
    pub fn parse(text: &str, default: &Platform) -> Result<Platform> {
        let parts: Vec<&str> = text.split('/').collect();
        let valid = |part: &&str| {
            let inner = part.split_once('(').map_or(Some(*part), |(os, rest)| rest.strip_suffix(')').map(|_| os));
            let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
            inner.is_some_and(|inner| !inner.is_empty() && inner.chars().all(ok))
        };
        if parts.len() > 3 || !parts.iter().all(valid) || parts[1..].iter().any(|p| p.contains('(')) {
            return Err(Error::new(format!("invalid platform: {text:?}"))
                .hint("write OS/ARCH or OS/ARCH/VARIANT, e.g. linux/arm64"));
        }
        let (os, os_version) = parts[0].split_once('(').map_or((parts[0], ""), |(os, v)| (os, v.trim_end_matches(')')));
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let os_version = os_version.to_owned();
        if let [_, arch, variant @ ..] = parts.as_slice() {
            let (arch, variant) = normal(arch, variant.first().copied().unwrap_or_default());
            return Ok(Platform { os, os_version, arch, variant });
        }
        let (arch, variant) = normal(&os, "");
        if SYSTEMS.contains(&os.as_str()) {
            Ok(Platform { os, os_version, ..default.clone() })
        } else if ARCHITECTURES.contains(&arch.as_str()) {
            Ok(Platform { arch, variant, ..default.clone() })
        } else {
            bail!("unknown operating system or architecture: {text:?}");
        }
    }

    pub fn linux(arch: &str, variant: &str) -> Platform {
        let (arch, variant) = normal(arch, variant);
        Platform { os: "linux".to_owned(), os_version: String::new(), arch, variant }
    }
}

/// Architecture and variant as registries know them.
fn normal(arch: &str, variant: &str) -> (String, String) {
    let (arch, variant) = (arch.to_ascii_lowercase(), variant.to_ascii_lowercase());
    let (arch, variant) = match (arch.as_str(), variant.as_str()) {
        ("i386" | "i486" | "i586" | "i686", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", if variant == "v1" { "" } else { variant }),
        ("aarch64" | "arm64", variant) => ("arm64", if variant == "8" || variant == "v8" { "" } else { variant }),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (arch, variant) => (arch, variant),
    };
    (arch.to_owned(), variant.to_owned())
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.os)?;
        if !self.os_version.is_empty() {
            write!(f, "({})", self.os_version)?;
        }
        write!(f, "/{}", self.arch)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms() {
        let default = Platform::linux("amd64", "");
        let check = |text: &str, want: &str| match Platform::parse(text, &default) {
            Ok(platform) => assert_eq!(platform.to_string(), want, "{text}"),
            Err(_) => assert_eq!("error", want, "{text}"),
        };
        check("linux/amd64", "linux/amd64");
        check("linux", "linux/amd64");
        check("arm64", "linux/arm64");
        check("linux/arm64/v8", "linux/arm64");
        check("linux/arm", "linux/arm/v7");
        check("linux/arm/v6", "linux/arm/v6");
        check("armhf", "linux/arm/v7");
        check("Linux/x86_64", "linux/amd64");
        check("windows(10.0.1)/amd64", "windows(10.0.1)/amd64");
        check("foo/bar", "foo/bar");
        check("foo", "error");
        check("", "error");
        check("linux/", "error");
        check("linux/a/b/c", "error");
        check("linux/a b", "error");
        check("linux/x(1)", "error");
        check("win(1", "error");
    }
}
