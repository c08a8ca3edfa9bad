//! What is recorded of the owners of a layer's files: a short text in its record, or a table in a file beside its tree.
//!
//! What the lines of a text or table mean is the business of whoever writes them. A table is written while a layer is
//! unpacked, so it may have any size; its checksum is in the layer's record.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::files::open_file;
use super::handle::Draft;
use super::{LayerId, Storage};
use crate::compress::crc32;
use crate::error::{Context, Error, Result, bail};

/// Name of the file.
const TABLE: &str = "owners";
/// Longest line of a table, bytes: two paths, each byte of them escaped.
const MAX_LINE: u64 = 64 << 10;
/// What is longer than this is a table, bytes: records of layers are small.
const MAX_TEXT: usize = 64 << 10;

/// The owners of a layer's files.
#[derive(Clone, PartialEq, Debug)]
pub enum Owners {
    /// Those of the layers below.
    AsBelow,
    /// Said of all files of the image up to here.
    Text(String),
    /// The same.
    Whole(Table),
    /// Said of this layer's files alone; those that it says nothing of are root's.
    Own(Table),
}

/// A table as it was written; empty tables have no file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Table {
    bytes: u64,
    sum: u32,
}

impl Owners {
    /// Nothing is said of this layer's files: they are root's.
    pub const ROOT: Owners = Owners::Own(Table { bytes: 0, sum: 0 });

    /// A text for all files of the image, in the draft of its layer if it is long.
    pub fn of_all(draft: &Draft, text: String) -> Result<Owners> {
        if text.len() <= MAX_TEXT {
            return Ok(Owners::Text(text));
        }
        let mut writer = TableWriter::new(draft);
        writer.write(text.as_bytes()).context(|| "can't record owners")?;
        Ok(Owners::Whole(writer.finish()?))
    }

    /// The two members of a layer's record, `ledger` and `owners`. Earlier versions know the first one only.
    pub(super) fn to_json(&self) -> (Value, Value) {
        let table = |of: &str, table: &Table| json!({"of": of, "bytes": table.bytes, "sum": table.sum});
        match self {
            Owners::AsBelow => (Value::Null, Value::Null),
            Owners::Text(text) => (text.clone().into(), Value::Null),
            Owners::Whole(whole) => (Value::Null, table("image", whole)),
            Owners::Own(own) => (Value::Null, table("layer", own)),
        }
    }

    pub(super) fn from_json(ledger: &Value, owners: &Value) -> Result<Owners> {
        if let Value::String(text) = ledger {
            return Ok(Owners::Text(text.clone()));
        }
        if owners.is_null() {
            return Ok(Owners::AsBelow);
        }
        let number = |key: &str| owners[key].as_u64();
        let (Some(bytes), Some(Ok(sum))) = (number("bytes"), number("sum").map(u32::try_from)) else {
            bail!("no valid table of owners");
        };
        let table = Table { bytes, sum };
        match owners["of"].as_str() {
            Some("image") => Ok(Owners::Whole(table)),
            Some("layer") => Ok(Owners::Own(table)),
            Some(_) | None => bail!("no valid table of owners"),
        }
    }

    fn table(&self) -> Option<Table> {
        match self {
            Owners::AsBelow | Owners::Text(_) => None,
            Owners::Whole(table) | Owners::Own(table) => Some(*table),
        }
    }
}

/// Writes the table of a layer that is being made.
pub struct TableWriter {
    path: PathBuf,
    /// Closed in between: there may be hundreds of layers.
    file: Option<BufWriter<File>>,
    table: Table,
}

impl TableWriter {
    pub fn new(draft: &Draft) -> TableWriter {
        TableWriter { path: draft.path().join(TABLE), file: None, table: Table::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.table.bytes == 0
    }

    /// Whole lines, with their ends.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
                self.file.insert(BufWriter::new(file))
            }
        };
        file.write_all(lines)?;
        self.table.bytes = self.table.bytes.saturating_add(lines.len() as u64);
        self.table.sum = crc32::update(self.table.sum, lines);
        Ok(())
    }

    /// Writes out what there is so far.
    pub fn pause(&mut self) -> Result<()> {
        match self.file.take() {
            Some(mut file) => file.flush().context(|| format!("can't write {}", self.path.display())),
            None => Ok(()),
        }
    }

    pub fn finish(mut self) -> Result<Table> {
        self.pause()?;
        Ok(self.table)
    }
}

impl Storage {
    /// Each line of a layer's table, if it has one.
    pub fn read_owners(&self, id: &LayerId, owners: &Owners, each: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let Some(table) = owners.table().filter(|table| table.bytes > 0) else { return Ok(()) };
        let path = self.layer_path(id).join(TABLE);
        read(&path, &table, each).map_err(|e| {
            e.context(format!("damaged layer {id}"))
                .hint("ch-image fsck --repair drops what is damaged; then pull or build again")
        })
    }
}

fn read(path: &Path, table: &Table, each: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    let failed = || format!("can't read {}", path.display());
    let mut file = BufReader::new(open_file(path).context(failed)?);
    let mut found = Table::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = io::Read::take(&mut file, MAX_LINE).read_until(b'\n', &mut line).context(failed)?;
        if n == 0 {
            break;
        }
        found.bytes = found.bytes.saturating_add(n as u64);
        found.sum = crc32::update(found.sum, &line);
        let changed = || Error::new(format!("{} does not match its checksum", path.display()));
        if found.bytes > table.bytes {
            return Err(changed());
        }
        let text = std::str::from_utf8(&line).ok().and_then(|text| text.strip_suffix('\n')).ok_or_else(changed)?;
        each(text).context(failed)?;
    }
    if found != *table {
        bail!("{} does not match its checksum", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_back() {
        let table = Table { bytes: 7, sum: u32::MAX };
        for owners in [
            Owners::AsBelow,
            Owners::ROOT,
            Owners::Text("5 0 0 - - a\n".into()),
            Owners::Whole(table),
            Owners::Own(table),
        ] {
            let (ledger, value) = owners.to_json();
            assert_eq!(Owners::from_json(&ledger, &value).unwrap(), owners);
        }
        for bad in [json!({}), json!({"of": "x", "bytes": 1, "sum": 1}), json!({"of": "layer", "bytes": 1, "sum": -1})]
        {
            assert!(Owners::from_json(&Value::Null, &bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tables_are_checked() {
        let dir = std::env::temp_dir().join(format!("ch-owners-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(TABLE);
        let mut writer = TableWriter { path: path.clone(), file: None, table: Table::default() };
        writer.write(b"one\n").unwrap();
        writer.pause().unwrap();
        writer.write(b"two\n").unwrap();
        let table = writer.finish().unwrap();
        let lines = || {
            let mut lines = Vec::new();
            read(&path, &table, &mut |line| {
                lines.push(line.to_owned());
                Ok(())
            })
            .map(|()| lines)
        };
        assert_eq!(lines().unwrap(), ["one", "two"]);
        for other in ["", "one\n", "one\ntwo", "one\ntwa\n", "one\ntwo\nthree\n", "one\ntw\u{fffd}\n"] {
            std::fs::write(&path, other).unwrap();
            assert!(lines().is_err(), "{other:?}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
