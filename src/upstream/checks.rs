//! Health checks: a request of Usher to each server, again and again.
//!
//! A check dials a server without a grant. It carries nothing of a client, and its connection is
//! closed after the answer.

use std::sync::Arc;

use bytes::BytesMut;
use http::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::events::ServerChecked;
use super::server::Server;
use super::{Upstream, connect, entry, upgrade};
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::config::HealthCheck;
use crate::net::proxy_protocol::ProxyHeader;
use crate::telemetry::Event;

/// Checks one server as long as the task runs. A check that takes longer than `every` delays the
/// next one.
pub(super) async fn follow(upstream: Arc<Upstream>, server: Arc<Server>, check: HealthCheck) {
    let mut every = interval(check.every);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let asked = timeout(check.timeout, Box::pin(ask(&server, &upstream, &check.path))).await;
        let outcome = asked.unwrap_or_else(|_| {
            // A silent address answers no dial, and DNS may have another one.
            server.doubt_name();
            Err("no answer within the timeout of the check".to_owned())
        });
        upstream.note_check(&server, outcome);
    }
}

async fn ask(server: &Server, upstream: &Upstream, path: &str) -> Result<(), String> {
    // The check is a connection of Usher itself.
    let proxy_header = upstream.proxy_header(ProxyHeader::default);
    let dialled = connect::open(server, upstream, proxy_header.as_deref()).await;
    let mut stream = dialled.map_err(|error| error.to_string())?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: usher/{}\r\nConnection: close\r\n\r\n",
        entry::host(&server.config),
        env!("CARGO_PKG_VERSION")
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    stream.flush().await.map_err(|error| error.to_string())?;
    let answer = upgrade::read_head(&mut stream, &mut BytesMut::new())
        .await
        .map_err(|rejection| rejection.detail())?;
    match answer.status {
        status if status.is_success() => Ok(()),
        StatusCode::SWITCHING_PROTOCOLS => Err("the server switched protocols".to_owned()),
        status => Err(format!("the server answered {status}")),
    }
}

impl Upstream {
    fn note_check(&self, server: &Arc<Server>, outcome: Result<(), String>) {
        let now = Now::read().mono;
        let (effect, failed) = match outcome {
            Ok(()) => (lock(&server.health).pass_check(now), 0),
            Err(_) => lock(&server.health).fail_check(),
        };
        ServerChecked {
            upstream: self.name(),
            server: &server.label,
            error: outcome.as_ref().err().map(String::as_str),
            is_known: failed > 1,
        }
        .emit();
        self.apply(server, effect, now);
    }
}
