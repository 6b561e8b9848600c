//! Fetches OCSP answers for the certificates of listeners, and drops those that expire.
//!
//! An answer is fetched anew in the middle of its life, so that a responder may be away for the
//! other half. Until then, and after a failure, the current answer stays.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use bytes::Bytes;
use http::HeaderValue;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::events::{OcspFetchFailed, OcspOutcome, StapleDropped, StapleForgotten, Stapled};
use crate::base::clock::Now;
use crate::net::fetch::{FetchConfig, FetchError, Fetcher};
use crate::net::tls::dates::Dates;
use crate::net::tls::ocsp::OcspFault;
use crate::net::tls::stapling::{MOST_BYTES, StapledCertificate, Staples};
use crate::telemetry::Event;

/// The shortest time between two fetches.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest time between two fetches without success.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// The longest sleep, after which the wall clock is read again.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

const QUESTION: HeaderValue = HeaderValue::from_static("application/ocsp-request");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FetchFault {
    Fetch(OcspOutcome),
    Answer(OcspFault),
}

/// Takes the answers of certificates that a reload removed out of the metric.
pub fn forget_removed(before: &Staples, next: &Staples) {
    for one in before.iter() {
        if next.of(&one.cert_file).is_none_or(|next| next.dates().is_none()) {
            StapleForgotten { file: &one.cert_file.display().to_string() }.emit();
        }
    }
}

/// Follows all certificates, as long as the future runs.
pub async fn follow(staples: Arc<Staples>, timeout: Duration) {
    if staples.iter().next().is_none() {
        return;
    }
    let config = FetchConfig { ca_file: None, timeout, max_body: MOST_BYTES, max_idle: 0 };
    // Without a `ca_file` there is nothing to read, so nothing can fail.
    let Ok(fetcher) = Fetcher::new(config) else { return };
    let mut tasks = JoinSet::new();
    for one in staples.iter() {
        tasks.spawn(follow_one(Arc::clone(one), fetcher.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

async fn follow_one(one: Arc<StapledCertificate>, fetcher: Fetcher) {
    let file = one.cert_file.display().to_string();
    if let Some(dates) = one.dates() {
        Stapled { file: &file, ends: dates.ends, is_fetched: false }.emit();
    }
    let mut failures = 0;
    let mut next = Now::read();
    if let Some(dates) = one.dates() {
        next.mono += until_refresh(&dates, next, chance());
    }
    loop {
        let now = Now::read();
        let dates = one.dates();
        if let Some(dates) = &dates
            && now.wall >= dates.ends
        {
            one.drop_staple();
            StapleDropped { file: &file }.emit();
            continue;
        }
        if one.responder.is_some() && now.mono >= next.mono {
            let fetched = fetch(&one, &fetcher).await;
            if dates.is_some() && one.dates().is_none() {
                StapleDropped { file: &file }.emit();
            }
            let now = Now::read();
            let pause = match &fetched {
                Ok(dates) => {
                    failures = 0;
                    until_refresh(dates, now, chance()).max(FIRST_PAUSE)
                }
                Err(_) => {
                    failures += 1;
                    pause(failures, chance())
                }
            };
            next.mono = now.mono + pause;
            report(&one, &file, fetched, pause);
            continue;
        }
        let ends = dates.map(|dates| dates.ends.since(now.wall));
        let due = one.responder.is_some().then(|| next.mono.duration_since(now.mono));
        // A millisecond more, so that the time has come for sure.
        let wait = ends.into_iter().chain(due).min().unwrap_or(LONGEST_SLEEP);
        sleep(wait.min(LONGEST_SLEEP) + Duration::from_millis(1)).await;
    }
}

async fn fetch(one: &StapledCertificate, fetcher: &Fetcher) -> Result<Dates, FetchFault> {
    let Some(responder) = &one.responder else {
        return Err(FetchFault::Fetch(OcspOutcome::Unreachable));
    };
    let question = Bytes::from(one.request());
    let answer = fetcher.post(responder, QUESTION, None, question).await;
    let answer = answer.and_then(crate::net::fetch::Fetched::success).map_err(|error| {
        FetchFault::Fetch(match error {
            FetchError::Timeout(_) => OcspOutcome::Timeout,
            FetchError::Status(_) | FetchError::Redirect(_) => OcspOutcome::Status,
            FetchError::TooLarge(_) => OcspOutcome::TooLarge,
            FetchError::Malformed(_) => OcspOutcome::Malformed,
            FetchError::Unreachable(_) | FetchError::Tls(_) => OcspOutcome::Unreachable,
        })
    })?;
    one.accept(&answer.body, Now::read().wall).map_err(FetchFault::Answer)
}

fn report(
    one: &StapledCertificate,
    file: &str,
    fetched: Result<Dates, FetchFault>,
    pause: Duration,
) {
    let fault = match fetched {
        Ok(dates) => {
            Stapled { file, ends: dates.ends, is_fetched: true }.emit();
            // The answer is fetched again after the next start.
            let _ = one.keep();
            return;
        }
        Err(fault) => fault,
    };
    let (outcome, why) = match fault {
        FetchFault::Fetch(outcome) => (outcome, "no answer of the responder".to_owned()),
        FetchFault::Answer(fault) => (outcome_of(fault), fault.to_string()),
    };
    let ends = one.dates().map(|dates| dates.ends);
    OcspFetchFailed { file, outcome, why: &why, ends, pause }.emit();
}

fn outcome_of(fault: OcspFault) -> OcspOutcome {
    match fault {
        OcspFault::Malformed | OcspFault::NoEnd => OcspOutcome::Malformed,
        OcspFault::Refused(_) => OcspOutcome::Refused,
        OcspFault::Signature => OcspOutcome::Signature,
        OcspFault::OtherCertificate => OcspOutcome::OtherCertificate,
        OcspFault::NotYetValid | OcspFault::Expired => OcspOutcome::Dates,
        OcspFault::Unknown => OcspOutcome::Unknown,
        OcspFault::Revoked => OcspOutcome::Revoked,
    }
}

/// Returns the time until the middle of an answer's life, plus up to a tenth of it, so that nodes
/// do not ask together. `chance` is from 0 to 1.
fn until_refresh(dates: &Dates, now: Now, chance: f64) -> Duration {
    let life = dates.ends.since(dates.begins);
    let due = dates.begins + life / 2 + (life / 10).mul_f64(chance);
    due.since(now.wall)
}

/// Returns the time after so many failures: a minute, doubled each time, and up to a quarter more.
fn pause(failures: u32, chance: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(LONGEST_PAUSE).mul_f64(1.0 + chance / 4.0)
}

fn chance() -> f64 {
    let mut byte = [0; 2];
    // Without random numbers, no handshake works either.
    let _ = rand::fill(&mut byte);
    f64::from(u16::from_be_bytes(byte)) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::UnixMillis;

    #[test]
    fn an_answer_is_renewed_after_half_of_its_life_and_failures_back_off() {
        let day = 86_400;
        let (begins, ends) = (UnixMillis::from_secs(day), UnixMillis::from_secs(5 * day));
        let dates = Dates { subject: String::new(), begins, ends };
        let at = |seconds| Now { wall: UnixMillis::from_secs(seconds), ..Now::read() };
        assert_eq!(until_refresh(&dates, at(day), 0.0).as_secs(), 2 * day);
        assert_eq!(until_refresh(&dates, at(2 * day), 1.0).as_secs(), day + 4 * day / 10);
        assert_eq!(until_refresh(&dates, at(4 * day), 1.0), Duration::ZERO);
        let minutes = [1, 2, 3, 6, 7, 100].map(|failures| pause(failures, 0.0).as_secs() / 60);
        assert_eq!(minutes, [1, 2, 4, 32, 60, 60]);
        assert_eq!(pause(1, 1.0).as_secs(), 75);
        assert!((0.0..=1.0).contains(&chance()));
    }
}
