//! The rates at which upgrades are accepted: in all, and from one address.
//!
//! Counted when the head of an upgrade was read, before its route is looked up: an upgrade over a
//! rate costs neither a verified credential nor a dial.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::rate::{RateLimiter, network_of};
use crate::config::Limits;
use crate::telemetry::Event;
use crate::telemetry::limit::{Limit, LimitReached};

#[derive(Debug, Default)]
pub struct UpgradeRates {
    all: Option<Arc<RateLimiter<()>>>,
    per_address: Option<Arc<RateLimiter<IpAddr>>>,
}

impl UpgradeRates {
    /// Returns the rates of a configuration. A rate that stays goes on from its count.
    pub fn of(limits: &Limits, before: &Self) -> Self {
        Self {
            all: limits.upgrades_rate.map(|rate| match &before.all {
                Some(before) => before.next(rate, 1),
                None => Arc::new(RateLimiter::new(rate, 1)),
            }),
            per_address: limits.upgrades_rate_per_address.map(|rate| match &before.per_address {
                Some(before) => before.next(rate, limits.rate_entries),
                None => Arc::new(RateLimiter::new(rate, limits.rate_entries)),
            }),
        }
    }

    /// Counts an upgrade, or returns the time after which the next one may come. An upgrade that
    /// one rate refuses does not count for the other.
    pub fn allow(&self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        let refused = |limit, peer| {
            move |wait| {
                LimitReached { limit, peer }.emit();
                wait
            }
        };
        let address = network_of(peer);
        if let Some(per_address) = &self.per_address {
            let limit = Limit::UpgradesRatePerAddress;
            per_address.allow(address, now).map_err(refused(limit, Some(peer)))?;
        }
        let Some(all) = &self.all else { return Ok(()) };
        all.allow((), now).map_err(|wait| {
            if let Some(per_address) = &self.per_address {
                per_address.give_back(&address);
            }
            refused(Limit::UpgradesRate, None)(wait)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Now;
    use crate::base::rate::Rate;
    use crate::config;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn rates(all: Option<u32>, per_address: Option<u32>, before: &UpgradeRates) -> UpgradeRates {
        let rate = |count| Rate { count, per: Duration::from_secs(10) };
        let mut config = config::for_test("auth = [\"header\"]");
        let limits = Arc::get_mut(&mut config.limits).unwrap();
        limits.upgrades_rate = all.map(rate);
        limits.upgrades_rate_per_address = per_address.map(rate);
        UpgradeRates::of(limits, before)
    }

    #[test]
    fn one_address_reaches_its_rate_and_all_together_theirs() {
        let (rates, now) = (rates(Some(3), Some(2), &UpgradeRates::default()), Now::read().mono);
        assert!(rates.allow(ONE, now).is_ok() && rates.allow(ONE, now).is_ok());
        let wait = rates.allow(ONE, now).unwrap_err();
        assert!(wait > Duration::from_secs(4) && wait <= Duration::from_secs(5), "{wait:?}");
        assert!(rates.allow(TWO, now).is_ok(), "what the address was refused did not count");
        assert!(rates.allow(TWO, now).is_err());
        // The address gets its token back, because all together were over the rate.
        let later = now + Duration::from_millis(3_400);
        assert!(rates.allow(TWO, later).is_ok());
    }

    #[test]
    fn a_reload_with_the_same_rate_goes_on_from_its_count() {
        let (first, now) = (rates(Some(1), None, &UpgradeRates::default()), Now::read().mono);
        assert!(first.allow(ONE, now).is_ok());
        let same = rates(Some(1), Some(5), &first);
        assert!(same.allow(TWO, now).is_err());
        let other = rates(Some(2), Some(5), &same);
        assert!(other.allow(TWO, now).is_ok());
        let off = rates(None, None, &other);
        assert!((0..100).all(|_| off.allow(TWO, now).is_ok()));
    }
}
