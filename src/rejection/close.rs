//! The ways in which a session ends.
//!
//! As with rejections, one table has the message to each side and the labels.

use std::time::Duration;

use crate::ws::close_code::CloseCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCodes {
    /// The codes of RFC 6455, such as 1008.
    Rfc,
    /// 4400, 4401, 4403, 4408, 4409, 4429 and 4503, derived from HTTP statuses.
    Http,
}

impl CloseCodes {
    /// Returns the code to send: `rfc`, or the code for the HTTP status of this case.
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
    /// The client sent a close frame and the upstream answered it. `UpstreamClosed` is the other
    /// direction.
    ClientClosed,
    UpstreamClosed,
    /// The connection ended without a close frame.
    ClientGone,
    UpstreamGone,
    /// The peer sent bytes that are not valid WebSocket frames.
    ClientProtocol,
    UpstreamProtocol,
    /// The client sent nothing, not even a pong, for the idle timeout.
    IdleTimeout,
    /// The grant expired.
    SessionExpired,
    /// The user, the login session, the token or the session itself was revoked.
    Revoked,
    /// The user opened another session and had reached the limit.
    Replaced,
    /// The upstream refused the login in the first message. Usher had changed the client's own
    /// login.
    LoginRefused,
    /// The client did not send a valid new credential in time.
    ReauthTimeout,
    /// The client sent a valid credential of another user.
    ReauthSubject,
    /// The client sent a message larger than `limits.message_bytes`.
    MessageTooBig,
    /// The client sent more than `limits.messages_per_second`.
    MessageRate,
    /// The server is shutting down. It closes the sessions one after another within the drain time.
    Draining,
    /// A fault in Usher ended the task.
    Internal,
}

#[derive(Clone, Copy, Debug)]
pub struct CloseFacts {
    /// The label in metrics and audit lines.
    pub label: &'static str,
    /// The close frame that Usher sends to the client, if Usher ends the session.
    pub to_client: Option<(CloseCode, &'static str)>,
    /// The HTTP status for `close_codes = "http"`; 0 if no status fits.
    pub status: u16,
    pub to_upstream: Option<(CloseCode, &'static str)>,
    /// The error frame before the close frame, for a client that speaks the route's dialect.
    pub error: Option<ErrorFrame>,
}

/// The end of a session as an error frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorFrame {
    pub code: &'static str,
    pub message: &'static str,
    /// True if the same client may reconnect by itself.
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

    /// Returns the close frame for the client, with the codes of its route.
    pub fn to_client(self, codes: CloseCodes) -> Option<(CloseCode, &'static str)> {
        let facts = self.facts();
        facts.to_client.map(|(code, reason)| (codes.of(code, facts.status), reason))
    }

    pub fn facts(self) -> CloseFacts {
        let row = |label, to_client, to_upstream| CloseFacts {
            label,
            to_client,
            to_upstream,
            status: 0,
            error: None,
        };
        let policy = |label, text, status, error| CloseFacts {
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
            // Both sides get the same reason: the upstream may want to end more than this
            // connection.
            Self::Revoked => {
                let told = Some((CloseCode::POLICY, "Session revoked"));
                let error = error("SESSION_REVOKED", "the session was revoked", false);
                CloseFacts {
                    label: "revoked",
                    to_client: told,
                    to_upstream: told,
                    status: 401,
                    error,
                }
            }
            // The client's code means that it must not reconnect. Otherwise two pages would replace
            // each other for ever.
            Self::Replaced => {
                let told = Some((CloseCode::POLICY, "Session replaced"));
                let error = error(
                    "SESSION_REPLACED",
                    "another session of this user replaced this one",
                    false,
                );
                CloseFacts {
                    label: "replaced",
                    to_client: told,
                    to_upstream: told,
                    status: 409,
                    error,
                }
            }
            Self::LoginRefused => {
                let text = "Upstream refused the login";
                let told = Some((CloseCode::BAD_GATEWAY, text));
                CloseFacts {
                    status: 502,
                    ..row("login_refused", told, Some((CloseCode::GOING_AWAY, text)))
                }
            }
            Self::ReauthTimeout => {
                let error =
                    error("REAUTHENTICATION_TIMEOUT", "no valid credential arrived in time", true);
                policy("reauth_timeout", "Re-authentication timeout", 408, error)
            }
            // The answer to the credential already had the error.
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

/// The summary of a session, reported once at its end.
#[derive(Clone, Copy, Debug)]
pub struct SessionEnd {
    pub reason: CloseReason,
    /// The code in the close frame that the client sent or received. `None`: there was no close
    /// frame.
    pub code: Option<CloseCode>,
    pub duration: Duration,
    pub from_client: Traffic,
    pub from_upstream: Traffic,
}

impl SessionEnd {
    /// A session without traffic, for ends before the relay begins.
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
