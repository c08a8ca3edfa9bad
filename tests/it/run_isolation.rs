//! What of the host is within reach of RUN, and what is not?

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::site::in_tmp;
use crate::harness::{Server, Site, image, in_each_mode, wait_for};
use crate::{needs, skip};

/// The host's files there are safe, steps find what earlier ones left, and its mode can be set.
#[test]
fn tmp_is_the_images() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let host = in_tmp("ch-tmp");
        fs::write(&host, "results of a week\n").unwrap();
        let host = host.to_str().unwrap();
        let left = "FROM base\nRUN echo left >/tmp/left; test ! -e HOST && rm -rf HOST\n".replace("HOST", host);
        site.build("out", &left).success();
        site.build("out", &format!("{left}RUN cat /tmp/left; rm /tmp/*\nRUN ls -A /tmp\n")).stdout("left\n").success();
        assert_eq!(fs::read_to_string(host).unwrap(), "results of a week\n");
        for force in ["none", "seccomp", "notify"] {
            let text = "FROM base\nRUN chmod 1777 /tmp && touch /tmp/f /var/tmp/f && rm -rf /tmp/* /var/tmp/*\n";
            site.build("out", text).arg(format!("--force={force}")).success();
        }
        for force in ["none", "seccomp", "notify"] {
            let text = "FROM base\nRUN chown root:root /tmp && chmod ugo+rwXt /tmp\n";
            site.build("out", text).arg(format!("--force={force}")).success();
        }
        let look = format!("FROM base\nRUN cat {host}\n");
        site.build("out", &look).args(["--bind", "/tmp"]).stdout("results of a week\n").success();
        fs::remove_file(host).unwrap();
    });
}

/// There is one where the image has none, for RUN alone unless something is left in it.
#[test]
fn tmp_that_is_missing() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let text = "FROM base\nRUN rmdir /tmp\nRUN stat -c %a /tmp; rmdir /tmp; mkdir -p /a; ln -s /a/tmp /tmp\n\
                    RUN stat -L -c %a /tmp; echo x >/tmp/x\nRUN cat /a/tmp/x; stat -c %a /a/tmp\n";
        site.build("out", text).stdout("1777\n1777\nx\n1777\n").success();
    });
}

/// Looks for processes of ours (but its own first one), and at what leads out of the container by way of them.
const INTRUDER: &str = r#"found=
for p in /proc/[0-9]*; do
    test $p != /proc/1 || continue
    tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -q 'ch-imag[e]' || continue
    found=yes
    for file in environ mem maps; do head -c1 $p/$file >/dev/null 2>&1 && echo reads $p/$file; done
    for dir in root cwd; do ls $p/$dir/ >/dev/null 2>&1 && echo sees $p/$dir; done
    for fd in $p/fd/*; do readlink $fd >/dev/null && echo sees $fd; done
    for file in oom_score_adj coredump_filter comm; do (echo 5 >$p/$file) 2>/dev/null && echo writes $p/$file; done
done
echo found: $found
"#;

/// As inside Docker or Podman: then the kernel allows no /proc of RUN's own, and RUN sees ours.
#[test]
fn where_proc_is_partly_covered() {
    needs!("unshare");
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let run = format!("RUN <<'EOF'\n{INTRUDER}EOF\n");
        let text = format!("FROM base AS one\n{run}FROM base\nCOPY --from=one /etc/passwd /\n{run}");
        site.write("context/Dockerfile", &text);
        let build = |before: &str, options: &[&str]| {
            let words = ["build", "--rebuild", "-t", "out"];
            let script = format!("{before} && exec \"$0\" \"$@\"");
            let run = site.program("unshare").args(["-Urm", "sh", "-c", &script]).arg(site.path("bin/ch-image"));
            run.args(words).args(options).arg(site.path("context")).env("CH_IMAGE_STORAGE", site.storage())
        };
        // Its own shows nothing of ours.
        build("true", &[]).stdout("found:\nfound:\n").success();
        let cover = "mount --bind /dev/null /proc/version";
        build(cover, &[]).stdout("found: yes\nfound: yes\n").success();
        build(cover, &["--force=notify"]).stdout("found: yes\nfound: yes\n").success();
        build(cover, &["--jobs", "2"]).stdout("[one] found: yes\n[stage 1] found: yes\n").success();
    });
}

const SAYS: &str = "FROM base\nRUN echo one; echo two >/dev/stdout; echo three >/dev/stderr; \
                    sh -c 'echo four >>/proc/self/fd/1'; echo five >&2; (sleep 1000 &); echo six\n";
const SAID: &str = "one\ntwo\nthree\nfour\nfive\nsix\n";

/// Standard output and error are one file: what opens them again by name appends to it, in order.
#[test]
fn nothing_is_lost_in_a_log() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("context/Dockerfile", SAYS);
        for mode in ["none", "seccomp", "notify"] {
            let script = "exec \"$0\" build --rebuild --force=$1 -t out context >log 2>&1";
            let run = site.program("sh").args(["-c", script]).arg(site.path("bin/ch-image")).arg(mode);
            run.env("CH_IMAGE_STORAGE", site.storage()).success();
            let log = fs::read_to_string(site.path("log")).unwrap();
            let lines: Vec<&str> = log.lines().collect();
            assert!(lines.first() == Some(&"  1 FROM base") && lines.last() == Some(&"grown in 2 instructions: out"));
            assert_eq!(lines[2..lines.len() - 1].join("\n") + "\n", SAID, "{mode}: {log}");
        }
    });
}

/// A service manager's or batch system's socket can't be opened by name.
#[test]
fn output_into_a_socket() {
    let site = Site::new();
    site.import(image::small(), "base");
    site.write("context/Dockerfile", SAYS);
    let (ours, mut other) = UnixStream::pair().unwrap();
    let mut command = Command::new(site.path("bin/ch-image"));
    command.env_clear().env("PATH", "/usr/bin:/bin").args(["build", "-t", "out", "-s"]).arg(site.storage());
    command.arg(site.path("context")).stdin(Stdio::null()).stdout(OwnedFd::from(ours)).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut text = String::new();
    other.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    assert_eq!(text, "one\ntwo\nfour\nsix\n");
}

/// Whoever reads may be slow, or gone: then RUN waits, or goes on, and signals are heeded in any case.
#[test]
fn nobody_reads_the_output() {
    let site = Site::new();
    site.import(image::small(), "base");
    site.write("context/Dockerfile", "FROM base\nRUN touch /mnt/0/begun; yes\n");
    let begun = site.path("begun");
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(site.path("bin/ch-image")).env_clear().env("PATH", "/usr/bin:/bin");
    command.args(["build", "-t", "out", "-s"]).arg(site.storage()).arg(site.path("context"));
    command.arg("--bind").arg(format!("{}:/mnt/0", site.path("").display()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_for("RUN to begin", || begun.exists());
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));

    let text = "FROM base\nRUN for i in 1 2 3 4 5 6 7 8 9; do cat /bin/busybox; done\nRUN echo end >/end\n";
    site.write("context/Dockerfile", text);
    let script = "\"$0\" build -t out context | head -c1 >first; ch-run out -- cat /end";
    let path = format!("{}:/usr/bin:/bin", site.path("bin").display());
    let run = site.program("bash").args(["-c", script]).arg(site.path("bin/ch-image")).env("PATH", path);
    run.env("CH_IMAGE_STORAGE", site.storage()).stdout("end\n").success();
}

/// What belongs to the machine can't be written, whoever the caller is.
#[test]
fn files_of_the_host_are_read_only() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        // An ordinary user may not write them anyway.
        let look = "RUN grep -cE ' /(etc/hosts|sys) [^ ]+ ro' /proc/mounts; \
                    grep -E ' (/sys|/etc/(hosts|resolv.conf))[ /]' /proc/mounts | grep -v ' ro,' || true\n";
        site.build("out", &format!("FROM base\n{look}")).stdout("2\n").success();
    });
}

/// A default ACL of a directory above the storage directory has no say in the modes of what RUN makes.
#[test]
fn default_acls_are_not_inherited() {
    needs!("setfacl");
    in_each_mode(|site| {
        let acl = ["-d", "-m", "u::rwx,g::rwx,o::---"];
        site.program("setfacl").args(acl).arg(site.path("")).success();
        site.import(image::small(), "base");
        site.build("out", "FROM base\nRUN touch /f && mkdir /d && stat -c '%a %n' /f /d\n")
            .stdout("644 /f\n755 /d\n")
            .success();
        // Storage that has one of its own: of an earlier version.
        site.program("setfacl").arg("-R").args(acl).arg(site.storage().join("tmp")).success();
        site.build("out", "FROM base\nRUN touch /g && stat -c %a /g\n").stdout("644\n").success();
    });
}

/// A site's certificates reach programs in RUN, besides the public ones, and leave no trace.
#[test]
fn certificates_of_the_site() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let public = "RUN mkdir -p /etc/ssl/certs && printf public >/etc/ssl/certs/ca-certificates.crt\n";
        site.build("with", &format!("FROM base\n{public}")).success();
        let ca = site.write("site.pem", "site\n");
        let other = site.write("other.pem", "other\n");
        let look = "RUN cat $SSL_CERT_FILE; env | grep -E '_(CERT|FILE|BUNDLE|CAINFO|CERTS)=' | sort\n";
        let text = format!("FROM with\nENV PIP_CERT=/mine\n{look}");
        let head = "# Of the site where the image is built, for RUN only: not part of the image.";
        let want = format!("public\n{head}\nother\nsite\n")
            + "CURL_CA_BUNDLE=P\nGIT_SSL_CAINFO=P\nNODE_EXTRA_CA_CERTS=P\nPIP_CERT=/mine\n\
                    REQUESTS_CA_BUNDLE=P\nSSL_CERT_FILE=P\n";
        let run = site.build("out", &text).arg("--ca").arg(&ca).env("SSL_CERT_FILE", &other);
        run.stdout(&want.replace("=P", "=/ch/ca-certificates.crt")).success();
        site.build("out", &text).stderr_has("* RUN").stdout("").success();
        let seen = "env | grep CERT; ls /ch; cat /etc/ssl/certs/ca-certificates.crt";
        let seen = site.ch_run("out").args(["sh", "-c", seen]).success().stdout;
        assert!(!seen.contains("ca-certificates.crt") && !seen.contains("site") && seen.ends_with("public"), "{seen}");
    });
}

/// Bundles of four distributions: a file, a link to a file, and what is none.
const BUNDLES: &str = "FROM base
RUN mkdir -p /etc/ssl/certs /etc/pki/tls/certs /etc/pki/ca-trust/extracted/pem && cd /etc && echo one >ssl/certs/ca-certificates.crt \\
 && printf two >pki/ca-trust/extracted/pem/tls-ca-bundle.pem && ln -s /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem pki/tls/certs/ca-bundle.crt \\
 && ln -s certs/ca-certificates.crt ssl/cert.pem && mkdir ssl/ca-bundle.pem && chmod 444 ssl/certs/ca-certificates.crt && chmod 711 ssl
";
/// What each of them has besides the line before.
const SHOW: &str = "RUN cd /etc && grep -c CERTIFICATE ssl/certs/ca-certificates.crt pki/tls/certs/ca-bundle.crt ssl/cert.pem; \\
    stat -c '%a %n' ssl ssl/certs/ca-certificates.crt; ls ssl; ls /var/lib/ca-certificates 2>&1; true\n";

/// Programs that heed no variable find the site's certificates where the distribution has its own. Whatever a command
/// does with the files, the image is the same as without.
#[test]
fn bundles_of_the_distribution() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.build("with", BUNDLES).success();
        let ca = site.write("site.pem", "CERTIFICATE");
        let build = |text: &str, ca: Option<&Path>| {
            let run = site.build("out", &format!("FROM with\n{text}")).arg("--rebuild");
            ca.into_iter().fold(run, |run, ca| run.arg("--ca").arg(ca))
        };
        let want = |n: u32| {
            format!(
                "ssl/certs/ca-certificates.crt:{n}\npki/tls/certs/ca-bundle.crt:{n}\nssl/cert.pem:{n}\n711 ssl\n\
                 444 ssl/certs/ca-certificates.crt\nca-bundle.pem\ncert.pem\ncerts\n\
                 ls: /var/lib/ca-certificates: No such file or directory\n"
            )
        };
        build(SHOW, None).stdout(&want(0)).success();
        build(SHOW, Some(&ca)).stdout(&want(1)).success();
        // As update-ca-certificates, rpm and people do it.
        let changes = [
            "true",
            "echo new >new && mv -f new ssl/certs/ca-certificates.crt",
            "rm pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
            "echo new >ssl/certs/ca-certificates.crt",
            "echo mine >>ssl/certs/ca-certificates.crt",
            "sed -i s/one/eins/ ssl/certs/ca-certificates.crt",
            "chmod 600 ssl/certs/ca-certificates.crt && touch -d 2020-01-01 pki/tls/certs/ca-bundle.crt",
            "mkdir /copy && cp ssl/certs/ca-certificates.crt /copy/a && cp -a pki /copy/",
            "rm -r ssl && mkdir ssl",
        ];
        for (n, change) in changes.iter().enumerate() {
            let force = ["--force=none", "--force=notify"][n % 2];
            let text = format!("RUN cd /etc && {change}\n");
            let tree = |ca| {
                build(&text, ca).arg(force).success();
                let mut tree = site.tree("out");
                // What a command makes has the time of its making.
                let is_old = |path: &str| n == 0 && (path.starts_with("etc/ssl") || path.starts_with("etc/pki"));
                tree.0.iter_mut().filter(|(path, _)| !is_old(path)).for_each(|(_, entry)| entry.mtime = 0);
                tree
            };
            tree(Some(ca.as_path())).assert_same(&tree(None), change);
        }
        let text = format!("FROM with\n{SHOW}");
        site.build("out", &text).arg("--ca").arg(&ca).success();
        site.build("out", &text).stderr_has("* RUN").stdout("").success();
        // Nor is anything of it in what a failed step leaves.
        build("RUN false\n", Some(&ca)).failure();
        site.ch_run("out/_stage0").args(["grep", "-r", "CERTIFICATE", "/etc"]).stdout("").code(1);
    });
}

/// What --force=fakeroot installs comes from the network, too.
#[test]
fn fakeroot_is_fetched_with_the_certificates_of_the_site() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let apk = "#!/bin/sh\ncat $CURL_CA_BUNDLE /etc/ssl/cert.pem | grep -c CERTIFICATE >>/log\n\
                   printf '#!/bin/sh\\nexec \"$@\"\\n' >/bin/fakeroot; chmod 755 /bin/fakeroot\n";
        site.write("context/apk", apk);
        let text = "FROM base\nCOPY --chmod=755 apk /bin/\n\
                    RUN touch /etc/alpine-release; mkdir /etc/ssl; echo >/etc/ssl/cert.pem\n";
        site.build("alpine", text).success();
        let ca = site.write("site.pem", "CERTIFICATE\n");
        let text = "FROM alpine\nRUN apk add x; cat /log\n";
        site.build("out", text).args(["--force", "--ca"]).arg(ca).stdout("2\n2\n").success();
        site.ch_run("out").args(["cat", "/etc/ssl/cert.pem"]).stdout("\n").success();
    });
}

/// apt heeds no variable.
#[test]
fn apt_trusts_the_certificates_of_the_site() {
    needs!("openssl", "docker-registry");
    let Some(debian) = image::debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    let server = Server::start();
    in_each_mode(|site| {
        site.import(&debian, "debian");
        let fetch = format!(
            "RUN /usr/lib/apt/apt-helper -o APT::Sandbox::User=root download-file https://{}/v2/ /got && cat /got\n",
            server.address()
        );
        let text =
            format!("FROM debian\nRUN mkdir -p /etc/ssl/certs && touch /etc/ssl/certs/ca-certificates.crt\n{fetch}");
        site.build("out", &text).stderr_has("certificate").failure();
        site.build("out", &text).arg("--ca").arg(server.ca()).stdout_has("{}").success();
        site.ch_run("out")
            .args(["sh", "-c", "wc -c </etc/ssl/certs/ca-certificates.crt; cat /got"])
            .stdout("0\n{}")
            .success();
    });
}

/// What looks at files for RUN may have to wait for them for ever (a FUSE server that does not answer): we end all the same
/// when asked to. Here nothing waits, it is stopped.
#[test]
fn a_process_that_answers_calls_and_hangs() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write(
            "context/Dockerfile",
            "FROM base\nRUN touch /mnt/0/begun; while chown 5:6 /etc/passwd; do :; done\n",
        );
        for signal in ["INT", "KILL"] {
            let begun = site.path("begun");
            let run = site.heeding_signals().args(["build", "--force=notify", "-t", "out", "--bind"]);
            let run = run.arg(format!("{}:/mnt/0", site.path("").display())).arg(site.path("context"));
            let running = run.start();
            wait_for("RUN to begin", || begun.exists());
            fs::remove_file(&begun).unwrap();
            let id = running.child.id();
            let send = |signal: &str, pid: u32| {
                let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
                assert!(sent.unwrap().success());
            };
            let made = children(id);
            // Process 1 of RUN, and the process that answers its calls.
            assert_eq!(made.len(), 2, "{made:?}");
            made.iter().for_each(|&pid| send("STOP", pid));
            send(signal, id);
            let done = running.into_done(&[]);
            assert_eq!(done.status.code(), (signal == "INT").then_some(130), "{}", done.stderr);
            let gone = |pid: &u32| !Path::new("/proc").join(pid.to_string()).exists();
            wait_for("its processes to end", || made.iter().all(gone));
        }
        // And nobody holds a lock.
        site.build("out", "FROM base\nRUN true\n").success();
    });
}

/// The processes that a process has made.
fn children(of: u32) -> Vec<u32> {
    let numbers = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    numbers.filter(|pid| parent(pid) == Some(of)).collect()
}
