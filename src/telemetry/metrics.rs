//! The time series of every family, and the operations of events on them.
//!
//! Series are looked up once and kept, because a lookup costs several times as much as counting.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::family::{AnyFamily, Family, LabelNames, Labels, MetricKind};
use super::value::{Counter, Gauge, Histogram, Total, Value};
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::model::trace_context::TraceId;

/// The value of a label without a value: no route, no method, no close code.
pub(super) const NONE: &str = "none";
/// The value of a label for an unknown value.
pub(super) const OTHER: &str = "other";

/// The series for the names of one configuration, by the index of their family.
pub struct Metrics(Vec<Option<Series>>);

/// All series of the process, whatever configuration they are from. Series are never removed.
pub struct Catalogue(pub(super) Vec<(&'static dyn AnyFamily, Arc<KnownSeries>)>);

/// The values of one family, by their labels as they are rendered: `route="/ws",outcome="ok"`.
pub type KnownSeries = Mutex<BTreeMap<String, Arc<Value>>>;

impl Catalogue {
    pub(super) fn new(families: impl IntoIterator<Item = &'static dyn AnyFamily>) -> Self {
        Self(families.into_iter().map(|family| (family, Arc::default())).collect())
    }

    /// Returns the sum of the series of a gauge. `None`: none of them has a value.
    pub(super) fn gauge(&self, family: &str) -> Option<f64> {
        let (_, known) = self.0.iter().find(|(one, _)| one.definition().name == family)?;
        let known = lock(known);
        known.values().filter_map(|value| value.figure()).reduce(|sum, figure| sum + figure)
    }

    /// Returns the series for these names. Existing series keep their values.
    pub(super) fn metrics(&self, names: &LabelNames) -> Metrics {
        let mut slots = Vec::new();
        for (family, known) in &self.0 {
            let slot = family.register();
            if slots.len() <= slot {
                slots.resize_with(slot + 1, || None);
            }
            if let Some(series) = slots.get_mut(slot) {
                *series = Some(family.series(known, names));
            }
        }
        Metrics(slots)
    }
}

impl Metrics {
    pub fn count<L: Labels>(&self, family: &Family<Counter, L>, labels: L::Values<'_>) {
        self.add(family, labels, 1);
    }

    pub fn add<L: Labels>(&self, family: &Family<Counter, L>, labels: L::Values<'_>, amount: u64) {
        if let Some(value) = self.value(family, labels) {
            value.add(amount);
        }
    }

    /// Sets a total that is counted elsewhere.
    pub(super) fn set_total(&self, family: &Family<Total>, total: f64) {
        if let Some(value) = self.value(family, ()) {
            value.set(total);
        }
    }

    pub fn set<L: Labels>(&self, family: &Family<Gauge, L>, labels: L::Values<'_>, figure: f64) {
        if let Some(value) = self.value(family, labels) {
            value.set(figure);
        }
    }

    /// Takes the series of a gauge out of the exposition, until it is set again.
    pub fn withdraw<L: Labels>(&self, family: &Family<Gauge, L>, labels: L::Values<'_>) {
        self.set(family, labels, f64::NAN);
    }

    /// Adds to a gauge, or subtracts from it.
    pub fn change<L: Labels>(&self, family: &Family<Gauge, L>, labels: L::Values<'_>, by: f64) {
        if let Some(value) = self.value(family, labels) {
            value.change(by);
        }
    }

    pub fn record<L: Labels>(
        &self,
        family: &Family<Histogram, L>,
        labels: L::Values<'_>,
        duration: Duration,
    ) {
        self.record_traced(family, labels, duration, None);
    }

    /// Records a duration, and keeps its trace as the exemplar of its bucket.
    pub fn record_traced<L: Labels>(
        &self,
        family: &Family<Histogram, L>,
        labels: L::Values<'_>,
        duration: Duration,
        trace: Option<TraceId>,
    ) {
        if let Some(value) = self.value(family, labels) {
            value.observe(duration, trace.map(|trace| (trace, Now::read().wall)));
        }
    }

    fn value<I, L: Labels>(&self, family: &Family<I, L>, labels: L::Values<'_>) -> Option<&Value> {
        let series = self.0.get(family.slot()).and_then(Option::as_ref);
        debug_assert!(series.is_some(), "{} is not in a list of families", family.name());
        let series = series?;
        series.value(L::cell(&series.dimensions, labels))
    }
}

/// The series of one family: one for each combination of label values. A series is created at its
/// first use.
pub struct Series {
    known: Arc<KnownSeries>,
    dimensions: Vec<Dimension>,
    values: Vec<OnceLock<Arc<Value>>>,
    kind: MetricKind,
    create: fn(MetricKind) -> Value,
}

/// The values of one label, numbered.
pub struct Dimension {
    label: &'static str,
    is_optional: bool,
    values: Vec<String>,
    places: BTreeMap<String, usize>,
}

impl Dimension {
    pub(super) fn new(label: &'static str, known: &[&str], is_optional: bool) -> Self {
        let mut dimension =
            Self { label, is_optional, values: Vec::new(), places: BTreeMap::new() };
        for value in known.iter().chain([&NONE, &OTHER]) {
            if !dimension.places.contains_key(*value) {
                dimension.places.insert((*value).to_owned(), dimension.values.len());
                dimension.values.push((*value).to_owned());
            }
        }
        dimension
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    pub(super) fn value(&self, place: usize) -> &str {
        self.values.get(place).map_or(OTHER, String::as_str)
    }

    pub(super) fn place(&self, value: &str) -> usize {
        let value = if value.is_empty() { NONE } else { value };
        self.places.get(value).or_else(|| self.places.get(OTHER)).copied().unwrap_or(0)
    }
}

impl Series {
    pub(super) fn new(
        known: &Arc<KnownSeries>,
        dimensions: Vec<Dimension>,
        registers_all: bool,
        kind: MetricKind,
        create: fn(MetricKind) -> Value,
    ) -> Self {
        let size = dimensions.iter().map(Dimension::len).product();
        let values = std::iter::repeat_with(OnceLock::new).take(size).collect();
        let series = Self { known: Arc::clone(known), dimensions, values, kind, create };
        for cell in 0..if registers_all { size } else { 0 } {
            if !series.texts_of(cell).iter().any(|value| *value == NONE || *value == OTHER) {
                series.value(cell);
            }
        }
        series
    }

    fn value(&self, cell: usize) -> Option<&Value> {
        let value = self.values.get(cell)?.get_or_init(|| {
            let mut known = lock(&self.known);
            let value = known.entry(self.labels_of(cell));
            Arc::clone(value.or_insert_with(|| Arc::new((self.create)(self.kind))))
        });
        Some(value)
    }

    /// Returns the labels of a cell as they are rendered.
    fn labels_of(&self, cell: usize) -> String {
        let mut labels = String::new();
        for (dimension, text) in self.dimensions.iter().zip(self.texts_of(cell)) {
            if dimension.is_optional && text == NONE {
                continue;
            }
            let separator = if labels.is_empty() { "" } else { "," };
            let _ = write!(labels, "{separator}{}=\"{}\"", dimension.label, escape(text));
        }
        labels
    }

    fn texts_of(&self, mut cell: usize) -> Vec<&str> {
        let mut texts = Vec::new();
        for dimension in self.dimensions.iter().rev() {
            let count = dimension.len();
            texts.push(dimension.value(cell % count));
            cell /= count;
        }
        texts.reverse();
        texts
    }
}

/// Escapes the value of a label.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::exposition::{ExpositionFormat, render};
    use crate::telemetry::family::{Name, OptionalName, families, words};
    use std::collections::BTreeSet;

    families! {
        /// Requests.
        REQUESTS: Counter = "test_requests_total", { route: Name, colour: Option<Colour> };
        /// Waits.
        WAIT: Histogram = "test_wait_seconds", { route: Name }, shown;
        /// Lives.
        LIFE: Histogram = "test_life_seconds", { route: Name }, shown, buckets(&[1.0, 900.0]);
        /// States.
        STATE: Gauge = "test_state", { colour: Colour, region: OptionalName };
        /// Limits.
        LIMITS: Counter = "test_limits_total", { colour: Colour }, shown;
        /// Everything.
        PLAIN: Gauge = "test_plain";
    }

    words! {
        enum Colour {
            Red = "red",
            Blue = "blue",
        }
    }

    fn catalogue(names: &LabelNames) -> (Catalogue, Metrics) {
        let catalogue = Catalogue::new(FAMILIES.iter().copied());
        let metrics = catalogue.metrics(names);
        (catalogue, metrics)
    }

    fn routes() -> LabelNames {
        LabelNames::default().with("route", ["/ws"])
    }

    #[test]
    fn histograms_are_rendered_with_their_buckets() {
        let (catalogue, metrics) = catalogue(&routes());
        metrics.record(&WAIT, ("/ws",), Duration::from_micros(200));
        metrics.record(&LIFE, ("/ws",), Duration::from_secs(400));
        let text = render(&catalogue, ExpositionFormat::Text);
        for line in [
            "test_wait_seconds_bucket{route=\"/ws\",le=\"0.0001\"} 0\n",
            "test_wait_seconds_bucket{route=\"/ws\",le=\"0.00025\"} 1\n",
            "test_life_seconds_bucket{route=\"/ws\",le=\"1.0\"} 0\n",
            "test_life_seconds_bucket{route=\"/ws\",le=\"900.0\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("quantile"), "{text}");
    }

    #[test]
    fn a_value_of_no_known_set_makes_no_new_series() {
        let (catalogue, metrics) = catalogue(&routes());
        for n in 0..100 {
            metrics.count(&REQUESTS, (&format!("/made-up-{n}"), None));
        }
        metrics.count(&REQUESTS, ("/ws", Some(Colour::Blue)));
        let text = render(&catalogue, ExpositionFormat::Text);
        let lines: BTreeSet<&str> =
            text.lines().filter(|line| line.starts_with("test_requests_total{")).collect();
        let wanted = [
            "test_requests_total{route=\"/ws\",colour=\"blue\"} 1",
            "test_requests_total{route=\"other\",colour=\"none\"} 100",
        ];
        assert_eq!(lines, wanted.into());
    }

    #[test]
    fn an_optional_label_is_left_out_without_a_value() {
        let (catalogue, metrics) = catalogue(&LabelNames::default().with("region", ["us", "eu"]));
        metrics.set(&STATE, (Colour::Red, "eu"), 2.0);
        metrics.set(&STATE, (Colour::Red, ""), 1.0);
        let text = render(&catalogue, ExpositionFormat::Text);
        for line in
            ["test_state{colour=\"red\",region=\"eu\"} 2\n", "test_state{colour=\"red\"} 1\n"]
        {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_gauge_that_was_withdrawn_is_not_rendered_until_it_is_set_again() {
        let (catalogue, metrics) = catalogue(&LabelNames::default().with("region", ["us", "eu"]));
        metrics.set(&STATE, (Colour::Red, "eu"), 2.0);
        metrics.set(&STATE, (Colour::Red, "us"), 3.0);
        metrics.withdraw(&STATE, (Colour::Red, "eu"));
        let text = render(&catalogue, ExpositionFormat::Text);
        assert!(!text.contains("eu") && !text.contains("NaN"), "{text}");
        assert!(text.contains("test_state{colour=\"red\",region=\"us\"} 3\n"), "{text}");
        metrics.set(&STATE, (Colour::Red, "eu"), 4.0);
        let text = render(&catalogue, ExpositionFormat::Text);
        assert!(text.contains("test_state{colour=\"red\",region=\"eu\"} 4\n"), "{text}");
    }

    #[test]
    fn series_that_are_shown_exist_from_the_start() {
        let (catalogue, _metrics) = catalogue(&routes());
        let text = render(&catalogue, ExpositionFormat::Text);
        for line in [
            "test_wait_seconds_count{route=\"/ws\"} 0\n",
            "test_limits_total{colour=\"red\"} 0\n",
            "test_plain 0\n",
            "# HELP test_limits_total Limits.\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("test_requests_total{"), "{text}");
    }

    #[test]
    fn a_new_name_leaves_the_series_of_others_as_they_are() {
        let mut names = routes();
        let (catalogue, metrics) = catalogue(&names);
        metrics.count(&REQUESTS, ("/ws", None));
        assert!(!names.add(routes()));
        assert!(names.add(LabelNames::default().with("route", ["/a"])));
        let metrics = catalogue.metrics(&names);
        metrics.count(&REQUESTS, ("/ws", None));
        metrics.count(&REQUESTS, ("/a", None));
        let text = render(&catalogue, ExpositionFormat::Text);
        for line in ["{route=\"/ws\",colour=\"none\"} 2\n", "{route=\"/a\",colour=\"none\"} 1\n"] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    #[should_panic(expected = "test_unlisted_total is not in a list of families")]
    fn a_family_that_is_in_no_list_fails_a_test() {
        static UNLISTED: Family<Counter> = Family::new("test_unlisted_total", &[], "Nothing.");
        catalogue(&routes()).1.count(&UNLISTED, ());
    }
}
