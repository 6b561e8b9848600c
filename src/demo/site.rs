//! The site of the demo: the page, the login, and the controls that cause faults on purpose.
//!
//! It takes the place of the web site that a real chat already has. The controls are behind the
//! method `header`, so they read the user from the signed context, like the chat.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{CONTENT_SECURITY_POLICY, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use super::answers::{DemoAnswer, content, json_answer, json_body, message};
use super::chat::{Room, Visitor};
use super::issuer::{DevelopmentIssuer, LoginRefused};
use super::server::{PAUSE, RequestHandler, Restart};
use crate::admin_client::AdminClient;
use crate::base::clock::Now;
use crate::base::strict_json;

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const ICON: &str = include_str!("page/icon.svg");

/// The site, with handles for the other parts of the demo.
pub struct Site {
    pub issuer: DevelopmentIssuer,
    pub room: Arc<Room>,
    pub backend: Restart,
    pub admin: SocketAddr,
}

#[derive(Deserialize)]
struct DropSocket {
    session: String,
}

impl RequestHandler for Site {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> DemoAnswer {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::GET | &Method::HEAD, "/") => page(request.headers()),
            (&Method::GET | &Method::HEAD, "/assets/page.css") => {
                content("text/css; charset=utf-8", STYLE)
            }
            (&Method::GET | &Method::HEAD, "/assets/page.js") => {
                content("text/javascript; charset=utf-8", SCRIPT)
            }
            (&Method::GET | &Method::HEAD, "/assets/icon.svg") => content("image/svg+xml", ICON),
            (&Method::POST, "/login") => self.log_in(request).await,
            (&Method::POST, "/refresh") => self.refresh(request).await,
            (&Method::POST, "/control/drop-my-socket") => self.drop_socket(request).await,
            (&Method::POST, "/control/restart-backend") => self.restart_backend(),
            (&Method::POST, "/control/revoke-me") => self.revoke(request).await,
            (_, "/login" | "/refresh") => message(StatusCode::METHOD_NOT_ALLOWED, "use POST"),
            _ => message(StatusCode::NOT_FOUND, "unknown path"),
        }
    }
}

impl Site {
    async fn log_in(&self, request: Request<Incoming>) -> DemoAnswer {
        match json_body(request).await {
            Ok(body) => answer_of(self.issuer.log_in(&body, Now::read())),
            Err(refused) => refused,
        }
    }

    async fn refresh(&self, request: Request<Incoming>) -> DemoAnswer {
        match json_body(request).await {
            Ok(body) => answer_of(self.issuer.refresh(&body, Now::read())),
            Err(refused) => refused,
        }
    }

    /// Cuts one socket of this user between Usher and the backend, without a close frame.
    async fn drop_socket(&self, request: Request<Incoming>) -> DemoAnswer {
        let user = Visitor::of(&request).name;
        let body = match json_body(request).await {
            Ok(body) => body,
            Err(refused) => return refused,
        };
        let Ok(DropSocket { session }) = strict_json::record(&body) else {
            return message(StatusCode::BAD_REQUEST, "the body must be {\"session\": \"...\"}");
        };
        if self.room.cut(&user, &session) {
            json_answer(StatusCode::OK, &json!({ "dropped": session }))
        } else {
            message(StatusCode::NOT_FOUND, "the room has no such session of this user")
        }
    }

    fn restart_backend(&self) -> DemoAnswer {
        if self.backend.order() {
            json_answer(StatusCode::ACCEPTED, &json!({ "back_in_seconds": PAUSE.as_secs() }))
        } else {
            message(StatusCode::CONFLICT, "the backend is already restarting")
        }
    }

    /// Ends the logins of the user. Makes Usher close the sessions and reject the tokens.
    async fn revoke(&self, request: Request<Incoming>) -> DemoAnswer {
        let user = Visitor::of(&request).name;
        self.issuer.end_logins(&user, Now::read());
        let (admin, order) = (self.admin, json!({ "user": user, "issued_before": "now" }));
        let post = move || AdminClient::at(admin).post("/revoke", &order);
        match tokio::task::spawn_blocking(post).await {
            Ok(Ok(done)) if done.status == 200 => json_answer(StatusCode::OK, &done.body),
            Ok(Ok(refused)) => message(StatusCode::BAD_GATEWAY, &refused.message()),
            Ok(Err(error)) => message(StatusCode::BAD_GATEWAY, &error.to_string()),
            Err(_) => message(StatusCode::INTERNAL_SERVER_ERROR, "the revocation was not sent"),
        }
    }
}

fn answer_of(login: Result<serde_json::Value, LoginRefused>) -> DemoAnswer {
    match login {
        Ok(login) => json_answer(StatusCode::OK, &login),
        Err(refused) => message(refused.status(), &refused.to_string()),
    }
}

fn page(headers: &HeaderMap) -> DemoAnswer {
    let mut response = content("text/html; charset=utf-8", PAGE);
    let headers_out = response.headers_mut();
    headers_out.insert(CONTENT_SECURITY_POLICY, policy(headers));
    let fixed = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
    headers_out.extend([
        fixed("referrer-policy", "no-referrer"),
        fixed("cross-origin-opener-policy", "same-origin"),
    ]);
    response
}

/// Returns a content security policy that allows only this site. It lists the host for WebSockets,
/// because older browsers do not treat them as `'self'`.
fn policy(headers: &HeaderMap) -> HeaderValue {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).filter(|host| is_plain(host));
    let sockets = host.map(|host| format!(" ws://{host} wss://{host}")).unwrap_or_default();
    let text = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'{sockets}; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'"
    );
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// Returns true if the host cannot change the meaning of a policy.
fn is_plain(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy_for(host: &'static str) -> String {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
        policy(&headers).to_str().unwrap().to_owned()
    }

    #[test]
    fn the_policy_names_the_host_and_allows_nothing_inline() {
        let text = policy_for("localhost:8443");
        assert!(
            text.contains("connect-src 'self' ws://localhost:8443 wss://localhost:8443;"),
            "{text}"
        );
        assert!(text.starts_with("default-src 'none';") && !text.contains("unsafe"), "{text}");
    }

    #[test]
    fn a_host_that_is_none_adds_nothing_to_the_policy() {
        for host in ["a; script-src *", "a b", "*", "a'b"] {
            assert!(policy_for(host).contains("connect-src 'self';"), "{host}");
        }
    }

    #[test]
    fn the_page_has_no_inline_script_or_style() {
        assert!(!PAGE.contains("<style") && !PAGE.contains("style="));
        assert!(!PAGE.contains(" onclick") && PAGE.matches("<script").count() == 1);
        for reference in ["http://", "https://"] {
            assert!(!STYLE.contains(reference) && !PAGE.contains(&format!("src=\"{reference}")));
        }
    }
}
