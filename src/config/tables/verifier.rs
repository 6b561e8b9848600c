//! `[[verifier]]`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::names::Names;
use super::store::redis::{check_text, parse_url};
use crate::config::declare::{Table, table};
use crate::config::diagnostic::Diagnostic;
use crate::config::key_type::{
    self, Choice, Count, FileToRead, Flag, List, OneOf, PositiveDuration, SecretFile,
    SecretVariable, Size, Text, TextType,
};
use crate::config::reader::{Section, Span};
use crate::config::store::Redis;
use crate::config::{SessionKeys, Store, Verifier, VerifierEndpoint, VerifierKind};
use crate::model::secret::Secret;
use crate::model::service_url::ServiceUrl;

table! {
    /// Services that verify opaque tokens and sessions.
    pub struct VerifierTable: [[verifier]] commented {
        /// Its name in routes, logs and metrics.
        name: Text, required "login";
        /// http (the credential as JSON, claims back), introspection (RFC 7662) or redis (sessions
        /// under a key).
        kind: OneOf<Kind>, required "http";
        /// Its address; for redis that of the sessions, the store's unless written.
        url: Text, optional "https://login.example.com/verify";
        /// Send credentials over plain http to another machine; the network in between then has
        /// them.
        allow_plain: Flag, default false,
            because "a party on the way would have every credential",
            change_when "the network in between is yours alone";
        /// PEM file of the authorities that sign its server, instead of those of the system.
        ca_file: FileToRead, optional "authorities.pem";
        /// The client id of Usher at an introspection endpoint.
        client_id: Text, optional "usher";
        /// Environment variable with that client's secret.
        client_secret_env: SecretVariable, optional "USHER_CLIENT_SECRET";
        /// File with that client's secret, instead of `client_secret_env`.
        client_secret_file: SecretFile, optional "client-secret.txt";
        /// Environment variable with the bearer token that Usher sends to it.
        token_env: SecretVariable, optional "USHER_VERIFIER_TOKEN";
        /// File with that token, instead of `token_env`.
        token_file: SecretFile, optional "verifier-token.txt";
        /// The `iss` that an introspected token must have; not checked unless written.
        issuer: Text, optional "https://id.example.com";
        /// An introspected token carries at least one of these as `aud`; not checked unless
        /// written.
        audience: List<Text>, optional ["chat"];
        /// The user of Redis, where it is not the default one.
        username: Text, optional "usher";
        /// Environment variable with the password of Redis.
        password_env: SecretVariable, optional "USHER_SESSIONS_PASSWORD";
        /// File with the password of Redis, instead of `password_env`.
        password_file: SecretFile, optional "sessions-password";
        /// The key in Redis that holds a session, with {id} in it.
        key: SessionKey, optional "sess:{id}";
        /// Environment variable with the secret that session cookies are signed with, as
        /// express-session does it.
        cookie_secret_env: SecretVariable, optional "USHER_COOKIE_SECRET";
        /// File with that secret, instead of `cookie_secret_env`.
        cookie_secret_file: SecretFile, optional "cookie-secret.txt";
        /// How long one answer may take, the wait for a place included.
        timeout: PositiveDuration, default "1s",
            because "a client waits for it during its handshake; a verifier that takes longer is \
                in trouble",
            change_when "it is far away";
        /// Requests at once.
        concurrency: Count, default 64,
            because "a verifier that is slow is not made slower",
            change_when "it can take more, or less";
        /// Requests that wait for a place among them.
        max_waiting: Count, default 1000,
            because "the queue is bounded: beyond it the wait is longer than `timeout`",
            change_when "it can take more, or less";
        /// How long a good answer is reused, never past its own end.
        cache_ttl: key_type::Duration, default "10s",
            because "a page that reconnects causes no request; a logout counts after ten seconds",
            change_when "logouts have to count at once: `\"0s\"`";
        /// How long a refusal is reused.
        negative_cache_ttl: key_type::Duration, default "5s",
            because "a client that tries again and again with the same wrong credential causes no \
                request",
            change_when "credentials become valid a moment after they are first shown";
        /// Answers remembered, good ones and refusals each.
        cache_entries: Count, default 10000,
            because "what remembers clients must not grow with their number";
        /// The claim that names the user: a name, or a JSON pointer.
        user_claim: Text, default "sub",
            because "the name of RFC 7662";
        /// The claim that lists permissions; scope for introspection.
        permissions_claim: Text, derived "permissions",
            because "`permissions`, and for introspection `scope`, the name of RFC 7662";
        /// The claim that names the login session.
        session_claim: Text, default "sid",
            because "the claim of OpenID Connect";
        /// The claim that says when the credential ends.
        expiry_claim: Text, default "exp",
            because "the name of RFC 7662";
        /// A longer credential is refused.
        max_token_bytes: Size, default "8KiB",
            because "as `issuer.max_token_bytes`";
        /// The longest answer that is read.
        max_answer_bytes: Size, default "64KiB",
            because "far above any set of claims; a server that sends more is not a verifier";
        /// How long an answer is valid at most.
        max_lifetime: PositiveDuration, default "12h",
            because "an answer without an end is not valid for ever";
        /// How often live sessions are verified again; not at all unless written.
        revalidate: PositiveDuration, optional "1m",
            at_least "1s" "the verifier is asked so often for every live session",
            because "it is one request for each live session and interval: the load is yours to \
                choose",
            change_when "logging out has to end sockets";
        /// How long a live session goes on while the verifier does not answer; to the end of its
        /// grant unless written.
        revalidate_grace: key_type::Duration, optional "5m",
            because "a verifier that is away for a while should not end every socket",
            change_when "a session that is not confirmed is worse than none";
    }
}

/// The protocol of a verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http,
    Introspection,
    Redis,
}

impl Choice for Kind {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("http", Self::Http), ("introspection", Self::Introspection), ("redis", Self::Redis)]
    }
}

/// The key of a session: what stands before the id, and behind it.
pub struct SessionKey;

impl TextType for SessionKey {
    type Value = (String, String);
    const NAME: &str = "key with `{id}`";
    const PATTERN: Option<&str> = Some(r"^.+\{id\}");

    fn parse(key: &str, text: &str) -> Result<Self::Value, String> {
        text.split_once("{id}")
            .filter(|(before, after)| !before.is_empty() && !after.contains("{id}"))
            .map(|(before, after)| (before.to_owned(), after.to_owned()))
            .ok_or_else(|| format!("`{key}` holds {{id}} once, behind a prefix: \"sess:{{id}}\""))
    }
}

const HTTP_KEYS: [&str; 3] = ["allow_plain", "token_env", "token_file"];
const INTROSPECTION_KEYS: [&str; 5] =
    ["client_id", "client_secret_env", "client_secret_file", "issuer", "audience"];
const REDIS_KEYS: [&str; 6] =
    ["key", "username", "password_env", "password_file", "cookie_secret_env", "cookie_secret_file"];

pub fn verifier(
    section: &Section<'_, '_>,
    seen: &mut Names,
    issuers: &Names,
    store: &Store,
) -> Option<Verifier> {
    let mut table = VerifierTable::read(section);
    check_name(section, seen, issuers, table.name.as_deref());
    let kind = match table.kind {
        Some(Kind::Redis) => {
            redis(section, store, &mut table).map(|keys| VerifierKind::Redis(Box::new(keys)))
        }
        Some(Kind::Introspection) => introspection(section, &mut table),
        _ => asked(section, &mut table).map(VerifierKind::Http),
    };
    if let Some(kind) = table.kind {
        check_foreign_keys(section, kind);
    }
    let is_introspection = table.kind == Some(Kind::Introspection);
    let permissions_claim = if is_introspection { "scope" } else { "permissions" };
    if let Some(value) =
        section.value("revalidate_grace").filter(|_| section.value("revalidate").is_none())
    {
        section.reader.error(
            &value.span(),
            "`revalidate_grace` needs `revalidate`",
            "add `revalidate`, or remove it",
        );
    }
    let verifier = Verifier {
        name: table.name.unwrap_or_default().into(),
        kind: kind?,
        timeout: table.timeout,
        concurrency: table.concurrency,
        max_waiting: table.max_waiting,
        cache_ttl: table.cache_ttl,
        negative_cache_ttl: table.negative_cache_ttl,
        cache_entries: table.cache_entries,
        user_claim: table.user_claim,
        permissions_claim: table.permissions_claim.unwrap_or_else(|| permissions_claim.to_owned()),
        session_claim: table.session_claim,
        expiry_claim: table.expiry_claim,
        max_token_bytes: table.max_token_bytes,
        max_lifetime: table.max_lifetime,
        revalidate: table.revalidate,
        revalidate_grace: table.revalidate_grace,
    };
    (!verifier.name.is_empty()).then_some(verifier)
}

fn check_name(section: &Section<'_, '_>, seen: &mut Names, issuers: &Names, name: Option<&str>) {
    seen.add_name(section, "verifier", name);
    if let (Some(name), Some(value)) = (name, section.value("name"))
        && issuers.contains(name)
    {
        section.reader.error(
            &value.span(),
            format!("an issuer is named `{name}` already"),
            "the name of the issuer or verifier is part of a user's identity",
        );
    }
}

fn check_foreign_keys(section: &Section<'_, '_>, kind: Kind) {
    let (foreign, name): (&[&[&'static str]], _) = match kind {
        Kind::Http => (&[&INTROSPECTION_KEYS, &REDIS_KEYS], "http"),
        Kind::Introspection => (&[&REDIS_KEYS], "introspection"),
        Kind::Redis => (&[&HTTP_KEYS, &INTROSPECTION_KEYS], "redis"),
    };
    for key in foreign.iter().copied().flatten() {
        if let Some(value) = section.value(key) {
            section.reader.error(
                &value.span(),
                format!("`{key}` has no use with `kind = \"{name}\"`"),
                "remove it",
            );
        }
    }
}

fn asked(section: &Section<'_, '_>, table: &mut VerifierTable) -> Option<VerifierEndpoint> {
    let reader = section.reader;
    if let Some(value) = section.value("allow_plain").filter(|_| table.allow_plain) {
        let message = "credentials are sent over plain http: the network in between has them";
        reader.report(&value.span(), Diagnostic::warning(message));
    }
    let url = section.value("url");
    if url.is_none() {
        section.missing("url", "where it is asked: `url = \"https://id.example.com/verify\"`");
    }
    let place = table.url.as_ref().and_then(|text| {
        let wrong = |message| {
            let span = url.map_or(0..0, toml::Spanned::span);
            let help = "write https; plain http is for this machine, or `allow_plain`";
            reader.error(&span, message, help);
        };
        ServiceUrl::parse(text, table.allow_plain).map_err(wrong).ok()
    });
    let token = section
        .one_of(("token_env", table.token_env.take()), ("token_file", table.token_file.take()));
    let authorization = token.and_then(|(token, span)| {
        let token = token?;
        if !token.expose().iter().all(u8::is_ascii_graphic) {
            let message = "the token is not one word of visible ASCII";
            reader.error(&span, message, "look at its file");
        }
        Some(Secret::new(Zeroizing::new([b"Bearer ", token.expose()].concat()).to_vec()))
    });
    Some(VerifierEndpoint {
        place: place?,
        ca_file: table.ca_file.take(),
        authorization,
        max_answer_bytes: table.max_answer_bytes,
    })
}

fn introspection(section: &Section<'_, '_>, table: &mut VerifierTable) -> Option<VerifierKind> {
    let reader = section.reader;
    let client_id = section.value("client_id");
    let secret = section.one_of(
        ("client_secret_env", table.client_secret_env.take()),
        ("client_secret_file", table.client_secret_file.take()),
    );
    let has_token = section.value("token_env").or_else(|| section.value("token_file"));
    match (client_id, &secret, has_token) {
        (Some(_), Some(_), None) | (None, None, Some(_)) => {}
        (Some(value), None, None) => reader.error(
            &value.span(),
            "`client_id` needs its secret",
            "`client_secret_env` or `client_secret_file`",
        ),
        (None, Some((_, span)), None) => {
            reader.error(span, "a client secret needs `client_id`", "add `client_id`");
        }
        (_, _, Some(value)) => reader.error(
            &value.span(),
            "a token and a client cannot stand together",
            "keep one of them",
        ),
        (None, None, None) => section.missing(
            "client_id",
            "and `client_secret_env`: an introspection endpoint authenticates its clients",
        ),
    }
    let mut asked = asked(section, table)?;
    if let (Some(id), Some((Some(secret), _))) = (&table.client_id, secret) {
        asked.authorization = Some(basic(id, &secret));
    }
    let audience = table.audience.take().unwrap_or_default();
    Some(VerifierKind::Introspection { asked, issuer: table.issuer.take(), audience })
}

/// RFC 6749, section 2.3.1: both "encoded using the application/x-www-form-urlencoded encoding
/// algorithm".
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

/// Returns where sessions are: in a Redis of their own, or in that of `[store]`.
fn redis(
    section: &Section<'_, '_>,
    store: &Store,
    table: &mut VerifierTable,
) -> Option<SessionKeys> {
    let reader = section.reader;
    let password = section.one_of(
        ("password_env", table.password_env.take()),
        ("password_file", table.password_file.take()),
    );
    check_text(section, password.as_ref());
    let cookie_secret = section.one_of(
        ("cookie_secret_env", table.cookie_secret_env.take()),
        ("cookie_secret_file", table.cookie_secret_file.take()),
    );
    if section.value("key").is_none() {
        section.missing("key", "the key that holds a session: `key = \"sess:{id}\"`");
    }
    let (before, after) = table.key.take()?;
    let (timeout, max_in_flight) = (table.timeout, table.concurrency);
    let own = |key: &str, span: &Span| {
        reader.error(
            span,
            format!("`{key}` goes with a `url` of its own"),
            "the store has its own",
        );
    };
    let redis = match (section.value("url"), store) {
        (Some(value), _) => {
            let (tls, layout) = parse_url(table.url.as_ref()?)
                .map_err(|(message, help)| reader.error(&value.span(), message, help))
                .ok()?;
            Redis {
                region: None,
                layout,
                tls,
                ca_file: table.ca_file.take(),
                username: table.username.take(),
                password: password.and_then(|(password, _)| password),
                sentinel_password: None,
                prefix: "usher:".to_owned(),
                timeout,
                acknowledge: None,
                max_in_flight,
                watched: None,
                multi_use: false,
            }
        }
        (None, Store::Redis(redis)) => {
            for key in ["ca_file", "username"] {
                if let Some(value) = section.value(key) {
                    own(key, &value.span());
                }
            }
            if let Some((_, span)) = password {
                own("a password", &span);
            }
            Redis { timeout, acknowledge: None, max_in_flight, ..(**redis).clone() }
        }
        (None, Store::Memory { .. }) => {
            section.missing(
                "url",
                "`url = \"redis://127.0.0.1:6379\"`; or a [store] in Redis, whose connection it \
                 shares",
            );
            return None;
        }
    };
    Some(SessionKeys {
        redis,
        before,
        after,
        cookie_secret: cookie_secret.and_then(|(secret, _)| secret),
        max_answer_bytes: table.max_answer_bytes,
    })
}
