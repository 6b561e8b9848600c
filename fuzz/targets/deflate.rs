//! permessage-deflate, with three rules:
//!
//! - Usher inflates the output of zlib to the original bytes, and never to more bytes than allowed.
//! - Any bytes are inflated in the same way at once and in pieces.
//! - The headers of the extension have the same meaning when Usher reads its own again.

use std::sync::LazyLock;

use flate2::{Compress, Compression, FlushCompress};
use http::header::SEC_WEBSOCKET_EXTENSIONS;
use http::{HeaderMap, HeaderValue};

use super::cuts;
use usher::ws::deflate::{self, InflateError, Inflater};
use usher::ws::follow::{Compressed, FollowRules, FrameFollower, Hold, Pause, Segment};
use usher::ws::frame::Sender;

const MOST: usize = 1 << 16;
static ALL_AT_ONCE: LazyLock<FollowRules> = LazyLock::new(|| FollowRules {
    hold: Some(Hold { most: MOST * 2, binary: true }),
    ..FollowRules::FOLLOW_ONLY
});

pub fn run(bytes: &[u8]) {
    check_round_trip(bytes);
    check_inflating(bytes);
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            check_negotiation(&value);
        }
    }
}

fn check_round_trip(plain: &[u8]) {
    for level in [0, 1, 9] {
        let deflated = deflate(plain, level);
        assert_eq!(deflate::inflate(&deflated, plain.len()), Ok(plain.to_vec()), "not the message");
        assert_eq!(in_pieces(&[&deflated], plain.len()), Ok(plain.to_vec()), "not the message");
        if let Some(less) = plain.len().checked_sub(1) {
            assert_eq!(deflate::inflate(&deflated, less), Err(InflateError::TooLarge));
            assert_eq!(in_pieces(&[&deflated], less), Err(InflateError::TooLarge));
        }
    }
}

fn check_inflating(bytes: &[u8]) {
    let whole = deflate::inflate(bytes, MOST);
    assert!(whole.as_ref().is_ok_and(|inflated| inflated.len() <= MOST) || whole.is_err());
    for pieces in cuts::of(bytes) {
        // With two faults, the pieces decide which one is found first.
        let cut = in_pieces(&pieces, MOST).ok();
        assert_eq!(cut.as_ref(), whole.as_ref().ok(), "the pieces inflate to another result");
    }
}

/// Inflates the pieces of one message as the relay does for an upstream, and reads the result back.
fn in_pieces(pieces: &[&[u8]], most: usize) -> Result<Vec<u8>, InflateError> {
    let mut inflater = Inflater::new(most as u64);
    let mut wire = Vec::new();
    for (index, bytes) in pieces.iter().enumerate() {
        let (begins, ends) = (index == 0, index + 1 == pieces.len());
        let piece = Compressed { bytes: bytes.to_vec(), is_text: false, begins, ends };
        inflater.take_in(piece, &mut wire)?;
    }
    if pieces.is_empty() {
        return deflate::inflate(&[], most);
    }
    let mut follower = FrameFollower::new(Sender::Client, *ALL_AT_ONCE);
    let mut rest = &wire[..];
    let message = follower.next(&mut rest, Pause::Never).expect("the upstream gets frames");
    assert!(rest.is_empty(), "more than one message was made");
    match message {
        Some(Segment::Message(message)) => {
            assert!(!message.is_compressed && !message.is_text);
            Ok(message.payload)
        }
        other => panic!("the upstream gets no message: {other:?}"),
    }
}

fn deflate(plain: &[u8], level: u32) -> Vec<u8> {
    let mut compress = Compress::new(Compression::new(level), false);
    let mut deflated = Vec::with_capacity(plain.len() * 2 + 100);
    compress
        .compress_vec(plain, &mut deflated, FlushCompress::Sync)
        .expect("there is room for what is deflated");
    // RFC 7692 section 7.2.1.
    let tail = deflated.split_off(deflated.len() - 4);
    assert_eq!(tail, [0, 0, 0xff, 0xff]);
    deflated
}

fn check_negotiation(value: &HeaderValue) {
    let mut headers = HeaderMap::new();
    headers.insert(SEC_WEBSOCKET_EXTENSIONS, value.clone());
    if let Some(agreed) = deflate::agree(&headers) {
        let mut said = HeaderMap::new();
        said.insert(SEC_WEBSOCKET_EXTENSIONS, agreed.header());
        assert_eq!(
            deflate::agree(&said),
            Some(agreed),
            "the agreed parameters are not accepted again"
        );
        assert_eq!(agreed.is_kept_by(&said), Ok(true), "an upstream that agrees is rejected");
        let mut kept = headers.clone();
        deflate::keep_readable_offers(&mut kept);
        assert_eq!(deflate::agree(&kept), Some(agreed), "the offer that was kept is lost");
    }
    deflate::keep_readable_offers(&mut headers);
    for offer in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        for offer in offer.to_str().expect("a kept offer is text").split(',') {
            let name = offer.split(';').next().unwrap_or_default().trim();
            assert!(name.eq_ignore_ascii_case("permessage-deflate"), "another offer is forwarded");
        }
    }
    let once = headers.clone();
    deflate::keep_readable_offers(&mut headers);
    assert_eq!(headers, once);
    deflate::make_readable(&mut headers);
    for answer in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        for answer in answer.to_str().expect("an answer is text").split(',') {
            let says_so = answer.contains("client_no_context_takeover");
            assert!(says_so, "a message of the client depends on earlier ones: {answer}");
        }
    }
    let readable = headers.clone();
    deflate::make_readable(&mut headers);
    assert_eq!(headers, readable, "the header appears twice");
}
