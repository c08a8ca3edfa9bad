//! What does ch-run do? Makes a [`Spec`] of its options and the caller's environment, and becomes the command.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::mem;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::display;
use super::enter::{enter_as, separate};
use super::env::{Environment, put_first};
pub use super::inherit::Preset;
use super::inject::{Devices, Inject, Injection, Inside};
use super::join::{self, Group, Part};
use super::launch::{exec_announced, exec_joined};
use super::launcher;
use super::metadata;
pub use super::metadata::Entrypoint;
use super::overlay::Kept;
use super::variables::{self, Container};
use super::{Account, Bind, Emulation, Home, Network, NoDirectory, Overlay, Spec, Stdin, Tmp, Watch, exec, invoker};
use crate::error::{Context, Error, Result, bail};
use crate::log::warning;
use crate::sys::{process, user};

/// What was asked for on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The absolute path of a directory, or a name in the storage directory.
    pub image: OsString,
    /// The image's own command if there is nothing in it, unless `entrypoint` says otherwise.
    pub argv: Vec<OsString>,
    pub entrypoint: Entrypoint,
    pub writable: bool,
    pub upper: Upper,
    /// The caller's if not said.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub cwd: Option<PathBuf>,
    /// In the order given.
    pub binds: Vec<Bind>,
    /// What the environment begins with; if not said, with [`Preset::Image`].
    pub preset: Option<Preset>,
    /// In the order given.
    pub changes: Vec<Change>,
    pub expand: bool,
    pub home: bool,
    pub passwd: bool,
    pub private_tmp: bool,
    pub storage: Option<PathBuf>,
    /// Storage directories of others, where images are looked for, too.
    pub stores: Vec<PathBuf>,
    /// Whether what the site and the user have set holds, too.
    pub settings: bool,
    /// Bundles of settings.
    pub modules: Vec<String>,
    pub join: Option<Join>,
    /// Also not where peers share a container without being asked to.
    pub no_join: bool,
    /// Packed images are unpacked, also where they can be mounted.
    pub no_mount: bool,
    pub devices: Devices,
}

impl Request {
    /// As it is without options.
    pub fn new(image: OsString) -> Request {
        Request {
            image,
            argv: Vec::new(),
            entrypoint: Entrypoint::Unsaid,
            writable: false,
            upper: Upper::None,
            uid: None,
            gid: None,
            cwd: None,
            binds: Vec::new(),
            preset: None,
            changes: Vec::new(),
            expand: true,
            home: true,
            passwd: true,
            private_tmp: false,
            storage: None,
            stores: Vec::new(),
            settings: true,
            modules: Vec::new(),
            join: None,
            no_join: false,
            no_mount: false,
            devices: Devices::default(),
        }
    }
}

/// Where what the command writes goes, if not into the image itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upper {
    None,
    /// Forgotten at the end. How much, as tmpfs(5) takes it.
    Memory(String),
    /// Kept there.
    Directory(PathBuf),
}

/// Whose container to use, if not one of our own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Join {
    pub count: Option<u32>,
    pub tag: Option<OsString>,
    pub pid: Option<u32>,
}

/// One change of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// As the image wants it.
    SetImage,
    /// Assignments, where `end` ends each.
    SetFile { path: PathBuf, end: u8 },
    /// `NAME=VALUE`, the value perhaps in quotes and with `$NAME` in it.
    Assign(OsString),
    /// The value as it is, and who wants it.
    Set { name: OsString, value: OsString, origin: String },
    /// What the host has, by a shell pattern.
    FromHost(OsString),
    /// By a shell pattern.
    Unset(OsString),
}

/// An image, found and not yet mounted.
pub struct Image {
    pub place: Place,
    /// Differs from that of every other image, also of one that had the same name.
    pub identity: String,
    /// Its variables; the tree's own /ch/environment says them if `None`.
    pub env: Option<Vec<(String, String)>>,
    /// The tree's own /ch/metadata.json says it if `None`.
    pub cwd: Option<PathBuf>,
}

/// How it lies on disk.
pub enum Place {
    /// One whole tree.
    Tree(PathBuf),
    /// Layers, lowest first, to be mounted at a directory.
    Stack { layers: Vec<PathBuf>, at: PathBuf },
    /// A file, to be mounted by whoever can read it.
    Packed(StartServer),
}

/// Starts what serves an image, all of which belongs to this user and group, in the user namespace.
pub type StartServer = Box<dyn FnOnce((u32, u32)) -> Result<MountImage>>;
/// Mounts it over a directory; in another mount namespace than that in which its server was started.
pub type MountImage = Box<dyn FnOnce(&Path) -> Result<()>>;

impl Image {
    /// A directory.
    pub fn directory(path: &Path) -> Result<Image> {
        let shown = path.display();
        if !path.is_dir() {
            bail!("image not found: {shown}: not a directory");
        }
        let root = fs::canonicalize(path).context(|| format!("can't open image {shown}"))?;
        if root == Path::new("/") {
            bail!("the image can't be the host's root directory");
        }
        // A directory of some other purpose is not used by accident.
        if !["bin", "dev", "usr"].iter().any(|name| root.join(name).symlink_metadata().is_ok()) {
            return Err(Error::new(format!("not an image: {shown} has none of bin, dev, usr"))
                .hint("name an image in storage (ch-image list shows them), or a directory that holds one"));
        }
        let meta = root.metadata().context(|| format!("can't open image {shown}"))?;
        let identity = format!("{} {} {}", root.display(), meta.dev(), meta.ino());
        Ok(Image { place: Place::Tree(root), identity, env: None, cwd: None })
    }

    /// The root directory of a container that is entered.
    pub fn here() -> Image {
        Image { place: Place::Tree(PathBuf::from("/")), identity: String::new(), env: None, cwd: None }
    }
}

/// Becomes the command; `inject` says what else the container gets.
pub fn become_command(request: &Request, host: Environment, image: Image, inject: Inject) -> Result<Infallible> {
    let (uid, gid) = invoker();
    let inside = (request.uid.unwrap_or(uid), request.gid.unwrap_or(gid));
    let home = if request.home { home(&host, uid)? } else { None };
    // Before the container is entered, where the host's paths mean something else.
    let mut kept = match &request.upper {
        Upper::Directory(dir) => Some(Kept::open(dir)?),
        Upper::Memory(_) | Upper::None => None,
    };
    let part = take_part(request, &host, home.as_ref(), &image)?;
    if let Some(kept) = &mut kept {
        kept.lock(matches!(part, Some(Part::Joined)))?;
    }
    if !matches!(part, Some(Part::Joined)) {
        enter_as(inside)?;
    }
    // The overlay is kept until the command has taken over, which keeps the mount.
    let (root, overlay) = match part {
        // Its root is ours already.
        Some(Part::Joined) => (PathBuf::from("/"), None),
        Some(Part::First(_)) | None => {
            let mut sources = launcher::directories(&host);
            sources.extend(inject.sources);
            sources.extend(display::key(&host));
            let (root, layers) = lay_out(image.place, request, (inside, home.as_ref()), sources)?;
            let overlay = match (&request.upper, &kept) {
                (Upper::Memory(size), _) => Some(Overlay::in_memory(layers.as_deref(), size, &root)?),
                (Upper::Directory(_), Some(kept)) => Some(kept.mount(layers.as_deref(), &root)?),
                (Upper::Directory(_) | Upper::None, _) => {
                    layers.map(|layers| Overlay::mount(&layers, None, &root)).transpose()?
                }
            };
            (root, overlay)
        }
    };
    let mut injection = (inject.decide)(&Inside { root: &root, is_joined: matches!(part, Some(Part::Joined)) })?;
    let (files, library_path) = (mem::take(&mut injection.files), mem::take(&mut injection.library_path));
    let request = &with_devices(request, injection);
    let account = request.passwd.then(|| account(&host, (uid, gid), home.as_ref()));
    let is_joined = matches!(part, Some(Part::Joined));
    let (host, mut binds) = match part {
        Some(Part::Joined) => (launcher::of_joined(host), Vec::new()),
        Some(Part::First(_)) | None => {
            let launched = launched(request, &root);
            // What would have to be made to mount on would stay.
            let key = display::bind(&host, &root, home.as_ref(), request.private_tmp);
            let key = key.filter(|_| !launched.keeps_places);
            let (host, mut binds) = launcher::bind_named(host, &launched);
            binds.extend(key);
            (host, binds)
        }
    };
    binds.extend(request.binds.iter().cloned());
    let container = Container { root: &root, env: image.env.as_deref(), home: home.as_ref(), uid: inside.0, is_joined };
    let mut env = variables::environment(request, host, &container)?;
    put_first(&mut env, "LD_LIBRARY_PATH", &library_path);
    let cwd = match (&request.cwd, image.cwd) {
        (Some(cwd), _) => Some(cwd.clone()),
        (None, Some(cwd)) => Some(cwd),
        (None, None) => metadata::working_directory(&root).map_err(|e| e.hint("--cd says where to begin"))?,
    };
    let argv = metadata::command(&root, &request.entrypoint, &request.argv)?;
    let spec = Spec {
        root,
        writable: request.writable || request.upper != Upper::None,
        uid: inside.0,
        gid: inside.1,
        no_cwd: if request.cwd.is_some() { NoDirectory::Fail } else { NoDirectory::MakeOrBeginInRoot },
        cwd: cwd.unwrap_or_else(|| PathBuf::from("/")),
        binds,
        tmpfs: Vec::new(),
        files,
        env,
        argv,
        network: Network::Host,
        tmp: if request.private_tmp { Tmp::Private } else { Tmp::Host },
        home,
        account,
        stdin: Stdin::Inherit,
        run_as: None,
        emulation: Emulation::None,
        watch: Watch::Nothing,
        mark: match &part {
            Some(Part::First(first)) => Some(first.mark().to_owned()),
            Some(Part::Joined) | None => None,
        },
    };
    let e = match part {
        None => exec(&spec),
        Some(Part::First(first)) => exec_announced(&spec, &|| {
            first.announce();
            Ok(())
        }),
        Some(Part::Joined) => exec_joined(&spec),
    };
    // Only now: unmounting is what dropping does.
    drop(overlay);
    e
}

/// What the command line says comes after what its devices want, and so goes over it.
fn with_devices(request: &Request, injection: Injection) -> Request {
    let Injection { binds, env, files: _, library_path: _ } = injection;
    let set = |(name, value): (String, String)| Change::Set {
        name: name.into(),
        value: value.into(),
        origin: "devices".to_owned(),
    };
    let mut request = request.clone();
    request.binds.splice(0..0, binds);
    request.changes.splice(0..0, env.into_iter().map(set));
    request
}

fn launched<'a>(request: &Request, root: &'a Path) -> launcher::Container<'a> {
    let keeps_places = request.writable || matches!(request.upper, Upper::Directory(_));
    launcher::Container { root, private_tmp: request.private_tmp, keeps_places }
}

/// Where the image's tree is, or where its layers are to be mounted. `sources` will be bound, too.
fn lay_out(
    place: Place,
    request: &Request,
    (inside, home): ((u32, u32), Option<&Home>),
    sources: Vec<PathBuf>,
) -> Result<(PathBuf, Option<Vec<PathBuf>>)> {
    match place {
        Place::Tree(tree) => Ok((tree, None)),
        Place::Stack { layers, at } => Ok((at, Some(layers))),
        Place::Packed(start) => {
            let mount = start(inside)?;
            separate()?;
            let binds = request.binds.iter().map(|bind| bind.source.clone());
            let home = home.map(|home| home.source.clone());
            let at = mounting_place(&sources.into_iter().chain(binds).chain(home).collect::<Vec<_>>())?;
            mount(&at)?;
            Ok((at, None))
        }
    }
}

/// A directory to mount an image over, where it hides nothing that is mounted afterwards. Nobody else sees that mount.
fn mounting_place(sources: &[PathBuf]) -> Result<PathBuf> {
    let places = ["/media", "/srv", "/opt", "/mnt", "/boot", "/usr", "/var"].map(PathBuf::from);
    let is_plain = |place: &PathBuf| fs::canonicalize(place).is_ok_and(|real| real == *place) && place.is_dir();
    let sources: Vec<PathBuf> = sources.iter().filter_map(|source| fs::canonicalize(source).ok()).collect();
    // What is bound from within would be hidden; what is bound with all below it would only show the image once more.
    let hides = |place: &PathBuf| sources.iter().any(|source| source.starts_with(place));
    let shows = |place: &PathBuf| sources.iter().any(|source| place.starts_with(source));
    let plain: Vec<PathBuf> = places.into_iter().filter(is_plain).collect();
    let unseen = plain.iter().find(|place| !hides(place) && !shows(place));
    let found = unseen.or_else(|| plain.iter().find(|place| !hides(place))).or(plain.last());
    found
        .cloned()
        .ok_or_else(|| Error::new("can't mount the image: this system has no directory such as /media or /usr"))
}

fn take_part(request: &Request, host: &Environment, home: Option<&Home>, image: &Image) -> Result<Option<Part>> {
    // Ranks copy from each other's memory, which the kernel allows within one user namespace alone: MPICH aborts and Open
    // MPI hangs where each has its own. And there is one mount and one page cache for all ranks of a node.
    let is_expected = !request.no_join && join::has_launcher(host);
    let expected = is_expected.then(Join::default);
    let Some(join) = request.join.as_ref().or(expected.as_ref()) else { return Ok(None) };
    if let Some(pid) = join.pid {
        let Ok(pid) = process::Pid::try_from(pid) else { bail!("join: no such process: {pid}") };
        join::enter_process(pid)?;
        return Ok(Some(Part::Joined));
    }
    join::join(&group(request, join, host, home, image)?).map(Some)
}

/// The peers that want the same container.
fn group(request: &Request, join: &Join, host: &Environment, home: Option<&Home>, image: &Image) -> Result<Group> {
    // Nobody counts, but who says a number means one.
    if join.count == Some(0) {
        bail!("join: peer group size must be at least 1");
    }
    // All options but those that are about the command alone, and the image by what it is.
    let options = Request {
        image: OsString::new(),
        argv: Vec::new(),
        entrypoint: Entrypoint::Unsaid,
        cwd: None,
        preset: None,
        changes: Vec::new(),
        expand: true,
        storage: None,
        join: None,
        ..request.clone()
    };
    Ok(Group::new(&join::tag(join.tag.as_deref(), host), &format!("{options:?} {home:?}\n{}", image.identity)))
}

/// $HOME, unless there is no such directory.
fn home(host: &Environment, uid: u32) -> Result<Option<Home>> {
    let var = |name: &str| host.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).filter(|v| !v.is_empty());
    let user = user::name(var("USER").as_deref(), uid);
    let Some(source) = var("HOME").map(PathBuf::from).or_else(|| user::user(uid).map(|u| PathBuf::from(u.home))) else {
        warning!("home directory not found, not mounted: $HOME is not set");
        return Ok(None);
    };
    if user.contains('/') || user == "." || user == ".." {
        return Err(Error::new(format!("not a user name: $USER is {user:?}")).hint("use --no-home"));
    }
    if !source.is_dir() {
        warning!("home directory not found, not mounted: {}", source.display());
        return Ok(None);
    }
    Ok(Some(Home { source, user }))
}

/// What /etc/passwd and /etc/group say. Whom only a directory service knows (LDAP), a static program can't look up:
/// then it is `$USER`, and of a group the number.
fn account(host: &Environment, (uid, gid): (u32, u32), home: Option<&Home>) -> Account {
    let is_field = |text: &String| !text.is_empty() && !text.contains(|c: char| c == ':' || c.is_control());
    let entry = user::user(uid);
    let variable = host.iter().find(|(name, _)| name == "USER").map(|(_, value)| value.as_os_str());
    let known = entry.as_ref().map(|entry| entry.name.clone());
    let name = known.unwrap_or_else(|| user::name(variable, uid));
    let name = Some(name).filter(|name| is_field(name) && !name.contains('/')).unwrap_or_else(|| uid.to_string());
    let at = format!("/home/{}", home.map_or(&name, |home| &home.user));
    Account {
        home: Some(at).filter(is_field).unwrap_or_else(|| "/".to_owned()),
        user: name,
        full_name: entry.map(|entry| entry.full_name).unwrap_or_default(),
        group: user::group(gid).unwrap_or_else(|| gid.to_string()),
    }
}
