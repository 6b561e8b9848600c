//! Usher, an edge reverse proxy that terminates WebSocket authentication.
//!
//! # The life of a connection
//!
//! A thread of its own core accepts it ([`listener`]) and ends its TLS. Its first bytes are read as a request head by
//! a reader that knows one reading only ([`http::head`]); what could be read in two ways is refused there and then. Plain
//! HTTP goes on through a guard to the HTTP library and is forwarded ([`http::forward`]). An upgrade stays with us
//! ([`http::upgrade`]): the route is found, the credential is taken out of the request and becomes a principal, and the
//! principal a [`auth::grant::Grant`]. A client that shows none there may say it in its first message, in one of several
//! dialects ([`auth::first_message`]). Only with a grant can an upstream be dialled ([`upstream::connect`]); it gets the
//! upgrade with a signed context that says who the client is, and only its correct 101 opens the way. From then on the two
//! sockets are a session: its rules are a state machine without I/O ([`session::state`]), its bytes move through one
//! future that owns no buffer while it is idle ([`session::relay`]). Near the grant's end the client is asked for a new
//! credential inside its stream ([`session::conversation`]). It ends once, for one reason, and that is told once
//! ([`telemetry::event`]).
//!
//! # The map
//!
//! - the words everyone uses: [`clock`], [`config`], [`rejection`], [`limits`], [`stream`]
//! - towards the client: [`listener`], [`tls`], [`http`], [`auth`], [`ticket`], [`store`]
//! - towards the upstream: [`upstream`], [`keyring`]
//! - between them: [`session`], [`ws`]; from old ways in to new ones: [`migration`]
//! - beside it, the other nodes: [`fleet`], and whom we ask about credentials: [`fetch`]
//! - the whole: [`edge`] is one configuration ready to serve, [`reload`] makes the next; [`app`] builds and runs it, [`drain`]
//!   and [`signal`] stop it, [`memory`] gives back, [`telemetry`] and [`admin`] show it, [`cli`] is how a person meets it

pub mod admin;
pub mod app;
pub mod auth;
pub mod breaker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod drain;
pub mod edge;
pub mod fetch;
pub mod fleet;
pub mod http;
pub mod keyring;
pub mod limits;
pub mod listener;
mod lock;
pub mod memory;
pub mod migration;
pub mod rejection;
pub mod reload;
pub mod session;
pub mod signal;
pub mod store;
pub mod stream;
pub mod telemetry;
pub mod ticket;
pub mod tls;
pub mod upstream;
pub mod ws;
