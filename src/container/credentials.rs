//! Emulated user and group IDs of processes: answers for the calls that ask for them or change them.
//!
//! The kernel does the bookkeeping: a process whose emulated IDs change is tagged through its RLIMIT_RTTIME, a resource
//! limit that has no effect here and that children and executed programs inherit, daemons whose parents have ended
//! included. All start as root, without a tag.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;

use super::ImageUser;
use super::filter::Call;
use super::identity::Identity;
use super::tracee::Tracee;
use crate::sys::process::Pid;
use crate::sys::seccomp::Answer;
use crate::sys::trace;

/// The kernel's limit of groups.
const MAX_GROUPS: u64 = 65536;

/// So many identities are remembered before it is asked which of them somebody still has.
const MANY: usize = 256;

/// Identities other than root's, by the tag of the processes that have them.
pub struct EmulatedIds {
    known: HashMap<u64, Identity>,
    /// What stands for root, and the largest mark.
    root: u64,
    last: u64,
}

impl Default for EmulatedIds {
    fn default() -> EmulatedIds {
        // The command begins with what this process has.
        let (root, most) = trace::tag(crate::sys::process::pid()).unwrap_or((u64::MAX, u64::MAX));
        EmulatedIds { known: HashMap::new(), root, last: most }
    }
}

impl EmulatedIds {
    /// The emulated identity of a process; `None` for root, as which all start.
    fn identity(&self, pid: Pid) -> Option<&Identity> {
        if self.known.is_empty() {
            return None;
        }
        self.known.get(&trace::tag(pid).ok()?.0)
    }

    /// Whose the files are that a process makes: user and group, unless they are root's.
    pub fn maker(&self, tracee: &Tracee) -> Option<(u32, u32)> {
        let identity = self.identity(tracee.pid)?;
        let owner = (identity.user.files, identity.group.files);
        (owner != (0, 0)).then_some(owner)
    }

    /// Whether a process may give a file of this owner to that user and group.
    pub fn may_give(&self, tracee: &Tracee, owner: (u32, u32), user: u32, group: u32) -> bool {
        self.identity(tracee.pid).is_none_or(|identity| identity.may_give(owner, user, group))
    }

    /// Whether any process is emulated as somebody other than root.
    pub fn has_others(&self) -> bool {
        !self.known.is_empty()
    }

    /// A process becomes a program with set-id bits.
    pub fn begin_program(&mut self, tracee: &Tracee, uid: Option<u32>, gid: Option<u32>) {
        let mut identity = self.identity(tracee.pid).cloned().unwrap_or_default();
        identity.begin_program(uid, gid);
        self.set_identity(tracee.pid, identity);
    }

    pub fn change_identity(&mut self, tracee: &Tracee, call: Call, args: [u64; 6]) -> io::Result<Answer> {
        let mut identity = self.identity(tracee.pid).cloned().unwrap_or_default();
        let before = identity.clone();
        let answer = match identity.change(call, args) {
            Some(Ok(value)) => Answer::Value(i64::from(value)),
            Some(Err(errno)) => Answer::Errno(errno),
            None => Answer::Continue,
        };
        if identity != before {
            self.set_identity(tracee.pid, identity);
        }
        Ok(answer)
    }

    /// For a process that has not begun yet.
    pub fn begin_as(&mut self, pid: Pid, user: &ImageUser) {
        self.set_identity(pid, Identity::of(user.uid, user.gid, user.groups.clone()));
    }

    fn set_identity(&mut self, pid: Pid, identity: Identity) {
        let mark = if identity == Identity::default() { self.root } else { self.mark_for(identity) };
        // A process that is gone needs no identity.
        let _ = trace::set_tag(pid, mark);
    }

    fn mark_for(&mut self, identity: Identity) -> u64 {
        if let Some((mark, _)) = self.known.iter().find(|(_, known)| **known == identity) {
            return *mark;
        }
        // Some are forgotten now and then: a command may invent any number.
        if self.known.len() >= MANY && self.known.len().is_power_of_two() {
            let marks: HashSet<u64> = processes().filter_map(|pid| Some(trace::tag(pid).ok()?.0)).collect();
            self.known.retain(|mark, _| marks.contains(mark));
        }
        self.last = self.last.saturating_sub(1);
        if self.last == self.root {
            self.last = self.last.saturating_sub(1);
        }
        self.known.insert(self.last, identity);
        self.last
    }

    pub fn get_one(&self, tracee: &Tracee, call: Call) -> Answer {
        match self.identity(tracee.pid).and_then(|identity| identity.answer(call)) {
            Some(number) => Answer::Value(i64::from(number)),
            None => Answer::Continue,
        }
    }

    /// prctl(PR_SET_KEEPCAPS), which the kernel does as well.
    pub fn keep_rights(&mut self, tracee: &Tracee, keep: bool) -> Answer {
        let mut identity = self.identity(tracee.pid).cloned().unwrap_or_default();
        identity.keeps_rights = keep;
        self.set_identity(tracee.pid, identity);
        Answer::Continue
    }

    pub fn get_three(&self, tracee: &Tracee, call: Call, a: [u64; 6]) -> io::Result<Answer> {
        let Some(identity) = self.identity(tracee.pid) else { return Ok(Answer::Continue) };
        let numbers = if call == Call::GetResUid { identity.user } else { identity.group };
        for (address, number) in a.into_iter().zip([numbers.real, numbers.effective, numbers.saved]) {
            trace::write_memory(tracee.pid, address, &number.to_ne_bytes())?;
        }
        Ok(Answer::Value(0))
    }

    /// getsockopt(`SO_PEERCRED`): who is at the other end of a socket. Arguments: descriptor, …, buffer and where its size is.
    pub fn get_peer(&self, tracee: &Tracee, a: [u64; 6]) -> io::Result<Answer> {
        if self.known.is_empty() {
            return Ok(Answer::Continue);
        }
        // What can't be found out, and wrong arguments, are the kernel's to judge.
        let process = status(tracee.pid, "Tgid:").unwrap_or(tracee.pid);
        let Ok(peer) = trace::peer(process, a[0] as i32) else { return Ok(Answer::Continue) };
        let Some(identity) = self.identity(peer) else { return Ok(Answer::Continue) };
        let mut size = [0; 4];
        let known = trace::read_memory(tracee.pid, a[4], &mut size)?;
        let Some(number) = status(peer, "NSpid:") else { return Ok(Answer::Continue) };
        if !tracee.is_there() || known < 4 || u32::from_ne_bytes(size) < 12 {
            return Ok(Answer::Continue);
        }
        let three = [number as u32, identity.user.effective, identity.group.effective];
        trace::write_memory(tracee.pid, a[3], &three.map(u32::to_ne_bytes).concat())?;
        trace::write_memory(tracee.pid, a[4], &12_u32.to_ne_bytes())?;
        Ok(Answer::Value(0))
    }

    pub fn get_groups(&self, tracee: &Tracee, a: [u64; 6]) -> io::Result<Answer> {
        let Some(groups) = self.identity(tracee.pid).and_then(|identity| identity.groups.as_ref()) else {
            return Ok(Answer::Continue);
        };
        let room = a[0] as i32;
        if room != 0 {
            if usize::try_from(room).map_or(true, |room| room < groups.len()) {
                return Ok(Answer::Errno(libc::EINVAL));
            }
            let bytes: Vec<u8> = groups.iter().flat_map(|g| g.to_ne_bytes()).collect();
            if !bytes.is_empty() {
                trace::write_memory(tracee.pid, a[1], &bytes)?;
            }
        }
        Ok(Answer::Value(groups.len() as i64))
    }

    pub fn set_groups(&mut self, tracee: &Tracee, a: [u64; 6]) -> io::Result<Answer> {
        if a[0] > MAX_GROUPS {
            return Ok(Answer::Errno(libc::EINVAL));
        }
        let mut bytes = vec![0_u8; a[0] as usize * 4];
        if !bytes.is_empty() && trace::read_memory(tracee.pid, a[1], &mut bytes)? != bytes.len() {
            return Ok(Answer::Errno(libc::EFAULT));
        }
        let groups = bytes.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        let mut identity = self.identity(tracee.pid).cloned().unwrap_or_default();
        match identity.set_groups(groups) {
            Ok(()) => {
                self.set_identity(tracee.pid, identity);
                Ok(Answer::Value(0))
            }
            Err(errno) => Ok(Answer::Errno(errno)),
        }
    }
}

/// The last number in a line about a process: of those in several namespaces, its own.
fn status(pid: Pid, name: &str) -> Option<Pid> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next_back()?.parse().ok()
}

fn processes() -> impl Iterator<Item = Pid> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn identities_that_nobody_has_are_forgotten() {
        let me = crate::sys::process::pid();
        let mut ids = EmulatedIds::default();
        let of = |n: u32| Identity { groups: Some(vec![n]), ..Identity::default() };
        for n in 0..5 * MANY as u32 {
            ids.set_identity(me, of(n));
            assert_eq!(ids.identity(me), Some(&of(n)));
        }
        assert!(ids.known.len() <= MANY, "{}", ids.known.len());
        ids.set_identity(me, Identity::default());
        assert_eq!((ids.identity(me), trace::tag(me).unwrap().0), (None, ids.root));
    }
}
