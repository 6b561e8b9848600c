//! Cuts bytes into pieces, like a network.
//!
//! The same bytes are always cut at the same places, so that a finding can be reproduced.

/// Up to this length, every place is used for a single cut.
const SHORT: usize = 40;
const PLACES_IN_LONG: usize = 8;

/// Returns several lists of pieces. The pieces of each list together are `bytes`: single bytes, two
/// pieces, or four pieces.
pub fn of(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut random = seed(bytes);
    let mut place = || {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize % (bytes.len() + 1)
    };
    let mut ways: Vec<Vec<&[u8]>> = vec![bytes.chunks(1).collect()];
    if bytes.len() <= SHORT {
        ways.extend((0..=bytes.len()).map(|at| at_places(bytes, &mut [at])));
    } else {
        ways.extend((0..PLACES_IN_LONG).map(|_| at_places(bytes, &mut [place()])));
    }
    ways.push(at_places(bytes, &mut [place(), place(), place()]));
    ways
}

/// Returns a number that depends on all bytes (FNV-1a).
pub fn seed(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

fn at_places<'a>(bytes: &'a [u8], places: &mut [usize]) -> Vec<&'a [u8]> {
    places.sort_unstable();
    let ends = places.iter().copied().chain([bytes.len()]);
    let mut start = 0;
    ends.map(|end| &bytes[std::mem::replace(&mut start, end)..end]).collect()
}
