//! How a credential is proved: for real, or by a look that changes nothing.

use super::credential::Credential;
use super::verifier::Proved;
use super::{Authenticator, Presented};
use crate::config::Route;
use crate::rejection::Rejection;

/// Proves credentials. Requests that are served take the default, which redeems tickets; `usher
/// explain` only looks at them.
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
}

/// Proves credentials for requests that are served.
#[derive(Clone, Copy, Debug)]
pub struct Redeeming;

impl Prover for Redeeming {}
