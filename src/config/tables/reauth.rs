//! `[reauth]`, at the top of the file and in a route.

use crate::config::declare::{Table, table};
use crate::config::key_type::{Choice, Count, Flag, OneOf, PositiveDuration};
use crate::config::reader::Section;
use crate::config::{Preset, Reauth, ReauthMode};

table! {
    /// How an open session gets a new token; a route can override each key.
    pub struct ReauthTable: [reauth] {
        /// message (ask for a new token in the stream), close (end with the token) or off (continue
        /// without one). The default is close for stomp and mqtt, and message for the others.
        mode: OneOf<ReauthMode>, derived "message",
            because "sessions that end with their tokens reconnect, often many at the same time; \
                asking costs one message. The protocols stomp and mqtt have no message for it, so \
                their default is `close`",
            change_when "clients cannot answer: `close`. Use `off` only where sessions may \
                continue after their tokens expire";
        /// How long before the token expires a new one is requested.
        before_expiry: PositiveDuration, default "60s",
            because "time for a refresh at the issuer and one retry, before the token expires";
        /// How long the client may take to answer.
        grace: PositiveDuration, default "30s",
            because "half of `before_expiry`: the session ends before its token expires";
        /// Rejected answers before the session ends.
        attempts: Count, default 3,
            because "enough for an expired cache, a clock that differs, and one more";
        /// The longest time between two proofs of identity, even if the token is valid for longer.
        /// Shortened by up to 10 % at random, so that clients do not renew together.
        max_age: PositiveDuration, optional "12h",
            because "the token's own expiry decides",
            change_when "tokens are valid for days";
        /// Clients may renew before they are asked.
        proactive: Flag, default false,
            because "an `auth` message that was not requested belongs to the application",
            change_when "clients refresh on their own schedule";
    }
}

impl Choice for ReauthMode {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("message", Self::Message), ("close", Self::Close), ("off", Self::Off)]
    }
}

/// Reads the table of a route. Keys that it leaves out come from the table at the top of the file.
pub fn reauth(own: &Section<'_, '_>, base: &Section<'_, '_>, preset: Preset) -> Reauth {
    let section = own.over(base);
    let table = ReauthTable::read(&section);
    if let Some(value) = section.value("mode")
        && table.mode == Some(ReauthMode::Message)
        && !preset.can_renew()
    {
        section.reader.error(
            &value.span(),
            format!("the preset `{}` cannot ask clients for a new token", preset.name()),
            "write `mode = \"close\"` for routes of this preset",
        );
    }
    let default = if preset.can_renew() { ReauthMode::Message } else { ReauthMode::Close };
    Reauth {
        mode: table.mode.unwrap_or(default),
        before_expiry: table.before_expiry,
        grace: table.grace,
        attempts: u32::try_from(table.attempts).unwrap_or(u32::MAX),
        max_age: table.max_age,
        proactive: table.proactive,
    }
}
