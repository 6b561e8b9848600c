//! `[certificates]`.

use crate::config::declare::table;
use crate::config::key_type;

table! {
    /// The dates of the certificates that this file names.
    pub struct Certificates: [certificates] {
        /// How long before a certificate expires the warnings begin; not before the last quarter of
        /// its life.
        warn_before: key_type::Duration, default "14d",
            because "two weeks are time to renew by hand. The last quarter suits certificates that \
                live for days: tools renew them when a third of the life is left",
            change_when "renewal takes longer; \"0s\" warns only of an expired certificate";
        /// How long a responder may take for an OCSP answer.
        ocsp_timeout: key_type::PositiveDuration, default "10s",
            because "no client waits for it";
    }
}
