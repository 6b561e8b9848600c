//! What has to hold for bytes from strangers, whatever they are.
//!
//! A target is a function that takes any bytes, gives them to one reader of Usher, and panics where
//! a rule of that reader is broken. libFuzzer calls it with bytes that it makes up (`make fuzz`),
//! and `tests/corpus.rs` with the files of `fuzz/corpus` (`make test`). Each file takes what it
//! needs of Usher in one `use`.

mod config;
mod cuts;
mod deflate;
mod follow;
mod framing;
mod head;
mod json;
mod jwt;
mod login;
mod mqtt;
mod settings;
mod socketio;
mod stomp;
mod tls;

/// Reads bytes and panics where a rule does not hold.
pub type Target = fn(&[u8]);

/// The name of each target is also the name of its folder and of its dictionary.
pub const ALL: [(&str, Target); 11] = [
    ("config", config::run),
    ("deflate", deflate::run),
    ("follow", follow::run),
    ("framing", framing::run),
    ("head", head::run),
    ("json", json::run),
    ("jwt", jwt::run),
    ("mqtt", mqtt::run),
    ("socketio", socketio::run),
    ("stomp", stomp::run),
    ("tls", tls::run),
];
