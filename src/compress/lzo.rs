//! LZO1X, reading only: what the Linux kernel's documentation (staging/lzo.rst) says of the stream.
//!
//! An instruction copies a match from before, and at its end up to three bytes from the stream; what an instruction
//! below 16 means depends on how many bytes the one before has taken from the stream.

use super::Damaged;

struct Stream<'a> {
    packed: &'a [u8],
    at: usize,
    out: &'a mut [u8],
    made: usize,
}

impl Stream<'_> {
    fn byte(&mut self) -> Result<usize, Damaged> {
        let byte = *self.packed.get(self.at).ok_or(Damaged)?;
        self.at += 1;
        Ok(usize::from(byte))
    }

    /// Distance of 14 bits and the number of literals behind the match.
    fn pair(&mut self) -> Result<(usize, usize), Damaged> {
        let word = self.byte()? | self.byte()? << 8;
        Ok((word >> 2, word & 3))
    }

    /// A length whose field was 0: zeros count as 255, the byte behind them as what it is.
    fn long(&mut self, base: usize) -> Result<usize, Damaged> {
        let mut length = base;
        loop {
            match self.byte()? {
                0 => length = length.checked_add(255).filter(|n| *n <= self.out.len()).ok_or(Damaged)?,
                last => return Ok(length + last),
            }
        }
    }

    fn literals(&mut self, count: usize) -> Result<(), Damaged> {
        let source = self.packed.get(self.at..self.at + count).ok_or(Damaged)?;
        self.out.get_mut(self.made..self.made + count).ok_or(Damaged)?.copy_from_slice(source);
        self.at += count;
        self.made += count;
        Ok(())
    }

    fn copy(&mut self, distance: usize, length: usize) -> Result<(), Damaged> {
        let from = self.made.checked_sub(distance).ok_or(Damaged)?;
        if length > self.out.len() - self.made {
            return Err(Damaged);
        }
        if distance >= length {
            self.out.copy_within(from..from + length, self.made);
        } else {
            for i in 0..length {
                self.out[self.made + i] = self.out[from + i];
            }
        }
        self.made += length;
        Ok(())
    }
}

/// Decompresses into the beginning of `out`; how long it is.
pub fn decompress(packed: &[u8], out: &mut [u8]) -> Result<usize, Damaged> {
    let mut stream = Stream { packed, at: 0, out, made: 0 };
    // Bytes that the last instruction took from the stream; 4 stands for more.
    let mut taken = 0;
    if let Some(first @ 18..) = packed.first().copied().map(usize::from) {
        stream.at = 1;
        stream.literals(first - 17)?;
        taken = (first - 17).min(4);
    }
    loop {
        let code = stream.byte()?;
        let (distance, length, follow) = match (code, taken) {
            (0..=15, 0) => {
                let count = if code == 0 { stream.long(15)? } else { code };
                stream.literals(count + 3)?;
                taken = 4;
                continue;
            }
            (0..=15, 1..=3) => ((stream.byte()? << 2) + (code >> 2) + 1, 2, code & 3),
            (0..=15, _) => ((stream.byte()? << 2) + (code >> 2) + 2049, 3, code & 3),
            (16..=31, _) => {
                let length = if code & 7 == 0 { stream.long(7)? } else { code & 7 } + 2;
                let (low, follow) = stream.pair()?;
                let distance = 16384 + (code >> 3 & 1) * 16384 + low;
                if distance == 16384 {
                    return if stream.at == packed.len() && length == 3 { Ok(stream.made) } else { Err(Damaged) };
                }
                (distance, length, follow)
            }
            (32..=63, _) => {
                let length = if code & 31 == 0 { stream.long(31)? } else { code & 31 } + 2;
                let (low, follow) = stream.pair()?;
                (low + 1, length, follow)
            }
            (64..=127, _) => ((stream.byte()? << 3) + (code >> 2 & 7) + 1, 3 + (code >> 5 & 1), code & 3),
            (_, _) => ((stream.byte()? << 3) + (code >> 2 & 7) + 1, 5 + (code >> 5 & 3), code & 3),
        };
        stream.copy(distance, length)?;
        stream.literals(follow)?;
        taken = follow;
    }
}

/// A stream with an instruction of each kind.
#[cfg(test)]
pub const SAMPLE: (&[u8], &[u8]) = (
    &[
        22,
        b'a',
        b'b',
        b'c',
        b'd',
        b'e', // 5 literals
        0b0100_1101,
        0,
        b'x', // 3 from 4 back, then one literal
        0b0000_0001,
        1,
        b'y', // 2 from 5 back, then one literal
        0b0010_0010,
        0b0000_1000,
        0, // 4 from 3 back
        1,
        b'1',
        b'2',
        b'3',
        b'4', // 4 literals
        0b1110_0000,
        0, // 8 from 1 back
        17,
        0,
        0,
    ],
    b"abcdebcdxebyebye123444444444",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction() {
        let check = |packed: &[u8], want: Result<&[u8], Damaged>| {
            let mut out = [0xee; 40];
            assert_eq!(decompress(packed, &mut out).map(|n| out[..n].to_vec()), want.map(<[u8]>::to_vec), "{packed:?}");
        };
        check(SAMPLE.0, Ok(SAMPLE.1));
        check(&[17, 0, 0], Ok(b""));
        check(&[0, 1, b'0'], Err(Damaged));
        let mut long = vec![0, 2];
        long.extend([b'z'; 20]);
        long.extend([17, 0, 0]);
        check(&long, Ok(&[b'z'; 20]));
        // Three bytes from 2049 back, right after literals.
        check(&[21, b'a', b'b', b'c', b'd', 0, 0, 17, 0, 0], Err(Damaged));
        check(&[18, b'a', 17, 0], Err(Damaged));
        check(&[18, b'a', 17, 0, 0, 0], Err(Damaged));
        check(&[], Err(Damaged));
        // Longer than there is room for.
        check(&[18, b'a', 32, 255, 0, 0, 17, 0, 0], Err(Damaged));
        check(&[[0; 300].as_slice(), &[1]].concat(), Err(Damaged));
    }
}
