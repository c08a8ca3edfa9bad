//! Help, made from the tables.

use super::options::TABLE;
use super::table::{Entry, Row, Value};
use super::{SUBCOMMANDS, Sub, Subcommand, docker_run};

/// Columns of what stands on the left, and of all.
const LEFT: usize = 26;
const WIDTH: usize = 90;

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
    text.push_str("\n`ch-image help SUBCOMMAND` explains one of them.\n\noptions that print and exit:\n");
    rows(&mut text, TABLE, |row| matches!(row.value, Value::Print(_)));
    text.push_str("\ncommon options (before or after the subcommand):\n");
    rows(&mut text, TABLE, |row| row.of.is_empty() && !matches!(row.value, Value::Print(_)));
    text
}

pub(crate) fn of(sub: &Subcommand) -> String {
    let operands = if sub.operands.is_empty() { String::new() } else { format!(" {}", sub.operands) };
    let mut text = format!("usage: ch-image [OPTION...] {} [OPTION...]{operands}\n\n", sub.name);
    for line in wrap(sub.help, WIDTH).into_iter().chain([String::new()]).chain(wrap(sub.about, WIDTH)) {
        text.push_str(&format!("{line}\n"));
    }
    if !sub.also.is_empty() {
        text.push_str(&format!("\nother names: {}\n", sub.also.join(", ")));
    }
    text.push_str("\nexamples:\n");
    for (command, what) in sub.examples {
        text.push_str(&format!("  ch-image {command}\n      {what}\n"));
    }
    let own = own(sub);
    if !own.is_empty() {
        text.push_str("\noptions:\n");
        own.iter().for_each(|option| text.push_str(&entry(&option.shown(), option.help)));
    }
    if takes_common(sub) {
        text.push_str("\ncommon options:\n");
        rows(&mut text, TABLE, |row| row.of.is_empty() && !matches!(row.value, Value::Print(_)));
    }
    text
}

/// Options of a subcommand alone.
pub(crate) fn own(sub: &Subcommand) -> Vec<Entry> {
    match takes_common(sub) {
        true => TABLE.iter().filter(|row| row.of.contains(&sub.kind)).map(Row::entry).collect(),
        false => docker_run::entries(),
    }
}

/// Behind the others stand options of `docker run` alone.
pub(crate) fn takes_common(sub: &Subcommand) -> bool {
    !matches!(sub.kind, Sub::Run | Sub::Shell)
}

/// The wanted options, an entry each.
pub(crate) fn rows<T, S: PartialEq>(text: &mut String, table: &[Row<T, S>], wanted: impl Fn(&Row<T, S>) -> bool) {
    for row in table.iter().filter(|row| wanted(row)) {
        text.push_str(&entry(&row.entry().shown(), row.help));
    }
}

fn entry(left: &str, right: &str) -> String {
    let mut lines = wrap(right, WIDTH - LEFT - 4);
    let first = if left.chars().count() > LEFT { String::new() } else { lines.remove(0) };
    let mut text = format!("  {left:LEFT$}  {first}").trim_end().to_owned();
    for line in lines {
        text.push_str(&format!("\n  {:LEFT$}  {line}", ""));
    }
    text.push('\n');
    text
}

/// Lines of at most so many characters, if words allow it; at least one line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { continue };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_entries_are_wrapped() {
        let lines = wrap("one two three", 7);
        assert_eq!(lines, ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
        assert_eq!(wrap("", 3), [""]);
        assert_eq!(entry("-x", "one"), format!("  -x{:26}one\n", ""));
        assert_eq!(
            entry("-x", &["word"; 13].join(" ")),
            format!("  -x{:26}{}\n{:30}word\n", "", ["word"; 12].join(" "), "")
        );
        assert_eq!(entry(&"y".repeat(27), "z"), format!("  {}\n{:30}z\n", "y".repeat(27), ""));
    }
}
