//! STOMP 1.0 to 1.2 in WebSocket messages: the token in `Authorization` or `passcode` of the CONNECT frame.
//!
//! The broker gets the frame with the secret blanked and answers CONNECTED itself. STOMP has no words for a renewal.

use super::{AuthMessage, FirstMessageFault, Heard, Refused};
use crate::auth::credential::Proof;
use crate::config::secret::Secret;
use crate::config::{FirstMessage, Forward};
use crate::ws::frame::Message;

pub(super) fn hear(rules: &FirstMessage, message: &Message) -> Result<Heard, FirstMessageFault> {
    let text = std::str::from_utf8(&message.payload).map_err(|_| FirstMessageFault::NotAuth)?;
    // Heart-beats are bare line ends.
    let text = text.trim_start_matches(['\r', '\n']);
    if text.is_empty() {
        return Ok(Heard::More(None));
    }
    let (frame, rest) = text.split_once('\0').ok_or(FirstMessageFault::NotAuth)?;
    let mut lines = frame.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    if !matches!(lines.next(), Some("CONNECT" | "STOMP")) {
        return Err(FirstMessageFault::NotAuth);
    }
    let headers: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    let value_of = |wanted: &str| {
        headers.iter().filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    };
    let token = match value_of("authorization") {
        Some(value) => match value.trim().split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => value.trim(),
        },
        None => value_of("passcode").unwrap_or_default(),
    };
    if token.is_empty() {
        return Err(FirstMessageFault::MissingToken);
    }
    let forward = match rules.forward {
        Forward::Consume => None,
        Forward::Forward => Some(frame.to_owned()),
        Forward::Redact => Some(redacted(frame)),
    };
    let forward = forward.map(|frame| Message { is_text: message.is_text, payload: format!("{frame}\0").into_bytes() });
    let rest = rest.trim_start_matches(['\r', '\n']);
    let rest = (!rest.is_empty()).then(|| Message { is_text: message.is_text, payload: rest.as_bytes().to_vec() });
    Ok(Heard::Auth(AuthMessage { proof: Proof::Token(Secret::from(token)), id: None, forward, rest }))
}

/// Blanks every header that can carry the secret, whichever was used.
fn redacted(frame: &str) -> String {
    let mut in_headers = true;
    let lines = frame.split('\n').map(|line| {
        in_headers &= !line.trim_end_matches('\r').is_empty();
        match line.split_once(':') {
            Some((name, _)) if in_headers && ["authorization", "passcode"].iter().any(|secret| name.eq_ignore_ascii_case(secret)) => {
                let end = if line.ends_with('\r') { "\r" } else { "" };
                format!("{name}:{end}")
            }
            _ => line.to_owned(),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

pub(super) fn refused(about: &Refused<'_>) -> Message {
    let Refused { code, message, request_id, .. } = about;
    // STOMP 1.2, "Value Encoding"; a permission's name may have a colon in it.
    let message = message.replace('\\', "\\\\").replace(':', "\\c").replace('\n', "\\n");
    Message::text(format!("ERROR\nmessage:{message}\ncode:{code}\nrequest-id:{request_id}\ncontent-length:0\n\n\0"))
}
