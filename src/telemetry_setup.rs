//! Sets up telemetry with the metric families of all modules and the settings of a configuration.

use crate::config::{Config, LogFormat, RefusalLevel, label_names};
use crate::telemetry::family::AnyFamily;
use crate::telemetry::log::{Format, LogSettings};
use crate::telemetry::severity::Severity;
use crate::telemetry::{InstallError, Telemetry, TelemetrySettings};
use crate::{
    acme, admin, auth, edge, fleet, http, listener, migration, session, store, takeover, telemetry,
    traces, upstream,
};

/// The families of each module that declares some, in the order of `docs/metrics.md`.
const MODULES: &[&[&dyn AnyFamily]] = &[
    telemetry::FAMILIES,
    telemetry::log_file::FAMILIES,
    telemetry::process::FAMILIES,
    telemetry::limit::FAMILIES,
    edge::events::FAMILIES,
    listener::events::FAMILIES,
    acme::events::FAMILIES,
    http::events::FAMILIES,
    upstream::events::FAMILIES,
    upstream::keyring::events::FAMILIES,
    session::events::FAMILIES,
    auth::events::FAMILIES,
    auth::ticket::events::FAMILIES,
    store::events::FAMILIES,
    store::redis::events::FAMILIES,
    auth::verifier::events::FAMILIES,
    auth::remote_keys::events::FAMILIES,
    auth::revocation::events::FAMILIES,
    fleet::events::FAMILIES,
    migration::events::FAMILIES,
    admin::events::FAMILIES,
    takeover::events::FAMILIES,
    traces::events::FAMILIES,
];

/// Installs telemetry with the settings of the configuration.
pub fn install(config: &Config) -> Result<Telemetry, InstallError> {
    let log = LogSettings {
        filter: config.log.filter.clone(),
        format: match config.log.format {
            LogFormat::Auto => Format::Auto,
            LogFormat::Json => Format::Json,
            LogFormat::Text => Format::Text,
        },
        file: config.log.file.clone(),
    };
    let settings = TelemetrySettings {
        log,
        client_refusals: match config.log.refusals {
            RefusalLevel::Info => Severity::Info,
            RefusalLevel::Warn => Severity::Warn,
            RefusalLevel::Error => Severity::Error,
            RefusalLevel::Critical => Severity::Critical,
        },
        refusal_lines: config.log.refusal_lines,
        refusal_sources: config.limits.rate_entries,
        audit_file: config.audit.clone(),
        waiting_lines: config.limits.log_queue,
        label_names: label_names::of(config),
    };
    Telemetry::install(settings, families())
}

/// Returns every family.
pub fn families() -> impl Iterator<Item = &'static dyn AnyFamily> {
    MODULES.iter().copied().flatten().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::family::{Definition, MetricKind};
    use crate::telemetry::log_events::sources;
    use crate::telemetry::page::metrics_page;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn names_are_what_prometheus_asks_names_to_be() {
        let names: BTreeSet<&str> = families().map(|family| family.definition().name).collect();
        assert_eq!(names.len(), families().count(), "each name once");
        for Definition { name, kind, labels, .. } in families().map(AnyFamily::definition) {
            assert!(
                (name.starts_with("usher_") || name.starts_with("process_"))
                    && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
            assert!(
                !["_count", "_sum", "_bucket"].iter().any(|suffix| name.ends_with(suffix)),
                "{name}"
            );
            assert!(
                !matches!(kind, MetricKind::Histogram(_)) || name.ends_with("_seconds"),
                "{name}"
            );
            assert!(
                !labels
                    .iter()
                    .any(|label| ["le", "quantile", "user", "path", "origin"].contains(label)),
                "{name}"
            );
        }
    }

    #[test]
    fn the_metrics_page_is_what_the_families_say() {
        let page = metrics_page(families());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        if std::env::var_os("USHER_WRITE_DOCS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).unwrap_or_default() == page,
            "docs/metrics.md differs from the families; \
             run USHER_WRITE_DOCS=1 cargo test --lib page"
        );
    }

    #[test]
    fn every_family_has_a_sentence() {
        for definition in families().map(AnyFamily::definition) {
            let help = definition.help();
            assert!(help.ends_with('.') && !help.contains("  "), "{}: {help}", definition.name);
            // Each format of `/metrics` escapes them in its own way.
            assert!(!help.contains(['"', '\\', '\n']), "{}: {help}", definition.name);
        }
    }

    #[test]
    fn every_family_that_a_module_declares_is_in_the_list() {
        let listed: BTreeSet<&str> = families().map(|family| family.definition().name).collect();
        let mut declared = BTreeSet::new();
        for path in sources() {
            let text = std::fs::read_to_string(&path).unwrap();
            declared.extend(declarations(&text).map(str::to_owned));
        }
        let declared: BTreeSet<&str> = declared.iter().map(String::as_str).collect();
        assert_eq!(declared, listed, "MODULES lacks the families of a module");
    }

    /// Returns the names of the metrics that a file declares with `families!`.
    fn declarations(text: &str) -> impl Iterator<Item = &str> {
        text.split("\nfamilies! {\n")
            .skip(1)
            .filter_map(|rest| rest.split("\n}\n").next())
            .flat_map(|block| block.split(" = \"").skip(1))
            .filter_map(|rest| rest.split('"').next())
    }
}
