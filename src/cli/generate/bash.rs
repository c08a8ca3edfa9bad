//! Completions for bash. They need neither the package bash-completion nor anything else.

use super::{
    Entry, Offer, Program, Takes, all_of, common, names_of, offer_for_operands, offer_for_value, own, programs,
};
use crate::cli::subcommand::SUBCOMMANDS;

/// Before the tables: helpers. Words are taken from the line itself, for bash splits at `:` and `=`, which names of
/// images have.
const HEAD: &str = r#"# bash completion for ch-image, ch-run and ch-convert, made by: ch-image --generate bash

_ch_images() {
    ch-image list 2>/dev/null | sed 's/ (.*//'
}

# Puts into COMPREPLY what fits the word being typed: _ch_offer WORD KIND [WORD...]
_ch_offer() {
    local word=$1 kind=$2
    shift 2
    local IFS=$'\n'
    case $kind in
        words) COMPREPLY=($(compgen -W "$*" -- "$word")) ;;
        files) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$word")) ;;
        directories) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$word")) ;;
        images) COMPREPLY=($(compgen -W "$(_ch_images)" -- "$word")) ;;
        images_and_files) COMPREPLY=($(compgen -W "$(_ch_images)" -- "$word") $(compgen -f -- "$word")) ;;
        commands) COMPREPLY=($(compgen -c -- "$word")) ;;
        *) COMPREPLY=() ;;
    esac
}

# bash replaces only what follows the last : or = of the word.
_ch_trim() {
    local word=$1 breaks=
    case $COMP_WORDBREAKS in *:*) breaks=: ;; esac
    case $COMP_WORDBREAKS in *=*) breaks=$breaks= ;; esac
    [ -n "$breaks" ] || return 0
    local before=${word%"${word##*[$breaks]}"}
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
}

# Sets words (all before the one that is typed) and cur.
_ch_words() {
    local line=${COMP_LINE:0:COMP_POINT}
    cur=${line##*[[:space:]]}
    read -ra words <<<"${line%"$cur"}"
}

# Whether a value of an option is typed; sets option and value.
_ch_value() {
    option= value=$cur
    case $cur in
        --*=*) option=${cur%%=*} value=${cur#*=} ;;
        *) option=${words[${#words[@]} - 1]} ;;
    esac
    case $option in -*) return 0 ;; *) return 1 ;; esac
}

# _ch_offer_value KIND [WORD...]
_ch_offer_value() {
    _ch_offer "$value" "$@"
    case $cur in --*=*) COMPREPLY=("${COMPREPLY[@]/#/$option=}") ;; esac
    _ch_trim "$cur"
}

"#;

pub(super) fn completions() -> String {
    let mut text = HEAD.to_owned();
    ch_image(&mut text);
    programs().iter().for_each(|program| other(&mut text, program));
    text
}

fn ch_image(text: &mut String) {
    let with_value: Vec<String> = common()
        .iter()
        .filter(|entry| matches!(entry.takes, Takes::Required(_)))
        .map(|entry| words_of(entry, ""))
        .collect();
    text.push_str(&BEGIN.replace("FUNCTION", "_ch_image"));
    text.push_str(&SUBCOMMAND.replace("WITH_VALUE", &with_value.join("|")));
    text.push_str("    _ch_value && case $sub:$option in\n");
    for sub in SUBCOMMANDS {
        let prefixes: Vec<String> = names_of(sub).map(|name| format!("{name}:")).collect();
        own(sub).iter().for_each(|entry| value(text, entry, &prefixes));
    }
    common().iter().for_each(|entry| value(text, entry, &["*:".to_owned()]));
    text.push_str("    esac\n    case $sub:$cur in\n");
    text.push_str(&format!("        :-*) _ch_offer \"$cur\" words {} ;;\n", longs(&common())));
    text.push_str(&format!("        :*) _ch_offer \"$cur\" {} ;;\n", kind(Offer::Subcommands)));
    for sub in SUBCOMMANDS {
        let [options, operands] =
            ["-*", "*"].map(|end| names_of(sub).map(|name| format!("{name}:{end}")).collect::<Vec<_>>().join("|"));
        text.push_str(&format!("        {options}) _ch_offer \"$cur\" words {} ;;\n", longs(&all_of(sub))));
        text.push_str(&format!("        {operands}) _ch_offer \"$cur\" {} ;;\n", kind(offer_for_operands(sub))));
    }
    text.push_str(&END.replace("FUNCTION", "_ch_image").replace("PROGRAM", "ch-image"));
}

fn other(text: &mut String, program: &Program) {
    let function = format!("_{}", program.name.replace('-', "_"));
    text.push_str(&BEGIN.replace("FUNCTION", &function));
    if program.name == "ch-run" {
        // What follows is no option of ours.
        text.push_str("    case \" ${words[*]} \" in *' -- '*) _ch_offer \"$cur\" commands; return ;; esac\n");
    }
    text.push_str("    _ch_value && case $option in\n");
    program.options.iter().for_each(|entry| value(text, entry, &[String::new()]));
    text.push_str("    esac\n    case $cur in\n");
    text.push_str(&format!("        -*) _ch_offer \"$cur\" words {} ;;\n", longs(&program.options)));
    let operands = if program.takes_images { Offer::ImagesAndFiles } else { Offer::Files };
    text.push_str(&format!("        *) _ch_offer \"$cur\" {} ;;\n", kind(operands)));
    text.push_str(&END.replace("FUNCTION", &function).replace("PROGRAM", program.name));
}

const BEGIN: &str = "FUNCTION() {\n    local cur option value\n    local -a words\n    _ch_words\n";

/// The first word that is neither an option nor the value of one.
const SUBCOMMAND: &str = r#"    local sub= skip= word
    for word in "${words[@]:1}"; do
        if [ -n "$skip" ]; then skip=; continue; fi
        case $word in
            WITH_VALUE) skip=1 ;;
            -*) ;;
            *) sub=$word; break ;;
        esac
    done
"#;

const END: &str = "    esac\n    _ch_trim \"$cur\"\n}\ncomplete -F FUNCTION PROGRAM\n\n";

/// An arm of a `case` for the option, whose names stand behind these prefixes.
fn value(text: &mut String, entry: &Entry, prefixes: &[String]) {
    let names = prefixes.iter().map(|prefix| words_of(entry, prefix)).collect::<Vec<_>>().join("|");
    let offer = kind(offer_for_value(entry));
    match entry.takes {
        // It hides an option of the same letter that has a value.
        Takes::Nothing => text.push_str(&format!("        {names}) ;;\n")),
        Takes::Required(_) => text.push_str(&format!("        {names}) _ch_offer_value {offer}; return ;;\n")),
        // The word after it is not its value.
        Takes::Optional(_) => {
            text.push_str(&format!("        {names}) case $cur in --*=*) _ch_offer_value {offer}; return ;; esac ;;\n"))
        }
    }
}

fn kind(offer: Offer) -> String {
    match offer {
        Offer::Words(words) => format!("words {}", words.join(" ")),
        Offer::Files => "files".to_owned(),
        Offer::Directories => "directories".to_owned(),
        Offer::Images => "images".to_owned(),
        Offer::ImagesAndFiles => "images_and_files".to_owned(),
        Offer::Subcommands => {
            format!("words {}", SUBCOMMANDS.iter().flat_map(names_of).collect::<Vec<_>>().join(" "))
        }
        Offer::Nothing => "nothing".to_owned(),
    }
}

/// `-s|--storage`
fn words_of(entry: &Entry, prefix: &str) -> String {
    let short = entry.short.map_or(String::new(), |letter| format!("{prefix}-{letter}|"));
    format!("{short}{prefix}--{}", entry.long)
}

fn longs(entries: &[Entry]) -> String {
    entries.iter().map(|entry| format!("--{}", entry.long)).collect::<Vec<_>>().join(" ")
}
