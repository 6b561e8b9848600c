//! Claims as unsigned headers: a value that would change in a header is refused.
//!
//! Servers remove white space around a header value, and read bytes beyond ASCII in different ways.
//! A backend that trusts such a header would see another user than the authenticated one.

use crate::model::faults::UnfitClaim;
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use crate::config::Route;
use crate::model::principal::Principal;

/// Returns the headers that the route names. A claim gives no header if it is absent, an object or
/// an array.
pub fn values(
    route: &Route,
    principal: &Principal,
) -> Result<Vec<(HeaderName, HeaderValue)>, UnfitClaim> {
    let mut headers = Vec::with_capacity(route.identity_headers.len());
    for (name, claim) in &route.identity_headers {
        let Some(text) = text_of(principal, claim) else { continue };
        let unfit = || UnfitClaim { claim: claim.clone(), header: name.clone() };
        headers.push((name.clone(), header_value(&text).ok_or_else(unfit)?));
    }
    Ok(headers)
}

fn text_of(principal: &Principal, claim: &str) -> Option<String> {
    match (claim, principal.claims.get(claim)) {
        ("sub", _) => Some(principal.subject.clone()),
        (_, Some(Value::String(text))) => Some(text.clone()),
        (_, Some(value @ (Value::Number(_) | Value::Bool(_)))) => Some(value.to_string()),
        _ => None,
    }
}

/// Returns a header value that no server changes. RFC 9110 section 5.5: visible ASCII, with spaces
/// only inside. A tab is refused, because it may become a space.
fn header_value(text: &str) -> Option<HeaderValue> {
    let is_kept =
        text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && text.trim_matches(' ') == text;
    HeaderValue::from_str(text).ok().filter(|_| is_kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_header_keeps_is_fit_for_one() {
        for kept in ["alice", "a b", "a  b", "0", "user@example.com", "o=\"x\", y", "", "~!"] {
            assert_eq!(header_value(kept).unwrap().to_str().unwrap(), kept);
        }
        for changed in [
            " admin",
            "admin ",
            " admin ",
            "\tadmin",
            "ad\tmin",
            "j\u{fc}rgen",
            "a\r\nX-Staff: true",
            "a\0",
            "\u{7f}",
            "a\u{a0}",
            " ",
        ] {
            assert!(header_value(changed).is_none(), "{changed:?}");
        }
    }
}
