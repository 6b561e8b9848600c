//! The admin listener: probes, metrics, sessions, status, revocation, reload and drain, for
//! operators, and a page with all of it.
//!
//! It has a socket of its own, and the number of its connections is limited. Each connection serves
//! one request and has a deadline. If a token is configured, all requests but the two probes and
//! the empty page need it, or the cookie of a login: see `access.rs`.

mod access;
mod drain;
pub mod events;
mod explain;
mod history;
mod login;
mod page;
mod readiness;
mod reload;
mod reserve;
mod revoke;
mod status;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::{Map, json};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::net::admin_socket;
use crate::net::admin_socket::Listening;
pub use drain::Draining;
use events::OrderAnswered;
pub use explain::Explaining;
pub use history::{History, INTERVAL};
pub use login::Logins;
pub use readiness::{Readiness, ReadinessStage};
use reserve::Reserve;
pub use revoke::Revoking;
pub use status::{Figures, RolloutFigures, ShareFigures, StoreFigures};

use crate::base::clock::Now;
use crate::config::LoginRules;
use crate::edge::reload::Orders;
use crate::listener::events::AcceptFailed;
use crate::model::secret::Secret;
use crate::net::stream::Stream;
use crate::session::registry::Registry;
use crate::telemetry::exposition::ExpositionFormat;
use crate::telemetry::{Event, Telemetry};

pub struct Admin {
    pub telemetry: Arc<Telemetry>,
    pub registry: Arc<Registry>,
    pub readiness: Arc<Readiness>,
    /// The token that every request but the probes and the empty page needs.
    pub token: Option<Secret>,
    /// The logins to the admin page, and their rules.
    pub logins: Arc<Logins>,
    pub login_rules: LoginRules,
    pub history: Arc<History>,
    pub explaining: Arc<Explaining>,
    pub revoking: Revoking,
    pub draining: Draining,
    pub summary: ConfigSummary,
    /// The channel of orders to reload.
    pub orders: Orders,
    /// Returns the figures that are not in the registry.
    pub figures: Box<dyn Fn() -> Figures + Send + Sync>,
}

/// The parts of the config that `/status` shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConfigSummary {
    /// The bound addresses: in place of port 0, they have the real port.
    pub listeners: Vec<SocketAddr>,
    pub routes: Vec<String>,
    pub upstreams: Vec<String>,
    pub config: Option<String>,
    pub state_dir: String,
    pub node: String,
}

const CONNECTIONS: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The limit for the whole life of a connection, so that a stalled client does not keep its permit.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
const HEAD_BYTES: usize = 16 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const REVOKE: &str = "/revoke";
const SESSIONS: &str = "/sessions";
const HISTORY: &str = "/history";
const RELOAD: &str = "/reload";
const METRICS: &str = "/metrics";
const DRAIN: &str = "/drain";
const EXPLAIN: &str = "/explain";
const LOGIN: &str = "/login";
const LOGOUT: &str = "/logout";
/// The paths besides the files of the page.
const PATHS: [(&str, Kind); 12] = [
    ("/livez", Kind::Probe),
    ("/readyz", Kind::Probe),
    (METRICS, Kind::Read),
    ("/status", Kind::Read),
    (SESSIONS, Kind::Read),
    (HISTORY, Kind::Read),
    (REVOKE, Kind::Order),
    (RELOAD, Kind::Order),
    (DRAIN, Kind::Order),
    (EXPLAIN, Kind::Order),
    (LOGIN, Kind::Login),
    (LOGOUT, Kind::Login),
];

/// The kind of a path, which decides what a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A GET of a load balancer, which needs nothing.
    Probe,
    /// A file of the admin page, which has no data.
    Page,
    /// A GET of data.
    Read,
    /// A POST that changes something, or that carries a secret.
    Order,
    /// A POST that begins or ends a login.
    Login,
}

/// Returns `None` for an unknown path.
fn kind_of(path: &str) -> Option<Kind> {
    let known = PATHS.iter().find(|(known, _)| *known == path).map(|(_, kind)| *kind);
    known.or_else(|| page::has(path).then_some(Kind::Page))
}

/// The longest body of an order, in bytes.
const MAX_BODY: usize = 8 * 1024;
/// The longest body of a request to explain, in bytes: it has a whole head.
const MAX_EXPLAIN_BODY: usize = 64 * 1024;

/// The client of a connection.
#[derive(Clone, Copy, Debug)]
struct Peer {
    /// The client came over the unix socket.
    is_file: bool,
    address: Option<IpAddr>,
}

impl Peer {
    fn of(stream: &Stream) -> Self {
        let address = match stream {
            Stream::Tcp(stream) => stream.peer_addr().ok().map(|address| address.ip()),
            _ => None,
        };
        Self { is_file: admin_socket::is_file(stream), address }
    }
}

impl Admin {
    /// Serves until the future is dropped. Each connection uses the `Admin` that is current when it
    /// is accepted. Connections over the limit wait in the queue of the operating system.
    pub async fn serve(current: Arc<ArcSwap<Self>>, listener: Listening) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let reserve = Arc::new(Reserve::new());
        // The semaphore is never closed, so this loop never ends.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let stream = match listener.accept().await {
                Ok(stream) => stream,
                Err(error) if reserve::is_shortage(&error) && reserve.release() => continue,
                Err(error) => {
                    AcceptFailed { error: &error }.emit();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (admin, reserve) = (current.load_full(), Arc::clone(&reserve));
            tokio::spawn(async move {
                // Errors are not logged: the client sees how its connection ended.
                let _ = tokio::time::timeout(CONNECTION_TIMEOUT, admin.answer_one(stream)).await;
                reserve.refill();
                drop(place);
            });
        }
    }

    async fn answer_one(self: Arc<Self>, stream: Stream) -> hyper::Result<()> {
        let peer = Peer::of(&stream);
        let service = service_fn(move |request| {
            let admin = Arc::clone(&self);
            async move { Ok::<_, Infallible>(admin.respond(request, peer).await) }
        });
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .keep_alive(false)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .await
    }

    async fn respond(&self, request: Request<Incoming>, peer: Peer) -> Response<Full<Bytes>> {
        let now = Now::read();
        if let Some(refusal) = self.refuse(&request, peer, now) {
            return refusal;
        }
        let path = request.uri().path().to_owned();
        if !matches!(path.as_str(), REVOKE | RELOAD | DRAIN) {
            return self.respond_to(request, peer, now).await;
        }
        let given_by = self.caller(request.headers(), now);
        let answer = self.respond_to(request, peer, now).await;
        let (peer, status) = (peer.address, answer.status().as_u16());
        OrderAnswered { path: &path, given_by, peer, status }.emit();
        answer
    }

    /// Answers a request that is allowed.
    async fn respond_to(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        now: Now,
    ) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let (path, headers) = (parts.uri.path(), &parts.headers);
        match path {
            RELOAD => return self.reload(headers).await,
            METRICS => return self.metrics(headers).await,
            SESSIONS => {
                return Box::pin(self.sessions(parts.uri.query().unwrap_or_default())).await;
            }
            REVOKE | DRAIN | EXPLAIN | LOGIN | LOGOUT => {}
            _ => return self.answer(path),
        }
        let most = if path == EXPLAIN { MAX_EXPLAIN_BODY } else { MAX_BODY };
        let reading = Limited::new(body, most).collect();
        // Strangers may log in and out: their bodies must not take the places of probes.
        let patience =
            if matches!(path, LOGIN | LOGOUT) { HEAD_TIMEOUT } else { CONNECTION_TIMEOUT };
        let Ok(Ok(body)) = tokio::time::timeout(patience, reading).await else {
            let message = "the body is incomplete, too slow or too long";
            return answer_error(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message);
        };
        let body = body.to_bytes();
        match path {
            DRAIN => self.drain(headers, &body),
            EXPLAIN => Box::pin(self.explain(headers, &body, now)).await,
            LOGIN => self.log_in(headers, &body, peer.address, now),
            LOGOUT => self.log_out(headers),
            _ => self.revoking.answer(&self.registry, headers, &body, now).await,
        }
    }

    /// Answers the requests that need not wait for anything.
    fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        match path {
            "/livez" => answer_json(StatusCode::OK, &json!({ "status": "alive" })),
            "/readyz" => match self.readiness.stage() {
                ReadinessStage::Ready => {
                    let mut ready = Map::from_iter([("status".to_owned(), json!("ready"))]);
                    if let Some(store) = self.readiness.store() {
                        ready.insert("store".to_owned(), store.into());
                    }
                    // Missing keys are shown, but do not make the node unready: all nodes of a
                    // fleet would become unready at once.
                    let keyless: Vec<_> = (self.figures)()
                        .issuers
                        .into_iter()
                        .filter(|one| one.keys == 0)
                        .map(|one| one.name)
                        .collect();
                    if !keyless.is_empty() {
                        ready.insert("issuers_without_keys".to_owned(), json!(keyless));
                    }
                    answer_json(StatusCode::OK, &ready.into())
                }
                stage => answer_json(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &json!({ "status": "not ready", "reason": stage.name() }),
                ),
            },
            HISTORY => self.history(),
            path => page::file(path).unwrap_or_else(|| self.status()),
        }
    }

    /// Renders the metrics on another thread: some kernels take long to count the descriptors of a
    /// process that has many.
    async fn metrics(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        self.registry.count_traffic();
        let accepted = headers.get_all(ACCEPT).iter();
        let format = ExpositionFormat::accepted(accepted.filter_map(|value| value.to_str().ok()));
        let telemetry = Arc::clone(&self.telemetry);
        match spawn_blocking(move || telemetry.render(format)).await {
            Ok(page) => answer(StatusCode::OK, format.content_type(), page.into()),
            // The process exits, or the thread has panicked.
            Err(_) => {
                let message = "the metrics could not be rendered";
                answer_error(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", message)
            }
        }
    }
}

/// Returns true for the content type of JSON. Without this check, any page in a browser on this
/// machine could send a body.
fn names_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Returns the refusal of an order that is not JSON.
fn refuse_other_than_json(headers: &HeaderMap) -> Option<Response<Full<Bytes>>> {
    if names_json(headers) {
        return None;
    }
    // A page of another site can make a browser send any body, but not with this content type.
    let message = "the request needs the header Content-Type: application/json";
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Some(answer_error(status, "UNSUPPORTED_MEDIA_TYPE", message))
}

fn answer_error(status: StatusCode, code: &str, message: &str) -> Response<Full<Bytes>> {
    answer_json(status, &json!({ "code": code, "message": message }))
}

/// Sets a field of an object.
fn set(body: &mut serde_json::Value, name: &str, value: impl Into<serde_json::Value>) {
    if let Some(fields) = body.as_object_mut() {
        fields.insert(name.to_owned(), value.into());
    }
}

fn answer_json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    answer(status, "application/json", format!("{body}\n").into())
}

fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
