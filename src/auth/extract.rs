//! Takes the credentials out of a request.
//!
//! Each method of a route has one place for its credential. Everything found there is removed from
//! the request, so the upstream gets no credential of these methods, not even an unused one. A
//! value that could be read as two credentials, or as none, is refused. It is removed too, because
//! a shadow method does not end the request.
//!
//! Credentials of other methods belong to the upstream and stay, except tickets: only Usher makes
//! and redeems them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, COOKIE, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::credential::{Credential, Proof};
use super::ticket::form::has_form as has_form_of_ticket;
use crate::config;
use crate::model::client_certificate::ClientCertificate;
use crate::model::faults::InvalidToken;
use crate::model::method::Method;
use crate::model::secret::Secret;
use crate::rejection::Rejection;

/// The subprotocol before a token in the list. It is not secret and may be sent back.
const MARKER: &str = "bearer";
const PREFIX: &str = "bearer.";
const ENCODED_PREFIX: &str = "base64url.bearer.authorization.";
/// Kubernetes puts this text between that prefix and the token.
const KUBERNETES: &str = "k8s.io.";

/// Takes the credentials of the route's methods out of the request, and returns the one of the most
/// preferred method. The upstream gets none of them. Also returns the method that the client tried,
/// even if its credential is refused. `found` gets each method that found a credential, valid or
/// not.
pub fn take_credential_of_any(
    route: &config::Route,
    parts: &mut Parts,
    mut found: impl FnMut(Method),
) -> (Option<Method>, Result<Option<Credential>, Rejection>) {
    let mut chosen: Option<Credential> = None;
    for method in &route.auth {
        match take(*method, route, parts) {
            Ok(None) => {}
            Ok(Some(credential)) => {
                found(*method);
                chosen = chosen.or(Some(credential));
            }
            Err(rejection) => {
                found(*method);
                return (Some(*method), Err(rejection));
            }
        }
    }
    (chosen.as_ref().map(|credential| credential.method), Ok(chosen))
}

/// Takes one method's credential out of the request.
pub fn take(
    method: Method,
    route: &config::Route,
    parts: &mut Parts,
) -> Result<Option<Credential>, Rejection> {
    let proof = match method {
        Method::Ticket => {
            take_parameter(&mut parts.uri, &route.ticket_parameter)?.map(Proof::Ticket)
        }
        Method::Header => take_bearer(&mut parts.headers)?.map(Proof::Token),
        Method::Subprotocol => take_subprotocol(&mut parts.headers)?.map(Proof::Token),
        Method::Query => match take_parameter(&mut parts.uri, &route.token_parameter)? {
            Some(written) => Some(Proof::Token(parameter_value(&written)?)),
            None => None,
        },
        Method::Cookie => take_cookie(&mut parts.headers, &route.token_cookie)?.map(Proof::Token),
        Method::Session => {
            take_cookie(&mut parts.headers, &route.session_cookie)?.map(Proof::Session)
        }
        Method::Bypass => take_bypass(&mut parts.headers, &route.bypass_header)?.map(Proof::Bypass),
        Method::Mtls => {
            parts.extensions.get::<ClientCertificate>().cloned().map(Proof::Certificate)
        }
        // The first message comes after the 101.
        Method::Message => None,
    };
    Ok(proof.map(|proof| Credential { method, proof }))
}

/// Takes the token of the one `Authorization: Bearer` header. RFC 9110 section 11.1: the scheme is
/// case-insensitive.
pub fn take_bearer(headers: &mut HeaderMap) -> Result<Option<Secret>, Rejection> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let token = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => bearer(value),
        _ => Err(Rejection::AmbiguousRequest("the request has more than one Authorization header")),
    };
    headers.remove(AUTHORIZATION);
    token.map(Some)
}

fn bearer(value: &HeaderValue) -> Result<Secret, Rejection> {
    // A header value has no control character but the tab.
    let text = str::from_utf8(value.as_bytes()).ok().filter(|text| text.is_ascii());
    let (scheme, token) = text.and_then(|text| text.split_once(' ')).ok_or_else(malformed)?;
    let token = token.trim_ascii();
    let has_space = [b' ', b'\t'].iter().any(|space| token.as_bytes().contains(space));
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || has_space {
        return Err(malformed());
    }
    Ok(Secret::from(token))
}

/// Takes the token out of the offered subprotocols, in any of its three forms. The others stay, in
/// their order.
///
/// RFC 6455 compares subprotocols with case. This function ignores case, because a token is secret
/// in every spelling.
fn take_subprotocol(headers: &mut HeaderMap) -> Result<Option<Secret>, Rejection> {
    let (kept, tokens) = sorted(headers);
    if tokens.is_empty() {
        return Ok(None);
    }
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Some(value) = HeaderValue::from_str(&kept).ok().filter(|_| !kept.is_empty()) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    match one_of(
        tokens.into_iter().collect::<Result<_, _>>()?,
        "more than one subprotocol carries a token",
    )? {
        Some(token) if token.is_empty() => Err(malformed()),
        token => Ok(token),
    }
}

/// Returns the remaining subprotocols, and the tokens in the list.
fn sorted(headers: &HeaderMap) -> (String, Vec<Result<Secret, Rejection>>) {
    let (mut kept, mut tokens, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for line in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        match line.to_str() {
            Ok(line) => lines.push(line),
            Err(_) => tokens.push(Err(Rejection::AmbiguousRequest("a subprotocol is not valid"))),
        }
    }
    let mut offers = offers(lines);
    while let Some(offer) = offers.next() {
        if offer.eq_ignore_ascii_case(MARKER) {
            tokens.push(offers.next().map(Secret::from).ok_or_else(malformed));
        } else if let Some(token) = behind(offer, PREFIX) {
            tokens.push(Ok(Secret::from(token)));
        } else if let Some(encoded) = behind(offer, ENCODED_PREFIX) {
            let encoded = behind(encoded, KUBERNETES).unwrap_or(encoded).trim_end_matches('=');
            tokens.push(URL_SAFE_NO_PAD.decode(encoded).map(Secret::new).map_err(|_| malformed()));
        } else {
            kept.push(offer);
        }
    }
    (kept.join(", "), tokens)
}

/// Returns the word `bearer` as the client offered it. Usher can answer with it if the upstream
/// accepts none of the client's other subprotocols.
pub fn marker(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines =
        headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|line| line.to_str().ok());
    let offered = offers(lines).find(|offer| offer.eq_ignore_ascii_case(MARKER))?;
    HeaderValue::from_str(offered).ok()
}

/// Returns the subprotocols. RFC 9110 section 5.6.1: several lines are one list, and empty elements
/// are ignored.
fn offers<'a>(lines: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    lines
        .into_iter()
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|offer| !offer.is_empty())
}

/// Returns the text after `prefix`, which may be in any case.
fn behind<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Takes out the cookie `name`. Every other cookie stays byte for byte, on its line.
pub fn take_cookie(headers: &mut HeaderMap, name: &str) -> Result<Option<Secret>, Rejection> {
    let (mut lines, mut values) = (Vec::new(), Vec::new());
    for line in headers.get_all(COOKIE) {
        let mut kept = Vec::new();
        let before = values.len();
        for pair in line.as_bytes().split(|byte| *byte == b';') {
            let (key, value) =
                pair.iter().position(|byte| *byte == b'=').map_or((pair, &b""[..]), |at| {
                    let (key, value) = pair.split_at(at);
                    (key, value.get(1..).unwrap_or_default())
                });
            if key.trim_ascii() == name.as_bytes() {
                values.push(Secret::new(unquoted(value.trim_ascii())));
            } else {
                kept.push(pair);
            }
        }
        if values.len() == before {
            lines.push(line.clone());
            continue;
        }
        let kept = kept.join(&b';');
        lines.extend(
            HeaderValue::from_bytes(kept.trim_ascii_start()).ok().filter(|line| !line.is_empty()),
        );
    }
    if !values.is_empty() {
        headers.remove(COOKIE);
        for line in lines {
            headers.append(COOKIE, line);
        }
    }
    one_of(values, "the request has the cookie of the credential twice")
}

/// Removes the quotes. RFC 6265 section 4.1.1: a value may have quotes around it, which are not
/// part of it.
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// Takes the value of the one test identity. Other spellings of the header are removed with those
/// of Usher's own headers.
fn take_bypass(headers: &mut HeaderMap, name: &HeaderName) -> Result<Option<Secret>, Rejection> {
    let values = headers.get_all(name).iter().map(|value| Secret::new(value.as_bytes())).collect();
    headers.remove(name);
    one_of(values, "the request has more than one test identity")
}

/// Removes the query parameter `name`; every other byte of the query stays as it was.
fn take_parameter(uri: &mut Uri, name: &str) -> Result<Option<Secret>, Rejection> {
    let Some(query) = uri.query() else { return Ok(None) };
    let (mut kept, mut values) = (Vec::new(), Vec::new());
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decoded(key).as_deref() == Some(name) {
            values.push(Secret::from(value));
        } else {
            kept.push(pair);
        }
    }
    if values.is_empty() {
        return Ok(None);
    }
    *uri = with_query(uri.path(), &kept)?;
    one_of(values, "the query has the credential twice")
}

/// Removes tickets from the query of a route that does not take them. A parameter of this name with
/// another kind of value is the application's, and stays.
pub fn remove_tickets(uri: &mut Uri, name: &str) -> Result<(), Rejection> {
    let Some(query) = uri.query() else { return Ok(()) };
    let is_ticket = |pair: &&str| {
        let Some((key, value)) = pair.split_once('=') else { return false };
        has_form_of_ticket(value) && decoded(key).as_deref() == Some(name)
    };
    if !query.split('&').any(|pair| is_ticket(&pair)) {
        return Ok(());
    }
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_ticket(pair)).collect();
    *uri = with_query(uri.path(), &kept)?;
    Ok(())
}

/// Returns a target with these parameters.
fn with_query(path: &str, kept: &[&str]) -> Result<Uri, Rejection> {
    let target = match kept {
        [] => path.to_owned(),
        kept => format!("{path}?{}", kept.join("&")),
    };
    target.parse().map_err(|_| Rejection::AmbiguousRequest("the request target is not well formed"))
}

fn parameter_value(written: &Secret) -> Result<Secret, Rejection> {
    written.expose_str().and_then(decoded).map(Secret::new).ok_or_else(malformed)
}

/// Decodes a parameter as a form decoder does, so that no spelling of it reaches the upstream.
pub(crate) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: u8| {
                    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
                };
                digit(rest.next()?)? << 4 | digit(rest.next()?)?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Returns the one value. Refuses two values, even equal ones: which one is checked would be left
/// to chance.
fn one_of(values: Vec<Secret>, why: &'static str) -> Result<Option<Secret>, Rejection> {
    let mut values = values.into_iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Rejection::AmbiguousRequest(why)),
    }
}

fn malformed() -> Rejection {
    Rejection::InvalidToken(InvalidToken::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers::tests::headers;

    fn text(secret: Option<Secret>) -> Option<String> {
        secret.map(|secret| secret.expose_str().unwrap().to_owned())
    }

    /// Returns the lines of a header that remain.
    fn left(headers: &HeaderMap, name: HeaderName) -> Vec<&str> {
        headers.get_all(name).iter().map(|line| line.to_str().unwrap()).collect()
    }

    fn take(uri: &str) -> (Option<String>, String) {
        let mut uri: Uri = uri.parse().unwrap();
        let ticket = take_parameter(&mut uri, "ticket").unwrap();
        (text(ticket), uri.to_string())
    }

    #[test]
    fn a_ticket_is_cut_out_and_the_rest_of_the_query_stays_as_it_was() {
        assert_eq!(take("/ws?ticket=abc"), (Some("abc".into()), "/ws".into()));
        assert_eq!(
            take("/ws?b=%20&ticket=abc&a=1&"),
            (Some("abc".into()), "/ws?b=%20&a=1&".into())
        );
        assert_eq!(take("/ws?%74icket=abc&x"), (Some("abc".into()), "/ws?x".into()));
        assert_eq!(take("/ws?tickets=abc"), (None, "/ws?tickets=abc".into()));
        assert_eq!(take("/ws?ticket"), (Some(String::new()), "/ws".into()));
        assert_eq!(take("/ws"), (None, "/ws".into()));
    }

    #[test]
    fn a_route_without_tickets_loses_them_and_keeps_other_parameters_of_this_name() {
        let ticket = "A".repeat(43);
        let left = |query: &str| {
            let mut uri: Uri = format!("/ws{}", query.replace('T', &ticket)).parse().unwrap();
            remove_tickets(&mut uri, "ticket").unwrap();
            uri.to_string().replace(&ticket, "T")
        };
        for (query, rest) in [
            ("?ticket=T", "/ws"),
            ("?ticket=eu.T&a=%20", "/ws?a=%20"),
            ("?a=1&%74icket=T&ticket=T&", "/ws?a=1&"),
            ("?ticket=42&ticket=T&x", "/ws?ticket=42&x"),
            ("?ticket=42", "/ws?ticket=42"),
            ("?ticket", "/ws?ticket"),
            ("?token=T", "/ws?token=T"),
            ("", "/ws"),
        ] {
            assert_eq!(left(query), rest, "{query}");
        }
    }

    #[test]
    fn two_tickets_are_no_ticket() {
        let mut uri: Uri = "/ws?ticket=a&ticket=b".parse().unwrap();
        assert!(matches!(take_parameter(&mut uri, "ticket"), Err(Rejection::AmbiguousRequest(_))));
    }

    #[test]
    fn a_token_in_the_query_is_read_as_a_form_decoder_reads_it() {
        assert_eq!(
            text(parameter_value(&Secret::from("a%2Eb%2ec")).ok()).as_deref(),
            Some("a.b.c")
        );
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert!(
                matches!(parameter_value(&Secret::from(bad)), Err(Rejection::InvalidToken(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_bearer_token_is_taken_out_of_the_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("bEaRer abc.def"));
        assert_eq!(take_bearer(&mut headers).unwrap().unwrap().expose(), b"abc.def");
        assert!(headers.is_empty());
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        assert!(matches!(take_bearer(&mut headers), Err(Rejection::AmbiguousRequest(_))));
        for bad in ["Basic abc", "Bearer", "Bearer ", "Bearer a b"] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(bad).unwrap());
            assert!(matches!(take_bearer(&mut headers), Err(Rejection::InvalidToken(_))), "{bad}");
        }
    }

    #[test]
    fn a_token_among_the_subprotocols_is_found_in_three_forms_and_the_real_ones_stay() {
        for (lines, token, rest) in [
            (&["bearer.a.b.c"][..], Some("a.b.c"), &[][..]),
            (&["chat.v1, bearer.a.b.c,chat.v2"], Some("a.b.c"), &["chat.v1, chat.v2"]),
            (&["bearer, a.b.c"], Some("a.b.c"), &[]),
            (&["Bearer,a.b.c,chat"], Some("a.b.c"), &["chat"]),
            (&["chat", "bearer", "a.b.c"], Some("a.b.c"), &["chat"]),
            (&["chat, bearer,, a.b.c,"], Some("a.b.c"), &["chat"]),
            (&["base64url.bearer.authorization.YS5iLmM"], Some("a.b.c"), &[]),
            (&["base64url.bearer.authorization.YS5iLmM1Ng=="], Some("a.b.c56"), &[]),
            (
                &["base64url.bearer.authorization.k8s.io.YS5iLmM, v4.channel.k8s.io"],
                Some("a.b.c"),
                &["v4.channel.k8s.io"],
            ),
            (&["BASE64URL.Bearer.Authorization.K8s.IO.YS5iLmM"], Some("a.b.c"), &[]),
            // Without a token, every byte stays.
            (&["chat ,  superchat", "bearers"], None, &["chat ,  superchat", "bearers"]),
            (
                &["base64url.bearer.phx.YS5iLmM", "phoenix"],
                None,
                &["base64url.bearer.phx.YS5iLmM", "phoenix"],
            ),
            (&[], None, &[]),
        ] {
            let fields: Vec<_> =
                lines.iter().map(|line| ("sec-websocket-protocol", *line)).collect();
            let mut headers = headers(&fields);
            assert_eq!(
                text(take_subprotocol(&mut headers).unwrap()).as_deref(),
                token,
                "{lines:?}"
            );
            assert_eq!(left(&headers, SEC_WEBSOCKET_PROTOCOL), rest, "{lines:?}");
        }
    }

    #[test]
    fn a_subprotocol_that_is_half_a_credential_or_two_is_refused() {
        for bad in [
            "bearer",
            "chat, bearer",
            "bearer.",
            "base64url.bearer.authorization.",
            "base64url.bearer.authorization.!",
            "a.b.c, bearer",
        ] {
            let mut headers = headers(&[("sec-websocket-protocol", bad)]);
            assert!(
                matches!(take_subprotocol(&mut headers), Err(Rejection::InvalidToken(_))),
                "{bad}"
            );
        }
        for bad in [
            "bearer.a, bearer.b",
            "bearer.a, bearer.a",
            "bearer, a, bearer, a",
            "bearer, a, base64url.bearer.authorization.YQ",
        ] {
            let mut headers = headers(&[("sec-websocket-protocol", bad)]);
            assert!(
                matches!(take_subprotocol(&mut headers), Err(Rejection::AmbiguousRequest(_))),
                "{bad}"
            );
        }
        let mut headers = HeaderMap::new();
        headers
            .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_bytes(b"chat, bearer.\xe4").unwrap());
        assert!(matches!(take_subprotocol(&mut headers), Err(Rejection::AmbiguousRequest(_))));
    }

    #[test]
    fn the_marker_is_answered_as_it_was_offered_and_the_token_never() {
        let of = |line| {
            marker(&headers(&[("sec-websocket-protocol", line)]))
                .map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(of("chat, Bearer, a.b.c").as_deref(), Some("Bearer"));
        assert_eq!(of("chat, bearer.a.b.c"), None);
    }

    #[test]
    fn one_cookie_is_cut_out_and_the_others_stay_byte_for_byte() {
        for (lines, token, rest) in [
            (&["access_token=a.b.c"][..], Some("a.b.c"), &[][..]),
            (&["a=1; access_token=a.b.c; b=\"2\""], Some("a.b.c"), &["a=1; b=\"2\""]),
            (&["access_token=a.b.c;b=2"], Some("a.b.c"), &["b=2"]),
            (&["access_token=a.b.c; b=2;"], Some("a.b.c"), &["b=2;"]),
            (&["a=1; access_token=\"a.b.c\""], Some("a.b.c"), &["a=1"]),
            (&["a=1; access_token = a.b.c"], Some("a.b.c"), &["a=1"]),
            (&["a = 1 ;;  b=2", "access_token=a=b", "c=3"], Some("a=b"), &["a = 1 ;;  b=2", "c=3"]),
            (&["access_token="], Some(""), &[]),
            (
                &["Access_Token=x; access_token2=y; xaccess_token=z"],
                None,
                &["Access_Token=x; access_token2=y; xaccess_token=z"],
            ),
            (&["a=access_token=x"], None, &["a=access_token=x"]),
            (&[], None, &[]),
        ] {
            let fields: Vec<_> = lines.iter().map(|line| ("cookie", *line)).collect();
            let mut headers = headers(&fields);
            assert_eq!(
                text(take_cookie(&mut headers, "access_token").unwrap()).as_deref(),
                token,
                "{lines:?}"
            );
            assert_eq!(left(&headers, COOKIE), rest, "{lines:?}");
        }
        for twice in
            [&["access_token=a; access_token=a"][..], &["access_token=a", "b=1; access_token=b"]]
        {
            let fields: Vec<_> = twice.iter().map(|line| ("cookie", *line)).collect();
            assert!(
                matches!(
                    take_cookie(&mut headers(&fields), "access_token"),
                    Err(Rejection::AmbiguousRequest(_))
                ),
                "{twice:?}"
            );
        }
    }

    #[test]
    fn a_cookie_that_is_not_text_stays_what_it_was() {
        let mut headers = HeaderMap::new();
        headers.insert(
            COOKIE,
            HeaderValue::from_bytes(b"name=J\xfcrgen; access_token=t; x=\xff").unwrap(),
        );
        assert_eq!(text(take_cookie(&mut headers, "access_token").unwrap()).as_deref(), Some("t"));
        assert_eq!(headers[COOKIE].as_bytes(), b"name=J\xfcrgen; x=\xff");
    }

    #[test]
    fn what_is_refused_leaves_the_request_too() {
        let config = crate::config::for_test("auth = [\"header\"]");
        let route = &config.routes[0];
        let (head, _) = http::Request::builder()
            .uri("/ws?access_token=a&x=1&access_token=b&ticket=c&ticket=d")
            .body(())
            .unwrap()
            .into_parts();
        for (method, fields) in [
            (
                Method::Header,
                &[("authorization", "Bearer s3cret"), ("authorization", "Bearer s3cret")][..],
            ),
            (Method::Header, &[("authorization", "Digest s3cret")]),
            (
                Method::Subprotocol,
                &[("sec-websocket-protocol", "bearer.s3cret, chat, bearer.s3cret")],
            ),
            (Method::Subprotocol, &[("sec-websocket-protocol", "bearer.s3cret, bearer")]),
            (
                Method::Subprotocol,
                &[("sec-websocket-protocol", "base64url.bearer.authorization.s3cret!")],
            ),
            (Method::Cookie, &[("cookie", "a=b; access_token=s3cret; access_token=s3cret")]),
            (Method::Bypass, &[("x-usher-bypass", "s3cret ada"), ("x-usher-bypass", "s3cret bob")]),
            (Method::Query, &[]),
            (Method::Ticket, &[]),
        ] {
            let mut parts = head.clone();
            parts.headers = headers(fields);
            assert!(super::take(method, route, &mut parts).is_err(), "{method:?}");
            assert!(
                !format!("{:?}", parts.headers).contains("s3cret"),
                "{method:?} {:?}",
                parts.headers
            );
            match method {
                Method::Query => assert_eq!(parts.uri, "/ws?x=1&ticket=c&ticket=d"),
                Method::Ticket => assert_eq!(parts.uri, "/ws?access_token=a&x=1&access_token=b"),
                _ => assert_eq!(parts.uri, head.uri),
            }
        }
    }
}
