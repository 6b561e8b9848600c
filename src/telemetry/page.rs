//! Generates `docs/metrics.md` from the families.

use std::fmt::Write;

use super::family::{AnyFamily, Definition, MetricKind};

/// Returns `docs/metrics.md`.
pub fn metrics_page(families: impl IntoIterator<Item = &'static dyn AnyFamily>) -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         Generated from the families that `src/telemetry_setup.rs` lists by \
         `USHER_WRITE_DOCS=1 cargo test --lib page`.\n\n\
         `GET /metrics` on the admin listener answers in the text format of Prometheus, version \
         0.0.4, or in\n\
         OpenMetrics 1.0 if the reader's `Accept` prefers it, as Prometheus does. Names, labels \
         and values are the same.\n\
         Counters of live sessions are read at each request, so they are never late. There are no \
         `_created` series.\n\n\
         In OpenMetrics, buckets of the histograms of upgrades and tickets have exemplars: \
         `trace_id` is that of the\n\
         request's `traceparent`, if the trace is recorded. A client can name any trace there. \
         Prometheus keeps them with \
         `--enable-feature=exemplar-storage`.\n\n\
         Labels are closed sets: never a user, a ticket, a path or an origin. `none` means that \
         there is no value,\n\
         `other` that the value is unknown. `region` exists only if regions are configured.\n\n\
         | metric | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    let mut buckets = String::new();
    for definition in families.into_iter().map(AnyFamily::definition) {
        let Definition { name, kind, labels, .. } = definition;
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let kind = match *kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram(bounds) => {
                let bounds: Vec<String> = bounds.iter().map(f64::to_string).collect();
                let _ = writeln!(buckets, "- `{name}`: {}", bounds.join(", "));
                "histogram"
            }
        };
        let _ =
            writeln!(page, "| `{name}` | {kind} | {} | {} |", labels.join(", "), definition.help());
    }
    page.push_str("\n## Buckets\n\nUpper bounds, in seconds.\n\n");
    page.push_str(&buckets);
    page
}
