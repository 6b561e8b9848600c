//! What holds for live sessions: `[first_message]` and `[reauth]`, in all and for one route, and `[keepalive]`.

use super::*;

/// What a `[first_message]` table says; what it leaves out comes from the table above, then from the preset.
#[derive(Clone, Default)]
pub(super) struct FirstMessageTable {
    preset: Option<Preset>,
    timeout: Option<Duration>,
    max_bytes: Option<usize>,
    ack: Option<bool>,
    forward: Option<(Forward, Span)>,
    type_pointer: Option<String>,
    type_value: Option<String>,
    token_pointer: Option<String>,
    ticket_pointer: Option<String>,
    greeting: Option<String>,
}

pub(super) fn first_message_table(section: &Section<'_, '_>) -> FirstMessageTable {
    let reader = section.reader;
    let pointer = |key| section.parsed(key, json_pointer);
    let greeting = section.text("greeting").map(|(text, span)| {
        if serde_json::from_str::<serde_json::Value>(&text).is_err() {
            reader.error(&span, "`greeting` is not JSON", "such as `greeting = '{\"type\":\"auth_required\"}'`");
        }
        text
    });
    let table = FirstMessageTable {
        preset: chosen(section, "preset", &Preset::ALL.map(|preset| (preset.name(), preset))),
        timeout: section.value("timeout").map(|_| positive(section, "timeout", 5 * SECOND)),
        max_bytes: section.value("max_bytes").map(|_| section.size("max_bytes", 16 << 10)),
        ack: section.value("ack").map(|_| section.boolean("ack", true)),
        forward: chosen(section, "forward", &FORWARDS).zip(section.value("forward").map(toml::Spanned::span)),
        type_pointer: pointer("type_pointer"),
        type_value: section.text("type_value").map(|(text, _)| text),
        token_pointer: pointer("token_pointer"),
        ticket_pointer: pointer("ticket_pointer"),
        greeting,
    };
    if let Some(value) = section.value("max_bytes").filter(|_| table.max_bytes.is_some_and(|bytes| bytes > 64 << 10)) {
        reader.error(&value.span(), "`max_bytes` is at most 64KiB", "that is what an unauthenticated client may hold");
    }
    section.finish();
    table
}

const FORWARDS: [(&str, Forward); 3] = [("consume", Forward::Consume), ("forward", Forward::Forward), ("redact", Forward::Redact)];

/// RFC 6901: empty, or a slash before each name.
fn json_pointer(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not a JSON pointer; write \"/payload/token\""))
    }
}

impl FirstMessageTable {
    pub(super) fn over(self, base: &Self) -> Self {
        let base = base.clone();
        Self {
            preset: self.preset.or(base.preset),
            timeout: self.timeout.or(base.timeout),
            max_bytes: self.max_bytes.or(base.max_bytes),
            ack: self.ack.or(base.ack),
            forward: self.forward.or(base.forward),
            type_pointer: self.type_pointer.or(base.type_pointer),
            type_value: self.type_value.or(base.type_value),
            token_pointer: self.token_pointer.or(base.token_pointer),
            ticket_pointer: self.ticket_pointer.or(base.ticket_pointer),
            greeting: self.greeting.or(base.greeting),
        }
    }

    pub(super) fn finish(self, reader: &Reader<'_>) -> FirstMessage {
        let preset = self.preset.unwrap_or(Preset::Json);
        if let Some((Forward::Consume, span)) = &self.forward
            && preset.needs_its_first_message()
        {
            let message = format!("a server of the protocol `{}` waits for its first message", preset.name());
            reader.error(span, message, "write `forward = \"redact\"`, or leave it out");
        }
        let (token, ticket, greeting) = preset.places();
        FirstMessage {
            preset,
            timeout: self.timeout.unwrap_or(5 * SECOND),
            max_bytes: self.max_bytes.unwrap_or(16 << 10),
            ack: self.ack.unwrap_or(true),
            forward: self.forward.map_or(preset.forward(), |(forward, _)| forward),
            type_pointer: self.type_pointer.unwrap_or_else(|| "/type".to_owned()),
            type_value: self.type_value.unwrap_or_else(|| "auth".to_owned()),
            token_pointer: self.token_pointer.unwrap_or_else(|| token.to_owned()),
            ticket_pointer: self.ticket_pointer.unwrap_or_else(|| ticket.to_owned()),
            greeting: self.greeting.or(greeting.map(str::to_owned)),
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct ReauthTable {
    mode: Option<(ReauthMode, Span)>,
    before_expiry: Option<Duration>,
    grace: Option<Duration>,
    attempts: Option<usize>,
    max_age: Option<Duration>,
    proactive: Option<bool>,
}

pub(super) fn reauth_table(section: &Section<'_, '_>) -> ReauthTable {
    let modes = [("message", ReauthMode::Message), ("close", ReauthMode::Close), ("off", ReauthMode::Off)];
    let written = |key| section.value(key).map(|_| positive(section, key, SECOND));
    let table = ReauthTable {
        mode: chosen(section, "mode", &modes).zip(section.value("mode").map(toml::Spanned::span)),
        before_expiry: written("before_expiry"),
        grace: written("grace"),
        attempts: section.value("attempts").map(|_| section.count("attempts", 3)),
        max_age: written("max_age"),
        proactive: section.value("proactive").map(|_| section.boolean("proactive", false)),
    };
    section.finish();
    table
}

impl ReauthTable {
    pub(super) fn over(self, base: &Self) -> Self {
        let base = base.clone();
        Self {
            mode: self.mode.or(base.mode),
            before_expiry: self.before_expiry.or(base.before_expiry),
            grace: self.grace.or(base.grace),
            attempts: self.attempts.or(base.attempts),
            max_age: self.max_age.or(base.max_age),
            proactive: self.proactive.or(base.proactive),
        }
    }

    pub(super) fn finish(self, reader: &Reader<'_>, preset: Preset) -> Reauth {
        let default = if preset.can_renew() { ReauthMode::Message } else { ReauthMode::Close };
        if let Some((ReauthMode::Message, span)) = &self.mode
            && !preset.can_renew()
        {
            let message = format!("clients of the preset `{}` cannot be asked for a new token", preset.name());
            reader.error(span, message, "write `mode = \"close\"` for routes of this preset");
        }
        Reauth {
            mode: self.mode.map_or(default, |(mode, _)| mode),
            before_expiry: self.before_expiry.unwrap_or(60 * SECOND),
            grace: self.grace.unwrap_or(30 * SECOND),
            attempts: self.attempts.map_or(3, |attempts| u32::try_from(attempts).unwrap_or(u32::MAX)),
            max_age: self.max_age,
            proactive: self.proactive.unwrap_or(false),
        }
    }
}

pub(super) fn keepalive(section: &Section<'_, '_>) -> Keepalive {
    let keepalive = Keepalive {
        ping: positive(section, "ping", 25 * SECOND),
        idle_timeout: positive(section, "idle_timeout", 75 * SECOND),
        close_timeout: positive(section, "close_timeout", 5 * SECOND),
    };
    if keepalive.ping >= keepalive.idle_timeout {
        let span = section.value("ping").or_else(|| section.value("idle_timeout")).map_or(0..0, toml::Spanned::span);
        let message = format!("`ping` ({:?}) is not shorter than `idle_timeout` ({:?})", keepalive.ping, keepalive.idle_timeout);
        section.reader.error(&span, message, "a client must be pinged before it counts as gone");
    }
    section.finish();
    keepalive
}
