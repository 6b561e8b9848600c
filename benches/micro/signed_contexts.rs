//! Measures the signed context, with every algorithm.

use usher::base::clock::Now;
use usher::upstream::keyring::{Keyring, SigningKeys};
use usher::upstream::signed_context::{ContextRequest, SignedContext};

use crate::known;
use crate::support::Runner;

pub fn run(runner: &mut Runner) {
    let now = Now::read();
    let about = ContextRequest {
        session_id: "0d5b6d2c4f7a",
        upstream: "chat",
        client: [192, 0, 2, 7].into(),
        host: "chat.example.com",
        path: "/ws",
    };
    for (name, lines) in [
        ("EdDSA", "[context]\nalgorithm = \"EdDSA\""),
        ("ES256", "[context]\nalgorithm = \"ES256\""),
        ("HS256", "[context]\nalgorithm = \"HS256\"\nsecret_env = \"KEY\""),
    ] {
        let config = known::config(lines);
        let grant = known::grant(&config, now);
        let folder =
            std::env::temp_dir().join(format!("usher-bench-{}-{name}", std::process::id()));
        let keyring = SigningKeys::new(Keyring::open(&config.context, &folder, now).unwrap());
        let _ = std::fs::remove_dir_all(&folder);
        let signed = SignedContext::new(&config.context, keyring);
        runner.measure(&format!("signed context: {name}"), || {
            signed.header_value(&grant, about, now).unwrap()
        });
    }
}
