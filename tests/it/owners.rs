//! To whom do files belong? What the layers of a base say of owners, set-id bits and capabilities is seen in RUN and
//! pushed again, in either storage mode.

use std::fs;

use crate::harness::registry::Registry;
use crate::harness::{Mode, Site, hold, image, in_each_mode};
use crate::{needs, skip};

/// A file capability (cap_net_raw+ep), as in `security.capability`.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A layer in words: `d/`, `f=text`, `l->target`, `h=>target`; behind them `@mode`, then `+uid:gid`, then `^` for a
/// capability.
fn layer(words: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for word in words.split_whitespace() {
        let (word, capable) = word.strip_suffix('^').map_or((word, false), |word| (word, true));
        let (word, (uid, gid)) = match word.rsplit_once('+') {
            Some((word, ids)) => (word, ids.split_once(':').unwrap()),
            None => (word, ("0", "0")),
        };
        let (word, mode) = match word.rsplit_once('@') {
            Some((word, mode)) => (word, u32::from_str_radix(mode, 8).unwrap()),
            None => (word, if word.ends_with('/') { 0o755 } else { 0o644 }),
        };
        let (kind, name, target, text) = if let Some((name, target)) = word.split_once("=>") {
            (tar::EntryType::Link, name, target, "")
        } else if let Some((name, target)) = word.split_once("->") {
            (tar::EntryType::Symlink, name, target, "")
        } else if let Some((name, text)) = word.split_once('=') {
            (tar::EntryType::Regular, name, "", text)
        } else {
            (tar::EntryType::Directory, word, "", "")
        };
        let (uid, gid): (u64, u64) = (uid.parse().unwrap(), gid.parse().unwrap());
        // A number that the old header has no room for.
        let large = (uid > 0o7_777_777).then(|| ("uid", uid.to_string().into_bytes()));
        let capability = capable.then(|| ("SCHILY.xattr.security.capability", CAPABILITY.to_vec()));
        let records: Vec<_> = large.into_iter().chain(capability).collect();
        if !records.is_empty() {
            tar.append_pax_extensions(records.iter().map(|(key, value)| (*key, value.as_slice()))).unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(image::MTIME);
        header.set_uid(uid.min(0o7_777_777));
        header.set_gid(gid);
        header.set_size(text.len() as u64);
        if !target.is_empty() {
            header.set_link_name(target).unwrap();
        }
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Holds an image of the small one and these layers on top; its name.
fn hold(registry: &Registry, layers: &[&str]) -> String {
    let small = fs::read(image::small()).unwrap();
    let layers: Vec<Vec<u8>> = [small].into_iter().chain(layers.iter().map(|words| layer(words))).collect();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let config = hold::config(Some("amd64"), &layers);
    hold::image(registry, "a/base", "1", &config, &layers);
    registry.name("a/base:1")
}

/// What the topmost layer of a pushed image says below one of these paths: `path uid:gid mode`, `^` if capable.
fn pushed(registry: &Registry, repository: &str, below: &[&str]) -> String {
    let tar = registry.with(|content| {
        let manifest = &content.manifests[&(repository.to_owned(), "1".to_owned())].1;
        let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        let digest = layers.last().unwrap()["digest"].as_str().unwrap().to_owned();
        content.blobs[&(repository.to_owned(), digest)].clone()
    });
    let site = Site::new();
    fs::write(site.path("layer.gz"), tar).unwrap();
    site.program("gzip").arg("-d").arg(site.path("layer.gz")).success();
    let mut archive = tar::Archive::new(fs::File::open(site.path("layer")).unwrap());
    let mut lines = String::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
        if !below.iter().any(|dir| path == *dir || path.starts_with(&format!("{dir}/"))) {
            continue;
        }
        let mut uid = entry.header().uid().unwrap().to_string();
        let mut capable = "";
        for record in entry.pax_extensions().unwrap().into_iter().flatten() {
            let record = record.unwrap();
            match record.key().unwrap() {
                "uid" => uid = record.value().unwrap().to_owned(),
                "SCHILY.xattr.security.capability" => capable = "^",
                _ => {}
            }
        }
        let header = entry.header();
        lines += &format!("{path} {uid}:{} {:o}{capable}\n", header.gid().unwrap(), header.mode().unwrap());
    }
    lines
}

/// Layers that do all that layers can do to what lower ones say, and what comes of it.
const LAYERS: [&str; 4] = [
    "o/+5:6 o/f=1+7:8 o/setuid=1@4755 o/setgid=1@2755+0:42 o/dir/@2770+3:4 o/link->f+9:9 o/hard=>o/f \
     o/capable=1@755^ o/large=1+70000000:2 o/shared/+11:12 o/shared/a=1+13:14 \
     gone/+5:5 gone/a=1+5:5 opaque/+5:5 opaque/old=1+5:5 replaced=1+5:5 became/+5:5 became/a=1+5:5 real/+1:1",
    // A file replaced by root's, a directory that is used without being described, a whiteout, an opaque directory, a
    // directory that becomes a file, and a file of which only the other name is in this layer.
    "o/shared/b=1+15:16 replaced=2 .wh.gone= opaque/.wh..wh..opq= opaque/new=1+6:6 .wh.became= o/other=>o/f via->real",
    // The same name again; a directory described anew; through a link of a lower layer.
    "gone/ gone/a=2 o/dir/@755 became=1+2:2 via/x=1+21:22 twice=1+5:5 twice=2",
    "o/shared/+17:18",
];

const WANT: &str = "became 2:2 644\n\
    gone 0:0 755\n\
    gone/a 0:0 644\n\
    o 5:6 755\n\
    o/capable 0:0 755^\n\
    o/dir 0:0 755\n\
    o/f 7:8 644\n\
    o/hard 7:8 644\n\
    o/large 70000000:2 644\n\
    o/link 9:9 777\n\
    o/other 7:8 644\n\
    o/setgid 0:42 2755\n\
    o/setuid 0:0 4755\n\
    o/shared 17:18 755\n\
    o/shared/a 13:14 644\n\
    o/shared/b 15:16 644\n\
    opaque 0:0 755\n\
    opaque/new 6:6 644\n\
    real 1:1 755\n\
    real/x 21:22 644\n\
    replaced 0:0 644\n\
    twice 0:0 644\n";

const TOP: [&str; 7] = ["became", "gone", "o", "opaque", "real", "replaced", "twice"];

#[test]
fn owners_of_the_base_are_kept() {
    needs!("busybox", "gzip");
    in_each_mode(|site| {
        let registry = Registry::start();
        let base = hold(&registry, &LAYERS);
        site.run("pull").arg(&base).success();
        site.run("push").args(["--ownership", &base, &registry.name("b/pulled:1")]).success();
        // An opaque directory that is not described: whose it is, tools disagree; here it is as below.
        let want = WANT.replace("opaque 0:0", "opaque 5:5");
        assert_eq!(pushed(&registry, "b/pulled", &TOP), want, "{:?}", site.mode());
        // RUN sees the same, and what it changes stays theirs.
        let stat = "find became gone o opaque real replaced twice -exec stat -c '%n %u:%g %a' {} + | sort";
        let seen: String = want.replace('^', "");
        let dockerfile = format!("FROM {base}\nRUN cd / && {stat}\nRUN echo new >>/o/f && mv /o/setgid /o/moved\n");
        site.build("made", &dockerfile).arg("--force=notify").stdout(&seen).success();
        site.run("push").args(["--ownership", "made", &registry.name("b/made:1")]).success();
        let want = want.replace("o/setgid 0:42 2755\n", "").replace("o/other", "o/moved 0:42 2755\no/other");
        assert_eq!(pushed(&registry, "b/made", &TOP), want, "{:?}", site.mode());
        // A push that does not ask for owners has none.
        site.run("push").args(["made", &registry.name("b/flat:1")]).success();
        assert_eq!(pushed(&registry, "b/flat", &["o/f", "o/moved"]), "o/f 0:0 644\no/moved 0:0 755\n");
    });
}

/// Nobody asks for owners without `--force=notify`: nothing is followed, and what steps change is root's.
#[test]
fn owners_of_the_base_where_nobody_asks() {
    needs!("busybox", "gzip");
    let site = Site::of(Mode::Overlay);
    let registry = Registry::start();
    let base = hold(&registry, &["o/+5:6 o/f=1+7:8 o/g=1@4755+7:8"]);
    site.write("context/h", "h\n");
    let dockerfile = format!("FROM {base}\nCOPY h /o/h\nRUN stat -c %u:%g:%a /o/f /o/g && echo 2 >/o/f\n");
    site.build("made", &dockerfile).stdout("0:0:644\n0:0:755\n").success();
    site.run("push").args(["--ownership", "made", &registry.name("b/made:1")]).success();
    let want = "o 5:6 755\no/f 0:0 644\no/g 7:8 4755\no/h 0:0 644\n";
    assert_eq!(pushed(&registry, "b/made", &["o"]), want);
    // The same steps, of which COPY comes from the cache, where somebody asks.
    site.build("asked", &dockerfile).arg("--force=notify").stdout("7:8:644\n7:8:4755\n").success();
    site.run("push").args(["--ownership", "asked", &registry.name("b/asked:1")]).success();
    assert_eq!(pushed(&registry, "b/asked", &["o"]), want.replace("o/f 0:0", "o/f 7:8"));
}

/// `push --layers` has in its layer only what differs from the base, in owners too.
#[test]
fn owners_of_the_base_stay_in_its_layers() {
    needs!("busybox", "gzip");
    let site = Site::of(Mode::Overlay);
    let registry = Registry::start();
    let base = hold(&registry, &["o/+5:6 o/f=1+7:8 o/g=1@4755+7:8"]);
    let dockerfile = format!("FROM {base}\nRUN chown 0:0 /o/g && touch /o/new\n");
    site.build("made", &dockerfile).arg("--force=notify").success();
    site.run("push").args(["--ownership", "--layers", "made", &registry.name("b/made:1")]).success();
    assert_eq!(pushed(&registry, "b/made", &["o"]), "o 5:6 755\no/g 0:0 755\no/new 0:0 644\n");
}

/// A tarball says whose its files are, with an enclosing directory or without.
#[test]
fn owners_of_a_tarball_are_kept() {
    needs!("busybox", "gzip");
    in_each_mode(|site| {
        let registry = Registry::start();
        for (name, words) in [
            ("flat", "bin/ dev/ usr/ o/+5:6 o/f=1@4755+7:8"),
            ("top", "top/ top/bin/ top/dev/ top/usr/ top/o/+5:6 top/o/f=1@4755+7:8"),
        ] {
            let tarball = site.path(&format!("{name}.tar"));
            fs::write(&tarball, layer(words)).unwrap();
            site.import(&tarball, name);
            site.run("push").args(["--ownership", name, &registry.name(&format!("b/{name}:1"))]).success();
            assert_eq!(pushed(&registry, &format!("b/{name}"), &["o"]), "o 5:6 755\no/f 7:8 4755\n", "{name}");
        }
    });
}

/// So do packed and saved images, in every form in which they are written.
#[test]
fn owners_of_packed_and_saved_images_are_kept() {
    needs!("busybox", "gzip");
    in_each_mode(|site| {
        let registry = Registry::start();
        let words = "bin/ dev/ usr/ o/+5:6 o/f=1@4755+7:8 o/hard=>o/f o/capable=1@755+0:9^ o/dir/@2770+3:4 o/link->f+9:9 o/plain=1";
        let want = "o 5:6 755\no/capable 0:9 755^\no/dir 3:4 2770\no/f 7:8 4755\no/hard 7:8 4755\no/link 9:9 777\no/plain 0:0 644\n";
        fs::write(site.path("base.tar"), layer(words)).unwrap();
        site.import(&site.path("base.tar"), "base");
        let at = |name: &str| site.path(name).display().to_string();
        let archives = [format!("docker-archive:{}", at("docker")), format!("oci-archive:{}", at("oci"))];
        let layout = format!("oci:{}", at("layout"));
        for operand in [at("a.sqfs"), at("a.tar.gz"), archives[0].clone(), archives[1].clone(), layout] {
            site.run("export").args(["--ownership", "base", &operand]).success();
            site.run("import").args([&operand, "back"]).success();
            site.run("push").args(["--ownership", "back", &registry.name("b/back:1")]).success();
            assert_eq!(pushed(&registry, "b/back", &["o"]), want, "{operand}");
            site.run("delete").arg("back").success();
        }
        // What does not ask for owners has none.
        site.run("export").args(["base", &at("flat.sqfs")]).success();
        site.run("import").args([&at("flat.sqfs"), "flat"]).success();
        site.run("push").args(["--ownership", "flat", &registry.name("b/flat:1")]).success();
        assert_eq!(pushed(&registry, "b/flat", &["o/f", "o/capable"]), "o/capable 0:0 755\no/f 0:0 755\n");
    });
}

/// Files that ADD unpacks are whose the archive says, or `--chown`.
#[test]
fn owners_of_archives_that_add_unpacks() {
    needs!("busybox");
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let words = "./+50:60 a/+5:6 a/f=1@4755+7:8 a/hard=>a/f a/link->f+9:9 a/plain=1 a/twice=1+4:4 a/twice=2 there/";
        fs::create_dir_all(site.path("context")).unwrap();
        fs::write(site.path("context/a.tar"), layer(words)).unwrap();
        let stat = "cd /to && find . -exec stat -c '%n %u:%g %a' {} + | sort";
        let dockerfile = format!(
            "FROM base\nRUN mkdir -p /to/there && chown 1:1 /to /to/there && touch /to/other && chown 2:2 /to/other\n\
             ADD a.tar /to/\nRUN {stat}\nADD --chown=70:80 a.tar /to/\nRUN {stat} # again\n"
        );
        let archive = ". 1:1 755\n./a 5:6 755\n./a/f 7:8 4755\n./a/hard 7:8 4755\n./a/link 9:9 777\n./a/plain 0:0 644\n\
                       ./a/twice 0:0 644\n./other 2:2 644\n./there 0:0 755\n";
        let chown = ". 1:1 755\n./a 70:80 755\n./a/f 70:80 4755\n./a/hard 70:80 4755\n./a/link 70:80 777\n\
                     ./a/plain 70:80 644\n./a/twice 70:80 644\n./other 2:2 644\n./there 70:80 755\n";
        site.build("made", &dockerfile).arg("--force=notify").stdout(&format!("{archive}{chown}")).success();
        // Where nobody asks, everything is root's.
        let dockerfile = format!("FROM base\nADD a.tar /to/\nRUN {stat}\n");
        let plain = archive.replace("5:6", "0:0").replace("7:8 4755", "0:0 755").replace("9:9", "0:0");
        let plain = plain.replace("1:1", "0:0").replace("./other 2:2 644\n", "");
        site.build("plain", &dockerfile).stdout(&plain).success();
    });
}

/// What is recorded is checked, and layers that were pulled before anything was recorded work as they did.
#[test]
fn records_of_owners_that_are_damaged_or_missing() {
    needs!("busybox", "gzip");
    let site = Site::of(Mode::Overlay);
    let registry = Registry::start();
    let base = hold(&registry, &["o/+5:6 o/f=1+7:8"]);
    site.run("pull").arg(&base).success();
    let layers = fs::read_dir(site.storage().join("layers")).unwrap().map(|entry| entry.unwrap().path());
    let [layer] = &layers.filter(|layer| layer.join("owners").exists()).collect::<Vec<_>>()[..] else {
        panic!("one layer has owners to record")
    };
    let text = fs::read_to_string(layer.join("owners")).unwrap();
    assert_eq!(text, "5 6 0 - - o\n7 8 0 - - o/f\n");
    fs::write(layer.join("owners"), text.replace("7 8", "7 9")).unwrap();
    let dockerfile = format!("FROM {base}\nRUN stat -c %u:%g /o/f\n");
    site.build("x", &dockerfile)
        .arg("--force=notify")
        .stderr_has(" does not match its checksum\n")
        .stderr_has("hint: ch-image fsck --repair ")
        .failure();
    site.run("fsck").stdout_has("/owners does not match its checksum\n").failure();
    // As an earlier version has it.
    fs::remove_file(layer.join("owners")).unwrap();
    let record = fs::read_to_string(layer.join("layer.json")).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    for key in ["owners", "sum"] {
        record.as_object_mut().unwrap().remove(key).unwrap();
    }
    fs::write(layer.join("layer.json"), record.to_string()).unwrap();
    site.run("fsck").success();
    site.build("x", &dockerfile).arg("--force=notify").stdout("0:0\n").success();
}

const USERS: &str = "RUN echo joe:x:5:6::/home/joe:/bin/sh >>/etc/passwd && \
     printf 'joe:x:6:\\nstaff:x:50:ann,joe\\n' >>/etc/group\n";

/// RUN is the user's, and so is what it makes, in either storage mode.
#[test]
fn user_applies_where_owners_are_recorded() {
    needs!("busybox");
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let dockerfile = format!(
            "FROM base\n{USERS}\
             USER joe\n\
             RUN id -u && id -g && id -G && echo $HOME && touch /tmp/of-joe && stat -c %u:%g /tmp/of-joe\n\
             RUN chown 0:0 /tmp/of-joe || echo refused; id -u\n\
             WORKDIR /new/dir\n\
             RUN stat -c %u:%g /new /new/dir .\n\
             USER 1234\n\
             RUN id -u && id -g && echo $HOME\n\
             USER joe:staff\n\
             ENV HOME=/elsewhere\n\
             RUN id -u && id -G && echo $HOME\n\
             USER root\n\
             RUN id -u && id -g\n"
        );
        site.build("made", &dockerfile)
            .arg("--force=notify")
            .stdout("5\n6\n6 50\n/home/joe\n5:6\nrefused\n5\n5:6\n5:6\n5:6\n1234\n0\n/\n5\n50\n/elsewhere\n0\n0\n")
            .success();
        // A stage on it, and an image on it, begin with its user.
        let dockerfile = "FROM made AS one\nUSER joe\nFROM one\nRUN id -u\n";
        site.build("next", dockerfile).arg("--force=notify").stdout("5\n").success();
        site.build("last", "FROM next\nRUN id -u # as the base says\n").arg("--force=notify").stdout("5\n").success();
        for (user, want) in [
            ("ann", "USER ann: no user \"ann\" in the image's /etc/passwd\n"),
            ("joe:none", "USER joe:none: no group \"none\" in the image's /etc/group\n"),
        ] {
            site.build("bad", &format!("FROM made\nUSER {user}\nRUN true\n"))
                .arg("--force=notify")
                .stderr_has(want)
                .stderr_has("hint: make it in a RUN before, or give the ")
                .failure();
        }
    });
}

/// A program with set-id bits is its owner's; busybox would give the rights back at once.
#[test]
fn programs_with_set_id_bits_are_their_owners() {
    let Some(debian) = image::debian() else { skip!("no Debian image: CH_TEST_DEBIAN_TARBALL is not set") };
    let site = Site::of(Mode::Overlay);
    site.import(&debian, "debian");
    let dockerfile = "FROM debian\nRUN cp /usr/bin/id /uid && chmod 4755 /uid && cp /uid /gid && chown man:games /gid && \
                      chmod 2755 /gid\nUSER nobody\nRUN id -un && /uid -un && /uid -run && /gid -un && /gid -gn && echo $HOME\n\
                      RUN stat -c '%U:%G %a' /etc/shadow /usr/bin/passwd\n";
    site.build("made", dockerfile)
        .arg("--force=notify")
        .stdout("nobody\nroot\nnobody\nnobody\ngames\n/nonexistent\nroot:shadow 640\nroot:root 4755\n")
        .success();
}

/// The same RUN for two users is two steps.
#[test]
fn the_user_is_part_of_the_cache_key() {
    needs!("busybox");
    let site = Site::of(Mode::Overlay);
    site.import(image::small(), "base");
    for user in ["7", "8", "7"] {
        let dockerfile = format!("FROM base\nUSER {user}\nRUN id -u >/id\n");
        site.build("made", &dockerfile).arg("--force=notify").success();
        let text = site.build("look", "FROM made\nRUN cat /id\n").args(["--force=notify", "--rebuild"]).success();
        assert_eq!(text.stdout, format!("{user}\n"));
    }
}

#[test]
fn chown_is_recorded_where_owners_are() {
    needs!("busybox");
    in_each_mode(|site| {
        site.import(image::small(), "base");
        site.write("context/dir/sub/file", "1\n");
        site.write("context/one", "1\n");
        let dockerfile = format!(
            "FROM base\n{USERS}\
             COPY --chown=joe dir /a/b\n\
             COPY --chown=7 one /c\n\
             COPY --chown=joe:staff --chmod=4711 one /d/\n\
             ADD --chown=:50 one /e\n\
             COPY --chown=8:9 <<TEXT /f\nx\nTEXT\n\
             COPY one /a/plain\n\
             RUN stat -c '%n %u:%g %a' /a /a/b /a/b/sub /a/b/sub/file /c /d /d/one /e /f /a/plain\n"
        );
        site.build("made", &dockerfile)
            .arg("--force=notify")
            .stdout(
                "/a 5:6 755\n/a/b 5:6 755\n/a/b/sub 5:6 755\n/a/b/sub/file 5:6 644\n/c 7:7 644\n/d 5:50 755\n\
                 /d/one 5:50 4711\n/e 0:50 644\n/f 8:9 644\n/a/plain 0:0 644\n",
            )
            .success();
        site.build("bad", "FROM base\nCOPY --chown=ann one /\n")
            .arg("--force=notify")
            .stderr_has("--chown=ann: no user \"ann\" in the image's /etc/passwd\n")
            .failure();
    });
}
