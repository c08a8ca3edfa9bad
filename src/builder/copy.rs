//! COPY and ADD: which tree the files come from, and what they mean for the cache.
//!
//! [`decide`] looks at the sources and changes nothing; [`Copying::perform`] copies.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::announce;
use super::cache_key::{Inputs, meanwhile};
use super::context::{fate, literal, threads};
use super::image_users::{self, Known};
use super::stage::{Stage, Trust, Validity, Work, inside};
use super::web::WebFile;
use super::{Build, Session};
use crate::container::ownership::{Ledger, Owner};
use crate::container::{self, Emulation, Record};
use crate::dockerfile::plan::{Numbers, Origin};
use crate::dockerfile::remote::Remote;
use crate::dockerfile::state::{CopyStep, File, Step};
use crate::error::{Context, Error, Result};
use crate::image::{self, owners};
use crate::log::{info, warning};
use crate::oci::digest::Digest;
use crate::rootfs::copy::{self, Archived, Archives, Contents, Memo, Sources, Target};
use crate::rootfs::{Last, Root, Told};
use crate::sys::file::Stat;

/// Does COPY or ADD.
pub fn copy(stage: &mut Stage, session: &mut Session, what: &CopyStep, step: &Step) -> Result<()> {
    let build = stage.build;
    let (mut work, mut copying) = decide(stage, session, what, step)?;
    if copying.has_owners() {
        stage.tree.know_owners(build.storage)?;
    }
    let mut quick = None;
    if !copying.patterns.is_empty() {
        quick = copying.same_layers(&mut work.inputs);
        if let Some(key) = &quick
            && stage.reuse(session, key, &work.shown)?
        {
            return Ok(());
        }
        copying.look(build, session, &mut work.inputs)?;
    }
    stage.layer(session, work, step, |session, tree, ledger| copying.perform(build, session, tree, ledger))?;
    if let (Some(quick), Some(id)) = (quick, stage.tree.top()) {
        build.storage.set_step(&quick, id)?;
    }
    Ok(())
}

/// A COPY or ADD, decided.
struct Copying<'w> {
    what: &'w CopyStep,
    keyword: &'static str,
    from: From,
    patterns: Vec<String>,
    urls: Vec<WebFile>,
    /// Where owners are recorded.
    chown: Option<&'w str>,
    /// Whether owners are recorded at all.
    records: bool,
    /// Ends in a slash if there are several sources.
    target: String,
    /// What files of the context held before: they may change at any time.
    seen: Option<Contents>,
}

/// Which tree the files come from.
enum From {
    Context,
    /// With what root emulation recorded of its files.
    Image(Box<crate::storage::Image>, Ledger),
}

impl From {
    fn image(build: &Build, image: crate::storage::Image) -> Result<From> {
        let owners = owners::of(build.storage, &image.layers, build.request.force.owners())?;
        Ok(From::Image(Box::new(image), owners.unwrap_or_default()))
    }
}

fn decide<'w>(stage: &Stage, session: &Session, what: &'w CopyStep, step: &Step) -> Result<(Work, Copying<'w>)> {
    let build = stage.build;
    let records = build.request.force.emulation() == Emulation::Notify;
    let chown = what.chown.as_deref().filter(|_| records);
    if what.chown.is_some() && !records {
        warning!("not supported, ignored: {} --chown: only --force=notify records owners", step.keyword);
    }
    let (patterns, urls) = sort(what)?;
    if patterns.iter().any(String::is_empty) {
        warning!("{}: a source is empty (is a variable not set?): all is copied", step.keyword);
    }
    let origin = build.plan.origin(stage.index, what.from.as_deref().unwrap_or(""), Numbers::AreStages)?;
    let mut inputs = Inputs::new(stage.tree.top(), step.keyword);
    inputs.add("sources", format!("{patterns:?}"));
    inputs.add("destination", &what.target);
    if let Some(chmod) = &what.chmod {
        inputs.add("--chmod", chmod.to_string());
    }
    if let Some(chown) = chown {
        inputs.add("--chown", chown);
    }
    if what.is_add && records {
        inputs.add("owners of archives", "recorded");
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
        Origin::Stage(n) => From::image(build, session.stage(*n)?.image.clone())?,
        Origin::Image(name) => From::image(build, build.named_image(name)?)?,
    };
    let several = what.sources.len() + what.files.len() > 1;
    let target = if several && !what.target.ends_with('/') { format!("{}/", what.target) } else { what.target.clone() };
    let shown = announce::transfer(what, step.keyword);
    let keyword = step.keyword;
    Ok((
        Work { inputs, shown, trust: Trust::Image },
        Copying { what, keyword, from, patterns, urls, chown, records, target, seen: None },
    ))
}

impl Copying<'_> {
    fn has_owners(&self) -> bool {
        matches!(&self.from, From::Image(_, owners) if !owners.is_empty())
    }

    /// The same layers hold the same files: a name by which the result is known without reading them. Others may hold
    /// them, too: then the files themselves decide.
    fn same_layers(&self, inputs: &mut Inputs) -> Option<crate::storage::LayerId> {
        let From::Image(image, owners) = &self.from else { return None };
        if !owners.is_empty() {
            inputs.add("owners", Digest::of(owners.to_string().as_bytes()).to_string());
        }
        let ids: Vec<String> = image.layers.iter().map(ToString::to_string).collect();
        let mut same = inputs.clone();
        same.add("layers", Digest::of(ids.concat().as_bytes()).to_string());
        Some(same.id())
    }

    /// Adds what the sources hold to what the result depends on.
    fn look(&mut self, build: &Build, session: &mut Session, inputs: &mut Inputs) -> Result<()> {
        let contents = self.contents(build, session)?;
        inputs.add_contents(&contents);
        self.seen = Some(contents).filter(|_| matches!(self.from, From::Context));
        Ok(())
    }

    fn perform(
        &self,
        build: &Build,
        session: &mut Session,
        tree: &Path,
        ledger: &mut Ledger,
    ) -> Result<(Validity, ())> {
        container::follow(tree, ledger, |record| self.copy_all(build, tree, record))?;
        let changes = self.seen.as_ref().and_then(|seen| meanwhile(seen, self.contents(build, session)));
        Ok((Validity::from(changes), ()))
    }

    fn copy_all(&self, build: &Build, tree: &Path, record: &mut Record) -> Result<()> {
        let tree = Root::open(tree)?;
        let given = self.chown.map(|chown| Known::of(&tree)?.owner(chown)).transpose()?;
        let missing = image_users::missing_directories(&tree, &inside(&self.target))?;
        let record = RefCell::new(record);
        let mode = self.what.chmod.as_ref().map(|chmod| move |mode: u32, is_dir: bool| chmod.apply(mode, is_dir));
        let chmod = mode.as_ref().map(|m| m as &dyn Fn(u32, bool) -> u32);
        let archived = ArchiveOwners { record: &record, given, ledger: RefCell::default() };
        let archived = Some(&archived as &dyn Archived).filter(|_| self.records);
        let to = Target { chmod, archived, ..Target::new(&tree, &self.target) };
        if !self.patterns.is_empty() {
            self.copy_sources(build, &to, given, &record)?;
        }
        let made = |_: &Stat, dir: BorrowedFd, name: &[u8]| match given {
            None => Ok(()),
            Some((uid, gid)) => record.borrow_mut().set(dir, name, Owner { uid, gid, ..Owner::default() }),
        };
        let to = Target { made: Some(&made), ..to };
        self.copy_downloads(build, &tree, &Target { archives: self.archives(false), ..to })?;
        let default_mode = |_: u32, _: bool| 0o644;
        files(
            build.storage.draft()?.path(),
            &self.what.files,
            &Target { chmod: Some(chmod.unwrap_or(&default_mode)), ..to },
        )?;
        match given {
            Some(owner) => image_users::give(&tree, &missing, owner, *record.borrow_mut()),
            None => Ok(()),
        }
    }

    /// Whether archives are unpacked: `usual` where `--unpack` does not say it.
    fn archives(&self, usual: bool) -> Archives {
        if self.what.is_add && self.what.unpack.unwrap_or(usual) { Archives::Unpack } else { Archives::Keep }
    }

    /// Files of the context or an image. `given`: user and group of `--chown`.
    fn copy_sources(
        &self,
        build: &Build,
        to: &Target,
        given: Option<(u32, u32)>,
        record: &RefCell<&mut Record>,
    ) -> Result<()> {
        self.with(build, |sources, owners| {
            let made = |source: &Stat, dir: BorrowedFd, name: &[u8]| {
                let owner = match (owners.get((source.dev, source.ino)), given) {
                    (None, None) => return Ok(()),
                    (known, None) => known.cloned().unwrap_or_default(),
                    (known, Some((uid, gid))) => Owner { uid, gid, ..known.cloned().unwrap_or_default() },
                };
                let bits = |mode| to.chmod.map_or(mode, |chmod| chmod(mode, source.is_dir())) & 0o6000;
                let owner = Owner { bits: bits(source.mode | owner.bits), ..owner };
                record.borrow_mut().set(dir, name, owner)
            };
            let to = Target { archives: self.archives(true), made: Some(&made), ..*to };
            let copied = copy::run(&self.plan(build, sources)?, sources, &to)?;
            if copied.skipped > 0 {
                info!("{}: ignored {} sockets, devices and/or FIFOs", self.keyword, copied.skipped);
            }
            Ok(())
        })
    }

    /// Files of web servers.
    fn copy_downloads(&self, build: &Build, tree: &Root, to: &Target) -> Result<()> {
        for url in &self.urls {
            if url.name.is_empty() && is_directory(tree, &self.target)? {
                return Err(Error::new("can't ADD: the URL's path ends in a slash: no name for the file")
                    .hint("name the file in the destination, which must not end in a slash"));
            }
            single(url.place(build)?.path(), to)?;
        }
        Ok(())
    }

    /// The sources, and what is recorded of their files, for as long as `act` needs them.
    fn with<T>(&self, build: &Build, act: impl FnOnce(&Sources, &Record) -> Result<T>) -> Result<T> {
        let ignore = |path: &str, is_dir: bool| fate(&build.ignore, path, is_dir);
        let exclude = |path: &str, is_dir: bool| fate(&self.what.exclude, path, is_dir);
        let view = match &self.from {
            From::Context => None,
            From::Image(image, _) => Some(image::view(build.storage, &image.layers)?),
        };
        let root = match &view {
            None => build.context_root()?,
            Some(view) => Root::open(view.path())?,
        };
        let record = match (&view, &self.from) {
            (Some(view), From::Image(_, owners)) => Record::new(view.path(), owners),
            _ => Record::new(Path::new("/"), &Ledger::new()),
        };
        let sources = Sources {
            root: &root,
            patterns: &self.patterns,
            parents: self.what.parents,
            ignore: if view.is_none() { &ignore } else { &copy::keep_all },
            exclude: &exclude,
            never: build.never()?,
        };
        act(&sources, &record)
    }

    fn plan(&self, build: &Build, sources: &Sources) -> Result<copy::Plan> {
        copy::plan(sources).map_err(|e| match &self.what.from {
            Some(from) => e.hint(format!("sources are paths in {}", crate::log::escape(from))),
            None => build.in_context(e),
        })
    }

    fn contents(&self, build: &Build, session: &mut Session) -> Result<Contents> {
        self.with(build, |sources, _| {
            let plan = self.plan(build, sources)?;
            match self.from {
                From::Context => session.contents(build, &plan, sources),
                From::Image(..) => copy::contents(&plan, sources, &mut Memo::default(), threads()),
            }
        })
    }
}

/// Records what archives say of owners, or `--chown`.
struct ArchiveOwners<'r, 't> {
    record: &'r RefCell<&'t mut Record>,
    given: Option<(u32, u32)>,
    /// What is known of the members so far, by their paths.
    ledger: RefCell<Ledger>,
}

impl Archived for ArchiveOwners<'_, '_> {
    fn told(&self, dir: BorrowedFd, path: &[u8], told: Told) -> io::Result<()> {
        let mut ledger = self.ledger.borrow_mut();
        let owner = match told {
            // What the archive says of `./` is about the directory where it was made.
            _ if path.is_empty() => return Ok(()),
            Told::New => Owner::default(),
            Told::Is(owner) => owners::owner_of(&owner),
            Told::Link(target) => {
                ledger.link(&target, path);
                return Ok(());
            }
            Told::Gone => {
                ledger.forget(path);
                return Ok(());
            }
            Told::Moved(to) => {
                ledger.rename(path, &to);
                return Ok(());
            }
            Told::AsIn(..) => return Ok(()),
        };
        let owner = self.given.map_or(owner.clone(), |(uid, gid)| Owner { uid, gid, ..owner });
        if owner.is_plain() && !self.record.borrow().is_empty() {
            self.forget(dir, path)?;
        }
        ledger.set(path, owner);
        Ok(())
    }

    fn unpacked(&self, dir: BorrowedFd) -> Result<()> {
        let root = Root::from_fd(dir.try_clone_to_owned()?);
        for (path, owner) in self.ledger.take().iter() {
            let file = root.open_itself(Path::new(OsStr::from_bytes(path)))?;
            self.record.borrow_mut().replace(file, owner.clone())?;
        }
        Ok(())
    }
}

impl ArchiveOwners<'_, '_> {
    /// A directory that was there may have been another's.
    fn forget(&self, dir: BorrowedFd, path: &[u8]) -> io::Result<()> {
        let root = Root::from_fd(dir.try_clone_to_owned()?);
        let there = root.open_itself(Path::new(OsStr::from_bytes(path)));
        there.map_or(Ok(()), |file| self.record.borrow_mut().replace(file, Owner::default()))
    }
}

/// Whether a destination is a directory, by its form or because it is one.
fn is_directory(tree: &Root, target: &str) -> Result<bool> {
    let there = tree.stat(&inside(target), Last::Follow)?;
    Ok(target.ends_with('/') || target.ends_with("/.") || there.is_some_and(|stat| stat.is_dir()))
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
