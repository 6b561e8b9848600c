//! One direction of a session: the state of its frames, and the bytes that could not be written
//! yet.
//!
//! An idle direction owns no buffer: bytes are read into a scratch buffer of the thread, followed
//! frame by frame, and written to the other side at once. Only bytes that the other side does not
//! take are kept, and meanwhile nothing more is read: that is the backpressure. Usher inserts its
//! control frames between two frames, and its messages between two messages.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::conversation::{Conversation, MessageFate};
use super::events::{BufferFilled, PingAnswered};
use super::message_rate::MessageRate;
use super::state::{Pong, SessionState};
use crate::base::clock::Now;
use crate::net::stream::{SCRATCH, Stream, with_scratch};
use crate::rejection::close::{CloseReason, Traffic};
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};
use crate::ws::deflate::{InflateError, Inflater};
use crate::ws::follow::{
    Compressed, FollowRules, FrameFollower, HeldMessage, Hold, Pause, Segment,
};
use crate::ws::frame::{ControlKind, FrameError, Sender};

/// The most bytes of one read while messages are held or inflated: deflate makes up to a thousand
/// bytes out of one.
const READ_TO_BE_HEARD: usize = 4 * 1024;
/// The bytes that are inflated in one step, before the next check whether there is room for more.
const INFLATED_STEP: usize = 128;
/// The most bytes of held messages in one turn, so that other sessions get theirs. Held messages
/// are parsed, which takes time.
const HEARD_PER_TURN: usize = 64 * 1024;
/// Reads of one direction in one turn, so that a busy session lets others run.
pub(super) const READS_PER_TURN: usize = 8;
/// The most bytes of Usher's own messages that wait for their place. A client that causes more of
/// them is not read from until it reads.
const MOST_INSERTED: usize = 4 * 1024;
/// The payload of Usher's pings. A pong with the same payload is the answer.
pub(super) const PING: &[u8] = b"usher";

#[derive(Debug)]
pub(super) struct Direction {
    sender: Sender,
    follower: FrameFollower,
    /// Bytes that arrived before the relay began. They are taken in before anything is read.
    early: Vec<u8>,
    pending: Vec<u8>,
    written: usize,
    inserts: Option<Box<Inserts>>,
    needs_flush: bool,
    source: Source,
    bytes: u64,
    /// The most bytes of one read, and so the most that are kept while the receiver does not take
    /// them.
    most: usize,
    /// Set if the upstream takes no compression. Boxed, like everything that few sessions need.
    inflater: Option<Box<Inflater>>,
    /// A piece of a compressed message that is only partly inflated, and the position in it.
    inflating: Option<Box<(Compressed, usize)>>,
    holds: bool,
    /// Bytes of held messages in this turn.
    heard: usize,
    /// Set when forwarding has stopped: whether the receiver was between two frames then.
    stopped_between_frames: Option<bool>,
    rate: Option<Box<MessageRate>>,
    /// The receiver has once not taken what was read, so that reading stopped.
    has_waited: bool,
}

/// Usher's own frames that wait for their place.
#[derive(Debug, Default)]
struct Inserts {
    /// They go between two messages.
    messages: Vec<u8>,
    /// They go between two frames.
    controls: Vec<u8>,
    /// It goes between two frames. No frame of the peer may follow it.
    close: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Open,
    /// Nothing more may be forwarded. Further bytes are read and dropped, except the answer to
    /// Usher's close frame.
    Drained,
    /// As `Drained`, and the frames cannot even be followed.
    Unreadable,
    /// The stream has ended.
    Ended,
}

enum Read {
    Bytes,
    EndOfStream,
    Blocked,
}

/// The result of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PumpResult {
    Nothing,
    /// Bytes have moved. Now there are no more, or there is no room for them: a wake-up will come.
    Some,
    /// Bytes may have moved, and there may be more at once.
    More,
}

/// The parts of a session that see the passing frames.
pub(super) struct MessageContext<'a> {
    pub state: &'a mut SessionState,
    pub conversation: Option<&'a mut Conversation>,
    pub route: &'a str,
    pub now: Instant,
}

impl Direction {
    pub(super) fn new(
        sender: Sender,
        rules: FollowRules,
        buffered_bytes: usize,
        early: Vec<u8>,
    ) -> Self {
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
            has_waited: false,
        }
    }

    pub(super) fn inflating(mut self, most: u64) -> Self {
        self.inflater = Some(Box::new(Inflater::new(most)));
        self
    }

    /// Sets whole frames that the receiver gets first.
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

    /// Returns true if the frames from this side cannot be followed any more.
    pub(super) fn is_unreadable(&self) -> bool {
        self.source == Source::Unreadable
    }

    /// Returns true if Usher's close frame has been placed. Nothing follows it.
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

    /// Inserts a close frame. Returns false if the peer left in the middle of a frame.
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

    /// Moves waiting frames behind the pending bytes, if these end where the frames may stand.
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

    /// Returns where the follower must stop, so that a frame can be inserted or a message counted.
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

    /// Follows bytes of the sender. Returns the bytes that can be written as they are. Everything
    /// else is in `pending`, and comes before them.
    fn take_in<'a>(&mut self, context: &mut MessageContext<'_>, bytes: &'a [u8]) -> &'a [u8] {
        self.bytes += bytes.len() as u64;
        if self.sender == Sender::Client {
            context.state.handle_client_bytes(context.now);
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
                // The rest waits until the piece is inflated.
                self.bytes -= rest.len() as u64;
                self.early = [rest, &self.early].concat();
                break;
            }
            if let Some(rate) = &mut self.rate
                && !rate.allows(self.follower.messages(), context.now)
            {
                LimitReached { limit: Limit::MessagesPerSecond, peer: None }.emit();
                self.rate = None;
                context.state.handle_close_request(CloseReason::MessageRate, context.now);
                self.ignore_rest();
            }
        }
        whole
    }

    fn take_in_segment(&mut self, segment: Segment<'_>, context: &mut MessageContext<'_>) {
        let forwards = self.source == Source::Open;
        match segment {
            Segment::Control(control) => {
                match control.kind {
                    ControlKind::Pong if self.sender == Sender::Client => {
                        let is_ours = control.payload == PING;
                        match context.state.handle_pong(is_ours, context.now) {
                            Pong::Ours { round_trip } => {
                                if let Some(round_trip) = round_trip {
                                    PingAnswered { route: context.route, round_trip }.emit();
                                }
                                return;
                            }
                            Pong::Foreign => {}
                        }
                    }
                    ControlKind::Close => context.state.handle_close_frame(
                        self.sender,
                        control.close_code(),
                        context.now,
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
                // A compressed message may inflate to the longest message that is parsed, so it
                // counts for more.
                self.heard += if message.is_compressed {
                    READ_TO_BE_HEARD.max(message.payload.len())
                } else {
                    message.payload.len()
                };
                let heard = match (&mut context.conversation, self.sender) {
                    (Some(conversation), Sender::Client) => {
                        conversation.receive_client(&message, context.state, Now::at(context.now))
                    }
                    (Some(conversation), Sender::Upstream) => {
                        let heard = conversation.receive_upstream(
                            &message,
                            context.state,
                            Now::at(context.now),
                        );
                        self.hold(conversation.holds_of_upstream());
                        heard
                    }
                    (None, _) => MessageFate::NotOurs,
                };
                match heard {
                    MessageFate::Ours => {}
                    MessageFate::Instead(message) => {
                        self.pending.extend(message.to_wire(self.sender));
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

    /// Inflates more of a compressed piece, while the pending bytes leave room.
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
                context.state.handle_close_request(CloseReason::MessageTooBig, context.now);
                self.ignore_rest();
            }
            Err(InflateError::Broken) => {
                context.state.handle_protocol_error(self.sender, context.now);
                self.ignore_rest();
                self.source = Source::Unreadable;
            }
        }
    }

    /// Reports once that reading stops until the receiver takes what was read.
    fn note_slow_reader(&mut self) {
        if !self.has_waited {
            self.has_waited = true;
            BufferFilled.emit();
        }
    }

    /// Stops forwarding. Further bytes are followed only for their close frame.
    pub(super) fn ignore_rest(&mut self) {
        if self.source == Source::Open {
            self.stopped_between_frames = Some(self.follower.at_frame_boundary());
            self.source = Source::Drained;
        }
    }

    fn cannot_follow(&mut self, error: FrameError, context: &mut MessageContext<'_>) {
        self.ignore_rest();
        self.source = Source::Unreadable;
        if error == FrameError::TooBig {
            LimitReached { limit: Limit::MessageBytes, peer: None }.emit();
            context.state.handle_close_request(CloseReason::MessageTooBig, context.now);
        } else {
            context.state.handle_protocol_error(self.sender, context.now);
        }
    }
}

/// Moves bytes in one direction, until nothing can move or the turn is over.
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
            Ok(false) => {
                direction.note_slow_reader();
                from.absorb(cx);
                return moved;
            }
            Err(_) => {
                direction.pending = Vec::new();
                direction.written = 0;
                direction.needs_flush = false;
                direction.inserts = None;
                direction.inflating = None;
                direction.ignore_rest();
                context.state.handle_write_failed(direction.sender.other(), context.now);
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
                context.state.handle_end_of_stream(direction.sender, context.now);
                return PumpResult::More;
            }
            Read::Blocked => return moved,
        }
    }
    PumpResult::More
}

/// Writes the pending bytes, without reading.
pub(super) fn flush(direction: &mut Direction, to: &mut Stream, cx: &mut Context<'_>) {
    // A failure shows again at the next write.
    let _ = write_pending(direction, to, cx);
}

/// Writes the pending bytes. Returns true when nothing is left to write.
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

/// Reads once. Writes the bytes at once, and keeps those that are not taken. Nothing may be pending
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
