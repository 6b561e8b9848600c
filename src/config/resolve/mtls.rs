//! `[mtls]`, and what client certificates need in other tables.

use super::*;

const USERS: [(&str, CertificateUser); 4] = [
    ("common-name", CertificateUser::CommonName),
    ("san-uri", CertificateUser::SanUri),
    ("san-dns", CertificateUser::SanDns),
    ("san-email", CertificateUser::SanEmail),
];

pub(super) fn mtls(section: &Section<'_, '_>) -> Mtls {
    let user = choice(section, "user", &USERS, CertificateUser::CommonName);
    let permissions = section.parsed_list("permissions", |text| match text.is_empty() {
        true => Err("a permission is not empty".to_owned()),
        false => Ok(text.to_owned()),
    });
    section.finish();
    Mtls { user, permissions }
}

/// Every listener reaches every route, so a route that takes certificates wants listeners that ask for them.
pub(super) fn check_listeners(
    listener_sections: &[Section<'_, '_>],
    listeners: &[Arc<Listener>],
    route_sections: &[Section<'_, '_>],
    routes: &[Arc<Route>],
) {
    let Some(wanting) = routes.iter().find(|route| route.auth.contains(&Method::Mtls)) else { return };
    let asks = |listener: &Arc<Listener>| listener.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
    // A listener that is wrong is missing from the list, and told by itself.
    if listeners.len() != listener_sections.len() {
        return;
    }
    if !listeners.iter().any(asks) {
        for section in route_sections {
            let Some(written) = section.list("auth").into_iter().flatten().find(|(text, _)| text == Method::Mtls.name()) else { continue };
            let help = "give a [[listener]] the authorities of your clients: `client_ca = \"clients.pem\"`";
            section.reader.error(&written.1, "no listener asks for client certificates", help);
        }
        return;
    }
    for (section, listener) in listener_sections.iter().zip(listeners) {
        if !asks(listener) {
            let warning = Diagnostic::warning(format!("route `{}` takes client certificates, and nobody can show one here", wanting.name))
                .help("add `client_ca`, or leave it if this listener is for clients of the other methods");
            section.reader.report(&section.span, warning);
        }
    }
}

/// A certificate may live for years, and nothing says how long beforehand.
pub(super) fn check_revocation(section: &Section<'_, '_>, routes: &[Arc<Route>]) {
    if section.value("keep").is_none() && routes.iter().any(|route| route.auth.contains(&Method::Mtls)) {
        let warning = Diagnostic::warning("a client certificate that lives longer than [revocation] `keep` comes back to life")
            .help("write `keep`, as long as your client certificates live");
        section.reader.report(&section.span, warning);
    }
}
