//! Formats untrusted text and times for a terminal.

use std::fmt::Write;

use crate::base::clock::UnixMillis;

/// Escapes characters that would control the terminal. User names and claims come from tokens, so
/// they are not trusted.
pub fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(
                c,
                '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            )
    };
    text.chars().fold(String::new(), |mut printable, c| {
        if steers(c) {
            printable.extend(c.escape_unicode());
        } else {
            printable.push(c);
        }
        printable
    })
}

/// Returns the text encoded for a URL query.
pub fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
        encoded
    })
}

/// Returns a relative time such as `in 10 min` or `2 h ago`.
pub fn distance(at: UnixMillis, now: UnixMillis) -> String {
    let (ahead, behind) = (at.since(now).as_secs(), now.since(at).as_secs());
    if ahead > 0 { format!("in {}", span(ahead)) } else { format!("{} ago", span(behind)) }
}

pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
