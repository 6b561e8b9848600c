//! Explains one request: runs the admission of served requests with a witness, and describes the
//! record.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::inspector::{InspectedCredential, Undecided};
use super::listener::asks_for_certificates;
use super::recorder::AdmissionRecorder;
use super::report::{Explanation, ExplanationBuilder, Forwarded};
use super::request::ExplainedRequest;
use crate::auth::Authenticator;
use crate::auth::credential::Credential;
use crate::auth::grant::Grant;
use crate::auth::revocation::Revocations;
use crate::auth::ticket::Tickets;
use crate::auth::token_inspection;
use crate::auth::verifier::Verifiers;
use crate::base::clock::Now;
use crate::base::text::printable;
use crate::config::RouteMatch;
use crate::config::{Config, Listener};
use crate::edge::router::Router;
use crate::edge::{Edge, EdgeError};
use crate::http::admit::{Admission, Admitted};
use crate::http::endpoints::OwnEndpoint;
use crate::http::forwarding::Forwarding;
use crate::http::request::{Request, RequestKind};
use crate::http::witness::AdmissionStage;
use crate::model::client_certificate::ClientCertificate;
use crate::model::method::Method;
use crate::net::http1::head::{RequestHead, asks_for_websocket};
use crate::net::http1::hop_by_hop;
use crate::rejection::Rejection;
use crate::upstream::reserved_names::ReservedNames;
use crate::upstream::signed_context::{self, ContextRequest, identity_headers};

/// The parts of a server that an explanation needs.
pub struct Explainer {
    pub(super) config: Arc<Config>,
    pub(super) router: Router,
    reserved: ReservedNames,
    pub(super) tickets: Arc<Tickets>,
    pub(super) authenticator: Arc<Authenticator>,
    /// Whether upgrades are refused because the process drains.
    pub(crate) is_draining: bool,
}

/// A request, admitted or refused, and the record of its checks.
pub(super) struct Run {
    pub(super) request: Request,
    pub(super) recorder: AdmissionRecorder,
    pub(super) grant: Option<Grant>,
    /// The method of the credential in the request.
    pub(super) found_method: Option<Method>,
    /// The client gets its 101 before it sends the credential.
    pub(super) is_early: bool,
    /// The first message decides, and is not given.
    pub(super) awaits_message: bool,
}

impl Explainer {
    pub fn new(config: Config) -> Result<Self, EdgeError> {
        let config = Arc::new(config);
        let issuers = Arc::new(token_inspection::issuers(&config, &config.state_dir)?);
        let tickets = Arc::new(Tickets::new(&config)?);
        let verifiers = Arc::new(Verifiers::open(&config, None)?);
        let authenticator = Authenticator::new(
            issuers,
            Arc::clone(&tickets),
            Arc::new(Revocations::new(1)),
            config.mtls.clone(),
        );
        let authenticator = authenticator.with_bypass(&config.bypass).with_verifiers(verifiers);
        Ok(Self {
            router: Router::new(&config.routes),
            reserved: ReservedNames::of(&config),
            tickets,
            authenticator: Arc::new(authenticator),
            is_draining: false,
            config,
        })
    }

    /// Returns an explainer that judges like the running process: by its configuration, its keys,
    /// its tickets, its deny list and its drain.
    pub fn of(edge: &Edge) -> Self {
        let config = Arc::clone(&edge.config);
        Self {
            router: Router::new(&config.routes),
            reserved: ReservedNames::of(&config),
            tickets: Arc::clone(&edge.tickets),
            authenticator: Arc::clone(&edge.authenticator),
            is_draining: edge.drain.refuses_upgrades(),
            config,
        }
    }

    pub async fn explain(&self, explained: &ExplainedRequest, now: Now) -> Explanation {
        let mut report = ExplanationBuilder::new(explained, now);
        let Some((listener, head)) = self.begin(&mut report) else { return report.end(None) };
        if !self.shakes_hands(&mut report, &listener) {
            return report.explanation;
        }
        report.explanation.url = format!(
            "{}://{}{}",
            explained.scheme.name,
            printable(&explained.authority),
            printable(self.tickets.shown_path(head.parts.uri.path()))
        );
        let found = self.router.find(head.host_name(), head.parts.uri.path());
        let matched = found.ok().flatten();
        let placed = match &matched {
            Some(matched) => explained.head_for(&matched.route, &self.config.limits),
            None => Ok((head, None)),
        };
        let (head, message) = match placed {
            Ok(placed) => placed,
            Err(rejection) => {
                report.station("request", Err(rejection), "");
                return report.end(None);
            }
        };
        let request = request_of(head, explained, &listener, now, &self.config);
        if !request.is_upgrade() {
            let http::request::Parts { method, uri, .. } = &request.parts;
            match OwnEndpoint::at(uri.path(), method, &self.config, &self.tickets) {
                None => {
                    let words = format!("{method} over plain HTTP, forwarded if it is accepted");
                    report.note("request", words);
                }
                Some(OwnEndpoint::Tickets)
                    if *method == http::Method::POST && *uri.path() == **self.tickets.path() =>
                {
                    return Box::pin(self.explain_ticket_request(report, &listener)).await;
                }
                Some(_) => return report.own_endpoint(),
            }
        }
        let sent = request.parts.headers.clone();
        if let Some(matched) = &matched {
            report.warn_of_secrets(&matched.route, &request.parts);
        }
        report.is_routed = request.is_upgrade();
        let run = Box::pin(self.run(request, message, explained)).await;
        let Some(matched) = self.describe(&mut report, &run, matched) else {
            return report.end(None);
        };
        Box::pin(self.conclude(report, run, &matched, &sent)).await
    }

    /// Admits the request like a served one, with a witness.
    async fn run(
        &self,
        mut request: Request,
        message: Option<Credential>,
        explained: &ExplainedRequest,
    ) -> Run {
        let mut recorder = AdmissionRecorder::new(explained.given.scope);
        let admission = self.admission();
        let mut is_early = false;
        let mut awaits_message = false;
        let mut grant = None;
        let admitted = Box::pin(admission.admit(&mut request, &mut recorder)).await;
        let found_method = request.method;
        match admitted {
            Ok(Admitted::Granted { grant: good, .. }) => grant = Some(good),
            Ok(Admitted::AwaitsFirstMessage(matched)) => {
                is_early = true;
                awaits_message = message.is_none();
                if message.is_some() {
                    if !recorder.has_failure() {
                        request.method = Some(Method::Message);
                    }
                    let joined =
                        admission.authenticate(&mut request, &matched, message, &mut recorder);
                    grant = Box::pin(joined).await.ok();
                }
            }
            Err(_) => {}
        }
        Run { request, recorder, grant, found_method, is_early, awaits_message }
    }

    pub(super) fn admission(&self) -> Admission<'_> {
        Admission {
            router: &self.router,
            authenticator: &self.authenticator,
            legacy_uses: None,
            shadows: None,
            handshake_timeout: self.config.limits.handshake_timeout,
            is_draining: self.is_draining,
        }
    }

    /// Describes the steps up to the credential.
    fn describe(
        &self,
        report: &mut ExplanationBuilder<'_>,
        run: &Run,
        matched: Option<RouteMatch>,
    ) -> Option<RouteMatch> {
        let Run { request, recorder, .. } = run;
        if let Some(outcome) = recorder.outcome(AdmissionStage::Upgrade) {
            let detail = if outcome.is_ok() { "well formed" } else { "" };
            report.station("upgrade", outcome, detail);
        }
        let outcome = recorder.outcome(AdmissionStage::Route).unwrap_or(Err(Rejection::NoRoute));
        let matched = matched.filter(|_| outcome.is_ok());
        self.route(report, request, outcome, matched.as_ref());
        let matched = matched?;
        if let Some(outcome) = recorder.outcome(AdmissionStage::Drain) {
            report.station("drain", outcome, "");
        }
        let address = request.address();
        let peer = report.explained.given.peer;
        if address != peer {
            report.note("client", format!("{address}, named by the trusted peer {peer}"));
        }
        report.origin(run, &matched.route);
        report.credential(run, &matched.route);
        Some(matched)
    }

    /// Describes the steps after the credential, and adds the verdict.
    async fn conclude(
        &self,
        mut report: ExplanationBuilder<'_>,
        mut run: Run,
        matched: &RouteMatch,
        sent: &http::HeaderMap,
    ) -> Explanation {
        let route = &matched.route;
        if run.awaits_message && report.rejection.is_none() {
            return report.waits();
        }
        report.explanation.method = run.request.method.map(Method::name);
        self.judge(&mut report, &run, matched);
        let explained = report.explained;
        let is_offline =
            explained.given.on_command_line.is_some() && !explained.given.scope.fetches_keys;
        if is_offline && report.rejection == Some(Rejection::IssuerKeysUnavailable) {
            report.explanation.warnings.push(
                "--offline: no keys were fetched, and state_dir has no keys of this issuer"
                    .to_owned(),
            );
        }
        if !run.awaits_message {
            self.shadows(&mut report, &mut run.request, matched).await;
            self.migration(&mut report, &run, route);
        }
        let inspection = run.recorder.inspection();
        if let Some(undecided) = inspection.and_then(|inspection| inspection.undecided)
            && report.rejection.is_none()
        {
            report.explanation.verdict.message = words(undecided).to_owned();
            return report.explanation;
        }
        let Some(grant) = run.grant.as_ref().filter(|_| report.rejection.is_none()) else {
            let token = inspection.and_then(|inspection| match &inspection.credential {
                InspectedCredential::Token(token) => Some(&**token),
                _ => None,
            });
            let mut refused = report.end_with(Some(route), token, run.request.origin.as_deref());
            if !run.recorder.has_failure_up_to(AdmissionStage::Authenticate) {
                refused.verdict.user = run.request.user.as_deref().map(str::to_owned);
            }
            return refused;
        };
        match self.forwarded(grant, matched, &mut run.request, sent, &report) {
            Ok(forwarded) => report.explanation.upstream = Some(forwarded),
            Err(rejection) => {
                report.station("upstream", Err(rejection), "");
                return report.end(Some(route));
            }
        }
        report.let_in(grant, run.request.is_upgrade())
    }

    /// Returns the request that the upstream would get.
    fn forwarded(
        &self,
        grant: &Grant,
        matched: &RouteMatch,
        request: &mut Request,
        sent: &http::HeaderMap,
        report: &ExplanationBuilder<'_>,
    ) -> Result<Forwarded, Rejection> {
        let target = request.prepare_for_upstream(matched, &self.reserved)?;
        let passed = &request.parts.headers;
        // Headers of the connection are not passed on, but written again.
        let mut sent = sent.clone();
        hop_by_hop::strip_hop_by_hop(&mut sent);
        let removed = sent
            .keys()
            .filter(|name| !passed.contains_key(*name))
            .map(|name| printable(name.as_str()))
            .collect();
        let mut names: Vec<String> = passed.keys().map(|name| printable(name.as_str())).collect();
        let upstream = &grant.route().upstream;
        let about = ContextRequest {
            session_id: "made for each session",
            upstream: &upstream.name,
            client: request.address(),
            host: request.host(),
            path: request.parts.uri.path(),
        };
        let mut context = signed_context::claims(
            &self.config.context,
            grant,
            about,
            "made for each request",
            report.now,
        );
        if context.is_some() {
            names.push(self.config.context.header.to_string());
        }
        names.extend(
            identity_headers(grant.route(), grant).into_iter().map(|(name, _)| name.to_string()),
        );
        names.sort_unstable();
        names.dedup();
        // These claims come from the token, and may be personal.
        if let Some(Value::Object(claims)) = context
            .as_mut()
            .and_then(|context| context.get_mut("claims"))
            .filter(|_| !report.explained.given.claims)
        {
            claims.values_mut().for_each(|value| *value = json!("not shown"));
        }
        Ok(Forwarded {
            name: upstream.name.to_string(),
            servers: upstream.servers.iter().map(ToString::to_string).collect(),
            path: printable(target.path()),
            headers: names,
            removed,
            context,
        })
    }
}

pub(super) fn words(undecided: Undecided) -> &'static str {
    match undecided {
        Undecided::TicketInMemory => "the running process decides: the tickets are in its memory",
        Undecided::VerifierNotAsked => "the verifier decides, and was not asked",
    }
}

pub(super) fn request_of(
    head: RequestHead,
    explained: &ExplainedRequest,
    listener: &Listener,
    now: Now,
    config: &Config,
) -> Request {
    let RequestHead { mut parts, host, .. } = head;
    let peer: IpAddr = explained.given.peer;
    let leaf = explained.given.certificate.first();
    if let Some(leaf) = leaf.filter(|_| asks_for_certificates(listener) && !listener.trusts(peer)) {
        parts.extensions.insert(ClientCertificate::new(leaf.clone()));
    }
    let forwarding =
        Forwarding::of(&parts.headers, host.as_ref(), peer, listener.tls.is_some(), listener);
    let kind = if asks_for_websocket(&parts.headers) {
        RequestKind::Upgrade
    } else {
        RequestKind::PlainHttp
    };
    Request::new(kind, parts, host, forwarding, now, &config.limits)
}
