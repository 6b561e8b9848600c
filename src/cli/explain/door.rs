//! The stations before the credential: the listener, its certificate, the handshake, the head, the route.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::token::clock;
use super::told::{Mark, Step, Verdict, Walk};
use super::walk::World;
use crate::cli::words::{distance, shown};
use crate::clock::UnixMillis;
use crate::config::Listener;
use crate::http::head::RequestHead;
use crate::http::route::RouteMatch;
use crate::rejection::Rejection;
use crate::tls::server;

impl World {
    /// The listener, and the head as it would be read there.
    pub(super) fn begin(&self, walk: &mut Walk<'_>) -> Option<(Arc<Listener>, RequestHead)> {
        let asked = walk.asked;
        walk.told.url = format!("{}://{}", asked.scheme.name, shown(&asked.authority));
        let by_port = |one: &&Arc<Listener>| one.address.port() == asked.port && one.tls.is_some() == asked.scheme.is_tls;
        let by_kind = |one: &&Arc<Listener>| one.tls.is_some() == asked.scheme.is_tls;
        let listeners = &self.config.listeners;
        let named = asked.listener.map(|address| listeners.iter().find(|one| one.address == address));
        let listener = match named {
            Some(Some(listener)) => Some((listener, String::new())),
            Some(None) => None,
            None => listeners.iter().find(by_port).map(|one| (one, String::new())).or_else(|| {
                let other = listeners.iter().find(by_kind).or_else(|| listeners.first())?;
                Some((other, format!("; none has port {}, so this one stands for it", asked.port)))
            }),
        };
        let Some((listener, aside)) = listener else {
            let addresses: Vec<_> = listeners.iter().map(|one| one.address.to_string()).collect();
            walk.told.steps.push(Step::new("listener", Mark::Fail, format!("there is none of this address; {}", addresses.join(", "))));
            return None;
        };
        let host = asked.authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(&*asked.authority, |(host, _)| host);
        let (mark, how) = match &listener.tls {
            None => (Mark::Ok, "plain".to_owned()),
            Some(tls) => match server::certificate_for(tls, &host.to_ascii_lowercase()) {
                Ok(certificate) => certificate_words(certificate.cert.first(), host, walk.now.wall),
                Err(error) => (Mark::Note, format!("TLS; {error}")),
            },
        };
        walk.told.steps.push(Step::new("listener", mark, format!("{}, {how}{aside}", listener.address)));
        match asked.head(&self.config.limits) {
            Ok(head) => Some((Arc::clone(listener), head)),
            Err(rejection) => {
                walk.station("request", Err(rejection), "");
                None
            }
        }
    }

    /// Without the certificate that a listener requires, or with a wrong one, there is no request.
    pub(super) fn shakes_hands(&self, walk: &mut Walk<'_>, listener: &Listener) -> bool {
        let clients = listener.tls.as_ref().and_then(|tls| tls.clients.as_ref());
        let is_shown = !walk.asked.certificate.is_empty();
        let Some(clients) = clients else {
            if is_shown {
                walk.note("handshake", "this listener asks for no certificate, so the client shows none");
            }
            return true;
        };
        let at = UnixTime::since_unix_epoch(Duration::from_millis(walk.now.wall.0));
        match server::check_client(clients, &walk.asked.certificate, at) {
            Ok(()) if is_shown => {
                let detail = "the certificate is of the listener's authorities";
                walk.told.steps.push(Step::new("handshake", Mark::Ok, detail));
            }
            Ok(()) => walk.note("handshake", "a certificate may be shown, and none is"),
            Err(error) => {
                walk.told.steps.push(Step::new("handshake", Mark::Fail, error.to_string()));
                walk.told.verdict = Verdict {
                    let_in: Some(false),
                    message: "the TLS handshake ends with an alert, before any request".to_owned(),
                    advice: Some("Give the client a certificate that these authorities have signed, with its chain, good now.".to_owned()),
                    ..Verdict::default()
                };
                return false;
            }
        }
        true
    }

    pub(super) fn find(&self, walk: &mut Walk<'_>, host: &str, path: &str) -> Option<RouteMatch> {
        let found = self.router.find(host, path).map_err(|ambiguous| Rejection::AmbiguousRequest(ambiguous.0));
        let matched = match found.and_then(|found| found.ok_or(Rejection::NoRoute)) {
            Ok(matched) => matched,
            Err(rejection) => {
                let is_absent = rejection == Rejection::NoRoute;
                walk.station("route", Err(rejection), "");
                let near = self.router.near_misses(host, path);
                for (route, why) in near.iter().take(5).filter(|_| is_absent) {
                    walk.note("near", format!("{}: {why}", route.name));
                }
                if is_absent && near.is_empty() {
                    let names: Vec<_> = self.config.routes.iter().take(10).map(|route| route.name.to_string()).collect();
                    walk.note("routes", names.join(", "));
                }
                return None;
            }
        };
        let route = &matched.route;
        let parameters: Vec<_> = matched.parameters.iter().map(|(name, value)| format!("{name} = {}", shown(value))).collect();
        let parameters = if parameters.is_empty() { String::new() } else { format!(" with {}", parameters.join(", ")) };
        let others = self.router.others(host, path);
        let others: Vec<_> = others.iter().map(|other| &*other.name).collect();
        let why =
            if others.is_empty() { "the only one that matches".to_owned() } else { format!("more specific than {}", others.join(", ")) };
        walk.told.steps.push(Step::new("route", Mark::Ok, format!("{}{parameters}, {why}", route.name)));
        let servers: Vec<_> = route.upstream.servers.iter().map(ToString::to_string).collect();
        walk.note("upstream", format!("{}: {}", route.upstream.name, servers.join(", ")));
        walk.told.route = Some(route.name.to_string());
        walk.told.parameters = matched.parameters.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        Some(matched)
    }
}

pub(super) fn asks_for_certificates(listener: &Listener) -> bool {
    listener.tls.as_ref().is_some_and(|tls| tls.clients.is_some())
}

fn certificate_words(leaf: Option<&rustls::pki_types::CertificateDer<'_>>, host: &str, now: UnixMillis) -> (Mark, String) {
    let Some((leaf, (_, parsed))) = leaf.and_then(|leaf| Some((leaf, X509Certificate::from_der(leaf).ok()?))) else {
        return (Mark::Note, "TLS; its certificate cannot be read".to_owned());
    };
    let names = server::names_of(leaf).unwrap_or_default();
    let host = host.to_ascii_lowercase();
    let parent = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    let covers = names.iter().any(|name| *name == host || Some(name) == parent.as_ref());
    let ends = UnixMillis::from_secs(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0));
    let aside = if covers { "" } else { "; not made for this host" };
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
