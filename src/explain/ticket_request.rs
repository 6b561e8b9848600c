//! Explains a request for a ticket: the checks of the endpoint, up to the ticket. No ticket is
//! made, and no rate is counted.

use super::credential::revocation;
use super::explainer::{Explainer, Run, request_of, words};
use super::inspector::InspectedCredential;
use super::recorder::AdmissionRecorder;
use super::report::{Explanation, ExplanationBuilder};
use crate::base::text::printable;
use crate::config::{self, Listener};
use crate::http::admit::check_endpoint_origin;
use crate::http::witness::AdmissionStage;
use crate::model::method::Method;
use crate::model::origin::Origins;
use crate::model::principal::Principal;
use crate::rejection::Rejection;

impl Explainer {
    pub(super) async fn explain_ticket_request(
        &self,
        mut report: ExplanationBuilder<'_>,
        listener: &Listener,
    ) -> Explanation {
        let explained = report.explained;
        report.note("request", "a request for a ticket, answered by Usher itself");
        report.warn_of_secret_headers(&["authorization", "cookie"]);
        let head = match explained.head_for_endpoint(&self.config.limits) {
            Ok(head) => head,
            Err(rejection) => {
                report.station("request", Err(rejection), "");
                return report.end(None);
            }
        };
        let mut request = request_of(head, explained, listener, report.now, &self.config);
        let mut recorder = AdmissionRecorder::new(explained.given.scope);
        let origins = &self.tickets.rules().origins;
        // The recorder has the results.
        let _ = check_endpoint_origin(&mut request, origins, &mut recorder);
        let admission = self.admission();
        let identified =
            admission.identify(&mut request, &self.tickets, origins, &mut recorder).await;
        let principal = identified.ok().flatten();
        let run = Run {
            found_method: request.method,
            request,
            recorder,
            grant: None,
            is_early: false,
            awaits_message: false,
        };
        report.explanation.method = run.found_method.map(Method::name);
        report.endpoint_origin(&run, origins);
        let takes_tickets = self.tickets.check_takes_tickets(None);
        let takers = if takes_tickets.is_ok() { "a route takes tickets" } else { "" };
        report.station("tickets", takes_tickets, takers);
        report.endpoint_credential(&run, self.tickets.rules());
        self.conclude_ticket_request(report, &run, principal)
    }

    /// Describes the credential, and adds the verdict.
    fn conclude_ticket_request(
        &self,
        mut report: ExplanationBuilder<'_>,
        run: &Run,
        principal: Option<Principal>,
    ) -> Explanation {
        let mut token = None;
        if let Some(inspection) = run.recorder.inspection() {
            self.describe_credential(&mut report, inspection, run);
            revocation(&mut report, run);
            match inspection.undecided {
                Some(undecided) if report.rejection.is_none() => {
                    report.explanation.verdict.message = words(undecided).to_owned();
                    return report.explanation;
                }
                Some(_) => {}
                None => {
                    let outcome = run.recorder.outcome(AdmissionStage::Authenticate);
                    report.refuse(outcome.and_then(Result::err));
                }
            }
            if let InspectedCredential::Token(inspected) = &inspection.credential {
                token = Some(&**inspected);
            }
        }
        match principal {
            Some(principal) if report.rejection.is_none() => report.ticket_for(&principal),
            _ => report.end_with(None, token, run.request.origin.as_deref()),
        }
    }
}

impl ExplanationBuilder<'_> {
    fn endpoint_origin(&mut self, run: &Run, origins: &Origins) {
        let outcome = run.recorder.outcome(AdmissionStage::Origin).unwrap_or(Ok(()));
        let named = run.request.origin.as_deref();
        let named = named.map_or_else(|| "none in the request".to_owned(), printable);
        let rule = match origins {
            origins if origins.is_empty() => "every page may ask with a token",
            origins if origins.allows_any() => "every origin is accepted",
            _ => "[tickets] lists its origins, or has those of the routes",
        };
        self.station("origin", outcome, format!("{named}; {rule}"));
    }

    fn endpoint_credential(&mut self, run: &Run, rules: &config::Tickets) {
        let outcome = |stage| run.recorder.outcome(stage).unwrap_or(Ok(()));
        let accepted = format!("a bearer token, or the cookie {}", rules.token_cookie);
        let found = match run.found_method {
            Some(method) => outcome(AdmissionStage::Page).map(|()| method.name()),
            None => outcome(AdmissionStage::Credential).and(Err(Rejection::MissingCredential)),
        };
        let by = found.as_ref().map_or_else(|_| String::new(), |method| format!("by {method}; "));
        self.station("credential", found.map(|_| ()), format!("{by}accepted: {accepted}"));
    }
}
