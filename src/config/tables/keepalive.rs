//! `[keepalive]`.

use crate::config::declare::{Table, table};
use crate::config::key_type::PositiveDuration;
use crate::config::reader::Section;

table! {
    /// Pings and silence.
    pub struct Keepalive: [keepalive] {
        /// A client that has sent nothing for this long is pinged.
        ping: PositiveDuration, default "25s",
            because "balancers, NATs and mobile carriers cut silent connections from 30 or 60 s on",
            change_when "none in the path does";
        /// A client that has sent nothing for this long, not even a pong, is closed.
        idle_timeout: PositiveDuration, default "75s",
            because "more than two pings: one lost ping is not a lost client";
        /// How long a close handshake, or the last bytes to a peer that leaves, may take.
        close_timeout: PositiveDuration, default "5s",
            because "the last bytes of a peer that leaves, and no longer";
    }
}

pub fn keepalive(section: &Section<'_, '_>) -> Keepalive {
    let keepalive = Keepalive::read(section);
    if keepalive.ping >= keepalive.idle_timeout {
        let span = section
            .value("ping")
            .or_else(|| section.value("idle_timeout"))
            .map_or(0..0, toml::Spanned::span);
        let message = format!(
            "`ping` ({:?}) is not shorter than `idle_timeout` ({:?})",
            keepalive.ping, keepalive.idle_timeout
        );
        section.reader.error(&span, message, "a client must be pinged before it counts as gone");
    }
    keepalive
}
