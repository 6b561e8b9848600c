//! Small values that all nodes share, and the lock of the node that writes them.
//!
//! The lock is a key that expires, with the token of its holder. Each write checks the token in the
//! same script, so that a holder that was stopped for too long writes nothing afterwards. All keys
//! of one group have the same hash tag: in a cluster they are on one node.

use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, Value, cmd, pipe};

use super::channel::RedisChannel;
use super::dial::RedisDialler;
use super::events::{Operation, Purpose};
use super::{ask, ask_all, authorities, millis};
use crate::config::store::Redis;
use crate::model::store_fault::StoreFault;
use crate::store::StoreOpenError;

/// Takes the lock, or keeps it. ARGV: the token, the owner, the life of the lock. An owner whose
/// earlier attempt was interrupted gets it again.
const LOCK_SCRIPT: &str = "\
local held=redis.call('GET',KEYS[1]) \
if held and held~='' and string.sub(held,1,#ARGV[2])~=ARGV[2] then return 0 end \
redis.call('SET',KEYS[1],ARGV[1],'PX',ARGV[3]) \
return 1";
/// Keeps or releases the lock, if the token is still in it. ARGV: the token, the next value, the
/// life.
const KEEP_SCRIPT: &str = "\
if redis.call('GET',KEYS[1])~=ARGV[1] then return 0 end \
redis.call('SET',KEYS[1],ARGV[2],'PX',ARGV[3]) \
return 1";
/// Writes a value if the token is in the lock. ARGV: the token, the value, the life or 0.
const WRITE_SCRIPT: &str = "\
if redis.call('GET',KEYS[1])~=ARGV[1] then return 0 end \
if ARGV[3]=='0' then redis.call('SET',KEYS[2],ARGV[2]) \
else redis.call('SET',KEYS[2],ARGV[2],'PX',ARGV[3]) end \
return 1";
/// A released lock leaves after this time. `SET` needs no further permission at Redis.
const RELEASED: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub struct SharedValues {
    channel: RedisChannel,
    prefix: String,
}

impl SharedValues {
    /// `group` names the values; those of other groups are apart.
    pub fn open(config: &Redis, group: &str) -> Result<Self, StoreOpenError> {
        let dialer = Arc::new(RedisDialler::new(config.clone(), authorities(config)?));
        Ok(Self {
            channel: RedisChannel::new(
                Purpose::Certificates,
                &dialer,
                config.timeout,
                config.max_in_flight,
            ),
            prefix: format!("{}{{{group}}}:", config.prefix),
        })
    }

    /// Returns the values of these names. An empty value counts as none.
    pub async fn read<const N: usize>(
        &self,
        names: [String; N],
    ) -> Result<[Option<Vec<u8>>; N], StoreFault> {
        let mut pipeline = pipe();
        for name in names {
            pipeline.cmd("GET").arg(self.key(&name));
        }
        let read = |answers: Vec<Value>| {
            let values = answers
                .into_iter()
                .map(Option::<Vec<u8>>::from_redis_value)
                .map(|value| value.map(|value| value.filter(|value| !value.is_empty())))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| StoreFault::Protocol)?;
            values.try_into().map_err(|_| StoreFault::Protocol)
        };
        self.channel
            .run(Operation::ReadShared, |connection| ask_all(connection, pipeline), read)
            .await
    }

    /// Takes the lock. Returns false while another owner has it. The token begins with the owner.
    pub async fn lock(&self, owner: &str, token: &str, life: Duration) -> Result<bool, StoreFault> {
        let mut script = cmd("EVAL");
        script.arg(LOCK_SCRIPT).arg(1).arg(self.key("lock")).arg(token).arg(owner);
        self.change(script.arg(millis(life)).clone()).await
    }

    /// Lengthens the life of the lock. Returns false if another owner has it now.
    pub async fn keep(&self, token: &str, life: Duration) -> Result<bool, StoreFault> {
        let mut script = cmd("EVAL");
        script.arg(KEEP_SCRIPT).arg(1).arg(self.key("lock")).arg(token).arg(token);
        self.change(script.arg(millis(life)).clone()).await
    }

    pub async fn unlock(&self, token: &str) -> Result<bool, StoreFault> {
        let mut script = cmd("EVAL");
        script.arg(KEEP_SCRIPT).arg(1).arg(self.key("lock")).arg(token).arg("");
        self.change(script.arg(millis(RELEASED)).clone()).await
    }

    /// Writes a value. Returns false if the lock has another owner, and writes nothing then.
    pub async fn write(
        &self,
        token: &str,
        name: &str,
        value: &[u8],
        life: Option<Duration>,
    ) -> Result<bool, StoreFault> {
        let mut script = cmd("EVAL");
        script.arg(WRITE_SCRIPT).arg(2).arg(self.key("lock")).arg(self.key(name)).arg(token);
        script.arg(value).arg(life.map_or(0, millis));
        self.change(script).await
    }

    async fn change(&self, script: redis::Cmd) -> Result<bool, StoreFault> {
        let read = |answer: i64| Ok(answer == 1);
        self.channel.run(Operation::WriteShared, |connection| ask(connection, script), read).await
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::super::server::RedisServer;
    use super::super::tests::config;
    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn only_the_holder_of_the_lock_writes() {
        let server = RedisServer::start(&[]);
        let values = SharedValues::open(&config(server.port), "acme:1").unwrap();
        assert_eq!(values.lock("a", "a:1", LIFE).await, Ok(true));
        assert_eq!(values.lock("b", "b:1", LIFE).await, Ok(false));
        assert_eq!(values.write("a:1", "name", b"one", None).await, Ok(true));
        assert_eq!(values.write("b:1", "name", b"two", None).await, Ok(false));
        // The owner began anew: its earlier attempt writes nothing any more.
        assert_eq!(values.lock("a", "a:2", LIFE).await, Ok(true));
        assert_eq!(values.write("a:1", "name", b"three", None).await, Ok(false));
        assert_eq!(values.keep("a:1", LIFE).await, Ok(false));
        assert_eq!(values.keep("a:2", LIFE).await, Ok(true));
        assert_eq!(
            values.read(["name".to_owned(), "other".to_owned()]).await,
            Ok([Some(b"one".to_vec()), None])
        );
        assert_eq!(values.unlock("a:1").await, Ok(false));
        assert_eq!(values.unlock("a:2").await, Ok(true));
        assert_eq!(values.lock("b", "b:1", LIFE).await, Ok(true));
        assert_eq!(values.write("b:1", "name", b"", Some(LIFE)).await, Ok(true));
        assert_eq!(values.read(["name".to_owned()]).await, Ok([None]));
    }

    #[tokio::test]
    async fn a_lock_leaves_with_its_holder() {
        let server = RedisServer::start(&[]);
        let values = SharedValues::open(&config(server.port), "acme:1").unwrap();
        assert_eq!(values.lock("a", "a:1", Duration::from_millis(50)).await, Ok(true));
        let began = crate::base::clock::Now::read().mono;
        while values.lock("b", "b:1", LIFE).await != Ok(true) {
            assert!(began.elapsed() < LIFE, "the lock does not expire");
        }
        assert_eq!(values.write("a:1", "name", b"late", None).await, Ok(false));
        assert_eq!(values.keep("a:1", LIFE).await, Ok(false));
    }
}
