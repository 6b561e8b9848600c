//! Why a credential lets nobody in: closed sets, so that rejections, logs and metrics can name them.

use http::HeaderName;

/// Why a token is refused. The client learns only that it was; log and audit name the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    #[error("the token is longer than the issuer allows")]
    TooLong,
    #[error("it is not a compact JWS")]
    Malformed,
    #[error("no issuer of ours made it")]
    UnknownIssuer,
    #[error("its algorithm is not one that the issuer is pinned to")]
    Algorithm,
    #[error("no key of the issuer has its key id")]
    UnknownKey,
    /// Not the token's fault: it may be good.
    #[error("the issuer's keys could not be fetched yet")]
    NoKeys,
    #[error("its signature does not verify")]
    Signature,
    #[error("it has a critical header that nobody here understands")]
    CriticalHeader,
    #[error("its type is not a JWT or an access token, or it holds another token")]
    Type,
    #[error("its verifier refuses it")]
    Refused,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("it was made for another audience")]
    Audience,
    #[error("a claim is missing or has the wrong type: {0}")]
    Claim(&'static str),
    #[error("it would be good for longer than the issuer's max_lifetime")]
    Lifetime,
    /// RFC 7800. Taken as a bearer token it would open doors for a thief that its issuer meant to
    /// stop.
    #[error("it is bound to a key (`cnf`), and proofs of possession are not checked")]
    Bound,
    #[error("it is no test identity that counts here")]
    Bypass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificate {
    #[error("an authority that verified it has been taken out since; connect anew")]
    Authority,
    #[error("the certificate cannot be read")]
    Malformed,
    #[error("the certificate has expired")]
    Expired,
    #[error("the certificate is not valid yet")]
    NotYetValid,
    #[error("the certificate does not name a user where [mtls] user looks")]
    NoUser,
    #[error("the certificate names more than one user where [mtls] user looks")]
    ManyUsers,
    #[error("the user's name in the certificate is not text that can be passed on")]
    UserName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FirstMessageFault {
    #[error("the first message is not the one that carries a credential")]
    NotAuth,
    #[error("the first message carries neither token nor ticket")]
    MissingToken,
    #[error("the message carries more than one credential")]
    TwoCredentials,
    #[error("the first message is larger than first_message.max_bytes")]
    TooBig,
    #[error("no first message came in time")]
    Timeout,
    #[error("it is no WebSocket frame, or not one that was agreed on")]
    Protocol,
}

/// A claim whose value does not survive the header that the route wants to send it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfitClaim {
    pub claim: String,
    pub header: HeaderName,
}

/// Why a ticket is not redeemed. The client cannot tell them apart; the audit log does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketFault {
    #[error("it has not the shape of a ticket")]
    Malformed,
    #[error("it is unknown, or was redeemed, or expired long ago")]
    Unknown,
    #[error("it has expired")]
    Expired,
    #[error("it was redeemed before")]
    Used,
    #[error("it names a region that is not known here")]
    UnknownRegion,
}
