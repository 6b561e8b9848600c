//! The store of a fleet: tickets in Redis, found by every node.
//!
//! A single-use ticket is one key and redeeming it is one `GETDEL`, so that Redis itself decides who wins. A ticket that
//! works more than once has a key of another kind and is read with `GET`. Keys hold hashes, never tickets. Redis forgets a
//! ticket a minute after its end; until then Usher's own clock judges it, so that an expired one can be told from an
//! unknown one. Whatever Redis does not answer in time is a refusal.

mod bulletin;
mod dial;
mod fault;
mod lane;
mod lookup;
mod places;
mod record;
mod roster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, Value, cmd, pipe};
use tokio::task::JoinSet;

use super::{OpenError, PutError, TakeError, TicketFault, TicketHash, TicketRecord};
pub use crate::breaker::BreakerState;
use crate::clock::UnixMillis;
use crate::config::store::Redis;
pub use bulletin::{Bulletin, Heard, Reader};
use dial::{Connection, Dialer, is_unknown_command};
pub use fault::Fault;
use lane::Lane;
pub use lookup::{Found, Lookup};
pub use places::{Held, LEASE, PAGE, PlaceBook, Taken, UserHash};
pub use roster::{Beats, Roster};

/// How long after its end a ticket is still known to have expired.
const REMEMBERED: Duration = Duration::from_secs(60);
/// `GETDEL` for servers before 6.2.
const TAKE_SCRIPT: &str = "local v=redis.call('GET',KEYS[1]) if v then redis.call('DEL',KEYS[1]) end return v";

const TICKETS_LANE: &str = "tickets";
const ACKNOWLEDGED_LANE: &str = "acknowledged";
const BULLETIN_LANE: &str = "revocations";
const FLEET_LANE: &str = "fleet";
const SESSIONS_LANE: &str = "sessions";
pub const LANES: [&str; 5] = [TICKETS_LANE, ACKNOWLEDGED_LANE, BULLETIN_LANE, FLEET_LANE, SESSIONS_LANE];
pub const OPERATIONS: [&str; 12] =
    ["put", "take", "peek", "probe", "revoke", "beat", "notify", "answer", "place", "renew", "give_back", "session"];

#[derive(Debug)]
pub struct RedisStore {
    prefix: String,
    multi_use: bool,
    tickets: Lane,
    acknowledged: Option<Acknowledged>,
    /// The server does not know `GETDEL`.
    by_script: AtomicBool,
}

/// `WAIT` holds up whatever comes after it on its connection, so operations that wait for replicas have a lane of their own.
#[derive(Debug)]
struct Acknowledged {
    lane: Lane,
    replicas: usize,
    /// What replicas are given, less than an operation has.
    patience: Duration,
}

impl RedisStore {
    pub fn open(config: &Redis) -> Result<Self, OpenError> {
        let dialer = Arc::new(Dialer::new(config.clone(), authorities(config)?));
        let lane = |name| Lane::new(name, &dialer, config.timeout, config.max_in_flight);
        Ok(Self {
            prefix: config.prefix.clone(),
            multi_use: config.multi_use,
            tickets: lane(TICKETS_LANE),
            acknowledged: config.acknowledge.map(|replicas| Acknowledged {
                lane: lane(ACKNOWLEDGED_LANE),
                replicas,
                patience: config.timeout * 3 / 5,
            }),
            by_script: AtomicBool::new(false),
        })
    }

    pub async fn put(&self, hash: TicketHash, record: TicketRecord, now: UnixMillis) -> Result<(), PutError> {
        let kept = (record.expires_at + REMEMBERED).since(now).max(REMEMBERED);
        let key = self.key(hash, record.single_use);
        let value = record::encode(record).ok_or(PutError::Unavailable)?;
        let mut set = cmd("SET");
        set.arg(key).arg(value).arg("PX").arg(millis(kept));
        match self.tickets.run("put", |connection| ask::<()>(connection, set), Ok).await {
            Ok(()) => Ok(()),
            Err(Fault::OutOfMemory) => Err(PutError::Full),
            Err(_) => Err(PutError::Unavailable),
        }
    }

    pub async fn take(&self, hash: TicketHash, now: UnixMillis) -> Result<TicketRecord, TakeError> {
        let taken = self.take_single_use("take", hash).await.map_err(|_| TakeError::Unavailable)?;
        let found = match taken {
            None if self.multi_use => self.read("take", hash, false).await?,
            taken => taken,
        };
        judge(found, now)
    }

    pub async fn peek(&self, hash: TicketHash, now: UnixMillis) -> Result<TicketRecord, TakeError> {
        let found = match self.read("peek", hash, true).await? {
            None if self.multi_use => self.read("peek", hash, false).await?,
            found => found,
        };
        judge(found, now)
    }

    /// Asks for a ticket that nobody can have. Keeps the breakers' states true while no client comes.
    pub async fn probe(&self) {
        let nobody = TicketHash([0; 32]);
        let _ = self.take_single_use("probe", nobody).await;
        if self.acknowledged.is_some() {
            // Issuing has the other lane.
            let _ = self.read("probe", nobody, true).await;
        }
    }

    /// Of all lanes, the one that is worst off.
    pub fn state(&self) -> BreakerState {
        let acknowledged = self.acknowledged.as_ref().map_or(BreakerState::Closed, |acknowledged| acknowledged.lane.state());
        if acknowledged.number() > self.tickets.state().number() { acknowledged } else { self.tickets.state() }
    }

    async fn take_single_use(&self, operation: &'static str, hash: TicketHash) -> Result<Option<TicketRecord>, Fault> {
        let key = self.key(hash, true);
        let Some(Acknowledged { lane, replicas, patience }) = &self.acknowledged else {
            return self
                .tickets
                .run(operation, |connection| self.by_either_command(connection, &key, ask::<Option<Vec<u8>>>), readable)
                .await;
        };
        // On the same connection: another one has written nothing, and so waits for nothing.
        let both = |take: &Cmd| pipe().add_command(take.clone()).cmd("WAIT").arg(*replicas).arg(millis(*patience)).clone();
        let exchange = |connection| self.by_either_command(connection, &key, move |connection, take| ask_all(connection, both(&take)));
        let read = |answers: Vec<Value>| {
            let [taken, heard] = <[Value; 2]>::try_from(answers).map_err(|_| Fault::Protocol)?;
            let heard = usize::from_redis_value(heard).map_err(|_| Fault::Protocol)?;
            // Also where nothing was taken: the breaker learns of replicas that are away from whatever is asked.
            if heard < *replicas {
                return Err(Fault::NotAcknowledged);
            }
            readable(Option::from_redis_value(taken).map_err(|_| Fault::Protocol)?)
        };
        lane.run(operation, exchange, read).await
    }

    /// `GETDEL`, or the script once the server has said that it does not know it. What it does not know it has not done.
    async fn by_either_command<T, F>(&self, connection: Connection, key: &str, ask: impl Fn(Connection, Cmd) -> F) -> RedisResult<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        if !self.by_script.load(Ordering::Relaxed) {
            match ask(connection.clone(), cmd("GETDEL").arg(key).clone()).await {
                Err(error) if is_unknown_command(&error) => self.by_script.store(true, Ordering::Relaxed),
                answer => return answer,
            }
        }
        ask(connection, cmd("EVAL").arg(TAKE_SCRIPT).arg(1).arg(key).clone()).await
    }

    async fn read(&self, operation: &'static str, hash: TicketHash, single_use: bool) -> Result<Option<TicketRecord>, TakeError> {
        let get = cmd("GET").arg(self.key(hash, single_use)).clone();
        self.tickets
            .run(operation, |connection| ask::<Option<Vec<u8>>>(connection, get), readable)
            .await
            .map_err(|_| TakeError::Unavailable)
    }

    fn key(&self, hash: TicketHash, single_use: bool) -> String {
        let kind = if single_use { "ticket" } else { "multi" };
        format!("{}{kind}:{}", self.prefix, URL_SAFE_NO_PAD.encode(hash.0))
    }
}

/// Those of `ca_file`, where there is one.
fn authorities(config: &Redis) -> Result<Option<Vec<u8>>, OpenError> {
    let read = |path: &std::path::PathBuf| std::fs::read(path).map_err(|error| OpenError { path: path.clone(), error });
    config.ca_file.as_ref().map(read).transpose()
}

fn readable(found: Option<Vec<u8>>) -> Result<Option<TicketRecord>, Fault> {
    found.map(|bytes| record::decode(&bytes).ok_or(Fault::Unreadable)).transpose()
}

fn judge(found: Option<TicketRecord>, now: UnixMillis) -> Result<TicketRecord, TakeError> {
    let record = found.ok_or(TicketFault::Unknown)?;
    if record.expires_at <= now { Err(TicketFault::Expired.into()) } else { Ok(record) }
}

async fn ask<T: FromRedisValue>(mut connection: Connection, command: Cmd) -> RedisResult<T> {
    connection.command(&command).await
}

async fn ask_all(mut connection: Connection, pipeline: Pipeline) -> RedisResult<Vec<Value>> {
    connection.pipeline(&pipeline).await
}

/// Each of them is about one key. A server takes all together; in a cluster each finds its own, at the same time.
async fn ask_each(connection: Connection, pipelines: Vec<Pipeline>) -> RedisResult<()> {
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
            layout: RedisLayout::Single { server: HostPort { host: "127.0.0.1".to_owned(), port }, database: 0 },
            tls: false,
            ca_file: None,
            username: None,
            password: None,
            sentinel_password: None,
            prefix: "usher:".to_owned(),
            // A busy machine is not what is tested.
            timeout: Duration::from_secs(10),
            acknowledge: None,
            max_in_flight: 256,
            multi_use: true,
        }
    }

    /// The contract, each of its tests under a prefix of its own.
    async fn check(config: Redis) {
        let count = std::cell::Cell::new(0);
        contract::check(|| {
            count.set(count.get() + 1);
            Store::Redis(RedisStore::open(&Redis { prefix: format!("t{}:", count.get()), ..config.clone() }).unwrap())
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
        let server = RedisServer::start(&["--rename-command", "GETDEL", "", "--rename-command", "HELLO", ""]);
        check(config(server.port)).await;
    }

    #[tokio::test]
    async fn a_ticket_leaves_redis_a_minute_after_its_end() {
        let server = RedisServer::start(&[]);
        let store = RedisStore::open(&config(server.port)).unwrap();
        let now = crate::clock::Now::read().wall;
        store.put(TicketHash([1; 32]), contract::record(now + Duration::from_secs(30)), now).await.unwrap();
        let left: u64 = server.cli(&["PTTL", &store.key(TicketHash([1; 32]), true)]).trim().parse().unwrap();
        assert!((60_000..=90_000).contains(&left), "{left}");
    }

    #[tokio::test]
    async fn what_is_no_record_lets_nobody_in() {
        let server = RedisServer::start(&[]);
        let store = RedisStore::open(&config(server.port)).unwrap();
        server.cli(&["SET", &store.key(TicketHash([1; 32]), true), "{}"]);
        assert_eq!(store.take(TicketHash([1; 32]), UnixMillis(0)).await, Err(TakeError::Unavailable));
        assert_eq!(store.state(), BreakerState::Closed);
    }

    #[tokio::test]
    async fn a_full_redis_takes_no_new_ticket_and_redeems_the_old_ones() {
        let server = RedisServer::start(&[]);
        let store = RedisStore::open(&config(server.port)).unwrap();
        let now = crate::clock::Now::read().wall;
        let record = contract::record(now + Duration::from_secs(30));
        store.put(TicketHash([1; 32]), record.clone(), now).await.unwrap();
        server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        for _ in 0..10 {
            assert_eq!(store.put(TicketHash([2; 32]), record.clone(), now).await, Err(PutError::Full));
        }
        assert_eq!(store.take(TicketHash([1; 32]), now).await, Ok(record));
    }

    #[tokio::test]
    async fn without_enough_replicas_an_acknowledged_ticket_is_refused_and_spent() {
        let server = RedisServer::start(&[]);
        let short = Duration::from_millis(500);
        let store = RedisStore::open(&Redis { acknowledge: Some(1), timeout: short, ..config(server.port) }).unwrap();
        let now = crate::clock::Now::read().wall;
        store.put(TicketHash([1; 32]), contract::record(now + Duration::from_secs(30)), now).await.unwrap();
        assert_eq!(store.take(TicketHash([1; 32]), now).await, Err(TakeError::Unavailable));
        let other = RedisStore::open(&config(server.port)).unwrap();
        assert_eq!(other.take(TicketHash([1; 32]), now).await, Err(TakeError::Fault(TicketFault::Unknown)));
        while store.state() != BreakerState::Open {
            assert_eq!(store.take(TicketHash([2; 32]), now).await, Err(TakeError::Unavailable));
        }
    }
}
