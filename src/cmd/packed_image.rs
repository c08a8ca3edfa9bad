//! A packed image, run as it is: `ch-run FILE`. It is mounted by a process of ours that answers for it (`fuse`),
//! or where that is refused unpacked for as long as it is in use (`unpacked_image`).
//!
//! The file may lie anywhere, and may be written to or replaced while it is in use. What was replaced stays what it was;
//! what was written to is an I/O error from then on, since nobody knows which of its bytes belong together.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::import::Packed;
use super::unpacked_image;
use crate::container::request::{Image, MountImage, Place, StartServer};
use crate::error::{Context, Error, Result, io_text};
use crate::fuse::{self, Mounting};
use crate::log;
use crate::squashfs::{Reader, Source};

/// A SquashFS file system in a file that is to stay as it was when it was opened.
struct Watched {
    packed: Packed,
    file: File,
    was: (u64, i64, i64),
}

fn state(meta: &Metadata) -> (u64, i64, i64) {
    (meta.len(), meta.mtime(), meta.mtime_nsec())
}

impl Source for Watched {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.packed.read_at(offset, out);
        // Afterwards: what was read then is known to be of the same state.
        if state(&self.file.metadata()?) != self.was {
            return Err(io::Error::other("the file has changed since it was mounted"));
        }
        read
    }

    fn size(&self) -> u64 {
        self.packed.size()
    }
}

/// The image in a regular file.
pub fn image(path: &Path, no_mount: bool) -> Result<Image> {
    let shown = path.display();
    let failed = || format!("can't open image {shown}");
    let file = File::open(path).context(failed)?;
    let meta = file.metadata().context(failed)?;
    let Some(packed) = Packed::of(&file).context(failed)? else {
        return Err(Error::new(format!("not an image: {shown} is neither SquashFS nor SIF")).hint(
            "an archive becomes an image by: ch-image import; an image becomes a SquashFS file by: ch-image export",
        ));
    };
    let identity = format!("{shown} {} {} {:?}", meta.dev(), meta.ino(), state(&meta));
    let name = format!("image {}", log::escape(&shown.to_string()));
    let reason = if no_mount { Some("as --no-mount asks for".to_owned()) } else { fuse::can_open().err().map(reason) };
    let place = match reason {
        None => Place::Packed(start(Watched { packed, file, was: state(&meta) }, name)),
        Some(reason) => Place::Tree(unpacked_image::tree(&packed, &meta, &name, &reason)?),
    };
    Ok(Image { place, identity, env: None, cwd: None })
}

fn reason(e: io::Error) -> String {
    let cause = io_text(&e);
    format!("/dev/fuse can't be opened: {cause}; ask the administrator for: {}", fuse::advice(&e))
}

fn start(source: Watched, name: String) -> StartServer {
    Box::new(move |owner| {
        let keep = source.packed.descriptors().into_iter().chain([source.file.as_raw_fd()]).collect();
        let tree = Reader::open(source).context(|| name.clone())?;
        let server = Mounting { tree: &tree, keep, owner, name }.start()?;
        let mount: MountImage = Box::new(|at| server.mount(at));
        Ok(mount)
    })
}
