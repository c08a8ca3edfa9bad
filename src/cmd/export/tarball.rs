//! An image as a tarball of its files, `/ch` included, so that `import` makes the same image of it again.

use std::io::Write;
use std::thread;

use super::{Counting, Input, Written};
use crate::cmd::progress::{Counted, Progress};
use crate::compress::encoder::{Encoder, Encoding};
use crate::error::{Context, Result};
use crate::rootfs::{self, Stack};

pub fn write(input: &Input, encoding: Option<Encoding>, out: &mut dyn Write) -> Result<Written> {
    let stack = Stack::of(&input.layers)?;
    let progress = Progress::new("packing", None);
    let part = progress.part("tarball", None);
    let failed = || "can't pack the image";
    let mut out = Counting { out, bytes: 0 };
    let packed = match encoding {
        None => rootfs::pack(&stack, &mut Counted { inner: &mut out, part }, &input.pack)?,
        Some(encoding) => {
            let threads = thread::available_parallelism().map_or(1, |n| n.get());
            let mut tar = Counted { inner: Encoder::new(&mut out, encoding, threads), part };
            let packed = rootfs::pack(&stack, &mut tar, &input.pack)?;
            tar.inner.finish().context(failed)?;
            packed
        }
    };
    out.flush().context(failed)?;
    Ok(Written { bytes: out.bytes, ..Written::of(&packed) })
}
