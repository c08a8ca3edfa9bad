//! How does somebody's tarball become an image? Unpacked as a layer; with one top-level directory, that directory's
//! content counts (manual page, "import").

use std::io::Read;
use std::os::fd::AsFd;

use super::limits::Limits;
use super::metadata::open_dir;
use super::owners::{Owners, Told};
use super::root::Root;
use super::unpack::{Form, Unpacked, unpack_owned};
use crate::error::{Context, Result};
use crate::sys::file;

/// Directories that a whole image may have alone; any other single directory encloses one.
const IMAGE_DIRS: [&[u8]; 8] = [b"bin", b"dev", b"etc", b"mnt", b"proc", b"sys", b"tmp", b"usr"];

/// Unpacks a tarball (not compressed) into the empty directory `root`. `Ok(true)` beside it: a single enclosing
/// directory was found, its contents are the image.
pub fn import_tar(
    tar: &mut dyn Read,
    root: &Root,
    label: &str,
    limits: &Limits,
    owners: &mut Owners,
) -> Result<(Unpacked, bool)> {
    root.forget_time()?;
    let unpacked = unpack_owned(tar, root, Form::Plain, label, limits, owners)?;
    let raised = raise(root).context(|| format!("{label}: can't use single enclosing directory"))?;
    if let Some(directory) = &raised {
        owners(directory, Told::Moved(Vec::new())).context(|| "can't record owners")?;
    }
    Ok((unpacked, raised.is_some()))
}

/// Moves the content of a single enclosing directory one level up: its name, if there was one.
fn raise(root: &Root) -> Result<Option<Vec<u8>>> {
    let names = file::names(root.as_fd())?;
    let [only] = &names[..] else { return Ok(None) };
    if IMAGE_DIRS.contains(&only.bytes.as_slice()) || !file::lstatat(root.as_fd(), &only.bytes)?.is_dir() {
        return Ok(None);
    }
    // It may hold something of its own name; under another one, which it does not hold, it is out of the way.
    let inner: Vec<Vec<u8>> =
        file::names(open_dir(root.as_fd(), &only.bytes)?.as_fd())?.into_iter().map(|name| name.bytes).collect();
    let aside = (0..).map(|n| format!(".ch-import-{n}").into_bytes()).find(|name| !inner.contains(name));
    let aside = aside.unwrap_or_default();
    file::renameat(root.as_fd(), &only.bytes, root.as_fd(), &aside)?;
    let dir = open_dir(root.as_fd(), &aside)?;
    let stat = file::fstat(dir.as_fd())?;
    for name in &inner {
        file::renameat(dir.as_fd(), name, root.as_fd(), name)?;
    }
    file::rmdirat(root.as_fd(), &aside)?;
    file::fchmod(root.as_fd(), stat.mode)?;
    file::futimens(root.as_fd(), stat.mtime)?;
    Ok(Some(only.bytes.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::owners::nobody;
    use crate::rootfs::testing::{Scratch, Tar, listing};

    #[test]
    fn a_single_enclosing_directory_is_not_the_image() {
        let check = |words: &str, expected: &str, raised: bool| {
            let scratch = Scratch::new();
            let root = scratch.root("root");
            let (_, got) = import_tar(&mut &Tar::of(words)[..], &root, "x", &Limits::none(), &mut nobody).unwrap();
            assert_eq!((listing(&scratch.path("root")).join(" ").as_str(), got), (expected, raised), "{words}");
        };
        check("top/ top/bin/ top/etc/ top/etc/f=1", "bin/ etc/ etc/f=1", true);
        check("./top/bin/x=1 ./top/l->bin", "bin/ bin/x=1 l->bin", true);
        check("top/top/f=1 top/g=2", "g=2 top/ top/f=1", true);
        check("top/.ch-import-0=1 top/x=2", ".ch-import-0=1 x=2", true);
        check("top/a=1 top/b=>top/a", "a=1 b=1", true);
        check("bin/ etc/f=1", "bin/ etc/ etc/f=1", false);
        check("usr/f=1", "usr/ usr/f=1", false);
        check("f=1", "f=1", false);
        check("l->/", "l->/", false);
        check("", "", false);
    }
}
