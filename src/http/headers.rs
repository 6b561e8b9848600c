//! The headers of the request to the upstream.
//!
//! The client's headers pass unchanged, with three exceptions. Hop-by-hop headers are removed.
//! Every spelling of a name that the upstream trusts is removed. The forwarded headers are written
//! from the real peer. Usher's own headers are set last, so that a `Connection:` token of the
//! client cannot strip them.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::forwarding::Forwarding;
use crate::config::Route;
use crate::config::header_name::normal_form;
use crate::model::request_id::RequestId;
use crate::net::http1::hop_by_hop;
use crate::net::http1::response::REQUEST_ID;
use crate::upstream::reserved_names::ReservedNames;

/// Prepares a client's headers for the upstream. The code that writes an upgrade sets its
/// hop-by-hop headers again.
pub fn prepare(
    headers: &mut HeaderMap,
    route: &Route,
    reserved: &ReservedNames,
    forwarding: &Forwarding,
    request_id: &RequestId,
) {
    hop_by_hop::strip_from_request(headers);
    let is_kept = |name: &HeaderName| forwarding.is_trusted() && is_usual_spelling(name);
    let is_unwanted = |name: &HeaderName| {
        let normal = normal_form(name.as_str());
        let is_of_proxies = is_forwarded(&normal) || names_a_path(&normal);
        reserved.contains(&normal)
            || normal == REQUEST_ID.as_str()
            || (is_of_proxies && !is_kept(name))
    };
    hop_by_hop::remove_fields(headers, is_unwanted);
    forwarding.write(headers);
    route.upstream_path.set_forwarded_prefix(headers);
    if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
        headers.insert(REQUEST_ID, value);
    }
}

/// Returns the id of a request: that of a trusted peer if it is well formed, otherwise a new one.
pub fn request_id(headers: &HeaderMap, is_trusted: bool) -> RequestId {
    let mut given = headers.get_all(REQUEST_ID).iter().filter(|_| is_trusted);
    let kept = match (given.next(), given.next()) {
        (Some(id), None) => id.to_str().ok().and_then(RequestId::given),
        _ => None,
    };
    kept.unwrap_or_else(RequestId::random)
}

/// Returns false for a spelling that only a client behind a trusted proxy would write: the proxy
/// may have forwarded it.
fn is_usual_spelling(name: &HeaderName) -> bool {
    !name.as_str().contains(['_', '.'])
}

fn is_forwarded(normal: &str) -> bool {
    normal.starts_with("x-forwarded-") || normal == "forwarded" || normal == "x-real-ip"
}

/// Returns true for headers from which some frameworks take the path, as a rewriting proxy writes
/// it. The route was chosen by another path.
fn names_a_path(normal: &str) -> bool {
    matches!(normal, "x-original-url" | "x-original-uri" | "x-rewrite-url")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::net::http1::host::Authority;

    pub(crate) fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    fn reserved() -> ReservedNames {
        ReservedNames(vec!["x-user-context".to_owned(), "x-user-id".to_owned()])
    }

    /// Prepares headers from this peer, behind a listener that trusts 192.0.2.0/24.
    fn prepared(mut sent: HeaderMap, peer: [u8; 4]) -> (HeaderMap, RequestId) {
        let text = "[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n\
            trusted_peers = [\"192.0.2.0/24\"]\n\
            [[upstream]]\nname = \"chat\"\nservers = [\"http://127.0.0.1:1\"]\n\
            [[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = []\n";
        let config = crate::config::parse(text, None, &|_| None).unwrap().config;
        let host = Authority::parse("chat.example.com").unwrap();
        let forwarding =
            Forwarding::of(&sent, Some(&host), peer.into(), false, &config.listeners[0]);
        let id = request_id(&sent, forwarding.is_trusted());
        prepare(&mut sent, &config.routes[0], &reserved(), &forwarding, &id);
        (sent, id)
    }

    const STRANGER: [u8; 4] = [198, 51, 100, 9];
    const PROXY: [u8; 4] = [192, 0, 2, 7];

    #[test]
    fn every_spelling_of_a_reserved_name_is_removed() {
        let sent = headers(&[
            ("X-User-Context", "a"),
            ("x_user_context", "b"),
            ("X.User-Context", "c"),
            ("x-user_id", "d"),
            ("X-Other", "kept"),
        ]);
        for peer in [STRANGER, PROXY] {
            let (sent, _) = prepared(sent.clone(), peer);
            let names: Vec<_> = sent.keys().map(HeaderName::as_str).collect();
            assert_eq!(names.iter().filter(|name| name.contains("user")).count(), 0, "{names:?}");
            assert_eq!(sent["x-other"], "kept");
        }
    }

    #[test]
    fn a_stranger_s_forwarded_headers_are_replaced_and_a_trusted_peer_s_are_continued() {
        let sent = headers(&[
            ("X-Forwarded-For", "203.0.113.1"),
            ("X_Forwarded.For", "6.6.6.6"),
            ("x_forwarded_user", "admin"),
            ("X-Forwarded-Prefix", "/x"),
            ("Forwarded", "for=6.6.6.6"),
            ("X-Real-IP", "6.6.6.6"),
        ]);
        let (stranger, _) = prepared(sent.clone(), STRANGER);
        assert_eq!(stranger["x-forwarded-for"], "198.51.100.9");
        assert_eq!(stranger.len(), 5, "{stranger:?}");
        let (trusted, _) = prepared(sent, PROXY);
        assert_eq!(trusted["x-forwarded-for"], "203.0.113.1, 192.0.2.7");
        assert_eq!(
            (&trusted["x-forwarded-prefix"], &trusted["x-real-ip"]),
            (&"/x".parse().unwrap(), &"203.0.113.1".parse().unwrap())
        );
        assert!(
            !format!("{trusted:?}").contains("6.6.6.6")
                && !trusted.contains_key("x_forwarded_user"),
            "{trusted:?}"
        );
    }

    #[test]
    fn a_stranger_names_no_other_path_in_a_header() {
        let sent = headers(&[
            ("X-Original-URL", "/admin"),
            ("X-Rewrite-URL", "/admin"),
            ("x_original_uri", "/admin"),
            ("X-Forwarded-Uri", "/admin"),
        ]);
        let (stranger, _) = prepared(sent.clone(), STRANGER);
        assert!(!format!("{stranger:?}").contains("admin"), "{stranger:?}");
        let (trusted, _) = prepared(sent, PROXY);
        assert_eq!(
            (trusted.contains_key("x-original-url"), trusted.contains_key("x_original_uri")),
            (true, false)
        );
    }

    #[test]
    fn a_request_id_is_kept_from_a_trusted_peer_alone() {
        let sent = headers(&[("X-Request-Id", "edge-1.a_b"), ("x_request_id", "other")]);
        let (kept, id) = prepared(sent.clone(), PROXY);
        assert_eq!(
            (id.as_str(), &kept["x-request-id"]),
            ("edge-1.a_b", &"edge-1.a_b".parse().unwrap())
        );
        assert!(!kept.contains_key("x_request_id"));
        for (sent, peer) in [
            (sent, STRANGER),
            (headers(&[("X-Request-Id", "a b")]), PROXY),
            (headers(&[("X-Request-Id", "a"), ("X-Request-Id", "b")]), PROXY),
            (HeaderMap::new(), PROXY),
        ] {
            let (made, id) = prepared(sent, peer);
            assert_eq!(
                (id.as_str().len(), made["x-request-id"].as_bytes()),
                (32, id.as_str().as_bytes())
            );
        }
    }
}
