//! The ways in which a request is refused before it becomes a session.
//!
//! Each variant is one reason. One table has its status, code, metric label, audit label and the
//! side at fault. So client, log, metric and audit line always agree.

use crate::model::path::AmbiguousPath;
pub mod client_codes;
pub mod close;
pub mod pages;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use crate::model::faults::FirstMessageFault;
use crate::model::faults::InvalidCertificate;
use crate::model::faults::InvalidToken;
use crate::model::faults::TicketFault;
use crate::model::faults::UnfitClaim;
use crate::model::method::Method;
use crate::model::permission::MissingPermission;
use crate::model::revocation::RevocationKind;
use crate::model::verifier_fault::VerifierFault;
use crate::rejection::close::CloseCodes;
use crate::ws::close_code::CloseCode;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The bytes can be read as more than one request, or not as a request.
    AmbiguousRequest(&'static str),
    HeadTooLarge,
    HeadTimeout,
    /// The body did not arrive completely in time.
    BodyTimeout,
    UpgradeMethod,
    /// The upgrade has HTTP/1.0, a protocol other than `websocket`, a body or a bad key.
    UpgradeMalformed(&'static str),
    UpgradeVersion,
    NoRoute,
    /// The path is another spelling of a path of the named route, and would match a route with
    /// weaker rules.
    PathSpelling(Arc<str>),
    ForbiddenOrigin,
    /// The credential is one that browsers send by themselves, and the request has no Origin.
    MissingOrigin,
    MissingCredential,
    InvalidToken(InvalidToken),
    /// The token cannot be verified: the keys of its issuer cannot be fetched.
    IssuerKeysUnavailable,
    /// The credential cannot be verified: its verifier does not answer.
    VerifierUnavailable(VerifierFault),
    InvalidTicket(TicketFault),
    /// The handshake verified the certificate, but it names no user or is not valid now.
    InvalidCertificate(InvalidCertificate),
    /// The credential is valid, but its user, login session or token is revoked.
    Revoked(RevocationKind),
    /// After an early 101, the first message was not valid or did not arrive.
    FirstMessage(FirstMessageFault),
    /// The ticket was issued for another route, origin or address.
    TicketBinding(&'static str),
    /// The client requested a ticket, and no route accepts tickets.
    TicketsOff(Box<WaysIn>),
    /// The request to an endpoint of Usher is not valid.
    InvalidRequest(&'static str),
    /// The endpoint of Usher accepts only these HTTP methods.
    MethodNotAllowed {
        allow: &'static str,
    },
    /// The credential is valid, but the client must use this method instead.
    LegacyMethod(Method),
    /// The client requested a permission that its credential does not give.
    PermissionDenied,
    /// The credential is valid, but lacks a permission that the route requires.
    MissingPermission(Box<MissingPermission>),
    /// The credential is valid, but the upstream would read one of its claims differently.
    UnfitClaim(Box<UnfitClaim>),
    RateLimited {
        retry_after: Duration,
    },
    /// Too many upgrades, from this address or from all.
    TooManyUpgrades {
        retry_after: Duration,
    },
    /// The user has the maximum number of sessions.
    TooManySessions,
    /// The address has the maximum number of sessions.
    TooManyAddressSessions,
    StoreUnavailable,
    /// No server could be reached.
    UpstreamUnavailable,
    /// A server did not answer in time.
    UpstreamTimeout,
    /// A server answered neither with a correct upgrade nor with HTTP.
    UpstreamProtocol(&'static str),
    /// A server answered the upgrade with this status instead of 101. Usher passes its response on.
    UpstreamDeclined(StatusCode),
    TooManyConnections,
    Draining,
    /// The client disconnected before it got an answer.
    ClientGone,
    /// A fault in Usher.
    Internal,
}

/// One entry of an error frame's `details`: its name and value.
pub type Detail = (&'static str, Value);

/// The methods that a route offers instead of one that it does not accept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaysIn {
    /// `None`: the client named no route, and there are several.
    pub route: Option<String>,
    /// The methods in order of preference.
    pub methods: Vec<Method>,
}

/// The side at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Upstream,
    Store,
    /// The issuer or verifier of the credential.
    Issuer,
    Us,
}

/// The table row of a rejection.
#[derive(Clone, Copy, Debug)]
pub struct RejectionFacts {
    pub status: StatusCode,
    /// The stable code for programs: `code` in the body. The label in metrics and audit lines is in
    /// lower case.
    pub code: &'static str,
    pub label: &'static str,
    pub side: Side,
    /// True if the same client may succeed by trying again, perhaps with a new credential.
    pub recoverable: bool,
}

impl From<AmbiguousPath> for Rejection {
    fn from(ambiguous: AmbiguousPath) -> Self {
        Self::AmbiguousRequest(ambiguous.0)
    }
}

impl Rejection {
    /// Returns one of each variant: the rows of `docs/errors.md` and all metric labels.
    pub fn catalogue() -> Vec<Self> {
        vec![
            Self::AmbiguousRequest("the request can be read in more than one way"),
            Self::HeadTooLarge,
            Self::HeadTimeout,
            Self::BodyTimeout,
            Self::UpgradeMethod,
            Self::UpgradeMalformed("the upgrade is not well formed"),
            Self::UpgradeVersion,
            Self::NoRoute,
            Self::PathSpelling("/ws".into()),
            Self::ForbiddenOrigin,
            Self::MissingOrigin,
            Self::MissingCredential,
            Self::InvalidToken(InvalidToken::Expired),
            Self::InvalidToken(InvalidToken::Bound),
            Self::IssuerKeysUnavailable,
            Self::VerifierUnavailable(VerifierFault::Timeout),
            Self::InvalidTicket(TicketFault::Unknown),
            Self::InvalidCertificate(InvalidCertificate::Expired),
            Self::Revoked(RevocationKind::TokenId),
            Self::FirstMessage(FirstMessageFault::NotAuth),
            Self::FirstMessage(FirstMessageFault::MissingToken),
            Self::FirstMessage(FirstMessageFault::TwoCredentials),
            Self::FirstMessage(FirstMessageFault::TooBig),
            Self::FirstMessage(FirstMessageFault::Timeout),
            Self::FirstMessage(FirstMessageFault::Protocol),
            Self::TicketBinding("the ticket was issued for another route, origin or address"),
            Self::TicketsOff(Box::default()),
            Self::InvalidRequest("the request body is not valid for this endpoint"),
            Self::MethodNotAllowed { allow: "POST, OPTIONS" },
            Self::LegacyMethod(Method::Ticket),
            Self::PermissionDenied,
            Self::MissingPermission(Box::new(MissingPermission {
                name: "chat:read".to_owned(),
                scope: None,
            })),
            Self::UnfitClaim(Box::new(UnfitClaim {
                claim: "sub".to_owned(),
                header: http::HeaderName::from_static("x-user-id"),
            })),
            Self::RateLimited { retry_after: Duration::from_secs(1) },
            Self::TooManyUpgrades { retry_after: Duration::from_secs(1) },
            Self::TooManySessions,
            Self::TooManyAddressSessions,
            Self::StoreUnavailable,
            Self::UpstreamUnavailable,
            Self::UpstreamTimeout,
            Self::UpstreamProtocol("the answer is not HTTP"),
            Self::UpstreamDeclined(StatusCode::NOT_FOUND),
            Self::TooManyConnections,
            Self::Draining,
            Self::ClientGone,
            Self::Internal,
        ]
    }

    pub fn facts(&self) -> RejectionFacts {
        use Side::{Client, Issuer, Store, Upstream, Us};
        let row = |status, code, label, side, recoverable| RejectionFacts {
            status,
            code,
            label,
            side,
            recoverable,
        };
        match self {
            Self::AmbiguousRequest(_) => {
                row(StatusCode::BAD_REQUEST, "BAD_REQUEST", "bad_request", Client, false)
            }
            Self::HeadTooLarge => row(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "HEAD_TOO_LARGE",
                "head_too_large",
                Client,
                false,
            ),
            Self::BodyTimeout => {
                row(StatusCode::REQUEST_TIMEOUT, "BODY_TIMEOUT", "body_timeout", Client, true)
            }
            Self::HeadTimeout => {
                row(StatusCode::REQUEST_TIMEOUT, "HEAD_TIMEOUT", "head_timeout", Client, true)
            }
            Self::UpgradeMethod => row(
                StatusCode::METHOD_NOT_ALLOWED,
                "UPGRADE_METHOD",
                "upgrade_method",
                Client,
                false,
            ),
            Self::UpgradeMalformed(_) => row(
                StatusCode::BAD_REQUEST,
                "UPGRADE_MALFORMED",
                "upgrade_malformed",
                Client,
                false,
            ),
            Self::UpgradeVersion => row(
                StatusCode::UPGRADE_REQUIRED,
                "UPGRADE_VERSION",
                "upgrade_version",
                Client,
                false,
            ),
            Self::NoRoute => row(StatusCode::NOT_FOUND, "NO_ROUTE", "no_route", Client, false),
            Self::PathSpelling(_) => {
                row(StatusCode::NOT_FOUND, "PATH_SPELLING", "path_spelling", Client, false)
            }
            Self::ForbiddenOrigin => {
                row(StatusCode::FORBIDDEN, "FORBIDDEN_ORIGIN", "forbidden_origin", Client, false)
            }
            Self::MissingOrigin => {
                row(StatusCode::FORBIDDEN, "FORBIDDEN_ORIGIN", "missing_origin", Client, false)
            }
            Self::MissingCredential => row(
                StatusCode::UNAUTHORIZED,
                "MISSING_CREDENTIAL",
                "missing_credential",
                Client,
                true,
            ),
            // The client would get the same kind of token again.
            Self::InvalidToken(InvalidToken::Bound) => {
                row(StatusCode::UNAUTHORIZED, "BOUND_TOKEN", "bound_token", Client, false)
            }
            Self::InvalidToken(_) => {
                row(StatusCode::UNAUTHORIZED, "INVALID_TOKEN", "invalid_token", Client, true)
            }
            Self::IssuerKeysUnavailable => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "ISSUER_KEYS_UNAVAILABLE",
                "issuer_keys_unavailable",
                Issuer,
                true,
            ),
            Self::VerifierUnavailable(_) => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "VERIFIER_UNAVAILABLE",
                "verifier_unavailable",
                Issuer,
                true,
            ),
            Self::InvalidTicket(_) => {
                row(StatusCode::FORBIDDEN, "INVALID_TICKET", "invalid_ticket", Client, true)
            }
            Self::InvalidCertificate(_) => row(
                StatusCode::UNAUTHORIZED,
                "INVALID_CERTIFICATE",
                "invalid_certificate",
                Client,
                false,
            ),
            // If the user is revoked, no credential helps. Otherwise the client may get a new one.
            Self::Revoked(kind) => row(
                StatusCode::UNAUTHORIZED,
                "REVOKED",
                "revoked",
                Client,
                *kind != RevocationKind::User,
            ),
            Self::FirstMessage(FirstMessageFault::NotAuth) => row(
                StatusCode::BAD_REQUEST,
                "FIRST_MESSAGE_NOT_AUTH",
                "first_message_not_auth",
                Client,
                true,
            ),
            Self::FirstMessage(FirstMessageFault::MissingToken) => row(
                StatusCode::UNAUTHORIZED,
                "MISSING_CREDENTIAL",
                "first_message_missing_token",
                Client,
                true,
            ),
            Self::FirstMessage(FirstMessageFault::TwoCredentials) => {
                row(StatusCode::BAD_REQUEST, "TWO_CREDENTIALS", "two_credentials", Client, false)
            }
            Self::FirstMessage(FirstMessageFault::TooBig) => row(
                StatusCode::PAYLOAD_TOO_LARGE,
                "FIRST_MESSAGE_TOO_BIG",
                "first_message_too_big",
                Client,
                false,
            ),
            Self::FirstMessage(FirstMessageFault::Timeout) => row(
                StatusCode::REQUEST_TIMEOUT,
                "AUTHENTICATION_TIMEOUT",
                "authentication_timeout",
                Client,
                true,
            ),
            Self::FirstMessage(FirstMessageFault::Protocol) => row(
                StatusCode::BAD_REQUEST,
                "FIRST_MESSAGE_PROTOCOL",
                "first_message_protocol",
                Client,
                false,
            ),
            Self::TicketBinding(_) => {
                row(StatusCode::FORBIDDEN, "INVALID_TICKET", "ticket_binding", Client, true)
            }
            Self::TicketsOff(_) => {
                row(StatusCode::NOT_FOUND, "TICKETS_OFF", "tickets_off", Client, false)
            }
            Self::InvalidRequest(_) => {
                row(StatusCode::BAD_REQUEST, "INVALID_REQUEST", "invalid_request", Client, false)
            }
            Self::MethodNotAllowed { .. } => row(
                StatusCode::METHOD_NOT_ALLOWED,
                "METHOD_NOT_ALLOWED",
                "method_not_allowed",
                Client,
                false,
            ),
            Self::LegacyMethod(_) => {
                row(StatusCode::FORBIDDEN, "LEGACY_METHOD", "legacy_method", Client, true)
            }
            Self::PermissionDenied => {
                row(StatusCode::FORBIDDEN, "PERMISSION_DENIED", "permission_denied", Client, false)
            }
            Self::MissingPermission(_) => row(
                StatusCode::FORBIDDEN,
                "MISSING_PERMISSION",
                "missing_permission",
                Client,
                false,
            ),
            Self::UnfitClaim(_) => {
                row(StatusCode::FORBIDDEN, "UNFIT_CLAIM", "unfit_claim", Client, false)
            }
            Self::RateLimited { .. } => {
                row(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", "rate_limited", Client, true)
            }
            Self::TooManyUpgrades { .. } => row(
                StatusCode::TOO_MANY_REQUESTS,
                "RATE_LIMITED",
                "too_many_upgrades",
                Client,
                true,
            ),
            Self::TooManySessions => row(
                StatusCode::TOO_MANY_REQUESTS,
                "TOO_MANY_SESSIONS",
                "too_many_sessions",
                Client,
                true,
            ),
            Self::TooManyAddressSessions => row(
                StatusCode::TOO_MANY_REQUESTS,
                "TOO_MANY_SESSIONS",
                "too_many_address_sessions",
                Client,
                true,
            ),
            Self::StoreUnavailable => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "STORE_UNAVAILABLE",
                "store_unavailable",
                Store,
                true,
            ),
            Self::UpstreamUnavailable => row(
                StatusCode::BAD_GATEWAY,
                "UPSTREAM_UNAVAILABLE",
                "upstream_unavailable",
                Upstream,
                true,
            ),
            Self::UpstreamTimeout => row(
                StatusCode::GATEWAY_TIMEOUT,
                "UPSTREAM_TIMEOUT",
                "upstream_timeout",
                Upstream,
                true,
            ),
            Self::UpstreamProtocol(_) => row(
                StatusCode::BAD_GATEWAY,
                "UPSTREAM_PROTOCOL",
                "upstream_protocol",
                Upstream,
                true,
            ),
            Self::UpstreamDeclined(status) => {
                row(*status, "UPSTREAM_DECLINED", "upstream_declined", Upstream, true)
            }
            Self::TooManyConnections => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "TOO_MANY_CONNECTIONS",
                "too_many_connections",
                Us,
                true,
            ),
            Self::Draining => {
                row(StatusCode::SERVICE_UNAVAILABLE, "DRAINING", "draining", Us, true)
            }
            Self::ClientGone => {
                row(StatusCode::BAD_REQUEST, "CLIENT_GONE", "client_gone", Client, true)
            }
            Self::Internal => {
                row(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "internal", Us, true)
            }
        }
    }

    /// Returns the message to the client. It gives only the kind of failure, never the reason why a
    /// credential failed.
    pub fn message(&self) -> String {
        match self {
            Self::AmbiguousRequest(why)
            | Self::UpgradeMalformed(why)
            | Self::InvalidRequest(why) => (*why).to_owned(),
            Self::HeadTooLarge => "the request head is larger than this server accepts".to_owned(),
            Self::BodyTimeout => "the request body did not arrive in time".to_owned(),
            Self::HeadTimeout => "the request head did not arrive in time".to_owned(),
            Self::UpgradeMethod => "a WebSocket upgrade must be a GET request".to_owned(),
            Self::UpgradeVersion => {
                "this server supports version 13 of the WebSocket protocol".to_owned()
            }
            Self::NoRoute => "no route matches this path".to_owned(),
            Self::PathSpelling(_) => "no route matches this spelling of the path".to_owned(),
            Self::ForbiddenOrigin => "pages of this origin may not connect here".to_owned(),
            Self::MissingOrigin => "a cookie is accepted only with an Origin header".to_owned(),
            Self::MissingCredential => "a credential is required".to_owned(),
            Self::InvalidToken(InvalidToken::Bound) => {
                "a token that is bound to a key is not accepted here".to_owned()
            }
            Self::InvalidToken(_) => "the token is not valid".to_owned(),
            Self::IssuerKeysUnavailable => "tokens cannot be checked at the moment".to_owned(),
            Self::VerifierUnavailable(_) => {
                "credentials cannot be checked at the moment".to_owned()
            }
            Self::InvalidTicket(_) | Self::TicketBinding(_) => "the ticket is not valid".to_owned(),
            Self::InvalidCertificate(_) => "the client certificate is not valid".to_owned(),
            Self::Revoked(_) => "the credential is revoked".to_owned(),
            Self::FirstMessage(fault) => fault.to_string(),
            Self::TicketsOff(_) => "tickets are not accepted here".to_owned(),
            Self::MethodNotAllowed { allow } => format!("this endpoint accepts {allow}"),
            Self::LegacyMethod(instead) => {
                format!("use the {} method instead", instead.name())
            }
            Self::PermissionDenied => "the credential does not give this permission".to_owned(),
            Self::MissingPermission(missing) => {
                format!("the credential does not give the permission `{}`", missing.name)
            }
            Self::UnfitClaim(_) => {
                "a claim of the credential cannot be passed on unchanged".to_owned()
            }
            Self::RateLimited { .. } | Self::TooManyUpgrades { .. } => {
                "too many requests".to_owned()
            }
            Self::TooManySessions => "this user has too many sessions".to_owned(),
            Self::TooManyAddressSessions => "this address has too many sessions".to_owned(),
            Self::StoreUnavailable => "tickets cannot be checked at the moment".to_owned(),
            Self::UpstreamUnavailable => {
                "the service behind this address cannot be reached".to_owned()
            }
            Self::UpstreamTimeout => {
                "the service behind this address did not answer in time".to_owned()
            }
            Self::UpstreamProtocol(_) => {
                "the service behind this address sent an invalid response".to_owned()
            }
            Self::UpstreamDeclined(status) => {
                format!("the service behind this address answered {status}")
            }
            Self::TooManyConnections => "this server has too many connections".to_owned(),
            Self::Draining => "this server is shutting down".to_owned(),
            Self::ClientGone => "the client disconnected".to_owned(),
            Self::Internal => "an internal error occurred".to_owned(),
        }
    }

    /// Returns the details that a program can act on. They give no more than `message` does.
    pub fn details(&self) -> Vec<Detail> {
        match self {
            Self::MissingPermission(missing) => vec![("permission", missing.name.as_str().into())],
            Self::LegacyMethod(instead) => vec![("method", instead.name().into())],
            Self::TicketsOff(ways) => {
                let methods: Vec<_> = ways.methods.iter().map(|method| method.name()).collect();
                vec![
                    ("route", ways.route.as_deref().into()),
                    ("method", methods.first().copied().into()),
                    ("methods", methods.into()),
                ]
            }
            _ => Vec::new(),
        }
    }

    /// Returns true if only a client with a valid credential gets this rejection. Without a method
    /// there was no login: a public route also contacts its upstream for unauthenticated clients.
    pub fn is_after_login(&self, method: Option<Method>) -> bool {
        match self {
            Self::Revoked(_)
            | Self::LegacyMethod(_)
            | Self::PermissionDenied
            | Self::MissingPermission(_)
            | Self::RateLimited { .. }
            | Self::TooManySessions => true,
            other => method.is_some() && other.facts().side == Side::Upstream,
        }
    }

    /// Returns true if the rejection can follow a 101. The others come before the route of an
    /// upgrade is known, from one of Usher's endpoints, or are about a client that has left.
    ///
    /// An upgrade over a rate is refused first, and by a status: a client that takes a 101 for a
    /// success would come back without a pause.
    pub fn can_follow_101(&self) -> bool {
        !matches!(
            self,
            Self::HeadTooLarge
                | Self::HeadTimeout
                | Self::BodyTimeout
                | Self::UpgradeMethod
                | Self::UpgradeMalformed(_)
                | Self::UpgradeVersion
                | Self::NoRoute
                | Self::PathSpelling(_)
                | Self::TicketsOff(_)
                | Self::InvalidRequest(_)
                | Self::MethodNotAllowed { .. }
                | Self::PermissionDenied
                | Self::RateLimited { .. }
                | Self::TooManyUpgrades { .. }
                | Self::ClientGone
        )
    }

    /// Returns true if a client that knows one code for every failed login calls it `AUTH_FAILED`.
    pub fn is_failed_login(&self) -> bool {
        let facts = self.facts();
        let status = facts.status.as_u16();
        let of_first_message = matches!(
            self,
            Self::FirstMessage(FirstMessageFault::NotAuth | FirstMessageFault::Timeout)
        );
        facts.side == Side::Client && (matches!(status, 401 | 403) || of_first_message)
    }

    /// Returns the close frame of the rejection, for use after an early 101 and with `reject_mode =
    /// "close"`.
    pub fn close(&self, codes: CloseCodes) -> (CloseCode, String) {
        let (rfc, reason) = match self {
            Self::FirstMessage(FirstMessageFault::NotAuth) => {
                (CloseCode::POLICY, "First message must be auth")
            }
            Self::FirstMessage(FirstMessageFault::MissingToken) | Self::MissingCredential => {
                (CloseCode::POLICY, "Missing auth token")
            }
            Self::FirstMessage(FirstMessageFault::Timeout) => {
                (CloseCode::POLICY, "Authentication timeout")
            }
            Self::FirstMessage(FirstMessageFault::Protocol) => {
                return (CloseCode::PROTOCOL_ERROR, "Protocol error".to_owned());
            }
            Self::FirstMessage(FirstMessageFault::TooBig) => {
                return (CloseCode::TOO_BIG, "First message too big".to_owned());
            }
            Self::InvalidToken(_)
            | Self::InvalidTicket(_)
            | Self::TicketBinding(_)
            | Self::FirstMessage(FirstMessageFault::TwoCredentials) => {
                (CloseCode::POLICY, "Invalid token")
            }
            Self::InvalidCertificate(_) => (CloseCode::POLICY, "Invalid certificate"),
            Self::MissingPermission(_) => (CloseCode::POLICY, "Missing permission"),
            Self::Revoked(_) => (CloseCode::POLICY, "Session revoked"),
            Self::TooManySessions | Self::TooManyAddressSessions => {
                (CloseCode::POLICY, "Too many sessions")
            }
            Self::UpstreamUnavailable | Self::UpstreamTimeout => {
                (CloseCode::TRY_AGAIN_LATER, "Upstream unavailable")
            }
            Self::UpstreamProtocol(_) | Self::UpstreamDeclined(_) => {
                (CloseCode::BAD_GATEWAY, "Upstream unavailable")
            }
            // The same as for live sessions, with every setting of `close_codes`.
            Self::Draining => return (CloseCode::GOING_AWAY, "Server going away".to_owned()),
            Self::Internal => (CloseCode::INTERNAL, "Internal error"),
            other if other.facts().status.is_server_error() => (CloseCode::TRY_AGAIN_LATER, ""),
            _ => (CloseCode::POLICY, ""),
        };
        // The close code does not depend on the status of the upstream's response.
        let status = if matches!(self, Self::UpstreamDeclined(_)) {
            StatusCode::BAD_GATEWAY
        } else {
            self.facts().status
        };
        (
            codes.of(rfc, status.as_u16()),
            if reason.is_empty() { self.message() } else { reason.to_owned() },
        )
    }

    /// Returns the reason for the operator. It goes to log and audit log, never to the client.
    pub fn detail(&self) -> String {
        match self {
            Self::InvalidToken(why) => why.to_string(),
            Self::IssuerKeysUnavailable => {
                "the keys of the token's issuer could not be fetched".to_owned()
            }
            Self::VerifierUnavailable(fault) => format!("verifier unavailable: {fault}"),
            Self::InvalidTicket(why) => why.to_string(),
            Self::InvalidCertificate(why) => why.to_string(),
            Self::Revoked(kind) => format!("revoked by {}", kind.name()),
            Self::PathSpelling(route) => {
                format!(
                    "the path is another spelling of a path of the route `{route}`, and would \
                     match a route with weaker rules"
                )
            }
            Self::UnfitClaim(unfit) => {
                format!(
                    "the header {1} would change the value of the claim `{0}`",
                    unfit.claim, unfit.header
                )
            }
            Self::TicketBinding(why) | Self::UpstreamProtocol(why) => (*why).to_owned(),
            other => other.message(),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.facts().code, self.detail())
    }
}

impl std::error::Error for Rejection {}

impl From<InvalidToken> for Rejection {
    fn from(why: InvalidToken) -> Self {
        match why {
            InvalidToken::NoKeys => Self::IssuerKeysUnavailable,
            why => Self::InvalidToken(why),
        }
    }
}

impl From<UnfitClaim> for Rejection {
    fn from(unfit: UnfitClaim) -> Self {
        Self::UnfitClaim(Box::new(unfit))
    }
}

impl From<FirstMessageFault> for Rejection {
    fn from(fault: FirstMessageFault) -> Self {
        Self::FirstMessage(fault)
    }
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Store => "store",
            Self::Issuer => "issuer",
            Self::Us => "us",
        }
    }
}
