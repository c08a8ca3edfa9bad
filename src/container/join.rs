//! How do peers on one node come to share a container? The first one makes it, the others enter its namespaces.
//!
//! MPI ranks copy from each other's memory (process_vm_readv), which the kernel allows only within one user namespace.
//! The peers meet at a file in /dev/shm, whose lock the first one holds until its container stands and its own process
//! number is in the file. Whoever finds it dead takes its place. The last one removes the file.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::env::Environment;
use super::invoker;
use crate::bail;
use crate::error::{Context, Error, Result};
use crate::sys::fs::{Lock, Wait, flock};
use crate::sys::namespace::{self, NEW_MOUNT, NEW_USER};
use crate::sys::process;

/// How long a peer waits for the first one.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Which peers belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub count: u32,
    pub tag: OsString,
}

impl Group {
    /// From the options, or else what the launcher has put into the environment.
    pub fn find(count: Option<u32>, tag: Option<&OsStr>, env: &Environment) -> Result<Group> {
        let var =
            |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_os_str()).filter(|v| !v.is_empty());
        let from_launcher = || {
            ["OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE", "SLURM_CPUS_ON_NODE"]
                .iter()
                .find_map(|name| var(name).and_then(leading_number))
        };
        let Some(count) = count.or_else(from_launcher) else {
            return Err(Error::new("join: no valid peer group size found").hint("use --join-ct"));
        };
        if count == 0 {
            bail!("join: peer group size must be at least 1");
        }
        let tag = match tag.or_else(|| var("SLURM_STEP_ID")) {
            Some(tag) => tag.to_owned(),
            None => process::parent_pid().to_string().into(),
        };
        if tag.is_empty() || tag.len() > 200 || tag.as_bytes().contains(&b'/') {
            bail!("join: bad tag: {tag:?}");
        }
        Ok(Group { count, tag })
    }

    fn path(&self) -> PathBuf {
        let mut name = OsString::from(format!("ch-run_{}_", invoker().0));
        name.push(&self.tag);
        Path::new("/dev/shm").join(name)
    }
}

/// Slurm says `2(x3)` for two tasks on each of three nodes.
fn leading_number(text: &OsStr) -> Option<u32> {
    let digits: Vec<u8> = text.as_bytes().iter().copied().take_while(u8::is_ascii_digit).collect();
    String::from_utf8(digits).ok()?.parse().ok()
}

/// What became of this peer.
pub enum Part {
    /// The first: makes the container, then [`First::announce`]s it.
    First(First),
    /// It is within the container now.
    Joined,
}

pub struct First {
    file: File,
    path: PathBuf,
    left: u32,
}

impl First {
    /// Lets the others in.
    pub fn announce(&self) -> std::io::Result<()> {
        if self.left == 0 {
            return std::fs::remove_file(&self.path);
        }
        write_state(&self.file, &State { pid: process::pid(), started: started(process::pid()), left: self.left })?;
        self.file.unlock()
    }
}

/// Waits for the first peer and enters its container, or finds that this is the first.
pub fn join(group: &Group) -> Result<Part> {
    let path = group.path();
    let context = || format!("join: {}", path.display());
    let file = locked(&path).context(context)?;
    let Some(state) = read_state(&file).context(context)?.filter(State::is_alive) else {
        return Ok(Part::First(First { file, path, left: group.count - 1 }));
    };
    let entered = enter_process(state.pid);
    let left = state.left.saturating_sub(1);
    // The file is in the host's /dev/shm, which the container shows as well; the descriptor works in any case.
    let done = if left == 0 { std::fs::remove_file(&path) } else { write_state(&file, &State { left, ..state }) };
    entered?;
    done.context(context)?;
    Ok(Part::Joined)
}

/// Enters the namespaces of a process of the same user.
pub fn enter_process(pid: process::Pid) -> Result<()> {
    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        File::open(&path).context(|| format!("join: can't open {path}"))
    };
    let (user, mount) = (open("user")?, open("mnt")?);
    let context = |kind: &'static str| move || format!("join: can't enter the {kind} namespace of process {pid}");
    namespace::join(&user, NEW_USER).context(context("user"))?;
    namespace::join(&mount, NEW_MOUNT).context(context("mount"))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    pid: process::Pid,
    /// Tells processes apart that had the same number.
    started: u64,
    left: u32,
}

impl State {
    fn is_alive(&self) -> bool {
        self.started != 0 && started(self.pid) == self.started
    }
}

fn locked(path: &Path) -> Result<File> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        if file.metadata()?.uid() != invoker().0 {
            bail!("belongs to another user");
        }
        while !flock(&file, Lock::Exclusive, Wait::No)? {
            if Instant::now() > deadline {
                return Err(Error::new("timed out waiting for the first peer").hint("is --join-ct right?"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // The last peer of an earlier group may have removed it in between.
        if file.metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

fn read_state(mut file: &File) -> Result<Option<State>> {
    let mut text = String::new();
    file.rewind()?;
    file.take(100).read_to_string(&mut text)?;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    let &[pid, started, left] = numbers.as_slice() else { return Ok(None) };
    let (Ok(pid), Ok(left)) = (process::Pid::try_from(pid), u32::try_from(left)) else { return Ok(None) };
    Ok(Some(State { pid, started, left }))
}

fn write_state(mut file: &File, state: &State) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{} {} {}\n", state.pid, state.started, state.left).as_bytes())
}

/// When a process began, in clock ticks since boot; 0 if there is none.
fn started(pid: process::Pid) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may contain anything; field 22 is the 20th after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().nth(19).and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_from_options_or_launcher() {
        let check = |count: Option<u32>, env: &[(&str, &str)], want: Option<(u32, &str)>| {
            let env = env.iter().map(|(n, v)| (n.into(), v.into())).collect();
            let got = Group::find(count, Some(OsStr::new("t")).filter(|_| count == Some(9)), &env).ok();
            assert_eq!(got.as_ref().map(|g| (g.count, g.tag.to_str().unwrap())), want, "{env:?}");
        };
        let step = ("SLURM_STEP_ID", "7");
        check(Some(9), &[], Some((9, "t")));
        check(Some(9), &[step], Some((9, "t")));
        check(Some(3), &[step], Some((3, "7")));
        check(None, &[step, ("SLURM_STEP_TASKS_PER_NODE", "2(x3)")], Some((2, "7")));
        check(None, &[step, ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"), ("SLURM_CPUS_ON_NODE", "8")], Some((4, "7")));
        check(None, &[step, ("SLURM_CPUS_ON_NODE", "8")], Some((8, "7")));
        check(None, &[step, ("SLURM_CPUS_ON_NODE", "x")], None);
        check(None, &[step], None);
        check(Some(0), &[step], None);
        check(Some(3), &[("SLURM_STEP_ID", "a/b")], None);
    }

    #[test]
    fn this_process_has_begun() {
        let now = started(process::pid());
        assert!(now > 0);
        assert_eq!(started(process::pid()), now);
        assert_eq!(started(-1), 0);
    }
}
