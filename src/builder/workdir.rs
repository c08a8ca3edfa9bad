//! WORKDIR: a directory that the image need not have yet.

use std::path::{Path, PathBuf};

use super::Session;
use super::announce::Cache;
use super::cache_key::Inputs;
use super::image_users::{self, Known};
use super::stage::{Stage, Trust, Validity, Work, inside};
use crate::container::ownership::Ledger;
use crate::container::{self, Emulation};
use crate::dockerfile::state::Step;
use crate::error::{Error, Result};
use crate::rootfs::Root;

/// What is to be done for a WORKDIR that is not there.
struct Making {
    inside: PathBuf,
    /// To whom it will belong, if not to root.
    user: Option<String>,
}

/// Does WORKDIR; `false` if the directory was there, so that no layer was made.
pub fn workdir(stage: &mut Stage, session: &mut Session, path: &str, step: &Step) -> Result<bool> {
    let shown = format!("WORKDIR {}", stage.state.config.workdir);
    if let Some(entry) = stage.tree.lookup(stage.build.storage, &inside(path))? {
        // Nothing is done, and nothing was: as with ENV.
        session.announce(Cache::Miss, &shown);
        if !entry.stat.is_dir() {
            return Err(Error::new(format!("{}: not a directory in the image", stage.state.config.workdir)));
        }
        return Ok(false);
    }
    let (work, making) = decide(stage, path, shown);
    stage
        .layer(session, work, step, |_, tree, ledger| making.perform(tree, ledger).map(|()| (Validity::Lasting, ())))?;
    Ok(true)
}

fn decide(stage: &Stage, path: &str, shown: String) -> (Work, Making) {
    let mut inputs = Inputs::new(stage.tree.top(), "WORKDIR");
    inputs.add("path", path);
    // As with Docker: it belongs to the user.
    let user = stage.state.config.user.clone();
    let has_user = stage.build.request.force.emulation() == Emulation::Notify && !user.is_empty();
    if has_user {
        inputs.add("user", &user);
    }
    (Work { inputs, shown, trust: Trust::Image }, Making { inside: inside(path), user: has_user.then_some(user) })
}

impl Making {
    fn perform(&self, tree: &Path, ledger: &mut Ledger) -> Result<()> {
        let root = Root::open(tree)?;
        let missing = image_users::missing_directories(&root, &self.inside)?;
        root.mkdir_all(&self.inside, 0o755)?;
        let Some(user) = &self.user else { return Ok(()) };
        let owner = Known::of(&root)?.owner(user)?;
        container::follow(tree, ledger, |record| image_users::give(&root, &missing, owner, record))
    }
}
