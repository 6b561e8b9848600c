//! Follows the frames that go to a client, without I/O, and counts the streams that the HTTP/2
//! library resets because the client broke the protocol in them.
//!
//! The library reads a head before Usher does. It resets the stream of a malformed one, and does
//! not report it.

const HEADER: usize = 9;
const RST_STREAM: u8 = 3;
/// The header of a RST_STREAM frame, and its error code.
const WHOLE_RESET: usize = HEADER + 4;
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

#[derive(Debug, Default)]
pub struct SentResets {
    /// The header of the current frame. That of a reset is followed by its code.
    frame: [u8; WHOLE_RESET],
    read: usize,
    /// Bytes of the current frame that follow and do not matter.
    rest: usize,
}

impl SentResets {
    /// Follows bytes. Returns how many resets for a broken rule ended in them.
    pub fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut unread = bytes;
        let mut found = 0;
        while !unread.is_empty() {
            if self.rest > 0 {
                let count = unread.len().min(self.rest);
                self.rest -= count;
                unread = unread.split_at(count).1;
                continue;
            }
            let wanted = if self.is_in_reset() { WHOLE_RESET } else { HEADER };
            let count = unread.len().min(wanted - self.read);
            let (piece, behind) = unread.split_at(count);
            for (to, from) in self.frame.iter_mut().skip(self.read).zip(piece) {
                *to = *from;
            }
            self.read += count;
            unread = behind;
            if self.read == WHOLE_RESET {
                found += usize::from(self.frame.ends_with(&PROTOCOL_ERROR));
                self.read = 0;
            } else if self.read == HEADER && !self.is_in_reset() {
                let [high, middle, low, ..] = self.frame;
                self.rest = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.read = 0;
            }
        }
        found
    }

    fn is_in_reset(&self) -> bool {
        self.read >= HEADER && matches!(self.frame, [0, 0, 4, RST_STREAM, ..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_for_a_broken_rule_are_counted_at_every_split() {
        let reset = |code| [0, 0, 4, RST_STREAM, 0, 0, 0, 0, 5, 0, 0, 0, code];
        let data = [0, 0, 13, 0, 0, 0, 0, 0, 1, 0, 0, 4, 3, 0, 0, 0, 0, 5, 0, 0, 0, 1];
        let empty = [0, 0, 0, 4, 1, 0, 0, 0, 0];
        let wire = [&data[..], &reset(1), &reset(8), &empty, &reset(1), &data, &reset(7)].concat();
        for split in 0..wire.len() {
            let mut resets = SentResets::default();
            let (first, second) = wire.split_at(split);
            assert_eq!(resets.follow(first) + resets.follow(second), 2, "{split}");
        }
        let mut resets = SentResets::default();
        assert_eq!(wire.chunks(1).map(|byte| resets.follow(byte)).sum::<usize>(), 2);
    }
}
