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
    /// The user that a client certificate stands for.
    pub struct Mtls: [mtls] {
        /// The field that names the user: common-name, san-uri, san-dns or san-email.
        user: OneOf<CertificateUser>, default "common-name",
            because "what most private authorities fill in; one place and no fallback, so that no \
                client can choose another",
            change_when "SPIFFE: `san-uri`; machines: `san-dns`";
        /// Permissions that every client certificate gives.
        permissions: List<Permission>, default [],
            because "a certificate proves an identity, and no permission",
            change_when "every client with a certificate may do the same";
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
            true => Err("a permission is not empty".to_owned()),
            false => Ok(text.to_owned()),
        }
    }
}

/// Every listener reaches every route, so a route that takes certificates wants listeners that ask
/// for them.
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
    // A listener that is wrong is missing from the list, and told by itself.
    if listeners.len() != listener_sections.len() {
        return;
    }
    if !listeners.iter().any(asks) {
        for section in route_sections {
            let methods = section.value("auth").and_then(|value| value.get_ref().as_array());
            let is_mtls =
                |item: &&Spanned<DeValue<'_>>| item.get_ref().as_str() == Some(Method::Mtls.name());
            let Some(written) = methods.into_iter().flatten().find(is_mtls) else { continue };
            let help = "give a [[listener]] the authorities of your clients: \
                        `client_ca = \"clients.pem\"`";
            let message = "no listener asks for client certificates";
            section.reader.error(&written.span(), message, help);
        }
        return;
    }
    for (section, listener) in listener_sections.iter().zip(listeners) {
        if !asks(listener) {
            let warning = Diagnostic::warning(format!(
                "route `{}` takes client certificates, and this listener asks for none",
                wanting.name
            ))
            .help(
                "add `client_ca`, or leave it if this listener is for clients of the other methods",
            );
            section.reader.report(&section.span, warning);
        }
    }
}

/// A certificate may live for years, and nothing says how long beforehand.
pub fn check_revocation(section: &Section<'_, '_>, routes: &[Arc<Route>]) {
    if section.value("ttl").is_none()
        && routes.iter().any(|route| route.auth.contains(&Method::Mtls))
    {
        let warning = Diagnostic::warning(
            "a client certificate that lives longer than [revocation] `ttl` comes back to life",
        )
        .help("write `ttl`, as long as your client certificates live");
        section.reader.report(&section.span, warning);
    }
}
