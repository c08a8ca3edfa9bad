//! Help, made from the table.

use super::options::{Row, TABLE, Value};
use super::{SUBCOMMANDS, Subcommand};

const WIDTH: usize = 26;

pub(crate) fn general() -> String {
    let mut text = String::from(
        "usage: ch-image [OPTION...] SUBCOMMAND [OPTION...] [OPERAND...]\n\
         \n\
         Build and manage container images; completely unprivileged.\n\
         \n\
         subcommands:\n",
    );
    for sub in SUBCOMMANDS {
        text.push_str(&entry(sub.name, sub.help));
    }
    text.push_str("\noptions that print and exit:\n");
    text.push_str(&entry("-h, --help", "print help (after a subcommand: its own) and exit"));
    text.push_str(&entry("    --dependencies", "report what this machine lacks, if anything, and exit"));
    text.push_str(&entry("    --version", "print version number and exit"));
    text.push_str("\ncommon options (before or after the subcommand):\n");
    rows(&mut text, |r| r.of.is_empty());
    text
}

pub(crate) fn of(sub: &Subcommand) -> String {
    let operands = if sub.operands.is_empty() { String::new() } else { format!(" {}", sub.operands) };
    let mut text = format!("usage: ch-image [OPTION...] {} [OPTION...]{operands}\n\n{}\n", sub.name, sub.help);
    if TABLE.iter().any(|r| r.of.contains(&sub.name)) {
        text.push_str("\noptions:\n");
        rows(&mut text, |r| r.of.contains(&sub.name));
    }
    text.push_str("\ncommon options:\n");
    rows(&mut text, |r| r.of.is_empty());
    text
}

fn rows(text: &mut String, wanted: impl Fn(&Row) -> bool) {
    for row in TABLE.iter().filter(|r| wanted(r)) {
        let short = row.short.map_or("    ".to_owned(), |c| format!("-{c}, "));
        let value = match row.value {
            Value::None(_) => String::new(),
            Value::Required(name, _) => format!(" {name}"),
            Value::Optional(name, _) => format!("[={name}]"),
        };
        text.push_str(&entry(&format!("{short}--{}{value}", row.long), row.help));
    }
}

fn entry(left: &str, right: &str) -> String {
    if left.len() > WIDTH {
        format!("  {left}\n  {:WIDTH$}  {right}\n", "")
    } else {
        format!("  {left:WIDTH$}  {right}\n")
    }
}
