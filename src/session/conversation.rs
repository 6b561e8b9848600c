//! What Usher itself says and hears inside a session's stream.
//!
//! The relay holds short text messages of the client while an answer may be among them and shows them here; whatever is
//! meant for us is taken out, judged beside the stream, and answered in it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::close::CloseReason;
use super::registry::SessionHandle;
use super::state::{Hearing, SessionState, Verdict};
use crate::auth::credential::Credential;
use crate::auth::first_message::{Accepted, Answer, Dialect, Question, Refused};
use crate::auth::grant::Grant;
use crate::auth::renewal::{NotRenewed, Renewal};
use crate::clock::Now;
use crate::rejection::Rejection;
use crate::telemetry::event::{Event, ReauthOutcome};
use crate::ws::deflate::inflate;
use crate::ws::follow::HeldMessage;
use crate::ws::frame::Message;

#[derive(Debug)]
pub struct Conversation {
    dialect: Dialect,
    /// `None`: nothing is renewed here.
    renewal: Option<Arc<Renewal>>,
    /// The upstream's greeting is still to come, and the client had it from us.
    awaits_greeting: bool,
    judging: Option<Judging>,
    /// The grant is a new one, and nobody has looked at it yet.
    was_renewed: bool,
}

/// What becomes of a message of the client.
#[derive(Debug)]
pub enum Hears {
    /// It was meant for us: it goes no further.
    Ours,
    /// The upstream gets this one for it.
    Instead(Message),
    NotOurs,
}

struct Judging {
    verdict: Pin<Box<dyn Future<Output = Result<Grant, NotRenewed>> + Send>>,
    id: Option<String>,
}

impl std::fmt::Debug for Judging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judging").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Conversation {
    pub fn new(dialect: Dialect, renewal: Option<Renewal>, awaits_greeting: bool) -> Self {
        Self { dialect, renewal: renewal.map(Arc::new), awaits_greeting, judging: None, was_renewed: false }
    }

    /// The longest message that can be meant for us.
    pub fn longest(&self) -> usize {
        self.dialect.longest()
    }

    /// Are messages of the client to be shown here?
    pub fn listens(&self, state: &SessionState) -> bool {
        state.listens() || self.dialect.always_listens()
    }

    /// A whole message of the client.
    pub fn hears(&mut self, message: &HeldMessage, state: &mut SessionState, now: Now) -> Hears {
        if !message.is_text {
            return Hears::NotOurs;
        }
        // What inflates to more than the longest of ours is none of ours.
        let inflated = if message.is_compressed { inflate(&message.payload, self.dialect.longest()).ok() } else { None };
        let text = match (&inflated, message.is_compressed) {
            (Some(inflated), _) => inflated,
            (None, true) => return Hears::NotOurs,
            (None, false) => &message.payload,
        };
        let Some(answer) = self.dialect.answer(text).filter(|_| state.listens()) else {
            return self.dialect.redacted(text).map_or(Hears::NotOurs, Hears::Instead);
        };
        let (credential, id) = match answer {
            Answer::Echo => return Hears::Ours,
            Answer::Proof { proof, id } => (Some(Credential::message(proof)), id),
            Answer::Missing { id } => (None, id),
        };
        let Some(renewal) = &self.renewal else { return Hears::Ours };
        if state.handle_auth_message() == Hearing::Judge {
            let verdict: Pin<Box<dyn Future<Output = _> + Send>> = match credential {
                Some(credential) => Box::pin(Arc::clone(renewal).judge(credential, now)),
                None => Box::pin(std::future::ready(Err(NotRenewed::Refused(Rejection::MissingCredential)))),
            };
            self.judging = Some(Judging { verdict, id });
        }
        Hears::Ours
    }

    pub fn awaits_greeting(&self) -> bool {
        self.awaits_greeting
    }

    /// The first message of an upstream. True: the client had it already.
    pub fn is_greeting(&mut self, message: &HeldMessage) -> bool {
        self.awaits_greeting = false;
        message.is_text && !message.is_compressed && self.dialect.is_greeting(&message.payload)
    }

    /// The question for a new credential.
    pub fn ask(&self, session: &SessionHandle, now: Now) -> Option<Message> {
        let grant = &self.renewal.as_ref()?.grant;
        let expires_at = grant.expires_at()?;
        let grace = grant.route().reauth.grace.min(expires_at.since(now.wall));
        Event::Reauth { session: session.facts(), outcome: ReauthOutcome::Asked }.emit();
        self.dialect.ask(&Question { expires_at, grace, now: now.wall })
    }

    /// Completes when a credential was judged, with what the client is to be told.
    pub fn poll_verdict(&mut self, cx: &mut Context<'_>, state: &mut SessionState, session: &SessionHandle) -> Poll<Option<Message>> {
        let Some(judging) = &mut self.judging else { return Poll::Pending };
        let Poll::Ready(verdict) = judging.verdict.as_mut().poll(cx) else { return Poll::Pending };
        let id = self.judging.take().and_then(|judging| judging.id);
        let now = Now::read();
        Poll::Ready(match verdict {
            Ok(grant) => self.go_on(grant, id.as_deref(), state, session, now),
            Err(why) => self.refuse(&why, id.as_deref(), state, session, now),
        })
    }

    fn go_on(&mut self, grant: Grant, id: Option<&str>, state: &mut SessionState, session: &SessionHandle, now: Now) -> Option<Message> {
        let expires_at = grant.expires_at();
        let goes_on = state.handle_verdict(Verdict::Renewed { expires: expires_at.map(|at| now.instant_of(at)) }, now.mono);
        if !goes_on {
            return None;
        }
        session.set_expires_at(expires_at);
        if let (Some(renewal), Some(principal)) = (&self.renewal, grant.principal()) {
            session.identity.renew(principal);
            // It may have been revoked since it was judged, when the session did not bear its name yet.
            if renewal.authenticator.load().revocations().find(principal, now.wall).is_some() {
                session.close(CloseReason::Revoked);
            }
        }
        Event::Reauth { session: session.facts(), outcome: ReauthOutcome::Renewed { expires_at } }.emit();
        let told =
            Accepted { user: session.user.as_deref().unwrap_or_default(), session_id: session.id.as_str(), expires_at, id, now: now.wall };
        let message = self.dialect.renewed(&told);
        if let Some(renewal) = &mut self.renewal {
            // The future that judged is gone, so this is the only one who holds it.
            if let Some(renewal) = Arc::get_mut(renewal) {
                renewal.grant = grant;
                self.was_renewed = true;
            }
        }
        message
    }

    /// The new grant, once after it was renewed.
    pub fn take_renewed(&mut self) -> Option<&Grant> {
        let was_renewed = std::mem::take(&mut self.was_renewed);
        self.renewal.as_ref().filter(|_| was_renewed).map(|renewal| &renewal.grant)
    }

    fn refuse(&self, why: &NotRenewed, id: Option<&str>, state: &mut SessionState, session: &SessionHandle, now: Now) -> Option<Message> {
        let (verdict, code, message, status, recoverable) = match why {
            NotRenewed::OtherSubject => {
                (Verdict::OtherSubject, "OTHER_SUBJECT", "the credential belongs to another user".to_owned(), 403, false)
            }
            NotRenewed::NoLonger if state.was_renewed_just_now() => {
                // The same answer once more.
                state.handle_verdict(Verdict::Unknown, now.mono);
                return None;
            }
            NotRenewed::NoLonger => {
                (Verdict::Wrong, "NOT_RENEWED", "the credential ends no later than the one before".to_owned(), 401, true)
            }
            NotRenewed::Refused(rejection) => {
                let facts = rejection.facts();
                let verdict = if facts.status.is_server_error() { Verdict::Unknown } else { Verdict::Wrong };
                (verdict, facts.code, rejection.message(), facts.status.as_u16(), facts.recoverable)
            }
        };
        Event::Reauth { session: session.facts(), outcome: ReauthOutcome::Refused(why) }.emit();
        if !state.is_open() {
            // Nothing of ours follows a close frame.
            return None;
        }
        let goes_on = state.handle_verdict(verdict, now.mono);
        let request_id = session.request_id.as_str();
        let told = Refused { code, message: &message, status, recoverable: recoverable && goes_on, request_id, id, now: now.wall };
        self.dialect.not_renewed(&told)
    }

    /// What a client that is asked in messages hears before the close frame.
    pub fn farewell(&self, reason: CloseReason, session: &SessionHandle, now: Now) -> Option<Message> {
        self.renewal.as_ref()?;
        if reason != CloseReason::ReauthTimeout {
            return None;
        }
        let (code, message, status) = ("REAUTHENTICATION_TIMEOUT", "no valid credential came in time", 408);
        let request_id = session.request_id.as_str();
        self.dialect.not_renewed(&Refused { code, message, status, recoverable: true, request_id, id: None, now: now.wall })
    }
}
