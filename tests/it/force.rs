//! Root emulation: package managers work in each mode, on real packages; what they wanted of owners is kept.
//!
//! The tests on Debian take one storage directory each and go through the modes in it, since importing and `apt-get update` are
//! what takes the time. Packages come from a Debian mirror.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::harness::{Server, Site, image, in_each_mode};
use crate::{needs, skip};

/// Packages whose files belong to others than root, or have set-id bits.
const PACKAGES: &str = "openssh-client dbus man-db postfix";

/// A Debian with package lists.
fn debian() -> Option<Site> {
    let site = Site::new();
    site.import(&image::debian()?, "plain");
    let lists = "FROM plain\nENV DEBIAN_FRONTEND=noninteractive\nRUN apt-get -qq update\n";
    site.build("debian", lists).arg("--force=seccomp").success();
    Some(site)
}

/// No file in storage gives the user's rights to others.
fn no_set_id_bits(site: &Site) {
    let mut todo = vec![site.storage()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            assert!(meta.is_symlink() || meta.mode() & 0o6000 == 0, "{}: {:o}", path.display(), meta.mode());
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
}

#[test]
fn debian_packages_in_each_mode() {
    needs!("docker-registry", "openssl", "skopeo", "tar");
    let Some(site) = debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    let install = format!("RUN apt-get -qq install -y --no-install-recommends {PACKAGES}\n");
    fails_without_force(&site, &install);
    let files = [
        "/usr/bin/ssh-agent",
        "/usr/lib/dbus-1.0/dbus-daemon-launch-helper",
        "/var/cache/man",
        "/usr/sbin/postqueue",
        "/var/spool/postfix/public",
    ];
    let install_and_look = |mode: &str, want: &str| {
        let option = format!("--force={mode}");
        // No image has fakeroot or a changed apt because of that.
        let look = "RUN ssh -V && ! command -v fakeroot && test ! -e /etc/apt/apt.conf.d/no-sandbox\n";
        site.build(mode, &format!("FROM debian\n{install}{look}"))
            .arg(&option)
            .stderr_has(&format!("  2 RUN.{mode} ["))
            .success();
        let stat = format!("FROM {mode}\nRUN stat -c '%U:%G %a' {}\n", files.join(" "));
        site.build("look", &stat).arg(&option).stdout(want).success();
    };
    install_and_look("seccomp", "root:root 755\nroot:root 754\nroot:root 755\nroot:root 555\nroot:root 710\n");
    install_and_look(
        "notify",
        "root:_ssh 2755\nroot:messagebus 4754\nman:man 755\nroot:postdrop 2555\npostfix:postdrop 2710\n",
    );
    no_set_id_bits(&site);
    owners_are_pushed(&site);
    fakeroot_is_installed_where_it_is_needed(&site, &install);
}

fn fails_without_force(site: &Site, install: &str) {
    let dockerfile = format!("FROM debian\nRUN true\n{install}");
    let verbose = site.build("verbose", "FROM debian\n").arg("-v");
    verbose.stderr_has("available --force: debderiv: Debian or Ubuntu\n").success();
    let quiet = site.build("verbose", "FROM debian\n").success();
    assert!(!quiet.stderr.contains("--force"), "{}", quiet.stderr);
    site.build("none", &dockerfile)
        .stderr_has(
            "workarounds: init step 1: checking: $ apt-config dump | fgrep -q 'APT::Sandbox::User \"root\"' || \
             ! fgrep -q _apt /etc/passwd\n\
             workarounds: init step 1: no --force, skipping\n\
             workarounds: init step 2: checking: $ command -v fakeroot > /dev/null\n\
             workarounds: init step 2: no --force, skipping\n\
             workarounds: RUN: available here with --force\n",
        )
        .stderr_has("build failed: --force may fix it\n")
        .stderr_has("error: build failed: RUN command exited with 100\n")
        .stderr_has("hint: try --force=seccomp")
        .stderr_has("; or look inside the image as ")
        .failure();
    site.build("none", &dockerfile)
        .arg("--no-force-detect")
        .stderr_lacks("--force may fix it")
        .stderr_lacks("workarounds")
        .failure();
    site.build("none", &dockerfile)
        .args(["-v", "--no-force-detect"])
        .stderr_has("not detecting --force config, per --no-force-detect\n")
        .failure();
    site.build("none", &dockerfile).arg("--force=none").stderr_lacks("--force may fix it").failure();
}

/// The tar that a registry serves has the owners that were recorded; a plain push has root's.
fn owners_are_pushed(site: &Site) {
    let server = Server::start();
    // A few files only: to compress all of Debian takes a debug build too long.
    let few = "FROM notify AS full\nFROM scratch\n\
               COPY --from=full --parents /usr/lib/dbus-1.0/dbus-daemon-launch-helper /usr/bin/ssh-agent /var/cache/man \
                   /var/spool/postfix /usr/bin/apt-get /\n";
    site.build("few", few).arg("--force=notify").success();
    let numbers = |who: &str| {
        let script = format!("getent {who} | cut -d: -f3");
        let done = site.ch_run_with(&["--no-passwd"], "notify").args(["sh", "-c", &script]).success();
        done.stdout.trim().to_owned()
    };
    let helper = "usr/lib/dbus-1.0/dbus-daemon-launch-helper";
    let flat = served(site, &server, "few", &[]);
    assert!(flat(helper).starts_with("-rwxr-xr-- 0/0 "), "{}", flat(helper));
    assert!(flat("usr/bin/ssh-agent").starts_with("-rwxr-xr-x 0/0 "), "{}", flat("usr/bin/ssh-agent"));
    let owned = served(site, &server, "few", &["--ownership"]);
    let check = |path: &str, mode: &str, user: &str, group: &str| {
        let line = owned(path);
        assert!(line.starts_with(&format!("{mode} {user}/{group} ")), "{user}/{group}: {line}");
    };
    check(helper, "-rwsr-xr--", "0", &numbers("group messagebus"));
    check("usr/bin/ssh-agent", "-rwxr-sr-x", "0", &numbers("group _ssh"));
    check("var/cache/man/", "drwxr-xr-x", "6", "12");
    check("var/spool/postfix/public/", "drwx--s---", &numbers("passwd postfix"), &numbers("group postdrop"));
    check("usr/bin/apt-get", "-rwxr-xr-x", "0", "0");
}

/// Pushes an image; the line that `tar -tv` has for a path of its layer, as the registry serves it.
fn served(site: &Site, server: &Server, image: &str, options: &[&str]) -> impl Fn(&str) -> String + use<> {
    let tag = if options.is_empty() { "flat" } else { "owned" };
    let name = server.name(&format!("{image}:{tag}"));
    site.run("push").args(options).args([image, &name]).env("SSL_CERT_FILE", server.ca()).success();
    let dir = site.path(&format!("{image}-{tag}"));
    let (source, target) = (format!("docker://{name}"), format!("dir:{}", dir.display()));
    site.program("skopeo").args(["copy", "-q", "--src-tls-verify=false", &source, &target]).success();
    let manifest = fs::read_to_string(dir.join("manifest.json")).unwrap();
    let layer = manifest.split("sha256:").nth(2).unwrap()[..64].to_owned();
    let list = site.program("tar").args(["--numeric-owner", "-tvzf"]).arg(dir.join(layer)).success().stdout;
    move |path| {
        let end = format!(" ./{path}");
        let line = list.lines().find(|l| l.split(" -> ").next().unwrap().ends_with(&end));
        line.unwrap_or_else(|| panic!("no {path} in the layer")).to_owned()
    }
}

fn fakeroot_is_installed_where_it_is_needed(site: &Site, install: &str) {
    let dockerfile = format!("FROM debian\nRUN true\n{install}RUN command -v fakeroot\n");
    let build = || site.build("fakeroot", &dockerfile).arg("--force");
    let modified = "--force: init OK & modified 1 RUN instructions\n";
    build()
        .stderr_has("will use --force: debderiv: Debian or Ubuntu\n")
        .stderr_has(
            "workarounds: init step 1: $ echo 'APT::Sandbox::User \"root\";' > /etc/apt/apt.conf.d/no-sandbox\n",
        )
        .stderr_has("workarounds: init step 2: $ apt-get update && apt-get install -y fakeroot\n")
        .stderr_has("workarounds: RUN: new command: ['fakeroot', '/bin/sh', '-c', 'apt-get -qq install ")
        .stderr_has("  3 RUN.fakeroot ['/bin/sh', '-c', 'apt-get -qq install ")
        .stderr_has(modified)
        .stdout_has("/usr/bin/fakeroot\n")
        .success();
    build().stderr_has("workarounds: init step 2: using existing layer\n").stderr_has(modified).success();
    site.build("again", "FROM fakeroot\nRUN apt-get --version >/dev/null\n")
        .arg("--force")
        .stderr_has("workarounds: init step 1: exit code 0, step not needed\n")
        .stderr_has("workarounds: init step 2: exit code 0, step not needed\n")
        .success();
    site.build("nothing", "FROM debian\nRUN true\n")
        .arg("--force")
        .stderr_has("warning: --force specified, but nothing to do\n")
        .success();
}

#[test]
fn options_that_exclude_each_other() {
    let site = Site::new();
    site.build("x", "FROM scratch\n")
        .args(["--force", "--no-force-detect"])
        .stderr_has("error: --force and --no-force-detect are incompatible\n")
        .usage();
}

const REFUSED: &str = "warning: RUN: files could not be given to another user or group (chown), though the command succeeded: \
                       use --force=seccomp or --force=notify\n";

/// useradd(8) ends with 0 when it can't give the files of a new home to their user, and so do others.
#[test]
fn refused_chown_is_told() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let dockerfile = |command: &str| format!("FROM base\nRUN touch /f; {command}\n");
        let quiet = "chown 5:6 /f 2>/dev/null || true; chown 7 /f || :";
        let done = site.build("out", &dockerfile(quiet)).success();
        assert_eq!(done.stderr.matches(REFUSED).count(), 1, "{}", done.stderr);
        // From the build cache.
        site.build("out", &dockerfile(quiet)).stderr_lacks(REFUSED).success();
        site.build("out", &dockerfile("chown 0:0 /f; chgrp 0 /f; useradd() { :; }; useradd -m bob"))
            .stderr_lacks("warning")
            .success();
        site.build("out", &dockerfile("chown 5 /f")).stderr_lacks(REFUSED).failure();
        for option in ["--force=seccomp", "--force=notify", "--force=none", "--no-force-detect"] {
            site.build("out", &dockerfile(quiet)).args(["--no-cache", option]).stderr_lacks(REFUSED).success();
        }
    });
}

/// Debian's own: half a home, exit code 0.
#[test]
fn incomplete_homes_are_told() {
    let Some(debian) = image::debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    let site = Site::new();
    site.import(&debian, "debian");
    let text = "FROM debian\nRUN useradd -m bob && ls -A /home/bob | wc -l\n";
    site.build("out", text).stderr_has(REFUSED).success();
    site.build("out", text).arg("--force=seccomp").stderr_lacks("warning").stdout("3\n").success();
}

/// The outer build watches for chown, and makes way for an inner one that records.
#[test]
fn a_build_in_a_build_records() {
    needs!("busybox");
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let inner = "FROM scratch\nCOPY busybox sh /bin/\nRUN [\"busybox\", \"chown\", \"5\", \"/bin/sh\"]\n\
                     RUN [\"busybox\", \"stat\", \"-c\", \"owner %u\", \"/bin/sh\"]\n";
        site.write("context/inner/Dockerfile", inner);
        for name in ["busybox", "sh"] {
            fs::copy("/bin/busybox", site.path("context/inner").join(name)).unwrap();
        }
        let program = fs::canonicalize(site.path("bin/ch-image")).unwrap();
        for library in image::libraries(&program) {
            let to = site.path("context/root").join(library.strip_prefix("/").unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(library, to).unwrap();
        }
        fs::create_dir_all(site.path("context/root")).unwrap();
        fs::copy(program, site.path("context/root/ch-image")).unwrap();
        let text = "FROM base\nCOPY root /\n\
                    RUN --mount=type=tmpfs,target=/s --mount=type=bind,source=inner,target=/inner \\\n\
                    chown 7 /ch-image; /ch-image -s /s/s build --force=notify -t x /inner\n";
        site.build("out", text).stdout_has("owner 5\n").stderr_has(REFUSED).stderr_lacks("another one").success();
    });
}

/// Amazon's, say: --force=seccomp asks for no table of distributions.
#[test]
fn distributions_that_are_not_known_have_a_way_out() {
    needs!("busybox");
    let site = Site::new();
    site.import(image::small(), "base");
    let hint = "hint: try --force=seccomp; or look inside the image as ";
    let packages = "FROM base\nRUN echo yum && false\n";
    site.build("x", packages).stderr_has("build failed: --force=seccomp may fix it\n").stderr_has(hint).failure();
    site.build("x", packages).arg("--no-force-detect").stderr_lacks("--force=seccomp").failure();
    site.build("x", packages).arg("--force=none").stderr_lacks("--force=seccomp").failure();
    site.build("x", "FROM base\nRUN echo make && false\n").stderr_lacks("--force=seccomp").failure();
}

/// RPM and dnf in a tree that says it is Red Hat's, packages from a local repository; then the usual tools.
#[test]
fn rpm_packages_and_tools_in_each_mode() {
    let Some(site) = debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    for name in ["base", "thing", "fakeroot"] {
        let text = fs::read_to_string(data(&format!("{name}.spec"))).unwrap();
        site.write(&format!("context/{name}.spec"), &text);
    }
    site.build(
        "redhat",
        "FROM debian\n\
         RUN apt-get -qq install -y --no-install-recommends rpm dnf createrepo-c fakeroot rsync libcap2-bin sudo\n\
         COPY *.spec /\n\
         RUN for s in base thing fakeroot; do rpmbuild -bb --quiet --define '_rpmdir /repo' /$s.spec || exit; done; \
             createrepo_c -q /repo && rpm -i /repo/noarch/base-1-1.noarch.rpm\n\
         RUN rm /usr/bin/fakeroot && echo 'Rocky Linux release 9.4 (Blue Onyx)' >/etc/redhat-release && \
             mkdir -p /etc/yum.repos.d && \
             printf '[epel]\\nname=local\\nbaseurl=file:///repo\\ngpgcheck=0\\n' >/etc/yum.repos.d/epel.repo\n",
    )
    .arg("--force=seccomp")
    .success();
    let install = "FROM redhat\nRUN dnf install -q -y thing\n";
    site.build("none", install)
        .arg("-v")
        .stderr_has("available --force: rhel9: CentOS/RHEL 9+\n")
        .stderr_has("build failed: --force may fix it\n")
        .failure();
    let stat = "stat -c '%n %U:%G %a' /usr/bin/thing /usr/bin/helper /usr/bin/link /var/lib/thing";
    let again = "dnf remove -q -y thing && rpm -i /repo/noarch/thing-1-1.noarch.rpm && rpm -q thing";
    let dockerfile = format!("{install}RUN {stat}\nRUN {again}\n");
    site.build("fakeroot", &dockerfile)
        .arg("--force")
        .stderr_has("will use --force: rhel9: CentOS/RHEL 9+\n")
        .stderr_has("workarounds: RUN: new command: ['fakeroot', '/bin/sh', '-c', 'dnf install ")
        .stderr_has("--force: init OK & modified 2 RUN instructions\n")
        .success();
    site.build("seccomp", &dockerfile).arg("--force=seccomp").stdout_has("thing-1-1.noarch\n").success();
    // rpm's own verification is content with what it sees.
    site.build("notify", &format!("{dockerfile}RUN rpm -V thing && {stat}\n"))
        .arg("--force=notify")
        .stdout_has(
            "/usr/bin/thing root:thing 4750\n/usr/bin/helper daemon:games 755\n\
             /usr/bin/link thing:thing 777\n/var/lib/thing thing:thing 700\n",
        )
        .success();
    // Nobody recorded these.
    let plain = "/usr/bin/thing root:root 750\n/usr/bin/helper root:root 755\n";
    site.build("bits", &format!("FROM seccomp\nRUN {stat}\n")).stdout_has(plain).success();
    no_set_id_bits(&site);
    tools_work(&site);
}

/// Files that tests bring along.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/force").join(name)
}

/// What installation scripts use. The script stops at the first failure.
fn tools_work(site: &Site) {
    let script = fs::read_to_string(data("tools.sh")).unwrap();
    let recorded = fs::read_to_string(data("tools.txt")).unwrap();
    site.write("context/tools.sh", &script);
    let dockerfile = "FROM redhat\nCOPY tools.sh /\nRUN sh /tools.sh\n";
    // With a word that says packages are installed.
    let for_fakeroot = "FROM redhat\nCOPY tools.sh /\nRUN sh /tools.sh rpm\n";
    site.build("tools", dockerfile).failure();
    site.build("tools", for_fakeroot).arg("--force").stdout_has("done\n").success();
    site.build("tools", dockerfile).arg("--force=seccomp").stdout_has("done\n").success();
    let done = site.build("tools", dockerfile).arg("--force=notify").success();
    assert_eq!(done.stdout, recorded);
    no_set_id_bits(site);
}

/// In either storage mode, from recording to the tar.
#[test]
fn copy_takes_owners_along() {
    needs!("docker-registry", "openssl", "skopeo", "tar", "busybox");
    let server = Server::start();
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("context/other", "other\n");
        let stat = "stat -c '%n %u:%g %a %F'";
        let dockerfile = format!(
            "FROM base AS first\n\
             RUN mkdir -p /d/e && echo x >/d/f && ln /d/f /d/hard && ln -s f /d/l && mknod /d/null c 1 3 && \
                 chown 5:6 /d && chown -h 9:9 /d/l && chown 7:8 /d/f && chmod 4755 /d/f && chown 3 /d/e\n\
             FROM base\n\
             COPY --from=first /d /copy/\n\
             COPY --from=first /d/f /d/e /single/\n\
             COPY --from=first --chmod=711 /d/f /chmod\n\
             COPY --from=first --parents /d/f /parents/\n\
             RUN {stat} /copy /copy/* /single/f /single /chmod /parents/d /parents/d/f\n\
             COPY other /copy/f\n\
             RUN mv /copy/l /copy/m && rm -r /copy/e && mkdir /copy/e && {stat} /copy/*\n"
        );
        site.build("made", &dockerfile)
            .arg("--force=notify")
            .stdout(
                "/copy 0:0 755 directory\n/copy/e 3:0 755 directory\n/copy/f 7:8 4755 regular file\n\
                 /copy/hard 7:8 4755 regular file\n/copy/l 9:9 777 symbolic link\n\
                 /copy/null 0:0 644 character special file\n/single/f 7:8 4755 regular file\n\
                 /single 0:0 755 directory\n/chmod 7:8 711 regular file\n/parents/d 5:6 755 directory\n\
                 /parents/d/f 7:8 4755 regular file\n\
                 /copy/e 0:0 755 directory\n/copy/f 0:0 644 regular file\n/copy/hard 7:8 4755 regular file\n\
                 /copy/m 9:9 777 symbolic link\n/copy/null 0:0 644 character special file\n",
            )
            .success();
        // A step that records nothing still knows what was moved, replaced and removed.
        site.build(
            "later",
            "FROM made\nRUN mv /copy/hard /moved && rm /chmod && echo new >/chmod && chmod 4755 /chmod\n",
        )
        .success();
        no_set_id_bits(site);
        let line = served(site, &server, "later", &["--ownership"]);
        let check = |path: &str, want: &str| assert!(line(path).starts_with(want), "{}", line(path));
        check("moved", "-rwsr-xr-x 7/8 ");
        check("chmod", "-rwxr-xr-x 0/0 ");
        check("copy/f", "-rw-r--r-- 0/0 ");
        check("copy/m", "lrwxrwxrwx 9/9 ");
        check("copy/null", "crw-r--r-- 0/0 ");
        check("parents/d/", "drwxr-xr-x 5/6 ");
    });
}

#[test]
fn the_mode_is_part_of_the_cache_key() {
    needs!("busybox");
    let site = Site::new();
    site.import(image::small(), "base");
    let dockerfile = "FROM base\nRUN touch /f && (chown 5 /f 2>/dev/null; stat -c %u /f)\n";
    for (option, shown) in [("--force=seccomp", "0\n"), ("--force=notify", "5\n"), ("--force=none", "0\n")] {
        site.build("made", dockerfile).arg(option).stdout(shown).success();
        site.build("made", dockerfile).arg(option).stdout("").success();
    }
}

/// Where calls can't be recorded the build says why, and does with less.
#[test]
fn without_a_listener_calls_are_pretended() {
    needs!("cc", "busybox");
    let site = Site::new();
    site.import(image::small(), "base");
    let program = site.path("bin/deny");
    site.program("cc").arg("-o").arg(&program).arg(data("deny.c")).success();
    let dockerfile = "FROM base\nRUN touch /f && chown 5 /f && stat -c %u /f\n";
    let build = |how: &str| {
        site.write("context/Dockerfile", dockerfile);
        site.program("deny")
            .args([how, site.path("bin/ch-image").to_str().unwrap(), "build", "--no-cache", "-t", "made"])
            .arg("--force=notify")
            .arg(site.path("context"))
            .env("CH_IMAGE_STORAGE", site.storage())
    };
    build("listener")
        .stderr_has(
            "warning: --force=notify: another one supervises this process already (a build in a build?): \
             using --force=seccomp, which records no owners\n",
        )
        .stderr_has("  2 RUN.seccomp [")
        .stdout("0\n")
        .success();
    build("sizes")
        .stderr_has(
            "warning: --force=notify: this kernel can't notify of system calls (Linux 5.6): using --force=seccomp",
        )
        .stderr_has("  2 RUN.seccomp [")
        .stdout("0\n")
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
    let rhel10 = "Red Hat Enterprise Linux release 10.0 (Coughlan)\n";
    check("/etc/redhat-release", rhel10, "dnf", "rhel9", "dnf install -y fakeroot\ndnf remove -y epel-release");
    check("/etc/debian_version", "8.11\n", "apt-get", "debderiv", "apt-get update\napt-get install -y fakeroot");
    let ubuntu = "NAME=Ubuntu\nID=ubuntu\nVERSION_ID=\"14.04\"\n";
    check("/etc/os-release", ubuntu, "apt-get", "debderiv", "apt-get update\napt-get install -y fakeroot");
    check("/etc/alpine-release", "3.20.1\n", "apk", "alpine", "apk add --no-cache fakeroot");
    check("/etc/arch-release", "\n", "pacman", "arch", "pacman -Sy --noconfirm fakeroot");
    let leap = "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n";
    check("/etc/os-release", leap, "zypper", "suse", "zypper --non-interactive install fakeroot");
}

#[test]
fn the_environment_sets_the_mode() {
    let site = Site::new();
    site.import(image::small(), "small");
    let build =
        |mode: &str| site.build("owned", "FROM small\nRUN touch /x && chown 7:7 /x\n").env("CH_IMAGE_FORCE", mode);
    build("seccomp").stderr_has("  2 RUN.seccomp [").success();
    // The command line wins, and nothing is no mode.
    build("seccomp").arg("--force=none").stderr_has("  2 RUN [").failure();
    build("seccomp").arg("--no-force-detect").stderr_has("  2 RUN [").failure();
    build("").stderr_has("  2 RUN [").failure();
    let hint = "hint: modes: fakeroot (default), seccomp, notify, none\n";
    build("all").stderr(&format!("error: CH_IMAGE_FORCE: unknown mode \"all\"\n{hint}")).usage();
}
