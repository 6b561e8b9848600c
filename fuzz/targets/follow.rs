//! The frame follower: it finds the same frames wherever the bytes are cut, and the same frames as
//! a simple reader of RFC 6455.

use super::cuts;
use usher::ws::follow::{FollowRules, FrameFollower, Hold, Pause, Segment};
use usher::ws::frame::{ControlKind, FrameError, Sender};

const RULES: [FollowRules; 5] = [
    FollowRules::FOLLOW_ONLY,
    FollowRules { message_bytes: 64, ..FollowRules::FOLLOW_ONLY },
    FollowRules { hold: Some(Hold { most: 24, binary: false }), ..FollowRules::FOLLOW_ONLY },
    FollowRules {
        message_bytes: 256,
        hold: Some(Hold { most: 24, binary: true }),
        takes_out_compressed: true,
    },
    FollowRules { takes_out_compressed: true, ..FollowRules::FOLLOW_ONLY },
];

pub fn run(bytes: &[u8]) {
    let ways = cuts::of(bytes);
    for sender in [Sender::Client, Sender::Upstream] {
        let (frames, is_whole) = frames(bytes, sender);
        check_boundaries(bytes, sender, &frames, is_whole);
        for rules in RULES {
            let whole = follow(&[bytes], sender, rules, Pause::Never);
            check_contents(&whole, sender, rules, &frames);
            for pieces in &ways {
                let cut = follow(pieces, sender, rules, Pause::Never);
                assert_eq!(cut, whole, "{rules:?}: what passes depends on where it is cut");
            }
            for pause in [Pause::FrameEnd, Pause::MessageEnd] {
                let paused = follow(&[bytes], sender, rules, pause);
                assert_eq!(paused, whole, "{rules:?}: a pause changes what passes");
            }
        }
    }
}

/// The bytes for the other side, and the events about them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// All bytes that are forwarded unchanged.
    wire: Vec<u8>,
    /// The events, each with the length of `wire` before it.
    events: Vec<(usize, Event)>,
    messages: u64,
    error: Option<FrameError>,
    at_frame_boundary: bool,
    at_message_boundary: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Control {
        kind: ControlKind,
        payload: Vec<u8>,
        wire: Vec<u8>,
    },
    Message {
        is_text: bool,
        is_compressed: bool,
        payload: Vec<u8>,
        wire: Vec<u8>,
    },
    /// Consecutive pieces are joined.
    Compressed {
        is_text: bool,
        bytes: Vec<u8>,
        begins: bool,
        ends: bool,
    },
}

fn follow(pieces: &[&[u8]], sender: Sender, rules: FollowRules, pause: Pause) -> Outcome {
    let mut follower = FrameFollower::new(sender, rules);
    let mut outcome = Outcome::default();
    'pieces: for piece in pieces {
        let mut rest = *piece;
        loop {
            match follower.next(&mut rest, pause) {
                Ok(Some(segment)) => outcome.take(segment),
                Ok(None) => break,
                Err(error) => {
                    outcome.error = Some(error);
                    break 'pieces;
                }
            }
        }
        assert!(rest.is_empty(), "bytes are left without an event");
    }
    outcome.messages = follower.messages();
    outcome.at_frame_boundary = follower.at_frame_boundary();
    outcome.at_message_boundary = follower.at_message_boundary();
    outcome
}

impl Outcome {
    fn take(&mut self, segment: Segment<'_>) {
        let at = self.wire.len();
        let event = match segment {
            Segment::Pass(bytes) => return self.wire.extend_from_slice(bytes),
            Segment::Bytes(bytes) => return self.wire.extend(bytes),
            Segment::Control(control) => {
                self.wire.extend_from_slice(&control.wire);
                let (kind, payload, wire) = (control.kind, control.payload, control.wire);
                Event::Control { kind, payload, wire }
            }
            Segment::Message(message) => {
                self.wire.extend_from_slice(&message.wire);
                Event::Message {
                    is_text: message.is_text,
                    is_compressed: message.is_compressed,
                    payload: message.payload,
                    wire: message.wire,
                }
            }
            Segment::Compressed(piece) => {
                if let Some((_, Event::Compressed { bytes, ends, .. })) = self.events.last_mut()
                    && !*ends
                {
                    assert!(!piece.begins, "a message begins inside another");
                    bytes.extend(piece.bytes);
                    *ends = piece.ends;
                    return;
                }
                let (is_text, bytes) = (piece.is_text, piece.bytes);
                Event::Compressed { is_text, bytes, begins: piece.begins, ends: piece.ends }
            }
        };
        self.events.push((at, event));
    }
}

/// Checks that the ends of frames and messages are known after each byte, and that a pause stops
/// there.
fn check_boundaries(bytes: &[u8], sender: Sender, frames: &[Frame], is_whole: bool) {
    let rules = FollowRules::FOLLOW_ONLY;
    let mut follower = FrameFollower::new(sender, rules);
    let faultless = frames.last().map_or(0, |frame| frame.end);
    for (at, byte) in (1..).zip(bytes) {
        let mut rest = std::slice::from_ref(byte);
        while let Ok(Some(_)) = follower.next(&mut rest, Pause::Never) {}
        if at > faultless {
            break;
        }
        let holds_it = |frame: &Frame| !frame.is_control() && (frame.body..frame.end).contains(&at);
        let in_frame = frames.iter().any(holds_it);
        assert_eq!(follower.at_frame_boundary(), !in_frame, "after byte {at}");
        let begun = frames.iter().rfind(|frame| !frame.is_control() && frame.body <= at);
        let in_message = begun.is_some_and(|frame| at < frame.end || !frame.is_final());
        assert_eq!(follower.at_message_boundary(), !in_message, "after byte {at}");
    }
    let error = follow(&[bytes], sender, rules, Pause::Never).error;
    assert_eq!(error.is_none(), is_whole, "{error:?}: two readings of what is a frame");

    let ends: Vec<_> = frames.iter().filter(|frame| !frame.is_control()).collect();
    for pause in [Pause::FrameEnd, Pause::MessageEnd] {
        let mut follower = FrameFollower::new(sender, rules);
        let (mut rest, mut at) = (bytes, 0);
        while let Ok(Some(segment)) = follower.next(&mut rest, pause) {
            let length = match &segment {
                Segment::Pass(bytes) => bytes.len(),
                Segment::Bytes(bytes) => bytes.len(),
                Segment::Control(control) => control.wire.len(),
                other => panic!("nothing is held and nothing inflated: {other:?}"),
            };
            let passed = at + 1..at + length;
            let ends_there = |frame: &&Frame| {
                passed.contains(&frame.end) && (pause == Pause::FrameEnd || frame.is_final())
            };
            assert!(!ends.iter().any(ends_there), "{pause:?}: no stop in {passed:?}");
            at += length;
        }
    }
}

fn check_contents(outcome: &Outcome, sender: Sender, rules: FollowRules, frames: &[Frame]) {
    let mut compressed = Vec::new();
    for (at, event) in &outcome.events {
        match event {
            Event::Control { payload, wire, .. } => {
                let (read, is_whole) = self::frames(wire, sender);
                assert!(is_whole && read.len() == 1 && read[0].is_control());
                assert_eq!(&read[0].payload, payload, "two readings of a control frame");
                assert!(outcome.wire[*at..].starts_with(wire));
            }
            Event::Message { is_text, is_compressed, payload, wire } => {
                let hold = rules.hold.expect("nothing is held without a rule");
                assert!(payload.len() <= hold.most, "a message that is too long was held");
                let (read, is_whole) = self::frames(wire, sender);
                assert!(is_whole && read.last().is_some_and(Frame::is_final));
                assert_eq!(&payload_of(&read), payload, "two readings of a message");
                assert_eq!(*is_text, read[0].opcode() == 1);
                assert_eq!(*is_compressed, read[0].first & 0x40 != 0);
            }
            Event::Compressed { bytes, begins, ends, .. } => {
                assert!(rules.takes_out_compressed);
                match compressed.last_mut() {
                    Some((whole, ended @ false)) if !begins => {
                        let whole: &mut Vec<u8> = whole;
                        whole.extend_from_slice(bytes);
                        *ended = *ends;
                    }
                    _ => compressed.push((bytes.clone(), *ends)),
                }
            }
        }
    }
    if rules.takes_out_compressed && rules.hold.is_none() {
        let data: Vec<_> = frames.iter().filter(|frame| !frame.is_control()).cloned().collect();
        let messages = data.split_inclusive(Frame::is_final).filter(|message| {
            let first = &message[0];
            let is_ended = message.last().is_some_and(Frame::is_final);
            is_ended && first.first & 0x40 != 0 && first.opcode() < 3
        });
        let expected: Vec<_> = messages.map(payload_of).collect();
        let whole = compressed.into_iter().filter(|(_, ended)| *ended).map(|(bytes, _)| bytes);
        assert_eq!(whole.collect::<Vec<_>>(), expected, "two readings of compressed messages");
    }
}

/// A whole frame of the simple reader.
#[derive(Clone, Debug)]
struct Frame {
    first: u8,
    /// The place where the payload begins.
    body: usize,
    /// The place where the payload ends.
    end: usize,
    /// The unmasked payload.
    payload: Vec<u8>,
}

impl Frame {
    fn is_control(&self) -> bool {
        self.opcode() >= 8
    }

    fn is_final(&self) -> bool {
        self.first & 0x80 != 0
    }

    fn opcode(&self) -> u8 {
        self.first & 0x0f
    }
}

fn payload_of(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.payload.clone()).collect()
}

/// Returns the whole frames up to the first one that RFC 6455 section 5 forbids, and false if there
/// is such a frame.
fn frames(bytes: &[u8], sender: Sender) -> (Vec<Frame>, bool) {
    let mut frames: Vec<Frame> = Vec::new();
    let mut in_message = false;
    loop {
        let start = frames.last().map_or(0, |frame| frame.end);
        let [first, second, rest @ ..] = &bytes[start..] else { return (frames, true) };
        let is_masked = second >> 7 == 1;
        if is_masked != (sender == Sender::Client) {
            return (frames, false);
        }
        let wide = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let header = 2 + wide + if is_masked { 4 } else { 0 };
        if bytes.len() < start + header {
            return (frames, true);
        }
        let number = rest[..wide].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let length = if wide == 0 { u64::from(second & 0x7f) } else { number };
        let is_control = first & 0x08 != 0;
        let is_final = first & 0x80 != 0;
        let continues = first & 0x0f == 0;
        if length >> 63 == 1
            || is_control && (!is_final || length > 125)
            || !is_control && continues != in_message
        {
            return (frames, false);
        }
        if !is_control {
            in_message = !is_final;
        }
        let body = start + header;
        let Some(end) = usize::try_from(length).ok().and_then(|length| body.checked_add(length))
        else {
            return (frames, true);
        };
        let Some(payload) = bytes.get(body..end) else { return (frames, true) };
        let mask = if is_masked { &bytes[body - 4..body] } else { &[0][..] };
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key);
        let payload = payload.collect();
        frames.push(Frame { first: *first, body, end, payload });
    }
}
