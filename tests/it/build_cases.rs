//! Does each Dockerfile of the table give the image that its file says? `tests/cases/TOPIC/NAME`, in both storage modes.
//!
//! A case is one file: a line that says what it shows, then settings (`args:`, `env:`, `code:`, `says:` text on standard
//! error, `prints:` all of standard output), then sections that begin with `-- `:
//! `Dockerfile`; `base`, a Dockerfile built first, which the other names as `{base}`; the context's `file PATH MODE`
//! (then its content), `dir PATH MODE`, `link PATH TARGET`, `hard PATH FIRST`, `fifo PATH`, `tar PATH` (then members, as
//! under `image`); `image`, how the files differ from the base image's, all of it (`f PATH MODE CONTENT`, `d PATH MODE`,
//! `l PATH TARGET`, `h PATH FIRST`, `- PATH` for what is gone, `t PATH SECONDS` for a time); `config`, JSON pointers into
//! the image's configuration with their values (or `absent`; a negative index counts from the end).
//! `{dir}` is the case's directory, which holds `context`. `tests/tools/compare-buildah.sh` reads the same files.
//!
//! Cases run side by side in one storage directory, and in overlay mode twice: the second time nothing may run.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::tree::{Entry, Kind, Tree};
use crate::harness::{Run, Site, image, in_each_mode, skip};

/// Fewer would mean that the table was not found.
const AT_LEAST: usize = 150;

#[test]
fn every_case_of_the_table() {
    let cases = cases();
    assert!(cases.len() >= AT_LEAST, "only {} cases", cases.len());
    let wanted = std::env::var("CASE").unwrap_or_default();
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let base = tree(site, "base", &site.path("base.tar")).unwrap();
        let next = AtomicUsize::new(0);
        let failures = Mutex::new(Vec::new());
        let work = || {
            while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                if !case.name.contains(&wanted) {
                    continue;
                }
                let checked = catch_unwind(AssertUnwindSafe(|| case.check(site, &base)));
                if let Err(why) = checked.unwrap_or_else(|_| Err("it panics".into())) {
                    failures.lock().unwrap().push(format!("=== {}: {}\n{why}", case.name, case.about));
                }
            }
        };
        std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(work))));
        let mut failures = failures.into_inner().unwrap();
        failures.sort();
        assert!(failures.is_empty(), "{:?}: {} cases fail\n{}", site.mode(), failures.len(), failures.join("\n"));
    });
}

/// One row of the table.
#[derive(Default)]
pub struct Case {
    /// `TOPIC-NAME`
    pub name: String,
    about: String,
    args: Vec<String>,
    pub env: Vec<(String, String)>,
    code: i32,
    says: Vec<String>,
    lacks: Vec<String>,
    prints: Option<String>,
    needs: Vec<String>,
    /// Heads and contents, in order.
    sections: Vec<(String, String)>,
}

pub fn cases() -> Vec<Case> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases = Vec::new();
    for topic in entries(&top).into_iter().filter(|path| path.is_dir()) {
        for file in entries(&topic) {
            let inner = file.strip_prefix(&top).unwrap().to_str().unwrap().replace('/', "-");
            cases.push(Case::parse(inner, &fs::read_to_string(&file).unwrap()));
        }
    }
    cases
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

impl Case {
    fn parse(name: String, text: &str) -> Case {
        let mut case = Case { name, ..Case::default() };
        let mut lines = text.split_inclusive('\n');
        case.about = lines.next().unwrap_or_default().trim().to_owned();
        for line in lines {
            if let Some(head) = line.strip_prefix("-- ") {
                case.sections.push((head.trim_end_matches('\n').to_owned(), String::new()));
            } else if let Some((_, content)) = case.sections.last_mut() {
                content.push_str(line);
            } else if let Some((key, value)) = line.trim_end().split_once(": ") {
                case.set(key, value);
            } else {
                assert!(line.trim().is_empty(), "{}: {line:?}", case.name);
            }
        }
        case
    }

    fn set(&mut self, key: &str, value: &str) {
        let words = || value.split(' ').map(str::to_owned);
        match key {
            "args" => self.args.extend(words()),
            "env" => {
                let (name, value) = value.split_once('=').unwrap();
                self.env.push((name.into(), value.into()));
            }
            "code" => self.code = value.parse().unwrap(),
            "says" => self.says.push(value.into()),
            "lacks" => self.lacks.push(value.into()),
            "prints" => self.prints = Some(unescape(value)),
            "needs" => self.needs.extend(words()),
            // For buildah's comparison alone.
            "buildah" => {}
            other => panic!("{}: unknown setting {other:?}", self.name),
        }
    }

    fn section(&self, name: &str) -> Option<&str> {
        self.sections.iter().find(|(head, _)| head == name).map(|(_, content)| content.as_str())
    }

    fn check(&self, site: &Site, base: &Tree) -> Result<(), String> {
        if let Some(missing) = self.needs.iter().find(|program| skip::find(program).is_none()) {
            skip::say(&format!("SKIPPED case {}: {missing} is not installed", self.name));
            return Ok(());
        }
        // Not beside the images' names: ch-run would take it for the image.
        let dir = site.path("cases").join(&self.name);
        if let Some(given) = self.lay_out(&dir) {
            let done = site.run("build").args(["-t", &given]).arg(dir.join("base")).finish();
            if !done.status.success() {
                return Err(format!("base: {}", done.stderr));
            }
        }
        // Another case may have done the same.
        let mut first = self.build(site, &dir);
        if self.prints.is_some() {
            first = first.arg("--rebuild");
        }
        let done = first.finish();
        let told = format!("{}, stdout:\n{}stderr:\n{}", done.status, done.stdout, done.stderr);
        if done.status.code() != Some(self.code) {
            return Err(format!("expected exit code {}; {told}", self.code));
        }
        if let Some(text) = self.says.iter().find(|text| !done.stderr.contains(*text)) {
            return Err(format!("does not say {text:?}; {told}"));
        }
        if let Some(text) = self.lacks.iter().find(|text| done.stderr.contains(*text)) {
            return Err(format!("says {text:?}; {told}"));
        }
        if self.prints.as_ref().is_some_and(|text| *text != done.stdout) {
            return Err(format!("expected to print {:?}; {told}", self.prints));
        }
        if self.code != 0 {
            return Ok(());
        }
        let first = document(site, &self.name);
        self.check_config(&first["config"])?;
        if let Some(want) = self.section("image") {
            let got = tree(site, &self.name, &dir.join("tree.tar"))?;
            check_files(base, &got, want)?;
        }
        let again = self.build(site, &dir).finish();
        if !again.status.success() || self.runs_once() && !again.stdout.is_empty() {
            return Err(format!("built again: {}, stdout:\n{}stderr:\n{}", again.status, again.stdout, again.stderr));
        }
        let second = document(site, &self.name);
        if self.runs_once() && first["layers"] != second["layers"] {
            return Err(format!("built again, it has other layers; {}", again.stderr));
        }
        Ok(())
    }

    /// Writes Dockerfiles and context; returns the name of the base image that is to be built first.
    pub fn lay_out(&self, dir: &Path) -> Option<String> {
        fs::create_dir_all(dir.join("context")).unwrap();
        let given = format!("{}-base", self.name);
        for (head, content) in &self.sections {
            lay(&dir.join("context"), head, content);
        }
        let dockerfile = self.section("Dockerfile").expect("a Dockerfile").replace("{base}", &given);
        fs::write(dir.join("Dockerfile"), dockerfile).unwrap();
        let base = self.section("base")?;
        fs::create_dir(dir.join("base")).unwrap();
        fs::write(dir.join("base/Dockerfile"), base).unwrap();
        Some(given)
    }

    pub fn arguments(&self, dir: &Path) -> Vec<String> {
        self.args.iter().map(|text| text.replace("{dir}", dir.to_str().unwrap())).collect()
    }

    /// Whether a second build finds all in the cache.
    fn runs_once(&self) -> bool {
        !self.args.iter().any(|arg| arg == "--rebuild" || arg == "--no-cache")
    }

    pub fn build(&self, site: &Site, dir: &Path) -> Run {
        let mut run = site.run("build").args(["-t", &self.name]).arg("-f").arg(dir.join("Dockerfile"));
        run = run.args(self.arguments(dir));
        for (name, value) in &self.env {
            run = run.env(name, value);
        }
        run.arg(dir.join("context")).current_dir(dir)
    }

    fn check_config(&self, config: &Value) -> Result<(), String> {
        for line in self.section("config").unwrap_or_default().lines() {
            let (pointer, want) = line.split_once(' ').ok_or_else(|| format!("config: {line:?}"))?;
            let got = find(config, pointer);
            let want = match want {
                "absent" => None,
                text => Some(serde_json::from_str::<Value>(text).map_err(|e| format!("{line}: {e}"))?),
            };
            if got != want.as_ref() {
                return Err(format!("{pointer} is {}\nof {config:#}", got.map_or("absent".into(), Value::to_string)));
            }
        }
        Ok(())
    }
}

/// What storage knows of an image.
pub fn document(site: &Site, name: &str) -> Value {
    let documents = entries(&site.storage().join("images"))
        .into_iter()
        .filter_map(|path| serde_json::from_slice::<Value>(&fs::read(path).ok()?).ok());
    let name = format!("{name}:latest");
    documents.into_iter().find(|value| value["name"] == *name).unwrap_or_default()
}

/// A JSON pointer; `-1` is the last of a list, `~1` is `/`.
fn find<'v>(value: &'v Value, pointer: &str) -> Option<&'v Value> {
    pointer.split('/').skip(1).try_fold(value, |at, part| match at {
        Value::Array(list) => {
            let n: isize = part.parse().ok()?;
            list.get(if n < 0 { list.len().checked_add_signed(n)? } else { n as usize })
        }
        other => other.get(part.replace("~1", "/")),
    })
}

/// Makes one thing of the context.
fn lay(context: &Path, head: &str, content: &str) {
    let words: Vec<&str> = head.split(' ').collect();
    let [kind, name, rest @ ..] = &words[..] else { return };
    let path = context.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mode = |usual| rest.first().map_or(usual, |mode| u32::from_str_radix(mode, 8).unwrap());
    let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    match *kind {
        "file" => {
            fs::write(&path, content).unwrap();
            set(mode(0o644));
        }
        "dir" => {
            fs::create_dir_all(&path).unwrap();
            set(mode(0o755));
        }
        "link" => symlink(rest[0], &path).unwrap(),
        "hard" => fs::hard_link(context.join(rest[0]), &path).unwrap(),
        "fifo" => assert!(Command::new("mkfifo").arg(&path).status().unwrap().success()),
        "tar" => archive(&path, content),
        other => panic!("unknown section {other:?}"),
    }
}

/// A tarball, compressed as its name says.
fn archive(path: &Path, members: &str) {
    let plain = path.with_extension("plain");
    let mut tar = tar::Builder::new(fs::File::create(&plain).unwrap());
    for line in members.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let mut header = tar::Header::new_gnu();
        header.set_mtime(image::MTIME);
        header.set_mode(0o777);
        match words[..] {
            ["l", name, target] => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, name, target).unwrap();
            }
            ["d", name, mode] => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(u32::from_str_radix(mode, 8).unwrap());
                header.set_size(0);
                tar.append_data(&mut header, name, &[][..]).unwrap();
            }
            ["f", name, mode, content] => {
                let content = unescape(content);
                header.set_mode(u32::from_str_radix(mode, 8).unwrap());
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, name, content.as_bytes()).unwrap();
            }
            _ => panic!("member {line:?}"),
        }
    }
    tar.into_inner().unwrap().sync_all().unwrap();
    let name = path.to_str().unwrap();
    let compressors =
        [("gz", "gzip"), ("tgz", "gzip"), ("zst", "zstd"), ("xz", "xz"), ("bz2", "bzip2"), ("blob", "gzip")];
    match compressors.iter().find(|(end, _)| name.ends_with(end)) {
        None => fs::rename(&plain, path).unwrap(),
        Some((_, program)) => {
            let into = fs::File::create(path).unwrap();
            let status = Command::new(program).arg("-c").arg(&plain).stdout(into).status().unwrap();
            assert!(status.success(), "{program}");
            fs::remove_file(&plain).unwrap();
        }
    }
}

/// Files of an image, without what no case changes.
pub fn tree(site: &Site, image: &str, tar: &Path) -> Result<Tree, String> {
    let tops = "ls -A | grep -vxE 'bin|ch|dev|home|mnt|proc|sys|tmp'";
    let run = site.ch_run_with(&["--no-home", "--no-passwd"], image);
    let done = run.args(["sh", "-c", &format!("cd / && tar -cf - $({tops})")]).into_file(tar).finish();
    if !done.status.success() {
        return Err(format!("ch-run {image}: {}", done.stderr));
    }
    let tree = Tree::of_tarball(tar).without(Site::GIVEN);
    fs::remove_file(tar).unwrap();
    Ok(tree)
}

/// Compares how `got` differs from `base` with what the case says.
fn check_files(base: &Tree, got: &Tree, want: &str) -> Result<(), String> {
    let mut expected = base.clone();
    let mut times = BTreeMap::new();
    for line in want.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let mode = |text: &str| u32::from_str_radix(text, 8).map_err(|e| format!("{line}: {e}"));
        let (name, entry) = match words[..] {
            ["-", name] => {
                expected.0.remove(name).ok_or_else(|| format!("{line}: not in the base image"))?;
                continue;
            }
            ["t", name, seconds] => {
                times.insert(name, seconds.parse::<i64>().map_err(|e| format!("{line}: {e}"))?);
                continue;
            }
            ["d", name, mode_] => (name, Entry { kind: Kind::Dir, mode: mode(mode_)?, mtime: 0 }),
            ["l", name, target] => (name, Entry { kind: Kind::Symlink(target.into()), mode: 0o777, mtime: 0 }),
            ["h", name, first] => {
                let mut entry = expected.0.get(first).cloned().ok_or_else(|| format!("{line}: not there"))?;
                if let Kind::File { same_as, .. } = &mut entry.kind {
                    *same_as = Some(first.into());
                }
                (name, entry)
            }
            ["f", name, mode_, content] => {
                let content = unescape(content);
                let sha256 = Sha256::digest(content.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
                let kind = Kind::File { size: content.len() as u64, sha256, same_as: None };
                (name, Entry { kind, mode: mode(mode_)?, mtime: 0 })
            }
            _ => return Err(format!("image: {line:?}")),
        };
        expected.0.insert(name.replace("%20", " "), entry);
    }
    for (name, time) in times {
        let got = got.0.get(name).map(|entry| entry.mtime);
        if got != Some(time) {
            return Err(format!("time of {name} is {got:?}, expected {time}"));
        }
    }
    let plain = |tree: &Tree| {
        let mut tree = tree.clone();
        tree.0.values_mut().for_each(|entry| entry.mtime = 0);
        tree
    };
    let differences = plain(&expected).differences(&plain(got));
    if differences.is_empty() { Ok(()) } else { Err(format!("files (- expected, + got):\n{}", differences.join("\n"))) }
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('e') => {}
                Some(other) => out.push(other),
                None => panic!("{text:?} ends with a backslash"),
            },
            (c, false) => out.push(c),
        }
    }
    out
}
