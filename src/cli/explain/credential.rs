//! The credential: where it stands, whether it is good, and what it opens.

use http::request::Parts;

use super::token::{Words, clock, list};
use super::told::{Mark, Step, Walk};
use super::walk::World;
use crate::auth::credential::{Credential, Proof};
use crate::auth::explain::{Look, Outcome, Shown, TicketLook};
use crate::auth::permission::Required;
use crate::auth::{check_origin, check_page, extract};
use crate::cli::words::{distance, shown};
use crate::clock::UnixMillis;
use crate::config::Route;
use crate::http::route::RouteMatch;
use crate::http::upgrade;
use crate::migration::shadow::Shadow;
use crate::rejection::Rejection;
use crate::store::{Store, TicketFault};

impl World {
    pub(super) fn origin(&self, walk: &mut Walk<'_>, route: &Route, parts: &Parts) -> Option<String> {
        let origin = match upgrade::origin_of(&parts.headers) {
            Ok(origin) => origin,
            Err(rejection) => {
                walk.station("origin", Err(rejection), "");
                return None;
            }
        };
        let named = origin.as_deref().map_or_else(|| "none in the request".to_owned(), shown);
        let rule = match &route.origins {
            None => "the route looks at no Origin",
            Some(origins) if origins.allows_any() => "the route takes every page",
            Some(_) => "the route lists its pages",
        };
        walk.station("origin", check_origin(route, origin.as_deref()), format!("{named}; {rule}"));
        origin
    }

    pub(super) fn credential(
        &self,
        walk: &mut Walk<'_>,
        route: &Route,
        parts: &mut Parts,
        origin: Option<&str>,
        is_upgrade: bool,
    ) -> Option<Credential> {
        if route.auth.is_empty() {
            walk.note("credential", "the route is public: nothing is asked for, and nothing is signed");
            return None;
        }
        let mut found = Vec::new();
        let taken = extract::take_and_tell(route, parts, |method| found.push(method.name()));
        let listed: Vec<_> = route.auth.iter().map(|method| method.name()).collect();
        let listed = listed.join(", ");
        let credential = match taken {
            Ok(credential) => credential,
            Err(rejection) => {
                walk.station("credential", Err(rejection), format!("the route takes {listed}"));
                return None;
            }
        };
        let Some(chosen) = &credential else {
            walk.note("credential", format!("none in the request; the route takes {listed}"));
            return None;
        };
        let others: Vec<_> = found.into_iter().filter(|name| *name != chosen.method.name()).collect();
        let others = if others.is_empty() { String::new() } else { format!("; found beside it and removed: {}", others.join(", ")) };
        let is_safe = !is_upgrade && parts.method.is_safe();
        let outcome = check_page(route, credential.as_ref(), origin, is_safe);
        walk.station("credential", outcome, format!("by {}; the route takes {listed}{others}", chosen.method.name()));
        credential
    }

    pub(super) async fn fetch(&self, credential: Option<&Credential>, shadow: &Shadow) {
        let shadows = shadow.found().filter_map(|(_, found)| found.as_ref().ok()?.as_ref());
        for credential in credential.into_iter().chain(shadows) {
            if let Proof::Token(token) = &credential.proof {
                self.issuers.fetch_for(token).await;
            }
        }
    }

    /// What was found of the credential, and what it opens.
    pub(super) fn judge(&self, walk: &mut Walk<'_>, matched: &RouteMatch, look: &Look) {
        if matched.route.auth.is_empty() {
            return;
        }
        let rejection = match &look.outcome {
            Outcome::Known(Err(rejection)) => Some(rejection.clone()),
            _ => None,
        };
        let mut granted = None;
        match &look.shown {
            Shown::Nothing => {
                if !walk.told.steps.iter().any(|step| step.name == "credential" && step.result == Mark::Fail) {
                    walk.told.steps.retain(|step| step.name != "credential");
                    let listed: Vec<_> = matched.route.auth.iter().map(|method| method.name()).collect();
                    walk.station("credential", Err(Rejection::MissingCredential), format!("the route takes {}", listed.join(", ")));
                }
                return;
            }
            Shown::Token(token) => {
                let words = Words { look: token, issuers: &self.config.issuers, now: walk.now.wall, all_claims: walk.asked.claims };
                walk.told.steps.extend(words.steps());
                granted = token.verdict.as_ref().ok().map(|principal| principal.permissions.clone());
            }
            Shown::Ticket(ticket) => {
                walk.told.steps.extend(self.ticket(ticket, look, walk.now.wall));
                granted = ticket.record.as_ref().map(|record| record.principal.permissions.clone());
            }
            Shown::Vouched { verifier, user } => {
                match (user, &look.outcome) {
                    (Some(user), _) => walk.station("verifier", Ok(()), format!("{verifier} knows it: {}", shown(user))),
                    (None, Outcome::NotAsked) => walk.note("verifier", format!("{verifier} was not asked")),
                    (None, _) => {
                        walk.station("verifier", Err(rejection.clone().unwrap_or(Rejection::Internal)), format!("{verifier} was asked"));
                    }
                }
                if let Outcome::Known(Ok(grant)) = &look.outcome {
                    granted = grant.principal().map(|principal| principal.permissions.clone());
                }
            }
            Shown::Name(name) => {
                let outcome = if name.is_some() { Ok(()) } else { Err(rejection.clone().unwrap_or(Rejection::Internal)) };
                walk.station("user", outcome, name.as_deref().map(shown).unwrap_or_default());
                if let Outcome::Known(Ok(grant)) = &look.outcome {
                    granted = grant.principal().map(|principal| principal.permissions.clone());
                }
            }
        }
        if let Some(required) = Required::of(&matched.route.require, &matched.parameters) {
            let names = list(required.names());
            let step = match &granted {
                None => Step::new("permissions", Mark::Skipped, format!("required {names}; nobody is known to have them")),
                Some(granted) => match required.check(granted) {
                    Ok(()) => Step::new("permissions", Mark::Ok, format!("required {names}; all are granted")),
                    Err(missing) => {
                        let detail = format!("required {names}; missing {}; granted {}", shown(&missing.name), list(granted));
                        Step::new("permissions", Mark::Fail, detail)
                    }
                },
            };
            walk.told.steps.push(step);
        }
        walk.told.steps.push(Step::new("revocation", Mark::Skipped, "not looked at here: only a running node knows, and its limits too"));
        walk.refuse(rejection);
    }

    /// By what the look ended with: the checks are made in the order in which they stand here.
    fn ticket(&self, ticket: &TicketLook, look: &Look, now: UnixMillis) -> Vec<Step> {
        let region = ticket.region.as_deref().map_or_else(|| "names no region".to_owned(), |region| format!("of region {region}"));
        let kind = self.tickets.stores().holding(ticket.region.as_deref()).map_or("none", Store::kind);
        let fault = match &look.outcome {
            Outcome::Known(Err(rejection)) => Some(rejection),
            _ => None,
        };
        let step = |name, mark, detail: String| Step::new(name, mark, detail);
        let skipped = |name| step(name, Mark::Skipped, "not looked at: something before it is missing".to_owned());
        let failed = |name, rejection: &Rejection| step(name, Mark::Fail, rejection.detail());
        let shape = || step("shape", Mark::Ok, "that of a ticket".to_owned());
        let in_region = || step("region", Mark::Ok, format!("{region}; kept in {kind}"));
        match fault {
            Some(rejection @ Rejection::InvalidTicket(TicketFault::Malformed)) => {
                vec![failed("shape", rejection), skipped("store"), skipped("binding")]
            }
            Some(rejection @ Rejection::InvalidTicket(TicketFault::UnknownRegion)) => {
                vec![shape(), step("region", Mark::Fail, format!("{region}; {}", rejection.detail())), skipped("store"), skipped("binding")]
            }
            Some(rejection @ (Rejection::InvalidTicket(_) | Rejection::StoreUnavailable)) => {
                vec![shape(), in_region(), failed("store", rejection), skipped("binding")]
            }
            Some(rejection @ Rejection::TicketBinding(_)) => {
                vec![shape(), in_region(), step("store", Mark::Ok, "it is there".to_owned()), failed("binding", rejection)]
            }
            _ => match &ticket.record {
                None => vec![
                    shape(),
                    in_region(),
                    step("store", Mark::Skipped, "not looked at: the running process holds its tickets in its memory".to_owned()),
                ],
                Some(record) => {
                    let ends =
                        format!("good until {} ({}), and looked at only", clock(record.expires_at), distance(record.expires_at, now));
                    vec![
                        shape(),
                        in_region(),
                        step("store", Mark::Ok, ends),
                        step("binding", Mark::Ok, "made for this use".to_owned()),
                        step("user", Mark::Ok, format!("{} of {}", shown(&record.principal.subject), record.principal.issuer)),
                    ]
                }
            },
        }
    }
}
