//! Measures the frame follower, which reads every byte between the two sides.

use std::hint::black_box;

use usher::ws::follow::{FollowRules, FrameFollower, Hold, Pause, Segment};
use usher::ws::frame::{Message, Sender};

use crate::support::Runner;

pub fn run(runner: &mut Runner) {
    for (who, sender) in [("masked", Sender::Client), ("unmasked", Sender::Upstream)] {
        let small = text(128).to_wire(sender);
        let reads = [
            ("one text of 128 B", vec![small.clone()]),
            ("64 texts of 128 B, one read", vec![small.repeat(64)]),
            (
                "binary of 1 MiB, reads of 16 KiB",
                pieces(&Message::binary(vec![7; 1 << 20]).to_wire(sender), 16 * 1024),
            ),
            ("16 fragments of 64 B, one read", vec![fragments(16, sender)]),
            ("text of 128 B, byte by byte", pieces(&small, 1)),
        ];
        for (what, reads) in reads {
            let mut follower = FrameFollower::new(sender, FollowRules::FOLLOW_ONLY);
            runner.measure(&format!("frames: {what}, {who}"), || follow(&mut follower, &reads));
        }
    }
    let hold = Some(Hold { most: 16 * 1024, binary: false });
    let mut follower =
        FrameFollower::new(Sender::Client, FollowRules { hold, ..FollowRules::FOLLOW_ONLY });
    let reads = [text(600).to_wire(Sender::Client)];
    runner.measure("frames: text of 600 B held, masked", || follow(&mut follower, &reads));
}

fn text(size: usize) -> Message {
    Message::text("x".repeat(size))
}

fn pieces(wire: &[u8], size: usize) -> Vec<Vec<u8>> {
    wire.chunks(size).map(<[u8]>::to_vec).collect()
}

/// Returns one message in `count` frames.
fn fragments(count: usize, sender: Sender) -> Vec<u8> {
    let mut wire = Vec::new();
    for index in 0..count {
        let mut frame = text(64).to_wire(sender);
        let opcode = if index == 0 { 1 } else { 0 };
        frame[0] = opcode | if index + 1 == count { 0x80 } else { 0 };
        wire.extend(frame);
    }
    wire
}

fn follow(follower: &mut FrameFollower, reads: &[Vec<u8>]) -> usize {
    let mut passed = 0;
    for read in reads {
        let mut bytes = black_box(read.as_slice());
        while let Some(segment) = follower.next(&mut bytes, Pause::Never).unwrap() {
            passed += match black_box(segment) {
                Segment::Pass(bytes) => bytes.len(),
                Segment::Bytes(bytes) => bytes.len(),
                Segment::Message(message) => message.payload.len(),
                Segment::Control(_) | Segment::Compressed(_) => 0,
            };
        }
    }
    passed
}
