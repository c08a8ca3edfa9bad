//! Which image comes, what is said of it, and what it costs: architectures, indexes, options of `pull`, `list REF`.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::harness::registry::{How, Registry, Reply, ranged, sha256};
use crate::harness::{Run, Site, hold, in_each_mode};
use crate::needs;

fn host() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64/v8" }
}

/// What the pulled image says it is (`hold::marked`).
fn mark(site: &Site, run: Run) -> String {
    let dir = site.path("unpacked");
    run.arg(&dir).success();
    let mark = std::fs::read_to_string(dir.join("usr/mark")).unwrap();
    crate::harness::site::remove(&dir);
    mark
}

/// The host's image, two others, and an attestation.
fn hold_index(registry: &Registry) {
    let entries = [host(), "arm/v7", "s390x", "unknown"].map(|arch| hold::entry(registry, "a", arch));
    hold::index(registry, "a", "1", entries.to_vec());
}

#[test]
fn architectures() {
    let (site, registry) = (Site::new(), Registry::start());
    hold_index(&registry);
    let name = registry.name("a:1");
    let pull = |arch: &str| site.run("pull").args(["--arch", arch]).arg(&name);
    assert_eq!(mark(&site, site.run("pull").arg(&name)), host());
    assert_eq!(mark(&site, pull("host")), host());
    assert_eq!(mark(&site, pull("s390x")), "s390x");
    assert_eq!(mark(&site, pull("arm/v7")), "arm/v7");
    // The registry is asked for one image, and gives its index all the same: the first will do.
    assert_eq!(mark(&site, pull("yolo").stderr_has("requesting arch:  yolo\n")), host());
    let line = format!("image arch: arm (may not match host {})\n", host());
    pull("arm/v7").stderr_has("requesting arch:  arm/v7\n").stderr_has(&line).success();
    site.run("list").stdout_has("a:1 (arm").success();
    let hint = format!("error: requested arch unavailable: ppc64le\nhint: available: {} arm/v7 s390x\n", host());
    pull("ppc64le").stderr_has(&hint).failure();
    pull("unknown").stderr_has("error: requested arch unavailable: unknown\n").failure();
}

/// `pull REF FILE`: straight into one file; storage keeps no image that it did not have.
#[test]
fn into_a_file() {
    let (site, registry) = (Site::new(), Registry::start());
    hold_index(&registry);
    let name = registry.name("a:1");
    let packed = site.path("packed.sqfs");
    let pull = |path: &Path| site.run("pull").args(["--compress", "gzip", &name]).arg(path);
    pull(&packed).stderr_has("written:").success();
    assert_eq!(site.images(), [""; 0]);
    pull(&packed).stderr_has("exists already").stderr_lacks("downloading").failure();
    pull(&site.path("no/packed.sqfs")).stderr_has("can't open directory").stderr_lacks("downloading").failure();
    site.run("pull").args(["--overwrite", "--no-cache", &name]).arg(&packed).success();
    // What was there stays there.
    site.run("pull").arg(&name).success();
    let images = site.images();
    assert_eq!(images.len(), 1);
    let archive = format!("oci-archive:{}", site.path("saved").display());
    site.run("pull").args([&name, &archive]).success();
    assert_eq!(site.images(), images);
    for operand in [packed.to_str().unwrap(), &archive] {
        site.run("import").args([operand, "back"]).success();
        let tree = site.path("tree");
        site.run("export").args(["--overwrite", "--format=dir", "back"]).arg(&tree).success();
        assert_eq!(std::fs::read_to_string(tree.join("usr/mark")).unwrap(), host(), "{operand}");
    }
}

#[test]
fn images_that_know_no_architecture() {
    let (site, registry) = (Site::new(), Registry::start());
    let layer = hold::marked("here");
    let put = |tag: &str, arch: Option<&str>| {
        hold::image(&registry, "a", tag, &hold::config(arch, &[&layer]), &[&layer]);
        registry.name(&format!("a:{tag}"))
    };
    let (ours, theirs, nobodys) = (put("ours", Some(host())), put("theirs", Some("s390x")), put("nobodys", None));
    site.run("pull").arg(&ours).stderr_lacks("architecture-unaware").success();
    for name in [&theirs, &nobodys] {
        let warned = "warning: image is architecture-unaware\nwarning: requested arch is amd64; using --arch=yolo\n";
        site.run("pull").args(["-a", "amd64"]).arg(name).stderr_has(warned).success();
        let refused = "error: image is architecture-unaware\nhint: consider --arch=yolo\n";
        site.run("pull").args(["-a", "arm64/v8"]).arg(name).stderr_has(refused).failure();
        site.run("pull").args(["-a", "yolo"]).arg(name).stderr_lacks("architecture-unaware").success();
    }
    site.run("pull").args(["-a", "yolo"]).arg(&theirs).stderr_has("(may not match host").success();
    site.run("list").stdout_has("a:nobodys (unknown)\n").stdout_has("a:theirs (s390x)\n").success();
}

/// M09: an index may hold an index, but not for ever.
#[test]
fn indexes_in_indexes() {
    let nested = |depth: usize| {
        let (site, registry) = (Site::new(), Registry::start());
        let mut entry = hold::entry(&registry, "a", host());
        for _ in 0..depth {
            let platform = entry["platform"].clone();
            entry = hold::index(&registry, "a", "1", vec![entry]);
            entry["platform"] = platform;
        }
        let name = registry.name("a:1");
        let done = site.run("pull").arg(&name).finish();
        (done.status.code(), done.stderr, site.images().len())
    };
    for depth in [1, 2, 4] {
        let (code, stderr, images) = nested(depth);
        assert_eq!((code, images), (Some(0), 1), "{depth}: {stderr}");
    }
    let (code, stderr, images) = nested(5);
    assert_eq!((code, images), (Some(1), 0), "{stderr}");
    assert!(stderr.contains("indexes nested too deep"), "{stderr}");
}

/// M15: a layer that is what the manifest says, but not what the configuration says.
#[test]
fn diff_ids_are_checked() {
    in_each_mode(|site| {
        let registry = Registry::start();
        let (layer, other) = (hold::marked("this"), hold::marked("that"));
        let name = registry.name("a:1");
        hold::image(&registry, "a", "1", &hold::config(Some(host()), &[&other]), &[&layer]);
        let error = format!("diff ID {} instead of {}", sha256(&layer), sha256(&other));
        site.run("pull").arg(&name).stderr_has(&error).failure();
        hold::image(&registry, "a", "1", &hold::config(Some(host()), &[&layer, &layer]), &[&layer]);
        site.run("pull").arg(&name).stderr_has("error: ").failure();
        assert_eq!(site.images(), [""; 0]);
        // Not given at all (images of old): taken, with a word.
        let config = json!({"architecture": host(), "os": "linux"});
        hold::image(&registry, "a", "1", &config, &[&layer]);
        site.run("pull").arg(&name).stderr_has("warning: no metadata to load; using defaults\n").success();
    });
}

/// Documented lines, byte for byte; then nothing but one question.
#[test]
fn lines_of_a_pull() {
    in_each_mode(|site| {
        let registry = Registry::start();
        hold_index(&registry);
        let name = registry.name("a:1");
        let layer = &sha256(&hold::marked(host()))["sha256:".len()..][..7];
        site.import(crate::harness::image::small(), "makes-the-storage-directory");
        let pull = |more: &[&str]| site.run("pull").args(more).arg(&name).hide(&registry.server.name(), "REGISTRY");
        let family = host().split('/').next().unwrap();
        let lines = format!(
            "pulling image:    REGISTRY/a:1\nrequesting arch:  {}\nmanifest list: downloading\nmanifest: downloading\n\
             config: downloading\nlayer 1/1: {layer}: downloading\nflattening image\nlayer 1/1: {layer}: listing\n\
             validating tarball members\nresolving whiteouts\nlayer 1/1: {layer}: extracting\nimage arch: {family}\ndone\n",
            host()
        );
        pull(&[]).stderr(&lines).success();
        registry.server.forget();
        pull(&[]).stderr_has("image is current").success();
        assert_eq!(registry.server.lines(), ["HEAD /v2/a/manifests/1"], "a pull of what is current is one request");

        registry.server.forget();
        pull(&["--no-cache"]).stderr(&lines).success();
        assert_eq!(registry.server.lines().len(), 4, "{:?}", registry.server.lines());

        // The tag moves on: what is the same is not downloaded again.
        let entries = [host(), "s390x"].map(|arch| hold::entry(&registry, "a", arch));
        hold::index(&registry, "a", "1", entries.to_vec());
        registry.server.forget();
        pull(&[]).stderr_has(&format!("layer 1/1: {layer}: using existing file\n")).success();
        assert!(registry.server.lines().iter().all(|line| !line.contains("/blobs/")), "{:?}", registry.server.lines());
    });
}

#[test]
fn last_layer() {
    in_each_mode(|site| {
        let registry = Registry::start();
        let layers = [hold::marked("first"), hold::layer(&[("usr/second", b"")]), hold::layer(&[("usr/third", b"")])];
        let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
        hold::image(&registry, "a", "1", &hold::config(Some(host()), &layers), &layers);
        let name = registry.name("a:1");
        let skipped = &sha256(layers[2])["sha256:".len()..][..7];
        let dir = site.path("dir");
        let line = format!("layer 3/3: {skipped}: skipping per --last-layer\n");
        site.run("pull").args(["--last-layer", "2"]).arg(&name).arg(&dir).stderr_has(&line).success();
        assert!(dir.join("usr/second").exists() && !dir.join("usr/third").exists());
        assert!(registry.server.lines().iter().all(|line| !line.contains(&sha256(layers[2]))));
        // Incomplete for once only.
        site.run("pull").args(["--last-layer", "1"]).arg(&name).stderr_has(&line).success();
        site.run("pull").arg(&name).stderr_lacks("skipping").success();
        let dir = site.path("whole");
        site.run("pull").arg(&name).arg(&dir).success();
        assert!(dir.join("usr/third").exists());
        site.run("pull").args(["--last-layer", "x"]).arg(&name).usage();
    });
}

/// M16: no layer at all, the same one twice, as many as there may be, one too many.
#[test]
fn numbers_of_layers() {
    in_each_mode(|site| {
        let registry = Registry::start();
        let (first, again) = (hold::marked("first"), hold::layer(&[("usr/again", b"")]));
        let put = |tag: &str, layers: &[&[u8]]| {
            hold::image(&registry, "a", tag, &hold::config(Some(host()), layers), layers);
            site.run("pull").arg(registry.name(&format!("a:{tag}")))
        };
        put("none", &[]).success();
        let dir = site.path("twice");
        put("twice", &[&first, &again, &first, &again]).arg(&dir).success();
        assert!(dir.join("usr/mark").exists() && dir.join("usr/again").exists());
        let short = &sha256(&again)["sha256:".len()..];
        let asked = registry.server.lines().iter().filter(|line| line.contains(short)).count();
        assert_eq!(asked, 1, "a layer that stands twice in the manifest is downloaded once");
        let many: Vec<&[u8]> = [&first[..]].into_iter().chain(std::iter::repeat_n(&again[..], 499)).collect();
        put("many", &many).success();
        let more: Vec<&[u8]> = many.iter().copied().chain([&again[..]]).collect();
        put("more", &more).stderr_has("501 layers (limit 500)").failure();
    });
}

/// M18: what a layer is called tells nothing of how it is compressed.
#[test]
fn compression_is_told_by_content() {
    needs!("gzip", "zstd", "xz");
    let (site, registry) = (Site::new(), Registry::start());
    let layer = hold::marked("here");
    let pull = |label: &str, tool: &str| {
        let (plain, packed) = (site.path("plain"), site.path("packed"));
        std::fs::write(&plain, &layer).unwrap();
        match tool {
            "" => drop(std::fs::copy(&plain, &packed).unwrap()),
            tool => drop(site.program(tool).arg("-c").arg(&plain).into_file(&packed).success()),
        }
        let packed = std::fs::read(&packed).unwrap();
        let config = hold::config(Some(host()), &[&layer]).to_string().into_bytes();
        registry.blob("a", &packed);
        registry.blob("a", &config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": hold::OCI_MANIFEST,
            "config": hold::descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [hold::descriptor(&format!("application/vnd.oci.image.layer.v1.{label}"), &packed)],
        });
        registry.manifest("a", "1", hold::OCI_MANIFEST, manifest.to_string().as_bytes());
        site.run("pull").args(["--no-cache", &registry.name("a:1")])
    };
    for label in ["tar", "tar+gzip", "tar+zstd", "nondistributable.v1.tar+gzip"] {
        for tool in ["", "gzip", "zstd"] {
            pull(label, tool).success();
        }
        pull(label, "xz").stderr_has("xz compression is not supported\nhint: supported: gzip, zstd, none\n").failure();
    }
    pull("tar+encrypted", "gzip").stderr_has("encrypted layers are not supported").failure();
}

#[test]
fn parse_only_touches_nothing() {
    let (site, registry) = (Site::new(), Registry::start());
    let report = format!(
        "as string:    {0}/a/b:1\nfields:\n  host    '127.0.0.1'\n  port    {1}\n  path    ['a']\n  \
         name    'b'\n  tag     '1'\n  digest  None\n",
        registry.server.name(),
        registry.server.address.port()
    );
    let done = site.run("pull").args(["--parse-only", &registry.name("a/b:1")]).stderr("").success();
    for line in report.lines() {
        assert!(done.stdout.lines().any(|said| said == line), "{line:?} is not in {}", done.stdout);
    }
    assert_eq!(registry.server.connections(), 0);
    assert!(!site.storage().exists());
    site.run("pull")
        .args(["--parse-only", "a//b"])
        .stderr_has("error: image ref syntax, char 3: a//b\nhint: ")
        .failure();
}

#[test]
fn list_of_one() {
    let (site, registry) = (Site::new(), Registry::start());
    hold_index(&registry);
    let layer = hold::marked("alone");
    hold::image(&registry, "a", "alone", &hold::config(Some(host()), &[&layer]), &[&layer]);
    let check = |tag: &str, local: &str, available: &str, aware: &str, archs: &str| {
        let report = format!(
            "details of image:    REGISTRY/a:{tag}\nin local storage:    {local}\nfull remote ref:     REGISTRY/a:{tag}\n\
             available remotely:  {available}\nremote arch-aware:   {aware}\nhost architecture:   {}\n\
             archs available:     {archs}\n",
            host()
        );
        let run = site.run("list").arg(registry.name(&format!("a:{tag}")));
        run.hide(&registry.server.name(), "REGISTRY").stdout(&report).stderr("").success();
    };
    let archs = format!("{} arm/v7 s390x", host());
    check("1", "no", "yes", "yes", &archs);
    check("alone", "no", "yes", "no", "unknown");
    check("none", "no", "no", "n/a", "n/a");
    // Where the registry fails, what is known here is told all the same.
    registry.intercept(|seen, _| seen.path().ends_with("/broken").then(|| Reply::new(200).body("{")));
    let known =
        "details of image:    REGISTRY/a:broken\nin local storage:    no\nfull remote ref:     REGISTRY/a:broken\n";
    let broken = site.run("list").arg(registry.name("a:broken")).hide(&registry.server.name(), "REGISTRY");
    broken.stdout(known).stderr_has("error: ").failure();
    assert!(!site.storage().exists(), "looking makes no storage directory");
    site.run("pull").arg(registry.name("a:1")).success();
    check("1", "yes", "yes", "yes", &archs);

    let of = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&site.run("list").arg("--json").args(args).stderr("").success().stdout).unwrap()
    };
    let one = of(&[&registry.name("a:1")]);
    assert_eq!((&one["local"], &one["available"], &one["arch_aware"]), (&json!(true), &json!(true), &json!(true)));
    assert_eq!(one["archs"], json!([host(), "arm/v7", "s390x"]));
    let all = of(&[]);
    assert_eq!((&all[0]["name"], &all[0]["arch"]), (&json!(registry.name("a:1")), &json!(host())));
    assert!(all[0]["digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(Site::new().run("list").arg("--json").success().stdout, "[]\n");
}

/// In a batch job a slow pull says where it is every ten seconds; on a terminal, one live line.
#[test]
fn progress() {
    let (site, registry) = (Site::new(), Registry::start());
    let content: Vec<u8> = (0..2_000_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let layer = hold::layer(&[("bin/", b""), ("dev/", b""), ("usr/", b""), ("usr/file", &content)]);
    hold::image(&registry, "a", "1", &hold::config(Some(host()), &[&layer]), &[&layer]);
    let (digest, blob) = (sha256(&layer), layer.clone());
    registry.intercept(move |seen, _| {
        let drip = How::Drip(blob.len() / 120, Duration::from_millis(100));
        seen.path().ends_with(&digest).then(|| ranged(seen, &blob).how(drip))
    });
    let name = registry.name("a:1");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let done = site.run("pull").arg(&name).success();
            let short = &sha256(&layer)["sha256:".len()..][..7];
            let begin = format!("layer 1/1: {short}: downloading: ");
            let lines: Vec<_> = done.stderr.lines().filter(|line| line.starts_with(&begin)).collect();
            let most = done.elapsed.as_secs() as usize / 10;
            assert!((1..=most).contains(&lines.len()), "in {:?}: {}", done.elapsed, done.stderr);
            assert!(lines[0].ends_with("%)") && lines[0].contains("/1.9 MiB ("), "{}", lines[0]);
        });
        scope.spawn(|| {
            if crate::harness::skip::find("script").is_none() {
                crate::harness::skip::note("script is not installed");
                return;
            }
            let other = Site::new();
            let command = format!("{} pull {name}", other.path("bin/ch-image").display());
            let script = other.program("script").args(["-qec", &command]).arg(other.path("typescript"));
            let done = script.env("CH_IMAGE_STORAGE", other.storage()).success();
            let (shown, most) = (done.stdout, done.elapsed.as_millis() as usize / 100);
            let drawn = shown.matches("\r\x1b[Kdownloading: ").count();
            assert!((5..=most).contains(&drawn), "{drawn} live lines: {shown:?}");
            assert!(shown.contains("MiB ("), "{shown:?}");
            // It goes before anything else is said.
            assert!(shown.contains("\r\x1b[K\x1b[33mflattening image"), "{shown:?}");
        });
    });
}
