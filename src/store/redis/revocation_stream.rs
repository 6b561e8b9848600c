//! The stream of revocations for the nodes of a fleet.
//!
//! A second, shorter stream has notices, which are useful only for a short time. `roster.rs` writes
//! them, and the connection that waits for revocations also reads them. In a cluster, both streams
//! are in one slot.
//!
//! Writing uses a channel like every other operation. Reading blocks its connection until there is
//! an entry, so a reader has its own connection, with a longer timeout than the others. The stream
//! is bounded, and it expires.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{Cmd, Pipeline, Value, cmd, pipe};
use tokio::time::{Instant, timeout};

use super::channel::RedisChannel;
use super::dial::{DIAL_TIMEOUT, RedisConnection, RedisDialler};
use super::events::{Operation, Purpose, StoreDialled};
use super::{ask_all, authorities, millis};
use crate::base::clock::{Now, UnixMillis};
use crate::base::lock::lock;
use crate::base::repeats::Repeats;
use crate::config;
use crate::config::store::Redis;
use crate::model::revocation::Revocation;
use crate::model::store_fault::StoreFault;
use crate::store::StoreOpenError;
use crate::telemetry::Event;

/// A read without new entries ends after this time. The reader then checks the stream for gaps.
pub const BLOCK: Duration = Duration::from_secs(1);
/// The most entries of one read.
const PAGE: usize = 500;
const FIELD: &str = "order";
/// The longest life of the stream, 100 years. A revocation may have any end, but Redis cannot
/// represent all of them.
const LONGEST_KEPT: Duration = Duration::from_secs(100 * 366 * 86_400);
/// The longest entry, in bytes. A revocation is never longer: each of its names has at most 1 KiB,
/// and JSON may encode one byte as six.
const LONGEST: usize = 16 * 1024;
pub(super) const NOTICE: &str = "notice";

#[derive(Debug)]
pub struct RevocationStream {
    key: String,
    notices: String,
    /// How long the stream lives after the last write, in milliseconds. A reload may change it.
    keep: AtomicU64,
    /// The latest end of a revocation that was written or read, by each clock.
    latest: Mutex<Option<(UnixMillis, Instant)>>,
    length: usize,
    channel: RedisChannel,
    dialer: RedisDialler,
    failed_dials: Repeats<StoreFault>,
    /// The timeout for one answer to a reader.
    patience: Duration,
}

/// A connection that reads the streams, and its position in them.
#[derive(Debug)]
pub struct RevocationReader {
    key: String,
    notices: String,
    last_notice: String,
    connection: RedisConnection,
    patience: Duration,
    last: String,
    clock: Option<ServerClock>,
    /// The oldest entry at the last check. If another entry is now the oldest, entries are lost.
    first: Option<String>,
}

/// The wall clock of Redis when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ServerClock {
    wall: UnixMillis,
    read_at: Instant,
}

/// The content of one entry; `None`: it is not a revocation, or its version is unknown.
pub type StreamEntry = Option<Revocation>;

/// The entries that a reader received.
#[derive(Debug, Default)]
pub struct StreamBatch {
    pub orders: Vec<StreamEntry>,
    /// The notices as written. A new connection reads the notices of the last minute again.
    pub notices: Vec<String>,
}

/// Returns the key of the notices. Its hash tag is the whole key of the other stream, so that both
/// are in one slot.
pub(super) fn notices_key(prefix: &str) -> String {
    format!("{prefix}notices:{{{prefix}revocations}}")
}

impl RevocationStream {
    pub fn open(config: &Redis, revocation: &config::Revocation) -> Result<Self, StoreOpenError> {
        let ca = authorities(config)?;
        let dialer = Arc::new(RedisDialler::new(config.clone(), ca.clone()));
        let patience = BLOCK + config.timeout;
        Ok(Self {
            key: format!("{}revocations", config.prefix),
            notices: notices_key(&config.prefix),
            keep: AtomicU64::new(millis(revocation.keep)),
            latest: Mutex::default(),
            // Twice the limit: several nodes may write the same revocations at the same time.
            length: revocation.max_entries.saturating_mul(2),
            channel: RedisChannel::new(
                Purpose::Revocations,
                &dialer,
                config.timeout,
                config.max_in_flight,
            ),
            dialer: RedisDialler::new(Redis { timeout: patience, ..config.clone() }, ca),
            failed_dials: Repeats::default(),
            patience,
        })
    }

    /// Sets how long the stream lives after the last write: as long as a revocation may be in
    /// force.
    pub fn set_keep(&self, keep: Duration) {
        self.keep.store(millis(keep), Ordering::Relaxed);
    }

    /// Writes revocations. After a failure, some of them may be written. Without any, the call only
    /// extends the life of the stream.
    pub async fn write(&self, orders: &[Revocation]) -> Result<(), StoreFault> {
        let pipeline = self.pipeline(orders, Now::read())?;
        self.channel
            .run(
                Operation::Revoke,
                |connection| ask_all(connection, pipeline),
                |answers: Vec<Value>| accepted(&answers),
            )
            .await
    }

    /// Writes revocations over the connection of a reader. That connection works, even if the
    /// breaker is still open.
    pub async fn write_by(
        &self,
        reader: &mut RevocationReader,
        orders: &[Revocation],
    ) -> Result<(), StoreFault> {
        let pipeline = self.pipeline(orders, Now::read())?;
        let answer = timeout(self.patience, reader.connection.pipeline(&pipeline))
            .await
            .map_err(|_| StoreFault::Timeout)?;
        accepted(&answer.map_err(|error| StoreFault::from(&error))?)
    }

    /// Keeps the stream as long as this revocation is in force: a node that starts later can read
    /// it only there.
    pub fn keep_stream_for(&self, order: &Revocation, now: Now) {
        let mut latest = lock(&self.latest);
        let (until, ends) = latest.unwrap_or((order.until, now.mono));
        *latest = Some((until.max(order.until), ends.max(order.ends_at(now))));
    }

    fn pipeline(&self, orders: &[Revocation], now: Now) -> Result<Pipeline, StoreFault> {
        let mut pipeline = pipe();
        for order in orders {
            self.keep_stream_for(order, now);
            let json = serde_json::to_string(order).map_err(|_| StoreFault::Other)?;
            pipeline
                .cmd("XADD")
                .arg(&self.key)
                .arg("MAXLEN")
                .arg("~")
                .arg(self.length)
                .arg("*")
                .arg(FIELD)
                .arg(json);
        }
        let left = |(until, ends): (UnixMillis, Instant)| {
            until.since(now.wall).max(ends.saturating_duration_since(now.mono))
        };
        let left = lock(&self.latest).map_or(Duration::ZERO, left);
        let keep = self.keep.load(Ordering::Relaxed).max(millis(left)).min(millis(LONGEST_KEPT));
        pipeline.cmd("PEXPIRE").arg(&self.key).arg(keep);
        Ok(pipeline)
    }

    pub async fn connect(&self) -> Result<RevocationReader, StoreFault> {
        let made = match timeout(DIAL_TIMEOUT, self.dialer.dial()).await {
            Ok(made) => made.map_err(|error| StoreFault::from(&error)),
            Err(_) => Err(StoreFault::Timeout),
        };
        let fault = made.as_ref().err().copied();
        StoreDialled {
            region: self.dialer.region(),
            purpose: Purpose::Revocations,
            is_news: self.failed_dials.is_news(fault, Now::read().mono),
            fault,
        }
        .emit();
        let start = || "0".to_owned();
        let (key, notices) = (self.key.clone(), self.notices.clone());
        let (connection, patience) = (made?, self.patience);
        let mut reader = RevocationReader {
            key,
            notices,
            last_notice: start(),
            connection,
            patience,
            last: start(),
            clock: None,
            first: None,
        };
        reader.clock = reader.read_clock().await?;
        Ok(reader)
    }
}

impl RevocationReader {
    /// Returns `now` by the slower of two wall clocks, that of this node and that of Redis. So a
    /// revocation from another node expires only after it has expired by both clocks.
    pub fn by_the_slower_clock(&self, now: Now) -> Now {
        let there =
            self.clock.map(|clock| clock.wall + now.mono.saturating_duration_since(clock.read_at));
        Now { wall: there.map_or(now.wall, |there| there.min(now.wall)), ..now }
    }

    /// Reads the clock of Redis. A slow answer makes the clock slower, never faster. `None`: the
    /// user of Redis has no permission for `TIME`.
    async fn read_clock(&mut self) -> Result<Option<ServerClock>, StoreFault> {
        let answer = timeout(self.patience, self.connection.command::<(u64, u64)>(&cmd("TIME")))
            .await
            .map_err(|_| StoreFault::Timeout)?;
        let clock = |(seconds, micros): (u64, u64)| ServerClock {
            wall: UnixMillis(seconds.saturating_mul(1000).saturating_add(micros / 1000)),
            read_at: Now::read().mono,
        };
        // A user without the permission can still read the stream.
        Ok(answer.ok().map(clock))
    }

    /// Makes the next read begin with the oldest entry.
    pub fn rewind(&mut self) {
        self.last = "0".to_owned();
        self.first = None;
    }

    /// Returns one page of unread entries, or nothing at the end of the stream.
    pub async fn read(&mut self) -> Result<Vec<StreamEntry>, StoreFault> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(PAGE).arg("STREAMS").arg(&self.key).arg(&self.last);
        let streams = self.ask(&read).await?;
        Ok(self.note(streams).orders)
    }

    /// Waits for entries, and returns one page of them. Returns nothing after [`BLOCK`].
    pub async fn wait(&mut self) -> Result<StreamBatch, StoreFault> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(PAGE).arg("BLOCK").arg(millis(BLOCK)).arg("STREAMS");
        read.arg(&self.key).arg(&self.notices).arg(&self.last).arg(&self.last_notice);
        let streams = self.ask(&read).await?;
        Ok(self.note(streams))
    }

    /// Returns true if the stream has lost entries since it was read from its beginning, because it
    /// was trimmed, emptied or replaced.
    pub async fn has_gap(&mut self) -> Result<bool, StoreFault> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(1).arg("STREAMS").arg(&self.key).arg("0");
        let oldest = self
            .ask(&read)
            .await?
            .into_iter()
            .flat_map(|stream| stream.entries)
            .next()
            .map(|entry| entry.id);
        Ok(self.first.is_some() && oldest != self.first)
    }

    /// Updates the position, and returns the contents of the entries.
    fn note(&mut self, streams: Vec<Stream>) -> StreamBatch {
        let mut read_one = StreamBatch::default();
        for Stream { key, entries } in streams {
            let last = entries.last().map(|entry| entry.id.clone());
            if key == self.notices {
                read_one
                    .notices
                    .extend(entries.into_iter().filter_map(|entry| entry.value(NOTICE)));
                self.last_notice = last.unwrap_or_else(|| self.last_notice.clone());
                continue;
            }
            if self.first.is_none() {
                self.first = entries.first().map(|entry| entry.id.clone());
            }
            let order = |entry: Line| {
                serde_json::from_str(&entry.value(FIELD).filter(|json| json.len() <= LONGEST)?).ok()
            };
            read_one.orders.extend(entries.into_iter().map(order));
            self.last = last.unwrap_or_else(|| self.last.clone());
        }
        read_one
    }

    async fn ask(&mut self, read: &Cmd) -> Result<Vec<Stream>, StoreFault> {
        let answer = timeout(self.patience, self.connection.command::<Value>(read))
            .await
            .map_err(|_| StoreFault::Timeout)?;
        let answer = answer.map_err(|error| StoreFault::from(&error))?;
        streams(answer).ok_or(StoreFault::Protocol)
    }
}

/// Checks that Redis returned an id for each entry, and a number for the life of the stream. A
/// server that only answers OK has written nothing.
fn accepted(answers: &[Value]) -> Result<(), StoreFault> {
    match answers.split_last() {
        Some((Value::Int(_), ids)) if ids.iter().all(|id| matches!(id, Value::BulkString(_))) => {
            Ok(())
        }
        _ => Err(StoreFault::Protocol),
    }
}

#[derive(Debug)]
struct Stream {
    key: String,
    entries: Vec<Line>,
}

/// One entry of a stream, with one field.
#[derive(Debug)]
struct Line {
    id: String,
    /// `None`: the entry has more or fewer fields, or is not text.
    field: Option<(String, String)>,
}

impl Line {
    fn value(self, name: &str) -> Option<String> {
        self.field.filter(|(field, _)| field == name).map(|(_, value)| value)
    }
}

/// Parses the answer to `XREAD`, in both versions of the protocol. A stream without new entries is
/// not in the answer.
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
        Some(Stream {
            key: text(key)?,
            entries: entries.into_iter().map(line).collect::<Option<_>>()?,
        })
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

#[cfg(test)]
mod tests {
    use super::super::server::RedisServer;
    use super::super::tests::config;
    use super::*;
    use crate::auth::revocation::{RevocationEffect, Revocations};
    use crate::model::principal::tests::principal;
    use crate::model::revocation::{RevocationKind, RevocationScope};

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn revocation_stream(port: u16, user: Option<&str>) -> RevocationStream {
        let password = user.map(|_| "secret".into());
        let redis = Redis { username: user.map(str::to_owned), password, ..config(port) };
        RevocationStream::open(&redis, &config::Revocation { keep: HOUR, max_entries: 100 })
            .unwrap()
    }

    /// Returns the time by a wall clock that is ahead.
    fn ahead(span: Duration) -> Now {
        let now = Now::read();
        Now { wall: now.wall + span, ..now }
    }

    async fn read_one(reader: &mut RevocationReader) -> Revocation {
        reader.read().await.unwrap().remove(0).unwrap()
    }

    #[tokio::test]
    async fn a_node_keeps_the_orders_that_it_read_while_its_clock_was_ahead() {
        let server = RedisServer::start(&[]);
        let revocation_stream = revocation_stream(server.port, None);
        let order =
            Revocation::new(RevocationScope::User("ada".into()), None, Now::read().wall, HOUR);
        revocation_stream.write(std::slice::from_ref(&order)).await.unwrap();
        let (list, ada) = (Revocations::new(10), principal("ada", "main", None, None, 0));
        assert_eq!(
            list.apply(order, ahead(DAY)),
            Ok(RevocationEffect::Over),
            "what the node's own clock would say"
        );

        let mut reader = revocation_stream.connect().await.unwrap();
        let order = read_one(&mut reader).await;
        assert_eq!(
            list.apply(order.clone(), reader.by_the_slower_clock(ahead(DAY))),
            Ok(RevocationEffect::New)
        );
        assert_eq!(
            (list.sweep(ahead(DAY)), list.find(&ada, ahead(DAY))),
            (1, Some(RevocationKind::User))
        );
        assert_eq!(
            list.find(&ada, Now::read()),
            Some(RevocationKind::User),
            "the clock was set right"
        );
        assert_eq!(list.apply(order, Now::read()), Ok(RevocationEffect::Known));
        // A revocation that has expired by both clocks has expired.
        let past =
            Revocation::new(RevocationScope::User("bob".into()), None, UnixMillis(1_000), HOUR);
        assert_eq!(
            list.apply(past, reader.by_the_slower_clock(ahead(DAY))),
            Ok(RevocationEffect::Over)
        );
        let behind = Now { wall: UnixMillis(1_000), ..Now::read() };
        assert_eq!(reader.by_the_slower_clock(behind).wall, behind.wall);
    }

    #[tokio::test]
    async fn a_user_who_may_not_ask_for_the_time_hears_by_the_node_s_own_clock() {
        let server = RedisServer::start(&[]);
        server.cli(&[
            "ACL", "SETUSER", "usher", "on", ">secret", "~*", "-@all", "+hello", "+xadd", "+xread",
            "+pexpire",
        ]);
        let revocation_stream = revocation_stream(server.port, Some("usher"));
        revocation_stream
            .write(&[Revocation::new(
                RevocationScope::User("ada".into()),
                None,
                Now::read().wall,
                HOUR,
            )])
            .await
            .unwrap();
        let mut reader = revocation_stream.connect().await.unwrap();
        assert_eq!(
            (reader.clock, read_one(&mut reader).await.what),
            (None, RevocationScope::User("ada".into()))
        );
        let now = ahead(DAY);
        assert_eq!(reader.by_the_slower_clock(now).wall, now.wall);
    }

    #[test]
    fn a_clock_that_jumps_ahead_cuts_the_stream_no_shorter() {
        let revocation_stream = revocation_stream(1, None);
        let order =
            Revocation::new(RevocationScope::User("ada".into()), None, Now::read().wall, DAY);
        revocation_stream.pipeline(&[order], Now::read()).unwrap();
        let pipeline = revocation_stream.pipeline(&[], ahead(DAY * 2)).unwrap();
        let wire = String::from_utf8(pipeline.get_packed_pipeline()).unwrap();
        let kept: u64 = wire.lines().last().unwrap().parse().unwrap();
        assert!(kept > millis(DAY) - 60_000, "{wire}");
    }
}
