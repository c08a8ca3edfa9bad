//! Where do the stored bytes of a file with holes go? GNU's old form and the three of PAX.
//!
//! Source: GNU tar manual, "Storing Sparse Files".

use super::pax;
use super::tar_reader::{BLOCK, Member, TarReader, Type};
use crate::error::{Error, Result, bail};

const MAX_SPARSE: usize = 100_000;

/// Offset and length of each piece, rising.
pub type Map = Vec<(u64, u64)>;

/// What PAX records say.
#[derive(Default)]
pub struct Records {
    major: Option<u64>,
    minor: Option<u64>,
    size: Option<u64>,
    blocks: Option<u64>,
    pub name: Option<Vec<u8>>,
    map: Option<Map>,
    /// The map as form 0.0 has it: a record for each number.
    pairs: Option<Map>,
    offset: Option<u64>,
}

impl Records {
    /// Takes a record whose key begins with `GNU.sparse.`.
    pub fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let count = |what| if value.is_empty() { Ok(None) } else { pax::decimal(value, what).map(Some) };
        match &key[b"GNU.sparse.".len()..] {
            b"major" => self.major = count("sparse form")?,
            b"minor" => self.minor = count("sparse form")?,
            b"name" => self.name = pax::path(key, value)?,
            b"size" | b"realsize" => self.size = count("sparse size")?,
            b"numblocks" => self.blocks = count("sparse map")?,
            b"map" => self.map = Some(list(value)?),
            b"offset" if self.offset.is_some() => bail!("malformed PAX record: sparse map"),
            b"offset" => self.offset = Some(pax::decimal(value, "sparse map")?),
            b"numbytes" => {
                let Some(offset) = self.offset.take() else { bail!("malformed PAX record: sparse map") };
                let map = self.pairs.get_or_insert_default();
                if map.len() == MAX_SPARSE {
                    bail!("sparse map has more than {MAX_SPARSE} entries");
                }
                map.push((offset, pax::decimal(value, "sparse map")?));
            }
            _ => {}
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.major.is_none()
            && self.size.is_none()
            && self.blocks.is_none()
            && self.name.is_none()
            && self.map.is_none()
            && self.pairs.is_none()
            && self.offset.is_none()
    }
}

impl TarReader<'_> {
    /// GNU's old sparse form: four entries in the header, 21 in each further block.
    pub(super) fn gnu_sparse(&mut self, header: &[u8; BLOCK]) -> Result<(u64, Option<Map>)> {
        let positive = |field: &[u8]| {
            let n = pax::number(field, "sparse map")?;
            u64::try_from(n).map_err(|_| Error::new("malformed header: negative number in sparse map"))
        };
        let size = positive(&header[483..495])?;
        let mut map = Vec::new();
        let mut entries = |list: &[u8]| {
            for entry in list.chunks_exact(24).take_while(|entry| entry[0] != 0) {
                if map.len() == MAX_SPARSE {
                    bail!("sparse map has more than {MAX_SPARSE} entries");
                }
                map.push((positive(&entry[..12])?, positive(&entry[12..])?));
            }
            Ok(())
        };
        entries(&header[386..482])?;
        let mut more = header[482] != 0;
        while more {
            // The map's blocks stand between header and data and are not part of the size.
            let Some(block) = self.block()? else { bail!("archive is truncated") };
            entries(&block[..504])?;
            more = block[504] != 0;
            if more && block[0] == 0 {
                bail!("malformed header: sparse map goes on after its end");
            }
        }
        Ok((size, Some(map)))
    }

    /// The three sparse forms of PAX; 1.0 has its map at the start of the data.
    pub(super) fn pax_sparse(&mut self, sparse: Records) -> Result<(u64, Option<Map>)> {
        let size = sparse.size.ok_or_else(|| Error::new("malformed PAX record: sparse file without size"))?;
        let map = match (sparse.major.unwrap_or(0), sparse.minor.unwrap_or(0), sparse.map, sparse.pairs) {
            (_, _, Some(_), Some(_)) | (1, _, Some(_), _) | (1, _, _, Some(_)) => {
                bail!("two sparse maps for one member")
            }
            (1, 0, None, None) => self.map_in_data()?,
            (0, _, map, pairs) => {
                let map = map.or(pairs).unwrap_or_default();
                if sparse.offset.is_some() || sparse.blocks.is_some_and(|n| n != map.len() as u64) {
                    bail!("malformed PAX record: sparse map");
                }
                map
            }
            (major, minor, ..) => bail!("sparse file of unknown form {major}.{minor}"),
        };
        Ok((size, Some(map)))
    }

    fn map_in_data(&mut self) -> Result<Map> {
        let mut used = 0u64;
        let count = self.line(&mut used)?;
        if count > MAX_SPARSE as u64 {
            bail!("sparse map has more than {MAX_SPARSE} entries");
        }
        let mut map = Vec::new();
        for _ in 0..count {
            map.push((self.line(&mut used)?, self.line(&mut used)?));
        }
        // The map is padded to whole blocks.
        for _ in 0..used.wrapping_neg() % BLOCK as u64 {
            self.byte()?;
        }
        Ok(map)
    }

    fn line(&mut self, used: &mut u64) -> Result<u64> {
        let mut digits = Vec::new();
        loop {
            let byte = self.byte()?;
            *used += 1;
            match byte {
                b'\n' => return pax::decimal(&digits, "sparse map"),
                b if digits.len() < 20 => digits.push(b),
                _ => bail!("malformed sparse map"),
            }
        }
    }
}

/// Whether the map fits the file and what is `stored` of it.
pub fn check(member: &Member, stored: u64) -> Result<()> {
    let Some(map) = &member.sparse else { return Ok(()) };
    let (mut end, mut sum) = (0u64, 0u64);
    for (offset, length) in map {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= member.size);
        let Some(next) = next else { bail!("malformed sparse map") };
        end = next;
        sum = sum.saturating_add(*length);
    }
    if sum != stored || member.kind != Type::File {
        bail!("sparse map does not match the stored data");
    }
    Ok(())
}

fn list(value: &[u8]) -> Result<Map> {
    let mut map = Vec::new();
    if value.is_empty() {
        return Ok(map);
    }
    let mut numbers = value.split(|b| *b == b',');
    while let Some(offset) = numbers.next() {
        let Some(length) = numbers.next() else { bail!("malformed PAX record: sparse map") };
        if map.len() == MAX_SPARSE {
            bail!("sparse map has more than {MAX_SPARSE} entries");
        }
        map.push((pax::decimal(offset, "sparse map")?, pax::decimal(length, "sparse map")?));
    }
    Ok(map)
}
