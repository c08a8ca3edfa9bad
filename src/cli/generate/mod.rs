//! What is printed from the tables for other programs to read: manual pages, completions (`--generate`).

mod bash;
mod fish;
mod man;
mod zsh;

use super::convert_args::Program as Converter;
use super::help::{own, takes_common};
use super::options::TABLE;
use super::table::{Entry, Row, Takes};
use super::{Subcommand, ch_run_args, crates};
use crate::error::{Error, Result};

/// What `--generate` takes.
pub(crate) const PAGES: &[&str] =
    &["man", "man:ch-run", "man:ch-convert", "man:ch-image-dockerfile", "bash", "zsh", "fish", "sbom"];

pub(crate) fn page(name: &str) -> Result<String> {
    match name {
        "man" | "man:ch-image" => Ok(man::ch_image()),
        "man:ch-run" => Ok(man::ch_run()),
        "man:ch-convert" => Ok(man::ch_convert()),
        "man:ch-image-dockerfile" => Ok(man::dockerfile()),
        "bash" => Ok(bash::completions()),
        "zsh" => Ok(zsh::completions()),
        "fish" => Ok(fish::completions()),
        "sbom" => Ok(crates::sbom()),
        other => {
            Err(Error::usage(format!("--generate: unknown page {other:?}")).hint(format!("pages: {}", PAGES.join(" "))))
        }
    }
}

/// A program with its options, where it has no subcommands.
struct Program {
    name: &'static str,
    /// As in its usage: `IMAGE`, `IN`.
    takes_images: bool,
    options: Vec<Entry>,
}

/// All programs but `ch-image`.
fn programs() -> Vec<Program> {
    let ch_run = Program { name: "ch-run", takes_images: true, options: ch_run_args::entries() };
    let converters = Converter::ALL.into_iter().map(|program| Program {
        name: program.name(),
        takes_images: program.takes_image(),
        options: program.entries(),
    });
    [ch_run].into_iter().chain(converters).collect()
}

/// Options of `ch-image` that stand before the subcommand.
fn common() -> Vec<Entry> {
    TABLE.iter().filter(|row| row.of.is_empty()).map(Row::entry).collect()
}

/// What the options that go with a subcommand are; its own come first and hide common ones of the same name.
fn all_of(sub: &Subcommand) -> Vec<Entry> {
    let own = own(sub);
    if !takes_common(sub) {
        return own;
    }
    let hidden = |entry: &Entry| own.iter().any(|o| o.long == entry.long);
    let mut common: Vec<Entry> = common().into_iter().filter(|entry| !hidden(entry)).collect();
    for entry in &mut common {
        if own.iter().any(|o| o.short.is_some() && o.short == entry.short) {
            entry.short = None;
        }
    }
    own.into_iter().chain(common).collect()
}

/// All names of a subcommand.
fn names_of(sub: &'static Subcommand) -> impl Iterator<Item = &'static str> {
    [sub.name].into_iter().chain(sub.also.iter().copied())
}

/// What a shell offers where a value or an operand is to be typed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Offer {
    Words(&'static [&'static str]),
    Files,
    Directories,
    /// Names of images in storage.
    Images,
    ImagesAndFiles,
    Subcommands,
    Nothing,
}

fn offer_for_value(entry: &Entry) -> Offer {
    let (Takes::Required(name) | Takes::Optional(name)) = entry.takes else { return Offer::Nothing };
    match name {
        _ if !entry.words.is_empty() => Offer::Words(entry.words),
        "DIR" => Offer::Directories,
        "FILE" | "DOCKERFILE" | "PATH" | "FILE|VAR=VAL" => Offer::Files,
        name if name.starts_with("SRC") => Offer::Files,
        _ => Offer::Nothing,
    }
}

fn offer_for_operands(sub: &Subcommand) -> Offer {
    let has = |word: &str| sub.operands.contains(word);
    match (has("IMAGE"), has("PATH") || has("CONTEXT") || has("FILE")) {
        (true, true) => Offer::ImagesAndFiles,
        (true, false) => Offer::Images,
        (false, true) => Offer::Files,
        (false, false) if has("SUBCOMMAND") => Offer::Subcommands,
        (false, false) => Offer::Nothing,
    }
}
