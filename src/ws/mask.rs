//! Masking of client frames (RFC 6455 section 5.3).

/// Masks or unmasks in place. `offset` is the number of payload bytes of the frame before these.
pub fn apply(bytes: &mut [u8], mask: [u8; 4], offset: u64) {
    let mut mask = mask;
    mask.rotate_left((offset % 4) as usize);
    let word = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let mut words = bytes.chunks_exact_mut(8);
    for chunk in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(eight) ^ word).to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_piece_of_a_payload_is_unmasked_as_the_whole_would_be() {
        let mask = [1, 20, 99, 250];
        let plain: Vec<u8> = (0..100).collect();
        let mut whole = plain.clone();
        whole.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        for cut in 0..plain.len() {
            let mut pieces = whole.clone();
            let (first, second) = pieces.split_at_mut(cut);
            apply(first, mask, 0);
            apply(second, mask, cut as u64);
            assert_eq!(pieces, plain);
        }
    }
}
