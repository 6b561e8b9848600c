//! Carries out a revocation on this node, whichever node it was ordered on.
//!
//! The deny list comes first and the registry second. An upgrade does it the other way round: it
//! enters the registry and then checks the list. So at least one of the two sees the other.

use super::registry::Registry;
use crate::auth::revocation::events::{RevocationRefused, RevocationsHeld, Revoked};
use crate::auth::revocation::{DenyListFull, RevocationEffect, Revocations};
use crate::base::clock::Now;
use crate::model::revocation::Revocation;
use crate::telemetry::Event;

/// Refuses the order's identity from now on, and ends its sessions. Returns how many were ended.
pub fn revoke(
    registry: &Registry,
    revocations: &Revocations,
    order: &Revocation,
    now: Now,
) -> Result<usize, DenyListFull> {
    apply(revocations, order, now)?;
    Ok(carry_out(registry, revocations, order))
}

/// Does the same for an order of another node. An order that is already in force here, above all
/// one of this node, is not an event.
pub fn revoke_for_node(
    registry: &Registry,
    revocations: &Revocations,
    order: &Revocation,
    now: Now,
) -> Result<RevocationEffect, DenyListFull> {
    let applied = apply(revocations, order, now)?;
    if applied == RevocationEffect::New {
        carry_out(registry, revocations, order);
    }
    Ok(applied)
}

fn apply(
    revocations: &Revocations,
    order: &Revocation,
    now: Now,
) -> Result<RevocationEffect, DenyListFull> {
    let applied = revocations.apply(order.clone(), now);
    if applied.is_err() {
        RevocationRefused { order }.emit();
    }
    applied
}

fn carry_out(registry: &Registry, revocations: &Revocations, order: &Revocation) -> usize {
    let closed = registry.close_revoked(order);
    Revoked { order, closed }.emit();
    RevocationsHeld { count: revocations.len() }.emit();
    closed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::principal::tests::principal;
    use crate::model::revocation::RevocationScope;
    use crate::session::registry::tests::handle;
    use std::sync::Barrier;
    use std::task::{Context, Waker};
    use std::thread;
    use std::time::Duration;

    #[test]
    fn no_session_slips_in_between_the_list_and_the_registry() {
        let now = Now::read();
        for round in 0..2_000 {
            let (registry, revocations) = (Registry::new(), Revocations::new(10));
            let order = Revocation::new(
                RevocationScope::Session(format!("s{round}")),
                None,
                now.wall,
                Duration::from_secs(1),
            );
            let session = handle("ann", 0);
            let order =
                Revocation { what: RevocationScope::Session(session.id.to_string()), ..order };
            let start = Barrier::new(2);
            let guard = thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    revoke(&registry, &revocations, &order, now).unwrap();
                });
                start.wait();
                // As an upgrade does.
                let guard = registry.open(session);
                if revocations.find_session(guard.id.as_str(), None, now).is_some() {
                    guard.close(crate::rejection::close::CloseReason::Revoked);
                }
                guard
            });
            assert!(
                guard.poll_close(&mut Context::from_waker(Waker::noop())).is_ready(),
                "round {round}"
            );
        }
    }

    #[test]
    fn no_renewal_slips_in_between_the_list_and_the_session_s_marks() {
        let now = Now::read();
        for round in 0..2_000 {
            let (registry, revocations) = (Registry::new(), Revocations::new(10));
            let order = Revocation::new(
                RevocationScope::TokenId("t2".into()),
                None,
                now.wall,
                Duration::from_secs(1),
            );
            let renewed = principal("ann", "main", Some("t2"), None, 0);
            let guard = registry.open(handle("ann", 0));
            let start = Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    start.wait();
                    revoke(&registry, &revocations, &order, now).unwrap();
                });
                start.wait();
                // As a conversation does.
                guard.identity.renew(&renewed);
                if revocations.find(&renewed, now).is_some() {
                    guard.close(crate::rejection::close::CloseReason::Revoked);
                }
            });
            assert!(
                guard.poll_close(&mut Context::from_waker(Waker::noop())).is_ready(),
                "round {round}"
            );
        }
    }

    #[test]
    fn only_those_who_are_meant_are_ended_and_each_is_counted_once() {
        let (registry, revocations) = (Registry::new(), Revocations::new(1));
        let guards = ["ann", "bob", "ann"].map(|user| registry.open(handle(user, 0)));
        let order = |user: &str| {
            Revocation::new(
                RevocationScope::User(user.into()),
                None,
                Now::read().wall,
                Duration::from_secs(60),
            )
        };
        assert_eq!(revoke(&registry, &revocations, &order("ann"), Now::read()), Ok(2));
        assert_eq!(revoke(&registry, &revocations, &order("ann"), Now::read()), Ok(0));
        assert_eq!(
            revoke(&registry, &revocations, &order("bob"), Now::read()),
            Err(DenyListFull),
            "and bob stays"
        );
        let ended = guards
            .each_ref()
            .map(|guard| guard.poll_close(&mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(ended, [true, false, true]);
    }
}
