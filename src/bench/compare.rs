//! Compares two targets: their ratios in paired rounds, and whether these are more than noise.

use std::fmt::Write;

use serde_json::{Value, json};

use super::client::AttemptPhase;
use super::tally::Tally;

/// The quantiles of the main phase that are compared.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];

pub const NOTHING: &str = "fewer than six rounds succeeded on both targets: nothing to compare";

/// The results of both targets in one round.
pub struct Round {
    pub a: Tally,
    pub b: Tally,
}

/// B divided by A, over all rounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratio {
    /// `per_second`, or a phase and a percentile.
    pub measure: String,
    pub median: f64,
    /// The interval that has the median of all possible rounds with a confidence of 95 %.
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    /// Whether the rounds differ among each other more than the targets do.
    pub fn is_noise(&self) -> bool {
        self.low <= 1.0 && self.high >= 1.0
    }

    pub fn verdict(&self) -> String {
        if self.is_noise() {
            "noise is larger than the difference".to_owned()
        } else {
            let percent = (self.median - 1.0) * 100.0;
            format!(
                "B is {:.1} % {}",
                percent.abs(),
                if percent > 0.0 { "higher" } else { "lower" }
            )
        }
    }
}

/// Returns the ratios of all measures that both targets have in at least six rounds. The throughput
/// of an open loop is given, so it is not compared.
pub fn ratios(rounds: &[Round], is_open_loop: bool) -> Vec<Ratio> {
    let mut all = Vec::new();
    let mut compare = |measure: String, value: &dyn Fn(&Tally) -> f64| {
        let pairs = rounds.iter().map(|round| (value(&round.a), value(&round.b)));
        let ratios = pairs.filter(|(a, b)| *a > 0.0 && *b > 0.0).map(|(a, b)| b / a);
        all.extend(ratio(measure, ratios.collect()));
    };
    if !is_open_loop {
        compare("per_second".to_owned(), &Tally::per_second);
    }
    let main = rounds.first().map_or(AttemptPhase::Total, |round| round.a.main_phase());
    for phase in AttemptPhase::ALL.into_iter().filter(|phase| *phase != AttemptPhase::Late) {
        let quantiles = if phase == main { &QUANTILES[..] } else { &QUANTILES[..1] };
        for (name, quantile) in quantiles {
            compare(format!("{} {name}", phase.word()), &|tally| tally.quantile(phase, *quantile));
        }
    }
    all
}

/// Returns the median and its interval. `None` for fewer than six ratios, which have no interval of
/// that confidence.
fn ratio(measure: String, mut ratios: Vec<f64>) -> Option<Ratio> {
    ratios.sort_by(f64::total_cmp);
    let rank = interval_rank(ratios.len())?;
    let at = |index: usize| ratios.get(index).copied();
    let median = (at((ratios.len() - 1) / 2)? + at(ratios.len() / 2)?) / 2.0;
    Some(Ratio { measure, median, low: at(rank)?, high: at(ratios.len() - 1 - rank)? })
}

/// Returns how many of the smallest and of the largest values lie outside of the interval of the
/// median. It counts heads of a fair coin: half of all values are below the median, whatever their
/// distribution.
fn interval_rank(count: usize) -> Option<usize> {
    let mut likelihood = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut tail = likelihood;
    let mut rank = None;
    for outside in 0..count {
        if tail > 0.025 {
            break;
        }
        rank = Some(outside);
        likelihood *= (count - outside) as f64 / (outside + 1) as f64;
        tail += likelihood;
    }
    rank
}

pub fn table(ratios: &[Ratio], rounds: usize) -> String {
    let mut text = format!(
        "{:<14} {:>8} {:>17}   B / A in {rounds} rounds\n",
        "ratio", "median", "95 % interval"
    );
    for ratio in ratios {
        let Ratio { measure, median, low, high } = ratio;
        let interval = format!("{low:.3} .. {high:.3}");
        let _ = writeln!(text, "{measure:<14} {median:>8.3} {interval:>17}   {}", ratio.verdict());
    }
    if ratios.is_empty() {
        let _ = writeln!(text, "{NOTHING}");
    } else if ratios.iter().any(Ratio::is_noise) {
        text.push_str("help: more --rounds, a longer run or an idle machine reduce the noise\n");
    }
    text
}

pub fn json(ratios: &[Ratio]) -> Value {
    let round = |value: f64| (value * 10_000.0).round() / 10_000.0;
    let rows = ratios.iter().map(|ratio| {
        json!({
            "measure": ratio.measure, "median": round(ratio.median), "low": round(ratio.low),
            "high": round(ratio.high), "is_noise": ratio.is_noise(),
        })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_the_median_is_that_of_the_tables() {
        // Ranks from tables of the sign test, two-sided, 5 %.
        for (count, rank) in
            [(5, None), (6, Some(0)), (8, Some(0)), (9, Some(1)), (10, Some(1)), (20, Some(5))]
        {
            assert_eq!(interval_rank(count), rank, "{count}");
        }
        assert!(interval_rank(1000).is_some());
    }

    #[test]
    fn a_difference_stands_out_of_the_noise_or_not() {
        let alike = ratio("x".to_owned(), vec![0.9, 1.1, 0.95, 1.05, 1.0, 1.02, 0.98, 1.01]);
        let alike = alike.unwrap();
        assert_eq!((alike.low, alike.high), (0.9, 1.1));
        assert!(alike.is_noise() && alike.verdict().contains("noise"));
        let slower = ratio("x".to_owned(), vec![1.2, 1.3, 1.25, 1.21, 1.22, 1.4]).unwrap();
        assert!((slower.median - 1.235).abs() < 1e-9);
        assert_eq!(slower.verdict(), "B is 23.5 % higher");
        assert_eq!(ratio("x".to_owned(), vec![1.0; 5]), None);
        let text = table(&[alike, slower], 8);
        assert!(text.contains("0.900 .. 1.100") && text.contains("help: more --rounds"), "{text}");
        assert!(table(&[], 3).contains("nothing to compare"));
    }
}
