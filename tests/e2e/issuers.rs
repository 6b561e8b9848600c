//! Issuers that publish their keys: a real OpenID provider, rotation under load, and the faults of
//! a key server.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::SinkExt;
use serde_json::{Value, json};

use crate::first_message::{auth, json as json_of};
use crate::support::client::Answer;
use crate::support::usher::{Socket, is_alive};
use crate::support::{Echo, KeyServer, Program, Setup, Signer, Usher, client, eventually};

const ROUTE: &str = r#"
    [[route]]
    path = "/ws"
    upstream = "chat"
    auth = ["ticket", "message", "header"]
    [route.reauth]
    proactive = true
"#;

async fn attempt(usher: &Usher, token: &str) -> Answer {
    usher.keep_secret(token);
    client::attempt(
        usher.plain,
        "/ws",
        &format!("Authorization: Bearer {token}\r\nConnection: close\r\n"),
    )
    .await
}

async fn bearer(usher: &Usher, token: &str) -> Socket {
    usher.keep_secret(token);
    usher.open("/ws", &[("authorization", &format!("Bearer {token}"))]).await.unwrap()
}

/// Returns what the admin listener knows about the first issuer with published keys.
async fn figures(usher: &Usher) -> Value {
    let status: Value =
        serde_json::from_str(&client::get(usher.admin, "/status").await.body).unwrap();
    status["issuers"][0].clone()
}

/// Connects clients again and again until `meanwhile` has ended. Each has a token made a moment
/// before. Returns how many were served.
async fn clients_come_and_go<F, T>(
    usher: &Arc<Usher>,
    token: F,
    meanwhile: impl Future<Output = ()>,
) -> usize
where
    F: Fn() -> T + Clone + Send + Sync + 'static,
    T: Future<Output = String> + Send,
{
    let (goes_on, count) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let (usher, token, goes_on, count) =
                (Arc::clone(usher), token.clone(), Arc::clone(&goes_on), Arc::clone(&count));
            tokio::spawn(async move {
                while goes_on.load(Ordering::SeqCst) {
                    let token = token().await;
                    let mut socket = bearer(&usher, &token).await;
                    is_alive(&mut socket).await;
                    count.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let reach = async |wanted: usize| {
        eventually(format!("{wanted} clients were served"), async || {
            // A client that was refused has panicked. Its panic is reported below.
            count.load(Ordering::SeqCst) >= wanted
                || clients.iter().any(tokio::task::JoinHandle::is_finished)
        })
        .await;
    };
    reach(60).await;
    meanwhile.await;
    reach(count.load(Ordering::SeqCst) + 100).await;
    goes_on.store(false, Ordering::SeqCst);
    for client in clients {
        client.await.expect("a client with a good token was refused");
    }
    count.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_openid_provider_is_discovered_and_rotates_its_key_under_load() {
    let mut provider = Program::node(&["tests/e2e/clients/oidc/provider.mjs"]).await;
    let said: Value = serde_json::from_str(&provider.lines()[0]).unwrap();
    let issuer = said["issuer"].as_str().unwrap().to_owned();
    let table = format!(
        "[[issuer]]\nname = \"oidc\"\nissuer = \"{issuer}\"\naudience = [\"chat\"]\n\
         algorithms = [\"ES256\"]\ndiscovery = true\npermissions_claim = \"scope\"\n"
    );
    let echo = Echo::start().await;
    let usher = Arc::new(Setup::new(echo.url()).routes(ROUTE).issuer(&table).start().await);
    assert_eq!(figures(&usher).await["state"], "fresh");

    let address = issuer.trim_start_matches("http://").parse().unwrap();
    let token = move || async move {
        // The credentials are "ada" and "a secret of the test".
        let body = "grant_type=client_credentials&scope=chat:read";
        let request = format!(
            "POST /token HTTP/1.1\r\nHost: {address}\r\n\
             Authorization: Basic YWRhOmElMjBzZWNyZXQlMjBvZiUyMHRoZSUyMHRlc3Q=\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = client::http(address, request.as_bytes()).await;
        let json: Value =
            serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{}", answer.body));
        json["access_token"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned()
    };
    let before = token().await;
    let count = clients_come_and_go(&usher, token, async {
        provider.tell("rotate");
        let has_rotated = async || provider.lines().len() >= 2;
        eventually("the provider rotates its key", has_rotated).await;
    })
    .await;
    assert!(count >= 160, "{count}");
    assert_eq!(figures(&usher).await["keys"], 2);
    is_alive(&mut bearer(&usher, &before).await).await;
    is_alive(&mut bearer(&usher, &token().await).await).await;
    let metrics = usher.metrics().await;
    assert!(
        metrics.contains("usher_issuer_key_fetches_total{issuer=\"oidc\",outcome=\"ok\"} 2"),
        "{metrics}"
    );
    assert!(!metrics.contains("outcome=\"invalid_token\""), "{metrics}");
    let visits = echo.visits();
    assert!(visits.len() >= count, "{} visits of {count} clients", visits.len());
    assert!(visits.iter().all(
        |visit| visit.all("authorization").is_empty() && visit.all("x-user-context").len() == 1
    ));
    Arc::try_unwrap(usher).unwrap_or_else(|_| panic!("a client still holds Usher")).finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_under_load_and_an_old_one_is_refused_once_it_is_gone() {
    let signers = Arc::new([Signer::new("one"), Signer::new("two"), Signer::new("three")]);
    let server = Arc::new(KeyServer::publishing(&[&signers[0]]).await);
    let echo = Echo::start().await;
    let usher = Arc::new(
        Setup::new(echo.url())
            .routes(ROUTE)
            .issuer(&server.table("keys", "jwks_refresh = \"1s\""))
            .start()
            .await,
    );
    let signing = Arc::new(AtomicUsize::new(0));
    let token = {
        let (signers, server, signing) =
            (Arc::clone(&signers), Arc::clone(&server), Arc::clone(&signing));
        move || {
            std::future::ready(signers[signing.load(Ordering::SeqCst)].token(
                &server,
                "ada",
                json!({}),
            ))
        }
    };
    clients_come_and_go(&usher, token.clone(), async {
        // The new key signs at the moment when it is published.
        server.publish(&[&signers[1], &signers[0]]);
        signing.store(1, Ordering::SeqCst);
    })
    .await;
    clients_come_and_go(&usher, token, async {
        // The new key is published before it signs, as providers do: not even the first token
        // waits.
        server.publish(&[&signers[2], &signers[1], &signers[0]]);
        server.asked_times(server.asked() + 2).await;
        signing.store(2, Ordering::SeqCst);
    })
    .await;
    let mut live = bearer(&usher, &signers[0].token(&server, "ada", json!({}))).await;
    server.publish(&[&signers[2]]);
    // Usher asks for the second time after it has used the first answer.
    server.asked_times(server.asked() + 2).await;
    assert_eq!(attempt(&usher, &signers[0].token(&server, "ada", json!({}))).await.status, 401);
    assert_eq!(attempt(&usher, &signers[2].token(&server, "ada", json!({}))).await.status, 101);
    is_alive(&mut live).await;
    drop(live);
    Arc::try_unwrap(usher).unwrap_or_else(|_| panic!("a client still holds Usher")).finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_found_wherever_a_token_is_shown() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let servers = [
        KeyServer::publishing(&[&old]).await,
        KeyServer::publishing(&[&old]).await,
        KeyServer::publishing(&[&old]).await,
    ];
    let echo = Echo::start().await;
    let tables: String = servers
        .iter()
        .enumerate()
        .map(|(index, server)| server.table(&format!("keys {index}"), ""))
        .collect();
    let usher = Setup::new(echo.url()).routes(ROUTE).issuer(&tables).start().await;
    let [ticket, message, renewal] = &servers;
    let mut live = usher.open("/ws", &[]).await.unwrap();
    live.send(auth(&old.token(renewal, "ada", json!({})))).await.unwrap();
    assert_eq!(json_of(&mut live).await["type"], "auth_ok");
    servers.iter().for_each(|server| server.publish(&[&new]));

    let issued = usher.issue_ticket(&new.token(ticket, "ada", json!({}))).await;
    is_alive(&mut usher.connect_ticket(&issued).await.unwrap()).await;

    let mut first = usher.open("/ws", &[]).await.unwrap();
    first.send(auth(&new.token(message, "ada", json!({})))).await.unwrap();
    assert_eq!(json_of(&mut first).await["type"], "auth_ok");
    is_alive(&mut first).await;

    live.send(auth(&new.token(
        renewal,
        "ada",
        json!({ "exp": crate::support::token::now() + 900 }),
    )))
    .await
    .unwrap();
    assert_eq!(json_of(&mut live).await["type"], "auth_ok");
    is_alive(&mut live).await;
    assert!(servers.iter().all(|server| server.asked() == 2));
    drop((live, first));
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_unknown_key_ids_does_not_reach_the_issuer() {
    let (good, other) = (Signer::new("good"), Signer::new("other"));
    let server = KeyServer::publishing(&[&good]).await;
    let echo = Echo::start().await;
    let usher =
        Setup::new(echo.url()).routes(ROUTE).issuer(&server.table("keys", "")).start().await;
    for number in 0..100 {
        let answer = attempt(
            &usher,
            &other.token_named(&format!("kid-{number}"), &server, "eve", json!({})),
        )
        .await;
        assert_eq!(answer.status, 401);
    }
    assert_eq!(server.asked(), 2, "one fetch at the start, and one a minute");
    assert!(echo.visits().is_empty());
    assert_eq!(attempt(&usher, &good.token(&server, "ada", json!({}))).await.status, 101);
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_dies_or_stays_away_over_a_restart_refuses_nobody() {
    let good = Signer::new("good");
    let server = KeyServer::publishing(&[&good]).await;
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url())
        .routes(ROUTE)
        .issuer(&server.table("keys", "jwks_refresh = \"1s\""))
        .start()
        .await;
    let token = good.token(&server, "ada", json!({}));
    for (status, body) in [
        ("500 Internal Server Error", "{}".to_owned()),
        ("302 Found\r\nLocation: http://127.0.0.1:1/", String::new()),
        ("200 OK", "<html>".to_owned()),
        ("200 OK", r#"{"keys":[]}"#.to_owned()),
        ("200 OK", " ".repeat(10 << 20)),
    ] {
        server.say(status, &body);
        server.asked_times(server.asked() + 2).await;
        assert_eq!(attempt(&usher, &token).await.status, 101, "{status}");
        let figures = figures(&usher).await;
        assert_eq!(
            (&figures["state"], &figures["keys"]),
            (&json!("stale"), &json!(1)),
            "{status}: {figures}"
        );
    }
    server.die();
    let usher = usher.kill_and_restart().await;
    assert_eq!(attempt(&usher, &token).await.status, 101);
    let figures = figures(&usher).await;
    assert_eq!(
        (&figures["state"], &figures["keys"], &figures["fault"]),
        (&json!("stale"), &json!(1), &json!("unreachable"))
    );
    let metrics = usher.metrics().await;
    assert!(metrics.contains("usher_issuer_keys{issuer=\"keys\"} 1"), "{metrics}");
    assert!(
        metrics.contains("usher_issuer_keys_fetched_timestamp_seconds{issuer=\"keys\"} "),
        "{metrics}"
    );
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_whose_keys_never_came_is_told_apart_and_heals() {
    let good = Signer::new("good");
    let server = KeyServer::start().await;
    let echo = Echo::start().await;
    let usher =
        Setup::new(echo.url()).routes(ROUTE).issuer(&server.table("keys", "")).start().await;
    let token = good.token(&server, "ada", json!({}));
    let answer = attempt(&usher, &token).await;
    let retry: u8 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(answer.status == 503 && (1..=10).contains(&retry), "{}", answer.head);
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["code"], "ISSUER_KEYS_UNAVAILABLE");
    assert!(echo.visits().is_empty());
    assert_eq!(usher.ask_ticket(&token, "", "").await.0, 503);
    // Clients of the other issuer are served, so the node is ready and names the missing keys.
    drop(usher.connect("bob").await);
    let ready = client::get(usher.admin, "/readyz").await;
    assert_eq!(ready.status, 200);
    assert_eq!(
        serde_json::from_str::<Value>(&ready.body).unwrap()["issuers_without_keys"],
        json!(["keys"])
    );
    let check = |usher: &Usher| {
        let output = Command::new(env!("CARGO_BIN_EXE_usher"))
            .arg("check")
            .arg(usher.config_path())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    assert!(check(&usher).contains("warning: keys of issuer keys: "), "{}", check(&usher));

    server.publish(&[&good]);
    let is_fresh = async || figures(&usher).await["state"] == "fresh";
    eventually("the keys are fetched", is_fresh).await;
    assert_eq!(attempt(&usher, &token).await.status, 101);
    assert!(check(&usher).contains("ok    keys of issuer keys: 1 usable at "), "{}", check(&usher));
    let audit = usher.finish().await;
    let refused = audit.iter().find(|line| line["event"] == "upgrade_rejected").unwrap();
    assert_eq!(
        (&refused["outcome"], &refused["side"]),
        (&json!("issuer_keys_unavailable"), &json!("issuer"))
    );
    assert!(audit.iter().any(|line| line["event"] == "issuer_keys" && line["issuer"] == "keys"));
}
