//! The explanation of a request. It is built step by step, and the first rejection is the verdict.

use http::request::Parts;
use serde::Serialize;
use serde_json::Value;

use super::advice::{AdviceContext, advice};
use super::request::ExplainedRequest;
use super::token::clock;
use crate::auth;
use crate::auth::grant::Grant;
use crate::auth::token_inspection::InspectedToken;
use crate::base::clock::Now;
use crate::base::text::{distance, printable};
use crate::config::{RejectMode, Route};
use crate::model::method::Method;
use crate::model::principal::Principal;
use crate::rejection::Rejection;

/// A complete explanation. Its JSON is for programs: existing fields stay.
#[derive(Debug, Default, Serialize)]
pub struct Explanation {
    /// The URL without its query.
    pub url: String,
    pub at: String,
    pub warnings: Vec<String>,
    pub steps: Vec<Step>,
    pub route: Option<String>,
    pub parameters: serde_json::Map<String, Value>,
    pub method: Option<&'static str>,
    /// The response of `GET` on the config path for this client.
    pub told: Option<Value>,
    pub verdict: ExpectedResponse,
    pub upstream: Option<Forwarded>,
}

#[derive(Debug, Serialize)]
pub struct Step {
    pub name: &'static str,
    pub result: Mark,
    pub detail: String,
    /// The step is only in the JSON, not in the text.
    #[serde(skip)]
    pub is_quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    Ok,
    Fail,
    Skipped,
    Note,
}

/// The response that the client would get.
#[derive(Debug, Default, Serialize)]
pub struct ExpectedResponse {
    /// `None`: a running process decides, or the client's next message.
    pub let_in: Option<bool>,
    /// The HTTP status; 101 if a close frame follows. `None`: the upstream's own status.
    pub status: Option<u16>,
    pub code: Option<&'static str>,
    /// The label in metrics, logs and audit lines.
    pub label: Option<&'static str>,
    pub close_code: Option<u16>,
    pub close_reason: Option<String>,
    /// The message to the client.
    pub message: String,
    /// The reason in the log and the audit log.
    pub detail: Option<String>,
    /// The change that would help.
    pub advice: Option<String>,
    pub user: Option<String>,
    pub issuer: Option<String>,
    pub expires_at: Option<String>,
}

/// The request that the upstream would get.
#[derive(Debug, Serialize)]
pub struct Forwarded {
    pub name: String,
    pub servers: Vec<String>,
    /// The path of the request to the upstream.
    pub path: String,
    /// The names of the headers, without those of the connection.
    pub headers: Vec<String>,
    /// The client's headers that the upstream does not get.
    pub removed: Vec<String>,
    /// The claims of the signed context. `null` on a public route.
    pub context: Option<Value>,
}

impl Step {
    pub fn new(name: &'static str, result: Mark, detail: impl Into<String>) -> Self {
        Self { name, result, detail: detail.into(), is_quiet: false }
    }
}

/// An explanation that is being built.
pub(super) struct ExplanationBuilder<'a> {
    pub(super) explanation: Explanation,
    /// The first rejection, which the client would get.
    pub(super) rejection: Option<Rejection>,
    pub(super) explained: &'a ExplainedRequest,
    pub(super) now: Now,
    /// The client got a 101 before the rejection, so the rejection is sent in a close frame.
    pub(super) is_early: bool,
    /// The rejected request is an upgrade on a route, so `reject_mode` of the route applies.
    pub(super) is_routed: bool,
}

impl<'a> ExplanationBuilder<'a> {
    pub(super) fn new(explained: &'a ExplainedRequest, now: Now) -> Self {
        let explanation = Explanation { at: clock(now.wall), ..Explanation::default() };
        Self { explanation, rejection: None, explained, now, is_early: false, is_routed: false }
    }

    pub(super) fn note(&mut self, name: &'static str, detail: impl Into<String>) {
        self.explanation.steps.push(Step::new(name, Mark::Note, detail));
    }

    /// Adds a step that the request passes or fails.
    pub(super) fn station(
        &mut self,
        name: &'static str,
        outcome: Result<(), Rejection>,
        detail: impl Into<String>,
    ) {
        let detail = detail.into();
        match outcome {
            Ok(()) => self.explanation.steps.push(Step::new(name, Mark::Ok, detail)),
            Err(rejection) => {
                let why = rejection.detail();
                let detail = if detail.is_empty() { why } else { format!("{detail}; {why}") };
                self.explanation.steps.push(Step::new(name, Mark::Fail, detail));
                self.refuse(Some(rejection));
            }
        }
    }

    /// Keeps the rejection if it is the first.
    pub(super) fn refuse(&mut self, rejection: Option<Rejection>) {
        if self.rejection.is_none() && rejection.is_some() {
            self.is_routed &= self.explanation.route.is_some();
            self.rejection = rejection;
        }
    }

    /// Warns of secrets in the arguments: they are in the shell history and in the process list.
    pub(super) fn warn_of_secrets(&mut self, route: &Route, parts: &Parts) {
        if self.explained.given.on_command_line.is_none() {
            return;
        }
        self.warn_of_secret_headers(&[
            "authorization",
            "cookie",
            "sec-websocket-protocol",
            route.bypass_header.as_str(),
        ]);
        let given =
            self.explained.given.credential.as_ref().and_then(|_| self.explained.method_for(route));
        for (method, parameter) in
            [(Method::Ticket, &route.ticket_parameter), (Method::Query, &route.token_parameter)]
        {
            let query = parts.uri.query().unwrap_or_default();
            let is_there = query.split('&').any(|pair| {
                pair.split('=').next().and_then(auth::decoded).as_deref() == Some(parameter)
            });
            if is_there && given != Some(method) {
                self.explanation.warnings.push(format!(
                    "other users can read ?{parameter}= in the process list; use --token-file \
                         or --ticket-file"
                ));
            }
        }
    }

    pub(super) fn warn_of_secret_headers(&mut self, secrets: &[&str]) {
        let given = self.explained.given.on_command_line.iter().flatten();
        for name in given.filter(|name| secrets.contains(&name.as_str())) {
            self.explanation.warnings.push(format!(
                "other users can read --header {name} in the process list; use --headers-file, \
                     --token-file or --cookie-file"
            ));
        }
    }

    /// Ends with a 101, because the first message decides.
    pub(super) fn waits(mut self) -> Explanation {
        self.explanation.verdict.status = Some(101);
        let message = match self.explained.given.on_command_line {
            Some(_) => {
                "the first message decides; give its credential with --token-file or --ticket-file"
            }
            None => "the first message decides; give its token or ticket",
        };
        self.explanation.verdict.message = message.to_owned();
        self.explanation
    }

    /// Ends at an endpoint of Usher.
    pub(super) fn own_endpoint(mut self) -> Explanation {
        self.note("request", "plain HTTP, answered by Usher itself");
        self.explanation.verdict.message =
            "Usher answers this path itself; of its own endpoints, only the request for a ticket \
             is explained"
                .to_owned();
        self.explanation
    }

    pub(super) fn let_in(mut self, grant: &Grant, is_upgrade: bool) -> Explanation {
        let verdict = &mut self.explanation.verdict;
        verdict.let_in = Some(true);
        verdict.status = is_upgrade.then_some(101);
        let principal = grant.principal();
        verdict.user = principal.map(|principal| principal.subject.clone());
        verdict.issuer = principal.map(|principal| principal.issuer.to_string());
        verdict.expires_at = grant.expires_at().map(clock);
        let user = principal.map_or_else(
            || "without a user".to_owned(),
            |principal| format!("as {}", printable(&principal.subject)),
        );
        let ends = match grant.expires_at() {
            Some(at) if is_upgrade => {
                let then = if grant.is_renewed_by_message() {
                    "; asked for a new credential before that"
                } else {
                    ""
                };
                format!(", until {} ({}){then}", clock(at), distance(at, self.now.wall))
            }
            _ => String::new(),
        };
        verdict.message = format!("{user}{ends}");
        self.explanation
    }

    /// Ends with a ticket for this user.
    pub(super) fn ticket_for(mut self, principal: &Principal) -> Explanation {
        self.explanation.verdict = ExpectedResponse {
            let_in: Some(true),
            status: Some(201),
            user: Some(principal.subject.clone()),
            issuer: Some(principal.issuer.to_string()),
            expires_at: Some(clock(principal.expires_at)),
            message: format!("a ticket for {}", printable(&principal.subject)),
            ..ExpectedResponse::default()
        };
        self.explanation
    }

    pub(super) fn end(self, route: Option<&Route>) -> Explanation {
        self.end_with(route, None, None)
    }

    pub(super) fn end_with(
        mut self,
        route: Option<&Route>,
        token: Option<&InspectedToken>,
        origin: Option<&str>,
    ) -> Explanation {
        let Some(rejection) = self.rejection.take() else {
            if self.explanation.verdict.let_in.is_none() {
                self.explanation.verdict.message = "undecided".to_owned();
            }
            return self.explanation;
        };
        let facts = rejection.facts();
        let is_close = self.is_early
            || self.is_routed && route.is_some_and(|route| route.reject_mode == RejectMode::Close);
        let close = route.filter(|_| is_close).map(|route| rejection.close(route.close_codes));
        let about = AdviceContext { route, token, origin, now: self.now.wall };
        self.explanation.verdict = ExpectedResponse {
            let_in: Some(false),
            status: Some(if close.is_some() { 101 } else { facts.status.as_u16() }),
            code: Some(facts.code),
            label: Some(facts.label),
            close_code: close.as_ref().map(|(code, _)| code.0),
            close_reason: close.map(|(_, reason)| reason),
            message: rejection.message(),
            detail: Some(rejection.detail()),
            advice: Some(advice(&rejection, about)),
            ..ExpectedResponse::default()
        };
        self.explanation
    }
}
