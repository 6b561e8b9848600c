//! The replacement of a process, seen by the whole program: taking over from the one before, and
//! leaving to the one after. `takeover/` speaks with the other process.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::RunError;
use super::replacer::Replacer;
use super::sockets::{PendingAdmin, spread};
use super::stop::{close_sessions, finish, report_lost_manager};
use crate::base::clock::Now;
use crate::edge::{Current, Edge};
use crate::listener::{Bound, SocketOwner};
use crate::net::admin_socket::{AdminSocket, SocketFile};
use crate::net::handover::Channel;
use crate::net::service_manager::ServiceState;
use crate::takeover::events::{SuccessorLost, TakenOver};
use crate::takeover::{
    self, FormerSessions, HandoverSockets, HeldSocket, Outgoing, Predecessor, Successor,
};
use crate::telemetry::Event;

/// The channel to the process before this one, and the things of which this one tells it.
pub(super) type PredecessorLink = (Channel, Outgoing);

/// Takes over from the running process: its sockets become those of the threads and of the admin
/// listener. After this returns, the other process does not accept any more.
pub(super) async fn take_over(
    predecessor: Predecessor,
    threads: &mut [Vec<Bound>],
    admin: &mut Option<PendingAdmin>,
    edge: &Edge,
    former: &FormerSessions,
) -> Result<PredecessorLink, RunError> {
    let is_missing =
        |index: usize| !threads.iter().flatten().any(|one| one.listener_index == index);
    let listeners = edge.config.listeners.iter().enumerate();
    let deferred: Vec<_> = listeners
        .filter(|(index, _)| is_missing(*index))
        .map(|(index, listener)| (index, listener.address))
        .collect();
    let mut addresses: Vec<_> = deferred.iter().map(|(_, address)| *address).collect();
    if let Some(PendingAdmin::Deferred(address)) = admin {
        addresses.push(*address);
    }
    let limits = &edge.limits;
    let counts_sessions = limits.sessions_per_user.is_some()
        || limits.sessions_per_address.is_some()
        || limits.sessions_per_route.is_some();
    let mut inheritance = predecessor.take(addresses.clone(), counts_sessions)?;
    for (index, address) in deferred {
        spread(threads, index, inheritance.sockets(address))?;
    }
    if let Some(PendingAdmin::Deferred(address)) = admin {
        let socket = inheritance.sockets(*address).pop();
        *admin = socket.map(|(_, socket)| PendingAdmin::Bound(AdminSocket::Tcp(socket)));
    }
    let (tickets, now) = inheritance.take_tickets();
    let ticket_count = tickets.len();
    let imported = edge.tickets.stores().own().import(tickets, now).await;
    imported.map_err(|error| io::Error::other(format!("cannot keep tickets: {error}")))?;
    if let Some(store) = edge.tickets.stores().own().memory() {
        for past in std::mem::take(&mut inheritance.past_tickets) {
            store.import_past(past, now);
        }
    }
    let (origin, replaced) = mpsc::unbounded_channel();
    let sessions = std::mem::take(&mut inheritance.sessions);
    for session in sessions {
        former.enter(session, &origin, edge);
    }
    let orders = std::mem::take(&mut inheritance.revocations);
    for order in &orders {
        let applied = edge.revocations.apply(order.clone(), now);
        applied.map_err(|full| io::Error::other(full.to_string()))?;
    }
    let revocations = edge.revocations.watch();
    let channel = inheritance.commit()?;
    TakenOver { addresses: &addresses, tickets: ticket_count, revocations: orders.len() }.emit();
    let replaced = counts_sessions.then_some((origin, replaced));
    let crls = Some(edge.revoked_certificates.watch());
    Ok((channel, Outgoing { questions: None, revocations, changes: None, replaced, crls }))
}

/// Returns copies of the sockets, for a process that takes over.
pub(super) fn estate(
    current: &Current,
    threads: &[Vec<Bound>],
    admin: Option<&AdminSocket>,
    former: &Arc<FormerSessions>,
) -> io::Result<Arc<HandoverSockets>> {
    let held = |socket: &TcpListener, owner, is_admin| {
        let address = socket.local_addr()?;
        Ok::<_, io::Error>(HeldSocket { address, owner, is_admin, socket: socket.try_clone()? })
    };
    let mut sockets = Vec::new();
    for bound in threads.iter().flatten() {
        sockets.push(held(&bound.socket, bound.owner, false)?);
    }
    if let Some(AdminSocket::Tcp(socket)) = admin {
        sockets.push(held(socket, SocketOwner::ThisProcess, true)?);
    }
    Ok(HandoverSockets::new(Arc::clone(current), Arc::clone(former), sockets))
}

/// Waits for a process that takes over. Without a takeover socket, none can.
pub(super) async fn wait_for_successor(
    takeover: Option<(UnixListener, SocketFile)>,
    estate: Option<Arc<HandoverSockets>>,
) -> io::Result<Successor> {
    let (Some((socket, file)), Some(estate)) = (takeover, estate) else {
        return std::future::pending().await;
    };
    let socket = tokio::net::UnixListener::from_std(socket)?;
    let successor = takeover::wait_for_successor(socket, estate).await;
    file.leave();
    Ok(successor)
}

/// Drains after another process has taken over, and asks it about tickets meanwhile. If that
/// process ends first, revocations cannot reach this one, so the sessions close at once.
///
/// If it has failed, this process is the main one again, and fails too. Otherwise a service manager
/// would read its end as that of the service, and not start it again.
pub(super) async fn leave_to(
    successor: Successor,
    edge: &Edge,
    former: Arc<FormerSessions>,
    current: Current,
    replacer: &Replacer,
) -> Result<(), RunError> {
    let Successor { channel, outgoing } = successor;
    let pid = channel.peer_pid();
    // Connections that are open may send requests until the window ends.
    let leaving = close_sessions(edge, edge.config.drain.window);
    let link = takeover::follow(channel, outgoing, former, current);
    let lost = async {
        // The reason does not matter: the other process cannot be reached any more.
        let _ = link.await;
    };
    let is_lost = tokio::select! {
        () = leaving => false,
        () = lost => true,
    };
    if is_lost {
        SuccessorLost.emit();
        edge.drain.begin();
        let take_back = async {
            let has_failed = match pid {
                Ok(pid) => replacer.has_failed(pid).await,
                Err(_) => false,
            };
            if has_failed {
                let this = std::process::id().cast_signed();
                report_lost_manager(ServiceState::MainProcess { pid: this }.send());
            }
            has_failed
        };
        let ((), has_failed) = tokio::join!(close_sessions(edge, Duration::ZERO), take_back);
        finish(edge, Now::read().mono).await;
        return if has_failed { Err(RunError::SuccessorFailed) } else { Ok(()) };
    }
    finish(edge, Now::read().mono).await;
    Ok(())
}
