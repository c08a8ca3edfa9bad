//! Layers that mean harm, or are broken: each ends in an error or stays inside, in both forms; a directory beside the
//! root is watched meanwhile. (Layers that are merely odd are in `layer_tests.rs`.)

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use super::pax::write_record;
use super::testing::{Scratch, Tar, listing};
use super::{Form, Limits, Root, Stack, Unpacked, fingerprint, reconcile, unpack};
use crate::error::Result;
use crate::sys::time::of_this_thread;

/// All that could be changed of a directory's content.
fn watch(dir: &Path) -> Vec<String> {
    let mut seen = vec![format!("{:?}", (dir.metadata().unwrap().mode(), dir.metadata().unwrap().ctime_nsec()))];
    for name in listing(dir) {
        let path = dir.join(name.split(['=', '@']).next().unwrap().split("->").next().unwrap());
        let m = path.symlink_metadata().unwrap();
        seen.push(format!(
            "{name} {:?}",
            (m.mode(), m.nlink(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec(), m.ino())
        ));
    }
    seen
}

fn run(scratch: &Scratch, tar: &[u8], form: Form) -> Result<(Unpacked, Root)> {
    let root = scratch.root("root");
    let mut unpacked = unpack(&mut &tar[..], &root, form, "layer", &Limits::none())?;
    let content = reconcile(&mut unpacked, &root, &Stack::new(Vec::new()))?;
    assert!(content.is_none_or(|content| content == fingerprint(&scratch.path("root")).unwrap()));
    Ok((unpacked, root))
}

/// `expected`: part of the error, or `ok` and the tree.
fn check(what: &str, tar: &[u8], expected: &str) {
    for form in [Form::Plain, Form::Overlay] {
        let scratch = Scratch::new();
        let outside = scratch.path("outside");
        std::fs::create_dir_all(outside.join("dir")).unwrap();
        std::fs::write(outside.join("file"), "secret").unwrap();
        std::fs::write(outside.join("dir/file"), "secret").unwrap();
        // The way out that a layer may know of.
        scratch.root("root");
        symlink(&outside, scratch.path("link")).unwrap();
        let before = watch(&outside);
        let result = run(&scratch, tar, form);
        assert_eq!(watch(&outside), before, "{what} {form:?} reached the outside");
        match (result, expected.strip_prefix("ok")) {
            (Ok(_), Some(tree)) => assert_eq!(listing(&scratch.path("root")).join(" "), tree.trim(), "{what} {form:?}"),
            (Ok(_), None) => panic!("{what} {form:?}: no error: {:?}", listing(&scratch.path("root"))),
            (Err(e), Some(_)) => panic!("{what} {form:?}: {e}"),
            (Err(e), None) => {
                assert!(e.to_string().contains(expected), "{what} {form:?}: {e}");
                assert!(e.to_string().starts_with("layer: "), "{what}: {e}");
            }
        }
        let names = std::fs::read_dir(scratch.path("")).unwrap().count();
        assert_eq!(names, 3, "{what} {form:?}: something beside the root");
    }
}

fn words(words: &str, expected: &str) {
    check(words, &Tar::of(words), expected);
}

fn named(name: &[u8]) -> Vec<u8> {
    let mut pax = Vec::new();
    write_record(&mut pax, b"path", name);
    Tar::default().pax(&pax).block(Tar::header(b'0', b"x", 1)).data(b"1").end()
}

#[test]
fn names() {
    words("../outside/file=x", "path with '..'");
    words("a/../../outside/file=x", "path with '..'");
    words("a/..=x", "path with '..'");
    words("..=x", "path with '..'");
    words("../", "path with '..'");
    words("/../outside/file=x", "path with '..'");
    words("/etc/passwd=x", "ok etc/ etc/passwd=x");
    words("//a=x", "ok a=x");
    words(".=x", "the root is not a directory");
    words("./->/", "the root is not a directory");
    words(".->../outside x=1", "the root is not a directory");
    words("/.->../outside", "the root is not a directory");
    words("./=>a", "the root is not a directory");
    words("./@000 a=1", "ok a=1");
    check("empty", &Tar::default().block(Tar::header(b'0', b"", 0)).end(), "without a name");
    check("NUL", &named(b"a\0b"), "NUL in path");
    check("newline and escape", &named(b"a\n\x1b[31mb"), "ok a\n\x1b[31mb=1");
    check("not UTF-8", &named(b"a\xff\xfe"), "ok a\u{fffd}\u{fffd}=1");
    check("255 bytes", &named(&[b'n'; 255]), &format!("ok {}=1", "n".repeat(255)));
    check("256 bytes", &named(&[b'n'; 256]), "name is longer than 255");
    check("long path", &named(format!("{}x", "d/".repeat(2100)).as_bytes()), "longer than 4096");
    check("3000 levels", &named(format!("{}x", "d/".repeat(2000)).as_bytes()), "deeper than 512");
    let deep = format!("{}x", "d/".repeat(511));
    for form in [Form::Plain, Form::Overlay] {
        run(&Scratch::new(), &named(deep.as_bytes()), form).unwrap();
    }
    let path = vec!["n".repeat(255); 15].join("/");
    for form in [Form::Plain, Form::Overlay] {
        run(&Scratch::new(), &named(path.as_bytes()), form).unwrap();
    }
}

#[test]
fn parents_that_are_links() {
    words("l->/ l/x=1", "ok l->/ x=1");
    words("l->.. l/outside/file=1", "ok l->.. outside/ outside/file=1");
    words("l->../outside l/file=1", "ok l->../outside outside/ outside/file=1");
    words("l->../link l/file=1", "ok l->../link link/ link/file=1");
    words("a/ a/l->../.. a/l/../outside/file=1", "path with '..'");
    words("a/ a/l->.. b->a/l/.. b/outside/file=1", "ok a/ a/l->.. b->a/l/.. outside/ outside/file=1");
    words(
        "l->/proc/self/root l/tmp/x=1",
        "ok l->/proc/self/root proc/ proc/self/ proc/self/root/ proc/self/root/tmp/ proc/self/root/tmp/x=1",
    );
    words("l->/proc/self/cwd l/x=1", "ok l->/proc/self/cwd proc/ proc/self/ proc/self/cwd/ proc/self/cwd/x=1");
    words("l->l l/x=1", "symbolic links");
    words("a->b b->a a/x=1", "symbolic links");
    words("d/ d->../outside d/file=1", "ok d->../outside outside/ outside/file=1");
    words("l->../outside/file l=1", "ok l=1");
    words("l->../outside l/@777", "ok l/@777");
    words("l->../outside/dir l/ l/file=1", "ok l/ l/file=1");
    words("l->../outside/file l->x", "ok l->x");
    words("l->../outside .wh.l", "ok l->../outside");
    words("l->../outside l/.wh.file", "ok l->../outside");
    words("l->../outside l/.wh..wh..opq l/d/.wh.file", "ok l->../outside");
    let chain: String = (0..60).map(|i| format!("l{i}->l{} ", i + 1)).collect();
    words(&format!("{chain} l0/x=1"), "symbolic links");
    check(
        "long target",
        &{
            let mut pax = Vec::new();
            write_record(&mut pax, b"linkpath", &[b't'; 4096]);
            Tar::default().pax(&pax).block(Tar::header(b'2', b"l", 0)).end()
        },
        "link target is longer",
    );
    words("l->", "link without a target");
}

/// No name is too deep by itself.
#[test]
fn links_that_lead_too_deep() {
    let deep = |name: &str, levels: usize| vec![name; levels].join("/");
    let half = deep("d", 300);
    words(&format!("l->{half} l/{half}/x=1"), "links lead deeper than 512");
    words(
        &format!("l->{half} l/x=1"),
        &format!("ok {} l->{half}", {
            let mut dirs: Vec<String> = (1..=300).map(|n| format!("{}/", deep("d", n))).collect();
            dirs.push(format!("{half}/x=1"));
            dirs.join(" ")
        }),
    );
    let chain =
        |target: &str| (1..39).fold(format!("l0->{target}"), |words, i| format!("{words} l{i}->l{}/{target}", i - 1));
    words(&format!("{} l0/{half}/x=1", chain(&half)), "links lead deeper than 512");
    words(&format!("{} l38/x=1", chain(&half)), "File name too long");
    words(&format!("{} l38/x=1", chain(&deep("d", 1900))), "File name too long");

    // The link is in a lower layer.
    let scratch = Scratch::new();
    let lower = scratch.root("lower");
    let below = format!("{} m->{}", chain(&half), deep("d", 1900));
    unpack(&mut &Tar::of(&below)[..], &lower, Form::Overlay, "lower", &Limits::none()).unwrap();
    for (n, (word, fits)) in [
        ("l0/x=1".to_owned(), true),
        (format!("l0/{half}/x=1"), false),
        ("l38/x=1".to_owned(), false),
        ("m/x=1".to_owned(), false),
    ]
    .into_iter()
    .enumerate()
    {
        let root = scratch.root(&format!("r{n}"));
        let mut unpacked = unpack(&mut &Tar::of(&word)[..], &root, Form::Overlay, "layer", &Limits::none()).unwrap();
        let reconciled = reconcile(&mut unpacked, &root, &Stack::open(&[scratch.path("lower")]).unwrap());
        assert_eq!(reconciled.is_ok(), fits, "{n}");
        let why = reconciled.map_or_else(|e| e.to_string(), |_| String::new());
        let far = why.contains("links lead deeper than 512") || why.contains("File name too long");
        assert_ne!(far, fits, "{n}: {why}");
    }
}

#[test]
fn hard_links() {
    words("h=>../outside/file", "path with '..'");
    words("h=>/outside/file", "target not found");
    words("l->../outside h=>l/file", "target not found");
    words("l->../outside/file h=>l h=1", "ok h=1 l->../outside/file");
    words("l->../outside/file h=>l", "ok h->../outside/file l->../outside/file");
    words("d/ h=>d", "hard link to a directory");
    words("h=>.", "hard link to a directory");
    words("h=>h", "target not found");
    words("a=1 d/ d/x=1 d=>d/x", "target not found");
    words("h=>", "link without a target");
    words("l->/proc/self/root/etc/passwd h=>l", "ok h->/proc/self/root/etc/passwd l->/proc/self/root/etc/passwd");
}

#[test]
fn whiteouts_and_overlay_marks() {
    words(".wh..=", "malformed whiteout");
    words(".wh...=", "malformed whiteout");
    words(".wh.=", "malformed whiteout");
    words(".wh.a/b=1", "malformed whiteout");
    words("d/.wh...=", "malformed whiteout");
    words(".wh.../x=", "malformed whiteout");
    words(".wh..wh..opq a=1", "ok a=1");
    words("a=1 .wh.a=>a", "ok a=1");
    words("c! .wh.c!", "ok");
    // Devices never become whiteouts, attributes never make a directory opaque.
    let mut device = Tar::header(b'3', b"gone", 0);
    device[329..337].copy_from_slice(b"0000000\0");
    device[337..345].copy_from_slice(b"0000000\0");
    let mut pax = Vec::new();
    for name in
        ["user.overlay.opaque", "trusted.overlay.opaque", "security.capability", "user.kept", "user.overlay.whiteout"]
    {
        write_record(&mut pax, format!("SCHILY.xattr.{name}").as_bytes(), b"y");
    }
    let tar = Tar::default().block(device).pax(&pax).block(Tar::header(b'5', b"d/", 0)).end();
    for form in [Form::Plain, Form::Overlay] {
        let scratch = Scratch::new();
        let (unpacked, root) = run(&scratch, &tar, form).unwrap();
        assert_eq!((unpacked.ignored_devices, listing(&scratch.path("root"))), (1, vec!["d/@744".to_owned()]));
        let dir = root.open_dir(Path::new("d")).unwrap();
        let names = crate::sys::file::flistxattr(std::os::fd::AsFd::as_fd(&dir)).unwrap();
        assert!(names.iter().all(|name| name == b"user.kept" || name.starts_with(b"security.")), "{names:?}");
    }
}

#[test]
fn types_sizes_and_headers() {
    let header = Tar::header;
    for flag in [b'3', b'4', b'6'] {
        check("device", &Tar::default().block(header(flag, b"dev", 0)).end(), "ok");
    }
    for flag in [b'A', b'Z', b'M', b'D', b'N', 0xff, b's', b'8'] {
        check("unknown type", &Tar::default().block(header(flag, b"x", 0)).end(), "unknown type");
    }
    // Of what has no content, the size means nothing, whoever says it; what follows is the next header.
    for (flag, shown) in
        [(b'1', "ok t=1 x=1 z=2"), (b'2', "ok t=1 x->t z=2"), (b'3', "ok t=1 z=2"), (b'4', "ok t=1 z=2")]
            .into_iter()
            .chain([(b'5', "ok t=1 x/@744 z=2"), (b'6', "ok t=1 z=2")])
    {
        let mut h = header(flag, b"x", 4096);
        h[157] = b't';
        let with = |pax: &[u8]| {
            let mut tar = Tar::default();
            tar.add(b'0', "t", "", b"1", 0o644);
            if !pax.is_empty() {
                tar.pax(pax);
            }
            tar.block(h).add(b'0', "z", "", b"2", 0o644).end()
        };
        check("size of what has none", &with(b""), shown);
        let mut pax = Vec::new();
        write_record(&mut pax, b"size", b"5");
        check("PAX size of what has none", &with(&pax), shown);
        let data = Tar::default().add(b'0', "t", "", b"1", 0o644).block(h).data(b"12345").end();
        check("content where none may be", &data, "malformed header");
    }
    // Readers differ in whether this is a file.
    for flag in [0, b'0'] {
        check(
            "content of a directory by its slash",
            &Tar::default().block(header(flag, b"x/", 5)).data(b"12345").end(),
            "is not a regular file",
        );
    }
    let mut contiguous = header(b'7', b"x", 1);
    contiguous[257..265].fill(0);
    check("contiguous", &Tar::default().block(contiguous).data(b"1").end(), "ok x=1");
    let mut v7 = header(0, b"d/", 0);
    v7[257..265].fill(0);
    // What ustar calls the prefix is nothing in V7.
    v7[345..350].copy_from_slice(b"../..");
    check("V7 directory", &Tar::default().block(v7).end(), "ok d/@744");
    let mut prefix = header(b'0', b"x", 0);
    prefix[345..350].copy_from_slice(b"../..");
    check("prefix", &Tar::default().block(prefix).end(), "path with '..'");

    let field = |at: usize, bytes: &[u8]| {
        let mut h = header(b'0', b"x", 0);
        h[at..at + bytes.len()].copy_from_slice(bytes);
        Tar::default().block(h).end()
    };
    check("negative size", &field(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "negative size");
    check("size 2^63", &field(124, b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), "size: too large");
    check("size 2^64", &field(124, b"\x80\0\0\x01\0\0\0\0\0\0\0\0"), "size: too large");
    check("size 2^63-1", &field(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), "malformed header: size");
    check("size without data", &field(124, b"00000004000\0"), "truncated");
    check("garbage size", &field(124, b"12x4567\0\0\0\0\0"), "malformed header: size");
    check("garbage mode", &field(100, b"rwxr-xr-"), "malformed header: mode");
    check("garbage time", &field(136, b"yesterday\0\0\0"), "malformed header: mtime");
    check("late", &field(136, b"\x80\0\0\0\x40\0\0\0\0\0\0\0"), "ok x=");
    check("early", &field(136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "ok x=");
    let mut bad = Tar::default().block(header(b'0', b"x", 0)).end();
    bad[0] = b'y';
    check("wrong checksum", &bad, "wrong checksum");
    check("no archive", &[b'x'; 2048], "malformed header: checksum");
    check("zeros then something", &[&[0; 512][..], &Tar::of("a=1")].concat(), "malformed header: empty");
    check("nothing", b"", "ok");
    check("one zero block", &[0; 512], "ok");
    check("data after the end", &[&Tar::of("a=1")[..], &[b'x'; 5000]].concat(), "ok a=1");
}

#[test]
fn truncation_anywhere_is_seen() {
    let mut pax = Vec::new();
    write_record(&mut pax, b"path", b"pax");
    let whole = Tar::default()
        .add(b'0', "a", "", &[b'x'; 700], 0o644)
        .pax(&pax)
        .block(Tar::header(b'0', b"b", 3))
        .data(b"123")
        .block(Tar::header(b'L', b"././@LongLink", 3))
        .data(b"ll\0")
        .block(Tar::header(b'0', b"c", 0))
        .0
        .clone();
    // Complete members, and no end mark: some writers leave it out.
    let fine = [0, 1536, 3584, 5120];
    for cut in 0..=whole.len() {
        if !(cut % 512 < 2 || cut % 512 > 509 || cut % 97 == 0) {
            continue;
        }
        for form in [Form::Plain, Form::Overlay] {
            let result = run(&Scratch::new(), &whole[..cut], form);
            assert_eq!(result.is_ok(), fine.contains(&cut), "{cut} {form:?} {:?}", result.err());
        }
    }
}

#[test]
fn extended_headers() {
    let record = |key: &str, value: &[u8]| {
        let mut pax = Vec::new();
        write_record(&mut pax, key.as_bytes(), value);
        pax
    };
    let with = |pax: &[u8], size: u64| Tar::default().pax(pax).block(Tar::header(b'0', b"x", size)).data(b"1").end();
    check("size agrees", &with(&record("size", b"1"), 1), "ok x=1");
    check("size in PAX alone", &with(&record("size", b"1"), 0), "ok x=1");
    check("size contradicts", &with(&record("size", b"2"), 1), "PAX record says 2");
    check("size negative", &with(&record("size", b"-1"), 1), "malformed PAX record: size");
    check("size no number", &with(&record("size", b"1e3"), 1), "malformed PAX record: size");
    check("size signed", &with(&record("size", b"+1"), 1), "malformed PAX record: size");
    check("size 2^64", &with(&record("size", b"18446744073709551616"), 0), "malformed PAX record: size");
    check("size 2^63-1", &with(&record("size", b"9223372036854775807"), 0), "malformed header: size");
    for lie in [
        "7 a=b\n",
        "5 a=b\n",
        "0 a=b\n",
        "a=b\n",
        "6 abb\n",
        "6 a=b ",
        "99999999999999999999999999999 a=b\n",
        "-6 a=b\n",
    ] {
        check(lie, &with(lie.as_bytes(), 1), "malformed PAX record");
    }
    check("NUL in a key", &with(b"7 a\0=b\n", 1), "malformed PAX record");
    check("NUL in a target", &with(&record("linkpath", b"a\0b"), 1), "NUL in linkpath");
    check("empty value", &with(&record("path", b""), 1), "ok x=1");
    check("out by PAX", &with(&record("path", b"../../x"), 1), "path with '..'");
    check("time", &with(&record("mtime", b"-1.5"), 1), "ok x=1");
    check("time 2^62", &with(&record("mtime", b"4611686018427387904"), 1), "ok x=1");
    check("bad time", &with(&record("mtime", b"soon"), 1), "mtime");
    check("large attribute", &with(&record("SCHILY.xattr.user.x", &[b'x'; 65537]), 1), "larger than 65536");
    check("16 MiB", &Tar::default().pax(&record("comment", &vec![b'x'; 16 << 20])).end(), "larger than 1048576");
    let huge = Tar::default().block(Tar::header(b'x', b"x", 7 << 30)).end();
    check("7 GiB that are not there", &huge, "larger than 1048576");
    let twice = Tar::default().pax(&record("a", b"b")).pax(&record("a", b"b")).block(Tar::header(b'0', b"x", 0)).end();
    check("two PAX headers", &twice, "two PAX headers");
    // What comes between an extended header and its member.
    for flag in [b'g', b'V'] {
        let mut between = Tar::default();
        between.pax(&record("path", b"x")).block(Tar::header(flag, b"g", 0)).block(Tar::header(b'0', b"y", 0));
        check("extended header of nothing", &between.end(), "extended header without its member");
    }
    check("orphan", &Tar::default().pax(&record("path", b"x")).end(), "after the extended header");
    let mut global = Tar::default();
    global.block(Tar::header(b'g', b"g", record("path", b"x").len() as u64)).data(&record("path", b"x"));
    check("global path", &global.add(b'0', "a", "", b"", 0o644).end(), "global PAX header");
    let mut many = Tar::default();
    for _ in 0..10_000 {
        many.block(Tar::header(b'g', b"g", record("comment", b"x").len() as u64)).data(&record("comment", b"x"));
    }
    check("10,000 global headers", &many.add(b'0', "a", "", b"", 0o644).end(), "ok a=");

    let long =
        |data: &[u8]| Tar::default().block(Tar::header(b'L', b"././@LongLink", data.len() as u64)).data(data).clone();
    check("long name", &long(b"name\0").block(Tar::header(b'0', b"x", 0)).end(), "ok name=");
    check("long name without NUL", &long(b"name").block(Tar::header(b'0', b"x", 0)).end(), "ok name=");
    check("long name out", &long(b"../name\0").block(Tar::header(b'0', b"x", 0)).end(), "path with '..'");
    check(
        "something behind the NUL",
        &long(b"na\0me\0").block(Tar::header(b'0', b"x", 0)).end(),
        "malformed long name",
    );
    check("empty long name", &long(b"\0").block(Tar::header(b'0', b"x", 0)).end(), "malformed long name");
    check("orphan long name", &long(b"name\0").end(), "after the extended header");
    check("16 MiB long name", &long(&vec![b'n'; 16 << 20]).end(), "larger than 1048576");
    let twice = Tar([long(b"a\0").0, long(b"b\0").0].concat()).block(Tar::header(b'0', b"x", 0)).end();
    check("two long names", &twice, "two long names");
    let both = Tar([long(b"a\0").0, Tar::default().pax(&record("path", b"b")).0.clone()].concat());
    check("long name and another path", &both.clone().block(Tar::header(b'0', b"x", 0)).end(), "two different values");
    let mut negative = Tar::header(b'L', b"l", 0);
    negative[124..136].fill(0xff);
    check("negative long name", &Tar::default().block(negative).end(), "negative size");
}

#[test]
fn sparse_files() {
    let pax = |records: &[(&str, &str)]| {
        let mut out = Vec::new();
        for (key, value) in records {
            write_record(&mut out, key.as_bytes(), value.as_bytes());
        }
        out
    };
    let with = |records: &[(&str, &str)], data: &[u8]| {
        Tar::default().pax(&pax(records)).block(Tar::header(b'0', b"x", data.len() as u64)).data(data).end()
    };
    // The same file in four forms: "ab" at 2, "c" at 6, size 8.
    let expected = "ok x=\0\0ab\0\0c\0";
    let map = ("GNU.sparse.map", "2,2,6,1");
    check("PAX 0.1", &with(&[("GNU.sparse.size", "8"), ("GNU.sparse.numblocks", "2"), map], b"abc"), expected);
    let pairs = [
        ("GNU.sparse.size", "8"),
        ("GNU.sparse.offset", "2"),
        ("GNU.sparse.numbytes", "2"),
        ("GNU.sparse.offset", "6"),
        ("GNU.sparse.numbytes", "1"),
    ];
    check("PAX 0.0", &with(&pairs, b"abc"), expected);
    let one =
        [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "8"), ("GNU.sparse.name", "x")];
    let in_data = |map: &str, data: &[u8]| {
        let mut all = map.as_bytes().to_vec();
        all.resize(all.len().next_multiple_of(512), 0);
        [&all, data].concat()
    };
    check("PAX 1.0", &with(&one, &in_data("2\n2\n2\n6\n1\n", b"abc")), expected);
    let old = |entries: &[(u64, u64)], size: u64, data: &[u8]| {
        let mut h = Tar::header(b'S', b"x", data.len() as u64);
        h[257..265].copy_from_slice(b"ustar  \0");
        for (i, (offset, length)) in entries.iter().enumerate() {
            h[386 + 24 * i..398 + 24 * i].copy_from_slice(format!("{offset:011o}\0").as_bytes());
            h[398 + 24 * i..410 + 24 * i].copy_from_slice(format!("{length:011o}\0").as_bytes());
        }
        h[483..495].copy_from_slice(format!("{size:011o}\0").as_bytes());
        Tar::default().block(h).data(data).end()
    };
    check("GNU", &old(&[(2, 2), (6, 1)], 8, b"abc"), expected);
    let more = {
        let mut h = Tar::header(b'S', b"x", 3);
        h[386..398].copy_from_slice(b"00000000002\0");
        h[398..410].copy_from_slice(b"00000000002\0");
        h[482] = 1;
        h[483..495].copy_from_slice(b"00000000010\0");
        let mut block = [0; 512];
        block[..12].copy_from_slice(b"00000000006\0");
        block[12..24].copy_from_slice(b"00000000001\0");
        Tar::default().block(h).data(&block).data(b"abc").end()
    };
    check("GNU with a further block", &more, expected);

    for (what, map) in [
        ("overlap", "2,2,3,1"),
        ("falling", "6,1,2,2"),
        ("past the end", "2,2,8,1"),
        ("wraps", "2,2,9223372036854775807,1"),
    ] {
        check(what, &with(&[("GNU.sparse.size", "8"), ("GNU.sparse.map", map)], b"abc"), "malformed sparse map");
    }
    let both = [("GNU.sparse.size", "8"), map, ("GNU.sparse.offset", "6"), ("GNU.sparse.numbytes", "1")];
    check("two forms", &with(&both, b"abcc"), "two sparse maps");
    let both = [one[0], one[1], one[2], one[3], map];
    check("1.0 and 0.1", &with(&both, &in_data("2\n2\n2\n6\n1\n", b"abc")), "two sparse maps");
    let both =
        Tar([&Tar::default().pax(&pax(&[("GNU.sparse.size", "8"), map])).0[..], &old(&[(2, 2), (6, 1)], 8, b"abc")]
            .concat());
    check("GNU and PAX", &both.0, "two sparse maps");
    check("odd", &with(&[("GNU.sparse.size", "8"), ("GNU.sparse.map", "2,2,6")], b"abc"), "sparse map");
    check("negative", &with(&[("GNU.sparse.size", "8"), ("GNU.sparse.map", "-2,2")], b"abc"), "sparse map");
    check("sum", &with(&[("GNU.sparse.size", "8"), ("GNU.sparse.map", "2,2")], b"abc"), "does not match");
    check("count", &with(&[("GNU.sparse.size", "8"), ("GNU.sparse.numblocks", "9"), map], b"abc"), "sparse map");
    check("no size", &with(&[map], b"abc"), "without size");
    check("offset alone", &with(&[("GNU.sparse.size", "8"), ("GNU.sparse.offset", "2")], b"abc"), "sparse map");
    check("form 2", &with(&[("GNU.sparse.major", "2"), ("GNU.sparse.size", "8")], b"abc"), "unknown form");
    check(
        "name",
        &with(&[("GNU.sparse.name", "../x"), ("GNU.sparse.size", "3"), ("GNU.sparse.map", "0,3")], b"abc"),
        "path with '..'",
    );
    check("garbage map", &with(&one, &in_data("x\n", b"abc")), "sparse map");
    check("10^6 entries", &with(&one, &in_data("1000000\n", b"abc")), "more than 100000");
    check("long digits", &with(&one, &in_data("111111111111111111111111\n", b"abc")), "sparse map");
    check("map truncated", &with(&one, b"1\n"), "truncated");
    check("GNU negative", &old(&[(2, 2), (1, 1)], 8, b"abc"), "malformed sparse map");
    let maps = "0,0,".repeat(100_001);
    check(
        "many",
        &with(&[("GNU.sparse.size", "8"), ("GNU.sparse.map", maps.trim_end_matches(','))], b""),
        "more than 100000",
    );

    // A terabyte of nothing takes no room; 8 EiB do not fit into a file, or do as a hole.
    for (size, fits) in [("1099511627776", true), ("9223372036854775807", false)] {
        let tar = with(&[("GNU.sparse.size", size), ("GNU.sparse.map", "0,3")], b"abc");
        let scratch = Scratch::new();
        let result = run(&scratch, &tar, Form::Overlay);
        assert!(result.is_ok() || !fits, "{:?}", result.err());
        if result.is_ok() {
            let file = scratch.path("root/x").metadata().unwrap();
            assert!(file.len().to_string() == size && file.blocks() < 64);
        }
    }
}

#[test]
fn time_is_proportional() {
    // What is quadratic takes minutes.
    const SECONDS: u64 = 60;
    let timed = |what: &str, tar: Vec<u8>| {
        for form in [Form::Plain, Form::Overlay] {
            let scratch = Scratch::new();
            let root = scratch.root("root");
            unpack(&mut &Tar::of("d/ d/a=1 e/f/g=1")[..], &root, Form::Plain, "l", &Limits::none()).unwrap();
            let start = of_this_thread();
            let mut unpacked = unpack(&mut &tar[..], &root, form, "layer", &Limits::none()).unwrap();
            reconcile(&mut unpacked, &root, &Stack::new(Vec::new())).unwrap();
            let took = of_this_thread() - start;
            eprintln!("{what} {form:?}: {took:?}");
            assert!(took.as_secs() < SECONDS, "{what} {form:?} took {took:?}");
        }
    };
    let mut tar = Tar::default();
    for i in 0..20_000 {
        tar.add(b'0', &format!("d/d{i}/.wh..wh..opq"), "", b"", 0o644);
    }
    timed("opaque whiteouts", tar.end());
    for _ in 0..20_000 {
        tar.add(b'0', "d/.wh..wh..opq", "", b"", 0o644);
    }
    timed("the same opaque whiteout", tar.end());
    for i in 0..5_000 {
        tar.add(b'0', &format!("d/f{i}"), "", b"", 0o644);
        tar.add(b'0', &format!("{}.wh..wh..opq", "d/".repeat(i % 300)), "", b"", 0o644);
    }
    timed("opaque whiteouts between files", tar.end());
    for i in 0..5_000 {
        tar.add(b'0', &format!("d/f{i}"), "", b"", 0o644);
    }
    timed("empty files", tar.end());
    for i in 0..5_000 {
        tar.add(b'0', &format!("d/.wh.f{i}"), "", b"", 0o644);
    }
    timed("whiteouts", tar.end());
}

/// Links that lead hither and thither, one through the other; deep directories that no member describes.
#[test]
fn paths_take_no_long_way() {
    let start = of_this_thread();
    let to_and_fro = "d/../".repeat(815);
    let mut tar = Tar::default();
    tar.add(b'5', "d", "", b"", 0o755).add(b'2', "l0", &format!("{to_and_fro}d"), b"", 0o777);
    for i in 1..40 {
        tar.add(b'2', &format!("l{i}"), &format!("{to_and_fro}l{}", i - 1), b"", 0o777);
    }
    for i in 0..200 {
        tar.add(b'0', &format!("l39/{i}/x"), "", b"", 0o644);
    }
    check("40 links of 1630 components", &tar.end(), "File name too long");
    // Each alone may be as long as this.
    let long = "d/../".repeat(400);
    tar.add(b'5', "d", "", b"", 0o755).add(b'2', "l", &format!("{long}d"), b"", 0o777);
    for i in 0..2000 {
        tar.add(b'0', &format!("l/{}/x", i % 2), "", b"", 0o644);
    }
    check("a long way for each member", &tar.end(), "too many links and directories");
    let levels = "d/".repeat(500);
    for i in 0..20 {
        tar.add(b'0', &format!("{i}/{levels}x"), "", b"", 0o644);
    }
    let deep = tar.end();
    let scratch = Scratch::new();
    let lower = scratch.root("lower");
    unpack(&mut &Tar::of("a=1")[..], &lower, Form::Overlay, "lower", &Limits::none()).unwrap();
    let root = scratch.root("root");
    let mut unpacked = unpack(&mut &deep[..], &root, Form::Overlay, "layer", &Limits::none()).unwrap();
    reconcile(&mut unpacked, &root, &Stack::open(&[scratch.path("lower")]).unwrap()).unwrap();
    let took = of_this_thread() - start;
    assert!(took.as_secs() < 60, "{took:?}");
}

/// Names that nobody writes, and what is remembered of others.
#[test]
fn names_have_an_end() {
    let long = |i: usize| format!("{i:08}{}", format!("/{}", "n".repeat(250)).repeat(15));
    let run = |flag: u8, name: &dyn Fn(usize) -> String, target: &dyn Fn(usize) -> String| {
        let mut tar = Tar::default();
        for i in 0..14_000 {
            tar.add(flag, &name(i), &target(i), b"", 0o644);
        }
        let scratch = Scratch::new();
        let root = scratch.root("root");
        let done = unpack(&mut &tar.end()[..], &root, Form::Overlay, "layer", &Limits::none());
        done.map(|unpacked| unpacked.ignored_devices).map_err(|e| e.to_string())
    };
    let none = |_| String::new();
    assert_eq!(run(b'3', &long, &none), Ok(14_000));
    for result in [run(b'1', &|i| i.to_string(), &long), run(b'0', &|i| format!("{}/.wh.{i}", long(0)), &none)] {
        let error = result.unwrap_err();
        assert!(error.starts_with("layer: member ") && error.contains("more than 48 MiB of names"), "{error}");
    }
}

#[test]
fn unpacking_stops_before_the_disk_is_full() {
    let scratch = Scratch::new();
    let root = scratch.root("root");
    let limits = Limits { floor: u64::MAX, ..Limits::none() };
    let e = unpack(&mut &Tar::of("a=1")[..], &root, Form::Overlay, "layer", &limits).unwrap_err();
    assert!(e.to_string().contains("no space left: the file system /") && e.get_hint().is_some(), "{e}");
    let limits = Limits { max_bytes: 10, ..Limits::none() };
    let e = unpack(&mut &Tar::of("a=12345 b=123456")[..], &root, Form::Overlay, "layer", &limits).unwrap_err();
    assert!(e.to_string().contains("more than 10 bytes"), "{e}");
}

/// Bytes changed at random: an error or a tree inside, never a panic, a hang or a change outside.
#[test]
fn mutations() {
    let whole = Tar::of("d/ d/a=1 l->d l/b=2 h=>d/a .wh.x d/.wh..wh..opq e/f/g=3 c! e/l->../../../outside");
    let mut state = 99u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let scratch = Scratch::new();
    let outside = scratch.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "secret").unwrap();
    let before = watch(&outside);
    for round in 0..1500 {
        let mut bad = whole.clone();
        for _ in 0..1 + next() % 4 {
            let member = next() as usize % (bad.len() / 512) * 512;
            let at = member + [0, 1, 2, 100, 124, 135, 156, 157, 158, 345][next() as usize % 10];
            bad[at] = [next() as u8, b'/', b'.', 0, b'L', b'x', b'S'][next() as usize % 7];
            let header: [u8; 512] = bad[member..member + 512].try_into().unwrap();
            // With the right checksum, or it would go no further.
            let fixed = Tar::default().block(header).0.clone();
            bad[member..member + 512].copy_from_slice(&fixed);
        }
        let root = scratch.root(&format!("r{}", round % 2));
        let _ = unpack(
            &mut &bad[..],
            &root,
            if round % 2 == 0 { Form::Plain } else { Form::Overlay },
            "l",
            &Limits::none(),
        )
        .and_then(|mut unpacked| reconcile(&mut unpacked, &root, &Stack::new(Vec::new())));
    }
    assert_eq!(watch(&outside), before);
}
