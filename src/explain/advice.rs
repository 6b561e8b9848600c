//! The advice for each rejection: the change that would help.

use super::token::{clock, origin, value};
use crate::auth::jwt::date_of;
use crate::auth::token_inspection::InspectedToken;
use crate::base::clock::UnixMillis;
use crate::base::text::{distance, printable, span};
use crate::config::{Issuer, Route};
use crate::model::algorithm::KeyFamily;
use crate::model::faults::InvalidCertificate;
use crate::model::faults::InvalidToken;
use crate::model::faults::TicketFault;
use crate::rejection::{Rejection, Side};

/// The facts about the rejected request.
#[derive(Clone, Copy)]
pub struct AdviceContext<'a> {
    pub route: Option<&'a Route>,
    pub token: Option<&'a InspectedToken>,
    pub origin: Option<&'a str>,
    pub now: UnixMillis,
}

pub fn advice(rejection: &Rejection, about: AdviceContext<'_>) -> String {
    let methods = about.route.map_or_else(String::new, |route| names(&route.auth));
    match rejection {
        Rejection::AmbiguousRequest(why) => {
            format!("Change the request: {why}, and two servers could read it differently.")
        }
        Rejection::HeadTooLarge => "Send a smaller head (most of it is usually cookies), or raise \
             head_bytes, head_fields or target_bytes in [limits]."
            .to_owned(),
        Rejection::UpgradeMethod => "Have the client open the WebSocket with GET.".to_owned(),
        Rejection::UpgradeMalformed(why) => format!(
            "Check the proxy between client and Usher: {why}. It must pass on Upgrade and \
             Connection."
        ),
        Rejection::UpgradeVersion => {
            "Use a client that supports version 13 of the WebSocket protocol, RFC 6455.".to_owned()
        }
        Rejection::NoRoute => {
            "Use the path of a [[route]], or add a [[route]] for this path and host.".to_owned()
        }
        Rejection::PathSpelling(route) => format!(
            "Write the path as {} has it. If this spelling means something else, give it its own \
             [[route]].",
            printable(route)
        ),
        Rejection::ForbiddenOrigin => match about.origin {
            Some(origin) => format!(
                "If pages of {} may connect, add exactly this text to origins of the route.",
                printable(origin)
            ),
            None => "List the pages that may connect in origins of the route.".to_owned(),
        },
        Rejection::MissingOrigin => "Browsers send Origin by themselves. Other clients must send \
             an allowed Origin, or use a method other than a cookie."
            .to_owned(),
        Rejection::MissingCredential => {
            format!("Send a credential by one of the methods of the route: {methods}.")
        }
        Rejection::InvalidToken(why) => token(*why, about),
        Rejection::IssuerKeysUnavailable => {
            match about.token.and_then(|token| token.issuer.as_ref()) {
                Some(issuer) => format!(
                    "Make {} reachable from here: Usher fetches the keys of the issuer from there.",
                    origin(issuer)
                ),
                None => "Make the URL of the issuer's keys reachable from here.".to_owned(),
            }
        }
        Rejection::InvalidTicket(TicketFault::Malformed) => {
            "Pass on the answer of POST /websocket/ticket unchanged: this text is not a ticket."
                .to_owned()
        }
        Rejection::InvalidTicket(TicketFault::Unknown | TicketFault::Used) => {
            "Get a new ticket before each connection, also before a reconnect: a ticket opens one \
             connection."
                .to_owned()
        }
        Rejection::InvalidTicket(TicketFault::Expired) => {
            "Connect as soon as the client has the ticket, or raise ttl in [tickets].".to_owned()
        }
        Rejection::InvalidTicket(TicketFault::UnknownRegion) => {
            "Add the region to [store.regions], or send the client to its own region.".to_owned()
        }
        Rejection::TicketBinding(why) => {
            format!("Get a ticket for this use: {why}, and it opens nothing else.")
        }
        Rejection::InvalidCertificate(
            InvalidCertificate::Expired | InvalidCertificate::NotYetValid,
        ) => "Give the client a certificate that is valid now, or correct the clocks.".to_owned(),
        Rejection::InvalidCertificate(_) => "Give the client a certificate with one user name in \
             the field that [mtls] user selects."
            .to_owned(),
        Rejection::LegacyMethod(instead) => format!(
            "Have this client log in by {}. Or remove the client from the share, or enforce from \
             the rollout of the route, and reload.",
            instead.name()
        ),
        Rejection::MissingPermission(missing) => format!(
            "Have the issuer grant {}, or remove it from require of the route. Permissions must \
             match exactly.",
            printable(&missing.name)
        ),
        Rejection::UnfitClaim(unfit) => format!(
            "Have the backend read {} from the signed context, and remove {} from \
             identity_headers. Or have the issuer use user names in ASCII without spaces around \
             them.",
            printable(&unfit.claim),
            unfit.header
        ),
        Rejection::Revoked(_) => "Have the client log in again, for a newer token. If the user is \
             revoked, wait until the revocation ends."
            .to_owned(),
        Rejection::VerifierUnavailable(fault) => {
            format!("Check that the verifier is reachable from here, and what it answers: {fault}.")
        }
        Rejection::StoreUnavailable => {
            "Check the store in Redis: it does not answer from here.".to_owned()
        }
        Rejection::Draining => {
            "Connect again: other nodes, or this one after its restart, take the client.".to_owned()
        }
        other => match other.facts().side {
            Side::Client => "Check the request of the client.".to_owned(),
            Side::Upstream => "Check the upstream.".to_owned(),
            Side::Store => "Check the store.".to_owned(),
            Side::Issuer => "Check the issuer or verifier of the credential.".to_owned(),
            Side::Us => "Check this server.".to_owned(),
        },
    }
}

fn token(why: InvalidToken, about: AdviceContext<'_>) -> String {
    let claim = |name: &str| about.token.and_then(|token| token.claims.get(name));
    let header = |name: &str| value(about.token.and_then(|token| token.header.get(name)));
    let issuer = about.token.and_then(|token| token.issuer.as_deref());
    let name = issuer.map_or("the issuer", |issuer| &*issuer.name);
    match why {
        InvalidToken::TooLong => {
            format!("Have {name} put less into its tokens, or raise max_token_bytes.")
        }
        InvalidToken::Malformed => "Send the whole access token: three parts with dots between \
             them, without quotes, spaces or line ends."
            .to_owned(),
        InvalidToken::SessionId => {
            "Send the session cookie as the login service set it, unchanged.".to_owned()
        }
        InvalidToken::SessionSignature => "Compare the cookie secret of the verifier with the one \
             of the login service, or have the client log in again."
            .to_owned(),
        InvalidToken::UnknownIssuer => format!(
            "Use a token of a configured issuer, or add an [[issuer]] with issuer = \"{}\".",
            value(claim("iss"))
        ),
        InvalidToken::Algorithm => match issuer {
            Some(issuer) if header("alg").starts_with("HS") && !has_hmac(issuer) => format!(
                "Never add {} here: {name} has public keys, and anyone who has them could sign \
                 such a token. Find the sender of this one.",
                header("alg")
            ),
            Some(issuer) => {
                let pinned: Vec<_> = issuer.algorithms.iter().map(|one| one.name()).collect();
                format!(
                    "Have {name} sign with {}, or add its algorithm to algorithms.",
                    pinned.join(" or ")
                )
            }
            None => "Have the issuer sign with an algorithm that is configured.".to_owned(),
        },
        InvalidToken::UnknownKey => match issuer {
            Some(issuer) => format!(
                "Have {name} publish the key {} at {}, or get a token that is signed with one of \
                 the known keys.",
                header("kid"),
                origin(issuer)
            ),
            None => "Have the issuer publish the key.".to_owned(),
        },
        InvalidToken::NoKeys => "Make the URL of the issuer's keys reachable from here.".to_owned(),
        InvalidToken::Signature => format!(
            "Compare the keys. The token was changed on its way, or signed with another key than \
             that of {name}: another environment, or a secret with a line end."
        ),
        InvalidToken::CriticalHeader => {
            "Have the issuer leave crit and b64 out of the header.".to_owned()
        }
        InvalidToken::Type => "Send an access token: this is another kind, such as an identity \
             token or a nested token."
            .to_owned(),
        InvalidToken::Expired => match claim("exp").and_then(date_of) {
            Some(at) => {
                let leeway = issuer.map_or_else(String::new, |issuer| {
                    format!(", more than the leeway of {}", span(issuer.leeway.as_secs()))
                });
                format!("Get a new token: this one expired {}{leeway}.", distance(at, about.now))
            }
            None => "Get a new token.".to_owned(),
        },
        InvalidToken::NotYetValid => {
            let later = ["nbf", "iat"].iter().filter_map(|name| claim(name).and_then(date_of));
            let when = later.max().map(|at| format!(" at {}", clock(at))).unwrap_or_default();
            format!(
                "Correct the clocks: the token becomes valid{when}, and here it is {}.",
                clock(about.now)
            )
        }
        InvalidToken::Audience => {
            let wanted = issuer.map(|issuer| issuer.audience.join(" or ")).unwrap_or_default();
            format!(
                "Ask {name} for a token with the audience {wanted}. Add {} to audience only if \
                 tokens for it are meant for this chat.",
                value(claim("aud"))
            )
        }
        InvalidToken::Claim(what) => format!(
            "Have {name} put the claim into its tokens in the right form ({what}), or change the \
             [[issuer]]."
        ),
        InvalidToken::Lifetime => {
            format!("Have {name} issue tokens that expire sooner, or raise max_lifetime.")
        }
        InvalidToken::Bound => format!(
            "Have {name} issue this client a bearer token without cnf: Usher does not check the \
             proof that a bound token needs."
        ),
        InvalidToken::Refused => "Ask the operator of the verifier for the reason: the credential \
             has expired, or belongs to another service."
            .to_owned(),
        InvalidToken::Bypass => "Write the header as 'SECRET USER [PERMISSIONS]' with the secret \
             of [bypass], and start Usher with --allow-bypass."
            .to_owned(),
    }
}

fn has_hmac(issuer: &Issuer) -> bool {
    issuer.algorithms.iter().any(|one| one.family() == KeyFamily::Hmac)
}

fn names(methods: &[crate::model::method::Method]) -> String {
    methods.iter().map(|method| method.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_sentence_on_what_to_do() {
        let now = UnixMillis(1_795_273_200_000);
        let about = AdviceContext { route: None, token: None, origin: None, now };
        for rejection in Rejection::catalogue() {
            let sentence = advice(&rejection, about);
            assert!(sentence.ends_with('.') && sentence.len() > 15, "{rejection:?}: {sentence}");
        }
    }
}
