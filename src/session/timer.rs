//! A session's deadlines: one table, one sleep.

use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// When to ping a client that has been silent.
    Ping,
    /// When to give up on a client that has been silent, pings or not.
    Idle,
    /// When the grant ends.
    Expiry,
    /// When to ask for a new credential.
    Ask,
    /// When to stop waiting for one; after a renewal, when to stop expecting late answers.
    Answer,
    /// When to stop waiting for the end of a close handshake.
    Linger,
}

const COUNT: usize = 6;

#[derive(Clone, Debug, Default)]
pub struct TimerTable([Option<Instant>; COUNT]);

impl Timer {
    const ALL: [Self; COUNT] =
        [Self::Ping, Self::Idle, Self::Expiry, Self::Ask, Self::Answer, Self::Linger];
}

impl TimerTable {
    pub fn set(&mut self, timer: Timer, at: Instant) {
        if let Some(slot) = self.0.get_mut(timer as usize) {
            *slot = Some(at);
        }
    }

    /// Sets the timer, unless it is due sooner.
    pub fn hasten(&mut self, timer: Timer, at: Instant) {
        if let Some(slot) = self.0.get_mut(timer as usize) {
            *slot = Some(slot.map_or(at, |before| before.min(at)));
        }
    }

    pub fn stop(&mut self, timer: Timer) {
        if let Some(slot) = self.0.get_mut(timer as usize) {
            *slot = None;
        }
    }

    pub fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Returns a timer that is due, and stops it.
    pub fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let due = Timer::ALL.into_iter().find(|&timer| {
            self.0.get(timer as usize).copied().flatten().is_some_and(|at| at <= now)
        })?;
        self.stop(due);
        Some(due)
    }
}
