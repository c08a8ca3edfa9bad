//! Which stages and images does an instruction use, and may it? (A.12 no. 3)
//!
//! A stage may use only earlier ones, so nothing can go round in circles. That a file tries to is still told apart from
//! a mere wrong order, because defining stages in another order would not help.

use std::collections::{BTreeMap, HashSet};

use crate::error::{Context, Error, Result};

/// Where COPY or a mount takes its files from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Context,
    Scratch,
    Stage(usize),
    /// An image reference, not yet checked.
    Image(String),
}

/// An image, named by an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub line: usize,
    pub keyword: &'static str,
}

/// `line 3: COPY`, as the context of an error.
pub fn at(line: usize, keyword: &str) -> String {
    format!("line {line}: {keyword}")
}

/// An origin, and which instruction names it how.
pub struct Use {
    pub line: usize,
    pub keyword: &'static str,
    /// As written, variables expanded.
    pub text: String,
    pub origin: Origin,
}

impl Use {
    pub fn stage(&self) -> Option<usize> {
        match self.origin {
            Origin::Stage(index) => Some(index),
            Origin::Context | Origin::Scratch | Origin::Image(_) => None,
        }
    }

    pub fn image(&self) -> Option<Named> {
        match &self.origin {
            Origin::Image(name) => Some(Named { name: name.clone(), line: self.line, keyword: self.keyword }),
            Origin::Context | Origin::Scratch | Origin::Stage(_) => None,
        }
    }

    /// What is used by `stage`, if it may be.
    pub fn ordered(self, stage: usize) -> Result<Origin> {
        ordered(stage, &self.text, self.origin).context(|| at(self.line, self.keyword))
    }
}

/// An origin that is no later stage than `stage`, nor itself.
pub fn ordered(stage: usize, text: &str, origin: Origin) -> Result<Origin> {
    match origin {
        Origin::Stage(index) if index == stage => Err(circular(text)),
        Origin::Stage(index) if index > stage => Err(later(text)),
        origin => Ok(origin),
    }
}

/// Refuses stages that need themselves, and then one that uses a later one. `target` needs all the others.
pub fn check_order(uses: &BTreeMap<usize, Vec<Use>>, target: usize) -> Result<()> {
    if let Some(one) = find_circle(uses, target) {
        return Err(circular(&one.text)).context(|| at(one.line, one.keyword));
    }
    let mut all = uses.iter().flat_map(|(stage, all)| all.iter().map(move |one| (stage, one)));
    match all.find(|(stage, one)| one.stage().is_some_and(|used| used >= **stage)) {
        Some((_, one)) => Err(later(&one.text)).context(|| at(one.line, one.keyword)),
        None => Ok(()),
    }
}

/// A use by which a circle closes. One walk in depth, without recursion: files may have very many stages.
fn find_circle(uses: &BTreeMap<usize, Vec<Use>>, target: usize) -> Option<&Use> {
    let of = |stage: usize| uses.get(&stage).into_iter().flatten();
    let mut path = vec![(target, of(target))];
    let (mut on_path, mut done) = (HashSet::from([target]), HashSet::new());
    while let Some((stage, rest)) = path.last_mut() {
        let Some(one) = rest.next() else {
            on_path.remove(stage);
            done.insert(*stage);
            path.pop();
            continue;
        };
        let Some(used) = one.stage().filter(|used| !done.contains(used)) else { continue };
        if !on_path.insert(used) {
            return Some(one);
        }
        path.push((used, of(used)));
    }
    None
}

fn circular(from: &str) -> Error {
    Error::new(format!("circular dependency: stage {from} would need itself"))
}

fn later(from: &str) -> Error {
    Error::new(format!("stage {from} needs to be defined before the stage that uses it"))
}
