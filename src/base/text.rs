//! How what came from outside is written on a terminal, and how times are.

use std::fmt::Write;

use crate::base::clock::UnixMillis;

/// A user's name, or a claim, comes from a token: what would steer the terminal is written out.
pub fn shown(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().fold(String::new(), |mut shown, c| {
        if steers(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
        shown
    })
}

/// As a query carries it.
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

/// `in 10 min`, or `2 h ago`.
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
