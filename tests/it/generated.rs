//! Manual pages and completions, which are made from the tables of options: do they agree with `--help`, and do the
//! programs that read them take them?

use std::collections::BTreeSet;

use crate::harness::{PROGRAMS, Site, image};
use crate::needs;
use crate::options::{options_of, subcommands};

const MANUAL: [&str; 4] = ["man", "man:ch-run", "man:ch-convert", "man:ch-image-dockerfile"];

fn generated(site: &Site, page: &str) -> String {
    site.bare().args(["--generate", page]).stderr("").success().stdout
}

/// Long options of the manual pages' lists: terms, in bold.
fn options_of_manual(roff: &str) -> BTreeSet<String> {
    let terms = roff.lines().filter_map(|line| line.strip_prefix("\\fB")).map(|line| line.replace("\\-", "-"));
    let words: Vec<String> =
        terms.flat_map(|line| line.split([' ', ',', '=', '[', '\\']).map(str::to_owned).collect::<Vec<_>>()).collect();
    words.into_iter().filter(|word| word.starts_with("--") && word.len() > 2).collect()
}

#[test]
fn manual_pages_explain_every_option() {
    let site = Site::new();
    let general = site.bare().arg("--help").success().stdout;
    let mut options = options_of(&general);
    for subcommand in subcommands(&general) {
        options.extend(options_of(&site.run(&subcommand).arg("--help").success().stdout));
    }
    assert_eq!(options_of_manual(&generated(&site, "man")), options);
    let of = |program: &str| options_of(&site.program(program).arg("--help").success().stdout);
    assert_eq!(options_of_manual(&generated(&site, "man:ch-run")), of("ch-run"));
    let converters: BTreeSet<String> = PROGRAMS[2..].iter().flat_map(|program| of(program)).collect();
    assert_eq!(options_of_manual(&generated(&site, "man:ch-convert")), converters);
}

#[test]
fn formatters_take_the_manual_pages() {
    needs!("mandoc", "groff");
    let site = Site::new();
    for page in MANUAL {
        let file = site.write("page", &generated(&site, page));
        site.program("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&file).stdout("").stderr("").success();
        site.program("groff").args(["-man", "-ww", "-z"]).arg(&file).stdout("").stderr("").success();
    }
    site.bare()
        .args(["--generate", "nix"])
        .stderr_has("error: --generate: unknown page \"nix\"\nhint: pages: man ")
        .usage();
}

#[test]
fn shells_take_the_completions() {
    for shell in ["bash", "zsh", "fish"] {
        needs!(shell);
        let site = Site::new();
        let file = site.write("completions", &generated(&site, shell));
        site.program(shell).arg("-n").arg(&file).stdout("").stderr("").success();
    }
}

#[test]
fn bash_completes() {
    needs!("bash");
    let site = Site::new();
    site.import(image::small(), "small");
    site.import(image::small(), "host.example.com:5000/me/small:1");
    site.write("dir/file", "");
    let file = site.write("completions", &generated(&site, "bash"));
    let path = format!("{}:/usr/bin:/bin", site.path("bin").display());
    let check = |line: &str, want: &[&str]| {
        let script = "source \"$1\"; COMP_LINE=$2 COMP_POINT=${#2}; \"_${2%% *}\" 2>/dev/null || \"_$(echo \"${2%% *}\" | tr - _)\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
        let run = site.program("bash").args(["--norc", "-c", script, "bash"]).arg(&file).arg(line);
        let done = run.env("PATH", &path).env("CH_IMAGE_STORAGE", site.storage()).success();
        assert_eq!(done.stdout.lines().collect::<Vec<_>>(), want, "{line}");
    };
    check("ch-image st", &["storage-path"]);
    check("ch-image -s x pul", &["pull"]);
    check("ch-image build --reb", &["--rebuild"]);
    check("ch-image build --force=n", &["notify", "none"]);
    check("ch-image build -f di", &["dir"]);
    check("ch-image build di", &["dir"]);
    check("ch-image push --format o", &["oci"]);
    check("ch-image export --format doc", &["docker-archive"]);
    check("ch-image delete s", &["small:latest"]);
    check("ch-image delete host.example.com:5000/m", &["5000/me/small:1"]);
    check("ch-image help fs", &["fsck"]);
    check("ch-image list -a s", &["small:latest"]);
    check("ch-run sm", &["small:latest"]);
    check("ch-run --no-pa", &["--no-passwd"]);
    check("ch-run -c di", &["dir"]);
    check("ch-convert -o sq", &["squash"]);
}

#[test]
fn fish_completes() {
    needs!("fish");
    let site = Site::new();
    site.import(image::small(), "small");
    let file = site.write("completions", &generated(&site, "fish"));
    let path = format!("{}:/usr/bin:/bin", site.path("bin").display());
    let check = |line: &str, want: &[&str]| {
        let script = "source $argv[1]; complete -C $argv[2]";
        let run = site.program("fish").args(["--no-config", "-c", script]).arg(&file).arg(line);
        let done = run.env("PATH", &path).env("CH_IMAGE_STORAGE", site.storage()).success();
        let words: Vec<_> = done.stdout.lines().map(|line| line.split('\t').next().unwrap_or_default()).collect();
        assert_eq!(words, want, "{line}");
    };
    check("ch-image st", &["storage-path"]);
    check("ch-image build --reb", &["--rebuild"]);
    check("ch-image push --format o", &["oci"]);
    check("ch-image delete s", &["small:latest"]);
    check("ch-run --no-pa", &["--no-passwd"]);
}
