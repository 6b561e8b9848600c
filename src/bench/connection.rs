//! An open WebSocket of a client: sends and receives whole messages, and answers pings.

use std::collections::VecDeque;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::stream::Stream;
use crate::ws::close_code::CloseCode;
use crate::ws::follow::{FollowRules, FrameFollower, Hold, Pause, Segment};
use crate::ws::frame::{self, ControlKind, FrameError, Message, Sender};

/// The largest greeting or answer of a server. Larger messages are ignored.
const LARGEST_ANSWER: usize = 64 * 1024;
/// The size of the read buffer. It is small, because each of thousands of idle connections has one.
const READ_SIZE: usize = 1024;

pub struct BenchConnection {
    stream: Stream,
    follower: FrameFollower,
    scratch: Vec<u8>,
    inbox: VecDeque<Received>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Message(Message),
    Close(CloseCode),
}

impl BenchConnection {
    /// Creates a connection. `early` are bytes that arrived with the 101. `message_bytes` is the
    /// size of the largest echo.
    pub fn new(stream: Stream, early: &[u8], message_bytes: usize) -> Result<Self, FrameError> {
        let hold = Hold { most: message_bytes.max(LARGEST_ANSWER), binary: true };
        let follower = FrameFollower::new(
            Sender::Upstream,
            FollowRules { hold: Some(hold), ..FollowRules::FOLLOW_ONLY },
        );
        let scratch = vec![0; message_bytes.clamp(READ_SIZE, LARGEST_ANSWER)];
        let mut connection = Self { stream, follower, scratch, inbox: VecDeque::new() };
        // A ping in `early` is not answered. Servers do not close a connection for that.
        take_in(&mut connection.follower, early, &mut connection.inbox)?;
        Ok(connection)
    }

    pub async fn send(&mut self, message: &Message) -> io::Result<()> {
        self.write(&message.to_wire(Sender::Client)).await
    }

    /// Returns the next message, or the close frame.
    pub async fn receive(&mut self) -> io::Result<Received> {
        loop {
            if let Some(received) = self.inbox.pop_front() {
                return Ok(received);
            }
            let count = self.stream.read(&mut self.scratch).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let pongs =
                take_in(&mut self.follower, self.scratch.split_at(count).0, &mut self.inbox)
                    .map_err(io::Error::other)?;
            if !pongs.is_empty() {
                self.write(&pongs).await?;
            }
        }
    }

    /// Sends a message, and waits for the same one. Returns false if the connection ended before.
    /// Ignores other messages, so that an error message of the server does not count as an echo.
    pub async fn echo(&mut self, message: &Message) -> bool {
        self.echo_of(&message.to_wire(Sender::Client), message).await
    }

    /// The same for a message that is already encoded as a frame.
    pub async fn echo_of(&mut self, wire: &[u8], message: &Message) -> bool {
        if self.write(wire).await.is_err() {
            return false;
        }
        while let Ok(Received::Message(answer)) = self.receive().await {
            if answer == *message {
                return true;
            }
        }
        false
    }

    /// Sends a close frame, and waits until the server has closed the connection (RFC 6455 section
    /// 7.1.1: the server closes first).
    pub async fn close(mut self) {
        if self.write(&frame::close(CloseCode::NORMAL, "", Sender::Client)).await.is_err() {
            return;
        }
        while let Ok(Received::Message(_)) = self.receive().await {}
        while let Ok(1..) = self.stream.read(&mut self.scratch).await {}
    }

    async fn write(&mut self, wire: &[u8]) -> io::Result<()> {
        self.stream.write_all(wire).await?;
        self.stream.flush().await
    }
}

/// Follows the bytes, and returns the pongs for the pings in them.
fn take_in(
    follower: &mut FrameFollower,
    mut bytes: &[u8],
    inbox: &mut VecDeque<Received>,
) -> Result<Vec<u8>, FrameError> {
    let mut pongs = Vec::new();
    while let Some(segment) = follower.next(&mut bytes, Pause::Never)? {
        match segment {
            Segment::Message(held) => inbox.push_back(Received::Message(Message {
                is_text: held.is_text,
                payload: held.payload,
            })),
            Segment::Control(control) => match control.kind {
                ControlKind::Close => inbox.push_back(Received::Close(control.close_code())),
                ControlKind::Ping => pongs.extend(frame::pong(&control.payload, Sender::Client)),
                ControlKind::Pong | ControlKind::Other => {}
            },
            Segment::Pass(_) | Segment::Bytes(_) | Segment::Compressed(_) => {}
        }
    }
    Ok(pongs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_closes_are_taken_in_and_pings_answered() {
        let mut wire = Message::text("one").to_wire(Sender::Upstream);
        wire.extend(frame::ping(b"there?"));
        wire.extend(Message::binary(vec![7; 300]).to_wire(Sender::Upstream));
        wire.extend(frame::close(CloseCode::POLICY, "no", Sender::Upstream));
        let hold = Hold { most: LARGEST_ANSWER, binary: true };
        let mut follower = FrameFollower::new(
            Sender::Upstream,
            FollowRules { hold: Some(hold), ..FollowRules::FOLLOW_ONLY },
        );
        let (mut inbox, mut pongs) = (VecDeque::new(), Vec::new());
        for piece in wire.chunks(5) {
            pongs.extend(take_in(&mut follower, piece, &mut inbox).unwrap());
        }
        let expected = [
            Received::Message(Message::text("one")),
            Received::Message(Message::binary(vec![7; 300])),
            Received::Close(CloseCode::POLICY),
        ];
        assert_eq!(inbox, expected);
        assert_eq!(pongs.len(), 2 + 4 + 6, "one masked pong");
    }
}
