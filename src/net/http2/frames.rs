//! Follows the frames of a client, without I/O, and counts those that cost Usher work and the
//! client nothing.
//!
//! Only the nine bytes of each frame header are read (RFC 9113 section 4.1). A frame that breaks a
//! rule of the protocol is left to the HTTP/2 library.

use tokio::time::Instant;

use crate::base::clock::Now;
use crate::base::rate::Rate;

/// RFC 9113 section 3.4: the client's first bytes.
const PREFACE: usize = 24;
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A DATA frame with fewer bytes costs more memory than its bytes.
const SMALL: usize = 256;
/// The most small frames that are passed on in one turn.
const SMALL_AT_ONCE: usize = 128;
/// The most CONTINUATION frames of one head: the smallest legal frames of a full head are far
/// larger.
const MOST_CONTINUATIONS: usize = 16;
/// A client may send one WINDOW_UPDATE for this many bytes from Usher without a count.
const BYTES_PER_UPDATE: usize = 8;
/// The most updates that a client may save up.
const MOST_UPDATES: usize = 64 * 1024;

/// The bound that the frames of a client have exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    Resets,
    ControlFrames,
    /// One head in too many frames, or too many bytes.
    Head,
}

#[derive(Debug)]
pub struct FrameWatch {
    preface: usize,
    header: [u8; HEADER],
    header_read: usize,
    /// Bytes of the current frame that have not arrived.
    payload: usize,
    kind: u8,
    /// The head that is arriving: its CONTINUATION frames and bytes so far.
    head: Option<(usize, usize)>,
    most_head: usize,
    resets: Bucket,
    controls: Bucket,
    updates: usize,
    /// Small frames in this turn.
    small: usize,
}

/// A token bucket of one connection.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Option<Instant>,
}

impl FrameWatch {
    /// `most_head` bounds the bytes of one encoded head.
    pub fn new(most_head: usize, resets: Rate, controls: Rate) -> Self {
        Self {
            preface: PREFACE,
            header: [0; HEADER],
            header_read: 0,
            payload: 0,
            kind: DATA,
            head: None,
            most_head,
            resets: Bucket::new(resets),
            controls: Bucket::new(controls),
            updates: MOST_UPDATES / 64,
            small: 0,
        }
    }

    /// Follows bytes. Returns how many may be passed on in this turn: fewer than all if many small
    /// frames are among them.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Excess> {
        let mut rest = bytes;
        while !rest.is_empty() && self.small < SMALL_AT_ONCE {
            let waiting = if self.preface > 0 { &mut self.preface } else { &mut self.payload };
            if *waiting > 0 {
                let count = rest.len().min(*waiting);
                *waiting -= count;
                rest = rest.split_at(count).1;
                continue;
            }
            let count = rest.len().min(HEADER - self.header_read);
            let (piece, behind) = rest.split_at(count);
            for (to, from) in self.header.iter_mut().skip(self.header_read).zip(piece) {
                *to = *from;
            }
            self.header_read += count;
            rest = behind;
            if self.header_read == HEADER {
                self.header_read = 0;
                self.begin_frame()?;
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Returns true if so many small frames were passed on that the tasks of the streams should
    /// read theirs first.
    pub fn is_turn_over(&self) -> bool {
        self.small >= SMALL_AT_ONCE
    }

    pub fn begin_turn(&mut self) {
        self.small = 0;
    }

    /// Notes bytes that were sent to the client, which it may answer with window updates.
    pub fn note_sent(&mut self, bytes: usize) {
        self.updates = (self.updates + bytes / BYTES_PER_UPDATE).min(MOST_UPDATES);
    }

    /// Returns true if a head has begun and is not whole.
    pub fn is_in_head(&self) -> bool {
        self.head.is_some() || (matches!(self.kind, HEADERS | CONTINUATION) && self.payload > 0)
    }

    fn begin_frame(&mut self) -> Result<(), Excess> {
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.payload = length;
        self.kind = kind;
        match kind {
            DATA if length < SMALL && (length > 0 || flags & END_STREAM == 0) => self.small += 1,
            DATA => {}
            HEADERS => self.continue_head(0, length, flags)?,
            CONTINUATION => {
                // Without an open head it is an error, which the library reports.
                if let Some((frames, before)) = self.head {
                    self.continue_head(frames + 1, before + length, flags)?;
                }
            }
            RST_STREAM => self.resets.take().map_err(|()| Excess::Resets)?,
            WINDOW_UPDATE if self.updates > 0 => self.updates -= 1,
            _ => self.controls.take().map_err(|()| Excess::ControlFrames)?,
        }
        Ok(())
    }

    fn continue_head(&mut self, frames: usize, bytes: usize, flags: u8) -> Result<(), Excess> {
        if frames > MOST_CONTINUATIONS || bytes > self.most_head {
            return Err(Excess::Head);
        }
        self.head = (flags & END_HEADERS == 0).then_some((frames, bytes));
        Ok(())
    }
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, tokens: f64::from(rate.count), at: None }
    }

    fn take(&mut self) -> Result<(), ()> {
        let now = Now::read().mono;
        let full = f64::from(self.rate.count);
        if let Some(at) = self.at {
            let per_second = full / self.rate.per.as_secs_f64().max(0.001);
            let gained = now.saturating_duration_since(at).as_secs_f64() * per_second;
            self.tokens = (self.tokens + gained).min(full);
        }
        self.at = Some(now);
        if self.tokens < 1.0 {
            return Err(());
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RATE: Rate = Rate { count: 5, per: Duration::from_secs(10) };

    fn watch() -> FrameWatch {
        let mut watch = FrameWatch::new(1000, RATE, RATE);
        watch.updates = 2;
        assert_eq!(watch.advance(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Ok(PREFACE));
        watch
    }

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [_, high, middle, low] = u32::try_from(length).unwrap().to_be_bytes();
        let mut wire = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        wire.resize(HEADER + length, 0xff);
        wire
    }

    fn after(watch: &mut FrameWatch, wire: &[u8], times: usize) -> Result<(), Excess> {
        for _ in 0..times {
            watch.advance(wire)?;
        }
        Ok(())
    }

    #[test]
    fn each_kind_of_frame_has_its_bound() {
        for kind in [2, 4, 5, 6, 7, 0x10, 0xff] {
            let wire = frame(kind, 0, 6);
            assert_eq!(after(&mut watch(), &wire, 5), Ok(()), "{kind}");
            assert_eq!(after(&mut watch(), &wire, 6), Err(Excess::ControlFrames), "{kind}");
        }
        let reset = frame(RST_STREAM, 0, 4);
        assert_eq!(after(&mut watch(), &reset, 5), Ok(()));
        assert_eq!(after(&mut watch(), &reset, 6), Err(Excess::Resets));
        let data = frame(DATA, 0, 300);
        assert_eq!(after(&mut watch(), &data, 10_000), Ok(()));
    }

    #[test]
    fn a_window_update_is_free_where_it_answers_bytes() {
        let update = frame(WINDOW_UPDATE, 0, 4);
        assert_eq!(after(&mut watch(), &update, 7), Ok(()));
        assert_eq!(after(&mut watch(), &update, 8), Err(Excess::ControlFrames));
        let mut fed = watch();
        for _ in 0..100 {
            fed.note_sent(2 * BYTES_PER_UPDATE);
            assert_eq!(after(&mut fed, &update, 2), Ok(()));
        }
    }

    #[test]
    fn a_head_is_bounded_in_frames_and_bytes() {
        let (begins, goes_on) = (frame(HEADERS, 0, 10), frame(CONTINUATION, 0, 1));
        let mut head = watch();
        assert!(!head.is_in_head());
        after(&mut head, &begins, 1).unwrap();
        assert_eq!(after(&mut head, &goes_on, MOST_CONTINUATIONS), Ok(()));
        assert!(head.is_in_head());
        assert_eq!(after(&mut head, &goes_on, 1), Err(Excess::Head));
        assert_eq!(after(&mut watch(), &frame(HEADERS, END_HEADERS, 1001), 1), Err(Excess::Head));
        let mut large = watch();
        after(&mut large, &frame(HEADERS, 0, 600), 1).unwrap();
        assert_eq!(after(&mut large, &frame(CONTINUATION, END_HEADERS, 600), 1), Err(Excess::Head));
        let mut whole = watch();
        after(&mut whole, &begins, 1).unwrap();
        after(&mut whole, &frame(CONTINUATION, END_HEADERS, 10), 1).unwrap();
        assert!(!whole.is_in_head());
    }

    #[test]
    fn frames_are_followed_at_every_split() {
        let wire = [frame(HEADERS, END_HEADERS, 20), frame(DATA, 0, 3), frame(6, 0, 8)].concat();
        for split in 0..wire.len() {
            let mut watch = watch();
            let (first, second) = wire.split_at(split);
            assert_eq!(watch.advance(first), Ok(first.len()));
            assert_eq!(watch.advance(second), Ok(second.len()));
            assert_eq!((watch.header_read, watch.payload), (0, 0));
            assert!((watch.controls.tokens - 4.0).abs() < 0.1);
        }
    }

    #[test]
    fn small_frames_are_passed_on_in_turns() {
        let wire = frame(DATA, 0, 1).repeat(SMALL_AT_ONCE + 10);
        let mut watch = watch();
        let first = watch.advance(&wire).unwrap();
        // The payload of the last frame follows in the next turn.
        assert_eq!(first, SMALL_AT_ONCE * (HEADER + 1) - 1);
        assert!(watch.is_turn_over());
        watch.begin_turn();
        assert_eq!(watch.advance(&wire[first..]), Ok(wire.len() - first));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_is_a_rate() {
        let mut watch = watch();
        let reset = frame(RST_STREAM, 0, 4);
        assert_eq!(after(&mut watch, &reset, 5), Ok(()));
        tokio::time::advance(RATE.per).await;
        assert_eq!(after(&mut watch, &reset, 5), Ok(()));
        assert_eq!(after(&mut watch, &reset, 1), Err(Excess::Resets));
    }
}
