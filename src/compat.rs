//! Whose meanings does the user want where versions of Charliecloud differ? `$CH_COMPAT` says it.
//!
//! Unset, things are as they are best here, mostly as in 0.25; README.md has the list of differences.

use std::env;

use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compat {
    /// Nothing was said.
    None,
    /// As in Charliecloud 0.25.
    V025,
    /// As in Charliecloud 0.40.
    V040,
}

pub fn compat() -> Result<Compat> {
    let said = env::var_os("CH_COMPAT").unwrap_or_default();
    parse(&said.to_string_lossy())
}

fn parse(text: &str) -> Result<Compat> {
    match text {
        "" => Ok(Compat::None),
        "0.25" => Ok(Compat::V025),
        "0.40" => Ok(Compat::V040),
        other => Err(Error::usage(format!("$CH_COMPAT is no version: {}", other.escape_debug()))
            .hint("0.25 and 0.40 are known; without it, things are as README.md says")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let check = |text: &str, want: Option<Compat>| assert_eq!(parse(text).ok(), want, "{text:?}");
        check("", Some(Compat::None));
        check("0.25", Some(Compat::V025));
        check("0.40", Some(Compat::V040));
        check("0.4", None);
        check("0.25.1", None);
        check(" 0.25", None);
        let e = parse("1\n").unwrap_err();
        assert_eq!(e.to_string(), "$CH_COMPAT is no version: 1\\n");
    }
}
