//! The store of a fleet: tickets in Redis, which all nodes share.
//!
//! A single-use ticket is one key. To redeem it, one command replaces its record by a mark and
//! returns the old value. So Redis decides which caller gets the ticket, and a replay finds the
//! mark. A multi-use ticket has another kind of key, which is only read. Keys contain hashes, never
//! tickets. Redis removes a ticket a minute after its expiry, so that an expired ticket differs
//! from an unknown one. Nothing is written to the store of another region: there, the key is
//! deleted. If Redis does not answer in time, the ticket is refused.
//!
//! Two clocks decide whether a ticket has expired, so that no clock that is set back lengthens its
//! life. A ticket has expired as soon as one of them has passed its expiry. The first is the wall
//! clock of the node that redeems it. The second is the monotonic clock, if the same node issued
//! the ticket. Otherwise it is the clock of Redis, by the remaining life of the key.

mod channel;
mod dial;
pub mod events;
mod fault;
mod lookup;
mod places;
mod revocation_stream;
mod roster;
mod secure;
mod shared_values;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, Value, cmd, pipe};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::record::{self, StoredTicket, TicketMark};
use super::{PutError, StoreOpenError, TakeError, TicketHash, TicketRecord};
pub use crate::base::breaker::BreakerState;
use crate::base::clock::Now;
use crate::config::store::Redis;
use crate::model::faults::TicketFault;
use crate::model::store_fault::StoreFault;
use crate::net::tls::trust::client_config;
use channel::RedisChannel;
use dial::{RedisConnection, RedisDialler, is_unknown_command};
use events::{Operation, Purpose};
pub use lookup::{FoundValue, SessionLookup};
pub use places::{LEASE, PAGE, PlaceBook, StoredPlace, Taken, UserHash};
pub use revocation_stream::{RevocationReader, RevocationStream, StreamBatch};
pub use roster::{LiveNodes, Roster};
use secure::Authorities;
pub use shared_values::SharedValues;
use watch::TicketExpiryWatch;

/// How long after its expiry a ticket is remembered as expired.
const REMEMBERED: Duration = Duration::from_secs(60);
/// `GETDEL` for servers before 6.2.
const TAKE_SCRIPT: &str =
    "local v=redis.call('GET',KEYS[1]) if v then redis.call('DEL',KEYS[1]) end return v";
/// `SET XX GET KEEPTTL` for servers before 6.2. On a full server, no mark is left.
const MARK_SCRIPT: &str = "\
local v=redis.call('GET',KEYS[1]) \
if v then \
local kept=redis.pcall('SET',KEYS[1],ARGV[1],'PX',redis.call('PTTL',KEYS[1])) \
if kept['err'] then redis.call('DEL',KEYS[1]) end \
end \
return v";

/// Takes a ticket of another node, leaves the mark, and returns the remaining life of the key in
/// milliseconds. Also works with a server before 6.2, with a full server, and for a user without
/// the permission for `PTTL`. For such a user, the remaining life is `-3`.
const MARK_AND_LIFE_SCRIPT: &str = "\
local left=redis.pcall('PTTL',KEYS[1]) \
if type(left)=='table' then left=-3 end \
local v=redis.pcall('SET',KEYS[1],ARGV[1],'XX','GET','KEEPTTL') \
if type(v)=='table' then \
v=redis.call('GET',KEYS[1]) \
local kept=v and left>0 and redis.pcall('SET',KEYS[1],ARGV[1],'PX',left) \
if v and (not kept or kept['err']) then \
local gone=redis.pcall('GETDEL',KEYS[1]) \
if type(gone)=='table' then redis.call('DEL',KEYS[1]) end \
end \
end \
return {v,left}";
/// The same for the store of another region, without a mark.
const TAKE_AND_LIFE_SCRIPT: &str = "\
local left=redis.pcall('PTTL',KEYS[1]) \
if type(left)=='table' then left=-3 end \
local v=redis.pcall('GETDEL',KEYS[1]) \
if type(v)=='table' then v=redis.call('GET',KEYS[1]) if v then redis.call('DEL',KEYS[1]) end end \
return {v,left}";
/// The same for reading: the ticket stays.
const READ_AND_LIFE_SCRIPT: &str = "\
local left=redis.pcall('PTTL',KEYS[1]) \
if type(left)=='table' then left=-3 end \
return {redis.call('GET',KEYS[1]),left}";
/// The remaining life in the scripts' answer if the user of Redis may not use `PTTL`.
const NOT_TOLD: i64 = -3;

#[derive(Debug)]
pub struct RedisStore {
    prefix: String,
    multi_use: bool,
    /// `None`: this is the store of another region.
    watch: Option<TicketExpiryWatch>,
    tickets: RedisChannel,
    acknowledged: Option<Acknowledged>,
    /// Whether the server is older than 6.2.
    by_script: AtomicBool,
}

/// The value of a ticket's key, and its remaining life.
struct FoundTicket {
    ticket: StoredTicket,
    /// The remaining life of the key in milliseconds, if Redis was asked for it.
    left: i64,
}

/// The channel for operations that wait for replicas. `WAIT` blocks all later commands on its
/// connection, so these operations have a channel of their own.
#[derive(Debug)]
struct Acknowledged {
    channel: RedisChannel,
    replicas: usize,
    /// How long to wait for the replicas. It is shorter than the timeout of an operation.
    patience: Duration,
}

impl RedisStore {
    pub fn open(config: &Redis) -> Result<Self, StoreOpenError> {
        let dialer = Arc::new(RedisDialler::new(config.clone(), authorities(config)?));
        let channel = |name| RedisChannel::new(name, &dialer, config.timeout, config.max_in_flight);
        Ok(Self {
            prefix: config.prefix.clone(),
            multi_use: config.multi_use,
            watch: config.watched.map(TicketExpiryWatch::new),
            tickets: channel(Purpose::Tickets),
            acknowledged: config.acknowledge.map(|replicas| Acknowledged {
                channel: channel(Purpose::Acknowledged),
                replicas,
                patience: config.timeout * 3 / 5,
            }),
            by_script: AtomicBool::new(false),
        })
    }

    pub async fn put(
        &self,
        hash: TicketHash,
        record: TicketRecord,
        now: Now,
    ) -> Result<(), PutError> {
        let kept = (record.expires_at + REMEMBERED).since(now.wall).max(REMEMBERED);
        let key = self.key(hash, record.single_use);
        if let Some(watch) = &self.watch {
            watch.add(hash, &record, now);
        }
        let value = record::encode(record).ok_or(PutError::Unavailable)?;
        let mut set = cmd("SET");
        set.arg(key).arg(value).arg("PX").arg(millis(kept));
        let outcome =
            self.tickets.run(Operation::Put, |connection| ask::<()>(connection, set), Ok).await;
        if let (Err(_), Some(watch)) = (&outcome, &self.watch) {
            // The client does not get this ticket.
            watch.forget(hash);
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(StoreFault::OutOfMemory) => Err(PutError::Full),
            Err(_) => Err(PutError::Unavailable),
        }
    }

    pub async fn take(&self, hash: TicketHash, now: Now) -> Result<TicketRecord, TakeError> {
        let ends = self.end_of(hash);
        let taken = self
            .take_single_use(Operation::Take, hash)
            .await
            .map_err(|_| TakeError::Unavailable)?;
        let Some(found) = taken else {
            let multi =
                if self.multi_use { self.read(Operation::Take, hash, false).await? } else { None };
            return judge(multi, ends, now).map_err(TakeError::Fault);
        };
        match found.ticket {
            StoredTicket::Ticket(record) if is_over(&record, found.left, ends, now) => {
                if let Some(watch) = &self.watch {
                    watch.note_shown_late(hash, &record);
                    // The current mark means redeemed. If this fails, that mark stays.
                    let _ = self.mark(hash, true, TicketMark::Expired).await;
                }
                Err(TicketFault::Expired.into())
            }
            StoredTicket::Ticket(record) => {
                if let Some(watch) = &self.watch {
                    // The ticket is redeemed, so it cannot expire any more.
                    watch.forget(hash);
                }
                Ok(*record)
            }
            StoredTicket::Past(fate) => {
                if fate == TicketMark::Expired && self.watch.is_some() {
                    // Taking has replaced this mark by the mark of a redeemed ticket.
                    let _ = self.mark(hash, true, fate).await;
                }
                Err(fate.fault().into())
            }
        }
    }

    pub async fn peek(&self, hash: TicketHash, now: Now) -> Result<TicketRecord, TakeError> {
        let ends = self.end_of(hash);
        let found = match self.read(Operation::Peek, hash, true).await? {
            None if self.multi_use => self.read(Operation::Peek, hash, false).await?,
            found => found,
        };
        judge(found, ends, now).map_err(TakeError::Fault)
    }

    /// Returns the expiry of a ticket that this node issued, by the monotonic clock.
    fn end_of(&self, hash: TicketHash) -> Option<Instant> {
        self.watch.as_ref().and_then(|watch| watch.end_of(hash))
    }

    /// Asks for a ticket that cannot exist. This keeps the states of the breakers up to date while
    /// there are no clients.
    pub async fn probe(&self) {
        let nobody = TicketHash([0; 32]);
        let _ = self.take_single_use(Operation::Probe, nobody).await;
        if self.acknowledged.is_some() {
            // Tickets are issued over the other channel.
            let _ = self.read(Operation::Probe, nobody, true).await;
        }
    }

    /// Returns the worst state of all channels.
    pub fn state(&self) -> BreakerState {
        let acknowledged = self
            .acknowledged
            .as_ref()
            .map_or(BreakerState::Closed, |acknowledged| acknowledged.channel.state());
        if acknowledged.number() > self.tickets.state().number() {
            acknowledged
        } else {
            self.tickets.state()
        }
    }

    async fn take_single_use(
        &self,
        operation: Operation,
        hash: TicketHash,
    ) -> Result<Option<FoundTicket>, StoreFault> {
        let key = self.key(hash, true);
        let is_known = self.end_of(hash).is_some();
        let Some(Acknowledged { channel, replicas, patience }) = &self.acknowledged else {
            let exchange = |connection| self.redeem(connection, &key, is_known, ask::<Value>);
            return self.tickets.run(operation, exchange, readable).await;
        };
        // On the same connection: `WAIT` waits only for writes of its own connection.
        let both = |take: &Cmd| {
            pipe()
                .add_command(take.clone())
                .cmd("WAIT")
                .arg(*replicas)
                .arg(millis(*patience))
                .clone()
        };
        let exchange = |connection| {
            self.redeem(connection, &key, is_known, move |connection, take| {
                ask_all(connection, both(&take))
            })
        };
        let read = |answers: Vec<Value>| {
            let [taken, heard] =
                <[Value; 2]>::try_from(answers).map_err(|_| StoreFault::Protocol)?;
            let heard = usize::from_redis_value(heard).map_err(|_| StoreFault::Protocol)?;
            // This applies even if no ticket was taken: every operation shows the breaker that
            // replicas are missing.
            if heard < *replicas {
                return Err(StoreFault::NotAcknowledged);
            }
            readable(taken)
        };
        channel.run(operation, exchange, read).await
    }

    /// Takes a ticket. Also reads the remaining life of its key, if this node did not issue the
    /// ticket.
    async fn redeem<T, F>(
        &self,
        connection: RedisConnection,
        key: &str,
        is_known: bool,
        ask: impl Fn(RedisConnection, Cmd) -> F,
    ) -> RedisResult<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        if is_known {
            return self.by_either_command(connection, key, TicketMark::Used, ask).await;
        }
        let is_ours = self.watch.is_some();
        let script = if is_ours { MARK_AND_LIFE_SCRIPT } else { TAKE_AND_LIFE_SCRIPT };
        ask(connection, evaluate(script, key).arg(TicketMark::Used.mark()).clone()).await
    }

    /// Takes the value of a key and leaves the mark, or nothing in the store of another region.
    /// Uses a script after the server has rejected the command as unknown. A rejected command had
    /// no effect.
    async fn by_either_command<T, F>(
        &self,
        connection: RedisConnection,
        key: &str,
        fate: TicketMark,
        ask: impl Fn(RedisConnection, Cmd) -> F,
    ) -> RedisResult<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let is_ours = self.watch.is_some();
        if !self.by_script.load(Ordering::Relaxed) {
            let take = cmd("GETDEL").arg(key).clone();
            let mark =
                cmd("SET").arg(key).arg(fate.mark()).arg("XX").arg("GET").arg("KEEPTTL").clone();
            match ask(connection.clone(), if is_ours { mark } else { take.clone() }).await {
                Err(error) if is_unknown_command(&error) => {
                    self.by_script.store(true, Ordering::Relaxed);
                }
                // On a full server, the ticket is redeemed without leaving a mark.
                Err(error) if is_ours && StoreFault::from(&error) == StoreFault::OutOfMemory => {
                    return ask(connection, take).await;
                }
                answer => return answer,
            }
        }
        let script = if is_ours { MARK_SCRIPT } else { TAKE_SCRIPT };
        ask(connection, evaluate(script, key).arg(fate.mark()).clone()).await
    }

    /// Reads a ticket. Also reads the remaining life of its key, if this node did not issue the
    /// ticket.
    async fn read(
        &self,
        operation: Operation,
        hash: TicketHash,
        single_use: bool,
    ) -> Result<Option<FoundTicket>, TakeError> {
        if self.end_of(hash).is_some() {
            return self.get(operation, hash, single_use).await;
        }
        let script = evaluate(READ_AND_LIFE_SCRIPT, &self.key(hash, single_use));
        let found = self
            .tickets
            .run(operation, |connection| ask::<Value>(connection, script), readable)
            .await;
        found.map_err(|_| TakeError::Unavailable)
    }

    async fn get(
        &self,
        operation: Operation,
        hash: TicketHash,
        single_use: bool,
    ) -> Result<Option<FoundTicket>, TakeError> {
        let get = cmd("GET").arg(self.key(hash, single_use)).clone();
        let found =
            self.tickets.run(operation, |connection| ask::<Value>(connection, get), readable).await;
        found.map_err(|_| TakeError::Unavailable)
    }

    fn key(&self, hash: TicketHash, single_use: bool) -> String {
        let kind = if single_use { "ticket" } else { "multi" };
        format!("{}{kind}:{}", self.prefix, URL_SAFE_NO_PAD.encode(hash.0))
    }
}

/// Returns the authorities in `ca_file`, if it is set.
fn authorities(config: &Redis) -> Result<Option<Authorities>, StoreOpenError> {
    let read = |path: &std::path::PathBuf| {
        let failed = |error| StoreOpenError { path: path.clone(), error };
        let pem = std::fs::read(path).map_err(failed)?;
        let tls =
            client_config(Some(path)).map_err(|problem| failed(std::io::Error::other(problem)))?;
        Ok(Authorities { pem, tls: Arc::new(tls) })
    };
    config.ca_file.as_ref().map(read).transpose()
}

fn evaluate(script: &str, key: &str) -> Cmd {
    cmd("EVAL").arg(script).arg(1).arg(key).clone()
}

/// Converts the answer of a command or a script.
fn readable(answer: Value) -> Result<Option<FoundTicket>, StoreFault> {
    let (value, left) = match answer {
        Value::Array(both) => {
            let [value, left] = <[Value; 2]>::try_from(both).map_err(|_| StoreFault::Protocol)?;
            (value, i64::from_redis_value(left).map_err(|_| StoreFault::Protocol)?)
        }
        value => (value, NOT_TOLD),
    };
    let Some(bytes) =
        Option::<Vec<u8>>::from_redis_value(value).map_err(|_| StoreFault::Protocol)?
    else {
        return Ok(None);
    };
    let ticket = record::decode(&bytes).ok_or(StoreFault::Unreadable)?;
    Ok(Some(FoundTicket { ticket, left }))
}

fn judge(
    found: Option<FoundTicket>,
    ends: Option<Instant>,
    now: Now,
) -> Result<TicketRecord, TicketFault> {
    let FoundTicket { ticket, left } = found.ok_or(TicketFault::Unknown)?;
    match ticket {
        StoredTicket::Past(fate) => Err(fate.fault()),
        StoredTicket::Ticket(record) if is_over(&record, left, ends, now) => {
            Err(TicketFault::Expired)
        }
        StoredTicket::Ticket(record) => Ok(*record),
    }
}

/// Returns true if the ticket has expired by one of the clocks. `ends` is the expiry by the
/// monotonic clock, if this node issued the ticket.
fn is_over(record: &TicketRecord, left: i64, ends: Option<Instant>, now: Now) -> bool {
    let is_over_here = record.expires_at <= now.wall || ends.is_some_and(|ends| ends <= now.mono);
    // A node always writes keys with an expiry. A key without one counts as expired.
    let is_over_there =
        left != NOT_TOLD && u64::try_from(left).map_or(true, |left| left <= millis(REMEMBERED));
    is_over_here || is_over_there
}

async fn ask<T: FromRedisValue>(mut connection: RedisConnection, command: Cmd) -> RedisResult<T> {
    connection.command(&command).await
}

async fn ask_all(mut connection: RedisConnection, pipeline: Pipeline) -> RedisResult<Vec<Value>> {
    connection.pipeline(&pipeline).await
}

/// Sends several pipelines, each about one key. A single server gets all of them together. In a
/// cluster, each goes to the node of its key, at the same time.
async fn ask_each(connection: RedisConnection, pipelines: Vec<Pipeline>) -> RedisResult<()> {
    if !connection.is_cluster() {
        let mut all = pipe();
        for command in pipelines.iter().flat_map(Pipeline::cmd_iter) {
            all.add_command(command.clone());
        }
        return ask_all(connection, all).await.map(|_| ());
    }
    let mut asked = JoinSet::new();
    for pipeline in pipelines {
        asked.spawn(ask_all(connection.clone(), pipeline));
    }
    while let Some(answer) = asked.join_next().await {
        let _ = answer.unwrap_or(Ok(Vec::new()))?;
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "../../../tests/e2e/support/redis.rs"]
mod server;

#[cfg(test)]
mod tests {
    use super::server::RedisServer;
    use super::*;
    use crate::config::store::{HostPort, RedisLayout};
    use crate::store::{Store, contract};

    pub(super) fn config(port: u16) -> Redis {
        Redis {
            region: None,
            layout: RedisLayout::Single {
                server: HostPort { host: "127.0.0.1".to_owned(), port },
                database: 0,
            },
            tls: false,
            ca_file: None,
            username: None,
            password: None,
            sentinel_password: None,
            prefix: "usher:".to_owned(),
            // A long timeout, so that the tests pass on a busy machine.
            timeout: Duration::from_secs(10),
            acknowledge: None,
            max_in_flight: 256,
            watched: Some(1000),
            multi_use: true,
        }
    }

    /// Runs the contract. Each of its tests has its own prefix.
    async fn check(config: Redis) {
        let count = std::cell::Cell::new(0);
        contract::check(|| {
            count.set(count.get() + 1);
            Store::Redis(
                RedisStore::open(&Redis { prefix: format!("t{}:", count.get()), ..config.clone() })
                    .unwrap(),
            )
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn redis_keeps_the_store_s_contract() {
        let server = RedisServer::start(&[]);
        check(config(server.port)).await;
        let keys = server.cli(&["KEYS", "*"]);
        assert!(!keys.contains("ada"), "{keys}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn an_older_redis_keeps_it_by_a_script() {
        let server = RedisServer::start(&[
            "--rename-command",
            "GETDEL",
            "",
            "--rename-command",
            "HELLO",
            "",
        ]);
        check(config(server.port)).await;
    }

    /// A server before 6.2 does not know `GETDEL`, nor the options of `SET`.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_script_keeps_the_contract_and_the_end_of_the_key() {
        let server = RedisServer::start(&[]);
        let count = std::cell::Cell::new(0);
        contract::check(|| {
            count.set(count.get() + 1);
            let config = Redis { prefix: format!("t{}:", count.get()), ..config(server.port) };
            let store = RedisStore::open(&config).unwrap();
            store.by_script.store(true, Ordering::Relaxed);
            Store::Redis(store)
        })
        .await;
        let store = RedisStore::open(&config(server.port)).unwrap();
        store.by_script.store(true, Ordering::Relaxed);
        let now = Now::read();
        store
            .put(TicketHash([1; 32]), contract::record(now.wall + Duration::from_secs(30)), now)
            .await
            .unwrap();
        assert!(store.take(TicketHash([1; 32]), now).await.is_ok());
        let left: u64 =
            server.cli(&["PTTL", &store.key(TicketHash([1; 32]), true)]).trim().parse().unwrap();
        assert!((60_000..=90_000).contains(&left), "{left}");
        // On a full server, the ticket is redeemed without leaving a mark.
        store
            .put(TicketHash([2; 32]), contract::record(now.wall + Duration::from_secs(30)), now)
            .await
            .unwrap();
        server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        assert!(store.take(TicketHash([2; 32]), now).await.is_ok());
        assert_eq!(
            store.take(TicketHash([2; 32]), now).await,
            Err(TakeError::Fault(TicketFault::Unknown))
        );
    }

    #[test]
    fn what_an_older_server_says_is_known() {
        let error = |detail: &str| {
            redis::RedisError::from((
                redis::ErrorKind::Server(redis::ServerErrorKind::ResponseError),
                "",
                detail.to_owned(),
            ))
        };
        assert!(
            is_unknown_command(&error("syntax error"))
                && is_unknown_command(&error("unknown command 'GETDEL'"))
        );
        assert!(!is_unknown_command(&error("something else")));
    }

    /// The Redis user of another region has no permission to write, so no mark can be left.
    #[tokio::test]
    async fn in_another_region_a_ticket_is_taken_and_nothing_is_written() {
        let server = RedisServer::start(&[]);
        let home = RedisStore::open(&config(server.port)).unwrap();
        let other = RedisStore::open(&Redis { watched: None, ..config(server.port) }).unwrap();
        let now = Now::read();
        let end = now.wall + Duration::from_secs(30);
        home.put(TicketHash([1; 32]), contract::record(end), now).await.unwrap();
        assert!(other.take(TicketHash([1; 32]), now).await.is_ok());
        assert_eq!(server.cli(&["KEYS", "*"]).trim(), "");
        assert_eq!(
            home.take(TicketHash([1; 32]), now).await,
            Err(TakeError::Fault(TicketFault::Unknown))
        );
        assert_eq!(
            home.sweep(contract::later(now, 39)).await,
            Vec::new(),
            "it was redeemed somewhere"
        );
        home.put(TicketHash([2; 32]), contract::record(end), now).await.unwrap();
        assert!(home.take(TicketHash([2; 32]), now).await.is_ok());
        assert_eq!(
            other.take(TicketHash([2; 32]), now).await,
            Err(TakeError::Fault(TicketFault::Used))
        );
    }

    /// The store does not answer when a ticket expires. The node asks again, and finally reports
    /// the ticket as uncertain.
    #[tokio::test]
    async fn what_a_store_that_is_away_cannot_say_is_not_passed_over() {
        let mut server = RedisServer::start(&[]);
        let short = Duration::from_millis(200);
        let store = RedisStore::open(&Redis { timeout: short, ..config(server.port) }).unwrap();
        let now = Now::read();
        let end = now.wall + Duration::from_secs(30);
        for byte in 1..=3 {
            store.put(TicketHash([byte; 32]), contract::record(end), now).await.unwrap();
        }
        server.kill();
        assert_eq!(store.sweep(contract::later(now, 35)).await, Vec::new());
        let told = store.sweep(contract::later(now, 85)).await;
        assert!(told.len() == 3 && told.iter().all(|ticket| !ticket.is_certain), "{told:?}");
        assert_eq!(store.sweep(contract::later(now, 90)).await, Vec::new());
    }

    #[tokio::test]
    async fn a_ticket_leaves_redis_a_minute_after_its_end() {
        let server = RedisServer::start(&[]);
        let store = RedisStore::open(&config(server.port)).unwrap();
        let now = Now::read();
        store
            .put(TicketHash([1; 32]), contract::record(now.wall + Duration::from_secs(30)), now)
            .await
            .unwrap();
        let left: u64 =
            server.cli(&["PTTL", &store.key(TicketHash([1; 32]), true)]).trim().parse().unwrap();
        assert!((60_000..=90_000).contains(&left), "{left}");
    }

    /// Another node redeems, whose wall clock is an hour behind. The remaining life of the key in
    /// Redis shows that the ticket has expired.
    #[tokio::test]
    async fn the_clock_of_redis_ends_another_node_s_ticket() {
        let server = RedisServer::start(&[]);
        let (issuing, other) = (
            RedisStore::open(&config(server.port)).unwrap(),
            RedisStore::open(&config(server.port)).unwrap(),
        );
        let abroad = RedisStore::open(&Redis { watched: None, ..config(server.port) }).unwrap();
        let now = Now::read();
        let behind = Now { wall: crate::base::clock::UnixMillis(now.wall.0 - 3_600_000), ..now };
        let lives = [
            (true, "PEXPIRE 60000"),
            (false, "PEXPIRE 60000"),
            (true, "PERSIST"),
            (false, "PERSIST"),
        ];
        for (turn, (single_use, life)) in (0_u8..).zip(lives) {
            let record = || TicketRecord {
                single_use,
                ..contract::record(now.wall + Duration::from_secs(30))
            };
            for (first, store) in [(10 * turn + 1, &other), (10 * turn + 3, &abroad)] {
                for byte in [first, first + 1] {
                    issuing.put(TicketHash([byte; 32]), record(), now).await.unwrap();
                }
                assert_eq!(store.take(TicketHash([first; 32]), behind).await, Ok(record()));
                let (command, argument) = life.split_once(' ').unwrap_or((life, ""));
                let key = issuing.key(TicketHash([first + 1; 32]), single_use);
                server.cli(
                    &[command, &key, argument]
                        .into_iter()
                        .filter(|part| !part.is_empty())
                        .collect::<Vec<_>>(),
                );
                let hash = TicketHash([first + 1; 32]);
                assert_eq!(
                    store.peek(hash, behind).await,
                    Err(TicketFault::Expired.into()),
                    "{life}"
                );
                assert_eq!(
                    store.take(hash, behind).await,
                    Err(TicketFault::Expired.into()),
                    "{life}"
                );
            }
        }
    }

    /// A Redis user with the permissions for an earlier version of Usher: tickets are redeemed, and
    /// the other clocks decide.
    #[tokio::test]
    async fn a_user_that_may_not_ask_for_the_life_of_a_key_redeems_all_the_same() {
        let server = RedisServer::start(&[]);
        let rights = "ACL SETUSER old on >pass ~usher:* -@all +hello +set +get +getdel +eval +wait";
        server.cli(&rights.split(' ').collect::<Vec<_>>());
        let old = Redis {
            username: Some("old".to_owned()),
            password: Some("pass".into()),
            ..config(server.port)
        };
        let (issuing, now) = (RedisStore::open(&config(server.port)).unwrap(), Now::read());
        let record = contract::record(now.wall + Duration::from_secs(30));
        for watched in [Some(1000), None] {
            let store = RedisStore::open(&Redis { watched, ..old.clone() }).unwrap();
            for (seconds, expected) in
                [(29, Ok(record.clone())), (30, Err(TicketFault::Expired.into()))]
            {
                issuing.put(TicketHash([1; 32]), record.clone(), now).await.unwrap();
                assert_eq!(
                    store.take(TicketHash([1; 32]), contract::later(now, seconds)).await,
                    expected
                );
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_record_lets_nobody_in() {
        let server = RedisServer::start(&[]);
        let store = RedisStore::open(&config(server.port)).unwrap();
        server.cli(&["SET", &store.key(TicketHash([1; 32]), true), "{}"]);
        assert_eq!(store.take(TicketHash([1; 32]), Now::read()).await, Err(TakeError::Unavailable));
        assert_eq!(store.state(), BreakerState::Closed);
    }

    #[tokio::test]
    async fn a_full_redis_takes_no_new_ticket_and_redeems_the_old_ones() {
        let server = RedisServer::start(&[]);
        let store = RedisStore::open(&config(server.port)).unwrap();
        let now = Now::read();
        let record = contract::record(now.wall + Duration::from_secs(30));
        store.put(TicketHash([1; 32]), record.clone(), now).await.unwrap();
        server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        for _ in 0..10 {
            assert_eq!(
                store.put(TicketHash([2; 32]), record.clone(), now).await,
                Err(PutError::Full)
            );
        }
        assert_eq!(store.take(TicketHash([1; 32]), now).await, Ok(record));
    }

    #[tokio::test]
    async fn without_enough_replicas_an_acknowledged_ticket_is_refused_and_spent() {
        let server = RedisServer::start(&[]);
        let short = Duration::from_millis(500);
        let store = RedisStore::open(&Redis {
            acknowledge: Some(1),
            timeout: short,
            ..config(server.port)
        })
        .unwrap();
        let now = Now::read();
        store
            .put(TicketHash([1; 32]), contract::record(now.wall + Duration::from_secs(30)), now)
            .await
            .unwrap();
        assert_eq!(store.take(TicketHash([1; 32]), now).await, Err(TakeError::Unavailable));
        let other = RedisStore::open(&config(server.port)).unwrap();
        assert_eq!(
            other.take(TicketHash([1; 32]), now).await,
            Err(TakeError::Fault(TicketFault::Used))
        );
        while store.state() != BreakerState::Open {
            assert_eq!(store.take(TicketHash([2; 32]), now).await, Err(TakeError::Unavailable));
        }
    }
}
