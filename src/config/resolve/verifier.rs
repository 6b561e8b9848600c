//! `[[verifier]]`, and the keys that name one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::store::{parse_url, text_only};
use super::*;
use crate::config::store::Redis;
use crate::fetch::Place;

/// Keys that one kind has and others do not.
const HTTP_KEYS: [&str; 3] = ["allow_plain", "token_env", "token_file"];
const INTROSPECTION_KEYS: [&str; 5] = ["client_id", "client_secret_env", "client_secret_file", "issuer", "audience"];
const REDIS_KEYS: [&str; 6] = ["key", "username", "password_env", "password_file", "cookie_secret_env", "cookie_secret_file"];

pub(super) fn verifier(section: &Section<'_, '_>, seen: &mut Names, issuers: &Names, store: &Store) -> Option<Verifier> {
    let reader = section.reader;
    let name = section.required("name", "such as `name = \"sessions\"`");
    if let Some((name, span)) = &name {
        seen.add(reader, "verifier", name, span);
        if issuers.0.contains_key(name) {
            reader.error(span, format!("an issuer is named `{name}` already"), "users are told apart by the name of who vouches for them");
        }
    }
    let kinds = [("http", "http"), ("introspection", "introspection"), ("redis", "redis")];
    if section.value("kind").is_none() {
        section.missing("kind", "\"http\", \"introspection\" or \"redis\"");
    }
    let kind = chosen(section, "kind", &kinds);
    let timeout = positive(section, "timeout", SECOND);
    let concurrency = section.count("concurrency", 64);
    let whom = match kind {
        Some("redis") => redis(section, store, timeout, concurrency).map(|keys| VerifierKind::Redis(Box::new(keys))),
        Some("introspection") => introspection(section),
        _ => asked(section).map(VerifierKind::Http),
    };
    let foreign: &[&[&'static str]] = match kind {
        Some("http") => &[&INTROSPECTION_KEYS, &REDIS_KEYS],
        Some("introspection") => &[&REDIS_KEYS],
        Some("redis") => &[&HTTP_KEYS, &INTROSPECTION_KEYS],
        _ => &[&HTTP_KEYS, &INTROSPECTION_KEYS, &REDIS_KEYS],
    };
    for key in foreign.iter().copied().flatten() {
        if let (Some(value), Some(kind)) = (section.value(key), kind) {
            reader.error(&value.span(), format!("`{key}` has no use with `kind = \"{kind}\"`"), "remove it");
        }
    }
    let permissions_claim = if kind == Some("introspection") { "scope" } else { "permissions" };
    let revalidate = section.value("revalidate").map(|_| positive(section, "revalidate", 60 * SECOND));
    if let Some(value) = section.value("revalidate").filter(|_| revalidate.is_some_and(|every| every < SECOND)) {
        reader.error(&value.span(), "`revalidate` is at least 1s", "the verifier is asked so often for every live session");
    }
    let revalidate_grace = section.value("revalidate_grace").map(|_| section.duration("revalidate_grace", 60 * SECOND));
    if let Some(value) = section.value("revalidate_grace").filter(|_| revalidate.is_none()) {
        reader.error(&value.span(), "`revalidate_grace` needs `revalidate`", "add `revalidate`, or remove it");
    }
    let verifier = Verifier {
        name: name.map(|(name, _)| name).unwrap_or_default().into(),
        kind: whom?,
        timeout,
        concurrency,
        max_waiting: section.count("max_waiting", 1000),
        cache_ttl: section.duration("cache_ttl", 10 * SECOND),
        negative_cache_ttl: section.duration("negative_cache_ttl", 5 * SECOND),
        cache_entries: section.count("cache_entries", 10_000),
        user_claim: section.text_or("user_claim", "sub"),
        permissions_claim: section.text_or("permissions_claim", permissions_claim),
        session_claim: section.text_or("session_claim", "sid"),
        expiry_claim: section.text_or("expiry_claim", "exp"),
        max_token_bytes: section.size("max_token_bytes", 8 << 10),
        max_lifetime: positive(section, "max_lifetime", 12 * 3600 * SECOND),
        revalidate,
        revalidate_grace,
    };
    section.finish();
    (!verifier.name.is_empty()).then_some(verifier)
}

/// Reads every key, so that none is unknown to the kinds that do not have it.
fn asked(section: &Section<'_, '_>) -> Option<Asked> {
    let reader = section.reader;
    let allow_plain = section.boolean("allow_plain", false);
    if let Some(value) = section.value("allow_plain").filter(|_| allow_plain) {
        let message = "credentials are sent over plain http: whoever sits in between has them";
        reader.report(&value.span(), Diagnostic::warning(message));
    }
    let url = section.required("url", "where it is asked: `url = \"https://id.example.com/verify\"`");
    let place = url.and_then(|(url, span)| {
        let wrong = |message| reader.error(&span, message, "write https; plain http is for this machine, or `allow_plain`");
        Place::parse(&url, allow_plain).map_err(wrong).ok()
    });
    let written = section.value("token_env").or_else(|| section.value("token_file"));
    let authorization = section.secret("token_env", "token_file").map(|token| {
        let value = Zeroizing::new([b"Bearer ", token.expose()].concat());
        if !token.expose().iter().all(u8::is_ascii_graphic) {
            reader.error(&written.map_or(0..0, toml::Spanned::span), "the token is not one word of visible ASCII", "look at its file");
        }
        Secret::new(value.to_vec())
    });
    let ca_file = section.text("ca_file").map(|(file, _)| reader.file(&file));
    let max_answer_bytes = section.size("max_answer_bytes", 64 << 10);
    Some(Asked { place: place?, ca_file, authorization, max_answer_bytes })
}

fn introspection(section: &Section<'_, '_>) -> Option<VerifierKind> {
    let reader = section.reader;
    let client_id = section.text("client_id");
    let has_secret = section.value("client_secret_env").or_else(|| section.value("client_secret_file"));
    let secret = section.secret("client_secret_env", "client_secret_file");
    let has_token = section.value("token_env").or_else(|| section.value("token_file"));
    match (&client_id, has_secret, has_token) {
        (Some(_), Some(_), None) | (None, None, Some(_)) => {}
        (Some((_, span)), None, None) => reader.error(span, "`client_id` needs its secret", "`client_secret_env` or `client_secret_file`"),
        (None, Some(value), None) => reader.error(&value.span(), "a client secret needs `client_id`", "add `client_id`"),
        (_, _, Some(value)) => reader.error(&value.span(), "a token and a client cannot stand together", "keep one of them"),
        (None, None, None) => section.missing("client_id", "and `client_secret_env`: an introspection endpoint asks who asks"),
    }
    let issuer = section.text("issuer").map(|(issuer, _)| issuer);
    let audience: Vec<String> = section.list("audience").unwrap_or_default().into_iter().map(|(name, _)| name).collect();
    let mut asked = asked(section)?;
    if let (Some((id, _)), Some(secret)) = (client_id, secret) {
        asked.authorization = Some(basic(&id, &secret));
    }
    Some(VerifierKind::Introspection { asked, issuer, audience })
}

/// RFC 6749, section 2.3.1: both "encoded using the application/x-www-form-urlencoded encoding algorithm".
fn basic(id: &str, secret: &Secret) -> Secret {
    let mut pair = Zeroizing::new(Vec::new());
    let mut encode = |bytes: &[u8]| {
        for byte in bytes {
            match byte {
                byte if byte.is_ascii_alphanumeric() || b"-._*".contains(byte) => pair.push(*byte),
                byte => pair.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            }
        }
        pair.push(b':');
    };
    encode(id.as_bytes());
    encode(secret.expose());
    pair.pop();
    let encoded = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*pair)));
    Secret::from(encoded.as_str())
}

/// In a Redis of its own, or in that of `[store]`.
fn redis(section: &Section<'_, '_>, store: &Store, timeout: Duration, concurrency: usize) -> Option<SessionKeys> {
    let reader = section.reader;
    let url = section.text("url");
    let (ca_file, username) = (section.text("ca_file"), section.text("username"));
    let password_written = section.value("password_env").or_else(|| section.value("password_file"));
    let password = section.secret("password_env", "password_file");
    text_only(section, password.as_ref(), password_written);
    let max_answer_bytes = section.size("max_answer_bytes", 64 << 10);
    let cookie_secret = section.secret("cookie_secret_env", "cookie_secret_file");
    let key = section.parsed("key", |text| {
        let parts = text.split_once("{id}").filter(|(before, after)| !before.is_empty() && !after.contains("{id}"));
        parts
            .map(|(before, after)| (before.to_owned(), after.to_owned()))
            .ok_or("`key` holds {id} once, behind a prefix: \"sess:{id}\"".to_owned())
    });
    if section.value("key").is_none() {
        section.missing("key", "the key that holds a session: `key = \"sess:{id}\"`");
    }
    let (before, after) = key?;
    let own = |key: &str, span: &Span| reader.error(span, format!("`{key}` goes with a `url` of its own"), "the store has its own");
    let redis = match (url, store) {
        (Some((url, span)), _) => {
            let (tls, layout) = parse_url(&url).map_err(|(message, help)| reader.error(&span, message, help)).ok()?;
            Redis {
                region: None,
                layout,
                tls,
                ca_file: ca_file.map(|(file, _)| reader.file(&file)),
                username: username.map(|(name, _)| name),
                password,
                sentinel_password: None,
                prefix: "usher:".to_owned(),
                timeout,
                acknowledge: None,
                max_in_flight: concurrency,
                multi_use: false,
            }
        }
        (None, Store::Redis(redis)) => {
            for (key, written) in [("ca_file", ca_file), ("username", username)] {
                if let Some((_, span)) = written {
                    own(key, &span);
                }
            }
            if let Some(value) = password_written {
                own("a password", &value.span());
            }
            Redis { timeout, acknowledge: None, max_in_flight: concurrency, ..(**redis).clone() }
        }
        (None, Store::Memory { .. }) => {
            section.missing("url", "`url = \"redis://127.0.0.1:6379\"`; or a [store] in Redis, whose connection it shares");
            return None;
        }
    };
    Some(SessionKeys { redis, before, after, cookie_secret, max_answer_bytes })
}

/// `verifier`, `verifier_for` and `session_verifier`.
pub(super) fn judges(section: &Section<'_, '_>, verifiers: &Names) -> Judges {
    let named = |key: &'static str| {
        let (name, span) = section.text(key)?;
        if !verifiers.0.contains_key(&name) {
            let names = verifiers.0.keys().map(String::as_str);
            let help = if names.len() == 0 { "add a [[verifier]] of that name".to_owned() } else { suggest(&name, names) };
            section.reader.error(&span, format!("no verifier is named `{name}`"), help);
        }
        Some(Arc::from(name))
    };
    let (tokens, sessions): (Option<Arc<str>>, Option<Arc<str>>) = (named("verifier"), named("session_verifier"));
    let opaque_only = choice(section, "verifier_for", &[("all", false), ("opaque", true)], false);
    if let Some(value) = section.value("verifier_for").filter(|_| tokens.is_none()) {
        section.reader.error(&value.span(), "`verifier_for` needs `verifier`", "name the verifier, or remove it");
    }
    Judges { sessions: sessions.or_else(|| tokens.clone()), tokens, opaque_only }
}
