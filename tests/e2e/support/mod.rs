//! The tools of all end-to-end tests.

pub mod auditor;
pub mod backend;
pub mod broker;
pub mod client;
pub mod dns;
pub mod door_book;
pub mod echo;
pub mod eventually;
pub mod http2;
pub mod key_server;
pub mod ledger;
pub mod nginx;
pub mod openssl_ca;
pub mod pebble;
pub mod program;
pub mod proxy;
pub mod recorder;
pub mod redis;
pub mod span_receiver;
pub mod token;
pub mod upgrade_ends;
pub mod usher;
pub mod verifier_server;

pub use backend::Backend;
pub use client::{Raw, upgrade_request};
pub use dns::Dns;
pub use door_book::DoorBook;
pub use echo::Echo;
pub use eventually::eventually;
pub use http2::Http2;
pub use key_server::{KeyServer, Signer};
pub use ledger::Ledger;
pub use nginx::Nginx;
pub use program::Program;
pub use recorder::{Recorder, Script};
pub use span_receiver::SpanReceiver;
pub use usher::{Setup, Usher};

/// Sends a signal, named as in `TERM`, to a process that a test started.
pub fn signal(process: u32, name: &str) {
    let sent = std::process::Command::new("kill")
        .args([format!("-{name}"), process.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}
