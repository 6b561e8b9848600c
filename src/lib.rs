//! Usher, an edge reverse proxy that terminates WebSocket authentication.
//!
//! # The life of a connection
//!
//! A thread of its own core accepts it ([`listener`]) and ends its TLS. Its first bytes are read as
//! a request head by a reader that knows one reading only ([`http::head`]); what could be read in
//! two ways is refused there and then. Plain HTTP goes on through a guard to the HTTP library and
//! is forwarded ([`http::forward`]). An upgrade stays with us ([`http::upgrade`]): the route is
//! found, the credential is taken out of the request and becomes a principal, and the principal a
//! [`auth::grant::Grant`]. A client that shows none there may say it in its first message, in one
//! of several dialects ([`auth::first_message`]). Only with a grant can an upstream be dialled
//! ([`upstream::connect`]); it gets the upgrade with a signed context that says who the client is,
//! and only its correct 101 opens the way. From then on the two sockets are a session: its rules
//! are a state machine without I/O ([`session::state`]), its bytes move through one future that
//! owns no buffer while it is idle ([`session::relay`]). Near the grant's end the client is asked
//! for a new credential inside its stream ([`session::conversation`]). It ends once, for one
//! reason, and that is told once ([`telemetry::Event`]).
//!
//! # The map
//!
//! A module imports only from the floors below its own; `tests/floors.rs` holds that. From the
//! ground up:
//!
//! - [`base`] and [`ws`] know nothing of ours: the clock, locks, rates; WebSocket frames
//! - [`model`] is the vocabulary, [`rejection`] every refusal and close reason, [`telemetry`] what
//!   counts and logs, [`config`] from text to meaning
//! - [`net`] moves bytes, [`store`] keeps tickets, [`auth`] makes a credential a grant
//! - [`upstream`] dials with a grant, [`session`] is the live connection, [`fleet`] the other nodes,
//!   [`migration`] the way from old methods to new ones
//! - [`edge`] is one configuration ready to serve, [`http`] a client's connection, [`listener`]
//!   accepts it, [`admin`] is what operators ask
//! - [`app`] builds and runs the whole, [`cli`] is how a person meets it

pub mod admin;
pub mod admin_client;
pub mod app;
pub mod auth;
pub mod base;
pub mod bench;
pub mod cli;
pub mod config;
pub mod demo;
pub mod edge;
pub mod exit;
pub mod explain;
pub mod fleet;
pub mod http;
pub mod listener;
pub mod migration;
pub mod model;
pub mod net;
pub mod rejection;
pub mod session;
pub mod store;
pub mod telemetry;
pub mod telemetry_setup;
pub mod upstream;
pub mod ws;
