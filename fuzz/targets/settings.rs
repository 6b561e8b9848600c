//! Configurations for the readers, parsed from text.

use usher::config::{self, Config};

/// The secret of every key that a configuration takes from the environment.
pub const SECRET: &str = "0123456789012345678901234567890123456789";

/// Returns a configuration with one route, to which `lines` are added.
pub fn with_route(lines: &str) -> Config {
    let text = format!(
        r#"
        [[listener]]
        address = "127.0.0.1:0"
        plain = true
        [[issuer]]
        name = "main"
        issuer = "https://id.example.com"
        audience = ["chat"]
        algorithms = ["HS256"]
        secret_env = "KEY"
        [[upstream]]
        name = "chat"
        servers = ["http://127.0.0.1:9000"]
        [[route]]
        path = "/ws"
        upstream = "chat"
        {lines}
        "#
    );
    let loaded = config::parse(&text, None, &|_| Some(SECRET.to_owned()));
    loaded.expect("the configuration of a target is well formed").config
}
