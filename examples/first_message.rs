//! A Rust client that authenticates with its first message, on tokio-tungstenite.
//!
//! It sends one message, and keeps the connection through a renewal.
//!
//! Usage: `first_message URL`, with one token on each line of stdin. Replace stdin by your own
//! source of tokens.

#![allow(clippy::print_stdout, reason = "a command's product is what it prints")]

use std::error::Error;
use std::io;

use futures_util::{Sink, SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::{self, Message};

fn fresh_token() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

async fn authenticate<S>(socket: &mut S, id: &str, token: &str) -> Result<(), tungstenite::Error>
where
    S: Sink<Message, Error = tungstenite::Error> + Unpin,
{
    let message = json!({ "type": "auth", "id": id, "payload": { "token": token } });
    socket.send(Message::text(message.to_string())).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).ok_or("usage: first_message URL")?;
    // The token is read before the dial, because Usher waits only 5 seconds for the first message.
    let token = fresh_token()?;
    let (mut socket, _) = connect_async(url).await?;
    authenticate(&mut socket, "login", &token).await?;
    let mut is_in = false;
    while let Some(message) = socket.next().await {
        let text = match message? {
            Message::Text(text) => text,
            Message::Close(frame) => return Err(format!("closed: {frame:?}").into()),
            _ => continue,
        };
        let kind = serde_json::from_str::<Value>(&text).unwrap_or_default();
        match kind.get("type").and_then(Value::as_str) {
            Some("auth_ok") if is_in => {
                println!("renewed");
                return Ok(());
            }
            Some("auth_ok") => {
                is_in = true;
                socket.send(Message::text("hello")).await?;
            }
            Some("auth_required") => authenticate(&mut socket, "renewal", &fresh_token()?).await?,
            _ => println!("got {text}"),
        }
    }
    Err("the connection ended".into())
}
