//! `POST /drain`: stops the process in good order, or closes a share of its sessions.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::json;

use super::{Admin, ReadinessStage, answer_error, answer_json, refuse_other_than_json};
use crate::base::strict_json;
use crate::config;
use crate::edge::drain::{Drain, Share};

/// The parts of a node that a drain needs.
#[derive(Debug)]
pub struct Draining {
    pub drain: Arc<Drain>,
    pub rules: config::Drain,
}

/// An empty request stops the process. With a field, a share of the sessions is closed.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainRequest {
    percent: Option<u8>,
    route: Option<String>,
}

impl Admin {
    pub(super) fn drain(&self, headers: &HeaderMap, body: &[u8]) -> Response<Full<Bytes>> {
        if let Some(refusal) = refuse_other_than_json(headers) {
            return refusal;
        }
        let request = match read(body, &self.summary.routes) {
            Ok(request) => request,
            Err(message) => {
                return answer_error(StatusCode::BAD_REQUEST, "INVALID_REQUEST", &message);
            }
        };
        if self.readiness.stage() == ReadinessStage::Draining {
            let message = "the process is draining already";
            return answer_error(StatusCode::CONFLICT, "DRAINING", message);
        }
        let Draining { drain, rules } = &self.draining;
        let window = rules.window.as_secs_f64();
        let DrainRequest { percent: None, route: None } = request else {
            let percent = request.percent.unwrap_or(100);
            let share = Share { percent, route: request.route.as_deref() };
            let Some(size) = drain.close_share(&self.registry, share, rules.window) else {
                let message = "a share of the sessions is being closed; try again after the window";
                return answer_error(StatusCode::CONFLICT, "BUSY", message);
            };
            return answer_json(
                StatusCode::OK,
                &json!({
                    "outcome": "closing", "sessions": size.closing, "of": size.total,
                    "window_seconds": window,
                }),
            );
        };
        let sessions = self.registry.len();
        drain.order_stop();
        answer_json(
            StatusCode::OK,
            &json!({
                "outcome": "stopping", "sessions": sessions,
                "delay_seconds": rules.delay.as_secs_f64(), "window_seconds": window,
            }),
        )
    }
}

fn read(body: &[u8], routes: &[String]) -> Result<DrainRequest, String> {
    let request: DrainRequest = strict_json::record(body)
        .map_err(|error| format!("the body is not an order to drain: {error}"))?;
    if request.percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
        return Err("percent must be 1 to 100".to_owned());
    }
    if let Some(route) = request.route.as_ref().filter(|route| !routes.contains(route)) {
        return Err(format!(
            "no route has the path {route:?}; the routes are {}",
            routes.join(", ")
        ));
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_strictly() {
        let read = |body: &str| super::read(body.as_bytes(), &["/ws".to_owned()]);
        let order = |percent, route: Option<&str>| {
            Ok(DrainRequest { percent, route: route.map(str::to_owned) })
        };
        assert_eq!(read("{}"), order(None, None));
        assert_eq!(read(r#"{"percent":20}"#), order(Some(20), None));
        assert_eq!(read(r#"{"percent":1,"route":"/ws"}"#), order(Some(1), Some("/ws")));
        for (body, part) in [
            ("", "not an order to drain"),
            (r#"{"percent":0}"#, "must be 1 to 100"),
            (r#"{"percent":101}"#, "must be 1 to 100"),
            (r#"{"percent":300}"#, "not an order to drain"),
            (r#"{"percent":"20"}"#, "not an order to drain"),
            (r#"{"percent":1,"percent":2}"#, "appears twice"),
            (r#"{"percnt":1}"#, "unknown field"),
            (r#"{"route":"/other"}"#, "the routes are /ws"),
        ] {
            let message = read(body).unwrap_err();
            assert!(message.contains(part), "{body}: {message}");
        }
    }
}
