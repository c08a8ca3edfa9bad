//! What does a container get besides what its options say? Decided when its image can be looked at.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Bind, mountpoint};
use crate::error::Result;

/// Says what is to be added.
pub struct Inject {
    /// What of the host may be bound: the image must not be mounted over it.
    pub sources: Vec<PathBuf>,
    pub decide: Decide,
}

/// Looks at the image, once it is mounted.
pub type Decide = Box<dyn FnOnce(&Inside) -> Result<Injection>>;

impl Inject {
    pub fn nothing() -> Inject {
        Inject { sources: Vec::new(), decide: Box::new(|_| Ok(Injection::default())) }
    }
}

/// A container whose image is mounted.
pub struct Inside<'a> {
    pub root: &'a Path,
    /// Somebody else has made it, with all that is bound in it.
    pub is_joined: bool,
}

impl Inside<'_> {
    /// A regular file of the image; `None` if there is none that can be read.
    pub fn open(&self, path: &str) -> Option<File> {
        let path = self.locate(path)?;
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
        file.metadata().ok()?.is_file().then_some(file)
    }

    /// What a directory of the image holds, in order.
    pub fn names(&self, directory: &str) -> Vec<String> {
        let entries = self.locate(directory).and_then(|path| fs::read_dir(path).ok()).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Links are followed within the image.
    fn locate(&self, path: &str) -> Option<PathBuf> {
        let target = mountpoint::locate(self.root, Path::new(path)).ok()?;
        target.exists().then(|| target.host_path(self.root))
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Injection {
    /// Mounted before those of the command line, which may lie over them.
    pub binds: Vec<Bind>,
    /// Set before the changes of the command line.
    pub env: Vec<(String, String)>,
    /// Path and content of files that lie over the image's.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Put before what `LD_LIBRARY_PATH` is.
    pub library_path: Vec<String>,
}

/// Which devices were asked for, in the words of the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// Those of all kinds.
    pub all: bool,
    /// The driver of the machine's GPUs.
    pub gpu: bool,
    /// `KIND` or `KIND=NAME`.
    pub named: Vec<String>,
    /// Directories of CDI files, with colons between them.
    pub dirs: Option<OsString>,
}
