//! Verifying a bearer token.

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
    #[error("its signature does not verify")]
    Signature,
    #[error("it has a critical header that nobody here understands")]
    CriticalHeader,
    #[error("its type is not a JWT or an access token")]
    Type,
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
}

/// Why a development token could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the token could not be signed")]
pub struct SignError;

/// Stand-in until the verifier is merged.
pub fn sign_for_development(
    _algorithm: crate::auth::algorithm::Algorithm,
    key: &crate::config::secret::Secret,
    _key_id: Option<&str>,
    claims: &serde_json::Value,
) -> Result<String, SignError> {
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    jsonwebtoken::encode(&header, claims, &jsonwebtoken::EncodingKey::from_secret(key.expose())).map_err(|_| SignError)
}
