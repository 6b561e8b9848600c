//! Who the client is, and what it may open.
//!
//! A credential is taken out of the request once, by the first method of the route that finds one; it becomes a principal,
//! and the principal a [`Grant`]. A credential that is present and wrong is a rejection: no weaker method is tried with the
//! same request.

pub mod algorithm;
pub mod credential;
pub mod first_message;
pub mod grant;
pub mod issuer_keys;
pub mod jwt;
pub mod origin;
pub mod principal;
pub mod remote_keys;
pub mod renewal;
pub mod revocation;
pub mod strict_json;

use std::net::IpAddr;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Uri};
use tokio::time::{Instant, timeout_at};

use crate::clock::Now;
use crate::config;
use crate::config::secret::Secret;
use crate::http::route::RouteMatch;
use crate::rejection::Rejection;
use crate::ticket::Tickets;
use credential::{Credential, Method, Proof};
use grant::Grant;
use jwt::{InvalidToken, Issuers};
use principal::Principal;
use revocation::Revocations;

#[derive(Debug)]
pub struct Authenticator {
    issuers: Arc<Issuers>,
    tickets: Arc<Tickets>,
    revocations: Arc<Revocations>,
}

/// What else is known of who asks.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    pub request_id: &'a str,
    pub origin: Option<&'a str>,
    pub peer: IpAddr,
}

impl Authenticator {
    pub fn new(issuers: Arc<Issuers>, tickets: Arc<Tickets>, revocations: Arc<Revocations>) -> Self {
        Self { issuers, tickets, revocations }
    }

    pub fn issuers(&self) -> &Arc<Issuers> {
        &self.issuers
    }

    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// The same within a time: a credential that cannot be looked at is not let in.
    pub async fn authenticate_by(
        &self,
        deadline: Instant,
        matched: &RouteMatch,
        credential: Option<Credential>,
        presented: Presented<'_>,
        now: Now,
    ) -> Result<Grant, Rejection> {
        let late = match credential.as_ref().map(|credential| &credential.proof) {
            Some(Proof::Token(_)) => Rejection::IssuerKeysUnavailable,
            _ => Rejection::StoreUnavailable,
        };
        let asking = self.authenticate(matched, credential, presented, now);
        timeout_at(deadline, asking).await.map_err(|_| late)?
    }

    /// The only way to a grant.
    async fn authenticate(
        &self,
        matched: &RouteMatch,
        credential: Option<Credential>,
        presented: Presented<'_>,
        now: Now,
    ) -> Result<Grant, Rejection> {
        let route = &matched.route;
        if route.auth.is_empty() {
            return Ok(Grant::public(Arc::clone(route)));
        }
        let credential = credential.ok_or(Rejection::MissingCredential)?;
        let method = credential.method;
        let principal = self.prove(route, credential, presented, now).await?;
        Ok(Grant::to(Arc::clone(route), principal, method, now))
    }

    /// Who a credential belongs to, on this route.
    async fn prove(
        &self,
        route: &config::Route,
        credential: Credential,
        presented: Presented<'_>,
        now: Now,
    ) -> Result<Principal, Rejection> {
        let principal = match credential.proof {
            Proof::Ticket(ticket) => {
                self.tickets.redeem(&ticket, route, presented.origin, presented.peer, presented.request_id, now).await?
            }
            Proof::Token(token) => self.issuers.prove(&token, now).await?,
        };
        match self.revocations.find(&principal, now.wall) {
            None => Ok(principal),
            Some(kind) => Err(Rejection::Revoked(kind)),
        }
    }
}

/// A browser names the page's origin; other clients name none, and hold no credential that a browser would send by itself.
pub fn check_origin(route: &config::Route, origin: Option<&str>) -> Result<(), Rejection> {
    match (&route.origins, origin) {
        (Some(allowed), Some(origin)) if !allowed.allow(origin) => Err(Rejection::ForbiddenOrigin),
        _ => Ok(()),
    }
}

/// Takes the credentials of the route's methods out of the request, and gives back the one of the most preferred method.
/// The others are gone too: the upstream gets none.
pub fn take_credential(route: &config::Route, parts: &mut Parts) -> Result<Option<Credential>, Rejection> {
    let mut chosen = None;
    for method in &route.auth {
        let found = match method {
            Method::Ticket => take_parameter(&mut parts.uri, &route.ticket_parameter)?.map(Credential::ticket),
            Method::Header => take_bearer(&mut parts.headers)?.map(Credential::bearer),
            // It comes after the 101.
            Method::Message => None,
        };
        chosen = chosen.or(found);
    }
    Ok(chosen)
}

/// The token of the one `Authorization: Bearer` header. RFC 9110, section 11.1: the scheme is case-insensitive.
pub fn take_bearer(headers: &mut HeaderMap) -> Result<Option<Secret>, Rejection> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let token = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => bearer(value),
        _ => return Err(Rejection::AmbiguousRequest("a request has at most one Authorization")),
    };
    headers.remove(AUTHORIZATION);
    token.map(Some)
}

fn bearer(value: &HeaderValue) -> Result<Secret, Rejection> {
    let wrong = Rejection::InvalidToken(InvalidToken::Malformed);
    let text = value.to_str().map_err(|_| wrong.clone())?;
    let (scheme, token) = text.split_once(' ').ok_or(wrong.clone())?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.contains(char::is_whitespace) {
        return Err(wrong);
    }
    Ok(Secret::from(token))
}

/// Removes the query parameter `name`; every other byte of the query stays as it was.
fn take_parameter(uri: &mut Uri, name: &str) -> Result<Option<Secret>, Rejection> {
    let Some(query) = uri.query() else { return Ok(None) };
    let (mut kept, mut values) = (Vec::new(), Vec::new());
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decoded(key).as_deref() == Some(name) { values.push(value) } else { kept.push(pair) }
    }
    let value = match values.as_slice() {
        [] => return Ok(None),
        [value] => Secret::from(*value),
        _ => return Err(Rejection::AmbiguousRequest("the ticket stands twice")),
    };
    let target = if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), kept.join("&")) };
    *uri = target.parse().map_err(|_| Rejection::AmbiguousRequest("the request target is not well formed"))?;
    Ok(Some(value))
}

/// A parameter as a form decoder would read it, so that no spelling of it slips through to the upstream.
pub(crate) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                digit(rest.next()?)? << 4 | digit(rest.next()?)?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(uri: &str) -> (Option<String>, String) {
        let mut uri: Uri = uri.parse().unwrap();
        let ticket = take_parameter(&mut uri, "ticket").unwrap();
        (ticket.map(|ticket| ticket.expose_str().unwrap().to_owned()), uri.to_string())
    }

    #[test]
    fn a_ticket_is_cut_out_and_the_rest_of_the_query_stays_as_it_was() {
        assert_eq!(take("/ws?ticket=abc"), (Some("abc".into()), "/ws".into()));
        assert_eq!(take("/ws?b=%20&ticket=abc&a=1&"), (Some("abc".into()), "/ws?b=%20&a=1&".into()));
        assert_eq!(take("/ws?%74icket=abc&x"), (Some("abc".into()), "/ws?x".into()));
        assert_eq!(take("/ws?tickets=abc"), (None, "/ws?tickets=abc".into()));
        assert_eq!(take("/ws"), (None, "/ws".into()));
    }

    #[test]
    fn two_tickets_are_no_ticket() {
        let mut uri: Uri = "/ws?ticket=a&ticket=b".parse().unwrap();
        assert!(matches!(take_parameter(&mut uri, "ticket"), Err(Rejection::AmbiguousRequest(_))));
    }

    #[test]
    fn a_bearer_token_is_taken_out_of_the_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("bEaRer abc.def"));
        assert_eq!(take_bearer(&mut headers).unwrap().unwrap().expose(), b"abc.def");
        assert!(headers.is_empty());
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        assert!(matches!(take_bearer(&mut headers), Err(Rejection::AmbiguousRequest(_))));
        for bad in ["Basic abc", "Bearer", "Bearer ", "Bearer a b"] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(bad).unwrap());
            assert!(matches!(take_bearer(&mut headers), Err(Rejection::InvalidToken(_))), "{bad}");
        }
    }
}
