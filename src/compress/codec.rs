//! How is a stream compressed? Told by its first bytes.

/// How a stream is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    Gzip,
    Zstd,
    Bzip2,
    Xz,
    /// None of these; also an empty stream.
    Plain,
}

impl Codec {
    /// From the first six bytes (fewer if there are no more).
    pub fn sniff(start: &[u8]) -> Codec {
        match start {
            [0x1f, 0x8b, ..] => Codec::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Codec::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Codec::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Codec::Xz,
            _ => Codec::Plain,
        }
    }
}
