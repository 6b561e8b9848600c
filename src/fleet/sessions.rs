//! Lists the sessions of all nodes on request.
//!
//! Nodes write their sessions only after a question, so the list is never out of date. A question
//! goes to all nodes, and each node answers with one page of rows. The asking node waits for a
//! short time, and reports the nodes that did not answer. Rows, bytes and concurrent questions are
//! limited.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout_at;

use super::{Fleet, Node, Notice};
use crate::base::clock::{Now, UnixMillis};
use crate::model::request_id::HexId;
use crate::model::store_fault::StoreFault;
use crate::session::filter::SessionFilter;

/// The most questions that a node asks, and the most that it answers, at the same time.
pub(super) const AT_ONCE: usize = 8;
/// How long the asking node waits for answers.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The age from which a question is ignored: its node has stopped waiting. Includes a second for
/// clocks that differ.
const OLD: Duration = Duration::from_secs(4);
/// The largest answer of one node.
const ANSWER_BYTES: usize = 1 << 20;
/// The most bytes that are read of all answers.
const MOST_BYTES: usize = 8 << 20;
/// The most rows of one answer, even if more are requested.
const MOST_ROWS: usize = 10_000;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SessionsQuestion {
    id: String,
    /// The node that asks.
    from: String,
    at: u64,
    #[serde(flatten)]
    filter: SessionFilter,
}

#[derive(Debug, Serialize, Deserialize)]
struct SessionsAnswer {
    node: String,
    total: usize,
    /// The rows as their node writes them: another version may have more columns.
    sessions: Vec<Value>,
}

/// The known sessions of all nodes.
#[derive(Debug)]
pub struct Gathered {
    pub whole: Completeness,
    pub total: usize,
    /// The oldest first. Each row has the name of its `node`.
    pub sessions: Vec<Value>,
    pub nodes: Vec<NodeAnswer>,
}

/// Whether the list has the sessions of all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    Complete,
    /// At least one node did not answer.
    Partial,
    /// The store does not answer: the list has only the sessions of this node.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeAnswer {
    pub node: String,
    pub id: String,
    pub answered: bool,
    /// The number of its sessions, including those that are not listed.
    pub sessions: Option<usize>,
}

impl Completeness {
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "whole",
            Self::Partial => "partial",
            Self::Unknown => "unknown",
        }
    }
}

impl Fleet {
    /// Asks all nodes. `None`: too many questions are under way.
    pub async fn sessions(&self, filter: &SessionFilter) -> Option<Gathered> {
        let _place = self.asking.try_acquire().ok()?;
        let mut answers = vec![self.own(filter, usize::MAX)];
        let Some(mut nodes) = self.announce().await else {
            return Some(gathered(
                Completeness::Unknown,
                std::slice::from_ref(&self.node),
                answers,
                filter.limit,
            ));
        };
        if !nodes.contains(&self.node) {
            nodes.push(self.node.clone());
        }
        let whole = match self.ask(filter, &nodes, &mut answers).await {
            Ok(()) if answers.len() == nodes.len() => Completeness::Complete,
            Ok(()) => Completeness::Partial,
            Err(_) => Completeness::Unknown,
        };
        Some(gathered(whole, &nodes, answers, filter.limit))
    }

    async fn ask(
        &self,
        filter: &SessionFilter,
        nodes: &[Node],
        answers: &mut Vec<SessionsAnswer>,
    ) -> Result<(), StoreFault> {
        if nodes.len() < 2 {
            return Ok(());
        }
        let id = HexId::random().as_str().to_owned();
        let mut line = Box::pin(self.roster.answers(&id)).await?;
        let question = SessionsQuestion {
            id,
            from: self.node.id.clone(),
            at: Now::read().wall.0,
            filter: filter.clone(),
        };
        let notice =
            serde_json::to_string(&Notice::Question(question)).map_err(|_| StoreFault::Other)?;
        self.roster.notify(&[notice]).await?;
        let (deadline, mut bytes) = (Now::read().mono + PATIENCE, 0);
        while answers.len() < nodes.len() && bytes < MOST_BYTES {
            let Ok(next) = timeout_at(deadline, line.next()).await else { break };
            let Some(text) = next? else { continue };
            bytes += text.len();
            let Ok(answer) = serde_json::from_slice::<SessionsAnswer>(&text) else { continue };
            let is_asked = nodes.iter().any(|node| node.id == answer.node);
            if is_asked && answers.iter().all(|other| other.node != answer.node) {
                answers.push(answer);
            }
        }
        Ok(())
    }

    pub(super) fn receive_question(self: &Arc<Self>, question: SessionsQuestion) {
        let age = Now::read().wall.since(UnixMillis(question.at));
        if question.from == self.node.id || age > OLD {
            return;
        }
        // Over the limit, the question is dropped: the asking node reports that this one did not
        // answer.
        let Ok(place) = Arc::clone(&self.answering).try_acquire_owned() else { return };
        let fleet = Arc::clone(self);
        tokio::spawn(async move {
            if let Ok(text) = serde_json::to_string(&fleet.own(&question.filter, ANSWER_BYTES)) {
                let _ = fleet.roster.answer(&question.id, &text).await;
            }
            drop(place);
        });
    }

    fn own(&self, filter: &SessionFilter, most_bytes: usize) -> SessionsAnswer {
        let (total, rows) =
            self.registry.snapshot(filter.limit.min(MOST_ROWS), |handle| filter.holds(handle));
        let mut bytes = 0;
        let rows = rows.iter().filter_map(|row| serde_json::to_value(row).ok());
        let sessions = rows.take_while(|row| {
            bytes += row.to_string().len();
            bytes <= most_bytes
        });
        SessionsAnswer { node: self.node.id.clone(), total, sessions: sessions.collect() }
    }
}

fn gathered(
    whole: Completeness,
    nodes: &[Node],
    answers: Vec<SessionsAnswer>,
    limit: usize,
) -> Gathered {
    let asked = |node: &Node| {
        let total = answers.iter().find(|answer| answer.node == node.id).map(|answer| answer.total);
        NodeAnswer {
            node: node.label(nodes),
            id: node.id.clone(),
            answered: total.is_some(),
            sessions: total,
        }
    };
    let asked: Vec<NodeAnswer> = nodes.iter().map(asked).collect();
    let total = answers.iter().map(|answer| answer.total).sum();
    let mut sessions = Vec::new();
    for answer in answers {
        let label = asked.iter().find(|node| node.id == answer.node).map(|node| node.node.clone());
        sessions.extend(answer.sessions.into_iter().filter_map(|mut row| {
            row.as_object_mut()?.insert("node".to_owned(), label.clone().into());
            Some(row)
        }));
    }
    let since =
        |row: &Value| row.get("since").and_then(Value::as_str).unwrap_or_default().to_owned();
    sessions.sort_by_cached_key(since);
    sessions.truncate(limit);
    Gathered { whole, total, sessions, nodes: asked }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_of_all_nodes_are_one_list_with_the_oldest_first() {
        let node = |id: &str| Node { id: id.to_owned(), name: format!("node-{id}") };
        let answer = |node: &str, since: &[&str]| SessionsAnswer {
            node: node.to_owned(),
            total: 5,
            sessions: since.iter().map(|since| json!({ "since": since })).collect(),
        };
        let answers = vec![
            answer("a", &["2026-01-02", "2026-01-04"]),
            answer("b", &["2026-01-01", "2026-01-03"]),
        ];
        let found = gathered(Completeness::Partial, &[node("a"), node("b"), node("c")], answers, 3);
        let rows: Vec<_> = found
            .sessions
            .iter()
            .map(|row| (row["since"].as_str().unwrap(), row["node"].as_str().unwrap()))
            .collect();
        assert_eq!(
            rows,
            [("2026-01-01", "node-b"), ("2026-01-02", "node-a"), ("2026-01-03", "node-b")]
        );
        assert_eq!(found.total, 10);
        assert_eq!(
            found.nodes.iter().map(|node| (node.answered, node.sessions)).collect::<Vec<_>>()[1..],
            [(true, Some(5)), (false, None)]
        );
    }

    #[test]
    fn a_question_is_one_flat_object() {
        let filter =
            SessionFilter { limit: 7, user: Some("ada".into()), route: None, method: None };
        let question = SessionsQuestion { id: "q".into(), from: "n".into(), at: 1, filter };
        let text = serde_json::to_string(&Notice::Question(question)).unwrap();
        assert_eq!(text, r#"{"question":{"id":"q","from":"n","at":1,"limit":7,"user":"ada"}}"#);
        let Ok(Notice::Question(question)) = serde_json::from_str(&text) else { panic!("{text}") };
        assert_eq!(question.filter.limit, 7);
    }
}
