//! Other people's keys in Redis, read: sessions of a web application.

use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, Value, pipe};

use super::channel::RedisChannel;
use super::dial::Dialer;
use super::events::{Operation, Purpose};
use super::{OpenError, ask_all, authorities};
use crate::base::breaker::BreakerState;
use crate::config::store::Redis;
use crate::model::store_fault::StoreFault;

#[derive(Debug)]
pub struct Lookup {
    channel: RedisChannel,
}

/// A value, or as much of it as is too much, and how long its key has to live; `None`: for ever.
pub struct Found {
    pub value: Vec<u8>,
    pub left: Option<Duration>,
}

impl Lookup {
    pub fn open(config: &Redis) -> Result<Self, OpenError> {
        let dialer = Arc::new(Dialer::new(config.clone(), authorities(config)?));
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

    /// Reads one byte more than `most` where there are so many.
    pub async fn read(&self, key: &str, most: usize) -> Result<Option<Found>, StoreFault> {
        let both = pipe().cmd("GETRANGE").arg(key).arg(0).arg(most).cmd("PTTL").arg(key).clone();
        let read = |answers: Vec<Value>| {
            let [value, left] =
                <[Value; 2]>::try_from(answers).map_err(|_| StoreFault::Protocol)?;
            let value = Vec::<u8>::from_redis_value(value).map_err(|_| StoreFault::Protocol)?;
            let left = i64::from_redis_value(left).map_err(|_| StoreFault::Protocol)?;
            Ok(match u64::try_from(left) {
                Ok(left) => Some(Found { value, left: Some(Duration::from_millis(left)) }),
                // -1 is a key without an end; -2 is one that is gone since.
                Err(_) if left == -1 => Some(Found { value, left: None }),
                Err(_) => None,
            })
        };
        self.channel
            .run(Operation::Session, move |connection| ask_all(connection, both), read)
            .await
    }
}
