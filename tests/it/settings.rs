//! Does what the site and the user have set once and for all hold, and can it be left out again?

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Site, Tree, image};
use crate::needs;

const SCRIPT: [&str; 3] = ["sh", "-c", "echo $A,$B,$C; if test -e /mnt/0/file; then cat /mnt/0/file; fi"];

#[test]
fn later_files_win_and_the_command_line_over_all() {
    let site = Site::new();
    site.import(image::small(), "base");
    site.write("one/file", "one\n");
    site.write("two/file", "two\n");
    let own =
        site.write("home/.config/ch-image/ch-run.conf", "# mine\nenv A=own\nenv B=own\nbind $HOME/../one:/mnt/0\n");
    let run = |options: &[&str]| site.ch_run_with(options, "base").args(SCRIPT);
    run(&[]).stdout("own,own,\none\n").stderr("").success();
    let named = site.write("named.conf", "env B=$USER$$C\nbind ${HOME}/../two:/mnt/0:ro\nunset-env C\n");
    let both = |options: &[&str]| run(options).env("CH_RUN_CONF", &named).env("C", "host");
    both(&[]).stdout("own,tester$C,\ntwo\n").stderr("").success();
    let bind = format!("{}:/mnt/0", site.path("one").display());
    both(&["-b", &bind, "-e", "B=said", "-e", "C"]).stdout("own,said,host\none\n").success();
    both(&["--no-conf"]).stdout(",,host\n").success();
    // Where it is says who else's may be there.
    let elsewhere = site.path("elsewhere");
    both(&[]).env("XDG_CONFIG_HOME", &elsewhere).stdout(",tester$C,\ntwo\n").success();
    site.write("elsewhere/ch-image/ch-run.conf", "env host\n");
    run(&[]).env("XDG_CONFIG_HOME", &elsewhere).env("LD_LIBRARY_PATH", "/tmp").stdout(",,\n").success();
    // -v says it of each.
    let done = both(&["-v"]).success();
    for (place, names) in [(format!("{}:2", own.display()), "A"), (format!("{}:1", named.display()), "B")] {
        let place = place.replace(site.path("").to_str().unwrap(), "SITE/");
        let line = format!("environment: from {place}: {names}\n");
        assert!(done.stderr.contains(&line), "{line}{}", done.stderr);
    }
}

/// What is not there on this node is left out; bundles hold where they are asked for.
#[test]
fn bundles_and_what_is_not_there() {
    let site = Site::new();
    site.import(image::small(), "base");
    site.write("two/file", "two\n");
    let text = "bind /no/such:/mnt/0\nenv A=$NO_SUCH\nenv B=$EMPTY.\n\n[two]\nbind $HOME/../two:/mnt/0\nenv C=bundle\n[three]\nenv C=three\n";
    let conf = site.write("conf", text);
    let run =
        |options: &[&str]| site.ch_run_with(options, "base").args(SCRIPT).env("CH_RUN_CONF", &conf).env("EMPTY", "");
    run(&[]).stdout(",.,\n").stderr("").success();
    run(&["--module", "two"]).stdout(",.,bundle\ntwo\n").stderr("").success();
    run(&["--module=two", "--module=three"]).stdout(",.,three\ntwo\n").success();
    let error = "error: no such module: four\nhint: there are: three two\n";
    run(&["--module=four"]).stderr(error).ch_run_failure();
    let none = "error: no such module: two\nhint: no settings file has a [NAME]; ch-image doctor shows the files\n";
    run(&["--module=two"]).env_remove("CH_RUN_CONF").stderr(none).ch_run_failure();
}

/// Devices are used on the nodes that have them.
#[test]
fn devices_where_there_are_some() {
    let site = Site::new();
    site.import(image::small(), "base");
    let cdi = r#"{"cdiVersion": "0.5.0", "kind": "site.example/gpu", "devices":
                  [{"name": "0", "containerEdits": {"env": ["A=device", "B=device"]}}]}"#;
    site.write("cdi/site.json", cdi);
    let conf = site.write("conf", "device site.example/gpu=0\nenv B=conf\n");
    let run = || site.ch_run_with(&[], "base").args(SCRIPT).env("CH_RUN_CONF", &conf);
    run().stdout(",conf,\n").stderr("").success();
    run().env("CH_RUN_CDI_DIRS", site.path("cdi")).stdout("device,conf,\n").success();
    let dirs = format!("--cdi-dirs={}", site.path("cdi").display());
    site.ch_run_with(&[&dirs], "base").args(SCRIPT).env("CH_RUN_CONF", &conf).stdout("device,conf,\n").success();
    site.ch_run_with(&[&dirs, "--no-conf"], "base").args(SCRIPT).env("CH_RUN_CONF", &conf).stdout(",,\n").success();
}

/// Every mistake is named with its place, and nothing is run.
#[test]
fn mistakes_are_named() {
    let site = Site::new();
    site.import(image::small(), "base");
    let conf = site.path("conf");
    let run = || site.ch_run("base").arg("true").env("CH_RUN_CONF", &conf);
    let missing =
        "error: can't read settings SITE/conf: No such file or directory\nhint: $CH_RUN_CONF names this file\n";
    run().stderr(missing).ch_run_failure();
    let check = |text: &str, want: &str| {
        site.write("conf", text);
        run().stderr_has(&format!("error: SITE/conf:{want}\n")).ch_run_failure();
        let about = format!("bad      settings: SITE/conf:{want}\n");
        site.run("doctor").env("CH_RUN_CONF", &conf).stdout_has(&about).failure();
    };
    check("\nbinds /x\n", "2: no such setting: binds");
    check("bind x\n", "1: bind: not an absolute path: x");
    check("bind /x:\n", "1: not SRC[:DST[:ro]]: /x:");
    check("env =x\n", "1: not image, host, clean or VAR[=VALUE]: =x");
    check("device x\n", "1: not KIND or KIND=NAME: x");
    check("storage $NOTHING\nstorage x\n", "2: storage: not an absolute path: x");
    check("env A=$(id)\n", "1: not a variable: $(id)");
    fs::write(&conf, b"env A=\xff\n").unwrap();
    run().stderr("error: can't read settings SITE/conf: not UTF-8 text\n").ch_run_failure();
    fs::remove_file(&conf).unwrap();
    needs!("mkfifo");
    site.program("mkfifo").arg(&conf).success();
    run().stderr("error: not a file of settings: SITE/conf: not a regular file\n").ch_run_failure();
}

/// Whoever may write them could give us any environment and any files.
#[test]
fn settings_that_others_may_write_are_refused() {
    let site = Site::new();
    site.import(image::small(), "base");
    let conf = site.write("home/.config/ch-image/ch-run.conf", "env A=own\n");
    for (mode, is_refused) in [(0o600, false), (0o644, false), (0o664, true), (0o646, true)] {
        fs::set_permissions(&conf, fs::Permissions::from_mode(mode)).unwrap();
        let run = site.ch_run("base").args(SCRIPT);
        if !is_refused {
            run.stdout("own,,\n").success();
            continue;
        }
        let run = run.stderr_has(&format!(", mode {mode:04o})\n")).stderr_has("hint: chmod go-w SITE/home/.config/");
        run.stderr_has("error: settings SITE/home/.config/ch-image/ch-run.conf are writable by others")
            .ch_run_failure();
        site.ch_run_with(&["--no-conf"], "base").args(SCRIPT).stdout(",,\n").success();
    }
}

/// The file in /etc is everybody's, and comes first.
#[test]
fn the_sites_own_file() {
    needs!("unshare");
    let site = Site::new();
    site.import(image::small(), "base");
    site.write("etc/ch-image/ch-run.conf", "env A=site\nenv B=site\n");
    site.write("home/.config/ch-image/ch-run.conf", "env B=own\n");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", site.path("bin").display());
    let script =
        "cp /etc/passwd /etc/group /etc/hosts etc/; mount --bind etc /etc && exec ch-run base -- sh -c 'echo $A,$B,$C'";
    let run = site.program("unshare").args(["-Urm", "sh", "-c", script]).env("PATH", &path);
    run.env("CH_IMAGE_STORAGE", site.storage()).stdout("site,own,\n").success();
}

/// Storage's usual place is for both programs, and gives way to an option and to the variable.
#[test]
fn storage_has_its_place() {
    let site = Site::new();
    let conf = site.write("conf", "storage $HOME/../$USER.images\n");
    let usual = site.path("home/../tester.images");
    let run = |program: &str| site.program(program).env("CH_RUN_CONF", &conf);
    let place =
        |path: &std::path::Path| format!("{}\n", path.display()).replace(site.path("").to_str().unwrap(), "SITE/");
    run("ch-image").arg("storage-path").stdout(&place(&usual)).success();
    run("ch-image").args(["storage-path", "-s", "/x"]).stdout("/x\n").success();
    run("ch-image").arg("storage-path").env("CH_IMAGE_STORAGE", "/y").stdout("/y\n").success();
    run("ch-image").arg("import").arg(image::small()).arg("base").success();
    run("ch-run").args(["base", "--", "echo", "there"]).stdout("there\n").success();
    run("ch-run").args(["-s", "/x", "base", "--", "true"]).stderr_has("image in /x;").ch_run_failure();
    run("ch-run")
        .args(["--no-conf", "base", "--", "true"])
        .env("USER", "nobody-here")
        .stderr_has("image not found: base")
        .ch_run_failure();
}

/// A store is one copy for everybody: its images are run by name, after those of one's own, and nothing in it is written.
#[test]
fn stores_of_others_are_only_read() {
    if !crate::harness::site::has_overlay() {
        crate::skip!("no overlay mode on this kernel or file system");
    }
    let site = Site::new();
    let store = site.path("store");
    let owner = |words: &[&str]| site.program("ch-image").args(["-s", store.to_str().unwrap()]).args(words).success();
    owner(&["import", image::small().to_str().unwrap(), "shared"]);
    owner(&["import", image::small().to_str().unwrap(), "both"]);
    let chmod = |mode: &str| {
        let script = format!("chmod {mode} store store/* store/images/* store/layers/*");
        site.program("sh").args(["-c", &script]).success()
    };
    chmod("a-w");
    let before = Tree::of_dir(&store);
    let stores = format!("/no/such:{}", store.display());
    let run = |options: &[&str], name: &str| {
        let run =
            site.ch_run_with(options, name).args(["sh", "-c", "touch /x 2>/dev/null && echo written || echo read"]);
        run.env("CH_IMAGE_STORES", &stores)
    };
    run(&[], "shared").stdout("read\n").stderr("").success();
    run(&["-W"], "shared").stdout("written\n").success();
    run(&[], "none").stderr_has("error: image not found: none\n").ch_run_failure();
    run(&["-w"], "shared")
        .stderr_has("error: can't write into shared: it is in SITE/store, a store of others\nhint: --write-fake")
        .ch_run_failure();
    // The settings may say it, and the variable something else.
    let conf = site.write("conf", &format!("store {}\n", store.display()));
    let set = || site.ch_run("shared").arg("true").env("CH_RUN_CONF", &conf);
    set().success();
    set().env("CH_IMAGE_STORES", "").stderr_has("image not found: shared").ch_run_failure();
    // One's own comes first.
    site.build("both", "FROM scratch\nCOPY Dockerfile /mine\n").success();
    run(&[], "both").code(127);
    site.run("delete").arg("both").success();
    run(&[], "both").stdout("read\n").success();
    Tree::of_dir(&store).assert_same(&before, "the store afterwards");
    chmod("u+w");
    // Its owner adds while others run.
    owner(&["import", image::small().to_str().unwrap(), "later"]);
    run(&[], "later").stdout("read\n").success();
}

/// Who may write a store decides what others run.
#[test]
fn stores_that_everybody_may_write_are_refused() {
    let site = Site::new();
    let store = site.path("store");
    site.program("ch-image").arg("-s").arg(&store).arg("import").arg(image::small()).arg("shared").success();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o1777)).unwrap();
    let run = |stores: &std::path::Path| site.ch_run("shared").arg("true").env("CH_IMAGE_STORES", stores);
    let error = "error: can't use store SITE/store: everybody may write SITE/store (mode 1777)\nhint: ask its owner for: chmod o-w;";
    run(&store).stderr_has(error).ch_run_failure();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o755)).unwrap();
    run(&site.path("home")).stderr_has("error: can't use store SITE/home: not a storage directory\n").ch_run_failure();
}

/// `doctor` shows each setting and where it comes from.
#[test]
fn each_setting_is_shown() {
    let site = Site::new();
    let none = "good     settings: none in /etc/ch-image/ch-run.conf, SITE/home/.config/ch-image/ch-run.conf\n";
    site.run("doctor").stdout_has(none).finish();
    let conf =
        site.write("conf", "bind /usr:/mnt/0\nbind /no/such\ndevice no.such/kind=all\nenv A=$NO\n[x]\nunset-env B*\n");
    let all = "good     settings: bind /usr:/mnt/0, says SITE/conf:1\n\
               good     settings: bind /no/such (not there), says SITE/conf:2\n\
               good     settings: device no.such/kind=all (not there), says SITE/conf:3\n\
               good     settings: env A=$NO (not used: $NO is not set), says SITE/conf:4\n\
               good     settings: [x] unset-env B*, says SITE/conf:6\n";
    site.run("doctor").env("CH_RUN_CONF", &conf).stdout_has(all).finish();
}
