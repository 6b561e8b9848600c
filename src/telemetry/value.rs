//! The values of series: numbers that events change and the exposition reads.
//!
//! All are atomics. An event costs one addition, a duration two, and no event waits for a reader.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::family::{HANDSHAKE_BUCKETS, MetricKind};
use crate::base::clock::UnixMillis;
use crate::base::lock::lock;
use crate::model::trace_context::TraceId;

/// The value of one series.
#[derive(Debug)]
pub enum Value {
    Count(AtomicU64),
    /// The bits of an `f64`. NaN: the series is not rendered.
    Figure(AtomicU64),
    Durations(Durations),
}

/// A number of events. It only grows.
#[derive(Debug)]
pub enum Counter {}

/// A total that only grows, and is counted elsewhere: the system or another module keeps it.
#[derive(Debug)]
pub enum Total {}

/// A number that goes up and down.
#[derive(Debug)]
pub enum Gauge {}

/// The distribution of durations.
#[derive(Debug)]
pub enum Histogram {}

/// The kind of a family's values, as a type.
pub trait Instrument: 'static {
    const KIND: MetricKind;

    fn value(kind: MetricKind) -> Value;
}

impl Instrument for Counter {
    const KIND: MetricKind = MetricKind::Counter;

    fn value(_: MetricKind) -> Value {
        Value::Count(AtomicU64::new(0))
    }
}

impl Instrument for Total {
    const KIND: MetricKind = MetricKind::Counter;

    fn value(_: MetricKind) -> Value {
        Value::Figure(AtomicU64::new(0_f64.to_bits()))
    }
}

impl Instrument for Gauge {
    const KIND: MetricKind = MetricKind::Gauge;

    fn value(_: MetricKind) -> Value {
        Value::Figure(AtomicU64::new(0_f64.to_bits()))
    }
}

impl Instrument for Histogram {
    const KIND: MetricKind = MetricKind::Histogram(HANDSHAKE_BUCKETS);

    fn value(kind: MetricKind) -> Value {
        let MetricKind::Histogram(bounds) = kind else {
            return Value::Durations(Durations::new(&[]));
        };
        Value::Durations(Durations::new(bounds))
    }
}

impl Value {
    pub(super) fn add(&self, amount: u64) {
        if let Self::Count(count) = self {
            count.fetch_add(amount, Ordering::Relaxed);
        }
    }

    pub(super) fn set(&self, figure: f64) {
        if let Self::Figure(bits) = self {
            bits.store(figure.to_bits(), Ordering::Relaxed);
        }
    }

    pub(super) fn figure(&self) -> Option<f64> {
        let Self::Figure(bits) = self else { return None };
        Some(f64::from_bits(bits.load(Ordering::Relaxed))).filter(|figure| !figure.is_nan())
    }

    /// Adds to a figure, or subtracts from it.
    pub(super) fn change(&self, by: f64) {
        if let Self::Figure(bits) = self {
            let changed = |before| Some((f64::from_bits(before) + by).to_bits());
            let _ = bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
        }
    }

    pub(super) fn observe(&self, duration: Duration, exemplar: Option<(TraceId, UnixMillis)>) {
        if let Self::Durations(durations) = self {
            durations.observe(duration, exemplar);
        }
    }
}

/// Durations by bucket.
#[derive(Debug)]
pub struct Durations {
    bounds: &'static [f64],
    /// The counts of the buckets, not cumulative. The last is for durations above all bounds.
    counts: Box<[AtomicU64]>,
    /// In units of 100 ns, so that a sum of centuries fits.
    sum: AtomicU64,
    /// The last exemplar of each bucket. Most series never have one.
    exemplars: OnceLock<Box<[Mutex<Option<Exemplar>>]>>,
}

/// One observation whose trace is known.
#[derive(Clone, Copy, Debug)]
pub struct Exemplar {
    pub trace: TraceId,
    pub seconds: f64,
    pub at: UnixMillis,
}

/// A bucket as it is rendered.
#[derive(Debug)]
pub struct Bucket {
    /// `None`: above all bounds.
    pub bound: Option<f64>,
    /// The observations up to this bound.
    pub cumulative: u64,
    pub exemplar: Option<Exemplar>,
}

impl Durations {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect(),
            sum: AtomicU64::new(0),
            exemplars: OnceLock::new(),
        }
    }

    fn observe(&self, duration: Duration, exemplar: Option<(TraceId, UnixMillis)>) {
        let seconds = duration.as_secs_f64();
        let place = self.bounds.partition_point(|bound| *bound < seconds);
        let units = u64::try_from(duration.as_nanos() / 100).unwrap_or(u64::MAX);
        self.sum.fetch_add(units, Ordering::Relaxed);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some((trace, at)) = exemplar {
            let slots = self.exemplars.get_or_init(|| {
                std::iter::repeat_with(Mutex::default).take(self.counts.len()).collect()
            });
            if let Some(slot) = slots.get(place) {
                *lock(slot) = Some(Exemplar { trace, seconds, at });
            }
        }
    }

    /// Returns the buckets. The last has the number of all observations.
    pub(super) fn buckets(&self) -> Vec<Bucket> {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        let mut cumulative = 0;
        let buckets = self.counts.iter().zip(bounds).enumerate().map(|(place, (count, bound))| {
            cumulative += count.load(Ordering::Relaxed);
            let slot = self.exemplars.get().and_then(|slots| slots.get(place));
            Bucket { bound, cumulative, exemplar: slot.and_then(|slot| *lock(slot)) }
        });
        buckets.collect()
    }

    /// Returns the sum of all durations, in seconds.
    pub(super) fn sum(&self) -> f64 {
        self.sum.load(Ordering::Relaxed) as f64 / 1e7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_at_a_bound_is_inside_it_and_a_long_one_is_above_all() {
        let durations = Durations::new(&[0.001, 1.0]);
        for micros in [1, 1_000, 1_001, 1_000_000, 7_000_000] {
            durations.observe(Duration::from_micros(micros), None);
        }
        let cumulative: Vec<u64> =
            durations.buckets().iter().map(|bucket| bucket.cumulative).collect();
        assert_eq!(cumulative, [2, 4, 5]);
        assert!((durations.sum() - 8.002_002).abs() < 1e-9, "{}", durations.sum());
    }

    #[test]
    fn a_bucket_keeps_its_last_exemplar() {
        let durations = Durations::new(&[1.0]);
        let [first, last] = [1, 2].map(|byte| TraceId::from_bytes([byte; 16]).unwrap());
        for (millis, trace) in [(100, Some(first)), (200, Some(last)), (300, None)] {
            let exemplar = trace.map(|trace| (trace, UnixMillis(5)));
            durations.observe(Duration::from_millis(millis), exemplar);
        }
        let buckets = durations.buckets();
        let exemplar = buckets[0].exemplar.unwrap();
        assert_eq!((exemplar.trace, exemplar.at), (last, UnixMillis(5)));
        assert!((exemplar.seconds - 0.2).abs() < 1e-9);
        assert!(buckets[1].exemplar.is_none());
    }
}
