//! A client's connection, or a stream of an HTTP/2 connection: its peer, and the conditions under
//! which it was accepted.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;
use rustls::RootCertStore;
use tokio::time::Instant;

use super::events::RequestRejected;
use super::forwarding::Forwarding;
use crate::auth::grant::Grant;
use crate::base::clock::Now;
use crate::config;
use crate::edge::Edge;
use crate::edge::ceiling::Permit;
use crate::edge::waiting_room::{RoomFull, StrangerState};
use crate::model::client_certificate::ClientCertificate;
use crate::model::faults::InvalidCertificate;
use crate::model::request_id::RequestId;
use crate::net::http1::host::Authority;
use crate::net::proxy_protocol::{ClientTls, ProxiedAddresses, ProxyHeader};
use crate::net::tls::crl::RevocationStatus;
use crate::rejection::Rejection;
use crate::telemetry::Event;
use crate::telemetry::refusal::LoggedRequest;

/// An accepted connection, without its stream.
#[derive(Debug)]
pub struct ClientConnection {
    /// The client, as the socket or a PROXY header names it.
    pub peer: SocketAddr,
    /// The address to which the client connected.
    pub destination: SocketAddr,
    /// The TLS of the client, with this listener or with the proxy that wrote the PROXY header.
    pub tls: Option<ClientTls>,
    /// The host that the client named in that handshake.
    pub server_name: Option<Box<str>>,
    pub listener: Arc<config::Listener>,
    pub permit: Permit,
    /// Whether the client is a stranger. A stranger holds a place in the waiting room.
    pub standing: Arc<StrangerState>,
    /// When a client that has not shown a good credential is refused.
    pub deadline: Instant,
    /// The certificate that the client showed in the handshake.
    pub certificate: Option<ClientCertificate>,
    /// The position of the listener in [`Edge::listeners`].
    pub listener_index: usize,
    /// The authorities that verified `certificate`.
    pub authorities: Option<Arc<RootCertStore>>,
}

impl ClientConnection {
    /// Reports a request that could not be read, and returns the id that names it.
    pub(super) fn report_unreadable(&self, rejection: &Rejection) -> RequestId {
        let request_id = RequestId::random();
        let about = LoggedRequest {
            request_id: request_id.as_str(),
            peer: self.peer.ip(),
            host: "",
            path: "",
            route: "",
            method: None,
            user: None,
            trace_id: None,
        };
        RequestRejected { about, rejection }.emit();
        request_id
    }

    /// Returns a stream of this HTTP/2 connection, which takes the way of a connection.
    pub fn of_stream(&self, permit: Permit, standing: StrangerState, deadline: Instant) -> Self {
        Self {
            peer: self.peer,
            destination: self.destination,
            tls: self.tls,
            server_name: self.server_name.clone(),
            listener: Arc::clone(&self.listener),
            permit,
            standing: Arc::new(standing),
            deadline,
            certificate: self.certificate.clone(),
            listener_index: self.listener_index,
            authorities: self.authorities.clone(),
        }
    }

    /// Reads the way of a request.
    pub fn forwarding(&self, headers: &HeaderMap, host: Option<&Authority>) -> Forwarding {
        let is_secure = self.listener.tls.is_some() || self.tls.is_some();
        Forwarding::of(headers, host, self.peer.ip(), is_secure, &self.listener)
    }

    /// Returns the PROXY header for an upstream. `client` is the address by which the request was
    /// judged: the port is known only if the client itself is connected.
    pub fn proxy_header(&self, client: IpAddr) -> ProxyHeader {
        let port = if client == self.peer.ip() { self.peer.port() } else { 0 };
        ProxyHeader {
            addresses: Some(ProxiedAddresses {
                source: SocketAddr::new(client, port),
                destination: self.destination,
            }),
            authority: self.server_name.clone(),
            tls: self.tls,
        }
    }

    /// Puts the certificate into the request, where the method `mtls` looks for it. The certificate
    /// of a trusted proxy identifies the proxy and not its clients.
    pub fn attach_certificate(&self, edge: &Edge, parts: &mut Parts) {
        if let Some(certificate) = self.certificate.clone().filter(|_| !self.is_trusted_proxy()) {
            let certificate = match self.distrust(edge, &certificate) {
                None => certificate,
                Some(why) => certificate.without_trust(why),
            };
            parts.extensions.insert(certificate);
        }
    }

    /// Returns the reason why a certificate that the handshake verified counts no longer. The
    /// handshake may have resumed an earlier one, and the connection may be older than a reload.
    fn distrust(&self, edge: &Edge, certificate: &ClientCertificate) -> Option<InvalidCertificate> {
        if !self.has_valid_authorities(edge) {
            return Some(InvalidCertificate::Authority);
        }
        let now = Now::read();
        // The process that has replaced this one may have a newer list than the edge.
        if edge.is_revoked(certificate.leaf(), now) {
            return Some(InvalidCertificate::Revoked);
        }
        let lists = edge.listeners.get(self.listener_index)?.revoked.as_ref()?;
        match lists.standing(certificate.leaf(), now.wall) {
            RevocationStatus::NotRevoked => None,
            RevocationStatus::Revoked => Some(InvalidCertificate::Revoked),
            RevocationStatus::ListExpired => Some(InvalidCertificate::RevocationListExpired),
        }
    }

    /// Returns false if a reload removed one of the authorities since the handshake. An added
    /// authority changes nothing for this connection.
    fn has_valid_authorities(&self, edge: &Edge) -> bool {
        let Some(then) = &self.authorities else { return true };
        let now =
            edge.listeners.get(self.listener_index).and_then(|terms| terms.authorities.as_ref());
        now.is_some_and(|now| {
            Arc::ptr_eq(then, now) || then.roots.iter().all(|root| now.roots.contains(root))
        })
    }

    /// Notes whether a request had a good credential. The client is a stranger again with its first
    /// request that has none.
    pub fn note_credential(&self, is_good: bool) -> Result<(), Rejection> {
        if is_good {
            self.standing.become_known();
            return Ok(());
        }
        self.standing.become_stranger().map_err(|RoomFull(_)| Rejection::TooManyConnections)
    }

    /// Notes the grant of an upgrade. The client of a session on a public route stays a stranger;
    /// behind a trusted proxy the connection belongs to this one client from now on.
    pub fn note_grant(&self, grant: &Grant, address: IpAddr) -> Result<(), Rejection> {
        if grant.principal().is_some() {
            self.standing.become_known();
            return Ok(());
        }
        self.standing.belongs_to(address).map_err(|RoomFull(_)| Rejection::TooManyConnections)
    }

    fn is_trusted_proxy(&self) -> bool {
        self.listener.trusts(self.peer.ip())
    }
}
