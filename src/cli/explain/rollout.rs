//! The way off the old methods: shadows, shares, and what the client is told to use.

use std::net::IpAddr;

use serde_json::Value;

use super::token::clock;
use super::told::Walk;
use super::walk::World;
use crate::auth::credential::{Credential, Method, Proof};
use crate::auth::grant::Grant;
use crate::auth::principal::Principal;
use crate::auth::{Presented, check_page};
use crate::cli::words::shown;
use crate::clock::{Now, UnixMillis};
use crate::config::Route;
use crate::http::route::RouteMatch;
use crate::migration::shadow::Shadow;
use crate::migration::uses::LegacyUses;
use crate::migration::{self, endpoint, share};

impl World {
    pub(super) async fn shadows(&self, walk: &mut Walk<'_>, matched: &RouteMatch, shadow: &Shadow, presented: Presented<'_>) {
        for (method, found) in shadow.found() {
            let verdict = match found {
                Ok(None) => "nothing is shown by it".to_owned(),
                Err(rejection) => format!("would be refused: {}", rejection.detail()),
                Ok(Some(credential)) => match check_page(&matched.route, Some(credential), presented.origin, false) {
                    Err(rejection) => format!("would be refused: {}", rejection.detail()),
                    Ok(()) => self.shadow_verdict(credential, &matched.route, presented, walk.now).await,
                },
            };
            walk.note("shadow", format!("{}: {verdict}; it is counted, and changes nothing", method.name()));
        }
    }

    async fn shadow_verdict(&self, credential: &Credential, route: &Route, presented: Presented<'_>, now: Now) -> String {
        let outcome = match &credential.proof {
            Proof::Token(token) if !self.authenticator.asks_a_verifier(route, token) => {
                let verified = self.issuers.verify(token, now);
                verified.map(Some).map_err(|why| self.issuers.rejection(why, token, now))
            }
            Proof::Ticket(ticket) => {
                let found = self.tickets.look_at(ticket, route, presented.origin, presented.peer, now).await;
                found.map(|record| record.map(|record| record.principal))
            }
            _ => Ok(None),
        };
        match outcome {
            Ok(Some(principal)) => format!("would be accepted as {}", shown(&principal.subject)),
            Ok(None) => "not looked at here".to_owned(),
            Err(rejection) => format!("would be refused: {}", rejection.detail()),
        }
    }

    pub(super) fn migration(&self, walk: &mut Walk<'_>, route: &Route, method: Option<Method>, grant: Option<&Grant>, address: IpAddr) {
        let migration = &route.migration;
        let principal = grant.and_then(Grant::principal);
        if !route.auth.is_empty() {
            walk.told.told = endpoint::told(&self.config, route, principal, address).ok();
        }
        if migration.legacy.is_empty() && migration.rollout.shares.is_empty() {
            return;
        }
        if let Some(method) = method.filter(|method| migration.is_legacy(*method)) {
            let day = |at: Option<UnixMillis>| at.map_or_else(|| "no day".to_owned(), |at| clock(at).chars().take(10).collect());
            let (since, until) = (day(migration.deprecated), day(migration.sunset));
            walk.note("legacy", format!("{} is to go: deprecated since {since}, sunset {until}; the answer says so", method.name()));
        }
        if let Some(principal) = principal.filter(|_| !migration.rollout.shares.is_empty()) {
            walk.note("rollout", rollout(route, principal, address));
        }
        if let Some(grant) = grant {
            let outcome = migration::admit(grant, address, &LegacyUses::default(), walk.now.wall);
            let how = if migration.rollout.enforce { "enforced" } else { "nothing is enforced" };
            walk.station("migration", outcome, how);
        }
        let told = walk.told.told.as_ref().and_then(|told| told.get("method")).and_then(Value::as_str).map(str::to_owned);
        if let Some(method) = told {
            walk.note("config", format!("GET {} tells this client to log in by {method}", self.config.config_path));
        }
    }
}

fn rollout(route: &Route, principal: &Principal, address: IpAddr) -> String {
    let rollout = &route.migration.rollout;
    let client = share::Client::of(rollout.sticky, principal, address);
    let place = share::place(&route.name, &client);
    let shares: Vec<_> = rollout.shares.iter().map(|(method, percent)| format!("{} {percent} %", method.name())).collect();
    let share = match route.migration.assigned(&route.name, &client) {
        Some(method) => format!("in the share of {}", method.name()),
        None => "in no share".to_owned(),
    };
    format!("{}; this client is at {place} of 100, {share}", shares.join(", "))
}
