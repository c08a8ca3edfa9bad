//! How does an instruction read in an image's history? (A.16, `created_by`)

use super::ast::{Check, Command, Healthcheck};
use super::duration;

/// `NAME=value …` after a keyword.
pub fn pairs(keyword: &str, pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{keyword} {}", pairs.join(" "))
}

/// `ARG a=v b`
pub fn args(args: &[(String, Option<String>)]) -> String {
    let show = |(name, value): &(String, Option<String>)| match value {
        Some(value) => format!("{name}={value}"),
        None => name.clone(),
    };
    format!("ARG {}", args.iter().map(show).collect::<Vec<_>>().join(" "))
}

/// `EXPOSE [80/tcp 443/tcp]`, `VOLUME [/a /b]`, `SHELL [/bin/bash -c]`
pub fn list(keyword: &str, items: &[String]) -> String {
    format!("{keyword} [{}]", items.join(" "))
}

/// `CMD ["a" "b"]`
pub fn quoted(keyword: &str, items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quote(item)).collect();
    format!("{keyword} [{}]", items.join(" "))
}

/// `RUN |1 a=v /bin/sh -c text # buildkit`
pub fn run(argv: &[String], args: &[(&str, &str)]) -> String {
    let mut words = vec!["RUN".to_owned()];
    if !args.is_empty() {
        words.push(format!("|{}", args.len()));
        words.extend(args.iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(argv.iter().cloned());
    format!("{} # buildkit", words.join(" "))
}

/// `HEALTHCHECK {Test:[CMD a] Interval:5m0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}`
pub fn healthcheck(healthcheck: &Healthcheck) -> String {
    let none = Check {
        interval: 0,
        timeout: 0,
        start_period: 0,
        start_interval: 0,
        retries: 0,
        command: Command::Exec(Vec::new()),
    };
    let check = match healthcheck {
        Healthcheck::None => &none,
        Healthcheck::Check(check) => check,
    };
    let time = duration::show;
    format!(
        "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        test(healthcheck).join(" "),
        time(check.interval),
        time(check.timeout),
        time(check.start_period),
        time(check.start_interval),
        check.retries
    )
}

/// `Healthcheck.Test` of the image configuration.
pub fn test(healthcheck: &Healthcheck) -> Vec<String> {
    match healthcheck {
        Healthcheck::None => vec!["NONE".to_owned()],
        Healthcheck::Check(Check { command: Command::Shell(text), .. }) => vec!["CMD-SHELL".to_owned(), text.clone()],
        Healthcheck::Check(Check { command: Command::Exec(words), .. }) => {
            std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect()
        }
    }
}

/// As Go's `%q` does.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted += "\\n",
            '\t' => quoted += "\\t",
            '\r' => quoted += "\\r",
            '\u{7}' => quoted += "\\a",
            '\u{8}' => quoted += "\\b",
            '\u{b}' => quoted += "\\v",
            '\u{c}' => quoted += "\\f",
            c if (c as u32) < 0x20 || c as u32 == 0x7f => quoted += &format!("\\x{:02x}", c as u32),
            c if is_printable(c) => quoted.push(c),
            c if c > '\u{ffff}' => quoted += &format!("\\U{:08x}", c as u32),
            c => quoted += &format!("\\u{:04x}", c as u32),
        }
    }
    quoted + "\""
}

/// Letters, marks, numbers, punctuation, symbols and the blank: what Go calls printable. Rust's tables are asked in a
/// roundabout way, because there is no public one; after another character a mark is not escaped.
fn is_printable(c: char) -> bool {
    c.is_ascii() || String::from_iter(['a', c]).escape_debug().nth(1) != Some('\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let strings = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
        let two = [("a".to_owned(), "1 2".to_owned()), ("b".to_owned(), String::new())];
        assert_eq!(pairs("ENV", &two), "ENV a=1 2 b=");
        assert_eq!(args(&[("a".into(), Some("1".into())), ("b".into(), None)]), "ARG a=1 b");
        assert_eq!(list("EXPOSE", &strings(&["80/tcp", "443/tcp"])), "EXPOSE [80/tcp 443/tcp]");
        assert_eq!(
            quoted("CMD", &strings(&["a b'", "\"\\\n\u{1}\u{a0}é", "\u{7f}\u{200b}e\u{301}日😀\u{e0001}\u{e000}"])),
            "CMD [\"a b'\" \"\\\"\\\\\\n\\x01\\u00a0é\" \"\\x7f\\u200be\u{301}日😀\\U000e0001\\ue000\"]"
        );
        assert_eq!(run(&strings(&["/bin/sh", "-c", "x y"]), &[]), "RUN /bin/sh -c x y # buildkit");
        assert_eq!(run(&strings(&["x"]), &[("a", "1"), ("b", "")]), "RUN |2 a=1 b= x # buildkit");
        let check = Check {
            interval: 300_000_000_000,
            timeout: 3_000_000_000,
            start_period: 0,
            start_interval: 0,
            retries: 2,
            command: Command::Shell("curl x".into()),
        };
        let want =
            "HEALTHCHECK {Test:[CMD-SHELL curl x] Interval:5m0s Timeout:3s StartPeriod:0s StartInterval:0s Retries:2}";
        assert_eq!(healthcheck(&Healthcheck::Check(check)), want);
        assert!(healthcheck(&Healthcheck::None).starts_with("HEALTHCHECK {Test:[NONE] Interval:0s"));
    }
}
