//! Layers of the legitimate kind, however odd: applied to a tree (plain form), and unpacked side by side, reconciled and
//! merged (overlay form), both must give the tree that is expected.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::testing::{Scratch, Tar, listing, stack_listing};
use super::{Form, Limits, PackOptions, Root, Stack, fingerprint, pack, reconcile, unpack};

fn plain(scratch: &Scratch, layers: &[&str]) -> Result<Vec<String>, String> {
    let root = scratch.root("plain");
    let mut content = Some(0u64);
    for (i, layer) in layers.iter().enumerate() {
        let unpacked = unpack(&mut &Tar::of(layer)[..], &root, Form::Plain, &format!("layer {i}"), &Limits::none())
            .map_err(|e| e.to_string())?;
        content = content.zip(unpacked.content).map(|(had, new)| had.wrapping_add(new));
    }
    let read = fingerprint(&scratch.path("plain")).unwrap();
    assert!(content.is_none_or(|content| content == read), "content of {layers:?}");
    Ok(listing(&scratch.path("plain")))
}

fn overlay(scratch: &Scratch, layers: &[&str]) -> Result<Vec<PathBuf>, String> {
    let mut paths = Vec::new();
    let mut unpacked = Vec::new();
    // All unpacked before any is reconciled, as pull does.
    for (i, layer) in layers.iter().enumerate() {
        let root = scratch.root(&format!("l{i}"));
        paths.push(scratch.path(&format!("l{i}")));
        unpacked.push(
            unpack(&mut &Tar::of(layer)[..], &root, Form::Overlay, &format!("layer {i}"), &Limits::none())
                .map_err(|e| e.to_string())?,
        );
    }
    let mut lower = Stack::new(Vec::new()).remembering();
    for (i, unpacked) in unpacked.iter_mut().enumerate() {
        let root = Root::open(&paths[i]).unwrap();
        let content = reconcile(unpacked, &root, &lower).map_err(|e| e.to_string())?;
        lower.push(Root::open(&paths[i]).unwrap());
        let read = fingerprint(&paths[i]).unwrap();
        assert!(content.is_none_or(|content| content == read), "content of layer {i} of {layers:?}");
    }
    Ok(paths)
}

/// What the kernel shows of the layers: names only. `None` where it will not mount.
fn kernel(scratch: &Scratch, layers: &[PathBuf]) -> Option<Vec<String>> {
    let empty = scratch.path("empty");
    let _ = std::fs::create_dir(&empty);
    let mut stack: Vec<String> = layers.iter().rev().map(|p| p.display().to_string()).collect();
    stack.push(empty.display().to_string());
    let script = format!(
        "mount -t overlay overlay -o userxattr,lowerdir={} /mnt && cd /mnt && find . -mindepth 1 -printf '%P %y\\n'",
        stack.join(":")
    );
    let out = Command::new("unshare").args(["-Urm", "sh", "-c", &script]).output().ok()?;
    if !out.status.success() {
        return None;
    }
    let mut names: Vec<String> = String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect();
    names.sort();
    Some(names)
}

fn names(stack: &Stack) -> Vec<String> {
    let mut names: Vec<String> = stack_listing(stack)
        .iter()
        .map(|word| {
            let (name, kind) = match word {
                w if w.contains("->") => (w.split("->").next().unwrap(), 'l'),
                w if w.contains('=') => (w.split('=').next().unwrap(), 'f'),
                w => (w.split('/').rev().skip(1).fold("", |_, _| &w[..w.rfind('/').unwrap()]), 'd'),
            };
            format!("{name} {kind}")
        })
        .collect();
    names.sort();
    names
}

fn check(layers: &[&str], expected: &str) {
    let scratch = Scratch::new();
    let shown = |result: Result<Vec<String>, String>| match result {
        Ok(words) => words.join(" "),
        Err(e) => format!("error: {e}"),
    };
    assert_eq!(shown(plain(&scratch, layers)), expected, "plain: {layers:#?}");
    let paths = overlay(&scratch, layers);
    let merged = paths.as_ref().map(|paths| stack_listing(&Stack::open(paths).unwrap())).map_err(String::clone);
    assert_eq!(shown(merged), expected, "overlay: {layers:#?}");
    if let Ok(paths) = paths {
        match kernel(&scratch, &paths) {
            Some(shown) => assert_eq!(shown, names(&Stack::open(&paths).unwrap()), "kernel: {layers:#?}"),
            None => assert!(std::env::var_os("CH_TEST_MUST_RUN").is_none(), "no overlay mount in a user namespace"),
        }
    }
}

#[test]
fn root_directories() {
    let check = |layers: &[&str], mode: u32| {
        let scratch = Scratch::new();
        plain(&scratch, layers).unwrap();
        let top = overlay(&scratch, layers).unwrap().pop().unwrap();
        for path in [scratch.path("plain"), top] {
            let meta = path.metadata().unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.mtime()), (mode, 1_000_000_007), "{layers:?} {}", path.display());
        }
    };
    check(&["./@751 a=1"], 0o751);
    check(&["./@751 a=1", "b=2"], 0o751);
    check(&["./@751 a=1", "b=2", "c/ .wh.a", ".wh..wh..opq"], 0o751);
    check(&["./@751", "./@1777 a=1", "b=2"], 0o1777);
    check(&["./@511 a=1", "b=2"], 0o711);
}

#[test]
fn whiteouts() {
    check(&["a=1 b=2", ".wh.a"], "b=2");
    check(&["a=1 b=2", "./.wh.a"], "b=2");
    check(&["d/ d/a=1 d/b=2", ".wh.d"], "");
    check(&["d/ d/a=1 d/b=2", "d/.wh.a"], "d/ d/b=2");
    check(&["d/ d/a=1", "d/ d/.wh..wh..opq d/b=2"], "d/ d/b=2");
    check(&["d/ d/a=1", "d/ d/b=2 d/.wh..wh..opq"], "d/ d/b=2");
    check(&["d/ d/e/ d/e/a=1", "d/ d/e/ d/e/b=2 d/.wh..wh..opq"], "d/ d/e/ d/e/b=2");
    check(&["a=1 d/ d/b=2", ".wh..wh..opq c=3"], "c=3");
    check(&["a=1 d/ d/b=2", "d/c=3 .wh..wh..opq"], "d/ d/c=3");
    // Only lower layers, whatever the order.
    check(&["a=1", ".wh.a a=2"], "a=2");
    check(&["a=1", "a=2 .wh.a"], "a=2");
    check(&["d/ d/a=1", ".wh.d d/ d/b=2"], "d/ d/b=2");
    check(&["d/ d/a=1", "d/ d/b=2 .wh.d"], "d/ d/b=2");
    check(&["d/ d/a=1", ".wh.d d/b=2"], "d/ d/b=2");
    check(&["d/ d/a=1", "d/b=2 .wh.d"], "d/ d/b=2");
    check(&["d/@700 d/a=1", "d/b=2 .wh.d"], "d/ d/b=2");
    // Of nothing; through links; as other types; twice.
    check(&["a=1", ".wh.b d/.wh.c"], "a=1 d/");
    // Below a link there is nothing of that name, whichever layer the link is of.
    let (base, kept) = ("run/ run/a=1 run/d/ run/d/e=1 var/ var/run->/run", "run/ run/a=1 run/d/ run/d/e=1");
    for markers in ["var/run/.wh.a", "var/run/.wh..wh..opq", "var/run/.wh.d var/run/d/.wh.e", "var/run/x/y/.wh.z"] {
        check(&[base, markers], &format!("{kept} var/ var/run->/run"));
        check(&[base, &format!("{markers} var/run/b=2")], "run/ run/a=1 run/b=2 run/d/ run/d/e=1 var/ var/run->/run");
        check(&[base, &format!("var/run/d/f=2 {markers}")], &format!("{kept} run/d/f=2 var/ var/run->/run"));
        let same = format!("foo/ foo/a=1 foo/d/ {base}");
        check(
            &[&same, &format!("foo->/run {}", markers.replace("var/run", "foo"))],
            &format!("foo->/run {kept} var/ var/run->/run"),
        );
    }
    check(&["l->/no/where", "l/.wh.a l/b/.wh.c"], "l->/no/where");
    check(&["foo/ foo/bar=1 baz/ baz/bar=2", "foo->baz foo/.wh.bar"], "baz/ baz/bar=2 foo->baz");
    check(
        &["foo/ foo/bar=1 baz/ baz/bar=2", "baz/c=3 foo->baz foo/.wh.bar foo/.wh..wh..opq"],
        "baz/ baz/bar=2 baz/c=3 foo->baz",
    );
    check(&["x/ x/d/ x/d/a=1 l->x", "l/d=2 l/d/ l/d/b=3"], "l->x x/ x/d/ x/d/b=3");
    check(&["x/ x/d/ x/d/a=1 l->x", "l/.wh.d l/d/ l/d/b=3"], "l->x x/ x/d/ x/d/a=1 x/d/b=3");
    check(&["run/ run/a=1 var/ var/run->/run", "var/.wh.run"], "run/ run/a=1 var/");
    check(&["a=1 b=2", ".wh.a/ .wh.b->x"], "");
    check(&["a=1 b=2", ".wh.a .wh.a"], "b=2");
    check(&["a=1", ".wh.a", "a=2", ".wh.a", "a=3"], "a=3");
    check(&["d/ d/a=1", ".wh.d", "d/ d/b=2", "d/c=3"], "d/ d/b=2 d/c=3");
    // aufs's own.
    check(&["a=1", ".wh..wh.plnk/ .wh..wh.plnk/1.2=x .wh..wh.aufs b=2"], "a=1 b=2");
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", ".wh.x/y"] {
        check(&[&format!("{name}=")], &format!("error: layer 0: member {name}: malformed whiteout"));
    }
}

#[test]
fn types_change() {
    check(&["d/ d/a=1", "d=2"], "d=2");
    check(&["d/ d/a=1", "d->/x"], "d->/x");
    check(&["f=1", "f/ f/a=2"], "f/ f/a=2");
    check(&["l->/x x/ x/a=1", "l/ l/b=2"], "l/ l/b=2 x/ x/a=1");
    check(&["d/ d/a=1 x/", "d->/x", "d/ d/b=2"], "d/ d/b=2 x/");
    check(&["d/ d/a=1 x/", "d->x", "d/b=2"], "d->x x/ x/b=2");
    check(&["l->/x x/", "l=1"], "l=1 x/");
    check(&["a=1", "a=22@600"], "a=22@600");
    // Within one layer the last counts.
    check(&["d/ d/a=1", "d=2 d/ d/b=3"], "d/ d/b=3");
    check(&["d/ d/a=1", "d->/x d/ d/b=3"], "d/ d/b=3");
    check(&["a=1 a=2 a/ a/b=3"], "a/ a/b=3");
    check(&["a/ a/b=1 a=2"], "a=2");
    check(&["x/ a->x a/b=1 a/ a/c=2"], "a/ a/c=2 x/ x/b=1");
    // A file is no parent.
    check(&["f=1 f/a=2"], "error: layer 0: member f/a: can't use f as directory: Not a directory");
    check(&["A=1 a=2 \u{e4}=3 a\u{308}=4"], "A=1 a=2 a\u{308}=4 \u{e4}=3");
}

#[test]
fn a_file_below_is_no_parent() {
    let scratch = Scratch::new();
    assert!(plain(&scratch, &["f=1", "f/a=2"]).unwrap_err().contains("Not a directory"));
    assert!(overlay(&scratch, &["f=1", "f/a=2"]).unwrap_err().contains("not a directory in the lower layers"));
}

#[test]
fn parents_that_are_links() {
    let below = "run/ var/ var/run->/run";
    check(&[below, "var/run/a=1"], "run/ run/a=1 var/ var/run->/run");
    check(&[&format!("{below} var/run/a=1")], "run/ run/a=1 var/ var/run->/run");
    check(&[below, "var/run/d/e/a=1"], "run/ run/d/ run/d/e/ run/d/e/a=1 var/ var/run->/run");
    check(&[below, "var/run/d/@700 var/run/d/a=1"], "run/ run/d/@700 run/d/a=1 var/ var/run->/run");
    check(&[below, "run/a=1 var/run/b=2"], "run/ run/a=1 run/b=2 var/ var/run->/run");
    check(&[below, "run/d/ run/d/a=1 var/run/d/b=2"], "run/ run/d/ run/d/a=1 run/d/b=2 var/ var/run->/run");
    check(&["run/@711 var/ var/run->../run", "var/run/a=1"], "run/@711 run/a=1 var/ var/run->../run");
    check(&["b/ b/c/ c->/b", "b/c/@775 c/c/d/@705"], "b/ b/c/@775 b/c/d/@705 c->/b");
    check(&["l->../../../x x/", "l/a=1"], "l->../../../x x/ x/a=1");
    check(&["x/ b->x a->b", "a/f=1"], "a->b b->x x/ x/f=1");
    check(&["x/ b->x", "a->b", "a/f=1"], "a->b b->x x/ x/f=1");
    check(&["x/ x/y->/z z/ l->x", "l/y/f=1"], "l->x x/ x/y->/z z/ z/f=1");
    check(&["l->/no/where", "l/f=1"], "l->/no/where no/ no/where/ no/where/f=1");
    check(&["l->/no/where l/f=1"], "l->/no/where no/ no/where/ no/where/f=1");
    check(&["l->/x", "x/ x/f=1", "l/g=2"], "l->/x x/ x/f=1 x/g=2");
    check(&["x/ x/f=1", "l->x l/g=2"], "l->x x/ x/f=1 x/g=2");
    check(
        &["lib->usr/lib usr/ usr/lib/", "lib/a/ lib/a/f=1 lib/b=2"],
        "lib->usr/lib usr/ usr/lib/ usr/lib/a/ usr/lib/a/f=1 usr/lib/b=2",
    );
    for layers in [&["l->l", "l/f=1"][..], &["a->b b->a", "a/f=1"], &["l->l l/f=1"]] {
        let scratch = Scratch::new();
        assert!(plain(&scratch, layers).unwrap_err().contains("symbolic links"), "{layers:?}");
        assert!(overlay(&scratch, layers).unwrap_err().contains("symbolic links"), "{layers:?}");
    }
}

#[test]
fn hard_links() {
    let check = |layers: &[&str], expected: &str, pairs: &[(&str, &str)]| {
        check(layers, expected);
        let scratch = Scratch::new();
        plain(&scratch, layers).unwrap();
        let paths = overlay(&scratch, layers).unwrap();
        for (a, b) in pairs {
            let ino = |root: &Path, name: &str| root.join(name).symlink_metadata().unwrap().ino();
            let tree = scratch.path("plain");
            assert_eq!(ino(&tree, a), ino(&tree, b), "{layers:?}");
            let top = paths.last().unwrap();
            assert_eq!(ino(top, a), ino(top, b), "{layers:?}");
        }
    };
    check(&["a=1@600 b=>a"], "a=1@600 b=1@600", &[("a", "b")]);
    check(&["a=1 d/b=>/a"], "a=1 d/ d/b=1", &[("a", "d/b")]);
    check(&["a=1@600", "b=>a"], "a=1@600 b=1@600", &[("a", "b")]);
    check(&["a=1", "b=>a c=>b d=>a"], "a=1 b=1 c=1 d=1", &[("a", "b"), ("a", "c"), ("a", "d")]);
    check(&["d/@711 d/a=1", "e/b=>d/a"], "d/@711 d/a=1 e/ e/b=1", &[("d/a", "e/b")]);
    check(
        &["run/ var/ var/run->/run", "run/a=1 b=>var/run/a"],
        "b=1 run/ run/a=1 var/ var/run->/run",
        &[("b", "run/a")],
    );
    check(
        &["run/ run/a=1 var/ var/run->/run", "b=>var/run/a"],
        "b=1 run/ run/a=1 var/ var/run->/run",
        &[("b", "run/a")],
    );
    check(
        &["run/ run/a=1 var/ var/run->/run", "var/run/b=>run/a"],
        "run/ run/a=1 run/b=1 var/ var/run->/run",
        &[("run/b", "run/a")],
    );
    check(&["l->/x m=>l"], "l->/x m->/x", &[("l", "m")]);
    check(&["l->/x", "m=>l"], "l->/x m->/x", &[("l", "m")]);
    check(&["a=1 b=2", "b=>a"], "a=1 b=1", &[("a", "b")]);
    check(&["a=1 b/ b/c=2", "b=>a"], "a=1 b=1", &[("a", "b")]);
    check(&["a=1 a=>a"], "a=1", &[]);
    check(&["a=1", "a=>a"], "a=1", &[]);
    check(&["a=1", "b=>a b=2"], "a=1 b=2", &[]);
    check(&["a=1", "b=>a .wh.b"], "a=1 b=1", &[("a", "b")]);
    check(&["c! d=>c"], "", &[]);
    let check = super::layer_tests::check;
    check(&["a=>b"], "error: layer 0: member a: hard link target not found: b");
    check(&["a=>a"], "error: layer 0: member a: hard link target not found: a");
    check(&["a=1 .wh.x", "b=>x"], "error: layer 1: member b: hard link target not found: x");
    check(&["d/ a=>d"], "error: layer 0: member a: hard link to a directory: d");
    check(&["d/", "a=>d"], "error: layer 1: member a: hard link to a directory: d");
    check(&["a=1 b=>../a"], "error: layer 0: member b: hard link target ../a: path with '..' is refused");
    check(&["d/ d/a=1", "d/b=>d/a d=2"], "d=2");
    // A link means what was there before it.
    check(&["a=>b b=1"], "error: layer 0: member a: hard link target not found: b");
    check(&["a=>b c=1 b=>c"], "error: layer 0: member a: hard link target not found: b");
    for hide in ["d/.wh.a", "d/.wh..wh..opq", ".wh.d", ".wh..wh..opq", ".wh.d d/b=2", "d=2"] {
        let error = "error: layer 1: member c: hard link target not found: d/a";
        check(&["d/ d/a=1", &format!("{hide} c=>d/a")], error);
    }
    check(&["d/ d/a=1", "b=>d/a d/.wh..wh..opq c=>b"], "b=1 c=1 d/");
    check(&["b=1", "a=>b b=2"], "a=1 b=2");
    check(&["b=1", "a=>b c=>a b=2 d=>c"], "a=1 b=2 c=1 d=1");
    check(&["b=1", "a=>b a=2 c=>b b=3 c=>a"], "a=2 b=3 c=2");
    check(&["b=1", "a=>b b/ b/x=2"], "a=1 b/ b/x=2");
    check(&["b=1", "a=>b .wh.b"], "a=1");
    check(&["d/ d/b=1 d/c=2", "d/a=>d/b d/.wh..wh..opq"], "d/ d/a=1");
    check(&["b=1", ".wh.b a=>b"], "error: layer 1: member a: hard link target not found: b");
}

#[test]
fn metadata() {
    // Permissions are raised, set-user-ID and set-group-ID dropped; sticky stays.
    check(&["d/@000 d/a=1@000 s=1@4755 g=1@2755 t/@1777 sg/@2775"], "d/@700 d/a=1@600 g=1@755 s=1@755 sg/@775 t/@1777");
    check(&["d/@000", "d/a=1", "d/e/f=2"], "d/@700 d/a=1 d/e/ d/e/f=2");
    check(&["d/@711 d/e/@750", "d/e/a=1"], "d/@711 d/e/@750 d/e/a=1");
    check(&["d/@711 d/e/@750", "d/e/a=1", "d/@700"], "d/@700 d/e/@750 d/e/a=1");
    check(&["./@711 ./a=1 b=2 /c=3 //d//e=4 ./././f=5"], "a=1 b=2 c=3 d/ d/e=4 f=5");

    let scratch = Scratch::new();
    let layers = ["d/ d/e/ run/ var/ var/run->/run", "d/e/a=1 var/run/b=2"];
    plain(&scratch, &layers).unwrap();
    let paths = overlay(&scratch, &layers).unwrap();
    let stack = Stack::open(&paths).unwrap();
    for name in ["d", "d/e", "d/e/a", "run", "run/b", "var", "var/run"] {
        let stat = stack.lookup(Path::new(name), super::Last::Keep).unwrap().unwrap().stat;
        assert_eq!(stat.mtime.sec, 0o7346545007, "overlay {name}");
        assert_eq!(scratch.path("plain").join(name).symlink_metadata().unwrap().mtime(), 0o7346545007, "plain {name}");
    }
    let top = paths[1].join("d/e").metadata().unwrap();
    assert_eq!(top.mtime(), 0o7346545007);
}

#[test]
fn devices_are_counted_and_names_in_the_way_stay() {
    let scratch = Scratch::new();
    let tar = Tar::of("dev/ dev/null! a=1");
    let unpacked = unpack(&mut &tar[..], &scratch.root("r"), Form::Overlay, "l", &Limits::none()).unwrap();
    assert_eq!((unpacked.ignored_devices, unpacked.entries, unpacked.bytes), (1, 3, 1));
    assert_eq!(listing(&scratch.path("r")), ["a=1", "dev/"]);
}

#[test]
fn what_is_packed_unpacks_to_the_same() {
    let deep = format!("{0}/{0}/{0}/", "n".repeat(120));
    let long = format!("{deep}{}=x", "f".repeat(200));
    let target = format!("l->/{}", "t".repeat(3000));
    let words = format!(
        "d/@1777 d/a=1@600 d/b=>d/a {deep} {long} {target} z->.. empty= n/ n/ü=1 p{}/ p{0}/{}=y",
        "p".repeat(60),
        "q".repeat(99)
    );
    let layers = [words.as_str(), "d/c=3 .wh.empty n/ n/.wh..wh..opq"];
    let scratch = Scratch::new();
    let stack = Stack::open(&overlay(&scratch, &layers).unwrap()).unwrap();
    let mut tar = Vec::new();
    pack(&stack, &mut tar, &PackOptions::default()).unwrap();
    let mut again = Vec::new();
    pack(&stack, &mut again, &PackOptions::default()).unwrap();
    assert!(tar == again && tar.len() % 512 == 0);
    let copy = scratch.root("copy");
    unpack(&mut &tar[..], &copy, Form::Overlay, "copy", &Limits::none()).unwrap();
    assert_eq!(listing(&scratch.path("copy")), stack_listing(&stack));
    // And from the plain tree.
    plain(&scratch, &layers).unwrap();
    let mut other = Vec::new();
    pack(&Stack::open(&[scratch.path("plain")]).unwrap(), &mut other, &PackOptions::default()).unwrap();
    let copy = scratch.root("copy2");
    unpack(&mut &other[..], &copy, Form::Overlay, "copy", &Limits::none()).unwrap();
    assert_eq!(listing(&scratch.path("copy2")), stack_listing(&stack));
    // Others read it as we do.
    std::fs::write(scratch.path("x.tar"), &tar).unwrap();
    let out = Command::new("tar").arg("-tf").arg(scratch.path("x.tar")).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let listed = String::from_utf8_lossy(&out.stdout).lines().count();
    assert_eq!(listed, stack_listing(&stack).len() + 1);
    // Left out and clamped.
    let options = PackOptions { clamp_mtime: Some(5), exclude: vec![PathBuf::from("d")], ..PackOptions::default() };
    let mut less = Vec::new();
    let packed = pack(&stack, &mut less, &options).unwrap();
    assert_eq!(packed.entries as usize, listed - 4);
    let root = scratch.root("less");
    unpack(&mut &less[..], &root, Form::Plain, "less", &Limits::none()).unwrap();
    assert_eq!(scratch.path("less/z").symlink_metadata().unwrap().mtime(), 5);
    assert!(!scratch.path("less/d").exists());
}

/// Holes are not read, and are the zeros that they stand for: at the beginning, between, at the end.
#[test]
fn holes_are_packed_as_zeros() {
    use std::os::unix::fs::FileExt;
    let packed = |pieces: &[(u64, &[u8])], size: u64, dense: bool| {
        let scratch = Scratch::new();
        drop(scratch.root("tree"));
        let file = std::fs::File::create(scratch.path("tree/file")).unwrap();
        if dense {
            std::fs::write(scratch.path("tree/file"), vec![0; size as usize]).unwrap();
        }
        file.set_len(size).unwrap();
        pieces.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
        assert_eq!(file.metadata().unwrap().blocks() * 512 < size, !dense);
        let mut tar = Vec::new();
        let options = PackOptions { clamp_mtime: Some(0), ..PackOptions::default() };
        pack(&Stack::open(&[scratch.path("tree")]).unwrap(), &mut tar, &options).unwrap();
        tar
    };
    let mib = 1 << 20;
    let check = |pieces: &[(u64, &[u8])]| {
        assert!(packed(pieces, 3 * mib, false) == packed(pieces, 3 * mib, true), "{pieces:?}");
    };
    check(&[]);
    check(&[(0, b"begin")]);
    check(&[(mib - 3, b"middle"), (2 * mib, b"x")]);
    check(&[(3 * mib - 1, b"end")]);
}

/// Zeros of a layer take no room on disk, and count as content like all else.
#[test]
fn zeros_are_unpacked_as_holes() {
    let mut content = vec![0; 3 << 20];
    content[(1 << 20) + 5] = 1;
    for form in [Form::Plain, Form::Overlay] {
        let scratch = Scratch::new();
        let tar = Tar::default().add(b'0', "f", "", &content, 0o644).add(b'0', "g", "", &[0; 70_000], 0o600).end();
        let unpacked = unpack(&mut &tar[..], &scratch.root("r"), form, "l", &Limits::none()).unwrap();
        assert_eq!(unpacked.content, Some(fingerprint(&scratch.path("r")).unwrap()));
        assert_eq!(unpacked.bytes, (3 << 20) + 70_000);
        assert!(std::fs::read(scratch.path("r/f")).unwrap() == content);
        assert!(std::fs::read(scratch.path("r/g")).unwrap() == [0; 70_000]);
        let on_disk = ["f", "g"].map(|name| scratch.path("r").join(name).metadata().unwrap().blocks() * 512);
        assert!(on_disk[0] <= 64 << 10 && on_disk[1] <= 16 << 10, "{on_disk:?}");
    }
}

/// What is left is summed up without reading it again, if what went was short.
#[test]
fn replaced_files_are_counted_out() {
    let check = |words: &str, is_known: bool| {
        for form in [Form::Plain, Form::Overlay] {
            let scratch = Scratch::new();
            let unpacked = unpack(&mut &Tar::of(words)[..], &scratch.root("r"), form, "l", &Limits::none()).unwrap();
            let content = fingerprint(&scratch.path("r")).unwrap();
            assert_eq!(unpacked.content, is_known.then_some(content), "{words}");
        }
    };
    check("a=1 b=2 a=3", true);
    check("a=1 b->a b=2", true);
    check("a=1 a->b", true);
    check("a=1 a/ a/b=1", true);
    // One name of two; a directory.
    check("a=1 b=>a a=2", false);
    check("a/b=1 a=2", false);
}

/// The view of the first `above` layers with the archive of what the others change as the one on top.
fn squashed(scratch: &Scratch, layers: &[PathBuf], above: usize) -> Vec<String> {
    let mut tar = Vec::new();
    let options = PackOptions { above, ..PackOptions::default() };
    pack(&Stack::open(layers).unwrap(), &mut tar, &options).unwrap();
    let root = scratch.root("squashed");
    let mut unpacked = unpack(&mut &tar[..], &root, Form::Overlay, "squashed", &Limits::none()).unwrap();
    let mut layers = layers[..above].to_vec();
    reconcile(&mut unpacked, &root, &Stack::open(&layers).unwrap()).unwrap();
    layers.push(scratch.path("squashed"));
    stack_listing(&Stack::open(&layers).unwrap())
}

/// `push --layers`: members of the archive of all layers but the first.
#[test]
fn what_layers_change() {
    let check = |layers: &[&str], expected: &str| {
        let scratch = Scratch::new();
        let paths = overlay(&scratch, layers).unwrap();
        let mut tar = Vec::new();
        let options = PackOptions { above: 1, ..PackOptions::default() };
        pack(&Stack::open(&paths).unwrap(), &mut tar, &options).unwrap();
        let mut archive = tar::Archive::new(&tar[..]);
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|e| String::from_utf8_lossy(&e.unwrap().path_bytes()).trim_start_matches("./").to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        assert_eq!(names.join(" "), expected, "{layers:#?}");
        assert_eq!(squashed(&scratch, &paths, 1), stack_listing(&Stack::open(&paths).unwrap()), "{layers:#?}");
    };
    check(&["a=1 d/ d/b=2"], "");
    check(&["a=1 d/ d/b=2", "d/c=3"], "d/ d/c");
    check(&["a=1 b=2", "b=3", ".wh.a c=4"], ".wh.a b c");
    check(&["d/ d/a=1 d/e/ d/e/b=2", "d/.wh.e"], "d/ d/.wh.e");
    // Made and removed again is no change, and leaves no marker.
    check(&["a=1", "x=1 d/ d/y=2", ".wh.x .wh.d"], "");
    check(&["d/ d/a=1", ".wh.d d/ d/b=2"], "d/ d/.wh..wh..opq d/b");
    check(&["d/ d/a=1", "d=2"], "d");
    check(&["d/ d/a=1", "d->x"], "d");
    check(&["f=1", "f/ f/a=2"], "f/ f/a");
    check(&["d/ d/a=1", "d/@700"], "d/");
    check(&["a=1 b=>a", "c=>a"], "a c");
}

#[test]
fn owners_are_changes_too() {
    let scratch = Scratch::new();
    let paths = overlay(&scratch, &["d/ d/e/ d/e/a=1 d/e/b=2 c=3", "x=1"]).unwrap();
    let owner = super::Ownership { uid: 7, gid: 7, ..super::Ownership::default() };
    let owners = [(b"d/e/a".to_vec(), owner)].into();
    let mut tar = Vec::new();
    let marked = vec![b"d/e/a".to_vec()];
    let options = PackOptions { above: 1, owners, marked, ..PackOptions::default() };
    pack(&Stack::open(&paths).unwrap(), &mut tar, &options).unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| format!("{} {}", String::from_utf8_lossy(&e.path_bytes()), e.header().uid().unwrap()))
        .collect();
    assert_eq!(names, ["./ 0", "./d/ 0", "./d/e/ 0", "./d/e/a 7", "./x 0"]);
}

/// Random layers over few names: both forms and the archive of the merged view must agree.
#[test]
fn forms_agree_on_anything() {
    let mut state = 12345u32;
    let mut next = move |n: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % n
    };
    let rounds = std::env::var("CH_TEST_ROUNDS").map_or(300, |n| n.parse().unwrap());
    let (mut worked, mut failed) = (0, 0);
    for round in 0..rounds {
        let letters = ["a", "b", "c"];
        let layers: Vec<String> = (0..1 + next(4))
            .map(|_| {
                (0..1 + next(7))
                    .map(|_| {
                        let depth = 1 + next(3);
                        let path = (0..depth).map(|_| letters[next(3) as usize]).collect::<Vec<_>>().join("/");
                        let (dir, last) = path.rsplit_once('/').map_or(("", path.as_str()), |(d, l)| (d, l));
                        let at = if dir.is_empty() { String::new() } else { format!("{dir}/") };
                        match next(8) {
                            0 | 1 => format!("{path}={}", next(100)),
                            2 | 3 => format!("{path}/@7{}5", next(8)),
                            4 => format!("{path}->{}", ["a", "/b", "../c", "/a/b", "b/c"][next(5) as usize]),
                            5 => format!("{at}.wh.{last}"),
                            6 if next(2) == 0 => format!("{at}.wh..wh..opq"),
                            _ => format!("{path}=>{}", letters[next(3) as usize]),
                        }
                    })
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        // A layer that puts something below a name and then makes that name no directory leaves open what it meant if
        // the name is in a lower layer; so does one that links to a name in a directory that it then replaces.
        let ambiguous = layers.iter().any(|layer| {
            let words: Vec<&str> = layer.split(' ').collect();
            let replaces = |word: &str, earlier: &str| {
                let name = word.split(['=', '-']).next().unwrap_or_default();
                let name = name.replace(".wh..wh..opq", "").replace(".wh.", "");
                let below = earlier.strip_prefix(name.trim_end_matches('/')).unwrap_or(earlier);
                !word.contains('@') && (name.is_empty() || below.starts_with('/') && !below.starts_with("/@"))
            };
            (1..words.len()).any(|i| words[..i].iter().any(|earlier| replaces(words[i], earlier)))
        });
        if ambiguous {
            continue;
        }
        let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
        let scratch = Scratch::new();
        let flat = plain(&scratch, &layers);
        let paths = overlay(&scratch, &layers);
        let (Ok(flat), Ok(paths)) = (flat, paths) else {
            failed += 1;
            continue;
        };
        worked += 1;
        let stack = Stack::open(&paths).unwrap();
        assert_eq!(stack_listing(&stack), flat, "round {round}: {layers:#?}");
        if round % 8 == 0
            && let Some(shown) = kernel(&scratch, &paths)
        {
            assert_eq!(shown, names(&stack), "kernel, round {round}: {layers:#?}");
        }
        let mut tar = Vec::new();
        pack(&stack, &mut tar, &PackOptions::default()).unwrap();
        let copy = scratch.root("copy");
        unpack(&mut &tar[..], &copy, Form::Plain, "copy", &Limits::none()).unwrap();
        assert_eq!(listing(&scratch.path("copy")), flat, "round {round}: {layers:#?}");
        let above = 1 + next(layers.len() as u32) as usize;
        assert_eq!(squashed(&scratch, &paths, above), flat, "round {round}, above {above}: {layers:#?}");
    }
    assert!(worked > rounds / 10, "{worked} {failed}");
}
