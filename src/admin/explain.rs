//! `POST /explain`: what this process would answer to a request, and what to change.
//!
//! The request is judged like a served one, by the configuration, keys, tickets and deny list in
//! force. Nothing is redeemed, dialled or counted; a verifier is asked only if the caller says so.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{Admin, answer_error, answer_json, refuse_other_than_json};

use crate::base::clock::Now;
use crate::base::strict_json;
use crate::edge::Current;
use crate::explain::{
    ExplainedRequest, Explainer, GivenCredential, InspectionScope, RequestFields, header_line,
};
use crate::model::method::Method;
use crate::model::secret::Secret;

/// The parts of a node that an explanation needs.
pub struct Explaining {
    /// `None` in tests without a node.
    pub edge: Option<Current>,
    /// The explanations at the same time.
    places: Semaphore,
}

/// The most explanations at the same time: each may wait for a verifier.
const PLACES: usize = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainRequest {
    url: String,
    #[serde(default = "get")]
    method: String,
    /// Lines such as `Origin: https://app.example.com`.
    #[serde(default)]
    headers: Vec<String>,
    token: Option<String>,
    ticket: Option<String>,
    /// The method by which the token or ticket is sent.
    #[serde(rename = "as")]
    chosen_method: Option<String>,
    peer: Option<IpAddr>,
    listener: Option<SocketAddr>,
    #[serde(default)]
    ask_verifiers: bool,
}

fn get() -> String {
    "GET".to_owned()
}

impl Explaining {
    pub fn new(edge: Option<Current>) -> Arc<Self> {
        Arc::new(Self { edge, places: Semaphore::new(PLACES) })
    }
}

impl ExplainRequest {
    fn read(body: &[u8]) -> Result<ExplainedRequest, String> {
        let asked: Self = strict_json::record(body)
            .map_err(|error| format!("the body is not a request to explain: {error}"))?;
        let headers = asked.headers.iter().filter(|line| !line.trim().is_empty());
        let headers = headers
            .map(|line| {
                let is_one_line = !line.contains(['\r', '\n']);
                header_line(line)
                    .filter(|_| is_one_line)
                    .ok_or_else(|| "a header must be one line, NAME: VALUE".to_owned())
            })
            .collect::<Result<_, _>>()?;
        let given = |text: &String| Secret::from(text.trim());
        let credential = match (&asked.token, &asked.ticket) {
            (Some(_), Some(_)) => return Err("give a token or a ticket, not both".to_owned()),
            (Some(token), None) => Some(GivenCredential::Token(given(token))),
            (None, ticket) => ticket.as_ref().map(given).map(GivenCredential::Ticket),
        };
        let chosen_method = asked.chosen_method.as_deref().map(method).transpose()?;
        ExplainedRequest::of(RequestFields {
            url: asked.url.trim().to_owned(),
            method: asked.method,
            headers,
            credential,
            chosen_method,
            certificate: Vec::new(),
            peer: asked.peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            listener: asked.listener,
            scope: InspectionScope {
                fetches_keys: false,
                asks_verifiers: asked.ask_verifiers,
                sees_memory: true,
            },
            claims: false,
            on_command_line: None,
        })
    }
}

fn method(name: &str) -> Result<Method, String> {
    Method::ALL.into_iter().find(|method| method.name() == name).ok_or_else(|| {
        let names: Vec<_> = Method::ALL.iter().map(|method| method.name()).collect();
        format!("as must be one of {}", names.join(", "))
    })
}

impl Admin {
    pub(super) async fn explain(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        now: Now,
    ) -> Response<Full<Bytes>> {
        if let Some(refusal) = refuse_other_than_json(headers) {
            return refusal;
        }
        let explained = match ExplainRequest::read(body) {
            Ok(explained) => explained,
            Err(message) => {
                return answer_error(StatusCode::BAD_REQUEST, "INVALID_REQUEST", &message);
            }
        };
        let (Some(edge), Ok(_place)) =
            (&self.explaining.edge, self.explaining.places.try_acquire())
        else {
            let message = "too many explanations at once; try again";
            return answer_error(StatusCode::SERVICE_UNAVAILABLE, "BUSY", message);
        };
        let explainer = Explainer::of(&edge.load());
        let explanation = Box::pin(explainer.explain(&explained, now)).await;
        answer_json(StatusCode::OK, &serde_json::json!(explanation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_to_explain_is_read_strictly() {
        let read = |body: &str| ExplainRequest::read(body.as_bytes()).map(|_| ());
        for body in [
            r#"{"url":"wss://chat.example.com/ws"}"#,
            r#"{"url":"https://a/b","method":"POST","headers":["Origin: https://a","  "]}"#,
            r#"{"url":"ws://a/","token":"t","as":"query","peer":"2001:db8::1"}"#,
            r#"{"url":"ws://a/","ticket":"t","listener":"0.0.0.0:443","ask_verifiers":true}"#,
        ] {
            assert_eq!(read(body), Ok(()), "{body}");
        }
        for (body, part) in [
            ("", "not a request to explain"),
            ("{}", "missing field `url`"),
            (r#"{"url":"a"}"#, "has no scheme"),
            (r#"{"url":"ftp://a/"}"#, "has an unknown scheme"),
            (r#"{"url":"ws://a/","url":"ws://b/"}"#, "appears twice"),
            (r#"{"url":"ws://a/","usr":"b"}"#, "unknown field"),
            (r#"{"url":"ws://a/","headers":["no colon"]}"#, "must be one line"),
            (r#"{"url":"ws://a/","headers":["A: b\r\nC: d"]}"#, "must be one line"),
            (r#"{"url":"ws://a/","token":"a","ticket":"b"}"#, "not both"),
            (r#"{"url":"ws://a/","as":"telepathy"}"#, "as must be one of ticket"),
            (r#"{"url":"ws://a/","peer":"nowhere"}"#, "not a request to explain"),
        ] {
            let message = read(body).unwrap_err();
            assert!(message.contains(part), "{body}: {message}");
        }
    }
}
