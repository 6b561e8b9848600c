//! The life of a ticket in the audit log: each step, once, on each store.

use std::time::Duration;

use serde_json::{Value, json};
use usher::model::secret::Secret;
use usher::store::TicketHash;

use crate::store_redis::redeem;
use crate::support::redis::RedisServer;
use crate::support::{Echo, Raw, Setup, Usher, client, upgrade_request};

const ROUTES: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket"]
    [[route]]
    path = "/other"
    upstream = "chat"
    auth = ["ticket"]
"#;

async fn start(echo: &Echo, store: &str) -> Usher {
    let extra = format!("[tickets]\nmulti_use = true\n[store]\n{store}\n");
    Setup::new(echo.url()).routes(ROUTES).extra(&extra).start().await
}

async fn ticket(usher: &Usher, others: &[&Usher], body: Value) -> String {
    let (status, answer) = usher.ask_ticket(&usher.token("ada"), &body.to_string(), "").await;
    assert_eq!(status, 201, "{answer}");
    let ticket = answer["ticket_id"].as_str().unwrap().to_owned();
    others.iter().for_each(|other| other.keep_secret(&ticket));
    ticket
}

async fn validate(usher: &Usher, ticket: &str, user: &str) -> bool {
    let token = usher.token(user);
    let request = format!(
        "GET /websocket/ticket/{ticket}/validate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    client::http(usher.plain, request.as_bytes()).await.body.contains("\"valid\":true")
}

/// Returns the audit lines about a ticket, in their order.
fn life(audit: &[Value], ticket: &str) -> Vec<(String, String)> {
    let name = TicketHash::of(&Secret::from(ticket)).name();
    let lines = audit.iter().filter(|line| line["ticket"] == name.as_str());
    lines
        .map(|line| {
            (
                line["event"].as_str().unwrap().to_owned(),
                line["outcome"].as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

fn lines(steps: &[(&str, &str)]) -> Vec<(String, String)> {
    steps.iter().map(|(event, outcome)| ((*event).to_owned(), (*outcome).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_whole_life_of_a_ticket_is_in_the_audit_log_on_every_store() {
    let echo = Echo::start().await;
    let server = RedisServer::start(&[]);
    let redis = format!("url = \"{}\"\ntimeout = \"10s\"", server.url());
    for store in ["url = \"memory\"", &redis] {
        let usher = start(&echo, store).await;
        let token = usher.token("ada");
        let redeemed = ticket(&usher, &[], json!({})).await;
        assert!(
            validate(&usher, &redeemed, "ada").await && !validate(&usher, &redeemed, "eve").await
        );
        assert_eq!((redeem(&usher, &redeemed).await, redeem(&usher, &redeemed).await), (101, 403));
        assert!(!validate(&usher, &redeemed, "ada").await);

        let bound = ticket(&usher, &[], json!({"route": "/other"})).await;
        assert_eq!((redeem(&usher, &bound).await, redeem(&usher, &bound).await), (403, 403));

        let forgotten = ticket(&usher, &[], json!({"ttl_seconds": 1, "route": "/ws"})).await;
        let multi = ticket(&usher, &[], json!({"ttl_seconds": 5, "single_use": false})).await;
        assert_eq!(redeem(&usher, &multi).await, 101);
        // The time to live of `forgotten` has to pass.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let late = ticket(&usher, &[], json!({"ttl_seconds": 1})).await;
        // The time to live of `late` has to pass.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!((redeem(&usher, &late).await, redeem(&usher, &late).await), (403, 403));
        usher.until_metric("usher_tickets_expired_total 3").await;
        assert_eq!(redeem(&usher, &forgotten).await, 403);

        let malformed = {
            let mut raw = Raw::connect(usher.plain).await;
            raw.send(upgrade_request("/ws?ticket=hunter2", "")).await;
            raw.read_head().await
        };
        assert!(malformed.starts_with("HTTP/1.1 403 "));
        assert!(!validate(&usher, "hunter2", "ada").await);
        usher.keep_secret(&token);
        let metrics = usher.metrics().await;
        for line in [
            "{outcome=\"valid\"} 1",
            "{outcome=\"other_user\"} 1",
            "{outcome=\"used\"} 1",
            "{outcome=\"malformed\"} 1",
        ] {
            assert!(
                metrics.contains(&format!("usher_tickets_validated_total{line}")),
                "{line}: {metrics}"
            );
        }
        let audit = usher.finish().await;
        let issued = ("ticket_issued", "accepted");
        let steps = [
            issued,
            ("ticket_validated", "valid"),
            ("ticket_validated", "other_user"),
            ("ticket_redeemed", "accepted"),
            ("ticket_redeem_refused", "used"),
            ("ticket_validated", "used"),
        ];
        assert_eq!(life(&audit, &redeemed), lines(&steps), "{store}");
        let steps =
            [issued, ("ticket_redeem_refused", "binding"), ("ticket_redeem_refused", "used")];
        assert_eq!(life(&audit, &bound), lines(&steps), "{store}");
        let steps = [issued, ("ticket_expired", "expired"), ("ticket_redeem_refused", "expired")];
        assert_eq!(life(&audit, &forgotten), lines(&steps), "{store}");
        assert_eq!(
            life(&audit, &multi),
            lines(&[issued, ("ticket_redeemed", "accepted"), ("ticket_expired", "expired")]),
            "{store}"
        );
        let mut told = life(&audit, &late);
        told.sort();
        let refused = ("ticket_redeem_refused", "expired");
        assert_eq!(
            told,
            lines(&[("ticket_expired", "expired"), issued, refused, refused]),
            "{store}"
        );

        let expired: Vec<_> =
            audit.iter().filter(|line| line["event"] == "ticket_expired").collect();
        assert_eq!(expired.len(), 3);
        assert!(
            expired.iter().all(|line| line["user"] == "ada" && line["issuer"] == "main"),
            "{expired:?}"
        );
        assert_eq!(expired.iter().filter(|line| line["route"] == "/ws").count(), 1);
        let refused = audit.iter().find(|line| line["outcome"] == "binding").unwrap();
        assert_eq!(
            (&refused["user"], &refused["detail"]),
            (&json!("ada"), &json!("the ticket was issued for another route"))
        );
        let validated: Vec<_> =
            audit.iter().filter(|line| line["event"] == "ticket_validated").collect();
        assert!(
            validated.iter().all(|line| line["request_id"].is_string() && line["peer"].is_string()),
            "{validated:?}"
        );
        assert!(
            validated.last().unwrap().get("ticket").is_none(),
            "a value that is not a ticket may be a password"
        );
    }
}

/// If another node redeemed a ticket, the node that issued it logs no end. If no node redeemed it,
/// only the node that issued it logs its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_nodes_the_one_that_issued_a_ticket_tells_its_end_once() {
    let echo = Echo::start().await;
    let server = RedisServer::start(&[]);
    let store = format!("url = \"{}\"\ntimeout = \"10s\"", server.url());
    let (one, other) = (start(&echo, &store).await, start(&echo, &store).await);
    let body = json!({"ttl_seconds": 5});
    let redeemed = ticket(&one, &[&other], body.clone()).await;
    let forgotten = ticket(&one, &[&other], body).await;
    assert_eq!((redeem(&other, &redeemed).await, redeem(&one, &redeemed).await), (101, 403));
    one.until_metric("usher_tickets_expired_total 1").await;
    assert_eq!(redeem(&other, &forgotten).await, 403);
    let (one, other) = (one.finish().await, other.finish().await);
    let issued = ("ticket_issued", "accepted");
    assert_eq!(life(&one, &redeemed), lines(&[issued, ("ticket_redeem_refused", "used")]));
    assert_eq!(life(&other, &redeemed), lines(&[("ticket_redeemed", "accepted")]));
    assert_eq!(life(&one, &forgotten), lines(&[issued, ("ticket_expired", "expired")]));
    assert_eq!(life(&other, &forgotten), lines(&[("ticket_redeem_refused", "expired")]));
}
