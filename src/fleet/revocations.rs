//! One deny list on all nodes.
//!
//! An order is in force where it was given first, then it is written to a stream that all nodes read. Each holds in memory
//! what is in force, so nothing has to be queued: whenever a node has read the stream from its beginning, it writes what it
//! knows and did not find there. That is how an order given while the store was away comes to the others, and how a store
//! that lost its memory learns again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Fleet;
use crate::auth::revocation::{Applied, Revocation, Revocations};
use crate::clock::Now;
use crate::session::revoke::hear;
use crate::store::redis::{Fault, Reader};
use crate::telemetry::event::Event;
use crate::telemetry::request_id::HexId;

/// A node that starts waits no longer for what was revoked before it came.
const START: Duration = Duration::from_secs(2);
/// Between two looks whether the stream is still the one that was read.
const LOOK: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Reading the stream from its beginning takes at most one part in so many of the time, however often it has lost entries or
/// cannot be written: a stream that is trimmed all the time would be read all the time.
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
                    Err(fault) => Event::FleetReading { fault: Some(fault.label()) }.emit(),
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
                    Event::FleetReading { fault: None }.emit();
                    self.keep_up(reader).await
                }
                Err(fault) => fault,
            };
            Event::FleetReading { fault: Some(fault.label()) }.emit();
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self) -> Result<Reader, Fault> {
        let mut reader = self.bulletin.connect().await?;
        self.agree(&mut reader).await?;
        Ok(reader)
    }

    /// Gives back why it ended.
    async fn keep_up(self: &Arc<Self>, mut reader: Reader) -> Fault {
        let (mut look, mut next) = (Instant::now() + LOOK, Instant::now());
        loop {
            match reader.wait().await {
                Ok(heard) => {
                    self.hear(&heard.orders, None);
                    self.hear_notices(&heard.notices);
                }
                Err(fault) => return fault,
            }
            let now = Instant::now();
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
                Event::FleetGap.emit();
            }
            if let Err(fault) = self.agree(&mut reader).await {
                return fault;
            }
            next = Instant::now() + (now.elapsed() * REST).min(LONGEST_REST);
        }
    }

    /// Reads the stream from its beginning and writes what is missing in it. Only reading can fail: who cannot write hears all
    /// the same, and tries again.
    async fn agree(&self, reader: &mut Reader) -> Result<(), Fault> {
        let was_unwritten = self.unwritten.swap(false, Ordering::SeqCst);
        let outcome = self.exchange(reader, was_unwritten).await;
        if !matches!(outcome, Ok(Ok(()))) {
            self.unwritten.store(true, Ordering::SeqCst);
        }
        outcome.map(|_| ())
    }

    async fn exchange(&self, reader: &mut Reader, was_unwritten: bool) -> Result<Result<(), Fault>, Fault> {
        // What the stream says, and nothing else. It is bounded itself.
        let found = Revocations::new(usize::MAX);
        reader.rewind();
        self.read_all(reader, &found).await?;
        let now = Now::read().wall;
        let mut written = 0;
        let mut orders = self.revocations.snapshot(now);
        // All nodes may be doing this now. Each begins somewhere else, and meets what the next one has written.
        let begin = orders.len() / 16 * HexId::random().first_digit();
        orders.rotate_left(begin);
        for page in orders.chunks(PAGE) {
            let missing = page.iter().filter(|order| found.apply((*order).clone(), now) == Ok(Applied::New));
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
            Event::FleetTold { count: written }.emit();
        }
        // Nothing else would ask the breaker to close.
        Ok(if was_unwritten { self.bulletin.write(&[]).await } else { Ok(()) })
    }

    async fn read_all(&self, reader: &mut Reader, found: &Revocations) -> Result<(), Fault> {
        loop {
            let entries = reader.read().await?;
            if entries.is_empty() {
                return Ok(());
            }
            self.hear(&entries, Some(found));
        }
    }

    /// `found` is given where the stream is read from its beginning: then the orders are old, and how late they come says
    /// nothing.
    fn hear(&self, entries: &[Option<Revocation>], found: Option<&Revocations>) {
        for entry in entries {
            let now = Now::read();
            let Some(order) = entry else {
                Event::FleetHeard { outcome: "unreadable", delay: None }.emit();
                continue;
            };
            self.bulletin.outlive(order);
            let outcome = match hear(&self.registry, &self.revocations, order, now) {
                Ok(Applied::New) => "new",
                Ok(Applied::Known) => "known",
                Ok(Applied::Over) => "over",
                Err(_) => "full",
            };
            let delay = (found.is_none() && outcome == "new").then(|| now.wall.since(order.at));
            Event::FleetHeard { outcome, delay }.emit();
            // Its bound is the stream's.
            let _ = found.map(|found| found.apply(order.clone(), now.wall));
        }
    }
}
