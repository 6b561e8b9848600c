//! What is asked of a token, one check after the other, and who watches.
//!
//! `jwt.rs` makes the checks. Whoever only wants the verdict watches with [`Unwatched`], which the compiler turns into nothing;
//! `usher explain` watches with a [`Recorder`], which writes each outcome down and lets what follows be looked at too. So there
//! is one list of checks for both.

use super::jwt::InvalidToken;

/// In the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    Shape,
    Size,
    Issuer,
    Critical,
    Type,
    Algorithm,
    Key,
    Signature,
    Audience,
    Expires,
    Lifetime,
    NotBefore,
    IssuedAt,
    RequiredClaims,
    Subject,
    User,
    Names,
    Permissions,
}

impl Check {
    pub const ALL: [Self; 18] = [
        Self::Shape,
        Self::Size,
        Self::Issuer,
        Self::Critical,
        Self::Type,
        Self::Algorithm,
        Self::Key,
        Self::Signature,
        Self::Audience,
        Self::Expires,
        Self::Lifetime,
        Self::NotBefore,
        Self::IssuedAt,
        Self::RequiredClaims,
        Self::Subject,
        Self::User,
        Self::Names,
        Self::Permissions,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Shape => "shape",
            Self::Size => "size",
            Self::Issuer => "issuer",
            Self::Critical => "critical",
            Self::Type => "type",
            Self::Algorithm => "algorithm",
            Self::Key => "key id",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::Expires => "expires",
            Self::Lifetime => "lifetime",
            Self::NotBefore => "not before",
            Self::IssuedAt => "issued",
            Self::RequiredClaims => "claims",
            Self::Subject => "subject",
            Self::User => "user",
            Self::Names => "names",
            Self::Permissions => "granted",
        }
    }
}

/// Sees the outcome of each check, and says whether the next one is made.
pub(super) trait Witness {
    /// Gives the outcome back: without it there is nothing to go on with.
    fn saw<T>(&mut self, check: Check, outcome: Result<T, InvalidToken>) -> Result<T, InvalidToken>;

    /// Of several checks together, which were seen one by one.
    fn go_on(&mut self, outcome: Result<(), InvalidToken>) -> Result<(), InvalidToken>;

    /// One that the next does not build upon.
    #[inline]
    fn passes(&mut self, check: Check, outcome: Result<(), InvalidToken>) -> Result<(), InvalidToken> {
        let outcome = self.saw(check, outcome);
        self.go_on(outcome)
    }
}

/// Nobody looks: the first failure is the end.
pub(super) struct Unwatched;

impl Witness for Unwatched {
    #[inline]
    fn saw<T>(&mut self, _: Check, outcome: Result<T, InvalidToken>) -> Result<T, InvalidToken> {
        outcome
    }

    #[inline]
    fn go_on(&mut self, outcome: Result<(), InvalidToken>) -> Result<(), InvalidToken> {
        outcome
    }
}

/// Writes everything down, and goes on wherever it can. What comes out at the end of that is no verdict.
#[derive(Debug, Default)]
pub(super) struct Recorder(pub(super) Vec<Seen>);

/// One check and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub check: Check,
    pub outcome: Result<(), InvalidToken>,
}

impl Witness for Recorder {
    fn saw<T>(&mut self, check: Check, outcome: Result<T, InvalidToken>) -> Result<T, InvalidToken> {
        self.0.push(Seen { check, outcome: outcome.as_ref().map(drop).map_err(|why| *why) });
        outcome
    }

    fn go_on(&mut self, _: Result<(), InvalidToken>) -> Result<(), InvalidToken> {
        Ok(())
    }
}
