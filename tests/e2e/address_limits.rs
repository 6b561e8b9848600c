//! The limits on sessions and upgrades: of one address, of one route, and of all clients.

use std::net::SocketAddr;

use crate::support::client::{self, Answer};
use crate::support::{Backend, Echo, Raw, Setup, Usher, eventually, upgrade_ends, upgrade_request};

const OTHER: [u8; 4] = [127, 0, 0, 2];
const ROUTES: &str = "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\n\
    auth = [\"header\", \"message\"]\n\
    [[route]]\npath = \"/open\"\nupstream = \"chat\"\nauth = []\n";

/// A session that stays open, or the answer of a refused upgrade.
async fn open(from: [u8; 4], to: SocketAddr, target: &str, headers: &str) -> Result<Raw, Answer> {
    let mut raw = Raw::connect_from(from, to).await;
    raw.send(upgrade_request(target, headers)).await;
    let head = raw.read_head().await;
    if head.starts_with("HTTP/1.1 101 ") {
        return Ok(raw);
    }
    upgrade_ends::note(Some(to), upgrade_ends::request_id_of(&head));
    let rest = raw.read_to_close().await;
    Err(Answer::parse(&[head.as_bytes(), &rest].concat()))
}

fn refusal(opened: Result<Raw, Answer>) -> Answer {
    opened.err().expect("the session opened")
}

async fn limit_is_hit(usher: &Usher, limit: &str) {
    usher.until_at_least(&format!("usher_limits_hit_total{{limit=\"{limit}\"}}"), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_its_sessions_and_no_more_on_every_kind_of_route() {
    let echo = Echo::start().await;
    let limits = "[limits]\nsessions_per_address = 2\n";
    let usher = Setup::new(echo.url()).routes(ROUTES).extra(limits).start().await;
    let own = [127, 0, 0, 1];
    let bearer = |user: &str| format!("Authorization: Bearer {}\r\n", usher.token(user));
    let first = open(own, usher.plain, "/ws", &bearer("ada")).await.ok().unwrap();
    let second = open(own, usher.plain, "/open", "").await.ok().unwrap();
    let visits = echo.visits().len();
    // Another user of the same address, and a stranger on a public route.
    for (target, headers) in [("/ws", bearer("bob")), ("/open", String::new())] {
        let answer = refusal(open(own, usher.plain, target, &headers).await);
        assert_eq!(answer.status, 429);
        assert!(answer.body.contains("TOO_MANY_SESSIONS"), "{}", answer.body);
    }
    assert_eq!(echo.visits().len(), visits, "the upstream was dialled for a refused client");
    limit_is_hit(&usher, "sessions_per_address").await;
    usher.logged(&["limit_reached", "sessions_per_address", "127.0.0.1"]).await;
    let other = open(OTHER, usher.plain, "/ws", &bearer("bob")).await.ok().unwrap();
    drop(first);
    let again = eventually("a place is free again", async || {
        open(own, usher.plain, "/ws", &bearer("bob")).await.ok()
    });
    drop((again.await, second, other));
    let audit = usher.finish().await;
    let outcome = |line: &&serde_json::Value| line["outcome"] == "too_many_address_sessions";
    assert!(audit.iter().filter(outcome).count() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_route_leaves_the_others_open_and_a_reload_makes_room() {
    let echo = Echo::start().await;
    let limits = "[limits]\nsessions_per_route = 1\n";
    let usher = Setup::new(echo.url()).routes(ROUTES).extra(limits).start().await;
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    let first = open(OTHER, usher.plain, "/ws", &bearer).await.ok().unwrap();
    let answer = refusal(open(OTHER, usher.plain, "/ws", &bearer).await);
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    assert!(answer.body.contains("TOO_MANY_CONNECTIONS"), "{}", answer.body);
    limit_is_hit(&usher, "sessions_per_route").await;
    let other = open(OTHER, usher.plain, "/open", "").await.ok().unwrap();
    let file = std::fs::read_to_string(usher.config_path()).unwrap();
    let more = file.replace("sessions_per_route = 1", "sessions_per_route = 2");
    std::fs::write(usher.config_path(), more).unwrap();
    usher.signal("HUP");
    let second = eventually("the new limit is in force", async || {
        open(OTHER, usher.plain, "/ws", &bearer).await.ok()
    });
    let second = second.await;
    // Both sessions count: also the one that began under the limit before.
    assert_eq!(refusal(open(OTHER, usher.plain, "/ws", &bearer).await).status, 503);
    drop((first, second, other));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_over_a_rate_cost_no_dial_and_plain_http_does_not_count() {
    let backend = Backend::start().await;
    let limits = "[limits]\nupgrades_rate = \"3/1h\"\nupgrades_rate_per_address = \"2/1h\"\n";
    let routes = "[[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = [\"header\"]\n\
        [[route]]\npath = \"/close\"\nupstream = \"chat\"\nauth = [\"header\"]\n\
        reject_mode = \"close\"\n\
        [[route]]\npath = \"/public/*\"\nupstream = \"chat\"\nauth = []\n";
    let usher = Setup::new(backend.url()).routes(routes).extra(limits).start().await;
    let bearer = format!("Authorization: Bearer {}\r\n", usher.token("ada"));
    // A wrong credential, and none on a path without a route: each upgrade counts.
    assert_eq!(
        client::attempt(usher.plain, "/ws", "Authorization: Bearer x\r\n").await.status,
        401
    );
    assert_eq!(client::attempt(usher.plain, "/nothing", "").await.status, 404);
    let answer = client::attempt(usher.plain, "/ws", &bearer).await;
    assert_eq!(answer.status, 429, "{}", answer.head);
    assert!(answer.body.contains("RATE_LIMITED"), "{}", answer.body);
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=1800).contains(&wait), "{wait}");
    // Also where other refusals are close frames: a client would take the 101 for a success.
    assert_eq!(client::attempt(usher.plain, "/close", &bearer).await.status, 429);
    limit_is_hit(&usher, "upgrades_rate_per_address").await;
    // The third of all comes from another address, and the fourth is over the rate of all.
    let none = refusal(open(OTHER, usher.plain, "/nothing", "").await);
    assert_eq!(none.status, 404);
    let answer = refusal(open([127, 0, 0, 3], usher.plain, "/ws", &bearer).await);
    assert_eq!(answer.status, 429);
    limit_is_hit(&usher, "upgrades_rate").await;
    assert_eq!(backend.connections(), 0, "a refused upgrade was dialled");
    for _ in 0..5 {
        assert_eq!(client::get(usher.plain, "/public/hello").await.status, 200);
    }
    let audit = usher.finish().await;
    let refused = audit.iter().filter(|line| line["outcome"] == "too_many_upgrades").count();
    assert_eq!(refused, 3);
}
