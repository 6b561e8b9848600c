//! The verifiers in `examples/`, each on a header that an upstream really got.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::client;
use crate::support::{Echo, Setup};

fn verify(program: &[&str], jwks: &Path, audience: &str, header: &str) -> Output {
    let mut child = Command::new(program[0])
        .args(&program[1..])
        .arg(jwks)
        .arg(audience)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program:?}: {error}; scripts/setup-tests.sh installs what the tests need"));
    child.stdin.take().unwrap().write_all(header.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Cargo builds a package's examples beside its tests.
fn rust_example() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples/verify_context")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_accept_a_real_header_and_nothing_else() {
    for algorithm in ["EdDSA", "ES256"] {
        let echo = Echo::start().await;
        let usher = Setup::new(echo.url()).extra(&format!("[context]\nalgorithm = \"{algorithm}\"\n")).start().await;
        drop(usher.connect("ada").await);
        let visit = echo.visits().remove(0);
        let header = visit.all("x-user-context")[0].to_owned();
        let set = client::get(usher.plain, "/.well-known/usher/jwks.json").await;
        assert_eq!(set.status, 200);
        let jwks = std::env::temp_dir().join(format!("usher-e2e-{}-{algorithm}.json", std::process::id()));
        std::fs::write(&jwks, &set.body).unwrap();
        let rust = rust_example();
        let verifiers: [&[&str]; 3] = [
            &["node", "examples/verify-node/verify.mjs"],
            &["target/e2e-tools/venv/bin/python", "examples/verify-python/verify.py"],
            &[rust.to_str().unwrap()],
        ];
        for verifier in verifiers {
            let good = verify(verifier, &jwks, "chat", &header);
            assert!(good.status.success(), "{verifier:?}: {}", String::from_utf8_lossy(&good.stderr));
            let claims: Value = serde_json::from_slice(&good.stdout).unwrap();
            assert_eq!((claims["sub"].as_str(), claims["iss"].as_str()), (Some("ada"), Some("usher")));
            assert_eq!(claims["auth"]["method"], "header");
            assert_eq!(claims["permissions"], serde_json::json!(["chat:read", "chat:write"]));
            assert_eq!(claims["req"]["path"], "/ws");

            let changed = header.replacen('.', ".e", 1);
            for (what, audience, header) in [("another audience", "other", &header), ("a changed payload", "chat", &changed)] {
                let bad = verify(verifier, &jwks, audience, header);
                assert_eq!(bad.status.code(), Some(1), "{verifier:?} accepted {what}");
                assert!(!bad.stderr.is_empty(), "and it says why");
            }
        }
        std::fs::remove_file(jwks).unwrap();
        usher.finish().await;
    }
}
