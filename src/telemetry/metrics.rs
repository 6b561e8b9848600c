//! The time series of every family, and the operations of events on them.
//!
//! Handles are looked up once and kept, because a lookup costs seven times as much as counting.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use super::InstallError;
use super::family::{AnyFamily, Definition, Family, HANDSHAKE_BUCKETS, Kind, LabelNames, Labels};

/// The value of a label without a value: no route, no method, no close code.
pub(super) const NONE: &str = "none";
/// The value of a label for an unknown value.
pub(super) const OTHER: &str = "other";

/// The end of a line with the value of a withdrawn gauge.
const WITHDRAWN: &str = " NaN\n";

pub type Recorder = Arc<PrometheusRecorder>;

/// The series for the names of one configuration, by the index of their family.
pub struct Metrics(Vec<Option<Cells>>);

/// All series, and their output for Prometheus.
pub(super) struct Exposition {
    families: Vec<&'static dyn AnyFamily>,
    recorder: Recorder,
    pub(super) handle: PrometheusHandle,
}

impl Exposition {
    pub(super) fn new(
        families: impl IntoIterator<Item = &'static dyn AnyFamily>,
    ) -> Result<Self, InstallError> {
        let families: Vec<_> = families.into_iter().collect();
        let mut builder = PrometheusBuilder::new();
        for family in &families {
            // Without buckets, a histogram would become a summary, and summaries of several
            // processes cannot be added.
            let definition = family.definition();
            if let Kind::Histogram(buckets) = definition.kind {
                let matcher = Matcher::Full(definition.name.to_owned());
                builder = builder
                    .set_buckets_for_metric(matcher, buckets)
                    .map_err(|why| InstallError::Metrics(why.to_string()))?;
            }
        }
        let recorder = Arc::new(builder.build_recorder());
        for definition in families.iter().map(|family| family.definition()) {
            let (name, help) = (definition.name.into(), definition.help().into());
            match definition.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
            }
        }
        Ok(Self { families, handle: recorder.handle(), recorder })
    }

    /// Returns the text of all series, without gauges that were withdrawn.
    pub(super) fn render(&self) -> String {
        let text = self.handle.render();
        if !text.contains(WITHDRAWN) {
            return text;
        }
        text.split_inclusive('\n').filter(|line| !line.ends_with(WITHDRAWN)).collect()
    }

    /// Returns the series for these names. Existing series keep their values.
    pub(super) fn metrics(&self, names: &LabelNames) -> Metrics {
        let mut slots = Vec::new();
        for family in &self.families {
            let slot = family.register();
            if slots.len() <= slot {
                slots.resize_with(slot + 1, || None);
            }
            if let Some(cells) = slots.get_mut(slot) {
                *cells = Some(family.cells(&self.recorder, names));
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
        if let Some(counter) = self.handle(family, labels) {
            counter.increment(amount);
        }
    }

    /// Sets a counter that is counted elsewhere.
    pub(super) fn set_total(&self, family: &Family<Counter>, total: u64) {
        if let Some(counter) = self.handle(family, ()) {
            counter.absolute(total);
        }
    }

    pub fn set<L: Labels>(&self, family: &Family<Gauge, L>, labels: L::Values<'_>, value: f64) {
        if let Some(gauge) = self.handle(family, labels) {
            gauge.set(value);
        }
    }

    /// Takes the series of a gauge out of the exposition, until it is set again.
    pub fn withdraw<L: Labels>(&self, family: &Family<Gauge, L>, labels: L::Values<'_>) {
        self.set(family, labels, f64::NAN);
    }

    /// Adds to a gauge, or subtracts from it.
    pub fn change<L: Labels>(&self, family: &Family<Gauge, L>, labels: L::Values<'_>, by: f64) {
        if let Some(gauge) = self.handle(family, labels) {
            gauge.increment(by);
        }
    }

    pub fn record<L: Labels>(
        &self,
        family: &Family<Histogram, L>,
        labels: L::Values<'_>,
        duration: Duration,
    ) {
        if let Some(histogram) = self.handle(family, labels) {
            histogram.record(duration);
        }
    }

    fn handle<I: Instrument, L: Labels>(
        &self,
        family: &Family<I, L>,
        labels: L::Values<'_>,
    ) -> Option<&I> {
        let cells = self.0.get(family.slot()).and_then(Option::as_ref);
        debug_assert!(cells.is_some(), "{} is not in a list of families", family.name());
        let series = I::series(cells?)?;
        series.handle(L::cell(&series.dimensions, labels))
    }
}

/// The series of one family.
pub enum Cells {
    Counter(Series<Counter>),
    Gauge(Series<Gauge>),
    Histogram(Series<Histogram>),
}

/// One handle for each combination of label values. A series is created at its first use.
pub struct Series<I> {
    recorder: Recorder,
    definition: &'static Definition,
    dimensions: Vec<Dimension>,
    handles: Vec<OnceLock<I>>,
}

/// The values of one label, numbered.
pub struct Dimension {
    label: &'static str,
    is_optional: bool,
    values: Vec<String>,
    places: HashMap<String, usize>,
}

impl Dimension {
    pub(super) fn new(label: &'static str, known: &[&str], is_optional: bool) -> Self {
        let mut dimension = Self { label, is_optional, values: Vec::new(), places: HashMap::new() };
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

impl<I: Instrument> Series<I> {
    fn new(
        recorder: &Recorder,
        definition: &'static Definition,
        dimensions: Vec<Dimension>,
        registers_all: bool,
    ) -> Self {
        let size = dimensions.iter().map(Dimension::len).product();
        let handles = std::iter::repeat_with(OnceLock::new).take(size).collect();
        let series = Self { recorder: Arc::clone(recorder), definition, dimensions, handles };
        for cell in 0..if registers_all { size } else { 0 } {
            if !series.values_of(cell).iter().any(|value| *value == NONE || *value == OTHER) {
                series.handle(cell);
            }
        }
        series
    }

    fn handle(&self, cell: usize) -> Option<&I> {
        let handle = self.handles.get(cell)?;
        Some(handle.get_or_init(|| {
            let values = self.values_of(cell);
            let labels = self
                .dimensions
                .iter()
                .zip(values)
                .filter(|(dimension, value)| !dimension.is_optional || *value != NONE)
                .map(|(dimension, value)| Label::new(dimension.label, value.to_owned()));
            I::register(
                &self.recorder,
                &Key::from_parts(self.definition.name, labels.collect::<Vec<_>>()),
            )
        }))
    }

    fn values_of(&self, mut cell: usize) -> Vec<&str> {
        let mut values = Vec::new();
        for dimension in self.dimensions.iter().rev() {
            let count = dimension.len();
            values.push(dimension.value(cell % count));
            cell /= count;
        }
        values.reverse();
        values
    }
}

/// A counter, a gauge or a histogram.
pub trait Instrument: Sized + 'static {
    const KIND: Kind;

    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self;

    fn cells(
        recorder: &Recorder,
        definition: &'static Definition,
        dimensions: Vec<Dimension>,
        registers_all: bool,
    ) -> Cells;

    fn series(cells: &Cells) -> Option<&Series<Self>>;
}

const METADATA: Metadata<'static> = Metadata::new("usher", Level::INFO, None);

macro_rules! instrument {
    ($instrument:ident, $kind:expr, $register:ident) => {
        impl Instrument for $instrument {
            const KIND: Kind = $kind;

            fn register(recorder: &PrometheusRecorder, key: &Key) -> Self {
                recorder.$register(key, &METADATA)
            }

            fn cells(
                recorder: &Recorder,
                definition: &'static Definition,
                dimensions: Vec<Dimension>,
                registers_all: bool,
            ) -> Cells {
                Cells::$instrument(Series::new(recorder, definition, dimensions, registers_all))
            }

            fn series(cells: &Cells) -> Option<&Series<Self>> {
                if let Cells::$instrument(series) = cells { Some(series) } else { None }
            }
        }
    };
}

instrument!(Counter, Kind::Counter, register_counter);
instrument!(Gauge, Kind::Gauge, register_gauge);
instrument!(Histogram, Kind::Histogram(HANDSHAKE_BUCKETS), register_histogram);

#[cfg(test)]
mod tests {
    use super::*;
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

    fn exposition(names: &LabelNames) -> (Exposition, Metrics) {
        let families = FAMILIES.iter().copied();
        let exposition = Exposition::new(families).unwrap();
        let metrics = exposition.metrics(names);
        (exposition, metrics)
    }

    fn routes() -> LabelNames {
        LabelNames::default().with("route", ["/ws"])
    }

    #[test]
    fn histograms_are_rendered_with_their_buckets() {
        let (exposition, metrics) = exposition(&routes());
        metrics.record(&WAIT, ("/ws",), Duration::from_micros(200));
        metrics.record(&LIFE, ("/ws",), Duration::from_secs(400));
        let text = exposition.handle.render();
        for line in [
            "test_wait_seconds_bucket{route=\"/ws\",le=\"0.0001\"} 0\n",
            "test_wait_seconds_bucket{route=\"/ws\",le=\"0.00025\"} 1\n",
            "test_life_seconds_bucket{route=\"/ws\",le=\"1\"} 0\n",
            "test_life_seconds_bucket{route=\"/ws\",le=\"900\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("quantile"), "{text}");
    }

    #[test]
    fn a_value_of_no_known_set_makes_no_new_series() {
        let (exposition, metrics) = exposition(&routes());
        for n in 0..100 {
            metrics.count(&REQUESTS, (&format!("/made-up-{n}"), None));
        }
        metrics.count(&REQUESTS, ("/ws", Some(Colour::Blue)));
        let text = exposition.handle.render();
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
        let (exposition, metrics) = exposition(&LabelNames::default().with("region", ["us", "eu"]));
        metrics.set(&STATE, (Colour::Red, "eu"), 2.0);
        metrics.set(&STATE, (Colour::Red, ""), 1.0);
        let text = exposition.handle.render();
        for line in
            ["test_state{colour=\"red\",region=\"eu\"} 2\n", "test_state{colour=\"red\"} 1\n"]
        {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_gauge_that_was_withdrawn_is_not_rendered_until_it_is_set_again() {
        let (exposition, metrics) = exposition(&LabelNames::default().with("region", ["us", "eu"]));
        metrics.set(&STATE, (Colour::Red, "eu"), 2.0);
        metrics.set(&STATE, (Colour::Red, "us"), 3.0);
        metrics.withdraw(&STATE, (Colour::Red, "eu"));
        let text = exposition.render();
        assert!(!text.contains("eu") && !text.contains("NaN"), "{text}");
        assert!(text.contains("test_state{colour=\"red\",region=\"us\"} 3\n"), "{text}");
        metrics.set(&STATE, (Colour::Red, "eu"), 4.0);
        let text = exposition.render();
        assert!(text.contains("test_state{colour=\"red\",region=\"eu\"} 4\n"), "{text}");
    }

    #[test]
    fn series_that_are_shown_exist_from_the_start() {
        let (exposition, _metrics) = exposition(&routes());
        let text = exposition.handle.render();
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
        let (exposition, metrics) = exposition(&names);
        metrics.count(&REQUESTS, ("/ws", None));
        assert!(!names.add(routes()));
        assert!(names.add(LabelNames::default().with("route", ["/a"])));
        let metrics = exposition.metrics(&names);
        metrics.count(&REQUESTS, ("/ws", None));
        metrics.count(&REQUESTS, ("/a", None));
        let text = exposition.handle.render();
        for line in ["{route=\"/ws\",colour=\"none\"} 2\n", "{route=\"/a\",colour=\"none\"} 1\n"] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    #[should_panic(expected = "test_unlisted_total is not in a list of families")]
    fn a_family_that_is_in_no_list_fails_a_test() {
        static UNLISTED: Family<Counter> = Family::new("test_unlisted_total", &[], "Nothing.");
        exposition(&routes()).1.count(&UNLISTED, ());
    }
}
