//! Who answers the calls that the recording filter traps? A process of our own ([`super::answerer`]), while RUN lasts.
//!
//! A call that names a file is followed to the file itself, which [`Record`] then knows.
//!
//! Nothing is done on the caller's behalf but what the kernel would do for it anyway: names are resolved below the
//! caller's root directory, calls that change nothing of the record go on as if they had not been trapped.
//! What the supervisor cannot find out (a process that hides, an exotic path) is pretended.
//!
//! Nor can it keep a signal that comes before a call is taken up from interrupting it: as with slow calls, programs without
//! `SA_RESTART` see EINTR.
//!
//! Deliberately absent: permission checks of the emulated user (but those of chown), credentials in messages over
//! sockets, calls of 32-bit programs (pretended).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::ImageUser;
use super::credentials::EmulatedIds;
use super::emulate_create;
use super::filter::{self, Call, Machine};
use super::inode_owners::{Record, fd_path, key_of};
use super::ownership::{Device, DeviceKind, Ledger, Owner};
use super::tracee::{Last, Tracee, is_script};
use crate::sys::file::{self, Kind, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_WRONLY};
use crate::sys::fs::euid;
use crate::sys::process::Pid;
use crate::sys::seccomp::{self, Answer, Notification};
use crate::sys::trace::{self, Look};

/// A file capability has 24 bytes.
const MAX_CAPABILITY: usize = 64;
const CAPABILITY: &[u8] = b"security.capability";

const NO_ID: u32 = u32::MAX;
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

pub struct Supervisor {
    machine: Machine,
    files: Record,
    ids: EmulatedIds,
    /// Whether any file has got capabilities, which hardly any has.
    capabilities: bool,
    /// Whether anything passes on its group: a directory with the bit for it.
    groups: bool,
    /// Whether anything has set-id bits at all.
    set_id: bool,
}

impl Supervisor {
    /// For the tree at `root`, of which `ledger` tells what was recorded before.
    pub fn new(root: &Path, ledger: &Ledger) -> Supervisor {
        Supervisor {
            machine: filter::HERE.unwrap_or(filter::PC),
            files: Record::new(root, ledger),
            ids: EmulatedIds::default(),
            capabilities: ledger.iter().any(|(_, owner)| owner.capability.is_some()),
            groups: ledger.iter().any(|(_, owner)| owner.bits & libc::S_ISGID != 0),
            set_id: ledger.iter().any(|(_, owner)| owner.bits != 0),
        }
    }

    /// Before the command begins: its first process, which its other processes come from, is emulated as that user.
    pub fn begin_as(&mut self, first: Pid, user: &ImageUser) {
        self.ids.begin_as(first, user);
    }

    /// Takes one call and answers it.
    pub fn serve(&mut self, listener: BorrowedFd) -> io::Result<()> {
        let notification = match seccomp::receive(listener) {
            Ok(notification) => notification,
            // Its caller is gone.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => return Ok(()),
            Err(e) => return Err(e),
        };
        let answer = self.answer(listener, &notification);
        match seccomp::answer(listener, notification.id, answer) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
            _ => Ok(()),
        }
    }

    fn answer(&mut self, listener: BorrowedFd, n: &Notification) -> Answer {
        let Some(call) = filter::call(self.machine, n.call) else { return Answer::Continue };
        let tracee = Tracee { pid: n.pid as Pid, listener, id: n.id };
        let a = n.args;
        let result = match call {
            Call::Chown => self.chown(&tracee, tracee.path(libc::AT_FDCWD, a[0], Last::Follow), a[1], a[2]),
            Call::Lchown => self.chown(&tracee, tracee.path(libc::AT_FDCWD, a[0], Last::Keep), a[1], a[2]),
            Call::Fchown => self.chown(&tracee, tracee.descriptor(a[0] as i32), a[1], a[2]),
            Call::Fchownat => self.chown(&tracee, tracee.path_at(a[0], a[1], a[4]), a[2], a[3]),
            Call::Chmod => self.chmod(&tracee, tracee.path(libc::AT_FDCWD, a[0], Last::Follow), a[1]),
            Call::Fchmod => self.chmod(&tracee, tracee.descriptor(a[0] as i32), a[1]),
            Call::Fchmodat => self.chmod(&tracee, tracee.path(a[0] as i32, a[1], Last::Follow), a[2]),
            Call::Fchmodat2 => self.chmod(&tracee, tracee.path_at(a[0], a[1], a[3]), a[2]),
            Call::Mknod => self.mknod(&tracee, libc::AT_FDCWD, a[0], a[1], a[2]),
            Call::Mknodat => self.mknod(&tracee, a[0] as i32, a[1], a[2], a[3]),
            Call::SetXattr | Call::GetXattr | Call::ListXattr | Call::RemoveXattr => {
                self.xattr(&tracee, call, || tracee.path(libc::AT_FDCWD, a[0], Last::Follow), [a[1], a[2], a[3]])
            }
            Call::LsetXattr | Call::LgetXattr | Call::LlistXattr | Call::LremoveXattr => {
                self.xattr(&tracee, call, || tracee.path(libc::AT_FDCWD, a[0], Last::Keep), [a[1], a[2], a[3]])
            }
            Call::FsetXattr | Call::FgetXattr | Call::FlistXattr | Call::FremoveXattr => {
                self.xattr(&tracee, call, || tracee.descriptor(a[0] as i32), [a[1], a[2], a[3]])
            }
            Call::SetXattrAt | Call::GetXattrAt => value_at(&tracee, a[4]).and_then(|(value, size)| {
                self.xattr(&tracee, call, || tracee.path_at(a[0], a[1], a[2]), [a[3], value, size])
            }),
            Call::ListXattrAt | Call::RemoveXattrAt => {
                self.xattr(&tracee, call, || tracee.path_at(a[0], a[1], a[2]), [a[3], a[4], 0])
            }
            Call::Stat => self.stat(&tracee, || tracee.path(libc::AT_FDCWD, a[0], Last::Follow), a[1]),
            Call::Lstat => self.stat(&tracee, || tracee.path(libc::AT_FDCWD, a[0], Last::Keep), a[1]),
            Call::Fstat => self.stat(&tracee, || tracee.descriptor(a[0] as i32), a[1]),
            Call::Newfstatat => self.stat(&tracee, || tracee.path_at(a[0], a[1], a[3]), a[2]),
            Call::Statx => self.statx(&tracee, || tracee.path_at(a[0], a[1], a[2]), a[3] as u32, a[4]),
            Call::GetUid | Call::GetEuid | Call::GetGid | Call::GetEgid => Ok(self.ids.get_one(&tracee, call)),
            Call::GetResUid | Call::GetResGid => self.ids.get_three(&tracee, call, a),
            Call::GetGroups => self.ids.get_groups(&tracee, a),
            Call::SetGroups => self.ids.set_groups(&tracee, a),
            Call::SetUid
            | Call::SetGid
            | Call::SetReUid
            | Call::SetReGid
            | Call::SetResUid
            | Call::SetResGid
            | Call::SetFsUid
            | Call::SetFsGid => self.ids.change_identity(&tracee, call, a),
            Call::Creat | Call::Open | Call::Openat | Call::Mkdir | Call::Mkdirat | Call::Symlink | Call::Symlinkat => {
                Ok(self.create(&tracee, call, a))
            }
            Call::GetSockOpt => self.ids.get_peer(&tracee, a),
            Call::Execve => Ok(self.execute(&tracee, || tracee.path(libc::AT_FDCWD, a[0], Last::Follow))),
            Call::Execveat => Ok(self.execute(&tracee, || tracee.path_at(a[0], a[1], a[4]))),
            // Never trapped.
            Call::CapSet | Call::SetRlimit | Call::Prlimit | Call::IoUringSetup => Ok(Answer::Value(0)),
            Call::Prctl => Ok(self.ids.keep_rights(&tracee, a[1] != 0)),
        };
        result.unwrap_or_else(|e| Answer::Errno(e.raw_os_error().unwrap_or(libc::EIO)))
    }

    fn chown(&mut self, tracee: &Tracee, file: io::Result<OwnedFd>, uid: u64, gid: u64) -> io::Result<Answer> {
        let (uid, gid) = (uid as u32, gid as u32);
        let root_or_same = |id: u32| id == 0 || id == NO_ID;
        let fd = match file {
            Ok(fd) => fd,
            Err(e) => return pretend(e),
        };
        let stat = file::fstat(fd.as_fd())?;
        if !tracee.is_there() {
            return Ok(Answer::Continue);
        }
        let known = self.files.get((stat.dev, stat.ino));
        if !self.ids.may_give(tracee, known.map_or((0, 0), |owner| (owner.uid, owner.gid)), uid, gid) {
            return Ok(Answer::Errno(libc::EPERM));
        }
        if known.is_none() && root_or_same(uid) && root_or_same(gid) {
            // Not left to the kernel, which says no for what is the host's: /tmp.
            return Ok(Answer::Value(0));
        }
        let owner = self.files.entry(fd)?;
        if uid != NO_ID {
            owner.uid = uid;
        }
        if gid != NO_ID {
            owner.gid = gid;
        }
        if stat.kind == Kind::File {
            // As the kernel does for every chown, root's too. Without the group's right to execute, the bit of the
            // group has another meaning.
            owner.bits &= if stat.mode & libc::S_IXGRP == 0 { libc::S_ISGID } else { 0 };
            owner.capability = None;
        }
        Ok(Answer::Value(0))
    }

    fn chmod(&mut self, tracee: &Tracee, file: io::Result<OwnedFd>, mode: u64) -> io::Result<Answer> {
        let mode = mode as u32 & 0o7777;
        let bits = mode & SET_ID;
        let fd = match file {
            Ok(fd) => fd,
            // The kernel will say what is wrong; without set-id bits there is nothing to hide.
            Err(_) if bits == 0 => return Ok(Answer::Continue),
            Err(e) => return pretend(e),
        };
        let stat = file::fstat(fd.as_fd())?;
        if !tracee.is_there() {
            return Ok(Answer::Continue);
        }
        if stat.uid != euid() {
            // The host's, say /tmp.
            return Ok(Answer::Value(0));
        }
        if bits == 0 {
            if let Some(owner) = self.files.get_mut((stat.dev, stat.ino)) {
                owner.bits = 0;
            }
            return Ok(Answer::Continue);
        }
        file::chmod_place(fd.as_fd(), mode & !SET_ID)?;
        self.groups |= stat.is_dir() && bits & libc::S_ISGID != 0;
        self.set_id = true;
        self.files.entry(fd)?.bits = bits;
        Ok(Answer::Value(0))
    }

    fn mknod(&mut self, tracee: &Tracee, dir: i32, path: u64, mode: u64, number: u64) -> io::Result<Answer> {
        let mode = mode as u32;
        let kind = if mode & libc::S_IFMT == libc::S_IFBLK { DeviceKind::Block } else { DeviceKind::Character };
        let text = tracee.text(path)?;
        let Some((parent, name)) = emulate_create::split(&text) else {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        };
        let parent = match tracee.resolve(dir, parent, Last::Follow) {
            Ok(parent) => parent,
            Err(e) => return pretend(e),
        };
        if !tracee.is_there() {
            return Ok(Answer::Continue);
        }
        // Permission bits per the caller's umask, not ours.
        let permissions = mode & 0o777 & !tracee.umask();
        let made = file::openat(parent.as_fd(), name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY, 0o600);
        let fd = match made {
            Ok(fd) => fd,
            // In the host's /dev, say, which is not ours and not part of the image.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS)) => {
                return Ok(Answer::Value(0));
            }
            Err(e) => return Err(e),
        };
        file::fchmod(fd.as_fd(), permissions)?;
        let fd = file::openat(file::CWD, fd_path(fd.as_fd()).as_bytes(), O_PATH, 0)?;
        let (uid, gid) = self.ids.maker(tracee).unwrap_or_default();
        let gid = self.group_in(parent.as_fd()).unwrap_or(gid);
        let device = Some(Device { kind, number: rdev(number) });
        self.files.replace(fd, Owner { uid, gid, device, ..Owner::default() })?;
        Ok(Answer::Value(0))
    }

    fn create(&mut self, tracee: &Tracee, call: Call, a: [u64; 6]) -> Answer {
        let maker = self.ids.maker(tracee);
        // What root makes is root's: nothing to record, but it may have got the number of a file that is gone.
        let of_root = maker.is_none() && self.files.is_pinned();
        if of_root && !self.groups {
            return Answer::Continue;
        }
        let Ok(Some(place)) = emulate_create::place(tracee, call, a) else { return Answer::Continue };
        let group = self.group_in(place.parent.as_fd());
        if of_root && group.is_none() {
            return Answer::Continue;
        }
        let Ok((fd, answer)) = emulate_create::create(tracee, call, a, &place) else { return Answer::Continue };
        let (uid, gid) = maker.unwrap_or_default();
        let mut owner = Owner { uid, gid, ..Owner::default() };
        if let Some(group) = group {
            owner.gid = group;
            if matches!(call, Call::Mkdir | Call::Mkdirat) {
                owner.bits = libc::S_ISGID;
            }
        }
        // The file is there: whether it could be recorded or not, it is what the caller asked for.
        let _ = self.files.replace(fd, owner);
        answer
    }

    /// A program begins. If its file has set-id bits, the process is emulated as the file's user from here on (even if the
    /// kernel then refuses the program). Scripts have no such bits.
    fn execute(&mut self, tracee: &Tracee, file: impl Fn() -> io::Result<OwnedFd>) -> Answer {
        if !self.set_id || !self.ids.has_others() {
            return Answer::Continue;
        }
        let Ok(fd) = file() else { return Answer::Continue };
        let Ok(stat) = file::fstat(fd.as_fd()) else { return Answer::Continue };
        let Some(owner) = self.files.get((stat.dev, stat.ino)).filter(|_| stat.kind == Kind::File) else {
            return Answer::Continue;
        };
        let uid = (owner.bits & libc::S_ISUID != 0).then_some(owner.uid);
        // Without the group's right to execute, the bit has another meaning.
        let gid = (owner.bits & libc::S_ISGID != 0 && stat.mode & libc::S_IXGRP != 0).then_some(owner.gid);
        if (uid, gid) != (None, None) && !is_script(fd.as_fd()) && tracee.is_there() {
            self.ids.begin_program(tracee, uid, gid);
        }
        Answer::Continue
    }

    /// The group of what is made in a directory, if that passes on its own.
    fn group_in(&self, dir: BorrowedFd) -> Option<u32> {
        let owner = self.files.get(key_of(dir).ok()?)?;
        (owner.bits & libc::S_ISGID != 0).then_some(owner.gid)
    }

    /// Arguments: those after the file.
    fn xattr(
        &mut self,
        tracee: &Tracee,
        call: Call,
        file: impl Fn() -> io::Result<OwnedFd>,
        a: [u64; 3],
    ) -> io::Result<Answer> {
        match call {
            Call::SetXattr | Call::LsetXattr | Call::FsetXattr | Call::SetXattrAt => self.set_xattr(tracee, file, a),
            Call::GetXattr | Call::LgetXattr | Call::FgetXattr | Call::GetXattrAt => self.get_xattr(tracee, file, a),
            Call::ListXattr | Call::LlistXattr | Call::FlistXattr | Call::ListXattrAt => {
                self.list_xattr(tracee, file, a)
            }
            _ => self.remove_xattr(tracee, file, a),
        }
    }

    /// Arguments: name, value and its size.
    fn set_xattr(
        &mut self,
        tracee: &Tracee,
        file: impl Fn() -> io::Result<OwnedFd>,
        [name, value, size]: [u64; 3],
    ) -> io::Result<Answer> {
        let name = trace::read_string(tracee.pid, name, 255)?;
        let is_acl = name.starts_with(b"system.posix_acl_");
        if !is_acl && !name.starts_with(b"security.") && !name.starts_with(b"trusted.") {
            return Ok(Answer::Continue);
        }
        let fd = match file() {
            Ok(fd) => fd,
            Err(e) => return pretend(e),
        };
        if !tracee.is_there() {
            return Ok(Answer::Continue);
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if name == CAPABILITY && size <= MAX_CAPABILITY {
            let mut bytes = vec![0; size];
            let got = trace::read_memory(tracee.pid, value, &mut bytes)?;
            if got == size {
                self.files.entry(fd)?.capability = Some(bytes);
                self.capabilities = true;
            }
        } else if is_acl && size <= 64 << 10 {
            // It works if it names root only.
            let mut bytes = vec![0; size];
            if trace::read_memory(tracee.pid, value, &mut bytes).is_ok_and(|got| got == size) {
                let _ = file::setxattr_place(fd.as_fd(), &name, &bytes);
            }
        }
        Ok(Answer::Value(0))
    }

    /// Arguments: name, buffer and its size, which is 0 to ask for the length.
    fn get_xattr(
        &self,
        tracee: &Tracee,
        file: impl Fn() -> io::Result<OwnedFd>,
        [name, buf, size]: [u64; 3],
    ) -> io::Result<Answer> {
        if !self.capabilities || trace::read_string(tracee.pid, name, 255)? != CAPABILITY {
            return Ok(Answer::Continue);
        }
        let Some(fd) = self.with_capability(tracee, file) else { return Ok(Answer::Continue) };
        let known = self.files.get(key_of(fd.as_fd())?);
        let Some(value) = known.and_then(|owner| owner.capability.as_ref()) else { return Ok(Answer::Continue) };
        fill(tracee, value, buf, size)
    }

    /// Arguments: buffer and its size. Names, each with a NUL.
    fn list_xattr(
        &self,
        tracee: &Tracee,
        file: impl Fn() -> io::Result<OwnedFd>,
        [buf, size, _]: [u64; 3],
    ) -> io::Result<Answer> {
        let Some(fd) = self.with_capability(tracee, file) else { return Ok(Answer::Continue) };
        let open = file::openat(file::CWD, fd_path(fd.as_fd()).as_bytes(), O_RDONLY | O_NONBLOCK, 0)?;
        let mut names = file::flistxattr(open.as_fd())?;
        names.retain(|name| name != CAPABILITY);
        names.push(CAPABILITY.to_vec());
        let list: Vec<u8> = names.into_iter().flat_map(|name| [name, vec![0]].concat()).collect();
        fill(tracee, &list, buf, size)
    }

    fn remove_xattr(
        &mut self,
        tracee: &Tracee,
        file: impl Fn() -> io::Result<OwnedFd>,
        [name, ..]: [u64; 3],
    ) -> io::Result<Answer> {
        if !self.capabilities || trace::read_string(tracee.pid, name, 255)? != CAPABILITY {
            return Ok(Answer::Continue);
        }
        let Some(fd) = self.with_capability(tracee, file) else { return Ok(Answer::Continue) };
        self.files.entry(fd)?.capability = None;
        Ok(Answer::Value(0))
    }

    /// The file, if it is one with capabilities.
    fn with_capability(&self, tracee: &Tracee, file: impl Fn() -> io::Result<OwnedFd>) -> Option<OwnedFd> {
        if !self.capabilities {
            return None;
        }
        let fd = file().ok()?;
        let owner = self.files.get(key_of(fd.as_fd()).ok()?)?;
        (owner.capability.is_some() && tracee.is_there()).then_some(fd)
    }

    fn stat(&self, tracee: &Tracee, file: impl Fn() -> io::Result<OwnedFd>, buf: u64) -> io::Result<Answer> {
        let Some((fd, look)) = self.look(tracee, file) else { return Ok(Answer::Continue) };
        Ok(answered(trace::write_memory(tracee.pid, buf, &trace::stat(fd.as_fd(), &look)?)))
    }

    fn statx(
        &self,
        tracee: &Tracee,
        file: impl Fn() -> io::Result<OwnedFd>,
        mask: u32,
        buf: u64,
    ) -> io::Result<Answer> {
        let Some((fd, look)) = self.look(tracee, file) else { return Ok(Answer::Continue) };
        Ok(answered(trace::write_memory(tracee.pid, buf, &trace::statx(fd.as_fd(), mask, &look)?)))
    }

    /// The file and how it shall look, if that differs from what the kernel says.
    fn look(&self, tracee: &Tracee, file: impl Fn() -> io::Result<OwnedFd>) -> Option<(OwnedFd, Look)> {
        if self.files.is_empty() {
            return None;
        }
        let fd = file().ok()?;
        let owner = self.files.get(key_of(fd.as_fd()).ok()?)?;
        if !tracee.is_there() {
            return None;
        }
        let device = owner.device.map(|device| {
            let kind = match device.kind {
                DeviceKind::Character => libc::S_IFCHR,
                DeviceKind::Block => libc::S_IFBLK,
            };
            (kind, device.number)
        });
        Some((fd, Look { uid: owner.uid, gid: owner.gid, bits: owner.bits, device }))
    }

    /// What the tree is now.
    pub fn finish(self) -> Ledger {
        self.files.finish()
    }
}

/// What setxattrat(2) and getxattrat(2) have behind a pointer: value (8 bytes), size (4) and flags (4).
fn value_at(tracee: &Tracee, address: u64) -> io::Result<(u64, u64)> {
    let mut bytes = [0_u8; 16];
    if trace::read_memory(tracee.pid, address, &mut bytes)? != bytes.len() {
        return Err(io::Error::from_raw_os_error(libc::EFAULT));
    }
    let [v0, v1, v2, v3, v4, v5, v6, v7, s0, s1, s2, s3, ..] = bytes;
    let value = u64::from_ne_bytes([v0, v1, v2, v3, v4, v5, v6, v7]);
    Ok((value, u64::from(u32::from_ne_bytes([s0, s1, s2, s3]))))
}

/// Puts a value where the caller wants it; a size of 0 asks for the length.
fn fill(tracee: &Tracee, value: &[u8], buf: u64, size: u64) -> io::Result<Answer> {
    if size != 0 {
        if size < value.len() as u64 {
            return Ok(Answer::Errno(libc::ERANGE));
        }
        trace::write_memory(tracee.pid, buf, value)?;
    }
    Ok(Answer::Value(value.len() as i64))
}

/// A bad address is the kernel's to judge; and where the kernel keeps us from writing there, its answer has to do.
fn answered(written: io::Result<()>) -> Answer {
    written.map_or(Answer::Continue, |()| Answer::Value(0))
}

/// What cannot be followed is pretended, unless it is an error that the kernel would report as well.
fn pretend(e: io::Error) -> io::Result<Answer> {
    match e.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG | libc::EBADF | libc::EFAULT) => Err(e),
        _ => Ok(Answer::Value(0)),
    }
}

/// The kernel's short form of a device number (mknod's argument) as userland writes it (`st_rdev`).
fn rdev(number: u64) -> u64 {
    let major = (number >> 8) & 0xfff;
    let minor = (number & 0xff) | ((number >> 12) & 0xf_ff00);
    libc::makedev(major as _, minor as _)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers() {
        // The kernel takes what userland's makedev gave, for numbers that fit.
        for (major, minor) in [(1, 3), (8, 17), (259, 1), (4095, 255), (10, 0xf_ffff)] {
            let user: u64 = libc::makedev(major, minor);
            assert_eq!(rdev(user), user, "{major}:{minor}");
        }
    }
}
