//! Do others read what we push, and do we read what they push? skopeo, umoci, buildah and podman, a real registry.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::site::in_tmp;
use crate::harness::{Run, Server, Site, Tree, image, in_each_mode};
use crate::needs;

fn source() -> Tree {
    Tree::of_tarball(image::small()).unprivileged().without(Site::GIVEN).without(&["etc"])
}

/// podman and buildah with all their state in the site, save what podman wants below a path of at most 50 characters.
struct Engines<'a> {
    site: &'a Site,
    run: PathBuf,
}

impl Engines<'_> {
    fn of(site: &Site) -> Engines<'_> {
        let run = in_tmp(site.path("").file_name().unwrap().to_str().unwrap());
        fs::create_dir(&run).unwrap();
        Engines { site, run }
    }

    fn program(&self, name: &str) -> Run {
        let engine = self.site.program(name).env("XDG_RUNTIME_DIR", &self.run).env("TMPDIR", self.site.path(""));
        let engine = engine.arg("--root").arg(self.site.path("engine"));
        engine.arg("--runroot").arg(&self.run).args(["--storage-driver", "vfs"])
    }
}

impl Drop for Engines<'_> {
    fn drop(&mut self) {
        // Files belong to IDs that only the engines' own namespace may remove; a process of podman's keeps that alive.
        if !running_as_root() {
            self.program("podman").args(["system", "migrate"]).finish();
            let unshare = self.site.program("buildah").args(["unshare", "rm", "-rf"]);
            unshare.arg(self.site.path("engine")).arg(&self.run).finish();
        }
        // Where that has removed it already, nothing is left to do.
        let _ = fs::remove_dir_all(&self.run);
    }
}

fn running_as_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

#[test]
fn others_read_what_we_push() {
    needs!("docker-registry", "openssl", "skopeo", "umoci", "buildah", "podman");
    in_each_mode(|site| {
        let server = Server::start();
        let name = server.name("ours:1");
        site.import(image::small(), "base");
        let dockerfile = "FROM base\nENV OURS=yes\nWORKDIR /opt\nCMD [\"echo\", \"hello\"]\nRUN echo made >made && chmod 4755 made\n";
        site.build("ours", dockerfile).success();
        site.run("push").args(["ours", &name]).env("SSL_CERT_FILE", server.ca()).success();

        let docker = format!("docker://{name}");
        let inspected = site.program("skopeo").args(["inspect", "--tls-verify=false", &docker]).success().stdout;
        let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
        assert_eq!(inspected["Os"], "linux");
        assert_eq!(inspected["Layers"].as_array().unwrap().len(), 1, "pushed flat: {inspected}");
        assert!(inspected["Env"].as_array().unwrap().contains(&"OURS=yes".into()), "{inspected}");
        let config =
            site.program("skopeo").args(["inspect", "--config", "--tls-verify=false", &docker]).success().stdout;
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["config"]["WorkingDir"], "/opt");
        assert_eq!(config["config"]["Cmd"], serde_json::json!(["echo", "hello"]));

        let layout = format!("oci:{}:1", site.path("oci").display());
        site.program("skopeo").args(["copy", "-q", "--src-tls-verify=false", &docker, &layout]).success();
        owned_by_root(&site.path("oci"));
        let image = format!("{}:1", site.path("oci").display());
        site.program("umoci").args(["unpack", "--rootless", "--image", &image]).arg(site.path("bundle")).success();
        let tree = Tree::of_dir(&site.path("bundle/rootfs")).without(Site::GIVEN).without(&["etc"]);
        assert_eq!(tree.0["opt/made"].mode, 0o755, "set-id bits are removed");
        tree.without(&["opt"]).assert_same(&source(), "umoci unpack");

        let zstd = server.name("zstd:1");
        site.run("push").args(["--compress", "zstd:5", "ours", &zstd]).env("SSL_CERT_FILE", server.ca()).success();
        let raw = format!("docker://{zstd}");
        let raw = site.program("skopeo").args(["inspect", "--raw", "--tls-verify=false", &raw]).success().stdout;
        assert!(raw.contains("application/vnd.oci.image.layer.v1.tar+zstd"), "{raw}");
        site.run("pull").arg(&zstd).env("SSL_CERT_FILE", server.ca()).success();
        site.run("pull").arg(&name).env("SSL_CERT_FILE", server.ca()).success();
        site.tree(&zstd).without(Site::GIVEN).assert_same(&site.tree(&name).without(Site::GIVEN), "zstd");
        let wrong = "error: --format=docker has no type for layers compressed with zstd\nhint: use --format=oci\n";
        site.run("push").args(["--compress", "zstd", "--format", "docker", "ours", &zstd]).stderr_has(wrong).usage();

        let engines = Engines::of(site);
        for program in ["podman", "buildah"] {
            engines.program(program).args(["pull", "-q", "--tls-verify=false", &zstd]).success();
            engines.program(program).args(["pull", "-q", "--tls-verify=false", &name]).success();
        }
        let env = engines.program("podman").args(["image", "inspect", "--format", "{{.Config.Env}}", &name]).success();
        assert!(env.stdout.contains("OURS=yes"), "{}", env.stdout);
    });
}

/// All members of the only layer belong to root:root, by number and by name.
fn owned_by_root(layout: &Path) {
    let mut layers = 0;
    for entry in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        if fs::read(&path).unwrap().first() == Some(&b'{') {
            continue;
        }
        layers += 1;
        let listing = std::process::Command::new("tar").args(["--numeric-owner", "-tvzf"]).arg(&path).output().unwrap();
        for line in String::from_utf8_lossy(&listing.stdout).lines() {
            assert_eq!(line.split_whitespace().nth(1), Some("0/0"), "{line}");
            assert!(!line[..10].contains(['s', 'S']), "set-id bit: {line}");
        }
    }
    assert_eq!(layers, 1);
}

#[test]
fn we_read_what_others_push() {
    needs!("docker-registry", "openssl", "skopeo", "umoci", "buildah");
    in_each_mode(|site| {
        let server = Server::start();
        let engines = Engines::of(site);
        // Two layers, so that order counts, made by umoci.
        let layout = site.path("oci");
        let image = format!("{}:1", layout.display());
        site.program("umoci").args(["init", "--layout"]).arg(&layout).success();
        site.program("umoci").args(["new", "--image", &image]).success();
        site.program("umoci").args(["raw", "add-layer", "--image", &image]).arg(image::small()).success();
        let second = site.path("second.tar");
        site.write("second/etc/.wh.group", "");
        site.write("second/opt/theirs", "theirs\n");
        site.program("tar")
            .arg("-C")
            .arg(site.path("second"))
            .arg("-cf")
            .arg(&second)
            .args(["etc/.wh.group", "opt"])
            .success();
        site.program("umoci").args(["raw", "add-layer", "--image", &image]).arg(&second).success();
        site.program("umoci")
            .args(["config", "--image", &image, "--config.env", "THEIRS=1", "--config.workingdir", "/opt"])
            .success();

        for format in ["oci", "v2s2"] {
            let name = server.name(&format!("single:{format}"));
            site.program("skopeo")
                .args(["copy", "-q", "--dest-tls-verify=false", "--format", format])
                .args([format!("oci:{image}"), format!("docker://{name}")])
                .success();
            check_theirs(site, &server, &name);

            let list = format!("list-{format}");
            let index = server.name(&format!("index:{format}"));
            engines.program("buildah").args(["manifest", "create", &list]).success();
            engines
                .program("buildah")
                .args(["manifest", "add", "--tls-verify=false", &list, &format!("docker://{name}")])
                .success();
            engines
                .program("buildah")
                .args([
                    "manifest",
                    "push",
                    "--all",
                    "--tls-verify=false",
                    "--format",
                    format,
                    &list,
                    &format!("docker://{index}"),
                ])
                .success();
            check_theirs(site, &server, &index);
        }
    });
}

fn check_theirs(site: &Site, server: &Server, name: &str) {
    site.run("pull").arg(name).env("SSL_CERT_FILE", server.ca()).success();
    let tree = site.tree(name);
    assert!(!tree.0.contains_key("etc/group"), "the whiteout of the second layer in {name}");
    tree.without(&["etc", "opt"]).assert_same(&source(), name);
    // The name is in it because equal steps on equal layers run but once.
    let dockerfile = format!("FROM {name}\nRUN echo {name} $THEIRS $(pwd) $(cat theirs)\n");
    site.build("next", &dockerfile).stdout(&format!("{name} 1 /opt theirs\n")).success();
    site.run("delete").arg("next").success();
}

/// zstd layers, plain and "chunked" (with skippable frames and an index of their files), as podman and buildah make them.
#[test]
fn we_read_zstd() {
    needs!("docker-registry", "openssl", "skopeo", "podman", "buildah");
    in_each_mode(|site| {
        let (server, engines) = (Server::start(), Engines::of(site));
        engines.program("podman").args(["import", "-q"]).arg(image::small()).arg("theirs").success();
        for (repository, format) in [("zstd", "zstd"), ("chunked", "zstd:chunked")] {
            let name = server.name(&format!("{repository}:1"));
            engines
                .program("podman")
                .args(["push", "-q", "--tls-verify=false", "--format", "oci", "--compression-format", format, "theirs"])
                .arg(format!("docker://{name}"))
                .success();
            let docker = format!("docker://{name}");
            let raw = site.program("skopeo").args(["inspect", "--raw", "--tls-verify=false", &docker]).success().stdout;
            assert!(raw.contains("application/vnd.oci.image.layer.v1.tar+zstd"), "{format}: {raw}");
            site.run("pull").arg(&name).env("SSL_CERT_FILE", server.ca()).success();
            site.tree(&name).without(&["etc"]).assert_same(&source(), format);
            // As a base: its layer stays as it is, and podman reads it under ours.
            let next = server.name(&format!("next-{repository}:1"));
            site.build("next", &format!("FROM {name}\nRUN echo next >/next\n")).success();
            let push = site.run("push").args(["--layers", "next", &next]).env("SSL_CERT_FILE", server.ca());
            push.stderr_has(&format!("mounted from {repository}")).success();
            engines.program("podman").args(["pull", "-q", "--tls-verify=false", &next]).success();
        }
    });
}

/// Docker and OCI archives of ours, with one image and with two.
#[test]
fn others_load_what_we_save() {
    needs!("skopeo", "podman");
    in_each_mode(|site| {
        let engines = Engines::of(site);
        site.import(image::small(), "localhost/one:1");
        site.build("localhost/two:2", "FROM localhost/one:1\nENV OURS=yes\nRUN echo two >/made\n").success();
        let at = |name: &str| site.path(name).display().to_string();
        let names = ["localhost/one:1", "localhost/two:2"];
        let podman = |args: &[&str]| engines.program("podman").args(args).success().stdout;
        site.run("export").args(names).arg("docker-archive:both").success();
        podman(&["load", "-q", "-i", &at("both")]);
        for name in names {
            podman(&["image", "exists", name]);
        }
        let env = podman(&["image", "inspect", "--format", "{{.Config.Env}}", names[1]]);
        assert!(env.contains("OURS=yes"), "{env}");
        podman(&["rmi", "-f", names[0], names[1]]);
        site.run("export").args([names[1], "oci-archive:two"]).success();
        podman(&["load", "-q", "-i", &at("two")]);
        // Of two in an OCI archive, skopeo takes the one that is named.
        site.run("export").args(names).arg("oci-archive:both-oci").success();
        let from = format!("oci-archive:{}:{}", at("both-oci"), names[1]);
        site.program("skopeo").args(["copy", "-q", &from, &format!("dir:{}", at("copied"))]).success();
        site.run("import").args([&from, "back"]).success();
        site.ch_run("back").args(["cat", "/made"]).stdout("two\n").success();
    });
}

/// Archives and layouts that skopeo, podman and buildah write.
#[test]
fn we_import_what_others_save() {
    needs!("skopeo", "podman", "umoci");
    in_each_mode(|site| {
        let engines = Engines::of(site);
        engines.program("podman").args(["import", "-q"]).arg(image::small()).arg("localhost/theirs:1").success();
        let at = |name: &str| site.path(name).display().to_string();
        for format in ["docker-archive", "oci-archive", "oci-dir"] {
            let save = engines.program("podman").args(["save", "-q", "--format", format, "-o", &at(format)]);
            save.arg("localhost/theirs:1").success();
        }
        let copy = |from: &str, to: &str| drop(site.program("skopeo").args(["copy", "-q", from, to]).success());
        copy(&format!("oci:{}", at("oci-dir")), &format!("docker-archive:{}:x:1", at("skopeo-docker")));
        copy(&format!("oci:{}", at("oci-dir")), &format!("oci-archive:{}:x", at("skopeo-oci")));
        copy(&format!("docker-archive:{}", at("skopeo-docker")), &format!("oci:{}:2", at("skopeo-dir")));
        let saved = ["docker-archive", "oci-archive", "oci-dir", "skopeo-docker", "skopeo-oci", "skopeo-dir"];
        for name in saved {
            site.import(&site.path(name), name);
            site.tree(name).without(&["etc"]).assert_same(&source(), name);
        }
        // A layer on top, by umoci, and chosen by its tag.
        site.write("second/opt/theirs", "theirs\n");
        let tar = site.program("tar").arg("-C").arg(site.path("second")).arg("-cf").arg(site.path("second.tar"));
        tar.arg("opt").success();
        let image = format!("{}:2", at("skopeo-dir"));
        let umoci = site.program("umoci").args(["raw", "add-layer", "--image", &image, "--tag", "3"]);
        umoci.arg(site.path("second.tar")).success();
        site.run("import").arg(format!("oci:{}:3", at("skopeo-dir"))).arg("third").success();
        site.ch_run("third").args(["cat", "/opt/theirs"]).stdout("theirs\n").success();
    });
}

/// Archives that we write, whole and under the names that were asked for.
#[test]
fn podman_loads_what_we_export() {
    needs!("podman");
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.build("ours", "FROM base\nENV OURS=yes\nWORKDIR /opt\nRUN echo made >made\n").success();
        let engines = Engines::of(site);
        let podman = |args: &[&str]| engines.program("podman").args(args).success().stdout;
        for (n, (kind, options)) in [
            ("docker-archive", &[][..]),
            ("oci-archive", &["--compress=none"]),
            ("oci-archive", &["--compress=gzip"]),
            ("oci-archive", &["--compress=zstd"]),
        ]
        .into_iter()
        .enumerate()
        {
            let what = format!("{kind} {options:?}");
            let (file, name) = (site.path(&format!("{n}.tar")).display().to_string(), format!("localhost/ours:{n}"));
            site.run("export").args(options).args(["ours", &format!("{kind}:{file}:{name}")]).success();
            let loaded = podman(&["load", "-q", "-i", &file]);
            assert_eq!(loaded, format!("Loaded image: {name}\n"), "{what}");
            let config = podman(&["image", "inspect", "--format", "{{.Config.Env}} {{.Config.WorkingDir}}", &name]);
            assert!(config.contains("OURS=yes") && config.ends_with(" /opt\n"), "{what}: {config}");
            let container = podman(&["create", &name, "sh"]);
            let tarball = site.path(&format!("{n}-tree.tar"));
            podman(&["export", "-o", &tarball.display().to_string(), container.trim()]);
            let tree = Tree::of_tarball(&tarball).unprivileged().without(Site::GIVEN).without(&["etc"]);
            assert!(tree.0.contains_key("opt/made"), "{what}");
            tree.without(&["opt"]).assert_same(&source(), &what);
        }
    });
}
