//! The chat backend of the demo: a greeting over HTTP, and the chat room. It has no auth code.

use std::sync::Arc;

use fastwebsockets::upgrade;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;

use super::answers::{DemoAnswer, json_answer, message};
use super::chat::{Room, Visitor};
use super::server::RequestHandler;

pub struct Backend {
    pub room: Arc<Room>,
}

impl RequestHandler for Backend {
    async fn answer(self: Arc<Self>, mut request: Request<Incoming>) -> DemoAnswer {
        if upgrade::is_upgrade_request(&request) {
            return self.open_chat(&mut request);
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/api/hello") => hello(&Visitor::of(&request)),
            (_, "/ws") => {
                message(StatusCode::UPGRADE_REQUIRED, "use a WebSocket upgrade at this path")
            }
            _ => message(StatusCode::NOT_FOUND, "unknown path"),
        }
    }
}

impl Backend {
    fn open_chat(&self, request: &mut Request<Incoming>) -> DemoAnswer {
        let Some(seat) = self.room.seat() else {
            return message(StatusCode::SERVICE_UNAVAILABLE, "the chat room is full");
        };
        let visitor = Visitor::of(request);
        match upgrade::upgrade(request) {
            Ok((response, socket)) => {
                let room = Arc::clone(&self.room);
                tokio::spawn(async move { room.host(socket, visitor, seat).await });
                response.map(|_| Full::default())
            }
            Err(error) => message(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }
}

fn hello(visitor: &Visitor) -> DemoAnswer {
    let Visitor { name, context, .. } = visitor;
    let greeting = format!("Hello, {name}");
    json_answer(StatusCode::OK, &json!({ "message": greeting, "user": name, "context": context }))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use futures_util::{SinkExt, StreamExt};
    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

    use super::*;
    use crate::demo::server::DemoServer;

    type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

    fn started() -> DemoServer {
        started_with(Arc::new(Room::new()))
    }

    fn started_with(room: Arc<Room>) -> DemoServer {
        DemoServer::start("demo-chat", Arc::new(Backend { room })).unwrap()
    }

    async fn visit(backend: &DemoServer, name: &str) -> Client {
        let claims = URL_SAFE_NO_PAD
            .encode(json!({ "iss": "usher", "sub": name, "sid": format!("s-{name}") }).to_string());
        let mut request =
            format!("ws://{}/any/path", backend.address).into_client_request().unwrap();
        request.headers_mut().insert("X-User-Context", format!("e30.{claims}.AA").parse().unwrap());
        Box::pin(connect_async(request)).await.unwrap().0
    }

    /// Returns the next message of this type. Skips others, such as those about users who join or
    /// leave.
    async fn next(client: &mut Client, kind: &str) -> Value {
        loop {
            let message = client.next().await.unwrap().unwrap();
            let value: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
            if value["type"] == kind {
                return value;
            }
        }
    }

    #[tokio::test]
    async fn two_clients_chat_under_the_names_of_their_signed_contexts() {
        let backend = started();
        let mut ada = visit(&backend, "ada").await;
        let mut bob = visit(&backend, "bob").await;
        next(&mut ada, "welcome").await;
        next(&mut bob, "welcome").await;
        ada.send(Message::text(r#"{"type":"chat","from":"mallory","text":"hello"}"#))
            .await
            .unwrap();
        for client in [&mut ada, &mut bob] {
            assert_eq!(
                next(client, "chat").await,
                json!({ "type": "chat", "from": "ada", "text": "hello" })
            );
        }
    }

    #[tokio::test]
    async fn the_welcome_carries_the_context_and_every_header() {
        let backend = started();
        let welcome = next(&mut visit(&backend, "ada").await, "welcome").await;
        assert_eq!(welcome["you"], "ada");
        assert_eq!(welcome["target"], "/any/path");
        assert_eq!(welcome["context"], json!({ "iss": "usher", "sub": "ada", "sid": "s-ada" }));
        let names: Vec<&str> = welcome["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| pair[0].as_str().unwrap())
            .collect();
        assert!(
            names.contains(&"x-user-context") && names.contains(&"sec-websocket-key"),
            "{names:?}"
        );
    }

    #[tokio::test]
    async fn hostile_frames_end_their_own_connection_only() {
        let backend = started();
        let mut ada = visit(&backend, "ada").await;
        next(&mut ada, "welcome").await;
        let frames: [&[u8]; 7] = [
            b"\xf1\x80\0\0\0\0",                                 // reserved bits
            b"\x83\x80\0\0\0\0",                                 // an unknown opcode
            b"\x80\x80\0\0\0\0",                                 // a continuation of nothing
            b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", // an impossible length
            b"\x88\x81\0\0\0\0\0",                               // a close frame with half a code
            b"\x81\x82\0\0\0\0\xff\xfe",                         // text that is not UTF-8
            b"\x82\x80\0\0\0\0",                                 // binary
        ];
        for frame in frames {
            let mut stream = TcpStream::connect(backend.address).await.unwrap();
            let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(frame).await.unwrap();
            let mut all = Vec::new();
            // The connection is closed or reset, but it does not hang.
            let _ = stream.read_to_end(&mut all).await;
            assert!(all.starts_with(b"HTTP/1.1 101"), "{frame:?}");
        }
        ada.send(Message::text(r#"{"type":"chat","text":"still here"}"#)).await.unwrap();
        assert_eq!(next(&mut ada, "chat").await["text"], "still here");
    }

    #[tokio::test]
    async fn a_message_of_many_fragments_is_held_to_the_limit() {
        let backend = started();
        let mut stream = TcpStream::connect(backend.address).await.unwrap();
        let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut fragments = vec![0x01, 0x80, 0, 0, 0, 0];
        for _ in 0..5 {
            fragments.extend_from_slice(&[0x00, 0xfe, 0x40, 0x00, 0, 0, 0, 0]);
            fragments.resize(fragments.len() + 0x4000, b'a');
        }
        let _ = stream.write_all(&fragments).await;
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        assert!(all.windows(15).any(|bytes| bytes == b"Message too big"));
    }

    #[tokio::test]
    async fn what_is_not_chat_is_answered_and_goes_no_further() {
        let backend = started();
        let mut ada = visit(&backend, "ada").await;
        ada.send(Message::text("hello")).await.unwrap();
        assert!(next(&mut ada, "rejected").await["text"].as_str().unwrap().contains("chat"));
    }

    /// Reads to the end of the stream. Returns true if a close frame came before it.
    async fn ends_with_a_close_frame(client: &mut Client) -> bool {
        while let Some(message) = client.next().await {
            match message {
                Ok(Message::Close(_)) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        false
    }

    #[tokio::test]
    async fn a_socket_is_cut_without_a_close_frame_and_the_others_stay() {
        let room = Arc::new(Room::new());
        let backend = started_with(Arc::clone(&room));
        let mut ada = visit(&backend, "ada").await;
        let mut bob = visit(&backend, "bob").await;
        next(&mut ada, "welcome").await;
        next(&mut bob, "welcome").await;
        assert!(!room.cut("bob", "s-ada"), "a session of another user");
        assert!(room.cut("ada", "s-ada"));
        assert!(!ends_with_a_close_frame(&mut ada).await);
        while next(&mut bob, "left").await["from"] != "ada" {}
        assert!(!room.cut("ada", "s-ada"), "the session has gone");
    }

    #[tokio::test]
    async fn a_restart_cuts_every_socket_and_the_same_address_answers_again() {
        let backend = started();
        let mut ada = visit(&backend, "ada").await;
        next(&mut ada, "welcome").await;
        let restart = backend.restart();
        assert!(restart.order());
        assert!(!ends_with_a_close_frame(&mut ada).await);
        let mut again = loop {
            if TcpStream::connect(backend.address).await.is_ok() {
                break visit(&backend, "ada").await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        next(&mut again, "welcome").await;
    }
}
