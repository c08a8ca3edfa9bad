//! The emulated identity of one process, and the rules by which set*id calls change it.
//!
//! As the kernel does it for a process with CAP_SETUID and CAP_SETGID, which is here: whose effective user is 0, or
//! which has kept its rights.
//! Source: credentials(7), setresuid(2), setfsuid(2).

use super::filter::Call;

const NONE: u32 = u32::MAX;

/// Real, effective, saved and file-system ID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ids {
    pub real: u32,
    pub effective: u32,
    pub saved: u32,
    pub files: u32,
}

impl Ids {
    fn has(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// setuid(2): all of them for root, else the effective one.
    fn set(&mut self, id: u32, root: bool) -> Result<(), i32> {
        if id == NONE {
            return Err(libc::EINVAL);
        }
        if root {
            *self = Ids { real: id, effective: id, saved: id, files: id };
        } else if id == self.real || id == self.saved {
            (self.effective, self.files) = (id, id);
        } else {
            return Err(libc::EPERM);
        }
        Ok(())
    }

    /// setreuid(2)
    fn set_two(&mut self, real: u32, effective: u32, root: bool) -> Result<(), i32> {
        let real_allowed = real == NONE || root || real == self.real || real == self.effective;
        if !real_allowed || !(effective == NONE || root || self.has(effective)) {
            return Err(libc::EPERM);
        }
        let before = self.real;
        if real != NONE {
            self.real = real;
        }
        if effective != NONE {
            self.effective = effective;
        }
        if real != NONE || (effective != NONE && effective != before) {
            self.saved = self.effective;
        }
        self.files = self.effective;
        Ok(())
    }

    /// setresuid(2)
    fn set_three(&mut self, [real, effective, saved]: [u32; 3], root: bool) -> Result<(), i32> {
        let allowed = |id: u32| id == NONE || root || self.has(id);
        if ![real, effective, saved].into_iter().all(allowed) {
            return Err(libc::EPERM);
        }
        let pick = |new: u32, old: u32| if new == NONE { old } else { new };
        self.real = pick(real, self.real);
        self.effective = pick(effective, self.effective);
        self.saved = pick(saved, self.saved);
        self.files = self.effective;
        Ok(())
    }

    /// setfsuid(2): the old one, whether or not it was changed.
    fn set_files(&mut self, id: u32, root: bool) -> u32 {
        let old = self.files;
        if id != NONE && (root || self.has(id) || id == self.files) {
            self.files = id;
        }
        old
    }
}

/// Root to begin with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    pub user: Ids,
    pub group: Ids,
    /// `None`: never set; the kernel's answer stands.
    pub groups: Option<Vec<u32>>,
    /// Rights outlive the change of user (`PR_SET_KEEPCAPS`). That an exec ends it, nobody tells us.
    pub keeps_rights: bool,
}

impl Identity {
    /// A user who has been nobody else before.
    pub fn of(uid: u32, gid: u32, groups: Vec<u32>) -> Identity {
        let all = |id: u32| Ids { real: id, effective: id, saved: id, files: id };
        Identity { user: all(uid), group: all(gid), groups: Some(groups), keeps_rights: false }
    }

    /// A program with set-id bits begins: as whose user, and with which group.
    pub fn begin_program(&mut self, uid: Option<u32>, gid: Option<u32>) {
        for (numbers, id) in [(&mut self.user, uid), (&mut self.group, gid)] {
            if let Some(id) = id {
                (numbers.effective, numbers.saved, numbers.files) = (id, id, id);
            }
        }
    }

    fn has_rights(&self) -> bool {
        self.user.effective == 0 || self.keeps_rights
    }

    /// Does one of the set*id calls; what it returns, or its errno. `None` if it is none of them.
    pub fn change(&mut self, call: Call, args: [u64; 6]) -> Option<Result<u32, i32>> {
        let root = self.has_rights();
        let id = |i: usize| args[i] as u32;
        let three = [id(0), id(1), id(2)];
        Some(match call {
            Call::SetUid => self.user.set(id(0), root).map(|()| 0),
            Call::SetGid => self.group.set(id(0), root).map(|()| 0),
            Call::SetReUid => self.user.set_two(id(0), id(1), root).map(|()| 0),
            Call::SetReGid => self.group.set_two(id(0), id(1), root).map(|()| 0),
            Call::SetResUid => self.user.set_three(three, root).map(|()| 0),
            Call::SetResGid => self.group.set_three(three, root).map(|()| 0),
            Call::SetFsUid => Ok(self.user.set_files(id(0), root)),
            Call::SetFsGid => Ok(self.group.set_files(id(0), root)),
            _ => return None,
        })
    }

    /// setgroups(2)
    pub fn set_groups(&mut self, groups: Vec<u32>) -> Result<(), i32> {
        if !self.has_rights() {
            return Err(libc::EPERM);
        }
        self.groups = Some(groups);
        Ok(())
    }

    /// Whether files of this owner may be given to that user and group (`NONE`: as before). Whoever has no rights gives
    /// nothing away, which `cp -a` counts on. That a file is one's own is not asked: sockets are known as root's.
    pub fn may_give(&self, owner: (u32, u32), user: u32, group: u32) -> bool {
        let is_in = |id: u32| {
            id == self.group.files || self.group.has(id) || self.groups.as_ref().is_some_and(|all| all.contains(&id))
        };
        self.has_rights()
            || ([NONE, owner.0, self.user.files].contains(&user) && ([NONE, owner.1].contains(&group) || is_in(group)))
    }

    /// What one of the simple get*id calls returns. `None` if it is none of them.
    pub fn answer(&self, call: Call) -> Option<u32> {
        Some(match call {
            Call::GetUid => self.user.real,
            Call::GetEuid => self.user.effective,
            Call::GetGid => self.group.real,
            Call::GetEgid => self.group.effective,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Call::{SetFsUid, SetReUid, SetResUid, SetUid};

    #[test]
    fn users_change_as_the_kernel_does_it() {
        const SAME: u64 = u32::MAX as u64;
        // Calls one after the other, from root; what the last returns; real, effective, saved, files then.
        let check = |calls: &[(Call, [u64; 3])], want: Result<u32, i32>, numbers: [u32; 4]| {
            let mut identity = Identity::default();
            let mut got = Ok(0);
            for (call, [a, b, c]) in calls {
                got = identity.change(*call, [*a, *b, *c, 0, 0, 0]).unwrap();
            }
            let Ids { real, effective, saved, files } = identity.user;
            assert_eq!((got, [real, effective, saved, files]), (want, numbers), "{calls:?}");
        };
        check(&[(SetUid, [5, 0, 0])], Ok(0), [5, 5, 5, 5]);
        check(&[(SetUid, [SAME, 0, 0])], Err(libc::EINVAL), [0, 0, 0, 0]);
        check(&[(SetUid, [5, 0, 0]), (SetUid, [0, 0, 0])], Err(libc::EPERM), [5, 5, 5, 5]);
        check(&[(SetUid, [5, 0, 0]), (SetUid, [5, 0, 0])], Ok(0), [5, 5, 5, 5]);
        check(&[(SetResUid, [SAME, 5, SAME])], Ok(0), [0, 5, 0, 5]);
        check(&[(SetResUid, [SAME, 5, SAME]), (SetUid, [0, 0, 0])], Ok(0), [0, 0, 0, 0]);
        check(&[(SetResUid, [SAME, 5, SAME]), (SetResUid, [SAME, 6, SAME])], Err(libc::EPERM), [0, 5, 0, 5]);
        check(&[(SetResUid, [5, 5, 5]), (SetResUid, [SAME, 0, SAME])], Err(libc::EPERM), [5, 5, 5, 5]);
        check(&[(SetResUid, [1, 2, 3]), (SetResUid, [3, 1, 2])], Ok(0), [3, 1, 2, 1]);
        check(&[(SetReUid, [SAME, 5, 0])], Ok(0), [0, 5, 5, 5]);
        check(&[(SetReUid, [SAME, 5, 0]), (SetReUid, [5, 0, 0])], Ok(0), [5, 0, 0, 0]);
        check(&[(SetReUid, [5, 5, 0]), (SetReUid, [SAME, 0, 0])], Err(libc::EPERM), [5, 5, 5, 5]);
        check(&[(SetFsUid, [5, 0, 0])], Ok(0), [0, 0, 0, 5]);
        check(&[(SetFsUid, [5, 0, 0]), (SetFsUid, [SAME, 0, 0])], Ok(5), [0, 0, 0, 5]);
        check(&[(SetUid, [5, 0, 0]), (SetFsUid, [0, 0, 0])], Ok(5), [5, 5, 5, 5]);
    }

    #[test]
    fn groups_need_root_too() {
        let mut identity = Identity::default();
        assert_eq!(identity.set_groups(vec![1, 2]), Ok(()));
        identity.change(Call::SetGid, [7; 6]).unwrap().unwrap();
        identity.change(Call::SetUid, [5; 6]).unwrap().unwrap();
        assert_eq!(identity.set_groups(vec![]), Err(libc::EPERM));
        assert_eq!(identity.change(Call::SetGid, [0; 6]), Some(Err(libc::EPERM)));
        identity.keeps_rights = true;
        assert_eq!(identity.change(Call::SetGid, [7; 6]), Some(Ok(0)), "setpriv(1) changes the user first");
        let all = [Call::GetUid, Call::GetEuid, Call::GetGid, Call::GetEgid].map(|call| identity.answer(call));
        assert_eq!(all, [Some(5), Some(5), Some(7), Some(7)]);
        assert_eq!((identity.answer(Call::Chown), identity.change(Call::Chown, [0; 6])), (None, None));
    }

    #[test]
    fn who_may_give_files_away() {
        let numbers = |id: u32| Ids { real: id, effective: id, saved: id, files: id };
        let mut joe = Identity { user: numbers(5), group: numbers(6), groups: Some(vec![7]), ..Identity::default() };
        let own = (5, 6);
        for (user, group, want) in [
            (NONE, NONE, true),
            (5, 6, true),
            (NONE, 7, true),
            (0, 0, false),
            (NONE, 0, false),
            (0, NONE, false),
            (5, 8, false),
        ] {
            assert_eq!(joe.may_give(own, user, group), want, "{user} {group}");
        }
        assert!(joe.may_give((0, 0), 5, 6));
        joe.keeps_rights = true;
        assert!(joe.may_give(own, 0, 0) && Identity::default().may_give(own, 1, 1));
    }
}
