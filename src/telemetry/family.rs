//! Metric families. Each is declared once, next to the events that change it, with its name, its
//! labels and their closed sets, and its documentation.
//!
//! ```ignore
//! families! {
//!     /// Tickets redeemed.
//!     REDEEMED: Counter = "usher_tickets_redeemed_total", { route: Name }, shown;
//! }
//! ```
//!
//! The sentence above a family is its help text and its row in `docs/metrics.md`. A family without
//! a sentence does not compile. The macro also makes `FAMILIES`, the list of all families of the
//! module.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::metrics::{Dimension, KnownSeries, Series};
use super::value::{Histogram, Instrument};

/// The documentation of a family, for `docs/metrics.md`.
#[derive(Debug)]
pub struct Definition {
    pub name: &'static str,
    pub kind: MetricKind,
    pub labels: &'static [&'static str],
    help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricKind {
    Counter,
    Gauge,
    /// A histogram with the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// From 0.1 ms, the cost of a ticket, to the timeouts. In seconds.
pub const HANDSHAKE_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// A metric over the closed sets `L` of its labels. `I` is its instrument.
pub struct Family<I, L = ()> {
    definition: Definition,
    registers_all: bool,
    /// The index in every [`super::metrics::Metrics`], assigned at the first registration.
    slot: AtomicUsize,
    types: PhantomData<fn(I, L)>,
}

const UNREGISTERED: usize = usize::MAX;

impl<I: Instrument, L: Labels> Family<I, L> {
    pub const fn new(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        assert!(labels.len() == L::COUNT, "a family has one type for each label");
        Self {
            definition: Definition { name, kind: I::KIND, labels, help },
            registers_all: L::COUNT == 0,
            slot: AtomicUsize::new(UNREGISTERED),
            types: PhantomData,
        }
    }

    /// Creates all series of known values at the start, so that the first event is an increase for
    /// `rate`.
    #[must_use]
    pub const fn shown(self) -> Self {
        Self { registers_all: true, ..self }
    }
}

impl<L: Labels> Family<Histogram, L> {
    #[must_use]
    pub const fn buckets(self, bounds: &'static [f64]) -> Self {
        let definition = Definition { kind: MetricKind::Histogram(bounds), ..self.definition };
        Self { definition, ..self }
    }
}

impl Definition {
    pub fn help(&self) -> &'static str {
        self.help.trim_start()
    }
}

/// A family with any labels, for lists of families.
pub trait AnyFamily: Sync {
    fn definition(&self) -> &Definition;
    /// Returns the index of the family, which stays the same for the life of the process.
    fn register(&self) -> usize;
    /// Returns the series for these names. With [`Family::shown`], they exist at once.
    fn series(&self, known: &Arc<KnownSeries>, names: &LabelNames) -> Series;
}

impl<I: Instrument, L: Labels> AnyFamily for Family<I, L> {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    fn register(&self) -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        if self.slot() == UNREGISTERED {
            let slot = NEXT.fetch_add(1, Ordering::Relaxed);
            let _ = self.slot.compare_exchange(
                UNREGISTERED,
                slot,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
        self.slot()
    }

    fn series(&self, known: &Arc<KnownSeries>, names: &LabelNames) -> Series {
        let dimensions = L::dimensions(self.definition.labels, names);
        Series::new(known, dimensions, self.registers_all, self.definition.kind, I::value)
    }
}

impl<I, L> Family<I, L> {
    pub(super) fn slot(&self) -> usize {
        self.slot.load(Ordering::Relaxed)
    }

    pub(super) fn name(&self) -> &'static str {
        self.definition.name
    }
}

/// The names of a configuration that are label values, by label: `route`, `upstream`, ...
#[derive(Clone, Debug, Default)]
pub struct LabelNames(BTreeMap<&'static str, BTreeSet<String>>);

impl LabelNames {
    #[must_use]
    pub fn with<S: Into<String>>(
        mut self,
        label: &'static str,
        names: impl IntoIterator<Item = S>,
    ) -> Self {
        self.0.entry(label).or_default().extend(names.into_iter().map(Into::into));
        self
    }

    /// Adds the names of another configuration. Returns true if any of them is new.
    pub fn add(&mut self, other: Self) -> bool {
        let count = |names: &Self| names.0.values().map(BTreeSet::len).sum::<usize>();
        let before = count(self);
        for (label, names) in other.0 {
            self.0.entry(label).or_default().extend(names);
        }
        before < count(self)
    }

    fn of(&self, label: &str) -> Vec<&str> {
        self.0.get(label).into_iter().flatten().map(String::as_str).collect()
    }
}

/// The values of one label. They are a closed set, so that a client cannot cause new series.
pub trait Label {
    type Value<'a>: Copy;

    /// Whether a label without a value is left out. Otherwise its value is `none`.
    const IS_OPTIONAL: bool = false;

    /// Returns the values that are known in advance. `label` is the name of the label.
    fn known<'n>(label: &str, names: &'n LabelNames) -> Vec<&'n str>;

    /// Returns the text of a value. Empty counts as `none`, an unknown one as `other`.
    fn text(value: Self::Value<'_>) -> &str;

    /// Returns the index of a value in its dimension.
    fn place(value: Self::Value<'_>, dimension: &Dimension) -> usize {
        dimension.place(Self::text(value))
    }
}

/// A name from the configuration. The label's set is in [`LabelNames`].
#[derive(Debug)]
pub enum Name {}

impl Label for Name {
    type Value<'a> = &'a str;

    fn known<'n>(label: &str, names: &'n LabelNames) -> Vec<&'n str> {
        names.of(label)
    }

    fn text(value: Self::Value<'_>) -> &str {
        value
    }
}

/// A name from the configuration that many configurations do not have.
#[derive(Debug)]
pub enum OptionalName {}

impl Label for OptionalName {
    type Value<'a> = &'a str;

    const IS_OPTIONAL: bool = true;

    fn known<'n>(label: &str, names: &'n LabelNames) -> Vec<&'n str> {
        names.of(label)
    }

    fn text(value: Self::Value<'_>) -> &str {
        value
    }
}

/// An enum whose variants are the values of a label.
pub trait Word: Copy + 'static {
    fn all() -> Vec<Self>;
    fn word(self) -> &'static str;
    /// Returns the position in [`Word::all`], so that counting needs no hash.
    fn position(self) -> usize;
}

impl<W: Word> Label for W {
    type Value<'a> = W;

    fn known<'n>(_: &str, _: &'n LabelNames) -> Vec<&'n str> {
        let all = W::all();
        debug_assert!(all.iter().enumerate().all(|(place, word)| word.position() == place));
        all.into_iter().map(W::word).collect()
    }

    fn text(value: Self::Value<'_>) -> &str {
        value.word()
    }

    fn place(value: Self::Value<'_>, dimension: &Dimension) -> usize {
        debug_assert_eq!(dimension.value(value.position()), value.word());
        value.position()
    }
}

impl<L: Label> Label for Option<L> {
    type Value<'a> = Option<L::Value<'a>>;

    fn known<'n>(label: &str, names: &'n LabelNames) -> Vec<&'n str> {
        L::known(label, names)
    }

    fn text(value: Self::Value<'_>) -> &str {
        value.map_or("", L::text)
    }

    fn place(value: Self::Value<'_>, dimension: &Dimension) -> usize {
        match value {
            Some(value) => L::place(value, dimension),
            None => dimension.place(""),
        }
    }
}

/// The labels of one family, as a tuple of [`Label`]s.
pub trait Labels: 'static {
    type Values<'a>;

    const COUNT: usize;

    fn dimensions(labels: &[&'static str], names: &LabelNames) -> Vec<Dimension>;

    /// Returns the index of the cell for these values.
    fn cell(dimensions: &[Dimension], values: Self::Values<'_>) -> usize;
}

macro_rules! labels {
    ($count:literal $($label:ident)*) => {
        impl<$($label: Label + 'static),*> Labels for ($($label,)*) {
            type Values<'a> = ($($label::Value<'a>,)*);

            const COUNT: usize = $count;

            #[allow(unused_variables, unused_mut, reason = "a family may have no label")]
            fn dimensions(labels: &[&'static str], names: &LabelNames) -> Vec<Dimension> {
                let mut labels = labels.iter();
                vec![$({
                    let label = labels.next().copied().unwrap_or_default();
                    Dimension::new(label, &$label::known(label, names), $label::IS_OPTIONAL)
                }),*]
            }

            #[allow(non_snake_case, unused_variables, unused_mut, reason = "as above")]
            fn cell(dimensions: &[Dimension], values: Self::Values<'_>) -> usize {
                let ($($label,)*) = values;
                let mut dimensions = dimensions.iter();
                let mut cell = 0;
                $(if let Some(dimension) = dimensions.next() {
                    cell = cell * dimension.len() + $label::place($label, dimension);
                })*
                cell
            }
        }
    };
}

labels!(0);
labels!(1 A);
labels!(2 A B);
labels!(3 A B C);
labels!(4 A B C D);

/// Declares the metric families of a module, and `FAMILIES`, the list of them.
///
/// A declaration has a sentence, the name in the code, the instrument, the name of the metric, its
/// labels with their [`Label`] types, and options, which are methods of [`Family`].
macro_rules! families {
    ($(
        $(#[doc = $help:literal])+
        $family:ident: $instrument:ident = $name:literal
            $(, { $($label:ident: $type:ty),* })? $(, $option:ident $(($argument:expr))?)*;
    )*) => {
        $(
            $(#[doc = $help])+
            static $family: $crate::telemetry::family::Family<
                $crate::telemetry::value::$instrument,
                ($($($type,)*)?),
            > = $crate::telemetry::family::Family::new(
                $name,
                &[$($(stringify!($label)),*)?],
                concat!($($help),+),
            )$(.$option($($argument)?))*;
        )*
        /// The metric families of this module, in the order of `docs/metrics.md`.
        pub static FAMILIES: &[&dyn $crate::telemetry::family::AnyFamily] = &[$(&$family),*];
    };
}
pub(crate) use families;

/// Declares a closed set of label values: an enum with one word for each variant.
macro_rules! words {
    (
        $(#[$about:meta])*
        $visibility:vis enum $name:ident {
            $($(#[$note:meta])* $variant:ident = $word:literal,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name {
            $($(#[$note])* $variant,)*
        }

        impl $crate::telemetry::family::Word for $name {
            fn all() -> Vec<Self> {
                vec![$(Self::$variant),*]
            }

            fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            fn position(self) -> usize {
                self as usize
            }
        }
    };
}
pub(crate) use words;
