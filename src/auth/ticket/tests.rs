//! Tests of the rules for tickets, on the memory store.

use super::*;
use crate::model::principal::tests::principal;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
const OTHER_PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 8));
const ASKER: TicketAsker<'static> =
    TicketAsker { origin: Some("https://chat.example.com"), peer: PEER, traceparent: None };

/// `more` completes the route `/ws`, and may begin other tables.
fn tickets(more: &str) -> Tickets {
    Tickets::new(&Arc::new(config::for_test(more))).unwrap()
}

fn user(name: &str, permissions: &[&str]) -> Principal {
    Principal {
        permissions: permissions.iter().copied().map(str::to_owned).collect(),
        ..principal(name, "main", None, None, 0)
    }
}

async fn issue(
    tickets: &Tickets,
    user: Principal,
    request: TicketRequest,
) -> Result<Issued, Rejection> {
    tickets.issue(user, request, ASKER, Now::read()).await
}

#[test]
fn a_stranger_is_told_of_no_certificates_and_no_test_identities() {
    let methods = [Method::Query, Method::Mtls, Method::Bypass, Method::Message];
    let offered = without_secrets(&methods, |method| method == Method::Query);
    assert_eq!(offered, [Method::Message, Method::Query]);
    assert_eq!(without_secrets(&[Method::Mtls, Method::Bypass], |_| false), []);
}

#[tokio::test]
async fn a_bound_ticket_opens_its_own_route_from_its_own_origin_and_address_alone() {
    const OTHER: &str = concat!(
        "auth = [\"ticket\"]\n",
        "[[route]]\npath = \"/other\"\nupstream = \"chat\"\nauth = [\"ticket\"]",
    );
    let bound = tickets(&format!("{OTHER}\n[tickets]\nbind = [\"origin\", \"ip\"]"));
    let [route, other_route] = [0, 1].map(|at| Arc::clone(&bound.config.routes[at]));
    let origin = ASKER.origin;
    for (route, origin, peer, is_good) in [
        (&route, origin, PEER, true),
        (&other_route, origin, PEER, false),
        (&route, Some("https://evil.example.com"), PEER, false),
        (&route, None, PEER, false),
        (&route, origin, OTHER_PEER, false),
    ] {
        let request = TicketRequest { route: Some("/ws".to_owned()), ..TicketRequest::default() };
        let issued = issue(&bound, user("ada", &[]), request).await.unwrap();
        let redeemed =
            bound.redeem(&issued.ticket, route, origin, peer, "r1", Now::read()).await.map(drop);
        assert_eq!(redeemed.is_ok(), is_good, "{origin:?} {peer} {redeemed:?}");
        let again = bound.redeem(&issued.ticket, route, origin, peer, "r1", Now::read()).await;
        assert_eq!(again.unwrap_err(), Rejection::InvalidTicket(TicketFault::Used));
    }
    let free = tickets(OTHER);
    let issued = issue(&free, user("ada", &[]), TicketRequest::default()).await.unwrap();
    let redeemed =
        free.redeem(&issued.ticket, &other_route, None, OTHER_PEER, "r1", Now::read()).await;
    assert_eq!(redeemed.unwrap().principal.subject, "ada");
}

#[tokio::test]
async fn a_ticket_is_shown_to_its_owner_alone() {
    let tickets = tickets("auth = [\"ticket\"]");
    let issued = issue(&tickets, user("ada", &[]), TicketRequest::default()).await.unwrap();
    for (owner, is_theirs) in [
        (user("ada", &[]), true),
        (user("bob", &[]), false),
        (principal("ada", "other issuer", None, None, 0), false),
    ] {
        let found =
            tickets.validate(&issued.ticket, &owner, ("r1", PEER), Now::read()).await.unwrap();
        assert_eq!(found.is_some(), is_theirs, "{owner:?}");
    }
    let unknown = Secret::from("A".repeat(43).as_str());
    let found = tickets.validate(&unknown, &user("ada", &[]), ("r1", PEER), Now::read()).await;
    assert_eq!(found.unwrap(), None);
}

#[tokio::test]
async fn a_ticket_is_for_one_use_unless_the_configuration_allows_more() {
    for (rules, wanted, expected) in [
        ("", None, Ok(true)),
        ("", Some(true), Ok(true)),
        ("", Some(false), Err(())),
        ("[tickets]\nmulti_use = true", None, Ok(true)),
        ("[tickets]\nmulti_use = true", Some(false), Ok(false)),
    ] {
        let tickets = tickets(&format!("auth = [\"ticket\"]\n{rules}"));
        let request = TicketRequest { single_use: wanted, ..TicketRequest::default() };
        let issued = issue(&tickets, user("ada", &[]), request).await;
        assert_eq!(issued.map(|issued| issued.single_use).map_err(drop), expected, "{rules}");
    }
}

#[tokio::test]
async fn a_ticket_has_a_part_of_the_permissions_and_never_one_more() {
    let tickets = tickets("auth = [\"ticket\"]\nrequire = [\"chat:join\"]");
    let ask = |wanted: Option<&[&str]>| TicketRequest {
        permissions: wanted.map(|names| names.iter().copied().map(str::to_owned).collect()),
        route: Some("/ws".to_owned()),
        ..TicketRequest::default()
    };
    let both = ["chat:join", "chat:read"];
    for (granted, wanted, is_issued) in [
        (&both[..], None, true),
        (&both[..], Some(&["chat:join"][..]), true),
        (&both[..], Some(&["chat:read"][..]), false),
        (&both[..], Some(&["chat:admin", "chat:join"][..]), false),
        (&["chat:read"][..], None, false),
        (&[][..], None, false),
    ] {
        let issued = issue(&tickets, user("ada", granted), ask(wanted)).await;
        assert_eq!(issued.is_ok(), is_issued, "{granted:?} {wanted:?}");
    }
}

#[tokio::test]
async fn a_request_that_the_store_refused_does_not_count() {
    let full = tickets(concat!(
        "auth = [\"ticket\"]\n[store]\nmax_tickets = 1\n",
        "[tickets]\nrate_per_user = \"2/1h\"\nrate_per_address = \"2/1h\"",
    ));
    assert!(issue(&full, user("ada", &[]), TicketRequest::default()).await.is_ok());
    for _ in 0..5 {
        let issued = issue(&full, user("ada", &[]), TicketRequest::default()).await;
        assert_eq!(issued.unwrap_err(), Rejection::StoreUnavailable);
    }
    // A fault of the client counts.
    let fault = TicketRequest { ttl_seconds: Some(0), ..TicketRequest::default() };
    assert!(matches!(
        issue(&full, user("ada", &[]), fault.clone()).await.unwrap_err(),
        Rejection::InvalidRequest(_)
    ));
    assert!(matches!(
        issue(&full, user("ada", &[]), fault).await.unwrap_err(),
        Rejection::RateLimited { .. }
    ));
}

#[test]
fn the_endpoint_answers_where_a_route_takes_tickets() {
    const OTHER: &str = "[[route]]\npath = \"/plain\"\nupstream = \"chat\"\nauth = [\"header\"]";
    let off = |tickets: &Tickets, name: Option<&str>| match tickets.check_takes_tickets(name) {
        Ok(()) => None,
        Err(Rejection::TicketsOff(ways)) => Some((ways.route, ways.methods)),
        Err(other) => panic!("{other:?}"),
    };
    let with = tickets(&format!("auth = [\"ticket\"]\n{OTHER}"));
    for (name, expected) in [
        (None, None),
        (Some("/ws"), None),
        (Some("/plain"), Some((Some("/plain".to_owned()), vec![Method::Header]))),
        // The client made a mistake: the request itself is refused later.
        (Some("/unknown"), None),
    ] {
        assert_eq!(off(&with, name), expected, "{name:?}");
    }
    assert!(with.ticket_route("/ws").is_ok());
    assert!(with.ticket_route("/plain").is_err() && with.ticket_route("/unknown").is_err());

    let without = tickets(&format!("auth = [\"query\"]\n{OTHER}"));
    assert_eq!(off(&without, None), Some((None, vec![])));
    assert_eq!(off(&without, Some("/ws")), Some((Some("/ws".to_owned()), vec![Method::Query])));
    assert_eq!(off(&without, Some("/unknown")), Some((Some("/unknown".to_owned()), vec![])));
}

#[test]
fn the_endpoint_owns_its_path_and_what_is_below_it() {
    let tickets = tickets("auth = [\"ticket\"]");
    for (path, is_owned) in [
        ("/websocket/ticket", true),
        ("/websocket/ticket/", true),
        ("/websocket/ticket/secret/validate", true),
        ("/websocket/tickets", false),
        ("/websocket", false),
        ("/", false),
    ] {
        assert_eq!(tickets.owns(path), is_owned, "{path}");
        let shown = if is_owned { "/websocket/ticket" } else { path };
        assert_eq!(tickets.shown_path(path), shown);
    }
}
