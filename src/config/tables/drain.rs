//! `[drain]`.

use crate::config::declare::table;
use crate::config::key_type;

table! {
    /// How Usher stops.
    pub struct Drain: [drain] {
        /// The time over which the sessions are closed.
        window: key_type::Duration, default "30s",
            because "the closes are spread over this time, so that clients do not all reconnect at \
                once; it fits the usual grace periods of supervisors. A plain HTTP answer that has \
                begun may take as long, plus `keepalive.close_timeout`",
            change_when "there are many sessions: raise it, and the supervisor's grace period \
                with it";
    }
}
