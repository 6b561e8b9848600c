//! `[revocation]`.

use std::sync::Arc;
use std::time::Duration;

use crate::config::declare::{Table, table};
use crate::config::diagnostic::Diagnostic;
use crate::config::key_type::{Count, PositiveDuration};
use crate::config::reader::Section;
use crate::config::{Issuer, Verifier};

table! {
    /// Credentials and sessions that are revoked.
    pub struct RevocationTable: [revocation] {
        /// How long a revocation is in force; the longest `max_lifetime` of the issuers unless
        /// written.
        ttl: PositiveDuration, optional "24h", was keep until "0.3.0",
            because "as long as a token can live: the order has to outlive the token. \
                `issuer.max_lifetime` makes both short";
        /// Revocations in force at once.
        max_entries: Count, default 100000,
            because "an order that is forgotten to make room for another lets a client back in, \
                so the list is bounded and refuses",
            change_when "orders name tokens one by one";
    }
}

#[derive(Debug)]
pub struct Revocation {
    /// How long an order is in force.
    pub keep: Duration,
    /// Orders in force at once.
    pub max_entries: usize,
}

pub fn revocation(
    section: &Section<'_, '_>,
    issuers: &[Arc<Issuer>],
    verifiers: &[Arc<Verifier>],
) -> Revocation {
    let table = RevocationTable::read(section);
    // The order outlives a token that was issued right before it.
    let lifetimes = issuers
        .iter()
        .map(|issuer| issuer.max_lifetime + issuer.leeway)
        .chain(verifiers.iter().map(|one| one.max_lifetime));
    let longest = lifetimes.max().unwrap_or(Duration::from_secs(86_400));
    let keep = table.ttl.unwrap_or(longest);
    if let Some(written) = section.value("ttl").filter(|_| keep < longest) {
        let message = "a token that is good for longer than `ttl` comes back to life when its \
                       revocation ends";
        let help = format!(
            "tokens are accepted for up to {} h; lower `max_lifetime` of the issuers to what they \
             really make",
            longest.as_secs() / 3600
        );
        section.reader.report(&written.span(), Diagnostic::warning(message).help(help));
    }
    Revocation { keep, max_entries: table.max_entries }
}
