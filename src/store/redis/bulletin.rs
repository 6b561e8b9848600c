//! The stream through which the nodes of a fleet tell each other what is revoked.
//!
//! Beside it stands a shorter one for notices, which are of use now or never: `roster.rs` writes them, and the one connection
//! that waits for revocations hears them too. In a cluster both are in one slot.
//!
//! Writing has a lane like every other operation. Reading blocks its connection until there is something to read, so a reader
//! has a connection of its own, with more time than the others. The stream is bounded and leaves by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, Pipeline, Value, cmd, pipe};
use tokio::time::timeout;

use super::dial::{Connection, DIAL_TIMEOUT, Dialer};
use super::fault::Fault;
use super::lane::Lane;
use super::{BULLETIN_LANE, ask_all, authorities, millis};
use crate::auth::revocation::Revocation;
use crate::clock::{Now, UnixMillis};
use crate::config;
use crate::config::store::Redis;
use crate::store::OpenError;
use crate::telemetry::event::Event;

/// A read that finds nothing ends after this, and the reader looks whether all is as it was.
pub const BLOCK: Duration = Duration::from_secs(1);
/// Entries of one read.
const PAGE: usize = 500;
const FIELD: &str = "order";
/// A hundred years: an order may name any end, and Redis has no numbers for all of them.
const LONGEST_KEPT: Duration = Duration::from_secs(100 * 366 * 86_400);
/// No order that a node gives is longer: its names have a kilobyte each, and JSON may write a byte as six.
const LONGEST: usize = 16 * 1024;
pub(super) const NOTICE: &str = "notice";

#[derive(Debug)]
pub struct Bulletin {
    key: String,
    notices: String,
    /// In milliseconds; a reload may change it.
    keep: AtomicU64,
    /// The latest end of an order that was written or heard.
    latest: AtomicU64,
    length: usize,
    lane: Lane,
    dialer: Dialer,
    /// For one answer to a reader.
    patience: Duration,
}

/// One connection, and how far it has read.
#[derive(Debug)]
pub struct Reader {
    key: String,
    notices: String,
    last_notice: String,
    connection: Connection,
    patience: Duration,
    last: String,
    /// The oldest entry when we looked. Where another one takes its place, entries have gone.
    first: Option<String>,
}

/// What one entry says; `None`: it is not an order, or of a version that we do not know.
pub type Entry = Option<Revocation>;

/// What came while a reader waited.
#[derive(Debug, Default)]
pub struct Heard {
    pub orders: Vec<Entry>,
    /// As they were written. Those of the last minute are heard again on a new connection.
    pub notices: Vec<String>,
}

/// Its hash tag is the other stream's whole key.
pub(super) fn notices_key(prefix: &str) -> String {
    format!("{prefix}notices:{{{prefix}revocations}}")
}

impl Bulletin {
    pub fn open(config: &Redis, revocation: &config::Revocation) -> Result<Self, OpenError> {
        let ca = authorities(config)?;
        let dialer = Arc::new(Dialer::new(config.clone(), ca.clone()));
        let patience = BLOCK + config.timeout;
        Ok(Self {
            key: format!("{}revocations", config.prefix),
            notices: notices_key(&config.prefix),
            keep: AtomicU64::new(millis(revocation.keep)),
            latest: AtomicU64::new(0),
            // Nodes that write the same at once leave room for each other.
            length: revocation.max_entries.saturating_mul(2),
            lane: Lane::new(BULLETIN_LANE, &dialer, config.timeout, config.max_in_flight),
            dialer: Dialer::new(Redis { timeout: patience, ..config.clone() }, ca),
            patience,
        })
    }

    /// How long the stream stays when nothing is written: as long as an order may be in force.
    pub fn set_keep(&self, keep: Duration) {
        self.keep.store(millis(keep), Ordering::Relaxed);
    }

    /// All of them or, where it fails, some of them. Without any it only keeps what is there for longer.
    pub async fn write(&self, orders: &[Revocation]) -> Result<(), Fault> {
        let pipeline = self.pipeline(orders)?;
        self.lane.run("revoke", |connection| ask_all(connection, pipeline), |answers: Vec<Value>| accepted(&answers)).await
    }

    /// The same by a reader's connection, which is known to be there, whatever the breaker still thinks.
    pub async fn write_by(&self, reader: &mut Reader, orders: &[Revocation]) -> Result<(), Fault> {
        let pipeline = self.pipeline(orders)?;
        let answer = timeout(self.patience, reader.connection.pipeline(&pipeline)).await.map_err(|_| Fault::Timeout)?;
        accepted(&answer.map_err(|error| Fault::from(&error))?)
    }

    /// The stream stays for as long as this order is in force, for who starts then has nobody else to hear it from.
    pub fn outlive(&self, order: &Revocation) {
        self.latest.fetch_max(order.until.0, Ordering::Relaxed);
    }

    fn pipeline(&self, orders: &[Revocation]) -> Result<Pipeline, Fault> {
        let mut pipeline = pipe();
        for order in orders {
            self.outlive(order);
            let json = serde_json::to_string(order).map_err(|_| Fault::Other)?;
            pipeline.cmd("XADD").arg(&self.key).arg("MAXLEN").arg("~").arg(self.length).arg("*").arg(FIELD).arg(json);
        }
        let left = UnixMillis(self.latest.load(Ordering::Relaxed)).since(Now::read().wall);
        let keep = self.keep.load(Ordering::Relaxed).max(millis(left)).min(millis(LONGEST_KEPT));
        pipeline.cmd("PEXPIRE").arg(&self.key).arg(keep);
        Ok(pipeline)
    }

    pub async fn connect(&self) -> Result<Reader, Fault> {
        let made = match timeout(DIAL_TIMEOUT, self.dialer.dial()).await {
            Ok(made) => made.map_err(|error| Fault::from(&error)),
            Err(_) => Err(Fault::Timeout),
        };
        let outcome = made.as_ref().map_or_else(|fault| fault.label(), |_| "ok");
        Event::StoreDialled { region: self.dialer.region(), lane: BULLETIN_LANE, outcome }.emit();
        let start = || "0".to_owned();
        let (key, notices) = (self.key.clone(), self.notices.clone());
        Ok(Reader { key, notices, last_notice: start(), connection: made?, patience: self.patience, last: start(), first: None })
    }
}

impl Reader {
    /// The next read begins with the oldest entry.
    pub fn rewind(&mut self) {
        self.last = "0".to_owned();
        self.first = None;
    }

    /// What is there and not read yet, a page of it; nothing at its end.
    pub async fn read(&mut self) -> Result<Vec<Entry>, Fault> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(PAGE).arg("STREAMS").arg(&self.key).arg(&self.last);
        let streams = self.ask(&read).await?;
        Ok(self.note(streams).orders)
    }

    /// The same, and waits for it; nothing after a while.
    pub async fn wait(&mut self) -> Result<Heard, Fault> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(PAGE).arg("BLOCK").arg(millis(BLOCK)).arg("STREAMS");
        read.arg(&self.key).arg(&self.notices).arg(&self.last).arg(&self.last_notice);
        let streams = self.ask(&read).await?;
        Ok(self.note(streams))
    }

    /// Has the stream lost entries since it was read from its beginning: trimmed, emptied, or another one?
    pub async fn has_gap(&mut self) -> Result<bool, Fault> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(1).arg("STREAMS").arg(&self.key).arg("0");
        let oldest = self.ask(&read).await?.into_iter().flat_map(|stream| stream.entries).next().map(|entry| entry.id);
        Ok(self.first.is_some() && oldest != self.first)
    }

    /// How far it has read, and what is said there.
    fn note(&mut self, streams: Vec<Stream>) -> Heard {
        let mut heard = Heard::default();
        for Stream { key, entries } in streams {
            let last = entries.last().map(|entry| entry.id.clone());
            if key == self.notices {
                heard.notices.extend(entries.into_iter().filter_map(|entry| entry.value(NOTICE)));
                self.last_notice = last.unwrap_or_else(|| self.last_notice.clone());
                continue;
            }
            if self.first.is_none() {
                self.first = entries.first().map(|entry| entry.id.clone());
            }
            let order = |entry: Line| serde_json::from_str(&entry.value(FIELD).filter(|json| json.len() <= LONGEST)?).ok();
            heard.orders.extend(entries.into_iter().map(order));
            self.last = last.unwrap_or_else(|| self.last.clone());
        }
        heard
    }

    async fn ask(&mut self, read: &Cmd) -> Result<Vec<Stream>, Fault> {
        let answer = timeout(self.patience, self.connection.command::<Value>(read)).await.map_err(|_| Fault::Timeout)?;
        let answer = answer.map_err(|error| Fault::from(&error))?;
        streams(answer).ok_or(Fault::Protocol)
    }
}

/// An id for each entry, and whether the stream is there: whoever just says yes has written nothing.
fn accepted(answers: &[Value]) -> Result<(), Fault> {
    match answers.split_last() {
        Some((Value::Int(_), ids)) if ids.iter().all(|id| matches!(id, Value::BulkString(_))) => Ok(()),
        _ => Err(Fault::Protocol),
    }
}

#[derive(Debug)]
struct Stream {
    key: String,
    entries: Vec<Line>,
}

/// One entry of a stream, with its one field.
#[derive(Debug)]
struct Line {
    id: String,
    /// `None`: it has another number of fields, or is not text.
    field: Option<(String, String)>,
}

impl Line {
    fn value(self, name: &str) -> Option<String> {
        self.field.filter(|(field, _)| field == name).map(|(_, value)| value)
    }
}

/// In either version of the protocol. A stream that has nothing new is not there.
fn streams(answer: Value) -> Option<Vec<Stream>> {
    let pairs: Vec<(Value, Value)> = match answer {
        Value::Nil => Vec::new(),
        Value::Map(streams) => streams,
        Value::Array(streams) => {
            let pair = |stream| {
                let Value::Array(parts) = stream else { return None };
                <[Value; 2]>::try_from(parts).ok().map(|[key, entries]| (key, entries))
            };
            streams.into_iter().map(pair).collect::<Option<_>>()?
        }
        _ => return None,
    };
    let stream = |(key, entries)| {
        let Value::Array(entries) = entries else { return None };
        Some(Stream { key: text(key)?, entries: entries.into_iter().map(line).collect::<Option<_>>()? })
    };
    pairs.into_iter().map(stream).collect()
}

fn line(entry: Value) -> Option<Line> {
    let Value::Array(parts) = entry else { return None };
    let [id, fields] = <[Value; 2]>::try_from(parts).ok()?;
    let field = match fields {
        Value::Array(fields) => match <[Value; 2]>::try_from(fields) {
            Ok([name, value]) => text(name).zip(text(value)),
            Err(_) => None,
        },
        _ => None,
    };
    Some(Line { id: text(id)?, field })
}

fn text(value: Value) -> Option<String> {
    let Value::BulkString(bytes) = value else { return None };
    String::from_utf8(bytes).ok()
}
