//! `[drain]`.

use crate::config::declare::table;
use crate::config::key_type;

table! {
    /// Stopping.
    pub struct Drain: [drain] {
        /// How long sessions have to leave.
        window: key_type::Duration, default "30s",
            because "closes are spread over it, so that reconnects do not arrive at once; it fits \
                the usual grace periods. For plain HTTP an answer under way may take as long, and \
                `keepalive.close_timeout` more",
            change_when "there are many sessions: longer, and raise the supervisor's grace along \
                with it";
    }
}
