//! The places of users in the whole fleet: one sorted set for each user, which one script changes.
//!
//! A member is a session with its start time. Its score is the time at which the place expires. The
//! node of the session moves this time forward. If the node dies, its places expire. The time is an
//! argument from the clock of the node.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::{cmd, pipe};

use super::channel::RedisChannel;
use super::events::Operation;
use super::{ask, ask_each, millis};
use crate::base::clock::UnixMillis;
use crate::config::ExtraSessions;
use crate::model::store_fault::StoreFault;

/// How long a place exists without a renewal by its node.
pub const LEASE: Duration = Duration::from_secs(60);
/// The most places that one operation changes.
pub const PAGE: usize = 64;

/// Takes a place. ARGV: the time, the end of the lease, the member, the limit, the action above the
/// limit, and the life of the key. The script first removes the member, so that a repetition does
/// not count it twice.
const TAKE_SCRIPT: &str = "\
redis.call('ZREMRANGEBYSCORE',KEYS[1],'-inf',ARGV[1]) \
redis.call('ZREM',KEYS[1],ARGV[3]) \
local over=redis.call('ZCARD',KEYS[1])+1-tonumber(ARGV[4]) \
if over>0 and ARGV[5]=='refuse' then return {'full'} end \
redis.call('ZADD',KEYS[1],ARGV[2],ARGV[3]) \
redis.call('PEXPIRE',KEYS[1],ARGV[6]) \
local answer={'taken'} \
if over<=0 then return answer end \
local all=redis.call('ZRANGE',KEYS[1],0,-1) \
table.sort(all) \
for _,member in ipairs(all) do \
if over>0 and member~=ARGV[3] then \
redis.call('ZREM',KEYS[1],member) answer[#answer+1]=member over=over-1 \
end end \
return answer";

#[derive(Debug)]
pub struct PlaceBook {
    prefix: String,
    channel: Arc<RedisChannel>,
}

/// The hash of a user. The keys of the store do not contain user names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserHash([u8; 32]);

/// One place in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPlace {
    pub user: UserHash,
    pub since: UnixMillis,
    /// The session's id.
    pub session: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The user has reached the limit.
    Full,
    /// The session has a place. These older sessions have lost theirs.
    Place { replaced: Vec<String> },
}

impl UserHash {
    /// Returns the hash of the issuer and the subject, because two issuers may use the same
    /// subject.
    pub fn of(issuer: &str, subject: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&(issuer.len() as u64).to_be_bytes());
        context.update(issuer.as_bytes());
        context.update(subject.as_bytes());
        let mut hash = [0; 32];
        hash.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Self(hash)
    }
}

impl StoredPlace {
    /// Returns the member of the set. Members sort by age: the number of digits stays the same
    /// until the year 2286.
    fn member(&self) -> String {
        format!("{:013}:{}", self.since.0, self.session)
    }
}

impl PlaceBook {
    pub(super) fn new(prefix: &str, channel: &Arc<RedisChannel>) -> Self {
        Self { prefix: prefix.to_owned(), channel: Arc::clone(channel) }
    }

    pub async fn take(
        &self,
        place: &StoredPlace,
        most: usize,
        extra_sessions: ExtraSessions,
        now: UnixMillis,
    ) -> Result<Taken, StoreFault> {
        let mode = if extra_sessions == ExtraSessions::Refuse { "refuse" } else { "replace" };
        let mut script = cmd("EVAL");
        script
            .arg(TAKE_SCRIPT)
            .arg(1)
            .arg(self.key(place.user))
            .arg(now.0)
            .arg((now + LEASE).0)
            .arg(place.member());
        script.arg(most).arg(mode).arg(millis(LEASE * 2));
        let read = |answer: Vec<String>| {
            let mut answer = answer.into_iter();
            match answer.next().as_deref() {
                Some("full") => Ok(Taken::Full),
                Some("taken") => {
                    let session = |member: String| {
                        member.split_once(':').map(|(_, session)| session.to_owned())
                    };
                    Ok(Taken::Place { replaced: answer.filter_map(session).collect() })
                }
                _ => Err(StoreFault::Protocol),
            }
        };
        self.channel.run(Operation::Place, |connection| ask(connection, script), read).await
    }

    /// Renews a page of places, or writes them again if the store has lost them.
    pub async fn renew(&self, places: &[StoredPlace], now: UnixMillis) -> Result<(), StoreFault> {
        let renewal = |place: &StoredPlace| {
            let (key, mut pipeline) = (self.key(place.user), pipe());
            pipeline.cmd("ZADD").arg(&key).arg((now + LEASE).0).arg(place.member());
            pipeline.cmd("PEXPIRE").arg(&key).arg(millis(LEASE * 2));
            pipeline
        };
        let pipelines = places.iter().map(renewal).collect();
        self.channel.run(Operation::Renew, |connection| ask_each(connection, pipelines), Ok).await
    }

    pub async fn give_back(&self, places: &[StoredPlace]) -> Result<(), StoreFault> {
        let end = |place: &StoredPlace| {
            pipe().cmd("ZREM").arg(self.key(place.user)).arg(place.member()).clone()
        };
        let pipelines = places.iter().map(end).collect();
        self.channel
            .run(Operation::GiveBack, |connection| ask_each(connection, pipelines), Ok)
            .await
    }

    fn key(&self, user: UserHash) -> String {
        format!("{}user:{}", self.prefix, URL_SAFE_NO_PAD.encode(user.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::roster::Roster;
    use super::super::server::RedisServer;
    use super::super::tests::config;
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn held(user: &str, since: UnixMillis, session: &str) -> StoredPlace {
        StoredPlace { user: UserHash::of("main", user), since, session: session.to_owned() }
    }

    fn book(server: &RedisServer) -> PlaceBook {
        Roster::open(&config(server.port)).unwrap().places()
    }

    fn place(replaced: &[&str]) -> Result<Taken, StoreFault> {
        Ok(Taken::Place { replaced: replaced.iter().map(|one| (*one).to_owned()).collect() })
    }

    #[tokio::test]
    async fn a_place_is_refused_at_the_limit_until_it_is_given_back_or_its_lease_ends() {
        let server = RedisServer::start(&[]);
        let book = book(&server);
        let take = |session: &'static str, now| {
            let held = held("ada", now, session);
            let book = &book;
            async move { book.take(&held, 2, ExtraSessions::Refuse, now).await }
        };
        assert_eq!((take("a", NOW).await, take("b", NOW).await), (place(&[]), place(&[])));
        assert_eq!(
            (take("c", NOW).await, take("b", NOW).await),
            (Ok(Taken::Full), place(&[])),
            "asking again counts once"
        );
        assert_eq!(
            book.take(&held("bob", NOW, "d"), 2, ExtraSessions::Refuse, NOW).await,
            place(&[]),
            "another user"
        );
        book.give_back(&[held("ada", NOW, "a")]).await.unwrap();
        assert_eq!((take("c", NOW).await, take("e", NOW).await), (place(&[]), Ok(Taken::Full)));
        // One node renews its place, the other one has died.
        let later = NOW + LEASE / 2;
        book.renew(&[held("ada", NOW, "c")], later).await.unwrap();
        assert_eq!(take("e", NOW + LEASE / 6 * 5).await, Ok(Taken::Full));
        assert_eq!(
            (take("e", NOW + LEASE).await, take("f", NOW + LEASE).await),
            (place(&[]), Ok(Taken::Full))
        );
        let keys = server.cli(&["KEYS", "*"]);
        assert!(keys.starts_with("usher:user:") && !keys.contains("ada"), "{keys}");
        let key = book.key(UserHash::of("main", "ada"));
        let left: u64 = server.cli(&["PTTL", &key]).trim().parse().unwrap();
        assert!((60_000..=120_000).contains(&left), "it leaves by itself: {left}");
    }

    #[tokio::test]
    async fn the_oldest_gives_way_and_what_was_too_many_goes_at_once() {
        let server = RedisServer::start(&[]);
        let book = book(&server);
        let at = |seconds| NOW + Duration::from_secs(seconds);
        let take = |session: &'static str, since| {
            let held = held("ada", since, session);
            let book = &book;
            async move { book.take(&held, 2, ExtraSessions::ReplaceOldest, at(9)).await }
        };
        assert_eq!(
            (take("b", at(2)).await, take("a", at(1)).await, take("c", at(3)).await),
            (place(&[]), place(&[]), place(&["a"]))
        );
        // A session from a node whose clock is behind does not replace itself.
        assert_eq!(take("d", at(0)).await, place(&["b"]));
        // Two nodes accepted sessions without the store, and write their places again.
        let lost: Vec<StoredPlace> = [("e", 4), ("f", 5), ("g", 6)]
            .map(|(session, since)| held("ada", at(since), session))
            .into();
        book.renew(&lost, at(9)).await.unwrap();
        assert_eq!(take("h", at(7)).await, place(&["d", "c", "e", "f"]));
    }

    #[test]
    fn issuer_and_subject_do_not_run_into_each_other() {
        assert_ne!(UserHash::of("a", "bc"), UserHash::of("ab", "c"));
    }
}
