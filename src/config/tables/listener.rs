//! `[[listener]]`.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::context::FilesToRead;
use crate::config::declare::{Table, table};
use crate::config::diagnostic::Diagnostic;
use crate::config::key_type::{
    Choice, FileToRead, Flag, List, Located, NestedList, NonEmpty, OneOf, TextType,
};
use crate::config::reader::{Reader, Section, Span};
use crate::config::{
    CertificateFiles, ClientCertificates, ForwardingHeader, Listener, OcspSource, Tls, TlsVersion,
};
use crate::model::listening_address::PortSharing;
use crate::model::listening_address::overlap;

table! {
    /// Addresses that clients connect to; at least one.
    pub struct ListenerTable: [[listener]] {
        /// IP address and port.
        address: Located<Address>, required "0.0.0.0:8443";
        /// Share this address with other processes that set it too; without it, a port in use is an
        /// error.
        share_port: Flag, default false,
            because "two processes on one port would each get some of the clients, and each would \
                reject tickets of the other",
            change_when "a new process takes over from an old one without a gap, and both share a \
                store";
        /// PEM files; the first pair serves clients that name no known host.
        certificates: NestedList<CertificateTable>,
            derived [{ cert = "cert.pem", key = "key.pem" }],
            because "none with `plain`; otherwise at least one, or `acme`";
        /// Serve the certificate of `[acme]` for its domains, besides `certificates`.
        acme: Flag, default false,
            because "a public authority issues only what you ask for",
            change_when "you want Usher to order and renew the certificate";
        /// Accept plain HTTP, for example behind a proxy that terminates TLS.
        plain: Flag, default false,
            because "credentials must not cross a network unencrypted by accident",
            change_when "another proxy terminates TLS";
        /// PEM file of the authorities whose client certificates are accepted.
        client_ca: FileToRead, optional "clients.pem";
        /// Files with CRLs of these authorities, in PEM or DER; revoked certificates are refused.
        client_crls: NonEmpty<FilesToRead>, optional ["clients.crl"];
        /// refuse or accept: a certificate whose authority has no CRL in `client_crls`.
        client_without_crl: OneOf<WithoutCrl>, default "refuse" commented,
            because "a CRL that is missing by mistake would let revoked certificates in",
            change_when "some of the authorities publish no CRLs";
        /// optional, or required: a handshake without a client certificate is ended.
        client_auth: OneOf<ClientAuth>, default "optional" commented,
            because "the route decides which clients need a certificate; browsers without one can \
                still use the other routes",
            change_when "every client of the listener has a certificate";
        /// The oldest TLS version accepted, 1.2 or 1.3.
        min_tls: OneOf<TlsVersion>, default "1.2",
            because "some clients support only 1.2, and the cipher suites that Usher accepts for \
                it are secure",
            change_when "all of your clients support 1.3";
        /// Offer HTTP/2 to TLS clients, for plain HTTP and for WebSockets; plain listeners have
        /// HTTP/1.1 alone.
        http2: Flag, default true commented,
            because "a browser opens one connection for a page and its WebSockets; each client \
                chooses in its TLS handshake",
            change_when "a client of yours chooses HTTP/2 and fails with it";
        /// required: each connection begins with a PROXY header, version 1 or 2, in front of TLS.
        proxy_protocol: OneOf<ProxyHeaders>, default "off",
            because "a header is never guessed: a client could write one itself, and give itself \
                another address",
            change_when "a TCP balancer in front of Usher sends the header";
        /// Networks of the proxies that write the PROXY header; connections of all others are
        /// closed.
        proxy_peers: NonEmpty<List<Network>>, optional ["10.0.0.0/24"];
        /// Networks of proxies whose forwarding headers are trusted.
        trusted_peers: List<Network>, default [],
            because "any client can send such a header",
            change_when "another proxy is in front of Usher";
        /// The header that is read from trusted peers: x-forwarded-for, forwarded, or auto
        /// (x-forwarded-for, or else forwarded).
        forwarding_header: OneOf<ForwardingHeader>, default "auto",
            because "most proxies set one of the two",
            change_when "the proxy forwards the other header unchanged from its client";
    }
}

table! {
    /// A certificate and its key.
    pub struct CertificateTable: [[listener.certificates]] {
        /// PEM file of the certificate and its chain.
        cert: FileToRead, required "cert.pem";
        /// PEM file of the private key.
        key: FileToRead, required "key.pem";
        /// File with the OCSP answer that handshakes carry, in DER.
        ocsp_file: FileToRead, optional "cert.ocsp";
        /// fetch: Usher asks the OCSP responder that the certificate names, and handshakes carry
        /// its answer.
        ocsp: OneOf<Ocsp>, default "off" commented,
            because "many authorities publish no OCSP answers any more, and Usher contacts no \
                service that you do not name",
            change_when "clients ask for the answer, or the certificate requires it (must-staple)";
    }
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    Optional,
    Required,
}

impl Choice for ClientAuth {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("optional", Self::Optional), ("required", Self::Required)]
    }
}

/// The answer to a certificate whose authority has no CRL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutCrl {
    Refuse,
    Accept,
}

/// Whether Usher fetches an OCSP answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ocsp {
    Off,
    Fetch,
}

impl Choice for Ocsp {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("off", Self::Off), ("fetch", Self::Fetch)]
    }
}

impl Choice for WithoutCrl {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("refuse", Self::Refuse), ("accept", Self::Accept)]
    }
}

impl Choice for TlsVersion {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("1.2", Self::Tls12), ("1.3", Self::Tls13)]
    }
}

impl Choice for ForwardingHeader {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![
            ("auto", Self::Auto),
            ("x-forwarded-for", Self::XForwardedFor),
            ("forwarded", Self::Forwarded),
        ]
    }
}

/// Whether connections begin with a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeaders {
    Off,
    Required,
}

impl Choice for ProxyHeaders {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![("off", Self::Off), ("required", Self::Required)]
    }
}

/// An IP address and a port.
pub struct Address;

impl TextType for Address {
    type Value = SocketAddr;
    const NAME: &str = "address";

    fn parse(_key: &str, text: &str) -> Result<SocketAddr, String> {
        text.parse().map_err(|_| {
            format!(
                "`{text}` is not an address; write an IP address and a port, such as \
                 \"0.0.0.0:8443\" or \"[::]:8443\""
            )
        })
    }
}

/// A network, or one address.
pub struct Network;

impl TextType for Network {
    type Value = IpNet;
    const NAME: &str = "network";

    fn parse(_key: &str, text: &str) -> Result<IpNet, String> {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse()
            .or_else(|_| address())
            .map_err(|_| format!("`{text}` is not a network; write \"10.0.0.0/8\" or one address"))
    }
}

/// The addresses of all listeners, each with its place in the file.
#[derive(Default)]
pub struct ListenerAddresses(Vec<(SocketAddr, Span)>);

impl ListenerAddresses {
    /// Reports an address that cannot be bound together with an earlier one.
    fn add(&mut self, reader: &Reader<'_>, address: SocketAddr, span: &Span) {
        let same = self.0.iter().find(|(other, _)| overlap(*other, address));
        if let Some((other, first)) = same {
            let before = reader.text.get(..first.start).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let message = if *other == address {
                format!("address `{address}` appears twice")
            } else {
                format!("address `{address}` is covered by `{other}`, or covers it")
            };
            let help = format!("the listener on line {line} has the same port; use another one");
            reader.error(span, message, help);
        }
        self.0.push((address, span.clone()));
    }
}

pub fn listener(section: &Section<'_, '_>, seen: &mut ListenerAddresses) -> Option<Listener> {
    let reader = section.reader;
    let table = ListenerTable::read(section);
    if let Some((address, span)) = &table.address {
        seen.add(reader, *address, span);
    }
    let is_plain = table.plain;
    if let Some(written) = section.value("http2").filter(|_| is_plain && table.http2) {
        let help = "remove `http2`, or give this listener `certificates`";
        reader.error(&written.span(), "HTTP/2 needs TLS", help);
    }
    if let Some(written) = section
        .value("client_ca")
        .or_else(|| section.value("client_auth"))
        .filter(|_| is_plain || section.value("client_ca").is_none())
    {
        let (message, help) = if is_plain {
            (
                "client certificates need TLS",
                "remove `client_ca` and `client_auth`, or give this listener `certificates`",
            )
        } else {
            (
                "`client_auth` needs `client_ca`",
                "name the authorities whose client certificates are accepted: \
                 `client_ca = \"clients.pem\"`",
            )
        };
        reader.error(&written.span(), message, help);
    }
    check_crls(section);
    let certificates: Vec<_> = table
        .certificates
        .unwrap_or_default()
        .into_iter()
        .filter_map(|pair| {
            let ocsp = match (pair.ocsp_file, pair.ocsp) {
                (Some(_), Ocsp::Fetch) => {
                    let message = "`ocsp_file` and `ocsp = \"fetch\"` cannot be combined";
                    reader.error(&section.span, message, "remove one of them");
                    None
                }
                (Some(file), Ocsp::Off) => Some(OcspSource::File(file)),
                (None, Ocsp::Fetch) => Some(OcspSource::Fetch),
                (None, Ocsp::Off) => None,
            };
            Some(CertificateFiles { cert: pair.cert?, key: pair.key?, ocsp })
        })
        .collect();
    if is_plain && section.value("certificates").is_some() {
        reader.error(
            &section.span,
            "`plain = true` and `certificates` cannot be combined",
            "remove one of them",
        );
    }
    if is_plain
        && table.acme
        && let Some(value) = section.value("acme")
    {
        let help = "remove one of them; a plain listener answers http-01 challenges by itself";
        reader.error(&value.span(), "`plain = true` and `acme` cannot be combined", help);
    }
    // A `plain` of the wrong type is already reported.
    let is_clear = section.value("plain").is_none_or(|value| value.get_ref().as_bool().is_some());
    if !is_plain && certificates.is_empty() && !table.acme && is_clear {
        let help = "add `certificates = [{ cert = \"cert.pem\", key = \"key.pem\" }]`, or \
                    `acme = true` with [acme], or `plain = true` behind a proxy that \
                    terminates TLS";
        reader.error(&section.span, "[[listener]] has no certificates", help);
    }
    let clients = table.client_ca.map(|ca_file| ClientCertificates {
        ca_file,
        crl_files: table.client_crls.unwrap_or_default(),
        accepts_without_crl: table.client_without_crl == WithoutCrl::Accept,
        is_required: table.client_auth == ClientAuth::Required,
    });
    let min_version = table.min_tls;
    let proxy_peers = proxy_peers(section, table.proxy_protocol, table.proxy_peers);
    Some(Listener {
        address: table.address?.0,
        sharing: if table.share_port { PortSharing::Allowed } else { PortSharing::Refused },
        tls: (!is_plain).then_some(Tls {
            certificates,
            has_acme: table.acme,
            clients,
            min_version,
            http2: table.http2,
        }),
        proxy_peers,
        trusted_peers: table.trusted_peers,
        forwarding_header: table.forwarding_header,
    })
}

/// Reports CRLs that nothing would read.
fn check_crls(section: &Section<'_, '_>) {
    let crls = section.value("client_crls");
    if let Some(written) = crls.filter(|_| section.value("client_ca").is_none()) {
        let help = "name the authorities that the CRLs are of: `client_ca = \"clients.pem\"`";
        section.reader.error(&written.span(), "`client_crls` needs `client_ca`", help);
    }
    if let Some(written) = section.value("client_without_crl").filter(|_| crls.is_none()) {
        let help = "name the files with CRLs: `client_crls = [\"clients.crl\"]`";
        section.reader.error(&written.span(), "`client_without_crl` needs `client_crls`", help);
    }
}

/// Returns the proxies of a listener that requires PROXY headers. A list without `required` would
/// let the reader of the file believe that others are closed.
fn proxy_peers(
    section: &Section<'_, '_>,
    headers: ProxyHeaders,
    peers: Option<Vec<IpNet>>,
) -> Option<Vec<IpNet>> {
    let reader = section.reader;
    match (headers, section.value("proxy_peers"), section.value("proxy_protocol")) {
        (ProxyHeaders::Off, Some(written), _) => {
            let help = "add `proxy_protocol = \"required\"`, or remove `proxy_peers`";
            reader.error(&written.span(), "`proxy_peers` needs `proxy_protocol`", help);
        }
        (ProxyHeaders::Required, None, Some(written)) => {
            let help = "name the networks of the proxies that write the header: \
                        `proxy_peers = [\"10.0.0.0/24\"]`";
            reader.error(&written.span(), "`proxy_protocol` needs `proxy_peers`", help);
        }
        (ProxyHeaders::Required, Some(written), _) => {
            if written.get_ref().as_array().is_some_and(|list| list.is_empty()) {
                let help = "list the networks of the proxies that write the header";
                reader.error(&written.span(), "`proxy_peers` is empty", help);
            }
            let is_everywhere = |network: &IpNet| network.prefix_len() == 0;
            if peers.iter().flatten().any(is_everywhere) {
                let message = "`proxy_peers` lists every address: each client can choose the \
                               address by which Usher judges it";
                let help = "list the networks of the proxies alone";
                reader.report(&written.span(), Diagnostic::warning(message).help(help));
            }
        }
        _ => {}
    }
    (headers == ProxyHeaders::Required).then(|| peers.unwrap_or_default())
}
