//! Findings over real files.

use std::fs;

use super::certificates::{client_authorities, pair};
use super::reach::servers;
use super::*;
use crate::config::CertificateFiles;

/// Judges a pair of files whose certificate expires `days` from now, with its own key or another
/// one.
fn finding(name: &str, days: i64, own_key: bool) -> Finding {
    let now = Now::read();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["chat.example.com".to_owned()]).unwrap();
    let at = |days: i64| {
        time::OffsetDateTime::from_unix_timestamp(now.wall.as_secs() as i64 + days * 86_400 + 3600)
            .unwrap()
    };
    (params.not_before, params.not_after) = (at(days - 90), at(days));
    let cert = params.self_signed(&key).unwrap().pem();
    let key = if own_key { key } else { rcgen::KeyPair::generate().unwrap() };
    let folder = std::env::temp_dir().join(format!("usher-check-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let files =
        CertificateFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem"), ocsp: None };
    fs::write(&files.cert, cert).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    let warn_before = std::time::Duration::from_secs(14 * 86_400);
    let (_, found) = pair("certificate", &files, warn_before, now);
    fs::remove_dir_all(folder).unwrap();
    found
}

#[test]
fn a_region_that_is_away_concerns_its_own_tickets_alone() {
    let lines = "[store]\nurl = \"redis://127.0.0.1:1\"\nregion = \"us\"\n\
        [store.regions.eu]\nurl = \"redis://127.0.0.1:1\"\n";
    let text = format!("{}\n{lines}", include_str!("../../../config/usher.toml"));
    let config =
        crate::config::parse(&text, None, &|_| Some("0123456789abcdef".repeat(4))).unwrap().config;
    let told: Vec<_> = servers(&config)
        .into_iter()
        .filter(|finding| finding.subject.starts_with("store"))
        .map(|finding| (finding.verdict, finding.subject, finding.hint.unwrap()))
        .collect();
    let wanted = [
        (FindingVerdict::Warn, "store 127.0.0.1:1", "tickets are refused until the store answers"),
        (
            FindingVerdict::Warn,
            "store of region eu 127.0.0.1:1",
            "tickets of eu are refused until the store answers",
        ),
    ];
    assert_eq!(
        told,
        wanted.map(|(verdict, subject, hint)| (verdict, subject.to_owned(), hint.to_owned()))
    );
}

#[test]
fn a_certificate_is_held_against_its_key_and_the_date() {
    let good = finding("good", 60, true);
    assert_eq!(
        (good.verdict, good.detail.as_str()),
        (FindingVerdict::Ok, "chat.example.com, valid for 60 more days, matches its key")
    );
    assert_eq!(finding("soon", 5, true).verdict, FindingVerdict::Warn);
    let expired = finding("expired", -1, true);
    assert!(
        expired.verdict == FindingVerdict::Warn && expired.detail.contains("expired on"),
        "{expired:?}"
    );
    let other = finding("other", 60, false);
    assert!(
        other.verdict == FindingVerdict::Fail && other.detail.contains("does not belong to"),
        "{other:?}"
    );
}

#[test]
fn a_client_s_own_certificate_among_the_authorities_is_warned_about() {
    let folder =
        std::env::temp_dir().join(format!("usher-check-{}-authorities", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("clients.pem");
    let mut pem = String::new();
    let authority = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    for (is_ca, verdict, part) in [
        (authority, FindingVerdict::Ok, "one certificate"),
        (rcgen::IsCa::ExplicitNoCa, FindingVerdict::Warn, "1 of them without CA:TRUE"),
    ] {
        let mut params = rcgen::CertificateParams::new(vec!["ada".to_owned()]).unwrap();
        params.is_ca = is_ca;
        pem.push_str(&params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem());
        fs::write(&file, &pem).unwrap();
        let found = client_authorities("client authorities", &file);
        assert!(found.verdict == verdict && found.detail.contains(part), "{found:?}");
    }
    fs::remove_dir_all(folder).unwrap();
}
