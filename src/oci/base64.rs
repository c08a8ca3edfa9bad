//! Base 64 (RFC 4648, section 4), for credentials and for data inline in descriptors.

use crate::error::{Result, bail};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |w, &b| w << 8 | u32::from(b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            match i <= group.len() {
                true => out.push(ALPHABET[(word >> (18 - 6 * i)) as usize & 63] as char),
                false => out.push('='),
            }
        }
    }
    out
}

/// Strict, except that padding may be absent.
pub fn decode(text: &str) -> Result<Vec<u8>> {
    let digits = match text.len() % 4 {
        0 => text.strip_suffix("==").or(text.strip_suffix('=')).unwrap_or(text),
        _ => text,
    };
    if digits.len() % 4 == 1 {
        bail!("invalid base64: wrong length");
    }
    let mut out = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.as_bytes().chunks(4) {
        let mut word = 0u32;
        for &b in group {
            let Some(value) = ALPHABET.iter().position(|&a| a == b) else {
                bail!("invalid base64: character {:?}", b as char);
            };
            word = word << 6 | value as u32;
        }
        word <<= 6 * (4 - group.len());
        out.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_inverts_encode() {
        let check = |plain: &str, text: &str| {
            assert_eq!(encode(plain.as_bytes()), text);
            assert_eq!(decode(text).unwrap(), plain.as_bytes());
        };
        check("", "");
        check("f", "Zg==");
        check("fo", "Zm8=");
        check("foo", "Zm9v");
        check("user:pass?>", "dXNlcjpwYXNzPz4=");
        assert_eq!(decode("Zg").unwrap(), b"f");
        for bad in ["Z", "Zg=", "Zg=a", "Z g=", "Zm9v=", "Zm9vZ", "Zg===", "=", "ü"] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
    }
}
