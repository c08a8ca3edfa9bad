//! The rules of this repository that a compiler doesn't hold. Each failure names the file and the line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Who may use whom (src/README.md). `error` and `log`'s macros everybody may use.
/// Nothing flows back: only `cmd` and `builder` know that registries, storage and file trees have to do with each other.
const USES: &[(&str, &[&str])] = &[
    ("main", &["cli", "cmd", "log", "sys"]),
    ("builder", &["container", "dockerfile", "image", "log", "oci", "registry", "rootfs", "storage", "sys"]),
    ("cli", &["compat", "container", "device", "log", "nearest", "oci"]),
    (
        "cmd",
        &[
            "builder",
            "cli",
            "compat",
            "compress",
            "container",
            "device",
            "dockerfile",
            "fuse",
            "glob",
            "image",
            "log",
            "nearest",
            "oci",
            "registry",
            "rootfs",
            "site",
            "squashfs",
            "storage",
            "sys",
        ],
    ),
    ("image", &["container", "log", "oci", "rootfs", "storage", "sys"]),
    ("registry", &["log", "oci", "sys"]),
    ("rootfs", &["compress", "glob", "log", "oci", "sys", "tree"]),
    ("squashfs", &["compress", "log", "tree"]),
    ("storage", &["compress", "log", "oci", "rootfs", "sys"]),
    ("container", &["log", "sys"]),
    ("log", &["sys"]),
    ("compat", &[]),
    ("site", &["log", "sys"]),
    ("compress", &[]),
    ("device", &[]),
    ("dockerfile", &[]),
    ("error", &[]),
    ("fuse", &["log", "sys", "tree"]),
    ("glob", &[]),
    ("nearest", &[]),
    ("oci", &[]),
    ("sys", &[]),
    ("tree", &[]),
];

/// Modules that are bytes in, values out: no files, no network, no clock, no environment.
const PURE: &[&str] = &["compress", "device", "dockerfile", "oci", "glob", "nearest", "tree"];
const WORLD: &[&str] = &["std::fs", "std::net", "std::env", "std::time", "std::process", "std::os"];

/// Names under which a thing that has no home gets hidden.
const HOMELESS: &[&str] = &["util", "utils", "common", "helper", "helpers", "types", "manager"];

const LINES_BEFORE_TESTS: usize = 500;

#[test]
fn modules_use_whom_they_may() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.name.ends_with("tests.rs")) {
        let Some((_, allowed)) = USES.iter().find(|(module, _)| *module == source.module) else {
            wrong.push(format!("{}:1: module {} is not in the table USES", source.name, source.module));
            continue;
        };
        for (line, used) in source.uses() {
            let known = USES.iter().any(|(module, _)| *module == used);
            if known && used != source.module && used != "error" && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}:{line}: {} may not use {used}", source.name, source.module));
            }
        }
        if PURE.contains(&source.module.as_str()) {
            for (line, text) in source.code() {
                // Addresses are values; only sockets are the network.
                let text = text.replace("std::net::IpAddr", "").replace("std::net::Ipv", "");
                for world in WORLD.iter().filter(|world| text.contains(*world)) {
                    wrong.push(format!("{}:{line}: {} may not use {world}", source.name, source.module));
                }
            }
        }
    }
    report(&wrong);
}

/// Nobody knows its own user, directly: otherwise two modules would be one.
#[test]
fn no_two_modules_use_each_other() {
    let table: BTreeMap<_, _> = USES.iter().copied().collect();
    for (module, uses) in USES {
        for used in *uses {
            assert!(!table[used].contains(module), "{module} and {used} use each other");
        }
    }
}

#[test]
fn files_are_small_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.name.ends_with("tests.rs")) {
        let lines = source.code().count();
        if lines > LINES_BEFORE_TESTS {
            wrong.push(format!("{}:{LINES_BEFORE_TESTS}: {lines} lines before the tests", source.name));
        }
        if !source.text.starts_with("//! ") {
            wrong.push(format!("{}:1: no module head (//!)", source.name));
        }
        let stem = Path::new(&source.name).file_stem().unwrap().to_str().unwrap();
        if HOMELESS.contains(&stem) || HOMELESS.contains(&source.module.as_str()) {
            wrong.push(format!("{}:1: a name that says nothing", source.name));
        }
    }
    report(&wrong);
}

/// Sizes are what somebody else says, and an overflow ends the program. They are added by `oci::size::total` or by
/// `saturating_add` and the like.
#[test]
fn sizes_are_never_added_bare() {
    const SIZES: [&str; 4] = ["size", "sizes", "bytes", "allocated"];
    let is_size = |word: &str| SIZES.contains(&word);
    let adds_sizes = |text: &str| {
        // The length of what is in memory.
        let text = text.replace("bytes.len()", "length").replace("bytes[at]", "byte");
        let sums = (text.contains(".sum(") || text.contains(".sum::")) && words(&text).any(is_size);
        let grows = text
            .split_once(" += ")
            .is_some_and(|(left, right)| words(left).last().is_some_and(is_size) || words(right).any(is_size));
        let adds = text.match_indices(" + ").any(|(at, plus)| {
            let end = |c: char| !(c.is_alphanumeric() || "_.*&".contains(c));
            let right = text[at + plus.len()..].split(end).next().unwrap();
            words(text[..at].trim_end_matches("()")).last().is_some_and(is_size)
                || words(right).last().is_some_and(is_size)
        });
        sums || grows || adds
    };
    for bare in ["a.size + b", "a + b.size", "x.size() + 1", "n += i.size;", "size += 1", "l.map(|l| l.size).sum()"] {
        assert!(adds_sizes(bare), "{bare}");
    }
    for fine in ["at += bytes.len()", "a + size.min(3)", "a.size.saturating_add(b)", "size(a) + 1", "a.sum()"] {
        assert!(!adds_sizes(fine), "{fine}");
    }
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.name.ends_with("tests.rs")) {
        for (line, text) in source.code().filter(|(_, text)| adds_sizes(text)) {
            wrong.push(format!("{}:{line}: sizes are added bare: {}", source.name, text.trim()));
        }
    }
    report(&wrong);
}

#[test]
fn unsafe_is_in_sys_alone() {
    let mut wrong = Vec::new();
    let allowed = ["unsafe_code", "unsafe_op"];
    for source in sources().iter().filter(|source| source.module != "sys") {
        for (line, text) in source.text.lines().enumerate() {
            let code = text.split("//").next().unwrap();
            let named = words(code).any(|word| word == "unsafe" || allowed.contains(&word));
            if named && !code.contains('"') {
                wrong.push(format!("{}:{}: unsafe outside src/sys", source.name, line + 1));
            }
        }
    }
    report(&wrong);
}

#[test]
fn nothing_is_left_to_do() {
    // In pieces, so that this file passes. A variable may well be called so; a mark is shouted, a macro, or a comment.
    let marks = [["to", "do"].concat(), ["fix", "me"].concat(), ["xx", "x"].concat()];
    let is_marked = |line: &str| {
        let comment = line.split_once("//").map_or("", |(_, comment)| comment).trim_start_matches('/').trim_start();
        marks.iter().any(|mark| {
            words(line).any(|word| word == mark.to_uppercase())
                || line.contains(&format!("{mark}!("))
                || comment.to_lowercase().starts_with(&format!("{mark}:"))
        })
    };
    let mut wrong = Vec::new();
    let mut files = files_below(&root().join("src"));
    files.extend(files_below(&root().join("tests")));
    files.extend(["Makefile", "README.md", "CHANGELOG.md", "Cargo.toml", ".ci/run"].map(|name| root().join(name)));
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for (i, line) in text.lines().enumerate() {
            if is_marked(line) {
                wrong.push(format!("{}:{}: {}", file.display(), i + 1, line.trim()));
            }
        }
    }
    report(&wrong);
}

#[test]
fn every_dependency_is_explained() {
    let readme = read("README.md");
    let mut wrong = Vec::new();
    for name in dependencies() {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let purpose = row.and_then(|row| row.split('|').nth(2)).unwrap_or_default().trim();
        if purpose.len() < 10 {
            wrong.push(format!("README.md: no row \"| `{name}` | what it is for |\""));
        }
    }
    report(&wrong);
}

#[test]
fn commands_of_the_readme_exist() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    let mut wrong = Vec::new();
    for name in ["README.md", ".ci/run"] {
        for (i, line) in read(name).lines().enumerate() {
            for target in make_targets(line) {
                if !targets.contains(target) {
                    wrong.push(format!("{name}:{}: the Makefile has no target {target}", i + 1));
                }
            }
        }
    }
    report(&wrong);
}

/// Targets of `make X` where it is a command: in backquotes or at the beginning of a line of an example.
fn make_targets(line: &str) -> impl Iterator<Item = &str> {
    let commands = line.split('`').skip(1).step_by(2).chain([line.trim().trim_start_matches("$ ")]);
    commands
        .filter_map(|command| command.strip_prefix("make ")?.split([' ', ';']).next())
        .filter(|target| !target.is_empty())
}

/// The table behind `--version -v` and the bill of materials is what cargo links.
#[test]
fn crates_are_listed() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let tree = ["tree", "--offline", "--locked", "--edges=normal", "--prefix=none", "--format={p}|{l}"];
    let tree = std::process::Command::new(cargo).args(tree).current_dir(root()).output().unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    // `name v1.0 (proc-macro)|licence`; licences of old have a slash.
    let linked: BTreeSet<String> = String::from_utf8_lossy(&tree.stdout)
        .lines()
        .filter(|line| !line.starts_with("ch-image "))
        .map(|line| line.trim_end_matches(" (*)").replacen(" v", " ", 1).replace('|', " ").replace("MIT/", "MIT OR "))
        .collect();
    let listed: BTreeSet<String> = read("src/cli/crates.txt").lines().map(str::to_owned).collect();
    assert!(linked.len() > 20, "{linked:?}");
    assert_eq!(listed, linked, "src/cli/crates.txt");
}

/// The crates are what crates.io holds: sums as in Cargo.lock and in the crates' own lists, and no file besides.
#[test]
fn vendored_crates_are_unchanged() {
    let lock = locked();
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join("vendor")).unwrap() {
        let dir = entry.unwrap().path();
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let list = fs::read_to_string(dir.join(".cargo-checksum.json")).unwrap();
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        // What other platforms want is a stub without a sum: Cargo.lock names it, nothing builds it.
        if list["package"].as_str().is_some_and(|sum| !lock.contains(sum)) {
            wrong.push(format!("vendor/{name}: not the crate of Cargo.lock"));
        }
        let sums = list["files"].as_object().unwrap();
        let mut present = BTreeSet::new();
        for file in files_below(&dir) {
            let key = file.strip_prefix(&dir).unwrap().to_str().unwrap().to_owned();
            if key == ".cargo-checksum.json" {
                continue;
            }
            let sum: String = Sha256::digest(fs::read(&file).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
            if sums.get(&key).and_then(|v| v.as_str()) != Some(&sum) {
                wrong.push(format!("vendor/{name}/{key}: not as in the crate's list"));
            }
            present.insert(key);
        }
        wrong.extend(
            sums.keys().filter(|key| !present.contains(*key)).map(|key| format!("vendor/{name}/{key}: missing")),
        );
    }
    report(&wrong);
}

struct Source {
    /// Path from the root of the repository.
    name: String,
    /// First component below `src`, without `.rs`.
    module: String,
    text: String,
}

impl Source {
    /// Numbered lines before the tests, without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(i, line)| (i + 1, line));
        let before = lines.take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
        before.map(|(i, line)| (i, line.split("//").next().unwrap_or_default()))
    }

    /// Modules that this file names by `crate::` (also several in braces), with the line.
    fn uses(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (number, line) in self.code() {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                match rest.strip_prefix('{') {
                    Some(list) => found.extend(heads_of(list).into_iter().map(|head| (number, head))),
                    None => found.extend(words(rest).next().map(|head| (number, head.to_owned()))),
                }
            }
        }
        found
    }
}

/// First names of the items of `a::b, c, d::{e, f}}`.
fn heads_of(list: &str) -> Vec<String> {
    let (mut depth, mut heads, mut head) = (0, Vec::new(), String::new());
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            break;
        }
        match c {
            ',' if depth == 0 => heads.push(std::mem::take(&mut head)),
            _ => head.push(c),
        }
    }
    heads.push(head);
    heads.iter().filter_map(|head| words(head).next()).map(str::to_owned).collect()
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let rust = files_below(&src).into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let sources: Vec<_> = rust
        .map(|path| {
            let inside = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            let module = inside.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
            Source { name: format!("src/{inside}"), module, text: fs::read_to_string(&path).unwrap() }
        })
        .collect();
    assert!(sources.len() > 10, "the sources were not found");
    sources
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// Direct dependencies, by name.
fn dependencies() -> Vec<String> {
    let manifest = read("Cargo.toml");
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let names: Vec<_> =
        section.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.to_owned()).collect();
    assert!(names.len() > 5, "no dependencies found");
    names
}

/// Sums of all packages in Cargo.lock.
fn locked() -> BTreeSet<String> {
    let sums = read("Cargo.lock");
    let sums = sums.lines().filter_map(|line| line.strip_prefix("checksum = \"")?.strip_suffix('"'));
    sums.map(str::to_owned).collect()
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.is_symlink() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("can't read {name}: {e}"))
}

#[track_caller]
fn report(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// Every row of the tables in tests/README.md names tests, and they exist.
#[test]
fn rows_of_the_tables_have_their_tests() {
    let (text, tests) = (read("tests/README.md"), tests());
    let section = text.split("\n## Guarantees").nth(1).unwrap();
    let rows: Vec<&str> =
        section.lines().filter(|line| line.starts_with("| ") && !line.contains("| tests |")).collect();
    assert!(rows.len() > 80, "the tables were not found");
    let mut wrong = Vec::new();
    for row in rows {
        let cell = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap();
        let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            wrong.push(format!("tests/README.md: no test is named: {row}"));
        }
        for name in names.into_iter().filter(|name| !root().join(name).is_file() && !tests.contains(*name)) {
            wrong.push(format!("tests/README.md: there is no test {name}: {row}"));
        }
    }
    report(&wrong);
}

/// The list of files in src/README.md names each file below its directory, and none that is not there.
#[test]
fn code_map_names_every_file() {
    let text = read("src/README.md");
    let map = text.split_once("## Code map\n").expect("a code map").1;
    let map = map.split_once("\n## ").expect("a heading after it").0;
    let mut listed = BTreeSet::new();
    let mut dir = "";
    for line in map.lines() {
        let mut words = line.split('`').skip(1).step_by(2);
        if line.starts_with("* `") {
            dir = words.next().and_then(|word| word.strip_suffix('/')).unwrap_or(dir);
        }
        let names = words.filter(|word| !word.contains(['-', ' ', '.', '*']) && !word.starts_with('/'));
        listed.extend(
            names
                .filter(|word| !word.ends_with('/') && word.chars().all(|c| !c.is_uppercase()))
                .map(|word| format!("{dir}/{word}.rs")),
        );
    }
    let src = root().join("src");
    let files = files_below(&src).into_iter().filter_map(|path| {
        let path = path.strip_prefix(&src).ok()?.to_str()?.to_owned();
        let is_room = path.matches('/').count() == 1 && path.ends_with("/mod.rs");
        (path.ends_with(".rs") && path.contains('/') && !path.contains("test") && !is_room).then_some(path)
    });
    let files: BTreeSet<String> = files.collect();
    assert!(files.len() > 200, "files were not found");
    let missing: Vec<_> = files.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&files).collect();
    assert!(missing.is_empty() && gone.is_empty(), "missing: {missing:#?}\nnot there: {gone:#?}");
}

/// A label in a comment (A.7, F5, M01) is explained in one of the documents of this repository, and no comment sends the
/// reader to a document that is elsewhere.
#[test]
fn labels_are_explained() {
    let known: BTreeSet<String> = ["src/dockerfile/README.md", "src/cmd/README.md", "tests/README.md"]
        .iter()
        .flat_map(|name| labels_of(&read(name)))
        .collect();
    assert!(known.contains("A.20") && known.contains("F11") && known.contains("M01"), "the labels were not found");
    let mut wrong = Vec::new();
    let mut cited = 0;
    for file in ["src", "tests/it"].iter().flat_map(|dir| files_below(&root().join(dir))) {
        let (Ok(text), true) = (fs::read_to_string(&file), file.extension().is_some_and(|e| e == "rs")) else {
            continue;
        };
        for (i, line) in text.lines().enumerate() {
            let comment = line.split_once("//").map_or("", |(_, comment)| comment);
            for elsewhere in
                ["facts A", "reliability.md", "design.md", "code map"].iter().filter(|e| comment.contains(**e))
            {
                wrong.push(format!("{}:{}: {elsewhere:?} is no document of this repository", file.display(), i + 1));
            }
            for label in labels_in(comment) {
                cited += 1;
                if !known.contains(&label) {
                    wrong.push(format!("{}:{}: label {label} is explained nowhere", file.display(), i + 1));
                }
            }
        }
    }
    assert!(cited > 50, "no labels found in the sources");
    report(&wrong);
}

/// Labels that a document explains: in a heading (`## A.7 …`) or in the first cell of a row.
fn labels_of(text: &str) -> Vec<String> {
    let starts = text.lines().filter_map(|line| line.strip_prefix("## ").or_else(|| line.strip_prefix("| ")));
    starts.filter_map(|rest| labels_in(rest.split([' ', '|']).next()?).pop()).collect()
}

/// `A.7`, and a letter that one of the tables uses with a number: `F5`, `M01`.
fn labels_in(text: &str) -> Vec<String> {
    let is_number = |text: &str| !text.is_empty() && text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit());
    let is_label = |word: &str| match word.strip_prefix("A.") {
        Some(number) => is_number(number),
        None => {
            let Some(first) = word.chars().next().filter(|c| "DFHIMORS".contains(*c)) else { return false };
            is_number(&word[1..]) && (first == 'F' || word.len() == 3)
        }
    };
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
    words.map(|word| word.trim_end_matches('.')).filter(|word| is_label(word)).map(str::to_owned).collect()
}

/// Names of all tests.
fn tests() -> BTreeSet<String> {
    let files = ["tests/it", "src"].map(|dir| files_below(&root().join(dir))).concat();
    let mut names = BTreeSet::new();
    for text in files.iter().filter_map(|file| fs::read_to_string(file).ok()) {
        let mut lines = text.lines().map(str::trim);
        while lines.any(|line| line == "#[test]") {
            let name = lines.find_map(|line| line.strip_prefix("fn "));
            names.extend(name.and_then(|name| name.split('(').next()).map(str::to_owned));
        }
    }
    names
}
