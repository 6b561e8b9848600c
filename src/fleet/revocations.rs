//! One deny list on all nodes.
//!
//! An order is in force where it was given first, then it is written to a stream that all nodes
//! read. Each holds in memory what is in force, so nothing has to be queued: whenever a node has
//! read the stream from its beginning, it writes what it knows and did not find there. That is how
//! an order given while the store was away comes to the others, and how a store that lost its
//! memory learns again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Fleet;
use super::events::{EntryOutcome, StreamEntryRead, StreamGap, StreamReading, StreamRestored};
use crate::auth::revocation::{Applied, Revocations};
use crate::base::clock::Now;
use crate::model::request_id::HexId;
use crate::model::revocation::Revocation;
use crate::model::store_fault::StoreFault;
use crate::session::revoke::revoke_for_node;
use crate::store::redis::Reader;
use crate::telemetry::Event;

/// A node that starts waits no longer for what was revoked before it came.
const START: Duration = Duration::from_secs(2);
/// Between two looks whether the stream is still the one that was read.
const LOOK: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Reading the stream from its beginning takes at most one part in so many of the time, however
/// often it has lost entries or cannot be written: a stream that is trimmed all the time would be
/// read all the time.
const REST: u32 = 20;
const LONGEST_REST: Duration = Duration::from_secs(30);
/// Orders written by one operation.
const PAGE: usize = 64;

impl Fleet {
    pub fn keep_revocations_for(&self, keep: Duration) {
        self.bulletin.set_keep(keep);
    }

    /// Tells the others of an order that is in force here. When it fails, they are told later.
    pub async fn tell(self: Arc<Self>, order: Revocation) -> bool {
        // In a task of its own: whoever gave the order may be gone before it is written.
        let telling = tokio::spawn(async move {
            let written = self.bulletin.write(&[order]).await;
            if written.is_err() {
                self.unwritten.store(true, Ordering::SeqCst);
            }
            written.is_ok()
        });
        telling.await.unwrap_or(false)
    }

    /// Before anybody is let in: hears what was revoked, if the store is there to tell.
    pub async fn join(&self) -> Option<Reader> {
        let joined = timeout(START, async {
            loop {
                match self.connect().await {
                    Ok(reader) => return reader,
                    Err(fault) => StreamReading { fault: Some(fault) }.emit(),
                }
                sleep(SHORTEST_PAUSE).await;
            }
        });
        joined.await.ok()
    }

    /// Reads what the others write, for ever.
    pub async fn follow(self: Arc<Self>, mut joined: Option<Reader>) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let reader = match joined.take() {
                Some(reader) => Ok(reader),
                None => self.connect().await,
            };
            let fault = match reader {
                Ok(reader) => {
                    pause = SHORTEST_PAUSE;
                    StreamReading { fault: None }.emit();
                    self.keep_up(reader).await
                }
                Err(fault) => fault,
            };
            StreamReading { fault: Some(fault) }.emit();
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self) -> Result<Reader, StoreFault> {
        let mut reader = self.bulletin.connect().await?;
        self.agree(&mut reader).await?;
        Ok(reader)
    }

    /// Gives back why it ended.
    async fn keep_up(self: &Arc<Self>, mut reader: Reader) -> StoreFault {
        let (mut look, mut next) = (Now::read().mono + LOOK, Now::read().mono);
        loop {
            match reader.wait().await {
                Ok(heard) => {
                    self.apply_entries(
                        &heard.orders,
                        None,
                        reader.by_the_slower_clock(Now::read()),
                    );
                    self.hear_notices(&heard.notices);
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

    /// Reads the stream from its beginning and writes what is missing in it. Only reading can fail:
    /// who cannot write hears all the same, and tries again.
    async fn agree(&self, reader: &mut Reader) -> Result<(), StoreFault> {
        let was_unwritten = self.unwritten.swap(false, Ordering::SeqCst);
        let outcome = self.exchange(reader, was_unwritten).await;
        if !matches!(outcome, Ok(Ok(()))) {
            self.unwritten.store(true, Ordering::SeqCst);
        }
        outcome.map(|_| ())
    }

    async fn exchange(
        &self,
        reader: &mut Reader,
        was_unwritten: bool,
    ) -> Result<Result<(), StoreFault>, StoreFault> {
        // What the stream says, and nothing else. It is bounded itself.
        let found = Revocations::new(usize::MAX);
        reader.rewind();
        self.read_all(reader, &found).await?;
        let now = reader.by_the_slower_clock(Now::read());
        let mut written = 0;
        let mut orders = self.revocations.snapshot(now);
        // All nodes may be doing this now. Each begins somewhere else, and meets what the next one
        // has written.
        let begin = orders.len() / 16 * HexId::random().first_digit();
        orders.rotate_left(begin);
        for page in orders.chunks(PAGE) {
            let missing =
                page.iter().filter(|order| found.apply((*order).clone(), now) == Ok(Applied::New));
            let missing: Vec<Revocation> = missing.cloned().collect();
            if missing.is_empty() {
                continue;
            }
            if self.bulletin.write_by(reader, &missing).await.is_err()
                && let Err(fault) = self.bulletin.write(&missing).await
            {
                return Ok(Err(fault));
            }
            written += missing.len();
            // Others may be writing the same: what they have written need not be written again.
            self.read_all(reader, &found).await?;
        }
        if written > 0 {
            StreamRestored { count: written }.emit();
        }
        // Nothing else would ask the breaker to close.
        Ok(if was_unwritten { self.bulletin.write(&[]).await } else { Ok(()) })
    }

    async fn read_all(&self, reader: &mut Reader, found: &Revocations) -> Result<(), StoreFault> {
        loop {
            let entries = reader.read().await?;
            if entries.is_empty() {
                return Ok(());
            }
            self.apply_entries(&entries, Some(found), reader.by_the_slower_clock(Now::read()));
        }
    }

    /// `found` is given where the stream is read from its beginning: then the orders are old, and
    /// how late they come says nothing.
    fn apply_entries(&self, entries: &[Option<Revocation>], found: Option<&Revocations>, now: Now) {
        for entry in entries {
            let Some(order) = entry else {
                StreamEntryRead { outcome: EntryOutcome::Unreadable, delay: None }.emit();
                continue;
            };
            self.bulletin.outlive(order, now);
            let outcome = match revoke_for_node(&self.registry, &self.revocations, order, now) {
                Ok(Applied::New) => EntryOutcome::New,
                Ok(Applied::Known) => EntryOutcome::Known,
                Ok(Applied::Over) => EntryOutcome::Over,
                Err(_) => EntryOutcome::Full,
            };
            let delay = (found.is_none() && outcome == EntryOutcome::New)
                .then(|| Now::read().wall.since(order.at));
            StreamEntryRead { outcome, delay }.emit();
            // Its bound is the stream's.
            let _ = found.map(|found| found.apply(order.clone(), now));
        }
    }
}
