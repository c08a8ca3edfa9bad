//! `build`: from a Dockerfile to an image.
//!
//! The file is read and planned whole ([`crate::dockerfile`]); then each stage that the target needs is grown step by
//! step: `stage` says what an instruction means for the image, `tree` keeps its files, `cache` names its layers,
//! `run` and `copy` do the work.

mod announce;
mod ca;
mod cache;
mod config;
mod copy;
mod file;
mod force;
mod image_users;
mod jobs;
mod mounts;
mod run;
mod secret;
mod show;
mod stage;
mod tree;
mod web;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::rc::Rc;

use self::force::Force;
use self::secret::Author;
use self::stage::{Finished, Stage};
use super::Host;
use super::pull::Puller;
use super::remote::{Named, Remotes, Wanted};
use crate::cli::Options;
use crate::container::{self, Bind};
use crate::dockerfile::ast::{self, Dockerfile, Instruction, Kind};
use crate::dockerfile::ignore::Patterns;
use crate::dockerfile::plan::{Base, Origin, Plan, at};
use crate::dockerfile::platform::Platform;
use crate::dockerfile::scope::Globals;
use crate::error::{Context, Error, Result};
use crate::image::View;
use crate::image::layers;
use crate::oci::arch::Arch;
use crate::oci::reference::ImageRef;
use crate::rootfs::Root;
use crate::rootfs::copy::Memo;
use crate::storage::{Access, Image, Mode, Storage};
use crate::{bail, info, verbose, warning};

/// What all stages of a build share.
pub struct Build<'a> {
    pub options: &'a Options,
    pub storage: &'a Storage,
    puller: Puller<'a>,
    /// `None` with `-`.
    context: Option<file::Directory>,
    /// The Dockerfile as messages name it.
    pub file: String,
    pub escape: char,
    pub globals: Globals,
    pub binds: Vec<Bind>,
    /// Certificates that RUN shall trust besides the public ones.
    pub ca: Option<Vec<u8>>,
    /// Name of the image as the user gave it.
    tag: String,
    reference: ImageRef,
    /// Further names.
    others: Vec<ImageRef>,
    pub force: Force,
    pub plan: &'a Plan,
    /// `.dockerignore`
    pub ignore: Patterns,
    memo: RefCell<Option<Memo>>,
    number: Cell<usize>,
    finished: RefCell<HashMap<usize, Rc<Finished>>>,
}

pub fn build(host: &Host, options: &Options, context: &OsStr) -> Result<()> {
    let source = file::Source::find(options, context)?;
    let text = source.read()?;
    let dockerfile = file::parse(&source, &text)?;
    if options.parse_only {
        return show::tree(options, &dockerfile);
    }
    let tag = match options.tags.first() {
        Some(tag) => tag.clone(),
        None => file::infer_tag(&source)?.trim_end_matches(":latest").to_owned(),
    };
    let reference = ImageRef::parse(&tag)?;
    let others = options.tags.iter().skip(1).map(|tag| ImageRef::parse(tag)).collect::<Result<Vec<_>>>()?;
    let build_args = file::build_args(&options.build_args)?;
    for warning in &dockerfile.warnings {
        warning!("{}:{}: {}", source.shown(), warning.line, warning.message);
    }
    secret::check(&options.secrets)?;
    let plan = file::plan(host, options, &dockerfile, &build_args).context(|| source.shown())?;
    std::iter::once(&reference).chain(&others).try_for_each(|output| file::check_output(&plan, output))?;
    if options.dry_run {
        return show::plan(host, &plan, &dockerfile).context(|| source.shown());
    }
    host.check_storage_place()?;
    // Before any thread exists. Where it is refused, a build that needs it says so.
    if let Err(e) = container::enter() {
        verbose!("no user namespace: {e}");
    }
    let storage = host.storage(Access::Write)?;
    let context = source.context()?;
    if let Some(context) = &context {
        storage.refuse_within(context.path())?;
    }
    let remotes = Remotes::new(options, Named::Dockerfile { tag: &reference, images: &plan.images })?;
    let build = Build {
        options,
        storage: &storage,
        puller: Puller { host, options, storage: &storage, remotes: &remotes },
        context,
        file: source.shown(),
        escape: dockerfile.escape,
        globals: plan.globals.clone(),
        binds: binds(&options.binds)?,
        ca: ca::of_site(options, std::env::var_os("SSL_CERT_FILE"))?,
        tag,
        reference,
        others,
        force: Force::new(options),
        plan: &plan,
        ignore: source.ignored()?,
        memo: RefCell::default(),
        number: Cell::new(0),
        finished: RefCell::default(),
    };
    build.run(&dockerfile)
}

impl Build<'_> {
    fn run(&self, dockerfile: &Dockerfile) -> Result<()> {
        let _lock = self.storage.lock_image(&self.reference)?;
        self.check_arguments(dockerfile)?;
        for instruction in &dockerfile.globals {
            self.announce_plain(&instruction.text);
        }
        match self.options.jobs {
            Some(jobs) if jobs > 1 => jobs::run(self, dockerfile, jobs)?,
            Some(_) | None => self.plan.order.iter().try_for_each(|&index| self.grow(dockerfile, index))?,
        }
        self.tag_others()?;
        self.forget_stages()?;
        self.force.conclude();
        info!("grown in {} instructions: {}", self.number.get(), self.tag);
        Ok(())
    }

    /// One stage, from FROM to its image.
    fn grow(&self, dockerfile: &Dockerfile, index: usize) -> Result<()> {
        if self.is_finished(index) {
            return Ok(());
        }
        let from = &dockerfile.stages[index];
        let mut stage = self.begin(index, from)?;
        self.force.look_at(&stage);
        let triggers = stage.take_triggers(from.line);
        let author = match self.plan.stages[index].base {
            Base::Image(_) => Author::BaseImage,
            Base::Scratch | Base::Stage(_) => Author::User,
        };
        // A base image's triggers may want stages that nothing in the file does.
        for origin in self.origins(dockerfile, index, &triggers)? {
            if let Origin::Stage(other) = origin {
                self.grow(dockerfile, other)?;
            }
        }
        for trigger in &triggers {
            info!("trigger of the base image: {}", crate::log::escape(&trigger.text));
            stage.execute(trigger, author)?;
        }
        for instruction in &from.instructions {
            stage.execute(instruction, Author::User)?;
        }
        self.finish(stage, index)
    }

    /// Before any work: each build argument has an ARG, be it in a trigger of a base image, which is pulled for that.
    fn check_arguments(&self, dockerfile: &Dockerfile) -> Result<()> {
        let mut unconsumed = self.plan.unconsumed.clone();
        for &index in &self.plan.order {
            let planned = &self.plan.stages[index];
            let Base::Image(name) = &planned.base else { continue };
            if unconsumed.is_empty() {
                break;
            }
            let image = self.image_of_from(name, planned.platform.as_ref(), dockerfile.stages[index].line)?;
            for trigger in config::begin(&image.config, self.escape)?.1 {
                if let Kind::Arg(args) = trigger.kind {
                    unconsumed.retain(|name| !args.iter().any(|arg| arg.name == *name));
                }
            }
        }
        match unconsumed.is_empty() {
            true => Ok(()),
            false => Err(Error::new(format!("--build-arg: not consumed: {}", unconsumed.join(" ")))
                .hint("no ARG of the Dockerfile has this name")),
        }
    }

    /// The image under the other names that it is to have.
    fn tag_others(&self) -> Result<()> {
        let finished = self.stage(self.plan.target)?;
        for reference in &self.others {
            let _lock = self.storage.lock_image(reference)?;
            let mut image = finished.image.clone();
            image.reference = reference.clone();
            if self.storage.mode() == Mode::Plain {
                // A tree that may be changed belongs to one image.
                let tree = tree::Tree::of(self.storage, &finished.image, self.force.owners())?;
                image.layers = tree.finish(self.storage, &image.config, &reference.to_string())?;
            }
            self.storage.commit_image(&image, Vec::new())?;
            info!("also named: {reference}");
        }
        Ok(())
    }

    /// Where a stage takes files from, with what the triggers of its base bring.
    fn origins(&self, dockerfile: &Dockerfile, index: usize, triggers: &[Instruction]) -> Result<Vec<Origin>> {
        let mut origins = self.plan.origins(dockerfile, index)?;
        for trigger in triggers {
            let wanted = self.plan.origins_of_trigger(dockerfile, index, trigger);
            origins.extend(wanted.context(|| format!("{}: trigger of the base image", self.file))?);
        }
        Ok(origins)
    }

    fn is_finished(&self, index: usize) -> bool {
        self.finished.borrow().contains_key(&index)
    }

    /// Stages that failed builds have left under this name are of no use any more.
    fn forget_stages(&self) -> Result<()> {
        for image in self.storage.images()?.into_iter().flatten() {
            let Some(n) = image.stage().filter(|n| *n == self.plan.target || !self.is_finished(*n)) else { continue };
            if self.stage_reference(n)?.storage_name() == image.reference.storage_name() {
                self.storage.delete_image(&image.reference)?;
            }
        }
        Ok(())
    }

    /// Whether steps of earlier builds count.
    pub fn may_reuse(&self) -> bool {
        !self.options.rebuild && !self.options.no_cache
    }

    /// The next instruction's number.
    pub fn count(&self) -> usize {
        self.number.set(self.number.get() + 1);
        self.number.get()
    }

    fn announce_plain(&self, text: &str) {
        info!("{}", announce::line(self.count(), announce::Cache::Miss, text));
    }

    fn begin(&self, index: usize, from: &ast::Stage) -> Result<Stage<'_>> {
        self.announce_plain(&from.text);
        let planned = &self.plan.stages[index];
        match &planned.base {
            Base::Scratch => Stage::scratch(self, index),
            Base::Stage(n) => Stage::of_stage(self, index, &*self.stage(*n)?, &planned.triggers),
            Base::Image(name) => {
                Stage::of_image(self, index, &self.image_of_from(name, planned.platform.as_ref(), from.line)?)
            }
        }
    }

    /// The build context; an error with `-`.
    pub fn context_root(&self) -> Result<Root> {
        let context = self.context.as_ref().ok_or_else(|| {
            Error::new("there is no context to copy from")
                .hint("the context was given as -: name a directory instead (the Dockerfile may still come from -f -)")
        })?;
        context.open()
    }

    /// The storage directory, which is never copied even if it lies in the context.
    pub fn never(&self) -> Result<Option<(u64, u64)>> {
        self.storage.inode().map(Some)
    }

    /// An image's tree, to be read.
    pub fn view(&self, image: &Image) -> Result<View> {
        crate::image::view(self.storage, &image.layers)
    }

    /// Architecture that images are built for.
    pub fn arch(&self) -> Arch {
        match Wanted::new(self.puller.host, self.options) {
            Wanted::Arch(arch) => arch,
            Wanted::Yolo => self.puller.host.arch().clone(),
        }
    }

    /// A stage that was built before.
    pub fn stage(&self, n: usize) -> Result<Rc<Finished>> {
        self.finished.borrow().get(&n).cloned().ok_or_else(|| Error::new(format!("stage {n} has not been built")))
    }

    /// The image of the FROM in that line.
    fn image_of_from(&self, name: &str, platform: Option<&Platform>, line: usize) -> Result<Image> {
        self.base_image(name, platform).context(|| format!("{}: {}", self.file, at(line, "FROM")))
    }

    /// An image that COPY or a mount names.
    pub fn named_image(&self, name: &str) -> Result<Image> {
        self.base_image(name, None).context(|| format!("no stage is named {name}, so it is taken for an image"))
    }

    /// An image of storage, pulled if it is not there, or not for the platform that FROM asks for.
    fn base_image(&self, name: &str, platform: Option<&Platform>) -> Result<Image> {
        let reference = ImageRef::parse_strict(name)?;
        if reference.storage_name() == self.reference.storage_name() {
            bail!("output image ref same as FROM: {reference}");
        }
        let wanted = match platform {
            Some(Platform { arch, variant, .. }) => Wanted::Arch(Arch::from_parts(arch, Some(variant))),
            None => Wanted::new(self.puller.host, self.options),
        };
        let unfit = |image: &Image| -> Option<String> {
            if !image.layers.iter().all(|id| self.storage.has_layer(id)) {
                return Some("lacks layers".to_owned());
            }
            match (&wanted, platform.and(image.config.arch())) {
                (Wanted::Arch(wanted), Some(have)) if !wanted.accepts(&have) => {
                    Some(format!("is for {have}, not {wanted}"))
                }
                _ => None,
            }
        };
        // Also with --no-cache, as with the original: nothing needs to be downloaded.
        match self.storage.image(&reference)? {
            None => verbose!("base image not found, pulling"),
            Some(image) => match unfit(&image) {
                Some(why) => warning!("image {reference} {why}: pulling it again"),
                None => {
                    verbose!("base image found: {reference}");
                    return layers::frozen(self.storage, image);
                }
            },
        }
        let _lock = self.storage.lock_image(&reference)?;
        // Whoever had the lock may have pulled it.
        if let Some(image) = self.storage.image(&reference)?.filter(|image| unfit(image).is_none()) {
            return layers::frozen(self.storage, image);
        }
        self.puller.announce(&reference, &wanted);
        self.puller.to_storage(&reference, &wanted)
    }

    /// Stores the stage.
    fn finish(&self, stage: Stage, index: usize) -> Result<()> {
        let finished = stage.finish(self.reference_of(index)?)?;
        self.storage.commit_image(&finished.image, Vec::new())?;
        self.finished.borrow_mut().insert(index, Rc::new(finished));
        Ok(())
    }

    /// Under which name a stage is stored: the target under the image's name, others as TAG/_stageN.
    fn reference_of(&self, index: usize) -> Result<ImageRef> {
        if index == self.plan.target { Ok(self.reference.clone()) } else { self.stage_reference(index) }
    }

    pub fn stage_reference(&self, index: usize) -> Result<ImageRef> {
        self.reference.stage(index)
    }
}

/// `--bind SRC[:DST]`
fn binds(texts: &[String]) -> Result<Vec<Bind>> {
    texts
        .iter()
        .map(|text| {
            let (source, target) = text.split_once(':').unwrap_or((text, text));
            if source.is_empty() || !target.starts_with('/') {
                return Err(Error::usage(format!("--bind: {text:?}: expected SRC[:DST] with an absolute DST")));
            }
            Ok(Bind::new(source, target))
        })
        .collect()
}
