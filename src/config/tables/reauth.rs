//! `[reauth]`, at the top of the file and in a route.

use crate::config::declare::{Table, table};
use crate::config::key_type::{Choice, Count, Flag, OneOf, PositiveDuration};
use crate::config::reader::Section;
use crate::config::{Preset, Reauth, ReauthMode};

table! {
    /// How a session is renewed while it lives; a route can override each key.
    pub struct ReauthTable: [reauth] {
        /// message (ask inside the stream), close (end with the token) or off (outlive it); stomp
        /// and mqtt close.
        mode: OneOf<ReauthMode>, derived "message",
            because "a session that ends with its token reconnects, and all of them together; \
                asking costs one message. Where the protocol has no words for it (stomp, mqtt) it \
                is `close`",
            change_when "clients cannot answer: `close`. `off` only where sessions may outlive \
                their tokens";
        /// How long before its end a new token is requested.
        before_expiry: PositiveDuration, default "60s",
            because "time for a refresh at the issuer and one more try, before the token has ended";
        /// How long the client has to answer.
        grace: PositiveDuration, default "30s",
            because "half of `before_expiry`: the session ends before its token does";
        /// Wrong answers before the session ends.
        attempts: Count, default 3,
            because "one expired cache, one clock, one more";
        /// A proof of identity counts for this long at most, whatever the token says.
        max_age: PositiveDuration, optional "12h",
            because "the token's own end is the rule",
            change_when "tokens live for days";
        /// Clients may renew before they are asked.
        proactive: Flag, default false,
            because "an `auth` message that was not requested belongs to the application",
            change_when "clients refresh by their own clock";
    }
}

impl Choice for ReauthMode {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("message", Self::Message), ("close", Self::Close), ("off", Self::Off)]
    }
}

/// Reads the table of a route over that of the file.
pub fn reauth(own: &Section<'_, '_>, base: &Section<'_, '_>, preset: Preset) -> Reauth {
    let section = own.over(base);
    let table = ReauthTable::read(&section);
    if let Some(value) = section.value("mode")
        && table.mode == Some(ReauthMode::Message)
        && !preset.can_renew()
    {
        section.reader.error(
            &value.span(),
            format!("clients of the preset `{}` cannot be asked for a new token", preset.name()),
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
