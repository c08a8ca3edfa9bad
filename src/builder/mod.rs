//! From a Dockerfile to an image in storage.
//!
//! The file is read and planned whole ([`crate::dockerfile`]); then each stage that the target needs is built step by
//! step. `schedule` says in which order, `workers` builds several at a time; `stage` says what an instruction means for
//! the image; `run`, `copy` and `workdir` each decide what a step needs and is named, then do it; `tree` keeps the
//! files, `cache_key` names the layers.
//!
//! [`Build`] is what all stages share and nothing changes; [`Session`] is what changes while they are built.

mod announce;
mod ca;
mod cache_key;
mod config;
mod context;
mod copy;
mod fakeroot;
mod force;
mod grown;
mod image_users;
mod images;
mod mounts;
mod run;
mod schedule;
mod secret;
mod stage;
mod tree;
mod web;
mod workdir;
mod workers;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::rc::Rc;

use self::context::Directory;
use self::stage::Finished;
use crate::container::Bind;
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::ignore::Patterns;
use crate::dockerfile::plan::Plan;
use crate::dockerfile::scope::Globals;
use crate::error::{Error, Result};
use crate::log::info;
use crate::oci::arch::{Arch, Wanted};
use crate::oci::reference::ImageRef;
use crate::rootfs::copy::Memo;
use crate::storage::{Image, Storage};

pub use self::announce::texts;
pub use self::ca::of_site as site_certificates;
pub use self::config::{begin as begin_with, parse_triggers};
pub use self::context::{Source, build_args};
pub use self::force::{Force, Mode};
pub use self::secret::Secrets;

/// Where images come from that a Dockerfile names and storage lacks.
pub trait Registry {
    /// Pulls an image into storage. The caller has its lock.
    fn pull(&self, reference: &ImageRef, wanted: &Wanted) -> Result<Image>;
}

/// What the command line asks for, parsed.
pub struct Request {
    /// Name of the image as the user gave it.
    pub tag: String,
    pub reference: ImageRef,
    /// Further names.
    pub others: Vec<ImageRef>,
    /// Architecture of base images whose FROM names none.
    pub wanted: Wanted,
    /// Architecture of an image that begins from scratch.
    pub arch: Arch,
    pub binds: Vec<Bind>,
    /// Certificates (PEM) that RUN shall trust besides the public ones.
    pub ca: Option<Vec<u8>>,
    pub force: Force,
    /// Stages built at a time.
    pub jobs: NonZeroUsize,
    /// Whether steps of earlier builds count.
    pub reuse: bool,
    /// Whether files of web servers that were downloaded before count.
    pub reuse_downloads: bool,
    /// Whether to say of each step that is not cached why.
    pub why: bool,
    /// Further labels of the image.
    pub labels: Vec<(String, String)>,
    pub secrets: Secrets,
    /// As the command line names it, for hints.
    pub storage_option: Option<PathBuf>,
}

/// What all stages of a build share; nothing in it changes.
pub struct Build<'a> {
    pub request: &'a Request,
    pub storage: &'a Storage,
    pub registry: &'a dyn Registry,
    pub dockerfile: &'a Dockerfile,
    pub plan: &'a Plan,
    /// The Dockerfile as messages name it.
    pub file: String,
    /// `None` with `-`.
    pub context: Option<Directory>,
    /// `.dockerignore`
    pub ignore: Patterns,
}

/// What changes while stages are built.
#[derive(Default)]
pub struct Session {
    /// Number of the last instruction that was announced.
    number: usize,
    finished: HashMap<usize, Rc<Finished>>,
    /// Digests of the context's files; read when first needed.
    memo: Option<Memo>,
    force: force::Observed,
}

impl Build<'_> {
    fn globals(&self) -> &Globals {
        &self.plan.globals
    }

    /// Builds the target and stores it under all its names.
    pub fn run(&self) -> Result<()> {
        schedule::run(self)
    }

    /// Under which name a stage is stored: the target under the image's name, others as TAG/_stageN.
    fn reference_of(&self, index: usize) -> Result<ImageRef> {
        if index == self.plan.target { Ok(self.request.reference.clone()) } else { self.stage_reference(index) }
    }

    fn stage_reference(&self, index: usize) -> Result<ImageRef> {
        self.request.reference.stage(index)
    }
}

impl Session {
    /// A stage that was built before.
    fn stage(&self, n: usize) -> Result<Rc<Finished>> {
        self.finished.get(&n).cloned().ok_or_else(|| Error::new(format!("stage {n} has not been built")))
    }

    fn is_finished(&self, index: usize) -> bool {
        self.finished.contains_key(&index)
    }

    /// Says what an instruction does, with its number.
    fn announce(&mut self, cache: announce::Cache, text: &str) {
        self.number += 1;
        info!("{}", announce::line(self.number, cache, text));
    }
}
