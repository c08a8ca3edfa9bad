//! `RUN --mount=…`: what is mounted for one command and leaves nothing behind (A.14).
//!
//! [`Mounts::new`] only looks: what counts for the cache is known before anything is mounted. [`Mounts::prepare`] then
//! does it, if the command has to run at all. Secrets lie on a tmpfs that only this process sees, never on disk.

use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::cache_key::{self, Inputs};
use super::secret::Author;
use super::stage::inside;
use super::{Build, Session, ca};
use crate::container::{self, Bind, Overlay, Tmpfs, Within};
use crate::dockerfile::mount_flag::{Mount, Sharing};
use crate::dockerfile::plan::{Numbers, Origin};
use crate::dockerfile::state::RunStep;
use crate::error::{Context, Error, Result, bail};
use crate::image::{self, View};
use crate::oci::digest::Digest;
use crate::rootfs::copy::Contents;
use crate::rootfs::{self, Last, Root};
use crate::storage::{Draft, Image, Mode};
use crate::sys::fs::c_path;
use crate::sys::mount::{self, FdPath, Unmount};

/// Where a script outside the image is seen. (`/dev/pipes`, which its path says, would be in the host's /dev.)
pub const SCRIPTS: &str = "/ch/pipes";

/// What a command's mounts are, before they are made.
pub struct Mounts {
    wanted: Vec<(Mount, Origin)>,
    /// Name and content of a script outside the image.
    script: Option<(String, String)>,
    inputs: Inputs,
    /// What is bound of the context: it may change at any time.
    seen: Vec<(String, Contents)>,
    pub author: Author,
}

/// Mounts that exist; gone when dropped.
#[derive(Default)]
pub struct Prepared {
    pub binds: Vec<Bind>,
    pub tmpfs: Vec<Tmpfs>,
    pub env: Vec<(String, OsString)>,
    // In this order: what is mounted goes before what it is mounted on.
    overlays: Vec<Overlay>,
    views: Vec<View>,
    hidden: Vec<Hidden>,
    locks: Vec<File>,
    drafts: Vec<Draft>,
}

/// Where a mount's files come from.
#[derive(Clone, Copy)]
struct MountSource<'a> {
    build: &'a Build<'a>,
    session: &'a Session,
    origin: &'a Origin,
}

/// A mount on a draft; gone when dropped, so that later commands don't find it, wherever the storage directory is.
struct Hidden {
    at: CString,
    _draft: Draft,
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // What can't be undone here is undone when the process ends, with its namespace.
        let _ = mount::unmount(&self.at, Unmount::Detach);
    }
}

impl Mounts {
    pub fn new(
        build: &Build,
        session: &mut Session,
        stage: usize,
        (run, author): (&RunStep, Author),
    ) -> Result<Mounts> {
        let mut wanted = Vec::new();
        let mut inputs = Inputs::default();
        let mut seen = Vec::new();
        for mount in &run.mounts {
            let from = match mount {
                Mount::Bind { from, .. } | Mount::Cache { from, .. } => from.as_deref().unwrap_or(""),
                Mount::Tmpfs { .. } | Mount::Secret { .. } | Mount::Ssh { .. } => "",
            };
            let origin = build.plan.origin(stage, from, Numbers::AreNames)?;
            inputs.add("mount", format!("{mount:?}"));
            match (mount, &origin) {
                (Mount::Bind { source, target, .. }, Origin::Context) => {
                    let contents = build.bound(session, source).context(|| format!("bind mount {target}"))?;
                    inputs.add_contents(&contents);
                    seen.push((source.clone(), contents));
                }
                (_, Origin::Context | Origin::Scratch) => {}
                (_, Origin::Stage(_) | Origin::Image(_)) => inputs.add_origin(from, &build.identity(session, &origin)?),
            }
            wanted.push((mount.clone(), origin));
        }
        let script = run.script.as_ref().map(|s| (s.name.clone(), s.content.clone()));
        Ok(Mounts { wanted, script, inputs, seen, author })
    }

    pub fn add_to(&self, inputs: &mut Inputs) {
        inputs.extend(&self.inputs);
        if let Some((_, content)) = &self.script {
            inputs.add("script", content);
        }
    }

    /// How the context changed since [`Mounts::new`] looked; `None` if it did not.
    pub fn meanwhile(&self, build: &Build, session: &mut Session) -> Option<String> {
        self.seen.iter().find_map(|(source, contents)| cache_key::meanwhile(contents, build.bound(session, source)))
    }

    pub fn prepare(&self, build: &Build, session: &Session) -> Result<Prepared> {
        let mut done = Prepared::default();
        for (wanted, origin) in &self.wanted {
            let from = MountSource { build, session, origin };
            match wanted {
                Mount::Bind { source, target, read_only, .. } => {
                    done.bind(from, source, target, *read_only).context(|| format!("bind mount {target}"))?;
                }
                Mount::Cache { id, source, target, read_only, sharing, mode, .. } => {
                    let seed = source.as_deref().or((*origin != Origin::Context).then_some("/"));
                    let place =
                        done.cache(from, id, *sharing, *mode, seed).context(|| format!("cache mount {target}"))?;
                    done.binds.push(Bind { read_only: *read_only, within: Within::Made, ..Bind::new(place, target) });
                }
                Mount::Tmpfs { target, size, .. } => {
                    done.tmpfs.push(Tmpfs { target: target.into(), size: *size, mode: 0o1777 });
                }
                Mount::Secret { id, target, env, mode, required, .. } => {
                    let Some(content) = build.request.secrets.find(id)? else {
                        if *required {
                            return Err(Error::new(format!("secret {id} is required"))
                                .hint(format!("pass it with --secret id={id},src=FILE or id={id},env=VARIABLE")));
                        }
                        continue;
                    };
                    if let Some(name) = env {
                        if content.contains(&0) {
                            bail!("secret {id} has a NUL byte, so it can't be a variable");
                        }
                        done.env.push((name.clone(), OsString::from_vec(content.clone())));
                    }
                    if let Some(target) = target {
                        let file = done.hidden(build, &content, *mode)?;
                        done.binds.push(Bind { read_only: true, ..Bind::new(file, target) });
                    }
                }
                Mount::Ssh { id, target, required, .. } => {
                    let Some(socket) = build.request.secrets.agent(id, self.author) else {
                        if *required {
                            return Err(Error::new(format!("ssh agent {id} is required"))
                                .hint("start an agent (SSH_AUTH_SOCK), and give it: --ssh ID, or --ssh ID=SOCKET"));
                        }
                        continue;
                    };
                    let target = target.clone().unwrap_or_else(|| format!("/run/ssh-agent.{}", done.binds.len()));
                    done.env.push(("SSH_AUTH_SOCK".to_owned(), target.clone().into()));
                    done.binds.push(Bind::new(socket, target));
                }
            }
        }
        if let Some((name, content)) = &self.script {
            let draft = build.storage.draft()?;
            let path = draft.path().join(name);
            write(&path, content.as_bytes(), 0o755)?;
            done.binds.push(Bind { read_only: true, ..Bind::new(draft.path(), SCRIPTS) });
            done.drafts.push(draft);
        }
        Ok(done)
    }
}

impl Prepared {
    fn bind(&mut self, from: MountSource, source: &str, target: &str, read_only: bool) -> Result<()> {
        let MountSource { build, origin, .. } = from;
        let path = self.source(from, source)?;
        let is_dir = path.is_dir();
        let hides = *origin == Origin::Context && !build.ignore.is_empty();
        if hides && build.is_ignored(source, is_dir) {
            return Err(Error::new(format!("not found: {source}")).hint("it is excluded by .dockerignore"));
        }
        if read_only && !(is_dir && hides) {
            self.binds.push(Bind { read_only: true, ..Bind::new(path, target) });
            return Ok(());
        }
        // What is written is discarded.
        let draft = build.storage.draft()?;
        let at = |name: &str| draft.path().join(name);
        let failed = || format!("can't copy {source}");
        let place = if !is_dir {
            // A FIFO would make us wait.
            if !path.is_file() {
                bail!("not a file or directory: {source}");
            }
            fs::copy(&path, at("copy")).context(failed)?;
            at("copy")
        } else if hides {
            make(&at("copy"))?;
            build.copy_context(source, &Root::open(&at("copy"))?).context(failed)?;
            at("copy")
        } else if build.storage.mode() == Mode::Overlay && is_ours(&path) {
            ["upper", "work", "mount"].iter().try_for_each(|name| make(&at(name)))?;
            self.overlays.push(Overlay::mount(&[path], Some((&at("upper"), &at("work"))), &at("mount"))?);
            at("mount")
        } else {
            make(&at("copy"))?;
            rootfs::copy_tree(&path, &at("copy"), None).context(failed)?;
            at("copy")
        };
        self.binds.push(Bind { read_only, within: Within::Made, ..Bind::new(place, target) });
        self.drafts.push(draft);
        Ok(())
    }

    /// The path of `source`, without links. By name, because the command's mount namespace is another one than ours: a
    /// descriptor's mounts cannot be bound there.
    fn source(&mut self, from: MountSource, source: &str) -> Result<PathBuf> {
        let MountSource { build, session, origin } = from;
        let (root, top) = match origin {
            Origin::Context => return self.held(build, source),
            Origin::Scratch => bail!("scratch has no files"),
            Origin::Stage(n) => self.image(build, &session.stage(*n)?.image)?,
            Origin::Image(name) => self.image(build, &build.named_image(name)?)?,
        };
        let relative = inside(source);
        if root.stat(&relative, Last::Follow)?.is_none() {
            return Err(Error::new(format!("not found: {source}")));
        }
        let found = root.resolve(&relative, Last::Follow)?;
        Ok(top.join(found.strip_prefix("/").unwrap_or(&found)))
    }

    /// A place of the context, which somebody else may be able to exchange at any time: mounted, as it was opened, where
    /// only we name it.
    fn held(&mut self, build: &Build, source: &str) -> Result<PathBuf> {
        let root = build.context_root()?;
        let relative = inside(source);
        if root.stat(&relative, Last::Follow)?.is_none() {
            return Err(Error::new(format!("not found: {source}")));
        }
        let place = root.open_place(&relative)?;
        container::enter()?;
        let draft = build.storage.draft()?;
        let path = draft.path().join("held");
        let failed = || format!("can't mount {source}");
        match mount::kind(&place).context(failed)? {
            mount::Kind::Directory => make(&path)?,
            mount::Kind::File | mount::Kind::Link => write(&path, b"", 0o600)?,
        }
        let at = c_path(&path).context(failed)?;
        let flags = mount::BIND | mount::RECURSIVE;
        mount::mount(Some(FdPath::of(&place).as_c()), &at, None, flags, None).context(failed)?;
        self.hidden.push(Hidden { at, _draft: draft });
        Ok(path)
    }

    fn image(&mut self, build: &Build, image: &Image) -> Result<(Root, PathBuf)> {
        let view = image::view(build.storage, &image.layers)?;
        let found = (Root::open(view.path())?, view.path().to_owned());
        self.views.push(view);
        Ok(found)
    }

    /// The directory of a cache mount; locked as long as needed.
    fn cache(
        &mut self,
        from: MountSource,
        id: &str,
        sharing: Sharing,
        mode: u32,
        seed: Option<&str>,
    ) -> Result<PathBuf> {
        let MountSource { build, session, origin } = from;
        let name =
            Digest::of(format!("{id}\n{origin:?}\n{seed:?}{}", build.identity(session, origin)?).as_bytes()).hex();
        for n in 0..1000 {
            let (place, lock) = build.storage.cache_mount(&name, n)?;
            let wait = match sharing {
                Sharing::Shared => None,
                Sharing::Locked => Some(true),
                Sharing::Private => Some(false),
            };
            if let Some(wait) = wait
                && !build.storage.lock_cache_mount(&lock, wait)?
            {
                continue;
            }
            self.locks.push(lock);
            let tree = place.join("tree");
            if !tree.is_dir() {
                let draft = build.storage.draft()?;
                let fresh = draft.path().join("tree");
                fs::create_dir(&fresh).context(|| format!("can't make {}", fresh.display()))?;
                if let Some(seed) = seed {
                    let seed = self.source(from, seed)?;
                    rootfs::copy_tree(&seed, &fresh, None)?;
                }
                fs::set_permissions(&fresh, fs::Permissions::from_mode(mode & 0o1777))
                    .context(|| format!("can't set mode of {}", fresh.display()))?;
                // Another process may have been faster; its directory is as good.
                if let Err(e) = fs::rename(&fresh, &tree)
                    && !tree.is_dir()
                {
                    return Err(e).context(|| format!("can't make {}", tree.display()));
                }
            }
            return Ok(tree);
        }
        bail!("too many private cache mounts at the same time")
    }

    /// Lends the site's certificates, if there are any.
    pub fn trust(&mut self, build: &Build, tree: &Path) -> Result<()> {
        if let Some(site) = &build.request.ca {
            let content = ca::bundle(site, &Root::open(tree)?, &Root::open(Path::new("/"))?);
            let file = self.hidden(build, &content, 0o644)?;
            self.binds.push(Bind { read_only: true, ..Bind::new(file, ca::PLACE) });
        }
        Ok(())
    }

    /// A file on a tmpfs of this process's own mount namespace.
    fn hidden(&mut self, build: &Build, content: &[u8], mode: u32) -> Result<PathBuf> {
        let draft = build.storage.draft()?;
        // Where that is forbidden, its error names the setting that is in the way.
        container::enter()?;
        let at = c_path(draft.path()).context(|| "can't mount a tmpfs")?;
        let flags = mount::NO_SUID | mount::NO_DEV;
        mount::mount(Some(c"none"), &at, Some(c"tmpfs"), flags, Some(c"mode=700")).context(|| "can't mount a tmpfs")?;
        let path = draft.path().join("secret");
        self.hidden.push(Hidden { at, _draft: draft });
        write(&path, content, mode)?;
        Ok(path)
    }
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir(dir).context(|| format!("can't make {}", dir.display()))
}

/// Whether all below a directory belongs to the one user and group that there are here: overlayfs can't copy up
/// anything else.
fn is_ours(dir: &Path) -> bool {
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { return false };
            if (meta.uid(), meta.gid()) != (0, 0) {
                return false;
            }
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    true
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let make = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(mode & 0o777))
    };
    make().context(|| format!("can't write {}", path.display()))
}
