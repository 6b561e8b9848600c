//! A request's body on its way to a server, and the side that must act next.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::base::clock::Now;
use crate::upstream::bodies::{BodyError, RequestBody};

/// The side that an exchange waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// The client must send more of the body. Its own progress bounds the wait.
    Client,
    /// Since this time the server must take the body, or answer it.
    Server(Instant),
}

#[derive(Debug)]
pub struct Upload {
    body: RequestBody,
    turn: watch::Sender<WaitsFor>,
}

impl Upload {
    pub fn new(body: RequestBody) -> Self {
        Self { body, turn: watch::Sender::new(WaitsFor::Server(Now::read().mono)) }
    }

    /// Begins the server's turn: the request is on its way from now on.
    pub fn begin(&self) {
        self.turn.send_replace(WaitsFor::Server(Now::read().mono));
    }

    pub fn turns(&self) -> watch::Receiver<WaitsFor> {
        self.turn.subscribe()
    }
}

/// Completes when one turn of the server has taken longer than `limit`: it takes no more of the
/// body, or does not answer.
pub async fn server_is_late(mut turns: watch::Receiver<WaitsFor>, limit: Duration) {
    let mut is_gone = false;
    loop {
        let turn = *turns.borrow_and_update();
        let since = match turn {
            WaitsFor::Server(since) => since,
            // A body that is gone will not be sent any further.
            WaitsFor::Client if is_gone => Now::read().mono,
            WaitsFor::Client => {
                is_gone = turns.changed().await.is_err();
                continue;
            }
        };
        tokio::select! {
            () = sleep_until(since + limit) => return,
            changed = turns.changed(), if !is_gone => is_gone = changed.is_err(),
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Pending => this.turn.send_if_modified(|turn| {
                std::mem::replace(turn, WaitsFor::Client) != WaitsFor::Client
            }),
            // hyper has sent the last frame, otherwise it would not ask for this one.
            Poll::Ready(_) => {
                this.turn.send_replace(WaitsFor::Server(Now::read().mono)) == WaitsFor::Client
            }
        };
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn the_server_is_late_by_its_own_turns_alone() {
        let begun = Now::read().mono;
        let turn = watch::Sender::new(WaitsFor::Server(begun));
        let late = tokio::spawn(server_is_late(turn.subscribe(), LIMIT));
        for _ in 0..5 {
            tokio::time::sleep(LIMIT / 2).await;
            turn.send_replace(WaitsFor::Client);
            tokio::time::sleep(LIMIT * 2).await;
            turn.send_replace(WaitsFor::Server(Now::read().mono));
        }
        assert!(!late.is_finished());
        let sent = Now::read().mono;
        drop(turn);
        late.await.unwrap();
        assert_eq!(sent.elapsed().as_secs(), LIMIT.as_secs());
    }
}
