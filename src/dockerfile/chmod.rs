//! What does `--chmod` make of a mode? Octal, or symbolic as in chmod(1) (A.11).

use std::fmt;

use crate::error::{Error, Result};

/// A change of permissions; displayed as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chmod {
    text: String,
    change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Octal(u32),
    Symbolic(Vec<Clause>),
}

/// `ug+rwX`: for the classes in `who`, one action.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Clause {
    who: Who,
    action: Action,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Who {
    user: bool,
    group: bool,
    other: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Permissions {
        bits: u32,
        search: bool,
        setid: bool,
        sticky: bool,
    },
    /// The permissions of another class: its shift.
    Copy(u32),
}

impl Chmod {
    pub fn parse(text: &str) -> Result<Chmod> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if digits && let Some(mode) = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777) {
            return Ok(Chmod { text: text.to_owned(), change: Change::Octal(mode) });
        }
        let mut clauses = Vec::new();
        let whole = text.split(',').try_for_each(|part| parse_clauses(part, &mut clauses));
        match whole {
            Some(()) => Ok(Chmod { text: text.to_owned(), change: Change::Symbolic(clauses) }),
            None => {
                Err(Error::new(format!("invalid mode: {text:?}"))
                    .hint("write an octal mode such as 0755, or u=rwX,go=rX"))
            }
        }
    }

    /// The new permission bits (07777) of a file with mode bits `mode`.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match &self.change {
            Change::Octal(mode) => *mode,
            Change::Symbolic(clauses) => {
                clauses.iter().fold(mode & 0o7777, |mode, clause| clause.apply(mode, is_directory))
            }
        }
    }
}

impl fmt::Display for Chmod {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn parse_clauses(text: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let start = text.find(['+', '-', '='])?;
    let mut who = Who { user: false, group: false, other: false };
    for class in text[..start].chars() {
        match class {
            'u' => who.user = true,
            'g' => who.group = true,
            'o' => who.other = true,
            'a' => who = Who { user: true, group: true, other: true },
            _ => return None,
        }
    }
    if start == 0 {
        who = Who { user: true, group: true, other: true };
    }
    let mut rest = &text[start..];
    while let Some(operator) = rest.chars().next() {
        let action = match operator {
            '+' => Action::Add,
            '-' => Action::Remove,
            _ => Action::Set,
        };
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        clauses.push(Clause { who, action, what: parse_what(&rest[1..end])? });
        rest = &rest[end..];
    }
    Some(())
}

fn parse_what(text: &str) -> Option<What> {
    match text {
        "u" => return Some(What::Copy(6)),
        "g" => return Some(What::Copy(3)),
        "o" => return Some(What::Copy(0)),
        _ => {}
    }
    let (mut bits, mut search, mut setid, mut sticky) = (0, false, false, false);
    for c in text.chars() {
        match c {
            'r' => bits |= 4,
            'w' => bits |= 2,
            'x' => bits |= 1,
            'X' => search = true,
            's' => setid = true,
            't' => sticky = true,
            _ => return None,
        }
    }
    Some(What::Permissions { bits, search, setid, sticky })
}

impl Clause {
    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let Who { user, group, other } = self.who;
        let (bits, setid, sticky) = match self.what {
            What::Copy(shift) => (mode >> shift & 7, false, false),
            What::Permissions { bits, search, setid, sticky } => {
                let executable = search && (is_directory || mode & 0o111 != 0);
                (bits | u32::from(executable), setid, sticky)
            }
        };
        let spread = |bits: u32| {
            [(user, 6), (group, 3), (other, 0)].iter().filter(|(on, _)| *on).map(|(_, s)| bits << s).sum::<u32>()
        };
        let special = u32::from(setid && user) * 0o4000 + u32::from(setid && group) * 0o2000;
        let all = user && group && other;
        let sticky = u32::from(sticky && all) * 0o1000;
        let change = spread(bits) | special | sticky;
        match self.action {
            Action::Add => mode | change,
            Action::Remove => mode & !change,
            Action::Set => {
                // As in chmod(1), a directory keeps its set-ID bits.
                let ids = u32::from(user && !is_directory) * 0o4000 + u32::from(group && !is_directory) * 0o2000;
                (mode & !(spread(7) | ids | (u32::from(all) * 0o1000))) | change
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let check = |text: &str, mode: u32, file: u32, directory: u32| {
            let change = Chmod::parse(text).unwrap();
            assert_eq!(
                format!("{:o} {:o}", change.apply(mode, false), change.apply(mode, true)),
                format!("{file:o} {directory:o}"),
                "{text}"
            );
        };
        check("755", 0o644, 0o755, 0o755);
        check("0", 0o644, 0, 0);
        check("07777", 0o644, 0o7777, 0o7777);
        check("u=rwX,go=rX", 0o600, 0o644, 0o755);
        check("u=rwX,go=rX", 0o700, 0o755, 0o755);
        check("+x", 0o644, 0o755, 0o755);
        check("a-w", 0o666, 0o444, 0o444);
        check("g=u", 0o640, 0o660, 0o660);
        check("o=", 0o777, 0o770, 0o770);
        check("u+s,g+s,+t", 0o755, 0o7755, 0o7755);
        check("u=rwx", 0o4644, 0o744, 0o4744);
        check("go-rwx+r", 0o777, 0o744, 0o744);
        check("u+r-w", 0o200, 0o400, 0o400);
    }

    #[test]
    fn refused() {
        for bad in ["", "8", "10000", "x", "u", "u+", "u+q", "rwx", "u=rw,", "z+x", "0o755", "-1"] {
            // An empty list of permissions is valid: `u+` changes nothing.
            assert_eq!(Chmod::parse(bad).is_err(), bad != "u+", "{bad}");
        }
    }
}
