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
        /// http (POST the credential as JSON, get claims), introspection (RFC 7662) or redis
        /// (sessions under a key).
        kind: OneOf<VerifierProtocol>, required "http";
        /// The URL of the service; for redis that of the sessions, by default the store's.
        url: Text, optional "https://login.example.com/verify";
        /// Send credentials over plain http to another machine; the network between the two can
        /// then read them.
        allow_plain: Flag, default false,
            because "an attacker on the network could read every credential",
            change_when "only you control the network between the two";
        /// PEM file of the authorities for its server's certificate, instead of the system's.
        ca_file: FileToRead, optional "authorities.pem";
        /// The client id of Usher at the introspection endpoint.
        client_id: Text, optional "usher";
        /// Environment variable with the secret of that client.
        client_secret_env: SecretVariable, optional "USHER_CLIENT_SECRET";
        /// File with the secret of that client, instead of `client_secret_env`.
        client_secret_file: SecretFile, optional "client-secret.txt";
        /// Environment variable with the bearer token that Usher sends to the service.
        token_env: SecretVariable, optional "USHER_VERIFIER_TOKEN";
        /// File with that token, instead of `token_env`.
        token_file: SecretFile, optional "verifier-token.txt";
        /// The `iss` that an introspected token must have; not checked by default.
        issuer: Text, optional "https://id.example.com";
        /// Accepted audiences: the `aud` of an introspected token must contain at least one; not
        /// checked by default.
        audience: List<Text>, optional ["chat"];
        /// The user name at Redis, if it is not the default user.
        username: Text, optional "usher";
        /// Environment variable with the password of Redis.
        password_env: SecretVariable, optional "USHER_SESSIONS_PASSWORD";
        /// File with the password of Redis, instead of `password_env`.
        password_file: SecretFile, optional "sessions-password";
        /// The key of a session in Redis, with {id} in place of the session id.
        key: SessionKey, optional "sess:{id}";
        /// Environment variable with the secret that signs session cookies, as in express-session.
        cookie_secret_env: SecretVariable, optional "USHER_COOKIE_SECRET";
        /// File with that secret, instead of `cookie_secret_env`.
        cookie_secret_file: SecretFile, optional "cookie-secret.txt";
        /// How long one answer may take, including the wait in the queue.
        timeout: PositiveDuration, default "1s",
            because "a client waits for it during its handshake; a healthy verifier is faster",
            change_when "the verifier is far away";
        /// Concurrent requests.
        concurrency: Count, default 64,
            because "more requests would make a slow verifier slower",
            change_when "the verifier can handle more, or only fewer";
        /// Requests that wait in the queue.
        max_waiting: Count, default 1000,
            because "in a longer queue, a request would wait for longer than `timeout`",
            change_when "the verifier can handle more, or only fewer";
        /// How long an accepted credential is cached, but never after it expires.
        cache_ttl: key_type::Duration, default "10s",
            because "a page that reconnects causes no new request; a logout takes effect within \
                ten seconds",
            change_when "logouts must take effect at once: `\"0s\"`";
        /// How long a rejected credential is cached.
        negative_cache_ttl: key_type::Duration, default "5s",
            because "a client that repeats a wrong credential causes no new request",
            change_when "credentials become valid shortly after their first use";
        /// Cached credentials, for each of accepted and rejected ones.
        cache_entries: Count, default 10000,
            because "the memory for clients must not grow with their number";
        /// The claim that names the user: a name, or a JSON pointer.
        user_claim: Text, default "sub",
            because "the name in RFC 7662";
        /// The claim that lists permissions; the default for introspection is scope.
        permissions_claim: Text, derived "permissions",
            because "`permissions`; for introspection `scope`, the name in RFC 7662";
        /// The claim that names the login session.
        session_claim: Text, default "sid",
            because "the claim of OpenID Connect";
        /// The claim with the expiry time of the credential.
        expiry_claim: Text, default "exp",
            because "the name in RFC 7662";
        /// The largest credential; a longer one is rejected.
        max_token_bytes: Size, default "8KiB",
            because "as `issuer.max_token_bytes`";
        /// The largest answer.
        max_answer_bytes: Size, default "64KiB",
            because "much larger than any set of claims";
        /// The longest time that an answer is valid.
        max_lifetime: PositiveDuration, default "12h",
            because "an answer without an expiry time must expire too";
        /// How often open sessions are verified again; never by default.
        revalidate: PositiveDuration, optional "1m",
            at_least "1s" "it is one request to the verifier for every open session",
            because "it costs one request for each open session and interval; only you know what \
                load the verifier can handle",
            change_when "a logout must close sockets";
        /// How long an open session continues while the verifier does not answer; by default until
        /// its grant expires.
        revalidate_grace: key_type::Duration, optional "5m",
            because "a short outage of the verifier should not close every socket",
            change_when "an unconfirmed session is worse than no session";
    }
}

/// The protocol of a verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifierProtocol {
    Http,
    Introspection,
    Redis,
}

impl Choice for VerifierProtocol {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("http", Self::Http), ("introspection", Self::Introspection), ("redis", Self::Redis)]
    }
}

/// The key of a session, as the text before the id and the text after it.
pub struct SessionKey;

impl TextType for SessionKey {
    type Value = (String, String);
    const NAME: &str = "key with `{id}`";
    const PATTERN: Option<&str> = Some(r"^.+\{id\}");

    fn parse(key: &str, text: &str) -> Result<Self::Value, String> {
        text.split_once("{id}")
            .filter(|(before, after)| !before.is_empty() && !after.contains("{id}"))
            .map(|(before, after)| (before.to_owned(), after.to_owned()))
            .ok_or_else(|| {
                format!("`{key}` must have {{id}} once, after a prefix; write \"sess:{{id}}\"")
            })
    }
}

// The keys that not every kind uses. Reading a name that is not declared fails in tests.
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
        Some(VerifierProtocol::Redis) => {
            redis(section, store, &mut table).map(|keys| VerifierKind::Redis(Box::new(keys)))
        }
        Some(VerifierProtocol::Introspection) => introspection(section, &mut table),
        _ => http_endpoint(section, &mut table).map(VerifierKind::Http),
    };
    if let Some(kind) = table.kind {
        check_foreign_keys(section, kind);
    }
    let is_introspection = table.kind == Some(VerifierProtocol::Introspection);
    let permissions_claim = if is_introspection { "scope" } else { "permissions" };
    if let Some(value) =
        section.value("revalidate_grace").filter(|_| section.value("revalidate").is_none())
    {
        section.reader.error(
            &value.span(),
            "`revalidate_grace` needs `revalidate`",
            "add `revalidate`, or remove `revalidate_grace`",
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
            format!("an issuer has the name `{name}` already"),
            "choose another name: it is part of the identity of users",
        );
    }
}

fn check_foreign_keys(section: &Section<'_, '_>, kind: VerifierProtocol) {
    let (foreign, name): (&[&[&'static str]], _) = match kind {
        VerifierProtocol::Http => (&[&INTROSPECTION_KEYS, &REDIS_KEYS], "http"),
        VerifierProtocol::Introspection => (&[&REDIS_KEYS], "introspection"),
        VerifierProtocol::Redis => (&[&HTTP_KEYS, &INTROSPECTION_KEYS], "redis"),
    };
    for key in foreign.iter().copied().flatten() {
        if let Some(value) = section.value(key) {
            section.reader.error(
                &value.span(),
                format!("`{key}` is not used with `kind = \"{name}\"`"),
                "remove it",
            );
        }
    }
}

fn http_endpoint(section: &Section<'_, '_>, table: &mut VerifierTable) -> Option<VerifierEndpoint> {
    let reader = section.reader;
    if let Some(value) = section.value("allow_plain").filter(|_| table.allow_plain) {
        let message = "credentials are sent over plain http: the network can read them";
        reader.report(&value.span(), Diagnostic::warning(message));
    }
    let url = section.value("url");
    if url.is_none() {
        section.missing(
            "url",
            "add the URL of the service: `url = \"https://id.example.com/verify\"`",
        );
    }
    let place = table.url.as_ref().and_then(|text| {
        let wrong = |message| {
            let span = url.map_or(0..0, toml::Spanned::span);
            let help = "write https; plain http works only for this machine or with `allow_plain`";
            reader.error(&span, message, help);
        };
        ServiceUrl::parse(text, table.allow_plain).map_err(wrong).ok()
    });
    let token = section
        .one_of(("token_env", table.token_env.take()), ("token_file", table.token_file.take()));
    let authorization = token.and_then(|(token, span)| {
        let token = token?;
        if !token.expose().iter().all(u8::is_ascii_graphic) {
            let message = "the token must be one word of visible ASCII";
            reader.error(&span, message, "check the file or the variable that holds it");
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
            "`client_id` needs a secret",
            "add `client_secret_env` or `client_secret_file`",
        ),
        (None, Some((_, span)), None) => {
            reader.error(span, "a client secret needs `client_id`", "add `client_id`");
        }
        (_, _, Some(value)) => reader.error(
            &value.span(),
            "a token and a client secret cannot be combined",
            "remove one of them",
        ),
        (None, None, None) => section.missing(
            "client_id",
            "add `client_id` and `client_secret_env`: an introspection endpoint authenticates its \
             clients",
        ),
    }
    let mut asked = http_endpoint(section, table)?;
    if let (Some(id), Some((Some(secret), _))) = (&table.client_id, secret) {
        asked.authorization = Some(basic(id, &secret));
    }
    let audience = table.audience.take().unwrap_or_default();
    Some(VerifierKind::Introspection { asked, issuer: table.issuer.take(), audience })
}

/// Returns the value of `Authorization`. Id and secret are form-encoded first (RFC 6749 section
/// 2.3.1).
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

/// Returns the Redis of the sessions: their own, or that of `[store]`.
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
        section.missing("key", "add the key of a session: `key = \"sess:{id}\"`");
    }
    let (before, after) = table.key.take()?;
    let (timeout, max_in_flight) = (table.timeout, table.concurrency);
    let own = |key: &str, span: &Span| {
        reader.error(
            span,
            format!("{key} needs a `url`"),
            "without `url`, the sessions use the connection of [store]",
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
                    own(&format!("`{key}`"), &value.span());
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
                "add `url = \"redis://127.0.0.1:6379\"`, or a [store] in Redis, to share its \
                 connection",
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
