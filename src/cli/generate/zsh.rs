//! Completions for zsh, to be installed as `_ch-image` in a directory of `$fpath`.

use super::{Entry, Offer, Takes, all_of, common, names_of, offer_for_operands, offer_for_value, programs};
use crate::cli::subcommand::SUBCOMMANDS;

const CH_IMAGE: &str = "#compdef ch-image ch-run ch-convert ch-builder2tar ch-builder2squash ch-tar2dir ch-dir2squash
# zsh completion, made by: ch-image --generate zsh

_ch_images() {
    local -a images
    images=(${${(f)\"$(ch-image list 2>/dev/null)\"}%% *})
    compadd -a images
}

_ch_images_and_files() {
    _ch_images
    _files
}

_ch_image_subcommands() {
    local -a subcommands
    subcommands=(
SUBCOMMANDS    )
    _describe subcommand subcommands
}

_ch_image() {
    local curcontext=$curcontext state line
    typeset -A opt_args
    _arguments -C \\
COMMON        '1:subcommand:_ch_image_subcommands' \\
        '*::operand:->operand'
    [[ $state == operand ]] || return
    case $words[1] in
CASES    esac
}

";

const END: &str = "case $service in
PROGRAMS    *) _ch_image \"$@\" ;;
esac
";

pub(super) fn completions() -> String {
    let named = |name: &str, help: &str| format!("        {}\n", quoted(&format!("{name}:{}", colons(help))));
    let subcommands: String =
        SUBCOMMANDS.iter().flat_map(|sub| names_of(sub).map(|name| named(name, sub.help))).collect();
    let specs = |entries: &[Entry], indent: &str| -> String {
        entries.iter().flat_map(options).map(|spec| format!("{indent}{spec} \\\n")).collect()
    };
    let mut cases = String::new();
    for sub in SUBCOMMANDS {
        let names = names_of(sub).collect::<Vec<_>>().join("|");
        let operands = quoted(&format!("*:{}:{}", colons(sub.operands), action(offer_for_operands(sub))));
        cases.push_str(&format!(
            "        {names})\n            _arguments \\\n{}                {operands}\n            ;;\n",
            specs(&all_of(sub), "                ")
        ));
    }
    let mut text = CH_IMAGE
        .replace("SUBCOMMANDS", &subcommands)
        .replace("COMMON", &specs(&common(), "        "))
        .replace("CASES", &cases);
    let mut services = String::new();
    for program in programs() {
        let function = format!("_{}", program.name.replace('-', "_"));
        let operands = if program.takes_images { Offer::ImagesAndFiles } else { Offer::Files };
        // What follows the image is a command.
        let operands = match program.name {
            "ch-run" => format!("'1:image:{}' '*::command:_normal'", action(operands)),
            _ => quoted(&format!("*:operand:{}", action(operands))),
        };
        text.push_str(&format!(
            "{function}() {{\n    _arguments \\\n{}        {operands}\n}}\n\n",
            specs(&program.options, "        ")
        ));
        services.push_str(&format!("    {}) {function} \"$@\" ;;\n", program.name));
    }
    text.push_str(&END.replace("PROGRAMS", &services));
    text
}

/// Arguments for `_arguments`: one for each name.
fn options(entry: &Entry) -> Vec<String> {
    let action = action(offer_for_value(entry));
    let help = format!("[{}]", entry.help.replace('[', "\\[").replace(']', "\\]"));
    let spec = |name: String, (long, plain): (&str, bool)| {
        let value = match entry.takes {
            Takes::Nothing => String::new(),
            Takes::Required(value) => format!(":{}:{action}", colons(value)),
            Takes::Optional(value) if !plain => format!("::{}:{action}", colons(value)),
            Takes::Optional(_) => String::new(),
        };
        quoted(&format!("*{name}{long}{help}{value}"))
    };
    let long_sign = match entry.takes {
        Takes::Nothing => "",
        Takes::Required(_) => "=",
        // Only with `=`.
        Takes::Optional(_) => "=-",
    };
    let short = entry.short.map(|letter| {
        let sign = if matches!(entry.takes, Takes::Required(_)) { "+" } else { "" };
        spec(format!("-{letter}"), (sign, true))
    });
    short.into_iter().chain([spec(format!("--{}", entry.long), (long_sign, false))]).collect()
}

fn action(offer: Offer) -> String {
    match offer {
        Offer::Words(words) => format!("({})", colons(&words.join(" "))),
        Offer::Files => "_files".to_owned(),
        Offer::Directories => "_files -/".to_owned(),
        Offer::Images => "_ch_images".to_owned(),
        Offer::ImagesAndFiles => "_ch_images_and_files".to_owned(),
        Offer::Subcommands => "_ch_image_subcommands".to_owned(),
        Offer::Nothing => " ".to_owned(),
    }
}

fn colons(text: &str) -> String {
    text.replace(':', "\\:")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
