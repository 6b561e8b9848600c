//! Converts the errors of the client library. Only this module reads them. Their text is never
//! logged, because it may contain an address, a key or a secret.

use redis::{ErrorKind, RedisError};

use crate::model::store_fault::StoreFault;

impl From<&RedisError> for StoreFault {
    fn from(error: &RedisError) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        match error.code() {
            Some("READONLY") => return Self::ReadOnly,
            Some("NOAUTH" | "WRONGPASS" | "NOPERM") => return Self::Auth,
            Some("LOADING") => return Self::Loading,
            Some("OOM") => return Self::OutOfMemory,
            Some("CLUSTERDOWN" | "MASTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" | "CROSSSLOT") => {
                return Self::Cluster;
            }
            _ => {}
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Auth,
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Self::Protocol,
            ErrorKind::MasterNameNotFoundBySentinel => Self::NoMaster,
            ErrorKind::ClusterConnectionNotFound => Self::Unreachable,
            ErrorKind::Io if error.is_connection_refusal() => Self::Unreachable,
            ErrorKind::Io => Self::Disconnected,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_without_a_code_is_known_by_its_kind() {
        let error = |kind| StoreFault::from(&RedisError::from((kind, "")));
        assert_eq!(error(ErrorKind::AuthenticationFailed), StoreFault::Auth);
        assert_eq!(error(ErrorKind::Parse), StoreFault::Protocol);
        let io = |kind| StoreFault::from(&RedisError::from(std::io::Error::from(kind)));
        assert_eq!(io(std::io::ErrorKind::TimedOut), StoreFault::Timeout);
        assert_eq!(io(std::io::ErrorKind::ConnectionRefused), StoreFault::Unreachable);
        assert_eq!(io(std::io::ErrorKind::BrokenPipe), StoreFault::Disconnected);
    }
}
