//! The own store, and the stores that hold the tickets of other regions.
//!
//! Tickets are issued into the own store alone. One that names another region is looked up in that
//! region's store, which has its own connections, time limit and breaker, so that one region's
//! trouble is nobody else's. What no region is known for is looked up nowhere.

use std::sync::Arc;

use super::redis::RedisStore;
use super::{ExpiredTicket, OpenError, Store};
use crate::base::clock::Now;
use crate::config::{self, Config};

#[derive(Debug)]
pub struct Stores {
    own: Store,
    /// What the own region is called.
    name: Option<Arc<str>>,
    others: Vec<Region>,
}

/// Another region.
#[derive(Debug)]
pub struct Region {
    pub name: Arc<str>,
    pub store: Arc<Store>,
}

impl Stores {
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        let name = match &config.store {
            config::Store::Memory { .. } => None,
            config::Store::Redis(redis) => redis.region.clone(),
        };
        let mut others = Vec::new();
        for redis in &config.regions {
            if let Some(name) = &redis.region {
                others.push(Region {
                    name: Arc::clone(name),
                    store: Arc::new(Store::Redis(RedisStore::open(redis)?)),
                });
            }
        }
        Ok(Self { own: Store::open(&config.store)?, name, others })
    }

    pub fn own(&self) -> &Store {
        &self.own
    }

    /// What tickets that are issued here begin with.
    pub fn own_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub fn others(&self) -> &[Region] {
        &self.others
    }

    /// Where a ticket of this region is, if anywhere. One that names none is ours.
    pub fn holding(&self, region: Option<&str>) -> Option<&Store> {
        match region {
            None => Some(&self.own),
            Some(name) if self.name.as_deref() == Some(name) => Some(&self.own),
            Some(name) => {
                self.others.iter().find(|other| *other.name == *name).map(|other| &*other.store)
            }
        }
    }

    /// Sweeps every store and tells which tickets have expired. Does not wait for other regions.
    pub async fn sweep(&self, now: Now) {
        for Region { store, .. } in &self.others {
            let store = Arc::clone(store);
            tokio::spawn(
                async move { store.sweep(now).await.iter().for_each(ExpiredTicket::tell) },
            );
        }
        self.own.sweep(now).await.iter().for_each(ExpiredTicket::tell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores(lines: &str) -> Stores {
        let text = format!("{}\n[store]\n{lines}\n", include_str!("../../config/usher.toml"));
        let read = config::parse(&text, None, &|_| Some("0123456789abcdef".repeat(4))).unwrap();
        Stores::open(&read.config).unwrap()
    }

    #[test]
    fn a_ticket_is_looked_up_in_the_one_store_that_its_region_has() {
        let stores =
            stores("url = \"redis://a\"\nregion = \"us\"\n[store.regions.eu]\nurl = \"redis://b\"");
        let is_own = |region| std::ptr::eq(stores.holding(region).unwrap(), stores.own());
        assert!(is_own(None) && is_own(Some("us")) && !is_own(Some("eu")));
        for unknown in ["ap", "e", "eu2", "EU", ""] {
            assert!(stores.holding(Some(unknown)).is_none(), "{unknown}");
        }
    }

    #[test]
    fn without_regions_no_region_is_known() {
        let stores = stores("url = \"redis://a\"");
        assert!(
            stores.own_name().is_none()
                && stores.holding(Some("us")).is_none()
                && stores.holding(None).is_some()
        );
    }
}
