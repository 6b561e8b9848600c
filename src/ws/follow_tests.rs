use proptest::prelude::*;

use super::*;
use crate::ws::frame;

const MASK: [u8; 4] = [9, 8, 7, 6];

fn framed(first: u8, payload: &[u8], sender: Sender) -> Vec<u8> {
    let bit = if sender == Sender::Client { 0x80 } else { 0 };
    let mut wire = vec![first];
    match payload.len() {
        n if n < 126 => wire.push(n as u8 | bit),
        n if n < 65_536 => {
            wire.push(126 | bit);
            wire.extend((n as u16).to_be_bytes());
        }
        n => {
            wire.push(127 | bit);
            wire.extend((n as u64).to_be_bytes());
        }
    }
    let mut payload = payload.to_vec();
    if sender == Sender::Client {
        wire.extend(MASK);
        mask::apply(&mut payload, MASK, 0);
    }
    wire.extend(payload);
    wire
}

/// The bytes that passed, in order, and the parts of them that were seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct FollowResult {
    wire: Vec<u8>,
    kinds: Vec<ControlKind>,
    messages: Vec<Vec<u8>>,
    /// (text, payload) of each message that was taken out.
    taken: Vec<(bool, Vec<u8>)>,
}

fn follow(
    follower: &mut FrameFollower,
    pieces: &[&[u8]],
    pause: Pause,
    seen: &mut FollowResult,
) -> Result<(), FrameError> {
    for piece in pieces {
        let mut rest = *piece;
        while let Some(segment) = follower.next(&mut rest, pause)? {
            match segment {
                Segment::Pass(bytes) => seen.wire.extend_from_slice(bytes),
                Segment::Bytes(bytes) => seen.wire.extend(bytes),
                Segment::Control(control) => {
                    seen.kinds.push(control.kind);
                    seen.wire.extend(control.wire);
                }
                Segment::Message(message) => {
                    seen.messages.push(message.payload);
                    seen.wire.extend(message.wire);
                }
                Segment::Compressed(piece) => {
                    if piece.begins {
                        seen.taken.push((piece.is_text, Vec::new()));
                    }
                    seen.taken.last_mut().unwrap().1.extend(piece.bytes);
                }
            }
        }
        assert!(rest.is_empty());
    }
    Ok(())
}

#[test]
fn a_read_full_of_data_frames_is_one_pass() {
    let mut stream = framed(0x81, b"hello", Sender::Upstream);
    stream.extend(framed(0x02, &[7; 300], Sender::Upstream));
    stream.extend(framed(0x80, &[8; 70_000], Sender::Upstream));
    let mut follower = FrameFollower::new(Sender::Upstream, FollowRules::FOLLOW_ONLY);
    let mut rest = &stream[..];
    assert_eq!(follower.next(&mut rest, Pause::Never), Ok(Some(Segment::Pass(&stream))));
    assert_eq!(follower.next(&mut rest, Pause::Never), Ok(None));
    assert_eq!(follower.messages(), 2);
}

#[test]
fn a_close_frame_tells_its_code() {
    let wire = frame::close(CloseCode::POLICY, "Session expired", Sender::Client);
    let mut follower = FrameFollower::new(Sender::Client, FollowRules::FOLLOW_ONLY);
    match follower.next(&mut &wire[..], Pause::Never) {
        Ok(Some(Segment::Control(control))) => {
            assert_eq!(
                (control.kind, control.close_code()),
                (ControlKind::Close, CloseCode::POLICY)
            );
            assert_eq!(&control.payload[2..], b"Session expired");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_that_cannot_be_followed_are_errors_and_what_came_before_passes() {
    let long_ping = framed(0x89, &[0; 126], Sender::Upstream);
    let cases: [(Sender, &[u8], FrameError); 7] = [
        (Sender::Client, &[0x81, 0x00], FrameError::Unmasked),
        (Sender::Upstream, &[0x81, 0x80, 0, 0, 0, 0], FrameError::Masked),
        (Sender::Upstream, &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], FrameError::Length),
        (Sender::Upstream, &[0x09, 0x00], FrameError::Control),
        (Sender::Upstream, &long_ping, FrameError::Control),
        (Sender::Upstream, &[0x80, 0x00], FrameError::Sequence),
        (Sender::Upstream, &[0x01, 0x00, 0x01, 0x00], FrameError::Sequence),
    ];
    for (sender, bytes, error) in cases {
        let good = framed(0x81, b"good", sender);
        let mut seen = FollowResult::default();
        let mut follower = FrameFollower::new(sender, FollowRules::FOLLOW_ONLY);
        assert_eq!(
            follow(&mut follower, &[&[&good, bytes].concat()], Pause::Never, &mut seen),
            Err(error)
        );
        assert!(seen.wire.starts_with(&good), "{error}");
    }
}

#[test]
fn a_message_that_is_too_big_is_refused_by_its_header() {
    let rules = FollowRules { message_bytes: 10, ..FollowRules::FOLLOW_ONLY };
    let small = framed(0x81, &[0; 10], Sender::Client);
    let fragments =
        [framed(0x01, &[0; 6], Sender::Client), framed(0x80, &[0; 5], Sender::Client)].concat();
    let mut seen = FollowResult::default();
    let mut follower = FrameFollower::new(Sender::Client, rules);
    follow(&mut follower, &[&small], Pause::Never, &mut seen).unwrap();
    assert_eq!(
        follow(&mut follower, &[&fragments], Pause::Never, &mut seen),
        Err(FrameError::TooBig)
    );
    // Of the second message, only the bytes before the header that exceeds the limit.
    assert_eq!(seen.wire, [&small[..], &fragments[..12]].concat());
}

#[test]
fn a_held_message_that_grows_too_large_passes_whole() {
    let rules =
        FollowRules { hold: Some(Hold { most: 100, binary: false }), ..FollowRules::FOLLOW_ONLY };
    let stream = [
        framed(0x01, &[1; 60], Sender::Client),
        framed(0x00, &[2; 60], Sender::Client),
        framed(0x80, b"end", Sender::Client),
    ]
    .concat();
    let mut seen = FollowResult::default();
    follow(&mut FrameFollower::new(Sender::Client, rules), &[&stream], Pause::Never, &mut seen)
        .unwrap();
    assert_eq!((seen.wire, seen.messages.len()), (stream, 0));
}

#[test]
fn a_million_empty_fragments_hold_nothing_that_grows() {
    let rules =
        FollowRules { hold: Some(Hold { most: 100, binary: false }), ..FollowRules::FOLLOW_ONLY };
    let mut follower = FrameFollower::new(Sender::Client, rules);
    let first = framed(0x01, b"", Sender::Client);
    let fragments = framed(0x00, b"", Sender::Client).repeat(10_000);
    let mut seen = FollowResult::default();
    follow(&mut follower, &[&first], Pause::Never, &mut seen).unwrap();
    for _ in 0..100 {
        follow(&mut follower, &[&fragments], Pause::Never, &mut seen).unwrap();
        assert!(follower.held.as_ref().is_none_or(|held| held.wire.len() < 8192));
    }
    assert_eq!(seen.wire.len(), first.len() + 100 * fragments.len());
}

#[test]
fn a_continuation_behind_a_close_frame_is_no_message_by_itself() {
    let close = framed(0x88, b"", Sender::Client);
    let end = framed(0x80, b"{\"type\":\"auth\"}", Sender::Client);
    let stream = [framed(0x01, b"{", Sender::Client), close.clone(), end].concat();
    let rules =
        FollowRules { hold: Some(Hold { most: 100, binary: true }), ..FollowRules::FOLLOW_ONLY };
    let mut follower = FrameFollower::new(Sender::Client, rules);
    let mut seen = FollowResult::default();
    let outcome = follow(&mut follower, &[&stream], Pause::Never, &mut seen);
    assert_eq!((outcome, seen.wire, seen.messages.len()), (Err(FrameError::Sequence), close, 0));
}

#[test]
fn what_is_held_when_a_close_frame_comes_is_no_message_and_goes_nowhere() {
    let rules =
        FollowRules { hold: Some(Hold { most: 100, binary: false }), ..FollowRules::FOLLOW_ONLY };
    let close = framed(0x88, b"", Sender::Client);
    let mut seen = FollowResult::default();
    let stream = [framed(0x01, b"{\"type\":\"auth\"}", Sender::Client), close.clone()].concat();
    follow(&mut FrameFollower::new(Sender::Client, rules), &[&stream], Pause::Never, &mut seen)
        .unwrap();
    assert_eq!((seen.wire, seen.messages.len()), (close, 0));
}

#[test]
fn a_held_compressed_message_that_grows_too_large_is_taken_out_whole() {
    let rules = FollowRules {
        hold: Some(Hold { most: 100, binary: false }),
        takes_out_compressed: true,
        ..FollowRules::FOLLOW_ONLY
    };
    for last in [&b"end"[..], b""] {
        let stream = [
            framed(0x41, &[1; 60], Sender::Client),
            framed(0x00, &[2; 60], Sender::Client),
            framed(0x80, last, Sender::Client),
        ]
        .concat();
        for cut in 0..=stream.len() {
            let (first, second) = stream.split_at(cut);
            let mut seen = FollowResult::default();
            let mut follower = FrameFollower::new(Sender::Client, rules);
            follow(&mut follower, &[first, second], Pause::Never, &mut seen).unwrap();
            assert_eq!(
                seen.taken,
                [(true, [&[1; 60][..], &[2; 60], last].concat())],
                "cut at {cut}"
            );
            assert_eq!((seen.wire.len(), follower.messages()), (0, 1));
        }
    }
    // The frame that exceeds the limit is empty, and the last one.
    let wire = framed(0x00, b"", Sender::Client).repeat(1000);
    let stream =
        [framed(0x41, &[1; 60], Sender::Client), wire, framed(0x80, b"", Sender::Client)].concat();
    let mut seen = FollowResult::default();
    follow(&mut FrameFollower::new(Sender::Client, rules), &[&stream], Pause::Never, &mut seen)
        .unwrap();
    assert_eq!(seen.taken, [(true, vec![1; 60])]);
    assert!(seen.wire.is_empty());
}

/// A stream of whole messages, some in fragments with pings between, and its parts.
#[derive(Debug)]
struct Stream {
    wire: Vec<u8>,
    frame_ends: Vec<usize>,
    message_ends: Vec<usize>,
    kinds: Vec<ControlKind>,
    texts: Vec<Vec<u8>>,
}

fn stream(choices: Vec<(u8, usize, usize)>, sender: Sender) -> Stream {
    let mut made = Stream {
        wire: Vec::new(),
        frame_ends: vec![0],
        message_ends: vec![0],
        kinds: Vec::new(),
        texts: Vec::new(),
    };
    for (number, (choice, length, fragments)) in choices.into_iter().enumerate() {
        if choice == 0 {
            made.kinds.push(ControlKind::Ping);
            made.wire.extend(framed(0x89, &vec![1; length.min(125)], sender));
            made.frame_ends.push(made.wire.len());
            made.message_ends.push(made.wire.len());
            continue;
        }
        let opcode = if choice == 1 { 2 } else { 1 };
        let mut whole = Vec::new();
        for index in 0..=fragments {
            let payload = vec![number as u8; length / (index + 1)];
            whole.extend(&payload);
            let first =
                if index == 0 { opcode } else { 0 } | if index == fragments { 0x80 } else { 0 };
            made.wire.extend(framed(first, &payload, sender));
            made.frame_ends.push(made.wire.len());
            if index == fragments {
                made.message_ends.push(made.wire.len());
            } else if choice == 3 {
                made.kinds.push(ControlKind::Pong);
                made.wire.extend(framed(0x8a, b"pong", sender));
                made.frame_ends.push(made.wire.len());
            }
        }
        if opcode == 1 {
            made.texts.push(whole);
        }
    }
    made
}

proptest! {
    /// For any frames and any cuts, the same bytes come out in the same order. At each cut the
    /// follower knows whether the bytes end between frames, and between messages.
    #[test]
    fn any_split_of_any_frames_passes_the_same_bytes(
        choices in prop::collection::vec((0u8..4, 0usize..400, 0usize..3), 1..10),
        cuts in prop::collection::vec(0usize..4000, 0..20),
        from_client in any::<bool>(),
        pause in prop::sample::select(vec![Pause::Never, Pause::FrameEnd, Pause::MessageEnd]),
    ) {
        let sender = if from_client { Sender::Client } else { Sender::Upstream };
        let made = stream(choices, sender);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % (made.wire.len() + 1)).collect();
        cuts.extend([0, made.wire.len()]);
        cuts.sort_unstable();
        let mut follower = FrameFollower::new(sender, FollowRules::FOLLOW_ONLY);
        let mut seen = FollowResult::default();
        for pair in cuts.windows(2) {
            follow(&mut follower, &[&made.wire[pair[0]..pair[1]]], pause, &mut seen).unwrap();
            let is_frame_end = made.frame_ends.contains(&seen.wire.len());
            prop_assert_eq!(follower.at_frame_boundary(), is_frame_end);
            if follower.at_frame_boundary() && follower.at_message_boundary() {
                prop_assert!(made.message_ends.contains(&seen.wire.len()));
            }
        }
        prop_assert_eq!(&seen.wire, &made.wire);
        prop_assert_eq!(&seen.kinds, &made.kinds);
        prop_assert_eq!(follower.messages() as usize, made.message_ends.len() - 1 - pings(&made));
    }

    /// For a cut at any byte, held texts come out whole, each once, and nothing changes its order.
    #[test]
    fn held_messages_come_out_whole_at_every_split(
        choices in prop::collection::vec((0u8..4, 0usize..60, 0usize..3), 1..5),
    ) {
        let made = stream(choices, Sender::Client);
        let hold = Some(Hold { most: 1000, binary: false });
        let rules = FollowRules { hold, ..FollowRules::FOLLOW_ONLY };
        for cut in 0..=made.wire.len() {
            let mut seen = FollowResult::default();
            let (first, second) = made.wire.split_at(cut);
            let mut follower = FrameFollower::new(Sender::Client, rules);
            follow(&mut follower, &[first, second], Pause::Never, &mut seen).unwrap();
            prop_assert_eq!(&seen.messages, &made.texts);
            prop_assert_eq!(seen.wire.len(), made.wire.len());
        }
        let mut seen = FollowResult::default();
        let bytes: Vec<&[u8]> = made.wire.chunks(1).collect();
        let mut follower = FrameFollower::new(Sender::Client, rules);
        follow(&mut follower, &bytes, Pause::Never, &mut seen).unwrap();
        prop_assert_eq!(&seen.messages, &made.texts);
    }

    #[test]
    fn compressed_messages_are_taken_out_whole_at_every_split(
        sizes in prop::collection::vec((0usize..80, 0usize..80), 1..4),
    ) {
        let mut wire = Vec::new();
        for (first, second) in &sizes {
            wire.extend(framed(0x41, &vec![3; *first], Sender::Client));
            wire.extend(framed(0x80, &vec![4; *second], Sender::Client));
            wire.extend(framed(0x82, b"plain", Sender::Client));
        }
        let rules = FollowRules { takes_out_compressed: true, ..FollowRules::FOLLOW_ONLY };
        let whole = |(first, second): &(usize, usize)| {
            (true, [vec![3; *first], vec![4; *second]].concat())
        };
        let expected: Vec<_> = sizes.iter().map(whole).collect();
        for cut in 0..=wire.len() {
            let mut seen = FollowResult::default();
            let (first, second) = wire.split_at(cut);
            let mut follower = FrameFollower::new(Sender::Client, rules);
            follow(&mut follower, &[first, second], Pause::Never, &mut seen).unwrap();
            prop_assert_eq!(&seen.taken, &expected);
            prop_assert_eq!(seen.wire, framed(0x82, b"plain", Sender::Client).repeat(sizes.len()));
            prop_assert_eq!(follower.messages() as usize, 2 * sizes.len());
        }
    }
}

fn pings(made: &Stream) -> usize {
    made.kinds.iter().filter(|kind| **kind == ControlKind::Ping).count()
}
