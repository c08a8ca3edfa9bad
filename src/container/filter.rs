//! Which system calls does root emulation catch? A table of calls by architecture → a BPF program.
//!
//! A program in the container is "root" with a single user ID: the kernel refuses chown to others, set*id, device nodes.
//! The *pretending* filter lets these succeed without doing anything. The *recording* one traps them for
//! [`super::supervisor`], together with the calls that would reveal the lie.
//!
//! BPF sees numbers only, not what pointers point to. So pretending covers all setxattr calls (the name of the attribute
//! is behind a pointer): user attributes are lost too, which in an image hardly anyone has. Only the size tells something:
//! values as long as an access list of owner, group and others are left to the kernel, since `cp -p` and `sed -i` change
//! permissions with it, and it can do that.
//! Deliberately absent: filtering as a defence.

use crate::sys::seccomp::Instruction;

/// The calls, named as for 64 bits; the 16-bit and 32-bit forms of i386 and ARM are rows of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Chown,
    Lchown,
    Fchown,
    Fchownat,
    SetUid,
    SetGid,
    SetReUid,
    SetReGid,
    SetResUid,
    SetResGid,
    SetFsUid,
    SetFsGid,
    SetGroups,
    CapSet,
    Mknod,
    Mknodat,
    Mkdir,
    Mkdirat,
    Symlink,
    Symlinkat,
    Creat,
    /// Of interest if it may make a file.
    Open,
    Openat,
    SetXattr,
    LsetXattr,
    FsetXattr,
    SetXattrAt,
    GetXattr,
    LgetXattr,
    FgetXattr,
    GetXattrAt,
    ListXattr,
    LlistXattr,
    FlistXattr,
    ListXattrAt,
    RemoveXattr,
    LremoveXattr,
    FremoveXattr,
    RemoveXattrAt,
    Chmod,
    Fchmod,
    Fchmodat,
    Fchmodat2,
    GetUid,
    GetEuid,
    GetGid,
    GetEgid,
    GetResUid,
    GetResGid,
    GetGroups,
    Stat,
    Lstat,
    Fstat,
    Newfstatat,
    Statx,
    IoUringSetup,
    /// prctl(2), of interest for `PR_SET_KEEPCAPS` only.
    Prctl,
    /// Of interest for `SO_PEERCRED`.
    GetSockOpt,
    /// Of interest for programs with set-id bits.
    Execve,
    Execveat,
    /// Of interest for `RLIMIT_RTTIME`, by which [`super::credentials`] knows processes.
    SetRlimit,
    Prlimit,
}

use Call::{
    CapSet, Chmod, Chown, Creat, Execve, Execveat, Fchmod, Fchmodat, Fchmodat2, Fchown, Fchownat, FgetXattr,
    FlistXattr, FremoveXattr, FsetXattr, Fstat, GetEgid, GetEuid, GetGid, GetGroups, GetResGid, GetResUid, GetSockOpt,
    GetUid, GetXattr, GetXattrAt, IoUringSetup, Lchown, LgetXattr, ListXattr, ListXattrAt, LlistXattr, LremoveXattr,
    LsetXattr, Lstat, Mkdir, Mkdirat, Mknod, Mknodat, Newfstatat, Open, Openat, Prctl, Prlimit, RemoveXattr,
    RemoveXattrAt, SetFsGid, SetFsUid, SetGid, SetGroups, SetReGid, SetReUid, SetResGid, SetResUid, SetRlimit, SetUid,
    SetXattr, SetXattrAt, Stat, Statx, Symlink, Symlinkat,
};

/// Ids for x86_64, i386, aarch64, ARM; -1 where there is no such call. (From the kernel's tables of calls.)
const CALLS: &[(Call, [i32; 4])] = &[
    (Chown, [92, 182, -1, 182]),
    (Lchown, [94, 16, -1, 16]),
    (Fchown, [93, 95, 55, 95]),
    (Fchownat, [260, 298, 54, 325]),
    (Chown, [-1, 212, -1, 212]),
    (Lchown, [-1, 198, -1, 198]),
    (Fchown, [-1, 207, -1, 207]),
    (SetUid, [105, 23, 146, 23]),
    (SetGid, [106, 46, 144, 46]),
    (SetReUid, [113, 70, 145, 70]),
    (SetReGid, [114, 71, 143, 71]),
    (SetResUid, [117, 164, 147, 164]),
    (SetResGid, [119, 170, 149, 170]),
    (SetFsUid, [122, 138, 151, 138]),
    (SetFsGid, [123, 139, 152, 139]),
    (SetGroups, [116, 81, 159, 81]),
    (SetUid, [-1, 213, -1, 213]),
    (SetGid, [-1, 214, -1, 214]),
    (SetReUid, [-1, 203, -1, 203]),
    (SetReGid, [-1, 204, -1, 204]),
    (SetResUid, [-1, 208, -1, 208]),
    (SetResGid, [-1, 210, -1, 210]),
    (SetFsUid, [-1, 215, -1, 215]),
    (SetFsGid, [-1, 216, -1, 216]),
    (SetGroups, [-1, 206, -1, 206]),
    (CapSet, [126, 185, 91, 185]),
    (Mknod, [133, 14, -1, 14]),
    (Mknodat, [259, 297, 33, 324]),
    (Mkdir, [83, 39, -1, 39]),
    (Mkdirat, [258, 296, 34, 323]),
    (Symlink, [88, 83, -1, 83]),
    (Symlinkat, [266, 304, 36, 331]),
    (Creat, [85, 8, -1, 8]),
    (Open, [2, 5, -1, 5]),
    (Openat, [257, 295, 56, 322]),
    (SetXattr, [188, 226, 5, 226]),
    (LsetXattr, [189, 227, 6, 227]),
    (FsetXattr, [190, 228, 7, 228]),
    (SetXattrAt, [463, 463, 463, 463]),
    (GetXattr, [191, 229, 8, 229]),
    (LgetXattr, [192, 230, 9, 230]),
    (FgetXattr, [193, 231, 10, 231]),
    (GetXattrAt, [464, 464, 464, 464]),
    (ListXattr, [194, 232, 11, 232]),
    (LlistXattr, [195, 233, 12, 233]),
    (FlistXattr, [196, 234, 13, 234]),
    (ListXattrAt, [465, 465, 465, 465]),
    (RemoveXattr, [197, 235, 14, 235]),
    (LremoveXattr, [198, 236, 15, 236]),
    (FremoveXattr, [199, 237, 16, 237]),
    (RemoveXattrAt, [466, 466, 466, 466]),
    (Chmod, [90, 15, -1, 15]),
    (Fchmod, [91, 94, 52, 94]),
    (Fchmodat, [268, 306, 53, 333]),
    (Fchmodat2, [452, 452, 452, 452]),
    (GetUid, [102, 24, 174, 24]),
    (GetEuid, [107, 49, 175, 49]),
    (GetGid, [104, 47, 176, 47]),
    (GetEgid, [108, 50, 177, 50]),
    (GetResUid, [118, 165, 148, 165]),
    (GetResGid, [120, 171, 150, 171]),
    (GetGroups, [115, 80, 158, 80]),
    (Stat, [4, 106, -1, 106]),
    (Lstat, [6, 107, -1, 107]),
    (Fstat, [5, 108, 80, 108]),
    (Newfstatat, [262, -1, 79, -1]),
    (Statx, [332, 383, 291, 397]),
    (IoUringSetup, [425, 425, 425, 425]),
    (Prctl, [157, 172, 167, 172]),
    (GetSockOpt, [55, 365, 209, 295]),
    (Execve, [59, 11, 221, 11]),
    (Execveat, [322, 358, 281, 387]),
    (SetRlimit, [160, 75, 164, 75]),
    (Prlimit, [302, 340, 261, 369]),
];

/// Size of `system.posix_acl_access` with three entries: a head of 4 bytes, and 8 for each.
const PERMISSIONS: u32 = 28;

/// `AUDIT_ARCH_…`, column of [`CALLS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abi {
    audit: u32,
    column: usize,
}

pub const X86_64: Abi = Abi { audit: 0xc000_003e, column: 0 };
pub const I386: Abi = Abi { audit: 0x4000_0003, column: 1 };
pub const AARCH64: Abi = Abi { audit: 0xc000_00b7, column: 2 };
pub const ARM: Abi = Abi { audit: 0x4000_0028, column: 3 };

/// Call numbers of x86_64 from here on are those of x32, a third set that nobody uses.
const X32: u32 = 0x4000_0000;

/// An architecture: its own calls first, then those of the 32-bit programs that it can run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Machine {
    pub native: Abi,
    pub compat: Abi,
}

pub const PC: Machine = Machine { native: X86_64, compat: I386 };
pub const ARM64: Machine = Machine { native: AARCH64, compat: ARM };

/// The machine that this program runs on.
pub const HERE: Option<Machine> = if cfg!(target_arch = "x86_64") {
    Some(PC)
} else if cfg!(target_arch = "aarch64") {
    Some(ARM64)
} else {
    None
};

/// The native call of this number.
pub fn call(machine: Machine, number: i32) -> Option<Call> {
    CALLS.iter().find(|(_, numbers)| numbers[machine.native.column] == number && number >= 0).map(|(call, _)| *call)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Pretend,
    /// Traps native calls; those of 32-bit programs are pretended.
    Record,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    Succeed,
    Trap,
    /// As if the kernel had no such call.
    Refuse,
    /// Unless this argument, a size, is [`PERMISSIONS`].
    SucceedForOther(u8),
    /// Only for device nodes, whose type is in this argument.
    SucceedForDevice(u8),
    TrapForDevice(u8),
    /// Only if the flags, which are this argument, have `O_CREAT`.
    TrapForNew(u8),
    /// Only if the first argument is `PR_SET_KEEPCAPS`.
    TrapForKeepCaps,
    /// Only if the second and third arguments are `SOL_SOCKET` and `SO_PEERCRED`.
    TrapForPeer,
    /// Only if this argument is `RLIMIT_RTTIME` and the one after it, a new limit, is no null pointer.
    SucceedForMark(u8),
}

fn act(call: Call, mode: Mode) -> Option<Act> {
    use Act::{
        Refuse, Succeed, SucceedForDevice, SucceedForMark, SucceedForOther, Trap, TrapForDevice, TrapForKeepCaps,
        TrapForNew, TrapForPeer,
    };
    Some(match (call, mode) {
        (CapSet, Mode::Pretend | Mode::Record) => Succeed,
        (Mknod, Mode::Pretend) => SucceedForDevice(1),
        (Mknodat, Mode::Pretend) => SucceedForDevice(2),
        (Mknod, Mode::Record) => TrapForDevice(1),
        (Mknodat, Mode::Record) => TrapForDevice(2),
        (Open, Mode::Record) => TrapForNew(1),
        (Openat, Mode::Record) => TrapForNew(2),
        (GetSockOpt, Mode::Record) => TrapForPeer,
        (SetRlimit, Mode::Record) => SucceedForMark(0),
        (Prlimit, Mode::Record) => SucceedForMark(1),
        (Prctl, Mode::Record) => TrapForKeepCaps,
        // Its calls are none that could be trapped.
        (IoUringSetup, Mode::Record) => Refuse,
        (SetXattr | LsetXattr | FsetXattr, Mode::Pretend) => SucceedForOther(3),
        (
            Chown | Lchown | Fchown | Fchownat | SetUid | SetGid | SetReUid | SetReGid | SetResUid | SetResGid
            | SetFsUid | SetFsGid | SetGroups | SetXattrAt | RemoveXattr | LremoveXattr | FremoveXattr | RemoveXattrAt,
            Mode::Pretend,
        ) => Succeed,
        (
            GetXattr | LgetXattr | FgetXattr | GetXattrAt | ListXattr | LlistXattr | FlistXattr | ListXattrAt | Chmod
            | Fchmod | Fchmodat | Fchmodat2 | GetUid | GetEuid | GetGid | GetEgid | GetResUid | GetResGid | GetGroups
            | Stat | Lstat | Fstat | Newfstatat | Statx | Prctl | GetSockOpt | SetRlimit | Prlimit | Mkdir | Mkdirat
            | Symlink | Symlinkat | Creat | Open | Openat | IoUringSetup | Execve | Execveat,
            Mode::Pretend,
        ) => return None,
        (_, Mode::Record) => Trap,
    })
}

/// The filter for a machine. Programs of other architectures are refused every call (ENOSYS).
pub fn program(machine: Machine, mode: Mode) -> Vec<Instruction> {
    let mut program = vec![load(ARCHITECTURE)];
    for (abi, mode) in [(machine.native, mode), (machine.compat, Mode::Pretend)] {
        let section = section(abi, mode);
        // A jump over more than 255 instructions needs one of its own.
        program.push(jump(JUMP_EQUAL, abi.audit, 1, 0));
        program.push(Instruction { code: JUMP, if_true: 0, if_false: 0, value: section.len() as u32 });
        program.extend(section);
    }
    program.push(finish(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    program
}

fn section(abi: Abi, mode: Mode) -> Vec<Instruction> {
    let rows: Vec<(u32, Act)> = CALLS
        .iter()
        .filter_map(|(call, numbers)| Some((u32::try_from(numbers[abi.column]).ok()?, act(*call, mode)?)))
        .collect();
    let mut tails = Vec::new();
    let mut ends: Vec<(Act, usize)> = Vec::new();
    for (_, act) in &rows {
        if !ends.iter().any(|(known, _)| known == act) {
            ends.push((*act, tails.len()));
            tails.extend(tail(*act));
        }
    }
    let mut section = vec![load(NUMBER)];
    if abi == X86_64 {
        // Past the next instruction: x32.
        section.push(jump(JUMP_AT_LEAST, X32, 0, 1));
        section.push(finish(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    }
    for (i, (number, act)) in rows.iter().enumerate() {
        let end = ends.iter().find(|(known, _)| known == act).map_or(0, |(_, at)| *at);
        // The rows after this one, the permission, the tails before the one wanted: all in all below 200.
        let distance = (rows.len() - i - 1) + 1 + end;
        section.push(jump(JUMP_EQUAL, *number, distance as u8, 0));
    }
    section.push(finish(libc::SECCOMP_RET_ALLOW));
    section.extend(tails);
    section
}

/// A filter that traps native calls whose IDs no container has: neither 0 nor -1. `first_id` says which argument is the
/// user, if the call is of interest; the group is the next one. All else is allowed, whatever it is.
pub fn watching(machine: Machine, first_id: &dyn Fn(Call) -> Option<u8>) -> Vec<Instruction> {
    let abi = machine.native;
    let rows: Vec<(u32, u8)> = CALLS
        .iter()
        .filter_map(|(call, numbers)| Some((u32::try_from(numbers[abi.column]).ok()?, first_id(*call)?)))
        .collect();
    let allow = finish(libc::SECCOMP_RET_ALLOW);
    let mut program = vec![load(ARCHITECTURE), jump(JUMP_EQUAL, abi.audit, 1, 0), allow, load(NUMBER)];
    for (number, first) in rows {
        // Past this row, which has eight instructions more.
        program.push(jump(JUMP_EQUAL, number, 0, 8));
        for (argument, to_trap) in [(first, 4), (first + 1, 1)] {
            program.push(load(FIRST_ARGUMENT + 8 * u32::from(argument)));
            program.push(jump(JUMP_EQUAL, 0, 1, 0));
            program.push(jump(JUMP_EQUAL, u32::MAX, 0, to_trap));
        }
        program.extend([allow, finish(libc::SECCOMP_RET_USER_NOTIF)]);
    }
    program.push(allow);
    program
}

fn tail(act: Act) -> Vec<Instruction> {
    let end = finish(match act {
        Act::Succeed | Act::SucceedForDevice(_) | Act::SucceedForMark(_) | Act::SucceedForOther(_) => {
            libc::SECCOMP_RET_ERRNO
        }
        Act::Refuse => libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        Act::Trap | Act::TrapForDevice(_) | Act::TrapForNew(_) | Act::TrapForKeepCaps | Act::TrapForPeer => {
            libc::SECCOMP_RET_USER_NOTIF
        }
    });
    match act {
        Act::Succeed | Act::Trap | Act::Refuse => vec![end],
        Act::SucceedForOther(argument) => vec![
            load(FIRST_ARGUMENT + 8 * u32::from(argument)),
            jump(JUMP_EQUAL, PERMISSIONS, 0, 1),
            finish(libc::SECCOMP_RET_ALLOW),
            end,
        ],
        Act::TrapForKeepCaps => vec![
            load(FIRST_ARGUMENT),
            jump(JUMP_EQUAL, libc::PR_SET_KEEPCAPS as u32, 1, 0),
            finish(libc::SECCOMP_RET_ALLOW),
            end,
        ],
        Act::TrapForNew(argument) => vec![
            load(FIRST_ARGUMENT + 8 * u32::from(argument)),
            jump(JUMP_SET, libc::O_CREAT as u32, 1, 0),
            finish(libc::SECCOMP_RET_ALLOW),
            end,
        ],
        Act::TrapForPeer => vec![
            load(FIRST_ARGUMENT + 8),
            jump(JUMP_EQUAL, libc::SOL_SOCKET as u32, 0, 2),
            load(FIRST_ARGUMENT + 16),
            jump(JUMP_EQUAL, libc::SO_PEERCRED as u32, 1, 0),
            finish(libc::SECCOMP_RET_ALLOW),
            end,
        ],
        Act::SucceedForMark(argument) => vec![
            load(FIRST_ARGUMENT + 8 * u32::from(argument)),
            jump(JUMP_EQUAL, libc::RLIMIT_RTTIME as _, 1, 0),
            finish(libc::SECCOMP_RET_ALLOW),
            load(FIRST_ARGUMENT + 8 * (u32::from(argument) + 1)),
            jump(JUMP_EQUAL, 0, 0, 1),
            finish(libc::SECCOMP_RET_ALLOW),
            end,
        ],
        Act::SucceedForDevice(argument) | Act::TrapForDevice(argument) => vec![
            load(FIRST_ARGUMENT + 8 * u32::from(argument)),
            Instruction { code: AND, if_true: 0, if_false: 0, value: libc::S_IFMT },
            jump(JUMP_EQUAL, libc::S_IFCHR, 2, 0),
            jump(JUMP_EQUAL, libc::S_IFBLK, 1, 0),
            finish(libc::SECCOMP_RET_ALLOW),
            end,
        ],
    }
}

// Classic BPF (linux/bpf_common.h), and offsets into `struct seccomp_data`; the low half of an argument comes first.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, if_true: 0, if_false: 0, value: offset }
}

fn jump(code: u16, value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, value }
}

fn finish(value: u32) -> Instruction {
    Instruction { code: RETURN, if_true: 0, if_false: 0, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const ZERO: u32 = libc::SECCOMP_RET_ERRNO;
    const TRAP: u32 = libc::SECCOMP_RET_USER_NOTIF;
    const NOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

    /// What the kernel would do with the program.
    fn interpret(program: &[Instruction], audit: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut a = 0_u32;
        let mut at = 0;
        loop {
            let i = program[at];
            at += 1;
            match i.code {
                LOAD => {
                    a = match i.value {
                        NUMBER => number,
                        ARCHITECTURE => audit,
                        offset => {
                            assert!(offset >= FIRST_ARGUMENT && offset % 8 == 0);
                            args[(offset - FIRST_ARGUMENT) as usize / 8] as u32
                        }
                    }
                }
                AND => a &= i.value,
                JUMP => at += i.value as usize,
                JUMP_EQUAL => at += usize::from(if a == i.value { i.if_true } else { i.if_false }),
                JUMP_SET => at += usize::from(if a & i.value != 0 { i.if_true } else { i.if_false }),
                JUMP_AT_LEAST => at += usize::from(if a >= i.value { i.if_true } else { i.if_false }),
                RETURN => return i.value,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn every_call_of_every_architecture() {
        for machine in [PC, ARM64] {
            for mode in [Mode::Pretend, Mode::Record] {
                let program = program(machine, mode);
                assert!(program.len() < 300);
                for (abi, mode) in [(machine.native, mode), (machine.compat, Mode::Pretend)] {
                    for number in 0..600_u32 {
                        let call = CALLS.iter().find(|(_, n)| n[abi.column] == number as i32).map(|(call, _)| *call);
                        let name = format!("{machine:?} {mode:?} {call:?} {number}");
                        let (fifo, device) = (0o010644, 0o020644);
                        let got = |mode: u64| interpret(&program, abi.audit, number, [!0, mode, mode, !0, !0, !0]);
                        let (want_other, want_device) = match (call, mode) {
                            (None, _) => (ALLOW, ALLOW),
                            (Some(Mknod | Mknodat), Mode::Pretend) => (ALLOW, ZERO),
                            (Some(Mknod | Mknodat), Mode::Record) => (ALLOW, TRAP),
                            (Some(CapSet), _) => (ZERO, ZERO),
                            (Some(IoUringSetup), Mode::Record) => (NOSYS, NOSYS),
                            (Some(Prctl | GetSockOpt | SetRlimit | Prlimit), _) => (ALLOW, ALLOW),
                            // Flags with O_CREAT or without.
                            (Some(Open | Openat), Mode::Record) => (ALLOW, ALLOW),
                            (Some(call), Mode::Pretend) if act(call, mode).is_none() => (ALLOW, ALLOW),
                            (Some(_), Mode::Pretend) => (ZERO, ZERO),
                            (Some(_), Mode::Record) => (TRAP, TRAP),
                        };
                        assert_eq!((got(fifo), got(device)), (want_other, want_device), "{name}");
                        let keep_caps = interpret(&program, abi.audit, number, [8, 1, 0, 0, 0, 0]);
                        assert_eq!(
                            keep_caps == TRAP,
                            want_other == TRAP || (call, mode) == (Some(Prctl), Mode::Record)
                        );
                        let is =
                            |calls: &[Call]| mode == Mode::Record && call.is_some_and(|call| calls.contains(&call));
                        let create = got(0o102) == TRAP && got(0o2) != TRAP;
                        assert_eq!(create, is(&[Open, Openat]), "{name}");
                        let size = |n| interpret(&program, abi.audit, number, [!0, !0, !0, n, !0, !0]);
                        let sets = matches!(call, Some(SetXattr | LsetXattr | FsetXattr)) && mode == Mode::Pretend;
                        assert_eq!((size(28), size(36)) == (ALLOW, ZERO), sets, "{name}");
                        let option = |level, name| interpret(&program, abi.audit, number, [!0, level, name, 0, 0, 0]);
                        let peer = option(1, 17) == TRAP && option(1, 3) != TRAP && option(6, 17) != TRAP;
                        assert_eq!(peer, is(&[GetSockOpt]), "{name}");
                        let limit = |a: [u64; 3]| interpret(&program, abi.audit, number, [a[0], a[1], a[2], 0, 0, 0]);
                        let set =
                            [limit([15, 99, 99]), limit([99, 15, 99])].contains(&ZERO) && limit([15, 0, 0]) != ZERO;
                        assert_eq!(set, is(&[SetRlimit, Prlimit]), "{name}");
                        assert_eq!(got(0o060600), want_device, "{name}: block device");
                        assert_eq!(got(0o100600), want_other, "{name}: plain file");
                    }
                }
            }
        }
    }

    #[test]
    fn ids_that_no_container_has() {
        for machine in [PC, ARM64] {
            let first_id = |call| match call {
                Chown | Lchown | Fchown => Some(1),
                Fchownat => Some(2),
                _ => None,
            };
            let program = watching(machine, &first_id);
            let none = 0xffff_ffff;
            for number in 0..600_u32 {
                let call = call(machine, number as i32);
                let first = call.and_then(first_id);
                for (user, group) in
                    [(0, 0), (0, none), (none, 0), (none, none), (1000, 0), (0, 1000), (none, 5), (7, none), (7, 7)]
                {
                    let is_odd = [user, group].iter().any(|id| ![0, none].contains(id));
                    let mut args = [!0; 6];
                    if let Some(first) = first {
                        args[usize::from(first)..][..2].copy_from_slice(&[user, group]);
                    }
                    let want = if first.is_some() && is_odd { TRAP } else { ALLOW };
                    assert_eq!(
                        interpret(&program, machine.native.audit, number, args),
                        want,
                        "{call:?} {user} {group}"
                    );
                }
            }
            for (audit, number) in [(I386.audit, 182), (0, 92), (X86_64.audit, X32 | 92)] {
                assert_eq!(interpret(&program, audit, number, [7; 6]), ALLOW);
            }
        }
    }

    #[test]
    fn other_architectures_are_refused() {
        for mode in [Mode::Pretend, Mode::Record] {
            let pc = program(PC, mode);
            for number in [0, 92, X32 - 1] {
                // aarch64, s390x, none at all.
                for audit in [AARCH64.audit, 0x8000_0016, 0, !0] {
                    assert_eq!(interpret(&pc, audit, number, [0; 6]), NOSYS);
                }
            }
            for number in [X32, X32 | 92, X32 | 512, !0] {
                assert_eq!(interpret(&pc, X86_64.audit, number, [0; 6]), NOSYS, "x32");
            }
            assert_eq!(interpret(&pc, I386.audit, X32, [0; 6]), ALLOW, "no such call of i386: the kernel says so");
            assert_eq!(interpret(&program(ARM64, mode), X86_64.audit, 92, [0; 6]), NOSYS);
        }
    }

    #[test]
    fn numbers_of_this_machine() {
        let Some(machine) = HERE else { return };
        let check = |call: Call, number: libc::c_long| assert_eq!(super::call(machine, number as i32), Some(call));
        check(Fchown, libc::SYS_fchown);
        check(Fchownat, libc::SYS_fchownat);
        check(SetUid, libc::SYS_setuid);
        check(SetGid, libc::SYS_setgid);
        check(SetReUid, libc::SYS_setreuid);
        check(SetReGid, libc::SYS_setregid);
        check(SetResUid, libc::SYS_setresuid);
        check(SetResGid, libc::SYS_setresgid);
        check(SetFsUid, libc::SYS_setfsuid);
        check(SetFsGid, libc::SYS_setfsgid);
        check(SetGroups, libc::SYS_setgroups);
        check(CapSet, libc::SYS_capset);
        check(Mknodat, libc::SYS_mknodat);
        check(SetXattr, libc::SYS_setxattr);
        check(LsetXattr, libc::SYS_lsetxattr);
        check(FsetXattr, libc::SYS_fsetxattr);
        check(GetXattr, libc::SYS_getxattr);
        check(LgetXattr, libc::SYS_lgetxattr);
        check(FgetXattr, libc::SYS_fgetxattr);
        check(ListXattr, libc::SYS_listxattr);
        check(LlistXattr, libc::SYS_llistxattr);
        check(FlistXattr, libc::SYS_flistxattr);
        check(RemoveXattr, libc::SYS_removexattr);
        check(LremoveXattr, libc::SYS_lremovexattr);
        check(FremoveXattr, libc::SYS_fremovexattr);
        check(Fchmod, libc::SYS_fchmod);
        check(Fchmodat, libc::SYS_fchmodat);
        check(GetUid, libc::SYS_getuid);
        check(GetEuid, libc::SYS_geteuid);
        check(GetGid, libc::SYS_getgid);
        check(GetEgid, libc::SYS_getegid);
        check(GetResUid, libc::SYS_getresuid);
        check(GetResGid, libc::SYS_getresgid);
        check(GetGroups, libc::SYS_getgroups);
        check(Fstat, libc::SYS_fstat);
        check(Newfstatat, libc::SYS_newfstatat);
        check(Statx, libc::SYS_statx);
        check(Prctl, libc::SYS_prctl);
        check(GetSockOpt, libc::SYS_getsockopt);
        check(SetRlimit, libc::SYS_setrlimit);
        check(Prlimit, libc::SYS_prlimit64);
        check(Mkdirat, libc::SYS_mkdirat);
        check(Symlinkat, libc::SYS_symlinkat);
        check(Openat, libc::SYS_openat);
        check(IoUringSetup, libc::SYS_io_uring_setup);
        check(Fchmodat2, libc::SYS_fchmodat2);
        assert_eq!(super::call(machine, -1), None);
    }
}
