//! Follows frames by their headers while the bytes pass.
//!
//! A [`FrameFollower`] stands in one direction of a relay. It holds back only bytes that must be
//! seen whole: a header that arrives in pieces, control frames and, if it is told to, short
//! messages. Every other payload passes untouched. So it always knows whether the other side is
//! between two frames or between two messages, where Usher may insert a frame.

use super::close_code::CloseCode;
use super::frame::{ControlKind, FrameError, Header, MAX_HEADER, Opcode, Sender};
use super::mask;

#[derive(Debug)]
pub struct FrameFollower {
    sender: Sender,
    rules: FollowRules,
    state: State,
    /// The message that is under way, between its first and its last frame.
    message: Option<MessageUnderWay>,
    held: Option<Box<HeldMessage>>,
    messages: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowRules {
    /// Larger messages are an error.
    pub message_bytes: u64,
    /// Messages up to this size are held until they are whole, and returned as such.
    pub hold: Option<Hold>,
    /// Compressed messages are returned as payload, for the caller to inflate.
    pub takes_out_compressed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    pub most: usize,
    pub binary: bool,
}

impl FollowRules {
    pub const FOLLOW_ONLY: Self =
        Self { message_bytes: u64::MAX, hold: None, takes_out_compressed: false };
}

/// Where to stop, so that a frame can be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    Never,
    FrameEnd,
    MessageEnd,
}

/// The next part for the other side, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Bytes that pass as they are. Neighbours are joined: a read full of data frames is one
    /// `Pass`.
    Pass(&'a [u8]),
    /// The same, but held back before.
    Bytes(Vec<u8>),
    Control(Control),
    Message(HeldMessage),
    Compressed(Compressed),
}

/// A whole control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    pub kind: ControlKind,
    /// Unmasked.
    pub payload: Vec<u8>,
    /// The frame as it arrived.
    pub wire: Vec<u8>,
}

/// A whole message that was held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldMessage {
    pub is_text: bool,
    pub is_compressed: bool,
    /// Unmasked, and still compressed if it was.
    pub payload: Vec<u8>,
    /// The frames as they arrived.
    pub wire: Vec<u8>,
}

/// A piece of a compressed message.
#[derive(Debug, PartialEq, Eq)]
pub struct Compressed {
    /// Unmasked.
    pub bytes: Vec<u8>,
    pub is_text: bool,
    pub begins: bool,
    pub ends: bool,
}

enum Step<'a> {
    Out(Segment<'a>),
    NothingLeft,
    GoOn,
}

/// The most bytes of headers in one held message.
const MOST_HEADERS: usize = 4096;

#[derive(Debug)]
enum State {
    Between,
    /// The beginning of a header. The rest has not arrived.
    Header {
        bytes: [u8; MAX_HEADER],
        have: u8,
    },
    Data(Data),
    Control(Box<HeldControl>),
}

#[derive(Clone, Copy, Debug)]
struct Data {
    remaining: u64,
    length: u64,
    mask: Option<[u8; 4]>,
    is_final: bool,
}

#[derive(Debug)]
struct HeldControl {
    wire: Vec<u8>,
    header: Header,
}

#[derive(Clone, Copy, Debug)]
struct MessageUnderWay {
    fate: Fate,
    bytes: u64,
    is_text: bool,
    /// Nothing of a compressed message has been returned yet.
    begins: bool,
}

/// The handling of a message, decided at its first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    Held,
    TakenOut,
}

impl FrameFollower {
    pub fn new(sender: Sender, rules: FollowRules) -> Self {
        Self { sender, rules, state: State::Between, message: None, held: None, messages: 0 }
    }

    /// Sets which messages are held, from the next message on.
    pub fn set_hold(&mut self, hold: Option<Hold>) {
        self.rules.hold = hold;
    }

    /// Returns true if the other side is between two frames.
    pub fn at_frame_boundary(&self) -> bool {
        !matches!(
            (&self.state, &self.message),
            (State::Data(_), Some(MessageUnderWay { fate: Fate::Passes, .. }))
        )
    }

    /// Returns true if the other side is between two messages.
    pub fn at_message_boundary(&self) -> bool {
        self.message.is_none_or(|message| message.fate == Fate::Held)
    }

    /// Returns the number of whole messages that have arrived.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Takes bytes from the front of `input` and returns the next segment; `None` when all of
    /// `input` is taken.
    pub fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        pause: Pause,
    ) -> Result<Option<Segment<'a>>, FrameError> {
        loop {
            match self.step(input, pause)? {
                Step::Out(segment) => return Ok(Some(segment)),
                Step::NothingLeft => return Ok(None),
                Step::GoOn => {}
            }
        }
    }

    fn step<'a>(&mut self, input: &mut &'a [u8], pause: Pause) -> Result<Step<'a>, FrameError> {
        let whole = *input;
        // `whole[..whole.len() - rest.len()]` passes, and is returned in one piece.
        let mut rest = whole;
        loop {
            match &mut self.state {
                State::Data(_) => {
                    if rest.is_empty() {
                        break;
                    }
                    match self.fate() {
                        Fate::Passes => {
                            if self.advance(&mut rest).1 && self.is_a_place_to(pause) {
                                break;
                            }
                        }
                        // A frame that does not pass begins a step of its own.
                        Fate::Held => {
                            let (bytes, _) = self.advance(&mut rest);
                            *input = rest;
                            self.hold_bytes(bytes);
                            return Ok(self.take_whole_message().map_or(Step::GoOn, |message| {
                                Step::Out(Segment::Message(message))
                            }));
                        }
                        Fate::TakenOut => {
                            let segment = self.take_out(&mut rest);
                            *input = rest;
                            return Ok(Step::Out(segment));
                        }
                    }
                }
                State::Control(held) => {
                    let total = held.header.length
                        + usize::try_from(held.header.payload_length).unwrap_or(0);
                    let (now, after) = rest.split_at((total - held.wire.len()).min(rest.len()));
                    held.wire.extend_from_slice(now);
                    let complete = held.wire.len() == total;
                    *input = after;
                    return Ok(if complete { self.finish_control() } else { Step::NothingLeft });
                }
                State::Between => {
                    if rest.is_empty() {
                        break;
                    }
                    let header = match Header::parse(rest, self.sender) {
                        Ok(Some(header)) => header,
                        // The bytes before the fault pass first.
                        Err(_) if rest.len() < whole.len() => break,
                        Err(error) => return Err(error),
                        Ok(None) if rest.len() < whole.len() => break,
                        Ok(None) => {
                            let mut bytes = [0; MAX_HEADER];
                            bytes.iter_mut().zip(rest).for_each(|(slot, byte)| *slot = *byte);
                            self.state = State::Header { bytes, have: rest.len() as u8 };
                            *input = &[];
                            return Ok(Step::NothingLeft);
                        }
                    };
                    let passes = !header.is_control()
                        && self.held.is_none()
                        && self.fate_of(&header) == Ok(Fate::Passes);
                    if !passes && rest.len() < whole.len() {
                        break;
                    }
                    let (head, after) = rest.split_at(header.length);
                    if passes {
                        self.begin(&header, Fate::Passes);
                        rest = after;
                        if self.is_a_place_to(pause) && matches!(self.state, State::Between) {
                            break;
                        }
                        continue;
                    }
                    *input = after;
                    return self.enter(&header, head);
                }
                State::Header { bytes, have } => {
                    let had = usize::from(*have);
                    let missing =
                        Header::length_of(bytes.split_at(had).0).unwrap_or(2).saturating_sub(had);
                    let (now, after) = rest.split_at(missing.min(rest.len()));
                    bytes.iter_mut().skip(had).zip(now).for_each(|(slot, byte)| *slot = *byte);
                    *have += now.len() as u8;
                    *input = after;
                    let (bytes, have) = (*bytes, usize::from(*have));
                    let head = bytes.split_at(have).0;
                    return match Header::parse(head, self.sender)? {
                        Some(header) => self.enter(&header, head),
                        None if input.is_empty() => Ok(Step::NothingLeft),
                        None => Ok(Step::GoOn),
                    };
                }
            }
        }
        *input = rest;
        let (passed, _) = whole.split_at(whole.len() - rest.len());
        Ok(if passed.is_empty() { Step::NothingLeft } else { Step::Out(Segment::Pass(passed)) })
    }

    /// Handles a header that does not simply pass: of a control frame, of a message that is held or
    /// taken out, or one that arrived in pieces.
    fn enter<'a>(&mut self, header: &Header, head: &[u8]) -> Result<Step<'a>, FrameError> {
        if header.is_control() {
            let mut wire = Vec::with_capacity(
                header.length + usize::try_from(header.payload_length).unwrap_or(0),
            );
            wire.extend_from_slice(head);
            if header.control_kind() == ControlKind::Close && self.held.take().is_some() {
                // The held message will have no end, so it is dropped. Its beginning is gone: a
                // continuation behind the close frame is an error.
                self.message = None;
            }
            self.state = State::Control(Box::new(HeldControl { wire, header: *header }));
            return Ok(Step::GoOn);
        }
        let fate = self.fate_of(header)?;
        if fate != Fate::Held
            && let Some(held) = self.held.take()
        {
            // The message has grown too large to be held: all of it passes, or will be inflated.
            self.begin(header, fate);
            return Ok(Step::Out(match fate {
                Fate::TakenOut => self.compressed(
                    payload_of(&held.wire, self.sender),
                    header.payload_length == 0,
                    header.is_final(),
                ),
                _ => Segment::Bytes([&held.wire, head].concat()),
            }));
        }
        self.begin(header, fate);
        match fate {
            Fate::Passes => Ok(Step::Out(Segment::Bytes(head.to_vec()))),
            Fate::Held => {
                let held = self.held.get_or_insert_default();
                held.wire.extend_from_slice(head);
                if header.opcode() != Opcode::Continuation {
                    held.is_text = header.opcode() == Opcode::Text;
                    held.is_compressed = header.is_compressed();
                }
                Ok(self
                    .take_whole_message()
                    .map_or(Step::GoOn, |message| Step::Out(Segment::Message(message))))
            }
            Fate::TakenOut if header.payload_length == 0 => {
                Ok(Step::Out(self.compressed(Vec::new(), true, header.is_final())))
            }
            Fate::TakenOut => Ok(Step::GoOn),
        }
    }

    /// Returns the handling of the message that this frame begins or continues. Changes nothing.
    fn fate_of(&self, header: &Header) -> Result<Fate, FrameError> {
        let starts = header.opcode() != Opcode::Continuation;
        match &self.message {
            None if !starts => return Err(FrameError::Sequence),
            Some(_) if starts => return Err(FrameError::Sequence),
            _ => {}
        }
        let bytes =
            self.message.map_or(0, |message| message.bytes).saturating_add(header.payload_length);
        if bytes > self.rules.message_bytes {
            return Err(FrameError::TooBig);
        }
        Ok(match self.message {
            Some(MessageUnderWay { fate: Fate::Held, .. }) => {
                // A message of nothing but headers grows too.
                let wire = self.held.as_ref().map_or(0, |held| held.wire.len());
                let fits = self.rules.hold.is_some_and(|hold| {
                    bytes <= hold.most as u64 && wire <= hold.most + MOST_HEADERS
                });
                let is_compressed = self.held.as_ref().is_some_and(|held| held.is_compressed);
                match fits {
                    true => Fate::Held,
                    false if is_compressed && self.rules.takes_out_compressed => Fate::TakenOut,
                    false => Fate::Passes,
                }
            }
            Some(message) => message.fate,
            None if self.holds(header, bytes) => Fate::Held,
            None if header.is_compressed()
                && self.rules.takes_out_compressed
                && header.opcode() != Opcode::Reserved =>
            {
                Fate::TakenOut
            }
            None => Fate::Passes,
        })
    }

    fn holds(&self, header: &Header, bytes: u64) -> bool {
        self.rules.hold.is_some_and(|hold| {
            bytes <= hold.most as u64
                && (header.opcode() == Opcode::Text
                    || hold.binary && header.opcode() == Opcode::Binary)
        })
    }

    fn begin(&mut self, header: &Header, fate: Fate) {
        let message = self.message.get_or_insert(MessageUnderWay {
            fate,
            bytes: 0,
            is_text: header.opcode() == Opcode::Text,
            begins: true,
        });
        message.fate = fate;
        message.bytes = message.bytes.saturating_add(header.payload_length);
        let data = Data {
            remaining: header.payload_length,
            length: header.payload_length,
            mask: header.mask,
            is_final: header.is_final(),
        };
        if data.remaining > 0 {
            self.state = State::Data(data);
        } else if fate == Fate::TakenOut {
            // Its end is reported together with its piece.
            self.state = State::Between;
        } else {
            self.end_frame(data.is_final);
        }
    }

    fn end_frame(&mut self, is_final: bool) {
        self.state = State::Between;
        if is_final {
            self.messages += 1;
            self.message = None;
        }
    }

    fn fate(&self) -> Fate {
        self.message.map_or(Fate::Passes, |message| message.fate)
    }

    fn is_a_place_to(&self, pause: Pause) -> bool {
        match pause {
            Pause::Never => false,
            Pause::FrameEnd => true,
            Pause::MessageEnd => self.message.is_none(),
        }
    }

    /// Takes payload of the current frame. Returns true if the frame ends with it.
    fn advance<'a>(&mut self, rest: &mut &'a [u8]) -> (&'a [u8], bool) {
        let State::Data(data) = &mut self.state else { return (&[], false) };
        let take = usize::try_from(data.remaining).unwrap_or(usize::MAX).min(rest.len());
        let (bytes, after) = rest.split_at(take);
        *rest = after;
        data.remaining -= take as u64;
        let (ended, is_final) = (data.remaining == 0, data.is_final);
        if ended && self.fate() != Fate::TakenOut {
            self.end_frame(is_final);
        }
        (bytes, ended)
    }

    fn hold_bytes(&mut self, bytes: &[u8]) {
        let Some(held) = &mut self.held else { return };
        held.wire.extend_from_slice(bytes);
    }

    /// Returns the held message, if its last frame has arrived.
    fn take_whole_message(&mut self) -> Option<HeldMessage> {
        if self.message.is_some() || !matches!(self.state, State::Between) {
            return None;
        }
        let mut held = *self.held.take()?;
        held.payload = payload_of(&held.wire, self.sender);
        Some(held)
    }

    fn take_out<'a>(&mut self, rest: &mut &[u8]) -> Segment<'a> {
        let State::Data(data) = self.state else {
            return self.compressed(Vec::new(), false, false);
        };
        let (bytes, frame_ended) = self.advance(rest);
        let mut bytes = bytes.to_vec();
        if let Some(key) = data.mask {
            mask::apply(&mut bytes, key, data.length - data.remaining);
        }
        self.compressed(bytes, frame_ended, data.is_final)
    }

    /// Returns the next piece of the message that is taken out. The frame may end with it, and the
    /// message with the frame.
    fn compressed<'a>(&mut self, bytes: Vec<u8>, frame_ends: bool, is_final: bool) -> Segment<'a> {
        let begins =
            self.message.as_mut().is_some_and(|message| std::mem::take(&mut message.begins));
        let is_text = self.message.is_some_and(|message| message.is_text);
        if frame_ends {
            self.end_frame(is_final);
        }
        Segment::Compressed(Compressed { bytes, is_text, begins, ends: frame_ends && is_final })
    }

    fn finish_control<'a>(&mut self) -> Step<'a> {
        match std::mem::replace(&mut self.state, State::Between) {
            State::Control(held) => Step::Out(Segment::Control(held.into_control())),
            other => {
                self.state = other;
                Step::GoOn
            }
        }
    }
}

impl HeldControl {
    fn into_control(self) -> Control {
        let mut payload: Vec<u8> = self.wire.iter().skip(self.header.length).copied().collect();
        if let Some(key) = self.header.mask {
            mask::apply(&mut payload, key, 0);
        }
        Control { kind: self.header.control_kind(), payload, wire: self.wire }
    }
}

impl Control {
    /// Returns the code of a close frame; 1005 stands for a frame without one.
    pub fn close_code(&self) -> CloseCode {
        match self.payload.as_slice() {
            [high, low, ..] => CloseCode(u16::from_be_bytes([*high, *low])),
            _ => CloseCode(1005),
        }
    }
}

/// Returns the payloads of whole frames, one behind the other, unmasked.
fn payload_of(wire: &[u8], sender: Sender) -> Vec<u8> {
    let (mut payload, mut rest) = (Vec::with_capacity(wire.len()), wire);
    while let Ok(Some(header)) = Header::parse(rest, sender) {
        let after = rest.split_at(header.length).1;
        let length = usize::try_from(header.payload_length).unwrap_or(usize::MAX).min(after.len());
        let (bytes, next) = after.split_at(length);
        let start = payload.len();
        payload.extend_from_slice(bytes);
        if let Some(key) = header.mask {
            mask::apply(payload.split_at_mut(start).1, key, 0);
        }
        rest = next;
    }
    payload
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
