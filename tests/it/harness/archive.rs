//! Tar archives made by hand, in each format, also such as no program writes.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    V7,
    Ustar,
    Gnu,
    Pax,
}

pub const FORMATS: [Format; 4] = [Format::V7, Format::Ustar, Format::Gnu, Format::Pax];

/// Members one after the other. What a format cannot say in its header, its extensions say.
pub struct Archive {
    format: Format,
    bytes: Vec<u8>,
}

impl Archive {
    pub fn new(format: Format) -> Archive {
        Archive { format, bytes: Vec::new() }
    }

    /// `d/`, `f=text`, `l->target`, `h=>target`, `p|` (a FIFO), `c!` (the device 0:0); `@mode` behind.
    pub fn words(mut self, words: &str) -> Archive {
        for word in words.split_whitespace() {
            let (word, mode) = match word.rsplit_once('@') {
                Some((word, mode)) => (word, u32::from_str_radix(mode, 8).unwrap()),
                None => (word, if word.ends_with('/') { 0o755 } else { 0o644 }),
            };
            let (flag, name, target, text) = if let Some((name, target)) = word.split_once("=>") {
                (b'1', name, target, "")
            } else if let Some((name, target)) = word.split_once("->") {
                (b'2', name, target, "")
            } else if let Some((name, text)) = word.split_once('=') {
                (b'0', name, "", text)
            } else if let Some(name) = word.strip_suffix('!') {
                (b'3', name, "", "")
            } else if let Some(name) = word.strip_suffix('|') {
                (b'6', name, "", "")
            } else {
                (b'5', word, "", "")
            };
            self = self.member(flag, name, target, text.as_bytes(), mode);
        }
        self
    }

    fn member(self, flag: u8, name: &str, target: &str, data: &[u8], mode: u32) -> Archive {
        let mut header = self.header(flag, name, data.len() as u64);
        header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        put(&mut header[157..257], target.as_bytes());
        let mut this = self;
        for (long, flag, key) in [(name, b'L', "path"), (target, b'K', "linkpath")] {
            this = match this.format {
                Format::Gnu if long.len() > 100 => this.extra(flag, &[long.as_bytes(), b"\0"].concat()),
                Format::Pax if long.len() > 100 => this.extra(b'x', &record(key, long.as_bytes())),
                Format::V7 | Format::Ustar | Format::Gnu | Format::Pax => this,
            };
        }
        this.block(header).data(data)
    }

    /// A header without check sum; [`Archive::block`] adds it.
    pub fn header(&self, flag: u8, name: &str, size: u64) -> [u8; 512] {
        let mut header = [0; 512];
        put(&mut header[..100], name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[136..148].copy_from_slice(b"14524760400\0");
        header[156] = match (self.format, flag) {
            (Format::V7, b'0' | b'5') => 0,
            _ => flag,
        };
        match self.format {
            Format::V7 => {}
            Format::Ustar | Format::Pax => put(&mut header[257..265], b"ustar\x0000"),
            Format::Gnu => put(&mut header[257..265], b"ustar  \0"),
        }
        header
    }

    /// What stands before a member: a long name (`L`, `K`) or PAX records (`x`, `g`).
    pub fn extra(self, flag: u8, data: &[u8]) -> Archive {
        let header = self.header(flag, "extra", data.len() as u64);
        self.block(header).data(data)
    }

    pub fn block(self, mut header: [u8; 512]) -> Archive {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.raw(&header)
    }

    pub fn data(self, data: &[u8]) -> Archive {
        let padding = data.len().next_multiple_of(512) - data.len();
        self.raw(data).raw(&vec![0; padding])
    }

    pub fn raw(mut self, bytes: &[u8]) -> Archive {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).bytes
    }
}

fn put(field: &mut [u8], bytes: &[u8]) {
    let n = bytes.len().min(field.len());
    field[..n].copy_from_slice(&bytes[..n]);
}

/// One PAX record: its length counts its own digits.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|n| rest + n.to_string().len() == *n).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
