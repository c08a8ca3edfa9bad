//! How much is it all together? Sizes are what somebody else says: 2^63-1 bytes, a thousand times.
//!
//! A sum that does not fit is the largest number there is. (Release builds end at an overflow.) A test looks for sizes
//! that are added in another way.

/// The sum of sizes.
pub fn total(sizes: impl IntoIterator<Item = u64>) -> u64 {
    sizes.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn sums_end_at_the_largest_number() {
        assert_eq!(total([]), 0);
        assert_eq!(total([1, 2, 3]), 6);
        assert_eq!(total([u64::MAX - 1, 1]), u64::MAX);
        assert_eq!(total([1 << 63, 1 << 63, 7]), u64::MAX);
    }
}
