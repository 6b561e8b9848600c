//! Records the use of legacy methods: for each route and method a count, the last time, and some
//! user names to contact.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use serde::Serialize;

use crate::base::clock::UnixMillis;
use crate::base::lock::lock;
use crate::model::method::Method;

/// The number of names for each route and method.
const NAMES: usize = 20;

/// The uses by route and method. The map has at most one entry for each configured route and
/// method.
#[derive(Debug, Default)]
pub struct LegacyUses(Mutex<BTreeMap<(Arc<str>, &'static str), Uses>>);

#[derive(Debug, Default)]
struct Uses {
    count: u64,
    last: UnixMillis,
    /// The latest name is at the end. Each name appears once.
    users: VecDeque<String>,
}

/// One entry of `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LegacyUse {
    pub route: String,
    pub method: &'static str,
    pub uses: u64,
    pub last_used: String,
    pub recent_users: Vec<String>,
}

impl LegacyUses {
    pub fn note(&self, route: &Arc<str>, method: Method, user: &str, now: UnixMillis) {
        let mut lines = lock(&self.0);
        let uses = lines.entry((Arc::clone(route), method.name())).or_default();
        uses.count += 1;
        uses.last = now;
        uses.users.retain(|other| other != user);
        if uses.users.len() == NAMES {
            uses.users.pop_front();
        }
        uses.users.push_back(user.to_owned());
    }

    pub fn lines(&self) -> Vec<LegacyUse> {
        let lines = lock(&self.0);
        let line = |((route, method), uses): (&(Arc<str>, &'static str), &Uses)| LegacyUse {
            route: route.to_string(),
            method,
            uses: uses.count,
            last_used: uses.last.to_rfc3339(),
            recent_users: uses.users.iter().rev().cloned().collect(),
        };
        lines.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_names_are_kept_each_once() {
        let uses = LegacyUses::default();
        let route: Arc<str> = "/ws".into();
        for at in 0..30_u64 {
            uses.note(&route, Method::Header, &format!("user {}", at % 25), UnixMillis(at));
        }
        let [line] = <[LegacyUse; 1]>::try_from(uses.lines()).unwrap();
        assert_eq!(
            (line.uses, line.recent_users.len(), line.recent_users[0].as_str()),
            (30, NAMES, "user 4")
        );
        assert_eq!(line.recent_users.iter().filter(|user| *user == "user 0").count(), 1);
    }
}
