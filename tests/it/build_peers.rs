//! Does buildah make the same images of the table's cases? Run by `tests/tools/compare-buildah.sh`, since it takes minutes.
//!
//! A case that comes out differently must be in `tests/cases/differences.txt` with the reason, and a case in that list
//! must come out differently. Files are compared by type, mode, content and target, configurations by what Dockerfiles say.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::build_cases::{Case, cases, document};
use crate::harness::tree::Tree;
use crate::harness::{Run, Site, image};
use crate::needs;

/// Keys of the configuration that are compared.
const KEYS: &[&str] = &[
    "Env",
    "Cmd",
    "Entrypoint",
    "WorkingDir",
    "User",
    "Labels",
    "ExposedPorts",
    "Volumes",
    "StopSignal",
    "Shell",
    "OnBuild",
];

#[test]
#[ignore = "takes minutes: tests/tools/compare-buildah.sh"]
fn buildah_agrees() {
    needs!("buildah");
    let site = Site::new();
    let listed = differences();
    site.import(image::small(), "base");
    fs::create_dir(site.path("start")).unwrap();
    fs::copy(image::small(), site.path("start/small.tar")).unwrap();
    site.write("start/Dockerfile", "FROM scratch\nADD small.tar /\n");
    buildah(&site, &["bud", "--isolation", "chroot", "-t", "base"]).arg(site.path("start")).success();
    let cases = cases();
    let wanted = std::env::var("CASE").unwrap_or_default();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            if case.name.contains(&wanted) {
                found.lock().unwrap().insert(case.name.clone(), compare(&site, case));
            }
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    let mut wrong = Vec::new();
    for (name, difference) in found.into_inner().unwrap() {
        match (difference, listed.get(&name)) {
            (None, None) => {}
            (Some(_), Some(_)) => {}
            (Some(difference), None) => wrong.push(format!("=== {name} differs:\n{difference}")),
            (None, Some(reason)) => wrong.push(format!("=== {name} does not differ, but is listed: {reason}")),
        }
    }
    buildah(&site, &["rmi", "--all", "--force"]).finish();
    site.program("buildah").args(["unshare", "rm", "-rf"]).arg(site.path("peer")).finish();
    assert!(wrong.is_empty(), "{} cases\n{}", wrong.len(), wrong.join("\n"));
}

fn differences() -> BTreeMap<String, String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/differences.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(": ").map(|(name, why)| (name.into(), why.into())).expect(line)).collect()
}

fn buildah(site: &Site, args: &[&str]) -> Run {
    let at = |name: &str| site.path("peer").join(name);
    let run = site.program("buildah").env("XDG_RUNTIME_DIR", site.path("home"));
    run.arg("--root").arg(at("root")).arg("--runroot").arg(at("run")).args(["--storage-driver", "overlay"]).args(args)
}

/// How the two results differ; `None` if they do not.
fn compare(site: &Site, case: &Case) -> Option<String> {
    let dir = site.path("cases").join(&case.name);
    let given = case.lay_out(&dir);
    let build = |tag: &str, file: &Path, context: &Path, args: &[String]| {
        let mut run = buildah(site, &["bud", "--isolation", "chroot", "--format", "docker", "--layers=false", "-q"]);
        for (name, value) in &case.env {
            run = run.env(name, value);
        }
        run.args(["-t", tag, "-f"]).arg(file).args(args).arg(context).current_dir(&dir).finish()
    };
    if let Some(given) = given {
        let done = site.run("build").args(["-t", &given]).arg(dir.join("base")).finish();
        assert!(done.status.success(), "{}", done.stderr);
        let done = build(&given, &dir.join("base/Dockerfile"), &dir.join("base"), &[]);
        if !done.status.success() {
            return Some(format!("base: {}", done.stderr));
        }
    }
    let ours = case.build(site, &dir).finish();
    let theirs = build(&case.name, &dir.join("Dockerfile"), &dir.join("context"), &case.arguments(&dir));
    match (ours.status.success(), theirs.status.success()) {
        (false, false) => return None,
        (true, true) => {}
        (true, false) => return Some(format!("buildah fails: {}", theirs.stderr)),
        (false, true) => return Some(format!("we fail: {}", ours.stderr)),
    }
    // In an image of scratch there is no shell to ask.
    let has_shell = !document(site, &case.name)["base"].is_null();
    let trees = || Ok::<_, String>((own_tree(site, case, &dir)?, their_tree(site, case, &dir)?));
    let mut found = match has_shell.then(trees) {
        None => Vec::new(),
        Some(Ok((mine, other))) => mine.differences(&other),
        Some(Err(error)) => vec![error],
    };
    let (mine, other) = (document(site, &case.name)["config"]["config"].clone(), their_config(site, case));
    for key in KEYS {
        let plain = |value: &Value| match &value[*key] {
            Value::Object(map) if map.is_empty() => Value::Null,
            Value::Array(list) if list.is_empty() => Value::Null,
            Value::String(text) if text.is_empty() || (*key == "WorkingDir" && text == "/") => Value::Null,
            other => other.clone(),
        };
        if plain(&mine) != plain(&other) {
            found.push(format!("{key}: ours {}, theirs {}", plain(&mine), plain(&other)));
        }
    }
    (!found.is_empty()).then(|| found.join("\n"))
}

fn own_tree(site: &Site, case: &Case, dir: &Path) -> Result<Tree, String> {
    crate::build_cases::tree(site, &case.name, &dir.join("own.tar")).map(tidy)
}

fn their_tree(site: &Site, case: &Case, dir: &Path) -> Result<Tree, String> {
    let tar = dir.join("their.tar");
    let at = |name: &str| site.path("peer").join(name).display().to_string();
    let command = format!("buildah --root {} --runroot {} --storage-driver overlay", at("root"), at("run"));
    let script = format!(
        "c=$({command} from --pull-never {}) && m=$({command} mount $c) && tar -C $m --exclude=./bin -cf {} . && {command} rm $c",
        case.name,
        tar.display()
    );
    let run = site.program("buildah").env("XDG_RUNTIME_DIR", site.path("home"));
    let done = run.args(["unshare", "sh", "-c", &script]).finish();
    if !done.status.success() {
        return Err(done.stderr);
    }
    let mut tree = Tree::of_tarball(&tar).without(Site::GIVEN);
    for made in ["run", "etc/hostname"] {
        tree.0.remove(made);
    }
    fs::remove_file(tar).unwrap();
    Ok(tidy(tree))
}

/// Times of directories and of what RUN made differ from build to build; set-id bits we never have.
fn tidy(mut tree: Tree) -> Tree {
    tree.0.values_mut().for_each(|entry| entry.mtime = 0);
    tree
}

fn their_config(site: &Site, case: &Case) -> Value {
    let done = buildah(site, &["inspect", "--type", "image"]).arg(&case.name).finish();
    let document: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
    let mut config = document["Docker"]["config"].clone();
    // It signs its work.
    if let Some(labels) = config["Labels"].as_object_mut() {
        labels.remove("io.buildah.version");
    }
    config
}
