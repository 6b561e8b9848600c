//! The oracle of ends: each upgrade has exactly one end in the audit log of its Usher.
//!
//! A log does not show what it leaves out. So the clients of the tests record the request id of
//! every answer to an upgrade, and each of these ids needs an end.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Mutex;

use serde_json::Value;
use tokio::io::Join;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// Request ids of answered upgrades, by the server that answered.
static ANSWERED: Mutex<BTreeMap<SocketAddr, Vec<String>>> = Mutex::new(BTreeMap::new());

/// A stream of a client that may lead to a listener of Usher.
pub trait Peer {
    /// Returns the address of the other side, if it has one.
    fn peer(&self) -> Option<SocketAddr>;
}

impl Peer for TcpStream {
    fn peer(&self) -> Option<SocketAddr> {
        self.peer_addr().ok()
    }
}

impl Peer for TlsStream<TcpStream> {
    fn peer(&self) -> Option<SocketAddr> {
        self.get_ref().0.peer()
    }
}

impl<R, W> Peer for Join<R, W> {
    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

impl Peer for UnixStream {
    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

/// Records that an upgrade was answered under this request id.
pub fn note(server: Option<SocketAddr>, request_id: Option<&str>) {
    if let (Some(server), Some(request_id)) = (server, request_id) {
        ANSWERED.lock().unwrap().entry(server).or_default().push(request_id.to_owned());
    }
}

/// Records a response head if it switches protocols. Any other head may answer plain HTTP.
pub fn note_switch(server: Option<SocketAddr>, head: &str) {
    if head.starts_with("HTTP/1.1 101 ") {
        note(server, request_id_of(head));
    }
}

/// Returns the value of `x-request-id` in a response head.
pub fn request_id_of(head: &str) -> Option<&str> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-request-id").then(|| value.trim())
    })
}

/// Removes and returns the request ids that these servers answered upgrades with.
pub fn take(servers: &[SocketAddr]) -> Vec<String> {
    let mut answered = ANSWERED.lock().unwrap();
    servers.iter().filter_map(|server| answered.remove(server)).flatten().collect()
}

/// Returns the request ids of these events.
fn ids<'a>(audit: &'a [Value], events: &[&str]) -> Vec<&'a str> {
    audit
        .iter()
        .filter(|line| events.iter().any(|event| line["event"] == *event))
        .map(|line| line["request_id"].as_str().unwrap())
        .collect()
}

/// Returns the request ids of upgrades without an end.
pub fn without_end(audit: &[Value], answered: &[String]) -> HashSet<String> {
    // An upgrade with a malformed head is a rejected request.
    let ends = ids(audit, &["session_ended", "upgrade_rejected", "request_rejected"]);
    let ends: HashSet<&str> = ends.into_iter().collect();
    let sessions = ids(audit, &["session_started"]);
    let upgrades = sessions.into_iter().chain(answered.iter().map(String::as_str));
    upgrades.filter(|id| !ends.contains(id)).map(str::to_owned).collect()
}

/// Returns the complaints about the ends of upgrades in this audit log. The upgrades in `lost` were
/// open when a process was killed.
pub fn verdict(audit: &[Value], answered: &[String], lost: &HashSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for id in ids(audit, &["session_ended", "upgrade_rejected"]) {
        *times.entry(id).or_default() += 1;
    }
    for (id, times) in times.into_iter().filter(|(_, times)| *times > 1) {
        complaints.push(format!("upgrade {id} has {times} ends"));
    }
    let started: HashSet<&str> = ids(audit, &["session_started"]).into_iter().collect();
    for id in ids(audit, &["session_ended"]) {
        if !started.contains(id) {
            complaints.push(format!("upgrade {id} ended as a session that never started"));
        }
    }
    let missing: Vec<String> =
        without_end(audit, answered).into_iter().filter(|id| !lost.contains(id)).collect();
    // Under a flood, refusals are summarised and have no lines of their own.
    let summed_up: u64 = audit
        .iter()
        .filter(|line| line["event"] == "refusals_summarised")
        .map(|line| line["count"].as_u64().unwrap())
        .sum();
    if missing.len() as u64 > summed_up {
        complaints.extend(missing.iter().map(|id| format!("upgrade {id} has no end")));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(event: &str, id: &str) -> Value {
        json!({ "event": event, "request_id": id })
    }

    fn complaints(audit: &[Value], answered: &[&str], lost: &[&str]) -> Vec<String> {
        let answered: Vec<String> = answered.iter().map(ToString::to_string).collect();
        verdict(audit, &answered, &lost.iter().map(ToString::to_string).collect())
    }

    fn sound() -> Vec<Value> {
        vec![
            line("session_started", "a"),
            line("session_ended", "a"),
            line("upgrade_rejected", "b"),
            line("request_rejected", "c"),
        ]
    }

    #[test]
    fn the_oracle_of_ends_is_content_with_one_end_for_each_upgrade() {
        assert_eq!(complaints(&sound(), &["a", "b", "c"], &[]), Vec::<String>::new());
    }

    #[test]
    fn the_oracle_of_ends_notices_an_upgrade_without_end() {
        let audit = &sound()[..1];
        assert_eq!(complaints(audit, &["a"], &[]), ["upgrade a has no end"]);
        assert_eq!(complaints(audit, &[], &[]), ["upgrade a has no end"], "from the log alone");
        assert_eq!(complaints(&[], &["b"], &[]), ["upgrade b has no end"], "from the client alone");
        assert_eq!(complaints(audit, &["a"], &["a"]), Vec::<String>::new(), "lost by a kill");
    }

    #[test]
    fn the_oracle_of_ends_notices_two_ends_even_after_a_kill() {
        for second in ["session_ended", "upgrade_rejected"] {
            let mut audit = sound();
            audit.push(line(second, "a"));
            assert_eq!(complaints(&audit, &["a"], &["a"]), ["upgrade a has 2 ends"], "{second}");
        }
        let wanted = ["upgrade a ended as a session that never started"];
        assert_eq!(complaints(&sound()[1..], &[], &[]), wanted);
    }

    #[test]
    fn the_oracle_of_ends_excuses_summarised_refusals() {
        let audit = [json!({ "event": "refusals_summarised", "count": 2 })];
        assert_eq!(complaints(&audit, &["a", "b"], &[]), Vec::<String>::new());
        assert_eq!(complaints(&audit, &["a", "b", "c"], &[]).len(), 3);
    }

    #[test]
    fn the_oracle_of_ends_reads_the_request_id_of_a_switch_alone() {
        let server: SocketAddr = ([127, 0, 0, 1], 1).into();
        note_switch(Some(server), "HTTP/1.1 101 Switching Protocols\r\nX-Request-Id: a\r\n\r\n");
        note_switch(Some(server), "HTTP/1.1 200 OK\r\nx-request-id: b\r\n\r\n");
        assert_eq!(take(&[server]), ["a"]);
        assert_eq!(take(&[server]), Vec::<String>::new(), "they are taken once");
    }
}
