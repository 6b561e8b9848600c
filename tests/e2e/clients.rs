//! Clients of other languages, through Usher by ticket over TLS.

use std::process::Command;

use crate::support::{Echo, Setup};

#[tokio::test(flavor = "multi_thread")]
async fn python_and_node_clients_talk_through_a_ticket() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    for program in
        [["target/e2e-tools/venv/bin/python", "tests/e2e/clients/python/client.py"], ["node", "tests/e2e/clients/node/client.mjs"]]
    {
        let ticket = usher.issue_ticket(&usher.token("ada")).await;
        let url = format!("wss://localhost:{}/ws?ticket={ticket}", usher.tls.port());
        let certificate = usher.certificate_path();
        let output = tokio::task::spawn_blocking(move || {
            Command::new(program[0]).arg(program[1]).arg(url).arg(certificate).current_dir(env!("CARGO_MANIFEST_DIR")).output()
        })
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{program:?}: {error}; scripts/setup-tests.sh installs what the tests need"));
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.trim() == "ok 1000", "{program:?}: {out}{err}");
    }
    assert_eq!(echo.visits().len(), 2);
    usher.finish().await;
}
