//! How does the image's dynamic loader find the host's libraries, and can it load them?
//!
//! What ldconfig would do in the container is done here, since an image may be read-only and have no ldconfig: every library is
//! seen under the name that it has for programs, too (as the same file: a bind, where ldconfig makes a link), and the loader's
//! cache names it. Libraries that need a newer C library than the image has are left out.

use super::elf::{self, Elf};
use super::hook::{Hook, Link};
use super::ld_cache::{self, Entry};
use super::{Edits, Mount};

/// A library or program of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    pub host: String,
    pub elf: Elf,
}

/// The C library of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Libc {
    Glibc {
        defines: Vec<String>,
    },
    Musl,
    /// None that is known.
    None,
}

/// What an image's loader has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLoader {
    pub libc: Libc,
    /// Its /etc/ld.so.cache.
    pub cache: Option<Vec<u8>>,
    /// Libraries that the image brings for use before the host's: names and paths.
    pub compat: Vec<(String, String)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loading {
    pub mounts: Vec<Mount>,
    pub refused: Vec<Refused>,
    /// What /etc/ld.so.cache is to be.
    pub cache: Option<Vec<u8>>,
    /// Directories for `LD_LIBRARY_PATH`, where there is no cache.
    pub library_path: Vec<String>,
}

/// A library that the image's C library can't load.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub name: String,
    pub needs: String,
    /// The newest that there is.
    pub has: String,
}

pub fn plan(edits: &Edits, binaries: &[Binary], image: &ImageLoader) -> Loading {
    let mut loading = Loading::default();
    let elf = |host: &str| binaries.iter().find(|binary| binary.host == host).map(|binary| &binary.elf);
    for mount in &edits.mounts {
        match elf(&mount.host).and_then(|elf| refusal(&mount.host, elf, &image.libc)) {
            Some(refused) if !loading.refused.contains(&refused) => loading.refused.push(refused),
            Some(_) => {}
            None => loading.mounts.push(mount.clone()),
        }
    }
    let folders = folders(edits);
    let mut entries: Vec<Entry> = image.compat.iter().map(|(name, path)| Entry::new(name, path)).collect();
    for mount in loading.mounts.clone() {
        let (directory, file) = split(&mount.path);
        let Some(elf) = elf(&mount.host) else { continue };
        if !folders.iter().any(|folder| folder == directory) {
            continue;
        }
        let name = elf.soname.as_deref().filter(|name| !name.is_empty() && !name.contains('/'));
        // Programs and what has no name of its own.
        let Some(name) = name.or(Some(file).filter(|file| file.contains(".so"))) else { continue };
        add(&mut loading.mounts, &mount, format!("{directory}/{name}"));
        if !entries.iter().any(|entry| entry.name == name) {
            entries.push(Entry::new(name, &mount.path));
        }
        if image.libc == Libc::Musl && !loading.library_path.iter().any(|path| path == directory) {
            loading.library_path.push(directory.to_owned());
        }
    }
    for link in edits.hooks.iter().filter_map(links).flatten() {
        let target = target(link);
        if let Some(mount) = loading.mounts.iter().find(|mount| mount.path == target).cloned() {
            add(&mut loading.mounts, &mount, link.path.clone());
        }
    }
    if matches!(image.libc, Libc::Glibc { .. }) && !entries.is_empty() {
        let mut cache = image.cache.as_deref().and_then(|bytes| ld_cache::parse(bytes).ok()).unwrap_or_default();
        cache.put_first(entries);
        loading.cache = Some(cache.write());
    }
    loading
}

fn refusal(host: &str, elf: &Elf, libc: &Libc) -> Option<Refused> {
    let Libc::Glibc { defines } = libc else { return None };
    let needs = elf::lacking(&elf.needs, defines)?.to_owned();
    let has = elf::newest(defines).unwrap_or("none").to_owned();
    Some(Refused { name: split(host).1.to_owned(), needs, has })
}

fn folders(edits: &Edits) -> Vec<String> {
    let folders = edits.hooks.iter().filter_map(|hook| match hook {
        Hook::UpdateCache { folders } => Some(folders),
        Hook::Links(_) | Hook::CudaCompat { .. } | Hook::Nothing | Hook::Unknown(_) => None,
    });
    folders.flatten().map(|folder| folder.trim_end_matches('/').to_owned()).collect()
}

fn links(hook: &Hook) -> Option<&Vec<Link>> {
    match hook {
        Hook::Links(links) => Some(links),
        Hook::UpdateCache { .. } | Hook::CudaCompat { .. } | Hook::Nothing | Hook::Unknown(_) => None,
    }
}

/// The same file at another path, where nothing of the host is yet.
fn add(mounts: &mut Vec<Mount>, mount: &Mount, path: String) {
    if !mounts.iter().any(|other| other.path == path) {
        mounts.push(Mount { path, ..mount.clone() });
    }
}

/// The path that a link leads to.
fn target(link: &Link) -> String {
    let path = if link.to.starts_with('/') { link.to.clone() } else { format!("{}/{}", split(&link.path).0, link.to) };
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Whether the image brings the libraries of a newer driver than the host has. `names`: of files; `driver`: its version.
pub fn is_newer(names: &[String], driver: &str) -> bool {
    let major = |version: &str| version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let newest = names.iter().filter_map(|name| major(name.strip_prefix("libcuda.so.")?)).max();
    matches!((newest, major(driver)), (Some(of_image), Some(of_host)) if of_image > of_host)
}

/// The version of the host's driver, for whom [`is_newer`]; `None` if nobody asks for newer libraries.
pub fn driver(edits: &Edits) -> Option<String> {
    let told = edits.hooks.iter().find_map(|hook| match hook {
        Hook::CudaCompat { driver } => Some(driver.clone()),
        Hook::UpdateCache { .. } | Hook::Links(_) | Hook::Nothing | Hook::Unknown(_) => None,
    })?;
    if !told.is_empty() {
        return Some(told);
    }
    let mut names = edits.mounts.iter().map(|mount| split(&mount.path).1);
    names.find_map(|name| name.strip_prefix("libcuda.so.")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(host: &str, path: &str) -> Mount {
        Mount { host: host.into(), path: path.into(), read_only: true }
    }

    fn library(host: &str, soname: &str, needs: &str) -> Binary {
        let soname = Some(soname.to_owned()).filter(|name| !name.is_empty());
        Binary { host: host.into(), elf: Elf { soname, needs: vec![needs.into()], defines: Vec::new() } }
    }

    fn edits() -> Edits {
        Edits {
            mounts: vec![
                mount("/h/libcuda.so.550", "/l/libcuda.so.550"),
                mount("/h/libnew.so.1", "/l/libnew.so.1"),
                mount("/h/other.so", "/elsewhere/other.so"),
                mount("/h/smi", "/bin/smi"),
            ],
            hooks: vec![
                Hook::UpdateCache { folders: vec!["/l/".into()] },
                Hook::Links(vec![
                    Link { to: "libcuda.so.1".into(), path: "/l/libcuda.so".into() },
                    Link { to: "../../l/./libcuda.so".into(), path: "/x/y/cuda".into() },
                    Link { to: "/l/libnothing".into(), path: "/x/nothing".into() },
                ]),
            ],
            ..Edits::default()
        }
    }

    fn binaries() -> Vec<Binary> {
        vec![
            library("/h/libcuda.so.550", "libcuda.so.1", "GLIBC_2.17"),
            library("/h/libnew.so.1", "libnew.so.1", "GLIBC_2.38"),
            library("/h/other.so", "other.so", "GLIBC_2.2.5"),
            library("/h/smi", "", "GLIBC_2.2.5"),
        ]
    }

    fn image(libc: Libc) -> ImageLoader {
        ImageLoader { libc, cache: None, compat: Vec::new() }
    }

    #[test]
    fn names_links_and_cache() {
        let glibc = Libc::Glibc { defines: vec!["GLIBC_2.36".into()] };
        let loading = plan(&edits(), &binaries(), &image(glibc.clone()));
        let want = [
            mount("/h/libcuda.so.550", "/l/libcuda.so.550"),
            mount("/h/other.so", "/elsewhere/other.so"),
            mount("/h/smi", "/bin/smi"),
            mount("/h/libcuda.so.550", "/l/libcuda.so.1"),
            mount("/h/libcuda.so.550", "/l/libcuda.so"),
            mount("/h/libcuda.so.550", "/x/y/cuda"),
        ];
        assert_eq!(loading.mounts, want);
        let refused = Refused { name: "libnew.so.1".into(), needs: "GLIBC_2.38".into(), has: "GLIBC_2.36".into() };
        assert_eq!(loading.refused, [refused]);
        assert_eq!(loading.library_path, [""; 0]);
        let cache = ld_cache::parse(&loading.cache.unwrap()).unwrap();
        assert_eq!(cache.entries, [Entry::new("libcuda.so.1", "/l/libcuda.so.550")]);
        // What the image brings itself comes first.
        let compat = vec![("libcuda.so.1".to_owned(), "/compat/libcuda.so.1".to_owned())];
        let loading = plan(&edits(), &binaries(), &ImageLoader { compat, ..image(glibc) });
        let cache = ld_cache::parse(&loading.cache.unwrap()).unwrap();
        assert_eq!(cache.find("libcuda.so.1"), Some("/compat/libcuda.so.1"));
    }

    #[test]
    fn without_glibc_there_is_no_cache() {
        let loading = plan(&edits(), &binaries(), &image(Libc::Musl));
        assert_eq!((loading.cache, loading.library_path, loading.refused), (None, vec!["/l".to_owned()], Vec::new()));
        let loading = plan(&edits(), &binaries(), &image(Libc::None));
        assert_eq!((loading.cache, loading.library_path), (None, Vec::new()));
    }

    #[test]
    fn newer_libraries_of_the_image() {
        let check = |names: &[&str], driver: &str, want: bool| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(is_newer(&names, driver), want, "{names:?} {driver}");
        };
        check(&["libcuda.so.1", "libcuda.so.570.10", "libnvidia.so.999"], "550.54.14", true);
        check(&["libcuda.so.550.99"], "550.54.14", false);
        check(&["libcuda.so"], "550.54.14", false);
        check(&["libcuda.so.570"], "", false);
        let mut edits = edits();
        assert_eq!(driver(&edits), None);
        edits.hooks.push(Hook::CudaCompat { driver: String::new() });
        assert_eq!(driver(&edits), Some("550".into()));
        edits.hooks.insert(0, Hook::CudaCompat { driver: "560.1".into() });
        assert_eq!(driver(&edits), Some("560.1".into()));
    }
}
