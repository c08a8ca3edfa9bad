//! In what steps is a command isolated? Spec → Vec<Step>, which the walker does one after the other.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::enter::{self, Maps};
use super::mountpoint::{self, Shape, Target};
use super::step::{Access, Make, Program, Step};
use super::{
    Account, Bind, Emulation, Need, Network, NoDirectory, Spec, Stdin, Tmp, Tmpfs, Watch, Within, filter, watch,
};
use crate::error::{Context, Error, Result, bail};
use crate::log::escape;
use crate::sys::fs::{c_path, euid};
use crate::sys::process::Words;

/// Who does the steps?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// RUN: a child in a PID namespace of its own.
    Run,
    /// ch-run: this process, which becomes the command.
    ChRun,
    /// `ch-run --join`: likewise, and it has entered a container that exists already.
    Joined,
}

/// What an image need not have: the working directory, places that links for name service lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extras {
    Wanted,
    LeftOut,
}

/// The steps that `role` has to do. Looks at the tree (links, what is missing), changes nothing.
pub fn plan(spec: &Spec, role: Role, extras: Extras) -> Result<Vec<Step>> {
    let mut steps = match role {
        Role::Run | Role::ChRun => mounts(spec, role, extras)?,
        Role::Joined => Vec::new(),
    };
    steps.push(directory(spec)?);
    match role {
        Role::Run => steps.extend([Step::Init, Step::Session, Step::Umask(0o022)]),
        Role::ChRun => steps.push(Step::Announce),
        Role::Joined => {}
    }
    if spec.stdin == Stdin::Null {
        steps.push(Step::NoInput);
    }
    if role == Role::Run {
        steps.extend([Step::Output, Step::CloseDescriptors]);
    }
    steps.extend([Step::DefaultSignals, Step::NoNewPrivileges]);
    steps.extend(emulate(spec.emulation)?);
    if let (Role::Run, Watch::Chown, Emulation::None, Some(machine)) = (role, spec.watch, spec.emulation, filter::HERE)
    {
        steps.push(Step::Watch(watch::program(machine)));
    }
    steps.push(Step::Execute(program(spec)?));
    Ok(steps)
}

fn directory(spec: &Spec) -> Result<Step> {
    let path = c_path(&spec.cwd).context(|| spec.cwd.display().to_string())?;
    Ok(match spec.no_cwd {
        NoDirectory::Fail => Step::Directory(path),
        NoDirectory::MakeOrBeginInRoot => {
            let is_hidden = spec.home.is_some() && spec.cwd.starts_with("/home");
            let advice = if is_hidden { "; --no-home shows what the image has in /home" } else { "" };
            Step::DirectoryOrRoot(path, advice)
        }
    })
}

/// Up to the change of root and user.
fn mounts(spec: &Spec, role: Role, extras: Extras) -> Result<Vec<Step>> {
    let mut mounts = Mounts { root: &spec.root, steps: Vec::new(), done: Vec::new() };
    let root = c_path(&spec.root).context(|| spec.root.display().to_string())?;
    mounts.steps.push(Step::Root(root));
    if let Some(account) = &spec.account {
        mounts.put("/etc/passwd", passwd_file(spec, account).into_bytes())?;
        mounts.put("/etc/group", group_file(spec, account).into_bytes())?;
    }
    mounts.bind_as(&Bind::new("/dev", "/dev"), Access::Names)?;
    match role {
        Role::Run => mounts.proc()?,
        Role::ChRun | Role::Joined => {
            if let Some(name) = &spec.mark {
                mounts.mark(name)?;
            }
            mounts.bind(&Bind::new("/proc", "/proc"))?;
        }
    }
    let sys = if role == Role::Run { Access::Read } else { Access::Names };
    mounts.bind_as(&Bind::new("/sys", "/sys"), sys)?;
    for (path, need) in HOST_FILES {
        // Who becomes the command can't take away again what was made to mount on.
        let keeps_place = role != Role::Run && !(extras == Extras::Wanted && mounts.is_link(Path::new(path)));
        let need = if keeps_place { Need::IfBoth } else { *need };
        // Of the machine, whose administrator may be the caller.
        let read_only = path.starts_with("/etc/");
        mounts.bind(&Bind { need, read_only, ..Bind::new(*path, *path) })?;
    }
    match spec.tmp {
        Tmp::Host => {
            // Who becomes the command can't remove what it makes there.
            let within = if role == Role::Run { Within::Made } else { Within::Refused };
            mounts.bind(&Bind { within, ..Bind::new("/tmp", "/tmp") })?;
        }
        Tmp::Image => {}
        Tmp::Private => mounts.tmpfs(Path::new("/tmp"), None, 0o1777)?,
    }
    if let Some(home) = &spec.home {
        mounts.tmpfs(Path::new("/home"), Some(4 << 20), 0o755)?;
        mounts.bind(&Bind::new(&home.source, Path::new("/home").join(&home.user)))?;
    }
    let tmpfs = spec.tmpfs.iter().map(|tmpfs| (&tmpfs.target, Wanted::Tmpfs(tmpfs)));
    let mut wanted: Vec<_> = tmpfs.chain(spec.binds.iter().map(|bind| (&bind.target, Wanted::Bind(bind)))).collect();
    if role == Role::Run {
        // What lies within another comes after it.
        wanted.sort_by_key(|(target, _)| target.components().count());
    }
    for (_, wanted) in wanted {
        match wanted {
            Wanted::Tmpfs(tmpfs) => mounts.tmpfs(&tmpfs.target, tmpfs.size, tmpfs.mode)?,
            Wanted::Bind(bind) if bind.need == Need::IfSource && extras == Extras::LeftOut => {
                mounts.bind(&Bind { need: Need::IfBoth, ..bind.clone() })?;
            }
            Wanted::Bind(bind) => mounts.bind(bind)?,
        }
    }
    if needs_apt_config(spec) {
        mounts.put(APT_PLACE, APT_CONFIG.as_bytes().to_vec())?;
    }
    for (path, content) in &spec.files {
        mounts.put_always(path, content.clone())?;
    }
    if spec.no_cwd == NoDirectory::MakeOrBeginInRoot && extras == Extras::Wanted {
        mounts.place(&spec.cwd);
    }
    let mut steps = mounts.steps;
    if !spec.writable {
        steps.push(Step::RootReadOnly);
    }
    if spec.network == Network::None {
        steps.push(Step::LoopbackUp);
    }
    steps.push(Step::Pivot);
    if (spec.uid, spec.gid) != enter::inside() {
        let maps = Maps::new((spec.uid, spec.gid), enter::inside());
        steps.push(Step::Identity { uid: spec.uid, gid: spec.gid, maps });
    }
    Ok(steps)
}

/// apt becomes another user for downloads and looks whether it worked. The pretending filter can't lie about that.
fn needs_apt_config(spec: &Spec) -> bool {
    spec.emulation == Emulation::Seccomp
        && Path::new(APT_PLACE).exists()
        && mountpoint::locate(&spec.root, Path::new("/etc/apt")).is_ok_and(|t| t.exists() && t.is_dir())
}

/// A file that is there on every Linux and read by nobody: our lines for apt lie over it, and so no file is
/// needed in the image that would have to be made and removed. Not one of /proc: where something lies over a part of it,
/// the kernel allows no sandbox within the container a /proc of its own.
const APT_PLACE: &str = "/sys/kernel/fscaps";
const APT_CONFIG: &str = "APT::Sandbox::User \"root\";\n";

fn emulate(emulation: Emulation) -> Result<Option<Step>> {
    if emulation == Emulation::None {
        return Ok(None);
    }
    let Some(machine) = filter::HERE else { bail!("root emulation does not know this machine's system calls") };
    Ok(match emulation {
        Emulation::None => None,
        Emulation::Seccomp => Some(Step::Pretend(filter::program(machine, filter::Mode::Pretend))),
        Emulation::Notify => Some(Step::Record(filter::program(machine, filter::Mode::Record))),
    })
}

/// Files and directories of the host that a command may need, whatever the image.
const HOST_FILES: &[(&str, Need)] = &[
    ("/etc/hosts", Need::IfSource),
    ("/etc/resolv.conf", Need::IfSource),
    ("/etc/machine-id", Need::IfBoth),
    // Cray: huge pages and the application launcher.
    ("/var/lib/hugetlbfs", Need::IfBoth),
    ("/var/opt/cray/alps/spool", Need::IfBoth),
];

/// What the caller wants besides the standard mounts.
enum Wanted<'a> {
    Tmpfs(&'a Tmpfs),
    Bind(&'a Bind),
}

/// The mounts so far: what comes later may lie within.
struct Mounts<'a> {
    root: &'a Path,
    steps: Vec<Step>,
    done: Vec<(Target, Content)>,
}

/// What is to be found at a mount point.
#[derive(Clone)]
enum Content {
    Host(PathBuf, Within),
    Memory,
    Other,
}

impl Mounts<'_> {
    fn bind(&mut self, bind: &Bind) -> Result<()> {
        self.bind_as(bind, if bind.read_only { Access::Read } else { Access::Write })
    }

    /// The host's /dev and /sys are bound read-only: the caller may be the real root, and `rm -rf /` a command.
    fn bind_as(&mut self, bind: &Bind, access: Access) -> Result<()> {
        let context = || format!("can't bind {} at {}", bind.source.display(), bind.target.display());
        let source = match bind.source.metadata() {
            Ok(meta) => meta,
            Err(_) if bind.need != Need::Always => return Ok(()),
            Err(e) => return Err(e).context(|| bind.source.display().to_string()).context(context),
        };
        let shape = if source.is_dir() { Shape::Directory } else { Shape::File };
        let found = match self.locate(&bind.target, shape) {
            Ok(found) => found,
            Err(_) if bind.need != Need::Always => return Ok(()),
            Err(e) => return Err(e.context(context())),
        };
        let (target, make) = found;
        if bind.need == Need::IfBoth && !target.exists() {
            return Ok(());
        }
        if target.exists() && target.is_dir() != source.is_dir() {
            if bind.need != Need::Always {
                return Ok(());
            }
            let kind = |dir: bool| if dir { "a directory" } else { "no directory" };
            let cause = format!("the source is {}, the target {}", kind(source.is_dir()), kind(target.is_dir()));
            return Err(Error::new(cause).context(context()));
        }
        let c_source = c_path(&bind.source).context(context)?;
        self.done.push((target.clone(), Content::Host(bind.source.clone(), bind.within)));
        self.steps.push(Step::Bind { source: c_source, target, access, make });
        Ok(())
    }

    /// A directory in the tree itself, unless something lies over it.
    fn place(&mut self, path: &Path) {
        let Ok(target) = mountpoint::locate(self.root, path) else { return };
        if !target.exists() && !self.done.iter().any(|(earlier, _)| target.is_within(earlier)) {
            self.steps.push(Step::Place(target));
        }
    }

    /// Whether the tree has a symbolic link there. Images of systems that run have such for name service, which lead to
    /// what only a running system has.
    fn is_link(&self, path: &Path) -> bool {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return false };
        mountpoint::locate(self.root, dir)
            .is_ok_and(|dir| dir.host_path(self.root).join(name).symlink_metadata().is_ok_and(|meta| meta.is_symlink()))
    }

    fn proc(&mut self) -> Result<()> {
        let (target, _) = self.directory(Path::new("/proc"))?;
        self.done.push((target.clone(), Content::Other));
        self.steps.push(Step::Proc(target.clone()));
        // The real root may set the kernel's parameters. For others nothing may lie over a part of /proc, see `APT_PLACE`.
        if Path::new("/proc/sys/kernel").metadata().is_ok_and(|meta| meta.uid() == euid()) {
            self.steps.push(Step::KernelReadOnly(target));
        }
        Ok(())
    }

    /// Below the host's /proc, which hides it from all but those who read lists of mounts.
    fn mark(&mut self, name: &str) -> Result<()> {
        let (target, _) = self.directory(Path::new("/proc"))?;
        let name = CString::new(name).map_err(|_| Error::new("NUL in a name"))?;
        self.steps.push(Step::Mark { target, name });
        Ok(())
    }

    fn tmpfs(&mut self, path: &Path, size: Option<u64>, mode: u32) -> Result<()> {
        let (target, _) = self.directory(path)?;
        let mut options = format!("mode={mode:o}");
        if let Some(size) = size {
            options.push_str(&format!(",size={size}"));
        }
        let options = CString::new(options).map_err(|_| Error::new("NUL in mount options"))?;
        self.done.push((target.clone(), Content::Memory));
        self.steps.push(Step::Tmpfs { target, options });
        Ok(())
    }

    fn put(&mut self, path: &str, content: Vec<u8>) -> Result<()> {
        let (target, _) = self.locate(Path::new(path), Shape::File)?;
        // An image without such a file has no use for it.
        if target.exists() && !target.is_dir() {
            let (scratch, _) = self.directory(Path::new("/dev"))?;
            self.steps.push(Step::Put { scratch, target, content });
        }
        Ok(())
    }

    /// Also where there is no such file.
    fn put_always(&mut self, path: &Path, content: Vec<u8>) -> Result<()> {
        let (target, _) = self.locate(path, Shape::File)?;
        if target.exists() && target.is_dir() {
            bail!("can't put a file over {} of the image: a directory", path.display());
        }
        if !target.exists() {
            self.steps.push(Step::FilePlace(target.clone()));
        }
        let (scratch, _) = self.directory(Path::new("/dev"))?;
        self.steps.push(Step::Put { scratch, target, content });
        Ok(())
    }

    fn directory(&mut self, path: &Path) -> Result<(Target, Make)> {
        let (target, make) =
            self.locate(path, Shape::Directory).context(|| format!("can't mount on {}", path.display()))?;
        if target.exists() && !target.is_dir() {
            bail!("can't mount on {} of the image: not a directory", path.display());
        }
        Ok((target, make))
    }

    /// Resolves a target within the tree and, if it comes to lie in an earlier mount, within that. `shape`: what it will
    /// be if it has to be made.
    fn locate(&mut self, path: &Path, shape: Shape) -> Result<(Target, Make)> {
        let target = mountpoint::locate(self.root, path)?;
        if target.parts().is_empty() {
            bail!("{} is the root directory of the image", path.display());
        }
        let Some((above, content)) = self.done.iter().rev().find(|(earlier, _)| target.is_within(earlier)) else {
            return Ok((target, Make::Nothing));
        };
        let below = target.below(above);
        if below.as_os_str().is_empty() {
            // Mounted on once more. The mount that is there decides what can go over it.
            let is_dir = match content {
                Content::Host(source, _) => source.is_dir(),
                Content::Memory | Content::Other => true,
            };
            return Ok((target.present_elsewhere(is_dir), Make::Nothing));
        }
        match content {
            Content::Memory => {
                let make = if shape == Shape::File { Make::File } else { Make::Directories };
                Ok((target.present_elsewhere(shape == Shape::Directory), make))
            }
            Content::Other => bail!("{target} lies within {above}, where nothing can be mounted"),
            Content::Host(source, within) => {
                let stub = mountpoint::locate(source, &below)?;
                if stub.host_path(source) != source.join(&below) {
                    bail!("there is a symbolic link in {}", source.join(&below).display());
                }
                if stub.exists() && *within == Within::Refused {
                    return Ok((target.present_elsewhere(stub.is_dir()), Make::Nothing));
                }
                if *within == Within::Refused {
                    return Err(Error::new(format!(
                        "{target} lies within the host's {}, where {} does not exist",
                        source.display(),
                        below.display()
                    ))
                    .hint("make it there first, or choose a target outside"));
                }
                let is_dir = if stub.exists() { stub.is_dir() } else { shape == Shape::Directory };
                self.steps.push(Step::Stub { within: source.clone(), target: stub, shape });
                Ok((target.present_elsewhere(is_dir), Make::Nothing))
            }
        }
    }
}

fn program(spec: &Spec) -> Result<Program> {
    let c = |s: &OsStr| {
        CString::new(s.as_bytes()).map_err(|_| Error::new(format!("NUL in {}", escape(&s.to_string_lossy()))))
    };
    let Some(command) = spec.argv.first() else { bail!("no command to run") };
    let mut env = Vec::with_capacity(spec.env.len());
    for (name, value) in &spec.env {
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            bail!("bad name of an environment variable: {:?}", name);
        }
        let mut pair = name.clone();
        pair.push("=");
        pair.push(value);
        env.push(c(&pair)?);
    }
    if needs_apt_config(spec) && !spec.env.iter().any(|(name, _)| name == "APT_CONFIG") {
        env.push(c(OsStr::new(&format!("APT_CONFIG={APT_PLACE}")))?);
    }
    let argv = spec.argv.iter().map(|s| c(s)).collect::<Result<Vec<_>>>()?;
    let path = spec.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let candidates = candidates(command, path).iter().map(|s| c(s)).collect::<Result<Vec<_>>>()?;
    Ok(Program { candidates, argv: Words::new(argv), env: Words::new(env) })
}

/// Where execvp(3) would look for a command.
fn candidates(command: &OsStr, path: Option<&OsStr>) -> Vec<OsString> {
    if command.is_empty() || command.as_bytes().contains(&b'/') {
        return vec![command.to_owned()];
    }
    let path = path.unwrap_or(OsStr::new("/bin:/usr/bin"));
    let directories = path.as_bytes().split(|&b| b == b':');
    // An empty entry is the current directory.
    directories.map(|dir| Path::new(OsStr::from_bytes(dir)).join(command).into_os_string()).collect()
}

fn passwd_file(spec: &Spec, account: &Account) -> String {
    let mut text = String::new();
    if spec.uid != 0 {
        text.push_str("root:x:0:0:root:/root:/bin/sh\n");
    }
    if spec.uid != 65534 {
        text.push_str("nobody:x:65534:65534:nobody:/:/bin/false\n");
    }
    let Account { user, full_name, home, .. } = account;
    text.push_str(&format!("{user}:x:{}:{}:{full_name}:{home}:/bin/sh\n", spec.uid, spec.gid));
    text
}

fn group_file(spec: &Spec, account: &Account) -> String {
    let mut text = String::new();
    if spec.gid != 0 {
        text.push_str("root:x:0:\n");
    }
    if spec.gid != 65534 {
        text.push_str("nogroup:x:65534:\n");
    }
    text.push_str(&format!("{}:x:{}:\n", account.group, spec.gid));
    text
}
