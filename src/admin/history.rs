//! `GET /history`: the last 15 minutes of a few figures, for the charts of the admin page.
//!
//! The figures are read from the metrics every 5 s, so they agree with `/metrics`, and nothing is
//! counted a second time. The history has a fixed size, and starts anew with the process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use std::time::Duration;

use super::{Admin, answer_json};
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::base::memory;
use crate::rejection::Rejection;

/// The time between two points.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// The most points: 15 minutes.
const POINTS: usize = 180;
/// The points of the last minute.
const LAST_MINUTE: usize = 12;

/// How a figure is read from the metrics: the sum over the series of a family.
struct Figure {
    name: &'static str,
    family: &'static str,
    series: Series,
    is_rate: bool,
}

/// The series of a family that count for a figure, by a label as it is written.
enum Series {
    All,
    With(&'static str),
    Without(&'static str),
}

const UPGRADES: &str = "usher_upgrades_total";
const TICKETS_REFUSED: &str = "usher_tickets_refused_total";
const ACCEPTED: &str = "outcome=\"accepted\"";

const fn now(name: &'static str, family: &'static str) -> Figure {
    Figure { name, family, series: Series::All, is_rate: false }
}

const fn rate(name: &'static str, family: &'static str, series: Series) -> Figure {
    Figure { name, family, series, is_rate: true }
}

const FIGURES: [Figure; 13] = [
    now("sessions", "usher_sessions_active"),
    now("connections", "usher_connections_open"),
    now("unauthenticated", "usher_unauthenticated_open"),
    now("tickets", "usher_tickets_held"),
    rate("accepted", UPGRADES, Series::With(ACCEPTED)),
    rate("refused", UPGRADES, Series::Without(ACCEPTED)),
    rate("ended", "usher_session_closes_total", Series::All),
    rate(
        "messages_from_client",
        "usher_relay_messages_total",
        Series::With("direction=\"from_client\""),
    ),
    rate(
        "messages_from_upstream",
        "usher_relay_messages_total",
        Series::With("direction=\"from_upstream\""),
    ),
    rate("bytes_from_client", "usher_relay_bytes_total", Series::With("direction=\"from_client\"")),
    rate(
        "bytes_from_upstream",
        "usher_relay_bytes_total",
        Series::With("direction=\"from_upstream\""),
    ),
    rate("tickets_issued", "usher_tickets_issued_total", Series::All),
    rate("tickets_redeemed", "usher_tickets_redeemed_total", Series::All),
];

/// Sums that were read from the metrics at one time.
struct Reading {
    at: Now,
    /// In the order of [`FIGURES`].
    sums: [f64; FIGURES.len()],
    /// Refused upgrades and tickets since the start, by the label of the rejection.
    refusals: BTreeMap<String, f64>,
}

#[derive(Debug)]
struct Point {
    at: u64,
    values: [f64; FIGURES.len()],
    /// The memory of the process in bytes. `None`: the system does not tell.
    memory: Option<u64>,
    /// Upgrades and tickets refused since the point before. The labels are a closed set.
    refusals: Vec<(String, f64)>,
}

#[derive(Default)]
pub struct History(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    points: VecDeque<Point>,
    last: Option<Reading>,
}

impl History {
    /// Adds a point for the time since the last call. The first call only begins.
    fn add(&self, metrics: &str, at: Now, memory: Option<u64>) {
        let reading = Reading::of(metrics, at);
        let mut kept = lock(&self.0);
        if let Some(before) = &kept.last {
            let point = Point::between(before, &reading, memory);
            if kept.points.len() == POINTS {
                kept.points.pop_front();
            }
            kept.points.push_back(point);
        }
        kept.last = Some(reading);
    }

    fn json(&self) -> Value {
        let kept = lock(&self.0);
        let column = |value: &dyn Fn(&Point) -> Value| -> Value {
            kept.points.iter().map(value).collect::<Vec<_>>().into()
        };
        let mut series = Map::new();
        for (index, figure) in FIGURES.iter().enumerate() {
            let value = |point: &Point| point.values.get(index).copied().map_or(Value::Null, short);
            series.insert(figure.name.to_owned(), column(&value));
        }
        series.insert("memory".to_owned(), column(&|point| point.memory.into()));
        json!({
            "interval_seconds": INTERVAL.as_secs(),
            "points": POINTS,
            "at": column(&|point| point.at.into()),
            "series": series,
            "refusals": refusals(&kept.points),
        })
    }
}

impl Reading {
    /// Reads the metrics in the text format of Prometheus.
    fn of(metrics: &str, at: Now) -> Self {
        let mut reading = Self { at, sums: [0.0; FIGURES.len()], refusals: BTreeMap::new() };
        for line in metrics.lines().filter(|line| line.starts_with("usher_")) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Some(value) = value.parse().ok().filter(|value: &f64| value.is_finite()) else {
                continue;
            };
            let (family, labels) = series.split_once('{').unwrap_or((series, ""));
            for (figure, sum) in FIGURES.iter().zip(&mut reading.sums) {
                if figure.family == family && figure.series.has(labels) {
                    *sum += value;
                }
            }
            if matches!(family, UPGRADES | TICKETS_REFUSED)
                && !labels.contains(ACCEPTED)
                && let Some((_, outcome)) = labels.rsplit_once("outcome=\"")
            {
                let outcome = outcome.split('"').next().unwrap_or_default();
                *reading.refusals.entry(outcome.to_owned()).or_default() += value;
            }
        }
        reading
    }
}

impl Series {
    fn has(&self, labels: &str) -> bool {
        match self {
            Self::All => true,
            Self::With(label) => labels.contains(label),
            Self::Without(label) => !labels.contains(label),
        }
    }
}

impl Point {
    fn between(before: &Reading, after: &Reading, memory: Option<u64>) -> Self {
        let seconds = after.at.mono.saturating_duration_since(before.at.mono).as_secs_f64();
        let mut values = after.sums;
        for ((value, earlier), figure) in values.iter_mut().zip(before.sums).zip(&FIGURES) {
            if figure.is_rate {
                *value = (*value - earlier).max(0.0) / seconds.max(0.001);
            }
        }
        let refusals = after.refusals.iter().filter_map(|(reason, count)| {
            let more = count - before.refusals.get(reason).copied().unwrap_or_default();
            (more > 0.0).then(|| (reason.clone(), more))
        });
        Self { at: after.at.wall.0, values, memory, refusals: refusals.collect() }
    }
}

/// Rounds to a thousandth, so that the answer stays small.
fn short(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

/// Returns the refusals of all points by reason, the most frequent first.
fn refusals(points: &VecDeque<Point>) -> Value {
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    let newest = points.len().saturating_sub(LAST_MINUTE);
    for (index, point) in points.iter().enumerate() {
        for (reason, count) in &point.refusals {
            let (all, last_minute) = sums.entry(reason).or_default();
            *all += count;
            if index >= newest {
                *last_minute += count;
            }
        }
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|(_, (a, _)), (_, (b, _))| b.total_cmp(a));
    let catalogue = Rejection::catalogue();
    let side = |reason: &str| {
        let mut facts = catalogue.iter().map(Rejection::facts);
        facts.find(|facts| facts.label == reason).map(|facts| facts.side.name())
    };
    let rows = sums.into_iter().map(|(reason, (all, last_minute))| {
        json!({
            "reason": reason, "side": side(reason), "count": all as u64,
            "last_minute": last_minute as u64,
        })
    });
    rows.collect::<Vec<_>>().into()
}

impl Admin {
    /// Adds a point to the history, and ends logins whose time is over. Called every [`INTERVAL`].
    pub fn tick(&self, now: Now) {
        self.registry.count_traffic();
        let is_figure = |family: &str| {
            family == TICKETS_REFUSED || FIGURES.iter().any(|figure| figure.family == family)
        };
        let metrics = self.telemetry.render_families(is_figure);
        self.history.add(&metrics, now, memory::resident());
        self.logins.sweep(self.token.as_ref(), &self.login_rules, now);
    }

    pub(super) fn history(&self) -> Response<Full<Bytes>> {
        answer_json(StatusCode::OK, &self.history.json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(accepted: u64, refused: u64, sessions: u64) -> String {
        let tried = "route=\"/a\",method=\"ticket\"";
        let anonymous = "method=\"none\",outcome=\"invalid_token\"";
        format!(
            "# HELP usher_upgrades_total Upgrades.\n\
             usher_upgrades_total{{{tried},outcome=\"accepted\"}} {accepted}\n\
             usher_upgrades_total{{route=\"/b\",{anonymous}}} {refused}\n\
             usher_upgrades_total{{route=\"/a\",{anonymous}}} 1\n\
             usher_tickets_refused_total{{outcome=\"store_unavailable\"}} {sessions}\n\
             usher_sessions_active{{route=\"/a\"}} {sessions}\n\
             usher_sessions_active{{route=\"/b\"}} 2\n\
             usher_connections_open 7\n"
        )
    }

    fn after(now: Now, seconds: u64) -> Now {
        let span = Duration::from_secs(seconds);
        Now { mono: now.mono + span, wall: now.wall + span }
    }

    #[test]
    fn a_point_has_rates_of_counters_and_values_of_gauges() {
        let (history, start) = (History::default(), Now::read());
        history.add(&text(10, 0, 3), start, None);
        assert_eq!(history.json()["at"], json!([]), "one reading is no rate");
        history.add(&text(20, 15, 4), after(start, 5), Some(77));
        let body = history.json();
        let series = &body["series"];
        for (name, values) in [
            ("accepted", json!([2.0])),
            ("refused", json!([3.0])),
            ("sessions", json!([6.0])),
            ("connections", json!([7.0])),
            ("memory", json!([77])),
        ] {
            assert_eq!(series[name], values, "{name}");
        }
        let refusals = json!([
            { "reason": "invalid_token", "side": "client", "count": 15, "last_minute": 15 },
            { "reason": "store_unavailable", "side": "store", "count": 1, "last_minute": 1 },
        ]);
        assert_eq!(body["refusals"], refusals);
    }

    #[test]
    fn the_history_has_a_fixed_size_and_a_reset_is_no_negative_rate() {
        let (history, start) = (History::default(), Now::read());
        for second in 0..2000 {
            history.add(&text(second * 10, second, 0), after(start, second * 5), None);
        }
        let body = history.json();
        let accepted = body["series"]["accepted"].as_array().unwrap();
        assert_eq!((accepted.len(), &accepted[0]), (POINTS, &json!(2.0)));
        assert_eq!(body["refusals"][0]["count"], POINTS);
        assert_eq!(body["refusals"][0]["last_minute"], LAST_MINUTE);
        history.add(&text(0, 0, 0), after(start, 10_000), None);
        let body = history.json();
        assert_eq!(body["series"]["accepted"][POINTS - 1], json!(0.0));
    }

    #[test]
    fn every_figure_is_a_family_that_exists() {
        let families: Vec<_> =
            crate::telemetry_setup::families().map(|family| family.definition().name).collect();
        use crate::admin::status::{BYPASS_ALLOWED, CONFIG_IS_CURRENT, READS_REVOCATIONS};
        let others = [TICKETS_REFUSED, BYPASS_ALLOWED, CONFIG_IS_CURRENT, READS_REVOCATIONS];
        for family in FIGURES.iter().map(|figure| figure.family).chain(others) {
            assert!(families.contains(&family), "{family}");
        }
    }
}
