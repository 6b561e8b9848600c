//! The decisions of one node, without an authority.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::config::parse;
use crate::model::request_id::HexId;
use crate::net::tls::self_signed::self_signed;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);

struct Node {
    acme: Arc<Acme>,
    state_dir: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.state_dir);
    }
}

fn node() -> Node {
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\nacme = true\n\
                [acme]\ndomains = [\"a.example.com\"]\nterms_agreed = true\n\
                [[upstream]]\nname = \"a\"\nservers = [\"http://a\"]\n\
                [[route]]\npath = \"/\"\nupstream = \"a\"\nauth = []\n";
    let config = parse(text, None, &|_: &str| None).unwrap().config;
    let state_dir = std::env::temp_dir().join(format!("usher-acme-{}", HexId::random().as_str()));
    let acme = Acme::open(&config.acme.unwrap(), &config.store, &state_dir, None).unwrap();
    Node { acme, state_dir }
}

/// Returns the stored value of a certificate for some days from yesterday.
fn record(days: i64, received: UnixMillis) -> Vec<u8> {
    let names = ["a.example.com".to_owned()];
    let pair = self_signed(&names, "a", days, Now::read()).unwrap();
    let record = CertificateRecord { received: received.0, chain: pair.certificate, key: pair.key };
    serde_json::to_vec(&record).unwrap()
}

#[test]
fn a_reload_ends_the_pause_after_an_earlier_failure_but_not_that_of_the_authority() {
    let failed = |retry, wish| HeldCertificate {
        status: StatusRecord {
            failures: 1,
            failed: NOW.0,
            retry: (NOW + retry).0,
            wish,
            ..StatusRecord::default()
        },
        ..HeldCertificate::default()
    };
    let (before, at, after) = (NOW.0 - 1, NOW.0, NOW.0 + 1);
    let held = failed(MINUTE, 0);
    assert_eq!(
        [0, before, at, after].map(|wanted| held.may_try(wanted, NOW)),
        [false, false, false, true]
    );
    assert!(held.may_try(0, NOW + MINUTE));
    let wished = failed(MINUTE, (NOW + MINUTE).0);
    assert!(!wished.may_try(after, NOW) && wished.may_try(0, NOW + MINUTE));
    // A clock that was ahead has stored it.
    assert!(failed(schedule::LONGEST_WISH * 2, 0).may_try(0, NOW));
    // A failure that could not be stored holds on this node.
    let own = HeldCertificate { own: held.status, ..HeldCertificate::default() };
    assert!(!own.may_try(0, NOW) && own.may_try(after, NOW) && own.may_try(0, NOW + MINUTE));
    assert!(HeldCertificate::default().may_try(0, NOW));
}

#[test]
fn a_record_of_an_earlier_version_is_read() {
    let text = r#"{"certificate":null,"failures":2,"retry":7,"fault":null,"detail":null}"#;
    let status: StatusRecord = serde_json::from_str(text).unwrap();
    assert_eq!((status.failures, status.retry, status.failed, status.wish), (2, 7, 0, 0));
}

#[tokio::test]
async fn a_certificate_that_ends_earlier_replaces_another_only_if_it_is_newer() {
    let node = node();
    let now = Now::read().wall;
    let lock = node.acme.keeper.try_lock().await.unwrap().unwrap();
    let store = async |bytes: &[u8]| {
        node.acme.keeper.write(&lock, Slot::Certificate, bytes, None).await.unwrap();
        node.acme.write_status(&lock, success(bytes)).await.unwrap();
        node.acme.look(CertificateOrigin::OtherNode).await;
        lock_of(&node.acme.held).fingerprint == Some(fingerprint(bytes))
    };
    let later = |by| now + MINUTE * by;
    assert!(store(&record(30, now)).await, "there is none");
    assert!(store(&record(90, now)).await, "it ends later");
    let outdated = record(60, now);
    assert!(!store(&outdated).await, "a store that was set back");
    assert!(node.acme.may_order(Now::read()), "the better one is written again");
    lock_of(&node.acme.held).own.failures = 1;
    node.acme.order_or_restore(&lock).await.unwrap();
    assert_eq!(node.acme.figures(now).failures, 0);
    let [stored] = node.acme.keeper.read([Slot::Certificate]).await.unwrap();
    assert_ne!(stored, Some(outdated));
    assert!(!node.acme.may_order(Now::read()));
    assert!(!store(&record(1, later(1))).await, "it is expired");
    assert!(store(&record(6, later(1))).await, "the authority shortens the life");
}

#[tokio::test]
async fn a_lock_that_cannot_be_taken_is_reported_and_begins_a_pause() {
    let node = node();
    drop(node.acme.keeper.try_lock().await.unwrap().unwrap());
    let folder = fs::read_dir(node.state_dir.join("acme")).unwrap().next().unwrap().unwrap();
    let file = folder.path().join("lock");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    for failures in 1..=2 {
        node.acme.order_with_lock().await;
        node.acme.look(CertificateOrigin::OtherNode).await;
        assert!(!node.acme.may_order(Now::read()));
        let figures = node.acme.figures(Now::read().wall);
        assert_eq!((figures.failures, figures.fault.as_deref()), (failures, Some("state")));
        assert!(figures.detail.unwrap().contains("lock") && figures.retry.is_some());
    }
    let [status] = node.acme.keeper.read([Slot::Status]).await.unwrap();
    assert_eq!(status, None, "other nodes go on");
}
