//! The charts of the HTML report, as inline SVG without styles of their own.

use std::fmt::Write;

use super::compare::Ratio;
use super::report::Report;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 40.0;
/// The percentiles on the axis, each with a tenth of the values of the one before above it.
const NINES: [(f64, &str); 5] =
    [(0.0, "0 %"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %")];
const STEPS_PER_NINE: u32 = 20;

/// Draws the percentiles of the main phase of each target.
pub fn percentiles(report: &Report) -> String {
    let curves: Vec<_> = report
        .targets()
        .map(|(letter, target)| (letter, points(&target.tally)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let values = || curves.iter().flat_map(|(_, points)| points.iter().map(|(_, millis)| *millis));
    let Some(most) = values().reduce(f64::max) else { return String::new() };
    let least = values().reduce(f64::min).unwrap_or(most);
    let nines = curves.iter().flat_map(|(_, points)| points.last()).map(|(nines, _)| *nines);
    let right_end = nines.fold(1.0, f64::max);
    let (low, high) = (round_down(least), round_up(most));
    let x = |nines: f64| LEFT + nines / right_end * (WIDTH - LEFT - RIGHT);
    let span = (high / low).ln();
    let y = |millis: f64| HEIGHT - BOTTOM - (millis / low).ln() / span * (HEIGHT - TOP - BOTTOM);
    let phase = report.first.tally.main_phase().word();
    let mut svg = format!(
        "<figure>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Percentiles of \
         {phase} in milliseconds\">\n"
    );
    for tick in ticks(low, high) {
        let y = y(tick);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0
        );
    }
    for (nines, name) in NINES.iter().filter(|(nines, _)| *nines <= right_end) {
        let x = x(*nines);
        let anchor = if x > WIDTH - 60.0 { "end" } else { "middle" };
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{name}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0
        );
    }
    for (index, (letter, points)) in curves.iter().enumerate() {
        let class = letter.to_lowercase();
        let line: Vec<String> =
            points.iter().map(|(n, ms)| format!("{:.1},{:.1}", x(*n), y(*ms))).collect();
        let _ = writeln!(svg, "<polyline class=\"line {class}\" points=\"{}\"/>", line.join(" "));
        if curves.len() > 1 {
            let _ = writeln!(
                svg,
                "<text class=\"name-{class}\" x=\"{:.1}\" y=\"14\">{letter}</text>",
                LEFT + 24.0 * index as f64
            );
        }
    }
    let _ = writeln!(
        svg,
        "</svg>\n<figcaption>Percentiles of <code>{phase}</code>, in ms. Both axes are \
         logarithmic: each mark to the right leaves out nine tenths of the slower \
         values.</figcaption>\n</figure>"
    );
    svg
}

/// Returns the percentiles of the main phase, as nines and milliseconds, without those that have no
/// value.
fn points(tally: &super::tally::Tally) -> Vec<(f64, f64)> {
    let main = tally.main_phase();
    let count = tally.count(main) as f64;
    let all = (0..=4 * STEPS_PER_NINE).map(|step| f64::from(step) / f64::from(STEPS_PER_NINE));
    let known = all.take_while(|nines| count * 10_f64.powf(-nines) >= 1.0);
    known.map(|nines| (nines, tally.quantile(main, 1.0 - 10_f64.powf(-nines)) / 1000.0)).collect()
}

/// Draws a ratio and its interval on a scale from one half to two.
pub fn interval(ratio: &Ratio) -> String {
    let x = |ratio: f64| 80.0 + 76.0 * ratio.log2().clamp(-1.0, 1.0);
    format!(
        "<svg viewBox=\"0 0 160 16\" role=\"img\" aria-label=\"{:.3} from {:.3} to {:.3}\">\
         <line class=\"grid\" x1=\"80\" x2=\"80\" y1=\"0\" y2=\"16\"/>\
         <line class=\"whisker\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"8\" y2=\"8\"/>\
         <circle class=\"dot\" cx=\"{:.1}\" cy=\"8\" r=\"4\"/></svg>",
        ratio.median,
        ratio.low,
        ratio.high,
        x(ratio.low),
        x(ratio.high),
        x(ratio.median)
    )
}

/// Returns the round numbers 1, 2, 5, 10, ... within these bounds.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| rounded(step, decade)));
    all.filter(|tick| (low..=high).contains(tick)).collect()
}

/// Returns step × 10^decade, free of the noise of a multiplication.
fn rounded(step: f64, decade: i32) -> f64 {
    format!("{step}e{decade}").parse().unwrap_or(step)
}

fn round_down(value: f64) -> f64 {
    let value = value.max(0.001);
    let decade = value.log10().floor() as i32;
    let steps = [5.0, 2.0, 1.0].map(|step| rounded(step, decade));
    steps.into_iter().find(|step| *step <= value).unwrap_or_else(|| rounded(1.0, decade))
}

/// Returns the next round number above a value.
fn round_up(value: f64) -> f64 {
    let value = value.max(0.001);
    let decade = value.log10().floor() as i32;
    let steps = [2.0, 5.0, 10.0].map(|step| rounded(step, decade));
    steps.into_iter().find(|step| *step > value).unwrap_or_else(|| rounded(10.0, decade))
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::known;
    use super::*;

    #[test]
    fn the_axis_has_round_numbers_around_the_values() {
        for (least, most, expected) in [
            (0.3, 7.0, vec![0.2, 0.5, 1.0, 2.0, 5.0, 10.0]),
            (1.0, 1.0, vec![1.0, 2.0]),
            (0.0, 0.001, vec![0.001, 0.002]),
        ] {
            assert_eq!(ticks(round_down(least), round_up(most)), expected);
        }
    }

    #[test]
    fn each_target_has_a_curve_within_the_picture() {
        let svg = percentiles(&known(true));
        let curves: Vec<&str> = svg.split("points=\"").skip(1).collect();
        assert_eq!(curves.len(), 2);
        for curve in curves {
            for point in curve.split('"').next().unwrap().split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{point}");
                assert!((TOP..=HEIGHT - BOTTOM).contains(&y), "{point}");
            }
        }
        let mut none = known(false);
        none.first.tally = super::super::tally::Tally::new().unwrap();
        assert_eq!(percentiles(&none), "");
    }
}
