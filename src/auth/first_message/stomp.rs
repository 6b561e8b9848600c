//! STOMP 1.0 to 1.2 in WebSocket messages: the token is in `Authorization` or `passcode` of the
//! CONNECT frame.
//!
//! The broker gets the frame without the client's login, or with the login of a service, and
//! answers CONNECTED itself. STOMP has no message for a renewal.

use super::{AuthMessage, FirstMessageContent, Refused};
use crate::auth::credential::Proof;
use crate::config::{FirstMessage, Forward};
use crate::model::faults::FirstMessageFault;
use crate::model::secret::Secret;
use crate::ws::frame::Message;

/// Headers that can carry a token.
const SECRETS: [&str; 2] = ["authorization", "passcode"];
/// Headers of a login.
const LOGIN: [&str; 3] = ["authorization", "passcode", "login"];
/// Brokers skip these characters between two frames; NUL is an addition of RabbitMQ.
const BETWEEN_FRAMES: [char; 3] = ['\r', '\n', '\0'];

pub(super) fn read(
    rules: &FirstMessage,
    message: &Message,
) -> Result<FirstMessageContent, FirstMessageFault> {
    let text = std::str::from_utf8(&message.payload).map_err(|_| FirstMessageFault::NotAuth)?;
    // Heart-beats are single line ends.
    let text = text.trim_start_matches(['\r', '\n']);
    if text.is_empty() {
        return Ok(FirstMessageContent::More(None));
    }
    let (frame, rest) = text.split_once('\0').ok_or(FirstMessageFault::NotAuth)?;
    if !is_login(frame) || has_bare_carriage_return(frame) {
        return Err(FirstMessageFault::NotAuth);
    }
    let token = token_of(frame)?;
    let rest = rest.trim_start_matches(BETWEEN_FRAMES);
    if is_login(rest) {
        return Err(FirstMessageFault::TwoCredentials);
    }
    let forward = match rules.forward {
        Forward::Consume => None,
        _ => Some(Message {
            is_text: message.is_text,
            payload: format!("{}\0", outgoing(rules, frame)).into_bytes(),
        }),
    };
    let rest = (!rest.is_empty())
        .then(|| Message { is_text: message.is_text, payload: rest.as_bytes().to_vec() });
    Ok(FirstMessageContent::Auth(AuthMessage {
        proof: Proof::Token(Secret::from(token)),
        id: None,
        forward,
        rest,
    }))
}

/// Returns a message for the upstream in which each later CONNECT frame is without the credential.
/// The broker refuses such a frame. `None`: the message has none.
pub(super) fn login_again(rules: &FirstMessage, message: &[u8]) -> Option<String> {
    // The frames of a message follow a NUL, and nearly every message is one frame.
    let first_end = message.iter().position(|byte| *byte == 0).unwrap_or(message.len());
    let (first, others) = message.split_at(first_end);
    let is_more = |byte: &u8| !b"\r\n\0".contains(byte);
    let begins_like_login = first.iter().find(|byte| is_more(byte)).is_some_and(is_login_letter);
    if !begins_like_login && !others.iter().any(is_more) {
        return None;
    }
    let text = std::str::from_utf8(message).ok()?;
    let mut rest = text.trim_start_matches(BETWEEN_FRAMES);
    let mut changed = String::new();
    let mut has_login = false;
    while !rest.is_empty() {
        let (frame, after) = split_frame(rest);
        if is_login(frame) {
            has_login = true;
            // With a carriage return inside a line it is not certain where a header begins: none
            // goes on.
            changed.push_str(&if has_bare_carriage_return(frame) {
                format!("{}\n\n", command_of(frame))
            } else {
                outgoing(rules, frame)
            });
        } else {
            changed.push_str(frame);
        }
        rest = after.trim_start_matches(BETWEEN_FRAMES);
        changed.push_str(after.get(..after.len() - rest.len()).unwrap_or_default());
    }
    has_login.then_some(changed)
}

fn is_login_letter(byte: &u8) -> bool {
    b"CS".contains(byte)
}

/// Splits the first frame from the rest, which begins with its NUL. A body with `content-length`
/// can contain NULs.
fn split_frame(text: &str) -> (&str, &str) {
    let head = [text.find("\n\n").map(|at| at + 2), text.find("\n\r\n").map(|at| at + 3)];
    let head = head.into_iter().flatten().min();
    let nul = text.find('\0').unwrap_or(text.len());
    let end = head.filter(|head| *head <= nul && !is_login(text)).and_then(|head| {
        let lines = text.get(..head)?.split('\n').map(|line| line.trim_end_matches('\r'));
        let length = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == "content-length")?;
        let end = head.checked_add(length.1.trim().parse().ok()?)?;
        // A length that does not lead to a NUL is wrong, and the first NUL is the end.
        (text.as_bytes().get(end) == Some(&0)).then_some(end)
    });
    text.split_at_checked(end.unwrap_or(nul)).unwrap_or((text, ""))
}

/// Returns true if the broker's first frame is CONNECTED. `None`: more bytes are needed.
pub(super) fn is_accepted(sent: &[u8]) -> Option<bool> {
    const CONNECTED: &[u8] = b"CONNECTED";
    let frame = sent
        .iter()
        .position(|byte| !b"\r\n".contains(byte))
        .and_then(|begin| sent.get(begin..))
        .unwrap_or_default();
    match frame.strip_prefix(CONNECTED) {
        Some([]) => None,
        Some(rest) => Some(rest.starts_with(b"\n") || rest.starts_with(b"\r")),
        None if CONNECTED.starts_with(frame) => None,
        None => Some(false),
    }
}

fn is_login(frame: &str) -> bool {
    matches!(command_of(frame), "CONNECT" | "STOMP")
}

/// Returns the command, also for a reader that ends lines at a bare carriage return.
fn command_of(frame: &str) -> &str {
    frame.split(['\r', '\n']).next().unwrap_or_default()
}

/// Returns true if the frame has a carriage return inside a line. A reader that ends lines there
/// would find headers that Usher does not check.
fn has_bare_carriage_return(frame: &str) -> bool {
    frame.split('\n').any(|line| line.strip_suffix('\r').unwrap_or(line).contains('\r'))
}

/// Returns the one token. Refuses two tokens, also in a repeated header: STOMP uses the first one,
/// and some brokers the last.
fn token_of(frame: &str) -> Result<&str, FirstMessageFault> {
    let lines = frame.split('\n').skip(1).map(|line| line.trim_end_matches('\r'));
    let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let mut tokens =
        headers.filter(|(name, _)| is_one_of(name, &SECRETS)).filter_map(|(name, value)| {
            let value = value.trim();
            let token = match value.split_once(' ') {
                Some((scheme, token))
                    if !name.eq_ignore_ascii_case("passcode")
                        && scheme.eq_ignore_ascii_case("bearer") =>
                {
                    token.trim()
                }
                _ => value,
            };
            (!token.is_empty()).then_some(token)
        });
    match (tokens.next(), tokens.next()) {
        (Some(token), None) => Ok(token),
        (None, _) => Err(FirstMessageFault::MissingToken),
        (Some(_), Some(_)) => Err(FirstMessageFault::TwoCredentials),
    }
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|one| name.trim().eq_ignore_ascii_case(one))
}

/// Returns the frame for the upstream. Every header that can carry the secret is changed, not only
/// the one that does.
fn outgoing(rules: &FirstMessage, frame: &str) -> String {
    if rules.forward == Forward::Forward {
        return frame.to_owned();
    }
    let mut lines = Vec::new();
    let mut in_headers = true;
    for line in frame.split('\n') {
        in_headers &= lines.is_empty() || !line.trim_end_matches('\r').is_empty();
        let name =
            line.split_once(':').map(|(name, _)| name).filter(|_| in_headers).unwrap_or_default();
        match rules.forward {
            Forward::Redact if is_one_of(name, &SECRETS) => {
                lines.push(format!("{name}:{}", if line.ends_with('\r') { "\r" } else { "" }));
            }
            Forward::Remove | Forward::Replace if is_one_of(name, &LOGIN) => {}
            _ => lines.push(line.to_owned()),
        }
        if let (Forward::Replace, 1, Some(login)) =
            (rules.forward, lines.len(), &rules.upstream_login)
            && in_headers
            && name.is_empty()
        {
            let end = if line.ends_with('\r') { "\r" } else { "" };
            lines.push(format!("login:{}{end}", login.user));
            lines.push(format!("passcode:{}{end}", login.secret.expose_str().unwrap_or_default()));
        }
    }
    lines.join("\n")
}

pub(super) fn refused(about: &Refused<'_>) -> Message {
    let Refused { code, message, request_id, .. } = about;
    // STOMP 1.2, "Value Encoding". The name of a permission may contain a colon.
    let message =
        message.replace('\\', "\\\\").replace(':', "\\c").replace('\n', "\\n").replace('\r', "\\r");
    Message::text(format!(
        "ERROR\nmessage:{message}\ncode:{code}\nrequest-id:{request_id}\ncontent-length:0\n\n\0"
    ))
}
