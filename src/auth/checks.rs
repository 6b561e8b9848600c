//! The checks of a token, and the witness that gets their results.
//!
//! `jwt.rs` makes the checks. For served requests the witness is [`UnwatchedChecks`], which the
//! compiler removes. `usher explain` uses a [`CheckRecorder`], which records each result and lets
//! the next check run. So both use one list of checks.

use crate::model::faults::InvalidToken;

/// A check of a token. The variants are in the order of the checks.
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

/// Gets the result of each check, and decides whether the next check is made.
pub(super) trait CheckWitness {
    /// Records a check whose result the next checks need. A failure always ends the verification.
    fn require<T>(
        &mut self,
        check: Check,
        outcome: Result<T, InvalidToken>,
    ) -> Result<T, InvalidToken>;

    /// Decides whether to continue after several checks that were already recorded.
    fn proceed(&mut self, outcome: Result<(), InvalidToken>) -> Result<(), InvalidToken>;

    /// Records a check that the next checks do not need.
    #[inline]
    fn check(
        &mut self,
        check: Check,
        outcome: Result<(), InvalidToken>,
    ) -> Result<(), InvalidToken> {
        let outcome = self.require(check, outcome);
        self.proceed(outcome)
    }
}

/// The witness for served requests: the first failure ends the verification.
pub(super) struct UnwatchedChecks;

impl CheckWitness for UnwatchedChecks {
    #[inline]
    fn require<T>(
        &mut self,
        _: Check,
        outcome: Result<T, InvalidToken>,
    ) -> Result<T, InvalidToken> {
        outcome
    }

    #[inline]
    fn proceed(&mut self, outcome: Result<(), InvalidToken>) -> Result<(), InvalidToken> {
        outcome
    }
}

/// Records every result, and continues wherever possible. The result after a failure is not a
/// verdict.
#[derive(Debug, Default)]
pub(super) struct CheckRecorder(pub(super) Vec<CheckOutcome>);

/// A check and its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckOutcome {
    pub check: Check,
    pub outcome: Result<(), InvalidToken>,
}

impl CheckWitness for CheckRecorder {
    fn require<T>(
        &mut self,
        check: Check,
        outcome: Result<T, InvalidToken>,
    ) -> Result<T, InvalidToken> {
        self.0
            .push(CheckOutcome { check, outcome: outcome.as_ref().map(drop).map_err(|why| *why) });
        outcome
    }

    fn proceed(&mut self, _: Result<(), InvalidToken>) -> Result<(), InvalidToken> {
        Ok(())
    }
}
