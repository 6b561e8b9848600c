//! `[[listener]]`.

use super::*;

pub(super) fn listener(section: &Section<'_, '_>, seen: &mut Names) -> Option<Listener> {
    let reader = section.reader;
    let written = section.required("address", "such as `address = \"0.0.0.0:8443\"`");
    let address = section.parsed("address", socket_address);
    // Port 0 is another port each time.
    if let (Some((_, span)), Some(address)) = (written, address.filter(|address| address.port() != 0)) {
        seen.add(reader, "address", &address.to_string(), &span);
    }
    let mut certificates = Vec::new();
    for pair in section.sections("certificates") {
        let cert = pair.required("cert", "the PEM file of the certificate and its chain");
        let key = pair.required("key", "the PEM file of the private key");
        pair.finish();
        if let (Some((cert, _)), Some((key, _))) = (cert, key) {
            certificates.push(CertificateFiles { cert: reader.file(&cert), key: reader.file(&key) });
        }
    }
    let plain = section.boolean("plain", false);
    let min_version = choice(section, "min_tls", &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)], TlsVersion::Tls12);
    let trusted_peers = section.parsed_list("trusted_peers", network);
    let clients = section.text("client_ca").map(|(file, _)| reader.file(&file));
    let is_required = choice(section, "client_auth", &[("optional", false), ("required", true)], false);
    if let Some(written) = section.value("client_ca").or_else(|| section.value("client_auth")).filter(|_| plain || clients.is_none()) {
        let (message, help) = if plain {
            ("client certificates come with TLS", "take `client_ca` and `client_auth` away, or give this listener `certificates`")
        } else {
            ("`client_auth` needs `client_ca`", "name the authorities whose client certificates are taken: `client_ca = \"clients.pem\"`")
        };
        reader.error(&written.span(), message, help);
    }
    let clients = clients.map(|ca_file| ClientCertificates { ca_file, is_required });
    let has_certificates = section.value("certificates").is_some();
    section.finish();
    if plain && has_certificates {
        reader.error(&section.span, "`plain = true` and `certificates` cannot stand together", "keep one of them");
    }
    if !plain && certificates.is_empty() {
        let help =
            "add `certificates = [{ cert = \"cert.pem\", key = \"key.pem\" }]`, or `plain = true` behind a proxy that terminates TLS";
        reader.error(&section.span, "[[listener]] has no certificates", help);
    }
    let tls = (!plain).then_some(Tls { certificates, clients, min_version });
    Some(Listener { address: address?, tls, trusted_peers })
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not an address; write an IP address and a port, such as \"0.0.0.0:8443\" or \"[::]:8443\""))
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| format!("`{text}` is not a network; write \"10.0.0.0/8\" or one address"))
}
