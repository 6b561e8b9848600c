//! The store of this region, and the stores of other regions.
//!
//! Tickets are issued only into the store of this region. A ticket with the name of another region
//! is looked up in that region's store. Each store has its own connections, timeout and breaker, so
//! that a fault in one region does not affect the others. A ticket with an unknown region is not
//! looked up.

use std::sync::Arc;

use super::redis::RedisStore;
use super::{ExpiredTicket, Store, StoreOpenError};
use crate::base::clock::Now;
use crate::config::{self, Config};

#[derive(Debug)]
pub struct Stores {
    own: Store,
    /// The name of this region.
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
    pub fn open(config: &Config) -> Result<Self, StoreOpenError> {
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

    /// Returns the name of this region, with which its tickets begin.
    pub fn own_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub fn others(&self) -> &[Region] {
        &self.others
    }

    /// Returns the store for a ticket of this region, if the region is known. A ticket without a
    /// region is in the own store.
    pub fn holding(&self, region: Option<&str>) -> Option<&Store> {
        match region {
            None => Some(&self.own),
            Some(name) if self.name.as_deref() == Some(name) => Some(&self.own),
            Some(name) => {
                self.others.iter().find(|other| *other.name == *name).map(|other| &*other.store)
            }
        }
    }

    /// Sweeps every store, and emits an event for each expired ticket. Does not wait for other
    /// regions.
    pub async fn sweep(&self, now: Now) {
        for Region { store, .. } in &self.others {
            let store = Arc::clone(store);
            tokio::spawn(
                async move { store.sweep(now).await.iter().for_each(ExpiredTicket::publish) },
            );
        }
        self.own.sweep(now).await.iter().for_each(ExpiredTicket::publish);
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
