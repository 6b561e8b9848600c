//! Measures issuing and redeeming a ticket, with the store in memory.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use usher::auth::ticket::{TicketAsker, TicketRequest, Tickets};
use usher::base::clock::Now;
use usher::model::secret::Secret;

use crate::known;
use crate::support::Runner;

/// More tickets than the rounds of any batch, so that the store has its full size before the first
/// round.
const SEEN: usize = 20_000;

pub fn run(runner: &mut Runner) {
    let config = known::config("[store]\nmax_tickets = 1000000");
    let now = Now::read();
    let grant = known::grant(&config, now);
    let principal = grant.principal().unwrap();
    let tickets = Tickets::new(&config).unwrap();
    let asking = TicketAsker { origin: None, peer: [192, 0, 2, 7].into(), traceparent: None };
    let issue = |principal| {
        at_once(tickets.issue(principal, TicketRequest::default(), asking, now)).unwrap().ticket
    };
    let redeem = |ticket: Secret| {
        at_once(tickets.redeem(&ticket, grant.route(), None, asking.peer, "request", now)).unwrap()
    };
    // Tickets are removed between two batches, so that each batch finds the same store.
    let forget = || {
        for hours in [3, 6] {
            let span = Duration::from_secs(hours * 3600);
            at_once(tickets.sweep(Now { wall: now.wall + span, mono: now.mono + span }));
        }
    };
    (0..SEEN).for_each(|_| drop(issue(principal.clone())));
    let principals = |rounds: usize| {
        forget();
        vec![principal.clone(); rounds]
    };
    runner.measure_with("ticket: issue", principals, issue);
    let issued = |rounds: usize| principals(rounds).into_iter().map(issue).collect();
    runner.measure_with("ticket: redeem", issued, redeem);
}

/// Polls a future that must be ready: the store in memory never waits.
fn at_once<Out>(work: impl Future<Output = Out>) -> Out {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(out) => out,
        Poll::Pending => panic!("it waits"),
    }
}
