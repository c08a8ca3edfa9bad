//! Images that other programs saved, as archives and layouts: those that are right become images, others leave nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Site, image, in_each_mode};
use crate::needs;

/// A saved image as it lies in its archive: names and contents, in order.
#[derive(Clone, Default)]
struct Files(Vec<(String, Item)>);

#[derive(Clone)]
enum Item {
    Bytes(Vec<u8>),
    Link(String),
    Fifo,
}

impl Files {
    fn with(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Files {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), Item::Bytes(bytes.into())));
        self
    }

    fn item(mut self, name: &str, item: Item) -> Files {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), item));
        self
    }

    fn without(mut self, name: &str) -> Files {
        self.0.retain(|(known, _)| known != name);
        self
    }

    /// The same below a directory.
    fn below(self, dir: &str) -> Files {
        Files(self.0.into_iter().map(|(name, item)| (format!("{dir}/{name}"), item)).collect())
    }

    fn tar(&self, path: &Path) {
        let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
        for (name, item) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(0);
            match item {
                Item::Bytes(bytes) => {
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, name, &bytes[..]).unwrap();
                }
                Item::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    tar.append_link(&mut header, name, target).unwrap();
                }
                Item::Fifo => {
                    header.set_entry_type(tar::EntryType::Fifo);
                    tar.append_data(&mut header, name, &[][..]).unwrap();
                }
            }
        }
        tar.into_inner().unwrap();
    }

    fn dir(&self, site: &Site, path: &Path) {
        for (name, item) in &self.0 {
            let path = path.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match item {
                Item::Bytes(bytes) => fs::write(&path, bytes).unwrap(),
                Item::Link(target) => symlink(target, &path).unwrap(),
                Item::Fifo => drop(site.program("mkfifo").arg(&path).success()),
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", hex(bytes))
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{}", hex(bytes)), "size": bytes.len()})
}

/// Two layers over the small image's files: the upper one brings a file and hides one. `word` makes images differ.
struct Theirs {
    layers: [Vec<u8>; 2],
    config: Vec<u8>,
}

fn theirs(word: &str) -> Theirs {
    let upper = image::make(&format!("upper-{word}.tar"), |image| {
        image.file("etc/.wh.group", 0o644, b"");
        image.file("opt/theirs", 0o644, format!("{word}\n").as_bytes());
    });
    let layers = [fs::read(image::small()).unwrap(), fs::read(upper).unwrap()];
    let ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hex(layer))).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["WORD=theirs"], "WorkingDir": "/opt", "Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    Theirs { layers, config: config.to_string().into_bytes() }
}

impl Theirs {
    /// As `docker save` wrote it for years.
    fn docker(&self, tags: &Value) -> Files {
        let mut files = Files::default();
        let mut names = Vec::new();
        for layer in &self.layers {
            names.push(format!("{}/layer.tar", hex(layer)));
            files = files.with(names.last().unwrap(), layer.clone());
        }
        let config = format!("{}.json", hex(&self.config));
        files = files.with(&config, self.config.clone());
        let document = json!([{"Config": config, "RepoTags": tags, "Layers": names}]);
        files.with("manifest.json", document.to_string())
    }

    fn manifest(&self) -> Vec<u8> {
        let layers: Vec<Value> = self.layers.iter().map(|layer| descriptor("layer.v1.tar", layer)).collect();
        let config = descriptor("config.v1+json", &self.config);
        json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string().into_bytes()
    }

    fn blobs(&self) -> Files {
        let manifest = self.manifest();
        let all = self.layers.iter().chain([&self.config, &manifest]);
        all.fold(Files::default(), |files, bytes| files.with(&blob(bytes), bytes.clone()))
    }

    fn entry(&self, name: Option<&str>) -> Value {
        let mut entry = descriptor("manifest.v1+json", &self.manifest());
        if let Some(name) = name {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        entry
    }

    fn layout(&self) -> Files {
        layout(self.blobs(), json!([self.entry(None)]))
    }
}

fn layout(blobs: Files, entries: Value) -> Files {
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    blobs.with("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#).with("index.json", index)
}

/// The image works, and has what its layers and its configuration say.
fn check(site: &Site, operand: &str, word: &str) {
    site.run("import").args([operand, "got"]).success();
    let script = "cat theirs; echo $WORD; pwd; test ! -e /etc/group";
    let run = site.ch_run_with(&["--set-env"], "got").args(["sh", "-c", script]);
    run.stdout(&format!("{word}\ntheirs\n/opt\n")).success();
    site.run("delete").arg("got").success();
}

#[test]
fn saved_images_are_imported() {
    in_each_mode(|site| {
        let theirs = theirs("one");
        let path = |name: &str| site.path(name).to_str().unwrap().to_owned();
        let tar = |name: &str, files: &Files| {
            files.tar(&site.path(name));
            path(name)
        };
        let docker = theirs.docker(&json!(["x:1"]));
        check(site, &tar("docker.tar", &docker), "one");
        check(site, &format!("docker-archive:{}", path("docker.tar")), "one");
        check(site, &format!("docker-archive:{}:x:1", path("docker.tar")), "one");
        docker.dir(site, &site.path("docker"));
        check(site, &path("docker"), "one");
        // Two images that share a layer: of old, one of them had a link to it.
        let (first, name) = (&theirs.layers[0], format!("{}/layer.tar", "ab".repeat(32)));
        let document = json!([{"Config": format!("{}.json", hex(&theirs.config)), "RepoTags": null,
            "Layers": [name, format!("{}/layer.tar", hex(&theirs.layers[1]))]}]);
        let link = Item::Link(format!("../{}/layer.tar", hex(first)));
        let linked = docker.clone().item(&name, link).with("manifest.json", document.to_string());
        check(site, &tar("linked.tar", &linked), "one");

        let layout = theirs.layout();
        check(site, &tar("oci.tar", &layout), "one");
        check(site, &format!("oci-archive:{}", path("oci.tar")), "one");
        layout.dir(site, &site.path("oci"));
        check(site, &path("oci"), "one");
        check(site, &format!("oci:{}", path("oci")), "one");
        // Today's docker save: both documents.
        let blobs = [&theirs.layers[0], &theirs.layers[1]].map(|layer| blob(layer));
        let document = json!([{"Config": blob(&theirs.config), "RepoTags": ["x:1"], "Layers": blobs}]).to_string();
        check(site, &tar("both.tar", &layout.clone().with("manifest.json", document.clone())), "one");
        check(site, &tar("new.tar", &layout.without("index.json").with("manifest.json", document)), "one");
        // Compressed as a whole.
        for name in ["docker.tar", "oci.tar"] {
            site.program("gzip").arg("-k").arg(site.path(name)).success();
            check(site, &path(&format!("{name}.gz")), "one");
        }
        // Layers that are there already are not unpacked again.
        site.run("import").args([&path("oci.tar"), "kept"]).success();
        let again = site.run("import").args([&path("docker.tar"), "again"]);
        again.stderr_has(": using existing layer\n").stderr_lacks("extracting").success();
        site.build("next", "FROM kept\nRUN cat theirs\n").stdout("one\n").success();
    });
}

#[test]
fn saved_layers_may_be_compressed() {
    needs!("zstd");
    in_each_mode(|site| {
        let theirs = theirs("packed");
        let packed = |program: &str, bytes: &[u8]| {
            let path = site.path("layer");
            fs::write(&path, bytes).unwrap();
            site.program(program).arg("-c").arg(&path).into_file(&site.path("layer.packed")).success();
            fs::read(site.path("layer.packed")).unwrap()
        };
        let layers = [packed("gzip", &theirs.layers[0]), packed("zstd", &theirs.layers[1])];
        // As compressed as it is, whatever the label says.
        let named: Vec<Value> = layers.iter().map(|layer| descriptor("layer.v1.tar+gzip", layer)).collect();
        let config = descriptor("config.v1+json", &theirs.config);
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": named}).to_string().into_bytes();
        let all = layers.iter().chain([&theirs.config, &manifest]);
        let blobs = all.fold(Files::default(), |files, bytes| files.with(&blob(bytes), bytes.clone()));
        layout(blobs, json!([descriptor("manifest.v1+json", &manifest)])).tar(&site.path("oci.tar"));
        check(site, site.path("oci.tar").to_str().unwrap(), "packed");
    });
}

#[test]
fn one_of_several_saved_images() {
    let site = Site::new();
    let (one, two) = (theirs("one"), theirs("two"));
    let mut files = one.docker(&json!(["x:1", "y:latest"]));
    let second = two.docker(&json!(["x:2"]));
    let document = |files: &Files| -> Vec<Value> {
        let Item::Bytes(bytes) = &files.0.iter().find(|(name, _)| name == "manifest.json").unwrap().1 else { panic!() };
        serde_json::from_slice(bytes).unwrap()
    };
    let all = [document(&files), document(&second)].concat();
    files = second.0.into_iter().fold(files, |files, (name, item)| files.item(&name, item));
    files.with("manifest.json", Value::from(all).to_string()).tar(&site.path("docker.tar"));
    let both = two.blobs().0.into_iter().fold(one.blobs(), |files, (name, item)| files.item(&name, item));
    let entries = json!([one.entry(Some("1")), two.entry(Some("2")), two.entry(Some("docker.io/library/x:2"))]);
    layout(both, entries).dir(&site, &site.path("oci"));
    let run = |operand: &str, name: &str| {
        let operand = operand.replace("DIR", site.path("").to_str().unwrap());
        site.run("import").args([&operand, name])
    };
    let holds = |operand: &str, name: &str, word: &str| {
        run(operand, name).stderr_has("images:       ").success();
        site.ch_run(name).args(["cat", "/opt/theirs"]).stdout(&format!("{word}\n")).success();
    };
    holds("DIR/docker.tar", "any", "one");
    holds("DIR/docker.tar", "x:2", "two");
    holds("docker-archive:DIR/docker.tar:x:2", "any", "two");
    holds("docker-archive:DIR/docker.tar:y", "any", "one");
    holds("DIR/oci", "any", "one");
    holds("oci:DIR/oci:2", "any", "two");
    holds("DIR/oci", "x:2", "two");
    run("docker-archive:DIR/docker.tar:z", "no")
        .stderr_has("no image of the name \"z\" is in it\nhint: it has: \"x:1\" \"y:latest\" \"x:2\"\n")
        .failure();
    run("oci:DIR/oci:3", "no").stderr_has("hint: it has: \"1\" \"2\" \"docker.io/library/x:2\"\n").failure();
}

/// Of an image for several architectures the wanted one is taken; of one alone, that one.
#[test]
fn saved_images_for_several_architectures() {
    let site = Site::new();
    let (one, two) = (theirs("one"), theirs("two"));
    let platform = |theirs: &Theirs, arch: &str| {
        let mut entry = theirs.entry(Some("1"));
        entry["platform"] = json!({"os": "linux", "architecture": arch});
        entry
    };
    let both = two.blobs().0.into_iter().fold(one.blobs(), |files, (name, item)| files.item(&name, item));
    let entries = [platform(&one, "arm64"), platform(&two, "s390x")];
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string().into_bytes();
    let nested = json!([descriptor("index.v1+json", &index)]);
    layout(both.clone().with(&blob(&index), index), nested).tar(&site.path("nested.tar"));
    layout(both, Value::from(&entries[..])).tar(&site.path("flat.tar"));
    for name in ["flat.tar", "nested.tar"] {
        for (arch, word) in [("arm64", "one"), ("s390x", "two")] {
            site.run("import").args(["--arch", arch]).arg(site.path(name)).arg("x").success();
            site.ch_run("x").args(["cat", "/opt/theirs"]).stdout(&format!("{word}\n")).success();
        }
        let run = site.run("import").args(["--arch", "mips"]).arg(site.path(name)).arg("x");
        run.stderr_has("requested arch unavailable: mips\nhint: available: arm64 s390x\n").failure();
    }
}

#[test]
fn wrong_saved_images_leave_nothing() {
    let site = Site::new();
    let theirs = theirs("one");
    site.write("secret", "not for you\n");
    let (docker, layout_files) = (theirs.docker(&json!(["x:1"])), theirs.layout());
    let (first, second) = (&theirs.layers[0], &theirs.layers[1]);
    let (layer, other) = (format!("{}/layer.tar", hex(first)), format!("{}/layer.tar", hex(second)));
    let fails = |operand: PathBuf, want: &str| {
        let run = site.run("import").arg(&operand).arg("bad").stderr_lacks("not for you");
        let done = run.limit(std::time::Duration::from_secs(60)).failure();
        assert!(done.stderr.contains(want), "{}: no {want:?} in {}", operand.display(), done.stderr);
        assert!(site.images().is_empty());
    };
    let tar = |files: Files, want: &str| {
        files.tar(&site.path("bad.tar"));
        fails(site.path("bad.tar"), want);
    };
    let dir = |files: Files, want: &str| {
        let path = site.path("bad");
        let _ = fs::remove_dir_all(&path);
        files.dir(&site, &path);
        fails(path, want);
    };
    let link = |target: &str| Item::Link(target.to_owned());
    let changed = |bytes: &[u8]| [bytes, &[0; 512]].concat();
    let other_bytes = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        // In the middle of a file's content, most likely: the small image is a large program or two.
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };

    // Layouts: what differs from its descriptor, is missing, or is no file (M27).
    for act in [&tar as &dyn Fn(Files, &str), &dir] {
        let blob_of = |bytes: &[u8]| blob(bytes);
        act(layout_files.clone().with(&blob_of(first), other_bytes(first)), "content differs from its digest");
        act(layout_files.clone().with(&blob_of(first), changed(first)), "bytes, not as many as its manifest says");
        act(layout_files.clone().with(&blob_of(&theirs.config), "{}"), "differs from its digest or size");
        act(layout_files.clone().with(&blob_of(&theirs.manifest()), "{}"), "differs from its digest or size");
        act(layout_files.clone().without(&blob_of(first)), " is missing");
        act(layout_files.clone().without(&blob_of(&theirs.config)), " is missing");
        act(layout_files.clone().with("index.json", "{"), "invalid JSON");
        act(layout_files.clone().with("index.json", "{\"manifests\": []}"), "there is no image in it");
        act(layout_files.clone().item(&blob_of(first), Item::Fifo), "not a regular file");
        act(layout_files.clone().item(&blob_of(&theirs.config), Item::Fifo), "not a regular file");
        let kept = layout_files.clone().with("aside", first.clone());
        act(kept.item(&blob_of(first), link("../../aside")), "link is refused here");
        act(layout_files.clone().item(&blob_of(first), link(&blob_of(first))), "link is refused here");
        // Docker archives: links in a circle (M28), out of it, to nothing; what is no file.
        act(docker.clone().item(&layer, link("layer.tar")), "");
        let circle =
            docker.clone().item(&layer, link(&format!("../{other}"))).item(&other, link(&format!("../{layer}")));
        act(circle, "layer 1/2: ");
        act(docker.clone().item(&layer, link("../../secret")), "");
        act(docker.clone().item(&layer, link(site.path("secret").to_str().unwrap())), "");
        act(docker.clone().item(&layer, link("nothing")), " is missing");
        act(docker.clone().item(&layer, Item::Fifo), "not a regular file");
        act(docker.clone().without(&layer), " is missing");
        act(docker.clone().with(&layer, other_bytes(first)), "content differs from the image's configuration");
        act(docker.clone().with(&format!("{}.json", hex(&theirs.config)), "{}"), "differs from its digest");
        act(docker.clone().without(&format!("{}.json", hex(&theirs.config))), " is missing");
        act(
            docker.clone().with("manifest.json", "[{\"Config\": \"../../secret\", \"Layers\": []}]"),
            "'..' is refused",
        );
        act(docker.clone().with("manifest.json", "[]"), "there is no image in it");
        act(docker.clone().with("manifest.json", "["), "invalid JSON");
    }
    // A saved image, but not at the top of the archive.
    tar(docker.clone().below("saved"), "a saved image, but in a directory of the archive, or damaged");
    tar(layout_files.clone().below("saved"), "a saved image, but in a directory of the archive, or damaged");
    let nested = |depth: usize| {
        let mut entry = theirs.entry(None);
        let mut blobs = theirs.blobs();
        for _ in 0..depth {
            let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes();
            entry = descriptor("index.v1+json", &index);
            blobs = blobs.with(&blob(&index), index);
        }
        layout(blobs, json!([entry]))
    };
    tar(nested(5), "indexes nested too deep");
    docker.tar(&site.path("good.tar"));
    let good = fs::read(site.path("good.tar")).unwrap();
    fs::write(site.path("bad.tar"), &good[..good.len() / 2]).unwrap();
    fails(site.path("bad.tar"), "archive is truncated");
    fails(format!("oci-archive:{}", site.path("good.tar").display()).into(), "no saved image of that format in it");
    nested(4).tar(&site.path("deep.tar"));
    site.run("import").arg(site.path("deep.tar")).arg("deep").success();
}
