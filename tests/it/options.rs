//! Do parser, README and manual pages agree? `--help` is made from the parser's own table.

use std::collections::BTreeSet;

use crate::harness::{PROGRAMS, Site};

/// Options that the README names and that are not ours: of Dockerfiles.
const OF_DOCKERFILES: [&str; 6] = ["--chmod", "--chown", "--exclude", "--from", "--mount", "--parents"];

/// Options of all programs, and the subcommands.
fn ours(site: &Site) -> (BTreeSet<String>, Vec<String>) {
    let general = site.bare().arg("--help").success().stdout;
    let mut options = options_of(&general);
    for subcommand in subcommands(&general) {
        options.extend(options_of(&site.run(&subcommand).arg("--help").success().stdout));
    }
    for program in PROGRAMS {
        options.extend(options_of(&site.program(program).arg("--help").success().stdout));
    }
    assert!(options.contains("--storage"), "no options found in --help:\n{general}");
    (options, subcommands(&general))
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).collect()
}

#[test]
fn the_readme_names_what_there_is() {
    let (options, subcommands) = ours(&Site::new());
    let readme = words(include_str!("../../README.md"));
    let is_known = |word: &&str| {
        options.contains(*word) || OF_DOCKERFILES.contains(word) || word.trim_start_matches('-').is_empty()
    };
    let unknown: Vec<_> = readme.iter().filter(|word| word.starts_with("--") && !is_known(word)).collect();
    assert!(unknown.is_empty(), "options that the README names and no program has: {unknown:?}");
    let missing: Vec<_> = subcommands.iter().filter(|name| !readme.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "subcommands that the README doesn't name: {missing:?}");
}

#[test]
fn the_manual_pages_name_all_options() {
    let site = Site::new();
    let (options, subcommands) = ours(&site);
    let pages = ["man", "man:ch-run", "man:ch-convert"].map(|page| {
        // As plain text: fonts, and hyphens that are to stay such.
        let roff = site.bare().args(["--generate", page]).success().stdout;
        roff.replace("\\fB", " ").replace("\\fR", " ").replace("\\-", "-")
    });
    let manual = pages.concat();
    let manual = words(&manual);
    let all = options.iter().chain(&subcommands);
    let missing: Vec<_> = all.filter(|name| !manual.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "what the manual pages don't name: {missing:?}");
}

/// The first words of the list of subcommands.
pub fn subcommands(general: &str) -> Vec<String> {
    let list = general.split("\nsubcommands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap();
    // What goes on with more blanks belongs to the line above.
    let lines = list.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// Long options in the lists of a help text: lines that begin, after blanks, with a dash.
pub fn options_of(help: &str) -> BTreeSet<String> {
    let lists = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    // What follows two blanks is prose.
    let names = lists.map(|line| line.split("  ").next().unwrap_or_default());
    let words = names.flat_map(|line| line.split([' ', ',', '=', '['])).filter(|word| word.starts_with("--"));
    words.map(str::to_owned).collect()
}
