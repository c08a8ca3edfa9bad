//! What does a container get besides what its options say? Decided when its image can be looked at.

use std::ffi::OsString;

use super::Bind;
use crate::error::Result;

/// Looks at the image, and says what is to be added.
pub type Inject = Box<dyn FnOnce(&Inside) -> Result<Injection>>;

/// A container whose image is mounted.
pub struct Inside {
    /// Somebody else has made it, with all that is bound in it.
    pub is_joined: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Injection {
    /// Mounted before those of the command line, which may lie over them.
    pub binds: Vec<Bind>,
    /// Set before the changes of the command line.
    pub env: Vec<(String, String)>,
}

/// Which devices were asked for, in the words of the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// Those of all kinds.
    pub all: bool,
    /// `KIND` or `KIND=NAME`.
    pub named: Vec<String>,
    /// Directories of CDI files, with colons between them.
    pub dirs: Option<OsString>,
}

/// Where there are none.
#[cfg(test)]
pub fn nothing() -> Inject {
    Box::new(|_| Ok(Injection::default()))
}
