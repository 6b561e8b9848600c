//! One file for each table, with its keys and the rules for combining them.

pub mod acme;
pub mod admin;
pub mod bypass;
pub mod certificates;
pub mod context;
pub mod credential_verifiers;
pub mod drain;
pub mod first_message;
pub mod issuer;
pub mod keepalive;
pub mod limits;
pub mod listener;
pub mod log;
pub mod migration;
pub mod mtls;
pub mod names;
pub mod reauth;
pub mod revocation;
pub mod rollout;
pub mod route;
pub mod store;
pub mod tickets;
pub mod top;
pub mod traces;
pub mod upstream;
pub mod verifier;

use super::declare::{Declaration, Table};

/// The keys at the top of the file.
pub const TOP: &Declaration = &top::Top::DECLARATION;

/// The tables of the file, in the order of the reference.
pub const TABLES: [&Declaration; 23] = [
    &listener::ListenerTable::DECLARATION,
    &acme::AcmeTable::DECLARATION,
    &issuer::IssuerTable::DECLARATION,
    &verifier::VerifierTable::DECLARATION,
    &upstream::UpstreamTable::DECLARATION,
    &route::RouteTable::DECLARATION,
    &tickets::TicketsTable::DECLARATION,
    &store::StoreTable::DECLARATION,
    &context::ContextTable::DECLARATION,
    &first_message::FirstMessageTable::DECLARATION,
    &reauth::ReauthTable::DECLARATION,
    &mtls::Mtls::DECLARATION,
    &keepalive::Keepalive::DECLARATION,
    &limits::Limits::DECLARATION,
    &revocation::RevocationTable::DECLARATION,
    &bypass::BypassTable::DECLARATION,
    &migration::MigrationTable::DECLARATION,
    &drain::Drain::DECLARATION,
    &certificates::Certificates::DECLARATION,
    &admin::AdminTable::DECLARATION,
    &log::Log::DECLARATION,
    &log::AuditTable::DECLARATION,
    &traces::TracesTable::DECLARATION,
];

/// Tables inside other tables.
#[cfg(test)]
const NESTED: [&Declaration; 4] = [
    &listener::CertificateTable::DECLARATION,
    &upstream::HealthTable::DECLARATION,
    &rollout::RolloutTable::DECLARATION,
    &store::RegionTable::DECLARATION,
];

/// Returns every table with keys. A nested table follows the table that contains it.
#[cfg(test)]
pub fn documented() -> Vec<&'static Declaration> {
    let inner = |outer: &'static Declaration| {
        let prefix = format!("{}.", outer.name());
        NESTED.into_iter().filter(move |inner| inner.name().starts_with(&prefix))
    };
    let tables = TABLES.into_iter().flat_map(|outer| [outer].into_iter().chain(inner(outer)));
    [TOP].into_iter().chain(tables).collect()
}
