//! The admin listener: probes, metrics, sessions, status, revocation, reload and drain, for
//! operators.
//!
//! It has a socket of its own, and the number of its connections is limited. Each connection serves
//! one request and has a deadline. If a token is configured, all requests but the two probes need
//! it.

mod drain;
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
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::{Map, json};
use tokio::sync::Semaphore;

use crate::net::admin_socket;
use crate::net::admin_socket::Listening;
pub use drain::Draining;
pub use readiness::{Readiness, Stage};
use reserve::Reserve;
pub use revoke::Revoking;
pub use status::{Figures, StoreFigures};

use crate::base::clock::Now;
use crate::edge::reload::Orders;
use crate::listener::events::AcceptFailed;
use crate::model::secret::Secret;
use crate::net::stream::Stream;
use crate::session::registry::Registry;
use crate::telemetry::Event;
use crate::telemetry::Telemetry;

pub struct Admin {
    pub telemetry: Arc<Telemetry>,
    pub registry: Arc<Registry>,
    pub readiness: Arc<Readiness>,
    /// The token that every request but `/livez` and `/readyz` needs.
    pub token: Option<Secret>,
    pub revoking: Revoking,
    pub draining: Draining,
    pub summary: Summary,
    /// The channel of orders to reload.
    pub orders: Orders,
    /// Returns the figures that are not in the registry.
    pub figures: Box<dyn Fn() -> Figures + Send + Sync>,
}

/// The parts of the config that `/status` shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The bound addresses: in place of port 0, they have the real port.
    pub listeners: Vec<SocketAddr>,
    pub routes: Vec<String>,
    pub upstreams: Vec<String>,
    pub config: Option<String>,
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
const RELOAD: &str = "/reload";
const DRAIN: &str = "/drain";
/// The paths, and whether they take orders: an order is a POST, everything else is read.
const PATHS: [(&str, bool); 8] = [
    ("/livez", false),
    ("/readyz", false),
    ("/metrics", false),
    ("/status", false),
    (SESSIONS, false),
    (REVOKE, true),
    (RELOAD, true),
    (DRAIN, true),
];
/// The longest body of an order, in bytes.
const MAX_BODY: usize = 8 * 1024;

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
        let is_file = admin_socket::is_file(&stream);
        let service = service_fn(move |request| {
            let admin = Arc::clone(&self);
            async move { Ok::<_, Infallible>(admin.respond(request, is_file).await) }
        });
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .keep_alive(false)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .await
    }

    async fn respond(&self, request: Request<Incoming>, is_file: bool) -> Response<Full<Bytes>> {
        if let Some(refusal) = self.refuse(&request, is_file) {
            return refusal;
        }
        let (parts, body) = request.into_parts();
        if parts.uri.path() == RELOAD {
            return self.reload(&parts.headers).await;
        }
        if parts.uri.path() == SESSIONS {
            return Box::pin(self.sessions(parts.uri.query().unwrap_or_default())).await;
        }
        let is_drain = parts.uri.path() == DRAIN;
        if !is_drain && parts.uri.path() != REVOKE {
            return self.answer(&Request::from_parts(parts, ()));
        }
        match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) if is_drain => self.drain(&parts.headers, &body.to_bytes()),
            Ok(body) => {
                self.revoking
                    .answer(&self.registry, &parts.headers, &body.to_bytes(), Now::read())
                    .await
            }
            Err(_) => answer_error(
                StatusCode::BAD_REQUEST,
                "INVALID_REQUEST",
                "the body is incomplete or too long",
            ),
        }
    }

    /// Returns the refusal of a request that is not allowed or not known. The `Host` of a request
    /// to a unix socket is not checked: a page in a browser cannot open one.
    fn refuse<B>(&self, request: &Request<B>, is_file: bool) -> Option<Response<Full<Bytes>>> {
        let path = request.uri().path();
        let is_probe = matches!(path, "/livez" | "/readyz");
        if !is_probe && !self.may_ask(request) {
            let mut response = answer_error(
                StatusCode::UNAUTHORIZED,
                "UNAUTHORIZED",
                "the admin token is missing or wrong",
            );
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"usher admin\""));
            return Some(response);
        }
        if !is_probe && !is_file && self.token.is_none() && !names_this_machine(request) {
            let message = "without a token, the Host must be an IP address or localhost";
            return Some(answer_error(
                StatusCode::MISDIRECTED_REQUEST,
                "MISDIRECTED_REQUEST",
                message,
            ));
        }
        let Some((_, takes_orders)) = PATHS.iter().find(|(known, _)| *known == path) else {
            return Some(answer_error(StatusCode::NOT_FOUND, "NOT_FOUND", "unknown path"));
        };
        let (allowed, allow, message): (&[Method], _, _) = if *takes_orders {
            (&[Method::POST], "POST", "use POST at this path")
        } else {
            (&[Method::GET, Method::HEAD], "GET, HEAD", "use GET at this path")
        };
        if !allowed.contains(request.method()) {
            let mut response =
                answer_error(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            return Some(response);
        }
        None
    }

    /// Answers the requests that need not wait for anything.
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/livez" => answer_json(StatusCode::OK, &json!({ "status": "alive" })),
            "/readyz" => match self.readiness.stage() {
                Stage::Ready => {
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
            "/metrics" => {
                self.registry.count_traffic();
                answer(
                    StatusCode::OK,
                    "text/plain; version=0.0.4; charset=utf-8",
                    self.telemetry.render().into(),
                )
            }
            _ => self.status(),
        }
    }

    fn may_ask<B>(&self, request: &Request<B>) -> bool {
        let Some(token) = &self.token else { return true };
        let mut shown = request.headers().get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (shown.next(), shown.next()) else { return false };
        let Some((scheme, credential)) = value.as_bytes().split_at_checked("bearer ".len()) else {
            return false;
        };
        // The comparison of `Secret` takes constant time.
        scheme.eq_ignore_ascii_case(b"bearer ") && Secret::new(credential) == *token
    }
}

/// Returns true if the `Host` is an IP address or localhost. A malicious web page can make its own
/// host name resolve to loopback (DNS rebinding). But it cannot change the `Host` header, which
/// still has that name.
fn names_this_machine<B>(request: &Request<B>) -> bool {
    let Some(value) = request.headers().get(HOST) else { return true };
    let Ok(authority) = Authority::try_from(value.as_bytes()) else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

/// Returns true for the content type of JSON. Without this check, any page in a browser on this
/// machine could send a body.
fn names_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
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
mod tests {
    use super::*;
    use crate::auth::revocation::Revocations;
    use crate::session::registry::tests::handle;
    use crate::telemetry::family::LabelNames;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use std::future::Future;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// `tests/api` holds the operations themselves to a running process.
    #[test]
    fn every_path_is_in_the_api_reference() {
        let reference = include_str!("../../docs/openapi.yaml");
        for (path, takes_orders) in PATHS {
            let operation = if takes_orders { "post" } else { "get" };
            let entry = format!("\n  {path}:\n    servers: *admin\n    {operation}:\n");
            let first = format!("\n  {path}:\n    servers: &admin\n");
            assert!(reference.contains(&entry) || reference.contains(&first), "{path}");
        }
    }

    fn telemetry() -> Telemetry {
        let names = LabelNames::default().with("route", ["/ws"]);
        Telemetry::detached(crate::telemetry_setup::families(), names).unwrap()
    }

    fn admin(token: Option<&str>) -> Arc<Admin> {
        Arc::new(Admin {
            telemetry: Arc::new(telemetry()),
            registry: Registry::new(),
            readiness: Arc::default(),
            token: token.map(Secret::from),
            revoking: Revoking {
                revocations: Arc::new(Revocations::new(10)),
                keep: Duration::from_secs(60),
                issuers: Vec::new(),
                fleet: None,
            },
            draining: Draining {
                drain: Arc::default(),
                rules: crate::config::Drain { delay: Duration::ZERO, window: Duration::ZERO },
            },
            summary: Summary {
                listeners: vec![SocketAddr::from(([127, 0, 0, 1], 8443))],
                node: "edge-1".to_owned(),
                ..Summary::default()
            },
            orders: Orders::channel().0,
            figures: Box::new(Figures::default),
        })
    }

    fn ask(
        admin: &Admin,
        method: &str,
        target: &str,
        authorization: &[&str],
    ) -> Response<Full<Bytes>> {
        let mut request = Request::builder().method(method).uri(target);
        for value in authorization {
            request = request.header(AUTHORIZATION, *value);
        }
        asked(admin, &request.body(()).unwrap())
    }

    fn asked(admin: &Admin, request: &Request<()>) -> Response<Full<Bytes>> {
        let answer = || match request.uri().path() {
            SESSIONS => at_once(admin.sessions(request.uri().query().unwrap_or_default())),
            _ => admin.answer(request),
        };
        admin.refuse(request, false).unwrap_or_else(answer)
    }

    /// Polls a future that must be ready: without other nodes, nothing waits.
    fn at_once<T>(future: impl Future<Output = T>) -> T {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(done) = std::pin::pin!(future).poll(&mut context) else {
            panic!("it waits")
        };
        done
    }

    fn get(admin: &Admin, target: &str) -> (u16, Value) {
        let response = ask(admin, "GET", target, &[]);
        let status = response.status().as_u16();
        let body = at_once(response.into_body().collect()).unwrap();
        (status, serde_json::from_slice(&body.to_bytes()).unwrap())
    }

    #[test]
    fn readiness_follows_the_life_of_the_process() {
        let admin = admin(None);
        assert_eq!(
            get(&admin, "/readyz"),
            (503, json!({ "status": "not ready", "reason": "starting" }))
        );
        admin.readiness.set_ready();
        assert_eq!(get(&admin, "/readyz").0, 200);
        admin.readiness.set_draining();
        admin.readiness.set_ready();
        assert_eq!(
            get(&admin, "/readyz"),
            (503, json!({ "status": "not ready", "reason": "draining" }))
        );
        assert_eq!(get(&admin, "/livez").0, 200);
        assert_eq!(get(&admin, "/status").1["draining"], true);
    }

    #[test]
    fn sessions_are_listed_up_to_the_limit() {
        let admin = admin(None);
        let _guards =
            [admin.registry.open(handle("ann", 1)), admin.registry.open(handle("bob", 2))];
        let (status, body) = get(&admin, "/sessions?limit=1");
        assert_eq!(
            (status, &body["total"], body["sessions"].as_array().unwrap().len()),
            (200, &2.into(), 1)
        );
        let session = &body["sessions"][0];
        assert_eq!(
            (&session["user"], &session["method"], &session["peer"]),
            (&"ann".into(), &"ticket".into(), &"127.0.0.1".into())
        );
        assert_eq!(get(&admin, "/sessions?limit=many").0, 400);
        let (status, body) = get(&admin, "/sessions?fleet=true&user=ann");
        assert_eq!(
            (status, &body["fleet"], &body["sessions"][0]["node"]),
            (200, &"alone".into(), &"edge-1".into())
        );
        let (_, body) = get(&admin, "/sessions?user=bob&route=%2Fws");
        assert_eq!((&body["total"], &body["sessions"][0]["user"]), (&1.into(), &"bob".into()));
        assert_eq!(get(&admin, "/sessions?user=bob&route=/other").1["total"], 0);
        let by = json!([{ "route": "/ws", "method": "ticket", "sessions": 2 }]);
        assert_eq!(get(&admin, "/status").1["sessions_by"], by);
        assert_eq!(get(&admin, "/status").1["listeners"][0], "127.0.0.1:8443");
    }

    #[test]
    fn everything_but_the_probes_asks_for_the_token() {
        let admin = admin(Some("0123456789abcdef"));
        let status =
            |target: &str, shown: &[&str]| ask(&admin, "GET", target, shown).status().as_u16();
        for target in ["/metrics", "/sessions", "/status", "/revoke", "/nothing"] {
            assert_eq!(status(target, &[]), 401);
            assert_eq!(status(target, &["Bearer 0123456789abcdeX"]), 401);
            assert_eq!(status(target, &["Bearer"]), 401);
            assert_eq!(
                status(target, &["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"]),
                401
            );
        }
        assert_eq!(status("/metrics", &["bearer 0123456789abcdef"]), 200);
        assert_eq!(status("/livez", &[]), 200);
    }

    #[test]
    fn unknown_paths_and_methods_are_told_so() {
        let admin = admin(None);
        assert_eq!(get(&admin, "/nothing").0, 404);
        let response = ask(&admin, "POST", "/metrics", &[]);
        assert_eq!(
            (response.status().as_u16(), &response.headers()[ALLOW]),
            (405, &HeaderValue::from_static("GET, HEAD"))
        );
        let response = ask(&admin, "GET", "/revoke", &[]);
        assert_eq!(
            (response.status().as_u16(), &response.headers()[ALLOW]),
            (405, &HeaderValue::from_static("POST"))
        );
    }

    #[test]
    fn without_a_token_a_foreign_host_name_is_refused() {
        let status = |admin: &Admin, host: &str| {
            let request = Request::builder()
                .uri("/sessions")
                .header(HOST, host)
                .header(AUTHORIZATION, "Bearer t");
            asked(admin, &request.body(()).unwrap()).status().as_u16()
        };
        let open = admin(None);
        for host in ["localhost:9090", "127.0.0.1:9090", "[::1]:9090", "LOCALHOST"] {
            assert_eq!(status(&open, host), 200, "{host}");
        }
        for host in ["rebound.example.com:9090", "localhost.example.com", ""] {
            assert_eq!(status(&open, host), 421, "{host}");
        }
        assert_eq!(status(&admin(Some("t")), "admin.internal"), 200);
    }

    #[tokio::test]
    async fn metrics_are_served_over_a_real_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(Admin::serve(
            Arc::new(ArcSwap::new(admin(None))),
            Listening::Tcp(listener),
        ));
        let mut text = String::new();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.unwrap();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
        assert!(text.contains("usher_build_info{version="), "{text}");
        server.abort();
    }
}
