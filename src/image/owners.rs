//! To whom do an image's files belong? Layers of a registry and tarballs say it in tables, which are written while they are
//! unpacked; root emulation says it of the whole image. Here it is put together.

use std::collections::HashMap;
use std::io;

use crate::container::ownership::{Device, DeviceKind, Ledger, Line, Owner};
use crate::error::{Context, Result};
use crate::rootfs::{Cover, Fate, Marks, Ownership, Root, Told};
use crate::storage::{Draft, LayerId, LayerInfo, LayerKind, Owners, Storage, TableWriter};
use crate::sys;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// All that is known, also from the layers of a registry.
    All,
    /// Nothing, unless root emulation has recorded something in the image: then all.
    IfRecorded,
}

/// What is known of a stack; `None` if it is not asked for.
pub fn of(storage: &Storage, ids: &[LayerId], which: Which) -> Result<Option<Ledger>> {
    let infos = ids.iter().map(|id| Ok((*id, storage.layer_info(id)?))).collect::<Result<Vec<_>>>()?;
    let is_whole = |info: &LayerInfo| matches!(info.owners, Owners::Text(_) | Owners::Whole(_));
    let first = match infos.iter().rposition(|(_, info)| is_whole(info)) {
        None if which == Which::IfRecorded => return Ok(None),
        found => found.unwrap_or(0),
    };
    let mut ledger = Ledger::new();
    for (id, info) in &infos[first..] {
        add(storage, &mut ledger, id, info)?;
    }
    Ok(Some(ledger))
}

/// The record of a whole tree that is in a draft.
pub fn whole(draft: &Draft, ledger: Option<Ledger>) -> Result<Owners> {
    match ledger.filter(|ledger| !ledger.is_empty()) {
        Some(ledger) => Owners::of_all(draft, ledger.to_string()),
        None => Ok(Owners::AsBelow),
    }
}

/// Brings what is known of a stack up to date when a layer comes on top.
pub fn add(storage: &Storage, ledger: &mut Ledger, id: &LayerId, info: &LayerInfo) -> Result<()> {
    match &info.owners {
        Owners::AsBelow => Ok(()),
        Owners::Text(text) => {
            *ledger = text.parse::<Ledger>().context(|| format!("damaged layer {id}"))?;
            Ok(())
        }
        Owners::Whole(_) => {
            *ledger = Ledger::new();
            storage.read_owners(id, &info.owners, &mut |line| ledger.apply(line))
        }
        Owners::Own(_) => {
            if !ledger.is_empty() {
                let root = Root::open(&storage.layer_tree(id))?;
                let marks = storage.layer_marks(id)?;
                cover(ledger, (&root, &marks), info.kind).context(|| format!("can't read layer {id}"))?;
            }
            storage.read_owners(id, &info.owners, &mut |line| ledger.apply(line))
        }
    }
}

/// Forgets what a layer hides or replaces. Directories of a layer that was unpacked are as that says; a step has those
/// that it puts something into.
fn cover(ledger: &mut Ledger, (root, marks): (&Root, &Marks), kind: LayerKind) -> io::Result<()> {
    let mut cover = Cover::new(root, marks);
    let mut path = ledger.next(None).map(<[u8]>::to_vec);
    while let Some(here) = path {
        let next = match cover.fate(&here)? {
            Fate::AllStay(dir) => ledger.next_outside(&dir),
            Fate::Stays => ledger.next(Some(&here)),
            Fate::Merged if kind != LayerKind::Base || here.is_empty() => ledger.next(Some(&here)),
            Fate::Merged | Fate::Hidden => {
                ledger.set(&here, Owner::default());
                ledger.next(Some(&here))
            }
        };
        path = next.map(<[u8]>::to_vec);
    }
    Ok(())
}

/// Writes to a table what is told while a layer is unpacked. `below` answers what lower layers say.
pub fn write(
    table: &mut TableWriter,
    path: &[u8],
    told: &Told,
    below: &mut dyn FnMut(usize, &[u8]) -> Result<Owner>,
) -> io::Result<()> {
    let owner = match told {
        Told::New => return Ok(()),
        Told::Is(owner) => owner_of(owner),
        Told::AsIn(layer, from) => below(*layer, from)?,
        Told::Link(_) | Told::Gone | Told::Moved(_) => Owner::default(),
    };
    // In an empty table there is nothing that could be taken back.
    if table.is_empty() && owner.is_plain() {
        return Ok(());
    }
    let line = match told {
        Told::New | Told::Is(_) | Told::AsIn(..) => Line::Is(path, &owner),
        Told::Gone => Line::Gone(path),
        Told::Link(target) => Line::Link(target, path),
        Told::Moved(to) => Line::Moved(path, to),
    };
    table.write(format!("{line}\n").as_bytes())
}

/// Unpacked alone, no layer asks for others.
pub fn alone(_: usize, _: &[u8]) -> Result<Owner> {
    Ok(Owner::default())
}

/// What the single layers of a stack say; the one that was asked last is remembered.
pub struct Below<'a> {
    storage: &'a Storage,
    last: Option<(LayerId, Ledger)>,
}

impl<'a> Below<'a> {
    pub fn new(storage: &'a Storage) -> Below<'a> {
        Below { storage, last: None }
    }

    pub fn owner(&mut self, id: &LayerId, path: &[u8]) -> Result<Owner> {
        if self.last.as_ref().is_none_or(|(known, _)| known != id) {
            let info = self.storage.layer_info(id)?;
            let mut ledger = Ledger::new();
            self.storage.read_owners(id, &info.owners, &mut |line| ledger.apply(line))?;
            self.last = Some((*id, ledger));
        }
        Ok(self.last.as_ref().and_then(|(_, ledger)| ledger.get(path)).cloned().unwrap_or_default())
    }
}

pub fn owner_of(of: &Ownership) -> Owner {
    // Those of archives are not made.
    Owner { uid: of.uid, gid: of.gid, bits: of.bits, device: None, capability: of.capability.clone() }
}

/// The same as archives are made with it.
pub fn for_archive(ledger: &Ledger) -> HashMap<Vec<u8>, Ownership> {
    let device = |d: Device| (d.kind == DeviceKind::Block, sys::fs::major(d.number), sys::fs::minor(d.number));
    let ownership = |o: &Owner| Ownership {
        uid: o.uid,
        gid: o.gid,
        bits: o.bits,
        device: o.device.map(device),
        capability: o.capability.clone(),
    };
    ledger.iter().map(|(path, owner)| (path.to_vec(), ownership(owner))).collect()
}

/// Paths of which the two say different things.
pub fn differences(one: &Ledger, other: &Ledger) -> Vec<Vec<u8>> {
    let changed = one.iter().filter(|(path, owner)| other.get(path) != Some(*owner));
    let gone = other.iter().filter(|(path, _)| one.get(path).is_none());
    changed.chain(gone).map(|(path, _)| path.to_vec()).collect()
}
