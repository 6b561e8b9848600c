//! Usher's own messages inside a session's stream.
//!
//! The relay holds short text messages of the client while one of them may be an answer, and passes
//! them to this module. A message for Usher is taken out of the stream, judged beside it, and
//! answered in it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::events::{CredentialJudged, ReauthEvent, ReauthOutcome};
use super::registry::SessionHandle;
use super::state::{ClientMessage, RenewalVerdict, SessionState};
use crate::auth::credential::Credential;
use crate::auth::first_message::{Accepted, Dialect, Refused, RenewalAnswer, RenewalQuestion};
use crate::auth::grant::Grant;
use crate::auth::renewal::{NotRenewed, Renewal};
use crate::base::clock::Now;
use crate::model::faults::FirstMessageFault;
use crate::rejection::close::{CloseReason, ErrorFrame};
use crate::rejection::{Detail, Rejection};
use crate::telemetry::Event;
use crate::ws::deflate::inflate;
use crate::ws::follow::{HeldMessage, Hold};
use crate::ws::frame::Message;

#[derive(Debug)]
pub struct Conversation {
    dialect: Dialect,
    /// `None`: the session cannot be renewed.
    renewal: Option<Arc<Renewal>>,
    /// The upstream's greeting has not arrived yet, and Usher has already sent one to the client.
    awaits_greeting: bool,
    /// The bytes from the upstream so far, while its answer to the login is awaited.
    login_answer: Option<Vec<u8>>,
    /// The number of messages of the upstream that were checked.
    upstream_heard: u64,
    /// The client's login was a message of this dialect, and not a header of its upgrade.
    began_by_message: bool,
    judging: Option<Judging>,
    /// The grant was renewed, and `take_renewed` has not returned it yet.
    was_renewed: bool,
}

/// The fate of a message that was held.
#[derive(Debug)]
pub enum MessageFate {
    /// The message was for Usher. It goes no further.
    Ours,
    /// The upstream gets this message instead.
    Instead(Message),
    NotOurs,
}

struct Judging {
    /// When the client's credential arrived.
    since: Instant,
    verdict: Pin<Box<dyn Future<Output = Result<Grant, NotRenewed>> + Send>>,
    id: Option<String>,
}

impl std::fmt::Debug for Judging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judging").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Conversation {
    pub fn new(dialect: Dialect, renewal: Option<Renewal>) -> Self {
        Self {
            dialect,
            renewal: renewal.map(Arc::new),
            awaits_greeting: false,
            login_answer: None,
            upstream_heard: 0,
            began_by_message: false,
            judging: None,
            was_renewed: false,
        }
    }

    /// Returns the conversation of a client that logged in by a message.
    pub fn begun_by_message(self) -> Self {
        let login_answer = self.dialect.waits_for_login_answer().then(Vec::new);
        Self {
            awaits_greeting: self.dialect.greeted_for_the_upstream(),
            login_answer,
            began_by_message: true,
            ..self
        }
    }

    /// Returns which messages of the client the relay holds for [`Self::receive_client`].
    pub fn holds(&self, state: &SessionState) -> Option<Hold> {
        let is_needed = state.listens() || self.dialect.logs_in_again();
        let binary = self.began_by_message && self.dialect.is_binary();
        is_needed.then(|| Hold { most: self.dialect.longest(), binary })
    }

    /// Handles a whole message of the client.
    pub fn receive_client(
        &mut self,
        message: &HeldMessage,
        state: &mut SessionState,
        now: Now,
    ) -> MessageFate {
        // A message that inflates to more than the longest login is not for Usher.
        let inflated = if message.is_compressed {
            inflate(&message.payload, self.dialect.longest()).ok()
        } else {
            None
        };
        let payload = match (&inflated, message.is_compressed) {
            (Some(inflated), _) => inflated,
            (None, true) => return MessageFate::NotOurs,
            (None, false) => &message.payload,
        };
        let answer =
            if message.is_text && state.listens() { self.dialect.answer(payload) } else { None };
        // When no answer is expected, a message that looks like one but has no credential is the
        // application's.
        let answer = answer.filter(|answer| state.expects_answer() || answer.has_credential());
        match answer {
            Some(answer) => {
                self.take_answer(answer, state, now);
                MessageFate::Ours
            }
            None if self.began_by_message || self.dialect.logs_in_again() => self
                .dialect
                .login_again(message.is_text, payload)
                .map_or(MessageFate::NotOurs, MessageFate::Instead),
            None => MessageFate::NotOurs,
        }
    }

    /// Handles an answer. An unexpected one is taken out of the stream too, and not judged.
    fn take_answer(&mut self, answer: RenewalAnswer, state: &mut SessionState, now: Now) {
        let Some(renewal) = &self.renewal else { return };
        let (credential, id) = match answer {
            RenewalAnswer::Echo => return,
            RenewalAnswer::Proof { proof, id } => (Ok(Credential::message(proof)), id),
            RenewalAnswer::Wrong { fault: FirstMessageFault::MissingToken, id } => {
                (Err(Rejection::MissingCredential), id)
            }
            RenewalAnswer::Wrong { fault, id } => (Err(fault.into()), id),
        };
        if state.handle_auth_message() == ClientMessage::Judge {
            let verdict: Pin<Box<dyn Future<Output = _> + Send>> = match credential {
                Ok(credential) => Box::pin(Arc::clone(renewal).judge(credential, now)),
                Err(rejection) => Box::pin(std::future::ready(Err(NotRenewed::Refused(rejection)))),
            };
            self.judging = Some(Judging { since: now.mono, verdict, id });
        }
    }

    /// Returns which messages of the upstream the relay holds for
    /// [`Self::receive_upstream`].
    pub fn holds_of_upstream(&self) -> Option<Hold> {
        let binary = self.awaits_login_answer();
        (binary || self.awaits_greeting).then(|| Hold { most: self.dialect.longest(), binary })
    }

    /// Returns true while the client's messages have to wait.
    pub fn awaits_login_answer(&self) -> bool {
        self.login_answer.is_some()
    }

    /// Stops waiting for the upstream's answer to the login. Returns false if none was awaited.
    pub fn forget_login(&mut self) -> bool {
        self.login_answer.take().is_some()
    }

    /// Handles a whole message of the upstream.
    pub fn receive_upstream(
        &mut self,
        message: &HeldMessage,
        state: &mut SessionState,
        now: Now,
    ) -> MessageFate {
        self.upstream_heard += 1;
        if let Some(mut sent) = self.login_answer.take() {
            let inflated = if message.is_compressed {
                inflate(&message.payload, self.dialect.longest()).ok()
            } else {
                None
            };
            sent.extend_from_slice(inflated.as_deref().unwrap_or(&message.payload));
            match self.dialect.is_login_accepted(&sent) {
                Some(true) => {}
                None if sent.len() <= self.dialect.longest() => self.login_answer = Some(sent),
                None | Some(false) => {
                    state.handle_close_request(CloseReason::LoginRefused, now.mono);
                }
            }
            return MessageFate::NotOurs;
        }
        let was_awaited = std::mem::take(&mut self.awaits_greeting);
        // Usher has already sent a greeting to the client.
        if was_awaited
            && message.is_text
            && !message.is_compressed
            && self.dialect.is_greeting(&message.payload)
        {
            return MessageFate::Ours;
        }
        MessageFate::NotOurs
    }

    /// Notes how many messages the upstream has sent in all. A message that was too long to be held
    /// is not an answer to a login.
    pub fn count_upstream(&mut self, messages: u64, state: &mut SessionState, now: Instant) {
        if messages > self.upstream_heard && self.login_answer.take().is_some() {
            state.handle_close_request(CloseReason::LoginRefused, now);
        }
    }

    /// Returns the question for a new credential.
    pub fn ask(&self, session: &SessionHandle, now: Now) -> Option<Message> {
        let grant = &self.renewal.as_ref()?.grant;
        let expires_at = grant.expires_at()?;
        let grace = grant.route().reauth.grace.min(expires_at.since(now.wall));
        ReauthEvent { session: session.facts(), outcome: ReauthOutcome::Asked }.emit();
        self.dialect.ask(&RenewalQuestion { expires_at, grace, now: now.wall })
    }

    /// Completes when a credential was judged, with the message for the client.
    pub fn poll_verdict(
        &mut self,
        cx: &mut Context<'_>,
        state: &mut SessionState,
        session: &SessionHandle,
    ) -> Poll<Option<Message>> {
        let Some(judging) = &mut self.judging else { return Poll::Pending };
        let Poll::Ready(verdict) = judging.verdict.as_mut().poll(cx) else { return Poll::Pending };
        let now = Now::read();
        CredentialJudged {
            route: &session.route.name,
            duration: now.mono.saturating_duration_since(judging.since),
        }
        .emit();
        let id = self.judging.take().and_then(|judging| judging.id);
        Poll::Ready(match verdict {
            Ok(grant) => self.proceed(grant, id.as_deref(), state, session, now),
            Err(why) => self.refuse(&why, id.as_deref(), state, session, now),
        })
    }

    fn proceed(
        &mut self,
        grant: Grant,
        id: Option<&str>,
        state: &mut SessionState,
        session: &SessionHandle,
        now: Now,
    ) -> Option<Message> {
        let expires_at = grant.expires_at();
        let goes_on = state.handle_verdict(
            RenewalVerdict::Renewed { expires: expires_at.map(|at| now.instant_of(at)) },
            now.mono,
        );
        if !goes_on {
            return None;
        }
        session.set_expires_at(expires_at);
        if let (Some(renewal), Some(principal)) = (&self.renewal, grant.principal()) {
            session.identity.renew(principal);
            // The credential may have been revoked after it was judged, before the session was
            // known by it.
            if renewal.authenticator.load().revocations().find(principal, now).is_some() {
                session.close(CloseReason::Revoked);
            }
        }
        ReauthEvent { session: session.facts(), outcome: ReauthOutcome::Renewed { expires_at } }
            .emit();
        let told = Accepted {
            user: session.user.as_deref().unwrap_or_default(),
            session_id: session.id.as_str(),
            expires_at,
            id,
            now: now.wall,
        };
        let message = self.dialect.renewed(&told);
        if let Some(renewal) = &mut self.renewal {
            // The future that judged is gone, so this is the only reference.
            if let Some(renewal) = Arc::get_mut(renewal) {
                renewal.grant = grant;
                self.was_renewed = true;
            }
        }
        message
    }

    /// Returns the new grant, once after each renewal.
    pub fn take_renewed(&mut self) -> Option<&Grant> {
        let was_renewed = std::mem::take(&mut self.was_renewed);
        self.renewal.as_ref().filter(|_| was_renewed).map(|renewal| &renewal.grant)
    }

    fn refuse(
        &self,
        why: &NotRenewed,
        id: Option<&str>,
        state: &mut SessionState,
        session: &SessionHandle,
        now: Now,
    ) -> Option<Message> {
        let (verdict, code, message, status, recoverable) = match why {
            NotRenewed::OtherSubject => (
                RenewalVerdict::OtherSubject,
                "OTHER_SUBJECT",
                "the credential belongs to another user".to_owned(),
                403,
                false,
            ),
            NotRenewed::NoLonger if state.was_renewed_just_now() => {
                // The client sent the same answer once more.
                state.handle_verdict(RenewalVerdict::Unknown, now.mono);
                return None;
            }
            NotRenewed::NoLonger => (
                RenewalVerdict::Wrong,
                "NOT_RENEWED",
                "the credential does not expire later than the one before".to_owned(),
                401,
                true,
            ),
            NotRenewed::Refused(rejection) => {
                let facts = rejection.facts();
                let verdict = if facts.status.is_server_error() {
                    RenewalVerdict::Unknown
                } else {
                    RenewalVerdict::Wrong
                };
                (verdict, facts.code, rejection.message(), facts.status.as_u16(), facts.recoverable)
            }
        };
        ReauthEvent { session: session.facts(), outcome: ReauthOutcome::Refused(why) }.emit();
        if !state.is_open() {
            // Usher sends no message behind a close frame.
            return None;
        }
        let goes_on = state.handle_verdict(verdict, now.mono);
        let mut details = match why {
            NotRenewed::Refused(rejection) => rejection.details(),
            NotRenewed::OtherSubject | NotRenewed::NoLonger => Vec::new(),
        };
        if *why != NotRenewed::OtherSubject {
            details.push(("attempts_left", state.attempts_left().into()));
        }
        self.dialect.not_renewed(&Refused {
            code,
            message: &message,
            status,
            recoverable: recoverable && goes_on,
            details: &details,
            request_id: session.request_id.as_str(),
            id,
            now: now.wall,
        })
    }

    /// Returns the message that tells the client why the session ends, to be sent before the close
    /// frame.
    pub fn farewell(
        &self,
        reason: CloseReason,
        session: &SessionHandle,
        now: Now,
    ) -> Option<Message> {
        let facts = reason.facts();
        let ErrorFrame { code, message, recoverable } = facts.error?;
        let details: Vec<Detail> = match (reason, session.expires_at()) {
            (CloseReason::SessionExpired, Some(at)) => vec![("expires_at", at.0.into())],
            _ => Vec::new(),
        };
        self.dialect.not_renewed(&Refused {
            code,
            message,
            status: facts.status,
            recoverable,
            details: &details,
            request_id: session.request_id.as_str(),
            id: None,
            now: now.wall,
        })
    }
}
