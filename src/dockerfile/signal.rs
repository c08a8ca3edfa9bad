//! Is this a signal? (A.11 STOPSIGNAL). Only checked: the image stores it as it was written.

use crate::error::{Error, Result};

const NAMES: [&str; 34] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// A positive number, or a name with or without SIG, in any case; real-time signals as `RTMIN+n`, `RTMAX-n`.
pub fn check(text: &str) -> Result<()> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = |digits: &str| {
        let digits = Some(digits).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|digits| digits.parse::<u32>().ok())
    };
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) | (_, Some("")) => true,
        (Some(offset), _) => offset.strip_prefix('+').and_then(number).is_some_and(|n| (1..=15).contains(&n)),
        (_, Some(offset)) => offset.strip_prefix('-').and_then(number).is_some_and(|n| (1..=14).contains(&n)),
        (None, None) => false,
    };
    if real_time || NAMES.contains(&name) || number(text).is_some_and(|n| n > 0) {
        return Ok(());
    }
    Err(Error::new(format!("invalid signal: {text:?}")).hint("write a name such as SIGTERM, or a number"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn signals() {
        for good in ["SIGTERM", "term", "9", "15", "SigKill", "RTMIN", "SIGRTMIN+3", "rtmax-14", "RTMAX", "99"] {
            assert!(super::check(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "0",
            "-1",
            "+9",
            "SIG",
            "SIGFOO",
            "SIGSIGTERM",
            "RTMIN+16",
            "RTMIN+",
            "RTMAX-15",
            "RTMIN-1",
            "9 ",
            "RTMIN+x",
        ] {
            assert!(super::check(bad).is_err(), "{bad}");
        }
    }
}
