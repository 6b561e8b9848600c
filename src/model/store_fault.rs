//! The faults of a store in Redis: a closed set, so that logs and metrics can name them.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreFault {
    /// The circuit breaker is open; nothing was sent.
    BreakerOpen,
    /// No response in time. The operation may have happened.
    Timeout,
    Unreachable,
    Disconnected,
    /// The server is a replica, for example a demoted master.
    ReadOnly,
    /// The password is missing or wrong, or its user lacks a permission.
    Auth,
    Loading,
    OutOfMemory,
    /// The cluster has lost slots, or is moving them.
    Cluster,
    /// The sentinels know no live master of this name.
    NoMaster,
    /// Too few replicas acknowledged the write in time. The ticket is spent.
    NotAcknowledged,
    /// The response is not in the Redis protocol, or not of the expected type.
    Protocol,
    /// The value in the store is not a readable record.
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

    /// Returns true if the fault counts as an outage of the store. A server that is out of memory
    /// still answers, and still redeems tickets.
    pub fn counts_against_the_store(self) -> bool {
        !matches!(self, Self::BreakerOpen | Self::OutOfMemory | Self::Unreadable)
    }

    /// Returns true if a new connection can solve the fault. A demoted master keeps the old
    /// connection open, and answers on it for ever.
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
