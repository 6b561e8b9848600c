//! CRC32c, the checksum of a header (RFC 4960 appendix B).

/// The polynomial of Castagnoli, with its lowest bit first.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Returns the checksum of the pieces together. A header has at most 4 KiB, so a table would cost
/// more memory than it saves time.
pub fn checksum(pieces: &[&[u8]]) -> u32 {
    let mut sum = u32::MAX;
    for byte in pieces.iter().copied().flatten() {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            let is_odd = sum & 1 == 1;
            sum >>= 1;
            if is_odd {
                sum ^= POLYNOMIAL;
            }
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_of_rfc_3720_appendix_b_4() {
        let ascending: Vec<u8> = (0..32).collect();
        for (bytes, sum) in [
            (&[0_u8; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (b"123456789", 0xe306_9283),
            (b"", 0),
        ] {
            assert_eq!(checksum(&[bytes]), sum);
        }
        assert_eq!(checksum(&[b"1234", b"", b"56789"]), 0xe306_9283);
    }
}
