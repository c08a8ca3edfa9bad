//! An image as a directory, which `ch-run ./DIR` runs: packed by one thread, unpacked by the other.

use std::io::{self, BufWriter, PipeReader, Read};
use std::thread::{Builder, ScopedJoinHandle, scope};

use super::{Input, Written};
use crate::error::{Context, Error, Result};
use crate::rootfs::{self, Form, Limits, Packed, Root, Stack};

/// Writes into an empty directory.
pub fn write(input: &Input, root: &Root) -> Result<Written> {
    let limits = Limits::of(root)?;
    let (reader, writer) = io::pipe().context(|| "can't make a pipe")?;
    scope(|threads| {
        let (layers, options) = (&input.layers, &input.pack);
        let pack = move || rootfs::pack(&Stack::of(layers)?, &mut BufWriter::with_capacity(1 << 16, writer), options);
        let packing = Builder::new().spawn_scoped(threads, pack).context(|| "can't start a thread")?;
        let mut stream = Stream { reader, packing: Some(packing), packed: Packed::default() };
        let unpacked = rootfs::unpack(&mut stream, root, Form::Plain, "export", &limits)?;
        Ok(Written { bytes: unpacked.bytes, ..Written::of(&stream.packed) })
    })
}

/// What the other thread packs. Its error arrives where its data ends.
struct Stream<'s> {
    reader: PipeReader,
    packing: Option<ScopedJoinHandle<'s, Result<Packed>>>,
    packed: Packed,
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buf)?;
        if n == 0
            && !buf.is_empty()
            && let Some(packing) = self.packing.take()
        {
            let done = packing.join().unwrap_or_else(|_| Err(Error::new("packing failed")));
            self.packed = done.map_err(io::Error::from)?;
        }
        Ok(n)
    }
}
