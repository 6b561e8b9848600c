//! The only module that reads a clock.
//!
//! Rules take a [`Now`] as an argument. Wall time is for times that other parties signed (`exp`,
//! `nbf`). Monotonic time is for deadlines, so that a clock that is set back never lengthens a
//! session.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{Date, Month, OffsetDateTime, Time, UtcOffset};
use tokio::time::Instant;

/// Milliseconds since the Unix epoch, by the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

/// Reads the monotonic clock alone, for a rule that needs no wall time.
#[allow(clippy::disallowed_methods, reason = "only this function reads the monotonic clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// One reading of both clocks. It is taken when an event arrives, and passed to every rule for the
/// event.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub wall: UnixMillis,
    pub mono: Instant,
}

impl Now {
    pub fn read() -> Self {
        Self::at(monotonic())
    }

    /// Reads the wall clock, for an event whose monotonic time is known.
    #[allow(clippy::disallowed_methods, reason = "only this function reads the wall clock")]
    pub fn at(mono: Instant) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX));
        Self { wall, mono }
    }

    /// Returns the monotonic instant at which the wall clock will show `wall`, if the clock is not
    /// set in between. A time in the past becomes now.
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

    /// Returns the time since `earlier`, or zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Parses `YYYY-MM-DDTHH:MM:SS`, an optional fraction, and `Z` or an offset.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let digits = |range: std::ops::Range<usize>| -> Option<u16> {
            text.get(range)
                .filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?
                .parse()
                .ok()
        };
        let small = |at: usize| u8::try_from(digits(at..at + 2)?).ok();
        let bytes = text.as_bytes();
        let stands = |at: usize, one: &[u8]| bytes.get(at).is_some_and(|byte| one.contains(byte));
        if !(stands(4, b"-")
            && stands(7, b"-")
            && stands(10, b"Tt ")
            && stands(13, b":")
            && stands(16, b":"))
        {
            return None;
        }
        let date = Date::from_calendar_date(
            i32::from(digits(0..4)?),
            Month::try_from(small(5)?).ok()?,
            small(8)?,
        )
        .ok()?;
        let time = Time::from_hms(small(11)?, small(14)?, small(17)?).ok()?;
        let rest = text.get(19..)?;
        let zone = rest
            .strip_prefix('.')
            .map_or(rest, |fraction| fraction.trim_start_matches(|one: char| one.is_ascii_digit()));
        let fraction = rest.get(1..rest.len() - zone.len()).unwrap_or_default();
        if rest.starts_with('.') && fraction.is_empty() {
            return None;
        }
        let millis: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
        let offset = match zone.as_bytes() {
            b"Z" | b"z" => UtcOffset::UTC,
            [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
                let part = |range| {
                    zone.get(range)
                        .and_then(|part: &str| part.parse::<i8>().ok())
                        .filter(|part| *part >= 0)
                };
                let (hours, minutes) = (part(1..3)?, part(4..6)?);
                if *sign == b'-' {
                    UtcOffset::from_hms(-hours, -minutes, 0).ok()?
                } else {
                    UtcOffset::from_hms(hours, minutes, 0).ok()?
                }
            }
            _ => return None,
        };
        let seconds =
            u64::try_from(date.with_time(time).assume_offset(offset).unix_timestamp()).ok()?;
        Some(Self(seconds * 1000 + millis))
    }

    /// Returns `YYYY-MM-DDTHH:MM:SS.mmmZ`, the format of logs, audit lines and messages.
    pub fn to_rfc3339(self) -> String {
        let at = i64::try_from(self.0 / 1000)
            .ok()
            .and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok());
        let Some(at) = at else { return "9999-12-31T23:59:59.999Z".to_owned() };
        let (date, (hour, minute, second)) = (at.date(), at.to_hms());
        let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
        format!(
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
            self.0 % 1000
        )
    }
}

impl UnixMillis {
    /// Returns `Mon, 01 Mar 2027 00:00:00 GMT`, the format of HTTP headers.
    pub fn to_http_date(self) -> String {
        httpdate::fmt_http_date(
            UNIX_EPOCH + Duration::from_secs(self.as_secs().min(253_402_300_799)),
        )
    }
}

impl UnixMillis {
    /// Parses a date of an HTTP header, in any format of RFC 9110 section 5.6.7.
    pub fn from_http_date(text: &str) -> Option<Self> {
        let since_epoch = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self::from_secs(since_epoch.as_secs()))
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
    fn rfc_3339_is_read_back() {
        for (text, millis) in [
            ("2023-11-14T22:13:20.123Z", 1_700_000_000_123),
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14T23:13:20.5+01:00", 1_700_000_000_500),
            ("2023-11-14 21:43:20.1239-00:30", 1_700_000_000_123),
        ] {
            assert_eq!(UnixMillis::from_rfc3339(text), Some(UnixMillis(millis)), "{text}");
        }
        for text in [
            "",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-13-14T22:13:20Z",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13:20+1:00",
            "2023-11-14T22:13:2éZ",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(UnixMillis::from_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn a_wall_time_in_the_past_is_due_at_once() {
        let now = Now { wall: UnixMillis(5_000), ..Now::read() };
        assert_eq!(now.instant_of(UnixMillis(4_000)), now.mono);
        assert_eq!(now.instant_of(UnixMillis(7_000)), now.mono + Duration::from_secs(2));
    }
}
