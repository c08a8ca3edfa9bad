//! Which of the devices that there are were asked for?
//!
//! Files of a later directory count more than those of an earlier one. Two of the same directory that define the same device
//! are a conflict, which is told when that device is wanted.

use super::Edits;
use super::cdi::{Document, is_kind, is_name};
use crate::error::{Error, Result};

/// A file that says something about devices.
#[derive(Debug)]
pub struct Source {
    /// As it is shown.
    pub path: String,
    /// The number of its directory.
    pub rank: usize,
    /// Or why it can't be read.
    pub document: Result<Document>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Of all kinds.
    All,
    /// All of a kind.
    Kind(String),
    One {
        kind: String,
        name: String,
    },
}

impl Wanted {
    /// `KIND` or `KIND=NAME`; `None` if it is neither.
    pub fn parse(text: &str) -> Option<Wanted> {
        match text.split_once('=') {
            None if is_kind(text) => Some(Wanted::Kind(text.to_owned())),
            Some((kind, name)) if is_kind(kind) && is_name(name) => {
                Some(Wanted::One { kind: kind.to_owned(), name: name.to_owned() })
            }
            None | Some(_) => None,
        }
    }
}

/// What a container needs for what was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub edits: Edits,
    /// `KIND=NAME`.
    pub names: Vec<String>,
}

/// Of many devices, so many are listed.
const SHOWN: usize = 24;

pub fn select(sources: &[Source], wanted: &[Wanted]) -> Result<Selection> {
    let mut selection = Selection::default();
    let mut used: Vec<&str> = Vec::new();
    for (kind, name) in resolve(sources, wanted)? {
        let shown = format!("{kind}={name}");
        if selection.names.contains(&shown) {
            continue;
        }
        let (path, document) = find(sources, &kind, &name)?;
        if !used.contains(&path) {
            used.push(path);
            selection.edits.add(&document.edits);
        }
        for device in document.devices.iter().filter(|device| device.name == name) {
            selection.edits.add(&device.edits);
        }
        selection.names.push(shown);
    }
    Ok(selection)
}

/// Every device that was asked for: kind and name.
fn resolve(sources: &[Source], wanted: &[Wanted]) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for wanted in wanted {
        match wanted {
            Wanted::All => {
                for kind in kinds(sources) {
                    found.extend(whole(sources, &kind));
                }
            }
            Wanted::Kind(kind) => {
                let all = whole(sources, kind);
                if all.is_empty() {
                    return Err(missing(sources, kind));
                }
                found.extend(all);
            }
            Wanted::One { kind, name } => found.push((kind.clone(), name.clone())),
        }
    }
    Ok(found)
}

/// All devices of a kind: by the name that stands for all of them, if there is one.
fn whole(sources: &[Source], kind: &str) -> Vec<(String, String)> {
    let names = names(sources, kind);
    let all: Vec<String> = if names.iter().any(|name| name == "all") { vec!["all".to_owned()] } else { names };
    all.into_iter().map(|name| (kind.to_owned(), name)).collect()
}

/// In the order of their files.
pub fn kinds(sources: &[Source]) -> Vec<String> {
    let mut kinds: Vec<String> = Vec::new();
    for document in sources.iter().filter_map(|source| source.document.as_ref().ok()) {
        if !kinds.contains(&document.kind) && !document.devices.is_empty() {
            kinds.push(document.kind.clone());
        }
    }
    kinds
}

fn names(sources: &[Source], kind: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let documents = sources.iter().filter_map(|source| source.document.as_ref().ok());
    for device in documents.filter(|document| document.kind == kind).flat_map(|document| &document.devices) {
        if !names.contains(&device.name) {
            names.push(device.name.clone());
        }
    }
    names
}

/// The document that defines a device.
fn find<'a>(sources: &'a [Source], kind: &str, name: &str) -> Result<(&'a str, &'a Document)> {
    let defines = |document: &Document| document.kind == kind && document.devices.iter().any(|d| d.name == name);
    let all: Vec<_> = sources
        .iter()
        .filter_map(|source| Some((source, source.document.as_ref().ok()?)))
        .filter(|(_, document)| defines(document))
        .collect();
    let Some(rank) = all.iter().map(|(source, _)| source.rank).max() else {
        return Err(missing(sources, &format!("{kind}={name}")));
    };
    let best: Vec<_> = all.iter().filter(|(source, _)| source.rank == rank).collect();
    match best.as_slice() {
        [(one, _), (other, _), ..] => {
            let both = format!("device {kind}={name} is defined by {} and by {}", one.path, other.path);
            Err(Error::new(both).hint("remove one of the files, or name another directory with --cdi-dirs"))
        }
        [(source, document), ..] => Ok((&source.path, document)),
        [] => Err(missing(sources, &format!("{kind}={name}"))),
    }
}

fn missing(sources: &[Source], what: &str) -> Error {
    let error = Error::new(format!("no such device: {what}"));
    let broken: Vec<String> = sources
        .iter()
        .filter_map(|source| Some(format!("{} can't be read: {}", source.path, source.document.as_ref().err()?)))
        .collect();
    let mut all: Vec<String> = Vec::new();
    for kind in kinds(sources) {
        all.extend(names(sources, &kind).into_iter().map(|name| format!("{kind}={name}")));
    }
    let more = if all.len() > SHOWN { format!(" and {} more", all.len() - SHOWN) } else { String::new() };
    all.truncate(SHOWN);
    let there = match all.as_slice() {
        [] => "no CDI file names any device; nvidia-ctk cdi generate makes one".to_owned(),
        all => format!("there are {}{more}", all.join(" ")),
    };
    let error = error.hint(there);
    broken.into_iter().fold(error, |error, why| error.note(why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Node;
    use crate::device::cdi::Device;

    fn edits(path: &str) -> Edits {
        Edits { nodes: vec![Node { host: path.into(), path: path.into() }], ..Edits::default() }
    }

    fn source(path: &str, rank: usize, kind: &str, names: &[&str]) -> Source {
        let device = |name: &&str| Device { name: (*name).into(), edits: edits(&format!("{path}:{name}")) };
        let devices = names.iter().map(device).collect();
        Source { path: path.into(), rank, document: Ok(Document { kind: kind.into(), edits: edits(path), devices }) }
    }

    fn sources() -> Vec<Source> {
        vec![
            source("low", 0, "n.com/gpu", &["0", "1", "all"]),
            source("net", 0, "n.com/nic", &["a", "b"]),
            source("net2", 0, "n.com/nic", &["b"]),
            Source { path: "bad".into(), rank: 0, document: Err(Error::new("line 7: nonsense")) },
            source("high", 1, "n.com/gpu", &["1"]),
        ]
    }

    #[test]
    fn what_was_asked_for_is_found() {
        let check = |wanted: &str, names: &[&str], nodes: &[&str]| {
            let wanted: Vec<Wanted> = wanted.split_whitespace().map(|word| Wanted::parse(word).unwrap()).collect();
            let found = select(&sources(), &wanted).unwrap();
            assert_eq!(found.names, names, "{wanted:?}");
            assert_eq!(found.edits.nodes.iter().map(|node| &node.path).collect::<Vec<_>>(), nodes, "{wanted:?}");
        };
        check("", &[], &[]);
        check("n.com/gpu=0", &["n.com/gpu=0"], &["low", "low:0"]);
        check("n.com/gpu=1", &["n.com/gpu=1"], &["high", "high:1"]);
        check("n.com/gpu", &["n.com/gpu=all"], &["low", "low:all"]);
        check("n.com/gpu=0 n.com/gpu=all n.com/gpu=0", &["n.com/gpu=0", "n.com/gpu=all"], &["low", "low:0", "low:all"]);
        check("n.com/nic=a n.com/gpu=1", &["n.com/nic=a", "n.com/gpu=1"], &["net", "net:a", "high", "high:1"]);
        let all = select(&sources()[..2], &[Wanted::All]).unwrap();
        assert_eq!(all.names, ["n.com/gpu=all", "n.com/nic=a", "n.com/nic=b"]);
        assert_eq!(select(&[], &[Wanted::All]).unwrap(), Selection::default());
    }

    #[test]
    fn what_is_missing_or_twice_there_is_told() {
        let check = |sources: &[Source], wanted: &str, error: &str, hint: &str| {
            let e = select(sources, &[Wanted::parse(wanted).unwrap()]).unwrap_err();
            assert_eq!((e.to_string().as_str(), e.get_hint().unwrap()), (error, hint), "{wanted}");
        };
        let there = "bad can't be read: line 7: nonsense; there are n.com/gpu=0 n.com/gpu=1 n.com/gpu=all n.com/nic=a n.com/nic=b";
        check(&sources(), "n.com/gpu=7", "no such device: n.com/gpu=7", there);
        check(&sources(), "m.com/gpu", "no such device: m.com/gpu", there);
        check(
            &sources(),
            "n.com/nic=b",
            "device n.com/nic=b is defined by net and by net2",
            "remove one of the files, or name another directory with --cdi-dirs",
        );
        let none = "no CDI file names any device; nvidia-ctk cdi generate makes one";
        check(&[], "n.com/gpu=all", "no such device: n.com/gpu=all", none);
        let names: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let many = [source("many", 0, "n.com/gpu", &names)];
        let e = select(&many, &[Wanted::parse("n.com/gpu=x").unwrap()]).unwrap_err();
        assert!(e.get_hint().unwrap().ends_with(" n.com/gpu=23 and 6 more"), "{e:?}");
    }

    #[test]
    fn words_of_the_command_line() {
        let check = |text: &str, want: Option<Wanted>| assert_eq!(Wanted::parse(text), want, "{text}");
        let one = |name: &str| Some(Wanted::One { kind: "nvidia.com/gpu".into(), name: name.into() });
        check("nvidia.com/gpu=all", one("all"));
        check("nvidia.com/gpu=GPU-855c2f58-3ec9", one("GPU-855c2f58-3ec9"));
        check("nvidia.com/gpu=0:1", one("0:1"));
        check("nvidia.com/gpu", Some(Wanted::Kind("nvidia.com/gpu".into())));
        check("all", None);
        check("/dev/nvidia0", None);
        check("nvidia.com/gpu=", None);
        check("nvidia.com/gpu=a=b", None);
    }
}
