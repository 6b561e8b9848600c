//! Reads the keys of another program in Redis: the sessions of a web application.

use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, Value, pipe};

use super::channel::RedisChannel;
use super::dial::RedisDialler;
use super::events::{Operation, Purpose};
use super::{StoreOpenError, ask_all, authorities};
use crate::base::breaker::BreakerState;
use crate::config::store::Redis;
use crate::model::store_fault::StoreFault;

#[derive(Debug)]
pub struct SessionLookup {
    channel: RedisChannel,
}

/// A value, cut if it is too long, and the remaining life of its key. `left` is `None` for a key
/// that does not expire.
pub struct FoundValue {
    pub value: Vec<u8>,
    pub left: Option<Duration>,
}

impl SessionLookup {
    pub fn open(config: &Redis) -> Result<Self, StoreOpenError> {
        let dialer = Arc::new(RedisDialler::new(config.clone(), authorities(config)?));
        Ok(Self {
            channel: RedisChannel::new(
                Purpose::Sessions,
                &dialer,
                config.timeout,
                config.max_in_flight,
            ),
        })
    }

    pub fn state(&self) -> BreakerState {
        self.channel.state()
    }

    /// Reads a value, and at most one byte more than `most`, so that the caller notices a longer
    /// one.
    pub async fn read(&self, key: &str, most: usize) -> Result<Option<FoundValue>, StoreFault> {
        let both = pipe().cmd("GETRANGE").arg(key).arg(0).arg(most).cmd("PTTL").arg(key).clone();
        let read = |answers: Vec<Value>| {
            let [value, left] =
                <[Value; 2]>::try_from(answers).map_err(|_| StoreFault::Protocol)?;
            let value = Vec::<u8>::from_redis_value(value).map_err(|_| StoreFault::Protocol)?;
            let left = i64::from_redis_value(left).map_err(|_| StoreFault::Protocol)?;
            Ok(match u64::try_from(left) {
                Ok(left) => Some(FoundValue { value, left: Some(Duration::from_millis(left)) }),
                // -1 means that the key does not expire, -2 that it has just expired.
                Err(_) if left == -1 => Some(FoundValue { value, left: None }),
                Err(_) => None,
            })
        };
        self.channel
            .run(Operation::Session, move |connection| ask_all(connection, both), read)
            .await
    }
}
