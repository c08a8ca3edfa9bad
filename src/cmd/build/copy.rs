//! COPY and ADD: which tree the files come from, and what they mean for the cache.

use std::cell::RefCell;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::announce;
use super::cache::{Inputs, meanwhile};
use super::image_users::{self, Known};
use super::stage::{Stage, Validity, inside};
use super::web::WebFile;
use crate::container::ownership::{Ledger, Owner};
use crate::container::{self, Emulation, Record};
use crate::dockerfile::plan::{Numbers, Origin};
use crate::dockerfile::remote::Remote;
use crate::dockerfile::state::{CopyStep, File, Step};
use crate::error::{Context, Error, Result};
use crate::image::owners;
use crate::oci::digest::Digest;
use crate::rootfs::copy::{self, Archives, Contents, Fate, Memo, Sources, Target};
use crate::rootfs::{Last, Root};
use crate::sys::file::Stat;
use crate::{info, warning};

/// Does COPY or ADD. Always `true`: there is a layer.
pub fn copy(stage: &mut Stage, what: &CopyStep, step: &Step) -> Result<bool> {
    let records = stage.build.force.emulation() == Emulation::Notify;
    let chown = what.chown.as_deref().filter(|_| records);
    if what.chown.is_some() && !records {
        warning!("not supported, ignored: {} --chown: only --force=notify records owners", step.keyword);
    }
    let (patterns, urls) = sort(what)?;
    if patterns.iter().any(String::is_empty) {
        warning!("{}: a source is empty (is a variable not set?): all is copied", step.keyword);
    }
    let origin = stage.build.plan.origin(stage.index, what.from.as_deref().unwrap_or(""), Numbers::AreStages)?;
    let build = stage.build;
    let mut inputs = Inputs::new(stage.tree.top(), step.keyword);
    inputs.add("sources", format!("{patterns:?}"));
    inputs.add("destination", &what.target);
    if let Some(chmod) = &what.chmod {
        inputs.add("--chmod", chmod.to_string());
    }
    if let Some(chown) = chown {
        inputs.add("--chown", chown);
    }
    if what.parents {
        inputs.add("--parents", "true");
    }
    if !what.exclude.is_empty() {
        inputs.add("--exclude", format!("{:?}", what.exclude));
    }
    if let Some(unpack) = what.unpack {
        inputs.add("--unpack", unpack.to_string());
    }
    for file in &what.files {
        inputs.add(format!("file {}", file.name), &file.content);
    }
    let urls: Vec<WebFile> =
        urls.iter().map(|url| WebFile::find(build, url, what.checksum.as_deref())).collect::<Result<_>>()?;
    for url in &urls {
        inputs.add(format!("url {}", url.name), url.identity());
    }
    let from = match &origin {
        Origin::Context => From::Context,
        Origin::Scratch => return Err(Error::new("COPY --from=scratch: it has no files")),
        Origin::Stage(n) => From::image(build, build.stage(*n)?.image.clone())?,
        Origin::Image(name) => From::image(build, build.named_image(name)?)?,
    };
    let shown = announce::transfer(what, step.keyword);
    let work = Work { build, what, patterns: &patterns };
    let (mut quick, mut seen) = (None, None);
    if matches!(&from, From::Image(_, owners) if !owners.is_empty()) {
        stage.tree.know_owners(build.storage)?;
    }
    if stage.tree.is_cached() && !patterns.is_empty() {
        // The same layers hold the same files. Others may, too: then the files themselves decide.
        if let From::Image(image, owners) = &from {
            if !owners.is_empty() {
                inputs.add("owners", Digest::of(owners.to_string().as_bytes()).to_string());
            }
            let ids: Vec<String> = image.layers.iter().map(ToString::to_string).collect();
            let mut same = inputs.clone();
            same.add("layers", Digest::of(ids.concat().as_bytes()).to_string());
            let key = same.id();
            if stage.reuse(&key, &shown)? {
                return Ok(true);
            }
            quick = Some(key);
        }
        let contents = work.contents(&from)?;
        inputs.add_contents(&contents);
        seen = Some(contents).filter(|_| matches!(from, From::Context));
    }
    let several = what.sources.len() + what.files.len() > 1;
    let target = if several && !what.target.ends_with('/') { format!("{}/", what.target) } else { what.target.clone() };
    let work = &work;
    let change = |tree: &Path, record: &mut Record| {
        let tree = Root::open(tree)?;
        let given = chown.map(|chown| Known::of(&tree)?.owner(chown)).transpose()?;
        let missing = image_users::missing_directories(&tree, &inside(&target))?;
        let record = RefCell::new(record);
        let mode = what.chmod.as_ref().map(|chmod| move |mode: u32, is_dir: bool| chmod.apply(mode, is_dir));
        let chmod = mode.as_ref().map(|m| m as &dyn Fn(u32, bool) -> u32);
        let unpacks =
            |usual| if what.is_add && what.unpack.unwrap_or(usual) { Archives::Unpack } else { Archives::Keep };
        if !patterns.is_empty() {
            work.with(&from, |sources, owners| {
                let made = |source: &Stat, dir: BorrowedFd, name: &[u8]| {
                    let owner = match (owners.get((source.dev, source.ino)), given) {
                        (None, None) => return Ok(()),
                        (known, None) => known.cloned().unwrap_or_default(),
                        (known, Some((uid, gid))) => Owner { uid, gid, ..known.cloned().unwrap_or_default() },
                    };
                    let bits = |mode| chmod.map_or(mode, |chmod| chmod(mode, source.is_dir())) & 0o6000;
                    let owner = Owner { bits: bits(source.mode | owner.bits), ..owner };
                    record.borrow_mut().set(dir, name, owner)
                };
                let to = Target { chmod, archives: unpacks(true), made: Some(&made), ..Target::new(&tree, &target) };
                let copied = copy::run(&work.plan(sources)?, sources, &to)?;
                if copied.skipped > 0 {
                    info!("{}: ignored {} sockets, devices and/or FIFOs", step.keyword, copied.skipped);
                }
                Ok(())
            })?;
        }
        let made = |_: &Stat, dir: BorrowedFd, name: &[u8]| match given {
            None => Ok(()),
            Some((uid, gid)) => record.borrow_mut().set(dir, name, Owner { uid, gid, ..Owner::default() }),
        };
        for url in &urls {
            if url.name.is_empty() && (several || is_directory(&tree, &target)?) {
                return Err(Error::new("can't ADD: the URL's path ends in a slash: no name for the file")
                    .hint("name the file in the destination, which must not end in a slash"));
            }
            let place = url.place(build)?;
            let to = Target { chmod, archives: unpacks(false), made: Some(&made), ..Target::new(&tree, &target) };
            single(place.path(), &to)?;
        }
        let default_mode = |_: u32, _: bool| 0o644;
        let to =
            Target { chmod: Some(chmod.unwrap_or(&default_mode)), made: Some(&made), ..Target::new(&tree, &target) };
        files(build.storage.draft()?.path(), &what.files, &to)?;
        match given {
            Some(owner) => image_users::give(&tree, &missing, owner, *record.borrow_mut()),
            None => Ok(()),
        }
    };
    stage.layer(inputs, step, &shown, |tree, ledger| {
        container::follow(tree, ledger, |record| change(tree, record))?;
        Ok(Validity::from(seen.and_then(|seen| meanwhile(&seen, work.contents(&from)))))
    })?;
    if let (Some(quick), Some(id)) = (quick, stage.tree.top()) {
        build.storage.set_step(&quick, id)?;
    }
    Ok(true)
}

/// What all passes over the sources have in common.
struct Work<'w> {
    build: &'w super::Build<'w>,
    what: &'w CopyStep,
    patterns: &'w [String],
}

impl Work<'_> {
    /// The sources, and what is recorded of their files, for as long as `act` needs them.
    fn with<T>(&self, from: &From, act: impl FnOnce(&Sources, &Record) -> Result<T>) -> Result<T> {
        let build = self.build;
        let ignore = |path: &str, is_dir: bool| fate(&build.ignore, path, is_dir);
        let exclude = |path: &str, is_dir: bool| fate(&self.what.exclude, path, is_dir);
        let view = match from {
            From::Context => None,
            From::Image(image, _) => Some(build.view(image)?),
        };
        let root = match &view {
            None => build.context_root()?,
            Some(view) => Root::open(view.path())?,
        };
        let record = match (&view, from) {
            (Some(view), From::Image(_, owners)) => Record::new(view.path(), owners),
            _ => Record::new(Path::new("/"), &Ledger::new()),
        };
        let sources = Sources {
            root: &root,
            patterns: self.patterns,
            parents: self.what.parents,
            ignore: if view.is_none() { &ignore } else { &copy::keep_all },
            exclude: &exclude,
            never: build.never()?,
        };
        act(&sources, &record)
    }

    fn plan(&self, sources: &Sources) -> Result<copy::Plan> {
        copy::plan(sources).map_err(|e| match &self.what.from {
            Some(from) => e.hint(format!("sources are paths in {}", crate::log::escape(from))),
            None => self.build.in_context(e),
        })
    }

    fn contents(&self, from: &From) -> Result<Contents> {
        self.with(from, |sources, _| {
            let plan = self.plan(sources)?;
            match from {
                From::Context => self.build.contents(&plan, sources),
                From::Image(..) => copy::contents(&plan, sources, &mut Memo::default(), threads()),
            }
        })
    }
}

/// Whether a destination is a directory, by its form or because it is one.
fn is_directory(tree: &Root, target: &str) -> Result<bool> {
    let there = tree.stat(&inside(target), Last::Follow)?;
    Ok(target.ends_with('/') || target.ends_with("/.") || there.is_some_and(|stat| stat.is_dir()))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

enum From {
    Context,
    /// With what root emulation recorded of its files.
    Image(Box<crate::storage::Image>, Ledger),
}

impl From {
    fn image(build: &super::Build, image: crate::storage::Image) -> Result<From> {
        let owners = owners::of(build.storage, &image.layers, build.force.owners())?;
        Ok(From::Image(Box::new(image), owners.unwrap_or_default()))
    }
}

/// Files that the Dockerfile brings along, by way of a directory of their own.
fn files(place: &Path, files: &[File], to: &Target) -> Result<()> {
    for file in files {
        let dir = tempdir(place, &file.name)?;
        fs::write(dir.join(&file.name), &file.content).context(|| format!("can't write {}", file.name))?;
        single(&dir, to)?;
    }
    Ok(())
}

/// Copies the one file of a directory.
fn single(dir: &Path, to: &Target) -> Result<()> {
    let root = Root::open(dir)?;
    let name = root.names(Path::new("."))?.pop().unwrap_or_default();
    let patterns = [literal(&name.to_string_lossy())];
    let sources = Sources {
        root: &root,
        patterns: &patterns,
        parents: false,
        ignore: &copy::keep_all,
        exclude: &copy::keep_all,
        never: None,
    };
    copy::run(&copy::plan(&sources)?, &sources, to).map(drop)
}

fn tempdir(place: &Path, name: &str) -> Result<PathBuf> {
    let dir = place.join(Digest::of(name.as_bytes()).hex());
    fs::create_dir_all(&dir).context(|| format!("can't make {}", dir.display()))?;
    Ok(dir)
}

/// A name as a pattern that matches it alone.
fn literal(name: &str) -> String {
    let mut pattern = String::new();
    for c in name.chars() {
        match c {
            '*' | '?' | '[' => pattern.extend(['[', c, ']']),
            c => pattern.push(c),
        }
    }
    pattern
}

/// Sources in the context or stage, and URLs; others are refused with what to do instead.
fn sort(what: &CopyStep) -> Result<(Vec<String>, Vec<String>)> {
    let (mut patterns, mut urls) = (Vec::new(), Vec::new());
    for source in &what.sources {
        match source {
            Remote::Local(text) => patterns.push(text.clone()),
            Remote::Url(url) => urls.push(url.clone()),
            Remote::Git(git) => {
                return Err(Error::new(format!("not supported: ADD of a Git repository: {git}"))
                    .hint("clone it in a RUN, or before the build into the context"));
            }
        }
    }
    Ok((patterns, urls))
}

fn fate(patterns: &crate::dockerfile::ignore::Patterns, path: &str, is_dir: bool) -> Fate {
    match patterns.excludes(path) {
        false => Fate::Keep,
        true if is_dir && patterns.may_include_below(path) => Fate::EnterOnly,
        true => Fate::Skip,
    }
}

/// What bind mounts need of a source in the context or an image.
impl super::Build<'_> {
    /// What it holds, in the context.
    pub fn bound(&self, source: &str) -> Result<Contents> {
        self.with_context(source, |sources| {
            let plan = copy::plan(sources).map_err(|e| self.in_context(e))?;
            self.contents(&plan, sources)
        })
    }

    /// An error about a source in the context, with where that is.
    fn in_context(&self, e: Error) -> Error {
        match &self.context {
            Some(dir) => e.hint(format!("sources are paths in the context: {}", dir.path().display())),
            None => e,
        }
    }

    /// What it is, elsewhere.
    pub fn identity(&self, origin: &Origin) -> Result<String> {
        let image = match origin {
            Origin::Context | Origin::Scratch => return Ok(String::new()),
            Origin::Stage(n) => self.stage(*n)?.image.clone(),
            Origin::Image(name) => self.named_image(name)?,
        };
        Ok(image.layers.last().map_or(String::new(), ToString::to_string))
    }

    /// Copies a directory of the context, without what `.dockerignore` leaves out.
    pub fn copy_context(&self, source: &str, to: &Root) -> Result<()> {
        let to = Target::new(to, "/");
        self.with_context(source, |sources| copy::run(&copy::plan(sources)?, sources, &to).map(drop))
    }

    pub fn is_ignored(&self, source: &str, is_dir: bool) -> bool {
        let path = inside(source);
        path.components().next().is_some() && fate(&self.ignore, &path.to_string_lossy(), is_dir) == Fate::Skip
    }

    fn with_context<T>(&self, source: &str, act: impl FnOnce(&Sources) -> Result<T>) -> Result<T> {
        let root = self.context_root()?;
        let patterns = [literal(&inside(source).to_string_lossy())];
        let ignore = |path: &str, is_dir: bool| fate(&self.ignore, path, is_dir);
        act(&Sources {
            root: &root,
            patterns: &patterns,
            parents: false,
            ignore: &ignore,
            exclude: &copy::keep_all,
            never: self.never()?,
        })
    }

    /// What files of the context hold, with what is remembered from last time.
    fn contents(&self, plan: &copy::Plan, sources: &Sources) -> Result<Contents> {
        let mut memo = self.memo.borrow_mut();
        let memo = memo.get_or_insert_with(|| Memo::parse(&self.storage.memo(&self.context_key())));
        let contents = copy::contents(plan, sources, memo, threads())?;
        if memo.take_changed() {
            self.storage.set_memo(&self.context_key(), &memo.to_bytes());
        }
        Ok(contents)
    }

    fn context_key(&self) -> String {
        let path = self.context.as_ref().map_or(String::new(), |c| c.path().to_string_lossy().into_owned());
        Digest::of(path.as_bytes()).hex()
    }
}
