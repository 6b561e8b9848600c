//! The two ways to prove a credential: for a served request, or by a check that changes nothing.

use super::credential::Credential;
use super::verifier::Proved;
use super::{Authenticator, CredentialCheck, Presented};
use crate::config::Route;
use crate::rejection::Rejection;

/// Proves credentials. Served requests use the default method, which redeems tickets; `usher
/// explain` only checks them.
pub trait Prover: Send {
    fn prove(
        &mut self,
        authenticator: &Authenticator,
        route: &Route,
        credential: Credential,
        presented: Presented<'_>,
    ) -> impl Future<Output = Result<Proved, Rejection>> + Send {
        authenticator.prove(route, credential, presented)
    }

    /// Proves a credential at one of Usher's own endpoints, which have no route.
    fn prove_at_endpoint(
        &mut self,
        authenticator: &Authenticator,
        check: CredentialCheck<'_>,
        credential: Credential,
        presented: Presented<'_>,
    ) -> impl Future<Output = Result<Proved, Rejection>> + Send {
        authenticator.prove_at_endpoint(check, credential, presented)
    }
}

/// Proves credentials for served requests.
#[derive(Clone, Copy, Debug)]
pub struct Redeeming;

impl Prover for Redeeming {}
