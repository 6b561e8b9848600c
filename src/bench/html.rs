//! The report as one HTML file: no script, no outside file, light and dark, fit for printing.

use std::fmt::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::chart;
use super::compare::{self, Ratio};
use super::report::{Compared, Measured, Report, cpu_text};
use super::tally::PERCENTILES;

const STYLE: &str = include_str!("report.css");

/// Returns the page. Its policy allows this style alone, so nothing else would run or load.
pub fn page(report: &Report) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, STYLE.as_bytes());
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        STANDARD.encode(hash)
    );
    let title = format!("usher bench: {}", report.facts.mode);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<h1>{title}</h1>\n"
    );
    if report.is_partial() {
        page.push_str("<p class=\"warning\">Stopped early: the results are incomplete.</p>\n");
    }
    let _ = writeln!(page, "<p class=\"note\">{}</p>", escape(&report.facts.omission()));
    if let Some(Compared { rounds, ratios, .. }) = &report.compared {
        page.push_str(&ratio_section(ratios, rounds.len()));
    }
    page.push_str(&chart::percentiles(report));
    for (letter, target) in report.targets() {
        page.push_str(&target_section(report, letter, target));
    }
    page.push_str(&facts_section(report));
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

/// Replaces the characters that have a meaning in HTML, for texts and quoted attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // HTML has no way to write other control characters.
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

fn target_section(report: &Report, letter: &str, target: &Measured) -> String {
    let Measured { url, tally, .. } = target;
    let name = if report.compared.is_some() { format!("{letter}: ") } else { String::new() };
    let mut text = format!(
        "<section>\n<h2>{name}<code>{}</code></h2>\n<p>{}</p>\n",
        escape(url),
        escape(tally.summary().trim())
    );
    text.push_str("<table>\n<thead><tr><th>phase, in ms</th><th>count</th>");
    for name in PERCENTILES.iter().map(|(name, _)| *name).chain(["max"]) {
        let _ = write!(text, "<th>{name}</th>");
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    for (phase, histogram) in tally.seen() {
        let _ = write!(text, "<tr><th>{}</th><td>{}</td>", phase.word(), histogram.len());
        let quantiles = PERCENTILES.iter().map(|(_, q)| histogram.value_at_quantile(*q));
        for micros in quantiles.chain([histogram.max()]) {
            let _ = write!(text, "<td>{:.3}</td>", micros as f64 / 1000.0);
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody>\n</table>\n");
    if !tally.failures().is_empty() {
        text.push_str(
            "<table>\n<thead><tr><th>failed in</th><th>count</th></tr></thead>\n<tbody>\n",
        );
        for (failure, count) in tally.failures() {
            let _ = writeln!(text, "<tr><th>{failure}</th><td>{count}</td></tr>");
        }
        text.push_str("</tbody>\n</table>\n");
    }
    let _ = writeln!(text, "<p>CPU time: {}.</p>\n</section>", escape(&cpu_text(target)));
    text
}

fn ratio_section(ratios: &[Ratio], rounds: usize) -> String {
    let mut text = format!(
        "<section>\n<h2>B divided by A, in {rounds} rounds</h2>\n<table>\n<thead><tr>\
         <th>measure</th><th>median</th><th>95 % interval</th><th class=\"wide\">0.5 to 2</th>\
         <th class=\"text\">verdict</th></tr></thead>\n<tbody>\n"
    );
    for ratio in ratios {
        let Ratio { measure, median, low, high } = ratio;
        let _ = writeln!(
            text,
            "<tr><th>{measure}</th><td>{median:.3}</td><td>{low:.3} to {high:.3}</td>\
             <td class=\"wide\">{}</td><td class=\"text\">{}</td></tr>",
            chart::interval(ratio),
            ratio.verdict()
        );
    }
    text.push_str("</tbody>\n</table>\n");
    if ratios.is_empty() {
        let _ = writeln!(text, "<p class=\"warning\">{}</p>", compare::NOTHING);
    }
    text.push_str("</section>\n");
    text
}

fn facts_section(report: &Report) -> String {
    let facts = &report.facts;
    let mut text = String::from("<section>\n<h2>This run</h2>\n<table class=\"facts\">\n<tbody>\n");
    let cpus = format!("{} CPUs, {} {}", facts.cpus, std::env::consts::OS, std::env::consts::ARCH);
    for (name, value) in [
        ("started", facts.started.as_str()),
        ("usher", env!("CARGO_PKG_VERSION")),
        ("load", &format!("{} loop", facts.loop_word())),
        ("machine of the client", &cpus),
        ("command", &format!("usher {}", facts.arguments.join(" "))),
    ] {
        let _ = writeln!(
            text,
            "<tr><th>{name}</th><td class=\"text\"><code>{}</code></td></tr>",
            escape(value)
        );
    }
    text.push_str("</tbody>\n</table>\n");
    if let Some(memory) = &report.memory {
        let _ = writeln!(text, "<pre>{}</pre>", escape(&memory.table));
    }
    text.push_str("</section>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::known;
    use super::*;

    #[test]
    fn every_text_is_escaped_and_nothing_is_loaded() {
        for is_compared in [false, true] {
            let page = page(&known(is_compared));
            assert!(page.contains("&lt;b&gt;&amp;&quot;&#39;"), "{page}");
            assert!(page.contains("ws://localhost/&lt;x&gt;"), "{page}");
            assert!(!page.contains("<b>") && !page.contains("<x>"), "{page}");
            for forbidden in ["<script", "src=", "href=", "style=", "url(", " on"] {
                let found =
                    page.split("<style>").next().into_iter().chain(page.split("</style>").nth(1));
                let markup: String = found.collect();
                let is_attribute = markup.split('<').any(|tag| {
                    tag.split('>').next().is_some_and(|inside| {
                        format!("<{inside}").contains(forbidden) && forbidden != " on"
                    })
                });
                assert!(!is_attribute, "{forbidden}");
            }
            assert_eq!(page.contains("B divided by A"), is_compared);
        }
        assert_eq!(escape("a\u{0}\u{7f}b\n"), "a\u{fffd}\u{fffd}b\n");
    }
}
