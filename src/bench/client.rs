//! Opens one connection in phases, and measures the time of each phase.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use clap::ValueEnum;
use http::header::{
    AUTHORIZATION, HOST, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::connection::{BenchConnection, Received};
use super::tally::Failure;
use super::target::{self, Target};
use crate::base::clock::Now;
use crate::model::secret::Secret;
use crate::net::http1::response;
use crate::net::stream::Stream;
use crate::upstream::upgrade::{self, UpgradeAnswer};
use crate::ws::frame::Message;

/// The most bytes that are read of a ticket, or of an answer other than 101.
const ANSWER_BODY: usize = 16 * 1024;
/// How long a server may take to close a finished connection. This time is not measured.
const GOODBYE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttemptPhase {
    /// The delay with which a connection of an open loop began.
    Late,
    /// A separate connection, with TLS if needed, and the answer with the ticket.
    Ticket,
    Connect,
    Tls,
    Upgrade,
    Auth,
    Echo,
    Total,
    /// One message and its echo on an open connection.
    Message,
}

impl AttemptPhase {
    pub const ALL: [Self; 9] = [
        Self::Late,
        Self::Ticket,
        Self::Connect,
        Self::Tls,
        Self::Upgrade,
        Self::Auth,
        Self::Echo,
        Self::Total,
        Self::Message,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Ticket => "ticket",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Upgrade => "upgrade",
            Self::Auth => "auth",
            Self::Echo => "echo",
            Self::Total => "total",
            Self::Message => "message",
        }
    }
}

/// The credential of a connection, by method.
#[derive(Debug)]
pub enum BenchCredential {
    Ticket {
        token: Secret,
        path: String,
        parameter: String,
    },
    /// `awaits_answer`: whether the server acknowledges the first message.
    Message {
        token: Secret,
        preset: Preset,
        awaits_answer: bool,
    },
    Header {
        token: Secret,
    },
    None,
}

/// The format of the first message and of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// `auth`, answered by `auth_ok`
    Json,
    /// `connection_init`, answered by `connection_ack`
    GraphqlTransportWs,
}

#[derive(Debug)]
pub struct BenchClient {
    pub target: Target,
    pub credential: BenchCredential,
    pub origin: Option<HeaderValue>,
    pub timeout: Duration,
    /// The message that is sent when the connection is open, and whose echo ends the last phase.
    pub first_echo: Option<Message>,
    /// The size of the largest echo.
    pub message_bytes: usize,
}

/// The times of one connection, in the order of its phases.
#[derive(Debug)]
pub struct PhaseTimes {
    due: Instant,
    last: Instant,
    pub times: Vec<(AttemptPhase, Duration)>,
    /// The current phase.
    pub under_way: AttemptPhase,
    /// The number of TLS handshakes that resumed an earlier session.
    pub resumed: u64,
}

pub struct Attempt<Open = BenchConnection> {
    pub times: PhaseTimes,
    pub result: Result<Open, Failure>,
}

impl PhaseTimes {
    /// Begins the first phase. `due` is when the connection should have begun. The total counts
    /// from there, so it includes every delay.
    pub fn begin(due: Option<Instant>, now: Instant) -> Self {
        let mut times = Self {
            due: due.unwrap_or(now),
            last: now,
            times: Vec::with_capacity(AttemptPhase::ALL.len()),
            under_way: AttemptPhase::Connect,
            resumed: 0,
        };
        if let Some(due) = due {
            times.times.push((AttemptPhase::Late, now.saturating_duration_since(due)));
        }
        times
    }

    pub fn lap(&mut self, phase: AttemptPhase, now: Instant) {
        self.times.push((phase, now.saturating_duration_since(self.last)));
        self.last = now;
    }

    pub fn finish(&mut self) {
        self.times.push((AttemptPhase::Total, self.last.saturating_duration_since(self.due)));
    }
}

impl BenchClient {
    /// Opens the connection with this number. `due` is when it should have begun.
    pub async fn attempt(&self, number: u64, due: Option<Instant>) -> Attempt {
        let mut times = PhaseTimes::begin(due, Now::read().mono);
        let opening = Box::pin(self.open(number, &mut times));
        let opened = timeout(self.timeout, opening).await;
        let result = opened.unwrap_or(Err(Failure::Timeout(times.under_way)));
        if result.is_ok() {
            times.finish();
        }
        Attempt { times, result }
    }

    async fn open(&self, number: u64, times: &mut PhaseTimes) -> Result<BenchConnection, Failure> {
        let mut target = self.target.path_and_query.clone();
        if let BenchCredential::Ticket { token, path, parameter } = &self.credential {
            times.under_way = AttemptPhase::Ticket;
            let ticket = self.ticket(number, token, path, times).await?;
            times.lap(AttemptPhase::Ticket, Now::read().mono);
            target = format!(
                "{target}{}{parameter}={ticket}",
                if target.contains('?') { '&' } else { '?' }
            );
        }
        times.under_way = AttemptPhase::Connect;
        let tcp = self.target.connect(number).await.map_err(|_| Failure::Connect)?;
        times.lap(AttemptPhase::Connect, Now::read().mono);
        times.under_way = AttemptPhase::Tls;
        let stream = self.target.secure(tcp).await.map_err(|_| Failure::Tls)?;
        if self.target.is_secure() {
            times.lap(AttemptPhase::Tls, Now::read().mono);
            times.resumed += u64::from(target::is_resumed(&stream));
        }
        times.under_way = AttemptPhase::Upgrade;
        let mut connection = self.upgrade(stream, &target).await?;
        times.lap(AttemptPhase::Upgrade, Now::read().mono);
        if let BenchCredential::Message { token, preset, awaits_answer } = &self.credential {
            times.under_way = AttemptPhase::Auth;
            log_in(&mut connection, token, *preset, *awaits_answer).await?;
            times.lap(AttemptPhase::Auth, Now::read().mono);
        }
        if let Some(message) = &self.first_echo {
            times.under_way = AttemptPhase::Echo;
            if !connection.echo(message).await {
                return Err(Failure::Echo);
            }
            times.lap(AttemptPhase::Echo, Now::read().mono);
        }
        Ok(connection)
    }

    /// Gets a ticket over a separate connection, like a new client.
    async fn ticket(
        &self,
        number: u64,
        token: &Secret,
        path: &str,
        times: &mut PhaseTimes,
    ) -> Result<String, Failure> {
        let failed = Failure::Ticket(None);
        let tcp = self.target.connect(number).await.map_err(|_| Failure::Connect)?;
        let mut stream = self.target.secure(tcp).await.map_err(|_| Failure::Tls)?;
        times.resumed += u64::from(target::is_resumed(&stream));
        let mut headers = self.headers();
        headers.insert(AUTHORIZATION, bearer(token).ok_or(failed)?);
        let mut wire =
            format!("POST {path} HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n")
                .into_bytes();
        response::write_fields(&mut wire, &headers);
        stream.write_all(&wire).await.map_err(|_| failed)?;
        stream.flush().await.map_err(|_| failed)?;
        let mut buffer = BytesMut::new();
        let answer = upgrade::read_head(&mut stream, &mut buffer).await.map_err(|_| failed)?;
        if !answer.status.is_success() {
            return Err(Failure::Ticket(Some(answer.status.as_u16())));
        }
        let body = upgrade::read_body(&mut stream, &buffer, answer.framing, ANSWER_BODY)
            .await
            .map_err(|_| failed)?;
        let body: Value = serde_json::from_slice(&body).map_err(|_| failed)?;
        body.get("ticket_id").and_then(Value::as_str).map(str::to_owned).ok_or(failed)
    }

    async fn upgrade(&self, stream: Stream, target: &str) -> Result<BenchConnection, Failure> {
        let failed = Failure::Upgrade(None);
        let uri: Uri = target.parse().map_err(|_| failed)?;
        let mut headers = self.headers();
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, key().ok_or(failed)?);
        if let BenchCredential::Header { token } = &self.credential {
            headers.insert(AUTHORIZATION, bearer(token).ok_or(failed)?);
        }
        if let BenchCredential::Message { preset: Preset::GraphqlTransportWs, .. } =
            &self.credential
        {
            headers
                .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("graphql-transport-ws"));
        }
        match upgrade::open(stream, &uri, &mut headers, ANSWER_BODY).await {
            Ok(UpgradeAnswer::Switched { stream, early, .. }) => {
                BenchConnection::new(stream, &early, self.message_bytes).map_err(|_| failed)
            }
            Ok(UpgradeAnswer::Declined { status, .. }) => {
                Err(Failure::Upgrade(Some(StatusCode::as_u16(&status))))
            }
            Err(_) => Err(failed),
        }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Ok(host) = HeaderValue::from_str(self.target.authority.as_str()) {
            headers.insert(HOST, host);
        }
        if let Some(origin) = &self.origin {
            headers.insert(ORIGIN, origin.clone());
        }
        headers
    }
}

/// Sends the first message, and waits for the answer.
async fn log_in(
    connection: &mut BenchConnection,
    token: &Secret,
    preset: Preset,
    awaits_answer: bool,
) -> Result<(), Failure> {
    let payload = json!({ "token": token.expose_str().unwrap_or_default() });
    let (first, good) = match preset {
        Preset::Json => (json!({ "type": "auth", "id": "bench", "payload": payload }), "auth_ok"),
        Preset::GraphqlTransportWs => {
            (json!({ "type": "connection_init", "payload": payload }), "connection_ack")
        }
    };
    connection.send(&Message::text(first.to_string())).await.map_err(|_| Failure::Auth(None))?;
    if !awaits_answer {
        return Ok(());
    }
    loop {
        match connection.receive().await {
            Ok(Received::Message(message)) => {
                let answer: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
                // After an `error`, a close frame follows, whose code gives the reason.
                if answer.get("type").and_then(Value::as_str) == Some(good) {
                    return Ok(());
                }
            }
            Ok(Received::Close(code)) => return Err(Failure::Auth(Some(code.0))),
            Err(_) => return Err(Failure::Auth(None)),
        }
    }
}

/// Closes an open connection with a close handshake, if the server takes part in it.
pub async fn leave(connection: BenchConnection) {
    let _ = timeout(GOODBYE, connection.close()).await;
}

fn bearer(token: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_str()?)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Returns a new `Sec-WebSocket-Key`. RFC 6455 section 4.1: "The nonce MUST be selected randomly
/// for each connection".
fn key() -> Option<HeaderValue> {
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).ok()?;
    HeaderValue::from_str(&STANDARD.encode(nonce)).ok()
}
