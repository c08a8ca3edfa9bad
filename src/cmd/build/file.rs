//! Where is the Dockerfile, what is the context, and what was said beside them?

use std::env::VarError;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::bail;
use crate::cli::Options;
use crate::cmd::Host;
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::ignore::Patterns;
use crate::dockerfile::plan::{self, Plan};
use crate::dockerfile::platform::Platform;
use crate::dockerfile::{self, fault};
use crate::error::{Context, Error, Result};
use crate::oci::reference::{self, ImageRef};

/// Largest Dockerfile, bytes.
const MAX_DOCKERFILE: u64 = 8 << 20;

/// The Dockerfile's place and the context's.
pub struct Source {
    /// `None`: standard input.
    file: Option<PathBuf>,
    /// `None`: no context (`-`).
    context: Option<PathBuf>,
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
        let file = match (&options.file, &context) {
            (Some(file), _) if file == "-" => None,
            (Some(file), _) => Some(PathBuf::from(file)),
            // Docker: a lone hyphen is a Dockerfile on standard input without a context.
            (None, None) => None,
            (None, Some(context)) => Some(default_file(context)),
        };
        if let Some(context) = &context {
            let meta = fs::metadata(context).context(|| format!("can't use context {}", context.display()))?;
            if !meta.is_dir() {
                return Err(Error::new(format!("context is not a directory: {}", context.display())));
            }
        }
        Ok(Source { file, context })
    }

    /// How messages name the Dockerfile.
    pub fn shown(&self) -> String {
        self.file.as_ref().map_or("-".to_owned(), |f| crate::log::escape(&f.to_string_lossy()).into_owned())
    }

    pub fn path(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    pub fn read(&self) -> Result<Vec<u8>> {
        let failed = || format!("can't read {}", self.shown());
        let mut text = Vec::new();
        match &self.file {
            None => io::stdin().lock().take(MAX_DOCKERFILE + 1).read_to_end(&mut text).context(failed)?,
            Some(path) => {
                // A FIFO (as shells make for <(command)) is fine, but must not be waited for without a writer.
                let file = OpenOptions::new().read(true).open(path).context(failed);
                let file = file.map_err(|e| e.hint("-f names the Dockerfile, if it is not CONTEXT/Dockerfile"))?;
                if file.metadata().context(failed)?.is_dir() {
                    return Err(Error::new(format!("can't read {}: it is a directory", self.shown()))
                        .hint("-f names the Dockerfile, the operand the context directory"));
                }
                file.take(MAX_DOCKERFILE + 1).read_to_end(&mut text).context(failed)?
            }
        };
        if text.len() as u64 > MAX_DOCKERFILE {
            return Err(Error::new(format!("{} is larger than {} MiB", self.shown(), MAX_DOCKERFILE >> 20)));
        }
        Ok(text)
    }

    /// The context without links; `None` with `-`.
    pub fn context(&self) -> Result<Option<PathBuf>> {
        let Some(context) = &self.context else { return Ok(None) };
        fs::canonicalize(context).map(Some).context(|| format!("can't use context {}", context.display()))
    }

    /// What `<Dockerfile>.dockerignore` says if it is there, else `.containerignore` or `.dockerignore` of the context
    /// (A.15).
    pub fn ignored(&self) -> Result<Patterns> {
        let beside = self.file.as_ref().map(|file| {
            let mut name = file.clone().into_os_string();
            name.push(".dockerignore");
            PathBuf::from(name)
        });
        let within = self.context.iter().flat_map(|c| [c.join(".containerignore"), c.join(".dockerignore")]);
        for path in beside.into_iter().chain(within) {
            let failed = || format!("can't read {}", path.display());
            match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e).context(failed),
                Ok(file) => {
                    let mut text = Vec::new();
                    file.take(MAX_DOCKERFILE + 1).read_to_end(&mut text).context(failed)?;
                    if text.len() as u64 > MAX_DOCKERFILE {
                        return Err(Error::new(format!(
                            "{} is larger than {} MiB",
                            path.display(),
                            MAX_DOCKERFILE >> 20
                        )));
                    }
                    return Patterns::parse(&text).context(|| path.display().to_string());
                }
            }
        }
        Patterns::parse(b"")
    }
}

/// `Dockerfile`; else the names that others use, if they are there.
fn default_file(context: &Path) -> PathBuf {
    let names = ["Dockerfile", "Containerfile", "dockerfile"];
    let found = names.iter().map(|n| context.join(n)).find(|p| p.exists());
    found.unwrap_or_else(|| context.join(names[0]))
}

pub fn parse(source: &Source, text: &[u8]) -> Result<Dockerfile> {
    dockerfile::parse(text).map_err(|faults| fault::error(&source.shown(), &faults))
}

/// The image's name where `-t` does not say it (manual page, "Build").
pub fn infer_tag(source: &Source) -> Result<String> {
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
