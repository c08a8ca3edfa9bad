//! How do peers on one node come to share a container? The first one makes it, the others enter its namespaces.
//!
//! MPI ranks copy from each other's memory (process_vm_readv), which the kernel allows only within one user namespace.
//! A container is marked by a mount that has the name of its group. So it is found through any process that is in it,
//! and it is gone with the last one, however they end: nothing is counted, and no file has to be removed. Peers look one
//! at a time; whose turn it is listens at an abstract socket of that name, which the kernel takes away with the process.

use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::env::Environment;
use super::invoker;
use crate::error::{Context, Error, Result, bail};
use crate::log::{info, verbose};
use crate::sys::namespace::{self, NEW_MOUNT, NEW_USER};
use crate::sys::process::{self, Pid};

/// After this long it is said whom we wait for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which peers belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    name: String,
}

impl Group {
    /// Of this user's processes with the same tag that want the same container: `what` describes it.
    pub fn new(tag: &OsStr, what: &str) -> Group {
        let hash = |n: u8| {
            let mut hasher = DefaultHasher::new();
            (n, tag, what).hash(&mut hasher);
            hasher.finish()
        };
        Group { name: format!("ch-run-{}-{:016x}{:016x}", invoker().0, hash(0), hash(1)) }
    }
}

/// What the peers of one step of one job have in common: what was said, else what the launcher has put into the
/// environment, else their parent.
pub fn tag(said: Option<&OsStr>, env: &Environment) -> OsString {
    let var = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_os_str()).filter(|v| !v.is_empty());
    let shown = |v: &OsStr| v.to_string_lossy().into_owned();
    if let Some(tag) = said {
        return tag.to_owned();
    }
    if let Some(step) = var("SLURM_STEP_ID").filter(|step| is_step(step)) {
        let job = var("SLURM_JOB_ID").or_else(|| var("SLURM_JOBID")).map(shown).unwrap_or_default();
        // One machine may be several nodes.
        let node = var("SLURM_NODEID").map(|node| format!(" node {}", shown(node))).unwrap_or_default();
        return format!("slurm {job}.{}{node}", shown(step)).into();
    }
    for name in ["PMIX_NAMESPACE", "PALS_APID", "PMI_JOBID"] {
        if let Some(value) = var(name) {
            return format!("{name} {}", shown(value)).into();
        }
    }
    let parent = process::parent_pid();
    format!("parent {parent} {}", started(parent)).into()
}

/// Whether an MPI launcher has started this process as one of several: each says to a process which one it is. (Slurm,
/// Open MPI, PMIx, MPICH's Hydra and its kin, HPE's PALS.)
pub fn has_launcher(env: &Environment) -> bool {
    let ranks = ["SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "PALS_RANKID"];
    // In a batch script, and in the shell of an allocation, Slurm says 0, but there is no step of several.
    let in_step = |name: &str| {
        name != "SLURM_PROCID" || env.iter().any(|(name, value)| name == "SLURM_STEP_ID" && is_step(value))
    };
    let is_set = |name: &str| env.iter().any(|(known, value)| known == name && !value.is_empty());
    ranks.iter().any(|name| is_set(name) && in_step(name))
}

/// Not the numbers of a batch script and an interactive shell (slurm.h).
fn is_step(step: &OsStr) -> bool {
    !["4294967291", "4294967290"].iter().any(|special| step == *special)
}

/// What became of this peer.
pub enum Part {
    /// The first: makes the container, then [`First::announce`]s it.
    First(First),
    /// It is within the container now.
    Joined,
}

pub struct First {
    mark: String,
    turn: Cell<Option<UnixListener>>,
}

impl First {
    /// The name of the mount by which the others find the container.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Lets the others look.
    pub fn announce(&self) {
        drop(self.turn.take());
    }
}

/// Enters the group's container, or finds that there is none: then this is the first.
pub fn join(group: &Group) -> Result<Part> {
    let turn = take_turn(group)?;
    match find(group) {
        None => {
            verbose!("join: making the container of {}", group.name);
            Ok(Part::First(First { mark: group.name.clone(), turn: Cell::new(Some(turn)) }))
        }
        Some((pid, namespaces)) => {
            drop(turn);
            verbose!("join: entering the container of process {pid}");
            namespaces.enter(pid)?;
            Ok(Part::Joined)
        }
    }
}

fn take_turn(group: &Group) -> Result<UnixListener> {
    let failed = || format!("join: can't find peers ({})", group.name);
    let address = SocketAddr::from_abstract_name(&group.name).context(failed)?;
    loop {
        match UnixListener::bind_addr(&address) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => wait_for_turn(&address).context(failed)?,
            other => return other.context(failed),
        }
    }
}

/// Until the process whose turn it is lets others look, or ends.
fn wait_for_turn(address: &SocketAddr) -> Result<()> {
    let Ok(mut stream) = UnixStream::connect_addr(address) else {
        // Not yet listening, or gone just now.
        std::thread::sleep(Duration::from_millis(1));
        return Ok(());
    };
    let (pid, user) = process::peer(&stream)?;
    if user != invoker().0 {
        return Err(Error::new(format!("user {user} has taken this group's name (process {pid})"))
            .hint("choose another one with --join-tag"));
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut told = false;
    loop {
        match stream.read(&mut [0]).map_err(|e| e.kind()) {
            Err(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) if !told => {
                info!("join: waiting for process {pid} to make the container");
                told = true;
            }
            Err(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => {}
            Ok(_) | Err(_) => return Ok(()),
        }
    }
}

/// A process in the group's container, and the container's namespaces, which stay even if it ends.
fn find(group: &Group) -> Option<(Pid, Namespaces)> {
    let mut others: HashSet<PathBuf> = fs::read_link("/proc/self/ns/mnt").into_iter().collect();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<Pid>().ok()) {
        // Those of other users can't be read, and any may end while we look.
        let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else { continue };
        if others.contains(&namespace) {
            continue;
        }
        let Ok(mounts) = fs::read(format!("/proc/{pid}/mountinfo")) else { continue };
        if !is_marked(&mounts, &group.name) {
            others.insert(namespace);
            continue;
        }
        if let Some(namespaces) = Namespaces::of(pid).ok().filter(|found| found.is(&namespace)) {
            return Some((pid, namespaces));
        }
    }
    None
}

/// Whether one of the mounts is the group's mark (proc(5): after a lone hyphen file system and source).
fn is_marked(mounts: &[u8], name: &str) -> bool {
    let is_mark = |line: &str| {
        let mut words = line.split(' ').skip_while(|word| *word != "-").skip(1);
        words.next() == Some("tmpfs") && words.next() == Some(name)
    };
    String::from_utf8_lossy(mounts).lines().any(is_mark)
}

struct Namespaces {
    user: OwnedFd,
    mount: OwnedFd,
}

impl Namespaces {
    fn of(pid: Pid) -> Result<Namespaces> {
        let open = |kind: &str| {
            let path = format!("/proc/{pid}/ns/{kind}");
            File::open(&path).context(|| format!("join: can't open {path}")).map(OwnedFd::from)
        };
        let mount = open("mnt")?;
        // The process may have entered another one since. Before Linux 4.9 the kernel does not say.
        let user = namespace::owner(&mount).or_else(|_| open("user"))?;
        Ok(Namespaces { user, mount })
    }

    fn is(&self, mount: &Path) -> bool {
        fs::read_link(format!("/proc/self/fd/{}", self.mount.as_raw_fd())).is_ok_and(|link| link == mount)
    }

    fn enter(&self, pid: Pid) -> Result<()> {
        let context = |kind: &'static str| move || format!("join: can't enter the {kind} namespace of process {pid}");
        namespace::join(&self.user, NEW_USER).context(context("user"))?;
        namespace::join(&self.mount, NEW_MOUNT).context(context("mount"))
    }
}

/// Enters the namespaces of a process of the same user.
pub fn enter_process(pid: Pid) -> Result<()> {
    if !Path::new("/proc").join(pid.to_string()).exists() {
        bail!("join: no such process: {pid}");
    }
    Namespaces::of(pid)?.enter(pid)
}

/// When a process began, in clock ticks since boot; 0 if there is none.
fn started(pid: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may contain anything; field 22 is the 20th after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().nth(19).and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_from_the_option_or_the_launcher() {
        let parent = format!("parent {} {}", process::parent_pid(), started(process::parent_pid()));
        let check = |said: Option<&str>, env: &[(&str, &str)], want: &str| {
            let env = env.iter().map(|(n, v)| (n.into(), v.into())).collect();
            assert_eq!(tag(said.map(OsStr::new), &env), OsString::from(want), "{said:?} {env:?}");
        };
        let (job, step) = (("SLURM_JOB_ID", "31"), ("SLURM_STEP_ID", "0"));
        check(Some("t"), &[], "t");
        check(Some("t"), &[job, step], "t");
        check(None, &[job, step], "slurm 31.0");
        check(None, &[("SLURM_JOBID", "32"), step], "slurm 32.0");
        check(None, &[step], "slurm .0");
        check(None, &[job, step, ("SLURM_NODEID", "1")], "slurm 31.0 node 1");
        check(None, &[job, ("SLURM_STEP_ID", "4294967290"), ("PMI_JOBID", "x")], "PMI_JOBID x");
        check(None, &[job, step, ("PMI_JOBID", "x")], "slurm 31.0");
        // mpirun in a batch script.
        check(None, &[job, ("PMIX_NAMESPACE", "prterun-7@1")], "PMIX_NAMESPACE prterun-7@1");
        check(None, &[job, ("PMI_JOBID", "kvs_7")], "PMI_JOBID kvs_7");
        check(None, &[("PALS_APID", "a-b"), ("PMI_JOBID", "x")], "PALS_APID a-b");
        check(None, &[job], &parent);
        check(None, &[job, ("SLURM_STEP_ID", ""), ("PMI_JOBID", "")], &parent);
        check(None, &[], &parent);
    }

    #[test]
    fn launchers_are_known_by_what_they_say() {
        let check = |env: &[(&str, &str)], want: bool| {
            let list = env.iter().map(|(n, v)| (n.into(), v.into())).collect();
            assert_eq!(has_launcher(&list), want, "{env:?}");
        };
        check(&[], false);
        check(&[("SLURM_JOB_ID", "1"), ("SLURM_PROCID", "0")], false);
        check(&[("SLURM_JOB_ID", "1"), ("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0")], true);
        check(&[("SLURM_STEP_ID", "4294967290"), ("SLURM_PROCID", "0")], false);
        check(&[("SLURM_STEP_ID", "4294967291"), ("SLURM_PROCID", "0")], false);
        check(&[("OMPI_COMM_WORLD_RANK", "1")], true);
        check(&[("PMIX_RANK", "1")], true);
        check(&[("PMI_RANK", "1"), ("PMI_FD", "7")], true);
        check(&[("PMI_RANK", "")], false);
        check(&[("PALS_RANKID", "3"), ("PALS_APID", "x")], true);
    }

    #[test]
    fn groups_differ_by_tag_and_container() {
        let name = |tag: &str, what: &str| Group::new(OsStr::new(tag), what).name;
        assert_eq!(name("a", "b"), name("a", "b"));
        let all: HashSet<String> = [("a", "b"), ("b", "a"), ("ab", ""), ("", "ab"), ("a", "b ")]
            .map(|(tag, what)| name(tag, what))
            .into_iter()
            .collect();
        assert_eq!(all.len(), 5);
        // Abstract names have 107 bytes, whatever the tag is.
        assert!(name(&"x/".repeat(500), "").len() < 64);
    }

    #[test]
    fn marks_are_found_among_mounts() {
        let check = |line: &str, want: bool| assert_eq!(is_marked(line.as_bytes(), "ch-run-1-x"), want, "{line}");
        check("36 35 0:5 / /proc ro,nosuid - tmpfs ch-run-1-x ro,size=4k", true);
        check("1 2 0:3 / / rw - ext4 /dev/vda rw\n36 35 0:5 / /proc ro shared:1 - tmpfs ch-run-1-x ro", true);
        check("36 35 0:5 / /proc ro - tmpfs ch-run-1-xy ro", false);
        check("36 35 0:5 / /proc ro - ext4 ch-run-1-x ro", false);
        check("36 35 0:5 / /ch-run-1-x ro - tmpfs none ro", false);
        check("", false);
        assert!(!is_marked(b"\xff\xfe - tmpfs", "ch-run-1-x"));
    }

    #[test]
    fn this_process_has_begun() {
        let now = started(process::pid());
        assert!(now > 0);
        assert_eq!(started(process::pid()), now);
        assert_eq!(started(-1), 0);
    }
}
