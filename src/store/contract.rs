//! What every store promises. A store's own tests run [`check`] on it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;

use super::{Store, TakeError, TicketFault, TicketHash, TicketRecord};
use crate::auth::principal::Principal;
use crate::clock::{Now, UnixMillis};

pub async fn check(make: impl Fn() -> Store) {
    a_ticket_is_taken_once(make()).await;
    a_ticket_wins_once_under_a_race_of_sixty_four(make()).await;
    an_expired_ticket_is_not_taken(make()).await;
    looking_consumes_nothing(make()).await;
    a_multi_use_ticket_stays(make()).await;
    a_record_comes_back_as_it_was(make()).await;
    sweeping_forgets_what_nobody_redeemed(make()).await;
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

fn later(now: Now, seconds: u64) -> Now {
    Now { wall: now.wall + Duration::from_secs(seconds), mono: now.mono + Duration::from_secs(seconds) }
}

const HASH: TicketHash = TicketHash([42; 32]);

async fn put(store: &Store, now: Now) {
    store.put(HASH, record(now.wall + Duration::from_secs(30)), now).await.unwrap();
}

async fn a_ticket_is_taken_once(store: Store) {
    let now = Now::read();
    put(&store, now).await;
    assert!(store.take(HASH, now).await.is_ok());
    assert!(matches!(store.take(HASH, now).await, Err(TakeError::Fault(TicketFault::Used | TicketFault::Unknown))));
    assert_eq!(store.take(TicketHash([1; 32]), now).await, Err(TakeError::Fault(TicketFault::Unknown)));
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
    let fault = store.take(HASH, later(now, 30)).await.unwrap_err();
    assert!(matches!(fault, TakeError::Fault(TicketFault::Expired | TicketFault::Unknown)), "at its very end it is over");
    assert!(store.take(HASH, now).await.is_err(), "and a clock that goes back does not revive it");
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
    store.put(HASH, TicketRecord { single_use: false, ..record(now.wall + Duration::from_secs(30)) }, now).await.unwrap();
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
    // A store that forgets by itself counts nothing.
    let counts = store.held().is_some();
    assert_eq!((store.sweep(now).await, store.held()), (0, counts.then_some(1)));
    assert_eq!((store.sweep(later(now, 31)).await, store.held()), (u64::from(counts), counts.then_some(0)));
    assert_eq!(store.sweep(later(now, 32)).await, 0);
    assert!(store.take(HASH, later(now, 32)).await.is_err());
}
