//! `[first_message]`, at the top of the file and in a route.

use serde_json::Value as Json;

use crate::config::declare::{Table, table};
use crate::config::key_type::{
    Choice, Flag, KeyType, OneOf, PositiveDuration, SecretFile, SecretVariable, Size, Text,
    TextType,
};
use crate::config::reader::{Entry, Section, Span};
use crate::config::{FirstMessage, Forward, Preset, UpstreamLogin};
use crate::model::secret::Secret;

table! {
    /// How a client authenticates with its first message; a route can override each key.
    pub struct FirstMessageTable: [first_message] {
        /// The dialect: json, graphql-transport-ws, socketio, home-assistant, stomp or mqtt.
        preset: OneOf<Preset>, default "json",
            because "the dialect for clients without a protocol of their own",
            change_when "the clients speak another protocol";
        /// How long after the 101 the client may take to send its first message.
        timeout: PositiveDuration, default "5s",
            because "graphql-ws waits for 3 s, Home Assistant for 10 s. Together with the TLS \
                handshake and the request head it stays within the published 15 s",
            change_when "mobile radios wake slowly: 10 s";
        /// The largest first message, after decompression.
        max_bytes: Size, default "16KiB",
            at_most "64KiB" "this is the most memory that an unauthenticated client may use",
            because "twice the longest token that an issuer may send",
            change_when "tokens are longer";
        /// Answer with auth_ok, or with the equivalent of the dialect. A login that the upstream
        /// gets is answered by the upstream alone.
        ack: Flag, default true,
            because "clients wait for the answer before they send anything else";
        /// How the first message reaches the upstream: consume (not at all), forward (unchanged),
        /// redact (without the secret), remove (without the login) or replace (with the login
        /// below). The default is consume for json and home-assistant, remove for stomp and mqtt,
        /// and redact for the others.
        forward: OneOf<Forward>, derived "consume",
            because "by preset. A backend that trusts the signed context needs no credential; a \
                broker cannot start without its first packet, and a broker that accepts anonymous \
                clients rejects a user name with an empty password",
            change_when "the backend reads the message, or the broker needs a login";
        /// With replace, the user name for the upstream; only for stomp and mqtt.
        user: Text, optional "usher";
        /// With replace, the environment variable with the secret for the upstream.
        secret_env: SecretVariable, optional "BROKER_PASSWORD";
        /// With replace, the file with the secret for the upstream, instead of `secret_env`.
        secret_file: SecretFile, optional "broker-password";
        /// The place of the type in a JSON message.
        type_pointer: JsonPointer, default "/type",
            because "most JSON protocols have it there";
        /// The type of the message that carries the credential.
        type_value: Text, default "auth",
            because "the type that the specification gives it";
        /// The place of the token in a JSON message; each preset has its own.
        token_pointer: JsonPointer, derived "/payload/token",
            because "by preset: `/token` for socketio, `/access_token` for home-assistant";
        /// The place of the ticket in a JSON message, for clients that send one instead of a token.
        ticket_pointer: JsonPointer, derived "/payload/ticket",
            because "by preset: `/ticket` for socketio and home-assistant";
        /// A message that Usher sends to the client first.
        greeting: JsonText, optional "{\"type\":\"auth_required\"}";
    }
}

impl Choice for Preset {
    fn choices() -> Vec<(&'static str, Self)> {
        Self::ALL.map(|preset| (preset.name(), preset)).to_vec()
    }
}

impl Choice for Forward {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![
            ("consume", Self::Consume),
            ("forward", Self::Forward),
            ("redact", Self::Redact),
            ("remove", Self::Remove),
            ("replace", Self::Replace),
        ]
    }
}

/// RFC 6901: empty, or a slash before each name.
pub struct JsonPointer;

impl TextType for JsonPointer {
    type Value = String;
    const NAME: &str = "JSON pointer";
    const PATTERN: Option<&str> = Some("^(/.*)?$");

    fn parse(_key: &str, text: &str) -> Result<String, String> {
        match text.is_empty() || text.starts_with('/') {
            true => Ok(text.to_owned()),
            false => Err(format!("`{text}` is not a JSON pointer; write \"/payload/token\"")),
        }
    }
}

/// JSON in a string.
pub struct JsonText;

impl KeyType for JsonText {
    type Value = String;

    fn name() -> String {
        "JSON".to_owned()
    }

    fn schema() -> Json {
        Text::schema()
    }

    fn read(entry: &Entry<'_>) -> Option<String> {
        let text = entry.text()?;
        if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
            entry.error(
                format!("`{}` must be JSON", entry.key),
                format!("for example `{} = '{{\"type\":\"auth_required\"}}'`", entry.key),
            );
        }
        Some(text)
    }
}

/// Reports the mistakes that one table has by itself, without the other one.
pub fn check(section: &Section<'_, '_>) {
    let table = FirstMessageTable::read(section);
    if table.forward.is_some_and(|forward| forward != Forward::Replace) {
        report_unused_login(section);
    }
}

/// Reads the table of a route. Keys that it leaves out come from the table at the top of the file.
pub fn first_message(own: &Section<'_, '_>, base: &Section<'_, '_>) -> FirstMessage {
    let section = own.over(base);
    let table = FirstMessageTable::read(&section);
    check(own);
    let preset = table.preset;
    if let Some(value) = section.value("forward")
        && table.forward == Some(Forward::Consume)
        && preset.needs_its_first_message()
    {
        section.reader.error(
            &value.span(),
            format!("a server of the protocol `{}` waits for its first message", preset.name()),
            "write `forward = \"redact\"`, or leave it out",
        );
    }
    let secret =
        section.one_of(("secret_env", table.secret_env), ("secret_file", table.secret_file));
    let upstream_login = match table.forward {
        Some(Forward::Replace) => upstream_login(&section, preset, table.user, secret),
        // A route may override the login of the table for all routes.
        Some(_) => None,
        None => {
            report_unused_login(&section);
            None
        }
    };
    let (token, ticket, greeting) = preset.places();
    let token = table.token_pointer.unwrap_or_else(|| token.to_owned());
    let ticket = table.ticket_pointer.unwrap_or_else(|| ticket.to_owned());
    check_pointers(&section, &token, &ticket);
    FirstMessage {
        preset,
        timeout: table.timeout,
        max_bytes: table.max_bytes,
        ack: table.ack,
        forward: table.forward.unwrap_or_else(|| preset.forward()),
        upstream_login,
        type_pointer: table.type_pointer,
        type_value: table.type_value,
        token_pointer: token,
        ticket_pointer: ticket,
        greeting: table.greeting.or(greeting.map(str::to_owned)),
    }
}

/// Rejects a token inside the ticket, and a ticket inside the token.
fn check_pointers(section: &Section<'_, '_>, token: &str, ticket: &str) {
    let Some(value) = section.value("token_pointer").or_else(|| section.value("ticket_pointer"))
    else {
        return;
    };
    let is_within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if is_within(token, ticket) || is_within(ticket, token) {
        section.reader.error(
            &value.span(),
            format!("the token at `{token}` and the ticket at `{ticket}` overlap"),
            "give them two separate places",
        );
    }
}

fn report_unused_login(section: &Section<'_, '_>) {
    let user = section.value("user");
    let secret = section.value("secret_env").or_else(|| section.value("secret_file"));
    for value in user.into_iter().chain(secret) {
        section.reader.error(
            &value.span(),
            "a login for the upstream needs `forward = \"replace\"`",
            "write `forward = \"replace\"`, or remove the login",
        );
    }
}

/// Returns the login of `forward = "replace"`, and reports its mistakes.
fn upstream_login(
    section: &Section<'_, '_>,
    preset: Preset,
    user: Option<String>,
    secret: Option<(Option<Secret>, Span)>,
) -> Option<UpstreamLogin> {
    let reader = section.reader;
    let span_of = |key| section.value(key).map_or(0..0, toml::Spanned::span);
    let Some((secret, secret_span)) = secret else {
        let help = "add `secret_env` or `secret_file` with a secret that the upstream accepts";
        reader.error(&span_of("forward"), "`forward = \"replace\"` needs a secret", help);
        return None;
    };
    let secret = secret?;
    let user = user.filter(|user| !user.is_empty());
    match (&user, preset.has_user_name()) {
        (None, true) => reader.error(
            &span_of("forward"),
            format!("`forward = \"replace\"` with the preset `{}` needs `user`", preset.name()),
            "add `user`: the name that belongs to the secret",
        ),
        (Some(_), false) => reader.error(
            &span_of("user"),
            format!("a login of the preset `{}` has no user name", preset.name()),
            "remove `user`",
        ),
        _ => {}
    }
    if preset == Preset::Stomp {
        check_stomp_word(section, &span_of("user"), "`user`", user.as_deref());
        check_stomp_word(section, &secret_span, "the secret", secret.expose_str());
    }
    // A line end in the secret or the user name would begin another STOMP header.
    let is_one_line = |text: &str| !text.chars().any(char::is_control);
    if !secret.expose_str().is_some_and(is_one_line) {
        let message = "the secret must be one line of UTF-8";
        reader.error(&secret_span, message, "remove its control characters");
    }
    let longest = usize::from(u16::MAX);
    if let Some(user) = user.as_ref().filter(|user| !is_one_line(user) || user.len() > longest) {
        let message = format!("`user` has control characters or is too long: {} bytes", user.len());
        let help = "write at most 65535 bytes without control characters";
        reader.error(&span_of("user"), message, help);
    }
    if secret.len() > longest {
        let message = "the secret is longer than 65535 bytes";
        reader.error(&secret_span, message, "MQTT and STOMP cannot carry a longer one");
    }
    Some(UpstreamLogin { user: user.unwrap_or_default(), secret })
}

/// Rejects a word that STOMP brokers read in two different ways.
fn check_stomp_word(section: &Section<'_, '_>, span: &Span, name: &str, word: Option<&str>) {
    let Some(word) = word else { return };
    // RabbitMQ decodes escapes in CONNECT. STOMP 1.2 has no escapes there.
    if word.contains('\\') {
        let message = format!("{name} has a backslash, which STOMP brokers read in two ways");
        section.reader.error(span, message, "choose one without a backslash");
    }
    // STOMP 1.0 trims white space, STOMP 1.2 does not.
    if word.trim() != word {
        let message =
            format!("{name} begins or ends with white space, which STOMP brokers read in two ways");
        section.reader.error(span, message, "choose one without white space at either end");
    }
}
