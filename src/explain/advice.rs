//! One sentence for each rejection: the change that would help.

use super::token::{clock, origin, value};
use crate::auth::explain::TokenLook;
use crate::auth::jwt::date_of;
use crate::base::clock::UnixMillis;
use crate::base::text::{distance, shown, span};
use crate::config::Route;
use crate::model::faults::InvalidCertificate;
use crate::model::faults::InvalidToken;
use crate::model::faults::TicketFault;
use crate::rejection::{Rejection, Side};

/// The facts about the rejected request.
#[derive(Clone, Copy)]
pub struct About<'a> {
    pub route: Option<&'a Route>,
    pub token: Option<&'a TokenLook>,
    pub origin: Option<&'a str>,
    pub now: UnixMillis,
}

pub fn advice(rejection: &Rejection, about: About<'_>) -> String {
    let methods = about.route.map_or_else(String::new, |route| names(&route.auth));
    match rejection {
        Rejection::AmbiguousRequest(why) => format!("Change what the client sends: {why}, and two servers could read that in two ways."),
        Rejection::HeadTooLarge => {
            "Send less in the head (cookies are most of it as a rule), or raise head_bytes, head_fields or target_bytes in [limits]."
                .to_owned()
        }
        Rejection::UpgradeMethod => "Have the client open the WebSocket with GET.".to_owned(),
        Rejection::UpgradeMalformed(why) => {
            format!("Look at what stands between client and Usher: {why}; a proxy in front has to pass Upgrade and Connection on.")
        }
        Rejection::UpgradeVersion => "Use a client that speaks version 13 of the WebSocket protocol, RFC 6455.".to_owned(),
        Rejection::NoRoute => "Ask for a path of a [[route]], or write one for this path and host.".to_owned(),
        Rejection::PathSpelling(route) => {
            format!("Write the path as {} has it; if this spelling means something else, give it a [[route]] of its own.", shown(route))
        }
        Rejection::ForbiddenOrigin => match about.origin {
            Some(origin) => format!("If pages of {} may connect, add it to the route's origins as it stands here.", shown(origin)),
            None => "List the pages that may connect in the route's origins.".to_owned(),
        },
        Rejection::MissingOrigin => {
            "A browser sends its Origin by itself; another client names an allowed one, or logs in by another method than a cookie."
                .to_owned()
        }
        Rejection::MissingCredential => format!("Send a credential by one of the route's methods: {methods}."),
        Rejection::InvalidToken(why) => token(*why, about),
        Rejection::IssuerKeysUnavailable => match about.token.and_then(|look| look.issuer.as_ref()) {
            Some(issuer) => format!("Make {} reachable from here: the issuer's keys come from there.", origin(issuer)),
            None => "Make the place reachable from here that the issuer's keys come from.".to_owned(),
        },
        Rejection::InvalidTicket(TicketFault::Malformed) => {
            "This was never a ticket: pass on what POST /websocket/ticket answers, whole and unchanged.".to_owned()
        }
        Rejection::InvalidTicket(TicketFault::Unknown | TicketFault::Used) => {
            "Ask for a new ticket before each connect, reconnects included: one opens one connection.".to_owned()
        }
        Rejection::InvalidTicket(TicketFault::Expired) => "Connect at once when the ticket is there, or raise ttl in [tickets].".to_owned(),
        Rejection::InvalidTicket(TicketFault::UnknownRegion) => {
            "Name the region in [store.regions], or send the client to its own region.".to_owned()
        }
        Rejection::TicketBinding(why) => format!("Ask for a ticket for this use: {why}, and it opens nothing else."),
        Rejection::InvalidCertificate(InvalidCertificate::Expired | InvalidCertificate::NotYetValid) => {
            "Give the client a certificate that is good now, or set the clocks right.".to_owned()
        }
        Rejection::InvalidCertificate(_) => "Give the client a certificate with one user's name where [mtls] user looks.".to_owned(),
        Rejection::LegacyMethod(instead) => format!(
            "Have this client log in by {}; or take it out of the share, or enforce out of the route's rollout, and reload.",
            instead.name()
        ),
        Rejection::MissingPermission(missing) => format!(
            "Have the issuer grant {}, or take it out of the route's require; a permission is matched letter for letter.",
            shown(&missing.name)
        ),
        Rejection::UnfitClaim(unfit) => format!(
            "Have the backend read {} from the signed context, and take {} out of identity_headers; or have the issuer name the user in ASCII without spaces around.",
            shown(&unfit.claim),
            unfit.header
        ),
        Rejection::VerifierUnavailable(fault) => format!("Make the verifier reachable from here, or look at what it answers: {fault}."),
        Rejection::StoreUnavailable => "Look at the store in Redis: it does not answer from here.".to_owned(),
        other => match other.facts().side {
            Side::Client => "Look at what the client sends.".to_owned(),
            Side::Upstream => "Look at the upstream.".to_owned(),
            Side::Store => "Look at the store.".to_owned(),
            Side::Issuer => "Look at the issuer or verifier of the client's credential.".to_owned(),
            Side::Us => "Look at this server.".to_owned(),
        },
    }
}

fn token(why: InvalidToken, about: About<'_>) -> String {
    let claim = |name: &str| about.token.and_then(|look| look.claims.get(name));
    let header = |name: &str| value(about.token.and_then(|look| look.header.get(name)));
    let issuer = about.token.and_then(|look| look.issuer.as_deref());
    let name = issuer.map_or("the issuer", |issuer| &*issuer.name);
    match why {
        InvalidToken::TooLong => format!("Have {name} put less into its tokens, or raise max_token_bytes."),
        InvalidToken::Malformed => {
            "Send the access token itself, whole: three parts with dots between them, and no quotes, spaces or line ends around.".to_owned()
        }
        InvalidToken::UnknownIssuer => {
            format!("Use a token of an issuer that is known here, or write an [[issuer]] with issuer = \"{}\".", value(claim("iss")))
        }
        InvalidToken::Algorithm => match issuer {
            Some(issuer) if header("alg").starts_with("HS") && !issuer.algorithms.iter().any(|one| one.name().starts_with("HS")) => {
                format!(
                    "Never add {} here: {name} has public keys, and anyone who has them could sign such a token; find the sender of this one.",
                    header("alg")
                )
            }
            Some(issuer) => {
                let pinned: Vec<_> = issuer.algorithms.iter().map(|one| one.name()).collect();
                format!("Have {name} sign by {}, or pin the algorithm that it is meant to sign by.", pinned.join(" or "))
            }
            None => "Have the issuer sign by an algorithm that is pinned.".to_owned(),
        },
        InvalidToken::UnknownKey => match issuer {
            Some(issuer) => format!(
                "Have {name} publish the key {} at {}, or fetch a token that one of the held keys signs.",
                header("kid"),
                origin(issuer)
            ),
            None => "Have the issuer publish the key.".to_owned(),
        },
        InvalidToken::NoKeys => "Make the place reachable that the issuer's keys come from.".to_owned(),
        InvalidToken::Signature => format!(
            "Compare the key: this token was changed on its way, or signed by another than the one of {name} that it names (another environment, a secret with a line end)."
        ),
        InvalidToken::CriticalHeader => "Have the issuer leave crit and b64 out of the header.".to_owned(),
        InvalidToken::Type => "Send an access token: this is another kind, such as an identity or a nested token.".to_owned(),
        InvalidToken::Expired => match claim("exp").and_then(date_of) {
            Some(at) => {
                let leeway = issuer.map_or_else(String::new, |issuer| format!(" and the leeway of {}", span(issuer.leeway.as_secs())));
                format!("Fetch a new token: this one ended {}, beyond its time{leeway}.", distance(at, about.now))
            }
            None => "Fetch a new token.".to_owned(),
        },
        InvalidToken::NotYetValid => {
            let later = ["nbf", "iat"].iter().filter_map(|name| claim(name).and_then(date_of)).max();
            let when = later.map(|at| format!(" at {}", clock(at))).unwrap_or_default();
            format!("Set the clocks right: the token begins{when}, and here it is {}.", clock(about.now))
        }
        InvalidToken::Audience => {
            let wanted = issuer.map(|issuer| issuer.audience.join(" or ")).unwrap_or_default();
            format!(
                "Ask {name} for a token with the audience {wanted}; add {} to audience only if tokens for it are meant for this chat.",
                value(claim("aud"))
            )
        }
        InvalidToken::Claim(what) => {
            format!("Have {name} put it into its tokens in the right form ({what}), or change what the [[issuer]] asks for.")
        }
        InvalidToken::Lifetime => format!("Have {name} make tokens that end sooner, or raise max_lifetime."),
        InvalidToken::Bound => {
            format!("Have {name} issue this client a bearer token without cnf: Usher does not check the proof that a bound token asks for.")
        }
        InvalidToken::Refused => "Ask the verifier why it does not take this credential: it has ended, or is another service's.".to_owned(),
        InvalidToken::Bypass => {
            "Write the header as 'SECRET USER [PERMISSIONS]', with the secret of [bypass], and start with --allow-bypass.".to_owned()
        }
    }
}

fn names(methods: &[crate::model::method::Method]) -> String {
    methods.iter().map(|method| method.name()).collect::<Vec<_>>().join(", ")
}
