//! Durations as Go writes and reads them: `1h2m3.5s`, `300ms`, `0` (A.11, HEALTHCHECK; A.16).

const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Nanoseconds; `None` if the text is no duration or too long a one (292 years).
pub fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &after[..end])?;
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let part = whole.checked_mul(*unit)?.checked_add(part_of(fraction, *unit))?;
        total = total.checked_add(part)?;
        rest = &after[end..];
    }
    Some(if negative { -total } else { total })
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// `unit` times 0.`fraction`, rounded down. Digits past the 18th count for nothing.
fn part_of(fraction: &str, unit: i64) -> i64 {
    let (mut value, mut scale): (i128, i128) = (0, 1);
    for digit in fraction.bytes().take(18) {
        value = value * 10 + i128::from(digit - b'0');
        scale *= 10;
    }
    i64::try_from(i128::from(unit) * value / scale).unwrap_or(0)
}

/// Like Go's `Duration.String`: `5m0s`, `1.5s`, `300ms`, `0s`.
pub fn show(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let fraction = |value: u64, unit: u64, name: &str| {
        let digits = unit.ilog10() as usize;
        let rest = format!("{:0digits$}", value % unit);
        let rest = rest.trim_end_matches('0');
        let dot = if rest.is_empty() || digits == 0 { "" } else { "." };
        format!("{}{dot}{}{name}", value / unit, if digits == 0 { "" } else { rest })
    };
    let text = match total {
        0 => return "0s".to_owned(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => fraction(total, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(total, 1_000_000, "ms"),
        _ => {
            let (minutes, seconds) = (total / 60_000_000_000, fraction(total % 60_000_000_000, 1_000_000_000, "s"));
            match minutes {
                0 => seconds,
                1..60 => format!("{minutes}m{seconds}"),
                _ => format!("{}h{}m{seconds}", minutes / 60, minutes % 60),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, want: Option<i64>, shown: &str| {
            assert_eq!(parse(text), want, "{text}");
            assert_eq!(want.map(show).unwrap_or_default(), shown, "{text}");
        };
        check("0", Some(0), "0s");
        check("0s", Some(0), "0s");
        check("5m", Some(300_000_000_000), "5m0s");
        check("1h2m3.5s", Some(3_723_500_000_000), "1h2m3.5s");
        check("300ms", Some(300_000_000), "300ms");
        check("1.5ms", Some(1_500_000), "1.5ms");
        check("1500us", Some(1_500_000), "1.5ms");
        check("1µs2ns", Some(1002), "1.002µs");
        check("7ns", Some(7), "7ns");
        check(".5s", Some(500_000_000), "500ms");
        check("1.s", Some(1_000_000_000), "1s");
        check("-1.5h", Some(-5_400_000_000_000), "-1h30m0s");
        check("+1s", Some(1_000_000_000), "1s");
        check("25h", Some(90_000_000_000_000), "25h0m0s");
        check("2562047h47m16.854775807s", Some(i64::MAX), "2562047h47m16.854775807s");
        for bad in ["", "1", "s", ".s", "1 s", "1x", "1s ", "--1s", "-", "1m2", "99999999999h", "9223372036854775808ns"]
        {
            check(bad, None, "");
        }
    }
}
