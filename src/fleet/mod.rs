//! The other nodes: what is revoked on one is revoked on all, who is connected where, and how many
//! sessions a user has in all.
//!
//! Nodes meet in the store alone. Each beats there, so that a node that has died is missed by
//! itself. `revocations.rs` keeps one deny list in step, `sessions.rs` asks the others on demand,
//! `places.rs` counts the sessions of a user. Where the store is away each goes on with what it
//! knows itself, and says so.

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
use crate::store::OpenError;
use crate::store::redis::{Bulletin, LiveNodes, Roster};
use crate::telemetry::Event;
use places::FleetPlaces;
use sessions::Question;
pub use sessions::{Completeness, Gathered, NodeAnswer};

const BEAT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct Fleet {
    node: Node,
    bulletin: Bulletin,
    roster: Arc<Roster>,
    registry: Arc<Registry>,
    revocations: Arc<Revocations>,
    /// `None`: users may have as many sessions as they like.
    fleet_places: Option<Arc<FleetPlaces>>,
    /// Something is in force here that the stream may not have.
    unwritten: AtomicBool,
    has_beaten: AtomicBool,
    /// As of the last beat; `None`: it was not heard.
    nodes: Mutex<Option<Vec<Node>>>,
    asking: Semaphore,
    answering: Arc<Semaphore>,
}

/// A process, and what people call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    id: String,
    name: String,
}

/// What is said to all nodes at once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Notice {
    Question(Question),
    /// This session lost its place to a younger one of its user.
    Replaced(String),
}

impl Fleet {
    /// `None`: the store is in this process, which is alone.
    pub fn open(
        config: &Config,
        registry: &Arc<Registry>,
        revocations: &Arc<Revocations>,
    ) -> Result<Option<Arc<Self>>, OpenError> {
        let config::Store::Redis(redis) = &config.store else { return Ok(None) };
        let roster = Arc::new(Roster::open(redis)?);
        let fleet_places = config
            .limits
            .sessions_per_user
            .map(|most| FleetPlaces::new(&roster, registry, most, config.limits.extra_sessions));
        Ok(Some(Arc::new(Self {
            node: Node { id: HexId::random().as_str().to_owned(), name: config.node.clone() },
            bulletin: Bulletin::open(redis, &config.revocation)?,
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

    /// The names of the nodes that beat lately, this one among them; `None`: the store does not
    /// say.
    pub fn nodes(&self) -> Option<Vec<String>> {
        let nodes = lock(&self.nodes).clone()?;
        Some(nodes.iter().map(|node| node.label(&nodes)).collect())
    }

    /// Says that we are here, for ever.
    pub async fn beat_on(self: Arc<Self>) {
        let mut every = interval(BEAT);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            self.beat().await;
        }
    }

    /// In good order: what we hold goes back, and nobody waits for us.
    pub async fn leave(&self) {
        if let Some(fleet_places) = &self.fleet_places {
            fleet_places.give_back().await;
        }
        // Where it fails, the beat is late soon.
        let _ = self.roster.leave(&self.node.member()).await;
    }

    /// Who is there, ourselves included.
    async fn beat(&self) -> Option<Vec<Node>> {
        let beats = self.roster.beat(&self.node.member(), Now::read().wall).await;
        let nodes = beats.ok().map(|LiveNodes { is_new, members }| {
            if is_new && self.has_beaten.swap(true, Ordering::Relaxed) {
                // It has forgotten us, and more.
                let _ = self.fleet_places.as_ref().map(|fleet_places| fleet_places.doubt());
            }
            members.iter().filter_map(|(member, _)| Node::read(member)).collect::<Vec<_>>()
        });
        lock(&self.nodes).clone_from(&nodes);
        NodesCounted { count: nodes.as_ref().map_or(0, Vec::len) }.emit();
        nodes
    }

    fn hear_notices(self: &Arc<Self>, notices: &[String]) {
        for notice in notices {
            // What cannot be read is a newer node's, and nothing that we could do.
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

    /// The name, and where others have the same also the beginning of the id.
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
