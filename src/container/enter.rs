//! How does an ordinary user come to mount things? By a user namespace of their own.
//!
//! The program puts *itself* into a new user and mount namespace and carries on: overlay mounts are then ordinary
//! mounts of this process, and directories without permission bits no obstacle. A second thread makes the kernel refuse
//! (EINVAL), so this comes before any thread.
//!
//! Sites forbid user namespaces in half a dozen ways, all of which look like EPERM or ENOSPC. The error names the one
//! that is in force, by reading the settings afterwards.

use std::fs;
use std::io::{self, PipeWriter, Read, Write};
use std::sync::OnceLock;

use crate::error::{Context, Error, Result};
use crate::sys::fs::{egid, euid};
use crate::sys::mount::{self, PRIVATE, RECURSIVE};
use crate::sys::namespace::{self, NEW_MOUNT, NEW_USER};
use crate::sys::process::{self, Dumpable, Fork};

/// Who started us, as the host sees them; set by entering, which hides it.
static INVOKER: OnceLock<(u32, u32)> = OnceLock::new();
/// As whom this process sees itself since.
static INSIDE: OnceLock<(u32, u32)> = OnceLock::new();

/// Puts this process into a new user and mount namespace, its user and group shown as 0. Does nothing the second time.
///
/// Mounts made from here on are this process's own and vanish with it. Call it before any thread is started.
pub fn enter() -> Result<()> {
    enter_as((0, 0))
}

/// As [`enter`], shown as another user and group: ch-run keeps the caller's own. What may be done is the same, up to
/// the exec.
pub fn enter_as(inside: (u32, u32)) -> Result<()> {
    if INVOKER.get().is_some() {
        return Ok(());
    }
    let invoker = (euid(), egid());
    Entry::new(inside).perform().map_err(|(stage, e)| explain(stage, &e))?;
    INVOKER.get_or_init(|| invoker);
    INSIDE.get_or_init(|| inside);
    Ok(())
}

/// In a forked child: mounts that it makes from here on are its own and vanish with it.
pub fn separate() -> Result<()> {
    if INVOKER.get().is_none() {
        return Ok(());
    }
    namespace::unshare(NEW_MOUNT).context(|| "can't make a mount namespace")
}

/// User and group of this process within its namespace.
pub fn inside() -> (u32, u32) {
    INSIDE.get().copied().unwrap_or((0, 0))
}

/// User and group of the caller on the host, also after [`enter`].
pub fn invoker() -> (u32, u32) {
    INVOKER.get().copied().unwrap_or_else(|| (euid(), egid()))
}

/// Whether [`enter`] would work, tried in a child; this process stays as it is.
pub fn can_enter() -> Result<()> {
    if INVOKER.get().is_some() {
        return Ok(());
    }
    let entry = Entry::new((0, 0));
    let (mut reader, writer) = io::pipe().context(|| "can't make a pipe")?;
    match process::fork(0).context(|| "can't fork")? {
        Fork::Child => {
            report(&writer, entry.perform());
            process::exit(0)
        }
        Fork::Parent(pid) => {
            drop(writer);
            let mut word = [0_u8; 8];
            let answer = reader.read_exact(&mut word);
            process::wait(pid).context(|| "can't wait for a child")?;
            answer.context(|| "no answer from a child that tried user namespaces")?;
            let [s0, s1, s2, s3, e0, e1, e2, e3] = word;
            match Stage::ALL.get(u32::from_ne_bytes([s0, s1, s2, s3]) as usize) {
                None => Ok(()),
                Some(&stage) => {
                    let errno = i32::from_ne_bytes([e0, e1, e2, e3]);
                    Err(explain(stage, &io::Error::from_raw_os_error(errno)))
                }
            }
        }
    }
}

fn report(mut to: &PipeWriter, outcome: Result<(), (Stage, io::Error)>) {
    let (stage, errno) = match outcome {
        Ok(()) => (u32::MAX, 0),
        Err((stage, e)) => (stage as u32, e.raw_os_error().unwrap_or(libc::EIO)),
    };
    let mut word = [0_u8; 8];
    word[..4].copy_from_slice(&stage.to_ne_bytes());
    word[4..].copy_from_slice(&errno.to_ne_bytes());
    // If it is lost, the parent sees an end of file and says so.
    let _ = to.write_all(&word);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Unshare,
    Map,
    Mount,
}

impl Stage {
    const ALL: [Stage; 3] = [Stage::Unshare, Stage::Map, Stage::Mount];
}

/// All that entering needs, made ready so that a forked child can do it without allocating.
struct Entry {
    flags: i32,
    maps: Maps,
}

/// The one user and one group that exist in a new user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maps {
    uid: String,
    gid: String,
}

impl Maps {
    /// `inside` are the numbers to be seen within the namespace, `outside` those in force now.
    pub fn new(inside: (u32, u32), outside: (u32, u32)) -> Maps {
        Maps { uid: format!("{} {} 1", inside.0, outside.0), gid: format!("{} {} 1", inside.1, outside.1) }
    }

    /// Writes them for this process, which has just made its namespace.
    pub fn write(&self) -> io::Result<()> {
        // Files of a process that hides from others belong to root.
        let before = process::dumpable()?;
        process::set_dumpable(Dumpable::Yes)?;
        let done = self.write_files();
        process::set_dumpable(before)?;
        done
    }

    fn write_files(&self) -> io::Result<()> {
        // Without this, an ordinary user may not map a group (Linux 3.19). Earlier kernels have no such file.
        match write_file(c"/proc/self/setgroups", "deny") {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(e),
            Ok(()) | Err(_) => {}
        }
        write_file(c"/proc/self/uid_map", &self.uid)?;
        write_file(c"/proc/self/gid_map", &self.gid)
    }
}

fn write_file(path: &std::ffi::CStr, text: &str) -> io::Result<()> {
    mount::open_for_writing(path).and_then(|fd| (&fs::File::from(fd)).write_all(text.as_bytes()))
}

impl Entry {
    fn new(inside: (u32, u32)) -> Entry {
        Entry { flags: NEW_USER | NEW_MOUNT, maps: Maps::new(inside, (euid(), egid())) }
    }

    fn perform(&self) -> Result<(), (Stage, io::Error)> {
        namespace::unshare(self.flags).map_err(|e| (Stage::Unshare, e))?;
        self.maps.write().map_err(|e| (Stage::Map, e))?;
        // Nothing that is mounted here shall be seen outside, nor the other way round.
        mount::mount(None, c"/", None, RECURSIVE | PRIVATE, None).map_err(|e| (Stage::Mount, e))
    }
}

fn explain(stage: Stage, e: &io::Error) -> Error {
    let errno = e.raw_os_error().unwrap_or(0);
    let what = match stage {
        Stage::Unshare => "can't make a user namespace",
        Stage::Map => "can't map the user in a new user namespace",
        Stage::Mount => "can't mount in a new user namespace",
    };
    let read = |path: &str| fs::read_to_string(path).ok();
    let (cause, hint) = diagnose(errno, &read);
    let error = Error::new(cause.unwrap_or_else(|| crate::error::io_text(e))).context(what);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Which setting refuses, and the way out: from the errno and the settings, read through `read`.
fn diagnose(errno: i32, read: &dyn Fn(&str) -> Option<String>) -> (Option<String>, Option<String>) {
    let setting = |path: &str| read(path).map(|text| text.trim().to_owned());
    let say = |cause: &str, hint: &str| (Some(cause.to_owned()), Some(hint.to_owned()));
    if errno == libc::EINVAL && threads(read) > 1 {
        return say("this process already has threads", "this is a bug in ch-image; please report it");
    }
    if setting("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return say(
            "the limit user.max_user_namespaces is 0",
            "ask the administrator for: sysctl -w user.max_user_namespaces=65536 (to keep: a file in /etc/sysctl.d)",
        );
    }
    if setting("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return say(
            "the setting kernel.unprivileged_userns_clone is 0",
            "ask the administrator for: sysctl -w kernel.unprivileged_userns_clone=1 (to keep: a file in /etc/sysctl.d)",
        );
    }
    if matches!(errno, libc::EPERM | libc::EACCES)
        && setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1")
    {
        return say(
            "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1)",
            "ask the administrator for an AppArmor profile that allows userns for ch-image, or for: \
             sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        );
    }
    if setting("/proc/self/ns/user").is_none() && read("/proc/self/status").is_some() && errno == libc::EINVAL {
        return say("this kernel has no user namespaces", "ask the administrator for a kernel with CONFIG_USER_NS");
    }
    match errno {
        libc::ENOSPC | libc::EUSERS => say(
            "too many user namespaces exist, or they are nested too deep",
            "the limit is user.max_user_namespaces; see if processes of yours hold some, with: lsns -t user",
        ),
        libc::EPERM => {
            let filtered = read("/proc/self/status").is_some_and(|s| field(&s, "Seccomp:").is_some_and(|v| v != "0"));
            let hint = if filtered {
                "a seccomp filter is in force: inside Docker, run it with --security-opt seccomp=unconfined; \
                 inside Podman, with --security-opt=seccomp=unconfined or as a nested rootless container"
            } else {
                "the kernel refuses this inside a chroot, and where a security module forbids it: ask the administrator"
            };
            (None, Some(hint.to_owned()))
        }
        libc::EACCES => (None, Some("a security module forbids it (SELinux, AppArmor): ask the administrator".into())),
        _ => (None, None),
    }
}

fn threads(read: &dyn Fn(&str) -> Option<String>) -> u32 {
    let status = read("/proc/self/status").unwrap_or_default();
    field(&status, "Threads:").and_then(|v| v.parse().ok()).unwrap_or(1)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_refuses_is_named() {
        let check = |errno: i32, files: &[(&str, &str)], want: &str| {
            let read = |path: &str| files.iter().find(|(p, _)| *p == path).map(|(_, text)| text.to_string());
            let (cause, hint) = diagnose(errno, &read);
            let text = format!("{} | {}", cause.unwrap_or_default(), hint.unwrap_or_default());
            assert!(text.contains(want), "{errno} {files:?}: {text}");
        };
        let status = ("/proc/self/status", "Threads:\t1\nSeccomp:\t0\n");
        check(libc::ENOSPC, &[("/proc/sys/user/max_user_namespaces", "0\n")], "user.max_user_namespaces is 0 |");
        check(libc::ENOSPC, &[("/proc/sys/user/max_user_namespaces", "5\n")], "nested too deep");
        check(libc::EPERM, &[("/proc/sys/kernel/unprivileged_userns_clone", "0\n")], "unprivileged_userns_clone is 0");
        check(libc::EPERM, &[("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")], "AppArmor profile");
        check(libc::EACCES, &[("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")], "AppArmor profile");
        check(libc::EACCES, &[], "security module");
        check(libc::EPERM, &[status], "chroot");
        check(libc::EPERM, &[("/proc/self/status", "Threads:\t1\nSeccomp:\t2\n")], "seccomp=unconfined");
        check(libc::EINVAL, &[("/proc/self/status", "Threads:\t3\n")], "has threads");
        check(libc::EINVAL, &[status], "CONFIG_USER_NS");
    }
}
