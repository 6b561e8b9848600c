//! The witness of an admission: sees the outcome of each stage, and decides whether the next one is
//! reached. `auth/checks.rs` has the same for the checks of a token.

use crate::auth::prover::Prover;
use crate::model::method::Method;
use crate::rejection::Rejection;

/// A stage of [`super::admit`], in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Upgrade,
    Route,
    /// The server still accepts upgrades.
    Drain,
    Origin,
    /// The credential is taken out of the request.
    Credential,
    /// The page may show this credential.
    Page,
    Authenticate,
    Migration,
}

pub trait Witness: Prover {
    /// Sees a stage whose result the next ones need. A failure is the end.
    fn saw<T>(&mut self, stage: Stage, outcome: Result<T, Rejection>) -> Result<T, Rejection>;

    /// Sees a stage that the next ones can do without: a witness may go on after its failure, with
    /// an empty result.
    fn passes<T: Default>(
        &mut self,
        stage: Stage,
        outcome: Result<T, Rejection>,
    ) -> Result<T, Rejection>;

    /// Sees a method that found a credential, good or not.
    fn found(&mut self, method: Method);
}

/// The witness of requests that are served: the first failure is the end. The compiler removes it.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl Prover for Unwatched {}

impl Witness for Unwatched {
    #[inline]
    fn saw<T>(&mut self, _: Stage, outcome: Result<T, Rejection>) -> Result<T, Rejection> {
        outcome
    }

    #[inline]
    fn passes<T: Default>(
        &mut self,
        _: Stage,
        outcome: Result<T, Rejection>,
    ) -> Result<T, Rejection> {
        outcome
    }

    #[inline]
    fn found(&mut self, _: Method) {}
}
