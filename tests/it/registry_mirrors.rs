//! Mirrors: asked first, trusted with nothing, no loss where they fail.

use crate::harness::registry::{Guard, How, Registry, Reply, ranged, sha256};
use crate::harness::{Run, Site, hold};

fn arch() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

fn layer() -> Vec<u8> {
    hold::layer(&[("bin/", b""), ("dev/", b""), ("usr/", b""), ("usr/file", &[b'x'; 200_000])])
}

fn hold(registry: &Registry, repository: &str) {
    hold::image(registry, repository, "1", &hold::config(Some(arch()), &[&layer()]), &[&layer()]);
}

/// A table for the registry `origin`.
fn table(site: &Site, origin: &Registry, mirrors: &str) -> std::path::PathBuf {
    site.write("mirrors", &format!("# of the site\n{} {mirrors}\n", origin.server.name()))
}

#[test]
fn mirrors_come_first_and_the_registry_is_not_bothered() {
    let (site, origin, mirror) = (Site::new(), Registry::start(), Registry::start());
    hold(&mirror, "hub/a");
    let table = table(&site, &origin, &mirror.name("hub"));
    let run = |subcommand: &str| -> Run { site.run(subcommand).env("CH_IMAGE_MIRRORS", &table) };
    let name = origin.name("a:1");
    run("pull").arg(&name).success();
    mirror.server.forget();
    run("pull").arg(&name).stderr_has("image is current").success();
    assert_eq!(mirror.server.lines(), ["HEAD /v2/hub/a/manifests/1"]);
    run("list").arg(&name).stdout_has("available remotely:  yes\n").success();
    assert_eq!(origin.server.lines(), [""; 0], "the mirror has it");
    run("pull")
        .arg(origin.name("b:1"))
        .stderr_has(&format!("error: not in registry: {}\n", origin.name("b:1")))
        .failure();
    site.run("pull")
        .arg(&name)
        .env("CH_IMAGE_MIRRORS", site.write("bad", "a\n"))
        .stderr_has("bad:1: no mirror named")
        .failure();
    site.run("pull")
        .arg(&name)
        .env("CH_IMAGE_MIRRORS", "/no/such/table")
        .stderr_has("error: can't read /no/such/table: ")
        .stderr_has("hint: $CH_IMAGE_MIRRORS names")
        .failure();
}

/// What a mirror has not, or only half, or wrongly, the next has.
#[test]
fn mirrors_that_fail() {
    // Where nobody listens.
    let free = "127.0.0.1:1";
    let digest = sha256(&layer());
    let check = |spoil: &dyn Fn(&Registry), served_by_origin: bool| {
        let (site, origin, mirror) = (Site::new(), Registry::start(), Registry::start());
        hold(&origin, "a");
        hold(&mirror, "a");
        spoil(&mirror);
        let table = table(&site, &origin, &format!("{free} {}", mirror.server.name()));
        site.run("pull").arg(origin.name("a:1")).env("CH_IMAGE_MIRRORS", &table).success();
        let blobs = origin.server.seen().iter().filter(|seen| seen.path().ends_with(&digest)).count();
        assert_eq!(blobs, usize::from(served_by_origin));
        let ranges: Vec<_> = origin.server.seen().iter().filter_map(|s| s.header("range").map(str::to_owned)).collect();
        ranges
    };
    let none: [String; 0] = [];
    assert_eq!(check(&|_| (), false), none);
    assert_eq!(check(&|mirror| mirror.first(99, "", Reply::new(503)), true), none);
    assert_eq!(check(&|mirror| mirror.first(99, "manifests", Reply::new(404)), true), none);
    assert_eq!(check(&|mirror| mirror.guard(Guard::Basic("x".into())), true), none);
    assert_eq!(check(&|mirror| mirror.first(99, "manifests", Reply::new(200).body("<html>")), true), none);
    let missing = digest.clone();
    assert_eq!(check(&|mirror| mirror.first(99, &missing, Reply::new(404)), true), none);
    // Half of it: the next goes on where this one ended.
    let cut = digest.clone();
    let half = |mirror: &Registry| {
        let cut = cut.clone();
        mirror.intercept(move |seen, _| {
            let blob = seen.path().ends_with(&cut);
            let whole = ranged(seen, &layer()).how(How::Cut(100_000));
            blob.then(|| if seen.header("range").is_none() { whole } else { Reply::new(500) })
        });
    };
    assert_eq!(check(&half, true), ["bytes=100000-"]);
}

/// Digests are checked whoever serves them; secrets of the registry are not the mirror's.
#[test]
fn mirrors_are_trusted_with_nothing() {
    let (site, origin, mirror) = (Site::new(), Registry::start(), Registry::start());
    hold(&origin, "a");
    hold(&mirror, "a");
    let (digest, mut wrong) = (sha256(&layer()), layer());
    wrong[3000] ^= 1;
    mirror.intercept(move |seen, _| seen.path().ends_with(&digest).then(|| Reply::new(200).body(wrong.clone())));
    mirror.guard(Guard::Basic("eDp5".into()));
    let table = table(&site, &origin, &mirror.server.name());
    let pull = || {
        let run = site.run("pull").arg(origin.name("a:1")).env("CH_IMAGE_MIRRORS", &table);
        run.env("CH_IMAGE_USERNAME", "x").env("CH_IMAGE_PASSWORD", "y")
    };
    pull().success();
    assert!(mirror.server.seen().iter().all(|seen| seen.header("authorization").is_none()));
    assert!(site.run("delete").arg(origin.name("a:1")).finish().status.success());
    site.run("reset").success();
    mirror.guard(Guard::Open);
    pull().stderr_has("digest mismatch").failure();
    assert_eq!(site.images(), [""; 0]);
}
