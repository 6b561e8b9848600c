//! The order in which the servers of an upstream are tried. No I/O, no clock.

use std::cmp::Reverse;
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};

use crate::auth::grant::Grant;
use crate::base::rate::network_of;
use crate::config::Balance;
use crate::model::principal::Principal;

/// The client for which a server is picked.
#[derive(Clone, Copy, Debug)]
pub enum ClientKey<'a> {
    User(&'a Principal),
    /// A client of a public route, by its network.
    Address(IpAddr),
}

/// One server, as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its URL, which is the same on every node.
    pub label: &'a str,
    /// Sessions and HTTP exchanges under way.
    pub busy: usize,
    pub standing: ServerAvailability,
}

/// Whether new clients go to a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ServerAvailability {
    Serving,
    /// The server has returned a moment ago, and gets this share of its clients, from 0 to 1.
    Slow(f64),
    Ejected,
}

/// Why a server is in its place of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Chosen,
    /// A server in slow start, outside its share.
    Spared,
    /// The last resort.
    Ejected,
}

impl<'a> ClientKey<'a> {
    pub fn of(grant: &'a Grant, address: IpAddr) -> Self {
        grant.principal().map_or_else(|| Self::Address(network_of(address)), Self::User)
    }

    /// Returns a number that is the same on every node. Two issuers may use the same name for two
    /// users.
    pub fn number(&self) -> u64 {
        match self {
            Self::User(principal) => {
                hash(&format!("{}\u{0}{}", principal.issuer, principal.subject))
            }
            Self::Address(address) => hash(&address.to_string()),
        }
    }
}

/// Returns the index of every server once, in the order in which one client tries them. `turn`
/// grows by one with each client.
pub fn order(
    balance: Balance,
    servers: &[Candidate<'_>],
    client: &ClientKey<'_>,
    turn: usize,
) -> Vec<usize> {
    let count = servers.len().max(1);
    let mut order: Vec<(usize, &Candidate<'_>)> = servers.iter().enumerate().collect();
    order.rotate_left(turn % count);
    let mut draw = fraction(spread(turn));
    match balance {
        Balance::RoundRobin => {}
        Balance::LeastSessions => order.sort_by_key(|(_, server)| server.busy),
        Balance::Sticky => {
            let number = client.number();
            // A user whose server is in slow start goes there once, and then stays.
            draw = fraction(number);
            order.sort_by_cached_key(|(_, server)| Reverse(score(number, server)));
        }
    }
    order.sort_by_key(|(_, server)| match server.standing {
        ServerAvailability::Slow(share) if draw >= share => Rank::Spared,
        ServerAvailability::Serving | ServerAvailability::Slow(_) => Rank::Chosen,
        ServerAvailability::Ejected => Rank::Ejected,
    });
    order.into_iter().map(|(index, _)| index).collect()
}

/// Returns true if a server is the one to which `Sticky` sends a client while all servers serve.
pub fn is_home(servers: &[Candidate<'_>], client: &ClientKey<'_>, index: usize) -> bool {
    let number = client.number();
    let scores = || servers.iter().map(|server| score(number, server));
    scores().nth(index) == scores().max()
}

/// Rendezvous hashing: each server has a score for the user, and the highest wins. The users of a
/// server that leaves go to all others, and no other user moves.
fn score(client: u64, server: &Candidate<'_>) -> u64 {
    hash(&format!("{client:016x}\u{0}{}", server.label))
}

fn hash(text: &str) -> u64 {
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Spreads the numbers of turns evenly over all numbers, by the golden ratio.
fn spread(turn: usize) -> u64 {
    (turn as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Returns the number as a share of the largest one.
fn fraction(number: u64) -> f64 {
    f64::from(u32::try_from(number >> 32).unwrap_or(u32::MAX)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::principal::tests::principal;
    use ServerAvailability::{Ejected, Serving, Slow};

    const ANYONE: ClientKey<'_> = ClientKey::Address(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    const LABELS: [&str; 5] = ["http://a", "http://b", "http://c", "http://d", "http://e"];

    fn servers(all: &[(usize, ServerAvailability)]) -> Vec<Candidate<'static>> {
        let server = |((busy, standing), label): (&(usize, ServerAvailability), &'static str)| {
            Candidate { label, busy: *busy, standing: *standing }
        };
        all.iter().zip(LABELS).map(server).collect()
    }

    fn user(number: usize) -> Principal {
        principal(&format!("user {number}"), "main", None, None, 0)
    }

    #[test]
    fn the_least_busy_server_comes_first_and_equals_take_turns() {
        let all = servers(&[(5, Serving), (0, Serving), (3, Serving)]);
        assert_eq!(order(Balance::LeastSessions, &all, &ANYONE, 0), [1, 2, 0]);
        let all = servers(&[(2, Serving), (2, Serving), (9, Serving)]);
        let firsts: Vec<_> =
            (0..4).map(|turn| order(Balance::LeastSessions, &all, &ANYONE, turn)[0]).collect();
        assert_eq!(firsts, [0, 1, 0, 0]);
        assert_eq!(order(Balance::LeastSessions, &all, &ANYONE, usize::MAX).len(), 3);
        assert!(order(Balance::LeastSessions, &[], &ANYONE, 7).is_empty());
    }

    #[test]
    fn round_robin_ignores_how_busy_a_server_is() {
        let all = servers(&[(5, Serving), (0, Serving), (3, Serving)]);
        let firsts: Vec<_> =
            (0..4).map(|turn| order(Balance::RoundRobin, &all, &ANYONE, turn)[0]).collect();
        assert_eq!(firsts, [0, 1, 2, 0]);
    }

    #[test]
    fn a_sticky_user_keeps_its_server_when_another_one_leaves() {
        let all = servers(&[(0, Serving); 5]);
        let mut counts = [0; 5];
        for number in 0..1000 {
            let principal = user(number);
            let user = ClientKey::User(&principal);
            let before = order(Balance::Sticky, &all, &user, number);
            assert_eq!(before, order(Balance::Sticky, &all, &user, number + 1));
            counts[before[0]] += 1;
            assert!((0..5).all(|index| is_home(&all, &user, index) == (index == before[0])));
            let mut left = all.clone();
            left.remove(4);
            let after = order(Balance::Sticky, &left, &user, number)[0];
            assert!(after == before[0] || before[0] == 4, "user {number} moved");
        }
        assert!(counts.iter().all(|count| (140..260).contains(count)), "{counts:?}");
    }

    #[test]
    fn ejected_servers_are_the_last_resort_of_every_balance() {
        for balance in [Balance::LeastSessions, Balance::RoundRobin, Balance::Sticky] {
            let all = servers(&[(0, Ejected), (9, Serving), (0, Ejected), (8, Serving)]);
            for turn in 0..9 {
                let mut order = order(balance, &all, &ANYONE, turn);
                order[..2].sort_unstable();
                order[2..].sort_unstable();
                assert_eq!(order, [1, 3, 0, 2]);
            }
        }
    }

    #[test]
    fn a_server_in_slow_start_gets_its_share_of_the_clients() {
        for share in [0.1, 0.5, 0.9] {
            let all = servers(&[(0, Slow(share)), (100, Serving)]);
            let wanted = (share * 1000.0) as i32;
            let firsts = (0..1000)
                .filter(|turn| order(Balance::LeastSessions, &all, &ANYONE, *turn)[0] == 0);
            let count = i32::try_from(firsts.count()).unwrap();
            assert!((wanted - 20..wanted + 20).contains(&count), "{count} of {wanted}");
            let at_home = servers(&[(0, Serving), (0, Serving)]);
            let (mut home, mut moved) = (0, 0);
            for number in 0..1000 {
                let principal = user(number);
                let user = ClientKey::User(&principal);
                if order(Balance::Sticky, &at_home, &user, 0)[0] == 0 {
                    home += 1;
                    moved += i32::from(order(Balance::Sticky, &all, &user, 0)[0] == 0);
                }
            }
            let wanted = f64::from(home) * share;
            assert!((f64::from(moved) - wanted).abs() < 60.0, "{moved} of {home}, {share}");
        }
    }
}
