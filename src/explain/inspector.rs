//! Checks a credential for `usher explain`, check by check, without consequences.
//!
//! The verdict comes from the functions that serve requests: [`Issuers::verify`] and the rules of
//! tickets. A ticket is not redeemed. The grant of a valid credential is only read: Usher does not
//! connect to an upstream with it.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::checks::{CheckOutcome, Recorder};
use super::credential::{Credential, Proof};
use super::jwt::{Issuers, Keys, opened};
use super::prover::Prover;
use super::verifier::Proved;
use super::{Authenticator, Presented, bypass};
use crate::base::clock::{Now, UnixMillis};
use crate::config;
use crate::model::algorithm::Algorithm;
use crate::model::faults::InvalidToken;
use crate::model::principal::Principal;
use crate::model::secret::Secret;
use crate::rejection::Rejection;
use crate::store::TicketRecord;

/// A token, and the result of each check.
#[derive(Debug)]
pub struct TokenLook {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    pub bytes: usize,
    /// The configured issuer that the token names.
    pub issuer: Option<Arc<config::Issuer>>,
    pub keys: Option<KeysHeld>,
    pub checks: Vec<CheckOutcome>,
    /// The verdict of the function that serves requests.
    pub verdict: Result<Principal, InvalidToken>,
}

/// The keys that Usher holds for an issuer.
#[derive(Debug)]
pub struct KeysHeld {
    pub keys: Vec<(Option<String>, Vec<Algorithm>)>,
    /// The time of the last fetch, if the issuer publishes its keys.
    pub fetched_at: Option<UnixMillis>,
    /// The fault of the last fetch, if it failed.
    pub fault: Option<&'static str>,
}

/// The result of the check of a credential.
#[derive(Debug)]
pub struct Look {
    pub finding: Finding,
    /// The rejection that the credential would get.
    pub rejection: Option<Rejection>,
    pub undecided: Option<Undecided>,
}

/// The finding of a check, by kind of credential.
#[derive(Debug)]
pub enum Finding {
    Token(Box<TokenLook>),
    Ticket(Box<TicketLook>),
    /// The user of a certificate or of a test identity.
    Name(Option<String>),
    /// The user that a verifier returned for the credential.
    Vouched {
        verifier: Arc<str>,
        user: Option<String>,
    },
}

#[derive(Debug)]
pub struct TicketLook {
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

impl Issuers {
    /// Fetches the keys of the issuer that a token names, if the issuer publishes them.
    pub async fn fetch_for(&self, token: &Secret) {
        let Some((_, claims)) = opened(token) else { return };
        if let Ok(issuer) = self.issuer_of(&claims)
            && let Keys::Remote(remote) = &issuer.keys
        {
            Arc::clone(remote).prefetch().await;
        }
    }

    /// Makes every check of a token, also after a failure.
    pub fn look_at(&self, token: &Secret, now: Now) -> TokenLook {
        let mut recorder = Recorder::default();
        // The result after a failure is not a verdict.
        let _ = self.verify_before(&mut recorder, token, now);
        let (header, claims) = opened(token).unwrap_or_default();
        let issuer = self.issuer_of(&claims).ok();
        let keys = issuer.map(|issuer| match &issuer.keys {
            Keys::Fixed(set) => (set.names().map(owned).collect(), (None, None)),
            Keys::Remote(remote) => {
                let keys = remote.current().map(|set| set.names().map(owned).collect());
                (keys.unwrap_or_default(), remote.standing())
            }
        });
        TokenLook {
            header,
            claims,
            bytes: token.len(),
            issuer: issuer.map(|issuer| Arc::clone(&issuer.config)),
            keys: keys.map(|(keys, (fetched_at, fault))| KeysHeld { keys, fetched_at, fault }),
            checks: recorder.0,
            verdict: self.verify(token, now),
        }
    }

    /// Returns the rejection of a token. All keys that can be fetched must already be fetched.
    pub fn rejection(&self, why: InvalidToken, token: &Secret, now: Now) -> Rejection {
        match why {
            InvalidToken::UnknownKey | InvalidToken::NoKeys => {
                match self.issuers_to_refetch(token, now) {
                    Some(remote) if remote.standing().1.is_some() => remote.missing(),
                    _ => why.into(),
                }
            }
            why => why.into(),
        }
    }
}

fn owned((id, algorithms): (Option<&str>, &[Algorithm])) -> (Option<String>, Vec<Algorithm>) {
    (id.map(str::to_owned), algorithms.to_vec())
}

/// The sources that a check may use.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
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
    reach: Reach,
    /// The result of the last check.
    pub look: Option<Look>,
}

impl CredentialInspector {
    pub fn new(reach: Reach) -> Self {
        Self { reach, look: None }
    }

    /// Returns true if this process cannot decide about the credential.
    pub fn is_undecided(&self) -> bool {
        self.look.as_ref().is_some_and(|look| look.undecided.is_some())
    }

    fn keep(
        &mut self,
        finding: Finding,
        proved: Result<Proved, Rejection>,
    ) -> Result<Proved, Rejection> {
        let rejection = proved.as_ref().err().cloned();
        self.look = Some(Look { finding, rejection, undecided: None });
        proved
    }

    /// Refuses a credential that this process cannot decide about. The refusal is not a verdict.
    fn undecided(&mut self, finding: Finding, why: Undecided) -> Result<Proved, Rejection> {
        self.look = Some(Look { finding, rejection: None, undecided: Some(why) });
        Err(Rejection::Internal)
    }

    async fn look_at_verified(
        &mut self,
        verifier: Arc<str>,
        answer: impl Future<Output = Result<Proved, Rejection>> + Send,
    ) -> Result<Proved, Rejection> {
        if !self.reach.asks_verifiers {
            let finding = Finding::Vouched { verifier, user: None };
            return self.undecided(finding, Undecided::VerifierNotAsked);
        }
        let proved = answer.await;
        let user = proved.as_ref().ok().map(|proved| proved.principal.subject.clone());
        self.keep(Finding::Vouched { verifier, user }, proved)
    }

    fn named(&mut self, principal: Result<Principal, Rejection>) -> Result<Proved, Rejection> {
        let name = principal.as_ref().ok().map(|principal| principal.subject.clone());
        self.keep(Finding::Name(name), principal.map(Into::into))
    }
}

impl Prover for CredentialInspector {
    async fn prove(
        &mut self,
        authenticator: &Authenticator,
        route: &config::Route,
        credential: Credential,
        presented: Presented<'_>,
    ) -> Result<Proved, Rejection> {
        let now = presented.now;
        let proved = self.inspect(authenticator, route, credential, presented).await?;
        let judged = authenticator.reject_revoked(proved, now);
        if let (Some(look), Err(rejection)) = (&mut self.look, &judged) {
            look.rejection = Some(rejection.clone());
        }
        judged
    }
}

impl CredentialInspector {
    async fn inspect(
        &mut self,
        authenticator: &Authenticator,
        route: &config::Route,
        credential: Credential,
        presented: Presented<'_>,
    ) -> Result<Proved, Rejection> {
        let Authenticator { issuers, tickets, bypass, mtls, .. } = authenticator;
        let Presented { origin, peer, now, .. } = presented;
        let Credential { method, proof } = credential;
        let asking = authenticator.asking(route);
        match proof {
            Proof::Token(token) => match asking.verifier_of(&token).cloned() {
                Some(verifier) => {
                    self.look_at_verified(verifier, asking.token(method, &token, peer, now)).await
                }
                None => {
                    if self.reach.fetches_keys {
                        issuers.fetch_for(&token).await;
                    }
                    let look = issuers.look_at(&token, now);
                    let principal = look.verdict.clone();
                    let principal = principal.map_err(|why| issuers.rejection(why, &token, now));
                    self.keep(Finding::Token(Box::new(look)), principal.map(Into::into))
                }
            },
            Proof::Session(id) => {
                let verifier = route.credential_verifiers.sessions.clone().unwrap_or_default();
                self.look_at_verified(verifier, asking.session(&id, peer)).await
            }
            Proof::Ticket(ticket) => {
                let region = tickets.region_of(&ticket).map(str::to_owned);
                let sees_memory = self.reach.sees_memory;
                let found = tickets.look_at(&ticket, route, origin, peer, now, sees_memory).await;
                let record = found.as_ref().ok().cloned().flatten();
                let finding = Finding::Ticket(Box::new(TicketLook { region, record }));
                match found {
                    Ok(None) => self.undecided(finding, Undecided::TicketInMemory),
                    Ok(Some(record)) => self.keep(finding, Ok(record.principal.into())),
                    Err(rejection) => self.keep(finding, Err(rejection)),
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

/// Loads the issuers of a configuration, with the key sets that a running process has saved in its
/// state directory. Writes nothing.
pub fn issuers(
    config: &config::Config,
    state_dir: &Path,
) -> Result<Issuers, super::jwt::LoadError> {
    Ok(Issuers::load(&config.issuers, &config.context.claims)?.restored_from(state_dir))
}
