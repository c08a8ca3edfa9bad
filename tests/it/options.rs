//! Every option of the program is in the README: `--help` is made from the parser's own table.

use std::collections::BTreeSet;

use crate::harness::{PROGRAMS, Site};

#[test]
fn every_option_is_in_the_readme() {
    let site = Site::new();
    let general = site.bare().arg("--help").success().stdout;
    let readme = include_str!("../../README.md");
    let mut options = options_of(&general);
    for subcommand in subcommands(&general) {
        options.extend(options_of(&site.run(&subcommand).arg("--help").success().stdout));
    }
    for program in PROGRAMS {
        options.extend(options_of(&site.program(program).arg("--help").success().stdout));
    }
    assert!(options.contains("--storage"), "no options found in --help:\n{general}");
    let documented: BTreeSet<&str> = readme.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).collect();
    let missing: Vec<_> = options.iter().filter(|option| !documented.contains(option.as_str())).collect();
    assert!(missing.is_empty(), "options of --help that the README doesn't name: {missing:?}");
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
