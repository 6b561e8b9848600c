//! The one place that reads a clock.
//!
//! Rules take a [`Now`] as an argument. Wall time judges what other parties signed (`exp`, `nbf`); monotonic time keeps
//! deadlines, so that a clock set back never lengthens a session.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use tokio::time::Instant;

/// Milliseconds since the Unix epoch: the wall clock as the wire shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

/// One reading of both clocks, taken when an event arrives and handed to every rule that the event touches.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub wall: UnixMillis,
    pub mono: Instant,
}

impl Now {
    #[allow(clippy::disallowed_methods, reason = "this is the place that reads the clocks")]
    pub fn read() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall: UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)), mono: Instant::now() }
    }

    /// The monotonic instant at which the wall clock would show `wall`, if nobody sets it meanwhile.
    /// What has passed already is now.
    pub fn instant_of(&self, wall: UnixMillis) -> Instant {
        self.mono.checked_add(wall.since(self.wall)).unwrap_or(self.mono)
    }
}

impl UnixMillis {
    pub fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    pub fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// How long after `earlier` this is; zero when it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// `YYYY-MM-DDTHH:MM:SS.mmmZ`, as logs, audit lines and messages on the wire write it.
    pub fn to_rfc3339(self) -> String {
        let at = i64::try_from(self.0 / 1000).ok().and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok());
        let Some(at) = at else { return "9999-12-31T23:59:59.999Z".to_owned() };
        let (date, (hour, minute, second)) = (at.date(), at.to_hms());
        let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", self.0 % 1000)
    }
}

impl std::ops::Add<Duration> for UnixMillis {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_is_written_as_rfc_3339_with_milliseconds() {
        assert_eq!(UnixMillis(1_700_000_000_123).to_rfc3339(), "2023-11-14T22:13:20.123Z");
        assert_eq!(UnixMillis(u64::MAX).to_rfc3339(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_wall_time_in_the_past_is_due_at_once() {
        let now = Now { wall: UnixMillis(5_000), mono: Instant::now() };
        assert_eq!(now.instant_of(UnixMillis(4_000)), now.mono);
        assert_eq!(now.instant_of(UnixMillis(7_000)), now.mono + Duration::from_secs(2));
    }
}
