//! The checks of a token, and the witness that sees their outcomes.
//!
//! `jwt.rs` makes the checks. Requests that are served have the witness [`Unwatched`], which the
//! compiler removes. `usher explain` has a [`Recorder`], which writes each outcome down and lets
//! the next check be made. So there is one list of checks for both.

use crate::model::faults::InvalidToken;

/// A check of a token, in the order in which they are made.
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
    Bound,
    RequiredClaims,
    Subject,
    User,
    Names,
    Permissions,
}

impl Check {
    pub const ALL: [Self; 19] = [
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
        Self::Bound,
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
            Self::Bound => "bound",
            Self::RequiredClaims => "claims",
            Self::Subject => "subject",
            Self::User => "user",
            Self::Names => "names",
            Self::Permissions => "granted",
        }
    }
}

/// Sees the outcome of each check, and decides whether the next one is made.
pub(super) trait Witness {
    /// Sees a check whose result the next ones need. A failure is the end.
    fn saw<T>(&mut self, check: Check, outcome: Result<T, InvalidToken>)
    -> Result<T, InvalidToken>;

    /// Decides whether to go on after several checks that were seen one by one.
    fn go_on(&mut self, outcome: Result<(), InvalidToken>) -> Result<(), InvalidToken>;

    /// Sees a check that the next ones can do without.
    #[inline]
    fn passes(
        &mut self,
        check: Check,
        outcome: Result<(), InvalidToken>,
    ) -> Result<(), InvalidToken> {
        let outcome = self.saw(check, outcome);
        self.go_on(outcome)
    }
}

/// The witness of tokens that are verified: the first failure is the end.
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

/// Writes every outcome down, and goes on wherever that is possible. The result behind a failure is
/// not a verdict.
#[derive(Debug, Default)]
pub(super) struct Recorder(pub(super) Vec<CheckOutcome>);

/// A check and its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckOutcome {
    pub check: Check,
    pub outcome: Result<(), InvalidToken>,
}

impl Witness for Recorder {
    fn saw<T>(
        &mut self,
        check: Check,
        outcome: Result<T, InvalidToken>,
    ) -> Result<T, InvalidToken> {
        self.0
            .push(CheckOutcome { check, outcome: outcome.as_ref().map(drop).map_err(|why| *why) });
        outcome
    }

    fn go_on(&mut self, _: Result<(), InvalidToken>) -> Result<(), InvalidToken> {
        Ok(())
    }
}
