//! Root emulation: package managers work in each mode, on real packages; what they wanted of owners is kept.

use std::fs;

use crate::harness::{Server, Site, image};
use crate::{needs, skip};

/// Packages whose files belong to others than root, or have set-id bits.
const PACKAGES: &str = "openssh-client dbus";
const APT: &str = "ENV DEBIAN_FRONTEND=noninteractive\nRUN apt-get -qq update\n";

fn installs() -> String {
    format!("FROM debian\n{APT}RUN apt-get -qq install -y --no-install-recommends {PACKAGES}\n")
}

#[test]
fn apt_fails_without_force_and_says_what_would_help() {
    let Some(debian) = image::debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    let site = Site::new();
    site.import(&debian, "debian");
    site.build("plain", &installs())
        .stderr_has("build failed: --force may fix it\n")
        .stderr_has("error: build failed: RUN command exited with 100\n")
        .stderr_has("hint: try --force=seccomp")
        .failure();
    site.build("plain", &installs()).arg("--no-force-detect").stderr_lacks("--force may fix it").failure();
    let both = site.build("plain", &installs()).args(["--force", "--no-force-detect"]);
    both.stderr_has("error: --force and --no-force-detect are incompatible\n").usage();
}

#[test]
fn apt_installs_packages_with_foreign_owners() {
    needs!("docker-registry", "openssl", "skopeo", "tar");
    let Some(debian) = image::debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    let site = &Site::new();
    site.import(&debian, "debian");
    let look = format!("{}RUN stat -c '%n %U:%G %a' /usr/bin/ssh-agent && ssh -V\n", installs());
    site.build("seccomp", &look)
        .arg("--force=seccomp")
        .stderr_has(" RUN.seccomp [")
        .stdout_has("/usr/bin/ssh-agent root:root 755\n")
        .success();
    site.build("notify", &look)
        .arg("--force=notify")
        .stderr_has(" RUN.notify [")
        .stdout_has("/usr/bin/ssh-agent root:_ssh 2755\n")
        .success();
    // No image has fakeroot or a changed apt because of that.
    for name in ["seccomp", "notify"] {
        let tree = site.tree(name);
        assert!(!tree.0.contains_key("usr/bin/fakeroot") && !tree.0.contains_key("etc/apt/apt.conf.d/no-sandbox"));
    }
    owners_are_pushed(site);
}

/// The tar that a registry serves has the owners that were recorded; a plain push has root's.
fn owners_are_pushed(site: &Site) {
    let server = Server::start();
    let helper = "usr/lib/dbus-1.0/dbus-daemon-launch-helper";
    let listing = |options: &[&str], name: &str| {
        let name = server.name(name);
        site.run("push").args(options).args(["notify", &name]).env("SSL_CERT_FILE", server.ca()).success();
        let dir = site.path(if options.is_empty() { "flat" } else { "owned" });
        let (source, target) = (format!("docker://{name}"), format!("dir:{}", dir.display()));
        site.program("skopeo").args(["copy", "-q", "--src-tls-verify=false", &source, &target]).success();
        let manifest = fs::read_to_string(dir.join("manifest.json")).unwrap();
        let layer = manifest.split("sha256:").nth(2).unwrap()[..64].to_owned();
        let list = site.program("tar").args(["--numeric-owner", "-tvzf"]).arg(dir.join(layer)).success().stdout;
        let line = |path: &str| list.lines().find(|l| l.ends_with(&format!(" ./{path}"))).unwrap().to_owned();
        (line(helper), line("usr/bin/ssh-agent"))
    };
    let (plain_helper, plain_agent) = listing(&[], "flat:1");
    assert!(plain_helper.starts_with("-rwxr-xr-- 0/0 "), "{plain_helper}");
    assert!(plain_agent.starts_with("-rwxr-xr-x 0/0 "), "{plain_agent}");
    let (helper, agent) = listing(&["--ownership"], "owned:1");
    assert!(helper.starts_with("-rwsr-xr-- 0/1"), "{helper}");
    assert!(agent.starts_with("-rwxr-sr-x 0/1"), "{agent}");
}

#[test]
fn fakeroot_is_installed_where_it_is_needed() {
    let Some(debian) = image::debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    let site = Site::new();
    site.import(&debian, "debian");
    let dockerfile = format!("{}RUN command -v fakeroot\n", installs());
    site.build("fakeroot", &dockerfile)
        .arg("--force")
        .stderr_has("will use --force: debderiv: ")
        .stderr_has("workarounds: init step 1: checking: $ ")
        .stderr_has("workarounds: RUN: new command: ['fakeroot', '/bin/sh', '-c', ")
        .stderr_has("--force: init OK & modified 2 RUN instructions\n")
        .stdout_has("/usr/bin/fakeroot\n")
        .success();
    site.build("nothing", "FROM debian\nRUN true\n")
        .arg("--force")
        .stderr_has("warning: --force specified, but nothing to do\n")
        .success();
}

/// Distributions that can't be had here: a package manager that writes down how it was called.
#[test]
fn other_distributions_get_fakeroot_their_own_way() {
    let manager = "#!/bin/sh\necho \"${0##*/} $*\" >>/log\ncase \"$*\" in *fakeroot*)\n\
        printf '#!/bin/sh\\necho fakeroot \"$1\" >>/log\\nexec \"$@\"\\n' >/bin/fakeroot; chmod 755 /bin/fakeroot;;\nesac\n";
    let check = |sign: &str, text: &str, program: &str, tag: &str, installed_by: &str| {
        let site = Site::new();
        site.import(image::small(), "base");
        site.write("context/manager", manager);
        site.write("context/sign", text);
        site.build("distribution", &format!("FROM base\nCOPY sign {sign}\nCOPY --chmod=755 manager /bin/{program}\n"))
            .success();
        site.build("made", &format!("FROM distribution\nRUN {program} install thing\nRUN cat /log\n"))
            .arg("--force")
            .stderr_has(&format!("will use --force: {tag}: "))
            .stdout_has(&format!("{installed_by}\n"))
            .stdout_has(&format!("fakeroot /bin/sh\n{program} install thing\n"))
            .success();
    };
    check("/etc/fedora-release", "Fedora release 40 (Forty)\n", "dnf", "fedora", "dnf install -y fakeroot");
    let rhel7 = "CentOS Linux release 7.9.2009 (Core)\n";
    check("/etc/redhat-release", rhel7, "yum", "rhel7", "yum install -y fakeroot\nyum remove -y epel-release");
    let rhel8 = "Rocky Linux release 8.9 (Green Obsidian)\n";
    check("/etc/redhat-release", rhel8, "dnf", "rhel8", "dnf install -y fakeroot\ndnf remove -y epel-release");
    let rhel9 = "AlmaLinux release 9.4 (Seafoam Ocelot)\n";
    check("/etc/redhat-release", rhel9, "dnf", "rhel9", "dnf install -y fakeroot\ndnf remove -y epel-release");
    check("/etc/alpine-release", "3.20.1\n", "apk", "alpine", "apk add --no-cache fakeroot");
    check("/etc/arch-release", "\n", "pacman", "arch", "pacman -Sy --noconfirm fakeroot");
    let leap = "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n";
    check("/etc/os-release", leap, "zypper", "suse", "zypper --non-interactive install fakeroot");
}
