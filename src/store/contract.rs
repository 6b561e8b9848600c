//! The contract of every store. The tests of each store run [`check`] on it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;

use super::{ExpiredTicket, Store, TakeError, TicketHash, TicketRecord};
use crate::base::clock::{Now, UnixMillis};
use crate::model::faults::TicketFault;
use crate::model::principal::Principal;

pub async fn check(make: impl Fn() -> Store) {
    a_ticket_is_taken_once(make()).await;
    a_ticket_wins_once_under_a_race_of_sixty_four(make()).await;
    an_expired_ticket_is_not_taken(make()).await;
    looking_consumes_nothing(make()).await;
    a_multi_use_ticket_stays(make()).await;
    a_record_comes_back_as_it_was(make()).await;
    sweeping_forgets_what_nobody_redeemed(make()).await;
    a_clock_that_is_set_back_lengthens_no_ticket(make()).await;
}

pub fn record(expires_at: UnixMillis) -> TicketRecord {
    TicketRecord {
        principal: Principal {
            subject: "ada".to_owned(),
            issuer: "main".into(),
            token_id: Some("t-1".to_owned()),
            issuer_session: None,
            permissions: vec!["chat:read".to_owned()],
            issued_at: UnixMillis(0),
            expires_at: UnixMillis(u64::MAX),
            in_leeway: false,
            claims: serde_json::Map::new(),
        },
        route: Some("/ws".into()),
        origin: Some("https://app.example.com".to_owned()),
        address: Some([192, 0, 2, 1].into()),
        created_at: UnixMillis(0),
        expires_at,
        single_use: true,
        traceparent: None,
    }
}

pub fn later(now: Now, seconds: u64) -> Now {
    Now {
        wall: now.wall + Duration::from_secs(seconds),
        mono: now.mono + Duration::from_secs(seconds),
    }
}

const HASH: TicketHash = TicketHash([42; 32]);

async fn put(store: &Store, now: Now) {
    store.put(HASH, record(now.wall + Duration::from_secs(30)), now).await.unwrap();
}

async fn a_ticket_is_taken_once(store: Store) {
    let now = Now::read();
    put(&store, now).await;
    assert!(store.take(HASH, now).await.is_ok());
    assert!(matches!(store.take(HASH, now).await, Err(TakeError::Fault(TicketFault::Used))));
    assert_eq!(store.peek(HASH, now).await, Err(TakeError::Fault(TicketFault::Used)));
    assert_eq!(
        store.take(TicketHash([1; 32]), now).await,
        Err(TakeError::Fault(TicketFault::Unknown))
    );
    assert_eq!(store.sweep(later(now, 40)).await, Vec::new(), "what was redeemed does not expire");
}

async fn a_ticket_wins_once_under_a_race_of_sixty_four(store: Store) {
    let (store, now) = (Arc::new(store), Now::read());
    for round in 0..20 {
        let hash = TicketHash([round; 32]);
        store.put(hash, record(now.wall + Duration::from_secs(30)), now).await.unwrap();
        let barrier = Arc::new(Barrier::new(64));
        let racers = (0..64).map(|_| {
            let (store, barrier) = (Arc::clone(&store), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                store.take(hash, now).await.is_ok()
            })
        });
        let mut winners = 0;
        for racer in racers.collect::<Vec<_>>() {
            winners += usize::from(racer.await.unwrap());
        }
        assert_eq!(winners, 1);
    }
}

async fn an_expired_ticket_is_not_taken(store: Store) {
    let now = Now::read();
    put(&store, now).await;
    let expired = Err(TakeError::Fault(TicketFault::Expired));
    assert_eq!(store.take(HASH, later(now, 30)).await, expired, "at its very end it is over");
    for _ in 0..3 {
        assert_eq!(
            store.take(HASH, now).await,
            expired,
            "a clock that goes back does not revive it"
        );
    }
    let told: Vec<_> = store
        .sweep(later(now, 40))
        .await
        .into_iter()
        .map(|ticket| (ticket.name, ticket.user))
        .collect();
    assert_eq!(told, [(HASH.name(), "ada".to_owned())]);
    assert_eq!(store.sweep(later(now, 50)).await, Vec::new(), "and it is told once");
    assert_eq!(store.take(HASH, now).await, expired);
}

async fn looking_consumes_nothing(store: Store) {
    let now = Now::read();
    put(&store, now).await;
    for _ in 0..3 {
        assert!(store.peek(HASH, now).await.is_ok());
    }
    assert!(store.peek(HASH, later(now, 31)).await.is_err());
    assert!(store.take(HASH, now).await.is_ok());
    assert!(store.peek(HASH, now).await.is_err());
}

async fn a_multi_use_ticket_stays(store: Store) {
    let now = Now::read();
    store
        .put(
            HASH,
            TicketRecord { single_use: false, ..record(now.wall + Duration::from_secs(30)) },
            now,
        )
        .await
        .unwrap();
    assert!(store.take(HASH, now).await.is_ok());
    assert!(store.take(HASH, now).await.is_ok());
    assert!(store.take(HASH, later(now, 30)).await.is_err());
}

async fn a_record_comes_back_as_it_was(store: Store) {
    let now = Now::read();
    let sent = record(now.wall + Duration::from_secs(30));
    store.put(HASH, sent.clone(), now).await.unwrap();
    assert_eq!(store.take(HASH, now).await, Ok(sent));
}

async fn sweeping_forgets_what_nobody_redeemed(store: Store) {
    let now = Now::read();
    put(&store, now).await;
    // Only a store in this process knows the number of its tickets.
    let counts = store.held().is_some();
    assert_eq!((store.sweep(now).await, store.held()), (Vec::new(), counts.then_some(1)));
    let multi = TicketHash([43; 32]);
    store
        .put(
            multi,
            TicketRecord { single_use: false, ..record(now.wall + Duration::from_secs(30)) },
            now,
        )
        .await
        .unwrap();
    assert!(store.take(multi, now).await.is_ok());
    let mut told = store.sweep(later(now, 32)).await;
    told.sort_by_key(|ticket| ticket.name.as_str().to_owned());
    let wanted = [HASH, multi].map(|hash| ExpiredTicket::of(hash, &record(UnixMillis(0))));
    assert_eq!((told, store.held()), (wanted.to_vec(), counts.then_some(0)));
    assert_eq!(store.sweep(later(now, 33)).await, Vec::new());
    for hash in [HASH, multi] {
        assert_eq!(
            store.take(hash, later(now, 33)).await,
            Err(TakeError::Fault(TicketFault::Expired))
        );
        assert_eq!(
            store.take(hash, now).await,
            Err(TakeError::Fault(TicketFault::Expired)),
            "no clock revives it"
        );
    }
}

/// Redeems a ticket of 30 s after 33 s, on a node whose wall clock was set back by 30 s or by an
/// hour in between.
async fn a_clock_that_is_set_back_lengthens_no_ticket(store: Store) {
    let now = Now::read();
    let set_back = |back: u64| {
        let at = later(now, 33);
        Now { wall: UnixMillis(at.wall.0 - back * 1000), ..at }
    };
    for (byte, back) in [(1, 30), (2, 3600)] {
        for single_use in [true, false] {
            let hash = TicketHash([byte + 10 * u8::from(single_use); 32]);
            let sent = TicketRecord { single_use, ..record(now.wall + Duration::from_secs(30)) };
            store.put(hash, sent, now).await.unwrap();
            let over = |fault: &TakeError| {
                matches!(fault, TakeError::Fault(TicketFault::Expired | TicketFault::Unknown))
            };
            assert!(store.peek(hash, set_back(back)).await.is_err_and(|fault| over(&fault)));
            assert!(
                store.take(hash, set_back(back)).await.is_err_and(|fault| over(&fault)),
                "set back by {back} s"
            );
        }
    }
    // Before its expiry, a ticket is valid even if the wall clock is set back.
    put(&store, now).await;
    let early = later(now, 20);
    assert!(
        store.take(HASH, Now { wall: UnixMillis(early.wall.0 - 3_600_000), ..early }).await.is_ok()
    );
}
