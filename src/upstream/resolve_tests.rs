//! Tests of the lookups of a name, and of its division into servers.

use std::cell::Cell;
use std::future::pending;

use super::*;

const EVERY: Duration = Duration::from_secs(10);
const ABOUT: NameLookup<'static> =
    NameLookup { upstream: "chat", server: "http://chat:1", every: EVERY };

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

fn address_v6(last: u16) -> SocketAddr {
    SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, last], 80))
}

fn name() -> ResolvedName {
    ResolvedName::new(Now::read().mono)
}

async fn answer(last: u8) -> io::Result<Vec<SocketAddr>> {
    Ok(vec![address(last)])
}

async fn fail() -> io::Result<Vec<SocketAddr>> {
    Err(io::Error::other("servfail"))
}

#[tokio::test(start_paused = true)]
async fn a_name_is_looked_up_again_after_its_time() {
    let name = name();
    assert!(!name.was_looked_up() && !name.has_failed());
    for (after, found, expected) in [(0, 1, 1), (9, 2, 1), (1, 3, 3), (9, 4, 3), (1, 5, 5)] {
        tokio::time::advance(Duration::from_secs(after)).await;
        name.look_up(ABOUT, answer(found)).await;
        assert_eq!(*name.addresses(), [address(expected)]);
    }
    let begun = Now::read().mono;
    name.until_due().await;
    assert_eq!(begun.elapsed(), EVERY);
}

#[tokio::test(start_paused = true)]
async fn the_last_good_addresses_stay_while_the_resolver_fails_or_hangs() {
    let name = name();
    name.look_up(ABOUT, answer(1)).await;
    tokio::time::advance(EVERY).await;
    name.look_up(ABOUT, fail()).await;
    name.look_up(ABOUT, answer(2)).await;
    assert_eq!(*name.addresses(), [address(1)], "too early for another lookup");
    tokio::time::advance(EVERY).await;
    let begun = Now::read().mono;
    name.look_up(ABOUT, pending()).await;
    assert_eq!((begun.elapsed(), &*name.addresses()), (PATIENCE, &[address(1)][..]));
    tokio::time::advance(EVERY).await;
    name.look_up(ABOUT, async { Ok(vec![]) }).await;
    assert_eq!(*name.addresses(), [address(1)]);
    tokio::time::advance(EVERY).await;
    name.look_up(ABOUT, answer(2)).await;
    assert_eq!(*name.addresses(), [address(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_name_without_an_address_is_looked_up_each_second() {
    let name = name();
    for _ in 0..3 {
        name.look_up(ABOUT, fail()).await;
        assert!(name.was_looked_up() && name.addresses().is_empty());
        let begun = Now::read().mono;
        name.until_due().await;
        assert_eq!(begun.elapsed(), SHORTEST);
    }
    name.look_up(ABOUT, answer(1)).await;
    assert!(name.has_failed());
    assert_eq!(*name.addresses(), [address(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_shorter_time_between_lookups_counts_at_once() {
    let name = name();
    name.limit_wait(EVERY);
    name.look_up(ABOUT, answer(1)).await;
    let begun = Now::read().mono;
    name.limit_wait(EVERY * 2);
    name.limit_wait(EVERY / 2);
    name.until_due().await;
    assert_eq!(begun.elapsed(), EVERY / 2);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_cannot_be_dialled_brings_the_lookup_forward_once_a_second() {
    let name = name();
    name.look_up(ABOUT, answer(1)).await;
    let begun = Now::read().mono;
    let doubt = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        (0..9).for_each(|_| name.doubt());
    };
    tokio::join!(name.until_due(), doubt);
    assert_eq!(begun.elapsed(), SHORTEST);
    name.look_up(ABOUT, answer(2)).await;
    assert_eq!(*name.addresses(), [address(2)]);
}

#[tokio::test(start_paused = true)]
async fn of_many_clients_one_asks_the_resolver() {
    let name = name();
    let lookups = Cell::new(0);
    let lookup = || async {
        lookups.set(lookups.get() + 1);
        tokio::time::sleep(Duration::from_millis(10)).await;
        answer(1).await
    };
    tokio::join!(
        name.look_up(ABOUT, lookup()),
        name.look_up(ABOUT, lookup()),
        name.look_up(ABOUT, lookup())
    );
    assert_eq!((lookups.get(), &*name.addresses()), (1, &[address(1)][..]));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_during_a_lookup_leaves_it_to_the_next() {
    let name = name();
    let left = timeout(Duration::from_secs(1), name.look_up(ABOUT, pending())).await;
    assert!(left.is_err() && !name.was_looked_up());
    name.look_up(ABOUT, answer(1)).await;
    assert_eq!(*name.addresses(), [address(1)]);
}

#[test]
fn each_address_is_a_server_and_their_number_is_limited() {
    let divided = |addresses: &[SocketAddr]| divide(addresses, NameAddresses::Servers, 3);
    assert_eq!(divided(&[]), (vec![], 0));
    // The order of the resolver changes, and the addresses that are used do not.
    let used = vec![vec![address(1)], vec![address(2)], vec![address(3)]];
    assert_eq!(divided(&[address(3), address(1), address(2)]), (used.clone(), 0));
    let five = [4, 2, 5, 1, 3].map(address);
    assert_eq!(divided(&five), (used, 2));
}

#[test]
fn two_families_are_two_ways_to_one_host_or_the_first_one_is_used() {
    let divided = |addresses: &[SocketAddr]| divide(addresses, NameAddresses::Servers, 256).0;
    let host = [address_v6(1), address(1)];
    assert_eq!(divided(&host), [host.to_vec()]);
    let hosts = [address_v6(2), address_v6(1), address(1), address(2)];
    assert_eq!(divided(&hosts), [[address_v6(1)], [address_v6(2)]]);
    let without_route = [address(1), address(2), address_v6(1), address_v6(2)];
    assert_eq!(divided(&without_route), [[address(1)], [address(2)]]);
}

#[test]
fn all_addresses_of_one_server_stay_in_the_order_of_the_resolver() {
    let all = [address(3), address_v6(1), address(1)];
    let divided = |most| divide(&all, NameAddresses::OneServer, most);
    assert_eq!(divided(9), (vec![all.to_vec()], 0));
    assert_eq!(divided(2), (vec![all[..2].to_vec()], 1));
}
