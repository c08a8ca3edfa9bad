//! memcpy(3) and memmove(3) for musl on x86-64, whose own start slowly: inflating copies a few bytes at a time, millions
//! of times, and spent more time there than in decoding.
//!
//! Up to 128 bytes: all loads before all stores, so that overlap does not matter. Above: `rep movsb`, which every
//! processor since 2013 does in wide blocks. Deliberately absent: other architectures, whose musl is good at this.

use core::arch::asm;
use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128};

/// # Safety
/// As memcpy(3): `n` bytes at `from` readable, at `to` writable.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges.
    unsafe {
        if n <= 128 {
            short(to, from, n);
        } else {
            forward(to, from, n);
        }
    }
    to
}

/// # Safety
/// As memmove(3): the ranges may overlap.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges.
    unsafe {
        if n <= 128 {
            short(to, from, n);
        } else if (to as usize).wrapping_sub(from as usize) >= n {
            // The target does not begin within the source.
            forward(to, from, n);
        } else {
            backward(to, from, n);
        }
    }
    to
}

/// At most 128 bytes, overlapping or not.
#[inline(always)]
unsafe fn short(to: *mut u8, from: *const u8, n: usize) {
    // SAFETY: each branch touches bytes 0..n only: blocks from the beginning and blocks that end at `n`.
    unsafe {
        if n > 16 {
            let load = |at: usize| _mm_loadu_si128(from.add(at).cast::<__m128i>());
            let store = |at: usize, v: __m128i| _mm_storeu_si128(to.add(at).cast::<__m128i>(), v);
            let (first, last) = (load(0), load(n - 16));
            if n > 32 {
                let (b, y) = (load(16), load(n - 32));
                if n > 64 {
                    let (c, d, w, x) = (load(32), load(48), load(n - 64), load(n - 48));
                    store(32, c);
                    store(48, d);
                    store(n - 64, w);
                    store(n - 48, x);
                }
                store(16, b);
                store(n - 32, y);
            }
            store(0, first);
            store(n - 16, last);
        } else if n >= 8 {
            let (a, b) = (from.cast::<u64>().read_unaligned(), from.add(n - 8).cast::<u64>().read_unaligned());
            to.cast::<u64>().write_unaligned(a);
            to.add(n - 8).cast::<u64>().write_unaligned(b);
        } else if n >= 4 {
            let (a, b) = (from.cast::<u32>().read_unaligned(), from.add(n - 4).cast::<u32>().read_unaligned());
            to.cast::<u32>().write_unaligned(a);
            to.add(n - 4).cast::<u32>().write_unaligned(b);
        } else if n >= 2 {
            let (a, b) = (from.cast::<u16>().read_unaligned(), from.add(n - 2).cast::<u16>().read_unaligned());
            to.cast::<u16>().write_unaligned(a);
            to.add(n - 2).cast::<u16>().write_unaligned(b);
        } else if n == 1 {
            *to = *from;
        }
    }
}

/// Ascending addresses.
#[inline(always)]
unsafe fn forward(to: *mut u8, from: *const u8, n: usize) {
    // SAFETY: copies exactly `n` bytes; the direction flag is clear by the calling convention.
    unsafe {
        asm!("rep movsb", inout("rcx") n => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
}

/// Descending addresses, for a target that begins within the source. More than 128 bytes.
#[inline(always)]
unsafe fn backward(to: *mut u8, from: *const u8, n: usize) {
    let mut left = n;
    // SAFETY: each round touches bytes left-16..left; what is left is at most 128 bytes from the beginning.
    unsafe {
        while left > 128 {
            left -= 16;
            let block = _mm_loadu_si128(from.add(left).cast::<__m128i>());
            // Keeps the compiler from making a call of memmove out of this loop.
            asm!("", options(nostack, preserves_flags));
            _mm_storeu_si128(to.add(left).cast::<__m128i>(), block);
        }
        short(to, from, left);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_size_and_overlap() {
        let pattern: Vec<u8> = (0..600u32).map(|i| (i * 31 % 251) as u8).collect();
        for n in (0..300).chain([512]) {
            for (from, to) in [(0, 300 - n.min(300)), (5, 6), (6, 5), (0, 64), (64, 0), (3, 3), (0, 17), (17, 0)] {
                if from + n > 600 || to + n > 600 {
                    continue;
                }
                let mut got = pattern.clone();
                let mut want = pattern.clone();
                for (i, &byte) in pattern[from..from + n].iter().enumerate() {
                    want[to + i] = byte;
                }
                // SAFETY: both ranges lie within the vector.
                unsafe { super::memmove(got.as_mut_ptr().add(to), got.as_ptr().add(from), n) };
                assert!(got == want, "memmove {from} to {to}, {n} bytes");
                let mut copy = vec![0; n];
                // SAFETY: both have `n` bytes.
                unsafe { super::memcpy(copy.as_mut_ptr(), pattern[from..].as_ptr(), n) };
                assert!(copy[..] == pattern[from..from + n], "memcpy {from}, {n} bytes");
            }
        }
    }
}
