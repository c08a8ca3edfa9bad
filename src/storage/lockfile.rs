//! How do processes keep apart where the file system has no flock(2) (some NFS and Lustre mounts)?
//!
//! By a file that only one of them can make. Whoever has it is alone in the storage directory: one process at a time
//! instead of many, but safe. It says who made it: host, process, when that started, boot, PID namespace. Where we see
//! the same processes it is stale if that process is gone; of another host or a container nobody here can tell, so we
//! wait and say for whom. There is no time-out: clocks of two machines are no proof.
//!
//! Deliberately absent: such files for images that ch-run runs commands in. Nobody would remove them when a command ends,
//! and from another host nobody could tell that it has.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use crate::error::{Context, Result};
use crate::log::{info, verbose, warning};
use crate::sys::fs::rename_new;
use crate::sys::signal;

/// Its name in the storage directory.
pub(super) const NAME: &str = "lock.owner";
/// The host of one that can't be told.
const UNKNOWN: &str = "?";
const PAUSE: Duration = Duration::from_millis(100);

/// Held as long as it lives.
pub(super) struct LockFile {
    path: PathBuf,
    holder: Holder,
}

/// Who holds it: one line, `HOST PID START BOOT NAMESPACE`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Holder {
    host: String,
    pid: u32,
    /// Start of the process in clock ticks since the boot (proc(5), stat, field 22).
    start: u64,
    boot: String,
    /// Inode of the PID namespace: a process ID means nothing in another one.
    namespace: u64,
}

impl Holder {
    fn this_process() -> Holder {
        let pid = std::process::id();
        Holder::told_by_proc(pid).unwrap_or(Holder {
            host: UNKNOWN.into(),
            pid,
            start: 0,
            boot: UNKNOWN.into(),
            namespace: 0,
        })
    }

    /// `None` if /proc is missing or that of another PID namespace.
    fn told_by_proc(pid: u32) -> Option<Holder> {
        let word = |path: &str| {
            let text = fs::read_to_string(path).ok()?.trim().replace(|c: char| c == '/' || c.is_whitespace(), "_");
            (!text.is_empty()).then_some(text)
        };
        let same = fs::read_link("/proc/self").ok()? == Path::new(&pid.to_string());
        let host = word("/proc/sys/kernel/hostname").filter(|_| same)?;
        let boot = word("/proc/sys/kernel/random/boot_id")?;
        let namespace = fs::metadata("/proc/self/ns/pid").ok()?.ino();
        Some(Holder { host, pid, start: start_of(pid)?, boot, namespace })
    }

    fn parse(text: &str) -> Option<Holder> {
        let mut words = text.split_whitespace();
        let mut word = || words.next().map(str::to_owned);
        Some(Holder {
            host: word()?,
            pid: word()?.parse().ok()?,
            start: word()?.parse().ok()?,
            boot: word()?,
            namespace: word()?.parse().ok()?,
        })
    }

    /// Whether it is certain that it is gone, as seen from `me`.
    fn is_gone(&self, me: &Holder, start_of: impl Fn(u32) -> Option<u64>) -> bool {
        let here = self.host == me.host && me.host != UNKNOWN;
        here && (self.boot != me.boot || self.namespace == me.namespace && start_of(self.pid) != Some(self.start))
    }

    fn line(&self) -> String {
        format!("{} {} {} {} {}\n", self.host, self.pid, self.start, self.boot, self.namespace)
    }
}

/// When a process started; `None` if there is none.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

impl LockFile {
    /// Waits until nobody else has it.
    pub(super) fn take(dir: &Path) -> Result<LockFile> {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            warning!(
                "the file system of {} has no file locks: only one process at a time can use it, and images that \
                 commands run in are not protected from delete, gc and fsck --repair",
                dir.display()
            );
        });
        LockFile::take_named(dir.join(NAME))
    }

    fn take_named(path: PathBuf) -> Result<LockFile> {
        let holder = Holder::this_process();
        let failed = || format!("can't make lock file {}", path.display());
        let mut told = None;
        loop {
            if make(&path, &holder).context(failed)? {
                return Ok(LockFile { path, holder });
            }
            let Some(text) = read(&path).context(failed)? else { continue };
            match Holder::parse(&text) {
                Some(other) if other.is_gone(&holder, start_of) => take_away(&path, &text)?,
                other => {
                    if told.as_ref() != Some(&text) {
                        let who = other.map_or("somebody".to_owned(), |o| format!("process {} on {}", o.pid, o.host));
                        info!(
                            "waiting for {who} to release storage directory (if it is gone, remove {})",
                            path.display()
                        );
                        told = Some(text);
                    }
                    signal::sleep(PAUSE).context(failed)?;
                }
            }
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Unless someone took it away by hand, it is ours; what stays is found stale by the next process.
        if read(&self.path).is_ok_and(|text| text.as_deref() == Some(&self.holder.line())) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// `false` if there is one. Whole or not at all: written under a name of our own, then linked (atomic on NFS too).
fn make(path: &Path, holder: &Holder) -> io::Result<bool> {
    let own = beside(path, &format!("{}-{}-{}", holder.host, holder.namespace, holder.pid));
    let _ = fs::remove_file(&own);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&own)?;
    let made = file.write_all(holder.line().as_bytes()).and_then(|()| match fs::hard_link(&own, path) {
        // No hard links here.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS)) => {
            rename_new(&own, path)
        }
        other => other,
    });
    // NFS may say that a name exists which it has just given, since an answer was lost (open(2), O_EXCL).
    let linked = fs::symlink_metadata(&own).is_ok_and(|meta| meta.nlink() == 2);
    let _ = fs::remove_file(&own);
    match made {
        _ if linked => Ok(true),
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

fn read(path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => file.take(4096).read_to_string(&mut text).map(|_| Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes a stale one. One process at a time does so, lest it remove what another has made since both looked.
fn take_away(path: &Path, stale: &str) -> Result<()> {
    let failed = || format!("can't remove stale lock file {}", path.display());
    let _turn = LockFile::take_named(beside(path, "stale"))?;
    if read(path).context(failed)?.as_deref() == Some(stale) {
        verbose!("removing the lock of a process that is gone: {}", stale.trim());
        fs::remove_file(path).context(failed)?;
    }
    Ok(())
}

fn beside(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(more);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn stale_is_what_is_certainly_gone() {
        let me = Holder { host: "here".into(), pid: 1, start: 5, boot: "b2".into(), namespace: 9 };
        let check = |line: &str, gone: bool| {
            let alive = |pid: u32| (pid == 7).then_some(70);
            assert_eq!(Holder::parse(line).unwrap().is_gone(&me, alive), gone, "{line}");
        };
        check("here 7 70 b2 9", false);
        check("here 7 71 b2 9", true);
        check("here 8 70 b2 9", true);
        check("here 7 70 b1 9", true);
        check("there 8 70 b1 9", false);
        // In a container that shares our host name.
        check("here 8 70 b2 8", false);
        check("here 8 70 b1 8", true);
        let unknown = Holder { host: UNKNOWN.into(), boot: UNKNOWN.into(), ..me.clone() };
        assert!(!unknown.is_gone(&me, |_| None) && !me.is_gone(&unknown, |_| None));
        assert!(!unknown.is_gone(&Holder { boot: "b".into(), ..unknown.clone() }, |_| None));
        assert_eq!(Holder::parse("here 7 70 b2"), None);
        assert_eq!(Holder::parse("here x 70 b 9"), None);
        assert_eq!(Holder::parse(&me.line()), Some(me));
    }

    #[test]
    fn one_at_a_time() {
        let dir = std::env::temp_dir().join(format!("ch-image-lockfile-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let counter = std::sync::atomic::AtomicU32::new(0);
        let me = Holder::this_process();
        assert!(start_of(me.pid).is_some());
        // A process that is gone held it, and so did one that was about to take it away.
        let gone = Holder { start: 0, ..me.clone() }.line();
        fs::write(dir.join(NAME), &gone).unwrap();
        fs::write(beside(&dir.join(NAME), "stale"), &gone).unwrap();
        let lock = LockFile::take(&dir).unwrap();
        assert!(!make(&dir.join(NAME), &Holder { pid: 0, ..me.clone() }).unwrap());
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let lock = LockFile::take(&dir).unwrap();
                assert_eq!(counter.load(std::sync::atomic::Ordering::SeqCst), 1);
                drop(lock);
            });
            thread::sleep(PAUSE * 2);
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            drop(lock);
            other.join().unwrap();
        });
        // While one process takes a stale lock away, others only wait.
        fs::write(dir.join(NAME), &gone).unwrap();
        let turn = LockFile::take_named(beside(&dir.join(NAME), "stale")).unwrap();
        thread::scope(|scope| {
            let other = scope.spawn(|| LockFile::take(&dir).unwrap());
            thread::sleep(PAUSE * 2);
            assert_eq!(fs::read_to_string(dir.join(NAME)).unwrap(), gone);
            // What another has made since we looked stays.
            fs::write(dir.join(NAME), me.line()).unwrap();
            drop(turn);
            thread::sleep(PAUSE * 2);
            assert_eq!(fs::read_to_string(dir.join(NAME)).unwrap(), me.line());
            fs::remove_file(dir.join(NAME)).unwrap();
            other.join().unwrap();
        });
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::remove_dir(&dir).unwrap();
    }
}
