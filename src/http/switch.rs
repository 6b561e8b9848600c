//! The 101 that Usher sends by itself: before a first message, and before a close frame with a
//! rejection that a page can read.

use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, HeaderValue};

use crate::auth::extract;
use crate::config::Route;
use crate::model::method::Method;
use crate::net::http1::response;
use crate::ws::accept::accept_for;
use crate::ws::deflate::AgreedDeflate;

/// The parts of the client's request that decide the 101.
#[derive(Clone, Debug)]
pub struct UpgradeOffer {
    /// `Sec-WebSocket-Key`; empty over HTTP/2.
    key: HeaderValue,
    /// The first of the client's offers that the route lists.
    pub(super) protocol: Option<HeaderValue>,
    /// The offer `bearer`, which marks the token next to it.
    marker: Option<HeaderValue>,
}

impl UpgradeOffer {
    /// Reads the parts of a request. The request has one good key: it was checked.
    pub(super) fn of(headers: &HeaderMap, route: &Route) -> Self {
        let key = headers.get(SEC_WEBSOCKET_KEY).cloned().unwrap_or(HeaderValue::from_static(""));
        let lines =
            headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let mut offers = lines.flat_map(|line| line.split(',')).map(str::trim);
        let chosen = offers.find(|offer| route.subprotocols.iter().any(|listed| listed == offer));
        let marker =
            if route.auth.contains(&Method::Subprotocol) { extract::marker(headers) } else { None };
        Self { key, protocol: chosen.and_then(|name| HeaderValue::from_str(name).ok()), marker }
    }

    /// Chooses the marker for a client that offered it and gets no other subprotocol. A browser
    /// that offered subprotocols fails the connection if none is chosen (WebSockets standard,
    /// "establish a WebSocket connection").
    pub(super) fn choose_marker(&self, headers: &mut HeaderMap) {
        if let (Some(marker), false) = (&self.marker, headers.contains_key(SEC_WEBSOCKET_PROTOCOL))
        {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, marker.clone());
        }
    }

    /// Returns the headers of the answer.
    pub(super) fn answer(&self, deflate: Option<AgreedDeflate>, request_id: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&accept_for(self.key.as_bytes())) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = &self.protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol.clone());
        }
        self.choose_marker(&mut headers);
        if let Some(agreed) = deflate {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, agreed.header());
        }
        response::set_request_id(&mut headers, request_id);
        headers
    }
}
