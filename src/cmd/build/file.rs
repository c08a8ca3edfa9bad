//! Where is the Dockerfile, what is the context, and what was said beside them?

use std::env::VarError;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::bail;
use crate::cli::Options;
use crate::cmd::Host;
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::ignore::Patterns;
use crate::dockerfile::plan::{self, Plan};
use crate::dockerfile::platform::Platform;
use crate::dockerfile::{self, diagnostic};
use crate::error::{Context, Error, Result};
use crate::oci::reference::{self, ImageRef};
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
    pub fn find(options: &Options, context: &OsStr) -> Result<Source> {
        let text = context.to_string_lossy();
        if ["http://", "https://", "git://", "git@"].iter().any(|scheme| text.starts_with(scheme)) {
            let shown = dockerfile::remote::shown(&text);
            return Err(Error::new(format!("not supported: URL context: {}", crate::log::escape(&shown)))
                .hint("download it first: git clone URL, or curl URL | tar x; then name the directory"));
        }
        let context = (context != "-").then(|| PathBuf::from(context));
        let dockerfile = match (&options.file, &context) {
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

pub fn parse(source: &Source, text: &[u8]) -> Result<Dockerfile> {
    dockerfile::parse(text).map_err(|faults| diagnostic::error(&source.shown(), &faults))
}

/// The image's name where `-t` does not say it (manual page, "Build").
pub fn infer_tag(source: &Source) -> Result<String> {
    if source.context.is_none() && matches!(source.file, Place::Stdin) {
        return Err(
            Error::new("no name for the image: neither the Dockerfile nor the context has one").hint("say -t NAME")
        );
    }
    // The name as it was given, also that of a link.
    let context = match &source.context {
        Some(context) => {
            let absolute =
                std::path::absolute(context).context(|| format!("can't use context {}", context.display()))?;
            dockerfile::path::clean(&absolute.to_string_lossy())
        }
        None => "/".to_owned(),
    };
    let file = source.path().map_or(String::new(), |f| f.to_string_lossy().into_owned());
    reference::tag_from_name(&file, &context)
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

/// Plans the build. Image references that nobody could pull are found here, before any work.
pub fn plan(host: &Host, options: &Options, dockerfile: &Dockerfile, args: &[(String, String)]) -> Result<Plan> {
    let own = host.arch();
    let of = |arch: &crate::oci::arch::Arch| Platform::linux(arch.family(), arch.variant().unwrap_or(""));
    let target = match options.arch.as_deref() {
        None | Some("host" | "yolo") => of(own),
        Some(name) => of(&crate::oci::arch::Arch::new(name)),
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
pub fn check_output(plan: &Plan, output: &ImageRef) -> Result<()> {
    for image in &plan.images {
        let image = ImageRef::parse_strict(&image.name)?;
        if image.storage_name() == output.storage_name() {
            bail!("output image ref same as FROM: {image}");
        }
    }
    Ok(())
}
