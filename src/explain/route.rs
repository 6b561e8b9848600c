//! Describes the route.

use serde_json::json;

use super::explainer::Explainer;
use super::report::{ExplanationBuilder, Mark, Step};
use crate::base::text::printable;
use crate::config::RouteMatch;
use crate::http::request::Request;
use crate::rejection::Rejection;

impl Explainer {
    /// Adds the route that matches, or the routes that nearly match.
    pub(super) fn route(
        &self,
        report: &mut ExplanationBuilder<'_>,
        request: &Request,
        outcome: Result<(), Rejection>,
        matched: Option<&RouteMatch>,
    ) {
        let host = request.host();
        let path = request.parts.uri.path();
        let Some(matched) = matched else {
            let is_absent = outcome == Err(Rejection::NoRoute);
            report.station("route", outcome, "");
            if is_absent {
                self.near_misses(report, host, path);
            }
            return;
        };
        let route = &matched.route;
        let parameters: Vec<_> = matched
            .parameters
            .iter()
            .map(|(name, value)| format!("{name} = {}", printable(value)))
            .collect();
        let parameters = if parameters.is_empty() {
            String::new()
        } else {
            format!(" with {}", parameters.join(", "))
        };
        let others = self.router.others(host, path);
        let others: Vec<_> = others.iter().map(|other| &*other.name).collect();
        let why = if others.is_empty() {
            "the only one that matches".to_owned()
        } else {
            format!("more specific than {}", others.join(", "))
        };
        let steps = &mut report.explanation.steps;
        steps.push(Step::new("route", Mark::Ok, format!("{}{parameters}, {why}", route.name)));
        let servers: Vec<_> = route.upstream.servers.iter().map(ToString::to_string).collect();
        let rewritten = matched
            .upstream_path()
            .map(|path| format!(", with the path {}", printable(path)))
            .unwrap_or_default();
        report.note(
            "upstream",
            format!("{}: {}{rewritten}", route.upstream.name, servers.join(", ")),
        );
        report.explanation.route = Some(route.name.to_string());
        report.explanation.parameters =
            matched.parameters.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    }

    fn near_misses(&self, report: &mut ExplanationBuilder<'_>, host: &str, path: &str) {
        let near = self.router.near_misses(host, path);
        for (route, why) in near.iter().take(5) {
            report.note("near", format!("{}: {why}", route.name));
        }
        if near.is_empty() {
            let routes = self.config.routes.iter().take(10);
            let names: Vec<_> = routes.map(|route| route.name.to_string()).collect();
            report.note("routes", names.join(", "));
        }
    }
}
