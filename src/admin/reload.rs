//! `POST /reload`: reloads the configuration, and returns the result.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use super::{Admin, answer_error, answer_json, refuse_other_than_json};
use crate::config::diagnostic::Diagnostic;
use crate::edge::events::ReloadCause;
use crate::edge::reload::ReloadReport;

impl Admin {
    pub(super) async fn reload(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        if let Some(refusal) = refuse_other_than_json(headers) {
            return refusal;
        }
        match self.orders.give(ReloadCause::Admin).await {
            None => answer_error(
                StatusCode::CONFLICT,
                "NO_RELOAD",
                "nothing to reload: Usher runs without a file, or is stopping",
            ),
            Some(Ok(ReloadReport { changed, restart, warnings })) => {
                let warnings: Vec<_> = warnings.iter().map(Diagnostic::json).collect();
                let body = json!({
                    "outcome": "applied",
                    "changed": changed,
                    "needs_restart": restart,
                    "warnings": warnings,
                });
                answer_json(StatusCode::OK, &body)
            }
            Some(Err(diagnostics)) => {
                let errors: Vec<_> = diagnostics.0.iter().map(Diagnostic::json).collect();
                let message = "configuration rejected; nothing has changed";
                let body = json!({
                    "outcome": "refused", "code": "CONFIG_REFUSED", "message": message,
                    "errors": errors, "text": diagnostics.render(false),
                });
                answer_json(StatusCode::UNPROCESSABLE_ENTITY, &body)
            }
        }
    }
}
