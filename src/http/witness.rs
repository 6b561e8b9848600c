//! The witness of an admission: gets the outcome of each stage, and decides whether the next one is
//! reached. `auth/checks.rs` has the same for the checks of a token.

use crate::auth::prover::Prover;
use crate::model::method::Method;
use crate::rejection::Rejection;

/// A stage of [`super::admit`], in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdmissionStage {
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

pub trait AdmissionWitness: Prover {
    /// Whether the request is served, and counts. An explained one does not.
    const IS_LIVE: bool = false;

    /// Records a stage whose result the next ones need. A failure is the end.
    fn require<T>(
        &mut self,
        stage: AdmissionStage,
        outcome: Result<T, Rejection>,
    ) -> Result<T, Rejection>;

    /// Records a stage that the next ones can do without: a witness may go on after its failure,
    /// with an empty result.
    fn check<T: Default>(
        &mut self,
        stage: AdmissionStage,
        outcome: Result<T, Rejection>,
    ) -> Result<T, Rejection>;

    /// Records a method that found a credential, good or not.
    fn record_method(&mut self, method: Method);
}

/// The witness of requests that are served: the first failure is the end. The compiler removes it.
#[derive(Clone, Copy, Debug)]
pub struct UnwatchedAdmission;

impl Prover for UnwatchedAdmission {}

impl AdmissionWitness for UnwatchedAdmission {
    const IS_LIVE: bool = true;

    #[inline]
    fn require<T>(
        &mut self,
        _: AdmissionStage,
        outcome: Result<T, Rejection>,
    ) -> Result<T, Rejection> {
        outcome
    }

    #[inline]
    fn check<T: Default>(
        &mut self,
        _: AdmissionStage,
        outcome: Result<T, Rejection>,
    ) -> Result<T, Rejection> {
        outcome
    }

    #[inline]
    fn record_method(&mut self, _: Method) {}
}
