//! Who does which process believe to be? Answers for the calls that ask for users and groups, or change them.
//!
//! The kernel keeps it for us: a process that changes who it is gets a mark, which its children and the programs that
//! it becomes inherit, daemons whose parents have ended included. All begin as root, without a mark.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;

use super::Believed;
use super::caller::Caller;
use super::filter::Call;
use super::identity::Identity;
use crate::sys::process::Pid;
use crate::sys::seccomp::Answer;
use crate::sys::trace;

/// The kernel's limit of groups.
const MAX_GROUPS: u64 = 65536;

/// So many identities are remembered before it is asked which of them somebody still has.
const MANY: usize = 256;

/// Identities other than root's, by the mark of the processes that believe in them.
pub struct People {
    known: HashMap<u64, Identity>,
    /// What stands for root, and the largest mark.
    root: u64,
    last: u64,
}

impl Default for People {
    fn default() -> People {
        // The command begins with what this process has.
        let (root, most) = trace::mark(crate::sys::process::pid()).unwrap_or((u64::MAX, u64::MAX));
        People { known: HashMap::new(), root, last: most }
    }
}

impl People {
    /// Who a process believes to be; `None` for root, as which all begin.
    fn identity(&self, pid: Pid) -> Option<&Identity> {
        if self.known.is_empty() {
            return None;
        }
        self.known.get(&trace::mark(pid).ok()?.0)
    }

    /// Whose the files are that a process makes: user and group, unless they are root's.
    pub fn maker(&self, caller: &Caller) -> Option<(u32, u32)> {
        let identity = self.identity(caller.pid)?;
        let owner = (identity.user.files, identity.group.files);
        (owner != (0, 0)).then_some(owner)
    }

    /// Whether a process may give a file of this owner to that user and group.
    pub fn may_give(&self, caller: &Caller, owner: (u32, u32), user: u32, group: u32) -> bool {
        self.identity(caller.pid).is_none_or(|identity| identity.may_give(owner, user, group))
    }

    /// Whether anybody believes to be somebody else than root.
    pub fn has_others(&self) -> bool {
        !self.known.is_empty()
    }

    /// A process becomes a program with set-id bits.
    pub fn begin_program(&mut self, caller: &Caller, uid: Option<u32>, gid: Option<u32>) {
        let mut identity = self.identity(caller.pid).cloned().unwrap_or_default();
        identity.begin_program(uid, gid);
        self.believe(caller.pid, identity);
    }

    pub fn change_identity(&mut self, caller: &Caller, call: Call, args: [u64; 6]) -> io::Result<Answer> {
        let mut identity = self.identity(caller.pid).cloned().unwrap_or_default();
        let before = identity.clone();
        let answer = match identity.change(call, args) {
            Some(Ok(value)) => Answer::Value(i64::from(value)),
            Some(Err(errno)) => Answer::Errno(errno),
            None => Answer::Continue,
        };
        if identity != before {
            self.believe(caller.pid, identity);
        }
        Ok(answer)
    }

    /// For a process that has not begun yet.
    pub fn begin_as(&mut self, pid: Pid, user: &Believed) {
        self.believe(pid, Identity::of(user.uid, user.gid, user.groups.clone()));
    }

    fn believe(&mut self, pid: Pid, identity: Identity) {
        let mark = if identity == Identity::default() { self.root } else { self.mark_for(identity) };
        // A process that is gone believes nothing any more.
        let _ = trace::set_mark(pid, mark);
    }

    fn mark_for(&mut self, identity: Identity) -> u64 {
        if let Some((mark, _)) = self.known.iter().find(|(_, known)| **known == identity) {
            return *mark;
        }
        // Some are forgotten now and then: a command may invent any number.
        if self.known.len() >= MANY && self.known.len().is_power_of_two() {
            let marks: HashSet<u64> = processes().filter_map(|pid| Some(trace::mark(pid).ok()?.0)).collect();
            self.known.retain(|mark, _| marks.contains(mark));
        }
        self.last = self.last.saturating_sub(1);
        if self.last == self.root {
            self.last = self.last.saturating_sub(1);
        }
        self.known.insert(self.last, identity);
        self.last
    }

    pub fn get_one(&self, caller: &Caller, call: Call) -> Answer {
        match self.identity(caller.pid).and_then(|identity| identity.answer(call)) {
            Some(number) => Answer::Value(i64::from(number)),
            None => Answer::Continue,
        }
    }

    /// prctl(PR_SET_KEEPCAPS), which the kernel does as well.
    pub fn keep_rights(&mut self, caller: &Caller, keep: bool) -> Answer {
        let mut identity = self.identity(caller.pid).cloned().unwrap_or_default();
        identity.keeps_rights = keep;
        self.believe(caller.pid, identity);
        Answer::Continue
    }

    pub fn get_three(&self, caller: &Caller, call: Call, a: [u64; 6]) -> io::Result<Answer> {
        let Some(identity) = self.identity(caller.pid) else { return Ok(Answer::Continue) };
        let numbers = if call == Call::GetResUid { identity.user } else { identity.group };
        for (address, number) in a.into_iter().zip([numbers.real, numbers.effective, numbers.saved]) {
            trace::write_memory(caller.pid, address, &number.to_ne_bytes())?;
        }
        Ok(Answer::Value(0))
    }

    /// getsockopt(`SO_PEERCRED`): who is at the other end of a socket. Arguments: descriptor, …, buffer and where its size is.
    pub fn get_peer(&self, caller: &Caller, a: [u64; 6]) -> io::Result<Answer> {
        if self.known.is_empty() {
            return Ok(Answer::Continue);
        }
        // What can't be found out, and wrong arguments, are the kernel's to judge.
        let process = status(caller.pid, "Tgid:").unwrap_or(caller.pid);
        let Ok(peer) = trace::peer(process, a[0] as i32) else { return Ok(Answer::Continue) };
        let Some(identity) = self.identity(peer) else { return Ok(Answer::Continue) };
        let mut size = [0; 4];
        let known = trace::read_memory(caller.pid, a[4], &mut size)?;
        let Some(number) = status(peer, "NSpid:") else { return Ok(Answer::Continue) };
        if !caller.is_there() || known < 4 || u32::from_ne_bytes(size) < 12 {
            return Ok(Answer::Continue);
        }
        let three = [number as u32, identity.user.effective, identity.group.effective];
        trace::write_memory(caller.pid, a[3], &three.map(u32::to_ne_bytes).concat())?;
        trace::write_memory(caller.pid, a[4], &12_u32.to_ne_bytes())?;
        Ok(Answer::Value(0))
    }

    pub fn get_groups(&self, caller: &Caller, a: [u64; 6]) -> io::Result<Answer> {
        let Some(groups) = self.identity(caller.pid).and_then(|identity| identity.groups.as_ref()) else {
            return Ok(Answer::Continue);
        };
        let room = a[0] as i32;
        if room != 0 {
            if usize::try_from(room).map_or(true, |room| room < groups.len()) {
                return Ok(Answer::Errno(libc::EINVAL));
            }
            let bytes: Vec<u8> = groups.iter().flat_map(|g| g.to_ne_bytes()).collect();
            if !bytes.is_empty() {
                trace::write_memory(caller.pid, a[1], &bytes)?;
            }
        }
        Ok(Answer::Value(groups.len() as i64))
    }

    pub fn set_groups(&mut self, caller: &Caller, a: [u64; 6]) -> io::Result<Answer> {
        if a[0] > MAX_GROUPS {
            return Ok(Answer::Errno(libc::EINVAL));
        }
        let mut bytes = vec![0_u8; a[0] as usize * 4];
        if !bytes.is_empty() && trace::read_memory(caller.pid, a[1], &mut bytes)? != bytes.len() {
            return Ok(Answer::Errno(libc::EFAULT));
        }
        let groups = bytes.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        let mut identity = self.identity(caller.pid).cloned().unwrap_or_default();
        match identity.set_groups(groups) {
            Ok(()) => {
                self.believe(caller.pid, identity);
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
        let mut people = People::default();
        let of = |n: u32| Identity { groups: Some(vec![n]), ..Identity::default() };
        for n in 0..5 * MANY as u32 {
            people.believe(me, of(n));
            assert_eq!(people.identity(me), Some(&of(n)));
        }
        assert!(people.known.len() <= MANY, "{}", people.known.len());
        people.believe(me, Identity::default());
        assert_eq!((people.identity(me), trace::mark(me).unwrap().0), (None, people.root));
    }
}
