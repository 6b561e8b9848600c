//! Test identities, for end-to-end tests without an issuer.
//!
//! A client that knows the secret chooses its user: `X-Usher-Bypass: <secret> <user>
//! [<permission>,<permission>]`. Usher accepts it only if the process was started with
//! `--allow-bypass`, regardless of the configuration file.

use crate::model::principal::BYPASS_ISSUER;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Map;

use crate::base::clock::Now;
use crate::config;
use crate::model::faults::InvalidToken;
use crate::model::principal::Principal;
use crate::model::secret::Secret;

const LIFETIME: Duration = Duration::from_secs(3600);

/// Returns the principal of a header value. The client learns only that its value is wrong.
pub fn identify(
    bypass: &config::Bypass,
    shown: &Secret,
    now: Now,
) -> Result<Principal, InvalidToken> {
    let secret =
        bypass.secret.as_ref().filter(|_| bypass.is_allowed).ok_or(InvalidToken::Bypass)?;
    let mut words = shown.expose_str().ok_or(InvalidToken::Bypass)?.split(' ');
    let (Some(first), Some(user), permissions, None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(InvalidToken::Bypass);
    };
    if Secret::from(first) != *secret || user.is_empty() {
        return Err(InvalidToken::Bypass);
    }
    Ok(Principal {
        subject: user.to_owned(),
        issuer: Arc::from(BYPASS_ISSUER),
        token_id: None,
        issuer_session: None,
        permissions: permissions
            .into_iter()
            .flat_map(|list| list.split(','))
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect(),
        issued_at: now.wall,
        expires_at: now.wall + LIFETIME,
        in_leeway: false,
        claims: Map::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    const SECRET: &str = "0123456789012345678901234567890123456789";

    fn identify_with(is_allowed: bool, shown: &str) -> Result<Principal, InvalidToken> {
        let header = HeaderName::from_static("x-usher-bypass");
        let bypass = config::Bypass { header, secret: Some(Secret::from(SECRET)), is_allowed };
        identify(&bypass, &Secret::from(shown), Now::read())
    }

    #[test]
    fn who_knows_the_secret_says_who_they_are() {
        let ada = identify_with(true, &format!("{SECRET} ada")).unwrap();
        assert_eq!(
            (ada.subject.as_str(), &*ada.issuer, ada.permissions.len()),
            ("ada", "bypass", 0)
        );
        let ada = identify_with(true, &format!("{SECRET} ada chat:read,chat:write")).unwrap();
        assert_eq!(ada.permissions, ["chat:read", "chat:write"]);
    }

    #[test]
    fn anything_else_is_nobody() {
        let longer = format!("{SECRET}x ada");
        let shorter = format!("{} ada", SECRET.split_at(39).0);
        let good = format!("{SECRET} ada");
        for bad in [
            SECRET,
            &format!("{SECRET} "),
            &format!("{SECRET}  ada"),
            &format!("{good} a b"),
            &longer,
            &shorter,
            " ada",
            "",
        ] {
            assert_eq!(identify_with(true, bad), Err(InvalidToken::Bypass), "{bad:?}");
        }
        assert_eq!(identify_with(false, &good), Err(InvalidToken::Bypass), "not allowed");
    }
}
