//! CRC-32 as gzip uses it (RFC 1952, section 8): sixteen bytes a step, by tables made at compile time.

const WIDTH: usize = 16;
const TABLES: [[u32; 256]; WIDTH] = tables();

const fn tables() -> [[u32; 256]; WIDTH] {
    let mut tables = [[0; 256]; WIDTH];
    let mut i = 0;
    while i < 256 {
        let (mut crc, mut bit) = (i as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][i] = crc;
        i += 1;
    }
    let mut t = 1;
    while t < WIDTH {
        let mut i = 0;
        while i < 256 {
            let last = tables[t - 1][i];
            tables[t][i] = last >> 8 ^ tables[0][(last & 0xff) as usize];
            i += 1;
        }
        t += 1;
    }
    tables
}

/// Continues `crc` (0 at the start) over `bytes`.
pub fn update(crc: u32, bytes: &[u8]) -> u32 {
    let mut crc = !crc;
    let (steps, rest) = bytes.as_chunks::<WIDTH>();
    for step in steps {
        let mut next = 0;
        for (i, byte) in step.iter().enumerate() {
            let byte = if i < 4 { byte ^ (crc >> (8 * i)) as u8 } else { *byte };
            next ^= TABLES[WIDTH - 1 - i][usize::from(byte)];
        }
        crc = next;
    }
    for byte in rest {
        crc = crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::update;

    #[test]
    fn known_values_in_any_pieces() {
        let text: Vec<u8> = (0..1000u32).map(|i| (i * 7 + i / 3) as u8).collect();
        let slow = |bytes: &[u8]| {
            !bytes.iter().fold(!0u32, |crc, b| {
                (0..8).fold(crc ^ u32::from(*b), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
            })
        };
        assert_eq!(update(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(update(0, b""), 0);
        for cut in [0, 1, 15, 16, 17, 500, 999, 1000] {
            assert_eq!(update(update(0, &text[..cut]), &text[cut..]), slow(&text), "{cut}");
        }
    }
}
