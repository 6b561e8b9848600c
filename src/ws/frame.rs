//! Following frames by their headers as bytes pass.
//!
//! A [`FrameFollower`] stands in one direction of a relay. It never holds payload of data frames; it holds back only what
//! must be seen whole: a header that arrives in pieces, and control frames. So whenever it is not inside a data payload,
//! the other side stands between two frames, and a frame of our own may be put there.

use super::close_code::CloseCode;

/// RFC 6455, section 5.2: two bytes, up to eight of length, four of mask.
const MAX_HEADER: usize = 14;
/// RFC 6455, section 5.5: "All control frames MUST have a payload length of 125 bytes or less".
pub const MAX_CONTROL_PAYLOAD: usize = 125;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Its frames are masked.
    Client,
    /// Its frames are not.
    Upstream,
}

impl Sender {
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}

#[derive(Debug)]
pub struct FrameFollower {
    sender: Sender,
    state: State,
    messages: u64,
}

#[derive(Debug)]
enum State {
    Header { bytes: [u8; MAX_HEADER], have: u8 },
    Data { remaining: u64 },
    Control(Box<HeldControl>),
}

#[derive(Debug)]
struct HeldControl {
    wire: Vec<u8>,
    header: Header,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    first: u8,
    length: u64,
    header_length: usize,
    mask: Option<[u8; 4]>,
}

/// What is to go to the other side, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Bytes that pass as they are.
    Pass(&'a [u8]),
    Control(Control),
}

/// A whole control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    pub kind: ControlKind,
    /// Unmasked.
    pub payload: Vec<u8>,
    /// As it came.
    pub wire: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlKind {
    Close,
    Ping,
    Pong,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a client's frame is not masked")]
    Unmasked,
    #[error("an upstream's frame is masked")]
    Masked,
    #[error("a length with the highest bit set")]
    Length,
    #[error("a control frame that is fragmented or longer than 125 bytes")]
    Control,
}

impl FrameFollower {
    pub fn new(sender: Sender) -> Self {
        Self { sender, state: State::EMPTY, messages: 0 }
    }

    /// Does the other side stand between two frames?
    pub fn at_boundary(&self) -> bool {
        !matches!(self.state, State::Data { .. })
    }

    /// Payload of the data frame that is passing which has not come yet.
    pub fn remaining(&self) -> u64 {
        match self.state {
            State::Data { remaining } => remaining,
            _ => 0,
        }
    }

    /// Whole messages that have passed.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Takes in the next bytes of the direction. `out` gets what may go on, in order; neighbours are joined, so that
    /// a read full of data frames is one `Pass`.
    pub fn follow<'a>(&mut self, input: &'a [u8], mut out: impl FnMut(Segment<'a>)) -> Result<(), FrameError> {
        let mut rest = input;
        // `input[run..]` up to `rest` is passed but not handed out yet.
        let mut run = input;
        while !rest.is_empty() {
            match &mut self.state {
                State::Data { remaining } => {
                    let take = usize::try_from(*remaining).unwrap_or(usize::MAX).min(rest.len());
                    *remaining -= take as u64;
                    if *remaining == 0 {
                        self.state = State::EMPTY;
                    }
                    rest = rest.split_at(take).1;
                }
                State::Header { bytes, have } => {
                    let had = usize::from(*have);
                    let (wanted, complete) = gather_header(bytes, had, rest);
                    *have = wanted.1;
                    let used = wanted.0;
                    if !complete {
                        // Held back: everything before this header goes on.
                        let passed = run.len() - rest.len();
                        hand_out(run, passed, &mut out);
                        return Ok(());
                    }
                    let header_bytes = *bytes;
                    let header = Header::parse(&header_bytes, self.sender)?;
                    let (_, after) = rest.split_at(used);
                    if header.is_control() {
                        let passed = run.len() - rest.len();
                        hand_out(run, passed, &mut out);
                        let mut wire = Vec::with_capacity(header.header_length + usize::try_from(header.length).unwrap_or(0));
                        wire.extend(header_bytes.iter().take(header.header_length));
                        rest = after;
                        run = after;
                        self.state = State::Control(Box::new(HeldControl { wire, header }));
                        if header.length == 0 {
                            self.finish_control(&mut out);
                        }
                        continue;
                    }
                    if had > 0 {
                        // The header's first bytes came with an earlier read and were held back; they go out now.
                        out(Segment::Control(Control::header_in_pieces(&header_bytes, header.header_length)));
                        run = after;
                    }
                    rest = after;
                    self.messages += u64::from(header.first & 0x80 != 0);
                    self.state = if header.length == 0 { State::EMPTY } else { State::Data { remaining: header.length } };
                }
                State::Control(held) => {
                    let total = held.header.header_length + usize::try_from(held.header.length).unwrap_or(0);
                    let take = (total - held.wire.len()).min(rest.len());
                    let (now, after) = rest.split_at(take);
                    held.wire.extend_from_slice(now);
                    let complete = held.wire.len() == total;
                    rest = after;
                    run = after;
                    if complete {
                        self.finish_control(&mut out);
                    }
                }
            }
        }
        if !matches!(self.state, State::Control(_)) {
            hand_out(run, run.len(), &mut out);
        }
        Ok(())
    }

    fn finish_control<'a>(&mut self, out: &mut impl FnMut(Segment<'a>)) {
        if let State::Control(held) = std::mem::replace(&mut self.state, State::EMPTY) {
            out(Segment::Control(held.into_control()));
        }
    }
}

impl State {
    const EMPTY: Self = Self::Header { bytes: [0; MAX_HEADER], have: 0 };
}

fn hand_out<'a>(run: &'a [u8], length: usize, out: &mut impl FnMut(Segment<'a>)) {
    if length > 0 {
        out(Segment::Pass(run.split_at(length).0));
    }
}

/// Copies header bytes until the header is whole. Gives back (bytes used of `input`, bytes held now), and whether it is.
fn gather_header(bytes: &mut [u8; MAX_HEADER], had: usize, input: &[u8]) -> ((usize, u8), bool) {
    let mut have = had;
    for byte in input {
        if let Some(slot) = bytes.get_mut(have) {
            *slot = *byte;
            have += 1;
        }
        if have >= 2 && have == header_length(bytes[1]) {
            return ((have - had, have as u8), true);
        }
    }
    ((have - had, have as u8), false)
}

fn header_length(second: u8) -> usize {
    let length = match second & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    length + if second & 0x80 != 0 { 4 } else { 0 }
}

impl Header {
    fn parse(bytes: &[u8; MAX_HEADER], sender: Sender) -> Result<Self, FrameError> {
        let [first, second, rest @ ..] = *bytes;
        let masked = second & 0x80 != 0;
        match (sender, masked) {
            (Sender::Client, false) => return Err(FrameError::Unmasked),
            (Sender::Upstream, true) => return Err(FrameError::Masked),
            _ => {}
        }
        let [a, b, c, d, e, f, g, h, ..] = rest;
        let length = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([a, b])),
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            short => u64::from(short),
        };
        if length >> 63 != 0 {
            return Err(FrameError::Length);
        }
        let header_length = header_length(second);
        let mask = masked.then(|| {
            let at = header_length - 4;
            std::array::from_fn(|index| bytes.get(at + index).copied().unwrap_or(0))
        });
        let header = Self { first, length, header_length, mask };
        if header.is_control() && (first & 0x80 == 0 || length > MAX_CONTROL_PAYLOAD as u64) {
            return Err(FrameError::Control);
        }
        Ok(header)
    }

    fn is_control(&self) -> bool {
        self.first & 0x08 != 0
    }
}

impl HeldControl {
    fn into_control(self) -> Control {
        let mut payload: Vec<u8> = self.wire.iter().skip(self.header.header_length).copied().collect();
        if let Some(mask) = self.header.mask {
            apply_mask(&mut payload, mask);
        }
        let kind = match self.header.first & 0x0f {
            0x8 => ControlKind::Close,
            0x9 => ControlKind::Ping,
            0xa => ControlKind::Pong,
            _ => ControlKind::Other,
        };
        Control { kind, payload, wire: self.wire }
    }
}

impl Control {
    fn header_in_pieces(bytes: &[u8; MAX_HEADER], length: usize) -> Self {
        Self { kind: ControlKind::Other, payload: Vec::new(), wire: bytes.iter().take(length).copied().collect() }
    }

    /// The code of a close frame; 1005 stands for a frame without one.
    pub fn close_code(&self) -> CloseCode {
        match self.payload.as_slice() {
            [high, low, ..] => CloseCode(u16::from_be_bytes([*high, *low])),
            _ => CloseCode(1005),
        }
    }
}

fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// A ping for the client. `payload` is at most 125 bytes; more is cut.
pub fn ping(payload: &[u8]) -> Vec<u8> {
    control(0x9, payload, None)
}

/// A close frame; towards an upstream it is masked, as a client's frames are.
pub fn close(code: CloseCode, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut payload = code.0.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    control(0x8, &payload, mask)
}

fn control(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let payload = payload.split_at(payload.len().min(MAX_CONTROL_PAYLOAD)).0;
    let mut frame = Vec::with_capacity(6 + payload.len());
    frame.push(0x80 | opcode);
    frame.push(payload.len() as u8 | if mask.is_some() { 0x80 } else { 0 });
    let start = match mask {
        Some(mask) => {
            frame.extend_from_slice(&mask);
            6
        }
        None => 2,
    };
    frame.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(frame.split_at_mut(start).1, mask);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut frame = vec![first];
        let bit = if mask.is_some() { 0x80 } else { 0 };
        match payload.len() {
            n if n < 126 => frame.push(n as u8 | bit),
            n if n < 65536 => {
                frame.push(126 | bit);
                frame.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                frame.push(127 | bit);
                frame.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        frame.extend(mask.iter().flatten());
        let mut body = payload.to_vec();
        if let Some(mask) = mask {
            apply_mask(&mut body, mask);
        }
        frame.extend(body);
        frame
    }

    fn run(follower: &mut FrameFollower, pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<ControlKind>), FrameError> {
        let (mut wire, mut kinds) = (Vec::new(), Vec::new());
        for piece in pieces {
            follower.follow(piece, |segment| match segment {
                Segment::Pass(bytes) => wire.extend_from_slice(bytes),
                Segment::Control(control) => {
                    if control.kind != ControlKind::Other {
                        kinds.push(control.kind);
                    }
                    wire.extend_from_slice(&control.wire);
                }
            })?;
        }
        Ok((wire, kinds))
    }

    #[test]
    fn a_read_full_of_data_frames_is_one_pass() {
        let mut stream = data(0x81, b"hello", None);
        stream.extend(data(0x02, &[7; 300], None));
        stream.extend(data(0x80, &[8; 70_000], None));
        let mut follower = FrameFollower::new(Sender::Upstream);
        let mut segments = Vec::new();
        follower.follow(&stream, |segment| segments.push(segment)).unwrap();
        assert_eq!(segments, [Segment::Pass(&stream)]);
        assert_eq!(follower.messages(), 2);
    }

    #[test]
    fn a_close_frame_tells_its_code() {
        let frame = close(CloseCode::POLICY, "Session expired", Some([1, 2, 3, 4]));
        let mut follower = FrameFollower::new(Sender::Client);
        let mut seen = None;
        follower
            .follow(&frame, |segment| {
                if let Segment::Control(control) = segment {
                    seen = Some(control);
                }
            })
            .unwrap();
        let control = seen.unwrap();
        assert_eq!((control.kind, control.close_code()), (ControlKind::Close, CloseCode::POLICY));
        assert_eq!(&control.payload[2..], b"Session expired");
    }

    #[test]
    fn frames_that_cannot_be_followed_are_errors() {
        let long_ping = data(0x89, &[0; 126], None);
        let cases: [(Sender, &[u8], FrameError); 5] = [
            (Sender::Client, &[0x81, 0x00], FrameError::Unmasked),
            (Sender::Upstream, &[0x81, 0x80, 0, 0, 0, 0], FrameError::Masked),
            (Sender::Upstream, &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], FrameError::Length),
            (Sender::Upstream, &[0x09, 0x00], FrameError::Control),
            (Sender::Upstream, &long_ping, FrameError::Control),
        ];
        for (sender, bytes, error) in cases {
            assert_eq!(run(&mut FrameFollower::new(sender), &[bytes]), Err(error));
        }
    }

    proptest! {
        /// Whatever the frames and however the bytes are cut: the same bytes come out in the same order, the same control
        /// frames are seen, and at each cut the bytes that went out end between frames exactly when the follower says so.
        #[test]
        fn any_split_of_any_frames_passes_the_same_bytes(
            frames in prop::collection::vec((0u8..6, 0usize..400), 1..12),
            cuts in prop::collection::vec(0usize..2000, 0..20),
            from_client in any::<bool>(),
        ) {
            let sender = if from_client { Sender::Client } else { Sender::Upstream };
            let mask = from_client.then_some([9, 8, 7, 6]);
            let mut stream = Vec::new();
            let mut boundaries = vec![0];
            let mut kinds = Vec::new();
            for (choice, length) in frames {
                let frame = match choice {
                    0 => { kinds.push(ControlKind::Ping); data(0x89, &vec![1; length.min(125)], mask) }
                    1 => { kinds.push(ControlKind::Pong); data(0x8a, &vec![1; length.min(125)], mask) }
                    2 => data(0x01, &vec![2; length], mask),
                    3 => data(0x80, &vec![3; length * 200], mask),
                    _ => data(0x82, &vec![4; length], mask),
                };
                stream.extend(frame);
                boundaries.push(stream.len());
            }
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % (stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let mut follower = FrameFollower::new(sender);
            let (mut wire, mut seen) = (Vec::new(), Vec::new());
            for pair in cuts.windows(2) {
                let (more, more_kinds) = run(&mut follower, &[&stream[pair[0]..pair[1]]]).unwrap();
                wire.extend(more);
                seen.extend(more_kinds);
                prop_assert_eq!(follower.at_boundary(), boundaries.contains(&wire.len()));
            }
            prop_assert_eq!(wire, stream);
            prop_assert_eq!(seen, kinds);
        }
    }
}
