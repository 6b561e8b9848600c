//! Synchronises the deny lists of all nodes.
//!
//! A revocation is first in force on the node that received it. The node then writes it to a stream
//! that all nodes read. Each node has all revocations in memory, so no queue is needed. After a
//! node has read the stream from its beginning, it writes the revocations that it did not find
//! there. In this way, the others get a revocation that was given while the store did not answer,
//! and a store that lost its data gets all revocations again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Fleet;
use super::events::{EntryOutcome, StreamEntryRead, StreamGap, StreamReading, StreamRestored};
use crate::auth::revocation::{RevocationEffect, Revocations};
use crate::base::clock::Now;
use crate::base::repeats::Repeats;
use crate::model::request_id::HexId;
use crate::model::revocation::Revocation;
use crate::model::store_fault::StoreFault;
use crate::session::revoke::revoke_for_node;
use crate::store::redis::RevocationReader;
use crate::telemetry::Event;

/// How long a starting node waits for the existing revocations.
const START: Duration = Duration::from_secs(2);
/// How often the node checks whether the stream has lost entries.
const LOOK: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Reading the stream from its beginning takes at most one part in `REST` of the time. Without this
/// limit, a stream that is trimmed all the time would be read all the time.
const REST: u32 = 20;
const LONGEST_REST: Duration = Duration::from_secs(30);
/// The most revocations that one operation writes.
const PAGE: usize = 64;

impl Fleet {
    pub fn keep_revocations_for(&self, keep: Duration) {
        self.revocation_stream.set_keep(keep);
    }

    /// Writes a revocation that is in force here to the stream. After a failure, it is written
    /// later.
    pub async fn publish(self: Arc<Self>, order: Revocation) -> bool {
        // In a separate task: the caller may disconnect before the revocation is written.
        let telling = tokio::spawn(async move {
            let written = self.revocation_stream.write(&[order]).await;
            if written.is_err() {
                self.unwritten.store(true, Ordering::SeqCst);
            }
            written.is_ok()
        });
        telling.await.unwrap_or(false)
    }

    /// Reads the existing revocations before the first client is accepted, if the store answers.
    pub async fn join(&self) -> Option<RevocationReader> {
        let repeats = Repeats::default();
        let joined = timeout(START, async {
            loop {
                match self.connect().await {
                    Ok(reader) => return reader,
                    Err(fault) => report(&repeats, Some(fault)),
                }
                sleep(SHORTEST_PAUSE).await;
            }
        });
        joined.await.ok()
    }

    /// Reads the revocations of the other nodes, for ever.
    pub async fn follow(self: Arc<Self>, mut joined: Option<RevocationReader>) {
        let (mut pause, repeats) = (SHORTEST_PAUSE, Repeats::default());
        loop {
            let reader = match joined.take() {
                Some(reader) => Ok(reader),
                None => self.connect().await,
            };
            let fault = match reader {
                Ok(reader) => {
                    pause = SHORTEST_PAUSE;
                    report(&repeats, None);
                    self.follow_stream(reader).await
                }
                Err(fault) => fault,
            };
            report(&repeats, Some(fault));
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self) -> Result<RevocationReader, StoreFault> {
        let mut reader = self.revocation_stream.connect().await?;
        self.agree(&mut reader).await?;
        Ok(reader)
    }

    /// Follows the stream until a fault, which it returns.
    async fn follow_stream(self: &Arc<Self>, mut reader: RevocationReader) -> StoreFault {
        let (mut look, mut next) = (Now::read().mono + LOOK, Now::read().mono);
        loop {
            match reader.wait().await {
                Ok(heard) => {
                    self.apply_entries(
                        &heard.orders,
                        None,
                        reader.by_the_slower_clock(Now::read()),
                    );
                    self.receive_notices(&heard.notices);
                }
                Err(fault) => return fault,
            }
            let now = Now::read().mono;
            if now < look {
                continue;
            }
            look = now + LOOK;
            let has_gap = match reader.has_gap().await {
                Ok(has_gap) => has_gap,
                Err(fault) => return fault,
            };
            if now < next || !(has_gap || self.unwritten.load(Ordering::SeqCst)) {
                continue;
            }
            if has_gap {
                StreamGap.emit();
            }
            if let Err(fault) = self.agree(&mut reader).await {
                return fault;
            }
            next = Now::read().mono + (now.elapsed() * REST).min(LONGEST_REST);
        }
    }

    /// Reads the stream from its beginning, and writes the revocations that are missing in it.
    /// Returns an error only if reading fails. A failed write is tried again later.
    async fn agree(&self, reader: &mut RevocationReader) -> Result<(), StoreFault> {
        let was_unwritten = self.unwritten.swap(false, Ordering::SeqCst);
        let outcome = self.exchange(reader, was_unwritten).await;
        if !matches!(outcome, Ok(Ok(()))) {
            self.unwritten.store(true, Ordering::SeqCst);
        }
        outcome.map(|_| ())
    }

    async fn exchange(
        &self,
        reader: &mut RevocationReader,
        was_unwritten: bool,
    ) -> Result<Result<(), StoreFault>, StoreFault> {
        // The revocations of the stream alone. The stream itself is bounded.
        let found = Revocations::new(usize::MAX);
        reader.rewind();
        self.read_all(reader, &found).await?;
        let now = reader.by_the_slower_clock(Now::read());
        let mut written = 0;
        let mut orders = self.revocations.snapshot(now);
        // All nodes may do this at the same time. Each begins at a random place, so that it later
        // finds the revocations that another node has already written.
        let begin = orders.len() / 16 * HexId::random().first_digit();
        orders.rotate_left(begin);
        for page in orders.chunks(PAGE) {
            let missing = page
                .iter()
                .filter(|order| found.apply((*order).clone(), now) == Ok(RevocationEffect::New));
            let missing: Vec<Revocation> = missing.cloned().collect();
            if missing.is_empty() {
                continue;
            }
            if self.revocation_stream.write_by(reader, &missing).await.is_err()
                && let Err(fault) = self.revocation_stream.write(&missing).await
            {
                return Ok(Err(fault));
            }
            written += missing.len();
            // Other nodes may write the same revocations. Those need not be written again.
            self.read_all(reader, &found).await?;
        }
        if written > 0 {
            StreamRestored { count: written }.emit();
        }
        // This write is the probe with which the breaker closes.
        Ok(if was_unwritten { self.revocation_stream.write(&[]).await } else { Ok(()) })
    }

    async fn read_all(
        &self,
        reader: &mut RevocationReader,
        found: &Revocations,
    ) -> Result<(), StoreFault> {
        loop {
            let entries = reader.read().await?;
            if entries.is_empty() {
                return Ok(());
            }
            self.apply_entries(&entries, Some(found), reader.by_the_slower_clock(Now::read()));
        }
    }

    /// Applies entries of the stream. `found` is set while the stream is read from its beginning.
    /// Those revocations may be old, so their delay is not measured.
    fn apply_entries(&self, entries: &[Option<Revocation>], found: Option<&Revocations>, now: Now) {
        for entry in entries {
            let Some(order) = entry else {
                StreamEntryRead { outcome: EntryOutcome::Unreadable, delay: None }.emit();
                continue;
            };
            self.revocation_stream.keep_stream_for(order, now);
            let outcome = match revoke_for_node(&self.registry, &self.revocations, order, now) {
                Ok(RevocationEffect::New) => EntryOutcome::New,
                Ok(RevocationEffect::Known) => EntryOutcome::Known,
                Ok(RevocationEffect::Over) => EntryOutcome::Over,
                Err(_) => EntryOutcome::Full,
            };
            let delay = (found.is_none() && outcome == EntryOutcome::New)
                .then(|| Now::read().wall.since(order.at));
            StreamEntryRead { outcome, delay }.emit();
            // This list has no bound of its own: the stream is bounded.
            let _ = found.map(|found| found.apply(order.clone(), now));
        }
    }
}

/// Reports whether the stream is read. `None`: it is.
fn report(repeats: &Repeats<StoreFault>, fault: Option<StoreFault>) {
    StreamReading { is_news: repeats.is_news(fault, Now::read().mono), fault }.emit();
}
