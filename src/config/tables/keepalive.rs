//! `[keepalive]`.

use crate::config::declare::{Table, table};
use crate::config::key_type::PositiveDuration;
use crate::config::reader::Section;

table! {
    /// Pings, and timeouts for silent clients.
    pub struct Keepalive: [keepalive] {
        /// A client that has sent nothing for this long is pinged.
        ping: PositiveDuration, default "25s",
            because "load balancers, NATs and mobile carriers cut silent connections after 30 or \
                60 s",
            change_when "nothing on the path cuts connections so soon";
        /// A client that has sent nothing for this long, not even a pong, is closed.
        idle_timeout: PositiveDuration, default "75s",
            because "longer than two pings: one lost ping must not close a session";
        /// How long a close handshake may take, and the last bytes to a peer that is closing.
        close_timeout: PositiveDuration, default "5s",
            because "enough for the last bytes of a slow peer";
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
            "`ping` ({:?}) must be shorter than `idle_timeout` ({:?})",
            keepalive.ping, keepalive.idle_timeout
        );
        section.reader.error(
            &span,
            message,
            "a client needs a ping and time to answer it before `idle_timeout`",
        );
    }
    keepalive
}
