//! A session whose verifier is asked again and again whether its credential is still good.
//!
//! The relay polls it beside its bytes. Only sessions that rest on a verifier's word have one.

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

/// No verifier is asked more often about one session, however near its end is.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Revalidation {
    vouched: Arc<VerifierGrant>,
    /// Whatever the verifier says, the session does not outlive this moment without another
    /// credential.
    latest: Option<UnixMillis>,
    /// What its user has to be permitted, now as then.
    required: Option<Arc<Required>>,
    /// When the verifier last said that all is well.
    heard: Instant,
    step: Step,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevalidationResult {
    /// The same user, until then.
    Good { expires_at: UnixMillis },
    /// It is refused now, is somebody else's, or no longer permits what the route requires.
    Revoked,
    /// Nobody answers; `too_long`: for longer than the session may go on.
    Away { too_long: bool },
}

enum Step {
    Waiting(Pin<Box<Sleep>>),
    Asking(Pin<Box<dyn Future<Output = Result<Arc<Principal>, Rejection>> + Send>>),
}

impl Revalidation {
    /// `None`: the grant does not rest on a verifier's word, or is not asked about again.
    pub fn of(grant: &Grant, now: Now) -> Option<Self> {
        let vouched = Arc::clone(grant.vouched()?);
        let step = Step::waiting(&vouched, grant.expires_at(), now);
        Some(Self {
            vouched,
            latest: grant.latest(),
            required: grant.required().cloned(),
            heard: now.mono,
            step,
        })
    }

    pub fn verifier(&self) -> &str {
        self.vouched.verifier()
    }

    /// Completes after each question, and is to be polled on.
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
                        self.step = Step::Asking(Box::pin(Arc::clone(&self.vouched).ask_again()));
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
                    self.step = Step::waiting(&self.vouched, expires_at, now);
                    // The sleep that has just been made has to know whom to wake.
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
                        .vouched
                        .grace()
                        .is_some_and(|grace| now.saturating_duration_since(self.heard) >= grace),
                }
            }
            Err(_) => RevalidationResult::Revoked,
        }
    }
}

impl Step {
    /// In good time before the client would be asked for what the verifier may know.
    fn waiting(vouched: &VerifierGrant, expires_at: Option<UnixMillis>, now: Now) -> Self {
        let in_good_time = expires_at.map_or(Duration::MAX, |end| end.since(now.wall).mul_f64(0.4));
        let pause = vouched.pause().min(in_good_time.max(LEAST_PAUSE));
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
    use crate::auth::verifier::Question;

    /// Paid by sessions that rest on a verifier's word alone, beside the credential and the timer.
    #[test]
    fn a_session_that_is_asked_about_pays_little_for_it() {
        let sizes = [
            size_of::<Revalidation>(),
            size_of::<VerifierGrant>(),
            size_of::<Question>(),
            size_of::<Sleep>(),
        ];
        assert!(sizes.iter().sum::<usize>() <= 400, "{sizes:?}");
    }
}
