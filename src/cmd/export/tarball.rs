//! An image as a tarball of its files, `/ch` included, so that `import` makes the same image of it again.

use std::io::Write;
use std::thread;

use super::format::Codec;
use super::{Counting, Input, Written};
use crate::cmd::progress::{Counted, Progress};
use crate::compress::gzip::Encoder;
use crate::error::{Context, Result};
use crate::rootfs::{self, Stack};

pub fn write(input: &Input, codec: Codec, out: &mut dyn Write) -> Result<Written> {
    let stack = Stack::open(&input.trees)?;
    let progress = Progress::new("packing", None);
    let part = progress.part("tarball", None);
    let failed = || "can't pack the image";
    let mut out = Counting { out, bytes: 0 };
    let packed = match codec {
        Codec::Plain => rootfs::pack(&stack, &mut Counted { inner: &mut out, part }, &input.pack)?,
        Codec::Gzip => {
            let threads = thread::available_parallelism().map_or(1, |n| n.get());
            let mut tar = Counted { inner: Encoder::new(&mut out, threads), part };
            let packed = rootfs::pack(&stack, &mut tar, &input.pack)?;
            tar.inner.finish().context(failed)?;
            packed
        }
    };
    out.flush().context(failed)?;
    Ok(Written { bytes: out.bytes, ..Written::of(&packed) })
}
