//! Moving a session's bytes, both ways, in one future.
//!
//! A session that is idle owns no buffer: bytes are read into a scratch buffer of the thread, followed frame by frame, and
//! written to the other side at once. Only what the other side does not take is kept, and while it is kept nothing more
//! is read from that direction: that is the backpressure. A frame of ours goes out only between two frames.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::close::{CloseReason, SessionEnd, Traffic};
use super::registry::SessionHandle;
use super::state::{Action, Rules, SessionState};
use crate::clock::Now;
use crate::stream::Stream;
use crate::ws::frame::{self, ControlKind, FrameFollower, Segment, Sender};

/// What one read takes at most. The thread's, not the session's.
const SCRATCH: usize = 64 * 1024;
/// Reads of one direction in one turn, so that a busy session lets others run.
const READS_PER_TURN: usize = 8;
/// What our pings say; a pong that says it is the answer.
const PING: &[u8] = b"usher";

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

#[derive(Debug)]
pub struct Relay {
    client: Stream,
    upstream: Stream,
    /// From the client to the upstream, and back.
    inbound: Direction,
    outbound: Direction,
    state: SessionState,
    sleep: Pin<Box<Sleep>>,
    asleep_until: Option<Instant>,
    session: Arc<SessionHandle>,
    started: Instant,
}

/// One direction: what is known of its frames and what could not be written yet.
#[derive(Debug)]
struct Direction {
    sender: Sender,
    follower: FrameFollower,
    pending: Vec<u8>,
    written: usize,
    /// A frame of ours that waits for the end of the frame that is passing.
    injection: Option<Injection>,
    needs_flush: bool,
    source: Source,
    bytes: u64,
    /// What one read takes, and so what is kept at most while the receiver does not take it.
    most: usize,
}

#[derive(Debug)]
struct Injection {
    wire: Vec<u8>,
    /// A close frame: nothing of the peer's may follow it.
    is_last: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Open,
    /// Nothing more may be forwarded: what still comes is read and dropped, but for the answer to our close frame.
    Drained,
    /// Nothing more comes, or what comes cannot be followed.
    Ended,
}

enum Read {
    Bytes,
    EndOfStream,
    Blocked,
}

impl Relay {
    /// `early_in` and `early_out` are what each side sent before the relay began.
    pub fn new(client: Stream, upstream: Stream, rules: Rules, session: Arc<SessionHandle>, early_in: &[u8], early_out: &[u8]) -> Self {
        let started = Instant::now();
        let mut relay = Self {
            client,
            upstream,
            inbound: Direction::new(Sender::Client, rules.buffered_bytes),
            outbound: Direction::new(Sender::Upstream, rules.buffered_bytes),
            state: SessionState::new(rules, started),
            sleep: Box::pin(tokio::time::sleep_until(started + Duration::from_secs(3600))),
            asleep_until: None,
            session,
            started,
        };
        let whole = relay.inbound.take_in(&mut relay.state, early_in, started);
        relay.inbound.pending.extend_from_slice(whole);
        let whole = relay.outbound.take_in(&mut relay.state, early_out, started);
        relay.outbound.pending.extend_from_slice(whole);
        relay
    }

    fn end(&self, reason: CloseReason) -> SessionEnd {
        let traffic = |direction: &Direction| Traffic { bytes: direction.bytes, messages: direction.follower.messages() };
        SessionEnd {
            reason,
            code: self.state.close_code(),
            duration: self.started.elapsed(),
            from_client: traffic(&self.inbound),
            from_upstream: traffic(&self.outbound),
        }
    }

    fn act(&mut self, action: Action, now: Instant) {
        match action {
            Action::Ping => self.outbound.inject(frame::ping(PING), false),
            Action::Close(reason) => {
                let facts = reason.facts();
                if let Some((code, text)) = facts.to_client {
                    self.outbound.inject(frame::close(code, text, None), true);
                }
                if let Some((code, text)) = facts.to_upstream {
                    self.inbound.inject(frame::close(code, text, Some(random_mask())), true);
                }
                // A peer that went away in the middle of a frame leaves no place between frames: the other side is not
                // told anything then, its connection just ends.
                for (direction, receiver) in [(&mut self.inbound, Sender::Upstream), (&mut self.outbound, Sender::Client)] {
                    if direction.source == Source::Ended && direction.injection.take().is_some() {
                        self.state.handle_end_of_stream(receiver, now);
                    }
                }
            }
            Action::End(_) => {}
        }
    }

    /// Moves what can be moved; true if anything did.
    fn pump(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let inbound = pump(&mut self.inbound, &mut self.state, &mut self.client, &mut self.upstream, cx, now);
        let outbound = pump(&mut self.outbound, &mut self.state, &mut self.upstream, &mut self.client, cx, now);
        inbound || outbound
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.state.next_deadline() else { return Poll::Pending };
        if self.asleep_until != Some(deadline) {
            self.sleep.as_mut().reset(deadline);
            self.asleep_until = Some(deadline);
        }
        let due = self.sleep.as_mut().poll(cx);
        if due.is_ready() {
            self.asleep_until = None;
        }
        due
    }

    /// Nothing of ours or of the peers' waits to be written.
    fn is_flushed(&self) -> bool {
        self.inbound.is_flushed() && self.outbound.is_flushed()
    }
}

impl Future for Relay {
    type Output = SessionEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        let this = self.get_mut();
        let now = Now::read();
        if let Poll::Ready(reason) = this.session.poll_close(cx) {
            this.state.handle_close_request(reason, now.mono);
        }
        let mut turns = 0;
        loop {
            let moved = this.pump(cx, now.mono);
            if moved {
                this.session.touch(now.wall);
            }
            let mut acted = false;
            while let Some(action) = this.state.poll_action() {
                if let Action::End(reason) = action {
                    // The last frames go out first, as long as the linger timer runs.
                    if this.is_flushed() || this.state.next_deadline().is_none() {
                        let _ = Pin::new(&mut this.client).poll_shutdown(cx);
                        let _ = Pin::new(&mut this.upstream).poll_shutdown(cx);
                        return Poll::Ready(this.end(reason));
                    }
                    break;
                }
                this.act(action, now.mono);
                acted = true;
            }
            if this.poll_deadline(cx).is_ready() {
                this.state.handle_deadline(Instant::now());
                acted = true;
            }
            turns += 1;
            if !moved && !acted {
                return Poll::Pending;
            }
            if turns >= READS_PER_TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

impl Direction {
    fn new(sender: Sender, buffered_bytes: usize) -> Self {
        Self {
            sender,
            most: buffered_bytes.clamp(1, SCRATCH),
            follower: FrameFollower::new(sender),
            pending: Vec::new(),
            written: 0,
            injection: None,
            needs_flush: false,
            source: Source::Open,
            bytes: 0,
        }
    }

    fn inject(&mut self, wire: Vec<u8>, is_last: bool) {
        match &mut self.injection {
            Some(earlier) => {
                earlier.wire.extend(wire);
                earlier.is_last |= is_last;
            }
            None => self.injection = Some(Injection { wire, is_last }),
        }
        self.place_injection();
    }

    /// Puts a waiting frame behind what is pending, if that ends between two frames.
    fn place_injection(&mut self) {
        if self.follower.at_boundary()
            && let Some(injection) = self.injection.take()
        {
            self.pending.extend(injection.wire);
            if injection.is_last && self.source == Source::Open {
                self.source = Source::Drained;
            }
        }
    }

    fn is_flushed(&self) -> bool {
        self.pending.is_empty() && !self.needs_flush
    }

    /// How much one read may take: while a frame of ours waits, no more than the rest of the frame that is passing.
    fn read_limit(&self) -> usize {
        match &self.injection {
            Some(_) => usize::try_from(self.follower.remaining()).unwrap_or(SCRATCH).clamp(1, self.most),
            None => self.most,
        }
    }

    /// Follows bytes of the sender. Gives back what can be written as it is; everything else is in `pending`, before it
    /// in order.
    fn take_in<'a>(&mut self, state: &mut SessionState, bytes: &'a [u8], now: Instant) -> &'a [u8] {
        self.bytes += bytes.len() as u64;
        let (sender, pending) = (self.sender, &mut self.pending);
        if sender == Sender::Client {
            state.handle_client_bytes(now);
        }
        let forwards = self.source == Source::Open;
        let mut whole: &[u8] = &[];
        let followed = self.follower.follow(bytes, |segment| {
            if let Segment::Control(control) = &segment {
                match control.kind {
                    ControlKind::Pong if sender == Sender::Client && state.handle_pong(control.payload == PING) => return,
                    ControlKind::Close => state.handle_close_frame(sender, control.close_code(), now),
                    _ => {}
                }
            }
            match segment {
                _ if !forwards => {}
                Segment::Pass(bytes) if pending.is_empty() && whole.is_empty() => whole = bytes,
                Segment::Pass(bytes) => {
                    pending.extend_from_slice(std::mem::take(&mut whole));
                    pending.extend_from_slice(bytes);
                }
                Segment::Control(control) => {
                    pending.extend_from_slice(std::mem::take(&mut whole));
                    pending.extend_from_slice(&control.wire);
                }
            }
        });
        if followed.is_err() {
            self.source = Source::Ended;
            state.handle_protocol_error(sender, now);
        }
        whole
    }
}

fn pump(
    direction: &mut Direction,
    state: &mut SessionState,
    from: &mut Stream,
    to: &mut Stream,
    cx: &mut Context<'_>,
    now: Instant,
) -> bool {
    let mut moved = false;
    for _ in 0..READS_PER_TURN {
        match write_pending(direction, to, cx) {
            Ok(true) => {}
            Ok(false) => return moved,
            Err(_) => {
                direction.pending = Vec::new();
                direction.needs_flush = false;
                direction.injection = None;
                if direction.source == Source::Open {
                    direction.source = Source::Drained;
                }
                state.handle_write_failed(direction.sender.other(), now);
                moved = true;
            }
        }
        if direction.source == Source::Ended {
            return moved;
        }
        match read(direction, state, from, to, cx, now) {
            Read::Bytes => moved = true,
            Read::EndOfStream => {
                direction.source = Source::Ended;
                state.handle_end_of_stream(direction.sender, now);
                return true;
            }
            Read::Blocked => return moved,
        }
    }
    moved
}

/// True when nothing is left to write.
fn write_pending(direction: &mut Direction, to: &mut Stream, cx: &mut Context<'_>) -> io::Result<bool> {
    direction.place_injection();
    while let Some(rest) = direction.pending.get(direction.written..).filter(|rest| !rest.is_empty()) {
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

/// One read; what it brings is written at once, and what is not taken is kept. Nothing is pending before.
fn read(
    direction: &mut Direction,
    state: &mut SessionState,
    from: &mut Stream,
    to: &mut Stream,
    cx: &mut Context<'_>,
    now: Instant,
) -> Read {
    SCRATCH_BUFFER.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch.split_at_mut(direction.read_limit()).0);
        match Pin::new(from).poll_read(cx, &mut buffer) {
            Poll::Pending => return Read::Blocked,
            Poll::Ready(Err(_)) => return Read::EndOfStream,
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Read::EndOfStream,
            Poll::Ready(Ok(())) => {}
        }
        let mut whole = direction.take_in(state, buffer.filled(), now);
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

fn random_mask() -> [u8; 4] {
    let mut mask = [0; 4];
    // Without randomness the frame is still well formed; masks protect caches, not secrets.
    let _ = rand::fill(&mut mask);
    mask
}
