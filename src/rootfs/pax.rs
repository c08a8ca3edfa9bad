//! What do the fields and records of a tar header say? Numbers, PAX records, times; strict (POSIX.1-2024 pax, GNU tar).
//!
//! Pure: bytes in, values out. What two readers could understand differently is an error here, so that nobody sees
//! another archive than we do.

use crate::error::{Error, Result, bail};
use crate::sys::file::Time;

/// A number in a header: octal digits, or base-256 if the first bit is set (GNU, star). Empty is 0.
pub fn number(field: &[u8], what: &str) -> Result<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field, what),
        _ => octal(field, what),
    }
}

fn octal(field: &[u8], what: &str) -> Result<i64> {
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|b| *b == 0 || *b == b' ').unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if rest.iter().any(|b| *b != 0 && *b != b' ') {
        bail!("malformed header: {what}");
    }
    digits
        .iter()
        .try_fold(0i64, |n, b| match b {
            b'0'..=b'7' => n.checked_mul(8).and_then(|n| n.checked_add(i64::from(b - b'0'))),
            _ => None,
        })
        .ok_or_else(|| Error::new(format!("malformed header: {what}")))
}

fn base256(field: &[u8], what: &str) -> Result<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { i128::from(field[0]) - 256 } else { i128::from(field[0] & 0x3f) };
    let value = field[1..].iter().try_fold(first, |n, b| n.checked_mul(256)?.checked_add(i128::from(*b)));
    match value.map(i64::try_from) {
        Some(Ok(value)) => Ok(value),
        _ => bail!("malformed header: {what}: too large"),
    }
}

/// A size or offset written in decimal digits and nothing else.
pub fn decimal(text: &[u8], what: &str) -> Result<u64> {
    let text = std::str::from_utf8(text).unwrap_or_default();
    match text.parse::<u64>() {
        Ok(n) if n <= i64::MAX as u64 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
        _ => bail!("malformed PAX record: {what}"),
    }
}

/// A time in decimal seconds, with or without sign and fraction; nanoseconds count, more is dropped.
pub fn time(text: &[u8]) -> Result<Time> {
    let bad = || Error::new("malformed PAX record: mtime");
    let text = std::str::from_utf8(text).map_err(|_| bad())?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let sec: i64 = whole.parse().map_err(|_| bad())?;
    let nsec = fraction.bytes().chain(std::iter::repeat(b'0')).take(9).fold(0, |n, b| n * 10 + u32::from(b - b'0'));
    Ok(match (negative, nsec) {
        (false, nsec) => Time { sec, nsec },
        (true, 0) => Time { sec: -sec, nsec: 0 },
        (true, nsec) => Time { sec: -sec - 1, nsec: 1_000_000_000 - nsec },
    })
}

/// The path that a record says; an empty value takes back an earlier one.
pub fn path(key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
    if value.contains(&0) {
        bail!("malformed PAX record: NUL in {}", key.escape_ascii());
    }
    Ok(Some(value.to_vec()).filter(|v| !v.is_empty()))
}

/// The records of a PAX extended header: `LENGTH KEY=VALUE\n`, in order.
pub fn records(mut data: &[u8]) -> Result<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let Some((record, rest)) = record(data) else { bail!("malformed PAX record") };
        records.push(record);
        data = rest;
    }
    Ok(records)
}

type Record<'a> = (&'a [u8], &'a [u8]);

fn record(data: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let blank = data.iter().take(21).position(|b| *b == b' ')?;
    let digits = std::str::from_utf8(&data[..blank]).ok()?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length: usize = digits.parse().ok()?;
    if length > data.len() || length < blank + 3 {
        return None;
    }
    let (record, rest) = data.split_at(length);
    let body = record[blank + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return None;
    }
    Some(((key, value), rest))
}

/// One record, as it is written: its length counts its own digits.
pub fn write_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let check = |field: &[u8], expected: Option<i64>| {
            assert_eq!(number(field, "size").ok(), expected, "{}", field.escape_ascii());
        };
        check(b"00000000017\0", Some(15));
        check(b"0000017 \0\0\0\0\0", Some(15));
        check(b"     17 ", Some(15));
        check(b"17777777", Some(0o17777777));
        check(b"\0\0\0\0", Some(0));
        check(b"        ", Some(0));
        check(b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256));
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1));
        check(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX));
        check(b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None);
        check(b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None);
        check(b"12x45", None);
        check(b"12 45", None);
        check(b"-1", None);
        check(b"8", None);
        check(b"garbage!", None);
    }

    #[test]
    fn times() {
        let check = |text: &str, expected: Option<(i64, u32)>| {
            assert_eq!(time(text.as_bytes()).ok().map(|t| (t.sec, t.nsec)), expected, "{text}");
        };
        check("1", Some((1, 0)));
        check("1.5", Some((1, 500_000_000)));
        check("1.", Some((1, 0)));
        check("1.1234567899", Some((1, 123_456_789)));
        check("-1", Some((-1, 0)));
        check("-0.25", Some((-1, 750_000_000)));
        check("4611686018427387904", Some((1 << 62, 0)));
        check("9223372036854775808", None);
        check("", None);
        check("1e5", None);
        check("+1", None);
        check(".5", None);
        check("1.-5", None);
    }

    #[test]
    fn records_are_read_strictly() {
        let check = |data: &[u8], expected: Option<&[(&str, &str)]>| {
            let read = records(data).ok().map(|list| {
                list.iter()
                    .map(|(k, v)| (String::from_utf8_lossy(k).into_owned(), String::from_utf8_lossy(v).into_owned()))
                    .collect::<Vec<_>>()
            });
            let expected =
                expected.map(|list| list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>());
            assert_eq!(read, expected, "{}", data.escape_ascii());
        };
        check(b"", Some(&[]));
        check(b"6 a=b\n", Some(&[("a", "b")]));
        check(b"6 a=b\n7 c=\nd\n", Some(&[("a", "b"), ("c", "\nd")]));
        check(b"5 a=\n", Some(&[("a", "")]));
        check(b"9 a=b=c=\n", Some(&[("a", "b=c=")]));
        check(b"7 a=b\n", None);
        check(b"5 a=b\n", None);
        check(b"0 a=b\n", None);
        check(b"-6 a=b\n", None);
        check(b" 6 a=b\n", None);
        check(b"6 a b\n", None);
        check(b"5 =b\n", None);
        check(b"7 a\0=b\n", None);
        check(b"6 a=b\nx", None);
        check(b"999999999999999999999999999999 a=b\n", None);
        check(b"99999999999999999999 a=b\n", None);
        check(b"6 a=b\0", None);
    }

    #[test]
    fn write_inverts_read() {
        for n in 0..1200 {
            let value = vec![b'v'; n];
            let mut out = Vec::new();
            write_record(&mut out, b"path", &value);
            assert_eq!(records(&out).unwrap(), vec![(&b"path"[..], &value[..])]);
        }
    }
}
