//! What arrives at a registry: flat and layered pushes, from storage and from directories, the same bytes each time.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::registry::{Registry, Reply};
use crate::harness::site::Mode;
use crate::harness::tree::Kind;
use crate::harness::{Server, Site, Tree, hold, image, in_each_mode};
use crate::needs;

const STEPS: &str = "ENV OURS=yes\nRUN rm /opt/gone && rm -r /opt/dir && mkdir /opt/dir && echo new >/opt/dir/new\n\
                     RUN echo changed >/opt/kept && ln /opt/kept /opt/twin && ln -s kept /opt/link\n\
                     RUN rm -r /opt/tree && echo file >/opt/tree\n";

/// An image of two layers that has a shell.
fn hold_base(registry: &Registry, repository: &str) {
    let below = fs::read(image::small()).unwrap();
    let above = hold::layer(&[
        ("opt/", b""),
        ("opt/kept", b"kept\n"),
        ("opt/gone", b"gone\n"),
        ("opt/dir/", b""),
        ("opt/dir/old", b"old\n"),
        ("opt/tree/", b""),
        ("opt/tree/leaf", b"leaf\n"),
    ]);
    let mut config = hold::config(Some(arch()), &[&below, &above]);
    config["history"] = json!([
        {"created_by": "below"}, {"created_by": "ENV nothing", "empty_layer": true}, {"created_by": "above"},
    ]);
    hold::image(registry, repository, "1", &config, &[&below, &above]);
}

fn arch() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

fn manifest(registry: &Registry, repository: &str, tag: &str) -> Value {
    let key = (repository.to_owned(), tag.to_owned());
    serde_json::from_slice(&registry.with(|content| content.manifests[&key].1.clone())).unwrap()
}

fn config(registry: &Registry, repository: &str, manifest: &Value) -> Value {
    let key = (repository.to_owned(), manifest["config"]["digest"].as_str().unwrap().to_owned());
    serde_json::from_slice(&registry.with(|content| content.blobs[&key].clone())).unwrap()
}

/// The tree of an image pulled by somebody who has nothing yet.
fn pulled(name: &str, mode: Mode) -> Tree {
    let site = Site::of(mode);
    site.run("pull").arg(name).success();
    site.tree(name)
}

#[test]
fn layers_of_the_base_stay_as_they_are() {
    in_each_mode(|site| {
        let registry = Registry::start();
        hold_base(&registry, "base");
        let (flat, layered) = (registry.name("new/flat:1"), registry.name("new/layered:1"));
        site.build("ours", &format!("FROM {}\n{STEPS}", registry.name("base:1"))).success();
        site.run("push").args(["ours", &flat]).success();
        registry.server.forget();
        let done = site.run("push").args(["--layers", "ours", &layered]).success();
        let pushed = manifest(&registry, "new/layered", "1");
        let base = manifest(&registry, "base", "1");
        assert_eq!(pushed["layers"].as_array().unwrap()[..2], base["layers"].as_array().unwrap()[..]);
        assert_eq!(pushed["layers"].as_array().unwrap().len(), 3);
        let config = config(&registry, "new/layered", &pushed);
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
        let history: Vec<_> = config["history"].as_array().unwrap().iter().map(|h| &h["created_by"]).collect();
        assert_eq!(history, ["below", "ENV nothing", "above", "ch-image push"]);
        assert_eq!(config["config"]["Env"].as_array().unwrap().last().unwrap(), "OURS=yes");
        // The base's blobs did not travel: mounted from where they are.
        let posts = registry.server.lines().into_iter().filter(|line| line.starts_with("POST"));
        let mounted = posts.filter(|line| line.contains("mount=sha256") && line.contains("from=base")).count();
        assert_eq!(mounted, 2);
        assert_eq!(done.stderr.matches("not present, uploading").count(), 2, "{}", done.stderr);

        for mode in [Mode::Overlay, Mode::Plain] {
            pulled(&layered, mode).assert_same(&pulled(&flat, mode), "layered and flat");
        }
        let tree = pulled(&layered, Mode::Overlay);
        assert!(["opt/gone", "opt/dir/old", "opt/tree/leaf"].iter().all(|name| !tree.0.contains_key(*name)));

        // Again: nothing to do but the manifest.
        registry.server.forget();
        site.run("push").args(["--layers", "ours", &layered]).stderr_lacks("uploading\nconfig").success();
        assert!(registry.server.lines().iter().all(|line| !line.starts_with("POST")));

        // To another registry they come from storage.
        let other = Registry::start();
        site.run("push").args(["--layers", "ours", &other.name("far:1")]).success();
        assert_eq!(manifest(&other, "far", "1"), pushed);
        pulled(&other.name("far:1"), Mode::Overlay).assert_same(&tree, "from the other registry");

        // A base of a base, under other names only; a pulled image has nothing of ours.
        site.build("child", "FROM ours\nRUN echo child >/opt/child\n").success();
        site.run("push").args(["--layers", "child", &other.name("child:1")]).success();
        assert_eq!(
            manifest(&other, "child", "1")["layers"].as_array().unwrap()[..2],
            base["layers"].as_array().unwrap()[..]
        );
        assert!(pulled(&other.name("child:1"), Mode::Overlay).0.contains_key("opt/child"));
        site.run("push").args(["--layers", &registry.name("base:1"), &other.name("copy:1")]).success();
        assert_eq!(manifest(&other, "copy", "1")["layers"], base["layers"]);
    });
}

/// `$CH_IMAGE_BLOBS`: what only served to unpack goes, and comes again where it is needed.
#[test]
fn downloads_need_not_be_kept() {
    in_each_mode(|site| {
        let registry = Registry::start();
        hold_base(&registry, "base");
        let base = registry.name("base:1");
        let count = |site: &Site| fs::read_dir(site.storage().join("blobs/sha256")).unwrap().count();
        let drop = |command: &str| site.run(command).env("CH_IMAGE_BLOBS", "drop");
        drop("pull").arg(&base).success();
        // Manifest and configuration.
        assert_eq!(count(site), 2);
        site.run("fsck").success();
        site.build("ours", &format!("FROM {base}\n{STEPS}")).success();
        let whole = pulled(&base, Mode::Overlay);
        site.tree(&base).assert_same(&whole, "without blobs");

        let other = Registry::start();
        drop("push").args(["--layers", "ours", &other.name("far:1")]).success();
        let pushed = manifest(&other, "far", "1");
        if site.mode() == Mode::Overlay {
            let kept = manifest(&registry, "base", "1");
            assert_eq!(pushed["layers"].as_array().unwrap()[..2], kept["layers"].as_array().unwrap()[..]);
        }
        assert_eq!(count(site), 2);
        pulled(&other.name("far:1"), Mode::Overlay).assert_same(&site.tree("ours"), "pushed without blobs");

        // A directory outside is made of them, and they go as well.
        let directory = site.path("unpacked");
        drop("pull").arg(&base).arg(&directory).success();
        assert_eq!(count(site), 2);

        // Kept, and dropped later: some, all.
        site.run("pull").args(["--no-cache", &base]).success();
        assert_eq!(count(site), 4);
        site.run("gc").success();
        assert_eq!(count(site), 4);
        let sizes = manifest(&registry, "base", "1")["layers"].clone();
        let larger = sizes.as_array().unwrap().iter().map(|l| l["size"].as_u64().unwrap()).max().unwrap();
        site.run("gc").env("CH_IMAGE_BLOBS", larger.to_string()).success();
        assert_eq!(count(site), 3);
        drop("gc").success();
        assert_eq!(count(site), 2);
        let wrong =
            "error: CH_IMAGE_BLOBS: unknown value: \"some\"\nhint: keep (the default), drop, or a size such as 10G\n";
        site.run("list").env("CH_IMAGE_BLOBS", "some").stderr(wrong).failure();
    });
}

#[test]
fn layers_of_nobody_are_pushed_flat() {
    let (site, registry) = (Site::new(), Registry::start());
    site.import(image::small(), "base");
    site.build("ours", "FROM base\nRUN echo x >/x\n").success();
    let note = "--layers: no layers of a registry are known to be in this image: pushing it as one layer\n";
    site.run("push").args(["--layers", "ours", &registry.name("ours:1")]).stderr_has(note).success();
    assert_eq!(manifest(&registry, "ours", "1")["layers"].as_array().unwrap().len(), 1);
}

/// Documented lines, in order; the second time everything is there.
#[test]
fn lines_of_a_push() {
    in_each_mode(|site| {
        let registry = Registry::start();
        site.import(image::small(), "base");
        let name = registry.name("a/b:1");
        let push = || site.run("push").args(["base", &name]).hide(&registry.server.name(), "REGISTRY");
        let first = push().success().stderr;
        let pushed = manifest(&registry, "a/b", "1");
        let short = |value: &Value| value["digest"].as_str().unwrap()["sha256:".len()..][..7].to_owned();
        let (layer, config) = (short(&pushed["layers"][0]), short(&pushed["config"]));
        let lines = |there: &str| {
            format!(
                "pushing image:   base\ndestination:     REGISTRY/a/b:1\nlayer 1/1: gathering\nlayer 1/1: preparing\n\
                 preparing metadata\nstarting upload\nlayer 1/1: {layer}: checking if already in repository\n\
                 layer 1/1: {layer}: {there}\nconfig: {config}: checking if already in repository\n\
                 config: {config}: {there}\nmanifest: uploading\ncleaning up\ndone\n"
            )
        };
        assert_eq!(first, lines("not present, uploading"));
        push().stderr(&lines("already present")).success();
    });
}

/// What was pushed before is not packed again, wherever it goes; what could give other bytes is.
#[test]
fn what_is_known_is_not_packed_again() {
    in_each_mode(|site| {
        let (registry, other) = (Registry::start(), Registry::start());
        hold_base(&registry, "base");
        site.build("ours", &format!("FROM {}\n{STEPS}", registry.name("base:1"))).success();
        let known = "layer 1/1: packed before: ";
        let push = |args: &[&str]| site.run("push").arg("-v").args(args);
        let name = registry.name("a:1");
        push(&["ours", &name]).stderr_lacks(known).success();
        let first = manifest(&registry, "a", "1");

        registry.server.forget();
        push(&["ours", &name]).stderr_has(known).success();
        assert_eq!(manifest(&registry, "a", "1"), first);
        let layer = first["layers"][0]["digest"].as_str().unwrap().to_owned();
        let asked = |registry: &Registry| registry.server.lines().iter().filter(|line| line.contains(&layer)).count();
        assert_eq!(asked(&registry), 1, "{:?}", registry.server.lines());
        assert!(registry.server.lines().iter().all(|line| !line.starts_with("POST")));
        // The same layers under another name; another repository of the same registry.
        site.build("twin", &format!("FROM {}\n{STEPS}", registry.name("base:1"))).success();
        push(&["twin", &name]).stderr_has(known).success();
        let done = push(&["ours", &registry.name("b:1")]).stderr_has(known).success();
        assert!(done.stderr.contains(": mounted from a\n"), "{}", done.stderr);
        assert_eq!(manifest(&registry, "b", "1"), first);

        // A registry that has not got it, or has lost it; and what it then has again.
        push(&["ours", &other.name("a:1")]).stderr_lacks(known).success();
        assert_eq!(manifest(&other, "a", "1"), first);
        push(&["ours", &other.name("a:2")]).stderr_has(known).success();
        registry.with(|content| content.blobs.retain(|(_, digest), _| *digest != layer));
        push(&["ours", &name]).stderr_lacks(known).success();
        push(&["ours", &registry.name("b:2")]).stderr_has(": mounted from a\n").success();
        pulled(&name, site.mode()).assert_same(&pulled(&other.name("a:2"), site.mode()), "from both");

        // Other bytes.
        push(&["ours", &name]).env("SOURCE_DATE_EPOCH", "1000000000").stderr_lacks(known).success();
        assert_ne!(manifest(&registry, "a", "1")["layers"], first["layers"]);
        push(&["--no-cache", "ours", &name]).stderr_lacks(known).success();
        assert_eq!(manifest(&registry, "a", "1"), first);
        push(&["--layers", "ours", &name]).stderr_lacks("packed before").success();
        push(&["--layers", "ours", &name]).stderr_has("layer 3/3: packed before: ").success();
        let more = format!("FROM {}\n{STEPS}RUN echo more >/opt/more\n", registry.name("base:1"));
        site.build("ours", &more).success();
        push(&["ours", &name]).stderr_lacks(known).success();
        assert!(pulled(&name, site.mode()).0.contains_key("opt/more"));
        push(&["ours", &name]).stderr_has(known).success();

        // Files that ch-run changes, if the tree is written to; and what is made again under an old name.
        if site.mode() == Mode::Plain {
            site.ch_run_with(&["-w"], "ours").args(["/bin/sh", "-c", "echo x >/opt/more"]).success();
            push(&["ours", &name]).stderr_lacks(known).success();
            push(&["ours", &name]).stderr_lacks(known).success();
            let more = pulled(&name, site.mode()).0["opt/more"].clone();
            assert!(matches!(more.kind, Kind::File { size: 2, .. }), "{more:?}");
        }
    });
}

/// A step that is done again gives other files under the same name.
#[test]
fn what_is_made_again_is_packed_again() {
    let (site, registry) = (Site::new(), Registry::start());
    site.import(image::small(), "base");
    let name = registry.name("a:1");
    let push = || {
        site.build("ours", "FROM base\nRUN cat /proc/sys/kernel/random/uuid >/number\n").success();
        site.run("push").args(["-v", "ours", &name]).stderr_lacks("packed before").success();
        manifest(&registry, "a", "1")["layers"][0]["digest"].as_str().unwrap().to_owned()
    };
    let first = push();
    let notes = |dir: &Path| {
        let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.to_str().unwrap().contains("/packed-")).collect::<Vec<_>>()
    };
    let cache = site.storage().join("cache");
    let kept: Vec<_> = notes(&cache).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    assert_eq!(kept.len(), 1);
    // Only what the step made goes, and comes again.
    site.run("delete").arg("ours").success();
    site.run("gc").success();
    assert!(notes(&cache).is_empty());
    kept.iter().for_each(|(note, path)| fs::write(path, note).unwrap());
    assert_ne!(push(), first);
}

/// A file whose name means something in a layer would remove another one wherever the image is pulled.
#[test]
fn names_of_whiteouts_are_refused() {
    in_each_mode(|site| {
        let registry = Registry::start();
        site.import(image::small(), "base");
        for name in [".wh.passwd", ".wh..wh..opq", ".wh."] {
            site.write(&format!("context/dir/{name}"), "ours\n");
            site.build("ours", "FROM base\nCOPY dir /etc\nRUN cat /etc/.wh.*\n").stdout("ours\n").success();
            fs::remove_dir_all(site.path("context/dir")).unwrap();
            let error = format!(
                "error: can't pack the image: can't archive etc/{name}: in a layer, a name that begins with .wh. says that \
                 a file is removed\nhint: rename or remove it in the image, then push again\n"
            );
            site.run("push").args(["ours", &registry.name("ours:1")]).stderr_has(&error).failure();
        }
        assert!(registry.with(|content| content.manifests.is_empty()));
    });
}

/// F10, R17: a registry that says "created" and has nothing.
#[test]
fn uploads_are_verified() {
    let (site, registry) = (Site::new(), Registry::start());
    site.import(image::small(), "base");
    registry.intercept(|seen, _| (seen.method == "PUT" && seen.path().contains("/blobs/")).then(|| Reply::new(201)));
    let done = site.run("push").args(["base", &registry.name("a:1")]).failure();
    assert!(done.stderr.contains("the registry took the upload but does not have it"), "{}", done.stderr);
    assert!(registry.with(|content| content.manifests.is_empty()), "the manifest comes last");
}

/// The number of one that we may use.
pub fn one_processor() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().split(['-', ',']).next().unwrap().to_owned()
}

/// The same tree gives the same bytes, whoever packs it, when, and with how many processors.
#[test]
fn pushes_are_reproducible() {
    needs!("taskset");
    in_each_mode(|site| {
        let registry = Registry::start();
        site.import(image::odd(), "odd");
        site.run("push").args(["odd", &registry.name("a:1")]).success();
        let program = site.path("bin/ch-image");
        let one = site.program("taskset").args(["-c", &one_processor()]).arg(program).args([
            "push",
            "odd",
            &registry.name("a:2"),
        ]);
        one.env("CH_IMAGE_STORAGE", site.storage()).success();
        assert_eq!(manifest(&registry, "a", "1"), manifest(&registry, "a", "2"));

        // What a build makes has other times each time.
        for tag in ["3", "4"] {
            let again = Site::of(site.mode());
            again.import(image::small(), "base");
            again.build("made", "FROM base\nRUN mkdir /made && echo made >/made/file\n").success();
            let name = registry.name(&format!("a:{tag}"));
            again.run("push").args(["made", &name]).env("SOURCE_DATE_EPOCH", "1000000000").success();
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
        assert_eq!(manifest(&registry, "a", "3"), manifest(&registry, "a", "4"));
        site.run("push").args(["odd", &registry.name("a:5")]).env("SOURCE_DATE_EPOCH", "x").failure();
    });
}

#[test]
fn directories_are_pushed() {
    in_each_mode(|site| {
        let registry = Registry::start();
        let base = registry.name("base:1");
        hold_base(&registry, "base");
        let dir = site.path("dir");
        site.run("pull").arg(&base).arg(&dir).success();
        let (name, dest) = (registry.name("dir:1"), registry.name("dir:2"));
        let path = format!("image path:      {}\n", "SITE/dir");
        site.run("push").arg("--image").arg(&dir).arg(&name).stderr_has(&path).success();
        let line = format!("pushing image:   {name}\ndestination:     {dest}\n");
        site.run("push").arg("--image").arg(&dir).args([&name, &dest]).stderr_has(&line).success();
        assert_eq!(manifest(&registry, "dir", "1"), manifest(&registry, "dir", "2"));
        pulled(&name, site.mode())
            .without_dir_times()
            .assert_same(&pulled(&base, site.mode()).without_dir_times(), "dir");

        let empty = site.path("empty");
        fs::create_dir(&empty).unwrap();
        let error = "error: can't push: SITE/empty does not appear to be an image\n";
        site.run("push").arg("--image").arg(&empty).arg(&name).stderr_has(error).failure();
        site.run("push").arg("nothing").stderr_has("error: can't push: no image nothing\n").failure();
    });
}

/// skopeo and umoci take layers of ours and of the base for one image.
#[test]
fn others_read_layered_pushes() {
    needs!("docker-registry", "openssl", "skopeo", "umoci");
    let site = Site::new();
    let server = Server::start();
    let with = |run: crate::harness::Run| run.env("SSL_CERT_FILE", server.ca());
    let (base, flat, layered) = (server.name("base:1"), server.name("flat:1"), server.name("layered:1"));
    site.import(image::small(), "small");
    site.build(
        "first",
        "FROM small\nRUN mkdir -p /opt/dir /opt/tree && cd /opt && touch kept gone dir/old tree/leaf\n",
    )
    .success();
    with(site.run("push").args(["first", &base])).success();
    let again = Site::new();
    with(again.build("ours", &format!("FROM {base}\n{STEPS}"))).success();
    with(again.run("push").args(["ours", &flat])).success();
    with(again.run("push").args(["--layers", "ours", &layered])).stderr_has("mounted from base").success();
    let tree = |name: &str, kind: &str| {
        let layout = format!("oci:{}:1", again.path(kind).display());
        let docker = format!("docker://{name}");
        again.program("skopeo").args(["copy", "-q", "--src-tls-verify=false", &docker, &layout]).success();
        let bundle = again.path(&format!("{kind}-bundle"));
        let image = format!("{}:1", again.path(kind).display());
        again.program("umoci").args(["unpack", "--rootless", "--image", &image]).arg(&bundle).success();
        Tree::of_dir(&bundle.join("rootfs"))
    };
    tree(&layered, "layered").assert_same(&tree(&flat, "flat"), "umoci unpack");
}
