//! The vocabulary of SPEC section 1: small types that config, authentication and telemetry share.

pub mod algorithm;
pub mod client_certificate;
pub mod faults;
pub mod host_pattern;
pub mod listening_address;
pub mod method;
pub mod origin;
pub mod path;
pub mod permission;
pub mod principal;
pub mod request_id;
pub mod revocation;
pub mod secret;
pub mod service_url;
pub mod store_fault;
pub mod trace_context;
pub mod upstream_path;
pub mod verifier_fault;
