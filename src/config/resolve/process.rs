//! `[limits]`, `[revocation]`, `[drain]`, `[admin]`, `[log]` and `[audit]`.

use super::listener::socket_address;
use super::*;

const ON_LIMIT: [(&str, OnLimit); 2] = [("refuse", OnLimit::Refuse), ("replace-oldest", OnLimit::ReplaceOldest)];

pub(super) fn node(text: &str) -> Result<String, String> {
    let fine = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fine { Ok(text.to_owned()) } else { Err("`node` is 1 to 64 visible ASCII characters".to_owned()) }
}

pub(super) fn host_name() -> String {
    let written = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    written.ok().and_then(|name| node(name.trim()).ok()).unwrap_or_else(|| "usher".to_owned())
}

pub(super) fn limits(section: &Section<'_, '_>) -> Limits {
    let limits = Limits {
        connections: section.count("connections", 20_000),
        tls_timeout: positive(section, "tls_timeout", 5 * SECOND),
        head_timeout: positive(section, "head_timeout", 5 * SECOND),
        handshake_timeout: positive(section, "handshake_timeout", 15 * SECOND),
        head_bytes: section.size("head_bytes", 16 << 10),
        head_fields: section.count("head_fields", 100),
        target_bytes: section.size("target_bytes", 8 << 10),
        http_idle_timeout: positive(section, "http_idle_timeout", 15 * SECOND),
        refusal_bytes: section.size("refusal_bytes", 64 << 10),
        buffered_bytes: section.size("buffered_bytes", 64 << 10),
        rate_entries: section.count("rate_entries", 100_000),
        audit_queue: section.count("audit_queue", 10_000),
        unauthenticated: section.count("unauthenticated", 10_000),
        unauthenticated_per_address: section.count("unauthenticated_per_address", 1_000),
        sessions_per_user: section.value("sessions_per_user").map(|_| section.count("sessions_per_user", 1)),
        on_limit: choice(section, "on_limit", &ON_LIMIT, OnLimit::Refuse),
        message_bytes: section.size("message_bytes", 16 << 20),
        messages_per_second: section.value("messages_per_second").map(|_| section.count("messages_per_second", 1)),
        inflated_bytes: section.size("inflated_bytes", 16 << 20),
        shadow_checks: section.count("shadow_checks", 1_000),
    };
    section.finish();
    limits
}

pub(super) fn revocation(section: &Section<'_, '_>, issuers: &[Arc<Issuer>], verifiers: &[Arc<Verifier>]) -> Revocation {
    // What was revoked as a token's youngest day stays so until its last.
    let lifetimes = issuers.iter().map(|issuer| issuer.max_lifetime + issuer.leeway).chain(verifiers.iter().map(|one| one.max_lifetime));
    let longest = lifetimes.max().unwrap_or(86_400 * SECOND);
    let revocation = Revocation { keep: positive(section, "keep", longest), max_entries: section.count("max_entries", 100_000) };
    if let Some(written) = section.value("keep").filter(|_| revocation.keep < longest) {
        let message = "a token that is good for longer than `keep` comes back to life when its revocation ends";
        let help = format!(
            "tokens are taken for up to {} h; lower `max_lifetime` of the issuers to what they really make",
            longest.as_secs() / 3600
        );
        section.reader.report(&written.span(), Diagnostic::warning(message).help(help));
    }
    section.finish();
    revocation
}

pub(super) fn drain(section: &Section<'_, '_>) -> Drain {
    let drain = Drain { window: section.duration("window", 30 * SECOND) };
    section.finish();
    drain
}

pub(super) fn config_path(section: &Section<'_, '_>) -> String {
    let path = absolute_path(section, "config_path", "/websocket/config");
    section.finish();
    path
}

pub(super) fn admin(section: &Section<'_, '_>) -> Option<Admin> {
    let written = section.value("token_env").or_else(|| section.value("token_file")).is_some();
    let (address, token) = (section.parsed("address", socket_address), section.secret("token_env", "token_file"));
    section.finish();
    if section.is_written() && section.value("address").is_none() {
        section.missing("address", "such as `address = \"127.0.0.1:9090\"`");
    }
    let address = address?;
    // A bearer token must be able to stand in a header.
    if let (Some(token), Some(value)) = (&token, section.value("token_env").or_else(|| section.value("token_file")))
        && HeaderValue::from_bytes(token.expose()).is_err()
    {
        section.reader.report(&value.span(), Diagnostic::error("the token holds characters that a header cannot carry"));
    }
    if let Some(value) = section.value("address").filter(|_| !address.ip().is_loopback() && !written) {
        section.reader.error(
            &value.span(),
            "an admin address that others can reach needs a token",
            "add `token_env` or `token_file`, or listen on 127.0.0.1",
        );
    }
    Some(Admin { address, token })
}

pub(super) fn log(section: &Section<'_, '_>) -> Log {
    let formats = [("auto", LogFormat::Auto), ("json", LogFormat::Json), ("text", LogFormat::Text)];
    let filter = section.parsed("filter", |text| match text.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("`{text}` is not a filter: {error}")),
    });
    let log = Log { format: choice(section, "format", &formats, LogFormat::Auto), filter: filter.unwrap_or_else(|| "info".to_owned()) };
    section.finish();
    log
}

pub(super) fn audit(reader: &Reader<'_>, section: &Section<'_, '_>) -> Option<PathBuf> {
    let file = section.text("file").map(|(file, _)| reader.path(&file));
    section.finish();
    file
}
