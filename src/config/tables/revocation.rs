//! `[revocation]`.

use std::sync::Arc;
use std::time::Duration;

use crate::config::declare::{Table, table};
use crate::config::diagnostic::Diagnostic;
use crate::config::key_type::{Count, PositiveDuration};
use crate::config::reader::Section;
use crate::config::{Issuer, Verifier};

table! {
    /// Revoked credentials and sessions.
    pub struct RevocationTable: [revocation] {
        /// How long a revocation is in force; by default the longest `max_lifetime` of the issuers
        /// and verifiers.
        ttl: PositiveDuration, optional "24h", was keep until "0.3.0",
            because "a revocation must stay in force as long as the token is valid. A shorter \
                `issuer.max_lifetime` shortens both";
        /// The most revocations in force at the same time.
        max_entries: Count, default 100000,
            because "to drop a revocation for a newer one would let a client in again, so a full \
                list rejects new ones",
            change_when "you revoke tokens one by one";
    }
}

#[derive(Debug)]
pub struct Revocation {
    /// How long a revocation is in force.
    pub keep: Duration,
    /// The most revocations in force at the same time.
    pub max_entries: usize,
}

pub fn revocation(
    section: &Section<'_, '_>,
    issuers: &[Arc<Issuer>],
    verifiers: &[Arc<Verifier>],
) -> Revocation {
    let table = RevocationTable::read(section);
    // A revocation outlives a token that was issued right before it.
    let lifetimes = issuers
        .iter()
        .map(|issuer| issuer.max_lifetime + issuer.leeway)
        .chain(verifiers.iter().map(|one| one.max_lifetime));
    let longest = lifetimes.max().unwrap_or(Duration::from_secs(86_400));
    let keep = table.ttl.unwrap_or(longest);
    if let Some(written) = section.value("ttl").filter(|_| keep < longest) {
        let message = "a revoked token is accepted again after `ttl`, if it is valid for longer";
        let help = format!(
            "tokens are accepted for up to {} h; raise `ttl`, or lower `max_lifetime` of the \
             issuers",
            longest.as_secs() / 3600
        );
        section.reader.report(&written.span(), Diagnostic::warning(message).help(help));
    }
    Revocation { keep, max_entries: table.max_entries }
}
