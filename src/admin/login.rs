//! `POST /login` and `/logout`: the admin page trades the admin token for a cookie.
//!
//! The cookie names a login that this process keeps. It has no part of the token, and scripts of
//! the page cannot read it. A login ends after a time, after a while without requests, and when the
//! token changes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{COOKIE, HOST, ORIGIN, RETRY_AFTER, SET_COOKIE};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::json;

use super::access::unauthorized;
use super::events::{LoginOutcome, LoginTried, LoginsCounted};
use super::{Admin, answer_error, answer_json, refuse_other_than_json};
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::base::rate::{Rate, RateLimiter, network_of};
use crate::base::strict_json;
use crate::config::LoginRules;
use crate::model::secret::Secret;
use crate::telemetry::Event;
use tokio::time::Instant;

/// The logins of one process. They outlive reloads.
#[derive(Debug)]
pub struct Logins {
    /// By the hash of the cookie, so that a lookup takes the same time for every wrong one.
    open: Mutex<HashMap<[u8; 32], Login>>,
    wrong: Mutex<Arc<RateLimiter<Option<IpAddr>>>>,
}

#[derive(Debug)]
struct Login {
    /// The admin token at the login.
    token: Secret,
    since: Instant,
    last_request: Instant,
}

/// The most addresses whose wrong tokens are counted.
const ADDRESSES: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginRequest {
    token: String,
}

impl Default for Logins {
    fn default() -> Self {
        let never = Rate { count: 1, per: Duration::from_secs(60) };
        let limiter = Arc::new(RateLimiter::new(never, ADDRESSES));
        Self { open: Mutex::default(), wrong: Mutex::new(limiter) }
    }
}

impl Login {
    fn is_in_force(&self, token: &Secret, rules: &LoginRules, now: Instant) -> bool {
        let is_over = |from: Instant, limit| now.saturating_duration_since(from) >= limit;
        !is_over(self.since, rules.ttl)
            && !is_over(self.last_request, rules.idle)
            && self.token == *token
    }
}

impl Logins {
    /// Opens a login and returns its cookie. `None`: the system has no random bytes.
    fn open(&self, token: &Secret, rules: &LoginRules, now: Instant) -> Option<String> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).ok()?;
        let cookie = URL_SAFE_NO_PAD.encode(bytes);
        let mut open = lock(&self.open);
        open.retain(|_, login| login.is_in_force(token, rules, now));
        while open.len() >= rules.most {
            let oldest = open.iter().min_by_key(|(_, login)| login.last_request);
            let Some(oldest) = oldest.map(|(key, _)| *key) else { break };
            open.remove(&oldest);
        }
        open.insert(key(&cookie), Login { token: token.clone(), since: now, last_request: now });
        LoginsCounted { open: open.len() }.emit();
        Some(cookie)
    }

    /// Returns true if the cookie names a login that is in force, and notes the request.
    pub(super) fn has(&self, cookie: &str, token: &Secret, rules: &LoginRules, now: Now) -> bool {
        let mut open = lock(&self.open);
        let Some(login) = open.get_mut(&key(cookie)) else { return false };
        let is_in_force = login.is_in_force(token, rules, now.mono);
        if is_in_force {
            login.last_request = now.mono;
        }
        is_in_force
    }

    fn close(&self, cookie: &str) {
        let mut open = lock(&self.open);
        open.remove(&key(cookie));
        LoginsCounted { open: open.len() }.emit();
    }

    /// Removes the logins that have ended. `token` is `None` if requests need none.
    pub(super) fn sweep(&self, token: Option<&Secret>, rules: &LoginRules, now: Now) {
        let mut open = lock(&self.open);
        let before = open.len();
        open.retain(|_, login| {
            token.is_some_and(|token| login.is_in_force(token, rules, now.mono))
        });
        if open.len() != before {
            LoginsCounted { open: open.len() }.emit();
        }
    }

    fn limiter(&self, rate: Rate) -> Arc<RateLimiter<Option<IpAddr>>> {
        let mut wrong = lock(&self.wrong);
        *wrong = wrong.next(rate, ADDRESSES);
        Arc::clone(&wrong)
    }
}

fn key(cookie: &str) -> [u8; 32] {
    let mut key = [0; 32];
    let hash = digest(&SHA256, cookie.as_bytes());
    key.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    key
}

impl Admin {
    pub(super) fn log_in(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        peer: Option<IpAddr>,
        now: Now,
    ) -> Response<Full<Bytes>> {
        if let Some(refusal) = refuse_other_than_json(headers) {
            return refusal;
        }
        let Ok(LoginRequest { token: given }) = strict_json::record(body) else {
            let message = "the body must be {\"token\": \"...\"}";
            return answer_error(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message);
        };
        let given = Secret::from(given.as_str());
        let Some(token) = &self.token else {
            let message = "no admin token is configured, so every request is accepted";
            return answer_error(StatusCode::CONFLICT, "NO_TOKEN", message);
        };
        // The comparison of `Secret` takes constant time.
        if given != *token {
            return self.refuse_token(LoginOutcome::WrongToken, peer, now);
        }
        let Some(cookie) = self.logins.open(token, &self.login_rules, now.mono) else {
            let message = "the system has no random bytes";
            return answer_error(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", message);
        };
        LoginTried { peer, outcome: LoginOutcome::Accepted }.emit();
        let ttl = self.login_rules.ttl;
        let body = json!({
            "expires": (now.wall + ttl).to_rfc3339(),
            "idle_seconds": self.login_rules.idle.as_secs(),
        });
        let mut response = answer_json(StatusCode::OK, &body);
        set_cookie(&mut response, headers, &cookie, ttl.as_secs());
        response
    }

    /// Counts a wrong token of this address, and returns its refusal. The right token is accepted
    /// before anything is counted: otherwise guesses from behind the same proxy would lock the
    /// operators out.
    pub(super) fn refuse_token(
        &self,
        outcome: LoginOutcome,
        peer: Option<IpAddr>,
        now: Now,
    ) -> Response<Full<Bytes>> {
        let limiter = self.logins.limiter(self.login_rules.wrong_rate);
        if let Err(wait) = limiter.allow(peer.map(network_of), now.mono) {
            LoginTried { peer, outcome: LoginOutcome::RateLimited }.emit();
            return too_many_tries(wait);
        }
        LoginTried { peer, outcome }.emit();
        unauthorized("the admin token is wrong")
    }

    /// Ends the logins of the cookies. Succeeds without one too.
    pub(super) fn log_out(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        if let Some(refusal) = refuse_other_than_json(headers) {
            return refusal;
        }
        cookies(headers).iter().for_each(|cookie| self.logins.close(cookie));
        let mut response = answer_json(StatusCode::OK, &json!({ "outcome": "logged_out" }));
        set_cookie(&mut response, headers, "", 0);
        response
    }
}

fn too_many_tries(wait: Duration) -> Response<Full<Bytes>> {
    let message = "the admin token is wrong, as were too many others from this address";
    let mut response = answer_error(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message);
    let seconds = HeaderValue::from(wait.as_secs() + 1);
    response.headers_mut().insert(RETRY_AFTER, seconds);
    response
}

/// Returns the name of the cookie. It has the port, because browsers send a cookie to every port of
/// a host, and one machine may have several Ushers.
fn cookie_name(headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    match host.and_then(|host| host.port_u16()) {
        Some(port) => format!("usher_admin_{port}"),
        None => "usher_admin".to_owned(),
    }
}

/// Returns the cookies with a login. Several are possible if another page of the host has set one.
pub(super) fn cookies(headers: &HeaderMap) -> Vec<&str> {
    let name = cookie_name(headers);
    let texts = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.filter(|(one, _)| one.trim() == name).map(|(_, value)| value.trim()).take(8).collect()
}

/// Sets the cookie, or removes it with the age 0. The browser keeps it to TLS where the page came
/// over TLS: a proxy in front of the admin listener may add that.
fn set_cookie(
    response: &mut Response<Full<Bytes>>,
    headers: &HeaderMap,
    value: &str,
    max_age: u64,
) {
    let is_tls = headers.get(ORIGIN).is_some_and(|page| page.as_bytes().starts_with(b"https://"));
    let secure = if is_tls { "; Secure" } else { "" };
    let name = cookie_name(headers);
    let cookie =
        format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age}{secure}");
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: LoginRules = LoginRules {
        ttl: Duration::from_secs(100),
        idle: Duration::from_secs(10),
        most: 2,
        wrong_rate: Rate { count: 10, per: Duration::from_secs(60) },
    };

    fn after(now: Now, seconds: u64) -> Now {
        let span = Duration::from_secs(seconds);
        Now { mono: now.mono + span, wall: now.wall + span }
    }

    #[test]
    fn a_login_ends_after_a_time_and_without_requests() {
        let (logins, token, now) = (Logins::default(), Secret::from("t"), Now::read());
        let has = |cookie: &str, seconds| logins.has(cookie, &token, &RULES, after(now, seconds));
        let cookie = logins.open(&token, &RULES, now.mono).unwrap();
        assert!((9..100).step_by(9).all(|second| has(&cookie, second)));
        assert!(!has(&cookie, 100), "its time is over");
        let cookie = logins.open(&token, &RULES, now.mono).unwrap();
        assert!(!has(&cookie, 10), "it was idle");
        assert!(!has("", 0) && !has("made-up", 0));
    }

    #[test]
    fn another_token_ends_the_logins() {
        let (logins, now) = (Logins::default(), Now::read());
        let cookie = logins.open(&Secret::from("old"), &RULES, now.mono).unwrap();
        assert!(logins.has(&cookie, &Secret::from("old"), &RULES, now));
        assert!(!logins.has(&cookie, &Secret::from("new"), &RULES, now));
        logins.sweep(Some(&Secret::from("new")), &RULES, now);
        assert!(lock(&logins.open).is_empty());
    }

    #[test]
    fn the_login_that_is_idle_for_the_longest_time_makes_room() {
        let (logins, token, now) = (Logins::default(), Secret::from("t"), Now::read());
        let open = |seconds| logins.open(&token, &RULES, after(now, seconds).mono).unwrap();
        let (first, second) = (open(0), open(1));
        assert!(logins.has(&first, &token, &RULES, after(now, 2)));
        let third = open(3);
        let has = |cookie: &str| logins.has(cookie, &token, &RULES, after(now, 4));
        assert_eq!([has(&first), has(&second), has(&third)], [true, false, true]);
        logins.close(&third);
        assert!(!has(&third));
    }

    #[test]
    fn the_cookie_belongs_to_one_port_and_to_tls_if_the_page_does() {
        let headers = |host: &'static str, origin: &'static str| {
            HeaderMap::from_iter([
                (HOST, HeaderValue::from_static(host)),
                (ORIGIN, HeaderValue::from_static(origin)),
                (COOKIE, HeaderValue::from_static("a=1; usher_admin_9090=x;usher_admin=y")),
            ])
        };
        let plain = headers("localhost:9090", "http://localhost:9090");
        let tls = headers("admin.example.com", "https://admin.example.com");
        assert_eq!((cookies(&plain), cookies(&tls)), (vec!["x"], vec!["y"]));
        let set = |headers: &HeaderMap| {
            let mut response = Response::new(Full::default());
            set_cookie(&mut response, headers, "v", 7);
            response.headers()[SET_COOKIE].to_str().unwrap().to_owned()
        };
        let flags = "Path=/; HttpOnly; SameSite=Strict; Max-Age=7";
        assert_eq!(set(&plain), format!("usher_admin_9090=v; {flags}"));
        assert_eq!(set(&tls), format!("usher_admin=v; {flags}; Secure"));
    }
}
