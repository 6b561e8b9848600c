//! Measures the events of one connection, with their log lines, metrics and audit lines.
//!
//! These benches run last: telemetry is installed for the whole process, and other benches run
//! without it.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use usher::auth::ticket::events::TicketRedeemed;
use usher::base::clock::Now;
use usher::edge::events::{
    ConnectionClosed, ConnectionOpened, UnauthenticatedEntered, UnauthenticatedLeft,
};
use usher::http::events::{Phase, PhaseEnded, SessionStarted, UpgradeRejected};
use usher::listener::events::TlsEstablished;
use usher::model::method::Method;
use usher::rejection::Rejection;
use usher::rejection::close::{CloseReason, SessionEnd, Traffic};
use usher::session::events::{Relayed, SessionEnded, SessionFacts};
use usher::telemetry::Event;
use usher::telemetry::refusal::LoggedRequest;
use usher::telemetry_setup;
use usher::ws::close_code::CloseCode;

use crate::known;
use crate::support::Runner;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const REQUEST: &str = "b3b0a1c2d3e4f5061728394a5b6c7d8e";
const TRAFFIC: Traffic = Traffic { bytes: 4096, messages: 12 };

pub fn run(runner: &mut Runner) {
    let config = known::config("[audit]\nfile = \"/dev/null\"");
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(io::sink);
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let _telemetry = telemetry_setup::install(&config).unwrap();

    let grant = known::grant(&config, Now::read());
    let session = SessionFacts {
        request_id: REQUEST,
        session_id: "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
        user: Some("user-4711"),
        method: Some(Method::Ticket),
        route: "/ws",
        upstream: "chat",
        peer: PEER,
        trace_id: None,
    };
    let end = SessionEnd {
        reason: CloseReason::ClientClosed,
        code: Some(CloseCode::NORMAL),
        duration: Duration::from_secs(90),
        from_client: TRAFFIC,
        from_upstream: TRAFFIC,
    };
    let handshake = Duration::from_micros(1020);
    let phases = [(Phase::Authenticate, 180), (Phase::Dial, 320), (Phase::Answer, 410)];
    let duration = Duration::from_millis(2);
    runner.measure("events: a connection, counted only", || {
        ConnectionOpened.emit();
        UnauthenticatedEntered.emit();
        TlsEstablished { resumed: false, duration }.emit();
        UnauthenticatedLeft.emit();
        ConnectionClosed.emit();
    });
    runner.measure("events: live traffic", || {
        Relayed { route: "/ws", from_client: TRAFFIC, from_upstream: TRAFFIC }.emit();
    });
    runner.measure("events: an accepted upgrade by ticket", || {
        TicketRedeemed {
            request_id: REQUEST,
            ticket: "5b6c7d8e9fa0b1c2d3e4f50617283940",
            user: "user-4711",
            peer: PEER,
            route: "/ws",
            region: None,
        }
        .emit();
        for (phase, micros) in phases {
            let took = Duration::from_micros(micros);
            let method = Some(Method::Ticket);
            PhaseEnded { route: "/ws", method, phase, fault: None, took, exemplar: None }.emit();
        }
        SessionStarted {
            session,
            principal: grant.principal(),
            server: "127.0.0.1:9000",
            handshake,
            exemplar: None,
        }
        .emit();
    });
    runner.measure("events: a session's end", || {
        SessionEnded { session, end: &end, rest: [TRAFFIC, TRAFFIC], since_revoked: None }.emit();
    });
    let about = LoggedRequest {
        request_id: REQUEST,
        peer: PEER,
        host: "chat.example.com",
        path: "/ws",
        route: "/ws",
        method: Some(Method::Ticket),
        user: None,
        trace_id: None,
    };
    runner.measure("events: a refused upgrade of a flood", || {
        UpgradeRejected { about, rejection: &Rejection::MissingCredential }.emit();
    });
}
