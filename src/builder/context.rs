//! Where is the Dockerfile, what is the context, and what was said beside them?

use std::env::VarError;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::stage::inside;
use super::{Build, Session};
use crate::dockerfile;
use crate::dockerfile::ignore::Patterns;
use crate::error::{Context, Error, Result};
use crate::oci::digest::Digest;
use crate::oci::reference;
use crate::rootfs::copy::{self, Contents, Fate, Memo, Sources, Target};
use crate::rootfs::{Last, Root};
use crate::sys::file::{self, O_DIRECTORY, O_PATH};

/// Largest Dockerfile, bytes.
const MAX_DOCKERFILE: u64 = 8 << 20;
const ELSEWHERE: &str = "-f names the Dockerfile, if it is not CONTEXT/Dockerfile";

/// The Dockerfile's place and the context's.
pub struct Source {
    file: Place,
    /// `None`: no context (`-`).
    context: Option<PathBuf>,
    /// The context as it was found.
    held: Option<OwnedFd>,
}

/// The build context. It may belong to somebody else, who could put another directory in its place: it is opened anew
/// where it is needed, since each mount namespace wants a descriptor of its own, and must be what it was.
pub struct Directory {
    /// Absolute and without links.
    path: PathBuf,
    held: OwnedFd,
}

impl Directory {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn open(&self) -> Result<Root> {
        let root = Root::open(&self.path)?;
        let (was, now) = (file::fstat(self.held.as_fd())?, file::fstat(root.as_fd())?);
        if (was.dev, was.ino) != (now.dev, now.ino) {
            return Err(Error::new(format!(
                "another directory has come to the context's place: {}",
                self.path.display()
            ))
            .hint("somebody renames directories there: copy the context to a place of your own"));
        }
        Ok(root.beneath())
    }
}

enum Place {
    Stdin,
    /// By `-f`: the user's own word, so it may lie anywhere and be anything that can be read.
    Named(PathBuf),
    /// One of the usual names in the context, which somebody else may have made: no FIFO, and no link that leads out.
    Usual(PathBuf),
}

impl Source {
    pub fn find(file: Option<&OsStr>, context: &OsStr) -> Result<Source> {
        let text = context.to_string_lossy();
        if ["http://", "https://", "git://", "git@"].iter().any(|scheme| text.starts_with(scheme)) {
            let shown = dockerfile::remote::shown(&text);
            return Err(Error::new(format!("not supported: URL context: {}", crate::log::escape(&shown)))
                .hint("download it first: git clone URL, or curl URL | tar x; then name the directory"));
        }
        let context = (context != "-").then(|| PathBuf::from(context));
        let dockerfile = match (file, &context) {
            (Some(file), _) if file == "-" => Place::Stdin,
            (Some(file), _) => Place::Named(PathBuf::from(file)),
            // Docker: a lone hyphen is a Dockerfile on standard input without a context.
            (None, None) => Place::Stdin,
            (None, Some(context)) => Place::Usual(default_file(context)),
        };
        let mut held = None;
        if let Some(context) = &context {
            let meta = fs::metadata(context).context(|| format!("can't use context {}", context.display()))?;
            if !meta.is_dir() {
                return Err(Error::new(format!("context is not a directory: {}", context.display())));
            }
            let opened = file::openat(file::CWD, context.as_os_str().as_bytes(), O_PATH | O_DIRECTORY, 0);
            held = Some(opened.context(|| format!("can't use context {}", context.display()))?);
        }
        Ok(Source { file: dockerfile, context, held })
    }

    /// How messages name the Dockerfile.
    pub fn shown(&self) -> String {
        self.path().map_or("-".to_owned(), |f| crate::log::escape(&f.to_string_lossy()).into_owned())
    }

    pub fn path(&self) -> Option<&Path> {
        match &self.file {
            Place::Stdin => None,
            Place::Named(path) | Place::Usual(path) => Some(path),
        }
    }

    pub fn read(&self) -> Result<Vec<u8>> {
        match &self.file {
            Place::Stdin => limited(io::stdin().lock(), "-"),
            // A FIFO (as shells make for <(command)) is waited for.
            Place::Named(path) => {
                let file = File::open(path).context(|| format!("can't read {}", self.shown()));
                let file = file.map_err(|e| e.hint(ELSEWHERE))?;
                if file.metadata().context(|| format!("can't read {}", self.shown()))?.is_dir() {
                    return Err(self.is_directory());
                }
                limited(file, &self.shown())
            }
            Place::Usual(path) => {
                if path.is_dir() {
                    return Err(self.is_directory());
                }
                match within(path.parent().unwrap_or(Path::new("/")), path)? {
                    Some(file) => limited(file, &self.shown()),
                    None => Err(Error::from(io::Error::from_raw_os_error(libc::ENOENT))
                        .context(format!("can't read {}", self.shown()))
                        .hint(ELSEWHERE)),
                }
            }
        }
    }

    fn is_directory(&self) -> Error {
        Error::new(format!("can't read {}: it is a directory", self.shown()))
            .hint("-f names the Dockerfile, the operand the context directory")
    }

    /// The context; `None` with `-`.
    pub fn context(&self) -> Result<Option<Directory>> {
        let (Some(context), Some(held)) = (&self.context, &self.held) else { return Ok(None) };
        let failed = || format!("can't use context {}", context.display());
        let path = fs::canonicalize(context).context(failed)?;
        Ok(Some(Directory { path, held: held.try_clone().context(failed)? }))
    }

    /// What `<Dockerfile>.dockerignore` says if it is there, else `.containerignore` or `.dockerignore` of the context
    /// (A.15).
    pub fn ignored(&self) -> Result<Patterns> {
        let beside = self.path().map(|file| {
            let mut name = file.to_owned().into_os_string();
            name.push(".dockerignore");
            let path = PathBuf::from(name);
            // In the context, links may lead anywhere in it.
            let top = self.context.clone().filter(|context| path.starts_with(context));
            (top.unwrap_or_else(|| path.parent().unwrap_or(Path::new("/")).to_owned()), path)
        });
        let names = [".containerignore", ".dockerignore"];
        let usual = self.context.iter().flat_map(|c| names.map(|name| (c.clone(), c.join(name))));
        for (top, path) in beside.into_iter().chain(usual) {
            if let Some(file) = within(&top, &path)? {
                let text = limited(file, &path.display().to_string())?;
                return Patterns::parse(&text).context(|| path.display().to_string());
            }
        }
        Patterns::parse(b"")
    }

    /// The image's name where `-t` does not say it (manual page, "Build").
    pub fn infer_tag(&self) -> Result<String> {
        if self.context.is_none() && matches!(self.file, Place::Stdin) {
            return Err(
                Error::new("no name for the image: neither the Dockerfile nor the context has one").hint("say -t NAME")
            );
        }
        // The name as it was given, also that of a link.
        let context = match &self.context {
            Some(context) => {
                let absolute =
                    std::path::absolute(context).context(|| format!("can't use context {}", context.display()))?;
                dockerfile::path::clean(&absolute.to_string_lossy())
            }
            None => "/".to_owned(),
        };
        let file = self.path().map_or(String::new(), |f| f.to_string_lossy().into_owned());
        reference::tag_from_name(&file, &context)
    }
}

/// Opens a file at `path` in or below `top` that nobody named; `None` if there is none. It must be a regular file, and
/// links may not lead out of `top`: lines of it are shown in messages, and what is in a context may be somebody else's.
fn within(top: &Path, path: &Path) -> Result<Option<File>> {
    let failed = || format!("can't read {}", path.display());
    let dir = if top.as_os_str().is_empty() { Path::new(".") } else { top };
    let root = Root::open(dir).context(failed)?.beneath();
    let inner = path.strip_prefix(top).unwrap_or(path);
    if root.leads_out(inner) {
        return Err(Error::new(format!("{}: it is a link that leads out of {}", failed(), dir.display()))
            .hint("copy the file there; of a Dockerfile, -f may name the other place"));
    }
    match root.stat(inner, Last::Follow).context(failed)? {
        None => Ok(None),
        Some(_) => root.open_file(inner).map(Some).context(failed),
    }
}

/// Reads all, as long as it is no more than a Dockerfile may be.
fn limited(file: impl Read, shown: &str) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(MAX_DOCKERFILE + 1).read_to_end(&mut text).context(|| format!("can't read {shown}"))?;
    if text.len() as u64 > MAX_DOCKERFILE {
        return Err(Error::new(format!("{shown} is larger than {} MiB", MAX_DOCKERFILE >> 20)));
    }
    Ok(text)
}

/// `Dockerfile`; else the names that others use, if they are there.
fn default_file(context: &Path) -> PathBuf {
    let names = ["Dockerfile", "Containerfile", "dockerfile"];
    let found = names.iter().map(|n| context.join(n)).find(|p| p.exists());
    found.unwrap_or_else(|| context.join(names[0]))
}

/// `--build-arg KEY[=VALUE]`
pub fn build_args(texts: &[String]) -> Result<Vec<(String, String)>> {
    texts
        .iter()
        .map(|text| match text.split_once('=') {
            Some(("", _)) => Err(Error::usage(format!("--build-arg: no name: {text}")).hint("say NAME=VALUE")),
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => match std::env::var(text) {
                Ok(value) => Ok((text.clone(), value)),
                Err(VarError::NotUnicode(_)) => {
                    Err(Error::new(format!("--build-arg: {text}: its value in the environment is not UTF-8")))
                }
                Err(VarError::NotPresent) => {
                    Err(Error::new(format!("--build-arg: {text}: no value and not in environment"))
                        .hint(format!("say --build-arg {text}=VALUE, or export {text}")))
                }
            },
        })
        .collect()
}

impl Build<'_> {
    /// The build context; an error with `-`.
    pub(super) fn context_root(&self) -> Result<Root> {
        let context = self.context.as_ref().ok_or_else(|| {
            Error::new("there is no context to copy from")
                .hint("the context was given as -: name a directory instead (the Dockerfile may still come from -f -)")
        })?;
        context.open()
    }

    /// The storage directory, which is never copied even if it lies in the context.
    pub(super) fn never(&self) -> Result<Option<(u64, u64)>> {
        self.storage.inode().map(Some)
    }

    /// What a source in the context holds.
    pub(super) fn bound(&self, session: &mut Session, source: &str) -> Result<Contents> {
        self.with_context(source, |sources| {
            let plan = copy::plan(sources).map_err(|e| self.in_context(e))?;
            session.contents(self, &plan, sources)
        })
    }

    /// An error about a source in the context, with where that is.
    pub(super) fn in_context(&self, e: Error) -> Error {
        match &self.context {
            Some(dir) => e.hint(format!("sources are paths in the context: {}", dir.path().display())),
            None => e,
        }
    }

    /// Copies a directory of the context, without what `.dockerignore` leaves out.
    pub(super) fn copy_context(&self, source: &str, to: &Root) -> Result<()> {
        let to = Target::new(to, "/");
        self.with_context(source, |sources| copy::run(&copy::plan(sources)?, sources, &to).map(drop))
    }

    pub(super) fn is_ignored(&self, source: &str, is_dir: bool) -> bool {
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

    fn context_key(&self) -> String {
        let path = self.context.as_ref().map_or(String::new(), |c| c.path().to_string_lossy().into_owned());
        Digest::of(path.as_bytes()).hex()
    }
}

impl Session {
    /// What files of the context hold, with what is remembered from last time.
    pub(super) fn contents(&mut self, build: &Build, plan: &copy::Plan, sources: &Sources) -> Result<Contents> {
        let key = build.context_key();
        let memo = self.memo.get_or_insert_with(|| Memo::parse(&build.storage.memo(&key)));
        let contents = copy::contents(plan, sources, memo, threads())?;
        if memo.take_changed() {
            build.storage.set_memo(&key, &memo.to_bytes());
        }
        Ok(contents)
    }
}

/// A name as a pattern that matches it alone.
pub fn literal(name: &str) -> String {
    let mut pattern = String::new();
    for c in name.chars() {
        match c {
            '*' | '?' | '[' => pattern.extend(['[', c, ']']),
            c => pattern.push(c),
        }
    }
    pattern
}

pub fn fate(patterns: &Patterns, path: &str, is_dir: bool) -> Fate {
    match patterns.excludes(path) {
        false => Fate::Keep,
        true if is_dir && patterns.may_include_below(path) => Fate::EnterOnly,
        true => Fate::Skip,
    }
}

pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}
