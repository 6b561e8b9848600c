//! Faults that come again and again, such as the failed dials of a server that is away.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::lock::lock;

/// A fault that lasts is reported this often.
const EVERY: Duration = Duration::from_secs(60);

/// Decides which of many equal faults get a line in the log: the first of each kind, and then one
/// in [`EVERY`] while no try succeeds. It does no I/O and reads no clock.
#[derive(Debug)]
pub struct Repeats<F>(Mutex<Window<F>>);

#[derive(Debug)]
struct Window<F> {
    began: Option<Instant>,
    /// The kinds of faults that were reported since then.
    reported: Vec<F>,
}

impl<F> Default for Repeats<F> {
    fn default() -> Self {
        Self(Mutex::new(Window { began: None, reported: Vec::new() }))
    }
}

impl<F: PartialEq> Repeats<F> {
    /// Returns true if this try deserves a line. `None`: it has succeeded.
    pub fn is_news(&self, fault: Option<F>, now: Instant) -> bool {
        let mut window = lock(&self.0);
        let Some(fault) = fault else {
            *window = Window { began: None, reported: Vec::new() };
            return true;
        };
        if window.began.is_none_or(|began| now.saturating_duration_since(began) >= EVERY) {
            *window = Window { began: Some(now), reported: vec![fault] };
            return true;
        }
        if window.reported.contains(&fault) {
            return false;
        }
        window.reported.push(fault);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Now;

    #[test]
    fn each_kind_of_fault_is_reported_once_a_minute_until_a_try_succeeds() {
        let (repeats, start) = (Repeats::default(), Now::read().mono);
        let is_news = |fault, at| repeats.is_news(fault, start + Duration::from_secs(at));
        for (fault, at, news) in [
            (Some("unreachable"), 0, true),
            (Some("unreachable"), 1, false),
            (Some("timeout"), 2, true),
            (Some("unreachable"), 3, false),
            (Some("timeout"), 59, false),
            (Some("timeout"), 60, true),
            (Some("unreachable"), 61, true),
            (Some("timeout"), 119, false),
            (None, 119, true),
            (Some("timeout"), 119, true),
        ] {
            assert_eq!(is_news(fault, at), news, "{fault:?} after {at} s");
        }
    }
}
