//! `build`: what the command line asks for, parsed, for [`crate::builder`].

mod show;

use std::ffi::OsStr;
use std::num::NonZeroUsize;

use super::Host;
use super::pull::Puller;
use super::remote::{self, Named, Remotes};
use crate::builder::{self, Build, Mode, Registry, Request, Secrets, Source};
use crate::cli::{self, Options};
use crate::container::{self, Bind};
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::conceal::conceal;
use crate::dockerfile::plan::{self, Base, Plan};
use crate::dockerfile::platform::Platform;
use crate::dockerfile::{self, diagnostic};
use crate::error::{Context, Error, Result, bail};
use crate::log::{verbose, warning};
use crate::oci::arch::{Arch, Wanted};
use crate::oci::reference::ImageRef;
use crate::storage::{Access, Image};

pub fn build(host: &Host, options: &Options, context: &OsStr) -> Result<()> {
    // Whatever of a Dockerfile an error cites.
    try_build(host, options, context).map_err(|e| e.map_texts(conceal))
}

fn try_build(host: &Host, options: &Options, context: &OsStr) -> Result<()> {
    if !options.ignored.is_empty() {
        warning!("not supported, ignored: {}", options.ignored.join(", "));
    }
    let source = Source::find(options.file.as_deref(), context)?;
    let text = source.read()?;
    let dockerfile =
        dockerfile::parse(&text).map_err(|diagnostics| diagnostic::error(&source.shown(), &diagnostics))?;
    if options.parse_only {
        return show::tree(options, &dockerfile);
    }
    let tag = match options.tags.first() {
        Some(tag) => tag.clone(),
        None => source.infer_tag()?.trim_end_matches(":latest").to_owned(),
    };
    let reference = ImageRef::parse(&tag)?;
    let others = options.tags.iter().skip(1).map(|tag| ImageRef::parse(tag)).collect::<Result<Vec<_>>>()?;
    let build_args = builder::build_args(&options.build_args)?;
    for warning in &dockerfile.warnings {
        warning!("{}:{}: {}", source.shown(), warning.line, warning.message);
    }
    let secrets = Secrets::parse(&options.secrets, &options.ssh)?;
    let force = force(options)?;
    let plan = plan(host, options, &dockerfile, &build_args).context(|| source.shown())?;
    std::iter::once(&reference).chain(&others).try_for_each(|output| check_output(&plan, output))?;
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
    let wanted = remote::wanted(host, options);
    let remotes = Remotes::new(options, Named::Dockerfile { tag: &reference, images: &plan.images })?;
    let request = Request {
        tag,
        reference: reference.clone(),
        others,
        arch: match &wanted {
            Wanted::Arch(arch) => arch.clone(),
            Wanted::Yolo => host.arch().clone(),
        },
        wanted,
        binds: binds(&options.binds)?,
        ca: builder::site_certificates(options.ca.as_deref(), std::env::var_os("SSL_CERT_FILE"))?,
        force: builder::Force::new(force.map(mode), !options.no_force_detect),
        jobs: options.jobs.and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN),
        reuse: !options.rebuild && !options.no_cache,
        reuse_downloads: !options.no_cache,
        why: options.why,
        labels: options.labels.iter().map(|text| label(text)).collect::<Result<_>>()?,
        secrets,
        storage_option: options.storage.clone(),
    };
    let puller = Puller { host, options, storage: &storage, remotes: &remotes };
    if options.pull {
        pull_bases(&puller, &plan, &request.wanted)?;
    }
    let build = Build {
        request: &request,
        storage: &storage,
        registry: &puller,
        dockerfile: &dockerfile,
        plan: &plan,
        file: source.shown(),
        context,
        ignore: source.ignored()?,
    };
    build.run()?;
    storage.free_whole_trees()
}

/// `--pull`: those that FROM names without a platform of its own; the others are pulled where they are missing.
fn pull_bases(puller: &Puller, plan: &Plan, wanted: &Wanted) -> Result<()> {
    let mut done = Vec::new();
    for stage in plan.order.iter().filter_map(|&index| plan.stages.get(index)) {
        let Base::Image(name) = &stage.base else { continue };
        if stage.platform.is_some() || done.contains(&name) {
            continue;
        }
        let reference = ImageRef::parse_strict(name)?;
        let _lock = puller.storage.lock_image(&reference)?;
        puller.pull(&reference, wanted)?;
        done.push(name);
    }
    Ok(())
}

/// `--label KEY=VALUE`
fn label(text: &str) -> Result<(String, String)> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err(Error::usage(format!("--label: {text:?}: expected KEY=VALUE"))),
        (key, value) => Ok((key.to_owned(), value.to_owned())),
    }
}

impl Registry for Puller<'_> {
    fn pull(&self, reference: &ImageRef, wanted: &Wanted) -> Result<Image> {
        self.announce(reference, wanted);
        self.to_storage(reference, wanted)
    }
}

/// `--force`, else `$CH_IMAGE_FORCE`, unless an option refuses to think of it.
fn force(options: &Options) -> Result<Option<cli::Force>> {
    let variable = std::env::var("CH_IMAGE_FORCE").unwrap_or_default();
    match options.force {
        None if !options.no_force_detect && !variable.is_empty() => {
            cli::Force::parse(&variable).context(|| "CH_IMAGE_FORCE").map(Some)
        }
        said => Ok(said),
    }
}

fn mode(force: cli::Force) -> Mode {
    match force {
        cli::Force::Fakeroot => Mode::Fakeroot,
        cli::Force::Seccomp => Mode::Seccomp,
        cli::Force::Notify => Mode::Notify,
        cli::Force::None => Mode::None,
    }
}

/// Plans the build. Image references that nobody could pull are found here, before any work.
fn plan(host: &Host, options: &Options, dockerfile: &Dockerfile, args: &[(String, String)]) -> Result<Plan> {
    let own = host.arch();
    let of = |arch: &Arch| Platform::linux(arch.family(), arch.variant().unwrap_or(""));
    let target = match options.arch.as_deref() {
        None | Some("host" | "yolo") => of(own),
        Some(name) => of(&Arch::new(name)),
    };
    let options = plan::Options {
        target: options.target.as_deref(),
        build_args: args,
        build_platform: of(own),
        target_platform: target,
    };
    let plan = plan::plan(dockerfile, &options)?;
    for image in &plan.images {
        ImageRef::parse_strict(&image.name).context(|| plan::at(image.line, image.keyword))?;
    }
    Ok(plan)
}

/// An image can't be built on itself: its name would mean two things while it grows.
fn check_output(plan: &Plan, output: &ImageRef) -> Result<()> {
    for image in &plan.images {
        let image = ImageRef::parse_strict(&image.name)?;
        if image.storage_name() == output.storage_name() {
            bail!("output image ref same as FROM: {image}");
        }
    }
    Ok(())
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
