//! The names of a configuration that are values of metric labels.

use super::Config;
use crate::telemetry::family::LabelNames;

/// Returns the names by label.
pub fn of(config: &Config) -> LabelNames {
    let publishing = config.issuers.iter().filter(|issuer| issuer.keys.is_remote());
    LabelNames::default()
        .with("route", config.routes.iter().map(|route| &*route.name))
        .with("upstream", config.upstreams.iter().map(|upstream| &*upstream.name))
        .with("region", config.region_names())
        .with("issuer", publishing.map(|issuer| &*issuer.name))
        .with("verifier", config.verifiers.iter().map(|verifier| &*verifier.name))
        .with("file", config.certificate_files().iter().map(|(_, file)| file.display().to_string()))
}
