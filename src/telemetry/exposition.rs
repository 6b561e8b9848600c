//! The text of all series, for Prometheus and other readers.
//!
//! Both formats have the same names and values, so a reader may change from one to the other.
//! Bounds of buckets are values of a label, so both write them as OpenMetrics requires: `1.0`.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use metrics::Unit;
use metrics_exporter_prometheus::formatting::{write_help_line, write_type_line};

use super::family::{Definition, MetricKind};
use super::metrics::Catalogue;
use super::value::{Bucket, Durations, Exemplar, Value};
use crate::base::lock::lock;

/// The format of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpositionFormat {
    /// The text format of Prometheus, version 0.0.4.
    Text,
    /// OpenMetrics 1.0, which has exemplars.
    OpenMetrics,
}

/// The units that OpenMetrics names, as suffixes of families.
const UNITS: [Unit; 2] = [Unit::Seconds, Unit::Bytes];

impl ExpositionFormat {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Returns the format that the values of `Accept` prefer. Without a preference it is the text
    /// format, which every reader takes.
    pub fn accepted<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let (mut open, mut text) = (0.0_f32, 0.0_f32);
        for range in values.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let (mut quality, mut version) = (1.0, None);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = value.trim().parse().unwrap_or(0.0),
                    "version" => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            let is_open = kind.eq_ignore_ascii_case("application/openmetrics-text")
                && version.is_none_or(|version| version == "1.0.0");
            let is_text = ["text/plain", "text/*"].iter().any(|one| kind.eq_ignore_ascii_case(one));
            if is_open {
                open = open.max(quality);
            } else if is_text {
                text = text.max(quality);
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }
}

/// Returns the text of all series that have a value.
pub(super) fn render(catalogue: &Catalogue, format: ExpositionFormat) -> String {
    render_families(catalogue, format, |_| true)
}

/// The same for the families whose name is wanted.
pub(super) fn render_families(
    catalogue: &Catalogue,
    format: ExpositionFormat,
    is_wanted: impl Fn(&str) -> bool,
) -> String {
    let mut page = String::new();
    for (family, known) in &catalogue.0 {
        let definition = family.definition();
        if !is_wanted(definition.name) {
            continue;
        }
        let known = lock(known);
        let mut lines = String::new();
        for (labels, value) in known.iter() {
            write_series(&mut lines, definition, labels, value, format);
        }
        if !lines.is_empty() {
            write_head(&mut page, definition, format);
            page.push_str(&lines);
        }
    }
    if format == ExpositionFormat::OpenMetrics {
        page.push_str("# EOF\n");
    }
    page
}

fn write_head(page: &mut String, definition: &Definition, format: ExpositionFormat) {
    let Definition { name, kind, .. } = definition;
    let kind = match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram(_) => "histogram",
    };
    let help = definition.help();
    match format {
        ExpositionFormat::Text => {
            write_help_line(page, name, None, None, help);
            write_type_line(page, name, None, None, kind);
        }
        ExpositionFormat::OpenMetrics => {
            // The name of a counter's family has no suffix there.
            let name = name.strip_suffix("_total").unwrap_or(name);
            write_type_line(page, name, None, None, kind);
            let of_name = |unit: &&str| {
                name.strip_suffix(unit).is_some_and(|quantity| quantity.ends_with('_'))
            };
            if let Some(unit) = UNITS.iter().map(Unit::as_str).find(of_name) {
                let _ = writeln!(page, "# UNIT {name} {unit}");
            }
            write_help_line(page, name, None, None, help);
        }
    }
}

fn write_series(
    lines: &mut String,
    definition: &Definition,
    labels: &str,
    value: &Value,
    format: ExpositionFormat,
) {
    let name = definition.name;
    let set = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    match value {
        Value::Count(count) => {
            let _ = writeln!(lines, "{name}{set} {}", count.load(Ordering::Relaxed));
        }
        Value::Figure(bits) => {
            let figure = f64::from_bits(bits.load(Ordering::Relaxed));
            if !figure.is_nan() {
                let _ = writeln!(lines, "{name}{set} {figure}");
            }
        }
        Value::Durations(durations) => {
            let count = write_buckets(lines, name, labels, durations, format);
            let _ = writeln!(lines, "{name}_sum{set} {}", durations.sum());
            let _ = writeln!(lines, "{name}_count{set} {count}");
        }
    }
}

/// Writes the buckets, and returns the number of observations.
fn write_buckets(
    lines: &mut String,
    name: &str,
    labels: &str,
    durations: &Durations,
    format: ExpositionFormat,
) -> u64 {
    let separator = if labels.is_empty() { "" } else { "," };
    let mut count = 0;
    for Bucket { bound, cumulative, exemplar } in durations.buckets() {
        count = cumulative;
        let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| format!("{bound:?}"));
        let _ = write!(lines, "{name}_bucket{{{labels}{separator}le=\"{bound}\"}} {cumulative}");
        if format == ExpositionFormat::OpenMetrics
            && let Some(Exemplar { trace, seconds, at }) = exemplar
        {
            let at = at.0 as f64 / 1000.0;
            let _ = write!(lines, " # {{trace_id=\"{trace}\"}} {seconds} {at:.3}");
        }
        lines.push('\n');
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::trace_context::TraceContext;
    use crate::telemetry::family::{LabelNames, Name, families};
    use std::time::Duration;

    families! {
        /// Requests.
        REQUESTS: Counter = "test_requests_total", { route: Name };
        /// Sent.
        SENT: Counter = "test_sent_bytes_total";
        /// Waits.
        WAIT: Histogram = "test_wait_seconds", { route: Name }, buckets(&[0.5, 2.0]);
        /// Heat.
        HEAT: Gauge = "test_heat";
    }

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn each_format_has_its_own_heads_and_the_same_series() {
        let catalogue = Catalogue::new(FAMILIES.iter().copied());
        let metrics = catalogue.metrics(&LabelNames::default().with("route", ["/a\"b\\"]));
        metrics.count(&REQUESTS, ("/a\"b\\",));
        metrics.add(&SENT, (), 7);
        metrics.set(&HEAT, (), 1.5);
        let trace = TraceContext::parse(TRACE).map(|context| context.trace_id);
        let wait = Duration::from_millis(1500);
        metrics.record_traced(&WAIT, ("/a\"b\\",), wait, trace);

        let text = render(&catalogue, ExpositionFormat::Text);
        let label = "route=\"/a\\\"b\\\\\"";
        let expected = format!(
            "# HELP test_requests_total Requests.\n\
             # TYPE test_requests_total counter\n\
             test_requests_total{{{label}}} 1\n\
             # HELP test_sent_bytes_total Sent.\n\
             # TYPE test_sent_bytes_total counter\n\
             test_sent_bytes_total 7\n\
             # HELP test_wait_seconds Waits.\n\
             # TYPE test_wait_seconds histogram\n\
             test_wait_seconds_bucket{{{label},le=\"0.5\"}} 0\n\
             test_wait_seconds_bucket{{{label},le=\"2.0\"}} 1\n\
             test_wait_seconds_bucket{{{label},le=\"+Inf\"}} 1\n\
             test_wait_seconds_sum{{{label}}} 1.5\n\
             test_wait_seconds_count{{{label}}} 1\n\
             # HELP test_heat Heat.\n\
             # TYPE test_heat gauge\n\
             test_heat 1.5\n"
        );
        assert_eq!(text, expected);
        let heat = render_families(&catalogue, ExpositionFormat::Text, |name| name == "test_heat");
        assert_eq!(heat, "# HELP test_heat Heat.\n# TYPE test_heat gauge\ntest_heat 1.5\n");

        let open = render(&catalogue, ExpositionFormat::OpenMetrics);
        let (marked, rest): (Vec<&str>, Vec<&str>) =
            open.lines().partition(|line| line.contains(" # {"));
        let [exemplar] = marked[..] else { panic!("{open}") };
        let begins = format!(
            "test_wait_seconds_bucket{{{label},le=\"2.0\"}} 1 \
             # {{trace_id=\"0af7651916cd43dd8448eb211c80319c\"}} 1.5 "
        );
        assert!(exemplar.starts_with(&begins), "{exemplar}");
        for line in [
            "# TYPE test_requests counter",
            "# TYPE test_sent_bytes counter",
            "# UNIT test_sent_bytes bytes",
            "# UNIT test_wait_seconds seconds",
            "test_sent_bytes_total 7",
        ] {
            assert!(rest.contains(&line), "{line}\n{open}");
        }
        assert!(open.ends_with("test_heat 1.5\n# EOF\n"), "{open}");
    }

    #[test]
    fn openmetrics_is_only_for_readers_that_prefer_it() {
        // The first two are of Prometheus 2.42 and 3.1.
        for (accept, expected) in [
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ExpositionFormat::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,\
                 text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                 text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                ExpositionFormat::OpenMetrics,
            ),
            ("Application/OpenMetrics-Text", ExpositionFormat::OpenMetrics),
            ("application/openmetrics-text; version=\"1.0.0\"; q=1", ExpositionFormat::OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", ExpositionFormat::Text),
            ("application/openmetrics-text;q=0", ExpositionFormat::Text),
            ("application/openmetrics-text;q=0.1, text/plain", ExpositionFormat::Text),
            ("application/openmetrics-text;q=x", ExpositionFormat::Text),
            ("text/html,*/*;q=0.8", ExpositionFormat::Text),
            ("*/*", ExpositionFormat::Text),
            ("", ExpositionFormat::Text),
        ] {
            assert_eq!(ExpositionFormat::accepted([accept].into_iter()), expected, "{accept}");
        }
        let split = ["text/plain;q=0.5", "application/openmetrics-text"];
        assert_eq!(ExpositionFormat::accepted(split.into_iter()), ExpositionFormat::OpenMetrics);
        assert_eq!(ExpositionFormat::accepted(std::iter::empty()), ExpositionFormat::Text);
    }
}
