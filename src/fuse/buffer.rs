//! A reply as it goes to the kernel: 16 bytes of header, then what was asked for. Used again for the next reply.

/// Of a reply: length, error, number of the request.
const HEADER: usize = 16;
/// What was large once is not kept for ever: large replies are rare, and every thread has a buffer.
const KEPT: usize = 256 << 10;

pub struct Buffer {
    /// Longer than what is in use, so that it need not be cleared again and again.
    bytes: Vec<u8>,
    used: usize,
}

impl Buffer {
    pub fn new() -> Buffer {
        Buffer { bytes: vec![0; 4096], used: HEADER }
    }

    pub fn clear(&mut self) {
        self.used = HEADER;
        if self.bytes.len() > KEPT {
            self.bytes.truncate(KEPT);
            self.bytes.shrink_to_fit();
        }
    }

    /// Bytes behind the header.
    pub fn len(&self) -> usize {
        self.used - HEADER
    }

    /// Forgets what lies behind the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.used = self.used.min(HEADER + length);
    }

    /// Room for `size` more bytes, with anything in them; they count when they are [`kept`](Buffer::keep).
    pub fn room(&mut self, size: usize) -> &mut [u8] {
        let end = self.used.saturating_add(size);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.used..end]
    }

    pub fn keep(&mut self, size: usize) {
        self.used = self.used.saturating_add(size).min(self.bytes.len());
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.keep(bytes.len());
    }

    pub fn u16(&mut self, n: u16) {
        self.put(&n.to_ne_bytes());
    }

    pub fn u32(&mut self, n: u32) {
        self.put(&n.to_ne_bytes());
    }

    pub fn u64(&mut self, n: u64) {
        self.put(&n.to_ne_bytes());
    }

    /// The whole reply to request `unique`: what was put, or an error (a positive errno).
    pub fn finish(&mut self, unique: u64, error: Option<i32>) -> &[u8] {
        if error.is_some() {
            self.used = HEADER;
        }
        let length = self.used as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[4..8].copy_from_slice(&error.map_or(0, |e| -e).to_ne_bytes());
        self.bytes[8..HEADER].copy_from_slice(&unique.to_ne_bytes());
        &self.bytes[..self.used]
    }
}
