//! The link between the two processes, from the commit until the old one exits.
//!
//! The old process asks about tickets, and each end sends the other every revocation. Both ends run
//! the same code: a process that has replaced another one can be replaced itself.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use super::events::CrlsUnread;
use super::former::FormerSessions;
use super::message::{TakeoverMessage, TicketOutcome, crl_files, hash, is_take, ticket_access};
use crate::base::clock::Now;
use crate::edge::Current;
use crate::model::revocation::Revocation;
use crate::net::handover::{Channel, take_frame};
use crate::rejection::close::CloseReason;
use crate::session::changes::SessionChange;
use crate::session::registry::SessionId;
use crate::session::revoke::revoke_for_node;
use crate::store::succession::{
    SuccessorAnswer, SuccessorCall, SuccessorRequest, TicketAccess, from_json,
};
use crate::telemetry::Event;

/// The most questions that wait for their answers.
const PENDING: usize = 256;

/// The things of which one end tells the other.
#[derive(Debug)]
pub struct Outgoing {
    /// Only the old process asks about tickets.
    pub questions: Option<mpsc::Receiver<SuccessorRequest>>,
    pub revocations: mpsc::Receiver<Revocation>,
    /// The sessions of the old process, if the new one counts them.
    pub changes: Option<mpsc::UnboundedReceiver<SessionChange>>,
    /// The sessions of the old process that make way for newer ones, with the sender for them. Only
    /// the new process has these.
    pub replaced: Option<Replaced>,
    /// Changes of the lists of revoked client certificates. Only the new process has these.
    pub crls: Option<watch::Receiver<()>>,
}

/// A channel for the sessions that have to make way.
pub type Replaced = (mpsc::UnboundedSender<SessionId>, mpsc::UnboundedReceiver<SessionId>);

/// Serves the link until the other process closes it.
pub async fn follow(
    channel: Channel,
    outgoing: Outgoing,
    former: Arc<FormerSessions>,
    current: Current,
) -> io::Result<()> {
    let is_with_predecessor = outgoing.replaced.is_some();
    let outcome = Box::pin(exchange(channel, outgoing, &former, current)).await;
    if is_with_predecessor {
        former.clear();
    }
    outcome
}

async fn exchange(
    channel: Channel,
    outgoing: Outgoing,
    former: &FormerSessions,
    current: Current,
) -> io::Result<()> {
    let Outgoing { mut questions, mut revocations, mut changes, replaced, mut crls } = outgoing;
    let (origin, mut replaced) = replaced.unzip();
    let (stream, read) = channel.into_parts()?;
    let (reader, mut writer) = UnixStream::from_std(stream)?.into_split();
    // Without a limit, so that two ends that write never wait for each other. A process sends at
    // most two messages for each of its sessions, and an answer for each of `PENDING` questions.
    let (sender, mut messages) = mpsc::unbounded_channel();
    let reading = tokio::spawn(read_messages(reader, read, sender));
    let mut pending: HashMap<u64, (bool, oneshot::Sender<SuccessorAnswer>)> = HashMap::new();
    let mut next = 0;
    let outcome = loop {
        let has_room = pending.len() < PENDING;
        let message = tokio::select! {
            message = messages.recv() => match message {
                Some(TakeoverMessage::Answer { id, outcome }) => {
                    if let Some((is_put, asker)) = pending.remove(&id) {
                        // The client may have left meanwhile.
                        let _ = asker.send(outcome.answer(is_put));
                    }
                    continue;
                }
                Some(TakeoverMessage::Revocation(order)) => {
                    let edge = current.load_full();
                    // A full deny list is reported there.
                    let _ = revoke_for_node(&edge.registry, &edge.revocations, &order, Now::read());
                    continue;
                }
                Some(TakeoverMessage::Session(session)) => {
                    if let Some(origin) = &origin {
                        former.enter(session, origin, &current.load_full());
                    }
                    continue;
                }
                Some(TakeoverMessage::SessionEnded { id }) => {
                    if let Some(id) = SessionId::read(&id) {
                        former.remove(id);
                    }
                    continue;
                }
                Some(TakeoverMessage::ClientCrls(named)) => {
                    follow_crls(named, &current);
                    continue;
                }
                Some(TakeoverMessage::ReplaceSession { id }) => {
                    replace_session(&id, former, &current);
                    continue;
                }
                Some(message) => match answer(message, &current).await {
                    Some(message) => message,
                    None => break Err(io::Error::other("a message out of turn")),
                },
                None => break Ok(()),
            },
            Some(change) = receive_unbounded(&mut changes) => TakeoverMessage::from(change),
            () = changed(&mut crls) => {
                let files = current.load().revoked_certificates.files();
                // Without lists, those of the old process stay in force there.
                if files.is_empty() {
                    continue;
                }
                match TakeoverMessage::of_crls(files) {
                    Ok(message) => message,
                    Err(error) => break Err(error),
                }
            }
            Some(id) = receive_unbounded(&mut replaced) => {
                TakeoverMessage::ReplaceSession { id: id.to_string() }
            }
            question = receive(&mut questions), if has_room => match question {
                Some(SuccessorRequest { call, answer }) => {
                    next += 1;
                    pending.insert(next, (matches!(call, SuccessorCall::Put(..)), answer));
                    match question_message(next, call) {
                        Some(message) => message,
                        None => {
                            pending.remove(&next);
                            continue;
                        }
                    }
                }
                None => {
                    questions = None;
                    continue;
                }
            },
            order = revocations.recv() => match order {
                Some(order) => TakeoverMessage::Revocation(order),
                None => break Err(io::Error::other("too many revocations wait")),
            },
        };
        if let Err(error) = write(&mut writer, &message).await {
            break Err(error);
        }
    };
    reading.abort();
    outcome
}

/// Waits forever if there is no receiver.
async fn receive(
    questions: &mut Option<mpsc::Receiver<SuccessorRequest>>,
) -> Option<SuccessorRequest> {
    match questions {
        Some(questions) => questions.recv().await,
        None => std::future::pending().await,
    }
}

/// Does the same. The sender lives as long as the sessions.
async fn receive_unbounded<T>(receiver: &mut Option<mpsc::UnboundedReceiver<T>>) -> Option<T> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits forever if there is no receiver, or no change any more.
async fn changed(receiver: &mut Option<watch::Receiver<()>>) {
    if let Some(receiver) = receiver
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// Reads the lists of the new process, as it has done.
fn follow_crls(named: Vec<(OsString, Vec<OsString>)>, current: &Current) {
    let followed = current.load_full().follow_lists(crl_files(named), Now::read());
    if let Err(error) = followed {
        CrlsUnread { why: &error.to_string() }.emit();
    }
}

/// Ends a session for a newer one: one of this process, or of the one before it.
fn replace_session(id: &str, former: &FormerSessions, current: &Current) {
    let Some(id) = SessionId::read(id) else { return };
    match current.load().registry.find(id) {
        Some(session) => {
            session.close(CloseReason::Replaced);
        }
        None => former.replace(id),
    }
}

fn question_message(id: u64, call: SuccessorCall) -> Option<TakeoverMessage> {
    Some(match call {
        SuccessorCall::Put(hash, record) => TakeoverMessage::Put {
            id,
            hash: hash.0,
            record: crate::store::succession::to_json(*record)?,
        },
        SuccessorCall::Find(hash, access) => {
            TakeoverMessage::Seek { id, hash: hash.0, redeem: is_take(access) }
        }
    })
}

/// Answers a question of the other process. `None`: the message is not a question.
async fn answer(message: TakeoverMessage, current: &Current) -> Option<TakeoverMessage> {
    let edge = current.load_full();
    let (store, now) = (edge.tickets.stores().own(), Now::read());
    let (id, answer) = match message {
        TakeoverMessage::Put { id, hash: bytes, record } => {
            let stored = store.put(hash(bytes), from_json(&record)?, now).await;
            (id, SuccessorAnswer::Put(stored))
        }
        TakeoverMessage::Seek { id, hash: bytes, redeem } => {
            let found = match ticket_access(redeem) {
                TicketAccess::Take => store.take(hash(bytes), now).await,
                TicketAccess::Peek => store.peek(hash(bytes), now).await,
            };
            (id, SuccessorAnswer::Record(found.map(Box::new)))
        }
        _ => return None,
    };
    Some(TakeoverMessage::Answer { id, outcome: TicketOutcome::of(answer) })
}

async fn write(
    writer: &mut (impl AsyncWriteExt + Unpin),
    message: &TakeoverMessage,
) -> io::Result<()> {
    let frame = message.to_frame()?;
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    writer.write_all(&[&length.to_be_bytes(), &*frame].concat()).await
}

/// Reads messages until the other process closes the link or sends nonsense.
async fn read_messages(
    mut reader: impl AsyncRead + Unpin,
    mut read: Vec<u8>,
    sender: mpsc::UnboundedSender<TakeoverMessage>,
) -> io::Result<()> {
    loop {
        while let Some(frame) = take_frame(&mut read)? {
            let message = TakeoverMessage::from_frame(&frame)?;
            if sender.send(message).is_err() {
                return Ok(());
            }
        }
        if reader.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    }
}
