//! Repeated checks with a verifier that the credential of a session is still good.
//!
//! The relay polls a [`Revalidation`] beside its bytes. Only sessions that depend on a verifier
//! have one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::auth::grant::Grant;
use crate::auth::verifier::VerifierGrant;
use crate::base::clock::{Now, UnixMillis};
use crate::model::permission::Required;
use crate::model::principal::Principal;
use crate::rejection::Rejection;

/// The shortest pause between two questions about one session, however near its end is.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Revalidation {
    verifier_grant: Arc<VerifierGrant>,
    /// The session does not outlive this moment without another credential, whatever the verifier
    /// says.
    latest: Option<UnixMillis>,
    /// The permissions that the user needs, as at the start of the session.
    required: Option<Arc<Required>>,
    /// When the verifier last confirmed the credential.
    heard: Instant,
    step: Step,
}

/// The result of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevalidationResult {
    /// The credential is good for the same user, until this time.
    Good { expires_at: UnixMillis },
    /// The credential is refused, belongs to another user, or does not permit any more what the
    /// route requires.
    Revoked,
    /// The verifier does not answer. `too_long`: for longer than the session may go on without it.
    Away { too_long: bool },
}

enum Step {
    Waiting(Pin<Box<Sleep>>),
    Asking(Pin<Box<dyn Future<Output = Result<Arc<Principal>, Rejection>> + Send>>),
}

impl Revalidation {
    /// Returns `None` if the grant does not depend on a verifier, or the verifier is not asked
    /// again.
    pub fn of(grant: &Grant, now: Now) -> Option<Self> {
        let verifier_grant = Arc::clone(grant.verifier_grant()?);
        let step = Step::waiting(&verifier_grant, grant.expires_at(), now);
        Some(Self {
            verifier_grant,
            latest: grant.latest(),
            required: grant.required().cloned(),
            heard: now.mono,
            step,
        })
    }

    pub fn verifier(&self) -> &str {
        self.verifier_grant.verifier()
    }

    /// Completes after each question. Must be polled again for the next one.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        user: Option<&str>,
        expires_at: Option<UnixMillis>,
    ) -> Poll<RevalidationResult> {
        loop {
            match &mut self.step {
                Step::Waiting(sleep) => match sleep.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) => {
                        self.step =
                            Step::Asking(Box::pin(Arc::clone(&self.verifier_grant).ask_again()));
                    }
                },
                Step::Asking(asking) => {
                    let Poll::Ready(answer) = asking.as_mut().poll(cx) else {
                        return Poll::Pending;
                    };
                    let now = Now::read();
                    let heard = self.judge(answer, user, now.mono);
                    let expires_at = if let RevalidationResult::Good { expires_at } = heard {
                        Some(expires_at)
                    } else {
                        expires_at
                    };
                    self.step = Step::waiting(&self.verifier_grant, expires_at, now);
                    // The new sleep must get the waker.
                    if let Step::Waiting(sleep) = &mut self.step
                        && sleep.as_mut().poll(cx).is_ready()
                    {
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Ready(heard);
                }
            }
        }
    }

    fn permits(&self, principal: &Principal) -> bool {
        self.required.as_ref().is_none_or(|required| required.check(&principal.permissions).is_ok())
    }

    fn judge(
        &mut self,
        answer: Result<Arc<Principal>, Rejection>,
        user: Option<&str>,
        now: Instant,
    ) -> RevalidationResult {
        match answer {
            Ok(principal)
                if Some(principal.subject.as_str()) == user && self.permits(&principal) =>
            {
                self.heard = now;
                let expires_at = self
                    .latest
                    .map_or(principal.expires_at, |latest| latest.min(principal.expires_at));
                RevalidationResult::Good { expires_at }
            }
            Ok(_) => RevalidationResult::Revoked,
            Err(rejection) if rejection.facts().status.is_server_error() => {
                RevalidationResult::Away {
                    too_long: self
                        .verifier_grant
                        .grace()
                        .is_some_and(|grace| now.saturating_duration_since(self.heard) >= grace),
                }
            }
            Err(_) => RevalidationResult::Revoked,
        }
    }
}

impl Step {
    /// Waits for the next question. It comes before the client would be asked for a credential that
    /// the verifier may still confirm.
    fn waiting(verifier_grant: &VerifierGrant, expires_at: Option<UnixMillis>, now: Now) -> Self {
        let in_good_time = expires_at.map_or(Duration::MAX, |end| end.since(now.wall).mul_f64(0.4));
        let pause = verifier_grant.pause().min(in_good_time.max(LEAST_PAUSE));
        Self::Waiting(Box::pin(sleep_until(now.mono + pause)))
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Waiting(_) => "Waiting",
            Self::Asking(_) => "Asking",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::verifier::VerifierQuestion;

    /// Only sessions that depend on a verifier pay this, besides the credential and the timer.
    #[test]
    fn a_session_that_is_asked_about_pays_little_for_it() {
        let sizes = [
            size_of::<Revalidation>(),
            size_of::<VerifierGrant>(),
            size_of::<VerifierQuestion>(),
            size_of::<Sleep>(),
        ];
        assert!(sizes.iter().sum::<usize>() <= 400, "{sizes:?}");
    }
}
