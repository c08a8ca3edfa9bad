//! Where the Dockerfile and what lies beside it are found, and what is said of a bad one before any work.

use std::fs;
use std::os::unix::fs::symlink;

use crate::harness::{Site, image};

/// What only the values show is refused by a dry run and by a build, with file, line and keyword; stages that are not
/// needed may hold what they like.
#[test]
fn late_errors_come_before_any_work() {
    let site = Site::new();
    let check = |lines: &str, want: &str| {
        let text = format!("FROM scratch AS unused\nENV a=${{\nFROM scratch\n{lines}\n");
        site.build("x", &text).arg("--parse-only").stdout("").stderr("").success();
        let want = format!("error: SITE/context/Dockerfile: {want}");
        site.build("x", &text).arg("--dry-run").stderr_has(&want).failure();
    };
    check("COPY --from=UPPER:bad: a b", "line 4: COPY: image ref syntax, char 7: UPPER:bad:");
    check("RUN --mount=from=x@y,target=/m true", "line 4: RUN: image ref syntax, char 3: x@y");
    check("RUN --mount=target=/ true", "line 4: RUN: --mount=target=/: target may not be /");
    check("EXPOSE 65536", "line 4: EXPOSE: invalid port");
    check("STOPSIGNAL nonsense", "line 4: STOPSIGNAL: invalid signal");
    check("COPY --chmod=888 a b", "line 4: COPY: invalid mode");
    check("COPY http://a/b c", "line 4: COPY: source is a URL");
    check("ENV a=${b:?missing}", "line 4: ENV: can't expand ${b:?missing}: b: missing");
    check("COPY --from=7 a b", "line 4: COPY: no stage has the number 7");
    check("COPY --from=z a b\nFROM scratch AS z\nFROM scratch\nCOPY --from=1 a b", "line 4: COPY: stage z needs to be");
    check("COPY --from=z a b\nFROM scratch AS z\nCOPY --from=1 a b", "line 4: COPY: circular dependency");
    check("FROM --platform=a/b/c/d x", "line 4: FROM: invalid platform");
    check("FROM Upper", "line 4: FROM: image ref syntax, at end: Upper");
    site.build("x", "FROM y AS z\nFROM scratch\nCOPY --from=z a b\nCOPY --from=docker.io/library/x:latest a b\n")
        .arg("--dry-run")
        .stderr_has("error: output image ref same as FROM: docker.io/library/x:latest\n")
        .failure();
    assert!(!site.storage().exists());
}

#[test]
fn names_and_links() {
    let site = Site::new();
    site.import(image::small(), "base");
    site.write("context/Dockerfile", "FROM base\nCOPY . /srv/\n");
    site.write("context/kept", "");
    site.write("context/left-out", "");
    site.write("elsewhere", "left-out\nDockerfile\n.dockerignore\n");
    symlink("../elsewhere", site.path("context/.dockerignore")).unwrap();
    // The name is the link's, not that of the directory behind it.
    symlink("context", site.path("My Link")).unwrap();
    site.run("build").arg(site.path("My Link")).stderr_has("grown in 2 instructions: mylink").success();
    let tree = site.tree("mylink");
    assert!(tree.0.contains_key("srv/kept") && !tree.0.contains_key("srv/left-out"));
    fs::rename(site.path("context/Dockerfile"), site.path("context/Dockerfile.@FOO.bar")).unwrap();
    let file = site.path("context/Dockerfile.@FOO.bar");
    site.run("build").arg("-f").arg(file).arg(site.path("context")).stderr_has("instructions: foo.bar").success();
}
