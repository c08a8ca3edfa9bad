//! Hostile and odd layers through the real program: pulled, imported and added, in both storage modes and every tar
//! format. Nothing outside changes, nobody panics or waits, errors name layer and member, storage stays sound.
//! (What right extraction gives is compared in `src/rootfs/layer_tests.rs`, and here with umoci's.)

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::harness::archive::{Archive, FORMATS, Format, record};
use crate::harness::registry::Registry;
use crate::harness::run::Done;
use crate::harness::{Mode, Run, Site, hold, in_each_mode};

/// What an image needs to look like one.
const BASE: &str = "bin/ dev/ etc/ usr/";

/// `OUT` is a directory outside, `UP` the same from within; more than one layer: with `;`. Then part of the error, or
/// `ok`, or `any`: an error or something inside the root.
const ROWS: &[(&str, &str)] = &[
    // Names.
    ("OUT/new=x /etc/passwd=x", "any"),
    ("../x=1", "path with '..'"),
    ("a/../../x=1", "path with '..'"),
    ("a/../x/", "path with '..'"),
    ("..->x", "path with '..'"),
    (".->OUT", "root is not a directory"),
    ("./=>etc", "root is not a directory"),
    ("./@000 etc/a=1", "ok"),
    ("etc/A=1 etc/a=2 etc/\u{e9}=3 etc/e\u{301}=4 .//opt//./x=5", "ok"),
    // Parents that are links.
    ("l->OUT l/new=1 l/file=1 l/dir/@777", "any"),
    ("l->UP l/new=1 l/file=1 l/dir/@777", "any"),
    ("l->OUT ; l/new=1 l/file=1 l/dir/@777", "any"),
    ("l->OUT l/@777", "ok"),
    ("l->OUT/file l=1@777", "ok"),
    ("l->OUT ; l/.wh.file= l/dir/.wh..wh..opq=", "any"),
    ("l->OUT f=1 ; l/new=>f l/file->x", "any"),
    ("a/ a/l->../.. b->a/l/OUT b/new=1", "any"),
    ("l->/proc/self/root l/OUT/new=1", "any"),
    ("l->/proc/self/fd/5 l/new=1", "any"),
    ("l->l l/x=1", "symbolic links"),
    ("a->b b->a ; a/x=1", "symbolic links"),
    ("f=1 f/x=2", "directory"),
    ("f=1 ; f/x=2", "directory"),
    ("run/ var/ var/run->/run ; var/run/x/@711 var/run/x/pid=1 h=>var/run/x/pid", "ok"),
    ("d/ d/a=1 ; d->etc ; d/ d/b=2", "ok"),
    ("d/ d/a=1 ; d=2", "ok"),
    // Hard links.
    ("h=>OUT/file", "not found"),
    ("h=>../../etc/passwd", "path with '..'"),
    ("l->OUT h=>l/file", "not found"),
    ("l->OUT/file h=>l h=1@777", "ok"),
    ("h=>h", "not found"),
    ("h=>etc", "hard link to a directory"),
    ("h=>nothing ; x=1", "not found"),
    ("h=>", "link without a target"),
    ("a=1@640 ; b=>a", "ok"),
    ("h=>later later=1", "not found"),
    ("a=1 ; .wh.a= h=>a", "not found"),
    ("a=1 ; h=>a .wh.a= ; a=2 g=>a", "ok"),
    // Whiteouts.
    (".wh.=", "malformed whiteout"),
    (".wh..=", "malformed whiteout"),
    ("etc/.wh...=", "malformed whiteout"),
    (".wh.a/b=", "malformed whiteout"),
    ("etc/a=1 ; etc/.wh.a/", "ok"),
    ("etc/a=1 ; etc/.wh.a->OUT", "ok"),
    ("etc/a=1 ; etc/.wh.a|", "ok"),
    ("d/ d/a=1 ; d/ d/b=2 d/.wh..wh..opq=", "ok"),
    ("a=1 l->a ; .wh.a= .wh.l= a=2", "ok"),
    ("a=1 ; .wh=1 .whx=1 .WH.a=1 ..wh.a=1", "ok"),
    // Devices, FIFOs, modes.
    ("etc/a=1 ; etc/a! etc/p| ch/environment|", "ok"),
    ("p| p=1", "ok"),
    ("s=1@6755 d/@7777 d/x=1@000 z/@000 z/y/@000 z/y/x=1 ; z/y/w=2", "ok"),
];

/// All that could be changed of a directory's content.
fn watch(dir: &Path) -> Vec<String> {
    let mut seen = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(path) = todo.pop() {
        let m = path.symlink_metadata().unwrap();
        let content = if m.is_file() { fs::read_to_string(&path).unwrap() } else { String::new() };
        let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        seen.push(format!("{} {:?} {content}", path.display(), (m.mode(), m.nlink(), m.ino(), times)));
        if m.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    seen.sort();
    seen
}

struct Ground<'a> {
    site: &'a Site,
    registry: Registry,
    before: Vec<String>,
}

impl Ground<'_> {
    fn new(site: &Site) -> Ground<'_> {
        for name in ["outside/file", "outside/dir/file"] {
            site.write(name, "secret");
        }
        site.write("context/Dockerfile", "FROM base\nADD layer.tar /added/\n");
        fs::write(site.path("base.tar"), Archive::new(Format::Ustar).words(BASE).end()).unwrap();
        site.import(&site.path("base.tar"), "base");
        Ground { site, registry: Registry::start(), before: watch(&site.path("outside")) }
    }

    /// In all ways in which the program reads archives.
    fn check(&self, what: &str, layers: &[Vec<u8>], expected: &str) {
        let all: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
        hold::image(&self.registry, "a/b", "1", &hold::config(Some("amd64"), &all), &all);
        let name = self.registry.name("a/b:1");
        self.run(self.site.run("pull").args(["-a", "yolo", &name]), "pull", what, expected);
        self.site.run("delete").arg(&name).finish();
        let [layer] = layers else { return };
        fs::write(self.site.path("context/layer.tar"), layer).unwrap();
        let tarball = self.site.path("context/layer.tar");
        self.run(self.site.run("import").arg(&tarball).arg("imported"), "import", what, expected);
        // What does not begin as an archive is copied as it is.
        let expected = if expected == "ok" { "ok" } else { "any" };
        self.run(self.site.run("build").args(["-t", "built"]).arg(self.site.path("context")), "add", what, expected);
    }

    fn run(&self, run: Run, how: &str, what: &str, expected: &str) {
        let Done { stdout, stderr, status, .. } = run.limit(Duration::from_secs(60)).finish();
        let told = format!("{:?}, {how}: {what}\n{status}\n{stdout}{stderr}", self.site.mode());
        assert!(matches!(status.code(), Some(0 | 1)) && !stderr.contains("panicked"), "{told}");
        assert_eq!(watch(&self.site.path("outside")), self.before, "{told}");
        let error = stderr.lines().find(|line| line.starts_with("error: "));
        assert_eq!(error.is_some(), !status.success(), "{told}");
        match expected {
            "any" => {}
            "ok" => assert!(status.success(), "{told}"),
            part => {
                let error = error.unwrap_or_else(|| panic!("{told}"));
                assert!(error.contains(part), "{told}");
                assert!(how != "pull" || error.starts_with("error: layer "), "{told}");
            }
        }
    }
}

#[test]
fn hostile_layers_reach_nothing() {
    in_each_mode(|site| {
        let ground = Ground::new(site);
        let outside = site.path("outside").display().to_string();
        let up = format!("{}{}", "../".repeat(12), outside.trim_start_matches('/'));
        for (words, expected) in ROWS {
            for format in FORMATS {
                // V7 has neither devices nor FIFOs, and no room for this many bytes; neither has ustar in a link.
                let words = words.replace("OUT", &outside).replace("UP", &up);
                let long = words.split_whitespace().any(|word| word.len() > 99);
                if long && matches!(format, Format::V7 | Format::Ustar)
                    || words.contains(['!', '|']) && format == Format::V7
                {
                    continue;
                }
                let mut layers: Vec<Vec<u8>> =
                    words.split(';').map(|layer| Archive::new(format).words(layer).end()).collect();
                layers[0].splice(..0, Archive::new(format).words(BASE).end()[..512 * BASE.split(' ').count()].to_vec());
                ground.check(&format!("{format:?} {words}"), &layers, expected);
            }
        }
        site.run("fsck").arg("--deep").success();
    });
}

#[test]
fn broken_archives_are_errors() {
    in_each_mode(|site| {
        let ground = Ground::new(site);
        let start = || Archive::new(Format::Pax).words(BASE);
        let field = |at: usize, bytes: &[u8]| {
            let mut header = start().header(b'0', "x", 0);
            header[at..at + bytes.len()].copy_from_slice(bytes);
            start().block(header).end()
        };
        let pax = |records: &[u8]| start().extra(b'x', records).words("x=1").end();
        let long = |name: &[u8]| start().extra(b'L', name).words("x=1").end();
        let mut damaged = start().words("x=1").end();
        damaged[4 * 512] = b'y';
        let sparse = |map: &str, size: &str| {
            let records = [("GNU.sparse.map", map), ("GNU.sparse.size", size)];
            let records: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value.as_bytes())).collect();
            start().extra(b'x', &records).words("x=abc").end()
        };
        let rows: &[(&str, Vec<u8>, &str)] = &[
            ("empty name", start().words("=1").end(), "without a name"),
            ("check sum", damaged, "wrong checksum"),
            ("no archive", vec![b'x'; 5000], "malformed header"),
            ("truncated", start().words("x=1").end()[..4 * 512 + 513].to_vec(), "truncated"),
            ("negative size", field(124, &[0xff; 12]), "negative size"),
            ("size 2^63", field(124, b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), "too large"),
            ("size 2^64", field(124, b"\x80\0\0\x01\0\0\0\0\0\0\0\0"), "too large"),
            (
                "size of the padding",
                field(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\x01"),
                "malformed header: size",
            ),
            ("garbage size", field(124, b"12x4567\0\0\0\0\0"), "malformed header: size"),
            ("unknown type", field(156, b"A"), "unknown type"),
            ("PAX size", pax(&record("size", b"2")), "PAX record says 2"),
            ("PAX size negative", pax(&record("size", b"-1")), "malformed PAX record"),
            ("PAX length", pax(b"9 a=b\n"), "malformed PAX record"),
            ("PAX length 0", pax(b"0 a=b\n"), "malformed PAX record"),
            ("PAX length of 30 digits", pax(b"111111111111111111111111111111 a=b\n"), "malformed PAX record"),
            ("PAX without equals sign", pax(b"6 abb\n"), "malformed PAX record"),
            ("PAX with NUL", pax(&record("path", b"a\0b")), "NUL in path"),
            ("PAX global path", start().extra(b'g', &record("path", b"x")).end(), "global PAX header"),
            ("PAX orphan", start().extra(b'x', &record("path", b"x")).end(), "after the extended header"),
            ("PAX 2 MiB", pax(&record("comment", &vec![b'x'; 2 << 20])), "larger than 1048576"),
            ("attribute of 1 MiB", pax(&record("SCHILY.xattr.user.x", &vec![b'x'; 1_000_000])), "larger than 65536"),
            ("long name twice", start().extra(b'L', b"a\0").extra(b'L', b"b\0").words("x=1").end(), "two long names"),
            ("long name orphan", start().extra(b'L', b"a\0").end(), "after the extended header"),
            ("long name of 2 MiB", long(&vec![b'x'; 2 << 20]), "larger than 1048576"),
            ("long name out", long(b"../x\0"), "path with '..'"),
            ("3000 levels", long(&[b"d/".repeat(2000), b"x\0".to_vec()].concat()), "deeper than 512"),
            ("5000 bytes", long(&[b'x'; 5000]), "longer than 4096"),
            ("name of 256 bytes", long(&[b'x'; 256]), "longer than 255"),
            ("sparse overlap", sparse("0,2,1,1", "9"), "malformed sparse map"),
            ("sparse negative", sparse("-1,3", "9"), "sparse map"),
            ("sparse 2^64", sparse("0,3", "18446744073709551616"), "malformed PAX record"),
            ("sparse of many pieces", sparse(&"0,0,".repeat(100_001), "9"), "more than 100000"),
            // Which nobody waits to be read.
            ("sparse of a terabyte", sparse("0,3", "1099511627776"), "ok"),
            ("late", field(136, b"\x80\0\0\0\x40\0\0\0\0\0\0\0"), "ok"),
            ("early", field(136, &[0xff; 12]), "ok"),
            ("no end", start().words("x=1").end()[..6 * 512].to_vec(), "ok"),
            ("data behind the end", [start().end(), vec![b'x'; 3000]].concat(), "ok"),
            (
                "10,000 global headers",
                {
                    let one = Archive::new(Format::Pax).extra(b'g', &record("comment", b"x")).end();
                    start().raw(&one[..1024].repeat(10_000)).words("x=1").end()
                },
                "ok",
            ),
            (
                "overlay's attributes",
                {
                    let names = ["user.overlay.opaque", "trusted.overlay.opaque", "security.capability"];
                    let all: Vec<u8> = names.iter().flat_map(|n| record(&format!("SCHILY.xattr.{n}"), b"y")).collect();
                    start().extra(b'x', &all).words("etc/").end()
                },
                "ok",
            ),
        ];
        for (what, layer, expected) in rows {
            ground.check(what, std::slice::from_ref(layer), expected);
        }
        site.run("fsck").arg("--deep").success();
    });
}

/// As many layers as an image may have, and one more.
#[test]
fn five_hundred_layers() {
    in_each_mode(|site| {
        let registry = Registry::start();
        let mut layers = vec![Archive::new(Format::Ustar).words(BASE).end()];
        layers.extend((1..500).map(|n| Archive::new(Format::Ustar).words(&format!("etc/{n}=x")).end()));
        let all: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
        hold::image(&registry, "a/b", "500", &hold::config(Some("amd64"), &all), &all);
        let name = registry.name("a/b:500");
        site.run("pull").args(["-a", "yolo", &name]).success();
        site.run("push").args([&name, &registry.name("a/c:1")]).success();
        // They are more than can be mounted.
        let on = |base: &str| site.build("out", &format!("FROM {base}\nCOPY Dockerfile /etc/\n")).args(["-a", "yolo"]);
        match site.mode() {
            Mode::Overlay => {
                on(&name).stderr_has("hint: make one tree of the image: ch-run -w IMAGE -- true").failure();
                // The image has no such program, but is one tree by then.
                site.ch_run_with(&["-w"], &name).arg("true").stderr_has("execve(2): true").code(127);
                on(&name).success();
                let made = site.ch_run_with(&["-w"], &name).arg("true").code(127);
                assert!(!made.stderr.contains("copying"), "{}", made.stderr);
            }
            Mode::Plain => drop(on(&name).success()),
        }
        let flat = site.path("flat");
        site.run("pull").args(["-a", "yolo", &name]).arg(&flat).success();
        site.run("import").arg(&flat).arg("flat").success();
        on("flat").success();
        let more: Vec<&[u8]> = all.iter().copied().chain([all[0]]).collect();
        hold::image(&registry, "a/b", "501", &hold::config(Some("amd64"), &more), &more);
        site.run("pull").args(["-a", "yolo", &registry.name("a/b:501")]).stderr_has("501 layers (limit 500)").failure();
    });
}
