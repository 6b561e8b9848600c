//! The third oracle: compares the audit logs of all nodes with what their clients recorded.
//!
//! It reads the lines of the logs, the record of the clients and the outages of the store, and
//! nothing else of Usher. All nodes run on one machine, so one clock made the times of all lines.
//! Deadlines are judged by these times alone.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use usher::base::clock::UnixMillis;

/// The input of the auditor. A node is an index into `logs`.
#[derive(Clone, Default)]
pub struct Case {
    pub logs: Vec<Vec<Value>>,
    /// When the store was away, from and to in Unix milliseconds, in order.
    pub outages: Vec<(u64, u64)>,
    pub record: Record,
}

/// The record of the clients and of the operator.
#[derive(Clone, Default)]
pub struct Record {
    pub entries: Vec<Entry>,
    pub orders: Vec<Order>,
}

/// An attempt to connect.
#[derive(Clone)]
pub struct Entry {
    pub node: usize,
    pub token: Token,
    /// The name of the ticket in audit logs, if the client sent one in place of the token.
    pub ticket: Option<String>,
    /// Before the request went out.
    pub asked_at: u64,
    /// The answer was a 101.
    pub let_in: bool,
}

/// The identity of a client that sends this token, or a ticket made from it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    pub user: String,
    pub token_id: String,
    pub session: String,
    pub issued_at: u64,
}

/// An order to a node, and the time of its answer.
#[derive(Clone)]
pub struct Order {
    pub id: String,
    pub node: usize,
    pub answered_at: u64,
}

/// Limits in milliseconds.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// From an order to the end of its sessions on the node that got it, and until it is in force
    /// on the other nodes.
    pub calm: u64,
    /// The same from the return of the store, for an order that was given while the store was away
    /// or not yet found again.
    pub recovery: u64,
    /// The time that the machine may add to either.
    pub slack: u64,
}

/// The complaints, and the measured times in milliseconds.
#[derive(Debug, Default)]
pub struct Findings {
    pub complaints: Vec<String>,
    /// From the line of the order to the end of a session on the same node.
    pub closed_after: Vec<u64>,
    /// From the order to its line on another node, while the store is there.
    pub heard_after: Vec<u64>,
    /// The same from the return of the store, for an order that had to wait for it.
    pub heard_after_return: Vec<u64>,
}

/// A line `revoked`.
#[derive(Clone, Debug)]
struct Revoked {
    order: String,
    at: u64,
    ordered_at: u64,
    issuer: Option<String>,
    what: What,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    User(String),
    Session(String),
    TokenId(String),
    IssuedBefore(u64, Option<String>),
}

struct Session {
    id: String,
    request_id: String,
    by_ticket: bool,
    issuer: Option<String>,
    token: Token,
    started: u64,
    ended: Option<u64>,
}

pub fn judge(case: &Case, bounds: Bounds) -> Findings {
    let mut findings = Findings::default();
    let sessions: Vec<Vec<Session>> = case.logs.iter().map(|log| sessions(log)).collect();
    let revoked: Vec<Vec<Revoked>> = case
        .logs
        .iter()
        .map(|log| {
            log.iter().filter(|line| line["event"] == "revoked").map(Revoked::read).collect()
        })
        .collect();
    tickets(case, &sessions, &mut findings);
    admissions(case, &sessions, &mut findings);
    revoked_admissions(case, &revoked, &mut findings);
    answers(case, &revoked, &mut findings);
    reach(case, &revoked, bounds, &mut findings);
    for (node, (sessions, revoked)) in sessions.iter().zip(&revoked).enumerate() {
        lives(node, sessions, revoked, bounds, &mut findings);
    }
    findings
}

/// Checks that a ticket is issued, is redeemed at most once over all nodes, and lets in one client.
fn tickets(case: &Case, sessions: &[Vec<Session>], findings: &mut Findings) {
    let mut issued: HashMap<String, String> = HashMap::new();
    let mut redeemed: BTreeMap<String, Vec<(usize, String, String)>> = BTreeMap::new();
    for (node, log) in case.logs.iter().enumerate() {
        for line in log {
            let (ticket, user) = (text(line, "ticket"), text(line, "user"));
            if line["event"] == "ticket_issued" {
                issued.insert(ticket, user);
            } else if line["event"] == "ticket_redeemed" {
                redeemed.entry(ticket).or_default().push((node, text(line, "request_id"), user));
            }
        }
    }
    for (ticket, times) in &redeemed {
        if times.len() > 1 {
            findings.complain(format!("ticket {ticket} was redeemed {} times", times.len()));
        }
        if times.iter().any(|(_, _, user)| issued.get(ticket) != Some(user)) {
            findings.complain(format!(
                "ticket {ticket} was redeemed by a user that it was not issued to"
            ));
        }
    }
    for (node, sessions) in sessions.iter().enumerate() {
        for session in sessions.iter().filter(|session| session.by_ticket) {
            let redemption = (node, session.request_id.clone(), session.token.user.clone());
            if redeemed.values().flatten().filter(|one| **one == redemption).count() != 1 {
                findings.complain(format!(
                    "session {} of {} began without a ticket",
                    session.id, session.token.user
                ));
            }
        }
    }
    let mut wins: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in case.record.entries.iter().filter(|entry| entry.let_in) {
        let Some(ticket) = entry.ticket.as_deref() else { continue };
        *wins.entry(ticket).or_default() += 1;
        let is_known = redeemed.get(ticket).into_iter().flatten().any(|(node, request_id, _)| {
            *node == entry.node
                && sessions[*node].iter().any(|session| session.request_id == *request_id)
        });
        if !is_known {
            findings.complain(format!(
                "ticket {ticket} let in {}, which the log does not show",
                entry.token.user
            ));
        }
    }
    for (ticket, times) in wins.into_iter().filter(|(_, times)| *times > 1) {
        findings.complain(format!("ticket {ticket} let in {times} clients"));
    }
}

/// Checks that each session belongs to a recorded attempt, and each recorded success to a session.
fn admissions(case: &Case, sessions: &[Vec<Session>], findings: &mut Findings) {
    type Key<'a> = (usize, bool, &'a str, &'a str);
    let entries = &case.record.entries;
    let key_of = |entry: &'_ Entry| (entry.node, entry.ticket.is_some());
    let asked: HashSet<Key<'_>> = entries
        .iter()
        .map(|entry| {
            let (node, by_ticket) = key_of(entry);
            (node, by_ticket, entry.token.user.as_str(), entry.token.token_id.as_str())
        })
        .collect();
    let mut begun: HashMap<Key<'_>, usize> = HashMap::new();
    for (node, sessions) in sessions.iter().enumerate() {
        for session in sessions {
            let key: Key<'_> =
                (node, session.by_ticket, &session.token.user, &session.token.token_id);
            *begun.entry(key).or_default() += 1;
            if !asked.contains(&key) {
                findings.complain(format!(
                    "session {} of {:?} belongs to no recorded client",
                    session.id, session.token
                ));
            }
        }
    }
    for entry in entries.iter().filter(|entry| entry.let_in) {
        let key: Key<'_> =
            (entry.node, entry.ticket.is_some(), &entry.token.user, &entry.token.token_id);
        match begun.get_mut(&key) {
            Some(left @ 1..) => *left -= 1,
            _ => findings.complain(format!(
                "{} connected at node {}, which the log does not show",
                entry.token.user, entry.node
            )),
        }
    }
}

/// Checks that no client gets in if it asked after an order was in force on that node.
fn revoked_admissions(case: &Case, revoked: &[Vec<Revoked>], findings: &mut Findings) {
    for entry in case.record.entries.iter().filter(|entry| entry.let_in) {
        let told = revoked[entry.node]
            .iter()
            .find(|order| order.at < entry.asked_at && order.concerns_token(&entry.token));
        if let Some(order) = told {
            let late = entry.asked_at - order.at;
            findings.complain(format!(
                "{:?} was let in at node {} {late} ms after {order:?}",
                entry.token, entry.node
            ));
        }
    }
}

/// Checks that an answered order is in force where it was given, and that each order in force was
/// given.
fn answers(case: &Case, revoked: &[Vec<Revoked>], findings: &mut Findings) {
    for given in &case.record.orders {
        let line = revoked[given.node].iter().find(|line| line.order == given.id);
        if line.is_none_or(|line| line.at > given.answered_at) {
            findings.complain(format!("order {} was answered before it was in force", given.id));
        }
    }
    let given: HashSet<&str> = case.record.orders.iter().map(|order| order.id.as_str()).collect();
    for line in revoked.iter().flatten().filter(|line| !given.contains(line.order.as_str())) {
        findings.complain(format!("the order was not given: {line:?}"));
    }
}

/// Checks that each order is in force on each other node by its deadline.
fn reach(case: &Case, revoked: &[Vec<Revoked>], bounds: Bounds, findings: &mut Findings) {
    for given in &case.record.orders {
        let Some(order) = revoked[given.node].iter().find(|line| line.order == given.id) else {
            continue;
        };
        let (mut deadline, mut counted_from, mut is_calm) =
            (order.ordered_at + bounds.calm, order.ordered_at, true);
        for (away, back) in &case.outages {
            // A store that died before it could pass the order on counts as away.
            if *away <= deadline + bounds.slack && order.ordered_at <= back + bounds.recovery {
                (deadline, is_calm) = (deadline.max(back + bounds.recovery + bounds.calm), false);
                counted_from = counted_from.max(*back);
            }
        }
        for (node, lines) in revoked.iter().enumerate().filter(|(node, _)| *node != given.node) {
            let heard = lines.iter().filter(|line| line.covers(order)).map(|line| line.at).min();
            match heard {
                None => findings.complain(format!("node {node} never got {order:?}")),
                Some(at) if at > deadline + bounds.slack => {
                    findings.complain(format!(
                        "node {node} was {} ms too late with {order:?}",
                        at - deadline
                    ));
                }
                Some(at) if is_calm => {
                    findings.heard_after.push(at.saturating_sub(order.ordered_at));
                }
                Some(at) => findings.heard_after_return.push(at.saturating_sub(counted_from)),
            }
        }
    }
}

/// Checks that an order in force on a node ends its sessions there.
fn lives(
    node: usize,
    sessions: &[Session],
    revoked: &[Revoked],
    bounds: Bounds,
    findings: &mut Findings,
) {
    for session in sessions {
        for order in revoked.iter().filter(|order| order.concerns(session)) {
            let due = order.at.max(session.started);
            match session.ended {
                None => findings
                    .complain(format!("node {node}: session {} outlived {order:?}", session.id)),
                Some(at) if at > due + bounds.calm + bounds.slack => {
                    findings.complain(format!(
                        "node {node}: session {} lived for {} ms after {order:?}",
                        session.id,
                        at - due
                    ));
                }
                Some(at) if at >= due => findings.closed_after.push(at - due),
                Some(_) => {}
            }
        }
    }
}

impl Findings {
    fn complain(&mut self, complaint: String) {
        self.complaints.push(complaint);
    }

    /// Returns the median and the maximum of each time.
    pub fn figures(&mut self) -> String {
        let mut told = String::new();
        let all = [
            ("order to session's end, same node", &mut self.closed_after),
            ("order to other node", &mut self.heard_after),
            ("store's return to other node", &mut self.heard_after_return),
        ];
        for (what, times) in all {
            times.sort_unstable();
            let (median, worst) = (
                times.get(times.len() / 2).copied().unwrap_or(0),
                times.last().copied().unwrap_or(0),
            );
            told +=
                &format!("{what}: {} times, median {median} ms, worst {worst} ms\n", times.len());
        }
        told
    }
}

impl Revoked {
    fn read(line: &Value) -> Self {
        let named = |field: &str| line[field].as_str().map(str::to_owned);
        let what =
            match (named("user"), named("session_id"), named("token_id"), named("issued_before")) {
                (user, None, None, Some(before)) => What::IssuedBefore(millis(&before), user),
                (Some(user), None, None, None) => What::User(user),
                (None, Some(session), None, None) => What::Session(session),
                (None, None, Some(token), None) => What::TokenId(token),
                _ => panic!("an order of no known kind: {line}"),
            };
        Self {
            order: text(line, "order"),
            at: time(line, "time"),
            ordered_at: time(line, "ordered_at"),
            issuer: named("issuer"),
            what,
        }
    }

    /// Returns true if this order includes the other: of two orders about the same, the later
    /// moment counts.
    fn covers(&self, other: &Self) -> bool {
        self.issuer == other.issuer
            && match (&self.what, &other.what) {
                (What::IssuedBefore(ours, user), What::IssuedBefore(theirs, other)) => {
                    user == other && ours >= theirs
                }
                (ours, theirs) => ours == theirs,
            }
    }

    fn concerns_token(&self, token: &Token) -> bool {
        match &self.what {
            What::User(user) => *user == token.user,
            What::Session(session) => *session == token.session,
            What::TokenId(id) => *id == token.token_id,
            What::IssuedBefore(before, user) => {
                token.issued_at < *before && user.as_ref().is_none_or(|user| *user == token.user)
            }
        }
    }

    fn concerns(&self, session: &Session) -> bool {
        let is_this = matches!(&self.what, What::Session(id) if *id == session.id);
        let is_theirs = self.issuer.is_none() || self.issuer == session.issuer;
        is_this || (is_theirs && self.concerns_token(&session.token))
    }
}

fn sessions(log: &[Value]) -> Vec<Session> {
    let ended: HashMap<String, u64> = log
        .iter()
        .filter(|line| line["event"] == "session_ended")
        .map(|line| (text(line, "session_id"), time(line, "time")))
        .collect();
    let started = log.iter().filter(|line| line["event"] == "session_started");
    let read = |line: &Value| Session {
        id: text(line, "session_id"),
        request_id: text(line, "request_id"),
        by_ticket: line["method"] == "ticket",
        issuer: line["issuer"].as_str().map(str::to_owned),
        token: Token {
            user: text(line, "user"),
            token_id: text(line, "token_id"),
            session: text(line, "token_session"),
            issued_at: time(line, "token_issued_at"),
        },
        started: time(line, "time"),
        ended: ended.get(&text(line, "session_id")).copied(),
    };
    started.map(read).collect()
}

/// Returns an empty text if the line has no such field.
fn text(line: &Value, field: &str) -> String {
    line[field].as_str().unwrap_or_default().to_owned()
}

fn time(line: &Value, field: &str) -> u64 {
    millis(line[field].as_str().unwrap_or_else(|| panic!("{field} is missing in {line}")))
}

fn millis(text: &str) -> u64 {
    UnixMillis::from_rfc3339(text).unwrap_or_else(|| panic!("not a time: {text}")).0
}

mod tests {
    use super::*;
    use serde_json::json;

    const BOUNDS: Bounds = Bounds { calm: 200, recovery: 4_000, slack: 100 };
    /// The time at which the record begins.
    const T: u64 = 1_800_000_000_000;

    fn at(offset: u64) -> String {
        UnixMillis(T + offset).to_rfc3339()
    }

    fn token() -> Token {
        Token { user: "ada".into(), token_id: "t1".into(), session: "login".into(), issued_at: T }
    }

    fn started(offset: u64, request_id: &str, method: &str) -> Value {
        json!({
            "event": "session_started",
            "time": at(offset),
            "session_id": format!("s-{request_id}"),
            "request_id": request_id,
            "method": method,
            "user": "ada",
            "issuer": "main",
            "token_id": "t1",
            "token_session": "login",
            "token_issued_at": at(0),
        })
    }

    fn ended(offset: u64, request_id: &str) -> Value {
        json!({
            "event": "session_ended",
            "time": at(offset),
            "session_id": format!("s-{request_id}"),
            "request_id": request_id,
        })
    }

    fn ticket(event: &str, request_id: &str) -> Value {
        json!({
            "event": event,
            "time": at(1),
            "ticket": "x",
            "user": "ada",
            "request_id": request_id,
        })
    }

    fn revoked(offset: u64) -> Value {
        json!({
            "event": "revoked",
            "time": at(offset),
            "order": "o1",
            "ordered_at": at(1_000),
            "user": "ada",
        })
    }

    fn entry(node: usize, asked_at: u64, ticket: Option<&str>) -> Entry {
        Entry {
            node,
            token: token(),
            ticket: ticket.map(str::to_owned),
            asked_at: T + asked_at,
            let_in: true,
        }
    }

    /// Returns a case without faults: one session by ticket at the first node and one by token at
    /// the second. After a second, ada is revoked at the first.
    fn sound() -> Case {
        let first = vec![
            ticket("ticket_issued", "r0"),
            ticket("ticket_redeemed", "r1"),
            started(2, "r1", "ticket"),
            revoked(1_000),
            ended(1_010, "r1"),
        ];
        let second = vec![started(3, "r2", "header"), revoked(1_020), ended(1_030, "r2")];
        let entries = vec![entry(0, 1, Some("x")), entry(1, 2, None)];
        let orders = vec![Order { id: "o1".into(), node: 0, answered_at: T + 1_001 }];
        Case { logs: vec![first, second], outages: Vec::new(), record: Record { entries, orders } }
    }

    fn complains(case: &Case, about: &str) {
        let complaints = judge(case, BOUNDS).complaints;
        assert!(
            complaints.iter().any(|complaint| complaint.contains(about)),
            "{about}: {complaints:?}"
        );
    }

    fn replace(case: &mut Case, node: usize, event: &str, by: &[Value]) {
        let log = &mut case.logs[node];
        let place = log.iter().position(|line| line["event"] == event).unwrap();
        log.splice(place..=place, by.iter().cloned());
    }

    #[test]
    fn the_auditor_has_nothing_against_a_sound_log() {
        let mut findings = judge(&sound(), BOUNDS);
        assert_eq!(findings.complaints, Vec::<String>::new());
        assert_eq!((&findings.closed_after, &findings.heard_after), (&vec![10, 10], &vec![20]));
        assert!(findings.figures().contains("order to other node: 1 times, median 20 ms"));
    }

    #[test]
    fn the_auditor_notices_a_ticket_that_is_redeemed_twice() {
        let mut case = sound();
        case.logs[1].push(ticket("ticket_redeemed", "r9"));
        complains(&case, "redeemed 2 times");
        let mut case = sound();
        case.record.entries.push(entry(1, 1, Some("x")));
        complains(&case, "let in 2 clients");
    }

    #[test]
    fn the_auditor_notices_who_came_in_without_a_ticket_of_theirs() {
        let mut case = sound();
        replace(&mut case, 0, "ticket_redeemed", &[]);
        complains(&case, "began without a ticket");
        complains(&case, "let in ada, which the log does not show");
        let mut case = sound();
        replace(&mut case, 0, "ticket_issued", &[]);
        complains(&case, "it was not issued to");
        let mut case = sound();
        case.logs[0][0]["user"] = "bob".into();
        complains(&case, "it was not issued to");
    }

    #[test]
    fn the_auditor_notices_sessions_that_nobody_asked_for_and_clients_that_no_log_knows() {
        let mut case = sound();
        case.logs[1][0]["token_id"] = "t2".into();
        complains(&case, "belongs to no recorded client");
        complains(&case, "ada connected at node 1, which the log does not show");
        let mut case = sound();
        case.logs[1].push(started(4, "r3", "header"));
        case.logs[1][0]["user"] = Value::Null;
        complains(&case, "belongs to no recorded client");
    }

    #[test]
    fn the_auditor_notices_a_session_that_outlives_its_order() {
        for (node, request_id) in [(0, "r1"), (1, "r2")] {
            let mut case = sound();
            replace(&mut case, node, "session_ended", &[]);
            complains(&case, "outlived");
            let mut case = sound();
            replace(&mut case, node, "session_ended", &[ended(1_400, request_id)]);
            complains(&case, "lived for");
        }
        // A session that began after the order and was not ended.
        let mut case = sound();
        case.logs[1].push(started(1_025, "r4", "header"));
        complains(&case, "s-r4 outlived");
    }

    #[test]
    fn the_auditor_notices_an_outlived_order_of_every_kind() {
        let orders = [
            json!({"user": null, "session_id": "s-r1"}),
            json!({"user": null, "session_id": "login"}),
            json!({"user": null, "token_id": "t1"}),
            json!({"user": null, "issued_before": at(1)}),
            json!({"issued_before": at(1)}),
            json!({"issuer": "main"}),
        ];
        for fields in orders {
            let mut case = sound();
            replace(&mut case, 0, "session_ended", &[]);
            let line = case.logs[0].iter_mut().find(|line| line["event"] == "revoked").unwrap();
            fields.as_object().unwrap().iter().for_each(|(name, value)| line[name] = value.clone());
            complains(&case, "s-r1 outlived");
        }
        for fields in
            [json!({"issuer": "other"}), json!({"issued_before": at(0)}), json!({"user": "bob"})]
        {
            let mut case = sound();
            replace(&mut case, 0, "session_ended", &[]);
            let line = case.logs[0].iter_mut().find(|line| line["event"] == "revoked").unwrap();
            fields.as_object().unwrap().iter().for_each(|(name, value)| line[name] = value.clone());
            assert!(
                !judge(&case, BOUNDS)
                    .complaints
                    .iter()
                    .any(|complaint| complaint.contains("s-r1 outlived")),
                "{fields}"
            );
        }
    }

    #[test]
    fn the_auditor_notices_who_is_let_in_after_the_node_was_told() {
        for node in [0, 1] {
            let mut case = sound();
            case.logs[node].extend([started(1_050, "r5", "header"), ended(1_060, "r5")]);
            case.record.entries.push(entry(node, 1_040, None));
            complains(&case, &format!("was let in at node {node}"));
        }
        let mut case = sound();
        case.logs[1].extend([started(1_021, "r5", "header"), ended(1_022, "r5")]);
        case.record.entries.push(entry(1, 1_015, None));
        assert_eq!(
            judge(&case, BOUNDS).complaints,
            Vec::<String>::new(),
            "a client that asked before may get in"
        );
    }

    #[test]
    fn the_auditor_notices_an_order_that_does_not_reach_the_other_node_in_time() {
        let mut case = sound();
        replace(&mut case, 1, "revoked", &[]);
        complains(&case, "never got");
        replace(&mut case, 1, "session_ended", &[revoked(1_301), ended(1_310, "r2")]);
        complains(&case, "too late");
        // If the store is away, the deadline counts from its return.
        case.outages.push((T + 900, T + 1_200));
        assert_eq!(judge(&case, BOUNDS).complaints, Vec::<String>::new());
        assert_eq!(judge(&case, BOUNDS).heard_after_return, [101]);
        replace(&mut case, 1, "revoked", &[revoked(5_501)]);
        replace(&mut case, 1, "session_ended", &[ended(5_510, "r2")]);
        complains(&case, "too late");
        case.outages = vec![(T, T + 100), (T + 90_000, T + 91_000)];
        replace(&mut case, 1, "revoked", &[revoked(9_000)]);
        complains(&case, "too late");
    }

    #[test]
    fn the_auditor_notices_an_answer_before_its_time_and_an_order_from_nowhere() {
        let mut case = sound();
        case.record.orders[0].answered_at = T + 999;
        complains(&case, "answered before");
        case.record.orders.clear();
        complains(&case, "the order was not given");
    }
}
