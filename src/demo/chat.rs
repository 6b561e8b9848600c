//! The chat room of the demo: an example of a chat backend without auth code.
//!
//! It reads the user from the signed context. It decodes that header without verifying the
//! signature, because only Usher knows its port. A real backend must verify it. The page of the
//! demo does that, with the published keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fastwebsockets::upgrade::UpgradeFut;
use fastwebsockets::{Frame, OpCode, Payload, WebSocketError, WebSocketRead, WebSocketWrite};
use http::Request;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};

use crate::base::lock::lock;

use crate::base::strict_json;

const SEATS: usize = 128;
const WAITING_MESSAGES: usize = 256;
const WAITING_ANSWERS: usize = 16;
const MESSAGE_BYTES: usize = 64 * 1024;
const TEXT_CHARACTERS: usize = 2000;
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Room {
    messages: broadcast::Sender<Arc<str>>,
    seats: Arc<Semaphore>,
    cuts: Mutex<HashMap<SocketKey, oneshot::Sender<()>>>,
}

/// The user and the session of a socket in the room.
type SocketKey = (String, String);

/// The entry of one socket. Dropping it removes the entry, so it also goes if the task is dropped.
struct CutEntry<'a> {
    room: &'a Room,
    key: SocketKey,
}

/// A user in the room, with the request that Usher forwarded.
pub struct Visitor {
    pub name: String,
    pub context: Value,
    /// The target of the request. It shows that Usher has removed the ticket.
    pub target: String,
    pub headers: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ClientEvent {
    Chat { text: String },
}

impl Visitor {
    pub fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let context = headers
            .get("x-user-context")
            .and_then(|value| decoded_claims(value.as_bytes()))
            .unwrap_or(Value::Null);
        Self {
            name: context.get("sub").and_then(Value::as_str).unwrap_or("nobody").to_owned(),
            context,
            target: request.uri().to_string(),
            headers: headers
                .iter()
                .map(|(name, value)| {
                    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                })
                .collect(),
        }
    }

    fn welcome(&self) -> String {
        json!({
            "type": "welcome",
            "you": self.name,
            "context": self.context,
            "target": self.target,
            "headers": self.headers,
        })
        .to_string()
    }
}

impl Room {
    pub fn new() -> Self {
        Self {
            messages: broadcast::Sender::new(WAITING_MESSAGES),
            seats: Arc::new(Semaphore::new(SEATS)),
            cuts: Mutex::default(),
        }
    }

    /// Cuts a socket without a close frame. Returns false if this user has no such session here.
    pub fn cut(&self, user: &str, session: &str) -> bool {
        let key = (user.to_owned(), session.to_owned());
        lock(&self.cuts).remove(&key).is_some_and(|cut| cut.send(()).is_ok())
    }

    fn enter(&self, visitor: &Visitor) -> (CutEntry<'_>, oneshot::Receiver<()>) {
        let session = visitor.context.get("sid").and_then(Value::as_str).unwrap_or_default();
        let key = (visitor.name.clone(), session.to_owned());
        let (cut, is_cut) = oneshot::channel();
        lock(&self.cuts).insert(key.clone(), cut);
        (CutEntry { room: self, key }, is_cut)
    }

    pub fn seat(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.seats).try_acquire_owned().ok()
    }

    /// Serves one visitor until either side closes the connection.
    pub async fn host(&self, upgrade: UpgradeFut, visitor: Visitor, _seat: OwnedSemaphorePermit) {
        let Ok(mut socket) = upgrade.await else { return };
        socket.set_max_message_size(MESSAGE_BYTES);
        let (reader, writer) = socket.split(tokio::io::split);
        let (answers, waiting) = mpsc::channel(WAITING_ANSWERS);
        let messages = self.messages.subscribe();
        let (_entry, is_cut) = self.enter(&visitor);
        if answers.send(text_frame(&visitor.welcome())).await.is_err() {
            return;
        }
        self.broadcast(&json!({ "type": "joined", "from": visitor.name }));
        {
            let mut writing = std::pin::pin!(write(writer, waiting, messages));
            tokio::select! {
                _ = self.listen(reader, answers, &visitor) => {
                    // The last answers, such as a close frame, are still sent.
                    let _ = tokio::time::timeout(WRITE_TIMEOUT, &mut writing).await;
                }
                _ = &mut writing => {}
                Ok(()) = is_cut => {}
            }
        }
        self.broadcast(&json!({ "type": "left", "from": visitor.name }));
    }

    async fn listen<S>(
        &self,
        mut reader: WebSocketRead<S>,
        answers: mpsc::Sender<Frame<'static>>,
        visitor: &Visitor,
    ) -> Result<(), WebSocketError>
    where
        S: AsyncRead + Unpin,
    {
        let mut answer = |frame: Frame<'static>| {
            let answers = answers.clone();
            async move {
                answers
                    .send(frame)
                    .await
                    .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))
            }
        };
        let mut message = Vec::new();
        let mut in_message = false;
        loop {
            let frame = match reader.read_frame(&mut answer).await {
                Ok(frame) => frame,
                Err(WebSocketError::FrameTooLarge) => {
                    let _ = answer(Frame::close(1009, b"Message too big")).await;
                    return Err(WebSocketError::FrameTooLarge);
                }
                Err(error) => return Err(error),
            };
            match frame.opcode {
                OpCode::Close => return Ok(()),
                OpCode::Ping | OpCode::Pong => continue,
                OpCode::Binary => {
                    let _ = answer(Frame::close(1003, b"Text only")).await;
                    return Ok(());
                }
                // A message must not begin inside another one, nor continue before it has begun
                // (RFC 6455 section 5.4).
                OpCode::Text if in_message => return protocol_error(&mut answer).await,
                OpCode::Continuation if !in_message => return protocol_error(&mut answer).await,
                OpCode::Text | OpCode::Continuation => {}
            }
            if message.len() + frame.payload.len() > MESSAGE_BYTES {
                let _ = answer(Frame::close(1009, b"Message too big")).await;
                return Ok(());
            }
            message.extend_from_slice(&frame.payload);
            in_message = !frame.fin;
            if frame.fin
                && let Some(refusal) = self.receive(&std::mem::take(&mut message), visitor)
            {
                let _ = answer(text_frame(&refusal)).await;
            }
        }
    }

    /// Sends a message to all visitors, or returns an error message for the sender.
    fn receive(&self, message: &[u8], visitor: &Visitor) -> Option<String> {
        match strict_json::record(message) {
            Ok(ClientEvent::Chat { text })
                if !text.trim().is_empty() && text.chars().count() <= TEXT_CHARACTERS =>
            {
                self.broadcast(&json!({ "type": "chat", "from": visitor.name, "text": text }));
                None
            }
            _ => {
                let text = format!(
                    "send {{\"type\":\"chat\",\"text\":\"...\"}} with 1 to {TEXT_CHARACTERS} \
                     characters"
                );
                Some(json!({ "type": "rejected", "text": text }).to_string())
            }
        }
    }

    fn broadcast(&self, message: &Value) {
        // An empty room is not an error.
        let _ = self.messages.send(message.to_string().into());
    }
}

impl Drop for CutEntry<'_> {
    fn drop(&mut self) {
        lock(&self.room.cuts).remove(&self.key);
    }
}

async fn protocol_error<F, R>(answer: &mut F) -> Result<(), WebSocketError>
where
    F: FnMut(Frame<'static>) -> R,
    R: Future<Output = std::io::Result<()>>,
{
    let _ = answer(Frame::close(1002, b"Fragments out of order")).await;
    Ok(())
}

async fn write<S>(
    mut writer: WebSocketWrite<S>,
    mut answers: mpsc::Receiver<Frame<'static>>,
    mut messages: broadcast::Receiver<Arc<str>>,
) -> Result<(), WebSocketError>
where
    S: AsyncWrite + Unpin,
{
    loop {
        let frame = tokio::select! {
            biased;
            answer = answers.recv() => match answer {
                Some(frame) => frame,
                None => return Ok(()),
            },
            message = messages.recv() => match message {
                Ok(message) => text_frame(&message),
                // The room does not wait for a slow reader. The reader misses messages, and gets
                // their number.
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    text_frame(&json!({ "type": "missed", "count": count }).to_string())
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
        };
        let last = frame.opcode == OpCode::Close;
        match tokio::time::timeout(WRITE_TIMEOUT, writer.write_frame(frame)).await {
            Ok(written) => written?,
            Err(_) => return Err(WebSocketError::ConnectionClosed),
        }
        if last {
            return writer.flush().await;
        }
    }
}

fn text_frame(text: &str) -> Frame<'static> {
    Frame::text(Payload::Owned(text.as_bytes().to_vec()))
}

fn decoded_claims(compact: &[u8]) -> Option<Value> {
    let claims = compact.split(|byte| *byte == b'.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}
