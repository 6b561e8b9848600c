//! Every way a session ends.
//!
//! As with rejections, one table holds what each side is told and how the end is counted.

use std::time::Duration;

use crate::ws::close_code::CloseCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client sent a close frame and the upstream answered, or the other way round.
    ClientClosed,
    UpstreamClosed,
    /// The connection ended without a close frame.
    ClientGone,
    UpstreamGone,
    /// Bytes that are no WebSocket frames.
    ClientProtocol,
    UpstreamProtocol,
    /// The client sent nothing, not even a pong, for the idle timeout.
    IdleTimeout,
    /// The grant came to its end.
    SessionExpired,
    /// The server is going away; each session is told in its own moment of the window.
    Draining,
    /// A fault of ours ended the task.
    Internal,
}

#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Metric label and audit word.
    pub label: &'static str,
    /// The close frame that Usher puts into each direction, where the end is of its making.
    pub to_client: Option<(CloseCode, &'static str)>,
    pub to_upstream: Option<(CloseCode, &'static str)>,
}

impl CloseReason {
    pub const ALL: [Self; 10] = [
        Self::ClientClosed,
        Self::UpstreamClosed,
        Self::ClientGone,
        Self::UpstreamGone,
        Self::ClientProtocol,
        Self::UpstreamProtocol,
        Self::IdleTimeout,
        Self::SessionExpired,
        Self::Draining,
        Self::Internal,
    ];

    pub fn facts(self) -> Facts {
        let row = |label, to_client, to_upstream| Facts { label, to_client, to_upstream };
        match self {
            Self::ClientClosed => row("client_closed", None, None),
            Self::UpstreamClosed => row("upstream_closed", None, None),
            Self::ClientGone => row("client_gone", None, Some((CloseCode::GOING_AWAY, "Client gone"))),
            Self::UpstreamGone => row("upstream_gone", Some((CloseCode::TRY_AGAIN_LATER, "Upstream gone")), None),
            Self::ClientProtocol => row(
                "client_protocol",
                Some((CloseCode::PROTOCOL_ERROR, "Protocol error")),
                Some((CloseCode::GOING_AWAY, "Client protocol error")),
            ),
            Self::UpstreamProtocol => row(
                "upstream_protocol",
                Some((CloseCode::BAD_GATEWAY, "Upstream protocol error")),
                Some((CloseCode::PROTOCOL_ERROR, "Protocol error")),
            ),
            Self::IdleTimeout => {
                row("idle_timeout", Some((CloseCode::GOING_AWAY, "Idle timeout")), Some((CloseCode::GOING_AWAY, "Idle timeout")))
            }
            Self::SessionExpired => {
                row("session_expired", Some((CloseCode::POLICY, "Session expired")), Some((CloseCode::GOING_AWAY, "Session expired")))
            }
            Self::Draining => {
                row("draining", Some((CloseCode::GOING_AWAY, "Server going away")), Some((CloseCode::GOING_AWAY, "Server going away")))
            }
            Self::Internal => row("internal", None, None),
        }
    }
}

/// What a session was, told once when it is over.
#[derive(Clone, Copy, Debug)]
pub struct SessionEnd {
    pub reason: CloseReason,
    /// The code in the close frame that the client sent or got; `None` where there was none.
    pub code: Option<CloseCode>,
    pub duration: Duration,
    pub from_client: Traffic,
    pub from_upstream: Traffic,
}

impl SessionEnd {
    /// A session that moved nothing, for the ends before the relay.
    pub const NEVER_BEGAN: Self = Self {
        reason: CloseReason::Internal,
        code: None,
        duration: Duration::ZERO,
        from_client: Traffic { bytes: 0, messages: 0 },
        from_upstream: Traffic { bytes: 0, messages: 0 },
    };
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    pub messages: u64,
}
