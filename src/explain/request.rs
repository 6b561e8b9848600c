//! The explained request, as the bytes that a client would send.

use std::net::{IpAddr, SocketAddr};

use rustls::pki_types::CertificateDer;

use super::inspector::InspectionScope;
use crate::auth::credential::{Credential, Proof};
use crate::base::text::encoded;
use crate::config::{Limits, Route};
use crate::model::method::Method;
use crate::model::secret::Secret;
use crate::net::http1::head::{self, RequestHead};
use crate::rejection::Rejection;

/// The headers of a valid upgrade besides Host. An argument replaces each of them.
const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// A request to explain.
pub struct ExplainedRequest {
    pub scheme: Scheme,
    pub authority: String,
    pub port: u16,
    target: String,
    pub given: RequestFields,
}

/// The parts of a request to explain, as a caller gives them.
pub struct RequestFields {
    pub url: String,
    pub method: String,
    pub headers: Vec<(String, String)>,
    pub credential: Option<GivenCredential>,
    pub chosen_method: Option<Method>,
    /// The certificate chain, the leaf first.
    pub certificate: Vec<CertificateDer<'static>>,
    pub peer: IpAddr,
    /// The listener; without it, the one with the port of the URL.
    pub listener: Option<SocketAddr>,
    pub scope: InspectionScope,
    /// Whether the values of all claims are shown.
    pub claims: bool,
    /// The names of headers on a command line, which other users can read. `None`: the request does
    /// not come from a command line.
    pub on_command_line: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug)]
pub struct Scheme {
    pub name: &'static str,
    pub is_tls: bool,
    pub is_upgrade: bool,
}

/// A credential in a file. The methods of the route decide its place in the request.
#[derive(Debug)]
pub enum GivenCredential {
    Token(Secret),
    Ticket(Secret),
}

const SCHEMES: [Scheme; 4] = [
    Scheme { name: "wss", is_tls: true, is_upgrade: true },
    Scheme { name: "ws", is_tls: false, is_upgrade: true },
    Scheme { name: "https", is_tls: true, is_upgrade: false },
    Scheme { name: "http", is_tls: false, is_upgrade: false },
];

impl ExplainedRequest {
    /// Returns an error if the URL cannot be read.
    pub fn of(fields: RequestFields) -> Result<Self, String> {
        let (scheme, authority, port, target) = split_url(&fields.url)?;
        Ok(Self { scheme, authority, port, target, given: fields })
    }

    /// Returns the request without the credential from the file.
    pub fn head(&self, limits: &Limits) -> Result<RequestHead, Rejection> {
        self.written(&self.target, &[], limits)
    }

    /// Returns the request with the token from the file, as Usher's own endpoints take it.
    pub fn head_for_endpoint(&self, limits: &Limits) -> Result<RequestHead, Rejection> {
        let Some(GivenCredential::Token(token)) = &self.given.credential else {
            return self.head(limits);
        };
        let bearer = format!("Bearer {}", token.expose_str().unwrap_or_default());
        self.written(&self.target, &[("Authorization".to_owned(), bearer)], limits)
    }

    /// Returns the request with the credential, by a method of this route. A credential for the
    /// first message is returned separately.
    pub fn head_for(
        &self,
        route: &Route,
        limits: &Limits,
    ) -> Result<(RequestHead, Option<Credential>), Rejection> {
        let Some((given, method)) = self.given.credential.as_ref().zip(self.method_for(route))
        else {
            return Ok((self.head(limits)?, None));
        };
        let (GivenCredential::Token(secret) | GivenCredential::Ticket(secret)) = given;
        let text = secret.expose_str().unwrap_or_default();
        let with = |name: &str, value: String| {
            self.written(&self.target, &[(name.to_owned(), value)], limits)
        };
        let query = |name: &str| {
            let parting = if self.target.contains('?') { '&' } else { '?' };
            self.written(
                &format!("{}{parting}{}={}", self.target, encoded(name), encoded(text)),
                &[],
                limits,
            )
        };
        let head = match method {
            Method::Ticket => query(&route.ticket_parameter)?,
            Method::Query => query(&route.token_parameter)?,
            Method::Header => with("Authorization", format!("Bearer {text}"))?,
            Method::Subprotocol => with("Sec-WebSocket-Protocol", format!("bearer, {text}"))?,
            Method::Cookie => with("Cookie", format!("{}={text}", route.token_cookie))?,
            Method::Bypass => with(route.bypass_header.as_str(), text.to_owned())?,
            Method::Message => {
                let proof = match given {
                    GivenCredential::Token(token) => Proof::Token(token.clone()),
                    GivenCredential::Ticket(ticket) => Proof::Ticket(ticket.clone()),
                };
                return Ok((self.head(limits)?, Some(Credential::message(proof))));
            }
            // Other arguments give these credentials.
            _ => self.head(limits)?,
        };
        Ok((head, None))
    }

    /// Returns the method that the route's clients would use: the first that can carry the
    /// credential, with the first message last.
    pub fn method_for(&self, route: &Route) -> Option<Method> {
        let carries = |method: &Method| match self.given.credential {
            Some(GivenCredential::Token(_)) => matches!(
                method,
                Method::Header | Method::Subprotocol | Method::Query | Method::Cookie
            ),
            Some(GivenCredential::Ticket(_)) => *method == Method::Ticket,
            None => false,
        };
        let usual = if matches!(self.given.credential, Some(GivenCredential::Ticket(_))) {
            Method::Ticket
        } else {
            Method::Header
        };
        let by_message = || route.auth.contains(&Method::Message).then_some(Method::Message);
        self.given
            .chosen_method
            .or_else(|| route.auth.iter().copied().find(carries))
            .or_else(by_message)
            .or(Some(usual))
    }

    fn written(
        &self,
        target: &str,
        more: &[(String, String)],
        limits: &Limits,
    ) -> Result<RequestHead, Rejection> {
        let mut text = format!("{} {target} HTTP/1.1\r\n", self.given.method);
        let is_given = |name: &str| {
            self.given.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name))
        };
        let usual =
            UPGRADE.iter().filter(|_| self.scheme.is_upgrade).map(|(name, value)| (*name, *value));
        let host = [("Host", self.authority.as_str())];
        for (name, value) in host.into_iter().chain(usual).filter(|(name, _)| !is_given(name)) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        for (name, value) in self.given.headers.iter().chain(more) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        if text.len() > limits.head_bytes {
            return Err(Rejection::HeadTooLarge);
        }
        head::parse_request(text.as_bytes(), limits)
    }
}

/// Reads a header line. `None`: the line is the request line of a head.
pub fn header_line(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
    is_name.then(|| (name.to_owned(), value.trim().to_owned()))
}

/// Splits a URL without normalising it. A library would normalise an unusual path, and a client
/// does not.
fn split_url(url: &str) -> Result<(Scheme, String, u16, String), String> {
    let wrong = |why: &str| {
        format!("the URL {why}: write wss://HOST/PATH, or https:// for a plain request")
    };
    let (name, rest) = url.split_once("://").ok_or_else(|| wrong("has no scheme"))?;
    let scheme = SCHEMES.into_iter().find(|scheme| scheme.name.eq_ignore_ascii_case(name));
    let scheme = scheme.ok_or_else(|| wrong("has an unknown scheme"))?;
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() {
        return Err(wrong("has no host"));
    }
    if authority.contains('@') {
        return Err(wrong("has a user name"));
    }
    let port = match authority.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => {
            port.parse().map_err(|_| wrong("has an invalid port"))?
        }
        _ if scheme.is_tls => 443,
        _ => 80,
    };
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    Ok((scheme, authority.to_owned(), port, target))
}
