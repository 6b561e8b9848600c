//! What each event leaves behind: its log line, its metrics and its audit line, side by side in one match.
//!
//! Refusals that are the client's doing are `info`, those that are ours, the store's or the upstream's are `warn`.

use std::net::IpAddr;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::INSTALLED;
use super::audit::{Audit, AuditLine, TrafficLine};
use super::event::{Attempt, Event, ReauthOutcome, SessionFacts};
use super::metric::{ACCEPTED, FROM_CLIENT, FROM_UPSTREAM, Metrics, status_class, ticket_fault_label};
use crate::auth::credential::Method;
use crate::auth::renewal::NotRenewed;
use crate::auth::revocation::{Revocation, What};
use crate::breaker::BreakerState;
use crate::clock::{Now, UnixMillis};
use crate::rejection::{Rejection, Side};
use crate::reload::Applied;
use crate::session::close::{SessionEnd, Traffic};
use crate::session::revalidation::Heard;

/// Where metrics and audit lines go; nowhere before telemetry is installed.
#[derive(Clone, Copy)]
struct Outlet<'a> {
    metrics: Option<&'a Metrics>,
    audit: Option<&'a Audit>,
}

impl Event<'_> {
    pub fn emit(self) {
        let installed = INSTALLED.get();
        let metrics = installed.map(|installed| installed.metrics.load());
        self.emit_to(Outlet {
            metrics: metrics.as_deref().map(|metrics| &**metrics),
            audit: installed.and_then(|installed| installed.audit.as_deref()),
        });
    }

    fn emit_to(self, outlet: Outlet<'_>) {
        match self {
            Event::Ready { listeners, admin, config } => {
                let admin_text = admin.map(|address| address.to_string());
                let config = config.map(|path| path.display().to_string());
                info!(target: "usher", event = "ready", ?listeners, admin = admin_text, config, "ready");
                outlet.count(|metrics| {
                    metrics.ready.set(1.0);
                    metrics.config_current.set(1.0);
                    metrics.config_loaded.set(Now::read().wall.0 as f64 / 1000.0);
                });
                let detail = Some(format!("version {}", env!("CARGO_PKG_VERSION")));
                outlet.audit(|| AuditLine { event: "ready", outcome: ACCEPTED, detail, ..AuditLine::default() });
            }
            Event::BypassAllowed { routes } => {
                warn!(target: "usher", event = "bypass_allowed", ?routes, "test identities count here: whoever knows the secret is anybody");
                outlet.count(|metrics| metrics.bypass_allowed.set(1.0));
                let detail = Some(routes.join(", "));
                outlet.audit(|| AuditLine { event: "bypass_allowed", outcome: ACCEPTED, detail, ..AuditLine::default() });
            }
            Event::BypassUsed { request_id, peer, route, user } => {
                let outcome = if user.is_some() { ACCEPTED } else { "refused" };
                warn!(target: "usher", event = "bypass_used", request_id, %peer, route, user, outcome, "a test identity was shown");
                outlet.count(|metrics| add(metrics.bypass_used.with([route, outcome]), 1));
                let line = ticket_line("bypass_used", outcome, request_id, peer);
                outlet.audit(|| AuditLine { method: Some(Method::Bypass.name()), user, route: Some(route), ..line });
            }
            Event::DrainStarted { sessions, window } => {
                info!(target: "usher", event = "drain_started", sessions, window_ms = millis(window), "drain started");
                outlet.count(|metrics| metrics.ready.set(0.0));
                let detail = Some(format!("{sessions} sessions"));
                outlet.audit(|| AuditLine { event: "drain_started", outcome: ACCEPTED, detail, ..AuditLine::default() });
            }
            Event::DrainFinished { remaining } => {
                info!(target: "usher", event = "drain_finished", remaining, "drain finished");
                let detail = Some(format!("{remaining} sessions remain"));
                outlet.audit(|| AuditLine { event: "drain_finished", outcome: ACCEPTED, detail, ..AuditLine::default() });
            }
            Event::ConnectionOpened => outlet.count(|metrics| {
                metrics.connections.increment(1);
                metrics.connections_open.increment(1.0);
            }),
            Event::ConnectionClosed => outlet.count(|metrics| metrics.connections_open.decrement(1.0)),
            Event::UnauthenticatedEntered => outlet.count(|metrics| metrics.unauthenticated.increment(1.0)),
            Event::UnauthenticatedLeft => outlet.count(|metrics| metrics.unauthenticated.decrement(1.0)),
            Event::LimitReached { limit, peer } => {
                info!(target: "usher", event = "limit_reached", limit, peer = text_of(peer), "limit reached");
                outlet.count(|metrics| metrics.limits_hit.with(limit).increment(1));
            }
            Event::AcceptFailed { error } => {
                warn!(target: "usher", event = "accept_failed", error = %error, "a connection could not be accepted");
                outlet.count(|metrics| metrics.accept_failures.increment(1));
            }
            Event::ConnectionPanicked => {
                error!(target: "usher", event = "connection_panicked", "a fault of ours ended a connection");
                outlet.count(|metrics| metrics.connection_panics.increment(1));
            }
            Event::TlsFailed { peer, reason, detail } => {
                info!(target: "usher", event = "tls_failed", %peer, reason, detail, "TLS handshake failed");
                outlet.count(|metrics| metrics.tls_handshakes.with(reason).increment(1));
            }
            Event::TlsEstablished { resumed, duration } => {
                debug!(target: "usher", event = "tls_established", resumed, duration_ms = millis(duration), "TLS established");
                outlet.count(|metrics| {
                    metrics.tls_handshakes.with(if resumed { "resumed" } else { "full" }).increment(1);
                    metrics.tls_duration.record(duration);
                });
            }
            Event::UpgradeRejected { about, rejection } => {
                log_rejection("upgrade_rejected", &about, rejection);
                let label = rejection.facts().label;
                outlet.count(|metrics| add(metrics.upgrades.with([about.route, method_label(about.method), label]), 1));
                outlet.audit(|| rejection_line("upgrade_rejected", &about, rejection));
            }
            Event::RequestRejected { about, rejection } => {
                log_rejection("request_rejected", &about, rejection);
                let facts = rejection.facts();
                outlet.count(|metrics| {
                    add(metrics.http_rejections.with([about.route, facts.label]), 1);
                    add(metrics.http_requests.with([about.route, status_class(facts.status.as_u16())]), 1);
                });
                outlet.audit(|| rejection_line("request_rejected", &about, rejection));
            }
            Event::HttpForwarded { about, user, status, duration } => {
                let Attempt { request_id, peer, host, path, route, method } = about;
                let (method, duration_ms) = (method.map(Method::name), millis(duration));
                info!(target: "usher", event = "http_forwarded", request_id, %peer, host, path, route, method, user, status, duration_ms, "forwarded");
                outlet.count(|metrics| {
                    add(metrics.http_requests.with([route, status_class(status)]), 1);
                    if let Some(histogram) = metrics.http_duration.with([route]) {
                        histogram.record(duration);
                    }
                });
            }
            Event::SessionStarted { session, principal, request_id, server, handshake } => {
                let SessionFacts { session_id, user, route, upstream, peer, .. } = session;
                info!(
                    target: "usher", event = "session_started", request_id, session_id, user, method = session.method.map(Method::name), route,
                    upstream, server, %peer, duration_ms = millis(handshake.total), "session started"
                );
                outlet.count(|metrics| {
                    add(metrics.upgrades.with([route, method_label(session.method), ACCEPTED]), 1);
                    if let Some(active) = metrics.sessions_active.with([route]) {
                        active.increment(1.0);
                    }
                    if let Some(histogram) = metrics.upgrade_duration.with([route]) {
                        histogram.record(handshake.total);
                    }
                    let phases = [("authenticate", handshake.authenticate), ("dial", handshake.dial), ("answer", handshake.answer)];
                    for (phase, duration) in phases {
                        if let Some(histogram) = metrics.phase_duration.with([phase]) {
                            histogram.record(duration);
                        }
                    }
                });
                let line = AuditLine {
                    event: "session_started",
                    outcome: ACCEPTED,
                    issuer: principal.map(|principal| &*principal.issuer),
                    token_id: principal.and_then(|principal| principal.token_id.as_deref()),
                    token_session: principal.and_then(|principal| principal.issuer_session.as_deref()),
                    token_issued_at: principal.map(|principal| principal.issued_at.to_rfc3339()),
                    ..session_line(&session)
                };
                outlet.audit(|| AuditLine { request_id: Some(request_id), detail: Some(format!("server {server}")), ..line });
            }
            Event::FirstMessage { route, waited } => outlet.count(|metrics| {
                if let Some(histogram) = metrics.first_message_wait.with([route]) {
                    histogram.record(waited);
                }
            }),
            Event::Reauth { session, outcome } => reauth(outlet, &session, outcome),
            Event::SessionEnded { session, end } => session_ended(outlet, &session, end),
            Event::TicketIssued { request_id, ticket, user, issuer, peer, route, ttl } => {
                info!(target: "usher", event = "ticket_issued", request_id, user, issuer, %peer, route, ttl_ms = millis(ttl), "ticket issued");
                outlet.count(|metrics| add(metrics.tickets_issued.with([route]), 1));
                let line = AuditLine { ticket: Some(ticket), ..ticket_line("ticket_issued", ACCEPTED, request_id, peer) };
                let detail = Some(format!("good for {} s", ttl.as_secs()));
                outlet.audit(|| AuditLine { user: Some(user), issuer: Some(issuer), route: Some(route), detail, ..line });
            }
            Event::TicketRefused { about, rejection } => {
                log_rejection("ticket_refused", &about, rejection);
                outlet.count(|metrics| add(metrics.tickets_refused.with([rejection.facts().label]), 1));
                outlet.audit(|| rejection_line("ticket_refused", &about, rejection));
            }
            Event::TicketRedeemed { request_id, ticket, user, peer, route, region } => {
                info!(target: "usher", event = "ticket_redeemed", request_id, user, %peer, route, region, "ticket redeemed");
                outlet.count(|metrics| add(metrics.tickets_redeemed.with([route]), 1));
                let line = AuditLine { ticket: Some(ticket), ..ticket_line("ticket_redeemed", ACCEPTED, request_id, peer) };
                let detail = region.map(|region| format!("region {region}"));
                outlet.audit(|| AuditLine { user: Some(user), route: Some(route), detail, ..line });
            }
            Event::TicketRedeemRefused { request_id, ticket, peer, route, fault } => {
                let label = ticket_fault_label(fault);
                info!(target: "usher", event = "ticket_redeem_refused", request_id, %peer, route, fault = label, "ticket not redeemed");
                outlet.count(|metrics| add(metrics.tickets_redeem_refused.with([route, label]), 1));
                let line = AuditLine { ticket, ..ticket_line("ticket_redeem_refused", label, request_id, peer) };
                outlet.audit(|| AuditLine { route: Some(route), detail: Some(fault.to_string()), ..line });
            }
            Event::TicketLost { request_id, user } => {
                info!(target: "usher", event = "ticket_lost", request_id, user, "the client left while its ticket was redeemed");
                outlet.count(|metrics| metrics.tickets_lost.increment(1));
                let line = AuditLine { event: "ticket_lost", outcome: "client_gone", ..AuditLine::default() };
                outlet.audit(|| AuditLine { request_id: Some(request_id), user: Some(user), ..line });
            }
            Event::TicketsExpired { count } => {
                debug!(target: "usher", event = "tickets_expired", count, "tickets expired");
                outlet.count(|metrics| metrics.tickets_expired.increment(count));
                let detail = Some(format!("{count} tickets"));
                outlet.audit(|| AuditLine { event: "tickets_expired", outcome: "expired", detail, ..AuditLine::default() });
            }
            Event::TicketsHeld { count } => outlet.count(|metrics| metrics.tickets_held.set(count as f64)),
            Event::StoreOperation { region, operation, outcome, duration } => {
                let (duration_ms, of) = (duration.map(millis), said(region));
                match outcome {
                    "ok" | "breaker_open" => {
                        debug!(target: "usher", event = "store_operation", region = of, operation, outcome, duration_ms, "store operation");
                    }
                    _ => warn!(target: "usher", event = "store_failed", region = of, operation, outcome, duration_ms, "the store failed"),
                }
                outlet.count(|metrics| {
                    add(metrics.store_operations.with([operation, outcome, region]), 1);
                    if let (Some(histogram), Some(duration)) = (metrics.store_duration.with([operation, region]), duration) {
                        histogram.record(duration);
                    }
                });
            }
            Event::StoreDialled { region, lane, outcome } => {
                let of = said(region);
                match outcome {
                    "ok" => info!(target: "usher", event = "store_connected", region = of, lane, "connected to the store"),
                    _ => warn!(target: "usher", event = "store_unreachable", region = of, lane, outcome, "the store could not be reached"),
                }
                outlet.count(|metrics| add(metrics.store_connections.with([lane, outcome, region]), 1));
            }
            Event::StoreBreaker { region, lane, state } => {
                let of = said(region);
                match state {
                    BreakerState::Open => {
                        warn!(target: "usher", event = "store_breaker", region = of, lane, state = state.name(), "the store is not asked for now");
                    }
                    _ => info!(target: "usher", event = "store_breaker", region = of, lane, state = state.name(), "store breaker"),
                }
                outlet.count(|metrics| {
                    if let Some(gauge) = metrics.store_breaker.with([lane, region]) {
                        gauge.set(f64::from(state.number()));
                    }
                });
            }
            Event::VerifierAsked { verifier, outcome, duration } => {
                let duration_ms = duration.map(millis);
                match (outcome, duration) {
                    ("good" | "bad", _) | (_, None) => {
                        debug!(target: "usher", event = "verifier_asked", verifier, outcome, duration_ms, "verifier asked");
                    }
                    _ => warn!(target: "usher", event = "verifier_failed", verifier, outcome, duration_ms, "the verifier gives no answer"),
                }
                outcome_of_question(outlet, verifier, outcome, duration);
            }
            Event::VerifierRemembers { verifier, outcome } => {
                outlet.count(|metrics| add(metrics.verifier_cache.with([verifier, outcome]), 1));
            }
            Event::VerifierInFlight { verifier, change } => outlet.count(|metrics| {
                if let Some(gauge) = metrics.verifier_in_flight.with([verifier]) {
                    gauge.increment(change);
                }
            }),
            Event::VerifierBreaker { verifier, state, fault } => {
                match state {
                    BreakerState::Open => {
                        let state = state.name();
                        warn!(target: "usher", event = "verifier_breaker", verifier, state, fault, "the verifier is not asked for now");
                    }
                    _ => info!(target: "usher", event = "verifier_breaker", verifier, state = state.name(), "verifier breaker"),
                }
                outlet.count(|metrics| {
                    if let Some(gauge) = metrics.verifier_breaker.with([verifier]) {
                        gauge.set(f64::from(state.number()));
                    }
                });
            }
            Event::Revalidated { session, verifier, heard } => revalidated(outlet, &session, verifier, heard),
            Event::Revoked { order, closed } => {
                let (kind, until) = (order.kind().name(), order.until.to_rfc3339());
                let (named, issuer) = (named(order), order.issuer.as_deref());
                info!(target: "usher", event = "revoked", id = order.id, kind, named, issuer, until, closed, "revoked");
                outlet.count(|metrics| {
                    add(metrics.revocations.with([kind]), 1);
                    metrics.revoked_sessions.increment(closed as u64);
                });
                let detail = format!("{} {kind} {named}; until {until}; {closed} sessions closed", order.id);
                outlet.audit(|| AuditLine { outcome: ACCEPTED, detail: Some(detail), ..revocation_line("revoked", order) });
            }
            Event::RevocationRefused { order } => {
                let (kind, named) = (order.kind().name(), named(order));
                warn!(target: "usher", event = "revocation_refused", id = order.id, kind, named, "no room for another revocation");
                outlet.count(|metrics| metrics.limits_hit.with("revocations").increment(1));
                let detail = format!("{} {kind} {named}", order.id);
                outlet.audit(|| AuditLine { outcome: "full", detail: Some(detail), ..revocation_line("revocation_refused", order) });
            }
            Event::RevocationsHeld { count } => outlet.count(|metrics| metrics.revocations_held.set(count as f64)),
            Event::FleetReading { fault } => {
                match fault {
                    None => info!(target: "usher", event = "fleet_reading", "hearing what other nodes revoke"),
                    Some(fault) => warn!(target: "usher", event = "fleet_deaf", fault, "not hearing what other nodes revoke"),
                }
                outlet.count(|metrics| metrics.fleet_reading.set(f64::from(u8::from(fault.is_none()))));
            }
            Event::FleetHeard { outcome, delay } => {
                if outcome == "unreadable" {
                    warn!(target: "usher", event = "fleet_unreadable", "an entry of the fleet's stream is no order that we can read");
                }
                outlet.count(|metrics| {
                    add(metrics.fleet_heard.with([outcome]), 1);
                    if let Some(delay) = delay {
                        metrics.fleet_delay.record(delay);
                    }
                });
            }
            Event::FleetGap => {
                warn!(target: "usher", event = "fleet_gap", "the fleet's stream has lost entries; reading it anew");
                outlet.count(|metrics| metrics.fleet_gaps.increment(1));
            }
            Event::FleetNodes { count } => outlet.count(|metrics| metrics.fleet_nodes.set(count as f64)),
            Event::FleetTold { count } => {
                info!(target: "usher", event = "fleet_told", count, "orders that the fleet's stream did not have were written to it");
                outlet.count(|metrics| metrics.fleet_told.increment(count as u64));
            }
            Event::Reloaded { cause, outcome: Ok(Applied { changed, restart, .. }) } => {
                let (changed, restart) = (changed.join(", "), restart.join(", "));
                info!(target: "usher", event = "config_applied", cause, changed, restart, "another configuration is in force");
                if !restart.is_empty() {
                    warn!(target: "usher", event = "config_needs_restart", restart, "these keys take effect at the next start");
                }
                outlet.count(|metrics| {
                    add(metrics.reloads.with(["applied"]), 1);
                    metrics.config_current.set(1.0);
                    metrics.config_loaded.set(Now::read().wall.0 as f64 / 1000.0);
                });
                let detail = Some(format!("by {cause}; changed: {changed}; needs a restart: {restart}"));
                outlet.audit(|| AuditLine { event: "config_applied", outcome: ACCEPTED, detail, ..AuditLine::default() });
            }
            Event::Reloaded { cause, outcome: Err(why) } => {
                error!(target: "usher", event = "config_refused", cause, why, "the configuration was refused, and nothing has changed");
                outlet.count(|metrics| {
                    add(metrics.reloads.with(["refused"]), 1);
                    metrics.config_current.set(0.0);
                });
                let detail = Some(format!("by {cause}"));
                outlet.audit(|| AuditLine { event: "config_refused", outcome: "refused", detail, ..AuditLine::default() });
            }
            Event::IssuerKeysFetched { issuer, keys, is_new, at } => {
                if is_new {
                    info!(target: "usher", event = "issuer_keys", issuer, keys, "an issuer has new keys");
                    let detail = Some(format!("{keys} keys"));
                    let line = AuditLine { event: "issuer_keys", outcome: ACCEPTED, issuer: Some(issuer), detail, ..AuditLine::default() };
                    outlet.audit(|| line);
                } else {
                    debug!(target: "usher", event = "issuer_keys_same", issuer, keys, "an issuer's keys are the same");
                }
                outlet.count(|metrics| add(metrics.issuer_fetches.with([issuer, "ok"]), 1));
                outlet.hold_keys(issuer, keys, at);
            }
            Event::IssuerKeysFailed { issuer, fault, detail, failures, has_keys } => {
                let then = if has_keys { "the last good ones are used" } else { "there are none, so its tokens are refused" };
                warn!(target: "usher", event = "issuer_keys_failed", issuer, fault, detail, failures, "an issuer's keys could not be fetched: {then}");
                outlet.count(|metrics| add(metrics.issuer_fetches.with([issuer, fault]), 1));
            }
            Event::IssuerKeysRestored { issuer, keys, at } => {
                let fetched = at.to_rfc3339();
                info!(target: "usher", event = "issuer_keys_restored", issuer, keys, fetched, "an issuer's last good keys were read from the state directory");
                let detail = Some(format!("{keys} keys, fetched at {fetched}"));
                let line =
                    AuditLine { event: "issuer_keys_restored", outcome: ACCEPTED, issuer: Some(issuer), detail, ..AuditLine::default() };
                outlet.audit(|| line);
                outlet.hold_keys(issuer, keys, at);
            }
            Event::IssuerKeysNotKept { issuer, error } => {
                warn!(target: "usher", event = "issuer_keys_not_kept", issuer, error = %error, "an issuer's keys could not be kept for the next start");
            }
            Event::LegacyUsed { route, method, user, deprecated, sunset } => {
                let day = |at: Option<UnixMillis>| at.map(UnixMillis::to_rfc3339);
                let (deprecated, sunset) = (day(deprecated), day(sunset));
                info!(target: "usher", event = "legacy_method", route, method = method.name(), user, deprecated, sunset, "a method that is to go was used");
                outlet.count(|metrics| add(metrics.legacy_upgrades.with([route, method.name()]), 1));
            }
            Event::RolledOut { route, standing } => outlet.count(|metrics| add(metrics.rollout_upgrades.with([route, standing.name()]), 1)),
            Event::Shadowed { route, method, verdict, mismatch } => {
                if let Some(mismatch) = mismatch {
                    let (method, mismatch) = (method.name(), mismatch.name());
                    info!(target: "usher", event = "shadow_mismatch", route, method, verdict, mismatch, "the shadow disagrees");
                }
                outlet.count(|metrics| {
                    add(metrics.shadow_verdicts.with([route, method.name(), verdict]), 1);
                    if let Some(mismatch) = mismatch {
                        add(metrics.shadow_mismatches.with([route, method.name(), mismatch.name()]), 1);
                    }
                });
            }
            Event::DialFailed { upstream, server, error } => {
                warn!(target: "usher", event = "dial_failed", upstream, server, error, "an upstream server could not be reached");
                outlet.count(|metrics| add(metrics.dial_failures.with([upstream]), 1));
            }
            Event::KeyringLoaded { algorithm, current } => {
                info!(target: "usher", event = "keyring_loaded", algorithm, current, "signing keys loaded");
                let detail = Some(format!("{algorithm} {current}"));
                outlet.audit(|| AuditLine { event: "keyring_loaded", outcome: ACCEPTED, detail, ..AuditLine::default() });
            }
        }
    }
}

fn reauth(outlet: Outlet<'_>, session: &SessionFacts<'_>, outcome: ReauthOutcome<'_>) {
    let SessionFacts { request_id, session_id, user, route, peer, .. } = *session;
    let (event, label, detail) = match outcome {
        ReauthOutcome::Asked => ("reauth_asked", "asked", None),
        ReauthOutcome::Renewed { expires_at } => ("reauth_renewed", "renewed", expires_at.map(|at| format!("until {}", at.to_rfc3339()))),
        ReauthOutcome::Refused(NotRenewed::OtherSubject) => ("reauth_refused", "other_subject", None),
        ReauthOutcome::Refused(NotRenewed::NoLonger) => ("reauth_refused", "no_longer", None),
        ReauthOutcome::Refused(NotRenewed::Refused(rejection)) => ("reauth_refused", "refused", Some(rejection.detail())),
    };
    info!(target: "usher", event, request_id, session_id, user, route, %peer, outcome = label, detail, "re-authentication");
    outlet.count(|metrics| add(metrics.reauth.with([route, label]), 1));
    outlet.audit(|| AuditLine { event, outcome: label, detail, ..session_line(session) });
}

fn outcome_of_question(outlet: Outlet<'_>, verifier: &str, outcome: &'static str, duration: Option<Duration>) {
    outlet.count(|metrics| {
        add(metrics.verifier_questions.with([verifier, outcome]), 1);
        if let (Some(histogram), Some(duration)) = (metrics.verifier_duration.with([verifier]), duration) {
            histogram.record(duration);
        }
    });
}

/// That all is well is no news: there is a line of the audit log only where the session may end.
fn revalidated(outlet: Outlet<'_>, session: &SessionFacts<'_>, verifier: &str, heard: &Heard) {
    let SessionFacts { request_id, session_id, user, route, peer, .. } = *session;
    let outcome = match heard {
        Heard::Good { .. } => "good",
        Heard::Revoked => "revoked",
        Heard::Away { too_long: false } => "away",
        Heard::Away { too_long: true } => "away_too_long",
    };
    let event = "revalidated";
    match heard {
        Heard::Good { .. } => debug!(target: "usher", event, request_id, session_id, user, route, %peer, verifier, outcome, "asked again"),
        _ => info!(target: "usher", event, request_id, session_id, user, route, %peer, verifier, outcome, "asked again"),
    }
    outlet.count(|metrics| add(metrics.revalidations.with([verifier, outcome]), 1));
    if !matches!(heard, Heard::Good { .. }) {
        outlet.audit(|| AuditLine { event, outcome, issuer: Some(verifier), ..session_line(session) });
    }
}

fn session_ended(outlet: Outlet<'_>, session: &SessionFacts<'_>, end: &SessionEnd) {
    let SessionFacts { request_id, session_id, user, route, upstream, peer, .. } = *session;
    let (method, reason, duration_ms) = (session.method.map(Method::name), end.reason.facts().label, millis(end.duration));
    let close_code = end.code.map(|code| code.0);
    info!(
        target: "usher", event = "session_ended", request_id, session_id, user, method, route, upstream, %peer, reason, close_code, duration_ms,
        client_bytes = end.from_client.bytes, client_messages = end.from_client.messages,
        upstream_bytes = end.from_upstream.bytes, upstream_messages = end.from_upstream.messages, "session ended"
    );
    outlet.count(|metrics| {
        if let Some(active) = metrics.sessions_active.with([route]) {
            active.decrement(1.0);
        }
        if let Some(histogram) = metrics.session_duration.with([route]) {
            histogram.record(end.duration);
        }
        add(metrics.session_closes.with([end.code.map_or("", |code| code.label()), reason]), 1);
        for (direction, traffic) in [(FROM_CLIENT, end.from_client), (FROM_UPSTREAM, end.from_upstream)] {
            add(metrics.relay_bytes.with([route, direction]), traffic.bytes);
            add(metrics.relay_messages.with([route, direction]), traffic.messages);
        }
    });
    let traffic = |Traffic { bytes, messages }| Some(TrafficLine { bytes, messages });
    outlet.audit(|| AuditLine {
        event: "session_ended",
        outcome: reason,
        close_code,
        duration_ms: Some(duration_ms),
        from_client: traffic(end.from_client),
        from_upstream: traffic(end.from_upstream),
        ..session_line(session)
    });
}

fn log_rejection(event: &'static str, about: &Attempt<'_>, rejection: &Rejection) {
    let Attempt { request_id, peer, host, path, route, method } = *about;
    let facts = rejection.facts();
    let (method, status, detail) = (method.map(Method::name), facts.status.as_u16(), rejection.detail());
    let (outcome, side) = (facts.label, facts.side.name());
    match facts.side {
        Side::Client => {
            info!(target: "usher", event, request_id, %peer, host, path, route, method, outcome, status, side, detail, "refused");
        }
        Side::Upstream | Side::Store | Side::Issuer | Side::Us => {
            warn!(target: "usher", event, request_id, %peer, host, path, route, method, outcome, status, side, detail, "refused");
        }
    }
}

fn rejection_line<'a>(event: &'static str, about: &Attempt<'a>, rejection: &Rejection) -> AuditLine<'a> {
    let facts = rejection.facts();
    AuditLine {
        method: about.method.map(Method::name),
        route: said(about.route),
        host: said(about.host),
        path: said(about.path),
        status: Some(facts.status.as_u16()),
        side: Some(facts.side.name()),
        detail: Some(rejection.detail()),
        ..ticket_line(event, facts.label, about.request_id, about.peer)
    }
}

/// The user, the session, the token's id or the time that an order names.
fn named(order: &Revocation) -> String {
    match &order.what {
        What::User(name) | What::Session(name) | What::TokenId(name) => name.clone(),
        What::IssuedBefore { before, user: None } => before.to_rfc3339(),
        What::IssuedBefore { before, user: Some(user) } => format!("{} of {user}", before.to_rfc3339()),
    }
}

fn revocation_line<'a>(event: &'static str, order: &'a Revocation) -> AuditLine<'a> {
    let mut line = AuditLine {
        event,
        order: Some(&order.id),
        ordered_at: Some(order.at.to_rfc3339()),
        issuer: order.issuer.as_deref(),
        ..AuditLine::default()
    };
    match &order.what {
        What::User(user) => line.user = Some(user),
        What::Session(session) => line.session_id = Some(session),
        What::TokenId(token) => line.token_id = Some(token),
        What::IssuedBefore { before, user } => (line.issued_before, line.user) = (Some(before.to_rfc3339()), user.as_deref()),
    }
    line
}

fn session_line<'a>(session: &SessionFacts<'a>) -> AuditLine<'a> {
    AuditLine {
        request_id: Some(session.request_id),
        session_id: Some(session.session_id),
        user: session.user,
        method: session.method.map(Method::name),
        route: Some(session.route),
        upstream: Some(session.upstream),
        peer: Some(session.peer),
        ..AuditLine::default()
    }
}

fn ticket_line<'a>(event: &'static str, outcome: &'a str, request_id: &'a str, peer: IpAddr) -> AuditLine<'a> {
    AuditLine { event, outcome, request_id: Some(request_id), peer: Some(peer), ..AuditLine::default() }
}

impl Outlet<'_> {
    fn count(&self, count: impl FnOnce(&Metrics)) {
        if let Some(metrics) = self.metrics {
            count(metrics);
        }
    }

    fn hold_keys(&self, issuer: &str, keys: usize, fetched_at: UnixMillis) {
        self.count(|metrics| {
            if let (Some(held), Some(fetched)) = (metrics.issuer_keys.with([issuer]), metrics.issuer_keys_fetched.with([issuer])) {
                held.set(keys as f64);
                fetched.set(fetched_at.0 as f64 / 1000.0);
            }
        });
    }

    fn audit<'a>(&self, line: impl FnOnce() -> AuditLine<'a>) {
        if let Some(audit) = self.audit {
            audit.write(&AuditLine { time: Now::read().wall.to_rfc3339(), ..line() });
        }
    }
}

fn add(counter: Option<&metrics::Counter>, amount: u64) {
    if let Some(counter) = counter {
        counter.increment(amount);
    }
}

fn method_label(method: Option<Method>) -> &'static str {
    method.map_or("", Method::name)
}

fn said(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn text_of(peer: Option<IpAddr>) -> Option<String> {
    peer.map(|peer| peer.to_string())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::metric::{Exposition, Names};
    use super::*;
    use crate::session::close::CloseReason;
    use crate::telemetry::event::Phases;
    use crate::telemetry::request_id::RequestId;
    use crate::ws::close_code::CloseCode;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const SESSION: SessionFacts<'static> = SessionFacts {
        request_id: "r1",
        session_id: "s1",
        user: Some("ann"),
        method: Some(Method::Ticket),
        route: "/ws",
        upstream: "chat",
        peer: PEER,
    };

    #[test]
    fn a_session_counts_and_leaves_its_lines_under_one_request_id() {
        let exposition = Exposition::new(UnixMillis(0)).unwrap();
        let metrics = exposition.metrics(&Names::new(&["/ws"], &["chat"]));
        let path = std::env::temp_dir().join(format!("usher-emit-{}", RequestId::random()));
        let audit = Audit::open(&path, 100).unwrap();
        let outlet = Outlet { metrics: Some(&metrics), audit: Some(&audit) };
        let end = SessionEnd {
            reason: CloseReason::ClientClosed,
            code: Some(CloseCode::NORMAL),
            duration: Duration::from_secs(90),
            from_client: Traffic { bytes: 7, messages: 1 },
            from_upstream: Traffic { bytes: 900, messages: 3 },
        };
        let started =
            |session| Event::SessionStarted { session, principal: None, request_id: "r1", server: "a:1", handshake: Phases::default() };
        started(SESSION).emit_to(outlet);
        started(SESSION).emit_to(outlet);
        Event::SessionEnded { session: SESSION, end: &end }.emit_to(outlet);
        let about = Attempt { request_id: "r2", peer: PEER, host: "h", path: "/ws", route: "/ws", method: None };
        Event::UpgradeRejected { about, rejection: &Rejection::MissingCredential }.emit_to(outlet);

        let text = exposition.handle.render();
        for line in [
            "usher_sessions_active{route=\"/ws\"} 1",
            "usher_upgrades_total{route=\"/ws\",method=\"ticket\",outcome=\"accepted\"} 2",
            "usher_upgrades_total{route=\"/ws\",method=\"none\",outcome=\"missing_credential\"} 1",
            "usher_session_closes_total{code=\"1000\",reason=\"client_closed\"} 1",
            "usher_relay_bytes_total{route=\"/ws\",direction=\"from_upstream\"} 900",
            "usher_session_duration_seconds_bucket{route=\"/ws\",le=\"300\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(audit.flush(Duration::from_secs(30)));
        let lines = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> = lines.iter().map(|line| (line["event"].as_str().unwrap(), line["request_id"].as_str().unwrap())).collect();
        assert_eq!(told, [("session_started", "r1"), ("session_started", "r1"), ("session_ended", "r1"), ("upgrade_rejected", "r2")]);
        assert_eq!((&lines[2]["outcome"], &lines[2]["from_client"]["bytes"]), (&"client_closed".into(), &7.into()));
        assert_eq!((&lines[3]["status"], &lines[3]["side"]), (&401.into(), &"client".into()));
    }

    #[test]
    fn events_before_telemetry_is_installed_are_harmless() {
        Event::ConnectionOpened.emit();
        let about = Attempt { request_id: "r", peer: PEER, host: "h", path: "/websocket/ticket", route: "", method: None };
        Event::TicketRefused { about, rejection: &Rejection::Internal }.emit();
    }

    #[test]
    fn every_rejection_counts_under_its_own_label() {
        let exposition = Exposition::new(UnixMillis(0)).unwrap();
        let metrics = exposition.metrics(&Names::new(&["/ws"], &[]));
        let outlet = Outlet { metrics: Some(&metrics), audit: None };
        for rejection in Rejection::catalogue() {
            let about = Attempt { request_id: "r", peer: PEER, host: "h", path: "/ws", route: "/ws", method: Some(Method::Header) };
            Event::UpgradeRejected { about, rejection: &rejection }.emit_to(outlet);
        }
        let text = exposition.handle.render();
        let lines = text.lines().filter(|line| line.starts_with("usher_upgrades_total{"));
        let lines: Vec<&str> = lines.inspect(|line| assert!(line.ends_with(" 1") && !line.contains("other"), "{line}")).collect();
        assert_eq!(lines.len(), Rejection::catalogue().len());
    }
}
