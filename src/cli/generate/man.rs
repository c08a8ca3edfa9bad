//! Manual pages. What is not in the tables is in text files beside this one, in a small markup:
//!
//! `# HEADING`, `## SMALLER`; `TERM :: TEXT`; `* ITEM`; four blanks: as it is; backquotes: bold; `@word` on a line of its
//! own: a list from the tables. Lines that follow each other are one paragraph.

use super::{Converter, Entry, ch_run_args, common, own};
use crate::cli::subcommand::SUBCOMMANDS;

pub(super) fn ch_image() -> String {
    page("CH-IMAGE", 1, include_str!("ch-image.txt"))
}

pub(super) fn ch_run() -> String {
    page("CH-RUN", 1, include_str!("ch-run.txt"))
}

pub(super) fn ch_convert() -> String {
    page("CH-CONVERT", 1, include_str!("ch-convert.txt"))
}

pub(super) fn dockerfile() -> String {
    page("CH-IMAGE-DOCKERFILE", 5, include_str!("ch-image-dockerfile.txt"))
}

/// Of the text files' last change. (Not that of the build: the same sources give the same program.)
const DATE: &str = "2026-12-01";

fn page(title: &str, section: u8, text: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut roff = format!(".TH {title} {section} {DATE} \"ch-image {version}\"\n");
    let mut verbatim = false;
    for line in text.lines() {
        if verbatim != line.starts_with("    ") && !(verbatim && line.is_empty()) {
            verbatim = !verbatim;
            roff.push_str(if verbatim { ".RS 4\n.nf\n" } else { ".fi\n.RE\n" });
        }
        roff.push_str(&match line.strip_prefix("    ") {
            Some(code) => format!("{}\n", escaped(code)),
            None => one_line(line),
        });
    }
    if verbatim {
        roff.push_str(".fi\n.RE\n");
    }
    // Two of them say no more than one, and a formatter complains.
    let mut lines: Vec<&str> = Vec::new();
    for line in roff.lines() {
        let needless = line == ".PP" && lines.last().is_some_and(|last| last.starts_with(".S") || *last == ".PP");
        if [".S", ".TP", ".IP"].iter().any(|start| line.starts_with(start)) && lines.last() == Some(&".PP") {
            lines.pop();
        }
        if !needless {
            lines.push(line);
        }
    }
    if lines.last() == Some(&".PP") {
        lines.pop();
    }
    lines.join("\n") + "\n"
}

fn one_line(line: &str) -> String {
    if let Some(heading) = line.strip_prefix("## ") {
        return format!(".SS \"{}\"\n", escaped(heading));
    }
    if let Some(heading) = line.strip_prefix("# ") {
        return format!(".SH \"{}\"\n", escaped(heading));
    }
    if let Some(item) = line.strip_prefix("* ") {
        return format!(".IP \\(bu 2\n{}\n", inline(item));
    }
    if let Some((term, text)) = line.split_once(" :: ") {
        return format!(".TP\n{}\n{}\n", bold(term), inline(text));
    }
    match line {
        "" => ".PP\n".to_owned(),
        "@common" => entries(&common()),
        "@subcommands" => subcommands(),
        "@ch-run" => entries(&ch_run_args::entries()),
        "@converters" => converters(),
        text => format!("{}\n", inline(text)),
    }
}

fn subcommands() -> String {
    let mut roff = String::new();
    for sub in SUBCOMMANDS {
        roff.push_str(&format!(".SS \"{}\"\n", escaped(format!("{} {}", sub.name, sub.operands).trim_end())));
        roff.push_str(&format!("{}.\n{}\n", inline(&capital(sub.help)), inline(sub.about)));
        if !sub.also.is_empty() {
            roff.push_str(&format!("Other names: {}.\n", bold(&sub.also.join(", "))));
        }
        roff.push_str(&entries(&own(sub)));
        roff.push_str(".PP\nExamples:\n.RS 4\n.nf\n");
        for (command, what) in sub.examples {
            roff.push_str(&format!("{}\n", escaped(&format!("# {what}"))));
            roff.push_str(&format!("{}\n", escaped(&format!("ch-image {command}"))));
        }
        roff.push_str(".fi\n.RE\n");
    }
    roff
}

fn converters() -> String {
    let mut roff = String::new();
    for program in Converter::ALL {
        roff.push_str(&format!(
            ".SS \"{}\"\n{}\n",
            escaped(program.usage()),
            inline(&program.about().replace('\n', " "))
        ));
        roff.push_str(&entries(&program.entries()));
    }
    roff
}

fn entries(entries: &[Entry]) -> String {
    entries.iter().map(|entry| format!(".TP\n{}\n{}\n", bold(entry.shown().trim()), inline(&sentence(entry)))).collect()
}

fn sentence(entry: &Entry) -> String {
    let mut text = format!("{}.", capital(entry.help));
    if !entry.words.is_empty() && !entry.words.iter().all(|word| text.contains(word)) {
        text.push_str(&format!(" Values: {}.", entry.words.join(", ")));
    }
    text
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escaped(text))
}

/// With what stands in backquotes in bold.
fn inline(text: &str) -> String {
    let pieces = text.split('`').enumerate();
    let text: String = pieces.map(|(i, piece)| if i % 2 == 0 { escaped(piece) } else { bold(piece) }).collect();
    guarded(text)
}

/// So that roff takes it as text.
fn escaped(text: &str) -> String {
    let mut roff = String::new();
    for letter in text.chars() {
        match letter {
            '\\' => roff.push_str("\\e"),
            '-' => roff.push_str("\\-"),
            '"' => roff.push_str("\\(dq"),
            letter if letter.is_ascii() => roff.push(letter),
            letter => roff.push_str(&format!("\\[u{:04X}]", u32::from(letter))),
        }
    }
    guarded(roff)
}

/// A dot or an apostrophe at the beginning would be a request.
fn guarded(text: String) -> String {
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
