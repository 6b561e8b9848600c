//! The configuration as it is written: the source of the JSON schema.
//!
//! `resolve/` reads the same keys with their places; a test holds the two together through `config/reference.toml`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::auth::algorithm::Algorithm;
use crate::auth::credential::Method;

/// Everything that can be written in the file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// What this node is called where nodes are listed; the host's name unless written.
    pub node: Option<String>,
    /// Where Usher keeps the keys that it makes, and the last good ones of issuers.
    pub state_dir: Option<String>,
    /// Runtime threads; one per core unless written.
    pub threads: Option<usize>,
    /// Addresses that clients connect to; at least one.
    pub listener: Option<Vec<ListenerTable>>,
    /// Whose tokens are good.
    pub issuer: Option<Vec<IssuerTable>>,
    /// Who is asked whether an opaque token or a session is good.
    pub verifier: Option<Vec<VerifierTable>>,
    /// The servers behind Usher.
    pub upstream: Option<Vec<UpstreamTable>>,
    /// Which path goes to which upstream, and who may use it; at least one.
    pub route: Option<Vec<RouteTable>>,
    /// One-time tickets for browsers.
    pub tickets: Option<TicketsTable>,
    /// Where tickets are kept.
    pub store: Option<StoreTable>,
    /// The signed header that tells the upstream who the user is.
    pub context: Option<ContextTable>,
    /// Who a client certificate stands for.
    pub mtls: Option<MtlsTable>,
    /// How a client authenticates with its first message; a route can say otherwise.
    pub first_message: Option<FirstMessageTable>,
    /// How a session is renewed while it lives; a route can say otherwise.
    pub reauth: Option<ReauthTable>,
    /// Pings and silence.
    pub keepalive: Option<KeepaliveTable>,
    /// How much a client may take.
    pub limits: Option<LimitsTable>,
    /// What is refused before its time.
    pub revocation: Option<RevocationTable>,
    /// A test identity from a header, for end-to-end tests; counts only with `usher run --allow-bypass`.
    pub bypass: Option<BypassTable>,
    /// Where clients ask which method they are to use.
    pub migration: Option<MigrationTable>,
    /// Stopping.
    pub drain: Option<DrainTable>,
    /// The address for metrics, health and steering; off unless written.
    pub admin: Option<AdminTable>,
    /// The log.
    pub log: Option<LogTable>,
    /// The audit trail.
    pub audit: Option<AuditTable>,
}

/// An address that clients connect to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTable {
    /// IP address and port.
    pub address: String,
    /// PEM files; the first pair serves clients that name no known host.
    pub certificates: Option<Vec<CertificateTable>>,
    /// Take plain HTTP, where another proxy terminates TLS.
    pub plain: Option<bool>,
    /// PEM file of the authorities whose client certificates are taken.
    pub client_ca: Option<String>,
    /// optional, or required: a handshake without a client certificate is ended.
    pub client_auth: Option<String>,
    /// The oldest TLS version taken, 1.2 or 1.3.
    pub min_tls: Option<String>,
    /// Networks whose forwarding headers are believed.
    pub trusted_peers: Option<Vec<String>>,
}

/// A certificate and its key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateTable {
    /// PEM file of the certificate and its chain.
    pub cert: String,
    /// PEM file of the private key.
    pub key: String,
}

/// Whose tokens are good.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerTable {
    /// Its name in logs and metrics.
    pub name: String,
    /// The iss that its tokens carry.
    pub issuer: String,
    /// A token carries at least one of these as aud.
    pub audience: Vec<String>,
    /// Signature algorithms, all of one family.
    pub algorithms: Vec<Algorithm>,
    /// Environment variable with the shared secret, for HS256, HS384 and HS512.
    pub secret_env: Option<String>,
    /// File with the shared secret, instead of secret_env.
    pub secret_file: Option<String>,
    /// JSON Web Key Set with the public keys, for every other algorithm.
    pub jwks_file: Option<String>,
    /// Where the keys are published, instead of jwks_file.
    pub jwks_url: Option<String>,
    /// Find the keys by OpenID discovery, from the issuer's own address.
    pub discovery: Option<bool>,
    /// How often published keys are fetched anew.
    pub jwks_refresh: Option<String>,
    /// How long one fetch may take, and how long a client with an unknown key id waits for it.
    pub jwks_timeout: Option<String>,
    /// PEM file of the authorities that sign the issuer's server, instead of those of the system.
    pub ca_file: Option<String>,
    /// Fetch keys over plain http from another machine; whoever sits in between chooses who gets in.
    pub allow_plain: Option<bool>,
    /// How far clocks may differ.
    pub leeway: Option<String>,
    /// Claims that a token must carry besides iss, aud and exp.
    pub required_claims: Option<Vec<String>>,
    /// The claim that names the user.
    pub user_claim: Option<String>,
    /// The claim that lists permissions; realm_access.roles leads into an object.
    pub permissions_claim: Option<String>,
    /// The claim that names the login session.
    pub session_claim: Option<String>,
    /// A longer token is refused.
    pub max_token_bytes: Option<String>,
    /// A token good for longer than this from now is refused.
    pub max_lifetime: Option<String>,
}

/// Who is asked whether an opaque token or a session is good.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifierTable {
    /// Its name in routes, logs and metrics.
    pub name: String,
    /// http (the credential as JSON, claims back), introspection (RFC 7662) or redis (sessions under a key).
    pub kind: String,
    /// Where it is asked; for redis where the sessions are, those of the store unless written.
    pub url: Option<String>,
    /// Ask over plain http on another machine; whoever sits in between has the credentials.
    pub allow_plain: Option<bool>,
    /// PEM file of the authorities that sign its server, instead of those of the system.
    pub ca_file: Option<String>,
    /// The client that Usher is to an introspection endpoint.
    pub client_id: Option<String>,
    /// Environment variable with that client's secret.
    pub client_secret_env: Option<String>,
    /// File with that client's secret, instead of client_secret_env.
    pub client_secret_file: Option<String>,
    /// Environment variable with a bearer token that Usher shows of itself.
    pub token_env: Option<String>,
    /// File with that token, instead of token_env.
    pub token_file: Option<String>,
    /// The iss that an introspected token must have; not looked at unless written.
    pub issuer: Option<String>,
    /// An introspected token carries at least one of these as aud; not looked at unless written.
    pub audience: Option<Vec<String>>,
    /// The user of Redis, where it is not the default one.
    pub username: Option<String>,
    /// Environment variable with the password of Redis.
    pub password_env: Option<String>,
    /// File with the password of Redis, instead of password_env.
    pub password_file: Option<String>,
    /// The key in Redis that holds a session, with {id} in it.
    pub key: Option<String>,
    /// Environment variable with the secret that session cookies are signed with, as express-session does it.
    pub cookie_secret_env: Option<String>,
    /// File with that secret, instead of cookie_secret_env.
    pub cookie_secret_file: Option<String>,
    /// How long one answer may take, the wait for a place included.
    pub timeout: Option<String>,
    /// Questions on their way at once.
    pub concurrency: Option<usize>,
    /// Questions that wait for a place among them.
    pub max_waiting: Option<usize>,
    /// How long a good answer is believed, never past its own end.
    pub cache_ttl: Option<String>,
    /// How long a refusal is believed.
    pub negative_cache_ttl: Option<String>,
    /// Answers remembered, good ones and refusals each.
    pub cache_entries: Option<usize>,
    /// The claim that names the user: a name, or a JSON pointer.
    pub user_claim: Option<String>,
    /// The claim that lists permissions; scope for introspection.
    pub permissions_claim: Option<String>,
    /// The claim that names the login session.
    pub session_claim: Option<String>,
    /// The claim that says when the credential ends.
    pub expiry_claim: Option<String>,
    /// A longer credential is refused.
    pub max_token_bytes: Option<String>,
    /// The longest answer that is read.
    pub max_answer_bytes: Option<String>,
    /// How long an answer is good at most.
    pub max_lifetime: Option<String>,
    /// How often it is asked again about live sessions; not at all unless written.
    pub revalidate: Option<String>,
    /// How long a live session goes on while it gives no answer; to the end of its grant unless written.
    pub revalidate_grace: Option<String>,
}

/// Servers of one kind.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTable {
    /// The name that routes use.
    pub name: String,
    /// Servers as http://host:port, https://host:port or unix:/path.
    pub servers: Vec<String>,
    /// How long connecting may take.
    pub dial_timeout: Option<String>,
    /// How long a server may take to begin its answer.
    pub answer_timeout: Option<String>,
    /// Idle HTTP connections kept for each server on each thread.
    pub max_idle: Option<usize>,
    /// How long an idle HTTP connection is kept.
    pub idle_timeout: Option<String>,
    /// PEM file of the authorities that sign the servers, instead of those of the system.
    pub ca_file: Option<String>,
    /// The name to verify, where it is not the host of the server.
    pub server_name: Option<String>,
}

/// Which path goes where, and who may use it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteTable {
    /// An exact path, /prefix/*, or with {name} segments.
    pub path: String,
    /// Hosts it answers to; all unless written.
    pub hosts: Option<Vec<String>>,
    /// The name of an upstream.
    pub upstream: String,
    /// Methods in order of preference; an empty list makes the route public.
    pub auth: Vec<Method>,
    /// Permissions that a grant must give; {name} stands for a parameter of the path.
    pub require: Option<Vec<String>>,
    /// Web pages that may connect; not looked at unless written.
    pub origins: Option<Vec<String>>,
    /// The query parameter that carries a ticket.
    pub ticket_parameter: Option<String>,
    /// The query parameter that carries a token, for the method query.
    pub token_parameter: Option<String>,
    /// The cookie that carries a token, for the method cookie.
    pub token_cookie: Option<String>,
    /// The cookie that carries a session id, for the method session.
    pub session_cookie: Option<String>,
    /// The verifier that is asked about tokens; the issuers judge them unless written.
    pub verifier: Option<String>,
    /// Which tokens it is asked about: all, or opaque (those in the shape of a JWT go to the issuers).
    pub verifier_for: Option<String>,
    /// The verifier that is asked about sessions; the one of verifier unless written.
    pub session_verifier: Option<String>,
    /// Unsigned headers for the upstream, each with the claim it carries.
    pub identity_headers: Option<BTreeMap<String, String>>,
    /// Subprotocols that an early 101 may choose; those of the preset unless written.
    pub subprotocols: Option<Vec<String>>,
    /// How a refused upgrade is answered: http (a status) or close (a 101 and a close frame, which a page can read).
    pub reject_mode: Option<String>,
    /// Close codes: rfc (1008) or http (4401, 4403, 4408).
    pub close_codes: Option<String>,
    /// Methods of this route that are to go: they work, and clients and operators are told.
    pub legacy: Option<Vec<Method>>,
    /// The day since which the legacy methods are not to be used.
    pub deprecated: Option<String>,
    /// The day on which they are to be gone.
    pub sunset: Option<String>,
    /// A page about the change, for the answers to legacy clients.
    pub migration_link: Option<String>,
    /// Methods that are looked at and counted, and nothing else.
    pub shadow: Option<Vec<Method>>,
    /// Which share of the clients is to use a new method.
    pub rollout: Option<RolloutTable>,
    /// As the table first_message, for this route.
    pub first_message: Option<FirstMessageTable>,
    /// As the table reauth, for this route.
    pub reauth: Option<ReauthTable>,
}

/// How a client authenticates with its first message.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FirstMessageTable {
    /// The dialect: json, graphql-transport-ws, socketio, home-assistant, stomp or mqtt.
    pub preset: Option<String>,
    /// How long the client may take, from the 101.
    pub timeout: Option<String>,
    /// Its size, inflated; 64KiB at most.
    pub max_bytes: Option<String>,
    /// Answer auth_ok, or what the dialect has for it.
    pub ack: Option<bool>,
    /// What the upstream gets of it: consume (nothing), forward (all) or redact (all but the secret); json and home-assistant consume, the others redact.
    pub forward: Option<String>,
    /// Where in a JSON message its type stands.
    pub type_pointer: Option<String>,
    /// The type of the message that carries the credential.
    pub type_value: Option<String>,
    /// Where in a JSON message the token stands; each preset knows its own.
    pub token_pointer: Option<String>,
    /// Where a ticket stands, for clients that have one instead.
    pub ticket_pointer: Option<String>,
    /// A message that the client gets before it has said anything.
    pub greeting: Option<String>,
}

/// How a session is renewed while it lives.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReauthTable {
    /// message (ask inside the stream), close (end with the token) or off (outlive it); stomp and mqtt close.
    pub mode: Option<String>,
    /// How long before its end a token is asked for anew.
    pub before_expiry: Option<String>,
    /// How long the client has to answer.
    pub grace: Option<String>,
    /// Wrong answers before the session ends.
    pub attempts: Option<usize>,
    /// A proof of identity is good for this long at most, whatever the token says.
    pub max_age: Option<String>,
    /// Clients may renew before they are asked.
    pub proactive: Option<bool>,
}

/// One-time tickets for browsers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TicketsTable {
    /// Where a client asks for a ticket.
    pub path: Option<String>,
    /// How long a ticket is good.
    pub ttl: Option<String>,
    /// The longest that a client may ask for.
    pub max_ttl: Option<String>,
    /// Allow tickets that work more than once.
    pub multi_use: Option<bool>,
    /// What a ticket is tied to: origin, ip.
    pub bind: Option<Vec<String>>,
    /// Pages that may ask for tickets; those of the ticket routes unless written.
    pub origins: Option<Vec<String>>,
    /// The cookie that a page of these origins may show instead of a bearer token.
    pub token_cookie: Option<String>,
    /// The cookie with a session id that it may show, where there is a verifier for it.
    pub session_cookie: Option<String>,
    /// The verifier that is asked about tokens; the issuers judge them unless written.
    pub verifier: Option<String>,
    /// Which tokens it is asked about: all, or opaque (those in the shape of a JWT go to the issuers).
    pub verifier_for: Option<String>,
    /// The verifier that is asked about sessions; the one of verifier unless written.
    pub session_verifier: Option<String>,
    /// Tickets for one user.
    pub rate_per_user: Option<String>,
    /// Tickets for one client address.
    pub rate_per_address: Option<String>,
}

/// Where tickets are kept.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreTable {
    /// memory, or redis://host:port/database, redis+sentinel://host:port,.../master, redis+cluster://host:port,...; rediss with TLS.
    pub url: Option<String>,
    /// Tickets alive at once, in memory.
    pub max_tickets: Option<usize>,
    /// PEM file of the authorities that sign the servers of Redis, instead of those of the system.
    pub ca_file: Option<String>,
    /// The user of Redis, where it is not the default one.
    pub username: Option<String>,
    /// Environment variable with the password of Redis.
    pub password_env: Option<String>,
    /// File with the password of Redis, instead of password_env.
    pub password_file: Option<String>,
    /// Environment variable with the password of the sentinels.
    pub sentinel_password_env: Option<String>,
    /// File with the password of the sentinels, instead of sentinel_password_env.
    pub sentinel_password_file: Option<String>,
    /// What every key in Redis begins with.
    pub prefix: Option<String>,
    /// How long one operation on Redis may take.
    pub timeout: Option<String>,
    /// none, or how many replicas must know that a ticket is redeemed before it lets anybody in.
    pub acknowledge: Option<Acknowledge>,
    /// Operations on their way to Redis at once, on each thread.
    pub max_in_flight: Option<usize>,
    /// The name of the own region, which its tickets carry: 1 to 16 of a-z, 0-9 and -.
    pub region: Option<String>,
    /// Where tickets of other regions are: a table for each, by its name, with these keys but max_tickets, region and regions.
    pub regions: Option<BTreeMap<String, RegionTable>>,
}

/// The store of another region.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegionTable {
    /// redis://host:port/database, redis+sentinel://host:port,.../master, redis+cluster://host:port,...; rediss with TLS.
    pub url: String,
    /// PEM file of the authorities that sign the servers of Redis, instead of those of the system.
    pub ca_file: Option<String>,
    /// The user of Redis, where it is not the default one.
    pub username: Option<String>,
    /// Environment variable with the password of Redis.
    pub password_env: Option<String>,
    /// File with the password of Redis, instead of password_env.
    pub password_file: Option<String>,
    /// Environment variable with the password of the sentinels.
    pub sentinel_password_env: Option<String>,
    /// File with the password of the sentinels, instead of sentinel_password_env.
    pub sentinel_password_file: Option<String>,
    /// What every key in Redis begins with.
    pub prefix: Option<String>,
    /// How long one operation on Redis may take.
    pub timeout: Option<String>,
    /// none, or how many replicas must know that a ticket is redeemed before it lets anybody in.
    pub acknowledge: Option<Acknowledge>,
    /// Operations on their way to Redis at once, on each thread.
    pub max_in_flight: Option<usize>,
}

/// none, or a number of replicas.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Acknowledge {
    Word(String),
    Replicas(usize),
}

/// The signed header for the upstream.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContextTable {
    /// The header that carries it.
    pub header: Option<String>,
    /// EdDSA, ES256 or HS256.
    pub algorithm: Option<String>,
    /// Its iss.
    pub issuer: Option<String>,
    /// How long it is good.
    pub ttl: Option<String>,
    /// Claims of the token that it carries on.
    pub claims: Option<Vec<String>>,
    /// Where the public keys are published.
    pub jwks_path: Option<String>,
    /// PKCS#8 PEM files, the signing one first; Usher makes its own unless written.
    pub key_files: Option<Vec<String>>,
    /// Environment variable with the shared secret, for HS256.
    pub secret_env: Option<String>,
    /// File with the shared secret, instead of secret_env.
    pub secret_file: Option<String>,
}

/// Who a client certificate stands for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MtlsTable {
    /// Where it names the user: common-name, san-uri, san-dns or san-email.
    pub user: Option<String>,
    /// Permissions that every client certificate gives.
    pub permissions: Option<Vec<String>>,
}

/// Pings and silence.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeepaliveTable {
    /// A client silent for this long is pinged.
    pub ping: Option<String>,
    /// A client silent for this long is closed.
    pub idle_timeout: Option<String>,
    /// How long a close handshake may take.
    pub close_timeout: Option<String>,
}

/// How much a client may take.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsTable {
    /// Client connections in all.
    pub connections: Option<usize>,
    /// How long a TLS handshake may take.
    pub tls_timeout: Option<String>,
    /// How long a request head may take.
    pub head_timeout: Option<String>,
    /// From accept to a grant; the wait for a first message has its own timeout.
    pub handshake_timeout: Option<String>,
    /// Size of a request head.
    pub head_bytes: Option<String>,
    /// Header fields of a request.
    pub head_fields: Option<usize>,
    /// Size of a request target.
    pub target_bytes: Option<String>,
    /// How long an HTTP connection may rest between requests.
    pub http_idle_timeout: Option<String>,
    /// Bytes of an upstream refusal that are passed on.
    pub refusal_bytes: Option<String>,
    /// Bytes held for one direction of one session while the other side does not take them; 64KiB at most.
    pub buffered_bytes: Option<String>,
    /// Users and addresses whose ticket rate is remembered.
    pub rate_entries: Option<usize>,
    /// Audit and log lines waiting for a slow disk.
    pub audit_queue: Option<usize>,
    /// Connections that have not shown who they are, in all.
    pub unauthenticated: Option<usize>,
    /// The same, from one address.
    pub unauthenticated_per_address: Option<usize>,
    /// Sessions of one user at once, on all nodes that share a store; not limited unless written.
    pub sessions_per_user: Option<usize>,
    /// One more than that: refuse, or replace-oldest.
    pub on_limit: Option<String>,
    /// The largest message of a client, as it stands on the wire.
    pub message_bytes: Option<String>,
    /// Messages of one client in a second; not limited unless written.
    pub messages_per_second: Option<usize>,
    /// The largest message that is inflated for an upstream that takes no compression.
    pub inflated_bytes: Option<String>,
    /// Looks at shadow methods at once.
    pub shadow_checks: Option<usize>,
}

/// Moving clients from old methods to new ones.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutTable {
    /// Percent of the clients that are to authenticate with their first message.
    pub message: Option<u8>,
    /// Percent of the clients that are to use a ticket.
    pub ticket: Option<u8>,
    /// What decides who is in a share: user or address.
    pub sticky: Option<String>,
    /// Refuse the legacy methods to clients in a share.
    pub enforce: Option<bool>,
}

/// Where clients ask which method they are to use.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrationTable {
    /// The path of the question.
    pub config_path: Option<String>,
}

/// What is refused before its time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevocationTable {
    /// How long a revocation is in force; the longest max_lifetime of the issuers unless written.
    pub keep: Option<String>,
    /// Revocations in force at once.
    pub max_entries: Option<usize>,
}

/// A test identity from a header.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BypassTable {
    /// The header: secret, user and perhaps permissions, with a space between them.
    pub header: Option<String>,
    /// Environment variable with the secret.
    pub secret_env: Option<String>,
    /// File with the secret, instead of secret_env.
    pub secret_file: Option<String>,
}

/// Stopping.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainTable {
    /// How long sessions have to leave.
    pub window: Option<String>,
}

/// Metrics, health and steering.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminTable {
    /// IP address and port; loopback unless there is a token.
    pub address: String,
    /// Environment variable with the bearer token.
    pub token_env: Option<String>,
    /// File with the bearer token, instead of token_env.
    pub token_file: Option<String>,
}

/// The log.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogTable {
    /// auto (text on a terminal, JSON elsewhere), json or text.
    pub format: Option<String>,
    /// A level, or a list of target=level.
    pub filter: Option<String>,
}

/// The audit trail.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditTable {
    /// Where audit lines go; into the log unless written.
    pub file: Option<String>,
}
