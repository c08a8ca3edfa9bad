//! Tables for COPY and ADD: a context and an image in a few words, what is copied, the tree or the error.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::compress::encoder::{Encoder, Encoding};
use crate::error::Result;
use crate::rootfs::testing::{Scratch, Tar, listing};
use crate::rootfs::tree::Copied;

/// Makes a tree from words: `d/` a directory, `f=text` a file, `l->target` a link, `@644` behind a file sets its mode.
fn grow(dir: &Path, words: &str) {
    for word in words.split_whitespace() {
        let (word, mode) = match word.split_once('@') {
            Some((word, mode)) => (word, Some(u32::from_str_radix(mode, 8).unwrap())),
            None => (word, None),
        };
        let name = word.split_once("->").map_or(word, |(n, _)| n).split('=').next().unwrap();
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if let Some((_, target)) = word.split_once("->") {
            symlink(target, &path).unwrap();
        } else if let Some((_, text)) = word.split_once('=') {
            fs::write(&path, text).unwrap();
        } else {
            fs::create_dir_all(&path).unwrap();
        }
        if let Some(mode) = mode {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

struct Case {
    parents: bool,
    ignore: fn(&str, bool) -> Fate,
    exclude: fn(&str, bool) -> Fate,
    chmod: Option<fn(u32, bool) -> u32>,
    archives: Archives,
    beneath: bool,
    /// Whether the digest is taken, too: it reads all.
    digest: bool,
}

const PLAIN: Case = Case {
    parents: false,
    ignore: keep_all,
    exclude: keep_all,
    chmod: None,
    archives: Archives::Keep,
    beneath: true,
    digest: true,
};

fn copy(case: &Case, context: &Root, image: &Root, patterns: &[&str], to: &str) -> Result<Copied> {
    let patterns: Vec<String> = patterns.iter().map(|p| p.to_string()).collect();
    let sources = Sources {
        root: context,
        patterns: &patterns,
        parents: case.parents,
        ignore: &case.ignore,
        exclude: &case.exclude,
        never: None,
    };
    let plan = plan(&sources)?;
    let before = if case.digest { Some(contents(&plan, &sources, &mut Memo::default(), 2)?) } else { None };
    let chmod = case.chmod;
    let chmod = move |mode, is_dir| chmod.map_or(mode, |f| f(mode, is_dir));
    let target = Target {
        root: image,
        path: to,
        chmod: case.chmod.is_some().then_some(&chmod),
        archives: case.archives,
        made: None,
        archived: None,
    };
    let copied = run(&plan, &sources, &target)?;
    if let Some(before) = before {
        assert_eq!(
            before,
            contents(&plan, &sources, &mut Memo::default(), 1)?,
            "digest depends on threads or on copying"
        );
    }
    Ok(copied)
}

fn check(case: &Case, context: &str, image: &str, patterns: &[&str], to: &str, expected: &str) {
    let scratch = Scratch::new();
    grow(&scratch.path("outside"), "passwd=secret");
    let context_root = scratch.root("context");
    grow(&scratch.path("context"), context);
    let image_root = scratch.root("image");
    grow(&scratch.path("image"), image);
    let outside = listing(&scratch.path("outside"));
    let context_root = if case.beneath { context_root.beneath() } else { context_root };
    let got = match copy(case, &context_root, &image_root, patterns, to) {
        Ok(_) => listing(&scratch.path("image")).join(" "),
        Err(e) => format!("error: {e}"),
    };
    assert_eq!(got, expected, "context {context:?} image {image:?} COPY {patterns:?} {to:?}");
    assert_eq!(listing(&scratch.path("outside")), outside);
}

#[test]
fn destinations() {
    let check = |context: &str, image: &str, patterns: &[&str], to: &str, expected: &str| {
        check(&PLAIN, context, image, patterns, to, expected)
    };
    // 1. Absolute sources are below the context.
    check("a=1", "", &["/a"], "/x", "x=1");
    check("d/a=1", "", &["/d/../d/a"], "/x", "x=1");
    // 2. When a directory is made.
    check("a=1", "", &["a"], "/x/", "x/ x/a=1");
    check("a=1", "", &["a"], "/x/.", "x/ x/a=1");
    check("a=1 b=2", "", &["a", "b"], "/x", "x/ x/a=1 x/b=2");
    check("a=1 b=2", "", &["?"], "/x", "x/ x/a=1 x/b=2");
    check("a=1 b=2", "", &["[b-z]"], "/x", "x=2");
    check("d/a=1", "", &["d"], "/x/y", "x/ x/y/ x/y/a=1");
    check("d/a=1", "", &["."], "/", "d/ d/a=1");
    check("d/a=1", "", &["d/."], "/", "a=1");
    check("d/ d2/", "", &["d"], "/x", "x/");
    check("a=1", "", &["a"], "/x/y/z", "x/ x/y/ x/y/z=1");
    check("a=1", "x/", &["a"], "/x", "x/ x/a=1");
    check("a=1", "x=0", &["a"], "/x", "x=1");
    check("d/a=1", "x=0", &["d"], "/x", "error: can't COPY: not a directory: /x");
    check("a=1 b=2", "x=0", &["a", "b"], "/x", "error: can't COPY: not a directory: /x");
    check("a=1", "x=0", &["a"], "/x/", "error: can't COPY: not a directory: /x/");
    check("a=1", "x=0", &["a"], "/x/y", "error: can't COPY: not a directory: /x/y");
    check("a=1", "x/a/b=0", &["a"], "/x/", "error: can't copy a: can't COPY: is a directory: a");
    // Several directories: all contents in one.
    check("d/a=1 e/a=2 e/b=3", "", &["d", "e"], "/x", "x/ x/a=2 x/b=3");
    check("d/a=1 f=2", "", &["*"], "/x", "x/ x/a=1 x/f=2");
    // Nothing is copied if anything is missing.
    check("a=1", "", &["a", "nope"], "/x/", "error: can't copy: not found: nope");
    check("a=1", "", &["b*"], "/x/", "error: can't copy: not found: b*");
    check(".a=1", "", &["*"], "/x/", "error: can't copy: not found: *");
    check(".a=1", "", &[".*"], "/x/", "x/ x/.a=1");
    check("a=1", "", &["a/b"], "/x", "error: can't copy: not found: a/b");
    check("a=1", "", &[], "/x", "error: can't COPY: must specify at least one source");
    check("d1/a=1 d2/a=2 d2/b=3", "", &["d*/a"], "/x/", "x/ x/a=2");
}

#[test]
fn links() {
    let check = |context: &str, image: &str, patterns: &[&str], to: &str, expected: &str| {
        check(&PLAIN, context, image, patterns, to, expected)
    };
    // 3.1 Named links are followed, on both sides, in their root.
    check("a=1 l->a", "", &["l"], "/x/", "x/ x/l=1");
    check("d/a=1 l->d", "", &["l"], "/x", "x/ x/a=1");
    check("d/a=1 l->d", "", &["l/a"], "/x", "x=1");
    check("d/a=1 l->d", "", &["*/a"], "/x/", "x/ x/a=1");
    check("a=1", "real/ l->/real", &["a"], "/l/", "l->/real real/ real/a=1");
    check("a=1", "real/ l->/real", &["a"], "/l", "l->/real real/ real/a=1");
    check("a=1", "real/ l->real", &["a"], "/l/y/z", "l->real real/ real/y/ real/y/z=1");
    check("a=1", "l->/no/where", &["a"], "/l", "l->/no/where no/ no/where=1");
    check("a=1", "f=0 l->/f", &["a"], "/l", "f=1 l->/f");
    check("a=1", "l->../../../outside/y", &["a"], "/l", "l->../../../outside/y outside/ outside/y=1");
    check("a=1", "l->l", &["a"], "/l", "error: can't COPY to /l: Too many levels of symbolic links");
    check("d/a=1", "real/b=2 l->/real", &["d"], "/l", "l->/real real/ real/a=1 real/b=2");
    // 3.2 Deeper ones are copied, and replaced.
    check("d/l->a d/dangling->/no d/e/l->../..", "", &["d"], "/x", "x/ x/dangling->/no x/e/ x/e/l->../.. x/l->a");
    check("d/a=1", "x/a->/passwd passwd=0", &["d"], "/x", "passwd=0 x/ x/a=1");
    check("d/e/a=1", "x/e->/real real/b=2", &["d"], "/x", "real/ real/b=2 x/ x/e/ x/e/a=1");
    check("d/l->t", "x/l/b=2", &["d"], "/x", "x/ x/l->t");
    check("a=1", "x/a->/passwd passwd=0", &["a"], "/x/", "passwd=0 x/ x/a=1");
    // Out of the context.
    let outside = |context: &str, path: &str| {
        check(context, "", &[path], "/x", &format!("error: can't COPY from outside context: {path}"));
    };
    outside("l->/etc/passwd", "l");
    outside("l->../outside/passwd", "l");
    outside("d/l->../../outside", "d/l/passwd");
    outside("a=1", "../outside/passwd");
    outside("a=1", "/../outside/passwd");
    outside("a=1 d/", "d/../../outside/passwd");
    outside("a=1", "../*");
    check("l->l", "", &["l"], "/x", "error: can't copy: l: Too many levels of symbolic links");
}

#[test]
fn trees_of_other_stages_are_their_own_root() {
    let from = Case { beneath: false, ..PLAIN };
    let check = |context, patterns: &[&str], expected| check(&from, context, "", patterns, "/x", expected);
    check("etc/passwd=in l->/etc/passwd", &["/l"], "x=in");
    check("etc/passwd=in l->../../../etc", &["l/passwd"], "x=in");
    check("etc/passwd=in", &["../../etc/passwd"], "x=in");
    check("l->/outside", &["l"], "error: can't copy: not found: l");
}

#[test]
fn merging() {
    let check = |context, image, expected| check(&PLAIN, context, image, &["d"], "/x", expected);
    // 4. Metadata of directories, from the second level on.
    check("d@700 d/e/f=1 d/e@750", "x@711 x/e/g=2 x/e@700", "x/@711 x/e/@750 x/e/f=1 x/e/g=2");
    check("d@700 d/e@500", "", "x/ x/e/@500");
    // 5. Of different types, the source wins.
    check("d/bar=1", "x/bar/baz=0", "x/ x/bar=1");
    check("d/bar/baz=1", "x/bar=0", "x/ x/bar/ x/bar/baz=1");
    check("d/a=1@600", "x/a=22@644", "x/ x/a=1@600");
    check("d/a=1@4755 d/b=1@6711", "", "x/ x/a=1@755 x/b=1@711");
}

#[test]
fn filters() {
    fn ignore(path: &str, is_dir: bool) -> Fate {
        match path {
            "secret" | "d/skip" => Fate::Skip,
            "d/only" if is_dir => Fate::EnterOnly,
            "d/none" => Fate::EnterOnly,
            "d/only/keep" => Fate::Keep,
            p if p.starts_with("d/only/") || p.starts_with("d/none/") => Fate::Skip,
            _ => Fate::Keep,
        }
    }
    let case = Case { ignore, ..PLAIN };
    let context = "a=1 secret=0 d/skip/x=0 d/only/keep=1 d/only/drop=0 d/none/x=0 l->secret";
    check(&case, context, "", &["."], "/x", "x/ x/a=1 x/d/ x/d/only/ x/d/only/keep=1 x/l->secret");
    check(&case, context, "", &["secret"], "/x", "error: can't copy: not found: secret");
    check(&case, context, "", &["l"], "/x", "error: can't copy: not found: l");
    check(&case, context, "", &["d/skip/x"], "/x", "x=0");
    check(&case, context, "", &["*e*"], "/x", "error: can't copy: not found: *e*");

    fn exclude(path: &str, _: bool) -> Fate {
        if path.ends_with(".o") { Fate::Skip } else { Fate::Keep }
    }
    let case = Case { exclude, ..PLAIN };
    check(&case, "d/a.c=1 d/a.o=0 b.o=0 b.c=2", "", &["d", "b.*"], "/x", "x/ x/a.c=1 x/b.c=2");
}

#[test]
fn parents_and_modes() {
    let parents = Case { parents: true, ..PLAIN };
    check(&parents, "x/a=1 y/a=2", "", &["x/a", "y/a"], "/t/", "t/ t/x/ t/x/a=1 t/y/ t/y/a=2");
    check(&parents, "p/q/a=1 p/q/d/b=2", "", &["p/./q/a", "p/./q/d"], "/t", "t/ t/q/ t/q/a=1 t/q/d/ t/q/d/b=2");
    check(&parents, "p/q/a.c=1 p/b.c=2 c.c=3", "", &["**/*.c"], "/t", "t/ t/c.c=3 t/p/ t/p/b.c=2 t/p/q/ t/p/q/a.c=1");
    check(&parents, "p@711 p/a=1", "", &["p/a"], "/t", "t/ t/p/@711 t/p/a=1");
    let chmod = Case { chmod: Some(|_, is_dir| if is_dir { 0o750 } else { 0o640 }), ..PLAIN };
    check(&chmod, "d/a=1 d/e/b=2", "", &["d"], "/x", "x/@750 x/a=1@640 x/e/@750 x/e/b=2@640");
    check(&chmod, "d/a=1", "", &["d"], "/x/y/", "x/ x/y/@750 x/y/a=1@640");
    check(&chmod, "d/a=1", "", &["d"], "/x/../y", "x/ y/@750 y/a=1@640");
    // What is there keeps its mode; and what is made for files is nobody's copy.
    check(&chmod, "d/a=1", "x@711", &["d"], "/x", "x/@711 x/a=1@640");
    check(&chmod, "d/a=1", "y@711", &["d"], "/x/../y", "x/ y/@711 y/a=1@640");
    check(&chmod, "d/a=1", "y@711 x->y", &["d"], "/x", "x->y y/@711 y/a=1@640");
    check(&chmod, "d/a=1", "x->y/z", &["d"], "/x", "x->y/z y/ y/z/@750 y/z/a=1@640");
    check(&chmod, "d/a=1 b=2", "", &["b", "d"], "/x", "x/ x/a=1@640 x/b=2@640");
    check(&chmod, "a=1", "", &["a"], "/x/", "x/ x/a=1@640");
    check(&chmod, "d/a=1", "", &["d"], "/", "a=1@640");
    let shut = Case { chmod: Some(|_, _| 0), digest: false, ..PLAIN };
    let scratch = Scratch::new();
    grow(&scratch.path("context"), "d/a=1 d/e/b=2");
    copy(&shut, &scratch.root("context").beneath(), &scratch.root("image"), &["d"], "/x").unwrap();
    let top = scratch.path("image").join("x");
    assert_eq!(fs::metadata(&top).unwrap().mode() & 0o7777, 0);
    fs::set_permissions(&top, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(fs::metadata(top.join("e")).unwrap().mode() & 0o7777, 0);
}

#[test]
fn what_a_copy_keeps() {
    let scratch = Scratch::new();
    let (context, image) = (scratch.root("context").beneath(), scratch.root("image"));
    let dir = scratch.path("context");
    grow(&dir, "d/a=1 d/e/b=2");
    fs::hard_link(dir.join("d/a"), dir.join("d/e/link")).unwrap();
    let sparse = fs::File::create(dir.join("d/sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("d/socket")).unwrap();
    for name in ["d/a", "d/e"] {
        let file = fs::File::open(dir.join(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_007, 5)).unwrap();
    }
    // Without the digest, which would read a terabyte of zeros.
    let case = Case { digest: false, ..PLAIN };
    let copied = copy(&case, &context, &image, &["d"], "/x").unwrap();
    assert_eq!(copied.skipped, 1);
    let stat = |name: &str| fs::symlink_metadata(scratch.path("image").join(name)).unwrap();
    assert_eq!(stat("x/a").ino(), stat("x/e/link").ino());
    assert_eq!((stat("x/a").mtime(), stat("x/a").mtime_nsec()), (1_000_000_007, 5));
    assert_eq!(stat("x/e").mtime(), 1_000_000_007);
    assert_eq!((stat("x/sparse").len(), stat("x/sparse").blocks()), (1 << 40, 0));
    // A link to a file whose copy another source replaced.
    grow(&dir, "e/a=3 e/z=4");
    fs::remove_file(dir.join("e/z")).unwrap();
    fs::hard_link(dir.join("d/a"), dir.join("e/z")).unwrap();
    copy(&case, &context, &image, &["d", "e"], "/y").unwrap();
    for (name, text) in [("y/a", "3"), ("y/z", "1"), ("y/e/link", "1")] {
        assert_eq!(fs::read_to_string(scratch.path("image").join(name)).unwrap(), text, "{name}");
    }
    // Again, over itself.
    copy(&case, &context, &image, &["d"], "/x").unwrap();
    assert_eq!(stat("x/a").nlink(), 2);
    let e = copy(&PLAIN, &context, &image, &["d/socket"], "/x").unwrap_err();
    assert_eq!(e.to_string(), "can't COPY: unknown file type: d/socket");
}

#[test]
fn archives_are_unpacked_by_add_alone() {
    let tar = Tar::of("d/ d/f=1 l->/etc l/g=2 c! .wh.old");
    let gzip = |data: &[u8]| {
        let mut encoder = Encoder::new(Vec::new(), Encoding::Gzip, 1);
        std::io::Write::write_all(&mut encoder, data).unwrap();
        encoder.finish().unwrap()
    };
    let add = Case { archives: Archives::Unpack, ..PLAIN };
    let check = |case: &Case, name: &str, data: &[u8], image: &str, to: &str, expected: &str| {
        let scratch = Scratch::new();
        let context = scratch.root("context").beneath();
        fs::write(scratch.path("context").join(name), data).unwrap();
        let root = scratch.root("image");
        grow(&scratch.path("image"), image);
        let got = match copy(case, &context, &root, &[name], to) {
            Ok(_) => listing(&scratch.path("image"))
                .iter()
                .map(|word| word.chars().take(40).collect())
                .collect::<Vec<String>>()
                .join(" "),
            Err(e) => format!("error: {e}"),
        };
        assert_eq!(got, expected, "{name} {to}");
    };
    let unpacked = "x/ x/d/ x/d/f=1 x/etc/ x/etc/g=2 x/l->/etc";
    check(&add, "a", &tar, "", "/x", unpacked);
    check(&add, "a", &gzip(&tar), "", "/x/", unpacked);
    check(
        &add,
        "a",
        &gzip(&tar),
        "y/keep=1 y/old=1 x->/y",
        "/x",
        "x->/y y/ y/d/ y/d/f=1 y/etc/ y/etc/g=2 y/keep=1 y/l->/etc",
    );
    check(
        &add,
        "a",
        &Tar::of("../../outside=1"),
        "",
        "/x",
        "error: can't ADD a: member ../../outside: path with '..' is refused",
    );
    // What is said of the archive's own top is not said of the destination.
    let shut = Tar::of("./@700 ./f=1 d/@711");
    check(&add, "a", &shut, "", "/x", "x/ x/d/@711 x/f=1");
    check(&add, "a", &shut, "x@750 x/d@700", "/x", "x/@750 x/d/@711 x/f=1");
    check(&add, "a", &tar, "x=1", "/x", "error: can't COPY: not a directory: /x");
    check(&PLAIN, "text", b"no archive", "", "/x", "x=no archive");
    check(&add, "text", b"no archive", "", "/x", "x=no archive");
    check(&add, "text", b"", "", "/x", "x=");
    check(&add, "f.xz", b"\xfd7zXZ\0", "", "/x", "x=\u{fffd}7zXZ\0");
    check(
        &add,
        "f.tar.xz",
        b"\xfd7zXZ\0",
        "",
        "/x",
        "error: can't ADD: xz and bzip2 archives are not supported: f.tar.xz",
    );
    // What can't be read, though its name says what it is, is not passed off as a file.
    let wide = b"\x28\xb5\x2f\xfd\0\x88\x01\0\0";
    check(&add, "f.zst", wide, "", "/x", "x=(\u{fffd}/\u{fffd}\0\u{fffd}\u{1}\0\0");
    check(
        &add,
        "f.tar.zst",
        wide,
        "",
        "/x",
        "error: can't ADD f.tar.zst: zstd window of 128 MiB is too large (limit 32 MiB)",
    );
    assert!(crate::compress::Codec::sniff(&gzip(&tar)) == crate::compress::Codec::Gzip);
}

#[test]
fn digests_see_what_matters() {
    let digest_of = |context: &str, patterns: &[&str]| {
        let scratch = Scratch::new();
        let root = scratch.root("context").beneath();
        grow(&scratch.path("context"), context);
        let patterns: Vec<String> = patterns.iter().map(|p| p.to_string()).collect();
        let sources = Sources {
            root: &root,
            patterns: &patterns,
            parents: false,
            ignore: &ignore_o,
            exclude: &keep_all,
            never: None,
        };
        contents(&plan(&sources).unwrap(), &sources, &mut Memo::default(), 3).unwrap().digest
    };
    fn ignore_o(path: &str, is_dir: bool) -> Fate {
        match path.ends_with(".o") {
            true if is_dir => Fate::EnterOnly,
            true => Fate::Skip,
            false => Fate::Keep,
        }
    }
    let base = digest_of("d/a=1 d/e/b=2 d/l->x", &["d"]);
    for same in [
        "d/l->x d/e/b=2 d/a=1",
        "d/a=1 d/e/b=2 d/l->x other=3",
        "d/a=1 d/e/b=2 d/l->x d/x.o=1 d/x.o.o/",
        "d@700 d/a=1 d/e/b=2 d/l->x",
    ] {
        assert_eq!(digest_of(same, &["d"]), base, "{same}");
    }
    for other in [
        "d/a=2 d/e/b=2 d/l->x",
        "d/a=1@600 d/e/b=2 d/l->x",
        "d/a=1 d/e/b=2 d/l->y",
        "d/a=1 d/e/b=2 d/l=x",
        "d/a=1 d/e/c=2 d/l->x",
        "d/a=1 d/e@700 d/e/b=2 d/l->x",
        "d/a=1 d/e/b=2 d/l->x d/f/",
        "d/a=1 d/b=2 d/e/ d/l->x",
        "d/a=1 d/e/b=2 d/e/l->x",
    ] {
        assert_ne!(digest_of(other, &["d"]), base, "{other}");
    }
    assert_ne!(digest_of("a=1 b=1", &["a"]), digest_of("a=1 b=1", &["b"]));
    assert_eq!(digest_of("a=1 b=1", &["?"]), digest_of("a=1 b=1", &["a", "b"]));
}

#[test]
fn hard_links_and_touched_files_are_seen() {
    let scratch = Scratch::new();
    let root = scratch.root("context").beneath();
    let dir = scratch.path("context");
    grow(&dir, "d/a=1 d/b=1 d/c=1 outside=1");
    let look = || {
        let patterns = ["d".to_owned()];
        let sources = Sources {
            root: &root,
            patterns: &patterns,
            parents: false,
            ignore: &keep_all,
            exclude: &keep_all,
            never: None,
        };
        contents(&plan(&sources).unwrap(), &sources, &mut Memo::default(), 1).unwrap()
    };
    let link = |from: &str, to: &str| {
        fs::remove_file(dir.join(to)).unwrap();
        fs::hard_link(dir.join(from), dir.join(to)).unwrap();
    };
    let separate = look();
    assert_eq!(look(), separate);
    link("outside", "d/c");
    let one_name = look();
    assert_eq!((&one_name.digest, &one_name.files), (&separate.digest, &separate.files), "a single name of it");
    assert_ne!(one_name.stamp, separate.stamp);
    link("d/a", "d/b");
    let ab = look();
    assert_ne!(ab.digest, separate.digest);
    link("d/a", "d/c");
    assert_ne!(look().digest, ab.digest);
    fs::remove_file(dir.join("d/a")).unwrap();
    fs::write(dir.join("d/a"), "1").unwrap();
    let bc = look();
    assert_ne!(bc.digest, ab.digest, "b and c are one");
    link("outside", "d/a");
    assert_eq!(look().digest, bc.digest, "names outside don't count, whosever they are");
}

/// A file is what it shows, however much of it is on disk; and what is not on disk is not read.
#[test]
fn holes_are_the_zeros_that_they_show() {
    use std::os::unix::fs::FileExt;
    let scratch = Scratch::new();
    let root = scratch.root("context");
    let path = scratch.path("context/f");
    let look = || {
        let patterns = ["f".to_owned()];
        let sources = Sources {
            root: &root,
            patterns: &patterns,
            parents: false,
            ignore: &keep_all,
            exclude: &keep_all,
            never: None,
        };
        contents(&plan(&sources).unwrap(), &sources, &mut Memo::default(), 1).unwrap().digest
    };
    let written = |size: u64, at: u64, dense: bool| {
        fs::write(&path, if dense { vec![0; size as usize] } else { Vec::new() }).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(size).unwrap();
        file.write_all_at(b"x", at).unwrap();
        look()
    };
    const MIB: u64 = 1 << 20;
    for size in [MIB, 65 * MIB] {
        let digest = written(size, MIB / 2 + 7, false);
        assert_eq!(digest, written(size, MIB / 2 + 7, true));
        assert_ne!(digest, written(size, MIB / 2 + 8, false));
        assert_ne!(digest, written(size, 7, false));
        assert_ne!(digest, written(size + 1, MIB / 2 + 7, false));
    }
    assert_eq!(written(MIB, 5, false), written(MIB, 5, true));
    // Reading would take hours.
    assert_ne!(written(8 << 40, 5, false), written(8 << 40, 6, false));
}
