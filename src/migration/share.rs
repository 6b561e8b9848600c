//! Assigns clients to shares. A client has the same number on every node and after every reload, so
//! a share that grows keeps its clients.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};

use crate::base::rate::network_of;
use crate::config::Sticky;
use crate::model::method::Method;
use crate::model::principal::Principal;

#[derive(Clone, Copy, Debug)]
pub enum ShareKey<'a> {
    User(&'a Principal),
    Address(IpAddr),
}

impl<'a> ShareKey<'a> {
    pub fn of(sticky: Sticky, principal: &'a Principal, peer: IpAddr) -> Self {
        match sticky {
            Sticky::User => Self::User(principal),
            Sticky::Address => Self::at(peer),
        }
    }

    pub fn at(peer: IpAddr) -> Self {
        Self::Address(network_of(peer))
    }
}

/// Returns the client's number from 0 to 99. Numbers are evenly distributed, and independent for
/// each route.
pub fn place(route: &str, client: &ShareKey<'_>) -> u8 {
    let name = match client {
        // Two issuers may use the same name for two users.
        ShareKey::User(principal) => {
            format!("{route}\u{0}{}\u{0}{}", principal.issuer, principal.subject)
        }
        ShareKey::Address(address) => format!("{route}\u{0}{address}"),
    };
    let hash = digest(&SHA256, name.as_bytes());
    let number =
        hash.as_ref().iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    u8::try_from(number % 100).unwrap_or_default()
}

/// Returns the method of the share that has this number. The shares follow one another from 0 on.
pub fn assigned_method(shares: &[(Method, u8)], place: u8) -> Option<Method> {
    let mut end = 0;
    shares.iter().find_map(|(method, percent)| {
        end += u16::from(*percent);
        (u16::from(place) < end).then_some(*method)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::principal::tests::principal;

    #[test]
    fn a_share_is_as_large_as_it_says_and_keeps_its_clients_when_it_grows() {
        let places: Vec<_> = (0..10_000)
            .map(|user| {
                place(
                    "/ws",
                    &ShareKey::User(&principal(&format!("user {user}"), "main", None, None, 0)),
                )
            })
            .collect();
        let within = |percent| {
            places
                .iter()
                .filter(|place| assigned_method(&[(Method::Ticket, percent)], **place).is_some())
                .count()
        };
        for percent in [0, 1, 10, 50, 99, 100] {
            let expected = usize::from(percent) * 100;
            assert!(within(percent).abs_diff(expected) < 200, "{percent} %: {}", within(percent));
        }
        for place in places {
            assert!(
                assigned_method(&[(Method::Ticket, 10)], place).is_none()
                    || assigned_method(&[(Method::Ticket, 11)], place).is_some()
            );
        }
    }

    #[test]
    fn shares_stand_one_behind_the_other() {
        let shares = [(Method::Message, 10), (Method::Ticket, 50)];
        let of = |place| assigned_method(&shares, place);
        assert_eq!(
            [of(0), of(9), of(10), of(59), of(60), of(99)],
            [
                Some(Method::Message),
                Some(Method::Message),
                Some(Method::Ticket),
                Some(Method::Ticket),
                None,
                None
            ]
        );
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let of = |address: &str| {
            let ada = principal("ada", "main", None, None, 0);
            place("/ws", &ShareKey::of(Sticky::Address, &ada, address.parse().unwrap()))
        };
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert!((0..32).any(|last| of(&format!("192.0.2.{last}")) != of("192.0.2.200")));
    }
}
