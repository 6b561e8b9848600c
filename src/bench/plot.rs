//! The distribution of a phase as text, of fixed width and without colours.

use std::fmt::Write;

use hdrhistogram::Histogram;

const ROWS: usize = 12;
const BAR: usize = 40;

/// One row: values up to this time.
#[derive(Debug, PartialEq, Eq)]
pub struct PlotRow {
    pub to_micros: u64,
    pub count: u64,
}

/// Splits the values into buckets, each wider than the one before by the same factor, so that a
/// long tail and the bulk are both visible.
pub fn buckets(histogram: &Histogram<u64>) -> Vec<PlotRow> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let (least, most) = (histogram.min().max(1) as f64, histogram.max().max(1) as f64);
    let bound = |row: usize| (least * (most / least).powf(row as f64 / ROWS as f64)) as u64;
    let mut buckets = Vec::new();
    let mut below = 0;
    for row in 1..=ROWS {
        let to_micros = if row == ROWS { histogram.max() } else { bound(row) };
        let up_to = if row == ROWS {
            histogram.len()
        } else {
            histogram.count_between(0, to_micros).min(histogram.len())
        };
        // Bounds of a narrow distribution fall together.
        if buckets.last().is_none_or(|last: &PlotRow| last.to_micros < to_micros) {
            buckets.push(PlotRow { to_micros, count: up_to.saturating_sub(below) });
            below = below.max(up_to);
        } else if let Some(last) = buckets.last_mut() {
            last.count += up_to.saturating_sub(below);
            below = below.max(up_to);
        }
    }
    buckets
}

/// Returns the plot, or nothing for an empty histogram.
pub fn text(name: &str, histogram: &Histogram<u64>) -> String {
    let buckets = buckets(histogram);
    let Some(most) = buckets.iter().map(|bucket| bucket.count).max() else {
        return String::new();
    };
    let mut text = format!("{name}, up to ms\n");
    for PlotRow { to_micros, count } in buckets {
        let filled = (count as f64 / most as f64 * BAR as f64).ceil() as usize;
        let share = count as f64 / histogram.len() as f64 * 100.0;
        let _ = writeln!(
            text,
            "{:>12.3} |{:<BAR$}| {share:5.1} % {count:>9}",
            to_micros as f64 / 1000.0,
            "#".repeat(filled),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3).unwrap();
        values.into_iter().for_each(|value| histogram.record(value).unwrap());
        histogram
    }

    #[test]
    fn every_value_is_in_one_bucket() {
        for values in [
            (1..=10_000).collect::<Vec<_>>(),
            vec![1],
            vec![500; 9],
            vec![1, 3_600_000_000],
            (0..500).map(|n| 1000 + n % 3).collect(),
        ] {
            let histogram = histogram(values.iter().copied());
            let buckets = buckets(&histogram);
            let sum: u64 = buckets.iter().map(|bucket| bucket.count).sum();
            assert_eq!(sum, values.len() as u64, "{buckets:?}");
            assert!(buckets.windows(2).all(|pair| pair[0].to_micros < pair[1].to_micros));
            assert!(buckets.len() <= ROWS);
        }
        assert!(buckets(&histogram([])).is_empty());
    }

    #[test]
    fn every_line_has_the_same_width_and_plain_characters() {
        let text = text("total", &histogram((1..2000).map(|n| n * n)));
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("total, up to ms"));
        let widths: Vec<_> = lines.map(str::len).collect();
        assert_eq!(widths.len(), ROWS);
        assert!(widths.iter().all(|width| *width == 73), "{text}");
        assert!(text.is_ascii());
    }
}
