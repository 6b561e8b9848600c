//! The list of live nodes, and the questions between nodes.
//!
//! Each node writes a heartbeat into one sorted set. A node without a recent heartbeat is not live.
//! A question goes into a short stream, which the nodes read together with the revocations
//! (`revocation_stream.rs`). Answers are pushed to a list that expires after seconds.

use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, Value, cmd, pipe};
use tokio::time::timeout;

use super::channel::RedisChannel;
use super::dial::{DIAL_TIMEOUT, RedisConnection, RedisDialler};
use super::events::{Operation, Purpose, StoreDialled};
use super::places::PlaceBook;
use super::revocation_stream::{NOTICE, notices_key};
use super::{ask, ask_all, authorities, millis};
use crate::base::clock::UnixMillis;
use crate::config::store::Redis;
use crate::model::store_fault::StoreFault;
use crate::store::StoreOpenError;
use crate::telemetry::Event;

/// The age of a heartbeat from which a node is not live.
const LATE: Duration = Duration::from_secs(10);
/// The age of a heartbeat from which a node is removed.
const GONE: Duration = Duration::from_secs(60);
/// The most nodes that are read.
const MOST_NODES: usize = 1000;
/// How long notices are kept. They are for nodes that read now, or that lost their connection for a
/// short time.
const NOTICE_KEPT: Duration = Duration::from_secs(60);
const MOST_NOTICES: usize = 10_000;
const ANSWER_KEPT: Duration = Duration::from_secs(10);
/// The length of one wait for an answer. Older servers support only whole seconds.
const WAIT_SECONDS: u64 = 2;

#[derive(Debug)]
pub struct Roster {
    prefix: String,
    channel: Arc<RedisChannel>,
    dialer: RedisDialler,
}

/// The nodes with a recent heartbeat, each as it wrote itself.
#[derive(Debug)]
pub struct LiveNodes {
    /// Whether this node was not in the set: at its first heartbeat, or after the store has lost
    /// its data.
    pub is_new: bool,
    pub members: Vec<(String, UnixMillis)>,
}

/// A connection that waits for the answers to one question.
#[derive(Debug)]
pub struct AnswerSubscription {
    key: String,
    connection: RedisConnection,
}

impl Roster {
    pub fn open(config: &Redis) -> Result<Self, StoreOpenError> {
        let ca = authorities(config)?;
        let dialer = Arc::new(RedisDialler::new(config.clone(), ca.clone()));
        let patience = Duration::from_secs(WAIT_SECONDS) + config.timeout;
        Ok(Self {
            prefix: config.prefix.clone(),
            channel: Arc::new(RedisChannel::new(
                Purpose::Fleet,
                &dialer,
                config.timeout,
                config.max_in_flight,
            )),
            dialer: RedisDialler::new(Redis { timeout: patience, ..config.clone() }, ca),
        })
    }

    /// Returns the places of users, which use the same connections.
    pub fn places(&self) -> PlaceBook {
        PlaceBook::new(&self.prefix, &self.channel)
    }

    /// Writes the heartbeat of this node, and returns the live nodes.
    pub async fn announce(&self, member: &str, now: UnixMillis) -> Result<LiveNodes, StoreFault> {
        let (key, late) = (self.key("nodes"), now.0.saturating_sub(millis(LATE)));
        let mut pipeline = pipe();
        pipeline.cmd("ZADD").arg(&key).arg(now.0).arg(member);
        pipeline
            .cmd("ZREMRANGEBYSCORE")
            .arg(&key)
            .arg("-inf")
            .arg(now.0.saturating_sub(millis(GONE)));
        pipeline.cmd("PEXPIRE").arg(&key).arg(millis(GONE));
        pipeline
            .cmd("ZRANGEBYSCORE")
            .arg(&key)
            .arg(late)
            .arg("+inf")
            .arg("WITHSCORES")
            .arg("LIMIT")
            .arg(0)
            .arg(MOST_NODES);
        let read = |answers: Vec<Value>| {
            let [added, _, _, members] =
                <[Value; 4]>::try_from(answers).map_err(|_| StoreFault::Protocol)?;
            let added = u64::from_redis_value(added).map_err(|_| StoreFault::Protocol)?;
            let members = Vec::<(String, f64)>::from_redis_value(members)
                .map_err(|_| StoreFault::Protocol)?;
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a double represents milliseconds exactly for thousands of years"
            )]
            let members =
                members.into_iter().map(|(member, at)| (member, UnixMillis(at as u64))).collect();
            Ok(LiveNodes { is_new: added > 0, members })
        };
        self.channel.run(Operation::Beat, |connection| ask_all(connection, pipeline), read).await
    }

    /// Removes this node.
    pub async fn leave(&self, member: &str) -> Result<(), StoreFault> {
        let command = cmd("ZREM").arg(self.key("nodes")).arg(member).clone();
        self.channel.run(Operation::Beat, |connection| ask::<()>(connection, command), Ok).await
    }

    /// Sends notices to all nodes. A node reads a notice soon or not at all.
    pub async fn notify(&self, notices: &[String]) -> Result<(), StoreFault> {
        let key = notices_key(&self.prefix);
        let mut pipeline = pipe();
        for notice in notices {
            pipeline
                .cmd("XADD")
                .arg(&key)
                .arg("MAXLEN")
                .arg("~")
                .arg(MOST_NOTICES)
                .arg("*")
                .arg(NOTICE)
                .arg(notice);
        }
        pipeline.cmd("PEXPIRE").arg(&key).arg(millis(NOTICE_KEPT));
        self.channel
            .run(Operation::Notify, |connection| ask_all(connection, pipeline), |_| Ok(()))
            .await
    }

    /// Answers another node's question.
    pub async fn answer(&self, question: &str, text: &str) -> Result<(), StoreFault> {
        let key = self.answers_key(question);
        let mut pipeline = pipe();
        pipeline.cmd("RPUSH").arg(&key).arg(text);
        pipeline.cmd("PEXPIRE").arg(&key).arg(millis(ANSWER_KEPT));
        self.channel
            .run(Operation::Answer, |connection| ask_all(connection, pipeline), |_| Ok(()))
            .await
    }

    /// Connects for the answers to a question, before the question is sent. Waiting blocks the
    /// connection, so it is not shared.
    pub async fn answers(&self, question: &str) -> Result<AnswerSubscription, StoreFault> {
        let made = match timeout(DIAL_TIMEOUT, self.dialer.dial()).await {
            Ok(made) => made.map_err(|error| StoreFault::from(&error)),
            Err(_) => Err(StoreFault::Timeout),
        };
        StoreDialled {
            region: self.dialer.region(),
            purpose: Purpose::Fleet,
            // A person asked.
            is_news: true,
            fault: made.as_ref().err().copied(),
        }
        .emit();
        Ok(AnswerSubscription { key: self.answers_key(question), connection: made? })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn answers_key(&self, question: &str) -> String {
        format!("{}answers:{question}", self.prefix)
    }
}

impl AnswerSubscription {
    /// Returns the next answer; `None` if none has arrived for a while.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, StoreFault> {
        let command = cmd("BLPOP").arg(&self.key).arg(WAIT_SECONDS).clone();
        let popped = self.connection.command::<Option<(String, Vec<u8>)>>(&command).await;
        popped
            .map(|popped| popped.map(|(_, answer)| answer))
            .map_err(|error| StoreFault::from(&error))
    }
}
