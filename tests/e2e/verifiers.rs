//! The verifiers in `examples/`, each with a header that an upstream got.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::support::client;
use crate::support::{Echo, Setup, Usher};

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
        .unwrap_or_else(|error| {
            panic!("{program:?}: {error}; scripts/setup-tests.sh installs what the tests need")
        });
    child.stdin.take().unwrap().write_all(header.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Builds the Go example once. It needs only the standard library.
fn go_example() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let binary =
            std::env::temp_dir().join(format!("usher-e2e-{}-verify-go", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/verify-go/verify.go");
        let output = Command::new("go")
            .args(["build", "-o"])
            .arg(&binary)
            .arg(source)
            .env("GOFLAGS", "-mod=mod")
            .env("GOPROXY", "off")
            .output();
        let output = output.unwrap_or_else(|error| {
            panic!("go: {error}; scripts/setup-tests.sh installs what the tests need")
        });
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        binary
    };
    BUILT.get_or_init(build).clone()
}

/// Returns the path of the Rust example. Cargo builds the examples of a package beside its tests.
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
        let usher = Setup::new(echo.url())
            .extra(&format!("[context]\nalgorithm = \"{algorithm}\"\n"))
            .start()
            .await;
        drop(usher.connect("ada").await);
        let visit = echo.visits().remove(0);
        let header = visit.all("x-user-context")[0].to_owned();
        let set = client::get(usher.plain, "/.well-known/usher/jwks.json").await;
        assert_eq!(set.status, 200);
        let jwks =
            std::env::temp_dir().join(format!("usher-e2e-{}-{algorithm}.json", std::process::id()));
        std::fs::write(&jwks, &set.body).unwrap();
        let (rust, go) = (rust_example(), go_example());
        let verifiers: [&[&str]; 4] = [
            &["node", "examples/verify-node/verify.mjs"],
            &["target/e2e-tools/venv/bin/python", "examples/verify-python/verify.py"],
            &[rust.to_str().unwrap()],
            &[go.to_str().unwrap()],
        ];
        for verifier in verifiers {
            let good = verify(verifier, &jwks, "chat", &header);
            assert!(
                good.status.success(),
                "{verifier:?}: {}",
                String::from_utf8_lossy(&good.stderr)
            );
            let claims: Value = serde_json::from_slice(&good.stdout).unwrap();
            assert_eq!(
                (claims["sub"].as_str(), claims["iss"].as_str()),
                (Some("ada"), Some("usher"))
            );
            assert_eq!(claims["auth"]["method"], "header");
            assert_eq!(claims["permissions"], serde_json::json!(["chat:read", "chat:write"]));
            assert_eq!(claims["req"]["path"], "/ws");

            let changed = header.replacen('.', ".e", 1);
            for (what, audience, header) in
                [("another audience", "other", &header), ("a changed payload", "chat", &changed)]
            {
                let bad = verify(verifier, &jwks, audience, header);
                assert_eq!(bad.status.code(), Some(1), "{verifier:?} accepted {what}");
                assert!(!bad.stderr.is_empty(), "the verifier gives a reason");
            }
        }
        std::fs::remove_file(jwks).unwrap();
        usher.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_accept_a_header_under_a_shared_secret() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url())
        .extra("[context]\nalgorithm = \"HS256\"\nsecret_file = \"secret\"\n")
        .start()
        .await;
    drop(usher.connect("ada").await);
    let header = echo.visits().remove(0).all("x-user-context")[0].to_owned();
    let (rust, go, secret) = (rust_example(), go_example(), usher.folder().join("secret"));
    let verifiers: [&[&str]; 4] = [
        &["node", "examples/verify-node/verify.mjs", "--secret"],
        &["target/e2e-tools/venv/bin/python", "examples/verify-python/verify.py", "--secret"],
        &[rust.to_str().unwrap(), "--secret"],
        &[go.to_str().unwrap(), "--secret"],
    ];
    for verifier in verifiers {
        let good = verify(verifier, &secret, "chat", &header);
        assert!(good.status.success(), "{verifier:?}: {}", String::from_utf8_lossy(&good.stderr));
        let wrong = usher.certificate_path();
        assert_eq!(
            verify(verifier, &wrong, "chat", &header).status.code(),
            Some(1),
            "{verifier:?} accepted another secret"
        );
    }
    usher.finish().await;
}

/// Verifiers of Node and of Python, for one file of keys. Each line of standard input is a header,
/// of which they print the user or the fault, or `wait`, which lets a minute pass.
const KEPT_IN_NODE: &str = r#"
import { createInterface } from 'node:readline';
const { createVerifier } = await import(process.cwd() + '/examples/verify-node/verify.mjs');
let now = 0;
performance.now = () => now;
const verify = createVerifier(process.argv[2], process.argv[3]);
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'wait') now += 60_000;
  else console.log(await verify(line).then(({ sub }) => sub, ({ message }) => message));
}
"#;
const KEPT_IN_PYTHON: &str = r#"
import sys
sys.path.insert(0, "examples/verify-python")
import verify
now = 0.0
verify.time.monotonic = lambda: now
verifier = verify.Verifier(sys.argv[2], sys.argv[3])
for line in sys.stdin:
    if line == "wait\n":
        now += 60
        continue
    try:
        print(verifier.verify(line.strip())["sub"], flush=True)
    except Exception as error:
        print(error, flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_may_start_before_usher_and_follows_its_keys() {
    let echo = Echo::start().await;
    let first = Setup::new(echo.url()).start().await;
    let second = Setup::new(echo.url()).start().await;
    let mut sets = Vec::new();
    for usher in [&first, &second] {
        drop(usher.connect("ada").await);
        let header = echo.visits().pop().unwrap().all("x-user-context")[0].to_owned();
        sets.push((header, client::get(usher.plain, "/.well-known/usher/jwks.json").await.body));
    }
    let file = first.folder().join("published.json");
    for program in [
        ["node", "--input-type=module", "-e", KEPT_IN_NODE],
        ["target/e2e-tools/venv/bin/python", "-B", "-c", KEPT_IN_PYTHON],
    ] {
        let _ = std::fs::remove_file(&file);
        let mut child = Command::new(program[0])
            .args(&program[1..])
            .args([".".as_ref(), file.as_os_str(), "chat".as_ref()])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut ask = |command: &str| {
            writeln!(input, "{command}").unwrap();
            answers.next().unwrap().unwrap()
        };
        let [(old, published), (new, rotated)] = &sets[..] else { unreachable!() };
        let before = ask(old);
        assert!(before != "ada", "there are no keys yet");
        std::fs::write(&file, published).unwrap();
        assert_eq!(ask(old), "ada", "{before}");
        std::fs::write(&file, rotated).unwrap();
        for _ in 0..2 {
            assert_eq!(ask(new), "no published key has the key id");
        }
        assert_eq!(ask(old), "ada");
        assert_eq!(ask(&format!("wait\n{new}")), "ada");
        assert_eq!(ask(old), "no published key has the key id");
        drop(input);
        assert!(child.wait().unwrap().success());
    }
    first.finish().await;
    second.finish().await;
}

/// The rotation is due: the next key signs, and a backend that kept the earlier set knows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_kept_the_key_set_accepts_what_is_signed_after_a_rotation() {
    let echo = Echo::start().await;
    let setup =
        Setup::new(echo.url()).extra("[context]\nalgorithm = \"ES256\"\nrotate_every = \"10m\"\n");
    let usher = setup.start().await;
    let kept = usher.folder().join("kept.json");
    let set = client::get(usher.plain, "/.well-known/usher/jwks.json").await;
    assert_eq!(set.header("cache-control"), Some("public, max-age=300"));
    std::fs::write(&kept, &set.body).unwrap();
    let index = usher.folder().join("state/keys/keyring.json");
    let read = || serde_json::from_slice::<Value>(&std::fs::read(&index).unwrap()).unwrap();
    let before = read();
    let mut due = before.clone();
    due["next"]["created"] = "2020-01-01T00:00:00.000Z".into();
    std::fs::write(&index, due.to_string()).unwrap();
    usher.logged(&["keyring_rotated"]).await;
    let after = read();
    assert_eq!(
        (&after["current"]["kid"], &after["previous"]["kid"]),
        (&before["next"]["kid"], &before["current"]["kid"])
    );

    let node = ["node", "examples/verify-node/verify.mjs"];
    let go = go_example();
    let accepted = |usher: &Usher| {
        let header = echo.visits().pop().unwrap().all("x-user-context")[0].to_owned();
        let now = usher.folder().join("now.json");
        for (verifier, set) in
            [(&node[..], &kept), (&[go.to_str().unwrap()][..], &kept), (&node[..], &now)]
        {
            let good = verify(verifier, set, "chat", &header);
            assert!(
                good.status.success(),
                "{verifier:?} {set:?}: {}",
                String::from_utf8_lossy(&good.stderr)
            );
        }
        let parts: Vec<_> = header
            .split('.')
            .map(|part| URL_SAFE_NO_PAD.decode(part).unwrap_or_default())
            .collect();
        let head: Value = serde_json::from_slice(&parts[0]).unwrap();
        assert_eq!(head["kid"], after["current"]["kid"]);
    };
    let fetch = |usher: &Usher| {
        let (plain, now) = (usher.plain, usher.folder().join("now.json"));
        async move {
            std::fs::write(now, client::get(plain, "/.well-known/usher/jwks.json").await.body)
                .unwrap();
        }
    };
    fetch(&usher).await;
    drop(usher.connect("ada").await);
    accepted(&usher);
    let metrics = usher.metrics().await;
    assert!(
        metrics.contains("usher_context_key_rotations_total{outcome=\"rotated\"} 1"),
        "{metrics}"
    );
    // A reload and a restart read the keys again, and the schedule counts from the rotation.
    usher.signal("HUP");
    usher.logged(&["config_applied"]).await;
    drop(usher.connect("ada").await);
    accepted(&usher);
    let audit = usher.audit();
    assert_eq!(audit.iter().filter(|line| line["event"] == "keyring_rotated").count(), 1);
    let usher = usher.kill_and_restart().await;
    fetch(&usher).await;
    drop(usher.connect("ada").await);
    accepted(&usher);
    assert_eq!(read(), after);
    usher.finish().await;
}
