//! `[mtls]`, and what client certificates need in other tables.

use std::sync::Arc;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::declare::table;
use crate::config::diagnostic::Diagnostic;
use crate::config::key_type::{Choice, List, OneOf, TextType};
use crate::config::reader::Section;
use crate::config::{Listener, Method, Route};

table! {
    /// The user that a client certificate identifies.
    pub struct Mtls: [mtls] {
        /// The field that names the user: common-name, san-uri, san-dns or san-email.
        user: OneOf<CertificateUser>, default "common-name",
            because "most private authorities set this field; there is no fallback to another \
                field, so a client cannot choose one",
            change_when "certificates name users elsewhere, for example `san-uri` for SPIFFE or \
                `san-dns` for machines";
        /// Permissions of every client with a certificate.
        permissions: List<Permission>, default [],
            because "a certificate proves an identity, but not a permission",
            change_when "all clients with a certificate may do the same";
    }
}

/// The field of a certificate that names the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateUser {
    CommonName,
    SanUri,
    SanDns,
    SanEmail,
}

impl Choice for CertificateUser {
    fn choices() -> Vec<(&'static str, Self)> {
        vec![
            ("common-name", Self::CommonName),
            ("san-uri", Self::SanUri),
            ("san-dns", Self::SanDns),
            ("san-email", Self::SanEmail),
        ]
    }
}

/// The name of a permission.
pub struct Permission;

impl TextType for Permission {
    type Value = String;
    const NAME: &str = "permission";

    fn parse(_key: &str, text: &str) -> Result<String, String> {
        match text.is_empty() {
            true => Err("a permission must not be empty".to_owned()),
            false => Ok(text.to_owned()),
        }
    }
}

/// Reports listeners that do not ask for the certificates that a route accepts. Every listener
/// serves every route.
pub fn check_listeners(
    listener_sections: &[Section<'_, '_>],
    listeners: &[Arc<Listener>],
    route_sections: &[Section<'_, '_>],
    routes: &[Arc<Route>],
) {
    let Some(wanting) = routes.iter().find(|route| route.auth.contains(&Method::Mtls)) else {
        return;
    };
    let asks =
        |listener: &Arc<Listener>| listener.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
    // A listener with a mistake is not in the list, and is already reported.
    if listeners.len() != listener_sections.len() {
        return;
    }
    if !listeners.iter().any(asks) {
        for section in route_sections {
            let methods = section.value("auth").and_then(|value| value.get_ref().as_array());
            let is_mtls =
                |item: &&Spanned<DeValue<'_>>| item.get_ref().as_str() == Some(Method::Mtls.name());
            let Some(written) = methods.into_iter().flatten().find(is_mtls) else { continue };
            let help = "add the authorities of your clients to a [[listener]]: \
                        `client_ca = \"clients.pem\"`";
            let message = "no listener asks for client certificates";
            section.reader.error(&written.span(), message, help);
        }
        return;
    }
    for (section, listener) in listener_sections.iter().zip(listeners) {
        if !asks(listener) {
            let warning = Diagnostic::warning(format!(
                "route `{}` accepts client certificates, but this listener does not ask for them",
                wanting.name
            ))
            .help(
                "add `client_ca`, or ignore this if the listener is for clients with other methods",
            );
            section.reader.report(&section.span, warning);
        }
    }
}

/// Warns if revocations of client certificates get the default lifetime: a certificate may be valid
/// for years, and the configuration does not say how long.
pub fn check_revocation(section: &Section<'_, '_>, routes: &[Arc<Route>]) {
    if section.value("ttl").is_none()
        && routes.iter().any(|route| route.auth.contains(&Method::Mtls))
    {
        let warning = Diagnostic::warning(
            "a revoked client certificate is accepted again after [revocation] `ttl`",
        )
        .help("write `ttl`, at least as long as your client certificates are valid");
        section.reader.report(&section.span, warning);
    }
}
