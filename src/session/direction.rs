//! One direction of a session: what is known of its frames, and what could not be written yet.
//!
//! A direction that is idle owns no buffer: bytes are read into a scratch buffer of the thread,
//! followed frame by frame, and written to the other side at once. Only what the other side does
//! not take is kept, and while it is kept nothing more is read: that is the backpressure. What
//! Usher puts in goes between two frames, and a message of ours between two messages.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conversation::{Conversation, MessageFate};
use super::message_rate::MessageRate;
use super::state::SessionState;
use crate::base::clock::Now;
use crate::net::stream::{SCRATCH, Stream, with_scratch};
use crate::rejection::close::{CloseReason, Traffic};
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};
use crate::ws::deflate::{InflateError, Inflater};
use crate::ws::follow::{Compressed, FrameFollower, HeldMessage, Hold, Pause, Rules, Segment};
use crate::ws::frame::{ControlKind, FrameError, Sender};

/// What one read takes where messages are looked at or inflated: deflate makes a thousand bytes of
/// one.
const READ_TO_BE_HEARD: usize = 4 * 1024;
/// What is inflated at a time, before it is seen whether the receiver takes it.
const INFLATED_STEP: usize = 128;
/// What one turn hears of short messages before others have theirs: hearing is parsing.
const HEARD_PER_TURN: usize = 64 * 1024;
/// Reads of one direction in one turn, so that a busy session lets others run.
pub(super) const READS_PER_TURN: usize = 8;
/// Our own words that wait for their place. A client that makes us say more than it reads is not
/// listened to meanwhile.
const MOST_INSERTED: usize = 4 * 1024;
/// What our pings say; a pong that says it is the answer.
pub(super) const PING: &[u8] = b"usher";

#[derive(Debug)]
pub(super) struct Direction {
    sender: Sender,
    follower: FrameFollower,
    /// Came before the relay began, and is taken in before anything is read.
    early: Vec<u8>,
    pending: Vec<u8>,
    written: usize,
    inserts: Option<Box<Inserts>>,
    needs_flush: bool,
    source: Source,
    bytes: u64,
    /// What one read takes, and so what is kept at most while the receiver does not take it.
    most: usize,
    /// Where the upstream takes no compression. Boxed, like all that few sessions have.
    inflater: Option<Box<Inflater>>,
    /// A piece of a compressed message that is not inflated to its end, and how far it is.
    inflating: Option<Box<(Compressed, usize)>>,
    holds: bool,
    /// Of short messages, in this turn.
    heard: usize,
    /// Where forwarding stopped, did the receiver stand between two frames?
    stopped_between_frames: Option<bool>,
    rate: Option<Box<MessageRate>>,
}

/// Frames of ours that wait for their place.
#[derive(Debug, Default)]
struct Inserts {
    /// Between two messages.
    messages: Vec<u8>,
    /// Between two frames.
    controls: Vec<u8>,
    /// Between two frames; nothing of the peer's may follow it.
    close: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Open,
    /// Nothing more may be forwarded: what still comes is read and dropped, but for the answer to
    /// our close frame.
    Drained,
    /// The same, and it cannot even be followed.
    Unreadable,
    /// Nothing more comes.
    Ended,
}

enum Read {
    Bytes,
    EndOfStream,
    Blocked,
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PumpResult {
    Nothing,
    /// Something, and now there is nothing to be had or no room for it: a wake-up will come.
    Some,
    /// There may be more at once.
    More,
}

/// Who is asked about what passes.
pub(super) struct MessageContext<'a> {
    pub state: &'a mut SessionState,
    pub conversation: Option<&'a mut Conversation>,
    pub now: Now,
}

impl Direction {
    pub(super) fn new(sender: Sender, rules: Rules, buffered_bytes: usize, early: Vec<u8>) -> Self {
        Self {
            sender,
            follower: FrameFollower::new(sender, rules),
            early,
            pending: Vec::new(),
            written: 0,
            inserts: None,
            needs_flush: false,
            source: Source::Open,
            bytes: 0,
            most: buffered_bytes.clamp(1, SCRATCH),
            inflater: None,
            inflating: None,
            holds: false,
            heard: 0,
            stopped_between_frames: None,
            rate: None,
        }
    }

    pub(super) fn inflating(mut self, most: u64) -> Self {
        self.inflater = Some(Box::new(Inflater::new(most)));
        self
    }

    /// Whole frames that the receiver gets before everything else.
    pub(super) fn beginning_with(mut self, ahead: Vec<u8>) -> Self {
        self.pending = ahead;
        self
    }

    pub(super) fn limited_to(mut self, rate: Option<MessageRate>) -> Self {
        self.rate = rate.map(Box::new);
        self
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic { bytes: self.bytes, messages: self.follower.messages() }
    }

    pub(super) fn hold(&mut self, hold: Option<Hold>) {
        self.holds = hold.is_some();
        self.follower.set_hold(hold);
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.pending.is_empty() && !self.needs_flush
    }

    /// Nothing that comes from this side can change anything any more.
    pub(super) fn is_unreadable(&self) -> bool {
        self.source == Source::Unreadable
    }

    /// Our close frame has been placed: nothing follows it.
    pub(super) fn has_sent_close(&self) -> bool {
        self.source != Source::Open && self.inserts.is_none()
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.inserts.as_ref().is_some_and(|inserts| inserts.messages.len() > MOST_INSERTED)
            || self.pending.len() > 2 * SCRATCH
    }

    pub(super) fn insert_message(&mut self, wire: Vec<u8>) {
        if self.source != Source::Open {
            return;
        }
        self.inserts.get_or_insert_default().messages.extend(wire);
        self.place();
    }

    pub(super) fn insert_control(&mut self, wire: Vec<u8>) {
        self.inserts.get_or_insert_default().controls.extend(wire);
        self.place();
    }

    /// False: there is no place for it, and there will be none. The peer went away in the middle of
    /// a frame.
    pub(super) fn insert_close(&mut self, wire: Vec<u8>) -> bool {
        self.inserts.get_or_insert_default().close = Some(wire);
        self.place();
        if matches!(self.source, Source::Ended | Source::Unreadable)
            && self.inserts.take().is_some()
        {
            return false;
        }
        true
    }

    /// Puts what waits behind what is pending, if that ends where it may stand.
    fn place(&mut self) {
        let Some(inserts) = &mut self.inserts else { return };
        if self.inflating.is_some()
            || !self.stopped_between_frames.unwrap_or_else(|| self.follower.at_frame_boundary())
        {
            return;
        }
        if self.follower.at_message_boundary() && self.source == Source::Open {
            self.pending.append(&mut inserts.messages);
        }
        self.pending.append(&mut inserts.controls);
        if let Some(close) = inserts.close.take() {
            self.pending.extend(close);
            inserts.messages.clear();
            if self.source == Source::Open {
                self.source = Source::Drained;
            }
        }
        if inserts.messages.is_empty() {
            self.inserts = None;
        }
    }

    /// Where following has to stop, for something to be put in or counted.
    fn pause(&self) -> Pause {
        match &self.inserts {
            Some(inserts) if inserts.close.is_some() || !inserts.controls.is_empty() => {
                Pause::FrameEnd
            }
            Some(_) => Pause::MessageEnd,
            None if self.rate.is_some() => Pause::MessageEnd,
            None => Pause::Never,
        }
    }

    /// Follows bytes of the sender. Gives back what can be written as it is; everything else is in
    /// `pending`, before it in order.
    fn take_in<'a>(&mut self, context: &mut MessageContext<'_>, bytes: &'a [u8]) -> &'a [u8] {
        self.bytes += bytes.len() as u64;
        if self.sender == Sender::Client {
            context.state.handle_client_bytes(context.now.mono);
        }
        let mut rest = bytes;
        let mut whole: &[u8] = &[];
        while self.source != Source::Unreadable {
            let segment = match self.follower.next(&mut rest, self.pause()) {
                Ok(Some(segment)) => segment,
                Ok(None) => break,
                Err(error) => {
                    self.cannot_follow(error, context);
                    break;
                }
            };
            match segment {
                Segment::Pass(_) if self.source != Source::Open => {}
                Segment::Pass(bytes) if self.pending.is_empty() && whole.is_empty() => {
                    whole = bytes;
                }
                other => {
                    self.pending.extend_from_slice(std::mem::take(&mut whole));
                    self.take_in_segment(other, context);
                }
            }
            if self.inserts.is_some() {
                self.pending.extend_from_slice(std::mem::take(&mut whole));
                self.place();
            }
            if self.inflating.is_some() {
                // The rest waits until it is through.
                self.bytes -= rest.len() as u64;
                self.early = [rest, &self.early].concat();
                break;
            }
            if let Some(rate) = &mut self.rate
                && !rate.allows(self.follower.messages(), context.now.mono)
            {
                LimitReached { limit: Limit::MessagesPerSecond, peer: None }.emit();
                self.rate = None;
                context.state.handle_close_request(CloseReason::MessageRate, context.now.mono);
                self.refuse_the_rest();
            }
        }
        whole
    }

    fn take_in_segment(&mut self, segment: Segment<'_>, context: &mut MessageContext<'_>) {
        let forwards = self.source == Source::Open;
        match segment {
            Segment::Control(control) => {
                match control.kind {
                    ControlKind::Pong
                        if self.sender == Sender::Client
                            && context.state.handle_pong(control.payload == PING) =>
                    {
                        return;
                    }
                    ControlKind::Close => context.state.handle_close_frame(
                        self.sender,
                        control.close_code(),
                        context.now.mono,
                    ),
                    _ => {}
                }
                if forwards {
                    self.pending.extend_from_slice(&control.wire);
                }
            }
            _ if !forwards => {}
            Segment::Pass(bytes) => self.pending.extend_from_slice(bytes),
            Segment::Bytes(bytes) => self.pending.extend_from_slice(&bytes),
            Segment::Compressed(piece) => self.inflating = Some(Box::new((piece, 0))),
            Segment::Message(message) => {
                // What is compressed may be as long as the longest that is looked at.
                self.heard += if message.is_compressed {
                    READ_TO_BE_HEARD.max(message.payload.len())
                } else {
                    message.payload.len()
                };
                let heard = match (&mut context.conversation, self.sender) {
                    (Some(conversation), Sender::Client) => {
                        conversation.receive_client(&message, context.state, context.now)
                    }
                    (Some(conversation), Sender::Upstream) => {
                        let heard =
                            conversation.receive_upstream(&message, context.state, context.now);
                        self.hold(conversation.holds_of_upstream());
                        heard
                    }
                    (None, _) => MessageFate::NotOurs,
                };
                match heard {
                    MessageFate::Ours => {}
                    MessageFate::Instead(message) => {
                        self.pending.extend(message.to_wire(self.sender))
                    }
                    MessageFate::NotOurs if message.is_compressed && self.inflater.is_some() => {
                        let HeldMessage { payload: bytes, is_text, .. } = message;
                        self.inflating = Some(Box::new((
                            Compressed { bytes, is_text, begins: true, ends: true },
                            0,
                        )));
                    }
                    MessageFate::NotOurs => self.pending.extend_from_slice(&message.wire),
                }
            }
        }
    }

    /// Goes on with a compressed piece, as far as what is pending allows.
    fn inflate(&mut self, context: &mut MessageContext<'_>) {
        let (Some(inflater), Some(inflating)) = (&mut self.inflater, &mut self.inflating) else {
            return;
        };
        let (piece, at) = &mut **inflating;
        let mut outcome = Ok(());
        let mut is_done = false;
        while !is_done && outcome.is_ok() && self.pending.len() < self.most {
            let step: Vec<u8> = piece.bytes.iter().skip(*at).take(INFLATED_STEP).copied().collect();
            *at += step.len();
            is_done = *at == piece.bytes.len();
            let (begins, ends) = (std::mem::take(&mut piece.begins), is_done && piece.ends);
            outcome = inflater.take_in(
                Compressed { bytes: step, is_text: piece.is_text, begins, ends },
                &mut self.pending,
            );
        }
        if is_done || outcome.is_err() {
            self.inflating = None;
        }
        match outcome {
            Ok(()) => {}
            Err(InflateError::TooLarge) => {
                LimitReached { limit: Limit::InflatedBytes, peer: None }.emit();
                context.state.handle_close_request(CloseReason::MessageTooBig, context.now.mono);
                self.refuse_the_rest();
            }
            Err(InflateError::Broken) => {
                context.state.handle_protocol_error(self.sender, context.now.mono);
                self.refuse_the_rest();
                self.source = Source::Unreadable;
            }
        }
    }

    /// What still comes is followed for its close frame alone.
    pub(super) fn refuse_the_rest(&mut self) {
        if self.source == Source::Open {
            self.stopped_between_frames = Some(self.follower.at_frame_boundary());
            self.source = Source::Drained;
        }
    }

    fn cannot_follow(&mut self, error: FrameError, context: &mut MessageContext<'_>) {
        self.refuse_the_rest();
        self.source = Source::Unreadable;
        if error == FrameError::TooBig {
            LimitReached { limit: Limit::MessageBytes, peer: None }.emit();
            context.state.handle_close_request(CloseReason::MessageTooBig, context.now.mono);
        } else {
            context.state.handle_protocol_error(self.sender, context.now.mono);
        }
    }
}

/// Moves what can be moved.
pub(super) fn pump(
    direction: &mut Direction,
    context: &mut MessageContext<'_>,
    from: &mut Stream,
    to: &mut Stream,
    cx: &mut Context<'_>,
) -> PumpResult {
    let mut moved = PumpResult::Nothing;
    direction.heard = 0;
    for _ in 0..READS_PER_TURN {
        match write_pending(direction, to, cx) {
            Ok(true) => {}
            Ok(false) => return moved,
            Err(_) => {
                direction.pending = Vec::new();
                direction.written = 0;
                direction.needs_flush = false;
                direction.inserts = None;
                direction.inflating = None;
                direction.refuse_the_rest();
                context.state.handle_write_failed(direction.sender.other(), context.now.mono);
                moved = PumpResult::Some;
            }
        }
        if direction.source == Source::Ended {
            return moved;
        }
        if direction.inflating.is_some() {
            direction.inflate(context);
            moved = PumpResult::Some;
            continue;
        }
        if direction.heard > HEARD_PER_TURN {
            return PumpResult::More;
        }
        match read(direction, context, from, to, cx) {
            Read::Bytes => moved = PumpResult::Some,
            Read::EndOfStream => {
                direction.source = Source::Ended;
                context.state.handle_end_of_stream(direction.sender, context.now.mono);
                return PumpResult::More;
            }
            Read::Blocked => return moved,
        }
    }
    PumpResult::More
}

/// Writes what waits, without reading anything.
pub(super) fn flush(direction: &mut Direction, to: &mut Stream, cx: &mut Context<'_>) {
    // A failure shows again at the next write.
    let _ = write_pending(direction, to, cx);
}

/// True when nothing is left to write.
fn write_pending(
    direction: &mut Direction,
    to: &mut Stream,
    cx: &mut Context<'_>,
) -> io::Result<bool> {
    direction.place();
    while let Some(rest) =
        direction.pending.get(direction.written..).filter(|rest| !rest.is_empty())
    {
        match Pin::new(&mut *to).poll_write(cx, rest)? {
            Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(count) => {
                direction.written += count;
                direction.needs_flush = true;
            }
            Poll::Pending => return Ok(false),
        }
    }
    if !direction.pending.is_empty() {
        // Dropped, not cleared: an idle session owns no buffer.
        direction.pending = Vec::new();
        direction.written = 0;
    }
    if direction.needs_flush {
        match Pin::new(to).poll_flush(cx)? {
            Poll::Ready(()) => direction.needs_flush = false,
            Poll::Pending => return Ok(false),
        }
    }
    Ok(true)
}

/// One read; what it brings is written at once, and what is not taken is kept. Nothing is pending
/// before.
fn read(
    direction: &mut Direction,
    context: &mut MessageContext<'_>,
    from: &mut Stream,
    to: &mut Stream,
    cx: &mut Context<'_>,
) -> Read {
    with_scratch(|scratch| {
        let is_heard = direction.holds || direction.inflater.is_some();
        let most = if is_heard { direction.most.min(READ_TO_BE_HEARD) } else { direction.most };
        let filled = if direction.early.is_empty() {
            let mut buffer = ReadBuf::new(scratch.split_at_mut(most).0);
            match Pin::new(from).poll_read(cx, &mut buffer) {
                Poll::Pending => return Read::Blocked,
                Poll::Ready(Err(_)) => return Read::EndOfStream,
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Read::EndOfStream,
                Poll::Ready(Ok(())) => buffer.filled().len(),
            }
        } else {
            let count = direction.early.len().min(most);
            let later = direction.early.split_off(count);
            let now = std::mem::replace(&mut direction.early, later);
            scratch.split_at_mut(count).0.copy_from_slice(&now);
            count
        };
        let mut whole = direction.take_in(context, scratch.split_at(filled).0);
        while !whole.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, whole) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    direction.needs_flush = true;
                    whole = whole.split_at(count).1;
                }
                // The next `write_pending` meets the same error, or waits.
                _ => {
                    direction.pending.extend_from_slice(whole);
                    break;
                }
            }
        }
        Read::Bytes
    })
}
