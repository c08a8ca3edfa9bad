//! What still works where user namespaces are forbidden, and does the rest say which setting is in the way?
//!
//! The prison is a user namespace of its own in which `user.max_user_namespaces` is 0 and no capability is left: there
//! `unshare(CLONE_NEWUSER)` fails as it does where an administrator has set that limit.

use crate::harness::{Mode, Run, Server, Site, image, in_each_mode};
use crate::{needs, skip};

/// Puts a run into the prison.
fn jailed(site: &Site, words: &[&str]) -> Run {
    let script = "echo 0 >/proc/sys/user/max_user_namespaces && \
                  exec setpriv --inh-caps=-all --bounding-set=-all --no-new-privs -- \"$0\" \"$@\"";
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", site.path("bin").display());
    let run = site.program("unshare").args(["-Ur", "sh", "-c", script]).args(words);
    run.env("CH_IMAGE_STORAGE", site.storage()).env("PATH", path)
}

#[test]
fn without_user_namespaces() {
    needs!("docker-registry", "openssl", "unshare", "setpriv");
    let site = Site::new();
    if jailed(&site, &["true"]).finish().status.code() != Some(0) {
        skip!("the prison can't be built here");
    }
    assert_ne!(jailed(&site, &["unshare", "-U", "true"]).finish().status.code(), Some(0), "the prison is open");
    in_each_mode(|site| {
        let server = Server::start();
        site.import(image::small(), "base");
        let name = server.name("base:1");
        site.run("push").args(["base", &name]).env("SSL_CERT_FILE", server.ca()).success();
        site.run("delete").arg("base").success();

        let jailed = |words: &[&str]| jailed(site, words).env("SSL_CERT_FILE", server.ca());
        jailed(&["ch-image", "pull", &name]).stderr_has("done\n").success();
        jailed(&["ch-image", "list"]).stdout_has(&name).success();
        let dir = site.path("dir");
        let dir = dir.to_str().unwrap();
        jailed(&["ch-image", "pull", &name, dir]).success();
        jailed(&["ch-image", "push", "--image", dir, &server.name("from-dir:1")]).stderr_has("done\n").success();
        if site.mode() == Mode::Plain {
            jailed(&["ch-image", "push", &name, &server.name("again:1")]).stderr_has("done\n").success();
        }
        let context = site.write("context/Dockerfile", &format!("FROM {name}\nRUN true\n"));
        let context = context.parent().unwrap().to_str().unwrap();
        jailed(&["ch-image", "build", "-t", "out", context]).stderr_has("user.max_user_namespaces").failure();
        jailed(&["ch-run", &name, "--", "true"]).stderr_has("user.max_user_namespaces").ch_run_failure();
        assert_eq!(site.images(), [name.as_str()]);
        jailed(&["ch-image", "delete", &name]).success();
    });
}
