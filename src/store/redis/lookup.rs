//! Other people's keys in Redis, read: sessions of a web application.

use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, Value, pipe};

use super::dial::Dialer;
use super::lane::Lane;
use super::{Fault, OpenError, SESSIONS_LANE, ask_all, authorities};
use crate::breaker::BreakerState;
use crate::config::store::Redis;

#[derive(Debug)]
pub struct Lookup {
    lane: Lane,
}

/// A value, and how long its key has to live; `None`: for ever.
pub struct Found {
    pub value: Vec<u8>,
    pub left: Option<Duration>,
}

impl Lookup {
    pub fn open(config: &Redis) -> Result<Self, OpenError> {
        let dialer = Arc::new(Dialer::new(config.clone(), authorities(config)?));
        Ok(Self { lane: Lane::new(SESSIONS_LANE, &dialer, config.timeout, config.max_in_flight) })
    }

    pub fn state(&self) -> BreakerState {
        self.lane.state()
    }

    pub async fn read(&self, key: &str) -> Result<Option<Found>, Fault> {
        let both = pipe().cmd("GET").arg(key).cmd("PTTL").arg(key).clone();
        let read = |answers: Vec<Value>| {
            let [value, left] = <[Value; 2]>::try_from(answers).map_err(|_| Fault::Protocol)?;
            let value: Option<Vec<u8>> = Option::from_redis_value(value).map_err(|_| Fault::Protocol)?;
            let left = i64::from_redis_value(left).map_err(|_| Fault::Protocol)?;
            Ok(match (value, u64::try_from(left)) {
                (Some(value), Ok(left)) => Some(Found { value, left: Some(Duration::from_millis(left)) }),
                // -1 is a key without an end; -2 is one that is gone since.
                (Some(value), Err(_)) if left == -1 => Some(Found { value, left: None }),
                _ => None,
            })
        };
        self.lane.run("session", move |connection| ask_all(connection, both), read).await
    }
}
