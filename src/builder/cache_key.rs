//! What could change the result of a step? Its name is the digest of all of it, so a name that exists is a result.

use crate::error::Result;
use crate::oci::digest::Digest;
use crate::rootfs::copy::Contents;
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

    pub fn extend(&mut self, more: &Inputs) {
        self.0.extend_from_slice(&more.0);
    }

    /// The layer's name. Lengths go in as well, so that no two lists read alike.
    pub fn id(&self) -> LayerId {
        let mut text = String::from("step 1\n");
        for (name, value) in &self.0 {
            text.push_str(&format!("{} {} {name}={value}\n", name.len(), value.len()));
        }
        LayerId::new(Digest::of(text.as_bytes()))
    }

    /// The result is for this build alone, because of `why`.
    pub fn make_unique(&mut self, why: &str) {
        self.add(why, format!("{:?} {}", std::time::SystemTime::now(), std::process::id()));
    }

    /// What the files that a step takes hold; few of them are named one by one, for [`Inputs::why`].
    pub fn add_contents(&mut self, contents: &Contents) {
        self.add(CONTENT, contents.digest.to_string());
        for (path, what) in &contents.files {
            self.add(format!("{CONTENT_OF}{path}"), what);
        }
    }

    /// The stage or image that a step takes files from.
    pub fn add_origin(&mut self, from: &str, identity: &str) {
        self.add(format!("{CONTENT_OF}{from}"), identity);
    }

    pub fn into_pairs(self) -> Vec<(String, String)> {
        self.0
    }

    fn files(&self) -> impl Iterator<Item = &(String, String)> {
        self.0.iter().filter(|(name, _)| name.starts_with(CONTENT_OF))
    }

    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// Why is there no such layer? Compares with the one that differs least, of those that stand at the same place or do
    /// the same.
    pub fn why(&self, storage: &Storage) -> String {
        let others = storage.layers().unwrap_or_default().into_iter().filter_map(|id| {
            let other = Inputs(storage.layer_info(&id).ok()?.inputs);
            self.is_like(&other).then(|| (self.changes(&other), storage.layer_used(&id)))
        });
        let Some((changes, _)) = others.min_by_key(|(changes, used)| (changes.len(), std::cmp::Reverse(*used))) else {
            return "nothing like it in the cache".to_owned();
        };
        if changes.is_empty() {
            return "its layer was removed".to_owned();
        }
        format!("changed: {}", listed(&changes))
    }

    /// The value here of what is `at` that place there: of several that have the same name (mounts), the one in its turn.
    fn like(&self, other: &Inputs, at: usize) -> Option<&String> {
        let name = &other.0[at].0;
        let turn = other.0[..at].iter().filter(|(n, _)| n == name).count();
        self.0.iter().filter(|(n, _)| n == name).nth(turn).map(|(_, value)| value)
    }

    /// The same kind of instruction at the same place, or the very same instruction.
    fn is_like(&self, other: &Inputs) -> bool {
        let same = |name: &str| self.get(name) == other.get(name);
        let keyword = |inputs: &Inputs| inputs.get("instruction").split(' ').next().map(str::to_owned);
        keyword(self) == keyword(other) && (same("parent") || same("instruction") && same("sources"))
    }

    fn changes(&self, other: &Inputs) -> Vec<String> {
        let mut changes = Vec::new();
        for (at, (name, new)) in self.0.iter().enumerate() {
            let old = other.like(self, at);
            match old {
                Some(old) if old == new => {}
                Some(_) if name == "parent" => changes.push("what lies below".to_owned()),
                Some(old) if name.starts_with(CONTENT) => changes.extend(aspects(name, old, new)),
                Some(old) => changes.push(format!("{name} ({})", difference(old, new))),
                None if name.starts_with(CONTENT) => changes.push(format!("{name} (new)")),
                None => changes.push(format!("{name} (new: {})", brief(new))),
            }
        }
        for (at, (name, old)) in other.0.iter().enumerate() {
            match self.like(other, at).is_some() {
                true => {}
                false if name == AGAIN => {}
                false if name == MEANWHILE => changes.push("files while they were taken".to_owned()),
                false if name.starts_with(CONTENT) => changes.push(format!("{name} (gone)")),
                false => changes.push(format!("{name} (gone: {})", brief(old))),
            }
        }
        // Which files it is says more than that it is some.
        if self.files().ne(other.files()) {
            changes.retain(|change| change != CONTENT);
        }
        changes.iter().map(|change| crate::log::escape(change).into_owned()).collect()
    }
}

/// Why a result is for one build alone: the step was asked for again; what it took changed while it was taken.
pub const AGAIN: &str = "again";
pub const MEANWHILE: &str = "meanwhile";

/// The digest of all files that a step takes, and those of single files.
const CONTENT: &str = "content";
const CONTENT_OF: &str = "content of ";

/// How source files changed during the step; `None` if they did not. The text is empty if they look as before.
pub fn meanwhile(before: &Contents, after: Result<Contents>) -> Option<String> {
    let list = |contents: &Contents| {
        let mut inputs = Inputs::default();
        inputs.add_contents(contents);
        inputs
    };
    match after {
        Ok(after) if after == *before => None,
        Ok(after) => Some(listed(&list(&after).changes(&list(before)))),
        Err(e) => Some(e.to_string()),
    }
}

/// What of a file has changed: `kind mode digest` before and now (a digest itself tells nobody anything).
fn aspects(name: &str, old: &str, new: &str) -> Vec<String> {
    let parts = |what| str::split(what, ' ').collect::<Vec<_>>();
    let (Some(path), [was, mode, old], [is, new_mode, new]) =
        (name.strip_prefix(CONTENT_OF), &parts(old)[..], &parts(new)[..])
    else {
        return vec![name.to_owned()];
    };
    if was != is {
        return vec![format!("type of {path} ({was} → {is})")];
    }
    let content = (old != new).then(|| name.to_owned());
    let mode = (mode != new_mode).then(|| format!("mode of {path} ({mode} → {new_mode})"));
    content.into_iter().chain(mode).collect()
}

fn listed(changes: &[String]) -> String {
    let more = match changes.len() {
        0..=MOST_CHANGES => String::new(),
        n => format!(" and {} more", n - MOST_CHANGES),
    };
    format!("{}{more}", changes[..changes.len().min(MOST_CHANGES)].join(", "))
}

const MOST_CHANGES: usize = 8;
const SHOWN: usize = 40;

/// `old → new`, both from a little before they differ.
fn difference(old: &str, new: &str) -> String {
    let same = old.chars().zip(new.chars()).take_while(|(a, b)| a == b).count();
    let from = if same > SHOWN / 2 { same - SHOWN / 4 } else { 0 };
    let part = |text: &str| {
        let dots = if from > 0 { "…" } else { "" };
        format!("{dots}{}", brief(&text.chars().skip(from).collect::<String>()))
    };
    format!("{} → {}", part(old), part(new))
}

fn brief(value: &str) -> String {
    let shown: String = value.chars().take(SHOWN).collect();
    let dots = if shown.len() < value.len() { "…" } else { "" };
    format!("{shown}{dots}")
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

    #[test]
    fn changes_are_named() {
        let of = |pairs: &[(&str, &str)]| Inputs(pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect());
        let check = |old: &[(&str, &str)], new: &[(&str, &str)], want: &[&str]| {
            assert_eq!(of(new).changes(&of(old)), want, "{old:?} {new:?}");
        };
        check(&[("env A", "1"), ("cwd", "/")], &[("env A", "2"), ("cwd", "/")], &["env A (1 → 2)"]);
        check(&[("parent", "x")], &[("parent", "y"), ("bind", "/a:/b")], &["what lies below", "bind (new: /a:/b)"]);
        check(&[("env A", "1")], &[], &["env A (gone: 1)"]);
        check(&[("mount", "a"), ("mount", "b")], &[("mount", "a"), ("mount", "c")], &["mount (b → c)"]);
        check(&[("mount", "a"), ("mount", "b")], &[("mount", "a")], &["mount (gone: b)"]);
        check(&[("mount", "a")], &[("mount", "a"), ("mount", "b")], &["mount (new: b)"]);
        check(&[("again", "1"), ("meanwhile", "1")], &[], &["files while they were taken"]);
        check(
            &[("content", "1"), ("content of a", "1"), ("content of b", "1")],
            &[("content", "2"), ("content of a", "2"), ("content of c", "1")],
            &["content of a", "content of c (new)", "content of b (gone)"],
        );
        check(&[("content", "1")], &[("content", "2")], &["content"]);
        let of_a = |old, new, want: &[&str]| check(&[("content of a", old)], &[("content of a", new)], want);
        of_a("file 644 x", "file 644 y", &["content of a"]);
        of_a("file 644 x", "file 755 y", &["content of a", "mode of a (644 → 755)"]);
        of_a("file 644 x", "file 755 x", &["mode of a (644 → 755)"]);
        of_a("file 644 x", "link 0 y", &["type of a (file → link)"]);
        let long = "x".repeat(50);
        let (old, new) = (format!("{long}1"), format!("{long}2"));
        check(&[("instruction", &old)], &[("instruction", &new)], &["instruction (…xxxxxxxxxx1 → …xxxxxxxxxx2)"]);
    }

    #[test]
    fn only_what_is_alike_is_compared() {
        let of = |parent: &str, instruction: &str| {
            let mut inputs = Inputs::default();
            inputs.add("parent", parent);
            inputs.add("instruction", instruction);
            inputs
        };
        let new = of("p", "RUN a");
        assert!(new.is_like(&of("p", "RUN b")) && new.is_like(&of("q", "RUN a")));
        assert!(!new.is_like(&of("p", "COPY")) && !new.is_like(&of("q", "RUN b")));
    }
}
