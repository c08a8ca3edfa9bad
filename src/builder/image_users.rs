//! Which UID and GID do USER and `--chown` name? Looked up in the image's own /etc/passwd and /etc/group.

use std::path::{Path, PathBuf};

use crate::container::ImageUser;
use crate::container::Record;
use crate::container::ownership::Owner;
use crate::error::{Context, Error, Result};
use crate::rootfs::{Last, Root};

/// Largest passwd or group file that is read, bytes.
const MAX_FILE: u64 = 4 << 20;

/// A user of the image.
#[derive(Debug, PartialEq, Eq)]
pub struct ResolvedUser {
    pub ids: ImageUser,
    pub home: String,
}

impl ResolvedUser {
    pub fn is_root(&self) -> bool {
        (self.ids.uid, self.ids.gid) == (0, 0)
    }
}

/// The image's files about users and groups; empty if it has none.
pub struct Known {
    passwd: String,
    group: String,
}

impl Known {
    pub fn of(root: &Root) -> Result<Known> {
        let read = |path: &str| -> Result<String> {
            let bytes = root.read(Path::new(path), MAX_FILE)?.unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Known { passwd: read("etc/passwd")?, group: read("etc/group")? })
    }

    /// USER, as Docker has it: the user's groups count only if no group is named, and a number need not be in passwd.
    pub fn resolve_user(&self, text: &str) -> Result<ResolvedUser> {
        let (user, group) = halves(text);
        let entry = self.user(user);
        let (uid, own_group, home) = match (&entry, number(user)) {
            (Some(entry), _) => (entry.uid, entry.gid, entry.home.to_owned()),
            (None, Some(uid)) => (uid, 0, String::new()),
            (None, None) => return Err(missing("user", user, "passwd").context(format!("USER {text}"))),
        };
        let (gid, groups) = match group {
            Some(group) => (self.group(group).context(|| format!("USER {text}"))?, Vec::new()),
            None => (own_group, entry.map_or(Vec::new(), |entry| self.groups_of(entry.name))),
        };
        let home = if home.is_empty() { "/".to_owned() } else { home };
        Ok(ResolvedUser { ids: ImageUser { uid, gid, groups }, home })
    }

    /// `--chown`, as Docker has it: the group of a named user is that of passwd, that of a number the same number.
    pub fn owner(&self, text: &str) -> Result<(u32, u32)> {
        let (user, group) = halves(text);
        let (uid, own_group) = match (number(user), self.user(user)) {
            (Some(uid), _) => (uid, uid),
            (None, Some(entry)) => (entry.uid, entry.gid),
            (None, None) if user.is_empty() => (0, 0),
            (None, None) => return Err(missing("user", user, "passwd").context(format!("--chown={text}"))),
        };
        let gid = match group {
            Some(group) => self.group(group).context(|| format!("--chown={text}"))?,
            None => own_group,
        };
        Ok((uid, gid))
    }

    /// By name or number.
    fn user(&self, user: &str) -> Option<User<'_>> {
        let users = || self.passwd.lines().filter_map(User::parse);
        let of_name = users().find(|entry| entry.name == user);
        of_name.or_else(|| number(user).and_then(|uid| users().find(|entry| entry.uid == uid)))
    }

    fn group(&self, group: &str) -> Result<u32> {
        let named = self.group.lines().filter_map(Group::parse).find(|entry| entry.name == group);
        named.map(|entry| entry.gid).or_else(|| number(group)).ok_or_else(|| missing("group", group, "group"))
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        let groups = self.group.lines().filter_map(Group::parse);
        groups.filter(|group| group.members.split(',').any(|member| member == user)).map(|group| group.gid).collect()
    }
}

fn missing(what: &str, name: &str, file: &str) -> Error {
    let name = crate::log::escape(name);
    Error::new(format!("no {what} {name:?} in the image's /etc/{file}"))
        .hint(format!("make it in a RUN before, or give the {what}'s number"))
}

/// `USER[:GROUP]`; an empty group is none.
fn halves(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    }
}

fn number(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| is_number && *id != u32::MAX)
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl User<'_> {
    fn parse(line: &str) -> Option<User<'_>> {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        Some(User { name, uid: number(uid)?, gid: number(gid)?, home })
    }
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl Group<'_> {
    fn parse(line: &str) -> Option<Group<'_>> {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members, ..] = fields[..] else { return None };
        Some(Group { name, gid: number(gid)?, members: members.trim() })
    }
}

/// The directories on the way to `path` that are not there yet.
pub fn missing_directories(root: &Root, path: &Path) -> Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    for place in path.ancestors().filter(|place| !place.as_os_str().is_empty()) {
        match root.stat(place, Last::Follow) {
            Ok(Some(_)) => break,
            Ok(None) => missing.push(place.to_owned()),
            // What is in the way is the business of whoever makes it.
            Err(_) => break,
        }
    }
    Ok(missing)
}

/// Gives directories to a user, those that are there by now.
pub fn give(root: &Root, directories: &[PathBuf], (uid, gid): (u32, u32), record: &mut Record) -> Result<()> {
    for path in directories {
        if root.stat(path, Last::Follow)?.is_some_and(|stat| stat.is_dir()) {
            let owner = Owner { uid, gid, ..Owner::default() };
            record.replace(root.mkdir_all(path, 0o755)?, owner).context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known {
            passwd: "root:x:0:0:root:/root:/bin/sh\n# none\njoe:x:5:6:Joe:/home/joe:/bin/sh\n7:x:8:9::/seven:/bin/sh\nbad:x:y:1::/:\n"
                .to_owned(),
            group: "root:x:0:\nstaff:x:50:ann,joe\nwheel:x:10:joe\n60:x:61:\n".to_owned(),
        }
    }

    #[test]
    fn users_are_found_as_docker_finds_them() {
        let check = |text: &str, uid: u32, gid: u32, groups: &[u32], home: &str| {
            let user = ResolvedUser { ids: ImageUser { uid, gid, groups: groups.to_vec() }, home: home.to_owned() };
            assert_eq!(known().resolve_user(text).unwrap(), user, "{text}");
        };
        check("joe", 5, 6, &[50, 10], "/home/joe");
        check("5", 5, 6, &[50, 10], "/home/joe");
        check("joe:staff", 5, 50, &[], "/home/joe");
        check("joe:", 5, 6, &[50, 10], "/home/joe");
        check("joe:77", 5, 77, &[], "/home/joe");
        check("7", 8, 9, &[], "/seven");
        check("1234", 1234, 0, &[], "/");
        check("1234:60", 1234, 61, &[], "/");
        check("root", 0, 0, &[], "/root");
        for (text, want) in [
            ("ann", "USER ann: no user \"ann\" in the image's /etc/passwd"),
            ("bad", "USER bad: no user \"bad\" in the image's /etc/passwd"),
            ("joe:none", "USER joe:none: no group \"none\" in the image's /etc/group"),
            ("-1", "USER -1: no user \"-1\" in the image's /etc/passwd"),
            ("4294967295", "USER 4294967295: no user \"4294967295\" in the image's /etc/passwd"),
        ] {
            assert_eq!(known().resolve_user(text).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn owners_are_found_as_docker_finds_them() {
        let check = |text: &str, want: (u32, u32)| assert_eq!(known().owner(text).unwrap(), want, "{text}");
        check("joe", (5, 6));
        check("joe:wheel", (5, 10));
        check("5", (5, 5));
        check("5:0", (5, 0));
        check(":wheel", (0, 10));
        check("7", (7, 7));
        let e = known().owner("ann:1").unwrap_err().to_string();
        assert_eq!(e, "--chown=ann:1: no user \"ann\" in the image's /etc/passwd");
    }
}
