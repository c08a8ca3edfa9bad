//! Who does which process believe to be? Answers for the calls that ask for users and groups, or change them.
//!
//! A process that never changed anything is not kept: it believes what its parent does, and all begin as root.

use std::collections::HashMap;
use std::fs;
use std::io;

use super::caller::Caller;
use super::filter::Call;
use super::identity::Identity;
use crate::sys::process::Pid;
use crate::sys::seccomp::Answer;
use crate::sys::trace;

/// The kernel's limit of groups.
const MAX_GROUPS: u64 = 65536;

/// So many processes are remembered before it is asked which of them are still there.
const MANY: usize = 256;

/// Processes that believe to be someone else than root, with the time of their start.
#[derive(Default)]
pub struct People(HashMap<Pid, (u64, Identity)>);

impl People {
    /// Who a process believes to be; `None` for root, as which all begin.
    fn identity(&self, pid: Pid) -> Option<&Identity> {
        if self.0.is_empty() {
            return None;
        }
        let mut pid = pid;
        // A thread believes what its process does, a process what its parent did.
        for _ in 0..32 {
            if let Some((start, identity)) = self.0.get(&pid)
                && started(pid) == Some(*start)
            {
                return Some(identity);
            }
            let (process, parent) = family(pid)?;
            pid = if process != pid { process } else { parent };
            if pid <= 1 {
                return None;
            }
        }
        None
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

    fn believe(&mut self, pid: Pid, identity: Identity) {
        // The C library makes the call in every thread: one of them tells for the process.
        let process = family(pid).map_or(pid, |(process, _)| process);
        if let Some(start) = started(process) {
            // Those that have ended are forgotten now and then: a command may start any number.
            if self.0.len() >= MANY && self.0.len().is_power_of_two() {
                self.0.retain(|pid, (start, _)| started(*pid) == Some(*start));
            }
            self.0.insert(process, (start, identity));
        }
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

/// Process and parent of a thread.
fn family(pid: Pid) -> Option<(Pid, Pid)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok();
    Some((field("Tgid:")?, field("PPid:")?))
}

/// When a process began.
fn started(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn family_of_this_process() {
        let me = crate::sys::process::pid();
        assert_eq!(family(me), Some((me, crate::sys::process::parent_pid())));
        assert!(started(me).is_some());
        assert_eq!(started(-1), None);
    }

    #[test]
    fn processes_that_have_ended_are_forgotten() {
        let me = crate::sys::process::pid();
        let mut people = People::default();
        people.believe(me, Identity { keeps_rights: true, ..Identity::default() });
        // As if of processes that had these numbers before.
        people.0.extend((1..MANY as Pid).map(|n| (-n, (0, Identity::default()))));
        people.believe(crate::sys::process::parent_pid(), Identity::default());
        assert!(people.0.len() <= 2 && people.identity(me).is_some_and(|identity| identity.keeps_rights));
    }
}
