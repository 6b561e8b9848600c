//! Usher, an edge reverse proxy that terminates WebSocket authentication.

pub mod admin;
pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod drain;
pub mod http;
pub mod keyring;
pub mod limits;
pub mod listener;
pub mod rejection;
pub mod session;
pub mod signal;
pub mod store;
pub mod stream;
pub mod telemetry;
pub mod ticket;
pub mod upstream;
pub mod ws;
