//! `[drain]`.

use crate::config::declare::table;
use crate::config::key_type;

table! {
    /// How Usher stops.
    pub struct Drain: [drain] {
        /// How long Usher accepts clients after the signal, before `window` begins; `/readyz`
        /// fails already.
        delay: key_type::Duration, default "0s",
            at_most "5m" "balancers need seconds to notice",
            because "without a balancer that polls `/readyz`, waiting only delays the stop",
            change_when "a balancer or an endpoint list needs time to take this node out: a little \
                more than that time, and raise the supervisor's grace period with it";
        /// The time over which the sessions are closed.
        window: key_type::Duration, default "30s",
            because "the closes are spread over this time, so that clients do not all reconnect at \
                once; it fits the usual grace periods of supervisors. A plain HTTP answer that has \
                begun may take as long, plus `keepalive.close_timeout`",
            change_when "there are many sessions: raise it, and the supervisor's grace period \
                with it";
    }
}
