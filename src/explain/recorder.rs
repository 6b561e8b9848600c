//! The witness of an explained request: records each result, and continues with the next stage
//! wherever possible.

use super::inspector::{CredentialInspector, Inspection, InspectionScope};
use crate::auth::credential::Credential;
use crate::auth::prover::Prover;
use crate::auth::verifier::Proved;
use crate::auth::{Authenticator, CredentialCheck, Presented};
use crate::config::Route;
use crate::http::witness::{AdmissionStage, AdmissionWitness};
use crate::model::method::Method;
use crate::rejection::Rejection;

/// The record of one admission. The result of the admission after a failure is not a verdict.
#[derive(Debug)]
pub struct AdmissionRecorder {
    outcomes: Vec<(AdmissionStage, Result<(), Rejection>)>,
    /// The methods that found a credential.
    pub methods: Vec<Method>,
    inspector: CredentialInspector,
}

impl AdmissionRecorder {
    /// Makes an empty record.
    pub fn new(scope: InspectionScope) -> Self {
        Self {
            outcomes: Vec::new(),
            methods: Vec::new(),
            inspector: CredentialInspector::new(scope),
        }
    }

    /// Returns the result of a stage: its first failure, if it has several parts. `None`: the stage
    /// was not reached.
    pub fn outcome(&self, stage: AdmissionStage) -> Option<Result<(), Rejection>> {
        let mut parts = self.outcomes.iter().filter(|(one, _)| *one == stage);
        let (_, first) = parts.next()?;
        Some(parts.fold(first.clone(), |all, (_, outcome)| all.and(outcome.clone())))
    }

    /// Returns true if a stage failed.
    pub fn has_failure(&self) -> bool {
        self.outcomes.iter().any(|(_, outcome)| outcome.is_err())
    }

    /// Returns true if this stage or an earlier one failed.
    pub fn has_failure_up_to(&self, stage: AdmissionStage) -> bool {
        self.outcomes.iter().any(|(one, outcome)| *one <= stage && outcome.is_err())
    }

    /// Returns the result of the check of the credential, if there was one.
    pub fn inspection(&self) -> Option<&Inspection> {
        self.inspector.inspection.as_ref()
    }
}

impl Prover for AdmissionRecorder {
    async fn prove(
        &mut self,
        authenticator: &Authenticator,
        route: &Route,
        credential: Credential,
        presented: Presented<'_>,
    ) -> Result<Proved, Rejection> {
        self.inspector.prove(authenticator, route, credential, presented).await
    }

    async fn prove_at_endpoint(
        &mut self,
        authenticator: &Authenticator,
        check: CredentialCheck<'_>,
        credential: Credential,
        presented: Presented<'_>,
    ) -> Result<Proved, Rejection> {
        self.inspector.prove_at_endpoint(authenticator, check, credential, presented).await
    }
}

impl AdmissionWitness for AdmissionRecorder {
    fn require<T>(
        &mut self,
        stage: AdmissionStage,
        outcome: Result<T, Rejection>,
    ) -> Result<T, Rejection> {
        self.outcomes.push((stage, outcome.as_ref().map(|_| ()).map_err(Clone::clone)));
        outcome
    }

    fn check<T: Default>(
        &mut self,
        stage: AdmissionStage,
        outcome: Result<T, Rejection>,
    ) -> Result<T, Rejection> {
        Ok(self.require(stage, outcome).unwrap_or_default())
    }

    fn record_method(&mut self, method: Method) {
        self.methods.push(method);
    }
}
