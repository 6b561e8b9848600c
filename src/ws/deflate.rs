//! The part of permessage-deflate (RFC 7692) that a relay needs.
//!
//! Usher compresses nothing. It agrees with a client on terms under which each of the client's
//! messages can be read by itself (`client_no_context_takeover`). It inflates one short message to
//! see whether it is an `auth` message, or all messages if the upstream takes no compression.
//! Usher's own frames are never compressed, which the extension allows.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};
use http::header::SEC_WEBSOCKET_EXTENSIONS;
use http::{HeaderMap, HeaderValue};

use super::follow::Compressed;
use super::frame::{self, Sender};

const NAME: &str = "permessage-deflate";
const NO_CONTEXT: &str = "client_no_context_takeover";
/// RFC 7692 section 7.2.2: the bytes that the sender cut off the end of each message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// The most bytes that are inflated at a time, and so the largest frame that is made of them.
const CHUNK: usize = 16 * 1024;

/// The terms that a client was promised in an early 101.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgreedDeflate {
    server_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    #[error("the data is not deflated")]
    Broken,
    #[error("the data inflates to more than the limit")]
    TooLarge,
}

/// One extension of a header: its name and its parameters.
struct Extension<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<&'a str>)>,
}

fn extensions(headers: &HeaderMap) -> impl Iterator<Item = Extension<'_>> {
    let lines =
        headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|element| {
        let mut parts = element.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let parameters = parts.map(|part| match part.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value.trim().trim_matches('"'))),
            None => (part, None),
        });
        Extension { name, parameters: parameters.collect() }
    })
}

fn window_bits(text: Option<&str>) -> Option<u8> {
    text.and_then(|text| text.parse().ok()).filter(|bits| (8..=15).contains(bits))
}

/// Returns the first of a client's offers that can be kept.
pub fn agree(headers: &HeaderMap) -> Option<AgreedDeflate> {
    extensions(headers).filter(|offer| offer.name.eq_ignore_ascii_case(NAME)).find_map(|offer| {
        let mut agreed =
            AgreedDeflate { server_no_context_takeover: false, server_max_window_bits: None };
        for (key, value) in offer.parameters {
            match key {
                "server_no_context_takeover" if value.is_none() => {
                    agreed.server_no_context_takeover = true;
                }
                "server_max_window_bits" => {
                    agreed.server_max_window_bits = Some(window_bits(value)?);
                }
                // Usher sends this parameter anyway.
                NO_CONTEXT if value.is_none() => {}
                // A hint about the client's abilities, which Usher does not use.
                "client_max_window_bits" if value.is_none() || window_bits(value).is_some() => {}
                _ => return None,
            }
        }
        Some(agreed)
    })
}

impl AgreedDeflate {
    /// Returns the header for both sides: the answer to the client, and the offer to the upstream.
    pub fn header(&self) -> HeaderValue {
        let mut text = format!("{NAME}; {NO_CONTEXT}");
        if self.server_no_context_takeover {
            text.push_str("; server_no_context_takeover");
        }
        if let Some(bits) = self.server_max_window_bits {
            text.push_str(&format!("; server_max_window_bits={bits}"));
        }
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(NAME))
    }

    /// Returns true if the upstream accepted the terms that the client was promised. False: it
    /// declined, and gets everything inflated.
    pub fn is_kept_by(&self, answer: &HeaderMap) -> Result<bool, &'static str> {
        let mut taken = extensions(answer);
        let Some(extension) = taken.next() else { return Ok(false) };
        if taken.next().is_some() || !extension.name.eq_ignore_ascii_case(NAME) {
            return Err("the server chose an extension that was not offered");
        }
        let has = |name: &str| extension.parameters.iter().find(|(key, _)| *key == name);
        if self.server_no_context_takeover && has("server_no_context_takeover").is_none() {
            return Err("the server keeps its compression context against the offer");
        }
        let bits = has("server_max_window_bits").map(|(_, value)| window_bits(*value));
        if let Some(most) = self.server_max_window_bits
            && bits.flatten().is_none_or(|bits| bits > most)
        {
            return Err("the server compresses with a larger window than was offered");
        }
        if has("client_max_window_bits").is_some() {
            return Err("the server asks for a smaller window than was offered");
        }
        Ok(true)
    }
}

/// Keeps those of a client's offers whose messages Usher could read.
pub fn keep_readable_offers(headers: &mut HeaderMap) {
    let lines: Vec<HeaderValue> =
        headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().cloned().collect();
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    for line in lines {
        let Ok(text) = line.to_str() else { continue };
        let is_ours = |element: &&str| {
            element.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(NAME))
        };
        let kept: Vec<&str> = text.split(',').filter(is_ours).map(str::trim).collect();
        if let (false, Ok(value)) = (kept.is_empty(), HeaderValue::try_from(kept.join(", "))) {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, value);
        }
    }
}

/// Adds `client_no_context_takeover` to each extension of an upstream's answer, so that the client
/// compresses each message by itself. RFC 7692 section 7.1.1.2: a server may send it although the
/// client did not offer it, and the client must obey. The upstream's own decompressor need not
/// know: a message that refers to nothing before it can be read with any window.
pub fn make_readable(answer: &mut HeaderMap) {
    let is_readable = |element: &str| {
        element
            .split(';')
            .skip(1)
            .any(|part| part.split('=').next().unwrap_or(part).trim() == NO_CONTEXT)
    };
    let readable = |text: &str| {
        let elements = text.split(',').map(str::trim).filter(|element| !element.is_empty());
        let elements = elements.map(|element| {
            if is_readable(element) {
                element.to_owned()
            } else {
                format!("{element}; {NO_CONTEXT}")
            }
        });
        HeaderValue::try_from(elements.collect::<Vec<_>>().join(", ")).ok()
    };
    if let http::header::Entry::Occupied(mut lines) = answer.entry(SEC_WEBSOCKET_EXTENSIONS) {
        for line in lines.iter_mut() {
            if let Some(value) = line.to_str().ok().and_then(readable) {
                *line = value;
            }
        }
    }
}

thread_local! {
    /// A decompressor has a window of 32 KiB: one for each thread is enough for messages that are
    /// read whole.
    static WHOLE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Inflates one whole message, up to `most` bytes.
pub fn inflate(payload: &[u8], most: usize) -> Result<Vec<u8>, InflateError> {
    WHOLE.with_borrow_mut(|decompress| {
        decompress.reset(false);
        let mut inflated = Vec::new();
        let mut step = Vec::with_capacity(CHUNK.min(most + 1));
        for input in [payload, &TAIL[..]] {
            run(decompress, input, &mut step, |bytes| {
                inflated.extend_from_slice(bytes);
                if inflated.len() > most { Err(InflateError::TooLarge) } else { Ok(()) }
            })?;
        }
        Ok(inflated)
    })
}

fn run(
    decompress: &mut Decompress,
    mut input: &[u8],
    buffer: &mut Vec<u8>,
    mut out: impl FnMut(&[u8]) -> Result<(), InflateError>,
) -> Result<(), InflateError> {
    loop {
        buffer.clear();
        let before = decompress.total_in();
        let status = decompress
            .decompress_vec(input, buffer, FlushDecompress::Sync)
            .map_err(|_| InflateError::Broken)?;
        let used = usize::try_from(decompress.total_in() - before).unwrap_or(usize::MAX);
        input = input.split_at(used.min(input.len())).1;
        out(buffer)?;
        let is_stuck = used == 0 && buffer.is_empty();
        if status == Status::StreamEnd
            || (input.is_empty() && buffer.len() < buffer.capacity())
            || is_stuck
        {
            return Ok(());
        }
    }
}

/// A converter of a client's compressed messages into plain ones, for an upstream that takes no
/// compression. Between two messages it holds nothing.
#[derive(Debug)]
pub struct Inflater {
    /// The largest message that is made.
    most: u64,
    under_way: Option<Box<UnderWay>>,
}

#[derive(Debug)]
struct UnderWay {
    decompress: Decompress,
    inflated: u64,
    opcode: u8,
}

impl Inflater {
    pub fn new(most: u64) -> Self {
        Self { most, under_way: None }
    }

    /// Inflates a piece and writes it as whole frames. The last frame of the message is final.
    pub fn take_in(&mut self, piece: Compressed, wire: &mut Vec<u8>) -> Result<(), InflateError> {
        if piece.begins || self.under_way.is_none() {
            let opcode = if piece.is_text { 1 } else { 2 };
            self.under_way = Some(Box::new(UnderWay {
                decompress: Decompress::new(false),
                inflated: 0,
                opcode,
            }));
        }
        let Some(message) = &mut self.under_way else { return Ok(()) };
        let mut bytes = piece.bytes;
        if piece.ends {
            bytes.extend(TAIL);
        }
        let mut buffer = Vec::with_capacity(CHUNK);
        let (inflated, opcode, most) = (&mut message.inflated, &mut message.opcode, self.most);
        run(&mut message.decompress, &bytes, &mut buffer, |bytes| {
            *inflated += bytes.len() as u64;
            if *inflated > most {
                return Err(InflateError::TooLarge);
            }
            if !bytes.is_empty() {
                frame::data(wire, std::mem::take(opcode), false, bytes, Sender::Client);
            }
            Ok(())
        })?;
        if piece.ends {
            frame::data(wire, *opcode, true, &[], Sender::Client);
            self.under_way = None;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use crate::ws::follow::{FollowRules, FrameFollower, Hold, Pause, Segment};

    fn headers(values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    pub(crate) fn deflate(plain: &[u8]) -> Vec<u8> {
        let mut compress = Compress::new(Compression::default(), false);
        let mut out = Vec::with_capacity(plain.len() + 100);
        compress.compress_vec(plain, &mut out, FlushCompress::Sync).unwrap();
        assert_eq!(out.split_off(out.len() - 4), TAIL);
        out
    }

    #[test]
    fn the_first_offer_that_can_be_kept_is_agreed_to() {
        let said = |values: &[&str]| {
            agree(&headers(values)).map(|agreed| agreed.header().to_str().unwrap().to_owned())
        };
        assert_eq!(
            said(&["permessage-deflate; client_max_window_bits"]).unwrap(),
            "permessage-deflate; client_no_context_takeover"
        );
        assert_eq!(
            said(&["x-other, permessage-deflate; server_max_window_bits=99, \
                permessage-deflate; server_no_context_takeover; server_max_window_bits=\"10\""])
            .unwrap(),
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover; \
             server_max_window_bits=10"
        );
        assert_eq!(said(&["permessage-deflate; made_up"]), None);
        assert_eq!(said(&[]), None);
    }

    #[test]
    fn each_extension_of_an_answer_is_made_readable_once() {
        let said = |values: &[&str]| {
            let mut answer = headers(values);
            make_readable(&mut answer);
            let lines = answer.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
            lines.map(|line| line.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let readable = "permessage-deflate; client_no_context_takeover";
        assert_eq!(said(&["permessage-deflate"]), [readable]);
        assert_eq!(said(&[readable]), [readable]);
        assert_eq!(
            said(&["permessage-deflate, permessage-deflate; client_no_context_takeover,", "x"]),
            [format!("{readable}, {readable}").as_str(), "x; client_no_context_takeover"]
        );
        assert!(said(&[]).is_empty());
    }

    #[test]
    fn an_upstream_keeps_what_the_client_was_promised_or_is_refused() {
        let plain =
            AgreedDeflate { server_no_context_takeover: false, server_max_window_bits: None };
        let strict =
            AgreedDeflate { server_no_context_takeover: true, server_max_window_bits: Some(10) };
        assert_eq!(plain.is_kept_by(&headers(&[])), Ok(false));
        assert_eq!(
            plain.is_kept_by(&headers(&["permessage-deflate; server_no_context_takeover"])),
            Ok(true)
        );
        assert_eq!(
            strict.is_kept_by(&headers(&[
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=9"
            ])),
            Ok(true)
        );
        for bad in [
            "permessage-deflate",
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=11",
            "x-other",
        ] {
            assert!(strict.is_kept_by(&headers(&[bad])).is_err(), "{bad}");
        }
        assert!(
            plain.is_kept_by(&headers(&["permessage-deflate; client_max_window_bits=9"])).is_err()
        );
    }

    #[test]
    fn an_answer_gains_that_each_message_stands_alone() {
        let mut answer = headers(&["permessage-deflate; server_no_context_takeover"]);
        make_readable(&mut answer);
        make_readable(&mut answer);
        assert_eq!(
            answer[SEC_WEBSOCKET_EXTENSIONS],
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        );
        let mut none = HeaderMap::new();
        make_readable(&mut none);
        assert!(none.is_empty());
        let mut offers = headers(&["x-one, permessage-deflate; client_max_window_bits", "x-two"]);
        keep_readable_offers(&mut offers);
        assert_eq!(offers.len(), 1);
        assert_eq!(offers[SEC_WEBSOCKET_EXTENSIONS], "permessage-deflate; client_max_window_bits");
    }

    #[test]
    fn a_bomb_is_refused_at_the_bound() {
        let bomb = deflate(&vec![0; 50_000_000]);
        assert!(bomb.len() < 60_000);
        assert_eq!(inflate(&bomb, 16_384), Err(InflateError::TooLarge));
        assert_eq!(inflate(&deflate(b"hello"), 16_384).unwrap(), b"hello");
        assert_eq!(inflate(&deflate(b""), 16_384).unwrap(), b"");
        assert_eq!(inflate(b"\xff\xff\xff", 16_384), Err(InflateError::Broken));
        // Exactly at the bound.
        assert_eq!(inflate(&deflate(&[7; 16_384]), 16_384).unwrap().len(), 16_384);
        assert_eq!(inflate(&deflate(&[7; 16_385]), 16_384), Err(InflateError::TooLarge));
        let piece = Compressed { bytes: bomb, is_text: false, begins: true, ends: true };
        assert_eq!(
            Inflater::new(1 << 20).take_in(piece, &mut Vec::new()),
            Err(InflateError::TooLarge)
        );
    }

    /// Returns the messages that an upstream without compression would read.
    fn messages(wire: &[u8]) -> Vec<Vec<u8>> {
        let hold = Some(Hold { most: usize::MAX / 2, binary: true });
        let mut follower =
            FrameFollower::new(Sender::Client, FollowRules { hold, ..FollowRules::FOLLOW_ONLY });
        let (mut rest, mut messages) = (wire, Vec::new());
        while let Some(segment) = follower.next(&mut rest, Pause::Never).unwrap() {
            match segment {
                Segment::Message(message) => {
                    assert!(!message.is_compressed);
                    messages.push(message.payload);
                }
                other => panic!("{other:?}"),
            }
        }
        messages
    }

    proptest! {
        #[test]
        fn what_was_compressed_arrives_plain_however_it_was_cut(
            plain in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..4),
            cut in 0usize..1000,
        ) {
            let mut inflater = Inflater::new(1 << 20);
            let mut wire = Vec::new();
            for message in &plain {
                let packed = deflate(message);
                let cut = cut % (packed.len() + 1);
                let (first, second) = packed.split_at(cut);
                let piece = |bytes: &[u8], begins| {
                    let bytes = bytes.to_vec();
                    Compressed { bytes, is_text: false, begins, ends: !begins }
                };
                inflater.take_in(piece(first, true), &mut wire).unwrap();
                inflater.take_in(piece(second, false), &mut wire).unwrap();
            }
            prop_assert_eq!(messages(&wire), plain);
            prop_assert!(inflater.under_way.is_none());
        }
    }

    #[test]
    fn a_large_message_becomes_many_frames_of_one_message() {
        let plain: Vec<u8> = (0..200_000u32).map(|n| (n * 7 % 251) as u8).collect();
        let mut wire = Vec::new();
        let piece = Compressed { bytes: deflate(&plain), is_text: true, begins: true, ends: true };
        Inflater::new(1 << 20).take_in(piece, &mut wire).unwrap();
        assert_eq!(messages(&wire), [plain]);
    }
}
