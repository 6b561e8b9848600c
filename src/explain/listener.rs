//! Describes the listener, its certificate, the handshake and the request head.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::explainer::Explainer;
use super::report::{ExpectedResponse, ExplanationBuilder, Mark, Step};
use super::token::clock;

use crate::acme;
use crate::base::clock::UnixMillis;
use crate::base::text::{distance, printable};
use crate::config::{Listener, Tls};
use crate::net::http1::head::RequestHead;
use crate::net::tls::server::{self, TlsError};

impl Explainer {
    /// Finds the listener, and reads the head as the listener would.
    pub(super) fn begin(
        &self,
        report: &mut ExplanationBuilder<'_>,
    ) -> Option<(Arc<Listener>, RequestHead)> {
        let explained = report.explained;
        report.explanation.url =
            format!("{}://{}", explained.scheme.name, printable(&explained.authority));
        let (listener, aside) = self.find_listener(report)?;
        let host = explained
            .authority
            .rsplit_once(':')
            .filter(|(_, port)| !port.ends_with(']'))
            .map_or(&*explained.authority, |(host, _)| host);
        let (mark, how) = match &listener.tls {
            None => (Mark::Ok, "plain".to_owned()),
            Some(tls) => match self.certificate(tls, host) {
                Ok(None) => (Mark::Note, "TLS; [acme] has no certificate yet".to_owned()),
                Ok(Some(certificate)) => {
                    certificate_words(certificate.cert.first(), host, report.now.wall)
                }
                Err(error) => (Mark::Note, format!("TLS; {error}")),
            },
        };
        report.explanation.steps.push(Step::new(
            "listener",
            mark,
            format!("{}, {how}{aside}", listener.address),
        ));
        match explained.head(&self.config.limits) {
            Ok(head) => Some((Arc::clone(listener), head)),
            Err(rejection) => {
                report.station("request", Err(rejection), "");
                None
            }
        }
    }

    /// Returns the listener that the client reaches, with an aside about it. Otherwise ends the
    /// report.
    fn find_listener(
        &self,
        report: &mut ExplanationBuilder<'_>,
    ) -> Option<(&Arc<Listener>, String)> {
        let (explained, listeners) = (report.explained, &self.config.listeners);
        let is_tls = explained.scheme.is_tls;
        let by_kind = |one: &&Arc<Listener>| one.tls.is_some() == is_tls;
        let by_port = |one: &&Arc<Listener>| one.address.port() == explained.port;
        let other_port =
            || format!("; no listener has port {}, so this one is used", explained.port);
        let (listener, aside) = if let Some(address) = explained.given.listener {
            let Some(named) = listeners.iter().find(|one| one.address == address) else {
                let addresses: Vec<_> =
                    listeners.iter().map(|one| one.address.to_string()).collect();
                let addresses = addresses.join(", ");
                let detail = format!("no listener has this address; configured are {addresses}");
                report.explanation.steps.push(Step::new("listener", Mark::Fail, detail));
                return None;
            };
            (named, String::new())
        } else if let Some(exact) = listeners.iter().filter(by_port).find(by_kind) {
            (exact, String::new())
        } else if let Some(unlike) = listeners.iter().find(by_port) {
            // On the port of the URL, the client talks to this listener and to no proxy.
            fail_handshake(report, unlike);
            return None;
        } else {
            (listeners.iter().find(by_kind).or_else(|| listeners.first())?, other_port())
        };
        match (is_tls, listener.tls.is_some()) {
            (true, false) => Some((listener, format!("{aside}; a proxy in front terminates TLS"))),
            (false, true) => {
                fail_handshake(report, listener);
                None
            }
            _ => Some((listener, aside)),
        }
    }

    /// Returns the certificate that the listener shows to a client of this host.
    fn certificate(&self, tls: &Tls, host: &str) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
        let config = &self.config;
        let acme = config.acme.as_ref().filter(|_| tls.has_acme);
        let acme = acme.and_then(|acme| acme::stored(acme, &config.store, &config.state_dir));
        server::certificate_for(tls, acme.as_ref(), &host.to_ascii_lowercase())
    }

    /// Returns false if the TLS handshake fails, so that there is no request.
    pub(super) fn shakes_hands(
        &self,
        report: &mut ExplanationBuilder<'_>,
        listener: &Listener,
    ) -> bool {
        let clients = listener.tls.as_ref().and_then(|tls| tls.clients.as_ref());
        let is_shown = !report.explained.given.certificate.is_empty();
        let Some(clients) = clients else {
            if is_shown {
                report.note(
                    "handshake",
                    "this listener does not ask for a certificate, so the client sends none",
                );
            }
            return true;
        };
        let at = UnixTime::since_unix_epoch(Duration::from_millis(report.now.wall.0));
        match server::check_client(clients, &report.explained.given.certificate, at) {
            Ok(()) if is_shown => {
                let detail = "an authority of the listener signed the certificate";
                report.explanation.steps.push(Step::new("handshake", Mark::Ok, detail));
            }
            Ok(()) => report.note("handshake", "the client may send a certificate, but sends none"),
            Err(error) => {
                report.explanation.steps.push(Step::new(
                    "handshake",
                    Mark::Fail,
                    error.to_string(),
                ));
                report.explanation.verdict = ExpectedResponse {
                    let_in: Some(false),
                    message: "the TLS handshake fails with an alert, before any request".to_owned(),
                    advice: Some(
                        "Give the client a certificate that is valid now and signed by an \
                         authority of client_ca, with its chain."
                            .to_owned(),
                    ),
                    ..ExpectedResponse::default()
                };
                return false;
            }
        }
        true
    }
}

/// Ends the report: of the client and the listener, only one speaks TLS.
fn fail_handshake(report: &mut ExplanationBuilder<'_>, listener: &Listener) {
    let is_tls = report.explained.scheme.is_tls;
    let (url, speaks, instead) = if is_tls {
        ("has TLS", "is plain", if report.explained.scheme.is_upgrade { "ws" } else { "http" })
    } else {
        ("is plain", "speaks TLS", if report.explained.scheme.is_upgrade { "wss" } else { "https" })
    };
    let detail = format!("{}: the URL {url}, this listener {speaks}", listener.address);
    report.explanation.steps.push(Step::new("listener", Mark::Fail, detail));
    let port = listener.address.port();
    report.explanation.verdict = ExpectedResponse {
        let_in: Some(false),
        message: "the connection fails before any request".to_owned(),
        advice: Some(if is_tls {
            format!(
                "Use {instead}:// and port {port}, or give the listener certificates. If a proxy \
                 in front terminates TLS, name the listener with --listener {}.",
                listener.address
            )
        } else {
            format!("Use {instead}:// and port {port}, or add a listener with `plain = true`.")
        }),
        ..ExpectedResponse::default()
    };
}

pub(super) fn asks_for_certificates(listener: &Listener) -> bool {
    listener.tls.as_ref().is_some_and(|tls| tls.clients.is_some())
}

fn certificate_words(
    leaf: Option<&rustls::pki_types::CertificateDer<'_>>,
    host: &str,
    now: UnixMillis,
) -> (Mark, String) {
    let Some((leaf, (_, parsed))) =
        leaf.and_then(|leaf| Some((leaf, X509Certificate::from_der(leaf).ok()?)))
    else {
        return (Mark::Note, "TLS; the certificate cannot be read".to_owned());
    };
    let names = server::names_of(leaf).unwrap_or_default();
    let host = host.to_ascii_lowercase();
    let parent = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    let covers = names.iter().any(|name| *name == host || Some(name) == parent.as_ref());
    let ends =
        UnixMillis::from_secs(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0));
    let aside = if covers { "" } else { "; not valid for this host" };
    let mark = if ends <= now {
        Mark::Fail
    } else if covers {
        Mark::Ok
    } else {
        Mark::Note
    };
    let names = if names.is_empty() { "without a host name".to_owned() } else { names.join(", ") };
    (
        mark,
        format!(
            "TLS with the certificate {names}, until {} ({}){aside}",
            clock(ends).chars().take(10).collect::<String>(),
            distance(ends, now)
        ),
    )
}
