//! What does `--force=fakeroot` do to an image? A row for each family of distributions: how it is recognised, what makes
//! fakeroot(1) available in it, which commands are to run under it.
//!
//! Pure: the caller reads files, runs commands and says what it does (manual page, "Privilege model"). Deliberately
//! absent: anything for the other modes of root emulation, which need nothing in the image.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// For RUNs with the prefix. fakeroot tries every chown for real first and forgives EPERM; in a user namespace the kernel
/// says EINVAL for an ID that is not there.
pub const ENVIRONMENT: &[(&str, &str)] = &[("FAKEROOTDONTTRYCHOWN", "1")];

/// One family of distributions.
#[derive(Debug, PartialEq, Eq)]
pub struct Distribution {
    pub tag: &'static str,
    pub name: &'static str,
    /// Any of them will do.
    signs: &'static [Sign],
    /// In this order, before the first RUN that needs it.
    pub init: &'static [Init],
    /// Put before a RUN's words.
    pub prefix: &'static [&'static str],
    /// A RUN with one of these words needs the prefix.
    pub keywords: &'static [&'static str],
}

/// A step that makes an image ready: `command` is for `/bin/sh -c`, not needed if `check` succeeds.
#[derive(Debug, PartialEq, Eq)]
pub struct Init {
    pub check: &'static str,
    pub command: &'static str,
}

/// A file of the image, and what a line of it says.
#[derive(Debug, PartialEq, Eq)]
enum Sign {
    /// There is such a file.
    File(&'static str),
    /// `… release N…`, N at least and at most this.
    Release(&'static str, u32, u32),
    /// /etc/os-release: `ID` is this, or `ID_LIKE` has it among its words.
    Like(&'static str),
}

const FAKEROOT: &str = "command -v fakeroot > /dev/null";

pub const DISTRIBUTIONS: &[Distribution] = &[
    // Before its derivatives: Fedora has a /etc/redhat-release as well, with numbers of its own.
    Distribution {
        tag: "fedora",
        name: "Fedora 24+",
        signs: &[Sign::Release("/etc/fedora-release", 24, u32::MAX)],
        init: &[Init { check: FAKEROOT, command: "dnf install -y fakeroot" }],
        prefix: &["fakeroot"],
        keywords: &["dnf", "rpm", "yum"],
    },
    Distribution {
        tag: "rhel7",
        name: "CentOS/RHEL 7",
        signs: &[Sign::Release("/etc/redhat-release", 7, 7)],
        init: &[Init {
            check: FAKEROOT,
            command: "set -ex; \
                if ! grep -Eq '\\[epel\\]' /etc/yum.conf /etc/yum.repos.d/*; then \
                yum install -y https://dl.fedoraproject.org/pub/epel/epel-release-latest-7.noarch.rpm; \
                yum install -y fakeroot; \
                yum remove -y epel-release; \
                else yum install -y fakeroot; fi",
        }],
        prefix: &["fakeroot"],
        keywords: &["dnf", "rpm", "yum"],
    },
    Distribution {
        tag: "rhel8",
        name: "CentOS/RHEL 8",
        signs: &[Sign::Release("/etc/redhat-release", 8, 8)],
        init: &[Init {
            check: FAKEROOT,
            command: "set -ex; \
                if ! grep -Eq '\\[epel\\]' /etc/yum.conf /etc/yum.repos.d/*; then \
                dnf install -y https://dl.fedoraproject.org/pub/epel/epel-release-latest-8.noarch.rpm; \
                dnf install -y fakeroot; \
                dnf remove -y epel-release; \
                else dnf install -y fakeroot; fi",
        }],
        prefix: &["fakeroot"],
        keywords: &["dnf", "rpm", "yum"],
    },
    Distribution {
        tag: "rhel9",
        name: "CentOS/RHEL 9+",
        signs: &[Sign::Release("/etc/redhat-release", 9, 23)],
        init: &[Init {
            check: FAKEROOT,
            command: "set -ex; \
                if ! grep -Eq '\\[epel\\]' /etc/dnf/dnf.conf /etc/yum.repos.d/*; then \
                dnf install -y https://dl.fedoraproject.org/pub/epel/epel-release-latest-$(rpm -E %rhel).noarch.rpm; \
                dnf install -y fakeroot; \
                dnf remove -y epel-release; \
                else dnf install -y fakeroot; fi",
        }],
        prefix: &["fakeroot"],
        keywords: &["dnf", "microdnf", "rpm", "yum"],
    },
    Distribution {
        tag: "debderiv",
        name: "Debian or Ubuntu",
        signs: &[Sign::Like("debian"), Sign::Like("ubuntu"), Sign::File("/etc/debian_version")],
        init: &[
            Init {
                check: "apt-config dump | fgrep -q 'APT::Sandbox::User \"root\"' || ! fgrep -q _apt /etc/passwd",
                command: "echo 'APT::Sandbox::User \"root\";' > /etc/apt/apt.conf.d/no-sandbox",
            },
            // Not pseudo, which has the same command: that of Debian 12 aborts when dpkg renames.
            Init { check: FAKEROOT, command: "apt-get update && apt-get install -y fakeroot" },
        ],
        prefix: &["fakeroot"],
        keywords: &["apt", "apt-get", "aptitude", "dpkg"],
    },
    Distribution {
        tag: "suse",
        name: "SUSE",
        signs: &[Sign::Like("suse"), Sign::Like("opensuse"), Sign::Like("sles"), Sign::File("/etc/SuSE-release")],
        init: &[Init { check: FAKEROOT, command: "zypper --non-interactive install fakeroot" }],
        prefix: &["fakeroot"],
        keywords: &["rpm", "zypper"],
    },
    Distribution {
        tag: "arch",
        name: "Arch Linux",
        signs: &[Sign::Like("arch"), Sign::File("/etc/arch-release")],
        init: &[
            // Since version 7, pacman downloads as another user.
            Init {
                check: "! grep -q '^DownloadUser' /etc/pacman.conf",
                command: "sed -i 's/^DownloadUser/#&/' /etc/pacman.conf",
            },
            Init { check: FAKEROOT, command: "pacman -Sy --noconfirm fakeroot" },
        ],
        prefix: &["fakeroot"],
        keywords: &["pacman"],
    },
    Distribution {
        tag: "alpine",
        name: "Alpine",
        signs: &[Sign::Like("alpine"), Sign::File("/etc/alpine-release")],
        init: &[Init { check: FAKEROOT, command: "apk add --no-cache fakeroot" }],
        prefix: &["fakeroot"],
        keywords: &["apk"],
    },
];

/// The first row that fits. `read` returns a file of the image as text, if it is there.
pub fn detect(read: &dyn Fn(&str) -> Option<String>) -> Option<&'static Distribution> {
    DISTRIBUTIONS.iter().find(|distribution| distribution.signs.iter().any(|sign| sign.is_seen(read)))
}

/// Whether a RUN has a word for which some distribution needs the prefix.
pub fn installs_packages<S: AsRef<OsStr>>(argv: &[S]) -> bool {
    DISTRIBUTIONS.iter().any(|distribution| distribution.needs_injection(argv))
}

impl Sign {
    fn is_seen(&self, read: &dyn Fn(&str) -> Option<String>) -> bool {
        match self {
            Sign::File(path) => read(path).is_some(),
            Sign::Release(path, least, most) => read(path)
                .is_some_and(|text| text.lines().filter_map(release).any(|number| (*least..=*most).contains(&number))),
            // /usr/lib/os-release is what the other one links to.
            Sign::Like(name) => ["/etc/os-release", "/usr/lib/os-release"]
                .iter()
                .find_map(|path| read(path))
                .is_some_and(|text| text.lines().any(|line| is_like(line, name))),
        }
    }
}

/// The number after the word "release".
fn release(line: &str) -> Option<u32> {
    let after = line.split_once("release ")?.1;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn is_like(line: &str, name: &str) -> bool {
    let Some((key, value)) = line.split_once('=') else { return false };
    let value = value.trim().trim_matches(['"', '\'']);
    // openSUSE's are opensuse-leap, opensuse-tumbleweed, …
    let fits = |word: &str| word == name || word.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'));
    matches!(key, "ID" | "ID_LIKE") && value.split_whitespace().any(fits)
}

impl Distribution {
    /// Whether fakeroot is to be put in front of a RUN.
    pub fn needs_injection<S: AsRef<OsStr>>(&self, argv: &[S]) -> bool {
        has_word(argv, self.keywords)
    }
}

/// What asks the kernel for more than a user may, whatever the distribution.
const PRIVILEGED: &[&str] =
    &["addgroup", "adduser", "chgrp", "chown", "groupadd", "mknod", "setcap", "su", "sudo", "useradd", "usermod"];

/// Whether a RUN may have failed for want of privilege, although fakeroot is not for it.
pub fn seems_privileged<S: AsRef<OsStr>>(argv: &[S]) -> bool {
    has_word(argv, PRIVILEGED)
}

/// Whether a RUN makes a home directory with useradd(8), which ends with 0 although it can't give files to the new user,
/// and then leaves the first of them empty and the others out.
pub fn makes_home<S: AsRef<OsStr>>(argv: &[S]) -> bool {
    let mut in_useradd = false;
    for word in argv.iter().flat_map(|arg| arg.as_ref().as_bytes().split(|b| b.is_ascii_whitespace())) {
        let bare = word.strip_suffix(b";").unwrap_or(word);
        if bare == b"useradd" || bare.ends_with(b"/useradd") {
            in_useradd = true;
        } else if in_useradd && wants_home(bare) {
            return true;
        }
        if bare.len() < word.len() || matches!(word, b"&&" | b"||" | b"|" | b"&") {
            in_useradd = false;
        }
    }
    false
}

/// `-m`, also behind options that take no value.
fn wants_home(option: &[u8]) -> bool {
    let letters = option.strip_prefix(b"-").unwrap_or_default();
    option == b"--create-home" || letters.iter().find(|b| !b"lMNorU".contains(b)) == Some(&b'm')
}

/// Whether one of the words of a RUN, separated by blanks, is among these.
fn has_word<S: AsRef<OsStr>>(argv: &[S], words: &[&str]) -> bool {
    argv.iter()
        .flat_map(|arg| arg.as_ref().as_bytes().split(|b| b.is_ascii_whitespace()))
        .any(|word| words.iter().any(|wanted| wanted.as_bytes() == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileged_commands_are_recognised() {
        assert!(seems_privileged(&["/bin/sh", "-c", "mkdir x && chown 1:1 x"]));
        assert!(!seems_privileged(&["/bin/sh", "-c", "echo chowned >x"]));
    }

    #[test]
    fn commands_that_make_a_home_are_recognised() {
        let check = |text: &str, want: bool| assert_eq!(makes_home(&["/bin/sh", "-c", text]), want, "{text}");
        for text in [
            "useradd -m bob",
            "/usr/sbin/useradd bob -rm; id",
            "x && useradd -ms /bin/sh bob",
            "useradd --create-home b",
        ] {
            check(text, true);
        }
        for text in
            ["useradd bob", "useradd -M bob", "useradd -d/home/me bob", "useradd bob; ls -m", "useradd b && x -m"]
        {
            check(text, false);
        }
        for text in ["useradds -m", "groupadd -m", "-m useradd bob", ""] {
            check(text, false);
        }
    }

    #[test]
    fn distributions_are_recognised() {
        let check = |files: &[(&str, &str)], want: Option<&str>| {
            let read = |path: &str| files.iter().find(|(p, _)| *p == path).map(|(_, text)| text.to_string());
            assert_eq!(detect(&read).map(|distribution| distribution.tag), want, "{files:?}");
        };
        let redhat = |text| [("/etc/redhat-release", text)];
        let os = |text| [("/etc/os-release", text)];
        check(&redhat("CentOS Linux release 7.9.2009 (Core)\n"), Some("rhel7"));
        check(&redhat("Red Hat Enterprise Linux Server release 7.9 (Maipo)\n"), Some("rhel7"));
        check(&redhat("AlmaLinux release 8.10 (Cerulean Leopard)\n"), Some("rhel8"));
        check(&redhat("CentOS Stream release 8\n"), Some("rhel8"));
        check(&redhat("Rocky Linux release 9.4 (Blue Onyx)\n"), Some("rhel9"));
        check(&redhat("CentOS Stream release 10 (Coughlan)\n"), Some("rhel9"));
        check(&redhat("Scientific Linux release 6.10 (Carbon)\n"), None);
        check(&redhat("release\n"), None);
        let fedora = "Fedora release 40 (Forty)\n";
        check(&[("/etc/redhat-release", fedora), ("/etc/fedora-release", fedora)], Some("fedora"));
        check(&[("/etc/fedora-release", "Fedora release 86 (Later)"), redhat(fedora)[0]], Some("fedora"));
        check(&[("/etc/fedora-release", "Fedora release 23 (Twenty Three)")], None);
        check(&os("NAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=stretch\nID=debian\n"), Some("debderiv"));
        check(&os("ID=ubuntu\nID_LIKE=debian\n"), Some("debderiv"));
        check(&os("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"), Some("debderiv"));
        check(&[("/usr/lib/os-release", "ID=debian")], Some("debderiv"));
        check(&[("/etc/debian_version", "6.0.10\n")], Some("debderiv"));
        check(&os("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n"), Some("suse"));
        check(&os("ID=\"sles\"\nVERSION=15-SP5\n"), Some("suse"));
        check(&[("/etc/SuSE-release", "")], Some("suse"));
        check(&os("ID=arch\n"), Some("arch"));
        check(&os("ID='alpine'\nVERSION_ID=3.20.0\n"), Some("alpine"));
        check(&[("/etc/alpine-release", "3.9.6\n")], Some("alpine"));
        check(&os("ID=nixos\nBUG=debian\n# ID=debian\nID_LIKE=archaic\n"), None);
        check(&[], None);
    }

    #[test]
    fn words_that_need_it() {
        let debian = DISTRIBUTIONS.iter().find(|distribution| distribution.tag == "debderiv").unwrap();
        let check = |argv: &[&str], want: bool| assert_eq!(debian.needs_injection(argv), want, "{argv:?}");
        check(&["/bin/sh", "-c", "apt-get update && apt-get install -y x"], true);
        check(&["/bin/sh", "-c", "echo hi;\tapt\nupdate"], true);
        check(&["apt-get", "update"], true);
        check(&["/bin/sh", "-c", "echo apt-gets /usr/bin/apt-get;apt-get"], false);
        check(&["/bin/sh", "-c", "dnf install x"], false);
        assert!(installs_packages(&["dnf", "install"]) && !installs_packages(&["make", "install"]));
        check(&[], false);
    }

    #[test]
    fn nothing_is_left_out() {
        for distribution in DISTRIBUTIONS {
            assert_eq!(distribution.prefix, ["fakeroot"], "{}", distribution.tag);
            assert!(!distribution.init.is_empty() && !distribution.keywords.is_empty(), "{}", distribution.tag);
        }
    }
}
