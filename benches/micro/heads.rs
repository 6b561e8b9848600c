//! Measures request heads: the strict parser, and the rewrite into the upstream's request.

use std::hint::black_box;

use http::{HeaderValue, Uri};
use usher::auth;
use usher::base::clock::Now;
use usher::http::forwarding::Forwarding;
use usher::http::headers;
use usher::net::http1::head;
use usher::net::http1::host::Authority;
use usher::upstream::reserved_names::ReservedNames;
use usher::upstream::signed_context::identity_headers;
use usher::upstream::upgrade;

use crate::known;
use crate::support::Runner;

const SMALL: &str = "GET /ws HTTP/1.1\r\nHost: chat.example.com\r\n\
    Upgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A request head of a browser.
const BROWSER: &str = "GET /ws?room=1&ticket=Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXU \
    HTTP/1.1\r\nHost: chat.example.com\r\n\
    Connection: keep-alive, Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Upgrade: websocket\r\nOrigin: https://chat.example.com\r\nSec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.5\r\n\
    Cookie: theme=dark; consent=1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    Sec-Fetch-Dest: websocket\r\n\
    Sec-Fetch-Mode: websocket\r\nSec-Fetch-Site: same-origin\r\n\r\n";

pub fn run(runner: &mut Runner) {
    let config = known::config("");
    let heads = [("small", SMALL), ("browser", BROWSER)];
    for (name, text) in heads {
        runner.measure(&format!("head: parse, {name}"), || {
            head::parse_request(black_box(text.as_bytes()), &config.limits).unwrap()
        });
    }
    let reserved = ReservedNames::of(&config);
    let grant = known::grant(&config, Now::read());
    let host = Authority::parse("chat.example.com");
    let listener = config.listeners.first().unwrap();
    let context = HeaderValue::try_from("x".repeat(700)).unwrap();
    for (name, text) in heads {
        let parse = || head::parse_request(text.as_bytes(), &config.limits).unwrap().parts;
        // From the client's headers to the upstream's request, with a finished signed context.
        runner.measure_with(
            &format!("head: rewrite, {name}"),
            |rounds| (0..rounds).map(|_| parse()).collect(),
            |mut parts| {
                let credential =
                    auth::take_credential_of_any(grant.route(), &mut parts, |_| ()).1.unwrap();
                let forwarding = Forwarding::of(
                    &parts.headers,
                    host.as_ref(),
                    [192, 0, 2, 7].into(),
                    false,
                    listener,
                );
                let request_id = headers::request_id(&parts.headers, forwarding.is_trusted());
                headers::prepare(
                    &mut parts.headers,
                    grant.route(),
                    &reserved,
                    &forwarding,
                    &request_id,
                );
                parts.headers.insert(config.context.header.clone(), context.clone());
                for (name, value) in identity_headers(grant.route(), &grant) {
                    parts.headers.insert(name, value);
                }
                let uri: &Uri = &parts.uri;
                (upgrade::request(uri, &mut parts.headers), credential)
            },
        );
    }
}
