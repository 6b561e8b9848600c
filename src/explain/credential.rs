//! Describes the origin and the credential: its place in the request, whether it is valid, and its
//! permissions.

use super::explainer::{Explainer, Run};
use super::inspector::{InspectedCredential, InspectedTicket, Inspection, Undecided};
use super::report::{ExplanationBuilder, Mark, Step};
use super::token::{TokenWords, clock, list};
use crate::auth::grant::Grant;
use crate::base::clock::UnixMillis;
use crate::base::text::{distance, printable};
use crate::config::Route;
use crate::config::RouteMatch;
use crate::http::witness::AdmissionStage;
use crate::model::faults::TicketFault;
use crate::model::method::Method;
use crate::model::permission::Required;
use crate::rejection::Rejection;
use crate::store::Store;

impl ExplanationBuilder<'_> {
    pub(super) fn origin(&mut self, run: &Run, route: &Route) {
        let outcome = run.recorder.outcome(AdmissionStage::Origin).unwrap_or(Ok(()));
        if matches!(outcome, Err(Rejection::AmbiguousRequest(_))) {
            return self.station("origin", outcome, "");
        }
        let origin = run.request.origin.as_deref();
        let named = origin.map_or_else(|| "none in the request".to_owned(), printable);
        let rule = match &route.origins {
            None => "the route does not check the Origin",
            Some(origins) if origins.allows_any() => "the route accepts every origin",
            Some(_) => "the route lists its origins",
        };
        self.station("origin", outcome, format!("{named}; {rule}"));
    }

    /// Adds the place of the credential: in the request or in the first message.
    pub(super) fn credential(&mut self, run: &Run, route: &Route) {
        if route.auth.is_empty() {
            return self.note(
                "credential",
                "the route is public: no credential is required, and no context is signed",
            );
        }
        self.found_credential(run, route);
        self.is_early = run.is_early && self.rejection.is_none();
        if self.is_early {
            let seconds = route.first_message.timeout.as_secs();
            let preset = route.first_message.preset.name();
            let words = format!("101 at once, then {seconds} s for a first message ({preset})");
            self.note("message", words);
        }
    }

    fn found_credential(&mut self, run: &Run, route: &Route) {
        let outcome = |stage| run.recorder.outcome(stage).unwrap_or(Ok(()));
        let listed = method_names(route.auth.iter().copied());
        let taken = outcome(AdmissionStage::Credential);
        if taken.is_err() {
            return self.station("credential", taken, format!("the route accepts {listed}"));
        }
        let Some(chosen) = run.found_method else {
            let missing = Err(Rejection::MissingCredential);
            if outcome(AdmissionStage::Authenticate) == missing {
                self.station("credential", missing, format!("the route accepts {listed}"));
            } else {
                self.note("credential", format!("none in the request; the route accepts {listed}"));
            }
            return;
        };
        let others = run.recorder.methods.iter().copied().filter(|method| *method != chosen);
        let others = method_names(others);
        let others = if others.is_empty() {
            String::new()
        } else {
            format!("; also found and removed: {others}")
        };
        self.station(
            "credential",
            outcome(AdmissionStage::Page),
            format!("by {}; the route accepts {listed}{others}", chosen.name()),
        );
    }
}

/// Adds the result of the deny list, which only the process that serves clients has.
pub(super) fn revocation(report: &mut ExplanationBuilder<'_>, run: &Run) {
    let outcome = run.recorder.outcome(AdmissionStage::Authenticate).unwrap_or(Ok(()));
    let skipped = |detail| Step::new("revocation", Mark::Skipped, detail);
    let step = match outcome {
        _ if !report.explained.given.scope.sees_memory => {
            skipped("not checked here: only a running node has the deny list and the limits")
        }
        Err(Rejection::Revoked(_)) => return report.station("revocation", outcome, ""),
        Err(_) => skipped("not checked: the credential is not accepted"),
        Ok(()) => Step::new(
            "revocation",
            Mark::Ok,
            "not on the deny list of this node; limits are not checked",
        ),
    };
    report.explanation.steps.push(step);
}

fn method_names(methods: impl Iterator<Item = Method>) -> String {
    methods.map(Method::name).collect::<Vec<_>>().join(", ")
}

impl Explainer {
    /// Adds the checks of the credential, and the permissions that the route requires.
    pub(super) fn judge(
        &self,
        report: &mut ExplanationBuilder<'_>,
        run: &Run,
        matched: &RouteMatch,
    ) {
        let Some(inspection) = run.recorder.inspection() else { return };
        let granted = self.describe_credential(report, inspection, run);
        if let Some(required) = Required::of(&matched.route.require, &matched.parameters) {
            report.explanation.steps.push(permissions(&required, granted.as_deref()));
        }
        revocation(report, run);
        if inspection.undecided.is_none() {
            report.refuse(run.recorder.outcome(AdmissionStage::Authenticate).and_then(Result::err));
        }
    }

    /// Adds the result for the credential. Returns its permissions.
    pub(super) fn describe_credential(
        &self,
        report: &mut ExplanationBuilder<'_>,
        inspection: &Inspection,
        run: &Run,
    ) -> Option<Vec<String>> {
        let now = report.now.wall;
        let failed = || Err(inspection.rejection.clone().unwrap_or(Rejection::Internal));
        let principal = run.grant.as_ref().and_then(Grant::principal);
        let granted = || principal.map(|principal| principal.permissions.clone());
        match &inspection.credential {
            InspectedCredential::Token(token) => {
                let words = TokenWords {
                    inspected: token,
                    issuers: &self.config.issuers,
                    now,
                    all_claims: report.explained.given.claims,
                };
                report.explanation.steps.extend(words.steps());
                token.verdict.as_ref().ok().map(|principal| principal.permissions.clone())
            }
            InspectedCredential::Ticket(ticket) => {
                report.explanation.steps.extend(self.ticket(ticket, inspection, now));
                ticket.record.as_ref().map(|record| record.principal.permissions.clone())
            }
            InspectedCredential::Vouched { verifier, user } => {
                match user {
                    Some(user) => {
                        let words =
                            format!("{verifier} accepted the credential: {}", printable(user));
                        report.station("verifier", Ok(()), words);
                    }
                    None if inspection.undecided == Some(Undecided::VerifierNotAsked) => {
                        report.note("verifier", format!("{verifier} was not asked"));
                    }
                    None => report.station("verifier", failed(), format!("{verifier} was asked")),
                }
                granted()
            }
            InspectedCredential::Name(name) => {
                let outcome = if name.is_some() { Ok(()) } else { failed() };
                report.station("user", outcome, name.as_deref().map(printable).unwrap_or_default());
                granted()
            }
        }
    }

    /// Returns the checks of a ticket, in their order.
    fn ticket(
        &self,
        ticket: &InspectedTicket,
        inspection: &Inspection,
        now: UnixMillis,
    ) -> Vec<Step> {
        let region = ticket
            .region
            .as_deref()
            .map_or_else(|| "no region".to_owned(), |region| format!("region {region}"));
        let kind =
            self.tickets.stores().holding(ticket.region.as_deref()).map_or("none", Store::kind);
        let step = |name, mark, detail: String| Step::new(name, mark, detail);
        let skipped =
            |name| step(name, Mark::Skipped, "not checked: an earlier check failed".to_owned());
        let failed = |name, rejection: &Rejection| step(name, Mark::Fail, rejection.detail());
        let shape = || step("shape", Mark::Ok, "a ticket".to_owned());
        let in_region = || step("region", Mark::Ok, format!("{region}; store: {kind}"));
        match &inspection.rejection {
            Some(rejection @ Rejection::InvalidTicket(TicketFault::Malformed)) => {
                vec![failed("shape", rejection), skipped("store"), skipped("binding")]
            }
            Some(rejection @ Rejection::InvalidTicket(TicketFault::UnknownRegion)) => {
                vec![
                    shape(),
                    step("region", Mark::Fail, format!("{region}; {}", rejection.detail())),
                    skipped("store"),
                    skipped("binding"),
                ]
            }
            Some(rejection @ (Rejection::InvalidTicket(_) | Rejection::StoreUnavailable)) => {
                vec![shape(), in_region(), failed("store", rejection), skipped("binding")]
            }
            Some(rejection @ Rejection::TicketBinding(_)) => {
                vec![
                    shape(),
                    in_region(),
                    step("store", Mark::Ok, "found".to_owned()),
                    failed("binding", rejection),
                ]
            }
            _ => match &ticket.record {
                None => vec![
                    shape(),
                    in_region(),
                    step(
                        "store",
                        Mark::Skipped,
                        "not checked: the tickets are in the memory of the running process"
                            .to_owned(),
                    ),
                ],
                Some(record) => {
                    let ends = format!(
                        "valid until {} ({}), and not redeemed",
                        clock(record.expires_at),
                        distance(record.expires_at, now)
                    );
                    vec![
                        shape(),
                        in_region(),
                        step("store", Mark::Ok, ends),
                        step(
                            "binding",
                            Mark::Ok,
                            "issued for this route, origin and address".to_owned(),
                        ),
                        step(
                            "user",
                            Mark::Ok,
                            format!(
                                "{} of {}",
                                printable(&record.principal.subject),
                                record.principal.issuer
                            ),
                        ),
                    ]
                }
            },
        }
    }
}

fn permissions(required: &Required, granted: Option<&[String]>) -> Step {
    let names = list(required.names());
    let Some(granted) = granted else {
        let words = format!("required {names}; not checked: the user is not known");
        return Step::new("permissions", Mark::Skipped, words);
    };
    match required.check(granted) {
        Ok(()) => Step::new("permissions", Mark::Ok, format!("required {names}; all are granted")),
        Err(missing) => {
            let missing = printable(&missing.name);
            let granted = list(granted);
            let words = format!("required {names}; missing {missing}; granted {granted}");
            Step::new("permissions", Mark::Fail, words)
        }
    }
}
