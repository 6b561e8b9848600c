//! What can be wrong with a store in Redis: a closed set, so that logs and metrics can name it.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreFault {
    /// The breaker is open; nothing was sent.
    BreakerOpen,
    /// No answer in time. The operation may have happened.
    Timeout,
    Unreachable,
    Disconnected,
    /// We speak to a replica, such as a master that was demoted.
    ReadOnly,
    /// No password, a wrong one, or one that may not do this.
    Auth,
    Loading,
    OutOfMemory,
    /// The cluster has lost slots, or moves them.
    Cluster,
    /// The sentinels know no living master of this name.
    NoMaster,
    /// Too few replicas heard of it in time. The ticket is spent.
    NotAcknowledged,
    /// This is not the Redis protocol, or not what was asked for.
    Protocol,
    /// What stands in the store is no record that we can read.
    Unreadable,
    Other,
}

impl StoreFault {
    pub const ALL: [Self; 14] = [
        Self::BreakerOpen,
        Self::Timeout,
        Self::Unreachable,
        Self::Disconnected,
        Self::ReadOnly,
        Self::Auth,
        Self::Loading,
        Self::OutOfMemory,
        Self::Cluster,
        Self::NoMaster,
        Self::NotAcknowledged,
        Self::Protocol,
        Self::Unreadable,
        Self::Other,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker_open",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Disconnected => "disconnected",
            Self::ReadOnly => "read_only",
            Self::Auth => "auth",
            Self::Loading => "loading",
            Self::OutOfMemory => "out_of_memory",
            Self::Cluster => "cluster",
            Self::NoMaster => "no_master",
            Self::NotAcknowledged => "not_acknowledged",
            Self::Protocol => "protocol",
            Self::Unreadable => "unreadable",
            Self::Other => "other",
        }
    }

    /// Does it say that the store is away? A server that is full still answers, and still redeems.
    pub fn counts_against_the_store(self) -> bool {
        !matches!(self, Self::BreakerOpen | Self::OutOfMemory | Self::Unreadable)
    }

    /// Is another connection the way out? A demoted master keeps the old one open, and answers on
    /// it for ever.
    pub fn ends_the_connection(self) -> bool {
        matches!(
            self,
            Self::Unreachable
                | Self::Disconnected
                | Self::ReadOnly
                | Self::Auth
                | Self::Protocol
                | Self::NoMaster
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_fault_has_a_label_of_its_own() {
        let labels: BTreeSet<_> = StoreFault::ALL.iter().map(|fault| fault.label()).collect();
        assert_eq!(labels.len(), StoreFault::ALL.len());
    }
}
