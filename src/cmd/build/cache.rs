//! What could change the result of a step? Its name is the digest of all of it, so a name that exists is a result.

use crate::oci::digest::Digest;
use crate::storage::{LayerId, Storage};

/// Everything that a step's result depends on, by name.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Inputs(Vec<(String, String)>);

impl Inputs {
    pub fn new(parent: Option<&LayerId>, instruction: &str) -> Inputs {
        let mut inputs = Inputs::default();
        inputs.add("parent", parent.map_or(String::new(), LayerId::to_string));
        inputs.add("instruction", instruction);
        inputs
    }

    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// The layer's name. Lengths go in as well, so that no two lists read alike.
    pub fn id(&self) -> LayerId {
        let mut text = String::from("step 1\n");
        for (name, value) in &self.0 {
            text.push_str(&format!("{} {} {name}={value}\n", name.len(), value.len()));
        }
        LayerId::new(Digest::of(text.as_bytes()))
    }

    pub fn into_pairs(self) -> Vec<(String, String)> {
        self.0
    }

    /// Why is there no such layer? Compares with the layer that has most in common: same instruction on the same
    /// parent, else the same instruction, else the same parent.
    pub fn why(&self, storage: &Storage) -> String {
        let value = |pairs: &[(String, String)], name: &str| {
            pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default()
        };
        let (parent, instruction) = (value(&self.0, "parent"), value(&self.0, "instruction"));
        let mut best: Option<(u32, u64, Inputs)> = None;
        for id in storage.layers().unwrap_or_default() {
            let Ok(info) = storage.layer_info(&id) else { continue };
            if info.inputs.is_empty() {
                continue;
            }
            let score = 2 * u32::from(value(&info.inputs, "instruction") == instruction)
                + u32::from(value(&info.inputs, "parent") == parent);
            let used = storage.layer_used(&id);
            if score > 0 && best.as_ref().is_none_or(|(s, u, _)| (score, used) > (*s, *u)) {
                best = Some((score, used, Inputs(info.inputs)));
            }
        }
        let Some((_, _, Inputs(other))) = best else { return "never done before".to_owned() };
        let mut changes = Vec::new();
        for (name, new) in &self.0 {
            let old = other.iter().find(|(n, _)| n == name).map(|(_, v)| v);
            match old {
                Some(old) if old == new => {}
                Some(_) if name == "parent" => changes.push("what lies below".to_owned()),
                Some(old) => changes.push(format!("{name} ({} → {})", brief(old), brief(new))),
                None => changes.push(format!("{name} (new: {})", brief(new))),
            }
        }
        for (name, old) in &other {
            if !self.0.iter().any(|(n, _)| n == name) {
                changes.push(format!("{name} (gone: {})", brief(old)));
            }
        }
        if changes.is_empty() { "its layer was removed".to_owned() } else { format!("changed: {}", changes.join(", ")) }
    }
}

fn brief(value: &str) -> String {
    let shown: String = value.chars().take(40).collect();
    let dots = if shown.len() < value.len() { "…" } else { "" };
    crate::log::escape(&format!("{shown}{dots}")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_lists_read_alike() {
        let id = |pairs: &[(&str, &str)]| {
            let mut inputs = Inputs::default();
            pairs.iter().for_each(|(n, v)| inputs.add(*n, *v));
            inputs.id()
        };
        assert_ne!(id(&[("a", "b\n1 1 c=d")]), id(&[("a", "b"), ("c", "d")]));
        assert_ne!(id(&[("a", "")]), id(&[("", "a")]));
        assert_eq!(id(&[("a", "b")]), id(&[("a", "b")]));
    }
}
