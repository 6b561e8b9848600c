//! Checks a credential for an explanation, check by check, without consequences.
//!
//! The verdict comes from the functions that serve requests: `Issuers::verify` and the rules of
//! tickets. A ticket is not redeemed. The principal of a valid credential is only read.

use std::sync::Arc;

use crate::auth::credential::{Credential, Proof};
use crate::auth::prover::Prover;
use crate::auth::token_inspection::InspectedToken;
use crate::auth::verifier::Proved;
use crate::auth::{Authenticator, CredentialCheck, Presented, bypass};
use crate::base::clock::Now;
use crate::config::Route;
use crate::model::faults::InvalidToken;
use crate::model::method::Method;
use crate::model::principal::Principal;
use crate::model::secret::Secret;
use crate::rejection::Rejection;
use crate::store::TicketRecord;

/// The result of the check of a credential.
#[derive(Debug)]
pub struct Inspection {
    pub credential: InspectedCredential,
    /// The rejection that the credential would get.
    pub rejection: Option<Rejection>,
    pub undecided: Option<Undecided>,
}

/// The credential that was inspected, by kind of credential.
#[derive(Debug)]
pub enum InspectedCredential {
    Token(Box<InspectedToken>),
    Ticket(Box<InspectedTicket>),
    /// The user of a certificate or of a test identity.
    Name(Option<String>),
    /// The user that a verifier returned for the credential.
    Vouched {
        verifier: Arc<str>,
        user: Option<String>,
    },
}

#[derive(Debug)]
pub struct InspectedTicket {
    pub region: Option<String>,
    pub record: Option<TicketRecord>,
}

/// The reason why a check gives no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// The ticket is in the memory of the running process.
    TicketInMemory,
    /// The verifier would decide, but is not asked.
    VerifierNotAsked,
}

/// The sources that a check may use.
#[derive(Clone, Copy, Debug)]
pub struct InspectionScope {
    /// Published keys of issuers are fetched, as for a client.
    pub fetches_keys: bool,
    /// Verifiers are asked.
    pub asks_verifiers: bool,
    /// Tickets in memory are those of the process that serves clients.
    pub sees_memory: bool,
}

/// Checks credentials and changes nothing: a ticket is not redeemed. The deny list is that of this
/// process: it is empty unless the process serves clients.
#[derive(Debug)]
pub struct CredentialInspector {
    scope: InspectionScope,
    /// The result of the last check.
    pub inspection: Option<Inspection>,
}

impl CredentialInspector {
    pub fn new(scope: InspectionScope) -> Self {
        Self { scope, inspection: None }
    }

    /// Returns true if this process cannot decide about the credential.
    pub fn is_undecided(&self) -> bool {
        self.inspection.as_ref().is_some_and(|inspection| inspection.undecided.is_some())
    }

    fn keep(
        &mut self,
        credential: InspectedCredential,
        proved: Result<Proved, Rejection>,
    ) -> Result<Proved, Rejection> {
        let rejection = proved.as_ref().err().cloned();
        self.inspection = Some(Inspection { credential, rejection, undecided: None });
        proved
    }

    /// Refuses a credential that this process cannot decide about. The refusal is not a verdict.
    fn undecided(
        &mut self,
        credential: InspectedCredential,
        why: Undecided,
    ) -> Result<Proved, Rejection> {
        self.inspection = Some(Inspection { credential, rejection: None, undecided: Some(why) });
        Err(Rejection::Internal)
    }

    async fn inspect_verified(
        &mut self,
        verifier: Arc<str>,
        answer: impl Future<Output = Result<Proved, Rejection>> + Send,
    ) -> Result<Proved, Rejection> {
        if !self.scope.asks_verifiers {
            let credential = InspectedCredential::Vouched { verifier, user: None };
            return self.undecided(credential, Undecided::VerifierNotAsked);
        }
        let proved = answer.await;
        let user = proved.as_ref().ok().map(|proved| proved.principal.subject.clone());
        self.keep(InspectedCredential::Vouched { verifier, user }, proved)
    }

    fn named(&mut self, principal: Result<Principal, Rejection>) -> Result<Proved, Rejection> {
        let name = principal.as_ref().ok().map(|principal| principal.subject.clone());
        self.keep(InspectedCredential::Name(name), principal.map(Into::into))
    }
}

impl Prover for CredentialInspector {
    async fn prove(
        &mut self,
        authenticator: &Authenticator,
        route: &Route,
        credential: Credential,
        presented: Presented<'_>,
    ) -> Result<Proved, Rejection> {
        let now = presented.now;
        let proved = self.inspect(authenticator, route, credential, presented).await?;
        self.reject_revoked(authenticator, proved, now)
    }

    async fn prove_at_endpoint(
        &mut self,
        authenticator: &Authenticator,
        check: CredentialCheck<'_>,
        credential: Credential,
        presented: Presented<'_>,
    ) -> Result<Proved, Rejection> {
        let proved = match &credential.proof {
            Proof::Token(token) => {
                self.inspect_token(check, credential.method, token, presented).await?
            }
            Proof::Session(id) => self.inspect_session(check, id, presented).await?,
            Proof::Ticket(_) | Proof::Bypass(_) | Proof::Certificate(_) => {
                return Err(Rejection::MissingCredential);
            }
        };
        self.reject_revoked(authenticator, proved, presented.now)
    }
}

impl CredentialInspector {
    fn reject_revoked(
        &mut self,
        authenticator: &Authenticator,
        proved: Proved,
        now: Now,
    ) -> Result<Proved, Rejection> {
        let judged = authenticator.reject_revoked(proved, now);
        if let (Some(inspection), Err(rejection)) = (&mut self.inspection, &judged) {
            inspection.rejection = Some(rejection.clone());
        }
        judged
    }

    async fn inspect_token(
        &mut self,
        check: CredentialCheck<'_>,
        method: Method,
        token: &Secret,
        presented: Presented<'_>,
    ) -> Result<Proved, Rejection> {
        let Presented { peer, now, .. } = presented;
        if let Some(verifier) = check.verifier_of(token).cloned() {
            return self.inspect_verified(verifier, check.token(method, token, peer, now)).await;
        }
        let issuers = check.issuers;
        if self.scope.fetches_keys {
            issuers.fetch_for(token).await;
        }
        let inspection = issuers.inspect(token, now);
        let principal = inspection.verdict.clone();
        let principal = principal.map_err(|why| issuers.rejection(why, token, now));
        self.keep(InspectedCredential::Token(Box::new(inspection)), principal.map(Into::into))
    }

    async fn inspect_session(
        &mut self,
        check: CredentialCheck<'_>,
        id: &Secret,
        presented: Presented<'_>,
    ) -> Result<Proved, Rejection> {
        let verifier = check.credential_verifiers.sessions.clone().unwrap_or_default();
        self.inspect_verified(verifier, check.session(id, presented.peer)).await
    }

    async fn inspect(
        &mut self,
        authenticator: &Authenticator,
        route: &Route,
        credential: Credential,
        presented: Presented<'_>,
    ) -> Result<Proved, Rejection> {
        let Authenticator { tickets, bypass, mtls, .. } = authenticator;
        let Presented { origin, peer, now, .. } = presented;
        let Credential { method, proof } = credential;
        let check = authenticator.credential_check(route);
        match proof {
            Proof::Token(token) => self.inspect_token(check, method, &token, presented).await,
            Proof::Session(id) => self.inspect_session(check, &id, presented).await,
            Proof::Ticket(ticket) => {
                let region = tickets.region_of(&ticket).map(str::to_owned);
                let sees_memory = self.scope.sees_memory;
                let found = tickets.inspect(&ticket, route, origin, peer, now, sees_memory).await;
                let record = found.as_ref().ok().cloned().flatten();
                let credential =
                    InspectedCredential::Ticket(Box::new(InspectedTicket { region, record }));
                match found {
                    Ok(None) => self.undecided(credential, Undecided::TicketInMemory),
                    Ok(Some(record)) => self.keep(credential, Ok(record.principal.into())),
                    Err(rejection) => self.keep(credential, Err(rejection)),
                }
            }
            Proof::Bypass(identity) => {
                let bypass = bypass.as_ref().ok_or(InvalidToken::Bypass);
                let principal = bypass.and_then(|bypass| bypass::identify(bypass, &identity, now));
                self.named(principal.map_err(Rejection::InvalidToken))
            }
            Proof::Certificate(certificate) => {
                let principal = certificate.principal(mtls, now);
                self.named(principal.map_err(Rejection::InvalidCertificate))
            }
        }
    }
}
