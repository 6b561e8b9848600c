//! The reasons why a credential is refused: closed sets, so that rejections, logs and metrics can
//! name them.

use http::HeaderName;

/// The reason why a token is refused. The client gets one answer for most; log and audit log have
/// the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    #[error("the credential is longer than max_token_bytes")]
    TooLong,
    #[error("the token is malformed")]
    Malformed,
    #[error("the session id is malformed")]
    SessionId,
    #[error("the signature of the session id is not valid")]
    SessionSignature,
    #[error("the issuer of the token is not configured")]
    UnknownIssuer,
    #[error("the algorithm of the token is not allowed for its issuer")]
    Algorithm,
    #[error("the issuer has no key with the key id of the token")]
    UnknownKey,
    /// The token may be valid.
    #[error("the keys of the issuer are not fetched yet")]
    NoKeys,
    #[error("the signature of the token is not valid")]
    Signature,
    #[error("the token has a critical header that is not supported")]
    CriticalHeader,
    #[error("the token is not an access token, or it contains another token")]
    Type,
    #[error("the verifier refused the credential")]
    Refused,
    #[error("the credential has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is for another audience")]
    Audience,
    #[error("a claim is missing or has the wrong type: {0}")]
    Claim(&'static str),
    #[error("the token is valid for longer than the issuer's max_lifetime")]
    Lifetime,
    /// RFC 7800. The issuer bound the token to a key so that a thief cannot use it. As a bearer
    /// token, the thief could.
    #[error("the token is bound to a key (`cnf`), and proofs of possession are not supported")]
    Bound,
    #[error("bypass credential not accepted")]
    Bypass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificate {
    #[error("the authority of the certificate was removed from the configuration; connect again")]
    Authority,
    #[error("the certificate is revoked")]
    Revoked,
    #[error("the CRL of the certificate's authority has expired")]
    RevocationListExpired,
    #[error("the certificate cannot be read")]
    Malformed,
    #[error("the certificate has expired")]
    Expired,
    #[error("the certificate is not valid yet")]
    NotYetValid,
    #[error("the certificate has no user name in the field that [mtls] user selects")]
    NoUser,
    #[error("the certificate has several user names in the field that [mtls] user selects")]
    ManyUsers,
    #[error("the user name in the certificate is empty, too long or not plain text")]
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
    #[error("no first message arrived in time")]
    Timeout,
    #[error("the first message is not a valid WebSocket frame")]
    Protocol,
}

/// A claim whose value would change in the header that the route sends it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfitClaim {
    pub claim: String,
    pub header: HeaderName,
}

/// The reason why a ticket is not redeemed. The client gets one answer for all; the audit log has
/// the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketFault {
    #[error("the ticket is malformed")]
    Malformed,
    #[error("the ticket is unknown, already redeemed or long expired")]
    Unknown,
    #[error("the ticket has expired")]
    Expired,
    #[error("the ticket was already redeemed")]
    Used,
    #[error("the region of the ticket is not configured")]
    UnknownRegion,
}
