//! Full disks: a small tmpfs in a user namespace is the storage directory. And large layers in little memory.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use crate::harness::archive::{Archive, Format, record};
use crate::harness::registry::Registry;
use crate::harness::run::{Done, Running};
use crate::harness::{Run, Site, hold, image, in_each_mode};
use crate::{needs, skip};

fn made(name: &str, files: u32, bytes: usize) -> std::path::PathBuf {
    image::make(name, |image| {
        ["bin", "dev", "usr", "etc"].iter().for_each(|dir| image.dir(dir, 0o755));
        let content: Vec<u8> = (0..bytes).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect();
        (0..files).for_each(|i| image.file(&format!("etc/{i}"), 0o644, &content));
    })
}

/// What fits is kept, what does not is an error that says so and leaves nothing, and space can be made.
const SCRIPT: &str = "
$CH import $DIR/fits.tar fits || exit 10
$CH import $DIR/large.tar large 2>$DIR/told && exit 11
cat $DIR/told
[ \"$($CH list | cut -d' ' -f1)\" = fits:latest ] || exit 12
$CH fsck --deep || exit 13
[ -z \"$(ls $DIR/st/tmp)\" ] || exit 14
# Full to the last byte and inode.
n=0; while [ $n -lt 3000 ] && true >$DIR/st/fill$n; do n=$((n+1)); done 2>/dev/null
dd if=/dev/zero of=$DIR/st/fill0 bs=4096 2>/dev/null
$CH list >/dev/null || exit 15
$CH delete fits || exit 16
[ -z \"$(ls $DIR/st/layers)\" ] || exit 17
rm $DIR/st/fill*
$CH import $DIR/fits.tar fits || exit 18
";

/// However few inodes there are when the storage directory is made: its mode is not decided by that.
const FEW_INODES: &str = "
export CH_IMAGE_STORAGE=$DIR/st/storage
$CH import $DIR/fits.tar fits && cp $DIR/st/storage/version $DIR/want || exit 20
$CH reset; rm -rf $DIR/st/storage; mkdir $DIR/st/fill
n=0; while true >$DIR/st/fill/$n; do n=$((n+1)); done 2>/dev/null
for free in $(seq 40); do
    n=$((n-1)); rm $DIR/st/fill/$n
    $CH import $DIR/fits.tar fits 2>$DIR/told || grep -q 'No space left' $DIR/told || exit 21
    if [ -e $DIR/st/storage/version ]; then cmp $DIR/st/storage/version $DIR/want || exit 22; fi
    rm -rf $DIR/st/storage
done
rm -r $DIR/st/fill
$CH import $DIR/fits.tar fits && cmp $DIR/st/storage/version $DIR/want || exit 23
";

#[test]
fn full_disks_decide_no_mode() {
    needs!("unshare");
    let site = Site::new();
    fs::copy(made("few.tar", 1, 10), site.path("fits.tar")).unwrap();
    let Some(run) = site.on_tmpfs("mode=700,nr_inodes=200", FEW_INODES) else { skip!("no tmpfs in a user namespace") };
    run.success();
}

#[test]
fn full_disks_are_named() {
    needs!("unshare");
    for (options, large) in
        [("mode=700,size=4m,nr_inodes=2000", (1, 6 << 20)), ("mode=700,size=64m,nr_inodes=150", (400, 10))]
    {
        let site = Site::new();
        fs::copy(made("fits.tar", 3, 100_000), site.path("fits.tar")).unwrap();
        fs::copy(made("large.tar", large.0, large.1), site.path("large.tar")).unwrap();
        let Some(run) = site.on_tmpfs(options, SCRIPT) else { skip!("no tmpfs in a user namespace") };
        let done = run.stdout_has("error:").stdout_has("hint:").success();
        let told = done.stdout.to_lowercase();
        assert!(told.contains("space") || told.contains("inodes"), "{told}");
    }
}

/// What can't find room is not downloaded.
const PULLS: &str = "
$CH pull -a yolo $LARGE 2>$DIR/told && exit 11
sed -n '/^error/,$p' $DIR/told
[ -z \"$(ls $DIR/st/ingest)\" ] && [ -z \"$($CH list)\" ] || exit 12
$CH pull -a yolo $SMALL || exit 13
";

#[test]
fn too_large_a_download_is_refused_beforehand() {
    needs!("unshare");
    let (site, registry) = (Site::new(), Registry::start());
    let hold = |tag: &str, bytes: usize| {
        let content: Vec<u8> = (0..bytes).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect();
        let layer = hold::layer(&[("bin/", b""), ("dev/", b""), ("usr/", b""), ("usr/file", &content)]);
        hold::image(&registry, "a", tag, &hold::config(None, &[&layer]), &[&layer]);
        registry.name(&format!("a:{tag}"))
    };
    let (large, small) = (hold("large", 9 << 20), hold("small", 3 << 20));
    let Some(run) = site.on_tmpfs("mode=700,size=7m", PULLS) else { skip!("no tmpfs in a user namespace") };
    let done = run.env("LARGE", large).env("SMALL", small).success();
    let told = done.stdout.lines().next().unwrap_or_default().to_owned();
    assert!(told.starts_with("error: not enough space: 9.0 MiB to download, "), "{told}");
    assert!(told.ends_with(" MiB free on SITE/st"), "{told}");
    assert!(done.stdout.contains("\nhint: unpacked, layers commonly take "), "{}", done.stdout);
}

/// Most that a program had of this, in KiB. It must succeed.
fn peak(running: Running, what: &str) -> u64 {
    let (peak, done) = watched(running, what);
    assert!(done.status.success(), "{}", done.stderr);
    peak
}

/// Most that a program had of this, in KiB, and how it ended.
fn watched(mut running: Running, what: &str) -> (u64, Done) {
    let status = format!("/proc/{}/status", running.child.id());
    let mut peak = 0;
    while running.is_alive() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(what));
        peak = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(5));
    }
    (peak, running.into_done(&[]))
}

/// A program that may use so many KiB of addresses.
fn limited(run: &str, site: &Site, kib: u64) -> Run {
    let run = site.program("prlimit").arg(format!("--as={}", kib << 10)).arg(site.path("bin/ch-image")).arg(run);
    run.env("CH_IMAGE_STORAGE", site.storage())
}

/// A layer of 200 MB within 96 MiB of addresses more than an idle run has.
#[test]
fn memory_does_not_grow_with_layers() {
    needs!("gzip", "prlimit");
    let (site, registry) = (Site::new(), Registry::start());
    let tarball = site.path("large.tar");
    let mut tar = tar::Builder::new(std::io::BufWriter::new(fs::File::create(&tarball).unwrap()));
    let mut header = tar::Header::new_gnu();
    for dir in ["bin/", "dev/", "usr/"] {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        tar.append_data(&mut header, dir, &[][..]).unwrap();
    }
    let size = 200_000_000;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    tar.append_data(&mut header, "usr/large", std::io::Read::take(std::io::repeat(b'x'), size)).unwrap();
    tar.into_inner().unwrap().flush().unwrap();
    site.program("gzip").arg("-1").arg(&tarball).success();
    let tarball = site.path("large.tar.gz");

    let idle = peak(site.run("list").start(), "VmPeak:");
    let limit = 96 << 10;
    let program = |run| limited(run, &site, idle + limit);
    let name = registry.name("a/b:1");
    let context = site.path("context");
    site.write("context/Dockerfile", "FROM large\nCOPY --from=large /usr/large /usr/again\n");
    let runs = [
        ("import", program("import").arg(&tarball).arg("large")),
        ("push", program("push").args(["large", &name])),
        ("pull", program("pull").arg(&name)),
        ("build", program("build").args(["-t", "out"]).arg(&context)),
    ];
    for (what, run) in runs {
        let peak = peak(run.start(), "VmHWM:");
        assert!(peak > 1000 && peak < limit, "{what} takes {peak} KiB");
    }
}

/// Names that nobody writes to disk cost no memory: 120 MB of names of devices are read, and 65 MB of hard links to
/// nothing refused, within 96 MiB.
#[test]
fn memory_does_not_grow_with_names() {
    let (site, registry) = (Site::new(), Registry::start());
    let limit = 96 << 10;
    // Components of a path have 255 bytes at most.
    let long = |n: usize, start: &str, parts: usize| format!("{start}{}/{n}", vec!["x".repeat(249); parts].join("/"));
    let base = Archive::new(Format::Gnu).words("bin/ dev/ usr/").end();
    let mut devices = Archive::new(Format::Gnu);
    for n in 0..60_000 {
        devices = devices.extra(b'L', long(n, "dev/", 8).as_bytes());
        let mut header = devices.header(b'3', "name", 0);
        // Not 0:0, which would be a whiteout.
        header[329..337].copy_from_slice(b"0000005\0");
        devices = devices.block(header);
    }
    let mut links = Archive::new(Format::Gnu);
    for n in 0..8_200 {
        let (name, target) = (long(n, "usr/", 16), long(n, "bin/", 16));
        links = links.extra(b'L', name.as_bytes()).extra(b'K', target.as_bytes());
        let header = links.header(b'1', "name", 0);
        links = links.block(header);
    }
    let too_many = "too many whiteouts, devices, hard links to other layers, or directories without a member";
    for (what, layer, code, error) in [("devices", devices.end(), 0, ""), ("links", links.end(), 1, too_many)] {
        let all = [&base[..], &layer];
        hold::image(&registry, "a/b", what, &hold::config(Some("amd64"), &all), &all);
        let name = registry.name(&format!("a/b:{what}"));
        let run = site.run("pull").args(["-a", "yolo", &name]).limit(Duration::from_secs(100));
        let (peak, done) = watched(run.start(), "VmHWM:");
        assert_eq!(done.status.code(), Some(code), "{what}: {}", done.stderr);
        assert!(done.stderr.contains(error), "{what}: {}", done.stderr);
        assert!(peak > 1000 && peak < limit, "{what}: {peak} KiB");
    }
}

/// Files of 2^63-1 bytes, two of them, all holes: sums of their sizes have no room in 64 bits.
const GIANTS: &str = "
mkdir -p $DIR/st/tree/bin $DIR/st/tree/dev $DIR/st/tree/usr
truncate -s 9223372036854775807 $DIR/st/tree/usr/a $DIR/st/tree/usr/b || exit 30
export CH_IMAGE_STORAGE=$DIR/st/storage
for what in $DIR/st/tree $DIR/giants.tar; do
    $CH import $what giants 2>$DIR/told; code=$?
    echo ${what##*/} $code $(grep -c panicked $DIR/told)
    [ $code = 0 ] || grep -q '^error: ' $DIR/told || exit 31
    $CH fsck --deep >/dev/null || exit 32
    [ $code != 0 ] || $CH list giants >/dev/null || exit 33
    [ $code != 0 ] || $CH delete giants || exit 34
done
";

#[test]
fn sums_of_giant_files_overflow_nothing() {
    needs!("unshare", "truncate");
    let site = Site::new();
    let mut tar = Archive::new(Format::Pax).words("bin/ dev/ usr/");
    for name in ["usr/a", "usr/b"] {
        let records = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", "9223372036854775807"),
            ("GNU.sparse.name", name),
        ];
        let records: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value.as_bytes())).collect();
        let mut map = b"0\n".to_vec();
        map.resize(512, 0);
        tar = tar.extra(b'x', &records);
        let header = tar.header(b'0', name, 512);
        tar = tar.block(header).data(&map);
    }
    fs::write(site.path("giants.tar"), tar.end()).unwrap();
    let Some(run) = site.on_tmpfs("mode=700,size=64m", GIANTS) else { skip!("no tmpfs in a user namespace") };
    run.limit(Duration::from_secs(60)).stdout("tree 0 0\ngiants.tar 0 0\n").success();
}

/// `/var/log/lastlog` where a user ID is large: 300 GiB, and next to nothing on disk. Nobody waits for its zeros.
#[test]
fn holes_are_not_read() {
    in_each_mode(|site| {
        let giant = |path: &Path| {
            let file = fs::File::create(path).unwrap();
            file.set_len(300 << 30).unwrap();
            file.write_all_at(b"root", (300 << 30) - 4).unwrap();
        };
        for dir in ["bin", "dev", "usr"] {
            fs::create_dir_all(site.path("tree").join(dir)).unwrap();
        }
        giant(&site.path("tree/usr/lastlog"));
        site.write("context/Dockerfile", "FROM tree\nCOPY --from=tree /usr/lastlog /usr/again\nCOPY here /usr/\n");
        giant(&site.path("context/here"));
        let soon = |run: Run| drop(run.limit(Duration::from_secs(100)).success());
        soon(site.run("import").arg(site.path("tree")).arg("tree"));
        soon(site.run("build").args(["-t", "out"]).arg(site.path("context")));
        soon(site.run("fsck").arg("--deep"));
        let mut found = Vec::new();
        let mut todo = vec![site.storage()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
                let meta = entry.metadata().unwrap();
                let name = entry.file_name().into_string().unwrap();
                if meta.is_dir() {
                    todo.push(entry.path());
                } else if ["lastlog", "again", "here"].contains(&name.as_str()) {
                    assert!(meta.len() == 300 << 30 && meta.blocks() < 1000, "{meta:?}");
                    found.push(name);
                }
            }
        }
        found.sort();
        found.dedup();
        assert_eq!(found, ["again", "here", "lastlog"]);
    });
}
