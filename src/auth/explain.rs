//! What would become of a credential, check by check, with nothing spent and nobody let in.
//!
//! For `usher explain`. The verdict comes from the functions that serve: [`Issuers::verify`], the ticket's rules, `entitle`. A
//! ticket is looked at where it is kept and stays there. The grant that a good credential leads to is for reading: nothing is
//! dialled with it.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::checks::{Recorder, Seen};
use super::credential::{Credential, Method, Proof};
use super::jwt::{InvalidToken, Issuers, Keys, opened};
use super::principal::Principal;
use super::verifier::Proved;
use super::{Authenticator, Grant, Presented, RouteMatch, bypass, entitle};
use crate::clock::{Now, UnixMillis};
use crate::config;
use crate::config::secret::Secret;
use crate::rejection::Rejection;
use crate::store::TicketRecord;

/// A token, and what was found at each check.
#[derive(Debug)]
pub struct TokenLook {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    pub bytes: usize,
    /// The one of ours that the token names.
    pub issuer: Option<Arc<config::Issuer>>,
    pub keys: Option<KeysHeld>,
    pub checks: Vec<Seen>,
    /// Of the function that serves.
    pub verdict: Result<Principal, InvalidToken>,
}

/// The keys that are held for an issuer.
#[derive(Debug)]
pub struct KeysHeld {
    pub keys: Vec<(Option<String>, Vec<Algorithm>)>,
    /// Where they can change without a reload.
    pub fetched_at: Option<UnixMillis>,
    /// Why the last fetch failed, if it did.
    pub fault: Option<&'static str>,
}

/// A credential, and what would become of it.
#[derive(Debug)]
pub struct Look {
    pub shown: Shown,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub enum Shown {
    Nothing,
    Token(Box<TokenLook>),
    Ticket(Box<TicketLook>),
    /// A certificate, or a test identity: whose it is.
    Name(Option<String>),
    /// What a verifier was asked about, and whose it is.
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

#[derive(Debug)]
pub enum Outcome {
    Known(Result<Grant, Rejection>),
    /// Tickets in the memory of another process: only that one can say.
    OnlyThere,
    /// A verifier has to say, and nobody is to be asked.
    NotAsked,
}

impl Issuers {
    /// Fetches the keys of the issuer that a token names, where it publishes them.
    pub async fn fetch_for(&self, token: &Secret) {
        let Some((_, claims)) = opened(token) else { return };
        if let Ok(issuer) = self.issuer_of(&claims)
            && let Keys::Remote(remote) = &issuer.keys
        {
            Arc::clone(remote).prefetch().await;
        }
    }

    pub fn look_at(&self, token: &Secret, now: Now) -> TokenLook {
        let mut recorder = Recorder::default();
        // What comes out behind a failure is no verdict, so it is not used.
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

    /// What a client is told whose token was judged so, after all that could be fetched was fetched.
    pub fn rejection(&self, why: InvalidToken, token: &Secret, now: Now) -> Rejection {
        match why {
            InvalidToken::UnknownKey | InvalidToken::NoKeys => match self.who_may_have_its_key(token, now) {
                Some(remote) if remote.standing().1.is_some() => remote.missing(),
                _ => why.into(),
            },
            why => why.into(),
        }
    }
}

fn owned((id, algorithms): (Option<&str>, &[Algorithm])) -> (Option<String>, Vec<Algorithm>) {
    (id.map(str::to_owned), algorithms.to_vec())
}

impl Authenticator {
    pub fn asks_a_verifier(&self, route: &config::Route, token: &Secret) -> bool {
        self.asking(route).verifier_of(token).is_some()
    }

    /// The same questions as for a client, in the same order. The deny list is not looked at: only a running process has it.
    /// `may_ask`: verifiers are asked as for a client.
    pub async fn look_at(
        &self,
        matched: &RouteMatch,
        credential: Option<Credential>,
        presented: Presented<'_>,
        may_ask: bool,
        now: Now,
    ) -> Look {
        let route = &matched.route;
        let known = |shown, outcome| Look { shown, outcome: Outcome::Known(outcome) };
        if route.auth.is_empty() {
            return known(Shown::Nothing, Ok(Grant::public(Arc::clone(route))));
        }
        let Some(Credential { method, proof }) = credential else {
            return known(Shown::Nothing, Err(Rejection::MissingCredential));
        };
        let asking = self.asking(route);
        match proof {
            Proof::Token(token) if asking.verifier_of(&token).is_some() => {
                let verifier = asking.verifier_of(&token).cloned().unwrap_or_default();
                let answer = async { asking.token(method, &token, presented.peer, now).await };
                vouched(matched, verifier, may_ask.then_some(answer), method, true, now).await
            }
            Proof::Session(id) => {
                let verifier = route.judges.sessions.clone().unwrap_or_default();
                let answer = async { asking.session(&id, presented.peer).await };
                vouched(matched, verifier, may_ask.then_some(answer), method, false, now).await
            }
            Proof::Token(token) => {
                let look = self.issuers.look_at(&token, now);
                let principal = look.verdict.clone().map_err(|why| self.issuers.rejection(why, &token, now));
                let outcome = principal.and_then(|principal| entitle(matched, principal, method, true, now));
                known(Shown::Token(Box::new(look)), outcome)
            }
            Proof::Ticket(ticket) => {
                let region = self.tickets.region_of(&ticket).map(str::to_owned);
                let found = self.tickets.look_at(&ticket, route, presented.origin, presented.peer, now).await;
                let record = found.as_ref().ok().cloned().flatten();
                let outcome = match found {
                    Ok(None) => Outcome::OnlyThere,
                    Ok(Some(record)) => Outcome::Known(entitle(matched, record.principal, method, false, now)),
                    Err(rejection) => Outcome::Known(Err(rejection)),
                };
                Look { shown: Shown::Ticket(Box::new(TicketLook { region, record })), outcome }
            }
            Proof::Bypass(shown) => {
                let bypass = self.bypass.as_ref().ok_or(InvalidToken::Bypass);
                let principal = bypass.and_then(|bypass| bypass::identify(bypass, &shown, now)).map_err(Rejection::InvalidToken);
                let name = principal.as_ref().ok().map(|principal| principal.subject.clone());
                known(Shown::Name(name), principal.and_then(|principal| entitle(matched, principal, method, false, now)))
            }
            Proof::Certificate(certificate) => {
                let principal = certificate.principal(&self.mtls, now).map_err(Rejection::InvalidCertificate);
                let name = principal.as_ref().ok().map(|principal| principal.subject.clone());
                known(Shown::Name(name), principal.and_then(|principal| entitle(matched, principal, method, false, now)))
            }
        }
    }
}

/// By what a verifier answers; `None`: it is not asked.
async fn vouched(
    matched: &RouteMatch,
    verifier: Arc<str>,
    answer: Option<impl Future<Output = Result<Proved, Rejection>>>,
    method: Method,
    is_bearer: bool,
    now: Now,
) -> Look {
    let Some(answer) = answer else {
        return Look { shown: Shown::Vouched { verifier, user: None }, outcome: Outcome::NotAsked };
    };
    let proved = answer.await;
    let user = proved.as_ref().ok().map(|proved| proved.principal.subject.clone());
    let outcome = proved.and_then(|proved| entitle(matched, proved, method, is_bearer, now));
    Look { shown: Shown::Vouched { verifier, user }, outcome: Outcome::Known(outcome) }
}

/// The issuers of a configuration, for who looks on: with the sets that a running process keeps, and nothing written.
pub fn issuers(config: &config::Config, state_dir: &Path) -> Result<Issuers, super::jwt::LoadError> {
    Ok(Issuers::load(&config.issuers, &config.context.claims)?.restored_from(state_dir))
}
