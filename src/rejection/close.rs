//! Every way a session ends.
//!
//! As with rejections, one table holds what each side is told and how the end is counted.

use std::time::Duration;

use crate::ws::close_code::CloseCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCodes {
    /// 1008 and its neighbours in RFC 6455.
    Rfc,
    /// 4400, 4401, 4403, 4408, 4409, 4429 and 4503, after the statuses of HTTP.
    Http,
}

impl CloseCodes {
    /// The code that a peer is sent for `rfc`, where the end is one that HTTP would call `status`.
    pub fn of(self, rfc: CloseCode, status: u16) -> CloseCode {
        match (self, status) {
            (Self::Http, 400 | 401 | 403 | 408 | 409 | 429) => CloseCode(4000 + status),
            (Self::Http, 402..=499) => CloseCode(4400),
            (Self::Http, 502..=504) => CloseCode(4503),
            _ => rfc,
        }
    }
}

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
    /// Its user, login session or token was revoked, or it was itself.
    Revoked,
    /// Its user opened another, and may have no more at once.
    Replaced,
    /// The upstream did not accept the login in the first message, which was not the client's own.
    LoginRefused,
    /// The client was asked for a new credential and showed none that is good in time.
    ReauthTimeout,
    /// The client showed a good credential of somebody else.
    ReauthSubject,
    /// A message of the client is larger than `limits.message_bytes`.
    MessageTooBig,
    /// The client sends more than `limits.messages_per_second`.
    MessageRate,
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
    /// What HTTP would call it, for `close_codes = "http"`; 0 where that has no word for it.
    pub status: u16,
    pub to_upstream: Option<(CloseCode, &'static str)>,
    /// Goes ahead of the close frame to a client that speaks the route's dialect.
    pub error: Option<ErrorFrame>,
}

/// The end of a session in the words of an error frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorFrame {
    pub code: &'static str,
    pub message: &'static str,
    /// May the same client come back by itself?
    pub recoverable: bool,
}

impl CloseReason {
    pub const ALL: [Self; 17] = [
        Self::ClientClosed,
        Self::UpstreamClosed,
        Self::ClientGone,
        Self::UpstreamGone,
        Self::ClientProtocol,
        Self::UpstreamProtocol,
        Self::IdleTimeout,
        Self::SessionExpired,
        Self::Revoked,
        Self::Replaced,
        Self::LoginRefused,
        Self::ReauthTimeout,
        Self::ReauthSubject,
        Self::MessageTooBig,
        Self::MessageRate,
        Self::Draining,
        Self::Internal,
    ];

    /// The close frame for the client, in the codes of its route.
    pub fn to_client(self, codes: CloseCodes) -> Option<(CloseCode, &'static str)> {
        let facts = self.facts();
        facts.to_client.map(|(code, reason)| (codes.of(code, facts.status), reason))
    }

    pub fn facts(self) -> Facts {
        let row = |label, to_client, to_upstream| Facts {
            label,
            to_client,
            to_upstream,
            status: 0,
            error: None,
        };
        let policy = |label, text, status, error| Facts {
            label,
            to_client: Some((CloseCode::POLICY, text)),
            to_upstream: Some((CloseCode::GOING_AWAY, text)),
            status,
            error,
        };
        let error = |code, message, recoverable| Some(ErrorFrame { code, message, recoverable });
        match self {
            Self::ClientClosed => row("client_closed", None, None),
            Self::UpstreamClosed => row("upstream_closed", None, None),
            Self::ClientGone => {
                row("client_gone", None, Some((CloseCode::GOING_AWAY, "Client gone")))
            }
            Self::UpstreamGone => {
                row("upstream_gone", Some((CloseCode::TRY_AGAIN_LATER, "Upstream gone")), None)
            }
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
            Self::IdleTimeout => row(
                "idle_timeout",
                Some((CloseCode::GOING_AWAY, "Idle timeout")),
                Some((CloseCode::GOING_AWAY, "Idle timeout")),
            ),
            Self::SessionExpired => {
                let error = error(
                    "SESSION_EXPIRED",
                    "the session ended because its credential expired",
                    true,
                );
                policy("session_expired", "Session expired", 401, error)
            }
            // Both sides hear the same: the upstream may want to end more than this connection.
            Self::Revoked => {
                let told = Some((CloseCode::POLICY, "Session revoked"));
                let error = error("SESSION_REVOKED", "the session was revoked", false);
                Facts { label: "revoked", to_client: told, to_upstream: told, status: 401, error }
            }
            // The client's code for it says: do not come back, or two pages take the place from
            // each other for ever.
            Self::Replaced => {
                let told = Some((CloseCode::POLICY, "Session replaced"));
                let error = error(
                    "SESSION_REPLACED",
                    "another session of this user replaced this one",
                    false,
                );
                Facts { label: "replaced", to_client: told, to_upstream: told, status: 409, error }
            }
            Self::LoginRefused => {
                let text = "Upstream refused the login";
                let told = Some((CloseCode::BAD_GATEWAY, text));
                Facts {
                    status: 502,
                    ..row("login_refused", told, Some((CloseCode::GOING_AWAY, text)))
                }
            }
            Self::ReauthTimeout => {
                let error =
                    error("REAUTHENTICATION_TIMEOUT", "no valid credential arrived in time", true);
                policy("reauth_timeout", "Re-authentication timeout", 408, error)
            }
            // The answer to the credential has said it.
            Self::ReauthSubject => policy("reauth_subject", "Invalid token", 403, None),
            Self::MessageTooBig => row(
                "message_too_big",
                Some((CloseCode::TOO_BIG, "Message too big")),
                Some((CloseCode::GOING_AWAY, "Message too big")),
            ),
            Self::MessageRate => {
                let error = error("RATE_LIMITED", "the client sends too many messages", true);
                policy("message_rate", "Too many messages", 429, error)
            }
            Self::Draining => row(
                "draining",
                Some((CloseCode::GOING_AWAY, "Server going away")),
                Some((CloseCode::GOING_AWAY, "Server going away")),
            ),
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
