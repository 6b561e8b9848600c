//! The dates of certificates: in the metric, in the log, in `usher status` and in `usher check`.

use std::fs;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::reload::usher_reload;
use crate::support::{Echo, Setup, Usher, client};

const TABLES: &str = r#"
    [[listener]]
    address = "127.0.0.1:0"
    certificates = [{ cert = "chain.pem", key = "chain.key" }]
    client_ca = "clients.pem"
    [[upstream]]
    name = "far"
    servers = ["https://127.0.0.1:1"]
    ca_file = "servers.pem"
"#;

/// Returns a certificate whose life of 90 days ends in so many days, and its key.
fn ending(name: &str, days: i64) -> (String, String, i64) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(days) + Duration::hours(1);
    params.not_before = params.not_after - Duration::days(90);
    let (key, ends) = (KeyPair::generate().unwrap(), params.not_after.unix_timestamp());
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem(), ends)
}

fn series(usher: &Usher, purpose: &str, file: &str) -> String {
    let path = usher.folder().join(file);
    let name = "usher_certificate_expiry_timestamp_seconds";
    format!("{name}{{purpose=\"{purpose}\",file=\"{}\"}}", path.display())
}

async fn status(usher: &Usher) -> Vec<Value> {
    let answer = client::get(usher.admin, "/status").await;
    let status: Value = serde_json::from_str(&answer.body).unwrap();
    status["certificates"].as_array().unwrap().clone()
}

fn command(usher: &Usher, name: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    match name {
        "check" => command.arg(name).arg(usher.config_path()),
        _ => command.args([name, "--admin", &usher.admin.to_string()]),
    };
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_certificate_s_end_is_measured_and_warned_of() {
    let echo = Echo::start().await;
    let (leaf, key, _) = ending("leaf", 60);
    let (intermediate, _, chain_ends) = ending("intermediate", 5);
    let (clients, _, clients_end) = ending("clients", 40);
    let (old, _, old_ends) = ending("old", -2);
    let (next, _, _) = ending("next", 70);
    let usher = Setup::new(echo.url())
        .extra(TABLES)
        .file("chain.pem", leaf.clone() + &intermediate)
        .file("chain.key", key)
        .file("clients.pem", clients.clone())
        .file("servers.pem", next.clone() + &old)
        .start()
        .await;

    for (purpose, file, ends) in [
        ("listener", "chain.pem", chain_ends),
        ("client_ca", "clients.pem", clients_end),
        ("upstream", "servers.pem", old_ends),
    ] {
        usher.until_metric(&format!("{} {ends}", series(&usher, purpose, file))).await;
    }
    let line = usher.logged(&["certificate_expires", "chain.pem", "ends_soon"]).await;
    assert!(line.contains("CN=intermediate") && line.contains("\"days_left\":5"), "{line}");
    usher.logged(&["certificate_expires", "servers.pem", "expired", "CN=old"]).await;
    let states: Vec<_> = status(&usher).await;
    let state_of = |file: &str| {
        let is_it = |one: &&Value| one["file"].as_str().unwrap().ends_with(file);
        let one = states.iter().find(is_it).unwrap();
        (one["state"].as_str().unwrap(), one["days_left"].as_u64().unwrap())
    };
    assert_eq!(state_of("chain.pem"), ("ends_soon", 5));
    assert_eq!(state_of("clients.pem"), ("valid", 40));
    assert_eq!(state_of("servers.pem"), ("expired", 0));
    let page = command(&usher, "status");
    for part in [
        "chain.pem of listener, expires ",
        ", 5 days left (ends soon)\n",
        "pem of upstream, expired ",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let checked = command(&usher, "check");
    for part in ["CN=intermediate in its chain expires in 5 days", "CN=old, expired on "] {
        assert!(checked.contains(part), "{part}: {checked}");
    }
    assert!(!checked.contains("CN=clients,"), "{checked}");

    // Renewed under the same name, replaced by another file, and removed.
    let (renewed, key, renewed_ends) = ending("renewed", 80);
    fs::write(usher.folder().join("chain.pem"), renewed).unwrap();
    fs::write(usher.folder().join("chain.key"), key).unwrap();
    fs::write(usher.folder().join("others.pem"), next).unwrap();
    let path = usher.config_path();
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace("client_ca = \"clients.pem\"", "").replace("servers.pem", "others.pem");
    fs::write(path, text).unwrap();
    let (code, said) = usher_reload(&usher).await;
    assert!(code == 0 && !said.contains("expire"), "{said}");
    usher
        .until_metric(&format!("{} {renewed_ends}", series(&usher, "listener", "chain.pem")))
        .await;
    let metrics = usher.metrics().await;
    for (purpose, file) in [("client_ca", "clients.pem"), ("upstream", "servers.pem")] {
        assert!(!metrics.contains(&series(&usher, purpose, file)), "{file}: {metrics}");
    }
    assert!(metrics.contains(&series(&usher, "upstream", "others.pem")), "{metrics}");
    let files: Vec<_> = status(&usher).await;
    assert!(!files.iter().any(|one| one["state"] != "valid"), "{files:?}");
    let lines = usher.log().lines().filter(|line| line.contains("certificate_expires")).count();
    assert_eq!(lines, 2, "one line for each certificate that ended soon");
    usher.finish().await;
}
