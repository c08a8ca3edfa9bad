//! Completions for fish.

use super::{Entry, Offer, Takes, common, names_of, offer_for_operands, offer_for_value, own, programs};
use crate::cli::subcommand::SUBCOMMANDS;

const HEAD: &str = "# fish completion for ch-image, ch-run and ch-convert, made by: ch-image --generate fish

function __ch_images
    ch-image list 2>/dev/null | string replace -r ' \\(.*' ''
end

";

pub(super) fn completions() -> String {
    let mut text = HEAD.to_owned();
    text.push_str("complete -c ch-image -f\n");
    common().iter().for_each(|entry| option(&mut text, "ch-image", "", entry));
    for sub in SUBCOMMANDS {
        for name in names_of(sub) {
            let help = quoted(sub.help);
            text.push_str(&format!("complete -c ch-image -n __fish_use_subcommand -a {name} -d {help}\n"));
        }
        let seen = format!(" -n '__fish_seen_subcommand_from {}'", names_of(sub).collect::<Vec<_>>().join(" "));
        own(sub).iter().for_each(|entry| option(&mut text, "ch-image", &seen, entry));
        text.push_str(&offered(offer_for_operands(sub), &format!("complete -c ch-image{seen}")));
    }
    for program in programs() {
        program.options.iter().for_each(|entry| option(&mut text, program.name, "", entry));
        if program.takes_images {
            text.push_str(&offered(Offer::ImagesAndFiles, &format!("complete -c {}", program.name)));
        }
    }
    text
}

fn option(text: &mut String, program: &str, condition: &str, entry: &Entry) {
    let short = entry.short.map_or(String::new(), |letter| format!(" -s {letter}"));
    let begin = format!("complete -c {program}{condition}{short} -l {} -d {}", entry.long, quoted(entry.help));
    match entry.takes {
        Takes::Nothing => text.push_str(&format!("{begin}\n")),
        Takes::Required(_) => {
            let value = match offer_for_value(entry) {
                Offer::Words(words) => format!(" -x -a {}", quoted(&words.join(" "))),
                Offer::Files => " -r -F".to_owned(),
                Offer::Directories => " -x -a '(__fish_complete_directories)'".to_owned(),
                Offer::Images | Offer::ImagesAndFiles | Offer::Subcommands | Offer::Nothing => " -x".to_owned(),
            };
            text.push_str(&format!("{begin}{value}\n"));
        }
        // Its value is given by `=` or not at all.
        Takes::Optional(_) => {
            text.push_str(&format!("{begin}\n"));
            let words = entry.words.iter().map(|word| format!("--{}={word}", entry.long)).collect::<Vec<_>>().join(" ");
            if !words.is_empty() {
                text.push_str(&format!("complete -c {program}{condition} -a {}\n", quoted(&words)));
            }
        }
    }
}

fn offered(offer: Offer, begin: &str) -> String {
    match offer {
        Offer::Files => format!("{begin} -F\n"),
        Offer::Images => format!("{begin} -a '(__ch_images)'\n"),
        Offer::ImagesAndFiles => format!("{begin} -F -a '(__ch_images)'\n"),
        Offer::Subcommands => {
            format!("{begin} -a {}\n", quoted(&SUBCOMMANDS.iter().flat_map(names_of).collect::<Vec<_>>().join(" ")))
        }
        Offer::Words(_) | Offer::Directories | Offer::Nothing => String::new(),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
