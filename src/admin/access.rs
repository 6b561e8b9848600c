//! Which requests the admin listener answers: the token or a login, the host, the page, the method.
//!
//! Only the browser of the admin page sends a cookie, and a browser sends it by itself. So a
//! request with a cookie, or without a token where none is configured, must not come from another
//! page.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;

use super::events::LoginOutcome;
use super::{Admin, Kind, Peer, answer_error, kind_of, login};
use crate::base::clock::Now;
use crate::model::secret::Secret;

/// The reason to answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The request has the admin token.
    Token,
    /// The request has the cookie of a login.
    Login,
    /// No token is configured.
    Anyone,
    Stranger,
}

impl Caller {
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Login => "login",
            Self::Anyone => "anyone",
            Self::Stranger => "stranger",
        }
    }
}

impl Admin {
    /// Returns the refusal of a request that is not allowed or not known. The `Host` of a request
    /// to a unix socket is not checked: a page in a browser cannot open one.
    pub(super) fn refuse<B>(
        &self,
        request: &Request<B>,
        peer: Peer,
        now: Now,
    ) -> Option<Response<Full<Bytes>>> {
        let (path, headers) = (request.uri().path(), request.headers());
        let kind = kind_of(path);
        let caller = self.caller(headers, now);
        let is_open = matches!(kind, Some(Kind::Probe | Kind::Page | Kind::Login));
        if !is_open && caller == Caller::Stranger {
            if bearer(headers).is_none() {
                return Some(unauthorized("the admin token is missing or wrong"));
            }
            return Some(self.refuse_token(LoginOutcome::WrongBearer, peer.address, now));
        }
        let is_probe = kind == Some(Kind::Probe);
        if !is_probe && !peer.is_file && self.token.is_none() && !names_this_machine(headers) {
            let message = "without a token, the Host must be an IP address or localhost";
            return Some(answer_error(
                StatusCode::MISDIRECTED_REQUEST,
                "MISDIRECTED_REQUEST",
                message,
            ));
        }
        let Some(kind) = kind else {
            return Some(answer_error(StatusCode::NOT_FOUND, "NOT_FOUND", "unknown path"));
        };
        // A login does not trust a bearer token: the answer would tell a right one from a guess.
        let is_trusted = caller == Caller::Token && kind != Kind::Login;
        if !matches!(kind, Kind::Probe | Kind::Page) && !is_trusted {
            let needs_origin = kind == Kind::Order && caller == Caller::Login;
            if is_of_another_page(headers) || needs_origin && !headers.contains_key(ORIGIN) {
                let message = "the request comes from another page than the admin page";
                return Some(answer_error(StatusCode::FORBIDDEN, "FOREIGN_ORIGIN", message));
            }
        }
        refuse_method(request.method(), kind)
    }

    pub(super) fn caller(&self, headers: &HeaderMap, now: Now) -> Caller {
        let Some(token) = &self.token else { return Caller::Anyone };
        // The comparison of `Secret` takes constant time.
        if bearer(headers).is_some_and(|shown| shown == *token) {
            return Caller::Token;
        }
        let has_login = |cookie: &&str| self.logins.has(cookie, token, &self.login_rules, now);
        if login::cookies(headers).iter().any(has_login) { Caller::Login } else { Caller::Stranger }
    }
}

fn refuse_method(method: &Method, kind: Kind) -> Option<Response<Full<Bytes>>> {
    let (allowed, allow, message): (&[Method], _, _) = match kind {
        Kind::Order | Kind::Login => (&[Method::POST], "POST", "use POST at this path"),
        _ => (&[Method::GET, Method::HEAD], "GET, HEAD", "use GET at this path"),
    };
    if allowed.contains(method) {
        return None;
    }
    let mut response = answer_error(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    Some(response)
}

pub(super) fn unauthorized(message: &str) -> Response<Full<Bytes>> {
    let mut response = answer_error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"usher admin\""));
    response
}

/// Returns the bearer token. Returns `None` for a request with several credentials.
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (shown.next(), shown.next()) else { return None };
    let (scheme, credential) = value.as_bytes().split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| Secret::new(credential))
}

/// Returns true if the `Host` is an IP address or localhost. A malicious web page can make its own
/// host name resolve to loopback (DNS rebinding). But it cannot change the `Host` header, which
/// still has that name.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(HOST) else { return true };
    let Ok(authority) = Authority::try_from(value.as_bytes()) else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

/// Returns true if the browser says that another page made the request. A cookie with
/// `SameSite=Strict` does not tell the ports of one host apart; these headers do. A person may
/// follow a link from another page: that page cannot read the answer.
fn is_of_another_page(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_own = |origin: &HeaderValue| {
        let origin = origin.as_bytes();
        let page = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        page.is_some_and(|page| !page.is_empty() && page.eq_ignore_ascii_case(host))
    };
    let has = |name: &str, words: &[&str]| {
        headers.get(name).is_some_and(|value| words.iter().any(|word| value == word))
    };
    let is_foreign_fetch = headers.contains_key("sec-fetch-site")
        && !has("sec-fetch-site", &["same-origin", "none"])
        && !has("sec-fetch-mode", &["navigate"]);
    is_foreign_fetch || !headers.get_all(ORIGIN).iter().all(is_own)
}
