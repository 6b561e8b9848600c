//! Describes the migration to new methods: shadows, shares, and the method for this client.

use std::net::IpAddr;

use serde_json::Value;

use super::explainer::{Explainer, Run};
use super::inspector::{CredentialInspector, InspectionScope};
use super::report::ExplanationBuilder;
use super::token::clock;
use crate::auth::check_page;
use crate::auth::credential::Credential;
use crate::auth::grant::Grant;
use crate::base::clock::UnixMillis;
use crate::base::text::printable;
use crate::config::RouteMatch;
use crate::config::{Migration, Route};
use crate::http::endpoints::methods::client_config;
use crate::http::request::Request;
use crate::http::witness::AdmissionStage;
use crate::migration::share;
use crate::model::method::Method;
use crate::model::principal::Principal;
use crate::rejection::Rejection;

impl Explainer {
    /// Adds the results of the shadow methods.
    pub(super) async fn shadows(
        &self,
        report: &mut ExplanationBuilder<'_>,
        request: &mut Request,
        matched: &RouteMatch,
    ) {
        let shadow = std::mem::take(&mut request.shadow);
        for (method, found) in shadow.into_found() {
            let scope = report.explained.given.scope;
            let verdict = match found {
                Ok(None) => "no credential".to_owned(),
                Ok(Some(credential)) => {
                    self.shadow_verdict(credential, request, matched, scope).await
                }
                Err(rejection) => would_be_refused(&rejection),
            };
            report.note(
                "shadow",
                format!("{}: {verdict}; counted, without consequences", method.name()),
            );
        }
    }

    async fn shadow_verdict(
        &self,
        credential: Credential,
        request: &Request,
        matched: &RouteMatch,
        scope: InspectionScope,
    ) -> String {
        let origin = request.origin.as_deref();
        if let Err(rejection) = check_page(&matched.route, Some(&credential), origin, false) {
            return would_be_refused(&rejection);
        }
        let mut inspector = CredentialInspector::new(scope);
        let judging = self.authenticator.judge(
            &mut inspector,
            matched,
            credential,
            request.presented(),
            request.deadline,
        );
        match Box::pin(judging).await {
            Ok(principal) => format!("would be accepted as {}", printable(&principal.subject)),
            Err(_) if inspector.is_undecided() => "undecided".to_owned(),
            Err(rejection) => would_be_refused(&rejection),
        }
    }

    /// Adds the client's share in the migration of its route, and the method that it should use.
    pub(super) fn migration(&self, report: &mut ExplanationBuilder<'_>, run: &Run, route: &Route) {
        let migration = &route.migration;
        let address = run.request.address();
        let principal = run.grant.as_ref().and_then(Grant::principal);
        if !route.auth.is_empty() {
            report.explanation.told = client_config(&self.config, route, principal, address).ok();
        }
        let migrates = !migration.legacy.is_empty() || !migration.rollout.shares.is_empty();
        if !migrates || !run.request.is_upgrade() {
            return;
        }
        let method = run.request.method.filter(|method| migration.is_legacy(*method));
        if let Some(method) = method {
            report.note("legacy", legacy(migration, method));
        }
        if let Some(principal) = principal.filter(|_| !migration.rollout.shares.is_empty()) {
            report.note("rollout", rollout(route, principal, address));
        }
        if let Some(outcome) = run.recorder.outcome(AdmissionStage::Migration) {
            let how = if migration.rollout.enforce { "enforced" } else { "not enforced" };
            report.station("migration", outcome, how);
        }
        let told = report.explanation.told.as_ref();
        let told = told.and_then(|told| told.get("method")).and_then(Value::as_str);
        if let Some(words) = told.map(|method| {
            format!("GET {} tells this client to log in by {method}", self.config.config_path)
        }) {
            report.note("config", words);
        }
    }
}

fn would_be_refused(rejection: &Rejection) -> String {
    format!("would be refused: {}", rejection.detail())
}

fn legacy(migration: &Migration, method: Method) -> String {
    let day = |at: Option<UnixMillis>| {
        at.map_or_else(|| "no date".to_owned(), |at| clock(at).chars().take(10).collect())
    };
    let since = day(migration.deprecated);
    let until = day(migration.sunset);
    let method = method.name();
    format!("{method} is legacy: deprecated since {since}, sunset {until}; the answer says so")
}

fn rollout(route: &Route, principal: &Principal, address: IpAddr) -> String {
    let rollout = &route.migration.rollout;
    let client = share::ShareKey::of(rollout.sticky, principal, address);
    let place = share::place(&route.name, &client);
    let shares: Vec<_> = rollout
        .shares
        .iter()
        .map(|(method, percent)| format!("{} {percent} %", method.name()))
        .collect();
    let share = match route.migration.assigned_method(&route.name, &client) {
        Some(method) => format!("in the share of {}", method.name()),
        None => "in no share".to_owned(),
    };
    format!("{}; this client is at {place} of 100, {share}", shares.join(", "))
}
