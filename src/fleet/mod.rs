//! The nodes that share a store: revocations, lists of sessions and session limits for all nodes.
//!
//! Nodes communicate only through the store. Each node writes a heartbeat, so that the others
//! notice when it dies. `revocations.rs` synchronises the deny lists, `sessions.rs` asks the other
//! nodes for their sessions, and `places.rs` counts the sessions of a user. While the store does
//! not answer, each node continues with its own data, and reports that.

pub mod events;
pub mod places;
mod revocations;
mod sessions;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};

use self::events::NodesCounted;
use crate::auth::revocation::Revocations;
use crate::base::clock::Now;
use crate::base::lock::lock;
use crate::config::{self, Config};
use crate::model::request_id::HexId;
use crate::session::registry::Registry;
use crate::store::StoreOpenError;
use crate::store::redis::{LiveNodes, RevocationStream, Roster};
use crate::telemetry::Event;
use places::FleetPlaces;
use sessions::SessionsQuestion;
pub use sessions::{Completeness, Gathered, NodeAnswer};

const BEAT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct Fleet {
    node: Node,
    revocation_stream: RevocationStream,
    roster: Arc<Roster>,
    registry: Arc<Registry>,
    revocations: Arc<Revocations>,
    /// `None`: the sessions of a user are not limited.
    fleet_places: Option<Arc<FleetPlaces>>,
    /// Whether a revocation is in force here that the stream may not have.
    unwritten: AtomicBool,
    has_beaten: AtomicBool,
    /// The nodes at the last heartbeat; `None`: the store did not answer.
    nodes: Mutex<Option<Vec<Node>>>,
    asking: Semaphore,
    answering: Arc<Semaphore>,
}

/// A process: its random id and its configured name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    id: String,
    name: String,
}

/// A message to all nodes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Notice {
    Question(SessionsQuestion),
    /// The session with this id must end, because a newer session of its user took its place.
    Replaced(String),
}

impl Fleet {
    /// Opens the fleet. `None`: the store is in this process, so there are no other nodes.
    pub fn open(
        config: &Config,
        registry: &Arc<Registry>,
        revocations: &Arc<Revocations>,
    ) -> Result<Option<Arc<Self>>, StoreOpenError> {
        let config::Store::Redis(redis) = &config.store else { return Ok(None) };
        let roster = Arc::new(Roster::open(redis)?);
        let fleet_places = config
            .limits
            .sessions_per_user
            .map(|most| FleetPlaces::new(&roster, registry, most, config.limits.extra_sessions));
        Ok(Some(Arc::new(Self {
            node: Node { id: HexId::random().as_str().to_owned(), name: config.node.clone() },
            revocation_stream: RevocationStream::open(redis, &config.revocation)?,
            roster,
            registry: Arc::clone(registry),
            revocations: Arc::clone(revocations),
            fleet_places,
            unwritten: AtomicBool::new(false),
            has_beaten: AtomicBool::new(false),
            nodes: Mutex::default(),
            asking: Semaphore::new(sessions::AT_ONCE),
            answering: Arc::new(Semaphore::new(sessions::AT_ONCE)),
        })))
    }

    pub fn fleet_places(&self) -> Option<&Arc<FleetPlaces>> {
        self.fleet_places.as_ref()
    }

    /// Returns the names of the nodes with a recent heartbeat, including this one. `None`: the
    /// store does not answer.
    pub fn nodes(&self) -> Option<Vec<String>> {
        let nodes = lock(&self.nodes).clone()?;
        Some(nodes.iter().map(|node| node.label(&nodes)).collect())
    }

    /// Writes the heartbeat of this node, for ever.
    pub async fn beat_on(self: Arc<Self>) {
        let mut every = interval(BEAT);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            self.announce().await;
        }
    }

    /// Leaves the fleet: gives the places back, and removes the heartbeat, so that no node waits
    /// for this one.
    pub async fn leave(&self) {
        if let Some(fleet_places) = &self.fleet_places {
            fleet_places.give_back().await;
        }
        // If this fails, the heartbeat is soon too old anyway.
        let _ = self.roster.leave(&self.node.member()).await;
    }

    /// Writes the heartbeat, and returns all live nodes, including this one.
    async fn announce(&self) -> Option<Vec<Node>> {
        let beats = self.roster.announce(&self.node.member(), Now::read().wall).await;
        let nodes = beats.ok().map(|LiveNodes { is_new, members }| {
            if is_new && self.has_beaten.swap(true, Ordering::Relaxed) {
                // The store has lost the heartbeat of this node, so it may have lost places too.
                let _ = self.fleet_places.as_ref().map(|fleet_places| fleet_places.doubt());
            }
            members.iter().filter_map(|(member, _)| Node::read(member)).collect::<Vec<_>>()
        });
        lock(&self.nodes).clone_from(&nodes);
        NodesCounted { count: nodes.as_ref().map_or(0, Vec::len) }.emit();
        nodes
    }

    fn receive_notices(self: &Arc<Self>, notices: &[String]) {
        for notice in notices {
            // A notice that cannot be read is from a newer version, and has no meaning here.
            match serde_json::from_str(notice) {
                Ok(Notice::Question(question)) => self.receive_question(question),
                Ok(Notice::Replaced(session)) => {
                    let _ =
                        self.fleet_places.as_ref().map(|fleet_places| fleet_places.end(&session));
                }
                Err(_) => {}
            }
        }
    }
}

impl Node {
    fn member(&self) -> String {
        format!("{}:{}", self.id, self.name)
    }

    fn read(member: &str) -> Option<Self> {
        let (id, name) = member.split_once(':')?;
        Some(Self { id: id.to_owned(), name: name.to_owned() })
    }

    /// Returns the name. If other nodes have the same name, adds the beginning of the id.
    fn label(&self, nodes: &[Self]) -> String {
        let is_shared = nodes.iter().any(|other| other.name == self.name && other.id != self.id);
        if is_shared {
            format!("{}/{}", self.name, self.id.get(..6).unwrap_or(&self.id))
        } else {
            self.name.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_one_name_are_told_apart() {
        let node = |id: &str, name: &str| Node { id: id.to_owned(), name: name.to_owned() };
        let nodes =
            [node("aaaaaaaa", "edge"), node("bbbbbbbb", "edge"), node("cccccccc", "other:1")];
        assert_eq!(
            nodes.each_ref().map(|node| node.label(&nodes)),
            ["edge/aaaaaa", "edge/bbbbbb", "other:1"]
        );
        assert_eq!(Node::read(&nodes[2].member()).as_ref(), Some(&nodes[2]));
    }

    #[test]
    fn a_notice_that_nobody_knows_yet_is_passed_over() {
        let known = serde_json::to_string(&Notice::Replaced("s".into())).unwrap();
        assert_eq!(known, r#"{"replaced":"s"}"#);
        assert!(serde_json::from_str::<Notice>(r#"{"party":{"at":7}}"#).is_err());
    }
}
