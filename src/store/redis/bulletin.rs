//! The stream through which the nodes of a fleet tell each other what is revoked.
//!
//! Writing has a lane like every other operation. Reading blocks its connection until there is something to read, so a reader
//! has a connection of its own, with more time than the others. The stream is bounded and leaves by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, Value, cmd, pipe};
use tokio::time::timeout;

use super::dial::{Connection, DIAL_TIMEOUT, Dialer};
use super::fault::Fault;
use super::lane::Lane;
use super::{BULLETIN_LANE, ask_all, millis};
use crate::auth::revocation::Revocation;
use crate::config;
use crate::config::store::Redis;
use crate::store::OpenError;
use crate::telemetry::event::Event;

/// A read that finds nothing ends after this, and the reader looks whether all is as it was.
pub const BLOCK: Duration = Duration::from_secs(1);
/// Entries of one read.
const PAGE: usize = 500;
const FIELD: &str = "order";
/// No order that a node gives is longer: its names have a kilobyte each, and JSON may write a byte as six.
const LONGEST: usize = 16 * 1024;

#[derive(Debug)]
pub struct Bulletin {
    key: String,
    keep: Duration,
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
    connection: Connection,
    patience: Duration,
    last: String,
    /// The oldest entry when we looked. Where another one takes its place, entries have gone.
    first: Option<String>,
}

/// What one entry says; `None`: it is not an order, or of a version that we do not know.
pub type Entry = Option<Revocation>;

impl Bulletin {
    pub fn open(config: &Redis, revocation: &config::Revocation) -> Result<Self, OpenError> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| OpenError { path: path.clone(), error });
        let ca = config.ca_file.as_ref().map(read).transpose()?;
        let dialer = Arc::new(Dialer::new(config.clone(), ca.clone()));
        let patience = BLOCK + config.timeout;
        Ok(Self {
            key: format!("{}revocations", config.prefix),
            keep: revocation.keep,
            // Nodes that write the same at once leave room for each other.
            length: revocation.max_entries.saturating_mul(2),
            lane: Lane::new(BULLETIN_LANE, &dialer, config.timeout, config.max_in_flight),
            dialer: Dialer::new(Redis { timeout: patience, ..config.clone() }, ca),
            patience,
        })
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

    fn pipeline(&self, orders: &[Revocation]) -> Result<Pipeline, Fault> {
        let mut pipeline = pipe();
        for order in orders {
            let json = serde_json::to_string(order).map_err(|_| Fault::Other)?;
            pipeline.cmd("XADD").arg(&self.key).arg("MAXLEN").arg("~").arg(self.length).arg("*").arg(FIELD).arg(json);
        }
        pipeline.cmd("PEXPIRE").arg(&self.key).arg(millis(self.keep));
        Ok(pipeline)
    }

    pub async fn connect(&self) -> Result<Reader, Fault> {
        let made = match timeout(DIAL_TIMEOUT, self.dialer.dial()).await {
            Ok(made) => made.map_err(|error| Fault::from(&error)),
            Err(_) => Err(Fault::Timeout),
        };
        let outcome = made.as_ref().map_or_else(|fault| fault.label(), |_| "ok");
        Event::StoreDialled { region: self.dialer.region(), lane: BULLETIN_LANE, outcome }.emit();
        Ok(Reader { key: self.key.clone(), connection: made?, patience: self.patience, last: "0".to_owned(), first: None })
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
        self.advance(None).await
    }

    /// The same, and waits for it; nothing after a while.
    pub async fn wait(&mut self) -> Result<Vec<Entry>, Fault> {
        self.advance(Some(BLOCK)).await
    }

    /// Has the stream lost entries since it was read from its beginning: trimmed, emptied, or another one?
    pub async fn has_gap(&mut self) -> Result<bool, Fault> {
        let oldest = self.ask("0", 1, None).await?.into_iter().next().map(|(id, _)| id);
        Ok(self.first.is_some() && oldest != self.first)
    }

    async fn advance(&mut self, block: Option<Duration>) -> Result<Vec<Entry>, Fault> {
        let from = self.last.clone();
        let entries = self.ask(&from, PAGE, block).await?;
        if self.first.is_none() {
            self.first = entries.first().map(|(id, _)| id.clone());
        }
        if let Some((id, _)) = entries.last() {
            self.last.clone_from(id);
        }
        Ok(entries.into_iter().map(|(_, entry)| entry).collect())
    }

    async fn ask(&mut self, from: &str, count: usize, block: Option<Duration>) -> Result<Vec<(String, Entry)>, Fault> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(count);
        if let Some(block) = block {
            read.arg("BLOCK").arg(millis(block));
        }
        read.arg("STREAMS").arg(&self.key).arg(from);
        let answer = timeout(self.patience, self.connection.command::<Value>(&read)).await.map_err(|_| Fault::Timeout)?;
        let answer = answer.map_err(|error| Fault::from(&error))?;
        entries(answer).ok_or(Fault::Protocol)
    }
}

/// An id for each entry, and whether the stream is there: whoever just says yes has written nothing.
fn accepted(answers: &[Value]) -> Result<(), Fault> {
    match answers.split_last() {
        Some((Value::Int(_), ids)) if ids.iter().all(|id| matches!(id, Value::BulkString(_))) => Ok(()),
        _ => Err(Fault::Protocol),
    }
}

/// The entries of the one stream that was asked for, in either version of the protocol. Nobody's is an empty one.
fn entries(answer: Value) -> Option<Vec<(String, Entry)>> {
    let entries = match answer {
        Value::Nil => return Some(Vec::new()),
        Value::Map(streams) => streams.into_iter().next()?.1,
        Value::Array(streams) => {
            let Some(Value::Array(stream)) = streams.into_iter().next() else { return Some(Vec::new()) };
            stream.into_iter().nth(1)?
        }
        _ => return None,
    };
    let Value::Array(entries) = entries else { return None };
    entries.into_iter().map(entry).collect()
}

fn entry(entry: Value) -> Option<(String, Entry)> {
    let Value::Array(parts) = entry else { return None };
    let [Value::BulkString(id), fields] = <[Value; 2]>::try_from(parts).ok()? else { return None };
    let order = match fields {
        Value::Array(fields) => match <[Value; 2]>::try_from(fields) {
            Ok([Value::BulkString(name), Value::BulkString(json)]) if name == FIELD.as_bytes() && json.len() <= LONGEST => {
                serde_json::from_slice(&json).ok()
            }
            _ => None,
        },
        _ => None,
    };
    Some((String::from_utf8(id).ok()?, order))
}
