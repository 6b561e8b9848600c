//! The rules by which a server is ejected and returns. No I/O, no clock.
//!
//! A server that fails is ejected for a pause. After the pause one client tries it: its trial
//! returns the server, or makes the pause longer.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use tokio::time::Instant;

use super::pick::ServerAvailability;
use crate::telemetry::family::words;

/// The number of outcomes that a server's record keeps.
const RECORD: usize = 20;
/// The number of users whose timeouts count. The slow path of one user ejects no server.
const USERS: usize = 3;
/// A server that is ejected again within this time after its return gets a longer pause.
const PROBATION: Duration = Duration::from_secs(60);
/// The number of health checks in a row that eject a server, or return it.
const CHECKS: u32 = 2;
/// The share of clients with which slow start begins.
const FIRST_SHARE: f64 = 0.1;

words! {
    /// The fault for which a server is ejected.
    #[derive(Serialize)]
    #[serde(rename_all = "lowercase")]
    pub enum ServerFault {
        /// No connection, or none within `dial_timeout`.
        Dial = "dial",
        /// No answer in time.
        Timeout = "timeout",
        /// A 502, 503 or 504, or an answer that is not HTTP.
        Answer = "answer",
        /// A health check.
        Check = "check",
    }
}

words! {
    /// The state of a server in metrics and on the status page.
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum ServerState {
        Serving = "serving",
        SlowStart = "slow_start",
        Ejected = "ejected",
        OnTrial = "on_trial",
        /// A name without an address.
        Unresolved = "unresolved",
    }
}

/// The outcome of one try of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryOutcome {
    Good,
    DialFailed,
    /// The server did not answer this client in time.
    TimedOut(u64),
    BadAnswer,
}

/// The part of the configuration that the rules need.
#[derive(Clone, Copy, Debug)]
pub struct HealthRules {
    pub eject_after: usize,
    pub pause: Duration,
    pub longest_pause: Duration,
    pub slow_start: Duration,
    pub has_checks: bool,
}

/// Why a client is sent to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialPurpose {
    Regular,
    /// The one client that tries an ejected server after its pause. The number is that of the
    /// trial.
    Trial(u64),
    /// No other server is left.
    LastResort,
}

/// The effect of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthEffect {
    Nothing,
    /// The server must be ejected, if not too many are.
    Eject(ServerFault),
    TrialFailed {
        pause: Duration,
    },
    Returned {
        away: Duration,
    },
}

#[derive(Debug)]
pub struct Health {
    stage: Stage,
    /// The last outcomes of a server that is not ejected, the newest last.
    record: VecDeque<TryOutcome>,
    last_pause: Duration,
    returned: Option<Instant>,
    trials: u64,
    /// Consecutive health checks that failed, and that passed.
    failed_checks: u32,
    passed_checks: u32,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    In {
        /// The begin of the slow start.
        slow_since: Option<Instant>,
    },
    Out(Absence),
    Trial(Absence, u64),
}

#[derive(Clone, Copy, Debug)]
struct Absence {
    since: Instant,
    until: Instant,
    fault: ServerFault,
}

impl Health {
    /// Returns the health of a server. One that joins others later begins with a slow start.
    pub fn new(joins: Option<Instant>) -> Self {
        Self {
            stage: Stage::In { slow_since: joins },
            record: VecDeque::with_capacity(RECORD),
            last_pause: Duration::ZERO,
            returned: None,
            trials: 0,
            failed_checks: 0,
            passed_checks: 0,
        }
    }

    /// Notes that the server is back in the name's addresses. An ejected one stays ejected.
    pub fn join_again(&mut self, joins: Option<Instant>) {
        if let Stage::In { slow_since } = &mut self.stage {
            *slow_since = joins;
        }
    }

    pub fn is_ejected(&self) -> bool {
        !matches!(self.stage, Stage::In { .. })
    }

    pub fn state(&self, now: Instant, rules: &HealthRules) -> ServerState {
        match (self.stage, self.standing(now, rules)) {
            (Stage::Out(_), _) => ServerState::Ejected,
            (Stage::Trial(..), _) => ServerState::OnTrial,
            (Stage::In { .. }, ServerAvailability::Slow(_)) => ServerState::SlowStart,
            (Stage::In { .. }, _) => ServerState::Serving,
        }
    }

    /// Returns the fault and the time since the ejection.
    pub fn absence(&self, now: Instant) -> Option<(ServerFault, Duration)> {
        match self.stage {
            Stage::In { .. } => None,
            Stage::Out(absence) | Stage::Trial(absence, _) => {
                Some((absence.fault, now.saturating_duration_since(absence.since)))
            }
        }
    }

    pub fn standing(&self, now: Instant, rules: &HealthRules) -> ServerAvailability {
        match self.stage {
            Stage::In { slow_since: Some(since) } => {
                let part = now.saturating_duration_since(since).as_secs_f64()
                    / rules.slow_start.as_secs_f64();
                // A slow start of no time is over: the part is infinite, or not a number.
                if part < 1.0 {
                    ServerAvailability::Slow(part.max(FIRST_SHARE))
                } else {
                    ServerAvailability::Serving
                }
            }
            Stage::In { slow_since: None } => ServerAvailability::Serving,
            Stage::Out(_) | Stage::Trial(..) => ServerAvailability::Ejected,
        }
    }

    /// Returns true if one client may try the ejected server. Health checks return a server that
    /// they ejected: no client has to wait for it.
    pub fn is_trial_due(&self, now: Instant, rules: &HealthRules) -> bool {
        let Stage::Out(absence) = self.stage else { return false };
        let checks_allow =
            !rules.has_checks || (self.failed_checks == 0 && absence.fault != ServerFault::Check);
        now >= absence.until && checks_allow
    }

    /// Begins a trial. The caller reports its outcome, or [abandons](Self::abandon_trial) it.
    pub fn begin_trial(&mut self, now: Instant, rules: &HealthRules) -> Option<DialPurpose> {
        let Stage::Out(absence) = self.stage else { return None };
        if !self.is_trial_due(now, rules) {
            return None;
        }
        self.trials += 1;
        self.stage = Stage::Trial(absence, self.trials);
        Some(DialPurpose::Trial(self.trials))
    }

    /// Lets the next client try the server: the trial ended without an outcome.
    pub fn abandon_trial(&mut self, number: u64) {
        if let Stage::Trial(absence, running) = self.stage
            && running == number
        {
            self.stage = Stage::Out(absence);
        }
    }

    /// Notes the outcome of a try.
    pub fn note(
        &mut self,
        outcome: TryOutcome,
        errand: DialPurpose,
        now: Instant,
        rules: &HealthRules,
    ) -> HealthEffect {
        match (self.stage, errand, outcome) {
            (Stage::In { .. }, ..) => {
                if self.record.len() == RECORD {
                    self.record.pop_front();
                }
                self.record.push_back(outcome);
                match outcome.fault() {
                    Some(fault) if self.is_failing(rules.eject_after) => HealthEffect::Eject(fault),
                    _ => HealthEffect::Nothing,
                }
            }
            (Stage::Trial(absence, running), DialPurpose::Trial(number), _)
                if running == number =>
            {
                match outcome.fault() {
                    None => self.come_back(absence, now),
                    Some(fault) => {
                        let pause = (self.last_pause * 2).min(rules.longest_pause);
                        self.last_pause = pause;
                        let until = now + pause;
                        self.stage = Stage::Out(Absence { until, fault, ..absence });
                        HealthEffect::TrialFailed { pause }
                    }
                }
            }
            (
                Stage::Out(absence) | Stage::Trial(absence, _),
                DialPurpose::LastResort,
                TryOutcome::Good,
            ) => self.come_back(absence, now),
            // The try began before the server was ejected, or proves nothing new.
            _ => HealthEffect::Nothing,
        }
    }

    /// Notes a health check that passed.
    pub fn pass_check(&mut self, now: Instant) -> HealthEffect {
        self.failed_checks = 0;
        self.passed_checks = self.passed_checks.saturating_add(1);
        match self.stage {
            Stage::Out(absence)
                if absence.fault == ServerFault::Check
                    && self.passed_checks >= CHECKS
                    && now >= absence.until =>
            {
                self.come_back(absence, now)
            }
            _ => HealthEffect::Nothing,
        }
    }

    /// Notes a health check that failed. Returns how many have failed in a row, too.
    pub fn fail_check(&mut self) -> (HealthEffect, u32) {
        self.passed_checks = 0;
        self.failed_checks = self.failed_checks.saturating_add(1);
        let is_over = self.failed_checks >= CHECKS && !self.is_ejected();
        (
            if is_over { HealthEffect::Eject(ServerFault::Check) } else { HealthEffect::Nothing },
            self.failed_checks,
        )
    }

    /// Ejects the server. Returns the pause before its first trial, or nothing if it is ejected
    /// already.
    pub fn eject(
        &mut self,
        fault: ServerFault,
        now: Instant,
        rules: &HealthRules,
    ) -> Option<Duration> {
        if self.is_ejected() {
            return None;
        }
        let is_relapse = self
            .returned
            .is_some_and(|at| now.saturating_duration_since(at) < PROBATION + self.last_pause);
        let pause = if is_relapse { self.last_pause * 2 } else { rules.pause };
        self.last_pause = pause.min(rules.longest_pause);
        let until = now + self.last_pause;
        self.stage = Stage::Out(Absence { since: now, until, fault });
        self.record.clear();
        Some(self.last_pause)
    }

    /// Keeps a server that would be ejected if fewer others were. It begins a new record.
    pub fn spare(&mut self) {
        self.record.clear();
    }

    fn come_back(&mut self, absence: Absence, now: Instant) -> HealthEffect {
        self.stage = Stage::In { slow_since: Some(now) };
        self.returned = Some(now);
        self.record.clear();
        HealthEffect::Returned { away: now.saturating_duration_since(absence.since) }
    }

    /// Returns true if enough of the last outcomes are failures: in a row, or half of all.
    fn is_failing(&self, eject_after: usize) -> bool {
        let is_failure = |outcome: &&TryOutcome| outcome.fault().is_some();
        let in_a_row = counted(self.record.iter().rev().take_while(is_failure));
        let of_all = counted(self.record.iter());
        in_a_row >= eject_after || (of_all >= eject_after && of_all * 2 >= self.record.len())
    }
}

impl TryOutcome {
    /// Returns the outcome of a whole answer. A server sends these statuses when it cannot serve.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Self::BadAnswer,
            _ => Self::Good,
        }
    }

    fn fault(&self) -> Option<ServerFault> {
        match self {
            Self::Good => None,
            Self::DialFailed => Some(ServerFault::Dial),
            Self::TimedOut(_) => Some(ServerFault::Timeout),
            Self::BadAnswer => Some(ServerFault::Answer),
        }
    }
}

/// Returns how many of the outcomes count against the server.
fn counted<'a>(outcomes: impl Iterator<Item = &'a TryOutcome>) -> usize {
    let mut users = BTreeSet::new();
    let (mut timeouts, mut others) = (0, 0);
    for outcome in outcomes {
        match outcome {
            TryOutcome::Good => {}
            TryOutcome::TimedOut(user) => {
                users.insert(user);
                timeouts += 1;
            }
            TryOutcome::DialFailed | TryOutcome::BadAnswer => others += 1,
        }
    }
    if users.len() >= USERS { others + timeouts } else { others }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
