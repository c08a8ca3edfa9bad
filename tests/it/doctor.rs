//! One page about this machine: true, complete, and the same for people and programs.

use serde_json::Value;

use crate::harness::{Site, image};
use crate::needs;

fn findings(json: &str) -> Vec<(String, String)> {
    let list: Value = serde_json::from_str(json).unwrap();
    let text = |f: &Value, key: &str| f[key].as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(|f| (text(f, "about"), text(f, "state"))).collect()
}

#[test]
fn one_page() {
    let site = Site::new();
    site.import(image::small(), "base");
    let page = site.run("doctor").finish();
    let found = findings(&site.run("doctor").arg("--json").finish().stdout);
    let about: Vec<&str> = found.iter().map(|(about, _)| about.as_str()).collect();
    let expected = [
        "kernel",
        "user namespaces",
        "root emulation",
        "/dev/fuse",
        "limits",
        "devices",
        "storage directory",
        "file system",
        "overlayfs",
        "file attributes",
        "locks",
        "proxies",
        "certificates",
        "passwords",
        "settings",
    ];
    assert_eq!(about, expected);
    for (about, state) in &found {
        assert!(page.stdout.contains(&format!("{state:8} {about}: ")), "{about}: {}", page.stdout);
    }
    assert!(page.stdout.contains("storage has 1 images"), "{}", page.stdout);
    let bad = found.iter().any(|(_, state)| state == "bad");
    assert_eq!(page.status.code(), Some(i32::from(bad)), "{}", page.stdout);
    // Nothing is left behind, and nothing is made where nothing was.
    let place = site.path("nothing/here");
    site.run("doctor").env("CH_IMAGE_STORAGE", &place).stdout_has("does not exist yet").finish();
    assert!(!site.path("nothing").exists());
    assert_eq!(std::fs::read_dir(site.path("")).unwrap().count(), 3, "bin, home, storage");
}

/// What hinders is named, with what follows; no password is shown.
#[test]
fn hindrances_are_named() {
    needs!("sh");
    let site = Site::new();
    let sh = |script: &str| {
        let run = site.program("sh").args(["-c", script]).env("CH", site.path("bin/ch-image"));
        run.env("CH_IMAGE_STORAGE", site.storage())
    };
    sh("ulimit -n 99; $CH doctor").stdout_has("limited  limits: 99 open files\n         so: ").finish();
    let proxied = sh("$CH doctor").env("https_proxy", "http://me:secret@proxy.example:3128");
    let done = proxied.stdout_has("https by way of proxy.example:3128").finish();
    assert!(!done.stdout.contains("secret"), "{}", done.stdout);
    let wrong = sh("$CH doctor").env("https_proxy", "gopher://proxy.example");
    wrong.stdout_has("bad      proxies: ").failure();
    let none = sh("$CH doctor").env("SSL_CERT_FILE", "/dev/null");
    none.stdout_has("bad      certificates: ").stderr_has("hint: ").failure();
    let foreign = sh("$CH doctor -s /etc");
    foreign.stdout_has("bad      storage directory: ").failure();
    let nobody = sh("unset CH_IMAGE_STORAGE; USER=a/b $CH doctor");
    nobody
        .stdout_has(
            "bad      storage directory: $USER is not a user name: \"a/b\"\n         so: name a storage directory",
        )
        .failure();
    let login = site.write("home/.docker/config.json", "{}");
    std::fs::set_permissions(&login, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    sh("$CH doctor").stdout_has("limited  passwords: others may read ").finish();
}
